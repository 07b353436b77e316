"""The memory format of a result, decided once for kernels and fakes."""

import torch
from torch import Tensor


def memory_format(image: Tensor) -> torch.memory_format:
    """Memory format that a result made from `image` `[B, C, H, W]` has: channels_last where the image's channels are
    innermost, contiguous otherwise (also where both descriptions fit)."""
    if not image.is_contiguous() and image.shape[1] > 1 and image.stride(1) == 1:
        return torch.channels_last
    return torch.contiguous_format
