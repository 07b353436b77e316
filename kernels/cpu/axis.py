"""numba kernels of the `axis` family: evaluation and inverse of T~, windows (saliency -> knots: `_lz`).

All arithmetic is float64 and sequential: the vectors hold tens to thousands of values.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastwarp.errors import FastwarpError
from fastwarp.kernels.cpu._levels import axis_of, level_count, shapes_of
from fastwarp.kernels.cpu._lz import lz_knots, lz_knots_backward
from fastwarp.kernels.cpu._memory import array, clear, doubles
from fastwarp.kernels.cpu._parallel import inline, jit
from fastwarp.kernels.cpu._vector import elements, hold, tail
from fastwarp.kernels.layout import common_batch

__all__ = [
    "axis_map",
    "axis_map_backward",
    "axis_windows",
    "axis_windows_backward",
    "lz_knots",
    "lz_knots_backward",
    "windows_to_resample",
]


# --- T~ and its inverse (LZU eq. 5 and 7) -----------------------------------------------------------------------------


class Knots(NamedTuple):
    """The n knots of an axis of one image; whether one is NaN: then everything of the image is."""

    values: Any
    n: Any
    is_lost: Any


@inline
def _knots_of(knots, b):
    """The `Knots` of entry b of a batch `[1 or B, n]`."""
    n = knots.shape[1]
    values, is_lost = tail(knots, n * (b if len(knots) > 1 else 0)), False
    for i in range(n):
        is_lost |= math.isnan(values[i])
    return Knots(values, n, is_lost)


@inline
def _knot(knots, i):
    return np.float64(knots.values[i])


@inline
def _count_below(knots, x, equal):
    """Inner knots < x, or <= x where `equal`: the index of a piece. NaN counts none."""
    low, high = 1, knots.n - 1
    while low < high:
        middle = (low + high) // 2
        knot = _knot(knots, middle)
        if knot < x or (equal and knot == x):
            low = middle + 1
        else:
            high = middle
    return low - 1


@inline
def _evaluate(knots, u):
    """Piece, fraction and value of T~(u)."""
    position = u * (knots.n - 1)
    piece = int(min(max(math.floor(position), 0.0), knots.n - 2.0)) if position == position else 0
    f = position - piece
    return piece, f, (1.0 - f) * _knot(knots, piece) + f * _knot(knots, piece + 1)


@inline
def _invert(knots, x):
    """Piece, fraction and value of T~^-1(x). Of equal knots the piece towards the inside is taken."""
    last = _knot(knots, knots.n - 1)
    is_last = x >= last
    piece = _count_below(knots, last if is_last else max(x, _knot(knots, 0)), not is_last)
    start = _knot(knots, piece)
    delta = _knot(knots, piece + 1) - start
    f = 0.0 if delta == 0 else (x - start) / delta
    return piece, f, (piece + f) / (knots.n - 1)


@inline
def _slope(knots, piece):
    """1 / (knots per unit), the derivative of T~^-1 on a piece; 0 where the piece has no extent."""
    delta = _knot(knots, piece + 1) - _knot(knots, piece)
    return 0.0 if delta == 0 else 1.0 / ((knots.n - 1) * delta)


@inline
def _pull_back(knots, piece, f, inverse, grad, row):
    """Adds the gradient of a value of T~ (T~^-1) to the two knots it was made from."""
    scale = -_slope(knots, piece) * grad if inverse else grad
    row[piece] += (1.0 - f) * scale
    row[piece + 1] += f * scale


@inline
def _decreases(knots):
    n = knots.shape[1]
    for b in range(len(knots)):
        values = tail(knots, n * b)
        for i in range(1, n):
            if values[i] < values[i - 1]:
                return True
    return False


def _require_order(decreases: bool) -> None:
    if decreases:
        raise FastwarpError("knots decrease somewhere, expected knots that never do; SeparableWarp.check() tells where")


@jit
def _axis_map(all_knots, positions, inverse, result):
    if _decreases(all_knots):
        return True
    count = positions.shape[1]
    for b in range(len(positions)):
        knots, given, mapped = _knots_of(all_knots, b), tail(positions, b * count), tail(result, b * count)
        for k in range(count):
            x = np.float64(given[k])
            _, _, value = _invert(knots, x) if inverse else _evaluate(knots, x)
            mapped[k] = math.nan if knots.is_lost else value
    return False


@jit
def _axis_map_backward(grad, all_knots, positions, inverse, grad_knots, grad_positions):
    if _decreases(all_knots):
        return True
    n, rows, count = all_knots.shape[1], len(grad_knots), positions.shape[1]
    total = doubles(rows * n)
    clear(total, rows * n)
    for b in range(len(positions)):
        knots, row = _knots_of(all_knots, b), tail(total, n * (b if rows > 1 else 0))
        given, of_mapped, of_given = tail(positions, b * count), tail(grad, b * count), tail(grad_positions, b * count)
        for k in range(count):
            x, g = np.float64(given[k]), np.float64(of_mapped[k])
            piece, f, _ = _invert(knots, x) if inverse else _evaluate(knots, x)
            _pull_back(knots, piece, f, inverse, g, row)
            rise = (_knot(knots, piece + 1) - _knot(knots, piece)) * (n - 1)
            slope = _slope(knots, piece) if inverse else rise
            of_given[k] = math.nan if knots.is_lost else g * slope
        _lose(row, knots)
    to_knots = elements(grad_knots)
    for i in range(rows * n):
        to_knots[i] = total[i]
    hold(total)
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


class Axis(NamedTuple):
    """An axis of a level of one image: all targets; the targets, and the pixels of the source, that are no padding;
    whether it is an unzoom, is antialiased, and whether targets beyond the knots read the border."""

    size: Any
    extent: Any
    source: Any
    inverse: Any
    antialias: Any
    border: Any


@inline
def _target(knots, k, axis):
    """Piece, fraction, centre, and whether target k moves with the knots and is inside their range."""
    x, inside = (k / (axis.extent - 1) if axis.extent > 1 else 0.5), True
    if axis.inverse:
        first, last = _knot(knots, 0), _knot(knots, knots.n - 1)
        inside = not (x < first or x > last)
        piece, f, t = _invert(knots, min(max(x, first), last))
    else:
        piece, f, t = _evaluate(knots, x)
    moving = inside and 0.0 <= t <= 1.0
    return piece, f, min(max(t, 0.0), 1.0) * (axis.source - 1), moving, inside


@inline
def _neighbours(k, axis):
    """The targets whose distance is that of target k from the next ones."""
    return max(k - 1, 0), min(k + 1, axis.extent - 1)


@inline
def _spacing(centres, k, axis):
    """The distance of the centres of target k from those of the next ones."""
    low, high = _neighbours(k, axis)
    return (centres[high] - centres[low]) / max(high - low, 1)


@inline
def _fill_windows(knots, axis, centres, centre, width):
    """The windows of an axis; `centres` is room for those of all targets."""
    for k in range(axis.size):
        centre[k], width[k] = 0, 0
    if axis.source == 0:
        return
    for k in range(axis.extent):
        _, _, centres[k], _, inside = _target(knots, k, axis)
        if inside or axis.border:
            centre[k], width[k] = centres[k], 1
        if knots.is_lost:
            centre[k], width[k] = math.nan, 1
    for k in range(axis.extent if axis.antialias and not knots.is_lost else 0):
        spacing = abs(_spacing(centres, k, axis)) if axis.extent > 1 else axis.source - 1.0
        if width[k] == 1 and spacing > 1:
            width[k] = spacing


@inline
def _pull_windows(by_centre, by_width, knots, axis, room, row):
    """Adds the gradient of the windows of an axis to that of its knots; `room` is for two numbers a target."""
    if axis.source == 0:
        return
    centres, total = room, tail(room, axis.extent)
    for k in range(axis.extent):
        _, _, centres[k], _, inside = _target(knots, k, axis)
        total[k] = by_centre[k] if inside or axis.border else 0
    for k in range(axis.extent if axis.antialias and axis.extent > 1 else 0):
        spacing = _spacing(centres, k, axis)
        if abs(spacing) > 1:
            _, _, _, _, inside = _target(knots, k, axis)
            low, high = _neighbours(k, axis)
            g = by_width[k] * math.copysign(1.0, spacing) / (high - low)
            if inside or axis.border:
                total[high] += g
                total[low] -= g
    for k in range(axis.extent):
        piece, f, _, moving, _ = _target(knots, k, axis)
        if moving:
            _pull_back(knots, piece, f, axis.inverse, total[k] * (axis.source - 1), row)


@inline
def _lose(row, knots):
    """Makes the gradient of knots NaN where one of them is."""
    for i in range(knots.n if knots.is_lost else 0):
        row[i] = math.nan


@inline
def _axis(b, i, shapes, inverse, antialias, border):
    """The `Axis` of entry b of a batch: y and x of the levels in turn."""
    size, reads, source = axis_of(b, i, shapes)
    return Axis(size, reads, source, inverse, antialias, border)


@jit
def _windows(knots_y, knots_x, shapes, inverse, antialias, border, windows):
    if _decreases(knots_y) or _decreases(knots_x):
        return True
    count = windows.shape[2]
    room = doubles(count)
    for b in range(len(windows)):
        y, x = _knots_of(knots_y, b), _knots_of(knots_x, b)
        is_lost, first = y.is_lost or x.is_lost, 2 * b * count
        for i in range(2 * level_count(shapes)):
            of_axis, axis = (x if i % 2 else y), _axis(b, i, shapes, inverse, antialias, border)
            knots = Knots(of_axis.values, of_axis.n, is_lost)
            _fill_windows(knots, axis, elements(room), tail(windows, first), tail(windows, first + count))
            first += axis.size
    hold(room)
    return False


@jit
def _windows_backward(grad, knots_y, knots_x, shapes, inverse, antialias, border, grad_y, grad_x):
    count = grad.shape[2]
    of_y, of_x = grad_y.size, grad_x.size
    memory = doubles(of_y + of_x + 2 * count)
    clear(memory, of_y + of_x)
    room = tail(memory, of_y + of_x)
    for b in range(len(grad)):
        y, x = _knots_of(knots_y, b), _knots_of(knots_x, b)
        row_y, row_x = y.n * (b if len(grad_y) > 1 else 0), of_y + x.n * (b if len(grad_x) > 1 else 0)
        is_lost, first = y.is_lost or x.is_lost, 2 * b * count
        for i in range(2 * level_count(shapes)):
            of_axis, row = (x if i % 2 else y), tail(memory, row_x if i % 2 else row_y)
            axis = _axis(b, i, shapes, inverse, antialias, border)
            knots = Knots(of_axis.values, of_axis.n, is_lost)
            by_centre, by_width = tail(grad, first), tail(grad, first + count)
            _pull_windows(by_centre, by_width, knots, axis, room, row)
            _lose(row, knots)
            first += axis.size
    to_y, to_x = elements(grad_y), elements(grad_x)
    for i in range(of_y):
        to_y[i] = memory[i]
    for i in range(of_x):
        to_x[i] = memory[of_y + i]
    hold(memory)


def windows_to_resample(
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    antialias: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> np.ndarray:
    """Centres and half-widths `[B, 2, sum(sizes)]` in source pixels, for every row and column of every level.

    An array, which `resample` takes: to become a tensor and an array again would take as long as a small level.
    """
    y, x = array(knots_y), array(knots_x)
    batch = common_batch(knots_y, knots_x, valid, source_valid)
    windows = np.empty((batch, 2, sum(sizes)), y.dtype)
    if batch:
        shapes = shapes_of(sizes, source_sizes, valid, source_valid)
        _require_order(_windows(y, x, shapes, inverse, antialias, border, windows))
    return windows


def axis_windows(knots_y: Tensor, knots_x: Tensor, *about: Any) -> Tensor:
    """`windows_to_resample` as a tensor."""
    windows = windows_to_resample(knots_y, knots_x, *about)
    return torch.from_numpy(windows) if len(windows) else knots_y.new_empty(windows.shape)


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
    args = (array(grad), array(knots_y), array(knots_x), shapes_of(sizes, source_sizes, valid, source_valid))
    _windows_backward(*args, inverse, antialias, border, array(grad_y), array(grad_x))
    return grad_y, grad_x
