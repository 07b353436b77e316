"""Resampling at windows of any half-width: a target sums over a box of source pixels, its footprint.

The weights of a footprint are the product of one for its row and one for its column, see `_separable_taps`.
"""

import numpy as np

from fastwarp.kernels.cpu._extents import extent
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._separable_taps import chain_to_windows, runs
from fastwarp.kernels.cpu._simd import flat, load, store

_RUN = 1024  # targets whose weights are made at a time: they stay in L2
_ADJOINT_RUN = 1 << 15


@inline
def axis_windows(windows, axis, which, extent):
    """Centre and half-width `[1, 2, m]` of the targets `which` along an axis, as `_separable_taps.runs` takes them."""
    result = np.empty((1, 2, len(which)))
    for k in range(len(which)):
        i = which[k]
        x, c = windows[0, i], np.float64(windows[axis, i])
        s = max(np.float64(windows[2 + axis, i]), 1.0) if len(windows) > 2 else 1.0
        lost = False
        for row in range(len(windows)):
            lost |= windows[row, i] != windows[row, i]
        if x < 0:
            c, s = np.float64(0.0), np.float64(0.0)
        elif lost:
            c, s = np.float64(np.nan), np.float64(1.0)
        else:
            c = min(max(c, 0.0), extent - 1.0)
        result[0, 0, k], result[0, 1, k] = c, s
    return result


@inline
def _bands(windows, which, extent_y, extent_x, real):
    y = runs(axis_windows(windows, 1, which, extent_y), 0, 0, len(which), extent_y, real)
    x = runs(axis_windows(windows, 0, which, extent_x), 0, 0, len(which), extent_x, real)
    return y, x


@parallel
def resample(table, windows, extents, like, like_out, real, scale, bias, planar, part, parts):
    for level in range(len(table)):
        source_at, target_at, images, planes, sources, height, width, channels, count, at = table[level]
        source = flat(source_at, sources * planes * height * width * channels, like)
        target = flat(target_at, images * planes * count * channels, like_out)
        line = np.empty(channels, real.dtype)
        pieces = (count + _RUN - 1) // _RUN
        for unit in range(part * images * pieces // parts, (part + 1) * images * pieces // parts):
            image, piece = unit // pieces, unit % pieces
            lo, hi = piece * count // pieces, (piece + 1) * count // pieces
            extent_y, extent_x = extent(extents, image, level, 0, height), extent(extents, image, level, 1, width)
            row = windows[image if len(windows) > 1 else 0]
            y, x = _bands(row, np.arange(at + lo, at + hi), extent_y, extent_x, real)
            for plane in range(planes):
                base = ((image if sources > 1 else 0) * planes + plane) * height * width * channels
                for k in range(hi - lo):
                    out = image * planes * count * channels
                    out += lo + k if planar else (plane * count + lo + k) * channels
                    between = count if planar else 1
                    reads = _read(source, base, width, channels, y, x, k, line)
                    for c in range(channels):
                        value = line[c] * scale[c] + bias[c] if planar and reads else line[c]
                        store(value, target, out + c * between)


@inline
def _read(source, base, width, channels, y, x, k, line):
    """Sums over the footprint of target k; whether there is one."""
    y_start, y_offset, y_weight = y
    x_start, x_offset, x_weight = x
    line[:] = 0
    for a in range(y_offset[k], y_offset[k + 1]):
        row = base + ((y_start[k] + a - y_offset[k]) * width + x_start[k]) * channels
        for b in range(x_offset[k], x_offset[k + 1]):
            weight, pixel = y_weight[a] * x_weight[b], row + (b - x_offset[k]) * channels
            for c in range(channels):
                line[c] += weight * load(source, pixel + c, line[0])
    return y_offset[k] < y_offset[k + 1] and x_offset[k] < x_offset[k + 1]


@parallel
def resample_adjoint(table, windows, extents, like, real, part, parts):
    """Each unit owns some rows of the result and adds to them what every target that touches them brings, in their
    order: the same sums however the rows are divided."""
    for level in range(len(table)):
        result_at, grad_at, images, planes, _, height, width, channels, count, at = table[level]
        result = flat(result_at, images * planes * height * width * channels, like)
        grad = flat(grad_at, images * planes * count * channels, like)
        pieces = min(max((count + _ADJOINT_RUN - 1) // _ADJOINT_RUN, parts), height)
        for unit in range(part * images * pieces // parts, (part + 1) * images * pieces // parts):
            image, piece = unit // pieces, unit % pieces
            lo, hi = piece * height // pieces, (piece + 1) * height // pieces
            extent_y, extent_x = extent(extents, image, level, 0, height), extent(extents, image, level, 1, width)
            row = windows[image if len(windows) > 1 else 0]
            which = _touching(row[:, at : at + count], extent_y, lo, hi) + at
            y, x = _bands(row, which, extent_y, extent_x, real)
            total = np.empty((hi - lo) * width * channels, real.dtype)
            for plane in range(planes):
                total[:] = 0
                base = (image * planes + plane) * count
                for k in range(len(which)):
                    _add(grad, (base + which[k] - at) * channels, lo, hi, width, channels, y, x, k, total)
                out = ((image * planes + plane) * height + lo) * width * channels
                for i in range(len(total)):
                    store(total[i], result, out + i)


@inline
def _touching(windows, extent, lo, hi):
    """The targets whose footprints may have rows in `[lo, hi)`."""
    result, found = np.empty(windows.shape[1], np.int64), 0
    for i in range(windows.shape[1]):
        c = min(max(np.float64(windows[1, i]), 0.0), extent - 1.0)
        s = max(np.float64(windows[3, i]), 1.0) if len(windows) > 2 else 1.0
        if not (windows[0, i] < 0 or c + s < lo or c - s > hi):
            result[found] = i
            found += 1
    return result[:found]


@inline
def _add(grad, first, lo, hi, width, channels, y, x, k, total):
    y_start, y_offset, y_weight = y
    x_start, x_offset, x_weight = x
    for a in range(y_offset[k], y_offset[k + 1]):
        i = y_start[k] + a - y_offset[k]
        if lo <= i < hi:
            row = ((i - lo) * width + x_start[k]) * channels
            for b in range(x_offset[k], x_offset[k + 1]):
                weight, pixel = y_weight[a] * x_weight[b], row + (b - x_offset[k]) * channels
                for c in range(channels):
                    total[pixel + c] += weight * load(grad, first + c, total[0])


@parallel
def windows_gradient(table, windows, extents, like, real, result, part, parts):
    """Each unit owns some windows and sums over the planes, then the images, that share them, in their order."""
    for level in range(len(table)):
        source_at, grad_at, images, planes, sources, height, width, channels, count, at = table[level]
        source = flat(source_at, sources * planes * height * width * channels, like)
        grad = flat(grad_at, images * planes * count * channels, like)
        pieces = (count + _RUN - 1) // _RUN
        for piece in range(part * pieces // parts, (part + 1) * pieces // parts):
            lo, hi = piece * count // pieces, (piece + 1) * count // pieces
            which = np.arange(at + lo, at + hi)
            for image in range(images):
                row = windows[image if len(windows) > 1 else 0]
                extent_y, extent_x = extent(extents, image, level, 0, height), extent(extents, image, level, 1, width)
                windows_y, windows_x = axis_windows(row, 1, which, extent_y), axis_windows(row, 0, which, extent_x)
                y = runs(windows_y, 0, 0, hi - lo, extent_y, real)
                x = runs(windows_x, 0, 0, hi - lo, extent_x, real)
                by_y, by_x = np.zeros(len(y[2])), np.zeros(len(x[2]))
                for plane in range(planes):
                    base = ((image if sources > 1 else 0) * planes + plane) * height * width * channels
                    first = ((image * planes + plane) * count + lo) * channels
                    for k in range(hi - lo):
                        g = first + k * channels
                        _add_products(source, base, grad, g, width, channels, real, y, x, k, by_y, by_x)
                by_window = np.zeros((2, 2, hi - lo))
                chain_to_windows(windows_x, 0, 0, x, by_x, by_window[0])
                chain_to_windows(windows_y, 0, 0, y, by_y, by_window[1])
                out = result[image if len(result) > 1 else 0]
                for k in range(hi - lo):
                    for i in range(len(out)):
                        out[i, at + lo + k] += by_window[i % 2, i // 2, k]


@inline
def _add_products(source, base, grad, first, width, channels, real, y, x, k, by_y, by_x):
    """Adds the gradient of the weights of target k."""
    y_start, y_offset, y_weight = y
    x_start, x_offset, x_weight = x
    for a in range(y_offset[k], y_offset[k + 1]):
        row = base + ((y_start[k] + a - y_offset[k]) * width + x_start[k]) * channels
        for b in range(x_offset[k], x_offset[k + 1]):
            pixel, total = row + (b - x_offset[k]) * channels, real[0]
            for c in range(channels):
                total += load(grad, first + c, real[0]) * load(source, pixel + c, real[0])
            by_y[a] += x_weight[b] * total
            by_x[b] += y_weight[a] * total
