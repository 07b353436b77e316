"""Images of several sizes in one batch: ragged lists of boxes, saliency of what is not padding."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_bitwise, random_mesh_warp, random_warp

from fastwarp import FastwarpError, SeparableWarp
from fastwarp.saliency import AdaptiveSaliency, LearnedSaliency, box_knots

BOXES = [
    torch.tensor([[10.0, 20.0, 30.0, 60.0], [0.0, 0.0, 90.0, 50.0]]),
    torch.zeros(0, 4),
    torch.tensor([[5.0, 6.0, 7.0, 8.0], [40.0, 1.0, 60.0, 9.0], [20.0, 20.0, 25.0, 25.0]]),
]
SOURCES, SIZES = [(100, 120), (50, 60), (70, 33)], [(50, 60), (25, 30), (35, 17)]

# --- points and boxes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [random_warp, random_mesh_warp])
@pytest.mark.parametrize("method", ["zoom_boxes", "unzoom_boxes", "zoom_corners", "unzoom_points"])
@pytest.mark.parametrize("batch", [1, 3])
def test_lists_are_mapped_image_by_image(make, method, batch):
    warp = make(batch)
    given = [b[:, :2] for b in BOXES] if method.endswith("points") else BOXES
    for sources, sizes in ((SOURCES, SIZES), (torch.tensor(SOURCES), torch.tensor(SIZES)), ((100, 120), (50, 60))):
        mapped = getattr(warp, method)(given, sources, sizes)
        assert len(mapped) == 3
        for i, one in enumerate(given):
            pair = [tuple(s) if isinstance(s[0], int) else tuple(int(n) for n in s[i]) for s in (sources, sizes)]
            assert_bitwise([mapped[i]], [getattr(warp[i if batch == 3 else 0], method)(one, *pair)])


def test_there_and_back():
    warp = random_warp(3)
    there = warp.zoom_boxes(BOXES, SOURCES, SIZES)
    for given, again in zip(BOXES, warp.unzoom_boxes(there, SOURCES, SIZES), strict=True):
        torch.testing.assert_close(again, given, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("boxes", "error", "words"),
    [
        ([], FastwarpError, "zoom_boxes: boxes is an empty list, expected one tensor"),
        ([torch.zeros(1, 4), torch.zeros(4)], FastwarpError, r"boxes\[1\] is of shape \[4\], expected 2 dimensions"),
        ([torch.zeros(1, 5)], FastwarpError, r"boxes\[0\] is of shape \[1, 5\], expected \[N, 4\]"),
        ([[1.0, 2.0, 3.0, 4.0]], TypeError, r"boxes\[0\] is list, expected a torch.Tensor"),
        ([torch.zeros(1, 4)] * 2, FastwarpError, "a batch of"),
    ],
)
def test_bad_lists(boxes, error, words):
    with pytest.raises(error, match=words):
        random_warp(3).zoom_boxes(boxes, (10, 10), (5, 5))


# --- saliency ---------------------------------------------------------------------------------------------------------


def test_learned_saliency_sees_what_is_no_padding():
    """The map of an image in a padded batch is that of the image alone, and padding has no gradient."""
    saliency = LearnedSaliency((4, 6), width=3)
    for parameter in saliency.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    image, valid = torch.rand(3, 3, 60, 70), torch.tensor([[60, 70], [41, 23], [10, 15]])  # the last is enlarged
    for b, (h, w) in enumerate(valid.tolist()):
        image[b, :, h:], image[b, :, :, w:] = 1e6, 1e6
    image.requires_grad_()
    maps = saliency(image, valid)
    for b, (h, w) in enumerate(valid.tolist()):
        torch.testing.assert_close(maps[b], saliency(image[b : b + 1, :, :h, :w])[0], rtol=1e-4, atol=1e-6)
    (grad,) = torch.autograd.grad(maps.square().sum(), image)
    assert grad[1, :, 41:].abs().max() == grad[1, :, :, 23:].abs().max() == 0
    assert grad[1, :, :41, :23].abs().max() > 0
    assert_bitwise([saliency(image[:0], valid[:0])], [saliency(image[:0])])
    with pytest.raises(FastwarpError, match=r"LearnedSaliency: valid is of shape \[3, 3\], expected \[B, 2\]"):
        saliency(image, torch.ones(3, 3, dtype=torch.int64))


def test_adaptive_saliency_of_several_sizes():
    """Boxes are taken to the size that the bandwidth refers to."""
    saliency = AdaptiveSaliency((100, 120), (5, 7))
    scaled = [b * torch.tensor([120 / w, 100 / h] * 2) for b, (h, w) in zip(BOXES, SOURCES, strict=True)]
    expected = box_knots(scaled, (100, 120), (5, 7))
    for sizes in (SOURCES, torch.tensor(SOURCES)):
        saliency.update(BOXES, streams="abc", image_sizes=sizes)
        for ours, right in zip(saliency.knots("abc"), expected, strict=True):
            torch.testing.assert_close(ours, right)
    with pytest.raises(FastwarpError, match=r"image_sizes is .*, expected 3 pairs, .* for each stream"):
        saliency.update(BOXES, streams="abc", image_sizes=SOURCES[:2])


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_knots_of_boxes_leave_no_trace(alpha):
    """They are the knots of streams that were updated with the boxes; and have a gradient to them."""
    saliency = AdaptiveSaliency((100, 120), (5, 7), alpha=alpha, threshold=0.5)
    scores = [torch.tensor([0.9, 0.1]), torch.zeros(0), torch.tensor([0.2, 0.6, 0.7])]
    saliency.update(BOXES[:1])
    before = saliency.knots()
    flipped = torch.tensor([True, False, True])
    knots = saliency.knots_of(BOXES, scores, 5.0, False, flipped, image_sizes=SOURCES)
    assert_bitwise(saliency.knots(), before)
    saliency.update(BOXES, scores, "abc", image_sizes=SOURCES)
    assert_bitwise(knots, saliency.knots("abc", 5.0, False, flipped))
    box = BOXES[0].clone().requires_grad_()
    SeparableWarp(*saliency.knots_of([box])).zoom(torch.rand(1, 1, 9, 9), (5, 5)).square().sum().backward()
    assert box.grad.abs().max() > 0
    with pytest.raises(FastwarpError, match=r"AdaptiveSaliency.knots_of: boxes is an empty list"):
        saliency.knots_of([])
    with pytest.raises(FastwarpError, match="boxes is one tensor, expected a list of 2, one tensor for each image"):
        saliency.knots_of(BOXES[0])
