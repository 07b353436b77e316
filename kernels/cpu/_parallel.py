"""The one place for numba's flags, and for how many threads a kernel runs on.

numba's own parallel layers are not used: under OpenMP a forked DataLoader worker dies, and under workqueue two Python
threads that call at once abort the process. Kernels here release the GIL and do slices of their work on threads of the
library's own (`_thread_pool`), made on first use, and left alone by jobs too small to pay for them.
"""

import types
from collections.abc import Callable
from typing import Any

import torch

from fastwarp.kernels.cpu import _thread_pool
from fastwarp.kernels.cpu._cache import keep
from fastwarp.kernels.cpu._helper import Helper, Kernel

SMALL = 1 << 14
"""Values (taps read or written) a thread must have to pay for it."""


# Not `fastmath=True`: NaN must come through, which "nnan" would allow to be dropped.
_FLAGS: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "nsz"}, "error_model": "numpy"}


def jit(function: Callable[..., Any]) -> Any:
    """Compiles with numba on first call, without the GIL, and keeps the machine code on disk (see `_cache`)."""
    return keep(Kernel(function, **_FLAGS))


def inline(function: Callable[..., Any]) -> Any:
    """Compiles a helper into the kernels that call it; Python cannot call it (see `_helper`)."""
    return Helper(function, **_FLAGS)


def exact(function: Callable[..., Any]) -> Any:
    """Compiles a helper without fused multiply-adds: each operation rounds as IEEE 754 says, the same on every
    machine. Flags that are not set would be those of the caller."""
    return Helper(function, **_FLAGS | {"fastmath": False})


def parallel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiles a kernel `(*args, part, parts)`, which does the part-th of `parts` disjoint slices of a job, as `jit`
    does, into what `run` calls: `(pool, parts, *args)`."""
    names = {"task": _thread_pool.task, "share": _thread_pool.share, "kernel": inline(function)}
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
    address, parts = 0, 1
    if work >= 2 * SMALL and (threads := torch.get_num_threads()) > 1:
        address, parts = _thread_pool.pool.with_threads(min(threads, work // SMALL, _thread_pool.MOST))
    if kernel(address, parts, *args):
        raise MemoryError("a kernel found no memory for its working arrays")
