"""The float64 reference against truths it does not share: the paper's sums written out, SciPy, torch, mathematics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.interpolate
import scipy.ndimage
import strategies as own
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastwarp.reference import axis, separable

few = settings(deadline=None, max_examples=30)

SHAPES = [(2, 2), (2, 9), (7, 4), (31, 51)]


def positive(seed: int, batch: int, h: int, w: int) -> np.ndarray:
    return own.uniform(seed, batch, h, w, low=0.05) ** 3


def both(saliency: np.ndarray, fwhm: float, anti_crop: bool) -> tuple[np.ndarray, np.ndarray]:
    """`(knots_y, knots_x)` of maps `[B, h, w]`."""
    return axis.lz_knots(saliency, saliency.transpose(0, 2, 1), fwhm, anti_crop)


def numerical_gradient(function, at: np.ndarray, step: float) -> np.ndarray:
    """Gradient of a scalar function by central differences."""
    result = np.zeros(at.shape)
    for index in np.ndindex(*at.shape):
        high, low = at.copy(), at.copy()
        high[index] += step
        low[index] -= step
        result[index] = (function(high) - function(low)) / (2 * step)
    return result


# --- saliency -> knots ------------------------------------------------------------------------------------------------


def paper_knots(marginal: np.ndarray, radius: int, fwhm: float, anti_crop: bool) -> list[float]:
    """Eq. 3 for one marginal, cell by cell; positions outside continue those inside."""
    n = len(marginal)
    knots = []
    for i in range(n):
        above = below = 0.0
        for cell in range(i - radius, i + radius + 1):
            inside = cell
            if anti_crop:
                inside = -cell if cell < 0 else cell
                inside = 2 * (n - 1) - inside if inside > n - 1 else inside
            else:
                inside = 0 if cell < 0 else n - 1 if cell > n - 1 else cell
            weight = marginal[inside] * math.exp(-4 * math.log(2) * (cell - i) ** 2 / fwhm**2)
            above += weight * cell / (n - 1)
            below += weight
        knots.append(min(max(above / below, 0.0), 1.0))
    return knots


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fwhm", [0.5, 3.0, 13.0, 100.0])
@pytest.mark.parametrize("anti_crop", [True, False])
def test_knots_are_the_sums_of_the_paper(shape, fwhm, anti_crop):
    saliency = positive(1, 2, *shape)
    for knots, marginals in zip(both(saliency, fwhm, anti_crop), (saliency.sum(2), saliency.sum(1)), strict=True):
        for row, marginal in zip(knots, marginals, strict=True):
            plain = paper_knots(marginal, min(shape) - 1, fwhm, anti_crop)
            np.testing.assert_allclose(row, plain, rtol=0, atol=2e-5)  # the paper has no floor
            floored = paper_knots(marginal + 1e-6 * marginal.mean(), min(shape) - 1, fwhm, anti_crop)
            np.testing.assert_allclose(row, floored, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("anti_crop", [True, False])
def test_knots_are_correlations_of_scipy(shape, anti_crop):
    saliency = positive(2, 1, *shape)
    radius, fwhm = min(shape) - 1, 6.0
    distance = np.arange(-radius, radius + 1)
    kernel = np.exp2(-4 * (distance / fwhm) ** 2)
    mode = "mirror" if anti_crop else "nearest"
    for knots, marginal in zip(both(saliency, fwhm, anti_crop), (saliency[0].sum(1), saliency[0].sum(0)), strict=True):
        marginal = marginal + 1e-6 * marginal.mean()
        pull = scipy.ndimage.correlate1d(marginal, kernel * distance, mode=mode)
        pull /= scipy.ndimage.correlate1d(marginal, kernel, mode=mode)
        expected = np.clip((np.arange(len(marginal)) + pull) / (len(marginal) - 1), 0, 1)
        np.testing.assert_allclose(knots[0], expected, rtol=0, atol=1e-14)


def test_many_cells_approach_the_integral():
    n, fwhm = 401, 40.0

    def density(x):
        return 1.2 + math.sin(7 * x) + 0.5 * math.cos(19 * x)

    def folded(x):
        return density(x if 0 <= x <= 1 else -x if x < 0 else 2 - x)

    knots, _ = axis.lz_knots(*[np.array([[[density(i / (n - 1))] for i in range(n)]])] * 2, fwhm, True)
    for i in (0, 17, 200, 333, 400):
        x, wide = i / (n - 1), fwhm / (n - 1)

        def kernel(other, x=x, wide=wide):
            return math.exp(-4 * math.log(2) * (other - x) ** 2 / wide**2)

        reach = {"a": x - 4 * wide, "b": x + 4 * wide, "points": [p for p in (0.0, 1.0) if abs(p - x) < 4 * wide]}
        above, _ = scipy.integrate.quad(lambda o, k=kernel: folded(o) * k(o) * o, **reach, epsabs=1e-12, limit=200)
        below, _ = scipy.integrate.quad(lambda o, k=kernel: folded(o) * k(o), **reach, epsabs=1e-12, limit=200)
        assert knots[0, i] == pytest.approx(above / below, abs=2e-6)


@pytest.mark.parametrize("anti_crop", [True, False])
@pytest.mark.parametrize("value", [1e-300, 0.3, 1e300])
def test_constant_saliency_is_the_identity(anti_crop, value):
    knots = both(np.full((1, 7, 12), value), 13.0, anti_crop)
    for row in knots:
        np.testing.assert_allclose(row[0], np.linspace(0, 1, row.shape[1]), rtol=0, atol=1e-15)


@pytest.mark.parametrize("anti_crop", [True, False])
def test_zero_saliency_is_the_identity(anti_crop):
    saliency = np.zeros((2, 9, 21))
    saliency[1, 4, 20] = 1.0  # a kernel of half a cell sees nothing but the floor elsewhere
    knots_y, knots_x = both(saliency, 0.5, anti_crop)
    np.testing.assert_allclose(knots_y[0], np.linspace(0, 1, 9), rtol=0, atol=1e-15)
    np.testing.assert_allclose(knots_x[0], np.linspace(0, 1, 21), rtol=0, atol=1e-15)
    np.testing.assert_allclose(knots_x[1, :17], np.linspace(0, 1, 21)[:17], rtol=0, atol=1e-12)
    np.testing.assert_allclose(knots_y[1, 4], 0.5, rtol=0, atol=1e-15)


@few
@given(own.saliency(torch.float64), own.fwhms)
def test_anti_crop_keeps_the_ends(saliency, fwhm):
    for knots in both(saliency.numpy(), fwhm, True):
        np.testing.assert_allclose(knots[:, 0], 0, rtol=0, atol=1e-14)
        np.testing.assert_allclose(knots[:, -1], 1, rtol=0, atol=1e-14)


def test_cropping_moves_the_ends_inwards():
    saliency = np.zeros((1, 9, 9))
    saliency[0, 4, 4] = 1.0
    knots_y, knots_x = both(saliency, 6.0, False)
    assert 0.2 < knots_y[0, 0] < knots_y[0, -1] < 0.8
    assert 0.2 < knots_x[0, 0] < knots_x[0, -1] < 0.8


@few
@given(own.saliency(torch.float64), own.fwhms, st.booleans())
def test_knots_never_decrease(saliency, fwhm, anti_crop):
    for knots in both(saliency.numpy(), fwhm, anti_crop):
        assert np.diff(knots).min() >= -1e-14
        assert knots.min() >= 0
        assert knots.max() <= 1


@few
@given(own.saliency(torch.float64), own.fwhms, st.booleans())
def test_flipped_saliency_flips_the_warp(saliency, fwhm, anti_crop):
    saliency = saliency.numpy()
    knots, flipped = both(saliency, fwhm, anti_crop), both(saliency[:, ::-1, ::-1], fwhm, anti_crop)
    for a, b in zip(knots, flipped, strict=True):
        np.testing.assert_allclose(b, 1 - a[:, ::-1], rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 7.0, 1e200])
@pytest.mark.parametrize("anti_crop", [True, False])
def test_scale_does_not_matter(scale, anti_crop):
    saliency = own.saliency_map("sparse", 5, 2, 13, 21)
    for a, b in zip(both(saliency, 4.0, anti_crop), both(scale * saliency, 4.0, anti_crop), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-13)


def test_negative_cells_count_as_zero_and_nan_stays_nan():
    saliency = own.saliency_map("negative", 3, 2, 6, 8)
    for a, b in zip(both(saliency, 5.0, True), both(saliency.clip(0), 5.0, True), strict=True):
        np.testing.assert_array_equal(a, b)
    saliency[1, 2, 3] = np.nan
    for knots, clean in zip(both(saliency, 5.0, True), both(saliency[:1], 5.0, True), strict=True):
        np.testing.assert_allclose(knots[:1], clean, rtol=0, atol=1e-14)
        assert np.isnan(knots[1]).all()


# --- T~ and its inverse -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", own.WARPS)
@pytest.mark.parametrize("n", [2, 3, 17])
def test_evaluation_is_linear_interpolation(kind, n):
    knots, u = own.knots(kind, 4, 1, n), own.uniform(5, 1, 200, low=-0.5, high=1.5)
    grid = np.linspace(0, 1, n)
    expected = scipy.interpolate.interp1d(grid, knots[0], fill_value="extrapolate")(u[0])
    np.testing.assert_allclose(axis.axis_map(knots, u, False)[0], expected, rtol=0, atol=1e-13)
    inside = np.clip(u, 0, 1)
    np.testing.assert_allclose(axis.axis_map(knots, inside, False)[0], np.interp(inside[0], grid, knots[0]), atol=1e-14)
    np.testing.assert_allclose(axis.axis_map(knots, grid[None], False), knots, rtol=0, atol=1e-15)


@pytest.mark.parametrize("kind", ["identity", "monotone", "steep", "cropping", "near_ends"])
@pytest.mark.parametrize("n", [2, 3, 17])
def test_inverse_is_interpolation_with_the_axes_swapped(kind, n):
    knots = own.knots(kind, 6, 1, n)
    x = knots[0, 0] + (knots[0, -1] - knots[0, 0]) * own.uniform(7, 1, 200)
    expected = np.interp(x[0], knots[0], np.linspace(0, 1, n))
    np.testing.assert_allclose(axis.axis_map(knots, x, True)[0], expected, rtol=0, atol=1e-12)
    outside = own.uniform(8, 1, 200, low=-1, high=2)
    expected = scipy.interpolate.interp1d(knots[0], np.linspace(0, 1, n), fill_value="extrapolate")(outside[0])
    np.testing.assert_allclose(axis.axis_map(knots, outside, True)[0], expected, rtol=1e-12, atol=1e-12)


@few
@given(st.sampled_from(own.WARPS[:-1]), own.seeds, st.integers(2, 40))
def test_inverse_inverts(kind, seed, n):
    knots = own.knots(kind, seed, 3, n)
    x = np.linspace(knots[:, 0], knots[:, -1], 301, axis=1)
    x = np.concatenate([x, knots], 1)  # the knots, the first and the last included
    u = axis.axis_map(knots, x, True)
    assert u.min() >= 0
    assert u.max() <= 1 + 1e-15
    np.testing.assert_allclose(axis.axis_map(knots, u, False), x, rtol=0, atol=1e-13)


def test_plateaus_are_inverted_towards_the_inside():
    knots = np.array([[0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0]])
    x = np.array([[-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25]])
    # 0 and what is below continue the piece after the plateau, 1 and what is above that before it; 0.5, in the
    # middle, is at the end of its plateau.
    np.testing.assert_allclose(axis.axis_map(knots, x, True)[0], np.array([0.5, 1, 1.5, 3, 3.5, 4, 4.5]) / 6)
    constant = np.full((1, 4), 0.3)
    np.testing.assert_allclose(axis.axis_map(constant, np.array([[0.1, 0.3, 0.4]]), True)[0], [2 / 3, 0, 0])


def test_nan_positions_and_knots_give_nan():
    knots = own.knots("monotone", 0, 2, 5)
    x = np.array([[0.5, np.nan]] * 2)
    for inverse in (False, True):
        np.testing.assert_array_equal(np.isnan(axis.axis_map(knots, x, inverse)), np.isnan(x))
        knots_nan = knots.copy()
        knots_nan[1] = np.nan
        assert np.isnan(axis.axis_map(knots_nan, x, inverse)[1]).all()


# --- windows ----------------------------------------------------------------------------------------------------------


def test_windows_of_a_zoom_are_the_warp_in_pixels():
    knots = own.knots("monotone", 1, 1, 9)
    windows = axis.axis_windows(knots, knots, [7, 30, 1, 2], [50, 61, 10, 1], False, False, False, None, None)
    assert windows.shape == (1, 2, 40)
    grids = [np.linspace(0, 1, 7), np.linspace(0, 1, 30), np.array([0.5]), np.array([0.0, 1.0])]
    expected = [
        np.interp(g, np.linspace(0, 1, 9), knots[0]) * (e - 1) for g, e in zip(grids, (50, 61, 10, 1), strict=True)
    ]
    np.testing.assert_allclose(windows[0, 0], np.concatenate(expected), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(windows[:, 1], 1)


@pytest.mark.parametrize("border", [False, True])
def test_windows_of_an_unzoom_fill_outside_the_range(border):
    knots = np.array([[0.25, 0.5, 0.75]])
    x = np.linspace(0, 1, 9)
    windows = axis.axis_windows(knots, knots, [9, 9], [101, 11], True, False, border, None, None)
    inside = (x >= 0.25) & (x <= 0.75)
    u = np.interp(x, knots[0], [0, 0.5, 1]) if border else np.where(inside, np.interp(x, knots[0], [0, 0.5, 1]), 0)
    np.testing.assert_allclose(windows[0, 0], np.concatenate([100 * u, 10 * u]), rtol=0, atol=1e-12)
    np.testing.assert_array_equal(windows[0, 1], np.tile(inside | border, 2))


def test_end_knots_are_compared_as_stored():
    knots = np.array([[0.0, 0.4, 0.9999994]], np.float32)
    windows = axis.axis_windows(knots, knots, [5, 5], [5, 5], True, False, False, None, None)
    np.testing.assert_array_equal(windows[0, 1], [1, 1, 1, 1, 0] * 2)  # 1.0 is beyond the last knot
    exact = np.array([[0.0, 0.4, 1.0]], np.float32)
    windows = axis.axis_windows(exact, exact, [5, 5], [5, 5], True, False, False, None, None)
    np.testing.assert_array_equal(windows[0, 1], 1)
    assert windows[0, 0, 4] == 4


def test_extents_span_the_valid_part():
    knots = own.knots("monotone", 2, 1, 6)
    valid, source_valid = np.array([[[5, 1]], [[0, 8]]]), np.array([[[11, 4]], [[3, 0]]])
    windows = axis.axis_windows(knots, knots, [7, 8], [20, 30], False, True, False, valid, source_valid)
    padded = axis.axis_windows(knots, knots, [5, 1], [11, 4], False, True, False, None, None)
    np.testing.assert_array_equal(windows[0][:, [0, 1, 2, 3, 4, 7]], padded[0])
    np.testing.assert_array_equal(windows[0][:, [5, 6, *range(8, 15)]], 0)
    np.testing.assert_array_equal(windows[1], 0)  # no target rows, no source columns


def test_antialias_widens_to_the_spacing():
    knots = np.array([[0.0, 0.8, 1.0]])
    windows = axis.axis_windows(knots, knots, [5, 1], [101, 9], False, True, False, None, None)
    np.testing.assert_allclose(windows[0, 0], [0, 40, 80, 90, 100, 6.4], rtol=0, atol=1e-12)
    np.testing.assert_allclose(windows[0, 1], [40, 40, 25, 10, 10, 8], rtol=0, atol=1e-12)
    finer = axis.axis_windows(knots, knots, [301, 301], [101, 101], False, True, False, None, None)
    np.testing.assert_array_equal(finer[0, 1], 1)


# --- resampling -------------------------------------------------------------------------------------------------------


def uniform_windows(target: int, source: int, antialias: bool) -> tuple[np.ndarray, np.ndarray]:
    """Centres and half-widths of the identity warp."""
    knots = np.array([[0.0, 1.0]])
    windows = axis.axis_windows(knots, knots, [target, 1], [source, 1], False, antialias, False, None, None)
    return windows[0, 0, :target], windows[0, 1, :target]


def torch_matrix(target: int, source: int, **options) -> np.ndarray:
    """Weights `[target, source]` of F.interpolate: what it makes of an identity matrix, whose columns it keeps."""
    image = torch.eye(source, dtype=torch.float64)[None, None]
    return torch.nn.functional.interpolate(image, (target, source), mode="bilinear", **options)[0, 0].numpy()


@pytest.mark.parametrize(("target", "source"), [(7, 13), (13, 7), (2, 9), (32, 32), (1, 1), (16, 61), (5, 2)])
def test_uniform_warp_is_torchs_bilinear(target, source):
    weights, _, _ = separable.weight_matrix(*uniform_windows(target, source, False), source, source)
    np.testing.assert_allclose(weights, torch_matrix(target, source, align_corners=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("target", "source"), [(7, 13), (3, 50), (2, 9), (31, 33), (16, 61), (1, 8), (13, 7)])
def test_antialias_is_torchs_at_its_centres(target, source):
    scale = source / target
    centre = scale * (np.arange(target) + 0.5) - 0.5
    weights, _, _ = separable.weight_matrix(centre, np.full(target, max(1.0, scale)), source, source)
    np.testing.assert_allclose(weights, torch_matrix(target, source, antialias=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("target", "source"), [(7, 13), (3, 50), (2, 9), (31, 33), (16, 61)])
def test_antialias_with_aligned_corners_is_torchs_but_for_its_shift(target, source):
    # torch keeps the spacing (D-1)/(m-1) of aligned corners, but shifts its centres as if corners were not aligned; its
    # last window is cut at the border. At these centres the operator agrees, at the corners' own it is symmetric.
    scale = (source - 1) / (target - 1)
    shifted = scale * (np.arange(target) + 0.5) - 0.5
    weights, _, _ = separable.weight_matrix(shifted, np.full(target, max(1.0, scale)), source, source)
    expected = torch_matrix(target, source, antialias=True, align_corners=True)
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-12)
    centre, width = uniform_windows(target, source, True)
    np.testing.assert_allclose(centre, scale * np.arange(target), rtol=0, atol=1e-12)
    np.testing.assert_allclose(width, max(1.0, scale), rtol=0, atol=1e-12)
    ours, _, _ = separable.weight_matrix(centre, width, source, source)
    np.testing.assert_allclose(ours, ours[::-1, ::-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("inverse", [False, True])
def test_resampling_is_grid_sample(inverse):
    knots_y, knots_x = own.knots("monotone", 3, 2, 8), own.knots("steep", 4, 2, 6)
    image = own.uniform(5, 2, 3, 17, 23)
    windows = axis.axis_windows(knots_y, knots_x, [12, 9], [17, 23], inverse, False, True, None, None)
    (result,) = separable.resample([image], windows, [12, 9], None)
    y, x = windows[:, 0, :12] / 16 * 2 - 1, windows[:, 0, 12:] / 22 * 2 - 1
    grid = np.stack(np.broadcast_arrays(x[:, None, :], y[:, :, None]), -1)
    expected = torch.nn.functional.grid_sample(
        torch.from_numpy(image), torch.from_numpy(grid), mode="bilinear", padding_mode="border", align_corners=True
    )
    np.testing.assert_allclose(result, expected.numpy(), rtol=0, atol=1e-12)


def test_thin_stripes_shrink_to_their_mean():
    stripes = np.zeros((1, 1, 64, 512))
    stripes[..., 3::8] = 1.0
    sharp = axis.axis_windows(*[np.array([[0.0, 1.0]])] * 2, [8, 64], [64, 512], False, False, False, None, None)
    smooth = axis.axis_windows(*[np.array([[0.0, 1.0]])] * 2, [8, 64], [64, 512], False, True, False, None, None)
    (aliased,) = separable.resample([stripes], sharp, [8, 64], None)
    (antialiased,) = separable.resample([stripes], smooth, [8, 64], None)
    assert aliased[0, 0, 0, :8].max() == 0.0  # between the stripes, although an eighth of the image is white
    # 511/63 instead of 8 between centres, and half a window at the ends.
    np.testing.assert_allclose(antialiased[..., 1:-1], 1 / 8, rtol=0, atol=0.01)


@pytest.mark.parametrize("antialias", [False, True])
def test_weights_are_means(antialias):
    knots_y, knots_x = own.knots("equal", 3, 1, 8), own.knots("cropping", 4, 1, 6)
    windows = axis.axis_windows(knots_y, knots_x, [9, 20], [40, 33], False, antialias, False, None, None)
    for first, size, source in ((0, 9, 40), (9, 20, 33)):
        weights, _, _ = separable.weight_matrix(*windows[0, :, first : first + size], source, source)
        assert weights.min() >= 0
        np.testing.assert_allclose(weights.sum(1), 1, rtol=0, atol=1e-14)
        # A window that the border does not cut is symmetric: with half-width 1 its mean is its centre.
        if not antialias:
            np.testing.assert_allclose(weights @ np.arange(source), windows[0, 0, first : first + size], atol=1e-12)


def test_padding_and_empty_windows_read_nothing():
    weights, by_centre, by_width = separable.weight_matrix(np.array([2.0, 3.9, 0.0]), np.array([3.0, 1.0, 0.0]), 5, 9)
    np.testing.assert_array_equal(weights[:, 5:], 0)
    np.testing.assert_allclose(weights[0, :5], np.array([1, 2, 3, 2, 1]) / 9)
    np.testing.assert_allclose(weights[1, :5], [0, 0, 0, 0.1, 0.9], atol=1e-15)
    for matrix in (weights, by_centre, by_width):
        np.testing.assert_array_equal(matrix[2], 0)


def test_camera_is_resampling_and_normalisation():
    frame = np.random.default_rng(0).integers(0, 256, (2, 9, 11, 3), np.uint8)
    knots = np.array([[0.2, 0.5, 0.9]])
    windows = axis.axis_windows(knots, knots, [6, 7], [9, 11], True, False, False, None, None)
    scale, bias = [0.5, 2.0, 3.0], [1.0, -1.0, 4.0]
    result = separable.camera(frame, windows, (6, 7), scale, bias, None)
    (planes,) = separable.resample([frame.transpose(0, 3, 1, 2)], windows, [6, 7], None)
    filled = (windows[0, 1, :6, None] > 0) & (windows[0, 1, 6:] > 0)
    assert 0 < filled.sum() < filled.size
    for c in range(3):
        np.testing.assert_allclose(result[:, c], np.where(filled, planes[:, c] * scale[c] + bias[c], 0), atol=1e-12)


# --- vector-Jacobian products against numerical differentiation -------------------------------------------------------


@pytest.mark.parametrize("anti_crop", [True, False])
@pytest.mark.parametrize("kind", ["dense", "zero_rows"])
def test_lz_knots_backward(anti_crop, kind):
    y, x = own.uniform(1, 2, 5, low=0.2), own.uniform(2, 2, 8, low=0.2)
    if kind == "zero_rows":
        y[:, :2], x[1, 5:] = 0, 0
    grad_y, grad_x = own.uniform(3, 2, 5) - 0.5, own.uniform(4, 2, 8) - 0.5

    def loss(y, x):
        # The marginals go in as they are: the maximum with 0 is not what is differentiated here.
        knots = [np.clip(axis._lz_axis(m, 4, 4.0, anti_crop)[0], 0, 1) for m in (y, x)]
        return (knots[0] * grad_y).sum() + (knots[1] * grad_x).sum()

    ours = axis.lz_knots_backward(grad_y, grad_x, y[..., None], x[..., None], 4.0, anti_crop)
    np.testing.assert_allclose(ours[0], numerical_gradient(lambda v: loss(v, x), y, 1e-7), rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(ours[1], numerical_gradient(lambda v: loss(y, v), x, 1e-7), rtol=2e-5, atol=1e-7)


def test_lz_knots_backward_is_zero_where_clamped():
    y = np.array([[5.0, 1.0, 1.0, 1.0, 0.1]])  # the first position is drawn outside and clamped
    assert axis._lz_axis(y, 4, 4.0, False)[0][0, 0] < 0
    hot = np.array([[1.0, 0.0, 0.0, 0.0, 0.0]])
    by_y, by_x = axis.lz_knots_backward(hot, hot, y[..., None], y[..., None], 4.0, False)
    np.testing.assert_array_equal(by_y, 0)
    np.testing.assert_array_equal(by_x, 0)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_axis_map_backward(inverse, shared):
    knots = own.knots("monotone", 1, 1 if shared else 3, 6)
    positions, grad = own.uniform(2, 3, 20, low=-0.3, high=1.3), own.uniform(3, 3, 20) - 0.5

    def loss(knots, positions):
        return (axis.axis_map(knots, positions, inverse) * grad).sum()

    ours = axis.axis_map_backward(grad, knots, positions, inverse)
    np.testing.assert_allclose(ours[0], numerical_gradient(lambda k: loss(k, positions), knots, 1e-7), atol=1e-6)
    np.testing.assert_allclose(ours[1], numerical_gradient(lambda p: loss(knots, p), positions, 1e-7), atol=1e-6)


def test_gradients_with_equal_knots_are_finite():
    knots = np.array([[0.0, 0.0, 0.5, 0.5, 1.0, 1.0]])
    x = np.array([[0.0, 0.2, 0.5, 0.7, 1.0]])
    for gradient in axis.axis_map_backward(np.ones((1, 5)), knots, x, True):
        assert np.isfinite(gradient).all()
    constant = np.full((1, 4), 0.3)
    for gradient in axis.axis_map_backward(np.ones((1, 5)), constant, x, True):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("border", [False, True])
def test_axis_windows_backward(inverse, antialias, border):
    # Away from 0 and 1, where the clamp has a kink.
    knots_y, knots_x = own.knots("cropping", 1, 1, 5), 0.05 + 0.9 * own.knots("monotone", 2, 2, 4)
    sizes, source_sizes = [7, 11, 1, 3], [30, 4, 9, 40]
    valid, source_valid = np.array([[[6, 9], [1, 2]]]), np.array([[[25, 4], [9, 31]], [[3, 2], [5, 40]]])
    grad = own.uniform(4, 2, 2, sum(sizes)) - 0.5
    options = (sizes, source_sizes, inverse, antialias, border, valid, source_valid)

    def loss(knots_y, knots_x):
        return (axis.axis_windows(knots_y, knots_x, *options) * grad).sum()

    ours = axis.axis_windows_backward(grad, knots_y, knots_x, *options)
    assert np.abs(ours[0]).max() > 1
    np.testing.assert_allclose(ours[0], numerical_gradient(lambda k: loss(k, knots_x), knots_y, 1e-7), atol=2e-5)
    np.testing.assert_allclose(ours[1], numerical_gradient(lambda k: loss(knots_y, k), knots_x, 1e-7), atol=2e-5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_resampling_backward(shared, antialias):
    sizes, source_sizes = [4, 3, 2, 5], [6, 9, 3, 4]
    images = [own.uniform(1, 2, 2, 6, 9), own.uniform(2, 2, 1, 3, 4)]
    grads = [own.uniform(3, 2, 2, 4, 3) - 0.5, own.uniform(4, 2, 1, 2, 5) - 0.5]
    knots = [own.knots(kind, 5, 1 if shared else 2, 5) for kind in ("monotone", "cropping")]
    source_valid = np.array([[[5, 9], [3, 2]], [[6, 4], [1, 4]]])[: 1 if shared else 2]
    windows = axis.axis_windows(*knots, sizes, source_sizes, False, antialias, False, None, source_valid)

    def loss(images, windows):
        results = separable.resample(images, windows, sizes, source_valid)
        return sum((r * g).sum() for r, g in zip(results, grads, strict=True))

    by_images = separable.resample_adjoint(grads, windows, source_sizes, source_valid)
    for level in range(2):

        def replaced(image, level=level):
            return loss([image if i == level else other for i, other in enumerate(images)], windows)

        np.testing.assert_allclose(by_images[level], numerical_gradient(replaced, images[level], 1e-4), atol=1e-10)
    by_windows = separable.windows_gradient(grads, images, windows, source_valid)
    # One-sided differences: the derivative by a centre on a pixel, as the first and the last are, is the one towards
    # larger coordinates.
    step = 1e-7
    for index in np.ndindex(*windows.shape):
        moved = windows.copy()
        moved[index] += step
        centre, width = windows[index[0], :, index[2]]
        if index[1] == 1 and (centre - width) % 1 == 0:
            continue  # a pixel enters here: another kink
        slope = (loss(images, moved) - loss(images, windows)) / step
        assert by_windows[index] == pytest.approx(slope, abs=1e-5)
