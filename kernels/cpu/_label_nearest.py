"""The nearest pixel of each target, gathered by the size of a value: what its bits mean does not matter.

Places are exact, the same on every backend: all of them are computed in float64, without fused multiply-adds.
"""

import math

import numpy as np

from fastwarp.kernels.cpu._levels import extent
from fastwarp.kernels.cpu._parallel import exact, inline, parallel
from fastwarp.kernels.cpu._vector import elements, gather, hold, load, pointer, store

NOTHING, LOST = -1, -2  # in place of a pixel
_TOGETHER = 8  # values that are gathered for one store


@exact
def round_to_pixel(centre, extent):
    """floor(c + 1/2) within the axis."""
    return math.floor(min(max(centre, 0.0), extent - 1.0) + 0.5)


@inline
def of_axis(windows, extent, step):
    """The nearest pixel of every separable window `[2, m]`, times `step`; or NOTHING or LOST."""
    result = np.empty(windows.shape[1], np.int64)
    for i in range(len(result)):
        c = np.float64(windows[0, i])
        if not windows[1, i] > 0 or extent <= 0:
            result[i] = NOTHING
        else:
            result[i] = round_to_pixel(c, extent) * step if c == c else LOST
    return result


@inline
def of_pixels(windows, lo, hi, extents, width, step, result):
    """The nearest pixel of the windows `[2, P]` of the targets `lo .. hi`, times `step`; or NOTHING or LOST."""
    for i in range(hi - lo):
        x, y = np.float64(windows[0, lo + i]), np.float64(windows[1, lo + i])
        if x < 0 or min(extents) <= 0:
            result[i] = NOTHING
        elif x != x or y != y:
            result[i] = LOST
        else:
            result[i] = (round_to_pixel(y, extents[0]) * width + round_to_pixel(x, extents[1])) * step


@inline
def _holes(pixels, offset):
    """Which pixels are none. `offset` gets all of them, with 0 in their place."""
    found = 0
    for j in range(len(pixels)):
        found += pixels[j] < 0
        offset[j] = max(pixels[j], 0)
    result = np.empty(found, np.int64)
    if found:
        found = 0
        for j in range(len(pixels)):
            if pixels[j] < 0:
                result[found] = j
                found += 1
    return result


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
        rows, pixels, offset = np.empty(0, np.int64), np.empty(w, np.int64), np.empty(w, np.int64)
        holes, units, line, made = rows, images * h * planes, -1, -1
        for unit in range(part * units // parts, (part + 1) * units // parts):
            image, i, plane = unit // planes // h, unit // planes % h, unit % planes
            if unit // planes != line:
                window = windows[image if len(windows) > 1 else 0]
                size = (extent(extents, image, level, 0, height), extent(extents, image, level, 1, width))
                if not separable:
                    lo = at + i * w
                    of_pixels(window, lo, lo + w, size, width, channels, pixels)
                    holes = _holes(pixels, offset)
                elif image != made:
                    rows = of_axis(window[:, at : at + h], size[0], width * channels)
                    pixels = of_axis(window[:, at + h : at + h + w], size[1], channels)
                    holes = _holes(pixels, offset)
                line, made = unit // planes, image
            row, out = rows[i] if separable else 0, ((image * planes + plane) * h + i) * w * channels
            base = ((image if sources > 1 else 0) * planes + plane) * height * width * channels
            if row >= 0:
                _gather(source, base + row, elements(offset), w, channels, target, out)
            for k in range(len(holes) if row >= 0 else w):
                j = holes[k] if row >= 0 else k
                nothing = row == NOTHING or pixels[j] == NOTHING
                for c in range(channels):
                    store(fills[0] if nothing else fills[1], target, out + j * channels + c)
        hold(offset)
