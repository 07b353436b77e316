"""Windows -> whole pixels: the nearest one of each target, and the cells that targets cover.

All of it is computed in float64, whatever the windows are, so that results are the same on every backend.
"""

import triton
import triton.language as tl


@triton.jit
def load_targets(windows_ptr, p, mask, total, size_y, size_x, SEPARABLE: tl.constexpr, WIDTHS: tl.constexpr):
    """Centres y, x, half-widths (1 without WIDTHS), and whether the windows of the targets p read anything."""
    if SEPARABLE:
        cy = tl.load(windows_ptr + p // size_x, mask=mask, other=0)
        sy = tl.load(windows_ptr + total + p // size_x, mask=mask, other=0)
        windows_ptr += size_y
        cx = tl.load(windows_ptr + p % size_x, mask=mask, other=0)
        sx = tl.load(windows_ptr + total + p % size_x, mask=mask, other=0)
        reads = (sy > 0) & (sx > 0)
    else:
        cx = tl.load(windows_ptr + p, mask=mask, other=-1)
        cy = tl.load(windows_ptr + total + p, mask=mask, other=-1)
        reads = ~(cx < 0)
        if WIDTHS:
            windows_ptr += 2 * total.to(tl.int64)
            sx = tl.load(windows_ptr + p, mask=mask, other=1)
            sy = tl.load(windows_ptr + total + p, mask=mask, other=1)
        else:
            sx = tl.full(cx.shape, 1.0, cx.dtype)
            sy = sx
    return cy.to(tl.float64), cx.to(tl.float64), sy.to(tl.float64), sx.to(tl.float64), reads


@triton.jit
def _inside(centre, extent):
    """Within the axis; NaN, and what an axis of no pixels has, is at 0."""
    last = tl.maximum(extent - 1, 0).to(tl.float64)
    return tl.where(centre > 0, tl.where(centre < last, centre, last), 0.0)


@triton.jit
def nearest(centre, extent):
    """floor(c + 1/2)."""
    return tl.floor(_inside(centre, extent) + 0.5).to(tl.int32)


@triton.jit
def cell(centre, half_width, extent):
    """First pixel in (c - s/2, c + s/2], and how many there are."""
    centre, half = _inside(centre, extent), tl.where(half_width > 1, half_width, 1.0) / 2
    first = tl.floor(centre - half) + 1
    first = tl.where(first > 0, first, 0.0)
    last = tl.floor(centre + half)
    last = tl.where(last < extent - 1, last, (extent - 1).to(tl.float64))
    return first.to(tl.int32), (last - first).to(tl.int32) + 1
