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
from fastwarp.kernels.gpu._grid_taps import first_targets, repeated, target_taps
from fastwarp.kernels.gpu._grid_widen import widen, widen_backward
from fastwarp.kernels.gpu._grid_windows_gradient import windows_gradient
from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, device_of, hint
from fastwarp.kernels.gpu._levels import empty_levels, launches, pixels_of_planes, work_of_program
from fastwarp.kernels.gpu._pieces import batch_stride
from fastwarp.kernels.gpu._sample import sample_frame, sample_planes, sample_tiles
from fastwarp.kernels.gpu._taps import accumulator, geometry, pixels_of_block, source_extent, source_extents
from fastwarp.kernels.layout import common_batch

__all__ = ["camera", "resample", "resample_adjoint", "widen", "widen_backward", "windows_gradient"]


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
    """Program (block of targets of a level, group of channels, image)."""
    pointers, work, size, whole, firsts, strides = work_of_program((outs, images), levels, group, ALIGNED, OFFSET)
    out_ptr, image_ptr = pointers
    block, b, begin, end = work
    channels, size_y, size_x = size
    stride_b, stride_c, stride_h, stride_w = strides[0]
    pixels = size_y * size_x
    if CHANNELS_LAST:
        p = block * BLOCK_P + tl.arange(0, BLOCK_P)
        exists = p < pixels
    else:
        row, column = pixels_of_block(block, size_x, BLOCK_P)
        p = row * size_x + column
        exists = (row < size_y) & (column < size_x)

    extent_y, extent_x = source_extents(valid_ptr, b * stride_vb, whole)
    windows_ptr += b * stride_wb + firsts[0]
    reads, ty, tx = target_taps(windows_ptr, p, exists, total, extent_y, extent_x, ANTIALIAS, GEO)

    image_ptr += b * stride_b
    out_ptr += b * hint(channels, ALIGNED) * pixels
    if CHANNELS_LAST:
        sample_tiles(
            *((out_ptr, image_ptr), reads, ty, tx, (stride_h, stride_w), p, (channels, pixels), begin, end),
            *(ANTIALIAS, ALIGNED, BYTES, OFFSET, ACC, BLOCK_C, BLOCK_P),
        )
    else:
        strides = stride_c, stride_h, stride_w
        sample_planes(
            *((out_ptr, image_ptr), reads, ty, tx, strides, p, exists, pixels, begin, end),
            *(ANTIALIAS, BYTES, OFFSET, ACC, BLOCK_C),
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
    outs = empty_levels(images, batch, sizes)
    images = repeated(images, batch)
    windows = windows.contiguous()
    source_valid = None if source_valid is None else source_valid.contiguous()
    *begins, total = first_targets(sizes)
    antialias = windows.shape[1] == 4
    with device_of(windows):
        for plan, table, constants in launches(images, outs, begins, begins, pixels_of_planes(antialias)):
            ins, results = plan.of(images), plan.of(outs)
            dtype = ins[0].dtype
            _grid_resample_kernel[plan.grid](
                *(results, ins, windows, source_valid, table, total),
                *(batch_stride(windows), batch_stride(source_valid), plan.group),
                ANTIALIAS=antialias,
                BYTES=dtype == torch.uint8,
                ACC=accumulator(dtype),
                GEO=geometry(windows, dtype),
                **constants,
                # Filters in float64 take many registers: four warps spill.
                num_warps=8 if dtype == torch.float64 and antialias and not plan.channels_last else 4,
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

    sample_frame(
        *(out_ptr + b * len(scale) * pixels, frame_ptr + b * stride_fb, reads, ty, tx, w.to(OFFSET), scale, bias),
        *(p, p < pixels, pixels, ANTIALIAS),
    )


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
