"""Layouts, sizes and dtypes at their limits, of all kinds of warps where nothing else is said."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import torch
from helpers import assert_bitwise, assert_near, evaluate, grid, invert, random_warp, sample, tensors, warp_of

from fastwarp import MeshWarp, SeparableWarp
from fastwarp import functional as F

OPS = torch.ops.fastwarp

kinds = pytest.mark.parametrize("kind", ["separable", "bilinear"])


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


@kinds
@pytest.mark.parametrize("antialias", [False, True])
def test_memory_format_is_kept(antialias, kind):
    warp = warp_of(kind, 2)
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


@kinds
@pytest.mark.parametrize("shape", [(0, 3, 6, 5), (2, 0, 6, 5), (0, 0, 6, 5)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_nothing_to_do(shape, shared, antialias, kind):
    batch = 1 if shared else shape[0]
    warp = warp_of(kind, batch)
    leaves = [torch.rand(shape).requires_grad_(), *(t.requires_grad_() for t in tensors(warp))]
    small = warp.zoom(leaves[0], (3, 4), antialias=antialias)
    back = warp.unzoom([small, small.clone()], [(6, 5), (2, 2)], antialias=antialias)
    assert small.shape == (*shape[:2], 3, 4)
    assert [b.shape for b in back] == [(*shape[:2], 6, 5), (*shape[:2], 2, 2)]
    grads = torch.autograd.grad([b.sum() for b in back], leaves)
    assert [g.shape for g in grads] == [t.shape for t in leaves]
    assert not any(g.any() for g in grads)


@kinds
def test_empty_batch_of_everything_else(kind):
    warp = (SeparableWarp if kind == "separable" else MeshWarp).from_saliency(torch.rand(0, 4, 5))
    one = warp_of(kind, 1)
    assert [t.shape[0] for t in tensors(warp)] == [0] * len(tensors(warp))
    assert one.zoom_boxes(torch.rand(0, 4), (5, 5), (3, 3)).shape == (0, 4)
    assert one.zoom_corners(torch.rand(0, 4), (5, 5), (3, 3)).shape == (0, 4, 2)
    assert warp.zoom_points(torch.rand(0, 3, 2), (5, 5), (3, 3)).shape == (0, 3, 2)
    assert warp.grid((3, 4)).shape == (0, 3, 4, 2)
    assert warp.inside((3, 4)).shape == (0, 3, 4)
    assert warp.magnification((3, 4)).shape == (0, 3, 4)
    assert warp.zoom_frame(torch.zeros(0, 6, 6, 3, dtype=torch.uint8), (2, 2)).shape == (0, 3, 2, 2)
    assert SeparableWarp.from_cdf(torch.rand(0, 4), torch.rand(0, 5)).knots_x.shape == (0, 6)
    assert MeshWarp.from_saliency(torch.rand(0, 4, 5)).report().ok


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


@kinds
def test_uint8_image_gives_no_gradient_but_does_not_fail(kind):
    warp = warp_of(kind, 1)
    for geometry in tensors(warp):
        geometry.requires_grad_()
    out = warp.zoom(torch.zeros(1, 1, 6, 6, dtype=torch.uint8), (3, 3))
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
