"""Trains and measures a small detector of centres on zoomed images: of generated scenes, CamVid or aerial ones."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import objects
import torch
import torch.nn.functional as F
import trees
from networks import STRIDES, Pyramid
from objects import Found
from resizing import Resizer
from runs import Checkpoint, rate
from torch import Tensor, nn

from fastwarp import MeshWarp, SeparableWarp
from fastwarp.saliency import LearnedSaliency, box_density

sys.path.append(str(Path(__file__).parent.parent / "examples"))
from data import Scenes

SALIENCY = (31, 51)  # cells, as in LZU appendix A.6
SHAPE = 4  # channels after those of the classes

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
        source: of the images that it sees zoomed.
        steps: of training.
        rate: largest learning rate.
        batch: images of a step.
        length: training images of generated scenes.
        tests: generated scenes that are measured.
        pitch: how much the horizon of generated scenes varies, see `Scenes`.
        width: channels of the feature pyramid.
        warp: "uniform"; "fixed", by all boxes of the training set; "nonseparable", likewise, by a mesh; "adaptive", by
            the boxes of a simulated previous frame: in training the objects', in tests those that a first pass with
            the fixed warp detects, both moved; "learned", by a network, which the loss of the task trains.
        cascade: in the last third of training, the adaptive warp sees detections as well.
        fwhm: of the attraction kernel, in cells.
        amplitude: of the boxes' densities against a uniform share.
        registered: whether unzoom knows where cells are, or takes cell i of n to be at i / (n - 1), as released.
        antialias: whether zooms average where they reduce.
        unzoom: False: as FOVEA does, features stay zoomed, boxes are zoomed for the loss, and detections unzoomed.
        data: "scenes", generated ones; "camvid", the objects of a folder of that layout, see `objects`;
            "aerial", tiles of images of trees, see `trees`.
        resize: "warp", or how images become small without one, a method of `resizing.Resizer`.
        learned: where DownsizeNet learns, "here", or "segmentation": in a segmenter of CamVid, and here no more.
    """

    size: tuple[int, int]
    steps: int
    rate: float
    source: tuple[int, int] = (192, 320)
    batch: int = 8
    length: int = 600
    tests: int = 200
    pitch: float = 0.0
    width: int = 32
    warp: str = "uniform"
    fwhm: float = 10.0
    amplitude: float = 1.0
    registered: bool = True
    antialias: bool = True
    cascade: bool = False
    unzoom: bool = True
    data: str = "scenes"
    resize: str = "warp"
    learned: str = "here"


Warp = SeparableWarp | MeshWarp


class Model(nn.Module):
    """A detector in the manner of CenterNet ("Objects as Points"), at stride 4 of a feature pyramid.

    Its maps have a channel for each class, logits of centres; then x and y of the centre from the cell, and the
    logarithms of width and height, in cells.
    """

    def __init__(self, setup: Setup, classes: int) -> None:
        super().__init__()
        self.network = Pyramid(setup.width, classes + SHAPE).to(memory_format=torch.channels_last)
        nn.init.constant_(self.network.head[-1].bias[:classes], -4.6)  # type: ignore[index, union-attr]
        self.saliency = LearnedSaliency(SALIENCY) if setup.warp == "learned" else None
        self.resizer = None if setup.resize == "warp" else Resizer(setup.size, setup.resize, align_corners=True)

    def forward(self, images: Tensor, warp: Warp | None, setup: Setup) -> Tensor:
        """Maps `[B, classes + 4, h / 4, w / 4]` of images `[B, 3, H, W]`, as of uniformly resized ones if they are
        unzoomed; no warp: uniform, or learned."""
        images = images.float() / 255
        if self.saliency is not None:
            warp = SeparableWarp.from_saliency(self.saliency(images), setup.fwhm)
        if self.resizer is not None:
            small = self.resizer(images)
        else:
            by = SeparableWarp.identity() if warp is None else warp
            small = by.zoom(images, setup.size, antialias=setup.antialias)

        def unzoom(levels: list[Tensor]) -> list[Tensor]:
            if warp is None or not setup.unzoom:
                return levels
            options: dict[str, Any] = {"image_size": setup.size} if setup.registered else {}
            return warp.unzoom(levels, padding_mode="border", **options)

        small = (small - 0.5) / 0.25
        return self.network(small.contiguous(memory_format=torch.channels_last), unzoom)


class Data:
    """Images `[N, 3, H, W]`, uint8, in memory, the objects of each, and the names of their classes."""

    def __init__(self, images: Tensor, found: Sequence[Found], classes: Sequence[str]) -> None:
        self.images, self.objects, self.classes = images, found, classes
        self.boxes = [one.boxes[~one.ignored] for one in found]
        self.labels = [one.labels[~one.ignored] for one in found]

    def prior(self, amplitude: float) -> Tensor:
        """Mean saliency `[1, 31, 51]` of the images' boxes, and of their mirror images."""
        size = tuple(self.images.shape[2:])
        mean = density([boxes for boxes in self.boxes if len(boxes)], size, amplitude).mean(0, keepdim=True)
        return (mean + mean.flip(2)) / 2

    def halved(self) -> Data:
        """The same from half as many rows and columns: averaged, and enlarged again."""
        size = self.images.shape[2:]
        small = [F.avg_pool2d(x.float(), 2) for x in self.images.split(32)]
        images = [F.interpolate(x, size, mode="bilinear").round().to(torch.uint8) for x in small]
        return Data(torch.cat(images), self.objects, self.classes)


@functools.lru_cache(maxsize=4)
def scenes(length: int, source: tuple[int, int], seed: int, pitch: float) -> Data:
    """A set of scenes, made once."""
    items = [Scenes(length, source, seed, pitch)[index] for index in range(length)]
    images = torch.stack([(image * 255).round().to(torch.uint8) for image, _ in items])
    found = [Found(t["boxes"], t["labels"], torch.zeros(len(t["labels"]), dtype=torch.bool)) for _, t in items]
    return Data(images, found, [str(kind) for kind in range(Scenes.classes)])


@functools.lru_cache(maxsize=4)
def camvid(folder: Path, split: str, size: tuple[int, int]) -> Data:
    """The objects of a split, read once."""
    return Data(*objects.load(folder, split, size))


@functools.lru_cache(maxsize=4)
def aerial(folder: Path, split: str, size: tuple[int, int]) -> Data:
    """The trees of a split, read once."""
    return Data(*trees.load(folder, split, size), trees.CLASSES)


def data_of(setup: Setup, split: str, folder: Path | None) -> Data:
    """The images of "train", "val" or "test"."""
    if setup.data in ("camvid", "aerial"):
        assert folder is not None
        return {"camvid": camvid, "aerial": aerial}[setup.data](folder, split, setup.source)
    length = setup.length if split == "train" else setup.tests
    return scenes(length, setup.source, ("train", "val", "test").index(split), setup.pitch)


def density(boxes: list[Tensor], size: tuple[int, ...], amplitude: float) -> Tensor:
    """Saliency `[B, 31, 51]` of boxes, with the paper's bandwidth for images of its width."""
    return box_density(boxes, (size[0], size[1]), amplitude=amplitude, bandwidth=BANDWIDTH * size[1] / PAPER_WIDTH)


def moved(boxes: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Boxes as they were a frame before: each moved by the paper's motion."""
    shift = torch.randn(len(boxes), 2, generator=generator) * torch.tensor(MOTION) * width / PAPER_WIDTH
    return boxes + shift.repeat(1, 2)


def warp_of(setup: Setup, prior: Tensor, boxes: list[Tensor] | None) -> Warp | None:
    """The warp of a batch: of its boxes, or of the prior where there are none. None: uniform, or the model's own."""
    if setup.warp in ("uniform", "learned"):
        return None
    saliency = prior
    if boxes is not None:
        some = torch.tensor([len(one) > 0 for one in boxes])
        saliency = torch.where(some[:, None, None], density(boxes, setup.source, setup.amplitude), prior)
    return (MeshWarp if setup.warp == "nonseparable" else SeparableWarp).from_saliency(saliency, setup.fwhm)


def _scale(setup: Setup) -> Tensor:
    """Cells of stride 4 to a pixel of the source, where that is resized uniformly: first and last pixels of source and
    image are at the same places."""
    scale = [(a - 1) / (b - 1) for a, b in zip(setup.size[::-1], setup.source[::-1], strict=True)]
    return torch.tensor(scale * 2) / STRIDES[0]


def to_cells(boxes: list[Tensor], setup: Setup, warp: Warp | None) -> list[Tensor]:
    """Boxes of each image in pixels of the source as corners between the cells of the model's maps. A pixel's middle is
    at a half, a cell's at its number."""
    if warp is None or setup.unzoom:
        return [(one - 0.5) * _scale(setup) for one in boxes]
    return [(one - 0.5) / STRIDES[0] for one in warp.zoom_boxes(boxes, setup.source, setup.size)]


def from_cells(boxes: list[Tensor], setup: Setup, warp: Warp | None) -> list[Tensor]:
    """The inverse of `to_cells`."""
    if warp is None or setup.unzoom:
        return [one / _scale(setup) + 0.5 for one in boxes]
    return warp.unzoom_boxes([one * STRIDES[0] + 0.5 for one in boxes], setup.source, setup.size)


def loss(maps: Tensor, boxes: list[Tensor], labels: list[Tensor]) -> Tensor:
    """Focal loss of centres (CenterNet eq. 1), smooth L1 of the boxes at the cells around them, by object.

    Args:
        maps: of the model.
        boxes: of each image, in cells.
        labels: likewise.
    """
    classes = maps.shape[1] - SHAPE
    count, height, width = len(maps), *maps.shape[2:]
    image = torch.repeat_interleave(torch.arange(count), torch.tensor([len(one) for one in boxes]))
    box, label = torch.cat(boxes), torch.cat(labels)
    middle, size = (box[:, :2] + box[:, 2:]) / 2, box[:, 2:] - box[:, :2]
    y, x = torch.arange(height), torch.arange(width)
    spread = (size / 6).clamp(min=0.4)  # of the peak, in cells
    bell = torch.exp(
        -((y[None, :, None] - middle[:, 1, None, None]) ** 2) / (2 * spread[:, 1, None, None] ** 2)
        - (x[None, None] - middle[:, 0, None, None]) ** 2 / (2 * spread[:, 0, None, None] ** 2)
    )
    wanted = torch.zeros_like(maps[:, :classes])
    for i in range(len(box)):
        wanted[image[i], label[i]] = torch.maximum(wanted[image[i], label[i]], bell[i])
    at = middle.round().long()
    at = torch.stack([at[:, 0].clamp(0, width - 1), at[:, 1].clamp(0, height - 1)], 1)
    wanted[image, label, at[:, 1], at[:, 0]] = 1
    logits = maps[:, :classes]
    share, positive = logits.sigmoid(), (wanted == 1).float()
    focal = positive * (1 - share) ** 2 * F.logsigmoid(logits)
    focal = focal + (1 - positive) * (1 - wanted) ** 4 * share**2 * F.logsigmoid(-logits)
    found, goals = [], []
    for shift in [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]:  # cells beside the centre say the same box, if in it
        near = at + torch.tensor(shift)
        fits = ((near >= 0) & (near < torch.tensor([width, height]))).all(1)
        if shift != (0, 0):
            fits &= ((near > box[:, :2]) & (near < box[:, 2:])).all(1)
        found.append(maps[image[fits], classes:, near[fits, 1], near[fits, 0]])
        goals.append(torch.cat([middle - near, size.log()], 1)[fits])
    regression = F.smooth_l1_loss(torch.cat(found), torch.cat(goals), beta=0.1, reduction="sum") / 4
    return (regression - focal.sum()) / max(len(box), 1)


def decode(maps: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes in cells, scores and labels of each image: the highest peaks."""
    classes = maps.shape[1] - SHAPE
    share = maps[:, :classes].sigmoid()
    peaks = share * (share == F.max_pool2d(share, 3, 1, 1))
    scores, order = peaks.flatten(1).topk(MOST)
    height, width = maps.shape[2:]
    labels, y, x = order // (height * width), order // width % height, order % width
    shape = maps[:, classes:].flatten(2).gather(2, (y * width + x)[:, None].expand(-1, 4, -1))
    middle, half = torch.stack([x, y], 2) + shape[:, :2].mT, shape[:, 2:].clamp(max=5).exp().mT / 2
    boxes = torch.cat([middle - half, middle + half], 2)
    return list(zip(boxes, scores, labels, strict=True))


def fit(
    setup: Setup,
    seed: int,
    folder: Path | None = None,
    checkpoints: Path | None = None,
    donor: Callable[[int], Resizer] | None = None,
) -> Model:
    """Trains a detector. `donor` trains the DownsizeNet of another task with a seed, for set-ups that take it."""
    other = None
    if setup.learned != "here":
        if donor is None:
            raise SystemExit("a DownsizeNet of segmentation needs the images of --data")
        other = donor(seed)
    torch.manual_seed(seed)
    data = data_of(setup, "train", folder)
    prior = data.prior(setup.amplitude)
    model = Model(setup, len(data.classes))
    if other is not None and model.resizer is not None:
        model.resizer.take(other)
    optimizer = torch.optim.AdamW(model.parameters(), setup.rate, weight_decay=0.01)
    checkpoint = Checkpoint(checkpoints, f"{setup} {seed}", [model, optimizer])
    generator, width = torch.Generator(), setup.source[1]
    for step in range(checkpoint.load(), setup.steps):
        # Everything random of a step depends on seed and step alone: it is the same for all set-ups, and after a kill.
        generator.manual_seed(1_000_003 * seed + step)
        chosen = torch.randint(len(data.images), (setup.batch,), generator=generator)
        flip = torch.rand(setup.batch, generator=generator) < 0.5
        images = data.images[chosen]
        images[flip] = images[flip].flip(3)
        boxes = [data.boxes[index] for index in chosen.tolist()]
        boxes = [mirrored(b, width) if turned else b for b, turned in zip(boxes, flip.tolist(), strict=True)]
        before = boxes
        if setup.cascade and 3 * step >= 2 * setup.steps:
            before = first_pass(model, images, prior, setup)
        before = [moved(one, width, generator) for one in before]
        warp = warp_of(setup, prior, before if setup.warp == "adaptive" else None)
        for group in optimizer.param_groups:
            group["lr"] = rate(setup.rate, step, setup.steps)
        labels = [data.labels[index] for index in chosen.tolist()]
        value = loss(model(images, warp, setup), to_cells(boxes, setup, warp), labels)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        checkpoint.save(step + 1)
    checkpoint.remove()
    return model


def train(
    setup: Setup,
    seed: int,
    folder: Path | None = None,
    checkpoints: Path | None = None,
    donor: Callable[[int], Resizer] | None = None,
    split: str = "test",
) -> dict[str, Any]:
    """Trains a detector, and measures it on other images: average precisions in percent.

    `halved` ones are of test images that are enlarged from half their size, `swapped` ones with the other registration
    after training, `plugged` and `plugged, own grid` ones with a fixed zoom around a network that was trained without,
    registered or not. `split`: "val" to choose hyperparameters, "test" for results.
    """
    model = fit(setup, seed, folder, checkpoints, donor)
    prior = data_of(setup, "train", folder).prior(setup.amplitude)
    tests = data_of(setup, split, folder)
    metrics: dict[str, Any] = measure(model, tests, prior, setup)
    metrics["halved"] = measure(model, tests.halved(), prior, setup)
    if not setup.unzoom or model.resizer is not None:
        return metrics
    other = dataclasses.replace(setup, registered=not setup.registered)
    if setup.warp == "uniform":
        for name, changed in (("plugged", setup), ("plugged, own grid", other)):
            metrics[name] = measure(model, tests, prior, dataclasses.replace(changed, warp="fixed"))
    else:
        metrics["swapped"] = measure(model, tests, prior, other)
    return metrics


def mirrored(boxes: Tensor, width: int) -> Tensor:
    """Boxes of the mirror image."""
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)


@torch.no_grad()
def detect(model: Model, images: Tensor, warp: Warp | None, setup: Setup) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes in pixels of the source, scores and labels of each image, and leaves the model as it was."""
    training = model.training
    boxes, scores, labels = zip(*decode(model.eval()(images, warp, setup)), strict=True)
    model.train(training)
    return list(zip(from_cells(list(boxes), setup, warp), scores, labels, strict=True))


def first_pass(model: Model, images: Tensor, prior: Tensor, setup: Setup) -> list[Tensor]:
    """Boxes of each image that are detected with the fixed zoom."""
    found = detect(model, images, warp_of(setup, prior, None), setup)
    return [boxes[scores > 0.3] for boxes, scores, _ in found]


def measure(model: Model, data: Data, prior: Tensor, setup: Setup) -> dict[str, float]:
    """COCO's average precisions in percent, with the zoom of a set-up: the training's, or another."""
    generator = torch.Generator().manual_seed(0)
    found: list[list[float]] = []
    for start in range(0, len(data.images), 20):
        images, before = data.images[start : start + 20], None
        if setup.warp == "adaptive":
            before = [moved(b, setup.source[1], generator) for b in first_pass(model, images, prior, setup)]
        results = detect(model, images, warp_of(setup, prior, before), setup)
        for index, (boxes, scores, labels) in enumerate(results, start):
            for (x1, y1, x2, y2), score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
                found.append([index, x1, y1, x2 - x1, y2 - y1, score, label])
    return average_precision(data, found)


def average_precision(data: Data, found: list[list[float]]) -> dict[str, float]:
    """AP, AP50, AP75 and AP by size of detections (image, x, y, width, height, score, label), by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = objects.coco(data.objects, data.classes, [{}] * len(data.images))
        coco.createIndex()
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
