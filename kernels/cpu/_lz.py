"""Saliency -> knots and saliency -> mesh (LZU eq. 1 to 4): cells attract each other by a Gaussian of their distance.

All arithmetic is float64. The knots of an axis are sequential; a mesh sums over a Gaussian that is a product of its
factors in y and x.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fastwarp.kernels.cpu._memory import array, clear, doubles
from fastwarp.kernels.cpu._parallel import inline, jit, parallel, run
from fastwarp.kernels.cpu._vector import elements, hold, tail

_FLOOR = 1e-6  # uniform saliency added to every map, relative to its mean
_TINY = 2.0**-962  # uniform saliency of an all-zero map


# --- saliency -> knots (LZU eq. 3 and 4) ------------------------------------------------------------------------------


class Attraction(NamedTuple):
    """How strongly cells attract each other by their distance, from 0 to `radius`; the sum over both directions; how
    the axis of n cells is padded."""

    weight: Any
    radius: Any
    total: Any
    n: Any
    anti_crop: Any


@inline
def attraction(n, radius, fwhm, anti_crop, weight):
    """The `Attraction` of an axis; `weight` is room for `radius + 1` numbers."""
    total = 0.0
    for d in range(radius + 1):
        weight[d] = math.exp(-4.0 * math.log(2.0) * d * d / (fwhm * fwhm))
        total += weight[d]
    return Attraction(weight, radius, 2.0 * total - weight[0], n, anti_crop)


@inline
def _fold(i, axis):
    """Cell that the padded marginal repeats at position i."""
    if axis.anti_crop:
        i = abs(i)
        return i if i < axis.n else 2 * (axis.n - 1) - i
    return min(max(i, 0), axis.n - 1)


@inline
def _pull(marginal, i, axis, floor):
    """Numerator (relative to cell i) and denominator of T at cell i. Paired, so that reflected ends give exactly 0."""
    weight = axis.weight
    above, below = 0.0, weight[0] * marginal[i] + floor
    for d in range(1, axis.radius + 1):
        right, left = marginal[_fold(i + d, axis)], marginal[_fold(i - d, axis)]
        above += weight[d] * d * (right - left)
        below += weight[d] * (right + left)
    return above, below


@inline
def _total(values, count):
    total = 0.0
    for i in range(count):
        total += values[i]
    return total


@inline
def knots_of(marginal, axis, knots):
    """The knots of one image."""
    n = axis.n
    floor = max(_FLOOR * _total(marginal, n) / n, _TINY) * axis.total
    for i in range(n):
        above, below = _pull(marginal, i, axis, floor)
        t = (i + above / below) / (n - 1)
        knots[i] = t if math.isnan(t) else min(max(t, 0.0), 1.0)


@inline
def pull_knots(grad, marginal, axis, result):
    """Gradient of the knots of one image to its marginal."""
    weight, n = axis.weight, axis.n
    mean = _total(marginal, n) / n
    clear(result, n)
    if _FLOOR * mean <= _TINY:  # an all-zero map: T has no derivative there
        return
    floor, by_floor = _FLOOR * mean * axis.total, 0.0
    for i in range(n):
        above, below = _pull(marginal, i, axis, floor)
        shift = above / below
        t = (i + shift) / (n - 1)
        if t < 0 or t > 1:
            continue
        g = grad[i] / (below * (n - 1))
        result[i] -= g * weight[0] * shift
        by_floor -= g * shift
        for d in range(1, axis.radius + 1):
            result[_fold(i + d, axis)] += g * weight[d] * (d - shift)
            result[_fold(i - d, axis)] += g * weight[d] * (-d - shift)
    for i in range(n):
        result[i] += by_floor * axis.total * _FLOOR / n


@inline
def _marginal(saliency, n, cells, marginal):
    """Sums of the rows of a map `[n, cells]`."""
    for i in range(n):
        total = 0.0
        for r in range(cells):
            value = np.float64(saliency[i * cells + r])
            if not value < 0:  # NaN counts
                total += value
        marginal[i] = total


@jit
def _lz_knots(saliency, radius, fwhm, anti_crop, knots):
    _, n, cells = saliency.shape
    memory = doubles(n + radius + 1)
    marginal = elements(memory)
    axis = attraction(n, radius, fwhm, anti_crop, tail(memory, n))
    for b in range(len(knots)):
        _marginal(tail(saliency, b * n * cells), n, cells, marginal)
        knots_of(marginal, axis, tail(knots, b * n))
    hold(memory)


@jit
def _lz_knots_backward(grad, saliency, radius, fwhm, anti_crop, result):
    _, n, cells = saliency.shape
    memory = doubles(2 * n + radius + 1)
    marginal, row = elements(memory), tail(memory, n)
    axis = attraction(n, radius, fwhm, anti_crop, tail(row, n))
    for b in range(len(grad)):
        _marginal(tail(saliency, b * n * cells), n, cells, marginal)
        pull_knots(tail(grad, b * n), marginal, axis, row)
        of_image = tail(result, b * n)
        for i in range(n):
            of_image[i] = row[i]
    hold(memory)


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


# --- saliency -> mesh, LZU eq. 1 and 2 --------------------------------------------------------------------------------
# Sums over a Gaussian, which is a product of its factors in y and x.


class Matrices(NamedTuple):
    """What the cells of an axis give to each other over all their copies in the padding, `[n, n]`: weights and weights
    times distance, by the cell that gets and by the cell that gives."""

    weight: Any
    pull: Any
    weight_by: Any
    pull_by: Any
    n: Any


@inline
def _matrices(n, radius, fwhm, anti_crop, room):
    """The `Matrices` of an axis; `room` is for `4 n n` numbers and `radius + 1`."""
    size = n * n
    axis = attraction(n, radius, fwhm, anti_crop, tail(room, 4 * size))
    weight, pull, weight_by, pull_by = room, tail(room, size), tail(room, 2 * size), tail(room, 3 * size)
    clear(room, 4 * size)
    for i in range(n):
        for d in range(-radius, radius + 1):
            j = _fold(i + d, axis)
            weight[i * n + j] += axis.weight[abs(d)]
            pull[i * n + j] += d * axis.weight[abs(d)]
    for i in range(n):
        for j in range(n):
            weight_by[j * n + i], pull_by[j * n + i] = weight[i * n + j], pull[i * n + j]
    return Matrices(weight, pull, weight_by, pull_by, n)


@inline
def _matrices_of(shape, fwhm, anti_crop, room):
    """Of the rows and of the columns of maps `[B, h, w]`."""
    _, h, w = shape
    radius = min(h, w) - 1
    rows = _matrices(h, radius, fwhm, anti_crop, room)
    return rows, _matrices(w, radius, fwhm, anti_crop, tail(room, _room(h, radius)))


@inline
def _room(n, radius):
    return 4 * n * n + radius + 1


@inline
def _room_of_both(shape):
    radius = min(shape[1], shape[2]) - 1
    return _room(shape[1], radius) + _room(shape[2], radius)


@inline
def _add_product(a, b, rows, inner, columns, result):
    """`result += a @ b`, in an order whose inner loop is a vector's."""
    for i in range(rows):
        into = tail(result, i * columns)
        for k in range(inner):
            factor, row = a[i * inner + k], tail(b, k * columns)
            for j in range(columns):
                into[j] += factor * row[j]


@inline
def _set_product(a, b, rows, inner, columns, result):
    for n in range(rows * columns):
        result[n] = 0
    _add_product(a, b, rows, inner, columns, result)


class Maps(NamedTuple):
    """Working maps `[h, w]`: sums of the weights around each cell, by how many cells it is pulled along x and y; two
    for what comes between; the gradients to x, to y and to the weights."""

    weights: Any
    x: Any
    y: Any
    mass: Any
    rows: Any
    by_x: Any
    by_y: Any
    by_weight: Any


_MAPS = 8


@inline
def _maps(memory, size):
    first = memory, tail(memory, size), tail(memory, 2 * size), tail(memory, 3 * size)
    return Maps(*first, tail(memory, 4 * size), tail(memory, 5 * size), tail(memory, 6 * size), tail(memory, 7 * size))


@inline
def _attract(saliency, rows, columns, maps):
    """Fills `weights`, `x` and `y`; returns whether the map has a derivative."""
    h, w = rows.n, columns.n
    total = 0.0
    for n in range(h * w):
        value = np.float64(saliency[n])
        maps.mass[n] = max(value, 0.0) if value == value else value
        total += maps.mass[n]
    floor = _FLOOR * total / (h * w)
    above = not floor <= _TINY
    for n in range(h * w):
        maps.mass[n] += floor if above else _TINY
    _set_product(maps.mass, columns.pull_by, h, w, w, maps.rows)
    _set_product(rows.weight, maps.rows, h, h, w, maps.x)
    _set_product(maps.mass, columns.weight_by, h, w, w, maps.rows)
    _set_product(rows.weight, maps.rows, h, h, w, maps.weights)
    _set_product(rows.pull, maps.rows, h, h, w, maps.y)
    for n in range(h * w):
        maps.x[n] /= maps.weights[n]
        maps.y[n] /= maps.weights[n]
    return above


@inline
def _write_mesh(maps, h, w, anti_crop, mesh):
    for i in range(h):
        for j in range(w):
            n = i * w + j
            u, v = (j + maps.x[n]) / (w - 1), (i + maps.y[n]) / (h - 1)
            if anti_crop:  # the outline stays exactly where it is
                u = j / (w - 1) if (j == 0 or j == w - 1) and u == u else u
                v = i / (h - 1) if (i == 0 or i == h - 1) and v == v else v
            mesh[2 * n] = min(max(u, 0.0), 1.0) if u == u else u
            mesh[2 * n + 1] = min(max(v, 0.0), 1.0) if v == v else v


@parallel
def _lz_mesh(saliency, fwhm, anti_crop, mesh, part, parts):
    """Mesh `[B, h, w, 2]`, images shared out."""
    batch, h, w = saliency.shape
    memory = doubles(_room_of_both(saliency.shape) + _MAPS * h * w)
    rows, columns = _matrices_of(saliency.shape, fwhm, anti_crop, elements(memory))
    maps = _maps(tail(memory, _room_of_both(saliency.shape)), h * w)
    for b in range(part * batch // parts, (part + 1) * batch // parts):
        _attract(tail(saliency, b * h * w), rows, columns, maps)
        _write_mesh(maps, h, w, anti_crop, tail(mesh, 2 * b * h * w))
    hold(memory)


@inline
def _pull_mesh(grad, maps, h, w):
    """From the gradient to a mesh those to x, y and the weights."""
    for i in range(h):
        for j in range(w):
            n = i * w + j
            u, v = (j + maps.x[n]) / (w - 1), (i + maps.y[n]) / (h - 1)
            maps.by_x[n] = 0.0 if u < 0 or u > 1 else grad[2 * n] / ((w - 1) * maps.weights[n])
            maps.by_y[n] = 0.0 if v < 0 or v > 1 else grad[2 * n + 1] / ((h - 1) * maps.weights[n])
            maps.by_weight[n] = -maps.by_x[n] * maps.x[n] - maps.by_y[n] * maps.y[n]


@inline
def _pull_saliency(saliency, rows, columns, maps, above, result):
    """From the gradients to x, y and the weights that to the saliency."""
    h, w = rows.n, columns.n
    by_mass, between = maps.mass, maps.rows
    _set_product(rows.weight_by, maps.by_x, h, h, w, between)
    _set_product(between, columns.pull, h, w, w, by_mass)
    _set_product(rows.weight_by, maps.by_weight, h, h, w, between)
    _add_product(rows.pull_by, maps.by_y, h, h, w, between)
    _add_product(between, columns.weight, h, w, w, by_mass)
    total = 0.0
    for n in range(h * w):
        total += by_mass[n]
    share = _FLOOR * total / (h * w)
    for n in range(h * w):
        result[n] = by_mass[n] + share if above and not saliency[n] < 0 else 0.0


@parallel
def _lz_mesh_backward(grad, saliency, fwhm, anti_crop, result, part, parts):
    """Gradient to the saliency, images shared out."""
    batch, h, w = saliency.shape
    memory = doubles(_room_of_both(saliency.shape) + _MAPS * h * w)
    rows, columns = _matrices_of(saliency.shape, fwhm, anti_crop, elements(memory))
    maps = _maps(tail(memory, _room_of_both(saliency.shape)), h * w)
    for b in range(part * batch // parts, (part + 1) * batch // parts):
        one = tail(saliency, b * h * w)
        above = _attract(one, rows, columns, maps)
        _pull_mesh(tail(grad, 2 * b * h * w), maps, h, w)
        _pull_saliency(one, rows, columns, maps, above, tail(result, b * h * w))
    hold(memory)


def _lz_work(saliency: Tensor) -> int:
    """Of all images, in values: what each cell gives to its row and its column, three times."""
    return 3 * saliency.numel() * (saliency.shape[1] + saliency.shape[2])


def lz_mesh(saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    """Saliency `[B, h, w]` -> mesh `[B, h, w, 2]`; computed in float64, rounded once."""
    mesh = saliency.new_empty((*saliency.shape, 2))
    run(_lz_mesh, (array(saliency), fwhm, anti_crop, array(mesh)), _lz_work(saliency))
    return mesh


def lz_mesh_backward(grad: Tensor, saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    """Gradient to the saliency `[B, h, w]`."""
    result = saliency.new_empty(saliency.shape)
    run(_lz_mesh_backward, (array(grad), array(saliency), fwhm, anti_crop, array(result)), 2 * _lz_work(saliency))
    return result
