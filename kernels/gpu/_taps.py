"""What the kernels of the `separable` family share: windows as weights, and tiles.

A tile is [channels, pixels], or [pixels, channels] for channels_last: what is innermost in memory comes last, so that a
warp reads and writes runs of memory. Pixels are numbered row by row; a tile may span rows. Where channels lie apart,
resampling better takes a rectangle of pixels and one channel after the other, or up to four at a time: `planes`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import hint
from fastwarp.kernels.gpu._levels import ROW

# --- tiles ------------------------------------------------------------------------------------------------------------


@triton.jit
def channel_offsets(c, stride, UNIT: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Offsets of the channels c, as a tile. UNIT: the stride is 1."""
    return along_channels(c if UNIT else c * stride, CHANNELS_LAST)


@triton.jit
def dense_tile(ptr, c, p, channels, pixels, CHANNELS_LAST: tl.constexpr, ALIGNED: tl.constexpr, OFFSET: tl.constexpr):
    """Pointers to the channels c of the pixels p of a dense image."""
    if CHANNELS_LAST:
        pixel = p.to(OFFSET) * hint(channels, ALIGNED)
        return along_channels(ptr + c, CHANNELS_LAST) + along_pixels(pixel, CHANNELS_LAST)
    else:
        return along_channels(ptr + c.to(tl.int64) * pixels, CHANNELS_LAST) + along_pixels(p, CHANNELS_LAST)


@triton.jit
def along_pixels(x, CHANNELS_LAST: tl.constexpr):
    """A vector over pixels, as a tile."""
    return tl.expand_dims(x, 1 if CHANNELS_LAST else 0)


@triton.jit
def along_channels(x, CHANNELS_LAST: tl.constexpr):
    return tl.expand_dims(x, 0 if CHANNELS_LAST else 1)


@triton.jit
def pixels_of_block(block, size_x, BLOCK_P: tl.constexpr):
    """Rows `[y, 1]` and columns `[1, x]` of its pixels, which may be outside."""
    tall: tl.constexpr = BLOCK_P // ROW
    across = tl.cdiv(size_x, ROW)
    down = block // across
    row, column = tl.arange(0, tall)[:, None], tl.arange(0, ROW)[None, :]
    return down * tall + row, (block - down * across) * ROW + column


# --- planes -----------------------------------------------------------------------------------------------------------


@triton.jit
def channels_of_planes(ptr, stride, begin, end, BLOCK_C: tl.constexpr):
    """Pointers to BLOCK_C channels from `begin` on. Past the end it is the last one again: no channel needs a mask."""
    pointers = (ptr + begin * stride,)
    for k in tl.static_range(1, BLOCK_C):
        pointers += (pointers[k - 1] + tl.where(begin + k < end, stride, 0),)  # type: ignore[assignment]
    return pointers


@triton.jit
def no_planes(p, ACC: tl.constexpr, BLOCK_C: tl.constexpr):
    """Vectors of zeros over the pixels p."""
    planes = ()
    for _ in tl.static_range(BLOCK_C):
        planes += (tl.zeros(p.shape, ACC),)  # type: ignore[assignment]
    return planes


@triton.jit
def add_planes(planes, pointers, offset, w):
    """Adds to each of the planes what is there, times the weights w. What has a weight of 0 is not read."""
    sums = ()
    for k in tl.static_range(len(planes)):
        tap = tl.load(pointers[k] + offset, mask=w > 0, other=0)
        sums += (planes[k] + tap.to(w.dtype) * w,)  # type: ignore[assignment]
    return sums


# --- windows ----------------------------------------------------------------------------------------------------------


def geometry(windows: Tensor, values: torch.dtype) -> tl.dtype:
    """Triton type in which weights are computed."""
    return tl.float64 if torch.float64 in (windows.dtype, values) else tl.float32


def accumulator(values: torch.dtype) -> tl.dtype:
    """Triton type in which values of that dtype are summed."""
    return tl.float64 if values == torch.float64 else tl.float32


@triton.jit
def source_extent(valid_ptr, offset, whole):
    """Pixels of an axis that may be read: `whole`, or what `valid_ptr` says."""
    if valid_ptr is None:
        return whole
    else:
        return tl.minimum(tl.load(valid_ptr + offset), whole).to(tl.int32)


@triton.jit
def source_extents(valid_ptr, offset, whole):
    """Rows and columns of a level's input that may be read. `offset`: of the image in `valid_ptr`."""
    level, height, width = whole
    offset += level * 2
    return source_extent(valid_ptr, offset, height), source_extent(valid_ptr, offset + 1, width)


@triton.jit
def load_windows(windows_ptr, k, mask, total, GEO: tl.constexpr):
    """Centres and half-widths of the windows k."""
    centre = tl.load(windows_ptr + k, mask=mask, other=0).to(GEO)
    return centre, tl.load(windows_ptr + total + k, mask=mask, other=0).to(GEO)


@triton.jit
def taps(c, s, extent):
    """Taps of windows, for `weight`.

    Returns the first tap, their number, the distance of the first from the centre, 1/s, 1 / sum of the triangle, and
    for derivatives the number of taps right of the centre minus that of those left of it.
    """
    safe = tl.where(c == c, c, 0.0)
    below = tl.floor(safe)
    first = tl.maximum(below + tl.floor(safe - below - s) + 1, 0.0)
    last = tl.minimum(below + tl.floor(safe - below + s), extent - 1.0)
    middle = tl.minimum(tl.maximum(below, first - 1), last)  # last tap on the left
    left, right = middle - first + 1, last - middle
    distances = (left - right) * (c - middle) + (left * (left - 1) + right * (right + 1)) * 0.5
    inv_s = tl.where(s > 0, 1.0 / tl.where(s > 0, s, 1.0), 0.0)
    count = tl.where(s > 0, left + right, 0.0)
    triangle = count - distances * inv_s
    inv_total = tl.where(triangle <= 0, 1.0, 1.0 / tl.where(triangle <= 0, 1.0, triangle))
    start = (first - below) - (c - below)
    return first.to(tl.int32), count.to(tl.int32), start, inv_s, inv_total, right - left


@triton.jit
def within(c, extent):
    """Centres within their axis, NaN as it is: what is read lies in memory, wherever a window may be."""
    last = tl.maximum(extent - 1, 0).to(c.dtype)
    return tl.where(c < 0, 0.0, tl.where(c > last, last, c))


@triton.jit
def two_taps(c):
    """Windows of half-width 1, whose centres are `within` their axis, as two taps.

    Returns the first tap, its weight and that of the second, and the distance between them. At the centre of a pixel
    both are this pixel, with half of the weight each: so no tap has a weight of 0, and kernels need no masks to leave
    out a neighbour that may be infinite, or outside.
    """
    first = tl.floor(tl.where(c == c, c, 0.0))
    far = c - first
    apart = (far > 0).to(tl.int32)
    far = tl.where(far == 0, 0.5, far)
    return first.to(tl.int32), 1.0 - far, far, apart


@triton.jit
def weight(d, t):
    """Weight of tap number d of the windows whose `taps` are t."""
    return tl.where(d < t[1], (1.0 - tl.abs(t[2] + d) * t[3]) * t[4], 0.0)


@triton.jit
def most(t):
    """The largest number of taps of any of the targets."""
    return tl.max(t[1], None).to(tl.int32)
