"""Runs that are kept: one line of JSON each, appended at once. A run that is there already is not done again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import fastwarp

RESULTS = Path(__file__).parent / "results"


@dataclasses.dataclass(frozen=True)
class Run:
    """A training: its set-up, a frozen dataclass, its seed, and what was measured after it."""

    setup: Any
    seed: int
    metrics: dict[str, Any]


class Store:
    """The runs of one kind of set-up in a file of JSON lines.

    Args:
        path: the file; need not exist.
        kind: dataclass of the set-ups. Lines that lack a field, because it is younger than they are, have its default.
    """

    def __init__(self, path: Path, kind: type) -> None:
        self.path, self.kind = path, kind

    def runs(self) -> dict[tuple[Any, int], Run]:
        """All runs by set-up and seed. A last line that was cut off by a kill is passed over."""
        found = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                content = json.loads(line)
            except json.JSONDecodeError:
                continue
            # Lists of JSON are tuples in set-ups, which are keys.
            fields = {k: tuple(v) if isinstance(v, list) else v for k, v in content["setup"].items()}
            run = Run(self.kind(**fields), content["seed"], content["metrics"])
            found[run.setup, run.seed] = run
        return found

    def add(self, run: Run, seconds: float) -> None:
        """Appends a run: in one write, as other processes may append too."""
        versions = {"fastwarp": fastwarp.__version__, "torch": torch.__version__, "python": platform.python_version()}
        content = dataclasses.asdict(run) | {"seconds": round(seconds, 1), "versions": versions}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = not self.path.exists() or not self.path.stat().st_size or self.path.read_bytes().endswith(b"\n")
        with self.path.open("ab", buffering=0) as file:
            file.write((b"" if whole else b"\n") + json.dumps(content).encode() + b"\n")


def do(
    store: Store, setups: Iterable[Any], seeds: Iterable[int], train: Callable[[Any, int], dict[str, Any]], part: str
) -> None:
    """Does the runs that are missing, seed by seed, so that a stopped experiment has equally many of each set-up.

    Args:
        store: where runs are kept.
        setups: the set-ups, in order.
        seeds: of each.
        train: returns the metrics of a set-up and a seed.
        part: "k/n": of n processes that share the work, the k-th; "1/1" is all of it.
    """
    k, n = map(int, part.split("/"))
    several = list(dict.fromkeys(setups))
    # Shifted by one from seed to seed, so that no process has all the runs of a slow set-up.
    wanted = [(setup, seed) for i, seed in enumerate(seeds) for j, setup in enumerate(several) if (i + j) % n == k - 1]
    for setup, seed in track(wanted, "trainings"):
        if (setup, seed) in store.runs():
            continue
        start = time.monotonic()
        metrics = train(setup, seed)
        store.add(Run(setup, seed, metrics), time.monotonic() - start)


def rate(largest: float, step: int, steps: int) -> float:
    """The learning rate of a step: up to the largest in a tenth of the steps, and down along half a cosine."""
    return largest * min((step + 1) / (0.1 * steps), (1 + math.cos(math.pi * step / steps)) / 2)


class Checkpoint:
    """The state of a training in a file, written every minute, so that a killed one goes on.

    Args:
        folder: for the file; None: no checkpoints, a killed training begins again.
        name: of the training, any text.
        parts: objects with `state_dict` and `load_state_dict`.
    """

    def __init__(self, folder: Path | None, name: str, parts: Sequence[Any]) -> None:
        self.path = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(name.encode()).hexdigest()[:16]
            self.path = folder / f"{digest}.pt"
        self.parts, self.last = parts, time.monotonic()

    def load(self) -> int:
        """The step to go on with."""
        if self.path is None or not self.path.exists():
            return 0
        content = torch.load(self.path, map_location="cpu", weights_only=True)
        for part, state in zip(self.parts, content["parts"], strict=True):
            part.load_state_dict(state)
        torch.set_rng_state(content["random"])
        return content["step"]

    def save(self, step: int) -> None:
        """Writes the state if a minute has passed; whole or not at all."""
        if self.path is None or time.monotonic() - self.last < 60:
            return
        content = {"step": step, "parts": [p.state_dict() for p in self.parts], "random": torch.get_rng_state()}
        torch.save(content, self.path.with_suffix(".tmp"))
        os.replace(self.path.with_suffix(".tmp"), self.path)
        self.last = time.monotonic()

    def remove(self) -> None:
        """Once the run is kept."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
