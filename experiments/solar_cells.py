"""Solar cells of `elpv-dataset`: which of them are defective?

The rules, written down before anything was trained: a cell is defective if its probability of a defect is at least 0.5,
as is usual with this dataset. Of the 2,624 cells 401 are uncertain (probabilities of 1/3 and 2/3). They stay in all
splits: training aims at the probability itself, and validation and test take them for what they are likelier to be.
Of the cells of each type of module and probability, 65 % train, 10 % validate and 25 % test; which ones depends on a
fixed seed. The dataset does not say which cells are of the same module, so modules are in several splits.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SHARES = {"train": 0.65, "val": 0.10, "test": 0.25}
SEED = 0


class Cells(NamedTuple):
    """Images `[N, 1, H, W]`, uint8; probabilities of a defect `[N]`; whether each is of a monocrystalline module."""

    images: Tensor
    probability: Tensor
    mono: Tensor

    @property
    def defective(self) -> Tensor:
        """Whether each is taken to be, `[N]`."""
        return self.probability >= 0.5


def split(kinds: np.ndarray, name: str) -> np.ndarray:
    """The numbers of the cells of a split, which has its share of each kind.

    Args:
        kinds: of all cells, `[N]`.
        name: "train", "val" or "test".
    """
    random = np.random.default_rng(SEED)
    ends = np.cumsum([0.0, *SHARES.values()])
    place = list(SHARES).index(name)
    chosen = []
    for kind in np.unique(kinds):
        cells = random.permutation(np.flatnonzero(kinds == kind))
        first, last = (round(len(cells) * end) for end in ends[place : place + 2])
        chosen.append(cells[first:last])
    return np.sort(np.concatenate(chosen))


def load(folder: Path, name: str) -> Cells:
    """A split of the package's data folder, in memory."""
    rows = [line.split() for line in (folder / "labels.csv").read_text().splitlines() if line.strip()]
    kinds = np.array([f"{kind} {float(probability):.2f}" for _, probability, kind in rows])
    rows = [rows[number] for number in split(kinds, name)]
    images = np.stack([np.asarray(Image.open(folder / path).convert("L")) for path, _, _ in rows])
    return Cells(
        torch.from_numpy(images)[:, None],
        torch.tensor([float(probability) for _, probability, _ in rows]),
        torch.tensor([kind == "mono" for _, _, kind in rows]),
    )
