"""Gradients of `downsize`: tiles of the image are swept row by row, and nothing as large as the image is kept.

A tile owns its pixels: the sums of weights' gradients count what lies there, and the gradient of the image is written
there. A row y passes a pipeline: layer l is made when the sweep is at y + l, the targets whose anchors lie in the row
and the gradient to the last layer at y + L, the gradient to layer l at y + 2L - l. Rings of lines keep what is still
read: 2(L - l) + 1 lines of layer l, three of its gradient. Around the tile gradients are made as far as those inside
need them, and activations L further.

As in the forward pass a layer is evaluated only near anchors. Other than there, lines have a place for each column, so
that they can be read around a place that has no gradient: what lies outside the image or is not needed is 0.
"""

import numpy as np

from fastwarp.kernels.cpu._downsize_gradient import target_row
from fastwarp.kernels.cpu._downsize_products import (
    Matrix,
    Pixels,
    add_outer_products,
    add_pixels,
    add_texture,
    convolve,
    pass_positive,
)
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._vector import load_as, pointer, store

_FLUSH = 16  # rows of a tile whose products are summed in the type of the activations; sums of those are float64
_WHOLE = 16  # values of a vector, at most


@inline
def _near(anchors, low, high, y, distance):
    """Whether one of the anchors in low .. high is at most `distance` from y."""
    i = np.searchsorted(anchors, max(low, y - distance))
    return i < len(anchors) and anchors[i] < high and anchors[i] <= y + distance


@inline
def _halo(layer, layers, to_texture, to_parameters):
    """How far around a tile the gradient to a layer is needed."""
    if to_texture:
        return layer
    return max(layer - 1, 0) if to_parameters else 0


@inline
def _places(anchors, begin, end, halo, base, extent, needs, lanes):
    """Columns of a tile that each layer is needed at, as places in its lines; `lanes` `[2, L + 1, line]`: they and
    their left neighbours.

    Returns:
        `[L + 1, 5]`: their number; first and past the last that has a gradient; likewise that is the tile's own.
    """
    layers = lanes.shape[1] - 1
    counts = np.empty((layers + 1, 5), np.int64)
    low, high = begin - halo, end + halo
    for layer in range(layers + 1):
        far = layers - layer
        n = 0
        for x in range(max(low - far, 0), min(high + far, extent)):
            if _near(anchors, low, high, x, far):
                lanes[0, layer, n], lanes[1, layer, n] = x - base, x - base - 1
                n += 1
        around = _halo(layer, layers, *needs)
        some = lanes[0, layer, :n]
        counts[layer, 0] = n
        counts[layer, 1] = np.searchsorted(some, begin - around - base)
        counts[layer, 2] = np.searchsorted(some, end + around - base)
        counts[layer, 3] = np.searchsorted(some, begin - base)
        counts[layer, 4] = np.searchsorted(some, end - base)
    return counts


@inline
def _rings(layers, strides, length, has_gradient):
    """Where the rings of activations and of gradients begin, lines of each and their lengths `[2, L + 1, 3]`, and the
    end."""
    rings = np.zeros((2, layers + 1, 3), np.int64)
    at = 0
    for kind in range(1 + has_gradient):
        for layer in range(kind, layers + 1 - (kind == 0)):
            rings[kind, layer, 0] = at
            rings[kind, layer, 1] = 3 if kind else 2 * (layers - layer) + 1
            rings[kind, layer, 2] = length * strides[layer]
            at += rings[kind, layer, 1] * rings[kind, layer, 2]
    return rings, at


@inline
def _line(rings, kind, layer, y):
    return rings[kind, layer, 0] + y % rings[kind, layer, 1] * rings[kind, layer, 2]


@inline
def _activate(layer, y, tile, net, lanes, counts, rings, buffer, other):
    """Row y of a layer; the last one's pixels go to `other`, side by side."""
    anchors, low, high, height = tile
    widths, strides, weight, bias, weight_at, bias_at = net
    layers = len(widths) - 1
    at, length = 0, 0
    if layer < layers:
        at, length = _line(rings, 0, layer, y), rings[0, layer, 2]
        if y < 0 or y >= height:
            buffer[at : at + length] = 0
            return
    n = counts[layer, 0]
    if n == 0 or not _near(anchors, low, high, y, layers - layer):
        return
    rows = (_line(rings, 0, layer - 1, y - 1), _line(rings, 0, layer - 1, y), _line(rings, 0, layer - 1, y + 1))
    first, last = lanes[0, layer, 0], lanes[0, layer, n - 1]
    dense = layer < layers and last - first == n - 1
    target, where = (buffer, at + first * strides[layer]) if dense else (other, 0)
    matrix = Matrix(weight, weight_at[layer], strides[layer])
    of_layer = (strides[layer - 1], widths[layer - 1], matrix, bias[bias_at[layer] :])
    convolve(buffer, rows, 3, lanes[1, layer, :n], *of_layer, True, target, where)
    if not dense and layer < layers:
        buffer[at : at + length] = 0
        add_pixels(other, 0, strides[layer], Pixels(buffer, at, strides[layer], lanes[0, layer, :n]))


@inline
def _pull(layer, y, tile, bounds, net, back, lanes, counts, rings, every, buffer, other):
    """Row y of the gradient to a layer, not the last one, before its ReLU: from the gradient to the next."""
    anchors, low, high, height = tile
    widths, strides = net[:2]
    weight, weight_at, _, zeros = back
    layers = len(widths) - 1
    at, length, stride = _line(rings, 1, layer, y), rings[1, layer, 2], strides[layer]
    inside = bounds[0] <= y < bounds[1] and 0 <= y < height
    if not inside or not _near(anchors, low, high, y, layers - layer):
        buffer[at : at + length] = 0
        return
    following = layer + 1
    if following == layers:
        buffer[at : at + length] = 0
        size = 3 * widths[layers] * stride
        n = counts[layers, 0]
        for dy in range(3):
            from_y = y + 1 - dy
            if _near(anchors, low, high, from_y, 0):
                matrix = Matrix(weight, weight_at[layers] + dy * size, 3 * stride)
                of_layer = (strides[layers], widths[layers], matrix, zeros)
                row = (_line(rings, 1, layers, from_y),)
                convolve(buffer, row, 1, lanes[0, layers, :n], *of_layer, False, other, 0)
                add_pixels(other, 0, 3 * stride, Pixels(buffer, at, stride, lanes[1, layers, :n]))
        pass_positive(buffer, at, Pixels(buffer, _line(rings, 0, layer, y), stride, every), buffer, at)
    else:
        begin, end = counts[layer, 1], counts[layer, 2]
        rows = (_line(rings, 1, following, y - 1), _line(rings, 1, following, y), _line(rings, 1, following, y + 1))
        of_layer = (strides[following], widths[following], Matrix(weight, weight_at[following], stride), zeros)
        convolve(buffer, rows, 3, lanes[1, layer, begin:end], *of_layer, False, other, 0)
        activation = Pixels(buffer, _line(rings, 0, layer, y), stride, lanes[0, layer, begin:end])
        pass_positive(other, 0, activation, buffer, at)


@inline
def _add_row(layer, y, height, strides, lanes, counts, rings, buffer, ones, sums, sums_at):
    """Adds a row of the tile to the gradients of a layer's weights and biases."""
    begin, end = counts[layer, 3], counts[layer, 4]
    before, stride = strides[layer - 1], strides[layer]
    places, left = lanes[0, layer, begin:end], lanes[1, layer, begin:end]
    grad = Pixels(buffer, _line(rings, 1, layer, y), stride, places)
    for dy in range(3):
        if 0 <= y + dy - 1 < height:
            at = sums_at[layer] + 3 * dy * before * stride
            source = _line(rings, 0, layer - 1, y + dy - 1)
            add_outer_products(Pixels(buffer, source, before, left), 3 * before, grad, sums, at)
    at = sums_at[layer] + 9 * before * stride
    add_outer_products(Pixels(ones, 0, 0, left), 1, grad, sums, at)


@inline
def _image_row(y, columns, base, net, back, rings, every, buffer, other, scale, target, target_at, strides):
    """Row y of the image's gradient through the convolutions, from three lines of the gradient to the first layer."""
    widths, steps = net[:2]
    weight, weight_at, across, zeros = back
    channels, begin, end = widths[0], columns[0], columns[1]
    rows = (_line(rings, 1, 1, y - 1), _line(rings, 1, 1, y), _line(rings, 1, 1, y + 1))
    wide = (weight_at[2] - weight_at[1]) // (3 * across * widths[1])
    left = every[begin - 1 - base : end - base + (1 if across == 1 else -1)]
    of_layer = (steps[1], widths[1], Matrix(weight, weight_at[1], wide), zeros)
    convolve(buffer, rows, across, left, *of_layer, False, other, 0)
    for c in range(channels):
        place, factor = target_at + c * strides[1] + y * strides[2], scale[c]
        for x in range(end - begin):
            value = other[x * wide + c]
            if across == 1:
                value += other[(x + 1) * wide + channels + c] + other[(x + 2) * wide + 2 * channels + c]
            store(value * factor, target, place + (begin + x) * strides[3])


@inline
def _load_line(source, first, strides, columns, base, mean, scale, buffer, at):
    """One row of the image, normalised, channels last."""
    channels = len(mean)
    for c in range(channels):
        start, shift, factor = first + c * strides[1], mean[c], scale[c]
        for x in range(columns[0], columns[1]):
            place = at + (x - base) * channels + c
            buffer[place] = (load_as(source, start + x * strides[3], shift) - shift) * factor


@parallel
def sweep(
    addresses,
    shape,
    strides_image,
    strides_grad,
    strides_part,
    widths,
    strides,
    weight,
    bias,
    weight_at,
    bias_at,
    texture,
    back,
    back_at,
    back_across,
    mean,
    scale,
    logits,
    rows,
    columns,
    anchor_rows,
    anchor_columns,
    normalise,
    to_texture,
    to_parameters,
    images,
    tiles,
    runs,
    values,
    to_logits,
    sums_at,
    all_sums,
    like,
    part_like,
    real,
    part,
    parts,
):
    """All that is swept, for the entries `images` of the batch.

    Args:
        addresses: of image, gradient, and the image's gradient through the convolutions.
        shape: `[B, C, H, W]`.
        strides_image: of the image.
        strides_grad: of the gradient.
        strides_part: of the image's gradient through the convolutions.
        widths: as in `forward`.
        strides: as in `forward`.
        weight: as in `forward`.
        bias: as in `forward`.
        weight_at: as in `forward`.
        bias_at: as in `forward`.
        texture: as in `forward`.
        back: weights that `transposed_weights` made.
        back_at: where those of each layer begin.
        back_across: columns of the first one's.
        mean: as in `forward`.
        scale: as in `forward`.
        logits: as in `forward`.
        rows: as in `forward`.
        columns: as in `forward`.
        anchor_rows: as in `forward`.
        anchor_columns: as in `forward`.
        normalise: as in `forward`.
        to_texture: whether the image's gradient through the convolutions is wanted.
        to_parameters: whether the gradients of the parameters are.
        images: first and past the last entry of the batch.
        tiles: tiles down and across the image.
        runs: number of runs of images; a run is summed image after image.
        values: `[images, K, h, w]`, filled with the coefficients; empty: nobody wants them.
        to_logits: `[runs, K, h, w]`, to which their gradient is added.
        sums_at: where in a row of sums each layer begins, see `places_of_sums`.
        all_sums: float64 `[runs * tiles, sums]`, to which the others are added.
        like: empty array of the storage type.
        part_like: of the type of the image's gradient through the convolutions.
        real: 0 and 1.
        part: number of this part of the job.
        parts: number of parts.
    """
    height, width = shape[2], shape[3]
    layers, taps, targets = len(widths) - 1, len(logits), len(anchor_columns)
    has_gradient = layers > 0 and (to_texture or to_parameters)
    needs = (to_texture, to_parameters)
    halo = _halo(layers, layers, *needs)
    margin = halo + layers + 1
    length = (width + tiles[1] - 1) // tiles[1] + 2 * margin
    rings, total = _rings(layers, strides, length, has_gradient)
    source, grads = pointer(addresses[0], like), pointer(addresses[1], like)
    target = pointer(addresses[2], part_like)
    buffer = np.zeros(total, real.dtype)
    other = np.empty((length + 2) * max(3 * strides.max(), 3 * widths[0] + _WHOLE), real.dtype)
    ones = real[1:]
    every = np.arange(length).astype(np.int32)
    lanes = np.empty((2, layers + 1, length), np.int32)
    whole = (length + _WHOLE - 1) // _WHOLE * _WHOLE if layers > 0 else 0
    features = np.zeros(whole * strides[layers] if layers > 0 else 0, real.dtype)
    scores = np.empty(taps * whole, real.dtype)
    by_anchor = np.empty(taps * length if has_gradient else 0, real.dtype)
    step = (targets + _WHOLE - 1) // _WHOLE * _WHOLE
    buffers = (
        *(np.zeros(taps * step, real.dtype), np.zeros(taps * step, real.dtype)),
        *(np.zeros(taps * step, real.dtype), np.zeros(step, real.dtype), step),
    )
    zeros = np.zeros(max(3 * strides.max(), 3 * widths[0] + _WHOLE), real.dtype)
    sums = np.zeros(sums_at[-1] if to_parameters else 0, real.dtype)
    anchor_of = np.empty(targets, np.int32)
    net, turned = (widths, strides, weight, bias, weight_at, bias_at), (back, back_at, back_across, zeros)
    tables = (logits, rows, columns, normalise)
    taps_strides = (strides_image[1], strides_image[2], strides_image[3], shape[1])
    batch = images[1] - images[0]
    for unit in range(part, runs * tiles[0] * tiles[1], parts):
        run, i, j = unit // (tiles[0] * tiles[1]), unit // tiles[1] % tiles[0], unit % tiles[1]
        top, bottom = i * height // tiles[0], (i + 1) * height // tiles[0]
        begin, end = j * width // tiles[1], (j + 1) * width // tiles[1]
        base = begin - margin
        buffer[:] = 0
        counts = _places(anchor_columns, begin, end, halo, base, width, needs, lanes)
        low, high = top - halo, bottom + halo
        tile = (anchor_rows, low, high, height)
        first, last = np.searchsorted(anchor_columns, begin - halo), np.searchsorted(anchor_columns, end + halo)
        own = (np.searchsorted(anchor_columns, begin), np.searchsorted(anchor_columns, end))
        n = counts[layers, 0]
        anchor_of[first:last] = np.searchsorted(lanes[0, layers, :n], anchor_columns[first:last] - base)
        anchor = anchor_of[first:last]
        if layers > 0 and counts[0, 0]:
            seen = (lanes[0, 0, 0] + base, lanes[0, 0, counts[0, 0] - 1] + base + 1)
        else:
            seen = (0, 0)
        for image in range(images[0] + run * batch // runs, images[0] + (run + 1) * batch // runs):
            at_image, at_grad, at_part = image * strides_image[0], image * strides_grad[0], image * strides_part[0]
            of_images = (source, at_image, taps_strides, grads, at_grad, strides_grad[1:])
            for t in range(low - layers - 1, (bottom + 2 * layers) if has_gradient else (bottom + layers)):
                if layers > 0:
                    at = _line(rings, 0, 0, t)
                    if t < 0 or t >= height:
                        buffer[at : at + rings[0, 0, 2]] = 0
                    elif _near(anchor_rows, low, high, t, layers):
                        row_at = at_image + t * strides_image[2]
                        _load_line(source, row_at, strides_image, seen, base, mean, scale, buffer, at)
                    for layer in range(1, layers):
                        _activate(layer, t - layer, tile, net, lanes, counts, rings, buffer, other)
                y = t - layers
                if has_gradient:
                    at = _line(rings, 1, layers, y)
                    buffer[at : at + rings[1, layers, 2]] = 0
                if n > 0 and low <= y < high and _near(anchor_rows, low, high, y, 0):
                    if layers > 0:
                        _activate(layers, y, tile, net, lanes, counts, rings, buffer, features)
                        scores[:] = 0
                        add_texture(features, n, widths[layers], strides[layers], texture, scores, whole)
                        by_anchor[:] = 0
                    some = own if top <= y < bottom else (0, 0)
                    kept, added = (values, image - images[0]), (to_logits, run)
                    for row in range(np.searchsorted(anchor_rows, y), np.searchsorted(anchor_rows, y, "right")):
                        target_row(
                            *(row, first, some, anchor, scores, whole, of_images, tables, buffers, by_anchor),
                            *(kept, added, real),
                        )
                    if has_gradient:
                        if to_parameters and top <= y < bottom:
                            mine = every[counts[layers, 3] : counts[layers, 4]]
                            grad = Pixels(features, 0, strides[layers], mine)
                            where = sums_at[layers + 1]
                            add_outer_products(Pixels(by_anchor, 0, taps, mine), taps, grad, sums, where)
                        of_texture = (taps, taps, Matrix(texture, 0, strides[layers]), zeros)
                        convolve(by_anchor, (0,), 1, every[:n], *of_texture, False, other, 0)
                        pass_positive(other, 0, Pixels(features, 0, strides[layers], every[:n]), other, 0)
                        add_pixels(other, 0, strides[layers], Pixels(buffer, at, strides[layers], lanes[0, layers, :n]))
                if not has_gradient:
                    continue
                for layer in range(layers, 0, -1):
                    y = t - 2 * layers + layer
                    if layer < layers:
                        around = _halo(layer, layers, *needs)
                        bounds = (top - around, bottom + around)
                        _pull(layer, y, tile, bounds, net, turned, lanes, counts, rings, every, buffer, other)
                    if to_parameters and top <= y < bottom and _near(anchor_rows, low, high, y, layers - layer):
                        _add_row(layer, y, height, strides, lanes, counts, rings, buffer, ones, sums, sums_at)
                y = t - 2 * layers
                if to_texture and top <= y < bottom:
                    _image_row(
                        *(y, (begin, end), base, net, turned, rings, every, buffer, other),
                        *(scale, target, at_part, strides_part),
                    )
                if to_parameters and (t % _FLUSH == 0 or t == bottom + 2 * layers - 1):
                    for k in range(len(sums)):
                        all_sums[unit, k] += sums[k]
                        sums[k] = 0
