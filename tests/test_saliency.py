"""Saliency from boxes against an explicit float64 loop over the formula."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fastwarp.errors import FastwarpError
from fastwarp.saliency import box_density

BOXES = torch.tensor([[10.0, 20.0, 40.0, 50.0], [100.0, 5.0, 103.0, 9.5], [-20.0, 60.0, 15.0, 130.0]])
SIZE = (120, 200)


def oracle(boxes: list[list[float]], image_size, shape, a: float, b: float) -> np.ndarray:
    """Cell by cell and box by box."""
    h, w = shape
    p = min(shape) - 1
    density = np.zeros(shape)
    for x1, y1, x2, y2 in boxes:
        kernel = np.zeros(shape)
        for r in range(h):
            for c in range(w):
                X, Y = image_size[1] * c / (w - 1), image_size[0] * r / (h - 1)
                dx, dy = X - (x1 + x2) / 2, Y - (y1 + y2) / 2
                kernel[r, c] = math.exp(-0.5 * (dx**2 / (b * (x2 - x1)) + dy**2 / (b * (y2 - y1))))
        density += a * kernel / (1e-5 + kernel.sum()) + 1 / (2 * p + 1) ** 2
    return density / density.sum()


@pytest.mark.parametrize("shape", [(31, 51), (2, 2), (7, 4)])
@pytest.mark.parametrize(("a", "b"), [(1.0, 64.0), (50.0, 3.0), (0.0, 10.0)])
def test_formula(shape, a, b):
    expected = oracle(BOXES.tolist(), SIZE, shape, a, b)
    exact = box_density(BOXES.double(), SIZE, shape, a, b)
    assert exact.dtype == torch.float64
    np.testing.assert_allclose(exact[0].numpy(), expected, rtol=1e-12, atol=0)
    single = box_density(BOXES, SIZE, shape, a, b)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single[0].numpy(), expected, rtol=2e-5, atol=1e-9)


def test_default_shape_and_parameters_are_the_papers():
    expected = oracle(BOXES.tolist(), SIZE, (31, 51), 1.0, 64.0)
    np.testing.assert_allclose(box_density(BOXES.double(), SIZE)[0].numpy(), expected, rtol=1e-12)


def test_no_boxes_is_uniform():
    density = box_density(torch.zeros(0, 4), SIZE, (5, 8))
    assert torch.equal(density, torch.full((1, 5, 8), 1 / 40))


def test_ragged_list_is_image_by_image():
    ragged = [BOXES, torch.zeros(0, 4), BOXES[1:2]]
    batch = box_density(ragged, SIZE)
    assert batch.shape == (3, 31, 51)
    for one, boxes in zip(batch, ragged, strict=True):
        assert torch.equal(one, box_density(boxes, SIZE)[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32, torch.int64, torch.uint8])
def test_narrow_dtypes_are_computed_in_float32(dtype):
    whole = torch.tensor([[8, 16, 40, 64], [96, 4, 104, 12]])
    density = box_density(whole.to(dtype), SIZE)
    assert density.dtype == torch.float32
    assert torch.equal(density, box_density(whole.float(), SIZE))


def test_zero_size_boxes_are_finite():
    # The first lies exactly on a cell, where the formula would be 0/0; the second between cells.
    point = torch.tensor([[100.0, 60.0, 100.0, 60.0], [33.3, 41.7, 33.3, 41.7]], requires_grad=True)
    density = box_density(point, (120, 200), (3, 5))
    density[0, 1, 2].backward()
    assert torch.isfinite(density).all()
    assert torch.isfinite(point.grad).all()
    # All mass of the first beside the uniform shares: (1 / (1 + 1e-5) + 2 / 25) / (1 / (1 + 1e-5) + 15 * 2 / 25).
    assert density[0, 1, 2].item() == pytest.approx((1 / 1.00001 + 0.08) / (1 / 1.00001 + 1.2), rel=1e-6)
    assert density[0, 0, 0].item() == pytest.approx(0.08 / (1 / 1.00001 + 1.2), rel=1e-6)


def test_mass_is_one_and_nothing_is_negative():
    density = box_density(BOXES.double(), SIZE)
    assert density.sum().item() == pytest.approx(1, abs=1e-12)
    assert (density > 0).all()


def test_flips_and_transposition():
    H, W = SIZE
    boxes = BOXES.double()
    density = box_density(boxes, SIZE, (9, 14))
    mirrored = torch.stack([W - boxes[:, 2], boxes[:, 1], W - boxes[:, 0], boxes[:, 3]], 1)
    upside_down = torch.stack([boxes[:, 0], H - boxes[:, 3], boxes[:, 2], H - boxes[:, 1]], 1)
    torch.testing.assert_close(box_density(mirrored, SIZE, (9, 14)), density.flip(2), rtol=1e-11, atol=1e-16)
    torch.testing.assert_close(box_density(upside_down, SIZE, (9, 14)), density.flip(1), rtol=1e-11, atol=1e-16)
    torch.testing.assert_close(box_density(boxes[:, [1, 0, 3, 2]], (W, H), (14, 9)), density.mT, rtol=1e-11, atol=1e-16)


def test_order_of_boxes_does_not_matter():
    density = box_density(BOXES.double(), SIZE)
    torch.testing.assert_close(box_density(BOXES.double().flip(0), SIZE), density, rtol=1e-13, atol=0)


def test_peak_is_at_the_box():
    density = box_density(torch.tensor([[150.0, 30.0, 170.0, 50.0]]), SIZE, (13, 21))[0]
    assert divmod(int(density.argmax()), 21) == (4, 16)  # Y = 40 = 4 * 120/12, X = 160 = 16 * 200/20


def test_gradient_to_the_boxes():
    boxes = BOXES.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda b: box_density(b, SIZE, (4, 6)), boxes)


def test_inputs_are_not_modified():
    boxes, before = BOXES.clone(), BOXES.clone()
    box_density([boxes, boxes], SIZE)
    assert torch.equal(boxes, before)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"boxes": torch.zeros(4)}, FastwarpError, r"boxes is of shape \[4\], expected 2 dimensions \[N, 4\]"),
        ({"boxes": torch.zeros(2, 5)}, FastwarpError, r"boxes is of shape \[2, 5\], expected \[N, 4\]"),
        ({"boxes": [torch.zeros(1, 4), torch.zeros(1, 2, 4)]}, FastwarpError, r"boxes\[1\] is of shape \[1, 2, 4\]"),
        ({"boxes": [torch.zeros(1, 4), torch.zeros(1, 4, device="meta")]}, FastwarpError, "on one device"),
        ({"boxes": []}, FastwarpError, "boxes is an empty list"),
        ({"boxes": [[0.0, 0.0, 1.0, 1.0]]}, TypeError, r"boxes\[0\] is list, expected a torch.Tensor"),
        ({"boxes": 3}, TypeError, "boxes is int, expected a tensor"),
        ({"boxes": torch.zeros(1, 4, dtype=torch.bool)}, TypeError, "dtype torch.bool, expected real numbers"),
        ({"boxes": torch.zeros(1, 4, dtype=torch.complex64)}, TypeError, "dtype torch.complex64"),
        ({"boxes": torch.tensor([[0.0, 0.0, math.nan, 1.0]])}, FastwarpError, "NaN or infinite"),
        ({"boxes": torch.tensor([[0.0, 0.0, math.inf, 1.0]])}, FastwarpError, "NaN or infinite"),
        ({"boxes": torch.tensor([[5.0, 0.0, 4.0, 1.0]])}, FastwarpError, "x1 <= x2 and y1 <= y2"),
        ({"image_size": (1, 200)}, FastwarpError, r"image_size is \(1, 200\), expected .* at least 2"),
        ({"image_size": (0, 200)}, FastwarpError, r"image_size is \(0, 200\)"),
        ({"image_size": (100.0, 200.0)}, TypeError, r"image_size is \(100.0, 200.0\), expected two integers"),
        ({"image_size": 100}, TypeError, "image_size is 100, expected two integers"),
        ({"shape": (31, 1)}, FastwarpError, r"shape is \(31, 1\)"),
        ({"shape": (31,)}, TypeError, "shape is .* expected two integers"),
        ({"amplitude": -1.0}, FastwarpError, "amplitude is -1.0"),
        ({"amplitude": math.nan}, FastwarpError, "amplitude is nan"),
        ({"bandwidth": 0.0}, FastwarpError, "bandwidth is 0.0, expected a number of pixels"),
    ],
)
def test_bad_input(arguments, error, words):
    with pytest.raises(error, match=words) as caught:
        box_density(**{"boxes": BOXES, "image_size": SIZE, **arguments})
    assert "box_density" in str(caught.value)
