"""Levels of a resampling as kernels get them, their padding, and how their rows are shared out.

An image is seen as `[images, planes, height, width, channels]`: contiguous has one channel and many planes,
channels_last one plane. Rows of all planes of an image are counted through.
"""

import numpy as np

from fastwarp.kernels.cpu._parallel import inline

LEVEL = np.dtype(
    [
        (name, np.int64)
        for name in (
            "source",  # address of what is read
            "target",  # address of what is written, or compared with
            "images",
            "planes",
            "height",  # of what is read
            "width",
            "channels",
            "rows",  # of what is written, or compared with
            "columns",
            "first",  # window of the rows; those of the columns follow
            "is_adjoint",  # the windows belong to what is read, and point into what is written
        )
    ]
)


@inline
def share_of(image, images, units, part, parts):
    """The units of one image that belong to a part, where each image has `units`."""
    everything = images * units
    lo = min(max(part * everything // parts - image * units, 0), units)
    hi = min(max((part + 1) * everything // parts - image * units, 0), units)
    return lo, hi


@inline
def next_row(plane, i, planes, rows):
    """The row after row i of a plane. The last row of all follows itself: groups that are not full repeat it."""
    if i + 1 < rows:
        return plane, i + 1
    if plane + 1 < planes:
        return plane + 1, 0
    return plane, i


@inline
def extent(extents, b, level, axis, whole):
    """Pixels of an axis of image b that are not padding."""
    if extents.shape[0] == 0:
        return whole
    return min(max(extents[b if extents.shape[0] > 1 else 0, level, axis], 0), whole)
