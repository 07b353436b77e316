"""The class that most pixels of a target's cell have."""

from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._grid_taps import field_of, footprints_from
from fastwarp.kernels.cpu._levels import size_of, source_plane
from fastwarp.kernels.cpu._memory import clear, integers
from fastwarp.kernels.cpu._parallel import exact, inline, parallel
from fastwarp.kernels.cpu._separable_taps import round_to_pixel, windows_at
from fastwarp.kernels.cpu._vector import elements, hold, load, mask_bits, pointer, store, tail

_CLASSES = 256  # from 0 on: the usual ones, which are counted in a table
_COLUMNS = 16  # that are compared at a time


@exact
def _cell_of(centre, half_width, extent):
    """First pixel in (c - s/2, c + s/2], and the one after the last."""
    centre, half = min(max(centre, 0.0), extent - 1.0), max(half_width, 1.0) / 2
    return int(max(np.floor(centre - half) + 1.0, 0.0)), int(min(np.floor(centre + half), extent - 1.0)) + 1


class Cells(NamedTuple):
    """Of every target of an axis: first pixel, the one after the last, and the nearest; none where it reads nothing,
    first < 0 where it is lost."""

    first: Any
    last: Any
    near: Any


@inline
def _cells(count, memory):
    """Room for the `Cells` of an axis in memory of three numbers each."""
    return Cells(memory, tail(memory, count), tail(memory, 2 * count))


@inline
def _fill_cells(windows, cells):
    for i in range(windows.count):
        c, s = np.float64(windows.centre[i]), np.float64(windows.width[i])
        cells.first[i], cells.last[i], cells.near[i] = 0, 0, 0
        if not s > 0 or windows.extent <= 0:
            continue
        if c != c:
            cells.first[i] = -1
            continue
        cells.first[i], cells.last[i] = _cell_of(c, s, windows.extent)
        cells.near[i] = round_to_pixel(c, windows.extent)


@inline
def _votes(source, base, cell, stride, channels, value):
    votes = 0
    for a in range(cell[0], cell[1]):
        line = base + a * stride
        for b in range(cell[2], cell[3]):
            votes += load(source, line + b * channels, 1) == value
    return votes


@inline
def _next(source, base, cell, stride, channels, near, value, first):
    """Whether a cell has a class beside `near` that is larger than `value`, or any if `first`; and the smallest such.
    Without branches: nobody could guess them."""
    found, smallest = False, near
    for a in range(cell[0], cell[1]):
        line = base + a * stride
        for b in range(cell[2], cell[3]):
            v = load(source, line + b * channels, 1)
            other = (v != near) & (first | (v > value))
            smallest = v if other & (~found | (v < smallest)) else smallest
            found |= other
    return found, smallest


@inline
def _by_table(source, base, cell, stride, channels, near, most, table):
    """Whether all classes have a place in a table of zeros, and if so the class of most pixels, where `near` has `most`
    of them. The table is cleared again."""
    beyond = False
    for a in range(cell[0], cell[1]):
        line = base + a * stride
        for b in range(cell[2], cell[3]):
            v = load(source, line + b * channels, 1)
            beyond |= (v < 0) | (v >= _CLASSES)
            place = v & (_CLASSES - 1)
            store(load(table, place, 1) + 1, table, place)
    best = near
    for a in range(cell[0], cell[1]):
        line = base + a * stride
        for b in range(cell[2], cell[3]):
            v = load(source, line + b * channels, 1)
            place = v & (_CLASSES - 1)
            votes = load(table, place, 1)
            better = (votes > most) | ((votes == most) & (best != near) & (v < best))
            best, most = (v, votes) if better else (best, most)
            store(0, table, place)  # the class has been looked at
    return not beyond, best


@inline
def _winner(source, base, cell, stride, channels, near, table):
    """The class of most pixels: `near`, that of the nearest pixel, if no other has more, or else the smallest.

    Mostly that is `near` by far. Classes that a table has no place for are counted one after the other, as long as the
    pixels that are left could win.
    """
    pixels = (cell[1] - cell[0]) * (cell[3] - cell[2])
    most = _votes(source, base, cell, stride, channels, near)
    if pixels - most <= most:
        return near
    known, best = _by_table(source, base, cell, stride, channels, near, most, table)
    if known:
        return best
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
def _differences(source, at, rows, stride):
    """Bits of 16 columns of `rows` rows from `at` on: where a column has several classes, and where the first row has
    another class in the column after it."""
    first = load(source, at, _COLUMNS)
    differs = first != first
    for a in range(1, rows):
        differs = differs | (load(source, at + a * stride, _COLUMNS) != first)
    return mask_bits(differs), mask_bits(first != load(source, at + 1, _COLUMNS))


@inline
def _mark(source, top, rows, stride, width, marks):
    """Compares the pixels of `rows` rows from `top` on, a whole row at a time. Bit c % 32 of `several[c // 32]` says
    that column c has several classes; of `turns`, that it has, or the first row has another class after it. These are
    the `marks`."""
    several, turns = marks
    vectors = max(width - 1, 0) // 32  # none reads past the row's end
    for n in range(vectors):
        low = _differences(source, top + 32 * n, rows, stride)
        high = _differences(source, top + 32 * n + _COLUMNS, rows, stride)
        found = low[0] | (high[0] << _COLUMNS)
        store(found, several, n)
        store(found | low[1] | (high[1] << _COLUMNS), turns, n)
    for n in range(vectors, (width + 31) // 32):
        found, after = 0, 0
        for c in range(32 * n, min(32 * n + 32, width)):
            value, differs = load(source, top + c, 1), False
            for a in range(1, rows):
                differs |= load(source, top + a * stride + c, 1) != value
            found |= int(differs) << (c - 32 * n)
            if c + 1 < width:
                after |= int(load(source, top + c + 1, 1) != value) << (c - 32 * n)
        store(found, several, n)
        store(found | after, turns, n)


@inline
def _has_bit(words, first, count):
    """Whether one of up to 32 bits from `first` on is set. There is a word after the last one."""
    bits = load(words, first >> 5, 1) | (load(words, (first >> 5) + 1, 1) << 32)
    return (bits >> (first & 31)) & ((1 << count) - 1) != 0


@inline
def _has_several(marks, first, last):
    """Whether a cell has several classes: a column has, or a column another one than that before it."""
    several, turns = marks
    found = _has_bit(several, last - 1, 1)
    while last - 1 - first > 32:
        found |= _has_bit(turns, first, 32)
        first += 32
    return found | _has_bit(turns, first, last - 1 - first)


@inline
def _fill_row_of_cells(source, base, row, columns, w, stride, width, marks, target, out, fill, table):
    """A row of targets that share the rows of their cells. Most of these hold one class alone: pixels are compared for
    all of them at once, and only those of other cells counted."""
    height = row[1] - row[0] if row[0] >= 0 else 0
    top, middle = base + row[0] * stride, base + row[2] * stride
    if height > 0:
        _mark(source, top, height, stride, width, marks)
    for j in range(w):
        first, last = columns.first[j], columns.last[j]
        value = fill
        if height > 0 and 0 <= first < last:
            value = load(source, top + first, 1)
            if _has_several(marks, first, last):
                near = load(source, middle + columns.near[j], 1)
                value = _winner(source, base, (row[0], row[1], first, last), stride, 1, near, table)
        store(value, target, out + j)


@parallel
def majority_of_cells(table, windows, extents, like, fills, separable, part, parts):
    memory_of_votes = integers(_CLASSES)
    votes = elements(memory_of_votes)
    clear(votes, _CLASSES)
    for number in range(len(table)):
        level = table[number]
        source, target = pointer(level.source, like), pointer(level.target, like)
        planes, width, channels = level.planes, level.width, level.channels
        h, w, at = level.rows, level.columns, level.first
        stride, together = width * channels, separable and channels == 1
        bits = width // 32 + 2 if together else 0  # words for the bits of all columns, and one after them
        high = h if separable else w
        memory = integers(2 * bits + 3 * high + 3 * w)
        marks = elements(memory), tail(memory, bits)
        clear(marks[0], 2 * bits)
        rows, columns = _cells(high, tail(memory, 2 * bits)), _cells(w, tail(memory, 2 * bits + 3 * high))
        units, line, made = level.images * h * planes, -1, -1
        for unit in range(part * units // parts, (part + 1) * units // parts):
            image, i, plane = unit // planes // h, unit // planes % h, unit % planes
            if unit // planes != line:
                size = size_of(level, extents, image)
                if not separable:
                    of = footprints_from(field_of(windows, image), at + i * w, w, size)
                    _fill_cells(of.y, rows)
                    _fill_cells(of.x, columns)
                    hold(of)
                elif image != made:
                    _fill_cells(windows_at(windows, image, at, h, size[0]), rows)
                    _fill_cells(windows_at(windows, image, at + h, w, size[1]), columns)
                line, made = unit // planes, image
            base = source_plane(level, image, plane) * level.height * stride
            out = ((image * planes + plane) * h + i) * w * channels
            if together:
                row = (rows.first[i], rows.last[i], rows.near[i])
                _fill_row_of_cells(source, base, row, columns, w, stride, width, marks, target, out, fills[0], votes)
                continue
            for j in range(w):
                k = i if separable else j
                cell = (rows.first[k], rows.last[k], columns.first[j], columns.last[j])
                reads = 0 <= cell[0] < cell[1] and 0 <= cell[2] < cell[3]
                near = base + rows.near[k] * stride + columns.near[j] * channels
                for c in range(channels):
                    value = fills[0]
                    if reads:
                        value = _winner(source, base + c, cell, stride, channels, load(source, near + c, 1), votes)
                    store(value, target, out + j * channels + c)
        hold(memory)
    hold(memory_of_votes)
