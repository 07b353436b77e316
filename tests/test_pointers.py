"""Pointers of `_vector`: memory that kernels pass on without counting who holds it."""

from __future__ import annotations

import numpy as np
import pytest

from fastwarp.kernels.cpu._parallel import jit
from fastwarp.kernels.cpu._vector import count_lanes, elements, hold, load_as, store, tail, zero_line


@jit
def _sums(values, result):
    """Through memory of its own: the sum of the lines of 64 bytes, and how many lanes those have."""
    copied = np.empty(len(values), values.dtype)
    memory, source, target = elements(copied), elements(values), elements(result)
    zero = zero_line(source)
    lanes, total = count_lanes(zero), zero
    for i in range(len(values)):
        memory[i] = source[i]
    for i in range(0, len(values), lanes):
        total = total + load_as(tail(memory, i), 0, zero)
    store(total, tail(target, 1), 0)
    target[0] = lanes
    hold(copied)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pointers_count_from_where_they_begin(dtype):
    lanes = 64 // np.dtype(dtype).itemsize
    values = np.arange(5 * lanes, dtype=dtype)
    result = np.full(lanes + 2, -1, dtype)
    _sums(values, result)
    assert result[0] == lanes
    np.testing.assert_array_equal(result[1:-1], values.reshape(5, lanes).sum(0))
    assert result[-1] == -1
