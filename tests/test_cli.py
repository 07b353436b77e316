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
from fastwarp.saliency import box_density
from fastwarp.saliency.files import Prior, load_prior, save_prior

SALIENCY_KINDS = ("coco", "cityscapes", "nuscenes", "show")


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


@pytest.mark.parametrize(
    "words", [(), ("demo",), ("doctor",), ("bench",), ("saliency",), *(("saliency", kind) for kind in SALIENCY_KINDS)]
)
def test_help(capsys, words):
    code, out, err = run(capsys, *words, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(" ".join(["usage: fastwarp", *words]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "required: demo | doctor | warmup | saliency | bench"),
        (("bench", "nowhere.models.Net"), "nowhere is not installed"),
        (("bench", "resnet50"), "'resnet50' is no dotted name, as torchvision.models.detection.retinanet_resnet50_fpn"),
        (("bench", "torch.nn.Zoom"), "torch.nn has no Zoom"),
        (("bench", "torch.nn.Flatten"), "attach: there is no preset for torch.nn.modules.flatten.Flatten"),
        (("bench", "torch.nn.Conv2d"), "torch.nn.Conv2d makes no network by itself"),
        (("bench", "math.pi"), "math.pi is float, expected a class or a function"),
        (("bench", "torch.nn.Flatten", "--size", "600"), "'600' is not a height and a width, as 600x960 is"),
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
        (("demo", "--downsize", "--boxes", "1,2,3,4"), "--boxes is of a zoom, not of --downsize"),
        (("demo", "--downsize", "--warp", "mesh"), "--warp is of a zoom, not of --downsize"),
        (("demo", "--downsize", "--size", "0", "5"), "size is 0 5, expected a height and a width from 1 to 2048"),
        (("demo", "--downsize", "--size", "5", "2049"), "size is 5 2049, expected a height and a width from 1 to 2048"),
        (("demo", "--downsize", "--image", "{tmp}/text.png"), "{tmp}/text.png is not an image that Pillow can read"),
        (("demo", "--downsize", "--out", "{photo}"), "cannot make the folder {photo}: File exists"),
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


def test_a_library_that_a_network_lacks_is_said_in_one_line(capsys, monkeypatch):
    def make():
        raise ImportError("\nNet requires the timm library.\nInstall it with pip.\n")

    monkeypatch.setattr(math, "make", make, raising=False)
    line = "math.make cannot be made: Net requires the timm library. Install it with pip."
    assert run(capsys, "bench", "math.make") == (2, "", f"fastwarp bench: error: {line}\n")


def test_no_gpu_is_said_in_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, out, err = run(capsys, "demo", "--device", "cuda", "--out", tmp_path)
    assert (code, out, err) == (2, "", "fastwarp demo: error: device cuda: torch sees no GPU\n")


@pytest.mark.parametrize(
    ("module", "package", "words"),
    [
        ("PIL", "pillow", ("demo", "--out", ".")),
        ("matplotlib", "matplotlib", ("demo", "--out", ".")),
        ("rich", "rich", ("demo", "--out", ".")),
        ("skimage", "scikit-image", ("demo", "--out", ".")),
        ("rich", "rich", ("saliency", "show", "prior.npz")),
        ("safetensors", "safetensors", ("saliency", "coco", "a.json", "--out", "prior.safetensors")),
    ],
)
def test_missing_extra_is_said_in_one_line(tmp_path, module, package, words):
    script = f"import sys; sys.modules[{module!r}] = None; from fastwarp.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    expected = f"fastwarp {words[0]}: error: {package} is not installed: pip install 'fastwarp[{words[0]}]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    assert list(tmp_path.iterdir()) == []


# --- saliency ---------------------------------------------------------------------------------------------------------

COCO = {
    "images": [{"id": 1, "height": 100, "width": 200}, {"id": 2, "height": 100, "width": 200}],
    "annotations": [
        {"id": 7, "image_id": 1, "category_id": 3, "bbox": [150, 20, 20, 30]},
        {"id": 8, "image_id": 1, "category_id": 4, "bbox": [10, 70, 20, 10]},
    ],
    "categories": [{"id": 3, "name": "car"}, {"id": 4, "name": "person"}],
}


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    path = tmp_path / "train.json"
    path.write_text(json.dumps(COCO))
    return path


def test_saliency_coco(capsys, tmp_path, annotations):
    out, plot = tmp_path / "prior.safetensors", tmp_path / "prior.png"
    options = ("--shape", 9, 14, "--category", "car", "--amplitude", 5, "--bandwidth", 32)
    code, text, err = run(capsys, "saliency", "coco", annotations, "--out", out, "--plot", plot, *options)
    assert (code, err) == (0, "")
    assert text == f"{out}: 9 x 14 cells, mean of 1 images with 1 boxes\n"
    assert sorted(tmp_path.iterdir()) == sorted([annotations, out, plot])
    prior = load_prior(out)
    expected = box_density(torch.tensor([[150.0, 20.0, 170.0, 50.0]]), (100, 200), (9, 14), 5.0, 32.0)[0]
    torch.testing.assert_close(prior.saliency, expected, rtol=1e-5, atol=1e-9)
    assert (prior.settings["categories"], prior.settings["image_size"]) == (["car"], [100, 200])
    with Image.open(plot) as picture:
        assert picture.format == "PNG"
        assert np.ptp(np.asarray(picture.convert("L"))) > 200

    code, text, err = run(capsys, "saliency", "show", out, "--plot", tmp_path / "again.svg")
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[0] == f"{out}: 9 x 14 cells, mean of 1 images with 1 boxes"
    assert {"kind: coco", "source: train.json", "amplitude: 5.0", 'categories: ["car"]'} <= set(lines)
    drawn = [line for line in lines if line.startswith("|")]
    assert len(drawn) == 7  # 28 characters for the width, and half as many for the height of the same length
    assert [i for i, line in enumerate(drawn) if "@" in line] == [2]
    assert drawn[2].index("@") > 20
    assert (tmp_path / "again.svg").read_text().startswith("<?xml")


def test_saliency_show_of_a_map_from_elsewhere(capsys, tmp_path):
    path = tmp_path / "own.npz"
    save_prior(Prior(torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 5.0]]), {"image_size": "large"}), path)
    code, text, _ = run(capsys, "saliency", "show", path, "--plot", tmp_path / "own.png")
    assert code == 0
    assert text.splitlines() == [f"{path}: 2 x 4 cells", "image_size: large", "", "|        |", "|     .+@|"]
    with Image.open(tmp_path / "own.png") as picture:
        assert picture.width > 300


def test_saliency_options_reach_the_reader(capsys, tmp_path, annotations):
    data = COCO | {"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": [-50, 20, 80, 30]}]}
    annotations.write_text(json.dumps(data))
    code, *_ = run(
        capsys, "saliency", "coco", annotations, "--out", tmp_path / "p.npz", "--image-size", 60, 90, "--clip"
    )
    assert code == 0
    expected = box_density(torch.tensor([[0.0, 20.0, 30.0, 50.0]]), (60, 90))[0]
    torch.testing.assert_close(load_prior(tmp_path / "p.npz").saliency, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "required: coco | cityscapes | nuscenes | show"),
        (("voc",), "invalid choice: 'voc'"),
        (("coco",), "required: annotations.json, --out"),
        (("coco", "{json}"), "required: --out"),
        (("coco", "{tmp}/none.json", "--out", "{tmp}/p.npz"), "cannot read {tmp}/none.json: No such file or directory"),
        (("coco", "{tmp}", "--out", "{tmp}/p.npz"), "cannot read {tmp}: Is a directory"),
        (("coco", "{json}", "--out", "{tmp}/p.pt"), "{tmp}/p.pt does not end in .safetensors or .npz"),
        (
            ("coco", "{json}", "--out", "{tmp}/none/p.npz"),
            "cannot write {tmp}/none/p.npz: there is no folder {tmp}/none",
        ),
        (("coco", "{json}", "--out", "{tmp}/folder.npz"), "cannot write {tmp}/folder.npz: it is a folder"),
        (("coco", "{json}", "--out", "{tmp}/p.npz", "--plot", "{tmp}/p.doc"), "p.doc does not end in a format of pict"),
        (("coco", "{json}", "--out", "{tmp}/p.npz", "--plot", "{tmp}/n/p.png"), "there is no folder {tmp}/n"),
        (("coco", "{json}", "--out", "{tmp}/p.npz", "--category", "tram"), "no category 'tram', it has car, person"),
        (("coco", "{json}", "--out", "{tmp}/p.npz", "--shape", "31"), "argument --shape: expected 2 arguments"),
        (("coco", "{json}", "--out", "{tmp}/p.npz", "--shape", "1", "51"), "shape is (1, 51), expected a height and"),
        (("coco", "{json}", "--out", "{tmp}/p.npz", "--amplitude", "-1"), "amplitude is -1.0, expected"),
        (("coco", "{json}", "--out", "{tmp}/p.npz", "--bandwidth", "nan"), "bandwidth is nan, expected"),
        (("coco", "{json}", "--out", "{tmp}/p.npz", "--image-size", "0", "5"), "image_size is (0, 5), expected"),
        (("coco", "{tmp}/cut.json", "--out", "{tmp}/p.npz"), "{tmp}/cut.json is not JSON: it ends too early"),
        (("coco", "{tmp}/key.json", "--out", "{tmp}/p.npz"), "annotations[1] (id 8) has no key 'bbox', expected four"),
        (
            ("coco", "{tmp}/nan.json", "--out", "{tmp}/p.npz"),
            "annotations[1] (id 8) has bbox [10, nan, 20, 10], expect",
        ),
        (("coco", "{tmp}/past.json", "--out", "{tmp}/p.npz"), "annotations[1] (id 8) has bbox [190, 70, 20, 10], outs"),
        (("show", "{tmp}/none.npz"), "cannot read {tmp}/none.npz: No such file or directory"),
        (("show", "{json}"), "{json} does not end in .safetensors or .npz"),
        (("show", "{tmp}/text.npz"), "{tmp}/text.npz is not a prior: "),
        (("show", "{tmp}/text.safetensors"), "{tmp}/text.safetensors is not a prior: "),
    ],
)
def test_mistakes_in_saliency_get_one_line_and_exit_code_2(capsys, tmp_path, annotations, words, message):
    text = annotations.read_text()
    (tmp_path / "cut.json").write_text(text[: len(text) // 2])
    (tmp_path / "key.json").write_text(text.replace('"bbox": [10,', '"box": [10,'))
    (tmp_path / "nan.json").write_text(text.replace("[10, 70,", "[10, NaN,"))
    (tmp_path / "past.json").write_text(text.replace("[10, 70,", "[190, 70,"))
    (tmp_path / "text.npz").write_text("no map")
    (tmp_path / "text.safetensors").write_text("no map")
    (tmp_path / "folder.npz").mkdir()
    before = sorted(tmp_path.rglob("*"))

    code, out, err = run(capsys, "saliency", *(word.format(tmp=tmp_path, json=annotations) for word in words))

    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert err.startswith("fastwarp saliency"), err
    assert "error: " in err
    assert message.format(tmp=tmp_path, json=annotations) in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("fails", ["first", "second"])
def test_a_prior_and_its_picture_are_written_both_or_neither(capsys, tmp_path, annotations, monkeypatch, fails):
    (tmp_path / "prior.npz").write_text("an older file")
    before = sorted(tmp_path.iterdir())
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == (1 if fails == "first" else 2):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastwarp._files.os.fsync", full)
    words = ("coco", annotations, "--out", tmp_path / "prior.npz", "--plot", tmp_path / "prior.png")
    code, out, err = run(capsys, "saliency", *words)
    assert (code, out) == (2, "")
    assert "No space left on device" in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "prior.npz").read_text() == "an older file"


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
