"""The network of `downsize` as the kernels read it: its weights, those of its gradient, and the sums of weights'
gradients."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fastwarp.kernels.cpu._memory import array
from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._vector import elements

SIGMOID, SOFTMAX, SIGNED = range(3)


class Network(NamedTuple):
    """What `packed` made, as pointers, with the number of layers and of taps."""

    widths: Any
    strides: Any
    weight: Any
    bias: Any
    weight_at: Any
    bias_at: Any
    texture: Any
    layers: Any
    taps: Any


class Normal(NamedTuple):
    """Of the image's channels: what is subtracted and multiplied before the convolutions, and how many there are."""

    mean: Any
    scale: Any
    channels: Any


@inline
def network(arrays, taps):
    """The `Network` of what `packed` made."""
    widths, strides, weight, bias, weight_at, bias_at, texture = arrays
    counts = (elements(widths), elements(strides))
    values = (elements(weight), elements(bias), elements(weight_at), elements(bias_at), elements(texture))
    return Network(*counts, *values, len(widths) - 1, taps)


@inline
def normal(statistics):
    """The `Normal` of arrays of mean and scale."""
    mean, scale = statistics
    return Normal(elements(mean), elements(scale), len(mean))


def vector_width(real: np.ndarray) -> int:
    """Values of a vector, to a multiple of which output channels are padded."""
    return 64 // real.itemsize


def packed(
    weights: list[Tensor], biases: list[Tensor], texture: Tensor, channels: int, real: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The network's arrays: output channels last, and padded to whole vectors.

    Returns:
        Channels of each layer, the image's first; values from pixel to pixel of each layer; weights
        `[3, 3, F_(l-1), F_l]` of all layers, one after the other; their biases; where those of layer l begin, twice;
        the texture's weights `[K, F_L]`.
    """
    lanes = vector_width(real)
    widths = np.array([channels, *(len(b) for b in biases)], np.int64)
    strides = -(-widths // lanes) * lanes
    strides[0] = channels
    before = [9 * a * b for a, b in zip(widths, strides[1:], strict=False)]
    weight_at = np.array([0, 0, *np.cumsum(before)], np.int64)
    bias_at = np.array([0, 0, *np.cumsum(strides[1:])], np.int64)
    all_weights, all_biases = np.zeros(weight_at[-1], real.dtype), np.zeros(bias_at[-1], real.dtype)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True), 1):
        place = all_weights[weight_at[layer] : weight_at[layer + 1]].reshape(3, 3, -1, strides[layer])
        place[..., : len(bias)] = array(weight).transpose(2, 3, 1, 0)
        all_biases[bias_at[layer] :][: len(bias)] = array(bias)
    by_texture = np.zeros((len(texture), strides[-1]), real.dtype)
    by_texture[:, : texture.shape[1]] = array(texture)
    return widths, strides, all_weights, all_biases, weight_at, bias_at, by_texture.reshape(-1)


def transposed_weights(weights: list[Tensor], real: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """What takes the gradient of a layer's map to that of the layer before.

    The last layer's weights become `[3, F_L, 3, F_(L-1)]`: an anchor scatters to its neighbours. Those between are a
    convolution's, turned around. So are the first one's, unless `[3, F_1, 3 C]` are fewer: products of one column for
    the left, middle and right pixel. The last axis is padded to whole vectors.

    Returns:
        All of them; where those of layer l begin; columns of the first layer's, 3 or 1.
    """
    lanes, layers = vector_width(real), len(weights)
    parts, at, across = [np.zeros(0, real.dtype)], [0, 0], 3
    for layer, weight in enumerate(weights, 1):
        w = array(weight).astype(real.dtype)
        features, channels = w.shape[:2]
        before = -(-channels // lanes) * lanes
        if layer == 1 and -(-3 * channels // lanes) * lanes < 3 * before:
            w, across = w[:, :, ::-1, ::-1].transpose(2, 0, 3, 1).reshape(3, features, -1), 1
            packed = np.zeros((3, features, -(-3 * channels // lanes) * lanes), real.dtype)
        elif 1 < layer == layers:
            w = w.transpose(2, 0, 3, 1)
            packed = np.zeros((3, features, 3, before), real.dtype)
        else:
            w = w[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
            packed = np.zeros((3, 3, features, before), real.dtype)
        packed[..., : w.shape[-1]] = w
        parts.append(packed.reshape(-1))
        at.append(at[-1] + packed.size)
    return np.concatenate(parts), np.array(at, np.int64), across


def places_of_sums(strides: np.ndarray, taps: int) -> np.ndarray:
    """Where the sums of layer l begin: weights `[3, 3, F_(l-1), F_l]`, then biases; then `[K, F_L]`, then the end."""
    sizes = [(9 * a + 1) * b for a, b in pairwise(strides)]
    texture = taps * strides[-1] if sizes else 0
    return np.cumsum([0, 0, *sizes, texture]).astype(np.int64)


def unpacked(sums: np.ndarray, at: np.ndarray, strides: np.ndarray, widths: np.ndarray) -> list[np.ndarray]:
    """Gradients of weights, biases and texture from their sums."""
    weights, biases = [], []
    for layer in range(1, len(widths)):
        before, after = int(strides[layer - 1]), int(strides[layer])
        both = sums[at[layer] : at[layer + 1]]
        w = both[:-after].reshape(3, 3, before, after)[:, :, : widths[layer - 1], : widths[layer]]
        weights.append(w.transpose(3, 2, 0, 1))
        biases.append(both[-after:][: widths[layer]])
    return [*weights, *biases]
