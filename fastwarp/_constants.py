"""Tensors of a few numbers, made on the device they are for."""

from collections.abc import Sequence

import torch
from torch import Tensor


def constant(values: Sequence[float], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers `[N]` on the device of `like`, in its dtype unless another is given.

    `torch.tensor(values, device=...)` would copy them from the host, which waits for the GPU and ends the capture of
    a CUDA graph. Fills do neither. On a CPU it is faster.
    """
    kind = like.dtype if dtype is None else dtype
    is_known = not torch.compiler.is_compiling() and all(isinstance(value, (int, float)) for value in values)
    if is_known and like.device.type == "cpu":
        return torch.tensor(values, dtype=kind, device="cpu")
    return torch.cat([torch.full((1,), value, dtype=kind, device=like.device) for value in values])
