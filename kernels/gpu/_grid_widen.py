"""Triton kernels of the `grid` family: half-widths of triangle filters, and their gradient to the centres; one launch
for each level, since all of it is small beside the resampling."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import cdiv, device_of
from fastwarp.kernels.gpu._pieces import batch_stride

_BLOCK = 256
_NUMBERS = ["stride_cb", "stride_vb", "stride_sb", "total", "height", "width", "source_height", "source_width"]


@triton.jit
def _extent(valid_ptr, offset, whole):
    if valid_ptr is None:
        return whole
    else:
        return tl.minimum(tl.maximum(tl.load(valid_ptr + offset), 0), whole).to(tl.int32)


@triton.jit
def _spacing(values_ptr, xs_ptr, at, step, place, n, exists):
    """Half the distance of both neighbours' values (all of it where only one reads something), the share of each
    neighbour in it, and which ones read."""
    low, high = exists & (place > 0), exists & (place < n - 1)
    low = low & (tl.load(xs_ptr + at - step, mask=low, other=-1) >= 0)
    high = high & (tl.load(xs_ptr + at + step, mask=high, other=-1) >= 0)
    here = tl.load(values_ptr + at, mask=exists, other=0).to(tl.float64)
    start = tl.where(low, tl.load(values_ptr + at - step, mask=low, other=0).to(tl.float64), here)
    end = tl.where(high, tl.load(values_ptr + at + step, mask=high, other=0).to(tl.float64), here)
    share = tl.where(low & high, 0.5, 1.0)
    return (end - start) * share, share, low, high


@triton.jit
def _square(values_ptr, xs_ptr, at, height, width, rows, columns, alone_column, alone_row, exists):
    """Square of the half-width: of the spacings in the column and in the row."""
    column, _, _, _ = _spacing(values_ptr, xs_ptr, at, width, at // width, height, exists)
    row, _, _, _ = _spacing(values_ptr, xs_ptr, at, 1, at % width, width, exists)
    column = tl.where(rows > 1, column, alone_column)
    row = tl.where(columns > 1, row, alone_row)
    return column * column + row * row


@triton.jit
def _geometry(
    valid_ptr, source_valid_ptr, stride_vb, stride_sb, b, component, height, width, source_height, source_width
):
    """Valid rows and columns, and the spacings of a single row or column, for x (component 0) or y (1)."""
    rows = _extent(valid_ptr, b * stride_vb, height)
    columns = _extent(valid_ptr, b * stride_vb + 1, width)
    down = _extent(source_valid_ptr, b * stride_sb, source_height) - 1.0
    across = _extent(source_valid_ptr, b * stride_sb + 1, source_width) - 1.0
    alone_column = tl.where(component == 1, down, 0.0).to(tl.float64)
    alone_row = tl.where(component == 0, across, 0.0).to(tl.float64)
    return rows, columns, alone_column, alone_row


@triton.jit(do_not_specialize=_NUMBERS)
def _widen_kernel(
    windows_ptr,
    centres_ptr,
    valid_ptr,
    source_valid_ptr,
    stride_cb,
    stride_vb,
    stride_sb,
    total,
    height,
    width,
    source_height,
    source_width,
    BLOCK: tl.constexpr,
):
    """Program (block of targets, x or y, b) of one level."""
    component, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = at < height * width
    rows, columns, alone_column, alone_row = _geometry(
        *(valid_ptr, source_valid_ptr, stride_vb, stride_sb, b, component),
        *(height, width, source_height, source_width),
    )
    xs_ptr = centres_ptr + b * stride_cb
    values_ptr = xs_ptr + component * total
    square = _square(values_ptr, xs_ptr, at, height, width, rows, columns, alone_column, alone_row, exists)
    out_ptr = windows_ptr + b * 4 * total + component * total + at
    tl.store(out_ptr, tl.load(values_ptr + at, mask=exists, other=0), mask=exists)
    tl.store(out_ptr + 2 * total, tl.where(square < 1, 1.0, tl.sqrt(square)), mask=exists)


@triton.jit
def _through(
    values_ptr,
    xs_ptr,
    grad_ptr,
    at,
    height,
    width,
    rows,
    columns,
    alone_column,
    alone_row,
    exists,
    COLUMN: tl.constexpr,
):
    """Gradient of the neighbour after a target, in its column or row, through the target's half-width; minus that of
    the one before."""
    if COLUMN:
        spacing, share, _, _ = _spacing(values_ptr, xs_ptr, at, width, at // width, height, exists)
        exists = exists & (rows > 1)
    else:
        spacing, share, _, _ = _spacing(values_ptr, xs_ptr, at, 1, at % width, width, exists)
        exists = exists & (columns > 1)
    square = _square(values_ptr, xs_ptr, at, height, width, rows, columns, alone_column, alone_row, exists)
    grad = tl.load(grad_ptr + at, mask=exists, other=0).to(tl.float64)
    return tl.where(exists & (square >= 1), grad * spacing * share / tl.sqrt(tl.maximum(square, 1.0)), 0.0)


@triton.jit(do_not_specialize=_NUMBERS)
def _widen_backward_kernel(
    result_ptr,
    grad_ptr,
    centres_ptr,
    valid_ptr,
    source_valid_ptr,
    stride_cb,
    stride_vb,
    stride_sb,
    total,
    height,
    width,
    source_height,
    source_width,
    BLOCK: tl.constexpr,
):
    """Program (block of targets, x or y, b) of one level: a gather over the half-widths that look at a target."""
    component, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    exists = at < height * width
    rows, columns, alone_column, alone_row = _geometry(
        *(valid_ptr, source_valid_ptr, stride_vb, stride_sb, b, component),
        *(height, width, source_height, source_width),
    )
    xs_ptr = centres_ptr + b * stride_cb
    values_ptr = xs_ptr + component * total
    grad_ptr += b * 4 * total + component * total
    widths_ptr = grad_ptr + 2 * total
    seen = exists & (tl.load(xs_ptr + at, mask=exists, other=-1) >= 0)
    result = tl.load(grad_ptr + at, mask=exists, other=0).to(tl.float64)
    for axis in tl.static_range(2):
        step, place, n = 1, at % width, width
        if axis == 0:
            step, place, n = width, at // width, height
        _, _, low, high = _spacing(values_ptr, xs_ptr, at, step, place, n, exists)
        own = _through(
            *(values_ptr, xs_ptr, widths_ptr, at, height, width, rows, columns),
            *(alone_column, alone_row, exists, axis == 0),
        )
        before = _through(
            *(values_ptr, xs_ptr, widths_ptr, at - step, height, width, rows, columns),
            *(alone_column, alone_row, seen & (place > 0), axis == 0),
        )
        after = _through(
            *(values_ptr, xs_ptr, widths_ptr, at + step, height, width, rows, columns),
            *(alone_column, alone_row, seen & (place < n - 1), axis == 0),
        )
        result += tl.where(high, 0.0, own) - tl.where(low, 0.0, own) + before - after
    tl.store(result_ptr + b * 2 * total + component * total + at, result, mask=exists)


def _launch(kernel, tensors, centres, sizes, source_sizes, valid, source_valid, batch) -> None:
    centres = centres.contiguous()
    extents = [None if v is None else v.contiguous() for v in (valid, source_valid)]
    strides = [batch_stride(t) for t in (centres, *extents)]
    first, total = 0, centres.shape[2]
    with device_of(centres):
        for level in range(len(sizes) // 2):
            height, width = sizes[2 * level : 2 * level + 2]
            if height * width * batch:
                kernel[(cdiv(height * width, _BLOCK), 2, batch)](
                    *(t.view(-1)[first:] for t in (*tensors, centres)),
                    *(None if v is None else v.view(-1)[2 * level :] for v in extents),
                    *(*strides, total, height, width, *source_sizes[2 * level : 2 * level + 2]),
                    BLOCK=_BLOCK,
                )
            first += height * width


def widen(
    centres: Tensor, sizes: list[int], source_sizes: list[int], valid: Tensor | None, source_valid: Tensor | None
) -> Tensor:
    """Windows `[B, 4, P]` of triangle filters from centres `[1 or B, 2, P]`; see `fastwarp.kernels.cpu.grid`."""
    batch = next((len(t) for t in (centres, valid, source_valid) if t is not None and len(t) != 1), 1)
    windows = torch.empty((batch, 4, centres.shape[2]), dtype=centres.dtype, device=centres.device)
    _launch(_widen_kernel, [windows], centres, sizes, source_sizes, valid, source_valid, batch)
    return windows


def widen_backward(
    grad: Tensor,
    centres: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> Tensor:
    """Gradient to the centres of `widen`; summed over the images where they share their centres."""
    grad, batch = grad.contiguous(), len(grad)
    result = torch.empty((batch, 2, centres.shape[2]), dtype=centres.dtype, device=centres.device)
    _launch(_widen_backward_kernel, [result, grad], centres, sizes, source_sizes, valid, source_valid, batch)
    return result if batch == len(centres) else result.sum(0, keepdim=True)
