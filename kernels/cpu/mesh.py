"""Launchers of the `mesh` family: T~ through a quad mesh and its inverse, on grids of targets and at points; and the
mesh of a saliency.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.cpu import _mesh_backward as backward
from fastwarp.kernels.cpu import _mesh_forward as zoom
from fastwarp.kernels.cpu import _mesh_inverse as unzoom
from fastwarp.kernels.cpu import _mesh_points as at_points
from fastwarp.kernels.cpu._memory import array, doubles, empty, extents_array
from fastwarp.kernels.cpu._parallel import inline, parallel, run
from fastwarp.kernels.cpu._vector import elements, hold, tail
from fastwarp.kernels.layout import common_batch

__all__ = ["lz_mesh", "lz_mesh_backward", "map", "map_backward", "positions", "positions_backward"]

# Costs in values: of a target, of a tile that has targets, of a point.
_WORK = 4
_INVERSE_WORK = 8
_TILE_WORK = 300
_BACKWARD_WORK = 32
_POINT_WORK = 100


def _real(dtype: torch.dtype) -> np.ndarray:
    return np.zeros(1, np.float64 if dtype == torch.float64 else np.float32)


def positions(
    mesh: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    homography: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """What each target reads, in source pixels `[B, 2, P]` (-1: nothing), and its tile `[B, P]` (-1: none)."""
    batch = common_batch(mesh, valid, source_valid)
    count = sum(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))
    windows = empty((batch, 2, count), mesh.dtype, torch.contiguous_format)
    tiles = empty((batch, count), torch.int32, torch.contiguous_format)
    if not tiles.numel():
        return windows, tiles
    shapes = (np.array(sizes, np.int64), np.array(source_sizes, np.int64))
    extents = (extents_array(valid), extents_array(source_valid))
    results = (array(windows), array(tiles))
    if inverse:
        count = (mesh.shape[1] - 1) * (mesh.shape[2] - 1)
        areas = (h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))
        costs = np.array([_INVERSE_WORK * area + _TILE_WORK * min(area, count) + 1 for area in areas])
        options = (costs, homography, border, *extents, _real(mesh.dtype))
        run(unzoom.inverse, (array(mesh), *shapes, *options, *results), batch * int(costs.sum()))
    else:
        run(zoom.forward, (array(mesh), *shapes, homography, *extents, *results), _WORK * tiles.numel())
    return windows, tiles


def positions_backward(
    grad: Tensor,
    mesh: Tensor,
    windows: Tensor,
    tiles: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    homography: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> Tensor:
    """Gradient to the mesh. Bitwise the same for every number of threads."""
    result = mesh.new_empty(mesh.shape)
    by_tile = np.zeros((len(mesh), mesh.shape[1] - 1, mesh.shape[2] - 1, 4, 2))
    if tiles.numel():
        tensors = (array(t) for t in (grad, mesh, windows, tiles))
        shapes = (np.array(sizes, np.int64), np.array(source_sizes, np.int64))
        options = (inverse, homography, extents_array(valid), extents_array(source_valid))
        run(backward.backward, (*tensors, *shapes, *options, by_tile), _BACKWARD_WORK * tiles.numel())
    backward.sum_vertices(by_tile, array(result))
    return result


def map(mesh: Tensor, points: Tensor, inverse: bool, homography: bool) -> tuple[Tensor, Tensor]:
    """T~ or T~^-1 at normalised positions `[1 or B, N, 2]`, continued past the outline, and the tiles `[B, N]`."""
    batch, count = common_batch(mesh, points), points.shape[1]
    mapped = mesh.new_empty((batch, count, 2))
    tiles = mesh.new_empty((batch, count), dtype=torch.int32)
    if tiles.numel():
        args = (array(mesh), array(points), inverse, homography, array(mapped), array(tiles))
        run(at_points.map_points, args, _POINT_WORK * tiles.numel())
    return mapped, tiles


def map_backward(
    grad: Tensor, mesh: Tensor, points: Tensor, mapped: Tensor, tiles: Tensor, inverse: bool, homography: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to mesh and points. Bitwise the same for every number of threads."""
    grad_mesh, grad_points = mesh.new_empty(mesh.shape), points.new_empty(points.shape)
    if not tiles.numel():
        return grad_mesh.zero_(), grad_points
    args = (*(array(t) for t in (grad, mesh, points, mapped, tiles)), inverse, homography)
    work = _POINT_WORK * tiles.numel()
    run(at_points.points_backward, (*args, array(grad_points)), work)
    run(at_points.mesh_backward, (*args, array(grad_mesh)), work)
    return grad_mesh, grad_points


# --- saliency -> mesh, LZU eq. 1 and 2 --------------------------------------------------------------------------------
# Sums over a Gaussian, which is a product of its factors in y and x.

_FLOOR = 1e-6  # uniform saliency added to a map, relative to its mean
_TINY = 2.0**-962  # the same of an all-zero map


class Attraction(NamedTuple):
    """What the cells of an axis give to each other over all their copies in the padding, `[n, n]`: weights and weights
    times distance, by the cell that gets and by the cell that gives."""

    weight: Any
    pull: Any
    weight_by: Any
    pull_by: Any
    n: Any


@inline
def _attraction(n, radius, fwhm, anti_crop, room):
    """Fills an `Attraction`; `room` is for `4 n n` numbers and `radius + 1`."""
    size = n * n
    kernel = tail(room, 4 * size)
    for d in range(radius + 1):
        kernel[d] = 2.0 ** (-4 * (d / fwhm) ** 2)
    weight, pull, weight_by, pull_by = room, tail(room, size), tail(room, 2 * size), tail(room, 3 * size)
    for k in range(4 * size):
        room[k] = 0
    for i in range(n):
        for d in range(-radius, radius + 1):
            j = i + d
            if anti_crop:
                j = abs(j)
                j = 2 * (n - 1) - j if j > n - 1 else j
            else:
                j = min(max(j, 0), n - 1)
            weight[i * n + j] += kernel[abs(d)]
            pull[i * n + j] += d * kernel[abs(d)]
    for i in range(n):
        for j in range(n):
            weight_by[j * n + i], pull_by[j * n + i] = weight[i * n + j], pull[i * n + j]
    return Attraction(weight, pull, weight_by, pull_by, n)


@inline
def _attractions(shape, fwhm, anti_crop, room):
    """Of the rows and of the columns of maps `[B, h, w]`."""
    _, h, w = shape
    radius = min(h, w) - 1
    rows = _attraction(h, radius, fwhm, anti_crop, room)
    return rows, _attraction(w, radius, fwhm, anti_crop, tail(room, _room(h, radius)))


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
    rows, columns = _attractions(saliency.shape, fwhm, anti_crop, elements(memory))
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
    rows, columns = _attractions(saliency.shape, fwhm, anti_crop, elements(memory))
    maps = _maps(tail(memory, _room_of_both(saliency.shape)), h * w)
    for b in range(part * batch // parts, (part + 1) * batch // parts):
        one = tail(saliency, b * h * w)
        above = _attract(one, rows, columns, maps)
        _pull_mesh(tail(grad, 2 * b * h * w), maps, h, w)
        _pull_saliency(one, rows, columns, maps, above, tail(result, b * h * w))
    hold(memory)


def _work(saliency: Tensor) -> int:
    """Of all images, in values: what each cell gives to its row and its column, three times."""
    return 3 * saliency.numel() * (saliency.shape[1] + saliency.shape[2])


def lz_mesh(saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    """Saliency `[B, h, w]` -> mesh `[B, h, w, 2]`; computed in float64, rounded once."""
    mesh = saliency.new_empty((*saliency.shape, 2))
    run(_lz_mesh, (array(saliency), fwhm, anti_crop, array(mesh)), _work(saliency))
    return mesh


def lz_mesh_backward(grad: Tensor, saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    """Gradient to the saliency `[B, h, w]`."""
    result = saliency.new_empty(saliency.shape)
    run(_lz_mesh_backward, (array(grad), array(saliency), fwhm, anti_crop, array(result)), 2 * _work(saliency))
    return result
