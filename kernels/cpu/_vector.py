"""Vectors of numbers as a numba type. With the thread pool, this is the only file that knows LLVM.

numba's loop vectoriser gives up silently in large functions. With `Vector(dtype, lanes)`, a kernel says what is to be
done with several values at once, and stays a plain numba function:

    values = load(source, at, 8)                  # eight neighbours
    values = values * weight + full(bias, 8)      # operators of numbers, also with numbers
    store(select(values > 0, values, 0), target, at)

All functions here take numbers in place of vectors where that has a meaning, and arrays or pointers (`pointer`) as
memory. An index counts elements from the start of a contiguous array, whatever its shape. Nothing is checked: a load
reads all of its lanes. Values of an image are kept in storage types, which `load_as` widens to the type that computes
and `store` rounds to: uint8, fp16 (as uint16), bf16 (as int16), fp32, fp64.

Floating-point flags are those of the function that an operator stands in, see `_parallel`: a product and a sum may
become one fused operation, nothing else may change.

In inner loops: read numbers that do not change before the loop (a store might change any array); use `load(array, i,
1)` rather than `array[i]`, which also looks for negative indices; keep sums in a tuple, which stays in registers
(`tuple_setitem`, over a range known when compiling).
"""

import math
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, errors, types
from numba.core.imputils import lower_builtin, lower_cast
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.cpython.unsafe.tuple import tuple_setitem as _tuple_setitem
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, register_model
from numba.np.arrayobj import _empty_nd_impl

from fastwarp.kernels.cpu._parallel import exact, inline

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))

# Their types still have the typing context among the arguments.
_any_intrinsic: Any = _intrinsic
tuple_setitem: Any = _tuple_setitem


def intrinsic(function: Callable[..., Any]) -> Any:
    """A function that builds LLVM's code; a number written in the source is passed as a literal."""
    return _any_intrinsic(prefer_literal=True)(function)


# --- the type ---------------------------------------------------------------------------------------------------------


class Vector(types.Type):
    """`lanes` numbers of one type, or booleans, side by side in a register."""

    def __init__(self, dtype: Any, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, type_: Vector) -> None:
        super().__init__(manager, type_, ir.VectorType(manager.lookup(type_.dtype).get_value_type(), type_.lanes))


def _number(type_: Any) -> Any:
    """The type without its value, where it is a literal; an error where it is no number."""
    type_ = types.unliteral(type_)
    if isinstance(type_, (types.Number, types.Boolean)):
        return type_
    raise errors.TypingError(f"expected a number, got {type_}")


def _lanes(literal: Any) -> int:
    if isinstance(literal, types.IntegerLiteral):
        return literal.literal_value
    raise errors.RequireLiteralValue("lanes")


def _of(dtype: Any, lanes: int) -> Any:
    return Vector(dtype, lanes) if lanes > 1 else dtype


def _dtype(type_: Any) -> Any:
    return type_.dtype if isinstance(type_, Vector) else _number(type_)


def _count(type_: Any) -> int:
    return type_.lanes if isinstance(type_, Vector) else 1


def _common(a: Any, b: Any) -> Any:
    """The vector type of two arguments, of which one may be a number; the number's own type where both are numbers."""
    vectors = [type_ for type_ in (a, b) if isinstance(type_, Vector)]
    if not vectors:
        if _number(a) != _number(b):
            raise errors.TypingError(f"expected numbers of one type, got {a} and {b}")
        return _number(a)
    if vectors[0] != vectors[-1]:
        raise errors.TypingError(f"expected vectors of one type, got {a} and {b}")
    _dtype(a), _dtype(b)
    return vectors[0]


# --- LLVM's types and constants ---------------------------------------------------------------------------------------


def _wide(element: ir.Type, lanes: int) -> ir.Type:
    return ir.VectorType(element, lanes) if lanes > 1 else element


def _constant(type_: ir.Type, value: Any) -> ir.Constant:
    return ir.Constant(type_, [value] * type_.count if isinstance(type_, ir.VectorType) else value)


def _undefined(type_: ir.Type) -> ir.Constant:
    return ir.Constant(type_, ir.Undefined)


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    undefined = _undefined(ir.VectorType(value.type, lanes))
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _shuffled(builder: Any, a: Any, b: Any, lanes: Any) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), list(lanes)))


@lower_cast(types.Number, Vector)
@lower_cast(types.Boolean, Vector)
def _number_to_vector(context, builder, from_type, to_type, value):
    return _splat(builder, context.cast(builder, value, from_type, to_type.dtype), to_type.lanes)


# --- memory -----------------------------------------------------------------------------------------------------------


def _as_memory(type_: Any) -> Any:
    """Checks that a type is that of memory that can be counted through."""
    if isinstance(type_, types.CPointer) or (isinstance(type_, types.Array) and type_.layout in "CF"):
        return type_
    raise errors.TypingError(f"expected a contiguous array or a pointer, got {type_}")


def _address(context: Any, builder: Any, type_: Any, memory: Any, index: Any) -> Any:
    if isinstance(type_, types.Array):
        memory = context.make_array(type_)(context, builder, memory).data
    return builder.gep(memory, [index])


def _align(element: ir.Type) -> int:
    return {ir.DoubleType(): 8, ir.FloatType(): 4}.get(element) or max(element.width // 8, 1)


def _load_at(builder: Any, address: Any, lanes: int) -> Any:
    element = address.type.pointee
    return builder.load(builder.bitcast(address, _wide(element, lanes).as_pointer()), align=_align(element))


def _widened(builder: Any, storage: Any, value: Any, real: ir.Type, lanes: int) -> Any:
    """Values of a storage type as those of the type that computes."""
    wide = _wide(real, lanes)
    if value.type == wide:
        return value
    if storage == types.uint16:
        return builder.fpext(builder.bitcast(value, _wide(ir.HalfType(), lanes)), wide)
    if storage == types.int16:
        bits = _wide(_I32, lanes)
        single = builder.bitcast(
            builder.shl(builder.zext(value, bits), _constant(bits, 16)), _wide(ir.FloatType(), lanes)
        )
        return single if single.type == wide else builder.fpext(single, wide)
    if storage == types.uint8:
        return builder.uitofp(value, wide)
    return (builder.fptrunc if storage == types.float64 else builder.fpext)(value, wide)


def _narrowed(builder: Any, storage: Any, value: Any, lanes: int) -> Any:
    """Values rounded to a storage type, half to even."""
    double = _wide(ir.DoubleType(), lanes)
    if storage != types.float64 and value.type == double:
        value = builder.fptrunc(value, _wide(ir.FloatType(), lanes))
    if storage == types.uint16:
        return builder.bitcast(builder.fptrunc(value, _wide(ir.HalfType(), lanes)), _wide(_I16, lanes))
    if storage == types.int16:
        wide = _wide(_I32, lanes)
        bits = builder.bitcast(value, wide)
        odd = builder.and_(builder.lshr(bits, _constant(wide, 16)), _constant(wide, 1))
        up = builder.add(builder.add(bits, _constant(wide, 0x7FFF)), odd)
        kept = builder.select(builder.fcmp_unordered("uno", value, value), _constant(wide, 0x7FC00000), up)
        return builder.trunc(builder.lshr(kept, _constant(wide, 16)), _wide(_I16, lanes))
    if storage == types.uint8:
        low, high = _constant(value.type, 0.0), _constant(value.type, 255.0)
        value = builder.select(builder.fcmp_ordered(">", value, low), value, low)
        value = builder.select(builder.fcmp_ordered("<", value, high), value, high)
        units = _constant(value.type, 1.5 * 2**23)  # fp32 numbers of this size have no fraction: adding one rounds
        return builder.fptoui(builder.fsub(builder.fadd(value, units), units), _wide(_I8, lanes))
    return builder.fpext(value, double) if storage == types.float64 and value.type != double else value


@intrinsic
def pointer(typingctx, address, like):
    """What lies at an address, as elements of the type of the array `like`: memory without a length.

    Unlike an array it costs nothing to pass on: it has no owner to be counted.
    """

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), codegen


@intrinsic
def allocate(typingctx, count, like):
    """A new array of `count` numbers, of any values, of the type of the number `like`. `np.empty` does the same, but is
    compiled anew for each way of calling it."""
    result = types.Array(_number(like), 1, "C")

    def codegen(context, builder, signature, args):
        return _empty_nd_impl(context, builder, result, [args[0]])._getvalue()

    return result(types.int64, like), codegen


@intrinsic
def elements(typingctx, array):
    """The elements of an array as a pointer, for inner functions. The caller keeps the array alive, see `hold`."""

    def codegen(context, builder, signature, args):
        return context.make_array(signature.args[0])(context, builder, args[0]).data

    return types.CPointer(_as_memory(array).dtype)(array), codegen


@intrinsic
def hold(typingctx, owner):
    """Does nothing: an array, or a tuple that owns some, lives until here, and so do pointers into them."""

    def codegen(context, builder, signature, args):
        return context.get_dummy_value()

    return types.void(owner), codegen


@intrinsic
def tail(typingctx, memory, index):
    """What lies in memory from an element on, as a pointer."""

    def codegen(context, builder, signature, args):
        return _address(context, builder, signature.args[0], *args)

    return types.CPointer(_as_memory(memory).dtype)(memory, types.int64), codegen


@intrinsic
def load(typingctx, memory, index, lanes):
    """`memory[index : index + lanes]`, of the memory's own type; a number for one lane."""
    count = _lanes(lanes)

    def codegen(context, builder, signature, args):
        return _load_at(builder, _address(context, builder, signature.args[0], *args[:2]), count)

    return _of(_as_memory(memory).dtype, count)(memory, types.int64, lanes), codegen


@intrinsic
def load_as(typingctx, memory, index, like):
    """As many values from `memory[index]` on as `like` has lanes, widened to its type (fp32 or fp64)."""
    result, count = _of(_dtype(like), _count(like)), _count(like)

    def codegen(context, builder, signature, args):
        value = _load_at(builder, _address(context, builder, signature.args[0], *args[:2]), count)
        real = context.get_value_type(_dtype(result))
        return _widened(builder, signature.args[0].dtype, value, real, count)

    return result(_as_memory(memory), types.int64, result), codegen


@intrinsic
def widen(typingctx, values, like):
    """Values that were loaded as they are stored, in the type of `like`, as `load_as` makes them."""
    result = _of(_dtype(like), _count(values))

    def codegen(context, builder, signature, args):
        real = context.get_value_type(_dtype(like))
        return _widened(builder, _dtype(signature.args[0]), args[0], real, _count(signature.args[0]))

    return result(values, like), codegen


@intrinsic
def store(typingctx, value, memory, index):
    """`memory[index : index + lanes] = value`, rounded to the memory's type: half to even, uint8 clamped."""
    storage, count = _as_memory(memory).dtype, _count(value)
    dtype = _dtype(value)
    if not isinstance(dtype, types.Float) and dtype != storage:
        raise errors.TypingError(f"expected {storage} or a floating-point type, got {value}")
    kept = _of(dtype, count)

    def codegen(context, builder, signature, args):
        value = args[0]
        if isinstance(dtype, types.Float):
            value = _narrowed(builder, storage, value, count)
        address = _address(context, builder, signature.args[1], *args[1:])
        address = builder.bitcast(address, value.type.as_pointer())
        builder.store(value, address, align=_align(context.get_data_type(storage)))
        return context.get_dummy_value()

    return types.void(kept, memory, types.int64), codegen


@intrinsic
def gather(typingctx, memory, start, index):
    """`memory[start + index]` for a vector of indices."""
    count = _count(index)

    def codegen(context, builder, signature, args):
        result = _undefined(ir.VectorType(context.get_data_type(signature.args[0].dtype), count))
        for k in range(count):
            lane = ir.Constant(_I32, k)
            place = builder.extract_element(args[2], lane)
            place = builder.add(args[1], builder.sext(place, _I64) if place.type != _I64 else place)
            address = _address(context, builder, signature.args[0], args[0], place)
            result = builder.insert_element(result, builder.load(address), lane)
        return result

    return Vector(_as_memory(memory).dtype, count)(memory, types.int64, index), codegen


def _prefetch(write: bool) -> Any:
    def prefetch(typingctx, memory, index):
        def codegen(context, builder, signature, args):
            byte = _I8.as_pointer()
            flags = [ir.Constant(_I32, value) for value in (int(write), 2, 1)]  # into L2: it is needed some lines later
            type_ = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
            function = cgutils.get_or_insert_function(builder.module, type_, "llvm.prefetch.p0")
            address = _address(context, builder, signature.args[0], *args)
            builder.call(function, [builder.bitcast(address, byte), *flags])
            return context.get_dummy_value()

        return types.void(_as_memory(memory), types.int64), codegen

    return intrinsic(prefetch)


prefetch = _prefetch(False)
"""`prefetch(memory, index)` asks for the cache line of `memory[index]`, which need not exist: this does not fault."""

prefetch_to_write = _prefetch(True)
"""As `prefetch`, for a line that will be written."""


# --- operators --------------------------------------------------------------------------------------------------------


def _is_real(type_: ir.Type) -> bool:
    return isinstance(type_.element, (ir.FloatType, ir.DoubleType))


def _arithmetic(real: str, integer: str) -> Callable[..., Any]:
    def lower(context, builder, signature, args):
        name = real if _is_real(args[0].type) else integer
        return getattr(builder, name)(*args)

    return lower


def _comparison(symbol: str) -> Callable[..., Any]:
    def lower(context, builder, signature, args):
        if not _is_real(args[0].type):
            signed = signature.args[0].dtype in types.signed_domain
            return (builder.icmp_signed if signed else builder.icmp_unsigned)(symbol, *args)
        return (builder.fcmp_unordered if symbol == "!=" else builder.fcmp_ordered)(symbol, *args)

    return lower


def _binary(functions: tuple[Any, ...], accepts: tuple[type, ...], compares: bool, lower: Callable[..., Any]) -> None:
    class Operator(AbstractTemplate):
        def generic(self, args, kws):
            if len(args) != 2 or not any(isinstance(type_, Vector) for type_ in args):
                return None
            if not all(isinstance(type_, (Vector, types.Number, types.Boolean)) for type_ in args):
                return None
            common = _common(*args)
            if not isinstance(common.dtype, accepts):
                return None
            return signature(Vector(types.boolean, common.lanes) if compares else common, common, common)

    for function in functions:
        infer_global(function)(type("Operator", (Operator,), {"key": function}))
        lower_builtin(function, Vector, Vector)(lower)


def _unary(function: Any, accepts: tuple[type, ...], lower: Callable[..., Any]) -> None:
    class Operator(AbstractTemplate):
        key = function

        def generic(self, args, kws):
            if len(args) == 1 and isinstance(args[0], Vector) and isinstance(args[0].dtype, accepts):
                return signature(args[0], args[0])
            return None

    infer_global(function)(Operator)
    lower_builtin(function, Vector)(lower)


def _negative(context, builder, signature, args):
    return builder.fneg(args[0]) if _is_real(args[0].type) else builder.neg(args[0])


_binary((operator.add, operator.iadd), (types.Float, types.Integer), False, _arithmetic("fadd", "add"))
_binary((operator.sub, operator.isub), (types.Float, types.Integer), False, _arithmetic("fsub", "sub"))
_binary((operator.mul, operator.imul), (types.Float, types.Integer), False, _arithmetic("fmul", "mul"))
_binary((operator.truediv, operator.itruediv), (types.Float,), False, _arithmetic("fdiv", ""))
_binary((operator.and_, operator.iand), (types.Integer, types.Boolean), False, _arithmetic("", "and_"))
_binary((operator.or_, operator.ior), (types.Integer, types.Boolean), False, _arithmetic("", "or_"))
_binary((operator.lshift, operator.ilshift), (types.Integer,), False, _arithmetic("", "shl"))
for _function, _symbol in (
    (operator.lt, "<"),
    (operator.le, "<="),
    (operator.gt, ">"),
    (operator.ge, ">="),
    (operator.eq, "=="),
    (operator.ne, "!="),
):
    _binary((_function,), (types.Float, types.Integer), True, _comparison(_symbol))
_unary(operator.neg, (types.Float, types.Integer), _negative)
_unary(operator.invert, (types.Integer, types.Boolean), lambda context, builder, signature, args: builder.not_(args[0]))


# --- values -----------------------------------------------------------------------------------------------------------


@intrinsic
def full(typingctx, value, lanes):
    """A number in every lane."""
    count, dtype = _lanes(lanes), _number(value)

    def codegen(context, builder, signature, args):
        return _splat(builder, args[0], count)

    return Vector(dtype, count)(dtype, lanes), codegen


@intrinsic
def full_like(typingctx, value, like):
    """A number in every lane, in the type of `like`, which may be a number as well."""
    result = _of(_dtype(like), _count(like))

    def codegen(context, builder, signature, args):
        return args[0] if _count(like) == 1 else _splat(builder, args[0], like.lanes)

    return result(_dtype(like), like), codegen


@intrinsic
def full_line(typingctx, value):
    """A number in every lane of a vector of 64 bytes, as many as a cache line has."""
    dtype = _number(value)
    count = 64 * 8 // dtype.bitwidth

    def codegen(context, builder, signature, args):
        return _splat(builder, args[0], count)

    return Vector(dtype, count)(dtype), codegen


@intrinsic
def zero_of(typingctx, memory):
    """0 of the memory's type."""
    dtype = _as_memory(memory).dtype

    def codegen(context, builder, signature, args):
        return ir.Constant(context.get_value_type(dtype), 0)

    return dtype(memory), codegen


@intrinsic
def zero_line(typingctx, memory):
    """0 in every lane of a vector of 64 bytes, of the memory's type."""
    dtype = _as_memory(memory).dtype
    result = Vector(dtype, 64 * 8 // dtype.bitwidth)

    def codegen(context, builder, signature, args):
        return ir.Constant(context.get_value_type(result), None)

    return result(memory), codegen


@intrinsic
def count_lanes(typingctx, vector):
    """How many lanes a vector has."""

    def codegen(context, builder, signature, args):
        return ir.Constant(_I64, vector.lanes)

    return types.int64(vector), codegen


@intrinsic
def lane_numbers(typingctx, like):
    """0, 1, 2, ... in the lanes of a vector of the type of `like`."""

    def codegen(context, builder, signature, args):
        wide = context.get_value_type(like)
        return ir.Constant(wide, [float(i) if _is_real(wide) else i for i in range(wide.count)])

    return like(like), codegen


@intrinsic
def convert(typingctx, value, like):
    """The values as those of the type of `like` (of which only the type of its numbers matters), as `astype` does."""
    source, target, count = _dtype(value), _dtype(like), _count(value)

    def codegen(context, builder, signature, args):
        value, wide = args[0], _wide(context.get_value_type(target), count)
        if source == target:
            return value
        if isinstance(source, types.Float) and isinstance(target, types.Float):
            return (builder.fpext if target.bitwidth > source.bitwidth else builder.fptrunc)(value, wide)
        if isinstance(target, types.Float):
            return (builder.sitofp if source in types.signed_domain else builder.uitofp)(value, wide)
        if isinstance(source, types.Float):
            return (builder.fptosi if target in types.signed_domain else builder.fptoui)(value, wide)
        if target.bitwidth <= source.bitwidth:
            return value if target.bitwidth == source.bitwidth else builder.trunc(value, wide)
        return (builder.sext if source in types.signed_domain else builder.zext)(value, wide)

    return _of(target, count)(_of(source, count), like), codegen


@intrinsic
def power_of_two(typingctx, exponent):
    """2**n of whole numbers n, for which it is a normal number."""

    def codegen(context, builder, signature, args):
        wide = args[0].type
        bits, mantissa, bias = (32, 23, 127) if exponent.dtype == types.float32 else (64, 52, 1023)
        integers = ir.VectorType(ir.IntType(bits), wide.count)
        # Added to this number, the whole number is what the lowest bits hold.
        shifted = builder.fadd(args[0], _constant(wide, 1.5 * 2.0**mantissa))
        biased = builder.add(builder.bitcast(shifted, integers), _constant(integers, bias))
        return builder.bitcast(builder.shl(biased, _constant(integers, mantissa)), wide)

    return exponent(exponent), codegen


@intrinsic
def sqrt(typingctx, value):
    """Square roots of a vector of floating-point numbers."""

    def codegen(context, builder, signature, args):
        wide = args[0].type
        suffix = f"v{wide.count}f{value.dtype.bitwidth}"
        type_ = ir.FunctionType(wide, [wide])
        return builder.call(cgutils.get_or_insert_function(builder.module, type_, f"llvm.sqrt.{suffix}"), args)

    return value(value), codegen


@intrinsic
def select(typingctx, mask, a, b):
    """Lanes of `a` where the mask is on, of `b` elsewhere."""
    result = _common(a, b)
    if isinstance(mask, Vector) and not isinstance(result, Vector):
        result = Vector(result, mask.lanes)

    def codegen(context, builder, signature, args):
        return builder.select(*args)

    return result(mask, result, result), codegen


# --- lanes ------------------------------------------------------------------------------------------------------------


@intrinsic
def lane(typingctx, vector, index):
    """The number in one lane."""

    def codegen(context, builder, signature, args):
        return builder.extract_element(*args)

    return vector.dtype(vector, types.int64), codegen


@intrinsic
def pack(typingctx, numbers):
    """A vector of the numbers of a tuple."""
    result = Vector(numbers.dtype, numbers.count)

    def codegen(context, builder, signature, args):
        vector = _undefined(context.get_value_type(result))
        for k, value in enumerate(cgutils.unpack_tuple(builder, args[0], result.lanes)):
            vector = builder.insert_element(vector, value, ir.Constant(_I32, k))
        return vector

    return result(numbers), codegen


@intrinsic
def join(typingctx, a, b):
    """The lanes of `a`, then those of `b`."""

    def codegen(context, builder, signature, args):
        return _shuffled(builder, args[0], args[1], range(2 * a.lanes))

    return Vector(a.dtype, 2 * a.lanes)(a, a), codegen


def shuffle(*lanes: int) -> Any:
    """Makes a function `(a, b)` that returns these lanes of a and b side by side; call it when a module is loaded."""

    def shuffled(typingctx, a, b):
        def codegen(context, builder, signature, args):
            return _shuffled(builder, args[0], args[1], lanes)

        return Vector(a.dtype, len(lanes))(a, a), codegen

    return intrinsic(shuffled)


@intrinsic
def pick(typingctx, low, high, index):
    """Lane `index` of `low` and `high` side by side, for a vector of indices."""

    def codegen(context, builder, signature, args):
        # Lane by lane: LLVM makes a permutation of registers of it where there is one, loads from the stack elsewhere.
        low, high, index = args
        found = []
        within = builder.and_(index, _constant(index.type, low.type.count - 1))
        for half in (low, high):
            picked = _undefined(half.type)
            for k in range(low.type.count):
                place = ir.Constant(_I32, k)
                value = builder.extract_element(half, builder.extract_element(within, place))
                picked = builder.insert_element(picked, value, place)
            found.append(picked)
        is_high = builder.icmp_signed(">=", index, _constant(index.type, low.type.count))
        return builder.select(is_high, found[1], found[0])

    return low(low, low, index), codegen


@intrinsic
def copies(typingctx, vector):
    """A tuple of as many copies of a vector as it has lanes: what `transpose` takes."""

    def codegen(context, builder, signature, args):
        return context.make_tuple(builder, signature.return_type, [args[0]] * vector.lanes)

    return types.UniTuple(vector, vector.lanes)(vector), codegen


@intrinsic
def transpose(typingctx, rows):
    """Of a tuple of as many vectors as lanes: lane j of vector i becomes lane i of vector j."""
    lanes = rows.dtype.lanes
    if rows.count != lanes:
        raise errors.TypingError(f"expected {lanes} vectors, got {rows}")

    def codegen(context, builder, signature, args):
        rows, step = cgutils.unpack_tuple(builder, args[0], lanes), lanes // 2
        while step:
            low = [i if not i & step else lanes + i - step for i in range(lanes)]
            high = [i + step if not i & step else lanes + i for i in range(lanes)]
            for k in range(lanes):
                if not k & step:
                    pair = rows[k], rows[k + step]
                    rows[k], rows[k + step] = (_shuffled(builder, *pair, mask) for mask in (low, high))
            step //= 2
        return context.make_tuple(builder, signature.return_type, rows)

    return rows(rows), codegen


@intrinsic
def total(typingctx, vector):
    """The sum of the lanes, by halves."""

    def codegen(context, builder, signature, args):
        value, lanes = args[0], vector.lanes
        while lanes > 1:
            lanes //= 2
            low, high = (_shuffled(builder, value, value, range(k, k + lanes)) for k in (0, lanes))
            value = builder.fadd(low, high)
        return builder.extract_element(value, ir.Constant(_I32, 0))

    return vector.dtype(vector), codegen


@intrinsic
def mask_bits(typingctx, mask):
    """The lanes of a mask as the bits of an int64, the first as the lowest."""

    def codegen(context, builder, signature, args):
        return builder.zext(builder.bitcast(args[0], ir.IntType(mask.lanes)), _I64)

    return types.int64(mask), codegen


# --- e**x -------------------------------------------------------------------------------------------------------------

_TERMS = tuple(1 / math.factorial(n) for n in range(14))  # of e**x
_PER_POWER = 1 / math.log(2)


@exact
def _times(a, b):
    """A product that is rounded before it is added to anything: what is stored is what is summed."""
    return a * b


@inline
def exponential(x, single):
    """e**x for a vector x <= 0, where it is not below the normal numbers, and 0 otherwise; NaN comes through. That of
    libm takes one number at a time: 6 times slower.

    `single`: whether the numbers are float32.
    """
    least = -87.0 if single else -708.0
    is_small = x < least
    x = select(is_small, least, x)
    # Numbers of the size of `whole` have no fraction: adding it rounds.
    whole = 1.5 * 2.0**23 if single else 1.5 * 2.0**52
    power = (x * _PER_POWER + whole) - whole
    # log(2) in two parts, the first of few bits: its products with small whole numbers are exact.
    x = x - power * (0.693359375 if single else 0.6931471803691238)
    x = x - power * (-2.1219444005469057e-4 if single else 1.9082149292705877e-10)
    terms = 7 if single else 13
    value = full_like(_TERMS[terms], x)
    for n in range(terms - 1, -1, -1):
        value = value * x + _TERMS[n]
    return select(is_small, 0.0, _times(value, power_of_two(power)))
