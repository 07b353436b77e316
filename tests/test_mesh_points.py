"""Numba kernels of the mesh family at points: T~ and its inverse, and their gradients."""

from __future__ import annotations

import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from mesh_cases import (
    ALL,
    F32,
    arrays,
    both_tiles,
    both_ways,
    dtypes,
    made,
    many,
    noise,
    points_like,
    some,
    tame,
    thin,
)
from tolerances import assert_close_to

from fastwarp.kernels.cpu import mesh as kernels
from fastwarp.reference import mesh as reference

pytestmark = pytest.mark.usefixtures("poisoned_results")

SMOOTH = ("identity", "separable", "lz", "lz_smooth", "sheared", "rotated", "mirrored", "trapezoid", "perspective")


@dtypes
@both_tiles
@many
@given(data=st.data(), batch=st.integers(1, 3), outside=st.booleans(), seed=own.seeds)
def test_map(dtype, homography, data, batch, outside, seed):
    mesh = data.draw(own.meshes(batch, dtype, ALL))
    low, high = (-0.5, 1.5) if outside and not homography else (0, 1)
    points = points_like(seed, mesh, data.draw(st.sampled_from((1, batch))), 60, False, low, high)
    mapped, tiles = kernels.map(mesh, points, False, homography)
    right, owners = reference.map(*arrays(mesh, points), False, homography)
    assert mapped.dtype == dtype
    assert tiles.dtype == torch.int32
    np.testing.assert_array_equal(tiles.numpy(), owners)
    assert_close_to(right, mapped, dtype, "mesh_map")


def owned_points(mesh: np.ndarray, points: np.ndarray) -> np.ndarray:
    tiles, _ = reference.owners(mesh, points[:, 1], points[:, :1])
    return tiles[:, 0]


@dtypes
@both_tiles
@many
@given(data=st.data(), batch=st.integers(1, 3), seed=own.seeds)
def test_inverse_map_within_the_mesh(dtype, homography, data, batch, seed):
    mesh = data.draw(own.meshes(batch, dtype, ALL))
    points = points_like(seed, mesh, data.draw(st.sampled_from((1, batch))), 60, True, 0, 1)
    mapped, tiles = kernels.map(mesh, points, True, homography)
    right, _ = reference.map(*arrays(mesh, points), True, homography)
    assert mapped.dtype == dtype
    for b in range(len(mapped)):
        array = mesh[b % len(mesh)].double().numpy()
        owner = owned_points(array, points[b % len(points)].double().numpy())
        owned = np.flatnonzero(owner >= 0)
        np.testing.assert_array_equal(tiles[b].numpy()[owned], owner[owned])
        corners, local = reference.corners_of(array, owner[owned]), []
        for positions in (mapped[b].double().numpy(), right[b]):
            cells = np.array(array.shape[1::-1]) - 1
            local.append(positions[owned] * cells - np.stack(np.divmod(owner[owned], cells[0])[::-1], -1))
        # In a tile without area a solution can be anywhere along it.
        simple = (np.abs(local[1] - 0.5).max(1, initial=0) <= 0.51) & ~thin(corners) & tame(corners, homography)
        # A position is rounded, and a steep T~ multiplies that.
        jacobian, _ = reference.derivatives(corners, *local[1].T, homography)
        slope = np.maximum(np.abs(jacobian * cells).sum(-1), 1)
        ours, expected = ((reference.patch(corners, *l.T, homography) / slope)[simple] for l in local)
        assert_close_to(expected, ours, dtype, "mesh_map")
        assert np.isfinite(mapped[b].numpy()[owned][simple]).all()


@dtypes
@both_tiles
@some
@given(seed=own.seeds, kind=st.sampled_from(SMOOTH), shape=st.tuples(own.mesh_sides, own.mesh_sides))
def test_inverse_map_outside_the_mesh(dtype, homography, seed, kind, shape):
    """Where one tile continues best by far: the same tile, the same place."""
    mesh = made(kind, seed, shape, dtype)
    points = points_like(seed, mesh, 1, 200, True, -0.2, 1.2)
    mapped, tiles = kernels.map(mesh, points, True, homography)
    right, owners = reference.map(*arrays(mesh, points), True, homography)
    same = (tiles.numpy() == owners) & (owners >= 0)
    assert (tiles.numpy() == owners).mean() > 0.9  # but for ties on the continued edges
    again = kernels.map(mesh, mapped, False, homography)[0]
    assert torch.equal(torch.isfinite(mapped), torch.from_numpy(np.isfinite(right)))
    slope = np.abs(right[same]).max(initial=1)
    if not homography:
        assert np.abs(mapped.double().numpy() - right)[same].max(initial=0) <= slope**2 * (
            1e-3 if dtype == F32 else 1e-9
        )
    assert np.isfinite(again.numpy()[same]).all()


@dtypes
@both_ways
def test_points_that_are_nan(dtype, inverse):
    mesh = made("jittered", 3, (4, 5), dtype, 2)
    points = torch.full((2, 5, 2), 0.4, dtype=dtype)
    points[0, 1, 0] = points[1, 2, 1] = float("nan")
    mapped, _ = kernels.map(mesh, points, inverse, False)
    lost = torch.zeros(2, 5, 2, dtype=torch.bool)
    lost[0, 1] = lost[1, 2] = True
    if inverse:
        assert torch.equal(torch.isnan(mapped), lost)
    else:
        assert torch.isfinite(mapped[~lost]).all()
        assert torch.isnan(mapped[lost]).any()


@dtypes
@both_tiles
@both_ways
@many
@given(data=st.data(), batch=st.integers(1, 3), seed=own.seeds)
def test_gradients_of_points(dtype, homography, inverse, data, batch, seed):
    mesh = data.draw(own.meshes(batch, dtype))
    points = points_like(seed, mesh, data.draw(st.sampled_from((1, batch))), 40, inverse, 0.0, 1.0)
    mapped, tiles = kernels.map(mesh, points, inverse, homography)
    grad = noise(seed + 1, mapped)
    cells = np.array(mesh.shape[2:0:-1]) - 1
    for b in range(len(mapped)):
        if inverse:
            local = mapped[b].double().numpy() * cells - np.stack(np.divmod(tiles[b].numpy(), cells[0])[::-1], -1)
            corners = reference.corners_of(mesh[b % len(mesh)].double().numpy(), tiles[b].numpy())
            jacobian, _ = reference.derivatives(corners, *local.T, homography)
            sizes = np.sqrt((jacobian**2).sum(-2).prod(-1))
            with np.errstate(all="ignore"):
                keep = np.abs(reference.cross(jacobian[..., 0], jacobian[..., 1])) > 1e-5 * sizes
            grad[b] *= torch.from_numpy(keep)[:, None]
    ours = kernels.map_backward(grad, mesh, points, mapped, tiles, inverse, homography)
    right = reference.map_backward(*arrays(grad, mesh, points, mapped, tiles), inverse, homography)
    for a, b, like in zip(ours, right, (mesh, points), strict=True):
        assert a.dtype == like.dtype
        assert a.shape == like.shape
        assert_close_to(b, a, dtype, "mesh_grad")
