"""Levels of a pyramid: their sizes, and room for results."""

import torch
from torch import Tensor

from fastwarp.kernels.layout import memory_format


def resized(images: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """Empty maps of other sizes [h0, w0, h1, w1, ...] with the dtypes, channels and memory formats of `images`."""
    return [
        torch.empty(
            (*image.shape[:2], *sizes[2 * i : 2 * i + 2]),
            dtype=image.dtype,
            device=image.device,
            memory_format=memory_format(image),
        )
        for i, image in enumerate(images)
    ]


def sides(tensors: list[Tensor]) -> list[int]:
    """Sizes [h0, w0, h1, w1, ...] of maps `[B, C, h, w]`."""
    return [side for tensor in tensors for side in tensor.shape[2:]]
