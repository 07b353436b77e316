"""Annotations in the form of COCO."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastwarp.errors import check_size, fail
from fastwarp.transforms._images import check_warp
from fastwarp.warp import MeshWarp, SeparableWarp


def zoom_annotations(
    warp: SeparableWarp | MeshWarp,
    annotations: Sequence[Mapping[str, Any]],
    source_size: Any,
    size: Any,
    *,
    tolerance: float = 0.5,
) -> list[dict[str, Any]]:
    """The annotations of the zoomed image, from those of the source, as COCO's files have them.

    Args:
        warp: the warp of the image, one.
        annotations: of one image, dicts with any of: `bbox` (x, y, width, height); `segmentation`, polygons or RLE
            (counts compressed or not; needs pycocotools); `keypoints` (x, y, visibility) in a row, at the centres of
            pixels; `area`. What else they have is copied.
        source_size: (height, width) of the source.
        size: (height, width) of the zoomed image.
        tolerance: of polygons, in pixels; see `SeparableWarp.zoom_polygons`.

    Returns:
        New dicts. Boxes are the warped ones, clipped to the image; polygons have vertices where edges bend; RLE is that
        of the mask, by the nearest pixel, with compressed counts as text; keypoints that the zoomed image does not show
        have visibility 0 and lie at (0, 0); `area` is that of the warped segmentation, or of the box without one.
        `visible` is new: the share of the source box that is shown. Nothing is left out: drop by `visible` or `area`.

    Raises:
        FastwarpError: several warps; lists of a wrong length; RLE of another size than `source_size`.
        TypeError: not lists of numbers.
        ModuleNotFoundError: RLE without pycocotools.

    Examples:
        >>> import fastwarp
        >>> warp = fastwarp.SeparableWarp.identity()
        >>> fastwarp.transforms.zoom_annotations(warp, [{"bbox": [0, 0, 21, 11], "id": 7}], (41, 41), (41, 41))
        [{'bbox': [0.0, 0.0, 21.0, 11.0], 'id': 7, 'visible': 1.0}]
    """
    name = "zoom_annotations"
    check_warp(name, warp)
    source_size, size = check_size(name, "source_size", source_size), check_size(name, "size", size)
    results = []
    for i, annotation in enumerate(annotations):
        if not isinstance(annotation, Mapping):
            raise TypeError(f"{name}: annotations[{i}] is {type(annotation).__name__}, expected a dict")
        results.append(_Zoomed(warp, annotation, f"annotations[{i}]", source_size, size, tolerance).result)
    return results


class _Zoomed:
    """One annotation on its way."""

    def __init__(self, warp: Any, annotation: Any, where: str, source: Any, size: Any, tolerance: float) -> None:
        self.warp, self.where, self.sizes, self.tolerance = warp, where, (source, size), tolerance
        self.result = result = copy.deepcopy(dict(annotation))
        area = None
        if result.get("bbox") is not None:
            area = self._box()
        if result.get("segmentation"):
            area = self._segmentation()
        if "area" in result and area is not None:
            result["area"] = area
        if result.get("keypoints"):
            self._keypoints()

    def _numbers(self, key: str, values: Any, length: int, multiple: bool = False) -> Tensor:
        """A row of numbers as float64 `[length]`, or `[N, length]`."""
        try:
            tensor = torch.tensor(values, dtype=torch.float64)
        except (TypeError, ValueError):
            raise TypeError(f"zoom_annotations: {self.where}[{key!r}] is {values!r}, expected numbers") from None
        wrong = tensor.dim() != 1 or (tensor.numel() % length != 0 if multiple else tensor.numel() != length)
        if wrong or not tensor.isfinite().all():
            expected = f"{length} finite numbers" + (" each" if multiple else "")
            raise fail("zoom_annotations", f"{self.where}[{key!r}]", values, expected)
        return tensor.view(-1, length) if multiple else tensor

    def _box(self) -> float:
        x, y, width, height = self._numbers("bbox", self.result["bbox"], 4).tolist()
        box = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float64)
        (high, wide), zoomed = self.sizes[1], self.warp.zoom_boxes(box, *self.sizes)[0]
        x1, y1, x2, y2 = torch.minimum(zoomed.clamp(min=0), zoomed.new_tensor([wide, high, wide, high])).tolist()
        self.result["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        self.result["visible"] = self.warp.visible_area(box, *self.sizes).item()
        return (x2 - x1) * (y2 - y1)

    def _segmentation(self) -> float:
        given = self.result["segmentation"]
        if isinstance(given, Mapping):
            return self._rle(given)
        if not isinstance(given, Sequence) or isinstance(given, str):
            raise TypeError(
                f"zoom_annotations: {self.where}['segmentation'] is {type(given).__name__}, expected a list"
            )
        polygons = [self._numbers("segmentation", one, 2, multiple=True) for one in given]
        zoomed = self.warp.zoom_polygons(polygons, *self.sizes, tolerance=self.tolerance)
        self.result["segmentation"] = [polygon.flatten().tolist() for polygon in zoomed]
        area = 0.0
        for polygon in zoomed:
            (x, y), (after_x, after_y) = polygon.unbind(1), polygon.roll(-1, 0).unbind(1)
            area += abs(float((x * after_y - y * after_x).sum())) / 2
        return area

    def _rle(self, given: Mapping[str, Any]) -> float:
        try:
            from pycocotools import mask
        except ModuleNotFoundError as error:
            message = "zoom_annotations: RLE needs pycocotools: pip install 'fastwarp[coco]'"
            raise ModuleNotFoundError(message, name="pycocotools") from error
        if list(given.get("size", [])) != list(self.sizes[0]) or "counts" not in given:
            got = f"{given.get('size')}" if "counts" in given else "without counts"
            raise fail("zoom_annotations", f"{self.where}['segmentation']", got, f"RLE of size {list(self.sizes[0])}")
        rle = mask.frPyObjects(given, *self.sizes[0]) if isinstance(given["counts"], list) else given
        source = torch.from_numpy(mask.decode(rle))[None, None]
        zoomed = self.warp.zoom(source, self.sizes[1], mode="nearest")[0, 0]
        encoded = mask.encode(np.asfortranarray(zoomed.numpy()))
        self.result["segmentation"] = {"size": list(self.sizes[1]), "counts": encoded["counts"].decode()}
        return float(mask.area(encoded))

    def _keypoints(self) -> None:
        points = self._numbers("keypoints", self.result["keypoints"], 3, multiple=True)
        centres = points[:, :2] + 0.5  # COCO's keypoints are numbers of pixels
        zoomed = self.warp.zoom_points(centres, *self.sizes) - 0.5
        seen = (points[:, 2:] > 0) & self.warp.visible_points(centres, *self.sizes)[:, None]
        rows = torch.where(seen, torch.cat([zoomed, points[:, 2:]], 1), 0.0).tolist()
        self.result["keypoints"] = [n for x, y, v in rows for n in (x, y, int(v))]
        if "num_keypoints" in self.result:
            self.result["num_keypoints"] = int(seen.sum())
