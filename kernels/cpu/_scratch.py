"""Working arrays of kernels. One helper for each type: numba compiles `np.empty` anew for each way of calling it."""

import numpy as np

from fastwarp.kernels.cpu._parallel import inline


@inline
def integers(count):
    """`count` int64, of any values."""
    return np.empty(count, np.int64)


@inline
def doubles(count):
    """`count` float64, of any values."""
    return np.empty(count, np.float64)


@inline
def numbers(count, real):
    """`count` numbers of the type of the array `real`, of any values."""
    return np.empty(count, real.dtype)


@inline
def zeros(count, real):
    """`count` zeros of the type of the array `real`."""
    result = np.empty(count, real.dtype)
    for i in range(count):
        result[i] = 0
    return result
