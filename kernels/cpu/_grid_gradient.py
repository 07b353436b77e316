"""Gradient of resampling at windows of two rows to the windows.

For each target and each of its four taps, the products of tap and incoming gradient are summed over the channels; what
the fractions have to do with it comes afterwards.
"""

import numpy as np

from fastwarp.kernels.cpu._grid_simd import multiply_pixels, multiply_planes
from fastwarp.kernels.cpu._grid_taps import extents_of, steps, taps
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._simd import LANES, flat, load

_RUN = 4096  # values of targets whose sums are made at a time: they stay in L2
_PLANES = 4  # planes that are read in turns, so that sums need not be loaded for each
_ADDED = 64  # planes that are summed in the type that accumulates, then in float64


@inline
def _multiply(source, base, step, offset, grad, at, targets, channels, products):
    """As `multiply_planes` for one plane, one by one, for the targets and channels that lie in `targets`, `channels`.

    `channels` are the first, the end, and how many there are.
    """
    down, right = step
    first, end, all_channels = channels
    one, n = products.dtype.type(1), len(offset)
    for i in range(targets[0], targets[1]):
        a = base + offset[i]
        b, c, d = a + right, a + down, a + down + right
        for k in range(first, end):
            g = load(grad, at + i * all_channels + k, one)
            products[i] += g * load(source, a + k, one)
            products[n + i] += g * load(source, b + k, one)
            products[2 * n + i] += g * load(source, c + k, one)
            products[3 * n + i] += g * load(source, d + k, one)


@inline
def _multiply_all(source, base, plane_size, step, offset, grad, at, count, planes, channels, products, total):
    """Adds the products of some targets to `total`."""
    down, right = step
    n = len(offset)
    for first in range(0, planes, _ADDED):
        products[:] = 0
        end = min(first + _ADDED, planes)
        if channels == 1 and right == 1:
            done = n // LANES * LANES
            for p in range(first, end, _PLANES):
                together, here, g = min(_PLANES, end - p), base + p * plane_size, at + p * count
                taps_of = (source, here, plane_size, offset, down)
                multiply_planes(*taps_of, done, together, grad, g, count, products, n)
            which, rest = (done, n), (0, 1, 1)
        else:
            done = channels // (2 * LANES) * (2 * LANES)
            for p in range(first, end):
                here, g = base + p * plane_size, at + p * count * channels
                taps_of = (source, here, offset, down, right)
                multiply_pixels(*taps_of, n, done, grad, g, channels, products, n)
            which, rest = (0, n), (done, channels, channels)
        if which[0] < which[1] and rest[0] < rest[1]:
            for p in range(first, end):
                here, g = base + p * plane_size, at + p * count * channels
                _multiply(source, here, step, offset, grad, g, which, rest, products)
        for i in range(len(total)):
            total[i] += products[i]


@inline
def _add_windows(windows, lo, fraction_y, fraction_x, size, total, result):
    """Adds the gradient of the targets from `lo` on, given the products with their taps."""
    n = len(fraction_y)
    for i in range(n):
        x, y = windows[0, lo + i], windows[1, lo + i]
        if x < 0:
            continue
        fy, fx = np.float64(fraction_y[i]), np.float64(fraction_x[i])
        a, b, c, d = total[i], total[n + i], total[2 * n + i], total[3 * n + i]
        by_x, by_y = (1 - fy) * (b - a) + fy * (d - c), (1 - fx) * (c - a) + fx * (d - b)
        # On the last pixel, and beyond, both taps are that pixel.
        result[0, lo + i] += np.nan if x != x or y != y else by_x if x < size[1] - 1 else 0.0
        result[1, lo + i] += np.nan if x != x or y != y else by_y if y < size[0] - 1 else 0.0


@parallel
def gradient(table, windows, extents, like, real, result, part, parts):
    """Each unit owns some windows and sums over the planes, then the images, that share them, in their order."""
    for level in range(len(table)):
        source_at, grad_at, images, planes, sources, height, width, channels, count, at = table[level]
        source = flat(source_at, sources * planes * height * width * channels, like)
        grad = flat(grad_at, images * planes * count * channels, like)
        owners = len(result)
        runs = max(count * min(channels, 64) // _RUN, 1)
        plane_size = height * width * channels
        for unit in range(part * owners * runs // parts, (part + 1) * owners * runs // parts):
            owner, run = unit // runs, unit % runs
            lo, hi = run * count // runs, (run + 1) * count // runs
            products, total = np.empty(4 * (hi - lo), real.dtype), np.empty(4 * (hi - lo))
            for image in range(owner, images, owners):
                size = extents_of(extents, image, level, height, width)
                if min(size) == 0:
                    continue
                row = windows[image if len(windows) > 1 else 0]
                offset, fraction_y, fraction_x = taps(row, at + lo, at + hi, size, width, channels, real)
                base = (image if sources > 1 else 0) * planes * plane_size
                first = (image * planes * count + lo) * channels
                step = steps(size, width, channels)
                total[:] = 0
                _multiply_all(
                    source, base, plane_size, step, offset, grad, first, count, planes, channels, products, total
                )
                _add_windows(row, at + lo, fraction_y, fraction_x, size, total, result[owner])
