"""Triton kernels of the `mesh` family: T~ and T~^-1 at arbitrary points, and their gradients."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv
from fastwarp.kernels.gpu._mesh_tiles import (
    UNFUSED,
    centre_of,
    cross,
    evaluate,
    is_finite,
    jacobian,
    load_patch,
    moments,
    slope,
    solve,
    through_inverse,
    tied,
    to_corners,
    widened,
    winding,
)
from fastwarp.kernels.gpu._pieces import batch_stride, nan_of
from fastwarp.kernels.layout import common_batch

_NONE: tl.constexpr = tl.constexpr(2**31 - 1)

# Points in rows, tiles in columns; a usual call has a few hundred points.
_BLOCK = {"POINTS": 128, "TILES": 64} if INTERPRETED else {"POINTS": 32, "TILES": 16}
_SCAN: tl.constexpr = tl.constexpr(1024)  # coordinates that a program looks at together for a NaN
_POINTS = 1024 if INTERPRETED else 128


@triton.jit
def _find_owner(mesh_ptr, h, w, x, y, TILES: tl.constexpr):
    """The first enclosing tile of each point, as twice its number, and 1 more if it is mirrored there."""
    owner = tl.full(x.shape, _NONE, tl.int32)
    tiles = (h - 1) * (w - 1)
    centre_x, centre_y = centre_of(mesh_ptr, h, w)
    tied_x, tied_y = tied(x, centre_x), tied(y, centre_y)
    for t0 in range(0, tiles, TILES):
        t = t0 + tl.arange(0, TILES)[None, :]
        i, j = t // (w - 1), t % (w - 1)
        ax, ay = widened(mesh_ptr, i, j, h, w, t < tiles)
        bx, by = widened(mesh_ptr, i, j + 1, h, w, t < tiles)
        cx, cy = widened(mesh_ptr, i + 1, j, h, w, t < tiles)
        dx, dy = widened(mesh_ptr, i + 1, j + 1, h, w, t < tiles)
        slopes = slope(ax, ay, bx, by), slope(bx, by, dx, dy), slope(cx, cy, dx, dy), slope(ax, ay, cx, cy)
        number = winding(ax, ay, bx, by, cx, cy, dx, dy, *slopes, tied_x[:, None], y[:, None], tied_y[:, None])
        whole = is_finite(ax, bx, cx, dx) & is_finite(ay, by, cy, dy)
        code = tl.where(number > 0, 2 * t + 1, 2 * t)
        owner = tl.minimum(owner, tl.min(tl.where((number != 0) & whole, code, _NONE), 1))
    return owner


@triton.jit
def _outline_tile(n, h, w):
    """The n-th tile on the outline in row-major order."""
    across, down = w - 1, h - 1
    inner = n - across
    sides = tl.minimum(across, 2)
    row, side = 1 + inner // sides, inner % sides
    tile = tl.where(
        row < down - 1, row * across + side * (across - 1), (down - 1) * across + inner - sides * (down - 2)
    )
    return tl.where(inner < 0, n, tile)


@triton.jit
def _violation(f, first, last):
    """How far a local coordinate is out of a tile that continues outwards at the ends of the mesh."""
    return tl.where(first, 0.0, tl.maximum(-f, 0.0)) + tl.where(last, 0.0, tl.maximum(f - 1.0, 0.0))


@triton.jit
def _find_continued(mesh_ptr, h, w, x, y, HOMOGRAPHY: tl.constexpr):
    """As `_find_owner`, the tile on the outline whose patch, continued outwards, has the point best."""
    across, down = w - 1, h - 1
    count = across * down - tl.maximum(across - 2, 0) * tl.maximum(down - 2, 0)
    owner = tl.full(x.shape, _NONE, tl.int32)
    best = tl.full(x.shape, float("inf"), tl.float64)
    for n in range(count):
        tile = _outline_tile(n, h, w)
        i, j = tile // across, tile % across
        patch = load_patch(mesh_ptr + 2 * (tile + i), w, tl.float64, HOMOGRAPHY)
        ax, ay, ex, ey, fx, fy, gx, gy, _, _, _ = patch
        mirrored = cross(ex, ey, fx, fy) + 0.5 * (cross(ex, ey, gx, gy) + cross(gx, gy, fx, fy)) < 0
        f, g = solve(patch, x - ax, y - ay, mirrored, HOMOGRAPHY)
        violation = _violation(f, j == 0, j == across - 1) + _violation(g, i == 0, i == down - 1)
        at_x, at_y = evaluate(patch, f, g, HOMOGRAPHY)
        miss = tl.maximum(tl.abs(at_x - (x - ax)), tl.abs(at_y - (y - ay)))
        size = tl.maximum(tl.maximum(tl.abs(ex), tl.abs(ey)), tl.maximum(tl.abs(fx), tl.abs(fy)))
        size = tl.maximum(size, tl.maximum(tl.abs(ex + fx + gx), tl.abs(ey + fy + gy)))
        better = (miss <= (1.0 + tl.abs(f) + tl.abs(g)) * size * 1e-9) & (violation < best)
        best = tl.where(better, violation, best)
        owner = tl.where(better, tl.where(mirrored, 2 * tile + 1, 2 * tile), owner)
    return owner


@triton.jit
def _end_tile(position, n):
    """Tile of an axis of n vertices at a zoomed position times n - 1; the end tiles continue. 0 for NaN."""
    return tl.where(position > 0, tl.minimum(tl.floor(position), n - 2.0), 0.0).to(tl.int32)


@triton.jit(do_not_specialize=["stride_mb", "stride_pb", "h", "w", "count"])
def _map_kernel(
    mapped_ptr,
    tiles_ptr,
    mesh_ptr,
    points_ptr,
    stride_mb,
    stride_pb,
    h,
    w,
    count,
    INVERSE: tl.constexpr,
    HOMOGRAPHY: tl.constexpr,
    POINTS: tl.constexpr,
    TILES: tl.constexpr,
):
    """Program (block of points, b)."""
    b = tl.program_id(1).to(tl.int64)
    mesh_ptr += b * stride_mb
    n = tl.program_id(0) * POINTS + tl.arange(0, POINTS)
    point_ptr = points_ptr + b * stride_pb + 2 * n
    x = tl.load(point_ptr, mask=n < count, other=float("nan")).to(tl.float64)
    y = tl.load(point_ptr + 1, mask=n < count, other=float("nan")).to(tl.float64)
    if INVERSE:
        owner = _find_owner(mesh_ptr, h, w, x, y, TILES)
        lost = (owner == _NONE) & (tl.abs(x) < float("inf")) & (tl.abs(y) < float("inf"))
        if tl.max(tl.where(lost, 1, 0), 0) > 0:
            owner = tl.where(lost, _find_continued(mesh_ptr, h, w, x, y, HOMOGRAPHY), owner)
        has_tile = owner != _NONE
        tile = tl.where(has_tile, owner >> 1, 0)
        i = tile // (w - 1)
        patch = load_patch(mesh_ptr + 2 * (tile + i), w, tl.float64, HOMOGRAPHY)
        f, g = solve(patch, x - patch[0], y - patch[1], (owner & 1) == 1, HOMOGRAPHY)
        x, y = (tile - i * (w - 1) + f) / (w - 1), (i + g) / (h - 1)
    else:
        has_tile = (x == x) & (y == y)
        x, y = x * (w - 1), y * (h - 1)
        j, i = _end_tile(x, w), _end_tile(y, h)
        tile = i * (w - 1) + j
        patch = load_patch(mesh_ptr + 2 * (tile + i), w, tl.float64, HOMOGRAPHY)
        x, y = evaluate(patch, x - j, y - i, HOMOGRAPHY)
        x, y = patch[0] + x, patch[1] + y
    nan = tl.zeros([POINTS], tl.float64) + nan_of(mesh_ptr, 2 * h * w, _SCAN)
    has_tile &= nan == nan
    mapped_ptr += (b * count + n) * 2
    tl.store(mapped_ptr, tl.where(has_tile, x, float("nan")), mask=n < count)
    tl.store(mapped_ptr + 1, tl.where(has_tile, y, float("nan")), mask=n < count)
    tl.store(tiles_ptr + b * count + n, tl.where(has_tile, tile, -1), mask=n < count)


@triton.jit(do_not_specialize=["stride_mb", "stride_pb", "h", "w", "count"])
def _map_gradient_kernel(
    shares_ptr,
    grad_points_ptr,
    grad_ptr,
    mesh_ptr,
    zoomed_ptr,
    tiles_ptr,
    stride_mb,
    stride_zb,
    h,
    w,
    count,
    INVERSE: tl.constexpr,
    HOMOGRAPHY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (block of points, b): the gradient of the points, and what each gives to the corners of its tile."""
    b = tl.program_id(1).to(tl.int64)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tile = tl.load(tiles_ptr + b * count + n, mask=n < count, other=-1)
    has_tile = tile >= 0
    tile = tl.where(has_tile, tile, 0)
    i = tile // (w - 1)
    patch = load_patch(mesh_ptr + b * stride_mb + 2 * (tile + i), w, tl.float64, HOMOGRAPHY)
    zoomed_ptr += b * stride_zb + 2 * n
    f = tl.load(zoomed_ptr, mask=has_tile, other=0).to(tl.float64) * (w - 1) - (tile - i * (w - 1))
    g = tl.load(zoomed_ptr + 1, mask=has_tile, other=0).to(tl.float64) * (h - 1) - i
    at = (b * count + n) * 2
    x = tl.load(grad_ptr + at, mask=has_tile, other=0).to(tl.float64)
    y = tl.load(grad_ptr + at + 1, mask=has_tile, other=0).to(tl.float64)
    if INVERSE:
        x, y = through_inverse(patch, f, g, x / (w - 1), y / (h - 1), HOMOGRAPHY)
        by_x, by_y = x, y
        x, y = -x, -y
    else:
        x_f, y_f, x_g, y_g = jacobian(patch, f, g, HOMOGRAPHY)
        by_x, by_y = (x * x_f + y * y_f) * (w - 1), (x * x_g + y * y_g) * (h - 1)
    nan = nan_of(mesh_ptr + b * stride_mb, 2 * h * w, BLOCK)
    tl.store(grad_points_ptr + at, tl.where(has_tile, by_x, nan), mask=n < count)
    tl.store(grad_points_ptr + at + 1, tl.where(has_tile, by_y, nan), mask=n < count)
    shares = to_corners(patch, *moments(patch, f, g, x, y, HOMOGRAPHY), HOMOGRAPHY)
    for s in tl.static_range(8):
        tl.store(shares_ptr + (b * 8 + s) * count + n, tl.where(has_tile, shares[s], 0.0), mask=n < count)


@triton.jit(do_not_specialize=["stride_mb", "h", "w", "count"])
def _sum_points_kernel(
    grad_ptr, shares_ptr, tiles_ptr, mesh_ptr, stride_mb, h, w, count, VERTICES: tl.constexpr, POINTS: tl.constexpr
):
    """Program (block of vertices, b): the sum over all points of what they give to its vertices, in a fixed order."""
    b = tl.program_id(1).to(tl.int64)
    v = tl.program_id(0) * VERTICES + tl.arange(0, VERTICES)
    nan = nan_of(mesh_ptr + b * stride_mb, 2 * h * w, VERTICES)
    x, y = tl.zeros([VERTICES], tl.float64) + nan, tl.zeros([VERTICES], tl.float64) + nan
    for n0 in range(0, count, POINTS):
        n = n0 + tl.arange(0, POINTS)
        tile = tl.load(tiles_ptr + b * count + n, mask=n < count, other=-1)
        a = tl.where(tile >= 0, tile + tile // (w - 1), -w - 2)  # vertex of the corner A
        for corner in tl.static_range(4):
            its = (a + corner // 2 * w + corner % 2)[:, None] == v[None, :]
            share_ptr = shares_ptr + (b * 8 + 2 * corner) * count + n
            x += tl.sum(tl.where(its, tl.load(share_ptr, mask=n < count, other=0)[:, None], 0.0), 0)
            y += tl.sum(tl.where(its, tl.load(share_ptr + count, mask=n < count, other=0)[:, None], 0.0), 0)
    tl.store(grad_ptr + (b * h * w + v) * 2, x, mask=v < h * w)
    tl.store(grad_ptr + (b * h * w + v) * 2 + 1, y, mask=v < h * w)


def launch(mesh: Tensor, points: Tensor, inverse: bool, homography: bool) -> tuple[Tensor, Tensor]:
    """`map` of contiguous arguments."""
    batch, (h, w), count = common_batch(mesh, points), mesh.shape[1:3], points.shape[1]
    mapped, tiles = mesh.new_empty(batch, count, 2), mesh.new_empty(batch, count, dtype=torch.int32)
    _map_kernel[(cdiv(count, _BLOCK["POINTS"]), batch)](
        *(mapped, tiles, mesh, points, batch_stride(mesh), batch_stride(points), h, w, count),
        INVERSE=inverse,
        HOMOGRAPHY=homography,
        **_BLOCK,
        **UNFUSED,
    )
    return mapped, tiles


def launch_backward(
    grad: Tensor, mesh: Tensor, points: Tensor, mapped: Tensor, tiles: Tensor, inverse: bool, homography: bool
) -> tuple[Tensor, Tensor]:
    """`map_backward` of contiguous arguments."""
    batch, (h, w), count = len(grad), mesh.shape[1:3], points.shape[1]
    shares = mesh.new_empty(batch, 8, count, dtype=torch.float64)
    grad_mesh, grad_points = (
        t.new_empty(batch, *t.shape[1:], dtype=t.dtype if len(t) == batch else torch.float64) for t in (mesh, points)
    )
    zoomed = mapped if inverse else points
    _map_gradient_kernel[(cdiv(count, _POINTS), batch)](
        *(shares, grad_points, grad, mesh, zoomed, tiles, batch_stride(mesh), batch_stride(zoomed), h, w, count),
        INVERSE=inverse,
        HOMOGRAPHY=homography,
        BLOCK=_POINTS,
        **UNFUSED,  # a tile must be projective here if it was in `map`
    )
    block = {"VERTICES": 128, "POINTS": 64} if INTERPRETED else {"VERTICES": 16, "POINTS": 64}
    _sum_points_kernel[(cdiv(h * w, block["VERTICES"]), batch)](
        *(grad_mesh, shares, tiles, mesh, batch_stride(mesh), h, w, count), **block
    )
    results = zip((mesh, points), (grad_mesh, grad_points), strict=True)
    grad_mesh, grad_points = (g if len(t) == batch else g.sum(0, keepdim=True).to(t.dtype) for t, g in results)
    return grad_mesh, grad_points
