"""Sizes, dtypes, gradients and transforms: of separable warps, and where nothing else is said of both kinds; those of
meshes alone are in `test_mesh_ops`."""

from __future__ import annotations

import io
import os
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from helpers import (
    assert_bitwise,
    assert_near,
    evaluate,
    forward_backward,
    grid,
    invert,
    random_knots,
    random_mesh,
    random_warp,
    sample,
    tensors,
)

from fastwarp import MeshWarp, SeparableWarp
from fastwarp import functional as F
from fastwarp.nn import Unzoom, Zoom

OPS = torch.ops.fastwarp

both_kinds = pytest.mark.parametrize("kind", [SeparableWarp, MeshWarp])


def test_expanded_inputs():
    warp = random_warp(1)
    image = torch.rand(1, 1, 9, 1)
    wide = image.expand(3, 4, 9, 8)
    assert wide.stride() == (0, 0, 1, 0)
    knots = [k.expand(3, -1) for k in (warp.knots_y, warp.knots_x)]
    got = SeparableWarp(*knots).zoom(wide, (6, 5))
    assert_near([got], [warp.zoom(wide.contiguous(), (6, 5))])
    leaf = image.clone().requires_grad_()
    (grad,) = torch.autograd.grad(warp.zoom(leaf.expand(3, 4, 9, 8), (6, 5)).sum(), leaf)
    torch.testing.assert_close(grad.sum(), torch.tensor(3.0 * 4 * 6 * 5))  # weights sum to one
    cotangent = torch.ones(()).expand(3, 4, 6, 5)  # what .sum() and .mean() hand to a backward pass
    assert cotangent.stride() == (0, 0, 0, 0)
    leaf = wide.contiguous().requires_grad_()
    got = torch.autograd.grad(warp.zoom(leaf, (6, 5)), leaf, cotangent)
    assert_bitwise(got, torch.autograd.grad(warp.zoom(leaf, (6, 5)), leaf, cotangent.contiguous()))


@both_kinds
@pytest.mark.parametrize("antialias", [False, True])
def test_memory_format_is_kept(antialias, kind):
    warp = random_warp(2) if kind is SeparableWarp else MeshWarp(random_mesh())
    image = torch.rand(2, 5, 9, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    plain = image.detach().contiguous().requires_grad_()
    out, expected = warp.zoom(image, (7, 6), antialias=antialias), warp.zoom(plain, (7, 6), antialias=antialias)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert expected.is_contiguous()
    torch.testing.assert_close(out, expected)
    (grad,) = torch.autograd.grad(out.square().sum(), image)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), plain)
    assert grad.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(grad, expected_grad)
    for level in warp.unzoom([image, image[:, :, ::2]], antialias=antialias):
        assert level.is_contiguous(memory_format=torch.channels_last)


# --- sizes and dtypes at their limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((1, 1), (1, 1)),
        ((1, 7), (5, 1)),
        ((13, 1), (1, 31)),
        ((64, 65), (63, 17)),
        ((31, 37), (129, 128)),
        ((2, 2), (3, 257)),
    ],
)
def test_sizes(source, target):
    warp = random_warp(2, (4, 9), torch.float64)
    image = torch.rand(2, 3, *source, dtype=torch.float64)
    got = warp.zoom(image, target)
    ones = warp.zoom(torch.ones_like(image), target, antialias=True)
    torch.testing.assert_close(ones, torch.ones_like(ones))
    for b in range(2):
        y, x = (evaluate(k[b], grid(n)) for k, n in zip((warp.knots_y, warp.knots_x), target, strict=True))
        np.testing.assert_allclose(got[b].numpy(), sample(image[b], y, x), rtol=0, atol=1e-12)
        y, x = (invert(k[b], grid(n)) for k, n in zip((warp.knots_y, warp.knots_x), target, strict=True))
        back = warp.unzoom(image, target)[b].numpy()
        np.testing.assert_allclose(back, sample(image[b], y, x), rtol=0, atol=1e-12)


@both_kinds
@pytest.mark.parametrize("shape", [(0, 3, 6, 5), (2, 0, 6, 5), (0, 0, 6, 5)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_nothing_to_do(shape, shared, antialias, kind):
    batch = 1 if shared else shape[0]
    warp = random_warp(batch) if kind is SeparableWarp else MeshWarp(random_mesh(batch))
    leaves = [torch.rand(shape).requires_grad_(), *(t.requires_grad_() for t in tensors(warp))]
    small = warp.zoom(leaves[0], (3, 4), antialias=antialias)
    back = warp.unzoom([small, small.clone()], [(6, 5), (2, 2)], antialias=antialias)
    assert small.shape == (*shape[:2], 3, 4)
    assert [b.shape for b in back] == [(*shape[:2], 6, 5), (*shape[:2], 2, 2)]
    grads = torch.autograd.grad([b.sum() for b in back], leaves)
    assert [g.shape for g in grads] == [t.shape for t in leaves]
    assert not any(g.any() for g in grads)


def test_empty_batch_of_everything_else():
    warp = SeparableWarp.from_saliency(torch.rand(0, 4, 5))
    assert warp.knots_y.shape == (0, 4)
    assert warp.knots_x.shape == (0, 5)
    assert SeparableWarp.from_cdf(torch.rand(0, 4), torch.rand(0, 5)).knots_x.shape == (0, 6)
    assert random_warp(1).zoom_boxes(torch.rand(0, 4), (5, 5), (3, 3)).shape == (0, 4)
    assert warp.grid((3, 4)).shape == (0, 3, 4, 2)
    assert warp.magnification((3, 4)).shape == (0, 3, 4)
    assert warp.zoom_frame(torch.zeros(0, 6, 6, 3, dtype=torch.uint8), (2, 2)).shape == (0, 3, 2, 2)


def test_empty_batch_of_points():
    warp = SeparableWarp.from_saliency(torch.rand(0, 4, 5))
    assert warp.zoom_points(torch.rand(0, 3, 2), (5, 5), (3, 3)).shape == (0, 3, 2)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.uint8])
def test_low_precision_is_the_rounded_fp32_result(dtype, antialias):
    warp = random_warp(2)
    image = (torch.rand(2, 3, 33, 35) * 255).to(dtype)
    expected = warp.zoom(image.float(), (20, 18), antialias=antialias)
    got = warp.zoom(image, (20, 18), antialias=antialias)
    assert got.dtype == dtype
    rounded = expected.round() if dtype == torch.uint8 else expected
    # One unit in the last place where both roundings of fp32 sums lie beside a half.
    step = {torch.uint8: 1.0, torch.float16: 0.125, torch.bfloat16: 1.0}[dtype]
    off = (got.float() - rounded.to(dtype).float()).abs()
    assert off.max() <= step
    assert (off > 0).float().mean() < 0.01
    if dtype.is_floating_point:
        leaf, wide = image.clone().requires_grad_(), image.float().requires_grad_()
        cotangent = torch.rand_like(got)
        (grad,) = torch.autograd.grad(warp.zoom(leaf, (20, 18), antialias=antialias), leaf, cotangent)
        (wide_grad,) = torch.autograd.grad(warp.zoom(wide, (20, 18), antialias=antialias), wide, cotangent.float())
        assert grad.dtype == dtype
        torch.testing.assert_close(grad.float(), wide_grad, rtol=2.0**-7, atol=1e-3)


def test_uint8_image_gives_no_gradient_but_does_not_fail():
    knots = [k.requires_grad_() for k in (random_knots(1, 4, torch.float32), random_knots(1, 5, torch.float32))]
    out = SeparableWarp(*knots).zoom(torch.zeros(1, 1, 6, 6, dtype=torch.uint8), (3, 3))
    assert out.dtype == torch.uint8
    assert not out.requires_grad


def free_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


SIDE = 46400  # squared more than 2^31


@pytest.mark.skipif(not sys.platform.startswith("linux") or free_memory() < 4 << 30, reason="needs 4 GB of memory")
@pytest.mark.parametrize("case", ["source", "source antialias", "source gradient", "target"])
def test_more_than_2_to_the_31_elements(case):
    """The last pixels of a map, past every 32-bit offset, against the same pixels as a small map."""
    corner = torch.arange(64).reshape(1, 1, 8, 8) * 4
    last = (SIDE - 8) / (SIDE - 1)  # knots of a warp onto the last 8 pixels
    inside = SeparableWarp(*[torch.tensor([[last, 1.0]], dtype=torch.float64)] * 2)
    identity = SeparableWarp.identity(1, (2, 2), dtype=torch.float64)
    if case == "target":
        out = inside.unzoom(corner.byte(), (SIDE, SIDE))
        assert torch.equal(out[:, :, -8:, -8:], corner.byte())
        assert not out[:, :, :-8, -1].any()  # a column, and a row, outside the warp's range
        assert not out[:, :, -1, :-8].any()
        return
    # NumPy's zeros take no memory until they are written.
    dtype = torch.float16 if case == "source gradient" else torch.uint8
    image = torch.from_numpy(np.zeros((1, 1, SIDE, SIDE), np.uint8 if dtype == torch.uint8 else np.float16))
    image[:, :, -8:, -8:] = corner.to(dtype)
    if case == "source gradient":
        windows = F.separable_windows(inside.knots_y, inside.knots_x, [(5, 6)], [(SIDE, SIDE)])
        small = F.separable_windows(identity.knots_y, identity.knots_x, [(5, 6)], [(8, 8)])
        small = small.clone()
        cotangent = [torch.rand(1, 1, 5, 6).half()]
        got = OPS.separable_windows_gradient(cotangent, [image], windows, None, False)
        expected = OPS.separable_windows_gradient(cotangent, [corner.half()], small, None, False)
        interior = [1, 2, 3, 6, 7, 8, 9]  # at the ends of the small map the taps differ
        torch.testing.assert_close(got[..., interior], expected[..., interior], rtol=1e-4, atol=1e-2)
        return
    antialias = case == "source antialias"
    assert torch.equal(inside.zoom(image, (8, 8), antialias=antialias), corner.byte())
    got = inside.zoom(image, (5, 6), antialias=antialias).int()
    expected = identity.zoom(corner.byte(), (5, 6), antialias=antialias).int()
    # Rounding may differ; a triangle reaches over the first row and column of the corner.
    assert (got - expected)[:, :, 1:, 1:].abs().max() <= 1


# --- gradients --------------------------------------------------------------------------------------------------------


def leaf(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64).requires_grad_()


def cropping_knots(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Inside (0, 1): at 0 and 1 a clamp has a kink."""
    y, x = (random_knots(batch, n, ends=ends).requires_grad_() for n, ends in ((4, (0.07, 0.91)), (5, (0.11, 0.94))))
    return y, x


VALID, SOURCE_VALID = torch.tensor([[5, 4], [4, 5]]), torch.tensor([[6, 7], [5, 4]])

DIFFERENTIABLE = {
    "zoom": (lambda i, y, x: F.separable_zoom(i, y, x, (5, 6)), 2),
    "zoom shared": (lambda i, y, x: F.separable_zoom(i, y, x, (5, 6)), 1),
    "zoom antialias": (lambda i, y, x: F.separable_zoom(i, y, x, (3, 4), antialias=True), 2),
    "zoom valid": (
        lambda i, y, x: F.separable_zoom(i, y, x, (5, 6), valid=VALID, source_valid=SOURCE_VALID),
        2,
    ),
    "unzoom": (lambda i, y, x: F.separable_unzoom([i, i[:, :1, :4]], y, x, [(7, 6), (5, 5)]), 2),
    "unzoom border": (lambda i, y, x: F.separable_unzoom(i, y, x, (7, 6), padding_mode="border"), 2),
    "unzoom antialias": (lambda i, y, x: F.separable_unzoom(i, y, x, (3, 4), antialias=True), 2),
    "unzoom antialias valid": (
        lambda i, y, x: F.separable_unzoom(
            *(i, y, x, (5, 6)), antialias=True, padding_mode="border", valid=VALID, source_valid=SOURCE_VALID
        ),
        1,
    ),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_resampling(name):
    function, batch = DIFFERENTIABLE[name]
    inputs = (leaf(2, 2, 6, 7), *cropping_knots(batch))
    assert torch.autograd.gradcheck(function, inputs, fast_mode=False)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("anti_crop", [False, True])
def test_gradients_of_the_lz_warp(anti_crop):
    saliency = (torch.rand(2, 4, 6, dtype=torch.float64) + 0.3).requires_grad_()

    def knots(s):
        y, x = F.lz_knots(s, 2.5, anti_crop)
        return y[:, 1:-1], x[:, 1:-1]  # the ends of an anti-crop warp are constants

    assert torch.autograd.gradcheck(knots, saliency)
    assert torch.autograd.gradgradcheck(knots, saliency)
    if not anti_crop:
        assert torch.autograd.gradcheck(lambda s: F.lz_knots(s, 2.5, False), saliency)


def test_gradients_of_marginals_and_cdf():
    marginals = [(torch.rand(2, n, dtype=torch.float64) + 0.3).requires_grad_() for n in (4, 5)]
    assert torch.autograd.gradcheck(lambda y, x: F.lz_knots_from_marginals(y, x, 3.0), marginals)
    assert torch.autograd.gradcheck(lambda y: F.cdf_knots(y, 8)[:, 1:-1], marginals[1])
    assert torch.autograd.gradgradcheck(lambda y: F.cdf_knots(y, 8)[:, 1:-1], marginals[1])


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_gradients_of_axis_map(inverse, batch):
    knots = random_knots(batch, 5, ends=(0.1, 0.9)).requires_grad_()
    positions = (torch.rand(3, 7, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()  # beyond the ends, too
    function = lambda k, p: F.axis_map(k, p, inverse=inverse)  # noqa: E731
    assert torch.autograd.gradcheck(function, (knots, positions))
    assert torch.autograd.gradgradcheck(function, (knots, positions))


@pytest.mark.parametrize("antialias", [False, True])
def test_gradients_of_camera_points_and_grid(antialias):
    knots = cropping_knots()
    frame = torch.randint(0, 256, (2, 6, 7, 3), dtype=torch.uint8)
    options = {"mean": (1, 2, 3), "std": (40, 50, 60), "dtype": torch.float64, "antialias": antialias}
    function = lambda y, x: F.separable_zoom_frame(frame, y, x, (3, 4), **options)  # noqa: E731
    assert torch.autograd.gradcheck(function, knots)
    assert torch.autograd.gradgradcheck(function, knots)
    points = (torch.rand(2, 3, 2, dtype=torch.float64) * 9).requires_grad_()
    function = lambda p, y, x: F.separable_map_points(p, y, x, (9, 8), (5, 4), inverse=antialias)  # noqa: E731
    assert torch.autograd.gradcheck(function, (points, *knots))
    assert torch.autograd.gradcheck(lambda y, x: F.separable_grid(y, x, (4, 3)), knots)


def test_gradients_from_saliency_to_loss():
    """The whole chain: saliency -> knots -> zoom -> network -> unzoom, at an anti-crop warp's exact ends, too."""
    saliency = (torch.rand(1, 4, 5, dtype=torch.float64) + 0.3).requires_grad_()
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64)

    def network(s, image):
        warp = SeparableWarp.from_saliency(s, 3.0)
        features = TF.conv2d(warp.zoom(image, (5, 6)), weight, padding=1)
        return warp.unzoom({"a": features, "b": features[:, :, ::2, ::2]}, {"a": (7, 8), "b": (3, 4)})["b"]

    inputs = (saliency, leaf(2, 2, 7, 8))
    assert torch.autograd.gradcheck(network, inputs)
    assert torch.autograd.gradgradcheck(network, inputs)


def test_no_gradient_is_computed_for_what_needs_none():
    image, knots = (
        torch.rand(1, 1, 6, 6),
        [torch.tensor([[0.0, 0.4, 1.0]]).requires_grad_(), torch.tensor([[0.0, 1.0]])],
    )
    F.separable_zoom(image, *knots, (3, 3)).sum().backward()
    assert image.grad is None
    assert knots[0].grad is not None
    assert knots[1].grad is None
    with torch.no_grad():
        assert not F.separable_zoom(image, *knots, (3, 3)).requires_grad


# --- transforms -------------------------------------------------------------------------------------------------------


def adaptive_pyramid(saliency, image):
    warp = SeparableWarp.from_saliency(saliency, 5.0)
    small = warp.zoom(image, (image.shape[2] // 2, image.shape[3] // 2))
    levels = [small, TF.avg_pool2d(small, 2), TF.avg_pool2d(small, 4)]
    maps = warp.unzoom(levels, antialias=True)
    return warp, warp.zoom_points(image[:, 0, :4, :2] * 9, (16, 20), (8, 10)), *maps


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_path_equals_eager(dynamic):
    torch.compiler.reset()
    # The inductor generates C++, for which a user needs a compiler; its graph comes from the same tracing.
    compiled = torch.compile(adaptive_pyramid, fullgraph=True, dynamic=dynamic, backend="inductor")
    for height, width in ((24, 32), (40, 28)) if dynamic else ((24, 32),):
        inputs = [torch.rand(2, 5, 7).requires_grad_(), torch.rand(2, 3, height, width).requires_grad_()]
        assert isinstance(compiled(*inputs)[0], SeparableWarp)
        assert_near(forward_backward(compiled, inputs), forward_backward(adaptive_pyramid, inputs))


class Perception(torch.nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        options = {"saliency": torch.rand(1, 5, 7), "kind": kind}
        self.zoom, self.unzoom = Zoom((12, 16), **options), Unzoom(antialias=True, **options)
        self.net = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image):
        features = self.net(self.zoom(image))
        return self.unzoom({"p3": features, "p4": features[:, :, ::2, ::2]})


@pytest.mark.parametrize("kind", ["separable", "mesh"])
def test_export_saves_and_loads(kind):
    network = Perception(kind).eval()
    program = torch.export.export(network, (torch.rand(2, 3, 24, 32),))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    image = torch.rand(2, 3, 24, 32)
    assert_bitwise(tensors(loaded(image)), tensors(network(image)))


def test_vmap_equals_a_loop():
    image, warps = torch.rand(3, 2, 4, 9, 8), [random_warp(2) for _ in range(3)]
    y, x = (torch.stack([getattr(w, k) for w in warps]) for k in ("knots_y", "knots_x"))

    def zoom(i, y, x):
        return F.separable_zoom(i, y, x, (5, 6)), F.separable_unzoom([i, i[:, :, ::2]], y, x, antialias=True)

    def loop(i, y, x, dims):
        pick = lambda t, d, k: t if d is None else t.select(d, k)  # noqa: E731
        rows = [tensors(zoom(*(pick(t, d, k) for t, d in zip((i, y, x), dims, strict=True)))) for k in range(3)]
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    cases = [
        (image, y, x, (0, 0, 0)),
        (image, warps[0].knots_y, warps[0].knots_x, (0, None, None)),
        (image[0], y, x, (None, 0, 0)),
        (image, warps[0].knots_y[:1], warps[0].knots_x[:1], (0, None, None)),  # shared by a batch, too
        (image[0], y[:, :1], x[:, :1], (None, 0, 0)),
        (image.movedim(0, 2).contiguous(), y.movedim(0, 1), warps[0].knots_x, (2, 1, None)),
    ]
    for *inputs, dims in cases:
        got = tensors(torch.vmap(zoom, in_dims=dims)(*inputs))
        assert_near(got, loop(*inputs, dims), f"in_dims={dims}")


def test_vmap_of_warps_points_and_saliency():
    saliency = torch.rand(3, 2, 4, 5)
    image = torch.rand(3, 2, 1, 8, 9)
    points = torch.rand(3, 2, 6, 2) * 8
    frame = torch.randint(0, 256, (3, 2, 8, 9, 3), dtype=torch.uint8)

    def adaptive(s, i, p, f):
        warp = SeparableWarp.from_saliency(s, 3.0)
        there = warp.zoom_points(p, (8, 9), (4, 5))
        cdf = SeparableWarp.from_cdf(s[:, 0], s[:, :, 0])
        return warp.zoom(i, (4, 5)), there, warp.zoom_frame(f, (3, 3)), cdf.knots_y, cdf.knots_x

    got = tensors(torch.vmap(adaptive)(saliency, image, points, frame))
    rows = [tensors(adaptive(saliency[k], image[k], points[k], frame[k])) for k in range(3)]
    assert_near(got, [torch.stack(column) for column in zip(*rows, strict=True)])


def test_vmap_maps_warps():
    saliency, image = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 1, 8, 9)
    warps = SeparableWarp.from_saliency(saliency.flatten(0, 1))
    stacked = torch.utils._pytree.tree_map(lambda k: k.unflatten(0, (3, 2)), warps)
    got = torch.vmap(lambda w, i: w.zoom(i, (4, 5)))(stacked, image)
    assert_near([got.flatten(0, 1)], [warps.zoom(image.flatten(0, 1), (4, 5))])
    got = torch.vmap(SeparableWarp.from_saliency)(saliency)
    assert_near([got.knots_y.flatten(0, 1)], [warps.knots_y])


def test_vectorised_jacobian_equals_a_loop():
    # torch.autograd's own vectorisation is torch's older vmap, which takes no ops on lists of tensors: no resampling.
    saliency = torch.rand(1, 3, 4, dtype=torch.float64)
    knots_and_positions = (random_knots(1, 4), torch.rand(2, 3, dtype=torch.float64))
    for function, inputs in (
        (lambda s: F.lz_knots(s, 3.0), (saliency,)),
        (lambda k, p: F.axis_map(k, p, inverse=True), knots_and_positions),
    ):
        expected = torch.autograd.functional.jacobian(function, inputs)
        got = torch.autograd.functional.jacobian(function, inputs, vectorize=True)
        assert any(t.any() for t in tensors(got))
        assert_near(tensors(got), tensors(expected))


def test_batched_cotangents_equal_a_loop():
    """The vector-Jacobian products of several vectors at once, torch.vmap over torch.autograd.grad."""
    image, *knots = torch.rand(2, 2, 6, 7), *(k.detach().float() for k in cropping_knots())
    frame = torch.randint(0, 256, (2, 6, 7, 3), dtype=torch.uint8)
    for function, inputs in (
        (lambda *a: F.separable_zoom(*a, (5, 6)), [image, *knots]),
        (lambda *a: F.separable_unzoom(*a, antialias=True, valid=VALID), [image, *knots]),
        (lambda y, x: F.separable_zoom(image, y, x, (5, 6)), [k[:1] for k in knots]),
        (lambda y, x: F.separable_zoom_frame(frame, y, x, (3, 4)), knots),
        (lambda s: F.lz_knots(s)[1], [torch.rand(2, 4, 5) + 0.1]),
    ):
        leaves = [i.clone().requires_grad_() for i in inputs]
        out = function(*leaves)
        cotangents = torch.rand(4, *out.shape)

        def product(cotangent, out=out, leaves=leaves):
            return torch.autograd.grad(out, leaves, cotangent, retain_graph=True)

        rows = [product(c) for c in cotangents]
        assert_near(torch.vmap(product)(cotangents), [torch.stack(column) for column in zip(*rows, strict=True)])


@both_kinds
def test_autocast_network_keeps_geometry_in_fp32(kind):
    network, image = torch.nn.Conv2d(3, 1, 3, padding=1), torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        saliency = network(image)[:, 0, ::4, ::4].exp()
        assert saliency.dtype == torch.bfloat16
        warp = kind.from_saliency(saliency)
        features = network(warp.zoom(image, (8, 8)))
        back = warp.unzoom(features)
    assert all(t.dtype == torch.float32 for t in tensors(warp))
    assert features.dtype == back.dtype == torch.bfloat16
    assert_bitwise(tensors(warp), tensors(kind.from_saliency(saliency.float())))
    assert_bitwise([back], [warp.unzoom(features)])
    back.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in network.parameters())


def test_vmapped_gradient_of_shared_knots_is_summed_over_the_batch():
    """Called by itself: in a backward pass autograd would add up what the rule left apart."""
    knots, grads = torch.linspace(0, 1, 5)[None] ** 2, torch.rand(3, 2, 2, 7)

    def gradient(grad):
        return torch.ops.fastwarp.axis_windows_backward(
            grad, knots, knots, [3, 4], [8, 9], False, False, False, None, None
        )

    for mapped, looped in zip(torch.vmap(gradient)(grads), zip(*map(gradient, grads), strict=True), strict=True):
        torch.testing.assert_close(mapped, torch.stack(looped))
