"""The geometry alone: saliency to knots, and the inverse for all rows and columns of a pyramid."""

from __future__ import annotations

import functools
from typing import Any

import peers
import pytest
import torch
from cases import DEVICES, FWHM, PYRAMID, SHAPES, saliency, size_in_bytes, warp
from paired import paired, trained
from torch import Tensor

from fastwarp import functional

BATCHES = pytest.mark.parametrize("batch", [1, 8])


def _knots(saliency: Tensor) -> list[Tensor]:
    return list(functional.lz_knots(saliency, FWHM))


@DEVICES
@BATCHES
@pytest.mark.parametrize("name", SHAPES)
def test_knots(benchmark: Any, name: str, batch: int, device: str) -> None:
    """Saliency `[B, h, w]` to knots, LZU eq. 3 and 4."""
    source = saliency(SHAPES[name].saliency, batch, device)
    paired(
        benchmark,
        {"fastwarp": _knots, "plain torch": peers.knots},
        lambda: [source.clone()],
        moved=size_in_bytes([source, *_knots(source)]),
        tolerance=1e-5,
    )


@DEVICES
def test_knots_backward(benchmark: Any, device: str) -> None:
    """Saliency to knots, and the gradient of the knots to the saliency."""
    source = saliency(SHAPES["zoom"].saliency, 1, device)
    paired(
        benchmark,
        {"fastwarp": trained(_interior(_knots), [0]), "plain torch": trained(_interior(peers.knots), [0])},
        lambda: [source.clone()],
        moved=2 * size_in_bytes([source, *_knots(source)]),
        tolerance=1e-4,
    )


def _interior(function: Any) -> Any:
    """Without the end knots, which are clamped: there the gradient is a matter of convention."""
    return lambda saliency: [knots[:, 1:-1] for knots in function(saliency)]


@DEVICES
@BATCHES
def test_inverse(benchmark: Any, batch: int, device: str) -> None:
    """T~^-1 for every row and column of five levels, LZU eq. 7: what unzooming needs of the warp."""
    made = warp(SHAPES["zoom"].saliency, batch, device)
    sizes = list(PYRAMID)

    def windows(knots_y: Tensor, knots_x: Tensor) -> list[Tensor]:
        return [functional.separable_windows(knots_y, knots_x, sizes, sizes, inverse=True)[:, 0]]

    knots = [made.knots_y, made.knots_x]
    paired(
        benchmark,
        {"fastwarp": windows, "plain torch": functools.partial(peers.centres, sizes=sizes)},
        lambda: [axis.clone() for axis in knots],
        moved=size_in_bytes(knots) + 2 * size_in_bytes(windows(*knots)),
        tolerance=1e-4,
    )


@DEVICES
def test_inverse_backward(benchmark: Any, device: str) -> None:
    """The same with the gradient to the knots."""
    made = warp(SHAPES["zoom"].saliency, 1, device)
    sizes = list(PYRAMID)

    def windows(knots_y: Tensor, knots_x: Tensor) -> list[Tensor]:
        found = functional.separable_windows(knots_y, knots_x, sizes, sizes, inverse=True)[:, 0]
        return [found * torch.ones_like(found)]

    knots = [made.knots_y, made.knots_x]
    paired(
        benchmark,
        {
            "fastwarp": trained(windows, [0, 1]),
            "plain torch": trained(functools.partial(peers.centres, sizes=sizes), [0, 1]),
        },
        lambda: [axis.clone() for axis in knots],
        moved=2 * size_in_bytes([*knots, *windows(*knots)]),
        tolerance=1e-3,
    )
