"""Launchers of the `mesh` family: T~ through a quad mesh and its inverse, on grids of targets and at points."""

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu import _mesh_backward as backward
from fastwarp.kernels.cpu import _mesh_forward as zoom
from fastwarp.kernels.cpu import _mesh_inverse as unzoom
from fastwarp.kernels.cpu import _mesh_points as at_points
from fastwarp.kernels.cpu._levels import shapes_of
from fastwarp.kernels.cpu._lz import lz_mesh, lz_mesh_backward
from fastwarp.kernels.cpu._memory import array, empty, real
from fastwarp.kernels.cpu._parallel import run
from fastwarp.kernels.layout import common_batch

__all__ = ["lz_mesh", "lz_mesh_backward", "map", "map_backward", "positions", "positions_backward"]

# Costs in values: of a target, of a tile that has targets, of a point.
_WORK = 4
_INVERSE_WORK = 8
_TILE_WORK = 300
_BACKWARD_WORK = 32
_POINT_WORK = 100


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
    """What each target reads, in source pixels `[B, 2, P]` (-1: nothing), and its tile `[B, P]` (-1: none)."""
    batch = common_batch(mesh, valid, source_valid)
    count = sum(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))
    windows = empty((batch, 2, count), mesh.dtype, torch.contiguous_format)
    tiles = empty((batch, count), torch.int32, torch.contiguous_format)
    if not tiles.numel():
        return windows, tiles
    shapes, results = shapes_of(sizes, source_sizes, valid, source_valid), (array(windows), array(tiles))
    if inverse:
        count = (mesh.shape[1] - 1) * (mesh.shape[2] - 1)
        areas = (h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))
        costs = np.array([_INVERSE_WORK * area + _TILE_WORK * min(area, count) + 1 for area in areas])
        options = (costs, homography, border, real(mesh.dtype))
        run(unzoom.inverse, (array(mesh), shapes, *options, *results), batch * int(costs.sum()))
    else:
        run(zoom.zoom_positions, (array(mesh), shapes, homography, *results), _WORK * tiles.numel())
    return windows, tiles


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
    """Gradient to the mesh. Bitwise the same for every number of threads."""
    result = mesh.new_empty(mesh.shape)
    by_tile = np.zeros((len(mesh), mesh.shape[1] - 1, mesh.shape[2] - 1, 4, 2))
    if tiles.numel():
        tensors = (array(t) for t in (grad, mesh, windows, tiles))
        shapes = shapes_of(sizes, source_sizes, valid, source_valid)
        run(backward.backward, (*tensors, shapes, inverse, homography, by_tile), _BACKWARD_WORK * tiles.numel())
    backward.sum_vertices(by_tile, array(result))
    return result


def map(mesh: Tensor, points: Tensor, inverse: bool, homography: bool) -> tuple[Tensor, Tensor]:
    """T~ or T~^-1 at normalised positions `[1 or B, N, 2]`, continued past the outline, and the tiles `[B, N]`."""
    batch, count = common_batch(mesh, points), points.shape[1]
    mapped = mesh.new_empty((batch, count, 2))
    tiles = mesh.new_empty((batch, count), dtype=torch.int32)
    if tiles.numel():
        args = (array(mesh), array(points), inverse, homography, array(mapped), array(tiles))
        run(at_points.map_points, args, _POINT_WORK * tiles.numel())
    return mapped, tiles


def map_backward(
    grad: Tensor, mesh: Tensor, points: Tensor, mapped: Tensor, tiles: Tensor, inverse: bool, homography: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to mesh and points. Bitwise the same for every number of threads."""
    grad_mesh, grad_points = mesh.new_empty(mesh.shape), points.new_empty(points.shape)
    if not tiles.numel():
        return grad_mesh.zero_(), grad_points
    args = (*(array(t) for t in (grad, mesh, points, mapped, tiles)), inverse, homography)
    work = _POINT_WORK * tiles.numel()
    run(at_points.points_backward, (*args, array(grad_points)), work)
    run(at_points.mesh_backward, (*args, array(grad_mesh)), work)
    return grad_mesh, grad_points
