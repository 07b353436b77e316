"""Resampling straight from images whose pixels are several channels: few of them by two taps along each axis, many,
which fill vectors by themselves, by any number of taps."""

from fastwarp.kernels.cpu._memory import integers, numbers
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._rows import PIXEL, sum_rows
from fastwarp.kernels.cpu._separable_taps import Pairs, hull, make_rows, next_row, pairs_of, runs_of
from fastwarp.kernels.cpu._vector import elements, full, full_like, hold, load, load_as, prefetch, store, tail, zero_of

MANY = 16
"""Channels from which on pixels are vectors by themselves."""


@inline
def _blend_values(source, row, x, which, scale, bias, target, place, ahead):
    """Targets of a row one by one: `target[place[0] + j*place[1]] = scale * value + bias` for j in `which`.

    `row` are the starts and weights of two rows of the source, `x` taps that count values, not pixels. What lies
    `ahead` values further on is prefetched: the taps are too far apart for the hardware to follow.
    """
    upper, lower, w_upper, w_lower = row
    for j in range(which[0], which[1]):
        left, right = load(x.first, j, 1), load(x.second, j, 1)
        prefetch(source, upper + left + ahead)
        prefetch(source, lower + left + ahead)
        a = load_as(source, upper + left, scale) * w_upper + load_as(source, lower + left, scale) * w_lower
        b = load_as(source, upper + right, scale) * w_upper + load_as(source, lower + right, scale) * w_lower
        value = a * load(x.w_first, j, 1) + b * load(x.w_second, j, 1)
        store(value * scale + bias, target, place[0] + j * place[1])


@inline
def _blend_vectors(source, row, x, channels, first, step, count, target, at, ahead):
    """As `_blend_values` for pixels of up to 4 channels, the second tap `step` after the first: one vector a pixel.

    Reads and writes 4 channels, from channel `first` on: pixels must be made in order, and the last ones of a row
    otherwise.
    """
    upper, lower = row[0] + first, row[1] + first
    w_upper, w_lower = full(row[2], PIXEL), full(row[3], PIXEL)
    for j in range(count):
        left = load(x.first, j, 1)
        right = left + step
        prefetch(source, upper + left + ahead)
        prefetch(source, lower + left + ahead)
        a = load_as(source, upper + left, w_upper) * w_upper + load_as(source, lower + left, w_upper) * w_lower
        b = load_as(source, upper + right, w_upper) * w_upper + load_as(source, lower + right, w_upper) * w_lower
        value = a * load(x.w_first, j, 1) + b * load(x.w_second, j, 1)
        store(value, target, at + first + j * channels)


@inline
def _counting_values(x, channels):
    """The same taps, counting values in place of pixels, from 0 on where a target reads nothing."""
    places = integers(2 * x.count)
    first, second = elements(places), tail(places, x.count)
    for j in range(x.count):
        first[j], second[j] = max(x.first[j], 0) * channels, max(x.second[j], 0) * channels
    return Pairs(first, second, x.w_first, x.w_second, x.count, (places, x.memory))


@inline
def _vectors(x, count, channels, room):
    """How many of the first `count` pixels of a row read no more than `room` values, taken as vectors of 4."""
    for j in range(count):
        if x.first[j] + channels + PIXEL > room:
            return j
    return count


@inline
def _clear_row(real, target, x, row_is_empty, channels, out, across, between):
    for j in range(x.count):
        if row_is_empty or x.first[j] < 0:
            for c in range(channels):
                store(real[0], target, out + j * across + c * between)


@inline
def _blend_row(source, row, x, channels, affine, target, place, vectors, step, line, ahead):
    """One row of targets; `place` is where it begins and how far pixels and channels are apart."""
    out, across, between = place
    w, zero = x.count, zero_of(line)
    if vectors > 0:
        for four in range(0, channels, PIXEL):
            c = max(min(four, channels - PIXEL), 0)
            if affine is None:
                _blend_vectors(source, row, x, channels, c, step, vectors, target, out, ahead)
            else:  # through `line`, from where the channels part
                _blend_vectors(source, row, x, channels, c, step, vectors, line, 0, ahead)
    for c in range(channels):
        if affine is None:
            scale, bias = full_like(1, zero), zero
        else:
            scale, bias = affine[0][c], affine[1][c]
            for j in range(vectors):
                store(line[j * channels + c] * scale + bias, target, out + j * across + c * between)
        places = (out + c * between, across)
        of_channel = (row[0] + c, row[1] + c, row[2], row[3])
        _blend_values(source, of_channel, x, (vectors, w), scale, bias, target, places, ahead)


@inline
def _blend_pixel_rows(source, target, real, rows, level, y, x, affine):
    first, end, image = rows
    length = level.images * level.planes * level.height * level.width * level.channels
    channels, planes, h, w = level.channels, level.planes, level.rows, level.columns
    stride = level.width * channels
    across, between = (channels, 1) if affine is None else (1, h * w)
    taps, step, reach, any_empty = _counting_values(x, channels), 0, 0, False
    for j in range(w):
        any_empty |= x.first[j] < 0
        step = max(step, taps.second[j] - taps.first[j])  # 0 where there is only one pixel
        reach = max(reach, taps.first[j] + channels + PIXEL)
    # Pixels made as vectors: those of fewer than 4 channels not past the end of a row.
    most = w if channels >= PIXEL else max(w - PIXEL // channels, 0) if channels >= 2 else 0
    memory = numbers(0 if affine is None else w * channels + PIXEL, real)
    line = elements(memory)
    for r in range(first, end):
        plane, i = r // h, r % h
        base = (image * planes + plane) * level.height
        upper, lower = (base + y.first[i]) * stride, (base + y.second[i]) * stride
        next_plane, next_i = next_row(plane, i, planes, h)
        ahead = ((next_plane - plane) * level.height + y.first[next_i] - y.first[i]) * stride
        out = (image * planes + plane) * h * w * channels + i * w * across
        if y.first[i] >= 0:
            vectors = most
            if channels < PIXEL and reach > length - lower:
                vectors = _vectors(taps, most, channels, length - lower)
            row = (upper, lower, y.w_first[i], y.w_second[i])
            place = (out, across, between)
            _blend_row(source, row, taps, channels, affine, target, place, vectors, step, line, ahead)
        if any_empty or y.first[i] < 0:
            _clear_row(real, target, x, y.first[i] < 0, channels, out, across, between)
    hold(memory)


@parallel
def blend_pixels(table, windows, extents, like, like_out, real, affine, part, parts):
    """Pixels of a few channels. `affine` are scales and biases of the channels, which then come apart, or None."""
    make_rows(_blend_pixel_rows, pairs_of, table, windows, extents, like, like_out, real, affine, part, parts)


# --- many channels ----------------------------------------------------------------------------------------------------


@inline
def _blend_many_of_row(source, target, zero, upper, lower, y_weights, x, channels, out):
    """A row of targets by two taps along each axis."""
    top, bottom = y_weights
    for j in range(x.count):
        at, p, q = out + j * channels, x.first[j] * channels, x.second[j] * channels
        if p < 0:
            for c in range(channels):
                store(zero, target, at + c)
            continue
        wa, wb, wc, wd = top * x.w_first[j], top * x.w_second[j], bottom * x.w_first[j], bottom * x.w_second[j]
        for c in range(channels):
            above = wa * load_as(source, upper + p + c, zero) + wb * load_as(source, upper + q + c, zero)
            below = wc * load_as(source, lower + p + c, zero) + wd * load_as(source, lower + q + c, zero)
            store(above + below, target, at + c)


@inline
def _blend_many(source, target, real, rows, level, y, x, options):
    first, end, image = rows
    channels, planes, h, w = level.channels, level.planes, level.rows, level.columns
    stride = level.width * channels
    for r in range(first, end):
        i, base, out = r % h, (image * planes + r // h) * level.height, (image * planes * h + r) * w * channels
        if y.first[i] >= 0:
            upper, lower = (base + y.first[i]) * stride, (base + y.second[i]) * stride
            weights = y.w_first[i], y.w_second[i]
            _blend_many_of_row(source, target, real[0], upper, lower, weights, x, channels, out)
        else:
            for k in range(w * channels):
                store(real[0], target, out + k)


@parallel
def blend_many(table, windows, extents, like, real, part, parts):
    """Two taps along each axis."""
    make_rows(_blend_many, pairs_of, table, windows, extents, like, like, real, None, part, parts)


@inline
def _sum_many(source, target, real, rows, level, y, x, options):
    first, end, image = rows
    channels, planes, h, w = level.channels, level.planes, level.rows, level.columns
    stride = level.width * channels
    memory = numbers(stride, real)
    line = elements(memory)
    begin, stop = hull(x)  # what no target reads may be NaN, and costs time
    begin, count = begin * channels, (stop - begin) * channels
    for r in range(first, end):
        i, out = r % h, (image * planes * h + r) * w * channels
        row = ((image * planes + r // h) * level.height + y.start[i]) * stride + begin
        several = y.offset[i + 1] - y.offset[i]
        sum_rows(source, row, stride, y.weight, y.offset[i], several, line, begin, count)
        for k in range(w * channels if several == 0 else 0):
            store(real[0], target, out + k)
        for j in range(w if several > 0 else 0):
            taps, pixel = x.offset[j + 1] - x.offset[j], x.start[j] * channels
            sum_rows(line, pixel, channels, x.weight, x.offset[j], taps, target, out + j * channels, channels)
    hold(memory)


@parallel
def sum_many(table, windows, extents, like, real, part, parts):
    """Any number of taps along each axis: sums of rows, then of their pixels."""
    make_rows(_sum_many, runs_of, table, windows, extents, like, like, real, None, part, parts)
