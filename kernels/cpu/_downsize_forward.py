"""DownsizeNet forward: convolutions where they are needed, coefficients, weighted sums of taps, row by row.

A thread takes rows of anchors, and of those a strip of columns at a time: each layer has a ring of three lines, and a
line is made when the next layer asks for it. So nothing but the result is as large as an image.
"""

import numpy as np

from fastwarp.kernels.cpu._downsize_plan import needed, span, strips
from fastwarp.kernels.cpu._downsize_simd import add_products, coefficients, convolve_row
from fastwarp.kernels.cpu._parallel import inline, jit
from fastwarp.kernels.cpu._simd import flat, load, store

SIGMOID, SOFTMAX, SIGNED = range(3)

_RING = 3
_LINES = _RING + 1  # of zeros: above and below the image
_TARGETS = 128  # whose coefficients are made at a time
_WHOLE = 16  # values of a vector, at most


@inline
def line_places(lo, hi, strides):
    """Where the lines of each layer lie in a strip's buffer, how long they are, and the buffer's length.

    Before and after the needed columns, a line has a pixel of zeros for the padding of the image.
    """
    layers = len(lo) - 1
    at, length = np.empty(layers + 1, np.int64), np.empty(layers + 1, np.int64)
    total = 0
    for layer in range(layers):
        at[layer], length[layer] = total, (hi[layer] - lo[layer] + 2) * strides[layer]
        total += _LINES * length[layer]
    at[layers], length[layers] = total, 0
    return at, length, total


@inline
def load_line(source, base, strides, columns, mean, scale, buffer, at):
    """One row of the image, normalised, channels last. `strides`: of channels and columns in the image."""
    channels = len(mean)
    for c in range(channels):
        first, shift, factor = base + c * strides[0], mean[c], scale[c]
        for j in range(len(columns)):
            buffer[at + j * channels + c] = (load(source, first + columns[j] * strides[1], shift) - shift) * factor


@inline
def convolve_line(layer, i, y, x, height, lo, hi, at, length, strides, widths, parameters, buffer, target, where):
    """Line i of a layer from the three lines of the layer before, which its ring holds."""
    weight, bias, weight_at, bias_at = parameters
    _, place, left, _, _ = y
    above = layer - 1
    start = at[above] - (lo[above] - 1) * strides[above]
    zeros = start + _RING * length[above]
    k = left[layer, i]
    upper = start + k % _RING * length[above] if place[layer, i] > 0 else zeros
    middle = start + (k + 1) % _RING * length[above]
    lower = start + (k + 2) % _RING * length[above] if place[layer, i] < height - 1 else zeros
    convolve_row(
        buffer,
        upper,
        middle,
        lower,
        strides[above],
        widths[above],
        x[2][layer, lo[layer] : hi[layer]],
        weight[weight_at[layer] : weight_at[layer + 1]],
        bias[bias_at[layer] : bias_at[layer + 1]],
        True,
        target,
        where,
    )


@inline
def _targets(source, target, image_at, result_at, row, which, anchor, begin, scores, texts, tables, z, line, real):
    """The targets `which` of one row, at most `_TARGETS` of them."""
    logits, rows, columns, shape, normalise = tables
    taps, across = len(logits), columns.shape[1]
    channel_stride, row_stride, column_stride = shape[0]
    lo, hi = which
    for k in range(taps):
        if texts:
            for q in range(lo, hi):
                z[k * _TARGETS + q - lo] = scores[k * texts + anchor[q] - begin] + logits[k, row, q]
        else:
            for q in range(lo, hi):
                z[k * _TARGETS + q - lo] = logits[k, row, q]
    if normalise == SIGNED:
        for i in range(hi - lo):
            total = real[1]
            for k in range(taps):
                total -= z[k * _TARGETS + i]
            line[i] = total / real.dtype.type(taps)
        for k in range(taps):
            for i in range(hi - lo):
                z[k * _TARGETS + i] += line[i]
    else:
        coefficients(z, _TARGETS, taps, hi - lo, normalise == SIGMOID)
    for c in range(shape[2]):
        line[:] = real[0]
        for ky in range(rows.shape[1]):
            base = image_at + c * channel_stride + rows[row, ky] * row_stride
            for kx in range(across):
                first = (ky * across + kx) * _TARGETS
                for i in range(hi - lo):
                    value = load(source, base + columns[lo + i, kx] * column_stride, real[0])
                    line[i] += z[first + i] * value
        out = result_at + c * shape[1][0] + row * shape[1][1]
        for i in range(hi - lo):
            store(line[i], target, out + (lo + i) * shape[1][2])


@inline
def _strip(source, target, image_at, result_at, y, x, size, some_rows, some_columns, net, tables, real):
    """Anchors `some_rows` x `some_columns` of one image."""
    height, channels = size
    widths, strides, parameters, texture, mean, scale = net
    count, place, left, first_row, _ = y
    _, columns, _, first_column, anchor = x
    layers = len(count) - 1
    lo, hi = span(x, *some_columns)
    next_, _ = span(y, *some_rows)
    at, length, total = line_places(lo, hi, strides)
    n = hi[layers] - lo[layers]
    whole = (n + _WHOLE - 1) // _WHOLE * _WHOLE
    buffer = np.zeros(total, real.dtype)
    features = np.zeros(whole * strides[layers], real.dtype)
    taps = len(tables[0])
    scores = np.empty(taps * whole, real.dtype)
    z, line = np.zeros(taps * _TARGETS, real.dtype), np.empty(_TARGETS, real.dtype)
    image_strides = tables[3][0]
    for u in range(some_rows[0], some_rows[1]):
        layer = layers
        while layers > 0:
            i = next_[layer]
            if layer == 0:
                base = image_at + place[0, i] * image_strides[1]
                where = at[0] + i % _RING * length[0] + channels
                load_line(
                    *(source, base, (image_strides[0], image_strides[2]), columns[0, lo[0] : hi[0]]),
                    *(mean, scale, buffer, where),
                )
            elif next_[layer - 1] < left[layer, i] + 2 + (place[layer, i] < height - 1):
                layer -= 1
                continue
            elif layer < layers:
                where = at[layer] + i % _RING * length[layer] + strides[layer]
                convolve_line(
                    layer, i, y, x, height, lo, hi, at, length, strides, widths, parameters, buffer, buffer, where
                )
            else:
                convolve_line(
                    layer, i, y, x, height, lo, hi, at, length, strides, widths, parameters, buffer, features, 0
                )
            next_[layer] += 1
            if layer == layers:
                scores[:] = real[0]
                add_products(features, n, widths[layers], strides[layers], texture, scores, whole)
                break
            layer += 1
        texts = whole if layers > 0 else 0
        for row in range(first_row[u], first_row[u + 1]):
            for q in range(first_column[lo[layers]], first_column[hi[layers]], _TARGETS):
                which = (q, min(q + _TARGETS, first_column[hi[layers]]))
                _targets(
                    *(source, target, image_at, result_at, row, which, anchor, lo[layers]),
                    *(scores, texts, tables, z, line, real),
                )


@jit
def forward(
    addresses,
    lengths,
    shape,
    strides_image,
    strides_result,
    widths,
    strides,
    weight,
    bias,
    weight_at,
    bias_at,
    texture,
    mean,
    scale,
    logits,
    rows,
    columns,
    anchor_rows,
    anchor_columns,
    normalise,
    like,
    real,
    part,
    parts,
):
    batch, channels, height, width = shape
    source, target = flat(addresses[0], lengths[0], like), flat(addresses[1], lengths[1], like)
    layers = len(widths) - 1
    y, x = needed(anchor_rows, height, layers), needed(anchor_columns, width, layers)
    net = (widths, strides, (weight, bias, weight_at, bias_at), texture, mean, scale)
    tables = (logits, rows, columns, (strides_image[1:], strides_result[1:], channels), normalise)
    n, divisions = y[0][layers], strips(x)
    begin, end = part * batch * n // parts, (part + 1) * batch * n // parts
    for image in range(begin // n, (end + n - 1) // n):
        some_rows = (max(begin - image * n, 0), min(end - image * n, n))
        for s in range(divisions):
            some_columns = (s * x[0][layers] // divisions, (s + 1) * x[0][layers] // divisions)
            _strip(
                *(source, target, image * strides_image[0], image * strides_result[0], y, x, (height, channels)),
                *(some_rows, some_columns, net, tables, real),
            )
