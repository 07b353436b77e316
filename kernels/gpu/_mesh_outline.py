"""Triton kernel of the `mesh` family: what is the same for all targets of a level of an inverse, made before it.

That is the vertices of the widened mesh in units of targets, the slopes of the edges and the boxes of the tiles. Where
a level has few targets for its tiles, a block of targets would meet most tiles. There every tile is asked about the
targets in its box, one thread for a tile. A target goes to the lowest number, in whatever order they come.
"""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import pack, select, unpack
from fastwarp.kernels.gpu._mesh_tiles import UNFUSED, centre_of, is_finite, slope, tied, widened, winding
from fastwarp.kernels.gpu._pieces import batch_stride
from fastwarp.kernels.layout import common_batch

NONE: tl.constexpr = tl.constexpr(2**31 - 1)
"""Owner of what no tile encloses."""
_VERTICES = 64
_FEW: tl.constexpr = tl.constexpr(16)  # targets for each tile, up to which tiles look for their targets


@functools.lru_cache(256)
def targets_of(*sizes: int) -> list[int]:
    """How many there are in each level."""
    return [height * width for height, width in zip(sizes[::2], sizes[1::2], strict=True)]


@triton.jit
def extent_of(valid_ptr, offset, whole):
    if valid_ptr is None:
        return whole
    else:
        return tl.minimum(tl.maximum(tl.load(valid_ptr + offset), 0), whole).to(tl.int32)


@triton.jit
def are_few(height, width, h, w):
    """Whether the tiles of a level look for their targets, not the targets for their tiles."""
    return height.to(tl.int64) * width <= (h - 1).to(tl.int64) * (w - 1) * _FEW


@triton.jit
def _claim(
    owners_ptr, n, corners, slopes, box, extent_x, extent_y, width, centre_x, centre_y, unit_x, unit_y, shift_x, shift_y
):
    """Every tile n takes the targets that it encloses from tiles of higher numbers, as `_unzoom_kernel` counts them."""
    ax, ay, bx, by, cx, cy, dx, dy = corners
    ab, bd, cd, ac = slopes
    left, right, top, bottom = box
    left, right = tl.maximum(left, 0), tl.minimum(right, extent_x - 1)
    across = tl.maximum(right - left + 1, 1)
    count = tl.where(right < left, 0, across * tl.maximum(bottom - top, 0))
    for s in range(tl.max(count, 0)):
        r, k = top + s // across, left + s % across
        x, y = k.to(tl.float64), r.to(tl.float64)
        tied_x, tied_y = tied(x, (centre_x - shift_x) * unit_x), tied(y, (centre_y - shift_y) * unit_y)
        number = winding(ax, ay, bx, by, cx, cy, dx, dy, ab, bd, cd, ac, tied_x, y, tied_y)
        code = tl.where(number > 0, 2 * n + 1, 2 * n)
        tl.atomic_min(owners_ptr + r * width + k, code, mask=(number != 0) & (s < count), sem="relaxed")


@triton.jit(do_not_specialize=["stride_mb", "stride_vb", "h", "w", "total"])
def _outline_kernel(
    edges_ptr,
    boxes_ptr,
    owners_ptr,
    mesh_ptr,
    valid_ptr,
    sizes,
    stride_mb,
    stride_vb,
    h,
    w,
    total,
    BLOCK: tl.constexpr,
):
    """Program (row of vertices, level, b).

    `edges_ptr`: x, y of every vertex of the widened mesh, slopes of the edges to its right and below it.
    `boxes_ptr`: of the tile whose corner A it is, the first and last column that it can own, its first row, and the one
    after its last; without rows if there is no such tile. Then first row and last for whole rows of tiles.
    `owners_ptr`, unless None: of the targets of a level that has few, what `_unzoom_kernel` calls owner.
    """
    i, level = tl.program_id(0), tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    valid = b * stride_vb + 2 * level
    height, width = select(sizes, 2 * level).to(tl.int32), select(sizes, 2 * level + 1).to(tl.int32)
    extent_y, extent_x = extent_of(valid_ptr, valid, height), extent_of(valid_ptr, valid + 1, width)
    few = are_few(height, width, h, w)
    start = b * total
    for s in tl.static_range(len(sizes) // 2):
        start += tl.where(s < level, unpack(sizes[2 * s]).to(tl.int64) * unpack(sizes[2 * s + 1]).to(tl.int64), 0)
    unit_y, unit_x = tl.maximum(extent_y - 1, 1).to(tl.float64), tl.maximum(extent_x - 1, 1).to(tl.float64)
    shift_y, shift_x = tl.where(extent_y == 1, 0.5, 0.0), tl.where(extent_x == 1, 0.5, 0.0)
    mesh_ptr += b * stride_mb
    centre_x, centre_y = centre_of(mesh_ptr, h, w)
    vertices = h * w
    edges_ptr += (b * tl.num_programs(1) + level) * 4 * vertices
    boxes_ptr += (b * tl.num_programs(1) + level) * (4 * vertices + 2 * h)
    first, last = tl.full([BLOCK], NONE, tl.int32), tl.zeros([BLOCK], tl.int32)
    for j0 in range(0, w, BLOCK):
        j = j0 + tl.arange(0, BLOCK)
        n = i * w + j
        # Beside the last tiles, their vertices again.
        next_i, next_j = tl.minimum(i + 1, h - 1), tl.minimum(j + 1, w - 1)
        ax, ay = widened(mesh_ptr, i, j, h, w, j < w)
        bx, by = widened(mesh_ptr, i, next_j, h, w, j < w)
        cx, cy = widened(mesh_ptr, next_i, j, h, w, j < w)
        dx, dy = widened(mesh_ptr, next_i, next_j, h, w, j < w)
        ax, ay = (ax - shift_x) * unit_x, (ay - shift_y) * unit_y
        bx, by = (bx - shift_x) * unit_x, (by - shift_y) * unit_y
        cx, cy = (cx - shift_x) * unit_x, (cy - shift_y) * unit_y
        dx, dy = (dx - shift_x) * unit_x, (dy - shift_y) * unit_y
        tl.store(edges_ptr + 4 * n, ax, mask=j < w)
        tl.store(edges_ptr + 4 * n + 1, ay, mask=j < w)
        slopes = (slope(ax, ay, bx, by), slope(bx, by, dx, dy), slope(cx, cy, dx, dy), slope(ax, ay, cx, cy))
        tl.store(edges_ptr + 4 * n + 2, slopes[0], mask=j < w)
        tl.store(edges_ptr + 4 * n + 3, slopes[3], mask=j < w)

        # Crossings lie between the ends of their edge but for rounding, which is relative to these. A tile with a
        # vertex that is not finite has no rows.
        low = tl.minimum(tl.minimum(ax, bx), tl.minimum(cx, dx))
        high = tl.maximum(tl.maximum(ax, bx), tl.maximum(cx, dx))
        slack = 1.0 + (tl.abs(low) + tl.abs(high)) * 2.0**-40
        left = tl.minimum(tl.maximum(low - slack, 0.0), extent_x).to(tl.int32)
        right = tl.minimum(tl.maximum(high + slack, -1.0), extent_x).to(tl.int32)
        low = tl.minimum(tl.minimum(ay, by), tl.minimum(cy, dy))
        high = tl.maximum(tl.maximum(ay, by), tl.maximum(cy, dy))
        whole = is_finite(ax, bx, cx, dx) & is_finite(ay, by, cy, dy) & (i < h - 1) & (j < w - 1)
        top = tl.where(whole, tl.ceil(tl.minimum(tl.maximum(low, 0.0), extent_y)), 0.0).to(tl.int32)
        bottom = tl.where(whole, tl.floor(tl.minimum(tl.maximum(high, -1.0), extent_y - 1)) + 1, 0.0).to(tl.int32)
        tl.store(boxes_ptr + n, left, mask=j < w)
        tl.store(boxes_ptr + vertices + n, right, mask=j < w)
        tl.store(boxes_ptr + 2 * vertices + n, top, mask=j < w)
        tl.store(boxes_ptr + 3 * vertices + n, bottom, mask=j < w)
        first = tl.minimum(first, tl.where(bottom > top, top, NONE))
        last = tl.maximum(last, bottom)
        if owners_ptr is not None and few:
            _claim(
                *(owners_ptr + start, n, (ax, ay, bx, by, cx, cy, dx, dy), slopes, (left, right, top, bottom)),
                *(extent_x, extent_y, width, centre_x, centre_y, unit_x, unit_y, shift_x, shift_y),
            )
    tl.store(boxes_ptr + 4 * vertices + i, tl.min(first, 0))
    tl.store(boxes_ptr + 4 * vertices + h + i, tl.max(last, 0))


def outlines(mesh: Tensor, sizes: list[int], valid: Tensor | None, owned: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Edges `[1 or B, levels, h * w, 4]` and boxes `[1 or B, levels, 4 * h * w + 2 * h]` of `_outline_kernel`, and its
    owners `[1 or B, P]`: None unless `owned`, or if no level has few targets."""
    batch, (h, w), levels = common_batch(mesh, valid), mesh.shape[1:3], len(sizes) // 2
    counts = targets_of(*sizes)
    owners = None
    if owned and min(counts) <= (h - 1) * (w - 1) * _FEW.value:
        owners = mesh.new_full((batch, sum(counts)), NONE.value, dtype=torch.int32)
    edges = mesh.new_empty(batch, levels, h * w, 4, dtype=torch.float64)
    boxes = mesh.new_empty(batch, levels, 4 * h * w + 2 * h, dtype=torch.int32)
    _outline_kernel[(h, levels, batch)](
        *(edges, boxes, owners, mesh, valid, pack(*sizes), batch_stride(mesh), batch_stride(valid), h, w, sum(counts)),
        BLOCK=_VERTICES,
        num_warps=2,
        **UNFUSED,
    )
    return edges, boxes, owners
