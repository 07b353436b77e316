"""DownsizeNet in plain torch, as it is written without this library: what demo and bench compare with.

As DownsizeNet section 3.1 describes it: every convolution on the whole image, the features picked at the anchors and
concatenated with the relative distances, a 1x1 convolution, a sigmoid divided by its sum, and a weighted sum of the
four neighbours. Bilinear taps and half-pixel positions only; distances are encoded so that the start is bilinear.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-6
"""Distances are kept this far from 0 and 1, where their logit is infinite."""


class Tables(NamedTuple):
    """What depends on the two sizes only: first and second row and column of every target, and the distance map."""

    rows: tuple[Tensor, Tensor]
    columns: tuple[Tensor, Tensor]
    distances: Tensor


def tables(source: tuple[int, int], size: tuple[int, int], like: Tensor) -> Tables:
    """Taps `[h]` and `[w]` of both axes, and the encoded distances `[1, 4, h, w]` in the dtype of `like`."""
    (top, bottom, dy), (left, right, dx) = (_axis(*sides, like.device) for sides in zip(source, size, strict=True))
    dy, dx = dy[:, None], dx[None]
    near = torch.stack([(1 - dx) * (1 - dy), dx * (1 - dy), (1 - dx) * dy, dx * dy])
    return Tables((top, bottom), (left, right), torch.logit(near, SMALLEST)[None].to(like.dtype))


def _axis(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """First tap, second tap, and how far in [0, 1] the position lies past the first: half-pixel, the ends clamped."""
    centre = torch.arange(target, dtype=torch.float64, device=device) + 0.5
    position = (centre * source / target - 0.5).clamp(0, source - 1)
    first = position.floor().clamp(max=max(source - 2, 0)).long()
    return first, (first + 1).clamp(max=source - 1), position - first


def coefficients(
    image: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    fuse_weight: Tensor,
    fuse_bias: Tensor,
    at: Tables,
    mean: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """What each target takes from its four neighbours, `[B, 4, h, w]`.

    Args:
        image: `[B, C, H, W]`, of one dtype with the parameters.
        weights: of the 3x3 convolutions.
        biases: theirs.
        fuse_weight: `[4, F + 4, 1, 1]` of the 1x1 convolution of features and distances.
        fuse_bias: `[4]`.
        at: of the sizes of image and result.
        mean: `[C, 1, 1]`, subtracted from what the convolutions see.
        std: `[C, 1, 1]`, which that is divided by.
    """
    texture = image if mean is None or std is None else (image - mean) / std
    for weight, bias in zip(weights, biases, strict=True):
        texture = F.relu(F.conv2d(texture, weight, bias, padding=1))
    features = _pick(texture, at.rows[0], at.columns[0])
    distances = at.distances.expand(len(image), -1, -1, -1)
    values = torch.sigmoid(F.conv2d(torch.cat([features, distances], 1), fuse_weight, fuse_bias))
    return values / values.sum(1, keepdim=True)


def interpolate(image: Tensor, weights: Tensor, at: Tables) -> Tensor:
    """The weighted sum of the four neighbours, DownsizeNet eq. 1."""
    neighbours = [_pick(image, rows, columns) for rows in at.rows for columns in at.columns]
    terms = (near * weights[:, k : k + 1] for k, near in enumerate(neighbours))
    return functools.reduce(torch.add, terms)


def _pick(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The pixels at `rows` `[h]` and `columns` `[w]`."""
    return image[:, :, rows[:, None], columns]
