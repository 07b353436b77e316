"""Windows of two rows -> the four taps of each target."""

import numpy as np

from fastwarp.kernels.cpu._extents import extent
from fastwarp.kernels.cpu._parallel import inline


@inline
def extents_of(extents, image, level, height, width):
    """Rows and columns of an image that are not padding."""
    return extent(extents, image, level, 0, height), extent(extents, image, level, 1, width)


@inline
def steps(size, width, channels):
    """From the first tap of a target to the one below and to the one on its right; 0 along an axis of one pixel."""
    return (width * channels if size[0] > 1 else 0), (channels if size[1] > 1 else 0)


@inline
def taps(windows, lo, hi, size, width, channels, real):
    """Offset of the first tap and fractions in y and x of the targets `lo .. hi`, without branches.

    `size` is what there is to read, at least one pixel. The second taps are inside as well: a target on the last pixel
    has it as its second, with a fraction of 1. A target that reads nothing gets pixel 0: see `holes`.
    """
    count, kind = hi - lo, windows.dtype.type
    offset, fraction_y, fraction_x = np.empty(count, np.int64), np.empty(count, real.dtype), np.empty(count, real.dtype)
    last_y, last_x = np.int32(max(size[0] - 2, 0)), np.int32(max(size[1] - 2, 0))
    edge_y, edge_x, zero = kind(size[0] - 1), kind(size[1] - 1), kind(0)
    row, pixel = np.int64(width * channels), np.int64(channels)
    xs, ys = windows[0, lo:hi], windows[1, lo:hi]
    for i in range(count):
        x, y = xs[i], ys[i]
        inside_x, inside_y = (x if x > zero else zero), (y if y > zero else zero)  # NaN is not
        inside_x, inside_y = (inside_x if inside_x < edge_x else edge_x), (inside_y if inside_y < edge_y else edge_y)
        x0, y0 = min(np.int32(inside_x), last_x), min(np.int32(inside_y), last_y)
        offset[i] = y0 * row + x0 * pixel
        fraction_x[i] = inside_x - kind(x0) if x == x else x
        fraction_y[i] = inside_y - kind(y0) if y == y else y
    return offset, fraction_y, fraction_x


@inline
def holes(windows, lo, hi):
    """Which of the targets `lo .. hi` read nothing, counted from `lo`."""
    found, xs = 0, windows[0, lo:hi]
    for i in range(len(xs)):
        found += xs[i] < 0
    result = np.empty(found, np.int64)
    if found:
        found = 0
        for i in range(len(xs)):
            if xs[i] < 0:
                result[found] = i
                found += 1
    return result


@inline
def places(windows, lo, hi, size, width, first, rows, upper, lower, fraction_y, fraction_x):
    """Pixels of the upper and lower left taps of the targets `lo .. hi` in `rows` rows of an image from row `first` on,
    and fractions in y and x, into the last four arguments; without branches.

    There is a row more above and below, for what lies elsewhere. Targets that read nothing, and lost ones, go there.
    """
    kind = windows.dtype.type
    last_y, last_x = np.int32(max(size[0] - 2, 0)), np.int32(max(size[1] - 2, 0))
    edge_y, edge_x, zero = kind(size[0] - 1), kind(size[1] - 1), kind(0)
    step, above, below = np.int32(min(size[0] - 1, 1)), np.int32(0), np.int32(rows + 1)
    shift, row = np.int32(1 - first), np.int64(width)
    xs, ys = windows[0, lo:hi], windows[1, lo:hi]
    for i in range(len(xs)):
        x, y = xs[i], ys[i]
        inside_x, inside_y = (x if x > zero else zero), (y if y > zero else zero)  # NaN is not
        inside_x, inside_y = (inside_x if inside_x < edge_x else edge_x), (inside_y if inside_y < edge_y else edge_y)
        x0, y0 = min(np.int32(inside_x), last_x), min(np.int32(inside_y), last_y)
        here = (x >= zero) & (y == y)
        a, b = y0 + shift, y0 + step + shift
        a, b = min(max(a, above), below) if here else above, min(max(b, above), below) if here else above
        upper[i] = a * row + x0
        lower[i] = b * row + x0
        fraction_x[i] = inside_x - kind(x0)
        fraction_y[i] = inside_y - kind(y0)
