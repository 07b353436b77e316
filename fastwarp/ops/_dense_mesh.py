"""The `mesh` and `grid` families as differentiable torch expressions: what second derivatives are taken of.

Slow next to the kernels, float64, deterministic (gradients of advanced indexing are summed in a fixed order).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastwarp._constants import constant
from fastwarp.ops._dense import triangle_weights

FLATTEST = 2.0**-10
"""The least denominator at a corner of a homography, relative to the largest: below it a quad is all but a triangle."""


def lz_mesh(saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    """LZU eq. 1 and 2 from saliency `[B, h, w]`: the kernel is a product over the axes, so the sums are products of
    matrices."""
    height, width = saliency.shape[1:]
    radius = min(height, width) - 1
    mass = saliency.clamp(min=0)
    mean = mass.mean((1, 2), keepdim=True)
    mass = torch.where(1e-6 * mean <= 2.0**-962, mass.detach(), mass)  # an all-zero map has no derivative
    mass = mass + (1e-6 * mass.mean((1, 2), keepdim=True)).clamp(min=2.0**-962)
    weight_y, pull_y = _attraction(height, radius, fwhm, anti_crop, mass)
    weight_x, pull_x = _attraction(width, radius, fwhm, anti_crop, mass)
    rows = mass @ weight_x.mT
    total = weight_y @ rows
    x = torch.arange(width, device=mass.device) + weight_y @ (mass @ pull_x.mT) / total
    y = torch.arange(height, device=mass.device)[:, None] + pull_y @ rows / total
    return torch.stack([x / (width - 1), y / (height - 1)], -1).clamp(0, 1)


def _attraction(n: int, radius: int, fwhm: float, anti_crop: bool, like: Tensor) -> tuple[Tensor, Tensor]:
    """What cell j gives to cell i over all its copies in the padding, `[n, n]`: weight, and weight times distance."""
    cells = torch.arange(n, device=like.device)
    copies = torch.arange(-radius, n + radius, device=like.device)
    inside = copies.abs() if anti_crop else copies.clamp(0, n - 1)
    inside = torch.where(inside > n - 1, 2 * (n - 1) - inside, inside)
    fold = (inside[:, None] == cells).to(like)
    shift = (copies - cells[:, None]).to(like)
    kernel = torch.where(shift.abs() <= radius, torch.exp2(-4 * (shift / fwhm) ** 2), 0.0)
    return kernel @ fold, (kernel * shift) @ fold


def corners(mesh: Tensor, tiles: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Corners A, B, C, D `[B, P, 2]` of tiles `[B, P]`; those of the first tile where there is none."""
    batch, height, width = tiles.shape[0], mesh.shape[1], mesh.shape[2]
    image = torch.arange(batch, device=mesh.device)[:, None]
    mesh = mesh.expand(batch, -1, -1, -1).reshape(batch, height * width, 2)
    tile = tiles.long().clamp(min=0)
    first = tile // (width - 1) * width + tile % (width - 1)
    return tuple(mesh[image, first + step] for step in (0, 1, width, width + 1))  # type: ignore[return-value]


def tile_map(tile: Sequence[Tensor], f: Tensor, g: Tensor, homography: bool) -> tuple[Tensor, Tensor, Tensor]:
    """T~ and its derivatives by f and g, `[..., 2]` each, in tiles given by their corners (LZU A.1, algorithm 1)."""
    a, b, c, d = tile
    e, h = b - a, c - a
    twist = (a - b) + (d - c)
    f, g = f.unsqueeze(-1), g.unsqueeze(-1)
    value, by_f, by_g = a + f * e + g * h + f * g * twist, e + g * twist, h + f * twist
    if not homography:
        return value, by_f, by_g
    right, below = b - d, c - d
    det = _cross(right, below)
    p, q = _cross(twist, below), _cross(right, twist)
    some = torch.isfinite(det) & (det != 0)
    p, q = (torch.where(some, n, 0) / torch.where(some, det, 1) for n in (p, q))
    weights = torch.stack([torch.ones_like(p), 1 + p, 1 + q, 1 + p + q])
    some = (some & (weights.amin(0) > FLATTEST * weights.amax(0))).unsqueeze(-1)
    p, q = p.unsqueeze(-1), q.unsqueeze(-1)
    right, below = e + p * b, h + q * c
    w = torch.where(some, 1 + p * f + q * g, 1)
    mapped = (a + f * right + g * below) / w
    return (
        torch.where(some, mapped, value),
        torch.where(some, (right - p * mapped) / w, by_f),
        torch.where(some, (below - q * mapped) / w, by_g),
    )


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _preimage(tile: Sequence[Tensor], f: Tensor, g: Tensor, points: Tensor, homography: bool) -> tuple[Tensor, Tensor]:
    """F and g of the points, given their values: two steps of Newton's method, whose derivatives by tile and points
    are exact up to the third (those of k steps up to 2^k - 1)."""
    for _ in range(2):
        value, by_f, by_g = tile_map(tile, f, g, homography)
        away, det = points - value, _cross(by_f, by_g)
        flat = det.abs() <= SINGULAR * by_f.abs().amax(-1) * by_g.abs().amax(-1)
        det = torch.where(flat, 1, det)
        f = f + torch.where(flat, 0, _cross(away, by_g) / det)
        g = g + torch.where(flat, 0, _cross(by_f, away) / det)
    return f, g


SINGULAR = 1e-12
"""Determinants below this, relative to the lengths of the columns, have no inverse: no gradient."""


def local(positions: Tensor, tiles: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """F and g of zoomed positions `[B, P, 2]` in their tiles."""
    height, width = shape
    tile = tiles.clamp(min=0)
    f = positions[..., 0] * (width - 1) - tile % (width - 1)
    g = positions[..., 1] * (height - 1) - torch.div(tile, width - 1, rounding_mode="floor")
    return f, g


def _zoomed(f: Tensor, g: Tensor, tiles: Tensor, shape: Sequence[int]) -> Tensor:
    height, width = shape
    tile = tiles.clamp(min=0)
    u = (f + tile % (width - 1)) / (width - 1)
    v = (g + torch.div(tile, width - 1, rounding_mode="floor")) / (height - 1)
    return torch.stack([u, v], -1)


def mesh_map(mesh: Tensor, points: Tensor, mapped: Tensor, tiles: Tensor, inverse: bool, homography: bool) -> Tensor:
    """T~ or its inverse at points `[B, N, 2]`, in tiles that are known, near values that are known."""
    shape = mesh.shape[1:3]
    mesh, points = mesh.expand(tiles.shape[0], -1, -1, -1), points.expand(tiles.shape[0], -1, -1)
    tile = corners(mesh, tiles)
    if inverse:
        f, g = _preimage(tile, *local(mapped.detach(), tiles, shape), points, homography)
        result = _zoomed(f, g, tiles, shape)
    else:
        result = tile_map(tile, *local(points, tiles, shape), homography)[0]
    return torch.where(tiles.unsqueeze(-1) < 0, mapped.detach(), result)


def mesh_positions(
    mesh: Tensor,
    windows: Tensor,
    tiles: Tensor,
    sizes: Sequence[int],
    source_sizes: Sequence[int],
    inverse: bool,
    homography: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> Tensor:
    """Windows `[B, 2, P]` of all targets, in tiles that are known, near values that are known."""
    batch, shape, parts, first = windows.shape[0], mesh.shape[1:3], [], 0
    for level in range(len(sizes) // 2):
        height, width = sizes[2 * level : 2 * level + 2]
        extent = level_extent(valid, level, sizes, windows)
        last = level_extent(source_valid, level, source_sizes, windows) - 1
        whole, part = tiles[:, first : first + height * width], windows[:, :, first : first + height * width]
        first += height * width
        y, x = (
            torch.where(extent[:, i : i + 1] > 1, torch.arange(n, device=mesh.device) / (extent[:, i : i + 1] - 1), 0.5)
            for i, n in enumerate((height, width))
        )
        grid = torch.stack(
            [x[:, None, :].expand(-1, height, width), y[:, :, None].expand(-1, height, width)], -1
        ).reshape(-1, height * width, 2)
        known, last = part.mT, last.flip(-1)[:, None, :]
        if inverse:
            near = local(known.detach() / torch.where(last > 0, last, 1), whole, shape)
            value = _zoomed(*_preimage(corners(mesh, whole), *near, grid, homography), whole, shape)
        else:
            value = tile_map(corners(mesh, whole), *local(grid, whole, shape), homography)[0].clamp(0, 1)
        parts.append(torch.where(whole.unsqueeze(-1) < 0, known.detach(), value * last).mT.expand(batch, -1, -1))
    return torch.cat(parts, 2)


def level_extent(valid: Tensor | None, level: int, sizes: Sequence[int], like: Tensor) -> Tensor:
    """Valid (height, width) of a level, `[1 or B, 2]` in the dtype of `like`."""
    whole = constant(sizes[2 * level : 2 * level + 2], like)[None]
    return whole if valid is None else torch.minimum(valid[:, level].clamp(min=0).to(whole), whole)


def grid_widen(
    centres: Tensor,
    sizes: Sequence[int],
    source_sizes: Sequence[int],
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> Tensor:
    """Centres `[B, 2, P]` and the distances to their neighbours along x and y, at least a pixel: `[B, 4, P]`.

    The neighbours are those of the grid of targets that read something; along x and y of the source the distances to
    neighbours in a row and in a column add as squares.
    """
    parts, first = [], 0
    for level in range(len(sizes) // 2):
        height, width = sizes[2 * level : 2 * level + 2]
        part = centres[:, :, first : first + height * width].unflatten(2, (height, width))
        first += height * width
        extent = level_extent(valid, level, sizes, centres)
        source = level_extent(source_valid, level, source_sizes, centres).flip(-1)[:, :, None, None] - 1
        squares = torch.zeros_like(part)
        for axis in range(2):  # neighbours in a column, in a row
            spacing = _spacing(part, 2 + axis)
            alone = torch.zeros_like(source)
            alone[:, 1 - axis] = source[:, 1 - axis]  # a single row or column averages over all of its source
            spacing = torch.where(extent[:, axis, None, None, None] > 1, spacing, alone)
            squares = squares + spacing**2
        parts.append(torch.cat([part.expand_as(squares), squares.clamp(min=1).sqrt()], 1).flatten(2))
    return torch.cat(parts, 2)


def _spacing(centres: Tensor, axis: int) -> Tensor:
    """Half the distance between the neighbours on both sides along `axis`; all of it where there is but one."""
    n = centres.shape[axis]
    index = torch.arange(n, device=centres.device)
    reads = centres[:, :1] >= 0
    ends, count = [], torch.zeros_like(centres)
    for step in (-1, 1):
        neighbour = (index + step).clamp(0, n - 1)
        there = reads.index_select(axis, neighbour)
        ends.append(torch.where(there, centres.index_select(axis, neighbour), centres))
        inside = ((index + step >= 0) & (index + step < n)).view([-1 if d == axis else 1 for d in range(4)])
        count = count + (there & inside)
    return (ends[1] - ends[0]) / count.clamp(min=1)


def bilinear_windows_gradient(
    grads: Sequence[Tensor], images: Sequence[Tensor], windows: Tensor, source_valid: Tensor | None
) -> Tensor:
    """Gradient to windows `[B, 2, P]`: differences of samples, themselves resampled and so differentiable."""
    sizes = [side for grad in grads for side in grad.shape[2:]]
    source_sizes = [side for image in images for side in image.shape[2:]]
    last = torch.cat(
        [
            (level_extent(source_valid, i, source_sizes, windows) - 1)
            .flip(-1)[:, :, None]
            .expand(-1, -1, sizes[2 * i] * sizes[2 * i + 1])
            for i in range(len(images))
        ],
        2,
    )
    before = torch.minimum(windows.detach().floor().clamp(min=0), last)
    after = torch.minimum(before + 1, last)
    reads = windows[:, :1] >= 0
    result = []
    for axis in range(2):
        ends = []
        for end in (before, after):
            moved = torch.stack([end[:, 0], windows[:, 1]] if axis == 0 else [windows[:, 0], end[:, 1]], 1)
            moved = torch.where(reads, moved, -1)
            ends.append(torch.ops.fastwarp.grid_resample(list(images), moved, sizes, source_valid))
        rises = [(grad * (high - low)).sum(1).flatten(1) for grad, low, high in zip(grads, *ends, strict=True)]
        rise = torch.cat(rises, 1)
        result.append(rise.sum(0, keepdim=True) if windows.shape[0] == 1 else rise)
    return torch.stack(result, 1)


def grid_resample(
    images: Sequence[Tensor], windows: Tensor, sizes: Sequence[int], source_valid: Tensor | None
) -> tuple[Tensor, ...]:
    """Resampling with triangle filters, windows `[B, 4, P]`, as products with a row of weights for every target."""
    results, first = [], 0
    for level, image in enumerate(images):
        height, width = sizes[2 * level : 2 * level + 2]
        part = windows[:, :, first : first + height * width]
        first += height * width
        reads = (part[:, :1] >= 0).to(part)
        weights = []
        for axis in range(2):  # y, x
            extent: Any = image.shape[2 + axis]
            if source_valid is not None:
                extent = source_valid[:, level, axis][:, None, None]
            window = torch.stack([part[:, 1 - axis], part[:, 3 - axis] * reads[:, 0]], 1)
            weights.append(triangle_weights(window, extent, image.shape[2 + axis]))
        rows = torch.einsum("bpy,bcyx->bcpx", weights[0].expand(image.shape[0], -1, -1), image)
        value = torch.einsum("bpx,bcpx->bcp", weights[1].expand(image.shape[0], -1, -1), rows)
        results.append(value.reshape(*image.shape[:2], height, width))
    return tuple(results)
