"""Linear pieces of T~ and T~^-1: where a position falls, its value, and the gradient to its two knots (LZU eq. 5, 7).

Float64 throughout. Knots are found by comparing a position with all of them and counting: they are few.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv

# Targets in rows, knots in columns. A pyramid has a few hundred targets: small blocks spread them over more
# multiprocessors, and 1024 comparisons on 128 threads keep the float64 values in registers.
BLOCKS = {"ROWS": 256 if INTERPRETED else 64, "COLUMNS": 64 if INTERPRETED else 16}


def batch_stride(tensor: Tensor | None) -> int:
    """Elements from one image to the next in a contiguous tensor, 0 where one serves all."""
    return 0 if tensor is None or tensor.shape[0] <= 1 else tensor.stride(0)


@triton.jit
def nan_of(knots_ptr, n, COLUMNS: tl.constexpr):
    """NaN if one of n knots or coordinates of vertices is NaN, else 0: added to a result, it makes that NaN."""
    total = tl.zeros([COLUMNS], tl.float64)
    for k0 in range(0, n, COLUMNS):
        j = k0 + tl.arange(0, COLUMNS)
        knot = tl.load(knots_ptr + j, mask=j < n, other=0).to(tl.float64)
        total += tl.where(knot == knot, 0.0, knot)
    return tl.sum(total, 0)


@triton.jit
def evaluate(knots_ptr, n, u):
    """Piece, fraction, and the two knots of T~ at positions u."""
    position = u * (n - 1)
    piece = tl.where(position > 0, tl.minimum(tl.floor(position), n - 2), 0.0).to(tl.int32)  # NaN: 0
    start = tl.load(knots_ptr + piece).to(tl.float64)
    end = tl.load(knots_ptr + piece + 1).to(tl.float64)
    return piece, position - piece, start, end


@triton.jit
def invert(knots_ptr, n, x, COLUMNS: tl.constexpr):
    """Piece, fraction, and the two knots of T~^-1 at x. Of equal knots the piece towards the inside is taken."""
    first = tl.load(knots_ptr).to(tl.float64)
    last = tl.load(knots_ptr + n - 1).to(tl.float64)
    at_end = x >= last
    bar = tl.where(x > first, x, first)
    piece = tl.zeros_like(x).to(tl.int32)
    for k0 in range(0, n, COLUMNS):
        j = k0 + tl.arange(0, COLUMNS)
        inner = (j > 0) & (j < n - 1)
        knot = tl.load(knots_ptr + j, mask=inner, other=0).to(tl.float64)[None, :]
        below = tl.where(at_end[:, None], knot < last, knot <= bar[:, None]) & inner[None, :]
        piece += tl.sum(below.to(tl.int32), 1)
    start = tl.load(knots_ptr + piece).to(tl.float64)
    end = tl.load(knots_ptr + piece + 1).to(tl.float64)
    return piece, (x - start) * slope(start, end), start, end


@triton.jit
def slope(start, end):
    """1 / (end - start), 0 where a piece has no extent."""
    delta = end - start
    return tl.where(delta == 0, 0.0, 1.0 / tl.where(delta == 0, 1.0, delta))


@triton.jit
def locate(knots_ptr, n, x, INVERSE: tl.constexpr, COLUMNS: tl.constexpr):
    if INVERSE:
        return invert(knots_ptr, n, x, COLUMNS)
    else:
        return evaluate(knots_ptr, n, x)


@triton.jit
def value(piece, f, start, end, n, INVERSE: tl.constexpr):
    if INVERSE:
        return (piece + f) / (n - 1)
    else:
        return (1.0 - f) * start + f * end


@triton.jit
def store_shares(shares_ptr, stride, k, mask, piece, f, start, end, n, grad, INVERSE: tl.constexpr):
    """Writes the gradients of the two knots that a target was made from: rows 0 and 1 of `shares_ptr`."""
    if INVERSE:
        grad = -grad * slope(start, end) / (n - 1)
    tl.store(shares_ptr + k, (1.0 - f) * grad, mask=mask)
    tl.store(shares_ptr + stride + k, f * grad, mask=mask)


@triton.jit(do_not_specialize=["stride_yb", "stride_xb", "total", "h", "w"])
def _sum_shares_kernel(
    grad_y_ptr,
    grad_x_ptr,
    pieces_ptr,
    shares_ptr,
    knots_y_ptr,
    knots_x_ptr,
    stride_yb,
    stride_xb,
    total,
    h,
    w,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (block of knots, b) sums what all targets give to its knots, in a fixed order. Knots of y, then of x."""
    b = tl.program_id(1).to(tl.int64)
    pieces_ptr += b * total
    shares_ptr += b * 2 * total
    q = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    grad = tl.zeros([COLUMNS], tl.float64)
    for k0 in range(0, total, ROWS):
        k = k0 + tl.arange(0, ROWS)
        piece = tl.load(pieces_ptr + k, mask=k < total, other=-2)[:, None]
        to_start = tl.load(shares_ptr + k, mask=k < total, other=0)[:, None]
        to_end = tl.load(shares_ptr + total + k, mask=k < total, other=0)[:, None]
        share = tl.where(piece == q[None, :], to_start, tl.where(piece + 1 == q[None, :], to_end, 0.0))
        grad += tl.sum(share, 0)
    grad += nan_of(knots_y_ptr + b * stride_yb, h, COLUMNS) + nan_of(knots_x_ptr + b * stride_xb, w, COLUMNS)
    tl.store(grad_y_ptr + b * h + q, grad, mask=q < h)
    tl.store(grad_x_ptr + b * w + q - h, grad, mask=(q >= h) & (q < h + w))


def sum_shares(pieces: Tensor, shares: Tensor, *knots: Tensor) -> list[Tensor]:
    """Gradients to one or two contiguous tensors of knots, from what `[B, N]` targets give to their pieces."""
    batch, total = pieces.shape
    whole = [k.new_empty(batch, k.shape[1], dtype=k.dtype if len(k) == batch else torch.float64) for k in knots]
    h, w = knots[0].shape[1], knots[1].shape[1] if len(knots) > 1 else 0
    grid = (cdiv(h + w, BLOCKS["COLUMNS"]), batch)
    _sum_shares_kernel[grid](
        *(whole[0], whole[-1], pieces, shares, knots[0], knots[-1], batch_stride(knots[0]), batch_stride(knots[-1])),
        *(total, h, w),
        **BLOCKS,
    )
    return [
        grad if len(k) == batch else grad.sum(0, keepdim=True).to(k.dtype) for k, grad in zip(knots, whole, strict=True)
    ]
