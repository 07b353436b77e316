"""What the targets of `downsize` pass back: to their z, to the features at their anchors, and to the pixels they read.

Values of the targets of a row lie as `[tap][target]`, as in `_downsize_forward`.
"""

import numpy as np

from fastwarp.kernels.cpu._downsize_coefficients import coefficients, coefficients_gradient
from fastwarp.kernels.cpu._downsize_forward import SIGMOID, SIGNED
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._vector import load_as, pointer, store


@inline
def _mix(z, values, scores, whole, anchor, begin, row, step, logits, normalise, real):
    """Makes z and the coefficients of the targets from `begin` on, one for each of `anchor`."""
    taps, count = len(logits), len(anchor)
    for k in range(taps):
        for i in range(count):
            z[k * step + i] = logits[k, row, begin + i]
        if whole:
            for i in range(count):
                z[k * step + i] += scores[k * whole + anchor[i]]
        for i in range(count):
            values[k * step + i] = z[k * step + i]
    if normalise == SIGNED:
        for i in range(count):
            rest = real[1]
            for k in range(taps):
                rest -= z[k * step + i]
            rest /= real.dtype.type(taps)
            for k in range(taps):
                values[k * step + i] += rest
    else:
        coefficients(values, step, taps, count, normalise == SIGMOID)


@inline
def _to_coefficients(images, rows, columns, row, begin, grads, line, step):
    """Gradients to the coefficients: for each tap, the sum over the channels of gradient times pixel."""
    source, image_at, strides, grad, grad_at, grad_strides = images
    count, across = len(line), columns.shape[1]
    for k in range(rows.shape[1] * across):
        for i in range(count):
            grads[k * step + i] = 0
    for c in range(strides[3]):
        first = grad_at + c * grad_strides[0] + row * grad_strides[1]
        for i in range(count):
            line[i] = load_as(grad, first + (begin + i) * grad_strides[2], line[i])
        for ky in range(rows.shape[1]):
            base = image_at + c * strides[0] + rows[row, ky] * strides[1]
            for kx in range(across):
                k = ky * across + kx
                for i in range(count):
                    value = load_as(source, base + columns[begin + i, kx] * strides[2], line[i])
                    grads[k * step + i] += line[i] * value


@inline
def _to_z(z, values, grads, step, taps, count, normalise, real):
    """Gradients to the coefficients become those to z."""
    if normalise == SIGNED:
        for i in range(count):
            mean = real[0]
            for k in range(taps):
                mean += grads[k * step + i]
            mean /= real.dtype.type(taps)
            for k in range(taps):
                grads[k * step + i] -= mean
    else:
        coefficients_gradient(z, values, grads, step, taps, count, normalise == SIGMOID)


@inline
def target_row(row, begin, owned, anchor, scores, whole, images, tables, buffers, by_anchor, kept, to_logits, real):
    """One row of targets from `begin` on, one for each of `anchor`.

    Args:
        row: of targets.
        begin: first target.
        owned: first and past the last target whose coefficients are kept and gradients to the logits are added.
        anchor: number of each target's anchor in `scores` and `by_anchor`.
        scores: what the texture adds to z, `[K][anchor]`.
        whole: values from tap to tap in `scores`; 0 where there are none.
        images: image and gradient: memory, where the batch's entry lies, strides of channels, rows, columns.
        tables: logits, rows, columns, mode.
        buffers: z, coefficients, gradients `[K][step]`, a line of them, and `step`.
        by_anchor: `[anchor][K]`, to which the gradients to z are added; empty: nobody asks for them.
        kept: where the coefficients go, `[images, K, h, w]`, and which of the images this is; empty: nowhere.
        to_logits: to which the gradients to z are added, `[runs, K, h, w]`, and which of the runs; empty: nowhere.
        real: 0 and 1.
    """
    logits, rows, columns, normalise = tables
    z, values, grads, line, step = buffers
    taps, count = len(logits), len(anchor)
    _mix(z, values, scores, whole, anchor, begin, row, step, logits, normalise, real)
    if len(kept[0]):
        for k in range(taps):
            for q in range(owned[0], owned[1]):
                kept[0][kept[1], k, row, q] = values[k * step + q - begin]
    if len(by_anchor) == 0 and len(to_logits[0]) == 0:
        return
    _to_coefficients(images, rows, columns, row, begin, grads, line[:count], step)
    _to_z(z, values, grads, step, taps, count, normalise, real)
    if len(to_logits[0]):
        for k in range(taps):
            for q in range(owned[0], owned[1]):
                to_logits[0][to_logits[1], k, row, q] += grads[k * step + q - begin]
    if len(by_anchor):
        for k in range(taps):
            for i in range(count):
                by_anchor[anchor[i] * taps + k] += grads[k * step + i]


@parallel
def pixels_gradient(
    addresses, shape, grad_strides, strides, values, add, rows, columns, like, part_like, real, part, parts
):
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
        like: empty array of the storage type.
        part_like: of the type of what is added.
        real: 0 and 1.
        part: number of this part of the job.
        parts: number of parts.
    """
    batch, channels, height, width = shape
    grad, target = pointer(addresses[0], like), pointer(addresses[1], like)
    other = pointer(addresses[2], part_like)
    across = columns.shape[1]
    total = np.empty((channels, width), real.dtype)
    for unit in range(part * batch * height // parts, (part + 1) * batch * height // parts):
        image, y = unit // height, unit % height
        total[:] = 0
        for ky in range(rows.shape[1]):
            first, last = np.searchsorted(rows[:, ky], y), np.searchsorted(rows[:, ky], y, "right")
            for row in range(first, last):
                for c in range(channels):
                    start = image * grad_strides[0] + c * grad_strides[1] + row * grad_strides[2]
                    for q in range(len(columns)):
                        g = load_as(grad, start + q * grad_strides[3], real[0])
                        for kx in range(across):
                            total[c, columns[q, kx]] += values[image, ky * across + kx, row, q] * g
        start = image * strides[0] + y * strides[2]
        for c in range(channels):
            for x in range(width):
                place = start + c * strides[1] + x * strides[3]
                value = total[c, x]
                if add:
                    value += load_as(other, place, real[0])
                store(value, target, place)
