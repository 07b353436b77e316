"""Resampling by any number of taps: antialiased, and every adjoint."""

import numpy as np

from fastwarp.kernels.cpu._banded_simd import sum_pixels, sum_rows
from fastwarp.kernels.cpu._bands import band, transposed
from fastwarp.kernels.cpu._blocks import banded_blocks
from fastwarp.kernels.cpu._extents import extent
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._simd import LANES, flat, interleave_rows, load, store, sum_columns
from fastwarp.kernels.cpu._tiles import TILE, empty_columns, next_row, places, store_tile, tap_columns, tiles

_LINE = 8192  # values of a sum of rows that stay in the L1
_FEW = 8  # taps on average, up to there neighbours are not interleaved


@inline
def _banded_rows(source, target, real, units, height, width, size, channels, image, planes, y, x, affine, planar):
    y_start, y_offset, y_weight = y
    x_start, x_offset, x_weight = x
    h, w = size
    first_tap = np.where(x_offset[1:] > x_offset[:-1], x_start, -1)
    last_tap = x_start + x_offset[1:] - x_offset[:-1] - 1
    columns = max(TILE // channels, LANES)
    begin, end = tiles(first_tap, last_tap, channels, columns, width)
    start, place = tap_columns(first_tap, begin, channels, columns), places(w, channels, columns, planar)
    tap, taps = np.repeat(x_offset[:-1], channels), np.repeat(x_offset[1:] - x_offset[:-1], channels)
    stride = channels * LANES
    length = max((end - begin).max(), LANES)
    rows = np.zeros(length * LANES, real.dtype)
    band_rows = np.empty(length * LANES, real.dtype)
    tile = np.empty(columns * channels * LANES, real.dtype)
    inner = 1 if planar else channels
    empty_offset, empty = empty_columns(first_tap, inner, columns)
    out, skip = np.empty(LANES, np.int64), np.empty(LANES, np.bool_)
    for unit in range(units[0], units[1]):
        for t in range(len(begin)):
            lo, hi = t * columns, min((t + 1) * columns, w)
            first, count = begin[t], end[t] - begin[t]
            plane, i = unit * LANES // h, unit * LANES % h
            for k in range(LANES):
                out[k] = (image * planes + plane) * h * w * channels + i * w * (1 if planar else channels)
                rows_read = y_offset[i + 1] - y_offset[i]
                skip[k] = rows_read == 0
                line = rows[k * length : k * length + count]
                at = ((image * planes + plane) * height + y_start[i]) * width * channels + first
                for row in range(rows_read):
                    weight = y_weight[y_offset[i] + row]
                    if row == 0:
                        for q in range(count):
                            line[q] = weight * load(source, at + q, real[0])
                    else:
                        for q in range(count):
                            line[q] += weight * load(source, at + q, real[0])
                    at += width * channels
                plane, i = next_row(plane, i, planes, h)
            interleave_rows(rows, length, max(count, LANES), band_rows)
            lo_value, hi_value = lo * channels, hi * channels
            sum_columns(band_rows, start, stride, tap, taps, x_weight, place, lo_value, hi_value, tile)
            holes = empty[empty_offset[t] : empty_offset[t + 1]]
            store_tile(
                tile, columns, lo * inner, (hi - lo) * inner, h * w, holes, target, out, skip, real, *affine, planar
            )


@inline
def _banded_pixels(source, target, real, rows, height, width, size, channels, image, planes, y, x):
    """Pixels of eight channels or more: a sum of rows, then sums of its pixels, a tile of columns after the other."""
    y_start, y_offset, y_weight = y
    x_start, x_offset, x_weight = x
    h, w = size
    first = np.where(x_offset[1:] > x_offset[:-1], x_start, -1)
    columns = max(_LINE // channels, 1)
    begin, end = tiles(first, x_start + x_offset[1:] - x_offset[:-1] - 1, channels, columns, width)
    line = np.empty((end - begin).max(), real.dtype)
    for r in range(rows[0], rows[1]):
        plane, i = r // h, r % h
        at = ((image * planes + plane) * height + y_start[i]) * width * channels
        out = (image * planes * h + r) * w * channels
        taps = y_offset[i + 1] - y_offset[i]
        for t in range(len(begin) if taps > 0 else 0):
            lo, hi = t * columns, min((t + 1) * columns, w)
            stride = width * channels
            sum_rows(source, at + begin[t], stride, y_weight, y_offset[i], taps, line, 0, end[t] - begin[t])
            tile = (x_start[lo:hi], x_offset[lo : hi + 1], x_weight)
            sum_pixels(line, -begin[t], *tile, channels, target, out + lo * channels)
        if taps == 0:
            for q in range(w * channels):
                store(real[0], target, out + q)


@parallel
def banded(table, windows, extents, like, like_out, real, scale, bias, planar, adjoint, part, parts):
    for level in range(len(table)):
        source_at, target_at, images, planes, height, width, channels, h, w, at = table[level]
        source_size, size = ((h, w), (height, width)) if adjoint else ((height, width), (h, w))
        source = flat(source_at, images * planes * source_size[0] * source_size[1] * channels, like)
        target = flat(target_at, images * planes * size[0] * size[1] * channels, like_out)
        units = (planes * size[0] + LANES - 1) // LANES
        all_units = images * units
        for image in range(images):
            lo = min(max(part * all_units // parts - image * units, 0), units)
            hi = min(max((part + 1) * all_units // parts - image * units, 0), units)
            if lo == hi:
                continue
            row = windows[image if len(windows) > 1 else 0]
            y = band(row[:, at : at + h], extent(extents, image, level, 0, height), real)
            x = band(row[:, at + h : at + h + w], extent(extents, image, level, 1, width), real)
            if adjoint:
                y, x = transposed(*y, height), transposed(*x, width)
            shape = (source_size[0], source_size[1], size, channels, image, planes, y, x, (scale, bias), planar)
            rows = (lo * LANES, min(hi * LANES, planes * size[0]))
            if channels >= LANES and not planar:
                _banded_pixels(source, target, real, rows, *shape[:8])
            elif channels == 1 and source_size[1] >= LANES and x[1][size[1]] <= _FEW * size[1]:
                banded_blocks(source, target, real, rows, *shape)
            else:
                _banded_rows(source, target, real, (lo, hi), *shape)
