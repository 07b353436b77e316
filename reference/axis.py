"""One-dimensional warps in float64: saliency -> knots, evaluation, inverse, and the windows a resampler reads.

Written to be read beside "Learning to Zoom and Unzoom" (LZU). Vector-Jacobian products use dense Jacobians, so that
they share nothing with the kernels they judge. Arrays are NumPy; everything is computed and returned in float64.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

FLOOR = 1e-6
"""Uniform saliency added to every map, relative to its mean: where a kernel sees nothing else, T is the identity."""

TINY = 2.0**-962
"""Uniform saliency of an all-zero map."""


def grid(size: int) -> Array:
    """Grid(D) of LZU section 3.1: `d/(D-1)`; the single position of D = 1 is 0.5."""
    return np.arange(size) / (size - 1) if size > 1 else np.array([0.5])


def _marginal(saliency: NDArray) -> Array:
    return np.maximum(saliency.astype(np.float64), 0.0).sum(-1)


def _attraction(n: int, radius: int, fwhm: float) -> tuple[Array, Array]:
    """Padded positions `[n + 2 radius]` and the kernel k(x, x') of eq. 3 `[n, n + 2 radius]`, truncated at `radius`."""
    cells = np.arange(-radius, n + radius)
    distance = np.abs(cells[None, :] - np.arange(n)[:, None])
    kernel = np.where(distance <= radius, np.exp(-4 * np.log(2) * distance**2 / fwhm**2), 0.0)
    return cells / (n - 1), kernel


def _lz_axis(marginal: Array, radius: int, fwhm: float, anti_crop: bool) -> tuple[Array, Array]:
    """Unclamped T of eq. 3 `[B, n]` and its Jacobian by the marginal `[B, n, n]`."""
    n = marginal.shape[1]
    position, kernel = _attraction(n, radius, fwhm)
    fold = np.pad(np.eye(n), ((0, 0), (radius, radius)), mode="reflect" if anti_crop else "edge")
    mean = marginal.mean(1, keepdims=True)
    above = FLOOR * mean > TINY
    padded = marginal @ fold + np.where(above, FLOOR * mean, TINY)
    total = padded @ kernel.T
    knots = (padded * position) @ kernel.T / total
    if anti_crop:  # by symmetry; rounding would leave 1e-19
        knots[:, [0, -1]] += np.array([0.0, 1.0]) - np.where(np.isnan(knots[:, [0, -1]]), 0.0, knots[:, [0, -1]])
    by_padded = kernel[None] * (position[None, None] - knots[:, :, None]) / total[:, :, None]
    by_marginal = by_padded @ fold.T + (FLOOR / n) * by_padded.sum(2, keepdims=True)
    return knots, np.where((above | np.isnan(mean))[:, :, None], by_marginal, 0.0)  # an all-zero map has no derivative


def lz_knots(saliency_y: NDArray, saliency_x: NDArray, fwhm: float, anti_crop: bool) -> tuple[Array, Array]:
    """Knots of the separable LZ warp, LZU eq. 3 and 4, on the saliency's own grid.

    Args:
        saliency_y: `[B, h, R]`; the marginal of the y axis is the sum over R. Negative cells count as zero.
        saliency_x: `[B, w, R']`, likewise.
        fwhm: full width at half maximum of the attraction kernel, in cells.
        anti_crop: pad the marginals by reflection (nothing is cropped) instead of replication.
    """
    radius = min(saliency_y.shape[1], saliency_x.shape[1]) - 1
    y, x = (_lz_axis(_marginal(s), radius, fwhm, anti_crop)[0] for s in (saliency_y, saliency_x))
    return np.clip(y, 0, 1), np.clip(x, 0, 1)


def lz_knots_backward(
    grad_y: NDArray, grad_x: NDArray, saliency_y: NDArray, saliency_x: NDArray, fwhm: float, anti_crop: bool
) -> tuple[Array, Array]:
    """Gradients to the two marginals, `[B, h]` and `[B, w]`."""
    radius = min(saliency_y.shape[1], saliency_x.shape[1]) - 1
    result = []
    for grad, saliency in ((grad_y, saliency_y), (grad_x, saliency_x)):
        knots, jacobian = _lz_axis(_marginal(saliency), radius, fwhm, anti_crop)
        inside = (knots >= 0) & (knots <= 1)
        result.append(np.einsum("bi,bij->bj", np.where(inside, grad, 0.0), jacobian))
    return result[0], result[1]


def _piece_of_value(knots: Array, x: Array) -> NDArray[np.intp]:
    """The linear piece whose range holds x (fig. 5). Of equal knots the piece towards the inside is taken."""
    inner = knots[1:-1]
    last = np.searchsorted(inner, knots[-1], side="left")
    return np.where(x >= knots[-1], last, np.searchsorted(inner, np.maximum(x, knots[0]), side="right"))


def _map_row(knots: Array, x: Array, inverse: bool) -> tuple[Array, Array, Array]:
    """T~(x) or T~^-1(x) `[m]`, the Jacobian by the knots `[m, n]` and the derivative by x `[m]`."""
    n, rows = len(knots), np.arange(len(x))
    jacobian = np.zeros((len(x), n))
    if np.isnan(knots).any():
        return np.full(len(x), np.nan), np.full((len(x), n), np.nan), np.full(len(x), np.nan)
    if not inverse:
        piece = np.clip(np.floor(np.nan_to_num(x) * (n - 1)), 0, n - 2).astype(int)
        f = x * (n - 1) - piece
        jacobian[rows, piece], jacobian[rows, piece + 1] = 1 - f, f
        return (1 - f) * knots[piece] + f * knots[piece + 1], jacobian, (n - 1) * (knots[piece + 1] - knots[piece])
    piece = _piece_of_value(knots, x)
    delta = knots[piece + 1] - knots[piece]
    slope = np.divide(1.0, delta, out=np.zeros_like(delta), where=delta != 0)
    f = np.where(np.isnan(x), np.nan, (x - knots[piece]) * slope)
    jacobian[rows, piece], jacobian[rows, piece + 1] = -(1 - f) * slope / (n - 1), -f * slope / (n - 1)
    return (piece + f) / (n - 1), jacobian, slope / (n - 1)


def axis_map(knots: NDArray, positions: NDArray, inverse: bool) -> Array:
    """T~ (eq. 5, one axis) or its inverse (eq. 7) at arbitrary positions, continued linearly past the end knots.

    Args:
        knots: `[1 or B, n]`, non-decreasing; with a NaN among them, all results are NaN.
        positions: `[B, m]`.
        inverse: evaluate T~^-1.
    """
    knots = np.broadcast_to(knots.astype(np.float64), (len(positions), knots.shape[1]))
    rows = [_map_row(k, x, inverse)[0] for k, x in zip(knots, positions.astype(np.float64), strict=True)]
    return np.stack(rows) if rows else np.zeros(positions.shape)


def axis_map_backward(grad: NDArray, knots: NDArray, positions: NDArray, inverse: bool) -> tuple[Array, Array]:
    """Gradients to knots and positions."""
    wide = np.broadcast_to(knots.astype(np.float64), (len(positions), knots.shape[1]))
    grad_knots, grad_positions = np.zeros(wide.shape), np.zeros(positions.shape)
    for b, (k, x, g) in enumerate(zip(wide, positions.astype(np.float64), grad.astype(np.float64), strict=True)):
        _, jacobian, derivative = _map_row(k, x, inverse)
        grad_knots[b], grad_positions[b] = g @ jacobian, g * derivative
    return _sum_to(grad_knots, len(knots)), grad_positions


def _sum_to(grad: Array, batch: int) -> Array:
    return grad if len(grad) == batch else grad.sum(0, keepdims=True)


def _windows_row(
    knots: Array, size: int, extent: int, source: int, inverse: bool, antialias: bool, border: bool
) -> tuple[Array, Array, Array, Array]:
    """Centres and half-widths `[size]` of one axis of one image, with their Jacobians by the knots `[size, n]`."""
    n = len(knots)
    centre, width = np.zeros(size), np.zeros(size)
    by_centre, by_width = np.zeros((size, n)), np.zeros((size, n))
    if extent == 0 or source == 0:
        return centre, width, by_centre, by_width
    x = grid(extent)
    if np.isnan(knots).any():
        centre[:extent], width[:extent] = np.nan, 1.0
        return centre, width, np.full((size, n), np.nan), by_width
    clamped = np.clip(x, knots[0], knots[-1]) if inverse else x
    outside = clamped != x
    t, jacobian, _ = _map_row(knots, clamped, inverse)
    moving = (t >= 0) & (t <= 1) & ~outside
    c = np.clip(t, 0, 1) * (source - 1)
    j = np.where(moving[:, None], jacobian, 0.0) * (source - 1)
    s, js = np.ones(extent), np.zeros((extent, n))
    if antialias:
        spacing = np.full(1, source - 1.0) if extent == 1 else np.gradient(c)
        spacing_by = np.zeros((1, n)) if extent == 1 else np.gradient(j, axis=0)
        s = np.maximum(1.0, np.abs(spacing))
        js = np.where((np.abs(spacing) > 1)[:, None], np.sign(spacing)[:, None] * spacing_by, 0.0)
    reads = ~outside | border
    width[:extent], centre[:extent] = np.where(reads, s, 0.0), np.where(reads, c, 0.0)
    by_width[:extent], by_centre[:extent] = np.where(reads[:, None], js, 0.0), np.where(reads[:, None], j, 0.0)
    return centre, width, by_centre, by_width


def _batch(*arrays: NDArray | None) -> int:
    """The batch, to which 1 broadcasts."""
    return next((len(a) for a in arrays if a is not None and len(a) != 1), 1)


def _each_axis(
    knots_y: NDArray,
    knots_x: NDArray,
    sizes: list[int],
    source_sizes: list[int],
    valid: NDArray | None,
    source_valid: NDArray | None,
) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Yields (image, axis, first target, target size, its extent, the source's extent) for every level and axis."""
    batch = _batch(knots_y, knots_x, valid, source_valid)
    for b in range(batch):
        first = 0
        for i, (size, source) in enumerate(zip(sizes, source_sizes, strict=True)):
            level, axis = divmod(i, 2)
            extent, source_extent = (
                whole if given is None else int(np.clip(given[b % len(given), level, axis], 0, whole))
                for given, whole in ((valid, size), (source_valid, source))
            )
            yield b, axis, first, size, extent, source_extent
            first += size


def _knots_of(b: int, axis: int, knots_y: NDArray, knots_x: NDArray) -> Array:
    """Knots of one axis of one image; all NaN if any of either axis is: the whole image is NaN then."""
    both = [knots[b % len(knots)].astype(np.float64) for knots in (knots_y, knots_x)]
    return both[axis] * (np.nan if any(np.isnan(knots).any() for knots in both) else 1.0)


def axis_windows(
    knots_y: NDArray,
    knots_x: NDArray,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    antialias: bool,
    border: bool,
    valid: NDArray | None,
    source_valid: NDArray | None,
) -> Array:
    """What each target row and column reads: centre and half-width in source pixels, `[B, 2, sum(sizes)]`.

    Args:
        knots_y: `[1 or B, h]`. A NaN in the knots of either axis makes all centres of the image NaN.
        knots_x: `[1 or B, w]`.
        sizes: target sizes `[H1, W1, H2, W2, ...]` of the levels.
        source_sizes: source sizes, likewise.
        inverse: False: T~(Grid), a zoom. True: T~^-1(Grid), an unzoom (eq. 7).
        antialias: widen the triangle filter to the spacing of the centres.
        border: targets outside the range of T~ read the border; otherwise nothing (eq. 6).
        valid: extents of the targets `[1 or B, levels, 2]` (height, width), or None.
        source_valid: extents of the sources, likewise.
    """
    batch = _batch(knots_y, knots_x, valid, source_valid)
    windows = np.zeros((batch, 2, sum(sizes)))
    for b, axis, first, size, extent, source in _each_axis(knots_y, knots_x, sizes, source_sizes, valid, source_valid):
        knots = _knots_of(b, axis, knots_y, knots_x)
        row = _windows_row(knots, size, extent, source, inverse, antialias, border)
        windows[b, 0, first : first + size], windows[b, 1, first : first + size] = row[:2]
    return windows


def axis_windows_backward(
    grad: NDArray,
    knots_y: NDArray,
    knots_x: NDArray,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    antialias: bool,
    border: bool,
    valid: NDArray | None,
    source_valid: NDArray | None,
) -> tuple[Array, Array]:
    """Gradients to the knots of both axes."""
    result = (np.zeros((len(grad), knots_y.shape[1])), np.zeros((len(grad), knots_x.shape[1])))
    for b, axis, first, size, extent, source in _each_axis(knots_y, knots_x, sizes, source_sizes, valid, source_valid):
        knots = _knots_of(b, axis, knots_y, knots_x)
        row = _windows_row(knots, size, extent, source, inverse, antialias, border)
        g = grad[b, :, first : first + size].astype(np.float64)
        result[axis][b] += g[0] @ row[2] + g[1] @ row[3]
    return _sum_to(result[0], len(knots_y)), _sum_to(result[1], len(knots_x))
