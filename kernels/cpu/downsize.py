"""Launchers of the `downsize` family: DownsizeNet's image, and its gradients."""

import math
from itertools import pairwise

import numpy as np
from torch import Tensor

from fastwarp.kernels.cpu._downsize_forward import SIGMOID, SIGNED, SOFTMAX, forward
from fastwarp.kernels.cpu._downsize_simd import width
from fastwarp.kernels.cpu._memory import empty
from fastwarp.kernels.cpu._parallel import run
from fastwarp.kernels.cpu.separable import _like, _real
from fastwarp.kernels.layout import memory_format

_MODES = {"sigmoid": SIGMOID, "softmax": SOFTMAX, "signed": SIGNED}
_VALUE = 16  # multiplications and additions that take as long as a value that is read or written


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _extent(tensor: Tensor) -> int:
    """Values of memory between the first and the last, inclusive."""
    return 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _packed(weights: list[Tensor], biases: list[Tensor], texture: Tensor, channels: int, real: np.ndarray) -> tuple:
    """The network as the kernels read it: output channels last, and padded to whole vectors.

    Returns:
        Channels of each layer, the image's first; values from pixel to pixel of each layer; weights
        `[3, 3, F_(l-1), F_l]` of all layers, one after the other; their biases; where those of layer l begin, twice;
        the texture's weights `[K, F_L]`.
    """
    lanes = width(real)
    widths = np.array([channels, *(len(b) for b in biases)], np.int64)
    strides = -(-widths // lanes) * lanes
    strides[0] = channels
    before = [9 * a * b for a, b in zip(widths, strides[1:], strict=False)]
    weight_at = np.array([0, 0, *np.cumsum(before)], np.int64)
    bias_at = np.array([0, 0, *np.cumsum(strides[1:])], np.int64)
    all_weights, all_biases = np.zeros(weight_at[-1], real.dtype), np.zeros(bias_at[-1], real.dtype)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True), 1):
        place = all_weights[weight_at[layer] : weight_at[layer + 1]].reshape(3, 3, -1, strides[layer])
        place[..., : len(bias)] = weight.detach().permute(2, 3, 1, 0).numpy()
        all_biases[bias_at[layer] :][: len(bias)] = bias.detach().numpy()
    by_texture = np.zeros((len(texture), strides[-1]), real.dtype)
    by_texture[:, : texture.shape[1]] = texture.detach().numpy()
    return widths, strides, all_weights, all_biases, weight_at, bias_at, by_texture.reshape(-1)


def _work(image: Tensor, widths: np.ndarray, anchors: int) -> int:
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
    real = _real(image.dtype)
    widths, *net = _packed(weights, biases, texture, channels, real)
    args = (
        np.array([image.data_ptr(), result.data_ptr()], np.int64),
        np.array([_extent(image), _extent(result)], np.int64),
        tuple(image.shape),
        image.stride(),
        result.stride(),
        widths,
        *net,
        np.array(mean, real.dtype),
        np.array(scale, real.dtype),
        *(_array(t) for t in (logits, rows, columns, anchor_rows, anchor_columns)),
        _MODES[normalise],
        _like(image.dtype),
        real,
    )
    run(forward, args, _work(image, widths, math.prod(size)) + (len(logits) + 1) * result.numel())
    return result
