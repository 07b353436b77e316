"""The command line: exit codes, one clear line for each mistake, and the doctor's findings."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastwarp
from fastwarp import doctor
from fastwarp.cli import main


def run(capsys, *words: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `fastwarp words...`."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:  # argparse's way
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(path)
    return path


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"fastwarp {fastwarp.__version__}\n", "")


def test_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "fastwarp", "--version"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"fastwarp {fastwarp.__version__}\n")


@pytest.mark.parametrize("words", [("--help",), ("demo", "--help"), ("doctor", "--help")])
def test_help(capsys, words):
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert out.startswith("usage: fastwarp")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "required: demo | doctor"),
        (("zoom",), "invalid choice: 'zoom'"),
        (("doctor", "--loud"), "unrecognized arguments: --loud"),
        (("demo", "--device", "tpu"), "invalid choice: 'tpu'"),
        (("demo", "--image", "{tmp}/missing.png"), "cannot read {tmp}/missing.png: No such file or directory"),
        (("demo", "--image", "{tmp}"), "cannot read {tmp}: Is a directory"),
        (("demo", "--image", "{tmp}/text.png"), "{tmp}/text.png is not an image that Pillow can read"),
        (("demo", "--image", "{tmp}/cut.png"), "cannot read {tmp}/cut.png"),
        (("demo", "--image", "{tmp}/line.png"), "{tmp}/line.png has 60 x 1 pixels, at least 2 x 2 are needed"),
        (("demo", "--boxes", "1,2,3"), "argument --boxes: '1,2,3' is not four numbers x1,y1,x2,y2"),
        (("demo", "--boxes", "1,2,3,x"), "'1,2,3,x' is not four numbers"),
        (("demo", "--boxes", "1,2,3,4,5"), "'1,2,3,4,5' is not four numbers"),
        (("demo", "--boxes"), "argument --boxes: expected at least one argument"),
        (
            ("demo", "--image", "{photo}", "--boxes", "1,2,61,9"),
            "box 1,2,61,9 lies outside the picture, which is 60 pix",
        ),
        (("demo", "--image", "{photo}", "--boxes", "1,2,9,40.5"), "box 1,2,9,40.5 lies outside the picture"),
        (("demo", "--image", "{photo}", "--boxes", "-1,2,9,9"), "box -1,2,9,9 lies outside the picture"),
        (("demo", "--image", "{photo}", "--boxes", "1,1,9,9", "9,2,1,9"), "box 9,2,1,9 has no area"),
        (("demo", "--image", "{photo}", "--boxes", "1,2,nan,9"), "box 1,2,nan,9 has no area"),
        (("demo", "--image", "{photo}", "--boxes", "1,2,inf,9"), "box 1,2,inf,9 lies outside the picture"),
        (("demo", "--size", "0", "5"), "size is 0 5, expected a height and a width from 1 to"),
        (("demo", "--size", "5", "-3"), "size is 5 -3, expected"),
        (("demo", "--size", "5", "1000000"), "size is 5 1000000, expected"),
        (("demo", "--size", "5"), "argument --size: expected 2 arguments"),
        (("demo", "--size", "5", "7.5"), "argument --size: invalid int value: '7.5'"),
        (("demo", "--repeats", "0"), "argument --repeats: 0 is not at least 1"),
        (("demo", "--threads", "-2"), "argument --threads: -2 is not at least 1"),
        (("demo", "--out", "{photo}"), "cannot make the folder {photo}: File exists"),
        (("demo", "--out", "{photo}/below"), "cannot make the folder {photo}/below: Not a directory"),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(capsys, tmp_path, photo, words, message):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:70])
    Image.new("RGB", (60, 1)).save(tmp_path / "line.png")
    before = sorted(tmp_path.iterdir())
    words = [word.format(tmp=tmp_path, photo=photo) for word in words]
    if words[:1] == ["demo"] and "--out" not in words:
        words += ["--out", str(tmp_path / "out")]

    code, out, err = run(capsys, *words)

    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("fastwarp"), err
    assert "error: " in err
    assert message.format(tmp=tmp_path, photo=photo) in err
    assert sorted(tmp_path.iterdir()) == before


def test_no_gpu_is_said_in_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = run(capsys, "demo", "--device", "cuda", "--out", tmp_path)
    assert (code, out, err) == (2, "", "fastwarp demo: error: device cuda: torch sees no GPU\n")


@pytest.mark.parametrize(
    ("module", "package"),
    [("PIL", "pillow"), ("matplotlib", "matplotlib"), ("rich", "rich"), ("skimage", "scikit-image")],
)
def test_missing_extra_is_said_in_one_line(tmp_path, module, package):
    script = f"import sys; sys.modules[{module!r}] = None; from fastwarp.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "demo", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    expected = f"fastwarp demo: error: {package} is not installed: pip install 'fastwarp[demo]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    assert list(tmp_path.iterdir()) == []


def test_doctor(capsys, monkeypatch):
    monkeypatch.delenv("FASTWARP_BACKEND", raising=False)
    code, out, err = run(capsys, "doctor")
    assert (code, err) == (0, "")
    lines = dict(line.split(None, 1) for line in out.splitlines() if not line.startswith(" "))
    assert lines["fastwarp"] == fastwarp.__version__
    assert lines["torch"] == torch.__version__
    assert lines["numba"] == version("numba")
    assert lines["threads"].startswith(f"{torch.get_num_threads()} ")
    assert lines["cpu"].endswith(": numba (automatic: numba for CPUs, Triton for GPUs)")
    assert lines["cache"].startswith("/")
    assert out.count("self-check against the float64 reference OK") == 1 + torch.cuda.device_count()
    assert "FAILED" not in out


def test_doctor_json(capsys, monkeypatch):
    monkeypatch.delenv("FASTWARP_BACKEND", raising=False)
    code, out, _ = run(capsys, "doctor", "--json")
    report = json.loads(out)
    assert code == 0
    assert report["ok"] is True
    assert report["versions"]["numpy"] == np.__version__
    cpu = report["devices"][0]
    assert (cpu["device"], cpu["backend"], cpu["check"], cpu["message"]) == ("cpu", "numba", "OK", "")
    assert "automatic" in cpu["why"]
    assert 0 < cpu["max_error"] < 1e-4
    assert Path(report["cache"]["directory"]).is_absolute()


@pytest.mark.parametrize("wrong", [1e-3, math.nan])
def test_doctor_finds_wrong_results(capsys, monkeypatch, wrong):
    honest = doctor._exercise

    def broken(device: torch.device) -> list[torch.Tensor]:
        results = honest(device)
        if doctor.backend_for(device) != "reference":
            results[-1].view(-1)[0] += wrong * results[-1].abs().max()
        return results

    monkeypatch.setattr(doctor, "_exercise", broken)
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "reference FAILED, largest error " in out


def test_doctor_reports_what_breaks(capsys, monkeypatch):
    def broken(device: torch.device) -> list[torch.Tensor]:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(doctor, "_exercise", broken)
    code, out, _ = run(capsys, "doctor", "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (1, False)
    assert report["devices"][0]["check"] == "FAILED"
    assert report["devices"][0]["message"] == "RuntimeError: no such kernel"
    assert "FAILED: RuntimeError: no such kernel" in doctor.text(report)


def test_doctor_says_who_chose_the_backend(monkeypatch):
    monkeypatch.setenv("FASTWARP_BACKEND", "reference")
    with fastwarp.backend("reference"):
        device = doctor.examine()["devices"][0]
    assert (device["backend"], device["why"], device["check"]) == ("reference", "FASTWARP_BACKEND=reference", "OK")
