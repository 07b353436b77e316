"""Zoom and unzoom by separable warps."""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

import fastwarp.ops  # noqa: F401  (registers torch.ops.fastwarp)
from fastwarp._checks import (
    check_images,
    check_knots,
    check_mode,
    check_option,
    extents,
    frame_arguments,
    level_arguments,
    rebuild,
)
from fastwarp.errors import call, check_size, check_tensor, fail
from fastwarp.functional._registration import Places, check_unregistered, keep_padding, places, registration

Levels = TypeVar("Levels", Tensor, list[Tensor], tuple[Tensor, ...], dict[str, Tensor])
Size = Sequence[int]
Mode = Literal["bilinear", "nearest"]

_ops = torch.ops.fastwarp


def separable_windows(
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: Sequence[Size],
    source_sizes: Sequence[Size],
    *,
    inverse: bool = False,
    antialias: bool = False,
    padding_mode: Literal["zeros", "border"] = "zeros",
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
) -> Tensor:
    """What every row and column of some targets reads: all the geometry that resampling needs, O(H + W) numbers.

    Args:
        knots_y: `[B, h]`, float32 or float64, non-decreasing.
        knots_x: `[B, w]`, likewise.
        sizes: target size (height, width) of each level.
        source_sizes: source size of each level.
        inverse: False: targets are at T~(Grid), a zoom. True: at T~^-1(Grid), an unzoom (LZU eq. 7), exact per level.
        antialias: widen the triangle filter to the local distance of the samples, where that is more than a pixel.
        padding_mode: targets outside the range of T~ (cropping warps only) read nothing, or the border.
        valid: int64 `[B, levels, 2]`, extents (height, width) of the targets that the warp spans; the rest reads
            nothing.
        source_valid: likewise of the sources.

    Returns:
        `[B, 2, sum(sizes)]`, level by level rows before columns: centre (source pixels) and half-width (source
        pixels; 1 is bilinear, 0 reads nothing) of the triangle filter.
    """
    name = "separable_windows"
    check_option(name, "padding_mode", padding_mode, ("zeros", "border"))
    for argument, value in (("sizes", sizes), ("source_sizes", source_sizes)):
        if not isinstance(value, Sequence):
            raise TypeError(f"{name}: {argument} is {value!r}, expected a list of (height, width)")
    flat = [side for size in sizes for side in check_size(name, "sizes", size)]
    source = [side for size in source_sizes for side in check_size(name, "source_sizes", size)]
    if len(flat) != len(source) or not flat:
        raise fail(name, "sizes", f"{len(sizes)} and {len(source_sizes)} levels", "the same number, at least 1")
    for argument, extent in (("valid", valid), ("source_valid", source_valid)):
        if extent is not None:
            check_tensor(name, argument, extent, "[B, levels, 2]", dtypes=(torch.int64,))
            if extent.shape[1:] != (len(sizes), 2):
                raise fail(name, argument, f"of shape {list(extent.shape)}", f"[B, {len(sizes)}, 2]")
    check_knots(name, knots_y, knots_x, valid=valid, source_valid=source_valid)
    options = (bool(inverse), bool(antialias), padding_mode == "border")
    return call(name, _ops.axis_windows, knots_y, knots_x, flat, source, *options, valid, source_valid)


def _resample(
    function: str,
    argument: str,
    images: list[Tensor],
    structure: Any,
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: list[tuple[int, int]],
    inverse: bool,
    antialias: bool,
    padding_mode: Any,
    valid: Any,
    source_valid: Any,
    mode: str,
    fill: int = 0,
) -> list[Tensor]:
    """The checked images of an argument, whose `structure` extents follow, at the targets of a warp; labels also by
    the mode "majority"."""
    batch = images[0].shape[0]
    check_knots(function, knots_y, knots_x, batch, **{argument: images[0]})
    check_option(function, "padding_mode", padding_mode, ("zeros", "border"))
    about = (structure, len(images), batch, knots_y)
    extent = extents(function, "valid", valid, *about)
    source_extent = extents(function, "source_valid", source_valid, *about)
    flat = [side for size in sizes for side in size]
    knots, border, about_extents = (knots_y, knots_x), padding_mode == "border", (extent, source_extent)
    if mode == "nearest" and not images[0].is_floating_point():
        return call(function, _ops.label_sample, images, *knots, flat, bool(inverse), border, *about_extents, fill)
    if mode != "bilinear":
        knots = (knots_y.detach(), knots_x.detach())  # what they read does not move with them by less than a pixel
        source, wide = [side for image in images for side in image.shape[2:]], mode == "majority"
        windows = call(function, _ops.axis_windows, *knots, flat, source, bool(inverse), wide, border, *about_extents)
        op = _ops.label_majority if wide else _ops.label_nearest
        return call(function, op, images, windows, True, flat, source_extent, fill)
    options = (flat, bool(inverse), bool(antialias), border)
    return call(function, _ops.separable_sample, images, *knots, *options, *about_extents)


def separable_zoom(
    image: Tensor,
    knots_y: Tensor,
    knots_x: Tensor,
    size: Size,
    *,
    mode: Mode = "bilinear",
    antialias: bool = False,
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
) -> Tensor:
    """Zooms: samples the image at T~(Grid(size)), LZU section 3.1 and eq. 5. One pass, no grid in memory.

    Args:
        image: `[B, C, H, W]`, contiguous or channels_last (kept) or any strides; fp16, bf16, fp32, fp64, or uint8
            (rounded).
        knots_y: `[B, h]`, float32 or float64, non-decreasing. Positions outside [0, 1] read the border. A NaN in the
            knots of either axis makes the whole image NaN, also in `separable_unzoom` and `separable_zoom_frame`.
        knots_x: `[B, w]`, likewise.
        size: (height, width) of the result.
        mode: `"bilinear"`, or `"nearest"`, for what has no values in between: the pixel `floor(x + 1/2)`, half way the
            one to the right, or below. It takes int16, int32, int64 and bool, too. Gradients go to the pixels
            that were read; there are none to the knots.
        antialias: average over the local distance of the samples (a triangle filter) instead of interpolating between
            two pixels. On a uniform warp this is the filter of `F.interpolate(..., antialias=True)`, at the centres
            that `align_corners=True` means (torch itself shifts them by half a sample there).
        valid: integer `[B, 2]`, (height, width) of the part of the result that the warp spans; the rest is 0.
        source_valid: integer `[B, 2]`, the part of each image that is not padding; padding is never read.

    Returns:
        `[B, C, *size]` in the image's dtype and memory format. Differentiable twice in image and knots.

    Raises:
        FastwarpError: wrong ranks, sizes, batch sizes, devices.
        TypeError: wrong types or dtypes.

    Examples:
        >>> import torch
        >>> knots = torch.tensor([[0.0, 0.5, 1.0]])
        >>> separable_zoom(torch.arange(5.0).expand(1, 1, 5, 5), knots, knots, (1, 3))
        tensor([[[[0., 2., 4.]]]])
    """
    name = "separable_zoom"
    check_images(name, "image", [image], check_mode(name, mode, antialias))
    args = ([check_size(name, "size", size)], False, antialias, "border", valid, source_valid, mode)
    return _resample(name, "image", [image], image, knots_y, knots_x, *args)[0]


def separable_unzoom(
    features: Levels,
    knots_y: Tensor,
    knots_x: Tensor,
    size: Any = None,
    *,
    mode: Mode = "bilinear",
    antialias: bool = False,
    padding_mode: Literal["zeros", "border"] = "zeros",
    valid: Any = None,
    source_valid: Any = None,
    image_size: Any = None,
    strides: Any = None,
    phase: Any = 0.0,
    outside: Literal["keep", "fill"] = "keep",
) -> Levels:
    """Unzooms: samples zoomed maps at T~^-1(Grid(size)), LZU eq. 6 and 7: back to the source's geometry.

    All levels of a pyramid go in one launch, each with the exact inverse at its own size.

    Args:
        features: `[B, C, h, w]`, or a list, tuple or dict of such levels with one dtype; layouts as in
            `separable_zoom`.
        knots_y: `[B, n]`, float32 or float64, non-decreasing.
        knots_x: `[B, n']`, likewise.
        size: (height, width) of the result, for several levels one each in the same structure; None keeps each map's
            own.
        mode: `"bilinear"` or `"nearest"`, see `separable_zoom`.
        antialias: average where the unzoom reduces, see `separable_zoom`.
        padding_mode: value of targets outside the range of T~ (cropping warps only): 0, or what the border has.
        valid: integer `[B, 2]` for each level: the part of the result that the warp spans; the rest is 0. With an
            `image_size` one `[B, 2]`: the part of each *image* that is not padding, in its pixels.
        source_valid: integer `[B, 2]` for each level: the part of the zoomed map that is not padding.
        image_size: (height, width) of the network's input. The maps are then registered exactly: cell j of an axis
            with stride s is at pixel `s j + phase (s - 1)` of the image, zoomed and unzoomed alike, instead of at
            `j / (n - 1)` of its width; see `docs/registration.md`. Maps keep their sizes.
        strides: of each level, an integer or a pair (sy, sx); None: the s for which a map has `ceil(H / s)` rows and
            `ceil(W / s)` columns, a power of two where one fits.
        phase: of all levels or of each: 0 for convolutions with odd kernels and padding (ResNet), 0.5 for patches
            (ConvNeXt, Swin).
        outside: cells of padding, from `ceil(valid / s)` on, also of what a network pads itself: `"keep"` them as they
            are, or `"fill"` them with 0. Only with an `image_size`.

    Returns:
        The structure of `features` with maps `[B, C, *size]`. Differentiable twice in features and knots.

    Raises:
        FastwarpError: wrong ranks, sizes, structures, batch sizes, devices, an unknown padding_mode; a map that no
            stride explains.
        TypeError: wrong types or dtypes.
    """
    name = "separable_unzoom"
    maps, sizes = level_arguments(name, features, size, check_mode(name, mode, antialias))
    if image_size is None:
        check_unregistered(name, strides)
        args = (sizes, True, antialias, padding_mode, valid, source_valid, mode)
        return rebuild(features, _resample(name, "features", maps, features, knots_y, knots_x, *args))
    check_knots(name, knots_y, knots_x, maps[0].shape[0], features=maps[0])
    check_option(name, "padding_mode", padding_mode, ("zeros", "border"))
    given = {"image_size": image_size, "strides": strides, "phase": phase, "valid": valid, "outside": outside}
    about = registration(name, "features", features, maps, knots_y, given, size=size, source_valid=source_valid)
    flat = [side for pair in sizes for side in pair]
    axes = places(about, flat, knots_y)
    extent = axes.extents
    windows = _registered_windows(axes, flat, knots_y, knots_x, bool(antialias), padding_mode == "border")
    if mode == "nearest":
        results = call(name, _ops.label_nearest, maps, windows, True, flat, extent, 0)
    else:
        results = call(name, _ops.separable_resample, maps, windows, flat, extent, bool(antialias))
    return rebuild(features, keep_padding(extent, maps, results) if about.keep else results)


def windows_of(
    knots: tuple[Tensor, Tensor],
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    antialias: bool,
    border: bool,
    registered: Places | None,
) -> Tensor:
    """What targets read, to be kept: of a zoom, an unzoom, or a registered one."""
    if registered is not None:
        return _registered_windows(registered, sizes, *knots, antialias, border)
    return call("freeze", _ops.axis_windows, *knots, sizes, source_sizes, inverse, antialias, border, None, None)


def _registered_windows(
    axes: Places, sizes: list[int], knots_y: Tensor, knots_x: Tensor, antialias: bool, border: bool
) -> Tensor:
    """As `separable_windows`, of registered maps."""
    batch = max(len(knots_y), len(knots_x), len(axes.at))
    mapped, shown = [], []
    for knots, at in zip((knots_y, knots_x), axes.at.expand(batch, -1, -1, -1).unbind(1), strict=True):
        at = at.flatten(1).contiguous()
        mapped.append(call("separable_unzoom", _ops.axis_map, knots.double(), at, True))
        shown.append((at >= knots[:, :1]) & (at <= knots[:, -1:]))
    shape = (batch, 2, *axes.at.shape[2:])
    lost = (knots_y.isnan().any(1) | knots_x.isnan().any(1))[:, None, None, None]
    centre, reads = axes.centre(torch.stack(mapped, 1).view(shape)), axes.inside
    if not border:
        reads = reads & (lost | torch.stack(shown, 1).view(shape))
    width = axes.spacing(centre).abs().clamp(min=1) if antialias else torch.ones_like(centre)
    windows = torch.stack([torch.where(lost, torch.nan, centre), torch.where(lost, 1, width)], 1)
    windows = torch.where(reads[:, None], windows, 0).to(knots_y.dtype)
    # Level by level, rows before columns, without the cells that there are not.
    axes_of_levels = windows.transpose(2, 3).flatten(2, 3).unbind(2)
    return torch.cat([part[..., :n] for part, n in zip(axes_of_levels, sizes, strict=True)], 2)


def separable_zoom_frame(
    frame: Tensor,
    knots_y: Tensor,
    knots_x: Tensor,
    size: Size,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: torch.dtype = torch.float32,
    antialias: bool = False,
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
) -> Tensor:
    """Zooms and normalises a camera's frame in one pass over it: `(zoomed - mean) / std`, planar.

    Args:
        frame: uint8 `[H, W, C]` or `[B, H, W, C]`, as cameras, OpenCV and Pillow give it.
        knots_y: `[B, h]`, float32 or float64, non-decreasing.
        knots_x: `[B, w]`, likewise.
        size: (height, width) of the result.
        mean: of each channel, in the frame's units (0 .. 255); None: 0.
        std: of each channel, likewise, not 0; None: 1.
        dtype: of the result: fp16, bf16, fp32 or fp64.
        antialias: see `separable_zoom`.
        valid: integer `[B, 2]`, the part of the result that the warp spans; the rest is 0, also after normalisation.
        source_valid: integer `[B, 2]`, the part of each frame that is not padding.

    Returns:
        `[B, C, *size]`, contiguous (B = 1 for a single frame). Differentiable in the knots.

    Raises:
        FastwarpError: wrong ranks, sizes, batch sizes, devices, a std of 0.
        TypeError: not a uint8 tensor; `dtype` not floating point.

    Examples:
        >>> import torch
        >>> knots = torch.tensor([[0.0, 1.0]])
        >>> frame = torch.full((4, 4, 3), 7, dtype=torch.uint8)
        >>> separable_zoom_frame(frame, knots, knots, (1, 2), mean=(5, 5, 5), std=(2, 2, 2))[0, 0]
        tensor([[1., 1.]])
    """
    frame, target, scale, bias = frame_arguments("separable_zoom_frame", frame, size, mean, std, dtype)
    check_knots("separable_zoom_frame", knots_y, knots_x, frame.shape[0], frame=frame)
    extent = extents("separable_zoom_frame", "valid", valid, frame, 1, frame.shape[0], knots_y)
    source_extent = extents("separable_zoom_frame", "source_valid", source_valid, frame, 1, frame.shape[0], knots_y)
    sizes = (list(target), [frame.shape[1], frame.shape[2]])
    options = (False, bool(antialias), True, extent, source_extent)
    windows = call("separable_zoom_frame", _ops.axis_windows, knots_y, knots_x, *sizes, *options)
    return call(
        "separable_zoom_frame",
        _ops.separable_camera,
        frame.contiguous(),
        windows,
        list(target),
        scale,
        bias,
        dtype,
        source_extent,
        bool(antialias),
    )
