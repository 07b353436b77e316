"""Trees in two aerial images of the package `deepforest`, with the boxes that people drew.

The rules, written down before anything was trained: the images are cut into tiles. Those of the first image that begin
in its upper four fifths train, and overlap by half; its lowest fifth validates; the second image tests. Tiles of
validation and test overlap no more than it takes to cover all. A box is clipped to its tile, and ignored if less than
half of its area is left, or under 4 pixels in width or height.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import torch
from objects import LEAST_SIDE, Found
from PIL import Image
from torch import Tensor

FILES = ("2019_YELL_2_528000_4978000_image_crop2", "2019_YELL_2_541000_4977000_image_crop")
CLASSES = ("tree",)
TRAINING = 0.8  # of the rows of the first image


class Tiles(NamedTuple):
    """Images `[N, 3, H, W]`, uint8, and the trees of each."""

    images: Tensor
    objects: list[Found]


def load(folder: Path, split: str, size: tuple[int, int]) -> Tiles:
    """The tiles of "train", "val" or "test", of `size` (height, width)."""
    path = folder / FILES[split == "test"]
    image = torch.from_numpy(np.array(Image.open(path.with_suffix(".png")).convert("RGB"))).permute(2, 0, 1)
    corners = [
        [float(box.findtext(name, "")) for name in ("xmin", "ymin", "xmax", "ymax")]
        for box in ElementTree.parse(path.with_suffix(".xml")).iter("bndbox")
    ]
    boxes = torch.tensor(corners)
    if split != "test":
        edge = round(TRAINING * image.shape[1])
        first, last = (0, edge) if split == "train" else (edge, image.shape[1])
        image, boxes = image[:, first:last], boxes - torch.tensor([0.0, first, 0, first])
    return cut(image, boxes, size, overlap=split == "train")


def cut(image: Tensor, boxes: Tensor, size: tuple[int, int], overlap: bool) -> Tiles:
    """Tiles of an image `[3, H, W]`.

    Args:
        image: at least as large as a tile.
        boxes: `[N, 4]` in its pixels.
        size: (height, width) of a tile.
        overlap: by half, or as little as it takes to cover the image.
    """
    images, objects = [], []
    for y in starts(image.shape[1], size[0], overlap):
        for x in starts(image.shape[2], size[1], overlap):
            images.append(image[:, y : y + size[0], x : x + size[1]])
            objects.append(clipped(boxes - torch.tensor([x, y, x, y]), size))
    return Tiles(torch.stack(images), objects)


def starts(length: int, tile: int, overlap: bool) -> list[int]:
    """Where tiles begin, evenly from the first pixel to the last."""
    count = math.ceil((length - tile) / (tile / 2 if overlap else tile)) + 1
    return np.linspace(0, length - tile, count).round().astype(int).tolist()


def clipped(boxes: Tensor, size: tuple[int, int]) -> Found:
    """The boxes of a tile of `size`, and which of them to ignore."""
    inside = boxes.clamp(min=0).minimum(torch.tensor([size[1], size[0], size[1], size[0]]))
    sides, whole = inside[:, 2:] - inside[:, :2], boxes[:, 2:] - boxes[:, :2]
    there = (sides > 0).all(1)
    ignored = (sides.prod(1) < 0.5 * whole.prod(1)) | (sides < LEAST_SIDE).any(1)
    return Found(inside[there], torch.zeros(int(there.sum()), dtype=torch.int64), ignored[there])
