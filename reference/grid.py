"""Resampling at one window per target in float64: every level is `out = W @ image` with a sparse matrix W.

A row of W holds the weights of one target: bilinear interpolation at its centre, or the product of two normalised
triangle filters as `separable` has them (LZU section 3.1). Arrays are NumPy; everything is computed and returned in
float64.
"""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from fastwarp.reference.separable import weight_matrix

Array = NDArray[np.float64]
Taps = tuple[NDArray, Array]
"""Pixels that each of m targets reads on one axis `[m, taps]`, and numbers that go with them: weights, derivatives."""


def _bilinear_taps(centre: Array, extent: int) -> tuple[NDArray, Array, Array]:
    """Pixels `[m, 2]`, their weights, and the derivatives of these by the centre."""
    low = np.clip(np.floor(centre), 0, extent - 1).astype(int)
    high = np.minimum(low + 1, extent - 1)
    fraction = centre - low
    slope = np.broadcast_to([-1.0, 1.0], (len(centre), 2))
    return np.stack([low, high], 1), np.stack([1 - fraction, fraction], 1), slope


def _triangle_taps(centre: Array, width: Array, extent: int) -> tuple[NDArray, Array, Array, Array]:
    """Pixels `[m, taps]`, their weights, and the derivatives of these by centre and half-width."""
    weights = weight_matrix(centre, width, extent, extent)
    read = weights[0] > 0
    first = np.argmax(read, 1)
    last = extent - 1 - np.argmax(read[:, ::-1], 1)
    # A derivative to the right of a kink counts one pixel more, where the triangle itself is still 0.
    taps = first[:, None] + np.arange((last - first).max(initial=0) + 2)
    pixels = np.minimum(taps, extent - 1)
    inside = taps < extent
    picked = [np.where(inside, np.take_along_axis(m, pixels, 1), 0.0) for m in weights]
    return pixels, picked[0], picked[1], picked[2]


def _matrix(y: Taps, x: Taps, target: NDArray, shape: tuple[int, int], size: tuple[int, int]) -> scipy.sparse.csr_array:
    """Products of the numbers of both axes as a sparse matrix `[targets, pixels]`; numbers that are 0 read nothing."""
    pixels = y[0][:, :, None] * size[1] + x[0][:, None, :]
    values = y[1][:, :, None] * x[1][:, None, :]
    rows = np.broadcast_to(target[:, None, None], values.shape)
    used = values != 0
    return scipy.sparse.csr_array((values[used], (rows[used], pixels[used])), shape=shape)


def _matrices(
    windows: Array, size: tuple[int, int], extent: tuple[int, int], derivatives: bool
) -> list[scipy.sparse.csr_array]:
    """W `[m, H W]` of windows `[2 or 4, m]`, or its derivatives by their rows. A NaN window: NaN at the first pixel."""
    shape = (windows.shape[1], size[0] * size[1])
    target = np.flatnonzero(~(windows[0] < 0)) if min(extent) else np.zeros(0, int)
    lost = np.isnan(windows[:, target]).any(0)
    nan = scipy.sparse.csr_array((np.full(lost.sum(), np.nan), (target[lost], np.zeros(lost.sum(), int))), shape=shape)
    target = target[~lost]
    if not len(target):
        return [nan] * (len(windows) if derivatives else 1)
    window = windows[:, target]
    cx, cy = (np.clip(window[axis], 0, extent[1 - axis] - 1) for axis in range(2))
    if len(windows) == 2:
        (px, x, *by_x), (py, y, *by_y) = _bilinear_taps(cx, extent[1]), _bilinear_taps(cy, extent[0])
    else:
        (px, x, *by_x), (py, y, *by_y) = (
            _triangle_taps(c, s, e) for c, s, e in ((cx, window[2], extent[1]), (cy, window[3], extent[0]))
        )
    if not derivatives:
        return [_matrix((py, y), (px, x), target, shape, size) + nan]
    # Rows of windows: x, y, then their half-widths.
    pairs = [pair for bx, by in zip(by_x, by_y, strict=True) for pair in ((y, bx), (by, x))]
    return [_matrix((py, a), (px, b), target, shape, size) + nan for a, b in pairs]


def _each_image(
    sizes: list[int], sources: list[int], batch: int, windows: NDArray, source_valid: NDArray | None
) -> Iterator[tuple[int, int, slice, Callable[[bool], list[scipy.sparse.csr_array]]]]:
    """Yields (level, image, its targets, function that makes its matrices)."""
    first = 0
    for level in range(len(sizes) // 2):
        pair = slice(2 * level, 2 * level + 2)
        size, count = (sources[2 * level], sources[2 * level + 1]), int(np.prod(sizes[pair]))
        at = slice(first, first + count)
        for b in range(batch):
            extent = size if source_valid is None else np.clip(source_valid[b % len(source_valid), level], 0, size)
            window = windows[b % len(windows), :, at].astype(np.float64)
            yield level, b, at, functools.partial(_matrices, window, size, tuple(extent))
        first += count


def _sides(tensors: list[NDArray]) -> list[int]:
    return [side for t in tensors for side in t.shape[2:]]


def _common(first: int, second: int) -> int:
    """The common batch, to which 1 broadcasts."""
    return second if first == 1 else first


def resample(images: list[NDArray], windows: NDArray, sizes: list[int], source_valid: NDArray | None) -> list[Array]:
    """Resamples every level by its windows.

    Args:
        images: levels `[1 or B, C, H, W]`.
        windows: `[1 or B, 2, P]`, x and y of every target in pixels, as `mesh.positions` returns, or `[1 or B, 4, P]`,
            x, y and the half-widths of the triangle filter in x and y. P counts the targets of all levels, row by row.
            A target with x < 0 reads nothing. Centres beyond the extent count as on its border.
        sizes: target sizes `[H1, W1, H2, W2, ...]`.
        source_valid: extents of the sources `[1 or B, levels, 2]`, or None.
    """
    batch = _common(len(images[0]), len(windows)) if images else 0
    results = [np.zeros((batch, i.shape[1], *sizes[2 * n : 2 * n + 2])) for n, i in enumerate(images)]
    for level, b, _, matrices in _each_image(sizes, _sides(images), batch, windows, source_valid):
        image = images[level][b % len(images[level])].astype(np.float64)
        flat = matrices(False)[0] @ image.reshape(len(image), math.prod(image.shape[1:])).T
        results[level][b] = flat.T.reshape(results[level][b].shape)
    return results


def resample_adjoint(
    grads: list[NDArray], windows: NDArray, source_sizes: list[int], source_valid: NDArray | None
) -> list[Array]:
    """Gradients to the images of `resample`, `W^T @ grad`.

    Args:
        grads: gradients of the results `[1 or B, C, h, w]`.
        windows: as for `resample`.
        source_sizes: sizes of the images `[H1, W1, H2, W2, ...]`.
        source_valid: as for `resample`.
    """
    batch = _common(len(grads[0]), len(windows)) if grads else 0
    results = [np.zeros((batch, g.shape[1], *source_sizes[2 * n : 2 * n + 2])) for n, g in enumerate(grads)]
    for level, b, _, matrices in _each_image(_sides(grads), source_sizes, batch, windows, source_valid):
        grad = grads[level][b % len(grads[level])].astype(np.float64)
        flat = matrices(False)[0].T @ grad.reshape(len(grad), math.prod(grad.shape[1:])).T
        results[level][b] = flat.T.reshape(results[level][b].shape)
    return results


def windows_gradient(
    grads: list[NDArray], images: list[NDArray], windows: NDArray, source_valid: NDArray | None
) -> Array:
    """Gradient to the windows of `resample`; summed over the images where they share their windows."""
    batch = _common(_common(len(images[0]), len(grads[0])), len(windows)) if images else len(windows)
    result = np.zeros((batch, *windows.shape[1:]))
    for level, b, at, matrices in _each_image(_sides(grads), _sides(images), batch, windows, source_valid):
        image, grad = (v[level][b % len(v[level])].astype(np.float64) for v in (images, grads))
        image, grad = (v.reshape(len(v), math.prod(v.shape[1:])) for v in (image, grad))
        for row, derivative in enumerate(matrices(True)):
            values = derivative @ image.T
            result[b, row, at] = np.where(values == 0, 0.0, grad.T * values).sum(1)
    return result if len(windows) == batch else result.sum(0, keepdims=True)


def camera(
    frame: NDArray,
    windows: NDArray,
    size: tuple[int, int],
    scale: list[float],
    bias: list[float],
    source_valid: NDArray | None,
) -> Array:
    """Resamples a frame `[B, H, W, C]` and normalises it, `value * scale + bias`: `[B, C, *size]`; fill stays 0."""
    sizes, image = list(size), frame.transpose(0, 3, 1, 2)
    (values,) = resample([image], windows, sizes, source_valid)
    (reads,) = resample([np.ones_like(image)], windows, sizes, source_valid)
    scale_, bias_ = (np.asarray(v, np.float64)[None, :, None, None] for v in (scale, bias))
    return np.where(reads > 0.5, values * scale_ + bias_, np.where(np.isnan(reads), np.nan, 0.0))


def _spacing(centres: Array, axis: int) -> tuple[Array, NDArray, NDArray]:
    """Half the distance between the neighbours of each target of `[2, h, w]` along an axis, all of it where only one
    of them reads something; and whether the one before and the one after do."""
    reads, index = centres[0] >= 0, np.arange(centres.shape[1 + axis])
    along = index[:, None] if axis == 0 else index
    low = (along > 0) & np.take(reads, np.maximum(index - 1, 0), axis)
    high = (along < len(index) - 1) & np.take(reads, np.minimum(index + 1, len(index) - 1), axis)
    start = np.where(low, np.take(centres, np.maximum(index - 1, 0), 1 + axis), centres)
    end = np.where(high, np.take(centres, np.minimum(index + 1, len(index) - 1), 1 + axis), centres)
    return (end - start) / np.maximum(low.astype(int) + high, 1), low, high


def _widened(centres: Array, extent: list[int], source: list[int], grad: Array | None) -> Array:
    """Half-widths `[2, h, w]` of centres `[2, h, w]`; with their gradient `[2, h, w]`, that of the centres."""
    spacings = [_spacing(centres, axis) for axis in range(2)]
    alone = [[0.0, source[0] - 1.0], [source[1] - 1.0, 0.0]]  # x and y of a single row, of a single column
    squares = sum(
        (spacings[axis][0] if extent[axis] > 1 else np.array(alone[axis])[:, None, None]) ** 2 for axis in range(2)
    )
    widths = np.sqrt(np.maximum(squares, 1))
    if grad is None:
        return widths
    result = np.zeros_like(centres)
    for axis, (spacing, low, high) in enumerate(spacings):
        if extent[axis] > 1:
            by_end = np.where(squares >= 1, grad * spacing / widths, 0.0) / np.maximum(low.astype(int) + high, 1)
            result += np.roll(np.where(high, by_end, 0.0), 1, 1 + axis) + np.where(high, 0.0, by_end)
            result -= np.roll(np.where(low, by_end, 0.0), -1, 1 + axis) + np.where(low, 0.0, by_end)
    return result


def _each_grid(
    sizes: list[int], source_sizes: list[int], valid: NDArray | None, source_valid: NDArray | None, image: int
) -> Iterator[tuple[slice, list[int], list[int], list[int]]]:
    """Targets, size, valid size and valid size of the source of each level of an image."""

    def extent(whole: list[int], valid: NDArray | None, level: int) -> list[int]:
        return whole if valid is None else list(np.clip(valid[image % len(valid), level], 0, whole))

    first = 0
    for level in range(len(sizes) // 2):
        size, source = (list(s[2 * level : 2 * level + 2]) for s in (sizes, source_sizes))
        targets = slice(first, first + size[0] * size[1])
        yield targets, size, extent(size, valid, level), extent(source, source_valid, level)
        first = targets.stop


def widen(
    centres: NDArray, sizes: list[int], source_sizes: list[int], valid: NDArray | None, source_valid: NDArray | None
) -> Array:
    """Windows `[B, 4, P]` of triangle filters from centres `[1 or B, 2, P]` in source pixels (x < 0: reads nothing).

    A half-width is the spacing of the targets, at least a pixel: along x and along y of the source, the spacings to the
    neighbours in the column and in the row add as squares. A single row (column) averages over all of its source.
    """
    batch = next((len(a) for a in (centres, valid, source_valid) if a is not None and len(a) != 1), 1)
    result = np.empty((batch, 4, centres.shape[2]))
    for b in range(batch):
        of = centres[b % len(centres)]
        result[b, :2] = of
        for at, size, extent, source in _each_grid(sizes, source_sizes, valid, source_valid, b):
            result[b, 2:, at] = _widened(of[:, at].reshape(2, *size), extent, source, None).reshape(2, -1)
    return result


def widen_backward(
    grad: NDArray,
    centres: NDArray,
    sizes: list[int],
    source_sizes: list[int],
    valid: NDArray | None,
    source_valid: NDArray | None,
) -> Array:
    """Gradient to the centres of `widen`, summed over the images that share them."""
    result = np.zeros(centres.shape)
    for b in range(len(grad)):
        mine = b % len(centres)
        result[mine] += grad[b, :2]
        for at, size, extent, source in _each_grid(sizes, source_sizes, valid, source_valid, b):
            parts = [a[:, at].reshape(2, *size) for a in (centres[mine], grad[b, 2:])]
            result[mine][:, at] += _widened(parts[0], extent, source, parts[1]).reshape(2, -1)
    return result
