"""Triton kernel of the `downsize` family: the gradient of the image, a gather over the targets that read a pixel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._downsize_source import FEW, of_channel, parts
from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, next_power_of_2
from fastwarp.kernels.gpu._levels import wide
from fastwarp.kernels.gpu._taps import accumulator, along_channels, along_pixels, channel_offsets, dense_tile
from fastwarp.kernels.layout import memory_format


@triton.jit(do_not_specialize=["channels", "height", "width", "h", "w", "grad_b", "grad_c", "grad_h", "grad_w"])
def _image_gradient_kernel(
    out_ptr,
    grad_ptr,
    coefficients_ptr,
    way_ptr,
    scale,
    row_order_ptr,
    row_starts_ptr,
    column_order_ptr,
    column_starts_ptr,
    channels,
    height,
    width,
    h,
    w,
    grad_b,
    grad_c,
    grad_h,
    grad_w,
    KY: tl.constexpr,
    KX: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    UNIT: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (image and block of pixels, block of channels).

    `way_ptr`: the gradient [B, H, W, C] of what the first layer reads, or None.
    """
    blocks = tl.cdiv(height * width, BLOCK_P)
    b, p = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    exists, y, x = p < height * width, p // width, p % width
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = along_channels(c < channels, CHANNELS_LAST) & along_pixels(exists, CHANNELS_LAST)
    i0 = tl.load(row_starts_ptr + y, mask=exists, other=0)
    j0 = tl.load(column_starts_ptr + x, mask=exists, other=0)
    rows = tl.load(row_starts_ptr + y + 1, mask=exists, other=0) - i0
    columns = tl.load(column_starts_ptr + x + 1, mask=exists, other=0) - j0

    source = grad_ptr + b * grad_b + channel_offsets(c.to(tl.int64), grad_c, UNIT, CHANNELS_LAST)
    coefficients_ptr += b * (KY * KX) * h * w
    shape: tl.constexpr = [BLOCK_P, BLOCK_C] if CHANNELS_LAST else [BLOCK_C, BLOCK_P]
    value = tl.zeros(shape, ACC)
    for i in range(tl.max(rows, 0)):
        pair = tl.load(row_order_ptr + i0 + i, mask=i < rows, other=0).to(tl.int32)
        r, ky = pair // KY, pair % KY
        for j in range(tl.max(columns, 0)):
            reads = (i < rows) & (j < columns)
            pair = tl.load(column_order_ptr + j0 + j, mask=reads, other=0).to(tl.int32)
            q, kx = pair // KX, pair % KX
            a = tl.load(coefficients_ptr + ((ky * KX + kx).to(tl.int64) * h + r) * w + q, mask=reads, other=0)
            offset = r.to(OFFSET) * grad_h + q.to(OFFSET) * grad_w
            there = mask & along_pixels(reads, CHANNELS_LAST)
            grad = tl.load(source + along_pixels(offset, CHANNELS_LAST), mask=there, other=0)
            value += tl.where(there, grad.to(ACC) * along_pixels(a, CHANNELS_LAST), 0.0)
    if way_ptr is not None:
        way_ptr += b * height * width * channels + along_pixels(p.to(tl.int64) * channels, CHANNELS_LAST)
        way = tl.load(way_ptr + along_channels(c, CHANNELS_LAST), mask=mask, other=0)
        value += way * along_channels(of_channel(scale, c, ACC), CHANNELS_LAST)
    out_ptr += b * channels * height * width
    target = dense_tile(out_ptr, c, p, channels, height * width, CHANNELS_LAST, False, tl.int64)
    tl.store(target, value, mask=mask)


def _readers(taps: Tensor, extent: int) -> tuple[Tensor, Tensor]:
    """Pairs (target, tap), numbered row by row, sorted by the pixel that they read, and where each pixel's begin."""
    pixels, order = torch.sort(taps.flatten(), stable=True)
    every = torch.arange(extent + 1, dtype=taps.dtype, device=taps.device)
    return order, torch.searchsorted(pixels, every, out_int32=True)


def image_gradient(
    grad: Tensor, image: Tensor, coefficients: Tensor, way: Tensor | None, scale: list[float], tables: tuple
) -> Tensor:
    """Gradient `[B, C, H, W]`: by the taps, and by what the layers read.

    Args:
        grad: `[B, C, h, w]`.
        image: for shape, dtype and memory format.
        coefficients: `[B, K, h, w]`.
        way: `[B, H, W, C]`, gradient of the normalised image, or None.
        scale: `[C]`.
        tables: rows and columns.
    """
    batch, channels, height, width = image.shape
    form = memory_format(image)
    out = torch.empty(image.shape, dtype=image.dtype, device=image.device, memory_format=form)
    last = form == torch.channels_last
    if way is not None and len(set(scale)) > 1 and channels > FEW:
        way, scale = way * torch.cat([way.new_full((1,), s) for s in scale]), [1.0] * channels
    block_c = min(next_power_of_2(channels), 128 if last else 4)
    values = 4096 if INTERPRETED else 512
    block_p = values // block_c
    _image_gradient_kernel[(batch * cdiv(height * width, block_p), cdiv(channels, block_c))](
        *(out, grad, coefficients, way, parts(tuple(scale), image.dtype)),
        *_readers(tables[0], height),
        *_readers(tables[1], width),
        *(channels, height, width, *grad.shape[2:], *grad.stride()),
        KY=tables[0].shape[1],
        KX=tables[1].shape[1],
        CHANNELS_LAST=last,
        UNIT=last and grad.stride(1) == 1,
        OFFSET=wide(grad),
        ACC=accumulator(image.dtype),
        BLOCK_C=block_c,
        BLOCK_P=block_p,
    )
    return out
