"""Triton kernels of the `downsize` family: against the reference (on a GPU, else in Triton's interpreter)."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from gpu_helpers import (
    DEVICE,
    array,
    interpreter,
    on_device,
    poisoned_memory,  # noqa: F401
    run,
)
from helpers import assert_bitwise
from tolerances import assert_close_to

from fastwarp.kernels.layout import memory_format
from fastwarp.reference import downsize as reference

with interpreter():
    from fastwarp.kernels.gpu import (
        _downsize_conv,
        _downsize_cost,
        _downsize_gradient,
        _downsize_image,
        _downsize_layers,
        _downsize_targets,
        downsize,
    )

pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning"), *([pytest.mark.gpu] if DEVICE == "cuda" else [])]

F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
MODES = ("sigmoid", "softmax", "signed")

dtypes = pytest.mark.parametrize("dtype", [F64, F32, F16, BF16], ids=["fp64", "fp32", "fp16", "bf16"])
exact = pytest.mark.parametrize("dtype", [F64, F32], ids=["fp64", "fp32"])
modes = pytest.mark.parametrize("mode", MODES)


def case(
    size=(13, 17),
    target=(6, 8),
    features=(16, 16),
    taps="bilinear",
    dtype=F32,
    batch=2,
    channels=3,
    last=False,
    seed=0,
):
    """Arguments of `downsize` up to `scale`.

    Biases are so large that every activation is far from 0, on the one side or the other: no rounding opens or
    closes a ReLU. Taps "random" are two rows and three columns anywhere, with anchors anywhere.
    """
    random = np.random.default_rng(seed)
    real = F64 if dtype == F64 else F32
    if taps == "random":
        read = [
            np.sort(np.sort(random.integers(0, n, (m, k)), 1), 0) for n, m, k in zip(size, target, (2, 3), strict=True)
        ]
        tables = [*read, *(np.sort(random.integers(0, n, m)) for n, m in zip(size, target, strict=True))]
    else:
        y, x = (reference.project(a, b, taps) for a, b in zip(size, target, strict=True))
        tables = [y.taps, x.taps, y.anchors, x.anchors]
    count = tables[0].shape[1] * tables[1].shape[1]
    weights, biases, bound = [], [], 1.0
    for before, after in pairwise([channels, *features]):
        weight = random.uniform(-1, 1, (after, before, 3, 3))
        weights.append(weight / np.abs(weight).sum((1, 2, 3), keepdims=True) / bound)
        biases.append(random.choice([-1.5, 1.5, 2], after))
        bound = 3.0
    image = torch.from_numpy(random.uniform(0, 1, (batch, channels, *size))).to(dtype)
    if last:
        image = image.contiguous(memory_format=torch.channels_last)
    return [
        image,
        [torch.from_numpy(w).to(real) for w in weights],
        [torch.from_numpy(b).to(real) for b in biases],
        torch.from_numpy(random.normal(size=(count, features[-1] if features else 0)) / 3).to(real),
        torch.from_numpy(random.normal(size=(count, *target))).to(real),
        *(torch.from_numpy(np.ascontiguousarray(t)).int() for t in tables),
        [0.5] * channels if channels > 20 else np.linspace(0.2, 0.6, channels).tolist(),
        [2.0] * channels if channels > 20 else np.linspace(2, 1, channels).tolist(),
    ]


def assert_near(value, right, dtype, term=0.0, name="", quantity="downsize_products"):
    assert_close_to(right, value, dtype, quantity, term, name)


def check_forward(args, mode="sigmoid"):
    image = args[0]
    result = run(downsize.downsize, *args, mode)
    assert result.dtype == image.dtype
    assert memory_format(result) == memory_format(image)
    assert_near(result, reference.downsize(*map(array, args), mode), image.dtype, largest(image))
    return result


def check_backward(args, mode="sigmoid", texture_gradient=True):
    image = args[0]
    shape = (*image.shape[:2], *args[4].shape[1:])
    grad = torch.from_numpy(np.random.default_rng(9).normal(size=shape)).to(image.dtype)
    got = run(downsize.downsize_backward, grad, *args, mode, texture_gradient, True, True)
    first, *others = reference.downsize_backward(*map(array, (grad, *args)), mode, texture_gradient)
    right = [first, *others[0], *others[1], *others[2:]]
    assert memory_format(got[0]) == memory_format(image)
    term = largest(image) * largest(grad) * (mode != "signed")  # differences of the products in a target
    assert [g.dtype for g in got[1:]] == [args[4].dtype] * (len(got) - 1)
    for i, (value, wanted) in enumerate(zip(got, right, strict=True)):
        assert_near(value, wanted, image.dtype, term if i else 0.0, f"gradient {i} of {len(got)}", "downsize_gradients")
    return got


def largest(t):
    return t.double().abs().nan_to_num(0, 0, 0).max().item() if t.numel() else 0.0


@pytest.fixture
def choose(monkeypatch):
    """Decides in the cost model's place."""
    return lambda selected: monkeypatch.setattr(_downsize_cost, "selects", lambda sizes: selected)


# --- against the reference --------------------------------------------------------------------------------------------

CASES = {
    "no layers": {"features": ()},
    "one layer": {"features": (16,), "taps": "bicubic"},
    "three layers": {"features": (16, 16, 16)},
    "odd features": {"features": (5, 20), "channels": 1},
    "area": {"taps": "area", "last": True},
    "upsizing": {"size": (5, 7), "target": (9, 16)},
    "random": {"taps": "random", "size": (9, 11), "target": (8, 7), "channels": 2},
    "many channels": {"channels": 40, "features": (16,), "last": True, "size": (6, 7), "target": (4, 5)},
    "many features": {"features": (20, 40), "size": (6, 7), "target": (5, 4), "batch": 1},
    "one pixel": {"size": (1, 1), "target": (2, 3)},
    "two pixels": {"size": (2, 1), "target": (1, 1)},
}


@dtypes
@pytest.mark.parametrize("name", CASES)
def test_forward(name, dtype, choose):
    args = case(**CASES[name], dtype=dtype)
    choose(False)
    dense = check_forward(args, MODES[len(name) % 3])
    choose(True)
    selected = check_forward(args, MODES[len(name) % 3])
    if len(args[1]) < 2:
        assert_bitwise([dense], [selected])


@dtypes
@pytest.mark.parametrize("name", CASES)
def test_backward(name, dtype):
    check_backward(case(**CASES[name], dtype=dtype), MODES[(len(name) + 1) % 3], texture_gradient=len(name) % 2 == 0)


@modes
@exact
def test_modes(mode, dtype):
    args = case(dtype=dtype, features=(3, 16))
    check_forward(args, mode)
    check_backward(args, mode)
    check_backward(args, mode, texture_gradient=False)


@exact
def test_relu(dtype):
    """Without large biases: activations of all sizes."""
    args = case(dtype=dtype, features=(16, 16))
    args[1] = [w * 8 for w in args[1]]
    args[2] = [b / 10 for b in args[2]]
    check_forward(args)
    check_backward(args)


@modes
def test_more_taps_than_registers(mode):
    args = case((61, 33), (4, 2), (3,), "area", F64, batch=1, channels=2)  # 17 times 18 of them
    assert len(args[4]) > 128
    check_forward(args, mode)
    check_backward(args, mode)


def test_many_blocks(monkeypatch, choose):
    """Blocks as on a GPU: several of each kind, the last ones in part outside."""
    for module in (_downsize_conv, _downsize_image, _downsize_layers, _downsize_targets):
        monkeypatch.setattr(module, "INTERPRETED", False)
    for module, name in ((_downsize_conv, "_tiles"), (_downsize_targets, "tile"), (_downsize_gradient, "tile")):
        monkeypatch.setattr(module, name, getattr(module, name).__wrapped__)
    args = case((9, 37), (5, 31), (3, 16), dtype=F32, batch=1)
    for selected in (False, True):
        choose(selected)
        check_forward(args)
    check_backward(args)


def test_wide_layers(monkeypatch):
    """More features than a block of a layer has."""
    monkeypatch.setattr(_downsize_layers, "PROGRAMS", 64)
    args = case((6, 7), (4, 3), (70, 16), dtype=F64, channels=40)
    args[9] = np.linspace(0, 1, 40).tolist()  # too many for a kernel's arguments
    args[10] = np.linspace(1, 3, 40).tolist()
    check_forward(args)
    check_backward(args)


@exact
def test_strides(dtype):
    args = case(dtype=dtype, channels=4)
    strange = args[0].transpose(1, 3).contiguous().transpose(1, 3)[:, :, ::2]
    short = case((7, 17), (3, 8), dtype=dtype, channels=4)
    short[0] = strange
    short[1] = [w.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2) for w in short[1]]
    short[3] = short[3].mT.contiguous().mT
    short[4] = short[4].permute(2, 1, 0).contiguous().permute(2, 1, 0)
    check_forward(short)
    check_backward(short)


# --- what is asked for ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_only_what_is_needed(layers):
    args = on_device(case(features=(16,) * layers))
    grad = torch.rand(2, 3, 6, 8).to(args[0])
    every = downsize.downsize_backward(grad, *args, "sigmoid", True, True, True)
    image = downsize.downsize_backward(grad, *args, "sigmoid", True, True, False)
    assert_bitwise([every[0]], [image[0]])
    assert [t.numel() for t in image[1:]] == [0] * (len(every) - 1)
    parameters = downsize.downsize_backward(grad, *args, "sigmoid", True, False, True)
    assert parameters[0].numel() == 0
    assert_bitwise(every[1:], parameters[1:])
    nothing = downsize.downsize_backward(grad, *args, "sigmoid", True, False, False)
    assert [t.numel() for t in nothing] == [0] * len(every)


def test_empty_batch():
    args = case()
    args[0] = args[0][:0]
    result = run(downsize.downsize, *args, "sigmoid")
    assert result.shape == (0, 3, 6, 8)
    got = run(downsize.downsize_backward, result, *args, "sigmoid", True, True, True)
    assert [g.shape for g in got] == [t.shape for t in (args[0], *args[1], *args[2], args[3], args[4])]
    assert all((g == 0).all() for g in got)


# --- numbers that are none, and large ones ----------------------------------------------------------------------------


@pytest.mark.parametrize("selected", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_nan_stays_where_it_is_read(layers, selected, choose):
    choose(selected)
    args = case((40, 40), (9, 9), (16,) * layers)
    args[0][1, 2, 20, 19] = float("nan")
    lost = check_forward(args).isnan()
    assert lost.any()
    assert not lost.all()


def test_gradients_of_nan_stay_where_they_are_read():
    args = case((40, 40), (9, 9), ())
    args[0][1, 2, 20, 19] = float("nan")
    grad = torch.rand(2, 3, 9, 9)
    grad[0, 1, 3, 4] = float("nan")
    got = run(downsize.downsize_backward, grad, *args, "sigmoid", True, True, True)
    right = reference.downsize_backward(*map(array, (grad, *args)), "sigmoid", True)
    for value, wanted in ((got[0], right[0]), (got[-1], right[-1])):
        assert_near(value, wanted, F32)
        assert 0 < value.isnan().sum() < value.numel()


@exact
@pytest.mark.parametrize("mode", ["sigmoid", "softmax"])
@pytest.mark.parametrize("level", [-1000.0, -80.0, 80.0, 1000.0])
def test_extreme_logits(level, mode, dtype):
    args = case(dtype=dtype, features=())
    args[4] += level
    args[4][:, 2] *= 3
    check_forward(args, mode)
    result = check_backward(args, mode)
    assert all(t.isfinite().all() for t in result)


def test_infinite_features():
    """A layer that overflows: products with what pads a block would be NaN."""
    args = case(features=(3,), dtype=F16)
    args[2][0][:] = float("inf")
    args[3] = torch.ones_like(args[3])
    result = run(downsize.downsize, *args, "sigmoid")
    assert result.isfinite().all()


# --- choice -----------------------------------------------------------------------------------------------------------


def sizes(ratio, channels=3, batch=1, dtype=BF16):
    return _downsize_cost.Sizes(batch, channels, 16, 16, 10**6, int(10**6 * ratio**2), dtype)


def test_cost_model():
    """Few targets are evaluated one by one, many are not; where they are is a matter of the channels below."""
    for channels in (3, 16):
        for dtype in (F16, BF16, F32, F64):
            chosen = [_downsize_cost.selects(sizes(ratio, channels, dtype=dtype)) for ratio in np.linspace(0.05, 3, 60)]
            assert chosen[0]
            assert not chosen[-1]
            assert sorted(chosen, reverse=True) == chosen, "there is one ratio below which it pays"
    assert _downsize_cost.selects(sizes(0.5, 3))
    assert not _downsize_cost.selects(sizes(0.5, 16))
    assert not _downsize_cost.selects(sizes(0.05, 64)), "too many registers"


# --- GPUs -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_graph_capture():
    """Nothing waits for the GPU, and nothing depends on what the tensors hold."""
    args = on_device(case(dtype=F16))
    grad = torch.rand(2, 3, 6, 8).to(args[0])

    def everything():
        return [
            downsize.downsize(*args, "sigmoid"),
            *downsize.downsize_backward(grad, *args, "sigmoid", True, True, True),
        ]

    everything()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = everything()
    args[0].copy_(on_device(case(dtype=F16, seed=1))[0])
    graph.replay()
    assert_bitwise(results, everything())


@exact
@pytest.mark.parametrize("shape", [(4, 4, 70, 90), (9, 7, 5, 3), (4, 0, 2, 2), (1, 3, 1, 1)])
def test_distance_logits(shape, dtype):
    taps, inputs, *size = shape
    random = np.random.default_rng(0)
    arrays = [random.normal(size=s) for s in ((inputs, *size), (taps, inputs), (taps,), (taps, *size))]
    distances, weight, bias, grad = (torch.from_numpy(a).to(dtype) for a in arrays)
    arrays = [array(t) for t in (distances, weight, bias, grad)]
    results = [
        run(downsize.logits, distances, weight, bias),
        *run(downsize.logits_backward, grad, distances, weight, True),
    ]
    expected = [
        reference.distance_logits(*arrays[:3]),
        *reference.distance_logits_backward(arrays[3], *arrays[:2]),
    ]
    for ours, theirs in zip(results, expected, strict=True):
        assert_near(ours, theirs, dtype, 4.0 * taps * (1 + inputs))
    without, *others = run(downsize.logits_backward, grad, distances, weight, False)
    assert not without.numel()
    assert_bitwise(others, results[2:])
