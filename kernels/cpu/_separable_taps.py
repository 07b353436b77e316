"""What each target of an axis reads: windows -> taps, and the gradient back from the weights to the windows; and how
the rows of a level are shared out.

Rows of all planes of an image (see `_levels`) are counted through.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._memory import extent, integers, numbers, zeros
from fastwarp.kernels.cpu._parallel import exact, inline
from fastwarp.kernels.cpu._rows import LANES
from fastwarp.kernels.cpu._vector import elements, pointer, tail


class Windows(NamedTuple):
    """Centres and half-widths of the `count` targets of an axis, as pointers, and where the axis of the source ends."""

    centre: Any
    width: Any
    count: Any
    extent: Any


class Pairs(NamedTuple):
    """Two neighbouring taps a target: their pixels (-1 where a target reads nothing) and weights.

    These are pointers into `memory`, which lives as long as the tuple: take them out of it in functions that get the
    whole tuple.
    """

    first: Any
    second: Any
    w_first: Any
    w_second: Any
    count: Any
    memory: Any


class Runs(NamedTuple):
    """Any number of neighbouring taps: target i has `weight[offset[i]:offset[i + 1]]` on the pixels from `start[i]` on.

    That is a banded matrix in compressed rows. The adjoint of a resampling is a resampling by the transposed matrix.
    `memory` as of `Pairs`.
    """

    start: Any
    offset: Any
    weight: Any
    count: Any
    memory: Any


@inline
def windows_at(windows, b, first, count, extent):
    """The `Windows` of an axis: `count` of those `[1 or B, 2, m]`, from the first one on."""
    all_ = windows.shape[2]
    at = 2 * all_ * (b if len(windows) > 1 else 0) + first
    return Windows(tail(windows, at), tail(windows, at + all_), count, extent)


@exact
def round_to_pixel(centre, extent):
    """floor(c + 1/2) within the axis."""
    return math.floor(min(max(centre, 0.0), extent - 1.0) + 0.5)


@inline
def pairs(windows, real):
    """Taps of windows of half-width 1. They never reach past the extent."""
    count, extent = windows.count, windows.extent
    places, weights = integers(2 * count), numbers(2 * count, real)
    first, second, w_first, w_second = elements(places), tail(places, count), elements(weights), tail(weights, count)
    for i in range(count):
        c = np.float64(windows.centre[i])
        if not windows.width[i] > 0 or extent == 0:
            first[i], second[i], w_first[i], w_second[i] = -1, -1, 0, 0
            continue
        inside = min(max(c, 0.0), extent - 1.0) if c == c else 0.0
        low = max(min(int(inside), extent - 2), 0)
        f = inside - low if c == c else c
        first[i], second[i], w_first[i], w_second[i] = low, min(low + 1, extent - 1), 1.0 - f, f
    return Pairs(first, second, w_first, w_second, count, (places, weights))


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
def runs(windows, real):
    """Taps of triangle filters of any half-width, their weights normalised to a sum of 1."""
    count = windows.count
    places = integers(2 * count + 1)
    start, offset = elements(places), tail(places, count)
    offset[0] = 0
    for i in range(count):
        c, s = np.float64(windows.centre[i]), np.float64(windows.width[i])
        start[i], taps = support(c, s, windows.extent)
        offset[i + 1] = offset[i] + taps
    weights = numbers(offset[count], real)
    weight = elements(weights)
    for i in range(count):
        c, s, total = np.float64(windows.centre[i]), np.float64(windows.width[i]), 0.0
        taps = offset[i + 1] - offset[i]
        for t in range(taps):
            total += 1.0 - abs(start[i] + t - c) / s
        for t in range(taps):
            weight[offset[i] + t] = (1.0 - abs(start[i] + t - c) / s) / total
    return Runs(start, offset, weight, count, (places, weights))


@inline
def transposed(taps, size, real):
    """The transposed matrix: for each of `size` pixels the hull of the targets that read it."""
    places = integers(3 * size + 1)
    first, back, last = elements(places), tail(places, size), tail(places, 2 * size + 1)
    for j in range(size):
        first[j], last[j] = taps.count, -1
    for i in range(taps.count):
        for j in range(taps.start[i], taps.start[i] + taps.offset[i + 1] - taps.offset[i]):
            first[j], last[j] = min(first[j], i), i
    back[0] = 0
    for j in range(size):
        first[j] = min(first[j], max(last[j], 0))
        back[j + 1] = back[j] + (last[j] - first[j] + 1 if last[j] >= 0 else 0)
    weights = zeros(back[size], real)
    weight = elements(weights)
    for i in range(taps.count):
        for t in range(taps.offset[i + 1] - taps.offset[i]):
            j = taps.start[i] + t
            weight[back[j] + i - first[j]] = taps.weight[taps.offset[i] + t]
    return Runs(first, back, weight, size, (places, weights))


@inline
def hull(taps):
    """The pixels `[begin, end)` that all targets together read."""
    begin, end = 1 << 62, 0
    for j in range(taps.count):
        several = taps.offset[j + 1] - taps.offset[j]
        if several > 0:
            begin, end = min(begin, taps.start[j]), max(end, taps.start[j] + several)
    return min(begin, end), end


# --- the rows of a level ----------------------------------------------------------------------------------------------


@inline
def share_of(image, images, units, part, parts):
    """The units of one image that belong to a part, where each image has `units`."""
    everything = images * units
    lo = min(max(part * everything // parts - image * units, 0), units)
    hi = min(max((part + 1) * everything // parts - image * units, 0), units)
    return lo, hi


@inline
def next_row(plane, i, planes, rows):
    """The row after row i of a plane. The last row of all follows itself: groups that are not full repeat it."""
    if i + 1 < rows:
        return plane, i + 1
    if plane + 1 < planes:
        return plane + 1, 0
    return plane, i


@inline
def windows_of(level, image, windows, extents):
    """The `Windows` of the rows and of the columns of an image."""
    h, w, height, width = level.rows, level.columns, level.height, level.width
    if level.is_adjoint:
        h, w, height, width = height, width, h, w
    y = windows_at(windows, image, level.first, h, extent(extents, image, level.number, 0, height))
    return y, windows_at(windows, image, level.first + h, w, extent(extents, image, level.number, 1, width))


@inline
def pairs_of(level, image, windows, extents, real):
    """Their `pairs`."""
    y, x = windows_of(level, image, windows, extents)
    return pairs(y, real), pairs(x, real)


@inline
def runs_of(level, image, windows, extents, real):
    """Their `runs`, of an adjoint the transposed matrices."""
    windows_y, windows_x = windows_of(level, image, windows, extents)
    y, x = runs(windows_y, real), runs(windows_x, real)
    if level.is_adjoint:
        y, x = transposed(y, level.rows, real), transposed(x, level.columns, real)
    return y, x


@inline
def make_rows(make, taps_of, table, windows, extents, like, like_out, real, options, part, parts):
    """What a part does of the levels `table`: calls `make(source, target, real, rows, level, y, x, options)` for each
    image. `rows` are the first, the one after the last, counted through the planes, and the image; y and x are what
    `taps_of` finds."""
    for number in range(len(table)):
        level = table[number]
        source, target = pointer(level.source, like), pointer(level.target, like_out)
        count = level.planes * level.rows
        for image in range(level.images):
            lo, hi = share_of(image, level.images, (count + LANES - 1) // LANES, part, parts)
            if lo < hi:
                y, x = taps_of(level, image, windows, extents, real)
                make(source, target, real, (lo * LANES, min(hi * LANES, count), image), level, y, x, options)


# --- gradients --------------------------------------------------------------------------------------------------------


@inline
def chain_to_windows(windows, taps, by_weight, to_centre, to_width):
    """Chain rule through the normalised triangle: adds the gradient of centres and half-widths."""
    start, offset = taps.start, taps.offset
    for i in range(taps.count):
        c, s = np.float64(windows.centre[i]), np.float64(windows.width[i])
        total, mean = 0.0, 0.0
        for k in range(offset[i], offset[i + 1]):
            total += 1.0 - abs(start[i] + k - offset[i] - c) / s
            mean += by_weight[k] * taps.weight[k]
        for k in range(offset[i], offset[i + 1]):
            away = start[i] + k - offset[i] - c
            g = (by_weight[k] - mean) / (total * s)
            to_centre[i] += g if away > 0 else -g
            to_width[i] += g * abs(away) / s


@inline
def chain_to_bilinear_windows(windows, by_centre, to_centre, to_width):
    """Adds the gradient `by_centre` of windows of half-width 1, and what follows from it for their half-widths.

    There both weights are the triangle's, and `d/ds = (1 - 2f) d/dc`. A window whose second tap is past the end has a
    constant weight of 1.
    """
    for i in range(windows.count):
        c = np.float64(windows.centre[i])
        if not windows.width[i] > 0 or c < 0 or np.floor(c) + 1 > windows.extent - 1:
            continue
        to_centre[i] += by_centre[i]
        to_width[i] += by_centre[i] * (1 - 2 * (c - np.floor(c)))
