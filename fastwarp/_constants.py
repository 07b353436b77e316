"""Tensors of a few numbers, made on the device they are for."""

from collections.abc import Sequence

import torch
from torch import Tensor


def constant(values: Sequence[float], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers `[N]` on the device of `like`, in its dtype unless another is given.

    `torch.tensor(values, device=...)` would copy them from the host, which waits for the GPU and ends the capture of
    a CUDA graph. Fills do neither.
    """
    kind = like.dtype if dtype is None else dtype
    return torch.cat([torch.full((1,), value, dtype=kind, device=like.device) for value in values])
