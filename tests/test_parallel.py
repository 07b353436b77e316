"""The hand-over of a kernel's parts to the threads that wait for them."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from helpers import run_python

from fastwarp.kernels.cpu import _parallel
from fastwarp.kernels.cpu._parallel import SMALL, parallel, run


@parallel
def _count(counts, calls, part, parts):
    """Counts each item once and every call for each part and number of parts."""
    calls[parts, part] += 1
    for i in range(part * len(counts) // parts, (part + 1) * len(counts) // parts):
        counts[i] += 1


@parallel
def _allocate(sizes, result, part, parts):
    result[part] = len(np.empty(sizes[part], np.uint8))


def _job(parts: int, pause: float = 0.0) -> None:
    """Asserts that a job of so many parts is done once, by the parts that there should be."""
    counts, calls = np.zeros(97, np.int64), np.zeros((parts + 1, parts), np.int64)
    torch.set_num_threads(parts)
    time.sleep(pause)
    run(_count, (counts, calls), parts * SMALL)
    assert (counts == 1).all()
    assert calls.sum() == (calls[parts] == 1).sum() == parts or calls[1, 0] == calls.sum() == 1


def test_every_part_is_done_once():
    for i in range(3000):
        _job(1 + i % 5)


def test_threads_wake_at_any_time_of_falling_asleep():
    """Pauses around the time that a thread spins before it sleeps."""
    for i in range(1500):
        _job(3, 1e-6 * (i % 500))


def test_a_busy_pool_leaves_a_caller_to_itself():
    seen: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(500):
                _job(3)
        except BaseException as error:
            seen.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not seen


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_part_without_memory_raises_and_the_next_job_works(which):
    torch.set_num_threads(3)
    sizes, result = np.full(3, 10), np.zeros(3, np.int64)
    sizes[which] = 1 << 60
    with pytest.raises(MemoryError):
        run(_allocate, (sizes, result), 3 * SMALL)
    sizes[which] = 20
    run(_allocate, (sizes, result), 3 * SMALL)
    assert result.tolist() == sizes.tolist()


def test_threads_that_cannot_start_are_done_without(monkeypatch):
    pool = _parallel._Pool()
    monkeypatch.setattr(_parallel, "_pool", pool)

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", start)
        _job(1)
        counts, calls = np.zeros(9, np.int64), np.zeros((4, 3), np.int64)
        torch.set_num_threads(3)
        run(_count, (counts, calls), 3 * SMALL)
        assert (counts == 1).all()
        assert calls[1, 0] == pool.threads == 1
    _job(3)
    assert pool.threads == 3


def test_more_threads_than_a_pool_holds():
    torch.set_num_threads(400)
    counts, calls = np.zeros(1000, np.int64), np.zeros((401, 400), np.int64)
    run(_count, (counts, calls), 400 * SMALL)
    assert (counts == 1).all()
    assert (calls[256, :256] == 1).all()
    assert calls.sum() == 256


LEAVE = """
import numpy as np, torch
from fastwarp.kernels.cpu import _parallel
from fastwarp import SeparableWarp
torch.set_num_threads(3)
SeparableWarp.identity().zoom(torch.rand(1, 3, 256, 256), (256, 256))
assert _parallel._pool.threads == 3
print("left")
"""


def test_the_interpreter_ends_while_threads_still_spin():
    assert run_python(LEAVE).strip() == "left"
