"""DownsizeNet forward: convolutions where they are needed, coefficients, weighted sums of taps, row by row.

A thread takes rows of anchors, and of those a strip of columns at a time: each layer has a ring of three lines, and a
line is made when the next layer asks for it. So nothing but the result is as large as an image.

A layer is evaluated only where it is needed: the last one at the anchors, each other one at the neighbours of those of
the next. Rows and columns that nobody asks for do not exist: a line holds the needed columns side by side.
"""

from typing import Any, NamedTuple

from fastwarp.kernels.cpu._downsize_coefficients import PAIRS, add_pairs, coefficients, interleave
from fastwarp.kernels.cpu._downsize_network import (
    SIGMOID,
    SIGNED,
    WHOLE,
    Matrix,
    Places,
    add_texture,
    convolve,
    network,
    normal,
    whole_vectors,
)
from fastwarp.kernels.cpu._memory import integers, small_integers, zeros
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._vector import convert, elements, hold, load_as, pointer, prefetch, store, tail

PADDING = PAIRS
"""Columns behind the last target's that are read, and have no effect."""

_RING = 3
_LINES = _RING + 1  # of zeros: above and below the image
_TARGETS = 128  # whose coefficients are made at a time, at most
_COEFFICIENTS = 1 << 15  # that are made at a time
_FEW = 4  # channels that fit into the vector of a pixel
_STRIP = 4096  # values of a line of the last layer, less where channels are few: rings stay in the second cache
_MOST, _LEAST = 256, 32  # anchors of a strip


# --- where layers are needed ------------------------------------------------------------------------------------------


class LayerAxis(NamedTuple):
    """Where the layers are needed along rows or columns.

    `count[layer]` is the number of positions; layer 0 is the image. `place` `[L + 1][extent]` has them, increasing, and
    `left` the number of each one's left neighbour among those of the layer before; -1 at position 0. `first` has each
    anchor's first target, then the number of targets; `anchor` the number of each target's anchor.
    """

    layers: Any
    extent: Any
    count: Any
    place: Any
    left: Any
    first: Any
    anchor: Any


@inline
def _layer_axis(layers, extent, whole, small):
    """An `LayerAxis` that `_fill` has yet to fill, in working arrays of `_axis_whole` and `_axis_small` numbers."""
    left = (layers + 1) * extent
    return LayerAxis(layers, extent, whole, small, tail(small, left), tail(whole, layers + 1), tail(small, 2 * left))


@inline
def _axis_whole(layers, extent):
    return layers + extent + 2


@inline
def _axis_small(layers, extent, targets):
    return 2 * (layers + 1) * extent + targets


@inline
def _fill(axis, anchors, targets):
    """Finds the positions that are needed for nondecreasing anchors of so many targets."""
    layers, extent, count, place, left, first, anchor = axis
    n, last = 0, layers * extent
    for q in range(targets):
        if n == 0 or anchors[q] != place[last + n - 1]:
            place[last + n], first[n] = anchors[q], q
            n += 1
        anchor[q] = n - 1
    count[layers], first[n] = n, targets
    for layer in range(layers, 0, -1):
        m, free, at = 0, 0, layer * extent
        for i in range(count[layer]):
            p = place[at + i]
            for x in range(max(p - 1, free), min(p + 2, extent)):
                place[at - extent + m] = x
                m += 1
            free = min(p + 2, extent)
            left[at + i] = m - 2 - (p + 1 < extent)
        count[layer - 1] = m


@inline
def _fill_span(axis, begin, end, low, high):
    """Of the positions of each layer, the first and the one past the last that the anchors begin .. end need."""
    low[axis.layers], high[axis.layers] = begin, end
    for layer in range(axis.layers, 0, -1):
        at = layer * axis.extent
        low[layer - 1] = max(axis.left[at + low[layer]], 0)
        high[layer - 1] = min(axis.left[at + high[layer] - 1] + 3, axis.count[layer - 1])


@inline
def _strips(columns, strides):
    """Number of strips that the anchors of a row are divided into. `strides`: values of a pixel of each layer."""
    most = strides[0]
    for layer in range(columns.layers):
        most = max(most, strides[layer + 1])
    strip = min(max(_STRIP // max(most, 1), _LEAST), _MOST)
    return (columns.count[columns.layers] + strip - 1) // strip


# --- one strip --------------------------------------------------------------------------------------------------------


class ImageAndResult(NamedTuple):
    """An image and its result: memory, where the entry of the batch lies, strides `[B, C, H, W]`; the image's rows."""

    source: Any
    source_at: Any
    source_strides: Any
    target: Any
    target_at: Any
    target_strides: Any
    height: Any


class PaddedTaps(NamedTuple):
    """Which pixels the targets `[h, w]` mix: logits `[down * across, h, w]`, rows `[h, down]`, columns `[across,
    stride]`, and for each tap and the one to its right, for how many targets before they are not side by side."""

    logits: Any
    rows: Any
    columns: Any
    gaps: Any
    down: Any
    across: Any
    height: Any
    width: Any
    stride: Any
    normalise: Any


class Strip(NamedTuple):
    """A strip of columns: rows and columns where layers are needed; of each layer, the `span` of columns, the next
    line, and where its lines lie in `lines` and how long they are. Scores of the last line, `whole` from tap to tap;
    room for the coefficients of `step` targets and a line of those."""

    rows: Any
    columns: Any
    low: Any
    high: Any
    next: Any
    line_at: Any
    length: Any
    lines: Any
    scores: Any
    whole: Any
    coefficients: Any
    line: Any
    step: Any


@inline
def _place_lines(layers, low, high, strides, at, length):
    """Where the lines of each layer lie in a strip's lines, how long they are, and the length of all.

    Before and after the needed columns, a line has a pixel of zeros for the padding of the image. The last layer has a
    single line without them, which line after line is written to; it ends with a whole vector of pixels.
    """
    total = 0
    for layer in range(layers):
        at[layer], length[layer] = total, (high[layer] - low[layer] + 2) * strides[layer]
        total += _LINES * length[layer]
    at[layers], length[layers] = total - strides[layers], 0
    return total + whole_vectors(high[layers] - low[layers]) * strides[layers]


@inline
def _load_line(images, y, strip, net, image_normal, at):
    """Row y of the image, normalised, channels last; asks for the row after it, which is too short for the hardware to
    know where it goes."""
    source, strides, channels = images.source, images.source_strides, image_normal.channels
    count, place = strip.rows.count[0], strip.rows.place
    base = images.source_at + place[y] * strides[2]
    seen = Places(tail(strip.columns.place, strip.low[0]), strip.high[0] - strip.low[0])
    if y + 1 < count:
        ahead = base + (place[y + 1] - place[y]) * strides[2]
        for c in range(channels if strides[3] == 1 else 1):
            first = ahead + c * strides[1]
            for i in range(seen.numbers[0] * strides[3], seen.numbers[seen.count - 1] * strides[3] + 1, WHOLE):
                prefetch(source, first + i)
    if 2 <= channels <= _FEW and strides[3] == 1:
        interleave(source, base, strides[1], seen, image_normal, strip.lines, at)
        last = at + seen.count * channels
        for i in range(last, last + _FEW - channels):
            strip.lines[i] = 0
        return
    mean, scale = image_normal.mean, image_normal.scale
    for j in range(seen.count):
        first = base + seen.numbers[j] * strides[3]
        for c in range(channels):
            value = load_as(source, first + c * strides[1], mean[c])
            strip.lines[at + j * channels + c] = (value - mean[c]) * scale[c]


@inline
def _convolve_line(layer, i, height, strip, net):
    """Line i of a layer from the three lines of the layer before, which its ring holds."""
    above, rows = layer - 1, strip.rows
    step, length = net.strides[above], strip.length[above]
    start = strip.line_at[above] - (strip.low[above] - 1) * step
    place, k = rows.place[layer * rows.extent + i], rows.left[layer * rows.extent + i]
    zeros = start + _RING * length
    upper = start + k % _RING * length if place > 0 else zeros
    middle = start + (k + 1) % _RING * length
    lower = start + (k + 2) % _RING * length if place < height - 1 else zeros
    low, high = strip.low[layer], strip.high[layer]
    left = Places(tail(strip.columns.left, layer * strip.columns.extent + low), high - low)
    matrix = Matrix(net.weight, net.weight_at[layer], net.strides[layer])
    of_layer = (step, net.widths[above], matrix, tail(net.bias, net.bias_at[layer]))
    out = strip.line_at[layer] + i % _RING * strip.length[layer] + net.strides[layer]
    convolve(strip.lines, (upper, middle, lower), 3, left, *of_layer, True, strip.lines, out)


@inline
def _make_row(images, strip, net, image_normal, real):
    """Makes the next line of the last layer, and before it those of the layers before that it needs; then what the
    texture adds to the scores of its anchors."""
    layer, layers, rows, next_ = net.layers, net.layers, strip.rows, strip.next
    while layers > 0:
        i, at = next_[layer], layer * rows.extent
        if layer > 0:
            needs = rows.left[at + i] + 2 + (rows.place[at + i] < images.height - 1)
            if next_[layer - 1] < needs:
                layer -= 1
                continue
        next_[layer] += 1
        if layer == 0:
            line = strip.line_at[0] + i % _RING * strip.length[0] + image_normal.channels
            _load_line(images, i, strip, net, image_normal, line)
        else:
            _convolve_line(layer, i, images.height, strip, net)
        if layer == layers:
            break
        layer += 1
    if layers > 0:
        for i in range(net.taps * strip.whole):
            strip.scores[i] = real
        features = tail(strip.lines, strip.line_at[layers] + net.strides[layers])
        add_texture(features, strip.high[layers] - strip.low[layers], net, strip.scores, strip.whole)


@inline
def _make_strip_coefficients(taps, row, low, high, strip, real):
    """Coefficients of the targets low .. high of a row."""
    n, count, step, z, scores = high - low, taps.down * taps.across, strip.step, strip.coefficients, strip.scores
    anchor, begin = strip.columns.anchor, strip.low[strip.columns.layers]
    for k in range(count):
        first, text = k * step, k * strip.whole + anchor[low] - begin
        at = (k * taps.height + row) * taps.width + low
        if not strip.whole:
            for i in range(n):
                store(load_as(taps.logits, at + i, real), z, first + i)
        elif anchor[high - 1] - anchor[low] == n - 1:
            for i in range(n):
                store(load_as(scores, text + i, real) + load_as(taps.logits, at + i, real), z, first + i)
        else:
            for i in range(n):
                z[first + i] = scores[text + anchor[low + i] - anchor[low]] + load_as(taps.logits, at + i, real)
    if taps.normalise == SIGNED:
        for i in range(n):
            rest = convert(1, real)
            for k in range(count):
                rest -= z[k * step + i]
            strip.line[i] = rest / convert(count, real)
        for k in range(count):
            for i in range(n):
                z[k * step + i] += strip.line[i]
    else:
        coefficients(z, step, count, n, taps.normalise == SIGMOID)


@inline
def _mix(images, channels, taps, row, low, high, strip, real):
    """Writes the targets low .. high of a row: the taps of each channel by their coefficients."""
    n, step, z, line, columns, gaps = high - low, strip.step, strip.coefficients, strip.line, taps.columns, taps.gaps
    source, (_, channel_stride, row_stride, column_stride) = images.source, images.source_strides
    strides = images.target_strides
    for c in range(channels):
        for i in range(step):
            line[i] = real
        for ky in range(taps.down):
            base = images.source_at + c * channel_stride + taps.rows[row * taps.down + ky] * row_stride
            kx = 0
            while kx < taps.across:
                first, begin = (ky * taps.across + kx) * step, kx * taps.stride + low
                gap = kx * (taps.width + 1)
                if kx + 1 < taps.across and column_stride == 1 and gaps[gap + high] == gaps[gap + low]:
                    add_pairs(source, base, columns, begin, z, first, first + step, n, line)
                    kx += 2
                    continue
                for i in range(n):
                    line[i] += z[first + i] * load_as(source, base + columns[begin + i] * column_stride, real)
                kx += 1
        out = images.target_at + c * strides[1] + row * strides[2]
        if strides[3] == 1:
            for i in range(n):
                store(line[i], images.target, out + low + i)
        else:
            for i in range(n):
                store(line[i], images.target, out + (low + i) * strides[3])


@inline
def _fill_strip(images, strip, taps, net, image_normal, begin, end, real):
    """The targets of the anchors begin .. end in the strip's rows."""
    layers, first_row, first_column = net.layers, strip.rows.first, strip.columns.first
    left, right = first_column[strip.low[layers]], first_column[strip.high[layers]]
    for u in range(begin, end):
        _make_row(images, strip, net, image_normal, real)
        for row in range(first_row[u], first_row[u + 1]):
            for low in range(left, right, strip.step):
                high = min(low + strip.step, right)
                _make_strip_coefficients(taps, row, low, high, strip, real)
                _mix(images, image_normal.channels, taps, row, low, high, strip, real)


# --- all --------------------------------------------------------------------------------------------------------------


@inline
def _strip(rows, columns, spans, begin, end, net, like):
    """The strip of the anchors begin .. end of a row, and its numbers: the caller keeps them while it uses the strip.
    `spans` is for what it counts by layer."""
    layers, step = net.layers, net.layers + 1
    low, high, next_ = spans, tail(spans, step), tail(spans, 2 * step)
    at, length = tail(spans, 4 * step), tail(spans, 5 * step)
    _fill_span(columns, begin, end, low, high)
    total = whole_vectors(_place_lines(layers, low, high, net.strides, at, length))
    whole = whole_vectors(end - begin) if layers > 0 else 0
    room = min(max(_COEFFICIENTS // net.taps // WHOLE * WHOLE, WHOLE), _TARGETS)
    memory = zeros(total + net.taps * (whole + room) + room, like)
    lines = elements(memory)
    scores = tail(lines, total)
    z = tail(scores, net.taps * whole)
    of_lines = (next_, at, length, lines, scores, whole)
    return Strip(rows, columns, low, high, *of_lines, z, tail(z, net.taps * room), room), memory


@inline
def _fill_gaps(columns, across, width, stride, gaps):
    for kx in range(across - 1):
        at = kx * (width + 1)
        gaps[at] = 0
        for q in range(width):
            apart = columns[(kx + 1) * stride + q] - columns[kx * stride + q] != 1
            gaps[at + q + 1] = gaps[at + q] + apart


@inline
def _make_images(images, shape, taps, net, image_normal, rows, columns, spans, like, part, parts):
    """What a part does: rows of anchors of all images."""
    batch, real = shape[0], like[0]
    n, across, divisions = rows.count[net.layers], columns.count[net.layers], _strips(columns, net.strides)
    begin, end = part * batch * n // parts, (part + 1) * batch * n // parts
    step = net.layers + 1
    for image in range(begin // n, (end + n - 1) // n):
        source_at, target_at = image * images.source_strides[0], image * images.target_strides[0]
        of_source = (images.source, source_at, images.source_strides)
        one = ImageAndResult(*of_source, images.target, target_at, images.target_strides, shape[2])
        low, high = max(begin - image * n, 0), min(end - image * n, n)
        for s in range(divisions):
            first, last = s * across // divisions, (s + 1) * across // divisions
            strip, memory = _strip(rows, columns, spans, first, last, net, like)
            _fill_span(rows, low, high, strip.next, tail(spans, 3 * step))
            _fill_strip(one, strip, taps, net, image_normal, low, high, real)
            hold(memory)


@parallel
def forward(
    addresses,
    shape,
    strides_image,
    strides_result,
    net_arrays,
    statistics,
    tables,
    anchors,
    normalise,
    like,
    real,
    part,
    parts,
):
    """The result.

    Args:
        addresses: of image and result.
        shape: `[B, C, H, W]`.
        strides_image: of the image.
        strides_result: of the result.
        net_arrays: what `packed` made.
        statistics: mean and scale of the channels.
        tables: logits, flat; rows `[h, KY]`; columns `[KX, w + PADDING]`.
        anchors: of rows and columns.
        normalise: mode.
        like: empty array of the storage type.
        real: 0 and 1.
        part: number of this part of the job.
        parts: number of parts.
    """
    logits, rows, columns = tables
    height, width, down, across = len(anchors[0]), len(anchors[1]), rows.shape[1], len(columns)
    net, layers = network(net_arrays, down * across), len(net_arrays[0]) - 1
    small_y, small_x = _axis_small(layers, shape[2], height), _axis_small(layers, shape[3], width)
    whole_y, whole_x = _axis_whole(layers, shape[2]), _axis_whole(layers, shape[3])
    small = small_integers(small_y + small_x + across * (width + 1))
    whole = integers(whole_y + whole_x + 6 * (layers + 1))
    y = _layer_axis(layers, shape[2], elements(whole), elements(small))
    x = _layer_axis(layers, shape[3], tail(whole, whole_y), tail(small, small_y))
    gaps = tail(small, small_y + small_x)
    _fill(y, elements(anchors[0]), height)
    _fill(x, elements(anchors[1]), width)
    stride = columns.shape[1]
    _fill_gaps(elements(columns), across, width, stride, gaps)
    tables_of_taps = (elements(logits), elements(rows), elements(columns), gaps)
    taps = PaddedTaps(*tables_of_taps, down, across, height, width, stride, normalise)
    source, target = pointer(addresses[0], like), pointer(addresses[1], like)
    images = ImageAndResult(source, 0, strides_image, target, 0, strides_result, shape[2])
    _make_images(images, shape, taps, net, normal(statistics), y, x, tail(whole, whole_y + whole_x), real, part, parts)
    hold(small)
    hold(whole)
