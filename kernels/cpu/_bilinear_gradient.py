"""Gradient of two-tap resampling to the centres and half-widths of its windows, eight interleaved rows at a time."""

import numpy as np

from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._simd import LANES, add_window_gradient, blend_rows
from fastwarp.kernels.cpu._tiles import next_row


@inline
def chain_to_windows(windows, extent, by_centre, result):
    """Adds the gradient `by_centre` of bilinear windows `[2, m]`, and what follows from it for their half-widths.

    At half-width 1 both weights are the triangle's, and `d/ds = (1 - 2f) d/dc`. A window whose second tap is past the
    end has a constant weight of 1.
    """
    for i in range(windows.shape[1]):
        c = np.float64(windows[0, i])
        if not windows[1, i] > 0 or c < 0 or np.floor(c) + 1 > extent - 1:
            continue
        result[0, i] += by_centre[i]
        result[1, i] += by_centre[i] * (1 - 2 * (c - np.floor(c)))


@inline
def add_units(source, grad, real, units, height, width, size, channels, image, planes, y, x, by_y, by_x):
    """Adds the gradients of the centres over some units of rows of one image to `by_y` and `by_x`."""
    y0, y1, wy0, wy1 = y
    x0, x1, wx0, wx1 = x
    h, w = size
    reads = np.flatnonzero(x0 >= 0)
    count = len(reads) * channels
    left, right, place = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    for j in range(len(reads)):
        for c in range(channels):
            m = j * channels + c
            left[m] = (x0[reads[j]] * channels + c) * LANES
            right[m] = (x1[reads[j]] * channels + c) * LANES
            place[m] = (reads[j] * channels + c) * LANES
    w_left, w_right = np.repeat(wx0[reads], channels), np.repeat(wx1[reads], channels)

    values, rises = np.empty(width * channels * LANES, real.dtype), np.empty(width * channels * LANES, real.dtype)
    grads, by_column = np.empty(w * channels * LANES, real.dtype), np.zeros(w * channels * LANES, real.dtype)
    upper, lower, at = np.empty(LANES, np.int64), np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    w_upper, w_lower, target = np.empty(LANES, real.dtype), np.empty(LANES, real.dtype), np.empty(LANES, np.int64)
    one, half, by_row = np.ones(LANES, real.dtype), np.full(LANES, 0.5, real.dtype), np.empty(LANES, real.dtype)
    for unit in range(units[0], units[1]):
        plane, i = unit * LANES // h, unit * LANES % h
        some = -1
        for k in range(LANES):
            base = (image * planes + plane) * height
            idle = y0[i] < 0 or unit * LANES + k >= planes * h
            target[k] = -1 if idle else i
            some = some if idle else k
            upper[k], lower[k] = (base + y0[i]) * width * channels, (base + y1[i]) * width * channels
            at[k] = ((image * planes + plane) * h + i) * w * channels
            w_upper[k], w_lower[k] = wy0[i], wy1[i]
            plane, i = next_row(plane, i, planes, h)
        if some < 0:
            continue
        for k in range(LANES):  # idle lanes follow one that is not, with a gradient of zero: they read nothing else
            if target[k] < 0:
                upper[k], lower[k], at[k] = upper[some], lower[some], at[some]
                w_upper[k], w_lower[k] = w_upper[some], w_lower[some]
        ahead = (upper[LANES - 1] - upper[0]) * LANES // (LANES - 1)
        blend_rows(source, upper, lower, w_upper, w_lower, 0, width * channels, values, ahead)
        blend_rows(source, upper, lower, -one, one, 0, width * channels, rises, 0)
        blend_rows(grad, at, at, half, half, 0, w * channels, grads, (at[LANES - 1] - at[0]) * LANES // (LANES - 1))
        for k in range(LANES):
            if target[k] < 0:
                grads[k::LANES] = 0
        add_window_gradient(values, rises, grads, left, right, w_left, w_right, place, by_column, by_row)
        for k in range(LANES):
            if target[k] >= 0:
                by_y[target[k]] += by_row[k]
    for j in range(w):
        for value in by_column[j * channels * LANES : (j + 1) * channels * LANES]:
            by_x[j] += value
