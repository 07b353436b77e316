"""A transform of Albumentations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import albumentations
import numpy as np
import torch

from fastwarp.errors import check_size
from fastwarp.transforms._images import check_warp, unpacked


class AlbumentationsWarp(albumentations.DualTransform):
    """`fastwarp.transforms.Warp` for Albumentations: moves images, masks (nearest pixel), boxes and keypoints.

    Args:
        warp: a `SeparableWarp` or `MeshWarp` of one image, on the CPU.
        size: (height, width) of the result; None: as the image.
        antialias: average where the warp reduces.
        p: probability.
    """

    def __init__(self, warp: Any, size: Sequence[int] | None = None, antialias: bool = True, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.warp = check_warp("AlbumentationsWarp", warp)
        self.size = None if size is None else check_size("AlbumentationsWarp", "size", size)
        self.antialias = antialias

    def _sizes(self, params: dict[str, Any]) -> tuple[tuple[int, int], tuple[int, int]]:
        source_size = tuple(params["shape"][:2])
        return source_size, self.size or source_size

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Of images `[H, W]` or `[H, W, C]`."""
        images, packed = unpacked("AlbumentationsWarp", "image", img)
        return packed(self.warp.zoom(images, self._sizes(params)[1], antialias=self.antialias))

    def apply_to_mask(self, mask: np.ndarray, **params: Any) -> np.ndarray:
        """Of masks `[H, W]` or `[H, W, C]`."""
        masks, packed = unpacked("AlbumentationsWarp", "mask", mask)
        return packed(self.warp.zoom(masks, self._sizes(params)[1], mode="nearest"))

    def apply_to_bboxes(self, bboxes: np.ndarray, **params: Any) -> np.ndarray:
        """Of boxes `[N, 4 + ...]` in shares of the image."""
        source, target = (np.array([width, height] * 2) for height, width in self._sizes(params))
        boxes = torch.from_numpy(bboxes[:, :4] * source)
        moved = self.warp.zoom_boxes(boxes, *self._sizes(params)).numpy() / target
        return np.concatenate([moved, bboxes[:, 4:]], 1).astype(bboxes.dtype)

    def apply_to_keypoints(self, keypoints: np.ndarray, **params: Any) -> np.ndarray:
        """Of points `[N, 2 + ...]`, whole numbers at the centres of pixels."""
        points = torch.from_numpy(keypoints[:, :2] + 0.5)
        moved = self.warp.zoom_points(points, *self._sizes(params)).numpy() - 0.5
        return np.concatenate([moved, keypoints[:, 2:]], 1).astype(keypoints.dtype)
