"""Writes a folder of the CamVid layout from Cityscapes: `python experiments/cityscapes.py CITYSCAPES FOLDER`.

Of CITYSCAPES, `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_labelIds.png` are read. Its
labels become the nearest of CamVid's 11, those without one are not labelled. The published test split has no labels:
the published val split is the test split here, and a few cities of the training split are the val split. Images are
averaged, labels take the pixel in the middle.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from camvid import CLASSES, IGNORE
from PIL import Image
from rich.progress import track

# Cityscapes' numbers of what it calls the same or nearly so.
LABELS = {
    "sky": [23],
    "building": [11],
    "pole": [17],
    "road": [7],
    "pavement": [8],
    "tree": [21],  # vegetation
    "sign": [19, 20],  # and traffic lights
    "fence": [12, 13],  # and walls
    "car": [26, 27, 28],  # and trucks and buses, as in CamVid's 11
    "pedestrian": [24],
    "bicyclist": [25, 32, 33],  # riders, motorcycles and bicycles
}
HELD_OUT = ("jena", "ulm", "zurich")  # of the training split, for hyperparameters


def write(source: Path, target: Path, size: tuple[int, int]) -> dict[str, int]:
    """Writes the images and label maps of all splits, and returns how many each has."""
    table = np.full(256, IGNORE, np.uint8)
    for name, numbers in LABELS.items():
        table[numbers] = CLASSES.index(name)
    count = dict.fromkeys(("train", "val", "test"), 0)
    paths = [path for split in ("train", "val") for path in sorted((source / "leftImg8bit" / split).glob("*/*.png"))]
    if not paths:
        raise SystemExit(f"{source / 'leftImg8bit'} has no images in train/CITY or val/CITY")
    for path in track(paths, "images"):
        city, split = path.parent.name, path.parent.parent.name
        where = "test" if split == "val" else "val" if city in HELD_OUT else "train"
        name = path.name.removesuffix("_leftImg8bit.png")
        labels = Image.open(source / "gtFine" / split / city / f"{name}_gtFine_labelIds.png")
        for kind in ("images", "labels"):
            (target / kind / where).mkdir(parents=True, exist_ok=True)
        shape = (size[1], size[0])
        small = Image.open(path).convert("RGB").resize(shape, Image.Resampling.BOX)
        small.save(target / "images" / where / f"{name}.jpg", quality=95, subsampling=0)
        ids = np.asarray(labels.resize(shape, Image.Resampling.NEAREST))
        Image.fromarray(table[ids]).save(target / "labels" / where / f"{name}.png")
        count[where] += 1
    return count


def main() -> None:
    """Converts the folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 720), help="height and width of what is written")
    options = parser.parse_args()
    print(write(options.source, options.target, tuple(options.size)))


if __name__ == "__main__":
    main()
