"""T~ and T~^-1 at points, and their gradients."""

import math
from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._memory import clear, doubles, integers, small_integers
from fastwarp.kernels.cpu._mesh_owners import vertices, winding
from fastwarp.kernels.cpu._mesh_tile import (
    UNIT,
    Mesh,
    add,
    cross,
    is_lost,
    is_singular,
    load_sums,
    mesh_of,
    products,
    pull_inverse,
    quad,
    solve,
    store_sums,
    tile_of,
    to_corners,
    to_vertices,
    value_and_slopes,
)
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._vector import elements, hold, tail

_SOLVED = 1e-9  # a preimage outside of the mesh may miss its point by this, in tiles


@inline
def _tile_at(x, n):
    """Tile of an axis of n vertices that a position in tiles is in; the end tiles continue."""
    return int(min(max(np.floor(x), 0.0), n - 2.0))


# --- bins: which tiles may enclose a point ----------------------------------------------------------------------------


@inline
def _bin(x, axis):
    start, scale, count = axis
    return int(min(max((x - start) * scale, 0.0), count - 1.0))


@inline
def _bin_axis(widened, axis):
    """As many bins as tiles between the least and the greatest finite coordinate: start, bins per unit, number."""
    h, w = widened.h, widened.w
    low, high = math.inf, -math.inf
    for n in range(h * w):
        x = widened.vertices[2 * n + axis]
        if abs(x) < math.inf:
            low, high = min(low, x), max(high, x)
    count = (w if axis == 0 else h) - 1.0
    return (low, min(count / (high - low), 1e300), count) if low < high else (0.0, 1.0, count)


@inline
def _box(corners, x_axis, y_axis):
    """First and last bin of a tile, in x and y. No bins where a corner is NaN."""
    a, b, c, d = corners
    if a[1] + b[1] + c[1] + d[1] != a[1] + b[1] + c[1] + d[1]:
        return 0, -1, 0, -1
    left, right = min(min(a[0], b[0]), min(c[0], d[0])), max(max(a[0], b[0]), max(c[0], d[0]))
    top, bottom = min(min(a[1], b[1]), min(c[1], d[1])), max(max(a[1], b[1]), max(c[1], d[1]))
    rounding = (abs(left) + abs(right)) * 2.0**-40  # a crossing may round to slightly outside of its edge
    left, right = left - rounding, right + rounding
    return _bin(left, x_axis), _bin(right, x_axis), _bin(top, y_axis), _bin(bottom, y_axis)


@inline
def _bins(widened):
    """Tiles by bin, in row-major order: those of bin n are `members[offset[n]:offset[n + 1]]`."""
    h, w = widened.h, widened.w
    x_axis, y_axis = _bin_axis(widened, 0), _bin_axis(widened, 1)
    bins = (h - 1) * (w - 1) + 2
    offset = integers(bins)
    clear(elements(offset), bins)
    for i in range(h - 1):
        for j in range(w - 1):
            left, right, top, bottom = _box(quad(widened, i, j), x_axis, y_axis)
            for y in range(top, bottom + 1):
                for x in range(left, right + 1):
                    offset[y * (w - 1) + x + 2] += 1
    for n in range(2, bins):
        offset[n] += offset[n - 1]
    members = small_integers(offset[bins - 1])
    for i in range(h - 1):
        for j in range(w - 1):
            left, right, top, bottom = _box(quad(widened, i, j), x_axis, y_axis)
            for y in range(top, bottom + 1):
                for x in range(left, right + 1):
                    n = y * (w - 1) + x + 1
                    members[offset[n]] = i * (w - 1) + j
                    offset[n] += 1
    return x_axis, y_axis, offset, members


@inline
def _owner(widened, centre, bins, x, y):
    """First tile that encloses a point, and its winding number; -1 and 0 if none does."""
    w = widened.w
    x_axis, y_axis, offset, members = bins
    n = _bin(y, y_axis) * (w - 1) + _bin(x, x_axis)
    for at in range(offset[n], offset[n + 1]):
        tile = members[at]
        turns = winding(quad(widened, tile // (w - 1), tile % (w - 1)), x, y, centre)
        if turns != 0:
            return tile, turns
    return -1, 0.0


# --- T~ and T~^-1 -----------------------------------------------------------------------------------------------------


@inline
def _outside(x, first, last):
    """How far a local coordinate is out of its tile, which continues where it is the first or the last."""
    return (0.0 if first else max(-x, 0.0)) + (0.0 if last else max(x - 1.0, 0.0))


@inline
def _nearest_patch(mesh, x, y, homography):
    """Tile of the outline whose patch, continued outwards, has the point with the least violation; -1 if none has.

    Returns the tile and its f, g.
    """
    h, w = mesh.h, mesh.w
    best, tile, best_f, best_g = math.inf, -1, math.nan, math.nan
    for i in range(h - 1):
        step = 1 if i == 0 or i == h - 2 else max(w - 2, 1)
        for j in range(0, w - 1, step):
            of_tile = tile_of(quad(mesh, i, j), UNIT, UNIT, homography)
            a, e, t, c = of_tile.a, of_tile.e, of_tile.f, of_tile.g
            turn = 2.0 * cross(e, t) + cross(e, c) + cross(c, t)
            f, g, real = solve(x, y, of_tile, turn, False)
            value, by_f, by_g = value_and_slopes(of_tile, f, g)
            real = real and not is_singular(by_f, by_g)
            size = max(
                max(abs(e[0]), abs(e[1])),
                max(max(abs(t[0]), abs(t[1])), max(abs(e[0] + t[0] + c[0]), abs(e[1] + t[1] + c[1]))),
            )
            miss = max(abs(value[0] + a[0] - x), abs(value[1] + a[1] - y))
            violation = _outside(f, j == 0, j == w - 2) + _outside(g, i == 0, i == h - 2)
            if real and miss <= _SOLVED * (1.0 + abs(f) + abs(g)) * size and violation < best:
                best, tile, best_f, best_g = violation, i * (w - 1) + j, f, g
    return tile, best_f, best_g


@inline
def _unzoom_point(mesh, widened, centre, bins, x, y, homography):
    """Zoomed position of a point and the tile that has it; NaN and -1 where none has."""
    h, w = mesh.h, mesh.w
    if not (abs(x) < math.inf and abs(y) < math.inf):
        return math.nan, math.nan, -1
    tile, turns = _owner(widened, centre, bins, x, y)
    if tile >= 0:
        of_tile = tile_of(quad(mesh, tile // (w - 1), tile % (w - 1)), UNIT, UNIT, homography)
        f, g, _ = solve(x, y, of_tile, -turns, False)
    else:
        tile, f, g = _nearest_patch(mesh, x, y, homography)
    return (tile % (w - 1) + f) / (w - 1), (tile // (w - 1) + g) / (h - 1), tile


@inline
def _zoom_point(mesh, u, v, homography):
    """T~ of a zoomed position, and the tile."""
    h, w = mesh.h, mesh.w
    if u != u or v != v:
        return math.nan, math.nan, -1
    f, g = u * (w - 1), v * (h - 1)
    j, i = _tile_at(f, w), _tile_at(g, h)
    tile = tile_of(quad(mesh, i, j), UNIT, UNIT, homography)
    value, _, _ = value_and_slopes(tile, f - j, g - i)
    return tile.a[0] + value[0], tile.a[1] + value[1], i * (w - 1) + j


class Points(NamedTuple):
    """Points `[N, 2]`, where they come to, and their tiles, of an image."""

    given: Any
    mapped: Any
    tiles: Any


@inline
def _map_image(mesh, inverse, homography, points, low, high, widened):
    """The points low .. high of an image."""
    given, mapped, tiles = points
    if is_lost(mesh):
        for n in range(low, high):
            mapped[2 * n], mapped[2 * n + 1], tiles[n] = math.nan, math.nan, -1
    elif inverse:
        centre = vertices(mesh, UNIT, UNIT, 0, mesh.h, widened.vertices)
        bins = _bins(widened)
        for n in range(low, high):
            x, y = np.float64(given[2 * n]), np.float64(given[2 * n + 1])
            x, y, tile = _unzoom_point(mesh, widened, centre, bins, x, y, homography)
            mapped[2 * n], mapped[2 * n + 1], tiles[n] = x, y, tile
    else:
        for n in range(low, high):
            x, y, tile = _zoom_point(mesh, np.float64(given[2 * n]), np.float64(given[2 * n + 1]), homography)
            mapped[2 * n], mapped[2 * n + 1], tiles[n] = x, y, tile


@parallel
def map_points(meshes, points, inverse, homography, mapped, tiles, part, parts):
    """Fills `mapped` `[B, N, 2]` and `tiles` `[B, N]`."""
    h, w, count = meshes.shape[1], meshes.shape[2], tiles.shape[1]
    memory = doubles(2 * h * w)
    widened = Mesh(elements(memory), h, w)
    begin, end = part * tiles.size // parts, (part + 1) * tiles.size // parts
    for b in range(len(tiles)):
        low, high = max(begin - b * count, 0), min(end - b * count, count)
        if low < high:
            given = tail(points, 2 * count * (b if len(points) > 1 else 0))
            some = Points(given, tail(mapped, 2 * count * b), tail(tiles, count * b))
            _map_image(mesh_of(meshes, b), inverse, homography, some, low, high, widened)
    hold(memory)


# --- gradients ------------------------------------------------------------------------------------------------------


class Pull(NamedTuple):
    """Gradients `[B, N, 2]` of mapped points, those, their tiles `[B, N]`, and the points `[1 or B, N, 2]`."""

    grad: Any
    mapped: Any
    tiles: Any
    points: Any
    is_shared: Any
    count: Any
    inverse: Any
    homography: Any


@inline
def _pull_of(grad, points, mapped, tiles, inverse, homography):
    arrays = (elements(grad), elements(mapped), elements(tiles), elements(points))
    return Pull(*arrays, len(points) == 1, tiles.shape[1], inverse, homography)


@inline
def _pull_point(mesh, pull, b, n):
    """Gradient of mapped point n of entry b to the point, and what it adds to the sums of its tile."""
    h, w, at = mesh.h, mesh.w, 2 * (b * pull.count + n)
    zoomed = tail(pull.mapped, at) if pull.inverse else tail(pull.points, 2 * n if pull.is_shared else at)
    tile = pull.tiles[b * pull.count + n]
    grad_x, grad_y = np.float64(pull.grad[at]), np.float64(pull.grad[at + 1])
    i, j = tile // (w - 1), tile % (w - 1)
    f, g = np.float64(zoomed[0]) * (w - 1) - j, np.float64(zoomed[1]) * (h - 1) - i
    of_tile = tile_of(quad(mesh, i, j), UNIT, UNIT, pull.homography)
    value, by_f, by_g = value_and_slopes(of_tile, f, g)
    if pull.inverse:
        to_x, to_y = pull_inverse(by_f, by_g, grad_x / (w - 1), grad_y / (h - 1))
        grad_x, grad_y = -to_x, -to_y
    else:
        to_x = (grad_x * by_f[0] + grad_y * by_f[1]) * (w - 1)
        to_y = (grad_x * by_g[0] + grad_y * by_g[1]) * (h - 1)
    return to_x, to_y, products(of_tile, value, f, g, grad_x, grad_y)


@parallel
def points_backward(grad, meshes, points, mapped, tiles, inverse, homography, grad_points, part, parts):
    """Gradient to the points, summed over the images that share them."""
    pull, target = _pull_of(grad, points, mapped, tiles, inverse, homography), elements(grad_points)
    count, shares = tiles.shape[1], len(grad_points)
    lost = integers(len(meshes))
    for m in range(len(meshes)):
        lost[m] = is_lost(mesh_of(meshes, m))
    for k in range(part * shares * count // parts, (part + 1) * shares * count // parts):
        shared, n = k // count, k % count
        by_x, by_y = 0.0, 0.0
        for b in range(shared, len(tiles), shares):
            if lost[b if len(meshes) > 1 else 0]:
                by_x, by_y = math.nan, math.nan
            elif pull.tiles[b * count + n] >= 0:
                x, y, _ = _pull_point(mesh_of(meshes, b), pull, b, n)
                by_x, by_y = by_x + x, by_y + y
        target[2 * k], target[2 * k + 1] = by_x, by_y


@inline
def _mesh_gradient(meshes, m, pull, batch, sums, by_tile, result):
    """Gradient to one mesh, summed over the images that share it."""
    mesh = mesh_of(meshes, m)
    h, w = mesh.h, mesh.w
    if is_lost(mesh):
        for n in range(2 * h * w):
            result[n] = math.nan
        return
    for n in range(8 * (h - 1) * (w - 1)):
        sums[n] = 0
    for b in range(m, batch, len(meshes)):
        for n in range(pull.count):
            tile = pull.tiles[b * pull.count + n]
            if tile >= 0:
                _, _, terms = _pull_point(mesh, pull, b, n)
                store_sums(sums, tile, add(load_sums(sums, tile), terms))
    for n in range((h - 1) * (w - 1)):
        to_corners(load_sums(sums, n), quad(mesh, n // (w - 1), n % (w - 1)), pull.homography, tail(by_tile, 8 * n))
    to_vertices(by_tile, result, h, w)


@parallel
def mesh_backward(grad, meshes, points, mapped, tiles, inverse, homography, grad_mesh, part, parts):
    """Gradient to the mesh: every point adds to the sums of its tile, in the order of the points."""
    h, w = meshes.shape[1], meshes.shape[2]
    room = 8 * (h - 1) * (w - 1)
    memory = doubles(2 * room)
    pull, sums = _pull_of(grad, points, mapped, tiles, inverse, homography), elements(memory)
    for m in range(part, len(meshes), parts):
        _mesh_gradient(meshes, m, pull, len(tiles), sums, tail(sums, room), tail(grad_mesh, 2 * m * h * w))
    hold(memory)
