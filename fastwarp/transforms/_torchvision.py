"""Transforms of `torchvision.transforms.v2`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import PIL.Image
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from fastwarp import MeshWarp, SeparableWarp
from fastwarp._checks import check_count, check_fwhm, check_option
from fastwarp.errors import check_size, fail
from fastwarp.saliency import box_density, box_knots
from fastwarp.transforms._images import check_warp, unpacked

AnyWarp = SeparableWarp | MeshWarp

KeyPoints: Any = getattr(tv_tensors, "KeyPoints", ())  # torchvision 0.23
SHAPE = (31, 51)
BANDWIDTH = 64 / 1200
"""FOVEA's 64 pixels for images 1200 high, as a share of the height."""


class _Moving(v2.Transform):
    """What moves a sample by the warp that `_warp_of` gives."""

    def __init__(self, size: Sequence[int] | None, antialias: bool) -> None:
        super().__init__()
        self.size = None if size is None else check_size(type(self).__name__, "size", size)
        self.antialias = bool(antialias)

    def _warp_of(self, inputs: list[Any], source_size: tuple[int, int]) -> AnyWarp:
        raise NotImplementedError

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The warp of a sample, and the sizes of its images before and after."""
        sizes = {_size(one) for one in flat_inputs}
        if len(sizes) > 1:
            raise fail(type(self).__name__, "the sample", f"of images of {sorted(sizes)}", "one (height, width)")
        if not sizes:
            return {}
        source_size = sizes.pop()
        size = source_size if self.size is None else self.size
        return {"warp": self._warp_of(flat_inputs, source_size), "source_size": source_size, "size": size}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One part of the sample, moved."""
        source_size, size = params["source_size"], params["size"]
        if isinstance(inpt, PIL.Image.Image):
            images, packed = unpacked(type(self).__name__, "the image", inpt)
            return packed(params["warp"].zoom(images, size, antialias=self.antialias))
        warp, data = params["warp"].to(inpt.device), inpt.as_subclass(Tensor)
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            return _boxes(inpt, data, warp, source_size, size)
        if isinstance(inpt, KeyPoints):
            points = data if data.is_floating_point() else data.float()
            moved = warp.zoom_points(points.reshape(1, -1, 2), source_size, size).reshape(data.shape)
            return tv_tensors.wrap(_as(moved, data), like=inpt, canvas_size=size)
        if isinstance(inpt, tv_tensors.Mask):
            moved = warp.zoom(data.reshape(1, -1, *source_size), size, mode="nearest")
            return tv_tensors.wrap(moved.reshape(*data.shape[:-2], *size), like=inpt)
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, (tv_tensors.Image, tv_tensors.Video)):
            known = "Image, Video, BoundingBoxes, Mask or KeyPoints"
            raise TypeError(f"{type(self).__name__}: the sample has a {type(inpt).__name__}, expected {known}")
        images = data.reshape(-1, data.shape[-3] if data.dim() > 2 else 1, *source_size)
        moved = warp.zoom(images, size, antialias=self.antialias).reshape(*data.shape[:-2], *size)
        return tv_tensors.wrap(moved, like=inpt) if isinstance(inpt, tv_tensors.TVTensor) else moved


class Warp(_Moving):
    """Zooms images, videos, boxes, masks and keypoints of a sample by one warp.

    Boxes of every format stay in theirs: upright ones become the hull of the warped box, as by `zoom_boxes`, rotated
    ones what `zoom_rotated_boxes` makes of them. They are clamped to the image as torchvision does; keypoints are not,
    so that `visible_points` or torchvision's `SanitizeKeyPoints` can tell which are lost. Masks take the nearest pixel.
    Integer coordinates are rounded. A plain tensor is an image where the sample has no other, as in torchvision.

    Args:
        warp: a `SeparableWarp` or `MeshWarp` of one image.
        size: (height, width) of the result; None: as the image.
        antialias: average where the warp reduces; of images and videos.

    Raises:
        FastwarpError: a batch of several warps; in use: images of several sizes.
        TypeError: not a warp; in use: images of a PIL mode or a dtype that cannot be interpolated.

    Examples:
        >>> import fastwarp, torch  # doctest: +SKIP
        >>> from torchvision import tv_tensors
        >>> warp = fastwarp.SeparableWarp.from_saliency(torch.rand(1, 31, 51))
        >>> move = fastwarp.transforms.Warp(warp, (120, 160))
        >>> image = tv_tensors.Image(torch.rand(3, 240, 320))
        >>> boxes = tv_tensors.BoundingBoxes([[20, 30, 60, 90]], format="XYXY", canvas_size=(240, 320))
        >>> image, target = move(image, {"boxes": boxes, "labels": torch.tensor([1])})
    """

    def __init__(self, warp: AnyWarp, size: Sequence[int] | None = None, *, antialias: bool = True) -> None:
        super().__init__(size, antialias)
        self.warp = check_warp("Warp", warp)

    def _warp_of(self, inputs: list[Any], source_size: tuple[int, int]) -> AnyWarp:
        return self.warp

    def extra_repr(self) -> str:
        """With the warp."""
        return f"{self.warp}, {super().extra_repr()}"


class _ZoomToSome(_Moving):
    """What zooms to boxes, wherever they come from: the LZ warp of their density, as FOVEA and LZU make it."""

    def __init__(
        self,
        size: Sequence[int] | None = None,
        *,
        fwhm: float = 13.0,
        anti_crop: bool = True,
        kind: Literal["separable", "mesh"] = "separable",
        antialias: bool = True,
    ) -> None:
        super().__init__(size, antialias)
        check_option(type(self).__name__, "kind", kind, ("separable", "mesh"))
        self.fwhm, self.anti_crop, self.kind = check_fwhm(type(self).__name__, fwhm), bool(anti_crop), kind

    def _zoom_to(self, boxes: Tensor, size: tuple[int, int]) -> AnyWarp:
        density = (boxes, size, SHAPE, 1.0, BANDWIDTH * size[0])
        if self.kind == "separable":
            return SeparableWarp(*box_knots(*density, self.fwhm, self.anti_crop))
        return MeshWarp.from_saliency(box_density(*density), self.fwhm, self.anti_crop)


class ZoomToBoxes(_ZoomToSome):
    """Zooms to the `BoundingBoxes` of a sample: small objects get more of the pixels of the result.

    Saliency is FOVEA's density of the boxes on 31 x 51 cells, the warp LZU's, as `fastwarp.saliency.box_knots` makes
    it; without boxes nothing is zoomed. Moves what `Warp` moves. Boxes are known in training; where they are not, use
    `Warp` with a fixed warp.

    Args:
        size: (height, width) of the result; None: as the image.
        fwhm: full width at half maximum of the attraction kernel, in cells.
        anti_crop: keep all of the image in view.
        kind: `"separable"` or `"mesh"`.
        antialias: average where the warp reduces.

    Raises:
        FastwarpError: a wrong option; in use: a sample without `BoundingBoxes`, boxes that are inverted or not finite.
    """

    def _warp_of(self, inputs: list[Any], source_size: tuple[int, int]) -> AnyWarp:
        found = [one for one in inputs if isinstance(one, tv_tensors.BoundingBoxes)]
        if not found:
            raise fail("ZoomToBoxes", "the sample", "without BoundingBoxes", "what to zoom to")
        every = []
        for boxes in found:
            corners = _corners(boxes.as_subclass(Tensor), boxes.format)
            every.append(torch.cat([corners.amin(-2), corners.amax(-2)], -1))
        return self._zoom_to(torch.cat(every), source_size)


class RandomZoom(_ZoomToSome):
    """Zooms to random places: augmentation by the geometry that a network meets behind adaptive zooms.

    Draws 1 to `regions` boxes anywhere, with sides of 5 to 30 % of the image's, from torch's generator, and zooms to
    them as `ZoomToBoxes` does. Moves what `Warp` moves.

    Args:
        size: (height, width) of the result; None: as the image.
        regions: most places at once.
        fwhm: full width at half maximum of the attraction kernel, in cells.
        anti_crop: keep all of the image in view.
        kind: `"separable"` or `"mesh"`.
        antialias: average where the warp reduces.

    Raises:
        FastwarpError: a wrong option.
    """

    def __init__(
        self,
        size: Sequence[int] | None = None,
        *,
        regions: int = 3,
        fwhm: float = 13.0,
        anti_crop: bool = True,
        kind: Literal["separable", "mesh"] = "separable",
        antialias: bool = True,
    ) -> None:
        super().__init__(size, fwhm=fwhm, anti_crop=anti_crop, kind=kind, antialias=antialias)
        self.regions = check_count("RandomZoom", "regions", regions, 1)

    def _warp_of(self, inputs: list[Any], source_size: tuple[int, int]) -> AnyWarp:
        count = int(torch.randint(1, self.regions + 1, ()))
        centre, side = torch.rand(count, 2), 0.05 + 0.25 * torch.rand(count, 2)
        scale = torch.tensor([source_size[1], source_size[0]])
        return self._zoom_to(torch.cat([centre - side / 2, centre + side / 2], 1) * scale.repeat(2), source_size)


def _size(inpt: Any) -> tuple[int, int]:
    if isinstance(inpt, PIL.Image.Image):
        return inpt.height, inpt.width
    if isinstance(inpt, (tv_tensors.BoundingBoxes, KeyPoints)):
        return tuple(inpt.canvas_size)
    return tuple(inpt.shape[-2:])


def _as(moved: Tensor, like: Tensor) -> Tensor:
    """In the dtype of the input; integers are rounded, not cut off."""
    return (moved if like.is_floating_point() else moved.round()).to(like.dtype)


def _converted(boxes: Tensor, old: Any, new: str) -> Tensor:
    new_format = tv_tensors.BoundingBoxFormat[new]
    return tvf.convert_bounding_box_format(boxes, old_format=old, new_format=new_format)


def _corners(data: Tensor, form: Any) -> Tensor:
    """`[N, 2 or 4, 2]`: of upright boxes two corners."""
    data = data if data.dtype in (torch.float32, torch.float64) else data.float()
    upright = form.value in ("XYXY", "XYWH", "CXCYWH")
    return _converted(data, form, "XYXY" if upright else "XYXYXYXY").unflatten(-1, (-1, 2))


def _boxes(inpt: Any, data: Tensor, warp: AnyWarp, source_size: tuple[int, int], size: tuple[int, int]) -> Any:
    corners, kinds = _corners(data, inpt.format), tv_tensors.BoundingBoxFormat
    if corners.shape[-2] == 2:
        moved, form = warp.zoom_boxes(corners.flatten(-2), source_size, size), kinds["XYXY"]
    else:
        moved, form = warp.zoom_rotated_boxes(corners, source_size, size).flatten(-2), kinds["XYXYXYXY"]
    moved = _converted(moved, form, inpt.format.name)
    return tvf.clamp_bounding_boxes(tv_tensors.wrap(_as(moved, data), like=inpt, canvas_size=size))
