"""The 1x1 convolution's distance half, which the images of a batch share: `logits = weight @ distances + bias`.

A product of torch would do, but for its precision, which may be that of TF32 or bf16: with a logit of 13 rounded to
those the distances are lost.
"""

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu._memory import array, empty, tensor
from fastwarp.kernels.cpu._parallel import inline, parallel, run
from fastwarp.kernels.cpu._vector import convert, elements, full, lane, load_as, tail

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
def _dot(a, b, count):
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
            row[others] = _dot(by, units, n)
            for j in range(others):
                row[j] = _dot(by, tail(sources, j * count + low), n)


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
