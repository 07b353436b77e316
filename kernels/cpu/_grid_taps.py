"""What the targets of dense grids read: their windows, the half-widths of those, and taps and weights.

Every target has a window of its own: rows x, y (and half-widths in x, y) of `windows` `[1 or B, 2 or 4, P]`. With two
rows it reads two by two pixels, with four a box of pixels, its footprint. A target at x < 0 reads nothing.
"""

from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._levels import level_count, shape_of
from fastwarp.kernels.cpu._memory import doubles, integers, numbers
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._rows import LANES, eight
from fastwarp.kernels.cpu._separable_taps import Windows
from fastwarp.kernels.cpu._vector import (
    convert,
    elements,
    full_like,
    join,
    load,
    select,
    shuffle,
    store,
    tail,
    widen,
    zero_of,
)


class Field(NamedTuple):
    """The windows of an image: coordinates and half-widths, as pointers, and whether there are half-widths."""

    x: Any
    y: Any
    width_x: Any
    width_y: Any
    is_wide: Any


@inline
def field_of(windows, image):
    """The `Field` of an image; without half-widths those are the coordinates."""
    _, rows, count = windows.shape
    x, first = tail(windows, rows * count * (image if len(windows) > 1 else 0)), count * (rows - 2)
    return Field(x, tail(x, count), tail(x, first), tail(x, first + count), rows > 2)


@inline
def row_of_batch(rows, b, i, first):
    """Row i of entry b of a batch `[B, rows, P]`, from a window on."""
    return tail(rows, (b * rows.shape[1] + i) * rows.shape[2] + first)


# --- two by two pixels ------------------------------------------------------------------------------------------------


class Taps(NamedTuple):
    """Two by two pixels of some targets.

    `offset` counts values from the start of a plane to the first tap. The one to its right and the two below follow at
    `right` and `down`, which are 0 along an axis of one pixel. The fractions are the weights of the second taps. The
    `empty` targets that read nothing are listed in `holes`; their taps are those of pixel 0.
    """

    offset: Any
    fraction_y: Any
    fraction_x: Any
    holes: Any
    count: Any
    empty: Any
    down: Any
    right: Any


@inline
def arrays_of_taps(most, real):
    """Memory for the taps of up to `most` targets."""
    return integers(2 * most), numbers(2 * most, real)


@inline
def bounds_of(size, zero):
    """Of rows and of columns: the last pixel that can be the first of two, and the last of all as a coordinate, of the
    type of `zero`."""
    y = np.int32(max(size[0] - 2, 0)), convert(size[0] - 1, zero)
    return y, (np.int32(max(size[1] - 2, 0)), convert(size[1] - 1, zero))


@inline
def first_pixels(c, bounds):
    """The pixels at or before some coordinates of an axis, and how far beyond them the coordinates are.

    Coordinates are limited to the axis; NaN is 0. The next pixel is inside as well: a coordinate on the last pixel has
    it as its second, with a fraction of 1.
    """
    last, edge = bounds
    zero = full_like(0, edge)
    c = select(c > zero, c, zero)
    c = select(c < edge, c, edge)
    pixel = convert(c, last)
    pixel = select(pixel < last, pixel, last)
    return pixel, c - convert(pixel, zero)


@inline
def _store_taps(x, y, bounds, steps, memory, at):
    offset, fraction_y, fraction_x = memory
    x0, fx = first_pixels(x, bounds[1])
    y0, fy = first_pixels(y, bounds[0])
    wide = np.int64(0)
    store(convert(y0, wide) * steps[0] + convert(x0, wide) * steps[1], offset, at)
    store(select(y == y, fy, y), fraction_y, at)
    store(select(x == x, fx, x), fraction_x, at)


@inline
def _find_taps(field, first, count, size, steps, memory):
    """Taps of the targets from window `first` on."""
    bounds = bounds_of(size, zero_of(field.x))
    for block in range(count // LANES):
        at = block * LANES
        _store_taps(load(field.x, first + at, LANES), load(field.y, first + at, LANES), bounds, steps, memory, at)
    for at in range(count // LANES * LANES, count):
        _store_taps(load(field.x, first + at, 1), load(field.y, first + at, 1), bounds, steps, memory, at)


@inline
def _find_holes(xs, count, holes):
    """Lists the targets that read nothing; how many there are."""
    found = 0
    for i in range(count):
        found += xs[i] < 0
    if found > 0:
        found = 0
        for i in range(count):
            if xs[i] < 0:
                holes[found] = i
                found += 1
    return found


@inline
def taps_of(level, field, size, lo, hi, arrays):
    """Taps of the targets `lo .. hi` of an image of a `size`, as pointers to `arrays`, which the caller keeps alive."""
    places, fractions = arrays
    most = len(places) // 2
    offset, holes, fraction_y, fraction_x = (
        elements(places),
        tail(places, most),
        elements(fractions),
        tail(fractions, most),
    )
    count, first, down, right = hi - lo, level.first + lo, level.width * level.channels, level.channels
    if min(size[0], size[1]) > 0:
        _find_taps(field, first, count, size, (down, right), (offset, fraction_y, fraction_x))
        empty = _find_holes(tail(field.x, first), count, holes)
    else:
        empty = count
        for i in range(count):
            holes[i] = i
    down, right = down if size[0] > 1 else 0, right if size[1] > 1 else 0
    return Taps(offset, fraction_y, fraction_x, holes, count, empty, down, right)


_first_twice = shuffle(0, 0, 1, 1, 4, 4, 5, 5)
_second_twice = shuffle(2, 2, 3, 3, 6, 6, 7, 7)

lefts = shuffle(0, 2, 8, 10, 4, 6, 12, 14)
"""`lefts(*pairs)` are the left pixels of the pairs of `pairs_at`, in the order of the targets."""

rights = shuffle(1, 3, 9, 11, 5, 7, 13, 15)
"""The right pixels, likewise."""


@inline
def offsets_of(taps, i):
    """The offsets of eight targets."""
    return eight(taps.offset, i)


@inline
def pairs_at(source, start, x, like):
    """The pixels `source[start + x[k]]` of eight targets, each with its right neighbour, in two vectors.

    Targets 0, 1, 4, 5 are in the first, the others in the second: so nothing has to cross halves of registers.
    """
    a = join(load(source, start + x[0], 2), load(source, start + x[1], 2))
    b = join(load(source, start + x[2], 2), load(source, start + x[3], 2))
    c = join(load(source, start + x[4], 2), load(source, start + x[5], 2))
    d = join(load(source, start + x[6], 2), load(source, start + x[7], 2))
    return widen(join(a, c), like), widen(join(b, d), like)


@inline
def twice(values):
    """Values of eight targets for both pixels of the pairs of `pairs_at`."""
    return _first_twice(values, values), _second_twice(values, values)


# --- footprints -------------------------------------------------------------------------------------------------------


@inline
def _fill_footprints(field, axis, which, count, extent, centre, width):
    """Centres and half-widths of the targets `which` along an axis, 1 for y, as `_separable_taps.runs` takes them."""
    coordinate, half = (field.y, field.width_y) if axis == 1 else (field.x, field.width_x)
    for k in range(count):
        i = which[k]
        x, y = field.x[i], field.y[i]
        lost = x != x or y != y or field.width_x[i] != field.width_x[i] or field.width_y[i] != field.width_y[i]
        centre[k], width[k] = min(max(np.float64(coordinate[i]), 0.0), extent - 1.0), 1
        if field.is_wide:
            width[k] = max(np.float64(half[i]), 1.0)
        if x < 0:
            centre[k], width[k] = 0, 0
        elif lost:
            centre[k], width[k] = np.nan, 1


class Footprints(NamedTuple):
    """The `Windows` along y and x of some targets, and the memory that they are in."""

    y: Any
    x: Any
    memory: Any


@inline
def footprints_of(field, which, count, size):
    """The `Footprints` of the targets `which`."""
    memory = doubles(4 * count)
    y, x = elements(memory), tail(memory, 2 * count)
    _fill_footprints(field, 1, which, count, size[0], y, tail(y, count))
    _fill_footprints(field, 0, which, count, size[1], x, tail(x, count))
    return Footprints(Windows(y, tail(y, count), count, size[0]), Windows(x, tail(x, count), count, size[1]), memory)


@inline
def footprints_from(field, first, count, size):
    """The `Footprints` of targets that follow each other."""
    which = integers(count)
    for k in range(count):
        which[k] = first + k
    return footprints_of(field, which, count, size)


class Box(NamedTuple):
    """The footprint of a target: its first row and column, how many there are, and where their weights begin."""

    row: Any
    rows: Any
    row_weights: Any
    column: Any
    columns: Any
    column_weights: Any


@inline
def box_of(y, x, k):
    """The footprint of target k, from pointers."""
    of_rows, of_columns = load(y.offset, k, 1), load(x.offset, k, 1)
    rows, columns = load(y.offset, k + 1, 1) - of_rows, load(x.offset, k + 1, 1) - of_columns
    return Box(load(y.start, k, 1), rows, of_rows, load(x.start, k, 1), columns, of_columns)


# --- half-widths of triangle filters: distances of what neighbouring targets read -------------------------------------


@inline
def _neighbour_spacing(values, xs, at, step, place, n):
    """Half the distance of both neighbours' values, all of it where only one reads something; and which ones do."""
    low = place > 0 and xs[at - step] >= 0
    high = place < n - 1 and xs[at + step] >= 0
    start = np.float64(values[at - step] if low else values[at])
    end = np.float64(values[at + step] if high else values[at])
    return (end - start) / (2 if low and high else 1), low, high


@inline
def _spacings(values, xs, at, shape, extents, alone):
    """Of the neighbours in the column and in the row; a single row or column averages over all of its source."""
    height, width = shape
    y, x = at // width, at % width
    column = _neighbour_spacing(values, xs, at, width, y, height)[0] if extents[0] > 1 else alone[0]
    row = _neighbour_spacing(values, xs, at, 1, x, width)[0] if extents[1] > 1 else alone[1]
    return column, row


@inline
def _through(values, xs, grads, at, shape, extents, alone, axis):
    """Gradient of the neighbour after a target on an axis, through the target's half-width; minus that of the one
    before."""
    if extents[axis] <= 1:
        return 0.0
    spacings = _spacings(values, xs, at, shape, extents, alone)
    square = spacings[0] ** 2 + spacings[1] ** 2
    if not square >= 1:
        return 0.0
    step, place = (shape[1], at // shape[1]) if axis == 0 else (1, at % shape[1])
    _, low, high = _neighbour_spacing(values, xs, at, step, place, shape[axis])
    return grads[at] * spacings[axis] / np.sqrt(square) / (2 if low and high else 1)


@inline
def _geometry(shape, component):
    """Size, valid extents, and the spacings of a single row or column, for x (component 0) or y (1)."""
    alone = (shape.source_y - 1.0, 0.0) if component == 1 else (0.0, shape.source_x - 1.0)
    return (shape.height, shape.width), (shape.extent_y, shape.extent_x), alone


@inline
def _for_axes(work, centres, shapes, windows, result, part, parts):
    """Does `work(values, xs, about, some, b, component, first, windows, result)` for the x and for the y of each level
    of each image: centres along the axis, and along x; the `_geometry`; the part's targets; and where they lie."""
    for b in range(len(windows)):
        first = 0
        for level in range(level_count(shapes)):
            shape = shape_of(b, level, shapes)
            count = shape.height * shape.width
            some, entry = (part * count // parts, (part + 1) * count // parts), b if len(centres) > 1 else 0
            for component in range(2):
                about = _geometry(shape, component)
                values, xs = row_of_batch(centres, entry, component, first), row_of_batch(centres, entry, 0, first)
                work(values, xs, about, some, b, component, first, windows, result)
            first += count


@inline
def _widen_axis(values, xs, about, some, b, component, first, windows, result):
    centre, width = row_of_batch(windows, b, component, first), row_of_batch(windows, b, 2 + component, first)
    for at in range(some[0], some[1]):
        column, row = _spacings(values, xs, at, *about)
        square = column**2 + row**2
        centre[at] = values[at]
        width[at] = 1.0 if square < 1 else np.sqrt(square)


@inline
def _pull_axis(values, xs, about, some, b, component, first, grad, result):
    shape, to_centre = about[0], row_of_batch(result, b, component, first)
    by_centre, by_width = row_of_batch(grad, b, component, first), row_of_batch(grad, b, 2 + component, first)
    for at in range(some[0], some[1]):
        total = np.float64(by_centre[at])
        for axis in range(2):
            step, place = (shape[1], at // shape[1]) if axis == 0 else (1, at % shape[1])
            _, low, high = _neighbour_spacing(values, xs, at, step, place, shape[axis])
            own = _through(values, xs, by_width, at, *about, axis)
            total += (0.0 if high else own) - (0.0 if low else own)
            if xs[at] >= 0:  # then the neighbours' half-widths look at this target
                if place > 0:
                    total += _through(values, xs, by_width, at - step, *about, axis)
                if place < shape[axis] - 1:
                    total -= _through(values, xs, by_width, at + step, *about, axis)
        to_centre[at] = total


@parallel
def widen_windows(centres, shapes, windows, part, parts):
    """Fills windows `[B, 4, P]` from centres `[1 or B, 2, P]`."""
    _for_axes(_widen_axis, centres, shapes, windows, None, part, parts)


@parallel
def widen_windows_backward(grad, centres, shapes, result, part, parts):
    """Fills the gradient `[B, 2, P]` to the centres from that of the windows `[B, 4, P]`."""
    _for_axes(_pull_axis, centres, shapes, grad, result, part, parts)
