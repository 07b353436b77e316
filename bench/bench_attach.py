"""What `fastwarp.attach` adds to a detector: the time inside its hooks, beside that of the plain forward pass.

The difference of two whole forward passes drowns in their noise. Run it in the environment of `make test-integrations`:

    .venv-integrations/bin/python bench/bench_attach.py [--rounds 20] [--out bench/results/attach.json]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastwarp
from fastwarp.attaching import Adapter
from fastwarp.attaching.presets import preset
from fastwarp.saliency import AdaptiveSaliency, LearnedSaliency

SIZES = ((600, 960), (320, 512))
HOOKS = ("begin", "inform", "zoom", "unzoom", "end")
spent = 0.0


def timed(hook: Callable[..., Any]) -> Callable[..., Any]:
    """The hook, which adds its time to `spent`."""

    @functools.wraps(hook)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        global spent
        start = time.perf_counter()
        try:
            return hook(*args, **kwargs)
        finally:
            spent += time.perf_counter() - start

    return wrapper


def detector(size: tuple[int, int]) -> nn.Module:
    """RetinaNet-R50-FPN without weights, which finds nothing: suppression would be noise."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "integrations"))
    import shims  # noqa: F401
    from torchvision.models.detection import retinanet_resnet50_fpn

    options = {"min_size": min(size), "max_size": max(size), "score_thresh": 0.99}
    return retinanet_resnet50_fpn(weights=None, weights_backbone=None, **options).eval()


def found(output: Any, args: tuple, kwargs: dict) -> tuple[list[Tensor], list[Tensor]]:
    """Twenty detections, whatever the network says."""
    corner = torch.linspace(0.1, 0.8, 20)[:, None].expand(-1, 2)
    return [torch.cat([corner, corner + 0.1], 1)], [torch.full((20,), 0.9)]


def measure(size: tuple[int, int], rounds: int) -> dict[str, float]:
    """Milliseconds of the plain forward pass, and inside the hooks for each kind of saliency."""
    global spent
    image = [torch.rand(3, *size)]
    plain = detector(size)
    kinds: dict[str, Any] = {
        "fixed": torch.rand(31, 51),
        "adaptive": AdaptiveSaliency(size),
        "learned": LearnedSaliency(),
    }
    attached = {}
    for name, saliency in kinds.items():
        attached[name] = detector(size)
        fastwarp.attach(attached[name], saliency, dataclasses.replace(preset(plain), found=found), fwhm=10.0)
    times: dict[str, list[float]] = {name: [] for name in ("plain", *attached)}
    with torch.no_grad():
        for turn in range(rounds + 2):
            start = time.perf_counter()
            plain(image)
            taken = {"plain": time.perf_counter() - start}
            for name, model in attached.items():
                spent = 0.0
                model(image)
                taken[name] = spent
            if turn >= 2:  # the first ones compile
                for name, value in taken.items():
                    times[name].append(1e3 * value)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Prints a table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for name in HOOKS:
        setattr(Adapter, name, timed(getattr(Adapter, name)))
    results = {}
    for size in SIZES:
        median = measure(size, options.rounds)
        plain = median.pop("plain")
        results[f"{size[0]}x{size[1]}"] = {"plain_ms": plain, "hooks_ms": median}
        print(f"RetinaNet-R50-FPN at {size[0]}x{size[1]}: {plain:.1f} ms")
        for name, value in median.items():
            print(f"  {name:10s} {value:8.2f} ms {100 * value / plain:8.2f} %")
    if options.out is not None:
        versions = {"torch": torch.__version__, "fastwarp": fastwarp.__version__, "python": platform.python_version()}
        about = {"machine": platform.processor() or platform.machine(), "threads": options.threads, **versions}
        options.out.write_text(json.dumps({"about": about, "rounds": options.rounds, "results": results}, indent=1))


if __name__ == "__main__":
    main()
