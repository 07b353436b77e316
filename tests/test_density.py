"""The `density` family on CPUs: boxes -> saliency, boxes -> knots, and their gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from helpers import assert_bitwise, assert_near, forward_backward
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close_to
from torch import Tensor

import fastwarp
from fastwarp import SeparableWarp
from fastwarp import functional as F
from fastwarp.errors import FastwarpError
from fastwarp.reference import density as reference
from fastwarp.saliency import box_density, box_knots

pytestmark = pytest.mark.usefixtures("poisoned_results")

ops = torch.ops.fastwarp

many = settings(deadline=None, max_examples=60)

backends = pytest.mark.parametrize("backend", ["numba", "reference"])
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])

SIZE = (120, 200)
SHAPES = st.sampled_from((2, 3, 8, 17, 31, 51))


def random_boxes(seed: int, batch: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Small and large ones, some past the image, one in ten without an extent."""
    size = np.array(SIZE[::-1])
    centre = own.uniform(seed, batch, n, 2, low=-0.1, high=1.1) * size
    extent = own.uniform(seed + 1, batch, n, 2) ** 3 * size * (own.uniform(seed + 2, batch, n, 1) > 0.1)
    return torch.from_numpy(np.concatenate([centre - extent / 2, centre + extent / 2], 2)).to(dtype)


@st.composite
def arguments(draw: Any, dtype: torch.dtype) -> tuple[Any, ...]:
    """All arguments of density_map. What counts leave out is NaN."""
    batch, n = draw(st.integers(1, 3)), draw(st.sampled_from((0, 1, 2, 7, 33)))
    boxes, counts = random_boxes(draw(own.seeds), batch, n, dtype), None
    if draw(st.booleans()):
        integers = draw(st.sampled_from((torch.int32, torch.int64)))
        counts = torch.tensor([draw(st.integers(0, n)) for _ in range(batch)], dtype=integers)
        boxes[torch.arange(n) >= counts[:, None]] = float("nan")
    a, b = draw(st.sampled_from((0.0, 1.0, 50.0))), draw(st.sampled_from((4.0, 16.0, 64.0)))
    numbers = []
    for value in (a, b):
        several = draw(st.sampled_from((None, 1, batch)))
        numbers.append(None if several is None else value * torch.linspace(1, 2, several, dtype=dtype))
    return boxes, counts, *numbers, a, b, *SIZE, draw(SHAPES), draw(SHAPES)


def as_arrays(args: tuple[Any, ...]) -> list[Any]:
    """An op's arguments as the reference takes them: without floats, which are its `[1]` tensors."""
    boxes, counts, amplitude, bandwidth, a, b, *rest = args
    numbers = [torch.tensor([f]) if t is None else t for t, f in ((amplitude, a), (bandwidth, b))]
    arrays = [t.double().numpy() for t in (boxes, *numbers)]
    return [arrays[0], None if counts is None else counts.numpy(), *arrays[1:], *rest]


def size_of_terms(args: tuple[Any, ...], grads: list[Tensor], dtype: torch.dtype) -> tuple[float, float, float]:
    """How large the terms may be that leave the gradients to boxes, a and b of each other.

    The map's gradient (that of knots has terms as large as a marginal's mean is small), divided by the map's sum, times
    what one box can do to it: a change by a Gaussian's width moves all its mass.
    """
    rest, knots = as_arrays(args)[:8], as_arrays(args)[8:]
    largest = max(float(g.abs().max()) for g in grads) * (max(rest[6:]) if knots else 1)
    images = [image for image in reference._images(*rest) if len(image.kernel)]
    mass = max((largest * len(image.kernel) / image.total for image in images), default=0.0)
    a, b = max(image.a for image in images) if images else 0.0, rest[3].min()
    width = np.sqrt(b * min((image.extent.min() for image in images), default=1.0))
    part = 1.0 if dtype == torch.float64 else 1e-8  # in float64, from where on they are rounded to fp32
    return part * mass * a / width, part * mass, part * mass * a / b


def check(name: str, quantity: str, backend: str, dtype: torch.dtype, args: tuple[Any, ...], seed: int) -> None:
    """An op and its backward op against the reference."""
    arrays = as_arrays(args)
    right = getattr(reference, name)(*arrays)
    right = right if isinstance(right, tuple) else (right,)
    grads = [own.values(seed + i, r.shape, dtype) for i, r in enumerate(right)]
    if quantity == "knots":  # rounding decides whether those at 0 and 1 count as clamped
        ties = [torch.from_numpy(np.minimum(np.abs(r), np.abs(r - 1)) < 1e-12) for r in right]
        grads = [torch.where(tie, 0, grad) for tie, grad in zip(ties, grads, strict=True)]
    with fastwarp.backend(backend):
        results = getattr(ops, name)(*args)
        gradients = getattr(ops, name + "_backward")(*grads, *args)
    for result, expected in zip(results if quantity == "knots" else (results,), right, strict=True):
        assert result.dtype == dtype
        assert_close_to(expected, result, dtype, quantity)
    right = getattr(reference, name + "_backward")(*(g.double().numpy() for g in grads), *arrays)
    for gradient, expected, terms in zip(gradients, right, size_of_terms(args, grads, dtype), strict=True):
        assert gradient.dtype == dtype
        assert_close_to(expected, gradient, dtype, "density_grad", terms)


# --- against the reference --------------------------------------------------------------------------------------------


@backends
@dtypes
@many
@given(data=st.data(), seed=own.seeds)
def test_density_map(backend, dtype, data, seed):
    check("density_map", "density", backend, dtype, data.draw(arguments(dtype)), seed)


@backends
@dtypes
@many
@given(data=st.data(), fwhm=own.fwhms, anti_crop=st.booleans(), seed=own.seeds)
def test_density_knots(backend, dtype, data, fwhm, anti_crop, seed):
    check("density_knots", "knots", backend, dtype, (*data.draw(arguments(dtype)), fwhm, anti_crop), seed)


# --- what the formula promises ----------------------------------------------------------------------------------------


@many
@given(data=st.data(), fwhm=own.fwhms, anti_crop=st.booleans())
def test_direct_path_equals_the_path_through_the_map(data, fwhm, anti_crop):
    args = data.draw(arguments(torch.float64))
    boxes, counts, amplitude, bandwidth, a, b, *_, h, w = args
    options = (SIZE, (h, w), a if amplitude is None else amplitude, b if bandwidth is None else bandwidth)
    direct = box_knots(boxes, *options, fwhm, anti_crop, counts=counts)
    through = F.lz_knots(box_density(boxes, *options, counts=counts), fwhm, anti_crop)
    for one, other in zip(direct, through, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


@many
@given(data=st.data())
def test_mass_is_one_and_nothing_is_negative(data):
    density = ops.density_map(*data.draw(arguments(torch.float64)))
    assert (density >= 0).all()
    torch.testing.assert_close(density.sum((1, 2)), torch.ones(len(density), dtype=torch.float64))


@many
@given(seed=own.seeds, n=st.integers(1, 20))
def test_flips_and_order(seed, n):
    boxes = random_boxes(seed, 1, n)
    mirrored = torch.stack([SIZE[1] - boxes[..., 2], boxes[..., 1], SIZE[1] - boxes[..., 0], boxes[..., 3]], 2)
    y, x = box_knots(boxes, SIZE, (9, 14))
    flipped_y, flipped_x = box_knots(mirrored, SIZE, (9, 14))
    shuffled = box_knots(boxes[:, torch.randperm(n)], SIZE, (9, 14))
    torch.testing.assert_close(flipped_x, 1 - x.flip(1), rtol=0, atol=1e-11)
    torch.testing.assert_close(flipped_y, y, rtol=0, atol=1e-11)
    torch.testing.assert_close(shuffled, (y, x), rtol=0, atol=1e-13)


def test_without_boxes_the_warp_is_the_identity():
    empty = torch.zeros(2, 0, 4, requires_grad=True)
    nothing = torch.full((2, 3, 4), float("nan"), requires_grad=True)
    for boxes, counts in ((empty, None), (nothing, torch.tensor([0, -1]))):
        density = box_density(boxes, SIZE, (5, 8), counts=counts)
        assert torch.equal(density, torch.full((2, 5, 8), 1 / 40))
        y, x = box_knots(boxes, SIZE, (5, 8), counts=counts)
        assert_near([y, x], [torch.linspace(0, 1, k).expand(2, -1) for k in (5, 8)])
        for result in (density, y, x):
            (grad,) = torch.autograd.grad(result.square().sum(), boxes, retain_graph=True)
            assert torch.equal(grad, torch.zeros(boxes.shape))
    assert box_density(torch.zeros(0, 3, 4), SIZE).shape == (0, 31, 51)
    assert [k.shape for k in box_knots(torch.zeros(0, 3, 4), SIZE)] == [(0, 31), (0, 51)]


@dtypes
def test_strange_boxes_are_finite(dtype):
    boxes = torch.tensor(
        [
            [100.0, 60.0, 100.0, 60.0],  # a point on a cell of 3 x 5
            [33.3, 41.7, 33.3, 41.7],  # a point between cells
            [0.0, 60.0, 200.0, 60.0],  # a line
            [-1e6, -1e6, -9e5, -9e5],  # far away
            [-1e7, -1e7, 1e7, 1e7],  # all but flat
        ],
        dtype=dtype,
    )
    for some in (*boxes.split(1), boxes):
        leaves = [some.clone().requires_grad_(), *(torch.tensor(v, dtype=dtype).requires_grad_() for v in (1.0, 64.0))]
        for function in (box_density, box_knots):
            results = forward_backward(lambda x, a, b, f=function: f(x, SIZE, (3, 5), a, b), leaves)
            assert all(torch.isfinite(r).all() for r in results)


def test_ragged_lists_padded_boxes_and_single_images_are_the_same():
    ragged = [b[0].requires_grad_() for b in (random_boxes(i, 1, n) for i, n in enumerate((3, 0, 7)))]
    counts = torch.tensor([len(b) for b in ragged])
    padded = torch.nn.utils.rnn.pad_sequence([b.detach() for b in ragged], True, float("nan")).requires_grad_()
    amplitude = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for function in (box_density, box_knots):

        def call(boxes, a, function=function, **options):
            return function(boxes, SIZE, (9, 14), a, **options)

        of_list = forward_backward(lambda *b: call(list(b), amplitude), ragged)
        of_padded = forward_backward(lambda b: call(b, amplitude, counts=counts), [padded])
        assert_bitwise(of_list[: -len(ragged)], of_padded[:-1])
        for i, grad in enumerate(of_list[-len(ragged) :]):
            assert torch.equal(of_padded[-1][i, : len(grad)], grad)
            assert not of_padded[-1][i, len(grad) :].any()
            one = call(ragged[i], amplitude[i])
            assert_bitwise([one] if function is box_density else one, [r[i : i + 1] for r in of_list[: -len(ragged)]])


def test_separable_warp_of_boxes_zooms_in_on_them():
    warp = SeparableWarp(*box_knots(torch.tensor([[95.0, 55.0, 105.0, 65.0]]), SIZE, bandwidth=16.0))
    magnification = warp.magnification((61, 101))[0]
    assert magnification.argmax() == 30 * 101 + 50
    assert magnification.max() > 1.5


def test_a_million_boxes_of_one_image():
    boxes = random_boxes(0, 1, 1000, torch.float32).repeat(1, 1000, 1)
    density, once = box_density(boxes, SIZE), box_density(boxes[:, :1000], SIZE)
    torch.testing.assert_close(density, once, rtol=1e-6, atol=0)


# --- gradients and transforms -----------------------------------------------------------------------------------------


FUNCTIONS = {
    "density": lambda boxes, a, b, **options: box_density(boxes, SIZE, (4, 6), a, b, **options),
    "knots": lambda boxes, a, b, **options: tuple(
        k[:, 1:-1] for k in box_knots(boxes, SIZE, (4, 6), a, b, 2.5, **options)
    ),
    "cropping knots": lambda boxes, a, b, **options: box_knots(boxes, SIZE, (4, 6), a, b, 2.5, False, **options),
}


def gentle_boxes(batch: int, n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """With extents for which finite differences are accurate."""
    centre = torch.rand(batch, n, 2, dtype=dtype) * torch.tensor(SIZE[::-1])
    extent = torch.rand(batch, n, 2, dtype=dtype) * 30 + 5
    return torch.cat([centre - extent / 2, centre + extent / 2], 2).to(dtype)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("shared", [(), (1,), (2,)])
def test_gradients(name, shared):
    function, counts = FUNCTIONS[name], torch.tensor([3, 4])
    a, b = (torch.full(shared, value, dtype=torch.float64, requires_grad=True) for value in (1.3, 20.0))
    inputs = (gentle_boxes(2, 4).requires_grad_(), a, b)
    assert torch.autograd.gradcheck(lambda *i: function(*i, counts=counts), inputs)
    assert torch.autograd.gradgradcheck(lambda *i: function(*i, counts=counts), inputs)
    fixed = inputs[0]
    assert torch.autograd.gradcheck(lambda boxes: function(boxes, 1.3, 20.0), fixed)
    assert torch.autograd.gradgradcheck(lambda boxes: function(boxes, 1.3, b), fixed)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_equals_eager(name):
    torch.compiler.reset()
    function = FUNCTIONS[name]
    compiled = torch.compile(function, fullgraph=True)
    leaves = [
        gentle_boxes(2, 5, torch.float32).requires_grad_(),
        *(torch.tensor(v).requires_grad_() for v in (1.0, 20.0)),
    ]
    assert_near(forward_backward(compiled, leaves), forward_backward(function, leaves))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_equals_a_loop(name):
    function, boxes = FUNCTIONS[name], gentle_boxes(6, 5).unflatten(0, (3, 2))
    a, counts = torch.rand(3, dtype=torch.float64), torch.tensor([[1, 2], [3, 4], [5, 0]])

    def call(boxes, a, counts):
        results = function(boxes, a, 20.0, counts=counts)
        return (results,) if isinstance(results, Tensor) else results

    rows = [call(boxes[i], a[i], counts[i]) for i in range(3)]
    assert_near(torch.vmap(call)(boxes, a, counts), [torch.stack(r) for r in zip(*rows, strict=True)])
    rows = [call(boxes[0], a[i], None) for i in range(3)]
    mapped = torch.vmap(call, in_dims=(None, 0, None))(boxes[0], a, None)
    assert_near(mapped, [torch.stack(r) for r in zip(*rows, strict=True)])

    leaves = [boxes[0].clone().requires_grad_(), a[:1].clone().requires_grad_()]
    out = call(*leaves, counts[1])[-1]
    cotangents = torch.rand(4, *out.shape, dtype=torch.float64)

    def product(cotangent):
        return torch.autograd.grad(out, leaves, cotangent, retain_graph=True)

    rows = [product(c) for c in cotangents]
    assert_near(torch.vmap(product)(cotangents), [torch.stack(r) for r in zip(*rows, strict=True)])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_repeatable_with_any_number_of_threads_layout_and_autocast(name):
    function = FUNCTIONS[name]
    boxes = random_boxes(1, 64, 200, torch.float32)  # enough for four threads
    leaves = [boxes.requires_grad_(), torch.rand(64).requires_grad_(), torch.tensor([20.0]).requires_grad_()]
    copies = [leaf.detach().clone() for leaf in leaves]
    expected = forward_backward(function, leaves)
    assert all(g.any() for g in expected[-3:])
    for threads in (1, 4):
        torch.set_num_threads(threads)
        assert_bitwise(forward_backward(function, leaves), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_bitwise(forward_backward(function, leaves), expected)
    assert_bitwise([leaf.detach() for leaf in leaves], copies)
    wide = torch.full((64, 2, 200, 8), float("nan"))
    strided = wide[:, 1, :, 1::2].copy_(boxes.detach()).flip(0).flip(0).transpose(0, 1).contiguous().transpose(0, 1)
    assert not strided.is_contiguous()
    strange = [
        strided.requires_grad_(),
        torch.rand(2, 64).T.copy_(copies[1][:, None])[:, 0].requires_grad_(),
        leaves[2],
    ]
    assert_bitwise(forward_backward(function, strange), expected)


def test_half_precision_numbers_get_gradients_of_their_own_dtype():
    a, b = (torch.tensor(v, dtype=torch.bfloat16, requires_grad=True) for v in (1.0, 20.0))
    box_density(gentle_boxes(1, 3, torch.float32), SIZE, (4, 6), a, b).square().sum().backward()
    assert a.grad.dtype == b.grad.dtype == torch.bfloat16
    assert a.grad != 0
    assert b.grad != 0


# --- bad input --------------------------------------------------------------------------------------------------------


NAN = float("nan")


@backends
@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"boxes": torch.zeros(2, 3, 5)}, FastwarpError, r"boxes is of shape \[2, 3, 5\], expected \[B, N, 4\]"),
        ({"boxes": torch.tensor([[[0.0] * 4], [[0.0, NAN, 1.0, 1.0]]])}, FastwarpError, "image 1 are NaN or infinite"),
        ({"boxes": torch.tensor([[[0.0, 2.0, 1.0, 1.0]]])}, FastwarpError, "image 0 are inverted"),
        ({"counts": torch.tensor([1])}, FastwarpError, r"counts is of shape \[1\], expected \[2\], one per image"),
        ({"counts": torch.tensor([1.0, 1.0])}, TypeError, "counts has dtype float32, expected int32, int64"),
        ({"boxes": torch.zeros(3, 4), "counts": torch.tensor([1])}, FastwarpError, "none but with padded boxes"),
        ({"amplitude": torch.tensor([1.0, -1.0])}, FastwarpError, "amplitude is negative, infinite or NaN in places"),
        ({"amplitude": torch.tensor([1.0, NAN])}, FastwarpError, "amplitude is negative, infinite or NaN in places"),
        (
            {"amplitude": torch.tensor([1.0, float("inf")])},
            FastwarpError,
            "amplitude is negative, infinite or NaN in places",
        ),
        ({"bandwidth": torch.tensor(1e-40)}, FastwarpError, "bandwidth is not positive and finite in places"),
        ({"bandwidth": torch.tensor(float("inf"))}, FastwarpError, "bandwidth is not positive and finite in places"),
        ({"boxes": torch.full((2, 3, 4), 1e31)}, FastwarpError, "image 0 are NaN or infinite in places, .* most 1e30"),
        ({"amplitude": torch.ones(3)}, FastwarpError, r"amplitude is of shape \[3\], expected .* one or \[2\]"),
        ({"amplitude": torch.tensor(1)}, TypeError, "amplitude is torch.int64, expected a number or a floating-point"),
        ({"amplitude": "1"}, TypeError, "amplitude is str"),
        ({"bandwidth": torch.tensor(0.0)}, FastwarpError, "bandwidth is not positive and finite in places"),
        ({"bandwidth": NAN}, FastwarpError, "bandwidth is nan, expected a number of pixels from 1e-30"),
        ({"fwhm": 0.0}, FastwarpError, "fwhm is 0.0"),
    ],
)
def test_bad_input(backend, arguments, error, words):
    with fastwarp.backend(backend), pytest.raises(error, match=words) as caught:
        box_knots(**{"boxes": torch.zeros(2, 3, 4), "image_size": SIZE, **arguments})
    assert str(caught.value).startswith("box_knots: ")
