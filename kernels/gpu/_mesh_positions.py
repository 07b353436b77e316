"""Triton kernels of the `mesh` family: what each target reads, and from which tile; all levels in one launch.

The inverse takes two. The first is in `_mesh_outline`. In the second a program finds the tiles whose box meets its
block of targets, asks each of them, and solves once for every target.

Whose a target is follows from float64 that nothing fuses (`UNFUSED`), so that it is the same on every backend. Float32
meshes are solved in float32, relative to a tile's corner, and again in float64 where that misses the target.
"""

import functools
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, pack, select, unpack
from fastwarp.kernels.gpu._mesh_outline import NONE, are_few, extent_of, outlines, targets_of
from fastwarp.kernels.gpu._mesh_tiles import UNFUSED, centre_of, evaluate, load_patch, scaled, solve, tied, winding
from fastwarp.kernels.gpu._pieces import batch_stride, nan_of
from fastwarp.kernels.layout import common_batch

_RIM: tl.constexpr = tl.constexpr(1 / 64)  # how far beyond its tile a preimage may lie, in tiles
# Targets, and relative to the tile: a solution in float32 that T~ maps farther off needs float64.
_MISS: tl.constexpr = tl.constexpr(5e-4)
_MISS_OF_TILE: tl.constexpr = tl.constexpr(2e-6)

# Few tiles meet a block of 16 x 32 where tiles have 20 x 20 targets. Asking one costs most of its instructions once per
# thread, so a thread has 4 targets, or 2 where float64 would take too many registers.
_ROWS, _COLUMNS = (32, 64) if INTERPRETED else (16, 32)
_CHUNK = 1024 if INTERPRETED else 256
_SCAN: tl.constexpr = tl.constexpr(1024)  # coordinates that a program looks at together for a NaN


@functools.lru_cache(256)
def _blocks(rows: int, columns: int, *sizes: int) -> int:
    """Blocks of targets in all levels."""
    sides = zip(sizes[::2], sizes[1::2], strict=True)
    return sum(cdiv(height, rows) * cdiv(width, columns) for height, width in sides)


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
    i, j = tl.where(reads, i, 0), tl.where(reads, j, 0)
    tile = i * (w - 1) + j
    patch = load_patch(mesh_ptr + b * stride_mb + 2 * (tile + i), w, tl.float64, HOMOGRAPHY)
    x, y = evaluate(patch, f, g, HOMOGRAPHY)
    x, y = patch[0] + x, patch[1] + y
    nan = tl.zeros([ROWS, COLUMNS], tl.float64) + nan_of(mesh_ptr + b * stride_mb, 2 * h * w, _SCAN)
    x = tl.where(x < 0, 0.0, tl.where(x > 1, 1.0, x)) * (source_x - 1) + nan
    y = tl.where(y < 0, 0.0, tl.where(y > 1, 1.0, y)) * (source_y - 1) + nan
    tile = tl.where(nan == nan, tile, -1)
    target = b * total + start + r * width + k
    _store(windows_ptr, tiles_ptr, target, b * total, total, x, y, tile, reads, (r < height) & (k < width))


@triton.jit
def _store(windows_ptr, tiles_ptr, target, before, total, x, y, tile, reads, mask):
    """Writes windows and tiles of the targets, `before` of which are other images'; -1 where nothing is read."""
    tl.store(windows_ptr + before + target, tl.where(reads, x, -1.0), mask=mask)
    tl.store(windows_ptr + before + total + target, tl.where(reads, y, -1.0), mask=mask)
    tl.store(tiles_ptr + target, tl.where(reads, tile, -1), mask=mask)


@triton.jit
def _winding_of(a_ptr, w, x, y, row):
    """Winding number of one tile about targets, from the edges at its corner A."""
    c_ptr = a_ptr + 4 * w
    ax, ay, bx, by = tl.load(a_ptr), tl.load(a_ptr + 1), tl.load(a_ptr + 4), tl.load(a_ptr + 5)
    cx, cy, dx, dy = tl.load(c_ptr), tl.load(c_ptr + 1), tl.load(c_ptr + 4), tl.load(c_ptr + 5)
    ab, bd, cd, ac = tl.load(a_ptr + 2), tl.load(a_ptr + 7), tl.load(c_ptr + 2), tl.load(a_ptr + 3)
    return winding(ax, ay, bx, by, cx, cy, dx, dy, ab, bd, cd, ac, x, y, row)


@triton.jit
def _nearest(mesh_ptr, h, w, shift_x, shift_y, unit_x, unit_y, x, y):
    """Zoomed position of the point of the outline that is nearest to (x, y); below 0 if none is, for NaN."""
    shape: tl.constexpr = (x + y).shape
    best = tl.full(shape, float("inf"), tl.float64)
    u, v = tl.full(shape, -1.0, tl.float64), tl.full(shape, -1.0, tl.float64)
    across, down = w - 1, h - 1
    # Top row, bottom row, left column, right column.
    for n in range(2 * (across + down)):
        along_x = n < 2 * across
        side = tl.where(along_x, n // across, (n - 2 * across) // down)
        at = tl.where(along_x, n % across, (n - 2 * across) % down)
        vertex = tl.where(along_x, side * down * w + at, at * w + side * across)
        a_ptr, b_ptr = mesh_ptr + 2 * vertex, mesh_ptr + 2 * (vertex + tl.where(along_x, 1, w))
        ax = (tl.load(a_ptr).to(tl.float64) - shift_x) * unit_x
        ay = (tl.load(a_ptr + 1).to(tl.float64) - shift_y) * unit_y
        bx = (tl.load(b_ptr).to(tl.float64) - shift_x) * unit_x
        by = (tl.load(b_ptr + 1).to(tl.float64) - shift_y) * unit_y
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
    do_not_specialize=["stride_mb", "stride_vb", "stride_sb", "stride_eb", "stride_bb", "stride_ob", "h", "w", "total"]
)
def _unzoom_kernel(
    windows_ptr,
    tiles_ptr,
    mesh_ptr,
    edges_ptr,
    boxes_ptr,
    owners_ptr,
    valid_ptr,
    source_valid_ptr,
    sizes,
    source_sizes,
    stride_mb,
    stride_eb,
    stride_bb,
    stride_ob,
    stride_vb,
    stride_sb,
    h,
    w,
    total,
    HOMOGRAPHY: tl.constexpr,
    BORDER: tl.constexpr,
    EXACT: tl.constexpr,
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
    # Columns come first: Triton then gives the targets of a thread one row, whose crossings they share.
    r = row + tl.arange(0, ROWS)[None, :]
    k = column + tl.arange(0, COLUMNS)[:, None]
    x, y = k.to(tl.float64), r.to(tl.float64)
    reads = (r < extent_y) & (k < extent_x) & (source_y > 0) & (source_x > 0)

    mesh_ptr += b * stride_mb
    unit_y, unit_x = tl.maximum(extent_y - 1, 1), tl.maximum(extent_x - 1, 1)
    shift_y, shift_x = tl.where(extent_y == 1, 0.5, 0.0), tl.where(extent_x == 1, 0.5, 0.0)
    centre_x, centre_y = centre_of(mesh_ptr, h, w)
    tied_x, tied_y = tied(x, (centre_x - shift_x) * unit_x), tied(y, (centre_y - shift_y) * unit_y)

    # The first enclosing tile: twice the number of its corner A, and 1 more if it is mirrored there.
    vertices = h * w
    edges_ptr += b * stride_eb + level * 4 * vertices
    boxes_ptr += b * stride_bb + level * (4 * vertices + 2 * h)
    target = b * total + start + r * width + k
    mask = (r < height) & (k < width)
    owner = tl.full([COLUMNS, ROWS], NONE, tl.int32)
    first, last, rows = h, -1, h
    if owners_ptr is not None and are_few(height, width, h, w):
        owner = tl.load(owners_ptr + b * stride_ob + start + r * width + k, mask=mask, other=NONE)
        rows = 0
    for i0 in range(0, rows, CHUNK):
        i = i0 + tl.arange(0, CHUNK)
        top = tl.load(boxes_ptr + 4 * vertices + i, mask=i < h, other=NONE)
        bottom = tl.load(boxes_ptr + 4 * vertices + h + i, mask=i < h, other=0)
        meets = (top < row + ROWS) & (bottom > row)
        first = tl.minimum(first, tl.min(tl.where(meets, i, NONE), 0))
        last = tl.maximum(last, tl.max(tl.where(meets, i, -1), 0))
    end = (last + 1) * w
    for n0 in range(first * w, end, CHUNK):
        n = n0 + tl.arange(0, CHUNK)
        left = tl.load(boxes_ptr + n, mask=n < end, other=NONE)
        right = tl.load(boxes_ptr + vertices + n, mask=n < end, other=0)
        top = tl.load(boxes_ptr + 2 * vertices + n, mask=n < end, other=0)
        bottom = tl.load(boxes_ptr + 3 * vertices + n, mask=n < end, other=0)
        meets = (left < column + COLUMNS) & (right >= column) & (top < row + ROWS) & (bottom > row)
        waiting = tl.where(meets, n, NONE)
        vertex = tl.min(waiting, 0)
        while vertex < NONE:
            number = _winding_of(edges_ptr + 4 * vertex, w, tied_x, y, tied_y)
            code = tl.where(number > 0, 2 * vertex + 1, 2 * vertex)
            owner = tl.minimum(owner, tl.where(number != 0, code, NONE))
            waiting = tl.where(waiting == vertex, NONE, waiting)
            vertex = tl.min(waiting, 0)

    owned = reads & (owner < NONE)
    mirrored = (owner & 1) == 1
    vertex = tl.where(owned, owner >> 1, 0)
    a_ptr = mesh_ptr + 2 * vertex
    REAL: tl.constexpr = tl.float64 if EXACT else tl.float32
    f, g, found = _solve_targets(*(a_ptr, w, k, r, shift_x, shift_y, unit_x, unit_y, mirrored, REAL, HOMOGRAPHY))
    if not EXACT:
        doubtful = owned & ~found
        if tl.max(tl.where(doubtful, 1, 0)) > 0:
            better_f, better_g, _ = _solve_targets(
                *(a_ptr, w, k, r, shift_x, shift_y, unit_x, unit_y, mirrored, tl.float64, HOMOGRAPHY)
            )
            f, g = tl.where(doubtful, better_f.to(REAL), f), tl.where(doubtful, better_g.to(REAL), g)
    f, g = tl.minimum(tl.maximum(f, -_RIM), 1.0 + _RIM), tl.minimum(tl.maximum(g, -_RIM), 1.0 + _RIM)
    i = vertex // w
    window_x = _to_pixels(vertex - i * w, f, w, source_x, REAL)
    window_y = _to_pixels(i, g, h, source_y, REAL)
    inside = owned
    if BORDER:
        outside = reads & (owner == NONE)
        if tl.max(tl.where(outside, 1, 0)) > 0:
            u, v = _nearest(mesh_ptr, h, w, shift_x, shift_y, unit_x, unit_y, x, y)
            window_x = tl.where(outside, (u * (source_x - 1)).to(REAL), window_x)
            window_y = tl.where(outside, (v * (source_y - 1)).to(REAL), window_y)
            inside = owned | (outside & (u >= 0))
    nan = tl.zeros([COLUMNS, ROWS], tl.float64) + nan_of(mesh_ptr, 2 * h * w, _SCAN)
    lost = nan != nan
    inside, owned = inside | (reads & lost), owned & ~lost
    window_x, window_y = tl.where(lost, nan, window_x), tl.where(lost, nan, window_y)
    tl.store(windows_ptr + b * total + target, tl.where(inside, window_x, -1.0), mask=mask)
    tl.store(windows_ptr + (b + 1) * total + target, tl.where(inside, window_y, -1.0), mask=mask)
    tl.store(tiles_ptr + target, tl.where(owned, vertex - i, -1), mask=mask)


@triton.jit
def _solve_targets(
    a_ptr, w, k, r, shift_x, shift_y, unit_x, unit_y, mirrored, REAL: tl.constexpr, HOMOGRAPHY: tl.constexpr
):
    """Local coordinates of targets in the tiles whose corner A is there, and whether T~ hits them from there."""
    patch = load_patch(a_ptr, w, REAL, HOMOGRAPHY)
    unit_x, unit_y = unit_x.to(REAL), unit_y.to(REAL)
    dx = tl.fma(-patch[0], unit_x, k.to(REAL) + shift_x.to(REAL))
    dy = tl.fma(-patch[1], unit_y, r.to(REAL) + shift_y.to(REAL))
    patch = scaled(patch, unit_x, unit_y)
    f, g = solve(patch, dx, dy, mirrored, HOMOGRAPHY)
    at_x, at_y = evaluate(patch, f, g, HOMOGRAPHY)
    size = tl.abs(patch[2]) + tl.abs(patch[3]) + tl.abs(patch[4]) + tl.abs(patch[5])
    found = tl.abs(at_x - dx) + tl.abs(at_y - dy) <= tl.minimum(size * _MISS_OF_TILE, _MISS)
    return f, g, found


@triton.jit
def _to_pixels(tile, f, n, source, REAL: tl.constexpr):
    """The local coordinate in a tile of an axis of n vertices, in pixels of the source."""
    last = (source - 1).to(REAL)
    step = last / (n - 1).to(REAL)
    return tl.minimum(tl.maximum(tl.fma(f, step, tile.to(REAL) * step), 0.0), last)


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
    total = sum(targets_of(*sizes))
    windows, tiles = mesh.new_empty(batch, 2, total), mesh.new_empty(batch, total, dtype=torch.int32)
    extents, packed = (valid, source_valid), (pack(*sizes), pack(*source_sizes))
    strides = (batch_stride(valid), batch_stride(source_valid))
    options: dict[str, Any] = {"HOMOGRAPHY": homography, "ROWS": _ROWS, **UNFUSED}
    if not inverse:
        _zoom_kernel[(_blocks(_ROWS, _COLUMNS, *sizes), batch)](
            *(windows, tiles, mesh, *extents, *packed, batch_stride(mesh), *strides, h, w, total),
            COLUMNS=_COLUMNS,
            **options,
        )
        return windows, tiles
    outline = outlines(mesh, sizes, valid, True)
    exact = homography or mesh.dtype == torch.float64
    columns = _COLUMNS // 2 if exact else _COLUMNS
    _unzoom_kernel[(_blocks(_ROWS, columns, *sizes), batch)](
        *(windows, tiles, mesh, *outline, *extents, *packed),
        *(*map(batch_stride, (mesh, *outline)), *strides, h, w, total),
        BORDER=border,
        EXACT=exact,
        COLUMNS=columns,
        CHUNK=_CHUNK,
        num_warps=8 if border else 4,
        **options,
    )
    return windows, tiles
