"""The experiments: their statistics, and that kept runs are kept."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

EXPERIMENTS = Path(__file__).resolve().parent.parent / "experiments"


@pytest.fixture
def modules(monkeypatch):
    """Imports modules of the experiments, whose folder is on the path as if one of them was run; forgets them after."""
    before, threads = set(sys.modules), torch.get_num_threads()
    monkeypatch.syspath_prepend(EXPERIMENTS)
    yield importlib.import_module
    torch.set_num_threads(threads)
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent.name in ("experiments", "examples"):
            del sys.modules[name]


def test_intervals_are_those_of_scipy(modules):
    intervals = modules("intervals")
    random = np.random.default_rng(0)
    for pairs in (2, 5, 12):
        a, b = random.normal([[1.0], [0.0]], 0.3, (2, pairs))
        expected = stats.ttest_rel(a, b).confidence_interval(0.95)
        found = intervals.difference(a, b)
        np.testing.assert_allclose([found.low, found.high], expected, rtol=1e-9)
        assert found.mean == pytest.approx((a - b).mean())
        assert found.claimed == (pairs >= 5 and stats.ttest_rel(a, b).pvalue < 0.05)
    assert np.isnan(intervals.difference([1.0], [0.5]).low)


def folder(root: Path) -> Path:
    """Four training and two test images of two classes and unlabelled pixels."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for number in range(count):
            label = np.zeros((48, 64), np.uint8)
            label[20:, : random.integers(16, 48)] = 8
            label[:2] = 11
            pixels = (label[..., None] * 20 + random.integers(0, 60, (48, 64, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(root / "images" / split / f"{number}.jpg")
            Image.fromarray(label).save(root / "labels" / split / f"{number}.png")
    return root


def test_an_experiment_goes_on_from_its_runs(tmp_path, modules):
    data, out = folder(tmp_path / "data"), tmp_path / "out"
    command, unzoom = modules("command"), modules("unzoom")

    def run(seeds: int) -> list[str]:
        folders = ["--data", str(data), "--results", str(out), "--pages", str(out)]
        command.main(unzoom.page, ["--preset", "smoke", "--seeds", str(seeds), *folders])
        return (out / "camvid.jsonl").read_text().splitlines()

    first, count = run(1), len(unzoom.NAMES)
    assert len(first) == count
    (out / "camvid.jsonl").write_text("\n".join([*first[:-1], first[-1][:40]]))  # killed while it wrote the last
    second = run(2)
    assert second[: count - 1] == first[:-1]
    runs = [json.loads(line) for line in second if line.endswith("}")]
    assert len(runs) == 2 * count
    again = next(run for run in runs[count - 1 :] if run["seed"] == 0)
    assert again["metrics"] == json.loads(first[-1])["metrics"]  # trainings repeat
    assert "| mIoU: fixed, both antialiased against fixed | 2 |" in (out / "unzoom.md").read_text()


@pytest.mark.parametrize("name", ["fixed", "fixed, boxes unzoomed", "nonseparable"])
def test_boxes_come_back_from_the_cells_of_a_detector(modules, name):
    detector, presets = modules("detector"), modules("presets")
    setup = presets.detectors("smoke", name)[name]
    data = detector.scenes(setup.length, setup.source, 0, 0.0)
    warp = detector.warp_of(setup, data.prior, None)
    there = detector.to_cells(data.boxes, setup, warp)
    for boxes, back in zip(data.boxes, detector.from_cells(there, setup, warp), strict=True):
        torch.testing.assert_close(back, boxes, rtol=0, atol=1e-3)
    height, width = setup.size
    assert all((boxes >= -0.5).all() and (boxes <= max(width, height) / 4).all() for boxes in there)


def test_objects_are_the_connected_parts_of_label_maps(modules):
    objects, camvid = modules("objects"), modules("camvid")
    number = {name: camvid.CLASSES.index(name) for name in ("road", "pole", "car", "pedestrian", "sign")}
    labels = np.full((60, 100), number["road"], np.uint8)
    labels[10:30, 5:45] = number["car"]
    labels[10:30, 20:22] = number["pole"]  # in front of it
    labels[40:50, 5:55] = number["car"]  # a row of them
    labels[5:35, 60:70] = number["pedestrian"]
    labels[40:55, 60:85] = number["pedestrian"]  # a group
    labels[50:55, 90:93] = number["sign"]  # three pixels wide
    found = objects.find(labels)
    wanted = [[5, 10, 45, 30], [5, 40, 55, 50], [60, 5, 70, 35], [60, 40, 85, 55], [90, 50, 93, 55]]
    assert found.boxes.tolist() == wanted
    assert [objects.CLASSES[kind] for kind in found.labels] == ["car", "car", "pedestrian", "pedestrian", "sign"]
    assert found.ignored.tolist() == [False, True, False, True, True]
    content = objects.coco([objects.find(labels[:5]), found], objects.CLASSES, [{}, {}])
    assert [a["image_id"] for a in content["annotations"]] == [1] * 5
    assert content["annotations"][0]["bbox"] == [5, 10, 40, 20]
    assert [a["iscrowd"] for a in content["annotations"]] == [0, 1, 0, 1, 1]
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3, 4, 5]  # 0 is no number for pycocotools
