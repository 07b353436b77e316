"""Units of eight rows and tiles of columns: what the two resampling kernels share."""

import numpy as np

from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._simd import LANES, store, store_rows

TILE = 1024  # values of a target row that are made at a time: sources and results of 8 rows stay in L2


@inline
def next_row(plane, i, planes, h):
    """The row after row i of a plane. The last row of all follows itself: the lanes of a short unit repeat it."""
    if i + 1 < h:
        return plane, i + 1
    if plane + 1 < planes:
        return plane + 1, 0
    return plane, i


@inline
def store_tile(tile, width, column, count, stride, empty, target, offsets, skip, real, scale, bias, planar):
    """Writes `count` columns of eight interleaved rows; columns in `empty` and rows in `skip` become 0.

    The tile is one run of columns, or where `planar` (a camera's) one of `width` columns for each channel, scaled and
    shifted; a run goes to `offsets[k] + plane*stride + column`.
    """
    for plane in range(len(scale) if planar else 1):
        source, where = plane * width * LANES, plane * stride + column
        a, b = (scale[plane], bias[plane]) if planar else (real[1], real[0])
        if count >= LANES:
            store_rows(tile, source, count, a, b, target, offsets, where, offsets[LANES - 1] - offsets[0])
        for k in range(LANES):
            if skip[k]:
                for i in range(count):
                    store(real[0], target, offsets[k] + where + i)
            else:
                if count < LANES:
                    for i in range(count):
                        store(tile[source + i * LANES + k] * a + b, target, offsets[k] + where + i)
                for i in empty:
                    store(real[0], target, offsets[k] + where + i)


@inline
def tiles(first, last, channels, columns, room):
    """For each tile of targets: the source values `[begin, end)` of a row that it reads, at least 8 and within the row.

    `first`, `last` are the first and last source pixel of each target, first < 0 where it reads none.
    """
    count = (len(first) + columns - 1) // columns
    begin, end = np.empty(count, np.int64), np.empty(count, np.int64)
    for tile in range(count):
        low, high = room, -1
        for j in range(tile * columns, min((tile + 1) * columns, len(first))):
            if first[j] >= 0:
                low, high = min(low, first[j]), max(high, last[j])
        low = 0 if high < 0 else low
        begin[tile] = max(min(low * channels, room * channels - LANES), 0)
        end[tile] = min(max((high + 1) * channels, begin[tile] + LANES), room * channels)
    return begin, end


@inline
def tap_columns(tap, begin, channels, columns):
    """Where each value of a target row finds its tap among the interleaved source values of its tile."""
    result = np.empty(len(tap) * channels, np.int64)
    for j in range(len(tap)):
        for c in range(channels):
            result[j * channels + c] = max(tap[j] * channels + c - begin[j // columns], 0) * LANES
    return result


@inline
def places(size, channels, columns, planar):
    """Where each value of a target row goes in its interleaved tile: pixel by pixel, or channel by channel."""
    result = np.empty(size * channels, np.int64)
    for j in range(size):
        for c in range(channels):
            i = j % columns
            result[j * channels + c] = (c * columns + i if planar else i * channels + c) * LANES
    return result


@inline
def empty_columns(first, channels, columns):
    """The columns of each tile that read nothing: a list `values[offset[tile]:offset[tile + 1]]`."""
    count = (len(first) + columns - 1) // columns
    offset = np.zeros(count + 1, np.int64)
    values = np.empty((first < 0).sum() * channels, np.int64)
    found = 0
    for j in range(len(first)):
        if first[j] < 0:
            for c in range(channels):
                values[found] = j % columns * channels + c
                found += 1
        offset[j // columns + 1] = found
    return offset, values
