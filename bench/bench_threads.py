"""Two threads beside processes that keep 0, 1 and 2 cores busy: what waiting for a thread without a processor costs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import peers
import pytest
import torch
from cases import TOLERANCES, image, read_by_zoom, warp
from paired import OURS, Function, paired
from torch import Tensor

CASES = {  # the image, and the size it is zoomed to
    "level": ((1, 64, 75, 120), (75, 120)),
    "photo": ((1, 3, 1200, 1920), (600, 960)),
}
SPIN = "print('ready', flush=True)\nwhile True: pass"
ONE_THREAD = "fastwarp, one thread"


@pytest.fixture(params=[0, 1, 2])
def busy(request: pytest.FixtureRequest) -> Iterator[int]:
    """Keeps so many cores busy; the scheduler decides which."""
    command = [sys.executable, "-c", SPIN]
    spinning = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(request.param)]
    try:
        for process in spinning:
            assert process.stdout is not None
            process.stdout.readline()
        yield request.param
    finally:
        for process in spinning:
            process.kill()
            process.communicate()
        torch.set_num_threads(2)


def _with_threads(threads: int, function: Function) -> Function:
    def call(*inputs: Any) -> Sequence[Tensor]:
        torch.set_num_threads(threads)
        return function(*inputs)

    return call


@pytest.mark.parametrize("name", CASES)
def test_busy_cores(benchmark: Any, name: str, busy: int) -> None:
    """The target: two threads never take more than 1.25 times as long as one."""
    shape, size = CASES[name]
    made, source = warp((31, 51)), image(shape)
    grids = peers.cached([made.grid(size)], [source])
    contenders: dict[str, Function] = {
        OURS: _with_threads(2, lambda x: [made.zoom(x, size)]),
        ONE_THREAD: _with_threads(1, lambda x: [made.zoom(x, size)]),
        "grid_sample": _with_threads(2, lambda x: peers.grid_sample([x], grids)),
    }
    if shape[1] == 3:
        maps = peers.remap_maps(made, size, shape[2:])
        frame = source[0].permute(1, 2, 0).contiguous().numpy()
        contenders["cv2.remap"] = lambda _: [peers.remap(frame, maps)]
    paired(
        benchmark,
        contenders,
        lambda: [source.clone()],
        moved=read_by_zoom(source, made, size) + shape[1] * size[0] * size[1] * source.itemsize,
        tolerance=TOLERANCES[source.dtype],
        targets={ONE_THREAD: 0.8},
    )
