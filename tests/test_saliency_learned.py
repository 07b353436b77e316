"""Saliency that is learned through the warp, and the prior of a camera's perspective."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from fastwarp import MeshWarp, SeparableWarp
from fastwarp.errors import FastwarpError
from fastwarp.saliency import LearnedSaliency, PerspectivePrior, perspective_density, perspective_mesh

# --- learned ----------------------------------------------------------------------------------------------------------

activations = pytest.mark.parametrize("activation", ["softplus", "softmax"])


@activations
def test_learned_saliency_begins_uniform(activation):
    saliency = LearnedSaliency((5, 8), activation=activation)
    torch.testing.assert_close(saliency(torch.rand(2, 3, 40, 70)), torch.full((2, 5, 8), 1 / 40))


@activations
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("whole", [True, False])  # or the image alone
def test_learned_saliency_in_half_precision(activation, dtype, whole):
    saliency, image = LearnedSaliency((5, 8), activation=activation), torch.rand(2, 3, 40, 70)
    torch.nn.init.normal_(saliency.layers[-1].weight)
    wide = saliency(image)
    maps = (saliency.to(dtype) if whole else saliency)(image.to(dtype).requires_grad_())
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, wide, rtol=0.05, atol=1e-3)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(2))
    maps.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in saliency.parameters())


@activations
@pytest.mark.parametrize("size", [(40, 64), (13, 200), (20, 32)])
def test_learned_saliency_has_mass_one_and_a_floor(activation, size):
    saliency = LearnedSaliency((5, 8), in_channels=2, activation=activation, floor=0.2)
    for parameter in saliency.parameters():
        torch.nn.init.normal_(parameter)
    maps = saliency(torch.randn(3, 2, *size))
    assert maps.shape == (3, 5, 8)
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(3))
    assert maps.min() >= 0.2 / 40
    assert maps.max() > 2 / 40
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert saliency(torch.randn(3, 2, *size)).dtype == torch.float32
    assert saliency.double()(torch.randn(3, 2, *size, dtype=torch.float64)).dtype == torch.float64


def test_loss_decreases_through_the_warp():
    """Squares of 3 pixels somewhere in a grey image: an image of half the size keeps more of them if it looks there."""
    torch.manual_seed(0)
    saliency = LearnedSaliency((7, 11), width=8)
    images = torch.full((4, 3, 56, 88), 0.5)
    for image, place in zip(images, (4, 24, 48, 60), strict=True):
        squares = torch.randn(3, 6, 9).repeat_interleave(3, 1).repeat_interleave(3, 2)
        image[:, 20:36, place : place + 24] += 0.5 * squares[:, :16, :24]
    optimiser = torch.optim.Adam(saliency.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        warp = SeparableWarp.from_saliency(saliency(images), 5.0)
        loss = TF.mse_loss(warp.unzoom(warp.zoom(images, (28, 44), antialias=True), (56, 88)), images)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all(math.isfinite(loss) for loss in losses)
    assert np.mean(losses[-5:]) < 0.95 * losses[0]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"shape": (1, 8)}, FastwarpError, r"shape is \(1, 8\)"),
        ({"shape": 5}, TypeError, "shape is 5"),
        ({"in_channels": 0}, FastwarpError, "in_channels is 0"),
        ({"width": 0}, FastwarpError, "width is 0"),
        ({"activation": "relu"}, FastwarpError, "activation is 'relu', expected 'softplus' or 'softmax'"),
        ({"floor": 0.0}, FastwarpError, "floor is 0.0"),
    ],
)
def test_bad_settings(options, error, words):
    with pytest.raises(error, match="LearnedSaliency: " + words):
        LearnedSaliency(**options)


def test_bad_images():
    with pytest.raises(TypeError, match="LearnedSaliency: image has dtype uint8"):
        LearnedSaliency()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(FastwarpError, match=r"LearnedSaliency: image is of shape \[3, 8, 8\]"):
        LearnedSaliency()(torch.zeros(3, 8, 8))


# --- perspective ------------------------------------------------------------------------------------------------------

SIZE = (120, 200)
POINT = (110.0, 45.0)


def oracle(shape, point, ground, sky, lateral, far, horizon) -> np.ndarray:
    """Cell by cell."""
    result = np.zeros(shape)
    for r in range(shape[0]):
        for c in range(shape[1]):
            x, y = SIZE[1] * c / (shape[1] - 1) - point[0], SIZE[0] * r / (shape[0] - 1) - point[1]
            d = (y * math.cos(horizon) - x * math.sin(horizon)) / SIZE[0]
            depth = far / (far + abs(d))
            strength = ground if d > 0 else sky
            result[r, c] = math.exp(strength * (depth - 1) - 0.5 * (lateral * depth * x / SIZE[1]) ** 2)
    return result / result.sum()


@pytest.mark.parametrize("numbers", [(2.0, 2.0, 0.0, 0.05, 0.0), (4.0, 0.5, 3.0, 0.2, 0.3), (0.0, 0.0, 0.0, 0.1, 0.1)])
def test_perspective_density(numbers):
    names = ("ground", "sky", "lateral", "far", "horizon")
    options = dict(zip(names, numbers, strict=True))
    density = perspective_density(torch.tensor(POINT, dtype=torch.float64), SIZE, (13, 21), **options)
    np.testing.assert_allclose(density[0].numpy(), oracle((13, 21), POINT, *numbers), rtol=1e-12)
    single = perspective_density(POINT, SIZE, (13, 21), **options)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), density, rtol=1e-5, atol=0)
    if numbers[:3] == (0.0, 0.0, 0.0):
        torch.testing.assert_close(density, torch.full_like(density, 1 / (13 * 21)))
    else:
        assert density[0, :, 11].argmax() == round(POINT[1] / SIZE[0] * 12)  # 5, on the horizon


def test_perspective_follows_flips():
    options = {"ground": 3.0, "lateral": 2.0, "horizon": 0.2}
    density = perspective_density(POINT, SIZE, (9, 14), **options)
    mirrored = perspective_density((SIZE[1] - POINT[0], POINT[1]), SIZE, (9, 14), **options | {"horizon": -0.2})
    torch.testing.assert_close(mirrored, density.flip(2))
    prior = PerspectivePrior(POINT, SIZE, (9, 14), **options)
    torch.testing.assert_close(prior(torch.tensor([True, False])), torch.cat([density.flip(2), density]))


def test_strengths_and_points_of_each_image():
    points, ground = torch.tensor([[90.0, 40.0], [120.0, 60.0]]), torch.tensor([1.0, 5.0])
    both = perspective_density(points, SIZE, (9, 14), ground=ground)
    for one, point, strength in zip(both, points, ground, strict=True):
        torch.testing.assert_close(one[None], perspective_density(point, SIZE, (9, 14), ground=strength))
    meshes = perspective_mesh(points, SIZE, (9, 14), ground=ground)
    for one, point, strength in zip(meshes, points, ground, strict=True):
        torch.testing.assert_close(one[None], perspective_mesh(point, SIZE, (9, 14), ground=strength))


@pytest.mark.parametrize("strength", [0.0, 2.0, 20.0])
def test_mesh_keeps_the_borders_and_never_folds(strength):
    mesh = perspective_mesh(
        POINT, SIZE, (17, 23), ground=strength, sky=strength / 2, lateral=strength, horizon=0.1 * (strength > 0)
    )
    assert mesh.shape == (1, 17, 23, 2)
    assert (mesh[:, :, 0, 0] == 0).all()
    assert (mesh[:, 0, :, 1] == 0).all()
    torch.testing.assert_close(mesh[:, :, -1, 0], torch.ones(1, 17))
    torch.testing.assert_close(mesh[:, -1, :, 1], torch.ones(1, 23))
    assert (mesh[:, :, 1:, 0] > mesh[:, :, :-1, 0]).all()
    assert (mesh[:, 1:, :, 1] > mesh[:, :-1, :, 1]).all()
    MeshWarp(mesh).check()
    if strength == 0:
        grid = torch.stack(torch.meshgrid(torch.linspace(0, 1, 23), torch.linspace(0, 1, 17), indexing="xy"), 2)
        torch.testing.assert_close(mesh[0], grid, rtol=0, atol=1e-6)


def test_mesh_samples_in_proportion_to_the_density():
    options = {"ground": 3.0, "lateral": 3.0, "far": 0.3}
    mesh = perspective_mesh(torch.tensor(POINT, dtype=torch.float64), SIZE, (81, 121), **options)[0]
    tall, wide = mesh[1:, :-1, 1] - mesh[:-1, :-1, 1], mesh[:-1, 1:, 0] - mesh[:-1, :-1, 0]
    sampled = 1 / (tall * wide)  # tiles have equal areas in the zoomed image
    middle = (mesh[1:, 1:] + mesh[:-1, :-1]) / 2
    density = perspective_density(torch.tensor(POINT, dtype=torch.float64), SIZE, (1201, 2001), **options)[0]
    rows, columns = (middle[..., 1] * 1200).round().long(), (middle[..., 0] * 2000).round().long()
    ratio = sampled / density[rows, columns]
    ratio = ratio / ratio.median()
    assert ratio.std() < 0.03
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0, atol=0.2)


def test_the_mesh_zooms_in_on_the_vanishing_point():
    prior = PerspectivePrior(POINT, SIZE, (31, 51), ground=3.0, sky=3.0, lateral=3.0)
    warp = MeshWarp(prior.mesh())
    magnification = warp.magnification((61, 101))[0]
    row, column = divmod(int(magnification.argmax()), 101)
    assert abs(row - 60 * POINT[1] / SIZE[0]) <= 3
    assert abs(column - 100 * POINT[0] / SIZE[1]) <= 8
    image = torch.rand(1, 3, *SIZE)
    loss = warp.unzoom(warp.zoom(image, (60, 100)), SIZE).sub(image).square().mean()
    loss.backward()
    assert all(parameter.grad.isfinite() and parameter.grad != 0 for parameter in prior.parameters())


@pytest.mark.parametrize("function", [perspective_density, perspective_mesh])
def test_gradients(function):
    inputs = [
        torch.tensor(POINT, dtype=torch.float64),
        *(torch.tensor(s, dtype=torch.float64) for s in (2.0, 1.0, 1.5)),
    ]
    inputs = [i.requires_grad_() for i in inputs]

    def call(point, ground, sky, lateral):
        return function(point, SIZE, (4, 5), ground=ground, sky=sky, lateral=lateral, far=0.3, horizon=0.1)

    assert torch.autograd.gradcheck(call, inputs, eps=1e-5)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"vanishing_point": 3.0}, TypeError, "vanishing_point is 3.0, expected two numbers"),
        ({"vanishing_point": torch.zeros(3)}, FastwarpError, r"vanishing_point is of shape \[3\]"),
        ({"image_size": (1, 9)}, FastwarpError, r"image_size is \(1, 9\)"),
        ({"shape": (9, 1)}, FastwarpError, r"shape is \(9, 1\)"),
        ({"far": 0.0}, FastwarpError, "far is 0.0"),
        ({"ground": "2"}, TypeError, "ground is str"),
        ({"sky": torch.tensor(2)}, TypeError, "sky is torch.int64"),
        ({"lateral": torch.ones(2, 1)}, FastwarpError, r"lateral is of shape \[2, 1\]"),
    ],
)
@pytest.mark.parametrize("function", [perspective_density, perspective_mesh])
def test_bad_perspective(function, arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        function(**{"vanishing_point": POINT, "image_size": SIZE, **arguments})
    assert str(caught.value).startswith(function.__name__)
