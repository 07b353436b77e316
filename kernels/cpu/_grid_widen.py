"""Half-widths of triangle filters: distances of what neighbouring targets read, and the gradient to their centres."""

import numpy as np

from fastwarp.kernels.cpu._levels import extent
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._vector import tail


@inline
def _spacing(values, xs, at, step, place, n):
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
    column = _spacing(values, xs, at, width, y, height)[0] if extents[0] > 1 else alone[0]
    row = _spacing(values, xs, at, 1, x, width)[0] if extents[1] > 1 else alone[1]
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
    _, low, high = _spacing(values, xs, at, step, place, shape[axis])
    return grads[at] * spacings[axis] / np.sqrt(square) / (2 if low and high else 1)


@inline
def _geometry(b, level, component, sizes, source_sizes, valid, source_valid):
    """Shape, valid extents, and the spacings of a single row or column, for x (component 0) or y (1)."""
    height, width = sizes[2 * level], sizes[2 * level + 1]
    extents = (extent(valid, b, level, 0, height), extent(valid, b, level, 1, width))
    other = 1 - component
    source = extent(source_valid, b, level, other, source_sizes[2 * level + other]) - 1.0
    alone = (source, 0.0) if component == 1 else (0.0, source)
    return (height, width), extents, alone


@parallel
def widen(centres, sizes, source_sizes, valid, source_valid, windows, part, parts):
    """Fills windows `[B, 4, P]` from centres `[1 or B, 2, P]`."""
    all_ = windows.shape[2]
    for b in range(len(windows)):
        first = 0
        for level in range(len(sizes) // 2):
            count = sizes[2 * level] * sizes[2 * level + 1]
            xs, ys = _rows_of(centres, b if len(centres) > 1 else 0, first)
            for component in range(2):
                shape, extents, alone = _geometry(b, level, component, sizes, source_sizes, valid, source_valid)
                values, centre = (ys if component == 1 else xs), tail(windows, (4 * b + component) * all_ + first)
                width = tail(centre, 2 * all_)
                for at in range(part * count // parts, (part + 1) * count // parts):
                    column, row = _spacings(values, xs, at, shape, extents, alone)
                    square = column**2 + row**2
                    centre[at] = values[at]
                    width[at] = 1.0 if square < 1 else np.sqrt(square)
            first += count


@parallel
def widen_backward(grad, centres, sizes, source_sizes, valid, source_valid, result, part, parts):
    """Fills the gradient `[B, 2, P]` to the centres from that of the windows `[B, 4, P]`."""
    all_ = grad.shape[2]
    for b in range(len(result)):
        first = 0
        for level in range(len(sizes) // 2):
            count = sizes[2 * level] * sizes[2 * level + 1]
            xs, ys = _rows_of(centres, b if len(centres) > 1 else 0, first)
            for component in range(2):
                shape, extents, alone = _geometry(b, level, component, sizes, source_sizes, valid, source_valid)
                values, to_centre = (ys if component == 1 else xs), _rows_of(result, b, first)[component]
                by_centre = tail(grad, (4 * b + component) * all_ + first)
                by_width = tail(by_centre, 2 * all_)
                for at in range(part * count // parts, (part + 1) * count // parts):
                    total = np.float64(by_centre[at])
                    for axis in range(2):
                        step, place = (shape[1], at // shape[1]) if axis == 0 else (1, at % shape[1])
                        _, low, high = _spacing(values, xs, at, step, place, shape[axis])
                        own = _through(values, xs, by_width, at, shape, extents, alone, axis)
                        total += (0.0 if high else own) - (0.0 if low else own)
                        if xs[at] >= 0:  # then the neighbours' half-widths look at this target
                            if place > 0:
                                total += _through(values, xs, by_width, at - step, shape, extents, alone, axis)
                            if place < shape[axis] - 1:
                                total -= _through(values, xs, by_width, at + step, shape, extents, alone, axis)
                    to_centre[at] = total
            first += count


@inline
def _rows_of(centres, b, first):
    """The x and the y of entry b of a batch `[B, 2, P]`, from a window on."""
    count = centres.shape[2]
    return tail(centres, 2 * b * count + first), tail(centres, (2 * b + 1) * count + first)
