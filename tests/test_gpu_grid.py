"""Triton kernels of the `grid` family: against the reference (on a GPU, else in Triton's interpreter)."""

import pytest
import torch
import torch.nn.functional as F
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
from helpers import assert_bitwise
from torch import Tensor

from fastwarp.reference import grid as reference

with interpreter():
    from fastwarp.kernels.gpu import _grid_cells, grid

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []

FORMATS = (torch.contiguous_format, torch.channels_last)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)

formats = pytest.mark.parametrize("form", FORMATS, ids=["contiguous", "channels_last"])
antialiased = pytest.mark.parametrize("antialias", [False, True], ids=["bilinear", "antialias"])


def sides(images: list[Tensor]) -> list[int]:
    return [side for image in images for side in image.shape[2:]]


def windows_for(batch, sizes, sources, antialias, dtype=torch.float32) -> Tensor:
    """Windows in no order, some on pixel centres and on the last pixels, a tenth of which read nothing."""
    levels = []
    for h, w, height, width in zip(sizes[::2], sizes[1::2], sources[::2], sources[1::2], strict=True):
        last = torch.tensor([width - 1, height - 1], dtype=torch.float64).clamp(min=0)[:, None]
        window = torch.rand(batch, 2, h * w, dtype=torch.float64) * last
        window = torch.where(torch.rand(batch, 1, h * w) < 0.2, window.round(), window)
        window = torch.where(torch.rand(batch, 1, h * w) < 0.1, last, window)
        window = torch.where(torch.rand(batch, 1, h * w) < 0.1, -1.0, window)
        if antialias:
            window = torch.cat([window, 1 + torch.rand(batch, 2, h * w, dtype=torch.float64)], 1)
        levels.append(window)
    return torch.cat(levels, 2).to(dtype)


def check(images, windows, sizes, source_valid=None, grads=None) -> None:
    """All three launchers against the reference; `grads` are those of the results."""
    arrays, common = (array(windows), array(source_valid)), (on_device(windows), on_device(source_valid))
    results = grid.resample(on_device(images), common[0], sizes, common[1])
    expected = reference.resample(array(images), arrays[0], sizes, arrays[1])
    assert_right(results, expected, "image")
    assert [r.dtype for r in results] == [i.dtype for i in images]
    for result, wanted in zip(results, expected, strict=True):
        assert (array(result)[wanted == 0] == 0).all()  # the fill is 0, not something small

    grads = grads or [torch.randn(r.shape).to(r.dtype).to(memory_format=format_of(r)) for r in results]
    adjoint = grid.resample_adjoint(on_device(grads), common[0], sides(images), common[1])
    expected = reference.resample_adjoint(array(grads), arrays[0], sides(images), arrays[1])
    terms = reference.resample_adjoint([abs(g) for g in array(grads)], arrays[0], sides(images), arrays[1])
    for result, wanted, sums in zip(adjoint, expected, terms, strict=True):
        assert_right(result, wanted, "image_grad", terms=sums.max(initial=0, where=sums == sums))

    gradient = grid.windows_gradient(on_device(grads), on_device(images), *common)
    assert gradient.dtype == windows.dtype
    expected = reference.windows_gradient(array(grads), array(images), *arrays)
    sums = [g.double().abs().sum(1) for g in grads]
    sums = [g.sum(0) if len(windows) == 1 else g for g in sums]
    most = max((g.max().item() for g in sums if g.numel()), default=0)
    largest = max((i.double().nan_to_num(0).abs().max().item() for i in images if i.numel()), default=0)
    assert_right(gradient, expected, "windows_grad", dtype=images[0].dtype, terms=most * largest)


def poison_padding(images: list[Tensor], source_valid: Tensor) -> None:
    """Padding, which must not be read, holds NaN."""
    for level, image in enumerate(images):
        for b, (y, x) in enumerate(source_valid[:, level].expand(len(image), 2).tolist()):
            image[b, :, y:] = float("nan")
            image[b, :, :, x:] = float("nan")


VALID = torch.tensor([[[5, 7], [6, 4], [1, 3]], [[8, 11], [2, 1], [3, 3]]])


@antialiased
@formats
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_resample(dtype, form, antialias):
    shapes, sizes = [(5, 8, 11), (2, 6, 4), (3, 3, 3)], [7, 13, 5, 3, 2, 2]
    images = [torch.randn(2, *s).to(dtype).to(memory_format=form) for s in shapes]
    windows = windows_for(2, sizes, sides(images), antialias, torch.promote_types(dtype, torch.float32))
    if dtype.itemsize > 2:
        check(images, windows[:1], sizes)
    poison_padding(images, VALID)
    check(images, windows, sizes, VALID)
    results = grid.resample(on_device(images), on_device(windows), sizes, None)
    adjoint = grid.resample_adjoint(results, on_device(windows), sides(images), None)
    assert {format_of(t) for t in (*results, *adjoint)} == {form}


@pytest.mark.skipif(DEVICE != "cuda", reason="the interpreter runs one program after the other")
@antialiased
def test_results_are_the_same_every_time(antialias):
    sizes = [7, 13, 5, 3]
    images = [torch.randn(2, 9, 8, 11), torch.randn(2, 9, 6, 4).to(memory_format=torch.channels_last)]
    windows = windows_for(1, sizes, sides(images), antialias)
    grads = run(grid.resample, images, windows, sizes, None)
    run(grid.resample_adjoint, grads, windows, sides(images), None)
    run(grid.windows_gradient, grads, images, windows, None)


@antialiased
def test_shared_windows_in_padded_batches(antialias):
    """Shared by images whose extents differ, so that the same window reads different pixels."""
    sizes = [7, 13, 5, 3, 2, 2]
    images = [torch.randn(2, 3, *s) for s in ((8, 11), (6, 4), (3, 3))]
    poison_padding(images, VALID)
    check(images, windows_for(1, sizes, sides(images), antialias), sizes, VALID)


@pytest.mark.parametrize("values", [torch.float16, torch.float32])
def test_windows_of_higher_precision(values):
    sizes = [7, 13]
    images = [torch.randn(2, 3, 8, 11).to(values)]
    for antialias in (False, True):
        check(images, windows_for(2, sizes, [8, 11], antialias, torch.float64), sizes)


def test_bilinear_is_grid_sample():
    image, size = torch.randn(2, 3, 8, 11, dtype=torch.float64), (7, 13)
    grid_of = 2.2 * torch.rand(2, *size, 2, dtype=torch.float64) - 1.1
    windows = ((grid_of.flatten(1, 2).mT + 1) / 2 * torch.tensor([10, 7])[:, None]).clamp(min=0)  # < 0 would be fill
    (result,) = grid.resample([on_device(image)], on_device(windows), [*size], None)
    expected = F.grid_sample(image, grid_of, align_corners=True, padding_mode="border")
    torch.testing.assert_close(result.cpu(), expected)


@antialiased
@formats
@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8], ids=str)
def test_identity_is_exact(dtype, form, antialias):
    image = torch.randint(0, 256, (2, 3, 5, 9)).to(dtype).to(memory_format=form)
    image = image / 7 if dtype.is_floating_point else image
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(9.0), indexing="ij")
    windows = torch.stack([x, y, *(torch.ones(5, 9),) * (2 * antialias)]).flatten(1)[None]
    (result,) = grid.resample([on_device(image)], on_device(windows), [5, 9], None)
    assert torch.equal(result.cpu(), image)


def test_aligned_channels():
    images = [torch.randn(2, c, 4, 5).to(memory_format=torch.channels_last) for c in (32, 48)]
    images[1] = images[1][:, 16:32, 1:]
    for antialias in (False, True):
        check(images, windows_for(1, [3, 4, 5, 2], [4, 5, 3, 5], antialias), [3, 4, 5, 2])


def test_levels_of_two_formats_and_any_strides():
    planes = torch.randn(2, 6, 9, 24)
    images = [
        planes[:, ::2, :, ::2],
        planes[:, :4].to(memory_format=torch.channels_last),
        planes[:, :1].transpose(2, 3),
        torch.randn(2, 9, 1, 12).permute(0, 3, 1, 2)[:, 1:9],
    ]
    sizes = [7, 13, 5, 3, 6, 9, 8, 2]
    windows = windows_for(2, sizes, sides(images), True).mT.contiguous().mT
    grads = [torch.randn(1, 1, 1, 1).expand(2, i.shape[1], *sizes[2 * n : 2 * n + 2]) for n, i in enumerate(images)]
    check(images, windows, sizes, None, grads)


@formats
def test_one_image_for_several_windows(form):
    sizes, images = [7, 13], [torch.randn(1, 5, 8, 11).to(memory_format=form)]
    windows = windows_for(3, sizes, [8, 11], False)
    check(images, windows, sizes)
    (grad,) = (torch.randn(1, 5, *sizes).to(memory_format=form),)
    adjoint = run(grid.resample_adjoint, [grad], windows, [8, 11], None)
    assert_right(adjoint, reference.resample_adjoint(array([grad]), array(windows), [8, 11], None), "image_grad")


@antialiased
def test_empty_levels_and_batches(antialias):
    sizes, sources = [4, 0, 3, 5, 2, 2], [5, 6, 5, 0, 4, 4]
    for batch, channels in ((0, 2), (2, 0), (2, 3)):
        images = [torch.randn(batch, channels, *sources[i : i + 2], device=DEVICE) for i in (0, 2, 4)]
        windows = on_device(windows_for(1, sizes, sources, antialias))
        results = grid.resample(images, windows, sizes, None)
        assert [r.shape for r in results] == [(batch, channels, *sizes[i : i + 2]) for i in (0, 2, 4)]
        adjoint = grid.resample_adjoint(results, windows, sources, None)
        assert [a.shape for a in adjoint] == [i.shape for i in images]
        gradient = grid.windows_gradient(results, images, windows, None)
        last = ([results[2]], [images[2]], windows[:, :, 15:])  # the one level that has values
        assert_bitwise([results[2]], grid.resample(last[1], last[2], [2, 2], None))
        assert_bitwise([adjoint[2]], grid.resample_adjoint(last[0], last[2], [4, 4], None))
        assert_bitwise([gradient[:, :, 15:]], [grid.windows_gradient(*last, None)])
        assert all((t == 0).all() for t in (*results[:2], *adjoint[:2], gradient[:, :, :15]))


@antialiased
def test_all_targets_in_one_place(antialias):
    """The run of one cell is as long as it can be; all others are empty."""
    windows = windows_for(1, [4, 5], [8, 11], antialias)
    windows[:, :2] = torch.tensor([4.25, 6.5])[:, None]
    check([torch.randn(2, 3, 8, 11)], windows, [4, 5])


def test_first_target_of_every_cell():
    """Runs of empty cells longer than a program, before the first target and after the last; no targets."""
    for keys in ([3, 3, 4, 9, 100, 101, 500, 500], [600] * 8, [0] * 8, [599, *[600] * 7], []):
        sorted_keys = on_device(torch.tensor(keys, dtype=torch.int32))
        starts = torch.full((601,), -1, dtype=torch.int32, device=DEVICE)
        _grid_cells._grid_starts_kernel[(len(keys) // 4 + 1,)](*(starts, sorted_keys, len(keys), 600), FEW=2, BLOCK_P=4)
        every = torch.arange(601, dtype=torch.int32, device=DEVICE)
        assert_bitwise([starts], [torch.searchsorted(sorted_keys, every, out_int32=True)])


def test_filters_of_very_different_widths():
    sizes, images = [6, 9, 4, 3], [torch.randn(2, 3, 17, 23), torch.randn(2, 3, 5, 7)]
    windows = windows_for(2, sizes, sides(images), True)
    windows[0, 2, :4] = torch.tensor([9.0, 60.0, 1e9, float("inf")])
    windows[1, 3, 5:8] = torch.tensor([17.0, 18.5, float("inf")])
    check(images, windows, sizes)


@antialiased
def test_windows_anywhere_read_only_the_image(antialias):
    image = torch.randn(1, 2, 8, 11)
    windows = windows_for(1, [5, 7], [8, 11], antialias)
    windows[0, 0, :6] = torch.tensor([10.001, 11, 2e9, 3e38, float("inf"), -1e-3])
    windows[0, 1, 6:12] = torch.tensor([7.001, 8, 2e9, 3e38, float("inf"), -3e38])
    whole = torch.full((3, 2, 8, 11), float("nan"))  # what lies around the image
    whole[1:2] = image
    check([whole[1:2]], windows, [5, 7])


@antialiased
def test_nan_windows_give_nan(antialias):
    image, windows = torch.randn(2, 2, 9, 11), windows_for(1, [7, 13], [9, 11], antialias)
    windows[:, :2, :4] = 3
    windows[:, range(windows.shape[1]), range(windows.shape[1])] = float("nan")  # each row of one target
    check([image], windows, [7, 13])
    windows[:] = float("nan")
    check([image], windows, [7, 13])
    windows[:, 0] = -1  # reads nothing, whatever the rest is
    check([image], windows, [7, 13])


@antialiased
def test_targets_that_read_nothing(antialias):
    image = torch.full((2, 2, 5, 6), float("nan"))
    grad = torch.full((2, 2, 3, 4), float("nan"))
    outside, inside = torch.full((1, 4 if antialias else 2, 12), -1.0), torch.ones(1, 4 if antialias else 2, 12)
    for windows, extent in ((outside, (5, 6)), (inside, (5, 0)), (inside, (0, 6)), (inside, (0, 0))):
        args = on_device(windows), on_device(torch.tensor([[extent]]))
        assert (grid.resample([on_device(image)], args[0], [3, 4], args[1])[0] == 0).all()
        assert (grid.resample_adjoint([on_device(grad)], args[0], [5, 6], args[1])[0] == 0).all()
        assert (grid.windows_gradient([on_device(grad)], [on_device(image)], *args) == 0).all()
        frame = torch.full((2, 5, 6, 3), 9, dtype=torch.uint8, device=DEVICE)
        normalised = grid.camera(frame, args[0], [3, 4], [1.0] * 3, [1.0] * 3, torch.float32, args[1])
        assert (normalised == 0).all()


def test_nothing_is_written_past_the_results(monkeypatch):
    """Blocks of pixels reach past the last row and column."""
    windows, memory = windows_for(1, [3, 33], [9, 11], False), torch.zeros(4 * 2 * 3 * 33, device=DEVICE)
    monkeypatch.setattr(grid, "empty_levels", lambda *args: [memory[: 2 * 3 * 33].view(1, 2, 3, 33)])
    grid.resample([on_device(torch.ones(1, 2, 9, 11))], on_device(windows), [3, 33], None)
    assert memory[: 2 * 3 * 33].sum() > 0
    assert (memory[2 * 3 * 33 :] == 0).all()


@antialiased
def test_pixels_of_no_weight_are_not_read(antialias):
    image = torch.randn(1, 1, 6, 6)
    image[0, 0, :, 3:] = float("inf")
    image[0, 0, 4:] = float("nan")
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(3.0), indexing="ij")  # on pixel centres
    windows = torch.stack([x, y, *(torch.ones(4, 3),) * (2 * antialias)]).flatten(1)[None]
    (result,) = grid.resample([on_device(image)], on_device(windows), [4, 3], None)
    assert torch.equal(result.cpu(), image[..., :4, :3])
    check([image], windows, [4, 3])


@antialiased
def test_bytes_round_half_to_even(antialias):
    image = torch.randint(0, 256, (2, 3, 9, 11), dtype=torch.uint8)
    windows = windows_for(2, [7, 13], [9, 11], antialias)
    for source in (image, image.to(memory_format=torch.channels_last)):
        results = run(grid.resample, [source], windows, [7, 13], None)
        assert_right(results, reference.resample(array([image]), array(windows), [7, 13], None), "image")
    halves = torch.tensor([0, 1, 2, 3, 255], dtype=torch.uint8).view(1, 1, 1, 5)
    between = torch.zeros(1, 2, 4)
    between[0, 0] = torch.tensor([0, 0.5, 1.5, 2.5])
    (result,) = grid.resample([on_device(halves)], on_device(between), [1, 4], None)
    assert result.flatten().tolist() == [0, 0, 2, 2]


@antialiased
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_camera(dtype, antialias):
    frame = torch.randint(0, 256, (2, 9, 11, 3), dtype=torch.uint8)
    scale, bias = [0.01, 0.02, 0.03], [-1.0, 0.5, 2.0]
    for source_valid in (None, torch.tensor([[[9, 11]], [[4, 1]]])):
        windows = windows_for(2, [7, 13], [9, 11], antialias)
        for frames, some in ((frame, windows[:1]), (frame, windows), (frame[:1], windows)):
            result = run(grid.camera, frames, some, [7, 13], scale, bias, dtype, source_valid)
            expected = reference.camera(frames.numpy(), array(some), (7, 13), scale, bias, array(source_valid))
            assert result.dtype == dtype
            assert_right(result, expected, "image")
            assert (array(result)[expected == 0] == 0).all()


def test_images_past_2_to_the_31_elements():
    row = 2**31 + 8  # memory between the rows is never touched
    image = torch.empty(0, dtype=torch.uint8, device=DEVICE)
    image.set_(torch.UntypedStorage(row + 64, device=DEVICE), 0, (1, 2, 2, 8), (0, 8, row, 1))
    image.copy_(torch.arange(32, dtype=torch.uint8).view(1, 2, 2, 8))
    y, x = torch.meshgrid(torch.arange(2.0), torch.arange(8.0), indexing="ij")
    windows = on_device(torch.stack([x, y]).flatten(1)[None])
    (result,) = grid.resample([image], windows, [2, 8], None)
    assert result.flatten().tolist() == list(range(32))
    (adjoint,) = grid.resample_adjoint([image.view(torch.int8).view(torch.uint8)], windows, [2, 8], None)
    assert adjoint.flatten().tolist() == list(range(32))


def test_a_pyramid_takes_one_launch(monkeypatch):
    launches = []

    class Counted:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, programs):
            launches.append(programs)
            return self.kernel[programs]

    monkeypatch.setattr(grid, "_grid_resample_kernel", Counted(grid._grid_resample_kernel))
    sizes = [6, 8, 3, 4, 2, 2]
    images = [torch.randn(2, 4, *sizes[i : i + 2]) for i in (0, 2, 4)]
    grid.resample(on_device(images), on_device(windows_for(2, sizes, sizes, False)), sizes, None)
    assert len(launches) == 1


@pytest.mark.skipif(DEVICE == "cpu", reason="graphs are of GPUs")
@antialiased
def test_launchers_are_captured_in_graphs(antialias):
    sizes = [7, 13, 5, 3]
    images = on_device([torch.randn(2, 3, 8, 11), torch.randn(2, 3, 6, 4)])
    windows = on_device(windows_for(2, sizes, sides(images), antialias))

    def launch():
        results = grid.resample(images, windows, sizes, None)
        adjoint = grid.resample_adjoint(results, windows, sides(images), None)
        return [*results, *adjoint, grid.windows_gradient(results, images, windows, None)]

    launch()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = launch()
    windows.copy_(windows_for(2, sizes, sides(images), antialias))
    graph.replay()
    assert_bitwise(captured, launch())
