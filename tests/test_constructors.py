"""Warps from offsets, functions and control points, and warps within limits of magnification."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import RBFInterpolator
from scipy.optimize import brentq

from fastwarp import FastwarpError, MeshWarp, SeparableWarp
from fastwarp import functional as F


def steep(batch=3, n=9, dtype=torch.float64):
    slopes = torch.rand(batch, n - 1, dtype=dtype) ** 4 + 1e-3
    knots = torch.cat([torch.zeros(batch, 1, dtype=dtype), slopes.cumsum(1)], 1)
    return knots / knots[:, -1:]


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minimum", "maximum"), [(0.5, 2.0), (0.5, None), (None, 1.5), (0.9, 1.1), (1, 1), (None, None)]
)
@pytest.mark.parametrize("n", [2, 3, 9, 64])
def test_limits_hold_and_proportions_stay(minimum, maximum, n):
    knots = steep(n=n)
    got = F.limited_knots(knots, minimum, maximum)
    low, high = 0 if maximum is None else 1 / maximum, np.inf if minimum is None else 1 / minimum
    for row, limited in zip(knots.numpy(), got.numpy(), strict=True):
        slopes = np.diff(row) * (n - 1)
        factor = brentq(lambda c, s=slopes: np.clip(c * s, low, high).sum() - (n - 1), 0, 1e6, xtol=1e-15, rtol=1e-14)
        expected = np.clip(factor * slopes, low, high)
        np.testing.assert_allclose(np.diff(limited) * (n - 1), expected, atol=1e-9)
    assert torch.equal(got[:, [0, -1]], knots[:, [0, -1]])


def test_limits_of_a_warp_hold_for_its_magnification():
    warp = SeparableWarp(steep(), steep(n=17)).limited(0.5, 2.0)
    area = warp.magnification((50, 70))
    assert 0.25 - 1e-9 <= area.min() <= area.max() <= 4 + 1e-9
    identity = SeparableWarp.identity(1, (5, 7))
    torch.testing.assert_close(identity.limited(0.5, 2.0).knots_x, identity.knots_x)


def test_equal_knots_part():
    knots = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(F.limited_knots(knots, minimum=1), torch.linspace(0, 1, 5, dtype=torch.float64)[None])


def test_limits_widen_to_the_average_of_a_cropping_warp():
    knots = torch.tensor([[0.4, 0.45, 0.5]], dtype=torch.float64)  # ten-fold on average
    torch.testing.assert_close(F.limited_knots(knots, maximum=2.0), knots)


def test_nan_knots_stay_nan_in_their_image():
    knots = steep()
    knots[1, 3] = torch.nan
    got = F.limited_knots(knots, 0.5, 2.0)
    assert torch.isnan(got[1, 1:-1]).all()
    assert torch.isfinite(got[[0, 2]]).all()


def test_gradient_of_limits():
    knots = steep().requires_grad_()
    torch.autograd.gradcheck(lambda k: F.limited_knots(k, 0.4, 1.7), knots)
    torch.autograd.gradgradcheck(lambda k: F.limited_knots(k, 0.4, 1.7), knots)


# --- meshes -----------------------------------------------------------------------------------------------------------


def test_offsets_in_cells():
    torch.testing.assert_close(MeshWarp.from_offsets(torch.zeros(2, 4, 5, 2)).mesh, MeshWarp.identity(2, (4, 5)).mesh)
    offsets = torch.zeros(1, 4, 5, 2, dtype=torch.float64)
    offsets[0, 1, 2] = torch.tensor([1.0, -1.0])  # a cell to the right, a cell up
    mesh = MeshWarp.from_offsets(offsets).mesh
    torch.testing.assert_close(mesh[0, 1, 2], torch.tensor([3 / 4, 0 / 3], dtype=torch.float64))


def test_offsets_in_pixels_sample_as_published():
    # ZoomDet's rule: pixel (i, j) of the result reads 2 (j + 0.5 + offset) / w - 1 with align_corners=False.
    offsets, image = torch.randn(1, 6, 8, 2, dtype=torch.float64) / 2, torch.rand(1, 2, 24, 40, dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(8) + 0.5, indexing="ij")
    grid = 2 * (torch.stack([x, y], -1) + offsets) / torch.tensor([8, 6]) - 1
    expected = torch.nn.functional.grid_sample(image, grid, align_corners=False, padding_mode="border")
    torch.testing.assert_close(MeshWarp.from_offsets(offsets, (24, 40)).zoom(image, (6, 8)), expected)


def test_function_is_sampled_at_the_vertices():
    def lens(p):
        middle = p - 0.5
        return 0.5 + middle * (0.8 + 0.4 * middle.square().sum(-1, keepdim=True))

    warp = MeshWarp.from_function(lens, (21, 31), dtype=torch.float64)
    grid = MeshWarp.identity(1, (21, 31), dtype=torch.float64).mesh
    assert torch.equal(warp.mesh, lens(grid))
    warp.check()
    several = MeshWarp.from_function(lambda p: torch.stack([p, lens(p)]), (4, 5))
    assert len(several) == 2


def test_control_points_agree_with_scipy():
    generator = np.random.default_rng(0)
    zoomed = generator.random((2, 7, 2))
    source = zoomed + generator.normal(size=(2, 7, 2)) / 20
    mesh = F.control_point_mesh(torch.tensor(zoomed), torch.tensor(source), (5, 6)).numpy()
    y, x = np.meshgrid(np.linspace(0, 1, 5), np.linspace(0, 1, 6), indexing="ij")
    places = np.stack([x, y], -1).reshape(-1, 2)
    for image in range(2):
        spline = RBFInterpolator(zoomed[image], source[image], kernel="thin_plate_spline", degree=1)
        np.testing.assert_allclose(mesh[image].reshape(-1, 2), spline(places), atol=1e-9)


def test_control_points_that_are_vertices_are_met():
    zoomed = torch.tensor([[[0.0, 0], [1, 0], [0, 1], [1, 1], [0.5, 0.5]]])
    source = zoomed.repeat(3, 1, 1)
    source[:, 4] += torch.tensor([[0.1, 0], [0, 0.1], [0, 0]])
    warp = MeshWarp.from_control_points(zoomed, source, (3, 3))
    torch.testing.assert_close(warp.mesh[:, 1, 1], source[:, 4])
    torch.testing.assert_close(warp.mesh[2:], MeshWarp.identity(1, (3, 3)).mesh, atol=1e-6, rtol=0)


def test_gradients_of_meshes():
    offsets = (torch.randn(1, 2, 3, 2, dtype=torch.float64) / 9).requires_grad_()
    torch.autograd.gradcheck(lambda o: F.offset_mesh(o, (9, 11)), offsets)
    points = torch.rand(2, 5, 2, dtype=torch.float64).requires_grad_()
    source = torch.rand(1, 5, 2, dtype=torch.float64).requires_grad_()
    torch.autograd.gradcheck(lambda z, s: F.control_point_mesh(z, s, (2, 3)), (points, source))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes_of_meshes(dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert F.offset_mesh(torch.zeros(1, 2, 2, 2, dtype=dtype)).dtype == wide
    corners = torch.tensor([[[0.0, 0], [1, 0], [0, 1]]], dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        mesh = F.control_point_mesh(corners, corners, (3, 3))
    assert mesh.dtype == wide
    torch.testing.assert_close(mesh, MeshWarp.identity(1, (3, 3), dtype=wide).mesh)


P = torch.tensor([[[0.0, 0], [1, 0], [0, 1]]])
BAD = [
    (lambda: F.limited_knots(torch.rand(2, 3, 4)), FastwarpError, "limited_knots: knots is of shape"),
    (lambda: F.limited_knots(steep(), 2), FastwarpError, "minimum is 2.0, expected a magnification in"),
    (lambda: F.limited_knots(steep(), 0), FastwarpError, "minimum is 0.0, expected a magnification in"),
    (lambda: F.limited_knots(steep(), None, 0.5), FastwarpError, "maximum is 0.5, expected a finite"),
    (lambda: F.limited_knots(steep(), None, float("nan")), FastwarpError, "maximum is nan, expected a finite"),
    (lambda: F.limited_knots(steep(), "a"), TypeError, "minimum is 'a', expected a number or None"),
    (lambda: F.offset_mesh(3), TypeError, "offset_mesh: offsets is int, expected a torch.Tensor"),
    (lambda: F.offset_mesh(torch.zeros(1, 2, 2, 3)), FastwarpError, "offsets is of shape [1, 2, 2, 3]"),
    (lambda: F.offset_mesh(torch.zeros(1, 1, 2, 2)), FastwarpError, "offsets is of shape [1, 1, 2, 2]"),
    (lambda: F.offset_mesh(torch.zeros(1, 2, 2, 2), (0, 3)), FastwarpError, "source_size is (0, 3)"),
    (lambda: F.function_mesh(3), TypeError, "function is int, expected a callable"),
    (lambda: F.function_mesh(lambda p: 3), TypeError, "what function returns is int"),
    (lambda: F.function_mesh(lambda p: p[:1]), FastwarpError, "what function returns is of shape [1, 1, 51, 2]"),
    (lambda: F.function_mesh(lambda p: p, (1, 3)), FastwarpError, "shape is (1, 3), expected at least 2 x 2"),
    (lambda: F.function_mesh(lambda p: p, dtype=torch.half), TypeError, "dtype is torch.float16, expected float32"),
    (lambda: F.control_point_mesh(P[:, :2], P[:, :2]), FastwarpError, "zoomed is of shape [1, 2, 2]"),
    (lambda: F.control_point_mesh(P, P.repeat(1, 2, 1)), FastwarpError, "source is 6 points, expected 3"),
    (lambda: F.control_point_mesh(P.repeat(2, 1, 1), P.repeat(3, 1, 1)), FastwarpError, "source is a batch of 3"),
    (lambda: F.control_point_mesh(P * 0, P), FastwarpError, "zoomed[0] is points that are equal or on a line"),
    (lambda: F.control_point_mesh(P.int(), P), TypeError, "zoomed has dtype int32"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_input_is_named(bad, error, message):
    with pytest.raises(error) as raised:
        bad()
    assert message in str(raised.value)
