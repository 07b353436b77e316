"""Grids, points and magnification of separable warps."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import fastwarp.ops  # noqa: F401  (registers torch.ops.fastwarp)
from fastwarp._checks import as_geometry, check_knots
from fastwarp._constants import constant
from fastwarp.errors import call, check_size, check_tensor, fail
from fastwarp.functional import axis

Size = Sequence[int]

_ops = torch.ops.fastwarp


def _centres(
    function: str, knots_y: Tensor, knots_x: Tensor, size: Size, inverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions in [0, 1] of the rows and columns of a grid, and where they are in range."""
    check_knots(function, knots_y, knots_x)
    height, width = check_size(function, "size", size)
    options = (bool(inverse), False, False, None, None)
    windows = call(function, _ops.axis_windows, knots_y, knots_x, [height, width], [2, 2], *options)
    y, x = windows.split([height, width], 2)
    return y[:, 0], x[:, 0], y[:, 1] > 0, x[:, 1] > 0


def separable_grid(knots_y: Tensor, knots_x: Tensor, size: Size, *, inverse: bool = False) -> Tensor:
    """The sampling grid of a zoom, or of an unzoom, for `F.grid_sample(..., align_corners=True)`.

    Args:
        knots_y: `[B, h]`, float32 or float64, non-decreasing.
        knots_x: `[B, w]`, likewise.
        size: (height, width) of the grid.
        inverse: T~^-1 instead of T~. Points outside its range (cropping warps) are at -3, where
            `padding_mode="zeros"` gives 0.

    Returns:
        `[B, H, W, 2]`, last dimension (x, y) in [-1, 1], the dtype of the knots.

    Raises:
        FastwarpError: wrong ranks, sizes, batch sizes, devices.
        TypeError: wrong types or dtypes.
    """
    y, x, inside_y, inside_x = _centres("separable_grid", knots_y, knots_x, size, inverse)
    y, x = torch.where(inside_y, 2 * y - 1, -3.0), torch.where(inside_x, 2 * x - 1, -3.0)
    batch, height, width = y.shape[0], y.shape[1], x.shape[1]
    grid = (x[:, None, :].expand(batch, height, width), y[:, :, None].expand(batch, height, width))
    return torch.stack(grid, -1)


def separable_inside(knots_y: Tensor, knots_x: Tensor, size: Size) -> Tensor:
    """Where Grid(size) of the source is in the range of T~: what an unzoom fills from the zoomed map (LZU eq. 6).

    Args:
        knots_y: `[B, h]`, float32 or float64, non-decreasing.
        knots_x: `[B, w]`, likewise.
        size: (height, width).

    Returns:
        bool `[B, H, W]`; all true for an anti-crop warp.
    """
    _, _, inside_y, inside_x = _centres("separable_inside", knots_y, knots_x, size, True)
    return inside_y[:, :, None] & inside_x[:, None, :]


def separable_magnification(knots_y: Tensor, knots_x: Tensor, size: Size) -> Tensor:
    """How much larger a zoom shows each place of the source than uniform resizing would, by area.

    `1 / |det dT~|` at T~^-1(Grid(size)): the number 4 means twice as high and twice as wide; its square root is the
    linear magnification of LZU fig. 6. Constant on each tile of the knots.

    Args:
        knots_y: `[B, h]`, float32 or float64, non-decreasing.
        knots_x: `[B, w]`, likewise.
        size: (height, width) of the map, over the source.

    Returns:
        `[B, H, W]`, 1 everywhere for the identity; 0 where knots are equal.
    """
    check_knots("separable_magnification", knots_y, knots_x)
    slopes = []
    for knots, side in zip((knots_y, knots_x), check_size("separable_magnification", "size", size), strict=True):
        positions = torch.arange(side, dtype=knots.dtype, device=knots.device) / max(side - 1, 1)
        positions = (positions if side > 1 else positions + 0.5).expand(knots.shape[0], side)
        ones = torch.ones_like(positions)
        slopes.append(call("separable_magnification", _ops.axis_map_backward, ones, knots, positions, True)[1])
    return slopes[0][:, :, None] * slopes[1][:, None, :]


def check_points(function: str, argument: str, points: Tensor, **options: Any) -> None:
    """Raises unless the points are `[B, N, 2]` and have the dtypes that `check_tensor` takes as options."""
    check_tensor(function, argument, points, "[B, N, 2]", **options)
    if points.shape[2] != 2:
        raise fail(function, argument, f"of shape {list(points.shape)}", "[B, N, 2], (x, y)")


def image_sizes(function: str, source_size: Any, size: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The sizes of two images, (height, width) or integers `[B, 2]`; and those that are tensors, by their names."""
    sizes: list[Any] = []
    tensors: dict[str, Any] = {}
    for argument, given in (("source_size", source_size), ("size", size)):
        if isinstance(given, Tensor):
            check_tensor(function, argument, given, "[B, 2]", dtypes=(torch.int32, torch.int64))
            if given.shape[1] != 2:
                raise fail(function, argument, f"of shape {list(given.shape)}", "[B, 2], (height, width) of each image")
            tensors[argument] = given
        sizes.append(given if isinstance(given, Tensor) else check_size(function, argument, given))
    return sizes[0], sizes[1], tensors


def _pixel_scale(size: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """(scale, position of pixel 0) `[1 or B, 1, 2]` of `pixel - 0.5 = scale * (position - first)`, D = 1 included."""
    if isinstance(size, Tensor):
        side = size.flip(-1)[:, None, :]
    else:
        side = constant((size[1], size[0]), like, torch.int64)[None, None]
    return (side - 1).clamp(min=1).to(like), torch.where(side > 1, 0.0, 0.5).to(like)


def from_pixels(points: Tensor, size: Any) -> Tensor:
    """Positions of points `[B, N, 2]` in pixels of an image of `size`."""
    scale, first = _pixel_scale(size, points)
    return (points - 0.5) / scale + first


def to_pixels(positions: Tensor, size: Any) -> Tensor:
    """The reverse of `from_pixels`."""
    scale, first = _pixel_scale(size, positions)
    return (positions - first) * scale + 0.5


def separable_map_points(
    points: Tensor, knots_y: Tensor, knots_x: Tensor, source_size: Any, size: Any, *, inverse: bool = False
) -> Tensor:
    """Maps points between source and zoomed image, in continuous pixel coordinates: pixel i covers [i, i + 1].

    Args:
        points: `[B, N, 2]`, (x, y), floating point. Past the end knots T~ continues linearly.
        knots_y: `[B, h]`, float32 or float64, non-decreasing.
        knots_x: `[B, w]`, likewise.
        source_size: (height, width) of the source in pixels, or integer `[B, 2]` for padded batches.
        size: likewise of the zoomed image.
        inverse: False: zoomed -> source (T~). True: source -> zoomed (T~^-1).

    Returns:
        `[B, N, 2]`, float32 or float64. Differentiable twice in points and knots.

    Raises:
        FastwarpError: wrong ranks, sizes, batch sizes, devices.
        TypeError: wrong types or dtypes.

    Examples:
        >>> import torch
        >>> knots = torch.tensor([[0.0, 0.25, 1.0]])
        >>> separable_map_points(torch.tensor([[[5.5, 5.5]]]), knots, knots, (101, 101), (11, 11))
        tensor([[[25.5000, 25.5000]]])
    """
    check_points("separable_map_points", "points", points, floating=True)
    return map_points("separable_map_points", points, knots_y, knots_x, source_size, size, inverse)


def map_points(
    function: str, points: Tensor, knots_y: Tensor, knots_x: Tensor, source_size: Any, size: Any, inverse: bool
) -> Tensor:
    """`separable_map_points` of points that `function` has checked."""
    source_size, size, per_image = image_sizes(function, source_size, size)
    check_knots(function, knots_y, knots_x, points=points, **per_image)
    dtype = torch.promote_types(as_geometry(points).dtype, knots_y.dtype)
    start, end = (source_size, size) if inverse else (size, source_size)
    x, y = from_pixels(points.to(dtype), start).unbind(-1)
    mapped = [axis.mapped(function, knots.to(dtype), p, inverse) for knots, p in ((knots_x, x), (knots_y, y))]
    return to_pixels(torch.stack(mapped, -1), end)
