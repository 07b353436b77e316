"""Files that never end, cannot be read or written, and names that would steer a terminal: one line, and nothing is left
half-written, for every subcommand."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastwarp import _files, viz
from fastwarp._files import shown, size_of, write_whole
from fastwarp.cli import main
from fastwarp.demo import common
from fastwarp.errors import FastwarpError
from fastwarp.nn import DownsizeNet
from fastwarp.saliency.coco import coco_prior
from fastwarp.saliency.files import Prior, load_prior, save_prior

STEERING = "\x1b[2J\x9b31m\r\n\t\u202e\u2028\u00e9"
ESCAPED = r"\x1b[2J\x9b31m\r\n\t\u202e\u2028" + "\u00e9"
TABLES = ("sensor", "calibrated_sensor", "sample_data", "ego_pose", "sample_annotation")


def run(capsys, *words: object) -> tuple[int, str, str]:
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def coco(path: Path, **changes: object) -> Path:
    data = {
        "images": [{"id": 1, "height": 100, "width": 200}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 3, "bbox": [150, 20, 20, 30]}],
        "categories": [{"id": 3, "name": "car"}],
    }
    path.write_text(json.dumps(data | changes))
    return path


def one_line(result: tuple[int, str, str], message: str, code: int = 2) -> None:
    got, out, err = result
    assert (got, out) == (code, ""), result
    assert err.startswith("fastwarp"), err
    assert err.count("\n") == 1, err
    assert err.endswith("\n"), err
    assert err[:-1].isprintable(), err
    assert message in err


# --- what cannot be read ----------------------------------------------------------------------------------------------

READERS = {
    "coco": ("saliency", "coco", "{}", "--out", "{tmp}/p.npz"),
    "show": ("saliency", "show", "{}"),
    "demo": ("demo", "--image", "{}", "--out", "{tmp}/demo"),
    "demo --downsize": ("demo", "--downsize", "--image", "{}", "--out", "{tmp}/demo"),
}


@pytest.mark.parametrize("reader", READERS)
def test_endless_and_unreadable_files(capsys, tmp_path, reader):
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    (tmp_path / "gone.npz").symlink_to("nowhere")
    (tmp_path / "folder.npz").mkdir()
    long = "x" * 300 + ".npz"
    before = sorted(tmp_path.iterdir())
    for name, message in (
        ("pipe.npz", "it is not a regular file"),
        ("zero.npz", "it is not a regular file"),
        ("loop.npz", "Too many levels of symbolic links"),
        ("gone.npz", "No such file or directory"),
        ("folder.npz", "Is a directory"),
        (long, "File name too long"),
        (f"{STEERING}.npz", f"cannot read {tmp_path}/{ESCAPED}.npz: No such file"),
    ):
        words = (word.format(tmp_path / name, tmp=tmp_path) for word in READERS[reader])
        one_line(run(capsys, *words), message)
        assert sorted(tmp_path.iterdir()) == before


def test_endless_tables_and_networks(capsys, tmp_path):
    for table in TABLES:
        (tmp_path / "v1").mkdir(exist_ok=True)
        os.mkfifo(tmp_path / "v1" / f"{table}.json")
    words = ("saliency", "nuscenes", tmp_path, "--version", "v1", "--out", tmp_path / "p.npz")
    one_line(run(capsys, *words), "sensor.json: it is not a regular file")
    os.mkfifo(tmp_path / "net.safetensors")
    with pytest.raises(FastwarpError, match=r"net.safetensors: it is not a regular file"):
        DownsizeNet.load(tmp_path / "net.safetensors")
    with pytest.raises(FastwarpError, match=r"^cannot read a\x00b: "):
        size_of(Path("a\0b"))


def test_photos_that_ask_for_too_much(capsys, tmp_path):
    Image.new("L", (9000, 8000)).save(tmp_path / "large.png")
    Image.fromarray(np.full((40, 60), 300, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.ones((40, 60), np.float32)).save(tmp_path / "float.tiff")
    for name, message in (
        ("large.png", "has 9000 x 8000 pixels, expected at most 67108864 in all"),
        ("deep.png", "has pixels of mode I;16, expected channels of 8 bits"),
        ("float.tiff", "has pixels of mode F, expected channels of 8 bits"),
    ):
        one_line(run(capsys, "demo", "--image", tmp_path / name, "--out", tmp_path / "out"), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("form", "first"),
    [("L", (90, 90, 90)), ("RGBA", (10, 20, 30)), ("P", (10, 20, 30)), ("1", (255, 255, 255)), ("CMYK", (10, 20, 30))],
)
def test_photos_of_every_form_are_read(tmp_path, form, first):
    photo = Image.new("RGB", (60, 40), first)
    if form == "P":
        photo = photo.quantize(2)
    path = tmp_path / ("photo.tiff" if form == "CMYK" else "photo.PNG")
    photo.convert(form).save(path)
    array = common.load_photo(path)
    assert (array.shape, array.dtype) == ((40, 60, 3), np.uint8)
    np.testing.assert_allclose(array[0, 0], first, atol=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shape", "1000000", "1000000"), "shape is (1000000, 1000000), which takes"),
        (("--shape", "3", str(10**20)), f"shape is (3, {10**20}), expected"),
        (("--image-size", "3", str(10**20)), f"image_size is (3, {10**20}), expected"),
        (("--amplitude", "inf"), "amplitude is inf, expected a number from 0 to 1e+30"),
        (("--bandwidth", "1e-320"), "bandwidth is 1e-320, expected a number of pixels from"),
        (("--category", STEERING), f"has no category '{ESCAPED}', it has car"),
        ((f"--{STEERING}",), f"unrecognized arguments: --{ESCAPED}"),
    ],
)
def test_options_that_ask_for_too_much(capsys, tmp_path, words, message):
    path = coco(tmp_path / "train.json")
    one_line(run(capsys, "saliency", "coco", path, "--out", tmp_path / "p.npz", *words), message)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("words", [("--shape", "1000000", "1000000"), ("--edge", "inf"), ("--background", "nan")])
def test_label_options_that_ask_for_too_much(capsys, tmp_path, words):
    result = run(capsys, "saliency", "cityscapes", tmp_path, "--out", tmp_path / "p.npz", *words)
    one_line(result, f"boundary_density: {words[0][2:]} is ")


def test_text_from_files_does_not_steer_the_terminal(capsys, tmp_path):
    path = coco(
        tmp_path / f"{STEERING[:5]}.json",
        categories=[{"id": 3, "name": STEERING}, {"id": 4, "name": "x" * 10_000}],
        annotations=[{"id": STEERING, "image_id": 1, "category_id": 3, "bbox": STEERING}],
    )
    result = run(capsys, "saliency", "coco", path, "--out", tmp_path / "p.npz", "--category", "tram")
    one_line(result, "it has ")
    assert len(result[2]) < 600
    one_line(run(capsys, "saliency", "coco", path, "--out", tmp_path / "p.npz"), r"\x1b[2J")
    settings = {
        STEERING: STEERING,
        "images": STEERING,
        "boxes": "$\\frac{",
        "image_size": [10**400, 2],
        "kind": [STEERING],
    }
    save_prior(Prior(torch.ones(3, 4), settings), tmp_path / "own.npz")
    code, out, err = run(capsys, "saliency", "show", tmp_path / "own.npz", "--plot", tmp_path / "own.png")
    assert (code, err) == (0, "")
    assert all(line.isprintable() for line in out.split("\n"))
    assert f"{ESCAPED}: {ESCAPED}" in out.split("\n")
    assert out.count("\n") < 20


@pytest.mark.parametrize(
    "size", [[10**6, 2], [2, 10**6], [10**9, 2], [3, 300], [-5, 5], [True, True], [2.0, 3.0], "large"]
)
def test_sizes_in_priors_cost_nothing(capsys, tmp_path, size):
    save_prior(Prior(torch.ones(3, 4), {"image_size": size}), tmp_path / "own.npz")
    code, out, _ = run(capsys, "saliency", "show", tmp_path / "own.npz", "--plot", tmp_path / "own.png")
    assert code == 0
    assert len(out) < 20_000
    assert (tmp_path / "own.png").stat().st_size < 1_000_000


# --- what cannot be written -------------------------------------------------------------------------------------------


def test_long_names_are_written(tmp_path):
    path = tmp_path / ("x" * 250 + ".npz")
    prior = Prior(torch.ones(3, 4), {})
    save_prior(prior, path)
    assert torch.equal(load_prior(path).saliency, prior.saliency)
    assert list(tmp_path.iterdir()) == [path]


def test_names_that_are_too_long_are_refused(capsys, tmp_path):
    path, name = coco(tmp_path / "train.json"), "x" * 300
    for words in (
        ("saliency", "coco", path, "--out", tmp_path / f"{name}.npz"),
        ("saliency", "coco", path, "--out", tmp_path / "p.npz", "--plot", tmp_path / f"{name}.png"),
        ("saliency", "coco", path, "--out", tmp_path / name / "p.npz"),
        ("demo", "--out", tmp_path / name),
        ("demo", "--downsize", "--out", tmp_path / name),
    ):
        one_line(run(capsys, *words), "File name too long")
        assert list(tmp_path.iterdir()) == [path]
    for target in (tmp_path / f"{name}.npz", tmp_path / name / "p.npz"):
        with pytest.raises(FastwarpError, match=r"^cannot write .*: File name too long"):
            write_whole({tmp_path / "first": b"a", target: b"b"})
        assert list(tmp_path.iterdir()) == [path]


def test_folders_that_cannot_be_written_to(capsys, tmp_path, monkeypatch):
    """/proc is one even for root."""
    path = coco(tmp_path / "train.json")
    one_line(run(capsys, "saliency", "coco", path, "--out", "/proc/p.npz"), "cannot write /proc/p.npz: ")
    one_line(run(capsys, "demo", "--out", "/proc/demo"), "cannot ")
    monkeypatch.setattr(os, "access", lambda *_: False)
    words = ("saliency", "coco", tmp_path / "not read.json", "--out", tmp_path / "p.npz")
    one_line(run(capsys, *words), f"cannot write {tmp_path}/p.npz: {tmp_path} must not be written to")


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, call):
    for name in ("a.npz", "b.png"):
        (tmp_path / name).write_bytes(b"an older file")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if call == "write":
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    else:
        monkeypatch.setattr(_files.os, call, full)
    try:
        with pytest.raises(FastwarpError, match=r"^cannot write .*: (No space left on device|File too large)$"):
            write_whole({tmp_path / "a.npz": bytes(100), tmp_path / "b.png": bytes(100_000)})
    finally:
        if call == "write":
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.png"]
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.png").read_bytes() == b"an older file"


def test_a_folder_in_the_way_of_the_second_file(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"an older file")
    (tmp_path / "b.png").mkdir()
    with pytest.raises(FastwarpError, match=r"^cannot write .*b.png: Is a directory$"):
        write_whole({tmp_path / "a.npz": b"new", tmp_path / "b.png": b"new"})
    assert (tmp_path / "a.npz").read_bytes() == b"an older file"


def test_the_demos_picture_is_whole_or_not_there(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "demo.png").write_bytes(b"an older one")
    monkeypatch.setattr(_files.os, "fsync", full)
    with pytest.raises(FastwarpError, match=r"^cannot write .*demo.png: No space left on device$"):
        common.write(viz.show_error(torch.rand(4, 5)), tmp_path / "demo.png")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an older one"]


# --- Ctrl-C, memory, and the output -----------------------------------------------------------------------------------

COMMANDS = {
    "coco": (("saliency", "coco", "x.json", "--out", "p.npz"), "fastwarp.saliency.command.make"),
    "show": (("saliency", "show", "p.npz"), "fastwarp.saliency.command.show"),
    "doctor": (("doctor",), "fastwarp.doctor.examine"),
    "demo": (("demo",), "fastwarp.demo.zoom.run"),
    "demo --downsize": (("demo", "--downsize"), "fastwarp.demo.downsize.run"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_interruptions_and_memory(capsys, monkeypatch, command):
    words, target = COMMANDS[command]
    for error, message, code in (
        (KeyboardInterrupt(), ": interrupted\n", 130),
        (MemoryError(), ": error: not enough memory\n", 2),
        (OSError(28, "No space left on device"), ": error: cannot write: No space left on device\n", 2),
    ):

        def stop(*_: object, error: BaseException = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("fastwarp.cli._abandon_output", lambda: None)
        monkeypatch.setattr(target, stop)
        one_line(run(capsys, *words), message, code)


def test_an_interrupted_writer_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole({tmp_path / "a": b"new"})
    assert list(tmp_path.iterdir()) == []


def start(*words: object, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "fastwarp", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def opened(process: int) -> set[str]:
    """The files that a process has open."""
    found = set()
    for link in Path(f"/proc/{process}/fd").glob("*"):
        with contextlib.suppress(OSError):  # it was closed meanwhile
            found.add(os.readlink(link))
    return found


def test_ctrl_c(tmp_path):
    images = [{"id": 1, "height": 100, "width": 200}]
    boxes = [{"image_id": 1, "bbox": [1, 2, 3, 4]}] * 1_500_000
    path = coco(tmp_path / "train.json", images=images, annotations=boxes)
    for attempt in range(5):
        results = tmp_path / str(attempt)
        results.mkdir()
        # A shell's background jobs ignore Ctrl-C, and what they start does, too.
        heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        process = start("saliency", "coco", path, "--out", results / "p.npz", "--plot", results / "p.png", **heed)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:  # until it reads the file
            if str(path) in opened(process.pid):
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        if process.returncode != 0:  # on a loaded machine it may have ended before the signal came
            break
    assert (process.returncode, out, err) == (130, b"", b"fastwarp saliency: interrupted\n")
    assert not list(results.iterdir())


@pytest.mark.parametrize("setting", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_terminals_that_are_not_utf_8(tmp_path, setting):
    save_prior(Prior(torch.ones(3, 4), {"source": "Fußgänger→", "kind": "café"}), tmp_path / "grün.npz")
    environment = os.environ | {"PYTHONCOERCECLOCALE": "0"} | setting
    process = start("saliency", "show", tmp_path / "grün.npz", env=environment)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, b"")
    assert rb"source: Fu\xdfg\xe4nger\u2192" in out


def test_output_that_cannot_be_written(tmp_path):
    save_prior(Prior(torch.ones(3, 4), {}), tmp_path / "p.npz")
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "fastwarp", "saliency", "show", str(tmp_path / "p.npz")]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=120)
    expected = b"fastwarp saliency: error: cannot write: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, expected)


def test_what_is_shown_is_one_line_without_controls():
    assert shown(STEERING) == ESCAPED
    assert shown("a b→日本") == "a b→日本"
    assert shown(os.fsdecode(b"\xff.npz")) == r"\udcff.npz"
    assert shown("".join(map(chr, range(32)))).isprintable()


def test_settings_are_what_json_holds(tmp_path):
    """NumPy's numbers, too, which json does not write."""
    path = coco(tmp_path / "train.json")
    prior = coco_prior(path, (5, 6), np.float32(2), np.float64(32), image_size=(100, 200))
    save_prior(prior, tmp_path / "p.npz")
    assert load_prior(tmp_path / "p.npz").settings == prior.settings
