"""Launchers of the `downsize` family: DownsizeNet section 3.1 and eq. 1.

Layers before the last are dense maps in the image's dtype, one kernel each; `_downsize_cost` may give the one before
the last to the kernel of the targets, which evaluates it only where the last one reads it. The backward computes all
of that again. Precision of the products: see `_downsize_conv`.
"""

import torch
from torch import Tensor

from fastwarp.kernels.gpu import _downsize_cost
from fastwarp.kernels.gpu._downsize_conv import layer
from fastwarp.kernels.gpu._downsize_gradient import differentiate
from fastwarp.kernels.gpu._downsize_image import image_gradient
from fastwarp.kernels.gpu._downsize_layers import spread, weights_gradient
from fastwarp.kernels.gpu._downsize_logits import logits, logits_backward
from fastwarp.kernels.gpu._downsize_source import Source
from fastwarp.kernels.gpu._downsize_targets import Last, evaluate
from fastwarp.kernels.gpu._launch import device_of
from fastwarp.kernels.layout import memory_format

__all__ = ["downsize", "downsize_backward", "logits", "logits_backward"]


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
    """The downsized image `[B, C, h, w]`.

    Args:
        image: `[B, C, H, W]`, fp16, bf16, fp32 or fp64, any strides.
        weights: of L layers, `[F_l, F_(l-1), 3, 3]`; fp32, or fp64 for fp64 images, as all parameters.
        biases: `[F_l]`.
        texture: `[K, F_L]`.
        logits: `[K, h, w]`.
        rows: int32 `[h, KY]`, nondecreasing along both axes; taps are numbered row by row.
        columns: int32 `[w, KX]`.
        anchor_rows: int32 `[h]`, nondecreasing.
        anchor_columns: int32 `[w]`.
        mean: taken off each channel for the layers.
        scale: what each channel is multiplied with then.
        normalise: "sigmoid", "softmax" or "signed".
    """
    tables = _contiguous(rows, columns, anchor_rows, anchor_columns)
    batch, _, height, width = image.shape
    with device_of(image):
        layers = [(w.contiguous(), b.contiguous()) for w, b in zip(weights, biases, strict=True)]
        source = Source.image(image, mean, scale)
        dense = layers[:-1]
        if len(layers) > 1:
            sizes = (weights[-2].shape[1], weights[-1].shape[1], weights[-1].shape[0])
            extents = (height * width, logits[0].numel())
            if _downsize_cost.selects(_downsize_cost.Sizes(batch, *sizes, *extents, image.dtype)):
                dense = layers[:-2]
        for weight, bias in dense:
            source = Source.map(layer(source, weight, bias, image.dtype))
        last = Last(source if layers else None, layers[len(dense) :])
        return evaluate(image, last, texture.contiguous(), logits.contiguous(), tables, normalise)


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
    texture_gradient: bool,
    need_image: bool,
    need_parameters: bool,
) -> list[Tensor]:
    """Gradients `[image, *weights, *biases, texture, logits]` of `downsize`; empty ones where they are not needed.

    Args:
        grad: `[B, C, h, w]`, any strides.
        image: this and all to `normalise` as in `downsize`.
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
        texture_gradient: the image also moves what the layers read.
        need_image: the gradient of the image is wanted.
        need_parameters: all others are.
    """
    parameters = [*weights, *biases, texture, logits]
    if grad.numel() == 0 or not (need_image or need_parameters):
        by_image = torch.zeros_like(image, memory_format=memory_format(image)) if need_image else image.new_empty(0)
        return [by_image, *(torch.zeros_like(p) if need_parameters else p.new_empty(0) for p in parameters)]
    tables = _contiguous(rows, columns, anchor_rows, anchor_columns)
    anchors = (tables[2], tables[3])
    through_layers = need_image and texture_gradient and len(weights) > 0
    with device_of(image):
        layers = [(w.contiguous(), b.contiguous()) for w, b in zip(weights, biases, strict=True)]
        sources = [Source.image(image, mean, scale)] if layers else []
        for weight, bias in layers[:-1]:
            sources.append(Source.map(layer(sources[-1], weight, bias, image.dtype)))
        targets = differentiate(
            grad,
            image,
            Last(sources[-1] if layers else None, layers[-1:]),
            texture.contiguous(),
            logits.contiguous(),
            tables,
            normalise,
            need_image,
            need_parameters,
            len(weights) > 0 and (need_parameters or through_layers),
        )
        by_layer, by_map = _layers_backward(
            targets.features, weights, sources, anchors, image, need_parameters, through_layers
        )
        by_image = image.new_empty(0)
        if targets.coefficients is not None:
            by_image = image_gradient(grad, image, targets.coefficients, by_map, scale, tables[:2])
        if not need_parameters or targets.logits is None:
            return [by_image, *(p.new_empty(0) for p in parameters)]
        by_texture = texture.new_zeros(texture.shape) if targets.texture is None else targets.texture.sum(0)
        by_weights, by_biases = zip(*by_layer, strict=True) if by_layer else ((), ())
        return [by_image, *by_weights, *by_biases, by_texture, targets.logits.sum(0)]


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.contiguous() for t in tensors)


def _layers_backward(
    by_features: Tensor | None,
    weights: list[Tensor],
    sources: list[Source],
    anchors: tuple[Tensor, Tensor],
    image: Tensor,
    need_parameters: bool,
    through: bool,
) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
    """From the gradient at the anchors: that of every layer's weights and bias, and of what the first layer reads.

    Args:
        by_features: `[B, h, w, F]`, before the last ReLU; None: nothing is wanted.
        weights: `[F_l, F_(l-1), 3, 3]`.
        sources: what the layers read.
        anchors: rows and columns.
        image: `[B, C, H, W]`.
        need_parameters: weights and biases are wanted.
        through: what the first layer reads is.
    """
    by_layer: list[tuple[Tensor, Tensor]] = []
    by_map = None
    if by_features is None:
        return by_layer, by_map
    for i in reversed(range(len(weights))):
        if need_parameters:
            at, places = (by_features, anchors) if by_map is None else (by_map, None)
            by_layer.insert(0, weights_gradient(sources[i], at, places, image.dtype))
        if i > 0 or through:
            if by_map is None:
                by_map = spread(by_features, anchors, (image.shape[2], image.shape[3]), image.dtype)
            gate = sources[i].values.permute(0, 2, 3, 1) if i > 0 else None
            by_map = layer(Source.map(by_map), weights[i].contiguous(), None, image.dtype, gradients=True, gate=gate)
    return by_layer, by_map if through else None
