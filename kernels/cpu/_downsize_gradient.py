"""What the targets of `downsize` pass back: to their z, to the features at their anchors, and to the pixels they read.

Values of the targets of a row lie as `[tap][target]`, a tap every `step` values.
"""

from typing import Any, NamedTuple

from fastwarp.kernels.cpu._downsize_coefficients import coefficients, coefficients_gradient
from fastwarp.kernels.cpu._downsize_network import SIGMOID, SIGNED
from fastwarp.kernels.cpu._memory import numbers
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._vector import convert, elements, hold, load_as, pointer, store, tail


class PixelTaps(NamedTuple):
    """Which pixels the targets mix: logits `[down * across, h, w]`, rows `[h, down]`, columns `[w, across]`."""

    logits: Any
    rows: Any
    columns: Any
    down: Any
    across: Any
    height: Any
    width: Any
    normalise: Any


class TargetsRoom(NamedTuple):
    """For the targets of a row: z, coefficients and gradients `[K][step]`, and a line of them."""

    z: Any
    values: Any
    grads: Any
    line: Any
    step: Any


class ImageAndGradient(NamedTuple):
    """Image and gradient of the result: memory, where the batch's entry lies, strides `[B, C, H, W]`; channels."""

    source: Any
    source_at: Any
    source_strides: Any
    grad: Any
    grad_at: Any
    grad_strides: Any
    channels: Any


class Targets(NamedTuple):
    """The `count` targets of every row whose anchors a tile has: the first, the number of each one's anchor in `scores`
    and `by_anchor`, and first and past the last of those that are the tile's own.

    `scores` `[K][whole]` is what the texture adds to z; `whole` is 0 where there is none. `by_anchor` `[anchor][K]` is
    what the gradients to z are added to, if `pulls`.
    """

    begin: Any
    count: Any
    anchor: Any
    own_begin: Any
    own_end: Any
    scores: Any
    whole: Any
    by_anchor: Any
    pulls: Any


class Kept(NamedTuple):
    """Where what all targets have goes: coefficients `[images, K, h, w]`, if `keeps`, and the gradients to the logits,
    which are added to `[runs, K, h, w]`, if `adds`; from the batch's entry or the run on."""

    values: Any
    keeps: Any
    to_logits: Any
    adds: Any


@inline
def _make_coefficients(row, targets, taps, room, real):
    """Makes z and the coefficients of the targets of a row."""
    z, values, step, count, anchor = room.z, room.values, room.step, targets.count, targets.anchor
    total = taps.down * taps.across
    for k in range(total):
        first, at = k * step, (k * taps.height + row) * taps.width + targets.begin
        for i in range(count):
            z[first + i] = taps.logits[at + i]
        if targets.whole:
            for i in range(count):
                z[first + i] += targets.scores[k * targets.whole + anchor[i]]
        for i in range(count):
            values[first + i] = z[first + i]
    if taps.normalise == SIGNED:
        for i in range(count):
            rest = convert(1, real)
            for k in range(total):
                rest -= z[k * step + i]
            rest /= convert(total, real)
            for k in range(total):
                values[k * step + i] += rest
    else:
        coefficients(values, step, total, count, taps.normalise == SIGMOID)


@inline
def _to_coefficients(row, images, targets, taps, room):
    """Gradients to the coefficients: for each tap, the sum over the channels of gradient times pixel."""
    grads, line, step, begin, count = room.grads, room.line, room.step, targets.begin, targets.count
    strides, grad_strides = images.source_strides, images.grad_strides
    for k in range(taps.down * taps.across):
        for i in range(count):
            grads[k * step + i] = 0
    for c in range(images.channels):
        first = images.grad_at + c * grad_strides[1] + row * grad_strides[2]
        for i in range(count):
            line[i] = load_as(images.grad, first + (begin + i) * grad_strides[3], line[i])
        for ky in range(taps.down):
            base = images.source_at + c * strides[1] + taps.rows[row * taps.down + ky] * strides[2]
            for kx in range(taps.across):
                k = ky * taps.across + kx
                for i in range(count):
                    column = taps.columns[(begin + i) * taps.across + kx]
                    grads[k * step + i] += line[i] * load_as(images.source, base + column * strides[3], line[i])


@inline
def _to_z(count, taps, room, real):
    """Gradients to the coefficients become those to z."""
    grads, step, total = room.grads, room.step, taps.down * taps.across
    if taps.normalise == SIGNED:
        for i in range(count):
            mean = convert(0, real)
            for k in range(total):
                mean += grads[k * step + i]
            mean /= convert(total, real)
            for k in range(total):
                grads[k * step + i] -= mean
    else:
        coefficients_gradient(room.z, room.values, grads, step, total, count, taps.normalise == SIGMOID)


@inline
def target_row(row, owns, images, targets, taps, room, kept, real):
    """One row of targets; `owns`: whether it is the tile's, so that coefficients are kept and gradients to the logits
    are added. `real` is a number of the type that computes."""
    _make_coefficients(row, targets, taps, room, real)
    total, step, begin = taps.down * taps.across, room.step, targets.begin
    own_begin, own_end = (targets.own_begin, targets.own_end) if owns else (0, 0)
    if kept.keeps:
        for k in range(total):
            at = (k * taps.height + row) * taps.width
            for q in range(own_begin, own_end):
                kept.values[at + q] = room.values[k * step + q - begin]
    if not targets.pulls and not kept.adds:
        return
    _to_coefficients(row, images, targets, taps, room)
    _to_z(targets.count, taps, room, real)
    if kept.adds:
        for k in range(total):
            at = (k * taps.height + row) * taps.width
            for q in range(own_begin, own_end):
                kept.to_logits[at + q] += room.grads[k * step + q - begin]
    if targets.pulls:
        for k in range(total):
            for i in range(targets.count):
                targets.by_anchor[targets.anchor[i] * total + k] += room.grads[k * step + i]


# --- the gradient to the pixels as they are interpolated --------------------------------------------------------------


@inline
def first_from(values, step, count, least):
    """The first i of 0 .. count for which `values[i * step]`, nondecreasing, is `least` or more; count if none is."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if values[middle * step] < least:
            low = middle + 1
        else:
            high = middle
    return low


@inline
def _gather_row(image, y, grad, grad_strides, values, taps, total, channels, width):
    """Row y of the gradient of an entry of the batch, over the targets that read it: `total` `[C, W]`."""
    real = total[0]
    for x in range(channels * width):
        total[x] = 0
    for ky in range(taps.down):
        rows = tail(taps.rows, ky)
        first = first_from(rows, taps.down, taps.height, y)
        last = first_from(rows, taps.down, taps.height, y + 1)
        for row in range(first, last):
            for c in range(channels):
                start = image * grad_strides[0] + c * grad_strides[1] + row * grad_strides[2]
                for q in range(taps.width):
                    g = load_as(grad, start + q * grad_strides[3], real)
                    for kx in range(taps.across):
                        k = image * taps.down * taps.across + ky * taps.across + kx
                        value = values[(k * taps.height + row) * taps.width + q]
                        total[c * width + taps.columns[q * taps.across + kx]] += value * g


@inline
def _pixels_gradient(addresses, shape, grad_strides, strides, values, add, taps, likes, total, part, parts):
    _, channels, height, width = shape
    like, part_like, _ = likes
    grad, target, other = pointer(addresses[0], like), pointer(addresses[1], like), pointer(addresses[2], part_like)
    for unit in range(part * shape[0] * height // parts, (part + 1) * shape[0] * height // parts):
        image, y = unit // height, unit % height
        _gather_row(image, y, grad, grad_strides, values, taps, total, channels, width)
        start = image * strides[0] + y * strides[2]
        for c in range(channels):
            for x in range(width):
                place = start + c * strides[1] + x * strides[3]
                value = total[c * width + x]
                if add:
                    value += load_as(other, place, total[0])
                store(value, target, place)


@parallel
def pixels_gradient(addresses, shape, grad_strides, strides, values, add, rows, columns, likes, part, parts):
    """The gradient to the pixels as they are interpolated: each row gathers over the targets that read it.

    Args:
        addresses: of the gradient of the result, of the image's, and of what else there is for it.
        shape: `[B, C, H, W]`.
        grad_strides: strides of the gradient of the result.
        strides: of the image's gradient and of what is added to it.
        values: coefficients `[B, K, h, w]`.
        add: whether something is added.
        rows: of the taps `[h, KY]`.
        columns: of the taps `[w, KX]`.
        likes: arrays of the storage type, of the type of what is added, and of the one that computes.
        part: number of this part of the job.
        parts: number of parts.
    """
    kept = elements(values)
    taps = PixelTaps(
        kept, elements(rows), elements(columns), rows.shape[1], columns.shape[1], len(rows), len(columns), 0
    )
    total = numbers(shape[1] * shape[3], likes[2])
    args = (addresses, shape, grad_strides, strides, kept, add, taps, likes)
    _pixels_gradient(*args, elements(total), part, parts)
    hold(total)
