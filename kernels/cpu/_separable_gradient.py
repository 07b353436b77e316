"""Gradient of a resampling to its windows."""

from fastwarp.kernels.cpu._memory import clear, integers, numbers, zeros
from fastwarp.kernels.cpu._parallel import inline, jit, parallel
from fastwarp.kernels.cpu._rows import LANES, blend_rows
from fastwarp.kernels.cpu._separable_taps import (
    chain_to_bilinear_windows,
    chain_to_windows,
    hull,
    next_row,
    pairs,
    runs,
    windows_of,
)
from fastwarp.kernels.cpu._vector import elements, full, hold, lane, load, load_as, pointer, store, tail, zero_of

CHUNKS = 16  # partial sums: a fixed number, so that the result does not depend on the threads


@inline
def _add_slopes(values, rises, grads, x, channels, by_column):
    """Adds the products of the eight interleaved rows of gradients with the slopes of both axes.

    To `by_column` `[column][8]`, gradient times difference of the taps; returned for the rows, the sum over the columns
    of gradient times `rises`, the difference of the lower and the upper row, at the column.
    """
    total = full(zero_of(values), LANES)
    for j in range(x.count):
        left, right, at = load(x.first, j, 1) * channels, load(x.second, j, 1) * channels, j * channels
        if left >= 0:
            w_left, w_right = full(load(x.w_first, j, 1), LANES), full(load(x.w_second, j, 1), LANES)
            for c in range(channels):
                a, b, here = (left + c) * LANES, (right + c) * LANES, (at + c) * LANES
                g = load(grads, here, LANES)
                difference = load(values, b, LANES) - load(values, a, LANES)
                store(load(by_column, here, LANES) + g * difference, by_column, here)
                total = total + g * (load(rises, a, LANES) * w_left + load(rises, b, LANES) * w_right)
    return total


@inline
def _add_units(source, grad, real, units, image, level, y, x, by_y, by_x):
    """Adds the gradients of the centres over some units of eight rows of one image to `by_y` and `by_x`."""
    channels, planes, h, w = level.channels, level.planes, level.rows, level.columns
    stride, grad_stride = level.width * channels, w * channels
    memory = zeros((2 * stride + 2 * grad_stride + 5) * LANES, real)
    by_column = elements(memory)
    values, rises = tail(by_column, grad_stride * LANES), tail(by_column, (grad_stride + stride) * LANES)
    grads = tail(rises, stride * LANES)
    w_upper, w_lower = tail(grads, grad_stride * LANES), tail(grads, (grad_stride + 1) * LANES)
    minus, one, half = tail(w_upper, 2 * LANES), tail(w_upper, 3 * LANES), tail(w_upper, 4 * LANES)
    places = integers(4 * LANES)
    upper, lower, at, target = elements(places), tail(places, LANES), tail(places, 2 * LANES), tail(places, 3 * LANES)
    for k in range(LANES):
        minus[k], one[k], half[k] = -1, 1, 0.5
    for unit in range(units[0], units[1]):
        plane, i = unit * LANES // h, unit * LANES % h
        some = -1
        for k in range(LANES):
            base = (image * planes + plane) * level.height
            idle = y.first[i] < 0 or unit * LANES + k >= planes * h
            target[k] = -1 if idle else i
            some = some if idle else k
            upper[k], lower[k] = (base + y.first[i]) * stride, (base + y.second[i]) * stride
            at[k] = ((image * planes + plane) * h + i) * grad_stride
            w_upper[k], w_lower[k] = y.w_first[i], y.w_second[i]
            plane, i = next_row(plane, i, planes, h)
        if some < 0:
            continue
        for k in range(LANES):  # idle lanes follow one that is not, with a gradient of zero: they read nothing else
            if target[k] < 0:
                upper[k], lower[k], at[k] = upper[some], lower[some], at[some]
                w_upper[k], w_lower[k] = w_upper[some], w_lower[some]
        ahead = (upper[LANES - 1] - upper[0]) * LANES // (LANES - 1)
        blend_rows(source, upper, lower, w_upper, w_lower, 0, stride, values, ahead)
        blend_rows(source, upper, lower, minus, one, 0, stride, rises, 0)
        blend_rows(grad, at, at, half, half, 0, grad_stride, grads, (at[LANES - 1] - at[0]) * LANES // (LANES - 1))
        for k in range(LANES):
            if target[k] < 0:
                for q in range(grad_stride):
                    grads[q * LANES + k] = 0
        by_row = _add_slopes(values, rises, grads, x, channels, by_column)
        for k in range(LANES):
            if target[k] >= 0:
                by_y[target[k]] += lane(by_row, k)
    for j in range(w):
        for q in range(j * channels * LANES, (j + 1) * channels * LANES):
            by_x[j] += by_column[q]
    hold(memory)
    hold(places)


@inline
def _to_partial(partial, chunk, image, first):
    """Where the gradient of centres and half-widths is added, from window `first` on."""
    all_ = partial.shape[3]
    at = 2 * (chunk * partial.shape[1] + image) * all_ + first
    return tail(partial, at), tail(partial, at + all_)


@parallel
def bilinear_gradient(table, windows, extents, like, real, double, partial, part, parts):
    """Gradient to windows of half-width 1, for rows of at least eight values.

    `double` is `real` in float64; `partial` `[CHUNKS, images, 2, windows]` are sums over some rows.
    """
    for number in range(len(table)):
        level = table[number]
        source, grad = pointer(level.source, like), pointer(level.target, like)
        h, w, first = level.rows, level.columns, level.first
        memory, units = numbers(h + w, double), (level.planes * h + LANES - 1) // LANES
        by_y, by_x = elements(memory), tail(memory, h)
        for image in range(level.images):
            of_y, of_x = windows_of(level, image, windows, extents)
            y, x = pairs(of_y, real), pairs(of_x, real)
            for chunk in range(part * CHUNKS // parts, (part + 1) * CHUNKS // parts):
                some = (chunk * units // CHUNKS, (chunk + 1) * units // CHUNKS)
                clear(by_y, h + w)
                _add_units(source, grad, real, some, image, level, y, x, by_y, by_x)
                chain_to_bilinear_windows(of_y, by_y, *_to_partial(partial, chunk, image, first))
                chain_to_bilinear_windows(of_x, by_x, *_to_partial(partial, chunk, image, first + h))
        hold(memory)


@inline
def _add_rows(source, grad, real, rows, image, level, y, x, line, by_y, by_x):
    """Adds the gradient of the weights of both axes over some rows of the planes of one image. `line` is for two rows
    of the source."""
    channels, planes, h, w = level.channels, level.planes, level.rows, level.columns
    stride = level.width * channels
    spread = tail(line, stride)
    begin, end = hull(x)  # columns that are read: 0 * NaN of any other would count
    for r in range(rows[0], rows[1]):
        plane, i = r // h, r % h
        if y.offset[i + 1] == y.offset[i]:
            continue
        at = ((image * planes + plane) * level.height + y.start[i]) * stride
        g = ((image * planes + plane) * h + i) * w * channels
        clear(line, 2 * stride)
        for tap in range(y.offset[i], y.offset[i + 1]):
            row = at + (tap - y.offset[i]) * stride
            for q in range(begin * channels, end * channels):
                line[q] += y.weight[tap] * load_as(source, row + q, real[0])
        for j in range(w):
            for tap in range(x.offset[j], x.offset[j + 1]):
                q = (x.start[j] + tap - x.offset[j]) * channels
                total = real[0]
                for c in range(channels):
                    value = load_as(grad, g + j * channels + c, real[0])
                    total += value * line[q + c]
                    spread[q + c] += x.weight[tap] * value
                by_x[tap] += total
        for tap in range(y.offset[i], y.offset[i + 1]):
            row = at + (tap - y.offset[i]) * stride
            total = real[0]
            for q in range(begin * channels, end * channels):
                total += spread[q] * load_as(source, row + q, real[0])
            by_y[tap] += total


@parallel
def triangle_gradient(table, windows, extents, like, real, double, partial, part, parts):
    """Gradient to windows of any half-width; arguments are those of `bilinear_gradient`."""
    for number in range(len(table)):
        level = table[number]
        source, grad = pointer(level.source, like), pointer(level.target, like)
        h, first = level.rows, level.first
        lines = numbers(2 * level.width * level.channels, real)
        for image in range(level.images):
            of_y, of_x = windows_of(level, image, windows, extents)
            y, x = runs(of_y, real), runs(of_x, real)
            taps = y.offset[y.count] + x.offset[x.count]
            by_taps = numbers(taps, double)
            by_y, by_x = elements(by_taps), tail(by_taps, y.offset[y.count])
            for chunk in range(part * CHUNKS // parts, (part + 1) * CHUNKS // parts):
                rows = (chunk * level.planes * h // CHUNKS, (chunk + 1) * level.planes * h // CHUNKS)
                clear(by_y, taps)
                _add_rows(source, grad, real, rows, image, level, y, x, elements(lines), by_y, by_x)
                chain_to_windows(of_y, y, by_y, *_to_partial(partial, chunk, image, first))
                chain_to_windows(of_x, x, by_x, *_to_partial(partial, chunk, image, first + h))
            hold(by_taps)
        hold(lines)


@jit
def reduce_partial(partial, result):
    """Sums over the chunks, and over the images if `result` `[1 or B, 2, windows]` has one for all of them."""
    chunks, images, _, count = partial.shape
    values, sums, size = elements(partial), elements(result), 2 * count
    for k in range(len(result) * size):
        total, several = 0.0, images if len(result) != images else 1
        for b in range(several):
            for chunk in range(chunks):
                total += values[(chunk * images + b) * size + k]
        sums[k] = total
