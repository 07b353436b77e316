"""The `mesh` family on CPUs against the float64 reference: T~ through a mesh, its inverse, who owns a target, and their
gradients; and what holds whatever the reference says."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from helpers import assert_bitwise
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close_to
from torch import Tensor

from fastwarp.kernels.cpu import mesh as kernels
from fastwarp.reference import mesh as reference
from fastwarp.reference._mesh_tiles import projective

many = settings(deadline=None, max_examples=120)
some = settings(deadline=None, max_examples=40)

F32, F64 = torch.float32, torch.float64
ALL = (*own.MESHES, *own.DEGENERATE)
SMOOTH = ("identity", "separable", "lz", "lz_smooth", "sheared", "rotated", "mirrored", "trapezoid", "perspective")

dtypes = pytest.mark.parametrize("dtype", [F32, F64], ids=["fp32", "fp64"])
both_tiles = pytest.mark.parametrize("homography", [False, True], ids=["bilinear", "homography"])
both_ways = pytest.mark.parametrize("inverse", [False, True], ids=["zoom", "unzoom"])


@pytest.fixture(autouse=True)
def poisoned_results():
    """New tensors hold NaN (the largest number for integers), so that what a kernel does not write is found."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


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


# --- gradients --------------------------------------------------------------------------------------------------------


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


# --- at points --------------------------------------------------------------------------------------------------------


def points_like(seed: int, mesh: Tensor, batch: int, n: int, inverse: bool, low: float, high: float) -> Tensor:
    """Positions `[batch, n, 2]`: anywhere, and some on vertices, where up to four tiles meet."""
    points = torch.from_numpy(own.uniform(seed, batch, n, 2, low=low, high=high)).to(mesh.dtype)
    h, w = mesh.shape[1:3]
    vertices = mesh[0] if inverse else made("identity", 0, (h, w), mesh.dtype)[0]
    some_ = vertices.reshape(-1, 2)[: n // 3]
    points[:, : len(some_)] = torch.where(torch.isfinite(some_), some_, 0.3)
    return points


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
