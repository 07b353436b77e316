"""Segmentation labels under warps: class ids, and probabilities of classes."""

from typing import Any, Literal

import torch
from torch import Tensor

from fastwarp._checks import LABEL_DTYPES, check_count, check_images, check_option
from fastwarp.errors import call, check_size, check_tensor, fail
from fastwarp.functional import mesh as _mesh
from fastwarp.functional import separable as _separable
from fastwarp.functional._label_windows import Cells, Windows, of_mesh, of_separable
from fastwarp.functional.mesh import Tile
from fastwarp.functional.separable import Size
from fastwarp.ops.label import bounds

_ops = torch.ops.fastwarp

Reduce = Literal["nearest", "majority"]
REDUCE = ("nearest", "majority")


def separable_zoom_labels(
    labels: Tensor,
    knots_y: Tensor,
    knots_x: Tensor,
    size: Size,
    ignore_index: int = 255,
    reduce: Reduce = "nearest",
    *,
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
) -> Tensor:
    """Zooms class ids, which have no values in between: a result is always the class of a source pixel.

    With `reduce="majority"` every target takes the class that most of the pixels it covers have. It covers a box around
    its position, as wide and high as the distance of the targets there and at least a pixel: half of what `antialias`
    averages over, so that a pixel votes for about one target. Where the warp does not reduce, that is the nearest
    pixel, and both ways of reducing do the same. Of several classes with as many pixels that of the nearest pixel
    counts, or else the smallest. `ignore_index` is a class like others: what is mostly unlabelled stays so. One pass,
    without an image for each class.

    Args:
        labels: `[B, H, W]`, `[H, W]`, or `[B, C, H, W]` (each channel by itself); uint8, int16, int32 or int64.
        knots_y: `[B, h]`, float32 or float64, non-decreasing. NaN in the knots of either axis ignores the whole image.
        knots_x: `[B, w]`, likewise.
        size: (height, width) of the result.
        ignore_index: what targets get that read nothing, those outside `valid`.
        reduce: `"nearest"`, the nearest pixel's class, see `separable_zoom`; or `"majority"`.
        valid: integer `[B, 2]`, (height, width) of the part of the result that the warp spans.
        source_valid: integer `[B, 2]`, the part of each image that is not padding; padding has no vote.

    Returns:
        The labels' shape with `size` for H, W, in their dtype.

    Raises:
        FastwarpError: wrong ranks, sizes, batch sizes, devices; an `ignore_index` that the dtype does not have.
        TypeError: wrong types or dtypes. Masks of bool are zoomed with `mode="nearest"`.

    Examples:
        >>> import torch
        >>> knots = torch.tensor([[0.0, 1.0]])
        >>> labels = torch.tensor([[[5, 1, 1, 7, 9, 7, 7, 2, 2]]])
        >>> separable_zoom_labels(labels, knots, knots, (1, 3))
        tensor([[[5, 9, 2]]])
        >>> separable_zoom_labels(labels, knots, knots, (1, 3), reduce="majority")
        tensor([[[1, 7, 2]]])
    """
    name = "separable_zoom_labels"
    images = _images(name, labels, ignore_index, reduce)
    args = ([check_size(name, "size", size)], False, False, "border", valid, source_valid, reduce, int(ignore_index))
    (result,) = _separable._resample(name, "labels", [images], images, knots_y, knots_x, *args)
    return _shaped(result, labels)


def separable_unzoom_labels(
    labels: Tensor,
    knots_y: Tensor,
    knots_x: Tensor,
    size: Any = None,
    ignore_index: int = 255,
    reduce: Reduce = "nearest",
    *,
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
    image_size: Any = None,
    strides: Any = None,
    phase: Any = 0.0,
) -> Tensor:
    """Brings class ids, those that a network predicts say, back to the source's geometry; see `separable_zoom_labels`
    for what is not said here, and `separable_unzoom`.

    Args:
        labels: `[B, h, w]`, `[h, w]` or `[B, C, h, w]`, of the zoomed image.
        knots_y: `[B, n]`, float32 or float64, non-decreasing.
        knots_x: `[B, n']`, likewise.
        size: (height, width) of the result; None keeps the labels' own.
        ignore_index: what targets get that read nothing: those outside `valid`, cells of padding, and what is outside
            the range of a cropping warp.
        reduce: `"nearest"` or `"majority"`, of use where the warp magnified.
        valid: integer `[B, 2]`, the part of the result that the warp spans. With an `image_size` the part of each
            *image* that is not padding, in its pixels.
        source_valid: integer `[B, 2]`, the part of the zoomed labels that is not padding.
        image_size: (height, width) of the network's input, for labels on the cells of a strided network: they are
            registered exactly and keep their size. See `separable_unzoom`, also for the following.
        strides: an integer or a pair (sy, sx); None: by the sizes.
        phase: 0 for convolutions with odd kernels and padding, 0.5 for patches.

    Returns:
        The labels' shape with `size` for h, w, in their dtype.

    Raises:
        FastwarpError: as `separable_zoom_labels`; labels that no stride explains.
        TypeError: likewise.
    """
    name = "separable_unzoom_labels"
    images, cells = _images(name, labels, ignore_index, reduce), Cells(image_size, strides, phase)
    wide = reduce == "majority"
    windows = of_separable(name, images, (knots_y, knots_x), size, True, wide, valid, source_valid, cells)
    return _shaped(_taken(name, images, windows, reduce, ignore_index), labels)


def separable_zoom_soft_labels(
    labels: Tensor,
    knots_y: Tensor,
    knots_x: Tensor,
    size: Size,
    *,
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
) -> Tensor:
    """Zooms probabilities of classes, averaged where the warp reduces: they still sum to one, at borders too.

    Args:
        labels: `[B, K, H, W]`, floating point.
        knots_y: `[B, h]`, float32 or float64, non-decreasing.
        knots_x: `[B, w]`, likewise.
        size: (height, width) of the result.
        valid: integer `[B, 2]`, the part of the result that the warp spans; elsewhere every class has 1 / K.
        source_valid: integer `[B, 2]`, the part of each image that is not padding; padding is never read.

    Returns:
        `[B, K, *size]`, as `separable_zoom(..., antialias=True)`: differentiable twice.

    Raises:
        FastwarpError: wrong ranks, sizes, batch sizes, devices.
        TypeError: wrong types or dtypes.
    """
    name = "separable_zoom_soft_labels"
    _check_soft(name, labels)
    windows = of_separable(name, labels, (knots_y, knots_x), size, False, True, valid, source_valid)
    return _averaged(name, labels, windows, valid is None and source_valid is None)


def separable_unzoom_soft_labels(
    labels: Tensor,
    knots_y: Tensor,
    knots_x: Tensor,
    size: Any = None,
    *,
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
    image_size: Any = None,
    strides: Any = None,
    phase: Any = 0.0,
) -> Tensor:
    """Brings probabilities of classes back to the source's geometry, averaged where the warp magnified: they sum to one
    everywhere. A target that reads nothing has 1 / K for each of the K classes: nothing is known about it.

    Args:
        labels: `[B, K, h, w]`, floating point, of the zoomed image.
        knots_y: `[B, n]`, float32 or float64, non-decreasing.
        knots_x: `[B, n']`, likewise.
        size: (height, width) of the result; None keeps the labels' own.
        valid: see `separable_unzoom_labels`, also for the following. Outside it every class has 1 / K, as in cells of
            padding and outside the range of a cropping warp.
        source_valid: the part of the zoomed labels that is not padding.
        image_size: (height, width) of the network's input.
        strides: an integer or a pair (sy, sx).
        phase: of the cells.

    Returns:
        `[B, K, *size]`, as `separable_unzoom(..., antialias=True)` where something is read: differentiable twice.

    Raises:
        FastwarpError: wrong ranks, sizes, batch sizes, devices; labels that no stride explains.
        TypeError: wrong types or dtypes.

    Examples:
        >>> import torch
        >>> middle = torch.tensor([[0.25, 0.75]])  # the zoom has cropped a quarter on both sides
        >>> labels = torch.tensor([[0.8, 0.2]]).view(1, 2, 1, 1).expand(1, 2, 3, 3)
        >>> separable_unzoom_soft_labels(labels, middle, middle, (1, 5))[0, :, 0]
        tensor([[0.5000, 0.8000, 0.8000, 0.8000, 0.5000],
                [0.5000, 0.2000, 0.2000, 0.2000, 0.5000]])
    """
    name = "separable_unzoom_soft_labels"
    _check_soft(name, labels)
    cells = Cells(image_size, strides, phase)
    windows = of_separable(name, labels, (knots_y, knots_x), size, True, True, valid, source_valid, cells)
    return _averaged(name, labels, windows)


def mesh_zoom_labels(
    labels: Tensor,
    mesh: Tensor,
    size: Size,
    ignore_index: int = 255,
    reduce: Reduce = "nearest",
    *,
    tile: Tile = "bilinear",
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
) -> Tensor:
    """Zooms class ids by a warp that need not be separable; see `separable_zoom_labels`.

    Args:
        labels: `[B, H, W]`, `[H, W]` or `[B, C, H, W]`.
        mesh: `[B, h, w, 2]`, (x, y), float32 or float64.
        size: (height, width) of the result.
        ignore_index: what targets get that read nothing.
        reduce: `"nearest"`, or `"majority"`, in boxes parallel to the axes of the source.
        tile: see `mesh_zoom`.
        valid: integer `[B, 2]`, the part of the result that the warp spans.
        source_valid: integer `[B, 2]`, the part of each image that is not padding; padding has no vote.

    Returns:
        The labels' shape with `size` for H, W, in their dtype.
    """
    name = "mesh_zoom_labels"
    images = _images(name, labels, ignore_index, reduce)
    sizes = [check_size(name, "size", size)]
    args = (sizes, False, tile, False, "border", valid, source_valid, reduce, int(ignore_index))
    return _shaped(_mesh._sample(name, "labels", [images], images, mesh, *args)[0], labels)


def mesh_unzoom_labels(
    labels: Tensor,
    mesh: Tensor,
    size: Any = None,
    ignore_index: int = 255,
    reduce: Reduce = "nearest",
    *,
    tile: Tile = "bilinear",
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
    image_size: Any = None,
    strides: Any = None,
    phase: Any = 0.0,
) -> Tensor:
    """Brings class ids back to the source's geometry; see `separable_unzoom_labels`, and `mesh_unzoom`.

    Args:
        labels: `[B, h, w]`, `[h, w]` or `[B, C, h, w]`, of the zoomed image.
        mesh: `[B, n, n', 2]`, (x, y), float32 or float64.
        size: (height, width) of the result; None keeps the labels' own.
        ignore_index: what targets get that read nothing: those outside `valid` and outside the mesh, and cells of
            padding.
        reduce: `"nearest"` or `"majority"`.
        tile: see `mesh_zoom`.
        valid: integer `[B, 2]`, the part of the result that the warp spans, or of the image: see
            `separable_unzoom_labels`, also for the following.
        source_valid: integer `[B, 2]`, the part of the zoomed labels that is not padding.
        image_size: (height, width) of the network's input.
        strides: an integer or a pair (sy, sx).
        phase: of the cells.

    Returns:
        The labels' shape with `size` for h, w, in their dtype.
    """
    name = "mesh_unzoom_labels"
    images, cells = _images(name, labels, ignore_index, reduce), Cells(image_size, strides, phase)
    wide = reduce == "majority"
    windows = of_mesh(name, images, mesh, tile, size, True, wide, valid, source_valid, cells)
    return _shaped(_taken(name, images, windows, reduce, ignore_index), labels)


def mesh_zoom_soft_labels(
    labels: Tensor,
    mesh: Tensor,
    size: Size,
    *,
    tile: Tile = "bilinear",
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
) -> Tensor:
    """Zooms probabilities of classes by a warp that need not be separable; see `separable_zoom_soft_labels`.

    Args:
        labels: `[B, K, H, W]`, floating point.
        mesh: `[B, h, w, 2]`, (x, y), float32 or float64.
        size: (height, width) of the result.
        tile: see `mesh_zoom`.
        valid: integer `[B, 2]`, the part of the result that the warp spans; elsewhere every class has 1 / K.
        source_valid: integer `[B, 2]`, the part of each image that is not padding.

    Returns:
        `[B, K, *size]`, as `mesh_zoom(..., antialias=True)`.
    """
    name = "mesh_zoom_soft_labels"
    _check_soft(name, labels)
    windows = of_mesh(name, labels, mesh, tile, size, False, True, valid, source_valid)
    return _averaged(name, labels, windows, valid is None and source_valid is None)


def mesh_unzoom_soft_labels(
    labels: Tensor,
    mesh: Tensor,
    size: Any = None,
    *,
    tile: Tile = "bilinear",
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
    image_size: Any = None,
    strides: Any = None,
    phase: Any = 0.0,
) -> Tensor:
    """Brings probabilities of classes back to the source's geometry; see `separable_unzoom_soft_labels`.

    Args:
        labels: `[B, K, h, w]`, floating point, of the zoomed image.
        mesh: `[B, n, n', 2]`, (x, y), float32 or float64.
        size: (height, width) of the result; None keeps the labels' own.
        tile: see `mesh_zoom`.
        valid: see `separable_unzoom_labels`, also for the following. Outside it every class has 1 / K, as in cells of
            padding and outside the mesh.
        source_valid: the part of the zoomed labels that is not padding.
        image_size: (height, width) of the network's input.
        strides: an integer or a pair (sy, sx).
        phase: of the cells.

    Returns:
        `[B, K, *size]`, as `mesh_unzoom(..., antialias=True)` where something is read.
    """
    name = "mesh_unzoom_soft_labels"
    _check_soft(name, labels)
    cells = Cells(image_size, strides, phase)
    windows = of_mesh(name, labels, mesh, tile, size, True, True, valid, source_valid, cells)
    return _averaged(name, labels, windows)


def _images(function: str, labels: Any, ignore_index: Any, reduce: Any) -> Tensor:
    """The labels as `[B, C, H, W]`, if they and the options are in order."""
    check_option(function, "reduce", reduce, REDUCE)
    if not isinstance(labels, Tensor):
        raise TypeError(f"{function}: labels is {type(labels).__name__}, expected a torch.Tensor [B, H, W]")
    if labels.dim() not in (2, 3, 4):
        raise fail(function, "labels", f"of shape {list(labels.shape)}", "[H, W], [B, H, W] or [B, C, H, W]")
    images = labels[None, None] if labels.dim() == 2 else labels[:, None] if labels.dim() == 3 else labels
    check_images(function, "labels", [images], LABEL_DTYPES)
    check_count(function, "ignore_index", ignore_index, *bounds(labels.dtype))
    return images


def _shaped(result: Tensor, labels: Tensor) -> Tensor:
    return result[0, 0] if labels.dim() == 2 else result[:, 0] if labels.dim() == 3 else result


def _check_soft(function: str, labels: Any) -> None:
    check_tensor(function, "labels", labels, "[B, K, H, W]", floating=True)
    check_images(function, "labels", [labels])


def _taken(function: str, images: Tensor, windows: Windows, reduce: str, fill: int) -> Tensor:
    op = _ops.label_majority if reduce == "majority" else _ops.label_nearest
    at, *rest = windows
    return call(function, op, [images], at.detach(), *rest, int(fill))[0]


def _averaged(function: str, labels: Tensor, windows: Windows, all_read: bool = False) -> Tensor:
    """Means of what targets read; where that is nothing, no class is more likely than another."""
    at, _, *rest = windows
    if windows.separable:
        (result,) = call(function, _ops.separable_resample, [labels], at, *rest, True)
    else:
        (result,) = call(function, _ops.grid_resample, [labels], at, *rest)
    return result if all_read else torch.where(windows.reads(), result, 1 / max(labels.shape[1], 1))
