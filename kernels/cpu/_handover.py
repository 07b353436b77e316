"""How a kernel's parts reach threads that wait outside Python: the compiled half of `_parallel`.

A thread pool of Python hands over through the interpreter's lock: four switches and 50-100 us for a job of 200. Here a
worker is a Python thread that entered compiled code for good. It spins for a moment, then sleeps on a lock of its own;
the caller writes a job into memory that all of them see, wakes whom it needs, and does the first part itself. That
memory has a cache line for all that one thread writes; all accesses are sequentially consistent.
"""

import ctypes
import platform
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _intrinsic

MOST = 256
"""Threads that a job can have, the caller's included."""

SPINS = 6000
"""Looks at a word, with a pause of the processor after each (40-140 cycles on x86), before a thread sleeps."""

_LINE = 64  # bytes
_BUSY = 0  # 1 while a caller has the pool
_FUNCTION, _DATA, _PARTS = (_LINE + 8 * i for i in range(3))  # the job
_ACQUIRE, _RELEASE = (2 * _LINE + 8 * i for i in range(2))  # CPython's functions for locks; they need no interpreter
_LEFT, _FAILED = (3 * _LINE + 8 * i for i in range(2))  # workers that are not done; whether one failed
_WAITERS = 4 * _LINE  # a line for each thread: the caller's, then the workers'
_TICKET, _ASLEEP, _LOCK = 0, 8, 16  # of a thread: number of its jobs, whether it sleeps (or is about to), its lock

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
    convention = context.call_conv
    called = cgutils.get_or_insert_function(
        module, convention.get_function_type(kernel.restype, kernel.argtypes), kernel.llvm_func_name
    )
    status, _ = convention.call_function(builder, called, kernel.restype, kernel.argtypes, [*values, part, parts])
    builder.ret(builder.zext(status.is_error, _I64))
    return function


# --- waiting ----------------------------------------------------------------------------------------------------------


def _inline(function: Any) -> Any:
    return numba.njit(nogil=True, error_model="numpy")(function)


@_inline
def _wait(pool, waiter, word, value):
    """Until the word at an address has another value (its changer calls `_wake` afterwards)."""
    for _ in range(SPINS):
        if _load(word) != value:
            return
        _pause()
    while _load(word) == value:
        _store(waiter + _ASLEEP, 1)
        # Whoever takes the 1 back decides: the waker, who then releases the lock, or this thread, if nobody did.
        if _load(word) == value or _exchange(waiter + _ASLEEP, 0) == 0:
            _acquire(_load(pool + _ACQUIRE), _load(waiter + _LOCK))


@_inline
def _wake(pool, waiter):
    if _exchange(waiter + _ASLEEP, 0) == 1:
        _release(_load(pool + _RELEASE), _load(waiter + _LOCK))


@_inline
def share(pool, parts, function, data):
    """Does all parts of a task, with the pool if it is free and with this thread alone otherwise; returns whether one
    failed."""
    if parts == 1 or _exchange(pool + _BUSY, 1) == 1:
        return _call(function, data, 0, 1)
    _store(pool + _FUNCTION, function)
    _store(pool + _DATA, data)
    _store(pool + _PARTS, parts)
    _store(pool + _LEFT, parts - 1)
    _store(pool + _FAILED, 0)
    for worker in range(1, parts):
        waiter = pool + _WAITERS + worker * _LINE
        _add(waiter + _TICKET, 1)
        _wake(pool, waiter)
    failed = _call(function, data, 0, parts)
    left = _load(pool + _LEFT)
    while left != 0:
        _wait(pool, pool + _WAITERS, pool + _LEFT, left)
        left = _load(pool + _LEFT)
    failed |= _load(pool + _FAILED)
    _store(pool + _BUSY, 0)
    return failed


def serve(pool, worker):
    """What a worker does for good: its part of every job that it gets a ticket for."""
    waiter = pool + _WAITERS + worker * _LINE
    jobs = 0
    while jobs >= 0:  # the compiler wants a way out
        _wait(pool, waiter, waiter + _TICKET, jobs)
        jobs += 1
        if _call(_load(pool + _FUNCTION), _load(pool + _DATA), worker, _load(pool + _PARTS)) != 0:
            _store(pool + _FAILED, 1)
        _add(pool + _LEFT, -1)
        _wake(pool, pool + _WAITERS)


# --- the memory -------------------------------------------------------------------------------------------------------


def memory() -> np.ndarray:
    """The words of a pool without workers, on a boundary of cache lines."""
    lines = np.zeros((4 + MOST + 1) * _LINE // 8, np.int64)
    words = lines[-lines.ctypes.data % _LINE // 8 :][: (4 + MOST) * _LINE // 8]
    api = ctypes.pythonapi
    allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", api))
    acquire = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(("PyThread_acquire_lock", api))
    for function, at in ((api.PyThread_acquire_lock, _ACQUIRE), (api.PyThread_release_lock, _RELEASE)):
        words[at // 8] = ctypes.cast(function, ctypes.c_void_p).value or 0
    for thread in range(MOST):
        lock = allocate()
        acquire(lock, 1)  # asleep means waiting for a release
        words[(_WAITERS + thread * _LINE + _LOCK) // 8] = lock
    return words
