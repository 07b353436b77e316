"""Vector operations of the gradient of `downsize`, beside the convolution of `_downsize_simd` whose layout they share:
`[pixel][channel]`, channels of maps padded to whole vectors.
"""

from collections.abc import Callable
from typing import Any

from numba.core import cgutils, types

from fastwarp.kernels.cpu._downsize_simd import _add_products, _exponential, _for_tiles, _lanes, _number
from fastwarp.kernels.cpu._simd import _FLAGS, _I64, _constant, _data, _raw_load, _splat, _store, _vector, intrinsic

BLOCKS = (6, 3, 1)  # sums in registers; 12 of AVX2's 16 at most


def _place(builder: Any, places: Any, index: Any) -> Any:
    return builder.sext(builder.load(builder.gep(places, [index])), _I64)


def _for_vectors(builder: Any, values: Any, wide: Any, body: Callable[[Any], None]) -> None:
    """Calls body(first) for the vectors of 0 .. values."""
    with cgutils.for_range(builder, builder.sdiv(values, _number(wide.count))) as loop:
        body(builder.mul(loop.index, _number(wide.count)))


@intrinsic
def multiply(typingctx, source, rows, stride, channels, places, weight, width, target, at):
    """Products of pixels, each of them channels of several rows, with one matrix.

    `target[at + j*width + f] = sum over n, c of source[rows[n] + places[j]*stride + c] weight[(n*channels + c)*width +
    f]`, f in 0 .. width, a multiple of `_downsize_simd.width`; c in 0 .. `channels` >= 1.
    """

    def codegen(context, builder, signature, args):
        source, rows, places, weight, target = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 1, 4, 5, 7)
        )
        stride, channels, width, at = args[2], args[3], args[6], args[8]
        taps = context.make_array(signature.args[1])(context, builder, args[1]).nitems
        count = context.make_array(signature.args[4])(context, builder, args[4]).nitems
        wide = _vector(source.type.pointee, _lanes(source.type.pointee))
        size = builder.mul(channels, width)

        def vector(feature):
            def tile(first, pixels):
                outputs = [builder.add(first, _number(k)) for k in range(pixels)]
                offsets = [builder.mul(_place(builder, places, j), stride) for j in outputs]
                totals = [cgutils.alloca_once_value(builder, _constant(wide, 0.0)) for _ in outputs]
                for total in totals:  # allocated once, but this is a loop
                    builder.store(_constant(wide, 0.0), total)
                with cgutils.for_range(builder, taps) as loop:
                    row = builder.load(builder.gep(rows, [loop.index]))
                    starts = [builder.gep(source, [builder.add(row, offset)]) for offset in offsets]
                    matrix = builder.gep(weight, [builder.add(builder.mul(loop.index, size), feature)])
                    before = [builder.load(total) for total in totals]
                    sums, _ = _add_products(builder, before, starts, channels, matrix, width)
                    for value, total in zip(sums, totals, strict=True):
                        builder.store(value, total)
                for j, total in zip(outputs, totals, strict=True):
                    place = builder.add(builder.add(at, builder.mul(j, width)), feature)
                    _store(builder, signature.args[7].dtype, builder.load(total), target, place, wide.count)

            _for_tiles(builder, count, tile)

        _for_vectors(builder, width, wide, vector)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, rows, i, i, places, weight, i, target, i), codegen


@intrinsic
def add_outer_products(typingctx, a, at_a, step_a, count, a_places, g, at_g, step_g, g_places, sums, at):
    """Outer products of pixels of two rows, summed: `sums[at + j*step_g + f] += sum over i of a[at_a +
    a_places[i]*step_a + j] g[at_g + g_places[i]*step_g + f]`, j in 0 .. count, f in 0 .. step_g, a multiple of
    `_downsize_simd.width`. Pixels are added in order.
    """

    def codegen(context, builder, signature, args):
        a, a_places, g, g_places, sums = (_data(context, builder, signature.args[i], args[i]) for i in (0, 4, 5, 8, 9))
        at_a, step_a, count, at_g, step_g, at = (args[i] for i in (1, 2, 3, 6, 7, 10))
        pixels = context.make_array(signature.args[4])(context, builder, args[4]).nitems
        wide = _vector(g.type.pointee, _lanes(g.type.pointee))
        storage = signature.args[9].dtype
        first = cgutils.alloca_once(builder, _I64)

        def vector(feature):
            def block(start, size):
                places = [
                    builder.add(builder.add(at, feature), builder.mul(builder.add(start, _number(k)), step_g))
                    for k in range(size)
                ]
                before, loop, after = (
                    builder.block,
                    builder.append_basic_block("pixel"),
                    builder.append_basic_block("pixels"),
                )
                starts = [_raw_load(builder, sums, place, wide.count) for place in places]
                builder.branch(loop)
                builder.position_at_end(loop)
                pixel = builder.phi(_I64)
                totals = [builder.phi(wide) for _ in places]
                for phi, value in zip([pixel, *totals], [_number(0), *starts], strict=True):
                    phi.add_incoming(value, before)
                where = builder.add(at_g, builder.mul(_place(builder, g_places, pixel), step_g))
                factor = _raw_load(builder, g, builder.add(where, feature), wide.count)
                where = builder.add(at_a, builder.mul(_place(builder, a_places, pixel), step_a))
                values = builder.gep(a, [builder.add(where, start)])
                results = []
                for k, total in enumerate(totals):
                    value = _splat(builder, builder.load(builder.gep(values, [_number(k)])), wide.count)
                    results.append(builder.fadd(builder.fmul(value, factor, flags=_FLAGS), total, flags=_FLAGS))
                following = builder.add(pixel, _number(1))
                for phi, value in zip([pixel, *totals], [following, *results], strict=True):
                    phi.add_incoming(value, builder.block)
                builder.cbranch(builder.icmp_signed("<", following, pixels), loop, after)
                builder.position_at_end(after)
                for place, value in zip(places, results, strict=True):
                    _store(builder, storage, value, sums, place, wide.count)

            builder.store(_number(0), first)
            for size in BLOCKS:
                begin = builder.load(first)
                times = builder.sdiv(builder.sub(count, begin), _number(size))
                with cgutils.for_range(builder, times) as loop:
                    block(builder.add(begin, builder.mul(loop.index, _number(size))), size)
                builder.store(builder.add(begin, builder.mul(times, _number(size))), first)

        with builder.if_then(builder.icmp_signed(">", pixels, _number(0))):
            _for_vectors(builder, step_g, wide, vector)
        return context.get_dummy_value()

    i = types.int64
    return types.void(a, i, i, i, a_places, g, i, i, g_places, sums, i), codegen


@intrinsic
def add_pixels(typingctx, source, at_source, values, target, at_target, step, places):
    """`target[at_target + places[j]*step + f] += source[at_source + j*values + f]` for f in 0 .. values, a multiple of
    `_downsize_simd.width`; pixel after pixel, so that places may repeat or overlap."""

    def codegen(context, builder, signature, args):
        source, target, places = (_data(context, builder, signature.args[i], args[i]) for i in (0, 3, 6))
        at_source, values, at_target, step = args[1], args[2], args[4], args[5]
        count = context.make_array(signature.args[6])(context, builder, args[6]).nitems
        wide = _vector(source.type.pointee, _lanes(source.type.pointee))
        with cgutils.for_range(builder, count) as loop:
            start = builder.add(at_source, builder.mul(loop.index, values))
            end = builder.add(at_target, builder.mul(_place(builder, places, loop.index), step))

            def vector(feature):
                place = builder.add(end, feature)
                value = _raw_load(builder, source, builder.add(start, feature), wide.count)
                total = builder.fadd(_raw_load(builder, target, place, wide.count), value)
                _store(builder, signature.args[3].dtype, total, target, place, wide.count)

            _for_vectors(builder, values, wide, vector)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, target, i, i, places), codegen


@intrinsic
def pass_positive(typingctx, source, at_source, values, activation, at_activation, target, at_target, places):
    """The gradient through a ReLU: `target[at_target + places[j]*values + f] = source[at_source + j*values + f]` where
    the activation there is above 0 or NaN, 0 elsewhere; f in 0 .. values, a multiple of `_downsize_simd.width`."""

    def codegen(context, builder, signature, args):
        source, activation, target, places = (_data(context, builder, signature.args[i], args[i]) for i in (0, 3, 5, 7))
        at_source, values, at_activation, at_target = args[1], args[2], args[4], args[6]
        count = context.make_array(signature.args[7])(context, builder, args[7]).nitems
        wide = _vector(source.type.pointee, _lanes(source.type.pointee))
        zero = _constant(wide, 0.0)
        with cgutils.for_range(builder, count) as loop:
            start = builder.add(at_source, builder.mul(loop.index, values))
            pixel = builder.mul(_place(builder, places, loop.index), values)

            def vector(feature):
                place = builder.add(pixel, feature)
                by = _raw_load(builder, activation, builder.add(at_activation, place), wide.count)
                value = _raw_load(builder, source, builder.add(start, feature), wide.count)
                value = builder.select(builder.fcmp_ordered("<=", by, zero), zero, value)
                place = builder.add(at_target, place)
                _store(builder, signature.args[5].dtype, value, target, place, wide.count)

            _for_vectors(builder, values, wide, vector)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, activation, i, target, i, places), codegen


@intrinsic
def coefficients_gradient(typingctx, z, values, grads, step, taps, count, sigmoid):
    """`grads[k*step + i]`, the gradient to coefficient k of target i, becomes that to z_k, for i in 0 .. count, rounded
    up to whole vectors.

    `z` and `values`, the coefficients, lie likewise. With a_k = s_k / sum_j s_j and ds_k/dz_k = s_k slope_k it is
    `a_k slope_k (grad_k - sum_j a_j grad_j)`; slope is sigma(-z_k) for `sigmoid` and 1 for the softmax.
    """

    def codegen(context, builder, signature, args):
        z, values, grads = (_data(context, builder, signature.args[i], args[i]) for i in range(3))
        step, taps, count, sigmoid = args[3:]
        wide = _vector(values.type.pointee, _lanes(values.type.pointee))
        zero, one = _constant(wide, 0.0), _constant(wide, 1.0)
        blocks = builder.sdiv(builder.add(count, _number(wide.count - 1)), _number(wide.count))
        total = cgutils.alloca_once(builder, wide)
        with cgutils.for_range(builder, blocks) as outer:
            first = builder.mul(outer.index, _number(wide.count))
            builder.store(zero, total)
            with cgutils.for_range(builder, taps) as loop:
                at = builder.add(first, builder.mul(loop.index, step))
                a, grad = (_raw_load(builder, array, at, wide.count) for array in (values, grads))
                term = builder.fmul(a, grad, flags=_FLAGS)
                builder.store(builder.fadd(builder.load(total), term, flags=_FLAGS), total)
            with cgutils.for_range(builder, taps) as loop:
                at = builder.add(first, builder.mul(loop.index, step))
                a, grad = (_raw_load(builder, array, at, wide.count) for array in (values, grads))
                result = builder.fmul(a, builder.fsub(grad, builder.load(total)))
                with builder.if_else(sigmoid) as (scaled, plain):
                    with scaled:
                        x = _raw_load(builder, z, at, wide.count)
                        above = builder.fcmp_ordered(">", x, zero)
                        e = _exponential(builder, builder.select(above, builder.fneg(x), x))
                        slope = builder.fdiv(builder.select(above, e, one), builder.fadd(one, e))
                        _store(builder, signature.args[2].dtype, builder.fmul(result, slope), grads, at, wide.count)
                    with plain:
                        _store(builder, signature.args[2].dtype, result, grads, at, wide.count)
        return context.get_dummy_value()

    i = types.int64
    return types.void(z, values, grads, i, i, i, types.boolean), codegen
