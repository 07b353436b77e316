"""`fastwarp demo --model`: real networks with a zoom inside."""

from __future__ import annotations

import re

import numpy as np
import PIL.Image
import pytest

from fastwarp.cli import main


@pytest.mark.parametrize(
    ("name", "options", "size", "maps"),
    [
        (
            "torchvision.models.detection.retinanet_resnet50_fpn",
            ("--size", "96", "128"),
            "96 x 128",
            "12x16, 6x8, 3x4, 2x2, 1x1",
        ),
        # Half of 120 x 160, up to multiples of 32.
        ("transformers.SegformerForSemanticSegmentation", (), "64 x 96", "16x24, 8x12, 4x6, 2x3"),
    ],
)
def test_saliency_zoomed_input_and_overhead(name, options, size, maps, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "photo.png")
    words = ["demo", "--model", name, "--image", str(tmp_path / "photo.png"), "--out", str(tmp_path), *options]
    words += ["--repeats", "1", "--threads", "1"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert f"{name.split('.')[-1].split('_')[0][:5]}".lower() in text.lower()
    assert f"{size} pixels are zoomed on the way in, maps of {maps} unzoomed" in text
    plain, zoom, share = re.search(r"CPU threads: ([\d.]+) ms\n +zoom +([\d.]+) ms +([\d.]+) %", text).groups()
    assert float(share) == pytest.approx(100 * float(zoom) / float(plain), rel=0.05, abs=0.1)
    with PIL.Image.open(tmp_path / "model.png") as picture:
        assert picture.width > 500
        assert np.ptp(np.asarray(picture.convert("L"))) == 255
