"""The float64 reference of meshes and grids against truths it does not share: the paper's sums written out, maps with
known inverses, the separable family, SciPy, torch's sampler and autograd, finite differences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import strategies as own
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastwarp.reference import axis, grid, mesh, separable
from fastwarp.reference._mesh_tiles import widened

few = settings(deadline=None, max_examples=40)

tiles_of_both = pytest.mark.parametrize("homography", [False, True], ids=["bilinear", "homography"])


def targets(h: int, w: int) -> np.ndarray:
    """Grid(h) x Grid(w) `[1, h w, 2]`, (x, y)."""
    x, y = np.meshgrid(axis.grid(w), axis.grid(h))
    return np.stack([x.ravel(), y.ravel()], -1)[None]


def zoomed(windows: np.ndarray, source: tuple[int, int]) -> np.ndarray:
    """Windows `[B, 2, P]` as normalised positions `[B, P, 2]`."""
    return np.moveaxis(windows, 1, 2) / (source[1] - 1, source[0] - 1)


def inverse(m: np.ndarray, size: tuple[int, int], homography: bool = False, border: bool = False):
    """T~^-1(Grid(size)) and the tiles."""
    windows, tiles = mesh.positions(m, list(size), [601, 1201], True, homography, border, None, None)
    return zoomed(windows, (601, 1201)), tiles


def gradient(function, at: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Gradient of a scalar function by central differences."""
    result = np.zeros(at.shape)
    for index in np.ndindex(*at.shape):
        high, low = at.copy(), at.copy()
        high[index] += step
        low[index] -= step
        result[index] = (function(high) - function(low)) / (2 * step)
    return result


# --- saliency -> mesh -------------------------------------------------------------------------------------------------


def paper_mesh(saliency: np.ndarray, fwhm: float, anti_crop: bool) -> np.ndarray:
    """Eq. 1 and 2 for one map, cell by cell; positions outside continue those inside."""
    h, w = saliency.shape
    radius = min(h, w) - 1

    def inside(cell: int, n: int) -> int:
        if not anti_crop:
            return min(max(cell, 0), n - 1)
        cell = abs(cell)
        return 2 * (n - 1) - cell if cell > n - 1 else cell

    result = np.zeros((h, w, 2))
    for i, j in np.ndindex(h, w):
        above_x = above_y = below = 0.0
        for p in range(i - radius, i + radius + 1):
            for q in range(j - radius, j + radius + 1):
                distance = (p - i) ** 2 + (q - j) ** 2
                weight = saliency[inside(p, h), inside(q, w)] * math.exp(-4 * math.log(2) * distance / fwhm**2)
                above_x += weight * q / (w - 1)
                above_y += weight * p / (h - 1)
                below += weight
        result[i, j] = min(max(above_x / below, 0), 1), min(max(above_y / below, 0), 1)
    return result


@pytest.mark.parametrize("shape", [(2, 2), (2, 9), (7, 4), (8, 11)])
@pytest.mark.parametrize("fwhm", [0.5, 3.0, 13.0])
@pytest.mark.parametrize("anti_crop", [True, False])
def test_meshes_are_the_sums_of_the_paper(shape, fwhm, anti_crop):
    saliency = own.uniform(1, 2, *shape, low=0.05) ** 3
    for row, plain in zip(mesh.lz_mesh(saliency, fwhm, anti_crop), saliency, strict=True):
        np.testing.assert_allclose(
            row, paper_mesh(plain, fwhm, anti_crop), rtol=0, atol=2e-5
        )  # there is no floor there
        floored = paper_mesh(plain + 1e-6 * plain.mean(), fwhm, anti_crop)
        np.testing.assert_allclose(row, floored, rtol=0, atol=1e-14)


@pytest.mark.parametrize("anti_crop", [True, False])
def test_a_saliency_of_rows_times_columns_has_the_separable_warp(anti_crop):
    """The Gaussian is a product, and so is the map: the sums part."""
    y, x = own.uniform(1, 2, 9, 1, low=0.1), own.uniform(2, 2, 1, 14, low=0.1)
    m = mesh.lz_mesh(y * x, 4.0, anti_crop)
    knots_y, knots_x = axis.lz_knots(y * x, (y * x).transpose(0, 2, 1), 4.0, anti_crop)
    np.testing.assert_allclose(m[..., 0], np.repeat(knots_x[:, None], 9, 1), rtol=0, atol=2e-5)  # but for the floor
    np.testing.assert_allclose(m[..., 1], np.repeat(knots_y[:, :, None], 14, 2), rtol=0, atol=2e-5)


@pytest.mark.parametrize("value", [0.0, 1e-300, 0.3, 1e300])
@pytest.mark.parametrize("anti_crop", [True, False])
def test_constant_saliency_is_the_identity(anti_crop, value):
    m = mesh.lz_mesh(np.full((2, 6, 9), value), 5.0, anti_crop)
    np.testing.assert_allclose(m, own.mesh("identity", 0, 2, 6, 9), rtol=0, atol=1e-15)


@few
@given(saliency=own.saliency(torch.float64), fwhm=own.fwhms, anti_crop=st.booleans())
def test_meshes_stay_inside_and_anti_crop_keeps_the_outline(saliency, fwhm, anti_crop):
    m = mesh.lz_mesh(saliency.numpy(), fwhm, anti_crop)
    assert ((m >= 0) & (m <= 1)).all()
    if anti_crop:
        assert (m[:, :, 0, 0] == 0).all()
        assert (m[:, :, -1, 0] == 1).all()
        assert (m[:, 0, :, 1] == 0).all()
        assert (m[:, -1, :, 1] == 1).all()


def test_turned_saliency_turns_the_warp():
    saliency = own.uniform(3, 2, 7, 10) ** 2
    for anti_crop in (True, False):
        m = mesh.lz_mesh(saliency, 4.0, anti_crop)
        flipped = mesh.lz_mesh(saliency[:, ::-1, ::-1], 4.0, anti_crop)
        np.testing.assert_allclose(flipped, 1 - m[:, ::-1, ::-1], rtol=0, atol=1e-14)
        swapped = mesh.lz_mesh(saliency.transpose(0, 2, 1), 4.0, anti_crop)
        np.testing.assert_allclose(swapped, m.transpose(0, 2, 1, 3)[..., ::-1], rtol=0, atol=1e-14)


def test_negative_cells_count_as_zero_and_nan_stays_in_its_map():
    saliency = own.saliency_map("negative", 3, 2, 6, 8)
    clean = mesh.lz_mesh(saliency, 5.0, True)
    np.testing.assert_array_equal(clean, mesh.lz_mesh(saliency.clip(0), 5.0, True))
    saliency[1, 2, 3] = np.nan
    m = mesh.lz_mesh(saliency, 5.0, True)
    np.testing.assert_array_equal(m[0], clean[0])
    assert np.isnan(m[1]).all()


@pytest.mark.parametrize("anti_crop", [True, False])
def test_gradient_of_saliency(anti_crop):
    saliency = own.uniform(3, 2, 4, 6, low=0.05) ** 2
    saliency[1, 2, 3] = -1
    weights = own.uniform(4, 2, 4, 6, 2, low=-1)
    expected = gradient(lambda s: float((mesh.lz_mesh(s, 5.0, anti_crop) * weights).sum()), saliency)
    ours = mesh.lz_mesh_backward(weights, saliency, 5.0, anti_crop)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-7)
    assert ours[1, 2, 3] == 0
    assert (mesh.lz_mesh_backward(weights, np.zeros((2, 4, 6)), 5.0, anti_crop) == 0).all()


# --- maps with a known inverse ----------------------------------------------------------------------------------------


@tiles_of_both
@pytest.mark.parametrize("shape", [(2, 2), (5, 9), (17, 3)])
@pytest.mark.parametrize("size", [(1, 1), (7, 1), (9, 13), (33, 17)])
def test_identity(shape, size, homography):
    m = own.mesh("identity", 0, 1, *shape)
    position, tiles = inverse(m, size, homography)
    np.testing.assert_allclose(position, targets(*size), rtol=0, atol=1e-15)
    assert (tiles >= 0).all()
    windows, _ = mesh.positions(m, list(size), [601, 1201], False, homography, False, None, None)
    np.testing.assert_allclose(zoomed(windows, (601, 1201)), targets(*size), rtol=0, atol=1e-15)


@tiles_of_both
@few
@given(seed=own.seeds, shape=st.tuples(own.mesh_sides, own.mesh_sides), size=own.shapes)
def test_affine(seed, shape, size, homography):
    """Parallelograms, of which the whole is one: its matrix is inverted."""
    m = own.mesh("parallelogram", seed, 1, *shape)
    matrix = np.stack([m[0, 0, -1] - m[0, 0, 0], m[0, -1, 0] - m[0, 0, 0]], 1)
    expected = np.linalg.solve(matrix, (targets(*size)[0] - m[0, 0, 0]).T).T
    position, tiles = inverse(m, size, homography)
    inside = np.abs(expected - 0.5).max(1) <= 0.5
    assert (tiles[0][inside] >= 0).all()
    assert (tiles[0][np.abs(expected - 0.5).max(1) > 0.5 + 1e-3] == -1).all()
    tolerance = 3e-14 * np.linalg.cond(matrix)
    np.testing.assert_allclose(position[0][inside], expected[inside], rtol=0, atol=tolerance)
    anywhere = own.uniform(seed, 1, 50, 2, low=-1, high=2)
    expected = np.linalg.solve(matrix, (anywhere[0] - m[0, 0, 0]).T).T
    found = mesh.map(m, anywhere, True, homography)[0][0]
    tolerance *= np.abs(expected).max() * max(shape)  # extended from a tile
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@few
@given(seed=own.seeds, shape=st.tuples(own.mesh_sides, own.mesh_sides))
def test_one_projective_map_is_inverted_by_its_matrix(seed, shape):
    """The homographies of all tiles of such a mesh are the same map, found here from the four outer corners."""
    m = own.mesh("perspective", seed, 1, *shape)
    rows, right = [], []
    for (u, v), (x, y) in zip(
        [(0, 0), (1, 0), (0, 1), (1, 1)], [m[0, 0, 0], m[0, 0, -1], m[0, -1, 0], m[0, -1, -1]], strict=True
    ):
        rows += [[u, v, 1, 0, 0, 0, -x * u, -x * v], [0, 0, 0, u, v, 1, -y * u, -y * v]]
        right += [x, y]
    matrix = np.append(np.linalg.solve(rows, right), 1).reshape(3, 3)
    points = own.uniform(seed, 1, 60, 2, low=-0.2, high=1.2)

    def through(matrix: np.ndarray) -> np.ndarray:
        ray = np.concatenate([points[0], np.ones((60, 1))], 1) @ matrix.T
        return ray[:, :2] / ray[:, 2:]

    np.testing.assert_allclose(mesh.map(m, points, False, True)[0][0], through(matrix), rtol=0, atol=1e-10)
    np.testing.assert_allclose(mesh.map(m, points, True, True)[0][0], through(np.linalg.inv(matrix)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["identity", "monotone", "steep"])
@pytest.mark.parametrize("inverse", [False, True])
def test_a_mesh_of_two_axes_is_the_separable_warp(kind, inverse):
    knots_y, knots_x = own.knots(kind, 3, 2, 8), own.knots(kind, 4, 2, 13)
    m = np.stack(np.broadcast_arrays(knots_x[:, None, :], knots_y[:, :, None]), -1)
    sizes, sources = [17, 33, 9, 1], [20, 31, 11, 13]
    windows, tiles = mesh.positions(m, sizes, sources, inverse, False, False, None, None)
    of_axes = axis.axis_windows(knots_y, knots_x, sizes, sources, inverse, False, False, None, None)[:, 0]
    assert (tiles >= 0).all()
    for b in range(2):
        for level, at, y, x in ((0, slice(0, 561), (0, 17), (17, 50)), (1, slice(561, 570), (50, 59), (59, 60))):
            h, w = sizes[2 * level : 2 * level + 2]
            expected = np.meshgrid(of_axes[b, slice(*x)], of_axes[b, slice(*y)])
            np.testing.assert_allclose(windows[b, :, at].reshape(2, h, w), expected, rtol=0, atol=1e-10)
    points = own.uniform(5, 2, 100, 2, low=-0.3, high=1.3)
    mapped = mesh.map(m, points, inverse, False)[0]
    for i, knots in enumerate((knots_x, knots_y)):
        expected = axis.axis_map(knots, points[..., i], inverse)
        np.testing.assert_allclose(mapped[..., i], expected, rtol=1e-9, atol=1e-11)


# --- the inverse ------------------------------------------------------------------------------------------------------


@tiles_of_both
@few
@given(
    kind=st.sampled_from(own.MESHES), seed=own.seeds, shape=st.tuples(own.mesh_sides, own.mesh_sides), size=own.shapes
)
def test_inverse_is_inverted(kind, seed, shape, size, homography):
    m = own.mesh(kind, seed, 2, *shape)
    position, tiles = inverse(m, size, homography)
    error = np.zeros(tiles.shape)
    for b in range(2):  # by the owner's tile: homographies of neighbours differ on their edge
        place = np.stack(np.divmod(tiles[b], shape[1] - 1)[::-1], -1)
        local = position[b] * (shape[1] - 1, shape[0] - 1) - place
        there = mesh.patch(mesh.corners_of(m[b], np.maximum(tiles[b], 0)), *local.T, homography)
        error[b] = np.abs(there - targets(*size)[0]).max(1)
    inside = (tiles >= 0) & ((position > 0) & (position < 1)).all(2)
    assert error[inside].max(initial=0) <= 1e-12
    # The outline owns what is a thousandth of a tile outside of it.
    longest = max(np.abs(np.diff(m, axis=1)).max(), np.abs(np.diff(m, axis=2)).max())
    assert error[tiles >= 0].max(initial=0) <= 3e-3 * longest
    if kind in ("identity", "separable", "lz", "lz_smooth", "steep"):
        assert (tiles >= 0).all()
        assert np.median(error) <= 1e-15


@tiles_of_both
def test_points_are_the_solutions_that_scipy_finds(homography):
    m = own.mesh("jittered", 3, 1, 5, 6)
    points = own.uniform(4, 1, 30, 2, low=0.1, high=0.9)
    found, tiles = mesh.map(m, points, True, homography)

    def miss(position, point):
        return mesh.map(m, position[None, None], False, homography)[0][0, 0] - point

    for point, right in zip(points[0], found[0], strict=True):
        solution = scipy.optimize.least_squares(miss, right + 1e-3, args=(point,), xtol=1e-15, ftol=1e-15, gtol=1e-15)
        np.testing.assert_allclose(solution.x, right, rtol=0, atol=1e-9)
    assert len(set(tiles[0])) > 10


@few
@given(kind=st.sampled_from(("jittered", "rotated", "nonconvex", "folded", "mirrored")), seed=own.seeds)
def test_tiles_enclose_what_their_outline_turns_around(kind, seed):
    """The angle under which a target sees the four edges of a tile, added up, says the same as crossings do."""
    m = own.mesh(kind, seed, 1, 4, 5)[0]
    points = own.uniform(seed, 200, 2)
    owner, turn = (v[:, 0] for v in mesh.owners(m, points[:, 1], points[:, :1]))
    ring = mesh.corners_of(widened(m), np.arange(12))[:, [0, 1, 3, 2]] - points[:, None, None]
    angle = np.arctan2(ring[..., 1], ring[..., 0])
    steps = (np.diff(np.concatenate([angle, angle[..., :1]], -1)) + np.pi) % (2 * np.pi) - np.pi
    around = np.rint(steps.sum(-1) / (2 * np.pi)).astype(int)
    first = np.where((around != 0).any(1), np.argmax(around != 0, 1), -1)
    np.testing.assert_array_equal(owner, first)
    np.testing.assert_array_equal(turn[owner >= 0], around[np.arange(200), first][owner >= 0])


@few
@given(seed=own.seeds, kind=st.sampled_from(("nonconvex", "jittered", "trapezoid")))
def test_preimages_lie_in_their_tile_also_where_it_is_not_convex(seed, kind):
    m = own.mesh(kind, seed, 1, 5, 4)
    position, tiles = mesh.map(m, own.uniform(seed, 1, 300, 2), True, False)
    owned = mesh.owners(m[0], (p := own.uniform(seed, 1, 300, 2)[0])[:, 1], p[:, :1])[0][:, 0] >= 0
    i, j = np.divmod(tiles[0][owned], 3)
    local = position[0][owned] * (3, 4) - np.stack([j, i], 1)
    assert np.abs(local - 0.5).max(initial=0) <= 0.5 + 1e-3
    np.testing.assert_allclose(mesh.map(m, position, False, False)[0][0][owned], p[owned], rtol=0, atol=1e-5)


@tiles_of_both
@pytest.mark.parametrize("kind", ["jittered", "rotated", "mirrored", "trapezoid", "perspective", "lz"])
def test_points_outside_continue_the_mesh(kind, homography):
    m = own.mesh(kind, 5, 1, 6, 7)
    points = own.uniform(6, 1, 400, 2, low=-0.05, high=1.05)
    position, tiles = mesh.map(m, points, True, homography)
    assert (tiles >= 0).all()
    again, same = mesh.map(m, position, False, homography)
    right = np.abs(again - points).max(2) < 1e-9
    assert right.mean() > (0.97 if kind in ("jittered", "rotated", "mirrored") else 0.999)  # jagged outlines leave gaps
    assert (same == tiles)[right].mean() > 0.99


def test_zero_area_infinity_and_nan():
    m = own.mesh("jittered", 5, 1, 4, 5)
    m[0, :, 1] = m[0, :, 0]  # a column of tiles without width
    m[0, 2, 4] = np.inf
    position, tiles = inverse(m, (20, 30))
    broken = [7, 11]  # of 4 in a row
    assert not np.isin(tiles, broken).any()
    assert np.isfinite(position).all()
    error = np.abs(mesh.map(m, position, False, False)[0] - targets(20, 30)).max(2)
    assert error[tiles >= 0].max() <= 1e-3
    assert (tiles >= 0).mean() > 0.6
    m[0, 2, 4, 0] = np.nan  # a NaN makes the whole image NaN
    position, tiles = inverse(m, (20, 30))
    assert np.isnan(position).all()
    assert (tiles == -1).all()


def test_nearest_point_of_the_outline():
    """Against SciPy's minimum over each edge."""
    m = own.mesh("jittered", 7, 1, 4, 5)
    m = own.turned(m, 0.5 * np.eye(2))
    size = (9, 12)
    position, tiles = inverse(m, size, border=True)
    outside = tiles[0] < 0
    assert 0.3 < outside.mean() < 0.9
    outline = [m[0, 0], m[0, -1], m[0, :, 0], m[0, :, -1]]
    pixels = np.array([size[1] - 1, size[0] - 1])
    for target, at in zip(targets(*size)[0][outside], position[0][outside], strict=True):
        best = min(
            scipy.optimize.minimize_scalar(
                lambda t, a=a, b=b, target=target: np.sum(((a + t * (b - a) - target) * pixels) ** 2),
                bounds=(0, 1),
                options={"xatol": 1e-12},
                method="bounded",
            ).fun
            for line in outline
            for a, b in itertools.pairwise(line)
        )
        assert (at == 0).any() or (at == 1).any()
        found = mesh.map(m, at[None, None], False, False)[0][0, 0]
        assert np.sum(((found - target) * pixels) ** 2) == pytest.approx(best, abs=1e-6)


# --- extents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inverse", [False, True])
def test_extents_are_small_images_in_large_ones(inverse):
    m = own.mesh("lz", 3, 2, 5, 6)
    valid, source_valid = np.array([[[7, 5], [3, 4]], [[9, 12], [0, 4]]]), np.array([[[8, 9], [5, 6]]])
    sizes, sources = [9, 12, 3, 4], [10, 11, 5, 6]
    windows, tiles = mesh.positions(m, sizes, sources, inverse, False, False, valid, source_valid)
    for b in range(2):
        for level, at in ((0, slice(0, 108)), (1, slice(108, 120))):
            (h, w), (eh, ew) = sizes[2 * level : 2 * level + 2], valid[b, level]
            small = [int(eh), int(ew)]
            source = [int(s) for s in source_valid[0, level]]
            expected, owner = mesh.positions(m[b : b + 1], small, source, inverse, False, False, None, None)
            found = windows[b, :, at].reshape(2, h, w)
            np.testing.assert_array_equal(found[:, :eh, :ew].reshape(2, -1), expected[0])
            np.testing.assert_array_equal(tiles[b, at].reshape(h, w)[:eh, :ew].ravel(), owner[0])
            found[:, :eh, :ew] = -1
            assert (found == -1).all()
    assert (tiles[1, 108:] == -1).all()


# --- gradients --------------------------------------------------------------------------------------------------------


def kept(tiles: np.ndarray, again: np.ndarray) -> np.ndarray:
    return (tiles >= 0) & (tiles == again)


@tiles_of_both
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("kind", ["jittered", "rotated", "lz", "mirrored", "trapezoid"])
def test_gradients_of_positions(kind, inverse, homography):
    """Against finite differences; targets that change their tile by them have no derivative."""
    m = own.mesh(kind, 8, 1, 3, 4) if kind != "mirrored" else own.mesh("mirrored", 8, 2, 3, 4)
    source_valid = np.array([[[9, 8], [11, 1]], [[7, 10], [9, 9]]])
    args = ([5, 7, 3, 2], [9, 10, 11, 12], inverse, homography)
    rest = (None, source_valid)
    windows, tiles = mesh.positions(m, *args, False, *rest)
    grad = own.uniform(9, *windows.shape, low=-1)
    grad[0, :, 35:] = 0  # a source of one column tells nothing of x
    for level, at in enumerate((slice(0, 35), slice(35, 41))):  # ends of a source have no derivative on one side
        last = source_valid[:, level, ::-1, None] - 1
        grad[:, :, at] *= (windows[:, :, at] > 1e-3) & (windows[:, :, at] < last - 1e-3)
    moved = {}
    for index in np.ndindex(*m.shape):
        for side in (-1e-6, 1e-6):
            other = m.copy()
            other[index] += side
            moved[index, side] = mesh.positions(other, *args, False, *rest)
    for _, other in moved.values():
        grad *= kept(tiles, other)[:, None]
    expected = np.zeros(m.shape)
    for index in np.ndindex(*m.shape):
        expected[index] = (grad * (moved[index, 1e-6][0] - moved[index, -1e-6][0])).sum() / 2e-6
    assert (grad != 0).sum() > 20
    ours = mesh.positions_backward(grad, m, windows, tiles, *args, *rest)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


@tiles_of_both
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shared", ["mesh", "points", None])
def test_gradients_of_points(inverse, shared, homography):
    m = own.mesh("jittered", 8, 1 if shared == "mesh" else 2, 3, 4)
    points = own.uniform(3, 1 if shared == "points" else 2, 9, 2, low=-0.1, high=1.1)
    mapped, tiles = mesh.map(m, points, inverse, homography)
    assert (tiles >= 0).all()
    grad = own.uniform(4, *mapped.shape, low=-1)

    def loss(m: np.ndarray, points: np.ndarray) -> float:
        return float((grad * mesh.map(m, points, inverse, homography)[0]).sum())

    by_mesh, by_points = mesh.map_backward(grad, m, points, mapped, tiles, inverse, homography)
    np.testing.assert_allclose(by_mesh, gradient(lambda v: loss(v, points), m), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(by_points, gradient(lambda v: loss(m, v), points), rtol=1e-5, atol=1e-6)


def test_no_gradient_where_the_zoom_is_clamped_or_the_jacobian_singular():
    m = own.mesh("identity", 0, 1, 3, 3) * 1.5 - 0.25
    windows, tiles = mesh.positions(m, [5, 5], [9, 9], False, False, False, None, None)
    by_mesh = mesh.positions_backward(np.ones((1, 2, 25)), m, windows, tiles, [5, 5], [9, 9], False, False, None, None)
    # Of the five columns the middle three are inside: at 0.25 and 0.75 halfway between two vertices, and on the middle.
    np.testing.assert_allclose(by_mesh[0, :, :, 0].sum(0), 8 * 5 * np.array([0.5, 2, 0.5]), atol=1e-12)
    flat = np.full((1, 3, 3, 2), 0.5)
    windows, tiles = mesh.positions(flat, [5, 5], [9, 9], True, False, False, None, None)
    tiles[:] = 2
    windows[:] = 3.0
    by_mesh = mesh.positions_backward(
        np.ones((1, 2, 25)), flat, windows, tiles, [5, 5], [9, 9], True, False, None, None
    )
    assert (by_mesh == 0).all()


# --- grid -------------------------------------------------------------------------------------------------------------


def windows_of(sampling: np.ndarray, h: int, w: int) -> np.ndarray:
    """Windows of a grid `[B, H, W, 2]` in [-1, 1], as `F.grid_sample` takes it."""
    return np.moveaxis((sampling + 1) / 2 * (w - 1, h - 1), -1, 1).reshape(len(sampling), 2, -1)


@few
@given(seed=own.seeds, source=own.shapes, size=own.shapes)
def test_bilinear_is_grid_sample(seed, source, size):
    image = own.uniform(seed, 2, 3, *source, low=-1)
    sampling = own.uniform(seed + 1, 2, *size, 2, low=-1, high=1)
    variable, where = torch.from_numpy(image).requires_grad_(), torch.from_numpy(sampling).requires_grad_()
    right = torch.nn.functional.grid_sample(variable, where, align_corners=True)
    windows = windows_of(sampling, *source)
    (ours,) = grid.resample([image], windows, list(size), None)
    np.testing.assert_allclose(ours, right.detach().numpy(), rtol=0, atol=1e-12)
    grad = own.uniform(seed + 2, *right.shape, low=-1)
    by_image, by_grid = torch.autograd.grad(right, [variable, where], torch.from_numpy(grad))
    np.testing.assert_allclose(grid.resample_adjoint([grad], windows, list(source), None)[0], by_image, atol=1e-11)
    ours = grid.windows_gradient([grad], [image], windows, None)
    scale = np.array([source[1] - 1, source[0] - 1]) / 2
    expected = np.moveaxis(by_grid.numpy(), -1, 1).reshape(2, 2, -1)
    np.testing.assert_allclose(ours * scale[:, None], expected * (scale[:, None] > 0), rtol=0, atol=1e-10)


@few
@given(data=st.data(), seed=own.seeds, antialias=st.booleans())
def test_windows_of_two_axes_are_the_separable_ones(data, seed, antialias):
    """Also the triangle filter, padding, several levels, and the gradients by the chain rule."""
    sizes, sources = [7, 9, 5, 3], [11, 17, 13, 8]
    source_valid = data.draw(own.extents(2, [(11, 17), (13, 8)]))
    source_valid = None if source_valid is None else source_valid.numpy()
    knots = [own.knots("monotone", seed + i, 2, 6) for i in range(2)]
    rows = axis.axis_windows(*knots, sizes, sources, False, antialias, False, None, source_valid)
    products, first, at = [], 0, []
    for h, w in ((7, 9), (5, 3)):
        y, x = rows[:, :, first : first + h], rows[:, :, first + h : first + h + w]
        parts = [
            np.broadcast_to(v, (2, h, w)) for v in (x[:, 0, None], y[:, 0, :, None], x[:, 1, None], y[:, 1, :, None])
        ]
        products.append(np.stack(parts, 1).reshape(2, 4, -1))
        at.append((first, first + h, first + h + w))
        first += h + w
    windows = np.concatenate(products, 2)[:, : 4 if antialias else 2]
    images = [own.uniform(seed + i, 2, 3, *s, low=-1) for i, s in enumerate(((11, 17), (13, 8)))]
    grads = [own.uniform(seed + i, 2, 3, *s, low=-1) for i, s in enumerate(((7, 9), (5, 3)))]
    for ours, right in zip(
        grid.resample(images, windows, sizes, source_valid),
        separable.resample(images, rows, sizes, source_valid),
        strict=True,
    ):
        np.testing.assert_allclose(ours, right, rtol=0, atol=1e-13)
    for ours, right in zip(
        grid.resample_adjoint(grads, windows, sources, source_valid),
        separable.resample_adjoint(grads, rows, sources, source_valid),
        strict=True,
    ):
        np.testing.assert_allclose(ours, right, rtol=0, atol=1e-12)
    ours = grid.windows_gradient(grads, images, windows, source_valid)
    right = separable.windows_gradient(grads, images, rows, source_valid)
    start = 0
    for (y, x, end), (h, w) in zip(at, ((7, 9), (5, 3)), strict=True):
        own_ = ours[:, :, start : start + h * w].reshape(2, -1, h, w)
        start += h * w
        for row in range(2 if antialias else 1):
            np.testing.assert_allclose(own_[:, 2 * row].sum(1), right[:, row, x:end], rtol=0, atol=1e-10)
            np.testing.assert_allclose(own_[:, 2 * row + 1].sum(2), right[:, row, y:x], rtol=0, atol=1e-10)


@pytest.mark.parametrize("rows", [2, 4])
def test_gradient_of_windows(rows):
    image, windows = own.uniform(1, 3, 2, 9, 7, low=-1), own.uniform(2, 1, rows, 6, low=1.1, high=5.9)
    grad = own.uniform(3, 3, 2, 2, 3, low=-1)

    def loss(windows: np.ndarray) -> float:
        return float((grad * grid.resample([image], windows, [2, 3], None)[0]).sum())

    ours = grid.windows_gradient([grad], [image], windows, None)
    assert ours.shape == windows.shape
    np.testing.assert_allclose(ours, gradient(loss, windows), rtol=0, atol=1e-7)


def test_nothing_is_read_left_of_the_image_and_nan_is_kept():
    image = np.full((1, 2, 4, 5), np.nan)
    windows = np.array([[[-1.0, 2.0, np.nan, 4.0], [-1.0, 1.0, 1.0, 9.0]]])
    (result,) = grid.resample([image], windows, [2, 2], None)
    np.testing.assert_array_equal(np.isnan(result[0]), [[[False, True], [True, True]]] * 2)
    (result,) = grid.resample([np.full((1, 2, 4, 5), 3.0)], windows, [2, 2], None)
    np.testing.assert_array_equal(result[0], [[[0, 3], [np.nan, 3]]] * 2)
    frame = np.full((1, 4, 5, 2), 3, np.uint8)
    result = grid.camera(frame, windows, (2, 2), [2.0, 1.0], [1.0, 0.0], None)
    np.testing.assert_array_equal(result[0], [[[0, 7], [np.nan, 7]], [[0, 3], [np.nan, 3]]])


def test_padding_is_not_read():
    image = own.uniform(1, 1, 2, 6, 7)
    image[:, :, 4:] = image[:, :, :, 5:] = np.nan
    windows = own.uniform(2, 1, 4, 12, low=0, high=4) * np.array([1, 0.75, 1, 1])[:, None]
    for rows in (2, 4):
        (result,) = grid.resample([image], windows[:, :rows], [3, 4], np.array([[[4, 5]]]))
        (expected,) = grid.resample([image[:, :, :4, :5]], windows[:, :rows], [3, 4], None)
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-15)
