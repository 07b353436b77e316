"""Segmentation labels under warps: class ids, and probabilities of classes."""

from typing import Any, Literal

import torch
from torch import Tensor

from fastwarp._checks import LABEL_DTYPES, check_count, check_images, check_option
from fastwarp.errors import check_size, check_tensor, fail
from fastwarp.functional import mesh as _mesh
from fastwarp.functional import separable as _separable
from fastwarp.functional.mesh import Tile
from fastwarp.functional.separable import Size
from fastwarp.ops.label import bounds

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
) -> Tensor:
    """Brings class ids, those that a network predicts say, back to the source's geometry; see `separable_zoom_labels`
    for what is not said here, and `separable_unzoom`.

    Args:
        labels: `[B, h, w]`, `[h, w]` or `[B, C, h, w]`, of the zoomed image.
        knots_y: `[B, n]`, float32 or float64, non-decreasing.
        knots_x: `[B, n']`, likewise.
        size: (height, width) of the result; None keeps the labels' own.
        ignore_index: what targets get that read nothing: those outside `valid`, and outside the range of a cropping
            warp.
        reduce: `"nearest"` or `"majority"`, of use where the warp magnified.
        valid: integer `[B, 2]`, the part of the result that the warp spans.
        source_valid: integer `[B, 2]`, the part of the zoomed labels that is not padding.

    Returns:
        The labels' shape with `size` for h, w, in their dtype.
    """
    name = "separable_unzoom_labels"
    images = _images(name, labels, ignore_index, reduce)
    sizes = [(images.shape[2], images.shape[3]) if size is None else check_size(name, "size", size)]
    args = (sizes, True, False, "zeros", valid, source_valid, reduce, int(ignore_index))
    (result,) = _separable._resample(name, "labels", [images], images, knots_y, knots_x, *args)
    return _shaped(result, labels)


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
    check_tensor(name, "labels", labels, "[B, K, H, W]", floating=True)
    check_images(name, "labels", [labels])
    args = ([check_size(name, "size", size)], False, True, "border", valid, source_valid, "bilinear")
    (result,) = _separable._resample(name, "labels", [labels], labels, knots_y, knots_x, *args)
    return _uniform_outside(result, valid, source_valid)


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
) -> Tensor:
    """Brings class ids back to the source's geometry; see `separable_unzoom_labels`, and `mesh_unzoom`.

    Args:
        labels: `[B, h, w]`, `[h, w]` or `[B, C, h, w]`, of the zoomed image.
        mesh: `[B, n, n', 2]`, (x, y), float32 or float64.
        size: (height, width) of the result; None keeps the labels' own.
        ignore_index: what targets get that read nothing: those outside `valid` and outside the mesh.
        reduce: `"nearest"` or `"majority"`.
        tile: see `mesh_zoom`.
        valid: integer `[B, 2]`, the part of the result that the warp spans.
        source_valid: integer `[B, 2]`, the part of the zoomed labels that is not padding.

    Returns:
        The labels' shape with `size` for h, w, in their dtype.
    """
    name = "mesh_unzoom_labels"
    images = _images(name, labels, ignore_index, reduce)
    sizes = [(images.shape[2], images.shape[3]) if size is None else check_size(name, "size", size)]
    args = (sizes, True, tile, False, "zeros", valid, source_valid, reduce, int(ignore_index))
    return _shaped(_mesh._sample(name, "labels", [images], images, mesh, *args)[0], labels)


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
    check_tensor(name, "labels", labels, "[B, K, H, W]", floating=True)
    check_images(name, "labels", [labels])
    args = ([check_size(name, "size", size)], False, tile, True, "border", valid, source_valid, "bilinear")
    (result,) = _mesh._sample(name, "labels", [labels], labels, mesh, *args)
    return _uniform_outside(result, valid, source_valid)


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


def _uniform_outside(result: Tensor, valid: Tensor | None, source_valid: Tensor | None) -> Tensor:
    """Where nothing was read, no class is more likely than another."""
    if valid is None and source_valid is None:
        return result
    _, classes, height, width = result.shape
    reads = result.new_ones((1, 1, 1, 1), dtype=torch.bool)
    if valid is not None:
        y, x = (torch.arange(n, device=result.device) < valid[:, i, None] for i, n in enumerate((height, width)))
        reads = y[:, None, :, None] & x[:, None, None, :]
    if source_valid is not None:
        reads = reads & (source_valid > 0).all(1)[:, None, None, None]
    return torch.where(reads, result, 1 / max(classes, 1))
