"""Trains a small RetinaNet-style detector with a zoom in front of it, or without: plain PyTorch, one file.

    python examples/train_detector.py --zoom fixed
    torchrun --nproc_per_node 2 examples/train_detector.py --zoom learned --amp
    python examples/train_detector.py --zoom adaptive --coco instances.json --images DIR

The detector's own code (`Detector`, `loss`) knows nothing of the zoom. `attach` puts it in, three lines in `build`: the
network's image is then taken from the large source where objects are, and its feature maps are brought back, so that
anchors, labels and losses are those of the source. A run that was killed goes on where its checkpoint was written
(`--resume`), with the same results as without the kill. `--help` lists the options.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from data import Batches, CocoFolder, Scenes, collate
from torch import Tensor, nn
from torch.utils.data import DataLoader

import fastwarp
from fastwarp.saliency import AdaptiveSaliency, FixedSaliency, LearnedSaliency, box_density

# --- the detector -----------------------------------------------------------------------------------------------------

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


# --- the zoom ---------------------------------------------------------------------------------------------------------


def facts(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> fastwarp.Facts:
    """What the zoom has to know of a batch: the source images and, in training, the objects' boxes, 0 to 1."""
    source, targets = (*args, None)[:2]
    height, width = source.shape[2:]
    boxes = None
    if targets is not None:
        boxes = [target["boxes"] / target["boxes"].new_tensor([width, height, width, height]) for target in targets]
    return fastwarp.Facts(source=source, boxes=boxes)


def prior(data: Any, size: tuple[int, int], images: int = 200) -> Tensor:
    """The mean saliency of the first images' boxes."""
    boxes = [data[i][1]["boxes"] for i in range(min(images, len(data)))]
    maps = box_density([b for b in boxes if len(b)], size)
    return (maps / maps.sum((1, 2), keepdim=True)).mean(0)


def build(options: argparse.Namespace, data: Any, device: torch.device) -> nn.Module:
    """The detector, with the zoom that the options ask for."""
    torch.manual_seed(options.seed)
    model = Detector(data.classes, options.size)
    host = fastwarp.Host(zoom="backbone", unzoom="neck", facts=facts)
    if options.zoom == "fixed":
        fastwarp.attach(model, FixedSaliency(prior(data, options.source)), host, full=True, fwhm=options.fwhm)
    elif options.zoom == "adaptive":
        saliency = AdaptiveSaliency(options.source, prior=prior(data, options.source), threshold=0.3)
        fastwarp.attach(model, saliency, host, full=True, fwhm=options.fwhm)
    elif options.zoom == "learned":
        fastwarp.attach(model, LearnedSaliency(), host, full=True, fwhm=options.fwhm)
    return model.to(device)


# --- evaluation -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def evaluate(model: nn.Module, data: Any, options: argparse.Namespace) -> dict[str, float]:
    """COCO's average precision over a set of images; an adaptive zoom sees each image twice, first by its prior."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    model.eval()
    device = next(model.parameters()).device
    anchors, scale = model.anchors(device), scale_of(options)  # type: ignore[operator]
    adaptive = options.zoom == "adaptive"
    truth, results = [], []
    for index in range(len(data)):
        image, target = data[index]
        for _ in range(1 + adaptive):
            ((boxes, scores, labels),) = decode(*model(image[None].to(device)), anchors)
            if adaptive:
                relative = boxes / boxes.new_tensor([options.size[1], options.size[0]]).repeat(2)
                model.fastwarp.update([relative], [scores], [index])  # type: ignore[operator, union-attr]
        found = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], 1) / scale.to(device)
        for box, score, label in zip(found.tolist(), scores.tolist(), labels.tolist(), strict=True):
            results.append({"image_id": index, "category_id": label, "bbox": box, "score": score})
        for (x1, y1, x2, y2), label in zip(target["boxes"].tolist(), target["labels"].tolist(), strict=True):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            truth.append({"id": len(truth) + 1, "image_id": index, "category_id": label, **box})
    coco = COCO()
    coco.dataset = {
        "images": [{"id": index} for index in range(len(data))],
        "annotations": truth,
        "categories": [{"id": label} for label in range(data.classes)],
    }
    coco.createIndex()
    if not results:
        return {"AP": 0.0, "AP50": 0.0, "AP small": 0.0}
    measured = COCOeval(coco, coco.loadRes(results), "bbox")
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    return {"AP": measured.stats[0], "AP50": measured.stats[1], "AP small": measured.stats[3]}


# --- training ---------------------------------------------------------------------------------------------------------


def start() -> torch.device:
    """This process's device, in a group with the others that torchrun started."""
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    return device


def fit(options: argparse.Namespace, model: nn.Module, data: Any, objective: Callable[[Any, Any], Tensor]) -> None:
    """Minimises `objective(model(images, targets), targets)`, the mean over all ranks; writes checkpoints and a log.

    Runs repeat: the batches, the random numbers and the optimiser of a resumed run are those of one that went through.
    """
    device = next(model.parameters()).device
    ranks, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], options.lr, weight_decay=0.01)
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp and device.type == "cuda")
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint, first = options.out / "checkpoint.pt", 0
    if options.resume and checkpoint.exists():
        first = load(checkpoint, model, optimizer, scaler)
    parallel: nn.Module = nn.parallel.DistributedDataParallel(model) if ranks > 1 else model
    running = torch.compile(parallel) if options.compile else parallel
    batches = Batches(len(data), options.batch, first, options.steps, options.seed, rank, ranks)
    own = {"num_workers": options.workers, "generator": torch.Generator()}  # its own: it draws, too
    loader = DataLoader(data, batch_sampler=batches, collate_fn=collate, **own)  # type: ignore[arg-type]
    log = Log(options, first) if rank == 0 else None
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    for step, (images, targets) in enumerate(progress(loader, rank), first):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * min((step + 1) / 50, (1 + math.cos(math.pi * step / options.steps)) / 2)
        targets = [{key: value.to(device) for key, value in target.items()} for target in targets]
        with torch.autocast(device.type, half, enabled=options.amp):
            output = running(images.to(device, non_blocking=True), targets)
        value = objective(output, targets)
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        scaler.step(optimizer)
        scaler.update()
        value = value.detach() / ranks
        if ranks > 1:
            dist.all_reduce(value)
        if log is not None:
            log.add(step, value.item())
            if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
                save(checkpoint, step + 1, model, optimizer, scaler)


def save(path: Path, step: int, model: nn.Module, optimizer: Any, scaler: Any) -> None:
    """A checkpoint, whole or not at all."""
    content = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    content |= {"scaler": scaler.state_dict(), "random": torch.get_rng_state()}
    torch.save(content, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


def load(path: Path, model: nn.Module, optimizer: Any, scaler: Any) -> int:
    """The step to go on with."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(content["model"])
    optimizer.load_state_dict(content["optimizer"])
    scaler.load_state_dict(content["scaler"])
    torch.set_rng_state(content["random"])
    return content["step"]


class Log:
    """The loss of each step in `log.csv`, and for TensorBoard if it was asked for. A resumed run goes on in them."""

    def __init__(self, options: argparse.Namespace, first: int) -> None:
        self.path, self.board = options.out / "log.csv", None
        rows = list(csv.reader(self.path.open(newline=""))) if first and self.path.exists() else []
        with self.path.open("w", newline="") as file:
            csv.writer(file).writerows([["step", "loss"], *(row for row in rows[1:] if int(row[0]) < first)])
        if options.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(options.out, purge_step=first)

    def add(self, step: int, loss: float) -> None:
        """Writes a line at once."""
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerow([step, f"{loss:.7g}"])
        if self.board is not None:
            self.board.add_scalar("loss", loss, step)


def scale_of(options: argparse.Namespace) -> Tensor:
    """Pixels of the network's image for each pixel of the source, (x, y, x, y)."""
    (height, width), (source_height, source_width) = options.size, options.source
    return torch.tensor([width / source_width, height / source_height]).repeat(2)


def progress(loader: DataLoader, rank: int) -> Any:
    """The batches, with a progress bar on the first rank."""
    if rank:
        return loader
    from rich.progress import track

    return track(loader, "training")


def dataset(options: argparse.Namespace, seed: int) -> Any:
    """The user's COCO folder, or generated scenes."""
    if options.coco is not None:
        return CocoFolder(options.coco, options.images, options.source)
    return Scenes(options.length, options.source, seed, options.pitch)


def common(description: str, out: str) -> argparse.ArgumentParser:
    """Options of any training."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--size", type=int, nargs=2, default=(192, 320), help="height and width the network runs at")
    parser.add_argument("--source", type=int, nargs=2, default=(384, 640), help="height and width of the images")
    parser.add_argument("--length", type=int, default=2000, help="number of generated scenes")
    parser.add_argument("--pitch", type=float, default=0.0, help="how much their horizon varies, see data.Scenes")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=8, help="images of all processes together")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--out", type=Path, default=Path(out), help="folder of checkpoint and log")
    for flag in ("resume", "amp", "compile", "tensorboard"):
        parser.add_argument(f"--{flag}", action="store_true")
    return parser


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = common(__doc__.split("\n")[0], "runs/detector")
    parser.add_argument("--zoom", choices=("none", "fixed", "adaptive", "learned"), default="fixed")
    parser.add_argument("--fwhm", type=float, default=10.0, help="of the attraction kernel, in saliency cells")
    parser.add_argument("--coco", type=Path, help="an annotation file; default: generated scenes")
    parser.add_argument("--images", type=Path, help="the folder of its images")
    parser.add_argument("--evaluate", type=int, default=0, help="measure AP on as many other scenes (pycocotools)")
    options = parser.parse_args(argv)
    options.size, options.source = tuple(options.size), tuple(options.source)
    if options.coco is not None and options.images is None:
        parser.error("--coco needs --images")
    return options


def main() -> None:
    """Trains, and measures on images that were not trained on."""
    options, device = arguments(), start()
    data = dataset(options, options.seed)
    model = build(options, data, device)
    anchors, scale = model.anchors(device), scale_of(options).to(device)  # type: ignore[operator]
    fit(options, model, data, lambda output, targets: loss(*output, anchors, targets, scale))
    if options.evaluate and int(os.environ.get("RANK", 0)) == 0:
        options.length = options.evaluate
        evaluate(model, dataset(options, options.seed + 1_000_000), options)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
