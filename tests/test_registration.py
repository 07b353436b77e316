"""Unzooms that are registered exactly through a strided network: `unzoom(..., image_size=)`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import assert_bitwise, random_knots, random_mesh, random_warp, run_python
from torch.fx.experimental.proxy_tensor import make_fx

from fastwarp import FastwarpError, MeshWarp, SeparableWarp
from fastwarp.nn import Unzoom

IMAGE = (96, 150)
KINDS = [SeparableWarp, MeshWarp]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["separable", "mesh"])
phases = pytest.mark.parametrize("phase", [0.0, 0.5])


def ceil_sizes(image, strides):
    return [tuple(-(-side // s) for side in image) for s in strides]


def warp_of(kind, batch=1, dtype=torch.float64, ends=(0.0, 1.0)):
    """A warp of the kind, and its separable knots: the same T~ for both kinds, which NumPy can invert."""
    warp = random_warp(batch, (5, 7), dtype, ends)
    return (warp if kind is SeparableWarp else MeshWarp.from_separable(warp)), warp


def expected_centres(knots, n, stride, phase, pixels):
    """Where each cell of an axis reads, in cells: `docs/registration.md`, by NumPy."""
    offset = phase * (stride - 1)
    cells = int(min(-(-(pixels - min(offset, 0)) // stride), n))
    p = stride * np.arange(cells) + offset
    last = max(pixels - 1, 1)
    held = np.clip(p / last, 0, 1)
    t = np.interp(held, knots.double().numpy(), np.linspace(0, 1, len(knots)))
    centres = ((t - held) * last + p - offset) / stride
    return np.clip(centres, 0, cells - 1)


def interpolated(rows, centres):
    """Linear interpolation of `[n, ...]` at cells."""
    low = np.minimum(np.floor(centres).astype(int), len(rows) - 1)
    f = (centres - low).reshape(-1, *[1] * (rows.ndim - 1))
    return (1 - f) * rows[low] + f * rows[np.minimum(low + 1, len(rows) - 1)]


def expected_unzoom(features, warp, b, stride, phase, valid, outside):
    """One image `[C, h, w]` of a registered unzoom by a separable warp, by NumPy."""
    rows = [np.asarray(k[b % len(k)].detach()) for k in (warp.knots_y, warp.knots_x)]
    y, x = (
        expected_centres(torch.from_numpy(k), n, s, phase, v)
        for k, n, s, v in zip(rows, features.shape[1:], stride, valid, strict=True)
    )
    result = features.copy() if outside == "keep" else np.zeros_like(features)
    by_rows = interpolated(features.transpose(1, 2, 0), y)
    result[:, : len(y), : len(x)] = interpolated(by_rows.transpose(1, 0, 2), x).transpose(2, 1, 0)
    return result


@kinds
@phases
@pytest.mark.parametrize("outside", ["keep", "fill"])
def test_against_the_formula(kind, phase, outside):
    warp, knots = warp_of(kind, 2)
    valid = torch.tensor([[96, 101], [49, 150]])
    strides = [8, 16, 64]
    levels = [torch.rand(2, 3, *size, dtype=torch.float64) for size in ceil_sizes(IMAGE, strides)]
    for known in (None, valid):
        results = warp.unzoom(levels, image_size=IMAGE, phase=phase, valid=known, outside=outside)
        for stride, level, result in zip(strides, levels, results, strict=True):
            for b in range(2):
                pixels = IMAGE if known is None else valid[b].tolist()
                right = expected_unzoom(level[b].numpy(), knots, b, (stride, stride), phase, pixels, outside)
                np.testing.assert_allclose(result[b].numpy(), right, rtol=0, atol=1e-9)


@kinds
@phases
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_identity_is_bitwise_the_identity(kind, phase, last, dtype):
    warp = kind.identity(dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    valid = torch.tensor([[96, 101], [49, 150], [1, 0]])
    form = torch.channels_last if last else torch.contiguous_format
    strides = [1, 4, 7, 16, 128]
    levels = [
        (torch.rand(3, 5, *size) * 200).to(dtype).contiguous(memory_format=form) for size in ceil_sizes(IMAGE, strides)
    ]
    for known in (None, valid):
        results = warp.unzoom(levels, image_size=IMAGE, strides=strides, phase=phase, valid=known)
        assert_bitwise(results, levels)
        assert all(r.is_contiguous(memory_format=form) for r in results)


@kinds
def test_networks_that_pad_their_images_themselves(kind):
    """Cells past the image stay as they are. With a negative phase, as transposed convolutions make, a map has more of
    them inside it: those whose pixel is."""
    features = torch.rand(2, 3, 24, 48, dtype=torch.float64)  # of an image that the network padded to 96 x 192
    for phase, valid in ((0.0, None), (-14 / 3, None), (-14 / 3, torch.tensor([[96, 101], [49, 150]]))):
        options = {"image_size": IMAGE, "strides": 4, "phase": phase, "valid": valid}
        assert_bitwise([kind.identity(dtype=torch.float64).unzoom(features, **options)], [features])
        warp, knots = warp_of(kind, 2)
        result = warp.unzoom(features, **options)
        for b in range(2):
            pixels = IMAGE if valid is None else valid[b].tolist()
            right = expected_unzoom(features[b].numpy(), knots, b, (4, 4), phase, pixels, "keep")
            np.testing.assert_allclose(result[b].numpy(), right, rtol=0, atol=1e-9)


@kinds
@phases
def test_padding_is_never_read(kind, phase):
    warp, _ = warp_of(kind, 2)
    valid = torch.tensor([[70, 101], [49, 140]])
    (size,) = ceil_sizes(IMAGE, [8])
    features = torch.rand(2, 3, *size, dtype=torch.float64)
    clean = warp.unzoom(features, image_size=IMAGE, phase=phase, valid=valid, outside="fill")
    cells = (valid + 7) // 8
    for b, (h, w) in enumerate(cells.tolist()):
        features[b, :, h:], features[b, :, :, w:] = float("nan"), float("nan")
    kept = warp.unzoom(features, image_size=IMAGE, phase=phase, valid=valid)
    filled = warp.unzoom(features, image_size=IMAGE, phase=phase, valid=valid, outside="fill")
    assert_bitwise([filled], [clean])
    for b, (h, w) in enumerate(cells.tolist()):
        assert torch.equal(kept[b, :, :h, :w], clean[b, :, :h, :w])
        assert torch.isnan(kept[b, :, h:]).all()
        assert torch.isnan(kept[b, :, :, w:]).all()


@kinds
def test_strides_by_the_sizes(kind):
    warp = kind.identity(dtype=torch.float64)
    knots = warp_of(kind)[0]
    for image, size, stride in (
        ((600, 960), (19, 30), 32),
        ((600, 960), (5, 8), 128),
        ((518, 518), (37, 37), 14),  # no power of two
        ((300, 300), (1, 1), 512),
        ((7, 9), (7, 9), 1),
    ):
        features = torch.rand(1, 1, *size, dtype=torch.float64)
        found = knots.unzoom(features, image_size=image)
        assert_bitwise([found], [knots.unzoom(features, image_size=image, strides=stride)])
    with pytest.raises(
        FastwarpError, match=r"features is a map of 38 x 61, which no stride makes of an image of 600 x"
    ):
        warp.unzoom(torch.rand(1, 1, 38, 61), image_size=(600, 960))


@kinds
def test_levels_with_strides_and_phases_of_their_own(kind):
    """A pyramid in one call is what its levels are one by one, whatever its structure."""
    warp, _ = warp_of(kind, 2)
    levels = {"a": torch.rand(2, 2, 24, 19, dtype=torch.float64), "b": torch.rand(2, 2, 6, 19, dtype=torch.float64)}
    strides, phase = {"a": (4, 8), "b": [16, 8]}, {"a": 0.5, "b": 0.25}
    results = warp.unzoom(levels, image_size=IMAGE, strides=strides, phase=phase)
    for name, level in levels.items():
        alone = warp.unzoom(level, image_size=IMAGE, strides=strides[name], phase=phase[name])
        assert_bitwise([results[name]], [alone])


@kinds
def test_cropping_warps_fill_or_repeat_what_they_do_not_show(kind):
    warp, knots = warp_of(kind, 1, ends=(0.2, 0.8))
    (size,) = ceil_sizes(IMAGE, [8])
    features = torch.rand(1, 2, *size, dtype=torch.float64) + 1
    places = [8 * np.arange(n) / (side - 1) for n, side in zip(size, IMAGE, strict=True)]
    inside = [(p >= 0.2) & (p <= 0.8) for p in places]
    shown = torch.from_numpy(inside[0][:, None] & inside[1])
    for mode in ("zeros", "border"):
        result = warp.unzoom(features, image_size=IMAGE, padding_mode=mode)
        right = expected_unzoom(features[0].numpy(), knots, 0, (8, 8), 0.0, IMAGE, "keep")
        np.testing.assert_allclose(result[0][:, shown].numpy(), right[:, shown.numpy()], rtol=0, atol=1e-9)
        assert (result[0][:, ~shown] == 0).all() if mode == "zeros" else (result > 0).all()


# --- antialias, gradients, backends, torch's machinery ----------------------------------------------------------------


@kinds
def test_antialias(kind):
    """Where the warp magnifies, the way back reduces, and cells are triangle-weighted means, of image cells only."""
    knots = torch.tensor([[0.0, 0.05, 0.1, 0.55, 1.0]], dtype=torch.float64)  # the first half shows a tenth
    warp = SeparableWarp(knots, knots)
    warp = warp if kind is SeparableWarp else MeshWarp.from_separable(warp)
    features = torch.rand(2, 2, 24, 38, dtype=torch.float64)
    valid = torch.tensor([[96, 150], [80, 101]])
    options = {"image_size": IMAGE, "phase": 0.5, "valid": valid, "antialias": True}
    result = warp.unzoom(features, **options)
    for b, cells in enumerate(((24, 38), (20, 26))):
        right = features[b].numpy().copy()
        for axis, (n, pixels) in enumerate(zip(cells, valid[b].tolist(), strict=True)):
            centres = expected_centres(knots[0], n, 4, 0.5, pixels)
            width = np.maximum(np.abs(np.gradient(centres)), 1)
            weights = np.maximum(1 - np.abs(np.arange(n) - centres[:, None]) / width[:, None], 0)
            weights /= weights.sum(1, keepdims=True)
            part = right[:, : cells[0], : cells[1]]
            part[:] = np.einsum("ij,cjx->cix" if axis == 0 else "ij,cxj->cxi", weights, part)
        np.testing.assert_allclose(result[b].numpy(), right, rtol=0, atol=1e-9)
    changed = features.clone()
    changed[1, :, 20:], changed[1, :, :, 26:] = float("nan"), float("nan")
    assert_bitwise([warp.unzoom(changed, **options)[1, :, :20, :26]], [result[1, :, :20, :26]])


def geometry(kind, batch, ends=(0.0, 1.0)):
    """The tensors of a bent warp, with gradients."""
    warp = SeparableWarp(*(random_knots(batch, n, ends=ends) for n in (4, 5)))
    tensors = (
        (warp.knots_y, warp.knots_x) if kind is SeparableWarp else (random_mesh(batch, (4, 5), torch.float64, ends),)
    )
    return [t.detach().requires_grad_() for t in tensors]


@kinds
@phases
@pytest.mark.parametrize("antialias", [False, True])
def test_gradients(kind, phase, antialias):
    """To features and geometry, twice; the last cells of the second image are past its end."""
    features = [torch.rand(2, 2, *size, dtype=torch.float64).requires_grad_() for size in ((6, 7), (3, 4))]
    valid = torch.tensor([[23, 27], [17, 21]])

    def unzoom(fine, coarse, *tensors):
        levels = kind(*tensors).unzoom(
            [fine, coarse], image_size=(23, 27), phase=phase, valid=valid, antialias=antialias
        )
        return tuple(levels)

    inputs = (*features, *geometry(kind, 2, (-0.15, 1.15)))  # no cell on the outline, where the fill begins
    assert torch.autograd.gradcheck(unzoom, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(unzoom, inputs, fast_mode=True)


BACKENDS = """
import torch
import fastwarp
from helpers import assert_near, forward_backward, random_mesh, random_warp

torch.manual_seed(0)
warp, valid, image = random_warp(2, (4, 5)), torch.tensor([[96, 101], [49, 150]]), (96, 150)
for kind, tensors in (
    (fastwarp.SeparableWarp, (warp.knots_y, warp.knots_x)),
    (fastwarp.MeshWarp, (random_mesh(2, (4, 5)),)),
):
    inputs = [t.requires_grad_() for t in (torch.rand(2, 2, 6, 10), torch.rand(2, 2, 2, 3), *tensors)]
    for phase in (0.0, 0.5):
        def unzoom(fine, coarse, *tensors):
            return kind(*tensors).unzoom([fine, coarse], image_size=image, phase=phase, valid=valid)

        expected = forward_backward(unzoom, inputs)
        with fastwarp.backend(BACKEND):
            assert_near(forward_backward(unzoom, inputs), expected)
"""


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_backends(backend):
    """Values and gradients are those of numba's kernels, which the tests above judge. In a process of its own, where
    Triton's kernels are interpreted."""
    if backend == "triton":
        pytest.importorskip("triton", minversion="3.6")
    run_python(BACKENDS.replace("BACKEND", repr(backend)), TRITON_INTERPRET="1")


@kinds
def test_compile_vmap_and_autocast(kind):
    inputs = [torch.rand(2, 3, 12, 19), *(t.detach().float() for t in geometry(kind, 2))]
    valid = torch.tensor([[96, 101], [49, 150]])

    def unzoom(features, *tensors):
        return kind(*tensors).unzoom(features, image_size=IMAGE, valid=valid)

    expected = unzoom(*inputs)
    for dynamic in (False, True):  # then numbers are symbols, phases among them
        compiled = torch.compile(unzoom, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        assert_bitwise([compiled(*inputs)], [expected])
    stacked = torch.vmap(unzoom)(*(torch.stack([i, i.flip(0)]) for i in inputs))
    assert_bitwise([stacked[0], stacked[1]], [expected, unzoom(*(i.flip(0) for i in inputs))])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_bitwise([unzoom(*inputs)], [expected])


@kinds
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*deprecated")
def test_padding_is_kept_however_an_unzoom_is_called(kind):
    """By itself it copies padding into its result. What records the call may give it other extents later, and gradients
    go to what was copied."""
    warp, _ = warp_of(kind, 2)
    features = torch.rand(2, 3, 12, 19, dtype=torch.float64)
    valid, other = torch.tensor([[96, 101], [49, 150]]), torch.tensor([[33, 150], [96, 70]])

    def unzoom(features, valid):
        return warp.unzoom(features, image_size=IMAGE, valid=valid)

    before = features.clone()
    expected = unzoom(features, valid)
    assert_bitwise([features], [before])
    grown = features.clone().requires_grad_()
    recorded = unzoom(grown, valid)
    recorded.sum().backward()
    for b, (h, w) in enumerate(((12, 13), (7, 19))):
        assert_bitwise([expected[b, :, h:], expected[b, :, :, w:]], [features[b, :, h:], features[b, :, :, w:]])
        assert (grown.grad[b, :, h:] == 1).all()
        assert (grown.grad[b, :, :, w:] == 1).all()
    assert_bitwise([recorded.detach()], [expected])
    for record in (lambda f, *args: torch.jit.trace(f, args, check_trace=False), lambda f, *args: make_fx(f)(*args)):
        assert_bitwise([record(unzoom, features, other)(features, valid)], [expected])
    both = torch.vmap(unzoom, (None, 0))(features, torch.stack([valid, other]))
    assert_bitwise([both[0], both[1]], [expected, unzoom(features, other)])
    with torch.inference_mode():
        assert_bitwise([unzoom(features, valid)], [expected])


# --- through a network ------------------------------------------------------------------------------------------------


class Strided(torch.nn.Module):
    """Seven blurs of stride 2, returned at strides 8 to 128: with odd kernels and padding, so that cell j is a mean
    around pixel `s j`, or of patches, whose middle is at `s j + (s - 1) / 2`.

    Padding continues linearly. An image of its own coordinates thus becomes maps of the places of their cells.
    """

    def __init__(self, phase):
        super().__init__()
        self.kernel, self.before = (torch.tensor([1.0, 2.0, 1.0]) / 4, 1) if phase == 0 else (torch.ones(2) / 2, 0)

    def forward(self, image):
        weight, levels = (self.kernel[:, None] * self.kernel)[None, None].to(image), []
        image = image.transpose(0, 1)
        for _ in range(7):
            for _ in range(2):  # rows, then columns
                first, last = 2 * image[:, :, :1] - image[:, :, 1:2], 2 * image[:, :, -1:] - image[:, :, -2:-1]
                image = torch.cat([first, image, last][1 - self.before :], 2).mT
            image = torch.nn.functional.conv2d(image, weight, stride=2)
            levels.append(image.transpose(0, 1))
        return levels[2:]


def coordinates(size):
    """`[1, 2, H, W]`: each pixel has its own x and y."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    return torch.stack([x, y])[None]


SIZES = pytest.mark.parametrize("size", [(768, 1024), (600, 960), (601, 999)])
STRIDES = (8, 16, 32, 64, 128)


def places_of(shape, stride, phase):
    return coordinates(shape) * stride + phase * (stride - 1)


@phases
@SIZES
def test_the_network_has_the_centres_that_it_should_have(phase, size):
    for stride, level in zip(STRIDES, Strided(phase)(coordinates(size)), strict=True):
        assert level.shape[2:] == ceil_sizes(size, [stride])[0]
        torch.testing.assert_close(level, places_of(level.shape[2:], stride, phase), rtol=0, atol=1e-9)


@kinds
@phases
@SIZES
def test_what_is_at_a_source_position_lands_on_its_cell(kind, phase, size):
    """Through zoom, network and unzoom: each pixel of the source carries its place, and what arrives in a cell is the
    place of the cell. The warp is straight, so that nothing is lost between cells; by the map's own grid it is not."""
    knots = [torch.tensor([ends], dtype=torch.float64) for ends in ((0.1, 0.8), (0.2, 0.9))]
    warp = SeparableWarp(*knots)
    warp = warp if kind is SeparableWarp else MeshWarp.from_separable(warp)
    levels = Strided(phase)(warp.zoom(coordinates(size), size))
    results, old = warp.unzoom(levels, image_size=size, phase=phase), warp.unzoom(levels)
    missed = []
    for stride, result, by_own_grid in zip(STRIDES, results, old, strict=True):
        places = places_of(result.shape[2:], stride, phase)[0]
        shown = torch.ones(result.shape[2:], dtype=torch.bool)  # in cells of the zoomed map, and between two
        for place, (first, last), side in zip(places, (k[0] for k in knots[::-1]), size[::-1], strict=True):
            zoomed = (place / (side - 1) - first) / (last - first) * (side - 1)
            shown &= (zoomed >= place.min()) & (zoomed <= min(place.max(), side - 1))
        assert shown.sum() >= 6
        assert (result[0] - places)[:, shown].abs().max() / stride < 1e-3
        missed.append((by_own_grid[0] - places)[:, shown].abs().max() / stride)
    assert max(missed) > 0.03


@kinds
@phases
@SIZES
def test_cells_read_where_the_warp_shows_their_place(kind, phase, size):
    """Through network and unzoom of bent warps: each pixel of the *zoomed* image carries its place, whose T~ is the
    place of the cell that it arrives in."""
    warp, knots = warp_of(kind)
    levels = Strided(phase)(coordinates(size))
    for stride, result in zip(STRIDES, warp.unzoom(levels, image_size=size, phase=phase), strict=True):
        for axis, rows in ((0, knots.knots_x), (1, knots.knots_y)):
            side, place = size[1 - axis], places_of(result.shape[2:], stride, phase)[0, axis]
            zoomed = result[0, axis].numpy() / (side - 1)
            source = np.interp(zoomed, np.linspace(0, 1, rows.shape[1]), rows[0].numpy()) * (side - 1)
            first, last = place.min().item(), place.max().item()
            away = np.abs(source - place.numpy())
            # The first and the last cell cannot read beyond themselves.
            held = (result[0, axis] <= first + 1e-9) | (result[0, axis] >= min(last, side - 1) - 1e-9)
            assert away[~held.numpy()].max(initial=0) / stride < 1e-3
            assert held.double().mean() < 0.75


# --- bad input --------------------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"strides": 8}, FastwarpError, "image_size is None, expected .* where strides are given"),
        ({"image_size": 96}, TypeError, "image_size is 96, expected two integers"),
        ({"image_size": IMAGE, "size": (5, 5)}, FastwarpError, "got size and image_size, expected at most one"),
        (
            {"image_size": IMAGE, "source_valid": torch.ones(1, 2).long()},
            FastwarpError,
            "got source_valid and image_size, expected at most one",
        ),
        ({"image_size": IMAGE, "strides": 0}, FastwarpError, "strides is 0, expected strides of at least 1"),
        ({"image_size": IMAGE, "strides": 8.5}, TypeError, "strides has 8.5, expected an integer or a pair"),
        ({"image_size": IMAGE, "strides": (8, 8, 8)}, TypeError, r"strides has \(8, 8, 8\), expected"),
        ({"image_size": IMAGE, "phase": "patch"}, TypeError, "phase is 'patch', expected a number"),
        ({"image_size": IMAGE, "phase": float("nan")}, FastwarpError, "phase is nan, expected a finite number"),
        ({"image_size": IMAGE, "outside": "zeros"}, FastwarpError, "outside is 'zeros', expected 'keep' or 'fill'"),
        ({"image_size": IMAGE, "padding_mode": "x"}, FastwarpError, "padding_mode is 'x', expected 'zeros' or"),
        ({"image_size": IMAGE, "valid": torch.ones(1, 3).long()}, FastwarpError, r"valid is of shape \[1, 3\]"),
        ({"image_size": IMAGE, "valid": torch.ones(3, 2).long()}, FastwarpError, "valid is a batch of 3"),
        ({"image_size": (95, 40)}, FastwarpError, "features is a map of 12 x 19, which no stride makes of"),
    ],
)
def test_bad_input(kind, options, error, words):
    with pytest.raises(error, match=words):
        kind.identity().unzoom(torch.rand(2, 1, 12, 19), **options)


@kinds
def test_module(kind):
    """`nn.Unzoom` passes the settings of the network on, where the size of its input is given."""
    warp = kind.identity(1, (4, 5))
    features, valid = torch.rand(2, 3, 12, 19), torch.tensor([[96, 101], [49, 150]])
    unzoom = Unzoom(warp, strides=(8, 8), phase=0.5, outside="fill")
    given = {"image_size": IMAGE, "valid": valid}
    expected = warp.unzoom(features, strides=8, phase=0.5, outside="fill", **given)
    assert_bitwise([unzoom(features, **given)], [expected])
    assert_bitwise([unzoom(features)], [warp.unzoom(features)])
