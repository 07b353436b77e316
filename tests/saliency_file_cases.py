"""Files of annotations that tests share."""

from __future__ import annotations

import json
from pathlib import Path

# As in Argoverse-HD/annotations/train.json: images without file names, tracks, and lists that are no records.
ARGOVERSE_HD = {
    "categories": [{"id": 0, "name": "person"}, {"id": 2, "name": "car"}, {"id": 6, "name": "traffic_light"}],
    "images": [
        {"id": 0, "sid": 0, "fid": 0, "name": "ring_front_center_31596.jpg", "width": 1920, "height": 1200},
        {"id": 1, "sid": 0, "fid": 1, "name": "ring_front_center_31597.jpg", "width": 1920, "height": 1200},
        {"id": 2, "sid": 1, "fid": 0, "name": "ring_front_center_31598.jpg", "width": 1920, "height": 1200},
    ],
    "annotations": [
        {"id": 0, "image_id": 2, "category_id": 2, "bbox": [900.5, 500.25, 60.0, 40.5], "area": 2430.0,
         "iscrowd": False, "ignore": False, "track": 7},
        {"id": 1, "image_id": 0, "category_id": 0, "bbox": [100, 640, 30, 90], "area": 2700, "iscrowd": False,
         "ignore": False, "track": 3},
        {"id": 2, "image_id": 2, "category_id": 6, "bbox": [0.0, 0.0, 20.0, 50.0], "area": 1000.0, "iscrowd": False,
         "ignore": False, "track": 1},
    ],
    "sequences": ["00c561b9", "033669d3"],
    "seq_dirs": ["train/00c561b9/ring_front_center", "train/033669d3/ring_front_center"],
    "coco_subset": [0, 1, 2, 3, 5, 7, 9, 11],
    "n_tracks": [],
}  # fmt: skip


def write(path: Path, data: object, **options) -> Path:
    path.write_text(json.dumps(data, **options))
    return path


def edited(**changes) -> dict:
    """ARGOVERSE_HD whose second annotation is changed; None takes a key out."""
    data = json.loads(json.dumps(ARGOVERSE_HD))
    second = data["annotations"][1] | changes
    data["annotations"][1] = {key: value for key, value in second.items() if value is not None}
    return data
