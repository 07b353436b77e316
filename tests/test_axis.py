"""The `axis` family on CPUs against the float64 reference: knots, T~ and its inverse, windows, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close_to
from torch import Tensor

import fastwarp
from fastwarp.reference import axis as reference

pytestmark = pytest.mark.usefixtures("poisoned_results")

ops = torch.ops.fastwarp

many = settings(deadline=None, max_examples=60)

backends = pytest.mark.parametrize("backend", ["numba", "reference"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])


def arrays(*tensors: Tensor | None) -> list[Any]:
    return [None if t is None else t.double().numpy() if t.is_floating_point() else t.numpy() for t in tensors]


def noise(seed: int, like: Tensor) -> Tensor:
    return own.values(seed, tuple(like.shape), like.dtype)


# --- saliency -> knots ------------------------------------------------------------------------------------------------


def without_ties(grad: Tensor, saliency: Tensor, radius: int, fwhm: float, anti_crop: bool) -> Tensor:
    """`grad` with zeros where T is 0 or 1 but for rounding, which decides whether it counts as clamped, and for maps of
    zeros (see test_all_zero_saliency_has_a_finite_gradient)."""
    marginal = reference._marginal(saliency.numpy())
    unclamped, _ = reference._lz_axis(marginal, radius, fwhm, anti_crop)
    tie = (np.minimum(np.abs(unclamped), np.abs(unclamped - 1)) < 1e-12) | (marginal.sum(1, keepdims=True) == 0)
    return torch.where(torch.from_numpy(tie), 0, grad)


@backends
@dtypes
@many
@given(data=st.data(), fwhm=own.fwhms, anti_crop=st.booleans(), seed=own.seeds)
def test_lz_knots(backend, dtype, data, fwhm, anti_crop, seed):
    saliency = data.draw(own.saliency(dtype))
    args = (*arrays(saliency, saliency.mT), fwhm, anti_crop)
    with fastwarp.backend(backend):
        knots = ops.lz_knots(saliency, saliency.mT, fwhm, anti_crop)
        grads = [
            without_ties(noise(seed + i, k), s, min(saliency.shape[1:]) - 1, fwhm, anti_crop)
            for i, (k, s) in enumerate(zip(knots, (saliency, saliency.mT), strict=True))
        ]
        gradients = ops.lz_knots_backward(*grads, saliency, saliency.mT, fwhm, anti_crop)
    for ours, right in zip(knots, reference.lz_knots(*args), strict=True):
        assert ours.dtype == dtype
        assert_close_to(right, ours, dtype, "knots")
    total = saliency.double().clamp(min=0).sum((1, 2))
    mean = total.where(total > 0, torch.inf).min() / max(saliency.shape[1:])
    for ours, right, grad in zip(gradients, reference.lz_knots_backward(*arrays(*grads), *args), grads, strict=True):
        assert ours.dtype == dtype
        # Where a narrow kernel sees its own cell alone, the gradient is what large terms leave of each other.
        terms = grad.double().abs().max() / mean
        assert_close_to(right, ours, dtype, "saliency_grad", terms)


@dtypes
@many
@given(data=st.data(), fwhm=own.fwhms, anti_crop=st.booleans())
def test_knots_never_decrease_and_stay_inside(dtype, data, fwhm, anti_crop):
    saliency = data.draw(own.saliency(dtype))
    for knots in ops.lz_knots(saliency, saliency.mT, fwhm, anti_crop):
        assert (knots.diff() >= 0).all()
        assert ((knots >= 0) & (knots <= 1)).all()
        if anti_crop:
            assert (knots[:, 0] == 0).all()
            assert (knots[:, -1] == 1).all()


@dtypes
@pytest.mark.parametrize("anti_crop", [True, False])
def test_degenerate_saliency(dtype, anti_crop):
    largest = torch.finfo(dtype).max
    maps = torch.zeros(8, 5, 9, dtype=dtype)
    maps[1] = 0.3
    maps[2, 2, 4] = 1
    maps[3, :2] = 1
    maps[4] = -1
    maps[5] = largest
    maps[6] = torch.finfo(dtype).tiny
    maps[7, 1, 1] = float("nan")
    maps.requires_grad_()
    knots_y, knots_x = ops.lz_knots(maps, maps.mT, 3.0, anti_crop)
    finite = [0, 1, 2, 3, 4, 6] + ([5] if dtype == torch.float32 else [])
    for knots in (knots_y, knots_x):
        identity = torch.linspace(0, 1, knots.shape[1], dtype=torch.float64).to(dtype)
        for constant in (0, 1, 4, 6):
            assert_close_to(identity.double(), knots[constant], dtype, "knots")
        assert torch.isfinite(knots[finite]).all()
        assert torch.isnan(knots[7]).all()
    # One hot cell draws its neighbours: the middle stays, and nothing crosses it.
    assert knots_y[2, 2] == 0.5
    assert 0.4 < knots_y[2, 1] <= 0.5
    # The empty rows below: what sees some of the full ones is drawn up.
    assert knots_y[3, 3] < 0.6
    (knots_y[finite].sum() + (knots_x[finite] ** 2).sum()).backward()
    finite = [image for image in finite if image not in (0, 4)]  # see the next test
    assert torch.isfinite(maps.grad[finite]).all()


@backends
def test_all_zero_saliency_has_a_finite_gradient(backend):
    saliency = torch.zeros(1, 5, 9, requires_grad=True)
    with fastwarp.backend(backend):
        knots = ops.lz_knots(saliency, saliency.mT, 3.0, True)
        sum(k.square().sum() for k in knots).backward()
    assert torch.isfinite(saliency.grad).all()


@dtypes
def test_saliency_of_any_layout(dtype):
    saliency = own.values(3, (4, 9, 6), dtype).abs()
    right = ops.lz_knots(saliency, saliency.mT.contiguous(), 4.0, True)
    wide = torch.zeros(9, 13, 8, dtype=dtype)
    strided = wide[1::2, 2:11, 1:7]
    strided.copy_(saliency)
    assert not strided.is_contiguous()
    for ours, other in zip(ops.lz_knots(strided, strided.mT, 4.0, True), right, strict=True):
        assert torch.equal(ours, other)
    shared = saliency[:1].expand(4, 9, 6)
    for ours, other in zip(ops.lz_knots(shared, shared.mT, 4.0, True), right, strict=True):
        assert torch.equal(ours, other[:1].expand_as(other))


def test_gradient_reaches_the_map():
    saliency = own.values(5, (2, 4, 7), torch.float64).abs() + 0.1
    saliency[1, 2, 3] = -1
    weights = [own.values(6, (2, n), torch.float64) for n in (4, 7)]

    def loss(saliency: np.ndarray) -> float:
        knots = reference.lz_knots(saliency, saliency.transpose(0, 2, 1), 5.0, False)
        return sum((k * w.numpy()).sum() for k, w in zip(knots, weights, strict=True))

    variable = saliency.clone().requires_grad_()
    knots = ops.lz_knots(variable, variable.mT, 5.0, False)
    sum((k * w).sum() for k, w in zip(knots, weights, strict=True)).backward()
    for index in np.ndindex(2, 4, 7):
        high, low = saliency.numpy().copy(), saliency.numpy().copy()
        high[index] += 1e-6
        low[index] -= 1e-6
        assert variable.grad[index].item() == pytest.approx((loss(high) - loss(low)) / 2e-6, abs=1e-8)


# --- T~ and its inverse -----------------------------------------------------------------------------------------------


@backends
@dtypes
@many
@given(data=st.data(), batch=st.integers(1, 3), inverse=st.booleans(), outside=st.booleans(), seed=own.seeds)
def test_axis_map(backend, dtype, data, batch, inverse, outside, seed):
    knots = data.draw(own.warps(batch, dtype))[0]
    low, high = (-0.5, 1.5) if outside else (0, 1)
    positions = torch.from_numpy(own.uniform(seed, batch, 33, low=low, high=high)).to(dtype)
    n = min(knots.shape[1], 16)  # some on a knot, where two pieces meet
    grid = torch.linspace(0, 1, knots.shape[1], dtype=torch.float64).to(dtype).expand(batch, -1)
    positions[:, :n] = knots.expand(batch, -1)[:, -n:] if inverse else grid[:, -n:]
    grad = noise(seed + 1, positions)
    with fastwarp.backend(backend):
        ours = ops.axis_map(knots, positions, inverse)
        by_knots, by_positions = ops.axis_map_backward(grad, knots, positions, inverse)
    args = (*arrays(knots, positions), inverse)
    assert_close_to(reference.axis_map(*args), ours, dtype, "positions")
    right = reference.axis_map_backward(*arrays(grad), *args)
    assert_close_to(right[0], by_knots, dtype, "geometry_grad")
    assert_close_to(right[1], by_positions, dtype, "geometry_grad")
    assert {ours.dtype, by_knots.dtype, by_positions.dtype} == {dtype}


@dtypes
@many
@given(kind=st.sampled_from(own.WARPS[:-1]), seed=own.seeds, n=own.knot_counts)
def test_inverse_is_inverted(dtype, kind, seed, n):
    knots = torch.from_numpy(own.knots(kind, seed, 2, n)).to(dtype)
    steps = torch.linspace(0, 1, 101, dtype=dtype)
    x = knots[:, :1] + (knots[:, -1:] - knots[:, :1]) * steps
    u = ops.axis_map(knots, x, True)
    assert ((u >= 0) & (u <= 1 + 1e-7)).all()
    again = ops.axis_map(knots, u, False)
    # u is rounded to its dtype, and the steepest piece multiplies that.
    slope = max(1.0, knots.diff().max().item() * (n - 1))
    assert (again - x).abs().max() <= 2 * slope * torch.finfo(dtype).eps


@dtypes
def test_plateaus_and_end_knots(dtype):
    knots = torch.tensor([[0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.0]], dtype=dtype, requires_grad=True)
    x = torch.tensor([[-0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25]], dtype=dtype, requires_grad=True)
    u = ops.axis_map(knots, x, True)
    expected = torch.tensor([[0.5, 1, 1.5, 3, 3.5, 4, 4.5]], dtype=torch.float64) / 6
    assert_close_to(expected, u, dtype, "positions")
    u.sum().backward()
    assert torch.isfinite(knots.grad).all()
    assert_close_to(torch.full((1, 7), 1 / 3, dtype=torch.float64), x.grad, dtype, "geometry_grad")


@dtypes
@pytest.mark.parametrize("inverse", [False, True])
def test_nan_stays_nan(dtype, inverse):
    knots = torch.from_numpy(own.knots("monotone", 1, 2, 6)).to(dtype)
    knots[1] = float("nan")
    positions = torch.tensor([[0.1, float("nan"), 0.7]] * 2, dtype=dtype)
    ours = ops.axis_map(knots, positions, inverse)
    assert torch.equal(torch.isnan(ours), torch.tensor([[False, True, False], [True, True, True]]))


# --- windows ----------------------------------------------------------------------------------------------------------


@st.composite
def window_arguments(draw: Any, dtype: torch.dtype) -> tuple[Any, ...]:
    """All arguments of axis_windows."""
    batch = draw(st.integers(1, 3))
    knots = draw(own.warps(batch, dtype))
    sizes = draw(st.lists(own.shapes, min_size=1, max_size=3))
    source_sizes = [draw(own.shapes) for _ in sizes]
    flags = [draw(st.booleans()) for _ in range(3)]
    valid, source_valid = draw(own.extents(batch, sizes, 0)), draw(own.extents(batch, source_sizes, 0))
    return (
        *knots,
        [s for size in sizes for s in size],
        [s for size in source_sizes for s in size],
        *flags,
        valid,
        source_valid,
    )


def without_narrow_ties(grad: Tensor, args: tuple[Any, ...]) -> Tensor:
    """`grad` with zeros for half-widths whose spacing is 1 but for rounding, which decides if they are held at 1."""
    grad, options = grad.clone(), list(args)
    options[5:7] = False, True
    centres = of_reference(reference.axis_windows, *options)[:, 0]
    knots_y, knots_x, valid, source_valid = arrays(*args[:2], *args[7:])
    rows = reference._each_axis(knots_y, knots_x, args[2], args[3], valid, source_valid)
    for b, _, first, _, extent, source in rows:
        spacing = np.gradient(centres[b, first : first + extent]) if extent > 1 else np.full(extent, source - 1.0)
        grad[b, 1, first : first + extent][torch.from_numpy(np.abs(np.abs(spacing) - 1) < 1e-9)] = 0
    return grad


def of_reference(function: Any, *args: Any) -> Any:
    return function(*(arrays(a)[0] if isinstance(a, Tensor) else a for a in args))


@backends
@dtypes
@many
@given(data=st.data(), seed=own.seeds)
def test_axis_windows(backend, dtype, data, seed):
    args = data.draw(window_arguments(dtype))
    with fastwarp.backend(backend):
        windows = ops.axis_windows(*args)
        grad = without_narrow_ties(noise(seed, windows), args)
        gradients = ops.axis_windows_backward(grad, *args)
    right = of_reference(reference.axis_windows, *args)
    assert windows.dtype == dtype
    assert_close_to(right[:, 0], windows[:, 0], dtype, "windows")
    assert_close_to(right[:, 1], windows[:, 1], dtype, "windows")
    assert torch.equal(windows[:, 1] > 0, torch.from_numpy(right[:, 1] > 0))
    by_knots = of_reference(reference.axis_windows_backward, grad, *args)
    for ours, expected, knots in zip(gradients, by_knots, args[:2], strict=True):
        assert ours.shape == knots.shape
        assert_close_to(expected, ours, dtype, "geometry_grad")


@dtypes
@pytest.mark.parametrize("border", [False, True])
def test_end_knots_are_compared_as_stored(dtype, border):
    """The authors' inverse loses the last row where the last knot rounds to 0.9999994; here it is filled or it is not,
    by the stored value."""
    for last, filled in ((1.0, True), (0.9999994, False)):
        knots = torch.tensor([[0.0, 0.4, last]], dtype=dtype)
        windows = ops.axis_windows(knots, knots, [5, 5], [9, 9], True, False, border, None, None)
        assert windows[0, 1].tolist() == [1, 1, 1, 1, float(filled or border)] * 2
        assert windows[0, 0, 4] == (8 if filled or border else 0)
    knots = torch.tensor([[6e-7, 0.4, 1.0]], dtype=dtype)
    windows = ops.axis_windows(knots, knots, [5, 5], [9, 9], True, False, border, None, None)
    assert windows[0, 1].tolist() == [float(border), 1, 1, 1, 1] * 2


@dtypes
@pytest.mark.parametrize("inverse", [False, True])
def test_nan_knots_make_nan_centres(dtype, inverse):
    knots = torch.from_numpy(own.knots("monotone", 1, 2, 6)).to(dtype)
    clean = ops.axis_windows(knots, knots, [4, 3], [9, 9], inverse, True, False, None, None)
    knots[1] = float("nan")
    windows = ops.axis_windows(knots, knots, [4, 3], [9, 9], inverse, True, False, None, None)
    assert torch.equal(windows[0], clean[0])
    assert torch.isnan(windows[1, 0]).all()
    assert (windows[1, 1] == 1).all()


@dtypes
@pytest.mark.parametrize("kind", ["equal", "clamped", "constant"])
@pytest.mark.parametrize("inverse", [False, True])
def test_gradients_with_equal_knots_are_finite(dtype, kind, inverse):
    knots = torch.from_numpy(own.knots(kind, 2, 2, 9)).to(dtype).requires_grad_()
    windows = ops.axis_windows(knots, knots, [33, 17], [33, 17], inverse, True, True, None, None)
    windows.square().sum().backward()
    assert torch.isfinite(windows).all()
    assert torch.isfinite(knots.grad).all()
    if kind == "equal":
        assert knots.grad.abs().max() > 0


# --- exactness at full size -------------------------------------------------------------------------------------------


def random_saliency(seed: int) -> Tensor:
    """Forty maps of one size, all kinds of contrast: noise to any power, hot cells on a ground, blobs."""
    random = np.random.default_rng(seed)
    h, w = random.integers(2, 60, 2)
    maps = random.uniform(size=(40, h, w)) ** random.choice([0.5, 1, 4, 16])
    y, x = np.mgrid[:h, :w]
    for image in range(0, 40, 2):
        centre, spread = random.uniform(size=2) * (h, w), random.uniform(1, 10)
        maps[image] = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * spread**2)) + 0.02 * maps[image]
    return torch.from_numpy(maps).float()


@pytest.mark.parametrize("part", range(5))
def test_unzoom_of_anti_crop_warps_is_exact_and_complete(part):
    """LZU's inverse is exact: |T~(T~^-1(x)) - x| <= 1e-3 px at 600 x 960 in fp32, and every target is filled."""
    size = [600, 960]
    grids = [np.arange(n) / (n - 1) for n in size]
    worst = 0.0
    for chunk in range(10):
        saliency = random_saliency(100 * part + chunk)
        fwhm = float(own.uniform(100 * part + chunk, 1, low=2, high=30)[0])
        knots = ops.lz_knots(saliency, saliency.mT, fwhm, True)
        windows = ops.axis_windows(*knots, size, size, True, False, False, None, None)
        assert (windows[:, 1] == 1).all()
        assert (windows[:, 0, [0, 600]] == 0).all()
        assert (windows[:, 0, [599, -1]] == torch.tensor([599.0, 959.0])).all()
        for axis, (begin, end) in enumerate(((0, 600), (600, 1560))):
            x = torch.from_numpy(grids[axis]).float().expand(len(saliency), -1)
            u = ops.axis_map(knots[axis], x, True).double().numpy()
            centres = windows[:, 0, begin:end].double().numpy() / (size[axis] - 1)
            nodes = np.linspace(0, 1, knots[axis].shape[1])
            for row in range(len(saliency)):
                stored = knots[axis][row].double().numpy()
                for inverse, right in ((u[row], x[row].double().numpy()), (centres[row], grids[axis])):
                    worst = max(worst, np.abs(np.interp(inverse, nodes, stored) - right).max() * (size[axis] - 1))
    assert 0 < worst <= 1e-3
