"""Grids, points, magnification and flaws of meshes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

import fastwarp.ops  # noqa: F401  (registers torch.ops.fastwarp)
from fastwarp._checks import as_geometry, check_mesh, check_option
from fastwarp.errors import call, check_size, check_together
from fastwarp.functional.geometry import check_points, from_pixels, image_sizes, to_pixels
from fastwarp.functional.mesh import TILES, Tile
from fastwarp.functional.separable import Size
from fastwarp.ops._dense_mesh import corners, local, tile_map

_ops = torch.ops.fastwarp


def _positions(function: str, mesh: Tensor, size: Size, inverse: bool, tile: str) -> tuple[Tensor, Tensor]:
    """Positions in [0, 1] `[B, H, W, 2]` of a grid, and the tiles `[B, H, W]` they are in; -1 and -1 for none."""
    check_mesh(function, mesh)
    check_option(function, "tile", tile, TILES)
    height, width = check_size(function, "size", size)
    options = (bool(inverse), tile == "homography", False, None, None)
    windows, tiles = call(function, _ops.mesh_positions, mesh, [height, width], [2, 2], *options)
    return windows.mT.unflatten(1, (height, width)), tiles.unflatten(1, (height, width))


def mesh_grid(mesh: Tensor, size: Size, *, inverse: bool = False, tile: Tile = "bilinear") -> Tensor:
    """The sampling grid of a zoom, or of an unzoom, for `F.grid_sample(..., align_corners=True)`.

    Args:
        mesh: `[B, h, w, 2]`, (x, y), float32 or float64.
        size: (height, width) of the grid.
        inverse: T~^-1 instead of T~ (LZU A.1-A.2). Points outside the mesh are at -3, where `padding_mode="zeros"`
            gives 0.
        tile: `"bilinear"` or `"homography"`, see `fastwarp.MeshWarp`.

    Returns:
        `[B, H, W, 2]`, last dimension (x, y) in [-1, 1], the dtype of the mesh. Differentiable twice in the mesh.

    Raises:
        FastwarpError: wrong ranks or sizes, an unknown tile.
        TypeError: wrong types or dtypes.
    """
    positions, _ = _positions("mesh_grid", mesh, size, inverse, tile)
    # 2 p - 1; targets without a tile are at -1. In place where nobody else needs the positions: for a batch of large
    # grids fresh memory costs more than the inverse.
    return torch.rsub(positions, -1, alpha=-2) if positions.requires_grad else positions.mul_(2).sub_(1)


def mesh_inside(mesh: Tensor, size: Size) -> Tensor:
    """Where Grid(size) of the source is covered by the mesh: what an unzoom fills from the zoomed map (LZU eq. 6).

    The outline counts as a thousandth of its tiles further out, so that no rounding of its vertices loses targets.

    Args:
        mesh: `[B, h, w, 2]`, (x, y), float32 or float64.
        size: (height, width).

    Returns:
        bool `[B, H, W]`; all true for an anti-crop warp.
    """
    positions, _ = _positions("mesh_inside", mesh, size, True, "bilinear")
    return ~(positions[..., 0] < 0)  # NaN is inside: an unzoom fills it


def mesh_magnification(mesh: Tensor, size: Size, *, tile: Tile = "bilinear") -> Tensor:
    """How much larger a zoom shows each place of the source than uniform resizing would, by area.

    `1 / |det dT~|` at T~^-1(Grid(size)): the number 4 means twice as high and twice as wide; its square root is the
    linear magnification of LZU fig. 6.

    Args:
        mesh: `[B, h, w, 2]`, (x, y), float32 or float64.
        size: (height, width) of the map, over the source.
        tile: `"bilinear"` or `"homography"`, see `fastwarp.MeshWarp`.

    Returns:
        `[B, H, W]`, 1 everywhere for the identity; 0 where the zoom shows nothing and where the mesh has no area.
    """
    positions, tiles = _positions("mesh_magnification", mesh, size, True, tile)
    height, width = mesh.shape[1:3]
    flat, positions = tiles.flatten(1), positions.flatten(1, 2)
    f, g = local(positions, flat, (height, width))
    _, by_f, by_g = tile_map(corners(mesh, flat), f, g, tile == "homography")
    area = (by_f[..., 0] * by_g[..., 1] - by_f[..., 1] * by_g[..., 0]).abs() * ((height - 1) * (width - 1))
    shown = (flat >= 0) & (area > 0)
    result = torch.where(shown, 1.0, 0.0) / torch.where(shown, area, 1.0)
    result = torch.where(positions[..., 0].isnan(), torch.nan, result)
    return result.unflatten(1, tiles.shape[1:]).to(mesh.dtype)


def mesh_map(mesh: Tensor, positions: Tensor, *, inverse: bool = False, tile: Tile = "bilinear") -> Tensor:
    """T~ of a mesh, or its inverse (LZU A.1-A.2), at any positions.

    Args:
        mesh: `[B, h, w, 2]`, (x, y), float32 or float64; a batch of 1 is shared. With a NaN in a vertex all results
            are NaN.
        positions: `[B, N, 2]`, (x, y), the dtype of the mesh. Past [0, 1], and past the outline of the mesh, the tiles
            at its edge continue.
        inverse: evaluate T~^-1.
        tile: `"bilinear"` or `"homography"`, see `fastwarp.MeshWarp`.

    Returns:
        `[B, N, 2]` in the dtype of the mesh; NaN where no continuation reaches. Differentiable twice in both arguments.

    Raises:
        FastwarpError: wrong rank, batch sizes or devices, an unknown tile.
        TypeError: wrong dtype.

    Examples:
        >>> import torch
        >>> mesh = torch.tensor([[[[0.0, 0.0], [1.0, 0.0]], [[0.0, 0.5], [1.0, 1.0]]]])
        >>> mesh_map(mesh, torch.tensor([[[0.5, 0.5]]]))
        tensor([[[0.5000, 0.3750]]])
    """
    check_mesh("mesh_map", mesh)
    check_option("mesh_map", "tile", tile, TILES)
    check_points("mesh_map", "positions", positions, dtypes=(mesh.dtype,))
    check_together("mesh_map", mesh=mesh, positions=positions)
    return call("mesh_map", _ops.mesh_map, mesh, positions, bool(inverse), tile == "homography")[0]


def mesh_map_points(
    points: Tensor,
    mesh: Tensor,
    source_size: Any,
    size: Any,
    *,
    inverse: bool = False,
    tile: Tile = "bilinear",
) -> Tensor:
    """Maps points between source and zoomed image, in continuous pixel coordinates: pixel i covers [i, i + 1].

    Args:
        points: `[B, N, 2]`, (x, y), floating point. Past the mesh the tiles at its edge continue.
        mesh: `[B, h, w, 2]`, (x, y), float32 or float64.
        source_size: (height, width) of the source in pixels, or integer `[B, 2]` for padded batches.
        size: likewise of the zoomed image.
        inverse: False: zoomed -> source (T~). True: source -> zoomed (T~^-1).
        tile: `"bilinear"` or `"homography"`, see `fastwarp.MeshWarp`.

    Returns:
        `[B, N, 2]`, float32 or float64. Differentiable twice in points and mesh.

    Raises:
        FastwarpError: wrong ranks, sizes, batch sizes, devices, an unknown tile.
        TypeError: wrong types or dtypes.

    Examples:
        >>> import torch
        >>> mesh = torch.tensor([[[[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 1.0]]]])
        >>> mesh_map_points(torch.tensor([[[5.5, 5.5]]]), mesh, (101, 101), (11, 11))
        tensor([[[50.5000, 50.5000]]])
    """
    check_points("mesh_map_points", "points", points, floating=True)
    return map_points("mesh_map_points", points, mesh, source_size, size, inverse, tile)


def map_points(
    function: str, points: Tensor, mesh: Tensor, source_size: Any, size: Any, inverse: bool, tile: str
) -> Tensor:
    """`mesh_map_points` of points that `function` has checked."""
    source_size, size, per_image = image_sizes(function, source_size, size)
    check_mesh(function, mesh, points=points, **per_image)
    check_option(function, "tile", tile, TILES)
    dtype = torch.promote_types(as_geometry(points).dtype, mesh.dtype)
    start, end = (source_size, size) if inverse else (size, source_size)
    positions = from_pixels(points.to(dtype), start)
    mapped = call(function, _ops.mesh_map, mesh.to(dtype), positions, bool(inverse), tile == "homography")[0]
    return to_pixels(mapped, end)


@dataclasses.dataclass(frozen=True, eq=False)
class MeshReport:
    """What is wrong with a mesh; `str()` is the same as text.

    Attributes:
        not_finite: int64 `[N, 3]`, (image, row, column) of vertices that are NaN or infinite.
        folded: int64 `[N, 3]`, (image, row, column) of tiles whose Jacobian is not positive at a corner: mirrored,
            folded over, not convex, or triangles, which cropping warps have at their outline.
        zero_area: int64 `[N, 3]`, tiles that are collapsed to a line or a point, as those of cropping warps may be.
        outside: int64 `[N, 3]`, vertices outside [0, 1].
        ok: whether T~ covers no place twice: every vertex is finite, no Jacobian is negative.
    """

    not_finite: Tensor
    folded: Tensor
    zero_area: Tensor
    outside: Tensor
    ok: bool

    def __str__(self) -> str:
        kinds = {
            "vertices that are not finite": self.not_finite,
            "folded tiles": self.folded,
            "tiles without area": self.zero_area,
            "vertices outside [0, 1]": self.outside,
        }
        lines = []
        for kind, found in kinds.items():
            if len(found):
                some = "; ".join("image {}: [{}, {}]".format(*place) for place in found[:3].tolist())
                lines.append(f"{len(found)} {kind} ({some}{'; ...' if len(found) > 3 else ''})")
        return ", ".join(lines) or "no flaws"


def mesh_report(mesh: Tensor) -> MeshReport:
    """Looks for fold-overs, collapsed tiles and vertices outside the source. Waits for a GPU.

    Args:
        mesh: `[B, h, w, 2]`, (x, y), float32 or float64.

    Returns:
        Where they are. Corners closer than the rounding of the mesh's dtype count as one.

    Examples:
        >>> import torch
        >>> mesh = torch.tensor([[[[0.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 1.0]]]])
        >>> print(mesh_report(mesh))
        1 folded tiles (image 0: [0, 0])
    """
    check_mesh("mesh_report", mesh)
    finite = torch.isfinite(mesh).all(-1)
    m = mesh.detach().double()
    a, b, c, d = m[:, :-1, :-1], m[:, :-1, 1:], m[:, 1:, :-1], m[:, 1:, 1:]
    edges = {"top": b - a, "left": c - a, "bottom": d - c, "right": d - b}
    rounding = torch.finfo(mesh.dtype).eps * torch.stack([e.abs().amax(-1) for e in edges.values()]).amax(0)
    jacobians = torch.stack(
        [
            edges[x][..., 0] * edges[y][..., 1] - edges[x][..., 1] * edges[y][..., 0]
            for x in ("top", "bottom")
            for y in ("left", "right")
        ]
    )
    zero_area = (jacobians.abs() <= rounding).all(0)
    folded = (jacobians <= rounding).any(0) & ~zero_area
    outside = ((mesh < 0) | (mesh > 1)).any(-1)
    ok = bool(finite.all() & (jacobians >= -rounding).all())
    return MeshReport((~finite).nonzero(), folded.nonzero(), zero_area.nonzero(), outside.nonzero(), ok)
