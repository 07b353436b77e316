"""What a 3x3 layer of the `downsize` family reads: an image, normalised on the way, or a map; and its patches.

Patches are [targets, 9 * channels], tap by tap, channels innermost, gathered anew for every layer: Triton cannot read
shifted windows of a tile in registers.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import hint

FEW = 8
"""Channels whose means and scales may be arguments of a kernel."""


class Layout(NamedTuple):
    """How the values of a source lie, a constant of kernels.

    Attributes:
        C: channels.
        UNIT: these are innermost.
        ALIGNED: vectors along them are.
        OFFSET: type of an offset inside an image.
    """

    C: int
    UNIT: bool
    ALIGNED: bool
    OFFSET: tl.dtype


@dataclasses.dataclass(frozen=True)
class Source:
    """What a layer reads: the image, normalised on the way, or a map.

    Attributes:
        values: `[B, C, H, W]`, any strides.
        mean: what is taken off each channel (one for all, or one each), in parts for float64; None: nothing.
        scale: what the channels are multiplied with then.
    """

    values: Tensor
    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None

    @classmethod
    def map(cls, values: Tensor) -> "Source":
        """A map `[B, H, W, F]`."""
        return cls(values.permute(0, 3, 1, 2))

    @classmethod
    def image(cls, image: Tensor, mean: Sequence[float], scale: Sequence[float]) -> "Source":
        """An image as the first layer sees it."""
        if len({*zip(mean, scale, strict=True)}) > 1 and len(mean) > FEW:
            # Built on the device: a copy from the host would end the capture of a graph.
            offsets, factors = (
                torch.cat([image.new_full((1, 1, 1), v, dtype=torch.float64) for v in values])
                for values in (mean, scale)
            )
            image = ((image.to(torch.promote_types(image.dtype, torch.float32)) - offsets) * factors).to(image.dtype)
            mean, scale = [0.0] * len(mean), [1.0] * len(mean)
        if not any(mean) and all(factor == 1 for factor in scale):
            return cls(image)
        return cls(image, parts(tuple(mean), image.dtype), parts(tuple(scale), image.dtype))

    def arguments(self) -> tuple:
        """For `unpacked` parameters: pointer, mean, scale, height, width and strides."""
        return (self.values, self.mean, self.scale, *self.values.shape[2:], *self.values.stride())

    def layout(self) -> Layout:
        return _layout(self.values.shape, self.values.stride())


@functools.lru_cache(256)
def _layout(shape: tuple[int, ...], strides: tuple[int, ...]) -> Layout:
    unit = strides[1] == 1
    extent = sum((n - 1) * s for n, s in zip(shape[1:], strides[1:], strict=True))
    aligned = unit and all(s % 16 == 0 for s in (shape[1], strides[0], *strides[2:]))
    return Layout(shape[1], unit, aligned, tl.int64 if extent >= 2**31 else tl.int32)


@functools.lru_cache(256)
def parts(values: tuple[float, ...], dtype: torch.dtype) -> tuple[float, ...]:
    """Constants of channels for `of_channel`; a single one where all are alike.

    A float argument of a kernel is a float32: a float64 is the sum of three.
    """
    those = tuple(map(float, values[:1] if len(set(values)) == 1 else values))
    if dtype != torch.float64:
        return those
    split = []
    for value in those:
        for _ in range(3):
            split.append(torch.tensor(value, dtype=torch.float32, device="cpu").item())
            value -= split[-1]
    return tuple(split)


@triton.jit
def constant(values, CHANNEL: tl.constexpr, ACC: tl.constexpr):
    """The constant of a channel, made by `parts`."""
    each: tl.constexpr = 3 if tl.float64 == ACC else 1
    first: tl.constexpr = each * CHANNEL if len(values) > each else 0
    value = tl.cast(values[first], ACC)
    for j in tl.static_range(1, each):
        value += values[first + j]
    return value


@triton.jit
def of_channel(values, c, ACC: tl.constexpr):
    """The constants of the channels c."""
    result = tl.full(c.shape, constant(values, 0, ACC), ACC)
    for i in tl.static_range(1, len(values) // (3 if tl.float64 == ACC else 1)):
        result = tl.where(c == i, constant(values, i, ACC), result)
    return result


@triton.jit
def _tap(source, y, x, exists, tap, LAYOUT: tl.constexpr):
    """Pointers to one of the nine pixels around (y, x), numbered row by row, and whether it is in the source.

    `source` has the pointer to an image of the batch, means, scales, height, width, strides of channels, rows, columns.
    """
    source_ptr, _, _, h, w, _, stride_h, stride_w = source
    stride_h = hint(stride_h, LAYOUT.ALIGNED).to(LAYOUT.OFFSET)
    stride_w = hint(stride_w, LAYOUT.ALIGNED).to(LAYOUT.OFFSET)
    row, column = y + (tap // 3 - 1), x + (tap % 3 - 1)
    inside = exists & (row >= 0) & (row < h) & (column >= 0) & (column < w)
    return source_ptr + (y * stride_h + x * stride_w) + ((tap // 3 - 1) * stride_h + (tap % 3 - 1) * stride_w), inside


@triton.jit
def patches(
    source,
    y,
    x,
    exists,
    kk,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Values kk of the patches around the pixels (y, x), [pixels, kk], normalised; 0 outside the source."""
    source_ptr, mean, scale, h, w, stride_c, stride_h, stride_w = source
    tap, c = kk // LAYOUT.C, kk % LAYOUT.C
    dy, dx = tap // 3 - 1, tap % 3 - 1
    stride_h = hint(stride_h, LAYOUT.ALIGNED).to(LAYOUT.OFFSET)
    stride_w = hint(stride_w, LAYOUT.ALIGNED).to(LAYOUT.OFFSET)
    row, column = y[:, None] + dy[None, :], x[:, None] + dx[None, :]
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w) & (kk < 9 * LAYOUT.C)[None, :] & exists[:, None]
    channel = c if LAYOUT.UNIT else c * stride_c.to(LAYOUT.OFFSET)
    offset = (y * stride_h + x * stride_w)[:, None] + (dy * stride_h + dx * stride_w + channel)[None, :]
    values = tl.load(source_ptr + offset, mask=inside, other=0).to(ACC)
    if mean is not None:
        centred = values - of_channel(mean, c, ACC)[None, :]
        values = tl.where(inside, centred * of_channel(scale, c, ACC)[None, :], 0.0)
    return values


@triton.jit
def _columns(vectors):
    """[pixels, N] of N vectors, a power of two. Vectors far apart are joined first: the last axis is innermost."""
    half: tl.constexpr = len(vectors) // 2
    if half == 0:
        return tl.reshape(vectors[0], [vectors[0].shape[0], vectors[0].numel // vectors[0].shape[0]])
    else:
        pairs = ()
        for i in tl.static_range(half):
            pairs += (tl.join(vectors[i], vectors[half + i]),)  # type: ignore[assignment]
        return _columns(pairs)


@triton.jit
def patches_of_few(
    source,
    y,
    x,
    exists,
    FIRST: tl.constexpr,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Values of `patches` from FIRST on. Where a thread has a whole patch, each value is a load at a fixed distance."""
    vectors = ()
    for k in tl.static_range(FIRST, FIRST + BLOCK_K):
        if k == FIRST or k % LAYOUT.C == 0:
            pointers, inside = _tap(source, y, x, exists, k // LAYOUT.C, LAYOUT)
        if k >= 9 * LAYOUT.C:
            values = tl.zeros(y.shape, ACC)
        else:
            channel = k % LAYOUT.C if LAYOUT.UNIT else k % LAYOUT.C * source[5].to(LAYOUT.OFFSET)
            values = tl.load(pointers + channel, mask=inside, other=0).to(ACC)
            if source[1] is not None:
                centred = values - constant(source[1], k % LAYOUT.C, ACC)
                values = tl.where(inside, centred * constant(source[2], k % LAYOUT.C, ACC), 0.0)
        vectors += (values,)  # type: ignore[assignment]
    return _columns(vectors)


@triton.jit
def patches_of_tap(
    source,
    y,
    x,
    exists,
    tap,
    c,
    LAYOUT: tl.constexpr,
    ACC: tl.constexpr,
):
    """Channels c of `patches` at one tap, where C is so large that all have one mean and scale."""
    pointers, inside = _tap(source, y, x, exists, tap, LAYOUT)
    mask = inside[:, None] & (c < LAYOUT.C)[None, :]
    channel = c if LAYOUT.UNIT else c * source[5].to(LAYOUT.OFFSET)
    values = tl.load(pointers[:, None] + channel[None, :], mask=mask, other=0).to(ACC)
    if source[1] is not None:
        values = tl.where(mask, (values - constant(source[1], 0, ACC)) * constant(source[2], 0, ACC), 0.0)
    return values
