"""Gradients of first and second order by finite differences, of all kinds of warps."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as TF
from helpers import KINDS, assert_bitwise, random_knots, random_mesh, tensors, warp_of, with_geometry

from fastwarp import MeshWarp, SeparableWarp
from fastwarp import functional as F

INSIDE = (0.073, 0.931)
"""Ends of cropping warps: at 0 and 1 a clamp has a kink."""

kinds = pytest.mark.parametrize("kind", KINDS)
tiles = pytest.mark.parametrize("tile", ["bilinear", "homography"])


def leaf(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64).requires_grad_()


def cropping(kind: str, batch: int = 2) -> tuple[SeparableWarp | MeshWarp, list[torch.Tensor]]:
    """A warp and what it is made of, which wants a gradient."""
    warp = warp_of(kind, batch, (3, 4), torch.float64, INSIDE)
    return warp, [t.requires_grad_() for t in tensors(warp)]


def from_saliency(kind: str, saliency: torch.Tensor, *args, **options) -> SeparableWarp | MeshWarp:
    if kind == "separable":
        return SeparableWarp.from_saliency(saliency, *args, **options)
    return MeshWarp.from_saliency(saliency, *args, tile=kind, **options)


# --- resampling -------------------------------------------------------------------------------------------------------


VALID, SOURCE_VALID = torch.tensor([[4, 3], [3, 4]]), torch.tensor([[5, 6], [4, 3]])
BOTH = {"valid": VALID, "source_valid": SOURCE_VALID}

DIFFERENTIABLE = {
    "zoom": (lambda w, i: w.zoom(i, (4, 5)), 2),
    "zoom shared": (lambda w, i: w.zoom(i, (4, 5)), 1),
    "zoom antialias": (lambda w, i: w.zoom(i, (3, 4), antialias=True), 2),
    "zoom valid": (lambda w, i: w.zoom(i, (4, 5), **BOTH), 2),
    "unzoom": (lambda w, i: w.unzoom([i, i[:, :, :4]], [(5, 4), (3, 3)]), 2),
    "unzoom shared": (lambda w, i: w.unzoom(i, (5, 4)), 1),
    "unzoom antialias": (lambda w, i: w.unzoom(i, (3, 4), antialias=True), 2),
    "unzoom antialias valid": (lambda w, i: w.unzoom(i, (4, 5), antialias=True, **BOTH), 1),
}


@kinds
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_resampling(name, kind):
    function, batch = DIFFERENTIABLE[name]
    warp, geometry = cropping(kind, batch)

    def resampled(image, *geometry):
        return function(with_geometry(warp, geometry), image)

    inputs = (leaf(2, 1, 5, 6), *geometry)
    assert torch.autograd.gradcheck(resampled, inputs)
    assert torch.autograd.gradgradcheck(resampled, inputs, fast_mode=kind != "separable")


@kinds
@pytest.mark.parametrize("size", [(1, 5), (6, 1), (1, 1)])
@pytest.mark.parametrize("extents", [None, [[1, 5], [6, 1]]])
def test_sources_with_one_row_or_column(size, kind, extents):
    """Their windows are 0 on that axis, which does not tell where in its tile a target is."""
    source_valid = None if extents is None else torch.tensor(extents)
    warp, geometry = cropping(kind, 1)

    def unzoom(image, *geometry):
        return with_geometry(warp, geometry).unzoom(image, (5, 7), source_valid=source_valid)

    inputs = (leaf(2, 2, *size), *geometry)
    assert torch.autograd.gradcheck(unzoom, inputs)
    assert torch.autograd.gradgradcheck(unzoom, inputs, fast_mode=True)


@tiles
def test_filled_targets(tile):
    """What is outside has a gradient to the features that it reads, and none to the mesh. (Of a separable warp, a
    target can be outside in y and inside in x.)"""
    image, (warp, geometry) = leaf(2, 2, 5, 6), cropping(tile)
    assert not warp.inside((7, 6)).all()
    fixed = with_geometry(warp, [g.detach() for g in geometry])
    assert torch.autograd.gradcheck(lambda i: fixed.unzoom(i, (7, 6), padding_mode="border"), image)
    weight = torch.rand(2, 2, 7, 6, dtype=torch.float64)
    got, expected = (
        torch.autograd.grad((warp.unzoom(image, (7, 6), padding_mode=mode) * weight).sum(), geometry)
        for mode in ("border", "zeros")
    )
    assert_bitwise(got, expected)


@kinds
def test_grid_magnification_and_camera(kind):
    warp, geometry = cropping(kind)
    frame = torch.randint(0, 256, (2, 6, 7, 3), dtype=torch.uint8)
    options = {"mean": (1, 2, 3), "std": (40, 50, 60), "dtype": torch.float64}
    for function in (
        lambda w: w.grid((4, 3)),
        lambda w: w.inverse_grid((4, 5)),
        lambda w: w.magnification((4, 5)),
        lambda w: w.zoom_frame(frame, (3, 4), **options),
        lambda w: w.zoom_frame(frame, (3, 4), antialias=True, **options),
    ):
        of = lambda *g, function=function: function(with_geometry(warp, g))  # noqa: E731
        assert torch.autograd.gradcheck(of, geometry)
        assert torch.autograd.gradgradcheck(of, geometry, fast_mode=True)


# --- points -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_axis_map(inverse, batch):
    knots = random_knots(batch, 5, ends=(0.1, 0.9)).requires_grad_()
    positions = (torch.rand(3, 7, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()  # beyond the ends, too
    function = lambda k, p: F.axis_map(k, p, inverse=inverse)  # noqa: E731
    assert torch.autograd.gradcheck(function, (knots, positions))
    assert torch.autograd.gradgradcheck(function, (knots, positions))


@tiles
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_mesh_map(inverse, batch, tile):
    points = (torch.rand(2, 7, 2, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()  # past the outline, too
    mesh = random_mesh(batch, (3, 4), torch.float64, INSIDE).requires_grad_()
    function = lambda m, p: F.mesh_map(m, p, inverse=inverse, tile=tile)  # noqa: E731
    assert torch.isfinite(function(mesh, points)).all()
    assert torch.autograd.gradcheck(function, (mesh, points))
    assert torch.autograd.gradgradcheck(function, (mesh, points))


@kinds
@pytest.mark.parametrize("inverse", [False, True])
def test_points(inverse, kind):
    pixels = (torch.rand(2, 5, 2, dtype=torch.float64) * 9).requires_grad_()
    warp, geometry = cropping(kind)

    def mapped(pixels, *geometry):
        moved = with_geometry(warp, geometry)
        return moved.unzoom_points(pixels, (9, 8), (5, 4)) if inverse else moved.zoom_points(pixels, (9, 8), (5, 4))

    assert torch.autograd.gradcheck(mapped, (pixels, *geometry))


# --- saliency ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["separable", "bilinear"])
@pytest.mark.parametrize("anti_crop", [False, True])
def test_the_lz_warp(anti_crop, kind):
    saliency = (torch.rand(2, 4, 6, dtype=torch.float64) + 0.3).requires_grad_()

    def inner(s):  # of an anti-crop warp's outline some is constant
        if kind == "separable":
            return [k[:, 1:-1] for k in F.lz_knots(s, 2.5, anti_crop)]
        return [F.lz_mesh(s, 2.5, anti_crop)[:, 1:-1, 1:-1]]

    def geometry(s):
        return tuple(tensors(from_saliency(kind, s, 2.5, anti_crop)))

    assert torch.autograd.gradcheck(lambda s: tuple(inner(s)), saliency)
    assert torch.autograd.gradgradcheck(lambda s: tuple(inner(s)), saliency)
    if not anti_crop:
        assert torch.autograd.gradcheck(geometry, saliency)


def test_marginals_and_cdf():
    marginals = [(torch.rand(2, n, dtype=torch.float64) + 0.3).requires_grad_() for n in (4, 5)]
    assert torch.autograd.gradcheck(lambda y, x: F.lz_knots_from_marginals(y, x, 3.0), marginals)
    assert torch.autograd.gradcheck(lambda y: F.cdf_knots(y, 8)[:, 1:-1], marginals[1])
    assert torch.autograd.gradgradcheck(lambda y: F.cdf_knots(y, 8)[:, 1:-1], marginals[1])


@kinds
def test_from_saliency_to_loss(kind):
    """The whole chain: saliency -> warp -> zoom -> network -> unzoom, at an anti-crop warp's exact outline, too."""
    saliency = (torch.rand(1, 4, 5, dtype=torch.float64) + 0.3).requires_grad_()
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64)

    def network(s, image):
        warp = from_saliency(kind, s, 3.0)
        features = TF.conv2d(warp.zoom(image, (4, 5)), weight, padding=1)
        return warp.unzoom({"a": features, "b": features[:, :, ::2, ::2]}, {"a": (5, 6), "b": (3, 4)})["b"]

    inputs = (saliency, leaf(2, 2, 5, 6))
    assert torch.autograd.gradcheck(network, inputs)
    assert torch.autograd.gradgradcheck(network, inputs, fast_mode=True)


@kinds
@pytest.mark.parametrize("anti_crop", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_finite_at_every_level_size(anti_crop, antialias, kind):
    saliency = (torch.rand(2, 31, 51) ** 8).requires_grad_()
    warp = from_saliency(kind, saliency, 13.0, anti_crop)
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


@kinds
def test_a_loss_through_unzoom_trains_a_saliency(kind):
    """The saliency finds the warp that another one makes, from the unzoomed maps alone."""
    target = torch.full((1, 6, 7), 0.1)
    target[0, 1:3, 4:6] = 1
    y, x = torch.linspace(0, 1, 12)[:, None], torch.linspace(0, 1, 14)[None, :]
    levels = [torch.stack([y.expand(12, 14), x.expand(12, 14), y * x])[None]]
    levels.append(TF.avg_pool2d(levels[0], 2))
    expected = from_saliency(kind, target, 3.0).unzoom(levels)
    saliency = torch.full((1, 6, 7), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([saliency], lr=0.05)
    losses = []
    for _ in range(40):
        got = from_saliency(kind, saliency, 3.0).unzoom(levels)
        loss = sum((a - b).square().mean() for a, b in zip(got, expected, strict=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[20] < losses[10] < losses[0]
    assert losses[-1] < 0.3 * losses[0]


# --- what needs none --------------------------------------------------------------------------------------------------


@kinds
def test_no_gradient_is_computed_for_what_needs_none(kind):
    image, warp = torch.rand(1, 1, 6, 6), warp_of(kind, 1)
    first, *others = tensors(warp)
    warp = with_geometry(warp, [first.requires_grad_(), *others])
    warp.zoom(image, (3, 3)).sum().backward()
    assert image.grad is None
    assert first.grad is not None
    assert all(other.grad is None for other in others)
    feature = image.clone().requires_grad_()
    with_geometry(warp, [first.detach(), *others]).unzoom(feature).sum().backward()
    assert feature.grad.any()
    with torch.no_grad():
        assert not warp.zoom(image, (3, 3)).requires_grad
    assert not warp.zoom(image.byte(), (3, 3)).requires_grad
