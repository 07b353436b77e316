"""Files of a DownsizeNet."""

from __future__ import annotations

import json

import pytest
import torch
from downsize_net_cases import Encoding, trained
from helpers import assert_bitwise
from safetensors.torch import load_file, save_file

from fastwarp import FastwarpError
from fastwarp.nn import DownsizeNet


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (4, 5)},
        {"scale_factor": (0.5, 0.25), "layers": 0},
        {"scale_factor": 0.5, "taps": "area", "encoding": "raw", "in_channels": 2, "channels": 7},
        {"size": (4, 4), "taps": "bicubic", "normalise": "signed", "layers": 1, "align_corners": True},
        {"encoding": None, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "texture_gradient": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_files(tmp_path, settings, dtype):
    net = trained(DownsizeNet(**settings)).to(dtype)
    path = tmp_path / "net.safetensors"
    net.save(path)
    random = torch.get_rng_state()
    again = DownsizeNet.load(str(path))
    assert torch.equal(torch.get_rng_state(), random)
    assert repr(again) == repr(net)
    assert_bitwise(list(again.state_dict().values()), list(net.state_dict().values()))
    image = torch.rand(1, net.in_channels, 9, 8)
    size = None if net.size or net.scale_factor else (3, 3)
    assert_bitwise([again(image, size).detach()], [net(image, size).detach()])
    assert all(parameter.requires_grad for parameter in again.parameters())
    again.fuse.weight.data.zero_()
    assert DownsizeNet.load(path).fuse.weight.any()
    assert set(load_file(path)) == set(net.state_dict())


def test_a_file_serves_another_size(tmp_path):
    path, image = tmp_path / "net.safetensors", torch.rand(1, 3, 20, 20)
    trained(DownsizeNet(scale_factor=0.5)).save(path)
    net = DownsizeNet.load(path, size=(6, 7))
    assert (net.size, net.scale_factor) == ((6, 7), None)
    assert net(image).shape == (1, 3, 6, 7)
    assert DownsizeNet.load(path, scale_factor=0.3)(image).shape == (1, 3, 6, 6)
    with pytest.raises(FastwarpError, match=r"DownsizeNet\.load: got a size and a scale_factor"):
        DownsizeNet.load(path, size=(6, 7), scale_factor=0.5)


def test_broken_files(tmp_path):
    path, net = tmp_path / "net.safetensors", DownsizeNet((4, 4), layers=1)
    net.save(path)
    tensors, good = load_file(path), path.read_bytes()
    settings = json.loads(json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")])["__metadata__"]["fastwarp"])

    def written(tensors, settings):
        save_file(tensors, path, {} if settings is None else {"fastwarp": json.dumps(settings)})

    short = {name: value for name, value in tensors.items() if name != "fuse.bias"}
    for case in (
        (tensors, None),
        (tensors, {**settings, "kind": "Prior"}),
        (tensors, {name: value for name, value in settings.items() if name != "kind"}),
        (tensors, [settings]),
        (tensors, {**settings, "channels": 17}),
        (tensors, {**settings, "channels": 10**9}),
        (tensors, {**settings, "unknown": 1}),
        (tensors, {**settings, "taps": "nearest"}),
        (short, settings),
        ({**tensors, "other": torch.ones(1)}, settings),
        ({**tensors, "fuse.bias": torch.ones(4, dtype=torch.int64)}, settings),
    ):
        written(*case)
        with pytest.raises(FastwarpError, match=r"net\.safetensors is not a DownsizeNet: "):
            DownsizeNet.load(path)
    for content in (b"", b"no", good[:50], good[:-3], b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(FastwarpError, match=r"net\.safetensors is not a DownsizeNet: "):
            DownsizeNet.load(path)
    path.write_bytes(good)
    DownsizeNet.load(path)
    with pytest.raises(FastwarpError, match="cannot read"):
        DownsizeNet.load(tmp_path / "none.safetensors")
    with pytest.raises(FastwarpError, match="cannot write"):
        net.save(tmp_path / "none" / "net.safetensors")
    for call in (net.save, DownsizeNet.load):
        with pytest.raises(FastwarpError, match=r"net\.pt does not end in \.safetensors"):
            call(tmp_path / "net.pt")
    with pytest.raises(FastwarpError, match=r"DownsizeNet\.save: encoding is a function, which no file holds"):
        DownsizeNet((4, 4), encoding=Encoding()).save(path)
