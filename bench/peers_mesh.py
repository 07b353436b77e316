"""What the inverse of a mesh is compared with: plain torch (LZU algorithm 1), and SciPy's griddata as ES uses it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from cases import FWHM, Size
from torch import Tensor

SLACK = 1e-3
"""How far, in tiles, a candidate may be outside the tile that claims it: float32 would lose targets on edges."""


def mesh(saliency: Tensor) -> Tensor:
    """The nonseparable LZ warp by one two-dimensional convolution of three maps, as published: anti-crop, float32."""
    height, width = saliency.shape[1:]
    radius = min(height, width) - 1
    shift = torch.arange(-radius, radius + 1, device=saliency.device)
    weight = torch.exp(-4 * math.log(2) * shift**2 / FWHM**2)
    y = torch.arange(-radius, height + radius, device=saliency.device) / (height - 1)
    x = torch.arange(-radius, width + radius, device=saliency.device) / (width - 1)
    padded = F.pad(saliency[:, None], (radius,) * 4, mode="reflect")
    maps = torch.cat([padded, padded * x, padded * y[:, None]])
    sums = F.conv2d(maps, (weight[:, None] * weight)[None, None])[:, 0].unflatten(0, (3, -1))
    return (sums[1:] / sums[0]).permute(1, 2, 3, 0).clamp(0, 1)


def inverse(mesh: Tensor, size: Size) -> Tensor:
    """T~^-1(Grid(size)) `[B, H, W, 2]` in [-1, 1]: every target of every tile's bounding box is a candidate, vectorised
    over the images and their tiles (LZU algorithm 1, with the errata: eq. 14's signs, the stable root)."""
    batch, height, width = mesh.shape[:3]
    last = torch.tensor([size[1] - 1, size[0] - 1], dtype=mesh.dtype, device=mesh.device)
    vertices = mesh * last  # pixels of the target
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
    inside = ((local >= -SLACK) & (local <= 1 + SLACK)).all(1)
    tiles = (height - 1) * (width - 1)
    image, tile = tile[inside] // tiles, tile[inside] % tiles
    first = torch.stack([tile % (width - 1), tile // (width - 1)], 1)
    cells = torch.tensor([width - 1, height - 1], dtype=mesh.dtype, device=mesh.device)
    found = (first + local[inside].clamp(0, 1)) / cells
    result = torch.full((batch, *size, 2), -3.0, dtype=mesh.dtype, device=mesh.device)
    result[image, y[inside], x[inside]] = 2 * found - 1
    return result


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def unzoom(mesh: Tensor, *levels: Tensor) -> list[Tensor]:
    """The inverse at each level's own size, and a grid_sample."""
    return [
        F.grid_sample(level, inverse(mesh, level.shape[2:]).expand(len(level), -1, -1, -1), align_corners=True)
        for level in levels
    ]


def zoom(mesh: Tensor, image: Tensor, size: Size) -> list[Tensor]:
    """The mesh interpolated to a grid, and a grid_sample."""
    grid = F.interpolate(mesh.permute(0, 3, 1, 2), size, mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
    return [F.grid_sample(image, (2 * grid - 1).expand(len(image), -1, -1, -1), align_corners=True)]


def adaptive(saliency: Tensor, image: Tensor, *levels: Tensor, size: Size) -> list[Tensor]:
    """Saliency to mesh, zoom, inverse, unzoom of every level."""
    made = mesh(saliency)
    return [*zoom(made, image, size), *unzoom(made, *levels)]


def griddata(mesh: np.ndarray, size: Size) -> np.ndarray:
    """Linear interpolation of the grid over a triangulation of the vertices `[h, w, 2]`, as ES inverts its samplers;
    not the inverse of T~, but of another continuous map through the same vertices."""
    from scipy.interpolate import griddata

    height, width = mesh.shape[:2]
    values = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), -1)
    targets = np.meshgrid(np.linspace(0, 1, size[1]), np.linspace(0, 1, size[0]))
    return griddata(mesh.reshape(-1, 2), values.reshape(-1, 2), tuple(targets), method="linear")


def grid_samples(grids: Sequence[Tensor], *levels: Tensor) -> list[Tensor]:
    """One grid_sample for each level with its cached grid."""
    return [F.grid_sample(x, grid, align_corners=True) for x, grid in zip(levels, grids, strict=True)]
