"""Triton kernels of the `mesh` family: what each target reads, and from which tile; all levels in one launch.

The inverse takes two. The first makes, for every level, what is the same for all its targets: the vertices of the
widened mesh in units of targets, the slopes of the edges and the boxes of the tiles. In the second a program finds the
tiles whose box meets its block of targets, asks each of them, and solves once for every target.

All arithmetic is float64 and nothing is fused (`EXACT`), so that tiles own the same targets on every backend.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import INTERPRETED, pack, select, unpack
from fastwarp.kernels.gpu._mesh_tiles import centre_of, evaluate, load_patch, slope, solve, widened, winding
from fastwarp.kernels.gpu._pieces import batch_stride

EXACT = {"enable_fp_fusion": False}
"""Launch options under which every operation rounds as IEEE 754 says."""

_RIM: tl.constexpr = tl.constexpr(1 / 64)  # how far beyond its tile a preimage may lie, in tiles
_NONE: tl.constexpr = tl.constexpr(2**31 - 1)

# 4 targets per thread: with them ptxas stays below 128 registers, 4 programs per multiprocessor. Few tiles meet a block
# of 16 x 32 where tiles have 20 x 20 targets. 1024 boxes are 8 per thread.
BLOCK = {"ROWS": 32 if INTERPRETED else 16, "COLUMNS": 64 if INTERPRETED else 32}
_CHUNK = 1024
_VERTICES = 1024 if INTERPRETED else 128


def blocks_of(sizes: list[int]) -> int:
    """Blocks of targets in all levels."""
    sides = zip(sizes[::2], sizes[1::2], strict=True)
    return sum(triton.cdiv(height, BLOCK["ROWS"]) * triton.cdiv(width, BLOCK["COLUMNS"]) for height, width in sides)


@triton.jit
def _find_block(pid, sizes, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Level of program `pid`, its height and width, its first target, and the first row and column of the block."""
    level, height, width, start, first = 0, 1, 1, 0, 0
    next_start, next_first = 0, 0
    for n in tl.static_range(len(sizes) // 2):
        rows, columns = unpack(sizes[2 * n]).to(tl.int32), unpack(sizes[2 * n + 1]).to(tl.int32)
        if pid >= next_first:
            level, height, width, start, first = n, rows, columns, next_start, next_first
        next_start += rows * columns
        next_first += tl.cdiv(rows, ROWS) * tl.cdiv(columns, COLUMNS)
    across = tl.maximum(tl.cdiv(width, COLUMNS), 1)
    return level, height, width, start, (pid - first) // across * ROWS, (pid - first) % across * COLUMNS


@triton.jit
def extent_of(valid_ptr, offset, whole):
    if valid_ptr is None:
        return whole
    else:
        return tl.minimum(tl.maximum(tl.load(valid_ptr + offset), 0), whole).to(tl.int32)


@triton.jit
def zoomed(k, extent, n):
    """Tile of targets k on an axis of n vertices, and the local coordinate. Whole numbers, so the floor is exact."""
    steps = tl.where(extent > 1, extent - 1, 2).to(tl.float64)
    place = tl.where(extent > 1, k, 1).to(tl.float64) * (n - 1)
    tile = tl.minimum(tl.floor(place / steps), n - 2.0)
    return tile.to(tl.int32), (place - tile * steps) / steps


@triton.jit(do_not_specialize=["stride_mb", "stride_vb", "stride_sb", "h", "w", "total"])
def _zoom_kernel(
    windows_ptr,
    tiles_ptr,
    mesh_ptr,
    valid_ptr,
    source_valid_ptr,
    sizes,
    source_sizes,
    stride_mb,
    stride_vb,
    stride_sb,
    h,
    w,
    total,
    HOMOGRAPHY: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (block of targets of a level, b)."""
    b = tl.program_id(1).to(tl.int64)
    level, height, width, start, row, column = _find_block(tl.program_id(0), sizes, ROWS, COLUMNS)
    valid, source_valid = b * stride_vb + 2 * level, b * stride_sb + 2 * level
    extent_y, extent_x = extent_of(valid_ptr, valid, height), extent_of(valid_ptr, valid + 1, width)
    source_y = extent_of(source_valid_ptr, source_valid, select(source_sizes, 2 * level).to(tl.int32))
    source_x = extent_of(source_valid_ptr, source_valid + 1, select(source_sizes, 2 * level + 1).to(tl.int32))
    r = row + tl.arange(0, ROWS)[:, None]
    k = column + tl.arange(0, COLUMNS)[None, :]
    reads = (r < extent_y) & (k < extent_x) & (source_y > 0) & (source_x > 0)
    i, g = zoomed(r, extent_y, h)
    j, f = zoomed(k, extent_x, w)
    tile = tl.where(reads, i * (w - 1) + j, 0)
    patch = load_patch(mesh_ptr + b * stride_mb, w, tile, 1.0, 1.0, HOMOGRAPHY)
    x, y = evaluate(patch, f, g, HOMOGRAPHY)
    x, y = patch[0] + x, patch[1] + y
    x = tl.where(x < 0, 0.0, tl.where(x > 1, 1.0, x)) * (source_x - 1)
    y = tl.where(y < 0, 0.0, tl.where(y > 1, 1.0, y)) * (source_y - 1)
    target = b * total + start + r * width + k
    _store(windows_ptr, tiles_ptr, target, b * total, total, x, y, tile, reads, (r < height) & (k < width))


@triton.jit
def _store(windows_ptr, tiles_ptr, target, before, total, x, y, tile, reads, mask):
    """Writes windows and tiles of the targets, `before` of which are other images'; -1 where nothing is read."""
    tl.store(windows_ptr + before + target, tl.where(reads, x, -1.0), mask=mask)
    tl.store(windows_ptr + before + total + target, tl.where(reads, y, -1.0), mask=mask)
    tl.store(tiles_ptr + target, tl.where(reads, tile, -1), mask=mask)


@triton.jit(do_not_specialize=["stride_mb", "stride_vb", "h", "w"])
def _outline_kernel(edges_ptr, boxes_ptr, mesh_ptr, valid_ptr, sizes, stride_mb, stride_vb, h, w, BLOCK: tl.constexpr):
    """Program (block of vertices, level, b).

    `edges_ptr`: x, y of every vertex of the widened mesh, slopes of the edges to its right and below it.
    `boxes_ptr`: for every tile the first and last column that it can own, its first row, and the one after its last.
    """
    level = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    valid = b * stride_vb + 2 * level
    extent_y = extent_of(valid_ptr, valid, select(sizes, 2 * level).to(tl.int32))
    extent_x = extent_of(valid_ptr, valid + 1, select(sizes, 2 * level + 1).to(tl.int32))
    scale_y, scale_x = tl.maximum(extent_y - 1, 1).to(tl.float64), tl.maximum(extent_x - 1, 1).to(tl.float64)
    shift_y, shift_x = tl.where(extent_y == 1, 0.5, 0.0), tl.where(extent_x == 1, 0.5, 0.0)
    mesh_ptr += b * stride_mb
    centre_x, centre_y = centre_of(mesh_ptr, h, w)

    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i, j = n // w, n % w
    right, below = tl.where(j < w - 1, 2, 0), tl.where(i < h - 1, 2 * w, 0)
    a_ptr = mesh_ptr + 2 * tl.minimum(n, h * w - 1)
    ax, ay = _vertex(a_ptr, centre_x, centre_y, shift_x, shift_y, scale_x, scale_y)
    bx, by = _vertex(a_ptr + right, centre_x, centre_y, shift_x, shift_y, scale_x, scale_y)
    cx, cy = _vertex(a_ptr + below, centre_x, centre_y, shift_x, shift_y, scale_x, scale_y)
    dx, dy = _vertex(a_ptr + right + below, centre_x, centre_y, shift_x, shift_y, scale_x, scale_y)
    edges_ptr += (b * tl.num_programs(1) + level) * 4 * h * w + n
    tl.store(edges_ptr, ax, mask=n < h * w)
    tl.store(edges_ptr + h * w, ay, mask=n < h * w)
    tl.store(edges_ptr + 2 * h * w, slope(ax, ay, bx, by), mask=n < h * w)
    tl.store(edges_ptr + 3 * h * w, slope(ax, ay, cx, cy), mask=n < h * w)

    # Crossings lie between the ends of their edge but for rounding, which is relative to these. What is not finite
    # leaves the whole row; a tile with a NaN has no rows.
    low, high = tl.minimum(tl.minimum(ax, bx), tl.minimum(cx, dx)), tl.maximum(tl.maximum(ax, bx), tl.maximum(cx, dx))
    slack = 1.0 + (tl.abs(low) + tl.abs(high)) * 2.0**-40
    low, high = low - slack, high + slack
    left = tl.where(low > 0, tl.minimum(low, extent_x), 0.0)
    right = tl.where(high < extent_x, tl.maximum(high, -1.0), extent_x)
    low, high = tl.minimum(tl.minimum(ay, by), tl.minimum(cy, dy)), tl.maximum(tl.maximum(ay, by), tl.maximum(cy, dy))
    whole = (ax == ax) & (bx == bx) & (cx == cx) & (dx == dx) & (ay == ay) & (by == by) & (cy == cy) & (dy == dy)
    top = tl.ceil(tl.minimum(tl.maximum(low, 0.0), extent_y))
    bottom = tl.where(whole, tl.ceil(tl.minimum(tl.maximum(high, 0.0), extent_y)), 0.0)
    tiles = (h - 1) * (w - 1)
    boxes_ptr += (b * tl.num_programs(1) + level) * 4 * tiles + n - i
    mask = (i < h - 1) & (j < w - 1)
    tl.store(boxes_ptr, tl.floor(left).to(tl.int32), mask=mask)
    tl.store(boxes_ptr + tiles, tl.ceil(right).to(tl.int32), mask=mask)
    tl.store(boxes_ptr + 2 * tiles, top.to(tl.int32), mask=mask)
    tl.store(boxes_ptr + 3 * tiles, bottom.to(tl.int32), mask=mask)


@triton.jit
def _vertex(ptr, centre_x, centre_y, shift_x, shift_y, scale_x, scale_y):
    x, y = tl.load(ptr).to(tl.float64), tl.load(ptr + 1).to(tl.float64)
    return (widened(x, centre_x) - shift_x) * scale_x, (widened(y, centre_y) - shift_y) * scale_y


@triton.jit
def _winding_of(edges_ptr, vertices, w, tile, x, y):
    """Winding number of one tile about targets."""
    a_ptr = edges_ptr + tile + tile // (w - 1)
    ax, ay, ab, ac = tl.load(a_ptr), tl.load(a_ptr + vertices), _slope(a_ptr, vertices, 2), _slope(a_ptr, vertices, 3)
    b_ptr, c_ptr, d_ptr = a_ptr + 1, a_ptr + w, a_ptr + w + 1
    bx, by, bd = tl.load(b_ptr), tl.load(b_ptr + vertices), _slope(b_ptr, vertices, 3)
    cx, cy, cd = tl.load(c_ptr), tl.load(c_ptr + vertices), _slope(c_ptr, vertices, 2)
    return winding(ax, ay, bx, by, cx, cy, tl.load(d_ptr), tl.load(d_ptr + vertices), ab, bd, cd, ac, x, y)


@triton.jit
def _slope(ptr, vertices, PLANE: tl.constexpr):
    return tl.load(ptr + PLANE * vertices)


@triton.jit
def _nearest(mesh_ptr, h, w, shift_x, shift_y, scale_x, scale_y, x, y):
    """Zoomed position of the point of the outline that is nearest to (x, y); below 0 if none is, for NaN."""
    best = tl.full(x.shape, float("inf"), tl.float64)
    u, v = tl.full(x.shape, -1.0, tl.float64), tl.full(x.shape, -1.0, tl.float64)
    across, down = w - 1, h - 1
    # Top row, bottom row, left column, right column.
    for n in range(2 * (across + down)):
        along_x = n < 2 * across
        side = tl.where(along_x, n // across, (n - 2 * across) // down)
        at = tl.where(along_x, n % across, (n - 2 * across) % down)
        vertex = tl.where(along_x, side * down * w + at, at * w + side * across)
        a_ptr, b_ptr = mesh_ptr + 2 * vertex, mesh_ptr + 2 * (vertex + tl.where(along_x, 1, w))
        ax = (tl.load(a_ptr).to(tl.float64) - shift_x) * scale_x
        ay = (tl.load(a_ptr + 1).to(tl.float64) - shift_y) * scale_y
        bx = (tl.load(b_ptr).to(tl.float64) - shift_x) * scale_x
        by = (tl.load(b_ptr + 1).to(tl.float64) - shift_y) * scale_y
        length = (bx - ax) * (bx - ax) + (by - ay) * (by - ay)
        t = ((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / tl.where(length > 0, length, 1.0)
        t = tl.where(length > 0, tl.minimum(tl.maximum(t, 0.0), 1.0), 0.0)
        miss_x, miss_y = ax + t * (bx - ax) - x, ay + t * (by - ay) - y
        distance = miss_x * miss_x + miss_y * miss_y
        nearer = distance < best
        best = tl.where(nearer, distance, best)
        u = tl.where(nearer, tl.where(along_x, (at + t) / across, side), u)
        v = tl.where(nearer, tl.where(along_x, side, (at + t) / down), v)
    return u, v


@triton.jit(
    do_not_specialize=["stride_mb", "stride_vb", "stride_sb", "stride_eb", "stride_bb", "h", "w", "total", "tiles"]
)
def _unzoom_kernel(
    windows_ptr,
    tiles_ptr,
    mesh_ptr,
    edges_ptr,
    boxes_ptr,
    valid_ptr,
    source_valid_ptr,
    sizes,
    source_sizes,
    stride_mb,
    stride_eb,
    stride_bb,
    stride_vb,
    stride_sb,
    h,
    w,
    tiles,
    total,
    HOMOGRAPHY: tl.constexpr,
    BORDER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Program (block of targets of a level, b)."""
    b = tl.program_id(1).to(tl.int64)
    level, height, width, start, row, column = _find_block(tl.program_id(0), sizes, ROWS, COLUMNS)
    valid, source_valid = b * stride_vb + 2 * level, b * stride_sb + 2 * level
    extent_y, extent_x = extent_of(valid_ptr, valid, height), extent_of(valid_ptr, valid + 1, width)
    source_y = extent_of(source_valid_ptr, source_valid, select(source_sizes, 2 * level).to(tl.int32))
    source_x = extent_of(source_valid_ptr, source_valid + 1, select(source_sizes, 2 * level + 1).to(tl.int32))
    r = row + tl.arange(0, ROWS)[:, None]
    k = column + tl.arange(0, COLUMNS)[None, :]
    x, y = k.to(tl.float64), r.to(tl.float64)
    reads = (r < extent_y) & (k < extent_x) & (source_y > 0) & (source_x > 0)

    # The first enclosing tile, as twice its number, and 1 more if it is mirrored there.
    edges_ptr += b * stride_eb + level * 4 * h * w
    boxes_ptr += b * stride_bb + level * 4 * tiles
    owner = tl.full([ROWS, COLUMNS], _NONE, tl.int32)
    for t0 in range(0, tiles, CHUNK):
        t = t0 + tl.arange(0, CHUNK)
        left = tl.load(boxes_ptr + t, mask=t < tiles, other=_NONE)
        right = tl.load(boxes_ptr + tiles + t, mask=t < tiles, other=0)
        top = tl.load(boxes_ptr + 2 * tiles + t, mask=t < tiles, other=0)
        bottom = tl.load(boxes_ptr + 3 * tiles + t, mask=t < tiles, other=0)
        meets = (left < column + COLUMNS) & (right >= column) & (top < row + ROWS) & (bottom > row)
        waiting = tl.where(meets, t, _NONE)
        tile = tl.min(waiting, 0)
        while tile < _NONE:
            number = _winding_of(edges_ptr, h * w, w, tile, x, y)
            code = tl.where(number > 0, 2 * tile + 1, 2 * tile)
            owner = tl.where((number != 0) & (owner == _NONE), code, owner)
            waiting = tl.where(waiting == tile, _NONE, waiting)
            tile = tl.min(waiting, 0)

    owned = reads & (owner < _NONE)
    tile = tl.where(owned, owner >> 1, 0)
    scale_y, scale_x = tl.maximum(extent_y - 1, 1).to(tl.float64), tl.maximum(extent_x - 1, 1).to(tl.float64)
    shift_y, shift_x = tl.where(extent_y == 1, 0.5, 0.0), tl.where(extent_x == 1, 0.5, 0.0)
    mesh_ptr += b * stride_mb
    patch = load_patch(mesh_ptr, w, tile, scale_x, scale_y, HOMOGRAPHY)
    f, g = solve(patch, x + shift_x * scale_x, y + shift_y * scale_y, (owner & 1) == 1, HOMOGRAPHY)
    f, g = tl.minimum(tl.maximum(f, -_RIM), 1.0 + _RIM), tl.minimum(tl.maximum(g, -_RIM), 1.0 + _RIM)
    u, v = (tile % (w - 1) + f) / (w - 1), (tile // (w - 1) + g) / (h - 1)
    u, v = tl.minimum(tl.maximum(u, 0.0), 1.0), tl.minimum(tl.maximum(v, 0.0), 1.0)
    inside = owned
    if BORDER:
        lost = reads & (owner == _NONE)
        if tl.max(tl.where(lost, 1, 0)) > 0:
            near_u, near_v = _nearest(
                *(mesh_ptr, h, w, shift_x, shift_y, scale_x, scale_y, tl.where(lost, x, 0.0), tl.where(lost, y, 0.0))
            )
            u, v = tl.where(lost, near_u, u), tl.where(lost, near_v, v)
            inside = owned | (lost & (u >= 0))
    target = b * total + start + r * width + k
    mask = (r < height) & (k < width)
    x, y = tl.where(inside, u * (source_x - 1), -1.0), tl.where(inside, v * (source_y - 1), -1.0)
    tl.store(windows_ptr + b * total + target, x, mask=mask)
    tl.store(windows_ptr + (b + 1) * total + target, y, mask=mask)
    tl.store(tiles_ptr + target, tl.where(owned, tile, -1), mask=mask)


def outlines(mesh: Tensor, sizes: list[int], valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Edges `[1 or B, levels, 4, h * w]` and boxes `[1 or B, levels, 4, tiles]` of `_outline_kernel`."""
    batch, (h, w), levels = common_batch(mesh, valid), mesh.shape[1:3], len(sizes) // 2
    edges = mesh.new_empty(batch, levels, 4, h * w, dtype=torch.float64)
    boxes = mesh.new_empty(batch, levels, 4, (h - 1) * (w - 1), dtype=torch.int32)
    _outline_kernel[(triton.cdiv(h * w, _VERTICES), levels, batch)](
        *(edges, boxes, mesh, valid, pack(*sizes), batch_stride(mesh), batch_stride(valid), h, w),
        BLOCK=_VERTICES,
        **EXACT,
    )
    return edges, boxes


def common_batch(*tensors: Tensor | None) -> int:
    """The batch to which 1 broadcasts."""
    return next((len(t) for t in tensors if t is not None and len(t) != 1), 1)


def launch(
    mesh: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    homography: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """`positions` of contiguous arguments."""
    batch, (h, w) = common_batch(mesh, valid, source_valid), mesh.shape[1:3]
    total = sum(height * width for height, width in zip(sizes[::2], sizes[1::2], strict=True))
    windows, tiles = mesh.new_empty(batch, 2, total), mesh.new_empty(batch, total, dtype=torch.int32)
    grid = (blocks_of(sizes), batch)
    extents, packed = (valid, source_valid), (pack(*sizes), pack(*source_sizes))
    strides = (batch_stride(valid), batch_stride(source_valid))
    options: dict[str, Any] = {"HOMOGRAPHY": homography, **BLOCK, **EXACT}
    if not inverse:
        _zoom_kernel[grid](
            *(windows, tiles, mesh, *extents, *packed, batch_stride(mesh), *strides, h, w, total), **options
        )
        return windows, tiles
    edges, boxes = outlines(mesh, sizes, valid)
    _unzoom_kernel[grid](
        *(windows, tiles, mesh, edges, boxes, *extents, *packed),
        *(*map(batch_stride, (mesh, edges, boxes)), *strides, h, w, (h - 1) * (w - 1), total),
        BORDER=border,
        CHUNK=_CHUNK,
        **options,
    )
    return windows, tiles
