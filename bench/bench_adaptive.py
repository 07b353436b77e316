"""The whole adaptive path, a new warp for each image: saliency -> knots -> zoom -> inverse -> unzoom of five levels."""

from __future__ import annotations

import functools
from typing import Any

import peers
import pytest
import torch
from cases import (
    BEST,
    DEVICES,
    FWHM,
    SHAPES,
    TOLERANCES,
    image,
    pyramid,
    read_by_zoom,
    saliency,
    size_in_bytes,
    smooth_image,
    smooth_pyramid,
)
from paired import agree, paired, trained
from torch import Tensor

from fastwarp import SeparableWarp

FLOAT = torch.float32


def _adaptive(saliency: Tensor, image: Tensor, *levels: Tensor, size: tuple[int, int]) -> list[Tensor]:
    made = SeparableWarp.from_saliency(saliency, FWHM)
    return [made.zoom(image, size), *made.unzoom(list(levels))]


@DEVICES
@pytest.mark.parametrize(("batch", "layout"), [(1, "contiguous"), (1, "channels_last"), (8, "contiguous")])
def test_adaptive(benchmark: Any, batch: int, layout: str, device: str) -> None:
    """Saliency -> knots -> zoom -> inverse -> unzoom of five levels, a warp for each image."""
    shape = SHAPES["zoom"]
    cells = saliency(shape.saliency, batch, device)
    fixed = SeparableWarp.from_saliency(cells, FWHM)
    source = image((batch, 3, *shape.source), layout=layout, device=device)
    levels = pyramid(batch, FLOAT, layout, device)
    contenders: dict[str, Any] = {
        "fastwarp": functools.partial(_adaptive, size=shape.size),
        "plain torch": functools.partial(peers.adaptive, size=shape.size),
        "fastwarp, fixed warp": lambda _, x, *levels: [fixed.zoom(x, shape.size), *fixed.unzoom(list(levels))],
    }
    targets = {"plain torch": 6.0}
    if batch == 1 and layout == "contiguous":
        contenders["torch.compile"] = peers.compiled(contenders["plain torch"])
        targets["torch.compile"] = BEST
    moved = read_by_zoom(source, fixed, shape.size) + batch * 12 * shape.size[0] * shape.size[1]
    paired(
        benchmark,
        contenders,
        lambda: [x.clone() for x in (cells, source, *levels)],
        moved=moved + 2 * size_in_bytes(levels),
        tolerance=TOLERANCES[FLOAT],
        targets=targets if device == "cpu" else {"fastwarp, fixed warp": 1 / 1.2},
    )


@DEVICES
def test_adaptive_backward(benchmark: Any, device: str) -> None:
    """The adaptive path forward and backward, gradients to the saliency and the features."""
    shape = SHAPES["zoom"]
    cells = saliency(shape.saliency, 1, device)
    source = smooth_image((1, 3, *shape.source), device=device)
    levels = smooth_pyramid(device=device)
    wanted = [0, *range(2, 2 + len(levels))]
    inputs = [cells, source, *levels]
    forward = functools.partial(_adaptive, size=shape.size)
    ours, plain = (trained(f, wanted) for f in (forward, functools.partial(peers.adaptive, size=shape.size)))
    # In float32 plain torch's gradient to the saliency is several percent off; in float64 it judges ours.
    agree(ours(*inputs), plain(*(x.double() for x in inputs)), 1e-3, "plain torch in float64")
    paired(
        benchmark,
        {"fastwarp": ours, "plain torch": plain},
        lambda: [x.clone() for x in inputs],
        moved=2 * size_in_bytes([source]) + 24 * shape.size[0] * shape.size[1] + 5 * size_in_bytes(levels),
        tolerance=0.15,
        targets={"plain torch": BEST} if device == "cpu" else {"forward alone": 1 / 3},
        alone={"forward alone": forward},
    )
