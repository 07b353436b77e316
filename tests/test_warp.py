"""Both kinds of warps: the object, what is written for one runs with the other, padded batches, exactness."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import NamedTuple

import numpy as np
import pytest
import strategies as own
import torch
import torch.nn.functional as TF
from helpers import KINDS, assert_bitwise, assert_near, random_warp, tensors, warp_of, with_geometry
from torch.utils import _pytree as pytree

from fastwarp import FastwarpError, MeshWarp, SeparableWarp

kinds = pytest.mark.parametrize("kind", KINDS)

CROPPING = (0.083, 0.927)
SOURCE, ZOOMED = (37, 61), (13, 24)


# --- the object -------------------------------------------------------------------------------------------------------


@kinds
def test_is_frozen(kind):
    warp = warp_of(kind)
    for name in ("knots_y", "knots_x") if kind == "separable" else ("mesh", "tile"):
        with pytest.raises(AttributeError):
            setattr(warp, name, getattr(warp, name))


def assert_same_warp(got, expected) -> None:
    assert type(got) is type(expected)
    assert getattr(got, "tile", None) == getattr(expected, "tile", None)
    assert_bitwise(tensors(got), tensors(expected))


@kinds
def test_is_a_pytree(kind):
    warp = warp_of(kind)
    leaves, spec = pytree.tree_flatten({"warp": warp, "other": 3})
    assert_bitwise(leaves[:-1], [warp.mesh] if kind != "separable" else [warp.knots_y, warp.knots_x])
    assert_same_warp(pytree.tree_unflatten(leaves, spec)["warp"], warp)
    assert_same_warp(pytree.tree_map(torch.Tensor.double, warp), warp.to(dtype=torch.float64))
    # Trees are also rebuilt around placeholders.
    leaf = pytree.tree_map(lambda _: "leaf", warp)
    assert (leaf.knots_x if kind == "separable" else leaf.mesh) == "leaf"
    for other in KINDS:
        assert (pytree.tree_structure(warp) == pytree.tree_structure(warp_of(other))) == (other == kind)


@kinds
def test_passes_through_compiled_functions(kind):
    def halve(warp, image):
        if isinstance(warp, MeshWarp):
            return warp.unzoom(image, (4, 4)), MeshWarp(warp.mesh * 0.5, warp.tile)
        return warp.zoom(image, (4, 4)), SeparableWarp(warp.knots_y * 0.5, warp.knots_x)

    warp, image = warp_of(kind), torch.rand(2, 1, 8, 8)
    small, other = torch.compile(halve, fullgraph=True, backend="aot_eager")(warp, image)
    expected, same = halve(warp, image)
    assert_near([small], [expected])
    assert_same_warp(other, same)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_copies(dtype, kind):
    warp = warp_of(kind, 3, dtype=dtype)
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
        type(warp).cat([warp[0], warp[1:]]),
    ):
        assert_same_warp(again, warp)
    assert tensors(copy.deepcopy(warp))[0].data_ptr() != tensors(warp)[0].data_ptr()


@pytest.mark.parametrize("cls", [SeparableWarp, MeshWarp])
def test_to_and_detach(cls):
    warp = cls.from_saliency(torch.rand(1, 4, 5).requires_grad_())
    assert not any(t.requires_grad for t in tensors(warp.detach()))
    wide = warp.to(dtype=torch.float64)
    assert all(t.requires_grad for t in tensors(wide[0]))
    assert_bitwise(tensors(wide), [t.double() for t in tensors(warp)])
    assert {t.device.type for t in tensors(warp.to("meta"))} == {"meta"}


@kinds
def test_indexing(kind):
    warp = warp_of(kind, 5)
    assert len(warp) == 5
    for index, places in (
        (1, [1]),
        (-1, [4]),
        (slice(1, 4, 2), [1, 3]),
        (slice(0, 0), []),
        (torch.tensor([3, 0]), [3, 0]),
        ([3, 0], [3, 0]),
        (torch.tensor([True, False, True, False, False]), [0, 2]),
    ):
        assert_same_warp(warp[index], with_geometry(warp, [t[places] for t in tensors(warp)]))
        assert len(warp[index]) == len(places)
    assert [len(w) for w in warp] == [1] * 5  # iterates
    for index in (5, -6):
        with pytest.raises(IndexError, match="batch of 5"):
            warp[index]


def test_indexing_where_one_axis_is_shared():
    warp = SeparableWarp(random_warp(1).knots_y, random_warp(3).knots_x)
    assert len(warp) == 3
    assert_same_warp(warp[2], SeparableWarp(warp.knots_y, warp.knots_x[2:]))
    assert_same_warp(warp[1:], SeparableWarp(warp.knots_y.expand(2, -1), warp.knots_x[1:]))


def test_repr_says_what_it_is():
    separable, mesh = (repr(warp_of(kind, 3, (4, 6), torch.float64)) for kind in KINDS[:2])
    assert separable == "SeparableWarp(batch=3, knots=(4, 6), torch.float64, device='cpu')"
    assert mesh == "MeshWarp(batch=3, vertices=(4, 6), tile='bilinear', torch.float64, device='cpu')"


@pytest.mark.parametrize("size", [(7, 9), (1, 1), (2, 31)])
@kinds
def test_identity_is_the_identity(kind, size):
    """Not near the image but the image, in single precision too."""
    cls, options = (SeparableWarp, {}) if kind == "separable" else (MeshWarp, {"tile": kind})
    image = torch.rand(2, 3, *size, dtype=torch.float64)
    for dtype, source, tolerance in ((torch.float32, image.float(), 2e-6), (torch.float64, image, 1e-12)):
        warp = cls.identity(1, (5, 6), dtype=dtype, **options)
        assert getattr(warp, "tile", "separable") == kind
        assert warp.check() is warp
        for antialias in (False, True):
            torch.testing.assert_close(warp.zoom(source, size, antialias=antialias), source, rtol=0, atol=tolerance)
            torch.testing.assert_close(warp.unzoom(source, antialias=antialias), source, rtol=0, atol=tolerance)
        assert warp.inside(size).all()
        torch.testing.assert_close(warp.magnification(size), torch.ones(1, *size, dtype=dtype))
    expected = TF.interpolate(image, (4, 5), mode="bilinear", align_corners=True)
    torch.testing.assert_close(warp.zoom(image, (4, 5)), expected, rtol=0, atol=1e-12)
    many = cls.identity(3, (4, 7), dtype=torch.float64, **options)
    x = many.knots_x if kind == "separable" else many.mesh[:, 1, :, 0]
    np.testing.assert_allclose(x.numpy(), np.tile(np.arange(7) / 6, (3, 1)), atol=1e-15)


def test_check_names_the_first_bad_knot():
    warp = random_warp(3, (4, 6))
    assert warp.check() is warp
    bad = warp.knots_x.clone()
    bad[1, 3] = bad[1, 2] - 0.01
    with pytest.raises(FastwarpError, match=r"SeparableWarp.check: knots_x\[1, 2:4\] is \[.*\], expected knots that"):
        SeparableWarp(warp.knots_y, bad).check()
    bad[2, 4] = math.inf
    with pytest.raises(FastwarpError, match=r"SeparableWarp.check: knots_x\[2, 4\] is inf, expected finite"):
        SeparableWarp(warp.knots_y, bad).check()
    equal = warp.knots_x.clone()
    equal[:, 2] = equal[:, 1]
    SeparableWarp(warp.knots_y, equal).check()


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


@pytest.mark.parametrize("tile", KINDS[1:])
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
        for make in (lambda warp: warp, MeshWarp.from_separable):
            leaf = image.clone().requires_grad_()
            out = function(make(SeparableWarp(*knots)), leaf)
            weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
            grads.append(torch.autograd.grad((out * weight).sum(), [leaf, *knots]))
        for got, expected in zip(grads[1], grads[0], strict=True):
            assert expected.any()
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9 * expected.abs().max())


@pytest.mark.parametrize("anti_crop", [True, False])
@pytest.mark.parametrize("cls", [SeparableWarp, MeshWarp])
def test_one_scenario_for_both(cls, anti_crop):
    """A detector's life with a warp, written once."""
    saliency = torch.full((2, 9, 12), 0.05)
    saliency[0, 2:5, 7:11], saliency[1, 5:8, 1:4] = 1, 1
    warp = cls.from_saliency(saliency, 5.0, anti_crop)
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
    torch.testing.assert_close(again, boxes, rtol=0, atol=1e-3 if cls is SeparableWarp else 12)
    points = boxes[..., :2]
    there = warp.zoom_points(points, (90, 120), (60, 80))
    for b in range(2):
        column, row = (there[b, 0] - 0.5).tolist()
        near = small[b, :, round(row), round(column)] + 0.5
        torch.testing.assert_close(near, points[b, 0], rtol=0, atol=2.5)
    torch.testing.assert_close(warp.unzoom_points(there, (90, 120), (60, 80)), points, rtol=0, atol=1e-3)


@kinds
def test_zoom_frame_is_zoom_and_normalisation(kind):
    warp = warp_of(kind, 2, (5, 7), torch.float64, CROPPING)
    mean, std = CAMERA["mean"], CAMERA["std"]
    image = FRAME.permute(0, 3, 1, 2).double()
    shift, scale = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (mean, std))
    for antialias in (False, True):
        got = warp.zoom_frame(FRAME, (9, 11), antialias=antialias, **CAMERA)
        expected = (warp.zoom(image, (9, 11), antialias=antialias) - shift) / scale
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    assert got.is_contiguous()
    assert_bitwise([warp[0].zoom_frame(FRAME[0], (9, 11), antialias=True, **CAMERA)], [got[:1]])
    valid = torch.tensor([[9, 5], [4, 11]])
    padded = warp.zoom_frame(FRAME, (9, 11), mean=mean, std=std, valid=valid)
    assert padded.dtype == torch.float32
    assert not padded[0, :, :, 5:].any()  # 0 after normalisation
    assert not padded[1, :, 4:].any()


# --- pyramids ---------------------------------------------------------------------------------------------------------


@kinds
def test_structures_of_levels(kind):
    warp = warp_of(kind, 2)
    p3, p4 = torch.rand(2, 4, 13, 17), torch.rand(2, 6, 7, 9)
    alone = [warp.unzoom(p3), warp.unzoom(p4)]
    for levels in ([p3, p4], (p3, p4), {"p4": p4, "p3": p3}, Maps(p3, p4)):
        got = warp.unzoom(levels)
        assert type(got) is type(levels)
        values = [got["p3"], got["p4"]] if isinstance(got, dict) else list(got)
        assert_bitwise(values, alone)
        if isinstance(levels, dict):
            assert list(got) == ["p4", "p3"]
    sizes = {"p3": (26, 34), "p4": (5, 5)}
    got = warp.unzoom({"p4": p4, "p3": p3}, sizes)
    assert_bitwise([got["p3"], got["p4"]], [warp.unzoom(p3, (26, 34)), warp.unzoom(p4, (5, 5))])
    assert_bitwise(list(warp.unzoom(Maps(p3, p4), [(26, 34), (5, 5)])), [got["p3"], got["p4"]])
    assert_bitwise(warp.unzoom([p3]), alone[:1])


# --- padded batches ---------------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("inverse", [False, True])
def test_padded_image_equals_the_image_alone(inverse, antialias, kind):
    # Of an anti-crop mesh the last targets are on the last pixels, where the gradient depends on rounding.
    warp = warp_of(kind, 3, (5, 7), torch.float64, (0.0, 1.0) if kind == "separable" else CROPPING)
    geometry = [t.requires_grad_() for t in tensors(warp)]
    source_valid, valid = torch.tensor([[19, 23], [9, 23], [12, 1]]), torch.tensor([[8, 14], [12, 14], [12, 5]])
    image = torch.rand(3, 2, 19, 23, dtype=torch.float64)
    for b, (h, w) in enumerate(source_valid.tolist()):
        image[b, :, h:], image[b, :, :, w:] = math.nan, math.nan  # padding must not leak, not even times zero
    image.requires_grad_()

    def warped(image, geometry, size, **extents):
        again = with_geometry(warp, geometry)
        return (again.unzoom if inverse else again.zoom)(image, size, antialias=antialias, **extents)

    got = warped(image, geometry, (12, 14), valid=valid, source_valid=source_valid)
    cotangent = torch.rand_like(got)
    grads = torch.autograd.grad(got, [image, *geometry], cotangent)
    assert all(torch.isfinite(t).all() for t in (got, *grads))
    for b, ((h, w), (sh, sw)) in enumerate(zip(valid.tolist(), source_valid.tolist(), strict=True)):
        leaves = [image[b : b + 1, :, :sh, :sw].detach(), *(t[b : b + 1].detach() for t in geometry)]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        alone = warped(leaves[0], leaves[1:], (h, w))
        assert_near([got[b : b + 1, :, :h, :w]], [alone])
        assert not got[b, :, h:].any()
        assert not got[b, :, :, w:].any()
        alone_grads = torch.autograd.grad(alone, leaves, cotangent[b : b + 1, :, :h, :w])
        assert_near([grads[0][b : b + 1, :, :sh, :sw], *(g[b : b + 1] for g in grads[1:])], alone_grads)
        assert not grads[0][b, :, sh:].any()
        assert not grads[0][b, :, :, sw:].any()


@kinds
def test_levels_have_extents_of_their_own(kind):
    warp = warp_of(kind, 2)
    p3, p4 = torch.rand(2, 1, 12, 14), torch.rand(2, 1, 6, 7)
    valid = {"p4": torch.tensor([[6, 7], [3, 4]]), "p3": torch.tensor([[12, 14], [5, 8]], dtype=torch.int32)}
    got = warp.unzoom({"p3": p3, "p4": p4}, valid=valid, source_valid=valid)
    for name, level in (("p3", p3), ("p4", p4)):
        for b, (h, w) in enumerate(valid[name].tolist()):
            assert_near([got[name][b : b + 1, :, :h, :w]], [warp[b].unzoom(level[b : b + 1, :, :h, :w])])


@kinds
@pytest.mark.parametrize("antialias", [False, True])
def test_extents_of_nothing_and_beyond(antialias, kind):
    warp, image = warp_of(kind, 2), torch.rand(2, 1, 6, 7)
    nothing, options = torch.tensor([[0, 7], [6, 7]]), {"antialias": antialias}
    whole = warp.zoom(image, (6, 7), **options)
    assert not warp.zoom(image, (6, 7), source_valid=nothing, **options)[0].any()
    assert not warp.zoom(image, (6, 7), valid=nothing, **options)[0].any()
    assert not warp.unzoom(image, source_valid=nothing, **options)[0].any()
    assert_bitwise([warp.zoom(image, (6, 7), valid=nothing, **options)[1]], [whole[1]])
    assert_bitwise([warp.zoom(image, (6, 7), valid=torch.tensor([[99, 99]]), **options)], [whole])
    shared = warp.zoom(image, (6, 7), source_valid=torch.tensor([[4, 5]]), **options)
    assert_near([shared], [warp.zoom(image[:, :, :4, :5], (6, 7), **options)])
