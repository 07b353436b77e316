"""Products of pixels and matrices: the convolutions of `downsize`, forwards and backwards.

Maps lie as `[pixel][channel]`, output channels padded to whole vectors of 64 bytes. The inner loops keep several sums
in registers: a load of weights serves all of them, and a value of the map is broadcast as it is loaded.
"""

from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._vector import (
    copies,
    elements,
    full_like,
    full_line,
    lane_numbers,
    load,
    load_as,
    select,
    store,
    transpose,
    tuple_setitem,
)

PIXELS = 6  # sums in registers; 12 of AVX2's 16 at most: with more they are spilled, with fewer latency shows


def width(real: np.ndarray) -> int:
    """Values of a vector, to a multiple of which output channels are padded."""
    return 64 // real.itemsize


class Pixels(NamedTuple):
    """Pixels of a row: pixel i lies at `at + places[i] * stride` of `memory`."""

    memory: Any
    at: Any
    stride: Any
    places: Any


class Matrix(NamedTuple):
    """`values[at:]` as a matrix of `width` columns, a multiple of a vector."""

    values: Any
    at: Any
    width: Any


@inline
def _add_products(sums, source, starts, channels, weight, at, width):
    """Adds to each sum the product of a pixel's channels, which begin at one of `starts`, and a matrix."""
    for c in range(channels):
        weights = load_as(weight, at + c * width, sums[0])
        for k in range(len(starts)):
            value = full_like(load(source, starts[k] + c, 1), weights)
            sums = tuple_setitem(sums, k, value * weights + sums[k])
    return sums


@inline
def _convolved(sums, source, rows, across, starts, stride, channels, weight, at, width):
    """Adds the products of all pixels of a window."""
    for row in rows:
        for dx in range(across):
            pixels = starts
            for k in range(len(starts)):
                pixels = tuple_setitem(pixels, k, starts[k] + row + dx * stride)
            sums = _add_products(sums, source, pixels, channels, weight, at, width)
            at += channels * width
    return sums


@inline
def _store_sums(sums, relu, target, at, width):
    for k in range(len(sums)):
        value = sums[k]
        if relu:
            value = select(value < 0.0, 0.0, value)  # NaN stays
        store(value, target, at + k * width)


@inline
def _starts(places, j, stride):
    """Where the pixels of a tile begin."""
    a, b, c = load(places, j, 1), load(places, j + 1, 1), load(places, j + 2, 1)
    d, e, f = load(places, j + 3, 1), load(places, j + 4, 1), load(places, j + 5, 1)
    return a * stride, b * stride, c * stride, d * stride, e * stride, f * stride


@inline
def convolve(source, rows, across, places, stride, channels, matrix, bias, relu, target, at):
    """A convolution of one row of pixels, at any columns of the rows it reads.

    `target[at + j*width + f] = bias[f] + sum over y, dx, c of source[rows[y] + (places[j] + dx)*stride + c]
    matrix[(across*y + dx)*channels + c, f]`, rectified if `relu`.

    The rows, a tuple of where they begin in `source`, have `channels` >= 1 values every `stride`; padding is zeros in
    there. `places[j]` (int32) is the leftmost of the `across` pixels that output j reads. Rows may begin before
    `source` where all of `places` makes up for it. `bias` begins with `matrix.width` values.
    """
    weight, weight_at, columns = matrix
    source_, weight, target_ = elements(source), elements(weight), elements(target)
    left, count = elements(places), len(places)
    like = full_line(bias[0])
    for feature in range(0, columns, 64 // bias.itemsize):
        start = load_as(bias, feature, like)
        of_window = (stride, channels, weight, weight_at + feature, columns)
        if count < PIXELS:
            for j in range(count):
                starts = (load(left, j, 1) * stride,)
                sums = _convolved((start,), source_, rows, across, starts, *of_window)
                _store_sums(sums, relu, target_, at + j * columns + feature, columns)
        else:
            for tile in range((count + PIXELS - 1) // PIXELS):
                j = min(tile * PIXELS, count - PIXELS)
                starts = _starts(left, j, stride)
                sums = (start, start, start, start, start, start)
                sums = _convolved(sums, source_, rows, across, starts, *of_window)
                _store_sums(sums, relu, target_, at + j * columns + feature, columns)


@inline
def _add_outer_block(totals, first, a, at_a, step_a, a_places, g, at_g, step_g, g_places, pixels, sums, at):
    like = totals[0]
    for k in range(len(totals)):
        totals = tuple_setitem(totals, k, load_as(sums, at + (first + k) * step_g, like))
    for i in range(pixels):
        factor = load_as(g, at_g + load(g_places, i, 1) * step_g, like)
        start = at_a + load(a_places, i, 1) * step_a + first
        for k in range(len(totals)):
            value = full_like(load(a, start + k, 1), like)
            totals = tuple_setitem(totals, k, value * factor + totals[k])
    for k in range(len(totals)):
        store(totals[k], sums, at + (first + k) * step_g)


@inline
def add_outer_products(a, count, g, sums, at):
    """Outer products of the pixels of two rows, summed: `sums[at + j*step + f] += sum over i of a_i[j] g_i[f]`, j in 0
    .. count, f in 0 .. step, which is `g.stride`. Pixels are added in order.
    """
    pixels, step, values = len(a.places), g.stride, elements(g.memory)
    zero = full_line(sums.dtype.type(0))
    of_a = (elements(a.memory), a.at, a.stride, elements(a.places))
    for feature in range(0, step, 64 // sums.itemsize):
        others = (*of_a, values, g.at + feature, step, elements(g.places), pixels, elements(sums), at + feature)
        first = 0
        while first + PIXELS <= count:
            _add_outer_block((zero, zero, zero, zero, zero, zero), first, *others)
            first += PIXELS
        while first < count:
            _add_outer_block((zero,), first, *others)
            first += 1


@inline
def add_pixels(source, at, values, target):
    """Adds to pixel j of `target` the values `source[at + j*values:]`, pixel after pixel, so that places may repeat or
    overlap."""
    zero = full_line(source.dtype.type(0))
    from_, to, places = elements(source), elements(target.memory), elements(target.places)
    for j in range(len(target.places)):
        first, end = at + j * values, target.at + load(places, j, 1) * target.stride
        for feature in range(0, values, 64 // source.itemsize):
            total = load_as(to, end + feature, zero) + load_as(from_, first + feature, zero)
            store(total, to, end + feature)


@inline
def pass_positive(source, at_source, activation, target, at_target):
    """The gradient through a ReLU: pixel j of `source`, of those side by side from `at_source` on, becomes that of
    `target` where `activation` is above 0 or NaN, 0 elsewhere. `target` has the places of `activation`, from
    `at_target` on."""
    zero, values = full_line(source.dtype.type(0)), activation.stride
    from_, to = elements(source), elements(target)
    by, places = elements(activation.memory), elements(activation.places)
    for j in range(len(activation.places)):
        first, place = at_source + j * values, load(places, j, 1) * values
        for feature in range(0, values, 64 // source.itemsize):
            value = load_as(from_, first + feature, zero)
            is_off = load_as(by, activation.at + place + feature, zero) <= 0.0
            store(select(is_off, 0.0, value), to, at_target + place + feature)


@inline
def add_texture(features, count, channels, stride, texture, scores, step):
    """`scores[k*step + j] += sum over c of texture[k*stride + c] features[j*stride + c]` for c in 0 .. channels and j
    in 0 .. count, rounded up to whole vectors."""
    lanes, zero = 64 // scores.itemsize, full_line(scores.dtype.type(0))
    numbers = lane_numbers(zero)
    source, weights, totals = elements(features), elements(texture), elements(scores)
    taps = len(texture) // stride
    for first in range(0, count, lanes):
        for feature in range(0, stride, lanes):
            # Channels of the padding can be NaN where the layer before is infinite.
            real = numbers < scores.dtype.type(channels - feature)
            rows = copies(zero)
            for i in range(len(rows)):
                row = load_as(source, (first + i) * stride + feature, zero)
                rows = tuple_setitem(rows, i, select(real, row, zero))
            values = transpose(rows)
            for k in range(taps):
                total = load_as(totals, k * step + first, zero)
                for i in range(len(values)):
                    total = values[i] * full_like(load(weights, k * stride + feature + i, 1), zero) + total
                store(total, totals, k * step + first)
