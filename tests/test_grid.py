"""The `grid` family on CPUs against the float64 reference: resampling at one window per target, its adjoint, its
gradient to the windows, the camera path, and what none of them may read, write or keep."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from helpers import assert_bitwise
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close_to
from torch import Tensor

from fastwarp.kernels.cpu import grid as kernels
from fastwarp.reference import grid as reference
from fastwarp.reference import mesh

pytestmark = pytest.mark.usefixtures("poisoned_results")

some = settings(deadline=None, max_examples=40)

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.uint8: "u8"}
WINDOWS = ("mesh", "anywhere", "beyond", "pixels", "one_place", "holes", "few", "clamped")

two_floats = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=NAMES.get)
images_of_all = pytest.mark.parametrize("dtype", [*FLOATS, torch.uint8], ids=NAMES.get)
both_filters = pytest.mark.parametrize("rows", [2, 4], ids=["bilinear", "antialias"])
both_layouts = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
bad_values = pytest.mark.parametrize("bad", [float("nan"), float("inf")])


def geometry(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def arrays(tensors: list[Tensor]) -> list[np.ndarray]:
    return [t.double().numpy() for t in tensors]


def flat(sizes: Any) -> list[int]:
    return [side for size in sizes for side in size]


def largest(tensor: Tensor) -> float:
    return tensor.double().abs().max().item() if tensor.numel() else 0.0


def made(kind: str, seed: int, batch: int, rows: int, size: Any, source: Any) -> np.ndarray:
    """Windows `[batch, rows, h w]` of one level, float64."""
    (h, w), (sh, sw), random = size, source, np.random.default_rng(seed)
    last = np.array([sw - 1.0, sh - 1.0])[:, None]
    centres = random.uniform(size=(batch, 2, h * w)) * last
    if kind in ("mesh", "clamped"):
        warp = own.mesh("lz" if kind == "mesh" else "cropping", seed, batch, 5, 6)
        centres, _ = mesh.positions(warp, [h, w], [sh, sw], kind == "clamped", False, False, None, None)
    elif kind == "beyond":
        centres = random.uniform(-0.4, 1.4, centres.shape) * last
        centres[:, 0] = np.abs(centres[:, 0])  # left of the image nothing is read
    elif kind == "pixels":
        centres = np.rint(centres)
    elif kind == "one_place":
        centres[:] = 0.3 * last
    elif kind == "few":
        centres = np.rint(centres / 4) * 4 * 0.9
    elif kind == "holes":
        centres[np.broadcast_to(random.uniform(size=(batch, 1, h * w)) < 0.3, centres.shape)] = -1
    if rows == 2:
        return centres
    widths = 1 + random.uniform(0, random.choice([0.5, 3, 9]), centres.shape) * (
        random.uniform(size=centres.shape) < 0.8
    )
    return np.concatenate([centres, np.where(centres[:, :1] < 0, 0, widths)], 1)


def made_for_levels(
    kind: str, seed: int, batch: int, rows: int, sizes: Any, sources: Any, dtype: torch.dtype
) -> Tensor:
    levels = [made(kind, seed + i, batch, rows, *both) for i, both in enumerate(zip(sizes, sources, strict=True))]
    return torch.from_numpy(np.concatenate(levels, 2)).to(geometry(dtype))


def check(
    images: list[Tensor],
    windows: Tensor,
    sizes: list[tuple[int, int]],
    source_valid: Tensor | None,
    grad_layout: str = "contiguous",
    seed: int = 0,
) -> None:
    """Compares results, and for floating point both gradients, with the reference."""
    dtype, extents = images[0].dtype, None if source_valid is None else source_valid.numpy()
    array = windows.double().numpy()
    right = reference.resample(arrays(images), array, flat(sizes), extents)
    results = kernels.resample(images, windows, flat(sizes), source_valid)
    for result, expected, image in zip(results, right, images, strict=True):
        assert result.dtype == dtype
        assert_close_to(expected, result, dtype, "image", largest(image))
        nhwc = image.stride(1) == 1 and image.shape[1] > 1 and not image.is_contiguous()
        assert result.is_contiguous(memory_format=torch.channels_last if nhwc else torch.contiguous_format)
        assert (result[torch.from_numpy(expected == 0)] == 0).all()  # the fill is 0, not something small
    if not dtype.is_floating_point:
        return
    grads = [own.laid_out(own.values(seed + i, tuple(r.shape), dtype), grad_layout) for i, r in enumerate(results)]
    sides = [side for image in images for side in image.shape[2:]]
    found = kernels.resample_adjoint(grads, windows, sides, source_valid)
    # Terms of either sign can leave little of each other, so errors are measured by their absolute values.
    right, terms = (
        reference.resample_adjoint(g, array, sides, extents)
        for g in (arrays(grads), [np.abs(g) for g in arrays(grads)])
    )
    for ours, expected, size, grad in zip(found, right, terms, grads, strict=True):
        assert ours.dtype == dtype
        nhwc = grad.stride(1) == 1 and grad.shape[1] > 1 and not grad.is_contiguous()
        assert ours.is_contiguous(memory_format=torch.channels_last if nhwc else torch.contiguous_format)
        assert_close_to(expected, ours, dtype, "image_grad", size.max(initial=0))
    expected = reference.windows_gradient(arrays(grads), arrays(images), array, extents)
    ours = kernels.windows_gradient(grads, images, windows, source_valid)
    assert ours.dtype == windows.dtype
    assert ours.shape == windows.shape
    sums = max((g.double().abs().sum(1).max().item() for g in grads if g.numel()), default=0.0)
    shared = len(results[0]) if len(windows) == 1 else 1
    assert_close_to(expected, ours, dtype, "windows_grad", shared * sums * max(largest(image) for image in images))


# --- against the reference --------------------------------------------------------------------------------------------


@images_of_all
@both_filters
@some
@given(data=st.data(), kind=st.sampled_from(WINDOWS), seed=own.seeds)
def test_levels(dtype, rows, data, kind, seed):
    """Several levels of different sizes, layouts, channels in one call; shared windows or images or not; padding."""
    batch = data.draw(st.integers(1, 3))
    sizes = data.draw(st.lists(own.shapes, min_size=1, max_size=3))
    sources = [data.draw(own.shapes) for _ in sizes]
    count, rows_of = data.draw(st.sampled_from(((batch, 1), (batch, batch), (1, batch))))
    images = []
    for level, source in enumerate(sources):
        image = own.values(seed + level, (count, data.draw(st.sampled_from((1, 2, 3, 8, 16, 17))), *source), dtype)
        images.append(own.laid_out(image, data.draw(own.layouts)))
    windows = made_for_levels(kind, seed, rows_of, rows, sizes, sources, dtype)
    source_valid = data.draw(own.extents(batch, sources, 0))
    check(images, windows, sizes, source_valid, data.draw(own.layouts), seed)


CASES = {
    # Sizes are where the kernels divide their work: runs of targets, vectors of 8 and 4, blocks of channels.
    "runs": ("mesh", (1, 2, 40, 530), (33, 190), "contiguous"),
    "runs_of_pixels": ("mesh", (1, 3, 40, 300), (33, 190), "channels_last"),
    "vectors": ("mesh", (2, 2, 9, 13), (7, 9), "contiguous"),
    "fewer_than_a_vector": ("anywhere", (2, 2, 9, 13), (1, 7), "contiguous"),
    "many_channels": ("mesh", (2, 40, 17, 23), (13, 31), "channels_last"),
    "many_planes": ("mesh", (2, 40, 17, 23), (13, 31), "contiguous"),
    "more_channels_than_a_tile": ("anywhere", (1, 1100, 5, 9), (7, 6), "channels_last"),
    "one_column": ("mesh", (2, 3, 30, 1), (17, 30), "contiguous"),
    "two_columns": ("mesh", (2, 3, 30, 2), (17, 30), "contiguous"),
    "one_pixel": ("anywhere", (2, 3, 1, 1), (50, 30), "contiguous"),
    "to_one_pixel": ("anywhere", (2, 3, 50, 30), (1, 1), "channels_last"),
    "one_row": ("mesh", (1, 3, 1, 257), (1, 255), "contiguous"),
    "one_cell": ("one_place", (1, 2, 20, 30), (70, 90), "contiguous"),
    "one_cell_of_pixels": ("one_place", (1, 16, 20, 30), (70, 90), "channels_last"),
    "fill_anywhere": ("holes", (2, 3, 33, 65), (64, 129), "channels_last"),
    "beyond": ("beyond", (2, 3, 33, 65), (64, 129), "contiguous"),
    "cropping": ("clamped", (2, 3, 33, 65), (64, 129), "contiguous"),
}


@pytest.mark.parametrize("case", CASES)
@images_of_all
@both_filters
def test_shapes_that_take_other_paths(dtype, rows, case):
    kind, shape, size, layout = CASES[case]
    image = own.laid_out(own.values(1, shape, dtype), layout)
    for shared in (1, shape[0]):
        windows = made_for_levels(kind, 2, shared, rows, [size], [shape[2:]], dtype)
        check([image], windows, [size], None, layout)


@both_filters
def test_windows_of_any_layout(rows):
    image = own.values(1, (2, 3, 20, 30), torch.float32)
    windows = made_for_levels("mesh", 2, 2, rows, [(10, 40)], [(20, 30)], torch.float32)
    wide = torch.zeros(4, rows + 1, 800)
    strided = wide[1::2, :rows, ::2].copy_(windows)
    assert not strided.is_contiguous()
    for other in (strided, windows[:1].expand(2, -1, -1), windows.mT.contiguous().mT):
        check([image], other, [(10, 40)], None)


@both_filters
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=NAMES.get)
@both_layouts
@pytest.mark.parametrize("kind", ["mesh", "anywhere", "one_place"])
def test_runs_and_threads_change_no_bit(dtype, rows, layout, kind):
    shapes, sizes = ((150, 260), (75, 130)), [(121, 250), (131, 77)]
    images = [own.laid_out(own.values(i, (3, 5, *s), dtype), layout) for i, s in enumerate(shapes)]
    windows = made_for_levels(kind, 2, 3, rows, sizes, shapes, dtype)
    if rows == 4:
        windows[:, 2:].clamp_(max=4)
    results = []
    for threads in (1, 2, 4, 2):
        torch.set_num_threads(threads)
        found = list(kernels.resample(images, windows, flat(sizes), None))
        if dtype.is_floating_point:
            for some_windows in (windows, windows[:1]):
                found += kernels.resample_adjoint(found[:2], some_windows, flat(shapes), None)
                found += [kernels.windows_gradient(found[:2], images, some_windows, None)]
        results.append(found)
    for other in results[1:]:
        assert_bitwise(other, results[0])


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("out", FLOATS[1:], ids=NAMES.get)
@both_filters
@settings(deadline=None, max_examples=25)
@given(data=st.data(), kind=st.sampled_from(WINDOWS))
def test_camera(out, channels, rows, data, kind):
    batch, seed = data.draw(st.integers(1, 3)), data.draw(own.seeds)
    source, size = data.draw(own.shapes), data.draw(st.tuples(own.sides, st.sampled_from((1, 5, 8, 33, 90, 300))))
    frame = own.values(seed, (batch, *source, channels), torch.uint8)
    scale = own.uniform(seed, channels, low=0.01, high=0.03).tolist()
    bias = own.uniform(seed + 1, channels, low=-2, high=2).tolist()
    windows = made_for_levels(kind, seed, data.draw(st.sampled_from((1, batch))), rows, [size], [source], out)
    source_valid = data.draw(own.extents(batch, [source], 0))
    result = kernels.camera(frame, windows, list(size), scale, bias, out, source_valid)
    extents = None if source_valid is None else source_valid.numpy()
    right = reference.camera(frame.numpy(), windows.double().numpy(), size, scale, bias, extents)
    assert result.dtype == out
    assert result.is_contiguous()
    terms = 255 * max(scale) + max(abs(b) for b in bias)  # they can cancel
    assert_close_to(right, result, out, "image", terms)
    fill = (windows[:, 0] < 0).view(-1, 1, *size).expand(batch, channels, *size)
    assert (result[fill] == 0).all()  # also after normalisation


@both_filters
@pytest.mark.parametrize("name", ["resample", "resample_adjoint", "windows_gradient", "camera"])
def test_the_reference_backend_gives_the_references_numbers(rows, name):
    launchers = importlib.import_module("fastwarp.ops._reference.grid")
    images = [own.laid_out(own.values(1, (2, 3, 9, 11), torch.float16), "channels_last")]
    windows = made_for_levels("holes", 2, 2, rows, [(5, 7)], [(9, 11)], torch.float32)
    grads = [own.laid_out(own.values(3, (2, 3, 5, 7), torch.float16), "channels_last")]
    frame, affine = own.values(1, (2, 9, 11, 3), torch.uint8), ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])
    array = windows.double().numpy()
    calls: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
        "resample": ((images, windows, [5, 7], None), (arrays(images), array, [5, 7], None)),
        "resample_adjoint": ((grads, windows, [9, 11], None), (arrays(grads), array, [9, 11], None)),
        "windows_gradient": ((grads, images, windows, None), (arrays(grads), arrays(images), array, None)),
        "camera": (
            (frame, windows, [5, 7], *affine, torch.float16, None),
            (frame.numpy(), array, (5, 7), *affine, None),
        ),
    }
    ours, right = getattr(launchers, name)(*calls[name][0]), getattr(reference, name)(*calls[name][1])
    for a, b in zip(*((v if isinstance(v, list) else [v]) for v in (ours, right)), strict=True):
        assert a.dtype == (torch.float32 if name == "windows_gradient" else torch.float16)
        assert torch.equal(a, torch.from_numpy(b).to(a.dtype))
        if name.startswith("resample"):
            assert a.is_contiguous(memory_format=torch.channels_last)


# --- what must hold whatever the reference says -----------------------------------------------------------------------


@some
@given(data=st.data(), kind=st.sampled_from(WINDOWS), seed=own.seeds)
@both_filters
def test_adjoint_is_the_transpose(rows, data, kind, seed):
    """<R x, y> = <x, R^T y>."""
    batch, (source, size) = data.draw(st.integers(1, 3)), (data.draw(own.shapes), data.draw(own.shapes))
    source_valid = data.draw(own.extents(batch, [source]))
    windows = made_for_levels(kind, seed, data.draw(st.sampled_from((1, batch))), rows, [size], [source], torch.float64)
    x, y = own.values(seed, (batch, 3, *source), torch.float64), own.values(seed + 1, (batch, 3, *size), torch.float64)
    (rx,) = kernels.resample([x], windows, list(size), source_valid)
    (ry,) = kernels.resample_adjoint([y], windows, list(source), source_valid)
    terms = max((rx * y).abs().sum().item(), (x * ry).abs().sum().item())
    assert abs((rx * y).sum().item() - (x * ry).sum().item()) <= 1e-13 * terms


@both_layouts
@images_of_all
@pytest.mark.parametrize("channels", [1, 3, 16])
def test_identity_returns_the_image(dtype, layout, channels):
    for size in ((16, 33), (1, 1), (1, 9), (9, 2), (65, 70)):
        image = own.laid_out(own.values(1, (2, channels, *size), dtype), layout)
        y, x = torch.meshgrid(*(torch.arange(n, dtype=geometry(dtype)) for n in size), indexing="ij")
        windows = torch.stack([x.flatten(), y.flatten()])[None]
        for some_windows in (windows, torch.cat([windows, torch.ones_like(windows)], 1)):
            (result,) = kernels.resample([image], some_windows, list(size), None)
            assert torch.equal(result, image)
            if dtype.is_floating_point:
                assert torch.equal(kernels.resample_adjoint([image], some_windows, list(size), None)[0], image)


def test_bilinear_is_grid_sample():
    """Independent of the reference: torch's own sampler and its gradients."""
    image = own.values(1, (2, 3, 40, 51), torch.float64).requires_grad_()
    sampling = torch.from_numpy(own.uniform(2, 2, 23, 34, 2, low=-1)).requires_grad_()
    right = torch.nn.functional.grid_sample(image, sampling, align_corners=True)
    windows = ((sampling.detach() + 1) / 2 * torch.tensor([50.0, 39.0])).flatten(1, 2).mT
    (ours,) = kernels.resample([image], windows, [23, 34], None)
    torch.testing.assert_close(ours, right, rtol=0, atol=1e-12)
    grad = own.values(3, (2, 3, 23, 34), torch.float64)
    torch.use_deterministic_algorithms(False)
    by_image, by_grid = torch.autograd.grad(right, [image, sampling], grad)
    torch.testing.assert_close(
        kernels.resample_adjoint([grad], windows, [40, 51], None)[0], by_image, rtol=0, atol=1e-11
    )
    by_windows = kernels.windows_gradient([grad], [image], windows, None) * torch.tensor([25.0, 19.5])[:, None]
    torch.testing.assert_close(by_windows, by_grid.flatten(1, 2).mT, rtol=0, atol=1e-10)


@images_of_all
@both_filters
@some
@given(data=st.data(), kind=st.sampled_from(WINDOWS), seed=own.seeds)
def test_constants_stay_and_fill_is_zero(dtype, rows, data, kind, seed):
    batch, (source, size) = data.draw(st.integers(1, 3)), (data.draw(own.shapes), data.draw(own.shapes))
    source_valid = data.draw(own.extents(batch, [source]))
    windows = made_for_levels(kind, seed, batch, rows, [size], [source], dtype)
    image = own.laid_out(torch.full((batch, 2, *source), 3, dtype=dtype), data.draw(own.layouts))
    (result,) = kernels.resample([image], windows, list(size), source_valid)
    reads = (windows[:, 0] >= 0).view(-1, 1, *size).expand(batch, 2, *size)
    if source_valid is not None and rows == 4:  # a narrow filter far in the padding counts as on the border
        assert torch.isfinite(result).all()
    distinct = result[reads].unique()  # the same error everywhere says nothing about an RMS
    assert_close_to(np.full(len(distinct), 3.0), distinct, dtype, "image")
    assert (result[~reads] == 0).all()


# --- what must not be read --------------------------------------------------------------------------------------------


def padding_of(source_valid: Tensor, shape: tuple[int, int]) -> Tensor:
    padding = torch.zeros(len(source_valid), 1, *shape, dtype=torch.bool)
    for b, (height, width) in enumerate(source_valid[:, 0].tolist()):
        padding[b, :, height:], padding[b, :, :, width:] = True, True
    return padding


@bad_values
@both_layouts
@both_filters
@pytest.mark.parametrize("source", [(20, 37), (11, 310), (9, 6)])
@pytest.mark.parametrize("kind", ["mesh", "beyond"])
@two_floats
def test_padding_is_never_read(dtype, bad, layout, rows, source, kind):
    h, w = source
    size, source_valid = (13, 41), torch.tensor([[[h - 3, w - 5]], [[h, 1]], [[1, w - 1]]])
    windows = made_for_levels(kind, 2, 3, rows, [size], [source], dtype)
    image, padding = own.values(1, (3, 3, *source), dtype), padding_of(source_valid, source)
    clean = own.laid_out(image.masked_fill(padding, 0), layout)
    dirty = own.laid_out(image.masked_fill(padding, bad), layout)
    (expected,) = kernels.resample([clean], windows, list(size), source_valid)
    (result,) = kernels.resample([dirty], windows, list(size), source_valid)
    assert torch.isfinite(result).all()
    assert torch.equal(result, expected)
    (by_image,) = kernels.resample_adjoint([result], windows, list(source), source_valid)
    assert (by_image[padding.expand_as(by_image)] == 0).all()
    expected = kernels.windows_gradient([result], [clean], windows, source_valid)
    assert torch.equal(kernels.windows_gradient([result], [dirty], windows, source_valid), expected)


@bad_values
@both_layouts
@both_filters
@two_floats
def test_pixels_far_from_every_centre_are_never_read(dtype, bad, layout, rows):
    source, size = (40, 60), (21, 23)
    windows = made_for_levels("few", 2, 1, rows, [size], [source], dtype)
    windows[:, :2] = windows[:, :2] * 0.5 + 3
    windows[:, 2:].clamp_(max=2)
    x, y = windows[0, :2, :, None].double()
    wx, wy = windows[0, 2:, :, None].double() if rows == 4 else (1, 1)
    near = ((torch.arange(60) - x).abs() <= wx)[:, None] & ((torch.arange(40) - y).abs() <= wy)[:, :, None]
    unread = ~near.any(0)
    assert 0.2 < unread.double().mean() < 0.95
    image = own.values(1, (2, 3, *source), dtype)
    clean, dirty = (own.laid_out(image.masked_fill(unread, value), layout) for value in (0.0, bad))
    (expected,) = kernels.resample([clean], windows, list(size), None)
    (result,) = kernels.resample([dirty], windows, list(size), None)
    assert torch.equal(result, expected)
    expected = kernels.windows_gradient([result], [clean], windows, None)
    assert torch.equal(kernels.windows_gradient([result], [dirty], windows, None), expected)


@bad_values
@both_layouts
@both_filters
@two_floats
def test_fill_reads_and_gives_nothing(dtype, bad, layout, rows):
    """Whatever the image holds, and whatever a loss does with the padding of the result."""
    source, size = (20, 37), (23, 90)
    windows = made_for_levels("holes", 2, 2, rows, [size], [source], dtype)
    fill = (windows[:, 0] < 0).view(2, 1, *size)
    image = own.laid_out(torch.full((2, 3, *source), bad, dtype=dtype), layout)
    (result,) = kernels.resample([image], windows, list(size), None)
    assert torch.equal(torch.isfinite(result), fill.expand_as(result))
    assert (result[fill.expand_as(result)] == 0).all()
    image, grad = own.values(1, (2, 3, *source), dtype), own.values(2, (2, 3, *size), dtype)
    clean, dirty = (own.laid_out(grad.masked_fill(fill, value), layout) for value in (0.0, bad))
    expected = kernels.resample_adjoint([clean], windows, list(source), None)[0]
    assert torch.equal(kernels.resample_adjoint([dirty], windows, list(source), None)[0], expected)
    expected = kernels.windows_gradient([clean], [image], windows, None)
    assert torch.equal(kernels.windows_gradient([dirty], [image], windows, None), expected)
    assert (expected[(windows[:, :1] < 0).expand_as(expected)] == 0).all()


@both_layouts
@both_filters
@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("row", [0, 1])
@two_floats
def test_nan_windows_make_nan_targets(dtype, layout, rows, channels, row):
    source, size = (20, 37), (11, 27)
    image = own.laid_out(own.values(1, (3, channels, *source), dtype), layout)
    windows = made_for_levels("mesh", 2, 3, rows, [size], [source], dtype)
    clean = kernels.resample([image], windows, list(size), None)[0]
    lost = torch.zeros(3, 1, *size, dtype=torch.bool)
    lost[1, 0, 3, 5:20] = True
    windows[:, row][lost.flatten(1)] = float("nan")
    (result,) = kernels.resample([image], windows, list(size), None)
    assert torch.equal(torch.isnan(result), lost.expand_as(result))
    assert torch.equal(result[~lost.expand_as(result)], clean[~lost.expand_as(result)])
    grad = own.values(2, (3, channels, *size), dtype)
    (by_image,) = kernels.resample_adjoint([grad], windows, list(source), None)
    by_windows = kernels.windows_gradient([grad], [image], windows, None)
    for b in (0, 2):  # the other images of the batch
        assert torch.isfinite(by_image[b]).all()
        assert torch.isfinite(by_windows[b]).all()
    frame = own.values(1, (3, *source, 3), torch.uint8)
    result = kernels.camera(frame, windows, list(size), [1.0] * 3, [0.0] * 3, torch.float32, None)
    assert torch.equal(torch.isnan(result), lost.expand_as(result))


@both_layouts
@both_filters
@pytest.mark.parametrize("value", [1e30, 3e9, float("inf")])
def test_windows_far_outside_read_the_border(layout, rows, value):
    """Nothing out of bounds: beyond the right and lower ends the last pixels, above the upper end the first."""
    image = own.laid_out(own.values(1, (2, 3, 6, 9), torch.float32), layout)
    windows = torch.ones(1, rows, 12)
    windows[0, 0, :4], windows[0, 1, 2:6], windows[0, 1, 6:8] = value, value, -value
    (result,) = kernels.resample([image], windows, [3, 4], None)
    x, y = windows[0, 0].clamp(0, 8).long(), windows[0, 1].clamp(0, 5).long()
    assert torch.equal(result.flatten(2), image[:, :, y, x])
    grad = own.values(2, (2, 3, 3, 4), torch.float32)
    (by_image,) = kernels.resample_adjoint([grad], windows, [6, 9], None)
    expected = torch.zeros(2, 3, 54).index_add_(2, y * 9 + x, grad.flatten(2)).view(2, 3, 6, 9)
    torch.testing.assert_close(by_image, expected)
    assert torch.isfinite(kernels.windows_gradient([grad], [image], windows, None)).all()


@both_filters
@both_layouts
def test_extents_of_nothing(rows, layout):
    """A source without a valid pixel: 0, and no gradient."""
    image = own.laid_out(torch.full((2, 3, 6, 9), float("nan")), layout)
    windows = made_for_levels("anywhere", 1, 2, rows, [(4, 5)], [(6, 9)], torch.float32)
    for extents in ([[0, 9]], [[6, 0]], [[0, 0]]):
        source_valid = torch.tensor([extents])
        (result,) = kernels.resample([image], windows, [4, 5], source_valid)
        assert (result == 0).all()
        assert (kernels.resample_adjoint([torch.ones(2, 3, 4, 5)], windows, [6, 9], source_valid)[0] == 0).all()
        assert (kernels.windows_gradient([torch.ones(2, 3, 4, 5)], [image], windows, source_valid) == 0).all()


@both_filters
@both_layouts
@pytest.mark.parametrize("shape", [(0, 3, 6, 9), (2, 0, 6, 9)])
def test_nothing_to_do(rows, layout, shape):
    image = own.laid_out(torch.zeros(shape), layout)
    for batch in {1, shape[0]}:
        windows = made_for_levels("anywhere", 1, batch, rows, [(4, 5)], [(6, 9)], torch.float32)
        (result,) = kernels.resample([image], windows, [4, 5], None)
        assert result.shape == (*shape[:2], 4, 5)
        assert kernels.resample_adjoint([result], windows, [6, 9], None)[0].shape == shape
        by_windows = kernels.windows_gradient([result], [image], windows, None)
        assert by_windows.shape == windows.shape
        assert (by_windows == 0).all()
