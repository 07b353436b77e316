"""Triton kernels of the `axis` family: T~ and T~^-1 at arbitrary positions (LZU eq. 5 and 7).

Saliency -> knots is in `_lz`, windows are in `_windows`. All arithmetic of the family is float64, rounded once at the
end: the vectors hold tens to thousands of values, and a launch costs more than the arithmetic.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import cdiv, device_of
from fastwarp.kernels.gpu._lz import lz_knots, lz_knots_backward
from fastwarp.kernels.gpu._pieces import BLOCKS, batch_stride, locate, nan_of, slope, store_shares, sum_shares, value
from fastwarp.kernels.gpu._windows import axis_windows, axis_windows_backward

__all__ = [
    "axis_map",
    "axis_map_backward",
    "axis_windows",
    "axis_windows_backward",
    "lz_knots",
    "lz_knots_backward",
    "windows_to_resample",
]

windows_to_resample = axis_windows  # kernels of CPUs hand arrays on


@triton.jit(do_not_specialize=["stride_kb", "n", "m"])
def _axis_map_kernel(
    out_ptr, knots_ptr, x_ptr, stride_kb, n, m, INVERSE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Program (block of positions, b)."""
    b = tl.program_id(1).to(tl.int64)
    knots_ptr += b * stride_kb
    k = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    x = tl.load(x_ptr + b * m + k, mask=k < m, other=0).to(tl.float64) + nan_of(knots_ptr, n, COLUMNS)
    piece, f, start, end = locate(knots_ptr, n, x, INVERSE, COLUMNS)
    tl.store(out_ptr + b * m + k, value(piece, f, start, end, n, INVERSE), mask=k < m)


@triton.jit(do_not_specialize=["stride_kb", "n", "m"])
def _axis_map_backward_kernel(
    grad_x_ptr,
    pieces_ptr,
    shares_ptr,
    grad_ptr,
    knots_ptr,
    x_ptr,
    stride_kb,
    n,
    m,
    INVERSE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (block of positions, b): the gradient to positions, and what each position gives to its two knots."""
    b = tl.program_id(1).to(tl.int64)
    knots_ptr += b * stride_kb
    k = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    x = tl.load(x_ptr + b * m + k, mask=k < m, other=0).to(tl.float64) + nan_of(knots_ptr, n, COLUMNS)
    grad = tl.load(grad_ptr + b * m + k, mask=k < m, other=0).to(tl.float64)
    piece, f, start, end = locate(knots_ptr, n, x, INVERSE, COLUMNS)
    rate = slope(start, end) / (n - 1) if INVERSE else (end - start) * (n - 1)
    tl.store(grad_x_ptr + b * m + k, grad * rate, mask=k < m)
    tl.store(pieces_ptr + b * m + k, piece, mask=k < m)
    store_shares(shares_ptr + b * 2 * m, m, k, k < m, piece, f, start, end, n, grad, INVERSE)


def axis_map(knots: Tensor, positions: Tensor, inverse: bool) -> Tensor:
    """T~ (or T~^-1) of `[1 or B, n]` knots at positions `[B, m]`, continued linearly past the ends."""
    knots, positions = knots.contiguous(), positions.contiguous()
    batch, m = positions.shape
    result = knots.new_empty(batch, m)
    with device_of(knots):
        _axis_map_kernel[(cdiv(m, BLOCKS["ROWS"]), batch)](
            *(result, knots, positions, batch_stride(knots), knots.shape[1], m),
            INVERSE=inverse,
            **BLOCKS,
        )
    return result


def axis_map_backward(grad: Tensor, knots: Tensor, positions: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """Gradients to knots and positions."""
    grad, knots, positions = grad.contiguous(), knots.contiguous(), positions.contiguous()
    batch, m = positions.shape
    grad_positions = torch.empty_like(positions)
    pieces = knots.new_empty(batch, m, dtype=torch.int32)
    shares = knots.new_empty(batch, 2, m, dtype=torch.float64)
    with device_of(knots):
        _axis_map_backward_kernel[(cdiv(m, BLOCKS["ROWS"]), batch)](
            *(grad_positions, pieces, shares, grad, knots, positions, batch_stride(knots), knots.shape[1], m),
            INVERSE=inverse,
            **BLOCKS,
        )
        (grad_knots,) = sum_shares(pieces, shares, knots)
    return grad_knots, grad_positions
