"""The 1x1 convolution's distance half, which the images of a batch share: `logits = weight @ distances + bias`.

A product of torch would do, but for its precision, which may be that of TF32 or bf16: with a logit of 13 rounded to
those the distances are lost.
"""

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu._memory import array, empty, tensor
from fastwarp.kernels.cpu._parallel import inline, parallel, run

_BLOCK = 2048  # targets at a time: few taps of those stay in L1
_LANES = 32


@parallel
def _forward(distances, weight, bias, result, part, parts):
    taps, count = result.shape
    blocks = (count + _BLOCK - 1) // _BLOCK
    for block in range(part * blocks // parts, (part + 1) * blocks // parts):
        lo, hi = block * _BLOCK, min((block + 1) * _BLOCK, count)
        for k in range(taps):
            row = result[k, lo:hi]
            row[:] = bias[k]
            for j in range(len(distances)):
                w, distance = weight[k, j], distances[j, lo:hi]
                for i in range(hi - lo):
                    row[i] += w * distance[i]


@inline
def _dot(a, b, lanes):
    """Sum of products, in as many parts as a vector has."""
    lanes[:] = 0
    whole = len(a) // _LANES * _LANES
    for i in range(0, whole, _LANES):
        for lane in range(_LANES):
            lanes[lane] += a[i + lane] * b[i + lane]
    total = np.float64(0)
    for i in range(whole, len(a)):
        total += np.float64(a[i]) * np.float64(b[i])
    for lane in range(_LANES):
        total += lanes[lane]
    return total


@parallel
def _backward(grad, distances, weight, by_distances, partial, part, parts):
    """Blocks are as many whatever the number of threads: so are the sums of `partial [blocks, K, K' + 1]`."""
    taps, count = grad.shape
    blocks = len(partial)
    lanes, ones = np.empty(_LANES, grad.dtype), np.ones(_BLOCK, grad.dtype)
    for block in range(part * blocks // parts, (part + 1) * blocks // parts):
        lo, hi = block * _BLOCK, min((block + 1) * _BLOCK, count)
        for j in range(len(by_distances)):
            row = by_distances[j, lo:hi]
            row[:] = 0
            for k in range(taps):
                w, by = weight[k, j], grad[k, lo:hi]
                for i in range(hi - lo):
                    row[i] += w * by[i]
        for k in range(taps):
            by = grad[k, lo:hi]
            partial[block, k, -1] = _dot(by, ones[: hi - lo], lanes)
            for j in range(len(distances)):
                partial[block, k, j] = _dot(by, distances[j, lo:hi], lanes)


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
    run(_backward, (*arrays, partial), grad.numel() * (1 + 2 * weight.shape[1]))
    total = partial.sum(0)
    first = distances.new_empty(0) if by_distances is None else by_distances
    return [first, tensor(total[:, :-1], weight.dtype), tensor(total[:, -1], weight.dtype)]


def _rows(tensor: Tensor) -> np.ndarray:
    """Contiguous and flat behind the first dimension; shares the memory of results, which are contiguous."""
    return array(tensor.flatten(1))
