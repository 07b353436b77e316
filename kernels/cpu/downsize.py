"""Launchers of the `downsize` family: DownsizeNet's image, and its gradients."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastwarp.kernels.cpu._downsize_backward import sweep
from fastwarp.kernels.cpu._downsize_forward import PADDING, forward
from fastwarp.kernels.cpu._downsize_gradient import pixels_gradient
from fastwarp.kernels.cpu._downsize_network import (
    SIGMOID,
    SIGNED,
    SOFTMAX,
    packed,
    places_of_sums,
    transposed_weights,
    unpacked,
)
from fastwarp.kernels.cpu._memory import array, empty, like, tensor
from fastwarp.kernels.cpu._memory import real as real_of
from fastwarp.kernels.cpu._parallel import inline, parallel, run
from fastwarp.kernels.cpu._vector import convert, elements, full, lane, load_as, tail
from fastwarp.kernels.layout import memory_format

__all__ = ["downsize", "downsize_backward", "logits", "logits_backward"]

_MODES = {"sigmoid": SIGMOID, "softmax": SOFTMAX, "signed": SIGNED}
# How the gradient is divided: whatever the number of threads, because that decides in which order sums are made.
_COLUMNS, _ROWS = 320, 192  # of a tile, at most: its lines lie in the second cache, and its halo adds little
_LEAST_ROWS = 48
_UNITS = 16  # that there are if they can be: for as many threads
_COEFFICIENTS = 1 << 23  # kept at a time, of as many images as this allows

_VALUE = 16  # multiplications and additions that take as long as a value that is read or written


def _downsize_work(image: Tensor, widths: np.ndarray, anchors: int) -> int:
    """Size of the job in values, as `run` counts them: at most, as where layers are needed is not looked at."""
    last = len(widths) - 1
    pixels = [min(image.shape[2] * image.shape[3], anchors * (2 * (last - n) + 1) ** 2) for n in range(last + 1)]
    products = sum(9 * a * b * n for (a, b), n in zip(pairwise(widths), pixels[1:], strict=True))
    return len(image) * (products // _VALUE + pixels[0])


def downsize(
    image: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    texture: Tensor,
    logits: Tensor,
    rows: Tensor,
    columns: Tensor,
    anchor_rows: Tensor,
    anchor_columns: Tensor,
    mean: list[float],
    scale: list[float],
    normalise: str,
) -> Tensor:
    """Downsizes `image` with coefficients that convolutions of it make (DownsizeNet section 3.1, eq. 1).

    Args:
        image: `[B, C, H, W]`, any strides; fp16, bf16, fp32, fp64.
        weights: `[F_l, F_(l-1), 3, 3]` of each layer, F_0 = C; fp32 or, for fp64 images, fp64, as all parameters.
        biases: `[F_l]` of each layer.
        texture: `[K, F_L]`, the features' part of the 1x1 convolution; `[K, 0]` without layers.
        logits: `[K, h, w]`, the rest of it.
        rows: int32 `[h, KY]`, rows that the targets read; K = KY KX.
        columns: int32 `[w, KX]`, columns that the targets read.
        anchor_rows: int32 `[h]`, nondecreasing: where the features are taken.
        anchor_columns: int32 `[w]`, likewise.
        mean: of the channels, subtracted for the convolutions.
        scale: of the channels, multiplied then.
        normalise: "sigmoid", "softmax" or "signed".

    Returns:
        `[B, C, h, w]` in the image's dtype and memory format.
    """
    batch, channels = image.shape[:2]
    size = (len(anchor_rows), len(anchor_columns))
    result = empty((batch, channels, *size), image.dtype, memory_format(image))
    if not result.numel():
        return result
    image = image.detach()
    real = real_of(image.dtype)
    net = packed(weights, biases, texture, channels, real)
    args = (
        np.array([image.data_ptr(), result.data_ptr()], np.int64),
        *(tuple(image.shape), image.stride(), result.stride(), net),
        (np.array(mean, real.dtype), np.array(scale, real.dtype)),
        (array(logits.flatten()), array(rows), array(F.pad(columns.mT, (0, PADDING)))),
        (array(anchor_rows), array(anchor_columns)),
        *(_MODES[normalise], like(image.dtype), real),
    )
    run(forward, args, _downsize_work(image, net[0], math.prod(size)) + (len(logits) + 1) * result.numel())
    return result


class _Division(NamedTuple):
    """Tiles down and across an image, runs of images that are summed one after the other, images at a time."""

    down: int
    across: int
    runs: int
    images: int


def _divided(batch: int, height: int, width: int, coefficients: int) -> _Division:
    """Divides a batch of images that have so many coefficients each."""
    across = -(-width // _COLUMNS)
    most = max(height // _LEAST_ROWS, 1)
    down = max(-(-height // _ROWS), min(most, -(-_UNITS // (across * batch))))
    images = max(min(batch, _COEFFICIENTS // max(coefficients, 1)), 1)
    runs = min(images, -(-_UNITS // (down * across)))
    return _Division(down, across, runs, images)


def downsize_backward(
    grad: Tensor,
    image: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    texture: Tensor,
    logits: Tensor,
    rows: Tensor,
    columns: Tensor,
    anchor_rows: Tensor,
    anchor_columns: Tensor,
    mean: list[float],
    scale: list[float],
    normalise: str,
    *wanted: bool,
) -> list[Tensor]:
    """Gradients of `downsize`; activations are computed anew, and sums do not depend on the number of threads.

    Args:
        grad: `[B, C, h, w]`, gradient of the result, in the image's dtype; any strides.
        image: as in `downsize`.
        weights: as in `downsize`.
        biases: as in `downsize`.
        texture: as in `downsize`.
        logits: as in `downsize`.
        rows: as in `downsize`.
        columns: as in `downsize`.
        anchor_rows: as in `downsize`.
        anchor_columns: as in `downsize`.
        mean: as in `downsize`.
        scale: as in `downsize`.
        normalise: as in `downsize`.
        wanted: three answers. `texture_gradient`: the image also moves what the convolutions read; otherwise only the
            pixels that are mixed. `need_image`: whether the image's gradient is wanted; otherwise it is empty.
            `need_parameters`: whether the others are; otherwise they are empty.

    Returns:
        The image's in its dtype and memory format, those of the weights, of the biases, of `texture` and `logits`.
    """
    texture_gradient, need_image, need_parameters = wanted
    channels, size = image.shape[1], tuple(logits.shape[1:])
    parameters = [*weights, *biases, texture, logits]
    to_image = empty(image.shape, image.dtype, memory_format(image)) if need_image else image.new_empty(0)
    if not len(image):
        return [to_image, *(torch.zeros_like(p) if need_parameters else p.new_empty(0) for p in parameters)]
    grad, image, real = grad.detach(), image.detach(), real_of(image.dtype)
    net = packed(weights, biases, texture, channels, real)
    widths, strides = net[:2]
    division = _divided(len(image), image.shape[2], image.shape[3], logits.numel() if need_image else 0)
    to_texture = texture_gradient and need_image and len(weights) > 0
    # In half precision, the two ways' gradients are added before they are rounded.
    wide = to_texture and image.dtype not in (torch.float32, torch.float64)
    part = empty(image.shape, logits.dtype, memory_format(image)) if wide else to_image
    sums_at = places_of_sums(strides, len(logits))
    units = division.down * division.across * division.runs
    sums = np.zeros((units, sums_at[-1] if need_parameters else 0))
    to_logits = logits.new_zeros((division.runs if need_parameters else 0, *logits.shape))
    values = array(logits.new_empty((division.images if need_image else 0, *logits.shape)))
    tables, likes = (array(logits), array(rows), array(columns)), (like(image.dtype), like(part.dtype), real)
    args = (
        np.array([image.data_ptr(), grad.data_ptr(), part.data_ptr()], np.int64),
        *(tuple(image.shape), (image.stride(), grad.stride(), part.stride() if need_image else image.stride())),
        *(net, transposed_weights(weights, real), (np.array(mean, real.dtype), np.array(scale, real.dtype))),
        *(tables, (array(anchor_rows), array(anchor_columns)), (_MODES[normalise], to_texture, need_parameters)),
    )
    work = _downsize_work(image, widths, math.prod(size)) * (3 if need_parameters or to_texture else 1)
    work += (len(logits) + 1) * grad.numel()
    for first in range(0, len(image), division.images):
        last = min(first + division.images, len(image))
        divided = ((first, last), division[:2], division.runs)
        run(sweep, (*args, divided, (values, array(to_logits)), (sums_at, sums), likes), work)
        if need_image:
            addresses = np.array([t[first:].data_ptr() for t in (grad, to_image, part)], np.int64)
            shape = (last - first, *image.shape[1:])
            pixels = (addresses, shape, grad.stride(), to_image.stride(), values, to_texture, *tables[1:], likes)
            run(pixels_gradient, pixels, to_image.numel() + len(logits) * grad.numel())
    if not need_parameters:
        return [to_image, *(p.new_empty(0) for p in parameters)]
    total = sums.sum(0)
    found = unpacked(total, sums_at, strides, widths)
    found.append(total[sums_at[-2] :].reshape(len(logits), -1)[:, : texture.shape[1]])
    by_logits = to_logits[0] if division.runs == 1 else to_logits.sum(0)
    return [to_image, *(tensor(a, logits.dtype) for a in found), by_logits]


# --- the 1x1 convolution's distance half ------------------------------------------------------------------------------
# The images of a batch share it: `logits = weight @ distances + bias`. A product of torch would do, but for its
# precision, which may be that of TF32 or bf16: with a logit of 13 rounded to those the distances are lost.

_BLOCK = 2048  # targets at a time: few taps of those stay in L1
_LANES = 16


@inline
def _add_scaled(row, factor, values, count):
    for i in range(count):
        row[i] += factor * values[i]


@parallel
def _forward(distances, weight, bias, result, part, parts):
    taps, count, others = result.shape[0], result.shape[1], len(distances)
    into, sources, factors, constants = elements(result), elements(distances), elements(weight), elements(bias)
    blocks = (count + _BLOCK - 1) // _BLOCK
    for block in range(part * blocks // parts, (part + 1) * blocks // parts):
        low, high = block * _BLOCK, min((block + 1) * _BLOCK, count)
        for k in range(taps):
            row, constant = tail(into, k * count + low), constants[k]
            for i in range(high - low):
                row[i] = constant
            for j in range(others):
                _add_scaled(row, factors[k * others + j], tail(sources, j * count + low), high - low)


@inline
def _dot_by_vectors(a, b, count):
    """Sum of products, in as many parts as two vectors have."""
    zero = full(convert(0, a[0]), _LANES)
    first, second = zero, zero
    whole = count // (2 * _LANES) * (2 * _LANES)
    for i in range(0, whole, 2 * _LANES):
        first = load_as(a, i, zero) * load_as(b, i, zero) + first
        second = load_as(a, i + _LANES, zero) * load_as(b, i + _LANES, zero) + second
    total = 0.0
    for i in range(whole, count):
        total += np.float64(a[i]) * np.float64(b[i])
    for k in range(_LANES):
        total += lane(first, k)
    for k in range(_LANES):
        total += lane(second, k)
    return total


@parallel
def _backward(grad, distances, weight, ones, by_distances, partial, part, parts):
    """Blocks are as many whatever the number of threads: so are the sums of `partial [blocks, K, K' + 1]`."""
    taps, count, others = grad.shape[0], grad.shape[1], len(distances)
    grads, sources, factors, units = elements(grad), elements(distances), elements(weight), elements(ones)
    into, sums, blocks = elements(by_distances), elements(partial), len(partial)
    for block in range(part * blocks // parts, (part + 1) * blocks // parts):
        low = block * _BLOCK
        n = min(low + _BLOCK, count) - low
        for j in range(len(by_distances)):
            row = tail(into, j * count + low)
            for i in range(n):
                row[i] = 0
            for k in range(taps):
                _add_scaled(row, factors[k * others + j], tail(grads, k * count + low), n)
        for k in range(taps):
            by, row = tail(grads, k * count + low), tail(sums, (block * taps + k) * (others + 1))
            row[others] = _dot_by_vectors(by, units, n)
            for j in range(others):
                row[j] = _dot_by_vectors(by, tail(sources, j * count + low), n)


def logits(distances: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`[K, h, w]` from encoded distances `[K', h, w]`, weight `[K, K']` and bias `[K]`, all of one dtype."""
    result = empty((weight.shape[0], *distances.shape[1:]), weight.dtype, torch.contiguous_format)
    work = result.numel() * (1 + weight.shape[1])
    run(_forward, (_rows(distances), _rows(weight), array(bias), _rows(result)), work)
    return result


def logits_backward(grad: Tensor, distances: Tensor, weight: Tensor, need_distances: bool) -> list[Tensor]:
    """Gradients to distances (empty unless needed), weight and bias from that to the logits."""
    by_distances = torch.empty_like(distances, memory_format=torch.contiguous_format) if need_distances else None
    blocks = -(-grad[0].numel() // _BLOCK)
    partial = np.empty((blocks, weight.shape[0], weight.shape[1] + 1))
    nothing = distances.new_empty(0, *distances.shape[1:])
    arrays = [_rows(t) for t in (grad, distances, weight, nothing if by_distances is None else by_distances)]
    arrays.insert(3, np.ones(_BLOCK, arrays[0].dtype))
    run(_backward, (*arrays, partial), grad.numel() * (1 + 2 * weight.shape[1]))
    total = partial.sum(0)
    first = distances.new_empty(0) if by_distances is None else by_distances
    return [first, tensor(total[:, :-1], weight.dtype), tensor(total[:, -1], weight.dtype)]


def _rows(tensor: Tensor) -> np.ndarray:
    """Contiguous and flat behind the first dimension; shares the memory of results, which are contiguous."""
    return array(tensor.flatten(1))
