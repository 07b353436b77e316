"""The adaptive separable path in plain torch, as it is written without this library: what the demo compares with.

Knots by padded convolutions, the forward grid by `F.interpolate` of the knots, the inverse grid by `torch.searchsorted`
(exact, at every level's own size), and one `F.grid_sample` per map. Anti-crop only; geometry in the saliency's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Knots = tuple[Tensor, Tensor]


def from_saliency(saliency: Tensor, fwhm: float) -> Knots:
    """Knots `[B, h]` and `[B, w]` of the LZ warp of `[B, h, w]`, LZU eq. 3 and 4."""
    radius = min(saliency.shape[1:]) - 1
    return _attract(saliency.sum(2), radius, fwhm), _attract(saliency.sum(1), radius, fwhm)


def _attract(marginal: Tensor, radius: int, fwhm: float) -> Tensor:
    cells = marginal.shape[1]
    dtype, device = marginal.dtype, marginal.device
    offset = torch.arange(-radius, radius + 1, dtype=dtype, device=device)
    kernel = torch.exp(-4 * math.log(2) * offset**2 / fwhm**2)[None, None]
    position = torch.arange(-radius, cells + radius, dtype=dtype, device=device) / (cells - 1)
    padded = F.pad(marginal[:, None], (radius, radius), mode="reflect")
    return (F.conv1d(padded * position, kernel) / F.conv1d(padded, kernel))[:, 0].clamp(0, 1)


def zoom(knots: Knots, image: Tensor, size: tuple[int, int]) -> Tensor:
    """`image` `[B, C, H, W]` at T~(Grid(size))."""
    y, x = knots
    return _sample(image, _forward(y, size[0]), _forward(x, size[1]))


def unzoom(knots: Knots, levels: Sequence[Tensor]) -> list[Tensor]:
    """Every level `[B, C, H, W]` at T~^-1(Grid(H, W)), LZU eq. 7."""
    y, x = knots
    return [_sample(level, _inverse(y, level.shape[2]), _inverse(x, level.shape[3])) for level in levels]


def _forward(knots: Tensor, size: int) -> Tensor:
    if size == 1:  # Grid(1) is 0.5, the middle of Grid(3)
        return _forward(knots, 3)[:, 1:2]
    return F.interpolate(knots[:, None], size, mode="linear", align_corners=True)[:, 0]


def _inverse(knots: Tensor, size: int) -> Tensor:
    first, last = (0.0, 1.0) if size > 1 else (0.5, 0.5)
    target = torch.linspace(first, last, size, dtype=knots.dtype, device=knots.device)
    target = target.expand(len(knots), size).contiguous()
    piece = torch.searchsorted(knots.detach().contiguous(), target, right=True).clamp(1, knots.shape[1] - 1) - 1
    low, high = knots.gather(1, piece), knots.gather(1, piece + 1)
    return (piece + (target - low) / (high - low)) / (knots.shape[1] - 1)


def _sample(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    shape = (len(y), y.shape[1], x.shape[1])
    grid = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], -1) * 2 - 1
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
