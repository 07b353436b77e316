"""Pieces of LLVM's code for the vector operations of the other families: conversions of storage types above all.

Storage types are NumPy's, except that fp16 travels as uint16 and bf16 as int16.
"""

from collections.abc import Iterable
from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _intrinsic
from numba.np.numpy_support import carray

LANES = 8

intrinsic: Any = _intrinsic  # its type still has the typing context among the arguments

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLAGS = ("contract", "nsz")


def _vector(element: ir.Type, lanes: int) -> ir.Type:
    return ir.VectorType(element, lanes) if lanes > 1 else element


def _splat(builder: Any, value: Any, lanes: int = LANES) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    mask = ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes)
    return builder.shuffle_vector(builder.insert_element(undefined, value, ir.Constant(_I32, 0)), undefined, mask)


def _constant(type_: ir.Type, value: Any) -> ir.Constant:
    return ir.Constant(type_, [value] * type_.count if isinstance(type_, ir.VectorType) else value)


def _data(context: Any, builder: Any, type_: types.Array, array: Any) -> Any:
    return context.make_array(type_)(context, builder, array).data


def _raw_load(builder: Any, pointer: Any, index: Any, lanes: int) -> Any:
    element = pointer.type.pointee
    where = builder.bitcast(builder.gep(pointer, [index]), _vector(element, lanes).as_pointer())
    return builder.load(where, align=_align(element))


def _align(element: ir.Type) -> int:
    return {ir.DoubleType(): 8, ir.FloatType(): 4}.get(element) or element.width // 8


def _load(builder: Any, storage: types.Type, pointer: Any, index: Any, real: ir.Type, lanes: int) -> Any:
    """Loads storage values and widens them to the real type that accumulates."""
    return _widen(builder, storage, _raw_load(builder, pointer, index, lanes), real, lanes)


def _widen(builder: Any, storage: types.Type, value: Any, real: ir.Type, lanes: int) -> Any:
    wide = _vector(real, lanes)
    if storage == types.uint16:
        return builder.fpext(builder.bitcast(value, _vector(ir.HalfType(), lanes)), wide)
    if storage == types.int16:
        bits = _vector(_I32, lanes)
        return builder.bitcast(builder.shl(builder.zext(value, bits), _constant(bits, 16)), wide)
    if storage == types.uint8:
        return builder.uitofp(value, wide)
    return value if value.type == wide else builder.fpext(value, wide)


def _narrow(builder: Any, storage: types.Type, value: Any, lanes: int) -> Any:
    """Rounds real values to the storage type, half to even."""
    if storage != types.float64 and value.type == ir.DoubleType():
        value = builder.fptrunc(value, ir.FloatType())
    if storage == types.uint16:
        return builder.bitcast(builder.fptrunc(value, _vector(ir.HalfType(), lanes)), _vector(_I16, lanes))
    if storage == types.int16:
        wide = _vector(_I32, lanes)
        bits = builder.bitcast(value, wide)
        odd = builder.and_(builder.lshr(bits, _constant(wide, 16)), _constant(wide, 1))
        up = builder.add(builder.add(bits, _constant(wide, 0x7FFF)), odd)
        kept = builder.select(builder.fcmp_unordered("uno", value, value), _constant(wide, 0x7FC00000), up)
        return builder.trunc(builder.lshr(kept, _constant(wide, 16)), _vector(_I16, lanes))
    if storage == types.uint8:
        low, high = _constant(value.type, 0.0), _constant(value.type, 255.0)
        value = builder.select(builder.fcmp_ordered(">", value, low), value, low)
        value = builder.select(builder.fcmp_ordered("<", value, high), value, high)
        units = _constant(value.type, 1.5 * 2**23)  # fp32 numbers of this size have no fraction: adding one rounds
        return builder.fptoui(builder.fsub(builder.fadd(value, units), units), _vector(_I8, lanes))
    return value


def _store(builder: Any, storage: types.Type, value: Any, pointer: Any, index: Any, lanes: int) -> None:
    narrow = _narrow(builder, storage, value, lanes)
    where = builder.bitcast(builder.gep(pointer, [index]), narrow.type.as_pointer())
    builder.store(narrow, where, align=_align(pointer.type.pointee))


def _blend(builder: Any, values: Iterable[Any], weights: Iterable[Any]) -> Any:
    (a, b), (wa, wb) = values, weights
    return builder.fadd(builder.fmul(a, wa, flags=_FLAGS), builder.fmul(b, wb, flags=_FLAGS), flags=_FLAGS)


@intrinsic
def _pointer(typingctx, address, like):
    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), codegen


@numba.njit(nogil=True)
def flat(address, length, like):
    """1-D array of `like`'s type over the memory at `address`: one compiled kernel then serves any number of levels."""
    return carray(_pointer(address, like), (length,))


@intrinsic
def load(typingctx, source, index, real):
    """`source[index]` widened to the type of the scalar `real`."""

    def codegen(context, builder, signature, args):
        pointer = _data(context, builder, signature.args[0], args[0])
        wide = context.get_value_type(signature.return_type)
        return _load(builder, signature.args[0].dtype, pointer, args[1], wide, 1)

    return real(source, types.int64, real), codegen


@intrinsic
def store(typingctx, value, target, index):
    """`target[index] = value`, rounded to the storage type."""

    def codegen(context, builder, signature, args):
        pointer = _data(context, builder, signature.args[1], args[1])
        _store(builder, signature.args[1].dtype, args[0], pointer, args[2], 1)
        return context.get_dummy_value()

    return types.void(value, target, types.int64), codegen


def _prefetch(builder: Any, pointer: Any, index: Any, write: bool) -> None:
    """Asks for the cache line of `pointer[index]`, which may lie anywhere: prefetches do not fault."""
    byte = ir.IntType(8).as_pointer()
    flags = [ir.Constant(_I32, value) for value in (int(write), 2, 1)]  # into L2: it is read some 100 lines later
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32]), "llvm.prefetch.p0"
    )
    builder.call(function, [builder.bitcast(builder.gep(pointer, [index]), byte), *flags])


def _for_blocks(builder: Any, count: Any, body: Any) -> None:
    """Calls body(first) for blocks of 8 that cover 0 .. count, count >= 8; the last may overlap the one before."""
    last = builder.sub(count, ir.Constant(_I64, LANES))
    blocks = builder.sdiv(builder.add(count, ir.Constant(_I64, LANES - 1)), ir.Constant(_I64, LANES))
    with cgutils.for_range(builder, blocks) as loop:
        first = builder.mul(loop.index, ir.Constant(_I64, LANES))
        body(builder.select(builder.icmp_signed("<", first, last), first, last))
