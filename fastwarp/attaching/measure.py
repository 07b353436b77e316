"""What `attach` adds to a network: the time inside its hooks, beside that of the plain forward pass.

The difference of two whole forward passes drowns in their noise.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastwarp.attaching import attach, detach
from fastwarp.attaching.adapter import Adapter
from fastwarp.attaching.presets import preset
from fastwarp.errors import FastwarpError
from fastwarp.saliency import AdaptiveSaliency, LearnedSaliency

KINDS: dict[str, Callable[[tuple[int, int]], Any]] = {
    "fixed": lambda size: torch.rand(31, 51),
    "adaptive": AdaptiveSaliency,
    "learned": lambda size: LearnedSaliency(),
}
"""Saliencies that are measured, by what `fastwarp bench --saliency` calls them."""
EXTRAS = ("torchvision", "transformers")
"""Frameworks that are extras of fastwarp, of the same names."""
WARMUP = 2
"""Rounds that are not counted: the first compile."""


def measure(model: nn.Module, run: Callable[[], Any], saliencies: dict[str, Any], rounds: int) -> dict[str, float]:
    """Times a network plain and with each saliency attached, in turns.

    Args:
        model: a network with a preset, in evaluation; it is plain again at the end.
        run: calls it.
        saliencies: by names of one's own, see `fastwarp.attach`.
        rounds: of each.

    Returns:
        Median milliseconds: `plain` of the plain forward pass, and by the names the time inside the hooks, of a pass
        that is not the first. An adaptive saliency sees 20 detections in each frame, whatever the network finds.
    """
    host = preset(model)
    if host.found is not None:
        host = dataclasses.replace(host, found=_twenty_detections)
    times: dict[str, list[float]] = {name: [] for name in ("plain", *saliencies)}
    with torch.no_grad():
        for _ in range(rounds + WARMUP):
            clock = _Clock(model)
            clock.start()
            run()
            clock.stop()
            times["plain"].append(clock.spent)
            for name, saliency in saliencies.items():
                adapter = attach(model, saliency, host, fwhm=10.0)
                run()  # the first pass after `attach` makes what later ones keep
                clock = _Clock(model)
                handles = _around_hooks(model, adapter, clock)
                try:
                    run()
                finally:
                    for handle in handles:
                        handle.remove()
                    detach(model)
                times[name].append(clock.spent)
    return {name: 1e3 * statistics.median(values[WARMUP:]) for name, values in times.items()}


class _Clock:
    """Sums the time between its starts and stops, of a GPU too."""

    def __init__(self, model: nn.Module) -> None:
        self.spent = self.began = 0.0
        first = next(model.parameters(), None)
        self.device = torch.device("cpu") if first is None else first.device

    def start(self, *_: Any) -> None:
        self.began = self._now()

    def stop(self, *_: Any) -> None:
        self.spent += self._now() - self.began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _around_hooks(model: nn.Module, adapter: Adapter, clock: _Clock) -> list[Any]:
    """Starts the clock before the hooks of the modules that the adapter has hooks at, and stops it after them."""
    host = adapter.host
    places = {("", False), ("", True), (host.zoom, False)}
    if host.unzoom is not None:
        places.add((host.unzoom, not host.into))
    if host.facts is not None and host.facts_at:
        places.add((host.facts_at, host.after))
    handles: list[Any] = []
    for name, after in places:
        module = model.get_submodule(name)
        register = module.register_forward_hook if after else module.register_forward_pre_hook
        handles += [register(clock.start, prepend=True), register(clock.stop)]
    return handles


def _twenty_detections(output: Any, args: tuple, kwargs: dict) -> tuple[list[Tensor], list[Tensor]]:
    corner = torch.linspace(0.1, 0.8, 20)[:, None].expand(-1, 2)
    return [torch.cat([corner, corner + 0.1], 1)], [torch.full((20,), 0.9)]


# --- networks by name -------------------------------------------------------------------------------------------------


def report(name: str, size: tuple[int, int], kinds: Sequence[str], rounds: int, device: str) -> str:
    """Measures a network by its name; `fastwarp bench`.

    Args:
        name: dotted, of a class or a function that makes a network with a preset.
        size: (height, width) of the image.
        kinds: of saliency.
        rounds: of each.
        device: of the network.

    Returns:
        A table: milliseconds of the plain forward pass, and of the hooks, also in percent of that.

    Raises:
        FastwarpError: what has that name is not installed, not there, or makes no network with a preset.
    """
    model = made(name).to(device)
    run = runner(model, torch.rand(1, 3, *size, device=device))
    medians = measure(model, run, {kind: KINDS[kind](size) for kind in kinds}, rounds)
    return table(f"{type(model).__name__} at {size[0]}x{size[1]}", medians)


def table(title: str, medians: dict[str, float]) -> str:
    """Medians of `measure` as text."""
    plain = medians["plain"]
    lines = [f"{title}: {plain:.1f} ms"]
    lines += [f"  {k:10s}{v:8.2f} ms{100 * v / plain:8.2f} %" for k, v in medians.items() if k != "plain"]
    return "\n".join(lines)


def made(name: str) -> nn.Module:
    """The network with a preset that a dotted name makes, without weights, in evaluation."""
    make = _named(name)
    if not callable(make):
        raise FastwarpError(f"{name} is {type(make).__name__}, expected a class or a function that makes a network")
    options: dict[str, Any] = {}
    if hasattr(make, "config_class"):  # transformers
        arguments: tuple[Any, ...] = (make.config_class(),)
    else:
        arguments = ()
        known = inspect.signature(make).parameters
        options = {option: None for option in ("weights", "weights_backbone") if option in known}  # torchvision
    try:
        model = make(*arguments, **options)
    except ImportError as error:  # the framework lacks a library of its own; its message has several lines
        raise FastwarpError(f"{name} cannot be made: {' '.join(str(error).split())}") from None
    except (TypeError, ValueError, OSError) as error:
        expected = "name a function of your own that makes it without arguments"
        raise FastwarpError(f"{name} makes no network by itself ({error}): {expected}") from None
    if not isinstance(model, nn.Module):
        raise FastwarpError(f"{name} makes {type(model).__name__}, expected an nn.Module")
    preset(model)  # raises if `attach` does not know it
    return model.eval()


def _named(name: str) -> Any:
    """What has a dotted name."""
    parts = name.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise FastwarpError(f"{name!r} is no dotted name, as torchvision.models.detection.retinanet_resnet50_fpn is")
    for count in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:count])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise FastwarpError(f"{module} cannot be imported: {error}") from None
            continue
        for part in parts[count:]:
            if not hasattr(found, part):
                raise FastwarpError(f"{module} has no {'.'.join(parts[count:])}")
            found = getattr(found, part)
        return found
    install = f": pip install 'fastwarp[{parts[0]}]'" if parts[0] in EXTRAS else ""
    raise FastwarpError(f"{parts[0]} is not installed{install}")


def runner(model: Any, image: Tensor) -> Callable[[], Any]:
    """Calls a network with an image `[1, 3, H, W]` as its framework does, without resizing it.

    Raises:
        FastwarpError: the network does not take such an image.
    """
    call = _call(model, image)
    try:
        with torch.no_grad():
            call()
    except (RuntimeError, TypeError, ValueError, LookupError) as error:
        (height, width), reason = image.shape[2:], str(error).partition("\n")[0]
        raise FastwarpError(
            f"{type(model).__name__} takes no image of {height} x {width}: {reason} "
            "(the strides of many networks must divide its sides: try multiples of 32)"
        ) from error
    return call


def _call(model: Any, image: Tensor) -> Callable[[], Any]:
    size = image.shape[2:]
    if any(kind.__module__.startswith("torchvision.models.detection.") for kind in type(model).__mro__):
        model.transform.min_size, model.transform.max_size = (min(size),), max(size)
        return lambda: model(list(image))
    if hasattr(model, "main_input_name"):
        return lambda: model(**{model.main_input_name: image})
    return lambda: model(image)
