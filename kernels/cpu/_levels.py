"""The levels of a pyramid on their way to the kernels: room for results, addresses and sizes, and which kernel makes
which level.

An image is seen as `[images, planes, height, width, channels]`: contiguous has one channel and many planes,
channels_last one plane.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu._memory import array, empty, extent, extents_array, shares_windows
from fastwarp.kernels.cpu._parallel import inline, run
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


def dense(tensors: list[Tensor], formats: Formats) -> list[Tensor]:
    """Tensors without gaps, in their memory formats."""
    return [
        t if t.is_contiguous(memory_format=f) else t.detach().contiguous(memory_format=f)
        for t, f in zip(tensors, formats, strict=True)
    ]


def with_results(images: list[Tensor], sizes: list[int], *shared: Tensor) -> tuple[list[Tensor], list[Tensor], Formats]:
    """The images `[B, C, H, W]` without gaps, empty results of the sizes `[h1, w1, ...]`, and their memory formats.

    Where there is one image, there are as many results as of what is `shared`.
    """
    formats = [memory_format(i) for i in images]
    results = []
    for number, image in enumerate(images):
        batch, channels, _, _ = image.shape
        shape = (common_batch(image, *shared) if shared else batch, channels, *sizes[2 * number : 2 * number + 2])
        results.append(empty(shape, image.dtype, formats[number]))
    return dense(images, formats), results, formats


def run_levels(
    sources: list[Tensor],
    targets: list[Tensor],
    formats: Formats,
    windows: Tensor,
    source_valid: Tensor | None,
    choose: Callable[[int, int, int], Call],
    work: int,
    *,
    separable: bool,
    is_adjoint: bool = False,
) -> None:
    """Runs for each level the kernel that `choose(channels, width, columns)` returns, width that of the source, columns
    those of the target. Levels of the same kernel are one parallel region.

    Args:
        sources: images of each level, dense in their memory formats, see `LEVEL`.
        targets: likewise.
        formats: memory format of each level.
        windows: `[1 or B, 2, sum(sizes)]` of rows and columns, or `[1 or B, 2 or 4, P]` of pixels.
        source_valid: int64 `[1 or B, levels, 2]` or None; pixels of the sources from there on are never read.
        choose: chooses.
        work: size of the whole job in values.
        separable: windows are of rows and columns.
        is_adjoint: the windows are those of the sources, and the extents those of the targets.
    """
    shared, first = shares_windows(windows, source_valid), 0
    chosen: dict[Callable[..., Any], tuple[tuple[Any, ...], list[tuple[int, ...]]]] = {}
    for number, (source, target, format_) in enumerate(zip(sources, targets, formats, strict=True)):
        images, all_channels, height, width = source.shape
        batch, _, rows, columns = target.shape
        channels = all_channels if format_ == torch.channels_last else 1
        planes = all_channels // channels if all_channels else 0
        # Where all images have the same windows, their planes are one long list.
        groups = (1, batch * planes, 1) if shared and images == batch else (batch, planes, images)
        sizes = (height, width, channels, rows, columns, rows * columns)
        kernel, args = choose(channels, width, columns)
        level = (source.data_ptr(), target.data_ptr(), number, *groups, *sizes, first, is_adjoint)
        chosen.setdefault(kernel, (args, []))[1].append(level)
        h, w = (height, width) if is_adjoint else (rows, columns)
        first += h + w if separable else h * w
    of_all = array(windows), extents_array(source_valid)
    for kernel, (args, levels) in chosen.items():
        run(kernel, (np.array(levels, LEVEL), *of_all, *args), work)


@inline
def size_of(level, extents, image):
    """Rows and columns of a source that are not padding."""
    return extent(extents, image, level.number, 0, level.height), extent(extents, image, level.number, 1, level.width)


@inline
def source_plane(level, image, plane):
    """The number of the plane that a plane of a target reads, among those of all sources."""
    return (image if level.sources > 1 else 0) * level.planes + plane
