"""Vector operations of the `downsize` family, in LLVM's portable IR as those of `_simd`.

Activations lie as `[pixel][channel]`, output channels padded to whole vectors of 64 bytes (`WIDTH` values). The inner
loop keeps `PIXELS` output pixels in registers: one load of weights serves all of them, and an input value is
broadcast as it is loaded. That is as fast as multiplication and addition go: other loads fit beside them.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from fastwarp.kernels.cpu._simd import _FLAGS, _I64, _constant, _data, _raw_load, _splat, _store, _vector, intrinsic

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
