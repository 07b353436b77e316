"""Triton kernels: against the reference (on a GPU, else in Triton's interpreter), and compiled for GPUs."""

import pytest
import torch
from gpu_helpers import (
    DEVICE,
    array,
    assert_right,
    format_of,
    interpreter,
    on_device,
    poisoned_memory,  # noqa: F401
    run,
)
from helpers import random_knots
from torch import Tensor

from fastwarp.reference import axis as axis_reference
from fastwarp.reference import separable as reference

with interpreter():
    from fastwarp.kernels.gpu import _levels, _windows, axis, separable

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []

FORMATS = (torch.contiguous_format, torch.channels_last)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_axis(name: str, quantity: str, *args):
    results = run(getattr(axis, name), *args)
    assert_right(results, getattr(axis_reference, name)(*(array(a) for a in args)), quantity)
    return results


# --- axis -------------------------------------------------------------------------------------------------------------


geometry_dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@geometry_dtypes
@pytest.mark.parametrize("anti_crop", [True, False])
@pytest.mark.parametrize(("h", "w"), [(31, 51), (2, 70), (7, 5)])
def test_lz_knots(h, w, anti_crop, dtype):
    saliency = torch.rand(2, h, w, dtype=dtype) ** 4
    saliency[0, 0, 0] = -1
    args = (saliency, saliency.mT, 4.0, anti_crop)
    y, x = check_axis("lz_knots", "knots", *args)
    if anti_crop:
        assert all((k[:, 0] == 0).all() and (k[:, -1] == 1).all() for k in (y, x))
    grads = (torch.randn(2, n, dtype=dtype) for n in (h, w))
    check_axis("lz_knots_backward", "geometry_grad", *grads, *args)


@pytest.mark.parametrize("anti_crop", [True, False])
def test_lz_knots_of_degenerate_saliency(anti_crop):
    saliency = torch.zeros(6, 9, 6)
    saliency[1, 4, 0] = 1  # one hot cell
    saliency[2] = 1
    saliency[3] = 3e38
    saliency[4, 2:5] = 1e-40
    saliency[5, 1, 1] = float("nan")
    y, _ = check_axis("lz_knots", "knots", saliency, saliency.mT, 2.0, anti_crop)
    assert y[:5].isfinite().all()
    assert y[5].isnan().all()


@geometry_dtypes
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("inverse", [False, True])
def test_axis_map(inverse, batch, dtype):
    knots = random_knots(batch, 9, dtype, (0.1, 0.8))
    knots[:, 1] = knots[:, 0]
    knots[0, 4] = knots[0, 3]
    knots[-1, 7] = knots[-1, 8]
    positions = torch.linspace(-0.3, 1.4, 77, dtype=dtype).repeat(2, 1)
    positions[1, :2] = knots[-1, [0, -1]]  # the ends as stored
    grad = torch.randn(2, 77, dtype=dtype)
    check_axis("axis_map_backward", "geometry_grad", grad, knots, positions, inverse)
    positions[0, 3] = float("nan")
    check_axis("axis_map", "positions", knots, positions, inverse)


VALID = torch.tensor([[[9, 3], [4, 1], [0, 7]], [[2, 2], [30, 7], [1, 5]]])
SOURCE_VALID = torch.tensor([[[5, 9], [3, 1], [0, 7]]])


@geometry_dtypes
@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize(("batch", "valid", "source_valid"), [(2, None, None), (1, VALID, SOURCE_VALID)])
def test_axis_windows(inverse, antialias, border, batch, valid, source_valid, dtype):
    knots = random_knots(batch, 6, dtype, (0.1, 0.9)), random_knots(batch, 9, dtype, (0.0, 0.7))
    args = (*knots, [12, 5, 7, 1, 2, 17], [20, 31, 3, 8, 2, 9], inverse, antialias, border, valid, source_valid)
    windows = check_axis("axis_windows", "windows", *args)
    check_axis("axis_windows_backward", "geometry_grad", torch.randn(windows.shape, dtype=dtype), *args)


def test_windows_of_nan_knots():
    knots = random_knots(2, 6, torch.float32)
    knots[1, 3] = float("nan")
    for inverse in (False, True):
        for antialias in (False, True):
            args = (knots, knots, [5, 4], [7, 8], inverse, antialias, False, torch.tensor([[[4, 4]]]), None)
            windows = check_axis("axis_windows", "windows", *args)
            assert windows[1, 1].tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1]


# --- separable --------------------------------------------------------------------------------------------------------


def windows_for(batch, sizes, sources, antialias, dtype=torch.float32, source_valid=None) -> Tensor:
    """Windows of a random unzoom of a cropped image; fill past the range of the knots if not `antialias`."""
    knots = random_knots(batch, 5, dtype, (0.1, 0.9)), random_knots(batch, 6, dtype, (0.0, 0.8))
    args = (*knots, sizes, sources, True, antialias, antialias, None, source_valid)
    return axis.axis_windows(*(on_device(a) for a in args)).cpu()


def check_resampling(images, windows, sizes, source_valid, antialias, grads=None) -> None:
    """All three launchers against the reference; `grads` are those of the results."""
    arrays = (array(windows), array(source_valid))
    results = separable.resample(*(on_device(a) for a in (images, windows, sizes, source_valid, antialias)))
    assert_right(results, reference.resample(array(images), arrays[0], sizes, arrays[1]), "image")

    grads = grads or [torch.randn(r.shape).to(r.dtype).to(memory_format=format_of(r)) for r in results]
    sources = [side for image in images for side in image.shape[2:]]
    adjoint = run(separable.resample_adjoint, grads, windows, sources, source_valid, antialias)
    assert_right(adjoint, reference.resample_adjoint(array(grads), arrays[0], sources, arrays[1]), "image_grad")

    gradient = run(separable.windows_gradient, grads, images, windows, source_valid, antialias)
    expected = reference.windows_gradient(array(grads), array(images), *arrays)
    assert_right(gradient, expected, "windows_grad", dtype=images[0].dtype)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_resample(dtype, form, antialias):
    shapes, sizes = [(5, 8, 11), (2, 6, 4)], [7, 13, 5, 3]
    images = [torch.randn(2, *s).to(dtype).to(memory_format=form) for s in shapes]
    sources = [side for _, *sides in shapes for side in sides]
    valid = torch.tensor([[[5, 7], [6, 4]], [[8, 11], [2, 1]]])
    for source_valid in (valid,) if dtype.itemsize == 2 else (None, valid):
        windows = windows_for(1, sizes, sources, antialias, torch.promote_types(dtype, torch.float32), source_valid)
        check_resampling(images, windows, sizes, source_valid, antialias)
    results = separable.resample(on_device(images), on_device(windows), sizes, None, antialias)
    adjoint = separable.resample_adjoint(results, on_device(windows), sources, None, antialias)
    assert {format_of(t) for t in (*results, *adjoint)} == {form}


def test_aligned_channels():
    images = [torch.randn(2, c, 4, 5).to(memory_format=torch.channels_last) for c in (32, 48)]
    images[1] = images[1][:, 16:32, 1:]
    windows = windows_for(1, [3, 4, 5, 2], [4, 5, 3, 5], False)
    check_resampling(images, windows, [3, 4, 5, 2], None, False)


def test_groups_of_channels(monkeypatch):
    """The interpreter takes all channels at once, for speed; a level of few has less groups than another."""
    monkeypatch.setattr(_levels, "INTERPRETED", False)
    monkeypatch.setattr(_levels, "_kept_launches", _levels._kept_launches.__wrapped__)
    for form, channels in zip(FORMATS, ((9, 2), (130, 5)), strict=True):
        images = [torch.randn(1, c, 4, 5).to(memory_format=form) for c in channels]
        check_resampling(images, windows_for(1, [3, 4, 5, 2], [4, 5, 4, 5], False), [3, 4, 5, 2], None, False)


def test_windows_of_half_width_one_take_either_path():
    image = on_device(torch.randn(1, 3, 9, 11))
    windows = on_device(windows_for(1, [7, 13], [9, 11], False))
    fast, general = (separable.resample([image], windows, [7, 13], None, antialias)[0] for antialias in (False, True))
    assert_right(fast, array(general), "image")


def test_levels_of_two_formats_and_any_strides():
    planes = torch.randn(2, 6, 9, 24)
    images = [
        planes[:, ::2, :, ::2],
        planes[:, :4].to(memory_format=torch.channels_last),
        planes[:, :1].transpose(2, 3),
        torch.randn(2, 9, 1, 12).permute(0, 3, 1, 2)[:, 1:9],
    ]
    sizes = [7, 13, 5, 3, 30, 9, 8, 2]
    windows = windows_for(2, sizes, [side for image in images for side in image.shape[2:]], True)
    grads = [torch.randn(1, 1, 1, 1).expand(2, i.shape[1], *sizes[2 * n : 2 * n + 2]) for n, i in enumerate(images)]
    check_resampling(images, windows, sizes, None, True, grads)


def test_empty_levels_and_batches():
    sizes = [4, 0, 3, 5, 2, 2]
    windows = windows_for(1, sizes, [5, 6, 5, 0, 4, 4], False)
    for batch, channels in ((0, 2), (2, 0), (2, 3)):
        images = [torch.randn(batch, channels, *s) for s in ((5, 6), (5, 0), (4, 4))]
        check_resampling(images, windows, sizes, None, False)


@pytest.mark.parametrize("antialias", [False, True])
def test_nan_windows_read_nothing_and_give_nan(antialias):
    image, windows = torch.randn(1, 2, 9, 11), torch.ones(1, 2, 7 + 13)
    windows[:, 0] = torch.linspace(0, 8, 20)
    windows[:, 0, 2] = float("nan")
    (result,) = run(separable.resample, [image], windows, [7, 13], None, antialias)
    assert_right(result, reference.resample(array([image]), array(windows), [7, 13], None)[0], "image")
    windows[:, 0] = float("nan")
    check_resampling([image], windows, [7, 13], None, antialias)


def test_pixels_of_no_weight_are_not_read():
    image = torch.randn(1, 1, 6, 6)
    image[0, 0, :, 3:] = float("inf")
    windows = torch.ones(1, 2, 9)
    windows[0, 0] = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2])  # on pixel centres: weight 0 right of them
    (result,) = separable.resample([on_device(image)], on_device(windows), [6, 3], None, False)
    assert torch.equal(result.cpu(), image[..., :3])


@pytest.mark.parametrize("antialias", [False, True])
def test_bytes_round_half_to_even(antialias):
    image = torch.randint(0, 256, (2, 3, 9, 11), dtype=torch.uint8)
    windows = windows_for(2, [7, 13], [9, 11], antialias)
    for source in (image, image.to(memory_format=torch.channels_last)):
        results = run(separable.resample, [source], windows, [7, 13], None, antialias)
        assert_right(results, reference.resample(array([image]), array(windows), [7, 13], None), "image")
    halves = torch.tensor([0, 1, 2, 3, 255], dtype=torch.uint8).view(1, 1, 1, 5)
    between = torch.ones(1, 2, 5)
    between[0, 0] = torch.tensor([0, 0.5, 1.5, 2.5, 4])
    (result,) = separable.resample([on_device(halves)], on_device(between), [1, 4], None, antialias)
    assert result.flatten().tolist() == [0, 2, 2, 255]


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_camera(dtype, antialias):
    frame = torch.randint(0, 256, (2, 9, 11, 3), dtype=torch.uint8)
    scale, bias = [0.01, 0.02, 0.03], [-1.0, 0.5, 2.0]
    for source_valid in (None, torch.tensor([[[9, 11]], [[4, 0]]])):
        windows = windows_for(1, [7, 13], [9, 11], antialias, source_valid=source_valid)
        result = run(separable.camera, frame, windows, [7, 13], scale, bias, dtype, source_valid, antialias)
        expected = reference.camera(frame.numpy(), array(windows), (7, 13), scale, bias, array(source_valid))
        assert_right(result, expected, "image")
        assert (array(result)[expected == 0] == 0).all()


def test_images_past_2_to_the_31_elements():
    row = 2**31 + 8  # memory between the rows is never touched
    image = torch.empty(0, dtype=torch.uint8, device=DEVICE)
    image.set_(torch.UntypedStorage(row + 64, device=DEVICE), 0, (1, 2, 2, 8), (0, 8, row, 1))
    image.copy_(torch.arange(32, dtype=torch.uint8).view(1, 2, 2, 8))
    windows = torch.ones(1, 2, 10, device=DEVICE)
    windows[0, 0] = torch.tensor([0, 1, 0, 1, 2, 3, 4, 5, 6, 7])
    (result,) = separable.resample([image], windows, [2, 8], None, False)
    assert result.flatten().tolist() == list(range(32))


def test_a_pyramid_takes_one_launch(monkeypatch):
    launches = []

    class Counted:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            launches.append(grid)
            return self.kernel[grid]

    for module, name in ((separable, "_resample_kernel"), (_windows, "_axis_windows_kernel")):
        monkeypatch.setattr(module, name, Counted(getattr(module, name)))
    sizes = [6, 8, 3, 4, 2, 2]
    windows = windows_for(2, sizes, sizes, False)
    images = [torch.randn(2, 4, *sizes[i : i + 2]) for i in (0, 2, 4)]
    separable.resample(on_device(images), on_device(windows), sizes, None, False)
    assert len(launches) == 2
