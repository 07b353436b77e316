"""Separable resampling in float64: `out = Wy @ image @ Wx^T`, as the product of a sparse matrix with the flat image.

A row of W holds the normalised triangle filter of one window (centre c, half-width s), LZU section 3.1; s = 1 is
bilinear interpolation, s = 0 reads nothing. Arrays are NumPy; everything is computed and returned in float64.
"""

import math
from collections.abc import Iterator

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

Array = NDArray[np.float64]


def weight_matrix(centre: Array, width: Array, extent: int, size: int) -> tuple[Array, Array, Array]:
    """Weights `[m, size]` of m windows over an axis, and their derivatives by centre and half-width.

    At a kink of the triangle the derivative is the one towards larger coordinates.

    Args:
        centre: `[m]`, in pixels.
        width: `[m]`, in pixels; 0 reads nothing.
        extent: pixels from here on are padding and never read.
        size: number of pixels of the axis.
    """
    j = np.arange(size)[None, :]
    c, s = centre[:, None], np.where(width > 0, width, 1.0)[:, None]
    with np.errstate(invalid="ignore"):
        first, last = np.floor(c - s) + 1, np.floor(c + s)
        support = (j >= np.maximum(first, 0)) & (j <= np.minimum(last, extent - 1)) & (width > 0)[:, None]
    triangle = np.where(support, 1 - np.abs(j - c) / s, 0.0)
    by_centre = np.where(support, np.where(j <= c, -1.0, 1.0) / s, 0.0)
    by_width = np.where(support, np.abs(j - c) / s**2, 0.0)
    total = triangle.sum(1, keepdims=True)
    total = np.where(total > 0, total, 1.0)
    weight = triangle / total
    by_centre = (by_centre - weight * by_centre.sum(1, keepdims=True)) / total
    by_width = (by_width - weight * by_width.sum(1, keepdims=True)) / total
    lost = np.isnan(c) & (width > 0)[:, None]
    return tuple(np.where(lost, np.nan, m) for m in (weight, by_centre, by_width))  # type: ignore[return-value]


def _axis(windows: Array, extent: int, size: int) -> tuple[list[scipy.sparse.csr_array], NDArray]:
    """The three matrices of `weight_matrix` `[m, size]`, of windows `[2, m]`, and which of these are lost, NaN.

    Matrices hold what is read alone, for what lies beside it may be NaN, and nothing of lost windows.
    """
    matrices = weight_matrix(windows[0], windows[1], extent, size)
    lost = np.isnan(windows[0]) & (windows[1] > 0)
    read = ((matrices[0] > 0) | (matrices[1] != 0)) & ~lost[:, None]
    return [scipy.sparse.csr_array(np.where(read, matrix, 0.0)) for matrix in matrices], lost


def _each_image(
    batch: int, sizes: list[int], sources: list[int], windows: NDArray, source_valid: NDArray | None
) -> Iterator[tuple[int, int, list[slice], list[tuple[list[scipy.sparse.csr_array], NDArray]]]]:
    """Yields (level, image, its windows of the y and of the x axis, what `_axis` says of both)."""
    first = 0
    for level in range(len(sizes) // 2):
        (height, width), source = sizes[2 * level : 2 * level + 2], sources[2 * level : 2 * level + 2]
        at = [slice(first, first + height), slice(first + height, first + height + width)]
        for b in range(batch):
            extent = source if source_valid is None else source_valid[b % len(source_valid), level]
            window = windows[b % len(windows)].astype(np.float64)
            yield level, b, at, [_axis(window[:, a], int(e), n) for a, e, n in zip(at, extent, source, strict=True)]
        first += height + width


def _product(matrix: scipy.sparse.csr_array, image: NDArray) -> Array:
    """The matrix times every channel of `[C, h, w]`: `[C, rows]`."""
    flat = image.reshape(len(image), math.prod(image.shape[1:])).astype(np.float64)
    return np.asarray((matrix @ flat.T).T)


def _sides(levels: list[NDArray]) -> list[int]:
    return [side for level in levels for side in level.shape[2:]]


def resample(images: list[NDArray], windows: NDArray, sizes: list[int], source_valid: NDArray | None) -> list[Array]:
    """Resamples every level by its windows.

    Args:
        images: levels `[B, C, H, W]`.
        windows: `[1 or B, 2, sum(sizes)]`, as `axis_windows` returns.
        sizes: target sizes `[H1, W1, H2, W2, ...]`.
        source_valid: extents of the sources `[1 or B, levels, 2]`, or None.
    """
    results = [np.zeros((*i.shape[:2], *sizes[2 * n : 2 * n + 2])) for n, i in enumerate(images)]
    each = _each_image(len(images[0]), sizes, _sides(images), windows, source_valid)
    for level, b, _, ((y, lost_y), (x, lost_x)) in each:
        values = _product(scipy.sparse.kron(y[0], x[0], "csr"), images[level][b])
        results[level][b] = values.reshape(results[level][b].shape)
        results[level][b][:, lost_y[:, None] | lost_x] = np.nan
    return results


def resample_adjoint(
    grads: list[NDArray], windows: NDArray, source_sizes: list[int], source_valid: NDArray | None
) -> list[Array]:
    """Gradients to the images of `resample`, `Wy^T @ grad @ Wx`.

    Args:
        grads: gradients of the results `[B, C, h, w]`.
        windows: as for `resample`.
        source_sizes: sizes of the images `[H1, W1, H2, W2, ...]`.
        source_valid: as for `resample`.
    """
    results = [np.zeros((*g.shape[:2], *source_sizes[2 * n : 2 * n + 2])) for n, g in enumerate(grads)]
    each = _each_image(len(grads[0]), _sides(grads), source_sizes, windows, source_valid)
    for level, b, _, ((y, lost_y), (x, lost_x)) in each:
        values = _product(scipy.sparse.kron(y[0], x[0], "csr").T, grads[level][b])
        results[level][b] = np.nan if lost_y.any() or lost_x.any() else values.reshape(results[level][b].shape)
    return results


def windows_gradient(
    grads: list[NDArray], images: list[NDArray], windows: NDArray, source_valid: NDArray | None
) -> Array:
    """Gradient to the windows of `resample`; summed over the images where they share their windows."""
    batch = len(images[0])
    result = np.zeros((batch, 2, windows.shape[2]))
    each = _each_image(batch, _sides(grads), _sides(images), windows, source_valid)
    for level, b, at, ((y, lost_y), (x, lost_x)) in each:
        grad = grads[level][b].astype(np.float64)
        for row in range(2):  # by the centres, by the half-widths
            pairs = [(y[1 + row], x[0]), (y[0], x[1 + row])]
            for axis, (by_y, by_x) in enumerate(pairs):
                values = _product(scipy.sparse.kron(by_y, by_x, "csr"), images[level][b]).reshape(grad.shape)
                values[:, lost_y[:, None] | lost_x] = np.nan
                terms = np.where(values == 0, 0.0, grad * values)
                result[b, row, at[axis]] = terms.sum((0, 2 - axis))
    return result if len(windows) == batch else result.sum(0, keepdims=True)


def camera(
    frame: NDArray,
    windows: NDArray,
    size: tuple[int, int],
    scale: list[float],
    bias: list[float],
    source_valid: NDArray | None,
) -> Array:
    """Resamples a frame `[B, H, W, 3]` and normalises it, `value * scale + bias`: `[B, 3, *size]`; fill stays 0."""
    sizes = list(size)
    image = frame.transpose(0, 3, 1, 2)
    (values,) = resample([image], windows, sizes, source_valid)
    (reads,) = resample([np.ones_like(image)], windows, sizes, source_valid)
    scale_, bias_ = (np.asarray(v, np.float64)[None, :, None, None] for v in (scale, bias))
    return np.where(reads > 0.5, values * scale_ + bias_, np.where(np.isnan(reads), np.nan, 0.0))
