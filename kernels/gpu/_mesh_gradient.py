"""Triton kernels of the `mesh` family: the gradient of positions on grids.

A tile's targets lie in a box, so each tile gathers its own: no atomics, and the same sums in every run. The vertices
then sum their up to four tiles.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, pack, select
from fastwarp.kernels.gpu._mesh_outline import extent_of, outlines
from fastwarp.kernels.gpu._mesh_positions import zoomed
from fastwarp.kernels.gpu._mesh_tiles import UNFUSED, evaluate, load_patch, moments, through_inverse, to_corners
from fastwarp.kernels.gpu._pieces import batch_stride, nan_of

_TARGETS = 1024 if INTERPRETED else 128  # 1 per thread of 4 warps: their 8 sums of float64 stay in registers
_VERTICES = 1024 if INTERPRETED else 128


@triton.jit(
    do_not_specialize=["stride_mb", "stride_bb", "stride_vb", "stride_sb", "h", "w", "tiles", "total", "levels"]
)
def _tile_gradients_kernel(
    shares_ptr,
    grad_ptr,
    mesh_ptr,
    windows_ptr,
    tiles_ptr,
    boxes_ptr,
    valid_ptr,
    source_valid_ptr,
    sizes,
    source_sizes,
    stride_mb,
    stride_bb,
    stride_vb,
    stride_sb,
    h,
    w,
    tiles,
    total,
    levels,
    INVERSE: tl.constexpr,
    HOMOGRAPHY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (tile, b): what its targets, level by level and row by row, give to its corners A, B, C, D."""
    tile = tl.program_id(0)
    b = tl.program_id(1).to(tl.int64)
    i, j = tile // (w - 1), tile % (w - 1)
    patch = load_patch(mesh_ptr + b * stride_mb + 2 * (tile + i), w, tl.float64, HOMOGRAPHY)
    zero = tl.zeros([BLOCK], tl.float64)
    sums = (zero, zero, zero, zero, zero, zero, zero, zero)
    start = 0
    for level in range(levels):
        height, width = select(sizes, 2 * level).to(tl.int32), select(sizes, 2 * level + 1).to(tl.int32)
        valid, source_valid = b * stride_vb + 2 * level, b * stride_sb + 2 * level
        extent_y, extent_x = extent_of(valid_ptr, valid, height), extent_of(valid_ptr, valid + 1, width)
        source_y = extent_of(source_valid_ptr, source_valid, select(source_sizes, 2 * level).to(tl.int32))
        source_x = extent_of(source_valid_ptr, source_valid + 1, select(source_sizes, 2 * level + 1).to(tl.int32))
        span_x, span_y = (source_x - 1).to(tl.float64), (source_y - 1).to(tl.float64)
        if INVERSE:
            box_ptr = boxes_ptr + b * stride_bb + level * (4 * h * w + 2 * h) + tile + i
            left, right = tl.load(box_ptr), tl.minimum(tl.load(box_ptr + h * w) + 1, extent_x)
            top, bottom = tl.load(box_ptr + 2 * h * w), tl.load(box_ptr + 3 * h * w)
        else:
            left, right = _run(j, extent_x, w)
            top, bottom = _run(i, extent_y, h)
        across = tl.maximum(right - left, 0)
        count = across * tl.maximum(bottom - top, 0)
        for n0 in range(0, count, BLOCK):
            n = n0 + tl.arange(0, BLOCK)
            r, k = top + n // across, left + n % across
            target = b * total + start + r * width + k
            owned = tl.load(tiles_ptr + target, mask=n < count, other=-1) == tile
            x_ptr = b * total + target
            x = tl.load(grad_ptr + x_ptr, mask=owned, other=0).to(tl.float64) * span_x
            y = tl.load(grad_ptr + x_ptr + total, mask=owned, other=0).to(tl.float64) * span_y
            if INVERSE:
                f = tl.load(windows_ptr + x_ptr, mask=owned, other=0).to(tl.float64) / tl.maximum(span_x, 1.0)
                g = tl.load(windows_ptr + x_ptr + total, mask=owned, other=0).to(tl.float64) / tl.maximum(span_y, 1.0)
                f, g = tl.where(owned, f * (w - 1) - j, 0.5), tl.where(owned, g * (h - 1) - i, 0.5)
                x, y = through_inverse(patch, f, g, -x / (w - 1), -y / (h - 1), HOMOGRAPHY)
            else:
                _, g = zoomed(r, extent_y, h)
                _, f = zoomed(k, extent_x, w)
                at_x, at_y = evaluate(patch, f, g, HOMOGRAPHY)
                at_x, at_y = patch[0] + at_x, patch[1] + at_y
                x, y = tl.where((at_x < 0) | (at_x > 1), 0.0, x), tl.where((at_y < 0) | (at_y > 1), 0.0, y)
            those = moments(patch, f, g, x, y, HOMOGRAPHY)
            # Other tiles' targets have no gradient here, and local coordinates where all is finite.
            sums = (
                sums[0] + those[0],
                sums[1] + those[1],
                sums[2] + those[2],
                sums[3] + those[3],
                sums[4] + those[4],
                sums[5] + those[5],
                sums[6] + those[6],
                sums[7] + those[7],
            )
        start += height * width
    shares = to_corners(
        *(patch, tl.sum(sums[0], 0), tl.sum(sums[1], 0), tl.sum(sums[2], 0), tl.sum(sums[3], 0), tl.sum(sums[4], 0)),
        *(tl.sum(sums[5], 0), tl.sum(sums[6], 0), tl.sum(sums[7], 0), HOMOGRAPHY),
    )
    shares_ptr += b * 8 * tiles + tile
    for n in tl.static_range(8):
        tl.store(shares_ptr + n * tiles, shares[n])


@triton.jit
def _run(tile, extent, n):
    """The targets whose zoomed position may be in a tile of an axis of n vertices: first, and one after the last."""
    steps = (extent - 1).to(tl.float64) / (n - 1)
    first = tl.floor(tile * steps).to(tl.int32) - 1
    return tl.maximum(first, 0), tl.minimum(tl.ceil((tile + 1) * steps).to(tl.int32) + 2, extent)


@triton.jit(do_not_specialize=["stride_mb", "h", "w"])
def _sum_tiles_kernel(grad_ptr, shares_ptr, mesh_ptr, stride_mb, h, w, BLOCK: tl.constexpr):
    """Program (block of vertices, b): the sum over the tiles around a vertex."""
    b = tl.program_id(1).to(tl.int64)
    tiles = (h - 1) * (w - 1)
    n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i, j = n // w, n % w
    shares_ptr += b * 8 * tiles + n - i  # the tile whose corner A is the vertex
    nan = nan_of(mesh_ptr + b * stride_mb, 2 * h * w, BLOCK)
    x, y = tl.zeros([BLOCK], tl.float64) + nan, tl.zeros([BLOCK], tl.float64) + nan
    for corner in tl.static_range(3, -1, -1):
        own_i, own_j = i - corner // 2, j - corner % 2
        mask = (own_i >= 0) & (own_i < h - 1) & (own_j >= 0) & (own_j < w - 1)
        share_ptr = shares_ptr + 2 * corner * tiles - (corner // 2) * (w - 1) - corner % 2
        x += tl.load(share_ptr, mask=mask, other=0)
        y += tl.load(share_ptr + tiles, mask=mask, other=0)
    tl.store(grad_ptr + (b * h * w + n) * 2, x, mask=n < h * w)
    tl.store(grad_ptr + (b * h * w + n) * 2 + 1, y, mask=n < h * w)


def launch(
    grad: Tensor,
    mesh: Tensor,
    windows: Tensor,
    tiles: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    homography: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> Tensor:
    """`positions_backward` of contiguous arguments."""
    # Images that share the mesh and all extents have gradients of their own.
    batch, (h, w) = len(grad), mesh.shape[1:3]
    count = (h - 1) * (w - 1)
    boxes = outlines(mesh, sizes, valid, False)[1] if inverse else None
    shares = mesh.new_empty(batch, 8, count, dtype=torch.float64)
    _tile_gradients_kernel[(count, batch)](
        *(shares, grad, mesh, windows, tiles, boxes, valid, source_valid, pack(*sizes), pack(*source_sizes)),
        *(*map(batch_stride, (mesh, boxes, valid, source_valid)), h, w, count, tiles.shape[1], len(sizes) // 2),
        INVERSE=inverse,
        HOMOGRAPHY=homography,
        BLOCK=_TARGETS,
        **UNFUSED,  # a zoom is clamped here where `positions` did, and a tile projective
    )
    grad_mesh = mesh.new_empty(batch, h, w, 2, dtype=mesh.dtype if len(mesh) == batch else torch.float64)
    _sum_tiles_kernel[(cdiv(h * w, _VERTICES), batch)](
        *(grad_mesh, shares, mesh, batch_stride(mesh), h, w), BLOCK=_VERTICES
    )
    return grad_mesh if len(mesh) == batch else grad_mesh.sum(0, keepdim=True).to(mesh.dtype)
