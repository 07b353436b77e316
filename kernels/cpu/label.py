"""Launchers of the `label` family: the nearest pixel of each target, and the class of most of the pixels it covers.

An image is seen as in `grid`: `[images, planes, H, W, K]`. Values are moved by their size alone; only the majority
compares them.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu._label_majority import majority as majority_kernel
from fastwarp.kernels.cpu._label_nearest import nearest as nearest_kernel
from fastwarp.kernels.cpu._memory import array, dense, empty, extents_array, like, shares_windows, values
from fastwarp.kernels.cpu._parallel import run
from fastwarp.kernels.layout import as_integers, bits, common_batch, memory_format


@functools.cache
def _fills(dtype: torch.dtype, fill: int) -> np.ndarray:
    """What is written where nothing is read, and where a window is NaN."""
    lost = float("nan") if dtype.is_floating_point else fill
    return np.array([bits(fill, dtype), bits(lost, dtype)], like(as_integers(dtype)).dtype)


def nearest(
    images: list[Tensor], windows: Tensor, separable: bool, sizes: list[int], source_valid: Tensor | None, fill: int
) -> list[Tensor]:
    """The nearest pixel of every target of levels `[1 or B, C, H, W]`; one parallel region for all of them.

    Args:
        images: any strides, one dtype of 1, 2, 4 or 8 bytes.
        windows: separable: `[1 or B, 2, sum(sizes)]` as `axis.axis_windows` returns. Otherwise `[1 or B, 2, P]` as
            `grid.resample` takes them.
        separable: which of the two.
        sizes: target sizes `[h1, w1, ...]`.
        source_valid: int64 `[1 or B, levels, 2]` or None; pixels from there on are never read.
        fill: what targets that read nothing get, and integers where a window is NaN; other numbers are NaN there.
    """
    return _launch(nearest_kernel, images, windows, separable, sizes, source_valid, fill)


def majority(
    labels: list[Tensor], windows: Tensor, separable: bool, sizes: list[int], source_valid: Tensor | None, fill: int
) -> list[Tensor]:
    """The class that most pixels of each target's cell have; see `fastwarp.reference.label`.

    Args:
        labels: any strides, one dtype: uint8, int16, int32, int64.
        windows: as of `nearest`, with half-widths: pixels have four rows, as `grid.widen` makes them.
        separable: as of `nearest`.
        sizes: likewise.
        source_valid: likewise.
        fill: what targets that read nothing get, and those of windows that are NaN.
    """
    return _launch(majority_kernel, labels, windows, separable, sizes, source_valid, fill)


def _launch(kernel, images, windows, separable, sizes, source_valid, fill):
    formats = [memory_format(i) for i in images]
    images = dense(images, formats)
    results = [
        empty((common_batch(i, windows), i.shape[1], *sizes[2 * n : 2 * n + 2]), i.dtype, format_)
        for n, (i, format_) in enumerate(zip(images, formats, strict=True))
    ]
    count = values(results)
    if count:
        table = _table(images, results, formats, separable, shares_windows(windows, source_valid))
        stored, fills = like(as_integers(images[0].dtype)), _fills(images[0].dtype, fill)
        read = values(images) if kernel is majority_kernel else min(values(images), 4 * count)
        run(kernel, (table, array(windows), extents_array(source_valid), stored, fills, separable), count + read)
    return results


def _table(
    images: list[Tensor], results: list[Tensor], formats: list[torch.memory_format], separable: bool, alike: bool
) -> np.ndarray:
    """A row of addresses and sizes for each level.

    Args:
        images: dense in their memory formats.
        results: likewise.
        formats: of each level.
        separable: windows are of rows and columns.
        alike: all images have the same windows, so that their planes are one long list.
    """
    rows, first = [], 0
    for image, result, format_ in zip(images, results, formats, strict=True):
        sources, channels, height, width = image.shape
        batch, _, h, w = result.shape
        inner = channels if format_ == torch.channels_last else 1
        planes = channels // inner if channels else 0
        groups = (1, batch * planes, 1) if alike and sources == batch else (batch, planes, sources)
        rows.append((image.data_ptr(), result.data_ptr(), *groups, height, width, inner, h, w, first))
        first += h + w if separable else h * w
    return np.array(rows, np.int64)
