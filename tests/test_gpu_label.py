"""Triton kernels of the `label` family: bit by bit the reference (on a GPU, else in Triton's interpreter)."""

import pytest
import torch
from gpu_helpers import (
    DEVICE,
    interpreter,
    on_device,
    poisoned_memory,  # noqa: F401
    run,
)
from label_cases import assert_same, calls, images_of

import fastwarp

with interpreter():
    from fastwarp.kernels.gpu import label

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
OPS = torch.ops.fastwarp


def check(kernel, images, args) -> None:
    results = run(getattr(label, kernel), images, *args)
    with fastwarp.backend("reference"):
        expected = getattr(OPS, f"label_{kernel}")(images, *args)
    assert_same([r.cpu() for r in results], expected, f"{images[0].dtype} {args[1:]}")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int16, torch.bfloat16, torch.float64], ids=str)
def test_nearest(dtype):
    args = calls(dtype, False)
    for i, form in enumerate((torch.contiguous_format, torch.channels_last)):
        for one in args[i::2]:
            check("nearest", images_of(dtype, form), one)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=str)
def test_majority(dtype):
    args = calls(dtype, True)
    for i, form in enumerate((torch.contiguous_format, torch.channels_last)):
        for one in args[i::2]:
            check("majority", images_of(dtype, form), one)


def test_cells_of_very_different_sizes():
    """Cells of all of the image beside single pixels, with every class in them."""
    images = [i.long() * 7 for i in images_of(torch.uint8, torch.contiguous_format)]
    for args in calls(torch.int64, True)[1::3]:
        windows = args[0].clone()
        windows[:, windows.shape[1] // 2 :, ::3] = 40.0
        windows[0, -1, 4] = float("inf")
        check("majority", images, (windows, *args[1:]))


def test_any_strides():
    image = torch.randint(0, 9, (2, 6, 9, 24), dtype=torch.int16)
    for view in (image[:, ::2, :, ::2], image[:, :3].transpose(2, 3), image[:1, :3].expand(2, -1, -1, -1)):
        levels = [view[:, :, :9, :11], view[:, :, :7, :8]]
        for args in (calls(torch.int16, False)[1], calls(torch.int16, True)[4]):
            check("majority" if args[0].shape[1] == 4 else "nearest", levels, args)


def test_one_launch_for_a_pyramid(monkeypatch):
    launches = []

    class Counted:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, programs):
            launches.append(programs)
            return self.kernel[programs]

    monkeypatch.setattr(label, "_label_kernel", Counted(label._label_kernel))
    images = on_device(images_of(torch.uint8, torch.contiguous_format))
    for kernel, majority in ((label.nearest, False), (label.majority, True)):
        kernel(images, *(on_device(a) for a in calls(torch.uint8, majority)[0]))
    assert len(launches) == 2
