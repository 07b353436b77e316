"""Gradients of `downsize`: tiles of the image are swept row by row, and nothing as large as the image is kept.

A tile owns its pixels: the sums of weights' gradients count what lies there, and the gradient of the image is written
there. A row y passes a pipeline: layer l is made when the sweep is at y + l, the targets whose anchors lie in the row
and the gradient to the last layer at y + L, the gradient to layer l at y + 2L - l. Rings of lines keep what is still
read: 2(L - l) + 1 lines of layer l, three of its gradient. Around the tile gradients are made as far as those inside
need them, and activations L further.

As in the forward pass a layer is evaluated only near anchors. Other than there, lines have a place for each column, so
that they can be read around a place that has no gradient: what lies outside the image or is not needed is 0.
"""

from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._downsize_gradient import Images, Kept, Room, Taps, Targets, first_from, target_row
from fastwarp.kernels.cpu._downsize_network import network, normal
from fastwarp.kernels.cpu._downsize_products import (
    Matrix,
    Pixels,
    Places,
    add_outer_products,
    add_pixels,
    add_texture,
    convolve,
    pass_positive,
)
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._scratch import integers, zeros
from fastwarp.kernels.cpu._vector import elements, hold, load_as, pointer, store, tail

_FLUSH = 16  # rows of a tile whose products are summed in the type of the activations; sums of those are float64
_WHOLE = 16  # values of a vector, at most
_COUNTS = 5


class Wanted(NamedTuple):
    """Which gradients are wanted through the convolutions: to the image, to the parameters, to any of them; how far
    around a tile the gradient to the last layer is needed."""

    texture: Any
    parameters: Any
    any: Any
    halo: Any


class Tile(NamedTuple):
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
def _row_near(tile, y, distance):
    return _near(tile.anchors, tile.anchor_count, tile.low, tile.high, y, distance)


@inline
def _halo(layer, to_texture, to_parameters):
    """How far around a tile the gradient to a layer is needed."""
    if to_texture:
        return layer
    return max(layer - 1, 0) if to_parameters else 0


@inline
def _find_columns(anchors, count, tile, wanted, width, layers, lines):
    """Fills `places`, `left` and `counts` for a tile."""
    low, high, base = tile.begin - wanted.halo, tile.end + wanted.halo, tile.base
    for layer in range(layers + 1):
        far, n = layers - layer, 0
        places, left = tail(lines.places, layer * lines.length), tail(lines.left, layer * lines.length)
        for x in range(max(low - far, 0), min(high + far, width)):
            if _near(anchors, count, low, high, x, far):
                places[n], left[n] = x - base, x - base - 1
                n += 1
        around, counts = _halo(layer, wanted.texture, wanted.parameters), tail(lines.counts, _COUNTS * layer)
        counts[0] = n
        counts[1] = first_from(places, 1, n, tile.begin - around - base)
        counts[2] = first_from(places, 1, n, tile.end + around - base)
        counts[3] = first_from(places, 1, n, tile.begin - base)
        counts[4] = first_from(places, 1, n, tile.end - base)


@inline
def _fill_rings(layers, strides, length, has_gradient, rings):
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
def _clear(memory, at, count):
    for i in range(at, at + count):
        memory[i] = 0


@inline
def _clear_line(lines, kind, layer, layers, y):
    _clear(lines.memory, _line(lines, kind, layer, layers, y), lines.rings[3 * (kind * (layers + 1) + layer) + 2])


@inline
def _some(lines, numbers, layer, begin, end):
    """The places (or left neighbours) begin .. end of a layer."""
    return Places(tail(numbers, layer * lines.length + begin), end - begin)


@inline
def _load_row(images, y, tile, image_normal, lines, layers):
    """Row y of the image, normalised, channels last; zeros outside of the image."""
    if y < 0 or y >= tile.height:
        _clear_line(lines, 0, 0, layers, y)
        return
    count = lines.counts[0]
    if count == 0 or not _row_near(tile, y, layers):
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
def _activate(layer, y, tile, net, lines, features):
    """Row y of a layer; the last one's pixels go to `features`, side by side."""
    layers, stride = net.layers, net.strides[layer]
    is_last, at = layer == layers, 0
    if not is_last:
        at = _line(lines, 0, layer, layers, y)
        if y < 0 or y >= tile.height:
            _clear_line(lines, 0, layer, layers, y)
            return
    n = lines.counts[_COUNTS * layer]
    if n == 0 or not _row_near(tile, y, layers - layer):
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
        _clear_line(lines, 0, layer, layers, y)
        add_pixels(lines.other, 0, stride, Pixels(lines.memory, at, stride, places))


@inline
def _scatter_anchors(y, tile, net, back, lines):
    """Row y of the gradient to the layer before the last one: each anchor's gradient goes to its neighbours."""
    layers = net.layers
    layer, stride = layers - 1, net.strides[layers - 1]
    at = _line(lines, 1, layer, layers, y)
    _clear_line(lines, 1, layer, layers, y)
    size, n = 3 * net.widths[layers] * stride, lines.counts[_COUNTS * layers]
    places, left = _some(lines, lines.places, layers, 0, n), _some(lines, lines.left, layers, 0, n)
    for dy in range(3):
        from_y = y + 1 - dy
        if _row_near(tile, from_y, 0):
            matrix = Matrix(back.weight, back.at[layers] + dy * size, 3 * stride)
            of_layer = (net.strides[layers], net.widths[layers], matrix, lines.none)
            row = (_line(lines, 1, layers, layers, from_y),)
            convolve(lines.memory, row, 1, places, *of_layer, False, lines.other, 0)
            add_pixels(lines.other, 0, 3 * stride, Pixels(lines.memory, at, stride, left))
    activation = Pixels(lines.memory, _line(lines, 0, layer, layers, y), stride, Places(lines.every, lines.length))
    pass_positive(lines.memory, at, activation, lines.memory, at)


@inline
def _pull_back(layer, y, tile, wanted, net, back, lines):
    """Row y of the gradient to a layer, not the last one, before its ReLU: from the gradient to the next."""
    layers, stride = net.layers, net.strides[layer]
    around = _halo(layer, wanted.texture, wanted.parameters)
    inside = tile.top - around <= y < tile.bottom + around and 0 <= y < tile.height
    if not inside or not _row_near(tile, y, layers - layer):
        _clear_line(lines, 1, layer, layers, y)
    elif layer + 1 == layers:
        _scatter_anchors(y, tile, net, back, lines)
    else:
        counts, after = tail(lines.counts, _COUNTS * layer), layer + 1
        of_layer = (net.strides[after], net.widths[after], Matrix(back.weight, back.at[after], stride), lines.none)
        left = _some(lines, lines.left, layer, counts[1], counts[2])
        convolve(lines.memory, _three_lines(lines, 1, after, layers, y), 3, left, *of_layer, False, lines.other, 0)
        places = _some(lines, lines.places, layer, counts[1], counts[2])
        activation = Pixels(lines.memory, _line(lines, 0, layer, layers, y), stride, places)
        pass_positive(lines.other, 0, activation, lines.memory, _line(lines, 1, layer, layers, y))


@inline
def _add_row(layer, y, height, net, lines, sums):
    """Adds a row of the tile to the gradients of a layer's weights and biases."""
    counts, layers = tail(lines.counts, _COUNTS * layer), net.layers
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
def _image_row(y, tile, net, back, lines, scale, target, target_at, strides):
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
def _pull_targets(y, tile, wanted, net, lines, features, targets, sums):
    """From the targets whose anchors lie in row y: the gradients to the texture's weights and to the last layer."""
    layers, taps = net.layers, net.taps
    stride, counts = net.strides[layers], tail(lines.counts, _COUNTS * net.layers)
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


# --- the sweep --------------------------------------------------------------------------------------------------------


@inline
def _sweep_targets(y, tile, wanted, net, lines, features, images, targets, tables, kept, sums, real):
    """The targets whose anchors lie in row y, from its features, and what they pass back to those."""
    taps, room = tables
    layers, n = net.layers, lines.counts[_COUNTS * net.layers]
    if wanted.any:
        _clear_line(lines, 1, layers, layers, y)
    if n == 0 or not tile.low <= y < tile.high or not _row_near(tile, y, 0):
        return
    if layers > 0:
        _activate(layers, y, tile, net, lines, features)
        _clear(targets.scores, 0, net.taps * targets.whole)
        add_texture(features, n, net, targets.scores, targets.whole)
        if wanted.any:
            _clear(targets.by_anchor, 0, net.taps * lines.length)
    first = first_from(tile.anchors, 1, tile.anchor_count, y)
    for row in range(first, first_from(tile.anchors, 1, tile.anchor_count, y + 1)):
        target_row(row, tile.top <= y < tile.bottom, images, targets, taps, room, kept, real)
    if wanted.any:
        _pull_targets(y, tile, wanted, net, lines, features, targets, sums)


@inline
def _sweep_gradients(t, tile, wanted, net, back, lines, scale, image_gradient, sums):
    """The gradients that are due when the sweep is at row t, of the last layer first."""
    layers = net.layers
    target, target_at, strides = image_gradient
    for layer in range(layers, 0, -1):
        y = t - 2 * layers + layer
        if layer < layers:
            _pull_back(layer, y, tile, wanted, net, back, lines)
        if wanted.parameters and tile.top <= y < tile.bottom and _row_near(tile, y, layers - layer):
            _add_row(layer, y, tile.height, net, lines, sums)
    y = t - 2 * layers
    if wanted.texture and tile.top <= y < tile.bottom:
        _image_row(y, tile, net, back, lines, scale, target, target_at, strides)
    if wanted.parameters and (t % _FLUSH == 0 or t == tile.bottom + 2 * layers - 1):
        for k in range(sums.count):
            sums.total[k] += sums.recent[k]
            sums.recent[k] = 0


@inline
def _sweep_tile(tile, wanted, net, back, image_normal, lines, features, images, targets, tables, kept, to_image, sums):
    """All rows of a tile, of one entry of the batch."""
    layers, scale, real = net.layers, image_normal.scale, lines.one[0]
    end = tile.bottom + 2 * layers if wanted.any else tile.bottom + layers
    for t in range(tile.low - layers - 1, end):
        if layers > 0:
            _load_row(images, t, tile, image_normal, lines, layers)
            for layer in range(1, layers):
                _activate(layer, t - layer, tile, net, lines, features)
        of_tile = (tile, wanted, net, lines, features, images, targets, tables, kept, sums)
        _sweep_targets(t - layers, *of_tile, real)
        if wanted.any:
            _sweep_gradients(t, tile, wanted, net, back, lines, scale, to_image, sums)


class Job(NamedTuple):
    """What the tiles of all images share."""

    shape: Any
    tiles: Any
    runs: Any
    images: Any
    wanted: Any
    net: Any
    back: Any
    normal: Any
    anchors: Any
    taps: Any


@inline
def _tile(job, i, j):
    """Tile j of row i of the tiles."""
    anchors, layers, halo = job.anchors, job.net.layers, job.wanted.halo
    height, width = job.shape[2], job.shape[3]
    top, bottom = i * height // job.tiles[0], (i + 1) * height // job.tiles[0]
    begin, end = j * width // job.tiles[1], (j + 1) * width // job.tiles[1]
    rows = (anchors[0], job.taps.height, top - halo, bottom + halo, height)
    return Tile(top, bottom, begin, end, begin - halo - layers - 1, *rows)


@inline
def _targets(job, tile, lines, anchor, scores, whole, by_anchor):
    """The `Targets` of a tile; `anchor` is room for their numbers."""
    columns, count, layers = job.anchors[1], job.taps.width, job.net.layers
    first = first_from(columns, 1, count, tile.begin - job.wanted.halo)
    last = first_from(columns, 1, count, tile.end + job.wanted.halo)
    own_begin, own_end = first_from(columns, 1, count, tile.begin), first_from(columns, 1, count, tile.end)
    places = tail(lines.places, layers * lines.length)
    for q in range(first, last):
        anchor[q - first] = first_from(places, 1, lines.counts[_COUNTS * layers], columns[q] - tile.base)
    own = (own_begin, own_end)
    return Targets(first, last - first, anchor, *own, scores, whole, by_anchor, job.wanted.any)


@inline
def _sweep(job, sources, to_image, lines, total, targets_room, room, kept, sums, part, parts):
    """The tiles of a part, each for all images of its run. `total` is the length of the rings' lines."""
    down, across = job.tiles
    source, source_strides, grad, grad_strides = sources
    features, anchor, scores, whole, by_anchor = targets_room
    first_image, batch = job.images[0], job.images[1] - job.images[0]
    values = job.net.taps * job.taps.height * job.taps.width
    for unit in range(part, job.runs * down * across, parts):
        run, i, j = unit // (down * across), unit // across % down, unit % across
        tile = _tile(job, i, j)
        _clear(lines.memory, 0, total)
        _find_columns(job.anchors[1], job.taps.width, tile, job.wanted, job.shape[3], job.net.layers, lines)
        targets = _targets(job, tile, lines, anchor, scores, whole, by_anchor)
        of_unit = Sums(sums.at, sums.recent, tail(sums.total, unit * sums.count), sums.count)
        for image in range(run * batch // job.runs, (run + 1) * batch // job.runs):
            entry = first_image + image
            of_image = (source, entry * source_strides[0], source_strides)
            images = Images(*of_image, grad, entry * grad_strides[0], grad_strides, job.shape[1])
            logits = tail(kept.to_logits, run * values)
            of_entry = Kept(tail(kept.values, image * values), kept.keeps, logits, kept.adds)
            at = (to_image[0], entry * to_image[1][0], to_image[1])
            tables = (targets, (job.taps, room), of_entry, at, of_unit)
            _sweep_tile(tile, job.wanted, job.net, job.back, job.normal, lines, features, images, *tables)


@inline
def _room_of_line(net, length):
    """Values of `Lines.other` and of `Lines.none`."""
    most = 0
    for layer in range(net.layers + 1):
        most = max(most, net.strides[layer])
    wide = _whole_vectors(max(3 * most, 3 * net.widths[0] + _WHOLE))
    return (length + 2) * wide, wide


@inline
def _whole_vectors(count):
    return (count + _WHOLE - 1) // _WHOLE * _WHOLE


@parallel
def sweep(
    addresses, shape, strides, net_arrays, back, statistics, tables, anchors, options, division, kept, sums, likes,
    part, parts,
):  # fmt: skip
    """All that is swept, for some entries of the batch.

    Args:
        addresses: of image, gradient, and the image's gradient through the convolutions.
        shape: `[B, C, H, W]`.
        strides: of those three.
        net_arrays: what `packed` made.
        back: what `transposed_weights` made.
        statistics: mean and scale of the channels.
        tables: logits `[K, h, w]`, rows `[h, KY]`, columns `[w, KX]`.
        anchors: of rows and columns.
        options: mode; whether the image's gradient through the convolutions is wanted; whether the parameters' are.
        division: first and past the last entry of the batch; tiles down and across the image; number of runs of images,
            which are summed image after image.
        kept: `[images, K, h, w]`, filled with the coefficients (empty: nobody wants them); `[runs, K, h, w]`, to which
            the logits' gradient is added.
        sums: where in a row of sums each layer begins, see `places_of_sums`; float64 `[runs * tiles, sums]`, to which
            the others are added.
        likes: arrays of the storage type, of the type of the gradient through the convolutions, and 0 and 1 of the type
            that computes.
        part: number of this part of the job.
        parts: number of parts.
    """
    images, tiles, runs = division
    _, to_texture, to_parameters = options
    logits, rows, columns = tables
    height, width = len(anchors[0]), len(anchors[1])
    net = network(net_arrays, len(logits))
    layers, any_ = net.layers, net.layers > 0 and (to_texture or to_parameters)
    wanted = Wanted(to_texture, to_parameters, any_, _halo(layers, to_texture, to_parameters))
    length = (shape[3] + tiles[1] - 1) // tiles[1] + 2 * (wanted.halo + layers + 1)
    whole, step = _whole_vectors(length) if layers > 0 else 0, _whole_vectors(width)
    counts = integers((6 + _COUNTS) * (layers + 1))
    small = np.empty((2 * (layers + 1) + 1) * length + width, np.int32)
    for i in range(length):
        small[i] = i
    total = _fill_rings(layers, net.strides, length, any_, elements(counts))
    (other, none), sum_count = _room_of_line(net, length), sums[0][-1] if to_parameters else 0
    features, by_anchor = whole * net.strides[layers], _whole_vectors(net.taps * length) if any_ else 0
    of_lines = _whole_vectors(total) + other + none + _WHOLE
    of_targets = features + net.taps * whole + by_anchor + (3 * net.taps + 1) * step
    memory = zeros(of_lines + of_targets + sum_count, likes[2])
    memory[of_lines - _WHOLE] = 1
    line = elements(memory)
    other_at = tail(line, _whole_vectors(total))
    places = tail(small, length)
    lines = Lines(
        *(line, elements(counts), places, tail(places, (layers + 1) * length), elements(small)),
        *(tail(counts, 6 * (layers + 1)), length, other_at, tail(line, of_lines - _WHOLE), tail(other_at, other)),
    )
    feature_at = tail(line, of_lines)
    scores = tail(feature_at, features)
    anchor_at = tail(scores, net.taps * whole)
    z = tail(anchor_at, by_anchor)
    room = Room(z, tail(z, net.taps * step), tail(z, 2 * net.taps * step), tail(z, 3 * net.taps * step), step)
    pixels = (elements(logits), elements(rows), elements(columns), rows.shape[1], columns.shape[1])
    taps = Taps(*pixels, height, width, options[0])
    turned = Back(elements(back[0]), elements(back[1]), back[2])
    of_rows = (elements(anchors[0]), elements(anchors[1]))
    job = Job(shape, tiles, runs, images, wanted, net, turned, normal(statistics), of_rows, taps)
    like, part_like, _ = likes
    sources = (pointer(addresses[0], like), strides[0], pointer(addresses[1], like), strides[1])
    targets = (feature_at, tail(small, (2 * (layers + 1) + 1) * length), scores, whole, anchor_at)
    results = Kept(elements(kept[0]), len(kept[0]) > 0, elements(kept[1]), len(kept[1]) > 0)
    all_sums = Sums(elements(sums[0]), tail(line, of_lines + of_targets), elements(sums[1]), sum_count)
    to_image = (pointer(addresses[2], part_like), strides[2])
    _sweep(job, sources, to_image, lines, total, targets, room, results, all_sums, part, parts)
    hold(memory)
    hold(small)
    hold(counts)
