"""The one place for threads and for numba's flags.

numba's own parallel layers are not used: under OpenMP a forked DataLoader worker dies, and under workqueue two Python
threads that call at once abort the process. Kernels here release the GIL and do slices of their work on threads of the
library's own, made on first use, again in a forked child, and left alone by jobs too small to pay for them.
"""

import os
import threading
import types
from collections.abc import Callable
from typing import Any

import numba
import torch

from fastwarp.kernels.cpu import _handover
from fastwarp.kernels.cpu._cache import KernelCache

SMALL = 1 << 14
"""Values (taps read or written) a thread must have to pay for it."""


def jit(function: Callable[..., Any]) -> Any:
    """Compiles with numba on first call, without the GIL, and keeps the machine code on disk (see `_cache`)."""
    kernel = inline(function)
    kernel._cache = KernelCache(function)
    return kernel


def inline(function: Callable[..., Any]) -> Any:
    """Compiles a helper that kernels call.

    Not `fastmath=True`: NaN must come through, which "nnan" would allow to be dropped.
    """
    return numba.njit(nogil=True, fastmath={"contract", "nsz"}, error_model="numpy")(function)


def exact(function: Callable[..., Any]) -> Any:
    """Compiles a helper without fused multiply-adds: each operation rounds as IEEE 754 says, the same on every
    machine. Flags that are not set would be those of the caller."""
    return numba.njit(nogil=True, fastmath=False, error_model="numpy")(function)


def parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a kernel `(*args, part, parts)`, which does the part-th of `parts` disjoint slices of a job, as `jit`
    does, into what `run` calls: `(pool, parts, *args)`."""
    names = {"task": _handover.task, "share": _handover.share, "kernel": inline(function)}
    # A code of its own, under the kernel's name: numba keeps compiled kernels by file, name and line.
    code, own = _all_parts.__code__, function.__code__
    code = code.replace(co_filename=own.co_filename, co_firstlineno=own.co_firstlineno, co_name=own.co_name)
    whole = types.FunctionType(code, names, function.__name__)
    whole.__module__, whole.__qualname__ = function.__module__, function.__qualname__
    return jit(whole)


def _all_parts(pool, parts, *args):
    function, data = task(kernel, args)  # type: ignore[name-defined]  # noqa: F821
    return share(pool, parts, function, data)  # type: ignore[name-defined]  # noqa: F821


def run(kernel: Callable[..., Any], args: tuple[Any, ...], work: int) -> None:
    """Calls a `parallel` kernel on up to `torch.get_num_threads()` threads.

    Args:
        kernel: what `parallel` compiled.
        args: its arguments, without part and parts.
        work: size of the whole job in values.
    """
    parts = min(torch.get_num_threads(), work // SMALL, _handover.MOST)
    address, parts = _pool.with_threads(parts) if parts > 1 else (0, 1)
    if kernel(address, parts, *args):
        raise MemoryError("a kernel found no memory for its working arrays")


class _Pool:
    """Workers and the memory in which they get their jobs."""

    def __init__(self) -> None:
        self.memory = _handover.memory()
        self.address = self.memory.ctypes.data
        self.threads = 1  # with the caller's
        self.lock = threading.Lock()

    def with_threads(self, parts: int) -> tuple[int, int]:
        """Address of the memory, and how many threads there are for a job of `parts`."""
        if parts > self.threads:
            with self.lock:
                self._grow(parts)
        return self.address, min(parts, self.threads)

    def _grow(self, parts: int) -> None:
        for number in range(self.threads, parts):
            worker = threading.Thread(target=_serve, args=(self.address, number), name="fastwarp", daemon=True)
            try:
                worker.start()
            except RuntimeError:  # no more threads, or the interpreter is about to end
                return
            self.threads = number + 1


_serve = jit(_handover.serve)
_serve.compile("void(int64, int64)")  # not by the first worker while its first job waits
_pool = _Pool()


def _forked() -> None:
    """A child has none of its parent's threads."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
