"""The thread pool's protocol in every order of its steps.

What runs here are the functions that are compiled: their source is taken from `_thread_pool.py`, and each access to a
word, each lock and each part of a job becomes a `yield`, a step that a scheduler allows. Threads share nothing else,
and all accesses are sequentially consistent, so the orders of these steps are all that can happen. Threads look
once at a word before they sleep: to look more often adds no order.

A thread is a chain of suspended generators. What it does next follows from its positions and variables and from the
answer to its last step, which is learned once and looked up later. So the search goes over plain tuples: the words, the
locks, the parts, and the number of each thread's state.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import pytest

from fastwarp.kernels.cpu import _thread_pool as real

STEPS = {"_load", "_store", "_add", "_exchange", "_replace", "_acquire", "_release", "_call"}
IDLE = {"_pause", "_offer"}
PROTOCOL = ("_wait", "_wake", "_call_workers", "_finish", "_work", "share", "_serve", "_send_away")
POOL = 1 << 20  # its address
FUNCTION, DATA = 1000, 2000  # of job 0
END = ("_end",)


class _Steps(ast.NodeTransformer):
    """Calls of primitives become yields, calls of the protocol's functions parts of the caller's generator. Each
    answer gets a variable, so that a generator's variables and position are all of its state."""

    def __init__(self) -> None:
        self.names = (f"answer{i}" for i in itertools.count())

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in STEPS:
            step = ast.Yield(ast.Tuple([ast.Constant(name), *node.args], ast.Load()))
            return ast.NamedExpr(ast.Name(next(self.names), ast.Store()), step)
        if name in PROTOCOL:
            return ast.YieldFrom(node)
        assert name in {"range", *IDLE}, f"the model does not know {ast.unparse(node)}"
        return ast.Constant(None) if name in IDLE else node


def protocol(change: Callable[[str], str] = lambda source: source) -> dict[str, Any]:
    """The functions as generators of steps, beside the constants that they use."""
    names = {name: value for name, value in vars(real).items() if isinstance(value, int)}
    names["PATIENCE"] = 1
    for name in PROTOCOL:
        tree = ast.parse(change(textwrap.dedent(inspect.getsource(getattr(real, name).py_func))))
        tree.body[0].decorator_list = []  # type: ignore[attr-defined]
        exec(compile(ast.fix_missing_locations(_Steps().visit(tree)), real.__file__, "exec"), names)
    return names


class BrokenError(AssertionError):
    """What goes wrong in some order of the steps."""


class Thread:
    """The states of one thread, numbered as they are met, and its next step in each. State 0 is its start."""

    def __init__(self, start: Callable[[], Generator]) -> None:
        self.start = start
        self.numbers: dict[Any, int] = {}
        self.steps: list[tuple] = []
        self.frames: list[tuple] = []
        self._histories: list[tuple] = []
        self._next: dict[tuple[int, Any], int] = {}
        self._meet((None,))

    def next(self, state: int, answer: Any) -> int:
        if (state, answer) not in self._next:
            self._next[state, answer] = self._meet((*self._histories[state], answer))
        return self._next[state, answer]

    def _meet(self, history: tuple) -> int:
        """The number of the state after these answers."""
        generator, step = self.start(), END
        try:
            for answer in history:
                step = generator.send(answer)
            frames = tuple(_frames(generator))
        except StopIteration:
            step, frames = END, ()
        if frames not in self.numbers:
            self.numbers[frames] = len(self.steps)
            self.steps.append(step)
            self.frames.append(frames)
            self._histories.append(history)
        return self.numbers[frames]


def _frames(generator: Any) -> Iterator[tuple]:
    """Function, position and variables of each generator of a chain, the innermost last."""
    while generator is not None:
        frame = generator.gi_frame
        yield generator.__name__, frame.f_lasti, tuple(frame.f_locals.items())
        generator = generator.gi_yieldfrom


class Model:
    """One pool with its workers, and callers that do jobs of so many parts each; 0 parts: send the workers away.

    With `coarse`, the words FUNCTION, DATA and PARTS are read and written together with the step before: fewer orders.
    With `fails`, every part fails.
    """

    def __init__(
        self,
        callers: Sequence[Sequence[int]],
        workers: int,
        names: dict[str, Any],
        coarse: bool = False,
        fails: bool = False,
    ) -> None:
        self.names, self.fails, self.workers = names, fails, workers
        self.parts = [parts for jobs in callers for parts in jobs]
        first = [0, *itertools.accumulate(len(jobs) for jobs in callers)]
        lines = [self._line(i) for i in range(workers + 1)]
        self.threads = [Thread(lambda line=line: names["_serve"](line)) for line in lines[1:]]
        for job, jobs in zip(first, callers, strict=False):
            self.threads.append(Thread(lambda job=job, jobs=tuple(jobs): self._caller(job, jobs)))
        n = names
        offsets = ["_BUSY", "_FUNCTION", "_DATA", "_PARTS", "_LEAVING", "_CLAIM", "_UNDONE", "_FAILED", "_FINISHED"]
        words = [POOL + n[name] for name in offsets]
        for number in range(max(workers, *self.parts, 1) + 1):  # a job may call workers that are not there
            words += [self._line(number) + n["_CALLS"], self._line(number) + n["_ASLEEP"]]
        self.index = {word: i for i, word in enumerate(words)}
        self.together = {POOL + n[name] for name in ("_FUNCTION", "_DATA", "_PARTS") if coarse}
        self.fixed = {POOL + n[name]: 0 for name in ("_ACQUIRE", "_RELEASE", "_YIELD")} | {POOL + n["_SPINS"]: 1}
        for number, line in enumerate(lines):
            self.fixed |= {line + n["_LOCK"]: number, line + n["_POOL"]: POOL}

    def _line(self, number: int) -> int:
        return POOL + self.names["_WAITERS"] + number * self.names["_LINE"]

    def _caller(self, first: int, jobs: Sequence[int]) -> Generator:
        for job, parts in enumerate(jobs, first):
            if parts:
                failed = yield from self.names["share"](POOL, parts, FUNCTION + job, DATA + job)
                yield ("returned", job, failed)
            elif (yield from self.names["_send_away"](POOL, self.workers)):
                yield ("alone",)

    def search(self) -> int:
        """Goes through all orders; returns the number of states.

        Raises:
            BrokenError: what went wrong.
        """
        # words, releases of each lock, how far each part of each job is (1: begun, 2: done, 3: returned), threads
        start = (
            (0,) * len(self.index),
            (0,) * (self.workers + 1),
            tuple((0,) * parts for parts in self.parts),
            (0,) * len(self.threads),
            (False,) * len(self.threads),
        )
        seen, stack = {start}, [start]
        while stack:
            state = stack.pop()
            moved = False
            for number in range(len(self.threads)):
                new = self._step(state, number)
                if new is not None:
                    moved = True
                    if new not in seen:
                        seen.add(new)
                        stack.append(new)
            if not moved:
                self._check_end(state)
        return len(seen)

    def _step(self, state: tuple, number: int) -> tuple | None:
        """The state after a step of a thread; None if it sleeps or is at its end."""
        words, locks, jobs, places, inside = state
        thread = self.threads[number]
        name, *args = thread.steps[places[number]]
        answer: Any = None
        if name == "_end" or (name == "_acquire" and not locks[args[1]]):
            return None
        if name in ("_load", "_store", "_add", "_exchange", "_replace"):
            words, answer = self._access(words, name, *args)
        elif name in ("_acquire", "_release"):
            if name == "_release" and locks[args[1]]:
                raise BrokenError("a lock is released twice")
            locks = _changed(locks, args[1], int(name == "_release"))
        elif name == "_call":
            jobs = self._call(jobs, inside[number], *args)
            inside = _changed(inside, number, not inside[number])
            if inside[number]:
                return words, locks, jobs, places, inside
            answer = int(self.fails)
        elif name == "returned":
            job, failed = args
            if any(part != 2 for part in jobs[job]):
                raise BrokenError("a job has returned before all of its parts are done")
            if failed != self.fails:
                raise BrokenError("a part's failure is not told")
            jobs = _changed(jobs, job, (3,) * len(jobs[job]))
        elif name == "alone":
            self._check_left(places)
        place = thread.next(places[number], answer)
        while (step := thread.steps[place])[0] in ("_load", "_store") and step[1] in self.fixed.keys() | self.together:
            words, answer = self._access(words, *step)
            place = thread.next(place, answer)
        return words, locks, jobs, _changed(places, number, place), inside

    def _access(self, words: tuple, name: str, address: int, *values: int) -> tuple[tuple, int]:
        if address in self.fixed:
            return words, self.fixed[address]
        at = self.index[address]
        old = words[at]
        if name == "_replace":
            expected, value = values
            return (_changed(words, at, value), True) if old == expected else (words, False)
        new = {"_load": old, "_add": old + values[0] if values else 0}.get(name, values[0] if values else 0)
        return _changed(words, at, new), old

    def _call(self, jobs: tuple, inside: bool, function: int, data: int, part: int, parts: int) -> tuple:
        """Begins, or ends, a part; part 0 of 1 is a whole job."""
        job = data - DATA
        if function - FUNCTION != job or parts not in (1, len(jobs[job])):
            raise BrokenError("a part is called with the words of several jobs")
        which = range(len(jobs[job])) if parts == 1 else [part]
        if any(jobs[job][i] != inside for i in which):
            raise BrokenError("a part is done twice, or after its job has returned")
        done = tuple(inside + 1 if i in which else old for i, old in enumerate(jobs[job]))
        return _changed(jobs, job, done)

    def _check_left(self, places: tuple) -> None:
        """Workers that were sent away are at their ends, or have no more to do than to wake the caller."""
        for thread, place in zip(self.threads[: self.workers], places, strict=False):
            if thread.steps[place] != END and thread.frames[place][1][0] != "_finish":
                raise BrokenError("a worker is still there")

    def _check_end(self, state: tuple) -> None:
        """Nothing moves any longer: callers are at their ends, workers too or asleep, and have missed no call."""
        words, _, _, places, _ = state
        for number, (thread, place) in enumerate(zip(self.threads, places, strict=True)):
            if thread.steps[place] == END:
                continue
            if number >= self.workers:
                raise BrokenError("a caller waits for ever")
            function, _, variables = thread.frames[place][-1]
            assert function == "_wait"
            if words[self.index[dict(variables)["word"]]] != dict(variables)["value"]:
                raise BrokenError("a worker sleeps through a call")


def _changed(old: tuple, at: int, value: Any) -> tuple:
    return (*old[:at], value, *old[at + 1 :])


@pytest.mark.parametrize(
    ("callers", "workers", "coarse", "states"),
    [
        ([[2, 2, 2]], 1, False, 80_000),
        ([[3]], 2, True, 80_000),
        ([[2], [2]], 1, False, 80_000),
        ([[3, 2]], 1, False, 40_000),  # calls a worker that does not exist
        ([[2, 0]], 1, False, 1),
        ([[2], [0]], 1, False, 1),
        ([[0]], 2, False, 1),
    ],
)
def test_no_order_of_steps_breaks_the_protocol(callers, workers, coarse, states):
    assert Model(callers, workers, protocol(), coarse).search() >= states


def test_a_failure_is_told_in_every_order():
    Model([[2, 2]], 1, protocol(), fails=True).search()


FAULTS = {
    "no second look before sleeping": (
        "if _load(word) == value or _exchange(waiter + _ASLEEP, 0) == 0:",
        "if True:",
        "waits for ever|sleeps through",
    ),
    "no wake-up": (
        "_release(_load(pool + _RELEASE), _load(waiter + _LOCK))",
        "pass",
        "waits for ever|sleeps through",
    ),
    "nobody tells the caller": ("        _wake(pool, pool + _WAITERS)", "        pass", "waits for ever"),
    "parts taken without comparing": (
        "if _replace(pool + _CLAIM, claim, claim - 1):",
        "_store(pool + _CLAIM, claim - 1)\n        if True:",
        "twice",
    ),
    "the job is open before it is written": (
        "    _store(pool + _FUNCTION, function)\n    _store(pool + _DATA, data)\n    _store(pool + _PARTS, parts)\n",
        "    _store(pool + _UNDONE, parts)\n"
        "    _store(pool + _CLAIM, ((_load(pool + _CLAIM) >> _BITS) + 1) << _BITS | parts)\n"
        "    _store(pool + _FUNCTION, function)\n    _store(pool + _DATA, data)\n    _store(pool + _PARTS, parts)\n",
        ".",
    ),
    "the caller does not wait": ("_wait(pool, pool + _WAITERS, pool + _FINISHED, job - 1)", "pass", "before all"),
    "a claim does not tell the job": ("job << _BITS | parts", "parts", "."),
    "two callers have the pool": ("_exchange(pool + _BUSY, 1) == 1:\n        return", "False:\n        return", "."),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_model_finds(fault):
    old, new, message = FAULTS[fault]
    sources = "".join(inspect.getsource(getattr(real, name).py_func) for name in PROTOCOL)
    assert old in sources
    names = protocol(lambda source: source.replace(old, new))
    with pytest.raises(BrokenError, match=message):
        _ = [Model(callers, 1, names).search() for callers in ([[2, 2]], [[2], [2]])]
