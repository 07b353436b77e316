"""The example that zooms videos: what it prints and writes, of a generated clip and of a folder of pictures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

VIDEO = Path(__file__).resolve().parent.parent / "examples" / "video.py"
BLOCKED = """
import runpy, sys
sys.modules["cv2"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(*options: object, code: int = 0) -> str:
    """Without OpenCV, which would write other files."""
    command = [sys.executable, "-c", BLOCKED, str(VIDEO), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_folder_of_pictures_becomes_two(tmp_path):
    clip = tmp_path / "clip"
    clip.mkdir()
    noise = np.random.default_rng(0)
    for t in range(8):
        frame = noise.integers(90, 94, (96, 160, 3), dtype=np.uint8)
        frame[40:52, 10 * t : 10 * t + 12] = 250
        PIL.Image.fromarray(frame).save(clip / f"{t}.png")
    text = run("--clip", clip, "--out", tmp_path, "--size", 40, 64)
    jitter = [float(found) for found in re.findall(r"filtered: ([0-9.]+) px a frame", text)]
    assert len(jitter) == 2
    assert jitter[1] < jitter[0]
    for name, size in (("zoomed", (64, 40)), ("unzoomed", (160, 96))):
        pictures = sorted((tmp_path / name).glob("*.png"))
        assert len(pictures) == 8
        assert PIL.Image.open(pictures[5]).size == size
    # What moves comes back to where it was.
    back = np.array(PIL.Image.open(pictures[5])).mean(2)
    y, x = np.argwhere(back > 170).mean(0)
    assert abs(y - 45.5) < 3
    assert abs(x - 55.5) < 3


@pytest.mark.parametrize("clip", ["missing.mp4", "."])
def test_a_clip_without_frames_is_an_error(tmp_path, clip):
    text = run("--clip", tmp_path / clip, "--out", tmp_path / "out", code=2)
    assert "error:" in text
    assert not (tmp_path / "out").exists()
