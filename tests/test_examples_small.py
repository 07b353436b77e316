"""The examples that are no trainings: the lens, the notebook; and that all of them stay short."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SHARED = {"data.py", "retinanet.py", "training.py"}


def run(folder: Path, *words: object) -> str:
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, *map(str, words)], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_examples_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert {name for name, length in lengths.items() if length >= 120} <= SHARED


def test_a_lens(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    PIL.Image.fromarray(pixels).save(tmp_path / "in.png")
    options = (
        "--image",
        tmp_path / "in.png",
        "--at",
        51.5 / 127,
        51.5 / 95,
        "--times",
        3,
        "--out",
        tmp_path / "out.png",
    )
    text = run(tmp_path, EXAMPLES / "mesh_lens.py", *options)
    assert "no flaws" in text
    assert float(re.search(r"points come back to (\S+) pixels", text)[1]) < 1e-3
    image, zoomed, unzoomed = np.split(np.array(PIL.Image.open(tmp_path / "out.png")).astype(float), 3, axis=1)
    np.testing.assert_array_equal(image, pixels)
    # In the middle of the lens a square of 8 pixels fills 14; beyond its rim all is as it was.
    np.testing.assert_array_equal(zoomed[45:59, 45:59], np.broadcast_to(image[51, 51], (14, 14, 3)))
    np.testing.assert_array_equal(zoomed[:, -24:], image[:, -24:])
    assert np.abs(unzoomed - image).mean() < 3


def test_the_notebook_runs(tmp_path):
    notebook = json.loads((EXAMPLES / "story.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 8
    script = tmp_path / "story.py"
    script.write_text("\n\n".join(cells))  # as a kernel does: one after the other, in one namespace
    text = run(EXAMPLES, script)
    for name in ("points come back to", "error of the objects:"):
        assert name in text


def test_the_notebook_keeps_its_outputs_small():
    text = (EXAMPLES / "story.ipynb").read_text()
    assert len(text) < 200_000
    images = re.findall(r'"image/png"', text)
    assert len(images) >= 4


@pytest.mark.parametrize("option", [("--times", "0.5"), ("--radius", "0")])
def test_a_lens_that_would_fold_is_refused(tmp_path, option):
    words = [sys.executable, str(EXAMPLES / "mesh_lens.py"), *option]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert "--times is at least 1" in done.stderr
