"""Adjoint of resampling at the windows of dense grids.

Each unit of work owns some rows of a few planes of the result and sums there what each target brings, in the order of
the targets: no atomics, and the same sums however the rows are divided.
"""

from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._grid_taps import (
    bounds_of,
    box_of,
    field_of,
    first_pixels,
    footprints_of,
)
from fastwarp.kernels.cpu._levels import size_of
from fastwarp.kernels.cpu._memory import clear, integers, numbers
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._rows import LANES, interleave_rows, store_rows
from fastwarp.kernels.cpu._separable_taps import runs
from fastwarp.kernels.cpu._vector import (
    convert,
    elements,
    full,
    full_like,
    hold,
    load,
    load_as,
    pointer,
    select,
    store,
    tail,
    zero_of,
)

_CHUNK = 64  # targets that are taken or left together
_SUMS = 1 << 17  # sums that a unit owns: they stay in L2
_ROWS = 4  # of a unit, at least: the units above and below a target both read it
_FOOTPRINTS = 1 << 15  # targets for which there is a unit


class Band(NamedTuple):
    """The rows that a unit owns, and the rows and columns of their image that are not padding."""

    first: Any
    end: Any
    size: Any


class BandTaps(NamedTuple):
    """Two by two pixels of the targets of a chunk among the sums of a band: of the upper and of the lower left tap, and
    the fractions in y and x. The other taps are one pixel, or none, to the right."""

    upper: Any
    lower: Any
    fraction_y: Any
    fraction_x: Any
    right: Any


# --- what a band gets from which targets ------------------------------------------------------------------------------


@inline
def _row_ranges(field, at, count, rows):
    """First and last row that each chunk of targets touches (first > last: none), and whether a target is lost."""
    chunks = (count + _CHUNK - 1) // _CHUNK
    first, last, lost = integers(chunks), integers(chunks), False
    zero = zero_of(field.x)
    edge = convert(rows - 1, zero)
    for chunk in range(chunks):
        here = at + chunk * _CHUNK
        xs, ys = tail(field.x, here), tail(field.y, here)
        low, high, nans = edge, zero - 1, 0
        for i in range(min(_CHUNK, count - chunk * _CHUNK)):
            x, y = xs[i], ys[i]
            y_or_low, y_or_high = (y if x >= zero else low), (y if x >= zero else high)
            low, high = (y_or_low if y_or_low < low else low), (y_or_high if y_or_high > high else high)
            nans += (x != x) | ((y != y) & ~(x < zero))
        any_here = high >= low
        first[chunk] = min(int(max(low, zero)), max(rows - 2, 0)) if any_here else 1
        last[chunk] = min(int(min(max(high, zero), edge)) + 1, rows - 1) if any_here else 0
        lost = lost or nans > 0
    return first, last, lost


@inline
def _row_within(row, end):
    row = select(row > 0, row, 0)
    return select(row < end, row, end)


@inline
def _store_places(x, y, bounds, band, width, places, at):
    zero, wide = full_like(0, bounds[0][1]), np.int64(0)
    x0, fraction_x = first_pixels(x, bounds[1])
    y0, fraction_y = first_pixels(y, bounds[0])
    here, y0 = (x >= zero) & (y == y), convert(y0, wide)
    upper, end = y0 + (1 - band.first), band.end - band.first + 1
    lower = upper + min(band.size[0] - 1, 1)
    upper, lower = select(here, _row_within(upper, end), 0), select(here, _row_within(lower, end), 0)
    store(upper * width + convert(x0, wide), places.upper, at)
    store(lower * width + convert(x0, wide), places.lower, at)
    store(fraction_y, places.fraction_y, at)
    store(fraction_x, places.fraction_x, at)


@inline
def _find_places(field, first, count, band, width, places):
    """BandTaps of the targets from window `first` on.

    There is a row more above and below the band, for what lies elsewhere. Targets that read nothing, and lost ones, go
    there.
    """
    bounds = bounds_of(band.size, zero_of(field.x))
    for block in range(count // LANES):
        at = block * LANES
        x, y = load(field.x, first + at, LANES), load(field.y, first + at, LANES)
        _store_places(x, y, bounds, band, width, places, at)
    for at in range(count // LANES * LANES, count):
        _store_places(load(field.x, first + at, 1), load(field.y, first + at, 1), bounds, band, width, places, at)


# --- two by two pixels ------------------------------------------------------------------------------------------------


@inline
def _add_vectors(grad, at, stride, places, count, depth, vectors, total):
    """Adds the targets `grad[at + i*stride:]` to their four taps in `total` `[pixel][depth]`.

    That is for the first `vectors` values of a pixel, a multiple of 8.
    """
    right = places.right * depth
    for i in range(count):
        fy, fx = load(places.fraction_y, i, 1), load(places.fraction_x, i, 1)
        above, left = full_like(1, fy) - fy, full_like(1, fx) - fx
        wa, wb, wc, wd = (
            full(above * left, LANES),
            full(above * fx, LANES),
            full(fy * left, LANES),
            full(fy * fx, LANES),
        )
        a, c, here = load(places.upper, i, 1) * depth, load(places.lower, i, 1) * depth, at + i * stride
        b, d = a + right, c + right
        for block in range(vectors // LANES):
            k = block * LANES
            value = load_as(grad, here + k, wa)
            store(load(total, a + k, LANES) + value * wa, total, a + k)
            store(load(total, b + k, LANES) + value * wb, total, b + k)
            store(load(total, c + k, LANES) + value * wc, total, c + k)
            store(load(total, d + k, LANES) + value * wd, total, d + k)


@inline
def _add_values(grad, at, steps, places, count, first, depth, total):
    """As `_add_vectors`, one by one from the value `first` of a pixel on: value k of target i is
    `grad[at + i*steps[0] + k*steps[1]]`."""
    right = places.right * depth
    for i in range(count):
        fy, fx = load(places.fraction_y, i, 1), load(places.fraction_x, i, 1)
        above, left = full_like(1, fy) - fy, full_like(1, fx) - fx
        a, c = load(places.upper, i, 1) * depth, load(places.lower, i, 1) * depth
        b, d = a + right, c + right
        for k in range(first, depth):
            g = load_as(grad, at + i * steps[0] + k * steps[1], fy)
            store(load(total, a + k, 1) + above * left * g, total, a + k)
            store(load(total, b + k, 1) + above * fx * g, total, b + k)
            store(load(total, c + k, 1) + fy * left * g, total, c + k)
            store(load(total, d + k, 1) + fy * fx * g, total, d + k)


# Two ways to add the targets of a chunk, of which the first is at `at`, and to write what they come to.


@inline
def _add_to_pixels(level, grad, at, places, count, depth, total, buffer):
    vectors = depth // LANES * LANES
    _add_vectors(grad, at, depth, places, count, depth, vectors, total)
    if vectors < depth:
        _add_values(grad, at, (depth, 1), places, count, vectors, depth, total)


@inline
def _write_pixels(level, total, first, count, depth, result, at):
    for i in range(count * depth):
        store(load(total, first * depth + i, 1), result, at + i)


@inline
def _add_to_planes(level, grad, at, places, count, depth, total, buffer):
    if depth == LANES and count >= LANES:
        interleave_rows(grad, at, level.targets, count, buffer, load(total, 0, LANES))
        _add_vectors(buffer, 0, depth, places, count, depth, depth, total)
    else:
        _add_values(grad, at, (1, level.targets), places, count, 0, depth, total)


@inline
def _write_planes(level, total, first, count, depth, result, at):
    pixels = level.height * level.width
    if depth == LANES and count >= LANES:
        one, starts = full_like(1, load(total, 0, 1)), integers(LANES)
        for k in range(LANES):
            starts[k] = at + k * pixels
        store_rows(total, first * depth, count, one, one - one, result, starts, 0, pixels * LANES)
    else:
        for k in range(depth):
            for i in range(count):
                store(load(total, (first + i) * depth + k, 1), result, at + k * pixels + i)


@inline
def _sum_band(level, add, field, band, ranges, grad, plane, depth, places, total, buffer):
    """Sums what the targets bring to a band of the planes from `plane` on."""
    first_rows, last_rows, lost = ranges
    sums = elements(total)
    for i in range((band.end - band.first + 2) * level.width * depth):
        total[i] = 0
    if min(band.size[0], band.size[1]) == 0:
        return
    for chunk in range(len(first_rows)):
        if first_rows[chunk] < band.end and last_rows[chunk] >= band.first:
            start = chunk * _CHUNK
            count = min(_CHUNK, level.targets - start)
            _find_places(field, level.first + start, count, band, level.width, places)
            at = (plane * level.targets + start) * level.channels
            add(level, grad, at, places, count, depth, sums, buffer)
    if lost and band.first == 0:
        for i in range(level.width * depth, (level.width + 1) * depth):
            total[i] = np.nan


@inline
def _adjoint(level, add, write, together, windows, extents, like, arrays, bands, share):
    """The units of a level: image, band, then a plane of several channels or up to eight planes of one."""
    result, grad, pixels = pointer(level.source, like), pointer(level.target, like), level.height * level.width
    groups, known = (level.planes + together - 1) // together, -1
    upper, lower, fraction_y, fraction_x, total, buffer = arrays
    for unit in range(share[0], share[1]):
        image, number, group = unit // groups // bands, unit // groups % bands, unit % groups
        field, size = field_of(windows, image), size_of(level, extents, image)
        if image != known:
            ranges, known = _row_ranges(field, level.first, level.targets, size[0]), image
        band = Band(number * level.height // bands, (number + 1) * level.height // bands, size)
        right = min(size[1] - 1, 1)
        places = BandTaps(elements(upper), elements(lower), elements(fraction_y), elements(fraction_x), right)
        plane, depth = image * level.planes + group * together, level.channels
        if together > 1:
            depth = min(together, level.planes - group * together)
        _sum_band(level, add, field, band, ranges, grad, plane, depth, places, total, elements(buffer))
        at, count = (plane * pixels + band.first * level.width) * level.channels, (band.end - band.first) * level.width
        write(level, elements(total), level.width, count, depth, result, at)


@inline
def _share_level(level, add, write, together, windows, extents, like, real, part, parts):
    """The part of a thread: how chunks are added, how sums are written, and of how many planes at a time."""
    depth, groups = level.channels * min(level.planes, together), (level.planes + together - 1) // together
    rows = max(_SUMS // (level.width * depth), _ROWS)
    bands = (level.height + rows - 1) // rows
    places = integers(_CHUNK), integers(_CHUNK), numbers(_CHUNK, real), numbers(_CHUNK, real)
    total, buffer = numbers((rows + 2) * level.width * depth, real), numbers(_CHUNK * together, real)
    units = level.images * bands * groups
    share = part * units // parts, (part + 1) * units // parts
    _adjoint(level, add, write, together, windows, extents, like, (*places, total, buffer), bands, share)


@parallel
def spread_planes(table, windows, extents, like, real, part, parts):
    """The adjoint of `resample_planes`."""
    for number in range(len(table)):
        _share_level(table[number], _add_to_planes, _write_planes, LANES, windows, extents, like, real, part, parts)


@parallel
def spread_pixels(table, windows, extents, like, real, part, parts):
    """The adjoint of `resample_pixels`."""
    for number in range(len(table)):
        _share_level(table[number], _add_to_pixels, _write_pixels, 1, windows, extents, like, real, part, parts)


# --- footprints -------------------------------------------------------------------------------------------------------


@inline
def _touching(level, field, rows, lo, hi, result):
    """Lists the targets whose footprints may have rows in `[lo, hi)`; how many there are."""
    found = 0
    for i in range(level.first, level.first + level.targets):
        c = min(max(np.float64(field.y[i]), 0.0), rows - 1.0)
        s = max(np.float64(field.width_y[i]), 1.0) if field.is_wide else 1.0
        if not (field.x[i] < 0 or c + s < lo or c - s > hi):
            result[found] = i
            found += 1
    return found


@inline
def _spread_target(value, lo, hi, box, y, x, width, channels, total, c):
    """Adds the value of a target to its footprint in the rows `lo .. hi`."""
    for a in range(max(lo - box.row, 0), min(hi - box.row, box.rows)):
        of_row = load(y.weight, box.row_weights + a, 1)
        row = ((box.row + a - lo) * width + box.column) * channels + c
        for b in range(box.columns):
            at, weight = row + b * channels, of_row * load(x.weight, box.column_weights + b, 1)
            store(load_as(total, at, value) + value * weight, total, at)


@inline
def _spread_targets(level, grad, first, lo, hi, taps, which, count, sums):
    """Adds targets of a plane that begins at `first` to its rows `lo .. hi`."""
    (y, x), channels, zero = taps, level.channels, zero_of(sums)
    for k in range(count):
        box, at = box_of(y, x, k), (first + which[k] - level.first) * channels
        for block in range(channels // LANES):
            c = block * LANES
            _spread_target(load_as(grad, at + c, full(zero, LANES)), lo, hi, box, y, x, level.width, channels, sums, c)
        for c in range(channels // LANES * LANES, channels):
            _spread_target(load_as(grad, at + c, zero), lo, hi, box, y, x, level.width, channels, sums, c)


@parallel
def spread_footprints(table, windows, extents, like, real, part, parts):
    """The adjoint of `resample_footprints`."""
    for number in range(len(table)):
        level = table[number]
        result, grad = pointer(level.source, like), pointer(level.target, like)
        bands = min(max((level.targets + _FOOTPRINTS - 1) // _FOOTPRINTS, parts), level.height)
        units = level.images * bands
        for unit in range(part * units // parts, (part + 1) * units // parts):
            image, band = unit // bands, unit % bands
            lo, hi = band * level.height // bands, (band + 1) * level.height // bands
            field, size, which = field_of(windows, image), size_of(level, extents, image), integers(level.targets)
            count = _touching(level, field, size[0], lo, hi, which)
            of = footprints_of(field, which, count, size)
            taps, values = (runs(of.y, real), runs(of.x, real)), (hi - lo) * level.width * level.channels
            total = numbers(values, real)
            for plane in range(image * level.planes, (image + 1) * level.planes):
                clear(total, values)
                of_plane = (level, grad, plane * level.targets, lo, hi, taps)
                _spread_targets(*of_plane, elements(which), count, elements(total))
                out = (plane * level.height + lo) * level.width * level.channels
                for i in range(values):
                    store(total[i], result, out + i)
            hold(which)
            hold(of)
