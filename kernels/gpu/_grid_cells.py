"""Triton kernels of the `grid` family: targets sorted by their cell, the source pixel at or before their centre.

Those that may touch a pixel are then a few runs of the sorted list, one in each row of cells around it.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._grid_taps import first_targets, load_centres, target_taps
from fastwarp.kernels.gpu._launch import INTERPRETED, blocks_of, cdiv, find_segment, pack, select, unpack
from fastwarp.kernels.gpu._levels import wide
from fastwarp.kernels.gpu._pieces import batch_stride
from fastwarp.kernels.gpu._taps import geometry, source_extent

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


class Sorted(NamedTuple):
    """The sorted targets, as the kernels describe them."""

    records: Tensor
    offsets: Tensor
    starts: Tensor
    reaches: Tensor | None


def cells_of(source_sizes: list[int]) -> list[int]:
    """First cell of each level, and their total. Beside the cells of its pixels a level has one for NaN."""
    return [begin + level for level, begin in enumerate(first_targets(source_sizes))]


def sort_targets(
    grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Tensor | None, batch: int
) -> Sorted:
    """Sorts the targets of `batch` images, 1 if all have the same. There are some; what is not in a list is contiguous.

    Args:
        grads: `[B, C, h, w]`, of every level.
        windows: `[1 or batch, 2 or 4, P]`.
        source_sizes: of every level.
        source_valid: `[1 or batch, levels, 2]` or None.
        batch: see above.
    """
    antialias, geo = windows.shape[1] == 4, geometry(windows, grads[0].dtype)
    *_, total = first_targets([side for grad in grads for side in grad.shape[2:]])
    areas = tuple(grad.shape[2] * grad.shape[3] for grad in grads)
    counts, sides, programs = pack(*areas), pack(*source_sizes), blocks_of(areas, BLOCK)
    *begins, cells = cells_of(source_sizes)
    number, offset = batch * total, wide(*grads)

    keys = windows.new_empty(number, dtype=torch.int32 if batch * cells < 2**31 else torch.int64)
    reaches = windows.new_empty(batch, programs, 2, dtype=torch.int32) if antialias else None
    real = torch.float64 if geo == tl.float64 else torch.float32
    records = windows.new_empty(5 if antialias else 2, number, dtype=real)
    offsets = windows.new_empty(number, dtype=torch.int64 if offset == tl.int64 else torch.int32)
    common = {"ANTIALIAS": antialias, "GEO": geo, "BLOCK_P": BLOCK}
    strides = batch_stride(windows), batch_stride(source_valid)
    _grid_cells_kernel[(programs, batch)](
        *(keys, reaches, windows, source_valid, counts, sides, pack(*begins), total, cells, batch * cells, *strides),
        **common,
    )
    keys, order = torch.sort(keys, stable=True)
    starts = keys.new_empty(batch * cells + 1, dtype=torch.int32)
    _grid_starts_kernel[(cdiv(number + 1, BLOCK),)](starts, keys, number, batch * cells, FEW=8, BLOCK_P=BLOCK)
    _grid_records_kernel[(cdiv(number, BLOCK),)](
        *(records, offsets, order, windows, source_valid, counts, sides, pack(*(grad.shape[3] for grad in grads))),
        *(pack(*(s for grad in grads for s in grad.stride()[2:])), number, total, *strides),
        OFFSET=offset,
        **common,
    )
    return Sorted(records, offsets, starts, reaches)
