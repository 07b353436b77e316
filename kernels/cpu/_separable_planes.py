"""Resampling of planes, images of one channel: eight neighbouring targets at a time, of four rows together.

Where the taps of eight targets lie within `WINDOW` pixels, that window of the source is loaded as vectors, and the taps
are picked from registers. Elsewhere they are loaded one by one, or in pairs.
"""

from typing import Any, NamedTuple

from fastwarp.kernels.cpu._memory import clear, integers, numbers, small_integers, zeros
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._rows import LANES, eight, sum_rows
from fastwarp.kernels.cpu._separable_taps import hull, make_rows, next_row, pairs_of, runs_of
from fastwarp.kernels.cpu._vector import (
    elements,
    full,
    gather,
    hold,
    join,
    load,
    load_as,
    pick,
    prefetch,
    select,
    shuffle,
    store,
    tail,
    widen,
    zero_of,
)

WINDOW = 2 * LANES
ROWS = 4  # made together: what a block needs to know is loaded once for them
_SHORT = 512  # values of a row, up to there the processor fetches the next ones in time

_evens = shuffle(0, 2, 4, 6, 8, 10, 12, 14)
_odds = shuffle(1, 3, 5, 7, 9, 11, 13, 15)


@inline
def _four(array):
    return load(array, 0, 1), load(array, 1, 1), load(array, 2, 1), load(array, 3, 1)


class Blocks(NamedTuple):
    """Targets of a row in blocks of eight; the last overlaps the one before, or repeats the last target where there are
    fewer than eight.

    `place`: for each block its first target, and where its window begins, or -1 where there is none. `taps`: for each
    target its first tap, and its two taps in the window, if they are there, `[block][3][8]`; `weights`: theirs,
    `[block][2][8]`.
    """

    place: Any
    taps: Any
    weights: Any
    count: Any
    memory: Any


@inline
def _pair_blocks(x, real):
    """The `Blocks` of a row of targets."""
    w = x.count
    count = (w + LANES - 1) // LANES
    places, where, parts = integers(2 * count), small_integers(3 * LANES * count), numbers(2 * LANES * count, real)
    place, taps, weights = elements(places), elements(where), elements(parts)
    for n in range(count):
        at = max(min(n * LANES, w - LANES), 0)
        low, high, t = 1 << 62, -1, 3 * LANES * n
        for k in range(LANES):
            j = min(at + k, w - 1)
            weights[2 * LANES * n + k], weights[2 * LANES * n + LANES + k] = x.w_first[j], x.w_second[j]
            taps[t + k] = max(x.first[j], 0)
            if x.first[j] >= 0:
                low, high = min(low, x.first[j]), max(high, x.second[j])
        low = min(low, max(high, 0))
        place[2 * n], place[2 * n + 1] = at, low if high - low < WINDOW else -1
        for k in range(LANES):
            j = min(at + k, w - 1)
            taps[t + LANES + k], taps[t + 2 * LANES + k] = x.first[j] - low, x.second[j] - low
    return Blocks(place, taps, weights, count, (places, where, parts))


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
    place, where, weights = blocks.place, blocks.taps, blocks.weights
    affine = full(scale, LANES), full(bias, LANES)
    # A window near the end of the source would leave it.
    reach = length - max(max(b[0], b[1]), max(b[2], b[3])) - WINDOW
    for n in range(blocks.count):
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
            x = eight(where, first)
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
def _complete_rows(few, zero, target, out, empty_rows, x):
    """Brings narrow rows to their places; what reads nothing, `empty_rows` or columns, becomes 0."""
    for k in range(ROWS):
        for j in range(x.count):
            if empty_rows[k] or x.first[j] < 0:
                store(zero, target, out[k] + j)
            elif x.count < LANES:
                store(few[k * LANES + j], target, out[k] + j)


@inline
def _blend_plane_rows(source, target, real, rows, level, y, x, affine):
    first, end, image = rows
    height, width, planes, h, w = level.height, level.width, level.planes, level.rows, level.columns
    length = level.images * planes * height * width
    blocks, any_empty = _pair_blocks(x, real), False
    for j in range(w):
        any_empty |= x.first[j] < 0
    few, places = numbers(ROWS * LANES + 2 * ROWS, real), integers(5 * ROWS)
    upper, lower, out, few_out = elements(places), tail(places, ROWS), tail(places, 2 * ROWS), tail(places, 3 * ROWS)
    empty_rows, w_upper, w_lower = tail(places, 4 * ROWS), tail(few, ROWS * LANES), tail(few, ROWS * LANES + ROWS)
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
        of_rows = (upper, lower, w_upper, w_lower)
        if w >= LANES:
            _blend_blocks(source, length, of_rows, blocks, affine[0], affine[1], target, out, ahead)
        else:
            _blend_blocks(source, length, of_rows, blocks, affine[0], affine[1], elements(few), few_out, ahead)
        if some:
            _complete_rows(few, real[0], target, out, empty_rows, x)
    hold(few)
    hold(places)


@inline
def _blend_narrow_rows(source, target, real, rows, level, y, x, affine):
    """As `_blend_plane_rows` where all targets of a row read the same pixel: there is none beside it."""
    first, end, image = rows
    width, h, w = level.width, level.rows, level.columns
    for r in range(first, end):
        base, i, out = (image * level.planes + r // h) * level.height, r % h, (image * level.planes * h + r) * w
        for j in range(w):
            if y.first[i] < 0 or x.first[j] < 0:
                store(real[0], target, out + j)
                continue
            upper, lower = (base + y.first[i]) * width, (base + y.second[i]) * width
            pixel = load_as(source, upper, real[0]) * y.w_first[i] + load_as(source, lower, real[0]) * y.w_second[i]
            value = pixel * x.w_first[j] + pixel * x.w_second[j]
            store(value * affine[0] + affine[1], target, out + j)


@inline
def _blend_wide_or_narrow(source, target, real, rows, level, y, x, affine):
    pixels = 0
    for j in range(x.count):
        pixels = max(pixels, x.second[j] + 1)
    if pixels > 1:
        _blend_plane_rows(source, target, real, rows, level, y, x, affine)
    else:
        _blend_narrow_rows(source, target, real, rows, level, y, x, affine)


@parallel
def blend_planes(table, windows, extents, like, like_out, real, affine, part, parts):
    """Two taps along each axis. `affine` are scale and bias of the only channel, or None."""
    scale_and_bias = (real[1], real[0]) if affine is None else (affine[0][0], affine[1][0])
    make_rows(
        _blend_wide_or_narrow, pairs_of, table, windows, extents, like, like_out, real, scale_and_bias, part, parts
    )


# --- any number of taps -----------------------------------------------------------------------------------------------


class RunBlocks(NamedTuple):
    """As `Blocks`, for any number of taps. `first`: where the taps of a block begin in `taps` and `weights`: for each
    target its t-th tap, in the window or of all, `[t][8]`; its weight, 0 for a target without so many."""

    place: Any
    first: Any
    taps: Any
    weights: Any
    count: Any
    memory: Any


@inline
def _run_blocks(x, begin, real):
    """The `RunBlocks` of a row of targets, whose pixels are counted from `begin` on."""
    start, offset, w = x.start, x.offset, x.count
    count = (w + LANES - 1) // LANES
    places = integers(3 * count + 1)
    place, first = elements(places), tail(places, 2 * count)
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
    where, parts = small_integers(first[count] * LANES), zeros(first[count] * LANES, real)
    taps, weights = elements(where), elements(parts)
    clear(taps, first[count] * LANES)
    for n in range(count):
        for k in range(min(LANES, w)):
            j = place[2 * n] + k
            for t in range(offset[j + 1] - offset[j]):
                taps[(first[n] + t) * LANES + k] = start[j] - begin + t - max(place[2 * n + 1], 0)
                weights[(first[n] + t) * LANES + k] = x.weight[offset[j] + t]
    return RunBlocks(place, first, taps, weights, count, (places, where, parts))


@inline
def _sum_blocks(lines, stride, blocks, target, out):
    """`ROWS` rows of targets from as many lines, `stride` apart: sums of weights times taps."""
    zero = full(zero_of(lines), LANES)
    for n in range(blocks.count):
        at, start = load(blocks.place, 2 * n, 1), load(blocks.place, 2 * n + 1, 1)
        begin, end = load(blocks.first, n, 1), load(blocks.first, n + 1, 1)
        for r in range(ROWS):
            total, line = zero, max(start, 0) + r * stride
            low, high = load(lines, line, LANES), load(lines, line + LANES, LANES)
            for t in range(begin, end):
                taps, by = load(blocks.taps, t * LANES, LANES), load(blocks.weights, t * LANES, LANES)
                values = pick(low, high, taps) if start >= 0 else gather(lines, r * stride, taps)
                total = total + select(by != 0, values * by, 0)  # 0 where there is no weight, even of NaN
            store(total, target, load(out, r, 1) + at)


@inline
def _sum_plane_rows(source, target, real, rows, level, y, x, options):
    """Sums of rows, then sums of their values. Sums of nothing are 0."""
    first, end, image = rows
    planes, height, width, h, w = level.planes, level.height, level.width, level.rows, level.columns
    low, high = hull(x)
    begin = max(min(low, width - LANES), 0)
    count = min(max(high, begin + LANES), width) - begin
    blocks, stride = _run_blocks(x, begin, real), count + WINDOW
    memory, places = zeros(ROWS * (stride + LANES), real), integers(2 * ROWS)
    lines, few, out, few_out = elements(memory), tail(memory, ROWS * stride), elements(places), tail(places, ROWS)
    plane, i = first // h, first % h
    for r in range(first, end, ROWS):
        for k in range(ROWS):
            at = ((image * planes + plane) * height + y.start[i]) * width + begin
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
    hold(memory)
    hold(places)


@parallel
def adjoint_planes(table, windows, extents, like, real, part, parts):
    """The adjoint for planes of gradients of at least eight columns."""
    make_rows(_sum_plane_rows, runs_of, table, windows, extents, like, like, real, None, part, parts)
