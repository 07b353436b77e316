"""The batch and the memory format of a result, decided once for kernels and fakes."""

from typing import Any

import torch
from torch import Tensor


def common_batch(*tensors: Any) -> int:
    """The batch of tensors (or arrays, or None) that are shared by all of it where they have one image."""
    for tensor in tensors:
        if tensor is not None and tensor.shape[0] != 1:
            return tensor.shape[0]
    return 1


def memory_format(image: Tensor) -> torch.memory_format:
    """Memory format that a result made from `image` `[B, C, H, W]` has: channels_last where the image's channels are
    innermost, contiguous otherwise (also where both descriptions fit)."""
    if not image.is_contiguous() and image.shape[1] > 1 and image.stride(1) == 1:
        return torch.channels_last
    return torch.contiguous_format


def as_integers(dtype: torch.dtype) -> torch.dtype:
    """Integers of the size of a dtype, which are compared as those of that dtype are if they are integers."""
    return {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]


def bits(value: float, dtype: torch.dtype) -> int:
    """A number of a dtype as the integer of the same size that has the same bits."""
    return int(torch.tensor(value, dtype=dtype, device="cpu").view(as_integers(dtype)))
