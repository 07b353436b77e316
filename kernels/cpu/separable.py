"""Launchers of the `separable` family: resampling by windows, its adjoint, its gradient to the windows, the camera.

An image is seen as `[images, planes, H, W, K]`: contiguous has K = 1, channels_last has one plane of K = C. Units of
eight rows (of any planes of one image) are resampled together, interleaved as `[column][8]`, see `_simd`.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu import _windows_gradient as to_windows
from fastwarp.kernels.cpu._banded import banded
from fastwarp.kernels.cpu._bilinear import bilinear
from fastwarp.kernels.cpu._extents import extents_array
from fastwarp.kernels.cpu._memory import array, empty
from fastwarp.kernels.cpu._parallel import run
from fastwarp.kernels.layout import memory_format

_STORAGE = {torch.float16: np.uint16, torch.bfloat16: np.int16}


@functools.cache
def _like(dtype: torch.dtype) -> np.ndarray:
    return np.empty(0, _STORAGE.get(dtype) or torch.empty(0, dtype=dtype, device="cpu").numpy().dtype)


@functools.cache
def _real(dtype: torch.dtype) -> np.ndarray:
    """0 and 1 of the type that accumulates: literals of the kernels would be float64."""
    return np.array([0, 1], np.float64 if dtype == torch.float64 else np.float32)


def _table(
    sources: list[Tensor], results: list[Tensor], shapes: list[torch.Size], sizes: list[int], format_: list, alike: bool
) -> np.ndarray:
    """A row of addresses and sizes for each level.

    Args:
        sources: what is read, dense in its memory format.
        results: what is written, or compared with (the gradient of the result), likewise.
        shapes: shapes `[B, C, H, W]` of the images.
        sizes: target sizes `[h1, w1, ...]`.
        format_: memory format of each level.
        alike: all images have the same windows, so that their planes are one long list.
    """
    rows, first = [], 0
    for level, (batch, channels, height, width) in enumerate(shapes):
        h, w = sizes[2 * level : 2 * level + 2]
        inner = channels if format_[level] == torch.channels_last else 1
        planes = channels // inner if channels else 0
        groups = (1, batch * planes) if alike else (batch, planes)
        addresses = (sources[level].data_ptr(), results[level].data_ptr())
        rows.append((*addresses, *groups, height, width, inner, h, w, first))
        first += h + w
    return np.array(rows, np.int64)


def _dense(tensors: list[Tensor], formats: list[torch.memory_format]) -> list[Tensor]:
    return [t.detach().contiguous(memory_format=f) for t, f in zip(tensors, formats, strict=True)]


def _alike(windows: Tensor, source_valid: Tensor | None) -> bool:
    return windows.shape[0] == 1 and (source_valid is None or source_valid.shape[0] == 1)


def _values(tensors: list[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def resample(
    images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    """Resamples levels `[B, C, H, W]` by windows `[1 or B, 2, sum(sizes)]`; one parallel region for all of them.

    Args:
        images: any strides, one dtype: uint8, fp16, bf16, fp32, fp64.
        windows: as `axis.axis_windows` returns.
        sizes: target sizes `[h1, w1, ...]`.
        source_valid: int64 `[1 or B, levels, 2]` or None; pixels from there on are never read.
        antialias: half-widths can be above 1.
    """
    formats = [memory_format(i) for i in images]
    images = _dense(images, formats)
    results = [
        empty((*image.shape[:2], *sizes[2 * i : 2 * i + 2]), image.dtype, format_)
        for i, (image, format_) in enumerate(zip(images, formats, strict=True))
    ]
    _launch(images, results, [i.shape for i in images], windows, sizes, source_valid, formats, antialias, False)
    return results


def _launch(sources, results, shapes, windows, sizes, source_valid, formats, antialias, adjoint):
    if not _values(results):
        return
    real = _real(sources[0].dtype)
    table = _table(sources, results, shapes, sizes, formats, _alike(windows, source_valid))
    like = _like(sources[0].dtype)
    args = (
        table,
        array(windows),
        extents_array(source_valid),
        like,
        like,
        real,
        real,
        real,
        False,
    )
    work = _values(results) + min(_values(sources), 4 * _values(results))
    if antialias or adjoint:
        run(banded, (*args, adjoint), work)
    else:
        run(bilinear, args, work)


def resample_adjoint(
    grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    """Gradients `[B, C, H, W]` to the images of `resample`, from those of the results, in their memory formats."""
    formats = [memory_format(g) for g in grads]
    grads = _dense(grads, formats)
    results = [
        empty((*g.shape[:2], *source_sizes[2 * i : 2 * i + 2]), g.dtype, format_)
        for i, (g, format_) in enumerate(zip(grads, formats, strict=True))
    ]
    sizes = [side for g in grads for side in g.shape[2:]]
    _launch(grads, results, [r.shape for r in results], windows, sizes, source_valid, formats, antialias, True)
    return results


def windows_gradient(
    grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Tensor | None, antialias: bool
) -> Tensor:
    """Gradient to the windows of `resample`; summed over the images where they share their windows."""
    formats = [memory_format(i) for i in images]
    grads, images = _dense(grads, formats), _dense(images, formats)
    sizes = [side for g in grads for side in g.shape[2:]]
    alike = _alike(windows, source_valid)
    table = _table(images, grads, [i.shape for i in images], sizes, formats, alike)
    partial = np.zeros((to_windows.CHUNKS, 1 if alike else max(len(i) for i in images), *windows.shape[1:]))
    real = _real(images[0].dtype)
    arrays = (
        array(windows),
        extents_array(source_valid),
        _like(images[0].dtype),
        real,
        antialias,
        partial,
    )
    if _values(grads):
        run(to_windows.windows_gradient, (table, *arrays), 4 * _values(grads))
    result = torch.empty(windows.shape, dtype=windows.dtype, device="cpu")
    to_windows.reduce_partial(partial, array(result))
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
    batch, channels = image.shape[:2]
    result = empty((batch, channels, *size), dtype, torch.contiguous_format)
    if not result.numel():
        return result
    table = _table([image], [result], [image.shape], size, [torch.channels_last], _alike(windows, source_valid))
    real = _real(dtype)
    affine = (np.array(scale, real.dtype), np.array(bias, real.dtype))
    arrays = (
        array(windows),
        extents_array(source_valid),
        _like(frame.dtype),
        _like(dtype),
        real,
    )
    args = (table, *arrays, *affine, True)
    work = result.numel() + min(frame.numel(), 4 * result.numel())
    if antialias:
        run(banded, (*args, False), work)
    else:
        run(bilinear, args, work)
    return result
