"""Vector operations that numba's loop vectoriser does not find: conversions of storage types and 8x8 transposes.

Eight image rows are resampled at a time, interleaved as `[column][8]`: then the horizontal step, a gather in memory,
becomes whole vector loads. The transposes to and from that layout are shuffles in registers, written in LLVM's
portable IR. Storage types are NumPy's, except that fp16 travels as uint16 and bf16 as int16.
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


@intrinsic
def blend_rows(typingctx, source, upper, lower, w_upper, w_lower, first, count, target, ahead):
    """Vertical step of two taps: eight rows of `count` >= 8 values are blended and interleaved.

    `target[i*8 + k] = w_upper[k] source[upper[k] + first + i] + w_lower[k] source[lower[k] + first + i]`
    What lies `ahead` values further on is prefetched.
    """

    def codegen(context, builder, signature, args):
        source, upper, lower, w_upper, w_lower = (
            _data(context, builder, type_, value) for type_, value in zip(signature.args[:5], args[:5], strict=True)
        )
        target = _data(context, builder, signature.args[7], args[7])
        storage, real = signature.args[0].dtype, target.type.pointee
        taps = [
            [
                (
                    builder.add(builder.load(builder.gep(offsets, [ir.Constant(_I64, k)])), args[5]),
                    _splat(builder, builder.load(builder.gep(weights, [ir.Constant(_I64, k)]))),
                )
                for offsets, weights in ((upper, w_upper), (lower, w_lower))
            ]
            for k in range(LANES)
        ]

        def block(i):
            rows = []
            for (a, wa), (b, wb) in taps:
                for offset in (a, b):
                    _prefetch(builder, source, builder.add(builder.add(offset, i), args[8]), False)
                values = (_load(builder, storage, source, builder.add(offset, i), real, LANES) for offset in (a, b))
                rows.append(_blend(builder, values, (wa, wb)))
            _store_columns(builder, signature.args[7].dtype, rows, target, i)

        _for_blocks(builder, args[6], block)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, upper, lower, w_upper, w_lower, i, i, target, i), codegen


def _store_columns(builder: Any, storage: types.Type, rows: list[Any], target: Any, first: Any) -> None:
    start = builder.mul(first, ir.Constant(_I64, LANES))
    for i, column in enumerate(_transpose(builder, rows)):
        _store(builder, storage, column, target, builder.add(start, ir.Constant(_I64, i * LANES)), LANES)


@intrinsic
def blend_values(
    typingctx,
    source,
    upper,
    lower,
    w_upper,
    w_lower,
    left,
    right,
    w_left,
    w_right,
    scale,
    bias,
    target,
    index,
    stride,
    ahead,
):
    """One row, four taps a value straight from the image: for all j, `target[index + j*stride] = scale * value + bias`.

    What lies `ahead` values further on is prefetched: the taps are too far apart for the hardware to follow.
    `value = w_left[j] (w_upper source[upper + left[j]] + w_lower source[lower + left[j]]) + w_right[j] (...right...)`
    """

    def codegen(context, builder, signature, args):
        source, left, right, w_left, w_right, target = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 5, 6, 7, 8, 11)
        )
        storage, real = signature.args[0].dtype, w_left.type.pointee
        count = context.make_array(signature.args[5])(context, builder, args[5]).nitems
        with cgutils.for_range(builder, count) as loop:
            sides = []
            for offsets in (left, right):
                offset = builder.load(builder.gep(offsets, [loop.index]))
                if offsets is left:
                    for row in args[1:3]:
                        _prefetch(builder, source, builder.add(builder.add(row, offset), args[14]), False)
                taps = (
                    _load(builder, storage, source, builder.add(row, offset), real, 1) for row in (args[1], args[2])
                )
                sides.append(_blend(builder, taps, args[3:5]))
            weights = (builder.load(builder.gep(array, [loop.index])) for array in (w_left, w_right))
            value = _blend(builder, sides, weights)
            value = builder.fadd(builder.fmul(value, args[9], flags=_FLAGS), args[10], flags=_FLAGS)
            where = builder.add(args[12], builder.mul(loop.index, args[13]))
            _store(builder, signature.args[11].dtype, value, target, where, 1)
        return context.get_dummy_value()

    i, real = types.int64, w_left.dtype
    signature = types.void(source, i, i, real, real, left, right, w_left, w_right, real, real, target, i, i, i)
    return signature, codegen


@intrinsic
def blend_pixels(
    typingctx, source, upper, lower, w_upper, w_lower, left, step, w_left, w_right, count, target, index, stride, ahead
):
    """As `blend_values` for pixels of up to 4 channels, the second tap `step` after the first: one vector a pixel.

    Reads and writes 4 values from `left[j]` and from `j*stride` on: pixels must be made in order, and the last ones of
    a row otherwise.
    """
    lanes = 4

    def codegen(context, builder, signature, args):
        source, left, w_left, w_right, target = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 5, 7, 8, 10)
        )
        storage, real = signature.args[0].dtype, w_left.type.pointee
        w_upper, w_lower = (_splat(builder, args[i], lanes) for i in (3, 4))
        with cgutils.for_range(builder, args[9]) as loop:
            offset = builder.load(builder.gep(left, [loop.index]))
            for row in args[1:3]:
                _prefetch(builder, source, builder.add(builder.add(row, offset), args[13]), False)
            sides = []
            for side in (offset, builder.add(offset, args[6])):
                taps = (_load(builder, storage, source, builder.add(row, side), real, lanes) for row in args[1:3])
                sides.append(_blend(builder, taps, (w_upper, w_lower)))
            weights = (
                _splat(builder, builder.load(builder.gep(array, [loop.index])), lanes) for array in (w_left, w_right)
            )
            where = builder.add(args[11], builder.mul(loop.index, args[12]))
            _store(builder, signature.args[10].dtype, _blend(builder, sides, weights), target, where, lanes)
        return context.get_dummy_value()

    i, real = types.int64, w_left.dtype
    return types.void(source, i, i, real, real, left, i, w_left, w_right, i, target, i, i, i), codegen


@intrinsic
def interleave_rows(typingctx, source, stride, count, target):
    """`target[i*8 + k] = source[k*stride + i]` for eight rows of `count` >= 8 values, both of the real type."""

    def codegen(context, builder, signature, args):
        source, target = (_data(context, builder, signature.args[i], args[i]) for i in (0, 3))

        def block(i):
            rows = [
                _raw_load(builder, source, builder.add(i, builder.mul(args[1], ir.Constant(_I64, k))), LANES)
                for k in range(LANES)
            ]
            _store_columns(builder, signature.args[3].dtype, rows, target, i)

        _for_blocks(builder, args[2], block)
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, target), codegen


@intrinsic
def blend_columns(typingctx, source, left, right, w_left, w_right, place, begin, end, target):
    """Horizontal step of two taps for eight interleaved rows.

    For each m in begin .. end: `target[place[m]:+8] = w_left[m] source[left[m]:+8] + w_right[m] source[right[m]:+8]`
    """

    def codegen(context, builder, signature, args):
        source, left, right, w_left, w_right, place = (
            _data(context, builder, type_, value) for type_, value in zip(signature.args[:6], args[:6], strict=True)
        )
        target = _data(context, builder, signature.args[8], args[8])
        with cgutils.for_range(builder, args[7], start=args[6]) as loop:
            offsets = [builder.load(builder.gep(array, [loop.index])) for array in (left, right, place)]
            weights = [_splat(builder, builder.load(builder.gep(array, [loop.index]))) for array in (w_left, w_right)]
            columns = (_raw_load(builder, source, offset, LANES) for offset in offsets[:2])
            value = _blend(builder, columns, weights)
            _store(builder, signature.args[8].dtype, value, target, offsets[2], LANES)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, left, right, w_left, w_right, place, i, i, target), codegen


@intrinsic
def sum_columns(typingctx, source, start, stride, tap, count, weight, place, begin, end, target):
    """Horizontal step of any number of taps for eight interleaved rows.

    For each m in begin .. end: `target[place[m]:+8] = sum_t weight[tap[m] + t] source[start[m] + t*stride:+8]`, t in
    0 .. count[m]
    """

    def codegen(context, builder, signature, args):
        source, start, tap, count, weight, place, target = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 1, 3, 4, 5, 6, 9)
        )
        zero = _constant(_vector(source.type.pointee, LANES), 0.0)
        total = cgutils.alloca_once(builder, zero.type)
        with cgutils.for_range(builder, args[8], start=args[7]) as loop:
            first, first_weight, taps, at = (
                builder.load(builder.gep(array, [loop.index])) for array in (start, tap, count, place)
            )
            builder.store(zero, total)
            with cgutils.for_range(builder, taps) as inner:
                column = _raw_load(builder, source, builder.add(first, builder.mul(inner.index, args[2])), LANES)
                w = _splat(builder, builder.load(builder.gep(weight, [builder.add(first_weight, inner.index)])))
                term = builder.fmul(column, w, flags=_FLAGS)
                builder.store(builder.fadd(builder.load(total), term, flags=_FLAGS), total)
            _store(builder, signature.args[9].dtype, builder.load(total), target, at, LANES)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, start, i, tap, count, weight, place, i, i, target), codegen


@intrinsic
def store_rows(typingctx, source, index, count, scale, bias, target, offsets, column, ahead):
    """Back to eight rows: `target[offsets[k] + column + i] = scale source[index + i*8 + k] + bias`, i in 0 .. count
    >= 8."""

    def codegen(context, builder, signature, args):
        source, target, offsets = (_data(context, builder, signature.args[i], args[i]) for i in (0, 5, 6))
        scale, bias = _splat(builder, args[3]), _splat(builder, args[4])
        starts = [
            builder.add(builder.load(builder.gep(offsets, [ir.Constant(_I64, k)])), args[7]) for k in range(LANES)
        ]

        def block(i):
            first = builder.add(args[1], builder.mul(i, ir.Constant(_I64, LANES)))
            columns = [
                _raw_load(builder, source, builder.add(first, ir.Constant(_I64, lane * LANES)), LANES)
                for lane in range(LANES)
            ]
            for start, row in zip(starts, _transpose(builder, columns), strict=True):
                value = builder.fadd(builder.fmul(row, scale, flags=_FLAGS), bias, flags=_FLAGS)
                _prefetch(builder, target, builder.add(builder.add(start, i), args[8]), True)
                _store(builder, signature.args[5].dtype, value, target, builder.add(start, i), LANES)

        _for_blocks(builder, args[2], block)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, source.dtype, source.dtype, target, offsets, i, i), codegen


@intrinsic
def add_window_gradient(typingctx, values, rises, grad, left, right, w_left, w_right, place, by_column, by_row):
    """Gradient of a two-tap resampling to its centres, for eight interleaved rows and every m of `left`.

    `by_column[place[m]:+8] += grad[place[m]:+8] (values[right[m]:+8] - values[left[m]:+8])`, and the sum over m of
    `grad[place[m]:+8] (w_left[m] rises[left[m]:+8] + w_right[m] rises[right[m]:+8])` is `by_row[:8]`.
    """

    def codegen(context, builder, signature, args):
        values, rises, grad, left, right, w_left, w_right, place, by_column, by_row = (
            _data(context, builder, type_, value) for type_, value in zip(signature.args, args, strict=True)
        )
        storage = signature.args[0].dtype
        zero = _constant(_vector(values.type.pointee, LANES), 0.0)
        total = cgutils.alloca_once_value(builder, zero)
        count = context.make_array(signature.args[3])(context, builder, args[3]).nitems
        with cgutils.for_range(builder, count) as loop:
            a, b, at = (builder.load(builder.gep(array, [loop.index])) for array in (left, right, place))
            wa, wb = (_splat(builder, builder.load(builder.gep(w, [loop.index]))) for w in (w_left, w_right))
            g = _raw_load(builder, grad, at, LANES)
            before, after = _raw_load(builder, values, a, LANES), _raw_load(builder, values, b, LANES)
            term = builder.fmul(g, builder.fsub(after, before), flags=_FLAGS)
            column = builder.fadd(_raw_load(builder, by_column, at, LANES), term, flags=_FLAGS)
            _store(builder, storage, column, by_column, at, LANES)
            rise = _blend(builder, (_raw_load(builder, rises, at, LANES) for at in (a, b)), (wa, wb))
            term = builder.fmul(g, rise, flags=_FLAGS)
            builder.store(builder.fadd(builder.load(total), term, flags=_FLAGS), total)
        _store(builder, storage, builder.load(total), by_row, ir.Constant(_I64, 0), LANES)
        return context.get_dummy_value()

    arguments = (values, rises, grad, left, right, w_left, w_right, place, by_column, by_row)
    return types.void(*arguments), codegen
