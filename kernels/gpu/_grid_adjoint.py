"""Triton kernels of the `grid` family: the gradient of the images, the transpose of `resample`.

Targets are sorted by their cell, the source pixel at or before their centre. Those that may touch a pixel are then a
few runs of the sorted list, one in each row of cells around it, so this is a gather: no atomics, always the same order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._grid_taps import first_targets, load_centres, target_taps
from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, device_of, find_segment, pack, select, unpack
from fastwarp.kernels.gpu._pieces import batch_stride
from fastwarp.kernels.gpu._taps import (
    accumulator,
    aligned,
    along_channels,
    along_pixels,
    channel_offsets,
    channels_of_planes,
    dense_tile,
    empty_levels,
    field,
    geometry,
    hint,
    no_planes,
    pixels_of_block,
    pixels_of_planes,
    plan_launches,
    pointer,
    small_field,
    source_extent,
    wide,
    work_of_program,
)
from fastwarp.kernels.layout import common_batch

BLOCK = 8192 if INTERPRETED else 512
"""Targets of one program that prepares them."""


@triton.jit
def _level_of(p, counts):
    """Level that each of the targets p is in, and where its targets begin."""
    level = tl.zeros_like(p)
    begin = tl.zeros_like(p)
    end = 0
    for s in tl.static_range(len(counts)):
        level = tl.where(p >= end, s, level)
        begin = tl.where(p >= end, end, begin)
        end += unpack(counts[s]).to(tl.int32)
    return level, begin


@triton.jit
def _widths(windows_ptr, p, mask, total, GEO: tl.constexpr):
    """Half-widths of the targets p in y and x."""
    windows_ptr += total
    x = tl.load(windows_ptr + total + p, mask=mask, other=1).to(GEO)
    windows_ptr += total
    return tl.load(windows_ptr + total + p, mask=mask, other=1).to(GEO), x


@triton.jit(do_not_specialize=["total", "cells", "none", "stride_wb", "stride_vb"])
def _grid_cells_kernel(
    keys_ptr,
    reaches_ptr,
    windows_ptr,
    valid_ptr,
    counts,
    sides,
    cell_begins,
    total,
    cells,
    none,
    stride_wb,
    stride_vb,
    ANTIALIAS: tl.constexpr,
    GEO: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (block of targets of a level, b): the cells of its targets, and how many pixels the widest reaches.

    The cells of all levels and images are numbered one after the other. A level's last one, past its pixels, is that of
    targets that are NaN: they make the first pixel NaN. Targets that read nothing have `none`, behind all cells.
    """
    b = tl.program_id(1).to(tl.int64)
    level, size, start, p0 = find_segment(tl.program_id(0), counts, BLOCK_P)
    size_y, size_x = select(sides, 2 * level).to(tl.int32), select(sides, 2 * level + 1).to(tl.int32)
    extent_y = source_extent(valid_ptr, b * stride_vb + 2 * level, size_y)
    extent_x = source_extent(valid_ptr, b * stride_vb + 2 * level + 1, size_x)
    p = p0 + tl.arange(0, BLOCK_P)
    windows_ptr += b * stride_wb + start
    reads, y, x = load_centres(windows_ptr, p, p < size, total, extent_y, extent_x, GEO)
    lost = (y != y) | (x != x)
    if ANTIALIAS:
        width_y, width_x = _widths(windows_ptr, p, (p < size) & reads, total, GEO)
        lost = lost | (width_y != width_y) | (width_x != width_x)
        # Beyond the extent there is nothing to reach; an infinite width is no integer.
        reach_y = tl.where(width_y > extent_y, extent_y.to(GEO), tl.where(width_y > 1, width_y, 1.0))
        reach_x = tl.where(width_x > extent_x, extent_x.to(GEO), tl.where(width_x > 1, width_x, 1.0))
        reaches_ptr += (b * tl.num_programs(0) + tl.program_id(0)) * 2
        tl.store(reaches_ptr, tl.ceil(tl.max(reach_y, 0)).to(tl.int32))
        tl.store(reaches_ptr + 1, tl.ceil(tl.max(reach_x, 0)).to(tl.int32))
    cell = tl.where(lost, 0.0, y).to(tl.int32) * size_x + tl.where(lost, 0.0, x).to(tl.int32)
    cell = tl.where(lost, size_y * size_x, cell)
    key = cell + (b * cells + select(cell_begins, level))
    tl.store(keys_ptr + b * total + start + p, tl.where(reads, key, none.to(tl.int64)), mask=p < size)


@triton.jit(do_not_specialize=["number", "cells"])
def _grid_starts_kernel(starts_ptr, keys_ptr, number, cells, FEW: tl.constexpr, BLOCK_P: tl.constexpr):
    """Program (block of sorted targets): the first target of each of the cells, and their end; cells + 1 numbers.

    A target is the first of its own cell and of those without targets before it, but for those of its predecessor. A
    thread fills a few, the program together what is longer: rows that no target reads.
    """
    i = tl.arange(0, BLOCK_P)
    first = tl.program_id(0) * BLOCK_P
    k = first + i
    before = tl.load(keys_ptr + k - 1, mask=(k > 0) & (k <= number), other=-1)
    here = tl.load(keys_ptr + k, mask=k < number, other=cells)
    here = tl.where(k <= number, here, before)
    for n in range(1, FEW + 1):
        tl.store(starts_ptr + before + n, k, mask=before + n <= here)
    waiting = tl.where(here - before > FEW, i, BLOCK_P)
    lane = tl.min(waiting, 0)
    while lane < BLOCK_P:
        begin = tl.max(tl.where(i == lane, before, -1), 0) + (FEW + 1)
        end = tl.max(tl.where(i == lane, here, -1), 0) + 1
        for c0 in range(begin, end, BLOCK_P):
            tl.store(starts_ptr + c0 + i, first + lane, mask=c0 + i < end)
        waiting = tl.where(i == lane, BLOCK_P, waiting)
        lane = tl.min(waiting, 0)


@triton.jit(do_not_specialize=["number", "total", "stride_wb", "stride_vb"])
def _grid_records_kernel(
    records_ptr,
    offsets_ptr,
    order_ptr,
    windows_ptr,
    valid_ptr,
    counts,
    sides,
    widths,
    strides,
    number,
    total,
    stride_wb,
    stride_vb,
    ANTIALIAS: tl.constexpr,
    GEO: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (block of sorted targets): what `_grid_adjoint_kernel` needs of each, side by side.

    Rows of `records_ptr`: centre y, x and for filters 1 / half-width y, x, 1 / sum of the triangles. `offsets_ptr`:
    where the gradient of the target is.
    """
    k = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    order = tl.load(order_ptr + k, mask=k < number, other=0).to(tl.int32)
    b, p = (order // total).to(tl.int64), order % total
    level, begin = _level_of(p, counts)
    extent_y = source_extent(valid_ptr, b * stride_vb + 2 * level, select(sides, 2 * level).to(tl.int32))
    extent_x = source_extent(valid_ptr, b * stride_vb + 2 * level + 1, select(sides, 2 * level + 1).to(tl.int32))
    windows_ptr += b * stride_wb
    _, y, x = load_centres(windows_ptr, p, k < number, total, extent_y, extent_x, GEO)
    tl.store(records_ptr + k, y, mask=k < number)
    tl.store(records_ptr + number + k, x, mask=k < number)
    if ANTIALIAS:
        _, ty, tx = target_taps(windows_ptr, p, k < number, total, extent_y, extent_x, ANTIALIAS, GEO)
        records_ptr += 2 * number.to(tl.int64)
        tl.store(records_ptr + k, ty[3], mask=k < number)
        tl.store(records_ptr + number + k, tx[3], mask=k < number)
        records_ptr += 2 * number.to(tl.int64)
        tl.store(records_ptr + k, ty[4] * tx[4], mask=k < number)
    width = select(widths, level).to(tl.int32)
    row, column = (p - begin) // width, (p - begin) % width
    offset = row * select(strides, 2 * level) + column * select(strides, 2 * level + 1)
    tl.store(offsets_ptr + k, offset.to(OFFSET), mask=k < number)


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
    position, block, b, begin, end = work_of_program(levels, group, ALIGNED)
    grad_ptr, out_ptr = pointer(grads, position), pointer(outs, position)
    channels = small_field(levels, position, 3)
    stride_c = field(levels, position, 5)
    size_y, size_x = small_field(levels, position, 10), small_field(levels, position, 11)
    pixels = size_y * size_x
    if CHANNELS_LAST:
        p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        row, column = p // size_x, p % size_x
    else:
        row, column = pixels_of_block(block, size_x, BLOCK_P)
        row, column = tl.broadcast(row, column)
        p = row * size_x + column

    level = small_field(levels, position, 1)
    inside = (row < source_extent(valid_ptr, b * stride_vb + 2 * level, size_y)) & (
        column < source_extent(valid_ptr, b * stride_vb + 2 * level + 1, size_x)
    )
    starts_ptr += b * stride_sb + field(levels, position, 12)
    if ANTIALIAS:
        reach_y, reach_x = _reach(reaches_ptr, counts, level, b * stride_rb, PREPARED)
    else:
        above, count_above = _run(starts_ptr, row - 1, column, 1, inside, size_y, size_x)
        here, count_here = _run(starts_ptr, row, column, 1, inside, size_y, size_x)
    lost = tl.load(starts_ptr + pixels) < tl.load(starts_ptr + pixels + 1)

    grad_ptr += b * hint(field(levels, position, 4), ALIGNED)
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
    grads = [grad.expand(images, -1, -1, -1) for grad in grads]
    plans = plan_launches(outs, planes=pixels_of_planes(antialias))
    if not plans:
        return outs
    windows = windows.contiguous()
    source_valid = None if source_valid is None else source_valid.contiguous()
    geo = geometry(windows, grads[0].dtype)
    batch = max(len(windows), 1 if source_valid is None else len(source_valid))
    *begins, total = first_targets([side for grad in grads for side in grad.shape[2:]])
    counts = pack(*(grad.shape[2] * grad.shape[3] for grad in grads))
    sides = pack(*source_sizes)
    cell_begins = [begin + level for level, begin in enumerate(first_targets(source_sizes))]
    cells = cell_begins[-1]
    number = batch * total
    programs = sum(cdiv(grad.shape[2] * grad.shape[3], BLOCK) for grad in grads)
    offset = wide(*grads, *outs)

    keys = windows.new_empty(number, dtype=torch.int32 if batch * cells < 2**31 else torch.int64)
    reaches = windows.new_empty(batch, programs, 2, dtype=torch.int32) if antialias else None
    records = windows.new_empty(
        5 if antialias else 2, number, dtype=torch.float64 if geo == tl.float64 else torch.float32
    )
    offsets = windows.new_empty(number, dtype=torch.int64 if offset == tl.int64 else torch.int32)
    with device_of(windows):
        common = {"ANTIALIAS": antialias, "GEO": geo, "BLOCK_P": BLOCK}
        if programs:
            _grid_cells_kernel[(programs, batch)](
                *(keys, reaches, windows, source_valid, counts, sides, pack(*cell_begins[:-1]), total, cells),
                *(batch * cells, batch_stride(windows), batch_stride(source_valid)),
                **common,
            )
        keys, order = torch.sort(keys, stable=True)
        starts = keys.new_empty(batch * cells + 1, dtype=torch.int32)
        _grid_starts_kernel[(cdiv(number + 1, BLOCK),)](starts, keys, number, batch * cells, FEW=8, BLOCK_P=BLOCK)
        if programs:
            _grid_records_kernel[(cdiv(number, BLOCK),)](
                *(records, offsets, order, windows, source_valid, counts, sides),
                *(pack(*(grad.shape[3] for grad in grads)), pack(*(s for grad in grads for s in grad.stride()[2:]))),
                *(number, total, batch_stride(windows), batch_stride(source_valid)),
                OFFSET=offset,
                **common,
            )
        for plan in plans:
            ins, results = plan.of(grads), plan.of(outs)
            _grid_adjoint_kernel[plan.grid](
                *(results, ins, records, offsets, starts, reaches, source_valid),
                *(plan.table(grads, outs, begins, cell_begins), counts, number),
                *(cells if batch > 1 else 0, int(batch > 1), batch_stride(source_valid), plan.group),
                ANTIALIAS=antialias,
                CHANNELS_LAST=plan.channels_last,
                ALIGNED=plan.channels_last and aligned(*ins, *results),
                OFFSET=offset,
                ACC=accumulator(grads[0].dtype),
                PREPARED=BLOCK,
                **plan.block,
                # float64 takes two registers: four warps spill, where eight need no vectors of 16 bytes.
                num_warps=8 if geo == tl.float64 and not plan.channels_last else 4,
            )
    return outs
