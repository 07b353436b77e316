"""Launchers of the `label` family: the nearest pixel of each target, and the class of most of the pixels it covers.

Values are moved by their size alone; only the majority compares them.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu._grid_taps import field_of
from fastwarp.kernels.cpu._label_majority import majority_of_cells
from fastwarp.kernels.cpu._levels import run_levels, size_of, source_plane, with_results
from fastwarp.kernels.cpu._memory import integers, like
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._separable_taps import round_to_pixel, windows_at
from fastwarp.kernels.cpu._vector import elements, gather, hold, load, pointer, store, tail
from fastwarp.kernels.layout import as_integers, bits


@functools.cache
def _fills(dtype: torch.dtype, fill: int) -> np.ndarray:
    """What is written where nothing is read, and where a window is NaN."""
    lost = float("nan") if dtype.is_floating_point else fill
    return np.array([bits(fill, dtype), bits(lost, dtype)], like(as_integers(dtype)).dtype)


def nearest(
    images: list[Tensor],
    windows: Tensor | np.ndarray,
    separable: bool,
    sizes: list[int],
    source_valid: Tensor | None,
    fill: int,
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
    return _launch(_nearest_pixels, images, windows, separable, sizes, source_valid, fill)


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
    return _launch(majority_of_cells, labels, windows, separable, sizes, source_valid, fill)


def _launch(kernel, images, windows, separable, sizes, source_valid, fill):
    images, results, formats = with_results(images, sizes, windows)
    call = kernel, (like(as_integers(images[0].dtype)), _fills(images[0].dtype, fill), separable)
    run_levels(images, results, formats, windows, source_valid, lambda *_: call, separable=separable)
    return results


# --- the nearest pixel ------------------------------------------------------------------------------------------------
# Places are exact, the same on every backend: all of them are computed in float64, without fused multiply-adds.

NOTHING, LOST = -1, -2  # in place of a pixel
_TOGETHER = 8  # values that are gathered for one store


@inline
def _fill_axis(windows, step, pixels):
    """The nearest pixel of every window of an axis, times `step`; or NOTHING or LOST."""
    for i in range(windows.count):
        c = np.float64(windows.centre[i])
        if not windows.width[i] > 0 or windows.extent <= 0:
            pixels[i] = NOTHING
        else:
            pixels[i] = round_to_pixel(c, windows.extent) * step if c == c else LOST


@inline
def _fill_pixels(field, first, count, size, width, step, pixels):
    """The nearest pixel of the windows of some targets, times `step`; or NOTHING or LOST."""
    for i in range(count):
        x, y = np.float64(field.x[first + i]), np.float64(field.y[first + i])
        if x < 0 or min(size[0], size[1]) <= 0:
            pixels[i] = NOTHING
        elif x != x or y != y:
            pixels[i] = LOST
        else:
            pixels[i] = (round_to_pixel(y, size[0]) * width + round_to_pixel(x, size[1])) * step


@inline
def _list_holes(pixels, count, offset, holes):
    """Lists which pixels are none; how many there are. `offset` gets all of them, with 0 in their place."""
    found = 0
    for j in range(count):
        offset[j] = max(pixels[j], 0)
        holes[found] = j
        found += pixels[j] < 0
    return found


@inline
def _gather(source, base, offset, count, channels, target, out):
    if channels > 1:
        for j in range(count):
            pixel, at = base + load(offset, j, 1), out + j * channels
            for c in range(channels):
                store(load(source, pixel + c, 1), target, at + c)
        return
    whole = count // _TOGETHER * _TOGETHER
    for j in range(0, whole, _TOGETHER):
        store(gather(source, base, load(offset, j, _TOGETHER)), target, out + j)
    for j in range(whole, count):
        store(load(source, base + load(offset, j, 1), 1), target, out + j)


@parallel
def _nearest_pixels(table, windows, extents, like, fills, separable, part, parts):
    """`fills` are what targets that read nothing get, and lost ones."""
    for number in range(len(table)):
        level = table[number]
        source, target = pointer(level.source, like), pointer(level.target, like)
        planes, width, channels = level.planes, level.width, level.channels
        h, w, at = level.rows, level.columns, level.first
        memory = integers(h + 3 * w)
        rows, pixels, offset, holes = elements(memory), tail(memory, h), tail(memory, h + w), tail(memory, h + 2 * w)
        found, units, line, made = 0, level.images * h * planes, -1, -1
        for unit in range(part * units // parts, (part + 1) * units // parts):
            image, i, plane = unit // planes // h, unit // planes % h, unit % planes
            if unit // planes != line:
                size = size_of(level, extents, image)
                if not separable:
                    _fill_pixels(field_of(windows, image), at + i * w, w, size, width, channels, pixels)
                    found = _list_holes(pixels, w, offset, holes)
                elif image != made:
                    _fill_axis(windows_at(windows, image, at, h, size[0]), width * channels, rows)
                    _fill_axis(windows_at(windows, image, at + h, w, size[1]), channels, pixels)
                    found = _list_holes(pixels, w, offset, holes)
                line, made = unit // planes, image
            row, out = rows[i] if separable else 0, ((image * planes + plane) * h + i) * w * channels
            base = source_plane(level, image, plane) * level.height * width * channels
            if row >= 0:
                _gather(source, base + row, offset, w, channels, target, out)
            for k in range(found if row >= 0 else w):
                j = holes[k] if row >= 0 else k
                nothing = row == NOTHING or pixels[j] == NOTHING
                for c in range(channels):
                    store(fills[0] if nothing else fills[1], target, out + j * channels + c)
        hold(memory)
