"""A NaN in a map of saliency, in the knots or in a vertex of a warp makes everything of its image NaN, and of no other.

Never a hidden default: the same in every path, of both kinds of warp, on every backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_bitwise, random_mesh, random_warp, tensors
from test_sharing import BACKENDS, DEVICE, running_on
from torch import Tensor

from fastwarp import MeshWarp, SeparableWarp
from fastwarp import functional as F

Warp = SeparableWarp | MeshWarp
IMAGE, FRAME = torch.rand(3, 2, 6, 7), torch.randint(0, 256, (3, 6, 7, 3), dtype=torch.uint8)

PATHS: dict[str, Callable[[Warp, Tensor, Tensor], Any]] = {
    "zoom": lambda w, i, f: w.zoom(i, (5, 4)),
    "zoom antialias": lambda w, i, f: w.zoom(i, (3, 4), antialias=True),
    "unzoom": lambda w, i, f: w.unzoom(i),
    "unzoom antialias": lambda w, i, f: w.unzoom(i, (5, 4), antialias=True),
    "unzoom border": lambda w, i, f: w.unzoom(i, padding_mode="border"),
    "pyramid": lambda w, i, f: w.unzoom({"a": i, "b": i[:, :, ::2, ::2], "c": i[:, :, :1, :1]}),
    "registered": lambda w, i, f: w.unzoom(i, image_size=(48, 56)),
    "frame": lambda w, i, f: w.zoom_frame(f, (4, 5)),
    "frame antialias": lambda w, i, f: w.zoom_frame(f, (4, 3), antialias=True),
    "grid": lambda w, i, f: w.grid((4, 5)),
    "inverse_grid": lambda w, i, f: w.inverse_grid((4, 5)),
    "magnification": lambda w, i, f: w.magnification((4, 5)),
    "zoom_points": lambda w, i, f: w.zoom_points(i[:, 0, :, :2] * 6, (6, 7), (4, 5)),
    "unzoom_points": lambda w, i, f: w.unzoom_points(i[:, 0, :, :2] * 6, (6, 7), (4, 5)),
    "zoom_boxes": lambda w, i, f: w.zoom_boxes(i[:, 0, :, :4].cumsum(2), (6, 7), (4, 5)),
    "unzoom_boxes": lambda w, i, f: w.unzoom_boxes(i[:, 0, :, :4].cumsum(2), (6, 7), (4, 5)),
}


def of_saliency(kind: type[Warp], bad: bool) -> Warp:
    saliency = torch.rand(3, 4, 9, generator=torch.Generator().manual_seed(0))
    if bad:
        saliency[1, 2, 3] = torch.nan
    return kind.from_saliency(saliency, 3.0)


def one_knot(axis: str) -> Callable[[type[Warp], bool], Warp]:
    def warp(kind: type[Warp], bad: bool) -> Warp:
        torch.manual_seed(0)
        warp = random_warp(3, (5, 7), ends=(0.1, 0.9))
        if bad:
            getattr(warp, axis)[1, 2] = torch.nan
        return warp

    return warp


def one_vertex(tile: str) -> Callable[[type[Warp], bool], Warp]:
    def warp(kind: type[Warp], bad: bool) -> Warp:
        torch.manual_seed(0)
        mesh = random_mesh(3, (5, 7), ends=(0.1, 0.9))
        if bad:
            mesh[1, 2, 6, 1] = torch.nan
        return MeshWarp(mesh, tile)

    return warp


WARPS = {
    "saliency": (SeparableWarp, of_saliency),
    "saliency of a mesh": (MeshWarp, of_saliency),
    "a knot in y": (SeparableWarp, one_knot("knots_y")),
    "a knot in x": (SeparableWarp, one_knot("knots_x")),
    "a vertex": (MeshWarp, one_vertex("bilinear")),
    "a vertex of homographies": (MeshWarp, one_vertex("homography")),
}


def moved(warp: Warp, device: str) -> tuple[Warp, list[Tensor]]:
    """A warp whose geometry takes gradients, and the geometry."""
    leaves = [t.detach().to(device).requires_grad_() for t in tensors(warp)]
    return type(warp)(*leaves, *([warp.tile] if isinstance(warp, MeshWarp) else [])), leaves


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", WARPS)
def test_nan_stays_in_its_image_and_fills_it(name, backend):
    kind, make = WARPS[name]
    device = DEVICE if backend == "triton" else "cpu"
    paths = [p for p in PATHS if backend != "triton" or p in ("zoom", "unzoom", "zoom_points")]  # interpreted: slow
    with running_on(backend):
        for path in paths:
            images = IMAGE.to(device), FRAME.to(device)
            (clean, _), (warp, leaves) = (moved(make(kind, bad), device) for bad in (False, True))
            expected, got = (tensors(PATHS[path](w, *images)) for w in (clean, warp))
            for result, right in zip(got, expected, strict=True):
                others = [0, 2]
                assert_bitwise([result[others]], [right[others]], f"{path}:")
                lost = result[1].isnan()
                # Points have coordinates of two axes, of which one may be well.
                assert lost.any(-1).all() if "points" in path or "boxes" in path else lost.all(), path
            moving = [r for r in got if r.requires_grad]
            if moving:
                grads = torch.autograd.grad([r.sum() for r in moving], leaves)
                assert all(g[others].isfinite().all() for g in grads), path
                assert any(g[1].isnan().all() for g in grads), path


def test_a_lost_image_is_inside_everywhere():
    for kind, make in WARPS.values():
        assert make(kind, True).inside((4, 5))[1].all()


def test_padding_of_a_lost_image_stays_zero():
    extent = torch.tensor([[3, 4], [2, 3], [5, 6]])
    for kind, make in WARPS.values():
        out = make(kind, True).unzoom(IMAGE, valid=extent)[1]
        assert out[:, :2, :3].isnan().all()
        assert not out[:, 2:].any()
        assert not out[:, :, 3:].any()


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_positions_of_a_lost_axis(backend):
    knots = torch.tensor([[0.0, 0.5, torch.nan], [0.0, 0.5, 1.0]])
    with running_on(backend):
        for inverse in (False, True):
            mapped = F.axis_map(knots, torch.tensor([[0.1, 0.2], [0.1, 0.2]]), inverse=inverse)
            assert mapped[0].isnan().all()
            assert mapped[1].isfinite().all()
