"""Launchers of the `mesh` family: T~ through a quad mesh and its inverse, on grids of targets and at points."""

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu import _mesh_inverse
from fastwarp.kernels.cpu._extents import extents_array
from fastwarp.kernels.cpu._parallel import run

_WORK = 8  # a target's cost in values


def _array(tensor: Tensor) -> np.ndarray:
    """Contiguous: numba would compile once more for strided arrays."""
    return tensor.detach().contiguous().numpy()


def _real(dtype: torch.dtype) -> np.ndarray:
    return np.empty(0, np.float64 if dtype == torch.float64 else np.float32)


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
    batch = max(len(t) for t in (mesh, valid, source_valid) if t is not None)
    count = sum(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))
    windows = torch.empty((batch, 2, count), dtype=mesh.dtype)
    tiles = torch.empty((batch, count), dtype=torch.int32)
    shapes = (np.array(sizes, np.int64), np.array(source_sizes, np.int64))
    extents = (extents_array(valid), extents_array(source_valid))
    results = (_array(windows), _array(tiles))
    args = (_array(mesh), *shapes, homography, border, *extents, _real(mesh.dtype), *results)
    run(_mesh_inverse.inverse, args, _WORK * tiles.numel())
    return windows, tiles
