"""Vector operations of `_banded`: sums of any number of rows, or of pixels of a row."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from fastwarp.kernels.cpu._simd import (
    _FLAGS,
    _I64,
    LANES,
    _constant,
    _data,
    _load,
    _splat,
    _store,
    _vector,
    intrinsic,
)

_UNROLLED = 4  # vectors that share a weight


def _number(value: int) -> Any:
    return ir.Constant(_I64, value)


def _for_many_blocks(builder: Any, count: Any, body: Callable[[Any, int], None]) -> None:
    """Calls body(first, vectors) for blocks that cover 0 .. count, count >= 8: first of several vectors, then of one;
    the last may overlap the one before."""
    size = _UNROLLED * LANES
    several = builder.sdiv(count, _number(size))
    with cgutils.for_range(builder, several) as loop:
        body(builder.mul(loop.index, _number(size)), _UNROLLED)
    done = builder.mul(several, _number(size))
    rest = builder.sub(count, done)
    last = builder.sub(count, _number(LANES))
    blocks = builder.sdiv(builder.add(rest, _number(LANES - 1)), _number(LANES))
    with cgutils.for_range(builder, blocks) as loop:
        first = builder.add(done, builder.mul(loop.index, _number(LANES)))
        body(builder.select(builder.icmp_signed("<", first, last), first, last), 1)


def _weighted_sum(
    builder: Any, count: Any, vectors: int, real: Any, weight: Callable[[Any], Any], values: Callable[[Any], list[Any]]
) -> list[Any]:
    """`sum over t of weight(t) * values(t)`, of several vectors, for t in 0 .. count."""
    totals = [cgutils.alloca_once(builder, _vector(real, LANES)) for _ in range(vectors)]
    for total in totals:
        builder.store(_constant(_vector(real, LANES), 0.0), total)
    with cgutils.for_range(builder, count) as loop:
        by = _splat(builder, weight(loop.index))
        for total, value in zip(totals, values(loop.index), strict=True):
            term = builder.fmul(value, by, flags=_FLAGS)
            builder.store(builder.fadd(builder.load(total), term, flags=_FLAGS), total)
    return [builder.load(total) for total in totals]


@intrinsic
def sum_rows(typingctx, source, start, stride, weight, first, rows, target, at, count):
    """`target[at + i] = sum over r of weight[first + r] source[start + r*stride + i]`, r in 0 .. rows, i in 0 .. count
    >= 8."""

    def codegen(context, builder, signature, args):
        source, weight, target = (_data(context, builder, signature.args[i], args[i]) for i in (0, 3, 6))
        storage, real = signature.args[0].dtype, weight.type.pointee

        def block(i: Any, vectors: int) -> None:
            def values(row: Any) -> list[Any]:
                begin = builder.add(builder.add(args[1], builder.mul(row, args[2])), i)
                places = (builder.add(begin, _number(v * LANES)) for v in range(vectors))
                return [_load(builder, storage, source, place, real, LANES) for place in places]

            def by(row: Any) -> Any:
                return builder.load(builder.gep(weight, [builder.add(args[4], row)]))

            for v, total in enumerate(_weighted_sum(builder, args[5], vectors, real, by, values)):
                place = builder.add(builder.add(args[7], i), _number(v * LANES))
                _store(builder, signature.args[6].dtype, total, target, place, LANES)

        _for_many_blocks(builder, args[8], block)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, weight, i, i, target, i, i), codegen


@intrinsic
def sum_pixels(typingctx, line, begin, start, offset, weight, channels, target, index):
    """One row of pixels of 8 channels or more: for all pixels j and channels c, `target[index + j*channels + c]` is
    the sum over t of `weight[offset[j] + t] line[begin + (start[j] + t)*channels + c]`, t in 0 .. offset[j + 1] -
    offset[j]."""

    def codegen(context, builder, signature, args):
        line, start, offset, weight, target = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 2, 3, 4, 6)
        )
        storage, real = signature.args[0].dtype, weight.type.pointee
        count = context.make_array(signature.args[2])(context, builder, args[2]).nitems
        with cgutils.for_range(builder, count) as loop:
            first = builder.load(builder.gep(offset, [loop.index]))
            taps = builder.sub(builder.load(builder.gep(offset, [builder.add(loop.index, _number(1))])), first)
            pixel = builder.mul(builder.load(builder.gep(start, [loop.index])), args[5])
            pixel = builder.add(args[1], pixel)
            out = builder.add(args[7], builder.mul(loop.index, args[5]))

            def block(i: Any, vectors: int, first: Any = first, taps: Any = taps, pixel: Any = pixel, out: Any = out):
                def values(tap: Any) -> list[Any]:
                    at = builder.add(builder.add(pixel, builder.mul(tap, args[5])), i)
                    places = (builder.add(at, _number(v * LANES)) for v in range(vectors))
                    return [_load(builder, storage, line, place, real, LANES) for place in places]

                def by(tap: Any) -> Any:
                    return builder.load(builder.gep(weight, [builder.add(first, tap)]))

                for v, total in enumerate(_weighted_sum(builder, taps, vectors, real, by, values)):
                    place = builder.add(builder.add(out, i), _number(v * LANES))
                    _store(builder, signature.args[6].dtype, total, target, place, LANES)

            _for_many_blocks(builder, args[5], block)
        return context.get_dummy_value()

    i = types.int64
    return types.void(line, i, start, offset, weight, i, target, i), codegen
