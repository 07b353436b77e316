"""Triton kernels of the `separable` family: resampling by windows, all levels of a pyramid in one launch.

`out = Wy @ image @ Wx^T`, where a row of W is the normalised triangle of one window. A program makes one block of
pixels of one level, for a group of channels that share addresses and weights. The gradients
are in `_adjoint` and `_windows_gradient`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._adjoint import resample_adjoint
from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, device_of
from fastwarp.kernels.gpu._pieces import batch_stride
from fastwarp.kernels.gpu._taps import (
    accumulator,
    add_planes,
    along_channels,
    along_pixels,
    channel_offsets,
    dense_tile,
    empty_levels,
    field,
    find_level,
    geometry,
    hint,
    launches,
    load_windows,
    no_planes,
    pixels_of_block,
    pointer,
    rows_of_blocks,
    small_field,
    source_extent,
    store_planes,
    taps,
    two_taps,
    weight,
)
from fastwarp.kernels.gpu._windows_gradient import windows_gradient

__all__ = ["camera", "resample", "resample_adjoint", "windows_gradient"]


@triton.jit
def _round_to_byte(x):
    """0..255, half to even: adding 1.5 * 2^23 leaves no bits for a fraction. NaN gives 0."""
    rounded = (x + 12582912.0) - 12582912.0
    return tl.minimum(tl.where(rounded > 0, rounded, 0.0), 255.0).to(tl.uint8)


@triton.jit
def _resample_tiles(
    out_ptr,
    image_ptr,
    window_y,
    window_x,
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
    """channels_last: the channels from `begin` to `end` of the targets p. Windows are centre, half-width and extent."""
    stride_c, stride_h, stride_w = strides
    ty, tx = taps(window_y[0], window_y[1], window_y[2]), taps(window_x[0], window_x[1], window_x[2])
    near = ty[0].to(OFFSET) * stride_h + tx[0].to(OFFSET) * stride_w
    for c0 in range(begin, end, BLOCK_C):
        c = c0 + tl.arange(0, BLOCK_C)
        source = image_ptr + channel_offsets(c, stride_c, True, True) + along_pixels(near, True)
        target = dense_tile(out_ptr, c, p, channels, pixels, True, ALIGNED, OFFSET)
        exists = along_channels(c < end, True)
        value = tl.zeros([BLOCK_P, BLOCK_C], ACC)
        if ANTIALIAS:
            for dy in range(tl.maximum(tl.max(ty[1], 0), 1)):
                wy = weight(dy, ty)
                for dx in range(tl.maximum(tl.max(tx[1], 0), 1)):
                    w = along_pixels(wy * weight(dx, tx), True)
                    tap = tl.load(source + (dy * stride_h + dx * stride_w), mask=exists & (w > 0), other=0)
                    value += tap.to(ACC) * w.to(ACC)
        else:
            for dy in tl.static_range(2):
                for dx in tl.static_range(2):
                    w = along_pixels(weight(dy, ty) * weight(dx, tx), True)
                    tap = tl.load(source + (dy * stride_h + dx * stride_w), mask=exists & (w > 0), other=0)
                    value += tap.to(ACC) * w.to(ACC)
        if BYTES:
            value = _round_to_byte(value)
        tl.store(target, value, mask=exists & along_pixels(p < pixels, True))


@triton.jit
def _resample_planes(
    out_ptr,
    image_ptr,
    window_y,
    window_x,
    strides,
    p,
    exists,
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
    cy, sy, extent_y = window_y
    cx, sx, extent_x = window_x
    if ANTIALIAS:
        ty, tx = taps(cy, sy, extent_y), taps(cx, sx, extent_x)
        near = ty[0].to(OFFSET) * stride_h + tx[0].to(OFFSET) * stride_w
    else:
        y, near_y, far_y = two_taps(cy, sy, extent_y)
        x, near_x, far_x = two_taps(cx, sx, extent_x)
        near = y.to(OFFSET) * stride_h + x.to(OFFSET) * stride_w
        w00, w01 = (near_y * near_x).to(ACC), (near_y * far_x).to(ACC)
        w10, w11 = (far_y * near_x).to(ACC), (far_y * far_x).to(ACC)
    for c0 in range(begin, end, BLOCK_C):
        source, left = image_ptr + c0 * stride_c, end - c0
        planes = no_planes(p, ACC)
        if ANTIALIAS:
            for dy in range(tl.maximum(tl.max(tl.max(ty[1], 1), 0), 1)):
                wy = weight(dy, ty)
                for dx in range(tl.maximum(tl.max(tl.max(tx[1], 1), 0), 1)):
                    w = (wy * weight(dx, tx)).to(ACC)
                    at = source + (dy * stride_h + dx * stride_w)
                    planes = add_planes(planes, at, stride_c, left, near, w > 0, w, BLOCK_C)
        else:
            below = near + stride_h
            planes = add_planes(planes, source, stride_c, left, near, w00 > 0, w00, BLOCK_C)
            planes = add_planes(planes, source + stride_w, stride_c, left, near, w01 > 0, w01, BLOCK_C)
            planes = add_planes(planes, source, stride_c, left, below, w10 > 0, w10, BLOCK_C)
            planes = add_planes(planes, source + stride_w, stride_c, left, below, w11 > 0, w11, BLOCK_C)
        if BYTES:
            a, b, c, d = planes
            planes = (_round_to_byte(a), _round_to_byte(b), _round_to_byte(c), _round_to_byte(d))
        store_planes(planes, out_ptr + pixels.to(tl.int64) * c0, pixels, left, p, exists, BLOCK_C)


@triton.jit(do_not_specialize=["total", "stride_wb", "stride_vb", "group"])
def _resample_kernel(
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
    UNIT: tl.constexpr,
    BYTES: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    GEO: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (level, image, group of channels, block of pixels), the last one fastest."""
    position = find_level(tl.program_id(0), levels)
    image_ptr, out_ptr = pointer(images, position), pointer(outs, position)
    channels = small_field(levels, position, 3)
    stride_c, stride_h, stride_w = field(levels, position, 5), field(levels, position, 6), field(levels, position, 7)
    size_y, size_x = small_field(levels, position, 10), small_field(levels, position, 11)

    pid = tl.program_id(0) - small_field(levels, position, 0)
    pixels, groups = size_y * size_x, tl.cdiv(channels, group)
    across, blocks = rows_of_blocks(size_y, size_x, BLOCK_P)
    if CHANNELS_LAST:
        blocks = tl.cdiv(pixels, BLOCK_P)
    b = (pid // (blocks * groups)).to(tl.int64)
    begin = hint(pid // blocks % groups * group, ALIGNED)
    end = hint(tl.minimum(begin + group, channels), ALIGNED)
    if CHANNELS_LAST:
        p = pid % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
        row, column = p // size_x, p % size_x
        row_exists, column_exists = p < pixels, p < pixels
    else:
        row, column = pixels_of_block(pid % blocks, across, BLOCK_P)
        p = row * size_x + column
        row_exists, column_exists = row < size_y, column < size_x

    valid = b * stride_vb + field(levels, position, 1) * 2
    extent_y = source_extent(valid_ptr, valid, small_field(levels, position, 8))
    extent_x = source_extent(valid_ptr, valid + 1, small_field(levels, position, 9))
    windows_ptr += b * stride_wb + field(levels, position, 2)
    cy, sy = load_windows(windows_ptr, row, row_exists, total, GEO)
    cx, sx = load_windows(windows_ptr + size_y, column, column_exists, total, GEO)

    stride_h, stride_w = hint(stride_h.to(OFFSET), ALIGNED), 1 if UNIT else hint(stride_w.to(OFFSET), ALIGNED)
    image_ptr += b * hint(field(levels, position, 4), ALIGNED)
    out_ptr += b * hint(channels, ALIGNED) * pixels
    strides = (stride_c, stride_h, stride_w)
    if CHANNELS_LAST:
        _resample_tiles(
            *(out_ptr, image_ptr, (cy, sy, extent_y), (cx, sx, extent_x), strides, p, pixels, channels, begin, end),
            *(ANTIALIAS, ALIGNED, BYTES, OFFSET, ACC, BLOCK_C, BLOCK_P),
        )
    else:
        _resample_planes(
            *(out_ptr, image_ptr, (cy, sy, extent_y), (cx, sx, extent_x), strides, p, row_exists & column_exists),
            *(pixels, begin, end),
            *(ANTIALIAS, BYTES, OFFSET, ACC, BLOCK_C),
        )


def resample(
    images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    """Resamples levels `[B, C, H, W]` by windows `[1 or B, 2, sum(sizes)]`, in one launch.

    Args:
        images: any strides, one dtype: uint8, fp16, bf16, fp32, fp64.
        windows: as `axis.axis_windows` returns.
        sizes: target sizes `[h1, w1, ...]`.
        source_valid: int64 `[1 or B, levels, 2]` or None; pixels from there on are never read.
        antialias: half-widths can be above 1.
    """
    outs = empty_levels(images, sizes)
    windows = windows.contiguous()
    source_valid = None if source_valid is None else source_valid.contiguous()
    begins = [sum(sizes[: 2 * i]) for i in range(len(images))]
    with device_of(windows):
        for plan, table, constants in launches(images, outs, begins, begins, planes=True):
            ins, results = plan.of(images), plan.of(outs)
            dtype = ins[0].dtype
            _resample_kernel[(plan.programs,)](
                *(results, ins, windows, source_valid, table, sum(sizes)),
                *(batch_stride(windows), batch_stride(source_valid), plan.group),
                ANTIALIAS=antialias,
                UNIT=not plan.channels_last and all(t.stride(3) == 1 for t in ins),
                BYTES=dtype == torch.uint8,
                ACC=accumulator(dtype),
                GEO=geometry(windows, dtype),
                **constants,
            )
    return outs


@triton.jit(do_not_specialize=["stride_wb", "stride_vb", "h", "w", "size_y", "size_x"])
def _camera_kernel(
    out_ptr,
    frame_ptr,
    windows_ptr,
    valid_ptr,
    scale,
    bias,
    stride_wb,
    stride_vb,
    h,
    w,
    size_y,
    size_x,
    ANTIALIAS: tl.constexpr,
    OFFSET: tl.constexpr,
    GEO: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (block of pixels, image). The channels of a pixel lie together in the frame, apart in the result."""
    b = tl.program_id(1).to(tl.int64)
    pixels = size_y * size_x
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    row, column = p // size_x, p % size_x
    extent_y = source_extent(valid_ptr, b * stride_vb, h)
    extent_x = source_extent(valid_ptr, b * stride_vb + 1, w)
    windows_ptr += b * stride_wb
    cy, sy = load_windows(windows_ptr, row, p < pixels, size_y + size_x, GEO)
    cx, sx = load_windows(windows_ptr + size_y, column, p < pixels, size_y + size_x, GEO)
    ty, tx = taps(cy, sy, extent_y), taps(cx, sx, extent_x)

    stride = w.to(OFFSET) * len(scale)
    source = frame_ptr + b * h * stride + ty[0] * stride + tx[0] * len(scale)
    out_ptr += b * len(scale) * pixels + p
    for c in tl.static_range(len(scale)):
        value = tl.zeros([BLOCK_P], tl.float32)
        if ANTIALIAS:
            for dy in range(tl.maximum(tl.max(ty[1], 0), 1)):
                wy = weight(dy, ty)
                for dx in range(tl.maximum(tl.max(tx[1], 0), 1)):
                    share = (wy * weight(dx, tx)).to(tl.float32)
                    tap = tl.load(source + (dy * stride + dx * len(scale) + c), mask=share > 0, other=0)
                    value += tap.to(tl.float32) * share
        else:
            for dy in tl.static_range(2):
                for dx in tl.static_range(2):
                    share = (weight(dy, ty) * weight(dx, tx)).to(tl.float32)
                    tap = tl.load(source + (dy * stride + dx * len(scale) + c), mask=share > 0, other=0)
                    value += tap.to(tl.float32) * share
        value = tl.where((sy == 0) | (sx == 0), value, value * scale[c] + bias[c])
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
    antialias: bool,
) -> Tensor:
    """uint8 frames `[B, H, W, C]` -> resampled, `value * scale + bias`, `[B, C, *size]`, in one pass.

    Where a window reads nothing the result is 0, as padding after the normalisation is.
    """
    frame, windows = frame.contiguous(), windows.contiguous()
    source_valid = None if source_valid is None else source_valid.contiguous()
    batch, h, w, channels = frame.shape
    out = torch.empty((batch, channels, *size), dtype=dtype, device=frame.device)
    block = 4096 if INTERPRETED else 256  # two pixels per thread: 24 loads in flight
    with device_of(frame):
        _camera_kernel[(cdiv(size[0] * size[1], block), batch)](
            *(out, frame, windows, source_valid, tuple(map(float, scale)), tuple(map(float, bias))),
            *(batch_stride(windows), batch_stride(source_valid), h, w, *size),
            ANTIALIAS=antialias,
            OFFSET=tl.int64 if frame[0].numel() >= 2**31 else tl.int32,
            GEO=geometry(windows, torch.float32),
            BLOCK_P=block,
        )
    return out
