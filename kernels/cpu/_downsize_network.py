"""The network of `downsize` as the kernels read it: its weights, those of its gradient, and the sums of weights'
gradients; and the products that it is made of."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fastwarp.kernels.cpu._memory import array
from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._vector import (
    convert,
    copies,
    count_lanes,
    elements,
    full_like,
    lane_numbers,
    load_as,
    select,
    store,
    transpose,
    tuple_setitem,
    zero_line,
)

SIGMOID, SOFTMAX, SIGNED = range(3)


WHOLE = 16
"""Values of a vector, at most."""


@inline
def whole_vectors(count):
    """So many values or more, to whole vectors."""
    return (count + WHOLE - 1) // WHOLE * WHOLE


class Network(NamedTuple):
    """What `packed` made, as pointers, with the number of layers and of taps."""

    widths: Any
    strides: Any
    weight: Any
    bias: Any
    weight_at: Any
    bias_at: Any
    texture: Any
    layers: Any
    taps: Any


class Normal(NamedTuple):
    """Of the image's channels: what is subtracted and multiplied before the convolutions, and how many there are."""

    mean: Any
    scale: Any
    channels: Any


@inline
def network(arrays, taps):
    """The `Network` of what `packed` made."""
    widths, strides, weight, bias, weight_at, bias_at, texture = arrays
    counts = (elements(widths), elements(strides))
    values = (elements(weight), elements(bias), elements(weight_at), elements(bias_at), elements(texture))
    return Network(*counts, *values, len(widths) - 1, taps)


@inline
def normal(statistics):
    """The `Normal` of arrays of mean and scale."""
    mean, scale = statistics
    return Normal(elements(mean), elements(scale), len(mean))


def vector_width(real: np.ndarray) -> int:
    """Values of a vector, to a multiple of which output channels are padded."""
    return 64 // real.itemsize


def packed(
    weights: list[Tensor], biases: list[Tensor], texture: Tensor, channels: int, real: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The network's arrays: output channels last, and padded to whole vectors.

    Returns:
        Channels of each layer, the image's first; values from pixel to pixel of each layer; weights
        `[3, 3, F_(l-1), F_l]` of all layers, one after the other; their biases; where those of layer l begin, twice;
        the texture's weights `[K, F_L]`.
    """
    lanes = vector_width(real)
    widths = np.array([channels, *(len(b) for b in biases)], np.int64)
    strides = -(-widths // lanes) * lanes
    strides[0] = channels
    before = [9 * a * b for a, b in zip(widths, strides[1:], strict=False)]
    weight_at = np.array([0, 0, *np.cumsum(before)], np.int64)
    bias_at = np.array([0, 0, *np.cumsum(strides[1:])], np.int64)
    all_weights, all_biases = np.zeros(weight_at[-1], real.dtype), np.zeros(bias_at[-1], real.dtype)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True), 1):
        place = all_weights[weight_at[layer] : weight_at[layer + 1]].reshape(3, 3, -1, strides[layer])
        place[..., : len(bias)] = array(weight).transpose(2, 3, 1, 0)
        all_biases[bias_at[layer] :][: len(bias)] = array(bias)
    by_texture = np.zeros((len(texture), strides[-1]), real.dtype)
    by_texture[:, : texture.shape[1]] = array(texture)
    return widths, strides, all_weights, all_biases, weight_at, bias_at, by_texture.reshape(-1)


def transposed_weights(weights: list[Tensor], real: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """What takes the gradient of a layer's map to that of the layer before.

    The last layer's weights become `[3, F_L, 3, F_(L-1)]`: an anchor scatters to its neighbours. Those between are a
    convolution's, turned around. So are the first one's, unless `[3, F_1, 3 C]` are fewer: products of one column for
    the left, middle and right pixel. The last axis is padded to whole vectors.

    Returns:
        All of them; where those of layer l begin; columns of the first layer's, 3 or 1.
    """
    lanes, layers = vector_width(real), len(weights)
    parts, at, across = [np.zeros(0, real.dtype)], [0, 0], 3
    for layer, weight in enumerate(weights, 1):
        w = array(weight).astype(real.dtype)
        features, channels = w.shape[:2]
        before = -(-channels // lanes) * lanes
        if layer == 1 and -(-3 * channels // lanes) * lanes < 3 * before:
            w, across = w[:, :, ::-1, ::-1].transpose(2, 0, 3, 1).reshape(3, features, -1), 1
            packed = np.zeros((3, features, -(-3 * channels // lanes) * lanes), real.dtype)
        elif 1 < layer == layers:
            w = w.transpose(2, 0, 3, 1)
            packed = np.zeros((3, features, 3, before), real.dtype)
        else:
            w = w[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
            packed = np.zeros((3, 3, features, before), real.dtype)
        packed[..., : w.shape[-1]] = w
        parts.append(packed.reshape(-1))
        at.append(at[-1] + packed.size)
    return np.concatenate(parts), np.array(at, np.int64), across


def places_of_sums(strides: np.ndarray, taps: int) -> np.ndarray:
    """Where the sums of layer l begin: weights `[3, 3, F_(l-1), F_l]`, then biases; then `[K, F_L]`, then the end."""
    sizes = [(9 * a + 1) * b for a, b in pairwise(strides)]
    texture = taps * strides[-1] if sizes else 0
    return np.cumsum([0, 0, *sizes, texture]).astype(np.int64)


def unpacked(sums: np.ndarray, at: np.ndarray, strides: np.ndarray, widths: np.ndarray) -> list[np.ndarray]:
    """Gradients of weights, biases and texture from their sums."""
    weights, biases = [], []
    for layer in range(1, len(widths)):
        before, after = int(strides[layer - 1]), int(strides[layer])
        both = sums[at[layer] : at[layer + 1]]
        w = both[:-after].reshape(3, 3, before, after)[:, :, : widths[layer - 1], : widths[layer]]
        weights.append(w.transpose(3, 2, 0, 1))
        biases.append(both[-after:][: widths[layer]])
    return [*weights, *biases]


# --- products of pixels and matrices: the convolutions, forwards and backwards ----------------------------------------
# Maps lie as `[pixel][channel]`, output channels padded to whole vectors of 64 bytes. The inner loops keep several sums
# in registers: a load of weights serves all of them, and a value of the map is broadcast as it is loaded. All memory is
# pointers.

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
