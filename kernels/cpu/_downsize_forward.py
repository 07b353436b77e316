"""DownsizeNet forward: convolutions where they are needed, coefficients, weighted sums of taps, row by row.

A thread takes rows of anchors, and of those a strip of columns at a time: each layer has a ring of three lines, and a
line is made when the next layer asks for it. So nothing but the result is as large as an image.
"""

import numpy as np

from fastwarp.kernels.cpu._downsize_coefficients import PAIRS, add_pairs, coefficients, interleave
from fastwarp.kernels.cpu._downsize_plan import needed, span, strips
from fastwarp.kernels.cpu._downsize_products import Matrix, add_texture, convolve
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._vector import load_as, pointer, prefetch, store

SIGMOID, SOFTMAX, SIGNED = range(3)

PADDING = PAIRS
"""Columns behind the last target's that are read, and have no effect."""

_RING = 3
_LINES = _RING + 1  # of zeros: above and below the image
_TARGETS = 128  # whose coefficients are made at a time, at most
_COEFFICIENTS = 1 << 15  # that are made at a time
_FEW = 4  # channels that fit into the vector of a pixel
_WHOLE = 16  # values of a vector, at most


@inline
def line_places(lo, hi, strides):
    """Where the lines of each layer lie in a strip's buffer, how long they are, and the buffer's length.

    Before and after the needed columns, a line has a pixel of zeros for the padding of the image. The last layer has a
    single line without them, which line after line is written to; it ends with a whole vector of pixels.
    """
    layers = len(lo) - 1
    at, length = np.empty(layers + 1, np.int64), np.empty(layers + 1, np.int64)
    total = 0
    for layer in range(layers):
        at[layer], length[layer] = total, (hi[layer] - lo[layer] + 2) * strides[layer]
        total += _LINES * length[layer]
    at[layers], length[layers] = total - strides[layers], 0
    return at, length, total + whole_vectors(hi[layers] - lo[layers]) * strides[layers]


@inline
def whole_vectors(count):
    return (count + _WHOLE - 1) // _WHOLE * _WHOLE


@inline
def _load_line(source, base, strides, columns, mean, scale, buffer, at):
    """One row of the image, normalised, channels last."""
    channels = len(mean)
    if 2 <= channels <= _FEW and strides[3] == 1:
        interleave(source, base, strides[1], columns, mean, scale, buffer, at)
        last = at + len(columns) * channels
        buffer[last : last + _FEW - channels] = 0
        return
    for j in range(len(columns)):
        first = base + columns[j] * strides[3]
        for c in range(channels):
            value = load_as(source, first + c * strides[1], mean[c])
            buffer[at + j * channels + c] = (value - mean[c]) * scale[c]


@inline
def _prefetch_line(source, base, strides, first, last, channels):
    """Asks for the columns first .. last of a row that comes next: too short for the hardware to know where it goes."""
    for c in range(channels if strides[3] == 1 else 1):
        at = base + c * strides[1]
        for i in range(first * strides[3], last * strides[3] + 1, _WHOLE):
            prefetch(source, at + i)


@inline
def _convolve_line(
    layer,
    i,
    place,
    left,
    left_columns,
    height,
    lo,
    hi,
    at,
    length,
    strides,
    widths,
    weight,
    bias,
    weight_at,
    bias_at,
    buffer,
):
    """Line i of a layer from the three lines of the layer before, which its ring holds."""
    above = layer - 1
    start = at[above] - (lo[above] - 1) * strides[above]
    zeros = start + _RING * length[above]
    k = left[layer, i]
    upper = start + k % _RING * length[above] if place[layer, i] > 0 else zeros
    middle = start + (k + 1) % _RING * length[above]
    lower = start + (k + 2) % _RING * length[above] if place[layer, i] < height - 1 else zeros
    columns, matrix = left_columns[layer, lo[layer] : hi[layer]], Matrix(weight, weight_at[layer], strides[layer])
    out = at[layer] + i % _RING * length[layer] + strides[layer]
    of_layer = (strides[above], widths[above], matrix, bias[bias_at[layer] :])
    convolve(buffer, (upper, middle, lower), 3, columns, *of_layer, True, buffer, out)


@inline
def _gaps(columns):
    """Of each tap and the one to its right, for how many targets before they are not side by side."""
    count = np.zeros((len(columns), columns.shape[1] + 1), np.int32)
    for kx in range(len(columns) - 1):
        for q in range(columns.shape[1]):
            count[kx, q + 1] = count[kx, q] + (columns[kx + 1, q] - columns[kx, q] != 1)
    return count


@inline
def _targets(
    source,
    target,
    image_at,
    result_at,
    strides_image,
    strides_result,
    channels,
    row,
    which,
    anchor,
    begin,
    scores,
    texts,
    logits,
    rows,
    columns,
    gaps,
    normalise,
    z,
    line,
    real,
):
    """The targets `which` of one row, no more than fit into `line`."""
    across, width = len(columns), columns.shape[1] - PADDING
    taps = rows.shape[1] * across
    _, channel_stride, row_stride, column_stride = strides_image
    lo, hi = which
    n, step = hi - lo, len(line)
    for k in range(taps):
        first, text, at = k * step, k * texts + anchor[lo] - begin, (k * len(rows) + row) * width + lo
        if not texts:
            for i in range(n):
                store(load_as(logits, at + i, real[0]), z, first + i)
        elif anchor[hi - 1] - anchor[lo] == n - 1:
            for i in range(n):
                store(load_as(scores, text + i, real[0]) + load_as(logits, at + i, real[0]), z, first + i)
        else:
            for i in range(n):
                z[first + i] = scores[text + anchor[lo + i] - anchor[lo]] + load_as(logits, at + i, real[0])
    if normalise == SIGNED:
        for i in range(n):
            total = real[1]
            for k in range(taps):
                total -= z[k * step + i]
            line[i] = total / real.dtype.type(taps)
        for k in range(taps):
            for i in range(n):
                z[k * step + i] += line[i]
    else:
        coefficients(z, step, taps, n, normalise == SIGMOID)
    for c in range(channels):
        line[:] = real[0]
        for ky in range(rows.shape[1]):
            base = image_at + c * channel_stride + rows[row, ky] * row_stride
            kx = 0
            while kx < across:
                first = (ky * across + kx) * step
                if kx + 1 < across and column_stride == 1 and gaps[kx, hi] == gaps[kx, lo]:
                    begin = kx * columns.shape[1] + lo
                    add_pairs(source, base, columns, begin, z, first, first + step, n, line)
                    kx += 2
                    continue
                for i in range(n):
                    line[i] += z[first + i] * load_as(source, base + columns[kx, lo + i] * column_stride, real[0])
                kx += 1
        out = result_at + c * strides_result[1] + row * strides_result[2]
        if strides_result[3] == 1:
            for i in range(n):
                store(line[i], target, out + lo + i)
        else:
            for i in range(n):
                store(line[i], target, out + (lo + i) * strides_result[3])


@inline
def _strip(source, target, places, y, x, size, some_rows, some_columns, net, tables, real):
    """Anchors `some_rows` x `some_columns` of one image."""
    height, channels = size
    image_at, result_at, strides_image, strides_result = places
    # Taken from their tuples once: each time, references are counted, which threads wait for.
    widths, strides, weight, bias, weight_at, bias_at, texture, mean, scale = net
    logits, rows, columns, gaps, normalise = tables
    count, place, left, first_row, _ = y
    _, place_columns, left_columns, first_column, anchor = x
    layers = len(count) - 1
    lo, hi = span(x, *some_columns)
    next_, _ = span(y, *some_rows)
    at, length, total = line_places(lo, hi, strides)
    n = hi[layers] - lo[layers]
    whole = whole_vectors(n) if layers > 0 else 0
    buffer = np.zeros(total, real.dtype)
    features = buffer[at[layers] + strides[layers] :]
    taps = rows.shape[1] * len(columns)
    scores = np.empty(taps * whole, real.dtype)
    step = min(max(_COEFFICIENTS // taps // _WHOLE * _WHOLE, _WHOLE), _TARGETS)
    z, line = np.zeros(taps * step, real.dtype), np.empty(step, real.dtype)
    seen = place_columns[0, lo[0] : hi[0]]
    for u in range(some_rows[0], some_rows[1]):
        layer = layers
        while layers > 0:
            i = next_[layer]
            if layer > 0 and next_[layer - 1] < left[layer, i] + 2 + (place[layer, i] < height - 1):
                layer -= 1
                continue
            next_[layer] += 1
            if layer == 0:
                base = image_at + place[0, i] * strides_image[2]
                if i + 1 < count[0]:
                    ahead = base + (place[0, i + 1] - place[0, i]) * strides_image[2]
                    _prefetch_line(source, ahead, strides_image, seen[0], seen[len(seen) - 1], channels)
                _load_line(
                    source, base, strides_image, seen, mean, scale, buffer, at[0] + i % _RING * length[0] + channels
                )
            else:
                _convolve_line(
                    *(layer, i, place, left, left_columns, height, lo, hi, at, length),
                    *(strides, widths, weight, bias, weight_at, bias_at, buffer),
                )
            if layer == layers:
                scores[:] = real[0]
                add_texture(features, n, widths[layers], strides[layers], texture, scores, whole)
                break
            layer += 1
        for row in range(first_row[u], first_row[u + 1]):
            for q in range(first_column[lo[layers]], first_column[hi[layers]], step):
                _targets(
                    *(source, target, image_at, result_at, strides_image, strides_result, channels),
                    *(row, (q, min(q + step, first_column[hi[layers]])), anchor, lo[layers], scores, whole),
                    *(logits, rows, columns, gaps, normalise, z, line, real),
                )


@parallel
def forward(
    addresses,
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
    source, target = pointer(addresses[0], like), pointer(addresses[1], like)
    layers = len(widths) - 1
    y, x = needed(anchor_rows, height, layers), needed(anchor_columns, width, layers)
    net = (widths, strides, weight, bias, weight_at, bias_at, texture, mean, scale)
    tables = (logits, rows, columns, _gaps(columns), normalise)
    n, divisions = y[0][layers], strips(x, strides)
    begin, end = part * batch * n // parts, (part + 1) * batch * n // parts
    for image in range(begin // n, (end + n - 1) // n):
        places = (image * strides_image[0], image * strides_result[0], strides_image, strides_result)
        some_rows = (max(begin - image * n, 0), min(end - image * n, n))
        for s in range(divisions):
            some_columns = (s * x[0][layers] // divisions, (s + 1) * x[0][layers] // divisions)
            _strip(source, target, places, y, x, (height, channels), some_rows, some_columns, net, tables, real)
