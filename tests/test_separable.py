"""The `separable` family on CPUs against the float64 reference: resampling, its adjoint, its gradient to the windows,
the camera path, and what none of them may read, write or keep."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from helpers import TESTS, run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from separable_cases import NAMES, geometry, knots, ops, two_floats
from tolerances import assert_close_to
from torch import Tensor

import fastwarp
from fastwarp.functional import separable_unzoom, separable_windows, separable_zoom
from fastwarp.reference import separable as reference

pytestmark = pytest.mark.usefixtures("poisoned_results")

some = settings(deadline=None, max_examples=40)

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
images_of_all = pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8], ids=NAMES.get)


def arrays(tensors: list[Tensor]) -> list[np.ndarray]:
    return [t.double().numpy() for t in tensors]


def flat(sizes: Any) -> list[int]:
    return [side for size in sizes for side in size]


def largest(tensor: Tensor) -> float:
    return tensor.double().abs().max().item()


def check(
    images: list[Tensor],
    windows: Tensor,
    sizes: list[tuple[int, int]],
    source_valid: Tensor | None,
    antialias: bool,
    grad_layout: str = "contiguous",
    seed: int = 0,
) -> None:
    """Compares results, and for floating point both gradients, with the reference."""
    dtype, extents = images[0].dtype, None if source_valid is None else source_valid.numpy()
    right = reference.resample(arrays(images), windows.double().numpy(), flat(sizes), extents)
    results = ops.separable_resample(images, windows, flat(sizes), source_valid, antialias)
    for result, expected, image in zip(results, right, images, strict=True):
        assert result.dtype == dtype
        assert_close_to(expected, result, dtype, "image", largest(image))
        nhwc = image.stride(1) == 1 and image.shape[1] > 1 and not image.is_contiguous()
        assert result.is_contiguous(memory_format=torch.channels_last if nhwc else torch.contiguous_format)
        filled = torch.from_numpy(expected != 0)
        assert (result[~filled] == 0).all()  # the fill is 0, not something small
    if not dtype.is_floating_point:
        return
    grads = [own.laid_out(own.values(seed + i, tuple(r.shape), dtype), grad_layout) for i, r in enumerate(results)]
    sides = [side for image in images for side in image.shape[2:]]
    found = ops.separable_resample_adjoint(grads, windows, sides, source_valid, antialias)
    # Terms of either sign can leave little of each other, so errors are measured by their absolute values.
    right, terms = (
        reference.resample_adjoint(g, windows.double().numpy(), sides, extents)
        for g in (arrays(grads), [np.abs(g) for g in arrays(grads)])
    )
    for ours, expected, size in zip(found, right, terms, strict=True):
        assert ours.dtype == dtype
        assert_close_to(expected, ours, dtype, "image_grad", size.max())
    expected = reference.windows_gradient(arrays(grads), arrays(images), windows.double().numpy(), extents)
    ours = ops.separable_windows_gradient(grads, images, windows, source_valid, antialias)
    assert ours.dtype == windows.dtype
    rows = max(g.double().abs().sum((1, axis)).max().item() for g in grads for axis in (2, 3))
    assert_close_to(expected, ours, dtype, "windows_grad", rows * max(largest(image) for image in images))


# --- against the reference --------------------------------------------------------------------------------------------


@images_of_all
@some
@given(data=st.data(), inverse=st.booleans(), antialias=st.booleans(), border=st.booleans(), seed=own.seeds)
def test_levels(dtype, data, inverse, antialias, border, seed):
    """Several levels of different sizes, layouts, channels in one call; shared warps or not; padding or not."""
    batch = data.draw(st.integers(1, 3))
    warp = data.draw(own.warps(batch, geometry(dtype)))
    sizes = data.draw(st.lists(own.shapes, min_size=1, max_size=3))
    source_sizes = [data.draw(own.shapes) for _ in sizes]
    images = []
    for level, size in enumerate(source_sizes):
        channels = data.draw(st.sampled_from((1, 2, 3, 8, 16, 17)))
        image = own.values(seed + level, (batch, channels, *size), dtype)
        images.append(own.laid_out(image, data.draw(own.layouts)))
    source_valid = data.draw(own.extents(batch, source_sizes, 0))
    windows = separable_windows(
        *(*warp, sizes, source_sizes),
        inverse=inverse,
        antialias=antialias,
        padding_mode="border" if border else "zeros",
        valid=data.draw(own.extents(batch, sizes, 0)),
        source_valid=source_valid,
    )
    check(images, windows, sizes, source_valid, antialias, data.draw(own.layouts), seed)


CASES = {
    # Sizes are where the kernels divide their work: tiles of 1024 values, units of 8 rows, vectors of 8 and 4.
    "tiles": ("monotone", (1, 2, 9, 530), (11, 2100), "contiguous"),
    "tiles_of_pixels": ("monotone", (1, 3, 9, 300), (11, 730), "channels_last"),
    "minified_pixels_of_two": ("monotone", (2, 2, 40, 301), (9, 17), "channels_last"),
    "minified_pixels_of_three": ("monotone", (2, 3, 40, 301), (9, 17), "channels_last"),
    "minified_pixels_of_four": ("clamped", (2, 4, 40, 301), (9, 17), "channels_last"),
    "minified": ("monotone", (2, 3, 40, 301), (9, 17), "contiguous"),
    "minified_much": ("steep", (1, 1, 7, 2000), (3, 20), "contiguous"),
    "minified_pixels": ("monotone", (2, 5, 40, 301), (9, 17), "channels_last"),
    "many_channels": ("steep", (2, 40, 17, 23), (13, 31), "channels_last"),
    "more_channels_than_a_tile": ("monotone", (1, 1100, 5, 9), (7, 6), "channels_last"),
    "narrow": ("monotone", (3, 4, 30, 5), (17, 3), "contiguous"),
    "narrow_to_wide": ("monotone", (1, 2, 8, 3), (9, 600), "contiguous"),
    "one_pixel": ("monotone", (2, 3, 1, 1), (5, 300), "contiguous"),
    "to_one_pixel": ("monotone", (2, 3, 50, 300), (1, 1), "channels_last"),
    "one_row": ("monotone", (1, 3, 1, 257), (1, 255), "contiguous"),
    "standing_still": ("constant", (1, 2, 20, 300), (33, 290), "contiguous"),
    "plateaus": ("equal", (2, 3, 33, 65), (64, 129), "channels_last"),
}


@pytest.mark.parametrize("case", CASES)
@images_of_all
def test_shapes_that_take_other_paths(dtype, case):
    kind, shape, size, layout = CASES[case]
    image = own.laid_out(own.values(1, shape, dtype), layout)
    warp = knots(kind, 2, shape[0], 9, dtype), knots(kind, 3, shape[0], 7, dtype)
    for antialias in (False, True):
        windows = separable_windows(*warp, [size], [shape[2:]], antialias=antialias)
        check([image], windows, [size], None, antialias)


@pytest.mark.parametrize(("source", "width"), [(90, 1100), (190, 22)])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("channels", [3, 16])
@images_of_all
def test_fill_anywhere(dtype, layout, channels, source, width):
    """Rows and columns that read nothing in every tile: cropped ends, padding, and single ones in between."""
    image = own.laid_out(own.values(1, (2, channels, 12, source), dtype), layout)
    warp = knots("cropping", 2, 2, 5, dtype), knots("cropping", 3, 2, 6, dtype)
    valid = torch.tensor([[[19, width]], [[13, width // 2]]])
    source_valid = torch.tensor([[[12, source - 10]], [[5, source]]])
    columns = [column for column in (0, 7, 8, 21, 63, 64, 340, 341, 1023, 1024, 1090) if column < width]
    for antialias in (False, True):
        for inverse in (False, True):
            windows = separable_windows(
                *(*warp, [(19, width)], [(12, source)]),
                inverse=inverse,
                antialias=antialias,
                valid=valid,
                source_valid=source_valid,
            )
            windows[0, :, [3, 8, *(19 + column for column in columns)]] = 0
            check([image], windows, [(19, width)], source_valid, antialias)


def test_windows_of_any_layout():
    dtype = torch.float32
    image = own.values(1, (2, 3, 20, 30), dtype)
    warp = knots("monotone", 2, 2, 5, dtype), knots("monotone", 3, 2, 6, dtype)
    windows = separable_windows(*warp, [(10, 40)], [(20, 30)])
    wide = torch.zeros(4, 3, 100, dtype=windows.dtype)
    strided = wide[1::2, :2, ::2].copy_(windows)
    assert not strided.is_contiguous()
    for some_windows in (strided, windows[:1].expand(2, -1, -1)):
        (expected,) = reference.resample(arrays([image]), some_windows.double().numpy(), [10, 40], None)
        (result,) = ops.separable_resample([image], some_windows, [10, 40], None, False)
        assert_close_to(expected, result, dtype, "image", largest(image))


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=NAMES.get)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("antialias", [False, True])
def test_work_of_several_threads(dtype, layout, antialias):
    """Jobs large enough to be split give the same bits on any number of threads."""
    images = [own.laid_out(own.values(i, (3, 5, *s), dtype), layout) for i, s in enumerate(((150, 260), (75, 130)))]
    sizes = [(121, 250), (131, 77)]
    warp = knots("monotone", 2, 3, 9, dtype), knots("steep", 3, 3, 9, dtype)
    windows = separable_windows(*warp, sizes, [i.shape[2:] for i in images], antialias=antialias)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found = list(ops.separable_resample(images, windows, flat(sizes), None, antialias))
            if dtype.is_floating_point:
                sides = [side for image in images for side in image.shape[2:]]
                found += ops.separable_resample_adjoint(found[:2], windows, sides, None, antialias)
                found += [ops.separable_windows_gradient(found[:2], images, windows, None, antialias)]
            results.append(found)
        check(images, windows, sizes, None, antialias)
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("channels", [1, 3, 4, 7, 18])
@pytest.mark.parametrize("out", FLOATS[1:], ids=NAMES.get)
@settings(deadline=None, max_examples=25)
@given(data=st.data(), antialias=st.booleans(), inverse=st.booleans())
def test_camera(out, channels, data, antialias, inverse):
    batch, seed = data.draw(st.integers(1, 3)), data.draw(own.seeds)
    source, size = data.draw(own.shapes), data.draw(st.tuples(own.sides, st.sampled_from((1, 5, 8, 33, 90, 300))))
    frame = own.values(seed, (batch, *source, channels), torch.uint8)
    scale = own.uniform(seed, channels, low=0.01, high=0.03).tolist()
    bias = own.uniform(seed + 1, channels, low=-2, high=2).tolist()
    warp = data.draw(own.warps(batch, geometry(out)))
    source_valid = data.draw(own.extents(batch, [source], 0))
    windows = separable_windows(
        *(*warp, [size], [source]),
        inverse=inverse,
        antialias=antialias,
        valid=data.draw(own.extents(batch, [size], 0)),
        source_valid=source_valid,
    )
    result = ops.separable_camera(frame, windows, list(size), scale, bias, out, source_valid, antialias)
    extents = None if source_valid is None else source_valid.numpy()
    right = reference.camera(frame.numpy(), windows.double().numpy(), size, scale, bias, extents)
    assert result.dtype == out
    assert result.is_contiguous()
    terms = 255 * max(scale) + max(abs(b) for b in bias)  # they can cancel
    assert_close_to(right, result, out, "image", terms)
    reads = [windows[:, 1, : size[0], None] > 0, windows[:, 1, None, size[0] :] > 0]
    fill = ~(reads[0] & reads[1])[:, None].expand(batch, channels, *size)
    assert (result[fill] == 0).all()  # also after normalisation


# --- what must hold whatever the reference says -----------------------------------------------------------------------


@some
@given(data=st.data(), antialias=st.booleans(), inverse=st.booleans(), seed=own.seeds)
def test_adjoint_is_the_transpose(data, antialias, inverse, seed):
    """<R x, y> = <x, R^T y>."""
    batch, (source, size) = data.draw(st.integers(1, 3)), (data.draw(own.shapes), data.draw(own.shapes))
    warp = data.draw(own.warps(batch, torch.float64))
    source_valid = data.draw(own.extents(batch, [source]))
    windows = separable_windows(
        *(*warp, [size], [source]), inverse=inverse, antialias=antialias, source_valid=source_valid
    )
    x, y = own.values(seed, (batch, 3, *source), torch.float64), own.values(seed + 1, (batch, 3, *size), torch.float64)
    (rx,) = ops.separable_resample([x], windows, list(size), source_valid, antialias)
    (ry,) = ops.separable_resample_adjoint([y], windows, list(source), source_valid, antialias)
    terms = max((rx * y).abs().sum().item(), (x * ry).abs().sum().item())
    assert abs((rx * y).sum().item() - (x * ry).sum().item()) <= 1e-13 * terms


@images_of_all
@some
@given(data=st.data(), antialias=st.booleans(), inverse=st.booleans())
def test_constants_stay_and_fill_is_zero(dtype, data, antialias, inverse):
    batch, (source, size) = data.draw(st.integers(1, 3)), (data.draw(own.shapes), data.draw(own.shapes))
    warp = data.draw(own.warps(batch, geometry(dtype)))
    valid, source_valid = data.draw(own.extents(batch, [size])), data.draw(own.extents(batch, [source]))
    windows = separable_windows(
        *(*warp, [size], [source]), inverse=inverse, antialias=antialias, valid=valid, source_valid=source_valid
    )
    image = own.laid_out(torch.full((batch, 2, *source), 3, dtype=dtype), data.draw(own.layouts))
    (result,) = ops.separable_resample([image], windows, list(size), source_valid, antialias)
    reads = (windows[:, 1, : size[0], None] > 0) & (windows[:, 1, None, size[0] :] > 0)
    reads = reads[:, None].expand(batch, 2, *size)
    distinct = result[reads].unique()  # the same error everywhere says nothing about an RMS
    assert_close_to(np.full(len(distinct), 3.0), distinct, dtype, "image")
    assert (result[~reads] == 0).all()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@images_of_all
def test_identity_returns_the_image(dtype, layout):
    image = own.laid_out(own.values(1, (2, 3, 16, 33), dtype), layout)
    grids = [torch.linspace(0, 1, n, dtype=geometry(dtype))[None] for n in (2, 17)]
    for result in (
        separable_zoom(image, *grids, (16, 33)),
        separable_unzoom(image, *grids),
        separable_zoom(image, *grids, (16, 33), antialias=True),
    ):
        if dtype in (torch.float64, torch.float32):
            assert_close_to(image.double(), result, torch.float32, "image")  # the centres were rounded
        else:
            assert torch.equal(result, image)


@pytest.mark.parametrize("inverse", [False, True])
def test_zoom_and_unzoom_are_grid_sample(inverse):
    """Independent of the reference: torch's own sampler at the grid that a warp hands out."""
    warp = fastwarp.SeparableWarp.from_saliency(own.values(3, (2, 9, 13), torch.float64).abs(), 4.0)
    image = own.values(1, (2, 3, 40, 51), torch.float64)
    ours = warp.unzoom(image, (23, 34)) if inverse else warp.zoom(image, (23, 34))
    grid = warp.inverse_grid((23, 34)) if inverse else warp.grid((23, 34))
    right = torch.nn.functional.grid_sample(image, grid, align_corners=True)
    assert_close_to(right, ours, torch.float32, "image")  # grid and pixel differ by rounding, times the image's slope
    torch.testing.assert_close(ours, right, rtol=0, atol=1e-12)


def smooth(height: int, width: int) -> Tensor:
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    return torch.from_numpy(np.stack([np.cos(5 * y + 3 * x), np.sin(4 * x - 2 * y)])[None])


def test_unzoom_undoes_zoom():
    """On a smooth image up to what linear interpolation loses, which is of second order in the size of a pixel."""
    warp = fastwarp.SeparableWarp.from_saliency(own.values(3, (1, 9, 13), torch.float64).abs() + 0.3, 4.0)
    worst = []
    for scale in (1, 2, 4):
        image = smooth(60 * scale + 1, 90 * scale + 1)
        again = warp.unzoom(warp.zoom(image, (60 * scale + 1, 90 * scale + 1)))
        worst.append((again - image).abs().max().item())
    assert worst[0] < 0.01
    assert worst[1] < worst[0] / 3
    assert worst[2] < worst[1] / 3


@two_floats
def test_zoomed_constant_of_an_anti_crop_warp_is_unzoomed_everywhere(dtype):
    saliency = own.values(3, (4, 31, 51), geometry(dtype)).abs() ** 4
    warp = fastwarp.SeparableWarp.from_saliency(saliency, 13.0)
    for size in ((75, 120), (38, 60), (19, 30), (10, 15), (5, 8), (1, 1)):
        result = warp.unzoom(torch.full((4, 1, 17, 23), 2, dtype=dtype), size)
        assert_close_to(np.full((4, 1, *size), 2.0), result, dtype, "image")


def test_antialias_averages_thin_stripes():
    stripes = torch.zeros(1, 3, 64, 512)
    stripes[..., 3::8] = 1
    grids = [torch.tensor([[0.0, 1.0]])] * 2
    assert separable_zoom(stripes, *grids, (8, 64))[..., :8].max() == 0
    result = separable_zoom(stripes, *grids, (8, 64), antialias=True)
    assert (result[..., 1:-1] - 0.125).abs().max() < 0.01


# --- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_images_past_2_31_elements(layout):
    """Pages of zeros that are never touched take no memory; the last pixels are the only ones with a value."""
    height, width = 70_001, 32_000
    pixels = torch.from_numpy(np.zeros(height * width, np.uint8))
    if layout == "contiguous":
        image = pixels.view(1, 1, height, width)
        image[..., -1, -3:] = torch.tensor([10, 20, 30], dtype=torch.uint8)
    else:
        image = pixels.view(1, height, width // 2, 2).permute(0, 3, 1, 2)
        image[0, :, -1, -3:] = torch.tensor([[10, 20, 30]] * 2, dtype=torch.uint8)
    assert image.numel() > 2**31
    height, width = image.shape[2:]
    knots = torch.tensor([[0.9, 1.0]])
    result = separable_zoom(image, knots, knots, (2, 2))
    assert result[0].tolist() == [[[0, 0], [0, 30]]] * image.shape[1]


GUARDED = """
import ctypes, itertools, mmap, random
import numpy as np
import torch
import strategies as own
from fastwarp import MeshWarp, SeparableWarp

libc = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE

def guarded(image, at_end):
    # A copy with an unreadable page right behind, or right before its memory.
    flat = image.permute(0, 2, 3, 1) if image.stride(1) == 1 and image.shape[1] > 1 else image
    flat = flat.contiguous()
    size = flat.numel() * flat.element_size()
    room = -(-size // PAGE) * PAGE
    area = mmap.mmap(-1, room + 2 * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(area))
    for page in (address, address + PAGE + room):
        assert libc.mprotect(ctypes.c_void_p(page), PAGE, 0) == 0
    start = PAGE + (room - size if at_end else 0)
    result = torch.frombuffer(area, dtype=flat.dtype, count=flat.numel(), offset=start).view(flat.shape)
    result.copy_(flat)
    return result.permute(0, 3, 1, 2) if flat.shape != image.shape or flat.stride() != image.stride() else result

kinds = (SeparableWarp, MeshWarp)
warps = {kind: kind.from_saliency(own.values(0, (1, 9, 13), torch.float32).abs(), 4.0) for kind in kinds}
dtypes = (torch.uint8, torch.bfloat16, torch.float32, torch.float64)
channels = (1, 2, 3, 4, 5, 9, 17)
sources = ((5, 8), (7, 37), (3, 1), (2, 2), (24, 161))
targets = ((5, 8), (11, 19), (4, 3), (20, 90))
both = (False, True)
cases = list(itertools.product(kinds, dtypes, both, channels, sources, targets, both, both))
for kind, dtype, last, channels, source, size, at_end, antialias in random.Random(0).sample(cases, 2000):
    warp, layout = warps[kind], "channels_last" if last else "contiguous"
    image = own.laid_out(own.values(1, (1, channels, *source), dtype), layout)
    image = guarded(image, at_end).requires_grad_(dtype.is_floating_point)
    zoomed = warp.zoom(image, size, antialias=antialias)
    if dtype.is_floating_point:
        torch.autograd.grad(zoomed, image, guarded(torch.ones_like(zoomed), at_end))
    warp.unzoom(image, size, antialias=antialias)
    if dtype == torch.uint8 and last and channels > 1:
        options = {"mean": [0.0] * channels, "std": [1.0] * channels, "antialias": antialias}
        warp.zoom_frame(image.permute(0, 2, 3, 1), size, **options)
print("done")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages as Linux does")
def test_nothing_around_an_image_is_read():
    """Vectors reach past what they are for, but never past the memory of an image."""
    assert run_python(GUARDED).strip() == "done"


GROWTH = """
import gc, sys
from pathlib import Path
import torch
from fastwarp.functional import separable_unzoom, separable_zoom

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

def growth(call):
    gc.collect()  # what is freed inside the call would hide what the call takes
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    result = call()
    return memory("VmHWM") - before, result

image = torch.rand(1, 1, 300, 400, requires_grad=True)
knots = torch.linspace(0, 1, 31)[None] ** 1.5
function = separable_unzoom if sys.argv[1] == "True" else separable_zoom
antialias = sys.argv[2] == "True"
small = function(image, knots, knots, (30, 40), antialias=antialias)
small.backward(torch.ones_like(small))  # compiled from here on
forward, result = growth(lambda: function(image, knots, knots, (4000, 4096), antialias=antialias))
grad = torch.ones_like(result)
backward, _ = growth(lambda: result.backward(grad))
print(result.nbytes, forward, backward)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak counter of a process")
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_nothing_of_the_size_of_the_result_but_the_result(inverse, antialias):
    """Neither by torch, nor by NumPy, nor inside a compiled kernel: a grid would be twice the result.

    In a process of its own: what other tests leave to be freed would be counted too.
    """
    command = [sys.executable, "-c", GROWTH, str(inverse), str(antialias)]
    done = subprocess.run(command, cwd=TESTS, check=True, capture_output=True, text=True)
    size, forward, backward = map(int, done.stdout.split())
    assert 0.9 * size < forward < size + (8 << 20)
    assert backward < 8 << 20


def test_numpy_and_torch_allocate_nothing_large_either():
    warp = [knots("monotone", s, 1, 31, torch.float32) for s in (2, 3)]
    image = own.values(1, (1, 1, 300, 400), torch.float32)
    size = (1000, 1024)
    separable_zoom(image, *warp, size)
    tracemalloc.start()
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        result = separable_zoom(image, *warp, size)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    allocated = sum(max(e.self_cpu_memory_usage, 0) for e in profile.events())
    assert result.nbytes <= allocated < result.nbytes + (1 << 17)
    assert peak < 1 << 20


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("levels", [1, 3])
def test_backward_of_a_fixed_warp_keeps_no_more_than_rows_and_columns(levels, antialias):
    warp = [knots("monotone", s, 1, 31, torch.float32) for s in (2, 3)]
    images = [own.values(i, (2, 3, 40, 50), torch.float32).requires_grad_() for i in range(levels)]
    sizes = [(300 + i, 400) for i in range(levels)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        results = separable_unzoom(images, *warp, sizes, antialias=antialias)
    assert 0 < sum(kept) <= 2 * 4 * sum(flat(sizes))
    for gradient in torch.autograd.grad(sum(r.sum() for r in results), images):
        assert (gradient > 0).any()
