"""Meshes from what users have: offsets of a network, a function of position, pairs of control points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastwarp._checks import as_geometry
from fastwarp._constants import constant
from fastwarp.errors import check_size, check_tensor, check_together, fail
from fastwarp.functional.separable import Size


def _grid(shape: tuple[int, int], dtype: torch.dtype, device: Any) -> Tensor:
    """Grid(h) x Grid(w), (x, y) in [0, 1]: `[h, w, 2]`."""
    y, x = (torch.linspace(0, 1, n, dtype=dtype, device=device) for n in shape)
    return torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)


def _mesh_shape(function: str, shape: Any) -> tuple[int, int]:
    height, width = check_size(function, "shape", shape)
    if min(height, width) < 2:
        raise fail(function, "shape", (height, width), "at least 2 x 2 vertices")
    return height, width


def offset_mesh(offsets: Tensor, source_size: Size | None = None) -> Tensor:
    """The mesh whose vertices are moved from a uniform grid by offsets, as networks predict them.

    Args:
        offsets: `[B, h, w, 2]`, (x, y), floating point, h, w >= 2; half precision is taken up to float32.
        source_size: None: offsets are in cells of the mesh, and the first and last vertices lie on the first and last
            pixel (align_corners=True). (height, width) of the source in pixels: vertex (i, j) is pixel (i, j) of an
            image of h x w pixels and reads the source at `(j + 0.5 + offset) W / w - 0.5`, so that offsets are in
            pixels of the small image (align_corners=False), as in ZoomDet.

    Returns:
        `[B, h, w, 2]`, (x, y), float32 or float64: what `fastwarp.MeshWarp` takes. Differentiable.

    Raises:
        FastwarpError: wrong shape or size.
        TypeError: not a floating-point tensor.

    Examples:
        >>> import torch
        >>> offset_mesh(torch.full((1, 2, 3, 2), 0.5))[0, 0, :, 0]
        tensor([0.2500, 0.7500, 1.2500])
    """
    check_tensor("offset_mesh", "offsets", offsets, "[B, h, w, 2]", floating=True)
    if offsets.shape[3] != 2 or min(offsets.shape[1:3]) < 2:
        raise fail("offset_mesh", "offsets", f"of shape {list(offsets.shape)}", "[B, h, w, 2], (x, y), with h, w >= 2")
    moved = as_geometry(offsets)
    height, width = moved.shape[1:3]
    options: dict[str, Any] = {"dtype": torch.float64, "device": moved.device}
    cells = constant((width - 1, height - 1), moved, torch.float64)
    if source_size is None:
        return (_grid((height, width), **options) + moved / cells).to(moved.dtype)
    source = constant(check_size("offset_mesh", "source_size", source_size)[::-1], moved, torch.float64)
    pixels = _grid((height, width), **options) * cells + 0.5 + moved
    return ((pixels * source / (cells + 1) - 0.5) / (source - 1).clamp(min=1)).to(moved.dtype)


def function_mesh(
    function: Callable[[Tensor], Tensor],
    shape: Size = (31, 51),
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """The mesh of a function: T at the vertices, bilinear in between.

    Args:
        function: takes positions `[h, w, 2]` of the zoomed image, (x, y) in [0, 1] with align_corners=True, and returns
            the positions of the source that it reads there, `[h, w, 2]` or `[B, h, w, 2]`.
        shape: (h, w), the number of vertices.
        dtype: of the positions: float32 or float64.
        device: of the positions.

    Returns:
        `[1 or B, h, w, 2]`, differentiable in what the function is.

    Raises:
        FastwarpError: wrong sizes, or the function returns another shape.
        TypeError: the function does not return a floating-point tensor.

    Examples:
        >>> import torch
        >>> mirrored = function_mesh(lambda p: torch.stack([1 - p[..., 0], p[..., 1]], -1), (2, 3))
        >>> mirrored[0, 0, :, 0]
        tensor([1.0000, 0.5000, 0.0000])
    """
    if not callable(function):
        raise TypeError(f"function_mesh: function is {type(function).__name__}, expected a callable")
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"function_mesh: dtype is {dtype}, expected float32 or float64")
    height, width = _mesh_shape("function_mesh", shape)
    mesh = function(_grid((height, width), dtype, device))
    if isinstance(mesh, Tensor) and mesh.dim() == 3:
        mesh = mesh[None]
    check_tensor("function_mesh", "what function returns", mesh, "[B, h, w, 2]", floating=True)
    if tuple(mesh.shape[1:]) != (height, width, 2):
        expected = f"[{height}, {width}, 2] or [B, {height}, {width}, 2]"
        raise fail("function_mesh", "what function returns", f"of shape {list(mesh.shape)}", expected)
    return as_geometry(mesh)


def control_point_mesh(zoomed: Tensor, source: Tensor, shape: Size = (31, 51)) -> Tensor:
    """The mesh of the thin-plate spline through pairs of points: the least bent map that takes each `zoomed` point to
    its `source` point (Bookstein, "Principal Warps", PAMI 1989). Computed in float64.

    Args:
        zoomed: `[B, N, 2]`, (x, y) in [0, 1] with align_corners=True, N >= 3, no two equal, not all on a line.
        source: `[B, N, 2]`, likewise of the source; a batch of 1 of either is shared.
        shape: (h, w), the number of vertices.

    Returns:
        `[B, h, w, 2]` in the wider dtype of the two, at least float32. Differentiable in both; exact at control points
        that are vertices, interpolated bilinearly elsewhere.

    Raises:
        FastwarpError: wrong shapes, batch sizes, devices; on CPUs also points through which there is no such spline.
        TypeError: not floating-point tensors.

    Examples:
        >>> import torch
        >>> corners = torch.tensor([[[0.0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]]])
        >>> moved = corners.clone()
        >>> moved[0, 4] = torch.tensor([0.6, 0.5])
        >>> control_point_mesh(corners, moved, (3, 3))[0, 1, 1]
        tensor([0.6000, 0.5000])
    """
    name = "control_point_mesh"
    for argument, points in (("zoomed", zoomed), ("source", source)):
        check_tensor(name, argument, points, "[B, N, 2]", floating=True)
        if points.shape[2] != 2 or points.shape[1] < 3:
            raise fail(name, argument, f"of shape {list(points.shape)}", "[B, N, 2], (x, y), with N >= 3")
    if zoomed.shape[1] != source.shape[1]:
        raise fail(name, "source", f"{source.shape[1]} points", f"{zoomed.shape[1]}, one for each zoomed point")
    check_together(name, zoomed=zoomed, source=source)
    height, width = _mesh_shape(name, shape)
    dtype = torch.promote_types(as_geometry(zoomed).dtype, as_geometry(source).dtype)
    with torch.autocast(zoomed.device.type, enabled=False):
        batch, points = max(zoomed.shape[0], source.shape[0]), zoomed.double()
        grid = _grid((height, width), torch.float64, zoomed.device).flatten(0, 1)
        affine = torch.cat([torch.ones_like(points[..., :1]), points], -1)
        system = torch.cat(
            [torch.cat([_bending(points, points), affine], 2), torch.nn.functional.pad(affine.mT, (0, 3))], 1
        )
        values = torch.nn.functional.pad(source.double(), (0, 0, 0, 3))
        weights, info = torch.linalg.solve_ex(system.expand(batch, -1, -1), values.expand(batch, -1, -1))
        if info.device.type == "cpu" and not torch.compiler.is_compiling() and (info != 0).any():
            image = int(info.nonzero()[0])
            raise fail(name, f"zoomed[{image}]", "points that are equal or on a line", "points that determine a spline")
        at = torch.cat([_bending(grid[None], points), torch.ones_like(grid[:, :1]).expand(len(points), -1, 1)], 2)
        at = torch.cat([at, grid.expand(len(points), -1, -1)], 2)
        return (at @ weights).unflatten(1, (height, width)).to(dtype)


def _bending(at: Tensor, points: Tensor) -> Tensor:
    """`r^2 log r` for the distances r of places `[B, M, 2]` from points `[B, N, 2]`: `[B, M, N]`, 0 at r = 0."""
    squares = (at[:, :, None] - points[:, None]).square().sum(-1)
    return torch.special.xlogy(squares, torch.where(squares == 0, 1.0, squares)) / 2
