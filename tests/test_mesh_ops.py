"""Gradients and transforms of mesh warps; what both kinds of warps share is in `test_ops`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as TF
from helpers import (
    assert_bitwise,
    assert_near,
    forward_backward,
    random_mesh,
    tensors,
)
from torch.utils import _pytree as pytree

from fastwarp import MeshWarp
from fastwarp import functional as F

CROPPING = (0.073, 0.931)


# --- sizes at their limits --------------------------------------------------------------------------------------------


def test_empty_batch_of_everything_else():
    warp = MeshWarp.from_saliency(torch.rand(0, 4, 5))
    assert warp.mesh.shape == (0, 4, 5, 2)
    assert MeshWarp(random_mesh(1)).zoom_boxes(torch.rand(0, 4), (5, 5), (3, 3)).shape == (0, 4)
    assert MeshWarp(random_mesh(1)).zoom_corners(torch.rand(0, 4), (5, 5), (3, 3)).shape == (0, 4, 2)
    assert warp.grid((3, 4)).shape == (0, 3, 4, 2)
    assert warp.inside((3, 4)).shape == (0, 3, 4)
    assert warp.magnification((3, 4)).shape == (0, 3, 4)
    assert warp.zoom_frame(torch.zeros(0, 6, 6, 3, dtype=torch.uint8), (2, 2)).shape == (0, 3, 2, 2)
    assert warp.zoom_points(torch.rand(0, 3, 2), (5, 5), (3, 3)).shape == (0, 3, 2)
    assert warp.report().ok


# --- gradients --------------------------------------------------------------------------------------------------------


def leaf(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64).requires_grad_()


def inner_mesh(batch: int = 2) -> torch.Tensor:
    """Inside (0, 1): at 0 and 1 a clamp has a kink."""
    return random_mesh(batch, (3, 4), torch.float64, CROPPING).requires_grad_()


VALID, SOURCE_VALID = torch.tensor([[4, 3], [3, 4]]), torch.tensor([[5, 6], [4, 3]])

DIFFERENTIABLE = {
    "zoom": (lambda i, m, t: F.mesh_zoom(i, m, (4, 5), tile=t), 2),
    "zoom shared antialias": (lambda i, m, t: F.mesh_zoom(i, m, (3, 4), tile=t, antialias=True), 1),
    "zoom valid": (
        lambda i, m, t: F.mesh_zoom(i, m, (4, 5), tile=t, valid=VALID, source_valid=SOURCE_VALID),
        2,
    ),
    "unzoom": (lambda i, m, t: F.mesh_unzoom([i, i[:, :, :4]], m, [(5, 4), (3, 3)], tile=t), 2),
    "unzoom shared": (lambda i, m, t: F.mesh_unzoom(i, m, (5, 4), tile=t), 1),
    "unzoom antialias": (lambda i, m, t: F.mesh_unzoom(i, m, (3, 4), tile=t, antialias=True), 2),
    "unzoom antialias valid": (
        lambda i, m, t: F.mesh_unzoom(*(i, m, (4, 5)), tile=t, antialias=True, valid=VALID, source_valid=SOURCE_VALID),
        1,
    ),
}

tiles = pytest.mark.parametrize("tile", ["bilinear", "homography"])


@tiles
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_resampling(name, tile):
    function, batch = DIFFERENTIABLE[name]
    inputs = (leaf(2, 1, 5, 6), inner_mesh(batch))
    assert torch.autograd.gradcheck(lambda i, m: function(i, m, tile), inputs)
    assert torch.autograd.gradgradcheck(lambda i, m: function(i, m, tile), inputs, fast_mode=True)


@tiles
@pytest.mark.parametrize("size", [(1, 5), (6, 1), (1, 1)])
@pytest.mark.parametrize("extents", [None, [[1, 5], [6, 1]]])
def test_gradients_of_sources_with_one_row_or_column(size, tile, extents):
    """Their windows are 0 on that axis, which does not tell where in its tile a target is."""
    source_valid = None if extents is None else torch.tensor(extents)
    inputs = (inner_mesh(1), leaf(2, 2, *size))

    def unzoom(mesh, image):
        return F.mesh_unzoom(image, mesh, (5, 7), tile=tile, source_valid=source_valid)

    assert torch.autograd.gradcheck(unzoom, inputs)
    assert torch.autograd.gradgradcheck(unzoom, inputs, fast_mode=True)


@tiles
def test_gradients_of_filled_targets(tile):
    """What is outside has a gradient to the features that it reads, and none to the mesh."""
    image, mesh = leaf(2, 2, 5, 6), inner_mesh()

    def unzoom(image, mesh, padding_mode="border"):
        return F.mesh_unzoom(image, mesh, (7, 6), tile=tile, padding_mode=padding_mode)

    assert not F.mesh_inside(mesh, (7, 6)).all()
    assert torch.autograd.gradcheck(unzoom, (image, mesh.detach()))
    weight = torch.rand(2, 2, 7, 6, dtype=torch.float64)
    (grad,), (expected,) = (
        torch.autograd.grad((unzoom(image, mesh, padding_mode) * weight).sum(), mesh)
        for padding_mode in ("border", "zeros")
    )
    assert_bitwise([grad], [expected])


@tiles
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_of_points(inverse, batch, tile):
    points = (torch.rand(2, 7, 2, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()  # past the outline, too
    mesh = inner_mesh(batch)
    function = lambda m, p: F.mesh_map(m, p, inverse=inverse, tile=tile)  # noqa: E731
    assert torch.isfinite(function(mesh, points)).all()
    assert torch.autograd.gradcheck(function, (mesh, points))
    assert torch.autograd.gradgradcheck(function, (mesh, points))
    pixels = (torch.rand(2, 5, 2, dtype=torch.float64) * 9).requires_grad_()
    function = lambda p, m: F.mesh_map_points(p, m, (9, 8), (5, 4), inverse=inverse, tile=tile)  # noqa: E731
    assert torch.autograd.gradcheck(function, (pixels, mesh))


@tiles
def test_gradients_of_grid_magnification_and_camera(tile):
    mesh = inner_mesh()
    frame = torch.randint(0, 256, (2, 6, 7, 3), dtype=torch.uint8)
    options = {"mean": (1, 2, 3), "std": (40, 50, 60), "dtype": torch.float64, "tile": tile}
    for function in (
        lambda m: F.mesh_grid(m, (4, 3), tile=tile),
        lambda m: F.mesh_grid(m, (4, 5), inverse=True, tile=tile),
        lambda m: F.mesh_magnification(m, (4, 5), tile=tile),
        lambda m: F.mesh_zoom_frame(frame, m, (3, 4), **options),
        lambda m: F.mesh_zoom_frame(frame, m, (3, 4), antialias=True, **options),
    ):
        assert torch.autograd.gradcheck(function, mesh)
        assert torch.autograd.gradgradcheck(function, mesh, fast_mode=True)


@pytest.mark.parametrize("anti_crop", [False, True])
def test_gradients_of_the_lz_mesh(anti_crop):
    saliency = (torch.rand(2, 4, 6, dtype=torch.float64) + 0.3).requires_grad_()

    def mesh(s):
        return F.lz_mesh(s, 2.5, anti_crop)[:, 1:-1, 1:-1]  # of an anti-crop warp's outline some is constant

    assert torch.autograd.gradcheck(mesh, saliency)
    assert torch.autograd.gradgradcheck(mesh, saliency)
    if not anti_crop:
        assert torch.autograd.gradcheck(lambda s: F.lz_mesh(s, 2.5, False), saliency)


@tiles
def test_gradients_from_saliency_to_loss(tile):
    """The whole chain: saliency -> mesh -> zoom -> network -> unzoom, at an anti-crop warp's exact outline, too."""
    saliency = (torch.rand(1, 4, 5, dtype=torch.float64) + 0.3).requires_grad_()
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64)

    def network(s, image):
        warp = MeshWarp.from_saliency(s, 3.0, tile=tile)
        features = TF.conv2d(warp.zoom(image, (4, 5)), weight, padding=1)
        return warp.unzoom({"a": features, "b": features[:, :, ::2, ::2]}, {"a": (5, 6), "b": (3, 4)})["b"]

    inputs = (saliency, leaf(2, 2, 5, 6))
    assert torch.autograd.gradcheck(network, inputs)
    assert torch.autograd.gradgradcheck(network, inputs, fast_mode=True)


@tiles
@pytest.mark.parametrize("anti_crop", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_gradients_are_finite_at_every_level_size(anti_crop, antialias, tile):
    saliency = (torch.rand(2, 31, 51) ** 8).requires_grad_()
    warp = MeshWarp.from_saliency(saliency, 13.0, anti_crop, tile=tile)
    image = torch.rand(2, 2, 40, 64).requires_grad_()
    sizes = [(10, 16), (5, 8), (3, 4), (1, 2), (1, 1)]
    small = warp.zoom(image, (20, 32), antialias=antialias)
    levels = [TF.adaptive_avg_pool2d(small, size) for size in sizes]
    for grow in (None, [(1, 1)] * 5, [(2 * h, 3 * w) for h, w in sizes]):
        out = warp.unzoom(levels, grow, antialias=antialias)
        loss = sum(level.square().sum() for level in out)
        grads = torch.autograd.grad(loss, [saliency, image], retain_graph=True)
        assert all(torch.isfinite(t).all() for t in (*out, *grads))
        assert all(g.any() for g in grads)
    for size in sizes:  # and from each alone
        feature = torch.rand(2, 2, *size).requires_grad_()
        out = warp.unzoom(feature, (5, 8), padding_mode="border", antialias=antialias)
        grads = torch.autograd.grad(out.square().sum(), [saliency, feature], retain_graph=True)
        assert all(torch.isfinite(g).all() for g in grads)
        assert grads[1].any()
        assert grads[0].any() == (size != (1, 1))


def test_no_gradient_is_computed_for_what_needs_none():
    image, mesh = torch.rand(1, 1, 6, 6), random_mesh(1)
    F.mesh_zoom(image, mesh.requires_grad_(), (3, 3)).sum().backward()
    assert image.grad is None
    assert mesh.grad is not None
    feature = image.clone().requires_grad_()
    F.mesh_unzoom(feature, mesh.detach()).sum().backward()
    assert feature.grad.any()
    with torch.no_grad():
        assert not F.mesh_zoom(image, mesh, (3, 3)).requires_grad
    assert not F.mesh_zoom(image.byte(), mesh, (3, 3)).requires_grad


@tiles
def test_a_loss_through_unzoom_trains_a_saliency(tile):
    """The saliency finds the warp that another one makes, from the unzoomed maps alone."""
    target = torch.full((1, 6, 7), 0.1)
    target[0, 1:3, 4:6] = 1
    y, x = torch.linspace(0, 1, 12)[:, None], torch.linspace(0, 1, 14)[None, :]
    levels = [torch.stack([y.expand(12, 14), x.expand(12, 14), y * x])[None]]
    levels.append(TF.avg_pool2d(levels[0], 2))
    expected = MeshWarp.from_saliency(target, 3.0, tile=tile).unzoom(levels)
    saliency = torch.full((1, 6, 7), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([saliency], lr=0.05)
    losses = []
    for _ in range(40):
        got = MeshWarp.from_saliency(saliency, 3.0, tile=tile).unzoom(levels)
        loss = sum((a - b).square().mean() for a, b in zip(got, expected, strict=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[20] < losses[10] < losses[0]
    assert losses[-1] < 0.3 * losses[0]


# --- transforms -------------------------------------------------------------------------------------------------------


def adaptive_pyramid(saliency, image):
    warp = MeshWarp.from_saliency(saliency, 5.0)
    small = warp.zoom(image, (image.shape[2] // 2, image.shape[3] // 2))
    maps = warp.unzoom([small, TF.avg_pool2d(small, 2)], antialias=True)
    points = warp.zoom_points(image[:, 0, :4, :2] * 9, (16, 20), (8, 10))
    boxes = warp.unzoom_boxes(image[:, 0, :3, :4].cumsum(2), (16, 20), (8, 10))
    return warp, points, boxes, warp.magnification((4, 5)), *maps, warp.unzoom(small)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_path_equals_eager(dynamic):
    torch.compiler.reset()
    compiled = torch.compile(adaptive_pyramid, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for height, width in ((24, 32), (40, 28)) if dynamic else ((24, 32),):
        inputs = [torch.rand(2, 5, 7).requires_grad_(), torch.rand(2, 3, height, width).requires_grad_()]
        assert isinstance(compiled(*inputs)[0], MeshWarp)
        assert_near(forward_backward(compiled, inputs), forward_backward(adaptive_pyramid, inputs))


def test_vmap_of_functions_equals_a_loop():
    saliency, image = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 1, 8, 9)
    points, frame = torch.rand(3, 2, 6, 2) * 8, torch.randint(0, 256, (3, 2, 8, 9, 3), dtype=torch.uint8)

    def adaptive(s, i, p, f):
        warp = MeshWarp.from_saliency(s, 3.0)
        small = warp.zoom(i, (4, 5), antialias=True)
        there = warp.zoom_points(p, (8, 9), (4, 5)), warp.zoom_boxes(p.flatten(1).unflatten(1, (3, 4)), (8, 9), (4, 5))
        frames = warp.zoom_frame(f, (3, 3)), warp.zoom_frame(f, (3, 3), antialias=True)
        maps = warp.unzoom([small, small[:, :, ::2]], antialias=True), warp.unzoom(small, padding_mode="border")
        return *there, *frames, *maps, warp.inverse_grid((5, 4)), warp.magnification((5, 4))

    inputs = (saliency, image, points, frame)
    for dims in ((0, 0, 0, 0), (0, None, None, 0), (None, 0, 0, None)):
        given = [i if d == 0 else i[0] for i, d in zip(inputs, dims, strict=True)]
        got = tensors(torch.vmap(adaptive, in_dims=dims)(*given))
        picked = [[i[k] if d == 0 else i[0] for i, d in zip(inputs, dims, strict=True)] for k in range(3)]
        rows = [tensors(adaptive(*row)) for row in picked]
        assert_near(got, [torch.stack(column) for column in zip(*rows, strict=True)], f"in_dims={dims}")


def test_vmap_maps_warps():
    saliency, image = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 1, 8, 9)
    warps = MeshWarp.from_saliency(saliency.flatten(0, 1), tile="homography")
    stacked = pytree.tree_map(lambda m: m.unflatten(0, (3, 2)), warps)
    got = torch.vmap(lambda w, i: w.zoom(i, (4, 5)))(stacked, image)
    assert_near([got.flatten(0, 1)], [warps.zoom(image.flatten(0, 1), (4, 5))])
    got = torch.vmap(MeshWarp.from_saliency)(saliency)
    assert_near([got.mesh.flatten(0, 1)], [warps.mesh])


def test_batched_cotangents_equal_a_loop():
    """The vector-Jacobian products of several vectors at once, torch.vmap over torch.autograd.grad."""
    image, mesh = torch.rand(2, 2, 6, 7), random_mesh(2, ends=CROPPING)
    frame = torch.randint(0, 256, (2, 6, 7, 3), dtype=torch.uint8)
    for function, inputs in (
        (lambda *a: F.mesh_zoom(*a, (5, 6)), [image, mesh]),
        (lambda *a: F.mesh_unzoom(*a, tile="homography", valid=VALID), [image, mesh]),
        (lambda m: F.mesh_unzoom(image, m, (5, 6), antialias=True), [mesh[:1]]),
        (lambda m: F.mesh_zoom_frame(frame, m, (3, 4)), [mesh]),
        (lambda m, p: F.mesh_map(m, p, inverse=True), [mesh, torch.rand(1, 9, 2)]),
        (lambda s: F.lz_mesh(s), [torch.rand(2, 4, 5) + 0.1]),
    ):
        leaves = [i.clone().requires_grad_() for i in inputs]
        out = function(*leaves)
        cotangents = torch.rand(4, *out.shape)

        def product(cotangent, out=out, leaves=leaves):
            return torch.autograd.grad(out, leaves, cotangent, retain_graph=True)

        rows = [product(c) for c in cotangents]
        assert_near(torch.vmap(product)(cotangents), [torch.stack(column) for column in zip(*rows, strict=True)])
