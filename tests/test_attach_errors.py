"""What fastwarp.attach refuses, and what it says."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from attach_cases import HOST, Backbone, Net, images, net, same, warp
from helpers import random_warp
from torch import nn

import fastwarp
from fastwarp import FastwarpError, Host


class Twice(Net):
    """Calls its backbone, or its neck, at the wrong time."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.neck, self.order = nn.Identity(), order

    def forward(self, image):
        for step in self.order:
            image = self.backbone.stem(image) if step == "z" else self.neck(image)
        return image


def test_zooms_and_unzooms_must_alternate():
    image, host = images(), Host("backbone.stem", "neck")
    for order, message in (
        ("zz", "backbone.stem was called again before neck was"),
        ("z", "neck was not called after backbone.stem"),
        ("u", "neck was called without backbone.stem before it"),
        ("zuu", "neck was called without backbone.stem before it"),
    ):
        model = Twice(order)
        fastwarp.attach(model, warp(), host)
        for _ in range(2):  # the batch after an error starts anew
            with pytest.raises(FastwarpError, match=message):
                model(image[:, :3] if order != "zz" else torch.rand(2, 3, 48, 64).requires_grad_())
            fastwarp.detach(model)
            fastwarp.attach(model, warp(), host)


def test_an_error_in_a_batch_is_forgotten():
    model = net()
    adapter = fastwarp.attach(model, warp(), HOST)
    expected = model(images())
    hook = model.backbone.down.register_forward_pre_hook(lambda *_: 1 / 0)
    adapter.next(flipped=True)
    with pytest.raises(ZeroDivisionError):
        model(images())
    hook.remove()
    copy.deepcopy(model)
    assert same(model(images()), expected)


def test_networks_that_cannot_be_attached_to():
    with pytest.raises(FastwarpError, match="a Sequential, which runs every module in it"):
        fastwarp.attach(nn.Sequential(Backbone()), warp(), Host("0", "0"))
    model = net()
    fastwarp.attach(model, warp(), HOST)
    for again in (model, copy.deepcopy(model)):
        with pytest.raises(FastwarpError, match="this Net has a zoom already"):
            fastwarp.attach(again, warp(), HOST)
    outer = nn.Module()
    outer.inner = model
    with pytest.raises(FastwarpError, match="this Module has a zoom already"):
        fastwarp.attach(outer, warp(), Host("inner", "inner"))
    with pytest.raises(FastwarpError, match="this Backbone has a zoom already"):
        fastwarp.attach(model.backbone, warp(), Host("stem", "stem"))
    with pytest.raises(FastwarpError, match="a DataParallel, expected the network itself"):
        fastwarp.attach(nn.DataParallel(net()), warp(), HOST)
    with pytest.raises(FastwarpError, match=re.escape("an nn.DataParallel, expected nn.parallel.Distr")):
        model.fastwarp._replicate_for_data_parallel()
    with pytest.raises(
        FastwarpError, match=r"no preset for .*attach_cases.Net, .*mmdet's BaseDetector.*torchvision's FCOS"
    ):
        fastwarp.attach(net(), warp())
    with pytest.raises(FastwarpError, match=r"Host: unzoom is 'neck', expected a submodule of Net, which has backbone"):
        fastwarp.attach(net(), warp(), Host("backbone", "neck"))


def test_wrong_arguments():
    for bad, message in (
        ("map", "saliency is str, expected a warp, a map"),
        (torch.rand(2, 5, 6), r"saliency is of shape \[2, 5, 6\]"),
        (nn.Parameter(torch.rand(2, 5, 6)), r"saliency is of shape \[2, 5, 6\]"),
        (random_warp(2), "saliency is a batch of 2 warps, expected one"),
        (warp().freeze((48, 64), (48, 64)), "saliency is a FrozenWarp, expected the warp itself"),
    ):
        with pytest.raises((FastwarpError, TypeError), match=message):
            fastwarp.attach(net(), bad, HOST)
    with pytest.raises(TypeError, match=r"host is str, expected a fastwarp\.Host"):
        fastwarp.attach(net(), warp(), "backbone")
    with pytest.raises(FastwarpError, match="kind is 'quad'"):
        fastwarp.attach(net(), warp(), HOST, kind="quad")
    with pytest.raises(TypeError, match=r"model is str, expected an nn\.Module"):
        fastwarp.attach("net", warp())
    with pytest.raises(TypeError, match="zoom is 3, expected the name of a submodule"):
        Host(3, "backbone")
    model = net()
    fastwarp.attach(model, warp(), Host("backbone", "backbone", keys=("p3",)))
    with pytest.raises(FastwarpError, match=re.escape("backbone has no maps under ['p3']")):
        model(images())
    model = Stretched()
    fastwarp.attach(model, warp(), Host("backbone", "backbone"))
    with pytest.raises(FastwarpError, match="a map of 12 x 9, which no stride makes"):
        model(images())


class Stretched(nn.Module):
    """Its maps are of another shape than its images."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.AdaptiveAvgPool2d((12, 9))

    def forward(self, image):
        return self.backbone(image)
