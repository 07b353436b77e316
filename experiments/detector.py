"""Trains and measures the small RetinaNet of examples/train_detector.py on zoomed images of generated scenes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from runs import Checkpoint
from torch import Tensor, nn

from fastwarp import SeparableWarp
from fastwarp.saliency import box_density

sys.path.append(str(Path(__file__).parent.parent / "examples"))
from data import Scenes
from train_detector import Detector, decode, loss

PAPER_WIDTH = 1920  # pixels of Argoverse-HD, to which LZU's bandwidth and motion refer
BANDWIDTH, MOTION = 64.0, (7.5, 3.0)  # LZU appendix A.6
MOST = 30  # detections of an image
# Objects by the square root of their area in pixels of the source. COCO's limits are for images of 640 pixels.
SIZES = {"small": (0, 12), "medium": (12, 32), "large": (32, 1e5)}


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a training is determined by, but for its seed.

    Attributes:
        size: (height, width) that the network runs at.
        source: of the scenes.
        steps: of training.
        rate: largest learning rate.
        batch: images of a step.
        length: training images.
        tests: images that are measured.
        pitch: how much the horizon varies, see `Scenes`.
        warp: "uniform"; "fixed", by all boxes of the training set; "adaptive", by the boxes of a simulated previous
            frame: in training the objects', in tests those that a first pass with the fixed warp detects, both moved.
        fwhm: of the attraction kernel, in cells.
        registered: whether unzoom knows where cells are, or takes cell i of n to be at i / (n - 1), as released.
        antialias: whether zooms average where they reduce.
    """

    size: tuple[int, int]
    steps: int
    rate: float
    source: tuple[int, int] = (192, 320)
    batch: int = 8
    length: int = 600
    tests: int = 200
    pitch: float = 0.0
    warp: str = "uniform"
    fwhm: float = 10.0
    registered: bool = True
    antialias: bool = True


class Model(Detector):
    """The detector on zoomed images; boxes are in pixels of an image of `size` that was resized uniformly."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(Scenes.classes, setup.size)
        self.setup = setup

    def forward(self, images: Tensor, warp: SeparableWarp | None, registered: bool) -> tuple[Tensor, Tensor]:
        """Logits and offsets of all anchors for images `[B, 3, H, W]`, uint8; no warp: uniform."""
        by = SeparableWarp.identity(device=images.device) if warp is None else warp
        small = by.zoom(images.float() / 255, self.size, antialias=self.setup.antialias)
        levels = self.neck(self.backbone(small))
        if warp is not None:
            options: dict[str, Any] = {"image_size": self.size} if registered else {}
            levels = warp.unzoom(levels, padding_mode="border", **options)
        towers = [self.tower(level) for level in levels]
        results = []
        for head, width in ((self.score, self.classes), (self.offset, 4)):
            per_level = [head(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, width)) for x in towers]
            results.append(torch.cat(per_level, 1))
        return results[0], results[1]


class Cached:
    """Scenes in memory: images `[N, 3, H, W]`, uint8, boxes and labels."""

    def __init__(self, length: int, source: tuple[int, int], seed: int, pitch: float) -> None:
        scenes = Scenes(length, source, seed, pitch)
        items = [scenes[index] for index in range(length)]
        self.images = torch.stack([(image * 255).round().to(torch.uint8) for image, _ in items])
        self.boxes = [target["boxes"] for _, target in items]
        self.labels = [target["labels"] for _, target in items]

    @functools.cached_property
    def prior(self) -> Tensor:
        """Mean saliency `[1, 31, 51]` of the images' boxes, and of their mirror images."""
        size = tuple(self.images.shape[2:])
        mean = density([boxes for boxes in self.boxes if len(boxes)], size).mean(0, keepdim=True)
        return (mean + mean.flip(2)) / 2


@functools.lru_cache(maxsize=4)
def scenes(length: int, source: tuple[int, int], seed: int, pitch: float) -> Cached:
    """A set of scenes, made once."""
    return Cached(length, source, seed, pitch)


def density(boxes: list[Tensor], size: tuple[int, ...]) -> Tensor:
    """Saliency `[B, 31, 51]` of boxes, with the paper's bandwidth for images of its width."""
    return box_density(boxes, (size[0], size[1]), bandwidth=BANDWIDTH * size[1] / PAPER_WIDTH)


def moved(boxes: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Boxes as they were a frame before: each moved by the paper's motion."""
    shift = torch.randn(len(boxes), 2, generator=generator) * torch.tensor(MOTION) * width / PAPER_WIDTH
    return boxes + shift.repeat(1, 2)


def warp_of(setup: Setup, prior: Tensor, boxes: list[Tensor] | None) -> SeparableWarp | None:
    """The warp of a batch: of its boxes, or of the prior where there are none."""
    if setup.warp == "uniform":
        return None
    saliency = prior
    if boxes is not None:
        some = torch.tensor([len(one) > 0 for one in boxes])
        saliency = torch.where(some[:, None, None], density(boxes, setup.source), prior)
    return SeparableWarp.from_saliency(saliency, setup.fwhm)


def resized(boxes: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Boxes in another size of the image, whose first and last pixels stay at the same places."""
    scale = torch.tensor([(after[1] - 1) / (before[1] - 1), (after[0] - 1) / (before[0] - 1)]).repeat(2)
    return (boxes - 0.5) * scale + 0.5


def train(setup: Setup, seed: int, checkpoints: Path | None = None) -> dict[str, Any]:
    """Trains a detector, and measures it on other scenes: average precisions in percent, `swapped` ones with the other
    registration after training."""
    torch.manual_seed(seed)
    model = Model(setup)
    data = scenes(setup.length, setup.source, 0, setup.pitch)
    optimizer = torch.optim.AdamW(model.parameters(), setup.rate, weight_decay=0.01)
    checkpoint = Checkpoint(checkpoints, f"{setup} {seed}", [model, optimizer])
    anchors, generator, width = model.anchors(torch.device("cpu")), torch.Generator(), setup.source[1]
    for step in range(checkpoint.load(), setup.steps):
        generator.manual_seed(1_000_003 * seed + step)
        chosen = torch.randint(setup.length, (setup.batch,), generator=generator)
        flip = torch.rand(setup.batch, generator=generator) < 0.5
        images = data.images[chosen]
        images[flip] = images[flip].flip(3)
        targets = []
        for index, mirrored in zip(chosen.tolist(), flip.tolist(), strict=True):
            boxes = data.boxes[index]
            boxes = (
                torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
                if mirrored
                else boxes
            )
            targets.append({"boxes": boxes, "labels": data.labels[index]})
        before = [moved(target["boxes"], width, generator) for target in targets]
        warp = warp_of(setup, data.prior, before if setup.warp == "adaptive" else None)
        small = [t | {"boxes": resized(t["boxes"], setup.source, setup.size)} for t in targets]
        for group in optimizer.param_groups:
            group["lr"] = setup.rate * min((step + 1) / 50, (1 + math.cos(math.pi * step / setup.steps)) / 2)
        value = loss(*model(images, warp, setup.registered), anchors, small, torch.ones(4))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        checkpoint.save(step + 1)
    metrics = measure(model, scenes(setup.tests, setup.source, 2, setup.pitch), data.prior, setup.registered)
    if setup.warp != "uniform":
        metrics["swapped"] = measure(
            model, scenes(setup.tests, setup.source, 2, setup.pitch), data.prior, not setup.registered
        )
    checkpoint.remove()
    return metrics


@torch.no_grad()
def measure(model: Model, data: Cached, prior: Tensor, registered: bool) -> dict[str, float]:
    """COCO's average precisions in percent."""
    model.eval()
    setup, anchors, generator = model.setup, model.anchors(torch.device("cpu")), torch.Generator().manual_seed(0)
    found: list[list[float]] = []
    for start in range(0, len(data.images), 20):
        images = data.images[start : start + 20]
        warp = warp_of(setup, prior, None)
        results = decode(*model(images, warp, registered), anchors, MOST)
        if setup.warp == "adaptive":
            seen = [resized(boxes[scores > 0.3], setup.size, setup.source) for boxes, scores, _ in results]
            warp = warp_of(setup, prior, [moved(boxes, setup.source[1], generator) for boxes in seen])
            results = decode(*model(images, warp, registered), anchors, MOST)
        for index, (boxes, scores, labels) in enumerate(results, start):
            boxes = resized(boxes, setup.size, setup.source)
            for (x1, y1, x2, y2), score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
                found.append([index, x1, y1, x2 - x1, y2 - y1, score, label])
    return average_precision(data, found)


def average_precision(data: Cached, found: list[list[float]]) -> dict[str, float]:
    """AP, AP50, AP75 and AP by size of detections (image, x, y, width, height, score, label), by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = []
    for index, (boxes, labels) in enumerate(zip(data.boxes, data.labels, strict=True)):
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            truth.append({"id": len(truth) + 1, "image_id": index, "category_id": label, **box})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": index} for index in range(len(data.images))],
            "annotations": truth,
            "categories": [{"id": label} for label in range(Scenes.classes)],
        }
        coco.createIndex()
        if not found:
            return dict.fromkeys(["AP", "AP50", "AP75", *SIZES], 0.0)
        results = [{"image_id": r[0], "bbox": r[1:5], "score": r[5], "category_id": r[6]} for r in found]
        measured = COCOeval(coco, coco.loadRes(results), "bbox")
        measured.params.areaRng = [[0, 1e10], *([low**2, high**2] for low, high in SIZES.values())]
        measured.params.areaRngLbl = ["all", *SIZES]
        measured.evaluate()
        measured.accumulate()
    precision = measured.eval["precision"][..., -1]  # thresholds, recalls, classes, sizes

    def mean(values: np.ndarray) -> float:
        return round(100 * float(values[values > -1].mean()), 3) if (values > -1).any() else math.nan

    result = {"AP": mean(precision[..., 0]), "AP50": mean(precision[0, ..., 0]), "AP75": mean(precision[5, ..., 0])}
    return result | {name: mean(precision[..., i]) for i, name in enumerate(SIZES, 1)}
