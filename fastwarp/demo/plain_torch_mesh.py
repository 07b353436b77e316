"""The adaptive path by a mesh in plain torch, as it is written without this library: what demo and bench compare with.

The mesh by a padded convolution, the forward grid by `F.interpolate` of the mesh, the inverse by LZU's algorithm 1
(each tile's bounding box holds its candidates), and one `F.grid_sample` per map. Anti-crop only; geometry in the
saliency's dtype.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Mesh = tuple[Tensor]

SLACK = 1e-3
"""How far, in tiles, a candidate may be outside the tile that claims it: float32 would lose targets on edges, and those
beyond an outline that is off by a rounding."""


def from_saliency(saliency: Tensor, fwhm: float) -> Mesh:
    """Mesh `[B, h, w, 2]` of the LZ warp of `[B, h, w]`, LZU eq. 1 and 2, by one convolution of three maps."""
    height, width = saliency.shape[1:]
    radius = min(height, width) - 1
    about: Any = {"dtype": saliency.dtype, "device": saliency.device}
    shift = torch.arange(-radius, radius + 1, **about)
    weight = torch.exp(-4 * math.log(2) * shift**2 / fwhm**2)
    y = torch.arange(-radius, height + radius, **about) / (height - 1)
    x = torch.arange(-radius, width + radius, **about) / (width - 1)
    padded = F.pad(saliency[:, None], (radius,) * 4, mode="reflect")
    maps = torch.cat([padded, padded * x, padded * y[:, None]])
    sums = F.conv2d(maps, (weight[:, None] * weight)[None, None])[:, 0].unflatten(0, (3, -1))
    return ((sums[1:] / sums[0]).permute(1, 2, 3, 0).clamp(0, 1),)


def inverse(mesh: Tensor, size: tuple[int, int]) -> Tensor:
    """T~^-1(Grid(size)) `[B, H, W, 2]` in [-1, 1]: every target of every tile's bounding box is a candidate, vectorised
    over the images and their tiles (LZU algorithm 1, with the errata: eq. 14's signs, the stable root)."""
    batch, height, width = mesh.shape[:3]
    last = torch.tensor([size[1] - 1, size[0] - 1], dtype=mesh.dtype, device=mesh.device)
    vertices = torch.where(last > 0, mesh * last, mesh - 0.5)  # pixels of the target; a single one is in the middle
    a, b, c, d = vertices[:, :-1, :-1], vertices[:, :-1, 1:], vertices[:, 1:, :-1], vertices[:, 1:, 1:]
    quads = torch.stack([a, b, c, d], -2).reshape(-1, 4, 2)
    low = (quads.amin(1) - SLACK).ceil().clamp(min=0).minimum(last).long()
    high = (quads.amax(1) + SLACK).floor().minimum(last).long()
    sides = (high - low + 1).clamp(min=0)
    counts = sides[:, 0] * sides[:, 1]
    tile = torch.repeat_interleave(torch.arange(len(quads), device=mesh.device), counts)
    number = torch.arange(len(tile), device=mesh.device) - (counts.cumsum(0) - counts)[tile]
    x = low[tile, 0] + number % sides[tile, 0]
    y = low[tile, 1] + number // sides[tile, 0]
    a, b, c, d = quads[tile].unbind(1)
    right, down, twist, away = b - a, c - a, (a - b) + (d - c), torch.stack([x, y], 1) - a
    quadratic, linear, constant = _cross(twist, down), _cross(away, twist) + _cross(right, down), _cross(away, right)
    root = (linear**2 - 4 * quadratic * constant).clamp(min=0).sqrt()
    positive = linear > 0
    g = torch.where(positive, -2 * constant, root - linear) / torch.where(positive, linear + root, 2 * quadratic)
    across = right + g[:, None] * twist
    f = ((away - g[:, None] * down) * across).sum(1) / (across * across).sum(1)
    local = torch.stack([f, g], 1)
    near = ((local >= -SLACK) & (local <= 1 + SLACK)).all(1)
    tile, x, y, local = tile[near], x[near], y[near], local[near]
    tiles = (height - 1) * (width - 1)
    first = torch.stack([tile % tiles % (width - 1), tile % tiles // (width - 1)], 1)
    cells = torch.tensor([width - 1, height - 1], dtype=mesh.dtype, device=mesh.device)
    found = 2 * (first + local.clamp(0, 1)) / cells - 1
    result = torch.full((batch, *size, 2), -3.0, dtype=mesh.dtype, device=mesh.device)
    result[tile // tiles, y, x] = found
    inside = ((local >= 0) & (local <= 1)).all(1)  # has the last word
    result[tile[inside] // tiles, y[inside], x[inside]] = found[inside]
    return result


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def zoom(warp: Mesh, image: Tensor, size: tuple[int, int]) -> Tensor:
    """`image` `[B, C, H, W]` at T~(Grid(size))."""
    (mesh,) = warp
    odd = (size[0] if size[0] > 1 else 3, size[1] if size[1] > 1 else 3)  # Grid(1) is 0.5, the middle of Grid(3)
    grid = F.interpolate(mesh.permute(0, 3, 1, 2), odd, mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
    grid = grid[:, 1:2] if size[0] == 1 else grid
    return _sample(image, 2 * (grid[:, :, 1:2] if size[1] == 1 else grid) - 1)


def unzoom(warp: Mesh, levels: Sequence[Tensor]) -> list[Tensor]:
    """Every level `[B, C, H, W]` at T~^-1(Grid(H, W)), the inverse at each level's own size."""
    return [_sample(level, inverse(warp[0], (level.shape[2], level.shape[3]))) for level in levels]


def _sample(image: Tensor, grid: Tensor) -> Tensor:
    grid = grid.expand(len(image), -1, -1, -1)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
