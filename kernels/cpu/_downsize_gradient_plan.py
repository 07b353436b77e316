"""How the gradient of `downsize` is divided, and how its network's weights and sums of weights' gradients are packed.

Nothing here depends on the number of threads: it decides in which order sums are made.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fastwarp.kernels.cpu._downsize_products import width
from fastwarp.kernels.cpu._memory import array

_COLUMNS, _ROWS = 320, 192  # of a tile, at most: its lines lie in the second cache, and its halo adds little
_LEAST_ROWS = 48
_UNITS = 16  # that there are if they can be: for as many threads
_COEFFICIENTS = 1 << 23  # kept at a time, of as many images as this allows


class Plan(NamedTuple):
    """Tiles down and across an image, runs of images that are summed one after the other, images at a time."""

    down: int
    across: int
    runs: int
    images: int


def plan(batch: int, height: int, width: int, coefficients: int) -> Plan:
    """Divides a batch of images that have so many coefficients each."""
    across = -(-width // _COLUMNS)
    most = max(height // _LEAST_ROWS, 1)
    down = max(-(-height // _ROWS), min(most, -(-_UNITS // (across * batch))))
    images = max(min(batch, _COEFFICIENTS // max(coefficients, 1)), 1)
    runs = min(images, -(-_UNITS // (down * across)))
    return Plan(down, across, runs, images)


def transposed_weights(weights: list[Tensor], real: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """What takes the gradient of a layer's map to that of the layer before.

    The last layer's weights become `[3, F_L, 3, F_(L-1)]`: an anchor scatters to its neighbours. Those between are a
    convolution's, turned around. So are the first one's, unless `[3, F_1, 3 C]` are fewer: products of one column for
    the left, middle and right pixel. The last axis is padded to whole vectors.

    Returns:
        All of them; where those of layer l begin; columns of the first layer's, 3 or 1.
    """
    lanes, layers = width(real), len(weights)
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
