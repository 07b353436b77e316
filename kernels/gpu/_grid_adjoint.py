"""Triton kernels of the `grid` family: the gradient of the images, the transpose of `resample`.

Targets that may touch a pixel are a few runs of a list sorted by cells, so this is a gather: no atomics, always the
same order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._grid_cells import BLOCK, cells_of, sort_targets
from fastwarp.kernels.gpu._grid_taps import first_targets, repeated
from fastwarp.kernels.gpu._launch import device_of, hint, pack, unpack
from fastwarp.kernels.gpu._levels import empty_levels, launches, pixels_of_planes, work_of_program
from fastwarp.kernels.gpu._pieces import batch_stride
from fastwarp.kernels.gpu._taps import (
    accumulator,
    along_channels,
    along_pixels,
    channel_offsets,
    channels_of_planes,
    dense_tile,
    no_planes,
    pixels_of_block,
    source_extent,
)
from fastwarp.kernels.layout import common_batch


@triton.jit
def _run(starts_ptr, cell_y, column, reach, exists, size_y, size_x):
    """First target, and their number, in the cells of a row whose filters may reach a column."""
    exists = exists & (cell_y >= 0) & (cell_y < size_y)
    row = starts_ptr + cell_y * size_x
    first = tl.load(row + tl.maximum(column - reach, 0), mask=exists, other=0)
    return first, tl.load(row + tl.minimum(column + reach, size_x), mask=exists, other=0) - first


@triton.jit
def _add_targets(
    planes,
    sources,
    k,
    reads,
    row,
    column,
    exists,
    targets,
    ANTIALIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Adds what the sorted targets k give to the pixels. `targets`: their records, offsets and number."""
    records_ptr, offsets_ptr, number = targets
    y = tl.abs(row - tl.load(records_ptr + k, mask=reads, other=0))
    x = tl.abs(column - tl.load(records_ptr + number + k, mask=reads, other=0))
    if ANTIALIAS:
        records_ptr += 2 * number.to(tl.int64)
        y *= tl.load(records_ptr + k, mask=reads, other=0)
        x *= tl.load(records_ptr + number + k, mask=reads, other=0)
    w = tl.where(reads & (y < 1) & (x < 1), (1.0 - y) * (1.0 - x), 0.0)
    if ANTIALIAS:
        records_ptr += 2 * number.to(tl.int64)
        w *= tl.load(records_ptr + k, mask=reads, other=0)
    offset = hint(tl.load(offsets_ptr + k, mask=reads, other=0), ALIGNED)
    if CHANNELS_LAST:
        w, offset = along_pixels(w, True), along_pixels(offset, True)
    sums = ()
    for i in tl.static_range(len(planes)):
        grad = tl.load(sources[i] + offset, mask=exists & (w > 0), other=0)
        sums += (planes[i] + grad.to(planes[i].dtype) * w.to(planes[i].dtype),)  # type: ignore[assignment]
    return sums


@triton.jit
def _reach(reaches_ptr, level_counts, level, b, BLOCK_P: tl.constexpr):
    """How many pixels the widest filter of a level and image reaches in y and x."""
    first, programs, blocks = 0, 0, 0
    for s in tl.static_range(len(level_counts)):
        n = tl.cdiv(unpack(level_counts[s]).to(tl.int32), BLOCK_P)
        first = tl.where(s < level, first + n, first)
        blocks = tl.where(s == level, n, blocks)
        programs += n
    reaches_ptr += (b * programs + first) * 2
    y, x = 1, 1
    for i0 in range(0, blocks, 128):
        i = i0 + tl.arange(0, 128)
        y = tl.maximum(y, tl.max(tl.load(reaches_ptr + 2 * i, mask=i < blocks, other=1), 0))
        x = tl.maximum(x, tl.max(tl.load(reaches_ptr + 2 * i + 1, mask=i < blocks, other=1), 0))
    return y, x


@triton.jit(do_not_specialize=["number", "cells", "stride_sb", "stride_rb", "stride_vb", "group"])
def _grid_adjoint_kernel(
    outs,
    grads,
    records_ptr,
    offsets_ptr,
    starts_ptr,
    reaches_ptr,
    valid_ptr,
    levels,
    counts,
    number,
    stride_sb,
    stride_rb,
    stride_vb,
    group,
    ANTIALIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNED: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    PREPARED: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (block of source pixels of a level, group of channels, image)."""
    pointers, work, size, whole, firsts, strides = work_of_program((outs, grads), levels, group, ALIGNED, OFFSET)
    out_ptr, grad_ptr = pointers
    block, b, begin, end = work
    channels, size_y, size_x = size
    level, stride_b, stride_c = whole[0], strides[0][0], strides[0][1]
    pixels = size_y * size_x
    if CHANNELS_LAST:
        p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        row, column = p // size_x, p % size_x
    else:
        row, column = pixels_of_block(block, size_x, BLOCK_P)
        row, column = tl.broadcast(row, column)
        p = row * size_x + column

    valid = b * stride_vb + 2 * level
    inside = (row < source_extent(valid_ptr, valid, size_y)) & (column < source_extent(valid_ptr, valid + 1, size_x))
    starts_ptr += b * stride_sb + firsts[1]
    if ANTIALIAS:
        reach_y, reach_x = _reach(reaches_ptr, counts, level, b * stride_rb, PREPARED)
    else:
        above, count_above = _run(starts_ptr, row - 1, column, 1, inside, size_y, size_x)
        here, count_here = _run(starts_ptr, row, column, 1, inside, size_y, size_x)
    lost = tl.load(starts_ptr + pixels) < tl.load(starts_ptr + pixels + 1)

    grad_ptr += b * stride_b
    out_ptr += b * hint(channels, ALIGNED) * pixels
    targets = (records_ptr, offsets_ptr, number)
    for c0 in range(begin, end, BLOCK_C):
        if CHANNELS_LAST:
            c = c0 + tl.arange(0, BLOCK_C)
            exists = along_channels(c < end, True)
            sources = (grad_ptr + channel_offsets(c, stride_c, True, True),)
            planes = (tl.zeros([BLOCK_P, BLOCK_C], ACC),)
        else:
            exists = True
            sources = channels_of_planes(grad_ptr, stride_c, c0, end, BLOCK_C)
            planes = no_planes(p, ACC, BLOCK_C)
        if ANTIALIAS:
            for dy in range(2 * reach_y):
                first, count = _run(starts_ptr, row - reach_y + dy, column, reach_x, inside, size_y, size_x)
                for i in range(tl.max(count, None)):
                    planes = _add_targets(
                        *(planes, sources, first + i, i < count, row, column, exists, targets),
                        *(ANTIALIAS, CHANNELS_LAST, ALIGNED),
                    )
        else:
            for i in range(tl.max(count_above + count_here, None)):
                k = tl.where(i < count_above, above + i, here + (i - count_above))
                planes = _add_targets(
                    *(planes, sources, k, i < count_above + count_here, row, column, exists, targets),
                    *(ANTIALIAS, CHANNELS_LAST, ALIGNED),
                )
        if CHANNELS_LAST:
            value = tl.where(along_pixels(lost & (p == 0), True), float("nan"), planes[0])
            target = dense_tile(out_ptr, c, p, channels, pixels, True, ALIGNED, OFFSET)
            tl.store(target, value, mask=exists & along_pixels(p < pixels, True))
        else:
            results = channels_of_planes(out_ptr, pixels.to(tl.int64), c0, end, BLOCK_C)
            for i in tl.static_range(BLOCK_C):
                value = tl.where(lost & (p == 0), float("nan"), planes[i])
                tl.store(results[i] + p, value, mask=(row < size_y) & (column < size_x))


def resample_adjoint(
    grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Tensor | None
) -> list[Tensor]:
    """Gradients `[B, C, H, W]` to the images of `resample`, from those of the results, in their memory formats.

    Needs memory for the sorted targets, about 40 bytes for each (80 with filters), and 4 bytes for each source pixel.
    """
    images, antialias = common_batch(grads[0], windows), windows.shape[1] == 4
    outs = empty_levels(grads, images, source_sizes)
    grads = repeated(grads, images)
    *begins, _ = first_targets([side for grad in grads for side in grad.shape[2:]])
    *cell_begins, cells = cells_of(source_sizes)
    plans = launches(grads, outs, begins, cell_begins, pixels_of_planes(antialias))
    if not plans:
        return outs
    windows = windows.contiguous()
    source_valid = None if source_valid is None else source_valid.contiguous()
    batch = max(len(windows), 1 if source_valid is None else len(source_valid))
    with device_of(windows):
        targets = sort_targets(grads, windows, source_sizes, source_valid, batch)
        for plan, table, constants in plans:
            double = targets.records.dtype == torch.float64
            _grid_adjoint_kernel[plan.grid](
                *(plan.of(outs), plan.of(grads), *targets, source_valid, table),
                *(pack(*(grad.shape[2] * grad.shape[3] for grad in grads)), targets.offsets.numel()),
                *(cells if batch > 1 else 0, int(batch > 1), batch_stride(source_valid), plan.group),
                ANTIALIAS=antialias,
                ACC=accumulator(grads[0].dtype),
                PREPARED=BLOCK,
                **constants,
                # float64 takes two registers: four warps spill, where eight need no vectors of 16 bytes.
                num_warps=8 if double and not plan.channels_last else 4,
            )
    return outs
