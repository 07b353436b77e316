"""Levels of a pyramid: their sizes, and room for results."""

import torch
from torch import Tensor

from fastwarp.kernels.layout import common_batch, memory_format


def resized(images: list[Tensor], sizes: list[int], *shared: Tensor) -> list[Tensor]:
    """Empty maps of other sizes [h0, w0, h1, w1, ...] with the dtypes, channels and memory formats of `images`, and the
    batch that these and what they share have in common."""
    return [
        torch.empty(
            (common_batch(image, *shared), image.shape[1], *sizes[2 * i : 2 * i + 2]),
            dtype=image.dtype,
            device=image.device,
            memory_format=memory_format(image),
        )
        for i, image in enumerate(images)
    ]


def sides(tensors: list[Tensor]) -> list[int]:
    """Sizes [h0, w0, h1, w1, ...] of maps `[B, C, h, w]`."""
    return [side for tensor in tensors for side in tensor.shape[2:]]
