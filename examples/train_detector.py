"""Trains a small RetinaNet-style detector with a zoom in front of it, or without, in plain PyTorch.

    python examples/train_detector.py --zoom fixed
    torchrun --nproc_per_node 2 examples/train_detector.py --zoom learned --amp
    python examples/train_detector.py --zoom adaptive --coco instances.json --images DIR

The detector (retinanet.py) and the loop (training.py) know nothing of the zoom. `attach` puts it in, in `build`: the
network's image is then taken from the large source where objects are, and its feature maps are brought back, so that
anchors, labels and losses are those of the source. A run that was killed goes on where its checkpoint was written
(`--resume`), with the same results as without the kill. `--help` lists the options.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from retinanet import Detector, average_precision, decode, loss
from torch import Tensor, nn
from training import common, dataset, fit, scale_of, start

import fastwarp
from fastwarp.saliency import AdaptiveSaliency, FixedSaliency, LearnedSaliency, box_density


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


@torch.no_grad()
def evaluate(model: nn.Module, data: Any, options: argparse.Namespace) -> None:
    """Prints COCO's average precision over a set of images; an adaptive zoom sees each image twice, first by its
    prior."""
    model.eval()
    device = next(model.parameters()).device
    anchors, scale = model.anchors(device), scale_of(options).to(device)  # type: ignore[operator]
    adaptive = options.zoom == "adaptive"
    found, targets = [], []
    for index in range(len(data)):
        image, target = data[index]
        for _ in range(1 + adaptive):
            ((boxes, scores, labels),) = decode(*model(image[None].to(device)), anchors)
            if adaptive:
                relative = boxes / boxes.new_tensor([options.size[1], options.size[0]]).repeat(2)
                model.fastwarp.update([relative], [scores], [index])  # type: ignore[operator, union-attr]
        found.append((boxes / scale, scores, labels))
        targets.append(target)
    average_precision(found, targets)


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
