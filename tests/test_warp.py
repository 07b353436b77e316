"""SeparableWarp: the object, degenerate saliency, geometry in every form against NumPy, padded batches, exactness."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from helpers import assert_bitwise, assert_near, evaluate, grid, invert, random_warp, sample, tensors
from torch.utils import _pytree as pytree

from fastwarp import FastwarpError, SeparableWarp
from fastwarp import functional as F


def knots_of(warp: SeparableWarp) -> list[torch.Tensor]:
    return [warp.knots_y, warp.knots_x]


# --- the object -------------------------------------------------------------------------------------------------------


def test_is_frozen():
    warp = random_warp()
    with pytest.raises(AttributeError):
        warp.knots_y = warp.knots_x


def test_is_a_pytree():
    warp = random_warp()
    leaves, spec = pytree.tree_flatten({"warp": warp, "other": 3})
    assert_bitwise(leaves[:2], knots_of(warp))
    again = pytree.tree_unflatten(leaves, spec)["warp"]
    assert isinstance(again, SeparableWarp)
    assert_bitwise(knots_of(again), knots_of(warp))
    doubled = pytree.tree_map(torch.Tensor.double, warp)
    assert doubled.knots_y.dtype == torch.float64
    # Trees are also rebuilt around placeholders.
    assert pytree.tree_map(lambda _: "leaf", warp).knots_x == "leaf"


def test_passes_through_compiled_functions():
    def halve(warp, image):
        return warp.zoom(image, (4, 4)), SeparableWarp(warp.knots_y * 0.5, warp.knots_x)

    warp, image = random_warp(), torch.rand(2, 1, 8, 8)
    small, other = torch.compile(halve, fullgraph=True, backend="aot_eager")(warp, image)
    assert_near([small, *knots_of(other)], [warp.zoom(image, (4, 4)), warp.knots_y * 0.5, warp.knots_x])
    assert isinstance(other, SeparableWarp)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies(dtype):
    warp = random_warp(3, dtype=dtype)
    file = io.BytesIO()
    torch.save(warp, file)
    file.seek(0)
    for again in (
        copy.deepcopy(warp),
        pickle.loads(pickle.dumps(warp)),
        torch.load(file, weights_only=False),
        warp.to("cpu"),
        warp.to(dtype=dtype),
        warp.detach(),
        SeparableWarp.cat([warp[0], warp[1:]]),
    ):
        assert isinstance(again, SeparableWarp)
        assert_bitwise(knots_of(again), knots_of(warp))
    assert copy.deepcopy(warp).knots_y.data_ptr() != warp.knots_y.data_ptr()


def test_to_changes_dtype_and_device():
    warp = random_warp()
    assert_bitwise(knots_of(warp.to(dtype=torch.float64)), [k.double() for k in knots_of(warp)])
    assert warp.to("meta").knots_x.device.type == "meta"


def test_detach_stops_gradients_and_to_does_not():
    saliency = torch.rand(1, 4, 5).requires_grad_()
    warp = SeparableWarp.from_saliency(saliency)
    assert not warp.detach().knots_y.requires_grad
    assert warp.to(dtype=torch.float64)[0].knots_x.requires_grad


def test_indexing():
    warp = random_warp(5)
    y = warp.knots_y
    assert len(warp) == 5
    for index, expected in (
        (1, y[1:2]),
        (-1, y[4:5]),
        (slice(1, 4, 2), y[1:4:2]),
        (slice(0, 0), y[:0]),
        (torch.tensor([3, 0]), y[[3, 0]]),
        ([3, 0], y[[3, 0]]),
        (torch.tensor([True, False, True, False, False]), y[[0, 2]]),
    ):
        assert_bitwise([warp[index].knots_y], [expected])
        assert len(warp[index]) == len(expected)
    assert [len(w) for w in warp] == [1] * 5  # iterates
    for index in (5, -6):
        with pytest.raises(IndexError, match="batch of 5"):
            warp[index]


def test_indexing_where_one_axis_is_shared():
    warp = SeparableWarp(random_warp(1).knots_y, random_warp(3).knots_x)
    assert len(warp) == 3
    assert_bitwise(knots_of(warp[2]), [warp.knots_y, warp.knots_x[2:]])
    assert_bitwise(knots_of(warp[1:]), [warp.knots_y.expand(2, -1), warp.knots_x[1:]])


def test_repr_says_what_it_is():
    text = repr(random_warp(3, (4, 6), torch.float64))
    assert text == "SeparableWarp(batch=3, knots=(4, 6), torch.float64, device='cpu')"


@pytest.mark.parametrize("size", [(7, 9), (1, 1), (2, 31)])
def test_identity_is_the_identity(size):
    warp = SeparableWarp.identity(1, (5, 6))
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    wide = SeparableWarp.identity(1, (5, 6), dtype=torch.float64)
    for antialias in (False, True):
        torch.testing.assert_close(wide.zoom(image, size, antialias=antialias), image, rtol=0, atol=1e-12)
        torch.testing.assert_close(wide.unzoom(image, antialias=antialias), image, rtol=0, atol=1e-12)
    expected = TF.interpolate(image, (4, 5), mode="bilinear", align_corners=True)
    torch.testing.assert_close(wide.zoom(image, (4, 5)), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(warp.magnification(size), torch.ones(1, *size))
    assert warp.inside(size).all()
    exact = SeparableWarp.identity(3, (4, 7), dtype=torch.float64)
    np.testing.assert_allclose(exact.knots_x.numpy(), np.tile(np.arange(7) / 6, (3, 1)), atol=1e-15)


def test_constructors_agree():
    saliency = torch.rand(2, 6, 9)
    warp = SeparableWarp.from_saliency(saliency, 4.0, False)
    marginals = SeparableWarp.from_marginals(saliency.sum(2), saliency.sum(1), 4.0, False)
    assert_near(knots_of(marginals), knots_of(warp))
    cdf = SeparableWarp.from_cdf(saliency.sum(2), saliency.sum(1), (5, None))
    assert cdf.knots_y.shape == (2, 5)
    assert cdf.knots_x.shape == (2, 10)
    mass = saliency.double().sum(1).numpy()
    for row, density in zip(cdf.knots_x, mass, strict=True):
        cumulative = np.concatenate([[0], np.cumsum(density)]) / density.sum()
        expected = np.interp(np.arange(10) / 9, cumulative, np.arange(10) / 9)
        np.testing.assert_allclose(row.numpy(), expected, atol=3e-6)  # a uniform 1e-6 is added


def test_half_precision_saliency_is_taken_up_to_fp32():
    saliency = torch.rand(2, 6, 9).half()
    assert_bitwise(
        knots_of(SeparableWarp.from_saliency(saliency)), knots_of(SeparableWarp.from_saliency(saliency.float()))
    )


def test_check_names_the_first_bad_knot():
    warp = random_warp(3, (4, 6))
    assert warp.check() is warp
    bad = warp.knots_x.clone()
    bad[1, 3] = bad[1, 2] - 0.01
    with pytest.raises(FastwarpError, match=r"SeparableWarp.check: knots_x\[1, 2:4\] is \[.*\], expected knots that"):
        SeparableWarp(warp.knots_y, bad).check()
    bad[2, 4] = math.inf
    with pytest.raises(FastwarpError, match=r"SeparableWarp.check: knots_x\[2, 4\] is inf, expected finite"):
        SeparableWarp(warp.knots_y, bad).check()
    equal = warp.knots_x.clone()
    equal[:, 2] = equal[:, 1]
    SeparableWarp(warp.knots_y, equal).check()


# --- degenerate saliency ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 1e-38, 1.0, 1e38, -3.0])
@pytest.mark.parametrize("anti_crop", [True, False])
def test_a_constant_map_is_the_identity_as_far_as_it_is_padded_evenly(value, anti_crop):
    saliency = torch.full((1, 7, 9), value)
    identity = SeparableWarp.identity(1, (7, 9))
    warp = SeparableWarp.from_saliency(saliency, 5.0, anti_crop)
    # Negative saliency counts as zero, and everywhere zero is everywhere equal.
    assert_near(knots_of(warp), knots_of(identity))


def test_one_hot_cell_draws_everything_in_reach():
    saliency = torch.zeros(1, 9, 11)
    saliency[0, 4, 7] = 1
    warp = SeparableWarp.from_saliency(saliency, 3.0).check()
    for knots, n, hot in ((warp.knots_y[0], 9, 4), (warp.knots_x[0], 11, 7)):
        copies = np.array([-hot, hot, 2 * (n - 1) - hot])  # the cell and its mirror images
        assert knots[0] == 0
        assert knots[-1] == 1
        for i in range(1, n - 1):
            distance = copies - i
            k = np.where(np.abs(distance) <= 8, np.exp(-4 * math.log(2) * distance**2 / 9), 0)
            if k.max() > 1e-3:  # else the floor, a uniform 1e-6 of the mean, has its share
                assert knots[i].item() == pytest.approx((k @ copies) / k.sum() / (n - 1), abs=1e-4)
    assert all(torch.isfinite(t).all() for t in tensors(warp.unzoom([torch.rand(1, 1, 30, 30)])))


def test_cropping_with_mass_at_the_edge_clamps_to_equal_knots():
    saliency = torch.full((1, 6, 9), 1e-4).requires_grad_()
    heavy = torch.zeros(1, 6, 9)
    heavy[0, :, 0] = 1
    warp = SeparableWarp.from_saliency(saliency + heavy, 4.0, anti_crop=False).check()
    x = warp.knots_x[0]
    assert (x[:2] == x[0]).all()
    assert x[0] == 0
    image = torch.rand(1, 1, 12, 13).requires_grad_()
    out = warp.unzoom(warp.zoom(image, (10, 11)))
    grads = torch.autograd.grad(out.sum(), [saliency, image])
    assert all(torch.isfinite(t).all() for t in (out, *grads))


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


def test_nan_in_one_image_stays_there():
    saliency = torch.rand(3, 5, 6)
    good = SeparableWarp.from_saliency(saliency[[0, 2]])
    saliency[1, 2, 3] = math.nan
    warp = SeparableWarp.from_saliency(saliency)
    assert_bitwise(knots_of(warp[[0, 2]]), knots_of(good))
    assert torch.isnan(warp.knots_y[1]).all()
    assert torch.isnan(warp.knots_x[1]).all()
    with pytest.raises(FastwarpError, match=r"knots_y\[1, 0\] is nan"):
        warp.check()
    image = torch.rand(3, 2, 9, 9)
    for antialias in (False, True):
        out = warp.zoom(image, (6, 6), antialias=antialias)
        assert_bitwise([out[[0, 2]]], [good.zoom(image[[0, 2]], (6, 6), antialias=antialias)])
        assert torch.isnan(out[1]).all()


def test_negative_cells_count_as_zero():
    saliency = torch.rand(2, 5, 6) - 0.3
    signed, clamped = saliency.clone().requires_grad_(), saliency.clamp(min=0).requires_grad_()
    warp, expected = SeparableWarp.from_saliency(signed), SeparableWarp.from_saliency(clamped)
    assert_bitwise(knots_of(warp), knots_of(expected))
    (grad,) = torch.autograd.grad(warp.knots_y.square().sum(), signed)
    (expected_grad,) = torch.autograd.grad(expected.knots_y.square().sum(), clamped)
    assert not grad[saliency < 0].any()
    assert_near([grad[saliency > 0]], [expected_grad[saliency > 0]])


@pytest.mark.parametrize("scale", [1e-38, 1e38, 2.0**-20])
def test_saliency_has_no_scale(scale):
    saliency = torch.rand(2, 5, 6) + 0.1
    assert_near(
        knots_of(SeparableWarp.from_saliency(saliency.double() * scale)),
        knots_of(SeparableWarp.from_saliency(saliency.double())),
    )
    single = SeparableWarp.from_saliency((saliency.double() * scale).float()).check()
    assert_near(knots_of(single), knots_of(SeparableWarp.from_saliency(saliency)))


def test_huge_half_precision_saliency():
    saliency = torch.full((1, 5, 6), 65504.0).half()
    assert_near(knots_of(SeparableWarp.from_saliency(saliency)), knots_of(SeparableWarp.identity(1, (5, 6))))


# --- geometry against NumPy -------------------------------------------------------------------------------------------


SOURCE, ZOOMED = (37, 61), (13, 1)


def pixels(normalised: np.ndarray, size: int) -> np.ndarray:
    return (normalised - (0.5 if size == 1 else 0)) * max(size - 1, 1) + 0.5


def positions(pixel: np.ndarray, size: int) -> np.ndarray:
    return (pixel - 0.5) / max(size - 1, 1) + (0.5 if size == 1 else 0)


def extrapolated(x: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """np.interp that continues the first and the last piece."""
    i = np.clip(np.searchsorted(xs, x, side="right") - 1, 0, len(xs) - 2)
    return ys[i] + (x - xs[i]) / (xs[i + 1] - xs[i]) * (ys[i + 1] - ys[i])


@pytest.mark.parametrize("zoomed", [(13, 24), (13, 1), (1, 1)])
def test_points_against_numpy(zoomed):
    warp = random_warp(2, (5, 7), torch.float64, (0.1, 0.9))
    points = torch.rand(2, 200, 2, dtype=torch.float64) * 80 - 10  # beyond the image, too
    there = warp.zoom_points(points, SOURCE, zoomed)
    back = warp.unzoom_points(points, SOURCE, zoomed)
    for b in range(2):
        for axis, knots in ((0, warp.knots_y[b].numpy()), (1, warp.knots_x[b].numpy())):
            p = points[b, :, 1 - axis].numpy()
            u = extrapolated(positions(p, SOURCE[axis]), knots, grid(len(knots)))
            np.testing.assert_allclose(there[b, :, 1 - axis].numpy(), pixels(u, zoomed[axis]), rtol=1e-12, atol=1e-9)
            x = extrapolated(positions(p, zoomed[axis]), grid(len(knots)), knots)
            np.testing.assert_allclose(back[b, :, 1 - axis].numpy(), pixels(x, SOURCE[axis]), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("zoomed", [(13, 24), (1, 1), (74, 122)])
def test_points_and_boxes_go_there_and_back(zoomed):
    warp = random_warp(2, (5, 7), torch.float32)
    points = torch.rand(2, 100, 2) * 80 - 10
    again = warp.unzoom_points(warp.zoom_points(points, SOURCE, zoomed), SOURCE, zoomed)
    torch.testing.assert_close(again, points, rtol=0, atol=1e-3)
    corners = torch.rand(2, 50, 2) * 50
    boxes = torch.cat([corners, corners + torch.rand(2, 50, 2) * 20], 2)
    mapped = warp.zoom_boxes(boxes, SOURCE, zoomed)
    assert (mapped[..., 2:] >= mapped[..., :2]).all()
    assert_bitwise([mapped[..., :2]], [warp.zoom_points(boxes[..., :2].contiguous(), SOURCE, zoomed)])
    assert_bitwise([mapped[..., 2:]], [warp.zoom_points(boxes[..., 2:].contiguous(), SOURCE, zoomed)])
    torch.testing.assert_close(warp.unzoom_boxes(mapped, SOURCE, zoomed), boxes, rtol=0, atol=1e-3)
    single = warp[1].zoom_boxes(boxes[1], SOURCE, zoomed)
    assert_bitwise([single], [mapped[1]])


def test_corners_are_those_of_the_boxes():
    warp = random_warp(2, (5, 7), torch.float64)
    boxes = torch.rand(2, 9, 4, dtype=torch.float64) * 30
    for name in ("zoom", "unzoom"):
        mapped = getattr(warp, f"{name}_boxes")(boxes, SOURCE, (13, 24))
        corners = getattr(warp, f"{name}_corners")(boxes, SOURCE, (13, 24))
        assert corners.shape == (2, 9, 4, 2)
        x1, y1, x2, y2 = mapped.unbind(-1)
        clockwise = [torch.stack(corner, -1) for corner in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
        assert_bitwise([corners], [torch.stack(clockwise, 2)])
        assert_bitwise([getattr(warp[1], f"{name}_corners")(boxes[1], SOURCE, (13, 24))], [corners[1]])


def test_boxes_of_the_identity():
    warp = SeparableWarp.identity()
    boxes = torch.tensor([[0.5, 0.5, 61.0, 37.0], [10.25, 3.0, 20.0, 4.5]])
    assert_near([warp.zoom_boxes(boxes, SOURCE, SOURCE)], [boxes])
    # Pixel centres go to pixel centres: (p - 0.5) / (D - 1).
    doubled = warp.zoom_boxes(boxes, SOURCE, (73, 121))
    assert_near([doubled], [(boxes - 0.5) * 2 + 0.5])


def test_points_of_padded_batches():
    warp = random_warp(2)
    points = torch.rand(2, 9, 2) * 20
    source, zoomed = torch.tensor([[30, 40], [25, 1]]), torch.tensor([[15, 20], [7, 9]])
    got = warp.zoom_points(points, source, zoomed)
    for b in range(2):
        alone = warp[b].zoom_points(points[b : b + 1], tuple(source[b].tolist()), tuple(zoomed[b].tolist()))
        assert_near([got[b : b + 1]], [alone])


def test_points_keep_precision_and_take_half():
    warp = random_warp(1)
    points = torch.rand(1, 4, 2) * 30
    assert warp.zoom_points(points.half(), SOURCE, (9, 9)).dtype == torch.float32
    assert warp.zoom_points(points.double(), SOURCE, (9, 9)).dtype == torch.float64


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.08, 0.93)])
def test_zoom_and_unzoom_against_numpy(ends):
    warp = random_warp(2, (5, 7), torch.float64, ends)
    image = torch.rand(2, 3, 19, 23, dtype=torch.float64)
    small, back = warp.zoom(image, (11, 12)), warp.unzoom(image, (17, 31))
    border, inside = warp.unzoom(image, (17, 31), padding_mode="border"), warp.inside((17, 31))
    for b in range(2):
        y, x = evaluate(warp.knots_y[b], grid(11)), evaluate(warp.knots_x[b], grid(12))
        np.testing.assert_allclose(small[b].numpy(), sample(image[b], y, x), atol=1e-12)
        y, x = invert(warp.knots_y[b], grid(17)), invert(warp.knots_x[b], grid(31))
        np.testing.assert_allclose(border[b].numpy(), sample(image[b], y, x), atol=1e-12)
        rows, columns = ((g >= ends[0]) & (g <= ends[1]) for g in (grid(17), grid(31)))
        mask = rows[:, None] & columns[None, :]
        np.testing.assert_array_equal(inside[b].numpy(), mask)
        np.testing.assert_allclose(back[b].numpy(), np.where(mask, sample(image[b], y, x), 0), atol=1e-12)


@pytest.mark.parametrize("ends", [(0.0, 1.0), (0.08, 0.93)])
def test_grids_with_grid_sample_are_zoom_and_unzoom(ends):
    warp = random_warp(2, (5, 7), torch.float64, ends)
    image = torch.rand(2, 3, 19, 23, dtype=torch.float64)
    got = TF.grid_sample(image, warp.grid((11, 12)), align_corners=True)
    torch.testing.assert_close(got, warp.zoom(image, (11, 12)), rtol=0, atol=1e-12)
    got = TF.grid_sample(image, warp.inverse_grid((17, 31)), align_corners=True)
    torch.testing.assert_close(got, warp.unzoom(image, (17, 31)), rtol=0, atol=1e-12)
    assert (warp.inverse_grid((17, 31))[~warp.inside((17, 31))] == -3).any(-1).all()


def test_magnification_is_the_slope_of_the_inverse():
    warp = random_warp(2, (4, 5), torch.float64, (-0.05, 1.05))
    size = (53, 71)
    got = warp.magnification(size)
    step = 1e-6
    for b in range(2):
        slopes = []
        for knots, n in ((warp.knots_y[b], size[0]), (warp.knots_x[b], size[1])):
            x = grid(n)
            slopes.append((invert(knots, x + step) - invert(knots, x - step)) / (2 * step))
        expected = slopes[0][:, None] * slopes[1][None, :]
        near_knot = [
            np.abs(grid(n)[:, None] - k.numpy()).min(1) < 2 * step
            for k, n in ((warp.knots_y[b], size[0]), (warp.knots_x[b], size[1]))
        ]
        keep = ~(near_knot[0][:, None] | near_knot[1][None, :])
        np.testing.assert_allclose(got[b].numpy()[keep], expected[keep], rtol=1e-6)


def test_magnification_integrates_to_the_area_of_the_zoomed_image():
    warp = random_warp(3, (5, 7), torch.float64)
    size = (1000, 1201)
    # The mean over the source of d(zoomed area)/d(source area), by the midpoint rule over many pixels.
    torch.testing.assert_close(
        warp.magnification(size).mean((1, 2)), torch.ones(3, dtype=torch.float64), rtol=0, atol=5e-3
    )
    equal = SeparableWarp(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    assert torch.isfinite(equal.magnification((5, 5))).all()


def test_zoom_frame_is_zoom_and_normalisation():
    warp = random_warp(2, (5, 7), torch.float64, (0.05, 0.95))
    frame = torch.randint(0, 256, (2, 21, 25, 3), dtype=torch.uint8)
    mean, std = (100.0, 110.0, 120.0), (50.0, 60.0, 70.0)
    image = frame.permute(0, 3, 1, 2).double()
    shift, scale = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
    for antialias in (False, True):
        got = warp.zoom_frame(frame, (9, 11), mean=mean, std=std, dtype=torch.float64, antialias=antialias)
        expected = (warp.zoom(image, (9, 11), antialias=antialias) - shift) / scale
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert got.is_contiguous()
    single = warp[0].zoom_frame(frame[0], (9, 11), mean=mean, std=std, dtype=torch.float64, antialias=True)
    assert_bitwise([single], [got[:1]])
    valid = torch.tensor([[9, 5], [4, 11]])
    padded = warp.zoom_frame(frame, (9, 11), mean=mean, std=std, valid=valid)
    assert not padded[0, :, :, 5:].any()  # 0 after normalisation
    assert not padded[1, :, 4:].any()


# --- pyramids ---------------------------------------------------------------------------------------------------------


class Levels(NamedTuple):
    p3: torch.Tensor
    p4: torch.Tensor


def test_structures_of_levels():
    warp = random_warp(2)
    p3, p4 = torch.rand(2, 4, 13, 17), torch.rand(2, 6, 7, 9)
    alone = [warp.unzoom(p3), warp.unzoom(p4)]
    for levels in ([p3, p4], (p3, p4), {"p4": p4, "p3": p3}, Levels(p3, p4)):
        got = warp.unzoom(levels)
        assert type(got) is type(levels)
        values = [got["p3"], got["p4"]] if isinstance(got, dict) else list(got)
        assert_bitwise(values, alone)
        if isinstance(levels, dict):
            assert list(got) == ["p4", "p3"]
    sizes = {"p3": (26, 34), "p4": (5, 5)}
    got = warp.unzoom({"p4": p4, "p3": p3}, sizes)
    assert_bitwise([got["p3"], got["p4"]], [warp.unzoom(p3, (26, 34)), warp.unzoom(p4, (5, 5))])
    assert_bitwise(list(warp.unzoom(Levels(p3, p4), [(26, 34), (5, 5)])), [got["p3"], got["p4"]])
    assert_bitwise(warp.unzoom([p3]), alone[:1])


# --- padded batches ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("inverse", [False, True])
def test_padded_image_equals_the_image_alone(inverse, antialias):
    warp = random_warp(3, (5, 7), torch.float64)
    knots = [k.requires_grad_() for k in knots_of(warp)]
    source_valid, valid = torch.tensor([[19, 23], [9, 23], [12, 1]]), torch.tensor([[8, 14], [12, 14], [12, 5]])
    image = torch.rand(3, 2, 19, 23, dtype=torch.float64)
    for b, (h, w) in enumerate(source_valid.tolist()):
        image[b, :, h:], image[b, :, :, w:] = math.nan, math.nan  # padding must not leak, not even times zero
    image.requires_grad_()

    def warped(image, knots, size, **extents):
        if inverse:
            return F.separable_unzoom(image, *knots, size, antialias=antialias, **extents)
        return F.separable_zoom(image, *knots, size, antialias=antialias, **extents)

    got = warped(image, knots, (12, 14), valid=valid, source_valid=source_valid)
    cotangent = torch.rand_like(got)
    grads = torch.autograd.grad(got, [image, *knots], cotangent)
    assert all(torch.isfinite(t).all() for t in (got, *grads))
    for b, ((h, w), (sh, sw)) in enumerate(zip(valid.tolist(), source_valid.tolist(), strict=True)):
        leaves = [image[b : b + 1, :, :sh, :sw].detach(), *(k[b : b + 1].detach() for k in knots)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        alone = warped(leaves[0], leaves[1:], (h, w))
        assert_near([got[b : b + 1, :, :h, :w]], [alone])
        assert not got[b, :, h:].any()
        assert not got[b, :, :, w:].any()
        alone_grads = torch.autograd.grad(alone, leaves, cotangent[b : b + 1, :, :h, :w])
        assert_near([grads[0][b : b + 1, :, :sh, :sw]], alone_grads[:1])
        assert not grads[0][b, :, sh:].any()
        assert not grads[0][b, :, :, sw:].any()
        assert_near([g[b : b + 1] for g in grads[1:]], alone_grads[1:])


def test_levels_have_extents_of_their_own():
    warp = random_warp(2)
    p3, p4 = torch.rand(2, 1, 12, 14), torch.rand(2, 1, 6, 7)
    valid = {"p4": torch.tensor([[6, 7], [3, 4]]), "p3": torch.tensor([[12, 14], [5, 8]], dtype=torch.int32)}
    got = warp.unzoom({"p3": p3, "p4": p4}, valid=valid, source_valid=valid)
    for name, level in (("p3", p3), ("p4", p4)):
        for b, (h, w) in enumerate(valid[name].tolist()):
            assert_near([got[name][b : b + 1, :, :h, :w]], [warp[b].unzoom(level[b : b + 1, :, :h, :w])])


def test_extents_of_nothing_and_beyond():
    warp, image = random_warp(2), torch.rand(2, 1, 6, 7)
    nothing = torch.tensor([[0, 7], [6, 7]])
    assert not warp.zoom(image, (6, 7), source_valid=nothing)[0].any()
    assert not warp.zoom(image, (6, 7), valid=nothing)[0].any()
    whole = warp.zoom(image, (6, 7))
    assert_bitwise([warp.zoom(image, (6, 7), valid=nothing)[1]], [whole[1]])
    assert_bitwise([warp.zoom(image, (6, 7), valid=torch.tensor([[99, 99]]))], [whole])
    shared = warp.zoom(image, (6, 7), source_valid=torch.tensor([[4, 5]]))
    assert_near([shared], [warp.zoom(image[:, :, :4, :5], (6, 7))])


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
def test_unzoom_inverts_zoom_and_fills_every_target(kind):
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
    assert warp[:3].inside((height, width)).all()
    ones = warp[:2].unzoom(torch.ones(2, 1, 75, 120), (height, width))
    torch.testing.assert_close(ones, torch.ones_like(ones))
