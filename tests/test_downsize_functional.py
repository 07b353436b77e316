"""fastwarp.functional.downsize, relative_distance and downsize_boxes: geometry, starts, the formula."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as TF
from downsize_function_cases import DTYPES, named, network, start_error, waves
from helpers import assert_bitwise, forward_backward
from hypothesis import given, settings
from hypothesis import strategies as st

from fastwarp import functional as F
from fastwarp.functional import _downsize_tables as tables

SMALLEST = 1e-6


# --- what is computed, independently ----------------------------------------------------------------------------------


def position(q: int, D: int, d: int, align_corners: bool) -> Fraction:
    if align_corners:
        return Fraction(q * (D - 1), d - 1) if d > 1 else Fraction(0)
    return Fraction(2 * q + 1, 2) * Fraction(D, d) - Fraction(1, 2)


def cubic(x: Fraction) -> Fraction:
    x, a = abs(x), Fraction(-3, 4)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else Fraction(0)


def axis_by_fractions(D: int, d: int, taps: str, n: int, align_corners: bool) -> tuple[list, list, list, list]:
    """Taps, anchors, offsets and weights of one axis."""
    found = [[], [], [], []]
    for q in range(d):
        p = position(q, D, d, align_corners)
        inside = min(max(p, Fraction(0)), Fraction(D - 1))
        anchor = min(math.floor(inside), max(D - 2, 0))
        offset = inside - anchor
        if taps == "bilinear":
            at, weights = [anchor, anchor + 1], [1 - offset, offset]
        elif taps == "bicubic":
            floor = math.floor(p)
            anchor, offset = min(max(floor, 0), max(D - 2, 0)), p - floor
            at = [floor - 1 + i for i in range(4)]
            weights = [cubic(p - t) for t in at]
        else:
            low, high = Fraction(q * D, d), Fraction((q + 1) * D, d)
            at = [math.floor(low) + i for i in range(n)]
            weights = [max(min(high, t + 1) - max(low, t), 0) * Fraction(d, D) for t in at]
        found[0].append([min(max(t, 0), D - 1) for t in at])
        found[1].append(anchor)
        found[2].append(float(offset))
        found[3].append([float(w) for w in weights])
    return tuple(found)


@settings(max_examples=200, deadline=None)
@given(
    D=st.integers(1, 50),
    d=st.integers(1, 50),
    taps=st.sampled_from(["bilinear", "bicubic", "area"]),
    align_corners=st.booleans(),
)
def test_tables_are_exact(D, d, taps, align_corners):
    align_corners = align_corners and taps != "area"
    at = tables.geometry("test", (D, 7), (d, 3), taps, None, align_corners)
    rows, _ = tables.axes(at, torch.device("cpu"), False)
    n = tables.shape(at)[0]
    places, anchors, offsets, weights = axis_by_fractions(D, d, taps, n, align_corners)
    assert rows.taps.tolist() == places
    assert rows.anchor.tolist() == anchors
    torch.testing.assert_close(rows.offset, torch.tensor(offsets, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(rows.weights, torch.tensor(weights, dtype=torch.float64), rtol=0, atol=1e-14)
    for table in (rows.taps, rows.anchor):
        assert table.dtype == torch.int32
        assert (table.diff(dim=0) >= 0).all()
    if taps == "area":
        assert any(row[-1] > 0 for row in weights), "more taps than needed"


def test_large_sizes_do_not_overflow():
    at = tables.geometry("test", (2**31 - 1, 2), (100_003, 2), "bilinear", None, False)
    rows, _ = tables.axes(at, torch.device("cpu"), False)
    q = 99_991
    exact = position(q, 2**31 - 1, 100_003, False)
    assert rows.anchor[q] == math.floor(exact)
    assert rows.offset[q].item() == pytest.approx(float(exact - math.floor(exact)), abs=1e-9)


def by_the_paper(
    image, weights, biases, fuse_weight, fuse_bias, size, taps, footprint, encoding, normalise, align_corners, mean, std
):
    """DownsizeNet section 3.1 in float64, target by target."""
    image = image.double()
    a = (image - torch.tensor(mean, dtype=torch.float64)[:, None, None]) / torch.tensor(std, dtype=torch.float64)[
        :, None, None
    ]
    for weight, bias in zip(weights, biases, strict=True):
        a = TF.relu(TF.conv2d(a, weight.double(), bias.double(), padding=1))
    rows = axis_by_fractions(image.shape[2], size[0], taps, footprint[0], align_corners)
    columns = axis_by_fractions(image.shape[3], size[1], taps, footprint[1], align_corners)
    result = image.new_empty(*image.shape[:2], *size)
    for r in range(size[0]):
        for q in range(size[1]):
            v = torch.tensor([y * x for y in rows[3][r] for x in columns[3][q]], dtype=torch.float64)
            if encoding == "exact" and normalise == "sigmoid":
                v = (v.clamp(SMALLEST, 1 - SMALLEST) / (1 - v.clamp(SMALLEST, 1 - SMALLEST))).log()
            elif encoding == "exact" and normalise == "softmax":
                v = v.clamp(SMALLEST, 1).log()
            elif callable(encoding):
                dx, dy = columns[2][q], rows[2][r]
                v = encoding(*(torch.tensor([[d]], dtype=torch.float64) for d in (dx, dy)))[:, 0, 0]
            elif encoding is None:
                v = v[:0]
            features = a[:, :, rows[1][r], columns[1][q]] if weights else image.new_zeros(len(image), 0)
            z = torch.cat([features, v.expand(len(image), -1)], 1) @ fuse_weight.double().T + fuse_bias.double()
            if normalise == "sigmoid":
                share = torch.sigmoid(z) / torch.sigmoid(z).sum(1, keepdim=True)
            elif normalise == "softmax":
                share = torch.softmax(z, 1)
            else:
                share = z + (1 - z.sum(1, keepdim=True)) / z.shape[1]
            pixels = torch.stack([image[:, :, y, x] for y in rows[0][r] for x in columns[0][q]], 2)
            result[:, :, r, q] = (pixels * share[:, None]).sum(2)
    return result


@pytest.mark.parametrize("layers", [0, 1, 3])
@pytest.mark.parametrize("normalise", ["sigmoid", "softmax", "signed"])
@pytest.mark.parametrize("encoding", ["exact", "raw", waves, None], ids=named)
@pytest.mark.parametrize(("taps", "align_corners"), [("bilinear", False), ("bilinear", True), ("area", False)])
def test_is_what_the_paper_says(layers, normalise, encoding, taps, align_corners):
    if layers == 0 and encoding is None:
        pytest.skip("nothing to compute weights from")
    image, size = torch.rand(2, 3, 9, 7), (4, 5)
    footprint = (3, 3) if taps == "area" else (2, 2)
    K = footprint[0] * footprint[1]
    distances = {None: 0, waves: 3}.get(encoding, K)
    args = network(layers, K, distances)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.5)
    options = {"taps": taps, "encoding": encoding, "normalise": normalise, "align_corners": align_corners}
    got = F.downsize(image, *args, size, footprint=footprint if taps == "area" else None, mean=mean, std=std, **options)
    expected = by_the_paper(image, *args, size, footprint=footprint, mean=mean, std=std, **options)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=3e-6 * args[2].abs().sum().item())
    # 1x1 convolutions' shape, float64 images, and the network's dtype.
    weights, biases, fuse_weight, fuse_bias = args
    double = F.downsize(
        image.double(),
        [w.double() for w in weights],
        [b.double() for b in biases],
        fuse_weight.double()[:, :, None, None],
        fuse_bias.double(),
        size,
        footprint=footprint if taps == "area" else None,
        mean=mean,
        std=std,
        **options,
    )
    assert double.dtype == torch.float64
    torch.testing.assert_close(double, expected, rtol=1e-9, atol=1e-9)


# --- starts -----------------------------------------------------------------------------------------------------------

SIZES = [((13, 17), (6, 9)), ((13, 17), (13, 17)), ((12, 16), (24, 31)), ((1, 5), (3, 1)), ((30, 8), (7, 20))]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("source", "size"), SIZES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("normalise", ["sigmoid", "softmax", "signed"])
def test_starts_as_bilinear(dtype, source, size, align_corners, normalise):
    image = torch.rand(2, 3, *source).to(dtype)
    weights, biases, _, _ = network(2)
    fuse = torch.cat([torch.zeros(4, 5), torch.eye(4)], 1)
    got = F.downsize(image, weights, biases, fuse, None, size, normalise=normalise, align_corners=align_corners)
    expected = TF.interpolate(image.double(), size, mode="bilinear", align_corners=align_corners)
    assert start_error(image, got, expected) < (1e-6 if normalise == "signed" else 5e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("source", "size"), SIZES)
@pytest.mark.parametrize("align_corners", [False, True])
def test_starts_as_bicubic(dtype, source, size, align_corners):
    image = torch.rand(2, 3, *source).to(dtype)
    options = {"taps": "bicubic", "normalise": "signed", "align_corners": align_corners}
    got = F.downsize(image, [], [], torch.eye(16), torch.zeros(16), size, **options)
    expected = TF.interpolate(image.double(), size, mode="bicubic", align_corners=align_corners)
    assert start_error(image, got, expected) < 2e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("footprint", [None, (5, 3)])
@pytest.mark.parametrize("normalise", ["sigmoid", "softmax", "signed"])
def test_starts_as_area(dtype, footprint, normalise):
    image, size = torch.rand(2, 3, 12, 10).to(dtype), (3, 5)
    K = 15 if footprint else 8
    got = F.downsize(image, [], [], torch.eye(K), None, size, taps="area", footprint=footprint, normalise=normalise)
    expected = TF.adaptive_avg_pool2d(image.double(), size)
    assert start_error(image, got, expected) < 1e-6 * (1 + K)


def test_the_result_stays_in_the_range_of_the_image():
    image = torch.rand(2, 3, 20, 20)
    for normalise in ("sigmoid", "softmax"):
        weights, biases, fuse_weight, fuse_bias = network(3)
        small = F.downsize(image, weights, biases, 20 * fuse_weight, fuse_bias, (9, 11), normalise=normalise)
        assert small.min() >= image.min() - 1e-6
        assert small.max() <= image.max() + 1e-6
        # The same weights for all channels: a grey image stays grey.
        grey = F.downsize(image[:, :1].expand(-1, 3, -1, -1), weights, biases, fuse_weight, fuse_bias, (9, 11))
        assert_bitwise([grey[:, 0]], [grey[:, 2]])


def test_relative_distance_is_the_papers():
    v = F.relative_distance((5, 7), (11, 12), dtype=torch.float64)
    dy = torch.tensor([float(position(q, 11, 5, False)) % 1 for q in range(5)], dtype=torch.float64)[:, None]
    dx = torch.tensor([float(position(q, 12, 7, False)) % 1 for q in range(7)], dtype=torch.float64)[None]
    expected = torch.stack([(1 - dx) * (1 - dy), dx * (1 - dy), (1 - dx) * dy, dx * dy])
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-14)
    for taps in ("bilinear", "bicubic", "area"):
        v = F.relative_distance((5, 7), (11, 3), taps=taps)
        assert v.dtype == torch.float32
        torch.testing.assert_close(v.sum(0), torch.ones(5, 7))
    assert F.relative_distance((5, 5), (11, 11), taps="area", footprint=6).shape == (36, 5, 5)
    assert F.relative_distance((2, 2), (4, 4), dtype=torch.float16).dtype == torch.float16


def test_without_distances_and_without_texture():
    image, (weights, biases, *_) = torch.rand(1, 3, 8, 8), network(2)
    uniform = F.downsize(image, weights, biases, torch.zeros(4, 5), None, (4, 4), encoding=None)
    torch.testing.assert_close(uniform, TF.avg_pool2d(image, 2))
    picked = F.downsize(image, [], [], torch.zeros(4, 4), torch.tensor([0, 0, 99.0, 0]), (4, 4), normalise="softmax")
    assert_bitwise([picked], [image[:, :, 1::2, ::2].contiguous()])


# --- differentiation, layouts, modes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("normalise", ["sigmoid", "softmax", "signed"])
@pytest.mark.parametrize("encoding", ["exact", "raw", None])
def test_gradcheck(normalise, encoding):
    args = network(1, 4, 0 if encoding is None else 4, channels=2, width=3, dtype=torch.float64)
    (weight,), (bias,), fuse_weight, fuse_bias = args
    inputs = [torch.rand(1, 2, 5, 4, dtype=torch.float64), weight, bias, fuse_weight, fuse_bias]
    for tensor in inputs:
        tensor.requires_grad_()

    def function(image, weight, bias, fuse_weight, fuse_bias):
        options = {"normalise": normalise, "encoding": encoding, "mean": (0.1, 0.2), "std": (0.5, 2.0)}
        return F.downsize(image, [weight], [bias], fuse_weight, fuse_bias, (3, 2), **options)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_a_learned_encoding_learns():
    layer = torch.nn.Linear(2, 6)

    def encoding(dx, dy):
        return layer(torch.stack(torch.broadcast_tensors(dx, dy), -1)).relu().permute(2, 0, 1)

    image = torch.rand(1, 3, 8, 9)
    F.downsize(image, [], [], torch.randn(4, 6), None, (4, 5), encoding=encoding).square().sum().backward()
    assert layer.weight.grad.any()


def test_parameters_keep_their_dtype_and_get_gradients_of_it():
    image = torch.rand(1, 3, 8, 9, dtype=torch.float16)
    for dtype in DTYPES:
        weights, biases, fuse_weight, fuse_bias = network(2, dtype=torch.float32)
        parameters = [p.to(dtype).requires_grad_() for p in (*weights, *biases, fuse_weight, fuse_bias)]
        small = F.downsize(image, parameters[:2], parameters[2:4], *parameters[4:], (4, 5))
        assert small.dtype == torch.float16
        for gradient, parameter in zip(torch.autograd.grad(small.float().sum(), parameters), parameters, strict=True):
            assert gradient.dtype == parameter.dtype


@pytest.mark.parametrize("texture_gradient", [False, True])
def test_the_images_gradient_through_its_texture(texture_gradient):
    image, args = torch.rand(1, 3, 8, 9, requires_grad=True), network(1)
    (weight,), (bias,), fuse_weight, fuse_bias = args
    fuse_weight.requires_grad_()
    small = F.downsize(image, [weight], [bias], fuse_weight, fuse_bias, (4, 5), texture_gradient=texture_gradient)
    got = torch.autograd.grad(small.square().sum(), (image, fuse_weight))
    full = F.downsize(image, [weight], [bias], fuse_weight, fuse_bias, (4, 5))
    expected = torch.autograd.grad(full.square().sum(), (image, fuse_weight))
    torch.testing.assert_close(got[1], expected[1])
    assert torch.allclose(got[0], expected[0]) == texture_gradient


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_autocast_changes_nothing(dtype):
    image = torch.rand(2, 3, 11, 12).to(dtype).requires_grad_()
    weights, biases, fuse_weight, fuse_bias = network(2)
    fuse_weight.requires_grad_()
    boxes = [torch.tensor([[1.0, 2.0, 9.0, 8.0]])] * 2

    def function(image, fuse_weight):
        small = F.downsize(image, weights, biases, fuse_weight, fuse_bias, (5, 6))
        return small, F.downsize_boxes(image, boxes, weights, biases, fuse_weight, fuse_bias, (2, 3))

    def autocast(image, fuse_weight):
        with torch.autocast("cpu", torch.bfloat16):
            return function(image, fuse_weight)

    inputs = (image, fuse_weight)
    assert_bitwise(forward_backward(autocast, inputs), forward_backward(function, inputs))


def test_layouts():
    image, args = torch.rand(2, 6, 11, 12), network(2, channels=6)
    expected = F.downsize(image, *args, (5, 6))
    last = F.downsize(image.to(memory_format=torch.channels_last), *args, (5, 6))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, expected)
    strided = torch.rand(2, 6, 11, 24)[..., ::2].copy_(image)
    torch.testing.assert_close(F.downsize(strided, *args, (5, 6)), expected)
    assert F.downsize(image[:0], *args, (5, 6)).shape == (0, 6, 5, 6)


@pytest.mark.parametrize(
    "options", [{}, {"taps": "area", "footprint": 4}, {"encoding": waves}, {"encoding": None}], ids=named
)
def test_compile(options):
    torch._dynamo.reset()
    taps = 16 if "taps" in options else 4
    distances = {None: 0, waves: 3}.get(options.get("encoding", "exact"), taps)
    args = network(1, taps, distances)
    args[2].requires_grad_()

    def function(image, fuse_weight):
        return F.downsize(image, args[0], args[1], fuse_weight, args[3], (8, 7), **options)

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for shape in ((2, 3, 17, 16), (1, 3, 19, 18)):
        inputs = (torch.rand(shape, requires_grad=True), args[2])
        torch.testing.assert_close(
            forward_backward(compiled, inputs), forward_backward(function, inputs), rtol=1e-5, atol=1e-6
        )


def test_compile_dynamic_sizes():
    torch._dynamo.reset()
    args = network(1)
    compiled = torch.compile(
        lambda image: F.downsize(image, *args, (image.shape[2] // 2, image.shape[3] - 1)),
        backend="aot_eager",
        fullgraph=True,
        dynamic=True,
    )
    for shape in ((2, 3, 17, 16), (3, 3, 21, 30)):
        image = torch.rand(shape)
        expected = F.downsize(image, *args, (shape[2] // 2, shape[3] - 1))
        torch.testing.assert_close(compiled(image), expected)


def test_vmap():
    images, args = torch.rand(3, 2, 3, 9, 8), network(1)
    got = torch.vmap(lambda image: F.downsize(image, *args, (4, 4)))(images)
    torch.testing.assert_close(got, torch.stack([F.downsize(image, *args, (4, 4)) for image in images]))


def test_tables_are_kept_but_nothing_that_could_hurt_later_calls():
    image, args = torch.rand(1, 3, 23, 29), network(1)

    def trained():
        fuse = args[2].clone().requires_grad_()
        return torch.autograd.grad(F.downsize(image, *args[:2], fuse, args[3], (7, 9)).sum(), fuse)[0]

    with torch.inference_mode():
        first = F.downsize(image, *args, (7, 9))
    kept = [list(table.latest.values()) for table in (tables._kept_axis, tables._kept_distances)]
    trained()  # needs tensors that autograd may save
    again = [list(table.latest.values()) for table in (tables._kept_axis, tables._kept_distances)]
    assert all(a is b for before, after in zip(kept, again, strict=True) for a, b in zip(before, after, strict=True))
    assert_bitwise([F.downsize(image, *args, (7, 9))], [first])
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = F.downsize(mode.from_tensor(torch.rand(1, 3, 31, 29)), *args, (7, 9))
        assert fake.shape == (1, 3, 7, 9)
    assert F.downsize(torch.rand(1, 3, 31, 29), *args, (7, 9)).isfinite().all()
    # Another encoding, activation or footprint is another map.
    others = [{"encoding": "raw"}, {"normalise": "softmax"}, {"align_corners": True}]
    results = [F.downsize(image, *args, (7, 9), **options) for options in others]
    assert not any(torch.equal(result, first) for result in results)


def test_captured_graphs_read_the_tables_of_earlier_calls(monkeypatch):
    """And those outlive the limit of tables that are kept: a graph reads their addresses at every replay."""
    image, args = torch.rand(1, 3, 22, 28), network(1)
    expected = F.downsize(image, *args, (7, 9))
    monkeypatch.setattr(tables, "_capturing", lambda device: True)
    monkeypatch.setattr(tables._kept_axis, "make", lambda *key: pytest.fail("makes a table in the graph"))
    monkeypatch.setattr(tables._kept_distances, "make", lambda *key: pytest.fail("makes distances in the graph"))
    assert_bitwise([F.downsize(image, *args, (7, 9))], [expected])
    monkeypatch.undo()
    before = tables._kept_distances.of_graphs.copy()
    for width in range(10, 16):
        F.downsize(image, *args, (7, width))
    assert not any(key[0].size == (7, 9) for _, key in tables._kept_distances.latest)
    assert any(key[0].size == (7, 9) for key in before)
    monkeypatch.setattr(tables, "_capturing", lambda device: True)
    F.downsize(image, *args, (7, 9))
    assert all(tables._kept_distances.of_graphs[key] is value for key, value in before.items())
    # What no call has made before is made in the graph, and not kept.
    F.downsize(image, *args, (6, 5))
    assert not any(key[0].size == (6, 5) for key in tables._kept_distances.of_graphs)
