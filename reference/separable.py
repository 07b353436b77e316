"""Separable resampling in float64: `out = Wy @ image @ Wx^T` with dense weight matrices.

A row of W holds the normalised triangle filter of one window (centre c, half-width s), LZU section 3.1; s = 1 is
bilinear interpolation, s = 0 reads nothing. Arrays are NumPy; everything is computed and returned in float64.
"""

from collections.abc import Iterator

import numpy as np
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


def _matrices(windows: NDArray, first: int, size: int, extents: list[int], source: int) -> tuple[Array, Array, Array]:
    """The three matrices of `weight_matrix`, each `[B, size, source]`, for the windows `first .. first + size`."""
    rows = []
    for b, extent in enumerate(extents):
        centre, width = windows[b % len(windows), :, first : first + size].astype(np.float64)
        rows.append(weight_matrix(centre, width, extent, source))
    stacked = [np.stack(m) if m else np.zeros((0, size, source)) for m in zip(*rows, strict=True)] or [
        np.zeros((0, size, source))
    ] * 3
    return stacked[0], stacked[1], stacked[2]


def _levels(
    shapes: list[tuple[int, ...]], windows: NDArray, sizes: list[int], source_valid: NDArray | None
) -> Iterator[list[tuple[int, tuple[Array, Array, Array]]]]:
    """Yields the matrices of the y and of the x axis and their first window, level by level."""
    first = 0
    for level, (batch, _, *source) in enumerate(shapes):
        axes = []
        for axis in range(2):
            size = sizes[2 * level + axis]
            extents = [
                source[axis] if source_valid is None else int(source_valid[b % len(source_valid), level, axis])
                for b in range(batch)
            ]
            axes.append((first, _matrices(windows, first, size, extents, source[axis])))
            first += size
        yield axes


def resample(images: list[NDArray], windows: NDArray, sizes: list[int], source_valid: NDArray | None) -> list[Array]:
    """Resamples every level by its windows.

    Args:
        images: levels `[B, C, H, W]`.
        windows: `[1 or B, 2, sum(sizes)]`, as `axis_windows` returns.
        sizes: target sizes `[H1, W1, H2, W2, ...]`.
        source_valid: extents of the sources `[1 or B, levels, 2]`, or None.
    """
    axes = _levels([i.shape for i in images], windows, sizes, source_valid)
    return [
        np.einsum("bip,bcpq,bjq->bcij", wy, image.astype(np.float64), wx, optimize=True)
        for image, ((_, (wy, _, _)), (_, (wx, _, _))) in zip(images, axes, strict=True)
    ]


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
    sizes = [side for g in grads for side in g.shape[2:]]
    shapes = [(*g.shape[:2], *source_sizes[2 * i : 2 * i + 2]) for i, g in enumerate(grads)]
    axes = _levels(shapes, windows, sizes, source_valid)
    return [
        np.einsum("bip,bcij,bjq->bcpq", wy, g.astype(np.float64), wx, optimize=True)
        for g, ((_, (wy, _, _)), (_, (wx, _, _))) in zip(grads, axes, strict=True)
    ]


def windows_gradient(
    grads: list[NDArray], images: list[NDArray], windows: NDArray, source_valid: NDArray | None
) -> Array:
    """Gradient to the windows of `resample`; summed over the images where they share their windows."""
    sizes = [side for g in grads for side in g.shape[2:]]
    result = np.zeros((images[0].shape[0], 2, windows.shape[2]))
    axes = _levels([i.shape for i in images], windows, sizes, source_valid)
    for g, image, ((fy, (wy, wyc, wys)), (fx, (wx, wxc, wxs))) in zip(grads, images, axes, strict=True):
        g, image = g.astype(np.float64), image.astype(np.float64)
        by_wy = np.einsum("bcij,bcpq,bjq->bip", g, image, wx, optimize=True)
        by_wx = np.einsum("bcij,bcpq,bip->bjq", g, image, wy, optimize=True)
        for row, (my, mx) in enumerate(((wyc, wxc), (wys, wxs))):
            result[:, row, fy : fy + wy.shape[1]] = (by_wy * my).sum(2)
            result[:, row, fx : fx + wx.shape[1]] = (by_wx * mx).sum(2)
    return result if len(windows) == len(result) else result.sum(0, keepdims=True)


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
