"""Warps frozen for fixed sizes do bit by bit what the warps do."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from helpers import KINDS, assert_bitwise, warp_of

import fastwarp
from fastwarp import FastwarpError, MeshWarp

kinds = pytest.mark.parametrize("kind", KINDS)
SOURCE, SIZE, SIZES = (37, 61), (24, 40), [(12, 20), (6, 10)]
IMAGE, MAPS = torch.rand(2, 3, *SOURCE), [torch.rand(2, 4, *size) for size in SIZES]


@kinds
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"antialias": True, "padding_mode": "border"},
        {"image_size": SIZE},
        {"image_size": SIZE, "antialias": True, "phase": 0.5},
        {"image_size": (20, 33), "strides": [2, 4], "phase": [-1.0, 0.5]},  # of a network that pads to 24 x 40
    ],
)
def test_does_what_the_warp_does(kind, options):
    warp = warp_of(kind, 2)
    frozen = warp.freeze(SOURCE, SIZE, SIZES, **options)
    antialias = options.get("antialias", False)
    expected = [warp.zoom(IMAGE, SIZE, antialias=antialias), *warp.unzoom(MAPS, **options)]
    assert_bitwise([frozen.zoom(IMAGE), *frozen.unzoom(MAPS)], expected)
    named = frozen.unzoom({"fine": MAPS[0], "coarse": MAPS[1]})
    assert_bitwise([frozen(IMAGE), named["fine"], named["coarse"]], expected)


@kinds
def test_is_a_module(kind):
    """Saved, copied, differentiable in images; its geometry stays in float32 under half()."""
    warp = warp_of(kind)
    frozen = warp.freeze(SOURCE, SIZE, SIZES, image_size=SIZE)
    expected = [frozen.zoom(IMAGE), *frozen.unzoom(MAPS)]
    file = io.BytesIO()
    torch.save(frozen, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    other = warp_of(kind).freeze(SOURCE, SIZE, SIZES, image_size=SIZE)
    other.load_state_dict(frozen.state_dict())
    for copied in (copy.deepcopy(frozen), loaded, other, copy.deepcopy(frozen).half()):
        assert_bitwise([copied.zoom(IMAGE), *copied.unzoom(MAPS)], expected)
    leaf = IMAGE.clone().requires_grad_()
    frozen.zoom(leaf).square().sum().backward()
    right = IMAGE.clone().requires_grad_()
    warp.zoom(right, SIZE).square().sum().backward()
    assert_bitwise([leaf.grad], [right.grad])


@kinds
def test_is_exported(kind):
    """Also a mesh, whose inverse no standard operation is."""

    class Both(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.warp = warp_of(kind).freeze(SOURCE, SIZE, SIZES, image_size=SIZE)

        def forward(self, image, fine, coarse):
            return self.warp.zoom(image), *self.warp.unzoom([fine, coarse])

    module = Both()
    program = torch.export.export(module, (IMAGE, *MAPS), strict=False)
    program = program.run_decompositions(fastwarp.export.decompositions())
    assert not any("fastwarp" in str(node.target) for node in program.graph.nodes)
    for got, right in zip(program.module()(IMAGE, *MAPS), module(IMAGE, *MAPS), strict=True):
        torch.testing.assert_close(got, right, rtol=1e-5, atol=2e-6)


def test_what_is_wrong():
    warp = MeshWarp.identity(2)
    frozen = warp.freeze(SOURCE, SIZE, SIZES)
    with pytest.raises(FastwarpError, match=r"FrozenWarp.zoom: got maps of \[\(24, 40\)\], frozen for \[\(37, 61\)\]"):
        frozen.zoom(torch.rand(2, 3, *SIZE))
    with pytest.raises(FastwarpError, match=r"FrozenWarp.unzoom: got maps of \[\(12, 20\)\], frozen for"):
        frozen.unzoom(MAPS[:1])
    with pytest.raises(FastwarpError, match=r"FrozenWarp.zoom: warps is a batch of 2, expected a batch of 1 or 3"):
        frozen.zoom(torch.rand(3, 3, *SOURCE))
    with pytest.raises(TypeError, match="freeze: feature_sizes is 5, expected a list"):
        warp.freeze(SOURCE, SIZE, 5)
    with pytest.raises(FastwarpError, match="freeze: features is a map of 12 x 20, which no stride makes of an image"):
        warp.freeze(SOURCE, SIZE, SIZES, image_size=SOURCE)
    with pytest.raises(FastwarpError, match="freeze: image_size is None"):
        warp.freeze(SOURCE, SIZE, SIZES, strides=[2, 4])
    with pytest.raises(FastwarpError, match="freeze: padding_mode is 'keep'"):
        warp.freeze(SOURCE, SIZE, SIZES, padding_mode="keep")
