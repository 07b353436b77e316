"""Chooses the hyperparameters of segmentation on the validation split: `python experiments/tune.py --data FOLDER`.

Uniform is tuned as the zooms are. The result is what `presets.py` says; the test split is not looked at.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from pathlib import Path

import camvid
import runs
import segmenter
import torch
from presets import SEGMENTERS

SEEDS = (100,)  # not those of the experiments


def setups(preset: str) -> list[segmenter.Setup]:
    """Learning rates with and without a zoom, then strengths of the zoom."""
    base = dataclasses.replace(SEGMENTERS[preset], fwhm=15.0, edge=200.0)  # LZU appendix A.6
    found = [
        dataclasses.replace(base, rate=rate, warp=warp)
        for rate in (2.5e-3, 5e-3, 1e-2)
        for warp in ("uniform", "fixed")
    ]
    return found + [dataclasses.replace(base, warp="fixed", **changes) for changes in ({"edge": 50.0}, {"fwhm": 22.0})]


def main() -> None:
    """Does what is missing, and prints the mIoU on the validation split."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the CamVid layout")
    parser.add_argument("--preset", default="small", choices=tuple(SEGMENTERS))
    parser.add_argument("--part", default="1/1", help="k/n: the k-th of n processes that share the trainings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = {name: camvid.load(options.data, name) for name in ("train", "val")}
    experiment = segmenter.Experiment(splits["train"], {"val": splits["val"]})
    store = runs.Store(runs.RESULTS / "tuning.jsonl", segmenter.Setup)
    runs.do(store, setups(options.preset), SEEDS, functools.partial(segmenter.train, experiment), options.part)
    for (setup, _), run in store.runs().items():
        print(setup.warp, setup.rate, setup.fwhm, setup.edge, run.metrics["val"]["mIoU"])


if __name__ == "__main__":
    main()
