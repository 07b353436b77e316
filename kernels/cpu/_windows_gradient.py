"""Gradient of a resampling to its windows."""

import numpy as np

from fastwarp.kernels.cpu import _bilinear_gradient as _bilinear
from fastwarp.kernels.cpu._bands import band, chain_to_windows
from fastwarp.kernels.cpu._bilinear import two_taps
from fastwarp.kernels.cpu._extents import extent
from fastwarp.kernels.cpu._parallel import inline, jit, parallel
from fastwarp.kernels.cpu._simd import LANES, flat, load

CHUNKS = 16  # partial sums: a fixed number, so that the result does not depend on the threads


@inline
def _rows_by_weight(source, grad, real, rows, height, width, size, channels, image, planes, y, x, by_y, by_x):
    """Adds the gradient of the weights of both bands over some rows of the planes of one image."""
    y_start, y_offset, y_weight = y
    x_start, x_offset, x_weight = x
    h, w = size
    line, spread = np.empty(width * channels, real.dtype), np.empty(width * channels, real.dtype)
    begin, end = width, 0  # columns that are read: 0 * NaN of any other would count
    for j in range(w):
        if x_offset[j + 1] > x_offset[j]:
            begin, end = min(begin, x_start[j]), max(end, x_start[j] + x_offset[j + 1] - x_offset[j])
    for r in range(rows[0], rows[1]):
        plane, i = r // h, r % h
        if y_offset[i + 1] == y_offset[i]:
            continue
        at = ((image * planes + plane) * height + y_start[i]) * width * channels
        g = ((image * planes + plane) * h + i) * w * channels
        line[:] = 0
        spread[:] = 0
        for tap in range(y_offset[i], y_offset[i + 1]):
            row = at + (tap - y_offset[i]) * width * channels
            for q in range(begin * channels, end * channels):
                line[q] += y_weight[tap] * load(source, row + q, real[0])
        for j in range(w):
            for tap in range(x_offset[j], x_offset[j + 1]):
                q = (x_start[j] + tap - x_offset[j]) * channels
                total = real[0]
                for c in range(channels):
                    value = load(grad, g + j * channels + c, real[0])
                    total += value * line[q + c]
                    spread[q + c] += x_weight[tap] * value
                by_x[tap] += total
        for tap in range(y_offset[i], y_offset[i + 1]):
            row = at + (tap - y_offset[i]) * width * channels
            total = real[0]
            for q in range(begin * channels, end * channels):
                total += spread[q] * load(source, row + q, real[0])
            by_y[tap] += total


@parallel
def windows_gradient(table, windows, extents, like, real, antialias, partial, part, parts):
    for level in range(len(table)):
        source_at, grad_at, images, planes, height, width, channels, h, w, at = table[level]
        source = flat(source_at, images * planes * height * width * channels, like)
        grad = flat(grad_at, images * planes * h * w * channels, like)
        two_taps_each = not antialias and width * channels >= LANES and w * channels >= LANES
        for image in range(images):
            row = windows[image if len(windows) > 1 else 0]
            rows_y, rows_x = row[:, at : at + h], row[:, at + h : at + h + w]
            extent_y, extent_x = extent(extents, image, level, 0, height), extent(extents, image, level, 1, width)
            shape = (height, width, (h, w), channels, image, planes)
            chunks = range(part * CHUNKS // parts, (part + 1) * CHUNKS // parts)
            if two_taps_each:
                y, x = two_taps(rows_y, extent_y, real), two_taps(rows_x, extent_x, real)
                count = (planes * h + LANES - 1) // LANES
                for chunk in chunks:
                    result_y, result_x = partial[chunk, image, :, at : at + h], partial[chunk, image, :, at + h :]
                    units = (chunk * count // CHUNKS, (chunk + 1) * count // CHUNKS)
                    by_y, by_x = np.zeros(h), np.zeros(w)
                    _bilinear.add_units(source, grad, real, units, *shape, y, x, by_y, by_x)
                    _bilinear.chain_to_windows(rows_y, extent_y, by_y, result_y)
                    _bilinear.chain_to_windows(rows_x, extent_x, by_x, result_x)
            else:
                y_band, x_band = band(rows_y, extent_y, real), band(rows_x, extent_x, real)
                for chunk in chunks:
                    result_y, result_x = partial[chunk, image, :, at : at + h], partial[chunk, image, :, at + h :]
                    rows = (chunk * planes * h // CHUNKS, (chunk + 1) * planes * h // CHUNKS)
                    by_y, by_x = np.zeros(len(y_band[2])), np.zeros(len(x_band[2]))
                    _rows_by_weight(source, grad, real, rows, *shape, y_band, x_band, by_y, by_x)
                    chain_to_windows(rows_y, *y_band, by_y, result_y)
                    chain_to_windows(rows_x, *x_band, by_x, result_x)


@jit
def reduce_partial(partial, result):
    for i in range(2):
        for k in range(partial.shape[3]):
            for b in range(len(result)):
                result[b, i, k] = 0
            total = 0.0
            for b in range(partial.shape[1]):
                for chunk in range(partial.shape[0]):
                    total += partial[chunk, b, i, k]
                if len(result) == partial.shape[1]:
                    result[b, i, k] = total
                    total = 0.0
            if len(result) != partial.shape[1]:
                result[0, i, k] = total
