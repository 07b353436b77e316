"""What the kernels of the `separable` family share: windows as weights, the levels of a pyramid, tiles.

A tile is [channels, pixels], or [pixels, channels] for channels_last: what is innermost in memory comes last, so that a
warp reads and writes runs of memory. Pixels are numbered row by row; a tile may span rows. Where channels lie apart,
resampling better takes a rectangle of pixels and one channel after the other, or up to four at a time: `planes`.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, next_power_of_2, pack, unpack
from fastwarp.kernels.layout import memory_format

# --- levels -----------------------------------------------------------------------------------------------------------

ROW: tl.constexpr = tl.constexpr(32)
"""Pixels along a row of a block of planes."""
VALUES = 4096 if INTERPRETED else 1024
"""Values of a tile, see `plan_launches`."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """One launch, for levels of one memory format.

    Attributes:
        channels_last: the memory format.
        index: which levels.
        firsts: the first block of each, and so the first program.
        grid: programs: blocks of all levels, groups of channels, images.
        group: channels of one program.
        block: sizes of a tile.
    """

    channels_last: bool
    index: list[int]
    firsts: list[int]
    grid: tuple[int, int, int]
    group: int
    block: dict[str, int]

    def of(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The tensors of its levels."""
        return tuple(tensors[i] for i in self.index)

    def table(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        windows: Sequence[int],
        others: Sequence[int],
        gradient: bool = False,
    ) -> tuple[int, ...]:
        """Its levels as integers for `work_of_program`.

        0 first program, 1 level, 2 where its windows begin, 3 channels, 4, 5 size of the input, 6, 7 size of the
        output, 8 where `others`, vectors of the kernel's own, begin, 9..12 strides of the input (b, c, h, w), and for a
        gradient 13..16 strides of the output.
        """
        numbers: list[int] = []
        for i, first in zip(self.index, self.firsts, strict=True):
            t, sides = inputs[i], (*inputs[i].shape[2:], *outputs[i].shape[2:])
            numbers += [first, i, windows[i], t.shape[1], *sides, others[i], *t.stride()]
            numbers += outputs[i].stride() if gradient else ()
        return pack(*numbers)


def pixels_of_planes(antialias: bool) -> int:
    """Pixels of a block of planes: a thread has 4, or 2 where it also keeps what taps of filters have in common."""
    return VALUES // (4 if antialias else 2)


def plan_launches(tiled: Sequence[Tensor], grads: Sequence[Tensor] | None = None, planes: int = 0) -> list[Plan]:
    """The launches for tiles over the pixels of `tiled`, one per memory format; levels without values need none.

    A tile has 8 values per thread of 4 warps, or 4 of float64: enough loads in flight, and no spills. channels_last: up
    to 128 channels, vectors of 16 bytes along them. Else 4 channels that share addresses and weights.

    A program makes a group of channels: larger ones share the work on windows, smaller ones keep a GPU of 132
    multiprocessors busy (8 programs each). Groups that only other levels have make nothing.

    With `planes`, if not channels_last, BLOCK_C is the number of planes, and a block has that many pixels, ROW of them
    along a row.

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
        if planes > 0 and not channels_last:
            block, pixels = {"BLOCK_C": min(max(channels), most)}, planes
            area = [blocks_of_planes(tiled[i].shape[2], tiled[i].shape[3], pixels) * pixels for i in index]
        if grads is None:
            block["BLOCK_P"] = pixels
            blocks = [cdiv(n, pixels) for n in area]
        else:
            block["BLOCK_Y"] = 8 if pixels >= 256 else 4
            block["BLOCK_X"] = pixels // block["BLOCK_Y"]
            sides = [(grads[i].shape[2], grads[i].shape[3]) for i in index]
            blocks = [cdiv(h, block["BLOCK_Y"]) * cdiv(w, block["BLOCK_X"]) for h, w in sides]
        chunks, batch = cdiv(max(channels), block["BLOCK_C"]), len(tiled[index[0]])
        least = cdiv(chunks, 65535)  # what the second axis of a grid of programs can have
        useful = min(batch * sum(blocks) * chunks // 1056, 8)
        group = block["BLOCK_C"] * (chunks if INTERPRETED else max(useful, least))
        *firsts, total = itertools.accumulate(blocks, initial=0)
        grid = total, cdiv(max(channels), group), batch
        plans.append(Plan(channels_last, index, firsts, grid, group, block))
    return plans


def blocks_of_planes(height: int, width: int, pixels: int) -> int:
    """Blocks of so many pixels that an image has, see `pixels_of_block`."""
    return cdiv(height, pixels // ROW.value) * cdiv(width, ROW.value)


def empty_levels(like: Sequence[Tensor], batch: int, sizes: Sequence[int]) -> list[Tensor]:
    """Levels of `batch` images of `sizes` `[H1, W1, ...]`, otherwise as `like`; zeros where that has no values."""
    outs = []
    for i, t in enumerate(like):
        shape = (batch, t.shape[1], *sizes[2 * i : 2 * i + 2])
        out = torch.empty(shape, dtype=t.dtype, device=t.device, memory_format=memory_format(t))
        outs.append(out if t.numel() > 0 else out.zero_())
    return outs


@triton.jit
def _numbers(levels, P: tl.constexpr, FIELDS: tl.constexpr):
    """The numbers of level P."""
    numbers = ()
    for i in tl.static_range(FIELDS):
        numbers += (unpack(levels[P * FIELDS + i]).to(tl.int32 if i < 8 else tl.int64),)  # type: ignore[assignment]
    return numbers


@triton.jit
def _tensors(tensors, P: tl.constexpr):
    """Entry P of each of the tuples."""
    entries = ()
    for i in tl.static_range(len(tensors)):
        entries += (tensors[i][P],)  # type: ignore[assignment]
    return entries


@triton.jit
def work_of_program(tensors, levels, group, ALIGNED: tl.constexpr, OFFSET: tl.constexpr):
    """What a program works on, from `tensors`, tuples over the levels, and their table, see `Plan`.

    Returns its level's tensors; its block in the level, image, first channel, and the one after the last; channels,
    height and width of the output; number, height and width of the input; where its windows begin, and `others`; and
    strides of the input, for a gradient also of the output: from image to image, channel, row, column.
    """
    fields: tl.constexpr = len(levels) // len(tensors[0])
    # Branches: most programs have the first level, and pass by all of them. To select each number takes longer.
    n, own = _numbers(levels, 0, fields), _tensors(tensors, 0)
    for p in tl.static_range(1, len(tensors[0])):
        if tl.program_id(0) >= unpack(levels[p * fields]):
            n = _numbers(levels, p, fields)
    for p in tl.static_range(1, len(tensors[0])):  # by themselves: they stay in uniform registers
        if tl.program_id(0) >= unpack(levels[p * fields]):
            own = _tensors(tensors, p)
    block, b, channels = tl.program_id(0) - n[0], tl.program_id(2).to(tl.int64), n[3]
    begin = hint(tl.program_id(1) * group, ALIGNED)
    end = hint(tl.minimum(begin + group, channels), ALIGNED)
    strides = (_strides(n, 9, ALIGNED, OFFSET),)
    if fields > 13:
        strides += (_strides(n, 13, ALIGNED, OFFSET),)  # type: ignore[assignment]
    return own, (block, b, begin, end), (channels, n[6], n[7]), (n[1], n[4], n[5]), (n[2], n[8]), strides


@triton.jit
def _strides(n, FIRST: tl.constexpr, ALIGNED: tl.constexpr, OFFSET: tl.constexpr):
    stride_h, stride_w = hint(n[FIRST + 2].to(OFFSET), ALIGNED), hint(n[FIRST + 3].to(OFFSET), ALIGNED)
    return hint(n[FIRST], ALIGNED), n[FIRST + 1], stride_h, stride_w


def launches(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    windows: Sequence[int],
    others: Sequence[int],
    planes: int = 0,
) -> list[tuple[Plan, tuple[int, ...], dict]]:
    """`plan_launches(outputs)`, with the table of each and the constants that its kernel shares with all others.

    Levels of inputs without values are left out, see `empty_levels`.

    Kept for layouts that come again: on the host it takes longer than all else of a launch.
    """
    return _kept_launches(layouts(inputs, outputs), tuple(windows), tuple(others), planes)


def layouts(*lists: Sequence[Tensor]) -> tuple:
    """All that plans of launches depend on, to keep them by: shapes, strides and types, and VALUES."""
    return VALUES, *(tuple((t.shape, t.stride(), t.dtype) for t in tensors) for tensors in lists)


def tensors_of(layouts: tuple) -> Iterator[list[Tensor]]:
    """Lists of tensors of these layouts, without values."""
    for those in layouts[1:]:
        yield [torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in those]


@functools.lru_cache(256)
def _kept_launches(
    layouts: tuple, windows: tuple[int, ...], others: tuple[int, ...], planes: int
) -> list[tuple[Plan, tuple[int, ...], dict]]:
    ins, outs = tensors_of(layouts)
    found = []
    outs = [out if image.numel() > 0 else out[:0] for image, out in zip(ins, outs, strict=True)]
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


def gradient_launch(
    plan: Plan, images: Sequence[Tensor], grads: Sequence[Tensor], windows: Sequence[int], others: Sequence[int]
) -> tuple[Plan, tuple[int, ...], dict]:
    """A launch for the gradient of windows: the table of images and gradients, and constants for how they lie."""
    ins, those = plan.of(images), plan.of(grads)
    unit = plan.channels_last and all(t.stride(1) == 1 for t in those)
    constants = {
        "CHANNELS_LAST": plan.channels_last,
        "UNIT": unit,
        "ALIGNED": unit and aligned(*ins, *those),
        "OFFSET": wide(*ins, *those),
        **plan.block,
    }
    return plan, plan.table(images, grads, windows, others, True), constants


# --- tiles ------------------------------------------------------------------------------------------------------------


def wide(*tensors: Tensor) -> tl.dtype:
    """Type of an offset inside one image and channel."""
    return tl.int64 if any(_is_wide(t.shape, t.stride()) for t in tensors) else tl.int32


@functools.lru_cache(256)
def _is_wide(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    return sum((n - 1) * s for n, s in zip(shape[2:], strides[2:], strict=True)) >= 2**31


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
