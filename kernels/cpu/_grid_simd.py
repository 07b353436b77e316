"""Vector operations of the `grid` family, in LLVM's portable IR as those of `_simd`."""

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
    _for_blocks,
    _load,
    _prefetch,
    _raw_load,
    _splat,
    _store,
    _vector,
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
    return [_shuffle(builder, pairs[0], pairs[1], [k + i for k in (0, 2, 8, 10, 4, 6, 12, 14)]) for i in range(2)]


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
            _prefetch_taps(builder, [source, builder.gep(source, [args[3]])], offset, i, args[7])
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


def _blended_pixels(builder, storage, source, offset, steps, fraction_y, fraction_x, first):
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
            _prefetch_taps(builder, [source, builder.gep(source, [args[3]])], offset, i, args[7])
            pixels = _blended_pixels(
                builder, signature.args[0].dtype, source, offset, args[3:5], fraction_y, fraction_x, i
            )
            while len(pixels) > 2:
                pixels = [_joined(builder, pixels[k], pixels[k + 1]) for k in range(0, len(pixels), 2)]
            where = builder.add(args[12], i)
            for c in range(4):
                at = ir.Constant(_I64, c)
                with builder.if_then(builder.icmp_signed("<", at, args[8])):
                    value = _shuffle(builder, pixels[0], pixels[1], [c + 4 * k for k in range(LANES)])
                    a, b = (_splat(builder, builder.load(builder.gep(array, [at]))) for array in (scale, bias))
                    value = builder.fadd(builder.fmul(value, a, flags=_FLAGS), b, flags=_FLAGS)
                    place = builder.add(where, builder.mul(at, args[13]))
                    _store(builder, signature.args[11].dtype, value, target, place, LANES)

        _for_blocks(builder, args[7], block)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, offset, i, i, fraction_y, fraction_x, i, i, scale, bias, target, i, i), codegen


@intrinsic
def add_taps(
    typingctx,
    source,
    first,
    stride,
    upper,
    lower,
    fraction_y,
    fraction_x,
    count,
    right,
    channels,
    vectors,
    total,
):
    """Adds targets to their four taps in `total` `[pixel][channels]`, in their order, for the first `vectors` channels.

    Target i is `source[first + i*stride:]`; its taps are `upper[i]`, `lower[i]`, and those `right` of them. `vectors`
    is a multiple of 8.
    """

    def codegen(context, builder, signature, args):
        source, upper, lower, fraction_y, fraction_x, total = (
            _data(context, builder, signature.args[i], args[i]) for i in (0, 3, 4, 5, 6, 11)
        )
        storage, real = signature.args[0].dtype, total.type.pointee
        one = _constant(real, 1.0)
        step = builder.mul(args[8], args[9])
        blocks = builder.sdiv(args[10], ir.Constant(_I64, LANES))
        with cgutils.for_range(builder, args[7]) as loop:
            second = [builder.load(builder.gep(array, [loop.index])) for array in (fraction_y, fraction_x)]
            wy, wx = ([builder.fsub(one, f, flags=_FLAGS), f] for f in second)
            weights = [_splat(builder, builder.fmul(a, b, flags=_FLAGS)) for a in wy for b in wx]
            left = [builder.mul(builder.load(builder.gep(array, [loop.index])), args[9]) for array in (upper, lower)]
            places = [place for a in left for place in (a, builder.add(a, step))]
            at = builder.add(args[1], builder.mul(loop.index, args[2]))
            with cgutils.for_range(builder, blocks) as inner:
                lane = builder.mul(inner.index, ir.Constant(_I64, LANES))
                value = _load(builder, storage, source, builder.add(at, lane), real, LANES)
                for place, weight in zip(places, weights, strict=True):
                    where = builder.add(place, lane)
                    term = builder.fmul(value, weight, flags=_FLAGS)
                    term = builder.fadd(_raw_load(builder, total, where, LANES), term, flags=_FLAGS)
                    _store(builder, signature.args[11].dtype, term, total, where, LANES)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, upper, lower, fraction_y, fraction_x, i, i, i, i, total), codegen


def _fma(builder: Any, total: Any, a: Any, b: Any) -> None:
    term = builder.fmul(a, b, flags=_FLAGS)
    builder.store(builder.fadd(builder.load(total), term, flags=_FLAGS), total)


@intrinsic
def multiply_planes(
    typingctx, source, first, stride, offset, down, count, planes, grad, grad_first, grad_stride, products, length
):
    """Adds to `products[tap*length + i]`, for the four taps of each target, the sum over some planes of tap times
    gradient.

    The taps of target i are those of `blend_plane` at `first + p*stride`, its gradient is
    `grad[grad_first + p*grad_stride + i]`. `count` is a multiple of 8.
    """

    def codegen(context, builder, signature, args):
        source, offset, grad, products = (_data(context, builder, signature.args[i], args[i]) for i in (0, 3, 7, 10))
        storage, real = signature.args[0].dtype, products.type.pointee
        zero = _constant(_vector(real, LANES), 0.0)
        sums = [cgutils.alloca_once(builder, zero.type) for _ in range(4)]

        def block(i):
            offsets = _offsets(builder, offset, i)
            for total in sums:
                builder.store(zero, total)
            with cgutils.for_range(builder, args[6]) as loop:
                upper = builder.gep(source, [builder.add(args[1], builder.mul(loop.index, args[2]))])
                at = builder.add(builder.add(args[8], builder.mul(loop.index, args[9])), i)
                twice = _spread(builder, _load(builder, storage, grad, at, real, LANES))
                rows = [_pairs(builder, storage, row, offsets, real) for row in (upper, builder.gep(upper, [args[4]]))]
                for total, pairs, g in zip(sums, [*rows[0], *rows[1]], twice * 2, strict=True):
                    _fma(builder, total, pairs, g)
            found = [builder.load(total) for total in sums]
            for tap, value in enumerate(_parted(builder, found[:2]) + _parted(builder, found[2:])):
                where = builder.add(i, builder.mul(args[11], ir.Constant(_I64, tap)))
                value = builder.fadd(_raw_load(builder, products, where, LANES), value, flags=_FLAGS)
                _store(builder, signature.args[10].dtype, value, products, where, LANES)

        with builder.if_then(builder.icmp_signed(">", args[5], ir.Constant(_I64, 0))):
            _for_blocks(builder, args[5], block)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, i, offset, i, i, i, grad, i, i, products, i), codegen


@intrinsic
def multiply_pixels(
    typingctx, source, first, offset, down, right, count, vectors, grad, grad_first, stride, products, length
):
    """As `multiply_planes` for pixels of many channels, over the first `vectors` of them, a multiple of 16."""
    lanes = 2 * LANES

    def codegen(context, builder, signature, args):
        source, offset, grad, products = (_data(context, builder, signature.args[i], args[i]) for i in (0, 2, 7, 10))
        storage, real = signature.args[0].dtype, products.type.pointee
        zero = _constant(_vector(real, lanes), 0.0)
        sums = [cgutils.alloca_once(builder, zero.type) for _ in range(4)]
        blocks = builder.sdiv(args[6], ir.Constant(_I64, lanes))
        with cgutils.for_range(builder, args[5]) as loop:
            upper = builder.add(args[1], builder.load(builder.gep(offset, [loop.index])))
            lower = builder.add(upper, args[3])
            at = builder.add(args[8], builder.mul(loop.index, args[9]))
            for total in sums:
                builder.store(zero, total)
            with cgutils.for_range(builder, blocks) as inner:
                lane = builder.mul(inner.index, ir.Constant(_I64, lanes))
                g = _load(builder, storage, grad, builder.add(at, lane), real, lanes)
                places = (upper, builder.add(upper, args[4]), lower, builder.add(lower, args[4]))
                for total, place in zip(sums, places, strict=True):
                    _fma(builder, total, _load(builder, storage, source, builder.add(place, lane), real, lanes), g)
            for tap, total in enumerate(sums):
                value = _summed(builder, builder.load(total))
                where = builder.gep(products, [builder.add(loop.index, builder.mul(args[11], ir.Constant(_I64, tap)))])
                builder.store(builder.fadd(builder.load(where), value), where)
        return context.get_dummy_value()

    i = types.int64
    return types.void(source, i, offset, i, i, i, i, grad, i, i, products, i), codegen


def _summed(builder: Any, value: Any) -> Any:
    """The sum of a vector's lanes, by halves."""
    lanes = value.type.count
    while lanes > 1:
        lanes //= 2
        low, high = (_shuffle(builder, value, value, list(range(k, k + lanes))) for k in (0, lanes))
        value = builder.fadd(low, high)
    return builder.extract_element(value, ir.Constant(_I32, 0))
