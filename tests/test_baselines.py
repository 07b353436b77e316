"""What FOVEA and LDS need of the warps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import evaluate, grid, random_mesh_warp, random_warp

from fastwarp import FastwarpError, SeparableWarp
from fastwarp.baselines import fovea_boxes, lds_edge_loss, lds_labels
from fastwarp.saliency import boundary_density


@pytest.mark.parametrize("make", [random_warp, random_mesh_warp])
def test_boxes_come_back_from_zoomed_space(make):
    boxes = torch.tensor([[10.0, 12, 30, 28], [40, 5, 55, 20]])
    for warp in (make(2), make(1)):
        zoomed = [warp[i % len(warp)].zoom_boxes(boxes[: 2 - i], (48, 64), (24, 32)) for i in range(2)]
        back = fovea_boxes(warp, zoomed, (48, 64), (24, 32))
        assert [len(one) for one in back] == [2, 1]
        if make is random_warp:  # the hull of a hull is larger
            for i, one in enumerate(back):
                torch.testing.assert_close(one, boxes[: 2 - i], rtol=0, atol=1e-3)


def test_losses_on_unzoomed_boxes_reach_boxes_and_warp():
    warp = random_warp(1)
    warp = SeparableWarp(warp.knots_y.requires_grad_(), warp.knots_x.requires_grad_())
    predicted = torch.tensor([[4.0, 5, 12, 14]], requires_grad=True)
    fovea_boxes(warp, [predicted], (48, 64), (24, 32))[0].sum().backward()
    assert (predicted.grad > 0).all()
    assert warp.knots_x.grad.any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_labels_are_those_of_the_nearest_pixels(dtype):
    warp, labels = random_warp(2), torch.randint(0, 200, (2, 20, 30)).to(dtype)
    zoomed = lds_labels(warp, labels, (9, 13))
    assert zoomed.dtype == dtype
    for image in range(2):
        rows = np.rint(evaluate(warp.knots_y[image], grid(9)) * 19).astype(int)
        columns = np.rint(evaluate(warp.knots_x[image], grid(13)) * 29).astype(int)
        np.testing.assert_array_equal(zoomed[image].numpy(), labels[image].numpy()[rows][:, columns])
    with pytest.raises(TypeError, match=r"labels are torch\.float32, expected integers"):
        lds_labels(warp, labels.float(), (9, 13))


def test_the_edge_loss_draws_a_saliency_to_the_boundaries():
    labels = torch.zeros(2, 32, 32, dtype=torch.uint8)
    labels[0, 10:20, 10:20], labels[1, :, 25:] = 1, 2
    target = boundary_density(labels, (8, 8))
    assert lds_edge_loss(3 * target, labels) < 1e-12
    saliency = torch.ones(2, 8, 8, requires_grad=True)
    loss = lds_edge_loss(saliency, labels)
    loss.backward()
    assert loss > 0
    edges = target > target.mean((1, 2), keepdim=True)
    assert saliency.grad[edges].max() < 0
    with pytest.raises(FastwarpError, match="labels is a batch of 2, expected 1, as saliency"):
        lds_edge_loss(saliency[:1], labels)
