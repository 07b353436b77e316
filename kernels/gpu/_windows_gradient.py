"""Triton kernels of the `separable` family: the gradient of the windows.

A program sums over the channels and pixels of its block, another kernel over the blocks, in a fixed order: no atomics.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import INTERPRETED, blocks_of, cdiv, device_of, find_segment, pack, select
from fastwarp.kernels.gpu._levels import gradient_launch, layouts, plan_launches, tensors_of, work_of_program
from fastwarp.kernels.gpu._pieces import batch_stride
from fastwarp.kernels.gpu._taps import (
    accumulator,
    along_channels,
    along_pixels,
    channel_offsets,
    geometry,
    load_windows,
    source_extents,
    taps,
    weight,
)


@triton.jit
def _add_products(sums, products, dy, dx, ty, tx, CHANNELS_LAST: tl.constexpr):
    """Adds to the five sums what the tap (dy, dx) gives; `products` are those of gradient and pixel.

    W = tri / T with tri = 1 - |j - c| / s and T = sum of tri, so dW/dc = (sign(j - c) - W * sides) / (s T) and
    dW/ds = (1 - W * count) / (s T). Summed over the taps with the gradient g of each: g Wy Wx, and for each axis
    g W of the other axis, plain and with the sign.
    """
    g = tl.sum(products, 1 if CHANNELS_LAST else 0).to(sums[0].dtype)
    wy, wx = weight(dy, ty), weight(dx, tx)
    by_y, by_x = g * wx, g * wy
    sign_y, sign_x = tl.where(ty[2] + dy <= 0, -by_y, by_y), tl.where(tx[2] + dx <= 0, -by_x, by_x)
    return sums[0] + by_y * wy, sums[1] + by_y, sums[2] + sign_y, sums[3] + by_x, sums[4] + sign_x


@triton.jit(do_not_specialize=["total", "batch", "stride_wb", "stride_vb", "group"])
def _windows_gradient_kernel(
    sums_ptr,
    grads,
    images,
    windows_ptr,
    valid_ptr,
    levels,
    total,
    batch,
    stride_wb,
    stride_vb,
    group,
    ANTIALIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    UNIT: tl.constexpr,
    ALIGNED: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    GEO: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Program (block of targets of a level, group of channels, image): its share of the gradients.

    `sums_ptr` holds for each level [image, group, block of columns, (centre, half-width), row], then
    [image, group, block of rows, (centre, half-width), column].
    """
    pointers, work, size, whole, firsts, strides = work_of_program((grads, images), levels, group, ALIGNED, OFFSET)
    grad_ptr, image_ptr = pointers
    block, b, begin, end = work
    channels, size_y, size_x = size
    stride_b, stride_c, stride_h, stride_w = strides[0]
    grad_b, grad_c, grad_h, grad_w = strides[1]
    if begin >= channels:
        return

    blocks_y, blocks_x = tl.cdiv(size_y, BLOCK_Y), tl.cdiv(size_x, BLOCK_X)
    groups = tl.cdiv(channels, group)
    image_group = tl.program_id(2) * groups + tl.program_id(1)
    block_y = block // blocks_x
    block_x = block - block_y * blocks_x
    p = tl.arange(0, BLOCK_Y * BLOCK_X)
    row, column = block_y * BLOCK_Y + p // BLOCK_X, block_x * BLOCK_X + p % BLOCK_X
    inside = (row < size_y) & (column < size_x)

    extent_y, extent_x = source_extents(valid_ptr, b * stride_vb, whole)
    windows_ptr += b * stride_wb + firsts[0]
    cy, sy = load_windows(windows_ptr, row, inside, total, GEO)
    cx, sx = load_windows(windows_ptr + size_y, column, inside, total, GEO)
    ty, tx = taps(cy, sy, extent_y), taps(cx, sx, extent_x)

    image_ptr += b * stride_b
    image_ptr = along_pixels(image_ptr + ty[0].to(OFFSET) * stride_h + tx[0].to(OFFSET) * stride_w, CHANNELS_LAST)
    grad_ptr += b * grad_b
    grad_ptr = along_pixels(grad_ptr + row.to(OFFSET) * grad_h + column.to(OFFSET) * grad_w, CHANNELS_LAST)

    shape: tl.constexpr = [BLOCK_Y * BLOCK_X, BLOCK_C] if CHANNELS_LAST else [BLOCK_C, BLOCK_Y * BLOCK_X]
    zero = tl.zeros([BLOCK_Y * BLOCK_X], GEO)
    sums = (zero, zero, zero, zero, zero)
    if ANTIALIAS:
        for dy in range(tl.max(ty[1], 0)):
            for dx in range(tl.max(tx[1], 0)):
                reads = along_pixels(inside & (dy < ty[1]) & (dx < tx[1]), CHANNELS_LAST)
                products = tl.zeros(shape, ACC)
                for c0 in range(begin, end, BLOCK_C):
                    c = c0 + tl.arange(0, BLOCK_C)
                    mask = reads & along_channels(c < end, CHANNELS_LAST)
                    grad = grad_ptr + channel_offsets(c, grad_c, UNIT, CHANNELS_LAST)
                    image = image_ptr + channel_offsets(c, stride_c, CHANNELS_LAST, CHANNELS_LAST)
                    tap = tl.load(image + (dy * stride_h + dx * stride_w), mask=mask, other=0).to(ACC)
                    products += tl.load(grad, mask=mask, other=0).to(ACC) * tap
                sums = _add_products(sums, products, dy, dx, ty, tx, CHANNELS_LAST)
    else:
        here = along_pixels(inside & (ty[1] > 0) & (tx[1] > 0), CHANNELS_LAST)
        right = here & along_pixels(tx[1] > 1, CHANNELS_LAST)
        below = here & along_pixels(ty[1] > 1, CHANNELS_LAST)
        p00 = tl.zeros(shape, ACC)
        p01 = tl.zeros(shape, ACC)
        p10 = tl.zeros(shape, ACC)
        p11 = tl.zeros(shape, ACC)
        for c0 in range(begin, end, BLOCK_C):
            c = c0 + tl.arange(0, BLOCK_C)
            exists = along_channels(c < end, CHANNELS_LAST)
            grad = grad_ptr + channel_offsets(c, grad_c, UNIT, CHANNELS_LAST)
            image = image_ptr + channel_offsets(c, stride_c, CHANNELS_LAST, CHANNELS_LAST)
            g = tl.load(grad, mask=exists & here, other=0).to(ACC)
            p00 += g * tl.load(image, mask=exists & here, other=0).to(ACC)
            p01 += g * tl.load(image + stride_w, mask=exists & right, other=0).to(ACC)
            p10 += g * tl.load(image + stride_h, mask=exists & below, other=0).to(ACC)
            p11 += g * tl.load(image + (stride_h + stride_w), mask=exists & right & below, other=0).to(ACC)
        sums = _add_products(sums, p00, 0, 0, ty, tx, CHANNELS_LAST)
        sums = _add_products(sums, p01, 0, 1, ty, tx, CHANNELS_LAST)
        sums = _add_products(sums, p10, 1, 0, ty, tx, CHANNELS_LAST)
        sums = _add_products(sums, p11, 1, 1, ty, tx, CHANNELS_LAST)

    scale_y, scale_x = ty[3] * ty[4], tx[3] * tx[4]
    by_cy, by_sy = scale_y * (sums[2] - ty[5] * sums[0]), scale_y * (sums[1] - ty[1] * sums[0])
    by_cx, by_sx = scale_x * (sums[4] - tx[5] * sums[0]), scale_x * (sums[3] - tx[1] * sums[0])

    sums_ptr += firsts[1]
    i = block_y * BLOCK_Y + tl.arange(0, BLOCK_Y)
    y_ptr = sums_ptr + (image_group * blocks_x + block_x).to(tl.int64) * 2 * size_y + i
    tl.store(y_ptr, tl.sum(tl.reshape(by_cy, [BLOCK_Y, BLOCK_X]), 1), mask=i < size_y)
    tl.store(y_ptr + size_y, tl.sum(tl.reshape(by_sy, [BLOCK_Y, BLOCK_X]), 1), mask=i < size_y)
    j = block_x * BLOCK_X + tl.arange(0, BLOCK_X)
    x_ptr = sums_ptr + (batch * groups * blocks_x).to(tl.int64) * 2 * size_y
    x_ptr += (image_group * blocks_y + block_y).to(tl.int64) * 2 * size_x + j
    tl.store(x_ptr, tl.sum(tl.reshape(by_cx, [BLOCK_Y, BLOCK_X]), 0), mask=j < size_x)
    tl.store(x_ptr + size_x, tl.sum(tl.reshape(by_sx, [BLOCK_Y, BLOCK_X]), 0), mask=j < size_x)


@triton.jit(do_not_specialize=["total"])
def _sum_blocks_kernel(
    out_ptr, sums_ptr, sizes, begins, counts, total, ACC: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Program (block of an axis of a level, b): the sum of `counts` shares, in their order."""
    b = tl.program_id(1).to(tl.int64)
    segment, size, start, k0 = find_segment(tl.program_id(0), sizes, COLUMNS)
    count = select(counts, segment).to(tl.int32)
    sums_ptr += select(begins, segment) + b * count * 2 * size
    k = k0 + tl.arange(0, COLUMNS)
    centre = tl.zeros([COLUMNS], ACC)
    width = tl.zeros([COLUMNS], ACC)
    for n0 in range(0, count, ROWS):
        n = n0 + tl.arange(0, ROWS)
        share = sums_ptr + n[:, None].to(tl.int64) * 2 * size + k[None, :]
        mask = (n < count)[:, None] & (k < size)[None, :]
        centre += tl.sum(tl.load(share, mask=mask, other=0), 0)
        width += tl.sum(tl.load(share + size, mask=mask, other=0), 0)
    out_ptr += b * 2 * total + start + k
    tl.store(out_ptr, centre, mask=k < size)
    tl.store(out_ptr + total, width, mask=k < size)


class _Launches(NamedTuple):
    """What tensors of some layouts need.

    Attributes:
        sums: numbers that the programs write, see `_windows_gradient_kernel`.
        plans: launches of it.
        segments: sizes of the axes, where their sums begin, and how many shares each has, for `_sum_blocks_kernel`.
    """

    sums: int
    plans: list
    segments: tuple[tuple[int, ...], ...]


@functools.lru_cache(256)
def _launches(layouts: tuple, windows: int) -> _Launches:
    """For images and gradients of these layouts, and that many windows for them."""
    images, grads = tensors_of(layouts)
    batch, sizes = len(images[0]), [side for grad in grads for side in grad.shape[2:]]
    begins, counts, end = [0] * len(sizes), [0] * len(sizes), 0
    plans = plan_launches(images, grads)
    for plan in plans:
        for i in plan.index:
            groups = cdiv(images[i].shape[1], plan.group)
            sides = zip(grads[i].shape[2:], (plan.block["BLOCK_Y"], plan.block["BLOCK_X"]), strict=True)
            blocks = [cdiv(side, block) for side, block in sides]
            for axis in range(2):  # rows are summed over blocks of columns, and the other way round
                begins[2 * i + axis] = end
                counts[2 * i + axis] = batch // windows * groups * blocks[1 - axis]
                end += batch * groups * blocks[1 - axis] * 2 * sizes[2 * i + axis]
    first_windows = [sum(sizes[: 2 * i]) for i in range(len(images))]
    made = [gradient_launch(plan, images, grads, first_windows, begins[::2]) for plan in plans]
    return _Launches(end, made, (pack(*sizes), pack(*begins), pack(*counts)))


def windows_gradient(
    grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Tensor | None, antialias: bool
) -> Tensor:
    """Gradient to the windows of `resample`; summed over the images where they share their windows."""
    windows = windows.contiguous()
    source_valid = None if source_valid is None else source_valid.contiguous()
    batch, dtype, total = len(images[0]), images[0].dtype, windows.shape[2]
    kept = _launches(layouts(images, grads), len(windows))
    acc = accumulator(dtype)
    sums = windows.new_empty(kept.sums, dtype=torch.float64 if acc == tl.float64 else torch.float32)
    result = torch.empty_like(windows)
    with device_of(windows):
        for plan, table, constants in kept.plans:
            _windows_gradient_kernel[plan.grid](
                *(sums, plan.of(grads), plan.of(images), windows, source_valid, table, total, batch),
                *(batch_stride(windows), batch_stride(source_valid), plan.group),
                ANTIALIAS=antialias,
                ACC=acc,
                GEO=geometry(windows, dtype),
                **constants,
                num_warps=16 if dtype == torch.float64 else 8,
            )
        rows, columns = (64, 256) if INTERPRETED else (32, 32)
        blocks = blocks_of(tuple(side for grad in grads for side in grad.shape[2:]), columns)
        _sum_blocks_kernel[(blocks, len(windows))](
            *(result, sums, *kept.segments, total),
            ACC=acc,
            ROWS=rows,
            COLUMNS=columns,
        )
    return result
