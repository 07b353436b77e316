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

from fastwarp.kernels.cpu._downsize_gradient import (
    ImageAndGradient,
    Kept,
    PixelTaps,
    Targets,
    TargetsRoom,
    first_from,
    target_row,
)
from fastwarp.kernels.cpu._downsize_network import WHOLE, add_texture, network, normal, whole_vectors
from fastwarp.kernels.cpu._downsize_rows import (
    COUNTS,
    Back,
    ImageTile,
    Lines,
    Sums,
    Wanted,
    activate,
    add_row,
    clear_line,
    fill_rings,
    find_layer_columns,
    halo_of,
    image_row,
    load_row,
    pull_back,
    pull_targets,
    row_near,
)
from fastwarp.kernels.cpu._memory import clear, integers, small_integers, zeros
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._vector import elements, hold, pointer, tail

_FLUSH = 16  # rows of a tile whose products are summed in the type of the activations; sums of those are float64


@inline
def _sweep_targets(y, tile, wanted, net, lines, features, images, targets, tables, kept, sums, real):
    """The targets whose anchors lie in row y, from its features, and what they pass back to those."""
    taps, room = tables
    layers, n = net.layers, lines.counts[COUNTS * net.layers]
    if wanted.any:
        clear_line(lines, 1, layers, layers, y)
    if n == 0 or not tile.low <= y < tile.high or not row_near(tile, y, 0):
        return
    if layers > 0:
        activate(layers, y, tile, net, lines, features)
        clear(targets.scores, net.taps * targets.whole)
        add_texture(features, n, net, targets.scores, targets.whole)
        if wanted.any:
            clear(targets.by_anchor, net.taps * lines.length)
    first = first_from(tile.anchors, 1, tile.anchor_count, y)
    for row in range(first, first_from(tile.anchors, 1, tile.anchor_count, y + 1)):
        target_row(row, tile.top <= y < tile.bottom, images, targets, taps, room, kept, real)
    if wanted.any:
        pull_targets(y, tile, wanted, net, lines, features, targets, sums)


@inline
def _sweep_gradients(t, tile, wanted, net, back, lines, scale, image_gradient, sums):
    """The gradients that are due when the sweep is at row t, of the last layer first."""
    layers = net.layers
    target, target_at, strides = image_gradient
    for layer in range(layers, 0, -1):
        y = t - 2 * layers + layer
        if layer < layers:
            pull_back(layer, y, tile, wanted, net, back, lines)
        if wanted.parameters and tile.top <= y < tile.bottom and row_near(tile, y, layers - layer):
            add_row(layer, y, tile.height, net, lines, sums)
    y = t - 2 * layers
    if wanted.texture and tile.top <= y < tile.bottom:
        image_row(y, tile, net, back, lines, scale, target, target_at, strides)
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
            load_row(images, t, tile, image_normal, lines, layers)
            for layer in range(1, layers):
                activate(layer, t - layer, tile, net, lines, features)
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
    """ImageTile j of row i of the tiles."""
    anchors, layers, halo = job.anchors, job.net.layers, job.wanted.halo
    height, width = job.shape[2], job.shape[3]
    top, bottom = i * height // job.tiles[0], (i + 1) * height // job.tiles[0]
    begin, end = j * width // job.tiles[1], (j + 1) * width // job.tiles[1]
    rows = (anchors[0], job.taps.height, top - halo, bottom + halo, height)
    return ImageTile(top, bottom, begin, end, begin - halo - layers - 1, *rows)


@inline
def _targets(job, tile, lines, anchor, scores, whole, by_anchor):
    """The `Targets` of a tile; `anchor` is room for their numbers."""
    columns, count, layers = job.anchors[1], job.taps.width, job.net.layers
    first = first_from(columns, 1, count, tile.begin - job.wanted.halo)
    last = first_from(columns, 1, count, tile.end + job.wanted.halo)
    own_begin, own_end = first_from(columns, 1, count, tile.begin), first_from(columns, 1, count, tile.end)
    places = tail(lines.places, layers * lines.length)
    for q in range(first, last):
        anchor[q - first] = first_from(places, 1, lines.counts[COUNTS * layers], columns[q] - tile.base)
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
        clear(lines.memory, total)
        find_layer_columns(job.anchors[1], job.taps.width, tile, job.wanted, job.shape[3], job.net.layers, lines)
        targets = _targets(job, tile, lines, anchor, scores, whole, by_anchor)
        of_unit = Sums(sums.at, sums.recent, tail(sums.total, unit * sums.count), sums.count)
        for image in range(run * batch // job.runs, (run + 1) * batch // job.runs):
            entry = first_image + image
            of_image = (source, entry * source_strides[0], source_strides)
            images = ImageAndGradient(*of_image, grad, entry * grad_strides[0], grad_strides, job.shape[1])
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
    wide = whole_vectors(max(3 * most, 3 * net.widths[0] + WHOLE))
    return (length + 2) * wide, wide


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
    wanted = Wanted(to_texture, to_parameters, any_, halo_of(layers, to_texture, to_parameters))
    length = (shape[3] + tiles[1] - 1) // tiles[1] + 2 * (wanted.halo + layers + 1)
    whole, step = whole_vectors(length) if layers > 0 else 0, whole_vectors(width)
    counts = integers((6 + COUNTS) * (layers + 1))
    small = small_integers((2 * (layers + 1) + 1) * length + width)
    for i in range(length):
        small[i] = i
    total = fill_rings(layers, net.strides, length, any_, elements(counts))
    (other, none), sum_count = _room_of_line(net, length), sums[0][-1] if to_parameters else 0
    features, by_anchor = whole * net.strides[layers], whole_vectors(net.taps * length) if any_ else 0
    of_lines = whole_vectors(total) + other + none + WHOLE
    of_targets = features + net.taps * whole + by_anchor + (3 * net.taps + 1) * step
    memory = zeros(of_lines + of_targets + sum_count, likes[2])
    memory[of_lines - WHOLE] = 1
    line = elements(memory)
    other_at = tail(line, whole_vectors(total))
    places = tail(small, length)
    lines = Lines(
        *(line, elements(counts), places, tail(places, (layers + 1) * length), elements(small)),
        *(tail(counts, 6 * (layers + 1)), length, other_at, tail(line, of_lines - WHOLE), tail(other_at, other)),
    )
    feature_at = tail(line, of_lines)
    scores = tail(feature_at, features)
    anchor_at = tail(scores, net.taps * whole)
    z = tail(anchor_at, by_anchor)
    room = TargetsRoom(z, tail(z, net.taps * step), tail(z, 2 * net.taps * step), tail(z, 3 * net.taps * step), step)
    pixels = (elements(logits), elements(rows), elements(columns), rows.shape[1], columns.shape[1])
    taps = PixelTaps(*pixels, height, width, options[0])
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
