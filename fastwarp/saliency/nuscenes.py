"""A data set's prior from the tables of nuScenes: 3-D boxes, projected into the cameras of the key frames."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastwarp._files import size_of
from fastwarp.errors import FastwarpError
from fastwarp.saliency import boxes_3d
from fastwarp.saliency._mean import check_density, mean_density
from fastwarp.saliency._records import Meter, Progress, Row, shorten, table
from fastwarp.saliency.files import Prior

TABLES = ("sensor", "calibrated_sensor", "sample_data", "ego_pose", "sample_annotation")
"""What is read, in this order: each says what of the next is needed."""

NAMING_TABLES = ("category", "instance")
"""What is read before these if only some categories count."""


TOGETHER = 64
"""Images projected at a time."""

NEAR = 0.1
"""Metres, as in `project_boxes_3d`."""


class _Camera(NamedTuple):
    """One camera of one vehicle: from its coordinates to the vehicle's `[4, 4]`, and its matrix `[3, 3]`."""

    pose: np.ndarray
    intrinsics: Tensor


class _Frame(NamedTuple):
    """One image of a key frame: tokens of its sample, of the vehicle's pose, and of the camera."""

    sample: str
    ego_pose: str
    camera: str


def nuscenes_prior(
    folder: str | Path,
    version: str = "v1.0-mini",
    shape: tuple[int, int] = (27, 48),
    amplitude: float = 1.0,
    bandwidth: float = 64.0,
    *,
    cameras: Iterable[str] = (),
    categories: Iterable[str] = (),
    progress: Progress | None = None,
) -> Prior:
    """The mean over images of `box_density` of the projected 3-D boxes, which sums to 1: LZU's for 3-D detection.

    Images are those of key frames, which annotations belong to. A box counts where `project_boxes_3d` finds it in the
    picture, however little of it is visible. Images without a box say nothing of where objects are and are left out of
    the mean. Only tables are read, no images, and of the tables only a little is in memory at a time.

    Args:
        folder: that holds the folder of tables.
        version: name of the folder of tables: "v1.0-mini", "v1.0-trainval", ...
        shape: (h, w) of the map in cells.
        amplitude: a of `box_density`.
        bandwidth: b of `box_density`, in pixels.
        cameras: channels, say "CAM_FRONT". Empty: all cameras.
        categories: names, say "vehicle.car", or "vehicle" for all its subcategories. Empty: all.
        progress: is called with the bytes of tables done and their total, then with the images done and theirs.

    Returns:
        A prior of kind "nuscenes".

    Raises:
        FastwarpError: a table that cannot be read or is not JSON; a missing or unfit key (names record and key); tokens
            that nothing has; a camera or category that is not in the tables; cameras of several sizes; no boxes at all.

    Examples:
        >>> prior = nuscenes_prior("nuscenes", cameras=["CAM_FRONT"])  # doctest: +SKIP
        >>> warp = fastwarp.SeparableWarp.from_saliency(prior.saliency[None], fwhm=10.0)  # doctest: +SKIP
    """
    check_density(None, shape, amplitude, bandwidth)
    root, cameras, categories = Path(folder) / version, list(dict.fromkeys(cameras)), list(dict.fromkeys(categories))
    tables = _Tables(root, (*(NAMING_TABLES if categories else ()), *TABLES), progress)
    instances = tables.instances(categories) if categories else None
    rigs = tables.cameras(cameras)
    frames, size = tables.frames(rigs)
    poses = tables.poses({frame.ego_pose for frame in frames})
    objects = tables.objects({frame.sample for frame in frames}, instances)

    found, places, meter = [np.empty((0, 4))], [np.empty(0, np.int64)], Meter(progress, len(frames))
    seen = [place for place, frame in enumerate(frames) if frame.sample in objects]
    with _one_thread():
        for start in range(0, len(seen), TOGETHER):
            block = seen[start : start + TOGETHER]
            boxes, owners = _project([frames[place] for place in block], rigs, poses, objects, size)
            found.append(boxes)
            places.append(np.array(block)[owners])
            meter.reach(block[-1] + 1)
    meter.reach(len(frames))
    joined = np.concatenate(found)
    if not len(joined):
        raise FastwarpError(f"{root} has no such boxes in these images")
    saliency, used = mean_density(joined, np.concatenate(places), size, shape, amplitude, bandwidth)
    settings = {
        "kind": "nuscenes",
        "source": Path(folder).resolve().name,
        "version": version,
        "image_size": list(size),
        "amplitude": float(amplitude),
        "bandwidth": float(bandwidth),
        "cameras": cameras,
        "categories": categories,
        "images": used,
        "images_without_boxes": len(frames) - used,
        "boxes": len(joined),
    }
    return Prior(saliency, settings)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """For many small operators of torch: where other programs are busy, its threads cost a hundred times as much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _project(
    frames: list[_Frame],
    cameras: dict[str, _Camera],
    poses: dict[str, np.ndarray],
    objects: dict[str, Tensor],
    size: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """`project_boxes_3d` of all frames at once: corners `[M, 4]`, and which of the frames each is in `[M]`.

    A call for each frame would take most of the time of a prior; its steps work for many cameras, too.
    """
    boxes = torch.cat([objects[frame.sample] for frame in frames])
    counts = np.array([len(objects[frame.sample]) for frame in frames])
    owners = torch.repeat_interleave(torch.from_numpy(counts))
    to_camera = np.linalg.inv(np.stack([poses[frame.ego_pose] @ cameras[frame.camera].pose for frame in frames]))
    extrinsics = torch.from_numpy(to_camera)[owners]
    intrinsics = torch.stack([cameras[frame.camera].intrinsics for frame in frames])[owners]
    # Most objects of a sample are in other cameras: their spheres are beyond one of the planes that bound the view.
    columns, rows, depths = intrinsics.unbind(1)
    planes = torch.stack([columns, size[1] * depths - columns, rows, size[0] * depths - rows, depths], 1)
    centres = (extrinsics[:, :3, :3] @ boxes[:, :3, None]).squeeze(2) + extrinsics[:, :3, 3]
    distances = (planes @ centres[:, :, None]).squeeze(2) / planes.norm(dim=2)
    near = (distances >= -boxes[:, 3:6].norm(dim=1, keepdim=True) / 2).all(1)
    boxes, extrinsics, intrinsics, owners = boxes[near], extrinsics[near], intrinsics[near], owners[near]
    corners = boxes_3d._corners(boxes) @ extrinsics[:, :3, :3].mT + extrinsics[:, None, :3, 3]
    points = corners @ intrinsics.mT
    pixels = points[:, :, :2] / points[:, :, 2:]
    found = torch.cat([pixels.amin(1), pixels.amax(1)], 1)
    visible = (found[:, 2:] > found[:, :2]).all(1)
    # That is all for boxes which nothing cuts off.
    whole = (corners[:, :, 2] >= NEAR).all(1) & (pixels >= 0).all(2).all(1)
    rest = ~(whole & (found[:, 2] <= size[1]) & (found[:, 3] <= size[0]))
    points, seen = boxes_3d._in_front(corners[rest], NEAR)
    points = points @ intrinsics[rest].mT
    pixels = points[:, :, :2] / points[:, :, 2:]
    found[rest], visible[rest] = boxes_3d._hull_in_image(pixels, seen, size[1], size[0])
    return found[visible].numpy(), owners[visible].numpy()


class _Tables:
    """The tables of a version, read record by record."""

    def __init__(self, root: Path, tables: Iterable[str], progress: Progress | None) -> None:
        self.root = root
        self.meter = Meter(progress, sum(size_of(root / f"{title}.json") for title in tables))

    def rows(self, title: str) -> Iterator[Row]:
        """The records of a table."""
        return table(self.root / f"{title}.json", title, self.meter)

    def instances(self, categories: list[str]) -> set[str]:
        """Tokens of the objects that are of these categories."""
        names = {row.get("token", "a text"): row.get("name", "a text") for row in self.rows("category")}
        chosen = set()
        for wanted in categories:
            found = {token for token, title in names.items() if f"{title}.".startswith(f"{wanted}.")}
            if not found:
                raise FastwarpError(f"{self.root} has no category '{wanted}', it has {_listed(names.values())}")
            chosen |= found
        return {
            row.get("token", "a text") for row in self.rows("instance") if row.get("category_token", "a text") in chosen
        }

    def cameras(self, channels: list[str]) -> dict[str, _Camera]:
        """Cameras by the tokens of their calibrations."""
        sensors = {
            row.get("token", "a text"): row.get("channel", "a text")
            for row in self.rows("sensor")
            if row.get("modality", "a text") == "camera"
        }
        for channel in channels:
            if channel not in sensors.values():
                raise FastwarpError(f"{self.root} has no camera '{channel}', it has {_listed(sensors.values())}")
        found = {}
        for row in self.rows("calibrated_sensor"):
            taken_by = sensors.get(row.get("sensor_token", "a text"))
            if taken_by is not None and (not channels or taken_by in channels):
                matrix = row.get("camera_intrinsic", "three rows of three numbers")
                intrinsics = torch.from_numpy(np.array(matrix, np.float64))
                if not torch.linalg.det(intrinsics).abs() > 0:
                    raise row.unfit(f"has camera_intrinsic {shorten(matrix)}, expected a matrix that has an inverse")
                found[row.get("token", "a text")] = _Camera(_pose(row), intrinsics)
        return found

    def frames(self, cameras: dict[str, _Camera]) -> tuple[list[_Frame], tuple[int, int]]:
        """The images of key frames that these cameras took, and their size."""
        frames: list[_Frame] = []
        first = (0, 0)
        for row in self.rows("sample_data"):
            camera = row.get("calibrated_sensor_token", "a text")
            if not row.get("is_key_frame", "true or false") or camera not in cameras:
                continue
            frames.append(_Frame(row.get("sample_token", "a text"), row.get("ego_pose_token", "a text"), camera))
            height, width = (row.get(side, "an integer from 2 to 1000000") for side in ("height", "width"))
            first = first if len(frames) > 1 else (height, width)
            if (height, width) != first:
                raise row.unfit(f"has {height} x {width} pixels, those before it {first[0]} x {first[1]}")
        if not frames:
            raise FastwarpError(f"{self.root} has no key frames of these cameras")
        return frames, first

    def poses(self, needed: set[str]) -> dict[str, np.ndarray]:
        """From the vehicle's coordinates to the world's `[4, 4]`, by the tokens of the poses."""
        rows = (row for row in self.rows("ego_pose") if row.get("token", "a text") in needed)
        found = {row.get("token", "a text"): _pose(row) for row in rows}
        if missing := needed - found.keys():
            raise FastwarpError(f"{self.root} has no ego_pose with token {min(missing)}, which sample_data asks for")
        return found

    def objects(self, samples: set[str], instances: set[str] | None) -> dict[str, Tensor]:
        """The boxes of samples in the world `[N, 10]`, as `project_boxes_3d` takes them, by the samples' tokens."""
        found: dict[str, list[list[float]]] = {}
        for row in self.rows("sample_annotation"):
            sample = row.get("sample_token", "a text")
            if sample not in samples:
                continue
            if instances is not None and row.get("instance_token", "a text") not in instances:
                continue
            size = row.get("size", "three numbers")
            if min(size) < 0:
                raise row.unfit(f"has size {size}, expected numbers that are not negative")
            box = [*row.get("translation", "three numbers"), *size, *_rotation(row)]
            found.setdefault(sample, []).append(box)
        return {sample: torch.from_numpy(np.array(boxes, np.float64)) for sample, boxes in found.items()}


def _rotation(row: Row) -> list[float]:
    """The quaternion (w, x, y, z) of a record."""
    rotation = row.get("rotation", "four numbers")
    if not 0.9 < sum(number * number for number in rotation) < 1.1:
        raise row.unfit(f"has rotation {rotation}, expected a quaternion of length 1")
    return rotation


def _pose(row: Row) -> np.ndarray:
    """From the coordinates of what a record describes to those around it, `[4, 4]`."""
    w, x, y, z = np.array(_rotation(row)) / np.linalg.norm(row.record["rotation"])
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = row.get("translation", "three numbers")
    return pose


def _listed(names: Iterable[str]) -> str:
    return ", ".join(shorten(name).strip("'") for name in sorted(set(names))) or "none"
