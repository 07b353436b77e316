"""Objects of a folder: of COCO, or of the CamVid layout, which has label maps alone: `python experiments/objects.py
FOLDER --split train --output train.json` writes their boxes as COCO does.

The rules for label maps, written down before anything was trained: an object is a connected part (8 neighbours) of the
pixels of a class, after gaps of up to two pixels are closed, so that a pole in front does not cut a car in two. Parts
of fewer than 30 pixels, or under 4 pixels in width or height, are ignored; so are parts too wide for one object, which
are groups: a car wider than 3.5 times its height, a pedestrian or bicyclist wider than 1.5 times. What is ignored is a
crowd in the sense of COCO: neither finding it nor missing it counts. In training it is background.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import camvid
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor

WIDEST = {"car": 3.5, "pedestrian": 1.5, "sign": float("inf"), "bicyclist": 1.5}
"""The classes, and the ratio of width and height from which on a part is a group."""
CLASSES = tuple(WIDEST)
LEAST_AREA, LEAST_SIDE = 30, 4  # pixels
MOST = 20_000  # images of COCO
_AROUND = np.ones((3, 3), bool)


class Found(NamedTuple):
    """Objects of an image: boxes `[N, 4]`, (x1, y1, x2, y2) in pixels; numbers of their classes; which to ignore."""

    boxes: Tensor
    labels: Tensor
    ignored: Tensor


def find(labels: np.ndarray) -> Found:
    """The objects of a label map `[H, W]`, class by class."""
    boxes, kinds, ignored = [], [], []
    for kind, (name, widest) in enumerate(WIDEST.items()):
        mask = labels == camvid.CLASSES.index(name)
        if not mask.any():
            continue
        closed = ndimage.binary_closing(np.pad(mask, 2), _AROUND)[2:-2, 2:-2]
        parts, _ = ndimage.label(closed, _AROUND)
        areas = np.bincount(parts[mask], minlength=parts.max() + 1)
        for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            small = areas[number] < LEAST_AREA or min(height, width) < LEAST_SIDE
            boxes.append([columns.start, rows.start, columns.stop, rows.stop])
            kinds.append(kind)
            ignored.append(small or width > widest * height)
    found = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    return Found(found, torch.tensor(kinds, dtype=torch.int64), torch.tensor(ignored, dtype=torch.bool))


class Split(NamedTuple):
    """Images `[N, 3, H, W]`, uint8, the objects of each, and the names of their classes."""

    images: Tensor
    objects: list[Found]
    classes: Sequence[str] = CLASSES


def load(folder: Path, split: str, size: tuple[int, int] | None = None) -> Split:
    """A split; images averaged to `size` (height, width) and boxes with them. Of label maps, `size` is a whole fraction
    of theirs."""
    if (folder / "annotations").is_dir():
        return load_coco(folder, split, size or (240, 320))
    images, labels = camvid.load(folder, split)
    objects = [find(one) for one in labels.numpy()]
    factor = 1 if size is None else images.shape[2] // size[0]
    if size is not None and tuple(images.shape[2:]) != (size[0] * factor, size[1] * factor):
        raise SystemExit(f"images of {images.shape[2]} x {images.shape[3]} are no multiple of {size[0]} x {size[1]}")
    if factor > 1:
        images = torch.cat([F.avg_pool2d(x.float(), factor).round().to(torch.uint8) for x in images.split(32)])
        objects = [Found(boxes / factor, kinds, ignored) for boxes, kinds, ignored in objects]
    return Split(images, objects)


def load_coco(folder: Path, split: str, size: tuple[int, int]) -> Split:
    """A split of COCO's layout: `annotations/instances_NAME.json`, and images in `NAME/`. Its val2017 is the test split
    here; every tenth image of train2017 is the val split. Not more than `MOST` images, for the memory's sake."""
    name = "val2017" if split == "test" else "train2017"
    content = json.loads((folder / "annotations" / f"instances_{name}.json").read_text())
    numbers = {category["id"]: i for i, category in enumerate(content["categories"])}
    annotations: dict[int, list[dict[str, Any]]] = {}
    for one in content["annotations"]:
        annotations.setdefault(one["image_id"], []).append(one)
    entries = sorted(content["images"], key=lambda image: image["id"])
    if split != "test":
        entries = [image for i, image in enumerate(entries) if (i % 10 == 9) == (split == "val")]
    images, found = [], []
    for entry in entries[:MOST]:
        with Image.open(folder / name / entry["file_name"]) as file:
            image = file.convert("RGB")
        scale = torch.tensor([size[1] / image.width, size[0] / image.height] * 2)
        images.append(torch.from_numpy(np.array(image.resize((size[1], size[0]), Image.Resampling.BOX))))
        here = annotations.get(entry["id"], [])
        boxes = torch.tensor([one["bbox"] for one in here], dtype=torch.float32).view(-1, 4)
        boxes = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1) * scale
        kinds = torch.tensor([numbers[one["category_id"]] for one in here], dtype=torch.int64)
        found.append(Found(boxes, kinds, torch.tensor([bool(one.get("iscrowd", 0)) for one in here], dtype=torch.bool)))
    classes = [category["name"] for category in content["categories"]]
    return Split(torch.stack(images).permute(0, 3, 1, 2).contiguous(), found, classes)


def coco(objects: Sequence[Found], classes: Sequence[str], images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What COCO's files of instances hold; `images` are its entries of images, which get their numbers."""
    annotations: list[dict[str, Any]] = []
    for image, (boxes, kinds, ignored) in enumerate(objects):
        for (x1, y1, x2, y2), kind, crowd in zip(boxes.tolist(), kinds.tolist(), ignored.tolist(), strict=True):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": int(crowd)}
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": kind, **box})
    return {
        "images": [{"id": number, **image} for number, image in enumerate(images)],
        "annotations": annotations,
        "categories": [{"id": kind, "name": name} for kind, name in enumerate(classes)],
    }


def main() -> None:
    """Writes a file of COCO's instances."""
    parser = argparse.ArgumentParser(description="boxes of a folder of the CamVid layout, as COCO has them")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="train")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    if (options.folder / "annotations").is_dir():
        raise SystemExit(f"{options.folder} has COCO's boxes already")
    images, found, classes = load(options.folder, options.split)
    size = {"height": images.shape[2], "width": images.shape[3]}
    paths = sorted((options.folder / "images" / options.split).glob("*.jpg"))
    options.output.write_text(json.dumps(coco(found, classes, [{"file_name": path.name, **size} for path in paths])))
    for kind, name in enumerate(classes):
        several = torch.cat([one.ignored[one.labels == kind] for one in found])
        print(f"{name}: {(~several).sum()} objects, {several.sum()} ignored")


if __name__ == "__main__":
    main()
