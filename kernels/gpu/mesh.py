"""Launchers of the `mesh` family: T~ through the quads of a mesh, its inverse, and their gradients.

Positions on grids are in `_mesh_positions` and `_mesh_gradient`, at points in `_mesh_map`; `_mesh_tiles` has what
happens within a tile. Arithmetic is float64, which runs at half the rate of float32 on the GPUs of data centres, but
for the inverse of float32 meshes on grids, where there are many targets.
"""

from torch import Tensor

from fastwarp.kernels.gpu import _mesh_gradient, _mesh_map, _mesh_positions
from fastwarp.kernels.gpu._launch import device_of
from fastwarp.kernels.gpu._mesh_lz import lz_mesh, lz_mesh_backward

__all__ = ["lz_mesh", "lz_mesh_backward", "map", "map_backward", "positions", "positions_backward"]


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def positions(
    mesh: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    homography: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What each target reads: x and y in source pixels `[B, 2, P]` (-1: nothing), and its tile `[B, P]` (-1: none)."""
    with device_of(mesh):
        return _mesh_positions.launch(
            *(mesh.contiguous(), sizes, source_sizes, inverse, homography, border),
            *(_contiguous(valid), _contiguous(source_valid)),
        )


def positions_backward(
    grad: Tensor,
    mesh: Tensor,
    windows: Tensor,
    tiles: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    homography: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> Tensor:
    """Gradient to the mesh, from that of the windows. Targets without a tile have none."""
    grad, mesh, windows, tiles = (t.contiguous() for t in (grad, mesh, windows, tiles))
    options = (sizes, source_sizes, inverse, homography)
    with device_of(mesh):
        return _mesh_gradient.launch(
            grad, mesh, windows, tiles, *options, _contiguous(valid), _contiguous(source_valid)
        )


def map(mesh: Tensor, points: Tensor, inverse: bool, homography: bool) -> tuple[Tensor, Tensor]:
    """T~ or T~^-1 at normalised positions `[1 or B, N, 2]`, continued past the outline, and the tiles `[B, N]`."""
    with device_of(mesh):
        return _mesh_map.launch(mesh.contiguous(), points.contiguous(), inverse, homography)


def map_backward(
    grad: Tensor, mesh: Tensor, points: Tensor, mapped: Tensor, tiles: Tensor, inverse: bool, homography: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to mesh and points. Points without a tile, or where J is singular (inverse), have none."""
    grad, mesh, points, mapped, tiles = (t.contiguous() for t in (grad, mesh, points, mapped, tiles))
    with device_of(mesh):
        return _mesh_map.launch_backward(grad, mesh, points, mapped, tiles, inverse, homography)
