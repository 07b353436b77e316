"""`fastwarp bench` on networks of the frameworks."""

from __future__ import annotations

import re

import hosts
import pytest
from hosts import CASES

from fastwarp import cli
from fastwarp.attaching.measure import runner


def small_segformer():
    return next(case for case in CASES if "Segformer" in case.name).build()


@pytest.mark.parametrize("make", [hosts._retinanet, small_segformer])
def test_prints_milliseconds_and_percent(make, monkeypatch, capsys):
    monkeypatch.setattr(hosts, "measured", make, raising=False)
    assert cli.main(["bench", "hosts.measured", "--size", "96x128", "--rounds", "1", "--threads", "1"]) == 0
    first, *rows = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\w+ at 96x128: [\d.]+ ms", first)
    assert [row.split()[0] for row in rows] == ["fixed", "adaptive", "learned"]
    assert all(re.fullmatch(r"  \w+ +[\d.]+ ms +[\d.]+ %", row) for row in rows)
    assert all(float(row.split()[1]) > 0 for row in rows)


def test_networks_see_the_image_at_its_size():
    import torch

    model = hosts._retinanet().eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    runner(model, torch.rand(1, 3, 96, 224))()
    assert set(seen) == {(1, 3, 96, 224)}


@pytest.mark.parametrize("command", ["bench", "demo --model"])
def test_an_image_that_the_network_does_not_take_is_said_in_one_line(command, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    rt_detr = next(case for case in CASES if "RTDetr" in case.name).build
    monkeypatch.setattr(hosts, "measured", rt_detr, raising=False)
    size = ["72x104"] if command == "bench" else ["72", "104"]
    assert cli.main([*command.split(), "hosts.measured", "--size", *size]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    line = r"fastwarp \w+: error: RTDetrForObjectDetection takes no image of 72 x 104: .* \(.*: try multiples of 32\)\n"
    assert re.fullmatch(line, err), err
    assert not list(tmp_path.rglob("*.png"))
