"""What the kernels of the `grid` family share: the windows of targets as taps and weights.

Every target has a window of its own: rows x, y (and half-widths in x, y) of `windows` `[1 or B, 2 or 4, P]`. Levels,
tiles and the filter of one axis are those of the `separable` family, see `_taps`.
"""

import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._taps import taps, weight
from fastwarp.kernels.layout import memory_format


def first_targets(sizes: Sequence[int]) -> list[int]:
    """Where the targets of each level begin in the windows, and their total."""
    return [0, *itertools.accumulate(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))]


def empty_results(like: Sequence[Tensor], batch: int, sizes: Sequence[int]) -> list[Tensor]:
    """Levels of `batch` images of `sizes` `[H1, W1, ...]`, otherwise as `like`."""
    return [
        torch.empty(
            (batch, t.shape[1], *sizes[2 * i : 2 * i + 2]),
            dtype=t.dtype,
            device=t.device,
            memory_format=memory_format(t),
        )
        for i, t in enumerate(like)
    ]


@triton.jit
def clamp(centre, extent):
    """The centre within its axis, NaN as it is: what is read lies in memory, wherever a window may be."""
    return tl.where(centre < 0, 0.0, tl.where(centre > extent - 1, (extent - 1).to(centre.dtype), centre))


@triton.jit
def load_centres(windows_ptr, p, mask, total, extent_y, extent_x, GEO: tl.constexpr):
    """Whether the targets p read anything, and their centres y, x."""
    x = tl.load(windows_ptr + p, mask=mask, other=-1).to(GEO)
    y = tl.load(windows_ptr + total + p, mask=mask, other=-1).to(GEO)
    reads = ~(x < 0) & (extent_y > 0) & (extent_x > 0)
    return reads, clamp(y, extent_y), clamp(x, extent_x)


@triton.jit
def _two_taps(reads, c, extent):
    """First tap, weights of both, the distance between them: 0 at the last pixel."""
    first = tl.where(c == c, tl.floor(c), 0.0)
    near, far = tl.where(reads, 1.0 - (c - first), 0.0), tl.where(reads, c - first, 0.0)
    first = tl.where(reads, first, 0.0).to(tl.int32)
    return first, near, far, (first + 1 < extent).to(tl.int32)


@triton.jit
def _triangle(reads, c, width, extent):
    """`taps` of a triangle of at least half-width 1; no taps where nothing is read."""
    c = tl.where(width == width, c, width)
    t = taps(tl.where(reads, c, 0.0), tl.where(width > 1, width, 1.0), extent)
    return t[0], tl.where(reads, t[1], 0.0), t[2], t[3], t[4], t[5]


@triton.jit
def target_taps(windows_ptr, p, mask, total, extent_y, extent_x, ANTIALIAS: tl.constexpr, GEO: tl.constexpr):
    """Whether the targets p read anything, and their taps on the y axis and on the x axis, for `tap_weight`. The first
    entry of these is the first tap."""
    reads, y, x = load_centres(windows_ptr, p, mask, total, extent_y, extent_x, GEO)
    if ANTIALIAS:
        windows_ptr += total
        width_x = tl.load(windows_ptr + total + p, mask=mask, other=1).to(GEO)
        windows_ptr += total
        width_y = tl.load(windows_ptr + total + p, mask=mask, other=1).to(GEO)
        return reads, _triangle(reads, y, width_y, extent_y), _triangle(reads, x, width_x, extent_x)
    else:
        return reads, _two_taps(reads, y, extent_y), _two_taps(reads, x, extent_x)


@triton.jit
def tap_weight(dy, dx, ty, tx, ANTIALIAS: tl.constexpr):
    """Weight of the tap (dy, dx) of the targets whose taps are ty, tx. Two taps: dy and dx are constants."""
    if ANTIALIAS:
        return weight(dy, ty) * weight(dx, tx)
    else:
        return ty[1 + dy] * tx[1 + dx]


@triton.jit
def most(t):
    """The largest number of taps of any of the targets."""
    return tl.max(t[1], 0).to(tl.int32)
