"""Products of pixels and matrices: the convolutions of `downsize`, forwards and backwards.

Maps lie as `[pixel][channel]`, output channels padded to whole vectors of 64 bytes. The inner loops keep several sums
in registers: a load of weights serves all of them, and a value of the map is broadcast as it is loaded. All memory is
pointers.
"""

from typing import Any, NamedTuple

from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._vector import (
    convert,
    copies,
    count_lanes,
    full_like,
    lane_numbers,
    load_as,
    select,
    store,
    transpose,
    tuple_setitem,
    zero_line,
)

PIXELS = 6  # sums in registers; 12 of AVX2's 16 at most: with more they are spilled, with fewer latency shows


class Places(NamedTuple):
    """`count` pixels of a row by their numbers, int32."""

    numbers: Any
    count: Any


class Pixels(NamedTuple):
    """Pixels of a row: pixel i lies at `at + places.numbers[i] * stride` of `memory`."""

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
            value = full_like(source[starts[k] + c], weights)
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
def _starts(numbers, j, stride):
    """Where the pixels of a tile begin."""
    a, b, c = numbers[j] * stride, numbers[j + 1] * stride, numbers[j + 2] * stride
    return a, b, c, numbers[j + 3] * stride, numbers[j + 4] * stride, numbers[j + 5] * stride


@inline
def convolve(source, rows, across, places, stride, channels, matrix, bias, relu, target, at):
    """A convolution of one row of pixels, at any columns of the rows it reads.

    `target[at + j*width + f] = bias[f] + sum over y, dx, c of source[rows[y] + (places[j] + dx)*stride + c]
    matrix[(across*y + dx)*channels + c, f]`, rectified if `relu`.

    The rows, a tuple of where they begin in `source`, have `channels` >= 1 values every `stride`; padding is zeros in
    there. `places` has the leftmost of the `across` pixels that each output reads. Rows may begin before `source` where
    all of `places` makes up for it. `bias` begins with `matrix.width` values.
    """
    weight, weight_at, columns = matrix
    left, count = places
    like = zero_line(bias)
    for feature in range(0, columns, count_lanes(like)):
        start = load_as(bias, feature, like)
        of_window = (stride, channels, weight, weight_at + feature, columns)
        if count < PIXELS:
            for j in range(count):
                sums = _convolved((start,), source, rows, across, (left[j] * stride,), *of_window)
                _store_sums(sums, relu, target, at + j * columns + feature, columns)
        else:
            for tile in range((count + PIXELS - 1) // PIXELS):
                j = min(tile * PIXELS, count - PIXELS)
                sums = (start, start, start, start, start, start)
                sums = _convolved(sums, source, rows, across, _starts(left, j, stride), *of_window)
                _store_sums(sums, relu, target, at + j * columns + feature, columns)


@inline
def _add_outer_block(totals, first, a, g, sums, at):
    """Rows first .. first + len(totals) of the outer products, of one vector of columns."""
    like = totals[0]
    memory_a, step_a, numbers_a = a.memory, a.stride, a.places.numbers
    memory_g, step_g, numbers_g = g.memory, g.stride, g.places.numbers
    for k in range(len(totals)):
        totals = tuple_setitem(totals, k, load_as(sums, at + (first + k) * step_g, like))
    for i in range(a.places.count):
        factor = load_as(memory_g, g.at + numbers_g[i] * step_g, like)
        start = a.at + numbers_a[i] * step_a + first
        for k in range(len(totals)):
            totals = tuple_setitem(totals, k, full_like(memory_a[start + k], like) * factor + totals[k])
    for k in range(len(totals)):
        store(totals[k], sums, at + (first + k) * step_g)


@inline
def add_outer_products(a, count, g, sums, at):
    """Outer products of the pixels of two rows, summed: `sums[at + j*step + f] += sum over i of a_i[j] g_i[f]`, j in 0
    .. count, f in 0 .. step, which is `g.stride`. Pixels are added in order.
    """
    zero = zero_line(sums)
    for feature in range(0, g.stride, count_lanes(zero)):
        column = Pixels(g.memory, g.at + feature, g.stride, g.places)
        first = 0
        while first + PIXELS <= count:
            _add_outer_block((zero, zero, zero, zero, zero, zero), first, a, column, sums, at + feature)
            first += PIXELS
        while first < count:
            _add_outer_block((zero,), first, a, column, sums, at + feature)
            first += 1


@inline
def add_pixels(source, at, values, target):
    """Adds to pixel j of `target` the values `source[at + j*values:]`, pixel after pixel, so that places may repeat or
    overlap."""
    zero = zero_line(source)
    numbers, count = target.places
    for j in range(count):
        first, end = at + j * values, target.at + numbers[j] * target.stride
        for feature in range(0, values, count_lanes(zero)):
            total = load_as(target.memory, end + feature, zero) + load_as(source, first + feature, zero)
            store(total, target.memory, end + feature)


@inline
def pass_positive(source, at_source, activation, target, at_target):
    """The gradient through a ReLU: pixel j of `source`, of those side by side from `at_source` on, becomes that of
    `target` where `activation` is above 0 or NaN, 0 elsewhere. `target` has the places of `activation`, from
    `at_target` on."""
    zero, values = zero_line(source), activation.stride
    numbers, count = activation.places
    for j in range(count):
        first, place = at_source + j * values, numbers[j] * values
        for feature in range(0, values, count_lanes(zero)):
            value = load_as(source, first + feature, zero)
            is_off = load_as(activation.memory, activation.at + place + feature, zero) <= 0.0
            store(select(is_off, 0.0, value), target, at_target + place + feature)


@inline
def add_texture(features, count, net, scores, step):
    """`scores[k*step + j] += sum over c of texture[k*stride + c] features[j*stride + c]` for c in 0 .. channels and j
    in 0 .. count, rounded up to whole vectors; stride and channels are those of the last layer of `net`."""
    zero, weights = zero_line(scores), net.texture
    lanes, numbers = count_lanes(zero), lane_numbers(zero)
    channels, stride = net.widths[net.layers], net.strides[net.layers]
    for first in range(0, count, lanes):
        for feature in range(0, stride, lanes):
            # Channels of the padding can be NaN where the layer before is infinite.
            real = numbers < convert(channels - feature, zero)
            rows = copies(zero)
            for i in range(len(rows)):
                row = load_as(features, (first + i) * stride + feature, zero)
                rows = tuple_setitem(rows, i, select(real, row, zero))
            values = transpose(rows)
            for k in range(net.taps):
                total = load_as(scores, k * step + first, zero)
                for i in range(len(values)):
                    total = values[i] * full_like(weights[k * stride + feature + i], zero) + total
                store(total, scores, k * step + first)
