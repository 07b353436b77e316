"""Windows -> whole pixels: the nearest one of each target, and the cells that targets cover.

Results are exact, the same on every backend: all of it is computed in float64, without fused multiply-adds.
"""

import math

import numpy as np

from fastwarp.kernels.cpu._parallel import exact, inline

NOTHING, LOST = -1, -2  # in place of a pixel


@exact
def nearest(centre, extent):
    """floor(c + 1/2) within the axis."""
    return math.floor(min(max(centre, 0.0), extent - 1.0) + 0.5)


@exact
def cell(centre, half_width, extent):
    """First pixel in (c - s/2, c + s/2], and the one after the last."""
    centre, half = min(max(centre, 0.0), extent - 1.0), max(half_width, 1.0) / 2
    return int(max(np.floor(centre - half) + 1.0, 0.0)), int(min(np.floor(centre + half), extent - 1.0)) + 1


@inline
def of_axis(windows, extent, step):
    """The nearest pixel of every separable window `[2, m]`, times `step`; or NOTHING or LOST."""
    result = np.empty(windows.shape[1], np.int64)
    for i in range(len(result)):
        c = np.float64(windows[0, i])
        if not windows[1, i] > 0 or extent <= 0:
            result[i] = NOTHING
        else:
            result[i] = nearest(c, extent) * step if c == c else LOST
    return result


@inline
def of_pixels(windows, lo, hi, extents, width, step, result):
    """The nearest pixel of the windows `[2, P]` of the targets `lo .. hi`, times `step`; or NOTHING or LOST."""
    for i in range(hi - lo):
        x, y = np.float64(windows[0, lo + i]), np.float64(windows[1, lo + i])
        if x < 0 or min(extents) <= 0:
            result[i] = NOTHING
        elif x != x or y != y:
            result[i] = LOST
        else:
            result[i] = (nearest(y, extents[0]) * width + nearest(x, extents[1])) * step
