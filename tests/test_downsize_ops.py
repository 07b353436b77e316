"""Contracts of the ops `downsize` and `downsize_backward`: torch's rules for ops, derivatives, transforms, threads."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from helpers import assert_bitwise, run_python, strange_strides

import fastwarp
from fastwarp.reference import downsize as reference

OPS = torch.ops.fastwarp
MODES = ("sigmoid", "softmax", "signed")

dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])


def arguments(
    size: tuple[int, int] = (7, 6),
    target: tuple[int, int] = (4, 3),
    layers: int = 2,
    normalise: str = "sigmoid",
    dtype: torch.dtype = torch.float64,
    taps: str = "bilinear",
    batch: int = 2,
    width: int = 3,
    last: bool = False,
    texture_gradient: bool = True,
) -> list[Any]:
    """Arguments of `downsize`, every tensor with a gradient that can have one."""
    torch.manual_seed(0)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    y, x = (reference.project(a, b, taps) for a, b in zip(size, target, strict=True))
    v = reference.encode(reference.relative_distance(y, x), "exact", normalise)
    layout = torch.channels_last if last else torch.contiguous_format
    image = torch.rand(batch, 3, *size).to(dtype).contiguous(memory_format=layout)
    widths = [3] + [width] * layers
    weights = [torch.randn(b, a, 3, 3, dtype=real) / 3 for a, b in itertools.pairwise(widths)]
    biases = [torch.randn(len(w), dtype=real) / 3 for w in weights]
    texture = torch.randn(len(v), widths[-1] if layers else 0, dtype=real)
    by_distance = torch.eye(len(v), dtype=real) + torch.randn(len(v), len(v), dtype=real) / 50
    fuse = [torch.cat([texture, by_distance], 1), torch.randn(len(v), dtype=real) / 3]
    distances = torch.from_numpy(v).to(real).clone()
    for tensor in (image, *weights, *biases, *fuse, distances):
        tensor.requires_grad_()
    tables = [torch.from_numpy(t).int() for t in (y.taps, x.taps, y.anchors, x.anchors)]
    return [
        *(image, weights, biases, *fuse, distances, *tables),
        *([0.4, 0.5, 0.6], [2.0, 1.5, 0.5], normalise, texture_gradient),
    ]


def leaves(args: list[Any]) -> list[torch.Tensor]:
    return [args[0], *args[1], *args[2], *args[3:6]]


def with_leaves(args: list[Any], tensors: Any) -> list[Any]:
    image, *parameters = tensors
    layers = len(args[1])
    return [image, parameters[:layers], parameters[layers : 2 * layers], *parameters[2 * layers :], *args[6:]]


def gradients(args: list[Any], seed: int = 1) -> list[torch.Tensor]:
    result = OPS.downsize(*args)
    grad = torch.rand(result.shape, generator=torch.Generator().manual_seed(seed)).to(result)
    return [result, *torch.autograd.grad(result, leaves(args), grad, materialize_grads=True)]


# --- torch.library ----------------------------------------------------------------------------------------------------

CASES = {
    "no texture": {"texture_gradient": False},
    "no layers": {"layers": 0, "normalise": "signed"},
    "half": {"dtype": torch.bfloat16, "normalise": "softmax"},
}


@pytest.mark.parametrize("case", CASES)
def test_opcheck(case):
    args = arguments(**{"dtype": torch.float32, **CASES[case]})
    torch.library.opcheck(OPS.downsize.default, args)
    if torch.__version__ < (2, 7) and case in ("no texture", "half"):
        pytest.skip("torch 2.6 does not differentiate its convolutions twice where sizes are symbols")
    grad = torch.rand_like(OPS.downsize(*args)).requires_grad_()
    for needs in ((True, True, True), (True, False, False), (False, True, False), (False, False, True)):
        torch.library.opcheck(OPS.downsize_backward.default, (grad, *args, *needs))


# --- derivatives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("taps", ["bilinear", "area"])
@pytest.mark.parametrize("layers", [0, 1, 2])
@pytest.mark.parametrize("normalise", MODES)
def test_gradcheck_twice(normalise, layers, taps):
    args = arguments((5, 4), (3, 6), layers, normalise, taps=taps, width=2, batch=1)

    def function(*tensors: torch.Tensor) -> torch.Tensor:
        return OPS.downsize(*with_leaves(args, tensors))

    assert torch.autograd.gradcheck(function, leaves(args))
    assert torch.autograd.gradgradcheck(function, leaves(args), fast_mode=True)


def test_image_without_its_texture():
    """texture_gradient=False: only the image's own gradient is another, that of its pixels."""
    _, by_image, *others = gradients(arguments(texture_gradient=False))
    _, with_texture, *expected = gradients(arguments())
    torch.testing.assert_close(others, expected)
    assert not torch.allclose(by_image, with_texture)
    blind = arguments()
    with torch.no_grad():
        blind[3][:, :3] = 0  # the texture has no say: its way has no gradient
    torch.testing.assert_close(gradients(blind)[1], gradients([*blind[:-1], False])[1])


@pytest.mark.parametrize("need_image", [True, False])
def test_only_what_is_asked_for(need_image):
    args = arguments()
    expected = gradients(args)
    detached = with_leaves(args, [t.detach() for t in leaves(args)])
    wanted = detached[0] if need_image else detached[5]
    wanted.requires_grad_()
    result = OPS.downsize(*detached)
    grad = torch.rand(result.shape, generator=torch.Generator().manual_seed(1)).to(result)
    (by,) = torch.autograd.grad(result, [wanted], grad)
    torch.testing.assert_close(by, expected[1 if need_image else -1])


# --- forms ------------------------------------------------------------------------------------------------------------


@dtypes
@pytest.mark.parametrize("last", [False, True])
def test_result_is_like_the_image(dtype, last):
    result = gradients(arguments((21, 23), (9, 11), dtype=dtype, last=last))
    for tensor in result[:2]:
        assert tensor.dtype == dtype
        assert tensor.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    assert {t.dtype for t in result[2:]} == {torch.float64 if dtype == torch.float64 else torch.float32}


def test_strange_strides():
    args = arguments()
    expected = gradients(args)
    for name in ("slice", "steps", "transposed"):
        moved = [strange_strides(t)[name] if t.dim() > 1 else t.detach() for t in leaves(args)]
        strange = with_leaves(args, [t.requires_grad_() for t in moved])
        torch.testing.assert_close(gradients(strange), expected)


@dtypes
def test_no_images(dtype):
    result, *grads = gradients(arguments(batch=0, dtype=dtype))
    assert result.shape == (0, 3, 4, 3)
    assert all(not g.any() for g in grads)


def test_one_pixel():
    result, *grads = gradients(arguments((1, 1), (1, 1), layers=3))
    torch.testing.assert_close(result, arguments((1, 1), (1, 1))[0].detach())
    assert all(torch.isfinite(g).all() for g in grads)


def test_nan_stays_where_it_is_read():
    args = arguments((24, 24), (12, 12), layers=2, dtype=torch.float32)
    image = args[0].detach().clone()
    image[0, 1, 10, 10] = float("nan")
    bad = OPS.downsize(image, *args[1:])
    good = OPS.downsize(*args)
    near = torch.zeros(12, 12, dtype=torch.bool)
    near[3:8, 3:8] = True
    assert torch.isnan(bad[0, 1, 5, 5])
    torch.testing.assert_close(bad[0][:, ~near], good[0][:, ~near])
    torch.testing.assert_close(bad[1], good[1])


@pytest.mark.parametrize("kind", ["forward", "backward"])
@pytest.mark.parametrize("normalise", MODES)
def test_repeatable_with_any_number_of_threads(normalise, kind):
    args = arguments((150, 170), (80, 90), 3, normalise, torch.float32, width=16)
    call = gradients if kind == "backward" else lambda a: [OPS.downsize(*a)]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = call(args)
        assert all(t.any() for t in expected)
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            assert_bitwise(call(args), expected, f"{count} threads,")
    finally:
        torch.set_num_threads(threads)


def test_inputs_are_not_modified():
    args = arguments(dtype=torch.float32)
    copies, versions = [t.detach().clone() for t in leaves(args)], [t._version for t in leaves(args)]
    gradients(args)
    assert_bitwise([t.detach() for t in leaves(args)], copies)
    assert [t._version for t in leaves(args)] == versions


# --- transforms -------------------------------------------------------------------------------------------------------


def test_compile():
    args = arguments((21, 23), (9, 11), dtype=torch.float32)
    function = torch.compile(lambda *tensors: OPS.downsize(*with_leaves(args, tensors)) * 2, fullgraph=True)
    result = function(*leaves(args))
    result.sum().backward()
    by = [t.grad for t in leaves(args)]
    expected = 2 * OPS.downsize(*args)
    torch.testing.assert_close(result, expected)
    for ours, theirs in zip(by, torch.autograd.grad(expected.sum(), leaves(args)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_vmap_over_images():
    args = arguments()
    images = torch.rand(4, *args[0].shape, dtype=torch.float64)
    result = torch.func.vmap(lambda i: OPS.downsize(i, *args[1:]))(images)
    for image, one in zip(images, result, strict=True):
        torch.testing.assert_close(OPS.downsize(image, *args[1:]), one)
    moved = torch.func.vmap(lambda i: OPS.downsize(i, *args[1:]), 2)(images.movedim(0, 2))
    torch.testing.assert_close(moved, result)


def test_vmap_over_networks():
    """An ensemble: every network has weights of its own."""
    args = arguments()
    several = [torch.stack([t.detach(), 2 * t.detach()]) for t in leaves(args)[1:]]

    def one(*parameters: torch.Tensor) -> torch.Tensor:
        return OPS.downsize(*with_leaves(args, (args[0], *parameters)))

    result = torch.func.vmap(one)(*several)
    for i in range(2):
        torch.testing.assert_close(result[i], one(*(t[i] for t in several)))


def test_vmap_of_a_gradient():
    args = arguments()
    result = OPS.downsize(*args)
    vectors = torch.rand(3, *result.shape, dtype=torch.float64)

    def product(vector: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(result, leaves(args), vector, retain_graph=True)

    together = torch.func.vmap(product)(vectors)
    for i, vector in enumerate(vectors):
        for ours, theirs in zip(together, product(vector), strict=True):
            torch.testing.assert_close(ours[i], theirs)


def test_the_forward_saves_nothing_of_its_own():
    args = arguments((64, 64), (32, 32), dtype=torch.float32)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        OPS.downsize(*args)
    given = {t.data_ptr() for t in [*leaves(args), *args[6:10]]}
    assert kept
    assert {t.data_ptr() for t in kept} <= given


def test_reference_backend_serves_gradients():
    args = arguments(dtype=torch.float32)
    expected = gradients(args)
    with fastwarp.backend("reference"):
        for ours, theirs in zip(gradients(args), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


TOGETHER = """
import threading, torch, test_downsize_ops as t
args = t.arguments((150, 170), (80, 90), 3, dtype=torch.float32, width=16)
expected = t.gradients(args)
wrong = []
def work():
    for _ in range(3):
        wrong.extend(1 for a, b in zip(t.gradients(args), expected) if not torch.equal(a, b))
threads = [threading.Thread(target=work) for _ in range(4)]
[x.start() for x in threads]; [x.join() for x in threads]
assert not wrong
"""


def test_two_threads_of_python_at_once():
    run_python(TOGETHER)
