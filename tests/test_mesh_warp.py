"""MeshWarp: what is written for SeparableWarp runs with it, saliency, both kinds of tiles, geometry, flaws."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import pickle
from typing import NamedTuple

import numpy as np
import pytest
import strategies as own
import torch
import torch.nn.functional as TF
from helpers import assert_bitwise, assert_near, random_mesh, random_mesh_warp, random_warp, tensors
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import EPS32, EPS64
from torch.utils import _pytree as pytree

from fastwarp import FastwarpError, MeshWarp, SeparableWarp
from fastwarp import functional as F
from fastwarp.reference import mesh as reference

few = settings(deadline=None, max_examples=30)
tiles = pytest.mark.parametrize("tile", ["bilinear", "homography"])

CROPPING = (0.083, 0.927)
SOURCE, ZOOMED = (37, 61), (13, 24)


# --- the object -------------------------------------------------------------------------------------------------------


def test_is_frozen():
    warp = random_mesh_warp()
    with pytest.raises(AttributeError):
        warp.mesh = warp.mesh


@tiles
def test_is_a_pytree(tile):
    warp = random_mesh_warp(tile=tile)
    leaves, spec = pytree.tree_flatten({"warp": warp, "other": 3})
    assert_bitwise(leaves[:1], [warp.mesh])
    again = pytree.tree_unflatten(leaves, spec)["warp"]
    assert isinstance(again, MeshWarp)
    assert again.tile == tile
    assert_bitwise([again.mesh], [warp.mesh])
    doubled = pytree.tree_map(torch.Tensor.double, warp)
    assert doubled.mesh.dtype == torch.float64
    assert pytree.tree_map(lambda _: "leaf", warp).mesh == "leaf"  # trees are also rebuilt around placeholders
    assert pytree.tree_structure(warp) != pytree.tree_structure(random_mesh_warp(tile=flipped(tile)))


def flipped(tile: str) -> str:
    return "homography" if tile == "bilinear" else "bilinear"


@tiles
def test_passes_through_compiled_functions(tile):
    def halve(warp, image):
        return warp.unzoom(image, (4, 4)), MeshWarp(warp.mesh * 0.5, warp.tile)

    warp, image = random_mesh_warp(tile=tile), torch.rand(2, 1, 8, 8)
    small, other = torch.compile(halve, fullgraph=True, backend="aot_eager")(warp, image)
    assert_near([small, other.mesh], [warp.unzoom(image, (4, 4)), warp.mesh * 0.5])
    assert isinstance(other, MeshWarp)
    assert other.tile == tile


@tiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies(dtype, tile):
    warp = random_mesh_warp(3, dtype=dtype, tile=tile)
    file = io.BytesIO()
    torch.save(warp, file)
    file.seek(0)
    for again in (
        copy.deepcopy(warp),
        pickle.loads(pickle.dumps(warp)),
        torch.load(file, weights_only=False),
        warp.to("cpu"),
        warp.to(dtype=dtype),
        warp.detach(),
        MeshWarp.cat([warp[0], warp[1:]]),
    ):
        assert isinstance(again, MeshWarp)
        assert again.tile == tile
        assert_bitwise([again.mesh], [warp.mesh])
    assert copy.deepcopy(warp).mesh.data_ptr() != warp.mesh.data_ptr()


def test_to_and_detach():
    warp = MeshWarp.from_saliency(torch.rand(1, 4, 5).requires_grad_())
    assert not warp.detach().mesh.requires_grad
    assert warp.to(dtype=torch.float64)[0].mesh.requires_grad
    assert_bitwise([warp.to(dtype=torch.float64).mesh], [warp.mesh.double()])
    assert warp.to("meta").mesh.device.type == "meta"


def test_indexing():
    warp = random_mesh_warp(5, tile="homography")
    mesh = warp.mesh
    assert len(warp) == 5
    for index, expected in (
        (1, mesh[1:2]),
        (-1, mesh[4:5]),
        (slice(1, 4, 2), mesh[1:4:2]),
        (slice(0, 0), mesh[:0]),
        (torch.tensor([3, 0]), mesh[[3, 0]]),
        ([3, 0], mesh[[3, 0]]),
        (torch.tensor([True, False, True, False, False]), mesh[[0, 2]]),
    ):
        assert_bitwise([warp[index].mesh], [expected])
        assert len(warp[index]) == len(expected)
        assert warp[index].tile == "homography"
    assert [len(w) for w in warp] == [1] * 5  # iterates
    for index in (5, -6):
        with pytest.raises(IndexError, match="batch of 5"):
            warp[index]


def test_repr_says_what_it_is():
    text = repr(random_mesh_warp(3, (4, 6), torch.float64))
    assert text == "MeshWarp(batch=3, vertices=(4, 6), tile='bilinear', torch.float64, device='cpu')"


@tiles
@pytest.mark.parametrize("size", [(7, 9), (1, 1), (2, 31)])
def test_identity_is_the_identity(size, tile):
    """Not near the image but the image, in single precision too."""
    image = torch.rand(2, 3, *size)
    for dtype in (torch.float32, torch.float64):
        warp = MeshWarp.identity(1, (5, 6), tile=tile, dtype=dtype)
        assert warp.tile == tile
        assert warp.check() is warp
        for antialias in (False, True):
            torch.testing.assert_close(warp.zoom(image, size, antialias=antialias), image, rtol=0, atol=2e-6)
            torch.testing.assert_close(warp.unzoom(image, antialias=antialias), image, rtol=0, atol=2e-6)
        assert warp.inside(size).all()
        torch.testing.assert_close(warp.magnification(size), torch.ones(1, *size, dtype=dtype))
    expected = TF.interpolate(image.double(), (4, 5), mode="bilinear", align_corners=True)
    torch.testing.assert_close(warp.zoom(image.double(), (4, 5)), expected, rtol=0, atol=1e-12)
    assert_near([MeshWarp.identity(3, (4, 7)).mesh[2, 1, :, 0]], [torch.arange(7) / 6])


# --- what is written for the other runs with it -----------------------------------------------------------------------


class Maps(NamedTuple):
    p3: torch.Tensor
    p4: torch.Tensor


VALID, SOURCE_VALID = torch.tensor([[11, 9], [6, 12]]), torch.tensor([[19, 15], [12, 21]])


def image_of(channels: int = 3, dtype=torch.float64) -> torch.Tensor:
    return torch.rand(2, channels, 19, 21, generator=torch.Generator().manual_seed(7), dtype=dtype)


def boxes_of(count: int = 5) -> torch.Tensor:
    corners = torch.rand(2, count, 2, generator=torch.Generator().manual_seed(8), dtype=torch.float64) * 60 - 5
    return torch.cat([corners, corners + 9], 2)


FRAME = torch.randint(0, 256, (2, 19, 21, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
CAMERA = {"mean": (90.0, 100.0, 110.0), "std": (50.0, 60.0, 70.0), "dtype": torch.float64}

SAME = {
    "zoom": lambda w: w.zoom(image_of(), (11, 12)),
    "zoom single": lambda w: w[1].zoom(image_of()[1:], (1, 1)),
    "zoom antialias": lambda w: w.zoom(image_of(), (6, 5), antialias=True),
    "zoom valid": lambda w: w.zoom(image_of(), (11, 12), valid=VALID, source_valid=SOURCE_VALID),
    "zoom valid antialias": lambda w: w.zoom(
        image_of(), (11, 12), valid=VALID, source_valid=SOURCE_VALID, antialias=True
    ),
    "unzoom": lambda w: w.unzoom(image_of()),
    "unzoom row": lambda w: w.unzoom(image_of(), (1, 40)),
    "unzoom border": lambda w: w.unzoom(image_of(), (23, 34), padding_mode="border"),
    "unzoom antialias": lambda w: w.unzoom(image_of(), (6, 7), antialias=True, padding_mode="border"),
    "unzoom list": lambda w: w.unzoom([image_of(), image_of(5)[:, :, ::2, ::2]]),
    "unzoom tuple": lambda w: w.unzoom((image_of(), image_of(5)), ((8, 9), (30, 31))),
    "unzoom dict": lambda w: w.unzoom(
        {"p4": image_of(), "p3": image_of(2)},
        valid={"p3": VALID, "p4": VALID + 5},
        source_valid={"p4": VALID, "p3": VALID},
    ),
    "unzoom named tuple": lambda w: w.unzoom(Maps(image_of(), image_of(4)), [(8, 9), (30, 31)], padding_mode="border"),
    "zoom_frame": lambda w: w.zoom_frame(FRAME, (9, 11), **CAMERA),
    "zoom_frame antialias": lambda w: w.zoom_frame(FRAME, (5, 6), antialias=True, valid=VALID, **CAMERA),
    "zoom_frame single": lambda w: w[0].zoom_frame(FRAME[0], (9, 11), **CAMERA),
    "grid": lambda w: w.grid((9, 11)),
    "grid row": lambda w: w.grid((1, 11)),
    # Beyond the range one says -3 axis by axis.
    "inverse_grid": lambda w: w.inverse_grid((33, 34)) * w.inside((33, 34))[..., None],
    "inside": lambda w: w.inside((33, 34)),
    # Beyond the range of T~ one says how the last piece continues, the other that nothing is shown.
    "magnification": lambda w: w.magnification((33, 34)) * w.inside((33, 34)),
    "zoom_points": lambda w: w.zoom_points(boxes_of()[..., :2], SOURCE, ZOOMED),
    "unzoom_points": lambda w: w.unzoom_points(boxes_of()[..., :2], SOURCE, ZOOMED),
    "unzoom_points single": lambda w: w[1].unzoom_points(boxes_of()[1, :, :2], SOURCE, (1, 24)),
    "points of padded": lambda w: w.zoom_points(boxes_of()[..., :2], VALID, SOURCE_VALID),
    "zoom_boxes": lambda w: w.zoom_boxes(boxes_of(), SOURCE, ZOOMED),
    "unzoom_boxes": lambda w: w.unzoom_boxes(boxes_of(), SOURCE, ZOOMED),
    "zoom_corners": lambda w: w.zoom_corners(boxes_of(), SOURCE, ZOOMED),
    "unzoom_corners": lambda w: w[:1].unzoom_corners(boxes_of()[0], SOURCE, ZOOMED),
    "batch": lambda w: type(w).cat([w[1], w[[0, 1]], w[-1].to("cpu")]).detach().zoom(image_of()[[1, 0, 1, 1]], (8, 9)),
    "wide": lambda w: w.to(dtype=torch.float64).check().unzoom(image_of()),
    "iterated": lambda w: [warp.zoom(image_of()[:1], (7, 8)) for warp in w],
}


def structure(result) -> object:
    def about(t: torch.Tensor) -> tuple:
        return tuple(t.shape), t.dtype, t.stride() if t.dim() == 4 and t.shape[3] != 2 else None  # a grid has any

    return pytree.tree_map(about, result)


@tiles
@pytest.mark.parametrize("ends", [(0.0, 1.0), CROPPING])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAME)
def test_mesh_of_a_separable_warp_does_the_same(name, dtype, ends, tile):
    """A separable warp's tiles are rectangles: their homographies are what their bilinear maps are."""
    separable = random_warp(2, (5, 7), dtype, ends)
    warp = MeshWarp(MeshWarp.from_separable(separable).mesh, tile)
    got, expected = SAME[name](warp), SAME[name](separable)
    assert type(got) is type(expected)
    assert structure(got) == structure(expected)
    # Windows are rounded in pixels by one and relative to 1 by the other, and beside the last pixel differences grow.
    tolerance = {torch.float32: 2e-5, torch.float64: 1e-11}[dtype]
    for a, b in zip(tensors(got), tensors(expected), strict=True):
        if a.dtype == torch.bool:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1, b.abs().max()))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed", "expanded"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_and_layouts_are_those_of_the_separable_warp(dtype, layout):
    separable = random_warp(2, (5, 7), ends=CROPPING)
    warp = MeshWarp.from_separable(separable)
    image = own.laid_out((image_of(5) * (255 if dtype == torch.uint8 else 1)).to(dtype), layout)
    step = {torch.uint8: 1.0, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7, torch.float32: 2e-5}[dtype]
    for antialias in (False, True):
        options = {"antialias": antialias}
        pairs = [
            (warp.zoom(image, (9, 12), **options), separable.zoom(image, (9, 12), **options)),
            (
                warp.unzoom(image, padding_mode="border", **options),
                separable.unzoom(image, padding_mode="border", **options),
            ),
        ]
        for got, expected in pairs:
            assert structure(got) == structure(expected)
            off = (got.double() - expected.double()).abs()
            assert off.max() <= step
            assert (off > 0).double().mean() < 0.05 or dtype == torch.float32


def test_gradients_are_those_of_the_separable_warp():
    separable, image = random_warp(2, (4, 5), torch.float64, CROPPING), image_of()
    knots = [k.requires_grad_() for k in (separable.knots_y, separable.knots_x)]
    for function in (
        lambda w, i: w.zoom(i, (8, 9)),
        lambda w, i: w.zoom(i, (5, 6), antialias=True),
        lambda w, i: w.unzoom([i, i[:, :, ::3, ::3]])[1],
        lambda w, i: w.unzoom(i),
        lambda w, i: w.zoom_points(i[:, 0, :, :2], SOURCE, ZOOMED),
        lambda w, i: w.unzoom_boxes(i[:, 0, :, :4].cumsum(2), SOURCE, ZOOMED),
    ):
        grads = []
        for kind in (lambda warp: warp, MeshWarp.from_separable):
            leaf = image.clone().requires_grad_()
            out = function(kind(SeparableWarp(*knots)), leaf)
            weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
            grads.append(torch.autograd.grad((out * weight).sum(), [leaf, *knots]))
        for got, expected in zip(grads[1], grads[0], strict=True):
            assert expected.any()
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * expected.abs().max())


@pytest.mark.parametrize("anti_crop", [True, False])
@pytest.mark.parametrize("kind", [SeparableWarp, MeshWarp])
def test_one_scenario_for_both(kind, anti_crop):
    """A detector's life with a warp, written once."""
    saliency = torch.full((2, 9, 12), 0.05)
    saliency[0, 2:5, 7:11], saliency[1, 5:8, 1:4] = 1, 1
    warp = kind.from_saliency(saliency, 5.0, anti_crop)
    y, x = torch.meshgrid(torch.arange(90.0), torch.arange(120.0), indexing="ij")
    image = torch.stack([x, y])[None].expand(2, -1, -1, -1)  # shows where each pixel comes from
    small = warp.zoom(image, (60, 80))
    (back,) = warp.unzoom([small], [(90, 120)])
    inside = warp.inside((90, 120))
    assert inside.all() == anti_crop
    assert ((back - image).abs().amax(1) * inside).max() < 1.5
    assert not (back * ~inside[:, None]).any()
    magnification = warp.magnification((90, 120))
    assert magnification[0, 35, 95] > 1.5 > 1 > magnification[0, 80, 10]
    boxes = torch.tensor([[[80.0, 25.0, 100.0, 45.0]], [[20.0, 60.0, 30.0, 80.0]]])
    there = warp.zoom_boxes(boxes, (90, 120), (60, 80))
    area = (there[..., 2:] - there[..., :2]).prod(-1)
    assert (area > 1.2 * (boxes[..., 2:] - boxes[..., :2]).prod(-1) * 60 * 80 / (90 * 120)).all()
    again = warp.unzoom_boxes(there, (90, 120), (60, 80))
    # A hull of a hull is not smaller; a separable warp has boxes for boxes.
    assert (again[..., :2] <= boxes[..., :2] + 1e-3).all()
    assert (again[..., 2:] >= boxes[..., 2:] - 1e-3).all()
    torch.testing.assert_close(again, boxes, rtol=0, atol=1e-3 if kind is SeparableWarp else 12)
    points = boxes[..., :2]
    there = warp.zoom_points(points, (90, 120), (60, 80))
    for b in range(2):
        column, row = (there[b, 0] - 0.5).tolist()
        near = small[b, :, round(row), round(column)] + 0.5
        torch.testing.assert_close(near, points[b, 0], rtol=0, atol=2.5)
    torch.testing.assert_close(warp.unzoom_points(there, (90, 120), (60, 80)), points, rtol=0, atol=1e-3)


# --- saliency -> mesh -------------------------------------------------------------------------------------------------


@few
@given(own.saliency(torch.float64, tuple(k for k in own.SALIENCY if k != "huge")), own.fwhms, st.booleans())
def test_lz_mesh_is_the_reference(saliency, fwhm, anti_crop):
    expected = reference.lz_mesh(saliency.numpy(), fwhm, anti_crop)
    assert np.abs(F.lz_mesh(saliency, fwhm, anti_crop).numpy() - expected).max() <= 1000 * EPS64
    single = saliency.float()
    expected = reference.lz_mesh(single.numpy(), fwhm, anti_crop)
    got = F.lz_mesh(single, fwhm, anti_crop)
    assert got.dtype == torch.float32
    assert np.abs(got.double().numpy() - expected).max() <= 1.01 * EPS32


@pytest.mark.parametrize("value", [0.0, 1e-38, 1.0, 1e38, -3.0])
@pytest.mark.parametrize("anti_crop", [True, False])
def test_a_constant_map_is_the_identity(value, anti_crop):
    warp = MeshWarp.from_saliency(torch.full((1, 7, 9), value), 5.0, anti_crop)
    assert_near([warp.check().mesh], [MeshWarp.identity(1, (7, 9)).mesh])


def test_one_hot_cell_draws_everything_in_reach():
    saliency = torch.zeros(1, 9, 11)
    saliency[0, 4, 7] = 1
    warp = MeshWarp.from_saliency(saliency, 3.0)
    reach, copies_x, copies_y = 8, np.array([-7, 7, 13]), np.array([-4, 4, 12])  # the cell and its mirror images
    for i in range(1, 8):
        for j in range(1, 10):
            weights = [
                np.where(np.abs(c - k) <= reach, np.exp(-4 * math.log(2) * (c - k) ** 2 / 9), 0)
                for c, k in ((copies_y, i), (copies_x, j))
            ]
            if np.outer(*weights).max() < 1e-3:
                continue  # the floor, a uniform 1e-6 of the mean, has its share
            y, x = ((w @ c) / w.sum() / n for w, c, n in zip(weights, (copies_y, copies_x), (8, 10), strict=True))
            np.testing.assert_allclose(warp.mesh[0, i, j].numpy(), [x, y], atol=1e-4)
    maps = warp.unzoom([torch.rand(1, 1, 30, 30), torch.rand(1, 1, 1, 1)], [(40, 50), (5, 8)])
    assert all(torch.isfinite(t).all() for t in maps)
    assert warp.inside((200, 300)).all()


@pytest.mark.parametrize("kind", ["dense", "sparse", "one_hot", "zero", "zero_rows", "negative", "tiny"])
def test_anti_crop_keeps_the_outline(kind):
    saliency = torch.from_numpy(own.saliency_map(kind, 5, 3, 8, 11)).float()
    mesh = F.lz_mesh(saliency, 4.0)
    for edge, value in ((mesh[:, :, 0, 0], 0), (mesh[:, :, -1, 0], 1), (mesh[:, 0, :, 1], 0), (mesh[:, -1, :, 1], 1)):
        assert (edge == value).all()
    assert mesh.min() == 0
    assert mesh.max() == 1
    warp = MeshWarp(mesh)
    assert warp.inside((97, 131)).all()
    maps = warp.unzoom(torch.ones(3, 1, 9, 7), (97, 131))
    torch.testing.assert_close(maps, torch.ones_like(maps))


def test_cropping_crops():
    saliency = torch.full((2, 9, 12), 1e-3)
    saliency[0, 3:6, 4:7], saliency[1, 2:5, 6:9] = 1, 1
    saliency.requires_grad_()
    warp = MeshWarp.from_saliency(saliency, 6.0, anti_crop=False)
    assert warp.mesh.min() > 0.05
    assert warp.mesh.max() < 0.95
    inside = warp.inside((60, 80))
    assert 0.01 < inside.double().mean() < 0.95
    ones = torch.ones(2, 1, 30, 40)
    assert_near([warp.unzoom(ones, (60, 80))], [inside[:, None].float()])
    border = warp.unzoom(ones, (60, 80), padding_mode="border")
    assert_near([border], [torch.ones_like(border)])
    out = warp.unzoom(warp.zoom(torch.rand(2, 1, 60, 80), (30, 40)), (60, 80), padding_mode="border")
    (grad,) = torch.autograd.grad(out.square().sum(), saliency)
    assert torch.isfinite(grad).all()
    assert grad.any()


def test_cropping_with_mass_at_the_edge_clamps_vertices_together():
    saliency = torch.full((1, 6, 9), 1e-4).requires_grad_()
    heavy = torch.zeros(1, 6, 9)
    heavy[0, :, 0] = 1
    warp = MeshWarp.from_saliency(saliency + heavy, 4.0, anti_crop=False)
    assert (warp.mesh[0, :, :2, 0] == 0).all()
    assert len(warp.report().zero_area)
    image = torch.rand(1, 1, 12, 13).requires_grad_()
    for tile in ("bilinear", "homography"):
        warp = MeshWarp(warp.mesh, tile)
        out = warp.unzoom(warp.zoom(image, (10, 11)), antialias=True)
        grads = torch.autograd.grad(out.sum(), [saliency, image], retain_graph=True)
        assert all(torch.isfinite(t).all() for t in (out, *grads))


def test_nan_in_one_image_stays_there():
    saliency = torch.rand(3, 5, 6)
    good = MeshWarp.from_saliency(saliency[[0, 2]])
    saliency[1, 2, 3] = math.nan
    warp = MeshWarp.from_saliency(saliency)
    assert_bitwise([warp[[0, 2]].mesh], [good.mesh])
    assert torch.isnan(warp.mesh[1]).all()
    with pytest.raises(FastwarpError, match=r"30 vertices that are not finite \(image 1: \[0, 0\]"):
        warp.check()
    image = torch.rand(3, 2, 9, 9)
    for antialias in (False, True):
        out = warp.zoom(image, (6, 6), antialias=antialias)
        assert_bitwise([out[[0, 2]]], [good.zoom(image[[0, 2]], (6, 6), antialias=antialias)])
        assert torch.isnan(out[1]).all()
        back = warp.unzoom(image, antialias=antialias)  # tiles of NaN claim nothing
        assert_bitwise([back[[0, 2]]], [good.unzoom(image[[0, 2]], antialias=antialias)])
        assert not back[1].any()
    assert not warp.inside((9, 9))[1].any()


def test_negative_cells_count_as_zero():
    saliency = torch.rand(2, 5, 6) - 0.3
    signed, clamped = saliency.clone().requires_grad_(), saliency.clamp(min=0).requires_grad_()
    warp, expected = MeshWarp.from_saliency(signed), MeshWarp.from_saliency(clamped)
    assert_bitwise([warp.mesh], [expected.mesh])
    (grad,) = torch.autograd.grad(warp.mesh.square().sum(), signed)
    (expected_grad,) = torch.autograd.grad(expected.mesh.square().sum(), clamped)
    assert not grad[saliency < 0].any()
    assert grad[saliency > 0].any()
    assert_near([grad[saliency > 0]], [expected_grad[saliency > 0]])


@pytest.mark.parametrize("scale", [1e-38, 1e38, 2.0**-20])
def test_saliency_has_no_scale(scale):
    saliency = torch.rand(2, 5, 6) + 0.1
    expected = F.lz_mesh(saliency.double())
    assert_near([F.lz_mesh(saliency.double() * scale)], [expected])
    assert_near([F.lz_mesh((saliency.double() * scale).float())], [F.lz_mesh(saliency)])
    half = torch.full((1, 5, 6), 65504.0).half()
    assert_near([F.lz_mesh(half)], [MeshWarp.identity(1, (5, 6)).mesh])
    assert F.lz_mesh(half).dtype == torch.float32


def test_zero_saliency_has_no_gradient():
    saliency = torch.zeros(1, 5, 6, requires_grad=True)
    warp = MeshWarp.from_saliency(saliency)
    (grad,) = torch.autograd.grad(warp.unzoom(torch.rand(1, 1, 9, 9)).sum(), saliency)
    assert torch.isfinite(grad).all()


# --- T~ and its inverse -----------------------------------------------------------------------------------------------


@tiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse_of_t_is_t_inverse(dtype, tile):
    mesh = random_mesh(3, (6, 9), dtype)
    points = torch.rand(3, 4000, 2, dtype=dtype)
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
    back = F.mesh_map(mesh, points, inverse=True, tile=tile)
    assert 0 <= back.min() < back.max() <= 1
    torch.testing.assert_close(F.mesh_map(mesh, back, tile=tile), points, rtol=0, atol=tolerance)
    if tile == "bilinear":  # whose T~ is one to one
        there = F.mesh_map(mesh, points)
        torch.testing.assert_close(F.mesh_map(mesh, there, inverse=True), points, rtol=0, atol=5 * tolerance)


@tiles
@pytest.mark.parametrize("turn", ["none", "rotated", "mirrored"])
def test_points_past_the_outline_go_there_and_back(turn, tile):
    """All of those inside; of those outside most: patches of random tiles, continued, leave gaps and overlap."""
    matrix = {"none": [[1, 0], [0, 1]], "rotated": [[0.6, -0.8], [0.8, 0.6]], "mirrored": [[-1, 0], [0, 1]]}[turn]
    mesh = torch.from_numpy(own.turned(random_mesh(2, dtype=torch.float64, ends=CROPPING).numpy(), matrix))
    warp = MeshWarp(mesh, tile)
    points = torch.rand(2, 500, 2, dtype=torch.float64) * 1.2 - 0.1
    zoomed = F.mesh_map(mesh, points, inverse=True, tile=tile)
    assert torch.isfinite(zoomed).all()
    inside = ((zoomed >= 0) & (zoomed <= 1)).all(-1)
    assert 0.3 < inside.double().mean() < 0.9
    right = (F.mesh_map(mesh, zoomed, tile=tile) - points).abs().amax(-1) < 1e-9
    assert right[inside].all()
    assert right.double().mean() > 0.95
    pixels = points * 60 + 0.5
    again = warp.unzoom_points(warp.zoom_points(pixels, (61, 61), ZOOMED), (61, 61), ZOOMED)
    torch.testing.assert_close(again[inside], pixels[inside], rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["random", "smooth", "spikes", "steep"])
def test_unzoom_inverts_zoom_and_fills_every_target(kind):
    height, width, maps = 600, 960, 6
    noise = torch.rand(maps, 31, 51)
    saliency = {
        "random": noise,
        "smooth": TF.avg_pool2d(noise[:, None] ** 8, 7, 1, 3)[:, 0],
        "spikes": noise**60,
        "steep": noise * torch.logspace(-6, 0, 51),
    }[kind]
    warp = MeshWarp.from_saliency(saliency, 13.0 if kind != "spikes" else 4.0)
    assert warp.inside((height, width)).all()
    zoomed = (warp.inverse_grid((height, width)).double() + 1) / 2
    back = F.mesh_map(warp.mesh.double(), zoomed.flatten(1, 2)).unflatten(1, (height, width))
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in (height, width)), indexing="ij")
    error = (back * torch.tensor([width - 1.0, height - 1.0]) - torch.stack([x, y], -1)).norm(dim=-1)
    if kind != "spikes":  # tiles of no area leave u less than one float32 step to say where x is
        assert error.max() <= 2e-3
    maps = warp.unzoom(torch.ones(maps, 1, 38, 60), (height, width))
    torch.testing.assert_close(maps, torch.ones_like(maps))


@tiles
def test_grids_with_grid_sample_are_zoom_and_unzoom(tile):
    warp = random_mesh_warp(2, (5, 7), torch.float64, CROPPING, tile=tile)
    image = image_of()
    got = TF.grid_sample(image, warp.grid((11, 12)), align_corners=True)
    torch.testing.assert_close(got, warp.zoom(image, (11, 12)), rtol=0, atol=1e-12)
    got = TF.grid_sample(image, warp.inverse_grid((17, 31)), align_corners=True)
    torch.testing.assert_close(got, warp.unzoom(image, (17, 31)), rtol=0, atol=1e-12)
    outside = ~warp.inside((17, 31))
    assert outside.any()
    assert (warp.inverse_grid((17, 31))[outside] == -3).all()
    assert not warp.unzoom(image, (17, 31)).permute(0, 2, 3, 1)[outside].any()


def test_fill_border_is_the_nearest_point_of_the_outline():
    mesh = own.turned(np.stack(np.meshgrid(np.linspace(0, 1, 4), np.linspace(0, 1, 3)), -1)[None], 0.5 * np.eye(2))
    warp = MeshWarp(torch.from_numpy(mesh))  # the middle half of the source
    image = image_of()
    got = warp.unzoom(image, (41, 41), padding_mode="border")
    clamped = (torch.linspace(0, 1, 41, dtype=torch.float64).clamp(0.25, 0.75) - 0.25) * 2
    grid = torch.stack(torch.meshgrid(clamped, clamped, indexing="xy"), -1) * 2 - 1
    expected = TF.grid_sample(image, grid.expand(2, -1, -1, -1), align_corners=True)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@tiles
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("inverse", [False, True])
def test_padded_image_equals_the_image_alone(inverse, antialias, tile):
    # Of an anti-crop warp the last targets are on the last pixels, where the gradient depends on rounding.
    mesh = random_mesh(3, (5, 7), torch.float64, CROPPING).requires_grad_()
    source_valid, valid = torch.tensor([[19, 23], [9, 23], [12, 1]]), torch.tensor([[8, 14], [12, 14], [12, 5]])
    image = torch.rand(3, 2, 19, 23, dtype=torch.float64)
    for b, (h, w) in enumerate(source_valid.tolist()):
        image[b, :, h:], image[b, :, :, w:] = math.nan, math.nan  # padding must not leak, not even times zero
    image.requires_grad_()

    def warped(image, mesh, size, **extents):
        function = F.mesh_unzoom if inverse else F.mesh_zoom
        return function(image, mesh, size, tile=tile, antialias=antialias, **extents)

    got = warped(image, mesh, (12, 14), valid=valid, source_valid=source_valid)
    cotangent = torch.rand_like(got)
    grads = torch.autograd.grad(got, [image, mesh], cotangent)
    assert all(torch.isfinite(t).all() for t in (got, *grads))
    for b, ((h, w), (sh, sw)) in enumerate(zip(valid.tolist(), source_valid.tolist(), strict=True)):
        leaves = [image[b : b + 1, :, :sh, :sw].detach().requires_grad_(), mesh[b : b + 1].detach().requires_grad_()]
        alone = warped(*leaves, (h, w))
        assert_near([got[b : b + 1, :, :h, :w]], [alone])
        assert not got[b, :, h:].any()
        assert not got[b, :, :, w:].any()
        alone_grads = torch.autograd.grad(alone, leaves, cotangent[b : b + 1, :, :h, :w])
        assert_near([grads[0][b : b + 1, :, :sh, :sw], grads[1][b : b + 1]], alone_grads)
        assert not grads[0][b, :, sh:].any()
        assert not grads[0][b, :, :, sw:].any()


def test_extents_of_nothing_and_beyond():
    warp, image = random_mesh_warp(2), torch.rand(2, 1, 6, 7)
    nothing = torch.tensor([[0, 7], [6, 7]])
    for antialias in (False, True):
        options = {"antialias": antialias}
        whole = warp.zoom(image, (6, 7), **options)
        assert not warp.zoom(image, (6, 7), source_valid=nothing, **options)[0].any()
        assert not warp.zoom(image, (6, 7), valid=nothing, **options)[0].any()
        assert not warp.unzoom(image, source_valid=nothing, **options)[0].any()
        assert_bitwise([warp.zoom(image, (6, 7), valid=nothing, **options)[1]], [whole[1]])
        assert_bitwise([warp.zoom(image, (6, 7), valid=torch.tensor([[99, 99]]), **options)], [whole])
        shared = warp.zoom(image, (6, 7), source_valid=torch.tensor([[4, 5]]), **options)
        assert_near([shared], [warp.zoom(image[:, :, :4, :5], (6, 7), **options)])


def within(grid: torch.Tensor) -> torch.Tensor:
    """Where an inverse grid is not on the outline: targets a thousandth of a tile past it count as on it."""
    return (grid.abs() < 1).all(-1)


def test_magnification_is_the_jacobian_of_the_inverse():
    for tile in ("bilinear", "homography"):
        warp = random_mesh_warp(2, (4, 5), torch.float64, CROPPING, tile=tile)
        got, step = warp.magnification((15, 17)), 1e-6
        y, x = torch.meshgrid(*(torch.linspace(0, 1, n, dtype=torch.float64) for n in (15, 17)), indexing="ij")
        points = torch.stack([x, y], -1).flatten(0, 1)[None]
        columns = []
        for axis in ([step, 0], [0, step]):
            ends = [F.mesh_map(warp.mesh, points + s * torch.tensor(axis), inverse=True, tile=tile) for s in (1, -1)]
            columns.append((ends[0] - ends[1]) / (2 * step))
        expected = (columns[0][..., 0] * columns[1][..., 1] - columns[0][..., 1] * columns[1][..., 0]).abs()
        inside = warp.inside((15, 17))
        assert not got[~inside].any()
        inside = within(warp.inverse_grid((15, 17)))
        assert inside.any()
        torch.testing.assert_close(got[inside], expected.view_as(got)[inside], rtol=1e-5, atol=0)
    warp = random_mesh_warp(2, dtype=torch.float64)
    mean = warp.magnification((500, 601)).mean((1, 2))  # over the source of zoomed by source area
    torch.testing.assert_close(mean, torch.ones_like(mean), rtol=0, atol=5e-3)


# --- boxes ------------------------------------------------------------------------------------------------------------


@tiles
@pytest.mark.parametrize("direction", ["zoom", "unzoom"])
def test_hull_of_a_warped_box_contains_its_points(direction, tile):
    """But for what a curved edge does between two of its points."""
    saliency = TF.avg_pool2d(torch.rand(2, 1, 15, 21) ** 8, 5, 1, 2)[:, 0] + 0.01
    warp = MeshWarp.from_saliency(saliency, 6.0, tile=tile)
    corners = torch.rand(2, 30, 2) * 150
    boxes = torch.cat([corners, corners + 5 + torch.rand(2, 30, 2) * 60], 2)
    share = torch.rand(2, 30, 200, 2)
    share[:, :, :50, 0] = torch.rand(2, 30, 50).round()  # some on the edges
    points = boxes[:, :, None, :2] + share * (boxes[:, :, None, 2:] - boxes[:, :, None, :2])
    sizes = (240, 320), (240, 320)
    hulls = getattr(warp, f"{direction}_boxes")(boxes, *sizes)
    mapped = getattr(warp, f"{direction}_points")(points.flatten(1, 2), *sizes).unflatten(1, (30, 200))
    assert ((mapped - hulls[:, :, None, :2]).amin() > -1.0) & ((hulls[:, :, None, 2:] - mapped).amin() > -1.0)
    for found, edge in ((mapped.amin(2), hulls[..., :2]), (mapped.amax(2), hulls[..., 2:])):
        assert (found - edge).abs().max() < 12  # and is no larger than it must be
    four = getattr(warp, f"{direction}_corners")(boxes, *sizes)
    x1, y1, x2, y2 = boxes.unbind(-1)
    places = torch.stack([torch.stack(p, -1) for p in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))], 2)
    alone = getattr(warp, f"{direction}_points")(places.flatten(1, 2), *sizes)
    assert_bitwise([four], [alone.unflatten(1, (30, 4))])
    assert (four.amin(2) >= hulls[..., :2]).all()
    assert (four.amax(2) <= hulls[..., 2:]).all()


def test_boxes_of_a_rotation():
    """A quarter turn takes boxes to boxes, their corners to others."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in (3, 4)), indexing="ij")
    warp = MeshWarp(torch.stack([1 - y, x], -1)[None]).check()  # zoomed (x, y) shows source (1 - y, x)
    box = torch.tensor([[2.5, 3.5, 8.5, 5.5]])
    assert_near([warp.unzoom_boxes(box, (21, 21), (21, 21))], [torch.tensor([[15.5, 2.5, 17.5, 8.5]])])
    expected = torch.tensor([[[17.5, 2.5], [17.5, 8.5], [15.5, 8.5], [15.5, 2.5]]])
    assert_near([warp.unzoom_corners(box, (21, 21), (21, 21))], [expected])
    assert_near([warp.zoom_boxes(warp.unzoom_boxes(box, (21, 21), (21, 21)), (21, 21), (21, 21))], [box])


def test_half_precision_boxes_are_taken_up_before_their_edges_are_divided():
    warp = random_mesh_warp(1)
    boxes = torch.tensor([[1000.0, 1002.0, 1003.0, 1005.0]])
    for name in ("zoom_boxes", "unzoom_corners"):
        got = getattr(warp, name)(boxes.half(), (1100, 1100), (1100, 1100))
        assert_bitwise([got], [getattr(warp, name)(boxes, (1100, 1100), (1100, 1100))])


# --- tiles ------------------------------------------------------------------------------------------------------------


@tiles
def test_affine_meshes_are_exact(tile):
    matrix, shift = torch.tensor([[0.7, -0.3], [0.2, 0.6]], dtype=torch.float64), torch.tensor([0.25, 0.08]).double()
    plain = MeshWarp.identity(1, (4, 6), dtype=torch.float64).mesh
    mesh = plain @ matrix.mT + shift
    points = torch.rand(1, 1000, 2, dtype=torch.float64) * 1.6 - 0.3
    torch.testing.assert_close(F.mesh_map(mesh, points, tile=tile), points @ matrix.mT + shift, rtol=0, atol=1e-14)
    back = (points - shift) @ torch.linalg.inv(matrix).mT
    torch.testing.assert_close(F.mesh_map(mesh, points, inverse=True, tile=tile), back, rtol=0, atol=1e-12)
    warp = MeshWarp(mesh, tile).check()
    inside = warp.inside((19, 23))
    area = torch.full((1, 19, 23), 1 / torch.linalg.det(matrix).item(), dtype=torch.float64)
    torch.testing.assert_close(warp.magnification((19, 23)), torch.where(inside, area, 0), rtol=1e-9, atol=0)


def homography(points: torch.Tensor) -> torch.Tensor:
    """A perspective view of the unit square, one to one."""
    matrix = torch.tensor([[0.9, 0.15, 0.03], [0.1, 0.7, 0.08], [0.25, 0.5, 1.0]], dtype=torch.float64)
    x, y, w = (points @ matrix[:, :2].mT + matrix[:, 2]).unbind(-1)
    return torch.stack([x, y], -1) / w[..., None]


@pytest.mark.parametrize("shape", [(2, 2), (5, 7)])
def test_a_perspective_mesh_has_its_homography(shape):
    """Sampled at the vertices, a homography is what its tiles' homographies are everywhere, past the outline too."""
    mesh = homography(MeshWarp.identity(1, shape, dtype=torch.float64).mesh)
    points = torch.rand(1, 2000, 2, dtype=torch.float64) * 1.2 - 0.1
    torch.testing.assert_close(F.mesh_map(mesh, points, tile="homography"), homography(points), rtol=0, atol=1e-12)
    back = F.mesh_map(mesh, homography(points), inverse=True, tile="homography")
    torch.testing.assert_close(back, points, rtol=0, atol=1e-11)
    assert (F.mesh_map(mesh, points) - homography(points)).abs().max() > 1e-4  # a bilinear tile's is another map
    warp = MeshWarp(mesh, "homography")
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n, dtype=torch.float64) for n in (13, 17)), indexing="ij")
    expected = homography(torch.stack([x, y], -1)[None]) * 2 - 1
    torch.testing.assert_close(warp.grid((13, 17)), expected, rtol=0, atol=1e-12)
    grid = warp.inverse_grid((40, 50))
    inside, grid = within(grid), (grid + 1) / 2
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n, dtype=torch.float64) for n in (40, 50)), indexing="ij")
    torch.testing.assert_close(homography(grid)[inside], torch.stack([x, y], -1)[None][inside], rtol=0, atol=1e-12)
    assert inside.double().mean() > 0.2


def jump(mesh: torch.Tensor, tile: str, axis: int) -> float:
    """By how much T~ jumps across the inner edges along x (axis 1: horizontal ones) or y (0: vertical ones)."""
    cells = mesh.shape[2 - axis] - 1
    across = torch.arange(1, cells, dtype=torch.float64) / cells
    along = torch.rand(50, dtype=torch.float64)
    ends = []
    for side in (-1e-12, 1e-12):
        pair = [a.flatten() for a in torch.meshgrid(across + side, along, indexing="ij")]
        ends.append(F.mesh_map(mesh, torch.stack(pair if axis == 0 else pair[::-1], -1)[None], tile=tile))
    return (ends[1] - ends[0]).abs().max().item()


def test_continuity_across_tiles():
    """What MeshWarp's docstring says: bilinear tiles meet; homographies divide a common edge differently unless it is
    parallel to the opposite edges."""
    mesh = random_mesh(1, (5, 6), torch.float64)
    assert max(jump(mesh, "bilinear", axis) for axis in (0, 1)) < 1e-9
    assert min(jump(mesh, "homography", axis) for axis in (0, 1)) > 1e-3
    rows = mesh.clone()
    rows[..., 1] = mesh[:, :, :1, 1]  # all rows horizontal: trapezoids
    assert jump(rows, "homography", 1) < 1e-9
    assert jump(rows, "homography", 0) > 1e-3


def test_a_homography_keeps_lines_straight():
    mesh = torch.tensor([[[[0.0, 0.1], [0.9, 0.0]], [[0.2, 0.8], [0.7, 1.0]]]], dtype=torch.float64)
    line = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None] * torch.tensor([0.8, 0.9]) + torch.tensor([0.1, 0.05])
    bends = {}
    for tile in ("bilinear", "homography"):
        mapped = F.mesh_map(mesh, line[None], tile=tile)[0]
        along = mapped[-1] - mapped[0]
        away = mapped - mapped[0]
        bends[tile] = ((away[:, 0] * along[1] - away[:, 1] * along[0]) / along.norm()).abs().max().item()
    assert bends["homography"] < 1e-12
    assert bends["bilinear"] > 1e-2


def test_a_quad_that_is_not_convex_has_no_homography():
    mesh = torch.tensor([[[[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.2, 0.3]]]], dtype=torch.float64)
    points = torch.rand(1, 50, 2, dtype=torch.float64)
    assert_bitwise([F.mesh_map(mesh, points, tile="homography")], [F.mesh_map(mesh, points)])


# --- flaws ------------------------------------------------------------------------------------------------------------


def flawed() -> MeshWarp:
    """One image for each kind: none, a fold, mirrored, collapsed columns, a NaN, outside."""
    mesh = MeshWarp.identity(6, (4, 5)).mesh
    mesh[1, 1, 2, 0] = 0.9  # to the right of its right neighbour
    mesh[2, ..., 0] = 1 - mesh[2, ..., 0]
    mesh[3, :, 1] = mesh[3, :, 2]
    mesh[4, 2, 3, 1] = math.nan
    mesh[5] = mesh[5] * 1.5 - 0.25
    return MeshWarp(mesh)


def test_report_finds_flaws():
    warp = flawed()
    reports = [w.report() for w in warp]
    assert [r.ok for r in reports] == [True, False, False, True, False, True]
    assert str(reports[0]) == "no flaws"
    counts = [tuple(len(getattr(r, f.name)) for f in dataclasses.fields(r)[:4]) for r in reports]
    assert counts[0] == (0, 0, 0, 0)
    assert set(map(tuple, reports[1].folded.tolist())) >= {(0, 0, 2), (0, 1, 2)}
    assert counts[1][0] == counts[1][2] == counts[1][3] == 0
    assert counts[2] == (0, 12, 0, 0)
    assert counts[3] == (0, 0, 3, 0)
    assert reports[3].zero_area.tolist() == [[0, i, 1] for i in range(3)]
    assert reports[4].not_finite.tolist() == [[0, 2, 3]]
    assert counts[4] == (1, 0, 0, 0)
    assert counts[5] == (0, 0, 0, 14)
    whole = warp.report()
    assert whole.not_finite.tolist() == [[4, 2, 3]]
    assert whole.zero_area.tolist() == [[3, i, 1] for i in range(3)]
    assert not whole.ok
    text = str(whole)
    assert "1 vertices that are not finite (image 4: [2, 3])" in text
    assert "3 tiles without area (image 3: [0, 1]; image 3: [1, 1]; image 3: [2, 1])" in text
    assert f"{len(whole.folded)} folded tiles (image 1: [" in text
    assert "; ...)" in text
    assert "14 vertices outside [0, 1] (image 5: [0, 0];" in text


def test_a_triangle_counts_as_folded():
    """Two equal corners: the Jacobian is 0 there, and the tile has an area."""
    mesh = MeshWarp.identity(1, (2, 2)).mesh
    mesh[0, 1, 1] = mesh[0, 0, 1]
    report = MeshWarp(mesh).report()
    assert report.folded.tolist() == [[0, 0, 0]]
    assert report.ok  # but covers no place twice
    assert not len(report.zero_area)


def test_check_raises_for_what_has_no_inverse():
    warp = flawed()
    for good in (0, 3, 5):
        assert warp[good].check().mesh.shape == (1, 4, 5, 2)
    with pytest.raises(FastwarpError, match=r"MeshWarp.check: mesh is a mesh with 12 folded tiles \(image 0: \[0, 0\]"):
        warp[2].check()
    with pytest.raises(FastwarpError, match=r"MeshWarp.check: mesh is a mesh with .* folded tiles .* expected finite"):
        warp[1].check()
    with pytest.raises(FastwarpError, match=r"1 vertices that are not finite \(image 0: \[2, 3\]\), expected finite"):
        warp[4].check()


@tiles
def test_flawed_meshes_never_crash(tile):
    warp = MeshWarp(flawed().mesh, tile)
    image = torch.rand(6, 2, 9, 11)
    valid = warp.inside((30, 40))
    assert valid[[0, 1, 2, 3, 5]].all()  # mirrored is inside out but inverts, folded is covered at least once
    assert 0.3 < valid[4].double().mean() < 0.95  # the four tiles of the NaN own nothing
    for padding_mode in ("zeros", "border"):
        back = warp.unzoom(image, (30, 40), padding_mode=padding_mode)
        assert torch.isfinite(back).all()
    mirrored = warp[2].unzoom(image[2:3])
    torch.testing.assert_close(mirrored, image[2:3].flip(3), rtol=0, atol=1e-5)
    for function in (
        lambda w: w.zoom(image, (7, 8)),
        lambda w: w.zoom(image, (3, 4), antialias=True),
        lambda w: w.magnification((9, 11)),
        lambda w: w.zoom_points(torch.rand(6, 40, 2) * 60 - 10, SOURCE, ZOOMED),
        lambda w: w.unzoom_boxes(boxes_of().float()[:1].expand(6, -1, -1), SOURCE, ZOOMED),
    ):
        finite = torch.isfinite(function(warp)).flatten(1).all(1)
        assert finite[[0, 1, 2, 3, 5]].all()
    mesh = warp.mesh[[0, 1, 2, 3, 5]].requires_grad_()
    sound = MeshWarp(mesh, tile)
    out = sound.unzoom(sound.zoom(image[:5], (8, 9), antialias=True), (20, 21), antialias=True)
    (grad,) = torch.autograd.grad(out.square().sum(), mesh)
    assert torch.isfinite(grad).all()
    point = MeshWarp(torch.full((1, 3, 4, 2), 0.4), tile)
    assert torch.isfinite(point.unzoom(image[:1], padding_mode="border")).all()
    assert len(point.report().zero_area) == 6


def test_where_a_mesh_folds_the_first_tile_counts():
    """Three columns of the identity, the last one laid back over the others."""
    mesh = MeshWarp.identity(1, (2, 4), dtype=torch.float64).mesh
    mesh[..., 0] = torch.tensor([0.0, 0.5, 1.0, 0.25])
    warp = MeshWarp(mesh)
    zoomed = (warp.inverse_grid((3, 33))[0, 1, :, 0] + 1) / 2
    expected = torch.linspace(0, 1, 33, dtype=torch.float64) * 2 / 3  # of the first two tiles
    torch.testing.assert_close(zoomed, expected, rtol=0, atol=1e-12)
