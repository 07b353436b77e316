"""The `mesh` family on CPUs against the float64 reference: T~ through a mesh, its inverse, who owns a target, and their
gradients; and what holds whatever the reference says."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from helpers import assert_bitwise
from hypothesis import given, settings
from hypothesis import strategies as st
from mesh_cases import (
    ALL,
    F32,
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
    points_like,
    some,
    tame,
    thin,
)
from tolerances import assert_close_to
from torch import Tensor

from fastwarp.kernels.cpu import mesh as kernels
from fastwarp.reference import mesh as reference

pytestmark = pytest.mark.usefixtures("poisoned_results")


def in_targets(mesh: np.ndarray, extents: tuple[int, int]) -> np.ndarray:
    """A mesh `[h, w, 2]` in units of the targets."""
    steps = np.array([max(n - 1, 1) for n in extents[::-1]])
    return (mesh - np.where(np.array(extents[::-1]) > 1, 0, 0.5)) * steps


def targets(th: int, tw: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(tw), np.arange(th))
    return np.stack([x.ravel(), y.ravel()], -1).astype(np.float64)


# --- saliency -> mesh -------------------------------------------------------------------------------------------------


@dtypes
@some
@given(data=st.data(), fwhm=own.fwhms, anti_crop=st.booleans(), seed=own.seeds)
def test_lz_mesh(dtype, data, fwhm, anti_crop, seed):
    saliency = data.draw(own.saliency(dtype))
    args = (saliency, fwhm, anti_crop)
    mesh = kernels.lz_mesh(*args)
    right = reference.lz_mesh(*arrays(*args))
    assert mesh.dtype == dtype
    assert_close_to(right, mesh, dtype, "knots")
    if anti_crop:
        for axis, edges in ((0, (mesh[:, :, 0], mesh[:, :, -1])), (1, (mesh[:, 0], mesh[:, -1]))):
            assert (edges[0][..., axis] == 0).all()
            assert (edges[1][..., axis] == 1).all()
    # Rounding decides what is clamped where a kernel sees nothing outside of the map.
    unclamped, _ = reference._unclamped(*arrays(*args))
    grad = noise(seed, mesh) * torch.from_numpy(np.minimum(np.abs(unclamped), np.abs(unclamped - 1)) > 1e-12)
    by_saliency = kernels.lz_mesh_backward(grad, *args)
    assert by_saliency.dtype == dtype
    mean = saliency.double().clamp(min=0).mean((1, 2))
    terms = grad.double().abs().max() / mean.where(mean > 0, torch.inf).min()
    right = reference.lz_mesh_backward(*arrays(grad, *args))
    assert_close_to(right, by_saliency, dtype, "saliency_grad", terms)


@dtypes
@pytest.mark.parametrize("anti_crop", [True, False])
def test_degenerate_saliency(dtype, anti_crop):
    maps = torch.zeros(6, 5, 9, dtype=dtype)
    maps[1], maps[2, 2, 4], maps[3, :2], maps[4] = 0.3, 1, 1, -1
    maps[5, 1, 1] = float("nan")
    mesh = kernels.lz_mesh(maps, 3.0, anti_crop)
    identity = own.mesh("identity", 0, 1, 5, 9)[0]
    for constant in (0, 1, 4):
        assert_close_to(identity, mesh[constant], dtype, "knots")
    assert torch.isfinite(mesh[:5]).all()
    assert torch.isnan(mesh[5]).all()
    assert ((mesh[:5] >= 0) & (mesh[:5] <= 1)).all()
    by_saliency = kernels.lz_mesh_backward(torch.ones_like(mesh), maps, 3.0, anti_crop)
    assert torch.isfinite(by_saliency[:5]).all()
    assert (by_saliency[[0, 4]] == 0).all()


# --- on grids of targets ----------------------------------------------------------------------------------------------


def check_positions(args: tuple[Any, ...], inverse: bool, homography: bool, border: bool) -> None:
    """Every target has the reference's tile, and a position that T~ maps to where it maps the reference's."""
    mesh, sizes, sources, valid, source_valid = args
    dtype = mesh.dtype
    windows, tiles = kernels.positions(mesh, sizes, sources, inverse, homography, border, valid, source_valid)
    assert windows.dtype == dtype
    assert tiles.dtype == torch.int32
    flags = (inverse, homography, border)
    right, owners = reference.positions(*arrays(mesh), sizes, sources, *flags, *arrays(valid, source_valid))
    np.testing.assert_array_equal(tiles.numpy(), owners)
    found = windows.double().numpy()
    np.testing.assert_array_equal(found == -1, right == -1)
    assert not ((found < 0) & (found != -1)).any()
    if not inverse:
        if not torch.isinf(mesh).any():  # what infinities leave of each other depends on the order of the sums
            assert_close_to(right, windows, dtype, "mesh_positions")
        return
    for b, at, (th, tw, eh, ew, sh, sw) in levels(args):
        array = in_targets(mesh[b % len(mesh)].double().numpy(), (eh, ew))
        ours, expected, owner = found[b, :, at], right[b, :, at], owners[b, at]
        assert not (ours > np.array([[max(sw - 1, 0)], [max(sh - 1, 0)]])).any()
        if min(sh, sw) < 2:  # nothing is told of the position there
            continue
        owned = np.flatnonzero(owner >= 0)
        corners = reference.corners_of(array, owner[owned])
        local, right_local = (local_positions(w[:, owned], owner[owned], (sh, sw), array) for w in (ours, expected))
        rounding = 1e-5 if dtype == F32 else 1e-12  # of the window, in tiles
        assert np.abs(local - 0.5).max(initial=0) <= 0.5 + 1 / 64 + rounding * max(array.shape)
        misses = [
            np.abs(reference.patch(corners, *at_.T, homography) - targets(th, tw)[owned])
            for at_ in (local, right_local)
        ]
        # The reference misses a target by what the rim, in a tile without area, is farther out than the mesh.
        excess = np.maximum(misses[0] - misses[1], 0).max(1)
        is_thin = thin(corners)
        assert excess[is_thin & tame(corners, homography)].max(initial=0) <= 0.05  # where it is clamped to the rim
        excess = excess[~is_thin & tame(corners, homography)]
        assert_close_to(np.zeros_like(excess), excess, dtype, "mesh_targets")
        # The nearest point of the outline need not be one alone; the distance is.
        lost = np.flatnonzero((owner < 0) & (expected[0] >= 0))
        if len(lost) and (sh, sw) == (th, tw) == (eh, ew):
            distances = []
            for windows_ in (ours, expected):
                zoomed = windows_[:, lost].T / (sw - 1, sh - 1)
                assert ((zoomed == 0) | (zoomed == 1)).any(1).all()
                at_outline = reference._map_forward(array, zoomed, False)[0]
                distances.append(np.linalg.norm(at_outline - targets(th, tw)[lost], axis=1))
            whole = np.isfinite(distances).all(0)  # tiles beside the point may hold NaN
            assert_close_to(distances[1][whole], distances[0][whole], dtype, "mesh_targets")


@dtypes
@both_tiles
@many
@given(data=st.data())
def test_zoom(dtype, homography, data):
    check_positions(data.draw(arguments(dtype)), False, homography, data.draw(st.booleans()))


@dtypes
@both_tiles
@many
@given(data=st.data())
def test_inverse(dtype, homography, data):
    check_positions(data.draw(arguments(dtype)), True, homography, data.draw(st.booleans()))


@pytest.mark.parametrize("kind", ALL)
@dtypes
@both_tiles
@settings(deadline=None, max_examples=8)
@given(seed=own.seeds, shape=st.tuples(own.mesh_sides, own.mesh_sides), border=st.booleans())
def test_every_kind_of_mesh(dtype, homography, kind, seed, shape, border):
    mesh = made(kind, seed, shape, dtype)
    for size in ((33, 17), (7, 61)):
        args = (mesh, list(size), list(size), None, None)
        check_positions(args, True, homography, border)
        check_positions(args, False, homography, False)


@pytest.mark.parametrize(
    "kind", ["jittered", "lz", "cropping", "rotated", "folded", "nonconvex", "infinite", "near_degenerate"]
)
@dtypes
@both_tiles
def test_many_targets(dtype, homography, kind):
    """Enough for whole vectors, several threads and their borders, and for targets that lie on edges by chance."""
    for seed, shape, size in ((1, (31, 51), (150, 241)), (2, (9, 13), (193, 129)), (3, (3, 4), (257, 512))):
        mesh = made(kind, seed, shape, dtype, 2)
        check_positions((mesh, [*size, 40, 60], [*size, 50, 33], None, None), True, homography, False)


@dtypes
@both_tiles
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (17, 9), (65, 33), (600, 960)])
def test_the_identity_is_exact(dtype, homography, size):
    """Where a target and its source are the same size, each reads itself: within the rounding of k / (D - 1)."""
    for shape in ((2, 2), (5, 9), (31, 51)):
        mesh = made("identity", 0, shape, dtype)
        for inverse in (False, True):
            windows, tiles = kernels.positions(mesh, list(size), list(size), inverse, homography, False, None, None)
            assert (tiles >= 0).all()
            right = np.where(np.array(size[::-1]) > 1, targets(*size), 0)[None].transpose(0, 2, 1)
            assert_close_to(right, windows, dtype, "mesh_positions" if dtype == F64 else "mesh_targets")
    dyadic = made("identity", 0, (5, 9), dtype)
    windows, _ = kernels.positions(dyadic, [17, 33], [17, 33], True, homography, False, None, None)
    assert torch.equal(windows[0].double().T, torch.from_numpy(targets(17, 33)))


@dtypes
@both_tiles
@pytest.mark.parametrize("seed", range(4))
def test_affine_meshes_are_exact(dtype, homography, seed):
    mesh = made("parallelogram", seed, (9, 5), dtype)
    windows, tiles = kernels.positions(mesh, [61, 83], [61, 83], True, homography, False, None, None)
    corner = mesh[0].double().numpy()
    matrix = np.stack([corner[0, -1] - corner[0, 0], corner[-1, 0] - corner[0, 0]], 1)
    inside = tiles[0].numpy() >= 0
    expected = np.linalg.solve(matrix, (targets(61, 83) / (82, 60) - corner[0, 0]).T).T.clip(0, 1) * (82, 60)
    error = np.abs(windows[0].double().numpy().T - expected)[inside]
    assert inside.sum() > 50
    assert error.max() <= np.linalg.cond(matrix) * (1e-3 if dtype == F32 else 1e-10)


# --- who owns a target ------------------------------------------------------------------------------------------------


@dtypes
@some
@given(
    seed=own.seeds,
    shape=st.tuples(own.mesh_sides, own.mesh_sides),
    size=st.tuples(own.sides, own.sides),
    kind=st.sampled_from(("jittered", "lz", "separable", "steep")),
)
def test_no_target_is_lost_on_an_edge(dtype, seed, shape, size, kind):
    """Vertices are put onto targets: many of them are on edges and corners of tiles and on the outline."""
    array = own.mesh(kind, seed, 1, *shape)
    steps = np.array([max(n - 1, 1) for n in size[::-1]])
    array = np.rint(array * steps) / steps  # may collapse tiles or fold some over
    array[:, 0, :, 1], array[:, -1, :, 1], array[:, :, 0, 0], array[:, :, -1, 0] = 0, 1, 0, 1
    mesh = torch.from_numpy(array).to(dtype)
    args = (mesh, list(size), list(size), None, None)
    check_positions(args, True, False, False)
    _, tiles = kernels.positions(*args[:3], True, False, False, None, None)
    assert (tiles >= 0).all()


@dtypes
@pytest.mark.parametrize("last", [1.0, 0.9999994])
def test_an_outline_that_rounds_inwards_keeps_its_targets(dtype, last):
    mesh = made("identity", 0, (4, 5), dtype)
    mesh[:, :, -1, 0] = mesh[:, -1, :, 1] = last
    mesh[:, 0, :, 1] = mesh[:, :, 0, 0] = 1 - last
    windows, tiles = kernels.positions(mesh, [600, 960], [600, 960], True, False, False, None, None)
    assert (tiles >= 0).all()
    assert (windows >= 0).all()


def random_maps(seed: int, smooth: bool) -> tuple[np.ndarray, float]:
    """Six saliency maps `[6, 31, 51]` of any contrast, and an fwhm."""
    random = np.random.default_rng(seed)
    maps = random.uniform(size=(6, 31, 51)) ** random.choice([0.5, 1, 4, 16])
    if smooth:
        y, x = np.mgrid[:31, :51]
        centre, spread = random.uniform(size=(2, 6, 1, 1)) * [[[[31]]], [[[51]]]], random.uniform(2, 12, (6, 1, 1))
        maps = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * spread**2)) + 0.02 * maps
    return maps, float(random.uniform(4, 22))


def missed(
    mesh: Tensor, windows: Tensor, tiles: Tensor, size: tuple[int, int], homography: bool, outline: bool = False
) -> np.ndarray:
    """|T~(T~^-1(x)) - x| in targets, by each owned target's own tile (homographies of neighbours differ on their edge).

    Not on the outline, unless asked for: it owns what is a thousandth of a tile outside of it.
    """
    owned = np.flatnonzero(tiles.numpy() >= 0)
    array, owner = in_targets(mesh.double().numpy(), size), tiles.numpy()[owned]
    local = local_positions(windows.double().numpy()[:, owned], owner, size, array)
    there = reference.patch(reference.corners_of(array, owner), *local.T, homography)
    inside = ((windows.double().numpy() > 0) & (windows.double().numpy() < [[size[1] - 1], [size[0] - 1]])).all(0)[
        owned
    ]
    return np.abs(there - targets(*size)[owned])[inside | outline].max(1)


@dtypes
@both_tiles
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_unzoom_of_anti_crop_meshes_is_exact_and_complete(dtype, homography, smooth, seed):
    """|T~(T~^-1(x)) - x| <= 2e-3 px at 600 x 960 in fp32, and every target is filled."""
    size = (600, 960)
    mesh = torch.from_numpy(reference.lz_mesh(*random_maps(seed, smooth), True)).to(dtype)
    windows, tiles = kernels.positions(mesh, list(size), list(size), True, homography, False, None, None)
    assert (tiles >= 0).all()
    for b in range(len(mesh)):
        assert 0 < missed(mesh[b], windows[b], tiles[b], size, homography).max() <= 2e-3


@dtypes
@pytest.mark.parametrize("seed", range(4))
def test_unzoom_of_cropping_meshes_is_exact_where_there_is_something(dtype, seed):
    """Clamped vertices make tiles without area on the outline; targets there still have a preimage."""
    size = (300, 480)
    mesh = (
        torch.from_numpy(reference.lz_mesh(random_maps(seed, True)[0], 13.0, False) * 1.4 - 0.2).clamp(0, 1).to(dtype)
    )
    windows, tiles = kernels.positions(mesh, list(size), list(size), True, False, False, None, None)
    for b in range(len(mesh)):
        assert missed(mesh[b], windows[b], tiles[b], size, False).max() <= 2e-3
    assert (tiles >= 0).double().mean() > 0.3
    # On the outline too, but where it is outside.
    right, _ = reference.positions(*arrays(mesh[:1]), list(size), list(size), True, False, False, None, None)
    misses = [missed(mesh[0], torch.as_tensor(w), tiles[0], size, False, True) for w in (windows[0], right[0])]
    assert (misses[0] - misses[1]).max() <= 2e-3


# --- what must hold whatever the reference says -----------------------------------------------------------------------


def everything(mesh: Tensor, seed: int = 0) -> list[Tensor]:
    """Results of all launchers for one mesh, of jobs large enough to be split."""
    results = []
    sizes, sources = [181, 240, 91, 120], [170, 250, 64, 65]
    for inverse in (False, True):
        for homography in (False, True):
            windows, tiles = kernels.positions(mesh, sizes, sources, inverse, homography, True, None, None)
            grad = noise(seed, windows)
            by_mesh = kernels.positions_backward(
                grad, mesh, windows, tiles, sizes, sources, inverse, homography, None, None
            )
            points = points_like(seed, mesh, len(mesh), 20_000, inverse, 0, 1)
            mapped, owners = kernels.map(mesh, points, inverse, homography)
            back = kernels.map_backward(noise(seed, mapped), mesh, points, mapped, owners, inverse, homography)
            results += [windows, tiles, by_mesh, mapped, owners, *back]
    return results


@dtypes
@pytest.mark.parametrize("kind", ["lz", "cropping", "folded"])
def test_runs_and_threads_change_no_bit(dtype, kind):
    mesh = made(kind, 3, (31, 51), dtype, 3)
    expected = everything(mesh)
    for threads in (1, 2, 4, 2):
        torch.set_num_threads(threads)
        assert_bitwise(everything(mesh), expected, f"{threads} threads,")


@pytest.mark.parametrize("kind", ["lz", "nonconvex"])
def test_images_of_a_batch_are_alone(kind):
    """A mesh gives the same bits in a batch, whatever its neighbours hold."""
    mesh = made(kind, 3, (9, 13), F32, 3)
    mesh[1] = float("nan")
    for inverse in (False, True):
        args = ([33, 47, 9, 11], [33, 47, 9, 11], inverse, False)
        windows, tiles = kernels.positions(mesh, *args, True, None, None)
        grad = noise(1, windows)
        by_mesh = kernels.positions_backward(grad, mesh, windows, tiles, *args, None, None)
        for b in (0, 2):
            alone, owners = kernels.positions(mesh[b : b + 1], *args, True, None, None)
            assert_bitwise([windows[b], tiles[b]], [alone[0], owners[0]])
            expected = kernels.positions_backward(grad[b : b + 1], mesh[b : b + 1], alone, owners, *args, None, None)
            assert_bitwise([by_mesh[b]], [expected[0]])
            assert torch.isfinite(by_mesh[b]).all()
        assert torch.isnan(windows[1]).all()
        assert (tiles[1] == -1).all()


def test_memory_of_any_layout():
    mesh = made("lz", 3, (9, 13), F32, 2)
    sizes = [20, 31]
    wide = torch.zeros(4, 19, 27, 5)
    strided = wide[1::2, 1::2, 1::2, 1::2].copy_(mesh)
    assert not strided.is_contiguous()
    planar = mesh.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    for inverse in (False, True):
        args = (sizes, sizes, inverse, False)
        windows, tiles = kernels.positions(mesh, *args, False, None, None)
        grad = noise(1, windows)
        by_mesh = kernels.positions_backward(grad, mesh, windows, tiles, *args, None, None)
        points = points_like(1, mesh, 2, 50, inverse, 0, 1)
        mapped, owners = kernels.map(mesh, points, inverse, False)
        by_both = kernels.map_backward(noise(2, mapped), mesh, points, mapped, owners, inverse, False)
        for other in (strided, planar):
            assert_bitwise(kernels.positions(other, *args, False, None, None), [windows, tiles])
            turned = [t.mT.contiguous().mT for t in (grad, windows)]
            gapped = tiles.repeat_interleave(2, 1)[:, ::2]
            found = kernels.positions_backward(turned[0], other, turned[1], gapped, *args, None, None)
            assert_bitwise([found], [by_mesh])
            spread = [t.mT.contiguous().mT for t in (points, mapped, noise(2, mapped))]
            assert_bitwise(kernels.map(other, spread[0], inverse, False), [mapped, owners])
            found = kernels.map_backward(spread[2], other, spread[0], spread[1], owners, inverse, False)
            assert_bitwise(found, by_both)
    shared = mesh[:1].expand(2, -1, -1, -1)
    windows, tiles = kernels.positions(shared, sizes, sizes, True, False, False, None, None)
    assert_bitwise([windows[0], tiles[0]], [windows[1], tiles[1]])


@both_ways
def test_empty_batches_and_levels(inverse):
    empty = torch.zeros(0, 4, 5, 2)
    args = ([3, 4], [5, 6], inverse, False)
    windows, tiles = kernels.positions(empty, *args, False, None, None)
    assert windows.shape == (0, 2, 12)
    assert tiles.shape == (0, 12)
    by_mesh = kernels.positions_backward(windows, empty, windows, tiles, *args, None, None)
    assert by_mesh.shape == empty.shape
    points = torch.zeros(0, 7, 2)
    for mesh in (empty, torch.zeros(1, 4, 5, 2)):
        mapped, owners = kernels.map(mesh, points, inverse, False)
        assert mapped.shape == (0, 7, 2)
        by_mesh, by_points = kernels.map_backward(mapped, mesh, points, mapped, owners, inverse, False)
        assert by_points.shape == points.shape
        assert by_mesh.shape == mesh.shape
        assert (by_mesh == 0).all()
    mesh = made("identity", 0, (3, 3), F32)
    mapped, owners = kernels.map(mesh, torch.zeros(1, 0, 2), inverse, False)
    assert mapped.shape == (1, 0, 2)
    by_mesh, _ = kernels.map_backward(mapped, mesh, mapped, mapped, owners, inverse, False)
    assert (by_mesh == 0).all()
    windows, tiles = kernels.positions(mesh, [], [], inverse, False, False, None, None)
    assert windows.shape == (1, 2, 0)
    by_mesh = kernels.positions_backward(windows, mesh, windows, tiles, [], [], inverse, False, None, None)
    assert (by_mesh == 0).all()


@dtypes
@both_tiles
@pytest.mark.parametrize("scale", [1e30, 1e-30, 1e12, 1e4])
def test_huge_and_tiny_meshes_are_answered(dtype, homography, scale):
    """Vertices far outside [0, 1], or all in one place: no crash, nothing out of bounds, the reference's owners."""
    for kind in ("folded", "jittered"):
        mesh = own.mesh(kind, 5, 2, 5, 6)
        mesh = torch.from_numpy((mesh - 0.5) * scale + 0.5).to(dtype)
        for border in (False, True):
            args = ([33, 41], [33, 41], True, homography, border)
            windows, tiles = kernels.positions(mesh, *args, None, None)
            _, owners = reference.positions(*arrays(mesh), *args, None, None)
            np.testing.assert_array_equal(tiles.numpy(), owners)
            assert ((windows >= -1) & (windows <= 40)).all()
        grad = torch.ones_like(windows)
        kernels.positions_backward(grad, mesh, windows, tiles, [33, 41], [33, 41], True, homography, None, None)
        kernels.map(mesh, points_like(1, mesh, 2, 30, True, 0, 1), True, homography)
        kernels.map(mesh, points_like(1, mesh, 2, 30, False, -1e30, 1e30), False, homography)


@both_ways
@pytest.mark.parametrize("name", ["positions", "positions_backward", "map", "map_backward"])
def test_the_reference_backend_gives_the_references_numbers(inverse, name):
    launchers = importlib.import_module("fastwarp.ops._reference.mesh")
    mesh = made("lz", 3, (4, 5), F32, 2)
    points = points_like(1, mesh, 2, 9, inverse, 0, 1)
    sizes = ([7, 9], [8, 6], inverse, True)
    windows, tiles = launchers.positions(mesh, *sizes, False, None, None)
    mapped, owners = launchers.map(mesh, points, inverse, True)
    calls: dict[str, tuple[Any, ...]] = {
        "positions": (mesh, *sizes, False, None, None),
        "positions_backward": (noise(1, windows), mesh, windows, tiles, *sizes, None, None),
        "map": (mesh, points, inverse, True),
        "map_backward": (noise(1, mapped), mesh, points, mapped, owners, inverse, True),
    }
    function: Callable[..., Any] = getattr(launchers, name)
    ours, right = function(*calls[name]), getattr(reference, name)(*arrays(*calls[name]))
    for a, b in zip(*((v if isinstance(v, tuple) else (v,)) for v in (ours, right)), strict=True):
        assert a.dtype == (torch.int32 if b.dtype == np.int32 else F32)
        np.testing.assert_array_equal(a.numpy(), b.astype(a.numpy().dtype))
