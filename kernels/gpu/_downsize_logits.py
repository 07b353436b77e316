"""The 1x1 convolution's distance half, which the images of a batch share: `logits = weight @ distances + bias`.

No product of torch's, which may be one in TF32: with a logit of 13 rounded to that the distances are lost.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, device_of, next_power_of_2

_BLOCK = 4096 if INTERPRETED else 128


@triton.jit
def _logits_kernel(
    distances_ptr, weight_ptr, bias_ptr, result_ptr, count, inputs, taps, TAPS: tl.constexpr, BLOCK: tl.constexpr
):
    target = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tap = tl.arange(0, TAPS)
    inside = target < count
    total = tl.load(bias_ptr + tap, tap < taps, 0.0)[:, None] + tl.zeros((TAPS, BLOCK), bias_ptr.dtype.element_ty)
    for j in range(inputs):
        distance = tl.load(distances_ptr + target, inside, 0.0)
        weight = tl.load(weight_ptr + tap * inputs + j, tap < taps, 0.0)
        total += weight[:, None] * distance[None, :]
        distances_ptr += count
    place = result_ptr + tap.to(tl.int64)[:, None] * count + target[None, :]
    tl.store(place, total, (tap < taps)[:, None] & inside[None, :])


@triton.jit
def _logits_gradient_kernel(
    grad_ptr,
    distances_ptr,
    weight_ptr,
    by_distances_ptr,
    partial_ptr,
    count,
    inputs,
    taps,
    NEED_DISTANCES: tl.constexpr,
    TAPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`partial [programs, K, K' + 1]`: the sums of a block of targets, for the weight and for the bias."""
    program = tl.program_id(0).to(tl.int64)
    target = program * BLOCK + tl.arange(0, BLOCK)
    tap = tl.arange(0, TAPS)
    inside = target < count
    mask = (tap < taps)[:, None] & inside[None, :]
    grad = tl.load(grad_ptr + tap.to(tl.int64)[:, None] * count + target[None, :], mask, 0.0)
    sums = partial_ptr + (program * taps + tap) * (inputs + 1)
    tl.store(sums + inputs, tl.sum(grad, 1), tap < taps)
    for j in range(inputs):
        distance = tl.load(distances_ptr + target, inside, 0.0)
        tl.store(sums + j, tl.sum(grad * distance[None, :], 1), tap < taps)
        if NEED_DISTANCES:
            weight = tl.load(weight_ptr + tap * inputs + j, tap < taps, 0.0)
            tl.store(by_distances_ptr + target, tl.sum(grad * weight[:, None], 0), inside)
            by_distances_ptr += count
        distances_ptr += count


def logits(distances: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`[K, h, w]` from encoded distances `[K', h, w]`, weight `[K, K']` and bias `[K]`, all of one dtype."""
    distances, weight, bias = distances.contiguous(), weight.contiguous(), bias.contiguous()
    taps, inputs = weight.shape
    result = weight.new_empty(taps, *distances.shape[1:])
    count = result[0].numel()
    with device_of(result):
        _logits_kernel[(cdiv(count, _BLOCK),)](
            distances, weight, bias, result, count, inputs, taps, next_power_of_2(taps), _BLOCK
        )
    return result


def logits_backward(grad: Tensor, distances: Tensor, weight: Tensor, need_distances: bool) -> list[Tensor]:
    """Gradients to distances (empty unless needed), weight and bias from that to the logits."""
    grad, distances, weight = grad.contiguous(), distances.contiguous(), weight.contiguous()
    taps, inputs = weight.shape
    count = grad[0].numel()
    programs = cdiv(count, _BLOCK)
    by_distances = torch.empty_like(distances) if need_distances else distances.new_empty(0)
    partial = weight.new_empty(programs, taps, inputs + 1)
    with device_of(grad):
        _logits_gradient_kernel[(programs,)](
            grad,
            distances,
            weight,
            by_distances,
            partial,
            count,
            inputs,
            taps,
            need_distances,
            next_power_of_2(taps),
            _BLOCK,
        )
    total = partial.sum(0)
    return [by_distances, *(t.clone(memory_format=torch.contiguous_format) for t in (total[:, :-1], total[:, -1]))]
