"""The inner loops of a mesh's inverse and of its gradient: eight targets of a row at a time, all of them in one tile.

With d the target relative to corner A, X = ExF and t = dxG, the bilinear patch has |det J| = S, S^2 = (X + t)^2 -
4 (GxF) (dxE), and both coordinates follow in their stable form: g = -2 dxE / (X + t + S), f = 2 dxF / (X - t + S).
The homography has f = (1 + q) dxF / D, g = (1 + p) Exd / D, D = (1 + p)(1 + q) X - q (1 + p) Exd - p (1 + q) dxF. All
products are linear in the target, so that a run of targets needs one multiplication each.
"""

from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._mesh_tile import RIM, SINGULAR, Tile, add, cross, products, value_and_slopes
from fastwarp.kernels.cpu._parallel import inline
from fastwarp.kernels.cpu._rows import LANES
from fastwarp.kernels.cpu._vector import convert, full, lane, lane_numbers, load, load_as, select, sqrt, store


class Rows(NamedTuple):
    """What a tile owns: the targets `left[r - first] <= k < right[r - first]` of the rows r in first .. last. A row has
    `width` >= 8 targets. `at` is where the level lies among those of the image, `number` that of the tile."""

    left: Any
    right: Any
    first: Any
    last: Any
    width: Any
    at: Any
    number: Any


class Inverse(NamedTuple):
    """What the inverse of a tile needs, in the type that computes.

    `f`, `g` and `third` are linear functions of a target: the value at (column, row), by row, by column. The first two
    are the numerators of f and g; `third` is t, or the homography's D. A window of x is f * factor + origin, at most
    `last`, of y likewise.
    """

    has_homography: Any
    column: Any
    row: Any
    f: Any
    g: Any
    third: Any
    area: Any
    twice: Any
    factor: Any
    origin: Any
    last: Any


@inline
def _ends(rows, r):
    return int(rows.left[r - rows.first]), int(rows.right[r - rows.first])


@inline
def _three(values, real):
    return convert(values[0], real), convert(values[1], real), convert(values[2], real)


@inline
def _two(values, real):
    return convert(values[0], real), convert(values[1], real)


@inline
def inverse_of(tile, place, factor, last, real):
    """The `Inverse` of a tile in target units."""
    a, e, f, g, p, q, has_homography = tile
    column, row = np.floor(a[0]), np.floor(a[1])
    a = (a[0] - column, a[1] - row)
    area, twice, turn = cross(e, f), 2.0 * cross(g, f), 1.0
    if has_homography:
        across, along = 1.0 + q, -(1.0 + p)
    else:
        turn = 1.0 if area > 0 else -1.0
        across, along = 2.0 * turn, -2.0 * turn
    # d x v for d = (column, row) - a
    by_f = (-across * cross(a, f), -across * f[0], across * f[1])
    by_g = (-along * cross(a, e), -along * e[0], along * e[1])
    if has_homography:
        depth = (1.0 + p) * (1.0 + q) * area + (p * across * cross(a, f) + q * along * cross(a, e))
        third = (depth, p * across * f[0] + q * along * e[0], -p * across * f[1] - q * along * e[1])
    else:
        third = (-turn * cross(a, g), -turn * g[0], turn * g[1])
    area, twice = convert(turn * area, real), convert(turn * twice, real)
    linear = (_three(by_f, real), _three(by_g, real), _three(third, real))
    origin = (place[0] * factor[0], place[1] * factor[1])
    about = (_two(factor, real), _two(origin, real), _two(last, real))
    return Inverse(has_homography, int(column), int(row), *linear, area, twice, *about)


@inline
def _limited(value, low, high):
    value = select(value > low, value, low)
    return select(value < high, value, high)


@inline
def _inverse_windows(tile, k, starts):
    """What the targets k, k + 1, ... of a row read; `starts` has the linear functions at the tile's column."""
    real = tile.area
    offset = full(convert(k - tile.column, real), LANES) + lane_numbers(full(real, LANES))
    f, g = starts[0] + offset * tile.f[2], starts[1] + offset * tile.g[2]
    third = starts[2] + offset * tile.third[2]
    if tile.has_homography:
        scale = 1.0 / third
        f, g = f * scale, g * scale
    else:
        linear = third + real
        disc = linear * linear + g * tile.twice
        root = sqrt(select(disc > 0.0, disc, 0.0))
        f, g = f / ((real - third) + root), g / (linear + root)
    f, g = _limited(f, -RIM, 1.0 + RIM), _limited(g, -RIM, 1.0 + RIM)
    x, y = f * tile.factor[0] + tile.origin[0], g * tile.factor[1] + tile.origin[1]
    return _limited(x, 0.0, tile.last[0]), _limited(y, 0.0, tile.last[1])


@inline
def fill_rows(tile, rows, windows):
    """Writes what the targets of the rows that a tile owns read."""
    x, y, tiles = windows
    width = rows.width
    owner = full(np.int32(rows.number), LANES)
    for r in range(rows.first, rows.last):
        begin, end = _ends(rows, r)
        down, line = convert(r - tile.row, tile.area), rows.at + r * width
        starts = (
            full(tile.f[0] + down * tile.f[1], LANES),
            full(tile.g[0] + down * tile.g[1], LANES),
            full(tile.third[0] + down * tile.third[1], LANES),
        )
        if end - begin >= LANES:
            for block in range((end - begin + LANES - 1) // LANES):
                k = min(begin + block * LANES, end - LANES)
                to_x, to_y = _inverse_windows(tile, k, starts)
                store(to_x, x, line + k)
                store(to_y, y, line + k)
                store(owner, tiles, line + k)
        elif end > begin:
            # Eight targets of the same row, of which only the run changes.
            k = min(begin, width - LANES)
            every = full(k, LANES) + lane_numbers(full(k, LANES))
            inside = (every >= begin) & (every < end)
            to_x, to_y = _inverse_windows(tile, k, starts)
            old_x, old_y = load(x, line + k, LANES), load(y, line + k, LANES)
            store(select(inside, convert(to_x, old_x), old_x), x, line + k)
            store(select(inside, convert(to_y, old_y), old_y), y, line + k)
            store(select(inside, owner, load(tiles, line + k, LANES)), tiles, line + k)


class Patch(NamedTuple):
    """What the gradient of a tile needs: A, E, F, G and homography; for x and y its place, tiles per unit of a window,
    and the inverse of that."""

    tile: Any
    place: Any
    factor: Any
    pull: Any


@inline
def _terms(tile, f, g, grad_f, grad_g, inside):
    """What eight targets add to the sums of their tile: nothing where `inside` is off or the Jacobian singular."""
    f, g = select(inside, f, 0.0), select(inside, g, 0.0)
    value, by_f, by_g = value_and_slopes(tile, f, g)
    det = by_f[0] * by_g[1] - by_f[1] * by_g[0]
    size = (by_f[0] * by_f[0] + by_f[1] * by_f[1]) * (by_g[0] * by_g[0] + by_g[1] * by_g[1])
    inside = inside & (det * det > size * SINGULAR * SINGULAR)
    to_x = select(inside, (grad_g * by_f[1] - grad_f * by_g[1]) / det, 0.0)
    to_y = select(inside, (grad_f * by_g[0] - grad_g * by_f[0]) / det, 0.0)
    return products(tile, value, f, g, to_x, to_y)


@inline
def _sum_rows(kind, patch, rows, grad_x, grad_y, windows, sums):
    of = patch.tile
    tile = Tile(of.a, of.e, of.f, of.g, of.p, of.q, len(kind) > 0)
    x, y, tiles = windows
    zero, width = full(0.0, LANES), rows.width
    totals = (zero, zero, zero, zero, zero, zero, zero, zero)
    for r in range(rows.first, rows.last):
        begin, end = _ends(rows, r)
        line = rows.at + r * width
        for block in range((end - begin + LANES - 1) // LANES):
            # Eight targets of the same row, of which those from `wanted` on count.
            wanted = begin + block * LANES
            k = min(wanted, width - LANES)
            every = full(k, LANES) + lane_numbers(full(k, LANES))
            inside = (every >= wanted) & (every < end) & (load(tiles, line + k, LANES) == np.int32(rows.number))
            f = load_as(x, line + k, zero) * patch.factor[0] - patch.place[0]
            g = load_as(y, line + k, zero) * patch.factor[1] - patch.place[1]
            grad_f = load_as(grad_x, line + k, zero) * patch.pull[0]
            grad_g = load_as(grad_y, line + k, zero) * patch.pull[1]
            totals = add(totals, _terms(tile, f, g, grad_f, grad_g, inside))
    a, b, c, d, e, f, g, h = totals
    for i in range(LANES):
        of_lane = (lane(a, i), lane(b, i), lane(c, i), lane(d, i), lane(e, i), lane(f, i), lane(g, i), lane(h, i))
        sums = add(sums, of_lane)
    return sums


@inline
def sum_tile_rows(patch, *of_tile):
    """Adds the products of the targets of the rows that a tile owns to its eight sums. Arguments: the rows, gradients
    to x and y, the windows, the sums."""
    # The kind of tile is a type, so that there are two loops: one that asks in each round takes a third longer.
    if patch.tile.has_homography:
        return _sum_rows((True,), patch, *of_tile)
    return _sum_rows((), patch, *of_tile)
