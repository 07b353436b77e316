"""Data for the examples: generated driving-like scenes, COCO folders, and batches that any number of ranks share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

CLASSES = ("stripes across", "stripes down", "checks")


class Scenes(Dataset):
    """Driving-like scenes: textured objects that shrink towards a horizon. The generator knows nothing of warps.

    Image i of a seed is always the same.

    Args:
        length: number of images.
        size: (height, width) of an image in pixels.
        seed: of the set; training and validation take two.
        pitch: standard deviation of the horizon, as a share of the height. 0: always at 0.45 of it.

    An item is `(image, target)`: float32 `[3, H, W]` in [0, 1], and a dict of `boxes [N, 4]` (x1, y1, x2, y2) in
    pixels, `labels [N]` (0 .. 2) and `mask [H, W]`, int64: 0 background, 1 road, 2 + label for objects.
    """

    classes = len(CLASSES)

    def __init__(self, length: int, size: tuple[int, int] = (384, 640), seed: int = 0, pitch: float = 0.0) -> None:
        self.length, self.size, self.seed, self.pitch = length, size, seed, pitch

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        random = np.random.default_rng([self.seed, index])
        height, width = self.size
        horizon = height * (0.45 + self.pitch * random.standard_normal())
        image, mask = self._background(random, horizon)
        boxes, labels = [], []
        depths = np.sort(np.exp(random.uniform(np.log(1.5), np.log(16), random.integers(6, 14))))[::-1]
        for depth in depths:  # the far ones first: the near ones cover them
            bottom = horizon + 0.75 * height / depth
            side = 0.4 * height / depth * random.uniform(0.7, 1.3)
            x, wide = random.uniform(0, width), side * random.uniform(0.8, 1.6)
            box = np.array([x - wide / 2, bottom - side, x + wide / 2, bottom])
            x1, y1, x2, y2 = np.clip(box.round(), 0, [width, height, width, height]).astype(int)
            if x2 - x1 < 3 or y2 - y1 < 3:
                continue
            label = int(random.integers(-1, len(CLASSES)))  # -1: a distractor, of one colour
            image[y1:y2, x1:x2] = _texture(random, label, y2 - y1, x2 - x1, side)
            mask[y1:y2, x1:x2] = 0 if label < 0 else 2 + label
            if label >= 0:
                boxes.append((x1, y1, x2, y2, label))
        visible = [box for box in boxes if _share(mask, box) > 0.4]
        labels = [box[4] for box in visible]
        image = image + random.normal(0, 0.02, image.shape)
        target = {
            "boxes": torch.tensor([box[:4] for box in visible], dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
            "mask": torch.from_numpy(mask),
        }
        return torch.from_numpy(image.clip(0, 1)).float().permute(2, 0, 1).contiguous(), target

    def _background(self, random: np.random.Generator, horizon: float) -> tuple[np.ndarray, np.ndarray]:
        """Sky and ground with coarse noise, a road that narrows towards the horizon, and its label map."""
        height, width = self.size
        y, x = np.mgrid[:height, :width]
        below = y > horizon
        half = 0.6 * width * (y - horizon) / height
        road = below & (np.abs(x - width / 2) < half)
        coarse = random.random((height // 32 + 1, width // 32 + 1, 3))
        noise = np.kron(coarse, np.ones((32, 32, 1)))[:height, :width]
        shade = np.where(below, 0.35, 0.75)[..., None] * np.array([0.9, 1.0, 1.05])
        image = np.where(road[..., None], 0.45, shade) + 0.15 * (noise - 0.5)
        return image, road.astype(np.int64)


def _texture(random: np.random.Generator, label: int, height: int, width: int, scale: float) -> np.ndarray:
    """Two colours in a pattern whose period shrinks with the object: what uniform downsizing destroys first."""
    first, second = random.random((2, 3))
    second = np.where(np.abs(first - second) < 0.3, (first + 0.5) % 1, second)
    period = max(scale / 5, 1.0)
    down, across = (np.arange(n) / period % 2 < 1 for n in (height, width))
    pattern = {
        -1: np.zeros((height, width), bool),
        0: np.broadcast_to(down[:, None], (height, width)),
        1: np.broadcast_to(across[None], (height, width)),
        2: down[:, None] ^ across[None],
    }[label]
    return np.where(pattern[..., None], first, second)


def _share(mask: np.ndarray, box: tuple[int, ...]) -> float:
    """How much of a box still shows its class."""
    x1, y1, x2, y2, label = box
    return float((mask[y1:y2, x1:x2] == 2 + label).mean())


class CocoFolder(Dataset):
    """Images and boxes of a COCO annotation file, each image resized to the source's size."""

    def __init__(self, annotations: Path, images: Path, size: tuple[int, int]) -> None:
        content = json.loads(annotations.read_text())
        numbers = {category["id"]: number for number, category in enumerate(content["categories"])}
        self.root, self.size, self.classes = images, size, len(numbers)
        self.records = content["images"]
        self.boxes: dict[Any, list[list[float]]] = {record["id"]: [] for record in self.records}
        for note in content["annotations"]:
            if not note.get("iscrowd", 0):
                x, y, w, h = note["bbox"]
                self.boxes[note["image_id"]].append([x, y, x + w, y + h, numbers[note["category_id"]]])

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        from PIL import Image

        record = self.records[index]
        image = Image.open(self.root / record["file_name"]).convert("RGB")
        scale = torch.tensor([self.size[1] / image.width, self.size[0] / image.height]).repeat(2)
        pixels = torch.from_numpy(np.array(image.resize(self.size[::-1], Image.Resampling.BILINEAR)))
        boxes = torch.tensor(self.boxes[record["id"]]).reshape(-1, 5)
        target = {"boxes": boxes[:, :4] * scale, "labels": boxes[:, 4].long()}
        return pixels.permute(2, 0, 1).float() / 255, target


class Batches:
    """The indices of a rank's share of each batch, for all steps from `start` on. The batches are the same for any
    number of ranks."""

    def __init__(self, length: int, batch: int, start: int, steps: int, seed: int, rank: int, ranks: int) -> None:
        self.length, self.batch, self.start, self.steps = length, batch, start, steps
        self.seed, self.share = seed, slice(rank * batch // ranks, (rank + 1) * batch // ranks)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start, self.steps):
            first = step * self.batch
            places = range(first, first + self.batch)
            orders = {epoch: self._order(epoch) for epoch in {place // self.length for place in places}}
            yield [orders[place // self.length][place % self.length] for place in places][self.share]

    def __len__(self) -> int:
        return self.steps - self.start

    def _order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + epoch)
        return torch.randperm(self.length, generator=generator).tolist()


def collate(items: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Images as a batch, targets as a list."""
    images, targets = zip(*items, strict=True)
    return torch.stack(images), list(targets)
