"""Vector operations of the `grid` family, in LLVM's portable IR as those of `_simd`."""

from typing import Any

from llvmlite import ir
from numba.core import types

from fastwarp.kernels.cpu._simd import (
    _FLAGS,
    _I32,
    _I64,
    LANES,
    _blend,
    _constant,
    _data,
    _for_blocks,
    _load,
    _prefetch,
    _raw_load,
    _splat,
    _store,
    intrinsic,
)

_AHEAD = 256  # targets between what is read and what is prefetched


def _shuffle(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


def _joined(builder: Any, a: Any, b: Any) -> Any:
    return _shuffle(builder, a, b, list(range(2 * a.type.count)))


def _pairs(builder: Any, storage: types.Type, source: Any, offsets: list[Any], real: ir.Type) -> list[Any]:
    """Two vectors with `source[offset]` and `source[offset + 1]` side by side for the first and the last offsets.

    The order of the offsets is the one that `_parted` undoes within the 128-bit halves of vectors.
    """
    loads = [_load(builder, storage, source, offset, real, 2) for offset in offsets]
    a, b, c, d = (_joined(builder, loads[k], loads[k + 1]) for k in range(0, LANES, 2))
    return [_joined(builder, a, c), _joined(builder, b, d)]


def _parted(builder: Any, pairs: list[Any]) -> list[Any]:
    """The first and the second of each pair, for eight pairs in the order of `_pairs`."""
    return [_shuffle(builder, *pairs, [k + i for k in (0, 2, 8, 10, 4, 6, 12, 14)]) for i in range(2)]


def _spread(builder: Any, weights: Any) -> list[Any]:
    """Weights of eight targets in the order of `_pairs`, each twice."""
    return [_shuffle(builder, weights, weights, [k + i // 2 % 2 + i // 4 * 4 for i in range(LANES)]) for k in (0, 2)]


def _fractions(builder: Any, arrays: list[Any], first: Any) -> list[list[Any]]:
    """Weights of the first and the second tap of eight targets for each array of fractions."""
    result = []
    for array in arrays:
        second = _raw_load(builder, array, first, LANES)
        one = _constant(second.type, 1.0)
        result.append([builder.fsub(one, second, flags=_FLAGS), second])
    return result


def _taps(builder: Any, source: Any, first: Any, steps: list[Any], storage: types.Type, real: ir.Type) -> list[Any]:
    """Upper left, upper right, lower left, lower right tap of one target as vectors of 4 channels."""
    down, right = steps
    below = builder.add(first, down)
    places = (first, builder.add(first, right), below, builder.add(below, right))
    return [_load(builder, storage, source, place, real, 4) for place in places]


def _prefetch_taps(builder: Any, rows: list[Any], offset: Any, first: Any, count: Any) -> None:
    """Asks for the taps of a later target: slanted rows are nothing that the hardware would follow."""
    last = builder.sub(count, ir.Constant(_I64, 1))
    later = builder.add(first, ir.Constant(_I64, _AHEAD))
    later = builder.select(builder.icmp_signed("<", later, last), later, last)
    place = builder.load(builder.gep(offset, [later]))
    for row in rows:
        _prefetch(builder, row, place, False)


def _offsets(builder: Any, offset: Any, first: Any) -> list[Any]:
    return [builder.load(builder.gep(offset, [builder.add(first, ir.Constant(_I64, k))])) for k in range(LANES)]


@intrinsic
def blend_plane(typingctx, source, first, offset, down, fraction_y, fraction_x, count, target, out):
    """Bilinear values of `count` >= 8 targets in one plane.

    `target[out + i]` from the taps at `first + offset[i]`, the one to the right of it, and the two that lie `down`.
    """

    def codegen(context, builder, signature, args):
        source, offset, fraction_y, fraction_x, target = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 2, 4, 5, 7)
        )
        storage, real = signature.args[0].dtype, fraction_x.type.pointee
        upper = builder.gep(source, [args[1]])
        lower = builder.gep(upper, [args[3]])

        def block(i):
            _prefetch_taps(builder, [upper, lower], offset, i, args[6])
            wy, wx = _fractions(builder, [fraction_y, fraction_x], i)
            offsets = _offsets(builder, offset, i)
            rows = [_pairs(builder, storage, row, offsets, real) for row in (upper, lower)]
            weights = [_spread(builder, w) for w in wy]
            pairs = [
                _blend(builder, values, w)
                for values, w in zip(zip(*rows, strict=True), zip(*weights, strict=True), strict=True)
            ]
            value = _blend(builder, _parted(builder, pairs), wx)
            _store(builder, signature.args[7].dtype, value, target, builder.add(args[8], i), LANES)

        _for_blocks(builder, args[6], block)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, offset, i, fraction_y, fraction_x, i, target, i), codegen


@intrinsic
def blend_pixels(
    typingctx, source, first, offset, down, right, fraction_y, fraction_x, count, channels, target, out, stride
):
    """Bilinear values of `count` >= 8 targets with up to 4 interleaved channels, written `stride` apart.

    Reads and writes 4 channels: in their order, and the last ones of a run otherwise.
    """

    def codegen(context, builder, signature, args):
        source, offset, fraction_y, fraction_x, target = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 2, 5, 6, 9)
        )
        source = builder.gep(source, [args[1]])

        def block(i):
            where = builder.add(args[10], builder.mul(i, args[11]))
            for value in _blended_pixels(
                builder, signature.args[0].dtype, source, offset, args[3:5], fraction_y, fraction_x, i
            ):
                _store(builder, signature.args[9].dtype, value, target, where, 4)
                where = builder.add(where, args[11])

        _for_blocks(builder, args[7], block)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, offset, i, i, fraction_y, fraction_x, i, i, target, i, i), codegen


def _blended_pixels(builder, storage, source, offset, steps, fraction_y, fraction_x, first):  # type: ignore[no-untyped-def]
    """Eight vectors of 4 channels."""
    real = fraction_x.type.pointee
    result = []
    weights = [[_splats(builder, w) for w in pair] for pair in _fractions(builder, [fraction_y, fraction_x], first)]
    for k, place in enumerate(_offsets(builder, offset, first)):
        (wy, wx) = ([w[k] for w in pair] for pair in weights)
        a, b, c, d = _taps(builder, source, place, steps, storage, real)
        result.append(_blend(builder, (_blend(builder, (a, c), wy), _blend(builder, (b, d), wy)), wx))
    return result


def _splats(builder: Any, weights: Any) -> list[Any]:
    return [_shuffle(builder, weights, weights, [k] * 4) for k in range(LANES)]


@intrinsic
def blend_frame(
    typingctx,
    source,
    first,
    offset,
    down,
    right,
    fraction_y,
    fraction_x,
    count,
    channels,
    scale,
    bias,
    target,
    out,
    stride,
):
    """As `blend_pixels`, but channel c of target i goes to `target[out + c*stride + i]`, scaled and shifted."""

    def codegen(context, builder, signature, args):
        source, offset, fraction_y, fraction_x, scale, bias, target = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 2, 5, 6, 9, 10, 11)
        )
        source = builder.gep(source, [args[1]])

        def block(i):
            pixels = _blended_pixels(
                builder, signature.args[0].dtype, source, offset, args[3:5], fraction_y, fraction_x, i
            )
            while len(pixels) > 2:
                pixels = [_joined(builder, pixels[k], pixels[k + 1]) for k in range(0, len(pixels), 2)]
            where = builder.add(args[12], i)
            for c in range(4):
                at = ir.Constant(_I64, c)
                with builder.if_then(builder.icmp_signed("<", at, args[8])):
                    value = _shuffle(builder, *pixels, [c + 4 * k for k in range(LANES)])
                    a, b = (_splat(builder, builder.load(builder.gep(array, [at]))) for array in (scale, bias))
                    value = builder.fadd(builder.fmul(value, a, flags=_FLAGS), b, flags=_FLAGS)
                    place = builder.add(where, builder.mul(at, args[13]))
                    _store(builder, signature.args[11].dtype, value, target, place, LANES)

        _for_blocks(builder, args[7], block)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, offset, i, i, fraction_y, fraction_x, i, i, scale, bias, target, i, i), codegen
