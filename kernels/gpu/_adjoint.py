"""Triton kernels of the `separable` family: the gradient of the images, `Wy^T @ grad @ Wx`.

The targets that read a pixel of the source lie in a run, on both axes, so this is a gather, too: no atomics.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import INTERPRETED, blocks_of, device_of, find_segment, hint, pack, select, unpack
from fastwarp.kernels.gpu._levels import empty_levels, launches, pixels_of_planes, work_of_program
from fastwarp.kernels.gpu._pieces import batch_stride
from fastwarp.kernels.gpu._taps import (
    accumulator,
    add_planes,
    along_channels,
    along_pixels,
    channel_offsets,
    channels_of_planes,
    dense_tile,
    geometry,
    load_windows,
    no_planes,
    pixels_of_block,
    source_extent,
    taps,
    within,
)


@triton.jit(do_not_specialize=["total", "total_source", "stride_wb", "stride_vb"])
def _runs_kernel(
    runs_ptr,
    readers_ptr,
    windows_ptr,
    valid_ptr,
    larger,
    sizes,
    source_sizes,
    total,
    total_source,
    stride_wb,
    stride_vb,
    ANTIALIAS: tl.constexpr,
    GEO: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (block of an axis of a level, b): the first target that reads a pixel, and the length of the run.

    Also what `_weight_of` needs of the targets, `readers_ptr`: centres, and with ANTIALIAS 1/s and 1 / sum of the
    triangle (0: reads nothing). `larger` holds the larger of source and target size. A NaN centre concerns all pixels:
    its target alone is their run.
    """
    b = tl.program_id(1).to(tl.int64)
    segment, _, _, k0 = find_segment(tl.program_id(0), larger, ROWS)
    size, source = select(sizes, segment).to(tl.int32), select(source_sizes, segment).to(tl.int32)
    begin, begin_source = 0, 0
    for s in tl.static_range(len(sizes)):
        begin += tl.where(s < segment, unpack(sizes[s]).to(tl.int32), 0)
        begin_source += tl.where(s < segment, unpack(source_sizes[s]).to(tl.int32), 0)
    extent = source_extent(valid_ptr, b * stride_vb + segment, source)
    windows_ptr += b * stride_wb + begin

    k = k0 + tl.arange(0, ROWS)
    c, s = load_windows(windows_ptr, k, k < size, total, GEO)
    own = taps(c, s, extent)
    first = tl.full([ROWS], 2147483647, tl.int32)
    last = tl.full([ROWS], -1, tl.int32)
    nan = tl.full([COLUMNS], -1, tl.int32)
    for t0 in range(0, size, COLUMNS):
        t = t0 + tl.arange(0, COLUMNS)
        centre, width = load_windows(windows_ptr, t, t < size, total, GEO)
        those = taps(centre, width, extent)
        nan = tl.maximum(nan, tl.where((centre != centre) & (width > 0), t, -1))
        reads = (k[:, None] >= those[0][None, :]) & (k[:, None] < (those[0] + those[1])[None, :])
        first = tl.minimum(first, tl.min(tl.where(reads, t[None, :], 2147483647), 1))
        last = tl.maximum(last, tl.max(tl.where(reads, t[None, :], -1), 1))
    if ANTIALIAS:
        readers_ptr += b * 3 * total + begin
        tl.store(readers_ptr + k, c, mask=k < size)
        tl.store(readers_ptr + total + k, own[3], mask=k < size)
        tl.store(readers_ptr + 2 * total + k, tl.where(own[1] > 0, own[4], 0.0), mask=k < size)
    else:
        # Far from all pixels is what reads nothing. The weights of two taps sum to 1.
        tl.store(readers_ptr + b * total + begin + k, tl.where(own[1] > 0, within(c, extent), -2.0), mask=k < size)

    lost = tl.max(nan, 0)
    first = tl.where(lost >= 0, lost, first)
    last = tl.where(lost >= 0, lost, last)
    runs_ptr += b * 2 * total_source + begin_source
    tl.store(runs_ptr + k, first, mask=k < source)
    tl.store(runs_ptr + total_source + k, tl.maximum(last - first + 1, 0), mask=k < source)


@triton.jit
def _weight_of(pixel, k, reads, readers, ANTIALIAS: tl.constexpr):
    """Weight with which targets k read the pixels. `readers`: pointer made by `_runs_kernel`, and how many they are."""
    readers_ptr, total = readers
    u = tl.abs(pixel - tl.load(readers_ptr + k, mask=reads, other=-2))
    if ANTIALIAS:
        u *= tl.load(readers_ptr + total + k, mask=reads, other=0)
    w = tl.where(u > 1, 0.0, 1.0 - u)
    if ANTIALIAS:
        w *= tl.load(readers_ptr + 2 * total + k, mask=reads, other=0)
    return w


@triton.jit
def _adjoint_tiles(
    out_ptr,
    grad_ptr,
    readers_y,
    readers_x,
    run_y,
    run_x,
    strides,
    p,
    pixels,
    channels,
    begin,
    end,
    ANTIALIAS: tl.constexpr,
    ALIGNED: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """channels_last: the channels from `begin` to `end` of the pixels p. Runs: pixel, first target, their number."""
    stride_c, stride_h, stride_w = strides
    row, first_y, count_y = run_y
    column, first_x, count_x = run_x
    for c0 in range(begin, end, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        source = grad_ptr + channel_offsets(c, stride_c, True, True)
        target = dense_tile(out_ptr, c, p, channels, pixels, True, ALIGNED, OFFSET)
        exists = along_channels(c < end, True)
        value = tl.zeros([BLOCK_P, BLOCK_C], ACC)
        for dy in range(tl.max(count_y, 0)):
            i, reads_y = first_y + dy, dy < count_y
            wy = _weight_of(row, i, reads_y, readers_y, ANTIALIAS)
            for dx in range(tl.max(count_x, 0)):
                j, reads = first_x + dx, reads_y & (dx < count_x)
                wx = _weight_of(column, j, reads, readers_x, ANTIALIAS)
                w = along_pixels(tl.where(reads, wy * wx, 0.0), True)
                offset = along_pixels(i.to(OFFSET) * stride_h + j.to(OFFSET) * stride_w, True)
                value += tl.load(source + offset, mask=exists & (w > 0), other=0).to(ACC) * w.to(ACC)
        tl.store(target, value, mask=exists & along_pixels(p < pixels, True))


@triton.jit
def _adjoint_planes(
    out_ptr,
    grad_ptr,
    readers_y,
    readers_x,
    run_y,
    run_x,
    strides,
    size,
    begin,
    end,
    ANTIALIAS: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The same where channels lie apart: weights and masks once for all of them, and once for a row or a column."""
    stride_c, stride_h, stride_w = strides
    row, first_y, count_y = run_y
    column, first_x, count_x = run_x
    size_y, size_x = size
    for c0 in range(begin, end, BLOCK_C):
        sources = channels_of_planes(grad_ptr, stride_c, c0, end, BLOCK_C)
        planes = no_planes(row + column, ACC, BLOCK_C)
        for dy in range(tl.max(count_y, None)):
            i, reads_y = first_y + dy, dy < count_y
            wy = _weight_of(row, i, reads_y, readers_y, ANTIALIAS)
            for dx in range(tl.max(count_x, None)):
                j, reads_x = first_x + dx, dx < count_x
                wx = _weight_of(column, j, reads_x, readers_x, ANTIALIAS)
                w = tl.where(reads_y & reads_x, wy * wx, 0.0).to(ACC)
                offset = i.to(OFFSET) * stride_h + j.to(OFFSET) * stride_w
                planes = add_planes(planes, sources, offset, w)
        targets = channels_of_planes(out_ptr, size_y.to(tl.int64) * size_x, c0, end, BLOCK_C)
        for k in tl.static_range(BLOCK_C):
            tl.store(targets[k] + row * size_x + column, planes[k], mask=(row < size_y) & (column < size_x))


@triton.jit(do_not_specialize=["total", "total_source", "stride_sb", "stride_rb", "group"])
def _adjoint_kernel(
    outs,
    grads,
    readers_ptr,
    runs_ptr,
    levels,
    total,
    total_source,
    stride_sb,
    stride_rb,
    group,
    ANTIALIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNED: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (block of source pixels of a level, group of channels, image)."""
    pointers, work, size, whole, firsts, strides = work_of_program((outs, grads), levels, group, ALIGNED, OFFSET)
    out_ptr, grad_ptr = pointers
    block, b, begin, end = work
    channels, size_y, size_x = size
    stride_b, stride_c, stride_h, stride_w = strides[0]
    pixels = size_y * size_x
    if CHANNELS_LAST:
        p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        row, column = p // size_x, p % size_x
    else:
        row, column = pixels_of_block(block, size_x, BLOCK_P)

    readers_ptr += b * stride_sb + firsts[0]
    runs_ptr += b * stride_rb + firsts[1]
    first_y = tl.load(runs_ptr + row, mask=row < size_y, other=0)
    count_y = tl.load(runs_ptr + total_source + row, mask=row < size_y, other=0)
    first_x = tl.load(runs_ptr + size_y + column, mask=column < size_x, other=0)
    count_x = tl.load(runs_ptr + total_source + size_y + column, mask=column < size_x, other=0)

    grad_ptr += b * stride_b
    out_ptr += b * hint(channels, ALIGNED) * pixels
    strides = (stride_c, stride_h, stride_w)
    readers_y, readers_x = (readers_ptr, total), (readers_ptr + whole[1], total)
    run_y, run_x = (row, first_y, count_y), (column, first_x, count_x)
    if CHANNELS_LAST:
        _adjoint_tiles(
            *(out_ptr, grad_ptr, readers_y, readers_x, run_y, run_x, strides, p, pixels, channels, begin, end),
            *(ANTIALIAS, ALIGNED, OFFSET, ACC, BLOCK_C, BLOCK_P),
        )
    else:
        _adjoint_planes(
            *(out_ptr, grad_ptr, readers_y, readers_x, run_y, run_x, strides, (size_y, size_x)),
            *(begin, end, ANTIALIAS, OFFSET, ACC, BLOCK_C),
        )


def resample_adjoint(
    grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    """Gradients `[B, C, H, W]` to the images of `resample`, from those of the results, in their memory formats."""
    outs = empty_levels(grads, len(grads[0]), source_sizes)
    windows = windows.contiguous()
    source_valid = None if source_valid is None else source_valid.contiguous()
    sizes = [side for grad in grads for side in grad.shape[2:]]
    batch = max(len(windows), 1 if source_valid is None else len(source_valid))
    geo = geometry(windows, grads[0].dtype)
    runs = windows.new_empty(batch, 2, sum(source_sizes), dtype=torch.int32)
    kind = torch.float64 if geo == tl.float64 else torch.float32
    readers = windows.new_empty(batch, 3 if antialias else 1, sum(sizes), dtype=kind)
    larger = tuple(map(max, sizes, source_sizes))
    begins = [[sum(s[: 2 * i]) for i in range(len(grads))] for s in (sizes, source_sizes)]
    with device_of(windows):
        # 4096 comparisons on 256 threads: the scan of all targets takes few steps. Twice as many spill.
        rows, columns = (128, 128) if INTERPRETED else (32, 128)
        _runs_kernel[(blocks_of(larger, rows), batch)](
            *(runs, readers, windows, source_valid, pack(*larger), pack(*sizes), pack(*source_sizes)),
            *(sum(sizes), sum(source_sizes), batch_stride(windows), batch_stride(source_valid)),
            ANTIALIAS=antialias,
            GEO=geo,
            ROWS=rows,
            COLUMNS=columns,
            num_warps=8,
        )
        for plan, table, constants in launches(grads, outs, begins[0], begins[1], pixels_of_planes(False)):
            ins, results = plan.of(grads), plan.of(outs)
            _adjoint_kernel[plan.grid](
                *(results, ins, readers, runs, table, sum(sizes), sum(source_sizes)),
                *(batch_stride(readers), batch_stride(runs), plan.group),
                ANTIALIAS=antialias,
                ACC=accumulator(grads[0].dtype),
                **constants,
            )
    return outs
