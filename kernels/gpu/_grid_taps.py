"""What the kernels of the `grid` family share: the windows of targets as taps and weights.

Every target has a window of its own: rows x, y (and half-widths in x, y) of `windows` `[1 or B, 2 or 4, P]`. Tiles and
the filter of one axis are those of the `separable` family, see `_taps`.
"""

import itertools
from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._taps import taps, two_taps, within


def first_targets(sizes: Sequence[int]) -> list[int]:
    """Where the targets of each level begin in the windows, and their total."""
    return [0, *itertools.accumulate(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))]


def repeated(tensors: Sequence[Tensor], batch: int) -> list[Tensor]:
    """The tensors for a batch, which those with one image share."""
    return [t if t.shape[0] == batch else t.expand(batch, -1, -1, -1) for t in tensors]


@triton.jit
def load_centres(windows_ptr, p, mask, total, extent_y, extent_x, GEO: tl.constexpr):
    """Whether the targets p read anything, and their centres y, x."""
    x = tl.load(windows_ptr + p, mask=mask, other=-1).to(GEO)
    y = tl.load(windows_ptr + total + p, mask=mask, other=-1).to(GEO)
    reads = ~(x < 0) & (extent_y > 0) & (extent_x > 0)
    return reads, within(y, extent_y), within(x, extent_x)


@triton.jit
def _triangle(reads, c, width, extent):
    """`taps` of a triangle of at least half-width 1; no taps where nothing is read."""
    c = tl.where(width == width, c, width)
    t = taps(tl.where(reads, c, 0.0), tl.where(width > 1, width, 1.0), extent)
    return t[0], tl.where(reads, t[1], 0.0), t[2], t[3], t[4], t[5]


@triton.jit
def target_taps(windows_ptr, p, mask, total, extent_y, extent_x, ANTIALIAS: tl.constexpr, GEO: tl.constexpr):
    """Whether the targets p read anything, and their taps on the y axis and on the x axis."""
    reads, y, x = load_centres(windows_ptr, p, mask, total, extent_y, extent_x, GEO)
    if ANTIALIAS:
        windows_ptr += total
        width_x = tl.load(windows_ptr + total + p, mask=mask, other=1).to(GEO)
        windows_ptr += total
        width_y = tl.load(windows_ptr + total + p, mask=mask, other=1).to(GEO)
        return reads, _triangle(reads, y, width_y, extent_y), _triangle(reads, x, width_x, extent_x)
    else:
        return reads, two_taps(y), two_taps(x)
