"""Rows of a tile of `downsize` and of their gradients: the columns that each layer needs, rings of lines, and the steps
from one layer to the next and back.
"""

from typing import Any, NamedTuple

from fastwarp.kernels.cpu._downsize_gradient import first_from
from fastwarp.kernels.cpu._downsize_network import (
    Matrix,
    Pixels,
    Places,
    add_outer_products,
    add_pixels,
    convolve,
    pass_positive,
)
from fastwarp.kernels.cpu._memory import clear
from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._vector import load_as, store, tail

COUNTS = 5


class Wanted(NamedTuple):
    """Which gradients are wanted through the convolutions: to the image, to the parameters, to any of them; how far
    around a tile the gradient to the last layer is needed."""

    texture: Any
    parameters: Any
    any: Any
    halo: Any


class ImageTile(NamedTuple):
    """Its rows and columns `top .. bottom`, `begin .. end`; the column that is place 0 of its lines; the anchors' rows,
    increasing, and which of them count: `low .. high`; rows of the image."""

    top: Any
    bottom: Any
    begin: Any
    end: Any
    base: Any
    anchors: Any
    anchor_count: Any
    low: Any
    high: Any
    height: Any


class Lines(NamedTuple):
    """Rings of lines of activations and of gradients in `memory`. `rings` `[2][L + 1][3]`: where a ring begins, its
    lines, their length.

    Columns at which layer l is needed, as places in its lines, are `places[l * length:]`, their left neighbours
    `left[l * length:]`; `every` is 0, 1, 2, ... `counts` `[L + 1][5]`: the number of them; first and past the last that
    has a gradient; likewise that is the tile's own. `other` is room for a line of any kind, `one` is a single 1 and
    `none` are zeros.
    """

    memory: Any
    rings: Any
    places: Any
    left: Any
    every: Any
    counts: Any
    length: Any
    other: Any
    one: Any
    none: Any


class Back(NamedTuple):
    """What `transposed_weights` made: weights, where those of each layer begin, columns of the first one's."""

    weight: Any
    at: Any
    across: Any


class Sums(NamedTuple):
    """Of the gradients of the parameters: where each layer's begin, of a flush, of a tile, and how many there are."""

    at: Any
    recent: Any
    total: Any
    count: Any


# --- where a tile's layers and gradients are needed -------------------------------------------------------------------


@inline
def _near(anchors, count, low, high, y, distance):
    """Whether one of the anchors in low .. high is at most `distance` from y."""
    i = first_from(anchors, 1, count, max(low, y - distance))
    return i < count and anchors[i] < high and anchors[i] <= y + distance


@inline
def row_near(tile, y, distance):
    return _near(tile.anchors, tile.anchor_count, tile.low, tile.high, y, distance)


@inline
def halo_of(layer, to_texture, to_parameters):
    """How far around a tile the gradient to a layer is needed."""
    if to_texture:
        return layer
    return max(layer - 1, 0) if to_parameters else 0


@inline
def find_layer_columns(anchors, count, tile, wanted, width, layers, lines):
    """Fills `places`, `left` and `counts` for a tile."""
    low, high, base = tile.begin - wanted.halo, tile.end + wanted.halo, tile.base
    for layer in range(layers + 1):
        far, n = layers - layer, 0
        places, left = tail(lines.places, layer * lines.length), tail(lines.left, layer * lines.length)
        for x in range(max(low - far, 0), min(high + far, width)):
            if _near(anchors, count, low, high, x, far):
                places[n], left[n] = x - base, x - base - 1
                n += 1
        around, counts = halo_of(layer, wanted.texture, wanted.parameters), tail(lines.counts, COUNTS * layer)
        counts[0] = n
        counts[1] = first_from(places, 1, n, tile.begin - around - base)
        counts[2] = first_from(places, 1, n, tile.end + around - base)
        counts[3] = first_from(places, 1, n, tile.begin - base)
        counts[4] = first_from(places, 1, n, tile.end - base)


@inline
def fill_rings(layers, strides, length, has_gradient, rings):
    """Fills `rings`; returns the length of all lines."""
    total = 0
    for i in range(6 * (layers + 1)):
        rings[i] = 0
    for kind in range(1 + has_gradient):
        for layer in range(kind, layers + 1 - (kind == 0)):
            ring = tail(rings, 3 * (kind * (layers + 1) + layer))
            ring[0] = total
            ring[1] = 3 if kind else 2 * (layers - layer) + 1
            ring[2] = length * strides[layer]
            total += ring[1] * ring[2]
    return total


# --- rows of layers and of their gradients ----------------------------------------------------------------------------


@inline
def _line(lines, kind, layer, layers, y):
    """Where row y of a layer (kind 0) or of its gradient (kind 1) lies."""
    at = 3 * (kind * (layers + 1) + layer)
    return lines.rings[at] + y % lines.rings[at + 1] * lines.rings[at + 2]


@inline
def _three_lines(lines, kind, layer, layers, y):
    before, after = _line(lines, kind, layer, layers, y - 1), _line(lines, kind, layer, layers, y + 1)
    return before, _line(lines, kind, layer, layers, y), after


@inline
def clear_line(lines, kind, layer, layers, y):
    at = _line(lines, kind, layer, layers, y)
    clear(tail(lines.memory, at), lines.rings[3 * (kind * (layers + 1) + layer) + 2])


@inline
def _some(lines, numbers, layer, begin, end):
    """The places (or left neighbours) begin .. end of a layer."""
    return Places(tail(numbers, layer * lines.length + begin), end - begin)


@inline
def load_row(images, y, tile, image_normal, lines, layers):
    """Row y of the image, normalised, channels last; zeros outside of the image."""
    if y < 0 or y >= tile.height:
        clear_line(lines, 0, 0, layers, y)
        return
    count = lines.counts[0]
    if count == 0 or not row_near(tile, y, layers):
        return
    first, last = lines.places[0], lines.places[count - 1]
    channels, strides, at = image_normal.channels, images.source_strides, _line(lines, 0, 0, layers, y)
    for c in range(channels):
        start = images.source_at + y * strides[2] + c * strides[1] + tile.base * strides[3]
        shift, factor = image_normal.mean[c], image_normal.scale[c]
        for x in range(first, last + 1):
            value = (load_as(images.source, start + x * strides[3], shift) - shift) * factor
            lines.memory[at + x * channels + c] = value


@inline
def activate(layer, y, tile, net, lines, features):
    """Row y of a layer; the last one's pixels go to `features`, side by side."""
    layers, stride = net.layers, net.strides[layer]
    is_last, at = layer == layers, 0
    if not is_last:
        at = _line(lines, 0, layer, layers, y)
        if y < 0 or y >= tile.height:
            clear_line(lines, 0, layer, layers, y)
            return
    n = lines.counts[COUNTS * layer]
    if n == 0 or not row_near(tile, y, layers - layer):
        return
    places, left = _some(lines, lines.places, layer, 0, n), _some(lines, lines.left, layer, 0, n)
    first = places.numbers[0]
    dense = not is_last and places.numbers[n - 1] - first == n - 1
    target, where = (lines.memory, at + first * stride) if dense else (features if is_last else lines.other, 0)
    matrix = Matrix(net.weight, net.weight_at[layer], stride)
    of_layer = (net.strides[layer - 1], net.widths[layer - 1], matrix, tail(net.bias, net.bias_at[layer]))
    rows = _three_lines(lines, 0, layer - 1, layers, y)
    convolve(lines.memory, rows, 3, left, *of_layer, True, target, where)
    if not dense and not is_last:
        clear_line(lines, 0, layer, layers, y)
        add_pixels(lines.other, 0, stride, Pixels(lines.memory, at, stride, places))


@inline
def _scatter_anchors(y, tile, net, back, lines):
    """Row y of the gradient to the layer before the last one: each anchor's gradient goes to its neighbours."""
    layers = net.layers
    layer, stride = layers - 1, net.strides[layers - 1]
    at = _line(lines, 1, layer, layers, y)
    clear_line(lines, 1, layer, layers, y)
    size, n = 3 * net.widths[layers] * stride, lines.counts[COUNTS * layers]
    places, left = _some(lines, lines.places, layers, 0, n), _some(lines, lines.left, layers, 0, n)
    for dy in range(3):
        from_y = y + 1 - dy
        if row_near(tile, from_y, 0):
            matrix = Matrix(back.weight, back.at[layers] + dy * size, 3 * stride)
            of_layer = (net.strides[layers], net.widths[layers], matrix, lines.none)
            row = (_line(lines, 1, layers, layers, from_y),)
            convolve(lines.memory, row, 1, places, *of_layer, False, lines.other, 0)
            add_pixels(lines.other, 0, 3 * stride, Pixels(lines.memory, at, stride, left))
    activation = Pixels(lines.memory, _line(lines, 0, layer, layers, y), stride, Places(lines.every, lines.length))
    pass_positive(lines.memory, at, activation, lines.memory, at)


@inline
def pull_back(layer, y, tile, wanted, net, back, lines):
    """Row y of the gradient to a layer, not the last one, before its ReLU: from the gradient to the next."""
    layers, stride = net.layers, net.strides[layer]
    around = halo_of(layer, wanted.texture, wanted.parameters)
    inside = tile.top - around <= y < tile.bottom + around and 0 <= y < tile.height
    if not inside or not row_near(tile, y, layers - layer):
        clear_line(lines, 1, layer, layers, y)
    elif layer + 1 == layers:
        _scatter_anchors(y, tile, net, back, lines)
    else:
        counts, after = tail(lines.counts, COUNTS * layer), layer + 1
        of_layer = (net.strides[after], net.widths[after], Matrix(back.weight, back.at[after], stride), lines.none)
        left = _some(lines, lines.left, layer, counts[1], counts[2])
        convolve(lines.memory, _three_lines(lines, 1, after, layers, y), 3, left, *of_layer, False, lines.other, 0)
        places = _some(lines, lines.places, layer, counts[1], counts[2])
        activation = Pixels(lines.memory, _line(lines, 0, layer, layers, y), stride, places)
        pass_positive(lines.other, 0, activation, lines.memory, _line(lines, 1, layer, layers, y))


@inline
def add_row(layer, y, height, net, lines, sums):
    """Adds a row of the tile to the gradients of a layer's weights and biases."""
    counts, layers = tail(lines.counts, COUNTS * layer), net.layers
    before, stride = net.strides[layer - 1], net.strides[layer]
    places = _some(lines, lines.places, layer, counts[3], counts[4])
    left = _some(lines, lines.left, layer, counts[3], counts[4])
    grad = Pixels(lines.memory, _line(lines, 1, layer, layers, y), stride, places)
    for dy in range(3):
        if 0 <= y + dy - 1 < height:
            source = Pixels(lines.memory, _line(lines, 0, layer - 1, layers, y + dy - 1), before, left)
            add_outer_products(source, 3 * before, grad, sums.recent, sums.at[layer] + 3 * dy * before * stride)
    add_outer_products(Pixels(lines.one, 0, 0, left), 1, grad, sums.recent, sums.at[layer] + 9 * before * stride)


@inline
def image_row(y, tile, net, back, lines, scale, target, target_at, strides):
    """Row y of the image's gradient through the convolutions, from three lines of the gradient to the first layer."""
    channels, across, other = net.widths[0], back.across, lines.other
    wide = (back.at[2] - back.at[1]) // (3 * across * net.widths[1])
    first, last = tile.begin - 1 - tile.base, tile.end - tile.base + (1 if across == 1 else -1)
    of_layer = (net.strides[1], net.widths[1], Matrix(back.weight, back.at[1], wide), lines.none)
    left = Places(tail(lines.every, first), last - first)
    convolve(lines.memory, _three_lines(lines, 1, 1, net.layers, y), across, left, *of_layer, False, other, 0)
    for c in range(channels):
        place, factor = target_at + c * strides[1] + y * strides[2], scale[c]
        for x in range(tile.end - tile.begin):
            value = other[x * wide + c]
            if across == 1:
                value += other[(x + 1) * wide + channels + c] + other[(x + 2) * wide + 2 * channels + c]
            store(value * factor, target, place + (tile.begin + x) * strides[3])


@inline
def pull_targets(y, tile, wanted, net, lines, features, targets, sums):
    """From the targets whose anchors lie in row y: the gradients to the texture's weights and to the last layer."""
    layers, taps = net.layers, net.taps
    stride, counts = net.strides[layers], tail(lines.counts, COUNTS * net.layers)
    if wanted.parameters and tile.top <= y < tile.bottom:
        mine = Places(tail(lines.every, counts[3]), counts[4] - counts[3])
        grad = Pixels(features, 0, stride, mine)
        add_outer_products(Pixels(targets.by_anchor, 0, taps, mine), taps, grad, sums.recent, sums.at[layers + 1])
    every, n = Places(lines.every, counts[0]), counts[0]
    of_texture = (taps, taps, Matrix(net.texture, 0, stride), lines.none)
    convolve(targets.by_anchor, (0,), 1, every, *of_texture, False, lines.other, 0)
    pass_positive(lines.other, 0, Pixels(features, 0, stride, every), lines.other, 0)
    places = _some(lines, lines.places, layers, 0, n)
    add_pixels(lines.other, 0, stride, Pixels(lines.memory, _line(lines, 1, layers, layers, y), stride, places))
