"""Images for multimodal models: more of a fixed number of pixels for what matters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastwarp import functional as F
from fastwarp._checks import LEAST, MOST, as_geometry, check_number, check_sides
from fastwarp.errors import check_devices, check_size, check_tensor, fail
from fastwarp.functional.density import box_density
from fastwarp.transforms._images import unpacked
from fastwarp.warp import SeparableWarp

CELLS = 32
"""Rows and columns of the density of boxes."""

BANDWIDTH = 64 / 1200
"""FOVEA's 64 pixels for images 1200 high, as a share of the height."""


class AttentionZoom:
    """Resizes images to what a model's processor takes, with more pixels where an attention map is high.

    Rows and columns are sampled in proportion to the marginals of `attention ** power`, by the inverse of their
    cumulative distribution, as AttWarp does. A separable warp keeps rows and columns straight, so that text stays
    readable and a model's positions keep their order. Unlike AttWarp's, the result averages over what it reduces.

    Args:
        size: (height, width) of the result.
        power: of the attention; AttWarp takes the root. 0 resizes uniformly.
        min_magnification: least magnification along each axis relative to uniform resizing, in (0, 1]; keeps the rest
            of the image in view. None: no limit.
        max_magnification: largest one, at least 1. None: no limit.
        antialias: average where the warp reduces. False samples single places, as `cv2.remap` does.

    Raises:
        FastwarpError: options out of range; in use: see `__call__`.
        TypeError: wrong types.

    Examples:
        >>> import numpy as np
        >>> from fastwarp.transforms import AttentionZoom
        >>> zoom = AttentionZoom((448, 448), min_magnification=0.3)
        >>> frame, attention = np.zeros((1200, 1920, 3), np.uint8), np.random.rand(24, 24)
        >>> zoom(frame, attention).shape
        (448, 448, 3)
        >>> warp = zoom.warp_of(attention)  # `warp.unzoom_boxes` takes answers back
    """

    def __init__(
        self,
        size: Any,
        *,
        power: float = 0.5,
        min_magnification: float | None = None,
        max_magnification: float | None = None,
        antialias: bool = True,
    ) -> None:
        self.size = check_size("AttentionZoom", "size", size)
        self.power = check_number("AttentionZoom", "power", power, 0.0, 100.0)
        for argument, limit, low, high in (
            ("min_magnification", min_magnification, LEAST, 1.0),
            ("max_magnification", max_magnification, 1.0, MOST),
        ):
            if limit is not None:
                check_number("AttentionZoom", argument, limit, low, high)
        self.limits = (min_magnification, max_magnification)
        self.antialias = bool(antialias)

    def __call__(self, images: Any, attention: Any = None, *, boxes: Any = None) -> Any:
        """Zooms one image or several.

        Args:
            images: an image of Pillow, an array `[H, W]`, `[H, W, C]` or `[B, H, W, C]`, a tensor `[C, H, W]` or
                `[B, C, H, W]`, of uint8 or floating point; or a list of them, which may differ in size. Not modified.
            attention: `[h, w]` for one image, `[B, h, w]` or a list for several, array or tensor, non-negative, at
                least 2 x 2; one map is shared by a batch. Its cells divide the image evenly: no need to resize it.
            boxes: instead of a map, what to zoom to: corners (x1, y1, x2, y2) in pixels, `[N, 4]` for one image, a list
                for several.

        Returns:
            What was given, in `size`: the same kind, dtype and number of images.

        Raises:
            FastwarpError: not one of attention and boxes; wrong shapes or numbers of images; NaN, infinite or negative
                attention (looked at on CPUs only).
            TypeError: images, modes or dtypes that cannot be averaged.
        """
        if isinstance(images, (list, tuple)):
            return self._several(images, attention, boxes)
        tensor, packed = unpacked("AttentionZoom", "images", images)
        if boxes is not None:
            boxes = _on(tensor, boxes)
        elif attention is not None:
            attention = _on(tensor, attention)
        warp = self.warp_of(attention, boxes=boxes, image_size=tuple(tensor.shape[2:]))
        if len(warp) not in (1, len(tensor)):
            got = f"for {len(warp)} images"
            raise fail(
                "AttentionZoom", "attention" if boxes is None else "boxes", got, f"one for each of {len(tensor)}"
            )
        return packed(warp.zoom(tensor, self.size, antialias=self.antialias))

    def _several(self, images: Sequence[Any], attention: Any, boxes: Any) -> list[Any]:
        argument, given = ("attention", attention) if boxes is None else ("boxes", boxes)
        if given is None or len(given) != len(images):
            got = "None" if given is None else f"{len(given)} long"
            raise fail("AttentionZoom", argument, got, f"one for each of {len(images)} images")
        return [self(image, **{argument: one}) for image, one in zip(images, given, strict=True)]

    def warp_of(self, attention: Any = None, *, boxes: Any = None, image_size: Any = None) -> SeparableWarp:
        """The warp that a call with these arguments zooms by.

        Args:
            attention: `[h, w]` or `[B, h, w]`, array or tensor.
            boxes: `[N, 4]`, or a list of such, one for each image.
            image_size: (height, width) in whose pixels the boxes are.

        Returns:
            A warp for each map, in float32, or float64 for float64 maps.

        Raises:
            FastwarpError, TypeError: see `__call__`.
        """
        if (attention is None) == (boxes is None):
            got = "neither" if attention is None else "both"
            raise fail("AttentionZoom", "attention, boxes", got, "one of them")
        if boxes is not None:
            sides = check_sides("AttentionZoom", "image_size", image_size)
            boxes = [_tensor(one) for one in boxes] if isinstance(boxes, (list, tuple)) else _tensor(boxes)
            density = box_density(boxes, sides, (CELLS, CELLS), bandwidth=BANDWIDTH * sides[0])
        else:
            density = self._checked(_tensor(attention))
        # Above 0, where a root has a gradient. Not `** 0.5`: that wakes MKL's threads, which spin for a while.
        weight = density.clamp(min=torch.finfo(density.dtype).tiny)
        weight = weight ** weight.new_tensor(self.power)
        rows, columns = weight.sum(2), weight.sum(1)
        if rows.shape == columns.shape:  # at once: an axis takes as long as two
            knots = self._limited(F.cdf_knots(torch.cat([rows, columns])))
            return SeparableWarp(*knots.chunk(2))
        return SeparableWarp(self._limited(F.cdf_knots(rows)), self._limited(F.cdf_knots(columns)))

    def _limited(self, knots: Tensor) -> Tensor:
        return knots if self.limits == (None, None) else F.limited_knots(knots, *self.limits)

    def _checked(self, attention: Any) -> Tensor:
        if isinstance(attention, Tensor) and attention.dim() == 2:
            attention = attention[None]
        check_tensor("AttentionZoom", "attention", attention, "[B, h, w]")
        if attention.dtype == torch.bool or not attention.is_floating_point():
            attention = attention.float()
        if min(attention.shape[1:]) < 2:
            raise fail("AttentionZoom", "attention", f"of shape {list(attention.shape)}", "at least 2 x 2 cells")
        if attention.device.type == "cpu":
            low, high = attention.detach().aminmax() if attention.numel() else (torch.zeros(()), torch.zeros(()))
            if not (low >= 0 and high < float("inf")):
                raise fail("AttentionZoom", "attention", "NaN, infinite or negative in places", "finite values >= 0")
        return as_geometry(attention)

    def __repr__(self) -> str:
        low, high = self.limits
        limits = f"min_magnification={low}, max_magnification={high}"
        return f"AttentionZoom({self.size}, power={self.power}, {limits}, antialias={self.antialias})"


def _tensor(values: Any) -> Any:
    """Arrays as tensors; anything else as it is, for the checks of tensors."""
    return torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else values


def _on(image: Tensor, values: Any) -> Any:
    """Arrays on the device of the image; tensors must be there."""
    if isinstance(values, np.ndarray):
        return _tensor(values).to(image.device)
    if isinstance(values, Tensor):
        check_devices("AttentionZoom", images=image, attention=values)
    return values
