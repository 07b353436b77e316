"""Paired differences of runs, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t

FEWEST = 5  # pairs that a claim needs


class Difference(NamedTuple):
    """Mean of paired differences, its 95 % interval, and the number of pairs."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def claimed(self) -> bool:
        """Whether the interval excludes zero, of enough pairs: what is not claimed may be chance."""
        return self.pairs >= FEWEST and (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        bold = "**" if self.claimed else ""
        return f"{bold}{self.mean:+.2f}{bold} [{self.low:+.2f}, {self.high:+.2f}]"


def difference(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Of a - b for pairs of equal seeds: the mean, and Student's 95 % interval of it. NaN for fewer than two pairs."""
    both = np.subtract(a, b, dtype=np.float64)
    n, mean = len(both), float(both.mean()) if len(both) else math.nan
    if n < 2:
        return Difference(mean, math.nan, math.nan, n)
    half = float(t.ppf(0.975, n - 1) * both.std(ddof=1) / math.sqrt(n))
    return Difference(mean, mean - half, mean + half, n)
