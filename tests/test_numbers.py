"""Numbers are what `F.interpolate` takes for numbers: Python's, NumPy's, and for integers tensors of one element."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from helpers import assert_bitwise, random_mesh_warp, random_warp
from torch.utils import _pytree as pytree

import fastwarp
from fastwarp import FastwarpError, MeshWarp, SeparableWarp, saliency
from fastwarp import functional as F
from fastwarp.errors import as_integer, as_real
from fastwarp.nn import DownsizeNet, Unzoom, Zoom

INTEGERS = {
    "int64": np.int64,
    "uint8": np.uint8,
    "tensor": torch.tensor,
    "one element": lambda n: torch.tensor([n], dtype=torch.int32),
}
REALS = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "longdouble": np.longdouble}

IMAGE = torch.rand(2, 3, 9, 11, generator=torch.Generator().manual_seed(1))
FRAME = (255 * IMAGE[0].permute(1, 2, 0)).byte()
MAP = torch.rand(1, 5, 7, generator=torch.Generator().manual_seed(2)) + 0.1
BOXES = torch.tensor([[1.0, 2.0, 5.0, 7.0], [3.0, 1.0, 9.0, 6.0]])
POINTS = torch.rand(1, 6, 2, generator=torch.Generator().manual_seed(3))


def net(**options):
    torch.manual_seed(0)
    return DownsizeNet(**options)


def made(warp):
    return pytree.tree_leaves(warp)


# By functions of i and r, which make an integer and a real number of the kind that is tested.
WARPS = {
    "zoom": lambda w, i, r: w.zoom(IMAGE, (i(4), i(5))),
    "unzoom": lambda w, i, r: w.unzoom([IMAGE, IMAGE], [(i(4), i(5)), [i(3), 5]]),
    "registered": lambda w, i, r: w.unzoom(
        [IMAGE, IMAGE], image_size=(i(18), i(22)), strides=[i(2), (i(2), i(2))], phase=[r(0.5), r(0)]
    ),
    "phase": lambda w, i, r: w.unzoom(IMAGE, image_size=(18, 22), phase=r(0.5)),
    "zoom_frame": lambda w, i, r: w[0].zoom_frame(FRAME, (i(4), i(5)), mean=[r(0.5), r(1), r(0.25)], std=[r(2.0)] * 3),
    "grid": lambda w, i, r: [w.grid((i(4), i(5))), w.inverse_grid((i(4), i(5))), w.inside((i(4), i(5)))],
    "magnification": lambda w, i, r: w.magnification((i(4), i(5))),
    "points": lambda w, i, r: [
        w[0].zoom_points(4 * POINTS[0], (i(9), i(11)), (i(4), i(5))),
        w[0].unzoom_boxes(BOXES, (i(9), i(11)), (i(4), i(5))),
    ],
    "index": lambda w, i, r: [made(w[i(1)]), made(w[-1]), made(w[i(0) : i(1)])],
    "identity": lambda w, i, r: made(type(w).identity(i(2), (i(3), i(4)))),
    "from_saliency": lambda w, i, r: made(type(w).from_saliency(MAP, r(2.5))) + made(type(w).from_saliency(MAP, r(2))),
    "modules": lambda w, i, r: [
        Zoom((i(4), i(5)), w)(IMAGE),
        Zoom(saliency=MAP, fwhm=r(2.5))(IMAGE, size=(i(4), i(5))),
        Unzoom(w)(IMAGE, size=(i(4), i(5))),
    ],
}
OTHERS = {
    "from_cdf": lambda i, r: made(SeparableWarp.from_cdf(MAP[:, 0], MAP[:, :, 0], (i(4), i(5)))),
    "limited": lambda i, r: made(SeparableWarp.from_saliency(MAP).limited(r(0.75), r(1.5))),
    "meshes": lambda i, r: [
        made(MeshWarp.from_function(lambda p: p * p, (i(4), i(5)))),
        made(MeshWarp.from_control_points(POINTS, POINTS.flip(2), (i(4), i(5)))),
        made(MeshWarp.from_offsets(torch.zeros(1, 4, 5, 2), (i(9), i(11)))),
    ],
    "DownsizeNet": lambda i, r: [
        net(size=(i(4), i(5)), in_channels=i(3), channels=i(4), layers=i(2), mean=[r(0.5)] * 3, std=[r(2.0)] * 3)(
            IMAGE
        ),
        net(scale_factor=r(0.5))(IMAGE),
        net(scale_factor=(r(0.5), r(0.75)))(IMAGE, (i(4), i(5))),
        net(size=(4, 5), taps="area", footprint=i(5))(IMAGE),
        net(size=(4, 5), taps="area", footprint=(i(4), i(5)))(IMAGE),
        net(size=(4, 5)).pool_boxes(IMAGE, [BOXES, BOXES], (i(2), i(3)), spatial_scale=r(0.5)),
    ],
    "relative_distance": lambda i, r: F.relative_distance((i(4), i(5)), (i(9), i(11)), taps="area", footprint=i(5)),
    "boxes": lambda i, r: [
        saliency.box_density(BOXES, (i(9), i(11)), (i(4), i(5)), r(0.5), r(32.0)),
        *saliency.box_knots(BOXES, (i(9), i(11)), (i(4), i(5)), r(1), r(32), r(2.5)),
        saliency.AdaptiveSaliency((i(9), i(11)), (i(4), i(5)), alpha=r(0.5), threshold=r(0.25))(),
        saliency.jitter_boxes(BOXES, r(0.5), r(2), generator=torch.Generator().manual_seed(0)),
    ],
    "maps": lambda i, r: [
        saliency.boundary_density(torch.eye(8).long(), (i(4), i(5)), r(2.0), r(1), i(0)),
        saliency.perspective_density((r(4.5), r(3)), (i(9), i(11)), (i(4), i(5)), ground=r(2.0), far=r(0.25)),
        saliency.perspective_mesh((r(4.5), r(3)), (i(9), i(11)), (i(4), i(5)), sky=r(2), horizon=r(0.25)),
        saliency.PerspectivePrior((r(4.5), r(3)), (i(9), i(11)), (i(4), i(5)), lateral=r(0.5))(),
    ],
    "learned": lambda i, r: saliency.LearnedSaliency((i(4), i(5)), i(3), i(2), floor=r(0.5))(IMAGE),
    "schedule": lambda i, r: saliency.CascadeSchedule(i(3), i(1))(i(2)) == "detections",
}


def results(call, i, r) -> list[torch.Tensor]:
    torch.manual_seed(0)
    leaves = pytree.tree_leaves(call(i, r))
    return [leaf.detach() if isinstance(leaf, torch.Tensor) else torch.tensor(leaf) for leaf in leaves]


CALLS = {
    **{f"{kind} {name}": (kind, call) for kind in ("separable", "mesh") for name, call in WARPS.items()},
    **{name: (None, call) for name, call in OTHERS.items()},
}


@pytest.mark.parametrize("name", CALLS)
def test_numbers_of_every_kind(name):
    kind, call = CALLS[name]
    if kind is not None:
        warp = {"separable": random_warp, "mesh": random_mesh_warp}[kind](2)
        call = lambda i, r, of_warp=call: of_warp(warp, i, r)  # noqa: E731
    expected = results(call, int, float)
    for i, r in zip(INTEGERS.values(), REALS.values(), strict=True):
        assert_bitwise(results(call, i, r), expected)


def test_they_are_those_of_interpolate():
    """What is taken here is taken there, and what both take is the same number."""
    for i in INTEGERS.values():
        size = (i(4), i(5))
        assert [as_integer(n) for n in size] == [4, 5]
        assert TF.interpolate(IMAGE, size=size).shape[2:] == (4, 5)
    for r in REALS.values():
        assert TF.interpolate(IMAGE, scale_factor=(r(0.5), r(0.5))).shape[2:] == (4, 5)
        assert as_real(r(0.5)) == 0.5
        assert type(as_real(r(0.5))) is float


NO_INTEGERS = [True, np.bool_(True), torch.tensor(True), 4.0, np.float32(4), torch.tensor(4.0), "4", None, 4j, [4]]


@pytest.mark.parametrize("value", [*NO_INTEGERS, torch.tensor([4, 5]), np.array([4, 5])], ids=repr)
def test_what_is_no_integer(value):
    assert as_integer(value) is None
    warp = SeparableWarp.identity(2)
    for call in (
        lambda: warp.zoom(IMAGE, (value, 5)),
        lambda: warp.unzoom(IMAGE, (4, value)),
        lambda: SeparableWarp.identity(value),
        lambda: MeshWarp.identity(value),
        lambda: DownsizeNet((4, 4), channels=value),
        lambda: F.cdf_knots(MAP[:, 0], value) if value is not None else SeparableWarp.identity(value),
    ):
        with pytest.raises((TypeError, FastwarpError), match=r"expected (two|an) integer"):
            call()


# A tensor is none either: its gradient would be lost. F.interpolate refuses it, too.
NO_REALS = [True, np.bool_(True), torch.tensor(True), "0.5", 0.5j, [0.5], torch.tensor(0.5), torch.tensor([0.5, 0.5])]


@pytest.mark.parametrize("value", [*NO_REALS, np.array([0.5, 0.5])], ids=repr)
def test_what_is_no_number(value):
    assert as_real(value) is None
    for call in (
        lambda: SeparableWarp.from_saliency(MAP, value),
        lambda: Zoom((4, 4), saliency=MAP, fwhm=value),
        lambda: DownsizeNet(scale_factor=(0.5, value)),
        lambda: SeparableWarp.identity().unzoom(IMAGE, image_size=(18, 22), phase=(value,)),
        lambda: DownsizeNet((4, 4)).pool_boxes(IMAGE, [BOXES, BOXES], (2, 2), spatial_scale=value),
    ):
        with pytest.raises((TypeError, FastwarpError), match="expected "):
            call()


def test_one_number_is_no_size():
    """A square to F.interpolate, the shorter side to torchvision."""
    for size in (4, np.int64(4), torch.tensor(4), torch.tensor([4, 5]), np.array([4, 5]), "45", b"45"):
        with pytest.raises(TypeError, match=r"separable_zoom: size is .*, expected two integers \(height, width\)"):
            SeparableWarp.identity().zoom(IMAGE, size)


def test_an_index_out_of_range():
    for warp in (fastwarp.SeparableWarp.identity(2), fastwarp.MeshWarp.identity(2)):
        for index in (2, -3, np.int64(2), torch.tensor(-3)):
            with pytest.raises(IndexError, match="is out of range for a batch of 2"):
                warp[index]
