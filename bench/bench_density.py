"""Boxes of the previous frame to the knots of a warp, beside the zoom that they feed."""

from __future__ import annotations

import functools
from typing import Any

import peers
import pytest
import torch
from cases import DEVICES, FWHM, SHAPES, image, size_in_bytes
from paired import paired, trained
from torch import Tensor

from fastwarp import SeparableWarp
from fastwarp.saliency import box_density, box_knots

BOXES = 100
ZOOM = SHAPES["zoom"]
SMALLEST_SHARE = 20.0
"""An adaptive warp should cost what a fixed one does: knots under 5 % of the zoom's time."""


def boxes_of(batch: int, device: str) -> Tensor:
    """`[batch, 100, 4]`, of 5 to 200 pixels."""
    generator = torch.Generator().manual_seed(0)
    height, width = ZOOM.source
    centre = torch.rand(batch, BOXES, 2, generator=generator) * torch.tensor([width, height])
    extent = 5 + 195 * torch.rand(batch, BOXES, 2, generator=generator)
    return torch.cat([centre - extent / 2, centre + extent / 2], 2).to(device)


def _knots(boxes: Tensor) -> list[Tensor]:
    return list(box_knots(boxes, ZOOM.source, ZOOM.saliency, fwhm=FWHM))


def _through_the_map(boxes: Tensor) -> list[Tensor]:
    warp = SeparableWarp.from_saliency(box_density(boxes, ZOOM.source, ZOOM.saliency), FWHM)
    return [warp.knots_y, warp.knots_x]


@DEVICES
@pytest.mark.parametrize("batch", [1, 8])
def test_boxes_to_knots(benchmark: Any, batch: int, device: str) -> None:
    """A hundred boxes per image to knots."""
    boxes = boxes_of(batch, device)
    frame = image((batch, 3, *ZOOM.source), device=device)
    warp = SeparableWarp(*_knots(boxes))
    paired(
        benchmark,
        {
            "fastwarp": _knots,
            "fastwarp, through the map": _through_the_map,
            "plain torch": functools.partial(peers.box_knots, image_size=ZOOM.source, shape=ZOOM.saliency),
        },
        lambda: [boxes.clone()],
        moved=size_in_bytes([boxes, *_knots(boxes)]),
        tolerance=1e-5,
        targets={"the zoom it feeds": SMALLEST_SHARE},
        alone={"the zoom it feeds": lambda _: [warp.zoom(frame, ZOOM.size)]},
    )


@DEVICES
def test_boxes_to_knots_backward(benchmark: Any, device: str) -> None:
    """The same with the gradient to the boxes."""
    boxes = boxes_of(1, device)

    def interior(function: Any) -> Any:  # the ends are clamped: there the gradient is a matter of convention
        return lambda boxes: [knots[:, 1:-1] for knots in function(boxes)]

    plain = functools.partial(peers.box_knots, image_size=ZOOM.source, shape=ZOOM.saliency)
    paired(
        benchmark,
        {"fastwarp": trained(interior(_knots), [0]), "plain torch": trained(interior(plain), [0])},
        lambda: [boxes.clone()],
        moved=2 * size_in_bytes([boxes, *_knots(boxes)]),
        tolerance=1e-3,
    )


@DEVICES
def test_boxes_to_saliency(benchmark: Any, device: str) -> None:
    """A hundred boxes to a map."""
    boxes = boxes_of(1, device)
    paired(
        benchmark,
        {
            "fastwarp": lambda boxes: [box_density(boxes, ZOOM.source, ZOOM.saliency)],
            "plain torch": lambda boxes: [peers.box_density(boxes, ZOOM.source, ZOOM.saliency)],
        },
        lambda: [boxes.clone()],
        moved=size_in_bytes([boxes]) + 4 * ZOOM.saliency[0] * ZOOM.saliency[1],
        tolerance=1e-5,
    )
