"""Images of one channel: eight neighbouring targets at a time, two taps per axis straight from the image, or any number
of taps from sums of rows."""

import numpy as np

from fastwarp.kernels.cpu._banded_simd import sum_rows
from fastwarp.kernels.cpu._blocks_simd import ROWS, WINDOW, blend_blocks, sum_blocks
from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._simd import LANES, store
from fastwarp.kernels.cpu._tiles import next_row, tiles

_SHORT = 512  # values of a row, up to there the processor fetches the next ones in time


@inline
def _blocks(first, second, w_first, w_second, real):
    """Cuts the taps of a row of targets into blocks of eight; the last overlaps the one before, or repeats the last
    target where there are fewer than eight.

    Returns:
        `[n, 2]` first target of each block, and where its window begins, or -1 for pairs; `[n, 3, 8]` for each target
        its first tap, and its two taps in the window; `[n, 2, 8]` their weights.
    """
    w = len(first)
    count = (w + LANES - 1) // LANES
    place, taps = np.empty((count, 2), np.int64), np.zeros((count, 3, LANES), np.int32)
    weights = np.empty((count, 2, LANES), real.dtype)
    for n in range(count):
        at = max(min(n * LANES, w - LANES), 0)
        low, high = 1 << 62, -1
        for k in range(LANES):
            j = min(at + k, w - 1)
            weights[n, 0, k], weights[n, 1, k] = w_first[j], w_second[j]
            if first[j] >= 0:
                taps[n, 0, k] = first[j]
                low, high = min(low, first[j]), max(high, second[j])
        low = min(low, max(high, 0))
        place[n, 0], place[n, 1] = at, low if high - low < WINDOW else -1
        for k in range(LANES):
            j = min(at + k, w - 1)
            if place[n, 1] >= 0 and first[j] >= 0:
                taps[n, 1, k], taps[n, 2, k] = first[j] - low, second[j] - low
    return place, taps, weights


@inline
def _finish(few, zero, target, out, skip, holes, w):
    """Brings narrow rows to their places; rows in `skip` and columns in `holes` become 0."""
    for k in range(ROWS):
        if skip[k]:
            for j in range(w):
                store(zero, target, out[k] + j)
            continue
        if w < LANES:
            for j in range(w):
                store(few[k * LANES + j], target, out[k] + j)
        for hole in holes:
            store(zero, target, out[k] + hole)


@inline
def bilinear_blocks(source, target, real, rows, height, width, size, channels, image, planes, y, x, affine, planar):
    """The rows `rows` of the planes of an image with one channel and at least two pixels across."""
    y0, y1, wy0, wy1 = y
    x0, x1, wx0, wx1 = x
    scale, bias = (affine[0][0], affine[1][0]) if planar else (real[1], real[0])
    h, w = size
    place, taps, weights = _blocks(x0, x1, wx0, wx1, real)
    holes = np.flatnonzero(x0 < 0)
    few, few_out = np.empty(ROWS * LANES, real.dtype), np.arange(ROWS) * LANES
    upper, lower, out = np.empty(ROWS, np.int64), np.empty(ROWS, np.int64), np.empty(ROWS, np.int64)
    w_upper, w_lower = np.empty(ROWS, real.dtype), np.empty(ROWS, real.dtype)
    skip = np.empty(ROWS, np.bool_)
    plane, i = rows[0] // h, rows[0] % h
    for r in range(rows[0], rows[1], ROWS):
        some = False
        for k in range(ROWS):
            base = (image * planes + plane) * height
            skip[k] = y0[i] < 0
            some |= skip[k]
            upper[k], lower[k] = (base + max(y0[i], 0)) * width, (base + max(y1[i], 0)) * width
            w_upper[k], w_lower[k] = wy0[i], wy1[i]
            out[k] = (image * planes * h + min(r + k, planes * h - 1)) * w
            plane, i = next_row(plane, i, planes, h)
        ahead = (upper[1] - upper[0]) * ROWS if width > _SHORT else 0  # to the next rows; short ones are in the L1
        rows_of = (upper, lower, w_upper, w_lower)
        if w >= LANES:
            blend_blocks(source, *rows_of, place, taps, weights, scale, bias, target, out, ahead)
        else:
            blend_blocks(source, *rows_of, place, taps, weights, scale, bias, few, few_out, ahead)
        if w < LANES or len(holes) > 0 or some:
            _finish(few, real[0], target, out, skip, holes, w)


@inline
def _sums(start, offset, weight, real):
    """Cuts bands `start`, `offset`, `weight` (see `_bands`) into blocks of eight targets, as `_blocks` does.

    Returns:
        `[n, 2]` first target of each block, and where its window begins, or -1; `[n + 1]` where its taps begin; `[t,
        8]` for each target its t-th tap, in the window or of all; their weights, 0 for a target without so many.
    """
    w = len(start)
    count = (w + LANES - 1) // LANES
    place, first = np.empty((count, 2), np.int64), np.zeros(count + 1, np.int64)
    for n in range(count):
        at = max(min(n * LANES, w - LANES), 0)
        low, high, most = 1 << 62, -1, 0
        for j in range(at, min(at + LANES, w)):
            taps = offset[j + 1] - offset[j]
            if taps > 0:
                low, high, most = min(low, start[j]), max(high, start[j] + taps - 1), max(most, taps)
        place[n, 0], place[n, 1] = at, -1 if high - low >= WINDOW else min(low, max(high, 0))
        first[n + 1] = first[n] + most
    taps, weights = np.zeros((first[count], LANES), np.int32), np.zeros((first[count], LANES), real.dtype)
    for n in range(count):
        for k in range(min(LANES, w)):
            j = place[n, 0] + k
            for t in range(offset[j + 1] - offset[j]):
                taps[first[n] + t, k] = start[j] + t - max(place[n, 1], 0)
                weights[first[n] + t, k] = weight[offset[j] + t]
    return place, first, taps, weights


@inline
def banded_blocks(source, target, real, rows, height, width, size, channels, image, planes, y, x, affine, planar):
    """As `bilinear_blocks`, for bands and an image at least eight pixels across."""
    y_start, y_offset, y_weight = y
    x_start, x_offset, x_weight = x
    scale, bias = (affine[0][0], affine[1][0]) if planar else (real[1], real[0])
    h, w = size
    first = np.where(x_offset[1:] > x_offset[:-1], x_start, -1)
    begins, ends = tiles(first, x_start + x_offset[1:] - x_offset[:-1] - 1, 1, w, width)
    begin, count = begins[0], ends[0] - begins[0]
    place, offset, taps, weights = _sums(x_start - begin, x_offset, x_weight, real)
    holes = np.flatnonzero(first < 0)
    few, few_out = np.empty(ROWS * LANES, real.dtype), np.arange(ROWS) * LANES
    stride = count + WINDOW
    lines = np.zeros(ROWS * stride, real.dtype)
    out, skip = np.empty(ROWS, np.int64), np.empty(ROWS, np.bool_)
    plane, i = rows[0] // h, rows[0] % h
    for r in range(rows[0], rows[1], ROWS):
        some = False
        for k in range(ROWS):
            at = ((image * planes + plane) * height + y_start[i]) * width + begin
            taps_y = y_offset[i + 1] - y_offset[i]
            skip[k] = taps_y == 0
            some |= skip[k]
            sum_rows(source, at, width, y_weight, y_offset[i], taps_y, lines, k * stride, count)
            out[k] = (image * planes * h + min(r + k, planes * h - 1)) * w
            plane, i = next_row(plane, i, planes, h)
        if w >= LANES:
            sum_blocks(lines, stride, place, offset, taps, weights, scale, bias, target, out)
        else:
            sum_blocks(lines, stride, place, offset, taps, weights, scale, bias, few, few_out)
        if w < LANES or len(holes) > 0 or some:
            _finish(few, real[0], target, out, skip, holes, w)
