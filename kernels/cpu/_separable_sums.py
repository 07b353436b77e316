"""The vertical step of any number of taps: weighted sums of rows."""

from fastwarp.kernels.cpu._interleave import LANES
from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._vector import full, load, load_as, store

_TOGETHER = 4 * LANES  # values that share a weight


@inline
def sum_rows(source, start, stride, weight, first, rows, target, at, count):
    """`target[at + i] = sum over r of weight[first + r] source[start + r*stride + i]`, r in 0 .. rows, i in 0 .. count
    >= 8."""
    zero = full(weight.dtype.type(0), LANES)
    done = count // _TOGETHER * _TOGETHER
    for i in range(0, done, _TOGETHER):
        a, b, c, d = zero, zero, zero, zero
        for r in range(rows):
            w, begin = load(weight, first + r, 1), start + r * stride + i
            a = a + load_as(source, begin, zero) * w
            b = b + load_as(source, begin + LANES, zero) * w
            c = c + load_as(source, begin + 2 * LANES, zero) * w
            d = d + load_as(source, begin + 3 * LANES, zero) * w
        store(a, target, at + i)
        store(b, target, at + i + LANES)
        store(c, target, at + i + 2 * LANES)
        store(d, target, at + i + 3 * LANES)
    for n in range((count - done + LANES - 1) // LANES):
        i, total = min(done + n * LANES, count - LANES), zero
        for r in range(rows):
            total = total + load_as(source, start + r * stride + i, zero) * load(weight, first + r, 1)
        store(total, target, at + i)
