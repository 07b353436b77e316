"""Processes and threads: DataLoader workers, forks and many callers at once."""

from __future__ import annotations

import threading

import pytest
import torch
from helpers import WarpedImages, assert_bitwise, run_python, use_two_threads
from torch.utils.data import DataLoader

from fastwarp import MeshWarp, SeparableWarp

KINDS = [SeparableWarp, MeshWarp]

linux = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        pytest.param("fork", SeparableWarp, marks=linux),
        ("spawn", SeparableWarp),
        pytest.param("fork", MeshWarp, marks=linux),
    ],
)
def test_dataloader_workers(start, kind):
    """The operators are used in the parent first, on several threads, then in four workers."""
    dataset = WarpedImages(kind=kind)
    expected = [dataset[i] for i in range(len(dataset))]
    options = {
        "num_workers": 4,
        "multiprocessing_context": start,
        "timeout": 120,
        "worker_init_fn": use_two_threads,
    }
    got = list(DataLoader(dataset, batch_size=None, **options))
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert_bitwise([a], [b])
    assert_bitwise([dataset[0]], expected[:1])  # and in the parent again


@pytest.mark.parametrize("kind", KINDS)
def test_eight_threads_at_once(kind):
    dataset = WarpedImages(kind=kind)
    expected = [dataset.forward_backward(i) for i in range(8)]
    assert not torch.equal(expected[0][0], expected[1][0])
    results: list = [None] * 8
    start = threading.Barrier(8)

    def work(i: int) -> None:
        start.wait()
        results[i] = [dataset.forward_backward(i) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for i in range(8):
        assert results[i] is not None, f"thread {i} failed or hangs"
        for result in results[i]:
            assert_bitwise(result, expected[i])


@pytest.mark.parametrize("kind", KINDS)
def test_number_of_threads_changes_no_bit(kind):
    dataset = WarpedImages(kind=kind)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(dataset.forward_backward(0))
    assert_bitwise(results[1], results[0])
    assert_bitwise(results[2], results[0])


def test_large_jobs_use_the_threads_that_torch_may_use_and_small_ones_none(monkeypatch):
    from fastwarp.kernels.cpu import _thread_pool

    def threads_of(function) -> set[int]:
        used = set()
        original = _thread_pool.ThreadPool.with_threads

        def with_threads(pool, parts):
            used.add(parts)
            return original(pool, parts)

        monkeypatch.setattr(_thread_pool.ThreadPool, "with_threads", with_threads)
        function()
        monkeypatch.undo()
        return used

    dataset = WarpedImages()
    torch.set_num_threads(3)
    assert threads_of(lambda: dataset[0]) == {3}
    torch.set_num_threads(1)
    assert threads_of(lambda: dataset[0]) == set()
    torch.set_num_threads(3)
    assert threads_of(lambda: dataset.warp[0].zoom(torch.rand(1, 1, 16, 16), (8, 8))) == set()


FORK = """
import os, torch
from helpers import WarpedImages
from fastwarp.kernels.cpu import _thread_pool
torch.set_num_threads(2)
dataset = WarpedImages()
expected = dataset[0]
parents = _thread_pool.pool
assert parents.threads == 2, "the job was too small for a pool"
child = os.fork()
if child == 0:
    assert _thread_pool.pool is not parents and _thread_pool.pool.threads == 1
    same = torch.equal(dataset[0], expected)
    assert _thread_pool.pool.threads == 2
    os._exit(0 if same else 3)
assert os.waitpid(child, 0)[1] == 0
assert torch.equal(dataset[0], expected)
assert parents.threads == 2
print("both")
"""


@linux
def test_a_forked_child_makes_its_own_pool():
    assert run_python(FORK).strip() == "both"


OPENMP = """
import os, signal, torch
from fastwarp import MeshWarp, SeparableWarp, saliency
torch.set_num_threads(2)
image, boxes = torch.rand(1, 3, 300, 340), torch.tensor([[[20.0, 30.0, 90.0, 80.0]]])
frame, map_ = (image * 255).to(torch.uint8)[0].permute(1, 2, 0).contiguous(), torch.rand(1, 6, 8) + 0.1
(torch.ones(1 << 20) + 1).sum()  # now OpenMP has threads, which a fork does not take along
def work():
    results = [saliency.box_density(boxes, (300, 340), (200, 200))]
    for kind in (SeparableWarp, MeshWarp):
        warp = kind.from_saliency(map_, 5.0)
        for antialias in (False, True):
            small = warp.zoom(image, (250, 280), antialias=antialias)
            results += [warp.unzoom(small, (310, 320), antialias=antialias)]
            results += [warp.zoom_frame(frame, (250, 280), antialias=antialias)]
    return results
expected = work()
child = os.fork()
if child == 0:
    signal.alarm(100)
    os._exit(0 if all((a.numpy() == b.numpy()).all() for a, b in zip(work(), expected)) else 3)
assert os.waitpid(child, 0)[1] == 0
print("done")
"""


@linux
def test_a_child_needs_no_threads_of_openmp():
    """Large sums of torch hang in a forked child with several threads, if the parent used several."""
    assert run_python(OPENMP).strip() == "done"


def test_warmup_compiles_what_is_used_later():
    script = """
import numba, torch, fastwarp
from helpers import WarpedImages
fastwarp.warmup()
compiled = []
original = numba.core.dispatcher.Dispatcher.compile
def compile(self, signature):
    if signature not in self.overloads:
        compiled.append((self.py_func.__name__, signature))
    return original(self, signature)
numba.core.dispatcher.Dispatcher.compile = compile
WarpedImages().forward_backward(0)
WarpedImages(channels_last=True).forward_backward(0)
WarpedImages(channels_last=True, channels=20).forward_backward(0)
print(compiled)
"""
    assert run_python(script).strip() == "[]"
