"""Geometry and saliency stay at least float32, whatever the dtype of the network they are part of."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def keeping_precision(fn: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
    """`fn` of `nn.Module._apply` (`.to`, `.half`, ...) for buffers that follow to devices, not to half precision: bf16
    knots are off by 2e-3."""

    def apply(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        wide = moved.dtype in (torch.float32, torch.float64) or not moved.dtype.is_floating_point
        return moved if wide else tensor.to(moved.device)

    return apply
