"""Stateless functions behind `fastwarp.SeparableWarp`: they check their arguments and call `torch.ops.fastwarp.*`.

Conventions. Images are `[B, C, H, W]`. A warp T~ maps positions of the *zoomed* image to positions of the *source*, in
`[0, 1]` with `align_corners=True`: pixel d of D is at `d/(D-1)`, the only pixel of D = 1 at 0.5. It is given by its
knots, T~ sampled on a uniform grid and linear in between: `knots_y [B, h]`, `knots_x [B, w]`; a batch of 1 is shared
by all images.
"LZU" is "Learning to Zoom and Unzoom" (CVPR 2023).
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

import fastwarp.ops  # noqa: F401  (registers torch.ops.fastwarp)
from fastwarp._checks import (
    IMAGE_DTYPES,
    as_geometry,
    as_list,
    check_fwhm,
    check_images,
    check_knots,
    check_option,
    check_saliency_values,
    extents,
    rebuild,
)
from fastwarp.errors import FastwarpError, check_batches, check_devices, check_size, check_tensor, fail

Levels = TypeVar("Levels", Tensor, list[Tensor], tuple[Tensor, ...], dict[str, Tensor])
Size = Sequence[int]

_ops = torch.ops.fastwarp


# --- knots ------------------------------------------------------------------------------------------------------------


def lz_knots(saliency: Tensor, fwhm: float = 13.0, anti_crop: bool = True) -> tuple[Tensor, Tensor]:
    """Knots of the separable LZ warp of a saliency map, LZU eq. 3 and 4.

    Each position is drawn to the saliency around it, by a Gaussian kernel truncated at `min(h, w) - 1` cells:
    `T(x) = sum S(x') k(x, x') x' / sum S(x') k(x, x')` with the marginals S of the map. A uniform saliency of 1e-6 of
    the map's mean is added, so that T is the identity where the map is zero. Differentiable twice; computed in float64.

    Args:
        saliency: `[B, h, w]`, h, w >= 2, non-negative, floating point; half precision is taken up to float32.
            Negative cells count as zero. NaN gives NaN knots for its image (with `FASTWARP_CHECKS=1` both raise).
        fwhm: full width at half maximum of the kernel, in cells.
        anti_crop: pad the marginals by reflection, so that T(0) = 0 and T(1) = 1 exactly and nothing is cropped; else
            by replication, clamped to [0, 1].

    Returns:
        `knots_y [B, h]` and `knots_x [B, w]`, non-decreasing, in [0, 1].

    Raises:
        FastwarpError: wrong rank, fewer than 2 cells, fwhm not positive.
        TypeError: not a floating-point tensor.

    Example:
        >>> import torch
        >>> knots_y, knots_x = lz_knots(torch.ones(1, 3, 5))
        >>> knots_x
        tensor([[0.0000, 0.2500, 0.5000, 0.7500, 1.0000]])
    """
    check_tensor("lz_knots", "saliency", saliency, "[B, h, w]", floating=True)
    if min(saliency.shape[1:]) < 2:
        raise fail("lz_knots", "saliency", f"of shape {list(saliency.shape)}", "at least 2 x 2 cells")
    saliency = as_geometry(saliency)
    check_saliency_values("lz_knots", "saliency", saliency)
    return _ops.lz_knots(saliency, saliency.mT, check_fwhm("lz_knots", fwhm), bool(anti_crop))


def lz_knots_from_marginals(
    marginal_y: Tensor, marginal_x: Tensor, fwhm: float = 13.0, anti_crop: bool = True
) -> tuple[Tensor, Tensor]:
    """Knots of the separable LZ warp of two marginals, LZU eq. 3 and 4; see `lz_knots`.

    Args:
        marginal_y: `[B, h]`, non-negative.
        marginal_x: `[B, w]`, non-negative.
        fwhm: full width at half maximum of the kernel, in cells.
        anti_crop: reflect the marginals at their ends instead of replicating them.

    Returns:
        `knots_y [B, h]` and `knots_x [B, w]`.

    Raises:
        FastwarpError: wrong rank, fewer than 2 cells, different batch sizes or devices, fwhm not positive.
        TypeError: not floating-point tensors of one dtype.
    """
    name = "lz_knots_from_marginals"
    for argument, marginal in (("marginal_y", marginal_y), ("marginal_x", marginal_x)):
        check_tensor(name, argument, marginal, "[B, n]", floating=True)
        if marginal.shape[1] < 2:
            raise fail(name, argument, f"of shape {list(marginal.shape)}", "at least 2 cells")
    check_devices(name, marginal_y=marginal_y, marginal_x=marginal_x)
    if marginal_y.shape[0] != marginal_x.shape[0] or marginal_y.dtype != marginal_x.dtype:
        got = f"{list(marginal_y.shape)} {marginal_y.dtype} and {list(marginal_x.shape)} {marginal_x.dtype}"
        raise FastwarpError(f"{name}: marginals are {got}, expected one batch size and one dtype")
    y, x = as_geometry(marginal_y), as_geometry(marginal_x)
    check_saliency_values(name, "marginal_y", y)
    check_saliency_values(name, "marginal_x", x)
    return _ops.lz_knots(y.unsqueeze(-1), x.unsqueeze(-1), check_fwhm(name, fwhm), bool(anti_crop))


def cdf_knots(density: Tensor, knots: int | None = None) -> Tensor:
    """Knots of the warp that samples in proportion to a density: the inverse of its cumulative distribution.

    As TASN (CVPR 2019) and AttWarp use it. The density is constant in each of its cells; a uniform density of 1e-6 of
    the mean is added. Differentiable twice; computed in float64.

    Args:
        density: `[B, n]`, non-negative, n >= 1; the cells divide [0, 1] evenly. Negative cells count as zero.
        knots: number of knots to return, >= 2; n + 1 if None.

    Returns:
        Strictly increasing knots `[B, knots]` from 0 to 1.

    Raises:
        FastwarpError: wrong rank or sizes.
        TypeError: not a floating-point tensor.

    Example:
        >>> import torch
        >>> cdf_knots(torch.tensor([[3.0, 1.0]]), 5)
        tensor([[0.0000, 0.1667, 0.3333, 0.5000, 1.0000]])
    """
    check_tensor("cdf_knots", "density", density, "[B, n]", floating=True)
    n = density.shape[1]
    count = n + 1 if knots is None else knots
    if n < 1 or count < 2:
        raise fail("cdf_knots", "density, knots", f"{n} cells, {count} knots", "at least 1 cell and 2 knots")
    check_saliency_values("cdf_knots", "density", density)
    with torch.autocast(density.device.type, enabled=False):
        mass = density.double().clamp(min=0)
        mass = mass + (1e-6 * mass.mean(1, keepdim=True)).clamp(min=2.0**-962)
        total = mass @ torch.ones(n, n + 1, dtype=mass.dtype, device=mass.device).triu(1)
        cumulative = total / total[:, -1:]
        grid = torch.arange(count, dtype=mass.dtype, device=mass.device) / (count - 1)
        result = _ops.axis_map(cumulative, grid.expand(density.shape[0], count), True)
    return result.to(as_geometry(density).dtype)


def axis_map(knots: Tensor, positions: Tensor, *, inverse: bool = False) -> Tensor:
    """T~ of one axis (LZU eq. 5), or its inverse (eq. 7), at any positions.

    Args:
        knots: `[B, n]`, float32 or float64, non-decreasing; a batch of 1 is shared.
        positions: `[B, m]`, in [0, 1]; further out T~ continues linearly.
        inverse: evaluate T~^-1. Where knots are equal it is the end of the plateau towards the inside.

    Returns:
        `[B, m]` in the dtype of the knots. Differentiable twice in both arguments.

    Raises:
        FastwarpError: wrong rank, batch sizes or devices.
        TypeError: wrong dtype.

    Example:
        >>> import torch
        >>> axis_map(torch.tensor([[0.0, 0.2, 1.0]]), torch.tensor([[0.25, 0.75]]))
        tensor([[0.1000, 0.6000]])
    """
    check_tensor("axis_map", "positions", positions, "[B, m]", dtypes=(torch.float32, torch.float64))
    check_knots("axis_map", knots, knots)
    check_devices("axis_map", knots=knots, positions=positions)
    if knots.shape[0] not in (1, positions.shape[0]):
        check_batches("axis_map", knots=knots, positions=positions)
        positions = positions.expand(knots.shape[0], -1)
    return _ops.axis_map(knots, positions, bool(inverse))


# --- windows and resampling -------------------------------------------------------------------------------------------


def separable_windows(
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: Sequence[Size],
    source_sizes: Sequence[Size],
    *,
    inverse: bool = False,
    antialias: bool = False,
    fill: Literal["zeros", "border"] = "zeros",
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
        fill: targets outside the range of T~ (cropping warps only) read nothing, or the border.
        valid: int64 `[B, levels, 2]`, extents (height, width) of the targets that the warp spans; the rest reads
            nothing.
        source_valid: likewise of the sources.

    Returns:
        `[B, 2, sum(sizes)]`, level by level rows before columns: centre (source pixels) and half-width (source
        pixels; 1 is bilinear, 0 reads nothing) of the triangle filter.
    """
    check_knots("separable_windows", knots_y, knots_x)
    check_option("separable_windows", "fill", fill, ("zeros", "border"))
    check_batches("separable_windows", knots_y=knots_y, valid=valid, source_valid=source_valid)
    flat = [side for size in sizes for side in check_size("separable_windows", "sizes", size)]
    source = [side for size in source_sizes for side in check_size("separable_windows", "source_sizes", size)]
    if len(flat) != len(source) or not flat:
        raise fail(
            "separable_windows", "sizes", f"{len(sizes)} and {len(source_sizes)} levels", "the same number, >= 1"
        )
    border = fill == "border"
    return _ops.axis_windows(
        knots_y, knots_x, flat, source, bool(inverse), bool(antialias), border, valid, source_valid
    )


def _resample(
    function: str,
    levels: Any,
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: list[tuple[int, int]],
    inverse: bool,
    antialias: bool,
    fill: Any,
    valid: Any,
    source_valid: Any,
) -> list[Tensor]:
    images = as_list(function, "features", levels, levels)
    check_knots(function, knots_y, knots_x)
    check_images(function, images, knots_y)
    extent = extents(function, "valid", valid, levels, len(images), knots_y)
    source_extent = extents(function, "source_valid", source_valid, levels, len(images), knots_y)
    check_batches(function, images=images[0], valid=extent, source_valid=source_extent)
    check_option(function, "fill", fill, ("zeros", "border"))
    flat = [side for size in sizes for side in size]
    options = (bool(inverse), bool(antialias), fill == "border")
    return _ops.separable_sample(images, knots_y, knots_x, flat, *options, extent, source_extent)


def separable_zoom(
    image: Tensor,
    knots_y: Tensor,
    knots_x: Tensor,
    size: Size,
    *,
    antialias: bool = False,
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
) -> Tensor:
    """Zooms: samples the image at T~(Grid(size)), LZU section 3.1 and eq. 5. One pass, no grid in memory.

    Args:
        image: `[B, C, H, W]`, contiguous or channels_last (kept) or any strides; fp16, bf16, fp32, fp64, or uint8
            (rounded).
        knots_y: `[B, h]`, float32 or float64, non-decreasing. Positions outside [0, 1] read the border.
        knots_x: `[B, w]`, likewise.
        size: (height, width) of the result.
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

    Example:
        >>> import torch
        >>> knots = torch.tensor([[0.0, 0.5, 1.0]])
        >>> separable_zoom(torch.arange(5.0).expand(1, 1, 5, 5), knots, knots, (1, 3))
        tensor([[[[0., 2., 4.]]]])
    """
    check_tensor("separable_zoom", "image", image, "[B, C, H, W]", dtypes=IMAGE_DTYPES)
    target = check_size("separable_zoom", "size", size)
    return _resample(
        "separable_zoom", image, knots_y, knots_x, [target], False, antialias, "border", valid, source_valid
    )[0]


def separable_unzoom(
    features: Levels,
    knots_y: Tensor,
    knots_x: Tensor,
    size: Any = None,
    *,
    antialias: bool = False,
    fill: Literal["zeros", "border"] = "zeros",
    valid: Any = None,
    source_valid: Any = None,
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
        antialias: average where the unzoom reduces, see `separable_zoom`.
        fill: value of targets outside the range of T~ (cropping warps only): 0, or what the border has.
        valid: integer `[B, 2]` for each level: the part of the result that the warp spans; the rest is 0.
        source_valid: integer `[B, 2]` for each level: the part of the zoomed map that is not padding.

    Returns:
        The structure of `features` with maps `[B, C, *size]`. Differentiable twice in features and knots.

    Raises:
        FastwarpError: wrong ranks, sizes, structures, batch sizes, devices, an unknown fill.
        TypeError: wrong types or dtypes.
    """
    images = as_list("separable_unzoom", "features", features, features)
    for image in images:
        check_tensor("separable_unzoom", "features", image, "[B, C, H, W]", dtypes=IMAGE_DTYPES)
    if size is None:
        sizes: list[tuple[int, int]] = [(image.shape[2], image.shape[3]) for image in images]
    else:
        targets = as_list("separable_unzoom", "size", size, features)
        sizes = [check_size("separable_unzoom", "size", target) for target in targets]
    args = (sizes, True, antialias, fill, valid, source_valid)
    return rebuild(features, _resample("separable_unzoom", features, knots_y, knots_x, *args))


def zoom_frame(
    frame: Tensor,
    knots_y: Tensor,
    knots_x: Tensor,
    size: Size,
    *,
    mean: Sequence[float] = (0.0, 0.0, 0.0),
    std: Sequence[float] = (1.0, 1.0, 1.0),
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
        mean: of each channel, in the frame's units (0 .. 255).
        std: of each channel, likewise; not 0.
        dtype: of the result: fp16, bf16, fp32 or fp64.
        antialias: see `separable_zoom`.
        valid: integer `[B, 2]`, the part of the result that the warp spans; the rest is 0, also after normalisation.
        source_valid: integer `[B, 2]`, the part of each frame that is not padding.

    Returns:
        `[B, C, *size]`, contiguous (B = 1 for a single frame). Differentiable in the knots.

    Raises:
        FastwarpError: wrong ranks, sizes, batch sizes, devices, a std of 0.
        TypeError: not a uint8 tensor; `dtype` not floating point.

    Example:
        >>> import torch
        >>> knots = torch.tensor([[0.0, 1.0]])
        >>> frame = torch.full((4, 4, 3), 7, dtype=torch.uint8)
        >>> zoom_frame(frame, knots, knots, (1, 2), mean=(5, 5, 5), std=(2, 2, 2))[0, 0]
        tensor([[1., 1.]])
    """
    if isinstance(frame, Tensor) and frame.dim() == 3:
        frame = frame.unsqueeze(0)
    check_tensor("zoom_frame", "frame", frame, "[B, H, W, C]", dtypes=(torch.uint8,))
    channels = frame.shape[3]
    if 0 in frame.shape[1:]:
        raise fail("zoom_frame", "frame", f"of shape {list(frame.shape)}", "no empty dimension")
    for argument, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise fail("zoom_frame", argument, f"{len(values)} long", f"one value for each of {channels} channels")
    if any(value == 0 for value in std):
        raise fail("zoom_frame", "std", list(std), "values other than 0")
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"zoom_frame: dtype is {dtype}, expected a floating-point dtype")
    target = check_size("zoom_frame", "size", size)
    check_knots("zoom_frame", knots_y, knots_x)
    check_devices("zoom_frame", frame=frame, knots_y=knots_y)
    extent = extents("zoom_frame", "valid", valid, frame, 1, knots_y)
    source_extent = extents("zoom_frame", "source_valid", source_valid, frame, 1, knots_y)
    if knots_y.shape[0] not in (1, frame.shape[0]):
        raise fail("zoom_frame", "knots", f"a batch of {knots_y.shape[0]}", f"1 or the frames' {frame.shape[0]}")
    check_batches("zoom_frame", frame=frame, valid=extent, source_valid=source_extent)
    source = (frame.shape[1], frame.shape[2])
    windows = separable_windows(
        *(knots_y, knots_x, [target], [source]),
        antialias=antialias,
        fill="border",
        valid=extent,
        source_valid=source_extent,
    )
    scale = [1.0 / float(s) for s in std]
    bias = [-float(m) / float(s) for m, s in zip(mean, std, strict=True)]
    return _ops.separable_camera(
        frame.contiguous(), windows, list(target), scale, bias, dtype, source_extent, bool(antialias)
    )


# --- grids, points, boxes, magnification ------------------------------------------------------------------------------


def _centres(knots_y: Tensor, knots_x: Tensor, size: Size, inverse: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Positions in [0, 1] of the rows and columns of a grid, and where they are in range."""
    height, width = check_size("separable_grid", "size", size)
    windows = separable_windows(knots_y, knots_x, [(height, width)], [(2, 2)], inverse=inverse)
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
    y, x, inside_y, inside_x = _centres(knots_y, knots_x, size, inverse)
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
    _, _, inside_y, inside_x = _centres(knots_y, knots_x, size, True)
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
        slopes.append(_ops.axis_map_backward(torch.ones_like(positions), knots, positions, True)[1])
    return slopes[0][:, :, None] * slopes[1][:, None, :]


def _pixel_scale(function: str, argument: str, size: Any, axis: int) -> tuple[Any, Any]:
    """(scale, position of pixel 0) of `pixel - 0.5 = scale * (position - first)` on one axis (0: y), D = 1 included."""
    if isinstance(size, Tensor):
        check_tensor(function, argument, size, "[B, 2]", dtypes=(torch.int32, torch.int64))
        side = size[:, axis, None]
        return (side - 1).clamp(min=1), torch.where(side > 1, 0.0, 0.5)
    whole = check_size(function, argument, size)[axis]
    return (whole - 1, 0.0) if whole > 1 else (1, 0.5)


def map_points(
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

    Example:
        >>> import torch
        >>> knots = torch.tensor([[0.0, 0.25, 1.0]])
        >>> map_points(torch.tensor([[[5.5, 5.5]]]), knots, knots, (101, 101), (11, 11))
        tensor([[[25.5000, 25.5000]]])
    """
    check_tensor("map_points", "points", points, "[B, N, 2]", floating=True)
    if points.shape[2] != 2:
        raise fail("map_points", "points", f"of shape {list(points.shape)}", "[B, N, 2], (x, y)")
    check_knots("map_points", knots_y, knots_x)
    check_devices("map_points", points=points, knots_y=knots_y)
    check_batches("map_points", points=points, knots=knots_y)
    dtype = torch.promote_types(as_geometry(points).dtype, knots_y.dtype)
    sizes = (("source_size", source_size), ("size", size))
    mapped = []
    for axis, knots in ((1, knots_x), (0, knots_y)):
        source, target = (_pixel_scale("map_points", argument, side, axis) for argument, side in sizes)
        (from_scale, from_first), (to_scale, to_first) = (source, target) if inverse else (target, source)
        position = (points[..., 1 - axis].to(dtype) - 0.5) / from_scale + from_first
        value = axis_map(knots.to(dtype), position, inverse=inverse)
        mapped.append((value - to_first) * to_scale + 0.5)
    return torch.stack(mapped, -1)
