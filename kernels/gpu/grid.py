"""Triton kernels of the `grid` family: resampling at windows, one per target, all levels of a pyramid in one launch.

What `F.grid_sample` does, at windows in pixels of the source; with half-widths the filter is the triangle of the
`separable` family, on both axes. A program makes one block of targets of one level, for a group of channels that share
addresses and weights. The gradients are in `_grid_adjoint` and `_grid_windows_gradient`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._grid_adjoint import resample_adjoint
from fastwarp.kernels.gpu._grid_taps import empty_results, first_targets, most, tap_weight, target_taps
from fastwarp.kernels.gpu._grid_widen import widen, widen_backward
from fastwarp.kernels.gpu._grid_windows_gradient import windows_gradient
from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, device_of
from fastwarp.kernels.gpu._pieces import batch_stride
from fastwarp.kernels.gpu._taps import (
    accumulator,
    add_planes,
    along_channels,
    along_pixels,
    channel_offsets,
    dense_tile,
    field,
    find_level,
    geometry,
    hint,
    launches,
    no_planes,
    pointer,
    small_field,
    source_extent,
    store_planes,
)
from fastwarp.kernels.gpu.separable import _round_to_byte
from fastwarp.kernels.layout import common_batch

__all__ = ["camera", "resample", "resample_adjoint", "widen", "widen_backward", "windows_gradient"]


@triton.jit
def _resample_tiles(
    out_ptr,
    image_ptr,
    ty,
    tx,
    strides,
    p,
    pixels,
    channels,
    begin,
    end,
    ANTIALIAS: tl.constexpr,
    ALIGNED: tl.constexpr,
    BYTES: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """channels_last: the channels from `begin` to `end` of the targets p, whose taps are given."""
    stride_c, stride_h, stride_w = strides
    near = ty[0].to(OFFSET) * stride_h + tx[0].to(OFFSET) * stride_w
    for c0 in range(begin, end, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        source = image_ptr + channel_offsets(c, stride_c, True, True) + along_pixels(near, True)
        target = dense_tile(out_ptr, c, p, channels, pixels, True, ALIGNED, OFFSET)
        exists = along_channels(c < end, True)
        value = tl.zeros([BLOCK_P, BLOCK_C], ACC)
        if ANTIALIAS:
            for dy in range(most(ty)):
                for dx in range(most(tx)):
                    w = along_pixels(tap_weight(dy, dx, ty, tx, ANTIALIAS), True)
                    tap = tl.load(source + (dy * stride_h + dx * stride_w), mask=exists & (w > 0), other=0)
                    value += tap.to(ACC) * w.to(ACC)
        else:
            for dy in tl.static_range(2):
                for dx in tl.static_range(2):
                    w = along_pixels(tap_weight(dy, dx, ty, tx, ANTIALIAS), True)
                    tap = tl.load(source + (dy * stride_h + dx * stride_w), mask=exists & (w > 0), other=0)
                    value += tap.to(ACC) * w.to(ACC)
        if BYTES:
            value = _round_to_byte(value)
        tl.store(target, value, mask=exists & along_pixels(p < pixels, True))


@triton.jit
def _resample_planes(
    out_ptr,
    image_ptr,
    ty,
    tx,
    strides,
    p,
    pixels,
    begin,
    end,
    ANTIALIAS: tl.constexpr,
    BYTES: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The same where channels lie apart: weights and masks once for all of them."""
    stride_c, stride_h, stride_w = strides
    near = ty[0].to(OFFSET) * stride_h + tx[0].to(OFFSET) * stride_w
    for c0 in range(begin, end, BLOCK_C):
        source, left = image_ptr + c0 * stride_c, end - c0
        planes = no_planes(p, ACC)
        if ANTIALIAS:
            for dy in range(most(ty)):
                for dx in range(most(tx)):
                    w = tap_weight(dy, dx, ty, tx, ANTIALIAS).to(ACC)
                    at = source + (dy * stride_h + dx * stride_w)
                    planes = add_planes(planes, at, stride_c, left, near, w > 0, w, BLOCK_C)
        else:
            for dy in tl.static_range(2):
                for dx in tl.static_range(2):
                    w = tap_weight(dy, dx, ty, tx, ANTIALIAS).to(ACC)
                    at = source + (dy * stride_h + dx * stride_w)
                    planes = add_planes(planes, at, stride_c, left, near, w > 0, w, BLOCK_C)
        if BYTES:
            a, b, c, d = planes
            planes = (_round_to_byte(a), _round_to_byte(b), _round_to_byte(c), _round_to_byte(d))
        store_planes(planes, out_ptr + pixels.to(tl.int64) * c0, pixels, left, p, p < pixels, BLOCK_C)


@triton.jit(do_not_specialize=["total", "stride_wb", "stride_vb", "group"])
def _grid_resample_kernel(
    outs,
    images,
    windows_ptr,
    valid_ptr,
    levels,
    total,
    stride_wb,
    stride_vb,
    group,
    ANTIALIAS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALIGNED: tl.constexpr,
    BYTES: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    GEO: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (level, image, group of channels, block of targets), the last one fastest."""
    position = find_level(tl.program_id(0), levels)
    image_ptr, out_ptr = pointer(images, position), pointer(outs, position)
    channels = small_field(levels, position, 3)
    stride_c, stride_h, stride_w = field(levels, position, 5), field(levels, position, 6), field(levels, position, 7)

    pid = tl.program_id(0) - small_field(levels, position, 0)
    pixels = small_field(levels, position, 10) * small_field(levels, position, 11)
    blocks, groups = tl.cdiv(pixels, BLOCK_P), tl.cdiv(channels, group)
    b = (pid // (blocks * groups)).to(tl.int64)
    begin = hint(pid // blocks % groups * group, ALIGNED)
    end = hint(tl.minimum(begin + group, channels), ALIGNED)
    p = pid % blocks * BLOCK_P + tl.arange(0, BLOCK_P)

    valid = b * stride_vb + field(levels, position, 1) * 2
    extent_y = source_extent(valid_ptr, valid, small_field(levels, position, 8))
    extent_x = source_extent(valid_ptr, valid + 1, small_field(levels, position, 9))
    windows_ptr += b * stride_wb + field(levels, position, 2)
    _, ty, tx = target_taps(windows_ptr, p, p < pixels, total, extent_y, extent_x, ANTIALIAS, GEO)

    stride_h, stride_w = hint(stride_h.to(OFFSET), ALIGNED), hint(stride_w.to(OFFSET), ALIGNED)
    image_ptr += b * hint(field(levels, position, 4), ALIGNED)
    out_ptr += b * hint(channels, ALIGNED) * pixels
    strides = (stride_c, stride_h, stride_w)
    if CHANNELS_LAST:
        _resample_tiles(
            *(out_ptr, image_ptr, ty, tx, strides, p, pixels, channels, begin, end),
            *(ANTIALIAS, ALIGNED, BYTES, OFFSET, ACC, BLOCK_C, BLOCK_P),
        )
    else:
        _resample_planes(
            *(out_ptr, image_ptr, ty, tx, strides, p, pixels, begin, end, ANTIALIAS, BYTES, OFFSET, ACC, BLOCK_C)
        )


def resample(images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None) -> list[Tensor]:
    """Resamples levels `[1 or B, C, H, W]` at windows `[1 or B, 2 or 4, P]`, in one launch.

    Args:
        images: any strides, one dtype: uint8, fp16, bf16, fp32, fp64.
        windows: x, y (and half-widths in x and y) in pixels of the source; the targets of the levels one after the
            other, row by row. x < 0 reads nothing.
        sizes: target sizes `[h1, w1, ...]`.
        source_valid: int64 `[1 or B, levels, 2]` or None; pixels from there on are never read.
    """
    batch = common_batch(images[0], windows)
    outs = empty_results(images, batch, sizes)
    images = [image.expand(batch, -1, -1, -1) for image in images]
    windows = windows.contiguous()
    source_valid = None if source_valid is None else source_valid.contiguous()
    *begins, total = first_targets(sizes)
    with device_of(windows):
        for plan, table, constants in launches(images, outs, begins, begins, planes=True):
            ins, results = plan.of(images), plan.of(outs)
            dtype = ins[0].dtype
            _grid_resample_kernel[(plan.programs,)](
                *(results, ins, windows, source_valid, table, total),
                *(batch_stride(windows), batch_stride(source_valid), plan.group),
                ANTIALIAS=windows.shape[1] == 4,
                BYTES=dtype == torch.uint8,
                ACC=accumulator(dtype),
                GEO=geometry(windows, dtype),
                **constants,
                # Filters in float64 take many registers: four warps spill.
                num_warps=8 if dtype == torch.float64 and windows.shape[1] == 4 and not plan.channels_last else 4,
            )
    return outs


@triton.jit(do_not_specialize=["stride_wb", "stride_vb", "stride_fb", "h", "w", "pixels"])
def _grid_camera_kernel(
    out_ptr,
    frame_ptr,
    windows_ptr,
    valid_ptr,
    scale,
    bias,
    stride_wb,
    stride_vb,
    stride_fb,
    h,
    w,
    pixels,
    ANTIALIAS: tl.constexpr,
    OFFSET: tl.constexpr,
    GEO: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (block of targets, image). The channels of a pixel lie together in the frame, apart in the result."""
    b = tl.program_id(1).to(tl.int64)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    extent_y = source_extent(valid_ptr, b * stride_vb, h)
    extent_x = source_extent(valid_ptr, b * stride_vb + 1, w)
    windows_ptr += b * stride_wb
    reads, ty, tx = target_taps(windows_ptr, p, p < pixels, pixels, extent_y, extent_x, ANTIALIAS, GEO)

    stride = w.to(OFFSET) * len(scale)
    source = frame_ptr + b * stride_fb + ty[0] * stride + tx[0] * len(scale)
    out_ptr += b * len(scale) * pixels + p
    for c in tl.static_range(len(scale)):
        value = tl.zeros([BLOCK_P], tl.float32)
        if ANTIALIAS:
            for dy in range(most(ty)):
                for dx in range(most(tx)):
                    share = tap_weight(dy, dx, ty, tx, ANTIALIAS).to(tl.float32)
                    tap = tl.load(source + (dy * stride + dx * len(scale) + c), mask=share > 0, other=0)
                    value += tap.to(tl.float32) * share
        else:
            for dy in tl.static_range(2):
                for dx in tl.static_range(2):
                    share = tap_weight(dy, dx, ty, tx, ANTIALIAS).to(tl.float32)
                    tap = tl.load(source + (dy * stride + dx * len(scale) + c), mask=share > 0, other=0)
                    value += tap.to(tl.float32) * share
        value = tl.where(reads, value * scale[c] + bias[c], 0.0)
        tl.store(out_ptr, value, mask=p < pixels)
        out_ptr += pixels


def camera(
    frame: Tensor,
    windows: Tensor,
    size: list[int],
    scale: list[float],
    bias: list[float],
    dtype: torch.dtype,
    source_valid: Tensor | None,
) -> Tensor:
    """uint8 frames `[1 or B, H, W, C]` -> resampled, `value * scale + bias`, `[B, C, *size]`, in one pass.

    Where a window reads nothing the result is 0, as padding after the normalisation is.
    """
    frame, windows = frame.contiguous(), windows.contiguous()
    source_valid = None if source_valid is None else source_valid.contiguous()
    h, w, channels = frame.shape[1:]
    batch = common_batch(frame, windows)
    pixels = size[0] * size[1]
    out = torch.empty((batch, channels, *size), dtype=dtype, device=frame.device)
    if out.numel() == 0:
        return out
    # Two pixels per thread: 24 loads in flight. With filters ptxas aims at 48 registers then, and spills.
    block = 4096 if INTERPRETED else 128 if windows.shape[1] == 4 else 256
    with device_of(windows):
        _grid_camera_kernel[(cdiv(pixels, block), batch)](
            *(out, frame, windows, source_valid, tuple(map(float, scale)), tuple(map(float, bias))),
            *(batch_stride(windows), batch_stride(source_valid), batch_stride(frame), h, w, pixels),
            ANTIALIAS=windows.shape[1] == 4,
            OFFSET=tl.int64 if frame[0].numel() >= 2**31 else tl.int32,
            GEO=geometry(windows, torch.float32),
            BLOCK_P=block,
        )
    return out
