"""The examples that need a framework, on small data."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    def start(name: str, *options: object) -> str:
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        before = set(sys.modules)
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        for module in set(sys.modules) - before:
            if Path(getattr(sys.modules[module], "__file__", None) or "/").parent == EXAMPLES:
                del sys.modules[module]
        return capsys.readouterr().out

    return start


def test_detect_torchvision(run, tmp_path):
    small = ("--source", 120, 192, "--size", 64, 96, "--length", 2, "--threshold", 0.0)
    text = run("detect_torchvision", *small, "--out", tmp_path)
    zooms = [float(found) for found in re.findall(r"frame \d: \d+ boxes of \d+; zoomed by up to ([\d.]+),", text)]
    assert len(zooms) == 2
    assert zooms[0] == 1  # nothing was seen before
    assert zooms[1] > 1
    assert [PIL.Image.open(tmp_path / f"0000{t}.png").size for t in range(2)] == [(192, 120)] * 2


def test_segment_transformers(run, tmp_path):
    text = run("segment_transformers", "--size", 64, 96, "--steps", 2, "--batch", 2, "--tests", 1, "--out", tmp_path)
    assert re.search(r"step 1: loss [\d.]+\naccuracy 0\.\d+; magnification [\d.]+ to [\d.]+", text)
    assert (tmp_path / "model.pt").exists()


def test_export_onnx(run, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "zoomed.onnx"
    text = run("export_onnx", "--source", 96, 160, "--size", 48, 80, "--out", path, "--check")
    assert float(re.search(r"differs from torch by (\S+) of", text)[1]) < 1e-5
    graph = onnx.load(path).graph
    assert [put.name for put in graph.input] == ["image", "knots_y", "knots_x"]
    assert {node.domain for node in graph.node} == {""}  # standard operators only


def test_the_detector_is_measured(tmp_path):
    tiny = ("--size", 64, 96, "--source", 128, 192, "--length", 4, "--batch", 2, "--steps", 1, "--evaluate", 2)
    words = [EXAMPLES / "train_detector.py", *tiny, "--out", tmp_path, "--zoom", "adaptive"]
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Average Precision" in done.stdout
