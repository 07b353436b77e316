"""The nearest pixel of each target, gathered by the size of a value: what its bits mean does not matter.

Places are exact, the same on every backend: all of them are computed in float64, without fused multiply-adds.
"""

import math

import numpy as np

from fastwarp.kernels.cpu._grid_taps import field_of
from fastwarp.kernels.cpu._levels import extent
from fastwarp.kernels.cpu._memory import integers
from fastwarp.kernels.cpu._parallel import exact, inline, parallel
from fastwarp.kernels.cpu._separable_taps import windows_at
from fastwarp.kernels.cpu._vector import elements, gather, hold, load, pointer, store, tail

NOTHING, LOST = -1, -2  # in place of a pixel
_TOGETHER = 8  # values that are gathered for one store


@exact
def round_to_pixel(centre, extent):
    """floor(c + 1/2) within the axis."""
    return math.floor(min(max(centre, 0.0), extent - 1.0) + 0.5)


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
def nearest(table, windows, extents, like, fills, separable, part, parts):
    """`fills` are what targets that read nothing get, and lost ones."""
    for level in range(len(table)):
        source_at, target_at, images, planes, sources, height, width, channels, h, w, at = table[level]
        source, target = pointer(source_at, like), pointer(target_at, like)
        memory = integers(h + 3 * w + 1)
        rows, pixels, offset, holes = elements(memory), tail(memory, h), tail(memory, h + w), tail(memory, h + 2 * w)
        found, units, line, made = 0, images * h * planes, -1, -1
        for unit in range(part * units // parts, (part + 1) * units // parts):
            image, i, plane = unit // planes // h, unit // planes % h, unit % planes
            if unit // planes != line:
                size = (extent(extents, image, level, 0, height), extent(extents, image, level, 1, width))
                if not separable:
                    _fill_pixels(field_of(windows, image), at + i * w, w, size, width, channels, pixels)
                    found = _list_holes(pixels, w, offset, holes)
                elif image != made:
                    _fill_axis(windows_at(windows, image, at, h, size[0]), width * channels, rows)
                    _fill_axis(windows_at(windows, image, at + h, w, size[1]), channels, pixels)
                    found = _list_holes(pixels, w, offset, holes)
                line, made = unit // planes, image
            row, out = rows[i] if separable else 0, ((image * planes + plane) * h + i) * w * channels
            base = ((image if sources > 1 else 0) * planes + plane) * height * width * channels
            if row >= 0:
                _gather(source, base + row, offset, w, channels, target, out)
            for k in range(found if row >= 0 else w):
                j = holes[k] if row >= 0 else k
                nothing = row == NOTHING or pixels[j] == NOTHING
                for c in range(channels):
                    store(fills[0] if nothing else fills[1], target, out + j * channels + c)
        hold(memory)
