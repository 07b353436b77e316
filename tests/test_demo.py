"""The demo end to end, and its parts against independent float64 computations."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastwarp.cli import main
from fastwarp.demo import common, plain_torch, timing, zoom
from fastwarp.errors import FastwarpError
from fastwarp.reference import axis
from fastwarp.warp import SeparableWarp

BOXES = [(20.0, 50.0, 34.0, 60.0), (70.0, 12.0, 90.0, 40.0)]
SIZE = (40, 52)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def journey() -> zoom.Journey:
    return zoom.travel(noise(80, 104), BOXES, SIZE, torch.device("cpu"))


def to_zoomed(knots: torch.Tensor, pixels: np.ndarray, source: int, target: int) -> np.ndarray:
    """Continuous pixels through the inverse of one axis, by NumPy's float64 interpolation."""
    values = knots[0].double().numpy()
    return np.interp((pixels - 0.5) / (source - 1), values, np.linspace(0, 1, len(values))) * (target - 1) + 0.5


@pytest.mark.parametrize("warp", ["separable", "mesh"])
def test_end_to_end(warp, tmp_path, capsys):
    path = tmp_path / "photo.png"
    Image.fromarray(noise(80, 104)).save(path)
    out = tmp_path / "deep" / "out"
    threads = torch.get_num_threads()
    words = ["--boxes", "20,50,34,60", "70,12,90,40", "--size", "40", "52", "--out", out, "--repeats", "2"]
    words += ["--warp", warp]
    assert main(["demo", "--image", str(path), *map(str, words)]) == 0
    assert torch.get_num_threads() == threads
    text = capsys.readouterr().out

    with Image.open(out / "demo.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert np.ptp(np.asarray(picture.convert("L"))) == 255  # black frames on white paper, so something was drawn
    assert "photo photo.png: 80 x 104, 2 boxes, zoomed to 40 x 52" in text
    assert "pyramid of 256 channels: 5x7, 3x4, 2x2, 1x1, 1x1" in text
    assert "backend numba on cpu" in text
    assert "median of 2, 2 CPU threads" in text
    assert str(out / "demo.png") in text

    row = re.compile(r"│ (.+?) +│ (forward|backward) +│ +([\d.]+) │ +([\d.]+) │ +([\d.]+)x │")
    rows = row.findall(text)
    steps = ["saliency → warp", "zoom", "unzoom the pyramid", "all three"]
    assert [r[:2] for r in rows] == [(step, direction) for step in steps for direction in ("forward", "backward")]
    for *_, ours, plain, ratio in rows:
        assert float(ours) > 0
        assert float(ratio) == pytest.approx(float(plain) / float(ours), rel=0.05, abs=0.06)

    errors = re.search(r"boxes there and back: at most (\S+) px; T~\(T~\^-1\(x\)\) - x: at most (\S+) px", text)
    assert errors is not None
    assert max(float(e) for e in errors.groups()) < 1e-3
    quality = re.search(r"in the boxes: (\S+), by uniform resizing (\S+)", text)
    assert quality is not None
    # Of noise nearly all is lost at half the size, and these boxes are magnified by 4 to 6 % only.
    assert float(quality[1]) < 1.02 * float(quality[2])


def test_the_picture_is_there_before_times_are_taken(tmp_path, capsys, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    Image.fromarray(noise(80, 104)).save(tmp_path / "photo.png")
    monkeypatch.setattr(timing.Steps, "check", stop)
    words = ["--boxes", "20,50,34,60", "--size", "40", "52", "--out", str(tmp_path)]
    assert main(["demo", "--image", str(tmp_path / "photo.png"), *words]) == 130
    assert capsys.readouterr().out == f"picture: {tmp_path / 'demo.png'}\n"
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width > 1000


def test_default_photo_is_in_the_installed_package():
    photo = common.load_photo(None)
    assert (photo.shape, photo.dtype) == ((427, 640, 3), np.uint8)
    common.check_boxes(common.PHOTO_BOXES, 640, 427)
    # Lamps: every box holds pixels that are nearly white, and the sky above has none.
    assert all(photo[y1:y2, x1:x2].min(2).max() > 150 for x1, y1, x2, y2 in common.PHOTO_BOXES)
    assert photo[:100, 100:300].min(2).max() < 100


def test_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    pixels = noise(8, 12)
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(common.load_photo(tmp_path / "turned.png"), np.rot90(pixels, -1))


def test_grey_photo_becomes_rgb(tmp_path):
    grey = noise(8, 12)[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(common.load_photo(tmp_path / "grey.png"), np.stack([grey] * 3, 2))


@pytest.mark.parametrize("size", [(214, 320), (600, 960), (33, 1)])
def test_pyramid_sizes_are_ceilings(size):
    levels = zoom.Pyramid()(torch.rand(1, 3, *size))
    expected = [(1, 256, -(-size[0] // stride), -(-size[1] // stride)) for stride in (8, 16, 32, 64, 128)]
    assert [tuple(level.shape) for level in levels] == expected
    assert all(level.std() > 0 for level in levels if level.numel() > 256)


def test_pyramid_is_the_same_every_time_and_leaves_the_generator_alone(journey):
    state = torch.get_rng_state()
    again = zoom.travel(noise(80, 104), BOXES, SIZE, torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(again.levels, journey.levels, strict=True))


def test_journey_is_that_of_the_reference(journey):
    y, x = axis.lz_knots(journey.saliency.numpy(), journey.saliency.mT.numpy(), zoom.FWHM, True)
    np.testing.assert_allclose(journey.warp.knots_y.numpy(), y, atol=1e-6)
    np.testing.assert_allclose(journey.warp.knots_x.numpy(), x, atol=1e-6)
    there = journey.warp.zoom_boxes(journey.boxes, (80, 104), SIZE).numpy()
    corners = np.array(BOXES)
    np.testing.assert_allclose(there[:, 0::2], to_zoomed(journey.warp.knots_x, corners[:, 0::2], 104, 52), atol=1e-4)
    np.testing.assert_allclose(there[:, 1::2], to_zoomed(journey.warp.knots_y, corners[:, 1::2], 80, 40), atol=1e-4)
    boxes, points = zoom.round_trip_errors(journey)
    assert boxes < 1e-3
    assert points < 1e-3


def test_round_trip_error_is_not_blind(journey):
    class Shifted(SeparableWarp):
        def unzoom_points(self, *args):
            return super().unzoom_points(*args) - 0.5

    shifted = journey._replace(warp=Shifted(journey.warp.knots_y, journey.warp.knots_x))
    assert zoom.round_trip_errors(shifted) == pytest.approx((0.5, 0.5), abs=1e-3)


def test_busy_machine_is_said(monkeypatch):
    monkeypatch.setattr(common.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(common.os, "getloadavg", lambda: (2.0, 9.0, 9.0), raising=False)
    assert common.busy_note(2) == []
    (note,) = common.busy_note(3)
    assert "load 2.0 on 4 cores" in note
    monkeypatch.delattr(common.os, "getloadavg")  # as on Windows
    assert common.busy_note(4) == []


def test_boxes_mask(journey):
    expected = np.zeros((80, 104), bool)
    for x1, y1, x2, y2 in BOXES:
        expected[int(y1) : int(y2), int(x1) : int(x2)] = True
    np.testing.assert_array_equal(zoom.boxes_mask(journey).numpy(), expected)


def test_restoration_error(journey):
    brighter = journey.photo + torch.tensor([0.3, -0.6, 0.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(zoom.restoration_error(journey, brighter), torch.full((80, 104), 0.3))


def test_plain_torch_is_right():
    saliency = torch.rand(2, 9, 12, dtype=torch.float64) ** 4
    knots = plain_torch.from_saliency(saliency, 5.0)
    expected = axis.lz_knots(saliency.numpy(), saliency.mT.numpy(), 5.0, True)
    for mine, theirs in zip(knots, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-5)  # the reference adds its floor of 1e-6
    # A map that is its own coordinate shows where it was read.
    for dim, side in ((0, 17), (1, 23)):
        ramp = torch.linspace(0, 1, side, dtype=torch.float64).view((-1, 1) if dim == 0 else (1, -1))
        ramp = ramp.expand(2, 1, 17, 23)
        (there,) = plain_torch.unzoom(knots, [ramp])
        here = plain_torch.zoom(knots, ramp, (17, 23))
        for b in range(2):
            k, n = knots[dim][b].numpy(), knots[dim].shape[1]
            profiles = (y[b, 0].select(1 - dim, 3).numpy() for y in (here, there))
            grid, uniform = np.linspace(0, 1, side), np.linspace(0, 1, n)
            np.testing.assert_allclose(next(profiles), np.interp(grid, uniform, k), atol=1e-12)
            np.testing.assert_allclose(next(profiles), np.interp(grid, k, uniform), atol=1e-12)


def test_plain_torch_puts_a_single_pixel_in_the_middle():
    knots = torch.tensor([[0.0, 0.25, 1.0]]), torch.tensor([[0.0, 0.1, 0.4, 1.0]])
    ramp = torch.arange(5.0).view(1, 1, 5, 1).expand(1, 1, 5, 9)
    assert plain_torch.zoom(knots, ramp, (1, 1)).item() == pytest.approx(1)  # T~(0.5) = 0.25
    (unzoomed,) = plain_torch.unzoom(knots, [torch.arange(7.0).view(1, 1, 1, 7)])
    # T~^-1 of j / 6, j = 0 .. 6, in pixels of 7.
    expected = np.interp(np.arange(7) / 6, [0, 0.1, 0.4, 1], [0, 2, 4, 6])
    np.testing.assert_allclose(unzoomed.numpy().ravel(), expected, atol=1e-5)


def test_times_are_taken_only_of_results_that_agree(journey, monkeypatch):
    steps = timing.Steps(journey.saliency, journey.photo, journey.levels, SIZE, zoom.FWHM)
    steps.check()
    timings = list(steps.time(2))
    assert len(timings) == 8
    assert all(t.fastwarp > 0 and t.plain > 0 for t in timings)

    honest = plain_torch.zoom
    monkeypatch.setattr(plain_torch, "zoom", lambda *args: honest(*args) + 0.02)
    with pytest.raises(AssertionError, match="zoom: "):
        steps.check()
    # Right results whose gradient is wrong.
    monkeypatch.setattr(plain_torch, "zoom", lambda *args: honest(*args) * 1.1 - honest(*args).detach() * 0.1)
    with pytest.raises(AssertionError, match="zoom: "):
        steps.check()


@pytest.mark.parametrize("poison", [0.0, float("nan")])
def test_every_result_is_compared(journey, monkeypatch, poison):
    honest = plain_torch.unzoom
    for level in range(5):

        def broken(knots, levels, level=level):
            results = honest(knots, levels)
            results[level] = results[level] * poison
            return results

        monkeypatch.setattr(plain_torch, "unzoom", broken)
        with pytest.raises(AssertionError, match="unzoom the pyramid: fastwarp and plain torch differ"):
            timing.Steps(journey.saliency, journey.photo, journey.levels, SIZE, zoom.FWHM).check()


def test_medians_leave_out_preparation_and_warm_up(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    log = []

    def prepare(name, ticks):
        log.append(f"prepare {name}")
        return lambda: [log.append(f"run {name}"), *(next(clock) for _ in range(ticks))]

    prepared = [lambda: prepare("a", 4), lambda: prepare("b", 0)]
    assert timing.medians(prepared, 3, torch.device("cpu")) == [5000, 1000]
    assert log == ["prepare a", "run a", "prepare b", "run b"] * 4


def test_picture_that_cannot_be_written(journey, tmp_path: Path):
    with pytest.raises(FastwarpError, match=r"cannot write .*: No such file"):
        zoom.draw(journey, tmp_path / "missing" / "demo.png")


@pytest.mark.parametrize("framework", ["torchvision", "transformers"])
def test_a_framework_that_is_absent_is_named_with_its_extra(framework, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, framework, None)
    assert main(["demo", "--model", f"{framework}.Net", "--out", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"fastwarp demo: error: {framework} is not installed: pip install 'fastwarp[{framework}]'\n"


@pytest.mark.parametrize("option", [["--downsize"], ["--warp", "mesh"]])
def test_a_network_has_its_own_zoom(option, tmp_path, capsys):
    assert main(["demo", "--model", "a.b", "--out", str(tmp_path), *option]) == 2
    assert f"{option[0]} does not go with --model" in capsys.readouterr().err
