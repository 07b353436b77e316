"""DownsizeNet in float64: "Task Generalizable Spatial and Texture Aware Image Downsizing Network" (BMVC 2022).

Written to be read beside section 3.1 of the paper. Arrays are NumPy; everything is computed and returned in float64.
Rows come before columns, and taps are numbered row by row: for two taps an axis v is the paper's
`[(1-dx)(1-dy), dx(1-dy), (1-dx)dy, dx dy]`.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CUBIC = -0.75
"""Keys' parameter a, as `F.interpolate(mode="bicubic")` has it."""

LEAST = 1e-6
"""What the "exact" encodings take 0 for: the logarithm must be finite."""


class Axis(NamedTuple):
    """What the targets of one axis read: taps `[n, k]`, their weights `[n, k]`, anchors P `[n]`, distances `[n]`."""

    taps: NDArray
    weights: Array
    anchors: NDArray
    distances: Array


# --- projection (section 3.1, figure 2) -------------------------------------------------------------------------------


def project(source: int, target: int, taps: str, align_corners: bool = False, footprint: int | None = None) -> Axis:
    """Projects the targets of an axis into the source, in exact fractions.

    Args:
        source: extent of the source in pixels.
        target: number of targets.
        taps: "bilinear", "bicubic" or "area".
        align_corners: the first and the last target lie on the first and the last pixel.
        footprint: taps of "area"; None: ceil(source / target) + 1.
    """
    rows = [_project_one(q, source, target, taps, align_corners, footprint) for q in range(target)]
    return Axis(*(np.array(column) for column in zip(*rows, strict=True)))


def _project_one(
    q: int, source: int, target: int, taps: str, align_corners: bool, footprint: int | None
) -> tuple[list[int], list[float], int, float]:
    ratio = Fraction(source, target)
    if align_corners:
        place = Fraction(q * (source - 1), target - 1) if target > 1 else Fraction(0)
    else:
        place = (q + Fraction(1, 2)) * ratio - Fraction(1, 2)
    inside = min(max(place, Fraction(0)), Fraction(source - 1))
    anchor = min(inside // 1, max(source - 2, 0))
    distance = inside - anchor  # 1 at the last pixel
    if taps == "bilinear":
        read, weights = [anchor, anchor + 1], [1 - distance, distance]
    elif taps == "bicubic":
        first = place // 1
        distance = place - first
        read = [first + i for i in range(-1, 3)]
        weights = [_cubic(distance - i) for i in range(-1, 3)]
        anchor = min(max(first, 0), max(source - 2, 0))
    else:
        begin, end = q * ratio, (q + 1) * ratio
        count = footprint or -(-source // target) + 1
        read = [begin // 1 + i for i in range(count)]
        weights = [max(min(end, Fraction(j + 1)) - max(begin, Fraction(j)), Fraction(0)) / ratio for j in read]
    read = [min(max(j, 0), source - 1) for j in read]
    return [int(j) for j in read], [float(w) for w in weights], int(anchor), float(distance)


def _cubic(x: Fraction) -> Fraction:
    a, x = Fraction(CUBIC), abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else Fraction(0)


def relative_distance(y: Axis, x: Axis) -> Array:
    """The relative distance map v `[K, h, w]`: the interpolation's own weights."""
    v = np.einsum("ri,qj->ijrq", y.weights, x.weights)
    return v.reshape(-1, *v.shape[2:])


def encode(v: Array, encoding: str, normalise: str) -> Array:
    """The vector v as the 1x1 convolution sees it: "raw", or "exact": an identity gives v back as coefficients."""
    if encoding == "raw" or normalise == "signed":
        return v
    if normalise == "softmax":
        return np.log(np.clip(v, LEAST, 1))
    v = np.clip(v, LEAST, 1 - LEAST)
    return np.log(v / (1 - v))


# --- forward (section 3.1, eq. 1) -------------------------------------------------------------------------------------


def convolve(a: Array, weight: Array, bias: Array) -> Array:
    """3x3 convolution `[B, C, H, W]` -> `[B, F, H, W]` with zero padding."""
    height, width = a.shape[2:]
    padded = np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1)))
    result = np.zeros((a.shape[0], weight.shape[0], height, width)) + bias[:, None, None]
    for dy in range(3):
        for dx in range(3):
            window = padded[:, :, dy : dy + height, dx : dx + width]
            result += np.einsum("bchw,fc->bfhw", window, weight[:, :, dy, dx])
    return result


def activations(image: Array, weights: Sequence[Array], biases: Sequence[Array], mean: Array, scale: Array) -> list:
    """The normalised image and the maps of all layers, each after its ReLU."""
    maps = [(image - np.reshape(mean, (-1, 1, 1))) * np.reshape(scale, (-1, 1, 1))]
    for weight, bias in zip(weights, biases, strict=True):
        z = convolve(maps[-1], weight, bias)
        maps.append(np.where(z <= 0, 0.0, z))  # NaN stays
    return maps


def coefficients(z: Array, normalise: str) -> Array:
    """Interpolation coefficients of eq. 1 from `[B, K, h, w]`: they sum to one over K."""
    if normalise == "signed":
        return z + (1 - z.sum(1, keepdims=True)) / z.shape[1]
    if normalise == "softmax":
        s = np.exp(z - z.max(1, keepdims=True, initial=-np.inf))
    else:
        least = np.minimum(z.max(1, keepdims=True, initial=-np.inf), 0)
        s = np.exp(np.minimum(z, 0) - least) / (1 + np.exp(-np.abs(z)))
    return s / s.sum(1, keepdims=True)


def distance_logits(distances: Array, weight: Array, bias: Array) -> Array:
    """What the 1x1 convolution `[K, K']` makes of encoded distances `[K', h, w]`: `[K, h, w]`."""
    return np.einsum("kj,jhw->khw", weight, distances) + bias[:, None, None]


def distance_logits_backward(grad: Array, distances: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Gradients of `distance_logits` to distances, weight and bias."""
    by_weight = np.einsum("khw,jhw->kj", grad, distances)
    return np.einsum("kj,khw->jhw", weight, grad), by_weight, grad.sum((1, 2))


def _read(image: Array, rows: NDArray, columns: NDArray) -> Array:
    """The K taps of every target, `[B, C, K, h, w]`."""
    taps = image[:, :, rows.T[:, None, :, None], columns.T[None, :, None, :]]
    return taps.reshape(*image.shape[:2], rows.shape[1] * columns.shape[1], len(rows), len(columns))


def downsize(
    image: Array,
    weights: Sequence[Array],
    biases: Sequence[Array],
    texture: Array,
    logits: Array,
    rows: NDArray,
    columns: NDArray,
    anchor_rows: NDArray,
    anchor_columns: NDArray,
    mean: Sequence[float],
    scale: Sequence[float],
    normalise: str,
) -> Array:
    """The downsized image: texture features at the anchors, fused with the distances, weigh the taps.

    Args:
        image: `[B, C, H, W]`.
        weights: of L layers, `[F_l, F_(l-1), 3, 3]`.
        biases: `[F_l]`.
        texture: `[K, F_L]`, the 1x1 convolution's columns of the features.
        logits: `[K, h, w]`, what its other columns and its bias make of the relative distance map.
        rows: `[h, ky]`, the taps' rows; K = ky kx.
        columns: `[w, kx]`.
        anchor_rows: `[h]`, row of P, whose features are selected ("floating type pooling").
        anchor_columns: `[w]`.
        mean: `[C]`, taken off what the convolutions see.
        scale: `[C]`, times which they see it.
        normalise: "sigmoid" (divided by the sum), "softmax" or "signed" (a constant added, so that they sum to one).

    Returns:
        `[B, C, h, w]`.
    """
    features = activations(image, weights, biases, np.array(mean), np.array(scale))[-1] if weights else image[:, :0]
    selected = features[:, :, anchor_rows[:, None], anchor_columns[None, :]]
    z = np.einsum("kf,bfhw->bkhw", texture, selected) + logits
    return np.einsum("bkhw,bckhw->bchw", coefficients(z, normalise), _read(image, rows, columns))


# --- backward ---------------------------------------------------------------------------------------------------------


def _coefficients_grad(z: Array, a: Array, grad: Array, normalise: str) -> Array:
    """Gradient to z `[B, K, h, w]` from that to the coefficients."""
    if normalise == "signed":
        return grad - grad.mean(1, keepdims=True)
    # a_k = s_k / S, ds_k/dz_k = s_k slope_k.
    slope = 1.0 if normalise == "softmax" else np.where(z > 0, np.exp(-np.abs(z)), 1) / (1 + np.exp(-np.abs(z)))
    return a * slope * (grad - (a * grad).sum(1, keepdims=True))


def downsize_backward(
    grad: Array,
    image: Array,
    weights: Sequence[Array],
    biases: Sequence[Array],
    texture: Array,
    logits: Array,
    rows: NDArray,
    columns: NDArray,
    anchor_rows: NDArray,
    anchor_columns: NDArray,
    mean: Sequence[float],
    scale: Sequence[float],
    normalise: str,
    texture_gradient: bool,
) -> tuple[Array, list[Array], list[Array], Array, Array]:
    """Gradients of `downsize` to image, weights, biases, texture and logits.

    Args:
        grad: `[B, C, h, w]`, gradient of the result.
        image: as in `downsize`.
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
        texture_gradient: the image also moves what the convolutions read.
    """
    height, width = image.shape[2:]
    maps = activations(image, weights, biases, np.array(mean), np.array(scale)) if weights else [image[:, :0]]
    at = anchor_rows[:, None], anchor_columns[None, :]
    selected = maps[-1][:, :, at[0], at[1]]
    z = np.einsum("kf,bfhw->bkhw", texture, selected) + logits
    a = coefficients(z, normalise)
    grad_a = np.einsum("bchw,bckhw->bkhw", grad, _read(image, rows, columns))
    grad_z = _coefficients_grad(z, a, grad_a, normalise)

    grad_image = np.zeros(image.shape)
    into = np.moveaxis(grad_image, (2, 3), (0, 1))
    for ky, y in enumerate(rows.T):
        for kx, x in enumerate(columns.T):
            moved = grad * a[:, None, ky * columns.shape[1] + kx]
            np.add.at(into, (y[:, None], x[None, :]), np.moveaxis(moved, (2, 3), (0, 1)))

    grad_map = np.zeros((len(image), texture.shape[1], height, width))
    by_features = np.einsum("kf,bkhw->bfhw", texture, grad_z)
    np.add.at(np.moveaxis(grad_map, (2, 3), (0, 1)), at, np.moveaxis(by_features, (2, 3), (0, 1)))
    grad_weights, grad_biases = [], []
    for layer in reversed(range(len(weights))):
        grad_map = np.where(maps[layer + 1] <= 0, 0.0, grad_map)  # NaN passes, as it came
        padded = np.pad(maps[layer], ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), (2, 3))  # [B, C, 3, 3, H, W]
        grad_weights.append(np.einsum("bfhw,bcyxhw->fcyx", grad_map, windows, optimize=True))
        grad_biases.append(grad_map.sum((0, 2, 3)))
        turned = weights[layer][:, :, ::-1, ::-1].swapaxes(0, 1)
        grad_map = convolve(grad_map, turned, np.zeros(len(turned)))
    if weights and texture_gradient:
        grad_image += grad_map * np.reshape(scale, (-1, 1, 1))
    return (
        grad_image,
        grad_weights[::-1],
        grad_biases[::-1],
        np.einsum("bkhw,bfhw->kf", grad_z, selected),
        grad_z.sum(0),
    )
