"""Vector operations of the `downsize` family, in LLVM's portable IR as those of `_simd`.

Activations lie as `[pixel][channel]`, output channels padded to whole vectors of 64 bytes (`WIDTH` values). The inner
loop keeps `PIXELS` output pixels in registers: one load of weights serves all of them, and an input value is
broadcast as it is loaded. That is as fast as multiplication and addition go: other loads fit beside them.
"""

import math
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from fastwarp.kernels.cpu._grid_simd import _pairs, _parted
from fastwarp.kernels.cpu._simd import (
    _FLAGS,
    _I32,
    _I64,
    LANES,
    _constant,
    _data,
    _load,
    _prefetch,
    _raw_load,
    _splat,
    _store,
    _vector,
    intrinsic,
)

PIXELS = 6  # 12 of AVX2's 16 registers are accumulators: with more they are spilled, with fewer latency shows

_BYTES = 64


def width(real: Any) -> int:
    """Values of a vector, to a multiple of which output channels are padded."""
    return _BYTES // real.itemsize


def _lanes(real: ir.Type) -> int:
    return _BYTES // (8 if real == ir.DoubleType() else 4)


def _number(value: int) -> ir.Constant:
    return ir.Constant(_I64, value)


def _for_tiles(builder: Any, count: Any, body: Any) -> None:
    """Calls body(first, size) for tiles of `PIXELS` that cover 0 .. count, the last of which may overlap the one
    before, or for tiles of one where there are fewer."""
    size = _number(PIXELS)
    last = builder.sub(count, size)
    with builder.if_else(builder.icmp_signed("<", last, _number(0))) as (few, many):
        with few, cgutils.for_range(builder, count) as loop:
            body(loop.index, 1)
        with many:
            tiles = builder.sdiv(builder.add(count, _number(PIXELS - 1)), size)
            with cgutils.for_range(builder, tiles) as loop:
                first = builder.mul(loop.index, size)
                body(builder.select(builder.icmp_signed("<", first, last), first, last), PIXELS)


def _add_products(
    builder: Any, totals: list[Any], pixels: list[Any], channels: Any, weight: Any, width: Any
) -> tuple[list[Any], Any]:
    """Adds to each total `sum_c pixel[c] weight[c*width:]`; also returns the weight after the last of `channels` >= 1.

    The totals are phis of the loop, so that nothing but registers can hold them.
    """
    wide = totals[0].type
    before, loop, after = builder.block, builder.append_basic_block("channel"), builder.append_basic_block("channels")
    builder.branch(loop)
    builder.position_at_end(loop)
    phis = [builder.phi(type_) for type_ in (_I64, weight.type, *([wide] * len(totals)))]
    for phi, start in zip(phis, (_number(0), weight, *totals), strict=True):
        phi.add_incoming(start, before)
    channel, place, *sums = phis
    weights = _raw_load(builder, place, _number(0), wide.count)
    for k, pixel in enumerate(pixels):
        value = _splat(builder, builder.load(builder.gep(pixel, [channel])), wide.count)
        sums[k] = builder.fadd(builder.fmul(value, weights, flags=_FLAGS), sums[k], flags=_FLAGS)
    following = builder.add(channel, _number(1))
    place = builder.gep(place, [width])
    for phi, value in zip(phis, (following, place, *sums), strict=True):
        phi.add_incoming(value, builder.block)
    builder.cbranch(builder.icmp_signed("<", following, channels), loop, after)
    builder.position_at_end(after)
    return sums, place


def _rectified(builder: Any, value: Any, relu: Any) -> Any:
    """0 for what is below: NaN is not."""
    zero = _constant(value.type, 0.0)
    below = builder.and_(builder.fcmp_ordered("<", value, zero), _splat(builder, relu, value.type.count))
    return builder.select(below, zero, value)


@intrinsic
def convolve_row(typingctx, source, upper, middle, lower, stride, channels, left, weight, bias, relu, target, at):
    """A 3x3 convolution of one row of pixels, at any columns of the three rows it reads.

    `target[at + j*F + f] = bias[f] + sum over dy, dx, c of source[row[dy] + (left[j] + dx)*stride + c]
    weight[((3*dy + dx)*channels + c)*F + f]`, F = len(bias), a multiple of `width`. Rectified if `relu`.

    The rows begin at `upper`, `middle` and `lower` of `source` and have `channels` >= 1 values every `stride`; padding
    is zeros in there. `left[j]` (int32) is the place of output j's left neighbour, the other two pixels follow it. Rows
    may begin before `source` where all of `left` makes up for it.
    """

    def codegen(context, builder, signature, args):
        source, left, weight, bias, target = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 6, 7, 8, 10)
        )
        rows, (stride, channels), relu, at = args[1:4], args[4:6], args[9], args[11]
        count = context.make_array(signature.args[6])(context, builder, args[6]).nitems
        width = context.make_array(signature.args[8])(context, builder, args[8]).nitems
        wide = _vector(source.type.pointee, _lanes(source.type.pointee))
        with cgutils.for_range(builder, builder.sdiv(width, _number(wide.count))) as vectors:
            feature = builder.mul(vectors.index, _number(wide.count))
            start = _raw_load(builder, bias, feature, wide.count)

            def tile(first, size):
                outputs = [builder.add(first, _number(k)) for k in range(size)]
                places = [builder.sext(builder.load(builder.gep(left, [j])), _I64) for j in outputs]
                places = [builder.mul(place, stride) for place in places]
                totals, weights = [start] * size, builder.gep(weight, [feature])
                for row in rows:
                    pixels = [builder.gep(source, [builder.add(row, place)]) for place in places]
                    for _ in range(3):
                        totals, weights = _add_products(builder, totals, pixels, channels, weights, width)
                        pixels = [builder.gep(pixel, [stride]) for pixel in pixels]
                for j, total in zip(outputs, totals, strict=True):
                    place = builder.add(builder.add(at, builder.mul(j, width)), feature)
                    value = _rectified(builder, total, relu)
                    _store(builder, signature.args[10].dtype, value, target, place, wide.count)

            _for_tiles(builder, count, tile)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, i, i, i, left, weight, bias, types.boolean, target, i), codegen


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """As many vectors as lanes, lane j of vector i in lane i of vector j."""
    lanes = len(rows)
    step = lanes // 2
    while step:
        low = [i if not i & step else lanes + i - step for i in range(lanes)]
        high = [i + step if not i & step else lanes + i for i in range(lanes)]
        masks = [ir.Constant(ir.VectorType(_I32, lanes), mask) for mask in (low, high)]
        for k in range(lanes):
            if not k & step:
                rows[k], rows[k + step] = (builder.shuffle_vector(rows[k], rows[k + step], mask) for mask in masks)
        step //= 2
    return rows


@intrinsic
def add_products(typingctx, features, count, channels, stride, texture, scores, step):
    """`scores[k*step + j] += sum over c of texture[k*stride + c] features[j*stride + c]` for c in 0 .. channels and j
    in 0 .. count, rounded up to whole vectors."""

    def codegen(context, builder, signature, args):
        features, texture, scores = (_data(context, builder, signature.args[i], args[i]) for i in (0, 4, 5))
        count, channels, stride, step = (args[i] for i in (1, 2, 3, 6))
        taps = context.make_array(signature.args[4])(context, builder, args[4]).nitems
        taps = builder.sdiv(taps, stride)
        lanes = _lanes(features.type.pointee)
        blocks = builder.sdiv(builder.add(count, _number(lanes - 1)), _number(lanes))
        numbers = ir.Constant(ir.VectorType(_I64, lanes), list(range(lanes)))
        zero = _constant(_vector(features.type.pointee, lanes), 0.0)

        def block(first, feature):
            real = builder.icmp_signed("<", numbers, _splat(builder, builder.sub(channels, feature), lanes))
            places = [builder.add(first, _number(i)) for i in range(lanes)]
            places = [builder.add(builder.mul(place, stride), feature) for place in places]
            # Channels of the padding can be NaN where the layer before is infinite.
            rows = [builder.select(real, _raw_load(builder, features, place, lanes), zero) for place in places]
            values = _transposed(builder, rows)
            with cgutils.for_range(builder, taps) as tap:
                place = builder.add(builder.mul(tap.index, step), first)
                total = _raw_load(builder, scores, place, lanes)
                weights = builder.gep(texture, [builder.add(builder.mul(tap.index, stride), feature)])
                for i, value in enumerate(values):
                    weight = _splat(builder, builder.load(builder.gep(weights, [_number(i)])), lanes)
                    total = builder.fadd(builder.fmul(value, weight, flags=_FLAGS), total, flags=_FLAGS)
                _store(builder, signature.args[5].dtype, total, scores, place, lanes)

        vectors = builder.sdiv(stride, _number(lanes))
        with cgutils.for_range(builder, blocks) as outer, cgutils.for_range(builder, vectors) as inner:
            block(*(builder.mul(loop.index, _number(lanes)) for loop in (outer, inner)))
        return context.get_dummy_value()

    i = types.int64
    return types.void(features, i, i, i, texture, scores, i), codegen


def _exponential(builder: Any, x: Any) -> Any:
    """e**x for x <= 0, where it is not below the normal numbers, and 0 otherwise; NaN comes through."""
    wide = x.type
    single = wide.element == ir.FloatType()
    bits, mantissa, bias, terms = (32, 23, 127, 7) if single else (64, 52, 1023, 13)
    integer = ir.VectorType(ir.IntType(bits), wide.count)
    least = _constant(wide, -87.0 if single else -708.0)
    small = builder.fcmp_ordered("<", x, least)
    x = builder.select(small, least, x)
    # Added to this number, a value is rounded to an integer, which its lowest bits then hold.
    magic = _constant(wide, 1.5 * 2**mantissa)
    shifted = builder.fadd(builder.fmul(x, _constant(wide, 1 / math.log(2)), flags=_FLAGS), magic, flags=_FLAGS)
    power = builder.fsub(shifted, magic)
    high = 0.693359375 if single else 0.6931471803691238  # few bits: its products with small integers are exact
    low = -2.1219444005469057e-4 if single else 1.9082149292705877e-10
    for part in (high, low):
        x = builder.fsub(x, builder.fmul(power, _constant(wide, part), flags=_FLAGS), flags=_FLAGS)
    value = _constant(wide, 1 / math.factorial(terms))
    for n in range(terms - 1, -1, -1):
        value = builder.fadd(builder.fmul(value, x, flags=_FLAGS), _constant(wide, 1 / math.factorial(n)), flags=_FLAGS)
    exponent = builder.add(builder.bitcast(shifted, integer), _constant(integer, bias))
    scale = builder.bitcast(builder.shl(exponent, _constant(integer, mantissa)), wide)
    return builder.select(small, _constant(wide, 0.0), builder.fmul(value, scale))


def _over_taps(builder: Any, values: Any, place: Any, step: Any, taps: Any, start: Any, combine: Any) -> Any:
    """Folds the vectors at place, place + step, ...; combine(value, so far) returns what is stored instead (or None)
    and the new state."""
    state = cgutils.alloca_once(builder, start.type)
    builder.store(start, state)
    with cgutils.for_range(builder, taps) as loop:
        at = builder.add(place, builder.mul(loop.index, step))
        value, after = combine(_raw_load(builder, values, at, start.type.count), builder.load(state))
        builder.store(after, state)
        if value is not None:
            where = builder.bitcast(builder.gep(values, [at]), value.type.as_pointer())
            builder.store(value, where, align=1)
    return builder.load(state)


def _greater(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _lesser(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _normalise(builder: Any, values: Any, place: Any, step: Any, taps: Any, wide: Any, sigmoid: bool) -> None:
    """Sigmoid or exponential of the vectors at place, place + step, ..., divided by their sum."""
    zero, one = _constant(wide, 0.0), _constant(wide, 1.0)
    infinite = _constant(wide, -math.inf)
    fold = (builder, values, place, step, taps)
    most = _over_taps(*fold, infinite, lambda z, m: (None, _greater(builder, z, m)))
    if sigmoid:
        most = _lesser(builder, most, zero)

    def exponential(z, total):
        if sigmoid:
            below = builder.select(builder.fcmp_ordered(">", z, zero), zero, z)
            above = builder.select(builder.fcmp_ordered(">", z, zero), builder.fneg(z), z)
            s = _exponential(builder, builder.fsub(below, most))
            s = builder.fdiv(s, builder.fadd(one, _exponential(builder, above)))
        else:
            s = _exponential(builder, builder.fsub(z, most))
        return s, builder.fadd(total, s)

    total = _over_taps(*fold, zero, exponential)
    _over_taps(*fold, zero, lambda s, same: (builder.fdiv(s, total), same))


@intrinsic
def coefficients(typingctx, values, step, taps, count, sigmoid):
    """`values[k*step + i]` = z_k of target i becomes its coefficient (DownsizeNet eq. 1) for i in 0 .. count, rounded
    up to whole vectors. z of -inf is 0 unless all are: then, as for NaN, all are NaN.

    `sigmoid`: `sigma(z_k) / sum_j sigma(z_j)`, never 0/0; otherwise the softmax.
    """

    def codegen(context, builder, signature, args):
        values = _data(context, builder, signature.args[0], args[0])
        step, taps, count, sigmoid = args[1:]
        wide = _vector(values.type.pointee, _lanes(values.type.pointee))
        blocks = builder.sdiv(builder.add(count, _number(wide.count - 1)), _number(wide.count))
        with builder.if_else(sigmoid) as branches:
            for kind, branch in zip((True, False), branches, strict=True):
                with branch, cgutils.for_range(builder, blocks) as loop:
                    place = builder.mul(loop.index, _number(wide.count))
                    _normalise(builder, values, place, step, taps, wide, kind)
        return context.get_dummy_value()

    i = types.int64
    return types.void(values, i, i, i, types.boolean), codegen


@intrinsic
def add_pairs(typingctx, source, base, left, begin, weights, first, second, count, line):
    """`line[i] += weights[first + i] source[base + l] + weights[second + i] source[base + l + 1]`, l = left[begin + i],
    for i in 0 .. count, rounded up to whole vectors: so many of `left` are read too."""

    def codegen(context, builder, signature, args):
        source, left, weights, line = (_data(context, builder, signature.args[i], args[i]) for i in (0, 2, 4, 8))
        storage, real = signature.args[0].dtype, line.type.pointee
        source, left = builder.gep(source, [args[1]]), builder.gep(left, [args[3]])
        blocks = builder.sdiv(builder.add(args[7], _number(LANES - 1)), _number(LANES))
        with cgutils.for_range(builder, blocks) as loop:
            first = builder.mul(loop.index, _number(LANES))
            places = [builder.load(builder.gep(left, [builder.add(first, _number(k))])) for k in range(LANES)]
            places = [builder.sext(place, _I64) for place in places]
            total = _raw_load(builder, line, first, LANES)
            for value, start in zip(
                _parted(builder, _pairs(builder, storage, source, places, real)), args[5:7], strict=True
            ):
                weight = _raw_load(builder, weights, builder.add(start, first), LANES)
                total = builder.fadd(builder.fmul(value, weight, flags=_FLAGS), total, flags=_FLAGS)
            _store(builder, signature.args[8].dtype, total, line, first, LANES)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, left, i, weights, i, i, i, line), codegen


@intrinsic
def interleave(typingctx, source, base, stride, columns, mean, scale, line, at):
    """`line[at + j*C + c] = (source[base + c*stride + columns[j]] - mean[c]) scale[c]` for C = len(mean) in 2 .. 4.

    A vector of 4 is stored for each pixel, in their order: up to a pixel behind the last one is overwritten.
    """
    lanes = 4

    def codegen(context, builder, signature, args):
        source, columns, mean, scale, line = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 3, 4, 5, 6)
        )
        storage, real = signature.args[0].dtype, line.type.pointee
        count = context.make_array(signature.args[3])(context, builder, args[3]).nitems
        channels = context.make_array(signature.args[4])(context, builder, args[4]).nitems
        undefined = ir.Constant(_vector(real, lanes), ir.Undefined)
        shift, factor, rows = undefined, undefined, []
        for c in range(lanes):
            # What has no channel is the last one, once more.
            channel = builder.select(
                builder.icmp_signed("<", _number(c), channels), _number(c), builder.sub(channels, _number(1))
            )
            lane = ir.Constant(_I32, c)
            shift = builder.insert_element(shift, builder.load(builder.gep(mean, [channel])), lane)
            factor = builder.insert_element(factor, builder.load(builder.gep(scale, [channel])), lane)
            rows.append(builder.gep(source, [builder.add(args[1], builder.mul(channel, args[2]))]))
        with cgutils.for_range(builder, count) as loop:
            column = builder.sext(builder.load(builder.gep(columns, [loop.index])), _I64)
            pixel = undefined
            for c, row in enumerate(rows):
                pixel = builder.insert_element(
                    pixel, _load(builder, storage, row, column, real, 1), ir.Constant(_I32, c)
                )
            pixel = builder.fmul(builder.fsub(pixel, shift), factor)
            place = builder.add(args[7], builder.mul(loop.index, channels))
            _store(builder, signature.args[6].dtype, pixel, line, place, lanes)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, columns, mean, scale, line, i), codegen


@intrinsic
def prefetch(typingctx, source, index):
    """Asks for the cache line of `source[index]`, which need not exist."""

    def codegen(context, builder, signature, args):
        _prefetch(builder, _data(context, builder, signature.args[0], args[0]), args[1], False)
        return context.get_dummy_value()

    return types.void(source, types.int64), codegen
