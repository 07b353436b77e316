"""What numba compiles: the first call of an installation waits for it, so it is said.

numba sends an event where it compiles a kernel, and none where it calls one or loads it from the disk: to listen costs
calls nothing.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

LONG = 1.0
"""Seconds of compiling in a process after which the log says so."""

logger = logging.getLogger("fastwarp")

Observer = Callable[[str, float | None], object]
"""Gets the name of a kernel and None before it is compiled, and its name and the seconds it took afterwards."""

_observers: list[Observer] = []


@contextlib.contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Tells `observer` of every kernel that is compiled in the block, by any thread. What it raises before a kernel is
    compiled ends the call that needs the kernel, and nothing is compiled."""
    _observers.insert(0, observer)  # before the log, which need not know of what is refused
    try:
        yield
    finally:
        _observers.remove(observer)


def tell(kernel: str, seconds: float | None) -> None:
    """Tells all observers of a kernel."""
    for observer in list(_observers):
        observer(kernel, seconds)


class Tally:
    """An observer that counts: kernels compiled, and seconds that took."""

    def __init__(self) -> None:
        self.kernels, self.seconds = 0, 0.0

    def __call__(self, kernel: str, seconds: float | None) -> None:
        """Counts a kernel that is done."""
        if seconds is not None:
            self.kernels, self.seconds = self.kernels + 1, self.seconds + seconds


class _Log:
    """Says once in a process that it is waiting for the compiler."""

    def __init__(self) -> None:
        self.spent, self.said = 0.0, False
        self.timer: threading.Timer | None = None

    def __call__(self, kernel: str, seconds: float | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if seconds is not None:
            self.spent += seconds
        elif not self.said:
            # Said while the user waits, not when the wait is over.
            self.timer = threading.Timer(max(LONG - self.spent, 0), self.say)
            self.timer.daemon = True
            self.timer.start()

    def say(self) -> None:
        self.said = True
        logger.info(
            "compiling kernels for this CPU, which takes some seconds for each new kind of call; they are kept on "
            "disk. `fastwarp warmup` or fastwarp.warmup() compiles them beforehand"
        )


@functools.cache
def watch() -> None:
    """Begins to listen to numba, which is loaded by this."""
    from numba.core import event

    class Listener(event.Listener):
        """Of kernels of fastwarp; not of the helpers that are compiled with a kernel."""

        def __init__(self) -> None:
            self.started: list[float | None] = []  # numba compiles in one thread at a time

        def on_start(self, it: Any) -> None:
            self.started.append(None)
            self.hear(it, None)
            self.started[-1] = time.perf_counter()

        def on_end(self, it: Any) -> None:
            if self.started[-1] is not None:  # not refused
                self.hear(it, time.perf_counter() - self.started[-1])
            self.started.pop()

        def hear(self, it: Any, seconds: float | None) -> None:
            function = it.data["dispatcher"].py_func
            if len(self.started) == 1 and function.__module__.startswith("fastwarp.kernels."):
                tell(function.__name__, seconds)

    _observers.append(_Log())
    event.register("numba:compile", Listener())
