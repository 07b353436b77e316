"""The mean over many images of the density of their boxes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fastwarp.functional.density import box_density

BLOCK = 1024
"""Images at a time."""

SLACK = 1.0
"""Pixels by which a box may reach past its image: annotations are rounded, and some count pixels inclusively."""


def check_density(
    image_size: tuple[int, int] | None, shape: tuple[int, int], amplitude: float, bandwidth: float
) -> None:
    """Raises what `box_density` would, before a file is read for it."""
    box_density(
        torch.from_numpy(np.zeros((0, 4), np.float32)),
        (2, 2) if image_size is None else image_size,
        shape,
        amplitude,
        bandwidth,
    )


def mean_density(
    boxes: np.ndarray,
    images: np.ndarray,
    image_size: tuple[int, int],
    shape: tuple[int, int],
    amplitude: float,
    bandwidth: float,
) -> tuple[Tensor, int]:
    """The mean of `box_density` over the images that have boxes.

    Args:
        boxes: corners `[N, 4]` in pixels, N >= 1.
        images: `[N]`, integers that say which boxes are of one image.
        image_size: (H, W) in pixels.
        shape: (h, w) in cells.
        amplitude: of `box_density`.
        bandwidth: of `box_density`.

    Returns:
        The map `[h, w]`, float32, and the number of images.
    """
    _, groups, counts = np.unique(images, return_inverse=True, return_counts=True)
    # Images in the order of their counts, so that those of a block need little padding.
    by_count = np.argsort(counts, kind="stable")
    ranks = np.empty_like(by_count)
    ranks[by_count] = np.arange(len(counts))
    boxes, counts = boxes[np.argsort(ranks[groups], kind="stable")], counts[by_count]
    ends = np.cumsum(counts)
    total = np.zeros(shape)
    for start in range(0, len(counts), BLOCK):
        block = counts[start : start + BLOCK]
        padded = np.zeros((len(block), block[-1], 4), np.float32)
        first, last = ends[start] - counts[start], ends[start + len(block) - 1]
        padded[np.arange(block[-1]) < block[:, None]] = boxes[first:last]
        maps = box_density(
            torch.from_numpy(padded), image_size, shape, amplitude, bandwidth, counts=torch.from_numpy(block)
        )
        # maps.sum(0) takes longer than the maps
        total += (np.ones(len(block), np.float32) @ maps.flatten(1).numpy()).reshape(shape)
    return torch.from_numpy(total / len(counts)).float(), len(counts)
