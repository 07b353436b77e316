"""numba kernels of the `axis` family: saliency -> knots, evaluation and inverse of T~, windows.

All arithmetic is float64 and sequential: the vectors hold tens to thousands of values.
"""

import math

import numpy as np
import torch
from torch import Tensor

from fastwarp.errors import FastwarpError
from fastwarp.kernels.cpu._levels import extent
from fastwarp.kernels.cpu._memory import array, extents_array
from fastwarp.kernels.cpu._parallel import inline, jit
from fastwarp.kernels.layout import common_batch

_FLOOR = 1e-6  # uniform saliency added to every map, relative to its mean
_TINY = 2.0**-962  # uniform saliency of an all-zero map


# --- saliency -> knots (LZU eq. 3 and 4) ------------------------------------------------------------------------------


@inline
def _marginal(saliency, b):
    n, cells = saliency.shape[1], saliency.shape[2]
    result = np.zeros(n)
    for i in range(n):
        total = 0.0
        for r in range(cells):
            value = np.float64(saliency[b, i, r])
            if not value < 0:  # NaN counts
                total += value
        result[i] = total
    return result


@inline
def _sum(values):
    total = 0.0  # `values.sum()` takes the compiler a tenth of a second
    for value in values:
        total += value
    return total


@inline
def _fold(i, n, anti_crop):
    """Cell that the padded marginal repeats at position i."""
    if anti_crop:
        i = abs(i)
        return i if i < n else 2 * (n - 1) - i
    return min(max(i, 0), n - 1)


@inline
def _attraction(radius, fwhm):
    kernel = np.empty(radius + 1)
    for d in range(radius + 1):
        kernel[d] = math.exp(-4.0 * math.log(2.0) * d * d / (fwhm * fwhm))
    return kernel


@inline
def _total_weight(kernel):
    return 2.0 * _sum(kernel) - kernel[0]


@inline
def _pull(marginal, i, kernel, floor, anti_crop):
    """Numerator (relative to cell i) and denominator of T at cell i. Paired, so that reflected ends give exactly 0."""
    n = len(marginal)
    above, below = 0.0, kernel[0] * marginal[i] + floor
    for d in range(1, len(kernel)):
        right, left = marginal[_fold(i + d, n, anti_crop)], marginal[_fold(i - d, n, anti_crop)]
        above += kernel[d] * d * (right - left)
        below += kernel[d] * (right + left)
    return above, below


@jit
def _lz_knots(saliency, radius, fwhm, anti_crop, knots):
    kernel = _attraction(radius, fwhm)
    n = knots.shape[1]
    for b in range(len(knots)):
        marginal = _marginal(saliency, b)
        floor = max(_FLOOR * _sum(marginal) / n, _TINY) * _total_weight(kernel)
        for i in range(n):
            above, below = _pull(marginal, i, kernel, floor, anti_crop)
            t = (i + above / below) / (n - 1)
            knots[b, i] = t if math.isnan(t) else min(max(t, 0.0), 1.0)


@jit
def _lz_knots_backward(grad, saliency, radius, fwhm, anti_crop, result):
    kernel = _attraction(radius, fwhm)
    total = _total_weight(kernel)
    n = grad.shape[1]
    for b in range(len(grad)):
        marginal = _marginal(saliency, b)
        mean = _sum(marginal) / n
        if _FLOOR * mean <= _TINY:  # an all-zero map: T has no derivative there
            result[b] = 0
            continue
        floor = _FLOOR * mean * total
        row, by_floor = np.zeros(n), 0.0
        for i in range(n):
            above, below = _pull(marginal, i, kernel, floor, anti_crop)
            shift = above / below
            t = (i + shift) / (n - 1)
            if t < 0 or t > 1:
                continue
            g = grad[b, i] / (below * (n - 1))
            row[i] -= g * kernel[0] * shift
            by_floor -= g * shift
            for d in range(1, len(kernel)):
                row[_fold(i + d, n, anti_crop)] += g * kernel[d] * (d - shift)
                row[_fold(i - d, n, anti_crop)] += g * kernel[d] * (-d - shift)
        result[b] = row + by_floor * total * _FLOOR / n


def lz_knots(saliency_y: Tensor, saliency_x: Tensor, fwhm: float, anti_crop: bool) -> tuple[Tensor, Tensor]:
    """Knots `[B, h]`, `[B, w]` from maps `[B, h, R]`, `[B, w, R']` that are summed over their last dimension."""
    radius = min(saliency_y.shape[1], saliency_x.shape[1]) - 1
    y, x = (s.new_empty(s.shape[:2]) for s in (saliency_y, saliency_x))
    for saliency, knots in ((saliency_y, y), (saliency_x, x)):
        _lz_knots(array(saliency), radius, fwhm, anti_crop, array(knots))
    return y, x


def lz_knots_backward(
    grad_y: Tensor, grad_x: Tensor, saliency_y: Tensor, saliency_x: Tensor, fwhm: float, anti_crop: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to the marginals, `[B, h]` and `[B, w]`."""
    radius = min(saliency_y.shape[1], saliency_x.shape[1]) - 1
    y, x = (s.new_empty(s.shape[:2]) for s in (saliency_y, saliency_x))
    for grad, saliency, result in ((grad_y, saliency_y, y), (grad_x, saliency_x, x)):
        _lz_knots_backward(array(grad), array(saliency), radius, fwhm, anti_crop, array(result))
    return y, x


# --- T~ and its inverse (LZU eq. 5 and 7) -----------------------------------------------------------------------------


@inline
def _count_below(knots, x, equal):
    """Inner knots < x, or <= x where `equal`: the index of a piece. NaN counts none."""
    low, high = 1, len(knots) - 1
    while low < high:
        middle = (low + high) // 2
        if knots[middle] < x or (equal and knots[middle] == x):
            low = middle + 1
        else:
            high = middle
    return low - 1


@inline
def _evaluate(knots, u):
    """Piece, fraction and value of T~(u)."""
    n = len(knots)
    position = u * (n - 1)
    piece = int(min(max(math.floor(position), 0.0), n - 2.0)) if position == position else 0
    f = position - piece
    return piece, f, (1.0 - f) * np.float64(knots[piece]) + f * np.float64(knots[piece + 1])


@inline
def _invert(knots, x):
    """Piece, fraction and value of T~^-1(x). Of equal knots the piece towards the inside is taken."""
    n = len(knots)
    last = np.float64(knots[n - 1])
    if x >= last:
        piece = _count_below(knots, last, False)
    else:
        piece = _count_below(knots, max(x, np.float64(knots[0])), True)
    start = np.float64(knots[piece])
    delta = np.float64(knots[piece + 1]) - start
    f = 0.0 if delta == 0 else (x - start) / delta
    return piece, f, (piece + f) / (n - 1)


@inline
def _slope(knots, piece):
    """1 / (knots per unit), the derivative of T~^-1 on a piece; 0 where the piece has no extent."""
    delta = np.float64(knots[piece + 1]) - np.float64(knots[piece])
    return 0.0 if delta == 0 else 1.0 / ((len(knots) - 1) * delta)


@inline
def _pull_back(knots, piece, f, inverse, grad, row):
    """Adds the gradient of a value of T~ (T~^-1) to the two knots it was made from."""
    scale = -_slope(knots, piece) * grad if inverse else grad
    row[piece] += (1.0 - f) * scale
    row[piece + 1] += f * scale


@inline
def _decreases(knots):
    for b in range(len(knots)):
        for i in range(1, knots.shape[1]):
            if knots[b, i] < knots[b, i - 1]:
                return True
    return False


@inline
def _lost(knots, b):
    """Whether a knot of image b is NaN: then everything of the image is."""
    lost = False
    for knot in knots[b if len(knots) > 1 else 0]:
        lost |= math.isnan(knot)
    return lost


def _require_order(decreases: bool) -> None:
    if decreases:
        raise FastwarpError("knots decrease somewhere, expected knots that never do; SeparableWarp.check() tells where")


@jit
def _axis_map(knots, positions, inverse, result):
    if _decreases(knots):
        return True
    for b in range(len(positions)):
        row = knots[b if len(knots) > 1 else 0]
        if _lost(knots, b):
            result[b] = math.nan
            continue
        for k in range(positions.shape[1]):
            x = np.float64(positions[b, k])
            result[b, k] = _invert(row, x)[2] if inverse else _evaluate(row, x)[2]
    return False


@jit
def _axis_map_backward(grad, knots, positions, inverse, grad_knots, grad_positions):
    if _decreases(knots):
        return True
    n = knots.shape[1]
    total = np.zeros((len(grad_knots), n))
    for b in range(len(positions)):
        i = b if len(knots) > 1 else 0
        row = knots[i]
        if _lost(knots, b):
            total[i], grad_positions[b] = math.nan, math.nan
            continue
        for k in range(positions.shape[1]):
            x, g = np.float64(positions[b, k]), np.float64(grad[b, k])
            piece, f, _ = _invert(row, x) if inverse else _evaluate(row, x)
            _pull_back(row, piece, f, inverse, g, total[i])
            rise = (np.float64(row[piece + 1]) - np.float64(row[piece])) * (n - 1)
            grad_positions[b, k] = g * (_slope(row, piece) if inverse else rise)
    grad_knots[:] = total
    return False


def axis_map(knots: Tensor, positions: Tensor, inverse: bool) -> Tensor:
    """T~ (or T~^-1) of `[1 or B, n]` knots at positions `[B, m]`, continued linearly past the ends."""
    result = knots.new_empty(positions.shape)
    _require_order(_axis_map(array(knots), array(positions), inverse, array(result)))
    return result


def axis_map_backward(grad: Tensor, knots: Tensor, positions: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """Gradients to knots and positions."""
    grad_knots = knots.new_empty(knots.shape)
    grad_positions = positions.new_empty(positions.shape)
    arrays = (array(t) for t in (grad, knots, positions))
    _require_order(_axis_map_backward(*arrays, inverse, array(grad_knots), array(grad_positions)))
    return grad_knots, grad_positions


# --- windows: what each target row and column reads -------------------------------------------------------------------


@inline
def _target(knots, k, extent, source, inverse):
    """Piece, fraction, centre, and whether target k moves with the knots and is inside their range."""
    x = k / (extent - 1) if extent > 1 else 0.5
    if inverse:
        first, last = np.float64(knots[0]), np.float64(knots[len(knots) - 1])
        inside = not (x < first or x > last)
        piece, f, t = _invert(knots, min(max(x, first), last))
    else:
        inside = True
        piece, f, t = _evaluate(knots, x)
    moving = inside and 0.0 <= t <= 1.0
    return piece, f, min(max(t, 0.0), 1.0) * (source - 1), moving, inside


@inline
def _spacing(centres, k, extent):
    if k == 0:
        return centres[1] - centres[0]
    if k == extent - 1:
        return centres[k] - centres[k - 1]
    return 0.5 * (centres[k + 1] - centres[k - 1])


@inline
def _axis_windows(knots, size, extent, source, inverse, antialias, border, centre, width):
    centre[:size] = 0
    width[:size] = 0
    if source == 0:
        return
    centres = np.empty(extent)
    for k in range(extent):
        _, _, c, _, inside = _target(knots, k, extent, source, inverse)
        centres[k] = c
        if inside or border:
            centre[k] = c
            width[k] = 1
    if antialias:
        for k in range(extent):
            if width[k] == 1:
                spacing = abs(_spacing(centres, k, extent)) if extent > 1 else source - 1.0
                if spacing > 1:
                    width[k] = spacing


@inline
def _axis_windows_backward(grad, knots, size, extent, source, inverse, antialias, border, row):
    if source == 0:
        return
    centres, by_centre = np.empty(extent), np.zeros(extent)
    reads = np.empty(extent, np.bool_)
    for k in range(extent):
        _, _, centres[k], _, inside = _target(knots, k, extent, source, inverse)
        reads[k] = inside or border
        if reads[k]:
            by_centre[k] = grad[0, k]
    if antialias and extent > 1:
        for k in range(extent):
            spacing = _spacing(centres, k, extent)
            if reads[k] and abs(spacing) > 1:
                low, high = max(k - 1, 0), min(k + 1, extent - 1)
                g = grad[1, k] * np.sign(spacing) / (high - low)
                by_centre[high] += g
                by_centre[low] -= g
    for k in range(extent):
        piece, f, _, moving, _ = _target(knots, k, extent, source, inverse)
        if moving:
            _pull_back(knots, piece, f, inverse, by_centre[k] * (source - 1), row)


@jit
def _windows(knots_y, knots_x, sizes, source_sizes, inverse, antialias, border, valid, source_valid, windows):
    if _decreases(knots_y) or _decreases(knots_x):
        return True
    for b in range(len(windows)):
        first, lost = 0, _lost(knots_y, b) or _lost(knots_x, b)
        for i in range(len(sizes)):
            level, axis = i // 2, i % 2
            knots = knots_y if axis == 0 else knots_x
            targets = extent(valid, b, level, axis, sizes[i])
            source = extent(source_valid, b, level, axis, source_sizes[i])
            centre, width = windows[b, 0, first : first + sizes[i]], windows[b, 1, first : first + sizes[i]]
            if lost:
                centre[:], width[:] = 0, 0
                if source > 0:
                    centre[:targets], width[:targets] = math.nan, 1
            else:
                row = knots[b if len(knots) > 1 else 0]
                _axis_windows(row, sizes[i], targets, source, inverse, antialias, border, centre, width)
            first += sizes[i]
    return False


@jit
def _windows_backward(
    grad, knots_y, knots_x, sizes, source_sizes, inverse, antialias, border, valid, source_valid, grad_y, grad_x
):
    total_y, total_x = np.zeros(grad_y.shape), np.zeros(grad_x.shape)
    for b in range(len(grad)):
        first, lost = 0, _lost(knots_y, b) or _lost(knots_x, b)
        for i in range(len(sizes)):
            level, axis = i // 2, i % 2
            knots = knots_y if axis == 0 else knots_x
            targets = extent(valid, b, level, axis, sizes[i])
            source = extent(source_valid, b, level, axis, source_sizes[i])
            which = b if len(knots) > 1 else 0
            row = total_y[which] if axis == 0 else total_x[which]
            part = grad[b, :, first : first + sizes[i]]
            if lost:
                row[:] = math.nan
            else:
                of_level = (knots[which], sizes[i], targets, source, inverse, antialias, border)
                _axis_windows_backward(part, *of_level, row)
            first += sizes[i]
    grad_y[:] = total_y
    grad_x[:] = total_x


def axis_windows(
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    antialias: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> Tensor:
    """Centres and half-widths `[B, 2, sum(sizes)]` in source pixels, for every row and column of every level."""
    arrays = (array(knots_y), array(knots_x), np.array(sizes), np.array(source_sizes))
    extents = (extents_array(valid), extents_array(source_valid))
    batch = common_batch(knots_y, knots_x, valid, source_valid)
    if batch == 0:
        return knots_y.new_empty((0, 2, sum(sizes)))
    windows = np.empty((batch, 2, sum(sizes)), arrays[0].dtype)  # becoming a tensor is faster than becoming an array
    _require_order(_windows(*arrays, inverse, antialias, border, *extents, windows))
    return torch.from_numpy(windows)


def axis_windows_backward(
    grad: Tensor,
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    antialias: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients to the knots of both axes."""
    grad_y, grad_x = grad.new_empty(knots_y.shape), grad.new_empty(knots_x.shape)
    arrays = (array(grad), array(knots_y), array(knots_x), np.array(sizes), np.array(source_sizes))
    options = (inverse, antialias, border, extents_array(valid), extents_array(source_valid))
    _windows_backward(*arrays, *options, array(grad_y), array(grad_x))
    return grad_y, grad_x
