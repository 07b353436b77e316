"""Trains and measures a small segmenter on zoomed or resized images."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import camvid
import torch
import torch.nn.functional as F
from camvid import IGNORE, Split
from networks import STRIDES, network, placed
from resizing import Resizer
from runs import Checkpoint, rate
from torch import Tensor, nn

from fastwarp import SeparableWarp
from fastwarp.functional import axis_map
from fastwarp.saliency import LearnedSaliency, boundary_density

SALIENCY = (45, 45)  # cells, as in LZU appendix A.6


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a training is determined by, but for its seed.

    Attributes:
        size: (height, width) that the network runs at.
        source: pixels of the source that become one, by averaging, before anything else: 1 or 2.
        steps: of training.
        batch: images of a step.
        rate: largest learning rate.
        width: channels of the feature pyramid.
        warp: "uniform"; "fixed", by the mean boundaries of the training set; "adaptive", by the boundaries of a first
            pass on the same image; "learned", by a network; "trained", by one saliency for all images, which the loss
            of the task trains.
        fwhm: of the attraction kernel, in cells.
        edge: weight of boundaries against 1 elsewhere.
        registered: whether unzoom knows where cells are, or takes cell i of n to be at i / (n - 1), as released.
        antialias: whether zooms average where they reduce.
        unzoom_antialias: whether unzooms do.
        level: what is unzoomed: "features", to their own size as in the paper, or "logits", to the labels' size.
        resize: "warp", or how images become small without one, a method of `resizing.Resizer`. With "downsize" and a
            warp, DownsizeNet makes small what is zoomed at the source's size.
        layers: of DownsizeNet.
        taps: likewise.
        host: the network, of `networks`.
        learned: where DownsizeNet learns, "here", or "detection": in a detector of generated scenes, and here no more.
    """

    size: tuple[int, int]
    steps: int
    rate: float
    source: int = 1
    batch: int = 8
    width: int = 32
    warp: str = "uniform"
    fwhm: float = 15.0
    edge: float = 200.0
    registered: bool = True
    antialias: bool = True
    unzoom_antialias: bool = False
    level: str = "features"
    resize: str = "warp"
    layers: int = 3
    taps: str = "bilinear"
    host: str = "pyramid"
    learned: str = "here"


def best(logits: Tensor) -> Tensor:
    """The class `[B, H, W]` of the largest logit, uint8: `argmax(1)`, which is slow on a CPU."""
    most, which = logits[:, 0], torch.zeros_like(logits[:, 0], dtype=torch.uint8)
    for label in range(1, logits.shape[1]):
        which = which.masked_fill(logits[:, label] > most, label)
        most = torch.maximum(most, logits[:, label])
    return which


class Experiment:
    """The splits, and what set-ups share of them.

    Args:
        train: training images and labels.
        tests: by name, those that are measured.
        checkpoints: folder for the state of trainings, or None.
        device: to train on.
        evaluate_every: rows and columns of labels that are measured: all, or every other one.
    """

    def __init__(
        self,
        train: Split,
        tests: dict[str, Split],
        checkpoints: Path | None = None,
        device: str = "cpu",
        evaluate_every: int = 2,
    ) -> None:
        self.train, self.tests, self.checkpoints = train, tests, checkpoints
        self.device, self.every = torch.device(device), evaluate_every
        # Rare classes count more, but less than if all counted the same.
        weight = camvid.shares(train.labels).clamp(min=1e-4) ** -0.5
        self.weight = (weight / weight.mean()).float().to(self.device)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - there is one experiment
    def images(self, name: str, source: int) -> Tensor:
        """Images `[N, 3, H / source, W / source]` of a split, uint8."""
        whole = self.train.images if name == "train" else self.tests[name].images
        if source == 1:
            return whole
        return torch.cat([F.avg_pool2d(x.float(), source).round().to(torch.uint8) for x in whole.split(32)])

    @functools.cached_property
    def boundaries(self) -> Tensor:
        """Share of boundary pixels `[N, 45, 45]` of the training images' cells."""
        return torch.cat([boundary_density(x, SALIENCY, 1.0, 0.0, IGNORE) for x in self.train.labels.split(32)])

    def warp(self, setup: Setup, shares: Tensor | None = None) -> SeparableWarp:
        """The warp of the mean boundaries, mixed half and half with those of each image if these are known."""
        mean = self.boundaries.mean(0, keepdim=True)
        mean = (mean + mean.flip(2)) / 2  # training images are mirrored
        if shares is not None:
            mean = (mean + shares) / 2
        return SeparableWarp.from_saliency((1 + (setup.edge - 1) * mean).to(self.device), setup.fwhm)


class Model(nn.Module):
    """The network with what makes its image small, and the warp."""

    def __init__(self, setup: Setup, experiment: Experiment) -> None:
        super().__init__()
        self.setup = setup
        self.experiment = (experiment,)  # in a tuple: it is no part of the network
        self.network = network(setup.host, setup.width, IGNORE)
        self.network.to(memory_format=torch.channels_last)  # a tenth faster on CPUs
        self.saliency = LearnedSaliency(SALIENCY) if setup.warp == "learned" else None
        self.logarithm = nn.Parameter(torch.zeros(1, *SALIENCY)) if setup.warp == "trained" else None
        self.resizer = None
        if setup.resize != "warp":
            self.resizer = Resizer(
                setup.size, setup.resize, setup.layers, setup.taps, align_corners=setup.warp != "uniform"
            )

    def warp(self, images: Tensor, shares: Tensor | None) -> SeparableWarp:
        """Of each image."""
        if self.saliency is not None:
            return SeparableWarp.from_saliency(self.saliency(images), self.setup.fwhm)
        if self.logarithm is not None:
            return SeparableWarp.from_saliency(self.logarithm.exp(), self.setup.fwhm)
        if self.setup.warp == "uniform":
            return SeparableWarp.identity(device=images.device)
        return self.experiment[0].warp(self.setup, shares)

    def small(self, images: Tensor, warp: SeparableWarp) -> Tensor:
        """What the network runs on, `[B, 3, *size]`."""
        if self.resizer is None:
            return warp.zoom(images, self.setup.size, antialias=self.setup.antialias)
        if self.setup.warp != "uniform":
            images = warp.zoom(images, images.shape[2:], antialias=self.setup.antialias)
        return self.resizer(images)

    def forward(
        self, images: Tensor, rows: Tensor, columns: Tensor, shares: Tensor | None = None, **changes: Any
    ) -> Tensor:
        """Logits `[B, 11, len(rows), len(columns)]` at rows and columns of the labels.

        Args:
            images: of the source, 0 to 255.
            rows: pixels of the labels.
            columns: likewise.
            shares: boundaries of each image, for the adaptive warp.
            changes: of `registered` or of the warp, for this call.
        """
        setup = dataclasses.replace(self.setup, **{k: v for k, v in changes.items() if k != "by"})
        images = images.float() / 255
        warp = changes["by"] if "by" in changes else self.warp(images, shares)
        registered = {"image_size": setup.size} if setup.registered else {}
        warped = setup.warp != "uniform" or "by" in changes

        def unzoom(levels: list[Tensor]) -> list[Tensor]:
            if not warped or setup.level == "logits":
                return levels
            return warp.unzoom(levels, antialias=setup.unzoom_antialias, padding_mode="border", **registered)

        small = (self.small(images, warp) - 0.5) / 0.25
        logits = self.network(small.contiguous(memory_format=torch.channels_last), unzoom)
        y, x = (
            (at[None] + 0.5) / setup.source - 0.5 for at in (rows, columns)
        )  # in pixels of the source, which are areas
        sizes = zip((y, x), setup.size, images.shape[2:], strict=True)
        if self.resizer is None or self.resizer.align_corners:  # first and last pixels stay at the same places
            y, x = (at * (a - 1) / (b - 1) for at, a, b in sizes)
            if warped and setup.level == "logits":
                ends = [n - 1 for n in setup.size]
                y = axis_map(warp.knots_y, (y / ends[0]).to(warp.knots_y), inverse=True) * ends[0]
                x = axis_map(warp.knots_x, (x / ends[1]).to(warp.knots_x), inverse=True) * ends[1]
        else:
            y, x = ((at + 0.5) * a / b - 0.5 for at, a, b in sizes)
        return placed(logits, y / STRIDES[0], x / STRIDES[0])


def fit(experiment: Experiment, setup: Setup, seed: int, donor: Callable[[int], Resizer] | None = None) -> Model:
    """Trains a network. `donor` trains the DownsizeNet of another task with a seed, for set-ups that take it."""
    other = None
    if setup.learned != "here":
        assert donor is not None
        other = donor(seed)
    torch.manual_seed(seed)
    device = experiment.device
    model = Model(setup, experiment).to(device)
    if other is not None and model.resizer is not None:
        model.resizer.take(other)
    optimizer = torch.optim.AdamW(model.parameters(), setup.rate, weight_decay=0.01)
    images, labels = experiment.images("train", setup.source), experiment.train.labels
    generator = torch.Generator()
    checkpoint = Checkpoint(experiment.checkpoints, f"{setup} {seed}", [model, optimizer])
    height, width = labels.shape[1:]
    for step in range(checkpoint.load(), setup.steps):
        # Everything random of a step depends on seed and step alone: it is the same for all set-ups, and after a kill.
        generator.manual_seed(1_000_003 * seed + step)
        chosen = torch.randint(len(images), (setup.batch,), generator=generator)
        flip, light = torch.rand(2, setup.batch, generator=generator)
        oy, ox, down, across = (torch.randint(n, (), generator=generator).item() for n in (4, 4, 3, 3))
        flip = flip < 0.5
        picture, label = images[chosen].to(device), labels[chosen].to(device)
        picture[flip], label[flip] = picture[flip].flip(3), label[flip].flip(2)
        label = label[:, oy::4, ox::4]
        shares = None
        if setup.warp == "adaptive":  # the boundaries, up to a cell beside their places: the first pass errs
            known = experiment.boundaries[chosen]
            known = F.pad(torch.where(flip[:, None, None], known.flip(2), known)[:, None], (1, 1, 1, 1), "replicate")
            shares = known[:, 0, down : down + SALIENCY[0], across : across + SALIENCY[1]]
        for group in optimizer.param_groups:
            group["lr"] = rate(setup.rate, step, setup.steps)
        picture = picture * (0.8 + 0.4 * light.to(device))[:, None, None, None]  # darker or lighter by up to a fifth
        logits = model(picture, torch.arange(oy, height, 4), torch.arange(ox, width, 4), shares)
        loss = F.cross_entropy(logits, label.long(), experiment.weight, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        checkpoint.save(step + 1)
    checkpoint.remove()
    return model


def train(
    experiment: Experiment, setup: Setup, seed: int, donor: Callable[[int], Resizer] | None = None
) -> dict[str, Any]:
    """Trains a network, and measures it on each split."""
    model = fit(experiment, setup, seed, donor)
    return {name: measure(experiment, model, name) for name in experiment.tests}


@torch.no_grad()
def measure(experiment: Experiment, model: Model, name: str) -> dict[str, Any]:
    """Of a split: mIoU, IoU of each class and accuracy by place; and what a change after training makes of the mIoU:
    "swapped", the other registration; "plugged", a fixed zoom in front of a network trained without one."""
    model.eval()
    setup, every, split = model.setup, experiment.every, experiment.tests[name]
    pictures = experiment.images(name, setup.source)
    variants: dict[str, dict[str, Any]] = {"own": {}}
    if setup.warp != "uniform":
        variants["swapped"] = {"registered": not setup.registered}
    elif setup.resize == "warp":
        variants |= {"plugged": {"by": experiment.warp(setup)}}
    counts = {variant: torch.zeros(IGNORE, IGNORE) for variant in variants}
    guesses = []
    for images, labels in zip(pictures.split(16), split.labels.split(16), strict=True):
        rows, columns = (torch.arange(0, n, every) for n in labels.shape[1:])
        labels = labels[:, ::every, ::every]
        for variant, changes in variants.items():
            shares = None
            picture = images.to(experiment.device)
            if setup.warp == "adaptive":  # the first pass is that of a network with the fixed warp
                first = best(model(picture, rows, columns, None, **changes))
                shares = (
                    boundary_density(first, SALIENCY, 1.0, 0.0) / every
                )  # boundaries of half the labels are twice as wide
            guess = best(model(picture, rows, columns, shares, **changes)).cpu()
            counts[variant] += camvid.confusion(guess, labels)
            if variant == "own":
                guesses.append(guess)
    known = split.labels[:, ::every, ::every]
    iou = camvid.intersection_over_union(counts["own"])
    result = {
        "mIoU": round(iou.nanmean().item(), 3),
        "classes": [round(x, 2) for x in iou.tolist()],
        "cells": camvid.cells(torch.cat(guesses) == known, known != IGNORE),
    }
    for variant in set(variants) - {"own"}:
        result[variant] = round(camvid.intersection_over_union(counts[variant]).nanmean().item(), 3)
    return result
