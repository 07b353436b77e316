"""Reference launchers of the `label` family; see `fastwarp.kernels.cpu.label` for the arguments."""

from typing import Any

import torch
from torch import Tensor

from fastwarp.kernels.layout import memory_format
from fastwarp.ops._reference import call
from fastwarp.reference import label


def nearest(images: list[Tensor], windows: Tensor, *options: Any) -> list[Tensor]:
    """The nearest pixel of every target."""
    return _like(call(label.nearest, images, windows, *options), images)


def majority(labels: list[Tensor], windows: Tensor, *options: Any) -> list[Tensor]:
    """The class that most pixels of each target's cell have."""
    return _like(call(label.majority, labels, windows, *options), labels)


def _like(arrays: list[Any], images: list[Tensor]) -> list[Tensor]:
    """Integers stay as they are: rounding in between would lose large ones."""
    return [
        torch.empty(array.shape, dtype=image.dtype, device=image.device, memory_format=memory_format(image)).copy_(
            torch.from_numpy(array)
        )
        for array, image in zip(arrays, images, strict=True)
    ]
