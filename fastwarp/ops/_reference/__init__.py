"""The "reference" backend: the launchers' signatures over the float64 NumPy reference, for any device."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def to_numpy(value: Any) -> Any:
    """Tensors (in lists too) to arrays, bf16 through float64; everything else as it is."""
    if isinstance(value, Tensor):
        dtype = torch.float64 if value.dtype.is_floating_point else value.dtype
        return value.detach().to("cpu", dtype, copy=True).numpy()  # a copy: `numpy` forbids that memory is resized
    return [to_numpy(v) for v in value] if isinstance(value, (list, tuple)) else value


def to_tensor(array: np.ndarray, like: Tensor) -> Tensor:
    """Array to a tensor of `like`'s dtype and device; integers are rounded half to even."""
    values = torch.from_numpy(np.ascontiguousarray(array if like.dtype.is_floating_point else np.rint(array)))
    return torch.empty(values.shape, dtype=like.dtype, device=like.device).copy_(values)  # of none, torch's strides


def call(function: Callable[..., Any], *args: Any) -> Any:
    """`function` of the reference on arrays."""
    return function(*(to_numpy(a) for a in args))
