"""Resampling by two taps per axis."""

import numpy as np

from fastwarp.kernels.cpu._blocks import bilinear_blocks
from fastwarp.kernels.cpu._extents import extent
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._simd import LANES, blend_columns, blend_pixels, blend_rows, blend_values, flat, load, store
from fastwarp.kernels.cpu._tiles import TILE, empty_columns, next_row, places, store_tile, tap_columns, tiles

_AHEAD = 64  # values between what is read and what is prefetched
_MANY = 16  # channels, from here on they fill vectors by themselves
_DIRECT_RATIO = 4  # minification from which most of an interleaved source row would be made for nothing


@inline
def two_taps(windows, extent, real):
    """First and second tap (-1 where a window reads nothing) and their weights. Never reaches past `extent`."""
    m = windows.shape[1]
    first, second = np.empty(m, np.int64), np.empty(m, np.int64)
    weight_first, weight_second = np.empty(m, real.dtype), np.empty(m, real.dtype)
    for i in range(m):
        c = np.float64(windows[0, i])
        if not windows[1, i] > 0 or extent == 0:
            first[i], second[i], weight_first[i], weight_second[i] = -1, -1, 0, 0
            continue
        inside = min(max(c, 0.0), extent - 1.0) if c == c else 0.0
        first[i] = max(min(int(inside), extent - 2), 0)
        second[i] = min(first[i] + 1, extent - 1)
        f = inside - first[i] if c == c else c
        weight_first[i], weight_second[i] = 1.0 - f, f
    return first, second, weight_first, weight_second


@inline
def _vectors(left, count, channels, room):
    """How many of the first `count` pixels of a row read no more than `room` values, taken as vectors of 4."""
    for j in range(count):
        if left[j] + channels + 4 > room:
            return j
    return count


@inline
def _bilinear_direct(source, target, real, rows, height, width, size, channels, image, planes, y, x, affine, planar):
    """Four taps straight from the image, for the rows `rows` of its planes."""
    y0, y1, wy0, wy1 = y
    x0, x1, wx0, wx1 = x
    scale, bias = affine
    h, w = size
    across, between = (1, h * w) if planar else (channels, 1)
    left, right = np.maximum(x0, 0) * channels, np.maximum(x1, 0) * channels
    step = (right - left).max()  # 0 where there is only one pixel
    # Pixels made as vectors of 4: those of fewer channels not past the end of a row.
    few = w if channels >= 4 else max(w - 4 // channels, 0) if channels >= 2 else 0
    reach = left.max() + channels + 4
    line = np.empty(w * channels if planar else 0, real.dtype)
    holes = np.flatnonzero(x0 < 0)
    for r in range(rows[0], rows[1]):
        plane, i = r // h, r % h
        a = (image * planes + plane) * height * width * channels
        b = a + y1[i] * width * channels
        a += y0[i] * width * channels
        next_plane, next_i = next_row(plane, i, planes, h)
        ahead = ((next_plane - plane) * height + y0[next_i] - y0[i]) * width * channels
        out = (image * planes + plane) * h * w * channels + i * w * (1 if planar else channels)
        top, bottom = wy0[i], wy1[i]
        if y0[i] < 0:
            for c in range(channels):
                for j in range(w):
                    store(real[0], target, out + j * across + c * between)
            continue
        if channels >= _MANY and not planar:
            for j in range(w):
                at, p, q = out + j * channels, left[j], right[j]
                wa, wb, wc, wd = top * wx0[j], top * wx1[j], bottom * wx0[j], bottom * wx1[j]
                for c in range(channels):
                    upper = wa * load(source, a + p + c, real[0]) + wb * load(source, a + q + c, real[0])
                    lower = wc * load(source, b + p + c, real[0]) + wd * load(source, b + q + c, real[0])
                    store(upper + lower, target, at + c)
        else:
            # A camera's pixels go through `line`, from where their channels part.
            vectors = few
            if channels < 4 and reach > len(source) - b:
                vectors = _vectors(left, few, channels, len(source) - b)
            for four in range(0, channels, 4):
                c = max(min(four, channels - 4), 0)
                pixels = (source, a + c, b + c, top, bottom, left, step, wx0, wx1, vectors)
                if planar:
                    blend_pixels(*pixels, line, c, channels, ahead)
                else:
                    blend_pixels(*pixels, target, out + c, channels, ahead)
            for c in range(channels):
                gain, shift = (scale[c], bias[c]) if planar else (real[1], real[0])
                at = out + c * between
                if planar:
                    for j in range(vectors):
                        store(line[j * channels + c] * gain + shift, target, at + j)
                if vectors < w:
                    taps = (left[vectors:], right[vectors:], wx0[vectors:], wx1[vectors:])
                    at += vectors * across
                    blend_values(source, a + c, b + c, top, bottom, *taps, gain, shift, target, at, across, ahead)
        for hole in holes:
            for c in range(channels):
                store(real[0], target, out + hole * across + c * between)


@inline
def _bilinear_interleaved(
    source, target, real, units, height, width, size, channels, image, planes, y, x, affine, planar
):
    """Eight rows at a time: vertical step into `[column][8]`, horizontal step there, and back."""
    y0, y1, wy0, wy1 = y
    x0, x1, wx0, wx1 = x
    h, w = size
    columns = max(TILE // channels, LANES)
    begin, end = tiles(x0, x1, channels, columns, width)
    left, right = tap_columns(x0, begin, channels, columns), tap_columns(x1, begin, channels, columns)
    place = places(w, channels, columns, planar)
    w_left, w_right = np.repeat(wx0, channels), np.repeat(wx1, channels)
    band_rows = np.empty((end - begin).max() * LANES, real.dtype)
    tile = np.empty(columns * channels * LANES, real.dtype)
    inner = 1 if planar else channels
    empty_offset, empty = empty_columns(x0, inner, columns)
    upper, lower, out = np.empty(LANES, np.int64), np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    w_upper, w_lower = np.empty(LANES, real.dtype), np.empty(LANES, real.dtype)
    skip = np.empty(LANES, np.bool_)
    for unit in range(units[0], units[1]):
        plane, i = unit * LANES // h, unit * LANES % h
        for k in range(LANES):
            base = (image * planes + plane) * height
            skip[k] = y0[i] < 0
            upper[k] = (base + max(y0[i], 0)) * width * channels
            lower[k] = (base + max(y1[i], 0)) * width * channels
            w_upper[k], w_lower[k] = wy0[i], wy1[i]
            out[k] = (image * planes + plane) * h * w * channels + i * w * (1 if planar else channels)
            plane, i = next_row(plane, i, planes, h)
        # Long rows: a few cache lines on; short ones: eight rows on, where the next unit reads.
        ahead = _AHEAD if width * channels > 8 * _AHEAD else (upper[LANES - 1] - upper[0]) * LANES // (LANES - 1)
        for t in range(len(begin)):
            lo, hi = t * columns, min((t + 1) * columns, w)
            read = (begin[t], end[t] - begin[t])
            blend_rows(source, upper, lower, w_upper, w_lower, *read, band_rows, ahead)
            blend_columns(band_rows, left, right, w_left, w_right, place, lo * channels, hi * channels, tile)
            holes = empty[empty_offset[t] : empty_offset[t + 1]]
            store_tile(
                tile, columns, lo * inner, (hi - lo) * inner, h * w, holes, target, out, skip, real, *affine, planar
            )


@parallel
def bilinear(table, windows, extents, like, like_out, real, scale, bias, planar, part, parts):
    for level in range(len(table)):
        source_at, target_at, images, planes, height, width, channels, h, w, at = table[level]
        source = flat(source_at, images * planes * height * width * channels, like)
        target = flat(target_at, images * planes * h * w * channels, like_out)
        units = (planes * h + LANES - 1) // LANES
        all_units = images * units
        for image in range(images):
            lo = min(max(part * all_units // parts - image * units, 0), units)
            hi = min(max((part + 1) * all_units // parts - image * units, 0), units)
            if lo == hi:
                continue
            row = windows[image if len(windows) > 1 else 0]
            y = two_taps(row[:, at : at + h], extent(extents, image, level, 0, height), real)
            x = two_taps(row[:, at + h : at + h + w], extent(extents, image, level, 1, width), real)
            shape = (height, width, (h, w), channels, image, planes, y, x, (scale, bias), planar)
            rows = (lo * LANES, min(hi * LANES, planes * h))
            # Pixels of few channels are vectors by themselves where nothing has to be widened for them.
            full = channels > 4 or (channels > 2 and like.itemsize >= 4)
            if channels == 1 and extent(extents, image, level, 1, width) > 1:
                bilinear_blocks(source, target, real, rows, *shape)
            elif full or width > _DIRECT_RATIO * w or width * channels < LANES:
                _bilinear_direct(source, target, real, rows, *shape)
            else:
                _bilinear_interleaved(source, target, real, (lo, hi), *shape)
