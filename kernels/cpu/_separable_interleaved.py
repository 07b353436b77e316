"""Resampling of eight rows at a time, interleaved as `[column][8]`: the vertical step into that layout, the horizontal
step there, and back. A tile of columns is made after the other, so that it stays in the L2. Pixels of three or four
channels are vectors by themselves where many are summed: they need not be interleaved."""

from typing import Any, NamedTuple

from fastwarp.kernels.cpu._memory import clear, integers, numbers
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._rows import LANES, PIXEL, blend_rows, interleave_rows, store_rows, sum_rows
from fastwarp.kernels.cpu._separable_taps import make_rows, next_row, pairs_of, runs_of
from fastwarp.kernels.cpu._vector import elements, full, hold, load, load_as, store, tail, tuple_setitem, zero_of

_TILE = 1024  # values of a target row that are made at a time: sources and results of 8 rows stay in L2
_AHEAD = 64  # values between what is read and what is prefetched
_MANY_TAPS = 3  # a column, from where on sums of pixels are faster than sums of interleaved rows


class Tiles(NamedTuple):
    """Columns of targets that are made together, and which values of a source row `[begin, end)` each reads."""

    columns: Any
    count: Any
    longest: Any  # most values that one reads
    begin: Any
    end: Any
    start: Any  # for each target, first value among the interleaved ones of its tile
    empty: Any  # whether a target reads nothing
    any_empty: Any  # whether one in a tile does
    memory: Any


@inline
def _tiles(first, last, w, channels, room):
    """The `Tiles` for the first and last source pixel of each of w targets, first > last where it reads none.

    A tile reads at least 8 values, if there are so many, and none outside the row of `room` pixels.
    """
    columns = max(_TILE // channels, LANES)
    count = (w + columns - 1) // columns
    memory = integers(3 * count + 2 * w)
    begin, end, any_empty = elements(memory), tail(memory, count), tail(memory, 2 * count)
    start, empty, longest = tail(memory, 3 * count), tail(memory, 3 * count + w), LANES
    for n in range(count):
        low, high, any_empty[n] = room, -1, 0
        for j in range(n * columns, min((n + 1) * columns, w)):
            empty[j] = first[j] > last[j]
            any_empty[n] |= empty[j]
            if first[j] <= last[j]:
                low, high = min(low, first[j]), max(high, last[j])
        low = 0 if high < 0 else low
        begin[n] = max(min(low * channels, room * channels - LANES), 0)
        end[n] = min(max((high + 1) * channels, begin[n] + LANES), room * channels)
        longest = max(longest, end[n] - begin[n])
        for j in range(n * columns, min((n + 1) * columns, w)):
            start[j] = 0 if empty[j] else (first[j] * channels - begin[n]) * LANES
    return Tiles(columns, count, longest, begin, end, start, empty, any_empty, memory)


@inline
def _steps(columns, channels, affine):
    """How far targets and channels are apart in a tile: pixel by pixel, or channel by channel."""
    return (channels * LANES, LANES) if affine is None else (LANES, columns * LANES)


@inline
def _blend_columns(source, tiles, n, x, channels, steps, target):
    """Horizontal step of two taps in a tile."""
    for j in range(n * tiles.columns, min((n + 1) * tiles.columns, x.count)):
        a, at = load(tiles.start, j, 1), (j - n * tiles.columns) * steps[0]
        b = a + (load(x.second, j, 1) - load(x.first, j, 1)) * channels * LANES
        w_a, w_b = full(load(x.w_first, j, 1), LANES), full(load(x.w_second, j, 1), LANES)
        for c in range(channels):
            value = load(source, a + c * LANES, LANES) * w_a + load(source, b + c * LANES, LANES) * w_b
            store(value, target, at + c * steps[1])


@inline
def _sum_columns(source, tiles, n, x, channels, steps, target):
    """Horizontal step of any number of taps in a tile."""
    for j in range(n * tiles.columns, min((n + 1) * tiles.columns, x.count)):
        start, at = load(tiles.start, j, 1), (j - n * tiles.columns) * steps[0]
        first, end = load(x.offset, j, 1), load(x.offset, j + 1, 1)
        for c in range(channels):
            total = full(zero_of(source), LANES)
            for t in range(first, end):
                column = load(source, start + ((t - first) * channels + c) * LANES, LANES)
                total = total + column * load(x.weight, t, 1)
            store(total, target, at + c * steps[1])


@inline
def _sum_pixels(lines, length, tiles, n, x, channels, target, step):
    """Horizontal step in a tile of eight lines that are not interleaved, `length` and in the result `step` apart, for
    pixels of up to four channels. Reads and writes four: a pixel comes after the one before, whose last it overwrites.
    """
    zero = full(zero_of(lines), PIXEL)
    for j in range(n * tiles.columns, min((n + 1) * tiles.columns, x.count)):
        pixel, at = load(tiles.start, j, 1) // LANES, (j - n * tiles.columns) * channels
        totals = zero, zero, zero, zero, zero, zero, zero, zero
        for t in range(load(x.offset, j, 1), load(x.offset, j + 1, 1)):
            weight = full(load(x.weight, t, 1), PIXEL)
            for k in range(LANES):
                value = load(lines, pixel + k * length, PIXEL)
                totals = tuple_setitem(totals, k, totals[k] + value * weight)
            pixel += channels
        for k in range(LANES):
            store(totals[k], target, at + k * step)


@inline
def _store_lines(lines, step, target, offsets, where, count):
    """Writes `count` values of eight lines to `offsets[k] + where`."""
    for k in range(LANES):
        source, at = k * step, offsets[k] + where
        for n in range((count + LANES - 1) // LANES if count >= LANES else 0):
            i = min(n * LANES, count - LANES)
            store(load(lines, source + i, LANES), target, at + i)
        for i in range(count if count < LANES else 0):
            store(load(lines, source + i, 1), target, at + i)


@inline
def _store_run(tile, source, scale, bias, target, offsets, where, count):
    """Writes `count` columns of eight interleaved rows to `offsets[k] + where`."""
    if count >= LANES:
        ahead = offsets[LANES - 1] - offsets[0]
        store_rows(tile, source, count, scale, bias, target, offsets, where, ahead)
    else:
        for k in range(LANES):
            for i in range(count):
                store(tile[source + i * LANES + k] * scale + bias, target, offsets[k] + where + i)


@inline
def _store_tile(tile, tiles, n, channels, size, affine, target, offsets, real):
    """Writes a tile of targets of a result of `size`."""
    h, w = size
    lo, hi = n * tiles.columns, min((n + 1) * tiles.columns, w)
    if affine is None:
        _store_run(tile, 0, real[1], real[0], target, offsets, lo * channels, (hi - lo) * channels)
    else:
        scale, bias = affine
        for c in range(channels):
            first = c * tiles.columns * LANES
            _store_run(tile, first, scale[c], bias[c], target, offsets, c * h * w + lo, hi - lo)


@inline
def _clear_tile(tiles, n, channels, size, affine, target, offsets, empty_rows, real):
    """Makes what reads nothing 0, in a tile of targets of a result of `size`."""
    h, w = size
    lo, hi = n * tiles.columns, min((n + 1) * tiles.columns, w)
    if affine is None:
        across, between = channels, 1
    else:
        across, between = 1, h * w
    any_empty = False
    for k in range(LANES):
        any_empty |= empty_rows[k] != 0
    if not (any_empty or tiles.any_empty[n]):
        return
    for j in range(lo, hi):
        if any_empty or tiles.empty[j]:
            for k in range(LANES):
                if empty_rows[k] or tiles.empty[j]:
                    for c in range(channels):
                        store(real[0], target, offsets[k] + j * across + c * between)


@inline
def _blend_row_groups(source, target, real, rows, level, y, x, affine):
    first_row, end, image = rows
    channels, planes, h, w = level.channels, level.planes, level.rows, level.columns
    stride = level.width * channels
    places = integers(w + 4 * LANES)
    last, upper, lower, out = elements(places), tail(places, w), tail(places, w + LANES), tail(places, w + 2 * LANES)
    empty_rows = tail(places, w + 3 * LANES)
    for j in range(w):
        last[j] = x.second[j] if x.first[j] >= 0 else -2
    tiles = _tiles(x.first, last, w, channels, level.width)
    steps, length = _steps(tiles.columns, channels, affine), tiles.longest * LANES
    memory = numbers(length + tiles.columns * channels * LANES + 2 * LANES, real)
    interleaved, w_upper, w_lower = elements(memory), tail(memory, length), tail(memory, length + LANES)
    tile = tail(memory, length + 2 * LANES)
    for r in range(first_row, end, LANES):
        plane, i = r // h, r % h
        for k in range(LANES):
            base = (image * planes + plane) * level.height
            empty_rows[k] = y.first[i] < 0
            upper[k], lower[k] = (base + max(y.first[i], 0)) * stride, (base + max(y.second[i], 0)) * stride
            w_upper[k], w_lower[k] = y.w_first[i], y.w_second[i]
            out[k] = (image * planes + plane) * h * w * channels + i * w * (channels if affine is None else 1)
            plane, i = next_row(plane, i, planes, h)
        # Long rows: a few cache lines on; short ones: eight rows on, where the next unit reads.
        ahead = _AHEAD if stride > 8 * _AHEAD else (upper[LANES - 1] - upper[0]) * LANES // (LANES - 1)
        for n in range(tiles.count):
            begin, count = tiles.begin[n], tiles.end[n] - tiles.begin[n]
            blend_rows(source, upper, lower, w_upper, w_lower, begin, count, interleaved, ahead)
            _blend_columns(interleaved, tiles, n, x, channels, steps, tile)
            _store_tile(tile, tiles, n, channels, (h, w), affine, target, out, real)
            _clear_tile(tiles, n, channels, (h, w), affine, target, out, empty_rows, real)
    hold(places)
    hold(memory)


@parallel
def blend_interleaved(table, windows, extents, like, like_out, real, affine, part, parts):
    """Two taps along each axis, for rows of at least eight values."""
    make_rows(_blend_row_groups, pairs_of, table, windows, extents, like, like_out, real, affine, part, parts)


@inline
def _sum_into(source, at, stride, y, i, line, target, count, zero):
    """A sum of rows, of any number of values."""
    first, several = y.offset[i], y.offset[i + 1] - y.offset[i]
    if count >= LANES:
        sum_rows(source, at, stride, y.weight, first, several, line, target, count)
    else:
        for q in range(count):
            total = zero
            for r in range(several):
                total += y.weight[first + r] * load_as(source, at + r * stride + q, zero)
            line[target + q] = total


@inline
def _sum_row_groups(source, target, real, rows, level, y, x, affine):
    first_row, end, image = rows
    channels, planes, height, width = level.channels, level.planes, level.height, level.width
    h, w = level.rows, level.columns
    places = integers(w + 2 * LANES)
    last, out, empty_rows = elements(places), tail(places, w), tail(places, w + LANES)
    for j in range(w):
        last[j] = x.start[j] + x.offset[j + 1] - x.offset[j] - 1
    tiles = _tiles(x.start, last, w, channels, width)
    steps, length = _steps(tiles.columns, channels, affine), tiles.longest
    by_pixels = affine is None and 3 <= channels <= PIXEL and x.offset[w] >= _MANY_TAPS * w
    step = tiles.columns * channels + PIXEL
    memory = numbers(2 * length * LANES + PIXEL + step * LANES, real)
    lines, interleaved = elements(memory), tail(memory, length * LANES + PIXEL)
    clear(lines, length * LANES + PIXEL)
    tile = tail(memory, 2 * length * LANES + PIXEL)
    for r in range(first_row, end, LANES):
        for n in range(tiles.count):
            begin, count = tiles.begin[n], tiles.end[n] - tiles.begin[n]
            plane, i = r // h, r % h
            for k in range(LANES):
                out[k] = (image * planes + plane) * h * w * channels + i * w * (channels if affine is None else 1)
                empty_rows[k] = y.offset[i + 1] == y.offset[i]
                at = ((image * planes + plane) * height + y.start[i]) * width * channels + begin
                _sum_into(source, at, width * channels, y, i, lines, k * length, count, real[0])
                plane, i = next_row(plane, i, planes, h)
            if by_pixels:
                _sum_pixels(lines, length, tiles, n, x, channels, tile, step)
                first = n * tiles.columns
                _store_lines(tile, step, target, out, first * channels, min(tiles.columns, w - first) * channels)
            else:
                interleave_rows(lines, 0, length, max(count, LANES), interleaved, full(real[0], LANES))
                _sum_columns(interleaved, tiles, n, x, channels, steps, tile)
                _store_tile(tile, tiles, n, channels, (h, w), affine, target, out, real)
            _clear_tile(tiles, n, channels, (h, w), affine, target, out, empty_rows, real)
    hold(places)
    hold(memory)


@parallel
def sum_interleaved(table, windows, extents, like, like_out, real, affine, part, parts):
    """Any number of taps along each axis."""
    make_rows(_sum_row_groups, runs_of, table, windows, extents, like, like_out, real, affine, part, parts)
