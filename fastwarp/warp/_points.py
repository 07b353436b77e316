"""Points and boxes there and back: what is the same for every warp."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from fastwarp._checks import as_geometry
from fastwarp._constants import constant
from fastwarp.errors import check_devices, check_tensor, fail

Ragged = TypeVar("Ragged", Tensor, list[Tensor])

EDGE = 8
"""Points on each edge of a box, beside its corners, whose hull is the warped box where edges become curves."""


class Points:
    """Methods of warps that map points and boxes, by `_map` and the length of the batch.

    Warps are frozen, but no dataclasses: what takes those apart would round knots to half precision (FSDP's mixed
    precision) or cannot put frozen ones together (Lightning).
    """

    _straight = True  # edges of boxes stay parallel to the axes

    def __len__(self) -> int:
        raise NotImplementedError

    def _map(self, name: str, points: Tensor, source_size: Any, size: Any, inverse: bool) -> Tensor:
        """What the method `name` does with points `[B, N, 2]`."""
        raise NotImplementedError

    def zoom_points(self, points: Ragged, source_size: Any, size: Any) -> Ragged:
        """Source -> zoomed pixels, (x, y) `[B, N, 2]` or `[N, 2]`; see `fastwarp.functional.separable_map_points`."""
        return self._convert("zoom_points", points, source_size, size, True)

    def unzoom_points(self, points: Ragged, source_size: Any, size: Any) -> Ragged:
        """Zoomed -> source pixels, (x, y) `[B, N, 2]` or `[N, 2]`; see `fastwarp.functional.separable_map_points`."""
        return self._convert("unzoom_points", points, source_size, size, False)

    def zoom_boxes(self, boxes: Ragged, source_size: Any, size: Any) -> Ragged:
        """Source -> zoomed boxes, (x1, y1, x2, y2) in pixels, `[B, N, 4]` or `[N, 4]`.

        Under a separable warp boxes stay boxes. Under others it is the hull, parallel to the axes, of the corners and
        of 8 points of each edge. As all of these methods it also takes a list of `[N_i, 4]`, one for each image, and
        gives a list; sizes are (height, width) of all images, or of each: a list of pairs, or integers `[B, 2]`.
        """
        return self._convert("zoom_boxes", boxes, source_size, size, True)

    def unzoom_boxes(self, boxes: Ragged, source_size: Any, size: Any) -> Ragged:
        """Zoomed -> source boxes, (x1, y1, x2, y2) in pixels, `[B, N, 4]` or `[N, 4]`, as `zoom_boxes`: what a
        detector's results need."""
        return self._convert("unzoom_boxes", boxes, source_size, size, False)

    def zoom_corners(self, boxes: Ragged, source_size: Any, size: Any) -> Ragged:
        """Source boxes `[B, N, 4]` or `[N, 4]` -> their four corners in zoomed pixels, `[..., 4, 2]`: top left, top
        right, bottom right, bottom left."""
        return self._convert("zoom_corners", boxes, source_size, size, True)

    def unzoom_corners(self, boxes: Ragged, source_size: Any, size: Any) -> Ragged:
        """Zoomed boxes `[B, N, 4]` or `[N, 4]` -> their four corners in source pixels, `[..., 4, 2]`, as
        `zoom_corners`."""
        return self._convert("unzoom_corners", boxes, source_size, size, False)

    def _convert(self, name: str, points: Any, source_size: Any, size: Any, inverse: bool) -> Any:
        if isinstance(points, (list, tuple)):
            return self._convert_list(name, points, source_size, size, inverse)
        what = name.split("_")[1]
        argument, width = ("points", 2) if what == "points" else ("boxes", 4)
        single = isinstance(points, Tensor) and points.dim() == 2
        if single:
            if len(self) != 1:
                raise fail(name, argument, f"of shape {list(points.shape)}", f"[{len(self)}, N, {width}]")
            points = points[None]
        check_tensor(name, argument, points, f"[B, N, {width}]", floating=True)
        if points.shape[2] != width:
            raise fail(name, argument, f"of shape {list(points.shape)}", f"[B, N, {width}]")
        if what == "points":
            mapped = self._map(name, points, source_size, size, inverse)
        else:
            straight, points = what == "boxes" and self._straight, as_geometry(points)
            outline = points.unflatten(2, (2, 2)) if straight else _outline(points, EDGE if what == "boxes" else 0)
            mapped = self._map(name, outline.flatten(1, 2), source_size, size, inverse)
            mapped = mapped.unflatten(1, outline.shape[1:3])
            if straight:
                mapped = mapped.flatten(2)
            elif what == "boxes":
                mapped = torch.cat([mapped.amin(2), mapped.amax(2)], -1)
        return mapped[0] if single else mapped

    def _convert_list(self, name: str, points: Any, source_size: Any, size: Any, inverse: bool) -> list[Tensor]:
        """Points or boxes of each image, which are padded to one number and cut again."""
        argument, width = ("points", 2) if name.endswith("points") else ("boxes", 4)
        if not points:
            raise fail(name, argument, "an empty list", f"one tensor [N, {width}] for each image")
        for i, one in enumerate(points):
            check_tensor(name, f"{argument}[{i}]", one, f"[N, {width}]", floating=True)
            if one.shape[1] != width:
                raise fail(name, f"{argument}[{i}]", f"of shape {list(one.shape)}", f"[N, {width}]")
        check_devices(name, **{f"{argument}[{i}]": one for i, one in enumerate(points)})
        padded = torch.nn.utils.rnn.pad_sequence([as_geometry(one) for one in points], batch_first=True)
        source_size, size = _of_each_image(source_size, padded), _of_each_image(size, padded)
        mapped = self._convert(name, padded, source_size, size, inverse)
        return [one[: len(given)] for one, given in zip(mapped, points, strict=True)]


def _of_each_image(size: Any, like: Tensor) -> Any:
    """Pairs (height, width) of each image as a tensor; anything else as it is."""
    if isinstance(size, (list, tuple)) and len(size) > 0 and isinstance(size[0], (list, tuple)):
        return constant([side for pair in size for side in pair], like, torch.int64).view(-1, 2)
    return size


def _outline(boxes: Tensor, between: int) -> Tensor:
    """The four corners of boxes `[B, N, 4]` and as many points `between` them on each edge, `[B, N, points, 2]`."""
    steps = torch.arange(between + 1, dtype=boxes.dtype, device=boxes.device)
    ahead, back = steps / (between + 1), (between + 1 - steps) / (between + 1)
    low, high = torch.zeros_like(steps), torch.ones_like(steps)
    x, y = torch.stack([ahead, high, back, low], 1), torch.stack([low, ahead, high, back], 1)
    share = torch.stack([x, y], 2).flatten(0, 1)
    first, last = boxes[:, :, None, :2], boxes[:, :, None, 2:]
    return torch.where(share == 1, last, first + share * (last - first))
