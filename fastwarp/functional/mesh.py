"""Saliency -> mesh, and zoom and unzoom by warps that are not separable."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

import fastwarp.ops  # noqa: F401  (registers torch.ops.fastwarp)
from fastwarp._checks import (
    as_geometry,
    check_fwhm,
    check_images,
    check_mesh,
    check_mode,
    check_option,
    check_saliency,
    extents,
    frame_arguments,
    level_arguments,
    rebuild,
)
from fastwarp.errors import call, check_size
from fastwarp.functional._registration import Places, check_unregistered, keep_padding, places, registration
from fastwarp.functional.separable import Levels, Mode, Size

Tile = Literal["bilinear", "homography"]
TILES = ("bilinear", "homography")

_SLACK = 1e-3
"""How far beyond the outline of a mesh a cell still counts as inside, in widths of the image, against rounding."""

_ops = torch.ops.fastwarp


def lz_mesh(saliency: Tensor, fwhm: float = 13.0, anti_crop: bool = True) -> Tensor:
    """Mesh of the nonseparable LZ warp of a saliency map, LZU eq. 1 and 2, on the saliency's own grid.

    Each position is drawn to the saliency around it, by an isotropic Gaussian kernel truncated at `min(h, w) - 1`
    cells on both axes: `T(x) = sum S(x') k(x, x') x' / sum S(x') k(x, x')`. A uniform saliency of 1e-6 of the map's
    mean is added, so that T is the identity where the map is zero. The kernel is a product over the axes, so the sums
    are matrix products. Differentiable twice; computed in float64.

    Args:
        saliency: `[B, h, w]`, h, w >= 2, non-negative, floating point; half precision is taken up to float32.
            Negative cells count as zero. NaN gives a NaN mesh for its image (with `FASTWARP_CHECKS=1` both raise).
        fwhm: full width at half maximum of the kernel, in cells.
        anti_crop: pad the map by reflection, so that the outline of the image stays its outline and nothing is
            cropped; else by replication, clamped to [0, 1].

    Returns:
        `[B, h, w, 2]`, (x, y) in [0, 1].

    Raises:
        FastwarpError: wrong rank, fewer than 2 cells, fwhm not positive.
        TypeError: not a floating-point tensor.

    Examples:
        >>> import torch
        >>> lz_mesh(torch.ones(1, 3, 3))[0, 1]
        tensor([[0.0000, 0.5000],
                [0.5000, 0.5000],
                [1.0000, 0.5000]])
    """
    check_saliency("lz_mesh", "saliency", saliency)
    return call("lz_mesh", _ops.lz_mesh, as_geometry(saliency), check_fwhm("lz_mesh", fwhm), bool(anti_crop))


def _sample(
    function: str,
    argument: str,
    images: list[Tensor],
    structure: Any,
    mesh: Tensor,
    sizes: list[tuple[int, int]],
    inverse: bool,
    tile: str,
    antialias: bool,
    padding_mode: str,
    valid: Any,
    source_valid: Any,
    mode: str,
    fill: int = 0,
) -> list[Tensor]:
    """The checked images of an argument, whose `structure` extents follow, at the targets of a warp; labels also by
    the mode "majority"."""
    batch = images[0].shape[0]
    check_mesh(function, mesh, batch, **{argument: images[0]})
    check_option(function, "padding_mode", padding_mode, ("zeros", "border"))
    check_option(function, "tile", tile, TILES)
    about = (structure, len(images), batch, mesh)
    extent = extents(function, "valid", valid, *about)
    source_extent = extents(function, "source_valid", source_valid, *about)
    flat = [side for size in sizes for side in size]
    options = (bool(inverse), tile == "homography", padding_mode == "border", extent, source_extent)
    if mode != "bilinear":
        mesh = mesh.detach()  # what they read does not move with it by less than a pixel
    elif not antialias:
        return call(function, _ops.mesh_sample, images, mesh, flat, *options)
    source = [side for image in images for side in image.shape[2:]]
    centres, _ = call(function, _ops.mesh_positions, mesh, flat, source, *options)
    if mode == "nearest":
        return call(function, _ops.label_nearest, images, centres, False, flat, source_extent, fill)
    windows = call(function, _ops.grid_widen, centres, flat, source, extent, source_extent)
    if mode == "majority":
        return call(function, _ops.label_majority, images, windows, False, flat, source_extent, fill)
    return call(function, _ops.grid_resample, images, windows, flat, source_extent)


def mesh_zoom(
    image: Tensor,
    mesh: Tensor,
    size: Size,
    *,
    tile: Tile = "bilinear",
    mode: Mode = "bilinear",
    antialias: bool = False,
    valid: Tensor | None = None,
    source_valid: Tensor | None = None,
) -> Tensor:
    """Zooms: samples the image at T~(Grid(size)), LZU section 3.1, by a warp that need not be separable.

    Args:
        image: `[B, C, H, W]`, contiguous or channels_last (kept) or any strides; fp16, bf16, fp32, fp64, or uint8
            (rounded).
        mesh: `[B, h, w, 2]`, (x, y), float32 or float64: T on a uniform grid. Positions outside [0, 1] read the border.
            A NaN in any vertex makes the whole image NaN, also in `mesh_unzoom` and `mesh_zoom_frame`.
        size: (height, width) of the result.
        tile: what T~ is inside a tile of the mesh: `"bilinear"` or a `"homography"`, see `fastwarp.MeshWarp`.
        mode: `"bilinear"`, or `"nearest"`, for what has no values in between: the pixel `floor(x + 1/2)`, half way the
            one to the right, or below. It takes int16, int32, int64 and bool, too. Gradients go to the pixels
            that were read; there are none to the mesh.
        antialias: average over the local distance of the samples with triangle filters along x and y, instead of
            interpolating between four pixels.
        valid: integer `[B, 2]`, (height, width) of the part of the result that the warp spans; the rest is 0.
        source_valid: integer `[B, 2]`, the part of each image that is not padding; padding is never read.

    Returns:
        `[B, C, *size]` in the image's dtype and memory format. Differentiable twice in image and mesh.

    Raises:
        FastwarpError: wrong ranks, sizes, batch sizes, devices, an unknown tile.
        TypeError: wrong types or dtypes.

    Examples:
        >>> import torch
        >>> mesh = torch.tensor([[[[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]])
        >>> mesh_zoom(torch.arange(5.0).expand(1, 1, 5, 5), mesh, (1, 3))
        tensor([[[[0., 2., 4.]]]])
    """
    name = "mesh_zoom"
    check_images(name, "image", [image], check_mode(name, mode, antialias))
    args = ([check_size(name, "size", size)], False, tile, antialias, "border", valid, source_valid, mode)
    return _sample(name, "image", [image], image, mesh, *args)[0]


def mesh_unzoom(
    features: Levels,
    mesh: Tensor,
    size: Any = None,
    *,
    tile: Tile = "bilinear",
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
    """Unzooms: samples zoomed maps at T~^-1(Grid(size)), LZU eq. 6 and appendix A.1-A.2: back to the source's geometry.

    All levels of a pyramid go in one launch, each with the exact inverse at its own size. Every target inside the mesh
    belongs to exactly one tile; where a folded mesh covers it several times, to the first in row-major order.

    Args:
        features: `[B, C, h, w]`, or a list, tuple or dict of such levels with one dtype; layouts as in `mesh_zoom`.
        mesh: `[B, n, n', 2]`, (x, y), float32 or float64.
        size: (height, width) of the result, for several levels one each in the same structure; None keeps each map's
            own.
        tile: see `mesh_zoom`.
        mode: `"bilinear"` or `"nearest"`, see `mesh_zoom`.
        antialias: average where the unzoom reduces, see `mesh_zoom`.
        padding_mode: value of targets outside the mesh: 0, or what the nearest point of its outline has; they have no
            gradient to the mesh.
        valid: integer `[B, 2]` for each level: the part of the result that the warp spans; the rest is 0. With an
            `image_size` one `[B, 2]`: the part of each *image* that is not padding, in its pixels.
        source_valid: integer `[B, 2]` for each level: the part of the zoomed map that is not padding.
        image_size: (height, width) of the network's input: the maps are registered exactly, see `separable_unzoom`
            also for the following.
        strides: of each level, an integer or a pair (sy, sx); None: by the sizes.
        phase: of all levels or of each.
        outside: `"keep"` or `"fill"` cells of padding.

    Returns:
        The structure of `features` with maps `[B, C, *size]`. Differentiable twice in features and mesh.

    Raises:
        FastwarpError: wrong ranks, sizes, structures, batch sizes, devices, an unknown tile or padding_mode; a map
            that no stride explains.
        TypeError: wrong types or dtypes.
    """
    name = "mesh_unzoom"
    maps, sizes = level_arguments(name, features, size, check_mode(name, mode, antialias))
    if image_size is None:
        check_unregistered(name, strides)
        args = (sizes, True, tile, antialias, padding_mode, valid, source_valid, mode)
        return rebuild(features, _sample(name, "features", maps, features, mesh, *args))
    check_mesh(name, mesh, maps[0].shape[0], features=maps[0])
    check_option(name, "padding_mode", padding_mode, ("zeros", "border"))
    check_option(name, "tile", tile, TILES)
    given = {"image_size": image_size, "strides": strides, "phase": phase, "valid": valid, "outside": outside}
    about = registration(name, "features", features, maps, mesh, given, size=size, source_valid=source_valid)
    flat = [side for pair in sizes for side in pair]
    axes = places(about, flat, mesh)
    extent = axes.extents
    windows = _registered_windows(axes, flat, mesh, tile == "homography", padding_mode == "border")
    if antialias:
        windows = call(name, _ops.grid_widen, windows, flat, flat, extent, extent)
    if mode == "nearest":
        results = call(name, _ops.label_nearest, maps, windows, False, flat, extent, 0)
    else:
        results = call(name, _ops.grid_resample, maps, windows, flat, extent)
    return rebuild(features, keep_padding(extent, maps, results) if about.keep else results)


def windows_of(
    mesh: Tensor,
    homography: bool,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    antialias: bool,
    border: bool,
    registered: Places | None,
) -> Tensor:
    """What targets read, to be kept: of a zoom, an unzoom, or a registered one."""
    extent = None
    if registered is None:
        options = (inverse, homography, border, None, None)
        windows, _ = call("freeze", _ops.mesh_positions, mesh, sizes, source_sizes, *options)
    else:
        windows, extent = _registered_windows(registered, sizes, mesh, homography, border), registered.extents
    return call("freeze", _ops.grid_widen, windows, sizes, source_sizes, extent, extent) if antialias else windows


def _registered_windows(axes: Places, sizes: list[int], mesh: Tensor, homography: bool, border: bool) -> Tensor:
    """What each cell reads, `[B, 2, P]`; -1 reads nothing."""
    shapes = list(zip(sizes[::2], sizes[1::2], strict=True))
    levels = [axes.level(number, *shape) for number, shape in enumerate(shapes)]
    grids = [torch.stack(torch.broadcast_tensors(x.at, y.at), -1) for y, x in levels]
    points = torch.cat([grid.flatten(1, 2) for grid in grids], 1)
    mapped, _ = call("mesh_unzoom", _ops.mesh_map, mesh.double(), points, True, homography)
    lost = mesh.isnan().flatten(1).any(1)[:, None, None]
    parts = []
    for (y, x), shape, part in zip(levels, shapes, mapped.split([h * w for h, w in shapes], 1), strict=True):
        u, v = part.unflatten(1, shape).unbind(-1)
        reads = y.inside & x.inside
        if not border:
            reads = reads & (lost | (u >= -_SLACK) & (u <= 1 + _SLACK) & (v >= -_SLACK) & (v <= 1 + _SLACK))
        centres = torch.stack([x.centre(u), y.centre(v)], 1)
        parts.append(torch.where(reads[:, None], centres, -1).flatten(2))
    return torch.cat(parts, 2).to(mesh.dtype)


def mesh_zoom_frame(
    frame: Tensor,
    mesh: Tensor,
    size: Size,
    *,
    tile: Tile = "bilinear",
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
        mesh: `[B, h, w, 2]`, (x, y), float32 or float64.
        size: (height, width) of the result.
        tile: see `mesh_zoom`.
        mean: of each channel, in the frame's units (0 .. 255); None: 0.
        std: of each channel, likewise, not 0; None: 1.
        dtype: of the result: fp16, bf16, fp32 or fp64.
        antialias: see `mesh_zoom`.
        valid: integer `[B, 2]`, the part of the result that the warp spans; the rest is 0, also after normalisation.
        source_valid: integer `[B, 2]`, the part of each frame that is not padding.

    Returns:
        `[B, C, *size]`, contiguous (B = 1 for a single frame). Differentiable in the mesh.

    Raises:
        FastwarpError: wrong ranks, sizes, batch sizes, devices, a std of 0, an unknown tile.
        TypeError: not a uint8 tensor; `dtype` not floating point.
    """
    function = "mesh_zoom_frame"
    frame, target, scale, bias = frame_arguments(function, frame, size, mean, std, dtype)
    check_mesh(function, mesh, frame.shape[0], frame=frame)
    check_option(function, "tile", tile, TILES)
    extent = extents(function, "valid", valid, frame, 1, frame.shape[0], mesh)
    source_extent = extents(function, "source_valid", source_valid, frame, 1, frame.shape[0], mesh)
    sizes, source = list(target), list(frame.shape[1:3])
    options = (False, tile == "homography", True, extent, source_extent)
    windows, _ = call(function, _ops.mesh_positions, mesh, sizes, source, *options)
    if antialias:
        windows = call(function, _ops.grid_widen, windows, sizes, source, extent, source_extent)
    return call(function, _ops.grid_camera, frame.contiguous(), windows, sizes, scale, bias, dtype, source_extent)
