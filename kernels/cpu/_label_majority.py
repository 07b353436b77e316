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
def _votes(source, base, cell, stride, channels, value):
    votes = 0
    for a in range(cell[0], cell[1]):
        line = np.uint64(base + a * stride)
        for b in range(cell[2], cell[3]):
            votes += source[line + np.uint64(b * channels)] == value
    return votes


@inline
def _next(source, base, cell, stride, channels, near, value, first):
    """Whether a cell has a class beside `near` that is larger than `value`, or any if `first`; and the smallest such.
    Without branches: nobody could guess them."""
    found, smallest = False, near
    for a in range(cell[0], cell[1]):
        line = np.uint64(base + a * stride)
        for b in range(cell[2], cell[3]):
            v = source[line + np.uint64(b * channels)]
            other = (v != near) & (first | (v > value))
            smallest = v if other & (~found | (v < smallest)) else smallest
            found |= other
    return found, smallest


@inline
def _winner(source, base, cell, stride, channels, near):
    """The class of most pixels: `near`, that of the nearest pixel, if no other has more, or else the smallest.

    The classes are counted one after the other, as long as the pixels that are left could win. Nothing is kept, and
    seldom is more than one counted.
    """
    pixels = (cell[1] - cell[0]) * (cell[3] - cell[2])
    most = _votes(source, base, cell, stride, channels, near)
    best, value, left, found = near, near, pixels - most, True
    while found and left > most:
        found, value = _next(source, base, cell, stride, channels, near, value, left + most == pixels and best == near)
        if found:
            votes = _votes(source, base, cell, stride, channels, value)
            if votes > most:
                best, most = value, votes
            left -= votes
    return best


@inline
def _mark(source, top, rows, stride, differs, breaks):
    """Compares the pixels of `rows` rows from `top` on, a whole row at a time, in vectors.

    `differs` is 0 where a column has one class. `breaks` counts the columns up to each that have several, or another
    class than the one before, or follow one that has several.
    """
    n = len(differs)
    first = source[top : top + n]
    differs[:] = 0
    for a in range(1, rows):
        row = source[top + a * stride : top + a * stride + n]
        for c in range(n):
            differs[c] |= row[c] ^ first[c]
    for c in range(1, n):
        breaks[c] = (differs[c] | differs[c - 1] | (first[c] ^ first[c - 1])) != 0
    count = 0
    for c in range(n):
        count += breaks[c]
        breaks[c] = count


@inline
def _row(source, base, row, columns, stride, differs, breaks, target, out, fill):
    """A row of targets that share the rows of their cells. Most of these hold one class alone: pixels are compared for
    all of them at once, and only those of other cells counted."""
    height = row[1] - row[0] if row[0] >= 0 else 0
    top, middle = base + row[0] * stride, base + row[2] * stride
    if height > 0:
        _mark(source, top, height, stride, differs, breaks)
    for j in range(columns.shape[1]):
        first, last = columns[0, j], columns[1, j]
        value = fill
        if height > 0 and 0 <= first < last:
            value = source[top + first]
            if differs[first] != 0 or breaks[first] != breaks[last - 1]:
                cell = (row[0], row[1], first, last)
                value = _winner(source, base, cell, stride, 1, source[middle + columns[2, j]])
        target[out + j] = value


@parallel
def majority(table, windows, extents, like, fills, separable, part, parts):
    for level in range(len(table)):
        source_at, target_at, images, planes, sources, height, width, channels, h, w, at = table[level]
        source = flat(source_at, sources * planes * height * width * channels, like)
        target = flat(target_at, images * planes * h * w * channels, like)
        none, stride = np.zeros((3, 0), np.int64), width * channels
        rows, columns, units, line, made = none, none, images * h * planes, -1, -1
        together = separable and channels == 1
        differs = np.empty(width if together else 0, like.dtype)
        breaks = np.zeros(width if together else 0, np.int32)
        for unit in range(part * units // parts, (part + 1) * units // parts):
            image, i, plane = unit // planes // h, unit // planes % h, unit % planes
            if unit // planes != line:
                window = windows[image if len(windows) > 1 else 0]
                size = (extent(extents, image, level, 0, height), extent(extents, image, level, 1, width))
                if not separable:
                    which = np.arange(at + i * w, at + (i + 1) * w)
                    rows = _cells(axis_windows(window, 1, which, size[0])[0], size[0])
                    columns = _cells(axis_windows(window, 0, which, size[1])[0], size[1])
                elif image != made:
                    rows = _cells(window[:, at : at + h], size[0])
                    columns = _cells(window[:, at + h : at + h + w], size[1])
                line, made = unit // planes, image
            base = ((image if sources > 1 else 0) * planes + plane) * height * stride
            out = ((image * planes + plane) * h + i) * w * channels
            if together:
                row = (rows[0, i], rows[1, i], rows[2, i])
                _row(source, base, row, columns, stride, differs, breaks, target, out, fills[0])
                continue
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
