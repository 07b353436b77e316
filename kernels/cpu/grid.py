"""Launchers of the `grid` family: resampling at windows, its adjoint, its gradient to the windows, the camera.

An image is seen as `[images, planes, H, W, K]`: contiguous has K = 1, channels_last has one plane of K = C. The targets
of a level are one long row: nothing is known of how they lie to each other.
"""

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu import _grid_footprints as footprints
from fastwarp.kernels.cpu._extents import extents_array
from fastwarp.kernels.cpu._grid_adjoint import adjoint
from fastwarp.kernels.cpu._grid_bilinear import bilinear
from fastwarp.kernels.cpu._grid_gradient import gradient
from fastwarp.kernels.cpu._grid_widen import widen as widen_kernel
from fastwarp.kernels.cpu._grid_widen import widen_backward as widen_backward_kernel
from fastwarp.kernels.cpu._levels import dense, like, real, shares_windows, values
from fastwarp.kernels.cpu._memory import array, empty, tensor
from fastwarp.kernels.cpu._parallel import run
from fastwarp.kernels.layout import common_batch, memory_format


def _table(
    images: list[Tensor],
    others: list[Tensor],
    counts: list[int],
    formats: list[torch.memory_format],
    alike: bool,
) -> np.ndarray:
    """A row of addresses and sizes for each level.

    Args:
        images: what the windows point into, dense in its memory format.
        others: what has a value for each target, likewise.
        counts: number of targets of each level.
        formats: memory format of each level.
        alike: all images have the same windows, so that their planes are one long list.
    """
    rows, first = [], 0
    for image, other, count, format_ in zip(images, others, counts, formats, strict=True):
        sources, channels, height, width = image.shape
        inner = channels if format_ == torch.channels_last else 1
        planes = channels // inner if channels else 0
        batch = max(sources, len(other)) if min(sources, len(other)) else 0
        groups = (1, batch * planes, 1) if alike and sources == batch else (batch, planes, sources)
        rows.append((image.data_ptr(), other.data_ptr(), *groups, height, width, inner, count, first))
        first += count
    return np.array(rows, np.int64)


def resample(images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None) -> list[Tensor]:
    """Resamples levels `[B, C, H, W]` at windows; one parallel region for all of them.

    Args:
        images: any strides, one dtype: uint8, fp16, bf16, fp32, fp64. A batch of 1 is shared by the windows.
        windows: `[1 or B, 2 or 4, P]`: x, y and, for the triangle filter, half-widths in x and y; fp32 or fp64.
        sizes: target sizes `[h1, w1, ...]`; P is the sum of their products.
        source_valid: int64 `[1 or B, levels, 2]` or None; pixels from there on are never read.
    """
    formats = [memory_format(i) for i in images]
    images = dense(images, formats)
    results = [
        empty((common_batch(i, windows), i.shape[1], *size), i.dtype, format_)
        for i, size, format_ in zip(images, _pairs(sizes), formats, strict=True)
    ]
    if values(results):
        table = _table(
            images, results, [h * w for h, w in _pairs(sizes)], formats, shares_windows(windows, source_valid)
        )
        stored, number = like(images[0].dtype), real(images[0].dtype)
        args = (table, array(windows), extents_array(source_valid), stored, stored, number, number, number, False)
        run(
            footprints.resample if windows.shape[1] == 4 else bilinear,
            args,
            values(results) + min(values(images), 4 * values(results)),
        )
    return results


def _pairs(sizes: list[int]) -> list[tuple[int, int]]:
    return list(zip(sizes[::2], sizes[1::2], strict=True))


def _spread(grads: list[Tensor], *others: Tensor) -> list[Tensor]:
    """A gradient for each image, where it is given once for all of them."""
    return [grad.expand(common_batch(grad, *others), -1, -1, -1) for grad in grads]


def resample_adjoint(
    grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Tensor | None
) -> list[Tensor]:
    """Gradients `[B, C, H, W]` to the images of `resample`, from those of the results, in their memory formats."""
    formats = [memory_format(g) for g in grads]
    grads = dense(_spread(grads, windows), formats)
    results = [
        empty((*g.shape[:2], *size), g.dtype, format_)
        for g, size, format_ in zip(grads, _pairs(source_sizes), formats, strict=True)
    ]
    if values(results):
        counts = [g.shape[2] * g.shape[3] for g in grads]
        table = _table(results, grads, counts, formats, shares_windows(windows, source_valid))
        stored, number = like(grads[0].dtype), real(grads[0].dtype)
        args = (table, array(windows), extents_array(source_valid), stored, number)
        run(
            footprints.resample_adjoint if windows.shape[1] == 4 else adjoint,
            args,
            values(results) + 4 * values(grads),
        )
    return results


def windows_gradient(grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Tensor | None) -> Tensor:
    """Gradient to the windows of `resample`; summed over the images where they share their windows."""
    formats = [memory_format(i) for i in images]
    grads, images = dense(_spread(grads, images[0], windows), formats), dense(images, formats)
    result = np.zeros(windows.shape)
    if values(grads):
        counts = [g.shape[2] * g.shape[3] for g in grads]
        table = _table(images, grads, counts, formats, shares_windows(windows, source_valid))
        args = (table, array(windows), extents_array(source_valid), like(images[0].dtype), real(images[0].dtype))
        kernel = footprints.windows_gradient if windows.shape[1] == 4 else gradient
        run(kernel, (*args, result), 4 * values(grads))
    return tensor(result, windows.dtype)


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
    if result.numel():
        number = real(dtype)
        table = _table([image], [result], [size[0] * size[1]], [torch.channels_last], False)
        affine = (np.array(scale, number.dtype), np.array(bias, number.dtype))
        args = (
            table,
            array(windows),
            extents_array(source_valid),
            like(frame.dtype),
            like(dtype),
            number,
            *affine,
            True,
        )
        run(
            footprints.resample if windows.shape[1] == 4 else bilinear,
            args,
            result.numel() + min(frame.numel(), 4 * result.numel()),
        )
    return result


_WIDEN_WORK = 16  # of a target, in values


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
        shapes = (np.array(sizes, np.int64), np.array(source_sizes, np.int64))
        args = (array(centres), *shapes, extents_array(valid), extents_array(source_valid), array(windows))
        run(widen_kernel, args, _WIDEN_WORK * windows.numel())
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
        shapes = (np.array(sizes, np.int64), np.array(source_sizes, np.int64))
        args = (*(array(t) for t in (grad, centres)), *shapes, extents_array(valid), extents_array(source_valid))
        run(widen_backward_kernel, (*args, array(result)), 4 * _WIDEN_WORK * result.numel())
    return result if len(grad) == len(centres) else result.sum(0, keepdim=True)
