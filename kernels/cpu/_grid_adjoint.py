"""Adjoint of resampling at windows of two rows.

Each unit of work owns some rows of a few planes of the result and sums there, in the order of the targets, what each
of them brings: no atomics, and the same sums however the rows are divided.
"""

import numpy as np

from fastwarp.kernels.cpu._grid_simd import add_taps
from fastwarp.kernels.cpu._grid_taps import extents_of, places
from fastwarp.kernels.cpu._interleave import LANES, blend_rows, store_rows
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._simd import flat, load, store

_CHUNK = 64  # targets that are taken or left together
_SUMS = 1 << 17  # sums that a unit owns: they stay in L2
_ROWS = 4  # but at least so many rows: targets between two units are looked at by both


@inline
def _row_ranges(windows, at, count, extent):
    """First and last row that each chunk of targets touches (first > last: none), and whether a target is lost."""
    chunks = (count + _CHUNK - 1) // _CHUNK
    first, last, lost = np.empty(chunks, np.int64), np.empty(chunks, np.int64), False
    kind = windows.dtype.type
    edge, zero = kind(extent - 1), kind(0)
    for chunk in range(chunks):
        here = slice(at + chunk * _CHUNK, at + min((chunk + 1) * _CHUNK, count))
        xs, ys = windows[0, here], windows[1, here]
        low, high, nans = edge, -kind(1), 0
        for i in range(len(xs)):
            x, y = xs[i], ys[i]
            y_or_low, y_or_high = (y if x >= zero else low), (y if x >= zero else high)
            low, high = (y_or_low if y_or_low < low else low), (y_or_high if y_or_high > high else high)
            nans += (x != x) | ((y != y) & ~(x < zero))
        any_here = high >= low
        first[chunk] = min(int(max(low, zero)), max(extent - 2, 0)) if any_here else 1
        last[chunk] = min(int(min(max(high, zero), edge)) + 1, extent - 1) if any_here else 0
        lost = lost or nans > 0
    return first, last, lost


@inline
def _add(grad, at, steps, upper, lower, fraction_y, fraction_x, right, channels, lines, total, buffer):
    """Adds some targets to `total` `[pixel][channels]`; channel c of target i is `grad[at + i*steps[0] + c*steps[1]]`.

    `lines` are where 8 planes start, and halves: `blend_rows` of a row with itself interleaves it.
    """
    count, one = len(upper), total.dtype.type(1)
    weights = (fraction_y, fraction_x)
    done = 0
    if steps[1] == 1:
        done = channels // LANES * LANES
        add_taps(grad, at, steps[0], upper, lower, *weights, count, right, channels, done, total)
    elif channels == LANES and count >= LANES:
        half = lines[1]
        blend_rows(grad, lines[0], lines[0], half, half, at, count, buffer, steps[1] * LANES)
        add_taps(buffer, 0, LANES, upper, lower, *weights, count, right, channels, LANES, total)
        done = channels
    if done == channels:
        return
    for i in range(count):
        fy, fx = fraction_y[i], fraction_x[i]
        a, c = upper[i] * channels, lower[i] * channels
        b, d = a + right * channels, c + right * channels
        for k in range(done, channels):
            g = load(grad, at + i * steps[0] + k * steps[1], one)
            total[a + k] += (one - fy) * (one - fx) * g
            total[b + k] += (one - fy) * fx * g
            total[c + k] += fy * (one - fx) * g
            total[d + k] += fy * fx * g


@inline
def _write(total, channels, result, at, steps, count):
    """Stores `count` pixels of `total`."""
    one = total.dtype.type(1)
    if channels == LANES and steps[1] != 1 and count >= LANES:
        offsets = at + np.arange(LANES) * steps[1]
        store_rows(total, 0, count, one, one - one, result, offsets, 0, steps[1] * LANES)
    elif steps[1] == 1:
        for i in range(count * channels):
            store(total[i], result, at + i)
    else:
        for k in range(channels):
            for i in range(count):
                store(total[i * channels + k], result, at + i * steps[0] + k * steps[1])


@parallel
def adjoint(table, windows, extents, like, real, part, parts):
    for level in range(len(table)):
        result_at, grad_at, images, planes, _, height, width, channels, count, at = table[level]
        result = flat(result_at, images * planes * height * width * channels, like)
        grad = flat(grad_at, images * planes * count * channels, like)
        pixels = height * width
        # A group is a plane of several channels, or up to 8 planes of one.
        together = LANES if channels == 1 else 1
        groups = (planes + together - 1) // together
        rows = max(_SUMS // (width * channels * min(planes, together)), _ROWS)
        bands = (height + rows - 1) // rows
        units, made = images * bands * groups, -1
        total = np.empty((rows + 2) * width * channels * min(planes, together), real.dtype)
        buffer = np.empty(_CHUNK * LANES, real.dtype)
        upper, lower = np.empty(_CHUNK, np.int64), np.empty(_CHUNK, np.int64)
        fraction_y, fraction_x = np.empty(_CHUNK, real.dtype), np.empty(_CHUNK, real.dtype)
        lines = (np.arange(LANES) * count, np.full(LANES, real.dtype.type(0.5)))
        first_rows, last_rows, lost = lines[0], lines[0], False
        for unit in range(part * units // parts, (part + 1) * units // parts):
            image, band, group = unit // groups // bands, unit // groups % bands, unit % groups
            lo, hi = band * height // bands, (band + 1) * height // bands
            size = extents_of(extents, image, level, height, width)
            row = windows[image if len(windows) > 1 else 0]
            if image != made:
                first_rows, last_rows, lost = _row_ranges(row, at, count, size[0])
                made = image
            plane = image * planes + group * together
            n = min(together, planes - group * together) if channels == 1 else channels
            steps_in, steps_out = ((1, count), (1, pixels)) if channels == 1 else ((channels, 1), (channels, 1))
            total[:] = 0
            for chunk in range(len(first_rows)):
                if min(size) > 0 and first_rows[chunk] < hi and last_rows[chunk] >= lo:
                    start, end = chunk * _CHUNK, min((chunk + 1) * _CHUNK, count)
                    taps = (upper[: end - start], lower[: end - start], fraction_y, fraction_x)
                    places(row, at + start, at + end, size, width, lo, hi - lo, *taps)
                    begin = (plane * count + start) * channels
                    _add(grad, begin, steps_in, *taps, min(size[1] - 1, 1), n, lines, total, buffer)
            if lost and lo == 0 and min(size) > 0:
                total[width * n : (width + 1) * n] = np.nan
            _write(
                total[width * n :], n, result, (plane * pixels + lo * width) * channels, steps_out, (hi - lo) * width
            )
