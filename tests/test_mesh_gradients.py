"""Numba kernels of the mesh family: the gradient of positions on grids to the mesh."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import given
from hypothesis import strategies as st
from mesh_cases import (
    ALL,
    F64,
    arguments,
    arrays,
    both_tiles,
    both_ways,
    dtypes,
    levels,
    local_positions,
    made,
    many,
    noise,
)
from tolerances import assert_close_to
from torch import Tensor

from fastwarp.kernels.cpu import mesh as kernels
from fastwarp.reference import mesh as reference

pytestmark = pytest.mark.usefixtures("poisoned_results")


def regular(
    grad: Tensor, windows: Tensor, tiles: Tensor, args: tuple[Any, ...], inverse: bool, homography: bool
) -> Tensor:
    """`grad` with zeros where the derivative hangs on rounding: at a clamp, in a tile that has nearly no area, and in
    sources of one column or row, which tell nothing of the position."""
    result, mesh = grad.clone(), args[0].double().numpy()
    for b, at, (th, tw, eh, ew, sh, sw) in levels(args):
        array, owner = mesh[b % len(mesh)], tiles[b, at].numpy()
        owned = np.flatnonzero(owner >= 0)
        keep = np.zeros((2, th * tw), bool)
        corners = reference.corners_of(array, owner[owned])
        if inverse and min(sh, sw) > 1:
            local = local_positions(windows[b, :, at].double().numpy()[:, owned], owner[owned], (sh, sw), array)
            jacobian, _ = reference.derivatives(corners, *local.T, homography)
            sizes = np.sqrt((jacobian**2).sum(-2).prod(-1))
            with np.errstate(all="ignore"):
                keep[:, owned] = np.abs(reference.cross(jacobian[..., 0], jacobian[..., 1])) > 1e-5 * sizes
        elif not inverse:
            rows, columns = np.divmod(owned, tw)
            (_, g), (_, f) = (reference._zoomed_targets(e, n) for e, n in zip((eh, ew), array.shape[:2], strict=True))
            value = reference.patch(corners, f[columns], g[rows], homography)
            clamp = np.minimum(np.abs(value), np.abs(value - 1)) < 1e-9
            keep[:, owned] = ~clamp.T
        result[b, :, at] *= torch.from_numpy(keep)
    return result


def check_backward(args: tuple[Any, ...], inverse: bool, homography: bool, seed: int) -> None:
    mesh, sizes, sources, valid, source_valid = args
    windows, tiles = kernels.positions(mesh, sizes, sources, inverse, homography, False, valid, source_valid)
    grad = regular(noise(seed, windows), windows, tiles, args, inverse, homography)
    rest = (sizes, sources, inverse, homography)
    ours = kernels.positions_backward(grad, mesh, windows, tiles, *rest, valid, source_valid)
    assert ours.dtype == mesh.dtype
    assert ours.shape == mesh.shape
    right = reference.positions_backward(*arrays(grad, mesh, windows, tiles), *rest, *arrays(valid, source_valid))
    assert_close_to(right, ours, mesh.dtype, "mesh_grad")


@dtypes
@both_tiles
@both_ways
@many
@given(data=st.data(), seed=own.seeds)
def test_gradient_to_the_mesh(dtype, homography, inverse, data, seed):
    args = data.draw(arguments(dtype, (*own.MESHES, "zero_area", "nonconvex")))
    check_backward(args, inverse, homography, seed)


@pytest.mark.parametrize("kind", ["lz", "cropping", "rotated", "mirrored", "trapezoid", "folded", "nonconvex"])
@dtypes
@both_tiles
@both_ways
def test_gradient_of_many_targets(dtype, homography, inverse, kind):
    for seed, shape, size, batch in ((1, (31, 51), (150, 240), 2), (2, (3, 4), (257, 131), 1)):
        mesh = made(kind, seed, shape, dtype, batch)
        check_backward((mesh, [*size, 19, 30], [*size, 20, 31], None, None), inverse, homography, seed)


@both_tiles
@both_ways
def test_a_shared_mesh_sums_over_its_images(homography, inverse):
    mesh = made("lz", 1, (7, 9), F64)
    valid = torch.tensor([[[20, 30]], [[11, 29]], [[5, 1]]])
    check_backward((mesh, [20, 30], [20, 30], valid, None), inverse, homography, 3)


@dtypes
@both_tiles
@both_ways
@pytest.mark.parametrize("kind", ALL[:-2])
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (10, 15), (1, 8)])
def test_gradients_are_finite_at_every_level(dtype, homography, inverse, kind, size):
    """Published code gives NaN at coarse ones."""
    for seed in range(3):
        mesh = made(kind, seed, (5, 8), dtype, 2)
        for source in (size, (1, 1), (7, 1)):
            args = (list(size), list(source), inverse, homography)
            windows, tiles = kernels.positions(mesh, *args, True, None, None)
            assert torch.isfinite(windows).all()
            by_mesh = kernels.positions_backward(torch.ones_like(windows), mesh, windows, tiles, *args, None, None)
            assert torch.isfinite(by_mesh).all()


@dtypes
def test_a_zoom_has_no_gradient_where_it_is_clamped(dtype):
    """Exactly 0 or 1 counts as not clamped."""
    mesh = made("identity", 0, (3, 3), dtype) * 1.5 - 0.25
    args = (mesh, [5, 5], [9, 9], None, None)
    windows, tiles = kernels.positions(*args[:3], False, False, False, None, None)
    by_mesh = kernels.positions_backward(
        torch.ones_like(windows), mesh, windows, tiles, [5, 5], [9, 9], False, False, None, None
    )
    assert by_mesh[0, :, :, 0].sum(0).tolist() == [20, 80, 20]
    mesh = made("identity", 0, (3, 3), dtype).clamp(0.5)
    windows, tiles = kernels.positions(mesh, [5, 5], [9, 9], False, False, False, None, None)
    by_mesh = kernels.positions_backward(
        torch.ones_like(windows), mesh, windows, tiles, [5, 5], [9, 9], False, False, None, None
    )
    assert by_mesh[0, :, :, 0].sum(0).tolist() == [60, 80, 60]


@dtypes
@both_tiles
def test_singular_tiles_have_no_gradient(dtype, homography):
    mesh = made("point", 0, (4, 5), dtype)
    windows = torch.full((1, 2, 35), 3.0, dtype=dtype)
    tiles = torch.full((1, 35), 6, dtype=torch.int32)
    ones = torch.ones_like(windows)
    by_mesh = kernels.positions_backward(ones, mesh, windows, tiles, [5, 7], [9, 9], True, homography, None, None)
    assert (by_mesh == 0).all()
