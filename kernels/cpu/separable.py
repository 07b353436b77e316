"""Launchers of the `separable` family: resampling by windows, its adjoint, its gradient to the windows, the camera.

An image is seen as `[images, planes, H, W, channels]`, see `_separable_taps`. Which kernel makes a level follows from
its shape alone, so that a program compiles the kernels that its shapes need.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu._memory import array, dense, empty, extents_array, like, real, shares_windows, values
from fastwarp.kernels.cpu._parallel import run
from fastwarp.kernels.cpu._rows import LANES
from fastwarp.kernels.cpu._separable_gradient import CHUNKS, bilinear_gradient, reduce_partial, triangle_gradient
from fastwarp.kernels.cpu._separable_interleaved import blend_interleaved, sum_interleaved
from fastwarp.kernels.cpu._separable_pixels import MANY, blend_many, blend_pixels, sum_many
from fastwarp.kernels.cpu._separable_planes import adjoint_planes, blend_planes
from fastwarp.kernels.cpu._separable_taps import LEVEL
from fastwarp.kernels.layout import memory_format

_MINIFIED = 4  # times, from where on most of an interleaved source row would be made for nothing
_MAGNIFIED = 4  # times, from where on the targets of a block read more than it pays to pick from registers


def _levels(
    sources: list[Tensor],
    targets: list[Tensor],
    shapes: list[torch.Size],
    sizes: list[int],
    formats: list,
    shared: bool,
    is_adjoint: bool = False,
) -> list[tuple[int, ...]]:
    """The levels of a call, see `LEVEL`.

    Args:
        sources: what is read, dense in its memory format.
        targets: what is written, or compared with (the gradient of the result), likewise.
        shapes: shapes `[B, C, H, W]` of what is read.
        sizes: sizes `[h1, w1, ...]` of the others.
        formats: memory format of each level.
        shared: all images have the same windows, so that their planes are one long list.
        is_adjoint: the windows belong to what is read.
    """
    levels: list[tuple[int, ...]] = []
    first = 0
    for number, (batch, channels, height, width) in enumerate(shapes):
        h, w = sizes[2 * number : 2 * number + 2]
        inner = channels if formats[number] == torch.channels_last else 1
        planes = channels // inner if channels else 0
        groups = (1, batch * planes) if shared else (batch, planes)
        addresses = (sources[number].data_ptr(), targets[number].data_ptr())
        levels.append((*addresses, *groups, height, width, inner, h, w, first, is_adjoint))
        first += height + width if is_adjoint else h + w
    return levels


Choice = tuple[Callable[..., Any], tuple[Any, ...]]


def _run(
    levels: list[tuple[int, ...]],
    windows: Tensor,
    source_valid: Tensor | None,
    choose: Callable[[int, int, int], Choice],
    work: int,
) -> None:
    """Runs for each level the kernel, and with the arguments, that `choose(width, channels, columns)` returns.

    Levels of the same kernel are one parallel region.
    """
    extents = extents_array(source_valid)
    chosen: dict[Callable[..., Any], tuple[tuple[Any, ...], list[int]]] = {}
    for number, level in enumerate(levels):
        kernel, args = choose(level[5], level[6], level[8])
        chosen.setdefault(kernel, (args, []))[1].append(number)
    for kernel, (args, which) in chosen.items():
        several = np.array([levels[number] for number in which], LEVEL)
        valid = extents if len(chosen) == 1 or not extents.size else np.ascontiguousarray(extents[:, which])
        run(kernel, (several, array(windows), valid, *args), work)


def _chooser(
    source: torch.dtype, result: torch.dtype, affine: Any, antialias: bool
) -> Callable[[int, int, int], Choice]:
    """Which kernel resamples a level."""
    args = (like(source), like(result), real(result), affine)
    size = source.itemsize

    def choose(width: int, channels: int, columns: int) -> Choice:
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


def resample(
    images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    """Resamples levels `[B, C, H, W]` by windows `[1 or B, 2, sum(sizes)]`.

    Args:
        images: any strides, one dtype: uint8, fp16, bf16, fp32, fp64.
        windows: as `axis.axis_windows` returns.
        sizes: target sizes `[h1, w1, ...]`.
        source_valid: int64 `[1 or B, levels, 2]` or None; pixels from there on are never read.
        antialias: half-widths can be above 1.
    """
    formats = [memory_format(i) for i in images]
    images = dense(images, formats)
    results = [
        empty((*image.shape[:2], *sizes[2 * i : 2 * i + 2]), image.dtype, format_)
        for i, (image, format_) in enumerate(zip(images, formats, strict=True))
    ]
    if work := _resampling_work(images, results):
        shared = shares_windows(windows, source_valid)
        levels = _levels(images, results, [i.shape for i in images], sizes, formats, shared)
        choose = _chooser(images[0].dtype, images[0].dtype, None, antialias)
        _run(levels, windows, source_valid, choose, work)
    return results


def _resampling_work(sources: list[Tensor], results: list[Tensor]) -> int:
    written = values(results)
    return written + min(values(sources), 4 * written)


def resample_adjoint(
    grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    """Gradients `[B, C, H, W]` to the images of `resample`, from those of the results, in their memory formats."""
    formats = [memory_format(g) for g in grads]
    grads = dense(grads, formats)
    results = [
        empty((*g.shape[:2], *source_sizes[2 * i : 2 * i + 2]), g.dtype, format_)
        for i, (g, format_) in enumerate(zip(grads, formats, strict=True))
    ]
    if not values(results):
        return results
    stored, number = like(grads[0].dtype), real(grads[0].dtype)

    def choose(width: int, channels: int, columns: int) -> Choice:
        if channels >= MANY:
            return sum_many, (stored, number)
        if channels == 1 and LANES <= width <= _MAGNIFIED * columns:
            return adjoint_planes, (stored, number)
        return sum_interleaved, (stored, stored, number, None)

    shared = shares_windows(windows, source_valid)
    levels = _levels(grads, results, [g.shape for g in grads], source_sizes, formats, shared, is_adjoint=True)
    _run(levels, windows, source_valid, choose, _resampling_work(grads, results))
    return results


def windows_gradient(
    grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Tensor | None, antialias: bool
) -> Tensor:
    """Gradient to the windows of `resample`; summed over the images where they share their windows."""
    formats = [memory_format(i) for i in images]
    grads, images = dense(grads, formats), dense(images, formats)
    shared = shares_windows(windows, source_valid)
    partial = np.zeros((CHUNKS, 1 if shared else max(len(i) for i in images), *windows.shape[1:]))
    if values(grads):
        dtype = images[0].dtype
        args = (like(dtype), real(dtype), real(torch.float64), partial)

        def choose(width: int, channels: int, columns: int) -> Choice:
            has_pairs = not antialias and width * channels >= LANES and columns * channels >= LANES
            return bilinear_gradient if has_pairs else triangle_gradient, args

        sizes = [side for g in grads for side in g.shape[2:]]
        levels = _levels(images, grads, [i.shape for i in images], sizes, formats, shared)
        _run(levels, windows, source_valid, choose, 4 * values(grads))
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
    if result.numel():
        shared = shares_windows(windows, source_valid)
        levels = _levels([image], [result], [image.shape], size, [torch.channels_last], shared)
        kind = real(dtype).dtype
        choose = _chooser(frame.dtype, dtype, (np.array(scale, kind), np.array(bias, kind)), antialias)
        _run(levels, windows, source_valid, choose, _resampling_work([image], [result]))
    return result
