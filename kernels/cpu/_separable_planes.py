"""Resampling of planes, images of one channel: eight neighbouring targets at a time, of four rows together.

Where the taps of eight targets lie within `WINDOW` pixels, that window of the source is loaded as vectors, and the taps
are picked from registers. Elsewhere they are loaded one by one, or in pairs.
"""

import numpy as np

from fastwarp.kernels.cpu._levels import extent, next_row, share_of
from fastwarp.kernels.cpu._memory import integers, numbers, zeros
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._rows import LANES, sum_rows
from fastwarp.kernels.cpu._separable_pixels import blend_values, counting_values
from fastwarp.kernels.cpu._separable_taps import pairs_of, runs_of
from fastwarp.kernels.cpu._vector import (
    elements,
    full,
    gather,
    join,
    load,
    load_as,
    pick,
    pointer,
    prefetch,
    select,
    shuffle,
    store,
    widen,
)

WINDOW = 2 * LANES
ROWS = 4  # made together: what a block needs to know is loaded once for them
_SHORT = 512  # values of a row, up to there the processor fetches the next ones in time

_evens = shuffle(0, 2, 4, 6, 8, 10, 12, 14)
_odds = shuffle(1, 3, 5, 7, 9, 11, 13, 15)


@inline
def _four(array):
    return load(array, 0, 1), load(array, 1, 1), load(array, 2, 1), load(array, 3, 1)


@inline
def _pair_blocks(taps, real):
    """Cuts the taps of a row of targets into blocks of eight; the last overlaps the one before, or repeats the last
    target where there are fewer than eight.

    Returns:
        for each block its first target, and where its window begins, or -1 where there is none; for each target its
        first tap, and its two taps in the window, `[block][3][8]`; their weights, `[block][2][8]`.
    """
    w = len(taps.first)
    count = (w + LANES - 1) // LANES
    place, where = integers(2 * count), np.empty(3 * LANES * count, np.int32)
    weights = numbers(2 * LANES * count, real)
    for n in range(count):
        at = max(min(n * LANES, w - LANES), 0)
        low, high, t = 1 << 62, -1, 3 * LANES * n
        for k in range(LANES):
            j = min(at + k, w - 1)
            weights[2 * LANES * n + k], weights[2 * LANES * n + LANES + k] = taps.w_first[j], taps.w_second[j]
            where[t + k] = max(taps.first[j], 0)
            if taps.first[j] >= 0:
                low, high = min(low, taps.first[j]), max(high, taps.second[j])
        low = min(low, max(high, 0))
        place[2 * n], place[2 * n + 1] = at, low if high - low < WINDOW else -1
        for k in range(LANES):
            j = min(at + k, w - 1)
            inside = high - low < WINDOW and taps.first[j] >= 0
            where[t + LANES + k] = taps.first[j] - low if inside else 0
            where[t + 2 * LANES + k] = taps.second[j] - low if inside else 0
    return place, where, weights


@inline
def _store_blended(sides, columns, affine, target, at):
    store((sides[0] * columns[0] + sides[1] * columns[1]) * affine[0] + affine[1], target, at)


@inline
def _from_window(source, a, b, w_a, w_b, where):
    """Both taps of eight targets of a row, blended vertically, from a window that begins at a and at b."""
    low = load_as(source, a, w_a) * w_a + load_as(source, b, w_b) * w_b
    high = load_as(source, a + LANES, w_a) * w_a + load_as(source, b + LANES, w_b) * w_b
    return pick(low, high, where[0]), pick(low, high, where[1])


@inline
def _pairs_of(source, a, x, like):
    """The pixels `source[a + x[k]]` and their right neighbours, side by side in two vectors."""
    first = join(
        join(load(source, a + x[0], 2), load(source, a + x[1], 2)),
        join(load(source, a + x[2], 2), load(source, a + x[3], 2)),
    )
    second = join(
        join(load(source, a + x[4], 2), load(source, a + x[5], 2)),
        join(load(source, a + x[6], 2), load(source, a + x[7], 2)),
    )
    return widen(first, like), widen(second, like)


@inline
def _from_pairs(source, a, b, w_a, w_b, x):
    """As `_from_window`, from pairs of neighbours at x."""
    upper, lower = _pairs_of(source, a, x, w_a), _pairs_of(source, b, x, w_b)
    first, second = upper[0] * w_a + lower[0] * w_b, upper[1] * w_a + lower[1] * w_b
    return _evens(first, second), _odds(first, second)


@inline
def _pair_places(where, at):
    a, b, c, d = load(where, at, 1), load(where, at + 1, 1), load(where, at + 2, 1), load(where, at + 3, 1)
    e, f, g, h = load(where, at + 4, 1), load(where, at + 5, 1), load(where, at + 6, 1), load(where, at + 7, 1)
    return a, b, c, d, e, f, g, h


@inline
def _prefetch_four(source, a, b, at):
    prefetch(source, a[0] + at)
    prefetch(source, b[0] + at)
    prefetch(source, a[1] + at)
    prefetch(source, b[1] + at)
    prefetch(source, a[2] + at)
    prefetch(source, b[2] + at)
    prefetch(source, a[3] + at)
    prefetch(source, b[3] + at)


@inline
def _blend_blocks(source, length, rows, blocks, scale, bias, target, out, ahead):
    """`ROWS` rows of targets: `target[out[r] + j] = scale * value + bias`.

    `rows` are the starts and the weights of the two source rows of each. What lies `ahead` values further on is
    prefetched.
    """
    a, b, v, w, o = _four(rows[0]), _four(rows[1]), _four(rows[2]), _four(rows[3]), _four(out)
    v = full(v[0], LANES), full(v[1], LANES), full(v[2], LANES), full(v[3], LANES)
    w = full(w[0], LANES), full(w[1], LANES), full(w[2], LANES), full(w[3], LANES)
    place, where, weights, count = blocks
    affine = full(scale, LANES), full(bias, LANES)
    reach = length - max(b[0], b[1], b[2], b[3]) - WINDOW  # a window near the end of the source would leave it
    for n in range(count):
        at, start, first, second = load(place, 2 * n, 1), load(place, 2 * n + 1, 1), 3 * LANES * n, 2 * LANES * n
        if start >= 0 and start <= reach:
            if ahead != 0:
                _prefetch_four(source, a, b, start + ahead)
            taps = load(where, first + LANES, LANES), load(where, first + 2 * LANES, LANES)
            r0 = _from_window(source, a[0] + start, b[0] + start, v[0], w[0], taps)
            r1 = _from_window(source, a[1] + start, b[1] + start, v[1], w[1], taps)
            r2 = _from_window(source, a[2] + start, b[2] + start, v[2], w[2], taps)
            r3 = _from_window(source, a[3] + start, b[3] + start, v[3], w[3], taps)
        else:
            x = _pair_places(where, first)
            if ahead != 0:
                _prefetch_four(source, a, b, x[0] + ahead)
                _prefetch_four(source, a, b, x[4] + ahead)
            r0 = _from_pairs(source, a[0], b[0], v[0], w[0], x)
            r1 = _from_pairs(source, a[1], b[1], v[1], w[1], x)
            r2 = _from_pairs(source, a[2], b[2], v[2], w[2], x)
            r3 = _from_pairs(source, a[3], b[3], v[3], w[3], x)
        columns = load(weights, second, LANES), load(weights, second + LANES, LANES)
        _store_blended(r0, columns, affine, target, o[0] + at)
        _store_blended(r1, columns, affine, target, o[1] + at)
        _store_blended(r2, columns, affine, target, o[2] + at)
        _store_blended(r3, columns, affine, target, o[3] + at)


@inline
def _finish(few, zero, target, out, empty_rows, empty, w):
    """Brings narrow rows to their places; `empty_rows` of the rows, and columns in `empty`, become 0."""
    for k in range(ROWS):
        if empty_rows[k]:
            for j in range(w):
                store(zero, target, out[k] + j)
            continue
        if w < LANES:
            for j in range(w):
                store(few[k * LANES + j], target, out[k] + j)
        for j in range(w):
            if empty[j]:
                store(zero, target, out[k] + j)


@inline
def _blend_plane_rows(source, length, target, real, part_of, level, y, x, blocks, affine):
    """The rows `part_of` (first, end, image) of the planes of an image."""
    first, end, image = part_of
    height, width, planes, h, w = level.height, level.width, level.planes, level.rows, level.columns
    scale, bias = affine
    # As pointers: arrays are counted at each call of an inner function.
    of_blocks = elements(blocks[0]), elements(blocks[1]), elements(blocks[2]), len(blocks[0]) // 2
    empty, any_empty = x.first < 0, False
    for j in range(w):
        any_empty |= empty[j]
    few, few_out, empty_rows = numbers(ROWS * LANES, real), integers(ROWS), integers(ROWS)
    upper, lower, out = integers(ROWS), integers(ROWS), integers(ROWS)
    w_upper, w_lower = numbers(ROWS, real), numbers(ROWS, real)
    rows = (elements(upper), elements(lower), elements(w_upper), elements(w_lower))
    plane, i = first // h, first % h
    for r in range(first, end, ROWS):
        some = any_empty or w < LANES
        for k in range(ROWS):
            base = (image * planes + plane) * height
            empty_rows[k], few_out[k] = y.first[i] < 0, k * LANES
            some |= y.first[i] < 0
            upper[k], lower[k] = (base + max(y.first[i], 0)) * width, (base + max(y.second[i], 0)) * width
            w_upper[k], w_lower[k] = y.w_first[i], y.w_second[i]
            out[k] = (image * planes * h + min(r + k, planes * h - 1)) * w
            plane, i = next_row(plane, i, planes, h)
        ahead = (upper[1] - upper[0]) * ROWS if width > _SHORT else 0  # to the next rows; short ones are in the L1
        if w >= LANES:
            _blend_blocks(source, length, rows, of_blocks, scale, bias, target, elements(out), ahead)
        else:
            _blend_blocks(source, length, rows, of_blocks, scale, bias, elements(few), elements(few_out), ahead)
        if some:
            _finish(few, real[0], target, out, empty_rows, empty, w)


@inline
def _blend_narrow_rows(source, target, real, part_of, level, y, x, affine):
    """As `_blend_plane_rows` where a row has no two pixels to be loaded as a pair."""
    first, end, image = part_of
    scale, bias = affine
    taps = counting_values(x, 1)
    width, h, w = level.width, level.rows, level.columns
    for r in range(first, end):
        base, i, out = (image * level.planes + r // h) * level.height * width, r % h, (image * level.planes * h + r) * w
        if y.first[i] >= 0:
            row = (base + y.first[i] * width, base + y.second[i] * width, y.w_first[i], y.w_second[i])
            blend_values(source, row, taps, (0, w), scale, bias, target, (out, 1), 0)
        for j in range(w):
            if y.first[i] < 0 or x.first[j] < 0:
                store(real[0], target, out + j)


@parallel
def blend_planes(table, windows, extents, like, like_out, real, affine, part, parts):
    """Two taps along each axis. `affine` are scale and bias of the only channel, or None."""
    scale, bias = (real[1], real[0]) if affine is None else (affine[0][0], affine[1][0])
    for number in range(len(table)):
        level = table[number]
        source, target = pointer(level.source, like), pointer(level.target, like_out)
        length = level.images * level.planes * level.height * level.width
        h = level.rows
        units = (level.planes * h + LANES - 1) // LANES
        for image in range(level.images):
            lo, hi = share_of(image, level.images, units, part, parts)
            if lo == hi:
                continue
            y, x = pairs_of(level, number, image, windows, extents, real)
            part_of = (lo * LANES, min(hi * LANES, level.planes * h), image)
            if extent(extents, image, number, 1, level.width) > 1:
                blocks = _pair_blocks(x, real)
                _blend_plane_rows(source, length, target, real, part_of, level, y, x, blocks, (scale, bias))
            else:
                _blend_narrow_rows(source, target, real, part_of, level, y, x, (scale, bias))


# --- any number of taps -----------------------------------------------------------------------------------------------


@inline
def _run_blocks(taps, begin, real):
    """As `_pair_blocks`, for pixels that are counted from `begin` on.

    Returns:
        for each block its first target, and where its window begins, or -1; where its taps begin; for each target its
        t-th tap, in the window or of all, `[t][8]`; their weights, 0 for a target without so many.
    """
    start, offset, weight = taps
    w = len(start)
    count = (w + LANES - 1) // LANES
    place, first = integers(2 * count), integers(count + 1)
    first[0] = 0
    for n in range(count):
        at = max(min(n * LANES, w - LANES), 0)
        low, high, most = 1 << 62, -1, 0
        for j in range(at, min(at + LANES, w)):
            several = offset[j + 1] - offset[j]
            if several > 0:
                low, high = min(low, start[j] - begin), max(high, start[j] - begin + several - 1)
                most = max(most, several)
        place[2 * n], place[2 * n + 1] = at, -1 if high - low >= WINDOW else min(low, max(high, 0))
        first[n + 1] = first[n] + most
    where, weights = np.empty(first[count] * LANES, np.int32), zeros(first[count] * LANES, real)
    for t in range(len(where)):
        where[t] = 0
    for n in range(count):
        for k in range(min(LANES, w)):
            j = place[2 * n] + k
            for t in range(offset[j + 1] - offset[j]):
                where[(first[n] + t) * LANES + k] = start[j] - begin + t - max(place[2 * n + 1], 0)
                weights[(first[n] + t) * LANES + k] = weight[offset[j] + t]
    return place, first, where, weights


@inline
def _term(values, by):
    """A tap's share; 0 where it has no weight, even of NaN."""
    return select(by != 0, values * by, 0)


@inline
def _sum_blocks(lines, stride, blocks, target, out):
    """`ROWS` rows of targets from as many lines, `stride` apart: sums of weights times taps."""
    o, zero = _four(out), full(lines.dtype.type(0), LANES)
    place, first, where, weights = blocks
    for n in range(len(place) // 2):
        at, start = load(place, 2 * n, 1), load(place, 2 * n + 1, 1)
        a, b, c, d = zero, zero, zero, zero
        if start >= 0:
            a_low, a_high = load(lines, start, LANES), load(lines, start + LANES, LANES)
            b_low, b_high = load(lines, start + stride, LANES), load(lines, start + stride + LANES, LANES)
            c_low, c_high = load(lines, start + 2 * stride, LANES), load(lines, start + 2 * stride + LANES, LANES)
            d_low, d_high = load(lines, start + 3 * stride, LANES), load(lines, start + 3 * stride + LANES, LANES)
            for t in range(load(first, n, 1), load(first, n + 1, 1)):
                taps, by = load(where, t * LANES, LANES), load(weights, t * LANES, LANES)
                a = a + _term(pick(a_low, a_high, taps), by)
                b = b + _term(pick(b_low, b_high, taps), by)
                c = c + _term(pick(c_low, c_high, taps), by)
                d = d + _term(pick(d_low, d_high, taps), by)
        else:
            for t in range(load(first, n, 1), load(first, n + 1, 1)):
                taps, by = load(where, t * LANES, LANES), load(weights, t * LANES, LANES)
                a = a + _term(gather(lines, 0, taps), by)
                b = b + _term(gather(lines, stride, taps), by)
                c = c + _term(gather(lines, 2 * stride, taps), by)
                d = d + _term(gather(lines, 3 * stride, taps), by)
        store(a, target, o[0] + at)
        store(b, target, o[1] + at)
        store(c, target, o[2] + at)
        store(d, target, o[3] + at)


@inline
def _hull(taps, room):
    """The pixels `[begin, end)` that all targets together read: at least eight of `room`."""
    low, high = room, -1
    for j in range(len(taps.start)):
        several = taps.offset[j + 1] - taps.offset[j]
        if several > 0:
            low, high = min(low, taps.start[j]), max(high, taps.start[j] + several - 1)
    begin = max(min(low if high >= 0 else 0, room - LANES), 0)
    return begin, min(max(high + 1, begin + LANES), room)


@inline
def _sum_plane_rows(source, target, real, part_of, level, y, x):
    """The rows `part_of` (first, end, image) of the planes of a result. Sums of nothing are 0."""
    first, end, image = part_of
    planes, h, w, width = level.planes, level.height, level.width, level.columns
    begin, stop = _hull(x, width)
    count, blocks = stop - begin, _run_blocks(x, begin, real)
    few, few_out, out = numbers(ROWS * LANES, real), integers(ROWS), integers(ROWS)
    stride = count + WINDOW
    lines = zeros(ROWS * stride, real)
    plane, i = first // h, first % h
    for r in range(first, end, ROWS):
        for k in range(ROWS):
            at = ((image * planes + plane) * level.rows + y.start[i]) * width + begin
            several = y.offset[i + 1] - y.offset[i]
            few_out[k] = k * LANES
            sum_rows(source, at, width, y.weight, y.offset[i], several, lines, k * stride, count)
            out[k] = (image * planes * h + min(r + k, planes * h - 1)) * w
            plane, i = next_row(plane, i, planes, h)
        if w >= LANES:
            _sum_blocks(lines, stride, blocks, target, out)
        else:
            _sum_blocks(lines, stride, blocks, few, few_out)
            for k in range(ROWS * w):
                store(few[k // w * LANES + k % w], target, out[k // w] + k % w)


@parallel
def adjoint_planes(table, windows, extents, like, real, part, parts):
    """The adjoint for planes of gradients of at least eight columns: sums of rows, then sums of their values."""
    for number in range(len(table)):
        level = table[number]
        source, target = pointer(level.source, like), pointer(level.target, like)
        units = (level.planes * level.height + LANES - 1) // LANES
        for image in range(level.images):
            lo, hi = share_of(image, level.images, units, part, parts)
            if lo == hi:
                continue
            y, x = runs_of(level, number, image, windows, extents, True, real)
            part_of = (lo * LANES, min(hi * LANES, level.planes * level.height), image)
            _sum_plane_rows(source, target, real, part_of, level, y, x)
