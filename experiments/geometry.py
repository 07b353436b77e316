"""How exact are the paper's approximations? `python experiments/geometry.py`: seconds, nothing is trained."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import detector
import runs
import torch
import torch.nn.functional as F
from presets import DETECTORS
from result_page import PAGES, table
from segmenter import STRIDES
from torch import Tensor

from fastwarp import SeparableWarp
from fastwarp.functional import axis_map
from fastwarp.saliency import box_density

SIZE = (600, 960)  # of the network's image, LZU at half size
SHAPE, FWHM = (31, 51), 22.0  # of LZU's fixed warp for detection (appendix A.6)
LEVELS = {2: 0.0274, 4: 0.0065, 8: 0.0028}  # the paper's error by ratio
KNOTS = ((4, 6), (8, 13), (16, 26), (31, 51), (61, 101), (121, 201))
FINE = 16  # times as many cells for what is taken to be the warp itself
RESULT = runs.RESULTS / "geometry.json"
TEXT = """# How exact are the paper's approximations?

## What the paper says

LZU computes the inverse warp once, at the image's size, and shrinks it bilinearly for the levels of a pyramid. Its
mean error (eq. 18) is 0.0274, 0.0065 and 0.0028 pixels at ratios 2, 4 and 8. The warp itself is replaced by one that
is linear between h x w knots, which shows "once h, w decrease beyond a certain threshold" (fig. 10).

## What was run

The fixed warp of generated scenes with the paper's settings (31 x 51 cells, fwhm 22, a = 1, b = 64 for a width of
1920), for an image of 960 x 600, in float64. Argoverse-HD's own saliency is not at hand: the sizes of the errors can
be compared, not their digits.

## Shrinking the inverse

Mean and largest distance in pixels of the image between the inverse at a level's own grid, and the inverse of the
image's grid shrunk bilinearly, with the grids' first and last points in the same places (`align_corners=True`) or
not.

{levels}

## Piecewise linear

Mean and largest distance in pixels between the warp (knots {fine} times as dense) and the one that is linear between
h x w of its knots; and the share of the largest magnification of an axis that is left.

{knots}

## Each map's own grid

The fixed warp of the [detection](detection.md) experiment, unzoomed by each map's own grid: mean and largest
distance, in cells of the map, between where a cell is and the place that it shows, by axis.

{cells}

## What agrees, what does not

With corners aligned the error is below the paper's: a few hundredths of a pixel at worst. How large it is depends on
the warp, and it does not fall steadily with the ratio here. Without (the default of `F.interpolate`) the shrunk grid
has other points than the level's, and what is read is off by more the smaller the level is. fastwarp computes each
level's inverse at its own grid and has neither error. The aligned one is small beside that of the grid itself in a
strided network, which is pixels rather than hundredths: see [registration](../registration.md).

The paper's 31 x 51 knots are enough for a warp as smooth as this: half a pixel at worst. A quarter of them in each
direction is off by pixels, which agrees with fig. 10. Zoom and unzoom stay each other's inverse with any number of
knots.
"""


def saliency(shape: tuple[int, int]) -> Tensor:
    """Mean saliency of generated scenes, float64."""
    scenes = detector.scenes(200, (192, 320), 0, 0.0)
    boxes = [boxes.double() for boxes in scenes.boxes if len(boxes)]
    return box_density(boxes, (192, 320), shape, bandwidth=64 * 320 / 1920).mean(0, keepdim=True)


def levels() -> list[dict[str, Any]]:
    """Eq. 18 for each ratio."""
    warp = SeparableWarp.from_saliency(saliency(SHAPE), FWHM)
    pixels = torch.tensor([SIZE[1] - 1, SIZE[0] - 1]) / 2  # grids are from -1 to 1
    whole, rows = warp.inverse_grid(SIZE), []
    for ratio, paper in LEVELS.items():
        size = (SIZE[0] // ratio, SIZE[1] // ratio)
        row: dict[str, Any] = {"ratio": ratio, "paper": paper}
        for aligned in (True, False):
            options = {"mode": "bilinear", "align_corners": aligned}
            shrunk = F.interpolate(whole.permute(0, 3, 1, 2), size, **options).permute(0, 2, 3, 1)
            error = ((warp.inverse_grid(size) - shrunk) * pixels).norm(dim=3)
            row["aligned" if aligned else "not aligned"] = [error.mean().item(), error.max().item()]
        rows.append(row)
    return rows


def knots() -> list[dict[str, Any]]:
    """The warp with few knots beside the one with many."""
    dense = tuple(FINE * (n - 1) + 1 for n in SHAPE)
    truth = SeparableWarp.from_saliency(saliency(dense), FWHM * FINE)  # type: ignore[arg-type]
    pixels, rows = torch.tensor([SIZE[1] - 1, SIZE[0] - 1]) / 2, []
    for shape in KNOTS:
        axes = [
            F.interpolate(one[None], n, mode="linear", align_corners=True)[0]
            for one, n in zip((truth.knots_y, truth.knots_x), shape, strict=True)
        ]
        warp = SeparableWarp(*axes)
        error = ((warp.grid(SIZE) - truth.grid(SIZE)) * pixels).norm(dim=3)
        most = [w.magnification(SIZE).max().item() for w in (warp, truth)]
        row = {
            "knots": shape,
            "mean": error.mean().item(),
            "max": error.max().item(),
            "magnification": most[0] / most[1],
        }
        rows.append(row)
    return rows


def cells() -> list[dict[str, Any]]:
    """What a cell shows, from where it is, for each stride and axis."""
    setup = dataclasses.replace(DETECTORS["small"], warp="fixed")
    scenes = detector.scenes(setup.length, setup.source, 0, setup.pitch)
    warp = detector.warp_of(setup, scenes.prior(setup.amplitude).double(), None)
    assert warp is not None
    rows = []
    for stride in STRIDES:
        row: dict[str, Any] = {"stride": stride}
        for name, knots, pixels in zip("yx", (warp.knots_y, warp.knots_x), setup.size, strict=True):
            count = -(-pixels // stride)
            cell = torch.arange(count, dtype=torch.float64)[None]
            read = axis_map(knots, cell / (count - 1), inverse=True) * (count - 1)
            shown = axis_map(knots, (stride * read / (pixels - 1)).clamp(max=1)) * (pixels - 1)
            error = (shown / stride - cell).abs()
            row[name] = [error.mean().item(), error.max().item()]
        rows.append(row)
    return rows


def main() -> None:
    """Writes results/geometry.json and the page."""
    result = {"image": SIZE, "levels": levels(), "knots": knots(), "cells": cells()}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    write(result)


def write(result: dict[str, Any]) -> None:
    """The page."""
    head = ["ratio", "corners aligned", "not aligned", "the paper's mean"]
    errors = [
        [str(r["ratio"]), *("{:.4f}, {:.4f}".format(*r[key]) for key in ("aligned", "not aligned")), str(r["paper"])]
        for r in result["levels"]
    ]
    few = [
        ["{} x {}".format(*r["knots"]), f"{r['mean']:.3f}", f"{r['max']:.3f}", f"{100 * r['magnification']:.1f} %"]
        for r in result["knots"]
    ]
    off = [[str(r["stride"]), *("{:.2f}, {:.2f}".format(*r[axis]) for axis in "yx")] for r in result["cells"]]
    tables = {
        "cells": table(["stride", "vertical", "horizontal"], off),
        "levels": table(head, errors),
        "knots": table(["h x w", "mean", "largest", "magnification"], few),
    }
    PAGES.mkdir(parents=True, exist_ok=True)
    (PAGES / "geometry.md").write_text(TEXT.format(fine=FINE, **tables))


if __name__ == "__main__":
    main()
