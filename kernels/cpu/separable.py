"""Launchers of the `separable` family: resampling by windows, its adjoint, its gradient to the windows, the camera.

Which kernel makes a level follows from its shape alone, so that a program compiles the kernels that its shapes need.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu._levels import Call, dense, run_levels, with_results
from fastwarp.kernels.cpu._memory import array, empty, like, real, shares_windows
from fastwarp.kernels.cpu._rows import LANES
from fastwarp.kernels.cpu._separable_gradient import CHUNKS, bilinear_gradient, reduce_partial, triangle_gradient
from fastwarp.kernels.cpu._separable_interleaved import blend_interleaved, sum_interleaved
from fastwarp.kernels.cpu._separable_pixels import MANY, blend_many, blend_pixels, sum_many
from fastwarp.kernels.cpu._separable_planes import adjoint_planes, blend_planes
from fastwarp.kernels.layout import memory_format

_MINIFIED = 4  # times, from where on most of an interleaved source row would be made for nothing
_MAGNIFIED = 4  # times, from where on the targets of a block read more than it pays to pick from registers


def _chooser(source: torch.dtype, result: torch.dtype, affine: Any, antialias: bool) -> Callable[[int, int, int], Call]:
    """Which kernel resamples a level."""
    args = (like(source), like(result), real(result), affine)
    size = source.itemsize

    def choose(channels: int, width: int, columns: int) -> Call:
        is_many = channels >= MANY and affine is None
        if antialias:
            return (sum_many, (args[0], args[2])) if is_many else (sum_interleaved, args)
        if channels == 1:
            return blend_planes, args
        if is_many:
            return blend_many, (args[0], args[2])
        # Pixels of few channels are vectors by themselves where nothing has to be widened for them.
        is_vector = channels > 4 or (channels > 2 and size >= 4)
        if is_vector or width > _MINIFIED * columns or width * channels < LANES:
            return blend_pixels, args
        return blend_interleaved, args

    return choose


@functools.cache
def _plain_chooser(dtype: torch.dtype, antialias: bool) -> Callable[[int, int, int], Call]:
    return _chooser(dtype, dtype, None, antialias)


def resample(
    images: list[Tensor], windows: Tensor | np.ndarray, sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    """Resamples levels `[B, C, H, W]` by windows `[1 or B, 2, sum(sizes)]`.

    Args:
        images: any strides, one dtype: uint8, fp16, bf16, fp32, fp64.
        windows: as `axis.axis_windows` or `axis.windows_to_resample` returns.
        sizes: target sizes `[h1, w1, ...]`.
        source_valid: int64 `[1 or B, levels, 2]` or None; pixels from there on are never read.
        antialias: half-widths can be above 1.
    """
    images, results, formats = with_results(images, sizes)
    choose = _plain_chooser(images[0].dtype, antialias)
    run_levels(images, results, formats, windows, source_valid, choose, separable=True)
    return results


def resample_adjoint(
    grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    """Gradients `[B, C, H, W]` to the images of `resample`, from those of the results, in their memory formats."""
    grads, results, formats = with_results(grads, source_sizes)
    stored, number = like(grads[0].dtype), real(grads[0].dtype)

    def choose(channels: int, width: int, columns: int) -> Call:
        if channels >= MANY:
            return sum_many, (stored, number)
        if channels == 1 and LANES <= width <= _MAGNIFIED * columns:
            return adjoint_planes, (stored, number)
        return sum_interleaved, (stored, stored, number, None)

    run_levels(grads, results, formats, windows, source_valid, choose, separable=True, is_adjoint=True)
    return results


def windows_gradient(
    grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Tensor | None, antialias: bool
) -> Tensor:
    """Gradient to the windows of `resample`; summed over the images where they share their windows."""
    formats = [memory_format(i) for i in images]
    grads, images = dense(grads, formats), dense(images, formats)
    shared = shares_windows(windows, source_valid)
    partial = np.zeros((CHUNKS, 1 if shared else max(len(i) for i in images), *windows.shape[1:]))
    dtype = images[0].dtype
    args = (like(dtype), real(dtype), real(torch.float64), partial)

    def choose(channels: int, width: int, columns: int) -> Call:
        has_pairs = not antialias and width * channels >= LANES and columns * channels >= LANES
        return bilinear_gradient if has_pairs else triangle_gradient, args

    run_levels(images, grads, formats, windows, source_valid, choose, separable=True)
    result = torch.empty(windows.shape, dtype=windows.dtype, device="cpu")
    reduce_partial(partial, array(result))
    return result


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
    """uint8 frames `[B, H, W, C]` -> resampled, `value * scale + bias`, `[B, C, *size]`, in one pass."""
    image = frame.contiguous().permute(0, 3, 1, 2)
    result = empty((*image.shape[:2], *size), dtype, torch.contiguous_format)
    kind = real(dtype).dtype
    choose = _chooser(frame.dtype, dtype, (np.array(scale, kind), np.array(bias, kind)), antialias)
    run_levels([image], [result], [torch.channels_last], windows, source_valid, choose, separable=True)
    return result
