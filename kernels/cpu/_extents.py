"""Extents of padded images, `[1 or B, levels, 2]` (height, width) or none given."""

import numpy as np
from torch import Tensor

from fastwarp.kernels.cpu._memory import array
from fastwarp.kernels.cpu._parallel import inline

_NONE = np.zeros((0, 0, 0), np.int64)


def extents_array(extents: Tensor | None) -> np.ndarray:
    """As kernels take them: an empty array where none are given."""
    return _NONE if extents is None else array(extents)


@inline
def extent(extents, b, level, axis, whole):
    """Pixels of an axis of image b that are not padding."""
    if extents.shape[0] == 0:
        return whole
    return min(max(extents[b if extents.shape[0] > 1 else 0, level, axis], 0), whole)
