"""An augmentation of kornia."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from kornia.augmentation import RigidAffineAugmentationBase2D
from torch import Tensor

from fastwarp.errors import check_size
from fastwarp.transforms._images import check_warp


class KorniaWarp(RigidAffineAugmentationBase2D):
    """`fastwarp.transforms.Warp` for kornia: moves images, masks (nearest pixel), boxes and keypoints, also in
    `AugmentationSequential`, which leaves those of other bases alone. No matrix describes it: that is the identity.

    Args:
        warp: a `SeparableWarp` or `MeshWarp` of one image.
        size: (height, width) of the result; None: as the image.
        antialias: average where the warp reduces.
        p: probability; 1 if the size changes.
    """

    def __init__(self, warp: Any, size: Sequence[int] | None = None, antialias: bool = True, p: float = 1.0) -> None:
        super().__init__(p=p)
        self.warp = check_warp("KorniaWarp", warp)
        self.size = None if size is None else check_size("KorniaWarp", "size", size)
        self.antialias = antialias

    def _sizes(self, params: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        source_size = tuple(params["forward_input_shape"][-2:].tolist())
        return source_size, self.size or source_size

    def compute_transformation(self, input: Tensor, params: Any, flags: Any) -> Tensor:
        """The identity."""
        return self.identity_matrix(input)

    def apply_transform(self, input: Tensor, params: Any, flags: Any, transform: Any = None) -> Tensor:
        """Of images `[B, C, H, W]`."""
        size = self.size or tuple(input.shape[2:])
        return self.warp.to(input.device).zoom(input, size, antialias=self.antialias)

    def apply_transform_mask(self, input: Tensor, params: Any, flags: Any, transform: Any = None) -> Tensor:
        """Of masks `[B, C, H, W]`."""
        return self.warp.to(input.device).zoom(input, self.size or tuple(input.shape[2:]), mode="nearest")

    def apply_non_transform_mask(self, input: Any, params: Any, flags: Any, transform: Any = None) -> Any:
        """As it is."""
        return input

    apply_non_transform_box = apply_non_transform_keypoint = apply_non_transform_mask

    def apply_transform_box(self, input: Any, params: Any, flags: Any, transform: Any = None) -> Any:
        """Of boxes, whose corners are the centres of their outermost pixels."""
        quads, moved = input.data if input.data.dim() == 4 else input.data[None], input.clone()
        boxes = torch.cat([quads.amin(2), quads.amax(2) + 1], -1)
        boxes = self.warp.to(quads.device).zoom_boxes(boxes, *self._sizes(params)) - boxes.new_tensor([0, 0, 1, 1])
        moved._data = boxes[..., [[0, 1], [2, 1], [2, 3], [0, 3]]].to(quads.dtype).view_as(input.data)
        return moved

    def apply_transform_keypoint(self, input: Any, params: Any, flags: Any, transform: Any = None) -> Any:
        """Of points, whole numbers at the centres of pixels."""
        points = input.data if input.data.dim() == 3 else input.data[None]
        result = self.warp.to(points.device).zoom_points(points + 0.5, *self._sizes(params)) - 0.5
        moved = input.clone()
        moved._data = result.to(points.dtype).view_as(input.data)
        return moved
