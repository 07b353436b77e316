"""Vector operations that numba's loop vectoriser does not find: conversions of storage types and 8x8 transposes.

Eight image rows are resampled at a time, interleaved as `[column][8]`: then the horizontal step, a gather in memory,
becomes whole vector loads. The transposes to and from that layout are shuffles in registers, written in LLVM's
portable IR. Storage types are NumPy's, except that fp16 travels as uint16 and bf16 as int16.
"""

from typing import Any

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

LANES = 8

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_FLAGS = ("contract", "nsz")


def _vector(element: ir.Type, lanes: int) -> ir.Type:
    return ir.VectorType(element, lanes) if lanes > 1 else element


def _splat(builder: Any, value: Any) -> Any:
    vector = ir.VectorType(value.type, LANES)
    undefined = ir.Constant(vector, ir.Undefined)
    mask = ir.Constant(ir.VectorType(_I32, LANES), [0] * LANES)
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
    value = _raw_load(builder, pointer, index, lanes)
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


def _blend(builder: Any, a: Any, b: Any, wa: Any, wb: Any) -> Any:
    return builder.fadd(builder.fmul(a, wa, flags=_FLAGS), builder.fmul(b, wb, flags=_FLAGS), flags=_FLAGS)


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """8x8 transpose in three rounds of two-input shuffles."""
    step = LANES // 2
    while step:
        low = [i if not i & step else LANES + i - step for i in range(LANES)]
        high = [i + step if not i & step else LANES + i for i in range(LANES)]
        masks = [ir.Constant(ir.VectorType(_I32, LANES), mask) for mask in (low, high)]
        for k in range(LANES):
            if not k & step:
                a, b = rows[k], rows[k + step]
                rows[k], rows[k + step] = (builder.shuffle_vector(a, b, mask) for mask in masks)
        step //= 2
    return rows


@intrinsic
def _pointer(typingctx, address, like):  # type: ignore[no-untyped-def]
    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), codegen


@numba.njit(nogil=True)
def flat(address, length, like):  # type: ignore[no-untyped-def]
    """1-D array of `like`'s type over the memory at `address`: one compiled kernel then serves any number of levels."""
    return numba.carray(_pointer(address, like), (length,))


@intrinsic
def load(typingctx, source, index, real):  # type: ignore[no-untyped-def]
    """`source[index]` widened to the type of the scalar `real`."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointer = _data(context, builder, signature.args[0], args[0])
        wide = context.get_value_type(signature.return_type)
        return _load(builder, signature.args[0].dtype, pointer, args[1], wide, 1)

    return real(source, types.int64, real), codegen


@intrinsic
def store(typingctx, value, target, index):  # type: ignore[no-untyped-def]
    """`target[index] = value`, rounded to the storage type."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        pointer = _data(context, builder, signature.args[1], args[1])
        _store(builder, signature.args[1].dtype, args[0], pointer, args[2], 1)
        return context.get_dummy_value()

    return types.void(value, target, types.int64), codegen


@intrinsic
def blend_rows(typingctx, source, first, second, w_first, w_second, column, target, index):  # type: ignore[no-untyped-def]
    """Vertical step for 8 rows x 8 columns: `target[index + i*8 + k] = w_first[k] source[first[k] + column + i] + ...`."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, first, second, w_first, w_second = (
            _data(context, builder, type_, value) for type_, value in zip(signature.args[:5], args[:5], strict=True)
        )
        target = _data(context, builder, signature.args[6], args[6])
        real = target.type.pointee
        rows = []
        for k in range(LANES):
            lane = ir.Constant(_I64, k)
            taps = []
            for offsets, weights in ((first, w_first), (second, w_second)):
                offset = builder.add(builder.load(builder.gep(offsets, [lane])), args[5])
                weight = builder.load(builder.gep(weights, [lane]))
                taps.append(
                    (_load(builder, signature.args[0].dtype, source, offset, real, LANES), _splat(builder, weight))
                )
            (a, wa), (b, wb) = taps
            rows.append(_blend(builder, a, b, wa, wb))
        for i, column in enumerate(_transpose(builder, rows)):
            where = builder.add(args[7], ir.Constant(_I64, i * LANES))
            _store(builder, signature.args[6].dtype, column, target, where, LANES)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, first, second, w_first, w_second, i, target, i), codegen


@intrinsic
def interleave_rows(typingctx, source, index, stride, target, where):  # type: ignore[no-untyped-def]
    """`target[where + i*8 + k] = source[index + k*stride + i]` for 8 rows x 8 columns, both of the real type."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, target = (_data(context, builder, signature.args[i], args[i]) for i in (0, 3))
        rows = [
            _raw_load(builder, source, builder.add(args[1], builder.mul(args[2], ir.Constant(_I64, k))), LANES)
            for k in range(LANES)
        ]
        for i, column in enumerate(_transpose(builder, rows)):
            index = builder.add(args[4], ir.Constant(_I64, i * LANES))
            _store(builder, signature.args[3].dtype, column, target, index, LANES)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, target, i), codegen


@intrinsic
def blend_columns(typingctx, source, a, b, wa, wb, target, index):  # type: ignore[no-untyped-def]
    """Horizontal step of two taps for 8 interleaved rows: `target[index:+8] = wa source[a:+8] + wb source[b:+8]`."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, target = (_data(context, builder, signature.args[i], args[i]) for i in (0, 5))
        columns = (_raw_load(builder, source, args[i], LANES) for i in (1, 2))
        value = _blend(builder, *columns, *(_splat(builder, args[i]) for i in (3, 4)))
        _store(builder, signature.args[5].dtype, value, target, args[6], LANES)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, source.dtype, source.dtype, target, i), codegen


@intrinsic
def sum_columns(typingctx, source, start, stride, weights, first, count, target, index):  # type: ignore[no-untyped-def]
    """Horizontal step of any number of taps: `target[index:+8] = sum_t weights[first + t] source[start + t*stride:+8]`."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, weights, target = (_data(context, builder, signature.args[i], args[i]) for i in (0, 3, 6))
        zero = _constant(_vector(source.type.pointee, LANES), 0.0)
        total = cgutils.alloca_once_value(builder, zero)
        with cgutils.for_range(builder, args[5]) as loop:
            column = _raw_load(builder, source, builder.add(args[1], builder.mul(loop.index, args[2])), LANES)
            weight = _splat(builder, builder.load(builder.gep(weights, [builder.add(args[4], loop.index)])))
            term = builder.fmul(column, weight, flags=_FLAGS)
            builder.store(builder.fadd(builder.load(total), term, flags=_FLAGS), total)
        _store(builder, signature.args[6].dtype, builder.load(total), target, args[7], LANES)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, weights, i, i, target, i), codegen


@intrinsic
def store_rows(typingctx, source, index, scale, bias, target, offsets, column):  # type: ignore[no-untyped-def]
    """Back to rows, 8 x 8: `target[offsets[k] + column + i] = scale source[index + i*8 + k] + bias`, rounded."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        source, target, offsets = (_data(context, builder, signature.args[i], args[i]) for i in (0, 4, 5))
        scale, bias = _splat(builder, args[2]), _splat(builder, args[3])
        columns = [
            _raw_load(builder, source, builder.add(args[1], ir.Constant(_I64, i * LANES)), LANES) for i in range(LANES)
        ]
        for k, row in enumerate(_transpose(builder, columns)):
            value = builder.fadd(builder.fmul(row, scale, flags=_FLAGS), bias, flags=_FLAGS)
            where = builder.add(builder.load(builder.gep(offsets, [ir.Constant(_I64, k)])), args[6])
            _store(builder, signature.args[4].dtype, value, target, where, LANES)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, source.dtype, source.dtype, target, offsets, i), codegen
