"""Triton kernels of the `label` family: the nearest pixel of each target, and the class of most of those it covers.

All levels of a pyramid go in one launch. Values travel as integers of their size: only the majority looks at them.
"""

import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._grid_taps import first_targets, repeated
from fastwarp.kernels.gpu._label_places import cell, load_targets
from fastwarp.kernels.gpu._label_places import nearest as nearest_pixel
from fastwarp.kernels.gpu._launch import device_of, hint
from fastwarp.kernels.gpu._levels import empty_levels, launches, work_of_program
from fastwarp.kernels.gpu._pieces import batch_stride
from fastwarp.kernels.gpu._taps import along_channels, along_pixels, channel_offsets, dense_tile, source_extents
from fastwarp.kernels.layout import as_integers, bits, common_batch


@triton.jit
def _count(source, stride_h, stride_w, rows, columns, votes, value, near, FIRST: tl.constexpr):
    """Votes of the cells for a class each. And whether there is a larger one (any, if FIRST) beside `near`, and the
    smallest such."""
    count = tl.zeros(value.shape, tl.int32)
    found, following = count > 0, value
    for a in range(tl.max(tl.max(rows, 1), 0)):
        for b in range(tl.max(tl.max(columns, 1), 0)):
            has = votes & (a < rows) & (b < columns)
            v = tl.load(source + (a * stride_h + b * stride_w), mask=has, other=0)
            count += (has & (v == value)).to(tl.int32)
            other = has & (v != near)
            if not FIRST:
                other = other & (v > value)
            following = tl.where(other & (~found | (v < following)), v, following)
            found = found | other
    return count, found, following


@triton.jit
def _winner(source, stride_h, stride_w, rows, columns, votes, near):
    """The class of most pixels: `near`, that of the nearest pixel, if no other has more, or else the smallest.

    The classes are counted one after the other, as long as the pixels that are left could win.
    """
    most, found, value = _count(source, stride_h, stride_w, rows, columns, votes, near, near, True)
    best, left = near, rows * columns - most
    open_ = votes & found & (left > most)
    while tl.max(tl.max(open_.to(tl.int32), 1), 0) > 0:
        count, found, following = _count(source, stride_h, stride_w, rows, columns, open_, value, near, False)
        best, most = tl.where(open_ & (count > most), value, best), tl.maximum(most, count)
        left -= count
        value = following
        open_ = open_ & found & (left > most)
    return best


@triton.jit(do_not_specialize=["total", "stride_wb", "stride_vb", "group", "fill", "lost"])
def _label_kernel(
    outs,
    images,
    windows_ptr,
    valid_ptr,
    levels,
    total,
    stride_wb,
    stride_vb,
    group,
    fill,
    lost,
    SEPARABLE: tl.constexpr,
    MAJORITY: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNED: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (block of targets of a level, group of channels, image)."""
    pointers, work, size, whole, firsts, strides = work_of_program((outs, images), levels, group, ALIGNED, OFFSET)
    out_ptr, image_ptr = pointers
    block, b, begin, end = work
    channels, size_y, size_x = size
    stride_b, stride_c, stride_h, stride_w = strides[0]
    pixels = size_y * size_x
    p = block * BLOCK_P + tl.arange(0, BLOCK_P)

    extent_y, extent_x = source_extents(valid_ptr, b * stride_vb, whole)
    windows_ptr += b * stride_wb + firsts[0]
    cy, cx, sy, sx, reads = load_targets(windows_ptr, p, p < pixels, total, size_y, size_x, SEPARABLE, MAJORITY)
    reads = reads & (p < pixels) & (extent_y > 0) & (extent_x > 0)
    is_lost = (cy != cy) | (cx != cx) | (sy != sy) | (sx != sx)
    y, x = nearest_pixel(cy, extent_y), nearest_pixel(cx, extent_x)

    image_ptr += b * stride_b
    out_ptr += b * hint(channels, ALIGNED) * pixels
    here = along_pixels(reads & ~is_lost, CHANNELS_LAST)
    for c0 in range(begin, end, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        source = image_ptr + channel_offsets(c, stride_c, CHANNELS_LAST, CHANNELS_LAST)
        exists = along_channels(c < end, CHANNELS_LAST)
        at = source + along_pixels(y.to(OFFSET) * stride_h + x.to(OFFSET) * stride_w, CHANNELS_LAST)
        value = tl.load(at, mask=exists & here, other=0)
        if MAJORITY:
            top, rows = cell(cy, sy, extent_y)
            left, columns = cell(cx, sx, extent_x)
            first = source + along_pixels(top.to(OFFSET) * stride_h + left.to(OFFSET) * stride_w, CHANNELS_LAST)
            rows, columns = along_pixels(rows, CHANNELS_LAST), along_pixels(columns, CHANNELS_LAST)
            value = _winner(first, stride_h, stride_w, rows, columns, exists & here, value)
        otherwise = tl.where(reads & is_lost, lost, fill).to(value.dtype)
        value = tl.where(here, value, along_pixels(otherwise, CHANNELS_LAST))
        target = dense_tile(out_ptr, c, p, channels, pixels, CHANNELS_LAST, ALIGNED, OFFSET)
        tl.store(target, value, mask=exists & along_pixels(p < pixels, CHANNELS_LAST))


def nearest(
    images: list[Tensor], windows: Tensor, separable: bool, sizes: list[int], source_valid: Tensor | None, fill: int
) -> list[Tensor]:
    """The nearest pixel of every target; see `fastwarp.kernels.cpu.label`."""
    return _launch(images, windows, separable, sizes, source_valid, fill, False)


def majority(
    labels: list[Tensor], windows: Tensor, separable: bool, sizes: list[int], source_valid: Tensor | None, fill: int
) -> list[Tensor]:
    """The class that most pixels of each target's cell have; see `fastwarp.kernels.cpu.label`."""
    return _launch(labels, windows, separable, sizes, source_valid, fill, True)


def _launch(
    images: list[Tensor],
    windows: Tensor,
    separable: bool,
    sizes: list[int],
    source_valid: Tensor | None,
    fill: int,
    majority: bool,
) -> list[Tensor]:
    batch, dtype = common_batch(images[0], windows), images[0].dtype
    outs = empty_levels(images, batch, sizes)
    images = repeated(images, batch)
    windows = windows.contiguous()
    source_valid = None if source_valid is None else source_valid.contiguous()
    begins = [sum(sizes[: 2 * i]) for i in range(len(images))] if separable else first_targets(sizes)[:-1]
    numbers = bits(fill, dtype), bits(float("nan") if dtype.is_floating_point else fill, dtype)
    with device_of(windows):
        for plan, table, constants in launches(images, outs, begins, begins):
            ins, results = plan.of(images), plan.of(outs)
            integers = [tuple(t.view(as_integers(dtype)) for t in tensors) for tensors in (results, ins)]
            _label_kernel[plan.grid](
                *(*integers, windows, source_valid, table, windows.shape[2]),
                *(batch_stride(windows), batch_stride(source_valid), plan.group, *numbers),
                SEPARABLE=separable,
                MAJORITY=majority,
                **constants,
                num_warps=8 if majority else 4,  # counting keeps many values at once: four warps spill
            )
    return outs
