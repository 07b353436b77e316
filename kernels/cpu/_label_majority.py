"""The class that most pixels of a target's cell have."""

import numpy as np

from fastwarp.kernels.cpu._extents import extent
from fastwarp.kernels.cpu._grid_footprints import axis_windows
from fastwarp.kernels.cpu._label_places import cell as cell_of
from fastwarp.kernels.cpu._label_places import nearest
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._simd import flat


@inline
def _cells(windows, extent):
    """Of every window `[2, m]` of an axis: first pixel, the one after the last, and the nearest; none where it reads
    nothing, first < 0 where it is lost."""
    result = np.zeros((3, windows.shape[1]), np.int64)
    for i in range(windows.shape[1]):
        c, s = np.float64(windows[0, i]), np.float64(windows[1, i])
        if not s > 0 or extent <= 0:
            continue
        if c != c:
            result[0, i] = -1
            continue
        result[0, i], result[1, i] = cell_of(c, s, extent)
        result[2, i] = nearest(c, extent)
    return result


@inline
def _count(source, base, cell, stride, channels, value, near, first):
    """Votes of a cell for a class. And whether there is a larger one (any, if `first`) beside `near`, and the smallest
    such."""
    votes, found, following = 0, False, value
    for a in range(cell[0], cell[1]):
        line = base + a * stride
        for b in range(cell[2], cell[3]):
            v = source[line + b * channels]
            if v == value:
                votes += 1
            elif v != near and (first or v > value) and not (found and v >= following):
                found, following = True, v
    return votes, found, following


@inline
def _winner(source, base, cell, stride, channels, near):
    """The class of most pixels: `near`, that of the nearest pixel, if no other has more, or else the smallest.

    The classes are counted one after the other, as long as the pixels that are left could win. Nothing is kept, and
    seldom is more than one counted.
    """
    best, left = near, (cell[1] - cell[0]) * (cell[3] - cell[2])
    most, found, value = _count(source, base, cell, stride, channels, near, near, True)
    left -= most
    while found and left > most:
        votes, found, following = _count(source, base, cell, stride, channels, value, near, False)
        if votes > most:
            best, most = value, votes
        left -= votes
        value = following
    return best


@parallel
def majority(table, windows, extents, like, fills, separable, part, parts):
    for level in range(len(table)):
        source_at, target_at, images, planes, sources, height, width, channels, h, w, at = table[level]
        source = flat(source_at, sources * planes * height * width * channels, like)
        target = flat(target_at, images * planes * h * w * channels, like)
        none, stride = np.zeros((3, 0), np.int64), width * channels
        rows, columns, units, line, made = none, none, images * h * planes, -1, -1
        for unit in range(part * units // parts, (part + 1) * units // parts):
            image, i, plane = unit // planes // h, unit // planes % h, unit % planes
            if unit // planes != line:
                window = windows[image if len(windows) > 1 else 0]
                size = (extent(extents, image, level, 0, height), extent(extents, image, level, 1, width))
                if not separable:
                    which = np.arange(at + i * w, at + (i + 1) * w)
                    rows = _cells(axis_windows(window, 1, which, size[0]), size[0])
                    columns = _cells(axis_windows(window, 0, which, size[1]), size[1])
                elif image != made:
                    rows = _cells(window[:, at : at + h], size[0])
                    columns = _cells(window[:, at + h : at + h + w], size[1])
                line, made = unit // planes, image
            base = ((image if sources > 1 else 0) * planes + plane) * height * stride
            out = ((image * planes + plane) * h + i) * w * channels
            for j in range(w):
                k = i if separable else j
                cell = (rows[0, k], rows[1, k], columns[0, j], columns[1, j])
                reads = 0 <= cell[0] < cell[1] and 0 <= cell[2] < cell[3]
                near = base + rows[2, k] * stride + columns[2, j] * channels
                for c in range(channels):
                    value = fills[0]
                    if reads:
                        value = _winner(source, base + c, cell, stride, channels, source[near + c])
                    target[out + j * channels + c] = value
