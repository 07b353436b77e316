"""Meshes and targets that the tests of the mesh kernels share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from fastwarp.reference import mesh as reference
from fastwarp.reference._mesh_tiles import projective

many = settings(deadline=None, max_examples=120)
some = settings(deadline=None, max_examples=40)

F32, F64 = torch.float32, torch.float64
ALL = (*own.MESHES, *own.DEGENERATE)

dtypes = pytest.mark.parametrize("dtype", [F32, F64], ids=["fp32", "fp64"])
both_tiles = pytest.mark.parametrize("homography", [False, True], ids=["bilinear", "homography"])
both_ways = pytest.mark.parametrize("inverse", [False, True], ids=["zoom", "unzoom"])


def arrays(*values: Any) -> list[Any]:
    return [
        v.double().numpy()
        if isinstance(v, Tensor) and v.is_floating_point()
        else np.asarray(v)
        if isinstance(v, Tensor)
        else v
        for v in values
    ]


def noise(seed: int, like: Tensor) -> Tensor:
    return own.values(seed, tuple(like.shape), like.dtype)


def made(kind: str, seed: int, shape: tuple[int, int], dtype: torch.dtype, batch: int = 1) -> Tensor:
    return torch.from_numpy(own.mesh(kind, seed, batch, *shape)).to(dtype)


def tame(corners: np.ndarray, homography: bool) -> np.ndarray:
    """Tiles but for homographies whose corners have too different weights: rounding a position moves T~ far there."""
    if not homography:
        return np.full(len(corners), True)
    p, q, has_one = projective(corners)
    with np.errstate(invalid="ignore"):
        weights = np.stack([np.ones(len(p)), 1 + p, 1 + q, 1 + p + q])
    return ~has_one | (weights.min(0) > 2**-8 * weights.max(0))


def thin(corners: np.ndarray) -> np.ndarray:
    """Tiles that are all but a line at some corner."""
    ring = corners[:, [0, 1, 3, 2]]
    sides = np.roll(ring, -1, 1) - ring
    lengths = np.linalg.norm(sides, axis=2)
    turns = np.abs(reference.cross(sides, np.roll(sides, -1, 1)))
    return (turns <= 1e-3 * lengths.max(1, keepdims=True) ** 2).any(1)


def points_like(seed: int, mesh: Tensor, batch: int, n: int, inverse: bool, low: float, high: float) -> Tensor:
    """Positions `[batch, n, 2]`: anywhere, and some on vertices, where up to four tiles meet."""
    points = torch.from_numpy(own.uniform(seed, batch, n, 2, low=low, high=high)).to(mesh.dtype)
    h, w = mesh.shape[1:3]
    vertices = mesh[0] if inverse else made("identity", 0, (h, w), mesh.dtype)[0]
    some_ = vertices.reshape(-1, 2)[: n // 3]
    points[:, : len(some_)] = torch.where(torch.isfinite(some_), some_, 0.3)
    return points


def flat(sizes: Any) -> list[int]:
    return [side for size in sizes for side in size]


@st.composite
def arguments(draw: Any, dtype: torch.dtype, kinds: tuple[str, ...] = ALL, sides: Any = own.sides) -> tuple[Any, ...]:
    """mesh, sizes, source_sizes, valid, source_valid."""
    batch = draw(st.integers(1, 3))
    mesh = draw(own.meshes(batch, dtype, kinds))
    shapes = st.tuples(sides, sides)
    sizes = draw(st.lists(shapes, min_size=1, max_size=3))
    sources = [draw(shapes) for _ in sizes]
    valid, source_valid = draw(own.extents(batch, sizes, 0)), draw(own.extents(batch, sources, 0))
    return mesh, flat(sizes), flat(sources), valid, source_valid


def levels(args: tuple[Any, ...]) -> Iterator[tuple[int, slice, tuple[int, ...]]]:
    mesh, sizes, sources, valid, source_valid = args
    batch = reference._common(*arrays(mesh, valid, source_valid))
    return reference._each_level(batch, sizes, sources, *arrays(valid, source_valid))


def local_positions(windows: np.ndarray, tiles: np.ndarray, source: tuple[int, int], mesh: np.ndarray) -> np.ndarray:
    """(f, g) `[N, 2]` of windows `[2, N]` in their tiles."""
    cells = np.array(mesh.shape[1::-1]) - 1
    span = np.array([source[1] - 1, source[0] - 1], np.float64)
    zoomed = np.divide(windows.T, span, out=np.full(windows.T.shape, np.nan), where=span > 0)
    return zoomed * cells - np.stack(np.divmod(tiles, cells[0])[::-1], -1)
