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
from fastwarp.kernels.gpu._launch import INTERPRETED, device_of, hint
from fastwarp.kernels.gpu._levels import blocks_of_planes, empty_levels, launches, pixels_of_planes, work_of_program
from fastwarp.kernels.gpu._pieces import batch_stride
from fastwarp.kernels.gpu._sample import sample_frame, sample_planes, sample_tiles
from fastwarp.kernels.gpu._taps import (
    accumulator,
    geometry,
    load_windows,
    pixels_of_block,
    source_extent,
    source_extents,
    taps,
    two_taps,
    within,
)
from fastwarp.kernels.gpu._windows_gradient import windows_gradient

__all__ = ["camera", "resample", "resample_adjoint", "windows_gradient"]


@triton.jit
def _taps_of_axis(c, s, extent, ANTIALIAS: tl.constexpr):
    """Whether windows read anything, and their taps."""
    inside = within(c, extent)
    reads = (s > 0) & (extent > 0) & ~(tl.abs(c - inside) >= 1)
    if ANTIALIAS:
        return reads, taps(c, s, extent)
    else:
        return reads, two_taps(inside)


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
    BYTES: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    GEO: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (block of pixels of a level, group of channels, image)."""
    pointers, work, size, whole, firsts, strides = work_of_program((outs, images), levels, group, ALIGNED, OFFSET)
    out_ptr, image_ptr = pointers
    block, b, begin, end = work
    channels, size_y, size_x = size
    stride_b, stride_c, stride_h, stride_w = strides[0]
    pixels = size_y * size_x
    if CHANNELS_LAST:
        p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        row, column = p // size_x, p % size_x
    else:
        row, column = pixels_of_block(block, size_x, BLOCK_P)
        p = row * size_x + column

    extent_y, extent_x = source_extents(valid_ptr, b * stride_vb, whole)
    windows_ptr += b * stride_wb + firsts[0]
    cy, sy = load_windows(windows_ptr, row, row < size_y, total, GEO)
    cx, sx = load_windows(windows_ptr + size_y, column, column < size_x, total, GEO)
    reads_y, ty = _taps_of_axis(cy, sy, extent_y, ANTIALIAS)
    reads_x, tx = _taps_of_axis(cx, sx, extent_x, ANTIALIAS)

    image_ptr += b * stride_b
    out_ptr += b * hint(channels, ALIGNED) * pixels
    if CHANNELS_LAST:
        sample_tiles(
            *((out_ptr, image_ptr), reads_y & reads_x, ty, tx, (stride_h, stride_w), p, (channels, pixels), begin, end),
            *(ANTIALIAS, ALIGNED, BYTES, OFFSET, ACC, BLOCK_C, BLOCK_P),
        )
    else:
        strides, exists = (stride_c, stride_h, stride_w), (row < size_y) & (column < size_x)
        sample_planes(
            *((out_ptr, image_ptr), reads_y & reads_x, ty, tx, strides, p, exists, pixels, begin, end),
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
    outs = empty_levels(images, len(images[0]), sizes)
    windows = windows.contiguous()
    source_valid = None if source_valid is None else source_valid.contiguous()
    begins = [sum(sizes[: 2 * i]) for i in range(len(images))]
    with device_of(windows):
        for plan, table, constants in launches(images, outs, begins, begins, pixels_of_planes(antialias)):
            ins, results = plan.of(images), plan.of(outs)
            dtype = ins[0].dtype
            _resample_kernel[plan.grid](
                *(results, ins, windows, source_valid, table, sum(sizes)),
                *(batch_stride(windows), batch_stride(source_valid), plan.group),
                ANTIALIAS=antialias,
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
    row, column = pixels_of_block(tl.program_id(0), size_x, BLOCK_P)
    extent_y = source_extent(valid_ptr, b * stride_vb, h)
    extent_x = source_extent(valid_ptr, b * stride_vb + 1, w)
    windows_ptr += b * stride_wb
    cy, sy = load_windows(windows_ptr, row, row < size_y, size_y + size_x, GEO)
    cx, sx = load_windows(windows_ptr + size_y, column, column < size_x, size_y + size_x, GEO)
    reads_y, ty = _taps_of_axis(cy, sy, extent_y, ANTIALIAS)
    reads_x, tx = _taps_of_axis(cx, sx, extent_x, ANTIALIAS)
    frame_ptr += b * h * w * len(scale)
    sample_frame(
        *(out_ptr + b * len(scale) * pixels, frame_ptr, reads_y & reads_x, ty, tx, w.to(OFFSET), scale, bias),
        *(row * size_x + column, (row < size_y) & (column < size_x), pixels, ANTIALIAS),
    )


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
        _camera_kernel[(blocks_of_planes(size[0], size[1], block), batch)](
            *(out, frame, windows, source_valid, tuple(map(float, scale)), tuple(map(float, bias))),
            *(batch_stride(windows), batch_stride(source_valid), h, w, *size),
            ANTIALIAS=antialias,
            OFFSET=tl.int64 if frame[0].numel() >= 2**31 else tl.int32,
            GEO=geometry(windows, torch.float32),
            BLOCK_P=block,
        )
    return out
