"""Folders of the CamVid layout: `images/SPLIT/NAME.jpg` and `labels/SPLIT/NAME.png`, for train, val and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
IGNORE = len(CLASSES)  # "unlabelled"


class Split(NamedTuple):
    """Images `[N, 3, H, W]` and labels `[N, H, W]`, both uint8, in the order of their names."""

    images: Tensor
    labels: Tensor


def load(folder: Path, split: str) -> Split:
    """One split in memory; the published ones have 367, 101 and 233 frames of 360x480, half a gigabyte in all."""
    paths = sorted((folder / "images" / split).glob("*.jpg"))
    if not paths:
        raise SystemExit(f"{folder / 'images' / split} has no .jpg files")
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    labels = [np.asarray(Image.open(folder / "labels" / split / f"{path.stem}.png")) for path in paths]
    return Split(
        torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(np.stack(labels))
    )


def shares(labels: Tensor) -> Tensor:
    """The share of the labelled pixels that each class has."""
    counts = torch.bincount(labels.flatten().int(), minlength=256)[:IGNORE].double()
    return counts / counts.sum()


def confusion(guess: Tensor, labels: Tensor) -> Tensor:
    """Pixels `[11, 11]` by label and guess."""
    known = labels != IGNORE
    joint = labels[known].int() * IGNORE + guess[known].int()
    return torch.bincount(joint, minlength=IGNORE**2).view(IGNORE, IGNORE)


def intersection_over_union(counts: Tensor) -> Tensor:
    """Of each class, in percent; of one that is neither there nor guessed, NaN."""
    counts = counts.double()
    return 100 * counts.diag() / (counts.sum(0) + counts.sum(1) - counts.diag())


def cells(right: Tensor, known: Tensor, shape: Sequence[int] = (9, 12)) -> list[list[float]]:
    """Accuracy in percent of the labelled pixels of each cell of the image (LZU fig. 11); `[N, H, W]` each."""
    mean = torch.nn.functional.adaptive_avg_pool2d
    hits, all_of_them = (mean(x.float()[:, None], tuple(shape)).sum((0, 1)) for x in (right & known, known))
    return (100 * hits / all_of_them.clamp(min=1e-9)).round(decimals=2).tolist()
