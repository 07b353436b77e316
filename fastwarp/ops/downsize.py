"""Ops of the `downsize` family: interpolation weights from texture and distance ("DownsizeNet", BMVC 2022).

`downsize` saves its inputs and nothing else: `downsize_backward` computes the activations anew. Where taps and anchors
lie comes in tables, one per axis; what the 1x1 convolution makes of the relative distances comes as `logits`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastwarp._backend import kernels
from fastwarp.kernels.layout import memory_format
from fastwarp.ops import _dense, _dense_downsize

_INPUTS = (
    "Tensor image, Tensor[] weights, Tensor[] biases, Tensor texture, Tensor logits, Tensor rows, Tensor columns, "
    "Tensor anchor_rows, Tensor anchor_columns, float[] mean, float[] scale, str normalise, bool texture_gradient"
)
torch.library.define("fastwarp::downsize", f"({_INPUTS}) -> Tensor")
torch.library.define(
    "fastwarp::downsize_backward", f"(Tensor grad, {_INPUTS}, bool need_image, bool need_parameters) -> Tensor[]"
)


# --- downsize ---------------------------------------------------------------------------------------------------------


@torch.library.impl("fastwarp::downsize", ("cpu", "cuda"))
def _downsize(image: Tensor, *args: Any) -> Tensor:
    return kernels("downsize", image.device).downsize(image, *args[:-1])


@torch.library.register_fake("fastwarp::downsize")
def _(image: Tensor, weights: Any, biases: Any, texture: Tensor, logits: Tensor, *args: Any) -> Tensor:
    return _empty(image, (*image.shape[:2], *logits.shape[1:]))


def _empty(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=image.dtype, device=image.device, memory_format=memory_format(image))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    image, weights, biases, texture, logits, *tables = inputs
    ctx.options = tables[4:]
    ctx.save_for_backward(image, *weights, *biases, texture, logits, *tables[:4])


def _grad(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    image, *parameters = ctx.saved_tensors
    *parameters, texture, logits = parameters[:-4]
    layers = len(parameters) // 2
    weights, biases, tables = parameters[:layers], parameters[layers:], ctx.saved_tensors[-4:]
    need_image, by_weights, by_biases, by_texture, by_logits, *rest = ctx.needs_input_grad
    need_parameters = any(by_weights) or any(by_biases) or by_texture or by_logits
    first, *grads = torch.ops.fastwarp.downsize_backward(
        grad, image, weights, biases, texture, logits, *tables, *ctx.options, need_image, need_parameters
    )
    return (
        first if need_image else None,
        [g if n else None for g, n in zip(grads[:layers], by_weights, strict=True)],
        [g if n else None for g, n in zip(grads[layers : 2 * layers], by_biases, strict=True)],
        grads[-2] if by_texture else None,
        grads[-1] if by_logits else None,
        *(None for _ in rest),
    )


torch.library.register_autograd("fastwarp::downsize", _grad, setup_context=_save)


@torch.library.register_vmap("fastwarp::downsize")
def _(info: Any, in_dims: Any, image: Tensor, *args: Any) -> Any:
    if all(d is None or (isinstance(d, list) and all(e is None for e in d)) for d in in_dims[1:]):
        folded = image.movedim(in_dims[0], 0)  # only images: more of a batch
        result = torch.ops.fastwarp.downsize(folded.flatten(0, 1), *args)
        return result.unflatten(0, folded.shape[:2]), 0
    results = [torch.ops.fastwarp.downsize(*_example(i, (image, *args), in_dims)) for i in range(info.batch_size)]
    return torch.stack(results), 0


def _example(index: int, args: Any, dims: Any) -> list[Any]:
    """The arguments of one example of the mapped dimension."""

    def one(value: Any, dim: Any) -> Any:
        if isinstance(value, (list, tuple)) and isinstance(dim, (list, tuple)):
            return [one(v, d) for v, d in zip(value, dim, strict=True)]
        return value if dim is None else value.select(dim, index)

    return [one(a, d) for a, d in zip(args, dims, strict=True)]


# --- downsize_backward ------------------------------------------------------------------------------------------------


@torch.library.impl("fastwarp::downsize_backward", ("cpu", "cuda"))
def _backward(grad: Tensor, image: Tensor, *args: Any) -> list[Tensor]:
    return kernels("downsize", image.device).downsize_backward(grad, image, *args)


@torch.library.register_fake("fastwarp::downsize_backward")
def _(
    grad: Tensor,
    image: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    texture: Tensor,
    logits: Tensor,
    *args: Any,
) -> list[Tensor]:
    need_image, need_parameters = args[-2:]
    return [
        _empty(image, tuple(image.shape)) if need_image else image.new_empty(0),
        *(p.new_empty(p.shape if need_parameters else 0) for p in (*weights, *biases, texture, logits)),
    ]


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, image, weights, biases, texture, logits, *tables = inputs
    ctx.options, ctx.needs = tables[4:-2], tables[-2:]
    ctx.save_for_backward(grad, image, *weights, *biases, texture, logits, *tables[:4])


def _backward_grad(ctx: Any, cotangents: list[Tensor]) -> tuple[Any, ...]:
    grad, *inputs = ctx.saved_tensors
    tables, inputs = inputs[-4:], inputs[:-4]
    layers = (len(inputs) - 3) // 2
    need_image, need_parameters = ctx.needs

    def wanted(values: Any) -> list[Tensor]:
        return [*values[:1] * need_image, *values[1:] * need_parameters]

    def maps(*leaves: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        image, *parameters = leaves
        weights, biases = parameters[:layers], parameters[layers:-2]
        result = _dense_downsize.downsize(image, weights, biases, *parameters[-2:], *tables, *ctx.options)
        return [result], wanted(leaves)

    by_grad, by_image, *by = _dense.second_backward(maps, [grad], inputs, wanted(list(cotangents)))
    rest = [None] * (len(tables) + len(ctx.options) + len(ctx.needs))
    return by_grad, by_image, list(by[:layers]), list(by[layers:-2]), *by[-2:], *rest


torch.library.register_autograd("fastwarp::downsize_backward", _backward_grad, setup_context=_save_backward)


@torch.library.register_vmap("fastwarp::downsize_backward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    examples = [torch.ops.fastwarp.downsize_backward(*_example(i, args, in_dims)) for i in range(info.batch_size)]
    results = [torch.stack(values) for values in zip(*examples, strict=True)]
    return results, [0] * len(results)
