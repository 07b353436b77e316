"""Chooses hyperparameters on the validation splits: `python experiments/tune.py --data FOLDER`.

Segmentation with `--data`, a folder of the CamVid layout, detection without. Uniform is tuned as the zooms are. The
result is what `presets.py` says; the test splits are not looked at.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import camvid
import detector
import runs
import segmenter
import torch
from presets import DETECTORS, SEGMENTERS

SEEDS = (100,)  # not those of the experiments
PAIR = ("uniform", "fixed")


def segmenters(preset: str) -> list[segmenter.Setup]:
    """Learning rates with and without a zoom, then strengths of the zoom, from those of LZU appendix A.6."""
    base = dataclasses.replace(SEGMENTERS[preset], fwhm=15.0, edge=200.0)
    found = [dataclasses.replace(base, rate=rate, warp=warp) for rate in (2.5e-3, 5e-3, 1e-2) for warp in PAIR]
    return found + [dataclasses.replace(base, warp="fixed", **changes) for changes in ({"edge": 50.0}, {"fwhm": 22.0})]


def detectors(preset: str) -> list[detector.Setup]:
    """Learning rates with and without a zoom."""
    base = DETECTORS[preset]
    return [dataclasses.replace(base, rate=rate, warp=warp) for rate in (1.25e-3, 2.5e-3, 5e-3) for warp in PAIR]


def main() -> None:
    """Does what is missing, and prints mIoU or AP on the validation split."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder of the CamVid layout; without: detection on generated scenes")
    parser.add_argument("--preset", default="small", choices=tuple(SEGMENTERS))
    parser.add_argument("--part", default="1/1", help="k/n: the k-th of n processes that share the trainings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train: Callable[[Any, int], dict[str, Any]]
    if options.data is None:
        store, setups = runs.Store(runs.RESULTS / "tuning_scenes.jsonl", detector.Setup), detectors(options.preset)
        train = functools.partial(detector.train, split="val")
    else:
        store, setups = runs.Store(runs.RESULTS / "tuning.jsonl", segmenter.Setup), segmenters(options.preset)
        splits = {name: camvid.load(options.data, name) for name in ("train", "val")}
        train = functools.partial(segmenter.train, segmenter.Experiment(splits["train"], {"val": splits["val"]}))
    runs.do(store, setups, SEEDS, train, options.part)
    for (setup, _), run in store.runs().items():
        print(setup, run.metrics["val"]["mIoU"] if options.data else run.metrics["AP"])


if __name__ == "__main__":
    main()
