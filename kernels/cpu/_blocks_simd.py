"""Vector operations of `_blocks`.

Where the taps of a block lie within `WINDOW` pixels, that window of two rows is loaded and blended as vectors, and the
taps are picked from registers; elsewhere each target's two neighbours are loaded as a pair.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from fastwarp.kernels.cpu._simd import (
    _FLAGS,
    _I32,
    _I64,
    LANES,
    _blend,
    _constant,
    _data,
    _load,
    _prefetch,
    _raw_load,
    _splat,
    _store,
    _vector,
    _widen,
    intrinsic,
)

WINDOW = 2 * LANES
ROWS = 4  # made together: what a block needs to know is loaded once for them


def _pick(builder: Any, halves: list[Any], index: Any) -> Any:
    """`[*halves[0], *halves[1]][index]` for a vector of indices. Written lane by lane: LLVM makes a
    permutation of registers of it where there is one, and loads from the stack elsewhere."""
    found = []
    within = builder.and_(index, _constant(index.type, LANES - 1))
    for half in halves:
        picked = ir.Constant(half.type, ir.Undefined)
        for k in range(LANES):
            lane = ir.Constant(_I32, k)
            value = builder.extract_element(half, builder.extract_element(within, lane))
            picked = builder.insert_element(picked, value, lane)
        found.append(picked)
    is_high = builder.icmp_signed(">=", index, _constant(index.type, LANES))
    return builder.select(is_high, found[1], found[0])


@intrinsic
def blend_blocks(
    typingctx, source, upper, lower, w_upper, w_lower, place, taps, weights, scale, bias, target, out, ahead
):
    """`ROWS` rows of targets, in blocks as `blocks` makes them: `target[out[r] + j] = scale * value + bias`.

    `upper` and `lower` are where the two source rows of each begin; what lies `ahead` values further on is prefetched.
    """

    def codegen(context, builder, signature, args):
        source, upper, lower, w_upper, w_lower, place, taps, weights, target, out = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 1, 2, 3, 4, 5, 6, 7, 10, 11)
        )
        storage, real = signature.args[0].dtype, weights.type.pointee

        def each(array: Any) -> list[Any]:
            return [builder.load(builder.gep(array, [_number(r)])) for r in range(ROWS)]

        length = context.make_array(signature.args[0])(context, builder, args[0]).nitems
        count = builder.extract_value(context.make_array(signature.args[5])(context, builder, args[5]).shape, 0)
        rows = list(zip(each(upper), each(lower), strict=True))
        by_row = [[_splat(builder, w) for w in two] for two in zip(each(w_upper), each(w_lower), strict=True)]
        outs = each(out)
        scale, bias = (_splat(builder, a) for a in args[8:10])
        # A window near the end of the array would leave it.
        last = rows[0][1]
        for _, low in rows[1:]:
            last = builder.select(builder.icmp_signed(">", low, last), low, last)
        reach = builder.sub(builder.sub(length, last), _number(WINDOW))
        far = builder.icmp_signed("!=", args[12], _number(0))
        results = [[cgutils.alloca_once(builder, _vector(real, LANES)) for _ in range(2)] for _ in range(ROWS)]
        with cgutils.for_range(builder, count) as loop:
            start = builder.load(builder.gep(place, [builder.add(builder.mul(loop.index, _number(2)), _number(1))]))
            first = builder.mul(loop.index, _number(3 * LANES))
            inside = builder.and_(builder.icmp_signed(">=", start, _number(0)), builder.icmp_signed("<=", start, reach))
            with builder.if_else(inside) as (window, pairs):
                with window:
                    with builder.if_then(far):
                        for two in rows:
                            for a in two:
                                _prefetch(builder, source, builder.add(builder.add(a, start), args[12]), False)
                    where = [_raw_load(builder, taps, builder.add(first, _number(i * LANES)), LANES) for i in (1, 2)]
                    for two, by, result in zip(rows, by_row, results, strict=True):
                        parts = []
                        for part in range(2):
                            offset = builder.add(start, _number(part * LANES))
                            values = [_load(builder, storage, source, builder.add(a, offset), real, LANES) for a in two]
                            parts.append(_blend(builder, values, by))
                        for one, index in zip(result, where, strict=True):
                            builder.store(_pick(builder, parts, index), one)
                with pairs:
                    offsets = [builder.load(builder.gep(taps, [builder.add(first, _number(k))])) for k in range(LANES)]
                    offsets = [builder.sext(offset, _I64) for offset in offsets]
                    with builder.if_then(far):
                        for two in rows:
                            for a in two:
                                for offset in offsets[:: LANES // 2]:
                                    _prefetch(builder, source, builder.add(builder.add(a, offset), args[12]), False)
                    for two, by, result in zip(rows, by_row, results, strict=True):
                        halves: list[list[Any]] = [[], []]
                        for a in two:
                            several = [_raw_load(builder, source, builder.add(a, offset), 2) for offset in offsets]
                            for half, value in enumerate(_halves(builder, several)):
                                halves[half].append(_widen(builder, storage, value, real, LANES))
                        blended = [_blend(builder, values, by) for values in halves]
                        for one, lanes in zip(result, _part(builder, *blended), strict=True):
                            builder.store(lanes, one)
            second = builder.mul(loop.index, _number(2 * LANES))
            by_column = [_raw_load(builder, weights, builder.add(second, _number(i * LANES)), LANES) for i in (0, 1)]
            at = builder.load(builder.gep(place, [builder.mul(loop.index, _number(2))]))
            for begin, result in zip(outs, results, strict=True):
                value = _blend(builder, [builder.load(one) for one in result], by_column)
                value = builder.fadd(builder.fmul(value, scale, flags=_FLAGS), bias, flags=_FLAGS)
                _store(builder, signature.args[10].dtype, value, target, builder.add(begin, at), LANES)
        return context.get_dummy_value()

    i, real = types.int64, weights.dtype
    arrays = (upper, lower, w_upper, w_lower, place, taps, weights)
    return types.void(source, *arrays, real, real, target, out, i), codegen


@intrinsic
def sum_blocks(typingctx, lines, stride, place, offset, taps, weights, scale, bias, target, out):
    """`ROWS` rows of targets, in blocks as `sums` makes them, from as many lines: `target[out[r] + j]` is `scale * (sum
    of weights * taps of lines[r*stride:]) + bias`."""

    def codegen(context, builder, signature, args):
        lines, place, offset, taps, weights, target, out = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 2, 3, 4, 5, 8, 9)
        )
        real = weights.type.pointee
        zero = _constant(_vector(real, LANES), 0.0)
        count = builder.extract_value(context.make_array(signature.args[2])(context, builder, args[2]).shape, 0)
        begins = [builder.mul(args[1], _number(r)) for r in range(ROWS)]
        outs = [builder.load(builder.gep(out, [_number(r)])) for r in range(ROWS)]
        scale, bias = (_splat(builder, a) for a in args[6:8])
        totals = [cgutils.alloca_once(builder, zero.type) for _ in range(ROWS)]

        def add(several: Any, values: Any) -> None:
            """Adds the terms of taps `several`, whose values `values(row, where)` finds."""
            with cgutils.for_range(builder, several[1], start=several[0]) as loop:
                first = builder.mul(loop.index, _number(LANES))
                where, by = (_raw_load(builder, array, first, LANES) for array in (taps, weights))
                used = builder.fcmp_unordered("!=", by, zero)
                for row, total in enumerate(totals):
                    term = builder.select(used, builder.fmul(values(row, where), by, flags=_FLAGS), zero)
                    builder.store(builder.fadd(builder.load(total), term, flags=_FLAGS), total)

        with cgutils.for_range(builder, count) as loop:
            at, start = (
                builder.load(builder.gep(place, [builder.add(builder.mul(loop.index, _number(2)), _number(i))]))
                for i in (0, 1)
            )
            several = [builder.load(builder.gep(offset, [builder.add(loop.index, _number(i))])) for i in (0, 1)]
            for total in totals:
                builder.store(zero, total)
            with builder.if_else(builder.icmp_signed(">=", start, _number(0))) as (window, loads):
                with window:
                    windows = [
                        [
                            _raw_load(builder, lines, builder.add(builder.add(begin, start), _number(i * LANES)), LANES)
                            for i in (0, 1)
                        ]
                        for begin in begins
                    ]
                    add(several, lambda row, where: _pick(builder, windows[row], where))
                with loads:
                    add(several, lambda row, where: _gather(builder, lines, begins[row], where))
            for begin, total in zip(outs, totals, strict=True):
                value = builder.fadd(builder.fmul(builder.load(total), scale, flags=_FLAGS), bias, flags=_FLAGS)
                _store(builder, signature.args[8].dtype, value, target, builder.add(begin, at), LANES)
        return context.get_dummy_value()

    i, real = types.int64, weights.dtype
    return types.void(lines, i, place, offset, taps, weights, real, real, target, out), codegen


def _gather(builder: Any, source: Any, begin: Any, index: Any) -> Any:
    """`source[begin + index]` for a vector of indices."""
    result = ir.Constant(_vector(source.type.pointee, LANES), ir.Undefined)
    for k in range(LANES):
        lane = ir.Constant(_I32, k)
        where = builder.add(begin, builder.sext(builder.extract_element(index, lane), _I64))
        result = builder.insert_element(result, builder.load(builder.gep(source, [where])), lane)
    return result


def _number(value: int) -> Any:
    return ir.Constant(_I64, value)


def _halves(builder: Any, pairs: list[Any]) -> list[Any]:
    """The first and the second four of eight pairs, each side by side."""
    halves = []
    for vectors in (pairs[: LANES // 2], pairs[LANES // 2 :]):
        while len(vectors) > 1:
            lanes = 2 * vectors[0].type.count
            mask = ir.Constant(ir.VectorType(_I32, lanes), list(range(lanes)))
            vectors = [builder.shuffle_vector(a, b, mask) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
        halves += vectors
    return halves


def _part(builder: Any, first: Any, second: Any) -> list[Any]:
    """The first and the second values of pairs."""
    masks = [ir.Constant(ir.VectorType(_I32, LANES), list(range(i, 2 * LANES, 2))) for i in (0, 1)]
    return [builder.shuffle_vector(first, second, mask) for mask in masks]
