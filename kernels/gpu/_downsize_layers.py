"""Triton kernels of the `downsize` family: gradients of weights and biases, and the way from the anchors to a map."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._downsize_conv import padded, product, products
from fastwarp.kernels.gpu._downsize_source import Source, patches, patches_of_few
from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, hint

PROGRAMS = 1056
"""Eight for each multiprocessor of a large GPU."""


@triton.jit(
    do_not_specialize=["h", "w", "batch", "shares", "height", "width", "stride_b", "stride_c", "stride_h", "stride_w"]
)
def _weights_gradient_kernel(
    out_ptr,
    grad_ptr,
    anchor_rows_ptr,
    anchor_columns_ptr,
    h,
    w,
    batch,
    shares,
    source_ptr,
    mean,
    scale,
    height,
    width,
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    F: tl.constexpr,
    LAYOUT: tl.constexpr,
    MATH: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Program (share of the pixels, block of rows, block of features) of the shares [shares, 9 * C + 1, F].

    The last row is the bias: all patches have a 1 there. With anchors the gradient is at these, else at every pixel.
    """
    kk = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    f = tl.program_id(2) * BLOCK_F + tl.arange(0, BLOCK_F)
    total = tl.zeros([BLOCK_K, BLOCK_F], MATH.ACC)
    blocks = tl.cdiv(h * w, BLOCK_P)
    for block in range(tl.program_id(0), batch * blocks, shares):
        b, p = (block // blocks).to(tl.int64), block % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
        exists, y, x = p < h * w, p // w, p % w
        if anchor_rows_ptr is not None:
            y = tl.load(anchor_rows_ptr + y, mask=exists, other=0)
            x = tl.load(anchor_columns_ptr + x, mask=exists, other=0)
        image_ptr = source_ptr + b * hint(stride_b, LAYOUT.ALIGNED)
        source = (image_ptr, mean, scale, height, width, stride_c, stride_h, stride_w)
        if 9 * LAYOUT.C < BLOCK_K:
            patch = patches_of_few(source, y, x, exists, 0, LAYOUT, MATH.ACC, BLOCK_K)
        else:
            patch = patches(source, y, x, exists, kk, LAYOUT, MATH.ACC)
        patch = tl.where((kk == 9 * LAYOUT.C)[None, :], 1.0, patch).to(MATH.DOT)
        mask = exists[:, None] & (f < F)[None, :]
        grad = tl.load(grad_ptr + (b * h * w + p)[:, None] * F + f[None, :], mask=mask, other=0)
        total = product(tl.trans(patch), grad, total, MATH)
    out_ptr += tl.program_id(0).to(tl.int64) * ((9 * LAYOUT.C + 1) * F)
    mask = (kk < 9 * LAYOUT.C + 1)[:, None] & (f < F)[None, :]
    tl.store(out_ptr + kk[:, None] * F + f[None, :], total, mask=mask)


def weights_gradient(
    source: Source, grad: Tensor, anchors: tuple[Tensor, Tensor] | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Gradients of a layer's weights `[F, C, 3, 3]` and bias `[F]`.

    Args:
        source: what the layer reads.
        grad: `[B, h, w, F]`, of what the layer makes before the ReLU.
        anchors: pixels `[h]`, `[w]` that the gradient is at; None: all.
        dtype: the image's.
    """
    batch, h, w, features = grad.shape
    channels = source.values.shape[1]
    block_f, block_k = min(padded(features), 64), 32
    block_p = 256 if INTERPRETED else 128 if 9 * channels < block_k else 64
    rows, columns = cdiv(9 * channels + 1, block_k), cdiv(features, block_f)
    shares = max(min(PROGRAMS // (rows * columns), batch * cdiv(h * w, block_p)), 1)
    if INTERPRETED:
        shares = min(shares, 2)
    out = grad.new_empty(shares, 9 * channels + 1, features)
    _weights_gradient_kernel[(shares, rows, columns)](
        *(out, grad, *(anchors or (None, None)), h, w, batch, shares, *source.arguments()),
        F=features,
        LAYOUT=source.layout(),
        MATH=products(dtype, gradients=True),
        BLOCK_P=block_p,
        BLOCK_F=block_f,
        BLOCK_K=block_k,
    )
    total = out.sum(0)
    return total[:-1].view(3, 3, channels, features).permute(3, 2, 0, 1).contiguous(), total[-1]


@triton.jit(do_not_specialize=["height", "width", "h", "w"])
def _spread_kernel(
    out_ptr,
    grad_ptr,
    row_starts_ptr,
    column_starts_ptr,
    height,
    width,
    h,
    w,
    F: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Program (image and block of pixels, block of features): the sum over the targets whose anchor a pixel is."""
    blocks = tl.cdiv(height * width, BLOCK_P)
    b, p = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    exists, y, x = p < height * width, p // width, p % width
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    r0 = tl.load(row_starts_ptr + y, mask=exists, other=0)
    q0 = tl.load(column_starts_ptr + x, mask=exists, other=0)
    rows = tl.load(row_starts_ptr + y + 1, mask=exists, other=0) - r0
    columns = tl.load(column_starts_ptr + x + 1, mask=exists, other=0) - q0
    total = tl.zeros([BLOCK_P, BLOCK_F], ACC)
    for i in range(tl.max(rows, 0)):
        for j in range(tl.max(columns, 0)):
            target = (b * h + r0 + i) * w + q0 + j
            mask = ((i < rows) & (j < columns))[:, None] & (f < F)[None, :]
            total += tl.load(grad_ptr + target[:, None] * F + f[None, :], mask=mask, other=0)
    target = (b * height * width + p)[:, None] * F + f[None, :]
    tl.store(out_ptr + target, total, mask=exists[:, None] & (f < F)[None, :])


def spread(grad: Tensor, anchors: tuple[Tensor, Tensor], size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """A map `[B, *size, F]` with the gradient `[B, h, w, F]` at the anchors, and 0 elsewhere."""
    batch, h, w, features = grad.shape
    out = grad.new_empty(batch, *size, features)
    starts = (
        torch.searchsorted(a, torch.arange(n + 1, dtype=a.dtype, device=a.device), out_int32=True)
        for a, n in zip(anchors, size, strict=True)
    )
    block_f = min(padded(features), 64)
    block_p = 4096 // block_f if INTERPRETED else 1024 // block_f
    _spread_kernel[(batch * cdiv(size[0] * size[1], block_p), cdiv(features, block_f))](
        *(out, grad, *starts, *size, h, w),
        F=features,
        ACC=products(dtype).ACC,
        BLOCK_F=block_f,
        BLOCK_P=block_p,
    )
    return out
