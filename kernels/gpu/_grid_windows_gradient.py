"""Triton kernels of the `grid` family: the gradient of the windows.

A program sums over the channels of its targets. Where there are too few targets to keep a GPU busy, or images share
their windows, it writes a share, and the shares are summed in a fixed order: no atomics.
"""

import functools
import itertools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._grid_taps import first_targets, load_centres, repeated, target_taps
from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, device_of, next_power_of_2
from fastwarp.kernels.gpu._levels import Plan, gradient_launch, layouts, tensors_of, work_of_program
from fastwarp.kernels.gpu._pieces import batch_stride
from fastwarp.kernels.gpu._taps import (
    accumulator,
    along_channels,
    along_pixels,
    channel_offsets,
    geometry,
    most,
    source_extents,
    weight,
)
from fastwarp.kernels.layout import common_batch, memory_format


def _plan_launches(images: list[Tensor], grads: list[Tensor]) -> tuple[list[Plan], int]:
    """The launches for tiles over the targets, one per memory format of the images, and the number of shares that the
    channels are divided in: more where there are few targets, see `_levels.plan_launches`."""
    formats: dict[bool, list[int]] = {}
    for i, (image, grad) in enumerate(zip(images, grads, strict=True)):
        if image.numel() > 0 and grad.numel() > 0:
            formats.setdefault(memory_format(image) == torch.channels_last, []).append(i)
    double = images[0].dtype == torch.float64
    tiles, blocks, chunks = {}, {}, {}
    for channels_last, index in formats.items():
        channels = max(images[i].shape[1] for i in index)
        block_c = min(next_power_of_2(channels), 128 if channels_last else 4)
        # Vectors of 16 bytes need 8 values per thread; without them so many would only spill.
        values = 4096 if INTERPRETED else 1024 if channels_last and not double else 512
        tiles[channels_last] = {"BLOCK_C": block_c, "BLOCK_P": values // block_c}
        chunks[channels_last] = cdiv(channels, block_c)
        blocks[channels_last] = [cdiv(grads[i].shape[2] * grads[i].shape[3], values // block_c) for i in index]
    programs = len(grads[0]) * sum(sum(n) for n in blocks.values())
    shares = min(max(1056 // max(programs, 1), 1), max(chunks.values(), default=1))
    plans = []
    for channels_last, index in formats.items():
        *firsts, total = itertools.accumulate(blocks[channels_last], initial=0)
        tile = tiles[channels_last]
        group = cdiv(chunks[channels_last], shares) * tile["BLOCK_C"]
        plans.append(Plan(channels_last, index, firsts, (total, shares, len(grads[0])), group, tile))
    return plans, shares


@triton.jit
def _weight_and_slopes(d, t):
    """Weight of tap number d of a triangle, and its derivatives by centre and half-width.

    W = tri / T with tri = 1 - |j - c| / s and T = sum of tri, so dW/dc = (sign(j - c) - W * sides) / (s T) and
    dW/ds = (1 - W * count) / (s T).
    """
    w = weight(d, t)
    scale = tl.where(d < t[1], t[3] * t[4], 0.0)
    return w, (tl.where(t[2] + d <= 0, -1.0, 1.0) - w * t[5]) * scale, (1.0 - w * t[1]) * scale


@triton.jit
def _sides(c, extent):
    """First pixel, weights of it and the next, the distance between them: 0 at the last pixel. Its gradient is towards
    the next pixel, so it is not left out at a weight of 0, as in `two_taps`."""
    first = tl.where(c == c, tl.floor(c), 0.0)
    return first.to(tl.int32), 1.0 - (c - first), c - first, (first + 1 < extent).to(tl.int32)


@triton.jit
def _share(w, difference):
    """What pixels of weight 0 give is 0, whatever they hold."""
    return tl.where(w == 0, 0.0, w.to(difference.dtype) * difference)


@triton.jit(do_not_specialize=["total", "stride_wb", "stride_vb", "group", "batch"])
def _grid_windows_gradient_kernel(
    out_ptr,
    grads,
    images,
    windows_ptr,
    valid_ptr,
    levels,
    total,
    stride_wb,
    stride_vb,
    group,
    batch,
    ANTIALIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    UNIT: tl.constexpr,
    ALIGNED: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    GEO: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (block of targets of a level, share of the channels, image): `out_ptr` is [share, image, row, target]."""
    pointers, work, size, whole, firsts, strides = work_of_program((grads, images), levels, group, ALIGNED, OFFSET)
    grad_ptr, image_ptr = pointers
    block, b, begin, end = work
    size_y, size_x = size[1], size[2]
    stride_b, stride_c, stride_h, stride_w = strides[0]
    grad_b, grad_c, grad_h, grad_w = strides[1]

    p = block * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = p < size_y * size_x

    extent_y, extent_x = source_extents(valid_ptr, b * stride_vb, whole)
    windows_ptr += b * stride_wb + firsts[0]
    if ANTIALIAS:
        reads, ty, tx = target_taps(windows_ptr, p, inside, total, extent_y, extent_x, ANTIALIAS, GEO)
    else:
        reads, y, x = load_centres(windows_ptr, p, inside, total, extent_y, extent_x, GEO)
        ty, tx = _sides(tl.where(reads, y, 0.0), extent_y), _sides(tl.where(reads, x, 0.0), extent_x)

    image_ptr += b * stride_b
    image_ptr = along_pixels(image_ptr + ty[0].to(OFFSET) * stride_h + tx[0].to(OFFSET) * stride_w, CHANNELS_LAST)
    grad_ptr += b * grad_b
    grad_ptr = along_pixels(grad_ptr + p // size_x * grad_h + p % size_x * grad_w, CHANNELS_LAST)

    shape: tl.constexpr = [BLOCK_P, BLOCK_C] if CHANNELS_LAST else [BLOCK_C, BLOCK_P]
    axis: tl.constexpr = 1 if CHANNELS_LAST else 0
    by_x = tl.zeros(shape, ACC)
    by_y = tl.zeros(shape, ACC)
    by_width_x = tl.zeros(shape, ACC)
    by_width_y = tl.zeros(shape, ACC)
    for c0 in range(begin, end, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        mask = along_channels(c < end, CHANNELS_LAST) & along_pixels(inside & reads, CHANNELS_LAST)
        g = tl.load(grad_ptr + channel_offsets(c, grad_c, UNIT, CHANNELS_LAST), mask=mask, other=0).to(ACC)
        image = image_ptr + channel_offsets(c, stride_c, CHANNELS_LAST, CHANNELS_LAST)
        if ANTIALIAS:
            for dy in range(most(ty)):
                wy, wy_c, wy_s = _weight_and_slopes(dy, ty)
                for dx in range(most(tx)):
                    wx, wx_c, wx_s = _weight_and_slopes(dx, tx)
                    here = mask & along_pixels((dy < ty[1]) & (dx < tx[1]), CHANNELS_LAST)
                    tap = tl.load(image + (dy * stride_h + dx * stride_w), mask=here, other=0).to(ACC) * g
                    by_x += _share(along_pixels(wy * wx_c, CHANNELS_LAST), tap)
                    by_y += _share(along_pixels(wy_c * wx, CHANNELS_LAST), tap)
                    by_width_x += _share(along_pixels(wy * wx_s, CHANNELS_LAST), tap)
                    by_width_y += _share(along_pixels(wy_s * wx, CHANNELS_LAST), tap)
        else:
            right, below = along_pixels(tx[3] * stride_w, CHANNELS_LAST), along_pixels(ty[3] * stride_h, CHANNELS_LAST)
            here = tl.load(image, mask=mask, other=0).to(ACC)
            east = tl.load(image + right, mask=mask, other=0).to(ACC)
            south = tl.load(image + below, mask=mask, other=0).to(ACC)
            both = tl.load(image + below + right, mask=mask, other=0).to(ACC)
            near_y, far_y = along_pixels(ty[1], CHANNELS_LAST), along_pixels(ty[2], CHANNELS_LAST)
            near_x, far_x = along_pixels(tx[1], CHANNELS_LAST), along_pixels(tx[2], CHANNELS_LAST)
            by_x += g * (_share(near_y, east - here) + _share(far_y, both - south))
            by_y += g * (_share(near_x, south - here) + _share(far_x, both - east))

    rows: tl.constexpr = 4 if ANTIALIAS else 2
    out_ptr += (tl.program_id(1) * batch + b) * rows * total + firsts[0] + p
    nan = (ty[2] + tx[2]) * 0.0  # a window that is NaN on one axis has no gradient on the other
    tl.store(out_ptr, tl.sum(by_x, axis) + nan, mask=inside)
    out_ptr += total
    tl.store(out_ptr, tl.sum(by_y, axis) + nan, mask=inside)
    if ANTIALIAS:
        out_ptr += total
        tl.store(out_ptr, tl.sum(by_width_x, axis) + nan, mask=inside)
        out_ptr += total
        tl.store(out_ptr, tl.sum(by_width_y, axis) + nan, mask=inside)


class _Launches(NamedTuple):
    """What tensors of some layouts need: launches, shares, targets, and whether every level is in a launch."""

    plans: list
    shares: int
    total: int
    complete: bool


@functools.lru_cache(256)
def _launches(layouts: tuple) -> _Launches:
    """For images and gradients of these layouts."""
    images, grads = tensors_of(layouts)
    *begins, total = first_targets([side for grad in grads for side in grad.shape[2:]])
    plans, shares = _plan_launches(images, grads)
    made = [gradient_launch(plan, images, grads, begins, begins) for plan in plans]
    return _Launches(made, shares, total, sum(len(plan.index) for plan in plans) == len(images))


def windows_gradient(grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Tensor | None) -> Tensor:
    """Gradient to the windows of `resample`; summed over the images where they share their windows."""
    windows = windows.contiguous()
    source_valid = None if source_valid is None else source_valid.contiguous()
    batch = common_batch(images[0], grads[0], windows)
    images, grads = repeated(images, batch), repeated(grads, batch)
    dtype, geo = images[0].dtype, geometry(windows, images[0].dtype)
    kept = _launches(layouts(images, grads))
    # Levels without pixels or channels are in no launch: their gradient is 0.
    sums = (torch.empty if kept.complete else torch.zeros)(
        (kept.shares, batch, *windows.shape[1:]),
        dtype=torch.float64 if geo == tl.float64 else torch.float32,
        device=windows.device,
    )
    with device_of(windows):
        for plan, table, constants in kept.plans:
            _grid_windows_gradient_kernel[plan.grid](
                *(sums, plan.of(grads), plan.of(images), windows, source_valid, table, kept.total),
                *(batch_stride(windows), batch_stride(source_valid), plan.group, batch),
                ANTIALIAS=windows.shape[1] == 4,
                ACC=accumulator(dtype),
                GEO=geo,
                **constants,
            )
        if len(windows) != batch:
            return sums.sum((0, 1), keepdim=True)[0].to(windows.dtype)
        return (sums.sum(0) if kept.shares > 1 else sums[0]).to(windows.dtype)
