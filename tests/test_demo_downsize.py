"""The demo of DownsizeNet end to end, and the plain torch that it is compared with."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fastwarp.cli import main
from fastwarp.demo import common, downsize
from fastwarp.demo import plain_torch_downsize as plain
from fastwarp.nn import DownsizeNet

SIZE = (14, 22)


def noise(height: int, width: int) -> np.ndarray:
    """Of two pixels, so that some of it can be restored."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 2, width // 2, 3), np.uint8)
    return coarse.repeat(2, 0).repeat(2, 1)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(downsize, "STEPS", 12)


@pytest.fixture
def photo() -> torch.Tensor:
    return common.as_tensor(noise(40, 62), torch.device("cpu"))


def trained(photo: torch.Tensor) -> DownsizeNet:
    net = downsize.network(photo)
    downsize.train(net, photo, SIZE, lambda step: None)
    return net


def test_end_to_end(tmp_path, capsys):
    path = tmp_path / "photo.png"
    Image.fromarray(noise(40, 62)).save(path)
    out = tmp_path / "deep" / "out"
    threads = torch.get_num_threads()
    words = ["demo", "--downsize", "--image", path, "--out", out, "--repeats", "2"]
    assert main([str(word) for word in words]) == 0
    assert torch.get_num_threads() == threads
    text = capsys.readouterr().out

    with Image.open(out / "downsize.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
        assert np.ptp(np.asarray(picture.convert("L"))) == 255
    assert "photo photo.png: 40 x 62, downsized to 14 x 22" in text
    assert "3 layers and 16 channels, trained for 12 steps on this very photo" in text
    assert "backend numba on cpu" in text
    assert "median of 2, 2 CPU threads" in text
    assert str(out / "downsize.png") in text

    row = re.compile(r"│ (.+?) +│ +([\d.]+) │ +([\d.]+)x │ +([\d.]+) │ +([\d.]+)x │")
    rows = {name: [float(v) for v in values] for name, *values in row.findall(text)}
    ours = rows["DownsizeNet, fastwarp"]
    assert list(rows)[:2] == [downsize.OURS, downsize.PLAIN]
    assert len(rows) == 6
    for there, ratio_there, back, ratio_back in rows.values():
        assert ratio_there == pytest.approx(there / ours[0], rel=0.05, abs=0.006)
        assert ratio_back == pytest.approx(back / ours[2], rel=0.05, abs=0.006)

    apart = re.search(r"less plain torch: at most (\S+); untrained less F.interpolate: at most (\S+)", text)
    assert apart is not None
    assert max(float(e) for e in apart.groups()) < 1e-4
    errors = re.search(r"bilinear (\S+), area (\S+), DownsizeNet (\S+)\n", text)
    assert errors is not None
    assert float(errors[3]) < float(errors[1])


def test_training_is_repeatable_and_leaves_the_generator_alone(photo):
    state = torch.get_rng_state()
    nets = [trained(photo) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(*(net.parameters() for net in nets), strict=True))


def test_weights_in_the_picture_are_those_of_the_result(photo):
    net = trained(photo)
    outcome = downsize.compare(net, downsize.network(photo), photo, SIZE)
    at = plain.tables((40, 62), SIZE, photo)
    torch.testing.assert_close(plain.interpolate(photo, outcome.weights, at), outcome.learned, rtol=0, atol=1e-5)
    torch.testing.assert_close(outcome.start, outcome.bilinear, rtol=0, atol=1e-4)
    assert (outcome.learned - outcome.start).abs().max() > 0.01


def test_wrong_results_and_gradients_are_found(photo, monkeypatch):
    net = trained(photo)
    assert downsize.check(net, photo, SIZE) < 1e-5
    honest = plain.interpolate
    monkeypatch.setattr(plain, "interpolate", lambda *args: honest(*args) + 0.02)
    with pytest.raises(AssertionError, match="the small photo: fastwarp and plain torch differ"):
        downsize.check(net, photo, SIZE)
    monkeypatch.setattr(plain, "interpolate", lambda *args: honest(*args) * 1.1 - honest(*args).detach() * 0.1)
    with pytest.raises(AssertionError, match=r"gradient \d+: fastwarp and plain torch differ"):
        downsize.check(net, photo, SIZE)


def test_large_photos_are_shrunk(monkeypatch):
    monkeypatch.setattr(downsize, "LARGEST_SIDE", 30)
    assert downsize.shrunk(noise(40, 62)).shape == (19, 30, 3)
    small = noise(20, 30)
    assert downsize.shrunk(small) is small


@pytest.mark.parametrize(("source", "size"), [((9, 12), (4, 5)), ((7, 8), (7, 16)), ((1, 5), (1, 2)), ((6, 6), (1, 1))])
def test_plain_torch_starts_as_bilinear_interpolation(source, size):
    image = torch.rand(2, 3, *source, dtype=torch.float64)
    start = torch.cat([torch.zeros(4, 5), torch.eye(4)], 1)[:, :, None, None].double()
    kernels, shifts = [torch.rand(5, 3, 3, 3).double()], [torch.rand(5).double()]
    at = plain.tables(source, size, image)
    weights = plain.coefficients(image, kernels, shifts, start, torch.zeros(4).double(), at)
    torch.testing.assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))
    expected = F.interpolate(image, size, mode="bilinear")
    torch.testing.assert_close(plain.interpolate(image, weights, at), expected, rtol=0, atol=1e-5)


def test_plain_torch_reads_its_features_at_the_first_tap():
    """A network that copies the image, and one logit that is the feature: the weights tell where it was read."""
    image = torch.arange(24.0).view(1, 1, 4, 6)
    copy = torch.zeros(1, 1, 3, 3)
    copy[0, 0, 1, 1] = 1
    fuse = torch.zeros(4, 5, 1, 1)
    fuse[0, 0] = 1
    at = plain.tables((4, 6), (2, 3), image)
    mean, std = torch.full((1, 1, 1), 3.0), torch.full((1, 1, 1), 4.0)
    weights = plain.coefficients(image, [copy], [torch.zeros(1)], fuse, torch.zeros(4), at, mean, std)
    # Targets lie at 0.5, 2.5, ...: the first taps are 0, 2, ... in both axes.
    first = torch.sigmoid(F.relu((image[0, 0, 0::2, 0::2] - 3) / 4))
    torch.testing.assert_close(weights[0, 0], first / (first + 1.5))


def test_plain_torch_keeps_the_first_tap_off_the_last_pixel():
    # Targets lie at 0 (clamped), 0.25, 0.75, 1.25, 1.75 and 2 (clamped): the last is one pixel past its first tap.
    at = plain.tables((1, 3), (1, 6), torch.empty(0))
    assert [taps.tolist() for taps in at.columns] == [[0, 0, 0, 1, 1, 1], [1, 1, 1, 2, 2, 2]]
    assert [taps.tolist() for taps in at.rows] == [[0], [0]]
