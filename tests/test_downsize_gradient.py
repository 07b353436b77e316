"""`downsize_backward` on CPUs against the float64 reference: every gradient, every option, across the seams of tiles,
and what its sums may depend on: neither a second run nor the number of threads.

Images, weights and biases are multiples of 1/8 and few: activations are exact in float32, and no rounding decides on
which side of a ReLU they are.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
from helpers import assert_bitwise, assert_near, run_python, strange_strides
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerances import EPS32, assert_close_to, errors

from fastwarp.kernels.cpu import downsize as kernels
from fastwarp.kernels.layout import memory_format
from fastwarp.reference import downsize as reference

pytestmark = pytest.mark.usefixtures("poisoned_results")

some = settings(deadline=None, max_examples=60)

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
MODES = ("sigmoid", "softmax", "signed")

dtypes = pytest.mark.parametrize("dtype", FLOATS, ids=NAMES.get)
modes = pytest.mark.parametrize("mode", MODES)


def eighths(random: np.random.Generator, *shape: int, low: int = -2, high: int = 3) -> np.ndarray:
    return random.integers(low, high, shape) / 8


def random_axis(random: np.random.Generator, source: int, target: int, taps: int) -> tuple[np.ndarray, np.ndarray]:
    """Taps and anchors that never decrease and have nothing to do with each other."""
    read = np.sort(np.sort(random.integers(0, source, (target, taps)), 1), 0)
    return read, np.sort(random.integers(0, source, target))


def projected(source: int, target: int, taps: str) -> tuple[np.ndarray, np.ndarray]:
    axis = reference.project(source, target, taps)
    return axis.taps, axis.anchors


def case(
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    batch: int = 2,
    channels: int = 3,
    features: tuple[int, ...] = (16, 16, 16),
    dtype: torch.dtype = torch.float32,
    taps: str = "bilinear",
    seed: int = 0,
) -> list[Any]:
    """Arguments of `downsize_backward` up to `scale`; taps "random" have three columns and two rows."""
    random = np.random.default_rng(seed)
    if taps == "random":
        (rows, down), (columns, right) = (
            random_axis(random, *sides, n) for sides, n in zip(zip(source, target, strict=True), (2, 3), strict=True)
        )
    else:
        (rows, down), (columns, right) = (projected(*sides, taps) for sides in zip(source, target, strict=True))
    count = rows.shape[1] * columns.shape[1]
    widths = (channels, *features)
    weights, biases = [], []
    for before, after in zip(widths, features, strict=False):
        weight = eighths(random, after, before, 3, 3)
        # Few, so that activations stay small enough to be exact.
        weights.append(weight * (random.random(weight.shape) < 4 / (9 * before) + 0.05))
        biases.append(eighths(random, after))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    parameters = [
        [torch.from_numpy(w).to(wide) for w in weights],
        [torch.from_numpy(b).to(wide) for b in biases],
        torch.from_numpy(eighths(random, count, features[-1] if features else 0)).to(wide),
        torch.from_numpy(random.normal(size=(count, *target))).to(wide),
    ]
    tables = [torch.from_numpy(np.ascontiguousarray(t)).int() for t in (rows, columns, down, right)]
    return [
        torch.from_numpy(random.normal(size=(batch, channels, *target))).to(dtype),
        torch.from_numpy(eighths(random, batch, channels, *source, low=0, high=9)).to(dtype),
        *parameters,
        *tables,
        [0.5] * channels,
        [2.0, 0.5, 1.0, *[2.0] * channels][:channels],
    ]


def arrays(args: Any) -> Any:
    if isinstance(args, torch.Tensor):
        return (args.double() if args.is_floating_point() else args).numpy()
    return [arrays(a) for a in args] if isinstance(args, list) else args


def expected(args: list[Any], mode: str, texture_gradient: bool) -> list[np.ndarray]:
    image, weights, biases, texture, logits = reference.downsize_backward(*arrays(args), mode, texture_gradient)
    return [image, *weights, *biases, texture, logits]


def backward(args: list[Any], mode: str = "sigmoid", texture: bool = True, image: bool = True, parameters: bool = True):
    return kernels.downsize_backward(*args, mode, texture, image, parameters)


def check(args: list[Any], mode: str = "sigmoid", texture_gradient: bool = True) -> None:
    """All gradients, against the reference's."""
    got, right = backward(args, mode, texture_gradient), expected(args, mode, texture_gradient)
    grad, image, dtype = args[0], args[1], args[1].dtype
    term = float(grad.abs().max() * image.abs().max()) * image.shape[1] if grad.numel() else 0.0
    assert len(got) == len(right)
    assert got[0].dtype == dtype
    assert memory_format(got[0]) == memory_format(image)
    for i, (value, array) in enumerate(zip(got, right, strict=True)):
        terms = 0.0 if dtype.itemsize == 2 and not i else term
        assert_close_to(array, value, value.dtype, "downsize_grad", terms, f"gradient {i} of {len(got)}")


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of few rows and columns and few images at a time: seams everywhere."""
    for name, value in {"_COLUMNS": 7, "_ROWS": 6, "_LEAST_ROWS": 3, "_COEFFICIENTS": 900}.items():
        monkeypatch.setattr(kernels, name, value)


sides = st.sampled_from((1, 2, 3, 5, 8, 13, 17, 24))
feature_lists = st.lists(st.sampled_from((1, 3, 8, 16, 17)), max_size=5).map(tuple)


def given_cases(test):
    return given(
        source=st.tuples(sides, sides),
        target=st.tuples(sides, sides),
        channels=st.sampled_from((1, 3, 3, 6)),
        features=feature_lists,
        taps=st.sampled_from(("bilinear", "bicubic", "area", "random")),
        mode=st.sampled_from(MODES),
        texture_gradient=st.booleans(),
        layout=st.sampled_from(own.LAYOUTS),
        dtype=st.sampled_from((torch.float32, torch.float64)),
        seed=own.seeds,
    )(test)


def check_laid_out(layout: str, mode: str, texture_gradient: bool, **options: Any) -> None:
    args = case(options.pop("source"), options.pop("target"), **options)
    args[1] = own.laid_out(args[1], layout)
    check(args, mode, texture_gradient)


@some
@given_cases
def test_gradients_are_those_of_the_reference(layout, mode, texture_gradient, **options):
    check_laid_out(layout, mode, texture_gradient, **options)


@settings(some, suppress_health_check=[HealthCheck.function_scoped_fixture])  # the tiles are those of all examples
@given_cases
def test_tiles_have_no_seams(small_tiles, layout, mode, texture_gradient, **options):
    check_laid_out(layout, mode, texture_gradient, **options)


@dtypes
@modes
def test_every_dtype(dtype, mode):
    check(case((23, 31), (12, 17), dtype=dtype), mode)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=NAMES.get)
def test_both_ways_to_the_image_are_rounded_once(dtype):
    args = case((23, 31), (12, 17), dtype=dtype)
    args[4] *= 8  # so that neither way is small
    right = torch.from_numpy(expected(args, "sigmoid", True)[0]).to(dtype)
    assert (backward(args)[0] == right).float().mean() > 0.99


@dtypes
@pytest.mark.parametrize("layers", range(6))
def test_any_number_of_layers(layers, dtype):
    check(case((23, 31), (12, 17), features=(16,) * layers, dtype=dtype))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((400, 700), (13, 31)),
        ((230, 390), (120, 201)),
        ((60, 700), (90, 710)),
        ((1, 900), (1, 300)),
        ((900, 1), (300, 1)),
    ],
)
def test_tiles_of_full_size(source, target):
    check(case(source, target, features=(4, 3), dtype=torch.float64, batch=3))


@pytest.mark.parametrize("channels", [33, 256])
def test_maps_of_many_channels(channels):
    check(case((9, 11), (5, 6), channels=channels, features=(16, 40)))


def test_sums_of_many_pixels_keep_their_precision():
    """The first layer's weights see a million pixels of one sign: float32 adds up few rows of a tile at a time."""
    args = case((1000, 1000), (500, 500), features=(2,), channels=1, batch=1)
    args[0] = args[0].abs() + 1
    args[2][0].fill_(0.125)
    _, largest = errors(expected(args, "sigmoid", False)[1], backward(args)[1], torch.float32, "downsize_grad")
    assert largest < 2.5 * EPS32


@pytest.mark.parametrize("texture_gradient", [False, True])
@pytest.mark.parametrize("features", [(), (16, 16, 16)], ids=["no layers", "three"])
def test_only_what_is_needed(features, texture_gradient):
    args = case((23, 31), (12, 17), features=features)
    image, *parameters = backward(args, texture=texture_gradient)
    only, *none = backward(args, texture=texture_gradient, parameters=False)
    assert_near([only], [image])
    nothing, *others = backward(args, texture=texture_gradient, image=False)
    assert_near(others, parameters)
    for empty in (*none, nothing):
        assert empty.shape == (0,)
    assert [n.dtype for n in none] == [p.dtype for p in parameters]
    assert [n.shape for n in backward(args, image=False, parameters=False)] == [(0,)] * (1 + len(parameters))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=NAMES.get)
def test_strides_change_nothing(dtype):
    args = case((23, 31), (12, 17), dtype=dtype)
    plain = backward(args)
    grads, images = strange_strides(args[0]), strange_strides(args[1])
    for layout in grads:
        changed = [grads[layout], images[layout], *args[2:]]
        changed[2] = [strange_strides(w)[layout] for w in args[2]]
        changed[3] = [torch.stack([b, b], 1)[:, 1] for b in args[3]]
        changed[4] = args[4].T.contiguous().T
        changed[5] = strange_strides(args[5])["transposed"]
        assert_bitwise(backward(changed), plain, layout)
    args[0] = args[0][:1, :, :1, :1].expand_as(args[0])
    assert_bitwise(backward(args), backward([args[0].contiguous(), *args[1:]]))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("batch", [1, 3, 20])
def test_sums_do_not_depend_on_run_or_threads(batch, layout):
    args = case((150, 340), (81, 170), batch=batch, features=(16, 16))
    args[1] = own.laid_out(args[1], layout)
    first = backward(args)
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        assert_bitwise(backward(args), first, f"{threads} threads")


def test_an_empty_batch_has_gradients_of_zero():
    args = case((9, 11), (5, 6), batch=0)
    image, *parameters = backward(args)
    assert image.shape == args[1].shape
    for grad, like in zip(parameters, [*args[2], *args[3], *args[4:6]], strict=True):
        assert_bitwise([grad], [torch.zeros_like(like)])


def test_what_nobody_reads_stays_out():
    """At a tenth of the size, most pixels are within no convolution that is evaluated."""
    args = case((60, 80), (6, 8), features=(16,), batch=1)
    right = backward(args)
    seen = torch.zeros(60, 80, dtype=torch.bool)
    for y in args[8].tolist():
        for x in args[9].tolist():
            seen[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2] = True
    assert not seen.all()
    args[1] = torch.where(seen, args[1], float("nan"))
    assert_bitwise(backward(args), right)


@modes
def test_nan_comes_through(mode):
    args = case((23, 31), (12, 17), batch=1)
    args[1][0, 1, 8, 9] = float("nan")
    image, *parameters = backward(args, mode)
    assert all(p.isnan().any() for p in parameters)
    assert image[..., 2:15, 3:16].isnan().any()
    assert image[..., 16:, 17:].isfinite().all()


def test_scores_far_out_have_no_overflow():
    for level in (-200.0, 200.0):
        args = case((23, 31), (12, 17))
        args[5] += level
        check(args)


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="needs Linux's peak counter of a process")
@pytest.mark.parametrize(("source", "target", "batch"), [((1200, 1920), (600, 960), 1), ((300, 300), (160, 160), 16)])
def test_working_memory_is_a_twentieth_of_what_autograd_keeps(source, target, batch):
    """Beside the results, in a process of its own; autograd keeps three maps of 16 channels, and more."""
    script = f"""
import ctypes
import gc
from pathlib import Path
import torch
import test_downsize_gradient as t

def memory(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

torch.set_num_threads(2)
t.backward(t.case((20, 20), (10, 10), batch=1))
args = t.case({source}, {target}, batch={batch})
gc.collect()
ctypes.CDLL(None).malloc_trim(0)  # what is free already would hide what is taken
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
results = t.backward(args)
print(memory("VmHWM") - before, sum(r.nbytes for r in results))
"""
    taken, results = map(int, run_python(script).split())
    maps = 3 * 16 * batch * source[0] * source[1] * 4
    assert results < taken < results + maps / 20
