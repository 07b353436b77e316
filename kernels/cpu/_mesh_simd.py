"""The inner loop of a mesh's inverse: eight targets of a row at a time, all of them in one tile.

With d the target relative to corner A, X = ExF and t = dxG, the bilinear patch has |det J| = S, S^2 = (X + t)^2 -
4 (GxF) (dxE), and both coordinates follow in their stable form: g = -2 dxE / (X + t + S), f = 2 dxF / (X - t + S).
The homography has f = (1 + q) dxF / D, g = (1 + p) Exd / D, D = (1 + p)(1 + q) X - q (1 + p) Exd - p (1 + q) dxF. All
products are linear in the target, so that a run of targets needs one multiplication each.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from fastwarp.kernels.cpu._simd import (
    _FLAGS,
    _I32,
    _I64,
    LANES,
    _constant,
    _data,
    _raw_load,
    _splat,
    _store,
    _vector,
    intrinsic,
)

COEFFICIENTS = 19
"""Of a tile: numerators of f and g and a third value, each at A, by row and by column; X; twice GxF; least and
greatest f and g; then factor, origin and greatest value of a window, for x and y."""


def _limit(builder: Any, value: Any, low: Any, high: Any) -> Any:
    value = builder.select(builder.fcmp_ordered(">", value, low), value, low)
    return builder.select(builder.fcmp_ordered("<", value, high), value, high)


def _local_bilinear(builder: Any, f: Any, g: Any, t: Any, area: Any, twice: Any) -> tuple[Any, Any]:
    linear = builder.fadd(area, t, flags=_FLAGS)
    disc = builder.fadd(builder.fmul(linear, linear, flags=_FLAGS), builder.fmul(twice, g, flags=_FLAGS), flags=_FLAGS)
    zero = _constant(disc.type, 0.0)
    disc = builder.select(builder.fcmp_ordered(">", disc, zero), disc, zero)
    suffix = "f32" if disc.type.element == ir.FloatType() else "f64"
    type_ = ir.FunctionType(disc.type, [disc.type])
    sqrt = cgutils.get_or_insert_function(builder.module, type_, f"llvm.sqrt.v{LANES}{suffix}")
    root = builder.call(sqrt, [disc])
    across = builder.fadd(builder.fsub(area, t, flags=_FLAGS), root, flags=_FLAGS)
    return builder.fdiv(f, across), builder.fdiv(g, builder.fadd(linear, root, flags=_FLAGS))


def _local_homography(builder: Any, f: Any, g: Any, depth: Any, *_: Any) -> tuple[Any, Any]:
    scale = builder.fdiv(_constant(depth.type, 1.0), depth)
    return builder.fmul(f, scale, flags=_FLAGS), builder.fmul(g, scale, flags=_FLAGS)


def _rows(local: Any) -> Any:
    """Makes `rows(coefficients, column, row, first, last, left, right, run, width, at, tile, x, y, tiles)`.

    Writes the targets `left[run + r - first] <= k < right[run + r - first]` of the rows r in first .. last. `column`
    and `row` are corner A's, `at` is where the level lies in the results, `width` >= 8 the targets of a row.
    """

    def rows(typingctx, coefficients, column, row, first, last, left, right, run, width, at, tile, x, y, tiles):
        def codegen(context, builder, signature, args):
            coefficients, left, right, x, y, tiles = (
                _data(context, builder, signature.args[i], args[i]) for i in (0, 5, 6, 11, 12, 13)
            )
            column, row, first, last = args[1:5]
            run, width, at, tile = args[7:11]
            real, storage = coefficients.type.pointee, signature.args[11].dtype
            wide = _vector(real, LANES)
            c = [builder.load(builder.gep(coefficients, [ir.Constant(_I64, i)])) for i in range(COEFFICIENTS)]
            slopes = [_splat(builder, c[i]) for i in (2, 5, 8)]
            rest = [_splat(builder, value) for value in c[9:]]
            area, twice, least, greatest = rest[:4]
            owner = _splat(builder, builder.trunc(tile, _I32))
            lanes = ir.Constant(wide, [float(i) for i in range(LANES)])
            numbers = ir.Constant(ir.VectorType(_I64, LANES), list(range(LANES)))
            eight, seven = ir.Constant(_I64, LANES), ir.Constant(_I64, LANES - 1)

            def block(k, line, starts, inside):
                offset = builder.fadd(_splat(builder, builder.sitofp(builder.sub(k, column), real)), lanes)
                values = [
                    builder.fadd(start, builder.fmul(offset, slope, flags=_FLAGS), flags=_FLAGS)
                    for start, slope in zip(starts, slopes, strict=True)
                ]
                f, g = local(builder, *values, area, twice)
                where = builder.add(line, k)
                for value, i, target in ((f, 4, x), (g, 7, y)):
                    value = _limit(builder, value, least, greatest)
                    factor, origin, last = rest[i : i + 3]
                    window = builder.fadd(builder.fmul(value, factor, flags=_FLAGS), origin, flags=_FLAGS)
                    window = _limit(builder, window, _constant(wide, 0.0), last)
                    if window.type.element != target.type.pointee:
                        window = builder.fptrunc(window, _vector(target.type.pointee, LANES))
                    if inside:
                        window = builder.select(inside, window, _raw_load(builder, target, where, LANES))
                    _store(builder, storage, window, target, where, LANES)
                number = builder.select(inside, owner, _raw_load(builder, tiles, where, LANES)) if inside else owner
                _store(builder, types.int32, number, tiles, where, LANES)

            with cgutils.for_range(builder, builder.sub(last, first)) as rows:
                where = builder.add(run, rows.index)
                begin, end = (builder.fptosi(builder.load(builder.gep(a, [where])), _I64) for a in (left, right))
                r = builder.add(first, rows.index)
                line = builder.add(at, builder.mul(r, width))
                down = builder.sitofp(builder.sub(r, row), real)
                starts = []
                for i in (0, 3, 6):
                    step = builder.fmul(down, c[i + 1], flags=_FLAGS)
                    starts.append(_splat(builder, builder.fadd(c[i], step, flags=_FLAGS)))
                count = builder.sub(end, begin)
                with builder.if_else(builder.icmp_signed(">=", count, eight)) as (many, few):
                    with many:
                        final = builder.sub(end, eight)
                        with cgutils.for_range(builder, builder.sdiv(builder.add(count, seven), eight)) as loop:
                            k = builder.add(begin, builder.mul(loop.index, eight))
                            block(builder.select(builder.icmp_signed("<", k, final), k, final), line, starts, None)
                    with few, builder.if_then(builder.icmp_signed(">", count, ir.Constant(_I64, 0))):
                        # Eight targets of the same row, of which only the run changes.
                        final = builder.sub(width, eight)
                        k = builder.select(builder.icmp_signed("<", begin, final), begin, final)
                        every = builder.add(_splat(builder, k), numbers)
                        inside = builder.and_(
                            builder.icmp_signed(">=", every, _splat(builder, begin)),
                            builder.icmp_signed("<", every, _splat(builder, end)),
                        )
                        block(k, line, starts, inside)
            return context.get_dummy_value()

        i = types.int64
        return types.void(coefficients, i, i, i, i, left, right, i, i, i, i, x, y, tiles), codegen

    return intrinsic(rows)


bilinear_rows = _rows(_local_bilinear)
homography_rows = _rows(_local_homography)
