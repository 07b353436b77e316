"""Triton kernels of the `density` family: against the reference (on a GPU, else in Triton's interpreter)."""

from typing import Any

import numpy as np
import pytest
import torch
from gpu_helpers import DEVICE, array, assert_right, interpreter, on_device, poisoned_memory, run  # noqa: F401
from torch import Tensor

from fastwarp.reference import density as reference

with interpreter():
    from fastwarp.kernels.gpu import _lz, density

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []

SIZE = (120, 200)
NAN = float("nan")


def boxes_for(batch: int, n: int, dtype: torch.dtype) -> Tensor:
    """Some past the image; the first a point beside a cell of 5 x 9."""
    centre, extent = torch.rand(batch, n, 2) * torch.tensor(SIZE[::-1]), torch.rand(batch, n, 2) * 60
    centre[:, :1], extent[:, :1] = torch.tensor([50.1, 60.1]), 0
    return torch.cat([centre - extent / 2, centre + extent / 2], 2).to(dtype)


CASES = {
    "floats": (None, None, None),
    "shared": (None, torch.tensor([1.5]), torch.tensor([20.0], dtype=torch.float64)),
    "of each": (torch.tensor([2, 5]), torch.tensor([1.0, 50.0]), torch.tensor([64.0, 20.0])),
    "empty": (torch.tensor([0, 9]), None, None),
}


def check(name: str, quantity: str, boxes: Tensor, case: str, *rest: Any) -> Any:
    """A launcher and the one of its gradients."""
    args = (boxes, *CASES[case], 1.0, 20.0, *SIZE, *rest)
    counts, *numbers = CASES[case]
    numbers = [torch.tensor([f]) if t is None else t for t, f in zip(numbers, (1.0, 20.0), strict=True)]
    arrays = (array(boxes), None if counts is None else counts.numpy(), *(array(t) for t in numbers), *SIZE, *rest)
    results, expected = run(getattr(density, name), *args), getattr(reference, name)(*arrays)
    assert_right(results, expected, quantity)
    expected = expected if isinstance(expected, tuple) else (expected,)
    grads = [torch.randn(e.shape, dtype=boxes.dtype) for e in expected]
    gradients = run(getattr(density, name + "_backward"), *grads, *args)
    right = getattr(reference, name + "_backward")(*(array(g) for g in grads), *arrays)
    assert_right(gradients, right, "density_grad", terms=1.0 if boxes.dtype == torch.float64 else 0.0)
    return results


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("h", "w"), [(5, 9), (2, 70)])
def test_density_map(h, w, case, dtype):
    check("density_map", "density", boxes_for(2, 5, dtype), case, h, w)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("h", "w", "anti_crop"), [(31, 51, True), (5, 70, False)])
def test_density_knots(h, w, anti_crop, case, dtype):
    y, x = check("density_knots", "knots", boxes_for(2, 5, dtype), case, h, w, 4.0, anti_crop)
    if anti_crop:
        assert all((k[:, 0] == 0).all() and (k[:, -1] == 1).all() for k in (y, x))


def test_more_boxes_than_a_block():
    boxes = boxes_for(1, 40, torch.float32)
    check("density_knots", "knots", boxes, "floats", 9, 13, 4.0, True)
    check("density_map", "density", boxes, "floats", 3, 4)


def test_no_boxes_and_no_images():
    for batch, n in ((2, 0), (0, 3)):
        boxes = torch.zeros(batch, n, 4)
        check("density_knots", "knots", boxes, "floats", 5, 7, 4.0, True)
        check("density_map", "density", boxes, "floats", 5, 7)


def test_nan_boxes_make_nan_of_their_image_alone():
    boxes = boxes_for(2, 3, torch.float32)
    boxes[1, 1, 2] = NAN
    y, x = run(density.density_knots, boxes, None, None, None, 1.0, 20.0, *SIZE, 5, 7, 4.0, True)
    saliency = run(density.density_map, boxes, None, None, None, 1.0, 20.0, *SIZE, 5, 7)
    for result in (y, x, saliency):
        assert result[0].isfinite().all()
        assert result[1].isnan().all()


def test_boxes_and_numbers_of_any_strides():
    wide = torch.full((5, 2, 8), NAN)
    boxes = wide[:, :, ::2].transpose(0, 1)
    boxes.copy_(boxes_for(2, 5, torch.float32))
    amplitude = torch.tensor([[1.0, NAN], [50.0, NAN]])[:, 0]
    args = (None, amplitude, None, 1.0, 20.0, *SIZE, 5, 7)
    tight = (None, amplitude.contiguous(), None, 1.0, 20.0, *SIZE, 5, 7)
    results = run(density.density_map, boxes, *args), run(density.density_map, boxes.contiguous(), *tight)
    assert torch.equal(*results)


def test_many_boxes_take_many_programs(monkeypatch):
    """Their marginals are shares, one for a few boxes, which the kernel of the knots sums."""
    launches = []

    class Counted:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            launches.append(grid)
            return self.kernel[grid]

    monkeypatch.setitem(density._MARGINALS, "BOXES", 8)
    monkeypatch.setattr(density, "_marginals_kernel", Counted(density._marginals_kernel))
    monkeypatch.setattr(_lz, "_lz_knots_kernel", Counted(_lz._lz_knots_kernel))
    args = (boxes_for(2, 20, torch.float64), torch.tensor([3, 20]), None, None, 1.0, 20.0, *SIZE, 5, 7, 4.0, True)
    y, x = density.density_knots(*(on_device(a) for a in args))
    assert launches == [(3, 2, 2), (2, 2)]
    numbers = np.ones(1), np.full(1, 20.0)
    assert_right([y, x], reference.density_knots(*map(array, args[:2]), *numbers, *SIZE, 5, 7, 4.0, True), "knots")
