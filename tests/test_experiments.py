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
    warp = detector.warp_of(setup, data.prior(setup.amplitude), None)
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


def test_ranking_measures_are_those_of_definitions(modules):
    classifier = modules("classifier")
    random = np.random.default_rng(0)
    known, scores = random.random(50) < 0.3, random.random(50)
    pairs = scores[known][:, None] > scores[~known]
    assert classifier.roc_area(known, scores) == pytest.approx(pairs.mean())
    assert classifier.roc_area(known, np.zeros(50)) == pytest.approx(0.5)
    found = [known[scores >= one].mean() for one in scores[known]]
    assert classifier.average_precision(known, scores) == pytest.approx(np.mean(found))


def cells(root: Path) -> Path:
    """Twenty cells of each of two types of module, whose images are of one grey each."""
    (root / "images").mkdir(parents=True)
    rows = []
    for number in range(40):
        Image.new("L", (30, 30), 6 * number).save(root / "images" / f"{number}.png")
        rows.append(f"images/{number}.png {[0.0, 0.0, 1 / 3, 1.0][number // 2 % 4]} {['mono', 'poly'][number % 2]}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")
    return root


def test_solar_cells_are_in_one_split_each(tmp_path, modules):
    solar_cells, command, solar = modules("solar_cells"), modules("command"), modules("solar")
    folder, out = cells(tmp_path / "data"), tmp_path / "out"
    splits = [solar_cells.load(folder, name) for name in solar_cells.SHARES]
    assert sorted(torch.cat([one.images[:, 0, 0, 0] for one in splits]).tolist()) == list(range(0, 240, 6))
    assert [len(one.images) for one in splits] == [24, 8, 8]
    for one in splits:
        number = one.images[:, 0, 0, 0].long() // 6
        assert one.mono.tolist() == (number % 2 == 0).tolist()
        assert one.defective.tolist() == (number // 2 % 4 == 3).tolist()
    folders = ["--data", str(folder), "--results", str(out), "--pages", str(out)]
    command.main(solar.page, ["--preset", "smoke", "--seeds", "1", *folders])
    kept = [json.loads(line) for line in (out / "solar.jsonl").read_text().splitlines()]
    assert [run["setup"]["resize"] for run in kept] == [*solar.NAMES[:4], "downsize", "downsize"]
    assert all(0 <= run["metrics"]["AP"] <= 100 for run in kept)


def test_boxes_of_tiles_are_those_of_the_image(tmp_path, modules):
    trees = modules("trees")
    boxes = [[3, 4, 9, 12], [12, 2, 24, 10], [30, 36, 40, 45], [15, 15, 18, 30], [26, 2, 35, 10]]
    image = np.zeros((50, 44, 3), np.uint8)
    for number, (x1, y1, x2, y2) in enumerate(boxes, 1):
        image[y1:y2, x1:x2] = number
    entries = [
        f"<object><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    ]
    for name in trees.FILES:
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.xml").write_text(f"<annotation>{''.join(entries)}</annotation>")
    images, found = trees.load(tmp_path, "test", (20, 16))
    assert len(images) == 3 * 3
    assert [len(trees.load(tmp_path, split, (10, 16)).images) for split in ("train", "val")] == [7 * 5, 3]
    whole = 0
    for tile, (corners, _, ignored) in zip(images, found, strict=True):
        for (x1, y1, x2, y2), ignore in zip(corners.int().tolist(), ignored.tolist(), strict=True):
            number = tile[0, y1, x1].item()
            a, b, c, d = boxes[number - 1]
            assert (tile[0] == number).sum() == (x2 - x1) * (y2 - y1)  # all of it that the tile has
            assert ignore == (2 * (x2 - x1) * (y2 - y1) < (c - a) * (d - b) or min(x2 - x1, y2 - y1) < 4)
            whole += not ignore
    assert whole == 4  # the narrow one is ignored


def test_cityscapes_becomes_a_folder_of_the_camvid_layout(tmp_path, modules):
    cityscapes, camvid = modules("cityscapes"), modules("camvid")
    labels = np.full((64, 128), 7, np.uint8)  # road
    labels[:32, :64], labels[:32, 64:], labels[48:] = 23, 25, 1  # sky, rider, the ego vehicle
    for split, city in (("train", "aachen"), ("train", "ulm"), ("val", "lindau")):
        for kind in ("leftImg8bit", "gtFine"):
            (tmp_path / kind / split / city).mkdir(parents=True)
        name = f"{city}_000000_000019"
        image = np.full((64, 128, 3), 100, np.uint8)
        Image.fromarray(image).save(tmp_path / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
        Image.fromarray(labels).save(tmp_path / "gtFine" / split / city / f"{name}_gtFine_labelIds.png")
    assert cityscapes.write(tmp_path, tmp_path / "out", (16, 32)) == {"train": 1, "val": 1, "test": 1}
    found = camvid.load(tmp_path / "out", "test")
    assert tuple(found.images.shape) == (1, 3, 16, 32)
    road, sky, bicyclist = (camvid.CLASSES.index(name) for name in ("road", "sky", "bicyclist"))
    assert found.labels[0, [0, 0, 10, 15], [0, 31, 5, 5]].tolist() == [sky, bicyclist, road, camvid.IGNORE]


def test_objects_of_a_coco_folder(tmp_path, modules):
    objects = modules("objects")
    for name, count in (("train2017", 11), ("val2017", 1)):
        (tmp_path / name).mkdir()
        images = [{"id": 7 + i, "file_name": f"{i}.jpg", "width": 80, "height": 60} for i in range(count)]
        for image in images:
            Image.new("RGB", (80, 60), (10, 20, 30)).save(tmp_path / name / image["file_name"])
        box = {"image_id": 7, "bbox": [8, 12, 16, 24], "category_id": 44}
        content = {
            "images": images,
            "annotations": [box | {"iscrowd": 0}, box | {"bbox": [0, 0, 80, 60], "iscrowd": 1, "category_id": 1}],
            "categories": [{"id": 1, "name": "person"}, {"id": 44, "name": "bottle"}],
        }
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    found = objects.load(tmp_path, "test", (30, 40))
    assert tuple(found.images.shape) == (1, 3, 30, 40)
    assert list(found.classes) == ["person", "bottle"]
    (one,) = found.objects
    assert one.boxes.tolist() == [[4, 6, 12, 18], [0, 0, 40, 30]]
    assert one.labels.tolist() == [1, 0]
    assert one.ignored.tolist() == [False, True]
    assert [len(objects.load(tmp_path, split, (30, 40)).objects) for split in ("train", "val")] == [10, 1]


def test_textures_fall_as_one_over_f(modules):
    textures = modules("textures")
    size, random = (256, 256), np.random.default_rng(0)
    power = sum(np.abs(np.fft.rfft2(textures.noise(random, size))) ** 2 for _ in range(8))
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256))
    low, high = (power[(frequency > a) & (frequency < 1.2 * a)].mean() for a in (0.02, 0.2))
    assert low / high == pytest.approx(100, rel=0.15)  # ten times the frequency, a hundredth of the power
    split = textures.generate("test", 3, (48, 64))
    assert set(split.labels.unique().tolist()) <= set(range(len(textures.CLASSES)))
    again = textures.generate("test", 3, (48, 64))
    assert all(torch.equal(a, b) for a, b in zip(split, again, strict=True))
    assert not torch.equal(split.images, textures.generate("train", 3, (48, 64)).images)
