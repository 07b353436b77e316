"""Coefficients of the taps from their z (DownsizeNet eq. 1) and back, a vector of targets at a time; and vectors of
pixels as the image has them.

Values of targets lie as `[tap][target]`, a tap every `step` values. All memory is pointers.
"""

import math

from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._vector import (
    convert,
    count_lanes,
    exponential,
    full,
    full_line,
    join,
    load,
    load_as,
    pack,
    select,
    shuffle,
    store,
    widen,
    zero_line,
)

PAIRS = 8  # targets at a time
_SINGLE = 16  # lanes of a vector of float32 numbers

_first_of_pairs = shuffle(0, 2, 8, 10, 4, 6, 12, 14)
_second_of_pairs = shuffle(1, 3, 9, 11, 5, 7, 13, 15)


@inline
def _sigmoid(z, most, single):
    """sigma(z) / e**most, most <= 0."""
    is_positive = z > 0.0
    below, above = select(is_positive, 0.0, z), select(is_positive, -z, z)
    return exponential(below - most, single) / (1.0 + exponential(above, single))


@inline
def coefficients(values, step, taps, count, sigmoid):
    """`values[k*step + i]` = z_k of target i becomes its coefficient (DownsizeNet eq. 1) for i in 0 .. count, rounded
    up to whole vectors. z of -inf is 0 unless all are: then, as for NaN, all are NaN.

    `sigmoid`: `sigma(z_k) / sum_j sigma(z_j)`, never 0/0; otherwise the softmax.
    """
    zero = zero_line(values)
    lanes, single = count_lanes(zero), count_lanes(zero) == _SINGLE
    for first in range(0, count, lanes):
        most = full_line(convert(-math.inf, zero))
        for k in range(taps):
            z = load_as(values, k * step + first, zero)
            most = select(z > most, z, most)
        if sigmoid:
            most = select(most < 0.0, most, 0.0)
        total = zero
        for k in range(taps):
            z = load_as(values, k * step + first, zero)
            s = _sigmoid(z, most, single) if sigmoid else exponential(z - most, single)
            store(s, values, k * step + first)
            total = total + s
        for k in range(taps):
            store(load_as(values, k * step + first, zero) / total, values, k * step + first)


@inline
def coefficients_gradient(z, values, grads, step, taps, count, sigmoid):
    """`grads[k*step + i]`, the gradient to coefficient k of target i, becomes that to z_k, for i in 0 .. count, rounded
    up to whole vectors.

    `z` and `values`, the coefficients, lie likewise. With a_k = s_k / sum_j s_j and ds_k/dz_k = s_k slope_k it is
    `a_k slope_k (grad_k - sum_j a_j grad_j)`; slope is sigma(-z_k) for `sigmoid` and 1 for the softmax.
    """
    zero = zero_line(values)
    lanes, single = count_lanes(zero), count_lanes(zero) == _SINGLE
    for first in range(0, count, lanes):
        total = zero
        for k in range(taps):
            at = k * step + first
            total = load_as(values, at, zero) * load_as(grads, at, zero) + total
        for k in range(taps):
            at = k * step + first
            result = load_as(values, at, zero) * (load_as(grads, at, zero) - total)
            if sigmoid:
                x = load_as(z, at, zero)
                is_positive = x > 0.0
                e = exponential(select(is_positive, -x, x), single)
                result = result * (select(is_positive, e, 1.0) / (1.0 + e))
            store(result, grads, at)


@inline
def _pairs(source, base, left, at):
    """`source[base + l]` and the value after it, for l of `left[at]` and, side by side, of `left[at + 1]`."""
    return join(load(source, base + left[at], 2), load(source, base + left[at + 1], 2))


@inline
def add_pairs(source, base, left, begin, weights, first, second, count, line):
    """`line[i] += weights[first + i] source[base + l] + weights[second + i] source[base + l + 1]`, l = left[begin + i],
    for i in 0 .. count, rounded up to whole vectors: so many of `left` are read too."""
    zero = full(convert(0, line[0]), PAIRS)
    for i in range(0, count, PAIRS):
        at = begin + i
        # In this order the shuffles stay within the 128-bit halves of vectors.
        low = widen(join(_pairs(source, base, left, at), _pairs(source, base, left, at + 4)), zero)
        high = widen(join(_pairs(source, base, left, at + 2), _pairs(source, base, left, at + 6)), zero)
        total = load_as(line, i, zero)
        total = _first_of_pairs(low, high) * load_as(weights, first + i, zero) + total
        total = _second_of_pairs(low, high) * load_as(weights, second + i, zero) + total
        store(total, line, i)


@inline
def interleave(source, base, stride, columns, normal, line, at):
    """`line[at + j*C + c] = (source[base + c*stride + columns[j]] - mean[c]) scale[c]` for C in 2 .. 4.

    A vector of 4 is stored for each pixel, in their order: up to a pixel behind the last one is overwritten.
    """
    mean, scale, channels = normal
    real = mean[0]
    # What has no channel is the last one, once more.
    third, last = min(2, channels - 1), channels - 1
    shift, factor = (
        pack((mean[0], mean[1], mean[third], mean[last])),
        pack((scale[0], scale[1], scale[third], scale[last])),
    )
    a, b, c, d = base, base + stride, base + third * stride, base + last * stride
    for j in range(columns.count):
        x = columns.numbers[j]
        first, second = load_as(source, a + x, real), load_as(source, b + x, real)
        pixel = pack((first, second, load_as(source, c + x, real), load_as(source, d + x, real)))
        store((pixel - shift) * factor, line, at + j * channels)
