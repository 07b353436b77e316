"""Gathers of the nearest pixels, by the size of a value: what its bits mean does not matter."""

import numpy as np

from fastwarp.kernels.cpu._extents import extent
from fastwarp.kernels.cpu._label_places import NOTHING, of_axis, of_pixels
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._vector import elements, gather, hold, load, pointer, store

_TOGETHER = 8  # values that are gathered for one store


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
