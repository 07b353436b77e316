"""What the resampling kernels of the `separable` and `grid` families share: pixels of the result as sums over taps.

The taps of an axis are those of `two_taps`, or with ANTIALIAS of `taps`.
"""

import triton
import triton.language as tl

from fastwarp.kernels.gpu._taps import (
    add_planes,
    along_channels,
    along_pixels,
    channel_offsets,
    channels_of_planes,
    dense_tile,
    most,
    no_planes,
    weight,
)


@triton.jit
def _round_to_byte(x):
    """0..255, half to even: adding 1.5 * 2^23 leaves no bits for a fraction. NaN gives 0."""
    rounded = (x + 12582912.0) - 12582912.0
    return tl.minimum(tl.where(rounded > 0, rounded, 0.0), 255.0).to(tl.uint8)


@triton.jit
def _corners(ty, tx, stride_h, stride_w, OFFSET: tl.constexpr):
    """Offsets of the four pixels around the targets whose `two_taps` are ty, tx."""
    top, left = ty[0].to(OFFSET) * stride_h, tx[0].to(OFFSET) * stride_w
    bottom, right = top + ty[3] * stride_h, left + tx[3] * stride_w
    return top + left, top + right, bottom + left, bottom + right


@triton.jit
def _weights(ty, tx, ACC: tl.constexpr):
    """Weights of the top, bottom, left and right of them."""
    return ty[1].to(ACC), ty[2].to(ACC), tx[1].to(ACC), tx[2].to(ACC)


@triton.jit
def _all_along_pixels(vectors):
    tiles = ()
    for k in tl.static_range(len(vectors)):
        tiles += (along_pixels(vectors[k], True),)  # type: ignore[assignment]
    return tiles


@triton.jit
def _between(ptr, corners, weights, mask):
    """Bilinear value of the four pixels at the offsets `corners`."""
    top, bottom, left, right = weights
    a = tl.load(ptr + corners[0], mask=mask).to(top.dtype)
    b = tl.load(ptr + corners[1], mask=mask).to(top.dtype)
    c = tl.load(ptr + corners[2], mask=mask).to(top.dtype)
    d = tl.load(ptr + corners[3], mask=mask).to(top.dtype)
    return (a * left + b * right) * top + (c * left + d * right) * bottom


@triton.jit
def sample_tiles(
    pointers,
    reads,
    ty,
    tx,
    strides,
    p,
    shape,
    begin,
    end,
    ANTIALIAS: tl.constexpr,
    ALIGNED: tl.constexpr,
    BYTES: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """channels_last: the channels from `begin` to `end` of the targets p.

    `pointers` are those of result and image, `strides` those of the image along a column and a row, `shape` the
    channels and pixels of the result. `reads`: whether a target reads anything.
    """
    out_ptr, image_ptr = pointers
    stride_h, stride_w = strides
    channels, pixels = shape
    if ANTIALIAS:
        near = along_pixels(ty[0].to(OFFSET) * stride_h + tx[0].to(OFFSET) * stride_w, True)
    else:
        here = along_pixels(reads, True)
        corners = _all_along_pixels(_corners(ty, tx, stride_h, stride_w, OFFSET))
        weights = _all_along_pixels(_weights(ty, tx, ACC))
    for c0 in range(begin, end, BLOCK_C):
        k = c0 + tl.arange(0, BLOCK_C)
        source = image_ptr + channel_offsets(k, 1, True, True)
        target = dense_tile(out_ptr, k, p, channels, pixels, True, ALIGNED, OFFSET)
        exists = along_channels(k < end, True)
        if ANTIALIAS:
            value = tl.zeros([BLOCK_P, BLOCK_C], ACC)
            for dy in range(most(ty)):
                wy = weight(dy, ty)
                for dx in range(most(tx)):
                    w = along_pixels(wy * weight(dx, tx), True)
                    tap = tl.load(source + near + (dy * stride_h + dx * stride_w), mask=exists & (w > 0), other=0)
                    value += tap.to(ACC) * w.to(ACC)
        else:
            value = tl.where(here, _between(source, corners, weights, exists), 0.0)
        if BYTES:
            value = _round_to_byte(value)
        tl.store(target, value, mask=exists & along_pixels(p < pixels, True))


@triton.jit
def sample_planes(
    pointers,
    reads,
    ty,
    tx,
    strides,
    p,
    exists,
    pixels,
    begin,
    end,
    ANTIALIAS: tl.constexpr,
    BYTES: tl.constexpr,
    OFFSET: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The same where channels lie apart: addresses and weights once for all of them."""
    out_ptr, image_ptr = pointers
    stride_c, stride_h, stride_w = strides
    if ANTIALIAS:
        near = ty[0].to(OFFSET) * stride_h + tx[0].to(OFFSET) * stride_w
        for c0 in range(begin, end, BLOCK_C):
            sources = channels_of_planes(image_ptr, stride_c, c0, end, BLOCK_C)
            targets = channels_of_planes(out_ptr, pixels.to(tl.int64), c0, end, BLOCK_C)
            planes = no_planes(p, ACC, BLOCK_C)
            for dy in range(most(ty)):
                wy = weight(dy, ty)
                for dx in range(most(tx)):
                    w = (wy * weight(dx, tx)).to(ACC)
                    planes = add_planes(planes, sources, near + (dy * stride_h + dx * stride_w), w)
            for k in tl.static_range(BLOCK_C):
                tl.store(targets[k] + p, _round_to_byte(planes[k]) if BYTES else planes[k], mask=exists)
    else:
        corners, weights = _corners(ty, tx, stride_h, stride_w, OFFSET), _weights(ty, tx, ACC)
        for c in range(begin, end):
            value = tl.where(reads, _between(image_ptr + c * stride_c, corners, weights, None), 0.0)
            value = _round_to_byte(value) if BYTES else value
            tl.store(out_ptr + c * pixels.to(tl.int64) + p, value, mask=exists)


@triton.jit
def sample_frame(out_ptr, frame_ptr, reads, ty, tx, width, scale, bias, p, exists, pixels, ANTIALIAS: tl.constexpr):
    """Planes of a frame whose channels lie together, `value * scale + bias`; 0 for targets that read nothing."""
    stride_h = width * len(scale)
    if ANTIALIAS:
        near = ty[0] * stride_h + tx[0] * len(scale)
    else:
        corners = _corners(ty, tx, stride_h, len(scale), width.dtype)
        weights = _weights(ty, tx, tl.float32)
    for c in tl.static_range(len(scale)):
        if ANTIALIAS:
            value = tl.zeros(p.shape, tl.float32)
            for dy in range(most(ty)):
                wy = weight(dy, ty)
                for dx in range(most(tx)):
                    w = (wy * weight(dx, tx)).to(tl.float32)
                    tap = tl.load(frame_ptr + c + near + (dy * stride_h + dx * len(scale)), mask=w > 0, other=0)
                    value += tap.to(tl.float32) * w
        else:
            value = _between(frame_ptr + c, corners, weights, None)
        tl.store(out_ptr + pixels.to(tl.int64) * c + p, tl.where(reads, value * scale[c] + bias[c], 0.0), mask=exists)
