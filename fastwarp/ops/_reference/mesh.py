"""Reference launchers of the `mesh` family; see `fastwarp.kernels.cpu.mesh` for the arguments."""

from typing import Any

import torch
from torch import Tensor

from fastwarp.ops._reference import call, to_tensor
from fastwarp.reference import mesh as reference


def _with_tiles(arrays: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    return to_tensor(arrays[0], like), to_tensor(arrays[1], torch.empty(0, dtype=torch.int32, device=like.device))


def lz_mesh(saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    """Saliency -> mesh."""
    return to_tensor(call(reference.lz_mesh, saliency, fwhm, anti_crop), saliency)


def lz_mesh_backward(grad: Tensor, saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    """Gradient to the saliency."""
    return to_tensor(call(reference.lz_mesh_backward, grad, saliency, fwhm, anti_crop), saliency)


def positions(mesh: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """What each target reads, and its tile."""
    return _with_tiles(call(reference.positions, mesh, *args), mesh)


def positions_backward(grad: Tensor, mesh: Tensor, *args: Any) -> Tensor:
    """Gradient to the mesh."""
    return to_tensor(call(reference.positions_backward, grad, mesh, *args), mesh)


def map(mesh: Tensor, points: Tensor, inverse: bool, homography: bool) -> tuple[Tensor, Tensor]:
    """T~ or its inverse at points, and their tiles."""
    return _with_tiles(call(reference.map, mesh, points, inverse, homography), mesh)


def map_backward(grad: Tensor, mesh: Tensor, points: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """Gradients to mesh and points."""
    by_mesh, by_points = call(reference.map_backward, grad, mesh, points, *args)
    return to_tensor(by_mesh, mesh), to_tensor(by_points, points)
