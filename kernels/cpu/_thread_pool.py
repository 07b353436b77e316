"""The threads on which kernels run: how the parts of a job reach them, and how the caller learns that all are done.

A pool in Python hands over through the interpreter's lock: four switches, 50-100 us for a job of 200. Here the workers
are threads of the operating system that run compiled code alone. Python does not know them, so neither the
interpreter's lock nor a library that replaces `threading` (gevent, eventlet) is in their way.

A job is a function and its data, to be called once for each of `parts` parts. The caller writes it into memory that all
threads see, calls as many workers as there are other parts, and then takes parts itself. Parts are *claimed*: whoever
comes first does the next one. So the caller waits only for parts that a worker has begun, never for a worker that has
no processor, is late, or does not exist. A part gives the same result on whatever thread.

The words of the shared memory, 64 bits each (all accesses are sequentially consistent):

| word | written by | what it says |
|---|---|---|
| BUSY | callers | 1 while a caller has the pool; others do their jobs alone |
| FUNCTION, DATA, PARTS | the caller | the job; written before CLAIM, unchanged until all parts are claimed |
| CLAIM | the caller, then whoever claims | number of the job and, in the low bits, how many parts nobody has claimed |
| UNDONE | the caller, then whoever did a part | parts that are not done yet |
| FAILED | whoever did a part | 1 if one failed |
| FINISHED | whoever did the last part | number of the last job that is done |
| LEAVING | the caller | 1 while the workers are sent away |
| CALLS, of a worker | the caller | how often it was called |
| ASLEEP, of a thread | itself, then whoever wakes it | 1 if it sleeps or is about to; who clears it releases its lock |

The states of a job, and what leads to the next:

| state | BUSY | CLAIM | UNDONE | FINISHED | until |
|---|---|---|---|---|---|
| no job | 0 | job k, 0 left | 0 | k | a caller sets BUSY |
| written | 1 | job k, 0 left | parts | k | it sets CLAIM |
| open | 1 | job k+1, n left | n or more | k | a thread claims the last part |
| claimed | 1 | job k+1, 0 left | 1 or more | k | a thread finishes the last part |
| done | 1 | job k+1, 0 left | 0 | k, then k+1 | the caller sees FINISHED and clears BUSY |

A claim is one compare-and-exchange of CLAIM. It succeeds only if the job is still the one that was read and has a part
left, so a worker that comes late, even in the middle of the next job, never does a part of a job that is over. A thread
that waits looks at its word for a moment, offering its processor to others, and then sleeps on a lock.
`tests/test_thread_pool_model.py` runs these very functions through every order of their steps.
"""

import ctypes
import os
import platform
import threading
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _intrinsic

from fastwarp.kernels.cpu._cache import keep
from fastwarp.kernels.cpu._helper import Helper, Kernel

MOST = 256
"""Threads that a job can have, the caller's included."""

SPINS = 6000
"""Looks at a word before a thread sleeps, with a pause of the processor after each (40-140 cycles on x86), where there
is more than one processor."""

OFFER = 50
"""Looks after which a thread that waits offers its processor to others: one of them may be what it waits for."""

PATIENCE = 100_000
"""Offers after which a fork does not wait any longer for the job at hand."""

_BITS = 16  # of CLAIM, for the parts that are left
_LEFT = (1 << _BITS) - 1

_LINE = 64  # bytes of a cache line: one for the words that are written together
_BUSY = 0
_FUNCTION, _DATA, _PARTS, _LEAVING = (_LINE + 8 * i for i in range(4))
_ACQUIRE, _RELEASE, _YIELD, _SPINS = (2 * _LINE + 8 * i for i in range(4))  # never change: three functions, a number
_CLAIM = 3 * _LINE
_UNDONE, _FAILED, _FINISHED = (4 * _LINE + 8 * i for i in range(3))
_WAITERS = 5 * _LINE  # a line for each thread: the caller's, then the workers'
_CALLS, _ASLEEP, _LOCK, _POOL = (8 * i for i in range(4))  # in it; the last is the address of the pool

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_int64 = types.int64
intrinsic: Any = _intrinsic


# --- words that several threads write ---------------------------------------------------------------------------------


def _word(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, _I64.as_pointer())


@intrinsic
def _load(typingctx, address):
    def codegen(context, builder, signature, args):
        return builder.load_atomic(_word(builder, args[0]), "seq_cst", 8)

    return _int64(_int64), codegen


@intrinsic
def _store(typingctx, address, value):
    def codegen(context, builder, signature, args):
        builder.store_atomic(args[1], _word(builder, args[0]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(_int64, _int64), codegen


@intrinsic
def _add(typingctx, address, value):
    """Returns what was there before."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", _word(builder, args[0]), args[1], "seq_cst")

    return _int64(_int64, _int64), codegen


@intrinsic
def _replace(typingctx, address, expected, value):
    """Writes a value if the expected one is there; returns whether it was."""

    def codegen(context, builder, signature, args):
        result = builder.cmpxchg(_word(builder, args[0]), args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(_int64, _int64, _int64), codegen


@intrinsic
def _exchange(typingctx, address, value):
    """Returns what was there before."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("xchg", _word(builder, args[0]), args[1], "seq_cst")

    return _int64(_int64, _int64), codegen


@intrinsic
def _pause(typingctx):
    """Tells the processor that this is a loop that waits, where LLVM knows how."""

    def codegen(context, builder, signature, args):
        name, *arguments = _PAUSES.get(platform.machine().lower(), (None,))
        if name:
            type_ = ir.FunctionType(ir.VoidType(), [a.type for a in arguments])
            builder.call(cgutils.get_or_insert_function(builder.module, type_, name), arguments)
        return context.get_dummy_value()

    return types.void(), codegen


_X86 = ("llvm.x86.sse2.pause",)
_ARM = ("llvm.aarch64.hint", ir.Constant(_I32, 1))
_PAUSES: dict[str, tuple[Any, ...]] = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}


# --- calls of addresses -----------------------------------------------------------------------------------------------


@intrinsic
def _call(typingctx, function, data, part, parts):
    """Does a part; returns whether it failed."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.FunctionType(_I64, [_I64] * 3).as_pointer())
        return builder.call(pointer, args[1:])

    return _int64(*[_int64] * 4), codegen


@intrinsic
def _acquire(typingctx, function, lock):
    def codegen(context, builder, signature, args):
        type_ = ir.FunctionType(_I32, [_I64, _I32])
        builder.call(builder.inttoptr(args[0], type_.as_pointer()), [args[1], ir.Constant(_I32, 1)])
        return context.get_dummy_value()

    return types.void(_int64, _int64), codegen


@intrinsic
def _release(typingctx, function, lock):
    def codegen(context, builder, signature, args):
        type_ = ir.FunctionType(ir.VoidType(), [_I64])
        builder.call(builder.inttoptr(args[0], type_.as_pointer()), [args[1]])
        return context.get_dummy_value()

    return types.void(_int64, _int64), codegen


@intrinsic
def _offer(typingctx, function):
    """Lets another thread run that waits for this processor."""

    def codegen(context, builder, signature, args):
        builder.call(builder.inttoptr(args[0], ir.FunctionType(_I32, []).as_pointer()), [])
        return context.get_dummy_value()

    return types.void(_int64), codegen


@intrinsic
def _entry(typingctx, kernel):
    """Address of a C function (number) that calls `kernel(number)`."""
    called = kernel.get_call_type(typingctx, (_int64,), {})

    def codegen(context, builder, signature, args):
        compiled = kernel.dispatcher.overloads[called.args]
        context.active_code_library.add_linking_library(compiled.library)
        type_ = ir.FunctionType(ir.VoidType(), [_I64])
        function = ir.Function(builder.module, type_, f"{builder.function.name}.thread")
        function.linkage = "internal"
        inner = ir.IRBuilder(function.append_basic_block())
        _call_kernel(context, inner, compiled.fndesc, function.args)
        inner.ret_void()
        return builder.ptrtoint(function, _I64)

    return _int64(kernel), codegen


@intrinsic
def task(typingctx, kernel, args):
    """`kernel(*args, part, parts)` as two addresses, of a function (data, part, parts) -> failed and of its data, which
    lie in the caller's frame."""
    called = kernel.get_call_type(typingctx, (*args.types, _int64, _int64), {})

    def codegen(context, builder, signature, values):
        compiled = kernel.dispatcher.overloads[called.args]
        context.active_code_library.add_linking_library(compiled.library)
        values = cgutils.unpack_tuple(builder, values[1], len(args))
        values = [_borrowed(context, builder, type_, value) for type_, value in zip(args.types, values, strict=True)]
        data = cgutils.alloca_once(builder, ir.LiteralStructType([value.type for value in values]))
        for i, value in enumerate(values):
            builder.store(value, cgutils.gep_inbounds(builder, data, 0, i))
        function = _part_function(context, builder.module, builder.function.name, compiled.fndesc, data.type)
        addresses = [builder.ptrtoint(pointer, _I64) for pointer in (function, data)]
        return context.make_tuple(builder, signature.return_type, addresses)

    return types.UniTuple(_int64, 2)(kernel, args), codegen


def _borrowed(context: Any, builder: Any, type_: Any, value: Any) -> Any:
    """An argument whose arrays are not counted: the caller keeps them, and threads that count the same one wait for
    each other."""
    if isinstance(type_, types.BaseTuple):
        kinds = getattr(type_, "types")  # noqa: B009  (numba does not declare it)
        parts = cgutils.unpack_tuple(builder, value, len(kinds))
        parts = [_borrowed(context, builder, kind, part) for kind, part in zip(kinds, parts, strict=True)]
        return context.make_tuple(builder, type_, parts)
    if not isinstance(type_, types.Array):
        return value
    array = context.make_array(type_)(context, builder, value)
    for owner in ("meminfo", "parent"):
        setattr(array, owner, cgutils.get_null_value(getattr(array, owner).type))
    return array._getvalue()


def _part_function(context: Any, module: Any, name: str, kernel: Any, data_type: Any) -> Any:
    """The function (data, part, parts) -> failed that calls `kernel`."""
    function = ir.Function(module, ir.FunctionType(_I64, [_I64] * 3), f"{name}.part")
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    data, part, parts = function.args
    data = builder.inttoptr(data, data_type)
    values = [builder.load(cgutils.gep_inbounds(builder, data, 0, i)) for i in range(len(data_type.pointee.elements))]
    status = _call_kernel(context, builder, kernel, [*values, part, parts])
    builder.ret(builder.zext(status.is_error, _I64))
    return function


def _call_kernel(context: Any, builder: Any, kernel: Any, values: Any) -> Any:
    """Calls a compiled kernel that returns nothing; returns numba's status."""
    convention, types_ = context.call_conv, (kernel.restype, kernel.argtypes)
    called = cgutils.get_or_insert_function(
        builder.module, convention.get_function_type(*types_), kernel.llvm_func_name
    )
    return convention.call_function(builder, called, *types_, values)[0]


# --- the protocol -----------------------------------------------------------------------------------------------------


_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}


def _inline(function: Any) -> Any:
    return Helper(function, **_OPTIONS)


def _kept(function: Any) -> Any:
    return keep(Kernel(function, **_OPTIONS))


@_inline
def _wait(pool, waiter, word, value):
    """Returns when the word at an address has another value. Who changes it calls `_wake` afterwards."""
    for look in range(1, _load(pool + _SPINS) + 1):
        if _load(word) != value:
            return
        if look % OFFER == 0:
            _offer(_load(pool + _YIELD))
        else:
            _pause()
    while _load(word) == value:
        _store(waiter + _ASLEEP, 1)
        # If the word changes now, both sides see it: who sets ASLEEP back to 0 is the one who acts. The waker then
        # releases the lock; this thread, if it is first, need not sleep.
        if _load(word) == value or _exchange(waiter + _ASLEEP, 0) == 0:
            _acquire(_load(pool + _ACQUIRE), _load(waiter + _LOCK))


@_inline
def _wake(pool, waiter):
    if _exchange(waiter + _ASLEEP, 0) == 1:
        _release(_load(pool + _RELEASE), _load(waiter + _LOCK))


@_inline
def _call_workers(pool, workers):
    for worker in range(1, workers + 1):
        waiter = pool + _WAITERS + worker * _LINE
        _add(waiter + _CALLS, 1)
        _wake(pool, waiter)


@_inline
def _finish(pool, job):
    """Counts a part of a job as done."""
    if _add(pool + _UNDONE, -1) == 1:
        _store(pool + _FINISHED, job)
        _wake(pool, pool + _WAITERS)


@_inline
def _work(pool):
    """Claims parts and does them, until no part is left."""
    claim = _load(pool + _CLAIM)
    while claim & _LEFT != 0:
        function, data, parts = _load(pool + _FUNCTION), _load(pool + _DATA), _load(pool + _PARTS)
        if _replace(pool + _CLAIM, claim, claim - 1):  # then what was read above belongs to this job
            if _call(function, data, parts - (claim & _LEFT), parts) != 0:
                _store(pool + _FAILED, 1)
            _finish(pool, claim >> _BITS)
        claim = _load(pool + _CLAIM)


@_inline
def share(pool, parts, function, data):
    """Does all parts of a task, with the pool if it is free and with this thread alone otherwise; returns whether one
    failed."""
    if parts == 1 or _exchange(pool + _BUSY, 1) == 1:
        return _call(function, data, 0, 1)
    _store(pool + _FUNCTION, function)
    _store(pool + _DATA, data)
    _store(pool + _PARTS, parts)
    _store(pool + _UNDONE, parts)
    _store(pool + _FAILED, 0)
    job = (_load(pool + _CLAIM) >> _BITS) + 1
    _store(pool + _CLAIM, job << _BITS | parts)
    _call_workers(pool, parts - 1)
    _work(pool)
    _wait(pool, pool + _WAITERS, pool + _FINISHED, job - 1)
    failed = _load(pool + _FAILED)
    _store(pool + _BUSY, 0)
    return failed


@_inline
def _serve(waiter):
    """What a worker does until it is sent away."""
    pool, calls = _load(waiter + _POOL), 0
    while _load(pool + _LEAVING) == 0:
        _work(pool)
        _wait(pool, waiter, waiter + _CALLS, calls)
        calls = _load(waiter + _CALLS)
    _finish(pool, _load(pool + _CLAIM) >> _BITS)


@_kept
def _send_away(pool, workers):
    """Ends all workers: a job without a function, of which each worker does its part by leaving. Does nothing if the
    pool stays busy."""
    offers = 0
    while _exchange(pool + _BUSY, 1) == 1:
        if offers == PATIENCE:
            return False
        offers += 1
        _offer(_load(pool + _YIELD))
    _store(pool + _UNDONE, workers)
    job = (_load(pool + _CLAIM) >> _BITS) + 1
    _store(pool + _CLAIM, job << _BITS)
    _store(pool + _LEAVING, 1)
    _call_workers(pool, workers)
    _wait(pool, pool + _WAITERS, pool + _FINISHED, job - 1)
    _store(pool + _LEAVING, 0)
    _store(pool + _BUSY, 0)
    return True


@_kept
def _worker():
    """Address of the C function that a worker runs, with the address of its line of words."""
    return _entry(_serve)


# --- the memory and the threads ---------------------------------------------------------------------------------------


def _memory(spins: int) -> np.ndarray:
    """The words of a pool without workers, from the start of a cache line on. They are never freed: when the
    interpreter ends, threads may still be at work."""
    lines = np.zeros((6 + MOST) * _LINE // 8, np.int64)
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(lines))
    words = lines[-lines.ctypes.data % _LINE // 8 :][: (5 + MOST) * _LINE // 8]
    api = ctypes.pythonapi
    offer = ctypes.CDLL(None).sched_yield if os.name == "posix" else ctypes.CDLL("kernel32").SwitchToThread
    # None of these needs the interpreter.
    addresses = {_ACQUIRE: api.PyThread_acquire_lock, _RELEASE: api.PyThread_release_lock, _YIELD: offer}
    for at, function in addresses.items():
        words[at // 8] = ctypes.cast(function, ctypes.c_void_p).value or 0
    words[_SPINS // 8] = spins
    allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", api))
    acquire = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(("PyThread_acquire_lock", api))
    for thread in range(MOST):
        lock = allocate()
        acquire(lock, 1)  # asleep means waiting for a release
        waiter = (_WAITERS + thread * _LINE) // 8
        words[waiter + _LOCK // 8], words[waiter + _POOL // 8] = lock, words.ctypes.data
    return words


class ThreadPool:
    """Workers and the memory in which they get their jobs. It grows with the jobs; a fork ends its workers."""

    def __init__(self, spins: int | None = None) -> None:
        if spins is None:
            processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            spins = SPINS if processors > 1 else 0
        self.address = _memory(spins).ctypes.data
        self.threads = 1
        """With the caller's."""
        self._process = os.getpid()
        self._changing = threading.Lock()
        """Never waited for: where threads are not what they seem, a wait might not end."""

    def with_threads(self, parts: int) -> tuple[int, int]:
        """Address of the memory, and how many threads there are for a job of `parts`."""
        if parts > self.threads and self._changing.acquire(blocking=False):
            try:
                self._grow(parts)
            finally:
                self._changing.release()
        return self.address, min(parts, self.threads)

    def _grow(self, parts: int) -> None:
        _send_away.compile((_int64, _int64))  # not while a process forks
        work = _worker()
        for number in range(self.threads, parts):
            if _start_thread(work, self.address + _WAITERS + number * _LINE) == _NO_THREAD:
                return
            self.threads = number + 1

    def send_workers_away(self) -> None:
        """Before a fork, which takes no threads along: Python 3.12 and later warn of those that are there."""
        if self.threads > 1 and self._process == os.getpid() and self._changing.acquire(blocking=False):
            try:
                if _send_away(self.address, self.threads - 1):
                    self.threads = 1
            finally:
                self._changing.release()


_start_thread = ctypes.PYFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p)(
    ("PyThread_start_new_thread", ctypes.pythonapi)
)
_NO_THREAD = ctypes.c_ulong(-1).value

pool = ThreadPool()


def _before_fork() -> None:
    pool.send_workers_away()


def _in_child() -> None:
    """A thread that was not forked may have had the parent's pool, so a child has its own."""
    global pool
    pool = ThreadPool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_in_child)
