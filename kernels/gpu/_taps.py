"""What the kernels of the `separable` family share: windows as weights, the levels of a pyramid, tiles.

A tile is [channels, pixels], or [pixels, channels] for channels_last: what is innermost in memory comes last, so that a
warp reads and writes runs of memory. Pixels are numbered row by row; a tile may span rows. Where channels lie apart, a
thread better has up to four of the same pixel: those are `Planes`, four vectors over pixels.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, next_power_of_2, pack, unpack
from fastwarp.kernels.layout import memory_format

# --- levels -----------------------------------------------------------------------------------------------------------

_FIELDS: tl.constexpr = tl.constexpr(13)  # integers per level, see `Plan.table`
ROW: tl.constexpr = tl.constexpr(32)
"""Pixels along a row of a block of `Planes`."""
VALUES = 4096 if INTERPRETED else 1024
"""Values of a tile, see `plan_launches`."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """One launch, for levels of one memory format.

    Attributes:
        channels_last: the memory format.
        index: which levels.
        firsts: the first program of each.
        programs: their number.
        group: channels of one program.
        block: sizes of a tile.
    """

    channels_last: bool
    index: list[int]
    firsts: list[int]
    programs: int
    group: int
    block: dict[str, int]

    def of(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The tensors of its levels."""
        return tuple(tensors[i] for i in self.index)

    def table(
        self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], windows: Sequence[int], others: Sequence[int]
    ) -> tuple[int, ...]:
        """Its levels as integers for a kernel, which reads them with `field`.

        0 first program, 1 level, 2 where its windows begin, 3 channels, 4..7 strides of the input (b, c, h, w), 8, 9
        size of the input, 10, 11 size of the output, 12 where `others`, vectors of the kernel's own, begin.
        """
        numbers: list[int] = []
        for i, first in zip(self.index, self.firsts, strict=True):
            t, sides = inputs[i], (*inputs[i].shape[2:], *outputs[i].shape[2:])
            numbers += [first, i, windows[i], t.shape[1], *t.stride(), *sides, others[i]]
        return pack(*numbers)


def plan_launches(tiled: Sequence[Tensor], grads: Sequence[Tensor] | None = None, planes: bool = False) -> list[Plan]:
    """The launches for tiles over the pixels of `tiled`, one per memory format; levels without values need none.

    A tile has 8 values per thread of 4 warps, or 4 of float64: enough loads in flight, and no spills. channels_last: up
    to 128 channels, vectors of 16 bytes along them. Else 4 channels that share addresses and weights.

    A program makes a group of channels: larger ones share the work on windows, smaller ones keep a GPU of 132
    multiprocessors busy (8 programs each).

    With `planes`, if not channels_last, BLOCK_C is the number of planes, and a block has ROW pixels along a row.

    With `grads` the tiles are two-dimensional and lie on these instead, while `tiled` still gives the format. Their
    kernel has more in registers: 8 warps share a tile of 512 values, or 1024 of float64 (below that ptxas aims at 128
    registers, and spills).
    """
    formats: dict[bool, list[int]] = {}
    for i, t in enumerate(tiled):
        if t.numel() > 0:
            formats.setdefault(memory_format(t) == torch.channels_last, []).append(i)
    plans = []
    for channels_last, index in formats.items():
        channels = [tiled[i].shape[1] for i in index]
        area = [tiled[i].shape[2] * tiled[i].shape[3] for i in index]
        double = tiled[0].dtype == torch.float64
        fewer = double and channels_last if grads is None else not double
        values = VALUES // 2 if fewer and not INTERPRETED else VALUES
        most = 4 if not channels_last else 128 if grads is None else 32
        block = {"BLOCK_C": min(next_power_of_2(max(channels)), most)}
        pixels = values // block["BLOCK_C"]
        if planes and not channels_last:
            block, pixels = {"BLOCK_C": min(max(channels), most)}, values // most
            tall = pixels // ROW.value
            area = [cdiv(tiled[i].shape[2], tall) * cdiv(tiled[i].shape[3], ROW.value) * pixels for i in index]
        if grads is None:
            block["BLOCK_P"] = pixels
            blocks = [len(tiled[i]) * cdiv(n, pixels) for i, n in zip(index, area, strict=True)]
        else:
            block["BLOCK_Y"] = 8 if pixels >= 256 else 4
            block["BLOCK_X"] = pixels // block["BLOCK_Y"]
            sides = [(grads[i].shape[2], grads[i].shape[3]) for i in index]
            counts = [cdiv(h, block["BLOCK_Y"]) * cdiv(w, block["BLOCK_X"]) for h, w in sides]
            blocks = [len(tiled[i]) * n for i, n in zip(index, counts, strict=True)]
        chunks = cdiv(max(channels), block["BLOCK_C"])
        group = block["BLOCK_C"] * (chunks if INTERPRETED else min(max(sum(blocks) * chunks // 1056, 1), 8))
        programs = (n * cdiv(c, group) for n, c in zip(blocks, channels, strict=True))
        *firsts, total = itertools.accumulate(programs, initial=0)
        plans.append(Plan(channels_last, index, firsts, total, group, block))
    return plans


def empty_levels(like: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    """Levels of `sizes` `[H1, W1, ...]`, otherwise as `like`."""
    return [
        torch.empty(
            (*t.shape[:2], *sizes[2 * i : 2 * i + 2]), dtype=t.dtype, device=t.device, memory_format=memory_format(t)
        )
        for i, t in enumerate(like)
    ]


@triton.jit
def find_level(pid, levels):
    """Position in the table of the level that program `pid` works on."""
    position = 0
    for p in tl.static_range(1, len(levels) // _FIELDS):
        position = tl.where(pid >= unpack(levels[p * _FIELDS]), p, position)
    return position


@triton.jit
def field(levels, position, INDEX: tl.constexpr):
    value = unpack(levels[INDEX]).to(tl.int64)
    for p in tl.static_range(1, len(levels) // _FIELDS):
        value = tl.where(position == p, unpack(levels[p * _FIELDS + INDEX]).to(tl.int64), value)
    return value


@triton.jit
def small_field(levels, position, INDEX: tl.constexpr):
    return field(levels, position, INDEX).to(tl.int32)


@triton.jit
def pointer(pointers, position):
    pointer = pointers[0]
    for p in tl.static_range(1, len(pointers)):
        if position == p:
            pointer = pointers[p]
    return pointer


def launches(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    windows: Sequence[int],
    others: Sequence[int],
    planes: bool = False,
) -> list[tuple[Plan, tuple[int, ...], dict]]:
    """`plan_launches(outputs)`, with the table of each and the constants that its kernel shares with all others.

    Kept for layouts that come again: on the host it takes longer than all else of a launch.
    """
    layouts = (tuple((t.shape, t.stride(), t.dtype) for t in tensors) for tensors in (inputs, outputs))
    return _kept_launches(*layouts, tuple(windows), tuple(others), planes, VALUES)


@functools.lru_cache(256)
def _kept_launches(
    inputs: tuple, outputs: tuple, windows: tuple[int, ...], others: tuple[int, ...], planes: bool, values: int
) -> list[tuple[Plan, tuple[int, ...], dict]]:
    """Of tensors of these layouts, by tensors without values."""
    ins, outs = (
        [torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in layouts]
        for layouts in (inputs, outputs)
    )
    found = []
    for plan in plan_launches(outs, planes=planes):
        those = (*plan.of(ins), *plan.of(outs))
        constants = {
            "CHANNELS_LAST": plan.channels_last,
            "ALIGNED": plan.channels_last and aligned(*those),
            "OFFSET": wide(*those),
            **plan.block,
        }
        found.append((plan, plan.table(ins, outs, windows, others), constants))
    return found


# --- tiles ------------------------------------------------------------------------------------------------------------


def wide(*tensors: Tensor) -> tl.dtype:
    """Type of an offset inside one image and channel."""
    extents = (sum((n - 1) * s for n, s in zip(t.shape[2:], t.stride()[2:], strict=True)) for t in tensors)
    return tl.int64 if max(extents, default=0) >= 2**31 else tl.int32


def aligned(*tensors: Tensor) -> bool:
    """Whether vectors of 16 values along the channels are aligned in all of these channels_last tensors."""
    return all(s % 16 == 0 for t in tensors for s in (t.shape[1], t.stride(0), t.stride(2), t.stride(3)))


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
def hint(x, ALIGNED: tl.constexpr):
    """x, as a multiple of 16 that the compiler sees (`tl.multiple_of` on an argument is lost when this is inlined)."""
    return (x >> 4) * 16 if ALIGNED else x


@triton.jit
def rows_of_blocks(size_y, size_x, BLOCK_P: tl.constexpr):
    """Blocks of ROW pixels along a row that an image has along a row, and in all."""
    across = tl.cdiv(size_x, ROW)
    return across, tl.cdiv(size_y, BLOCK_P // ROW) * across


@triton.jit
def pixels_of_block(block, across, BLOCK_P: tl.constexpr):
    """Rows `[y, 1]` and columns `[1, x]` of its pixels, which may be outside."""
    tall: tl.constexpr = BLOCK_P // ROW
    row, column = tl.arange(0, tall)[:, None], tl.arange(0, ROW)[None, :]
    return block // across * tall + row, block % across * ROW + column


# --- planes -----------------------------------------------------------------------------------------------------------


@triton.jit
def no_planes(p, ACC: tl.constexpr):
    """Four vectors of zeros over the pixels p."""
    zero = tl.zeros(p.shape, ACC)
    return zero, zero, zero, zero


@triton.jit
def add_planes(planes, ptr, stride, count, offset, mask, w, BLOCK_C: tl.constexpr):
    """Adds what is at `ptr + offset`, and each `stride` further for the other `count` channels, times the weights w."""
    a, b, c, d = planes
    a += tl.load(ptr + offset, mask=mask, other=0).to(a.dtype) * w
    if BLOCK_C > 1:
        b += tl.load(ptr + stride + offset, mask=mask & (count > 1), other=0).to(a.dtype) * w
    if BLOCK_C > 2:
        c += tl.load(ptr + 2 * stride + offset, mask=mask & (count > 2), other=0).to(a.dtype) * w
    if BLOCK_C > 3:
        d += tl.load(ptr + 3 * stride + offset, mask=mask & (count > 3), other=0).to(a.dtype) * w
    return a, b, c, d


@triton.jit
def store_planes(planes, ptr, stride, count, offset, mask, BLOCK_C: tl.constexpr):
    """Writes `count` channels to `ptr + offset` and each `stride` further."""
    tl.store(ptr + offset, planes[0], mask=mask)
    if BLOCK_C > 1:
        tl.store(ptr + stride + offset, planes[1], mask=mask & (count > 1))
    if BLOCK_C > 2:
        tl.store(ptr + 2 * stride + offset, planes[2], mask=mask & (count > 2))
    if BLOCK_C > 3:
        tl.store(ptr + 3 * stride + offset, planes[3], mask=mask & (count > 3))


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
def two_taps(c, s, extent):
    """Windows of half-width 1 as their first tap and the weights of it and of the next; 0 where nothing is read."""
    below = tl.floor(tl.where(c == c, c, 0.0))
    first = tl.maximum(below, 0.0)
    near, far = 1.0 - tl.abs(first - c), tl.where(first < extent - 1, 1.0 - tl.abs(first + 1.0 - c), 0.0)
    total = near + far
    scale = tl.where(total <= 0, 1.0, 1.0 / tl.where(total <= 0, 1.0, total))
    reads = (s > 0) & ~(first > extent - 1)
    return first.to(tl.int32), tl.where(reads, near * scale, 0.0), tl.where(reads, far * scale, 0.0)


@triton.jit
def weight(d, t):
    """Weight of tap number d of the windows whose `taps` are t."""
    return tl.where(d < t[1], (1.0 - tl.abs(t[2] + d) * t[3]) * t[4], 0.0)
