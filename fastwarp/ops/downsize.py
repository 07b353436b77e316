"""Ops of the `downsize` family: interpolation weights from texture and distance ("DownsizeNet", BMVC 2022).

`downsize` saves its inputs and nothing else: `downsize_backward` computes the activations anew. Where taps and anchors
lie comes in tables, one per axis. The 1x1 convolution is taken apart: its columns of the features work at the anchors
of every image, those of the relative distances give `logits`, which a batch shares.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastwarp._backend import kernels
from fastwarp.errors import FastwarpError
from fastwarp.kernels.layout import memory_format
from fastwarp.ops import _dense, _dense_downsize
from fastwarp.ops._contract import FLOAT, REAL, Known, fake, image, implement, indices, numbers, one_of, tensor
from fastwarp.ops._vmap import vmap_rule

_INPUTS = (
    "Tensor image, Tensor[] weights, Tensor[] biases, Tensor fuse_weight, Tensor fuse_bias, Tensor distances, "
    "Tensor rows, Tensor columns, Tensor anchor_rows, Tensor anchor_columns, float[] mean, float[] scale, "
    "str normalise, bool texture_gradient"
)
_SINGLE = 7
"""Tensors after the layers' lists: the 1x1 convolution, the distances and the tables."""

torch.library.define("fastwarp::downsize", f"({_INPUTS}) -> Tensor")
torch.library.define(
    "fastwarp::downsize_backward",
    f"(Tensor grad, {_INPUTS}, bool need_image, bool need_parameters, bool need_distances) -> Tensor[]",
)


_weight, _bias = tensor(REAL, "G:1 F 3 3"), tensor(REAL, "G")


def _weights(value: Any, known: Known) -> None:
    """Convolutions: each has the channels that the one before it makes."""
    if len(value) > 5:
        raise FastwarpError(f"has {len(value)} layers, expected at most 5")
    known["layers"], features = [], known["C"]
    for layer in value:
        known["F"] = features
        _weight(layer, known)
        features = known.pop("G")
        known["layers"].append(features)
    known["F"] = features if value else 0


def _biases(value: Any, known: Known) -> None:
    if len(value) != len(known["layers"]):
        raise FastwarpError(f"has {len(value)} layers, expected {len(known['layers'])}")
    for bias, features in zip(value, known["layers"], strict=True):
        _bias(bias, {**known, "G": features})


def _fit(known: Known) -> str:
    """What is wrong between arguments."""
    if known["J"] != known["F"] + known["D"] or known["J"] == 0:
        return f"fuse_weight has {known['J']} columns, expected {known['F']} features and {known['D']} distances"
    if known["K"] != known["ky"] * known["kx"]:
        return f"fuse_weight has {known['K']} rows, expected {known['ky']} x {known['kx']} taps"
    if (known[FLOAT] == torch.float64) != (known[REAL] == torch.float64):
        return f"parameters are {known[REAL]} for images in {known[FLOAT]}, expected float32, or float64 for float64"
    return ""


_RULES: dict[str, Any] = {
    "image": image(FLOAT, "B C:1 H:1 W:1"),
    "weights": _weights,
    "biases": _biases,
    "fuse_weight": tensor(REAL, "K:1 J"),
    "fuse_bias": tensor(REAL, "K"),
    "distances": tensor(REAL, "D h:1 w:1"),
    "rows": indices("h ky:1", lambda known: known["H"]),
    "columns": indices("w kx:1", lambda known: known["W"]),
    "anchor_rows": indices("h", lambda known: known["H"], rising=True),
    "anchor_columns": indices("w", lambda known: known["W"], rising=True),
    "mean": numbers("C"),
    "scale": numbers("C"),
    "normalise": one_of(frozenset({"sigmoid", "softmax", "signed"})),
}


def _halves(fuse_weight: Tensor, distances: Tensor) -> tuple[Tensor, Tensor]:
    """The 1x1 convolution's columns of the features and of the distances."""
    features = fuse_weight.shape[1] - distances.shape[0]
    return fuse_weight[:, :features], fuse_weight[:, features:]


def _empty(image: Tensor, size: Sequence[int]) -> Tensor:
    shape = (*image.shape[:2], *size)
    return torch.empty(shape, dtype=image.dtype, device=image.device, memory_format=memory_format(image))


# --- downsize ---------------------------------------------------------------------------------------------------------


@implement("downsize", also=_fit, **_RULES)
def _downsize(
    image: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    fuse_weight: Tensor,
    fuse_bias: Tensor,
    distances: Tensor,
    *args: Any,
) -> Tensor:
    family = kernels("downsize", image.device)
    texture, weight = _halves(fuse_weight, distances)
    return family.downsize(image, weights, biases, texture, family.logits(distances, weight, fuse_bias), *args[:-1])


@fake("downsize")
def _(image: Tensor, weights: Any, biases: Any, fuse_weight: Any, fuse_bias: Any, distances: Tensor, *_: Any) -> Tensor:
    return _empty(image, distances.shape[1:])


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    image, weights, biases, *single = inputs
    ctx.options = single[_SINGLE:]
    ctx.save_for_backward(image, *weights, *biases, *single[:_SINGLE])


def _grad(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    image, *parameters = ctx.saved_tensors
    parameters, single = parameters[:-_SINGLE], parameters[-_SINGLE:]
    layers = len(parameters) // 2
    need_image, by_weights, by_biases, by_fuse_weight, by_fuse_bias, by_distances, *rest = ctx.needs_input_grad
    need_parameters = any(by_weights) or any(by_biases) or by_fuse_weight or by_fuse_bias
    by_image, *by = torch.ops.fastwarp.downsize_backward(
        *(grad, image, parameters[:layers], parameters[layers:], *single, *ctx.options),
        *(need_image, need_parameters, by_distances),
    )
    return (
        by_image if need_image else None,
        [g if n else None for g, n in zip(by[:layers], by_weights, strict=True)],
        [g if n else None for g, n in zip(by[layers : 2 * layers], by_biases, strict=True)],
        *(g if n else None for g, n in zip(by[-3:], (by_fuse_weight, by_fuse_bias, by_distances), strict=True)),
        *(None for _ in rest),
    )


torch.library.register_autograd("fastwarp::downsize", _grad, setup_context=_save)


@vmap_rule("downsize")
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


@implement("downsize_backward", also=_fit, grad=tensor(FLOAT, "B C h w"), **_RULES)
def _backward(
    grad: Tensor,
    image: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    fuse_weight: Tensor,
    fuse_bias: Tensor,
    distances: Tensor,
    *args: Any,
) -> list[Tensor]:
    *options, need_image, need_parameters, need_distances = args
    family = kernels("downsize", image.device)
    texture, weight = _halves(fuse_weight, distances)
    logits = family.logits(distances, weight, fuse_bias)
    need_logits = need_parameters or need_distances
    *by, by_texture, by_logits = family.downsize_backward(
        grad, image, weights, biases, texture, logits, *options, need_image, need_logits
    )
    if not need_logits:
        return [*by, *(t.new_empty(0) for t in (fuse_weight, fuse_bias, distances))]
    by_distances, by_weight, by_bias = family.logits_backward(by_logits, distances, weight, need_distances)
    return [*by, torch.cat([by_texture, by_weight], 1), by_bias, by_distances]


@fake("downsize_backward")
def _(grad: Tensor, image: Tensor, weights: list[Tensor], biases: list[Tensor], *args: Any) -> list[Tensor]:
    fuse_weight, fuse_bias, distances, *_, need_image, need_parameters, need_distances = args
    parameters = (*weights, *biases, fuse_weight, fuse_bias)
    return [
        _empty(image, image.shape[2:]) if need_image else image.new_empty(0),
        *(p.new_empty(p.shape if need_parameters or need_distances else 0) for p in parameters),
        distances.new_empty(distances.shape if need_distances else 0),
    ]


def _save_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, image, weights, biases, *single = inputs
    ctx.options, ctx.needs = single[_SINGLE:-3], single[-3:]
    ctx.save_for_backward(grad, image, *weights, *biases, *single[:_SINGLE])


def _backward_grad(ctx: Any, cotangents: list[Tensor]) -> tuple[Any, ...]:
    grad, *inputs = ctx.saved_tensors
    tables, inputs = inputs[-4:], inputs[:-4]
    layers = (len(inputs) - 4) // 2
    need_image, need_parameters, need_distances = ctx.needs

    def wanted(values: Sequence[Tensor]) -> list[Tensor]:
        image, *parameters, distances = values
        return [image] * need_image + parameters * (need_parameters or need_distances) + [distances] * need_distances

    def maps(*leaves: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        image, *parameters = leaves
        rest: list[Any] = [*parameters[-3:], *tables, *ctx.options]
        result = _dense_downsize.downsize(image, parameters[:layers], parameters[layers:-3], *rest)
        return [result], wanted(leaves)

    by_grad, by_image, *by = _dense.second_backward(maps, [grad], inputs, wanted(cotangents))
    rest = [None] * (len(tables) + len(ctx.options) + len(ctx.needs))
    return by_grad, by_image, list(by[:layers]), list(by[layers:-3]), *by[-3:], *rest


torch.library.register_autograd("fastwarp::downsize_backward", _backward_grad, setup_context=_save_backward)


@vmap_rule("downsize_backward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    examples = [torch.ops.fastwarp.downsize_backward(*_example(i, args, in_dims)) for i in range(info.batch_size)]
    results = [torch.stack(values) for values in zip(*examples, strict=True)]
    return results, [0] * len(results)
