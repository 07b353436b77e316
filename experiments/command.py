"""The command line that all experiments share."""

from __future__ import annotations

import argparse
import functools
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import camvid
import classifier
import detector
import result_page
import runs
import segmenter
import textures
import torch
from presets import PRESETS, TEXTURES, detectors, resizers
from resizing import Resizer
from result_page import Page

KINDS = {"camvid.jsonl": segmenter.Setup, "objects.jsonl": detector.Setup, "scenes.jsonl": detector.Setup}
KINDS |= {"textures.jsonl": segmenter.Setup, "solar.jsonl": classifier.Setup, "trees.jsonl": detector.Setup}
PACKAGES = {"solar.jsonl": "elpv_dataset", "trees.jsonl": "deepforest"}  # that have the images


def store(file: str, results: Path = runs.RESULTS) -> runs.Store:
    """The runs of a file in `results/`."""
    return runs.Store(results / file, KINDS[file])


def main(page: Callable[[str], Page], argv: Sequence[str] | None = None) -> None:
    """Does what is missing of an experiment, and writes its page.

    Args:
        page: of a preset.
        argv: arguments; None: of the command.
    """
    parser = argparse.ArgumentParser(description=page("small").title)
    parser.add_argument("--data", type=Path, help="folder of the CamVid layout; without: generated scenes alone")
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each set-up")
    parser.add_argument("--part", default="1/1", help="k/n: the k-th of n processes that share the trainings")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--device", default="cpu", help="where segmenters train")
    parser.add_argument("--checkpoints", type=Path, help="folder for the state of unfinished trainings")
    parser.add_argument("--results", type=Path, default=runs.RESULTS, help="folder of the runs")
    parser.add_argument("--pages", type=Path, default=result_page.PAGES, help="folder of the page")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    content = page(options.preset)
    for section in content.sections:
        function = trainer(section.file, options)
        if function is None:
            print(f"{section.heading}: no --data, nothing is trained")
            continue
        runs.do(
            store(section.file, options.results), section.setups.values(), range(options.seeds), function, options.part
        )
    kept = {section.file: store(section.file, options.results).runs() for section in content.sections}
    result_page.write(content, kept, options.pages)


def trainer(file: str, options: argparse.Namespace) -> Callable[[Any, int], dict[str, Any]] | None:
    """What trains a set-up with a seed, and measures it on the test split."""
    if file == "scenes.jsonl":
        donor = None if options.data is None else functools.partial(segmentation_donor, options)
        return functools.partial(detector.train, checkpoints=options.checkpoints, donor=donor)
    if file == "textures.jsonl":
        count, size = TEXTURES[options.preset]
        splits = {name: textures.generate(name, n, size) for name, n in zip(("train", "test"), count, strict=True)}
        own = segmenter.Experiment(splits.pop("train"), splits, options.checkpoints, options.device)
        return functools.partial(segmenter.train, own)
    folder = options.data or installed(PACKAGES.get(file))
    if folder is None:
        return None
    if file == "solar.jsonl":
        return functools.partial(classifier.train, folder=folder, checkpoints=options.checkpoints)
    if file in ("objects.jsonl", "trees.jsonl"):
        return functools.partial(detector.train, folder=folder, checkpoints=options.checkpoints)
    own = experiment(options.data, options.device, options.checkpoints)
    return functools.partial(segmenter.train, own, donor=functools.partial(detection_donor, options))


def segmentation_donor(options: argparse.Namespace, seed: int) -> Resizer:
    """The DownsizeNet of a segmenter."""
    own = experiment(options.data, options.device, options.checkpoints)
    resizer = segmenter.fit(own, resizers(options.preset, "DownsizeNet")["DownsizeNet"], seed).resizer
    assert resizer is not None
    return resizer


def detection_donor(options: argparse.Namespace, seed: int) -> Resizer:
    """The DownsizeNet of a detector."""
    setup = detectors(options.preset, "DownsizeNet")["DownsizeNet"]
    resizer = detector.fit(setup, seed, checkpoints=options.checkpoints).resizer
    assert resizer is not None
    return resizer


def installed(package: str | None) -> Path | None:
    """The data folder of a package, which is not imported; None: it is not installed."""
    found = None if package is None else importlib.util.find_spec(package)
    return None if found is None or found.origin is None else Path(found.origin).parent / "data"


@functools.lru_cache(maxsize=1)
def experiment(data: Path, device: str, checkpoints: Path | None) -> segmenter.Experiment:
    """The splits of a folder."""
    tests = {"test": camvid.load(data, "test")}
    return segmenter.Experiment(camvid.load(data, "train"), tests, checkpoints, device)
