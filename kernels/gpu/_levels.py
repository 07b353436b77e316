"""The levels of a pyramid in one launch: the launches that layouts take, and what a program knows of its level."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, hint, next_power_of_2, pack, unpack
from fastwarp.kernels.layout import memory_format

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
    kernel has more in registers: 8 warps share a tile of 512 values, or 16 one of 1024 of float64.
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


def wide(*tensors: Tensor) -> tl.dtype:
    """Type of an offset inside one image and channel."""
    return tl.int64 if any(_is_wide(t.shape, t.stride()) for t in tensors) else tl.int32


@functools.lru_cache(256)
def _is_wide(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    return sum((n - 1) * s for n, s in zip(shape[2:], strides[2:], strict=True)) >= 2**31


def aligned(*tensors: Tensor) -> bool:
    """Whether vectors of 16 values along the channels are aligned in all of these channels_last tensors."""
    return all(s % 16 == 0 for t in tensors for s in (t.shape[1], t.stride(0), t.stride(2), t.stride(3)))
