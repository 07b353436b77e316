"""Gradient of resampling at the windows of dense grids to these windows.

For each target and each of its taps, the products of tap and incoming gradient are summed over the channels; what the
weights have to do with it comes afterwards. Each unit of work owns some windows and sums over the planes, then the
images, that share them, in their order.
"""

import numpy as np

from fastwarp.kernels.cpu._grid_taps import (
    arrays_of_taps,
    box_of,
    field_of,
    footprints_from,
    lefts,
    offsets_of,
    pairs_at,
    rights,
    row_of_batch,
    taps_of,
    twice,
)
from fastwarp.kernels.cpu._levels import size_of, source_plane
from fastwarp.kernels.cpu._memory import clear, doubles, numbers
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._rows import LANES
from fastwarp.kernels.cpu._separable_taps import chain_to_windows, runs
from fastwarp.kernels.cpu._vector import elements, full, full_like, hold, load, load_as, pointer, store, tail
from fastwarp.kernels.cpu._vector import total as sum_of_lanes

_RUN = 4096  # values of targets whose sums are made at a time: they stay in L2
_FOOTPRINTS = 1024  # targets whose footprints are found at a time, likewise
_PLANES = 4  # that are read in turns, so that sums need not be loaded for each
_ADDED = 64  # planes that are summed in the type that accumulates, then in float64
_CHANNELS = 2 * LANES  # channels that are multiplied together


# --- two by two pixels ------------------------------------------------------------------------------------------------
# `products[tap][target]` are the sums of tap times gradient.


@inline
def _add_to(values, products, at):
    store(load(products, at, LANES) + values, products, at)


@inline
def _multiply_planes(source, base, grad, at, planes, sizes, taps, count, products):
    """The first `count` targets, a multiple of 8, of some planes that lie `sizes` apart in the source and in `grad`."""
    zero = full_like(0, load(products, 0, 1))
    for block in range(count // LANES):
        i = block * LANES
        x = offsets_of(taps, i)
        a0 = full(zero, LANES)
        a1, b0, b1 = a0, a0, a0
        for p in range(planes):
            upper = base + p * sizes[0]
            first, second = twice(load_as(grad, at + p * sizes[1] + i, a0))
            above, below = pairs_at(source, upper, x, zero), pairs_at(source, upper + taps.down, x, zero)
            a0, a1 = a0 + above[0] * first, a1 + above[1] * second
            b0, b1 = b0 + below[0] * first, b1 + below[1] * second
        _add_to(lefts(a0, a1), products, i)
        _add_to(rights(a0, a1), products, taps.count + i)
        _add_to(lefts(b0, b1), products, 2 * taps.count + i)
        _add_to(rights(b0, b1), products, 3 * taps.count + i)


@inline
def _multiply_pixels(source, base, grad, at, channels, taps, count, products):
    """The first `count` channels, a multiple of 16, of one plane."""
    zero = full(full_like(0, load(products, 0, 1)), _CHANNELS)
    n = taps.count
    for i in range(n):
        upper = base + load(taps.offset, i, 1)
        lower, here = upper + taps.down, at + i * channels
        a, b, c, d = zero, zero, zero, zero
        for block in range(count // _CHANNELS):
            k = block * _CHANNELS
            g = load_as(grad, here + k, zero)
            a = a + load_as(source, upper + k, zero) * g
            b = b + load_as(source, upper + taps.right + k, zero) * g
            c = c + load_as(source, lower + k, zero) * g
            d = d + load_as(source, lower + taps.right + k, zero) * g
        store(load(products, i, 1) + sum_of_lanes(a), products, i)
        store(load(products, n + i, 1) + sum_of_lanes(b), products, n + i)
        store(load(products, 2 * n + i, 1) + sum_of_lanes(c), products, 2 * n + i)
        store(load(products, 3 * n + i, 1) + sum_of_lanes(d), products, 3 * n + i)


@inline
def _multiply_values(source, base, grad, at, channels, taps, first, first_channel, products):
    """One by one, for the targets and the channels from `first` and `first_channel` on, of one plane."""
    n, like = taps.count, load(products, 0, 1)
    for i in range(first, n):
        a = base + load(taps.offset, i, 1)
        b, c, d = a + taps.right, a + taps.down, a + taps.down + taps.right
        p, q = load(products, i, 1), load(products, n + i, 1)
        r, s = load(products, 2 * n + i, 1), load(products, 3 * n + i, 1)
        for k in range(first_channel, channels):
            g = load_as(grad, at + i * channels + k, like)
            p = p + g * load_as(source, a + k, like)
            q = q + g * load_as(source, b + k, like)
            r = r + g * load_as(source, c + k, like)
            s = s + g * load_as(source, d + k, like)
        store(p, products, i)
        store(q, products, n + i)
        store(r, products, 2 * n + i)
        store(s, products, 3 * n + i)


# Two ways to add the products over some planes, of which the first begins at `base` and at `at`.


@inline
def _add_planes(level, source, base, grad, at, planes, taps, sums):
    count = taps.count // LANES * LANES if taps.right > 0 else 0
    sizes = level.height * level.width, level.targets
    for p in range(0, planes if count > 0 else 0, _PLANES):
        some, here, g = min(_PLANES, planes - p), base + p * sizes[0], at + p * sizes[1]
        _multiply_planes(source, here, grad, g, some, sizes, taps, count, sums)
    for p in range(planes if count < taps.count else 0):
        _multiply_values(source, base + p * sizes[0], grad, at + p * sizes[1], 1, taps, count, 0, sums)


@inline
def _add_pixels(level, source, base, grad, at, planes, taps, sums):
    channels, done = level.channels, level.channels // _CHANNELS * _CHANNELS
    sizes = level.height * level.width * channels, level.targets * channels
    for p in range(planes if done > 0 else 0):
        _multiply_pixels(source, base + p * sizes[0], grad, at + p * sizes[1], channels, taps, done, sums)
    for p in range(planes if done < channels else 0):
        _multiply_values(source, base + p * sizes[0], grad, at + p * sizes[1], channels, taps, 0, done, sums)


@inline
def _multiply(level, add, source, base, grad, at, taps, sums, products):
    """The products of some targets over all planes of an image; `sums` is memory for those of some planes."""
    for i in range(4 * taps.count):
        products[i] = 0
    size, between = level.height * level.width * level.channels, level.targets * level.channels
    for first in range(0, level.planes, _ADDED):
        for i in range(4 * taps.count):
            sums[i] = 0
        planes, here, g = min(_ADDED, level.planes - first), base + first * size, at + first * between
        add(level, source, here, grad, g, planes, taps, elements(sums))
        for i in range(4 * taps.count):
            products[i] += sums[i]


@inline
def _add_windows(field, first, taps, size, products, to_x, to_y):
    """Adds the gradient of the targets from window `first` on, given the products with their taps."""
    n = taps.count
    for i in range(n):
        x, y = field.x[first + i], field.y[first + i]
        if x < 0:
            continue
        fy, fx = np.float64(load(taps.fraction_y, i, 1)), np.float64(load(taps.fraction_x, i, 1))
        a, b, c, d = products[i], products[n + i], products[2 * n + i], products[3 * n + i]
        by_x, by_y = (1 - fy) * (b - a) + fy * (d - c), (1 - fx) * (c - a) + fx * (d - b)
        # On the last pixel, and beyond, both taps are that pixel.
        to_x[i] += np.nan if x != x or y != y else by_x if x < size[1] - 1 else 0.0
        to_y[i] += np.nan if x != x or y != y else by_y if y < size[0] - 1 else 0.0


@inline
def _gradient_of_run(level, add, windows, extents, source, grad, result, owner, lo, hi, memory):
    """The gradient to the windows `lo .. hi` that belong to `result[owner]`."""
    taps_memory, sums, products = memory
    for image in range(owner, level.images, len(result)):
        size = size_of(level, extents, image)
        if min(size[0], size[1]) == 0:
            continue
        field, first = field_of(windows, image), level.first + lo
        taps = taps_of(level, field, size, lo, hi, taps_memory)
        base = source_plane(level, image, 0) * level.height * level.width * level.channels
        at = (image * level.planes * level.targets + lo) * level.channels
        _multiply(level, add, source, base, grad, at, taps, sums, products)
        to_x, to_y = row_of_batch(result, owner, 0, first), row_of_batch(result, owner, 1, first)
        _add_windows(field, first, taps, size, products, to_x, to_y)


@inline
def _gradient(level, add, windows, extents, like, real, result, part, parts):
    """The part of a thread; `add` is how products are added."""
    source, grad, owners = pointer(level.source, like), pointer(level.target, like), len(result)
    runs = max(level.targets * min(level.channels, 64) // _RUN, 1)
    most = (level.targets + runs - 1) // runs
    memory = arrays_of_taps(most, real), numbers(4 * most, real), doubles(4 * most)
    for unit in range(part * owners * runs // parts, (part + 1) * owners * runs // parts):
        owner, run = unit // runs, unit % runs
        lo, hi = run * level.targets // runs, (run + 1) * level.targets // runs
        _gradient_of_run(level, add, windows, extents, source, grad, result, owner, lo, hi, memory)


@parallel
def gradient_of_planes(table, windows, extents, like, real, result, part, parts):
    """Of `resample_planes`."""
    for number in range(len(table)):
        _gradient(table[number], _add_planes, windows, extents, like, real, result, part, parts)


@parallel
def gradient_of_pixels(table, windows, extents, like, real, result, part, parts):
    """Of `resample_pixels`."""
    for number in range(len(table)):
        _gradient(table[number], _add_pixels, windows, extents, like, real, result, part, parts)


# --- footprints -------------------------------------------------------------------------------------------------------


@inline
def _multiply_box(source, base, grad, at, box, y, x, width, channels, by_y, by_x):
    """Adds the gradient of the weights of a target."""
    for a in range(box.rows):
        row, of_row = base + ((box.row + a) * width + box.column) * channels, load(y.weight, box.row_weights + a, 1)
        by_row = load(by_y, box.row_weights + a, 1)
        for b in range(box.columns):
            of_column = load(x.weight, box.column_weights + b, 1)
            total = full_like(0, of_row)
            for c in range(channels):
                total = total + load_as(grad, at + c, total) * load_as(source, row + b * channels + c, total)
            by_row = by_row + of_column * total
            by_column = load(by_x, box.column_weights + b, 1) + of_row * total
            store(by_column, by_x, box.column_weights + b)
        store(by_row, by_y, box.row_weights + a)


@inline
def _multiply_targets(level, image, source, grad, lo, hi, taps, by_weights):
    """Adds the gradients of the weights of the targets `lo .. hi` over all planes of an image."""
    (y, x), (by_y, by_x), channels = taps, by_weights, level.channels
    for plane in range(level.planes):
        base = source_plane(level, image, plane) * level.height * level.width * channels
        first = ((image * level.planes + plane) * level.targets + lo) * channels
        for k in range(hi - lo):
            at = first + k * channels
            _multiply_box(source, base, grad, at, box_of(y, x, k), y, x, level.width, channels, by_y, by_x)


@parallel
def gradient_of_footprints(table, windows, extents, like, real, result, part, parts):
    """Of `resample_footprints`."""
    for number in range(len(table)):
        level = table[number]
        source, grad = pointer(level.source, like), pointer(level.target, like)
        segments = (level.targets + _FOOTPRINTS - 1) // _FOOTPRINTS
        for segment in range(part * segments // parts, (part + 1) * segments // parts):
            lo, hi = segment * level.targets // segments, (segment + 1) * level.targets // segments
            count, first = hi - lo, level.first + lo
            for image in range(level.images):
                of = footprints_from(field_of(windows, image), first, count, size_of(level, extents, image))
                y, x = runs(of.y, real), runs(of.x, real)
                of_y, of_x = y.offset[count], x.offset[count]
                memory = doubles(of_y + of_x + 4 * count)
                by_y, by_x, by_window = elements(memory), tail(memory, of_y), tail(memory, of_y + of_x)
                clear(by_y, of_y + of_x + 4 * count)
                _multiply_targets(level, image, source, grad, lo, hi, (y, x), (by_y, by_x))
                to_x, to_y = by_window, tail(by_window, count)
                chain_to_windows(of.x, x, by_x, to_x, tail(to_x, 2 * count))
                chain_to_windows(of.y, y, by_y, to_y, tail(to_y, 2 * count))
                for i in range(result.shape[1]):
                    out, of_row = (
                        row_of_batch(result, image if len(result) > 1 else 0, i, first),
                        tail(by_window, i * count),
                    )
                    for k in range(count):
                        out[k] += of_row[k]
                hold(memory)
                hold(of)
