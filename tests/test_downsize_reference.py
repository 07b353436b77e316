"""The reference of DownsizeNet against what others say of the same: torch's interpolations, and torch's gradients."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastwarp.ops import _dense_downsize
from fastwarp.reference import downsize as reference

SIZES = [(12, 5), (300, 160), (7, 7), (8, 4), (9, 3), (5, 8), (2, 5), (1, 3), (5, 1), (1, 1), (31, 64)]
MODES = ("sigmoid", "softmax", "signed")


def interpolated(image: np.ndarray, y: reference.Axis, x: reference.Axis) -> np.ndarray:
    """The image at the taps, by the projection's own weights, axis by axis."""
    rows = np.einsum("bcrkw,rk->bcrw", image[:, :, y.taps], y.weights)
    return np.einsum("bchqk,qk->bchq", rows[:, :, :, x.taps], x.weights)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("taps", ["bilinear", "bicubic"])
def test_projection_is_that_of_interpolate(taps, align_corners):
    for source, target in SIZES:
        image = np.random.default_rng(0).random((1, 2, source, source + 1))
        y = reference.project(source, target, taps, align_corners)
        x = reference.project(source + 1, target, taps, align_corners)
        expected = F.interpolate(torch.from_numpy(image), (target, target), mode=taps, align_corners=align_corners)
        np.testing.assert_allclose(interpolated(image, y, x), expected.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("source", "target"), [(12, 4), (20, 5), (9, 9), (8, 1)])
def test_area_is_adaptive_average_at_whole_ratios(source, target):
    image = np.random.default_rng(0).random((1, 2, source, source))
    axis = reference.project(source, target, "area")
    expected = F.adaptive_avg_pool2d(torch.from_numpy(image), target)
    np.testing.assert_allclose(interpolated(image, axis, axis), expected.numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_area_weighs_by_overlap(source, target):
    axis = reference.project(source, target, "area")
    assert axis.taps.shape[1] == -(-source // target) + 1
    np.testing.assert_allclose(axis.weights.sum(1), 1)
    edges = np.arange(target + 1) * source / target
    for q in range(target):
        for j, weight in zip(axis.taps[q], axis.weights[q], strict=True):
            overlap = max(min(edges[q + 1], j + 1) - max(edges[q], j), 0) * target / source
            assert weight == pytest.approx(overlap) or (weight == 0 and j == source - 1)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("taps", ["bilinear", "bicubic", "area"])
def test_anchor_is_the_top_left_of_the_four_neighbours(taps, align_corners):
    for source, target in SIZES:
        axis = reference.project(source, target, taps, align_corners)
        q = np.arange(target)
        if align_corners:
            place = q * (source - 1) / max(target - 1, 1)
        else:
            place = (q + 0.5) * source / target - 0.5
        place = np.clip(place, 0, source - 1)
        assert (axis.anchors >= 0).all()
        assert (axis.anchors <= max(source - 2, 0)).all()
        distance = place - axis.anchors
        assert (distance > -1e-9).all()
        assert (distance <= 1 + 1e-9).all()
        assert (distance[place < source - 1 - 1e-9] < 1).all()
    assert reference.project(5, 3, "bilinear", True).distances[-1] == 1  # the last pixel


def test_vector_is_the_papers():
    y, x = reference.project(12, 5, "bilinear"), reference.project(11, 4, "bilinear")
    v = reference.relative_distance(y, x)
    for r, dy in enumerate(y.distances):
        for q, dx in enumerate(x.distances):
            expected = [(1 - dx) * (1 - dy), dx * (1 - dy), (1 - dx) * dy, dx * dy]
            np.testing.assert_allclose(v[:, r, q], expected, atol=1e-15)


@pytest.mark.parametrize("normalise", MODES)
def test_exact_encoding_starts_at_the_interpolation(normalise):
    for taps in ("bilinear", "bicubic", "area"):
        y, x = reference.project(12, 5, taps), reference.project(11, 4, taps)
        v = reference.relative_distance(y, x)
        a = reference.coefficients(reference.encode(v, "exact", normalise)[None], normalise)[0]
        expected = v if normalise == "signed" else np.clip(v, 0, None) / np.clip(v, 0, None).sum(0)
        assert np.abs(a - expected).max() < len(v) * 1.001 * reference.LEAST


@pytest.mark.parametrize("normalise", MODES)
def test_coefficients_sum_to_one_whatever_comes_in(normalise):
    z = np.random.default_rng(0).normal(size=(2, 5, 3, 4)) * np.array([1, 30, 900])[:, None]
    z[1, :, 0, 0] = -2000  # all of them: 0/0 if done as written
    a = reference.coefficients(z, normalise)
    np.testing.assert_allclose(a.sum(1), 1)
    assert normalise == "signed" or a.min() >= 0
    np.testing.assert_allclose(a[1, :, 0, 0], 0.2)


def arguments(layers: int, normalise: str, taps: str = "bilinear", channels: int = 3) -> list:
    rng = np.random.default_rng(0)
    y, x = reference.project(7, 4, taps), reference.project(6, 8, taps)
    v = reference.relative_distance(y, x)
    widths = [channels, 4, 5, 2][: layers + 1]
    weights = [rng.normal(size=(b, a, 3, 3)) / 3 for a, b in itertools.pairwise(widths)]
    return [
        rng.random((2, channels, 7, 6)),
        weights,
        [rng.normal(size=len(w)) / 3 for w in weights],
        rng.normal(size=(len(v), widths[-1] if layers else 0)),
        reference.encode(v, "exact", normalise),
        *(y.taps, x.taps, y.anchors, x.anchors),
        list(rng.random(channels)),
        list(rng.random(channels) + 0.5),
        normalise,
    ]


@pytest.mark.parametrize("texture_gradient", [True, False])
@pytest.mark.parametrize("taps", ["bilinear", "bicubic", "area"])
@pytest.mark.parametrize("normalise", MODES)
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_against_torch(layers, normalise, taps, texture_gradient):
    args = arguments(layers, normalise, taps)
    tensors = torch.utils._pytree.tree_map(lambda a: torch.from_numpy(a) if isinstance(a, np.ndarray) else a, args)
    leaves = [t.requires_grad_() for t in (tensors[0], *tensors[1], *tensors[2], tensors[3], tensors[4])]
    image, weights, biases, texture, logits, *others = tensors
    fuse = torch.cat([texture, torch.eye(len(texture), dtype=torch.float64)], 1), logits.new_zeros(len(texture)), logits
    expected = _dense_downsize.downsize(image, weights, biases, *fuse, *others, texture_gradient)
    np.testing.assert_allclose(reference.downsize(*args), expected.detach(), rtol=0, atol=1e-13)
    grad = torch.rand_like(expected)
    by_torch = torch.autograd.grad(expected, leaves, grad, materialize_grads=True)
    by_image, by_weights, by_biases, *others = reference.downsize_backward(grad.numpy(), *args, texture_gradient)
    for ours, theirs in zip([by_image, *by_weights, *by_biases, *others], by_torch, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_distance_logits_against_torch():
    torch.manual_seed(0)
    distances, weight, bias, grad = (torch.rand(s, dtype=torch.float64) for s in ((5, 3, 2), (4, 5), (4,), (4, 3, 2)))
    leaves = [t.requires_grad_() for t in (distances, weight, bias)]
    expected = torch.nn.functional.conv2d(distances[None], weight[:, :, None, None], bias)[0]
    arrays = [t.detach().numpy() for t in leaves]
    np.testing.assert_allclose(reference.distance_logits(*arrays), expected.detach(), rtol=1e-14)
    by_torch = torch.autograd.grad(expected, leaves, grad)
    for ours, theirs in zip(reference.distance_logits_backward(grad.numpy(), *arrays[:2]), by_torch, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_texture_matters():
    """Or every test of the convolutions would pass without them."""
    args = arguments(3, "sigmoid")
    moved = [*args]
    moved[1] = [*args[1][:2], args[1][2] * 1.5]
    assert np.abs(reference.downsize(*args) - reference.downsize(*moved)).max() > 1e-3
