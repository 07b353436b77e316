"""Trains a small segmenter behind a DownsizeNet, which learns how to make its image small, or behind a plain resize.

    python examples/train_segmenter.py --resize downsize
    python examples/train_segmenter.py --resize downsize --start runs/a/resizer.safetensors --freeze

The second line is transfer ("DownsizeNet" section 5.3): a resizer that learned with one network is frozen and serves
another. The loop, the checkpoints and the options are those of training.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from data import Scenes
from retinanet import block
from torch import Tensor, nn
from training import common, fit, start

import fastwarp

CLASSES = 2 + Scenes.classes  # background, road, objects


class Segmenter(nn.Module):
    """A fully convolutional network with a skip connection: scores at a quarter of its image's size."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.backbone = nn.Sequential(block(3, 24, 2), block(24, 48, 2), block(48, 48))
        self.context = nn.Sequential(block(48, 96, 2), block(96, 96), block(96, 96), nn.Conv2d(96, 48, 1))
        self.scores = nn.Conv2d(48, CLASSES, 1)

    def forward(self, source: Tensor, targets: Any = None) -> Tensor:
        """Logits `[B, classes, h, w]` of the source resized to `size`."""
        image = F.interpolate(source, self.size, mode="bilinear", antialias=True, align_corners=False)
        fine = self.backbone(image)
        return self.scores(fine + F.interpolate(self.context(fine), fine.shape[2:], mode="bilinear"))


def facts(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> fastwarp.Facts:
    """The source images, which the DownsizeNet resizes itself."""
    return fastwarp.Facts(source=args[0])


def build(options: argparse.Namespace, device: torch.device) -> nn.Module:
    """The segmenter, with the resizer that the options ask for."""
    torch.manual_seed(options.seed)
    model = Segmenter(options.size)
    if options.resize == "downsize":
        resizer = fastwarp.nn.DownsizeNet.load(options.start) if options.start else fastwarp.nn.DownsizeNet()
        if options.freeze:
            resizer.freeze()
        fastwarp.attach(model, resizer, fastwarp.Host(zoom="backbone", unzoom=None, facts=facts), full=True)
    return model.to(device)


def loss(logits: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
    """Cross entropy at the size of the source."""
    masks = torch.stack([target["mask"] for target in targets])
    return F.cross_entropy(F.interpolate(logits.float(), masks.shape[1:], mode="bilinear"), masks)


@torch.no_grad()
def evaluate(model: nn.Module, data: Scenes) -> Tensor:
    """Intersection over union of each class, over all images."""
    model.eval()
    counts = torch.zeros(CLASSES, CLASSES)
    for index in range(len(data)):
        image, target = data[index]
        logits = model(image[None].to(next(model.parameters()).device)).float().cpu()
        guess = F.interpolate(logits, target["mask"].shape, mode="bilinear").argmax(1)[0]
        counts += torch.bincount(CLASSES * target["mask"].flatten() + guess.flatten(), minlength=CLASSES**2).view(
            CLASSES, CLASSES
        )
    return counts.diag() / (counts.sum(0) + counts.sum(1) - counts.diag()).clamp(min=1)


def arguments(argv: Any = None) -> argparse.Namespace:
    """The command line."""
    parser = common(__doc__.split("\n")[0], "runs/segmenter")
    parser.add_argument("--resize", choices=("plain", "downsize"), default="downsize")
    parser.add_argument("--start", type=Path, help="a resizer that an earlier run saved")
    parser.add_argument("--freeze", action="store_true", help="do not train the resizer")
    parser.add_argument("--evaluate", type=int, default=0, help="measure on as many other scenes")
    options = parser.parse_args(argv)
    options.size, options.source = tuple(options.size), tuple(options.source)
    return options


def main() -> None:
    """Trains, saves the resizer, and measures on images that were not trained on."""
    options, device = arguments(), start()
    data = Scenes(options.length, options.source, options.seed, options.pitch)
    model = build(options, device)
    fit(options, model, data, loss)
    if not dist.is_initialized() or dist.get_rank() == 0:
        if options.resize == "downsize":
            model.fastwarp.saliency.save(options.out / "resizer.safetensors")  # type: ignore[operator, union-attr]
        if options.evaluate:
            shares = evaluate(model, Scenes(options.evaluate, options.source, options.seed + 1_000_000, options.pitch))
            print(f"mIoU {shares.mean():.3f}, of each class {[round(share, 3) for share in shares.tolist()]}")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
