"""3x3 layers of the `downsize` family, as products on tensor cores.

A layer is a matrix product over the patches of a `Source`. Maps are [B, H, W, F] in the image's dtype. Weights are read
as they are: to pack them would be launches of their own.

Products: float16 and bfloat16 on tensor cores with float32 sums, weights rounded to the image's dtype. Where gradients
are factors both are float32, rounded to TF32 (a float16 would lose small ones to its range). float32 images get IEEE
products, which no tensor core has, float64 ones the tensor cores of data centres.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._downsize_source import Source, patches, patches_of_few, patches_of_tap
from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, hint, next_power_of_2
from fastwarp.kernels.gpu._taps import accumulator

TYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64}
DEPTH = 32
"""Most values of a patch in one product of half precision."""


def padded(size: int, least: int = 16) -> int:
    """Side of a factor of `tl.dot`."""
    return max(next_power_of_2(size), least)


def factor(dtype: torch.dtype) -> torch.dtype:
    """Type of the factors in the layers of an image. The interpreter multiplies no bfloat16."""
    return torch.float32 if INTERPRETED and dtype == torch.bfloat16 else dtype


class Products(NamedTuple):
    """How factors are multiplied and summed, a constant of kernels: their type, `input_precision`, type of the sums."""

    DOT: tl.dtype
    PRECISION: str
    ACC: tl.dtype


@functools.lru_cache
def products(dtype: torch.dtype, gradients: bool = False) -> Products:
    """Those of an image's type, also where `gradients` are factors."""
    exact = accumulator(dtype)
    precision = "ieee" if dtype in (torch.float32, torch.float64) else "tf32"
    return Products(exact if gradients else TYPES[factor(dtype)], precision, exact)


@triton.jit
def _to_tf32(x):
    """The nearest TF32, ties away from 0; NaN as it is. Tensor cores cut off the bits that a TF32 has not, which would
    make every product smaller."""
    bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
    return tl.where(x == x, bits.to(tl.float32, bitcast=True), x)


@triton.jit
def product(a, b, total, MATH: tl.constexpr):
    """`total + a @ b`; `total` may be None."""
    if MATH.PRECISION == "tf32" and a.dtype == tl.float32:
        a, b = _to_tf32(a), _to_tf32(b)
    return tl.dot(a, b, total, input_precision=MATH.PRECISION, out_dtype=MATH.ACC)


@triton.jit
def relu(x):
    """NaN stays NaN."""
    return tl.where(x <= 0, 0.0, x)


@triton.jit
def weights_of(weight_ptr, tap, c, f, C: tl.constexpr, F: tl.constexpr, TURNED: tl.constexpr):
    """[c, f] of a layer's weights [F, C, 3, 3], or of weights [C, F, 3, 3] of a layer turned by 180 degrees."""
    mask = ((tap < 9) & (c < C))[:, None] & (f < F)[None, :]
    if TURNED:
        return tl.load(weight_ptr + (c * (9 * F) + 8 - tap)[:, None] + (f * 9)[None, :], mask=mask, other=0)
    else:
        return tl.load(weight_ptr + (c * 9 + tap)[:, None] + (f * (9 * C))[None, :], mask=mask, other=0)


@triton.jit
def convolve(
    source,
    y,
    x,
    exists,
    weight_ptr,
    f,
    F: tl.constexpr,
    LAYOUT: tl.constexpr,
    MATH: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TURNED: tl.constexpr = False,
):
    """Features f of a layer, without bias, at the pixels (y, x): [pixels, features]. Weights as for `weights_of`.

    Tap by tap, where channels fill a product; all that is read for three taps is on its way before the first product.
    """
    total = tl.zeros([y.shape[0], f.shape[0]], MATH.ACC)
    if LAYOUT.C < 16 and y.shape[0] < 64:
        for k0 in range(0, 9 * LAYOUT.C, BLOCK_K):
            kk = k0 + tl.arange(0, BLOCK_K)
            patch = patches(source, y, x, exists, kk, LAYOUT, MATH.ACC)
            weight = weights_of(weight_ptr, kk // LAYOUT.C, kk % LAYOUT.C, f, LAYOUT.C, F, TURNED)
            total = product(patch.to(MATH.DOT), weight.to(MATH.DOT), total, MATH)
    elif LAYOUT.C < 16:
        for k0 in tl.static_range(0, 9 * LAYOUT.C, BLOCK_K):
            kk = k0 + tl.arange(0, BLOCK_K)
            patch = patches_of_few(source, y, x, exists, k0, LAYOUT, MATH.ACC, BLOCK_K)
            weight = weights_of(weight_ptr, kk // LAYOUT.C, kk % LAYOUT.C, f, LAYOUT.C, F, TURNED)
            total = product(patch.to(MATH.DOT), weight.to(MATH.DOT), total, MATH)
    else:
        for c0 in range(0, LAYOUT.C, BLOCK_K):
            c = c0 + tl.arange(0, BLOCK_K)
            for first in tl.static_range(0, 9, 3):
                factors = ()
                for tap in tl.static_range(first, first + 3):
                    patch = patches_of_tap(source, y, x, exists, tap, c, LAYOUT, MATH.ACC)
                    weight = weights_of(weight_ptr, tap, c, f, LAYOUT.C, F, TURNED)
                    factors += ((patch.to(MATH.DOT), weight.to(MATH.DOT)),)  # type: ignore[assignment]
                for i in tl.static_range(3):
                    total = product(factors[i][0], factors[i][1], total, MATH)
    return total


@triton.jit(do_not_specialize=["h", "w", "stride_b", "stride_c", "stride_h", "stride_w"])
def _layer_kernel(
    out_ptr,
    weight_ptr,
    bias_ptr,
    gate_ptr,
    source_ptr,
    mean,
    scale,
    h,
    w,
    stride_b,
    stride_c,
    stride_h,
    stride_w,
    F: tl.constexpr,
    LAYOUT: tl.constexpr,
    MATH: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_K: tl.constexpr,
    TURNED: tl.constexpr,
):
    """Program (image and tile of pixels, block of features): a dense layer.

    With a bias it is the forward's, and ends in the ReLU. TURNED it is the gradient's, where a gate is the map that the
    ReLU before the layer made.
    """
    blocks_x = tl.cdiv(w, BLOCK_X)
    blocks = tl.cdiv(h, BLOCK_Y) * blocks_x
    b, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
    i = tl.arange(0, BLOCK_Y * BLOCK_X)
    y, x = block // blocks_x * BLOCK_Y + i // BLOCK_X, block % blocks_x * BLOCK_X + i % BLOCK_X
    exists = (y < h) & (x < w)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    source = (source_ptr + b * hint(stride_b, LAYOUT.ALIGNED), mean, scale, h, w, stride_c, stride_h, stride_w)
    value = convolve(source, y, x, exists, weight_ptr, f, F, LAYOUT, MATH, BLOCK_K, TURNED)
    if bias_ptr is not None:
        value = relu(value + tl.load(bias_ptr + f, mask=f < F, other=0).to(MATH.ACC)[None, :])
    offset = (y.to(tl.int64) * w + x)[:, None] * F + f[None, :]
    offset += b * h * w * F
    mask = exists[:, None] & (f < F)[None, :]
    if gate_ptr is not None:
        value = tl.where(tl.load(gate_ptr + offset, mask=mask, other=0).to(MATH.ACC) <= 0, 0.0, value)
    tl.store(out_ptr + offset, value, mask=mask)


def layer(
    source: Source,
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    gradients: bool = False,
    gate: Tensor | None = None,
) -> Tensor:
    """A dense layer `[B, H, W, F]` of an image of type `dtype`.

    Args:
        source: what it reads.
        weight: `[F, C, 3, 3]`, or with `gradients` `[C, F, 3, 3]` of the layer whose gradient this is; contiguous.
        bias: `[F]`; the ReLU follows.
        dtype: the image's.
        gradients: the source is a gradient, and so is the result, float32 at least.
        gate: `[B, H, W, F]`, where it is not positive the result is 0.
    """
    batch, _, h, w = source.values.shape
    features = weight.shape[1 if gradients else 0]
    kind = torch.promote_types(dtype, torch.float32) if gradients else dtype
    out = torch.empty((batch, h, w, features), dtype=kind, device=weight.device)
    if out.numel() == 0:
        return out
    grid, block = _tiles(batch, h, w, features, kind)
    _layer_kernel[grid](
        *(out, weight, bias, gate, *source.arguments()),
        F=features,
        LAYOUT=source.layout(),
        MATH=products(dtype, gradients),
        **block,
        BLOCK_K=block_depth(source),
        TURNED=gradients,
    )
    return out


@functools.lru_cache(256)
def _tiles(batch: int, h: int, w: int, features: int, dtype: torch.dtype) -> tuple[tuple[int, int], dict]:
    """The programs of a dense layer, and the sizes of their tiles."""
    block_f = min(padded(features), 64)
    pixels = 256 if INTERPRETED else 2 * block_pixels(dtype, block_f)
    block_x = min(padded(w, 1), pixels if INTERPRETED else 16)
    block_y = pixels // block_x
    grid = batch * cdiv(h, block_y) * cdiv(w, block_x), cdiv(features, block_f)
    return grid, {"BLOCK_Y": block_y, "BLOCK_X": block_x, "BLOCK_F": block_f}


def block_pixels(dtype: torch.dtype, features: int) -> int:
    """Rows of a product with so many columns that 4 warps hold without spills."""
    values = {torch.float64: 512, torch.float32: 1024}.get(dtype, 2048)
    return max(min(values // features, 128), 16)


def block_depth(source: Source) -> int:
    """Values of a patch in one product. 32 of float32 or float64 spill."""
    channels = source.values.shape[1]
    depth = channels if channels >= 16 else 9 * channels
    return 16 if source.values.dtype.itemsize > 2 else min(padded(depth), DEPTH)
