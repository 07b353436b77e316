"""Triton kernels of the `axis` family, first half: saliency -> knots (LZU eq. 3 and 4).

All arithmetic is float64, rounded once at the end: the vectors hold tens of values, and a launch costs more than the
arithmetic. One program owns one axis of one image.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import device_of

_FLOOR: tl.constexpr = tl.constexpr(1e-6)  # uniform saliency added to every map, relative to its mean
_TINY: tl.constexpr = tl.constexpr(2.0**-962)  # uniform saliency of an all-zero map
_RATE: tl.constexpr = tl.constexpr(2.772588722239781)  # 4 ln 2

# Cells in rows, what they are summed over in columns: a usual map (31 x 51) is one tile, 2048 float64 values on 256
# threads leave registers to spare, and 8 warps hide the latency of one program.
_TILE = {"ROWS": 64, "COLUMNS": 32, "num_warps": 8}


@triton.jit
def _marginal(out_ptr, saliency_ptr, n, cells, stride_n, stride_r, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Writes the n sums over the cells; returns their mean. NaN counts, negative cells do not."""
    total = tl.zeros([ROWS], tl.float64)
    for n0 in range(0, n, ROWS):
        i = n0 + tl.arange(0, ROWS)
        row = tl.zeros([ROWS], tl.float64)
        for r0 in range(0, cells, COLUMNS):
            r = r0 + tl.arange(0, COLUMNS)
            offset = i[:, None].to(tl.int64) * stride_n + r[None, :].to(tl.int64) * stride_r
            cell = tl.load(saliency_ptr + offset, mask=(i < n)[:, None] & (r < cells)[None, :], other=0)
            cell = cell.to(tl.float64)
            row += tl.sum(tl.where(cell < 0, 0.0, cell), 1)
        tl.store(out_ptr + i, row, mask=i < n)
        total += row
    return tl.sum(total, 0) / n


@triton.jit
def _weights(out_ptr, radius, fwhm, COLUMNS: tl.constexpr):
    """Writes the attraction kernel for distances 0..radius, 0 being 1; returns its sum over both sides."""
    total = tl.zeros([COLUMNS], tl.float64)
    for d0 in range(0, radius + 1, COLUMNS):
        d = d0 + tl.arange(0, COLUMNS)
        q = d.to(tl.float64) / fwhm
        k = tl.exp(q * q * -_RATE)
        tl.store(out_ptr + d, k, mask=d <= radius)
        total += tl.where(d <= radius, k, 0.0)
    return 2.0 * tl.sum(total, 0) - 1.0


@triton.jit
def _fold(i, n, ANTI_CROP: tl.constexpr):
    """Cell that the padded marginal repeats at position i."""
    if ANTI_CROP:
        i = tl.abs(i)
        return tl.minimum(i, 2 * (n - 1) - i)
    else:
        return tl.minimum(tl.maximum(i, 0), n - 1)


@triton.jit
def _pull(marginal_ptr, kernel_ptr, i, n, radius, ANTI_CROP: tl.constexpr, COLUMNS: tl.constexpr):
    """Numerator of T at the cells i, relative to i, and denominator. Paired, so reflected ends give exactly 0."""
    above = tl.zeros_like(i).to(tl.float64)
    below = tl.load(marginal_ptr + i, mask=i < n, other=0)
    for d0 in range(1, radius + 1, COLUMNS):
        d = d0 + tl.arange(0, COLUMNS)
        mask = (i < n)[:, None] & (d <= radius)[None, :]
        weight = tl.load(kernel_ptr + d, mask=d <= radius, other=0)
        right = tl.load(marginal_ptr + _fold(i[:, None] + d[None, :], n, ANTI_CROP), mask=mask, other=0)
        left = tl.load(marginal_ptr + _fold(i[:, None] - d[None, :], n, ANTI_CROP), mask=mask, other=0)
        above += tl.sum((weight * d)[None, :] * (right - left), 1)
        below += tl.sum(weight[None, :] * (right + left), 1)
    return above, below


@triton.jit
def _floor_of(mean):
    floor = mean * _FLOOR
    return tl.where(floor <= _TINY, _TINY, floor)  # NaN stays


@triton.jit
def _knots_row(
    knots_ptr,
    work_ptr,
    saliency_ptr,
    n,
    cells,
    stride_n,
    stride_r,
    radius,
    fwhm,
    ANTI_CROP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    marginal_ptr, kernel_ptr = work_ptr, work_ptr + n
    mean = _marginal(marginal_ptr, saliency_ptr, n, cells, stride_n, stride_r, ROWS, COLUMNS)
    floor = _floor_of(mean) * _weights(kernel_ptr, radius, fwhm, COLUMNS)
    tl.debug_barrier()  # each thread now reads what others of its program wrote
    for n0 in range(0, n, ROWS):
        i = n0 + tl.arange(0, ROWS)
        above, below = _pull(marginal_ptr, kernel_ptr, i, n, radius, ANTI_CROP, COLUMNS)
        t = (i + above / (below + floor)) / (n - 1)
        t = tl.where(t < 0, 0.0, tl.where(t > 1, 1.0, t))
        tl.store(knots_ptr + i, t, mask=i < n)


@triton.jit(do_not_specialize=["h", "w", "cells_y", "cells_x"])
def _lz_knots_kernel(
    knots_y_ptr,
    knots_x_ptr,
    work_ptr,
    y_ptr,
    x_ptr,
    fwhm: tl.float64,
    h,
    w,
    cells_y,
    cells_x,
    stride_yb,
    stride_yn,
    stride_yr,
    stride_xb,
    stride_xn,
    stride_xr,
    ANTI_CROP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (b, axis). `work_ptr` holds h + w + 2 (radius + 1) float64 per image."""
    b = tl.program_id(0).to(tl.int64)
    radius = tl.minimum(h, w) - 1
    work_ptr += b * (h + w + 2 * (radius + 1))
    if tl.program_id(1) == 0:
        knots_ptr, y_ptr = knots_y_ptr + b * h, y_ptr + b * stride_yb
        _knots_row(knots_ptr, work_ptr, y_ptr, h, cells_y, stride_yn, stride_yr, radius, fwhm, ANTI_CROP, ROWS, COLUMNS)
    else:
        knots_ptr, x_ptr, work_ptr = knots_x_ptr + b * w, x_ptr + b * stride_xb, work_ptr + h + radius + 1
        _knots_row(knots_ptr, work_ptr, x_ptr, w, cells_x, stride_xn, stride_xr, radius, fwhm, ANTI_CROP, ROWS, COLUMNS)


@triton.jit
def _knots_backward_row(
    out_ptr,
    grad_ptr,
    work_ptr,
    saliency_ptr,
    n,
    cells,
    stride_n,
    stride_r,
    radius,
    fwhm,
    ANTI_CROP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    marginal_ptr, above_ptr, below_ptr = work_ptr, work_ptr + n, work_ptr + 2 * n
    kernel_ptr = work_ptr + 3 * n
    padded_ptr = kernel_ptr + 2 * radius + 1  # gradient to the padded marginal, from -radius to n - 1 + radius
    mean = _marginal(marginal_ptr, saliency_ptr, n, cells, stride_n, stride_r, ROWS, COLUMNS)
    weight = _weights(kernel_ptr, radius, fwhm, COLUMNS)
    floor = _floor_of(mean) * weight
    tl.debug_barrier()  # each thread now reads what others of its program wrote

    # Gradients to numerators and denominators.
    to_floor = tl.zeros([ROWS], tl.float64)
    for n0 in range(0, n, ROWS):
        i = n0 + tl.arange(0, ROWS)
        above, below = _pull(marginal_ptr, kernel_ptr, i, n, radius, ANTI_CROP, COLUMNS)
        shift = above / (below + floor)
        grad = tl.load(grad_ptr + i, mask=i < n, other=0).to(tl.float64)
        grad = tl.where((i + shift < 0) | ((i + shift) / (n - 1) > 1), 0.0, grad)  # the clamp
        grad = tl.where(mean * _FLOOR <= _TINY, 0.0, grad)  # an all-zero map: T has no derivative there
        to_above = grad / ((below + floor) * (n - 1))
        tl.store(above_ptr + i, to_above, mask=i < n)
        tl.store(below_ptr + i, -shift * to_above, mask=i < n)
        to_floor -= shift * to_above
    tl.debug_barrier()

    # Gradient to the padded marginal: the convolutions transposed.
    for j0 in range(-radius, n + radius, ROWS):
        j = j0 + tl.arange(0, ROWS)
        total = tl.zeros([ROWS], tl.float64)
        for i0 in range(0, n, COLUMNS):
            i = i0 + tl.arange(0, COLUMNS)
            d = j[:, None] - i[None, :]
            to_above = tl.load(above_ptr + i, mask=i < n, other=0)
            to_below = tl.load(below_ptr + i, mask=i < n, other=0)
            k = tl.load(kernel_ptr + tl.abs(d), mask=tl.abs(d) <= radius, other=0)
            total += tl.sum(k * (to_above[None, :] * d + to_below[None, :]), 1)
        tl.store(padded_ptr + j, total, mask=j < n + radius)
    tl.debug_barrier()

    # The padding folded back, and the share of the floor, which is relative to the mean.
    shared = tl.sum(to_floor, 0) * weight * _FLOOR / n
    before = tl.zeros([COLUMNS], tl.float64)
    after = tl.zeros([COLUMNS], tl.float64)
    if not ANTI_CROP:
        for d0 in range(1, radius + 1, COLUMNS):
            d = d0 + tl.arange(0, COLUMNS)
            before += tl.load(padded_ptr - d, mask=d <= radius, other=0)
            after += tl.load(padded_ptr + n - 1 + d, mask=d <= radius, other=0)
    for n0 in range(0, n, ROWS):
        i = n0 + tl.arange(0, ROWS)
        grad = tl.load(padded_ptr + i, mask=i < n, other=0) + shared
        if ANTI_CROP:
            mirror = 2 * (n - 1) - i
            grad += tl.load(padded_ptr - i, mask=(i > 0) & (i <= radius), other=0)
            grad += tl.load(padded_ptr + mirror, mask=(i < n - 1) & (mirror < n + radius), other=0)
        else:
            grad += tl.where(i == 0, tl.sum(before, 0), 0.0) + tl.where(i == n - 1, tl.sum(after, 0), 0.0)
        tl.store(out_ptr + i, grad, mask=i < n)


@triton.jit(do_not_specialize=["h", "w", "cells_y", "cells_x"])
def _lz_knots_backward_kernel(
    out_y_ptr,
    out_x_ptr,
    work_ptr,
    grad_y_ptr,
    grad_x_ptr,
    y_ptr,
    x_ptr,
    fwhm: tl.float64,
    h,
    w,
    cells_y,
    cells_x,
    stride_yb,
    stride_yn,
    stride_yr,
    stride_xb,
    stride_xn,
    stride_xr,
    ANTI_CROP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (b, axis). `work_ptr` holds 4 (h + w) + 2 (3 radius + 1) float64 per image."""
    b = tl.program_id(0).to(tl.int64)
    radius = tl.minimum(h, w) - 1
    work_ptr += b * (4 * (h + w) + 2 * (3 * radius + 1))
    if tl.program_id(1) == 0:
        out_ptr, grad_ptr, y_ptr = out_y_ptr + b * h, grad_y_ptr + b * h, y_ptr + b * stride_yb
        _knots_backward_row(
            *(out_ptr, grad_ptr, work_ptr, y_ptr, h, cells_y, stride_yn, stride_yr),
            *(radius, fwhm, ANTI_CROP, ROWS, COLUMNS),
        )
    else:
        out_ptr, grad_ptr, x_ptr = out_x_ptr + b * w, grad_x_ptr + b * w, x_ptr + b * stride_xb
        work_ptr += 4 * h + 3 * radius + 1
        _knots_backward_row(
            *(out_ptr, grad_ptr, work_ptr, x_ptr, w, cells_x, stride_xn, stride_xr),
            *(radius, fwhm, ANTI_CROP, ROWS, COLUMNS),
        )


def _launch(
    kernel: Any,
    outputs: list[Tensor],
    inputs: list[Tensor],
    maps: list[Tensor],
    fwhm: float,
    anti_crop: bool,
    work: int,
) -> None:
    (batch, h, cells_y), (_, w, cells_x) = (saliency.shape for saliency in maps)
    workspace = maps[0].new_empty(batch * work, dtype=torch.float64)
    strides = (stride for saliency in maps for stride in saliency.stride())
    with device_of(maps[0]):
        kernel[(batch, 2)](
            *(*outputs, workspace, *inputs, *maps, fwhm, h, w, cells_y, cells_x, *strides), ANTI_CROP=anti_crop, **_TILE
        )


def lz_knots(
    saliency_y: Tensor, saliency_x: Tensor, fwhm: float, anti_crop: bool, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Knots `[B, h]`, `[B, w]` of a `dtype`, or that of the maps `[B, h, R]`, `[B, w, R']`, which are summed over their
    last dimension."""
    maps = [saliency_y, saliency_x]
    y, x = (saliency.new_empty(saliency.shape[:2], dtype=dtype) for saliency in maps)
    h, w = y.shape[1], x.shape[1]
    _launch(_lz_knots_kernel, [y, x], [], maps, fwhm, anti_crop, work=h + w + 2 * min(h, w))
    return y, x


def lz_knots_backward(
    grad_y: Tensor, grad_x: Tensor, saliency_y: Tensor, saliency_x: Tensor, fwhm: float, anti_crop: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to the marginals, `[B, h]` and `[B, w]`."""
    maps = [saliency_y, saliency_x]
    y, x = (saliency.new_empty(saliency.shape[:2]) for saliency in maps)
    h, w = y.shape[1], x.shape[1]
    grads = [grad_y.contiguous(), grad_x.contiguous()]
    _launch(_lz_knots_backward_kernel, [y, x], grads, maps, fwhm, anti_crop, work=4 * (h + w) + 6 * min(h, w) - 4)
    return y, x
