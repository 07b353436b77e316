"""The levels of a pyramid on their way to the kernels: room for results, addresses and sizes, which kernel makes which
level; and what kernels that make windows know of them.

An image is seen as `[images, planes, height, width, channels]`: contiguous has one channel and many planes,
channels_last one plane.
"""

from array import array as packed
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu._memory import array, empty, extent, extents_array, shares_windows
from fastwarp.kernels.cpu._parallel import inline, run
from fastwarp.kernels.cpu._vector import elements, tail
from fastwarp.kernels.layout import common_batch, memory_format

LEVEL = np.dtype(
    [
        (name, np.int64)
        for name in (
            "source",  # address of what the windows point into
            "target",  # address of what has windows: results, or their gradients
            "number",  # of the level, among all of the call
            "images",  # how many targets there are
            "planes",  # of an image
            "sources",  # how many sources: 1, or as many
            "height",  # of the source
            "width",
            "channels",
            "rows",  # of the target
            "columns",
            "targets",  # rows x columns
            "first",  # window
            "is_adjoint",  # it is the source that has windows, and they point into the target
        )
    ]
)

Formats = list[torch.memory_format]
Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A kernel, and what it takes beside levels, windows and extents."""


def _dense(tensor: Tensor, format_: torch.memory_format) -> Tensor:
    is_dense = tensor.is_contiguous(memory_format=format_)
    return tensor if is_dense else tensor.detach().contiguous(memory_format=format_)


def dense(tensors: list[Tensor], formats: Formats) -> list[Tensor]:
    """Tensors without gaps, in their memory formats."""
    return list(map(_dense, tensors, formats))


def with_results(images: list[Tensor], sizes: list[int], *shared: Tensor) -> tuple[list[Tensor], list[Tensor], Formats]:
    """The images `[B, C, H, W]` without gaps, empty results of the sizes `[h1, w1, ...]`, and their memory formats.

    Where there is one image, there are as many results as of what is `shared`.
    """
    formats = list(map(memory_format, images))
    results = []
    for number, image in enumerate(images):
        batch, channels, _, _ = image.shape
        if shared:
            batch = common_batch(image, *shared)
        shape = (batch, channels, sizes[2 * number], sizes[2 * number + 1])
        results.append(empty(shape, image.dtype, formats[number]))
    return dense(images, formats), results, formats


def run_levels(
    sources: list[Tensor],
    targets: list[Tensor],
    formats: Formats,
    windows: Tensor | np.ndarray,
    source_valid: Tensor | None,
    choose: Callable[[int, int, int], Call],
    *,
    separable: bool,
    is_adjoint: bool = False,
) -> None:
    """Runs for each level the kernel that `choose(channels, width, columns)` returns, width that of the source, columns
    those of the target. Levels of the same kernel are one parallel region. Nothing is run for targets of no values.

    Args:
        sources: images of each level, dense in their memory formats, see `LEVEL`.
        targets: likewise.
        formats: memory format of each level.
        windows: `[1 or B, 2, sum(sizes)]` of rows and columns, or `[1 or B, 2 or 4, P]` of pixels.
        source_valid: int64 `[1 or B, levels, 2]` or None; pixels of the sources from there on are never read.
        choose: says which kernel, and what it takes beside levels, windows and extents.
        separable: windows are of rows and columns.
        is_adjoint: the windows are those of the sources, and the extents those of the targets.
    """
    shared, first, of_sources, of_targets = shares_windows(windows, source_valid), 0, 0, 0
    chosen: dict[Callable[..., Any], tuple[tuple[Any, ...], list[int]]] = {}
    for number, source in enumerate(sources):
        target = targets[number]
        images, all_channels, height, width = source.shape
        batch, _, rows, columns = target.shape
        channels = all_channels if formats[number] == torch.channels_last else 1
        planes = all_channels // channels if all_channels else 0
        # Where all images have the same windows, their planes are one long list.
        groups = (1, batch * planes, 1) if shared and images == batch else (batch, planes, images)
        sizes = (height, width, channels, rows, columns, rows * columns)
        kernel, args = choose(channels, width, columns)
        level = (source.data_ptr(), target.data_ptr(), number, *groups, *sizes, first, is_adjoint)
        chosen.setdefault(kernel, (args, []))[1].extend(level)
        h, w = (height, width) if is_adjoint else (rows, columns)
        first += h + w if separable else h * w
        of_sources += images * all_channels * height * width
        of_targets += batch * all_channels * rows * columns
    if of_targets == 0:
        return
    work = of_targets + min(of_sources, 4 * of_targets)
    of_all = windows if isinstance(windows, np.ndarray) else array(windows), extents_array(source_valid)
    for kernel, (args, numbers) in chosen.items():
        # `np.array` of tuples takes twice as long.
        run(kernel, (np.frombuffer(packed("q", numbers), LEVEL), *of_all, *args), work)


@inline
def size_of(level, extents, image):
    """Rows and columns of a source that are not padding."""
    return extent(extents, image, level.number, 0, level.height), extent(extents, image, level.number, 1, level.width)


@inline
def source_plane(level, image, plane):
    """The number of the plane that a plane of a target reads, among those of all sources."""
    return (image if level.sources > 1 else 0) * level.planes + plane


# --- what kernels that make windows get of the levels -----------------------------------------------------------------

Shapes = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Sizes `[2, 2 L]` of targets and of sources, and the extents of both."""


def shapes_of(sizes: list[int], source_sizes: list[int], valid: Tensor | None, source_valid: Tensor | None) -> Shapes:
    """The `Shapes` of a call."""
    return np.array((sizes, source_sizes), np.int64), extents_array(valid), extents_array(source_valid)


class Shape(NamedTuple):
    """Rows and columns of a level of an image: all targets, those that are no padding, and those of the source."""

    height: Any
    width: Any
    extent_y: Any
    extent_x: Any
    source_y: Any
    source_x: Any


@inline
def level_count(shapes):
    """How many levels there are."""
    return shapes[0].shape[1] // 2


@inline
def axis_of(b, i, shapes):
    """Of axis i of image b, y and x of the levels in turn: targets, those that are no padding, and those of the
    source."""
    sizes, valid, source_valid = shapes
    size, source_size = elements(sizes)[i], tail(sizes, sizes.shape[1])[i]
    return size, extent(valid, b, i // 2, i % 2, size), extent(source_valid, b, i // 2, i % 2, source_size)


@inline
def shape_of(b, level, shapes):
    """The `Shape` of a level of image b."""
    height, extent_y, source_y = axis_of(b, 2 * level, shapes)
    width, extent_x, source_x = axis_of(b, 2 * level + 1, shapes)
    return Shape(height, width, extent_y, extent_x, source_y, source_x)
