"""The one place for threads and for numba's flags.

numba's own parallel layers are not used: under OpenMP a forked DataLoader worker dies, and under workqueue two Python
threads that call at once abort the process. Kernels here release the GIL and are called for slices of their work from
a pool of Python threads, made on first use, again in a forked child, and left alone by jobs too small to pay for it.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch

SMALL = 1 << 17
"""Values (taps read or written) a thread must have to pay for it: waking another and waiting for it takes 50-100 us."""

_pools: dict[int, ThreadPoolExecutor] = {}

os.register_at_fork(after_in_child=_pools.clear)


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles with numba on first call, without the GIL, and caches the machine code on disk where that can be
    written.

    Not `fastmath=True`: NaN must come through, which "nnan" would allow to be dropped.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no directory to cache in: a read-only install and no home
        return numba.njit(**options)(function)


def inline(function: Callable[..., Any]) -> Any:
    """Compiles a helper that kernels call."""
    return numba.njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")(function)


def exact(function: Callable[..., Any]) -> Any:
    """Compiles a helper without fused multiply-adds: each operation rounds as IEEE 754 says, the same on every
    machine. Flags that are not set would be those of the caller."""
    return numba.njit(nogil=True, fastmath=False, error_model="numpy")(function)


def run(kernel: Callable[..., Any], args: tuple[Any, ...], work: int) -> None:
    """Calls `kernel(*args, part, parts)` for every part, on up to `torch.get_num_threads()` threads.

    Args:
        kernel: a compiled function that does the part-th of `parts` disjoint slices of the job.
        args: its other arguments.
        work: size of the whole job in values.
    """
    parts = max(1, min(torch.get_num_threads(), work // SMALL))
    if parts == 1:
        kernel(*args, 0, 1)
        return
    pool = _pools.get(parts)
    if pool is None:
        pool = _pools.setdefault(parts, ThreadPoolExecutor(parts - 1, thread_name_prefix="fastwarp"))
    others = [pool.submit(kernel, *args, part, parts) for part in range(1, parts)]
    try:
        kernel(*args, 0, parts)
    finally:
        for other in others:
            other.result()
