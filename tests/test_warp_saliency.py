"""From saliency to warps of both kinds: what is drawn where, degenerate maps, NaN, cropping, exactness of what comes
out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import strategies as own
import torch
import torch.nn.functional as TF
from helpers import assert_bitwise, assert_near, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import EPS32, EPS64

from fastwarp import FastwarpError, MeshWarp, SeparableWarp
from fastwarp import functional as F
from fastwarp.reference import mesh as reference

classes = pytest.mark.parametrize("cls", [SeparableWarp, MeshWarp])


@classes
@pytest.mark.parametrize("value", [0.0, 1e-38, 1.0, 1e38, -3.0])
@pytest.mark.parametrize("anti_crop", [True, False])
def test_a_constant_map_is_the_identity(value, anti_crop, cls):
    warp = cls.from_saliency(torch.full((1, 7, 9), value), 5.0, anti_crop).check()
    # Negative saliency counts as zero, and everywhere zero is everywhere equal.
    assert_near(tensors(warp), tensors(cls.identity(1, (7, 9))))


@classes
def test_negative_cells_count_as_zero(cls):
    saliency = torch.rand(2, 5, 6) - 0.3
    signed, clamped = saliency.clone().requires_grad_(), saliency.clamp(min=0).requires_grad_()
    warp, expected = cls.from_saliency(signed), cls.from_saliency(clamped)
    assert_bitwise(tensors(warp), tensors(expected))
    (grad,) = torch.autograd.grad(tensors(warp)[0].square().sum(), signed)
    (expected_grad,) = torch.autograd.grad(tensors(expected)[0].square().sum(), clamped)
    assert not grad[saliency < 0].any()
    assert grad[saliency > 0].any()
    assert_near([grad[saliency > 0]], [expected_grad[saliency > 0]])


@classes
@pytest.mark.parametrize("scale", [1e-38, 1e38, 2.0**-20])
def test_saliency_has_no_scale(scale, cls):
    saliency = torch.rand(2, 5, 6) + 0.1
    wide = saliency.double()
    assert_near(tensors(cls.from_saliency(wide * scale)), tensors(cls.from_saliency(wide)))
    single = cls.from_saliency((wide * scale).float()).check()
    assert_near(tensors(single), tensors(cls.from_saliency(saliency)))


@classes
def test_half_precision_saliency_is_taken_up_to_fp32(cls):
    for saliency in (torch.rand(2, 6, 9).half(), torch.rand(2, 6, 9).bfloat16()):
        assert_bitwise(tensors(cls.from_saliency(saliency)), tensors(cls.from_saliency(saliency.float())))
    huge = torch.full((1, 5, 6), 65504.0).half()
    assert_near(tensors(cls.from_saliency(huge)), tensors(cls.identity(1, (5, 6))))


@classes
def test_zero_saliency_has_no_gradient(cls):
    saliency = torch.zeros(1, 5, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(cls.from_saliency(saliency).unzoom(torch.rand(1, 1, 9, 9)).sum(), saliency)
    assert torch.isfinite(grad).all()


@classes
def test_nan_in_one_image_stays_there(cls):
    saliency = torch.rand(3, 5, 6)
    good = cls.from_saliency(saliency[[0, 2]])
    saliency[1, 2, 3] = math.nan
    warp = cls.from_saliency(saliency)
    assert_bitwise(tensors(warp[[0, 2]]), tensors(good))
    assert all(torch.isnan(t[1]).all() for t in tensors(warp))
    first = {SeparableWarp: r"knots_y\[1, 0\] is nan", MeshWarp: r"30 vertices that are not finite \(image 1: \[0, 0\]"}
    with pytest.raises(FastwarpError, match=first[cls]):
        warp.check()
    image = torch.rand(3, 2, 9, 9)
    for antialias in (False, True):
        out = warp.zoom(image, (6, 6), antialias=antialias)
        assert_bitwise([out[[0, 2]]], [good.zoom(image[[0, 2]], (6, 6), antialias=antialias)])
        assert torch.isnan(out[1]).all()
        back = warp.unzoom(image, antialias=antialias)
        assert_bitwise([back[[0, 2]]], [good.unzoom(image[[0, 2]], antialias=antialias)])
        assert torch.isnan(back[1]).all()
    assert warp.inside((9, 9))[1].all()


@classes
def test_cropping_crops(cls):
    saliency = torch.full((2, 9, 12), 1e-3)
    saliency[0, 3:6, 4:7], saliency[1, 2:5, 6:9] = 1, 1
    saliency.requires_grad_()
    warp = cls.from_saliency(saliency, 6.0, anti_crop=False)
    assert all(t.min() > 0.05 for t in tensors(warp))
    assert all(t.max() < 0.95 for t in tensors(warp))
    inside = warp.inside((60, 80))
    assert 0.01 < inside.double().mean() < 0.95
    ones = torch.ones(2, 1, 30, 40)
    assert_near([warp.unzoom(ones, (60, 80))], [inside[:, None].float()])
    border = warp.unzoom(ones, (60, 80), padding_mode="border")
    assert_near([border], [torch.ones_like(border)])
    out = warp.unzoom(warp.zoom(torch.rand(2, 1, 60, 80), (30, 40)), (60, 80), padding_mode="border")
    (grad,) = torch.autograd.grad(out.square().sum(), saliency)
    assert torch.isfinite(grad).all()
    assert grad.any()


@pytest.mark.parametrize("kind", ["separable", "bilinear", "homography"])
def test_cropping_with_mass_at_the_edge_clamps_positions_together(kind):
    cls, options = (SeparableWarp, {}) if kind == "separable" else (MeshWarp, {"tile": kind})
    saliency = torch.full((1, 6, 9), 1e-4).requires_grad_()
    heavy = torch.zeros(1, 6, 9)
    heavy[0, :, 0] = 1
    warp = cls.from_saliency(saliency + heavy, 4.0, anti_crop=False, **options)
    if cls is SeparableWarp:
        assert (warp.check().knots_x[0, :2] == 0).all()
    else:
        assert (warp.mesh[0, :, :2, 0] == 0).all()
        assert len(warp.report().zero_area)
    image = torch.rand(1, 1, 12, 13).requires_grad_()
    for antialias in (False, True):
        out = warp.unzoom(warp.zoom(image, (10, 11)), antialias=antialias)
        grads = torch.autograd.grad(out.sum(), [saliency, image], retain_graph=True)
        assert all(torch.isfinite(t).all() for t in (out, *grads))


def test_one_hot_cell_draws_everything_in_reach():
    saliency = torch.zeros(1, 9, 11)
    saliency[0, 4, 7] = 1
    separable, mesh = SeparableWarp.from_saliency(saliency, 3.0).check(), MeshWarp.from_saliency(saliency, 3.0)
    weights, copies = [], (np.array([-4, 4, 12]), np.array([-7, 7, 13]))  # the cell and its mirror images
    for n, mirrored, knots in zip((9, 11), copies, (separable.knots_y[0], separable.knots_x[0]), strict=True):
        assert knots[0] == 0
        assert knots[-1] == 1
        distance = mirrored - np.arange(n)[:, None]
        weights.append(np.where(np.abs(distance) <= 8, np.exp(-4 * math.log(2) * distance**2 / 9), 0))
        drawn = weights[-1] @ mirrored / weights[-1].sum(1) / (n - 1)
        seen = (weights[-1].max(1) > 1e-3)[1:-1]  # else the floor, a uniform 1e-6 of the mean, has its share
        np.testing.assert_allclose(knots[1:-1].numpy()[seen], drawn[1:-1][seen], atol=1e-4)
    # What a mesh adds: a place is drawn by the product of both kernels.
    y, x = (w @ c / w.sum(1) / (n - 1) for w, c, n in zip(weights, copies, (9, 11), strict=True))
    seen = (weights[0].max(1)[:, None] * weights[1].max(1) > 1e-3)[1:-1, 1:-1]
    expected = np.stack(np.broadcast_arrays(x[None, 1:-1], y[1:-1, None]), -1)
    np.testing.assert_allclose(mesh.mesh[0, 1:-1, 1:-1].numpy()[seen], expected[seen], atol=1e-4)
    for warp in (separable, mesh):
        maps = warp.unzoom([torch.rand(1, 1, 30, 30), torch.rand(1, 1, 1, 1)], [(40, 50), (5, 8)])
        assert all(torch.isfinite(t).all() for t in maps)
        assert warp.inside((200, 300)).all()


# --- rows and columns -------------------------------------------------------------------------------------------------


def test_constructors_agree():
    saliency = torch.rand(2, 6, 9)
    warp = SeparableWarp.from_saliency(saliency, 4.0, False)
    marginals = SeparableWarp.from_marginals(saliency.sum(2), saliency.sum(1), 4.0, False)
    assert_near(tensors(marginals), tensors(warp))
    cdf = SeparableWarp.from_cdf(saliency.sum(2), saliency.sum(1), (5, None))
    assert cdf.knots_y.shape == (2, 5)
    assert cdf.knots_x.shape == (2, 10)
    mass = saliency.double().sum(1).numpy()
    for row, density in zip(cdf.knots_x, mass, strict=True):
        cumulative = np.concatenate([[0], np.cumsum(density)]) / density.sum()
        expected = np.interp(np.arange(10) / 9, cumulative, np.arange(10) / 9)
        np.testing.assert_allclose(row.numpy(), expected, atol=3e-6)  # a uniform 1e-6 is added


def test_zero_rows_in_reach_of_others_are_no_holes():
    saliency = torch.ones(1, 12, 12)
    saliency[:, 3:6] = 0
    warp = SeparableWarp.from_saliency(saliency, 1.0).check()
    assert (warp.knots_y.diff() >= 0).all()
    assert (warp.knots_y - torch.linspace(0, 1, 12)).abs().max() < 2.5 / 11  # nothing is drawn further than its gap


def test_all_zero_footprint_has_the_identity():
    saliency = torch.zeros(1, 40, 3)  # the kernel reaches min(h, w) - 1 = 2 cells
    saliency[:, :3] = 1
    warp = SeparableWarp.from_saliency(saliency, 2.0)
    torch.testing.assert_close(warp.knots_y[0, 6:], torch.arange(6, 40) / 39)


# --- meshes -----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(own.saliency(torch.float64, tuple(k for k in own.SALIENCY if k != "huge")), own.fwhms, st.booleans())
def test_lz_mesh_is_the_reference(saliency, fwhm, anti_crop):
    expected = reference.lz_mesh(saliency.numpy(), fwhm, anti_crop)
    assert np.abs(F.lz_mesh(saliency, fwhm, anti_crop).numpy() - expected).max() <= 1000 * EPS64
    single = saliency.float()
    expected = reference.lz_mesh(single.numpy(), fwhm, anti_crop)
    got = F.lz_mesh(single, fwhm, anti_crop)
    assert got.dtype == torch.float32
    assert np.abs(got.double().numpy() - expected).max() <= 1.01 * EPS32


@pytest.mark.parametrize("kind", ["dense", "sparse", "one_hot", "zero", "zero_rows", "negative", "tiny"])
def test_anti_crop_keeps_the_outline(kind):
    saliency = torch.from_numpy(own.saliency_map(kind, 5, 3, 8, 11)).float()
    mesh = F.lz_mesh(saliency, 4.0)
    for edge, value in ((mesh[:, :, 0, 0], 0), (mesh[:, :, -1, 0], 1), (mesh[:, 0, :, 1], 0), (mesh[:, -1, :, 1], 1)):
        assert (edge == value).all()
    assert mesh.min() == 0
    assert mesh.max() == 1
    warp = MeshWarp(mesh)
    assert warp.inside((97, 131)).all()
    maps = warp.unzoom(torch.ones(3, 1, 9, 7), (97, 131))
    torch.testing.assert_close(maps, torch.ones_like(maps))


# --- exactness --------------------------------------------------------------------------------------------------------


def saliency_maps(kind: str, count: int) -> torch.Tensor:
    noise = torch.rand(count, 31, 51)
    if kind == "random":
        return noise
    if kind == "smooth":
        return TF.avg_pool2d(noise[:, None] ** 8, 7, 1, 3)[:, 0]
    if kind == "spikes":
        return noise**60
    return noise * torch.logspace(-6, 0, 51)  # steep


@pytest.mark.parametrize("kind", ["random", "smooth", "spikes", "steep"])
def test_knots_are_inverted_and_every_target_is_filled(kind):
    height, width = 600, 960
    maps = 500
    warp = SeparableWarp.from_saliency(saliency_maps(kind, maps), 13.0 if kind != "spikes" else 4.0)
    for knots, size in ((warp.knots_y, height), (warp.knots_x, width)):
        assert (knots[:, 0] == 0).all()
        assert (knots[:, -1] == 1).all()
        assert (knots.diff() >= 0).all()
        x = (torch.arange(size, dtype=torch.float64) / (size - 1)).float().expand(maps, -1)
        u = F.axis_map(knots, x, inverse=True)
        back = F.axis_map(knots, u)
        error = (back.double() - x.double()).abs() * (size - 1)
        if kind != "spikes":  # equal or nearly equal knots leave u less than one float32 step to say where x is
            assert error.max() <= 1e-3
        assert u.min() == 0
        assert u.max() == 1
    windows = F.separable_windows(warp.knots_y, warp.knots_x, [(height, width)], [(75, 120)], inverse=True)
    assert (windows[:, 1] == 1).all()  # no target reads nothing, first and last row and column included
    assert (windows[:, 0, [0, height]] == 0).all()
    assert (windows[:, 0, height - 1] == 74).all()
    assert (windows[:, 0, -1] == 119).all()


@classes
@pytest.mark.parametrize("kind", ["random", "smooth", "spikes", "steep"])
def test_unzoom_inverts_zoom_and_fills_every_target(kind, cls):
    size, maps = (600, 960), 6
    warp = cls.from_saliency(saliency_maps(kind, maps), 13.0 if kind != "spikes" else 4.0)
    assert warp.inside(size).all()
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) + 0.5 for n in size), indexing="ij")
    places = torch.stack([x, y], -1).flatten(0, 1).expand(maps, -1, -1)
    zoomed = (warp.inverse_grid(size).double().flatten(1, 2) + 1) / 2 * torch.tensor([size[1] - 1, size[0] - 1]) + 0.5
    error = (warp.unzoom_points(zoomed, size, size) - places).norm(dim=-1)
    if kind != "spikes":  # tiles of no area leave u less than one float32 step to say where x is
        assert error.max() <= 2e-3
    ones = warp.unzoom(torch.ones(maps, 1, 38, 60), size)
    torch.testing.assert_close(ones, torch.ones_like(ones))
