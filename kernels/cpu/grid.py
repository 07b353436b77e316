"""Launchers of the `grid` family: resampling at windows, its adjoint, its gradient to the windows, the camera.

Which kernel a level takes follows from its memory format and from the rows of the windows, so that a program compiles
the kernels that it needs.
"""

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu._grid_adjoint import spread_footprints, spread_pixels, spread_planes
from fastwarp.kernels.cpu._grid_resample import resample_footprints, resample_pixels, resample_planes
from fastwarp.kernels.cpu._grid_taps import widen_windows, widen_windows_backward
from fastwarp.kernels.cpu._grid_windows_gradient import gradient_of_footprints, gradient_of_pixels, gradient_of_planes
from fastwarp.kernels.cpu._levels import Call, Formats, dense, run_levels, shapes_of, with_results
from fastwarp.kernels.cpu._memory import array, empty, like, real, tensor
from fastwarp.kernels.cpu._parallel import run
from fastwarp.kernels.layout import common_batch, memory_format

_WIDEN_WORK = 16  # of a target, in values


def _resample(
    images: list[Tensor],
    results: list[Tensor],
    formats: Formats,
    windows: Tensor,
    source_valid: Tensor | None,
    affine: tuple[np.ndarray, np.ndarray] | None,
) -> None:
    of_planes = (like(images[0].dtype), real(results[0].dtype))
    of_pixels = (like(images[0].dtype), like(results[0].dtype), real(results[0].dtype), affine)

    def choose(channels: int, _width: int, _columns: int) -> Call:
        if windows.shape[1] == 4:
            return resample_footprints, of_pixels
        return (resample_planes, of_planes) if channels == 1 and affine is None else (resample_pixels, of_pixels)

    run_levels(images, results, formats, windows, source_valid, choose, separable=False)


def resample(images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None) -> list[Tensor]:
    """Resamples levels `[B, C, H, W]` at windows.

    Args:
        images: any strides, one dtype: uint8, fp16, bf16, fp32, fp64. A batch of 1 is shared by the windows.
        windows: `[1 or B, 2 or 4, P]`: x, y and, for the triangle filter, half-widths in x and y; fp32 or fp64.
        sizes: target sizes `[h1, w1, ...]`; P is the sum of their products.
        source_valid: int64 `[1 or B, levels, 2]` or None; pixels from there on are never read.
    """
    images, results, formats = with_results(images, sizes, windows)
    _resample(images, results, formats, windows, source_valid, None)
    return results


def camera(
    frame: Tensor,
    windows: Tensor,
    size: list[int],
    scale: list[float],
    bias: list[float],
    dtype: torch.dtype,
    source_valid: Tensor | None,
) -> Tensor:
    """uint8 frames `[B, H, W, C]` -> resampled, `value * scale + bias`, `[B, C, *size]`, in one pass."""
    image = frame.contiguous().permute(0, 3, 1, 2)
    result = empty((common_batch(image, windows), image.shape[1], *size), dtype, torch.contiguous_format)
    number = real(dtype).dtype
    affine = (np.array(scale, number), np.array(bias, number))
    _resample([image], [result], [torch.channels_last], windows, source_valid, affine)
    return result


def _for_each_image(grads: list[Tensor], *others: Tensor) -> list[Tensor]:
    """A gradient for each image, where it is given once for all of them."""
    return [grad.expand(common_batch(grad, *others), -1, -1, -1) for grad in grads]


def resample_adjoint(
    grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Tensor | None
) -> list[Tensor]:
    """Gradients `[B, C, H, W]` to the images of `resample`, from those of the results, in their memory formats."""
    grads, results, formats = with_results(grads, source_sizes, windows)
    grads = dense(_for_each_image(grads, windows), formats)
    args = (like(grads[0].dtype), real(grads[0].dtype))

    def choose(channels: int, _width: int, _columns: int) -> Call:
        if windows.shape[1] == 4:
            return spread_footprints, args
        return spread_planes if channels == 1 else spread_pixels, args

    run_levels(results, grads, formats, windows, source_valid, choose, separable=False)
    return results


def windows_gradient(grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Tensor | None) -> Tensor:
    """Gradient to the windows of `resample`; summed over the images where they share their windows."""
    formats = [memory_format(i) for i in images]
    grads, images = dense(_for_each_image(grads, images[0], windows), formats), dense(images, formats)
    result = np.zeros(windows.shape)
    args = (like(images[0].dtype), real(images[0].dtype), result)

    def choose(channels: int, _width: int, _columns: int) -> Call:
        if windows.shape[1] == 4:
            return gradient_of_footprints, args
        return gradient_of_planes if channels == 1 else gradient_of_pixels, args

    run_levels(images, grads, formats, windows, source_valid, choose, separable=False)
    return tensor(result, windows.dtype)


def widen(
    centres: Tensor, sizes: list[int], source_sizes: list[int], valid: Tensor | None, source_valid: Tensor | None
) -> Tensor:
    """Windows `[B, 4, P]` of triangle filters from centres `[1 or B, 2, P]` (x < 0: reads nothing).

    A half-width is the distance to the neighbouring targets, at least a pixel: along x and along y of the source, the
    spacings to the neighbours in the column and in the row add as squares.
    """
    batch = next((len(t) for t in (centres, valid, source_valid) if t is not None and len(t) != 1), 1)
    windows = empty((batch, 4, centres.shape[2]), centres.dtype, torch.contiguous_format)
    if windows.numel():
        args = (array(centres), shapes_of(sizes, source_sizes, valid, source_valid), array(windows))
        run(widen_windows, args, _WIDEN_WORK * windows.numel())
    return windows


def widen_backward(
    grad: Tensor,
    centres: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> Tensor:
    """Gradient to the centres of `widen`; summed over the images where they share their centres."""
    result = empty((len(grad), 2, centres.shape[2]), centres.dtype, torch.contiguous_format)
    if result.numel():
        args = (array(grad), array(centres), shapes_of(sizes, source_sizes, valid, source_valid), array(result))
        run(widen_windows_backward, args, 4 * _WIDEN_WORK * result.numel())
    return result if len(grad) == len(centres) else result.sum(0, keepdim=True)
