"""Reference launchers of the `downsize` family; see `fastwarp.kernels.cpu.downsize` for the arguments."""

from typing import Any

from torch import Tensor

from fastwarp.kernels.layout import memory_format
from fastwarp.ops._reference import call, to_tensor
from fastwarp.reference import downsize as reference


def logits(distances: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The distances' part of the 1x1 convolution, `[K, h, w]`."""
    return to_tensor(call(reference.distance_logits, distances, weight, bias), weight)


def logits_backward(grad: Tensor, distances: Tensor, weight: Tensor, need_distances: bool) -> list[Tensor]:
    """Gradients to distances (empty unless needed), weight and bias."""
    by_distances, *others = call(reference.distance_logits_backward, grad, distances, weight)
    first = to_tensor(by_distances, weight) if need_distances else distances.new_empty(0)
    return [first, *(to_tensor(a, weight) for a in others)]


def downsize(image: Tensor, *args: Any) -> Tensor:
    """The downsized image."""
    return to_tensor(call(reference.downsize, image, *args), image).contiguous(memory_format=memory_format(image))


def downsize_backward(
    grad: Tensor,
    image: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    texture: Tensor,
    logits: Tensor,
    *args: Any,
) -> list[Tensor]:
    """Gradients to image, weights, biases, texture and logits."""
    *tables, texture_gradient, need_image, need_parameters = args
    by_image, by_weights, by_biases, by_texture, by_logits = call(
        reference.downsize_backward, grad, image, weights, biases, texture, logits, *tables, texture_gradient
    )
    parameters = [*weights, *biases, texture, logits]
    arrays = [*by_weights, *by_biases, by_texture, by_logits]
    first = to_tensor(by_image, image).contiguous(memory_format=memory_format(image))
    return [
        first if need_image else image.new_empty(0),
        *(to_tensor(a, p) if need_parameters else p.new_empty(0) for a, p in zip(arrays, parameters, strict=True)),
    ]
