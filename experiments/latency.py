"""What a zoom adds to the time of an image: `python experiments/latency.py`, on a machine with nothing else to do."""

from __future__ import annotations

import functools
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import detector
import torch
from presets import DETECTORS, detectors
from result_page import PAGES, table
from runs import RESULTS
from torch import Tensor

import fastwarp

RESULT = RESULTS / "latency.json"
ROUNDS, CALLS = 40, 5
# LZU table 1 at 0.5x, more than uniform; DownsizeNet section 5.5, 3 layers, more than bilinear.
PAPER = {"fixed": "+0.4", "adaptive": "+3.3", "fixed, boxes unzoomed": "+1.9 (FOVEA)", "DownsizeNet": "+3.8"}
NAMES = ("bilinear", "uniform", "fixed", "fixed, boxes unzoomed", "adaptive", "nonseparable", "DownsizeNet")
TEXT = """# What does a zoom add to the time of an image?

## What the paper says

LZU at half size on Argoverse-HD takes 36.0 ms an image uniform, 36.4 fixed and 39.3 adaptive, and FOVEA 37.9 (table 1).
A DownsizeNet of three layers takes 35.2 ms where bilinear interpolation takes 31.4 (section 5.5).

## What was run

The detector of [detection](detection.md) on one image of {source}, at {size}, with detections as boxes of the source:
one thread of a CPU, medians of {rounds} interleaved rounds of {calls} images. `uniform` is antialiased, and so are the
zooms; `bilinear` is not. The adaptive zooms are given the boxes of the frame before. The network is small, so the
milliseconds say more than the shares. Measured with torch {torch} and fastwarp {fastwarp}, {machine}.

{table}

## What agrees, what does not

{found}

The latency of the operators at the sizes of the papers, on all pyramids and beside their peers, is in
[performance](../performance.md).
"""
FOUND = """
A fixed zoom with the unzoom of three maps adds 0.6 ms, an adaptive one 0.7, as little as in the paper in milliseconds,
though on a CPU and at a sixth of its size in each direction. With maps that stay zoomed, and boxes unzoomed in their
place, a fixed zoom adds 0.1 ms. A mesh, whose inverse is computed anew for every image here, adds 4.2 ms;
`warp.freeze` keeps it where the mesh does not change. DownsizeNet looks at every pixel of the source with three
convolutions of 16 channels, and so takes as long again as this small network.
"""


def pipelines() -> dict[str, Callable[[Tensor], Any]]:
    """From an image to boxes, by name of the set-up."""
    found: dict[str, Callable[[Tensor], Any]] = {}
    for name, setup in detectors("small", *NAMES).items():
        data = detector.scenes(20, setup.source, 0, setup.pitch)
        model = detector.Model(setup, len(data.classes)).eval()
        prior = data.prior(setup.amplitude)
        kept = None if setup.warp == "adaptive" else detector.warp_of(setup, prior, None)
        found[name] = functools.partial(detect, model, setup, prior, data.boxes[:1], kept)
    return found


def detect(
    model: detector.Model, setup: detector.Setup, prior: Tensor, boxes: list[Tensor], kept: Any, image: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The boxes of an image, with a warp that is kept, or made from boxes."""
    warp = detector.warp_of(setup, prior, boxes) if setup.warp == "adaptive" else kept
    return detector.detect(model, image, warp, setup)


def measure() -> dict[str, Any]:
    """Milliseconds of an image: medians over rounds, by name."""
    torch.set_num_threads(1)
    found, setup = pipelines(), DETECTORS["small"]
    image = torch.randint(0, 256, (1, 3, *setup.source), dtype=torch.uint8)
    times: dict[str, list[float]] = {name: [] for name in found}
    for function in found.values():
        for _ in range(CALLS):
            function(image)
    for _ in range(ROUNDS):
        for name, function in found.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                function(image)
            times[name].append(1e3 * (time.perf_counter() - start) / CALLS)
    return {name: round(statistics.median(values), 3) for name, values in times.items()}


def main() -> None:
    """Writes results/latency.json and the page."""
    result = {"torch": torch.__version__, "fastwarp": fastwarp.__version__, "machine": platform.machine()}
    result |= {"milliseconds": measure()}  # type: ignore[dict-item]
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    write(result)


def write(result: dict[str, Any]) -> None:
    """The page."""
    times = result["milliseconds"]
    rows = []
    for name, value in times.items():
        base = "bilinear" if name == "DownsizeNet" else "uniform"
        more = "-" if name in ("bilinear", "uniform") else f"{value - times[base]:+.2f} ({base})"
        rows.append([name, f"{value:.2f}", more, PAPER.get(name, "-")])
    setup = DETECTORS["small"]
    content = {
        "source": "{1} x {0}".format(*setup.source),
        "size": "{1} x {0}".format(*setup.size),
        "rounds": ROUNDS,
        "calls": CALLS,
        "table": table(["", "ms", "more than", "the paper's"], rows),
        "found": FOUND.strip(),
    }
    (PAGES / "latency.md").write_text(
        TEXT.format(**content, **{k: result[k] for k in ("torch", "fastwarp", "machine")})
    )


if __name__ == "__main__":
    main()
