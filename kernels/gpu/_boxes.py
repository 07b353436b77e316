"""Boxes as the kernels of the `density` family read them, and the factors of their Gaussians.

A box's kernel is a product of a factor in y and a factor in x. All arithmetic is float64.
"""

import triton
import triton.language as tl

_SMALLEST: tl.constexpr = tl.constexpr(1e-3)  # pixels; thinner boxes count as this thin


@triton.jit
def count_of(counts_ptr, b, boxes):
    if counts_ptr is None:
        return boxes
    else:
        return tl.minimum(tl.maximum(tl.load(counts_ptr + b).to(tl.int32), 0), boxes)


@triton.jit
def number_of(number_ptr, number, b, stride):
    """That of image b: `number`, unless there is a tensor."""
    if number_ptr is None:
        return number
    else:
        return tl.load(number_ptr + b * stride).to(tl.float64)


@triton.jit
def sides(boxes_ptr, i, mask, axis):
    """Centres and extents of the boxes i, and which are thin. axis is 0 for x and 1 for y, as in a box."""
    low = tl.load(boxes_ptr + i.to(tl.int64) * 4 + axis, mask=mask, other=0).to(tl.float64)
    high = tl.load(boxes_ptr + i.to(tl.int64) * 4 + axis + 2, mask=mask, other=0).to(tl.float64)
    thin = high - low < _SMALLEST
    return 0.5 * (low + high), tl.where(thin, _SMALLEST, high - low), thin


@triton.jit
def distances(centre, c, n, size):
    """Distances of the cells c to the centres, `[boxes, cells]`."""
    return (size * c.to(tl.float64) / (n - 1))[None, :] - centre[:, None]


@triton.jit
def gaussian(away, extent, bandwidth, c, n):
    """`exp(-away^2 / (2 b extent))`, 0 behind the last cell."""
    factor = tl.exp(away * away * (-0.5 / (bandwidth * extent))[:, None])
    return tl.where((c < n)[None, :], factor, 0.0)


@triton.jit
def gaussian_sum(centre, extent, bandwidth, n, size, CELLS: tl.constexpr):
    total = tl.zeros_like(centre)
    for c0 in range(0, n, CELLS):
        c = c0 + tl.arange(0, CELLS)
        total += tl.sum(gaussian(distances(centre, c, n, size), extent, bandwidth, c, n), 1)
    return total
