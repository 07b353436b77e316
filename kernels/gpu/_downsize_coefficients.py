"""What the kernels of the `downsize` family that work per target share: coefficients of the taps, DownsizeNet eq. 1.

Tiles are [targets, taps]. Where a target has more taps than fit in registers they come in chunks, and are computed
again for each use; `normaliser` has what couples them.
"""

import triton
import triton.language as tl


@triton.jit
def _narrow(z, BLOCK_T: tl.constexpr):
    """The first BLOCK_T of the columns, as many as fill a product."""
    if z.shape[1] == BLOCK_T:
        return z
    else:
        z = tl.where((tl.arange(0, z.shape[1]) < BLOCK_T)[None, :], z, 0.0)
        return tl.sum(tl.reshape(z, [z.shape[0], z.shape[1] // BLOCK_T, BLOCK_T]), 1)


@triton.jit
def widen(z, COLUMNS: tl.constexpr):
    """Columns of zeros appended."""
    if z.shape[1] == COLUMNS:
        return z
    else:
        copies: tl.constexpr = COLUMNS // z.shape[1]
        wide = tl.broadcast_to(z[:, None, :], [z.shape[0], copies, z.shape[1]])
        wide = tl.reshape(wide, [z.shape[0], COLUMNS])
        return tl.where((tl.arange(0, COLUMNS) < z.shape[1])[None, :], wide, 0.0)


@triton.jit
def logits_at(
    f,
    texture_ptr,
    logits_ptr,
    p,
    k0,
    targets,
    exists,
    K: tl.constexpr,
    LAST: tl.constexpr,
    MATH: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Logits z of the taps from k0 on, [targets, BLOCK_T], and which of them there are; 0 past the last."""
    k = k0 + tl.arange(0, BLOCK_T)
    known = (k < K)[None, :]
    z = tl.load(logits_ptr + k.to(tl.int64)[None, :] * targets + p[:, None], mask=known & exists[:, None], other=0)
    z = z.to(MATH.ACC)
    if LAST.F > 0:
        n, column = tl.arange(0, LAST.BLOCK_F), k0 + tl.arange(0, 16 if BLOCK_T < 16 else BLOCK_T)
        mask = (n < LAST.F)[:, None] & (column < K)[None, :]
        texture = tl.load(texture_ptr + column[None, :] * LAST.F + n[:, None], mask=mask, other=0).to(MATH.DOT)
        # Infinite features times the padding are NaN.
        of_features = tl.dot(f, texture, input_precision=MATH.PRECISION, out_dtype=MATH.ACC)
        z = tl.where(known, z + _narrow(of_features, BLOCK_T), 0.0)
    return z, known


@triton.jit
def _shares(z, top, NORMALISE: tl.constexpr):
    """What the coefficients are proportional to, relative to what it is at the largest z of all."""
    if NORMALISE == "sigmoid":
        return tl.exp(tl.where(z > 0, 0.0, z) - tl.where(top > 0, 0.0, top)[:, None]) / (1.0 + tl.exp(-tl.abs(z)))
    else:
        return tl.exp(z - top[:, None])


@triton.jit
def _shrink(before, top, NORMALISE: tl.constexpr):
    """How shares change when the largest z does."""
    if NORMALISE == "sigmoid":
        return tl.exp(tl.where(before > 0, 0.0, before) - tl.where(top > 0, 0.0, top))
    else:
        return tl.exp(before - top)


@triton.jit
def loop_end(taps, K: tl.constexpr, BLOCK_T: tl.constexpr):
    """K, where taps are in chunks as a number that the compiler does not know: it would unroll the loop, and spill."""
    if K <= BLOCK_T:
        return K
    else:
        return taps


@triton.jit
def normaliser(
    f,
    texture_ptr,
    logits_ptr,
    p,
    taps,
    targets,
    exists,
    NORMALISE: tl.constexpr,
    K: tl.constexpr,
    LAST: tl.constexpr,
    MATH: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """The largest z of each target, and the sum of the shares; of "signed" the sum of z.

    `taps` is what `loop_end` gives.
    """
    top = tl.zeros([p.shape[0]], MATH.ACC) - float("inf")
    total = tl.zeros([p.shape[0]], MATH.ACC)
    for k0 in range(0, taps, BLOCK_T):
        z, known = logits_at(f, texture_ptr, logits_ptr, p, k0, targets, exists, K, LAST, MATH, BLOCK_T)
        if NORMALISE == "signed":
            total += tl.sum(z, 1)
        else:
            before = top
            top = tl.maximum(top, tl.max(tl.where(known, z, float("-inf")), 1))
            shares = tl.where(known, _shares(z, top, NORMALISE), 0.0)
            total = total * _shrink(before, top, NORMALISE) + tl.sum(shares, 1)
    return top, total


@triton.jit
def coefficients(z, known, norm, NORMALISE: tl.constexpr, K: tl.constexpr):
    """Coefficients from z and what `normaliser` found; 0 past the last tap."""
    top, total = norm
    if NORMALISE == "signed":
        a = z + ((1.0 - total) / K)[:, None]
    else:
        a = _shares(z, top, NORMALISE) / total[:, None]
    return tl.where(known, a, 0.0)


@triton.jit
def tap_offsets(
    rows_ptr,
    columns_ptr,
    r,
    q,
    k0,
    exists,
    stride_h,
    stride_w,
    KY: tl.constexpr,
    KX: tl.constexpr,
    OFFSET: tl.constexpr,
    BLOCK_T: tl.constexpr,
):
    """Where the taps from k0 on of the targets (r, q) are in a channel, and whether they exist: [targets, taps]."""
    k = k0 + tl.arange(0, BLOCK_T)
    mask = exists[:, None] & (k < KY * KX)[None, :]
    row = tl.load(rows_ptr + r[:, None] * KY + (k // KX)[None, :], mask=mask, other=0)
    column = tl.load(columns_ptr + q[:, None] * KX + (k % KX)[None, :], mask=mask, other=0)
    return row * stride_h.to(OFFSET) + column * stride_w.to(OFFSET), mask


@triton.jit
def grad_coefficients(
    grad_ptr, image_ptr, offset, mask, exists, grad_c, image_c, CHANNELS: tl.constexpr, ACC: tl.constexpr
):
    """Gradient of the coefficients: of each target (`grad_ptr`) with each of its taps, over the channels."""
    total = tl.zeros(offset.shape, ACC)
    for c in range(CHANNELS):
        grad = tl.load(grad_ptr + grad_c.to(tl.int64) * c, mask=exists, other=0).to(ACC)
        taps = tl.load(image_ptr + offset + image_c.to(tl.int64) * c, mask=mask, other=0).to(ACC)
        total += grad[:, None] * taps
    return total


@triton.jit
def couple(a, grad, NORMALISE: tl.constexpr):
    """What the gradients of all logits of a target have in common, summed over these taps."""
    return tl.sum(grad if NORMALISE == "signed" else a * grad, 1)


@triton.jit
def grad_logits(z, a, grad, common, NORMALISE: tl.constexpr, K: tl.constexpr):
    """Gradient of z from that of the coefficients a and the sum of `couple` over all taps."""
    if NORMALISE == "signed":
        return grad - (common / K)[:, None]
    slope = a
    if NORMALISE == "sigmoid":
        small = tl.exp(-tl.abs(z))
        slope = a * (tl.where(z > 0, small, 1.0) / (1.0 + small))
    return slope * (grad - common[:, None])
