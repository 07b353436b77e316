"""The thread pool: every part is done once, whatever the threads do meanwhile."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import threading
import time
import weakref
from typing import Any

import numba
import numpy as np
import pytest
import torch
from helpers import run_python

from fastwarp.kernels.cpu import _parallel, _thread_pool
from fastwarp.kernels.cpu._parallel import SMALL, parallel, run


def _count_part(counts, calls, part, parts):
    """Counts each item once and every call for each part and number of parts."""
    calls[parts, part] += 1
    for i in range(part * len(counts) // parts, (part + 1) * len(counts) // parts):
        counts[i] += 1


_count = parallel(_count_part)


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


def _hesitant_pool() -> Any:
    """The thread pool's module once more, with pauses of any length after any access to a word: what takes two threads
    a few nanoseconds in the wrong place happens often."""
    spec = importlib.util.spec_from_file_location("hesitant_thread_pool", _thread_pool.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    counter, add, pause = np.zeros(1, np.int64), module._add, module._pause
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(counter))
    address = counter.ctypes.data

    def hesitant(access: Any) -> Any:
        @numba.njit(nogil=True)
        def late(*args):
            result = access(*args)
            number = add(address, 1) * 48271 % 65537
            if number % 4 == 0:
                for _ in range(number % 1024):
                    pause()
            return result

        return late

    for name in ("_load", "_store", "_add", "_exchange", "_replace"):
        setattr(module, name, hesitant(getattr(module, name)))
    for kernel in (module._worker, module._send_away):
        kernel._cache.disable()  # it would be the real one's
    return module


@pytest.mark.timeout(60)
def test_no_wake_up_is_lost_and_no_part_where_threads_hesitate():
    """A lost wake-up hangs here within a second."""
    module = _hesitant_pool()
    task, share, count = module.task, module.share, _parallel.inline(_count_part)

    @numba.njit(nogil=True)
    def job(pool, parts, *args):
        function, data = task(count, args)
        return share(pool, parts, function, data)

    pool = module.ThreadPool(spins=10)
    for i in range(2000):
        parts = 2 + i % 2
        counts, calls = np.zeros(97, np.int64), np.zeros((parts + 1, parts), np.int64)
        assert job(*pool.with_threads(parts), counts, calls) == 0
        assert (counts == 1).all()
        assert calls[parts].tolist() == [1] * parts
        if i % 200 == 0:
            pool.send_workers_away()
    pool.send_workers_away()


@pytest.mark.timeout(60)
def test_nobody_waits_for_a_worker_that_has_not_begun(monkeypatch):
    """Two workers that are called and never come: the caller does their parts, which stay the same parts."""
    pool = _thread_pool.ThreadPool()
    monkeypatch.setattr(_thread_pool, "pool", pool)
    pool.threads = 3
    for _ in range(3):
        counts, calls = np.zeros(97, np.int64), np.zeros((4, 3), np.int64)
        torch.set_num_threads(3)
        run(_count, (counts, calls), 3 * SMALL)
        assert (counts == 1).all()
        assert calls[3].tolist() == [1, 1, 1]


def test_workers_leave_and_come_again(monkeypatch):
    pool = _thread_pool.ThreadPool()
    monkeypatch.setattr(_thread_pool, "pool", pool)
    for parts in (2, 4, 3):
        _job(parts)
        assert pool.threads == parts
        pool.send_workers_away()
        assert pool.threads == 1


def test_the_memory_of_a_pool_outlives_it():
    """Threads may be at work while the interpreter ends and takes its modules apart."""
    memory = weakref.ref(_thread_pool._memory(0).base)
    gc.collect()
    assert memory() is not None


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
    pool = _thread_pool.ThreadPool()
    monkeypatch.setattr(_thread_pool, "pool", pool)
    with monkeypatch.context() as context:
        context.setattr(_thread_pool, "_start_thread", lambda function, data: _thread_pool._NO_THREAD)
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
from fastwarp.kernels.cpu import _thread_pool
from fastwarp import SeparableWarp
torch.set_num_threads(3)
SeparableWarp.identity().zoom(torch.rand(1, 3, 256, 256), (256, 256))
assert _thread_pool.pool.threads == 3
print("left")
"""


def test_the_interpreter_ends_while_threads_still_spin():
    assert run_python(LEAVE).strip() == "left"


JOB = """
import threading, torch, numpy as np
from fastwarp.kernels.cpu import _thread_pool
from fastwarp.kernels.cpu._parallel import SMALL, parallel, run
@parallel
def _fill(result, part, parts):
    result[part] = parts
def job():
    result = np.zeros(3)
    torch.set_num_threads(3)
    run(_fill, (result,), 3 * SMALL)
    assert result.tolist() in ([3] * 3, [1, 0, 0])
    return True
"""

PATCHED = """
import _thread, threading
def start(function, args=(), kwargs={}):  # on the caller's stack: what never ends never returns
    function(*args, **kwargs)
_thread.start_new_thread = threading._start_new_thread = start
threading.Thread.start = threading.Thread.run
"""

GREEN = """
done = []
threads = [threading.Thread(target=lambda: done.append(job())) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert done == [True] * 3
"""

CHECK = """
assert job() and _thread_pool.pool.threads == 3
print("three")
"""


def test_threads_that_run_on_the_stack_of_their_caller():
    assert run_python(PATCHED + JOB + CHECK).strip() == "three"


@pytest.mark.parametrize(
    "patch", ["from gevent import monkey; monkey.patch_all()", "import eventlet; eventlet.monkey_patch()"]
)
def test_green_threads(patch):
    pytest.importorskip(patch.split()[1].rstrip(";"))
    assert run_python(patch + JOB + GREEN + CHECK).strip() == "three"


def _forks(fork: str, count: int) -> str:
    return f"""
import ctypes, os, warnings
warnings.simplefilter("error")  # Python 3.12 and later warn of forks beside threads
for _ in range({count}):
    assert job()
    child = {fork}
    if child == 0:
        os._exit(0 if job() else 3)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_no_worker_is_there_at_a_fork():
    assert run_python(JOB + _forks("os.fork()", 5) + CHECK).strip() == "three"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_that_python_does_not_see():
    """The child believes in workers that it does not have."""
    assert run_python(JOB + _forks("ctypes.CDLL(None).fork()", 1) + CHECK).strip() == "three"


def test_compilation_that_is_switched_off():
    script = """
import torch, fastwarp
warp, image = fastwarp.SeparableWarp.identity(), torch.rand(1, 1, 4, 4)
try:
    warp.zoom(image, (2, 2))
except fastwarp.FastwarpError as error:
    print(error)
with fastwarp.backend("reference"):
    warp.zoom(image, (2, 2))
"""
    printed = run_python(script, NUMBA_DISABLE_JIT="1")
    assert "NUMBA_DISABLE_JIT" in printed
    assert "reference" in printed
