"""DownsizeNet's forward pass on CPUs against the float64 reference: layers evaluated only where they are needed."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import strategies as own
import torch
import torch.nn.functional as F
from helpers import assert_bitwise
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close_to
from torch import Tensor

from fastwarp.kernels.cpu import downsize as kernels
from fastwarp.reference import downsize as reference

pytestmark = pytest.mark.usefixtures("poisoned_results")

some = settings(deadline=None, max_examples=60)

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
MODES = ("sigmoid", "softmax", "signed")
TAPS = ("bilinear", "bicubic", "area")

all_floats = pytest.mark.parametrize("dtype", FLOATS, ids=["fp64", "fp32", "fp16", "bf16"])
two_floats = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["fp64", "fp32"])
modes = pytest.mark.parametrize("normalise", MODES)


def tables(
    source: tuple[int, int], target: tuple[int, int], taps: str, encoding: str, normalise: str, align: bool = False
) -> tuple[list[Tensor], np.ndarray]:
    """rows, columns, anchor_rows and anchor_columns, and the encoded distances `[K, h, w]`."""
    y, x = (reference.project(a, b, taps, align) for a, b in zip(source, target, strict=True))
    v = reference.encode(reference.relative_distance(y, x), encoding, normalise)
    return [torch.from_numpy(t).int() for t in (y.taps, x.taps, y.anchors, x.anchors)], v


def network(seed: int, widths: list[int], taps: int, real: torch.dtype) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Weights, biases and texture of layers of `widths` channels, the image's first, that keep their values' size."""
    random = np.random.default_rng(seed)
    weights = [random.normal(size=(b, a, 3, 3)) / np.sqrt(4.5 * a) for a, b in itertools.pairwise(widths)]
    biases = [random.normal(size=b) / 3 for b in widths[1:]]
    last = widths[-1] if len(widths) > 1 else 0
    texture = random.normal(size=(taps, last)) / np.sqrt(max(last, 1))

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(real)

    return [tensor(w) for w in weights], [tensor(b) for b in biases], tensor(texture)


def arguments(
    source: tuple[int, int] = (20, 19),
    target: tuple[int, int] = (11, 10),
    widths: tuple[int, ...] = (16, 16, 16),
    normalise: str = "sigmoid",
    dtype: torch.dtype = torch.float32,
    taps: str = "bilinear",
    batch: int = 2,
    channels: int = 3,
    layout: str = "contiguous",
    seed: int = 0,
    align: bool = False,
) -> list[Any]:
    places, v = tables(source, target, taps, "exact", normalise, align)
    real = torch.float64 if dtype == torch.float64 else torch.float32
    image = own.laid_out(own.values(seed, (batch, channels, *source), dtype), layout)
    random = np.random.default_rng(seed + 1)
    return [
        *(image, *network(seed + 2, [channels, *widths], len(v), real), torch.from_numpy(v).to(real), *places),
        *(random.normal(size=channels).tolist(), random.uniform(0.5, 2, channels).tolist(), normalise),
    ]


def expected(args: list[Any]) -> np.ndarray:
    def array(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.double().numpy() if value.is_floating_point() else value.numpy()
        return [array(v) for v in value] if isinstance(value, list) else value

    return reference.downsize(*map(array, args))


def check(args: list[Any]) -> Tensor:
    """Compares the result with the reference; errors are relative to the image, which coefficients multiply."""
    image, dtype = args[0], args[0].dtype
    result, right = kernels.downsize(*args), expected(args)
    assert result.dtype == dtype
    nhwc = image.stride(1) == 1 and image.shape[1] > 1 and not image.is_contiguous()
    assert result.is_contiguous(memory_format=torch.channels_last if nhwc else torch.contiguous_format)
    largest = image.double().abs().nan_to_num(0, 0, 0).max().item() if image.numel() else 0
    assert_close_to(right, result, dtype, "downsized", largest)
    return result


# --- against the reference --------------------------------------------------------------------------------------------


@all_floats
@some
@given(data=st.data(), seed=own.seeds)
def test_against_reference(dtype, data, seed):
    check(
        arguments(
            *(data.draw(own.shapes), data.draw(own.shapes)),
            tuple(data.draw(st.lists(st.sampled_from((1, 3, 16, 17)), max_size=4))),
            *(data.draw(st.sampled_from(MODES)), dtype, data.draw(st.sampled_from(TAPS))),
            *(data.draw(st.integers(1, 3)), data.draw(st.sampled_from((1, 2, 3, 4, 5)))),
            *(data.draw(own.layouts), seed),
        )
    )


@two_floats
@pytest.mark.parametrize("layers", range(6))
@pytest.mark.parametrize("size", [(3, 5), (17, 44), (40, 90), (61, 200)])
def test_every_number_of_layers(dtype, layers, size):
    """Ratios past 3, 5, ... per axis leave gaps in one more layer each."""
    check(arguments((61, 131), size, (16,) * layers, dtype=dtype))


@two_floats
@pytest.mark.parametrize(("source", "target"), [((9, 700), (5, 600)), ((9, 1500), (5, 700)), ((5, 300), (6, 1100))])
def test_several_strips(dtype, source, target):
    for taps in ("bilinear", "bicubic"):
        check(arguments(source, target, dtype=dtype, taps=taps, batch=1))


@pytest.mark.parametrize("target", [(1, 1), (1, 70), (3, 2)])
def test_large_footprints(target):
    """So many taps that few targets' coefficients are made at a time."""
    check(arguments((90, 140), target, (5,), taps="area", batch=1))


@two_floats
@pytest.mark.parametrize("widths", [(64,), (16, 40), (33, 2, 70)])
@pytest.mark.parametrize("channels", [3, 40, 256])
def test_many_channels(dtype, channels, widths):
    check(arguments((15, 17), (9, 8), widths, dtype=dtype, channels=channels, batch=1))


@modes
@two_floats
@some
@given(data=st.data(), seed=own.seeds)
def test_any_tables(dtype, normalise, data, seed):
    """Taps and anchors anywhere, as long as they do not decrease; logits of any size."""
    source, target = data.draw(own.shapes), data.draw(own.shapes)
    taps = [data.draw(st.sampled_from((1, 2, 3, 5))) for _ in range(2)]
    random = np.random.default_rng(seed)

    def sorted_places(n: int, *shape: int) -> Tensor:
        places = np.sort(random.integers(0, n, (*shape, 1))[..., 0], 0)
        return torch.from_numpy(np.sort(places, -1)).int()

    args = arguments(source, target, (16, 5), normalise, dtype, seed=seed)
    args[5:7] = [sorted_places(n, m, k) for n, m, k in zip(source, target, taps, strict=True)]
    args[7:9] = [sorted_places(n, m) for n, m in zip(source, target, strict=True)]
    count = taps[0] * taps[1]
    args[3] = torch.from_numpy(random.normal(size=(count, 5)) / 3).to(args[3].dtype)
    size = 1 / count if normalise == "signed" else data.draw(st.sampled_from((1, 20, 300)))
    args[4] = torch.from_numpy(random.normal(size=(count, *target)) * size).to(args[4].dtype)
    args[3] *= size if size <= 1 else 0  # of what is large, only the rounding would be measured
    check(args)


@two_floats
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("taps", ["bilinear", "bicubic"])
def test_start_is_interpolation(dtype, taps, align):
    """Without texture, the signed coefficients of the weights themselves are F.interpolate's."""
    args = arguments((31, 40), (14, 53), normalise="signed", dtype=dtype, taps=taps, align=align)
    args[3] = torch.zeros_like(args[3])
    right = F.interpolate(args[0].double(), (14, 53), mode=taps, align_corners=align)
    assert_close_to(right.numpy(), kernels.downsize(*args), dtype, "downsized", 2 * args[0].abs().max().item())


@all_floats
@pytest.mark.parametrize("normalise", ["sigmoid", "softmax"])
def test_constants_stay(dtype, normalise):
    args = arguments((40, 37), (21, 18), normalise=normalise, dtype=dtype)
    args[0] = torch.full_like(args[0], 3)
    distinct = kernels.downsize(*args).unique()
    assert_close_to(np.full(len(distinct), 3.0), distinct, dtype, "downsized")


# --- numbers that are none --------------------------------------------------------------------------------------------


@two_floats
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(("source", "target"), [((40, 60), (9, 11)), ((40, 60), (33, 40)), ((9, 11), (20, 25))])
@pytest.mark.parametrize("widths", [(), (3,), (5, 5), (16, 16, 16)])
def test_bad_pixels_stay_where_they_are(dtype, bad, source, target, widths):
    """NaN for exactly the targets that have it in the reference, infinities included."""
    for place in ((0, 0), (17 % source[0], 23 % source[1]), (source[0] - 1, source[1] - 1)):
        args = arguments(source, target, widths, dtype=dtype)
        clean = kernels.downsize(*args)
        args[0][1, 2, place[0], place[1]] = bad
        with np.errstate(invalid="ignore"):
            result = check(args)
        assert_bitwise([result[0]], [clean[0]])
        assert torch.isfinite(result[1]).any()


@two_floats
def test_pixels_between_are_not_read(dtype):
    args = arguments((90, 90), (9, 9), (16, 16), dtype=dtype)
    clean = kernels.downsize(*args)
    near = torch.zeros(90, 90, dtype=torch.bool)
    rows, columns = ({p + d for p in args[i].tolist() for d in range(-2, 4)} for i in (7, 8))
    for r in rows:
        near[r, list(columns)] = True
    assert near.double().mean() < 0.5
    args[0] = args[0].masked_fill(~near, float("nan"))
    assert_bitwise([kernels.downsize(*args)], [clean])


@two_floats
@pytest.mark.parametrize("normalise", ["sigmoid", "softmax"])
def test_extreme_logits(dtype, normalise):
    args = arguments((8, 9), (5, 60), (), normalise, dtype)
    random = np.random.default_rng(0)
    values = [0.0, -0.0, 1e-30, -1e-30, 80.0, -80.0, 1000.0, -1000.0, 1e30, -1e30, float("-inf")]
    logits = random.choice(values, args[4].shape)
    logits[0] = random.normal(size=logits[0].shape)  # not all of them are minus infinity
    logits[2, 1, 7] = float("nan")
    if normalise == "sigmoid":
        logits[3, 2, 4] = float("inf")
    args[4] = torch.from_numpy(logits).to(args[4].dtype)
    with np.errstate(over="ignore", under="ignore"):
        result = check(args)
    assert torch.isnan(result).sum() == 6


@two_floats
def test_coefficients_of_small_differences(dtype):
    """The exponential in all of its range: one pixel of 1 among zeros shows a coefficient, relative to itself."""
    args = arguments((2, 2), (1, 1), (), "softmax", dtype, batch=1, channels=1)
    args[0] = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=dtype)[None, None]
    args[5:9] = [
        *(torch.tensor([[0, 1]]).int(), torch.tensor([[0, 1]]).int().expand(500, 2)),
        *(torch.zeros(1).int(), torch.zeros(500).int()),
    ]
    z = torch.linspace(-85 if dtype == torch.float32 else -700, 0, 500, dtype=dtype)
    args[4] = torch.stack([torch.zeros_like(z), z, torch.full_like(z, -1e4), torch.full_like(z, -1e4)])[:, None]
    right = torch.exp(z.double())
    relative = (kernels.downsize(*args)[0, 0, 0].double() * (1 + right) / right - 1).abs().max().item()
    assert relative < 4 * torch.finfo(dtype).eps


# --- memory, threads, nothing -----------------------------------------------------------------------------------------


@all_floats
@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("layout", own.LAYOUTS)
def test_layouts_agree(dtype, layout, channels):
    args = arguments((21, 34), (12, 25), dtype=dtype, channels=channels)
    image = own.laid_out(args[0], layout)
    plain = kernels.downsize(image.clone(memory_format=torch.contiguous_format), *args[1:])
    assert_bitwise([kernels.downsize(image, *args[1:])], [plain])


def test_parameters_in_any_memory():
    args = arguments((21, 34), (12, 25))
    strange = [
        *(args[0], [w.mT.contiguous().mT for w in args[1]], [torch.stack([b, b], 1)[:, 0] for b in args[2]]),
        *(t.mT.contiguous().mT for t in args[3:7]),
        *(torch.stack([t, t], 1)[:, 1] for t in args[7:9]),
        *args[9:],
    ]
    assert not any(t.is_contiguous() for t in (*strange[1], *strange[2], *strange[3:9]))
    assert_bitwise([kernels.downsize(*strange)], [kernels.downsize(*args)])


@two_floats
def test_threads_change_nothing(dtype):
    args = arguments((150, 170), (80, 91), dtype=dtype, batch=3)
    right = kernels.downsize(*args)
    for threads in (1, 3, 7):
        torch.set_num_threads(threads)
        assert_bitwise([kernels.downsize(*args)], [right], f"{threads} threads")
    torch.set_num_threads(2)
    check(args)


@all_floats
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nothing_to_do(dtype, layout):
    args = arguments(dtype=dtype)
    args[0] = own.laid_out(args[0][:0], layout)
    assert kernels.downsize(*args).shape == (0, 3, 11, 10)


# --- the distances' half of the 1x1 convolution -----------------------------------------------------------------------


@two_floats
@pytest.mark.parametrize("shape", [(4, 4, 70, 90), (9, 7, 5, 3), (4, 0, 2, 2), (1, 3, 1, 1), (16, 16, 40, 60)])
def test_distance_logits(dtype, shape):
    """Of one block of targets and of several, with a remainder."""
    taps, inputs, *size = shape
    random = np.random.default_rng(0)
    arrays = [random.normal(size=s) for s in ((inputs, *size), (taps, inputs), (taps,), (taps, *size))]
    distances, weight, bias, grad = (torch.from_numpy(a).to(dtype) for a in arrays)
    arrays = [t.double().numpy() for t in (distances, weight, bias, grad)]
    terms = float(np.abs(arrays[0]).max(initial=1) * np.abs(arrays[1]).sum(1).max(initial=1) + np.abs(arrays[2]).max())
    result = kernels.logits(distances, weight, bias)
    assert_close_to(reference.distance_logits(*arrays[:3]), result, dtype, "downsized", terms)
    by_distances, *by = kernels.logits_backward(grad, distances, weight, True)
    expected, *sums = reference.distance_logits_backward(arrays[3], *arrays[:2])
    assert_close_to(expected, by_distances, dtype, "downsized", float(np.abs(arrays[3]).sum(0).max() * 4))
    for ours, theirs in zip(by, sums, strict=True):
        assert_close_to(theirs, ours, dtype, "downsized", 4 * taps * size[0] * size[1] ** 0.5)
    without, *others = kernels.logits_backward(grad, distances, weight, False)
    assert not without.numel()
    assert_bitwise(others, by)


def test_distance_logits_with_any_number_of_threads():
    torch.manual_seed(0)
    distances, weight, bias, grad = (torch.randn(s) for s in ((4, 300, 310), (4, 4), (4,), (4, 300, 310)))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            one = kernels.logits(distances, weight, bias), *kernels.logits_backward(grad, distances, weight, True)
            results.append([t.clone() for t in one])
    finally:
        torch.set_num_threads(threads)
    for one in results[1:]:
        assert_bitwise(one, results[0])
