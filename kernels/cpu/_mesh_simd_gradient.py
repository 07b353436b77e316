"""The inner loop of the gradient of a mesh's inverse: eight targets of a row at a time, all of them in one tile.

The arithmetic is that of `_mesh_gradient`, whose Python functions run here on vectors of LLVM IR.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from fastwarp.kernels.cpu._mesh_geometry import cross
from fastwarp.kernels.cpu._mesh_gradient import SINGULAR, products, value_and_slopes
from fastwarp.kernels.cpu._simd import (
    _FLAGS,
    _I32,
    _I64,
    LANES,
    _constant,
    _data,
    _load,
    _raw_load,
    _splat,
    _store,
    _vector,
    intrinsic,
)

COEFFICIENTS = 14
"""Of a tile: E, F, G; then for x and y its place, tiles per unit of a window and its inverse; p and q."""


class _Lanes:
    """A vector with the operators of a number."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _of(self, other: Any) -> Any:
        return other.value if isinstance(other, _Lanes) else _constant(self.value.type, other)

    def __add__(self, other: Any) -> "_Lanes":
        return _Lanes(self.builder, self.builder.fadd(self.value, self._of(other), flags=_FLAGS))

    def __sub__(self, other: Any) -> "_Lanes":
        return _Lanes(self.builder, self.builder.fsub(self.value, self._of(other), flags=_FLAGS))

    def __mul__(self, other: Any) -> "_Lanes":
        return _Lanes(self.builder, self.builder.fmul(self.value, self._of(other), flags=_FLAGS))

    def __truediv__(self, other: Any) -> "_Lanes":
        return _Lanes(self.builder, self.builder.fdiv(self.value, self._of(other), flags=_FLAGS))

    def __rtruediv__(self, other: Any) -> "_Lanes":
        return _Lanes(self.builder, self._of(other)) / self

    __radd__, __rmul__ = __add__, __mul__

    def where(self, mask: Any) -> "_Lanes":
        """0 where the mask is off."""
        return _Lanes(self.builder, self.builder.select(mask, self.value, self._of(0.0)))


def _sums(has_homography: bool) -> Any:
    """Makes `sums(coefficients, left, right, run, first, last, width, at, tile, grad_x, grad_y, x, y, tiles, result)`.

    Sums the products of the targets `left[run + r - first] <= k < right[run + r - first]` of the rows r in first ..
    last whose owner is the tile: `result[n*8:+8]` are the eight parts of sum n. `at` is where the level lies, `width`
    >= 8 the targets of a row.
    """

    def sums(
        typingctx, coefficients, left, right, run, first, last, width, at, tile, grad_x, grad_y, x, y, tiles, result
    ):
        def codegen(context, builder, signature, args):
            coefficients, left, right = (_data(context, builder, signature.args[i], args[i]) for i in range(3))
            values = [_data(context, builder, signature.args[i], args[i]) for i in range(9, 13)]
            tiles, result = (_data(context, builder, signature.args[i], args[i]) for i in (13, 14))
            run, first, last, width, at, tile = args[3:9]
            real, storage = ir.DoubleType(), signature.args[9].dtype
            c = [
                _Lanes(builder, _splat(builder, builder.load(builder.gep(coefficients, [ir.Constant(_I64, i)]))))
                for i in range(COEFFICIENTS)
            ]
            corners = None, (c[0], c[1]), (c[2], c[3]), (c[4], c[5])
            p, q = c[12:]
            owner = _splat(builder, builder.trunc(tile, _I32))
            numbers = ir.Constant(ir.VectorType(_I64, LANES), list(range(LANES)))
            totals = [cgutils.alloca_once_value(builder, _constant(_vector(real, LANES), 0.0)) for _ in range(8)]
            eight = ir.Constant(_I64, LANES)
            final = builder.sub(width, eight)
            with cgutils.for_range(builder, builder.sub(last, first)) as rows:
                where = builder.add(run, rows.index)
                begin, end = (builder.fptosi(builder.load(builder.gep(a, [where])), _I64) for a in (left, right))
                line = builder.add(at, builder.mul(builder.add(first, rows.index), width))
                blocks = builder.sdiv(builder.add(builder.sub(end, begin), ir.Constant(_I64, LANES - 1)), eight)
                with cgutils.for_range(builder, blocks) as loop:
                    # Eight targets of the same row, of which those from `wanted` on count.
                    wanted = builder.add(begin, builder.mul(loop.index, eight))
                    k = builder.select(builder.icmp_signed("<", wanted, final), wanted, final)
                    every = builder.add(_splat(builder, k), numbers)
                    here = builder.add(line, k)
                    inside = builder.and_(
                        builder.icmp_signed(">=", every, _splat(builder, wanted)),
                        builder.icmp_signed("<", every, _splat(builder, end)),
                    )
                    owned = builder.icmp_signed("==", _raw_load(builder, tiles, here, LANES), owner)
                    inside = builder.and_(inside, owned)
                    by_x, by_y, f, g = (
                        _Lanes(builder, _load(builder, storage, array, here, real, LANES)) for array in values
                    )
                    f, g = (f * c[8] - c[6]).where(inside), (g * c[9] - c[7]).where(inside)
                    value, by_f, by_g = value_and_slopes.py_func(corners, f, g, p, q, has_homography)
                    det = cross.py_func(by_f, by_g)
                    size = (by_f[0] * by_f[0] + by_f[1] * by_f[1]) * (by_g[0] * by_g[0] + by_g[1] * by_g[1])
                    regular = builder.fcmp_ordered(">", (det * det).value, (size * SINGULAR * SINGULAR).value)
                    inside = builder.and_(inside, regular)
                    grad_f, grad_g = by_x * c[10], by_y * c[11]
                    to_x = ((grad_g * by_f[1] - grad_f * by_g[1]) / det).where(inside)
                    to_y = ((grad_f * by_g[0] - grad_g * by_f[0]) / det).where(inside)
                    terms = products.py_func(corners, value, f, g, p, q, has_homography, to_x, to_y)
                    for total, term in zip(totals, terms, strict=True):
                        builder.store((_Lanes(builder, builder.load(total)) + term).value, total)
            for n, total in enumerate(totals):
                _store(builder, types.float64, builder.load(total), result, ir.Constant(_I64, n * LANES), LANES)
            return context.get_dummy_value()

        i = types.int64
        arrays = (grad_x, grad_y, x, y, tiles, result)
        return types.void(coefficients, left, right, i, i, i, i, i, i, *arrays), codegen

    return intrinsic(sums)


bilinear_sums = _sums(False)
homography_sums = _sums(True)
