"""Options that are numbers: what is not finite or out of range is refused by name, what is accepted never gives NaN."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fastwarp import functional as F
from fastwarp import saliency as S
from fastwarp.errors import FastwarpError

BOXES = torch.tensor([[10.0, 20.0, 40.0, 50.0], [100.0, 5.0, 130.0, 25.0], [60.0, 60.0, 60.0, 60.0]])
SIZE, SHAPE, POINT = (120, 200), (7, 11), (90.0, 40.0)
MAP = torch.arange(1.0, 78.0).view(1, *SHAPE)
LABELS = torch.eye(20).long()
KNOTS = F.lz_knots(MAP)
FRAME = torch.arange(60, dtype=torch.uint8).view(4, 5, 3)
CAR = torch.tensor([[10.0, 0, 0, 2, 4, 1.5, 1, 0, 0, 0]])
CAMERA = torch.tensor([[800.0, 0, 800], [0, 800, 450], [0, 0, 1]])
FORWARD = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def learned(**options: Any) -> torch.Tensor:
    saliency = S.LearnedSaliency(SHAPE, width=2, **options)
    return saliency(torch.rand(1, 3, 20, 20))


def adaptive(**options: Any) -> torch.Tensor:
    saliency = S.AdaptiveSaliency(SIZE, SHAPE, **options)
    saliency.update([BOXES], [torch.tensor([0.2, 0.9, 0.5])])
    return saliency()


def adaptive_knots(**options: Any) -> tuple[torch.Tensor, ...]:
    saliency = S.AdaptiveSaliency(SIZE, SHAPE)
    saliency.update([BOXES])
    return saliency.knots(**options)


# The function as messages name it; its call; its options with the ends of their range.
POSITIVE, SHARE, WEIGHT, ANY = (1e-30, 1e30), (0.0, 1.0), (0.0, 1e30), (-1e30, 1e30)
FUNCTIONS: list[tuple[str, Callable[..., Any], dict[str, tuple[float, float]]]] = [
    ("box_density", lambda **o: S.box_density(BOXES, SIZE, SHAPE, **o), {"amplitude": WEIGHT, "bandwidth": POSITIVE}),
    (
        "box_knots",
        lambda **o: S.box_knots(BOXES, SIZE, SHAPE, **o),
        {"amplitude": WEIGHT, "bandwidth": POSITIVE, "fwhm": POSITIVE},
    ),
    ("lz_knots", lambda **o: F.lz_knots(MAP, **o), {"fwhm": POSITIVE}),
    ("lz_knots_from_marginals", lambda **o: F.lz_knots_from_marginals(MAP[0], MAP[0], **o), {"fwhm": POSITIVE}),
    ("lz_mesh", lambda **o: F.lz_mesh(MAP, **o), {"fwhm": POSITIVE}),
    (
        "boundary_density",
        lambda **o: S.boundary_density(LABELS, (4, 4), **o),
        {"edge": WEIGHT, "background": WEIGHT},
    ),
    ("LearnedSaliency", learned, {"floor": (1e-30, 1.0)}),
    ("AdaptiveSaliency", adaptive, {"alpha": SHARE, "threshold": ANY}),
    ("box_density", adaptive, {"amplitude": WEIGHT, "bandwidth": POSITIVE}),
    ("box_knots", adaptive_knots, {"fwhm": POSITIVE}),
    ("jitter_boxes", lambda **o: S.jitter_boxes(BOXES, **o), {"sigma_x": WEIGHT, "sigma_y": WEIGHT}),
    (
        "perspective_density",
        lambda **o: S.perspective_density(POINT, SIZE, SHAPE, **o),
        {"ground": ANY, "sky": ANY, "lateral": ANY, "far": POSITIVE, "horizon": ANY},
    ),
    (
        "perspective_mesh",
        lambda **o: S.perspective_mesh(POINT, SIZE, SHAPE, **o),
        {"ground": ANY, "sky": ANY, "lateral": ANY, "far": POSITIVE, "horizon": ANY},
    ),
    (
        "PerspectivePrior",
        lambda **o: S.PerspectivePrior(POINT, SIZE, SHAPE, **o)(),
        {"ground": ANY, "sky": ANY, "lateral": ANY, "far": POSITIVE, "horizon": ANY},
    ),
    (
        "perspective_density",
        lambda vanishing_point: S.perspective_density((vanishing_point, 40.0), SIZE, SHAPE),
        {"vanishing_point": ANY},
    ),
    ("project_boxes_3d", lambda **o: S.project_boxes_3d(CAR, CAMERA, FORWARD, SIZE, **o), {"near": POSITIVE}),
    (
        "separable_zoom_frame",
        lambda mean: F.separable_zoom_frame(FRAME, *KNOTS, (3, 3), mean=(mean,) * 3),
        {"mean": (-1e9, 1e9)},
    ),
    (
        "separable_zoom_frame",
        lambda std: F.separable_zoom_frame(FRAME, *KNOTS, (3, 3), std=(std,) * 3),
        {"std": (1e-9, 1e9)},
    ),
]
CASES = [
    pytest.param(name, call, option, low, high, id=f"{name}-{option}")
    for name, call, options in FUNCTIONS
    for option, (low, high) in options.items()
]
ABSURD = (math.nan, math.inf, -math.inf, -1.0, 0.0, 1e-320, 1e-160, 1e160, 1e308, 10**400, -(10**400))


def tensors(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


@pytest.mark.parametrize(("name", "call", "option", "low", "high"), CASES)
def test_numbers(name, call, option, low, high):
    for value in ABSURD:
        if low <= value <= high or (option == "std" and value == -1.0):
            continue
        with pytest.raises(FastwarpError) as caught:
            call(**{option: value})
        assert str(caught.value).startswith(f"{name}: {option} is "), caught.value
    for value in ("2", None, True, 1j, [1.0]):
        if option in ("mean", "std"):
            continue  # numbers in a sequence, tested elsewhere
        with pytest.raises(TypeError) as caught:
            call(**{option: value})
        assert str(caught.value).startswith(f"{name}: {option} is "), caught.value
    for value in (low, high, np.float32(0.5), np.float64(0.25), np.int64(1)):
        for tensor in tensors(call(**{option: value})):
            assert tensor.isfinite().all(), (option, value)


@pytest.mark.parametrize("a", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("b", [1e-30, 1e30])
def test_extreme_options_together(a, b):
    """Numbers far from sense, all at once, in values and gradients."""
    boxes = BOXES.clone().requires_grad_()
    for fwhm in (1e-30, 1e30):
        results = [S.box_density(boxes, SIZE, SHAPE, a, b), *S.box_knots(boxes, SIZE, SHAPE, a, b, fwhm)]
        assert all(tensor.isfinite().all() for tensor in results)
    strengths = [torch.tensor(value, requires_grad=True) for value in (b, -b, b)]
    density = S.perspective_density((b, -b), SIZE, SHAPE, ground=strengths[0], sky=strengths[1], lateral=strengths[2])
    torch.testing.assert_close(density.sum(), torch.tensor(1.0))


def test_strong_priors_keep_their_mass():
    """Where every cell's exponential is 0 in float32, and 0 / 0 would be NaN."""
    density = S.perspective_density((5000.0, 60.0), SIZE, SHAPE, lateral=500.0)
    torch.testing.assert_close(density.sum(), torch.tensor(1.0))
    mesh = S.perspective_mesh((5000.0, 60.0), SIZE, SHAPE, lateral=500.0, ground=1e4)
    assert mesh.isfinite().all()


@pytest.mark.parametrize("activation", ["softplus", "softmax"])
def test_a_learned_map_keeps_its_mass_when_all_logits_are_low(activation):
    saliency = S.LearnedSaliency(SHAPE, activation=activation)
    torch.nn.init.constant_(saliency.layers[-1].bias, -1000.0)
    density = saliency(torch.rand(1, 3, 20, 20))
    torch.testing.assert_close(density, torch.full((1, *SHAPE), 1 / 77))
    density.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in saliency.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: S.LearnedSaliency(SHAPE, width=2.5), "LearnedSaliency: width is 2.5, expected an integer of at least"),
        (lambda: S.LearnedSaliency(SHAPE, in_channels=True), "LearnedSaliency: in_channels is True, expected an int"),
        (lambda: S.CascadeSchedule(math.inf), "CascadeSchedule: epochs is inf, expected an integer of at least 0"),
        (lambda: S.CascadeSchedule(3, 0.5), "CascadeSchedule: last is 0.5, expected an integer from 0 to 3"),
        (lambda: S.CascadeSchedule(3)(0.0), "CascadeSchedule: epoch is 0.0, expected an integer from 0 to 2"),
        (lambda: S.boundary_density(LABELS, (4, 4), ignore_index=1.5), "boundary_density: ignore_index is 1.5"),
    ],
)
def test_counts(call, message):
    with pytest.raises(TypeError) as caught:
        call()
    assert str(caught.value).startswith(message)
    assert S.LearnedSaliency(SHAPE, np.int64(3), np.int32(4)).layers[0].out_channels == 4
    assert S.CascadeSchedule(np.int64(3))(np.int64(2)) == "detections"
