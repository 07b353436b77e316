"""Exporters get standard operations that do what the operators do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastwarp
from fastwarp import MeshWarp, SeparableWarp
from fastwarp import functional as F
from fastwarp.nn import DownsizeNet, Unzoom, Zoom
from fastwarp.saliency import LearnedSaliency, box_density, box_knots

TABLE = fastwarp.export.decompositions()


def exported(module, *args):
    """The module as standard operations, and its results by these."""
    if torch.__version__ < (2, 7):
        pytest.skip("torch 2.6 loses inputs of a program where it decomposes it")
    program = torch.export.export(module, args, strict=False).run_decompositions(TABLE)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    left = [name for name in called if "fastwarp" in name]
    assert not left, f"not decomposed: {left}"
    return program.module()(*args)


class Call(nn.Module):
    """A function of a warp, or of nothing, and an input as a module."""

    def __init__(self, function, *warp):
        super().__init__()
        self.function, self.warp = function, warp

    def forward(self, value):
        return self.function(*self.warp, value)


def bent(batch=1, dtype=torch.float32):
    return SeparableWarp.from_saliency(torch.rand(batch, 9, 11, dtype=dtype) ** 3, fwhm=6.0)


def cropping(batch=1):
    return SeparableWarp.from_saliency(torch.rand(batch, 9, 11) ** 3, fwhm=6.0, anti_crop=False)


VALID = torch.tensor([[12, 20], [17, 23]])
IMAGE, MAPS = torch.rand(2, 3, 17, 23), [torch.rand(2, 4, 9, 12), torch.rand(2, 4, 5, 6)]
CASES = {
    "zoom": lambda: (Zoom((8, 10), bent()), IMAGE),
    "zoom, a warp for each image": lambda: (Zoom((8, 10), bent(2)), IMAGE),
    "zoom, antialiased": lambda: (Zoom((8, 10), bent(), antialias=True), IMAGE),
    "zoom, channels_last": lambda: (Zoom((8, 10), bent()), IMAGE.to(memory_format=torch.channels_last)),
    "zoom, uint8": lambda: (Zoom((8, 10), bent()), (255 * IMAGE).to(torch.uint8)),
    "zoom, sizes of 1": lambda: (Zoom((1, 1), bent()), IMAGE[:, :, :1]),
    "zoom, padded": lambda: (Call(lambda w, i: w.zoom(i, (8, 10), source_valid=VALID), bent(2)), IMAGE),
    "zoom from a fixed map": lambda: (Zoom((8, 10), saliency=torch.rand(1, 9, 11)), IMAGE),
    "zoom from a learned map": lambda: (Zoom((8, 10), saliency=nn.Parameter(torch.rand(1, 9, 11))), IMAGE),
    "zoom from a network": lambda: (Zoom((8, 10), saliency=LearnedSaliency((9, 11))), IMAGE),
    "unzoom": lambda: (Unzoom(bent()), MAPS),
    "unzoom, cropping": lambda: (Unzoom(cropping(2)), MAPS),
    "unzoom, border": lambda: (Unzoom(cropping(2), padding_mode="border"), MAPS),
    "unzoom, antialiased": lambda: (Unzoom(bent(), antialias=True), MAPS),
    "unzoom, registered": lambda: (Call(lambda w, m: w.unzoom(m, image_size=(17, 23), strides=[2, 4]), bent()), MAPS),
    "unzoom, registered and padded": lambda: (
        Call(lambda w, m: w.unzoom(m, image_size=(17, 23), strides=[2, 4], valid=VALID), bent(2)),
        MAPS,
    ),
    "nearest zoom": lambda: (Zoom((8, 10), bent(2), mode="nearest"), IMAGE),
    "nearest zoom of labels, padded": lambda: (
        Call(lambda w, i: w.zoom_labels(i, (8, 10), source_valid=VALID), bent(2)),
        (9 * IMAGE[:, 0]).long(),
    ),
    "nearest unzoom, cropping": lambda: (Unzoom(cropping(), mode="nearest"), MAPS),
    "nearest unzoom, registered": lambda: (
        Call(lambda w, m: w.unzoom(m, mode="nearest", image_size=(17, 23), strides=[2, 4], valid=VALID), bent(2)),
        MAPS,
    ),
    "nearest mesh zoom": lambda: (Zoom((8, 10), MeshWarp.from_saliency(torch.rand(2, 9, 11)), mode="nearest"), IMAGE),
    "boxes to knots": lambda: (
        Call(lambda b: box_knots(b, (60, 90), (9, 11))),
        torch.tensor([[[5.0, 6, 20, 30], [40, 10, 60, 20]]]),
    ),
    "boxes to a map": lambda: (
        Call(lambda b: box_density(b, (60, 90), (9, 11))),
        torch.tensor([[[5.0, 6, 20, 30], [40, 10, 60, 20]]]),
    ),
    "points": lambda: (
        Call(lambda w, p: w.zoom_points(p, (60, 90), (30, 45)), bent()),
        torch.rand(1, 7, 2) * torch.tensor([90.0, 60.0]),
    ),
    "mesh zoom": lambda: (Zoom((8, 10), MeshWarp.from_saliency(torch.rand(2, 9, 11))), IMAGE),
    "mesh zoom from a fixed map": lambda: (Zoom((8, 10), saliency=torch.rand(1, 9, 11), kind="mesh"), IMAGE),
    "downsize": lambda: (DownsizeNet((8, 10)), IMAGE),
    "downsize, bicubic": lambda: (DownsizeNet((8, 10), taps="bicubic", normalise="signed"), IMAGE),
}


@pytest.mark.parametrize("case", CASES)
def test_standard_operations_do_the_same(case):
    module, inputs = CASES[case]()
    expected = module(inputs)
    got = exported(module, inputs)
    tolerance = 1 if inputs is not MAPS and inputs.dtype == torch.uint8 else 2e-5 if "points" in case else 2e-6
    for one, other in zip(*([r] if isinstance(r, torch.Tensor) else r for r in (got, expected)), strict=True):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, atol=tolerance, rtol=1e-5)


def test_what_cannot_be_exported_says_what_to_do():
    mesh = MeshWarp.from_saliency(torch.rand(1, 9, 11))
    with pytest.raises(NotImplementedError, match="freeze"):
        exported(Unzoom(mesh), MAPS)
    with pytest.raises(NotImplementedError, match="reduce='nearest'"):
        exported(Call(lambda w, i: w.zoom_labels(i, (8, 10), reduce="majority"), bent(2)), (9 * IMAGE[:, 0]).long())
    with pytest.raises(NotImplementedError, match="antialias"):
        exported(Zoom((8, 10), mesh, antialias=True), IMAGE)


def test_attached_networks_are_exported():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 2, 1)

        def forward(self, image):
            return self.head(self.backbone(image))

    image = torch.rand(2, 3, 32, 48)
    for saliency in (torch.rand(9, 11), LearnedSaliency((9, 11))):
        net = Net().eval()
        fastwarp.attach(net, saliency, fastwarp.Host(zoom="backbone", unzoom="backbone"))
        expected = net(image)
        torch.testing.assert_close(exported(net, image), expected, atol=1e-5, rtol=1e-5)


def test_inverse_knots_are_exact_at_the_ends():
    knots = torch.tensor([[0.1, 0.1, 0.5, 0.9, 0.9999994]])
    at = torch.tensor([[0.1, 0.3, 0.9, 0.9999994]])
    table = TABLE[torch.ops.fastwarp.axis_map.default]
    torch.testing.assert_close(table(knots, at, True), F.axis_map(knots, at, inverse=True))
