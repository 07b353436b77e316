"""Zoom and unzoom inside a network that one has already: `fastwarp.attach` and `fastwarp.detach`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from fastwarp.attaching.adapter import Adapter
from fastwarp.attaching.host import Facts, Host
from fastwarp.attaching.presets import preset
from fastwarp.errors import FastwarpError, fail

__all__ = ["Adapter", "Facts", "Host", "attach", "detach"]


def attach(
    model: nn.Module,
    saliency: Any,
    host: Host | None = None,
    *,
    scale: float = 1.0,
    full: bool = False,
    kind: str = "separable",
    fwhm: float = 13.0,
    antialias: bool = False,
    jitter: tuple[float, float] = (7.5, 3.0),
) -> Adapter:
    """Zooms the images of a network and unzooms its feature maps, in place: the rest of it, its labels and its losses
    stay as they are (LZU section 3).

    The network gets one submodule more, `model.fastwarp`, whose bound methods are hooks. Copies, pickles, optimisers,
    DistributedDataParallel and torch.compile work as without it; checkpoints of the plain network load strictly. An
    adaptive saliency follows the targets in training, moved at random, and in evaluation the detections in the previous
    frame: of the same `streams`, which `model.fastwarp.next(streams=...)` names. docs/attach.md has more.

    Args:
        model: the network, before it is wrapped or compiled.
        saliency: where it should look:
            a `SeparableWarp` or `MeshWarp` (one), a map `[h, w]` or `[1, h, w]`, or a `FixedSaliency`: the same for all
            images, mirrored for flipped ones; a map that is an `nn.Parameter` is learned;
            an `AdaptiveSaliency`;
            a `LearnedSaliency`, or any module from images `[B, C, H, W]` to maps `[B, h, w]`;
            a `DownsizeNet`: images are resized by it, and nothing is unzoomed.
        host: where to zoom and unzoom, and how to read batches. None: by the class of the network.
        scale: of the zoomed image relative to the network's own. Other than 1 only for networks whose labels are
            relative to the image.
        full: take the pixels from the original images, before the network resizes them.
        kind: of warp to make of saliency: "separable" or "mesh".
        fwhm: full width at half maximum of the attraction kernel, in cells.
        antialias: average where the zoom reduces; see `fastwarp.functional.separable_zoom`.
        jitter: standard deviation in x and y of the moves of targets, in pixels of the adaptive saliency's `image_size`
            (LZU appendix A.6).

    Returns:
        `model.fastwarp`.

    Raises:
        FastwarpError: no preset for the class; a network that has a zoom already, is a container that runs all its
            submodules, or is wrapped; submodules that are not there; a scale that the network cannot run at.
        TypeError: wrong types.

    Examples:
        >>> import torch, fastwarp
        >>> class Net(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.backbone, self.head = torch.nn.Conv2d(3, 8, 3, 4, 1), torch.nn.Conv2d(8, 2, 1)
        ...     def forward(self, image):
        ...         return self.head(self.backbone(image))
        >>> net, saliency = Net(), torch.rand(31, 51)
        >>> adapter = fastwarp.attach(net, saliency, fastwarp.Host(zoom="backbone", unzoom="backbone"))
        >>> net(torch.rand(1, 3, 64, 96)).shape
        torch.Size([1, 2, 16, 24])
        >>> plain = fastwarp.detach(net)
    """
    _check_model(model)
    host = preset(model) if host is None else host
    if not isinstance(host, Host):
        raise TypeError(f"attach: host is {type(host).__name__}, expected a fastwarp.Host or None")
    options: dict[str, Any] = {"scale": scale, "full": full, "kind": kind, "fwhm": fwhm}
    adapter = Adapter(saliency, host, antialias=antialias, jitter=jitter, **options)
    zoomed = _submodule(model, "zoom", host.zoom)
    unzoomed = None if host.unzoom is None else _submodule(model, "unzoom", host.unzoom)
    informed = _submodule(model, "facts_at", host.facts_at)
    like = next(model.parameters(), None)
    if like is not None:
        adapter.to(like.device)
    model.add_module("fastwarp", adapter.train(model.training))
    model.register_forward_pre_hook(adapter.begin, with_kwargs=True)
    if host.facts is not None and host.facts_at:
        _register(informed, adapter.inform, host.after)
    _register(zoomed, adapter.zoom, False)
    if unzoomed is not None:
        _register(unzoomed, adapter.unzoom, not host.into)
    model.register_forward_hook(adapter.end, with_kwargs=True)
    return adapter


def detach(model: nn.Module) -> nn.Module:
    """Undoes `attach`: the network is what it was, with what it learned since.

    Raises:
        FastwarpError: nothing is attached.

    Returns:
        The network.
    """
    adapter = getattr(model, "fastwarp", None)
    if not isinstance(adapter, Adapter):
        raise FastwarpError(f"detach: nothing is attached to this {type(model).__name__}")
    for tables, key in [(tables, key) for tables, key, hook in _hooks(model) if hook is adapter]:
        for table in tables:
            table.pop(key, None)
    del model.fastwarp
    return model


def _register(module: nn.Module, hook: Any, after: bool) -> None:
    register = module.register_forward_hook if after else module.register_forward_pre_hook
    register(hook, with_kwargs=True)


def _hooks(model: nn.Module) -> Iterator[tuple[tuple[dict, ...], int, Any]]:
    """Every forward hook of the network that is a bound method: the tables it is in, its key, and the owner."""
    for module in model.modules():
        after = (module._forward_hooks, module._forward_hooks_with_kwargs, module._forward_hooks_always_called)
        before = (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs)
        for tables in (after, before):
            for key, hook in tables[0].items():
                owner = getattr(hook, "__self__", None)
                if owner is not None:
                    yield tables, key, owner


def _check_model(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"attach: model is {type(model).__name__}, expected an nn.Module")
    name = type(model).__name__
    if isinstance(model, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        raise fail("attach", "model", f"a {name}, which runs every module in it", "a module around it")
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    if isinstance(model, wrappers) or hasattr(model, "_orig_mod"):
        raise fail("attach", "model", f"a {name}", "the network itself, before it is wrapped or compiled")
    if hasattr(model, "fastwarp") or any(isinstance(owner, Adapter) for _, _, owner in _hooks(model)):
        raise FastwarpError(f"attach: this {name} has a zoom already, use fastwarp.detach first")


def _submodule(model: nn.Module, argument: str, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        there = ", ".join(name for name, _ in model.named_children())
        raise fail("Host", argument, repr(name), f"a submodule of {type(model).__name__}, which has {there}") from None
