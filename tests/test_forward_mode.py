"""Forward-mode AD: right tangents where an op for them exists, an error elsewhere, never zeros in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_near, random_mesh, random_warp, tensors
from torch.autograd import forward_ad

from fastwarp import MeshWarp, SeparableWarp
from fastwarp import functional as F
from fastwarp.nn import DownsizeNet
from fastwarp.saliency import box_density, box_knots

DOUBLE = torch.float64
WARP = random_warp(2, (4, 5), DOUBLE, (0.1, 0.9))
MESH = random_mesh(2, (4, 5), DOUBLE, (0.1, 0.9))
IMAGE = torch.rand(2, 1, 6, 7, dtype=DOUBLE)
DOWNSIZE = DownsizeNet(scale_factor=0.5)
FRAME = torch.randint(0, 256, (2, 6, 7, 3), dtype=torch.uint8)

LINEAR: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "zoom": lambda w, i: w.zoom(i, (4, 5)),
    "zoom antialias": lambda w, i: w.zoom(i, (3, 2), antialias=True),
    "nearest": lambda w, i: w.zoom(i, (5, 8), mode="nearest"),
    "unzoom": lambda w, i: w.unzoom([i, i[:, :, ::2] * 3], padding_mode="border"),
    "unzoom antialias": lambda w, i: w.unzoom({"a": i}, {"a": (3, 4)}, antialias=True),
    "registered": lambda w, i: w.unzoom(i, image_size=(48, 56)),
}

both_warps = pytest.mark.parametrize("warp", [WARP, MeshWarp(MESH)], ids=["separable", "mesh"])


@both_warps
@pytest.mark.parametrize("name", LINEAR)
def test_tangents_of_images(name, warp):
    def function(image: torch.Tensor) -> torch.Tensor:
        return torch.cat([t.flatten() for t in tensors(LINEAR[name](warp, image))])

    image, tangent = torch.rand(2, 2, 2, 6, 7, dtype=DOUBLE)
    expected = function(tangent)
    assert expected.any()
    values, moved = torch.func.jvp(function, (image,), (tangent,))
    assert_near([values, moved], [function(image), expected])
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(function(forward_ad.make_dual(image, tangent)))
    assert_near([dual.primal, dual.tangent], [function(image), expected])
    # x -> f(x * x) twice: the tangent of a tangent.
    one = torch.ones_like(image)
    inner = lambda x: torch.func.jvp(lambda y: function(y * y), (x,), (tangent,))[1]  # noqa: E731
    assert_near([torch.func.jvp(inner, (image,), (one,))[1]], [function(2 * tangent)])
    # A tangent from outside of the inner jvp.
    outer = torch.func.jvp(lambda x: torch.func.jvp(lambda y: function(x), (one,), (one,))[0], (image,), (tangent,))
    assert_near([outer[1]], [expected])


@both_warps
def test_jacobian(warp):
    image = torch.rand(2, 1, 3, 4, dtype=DOUBLE)
    function = lambda i: warp.zoom(i, (2, 3))  # noqa: E731
    forward, reverse = torch.func.jacfwd(function)(image), torch.autograd.functional.jacobian(function, image)
    assert_near([forward], [reverse])


@both_warps
def test_reverse_mode_within_a_dual_level(warp):
    """What needs a gradient has it, as outside."""
    image = torch.rand(2, 2, 6, 7, dtype=DOUBLE)
    leaf = image.clone().requires_grad_()
    (expected,) = torch.autograd.grad(warp.zoom(leaf, (4, 5)).sum(), leaf)
    geometry = [t.clone().requires_grad_() for t in tensors(warp)]
    moving = type(warp)(*geometry)
    right = torch.autograd.grad(moving.zoom(image, (4, 5)).square().sum(), geometry)
    with forward_ad.dual_level():
        (got,) = torch.autograd.grad(warp.zoom(leaf, (4, 5)).sum(), leaf)
        by_geometry = torch.autograd.grad(moving.zoom(image, (4, 5)).square().sum(), geometry)
    assert_near([got, *by_geometry], [expected, *right])


ELSEWHERE: dict[str, tuple[Callable[..., Any], torch.Tensor]] = {
    "lz_knots": (lambda s: F.lz_knots(s, 3.0), torch.rand(2, 4, 5)),
    "lz_mesh": (lambda s: F.lz_mesh(s, 3.0), torch.rand(2, 4, 5)),
    "lz_knots_from_marginals": (lambda m: F.lz_knots_from_marginals(m, m, 3.0), torch.rand(2, 4)),
    "cdf_knots": (lambda d: F.cdf_knots(d), torch.rand(2, 4)),
    "axis_map": (lambda p: F.axis_map(WARP.knots_y, p), torch.rand(2, 3, dtype=DOUBLE)),
    "mesh_map": (lambda m: F.mesh_map(m, IMAGE[:, 0, :, :2]), MESH),
    "grid": (lambda k: SeparableWarp(k, WARP.knots_x).grid((3, 4)), WARP.knots_y),
    "mesh grid": (lambda m: MeshWarp(m).grid((3, 4)), MESH),
    "zoom": (lambda k: SeparableWarp(WARP.knots_y, k).zoom(IMAGE, (3, 4)), WARP.knots_x),
    "unzoom": (lambda m: MeshWarp(m).unzoom(IMAGE), MESH),
    "antialias": (lambda m: MeshWarp(m).zoom(IMAGE, (2, 2), antialias=True), MESH),
    "registered": (lambda m: MeshWarp(m).unzoom(IMAGE, image_size=(48, 56)), MESH),
    "frame": (lambda k: SeparableWarp(k, WARP.knots_x).zoom_frame(FRAME, (3, 4)), WARP.knots_y),
    "mesh frame": (lambda m: MeshWarp(m).zoom_frame(FRAME, (3, 4)), MESH),
    "box_density": (lambda b: box_density(b, (20, 30)), torch.tensor([[1.0, 2.0, 9.0, 9.0]])),
    "box_knots": (lambda b: box_knots(b, (20, 30)), torch.tensor([[1.0, 2.0, 9.0, 9.0]])),
    "downsize": (DOWNSIZE, torch.rand(1, 3, 8, 8)),
    "image and knots": (
        lambda k: SeparableWarp(WARP.knots_y, k).zoom(k[:, None, None].expand(2, 1, 4, 5), (3, 4)),
        WARP.knots_x,
    ),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_other_tangents_raise(name):
    function, value = ELSEWHERE[name]
    with pytest.raises(NotImplementedError, match="forward-mode AD goes through resampling, for tangents"):
        torch.func.jvp(function, (value,), (torch.ones_like(value),))
    with forward_ad.dual_level():
        expected = tensors(function(value))  # no tangent: as ever
        with pytest.raises(NotImplementedError, match="forward-mode AD"):
            function(forward_ad.make_dual(value, torch.ones_like(value)))
    assert_near(expected, tensors(function(value)))


def test_compiled_functions():
    """Forward-mode AD breaks the graph: torch goes on with eager calls, which are right, or refuses."""
    image, tangent = torch.rand(2, 2, 1, 6, 7, dtype=DOUBLE)
    function = lambda i: WARP.zoom(i, (4, 5))  # noqa: E731
    derivative = lambda i, t: torch.func.jvp(function, (i,), (t,))  # noqa: E731
    whole = torch.compile(derivative, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="disable"):
        whole(image, tangent)
    expected = [function(image), function(tangent)]
    assert_near(torch.compile(derivative, backend="eager")(image, tangent), expected)
    compiled = torch.compile(function, backend="eager")
    assert_near([compiled(image)], expected[:1])
    with forward_ad.dual_level():
        assert_near(list(forward_ad.unpack_dual(compiled(forward_ad.make_dual(image, tangent)))), expected)
