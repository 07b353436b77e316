"""Priors from the files of data sets, in the formats these are published in, and the files of the priors themselves."""

from __future__ import annotations

import io
import itertools
import json
import zipfile

import numpy as np
import pytest
import torch
from saliency_file_cases import ARGOVERSE_HD, edited, write

from fastwarp._files import write_whole
from fastwarp.errors import FastwarpError
from fastwarp.saliency import _records, box_density
from fastwarp.saliency.coco import coco_prior
from fastwarp.saliency.files import Prior, load_prior, save_prior

# As scalabel's to_coco writes BDD100K: ignored regions are crowds, ids count from 1.
BDD100K = {
    "type": "instance",
    "categories": [{"supercategory": "human", "id": 1, "name": "pedestrian"}, {"id": 3, "name": "car"}],
    "videos": [{"id": 1, "name": "b1c66a42-6f7d68ca"}],
    "images": [
        {"video_id": 1, "frame_id": 0, "file_name": "b1c66a42/0000001.jpg", "height": 720, "width": 1280, "id": 1},
        {"video_id": 1, "frame_id": 1, "file_name": "b1c66a42/0000002.jpg", "height": 720, "width": 1280, "id": 2},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "instance_id": 1, "scalabel_id": "9", "iscrowd": 0, "ignore": 0,
         "bbox": [205.879417, 338.141346, 76.112996, 49.910161], "area": 3798.81},
        {"id": 2, "image_id": 1, "category_id": 1, "instance_id": 2, "scalabel_id": "10", "iscrowd": 1, "ignore": 0,
         "bbox": [600.0, 100.0, 50.0, 50.0], "area": 2500.0},
        {"id": 3, "image_id": 2, "category_id": 3, "instance_id": 1, "scalabel_id": "9", "iscrowd": 0, "ignore": 0,
         "bbox": [1204.082651, 415.502097, 74.865243, 114.793372], "area": 8594.0},
        {"id": 4, "image_id": 2, "category_id": 1, "instance_id": 3, "scalabel_id": "11", "iscrowd": 0, "ignore": 0,
         "bbox": [0, 336.893592, 52.40567, 66.130964], "area": 3465.63},
    ],
}  # fmt: skip


def mean(images: list[list[list[float]]], size: tuple[int, int], *args) -> np.ndarray:
    """Of the densities of images whose boxes are [x, y, width, height]."""
    maps = []
    for boxes in images:
        corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes], dtype=torch.float64)
        maps.append(box_density(corners, size, *args)[0].numpy())
    return np.mean(maps, 0)


def boxes_of(data: dict, image: object) -> list[list[float]]:
    return [a["bbox"] for a in data["annotations"] if a["image_id"] == image and not a["iscrowd"]]


# --- COCO -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 1])
def test_argoverse_hd(tmp_path, indent):
    prior = coco_prior(write(tmp_path / "train.json", ARGOVERSE_HD, indent=indent))
    expected = mean([boxes_of(ARGOVERSE_HD, image) for image in (0, 2)], (1200, 1920))
    assert prior.saliency.dtype == torch.float32
    np.testing.assert_allclose(prior.saliency.numpy(), expected, rtol=1e-5)
    assert prior.saliency.sum().item() == pytest.approx(1, abs=1e-5)
    assert prior.settings == {
        "kind": "coco",
        "source": "train.json",
        "image_size": [1200, 1920],
        "amplitude": 1.0,
        "bandwidth": 64.0,
        "categories": [],
        "clip": False,
        "images": 2,
        "images_without_boxes": 1,
        "boxes": 3,
    }


def test_bdd100k(tmp_path):
    path = write(tmp_path / "det.json", BDD100K)
    prior = coco_prior(path, (9, 14), 5.0, 20.0)
    expected = mean([boxes_of(BDD100K, image) for image in (1, 2)], (720, 1280), (9, 14), 5.0, 20.0)
    np.testing.assert_allclose(prior.saliency.numpy(), expected, rtol=1e-5)
    assert (prior.settings["images"], prior.settings["boxes"]) == (2, 3)


def test_categories(tmp_path):
    path = write(tmp_path / "det.json", BDD100K)
    # Of the two pedestrians one is a crowd, so that one image is left.
    prior = coco_prior(path, categories=["pedestrian"])
    expected = mean([[BDD100K["annotations"][3]["bbox"]]], (720, 1280))
    np.testing.assert_allclose(prior.saliency.numpy(), expected, rtol=1e-5)
    assert [prior.settings[key] for key in ("categories", "images", "images_without_boxes")] == [["pedestrian"], 1, 1]
    both = coco_prior(path, categories=["car", "pedestrian", "car"])
    assert torch.equal(both.saliency, coco_prior(path).saliency)


@pytest.mark.parametrize("order", [("annotations", "images", "categories"), ("images", "annotations", "categories")])
def test_order_of_the_sections_does_not_matter(tmp_path, order):
    shuffled = {"info": {"year": 2020, "notes": [1, {"a": []}]}} | {key: ARGOVERSE_HD[key] for key in order}
    path, usual = write(tmp_path / "a.json", shuffled), write(tmp_path / "b.json", ARGOVERSE_HD)
    for names in ([], ["car"]):
        assert torch.equal(coco_prior(path, categories=names).saliency, coco_prior(usual, categories=names).saliency)


def test_boxes_are_resized_with_their_images(tmp_path):
    images = [{"id": "a", "height": 100, "width": 200}, {"id": "b", "height": 300, "width": 150}, {"id": "c"}]
    boxes = [("a", [20, 10, 40, 20]), ("b", [15, 60, 30, 90]), ("c", [50, 40, 10, 5])]
    data = {"images": images, "annotations": [{"image_id": i, "bbox": box} for i, box in boxes]}
    prior = coco_prior(write(tmp_path / "sizes.json", data), image_size=(600, 400))
    expected = mean([[[40, 60, 80, 120]], [[40, 120, 80, 180]], [[50, 40, 10, 5]]], (600, 400))
    np.testing.assert_allclose(prior.saliency.numpy(), expected, rtol=1e-5)
    assert prior.settings["image_size"] == [600, 400]


def test_rounding_may_take_boxes_a_pixel_past_the_image(tmp_path):
    data = {"images": [{"id": 1, "height": 100, "width": 200}]}
    data["annotations"] = [{"image_id": 1, "bbox": [-1, -0.5, 202, 101.5]}]
    prior = coco_prior(write(tmp_path / "past.json", data))
    np.testing.assert_allclose(prior.saliency.numpy(), mean([[[-1, -0.5, 202, 101.5]]], (100, 200)), rtol=1e-5)


def test_clip(tmp_path):
    boxes = [[-30, 20, 50, 40], [150, 80, 100, 50], [300, 10, 20, 20], [-20, 10, 20, 20], [60, 50, 0, 0]]
    data = {"images": [{"id": 1, "height": 100, "width": 200}]}
    data["annotations"] = [{"id": k, "image_id": 1, "bbox": box} for k, box in enumerate(boxes)]
    path = write(tmp_path / "past.json", data)
    with pytest.raises(
        FastwarpError, match=r"annotations\[0\] \(id 0\) has bbox \[-30, 20, 50, 40\], outside the pict"
    ):
        coco_prior(path)
    prior = coco_prior(path, clip=True)
    expected = mean([[[0, 20, 20, 40], [150, 80, 50, 20], [60, 50, 0, 0]]], (100, 200))
    np.testing.assert_allclose(prior.saliency.numpy(), expected, rtol=1e-5)
    assert prior.settings["boxes"] == 3


def test_many_images_of_different_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("fastwarp.saliency._mean.BLOCK", 7)
    rng = np.random.default_rng(0)
    images = [{"id": 5 * i, "height": 90, "width": 160} for i in range(40)]
    annotations, lists = [], {}
    for i in rng.integers(0, 40, 300).tolist():
        box = [*rng.uniform(0, 60, 2).round(2).tolist(), *rng.uniform(0, 30, 2).round(2).tolist()]
        annotations.append({"id": len(annotations), "image_id": 5 * i, "bbox": box})
        lists.setdefault(i, []).append(box)
    prior = coco_prior(write(tmp_path / "many.json", {"images": images, "annotations": annotations}), (8, 11))
    np.testing.assert_allclose(prior.saliency.numpy(), mean(list(lists.values()), (90, 160), (8, 11)), rtol=1e-5)
    assert prior.settings["images"] == len(lists)


def test_progress_reaches_its_total(tmp_path):
    path, told = write(tmp_path / "train.json", ARGOVERSE_HD), []
    coco_prior(path, progress=lambda done, total: told.append((done, total)))
    size = path.stat().st_size
    assert told[-1] == (2 * size, 2 * size)
    assert all(a[0] <= b[0] for a, b in itertools.pairwise(told))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "has no images: key 'images' is missing or empty"),
        ({"annotations": []}, "has no images"),
        ({"images": {"id": 1}}, "has no images"),
        (ARGOVERSE_HD | {"annotations": []}, "has no boxes"),
        (ARGOVERSE_HD | {"images": [5]}, "images[0] is 5, expected an object"),
        (ARGOVERSE_HD | {"images": [{"id": 4, "width": 5}]}, "images[0] (id 4) has no key 'height', expected"),
        (ARGOVERSE_HD | {"images": [{"id": 4, "width": 5, "height": "7"}]}, "(id 4) has height '7', expected an int"),
        (ARGOVERSE_HD | {"images": [{"id": 4, "width": 5, "height": 1}]}, "has height 1, expected an integer"),
        (ARGOVERSE_HD | {"images": [{"id": [4]}]}, "images[0] (id [4]) has id [4], expected an id"),
        (ARGOVERSE_HD | {"images": ARGOVERSE_HD["images"] * 2}, "images[3] (id 0) has the id of an image before it"),
        (
            ARGOVERSE_HD | {"images": [*ARGOVERSE_HD["images"], {"id": 9, "width": 5, "height": 7}]},
            "images[3] (id 9) has 7 x 5 pixels, those before it 1200 x 1920: give the image size",
        ),
        (edited(bbox=None), "annotations[1] (id 1) has no key 'bbox', expected four numbers [x, y, width, height]"),
        (edited(bbox=[1, 2, 3]), "annotations[1] (id 1) has bbox [1, 2, 3], expected four numbers"),
        (edited(bbox=[1, 2, 3, "4"]), "has bbox [1, 2, 3, '4'], expected four numbers"),
        (edited(bbox=["1", "2", "3", "4"]), "has bbox ['1', '2', '3', '4'], expected four numbers"),
        (edited(bbox=[1, 2, 3, [4]]), "annotations[1] (id 1) has bbox [1, 2, 3, [4]], expected four numbers"),
        (edited(bbox=[1, float("nan"), 3, 4]), "annotations[1] (id 1) has bbox [1, nan, 3, 4], expected four numbers"),
        (edited(bbox=[1, 2, float("inf"), 4]), "has bbox [1, 2, inf, 4], expected four numbers"),
        (edited(bbox=[1, 2, -3, 4]), "annotations[1] (id 1) has bbox [1, 2, -3, 4], expected a width and a"),
        (edited(bbox=[1, 2, 3, 1200]), "has bbox [1, 2, 3, 1200], outside the picture, which is 1920 pixels wide"),
        (edited(bbox=[1900, 2, 30, 4]), "outside the picture"),
        (edited(bbox=[-3, 2, 30, 4]), "outside the picture"),
        (edited(image_id=None), "annotations[1] (id 1) has no key 'image_id', expected an id"),
        (edited(image_id=7), "annotations[1] (id 1) has image_id 7, which no image has"),
        (edited(image_id=[7]), "annotations[1] (id 1) has image_id [7], expected an id"),
        (edited(image_id="0"), "annotations[1] (id 1) has image_id '0', which no image has"),
        (edited(image_id=True), "annotations[1] (id 1) has image_id True, expected an id"),
        (edited(image_id=0.5), "annotations[1] (id 1) has image_id 0.5, expected an id"),
        (edited(iscrowd="0"), "annotations[1] (id 1) has iscrowd '0', expected 0, 1, false, true or null"),
        (edited(iscrowd="false"), "annotations[1] (id 1) has iscrowd 'false', expected 0, 1, false, true or null"),
        (edited(iscrowd=2), "annotations[1] (id 1) has iscrowd 2, expected 0, 1, false, true or null"),
        (edited(iscrowd=[]), "annotations[1] (id 1) has iscrowd [], expected 0, 1, false, true or null"),
        (edited(ignore="0"), "annotations[1] (id 1) has ignore '0', expected 0, 1, false, true or null"),
        (edited(iscrowd=1, ignore="no"), "annotations[1] (id 1) has ignore 'no', expected 0, 1, false, true or null"),
        (edited(bbox=[1, 2, 10**20, 4]), "annotations[1] (id 1) has bbox [1, 2, 100000000000000000000, 4], outside"),
        (edited(bbox=[10**20, 2, 3, 4]), "annotations[1] (id 1) has bbox [100000000000000000000, 2, 3, 4], outside"),
        (edited(bbox=[1, 2, 10**400, 4]), "annotations[1] (id 1) has bbox [1, 2, 1000"),
        (edited(bbox=[1, 2, 1e300, 1e300]), "annotations[1] (id 1) has bbox [1, 2, 1e+300, 1e+300], expected four"),
        (edited(bbox=[True, 2, 3, 4]), "annotations[1] (id 1) has bbox [True, 2, 3, 4], expected four numbers"),
        (edited(bbox=[[1], [2], [3], [4]]), "annotations[1] (id 1) has bbox [[1], [2], [3], [4]], expected four"),
        (edited(bbox={"x": 1}), "annotations[1] (id 1) has bbox {'x': 1}, expected four numbers"),
        (edited(id="x" * 999, bbox=5), "has bbox 5, expected four numbers"),
        (ARGOVERSE_HD | {"images": [{"id": True}]}, "images[0] (id True) has id True, expected an id"),
        (ARGOVERSE_HD | {"images": [{"id": 4, "width": 5, "height": 10**20}]}, "has height 100000000000000000000, exp"),
        (ARGOVERSE_HD | {"images": [{"id": 4, "width": 10**400, "height": 5}]}, "has width 1000"),
        (edited(image_id=7, id=None), "train.json: annotations[1] has image_id 7"),
        (ARGOVERSE_HD | {"annotations": [[1, 2]]}, "annotations[0] is [1, 2], expected an object"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("together", [1, 256])
def test_bad_coco_files(tmp_path, monkeypatch, data, message, together):
    monkeypatch.setattr(_records, "TOGETHER", together)
    path = write(tmp_path / "train.json", data)
    with pytest.raises(FastwarpError) as caught:
        coco_prior(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert message in text
    assert "\n" not in text
    assert len(text) < 400 + len(str(path))


def test_bad_categories(tmp_path):
    path = write(tmp_path / "train.json", edited(category_id=None))
    coco_prior(path)  # nobody asks
    with pytest.raises(FastwarpError, match=r"annotations\[1\] \(id 1\) has no key 'category_id'"):
        coco_prior(path, categories=["car"])
    with pytest.raises(FastwarpError, match=r"has no category 'tram', it has car, person, traffic_light$"):
        coco_prior(path, categories=["car", "tram"])
    many = {"images": ARGOVERSE_HD["images"], "categories": [{"id": i, "name": f"c{i:02}"} for i in range(80)]}
    with pytest.raises(FastwarpError, match=r"it has c00, .*, c11, \.\.\.$"):
        coco_prior(write(path, many), categories=["tram"])
    with pytest.raises(FastwarpError, match=r"it has none$"):
        coco_prior(write(path, {"images": ARGOVERSE_HD["images"]}), categories=["tram"])
    with pytest.raises(FastwarpError, match=r"has no boxes of person$"):
        coco_prior(write(path, edited(category_id=2)), categories=["person"])
    with pytest.raises(FastwarpError, match=r"categories\[0\] \(id 4\) has no key 'name', expected a text"):
        coco_prior(write(path, ARGOVERSE_HD | {"categories": [{"id": 4}]}), categories=["car"])


def test_ids_and_flags_as_tables_write_them(tmp_path):
    """Columns with gaps become floats, and null where there is nothing."""
    data = json.loads(json.dumps(ARGOVERSE_HD))
    for record in data["annotations"]:
        record |= {"image_id": float(record["image_id"]), "category_id": float(record["category_id"])}
        record |= {"iscrowd": None, "ignore": 0.0}
    data["images"][0]["id"] = 0.0
    path, usual = write(tmp_path / "a.json", data), write(tmp_path / "b.json", ARGOVERSE_HD)
    for names in ([], ["car"], ["person", "traffic_light"]):
        assert torch.equal(coco_prior(path, categories=names).saliency, coco_prior(usual, categories=names).saliency)


@pytest.mark.parametrize(("key", "text"), [("2", "'2'"), (True, "True"), (9, "9"), ([2], r"\[2\]"), (None, "None")])
def test_categories_that_are_not_there_are_named(tmp_path, key, text):
    data = json.loads(json.dumps(ARGOVERSE_HD))
    data["annotations"][2]["category_id"] = key
    path = write(tmp_path / "train.json", data)
    coco_prior(path)  # nobody asks
    with pytest.raises(FastwarpError, match=rf"annotations\[2\] \(id 2\) has category_id {text}, (which no|expected)"):
        coco_prior(path, categories=["car"])
    data = ARGOVERSE_HD | {"categories": [{"id": 2, "name": "car"}, {"id": 2, "name": "person"}]}
    with pytest.raises(FastwarpError, match=r"categories\[1\] \(id 2\) has the id of a category before it"):
        coco_prior(write(path, data), categories=["car"])


def test_the_first_unfit_record_is_blamed(tmp_path):
    """Not one before it that is unusual but fit, in the same batch."""
    data = json.loads(json.dumps(ARGOVERSE_HD))
    data["annotations"][0]["image_id"] = 2.0
    data["annotations"][1]["bbox"] = [100, 640, 30, 10**20]
    with pytest.raises(FastwarpError, match=r"annotations\[1\] \(id 1\) has bbox .*, outside the picture"):
        coco_prior(write(tmp_path / "train.json", data))


def test_what_is_skipped_is_not_judged(tmp_path):
    skipped = [{"image_id": 0, "category_id": 2, "iscrowd": 1, "bbox": None}, {"image_id": 0, "category_id": 0}]
    data = ARGOVERSE_HD | {"annotations": skipped + ARGOVERSE_HD["annotations"]}
    path = write(tmp_path / "train.json", data)
    assert coco_prior(path, categories=["car"]).settings["boxes"] == 1
    with pytest.raises(FastwarpError, match=r"annotations\[1\] has no key 'bbox'"):
        coco_prior(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (31, 1)}, r"shape is \(31, 1\)"),
        ({"amplitude": -1.0}, "amplitude is -1.0"),
        ({"bandwidth": 0.0}, "bandwidth is 0.0"),
        ({"image_size": (1, 9)}, r"image_size is \(1, 9\)"),
    ],
)
def test_bad_arguments_are_found_before_the_file_is_read(tmp_path, arguments, message):
    with pytest.raises(FastwarpError, match=message):
        coco_prior(tmp_path / "missing.json", **arguments)


# --- the files of priors ----------------------------------------------------------------------------------------------


@pytest.fixture
def prior() -> Prior:
    return Prior(torch.rand(5, 7), {"kind": "coco", "image_size": [1200, 1920], "categories": ["Fußgänger"]})


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_priors_are_kept(tmp_path, prior, ending, dtype):
    path = tmp_path / f"prior{ending}"
    path.write_bytes(b"an older file")
    prior = Prior(prior.saliency.to(dtype).T, prior.settings)  # not contiguous
    save_prior(prior, path)
    again = load_prior(str(path))
    assert again.saliency.dtype == (torch.float32 if (ending, dtype) == (".npz", torch.bfloat16) else dtype)
    assert torch.equal(again.saliency, prior.saliency.to(again.saliency.dtype))
    assert again.settings == prior.settings
    assert list(tmp_path.iterdir()) == [path]


def test_safetensors_are_what_others_read(tmp_path, prior):
    from safetensors import safe_open

    save_prior(prior, tmp_path / "prior.safetensors")
    with safe_open(tmp_path / "prior.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("saliency"), prior.saliency.numpy())
        assert json.loads(file.metadata()["fastwarp"]) == prior.settings


def test_nothing_is_half_written(tmp_path, prior, monkeypatch):
    path = tmp_path / "prior.npz"
    path.write_bytes(b"an older file")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fastwarp._files.os.fsync", full)
    with pytest.raises(FastwarpError, match=r"cannot write .*prior.npz: No space left on device"):
        save_prior(prior, path)
    monkeypatch.undo()
    with pytest.raises(TypeError):
        write_whole({tmp_path / "new": b"a file", path: "no bytes"})
    assert path.read_bytes() == b"an older file"
    assert list(tmp_path.iterdir()) == [path]


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def test_files_that_are_no_priors(tmp_path, prior, capsys):
    from safetensors.torch import save_file

    save_prior(prior, tmp_path / "cut.safetensors")
    save_prior(prior, tmp_path / "cut.npz")
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    (tmp_path / "text.safetensors").write_text("no map")
    (tmp_path / "text.npz").write_text("no map")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "empty.npz").write_bytes(b"")
    good, nan = {"saliency": torch.ones(3, 4)}, {"saliency": torch.full((3, 4), float("nan"))}
    settings = {"fastwarp": "{}"}
    save_file({"map": torch.ones(3, 4)}, tmp_path / "other.safetensors", settings)
    save_file(good, tmp_path / "unset.safetensors")
    save_file(good, tmp_path / "foreign.safetensors", {"format": "pt"})
    save_file(good, tmp_path / "list.safetensors", {"fastwarp": "[]"})
    save_file(good, tmp_path / "broken.safetensors", {"fastwarp": "{"})
    save_file(nan, tmp_path / "nan.safetensors", settings)
    save_file({"saliency": torch.ones(3)}, tmp_path / "flat.safetensors", settings)
    save_file({"saliency": torch.ones(3, 4).long()}, tmp_path / "whole.safetensors", settings)
    np.savez(tmp_path / "other.npz", saliency=np.ones((3, 4)))
    np.savez(tmp_path / "evil.npz", saliency=np.ones((3, 4)), settings=np.array(Evil(), object))
    np.savez(tmp_path / "words.npz", saliency=np.array([["a", "b"]]), settings=np.array("{}"))
    deep, digits = "[" * 100_000, '{"images": ' + "9" * 5000 + "}"
    np.savez(tmp_path / "deep.npz", saliency=np.ones((3, 4)), settings=np.array(deep))
    np.savez(tmp_path / "digits.npz", saliency=np.ones((3, 4)), settings=np.array(digits))
    save_file(good, tmp_path / "deep.safetensors", {"fastwarp": deep})
    np.savez_compressed(tmp_path / "bomb.npz", saliency=np.zeros((9000, 9000)), settings=np.array("{}"))
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**7)}
    claim = io.BytesIO()
    np.lib.format.write_array_header_1_0(claim, header)
    with zipfile.ZipFile(tmp_path / "claim.npz", "w") as members:
        members.writestr("saliency.npy", claim.getvalue() + bytes(48))
        members.writestr("settings.npy", b"")
    (tmp_path / "length.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    buffer = io.BytesIO()
    np.save(buffer, np.ones((3, 4)))
    (tmp_path / "array.npz").write_bytes(buffer.getvalue())
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(FastwarpError) as caught:
            load_prior(path)
        assert str(caught.value).startswith(f"{path} is not a prior: "), caught.value
        assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""


def test_bad_paths_and_maps(tmp_path, prior):
    for work in (lambda path: save_prior(prior, path), load_prior):
        with pytest.raises(FastwarpError, match=r"prior.pt does not end in .safetensors or .npz"):
            work(tmp_path / "prior.pt")
    with pytest.raises(FastwarpError, match=r"^cannot read .*none.npz: No such file or directory$"):
        load_prior(tmp_path / "none.npz")
    with pytest.raises(FastwarpError, match=r"^cannot write .*prior.npz: No such file or directory$"):
        save_prior(prior, tmp_path / "none" / "prior.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(FastwarpError, match=r"^cannot write .*folder.npz: Is a directory$"):
        save_prior(prior, tmp_path / "folder.npz")
    with pytest.raises(FastwarpError, match=r"saliency is of shape \[2, 3, 4\], expected 2 dimensions \[h, w\]"):
        Prior(torch.ones(2, 3, 4), {})
    with pytest.raises(FastwarpError, match=r"saliency is of shape \[1, 3\], expected at least 2 x 2 cells"):
        Prior(torch.ones(1, 3), {})
    with pytest.raises(FastwarpError, match="saliency is NaN, infinite or negative in places"):
        Prior(torch.tensor([[1.0, 2.0], [-1.0, 3.0]]), {})
    with pytest.raises(TypeError, match="saliency has dtype int64, expected a floating-point dtype"):
        Prior(torch.ones(3, 4).long(), {})
