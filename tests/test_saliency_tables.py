"""Priors from Cityscapes' label images and nuScenes' tables, in the formats these are published in."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastwarp.cli import main
from fastwarp.errors import FastwarpError
from fastwarp.saliency import box_density, project_boxes_3d
from fastwarp.saliency.cityscapes import EVALUATED, cityscapes_prior
from fastwarp.saliency.files import load_prior
from fastwarp.saliency.labels import boundary_density
from fastwarp.saliency.nuscenes import nuscenes_prior

# --- Cityscapes -------------------------------------------------------------------------------------------------------

ROAD, SIDEWALK, CAR, UNLABELED, EGO_VEHICLE, PARKING = 7, 8, 26, 0, 1, 9


def labels(seed: int, height: int = 48, width: int = 96) -> np.ndarray:
    """Blocks of classes, evaluated and not."""
    rng = np.random.default_rng(seed)
    classes = rng.choice([ROAD, SIDEWALK, CAR, UNLABELED, EGO_VEHICLE, PARKING], (height // 12, width // 12))
    return np.kron(classes, np.ones((12, 12), np.uint8)).astype(np.uint8)


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    root = tmp_path / "cityscapes"
    names = ["train/aachen/aachen_000000_000019", "train/ulm/ulm_000003_000019", "val/munster/munster_000000_000019"]
    for seed, name in enumerate(names):
        path = root / "gtFine" / f"{name}_gtFine_labelIds.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels(seed)).save(path)
        # What lies beside it in the data set.
        Image.fromarray(labels(9)).save(str(path).replace("labelIds", "instanceIds"))
        Image.fromarray(np.zeros((48, 96, 4), np.uint8)).save(str(path).replace("labelIds", "color"))
        Path(str(path).replace("labelIds.png", "polygons.json")).write_text("{}")
    return root


def trained(ids: np.ndarray) -> torch.Tensor:
    """Labels as networks are trained with: one by one, classes that are evaluated, or 255."""
    return torch.tensor([[i if i in EVALUATED else 255 for i in row] for row in ids.tolist()], dtype=torch.uint8)


@pytest.mark.parametrize("below", ["", "gtFine", "gtFine/train"])
def test_cityscapes(cityscapes, below):
    told = []
    prior = cityscapes_prior(cityscapes / below, (9, 12), progress=lambda *done: told.append(done))
    maps = [boundary_density(trained(labels(seed)), (9, 12), ignore_index=255)[0] for seed in (0, 1)]
    torch.testing.assert_close(prior.saliency, (maps[0] + maps[1]) / 2)
    assert prior.saliency.dtype == torch.float32
    assert told == [(1, 2), (2, 2)]
    settings = {"kind": "cityscapes", "split": "train", "image_size": [48, 96], "edge": 200.0, "background": 1.0}
    counts = {"images": 2, "images_without_labels": 0}
    assert prior.settings == settings | counts | {"source": Path(below).name or "cityscapes"}


def test_cityscapes_options(cityscapes):
    prior = cityscapes_prior(cityscapes, (6, 8), 50.0, 2.0, split="val")
    expected = boundary_density(trained(labels(2)), (6, 8), 50.0, 2.0, 255)[0]
    torch.testing.assert_close(prior.saliency, expected)
    assert prior.settings["images"] == 1


def test_boundaries_of_what_is_not_evaluated_do_not_count(cityscapes):
    (path,) = cityscapes.glob("gtFine/val/*/*_labelIds.png")
    ids = np.full((48, 96), PARKING, np.uint8)
    ids[:, 40:60], ids[30:], ids[:10] = UNLABELED, EGO_VEHICLE, ROAD
    Image.fromarray(ids).save(path)
    map_ = cityscapes_prior(cityscapes, split="val").saliency
    assert map_.max() == map_.min()


def test_images_of_void_alone_do_not_count(cityscapes):
    """The labels of the test split are published so."""
    void = np.full((48, 96), EGO_VEHICLE, np.uint8)
    void[:, 50:] = UNLABELED
    path = cityscapes / "gtFine/train/ulm/ulm_000003_000019_gtFine_labelIds.png"
    Image.fromarray(void).save(path)
    prior = cityscapes_prior(cityscapes, (9, 12))
    torch.testing.assert_close(prior.saliency, boundary_density(trained(labels(0)), (9, 12), ignore_index=255)[0])
    assert (prior.settings["images"], prior.settings["images_without_labels"]) == (1, 1)
    path.parent.parent.joinpath("aachen").rename(path.parent.parent.with_name("other"))
    with pytest.raises(FastwarpError, match=r"has no labels of evaluated classes in 'train': its images are all void$"):
        cityscapes_prior(cityscapes)


def test_bad_cityscapes(cityscapes, tmp_path):
    def problem(**options) -> str:
        with pytest.raises(FastwarpError) as caught:
            cityscapes_prior(cityscapes, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    with pytest.raises(FastwarpError, match=r"^cannot read .*none: there is no such folder$"):
        cityscapes_prior(tmp_path / "none")
    assert problem(split="test") == f"{cityscapes} has no gtFine/test/<city>/*_gtFine_labelIds.png"
    assert "shape" in problem(shape=(0, 5))
    path = cityscapes / "gtFine/train/ulm/ulm_000003_000019_gtFine_labelIds.png"
    Image.fromarray(labels(1, 24, 96)).save(path)
    assert problem() == f"{path} has 24 x 96 pixels, those before it 48 x 96"
    Image.fromarray(np.zeros((48, 96, 3), np.uint8)).save(path)
    expected = "expected label ids in one grey channel of 8 or 16 bits"
    assert problem() == f"{path} has pixels of red, green and blue in 8 bits, {expected}"
    path.write_text("no image")
    assert problem() == f"{path} is not a PNG image"
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (48, 96), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:900])
    assert problem().startswith(f"cannot read {path}: ")


# --- nuScenes ---------------------------------------------------------------------------------------------------------

SIZE = (900, 1600)
FOCAL = 1266.4
YAW = math.radians(30)  # of the vehicle
PLACE = (411.3, 1180.9, 0.5)  # of the vehicle
HEIGHT = 1.5  # of the cameras above the vehicle's origin


def quaternion(yaw: float) -> list[float]:
    return [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]


# Centre ahead of, left of and above the vehicle's origin; width, length, height; yaw on the vehicle; and the object.
OBJECTS = [
    ((20.0, 3.0, 1.0), (2.0, 4.5, 1.6), 0.3, "car 1"),
    ((45.0, -8.0, 1.2), (0.7, 0.6, 1.8), 0.0, "adult"),
    ((-30.0, 2.0, 1.0), (1.9, 4.4, 1.5), 1.2, "car 2"),
]
CATEGORIES = {"car 1": "vehicle.car", "car 2": "vehicle.car", "adult": "human.pedestrian.adult"}


def world(point: tuple[float, float, float]) -> list[float]:
    ahead, left, up = point
    x = PLACE[0] + math.cos(YAW) * ahead - math.sin(YAW) * left
    return [x, PLACE[1] + math.sin(YAW) * ahead + math.cos(YAW) * left, PLACE[2] + up]


def image_box(centre, size, yaw, *, back: bool) -> list[float]:
    """Of an object wholly in view, without matrices: its corners, one by one, on the image plane."""
    ahead, left, up = centre
    width, length, height = size
    columns, rows = [], []
    for forth in (-length / 2, length / 2):
        for aside in (-width / 2, width / 2):
            depth = ahead + math.cos(yaw) * forth - math.sin(yaw) * aside
            right = -(left + math.sin(yaw) * forth + math.cos(yaw) * aside)
            depth, right = (-depth, -right) if back else (depth, right)
            for above in (-height / 2, height / 2):
                columns.append(SIZE[1] / 2 + FOCAL * right / depth)
                rows.append(SIZE[0] / 2 - FOCAL * (up + above - HEIGHT) / depth)
    return [min(columns), min(rows), max(columns), max(rows)]


@pytest.fixture
def nuscenes(tmp_path: Path) -> Path:
    """A key frame of a lidar, two cameras, and an image in between; another key frame without objects."""
    matrix = [[FOCAL, 0.0, SIZE[1] / 2], [0.0, FOCAL, SIZE[0] / 2], [0.0, 0.0, 1.0]]
    channels = {"LIDAR_TOP": [1.0, 0, 0, 0], "CAM_FRONT": [0.5, -0.5, 0.5, -0.5], "CAM_BACK": [0.5, -0.5, -0.5, 0.5]}
    tables: dict[str, list] = {
        "sensor": [
            {"token": f"s {c}", "channel": c, "modality": "lidar" if c == "LIDAR_TOP" else "camera"} for c in channels
        ],
        "calibrated_sensor": [
            {"token": f"c {c}", "sensor_token": f"s {c}", "translation": [0.0, 0.0, HEIGHT], "rotation": rotation,
             "camera_intrinsic": [] if c == "LIDAR_TOP" else matrix}
            for c, rotation in channels.items()
        ],
        "ego_pose": [
            {"token": f"e {i}", "timestamp": 1532402927612460 + i, "rotation": quaternion(YAW), "translation": PLACE}
            for i in range(3)
        ],
        "sample_data": [
            {"token": f"d {i} {c}", "sample_token": f"f {min(i, 1)}", "ego_pose_token": f"e {i}",
             "calibrated_sensor_token": f"c {c}", "timestamp": 1532402927612460 + i, "fileformat": "jpg",
             "is_key_frame": i < 2, "height": 0 if c == "LIDAR_TOP" else SIZE[0],
             "width": 0 if c == "LIDAR_TOP" else SIZE[1], "filename": f"samples/{c}/{i}.jpg", "prev": "", "next": ""}
            for i in range(3) for c in channels
        ],
        "category": [{"token": f"k {c}", "name": c, "description": ""} for c in sorted(set(CATEGORIES.values()))],
        "instance": [
            {"token": f"i {o}", "category_token": f"k {c}", "nbr_annotations": 1, "first_annotation_token": "",
             "last_annotation_token": ""}
            for o, c in CATEGORIES.items()
        ],
        "sample_annotation": [
            {"token": f"a {o}", "sample_token": "f 0", "instance_token": f"i {o}", "visibility_token": "4",
             "attribute_tokens": [], "translation": world(centre), "size": list(size),
             "rotation": quaternion(YAW + yaw), "prev": "", "next": "", "num_lidar_pts": 5, "num_radar_pts": 0}
            for centre, size, yaw, o in OBJECTS
        ],
    }  # fmt: skip
    folder = tmp_path / "nuscenes" / "v1.0-mini"
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        (folder / f"{name}.json").write_text(json.dumps(rows, indent=0))  # a key per line, as published
    return folder.parent


def expected(*images: list[list[float]], shape=(27, 48), **options) -> torch.Tensor:
    maps = [box_density(torch.tensor(boxes, dtype=torch.float64), SIZE, shape, **options) for boxes in images]
    return torch.cat(maps).mean(0).float()


FRONT = [image_box(*OBJECTS[0][:3], back=False), image_box(*OBJECTS[1][:3], back=False)]
BACK = [image_box(*OBJECTS[2][:3], back=True)]


def test_nuscenes(nuscenes):
    told = []
    prior = nuscenes_prior(nuscenes, progress=lambda *done: told.append(done))
    torch.testing.assert_close(prior.saliency, expected(FRONT, BACK), rtol=1e-4, atol=1e-8)
    assert told[-1][0] == told[-1][1]
    assert prior.settings == {
        "kind": "nuscenes",
        "source": "nuscenes",
        "version": "v1.0-mini",
        "image_size": [900, 1600],
        "amplitude": 1.0,
        "bandwidth": 64.0,
        "cameras": [],
        "categories": [],
        "images": 2,
        "images_without_boxes": 2,
        "boxes": 3,
    }


def test_nuscenes_options(nuscenes):
    (nuscenes / "v1.0-mini").rename(nuscenes / "v1.0-trainval")
    prior = nuscenes_prior(nuscenes, "v1.0-trainval", (9, 16), 5.0, 32.0, cameras=["CAM_BACK"])
    wanted = expected(BACK, shape=(9, 16), amplitude=5.0, bandwidth=32.0)
    torch.testing.assert_close(prior.saliency, wanted, rtol=1e-4, atol=1e-8)
    for name in ("human", "human.pedestrian", "human.pedestrian.adult"):
        prior = nuscenes_prior(nuscenes, "v1.0-trainval", categories=[name])
        torch.testing.assert_close(prior.saliency, expected(FRONT[1:]), rtol=1e-4, atol=1e-8)
    both = nuscenes_prior(nuscenes, "v1.0-trainval", categories=["human", "vehicle.car"])
    torch.testing.assert_close(both.saliency, expected(FRONT, BACK), rtol=1e-4, atol=1e-8)


def change(nuscenes: Path, table: str, position: int, **changes) -> Path:
    """Changes keys of a record; None takes them out."""
    path = nuscenes / "v1.0-mini" / f"{table}.json"
    rows = json.loads(path.read_text())
    rows[position] = {key: value for key, value in (rows[position] | changes).items() if value is not None}
    path.write_text(json.dumps(rows))
    return path


@pytest.mark.parametrize(
    ("table", "position", "changes", "message"),
    [
        ("sensor", 1, {"channel": None}, "sensor[1] (token s CAM_FRONT) has no key 'channel', expected a text"),
        ("calibrated_sensor", 1, {"camera_intrinsic": []}, "has camera_intrinsic [], expected three rows of three"),
        ("calibrated_sensor", 1, {"rotation": [1, 0, 0]}, "(token c CAM_FRONT) has rotation [1, 0, 0], expected four"),
        ("calibrated_sensor", 1, {"rotation": [0, 0, 0, 0]}, "has rotation [0, 0, 0, 0], expected a quaternion of len"),
        ("calibrated_sensor", 1, {"camera_intrinsic": [[0, 0, 0]] * 3}, "expected a matrix that has an inverse"),
        ("calibrated_sensor", 1, {"camera_intrinsic": [[10**400, 0, 0]] * 3}, "expected three rows of three numbers"),
        ("calibrated_sensor", 1, {"translation": [1, 2, 1e300]}, "has translation [1, 2, 1e+300], expected three numb"),
        ("sample_data", 1, {"height": 10**20}, "has height 100000000000000000000, expected an integer from 2"),
        ("sample_annotation", 1, {"size": [1, 2, 10**400]}, "(token a adult) has size [1, 2, 1000"),
        ("sample_annotation", 1, {"rotation": [1e300, 0, 0, 0]}, "has rotation [1e+300, 0, 0, 0], expected four num"),
        ("ego_pose", 0, {"token": "other"}, "has no ego_pose with token e 0, which sample_data asks for"),
        ("ego_pose", 1, {"translation": [1, float("nan"), 2]}, "ego_pose[1] (token e 1) has translation [1, nan, 2]"),
        ("sample_data", 1, {"is_key_frame": 1}, "has is_key_frame 1, expected true or false"),
        ("sample_data", 2, {"height": 450}, "(token d 0 CAM_BACK) has 450 x 1600 pixels, those before it 900 x 1600"),
        ("sample_annotation", 1, {"size": [1, 2]}, "sample_annotation[1] (token a adult) has size [1, 2], expected"),
        ("sample_annotation", 1, {"size": [1, -2, 1]}, "(token a adult) has size [1, -2, 1], expected numbers"),
        ("sample_annotation", 2, {"translation": None}, "(token a car 2) has no key 'translation', expected"),
    ],
)  # fmt: skip
def test_bad_nuscenes_tables(nuscenes, table, position, changes, message):
    path = change(nuscenes, table, position, **changes)
    with pytest.raises(FastwarpError) as caught:
        nuscenes_prior(nuscenes)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path if "token e 0" not in message else path.parent))
    assert "\n" not in str(caught.value)


def test_bad_nuscenes(nuscenes):
    root = nuscenes / "v1.0-mini"
    for arguments, message in (
        ({"version": "v9"}, f"cannot read {nuscenes}/v9/sensor.json: No such file or directory"),
        ({"cameras": ["CAM_TOP"]}, f"{root} has no camera 'CAM_TOP', it has CAM_BACK, CAM_FRONT"),
        ({"cameras": ["LIDAR_TOP"]}, f"{root} has no camera 'LIDAR_TOP', it has CAM_BACK, CAM_FRONT"),
        ({"categories": ["veh"]}, f"{root} has no category 'veh', it has human.pedestrian.adult, vehicle.car"),
        ({"cameras": ["CAM_BACK"], "categories": ["human"]}, f"{root} has no such boxes in these images"),
        (
            {"shape": (1, 5)},
            "box_density: shape is (1, 5), expected a height and a width of at least 2, less than 2^31",
        ),
    ):
        with pytest.raises(FastwarpError) as caught:
            nuscenes_prior(nuscenes, **arguments)
        assert str(caught.value) == message
    (root / "sample_data.json").write_text("[]")
    with pytest.raises(FastwarpError, match="has no key frames of these cameras"):
        nuscenes_prior(nuscenes)
    (root / "ego_pose.json").write_text('[{"token": "e 0", ')
    (root / "sample_data.json").write_text("[{]")
    with pytest.raises(FastwarpError, match=r"sample_data.json is not JSON: expecting property name .*column 3"):
        nuscenes_prior(nuscenes)


def test_many_frames_are_projected_as_one(nuscenes, monkeypatch):
    root, rng = nuscenes / "v1.0-mini", np.random.default_rng(0)
    turns = rng.normal(size=(60, 4))
    poses = [{"token": f"e {i}", "rotation": quaternion(0.2 * i), "translation": [3.0 * i, 0, 0.5]} for i in range(8)]
    rows = [
        {"token": f"a {k}", "sample_token": f"f {k % 6}", "instance_token": "i car 1",
         "translation": [*rng.uniform(-15, 35, 2), 1.0], "size": [*rng.uniform(0, 6, 3)],
         "rotation": (turns[k] / np.linalg.norm(turns[k])).tolist()}
        for k in range(60)
    ]  # fmt: skip
    data = [
        {"sample_token": f"f {i}", "ego_pose_token": f"e {i}", "calibrated_sensor_token": f"c {camera}",
         "is_key_frame": True, "height": SIZE[0], "width": SIZE[1]}
        for i in range(8) for camera in ("CAM_FRONT", "CAM_BACK")
    ]  # fmt: skip
    for table, records in (("ego_pose", poses), ("sample_annotation", rows), ("sample_data", data)):
        (root / f"{table}.json").write_text(json.dumps(records))
    camera = torch.tensor([[FOCAL, 0, SIZE[1] / 2], [0, FOCAL, SIZE[0] / 2], [0, 0, 1]], dtype=torch.float64)
    images = []
    for i in range(6):
        boxes = [[*row["translation"], *row["size"], *row["rotation"]] for row in rows[i::6]]
        for sign in (1, -1):
            axes = np.array([[0, -sign, 0], [0, 0, -1], [sign, 0, 0]])  # of the camera, on the vehicle
            c, s = math.cos(0.2 * i), math.sin(0.2 * i)
            to_camera = np.eye(4)
            to_camera[:3, :3] = axes @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
            to_camera[:3, 3] = -to_camera[:3, :3] @ [3.0 * i, 0, 0.5 + HEIGHT]
            extrinsics = torch.from_numpy(to_camera)
            images.append(project_boxes_3d(torch.tensor(boxes, dtype=torch.float64), camera, extrinsics, SIZE))
    wanted = expected(*(boxes.tolist() for boxes in images if len(boxes)))
    for together in (1, 5, 64):
        monkeypatch.setattr("fastwarp.saliency.nuscenes.TOGETHER", together)
        prior = nuscenes_prior(nuscenes)
        torch.testing.assert_close(prior.saliency, wanted, rtol=1e-4, atol=1e-8)
        assert prior.settings["boxes"] == sum(map(len, images)) > 20
        assert prior.settings["images"] + prior.settings["images_without_boxes"] == 16


# --- the command line -------------------------------------------------------------------------------------------------


def test_commands(cityscapes, nuscenes, tmp_path, capsys):
    out, plot = tmp_path / "prior.safetensors", tmp_path / "prior.png"
    words = ["saliency", "cityscapes", cityscapes, "--split", "val", "--shape", 6, 8, "--edge", 50, "--background", 2]
    assert main([str(word) for word in (*words, "--out", out, "--plot", plot)]) == 0
    assert capsys.readouterr().out == f"{out}: 6 x 8 cells, mean of 1 images\n"
    assert torch.equal(load_prior(out).saliency, cityscapes_prior(cityscapes, (6, 8), 50.0, 2.0, split="val").saliency)
    words = [
        "saliency",
        "nuscenes",
        nuscenes,
        "--version",
        "v1.0-mini",
        "--camera",
        "CAM_FRONT",
        "--camera",
        "CAM_BACK",
    ]
    words += ["--category", "vehicle", "--shape", 9, 16, "--amplitude", 5, "--bandwidth", 32]
    assert main([str(word) for word in (*words, "--out", out, "--plot", plot)]) == 0
    assert capsys.readouterr().out == f"{out}: 9 x 16 cells, mean of 2 images with 2 boxes\n"
    both = nuscenes_prior(nuscenes, "v1.0-mini", (9, 16), 5.0, 32.0, categories=["vehicle"])
    assert torch.equal(load_prior(out).saliency, both.saliency)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cityscapes", "nuscenes", "prior.png", out.name]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("cityscapes", "{tmp}/none"), "cannot read {tmp}/none: there is no such folder"),
        (("cityscapes", "{tmp}"), "{tmp} has no gtFine/train/<city>/*_gtFine_labelIds.png"),
        (("cityscapes", "{tmp}/cityscapes", "--edge", "-1"), "boundary_density: edge is -1.0, expected"),
        (("nuscenes", "{tmp}"), "cannot read {tmp}/v1.0-mini/sensor.json: No such file or directory"),
        (("nuscenes", "{tmp}/nuscenes", "--camera", "CAM"), "has no camera 'CAM', it has CAM_BACK, CAM_FRONT"),
        (
            ("nuscenes", "{tmp}/nuscenes", "--category", "cat"),
            "has no category 'cat', it has human.pedestrian.adult, v",
        ),
    ],
)
def test_mistakes_get_one_line_and_exit_code_2(cityscapes, nuscenes, tmp_path, capsys, words, message):
    before = sorted(tmp_path.iterdir())
    words = [word.format(tmp=tmp_path) for word in words]
    code = main(["saliency", *words, "--out", str(tmp_path / "prior.npz"), "--plot", str(tmp_path / "prior.png")])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith("fastwarp saliency: error: ")
    assert captured.err.count("\n") == 1
    assert message.format(tmp=tmp_path) in captured.err
    assert sorted(tmp_path.iterdir()) == before
