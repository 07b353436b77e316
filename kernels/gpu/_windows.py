"""Triton kernels of the `axis` family: windows, what each target row and column reads; all levels in one launch."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import blocks_of, device_of, find_segment, pack, select
from fastwarp.kernels.gpu._pieces import BLOCKS, batch_stride, locate, nan_of, store_shares, sum_shares, value
from fastwarp.kernels.layout import common_batch


@triton.jit
def _centre(knots_ptr, n, nan, k, extent, source, INVERSE: tl.constexpr, COLUMNS: tl.constexpr):
    """Centre of the targets k, and what its gradient needs.

    Returns the centre, whether the target is inside the range of T~, whether it moves with the knots, and its piece,
    fraction and two knots.
    """
    x = tl.where(extent > 1, k.to(tl.float64) / tl.maximum(extent - 1, 1), 0.5) + nan
    inside = x == x
    if INVERSE:
        first = tl.load(knots_ptr).to(tl.float64)
        last = tl.load(knots_ptr + n - 1).to(tl.float64)
        inside = (x >= first) & (x <= last)
        x = tl.where(x < first, first, tl.where(x > last, last, x))
    piece, f, start, end = locate(knots_ptr, n, x, INVERSE, COLUMNS)
    t = value(piece, f, start, end, n, INVERSE)
    moves = inside & (t >= 0) & (t <= 1)
    centre = tl.where(t < 0, 0.0, tl.where(t > 1, 1.0, t)) * (source - 1)
    return centre, inside | (x != x), moves, piece, f, start, end


@triton.jit
def _extent(valid_ptr, offset, whole):
    if valid_ptr is None:
        return whole
    else:
        return tl.minimum(tl.maximum(tl.load(valid_ptr + offset), 0), whole).to(tl.int32)


@triton.jit
def _segment(pid, sizes, source_sizes, valid_ptr, source_valid_ptr, valid_offset, source_offset, ROWS: tl.constexpr):
    """First target of the segment, its size, targets of this program, and the extents of target and source."""
    segment, size, start, k0 = find_segment(pid, sizes, ROWS)
    source = select(source_sizes, segment).to(tl.int32)
    extent = _extent(valid_ptr, valid_offset + segment, size)
    return segment, size, start, k0, extent, _extent(source_valid_ptr, source_offset + segment, source)


@triton.jit
def _spacing(upper, lower, k, extent, source):
    """Mean distance of the neighbours' centres (of one neighbour's at the ends), and its derivative by the upper."""
    share = tl.where((k > 0) & (k < extent - 1), 0.5, 1.0)
    return tl.where(extent == 1, source - 1.0, (upper - lower) * share), share


@triton.jit(do_not_specialize=["stride_yb", "stride_xb", "stride_vb", "stride_sb", "h", "w", "total"])
def _axis_windows_kernel(
    windows_ptr,
    knots_y_ptr,
    knots_x_ptr,
    valid_ptr,
    source_valid_ptr,
    sizes,
    source_sizes,
    stride_yb,
    stride_xb,
    stride_vb,
    stride_sb,
    h,
    w,
    total,
    INVERSE: tl.constexpr,
    ANTIALIAS: tl.constexpr,
    BORDER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (block of targets of one axis of one level, b)."""
    b = tl.program_id(1).to(tl.int64)
    segment, size, offset, k0, extent, source = _segment(
        *(tl.program_id(0), sizes, source_sizes, valid_ptr, source_valid_ptr, b * stride_vb, b * stride_sb, ROWS)
    )
    knots_ptr = knots_y_ptr + b * stride_yb
    n = h
    if segment % 2 == 1:
        knots_ptr = knots_x_ptr + b * stride_xb
        n = w
    nan = nan_of(knots_y_ptr + b * stride_yb, h, COLUMNS) + nan_of(knots_x_ptr + b * stride_xb, w, COLUMNS)
    k = k0 + tl.arange(0, ROWS)
    centre, inside, _, _, _, _, _ = _centre(knots_ptr, n, nan, k, extent, source, INVERSE, COLUMNS)
    width = tl.full([ROWS], 1.0, tl.float64)
    if ANTIALIAS:
        after, before = tl.minimum(k + 1, extent - 1), tl.maximum(k - 1, 0)
        upper, _, _, _, _, _, _ = _centre(knots_ptr, n, nan, after, extent, source, INVERSE, COLUMNS)
        lower, _, _, _, _, _, _ = _centre(knots_ptr, n, nan, before, extent, source, INVERSE, COLUMNS)
        spacing, _ = _spacing(upper, lower, k, extent, source)
        width = tl.where(tl.abs(spacing) > 1, tl.abs(spacing), 1.0)
    reads = (k < extent) & (source > 0)
    if not BORDER:
        reads = reads & inside
    out_ptr = windows_ptr + b * 2 * total + offset + k
    tl.store(out_ptr, tl.where(reads, centre, 0.0), mask=k < size)
    tl.store(out_ptr + total, tl.where(reads, width, 0.0), mask=k < size)


@triton.jit
def _through_width(grad_ptr, k, upper, lower, reads, extent, source):
    """Gradient of the upper of two centres through the half-widths of targets k; the lower one gets minus that."""
    spacing, share = _spacing(upper, lower, k, extent, source)
    grad = tl.load(grad_ptr + k, mask=reads & (extent > 1), other=0).to(tl.float64)
    return tl.where(tl.abs(spacing) > 1, tl.where(spacing < 0, -grad, grad) * share, 0.0)


@triton.jit(do_not_specialize=["stride_yb", "stride_xb", "stride_vb", "stride_sb", "h", "w", "total"])
def _axis_windows_backward_kernel(
    pieces_ptr,
    shares_ptr,
    grad_ptr,
    knots_y_ptr,
    knots_x_ptr,
    valid_ptr,
    source_valid_ptr,
    sizes,
    source_sizes,
    stride_yb,
    stride_xb,
    stride_vb,
    stride_sb,
    h,
    w,
    total,
    INVERSE: tl.constexpr,
    ANTIALIAS: tl.constexpr,
    BORDER: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (block of targets of one axis of one level, b): what each target gives to its two knots."""
    b = tl.program_id(1).to(tl.int64)
    segment, size, offset, k0, extent, source = _segment(
        *(tl.program_id(0), sizes, source_sizes, valid_ptr, source_valid_ptr, b * stride_vb, b * stride_sb, ROWS)
    )
    knots_ptr = knots_y_ptr + b * stride_yb
    n = h
    if segment % 2 == 1:
        knots_ptr = knots_x_ptr + b * stride_xb
        n = w
    nan = nan_of(knots_y_ptr + b * stride_yb, h, COLUMNS) + nan_of(knots_x_ptr + b * stride_xb, w, COLUMNS)
    grad_ptr += b * 2 * total + offset
    k = k0 + tl.arange(0, ROWS)
    centre, inside, moves, piece, f, start, end = _centre(knots_ptr, n, nan, k, extent, source, INVERSE, COLUMNS)
    reads = (k < extent) & (source > 0)
    grad = tl.load(grad_ptr + k, mask=reads & (inside | BORDER), other=0).to(tl.float64)
    if ANTIALIAS:
        # A centre sets the half-widths of its neighbours, and its own at the ends.
        last, width_ptr = extent - 1, grad_ptr + total
        before, after = tl.maximum(k - 1, 0), tl.minimum(k + 1, last)
        before2, after2 = tl.maximum(k - 2, 0), tl.minimum(k + 2, last)
        c1 = _centre(knots_ptr, n, nan, before, extent, source, INVERSE, COLUMNS)
        c2 = _centre(knots_ptr, n, nan, after, extent, source, INVERSE, COLUMNS)
        c3 = _centre(knots_ptr, n, nan, before2, extent, source, INVERSE, COLUMNS)
        c4 = _centre(knots_ptr, n, nan, after2, extent, source, INVERSE, COLUMNS)
        own = _through_width(width_ptr, k, c2[0], c1[0], reads & (inside | BORDER), extent, source)
        grad += tl.where(k == last, own, tl.where(k == 0, -own, 0.0))
        reads1, reads2 = reads & (k > 0) & (c1[1] | BORDER), reads & (k < last) & (c2[1] | BORDER)
        grad += _through_width(width_ptr, before, centre, c3[0], reads1, extent, source)
        grad -= _through_width(width_ptr, after, c4[0], centre, reads2, extent, source)
    grad = tl.where(moves & reads, grad * (source - 1), 0.0)
    if segment % 2 == 1:
        piece += h  # knots of y, then of x
    tl.store(pieces_ptr + b * total + offset + k, piece, mask=k < size)
    store_shares(
        *(shares_ptr + b * 2 * total + offset, total, k, k < size, piece, f, start, end, n, grad), INVERSE=INVERSE
    )


def _launch(
    kernel: Any,
    tensors: list[Tensor],
    knots: tuple[Tensor, Tensor],
    sizes: list[int],
    source_sizes: list[int],
    batch: int,
    options: tuple[bool, bool, bool],
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> None:
    broadcast = [*knots, valid, source_valid]
    broadcast = [None if t is None else t.contiguous() for t in broadcast]
    grid = (blocks_of(tuple(sizes), BLOCKS["ROWS"]), batch)
    kernel[grid](
        *(*tensors, *broadcast, pack(*sizes), pack(*source_sizes)),
        *(*(batch_stride(t) for t in broadcast), knots[0].shape[1], knots[1].shape[1], sum(sizes)),
        **dict(zip(("INVERSE", "ANTIALIAS", "BORDER"), options, strict=True)),
        **BLOCKS,
    )


def axis_windows(
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    antialias: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> Tensor:
    """Centres and half-widths `[B, 2, sum(sizes)]` in source pixels, for every row and column of every level."""
    batch = common_batch(knots_y, knots_x, valid, source_valid)
    windows = knots_y.new_empty(batch, 2, sum(sizes))
    options = (inverse, antialias, border)
    with device_of(knots_y):
        _launch(
            *(_axis_windows_kernel, [windows], (knots_y, knots_x), sizes, source_sizes, batch, options),
            *(valid, source_valid),
        )
    return windows


def axis_windows_backward(
    grad: Tensor,
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    antialias: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients to the knots of both axes."""
    batch, _, total = grad.shape
    pieces = grad.new_empty(batch, total, dtype=torch.int32)
    shares = grad.new_empty(batch, 2, total, dtype=torch.float64)
    options = (inverse, antialias, border)
    with device_of(grad):
        tensors = [pieces, shares, grad.contiguous()]
        kernel = _axis_windows_backward_kernel
        _launch(kernel, tensors, (knots_y, knots_x), sizes, source_sizes, batch, options, valid, source_valid)
        grad_y, grad_x = sum_shares(pieces, shares, knots_y.contiguous(), knots_x.contiguous())
    return grad_y, grad_x
