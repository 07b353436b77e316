"""Points, boxes and polygons there and back: what is the same for every warp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from fastwarp._checks import as_geometry, check_number
from fastwarp._constants import constant
from fastwarp.errors import check_devices, check_tensor, fail
from fastwarp.warp._polygons import bent, check_polygons
from fastwarp.warp.frozen import FrozenWarp

Ragged = TypeVar("Ragged", Tensor, list[Tensor])

EDGE = 8
"""Points on each edge of a box, beside its corners, whose hull is the warped box where edges become curves."""

CELLS = 16
"""Rows and columns of points of a box, which tell how much of it is visible."""

ARGUMENTS = {"points": ("points", "2"), "rotated_boxes": ("corners", "4, 2")}
"""By the end of a method's name: its argument and the last dimensions of that. Others take boxes."""


class Points:
    """Methods of warps that map points, boxes and polygons, by `_map` and the length of the batch.

    Warps are frozen, but no dataclasses: what takes those apart would round knots to half precision (FSDP's mixed
    precision) or cannot put frozen ones together (Lightning).
    """

    _straight = True  # edges of boxes stay parallel to the axes

    def __len__(self) -> int:
        raise NotImplementedError

    def _map(self, name: str, points: Tensor, source_size: Any, size: Any, inverse: bool) -> Tensor:
        """What the method `name` does with points `[B, N, 2]`."""
        raise NotImplementedError

    def _windows(self) -> tuple[Callable[..., Tensor], bool, torch.device]:
        """A function that makes windows of the warp, whether they are of rows and columns, and their device."""
        raise NotImplementedError

    def freeze(
        self,
        source_size: Sequence[int],
        size: Sequence[int],
        feature_sizes: Sequence[Sequence[int]] = (),
        *,
        antialias: bool = False,
        padding_mode: Literal["zeros", "border"] = "zeros",
        image_size: Sequence[int] | None = None,
        strides: Any = None,
        phase: Any = 0.0,
    ) -> FrozenWarp:
        """The warp for fixed sizes, as a module: what it reads is computed now, and never again.

        For warps that do not change, and for export: of a mesh, whose inverse no exporter knows, nothing else can be.

        Args:
            source_size: (height, width) of the images.
            size: of the zoomed ones.
            feature_sizes: of the maps that are unzoomed, each to its own size.
            antialias: of both, see `fastwarp.functional.separable_zoom`.
            padding_mode: of the unzoom, see `fastwarp.functional.separable_unzoom`; also the following.
            image_size: (height, width) of the network's input, most often `size`: maps are registered exactly.
            strides: of each map; None: by the sizes.
            phase: of all maps or of each.

        Returns:
            A module with `zoom(image)` and `unzoom(features)`; called, it zooms. The warp has no gradient any more.

        Raises:
            FastwarpError: wrong sizes or options; a map that no stride explains.
            TypeError: wrong types.

        Examples:
            >>> import torch, fastwarp
            >>> warp = fastwarp.SeparableWarp.from_saliency(torch.rand(1, 31, 51))
            >>> frozen = warp.freeze((120, 192), (60, 96), [(8, 12), (4, 6)], image_size=(60, 96))
            >>> small = frozen.zoom(torch.rand(2, 3, 120, 192))
            >>> [level.shape[2:] for level in frozen.unzoom([torch.rand(2, 8, 8, 12), torch.rand(2, 8, 4, 6)])]
            [torch.Size([8, 12]), torch.Size([4, 6])]
        """
        registered = {"image_size": image_size, "strides": strides, "phase": phase}
        windows, separable, device = self._windows()
        sizes = (source_size, size, feature_sizes)
        return FrozenWarp(windows, separable, *sizes, antialias, padding_mode, registered, device)

    def zoom_points(self, points: Ragged, source_size: Any, size: Any) -> Ragged:
        """Source -> zoomed pixels, (x, y) `[B, ..., 2]` (points, keypoints of people, corners) or `[N, 2]`; see
        `fastwarp.functional.separable_map_points`."""
        return self._convert("zoom_points", points, source_size, size)

    def unzoom_points(self, points: Ragged, source_size: Any, size: Any) -> Ragged:
        """Zoomed -> source pixels, (x, y) `[B, ..., 2]` or `[N, 2]`, as `zoom_points`."""
        return self._convert("unzoom_points", points, source_size, size)

    def zoom_boxes(self, boxes: Ragged, source_size: Any, size: Any) -> Ragged:
        """Source -> zoomed boxes, (x1, y1, x2, y2) in pixels, `[B, N, 4]` or `[N, 4]`.

        Under a separable warp boxes stay boxes. Under others it is the hull, parallel to the axes, of the corners and
        of 8 points of each edge. As all of these methods it also takes a list of the `[N_i, 4]` of each image, and
        gives a list; sizes are (height, width) of all images, or of each: a list of pairs, or integers `[B, 2]`.
        """
        return self._convert("zoom_boxes", boxes, source_size, size)

    def unzoom_boxes(self, boxes: Ragged, source_size: Any, size: Any) -> Ragged:
        """Zoomed -> source boxes, (x1, y1, x2, y2) in pixels, `[B, N, 4]` or `[N, 4]`, as `zoom_boxes`: what a
        detector's results need."""
        return self._convert("unzoom_boxes", boxes, source_size, size)

    def zoom_corners(self, boxes: Ragged, source_size: Any, size: Any) -> Ragged:
        """Source boxes `[B, N, 4]` or `[N, 4]` -> their four corners in zoomed pixels, `[..., 4, 2]`: top left, top
        right, bottom right, bottom left."""
        return self._convert("zoom_corners", boxes, source_size, size)

    def unzoom_corners(self, boxes: Ragged, source_size: Any, size: Any) -> Ragged:
        """Zoomed boxes `[B, N, 4]` or `[N, 4]` -> their four corners in source pixels, `[..., 4, 2]`, as
        `zoom_corners`."""
        return self._convert("unzoom_corners", boxes, source_size, size)

    def zoom_rotated_boxes(self, corners: Ragged, source_size: Any, size: Any) -> Ragged:
        """Source -> zoomed rotated boxes, by their corners in pixels, `[B, N, 4, 2]` or `[N, 4, 2]` in the order of
        `zoom_corners`.

        A warp does not keep rectangles. The result is the least rectangle around the warped outline (the corners and 8
        points of each edge) that is parallel to the warped line from the middle of the left edge to that of the right
        one, so that left stays left. For the corners themselves use `zoom_points`.
        """
        return self._convert("zoom_rotated_boxes", corners, source_size, size)

    def unzoom_rotated_boxes(self, corners: Ragged, source_size: Any, size: Any) -> Ragged:
        """Zoomed -> source rotated boxes, by their corners `[B, N, 4, 2]` or `[N, 4, 2]`, as `zoom_rotated_boxes`."""
        return self._convert("unzoom_rotated_boxes", corners, source_size, size)

    def zoom_polygons(
        self, polygons: Sequence[Tensor], source_size: Any, size: Any, *, tolerance: float = 0.5
    ) -> list[Tensor]:
        """Source -> zoomed polygons of one image, (x, y) in pixels.

        A warp bends straight edges. Vertices are inserted where it does, so that the polygon stays within `tolerance`
        of the warped outline; those that were there stay.

        Args:
            polygons: closed polygons, each `[V, 2]` with a V of its own.
            source_size: (height, width) of the source.
            size: (height, width) of the zoomed image.
            tolerance: in pixels of the result, at least 0.001. Meshes whose tiles are small may exceed it a little.

        Returns:
            A list of `[V', 2]`, V' >= V. Differentiable, as points are.

        Raises:
            FastwarpError: several warps (take `warp[i]`), wrong shapes, coordinates or knots that are not finite.
            TypeError: not a list of floating-point tensors.
        """
        return self._bend("zoom_polygons", polygons, source_size, size, tolerance)

    def unzoom_polygons(
        self, polygons: Sequence[Tensor], source_size: Any, size: Any, *, tolerance: float = 0.5
    ) -> list[Tensor]:
        """Zoomed -> source polygons of one image, as `zoom_polygons`; `tolerance` is in pixels of the source."""
        return self._bend("unzoom_polygons", polygons, source_size, size, tolerance)

    def visible_points(self, points: Ragged, source_size: Any, size: Any) -> Ragged:
        """Bool `[B, ...]` or `[N]`: which source points `[B, ..., 2]` or `[N, 2]` the zoomed image shows.

        An anti-crop warp shows the whole source, a cropping one loses its margins. Points outside the source are not
        visible.
        """
        return self._convert("visible_points", points, source_size, size)

    def visible_area(self, boxes: Ragged, source_size: Any, size: Any) -> Ragged:
        """`[B, N]` or `[N]`: the share of each source box that the zoomed image shows, 0 to 1, by 16 x 16 points of the
        box. See `visible_points`."""
        return self._convert("visible_area", boxes, source_size, size)

    def _convert(self, name: str, given: Any, source_size: Any, size: Any) -> Any:
        argument, item = ARGUMENTS.get(name.split("_", 1)[1], ("boxes", "4"))
        if isinstance(given, (list, tuple)):
            return self._convert_list(name, argument, item, given, source_size, size)
        rank = 2 + item.count(",")
        single = isinstance(given, Tensor) and given.dim() == rank
        if single:
            if len(self) != 1:
                raise fail(name, argument, f"of shape {list(given.shape)}", f"[{len(self)}, N, {item}]")
            given = given[None]
        inner: Sequence[int] = ()
        if argument == "points" and isinstance(given, Tensor) and given.dim() > 3:
            inner = given.shape[1:-1]
            given = given.flatten(1, -2)
        _check(name, argument, given, f"[B, N, {item}]")
        result = self._batch(name, given, source_size, size)
        if inner:
            result = result.unflatten(1, inner)
        return result[0] if single else result

    def _convert_list(
        self, name: str, argument: str, item: str, given: Any, source_size: Any, size: Any
    ) -> list[Tensor]:
        """What belongs to each image, which is padded to one number and cut again."""
        if not given:
            raise fail(name, argument, "an empty list", f"one tensor [N, {item}] for each image")
        inner = given[0].shape[1:-1] if isinstance(given[0], Tensor) and argument == "points" else ()
        shape = ", ".join(["N", *map(str, inner), item])
        for i, one in enumerate(given):
            _check(name, f"{argument}[{i}]", one, f"[{shape}]")
        check_devices(name, **{f"{argument}[{i}]": one for i, one in enumerate(given)})
        padded = torch.nn.utils.rnn.pad_sequence([as_geometry(one) for one in given], batch_first=True)
        result = self._convert(name, padded, _of_each_image(source_size, padded), _of_each_image(size, padded))
        return [some[: len(one)] for some, one in zip(result, given, strict=True)]

    def _batch(self, name: str, given: Tensor, source_size: Any, size: Any) -> Tensor:
        """What the method `name` makes of a batch of what it takes."""
        verb, what = name.split("_", 1)
        if verb == "visible":
            return self._visible(name, given, source_size, size)
        inverse = verb == "zoom"
        if what == "points":
            return self._map(name, given, source_size, size, inverse)
        given = as_geometry(given)
        if what == "boxes" and self._straight:
            return self._mapped(name, given.unflatten(2, (2, 2)), source_size, size, inverse).flatten(2)
        corners = given if what == "rotated_boxes" else _corners(*given.unbind(-1))
        if what == "corners":
            return self._mapped(name, corners, source_size, size, inverse)
        mapped = self._mapped(name, _outline(corners), source_size, size, inverse)
        return torch.cat([mapped.amin(2), mapped.amax(2)], -1) if what == "boxes" else _rectangle(mapped)

    def _mapped(self, name: str, points: Tensor, source_size: Any, size: Any, inverse: bool) -> Tensor:
        """`_map` of `[B, N, points, 2]`."""
        return self._map(name, points.flatten(1, 2), source_size, size, inverse).unflatten(1, points.shape[1:3])

    def _visible(self, name: str, given: Tensor, source_size: Any, size: Any) -> Tensor:
        given = as_geometry(given)
        if name == "visible_area":
            cells = (torch.arange(CELLS, dtype=given.dtype, device=given.device) + 0.5) / CELLS
            share = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), -1).flatten(0, 1)
            points = given[:, :, None, :2] + share * (given[..., 2:] - given[..., :2])[:, :, None]
            shown = self._visible("visible_points", points.flatten(1, 2), source_size, size)
            return shown.unflatten(1, points.shape[1:3]).to(given.dtype).mean(2)
        # The outermost half pixel of the source lies past the centres that an anti-crop warp maps to centres.
        last = _limits(source_size, given)
        inner = torch.minimum(given.clamp(min=0.5), last - 0.5)
        zoomed = self._map(name, inner, source_size, size, True)
        shown = (zoomed >= 0) & (zoomed <= _limits(size, given)) & (given >= 0) & (given <= last)
        return shown.all(-1)

    def _bend(self, name: str, polygons: Any, source_size: Any, size: Any, tolerance: Any) -> list[Tensor]:
        tolerance = check_number(name, "tolerance", tolerance, 1e-3, unit=" of pixels")
        check_polygons(name, polygons)
        if len(self) != 1:
            raise fail(name, "the warp", f"a batch of {len(self)}", "one warp, that of the image: warp[i]")
        inverse, tiles = name[0] == "z", self._tiles()

        def mapped(points: Tensor) -> Tensor:
            return self._map(name, points[None], source_size, size, inverse)[0]

        return bent(name, polygons, mapped, size, tiles, inverse, tolerance)

    def _tiles(self) -> tuple[int, int]:
        """(rows, columns) of the pieces of the zoomed image on which the warp is smooth."""
        raise NotImplementedError


def _check(name: str, argument: str, given: Any, shape: str) -> None:
    check_tensor(name, argument, given, shape, floating=True)
    item = [int(side) for side in shape[1:-1].split(", ") if side.isdigit()]
    if list(given.shape[given.dim() - len(item) :]) != item:
        raise fail(name, argument, f"of shape {list(given.shape)}", shape)


def _of_each_image(size: Any, like: Tensor) -> Any:
    """Pairs (height, width) of each image as a tensor; anything else as it is."""
    if isinstance(size, (list, tuple)) and len(size) > 0 and isinstance(size[0], (list, tuple)):
        return constant([side for pair in size for side in pair], like, torch.int64).view(-1, 2)
    return size


def _limits(size: Any, like: Tensor) -> Tensor:
    """(width, height) of images whose size `_map` takes, to compare points `[B, N, 2]` with."""
    if isinstance(size, Tensor):
        return size.flip(-1)[:, None].to(like)
    return constant([size[1], size[0]], like)


def _corners(x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> Tensor:
    """`[..., 4, 2]`: top left, top right, bottom right, bottom left. Lists as indices would come from the host."""
    return torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], -1).unflatten(-1, (4, 2))


def _outline(corners: Tensor) -> Tensor:
    """Four corners `[B, N, 4, 2]` and the points between them, edge by edge, `[B, N, 4 * (EDGE + 1), 2]`."""
    share = torch.arange(EDGE + 1, dtype=corners.dtype, device=corners.device)[:, None] / (EDGE + 1)
    edges = corners.roll(-1, 2) - corners
    return (corners.unsqueeze(3) + share * edges.unsqueeze(3)).flatten(2, 3)


def _rectangle(outline: Tensor) -> Tensor:
    """The corners of the least rectangle around the outlines of `_outline`, parallel to the line between the middles of
    their left and right edges."""
    middle = outline.unflatten(2, (4, EDGE + 1))[:, :, :, EDGE // 2 : EDGE // 2 + 2].mean(3)
    top, right, bottom, left = middle.unbind(2)
    across, down = right - left, bottom - top
    length = across.square().sum(-1, keepdim=True)
    flat = length == 0  # a box without width
    u = torch.where(flat, constant([1.0, 0.0], across), across) / torch.where(flat, 1.0, length).sqrt()
    turned = torch.stack([-u[..., 1], u[..., 0]], -1)
    v = torch.where((turned * down).sum(-1, keepdim=True) < 0, -turned, turned)  # a mirrored box stays mirrored
    centre, axes = outline.mean(2, keepdim=True), torch.stack([u, v], 2)
    along = ((outline - centre)[:, :, :, None] * axes[:, :, None]).sum(-1)  # a product of matrices may round to TF32
    corners = _corners(*along.amin(2).unbind(-1), *along.amax(2).unbind(-1))
    return centre + (corners.unsqueeze(-1) * axes[:, :, None]).sum(3)
