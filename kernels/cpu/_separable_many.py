"""Resampling of pixels of many channels: those fill vectors by themselves."""

from fastwarp.kernels.cpu._interleave import LANES
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._scratch import numbers
from fastwarp.kernels.cpu._separable_levels import share_of
from fastwarp.kernels.cpu._separable_sums import sum_rows
from fastwarp.kernels.cpu._separable_taps import pairs_of, runs_of
from fastwarp.kernels.cpu._vector import load_as, pointer, store

MANY = 16
"""Channels from which on this is the fastest way."""


@inline
def _blend_many(source, target, zero, upper, lower, y_weights, x, channels, out):
    """A row of targets by two taps along each axis."""
    top, bottom = y_weights
    for j in range(len(x.first)):
        at, p, q = out + j * channels, x.first[j] * channels, x.second[j] * channels
        if p < 0:
            for c in range(channels):
                store(zero, target, at + c)
            continue
        wa, wb, wc, wd = top * x.w_first[j], top * x.w_second[j], bottom * x.w_first[j], bottom * x.w_second[j]
        for c in range(channels):
            above = wa * load_as(source, upper + p + c, zero) + wb * load_as(source, upper + q + c, zero)
            below = wc * load_as(source, lower + p + c, zero) + wd * load_as(source, lower + q + c, zero)
            store(above + below, target, at + c)


@parallel
def blend_many(table, windows, extents, like, real, part, parts):
    """Two taps along each axis."""
    for number in range(len(table)):
        level = table[number]
        source, target = pointer(level.source, like), pointer(level.target, like)
        channels, h, w = level.channels, level.rows, level.columns
        units = (level.planes * h + LANES - 1) // LANES
        for image in range(level.images):
            lo, hi = share_of(image, level.images, units, part, parts)
            if lo == hi:
                continue
            y, x = pairs_of(level, number, image, windows, extents, real)
            for r in range(lo * LANES, min(hi * LANES, level.planes * h)):
                i, base = r % h, (image * level.planes + r // h) * level.height
                stride, out = level.width * channels, (image * level.planes * h + r) * w * channels
                if y.first[i] >= 0:
                    rows = (base + y.first[i]) * stride, (base + y.second[i]) * stride
                    weights = y.w_first[i], y.w_second[i]
                    _blend_many(source, target, real[0], rows[0], rows[1], weights, x, channels, out)
                else:
                    for k in range(w * channels):
                        store(real[0], target, out + k)


@parallel
def sum_many(table, windows, extents, like, real, adjoint, part, parts):
    """Any number of taps along each axis: sums of rows, then of their pixels."""
    for number in range(len(table)):
        level = table[number]
        source, target = pointer(level.source, like), pointer(level.target, like)
        channels = level.channels
        height, width = (level.rows, level.columns) if adjoint else (level.height, level.width)
        h, w = (level.height, level.width) if adjoint else (level.rows, level.columns)
        units = (level.planes * h + LANES - 1) // LANES
        line = numbers(width * channels, real)
        for image in range(level.images):
            lo, hi = share_of(image, level.images, units, part, parts)
            if lo == hi:
                continue
            y, x = runs_of(level, number, image, windows, extents, adjoint, real)
            begin, end = width, 0  # what no target reads may be NaN, and costs time
            for j in range(w):
                if x.offset[j + 1] > x.offset[j]:
                    begin, end = min(begin, x.start[j]), max(end, x.start[j] + x.offset[j + 1] - x.offset[j])
            begin, count = begin * channels, max(end - begin, 0) * channels
            for r in range(lo * LANES, min(hi * LANES, level.planes * h)):
                i, stride = r % h, width * channels
                row = ((image * level.planes + r // h) * height + y.start[i]) * stride + begin
                several = y.offset[i + 1] - y.offset[i]
                sum_rows(source, row, stride, y.weight, y.offset[i], several, line, begin, count)
                out = (image * level.planes * h + r) * w * channels
                for k in range(w * channels if several == 0 else 0):
                    store(real[0], target, out + k)
                for j in range(w if several > 0 else 0):
                    first, taps = x.offset[j], x.offset[j + 1] - x.offset[j]
                    pixel, at = x.start[j] * channels, out + j * channels
                    sum_rows(line, pixel, channels, x.weight, first, taps, target, at, channels)
