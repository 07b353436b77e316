"""Triton kernels of the `downsize` family that work per target: features at P, coefficients, and the sum over the taps.

The last layer is evaluated at the anchors only, and where that is cheaper so is the one before it, at the nine pixels
that the last one reads. Neither features nor coefficients are stored, but where a gradient needs them.
"""

import dataclasses
import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._downsize_coefficients import coefficients, logits_at, loop_end, normaliser, tap_offsets
from fastwarp.kernels.gpu._downsize_conv import block_depth, block_pixels, convolve, padded, products, relu, weights_of
from fastwarp.kernels.gpu._downsize_source import Layout, Source
from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, hint, next_power_of_2
from fastwarp.kernels.gpu._levels import wide
from fastwarp.kernels.layout import memory_format


class Widths(NamedTuple):
    """Features of the last layer and of the one before it (0: not evaluated here), a constant of kernels, and the sides
    of their products: BLOCK_I for the inner ones, BLOCK_K for what is read."""

    F: int
    INNER: int
    BLOCK_I: int
    BLOCK_F: int
    BLOCK_K: int


@triton.jit
def features(
    source,
    y,
    x,
    exists,
    factors,
    LAYOUT: tl.constexpr,
    LAST: tl.constexpr,
    MATH: tl.constexpr,
):
    """What the last layer makes at the pixels (y, x), [pixels, BLOCK_F], from the map before it.

    With INNER features in the layer before, from the map before that one.
    """
    inner_ptr, inner_bias_ptr, weight_ptr, bias_ptr = factors
    f = tl.arange(0, LAST.BLOCK_F)
    if LAST.INNER == 0:
        value = convolve(source, y, x, exists, weight_ptr, f, LAST.F, LAYOUT, MATH, LAST.BLOCK_K)
    else:
        n = tl.arange(0, LAST.BLOCK_I)
        inner_bias = tl.load(inner_bias_ptr + n, mask=n < LAST.INNER, other=0).to(MATH.ACC)
        value = tl.zeros([y.shape[0], f.shape[0]], MATH.ACC)
        for tap in range(9):
            row, column = y + (tap // 3 - 1), x + (tap % 3 - 1)
            inside = exists & (row >= 0) & (row < source[3]) & (column >= 0) & (column < source[4])
            inner = convolve(source, row, column, inside, inner_ptr, n, LAST.INNER, LAYOUT, MATH, LAST.BLOCK_K)
            # Outside is zero padding, not what the layer would make there.
            inner = tl.where(inside[:, None] & (n < LAST.INNER)[None, :], relu(inner + inner_bias[None, :]), 0.0)
            weight = weights_of(weight_ptr, tap, n, f, LAST.INNER, LAST.F, False).to(MATH.DOT)
            value = tl.dot(inner.to(MATH.DOT), weight, value, input_precision=MATH.PRECISION, out_dtype=MATH.ACC)
    value = relu(value + tl.load(bias_ptr + f, mask=f < LAST.F, other=0).to(MATH.ACC)[None, :])
    # Infinite values times padding would be NaN.
    return tl.where((f < LAST.F)[None, :], value, 0.0)


@triton.jit(
    do_not_specialize=[
        *("h", "w", "taps", "image_b", "image_c", "image_h", "image_w", "out_c", "out_p"),
        *("height", "width", "stride_b", "stride_c", "stride_h", "stride_w"),
    ]
)
def _downsize_kernel(
    out_ptr,
    image_ptr,
    factors,
    texture_ptr,
    logits_ptr,
    tables,
    h,
    w,
    taps,
    image_b,
    image_c,
    image_h,
    image_w,
    out_c,
    out_p,
    source_ptr,
    mean,
    scale,
    height,
    width,
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    NORMALISE: tl.constexpr,
    KY: tl.constexpr,
    KX: tl.constexpr,
    CHANNELS: tl.constexpr,
    LAYOUT: tl.constexpr,
    LAST: tl.constexpr,
    PIXEL: tl.constexpr,
    MATH: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (image, block of targets)."""
    blocks = tl.cdiv(h * w, BLOCK_P)
    b, p = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    exists, r, q = p < h * w, p // w, p % w
    rows_ptr, columns_ptr, anchor_rows_ptr, anchor_columns_ptr = tables
    f = exists
    if LAST.F > 0:
        y = tl.load(anchor_rows_ptr + r, mask=exists, other=0)
        x = tl.load(anchor_columns_ptr + q, mask=exists, other=0)
        source_ptr += b * hint(stride_b, LAYOUT.ALIGNED)
        source = (source_ptr, mean, scale, height, width, stride_c, stride_h, stride_w)
        f = features(source, y, x, exists, factors, LAYOUT, LAST, MATH).to(MATH.DOT)
    end = loop_end(taps, KY * KX, BLOCK_T)
    norm = normaliser(f, texture_ptr, logits_ptr, p, end, h * w, exists, NORMALISE, KY * KX, LAST, MATH, BLOCK_T)
    image_ptr += b * image_b
    out_ptr += b * CHANNELS * h * w + p.to(tl.int64) * out_p
    if KY * KX <= BLOCK_T:
        z, known = logits_at(f, texture_ptr, logits_ptr, p, 0, h * w, exists, KY * KX, LAST, MATH, BLOCK_T)
        a = coefficients(z, known, norm, NORMALISE, KY * KX)
        offset, mask = tap_offsets(rows_ptr, columns_ptr, r, q, 0, exists, image_h, image_w, KY, KX, PIXEL, BLOCK_T)
        for c in range(CHANNELS):
            value = tl.load(image_ptr + offset + image_c.to(tl.int64) * c, mask=mask, other=0).to(MATH.ACC)
            tl.store(out_ptr + out_c.to(tl.int64) * c, tl.sum(a * value, 1), mask=exists)
    else:
        for c in range(CHANNELS):
            total = tl.zeros([BLOCK_P], MATH.ACC)
            for k0 in range(0, end, BLOCK_T):
                z, known = logits_at(f, texture_ptr, logits_ptr, p, k0, h * w, exists, KY * KX, LAST, MATH, BLOCK_T)
                a = coefficients(z, known, norm, NORMALISE, KY * KX)
                offset, mask = tap_offsets(
                    *(rows_ptr, columns_ptr, r, q, k0, exists, image_h, image_w, KY, KX, PIXEL, BLOCK_T)
                )
                value = tl.load(image_ptr + offset + image_c.to(tl.int64) * c, mask=mask, other=0).to(MATH.ACC)
                total += tl.sum(a * value, 1)
            tl.store(out_ptr + out_c.to(tl.int64) * c, total, mask=exists)


@dataclasses.dataclass(frozen=True)
class Last:
    """The layers that are evaluated per target: none, the last, or the last two.

    Attributes:
        source: what they read; None without layers.
        layers: weights and biases.
    """

    source: Source | None
    layers: list[tuple[Tensor, Tensor]]

    @property
    def features(self) -> int:
        return len(self.layers[-1][1]) if self.layers else 0

    @property
    def inner(self) -> int:
        return len(self.layers[0][1]) if len(self.layers) > 1 else 0

    def factors(self) -> tuple[Tensor | None, ...]:
        """Weights and bias of the layer before the last, and of the last."""
        return (*[None] * (4 - 2 * len(self.layers)), *(t for pair in self.layers for t in pair))

    def arguments(self) -> tuple:
        """What `Source.arguments` are, without layers too."""
        return (None, None, None, *[0] * 6) if self.source is None else self.source.arguments()

    def layout(self) -> Layout:
        """That of the source, without layers too."""
        return Layout(0, False, False, tl.int32) if self.source is None else self.source.layout()

    def constants(self) -> Widths:
        depth = 16 if self.source is None else block_depth(self.source)
        return Widths(self.features, self.inner, padded(self.inner), padded(self.features), depth)


@functools.lru_cache(256)
def tile(dtype: torch.dtype, widest: int, taps: int, gradients: bool = False) -> dict:
    """Targets and taps of a program, and its warps. Taps that do not fit in registers together come in chunks.

    `widest`: features of the wider of the layers that are evaluated at the targets.
    """
    double = dtype == torch.float64
    most = (16 if double or taps > 128 else 32) if gradients else 32 if double else 64 if taps > 128 else 128
    block_t = min(next_power_of_2(taps), most)
    features = padded(widest)
    block_p = 256 if INTERPRETED else block_pixels(dtype, max(features, 2 * block_t))
    many = 64 if dtype == torch.float32 else 128  # products of float32 take registers of their own
    return {"BLOCK_T": block_t, "BLOCK_P": block_p, "num_warps": 8 if max(features, block_t) >= many else 4}


def evaluate(
    image: Tensor,
    last: Last,
    texture: Tensor,
    logits: Tensor,
    tables: tuple[Tensor, ...],
    normalise: str,
) -> Tensor:
    """The downsized image `[B, C, h, w]`.

    Args:
        image: `[B, C, H, W]`.
        last: the layers that are evaluated here.
        texture: `[K, F]`.
        logits: `[K, h, w]`.
        tables: rows, columns, their anchors.
        normalise: as for `downsize`.
    """
    h, w = logits.shape[1:]
    batch, channels = image.shape[:2]
    form = memory_format(image)
    out = torch.empty((batch, channels, h, w), dtype=image.dtype, device=image.device, memory_format=form)
    if out.numel() == 0:
        return out
    block = tile(image.dtype, max(last.features, last.inner), len(logits))
    _downsize_kernel[(batch * cdiv(h * w, block["BLOCK_P"]),)](
        *(out, image, last.factors(), texture, logits, tables, h, w, len(logits)),
        *(*image.stride(), *((1, channels) if form == torch.channels_last else (h * w, 1))),
        *last.arguments(),
        NORMALISE=normalise,
        KY=tables[0].shape[1],
        KX=tables[1].shape[1],
        CHANNELS=channels,
        PIXEL=wide(image),
        LAYOUT=last.layout(),
        LAST=last.constants(),
        MATH=products(image.dtype),
        **block,
    )
    return out
