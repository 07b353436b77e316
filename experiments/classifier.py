"""Trains and measures a small classifier of solar cells on resized images."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import solar_cells
import torch
import torch.nn.functional as F
from networks import block
from resizing import Resizer
from runs import Checkpoint, rate
from scipy.stats import rankdata
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a training is determined by, but for its seed.

    Attributes:
        size: (height, width) that the network runs at.
        steps: of training.
        rate: largest learning rate.
        batch: images of a step.
        width: channels at stride 4.
        resize: how images become small, see `Resizer`.
        layers: of DownsizeNet.
        taps: likewise.
    """

    size: tuple[int, int]
    steps: int
    rate: float
    batch: int = 8
    width: int = 32
    resize: str = "bilinear"
    layers: int = 3
    taps: str = "bilinear"


class Model(nn.Module):
    """Convolutions down to stride 16 on small images, then the mean and the maximum of each channel."""

    def __init__(self, setup: Setup) -> None:
        super().__init__()
        a, b, c, d = setup.width // 2, setup.width, setup.width * 3 // 2, setup.width * 2
        blocks = [block(1, a, 2), block(a, b, 2), block(b, b), block(b, c, 2), block(c, c), block(c, d, 2), block(d, d)]
        self.network = nn.Sequential(*blocks).to(memory_format=torch.channels_last)
        self.head = nn.Linear(2 * d, 1)
        self.resizer = Resizer(setup.size, setup.resize, setup.layers, setup.taps, channels=1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B]` of a defect, of images `[B, 1, H, W]` of 0 to 255."""
        small = (self.resizer(images.float() / 255) - 0.5) / 0.25
        maps = self.network(small.contiguous(memory_format=torch.channels_last))
        return self.head(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1))[:, 0]


cells = functools.lru_cache(maxsize=4)(solar_cells.load)


def train(
    setup: Setup, seed: int, folder: Path, checkpoints: Path | None = None, split: str = "test"
) -> dict[str, float]:
    """Trains a classifier, and measures it on other cells. `split`: "val" to choose hyperparameters, "test" for
    results."""
    torch.manual_seed(seed)
    data = cells(folder, "train")
    model = Model(setup)
    optimizer = torch.optim.AdamW(model.parameters(), setup.rate, weight_decay=0.01)
    checkpoint = Checkpoint(checkpoints, f"{setup} {seed}", [model, optimizer])
    generator = torch.Generator()
    for step in range(checkpoint.load(), setup.steps):
        # Everything random of a step depends on seed and step alone: it is the same for all set-ups, and after a kill.
        generator.manual_seed(1_000_003 * seed + step)
        chosen = torch.randint(len(data.images), (setup.batch,), generator=generator)
        across, down, light = torch.rand(3, setup.batch, generator=generator)
        images, probability = data.images[chosen], data.probability[chosen]
        for axis, flip in ((2, down < 0.5), (3, across < 0.5)):
            images[flip] = images[flip].flip(axis)
        images = images * (0.8 + 0.4 * light)[:, None, None, None]  # darker or lighter by up to a fifth
        for group in optimizer.param_groups:
            group["lr"] = rate(setup.rate, step, setup.steps)
        loss = F.binary_cross_entropy_with_logits(model(images), probability)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        checkpoint.save(step + 1)
    metrics = measure(model, cells(folder, split))
    checkpoint.remove()
    return metrics


@torch.no_grad()
def measure(model: Model, data: solar_cells.Cells) -> dict[str, float]:
    """In percent: average precision and the area under the ROC curve, of all cells and of each type of module."""
    model.eval()
    scores = torch.cat([model(images) for images in data.images.split(32)]).numpy()
    found, mono = {}, data.mono.numpy()
    for suffix, some in (("", mono | True), (" mono", mono), (" poly", ~mono)):
        known = data.defective.numpy()[some], scores[some]
        found["AP" + suffix] = round(100 * average_precision(*known), 3)
        found["ROC AUC" + suffix] = round(100 * roc_area(*known), 3)
    return found


def average_precision(defective: np.ndarray, scores: np.ndarray) -> float:
    """The mean, over the defective ones, of the precision among those that score at least as much."""
    hits = defective[np.argsort(-scores, kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


def roc_area(defective: np.ndarray, scores: np.ndarray) -> float:
    """The share of pairs of a defective cell and another one in which the defective one scores more."""
    count = defective.sum()
    above = rankdata(scores)[defective].sum() - count * (count + 1) / 2
    return float(above / (count * (len(scores) - count)))
