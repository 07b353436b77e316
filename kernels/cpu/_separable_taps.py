"""What each target of an axis reads: windows -> taps, and the gradient back from the weights to the windows.

The windows of an axis are `windows[b, :, first : first + count]`: centres, then half-widths.
"""

import math
from typing import NamedTuple

import numpy as np

from fastwarp.kernels.cpu._levels import extent
from fastwarp.kernels.cpu._memory import integers, numbers, zeros
from fastwarp.kernels.cpu._parallel import inline


class Pairs(NamedTuple):
    """Two neighbouring taps a target: their pixels (-1 where a target reads nothing) and weights."""

    first: np.ndarray
    second: np.ndarray
    w_first: np.ndarray
    w_second: np.ndarray


class Runs(NamedTuple):
    """Any number of neighbouring taps: target i has `weight[offset[i]:offset[i + 1]]` on the pixels from `start[i]` on.

    That is a banded matrix in compressed rows. The adjoint of a resampling is a resampling by the transposed matrix.
    """

    start: np.ndarray
    offset: np.ndarray
    weight: np.ndarray


@inline
def pairs(windows, b, first, count, extent, real):
    """Taps of windows of half-width 1. They never reach past `extent`."""
    result = Pairs(integers(count), integers(count), numbers(count, real), numbers(count, real))
    for i in range(count):
        c = np.float64(windows[b, 0, first + i])
        if not windows[b, 1, first + i] > 0 or extent == 0:
            result.first[i], result.second[i], result.w_first[i], result.w_second[i] = -1, -1, 0, 0
            continue
        inside = min(max(c, 0.0), extent - 1.0) if c == c else 0.0
        low = max(min(int(inside), extent - 2), 0)
        f = inside - low if c == c else c
        result.first[i], result.second[i] = low, min(low + 1, extent - 1)
        result.w_first[i], result.w_second[i] = 1.0 - f, f
    return result


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
def runs(windows, b, first, count, extent, real):
    """Taps of triangle filters of any half-width, their weights normalised to a sum of 1."""
    start, offset = integers(count), integers(count + 1)
    offset[0] = 0
    for i in range(count):
        c, s = np.float64(windows[b, 0, first + i]), np.float64(windows[b, 1, first + i])
        start[i], taps = support(c, s, extent)
        offset[i + 1] = offset[i] + taps
    weight = numbers(offset[count], real)
    for i in range(count):
        c, s, total = np.float64(windows[b, 0, first + i]), np.float64(windows[b, 1, first + i]), 0.0
        taps = offset[i + 1] - offset[i]
        for t in range(taps):
            total += 1.0 - abs(start[i] + t - c) / s
        for t in range(taps):
            weight[offset[i] + t] = (1.0 - abs(start[i] + t - c) / s) / total
    return Runs(start, offset, weight)


@inline
def transposed(taps, size, real):
    """The transposed matrix: for each of `size` pixels the hull of the targets that read it."""
    start, offset, weight = taps
    count = len(start)
    first, last, back = integers(size), integers(size), integers(size + 1)
    for j in range(size):
        first[j], last[j] = count, -1
    for i in range(count):
        for j in range(start[i], start[i] + offset[i + 1] - offset[i]):
            first[j], last[j] = min(first[j], i), i
    back[0] = 0
    for j in range(size):
        first[j] = min(first[j], max(last[j], 0))
        back[j + 1] = back[j] + (last[j] - first[j] + 1 if last[j] >= 0 else 0)
    result = zeros(back[size], real)
    for i in range(count):
        for t in range(offset[i + 1] - offset[i]):
            j = start[i] + t
            result[back[j] + i - first[j]] = weight[offset[i] + t]
    return Runs(first, back, result)


@inline
def pairs_of(level, number, image, windows, extents, real):
    """`pairs` of the rows and of the columns of an image of a level, see `_separable_levels`."""
    b = image if len(windows) > 1 else 0
    extent_y, extent_x = extent(extents, image, number, 0, level.height), extent(extents, image, number, 1, level.width)
    y = pairs(windows, b, level.first, level.rows, extent_y, real)
    x = pairs(windows, b, level.first + level.rows, level.columns, extent_x, real)
    return y, x


@inline
def runs_of(level, number, image, windows, extents, adjoint, real):
    """`runs` of the rows and of the columns of an image of a level, or their transposed matrices."""
    b = image if len(windows) > 1 else 0
    extent_y, extent_x = extent(extents, image, number, 0, level.height), extent(extents, image, number, 1, level.width)
    y = runs(windows, b, level.first, level.rows, extent_y, real)
    x = runs(windows, b, level.first + level.rows, level.columns, extent_x, real)
    if adjoint:
        y, x = transposed(y, level.height, real), transposed(x, level.width, real)
    return y, x


@inline
def chain_to_windows(windows, b, first, taps, by_weight, result):
    """Chain rule through the normalised triangle: adds the gradient of centres and half-widths to `result`."""
    start, offset, weight = taps
    for i in range(len(start)):
        c, s = np.float64(windows[b, 0, first + i]), np.float64(windows[b, 1, first + i])
        total, mean = 0.0, 0.0
        for k in range(offset[i], offset[i + 1]):
            total += 1.0 - abs(start[i] + k - offset[i] - c) / s
            mean += by_weight[k] * weight[k]
        for k in range(offset[i], offset[i + 1]):
            away = start[i] + k - offset[i] - c
            g = (by_weight[k] - mean) / (total * s)
            result[0, first + i] += g if away > 0 else -g
            result[1, first + i] += g * abs(away) / s


@inline
def chain_to_bilinear_windows(windows, b, first, count, extent, by_centre, result):
    """Adds the gradient `by_centre` of windows of half-width 1, and what follows from it for their half-widths.

    There both weights are the triangle's, and `d/ds = (1 - 2f) d/dc`. A window whose second tap is past the end has a
    constant weight of 1.
    """
    for i in range(count):
        c = np.float64(windows[b, 0, first + i])
        if not windows[b, 1, first + i] > 0 or c < 0 or np.floor(c) + 1 > extent - 1:
            continue
        result[0, first + i] += by_centre[i]
        result[1, first + i] += by_centre[i] * (1 - 2 * (c - np.floor(c)))
