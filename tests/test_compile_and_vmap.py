"""torch.compile, torch.export, torch.vmap and autocast, of all kinds of warps."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as TF
from helpers import (
    assert_bitwise,
    assert_near,
    forward_backward,
    random_knots,
    random_mesh,
    random_warp,
    tensors,
    warp_of,
    with_geometry,
)
from torch.utils import _pytree as pytree

from fastwarp import MeshWarp, SeparableWarp
from fastwarp import functional as F
from fastwarp.nn import Unzoom, Zoom

CLASSES = (SeparableWarp, MeshWarp)

both_classes = pytest.mark.parametrize("kind", CLASSES)


def stacked(rows):
    """The results of single calls as those of one over all of them."""
    return [torch.stack(column) for column in zip(*rows, strict=True)]


# --- compile and export -----------------------------------------------------------------------------------------------


def adaptive_pyramid(kind, saliency, image):
    warp = kind.from_saliency(saliency, 5.0)
    small = warp.zoom(image, (image.shape[2] // 2, image.shape[3] // 2))
    maps = warp.unzoom([small, TF.avg_pool2d(small, 2), TF.avg_pool2d(small, 4)], antialias=True)
    points = warp.zoom_points(image[:, 0, :4, :2] * 9, (16, 20), (8, 10))
    boxes = warp.unzoom_boxes(image[:, 0, :3, :4].cumsum(2), (16, 20), (8, 10))
    return warp, points, boxes, warp.magnification((4, 5)), *maps, warp.unzoom(small)


# The inductor generates C++, for which a user needs a compiler; its graph comes from the same tracing.
@pytest.mark.parametrize(("kind", "backend"), list(zip(CLASSES, ("inductor", "aot_eager"), strict=True)))
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_path_equals_eager(dynamic, kind, backend):
    torch.compiler.reset()
    compiled = torch.compile(adaptive_pyramid, fullgraph=True, dynamic=dynamic, backend=backend)
    for height, width in ((24, 32), (40, 28)) if dynamic else ((24, 32),):
        inputs = [torch.rand(2, 5, 7).requires_grad_(), torch.rand(2, 3, height, width).requires_grad_()]
        assert isinstance(compiled(kind, *inputs)[0], kind)
        got, expected = (
            forward_backward(lambda *i, function=f: function(kind, *i), inputs) for f in (compiled, adaptive_pyramid)
        )
        assert_near(got, expected)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.separable_zoom(x, *[torch.eye(2).cumsum(1)] * 2, (4, 5)),
        lambda x: F.box_density(x[:, 0, :3, :4].cumsum(2), (16, 20), (4, 5), torch.full((2,), 3.0)),
    ],
    ids=["knots", "amplitude"],
)
def test_batches_that_are_symbols_fit_those_that_are_numbers(function):
    torch.compiler.reset()
    image = torch.rand(2, 3, 6, 7)
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    assert_near([compiled(image)], [function(image)])


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


# --- vmap -------------------------------------------------------------------------------------------------------------


def test_vmap_of_separable_functions_equals_a_loop():
    image, warps = torch.rand(3, 2, 4, 9, 8), [random_warp(2) for _ in range(3)]
    y, x = (torch.stack([getattr(w, k) for w in warps]) for k in ("knots_y", "knots_x"))

    def zoom(i, y, x):
        return F.separable_zoom(i, y, x, (5, 6)), F.separable_unzoom([i, i[:, :, ::2]], y, x, antialias=True)

    def loop(i, y, x, dims):
        pick = lambda t, d, k: t if d is None else t.select(d, k)  # noqa: E731
        return stacked(tensors(zoom(*(pick(t, d, k) for t, d in zip((i, y, x), dims, strict=True)))) for k in range(3))

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


@both_classes
def test_vmap_of_adaptive_warps_equals_a_loop(kind):
    saliency, image = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 1, 8, 9)
    points, frame = torch.rand(3, 2, 6, 2) * 8, torch.randint(0, 256, (3, 2, 8, 9, 3), dtype=torch.uint8)

    def adaptive(s, i, p, f):
        warp = kind.from_saliency(s, 3.0)
        small = warp.zoom(i, (4, 5), antialias=True)
        there = warp.zoom_points(p, (8, 9), (4, 5)), warp.zoom_boxes(p.flatten(1).unflatten(1, (3, 4)), (8, 9), (4, 5))
        frames = warp.zoom_frame(f, (3, 3)), warp.zoom_frame(f, (3, 3), antialias=True)
        maps = warp.unzoom([small, small[:, :, ::2]], antialias=True), warp.unzoom(small, padding_mode="border")
        cdf = SeparableWarp.from_cdf(s[:, 0], s[:, :, 0])
        return *there, *frames, *maps, warp.inverse_grid((5, 4)), warp.magnification((5, 4)), cdf

    inputs = (saliency, image, points, frame)
    for dims in ((0, 0, 0, 0), (0, None, None, 0), (None, 0, 0, None)):
        given = [i if d == 0 else i[0] for i, d in zip(inputs, dims, strict=True)]
        got = tensors(torch.vmap(adaptive, in_dims=dims)(*given))
        picked = [[i[k] if d == 0 else i[0] for i, d in zip(inputs, dims, strict=True)] for k in range(3)]
        assert_near(got, stacked(tensors(adaptive(*row)) for row in picked), f"in_dims={dims}")


@both_classes
def test_vmap_maps_warps(kind):
    saliency, image = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 1, 8, 9)
    warps = kind.from_saliency(saliency.flatten(0, 1))
    parts = pytree.tree_map(lambda k: k.unflatten(0, (3, 2)), warps)
    got = torch.vmap(lambda w, i: w.zoom(i, (4, 5)))(parts, image)
    assert_near([got.flatten(0, 1)], [warps.zoom(image.flatten(0, 1), (4, 5))])
    got = torch.vmap(kind.from_saliency)(saliency)
    assert_near([t.flatten(0, 1) for t in tensors(got)], tensors(warps))


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


def assert_cotangents_equal_a_loop(function, inputs):
    """The vector-Jacobian products of several vectors at once, torch.vmap over torch.autograd.grad."""
    leaves = [i.clone().requires_grad_() for i in inputs]
    out = function(*leaves)
    cotangents = torch.rand(4, *out.shape)

    def product(cotangent):
        return torch.autograd.grad(out, leaves, cotangent, retain_graph=True)

    assert_near(torch.vmap(product)(cotangents), stacked(product(c) for c in cotangents))


VALID = torch.tensor([[4, 3], [3, 4]])
FRAME = torch.randint(0, 256, (2, 6, 7, 3), dtype=torch.uint8)

RESAMPLED = {
    "zoom": lambda w, i: w.zoom(i, (5, 6)),
    "unzoom": lambda w, i: w.unzoom(i, valid=VALID),
    "unzoom antialias": lambda w, i: w.unzoom(i, (5, 6), antialias=True),
    "frame": lambda w, _: w.zoom_frame(FRAME, (3, 4)),
}


@pytest.mark.parametrize("name", RESAMPLED)
@pytest.mark.parametrize("kind", ["separable", "homography"])
def test_batched_cotangents_of_resampling(name, kind):
    image, warp = torch.rand(2, 2, 6, 7), warp_of(kind, 2, ends=(0.073, 0.931))
    geometry = tensors(warp)
    function = lambda i, *g: RESAMPLED[name](with_geometry(warp, g), i)  # noqa: E731
    if name == "frame":
        assert_cotangents_equal_a_loop(lambda *g: function(image, *g), geometry)
    else:
        assert_cotangents_equal_a_loop(function, [image, *geometry])
    assert_cotangents_equal_a_loop(lambda *g: function(image, *g), [g[:1] for g in geometry])  # one warp for all


def test_batched_cotangents_of_maps():
    mesh = random_mesh(2, ends=(0.073, 0.931))
    assert_cotangents_equal_a_loop(lambda m, p: F.mesh_map(m, p, inverse=True), [mesh, torch.rand(1, 9, 2)])
    assert_cotangents_equal_a_loop(lambda s: F.lz_knots(s)[1], [torch.rand(2, 4, 5) + 0.1])
    assert_cotangents_equal_a_loop(lambda s: F.lz_mesh(s), [torch.rand(2, 4, 5) + 0.1])


def test_vmapped_gradient_of_shared_knots_is_summed_over_the_batch():
    """Called by itself: in a backward pass autograd would add up what the rule left apart."""
    knots, grads = torch.linspace(0, 1, 5)[None] ** 2, torch.rand(3, 2, 2, 7)

    def gradient(grad):
        return torch.ops.fastwarp.axis_windows_backward(
            grad, knots, knots, [3, 4], [8, 9], False, False, False, None, None
        )

    assert_near(torch.vmap(gradient)(grads), stacked(map(gradient, grads)))


# --- autocast ---------------------------------------------------------------------------------------------------------


@both_classes
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
