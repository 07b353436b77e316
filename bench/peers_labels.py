"""What labels are compared with: one channel of floats by `F.grid_sample`, bytes by OpenCV."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cases import Size
from torch import Tensor


def grid_sample(image: Tensor, grid: Tensor) -> list[Tensor]:
    """Labels as floats `[B, 1, H, W]`, with a cached grid."""
    return [F.grid_sample(image, grid, mode="nearest", padding_mode="border", align_corners=True)]


def converted(labels: Tensor, grid: Tensor) -> list[Tensor]:
    """Class ids by way of floats and back, with a cached grid."""
    return [grid_sample(labels.float(), grid)[0].to(labels.dtype)]


def maps(grid: Tensor, source: Size) -> tuple[Any, Any]:
    """The float32 maps in x and y for `cv2.remap`."""
    pixels = (grid[0].double() + 1) / 2 * torch.tensor([source[1] - 1, source[0] - 1], dtype=torch.float64)
    return tuple(np.ascontiguousarray(pixels[..., axis].float().numpy()) for axis in range(2))  # type: ignore[return-value]


def fixed_point(of: tuple[Any, Any]) -> Any:
    """The same maps as whole pixels, which OpenCV reads fastest."""
    import cv2

    return cv2.convertMaps(*of, cv2.CV_16SC2, nninterpolation=True)[0]


def remap(image: Any, first: Any, second: Any) -> list[Tensor]:
    """The nearest pixels of `[H, W]` bytes."""
    import cv2

    return [torch.from_numpy(cv2.remap(image, first, second, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE))]
