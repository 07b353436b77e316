"""Which rows and columns of which layer the targets need, and what one strip of an image's columns takes of them.

A layer is evaluated only where it is needed: the last one at the anchors, each other one at the neighbours of those of
the next. Rows and columns that nobody asks for do not exist: a line holds the needed columns side by side, and `left`
says where the three that a convolution reads begin.
"""

import numpy as np

from fastwarp.kernels.cpu._parallel import inline

_STRIP = 4096  # values of a line of the last layer, less where channels are few: rings stay in the second cache
_MOST, _LEAST = 256, 32  # anchors


@inline
def needed(anchors, extent, layers):
    """Of one axis, the positions that each layer is needed at.

    Returns:
        count `[layers + 1]`: number of positions; layer 0 is the image.
        place `[layers + 1, extent]`: the positions, increasing.
        left `[layers + 1, extent]`: number of the left neighbour among those of the layer before; -1 at position 0.
        first: of each anchor, its first target; then the number of targets.
        anchor `[targets]`: number of each target's anchor.
    """
    count = np.zeros(layers + 1, np.int64)
    place, left = np.empty((layers + 1, extent), np.int32), np.empty((layers + 1, extent), np.int32)
    first, anchor = np.empty(extent + 1, np.int64), np.empty(len(anchors), np.int32)
    n = 0
    for q in range(len(anchors)):
        if n == 0 or anchors[q] != place[layers, n - 1]:
            place[layers, n], first[n] = anchors[q], q
            n += 1
        anchor[q] = n - 1
    count[layers], first[n] = n, len(anchors)
    for layer in range(layers, 0, -1):
        m, free = 0, 0
        for i in range(count[layer]):
            p = place[layer, i]
            for x in range(max(p - 1, free), min(p + 2, extent)):
                place[layer - 1, m] = x
                m += 1
            free = min(p + 2, extent)
            left[layer, i] = m - 2 - (p + 1 < extent)
        count[layer - 1] = m
    return count, place, left, first, anchor


@inline
def span(axis, begin, end):
    """For the anchors begin .. end, which of its positions each layer needs: first and past the last `[layers + 1]`."""
    count, _, left, _, _ = axis
    layers = len(count) - 1
    lo, hi = np.empty(layers + 1, np.int64), np.empty(layers + 1, np.int64)
    lo[layers], hi[layers] = begin, end
    for layer in range(layers, 0, -1):
        lo[layer - 1] = max(left[layer, lo[layer]], 0)
        hi[layer - 1] = min(left[layer, hi[layer] - 1] + 3, count[layer - 1])
    return lo, hi


@inline
def strips(axis, strides):
    """Number of strips that the anchors of a row are divided into. `strides`: values of a pixel of each layer."""
    strip = min(max(_STRIP // max(strides.max(), 1), _LEAST), _MOST)
    return (axis[0][-1] + strip - 1) // strip
