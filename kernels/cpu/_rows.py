"""The work on whole rows: weighted sums of them, and eight at a time, interleaved as `[column][8]`, by which a gather
along the rows becomes loads of whole vectors."""

from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._vector import full, load, load_as, prefetch, prefetch_to_write, store, transpose, zero_of

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
def _blended(source, a, b, w_a, w_b, ahead):
    prefetch(source, a + ahead)
    prefetch(source, b + ahead)
    return load_as(source, a, w_a) * w_a + load_as(source, b, w_b) * w_b


@inline
def _load_eight(source, at, step):
    a, b, c = load(source, at, LANES), load(source, at + step, LANES), load(source, at + 2 * step, LANES)
    d, e, f = load(source, at + 3 * step, LANES), load(source, at + 4 * step, LANES), load(source, at + 5 * step, LANES)
    return a, b, c, d, e, f, load(source, at + 6 * step, LANES), load(source, at + 7 * step, LANES)


@inline
def _store_eight(rows, target, at):
    store(rows[0], target, at)
    store(rows[1], target, at + LANES)
    store(rows[2], target, at + 2 * LANES)
    store(rows[3], target, at + 3 * LANES)
    store(rows[4], target, at + 4 * LANES)
    store(rows[5], target, at + 5 * LANES)
    store(rows[6], target, at + 6 * LANES)
    store(rows[7], target, at + 7 * LANES)


@inline
def _wide(weights):
    a, b, c, d, e, f, g, h = weights
    first = full(a, LANES), full(b, LANES), full(c, LANES), full(d, LANES)
    return first[0], first[1], first[2], first[3], full(e, LANES), full(f, LANES), full(g, LANES), full(h, LANES)


@inline
def blend_rows(source, upper, lower, w_upper, w_lower, first, count, target, ahead):
    """Vertical step of two taps: eight rows of `count` >= 8 values are blended and interleaved.

    `target[i*8 + k] = w_upper[k] source[upper[k] + first + i] + w_lower[k] source[lower[k] + first + i]`
    What lies `ahead` values further on is prefetched.
    """
    a, b = eight(upper, 0), eight(lower, 0)
    v, w = _wide(eight(w_upper, 0)), _wide(eight(w_lower, 0))
    for n in range((count + LANES - 1) // LANES):
        i = min(n * LANES, count - LANES)  # the last block may overlap the one before
        at = first + i
        rows = (
            _blended(source, a[0] + at, b[0] + at, v[0], w[0], ahead),
            _blended(source, a[1] + at, b[1] + at, v[1], w[1], ahead),
            _blended(source, a[2] + at, b[2] + at, v[2], w[2], ahead),
            _blended(source, a[3] + at, b[3] + at, v[3], w[3], ahead),
            _blended(source, a[4] + at, b[4] + at, v[4], w[4], ahead),
            _blended(source, a[5] + at, b[5] + at, v[5], w[5], ahead),
            _blended(source, a[6] + at, b[6] + at, v[6], w[6], ahead),
            _blended(source, a[7] + at, b[7] + at, v[7], w[7], ahead),
        )
        _store_eight(transpose(rows), target, i * LANES)


@inline
def interleave_rows(source, stride, count, target):
    """`target[i*8 + k] = source[k*stride + i]` for eight rows of `count` >= 8 values, both of the real type."""
    for n in range((count + LANES - 1) // LANES):
        i = min(n * LANES, count - LANES)
        _store_eight(transpose(_load_eight(source, i, stride)), target, i * LANES)


@inline
def interleave_stored(source, first, stride, count, target, like):
    """As `interleave_rows`, for values from `source[first]` on that are stored in any type."""
    for n in range((count + LANES - 1) // LANES):
        i = min(n * LANES, count - LANES)
        a, b = first + i, first + i + 4 * stride
        rows = (
            load_as(source, a, like),
            load_as(source, a + stride, like),
            load_as(source, a + 2 * stride, like),
            load_as(source, a + 3 * stride, like),
            load_as(source, b, like),
            load_as(source, b + stride, like),
            load_as(source, b + 2 * stride, like),
            load_as(source, b + 3 * stride, like),
        )
        _store_eight(transpose(rows), target, i * LANES)


@inline
def _store_scaled(row, scale, bias, target, at, ahead):
    prefetch_to_write(target, at + ahead)
    store(row * scale + bias, target, at)


@inline
def store_rows(source, index, count, scale, bias, target, offsets, column, ahead):
    """Back to eight rows: `target[offsets[k] + column + i] = scale source[index + i*8 + k] + bias`, i in 0 .. count
    >= 8."""
    starts = eight(offsets, 0)
    for n in range((count + LANES - 1) // LANES):
        i = min(n * LANES, count - LANES)
        rows, at = transpose(_load_eight(source, index + i * LANES, LANES)), column + i
        _store_scaled(rows[0], scale, bias, target, starts[0] + at, ahead)
        _store_scaled(rows[1], scale, bias, target, starts[1] + at, ahead)
        _store_scaled(rows[2], scale, bias, target, starts[2] + at, ahead)
        _store_scaled(rows[3], scale, bias, target, starts[3] + at, ahead)
        _store_scaled(rows[4], scale, bias, target, starts[4] + at, ahead)
        _store_scaled(rows[5], scale, bias, target, starts[5] + at, ahead)
        _store_scaled(rows[6], scale, bias, target, starts[6] + at, ahead)
        _store_scaled(rows[7], scale, bias, target, starts[7] + at, ahead)


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
