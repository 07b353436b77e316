"""functional.downsize_boxes: boxes learned as a map that is downsized, and pooled."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as TF
from downsize_function_cases import DTYPES, named, network, start_error, waves
from helpers import assert_bitwise

import fastwarp
from fastwarp import functional as F

NAMES = ("downsize", "downsize_boxes", "relative_distance")


def random_boxes(n: int, height: int, width: int, dtype=torch.float32) -> torch.Tensor:
    corners = torch.rand(n, 2, 2, dtype=torch.float64) * torch.tensor([width, height])
    low, high = corners.amin(1), corners.amax(1)
    return torch.cat([low, high + 0.3], 1).to(dtype)


@pytest.mark.parametrize("encoding", ["exact", "raw", waves, None], ids=named)
@pytest.mark.parametrize("normalise", ["sigmoid", "softmax", "signed"])
def test_a_box_around_the_map_is_the_map_downsized(encoding, normalise):
    features = torch.rand(2, 4, 11, 14, dtype=torch.float64)
    args = network(2, 4, {None: 0, waves: 3}.get(encoding, 4), channels=4, dtype=torch.float64)
    options = {"encoding": encoding, "normalise": normalise, "mean": (0.5,) * 4, "std": (0.1, 0.2, 0.3, 0.4)}
    got = F.downsize_boxes(features, [torch.tensor([[0.0, 0.0, 14.0, 11.0]])] * 2, *args, (5, 6), **options)
    torch.testing.assert_close(got, F.downsize(features, *args, (5, 6), **options), rtol=1e-9, atol=1e-9)


def test_boxes_are_what_each_is_by_itself():
    features, args = torch.rand(3, 4, 11, 14), network(2, channels=4)
    boxes = [random_boxes(n, 11, 14) for n in (2, 0, 3)]
    got = F.downsize_boxes(features, boxes, *args, (3, 2))
    assert got.shape == (5, 4, 3, 2)
    alone = [F.downsize_boxes(features[i : i + 1], [box[None]], *args, (3, 2)) for i in range(3) for box in boxes[i]]
    torch.testing.assert_close(got, torch.cat(alone), rtol=1e-5, atol=1e-6)
    numbered = torch.cat([torch.cat([torch.full((len(part), 1), float(i)), part], 1) for i, part in enumerate(boxes)])
    assert_bitwise([F.downsize_boxes(features, numbered, *args, (3, 2))], [got])
    twice = F.downsize_boxes(features, [2 * part for part in boxes], *args, (3, 2), spatial_scale=0.5)
    torch.testing.assert_close(twice, got, rtol=1e-5, atol=1e-5)
    last = F.downsize_boxes(features.to(memory_format=torch.channels_last), boxes, *args, (3, 2))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, got)
    assert got.is_contiguous()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_boxes_start_as_roi_align(dtype):
    """roi_align(aligned=True, sampling_ratio=1) by F.grid_sample, whose border padding is the clamp."""
    features = torch.rand(2, 4, 9, 12).to(dtype)
    boxes = [torch.tensor([[-3.0, 1.3, 7.1, 12.0], [2.0, 8.0, 9.5, 1.0]]), torch.tensor([[0.5, 0.5, 4.5, 2.5]])]
    got = F.downsize_boxes(features, boxes, [], [], torch.eye(4), None, (3, 4))
    expected = []
    for i, part in enumerate(boxes):
        for x1, y1, x2, y2 in part.double():
            x = (x1 + (torch.arange(4).double() + 0.5) * (x2 - x1) / 4) / 12 * 2 - 1
            y = (y1 + (torch.arange(3).double() + 0.5) * (y2 - y1) / 3) / 9 * 2 - 1
            grid = torch.stack([x.expand(3, 4), y[:, None].expand(3, 4)], -1)[None]
            options = {"align_corners": False, "padding_mode": "border"}
            expected.append(TF.grid_sample(features[i : i + 1].double(), grid, **options))
    assert start_error(features, got, torch.cat(expected)) < 5e-6


def test_boxes_gradcheck():
    features = torch.rand(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    (weight,), (bias,), fuse_weight, fuse_bias = network(1, channels=2, width=3, dtype=torch.float64)
    boxes = torch.tensor([[0, 0.7, 0.9, 3.3, 4.1], [1, 1.2, 1.4, 5.1, 3.7]], dtype=torch.float64)

    def function(features, boxes, weight, bias, fuse_weight, fuse_bias):
        boxes = torch.cat([torch.tensor([[0.0], [1.0]], dtype=torch.float64), boxes], 1)
        return F.downsize_boxes(features, boxes, [weight], [bias], fuse_weight, fuse_bias, (2, 2))

    inputs = [features, boxes[:, 1:].clone(), weight, bias, fuse_weight, fuse_bias]
    inputs = [tensor.requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_strange_boxes():
    features, args = torch.rand(1, 3, 6, 7), network(1)
    none = F.downsize_boxes(features, [torch.zeros(0, 4)], *args, (2, 3))
    assert none.shape == (0, 3, 2, 3)
    assert F.downsize_boxes(features[:0], [], *args, (2, 3)).shape == (0, 3, 2, 3)
    assert (
        F.downsize_boxes(
            features, torch.zeros(0, 5), *args, (2, 3), encoding=lambda x, y: x * y + torch.zeros(4, 1, 1)
        ).shape[0]
        == 0
    )
    point = F.downsize_boxes(features, [torch.tensor([[2.5, 3.5, 2.5, 3.5]])], [], [], torch.eye(4), None, (2, 2))
    torch.testing.assert_close(point, features[:, :, 3:4, 2:3].expand(1, 3, 2, 2), rtol=0, atol=1e-5)
    mixed = torch.tensor([[1.0, 1.0, 5.0, 5.0], [float("nan"), 1.0, 5.0, 5.0], [1e30, 0.0, 2e30, 5.0]])
    got = F.downsize_boxes(features, [mixed], *args, (2, 3))
    assert got[0].isfinite().all()
    assert got[1].isnan().all()
    assert got[2].isfinite().all()
    single = F.downsize_boxes(features[:, :, :1, :1], [mixed[:1]], *args, (2, 3))
    torch.testing.assert_close(single, features[:, :, :1, :1].expand(1, 3, 2, 3))


def test_compile_boxes():
    torch._dynamo.reset()
    args = network(1)
    compiled = torch.compile(
        lambda features, boxes: F.downsize_boxes(features, boxes, *args, (2, 3)), backend="aot_eager", fullgraph=True
    )
    for n in (2, 5):
        features, boxes = torch.rand(1, 3, 9, 8), random_boxes(n, 9, 8)
        torch.testing.assert_close(
            compiled(features, [boxes]), F.downsize_boxes(features, [boxes], *args, (2, 3)), rtol=1e-5, atol=1e-6
        )


def test_backends_agree():
    image, args = torch.rand(2, 3, 9, 8), network(3)
    with fastwarp.backend("reference"):
        expected = F.downsize(image, *args, (4, 5))
    torch.testing.assert_close(F.downsize(image, *args, (4, 5)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_documentation(name):
    text = inspect.getdoc(getattr(F, name))
    arguments = text.partition("Args:")[2].partition("Returns:")[0]
    for argument in inspect.signature(getattr(F, name)).parameters:
        assert f"{argument}:" in arguments, f"{name} does not document {argument}"
