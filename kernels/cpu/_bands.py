"""Windows -> banded weight matrices in compressed rows, and the gradient back from the weights to the windows.

A band is `(start, offset, weight)`: row i of the matrix has the weights `weight[offset[i]:offset[i+1]]` on the columns
from `start[i]` on. The adjoint of a resampling is a resampling by the transposed band.
"""

import math

import numpy as np

from fastwarp.kernels.cpu._parallel import inline


@inline
def support(centre, width, extent):
    """First tap and number of taps of the triangle filter; `extent` ends the axis."""
    if not width > 0 or extent == 0:
        return 0, 0
    if centre != centre:
        return 0, 1
    first = max(math.floor(centre - width) + 1.0, 0.0)
    last = min(math.floor(centre + width), extent - 1.0)
    return (int(first), int(last) - int(first) + 1) if first <= last else (0, 0)


@inline
def band(windows, extent, real):
    """Band of windows `[2, m]` over an axis of `extent` pixels, with weights of `real`'s type."""
    m = windows.shape[1]
    start, offset = np.empty(m, np.int64), np.empty(m + 1, np.int64)
    offset[0] = 0
    for i in range(m):
        start[i], count = support(np.float64(windows[0, i]), np.float64(windows[1, i]), extent)
        offset[i + 1] = offset[i] + count
    weight = np.empty(offset[m], real.dtype)
    for i in range(m):
        c, s, total = np.float64(windows[0, i]), np.float64(windows[1, i]), 0.0
        count = offset[i + 1] - offset[i]
        for t in range(count):
            total += 1.0 - abs(start[i] + t - c) / s
        for t in range(count):
            weight[offset[i] + t] = (1.0 - abs(start[i] + t - c) / s) / total
    return start, offset, weight


@inline
def transposed(start, offset, weight, size):
    """The transposed band: for each of `size` columns the hull of the rows that touch it."""
    m = len(start)
    first, last = np.full(size, m), np.full(size, -1)
    for i in range(m):
        for j in range(start[i], start[i] + offset[i + 1] - offset[i]):
            first[j], last[j] = min(first[j], i), i
    back = np.empty(size + 1, np.int64)
    back[0] = 0
    for j in range(size):
        first[j] = min(first[j], max(last[j], 0))
        back[j + 1] = back[j] + (last[j] - first[j] + 1 if last[j] >= 0 else 0)
    result = np.zeros(back[size], weight.dtype)
    for i in range(m):
        for t in range(offset[i + 1] - offset[i]):
            j = start[i] + t
            result[back[j] + i - first[j]] = weight[offset[i] + t]
    return first, back, result


@inline
def chain_to_windows(windows, start, offset, weight, by_weight, result):
    """Chain rule through the normalised triangle: adds to `result` `[2, m]` the gradient of centre and half-width."""
    for i in range(len(start)):
        c, s = np.float64(windows[0, i]), np.float64(windows[1, i])
        total, mean = 0.0, 0.0
        for k in range(offset[i], offset[i + 1]):
            total += 1.0 - abs(start[i] + k - offset[i] - c) / s
            mean += by_weight[k] * weight[k]
        for k in range(offset[i], offset[i + 1]):
            away = start[i] + k - offset[i] - c
            g = (by_weight[k] - mean) / (total * s)
            result[0, i] += g if away > 0 else -g
            result[1, i] += g * abs(away) / s
