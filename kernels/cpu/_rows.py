"""The work on whole rows: weighted sums of them, and eight at a time, interleaved as `[column][8]`, by which a gather
along the rows becomes loads of whole vectors."""

from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._vector import (
    copies,
    full,
    load,
    load_as,
    prefetch,
    prefetch_to_write,
    store,
    transpose,
    tuple_setitem,
    zero_of,
)

LANES = 8
PIXEL = 4
"""Lanes of a vector that is a pixel."""
_TOGETHER = 4 * LANES  # values that share a weight


@inline
def eight(array, at):
    """Eight values of an array, from `at` on."""
    a, b, c, d = load(array, at, 1), load(array, at + 1, 1), load(array, at + 2, 1), load(array, at + 3, 1)
    return a, b, c, d, load(array, at + 4, 1), load(array, at + 5, 1), load(array, at + 6, 1), load(array, at + 7, 1)


@inline
def _store_turned(rows, target, at):
    """Writes eight rows of eight values column by column."""
    columns = transpose(rows)
    for k in range(LANES):
        store(columns[k], target, at + k * LANES)


@inline
def blend_rows(source, upper, lower, w_upper, w_lower, first, count, target, ahead):
    """Vertical step of two taps: eight rows of `count` >= 8 values are blended and interleaved.

    `target[i*8 + k] = w_upper[k] source[upper[k] + first + i] + w_lower[k] source[lower[k] + first + i]`
    What lies `ahead` values further on is prefetched.
    """
    rows = copies(full(zero_of(w_upper), LANES))
    for n in range((count + LANES - 1) // LANES):
        i = min(n * LANES, count - LANES)  # the last block may overlap the one before
        for k in range(LANES):
            a, b = load(upper, k, 1) + first + i, load(lower, k, 1) + first + i
            prefetch(source, a + ahead)
            prefetch(source, b + ahead)
            w_a, w_b = load(w_upper, k, 1), load(w_lower, k, 1)
            above, below = load_as(source, a, rows[0]) * w_a, load_as(source, b, rows[0]) * w_b
            rows = tuple_setitem(rows, k, above + below)
        _store_turned(rows, target, i * LANES)


@inline
def interleave_rows(source, first, stride, count, target, like):
    """`target[i*8 + k] = source[first + k*stride + i]` for eight rows of `count` >= 8 values, as vectors of the type of
    `like`."""
    rows = copies(like)
    for n in range((count + LANES - 1) // LANES):
        i = min(n * LANES, count - LANES)
        for k in range(LANES):
            rows = tuple_setitem(rows, k, load_as(source, first + k * stride + i, like))
        _store_turned(rows, target, i * LANES)


@inline
def store_rows(source, index, count, scale, bias, target, offsets, column, ahead):
    """Back to eight rows: `target[offsets[k] + column + i] = scale source[index + i*8 + k] + bias`, i in 0 .. count
    >= 8."""
    columns = copies(full(zero_of(source), LANES))
    for n in range((count + LANES - 1) // LANES):
        i = min(n * LANES, count - LANES)
        for k in range(LANES):
            columns = tuple_setitem(columns, k, load(source, index + (i + k) * LANES, LANES))
        rows = transpose(columns)
        for k in range(LANES):
            at = load(offsets, k, 1) + column + i
            prefetch_to_write(target, at + ahead)
            store(rows[k] * scale + bias, target, at)


@inline
def sum_rows(source, start, stride, weight, first, rows, target, at, count):
    """`target[at + i] = sum over r of weight[first + r] source[start + r*stride + i]`, r in 0 .. rows, i in 0 .. count
    >= 8."""
    zero = full(zero_of(weight), LANES)
    done = count // _TOGETHER * _TOGETHER
    for i in range(0, done, _TOGETHER):
        a, b, c, d = zero, zero, zero, zero
        for r in range(rows):
            w, begin = load(weight, first + r, 1), start + r * stride + i
            a = a + load_as(source, begin, zero) * w
            b = b + load_as(source, begin + LANES, zero) * w
            c = c + load_as(source, begin + 2 * LANES, zero) * w
            d = d + load_as(source, begin + 3 * LANES, zero) * w
        store(a, target, at + i)
        store(b, target, at + i + LANES)
        store(c, target, at + i + 2 * LANES)
        store(d, target, at + i + 3 * LANES)
    for n in range((count - done + LANES - 1) // LANES):
        i, total = min(done + n * LANES, count - LANES), zero
        for r in range(rows):
            total = total + load_as(source, start + r * stride + i, zero) * load(weight, first + r, 1)
        store(total, target, at + i)
