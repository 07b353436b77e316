"""Chooses the learning rate for solar cells on their validation split: `python experiments/tune_solar.py`.

Bilinear is tuned as DownsizeNet is. The result is what `presets.py` says; the test split is not looked at.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from pathlib import Path

import classifier
import command
import runs
import torch
from presets import classifiers

SEEDS = (100,)  # not those of the experiment
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
PAIR = ("bilinear", "DownsizeNet")


def main() -> None:
    """Does what is missing, and prints what was measured on the validation split."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="data folder of elpv-dataset, if that is not installed")
    parser.add_argument("--preset", default="small")
    parser.add_argument("--part", default="1/1", help="k/n: the k-th of n processes that share the trainings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = runs.Store(runs.RESULTS / "tuning_solar.jsonl", classifier.Setup)
    found = classifiers(options.preset, *PAIR).values()
    setups = [dataclasses.replace(setup, rate=rate) for rate in RATES for setup in found]
    folder = options.data or command.installed("elpv_dataset")
    runs.do(store, setups, SEEDS, functools.partial(classifier.train, folder=folder, split="val"), options.part)
    for (setup, seed), run in store.runs().items():
        print(setup.resize, setup.rate, seed, run.metrics)


if __name__ == "__main__":
    main()
