"""RetinaNet in small, plain PyTorch: network, loss, detections and their average precision. It knows of no zoom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (8, 16, 32)
SIDES = tuple(3 * stride * 2 ** (i / 2) for stride in STRIDES for i in range(2))  # two square anchors a cell
ANCHORS = len(SIDES) // len(STRIDES)


def block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """A convolution of odd size with padding: cell i of its result is at pixel `stride * i`."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.GroupNorm(8, after), nn.ReLU())


class Backbone(nn.Module):
    """Maps of strides 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(3, 16, 2), block(16, 32, 2))
        self.stages = nn.ModuleList(
            nn.Sequential(block(a, b, 2), block(b, b)) for a, b in ((32, 48), (48, 64), (64, 96))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """`[B, 3, H, W]` -> three maps."""
        maps, x = [], self.stem(image)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Neck(nn.Module):
    """A feature pyramid of 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(channels, 64, 1) for channels in (48, 64, 96))
        self.smooth = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in STRIDES)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """From coarse to fine, each level plus the one above."""
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in (1, 0):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], levels[i].shape[2:])
        return [smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)]


class Detector(nn.Module):
    """RetinaNet in small: one head over all levels, two anchors a cell.

    Called with source images, it resizes them to `size` by averaging and runs on these. Boxes are in pixels of `size`.
    """

    def __init__(self, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.classes, self.size = classes, size
        self.backbone, self.neck = Backbone(), Neck()
        self.tower = nn.Sequential(block(64, 64), block(64, 64))
        self.score, self.offset = nn.Conv2d(64, ANCHORS * classes, 3, 1, 1), nn.Conv2d(64, ANCHORS * 4, 3, 1, 1)
        nn.init.constant_(self.score.bias, -4.6)  # 1 % at the start (RetinaNet section 4.1)

    def forward(self, source: Tensor, targets: Any = None) -> tuple[Tensor, Tensor]:
        """Logits `[B, A, classes]` and offsets `[B, A, 4]` for all anchors; `targets` are for adaptive zooms."""
        image = F.interpolate(source, self.size, mode="bilinear", antialias=True, align_corners=False)
        towers = [self.tower(level) for level in self.neck(self.backbone(image))]
        results = []
        for head, width in ((self.score, self.classes), (self.offset, 4)):
            results.append(
                torch.cat([head(x).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, width)) for x in towers], 1)
            )
        return results[0], results[1]

    def anchors(self, device: torch.device) -> Tensor:
        """`[A, 4]`: centre and size, in pixels of `size`, in the order of the results."""
        levels = []
        for level, stride in enumerate(STRIDES):
            y, x = (torch.arange(-(-side // stride), device=device) * stride + 0.5 for side in self.size)
            centre = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
            for side in SIDES[ANCHORS * level : ANCHORS * (level + 1)]:
                levels.append(torch.cat([centre, torch.full_like(centre, side)], -1))
        per_level = [torch.stack(levels[i : i + ANCHORS], 2).flatten(0, 2) for i in range(0, len(levels), ANCHORS)]
        return torch.cat(per_level)


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes `[N, 4]` and `[M, 4]`: `[N, M]`."""
    inner = (torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2])).clamp(min=0)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).prod(1) for box in (a, b))
    inner = inner.prod(2)
    return inner / (area_a[:, None] + area_b[None] - inner).clamp(min=1e-9)


def loss(logits: Tensor, offsets: Tensor, anchors: Tensor, targets: list[dict[str, Tensor]], scale: Tensor) -> Tensor:
    """Focal loss and smooth L1 (RetinaNet section 3), per positive anchor of the batch over all ranks."""
    total, positives = logits.new_zeros(()), logits.new_zeros(())
    corners = torch.cat([anchors[:, :2] - anchors[:, 2:] / 2, anchors[:, :2] + anchors[:, 2:] / 2], 1)
    for logit, offset, target in zip(logits.float(), offsets.float(), targets, strict=True):
        boxes, wanted = target["boxes"] * scale, torch.zeros_like(logit)
        counts = torch.ones_like(logit[:, 0])
        if len(boxes):
            overlap = overlaps(corners, boxes)
            best, which = overlap.max(1)
            best = best.scatter(0, overlap.argmax(0), 1.0)  # every object has an anchor
            which = which.scatter(0, overlap.argmax(0), torch.arange(len(boxes), device=which.device))
            chosen = best >= 0.5
            counts = ((best < 0.4) | chosen).float()
            wanted[chosen, target["labels"][which[chosen]]] = 1
            middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
            goal = torch.cat(
                [(middle[which] - anchors[:, :2]) / anchors[:, 2:], (side[which] / anchors[:, 2:]).log()], 1
            )
            total = total + F.smooth_l1_loss(offset[chosen], goal[chosen], beta=0.1, reduction="sum")
            positives = positives + chosen.sum()
        cross = F.binary_cross_entropy_with_logits(logit, wanted, reduction="none")
        weight = torch.where(wanted == 1, 0.25, 0.75) * (1 - (-cross).exp()) ** 2
        total = total + (weight * cross * counts[:, None]).sum()
    ranks = 1
    if dist.is_initialized():
        dist.all_reduce(positives)
        ranks = dist.get_world_size()  # DistributedDataParallel takes the mean over the ranks
    return total * ranks / positives.clamp(min=1)


@torch.no_grad()
def decode(logits: Tensor, offsets: Tensor, anchors: Tensor, most: int = 100) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Boxes, scores and labels of each image, after non-maximum suppression within each class."""
    found = []
    for logit, offset in zip(logits.float().sigmoid(), offsets.float(), strict=True):
        score, label = logit.max(1)
        score, order = score.topk(min(10 * most, len(score)))
        label, offset, anchor = label[order], offset[order], anchors[order]
        middle, side = anchor[:, :2] + offset[:, :2] * anchor[:, 2:], anchor[:, 2:] * offset[:, 2:].clamp(max=4).exp()
        boxes = torch.cat([middle - side / 2, middle + side / 2], 1)
        beaten = (overlaps(boxes, boxes) > 0.5) & (label[:, None] == label[None])
        keep = torch.ones_like(score, dtype=torch.bool)
        for i in range(len(boxes)):
            keep[i + 1 :] &= ~(beaten[i, i + 1 :] & keep[i])
        kept = keep.nonzero()[:most, 0]
        found.append((boxes[kept], score[kept], label[kept]))
    return found


def average_precision(found: Sequence[tuple[Tensor, Tensor, Tensor]], targets: Sequence[dict[str, Tensor]]) -> Any:
    """COCO's 12 numbers for the boxes, scores and labels of each image; None where nothing was found."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, results = [], []
    for index, ((boxes, scores, labels), target) in enumerate(zip(found, targets, strict=True)):
        sides = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1)
        for box, score, label in zip(sides.tolist(), scores.tolist(), labels.tolist(), strict=True):
            results.append({"image_id": index, "category_id": label, "bbox": box, "score": score})
        for (x1, y1, x2, y2), label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            truth.append({"id": len(truth) + 1, "image_id": index, "category_id": label, **box})
    if not results:
        return None
    coco = COCO()
    categories = {int(label) for target in targets for label in target["labels"]} | {r["category_id"] for r in results}
    coco.dataset = {
        "images": [{"id": index} for index in range(len(targets))],
        "annotations": truth,
        "categories": [{"id": label} for label in sorted(categories)],
    }
    coco.createIndex()
    measured = COCOeval(coco, coco.loadRes(results), "bbox")
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    return measured.stats
