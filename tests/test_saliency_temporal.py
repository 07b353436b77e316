"""Fixed and adaptive saliency, jittered boxes and the cascade."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from fastwarp import SeparableWarp
from fastwarp import functional as F
from fastwarp.errors import FastwarpError
from fastwarp.saliency import (
    AdaptiveSaliency,
    CascadeSchedule,
    FixedSaliency,
    box_density,
    box_knots,
    jitter_boxes,
)

SIZE, SHAPE = (120, 200), (7, 11)
BOXES = torch.tensor([[10.0, 20.0, 40.0, 50.0], [100.0, 5.0, 130.0, 25.0], [150.0, 60.0, 170.0, 100.0]])
UNIFORM = torch.full((1, *SHAPE), 1 / (SHAPE[0] * SHAPE[1]))


def density(boxes: torch.Tensor, **numbers: float) -> torch.Tensor:
    return box_density(boxes, SIZE, SHAPE, **numbers)


def prior() -> torch.Tensor:
    return torch.rand(SHAPE) + 0.1


# --- fixed ------------------------------------------------------------------------------------------------------------


def test_fixed_saliency_follows_flips():
    saliency = prior()
    fixed = FixedSaliency(saliency)
    assert torch.equal(fixed(), saliency[None])
    assert torch.equal(fixed(True), saliency.flip(1)[None])
    both = fixed(torch.tensor([False, True, False]))
    assert torch.equal(both, torch.stack([saliency, saliency.flip(1), saliency]))
    # An image and its flip are zoomed alike.
    image = torch.rand(1, 3, *SIZE, dtype=torch.float64)
    pair = torch.cat([image, image.flip(3)])
    warp = SeparableWarp.from_saliency(fixed.double()(torch.tensor([False, True])), 5.0)
    zoomed = warp.zoom(pair, (60, 100))
    torch.testing.assert_close(zoomed[1], zoomed[0].flip(2), rtol=0, atol=1e-12)


def test_fixed_saliency_is_state_and_keeps_its_precision():
    saliency = prior()
    fixed = FixedSaliency(saliency)
    other = FixedSaliency(torch.ones(SHAPE))
    other.load_state_dict(fixed.state_dict())
    assert torch.equal(other(), saliency[None])
    assert torch.equal(torch.nn.Sequential(fixed).to(torch.bfloat16)[0](), saliency[None])
    assert FixedSaliency(saliency.half())().dtype == torch.float32
    fixed.saliency.fill_(3)
    assert saliency.max() < 2  # a copy


@pytest.mark.parametrize(
    ("saliency", "error", "words"),
    [
        (torch.rand(2, 7, 11), FastwarpError, r"saliency is of shape \[2, 7, 11\], expected \[1, h, w\]"),
        (torch.rand(7), FastwarpError, r"saliency is of shape \[7\]"),
        (torch.rand(1, 7), FastwarpError, r".* of at least 2 x 2 cells"),
        (torch.ones(7, 11, dtype=torch.int64), TypeError, "saliency has dtype int64"),
        ([[1.0]], TypeError, "saliency is list"),
        (torch.tensor([[1.0, -1.0], [1.0, 1.0]]), FastwarpError, "saliency is NaN, infinite or negative in places"),
        (torch.tensor([[1.0, math.inf], [1.0, 1.0]]), FastwarpError, "saliency is NaN, infinite or negative in places"),
    ],
)
def test_bad_fixed_saliency(saliency, error, words):
    with pytest.raises(error, match="FixedSaliency: " + words):
        FixedSaliency(saliency)


def test_bad_flips():
    with pytest.raises(TypeError, match="FixedSaliency: flipped has dtype float32, expected bool"):
        FixedSaliency(prior())(torch.ones(2))
    with pytest.raises(FastwarpError, match=r"AdaptiveSaliency: flipped is of shape \[3\], expected \[2\]"):
        AdaptiveSaliency(SIZE, SHAPE)(["a", "b"], torch.ones(3, dtype=torch.bool))


# --- adaptive ---------------------------------------------------------------------------------------------------------


def test_first_and_empty_frames_fall_back():
    saliency = prior()
    for adaptive, fallback in (
        (AdaptiveSaliency(SIZE, SHAPE), UNIFORM),
        (AdaptiveSaliency(SIZE, SHAPE, prior=saliency, alpha=0.7), saliency[None] / saliency.sum()),
    ):
        torch.testing.assert_close(adaptive(), fallback)
        adaptive.update([BOXES])
        assert not torch.allclose(adaptive(), fallback)
        adaptive.update([BOXES[:0]])
        torch.testing.assert_close(adaptive(), fallback)
        adaptive.update([BOXES], [torch.tensor([0.1, 0.2, 0.3])])
        assert not torch.allclose(adaptive(), fallback)
        adaptive.reset()
        torch.testing.assert_close(adaptive(), fallback)


def test_composite_of_detections_and_prior():
    saliency = prior()
    adaptive = AdaptiveSaliency(SIZE, SHAPE, 2.0, 32.0, prior=saliency, alpha=0.3)
    adaptive.update([BOXES])
    of_boxes, of_set = density(BOXES, amplitude=2.0, bandwidth=32.0), saliency[None] / saliency.sum()
    torch.testing.assert_close(adaptive(), 0.3 * of_boxes + 0.7 * of_set)
    torch.testing.assert_close(adaptive(flipped=True), 0.3 * of_boxes + 0.7 * of_set.flip(2))
    torch.testing.assert_close(adaptive().sum(), torch.tensor(1.0))


def test_scores_below_the_threshold_do_not_count():
    adaptive = AdaptiveSaliency(SIZE, SHAPE, threshold=0.5)
    broken = torch.cat([BOXES, torch.full((1, 4), math.nan)])
    adaptive.update([broken], [torch.tensor([0.9, 0.2, 0.5, 0.1])])
    torch.testing.assert_close(adaptive(), density(BOXES[[0, 2]]))
    adaptive.update([BOXES], [torch.tensor([0.1, 0.2, 0.3])])
    torch.testing.assert_close(adaptive(), UNIFORM)


def test_streams_have_memories_of_their_own():
    adaptive = AdaptiveSaliency(SIZE, SHAPE)
    adaptive.update([BOXES[:1], BOXES[1:]], streams=["left", "right"])
    maps = adaptive(["right", "new", "left"])
    torch.testing.assert_close(maps, torch.cat([density(BOXES[1:]), UNIFORM, density(BOXES[:1])]))
    adaptive.update([BOXES], streams=["left"])
    torch.testing.assert_close(adaptive(["left", "right"]), torch.cat([density(BOXES), density(BOXES[1:])]))
    adaptive.reset("left")
    torch.testing.assert_close(adaptive(["left", "right"]), torch.cat([UNIFORM, density(BOXES[1:])]))
    adaptive.reset("never seen")


def test_memory_is_no_state_and_holds_copies():
    adaptive = AdaptiveSaliency(SIZE, SHAPE)
    boxes = BOXES.clone().requires_grad_()
    for scores in (None, [torch.ones(3)]):
        adaptive.update([boxes], scores)
        before = adaptive()
        assert not before.requires_grad
        with torch.no_grad():
            boxes += 20
        assert torch.equal(adaptive(), before)
        assert list(adaptive.state_dict()) == ["prior.saliency"]
    assert torch.equal(copy.deepcopy(adaptive)(), adaptive())


@pytest.mark.parametrize("options", [{}, {"alpha": 0.5}, {"prior": "random"}])
def test_knots_are_those_of_the_map(options):
    options = {name: prior() if value == "random" else value for name, value in options.items()}
    adaptive = AdaptiveSaliency(SIZE, SHAPE, **options)
    adaptive.update([BOXES, BOXES[:1]], streams=[0, 1])
    knots = adaptive.knots([0, 1, 2], 4.0, False)
    torch.testing.assert_close(knots, F.lz_knots(adaptive([0, 1, 2]), 4.0, False), rtol=0, atol=1e-6)
    if not options:
        direct = box_knots([BOXES, BOXES[:1], BOXES[:0]], SIZE, SHAPE, fwhm=4.0, anti_crop=False)
        assert all(torch.equal(a, b) for a, b in zip(knots, direct, strict=True))


def test_amplitude_and_bandwidth_are_learned():
    adaptive = AdaptiveSaliency(
        SIZE, SHAPE, torch.nn.Parameter(torch.tensor(1.0)), torch.nn.Parameter(torch.tensor(64.0))
    )
    assert sorted(name for name, _ in adaptive.named_parameters()) == ["amplitude", "bandwidth"]
    adaptive.update([BOXES])
    sum(k.square().sum() for k in adaptive.knots()).backward()
    assert adaptive.amplitude.grad != 0
    assert adaptive.bandwidth.grad != 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"alpha": 1.5}, FastwarpError, "AdaptiveSaliency: alpha is 1.5"),
        ({"prior": torch.zeros(SHAPE)}, FastwarpError, "AdaptiveSaliency: prior is of sum 0.0, expected a positive"),
        ({"prior": torch.full(SHAPE, 3e38)}, FastwarpError, "AdaptiveSaliency: prior is of sum inf"),
        ({"prior": torch.full(SHAPE, math.nan)}, FastwarpError, "saliency is NaN, infinite or negative in places"),
        ({"prior": torch.rand(3, 4)}, FastwarpError, r"prior is of shape \[1, 3, 4\], expected \[1, 7, 11\]"),
        ({"image_size": (0, 4)}, FastwarpError, r"image_size is \(0, 4\)"),
        ({"bandwidth": -1.0}, FastwarpError, "bandwidth is -1.0"),
    ],
)
def test_bad_settings(options, error, words):
    with pytest.raises(error, match=words):
        AdaptiveSaliency(**{"image_size": SIZE, "shape": SHAPE, **options})


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((BOXES,), FastwarpError, "boxes is one tensor, expected a list of 1"),
        (([BOXES, BOXES],), FastwarpError, "boxes is 2 tensors, expected a list of 1"),
        (([BOXES[:, :3]],), FastwarpError, r"boxes\[0\] is of shape \[3, 3\], expected \[N, 4\]"),
        (([BOXES], [torch.ones(2)]), FastwarpError, r"scores\[0\] is of shape \[2\], expected \[3\]"),
        (([BOXES], [0.5]), TypeError, r"scores\[0\] is float"),
        (([BOXES > 1],), TypeError, r"boxes\[0\] has dtype torch.bool, expected real numbers"),
        (([BOXES[:, [2, 1, 0, 3]]],), FastwarpError, r"boxes\[0\] is inverted in places, expected x1 <= x2"),
        (([torch.full((1, 4), math.nan)],), FastwarpError, r"boxes\[0\] is NaN or infinite in places"),
        (
            ([torch.full((1, 4), 1e300, dtype=torch.float64)],),
            FastwarpError,
            r"boxes\[0\] is NaN or infinite in places",
        ),
        (([BOXES], [torch.tensor([0.5, math.nan, 0.5])]), FastwarpError, r"scores\[0\] is NaN in places"),
    ],
)
def test_bad_updates(arguments, error, words):
    with pytest.raises(error, match="AdaptiveSaliency.update: " + words):
        AdaptiveSaliency(SIZE, SHAPE).update(*arguments)


def test_a_refused_update_changes_nothing():
    adaptive = AdaptiveSaliency(SIZE, SHAPE)
    adaptive.update([BOXES, BOXES[:1]], streams=["left", "right"])
    before = adaptive(["left", "right"])
    with pytest.raises(FastwarpError, match=r"boxes\[1\] is NaN or infinite"):
        adaptive.update([BOXES[1:], torch.full((1, 4), math.inf)], streams=["left", "right"])
    assert torch.equal(adaptive(["left", "right"]), before)


# --- training on single frames ----------------------------------------------------------------------------------------


def test_jitter_moves_boxes_as_wholes():
    boxes = BOXES.repeat(4000, 1)
    before = boxes.clone()
    moved = jitter_boxes(boxes, generator=torch.Generator().manual_seed(0))
    assert torch.equal(boxes, before)
    by = moved - boxes
    torch.testing.assert_close(by[:, :2], by[:, 2:], rtol=0, atol=1e-4)
    assert by[:, 0].std().item() == pytest.approx(7.5, rel=0.03)
    assert by[:, 1].std().item() == pytest.approx(3.0, rel=0.03)
    assert by.mean().abs() < 0.2
    assert torch.equal(jitter_boxes(boxes, generator=torch.Generator().manual_seed(0)), moved)
    assert isinstance(jitter_boxes((boxes, boxes)), tuple)
    assert torch.equal(jitter_boxes(boxes, 0.0, 0.0), boxes)


def test_jitter_of_lists_integers_and_nothing():
    first, second, third = jitter_boxes([BOXES, BOXES[:0], BOXES.double()])
    assert first.shape == (3, 4)
    assert second.shape == (0, 4)
    assert third.dtype == torch.float64
    assert jitter_boxes(BOXES.int()).dtype == torch.float32
    assert jitter_boxes(BOXES.expand(2, 3, 4)).shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((torch.ones(3, 5),), FastwarpError, r"boxes is of shape \[3, 5\]"),
        ((torch.tensor(1.0),), FastwarpError, r"boxes is of shape \[\]"),
        ((3,), TypeError, "boxes is int"),
        ((BOXES, -1.0), FastwarpError, "sigma_x is -1.0"),
        ((BOXES, 1.0, math.inf), FastwarpError, "sigma_y is inf"),
    ],
)
def test_bad_jitter(arguments, error, words):
    with pytest.raises(error, match="jitter_boxes: " + words):
        jitter_boxes(*arguments)


def test_cascade():
    assert [CascadeSchedule(3)(epoch) for epoch in range(3)] == ["truth", "truth", "detections"]
    assert [CascadeSchedule(2, 0)(epoch) for epoch in range(2)] == ["truth", "truth"]
    assert CascadeSchedule(5, 5)(0) == "detections"
    for epoch in (-1, 3):
        with pytest.raises(FastwarpError, match=f"epoch is {epoch}, expected an integer from 0 to 2"):
            CascadeSchedule(3)(epoch)
    with pytest.raises(FastwarpError, match="last is 4, expected an integer from 0 to 3"):
        CascadeSchedule(3, 4)
