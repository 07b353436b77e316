"""Triton kernel of the `downsize` family: gradients of logits, texture and features, one program per block of targets.

What the forward had in registers is computed again. Coefficients and gradients of z are stored, [B, K, h, w]: those are
what a gather over the targets of a pixel reads, these are summed over the batch.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._downsize_coefficients import (
    coefficients,
    couple,
    grad_coefficients,
    grad_logits,
    logits_at,
    loop_end,
    normaliser,
    tap_offsets,
    widen,
)
from fastwarp.kernels.gpu._downsize_conv import product, products
from fastwarp.kernels.gpu._downsize_targets import Last, features, tile
from fastwarp.kernels.gpu._launch import cdiv, hint
from fastwarp.kernels.gpu._levels import wide


@triton.jit(
    do_not_specialize=[
        *("h", "w", "taps", "grad_b", "grad_c", "grad_h", "grad_w", "image_b", "image_c", "image_h", "image_w"),
        *("height", "width", "stride_b", "stride_c", "stride_h", "stride_w"),
    ]
)
def _downsize_gradient_kernel(
    coefficients_ptr,
    logits_grad_ptr,
    features_grad_ptr,
    texture_grad_ptr,
    grad_ptr,
    image_ptr,
    factors,
    texture_ptr,
    logits_ptr,
    tables,
    h,
    w,
    taps,
    grad_b,
    grad_c,
    grad_h,
    grad_w,
    image_b,
    image_c,
    image_h,
    image_w,
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
    """Program (image, block of targets). Writes those of the first four that are there.

    `features_grad_ptr`: [B, h, w, F], before the ReLU. `texture_grad_ptr`: [programs, K, F], each program's share.
    """
    blocks = tl.cdiv(h * w, BLOCK_P)
    b, p = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    exists, r, q = p < h * w, p // w, p % w
    rows_ptr, columns_ptr, anchor_rows_ptr, anchor_columns_ptr = tables
    K: tl.constexpr = KY * KX
    f, value = exists, exists
    if LAST.F > 0:
        y = tl.load(anchor_rows_ptr + r, mask=exists, other=0)
        x = tl.load(anchor_columns_ptr + q, mask=exists, other=0)
        source_ptr += b * hint(stride_b, LAYOUT.ALIGNED)
        source = (source_ptr, mean, scale, height, width, stride_c, stride_h, stride_w)
        value = features(source, y, x, exists, factors, LAYOUT, LAST, MATH)
        f = value.to(MATH.DOT)
    end = loop_end(taps, KY * KX, BLOCK_T)
    norm = normaliser(f, texture_ptr, logits_ptr, p, end, h * w, exists, NORMALISE, K, LAST, MATH, BLOCK_T)
    image_ptr += b * image_b
    grad_ptr += b * grad_b + r.to(tl.int64) * grad_h + q.to(tl.int64) * grad_w
    common = tl.zeros([BLOCK_P], MATH.ACC)
    if K > BLOCK_T and logits_grad_ptr is not None:
        for k0 in range(0, end, BLOCK_T):
            z, known = logits_at(f, texture_ptr, logits_ptr, p, k0, h * w, exists, K, LAST, MATH, BLOCK_T)
            a = coefficients(z, known, norm, NORMALISE, K)
            offset, mask = tap_offsets(
                *(rows_ptr, columns_ptr, r, q, k0, exists, image_h, image_w, KY, KX, PIXEL, BLOCK_T)
            )
            by_a = grad_coefficients(grad_ptr, image_ptr, offset, mask, exists, grad_c, image_c, CHANNELS, MATH.ACC)
            common += couple(a, by_a, NORMALISE)

    COLUMNS: tl.constexpr = 16 if BLOCK_T < 16 else BLOCK_T
    n = tl.arange(0, LAST.BLOCK_F)
    by_features = tl.zeros([BLOCK_P, n.shape[0]], MATH.ACC)
    for k0 in range(0, end, BLOCK_T):
        z, known = logits_at(f, texture_ptr, logits_ptr, p, k0, h * w, exists, K, LAST, MATH, BLOCK_T)
        a = coefficients(z, known, norm, NORMALISE, K)
        known = known & exists[:, None]
        target = (b * K + k0 + tl.arange(0, BLOCK_T))[None, :] * (h * w) + p[:, None]
        if coefficients_ptr is not None:
            tl.store(coefficients_ptr + target, a, mask=known)
        if logits_grad_ptr is not None:
            offset, mask = tap_offsets(
                *(rows_ptr, columns_ptr, r, q, k0, exists, image_h, image_w, KY, KX, PIXEL, BLOCK_T)
            )
            by_a = grad_coefficients(grad_ptr, image_ptr, offset, mask, exists, grad_c, image_c, CHANNELS, MATH.ACC)
            if K <= BLOCK_T:
                common = couple(a, by_a, NORMALISE)
            by_z = tl.where(known, grad_logits(z, a, by_a, common, NORMALISE, K), 0.0)
            tl.store(logits_grad_ptr + target, by_z, mask=known)
            if features_grad_ptr is not None:
                by_z = widen(by_z, COLUMNS)
                column = k0 + tl.arange(0, COLUMNS)
                at = column[:, None] * LAST.F + n[None, :]
                mask = (column < K)[:, None] & (n < LAST.F)[None, :]
                texture = tl.load(texture_ptr + at, mask=mask, other=0).to(MATH.DOT).to(MATH.ACC)
                by_features = product(by_z, texture, by_features, MATH)
                if texture_grad_ptr is not None:
                    share = product(tl.trans(by_z), value, None, MATH)
                    tl.store(texture_grad_ptr + tl.program_id(0).to(tl.int64) * (K * LAST.F) + at, share, mask=mask)
    if features_grad_ptr is not None:
        by_features = tl.where(value <= 0, 0.0, by_features)
        target = (b * h * w + p)[:, None] * LAST.F + n[None, :]
        tl.store(features_grad_ptr + target, by_features, mask=exists[:, None] & (n < LAST.F)[None, :])


class TargetGradients(NamedTuple):
    """What the targets hand back; what was not asked for is None.

    Attributes:
        coefficients: `[B, K, h, w]`.
        logits: `[B, K, h, w]`, gradient of z.
        features: `[B, h, w, F]`, gradient at the anchors before the ReLU.
        texture: `[programs, K, F]`, shares of the gradient.
    """

    coefficients: Tensor | None
    logits: Tensor | None
    features: Tensor | None
    texture: Tensor | None


def differentiate(
    grad: Tensor,
    image: Tensor,
    last: Last,
    texture: Tensor,
    logits: Tensor,
    tables: tuple[Tensor, ...],
    normalise: str,
    need_coefficients: bool,
    need_parameters: bool,
    need_features: bool,
) -> TargetGradients:
    """Gradients at the targets; arguments as for `evaluate`."""
    taps, h, w = logits.shape
    batch, channels = image.shape[:2]
    block = tile(image.dtype, max(last.features, last.inner), taps, gradients=True)
    programs = batch * cdiv(h * w, block["BLOCK_P"])

    def empty(wanted: bool, *shape: int) -> Tensor | None:
        return logits.new_empty(shape) if wanted else None

    result = TargetGradients(
        empty(need_coefficients, batch, taps, h, w),
        empty(need_parameters or need_features, batch, taps, h, w),
        empty(need_features, batch, h, w, last.features),
        empty(need_parameters and need_features, programs, taps, last.features),
    )
    _downsize_gradient_kernel[(programs,)](
        *(*result, grad, image, last.factors(), texture, logits, tables, h, w, len(logits)),
        *(*grad.stride(), *image.stride(), *last.arguments()),
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
    return result
