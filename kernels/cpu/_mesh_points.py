"""T~ and T~^-1 at points, and their gradients."""

import math

import numpy as np

from fastwarp.kernels.cpu._mesh_geometry import cross, edges, is_lost, perspective, quad, solve
from fastwarp.kernels.cpu._mesh_gradient import (
    add,
    is_singular,
    load,
    products,
    pull_inverse,
    store,
    to_corners,
    to_vertices,
    value_and_slopes,
)
from fastwarp.kernels.cpu._mesh_owners import vertices, winding
from fastwarp.kernels.cpu._parallel import inline, parallel

_UNIT = (0.0, 1.0)  # normalised positions
_SOLVED = 1e-9  # a preimage outside of the mesh may miss its point by this, in tiles


@inline
def _cell(x, n):
    """Tile of an axis of n vertices that a position in tiles is in; the end tiles continue."""
    return int(min(max(np.floor(x), 0.0), n - 2.0))


# --- bins: which tiles may enclose a point ----------------------------------------------------------------------------


@inline
def _bin(x, axis):
    start, scale, count = axis
    return int(min(max((x - start) * scale, 0.0), count - 1.0))


@inline
def _axis(widened, axis):
    """As many bins as tiles between the least and the greatest finite coordinate: start, bins per unit, number."""
    h, w = widened.shape[0], widened.shape[1]
    low, high = math.inf, -math.inf
    for i in range(h):
        for j in range(w):
            x = widened[i, j, axis]
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
    h, w = widened.shape[0], widened.shape[1]
    x_axis, y_axis = _axis(widened, 0), _axis(widened, 1)
    offset = np.zeros((h - 1) * (w - 1) + 2, np.int64)
    for i in range(h - 1):
        for j in range(w - 1):
            left, right, top, bottom = _box(quad(widened, i, j), x_axis, y_axis)
            for y in range(top, bottom + 1):
                for x in range(left, right + 1):
                    offset[y * (w - 1) + x + 2] += 1
    for n in range(2, len(offset)):
        offset[n] += offset[n - 1]
    members = np.empty(offset[-1], np.int32)
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
    w = widened.shape[1]
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
    h, w = mesh.shape[0], mesh.shape[1]
    best, tile, best_f, best_g = math.inf, -1, math.nan, math.nan
    for i in range(h - 1):
        step = 1 if i == 0 or i == h - 2 else max(w - 2, 1)
        for j in range(0, w - 1, step):
            corners = quad(mesh, i, j)
            of_tile = edges(corners, _UNIT, _UNIT)
            a, e, t, c = of_tile
            p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
            turn = 2.0 * cross(e, t) + cross(e, c) + cross(c, t)
            f, g, real = solve(x, y, of_tile, p, q, has_homography, turn, False)
            value, by_f, by_g = value_and_slopes(of_tile, f, g, p, q, has_homography)
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
def _unzoom(mesh, widened, centre, bins, x, y, homography):
    """Zoomed position of a point and the tile that has it; NaN and -1 where none has."""
    h, w = mesh.shape[0], mesh.shape[1]
    if not (abs(x) < math.inf and abs(y) < math.inf):
        return math.nan, math.nan, -1
    tile, turns = _owner(widened, centre, bins, x, y)
    if tile >= 0:
        corners = quad(mesh, tile // (w - 1), tile % (w - 1))
        p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
        f, g, _ = solve(x, y, edges(corners, _UNIT, _UNIT), p, q, has_homography, -turns, False)
    else:
        tile, f, g = _nearest_patch(mesh, x, y, homography)
    return (tile % (w - 1) + f) / (w - 1), (tile // (w - 1) + g) / (h - 1), tile


@inline
def _zoom(mesh, u, v, homography):
    """T~ of a zoomed position, and the tile."""
    h, w = mesh.shape[0], mesh.shape[1]
    if u != u or v != v:
        return math.nan, math.nan, -1
    f, g = u * (w - 1), v * (h - 1)
    j, i = _cell(f, w), _cell(g, h)
    corners = quad(mesh, i, j)
    p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
    tile = edges(corners, _UNIT, _UNIT)
    value, _, _ = value_and_slopes(tile, f - j, g - i, p, q, has_homography)
    return tile[0][0] + value[0], tile[0][1] + value[1], i * (w - 1) + j


@parallel
def map_points(mesh, points, inverse, homography, mapped, tiles, part, parts):
    h, w, count = mesh.shape[1], mesh.shape[2], tiles.shape[1]
    widened = np.empty((h, w, 2))
    begin, end = part * tiles.size // parts, (part + 1) * tiles.size // parts
    for b in range(len(tiles)):
        low, high = max(begin - b * count, 0), min(end - b * count, count)
        if low >= high:
            continue
        one, at = mesh[b if len(mesh) > 1 else 0], points[b if len(points) > 1 else 0]
        if is_lost(one):
            for n in range(low, high):
                mapped[b, n, 0], mapped[b, n, 1], tiles[b, n] = math.nan, math.nan, -1
        elif inverse:
            centre = vertices(one, _UNIT, _UNIT, 0, h, widened)
            bins = _bins(widened)
            for n in range(low, high):
                x, y = np.float64(at[n, 0]), np.float64(at[n, 1])
                mapped[b, n, 0], mapped[b, n, 1], tiles[b, n] = _unzoom(one, widened, centre, bins, x, y, homography)
        else:
            for n in range(low, high):
                x, y = np.float64(at[n, 0]), np.float64(at[n, 1])
                mapped[b, n, 0], mapped[b, n, 1], tiles[b, n] = _zoom(one, x, y, homography)


# --- gradients --------------------------------------------------------------------------------------------------------


@inline
def _pull(mesh, tile, zoomed, grad_x, grad_y, inverse, homography):
    """Gradient of one mapped point to the point, and what it adds to the sums of its tile."""
    h, w = mesh.shape[0], mesh.shape[1]
    i, j = tile // (w - 1), tile % (w - 1)
    f, g = np.float64(zoomed[0]) * (w - 1) - j, np.float64(zoomed[1]) * (h - 1) - i
    corners = quad(mesh, i, j)
    p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
    of_tile = edges(corners, _UNIT, _UNIT)
    value, by_f, by_g = value_and_slopes(of_tile, f, g, p, q, has_homography)
    if inverse:
        to_x, to_y = pull_inverse(by_f, by_g, grad_x / (w - 1), grad_y / (h - 1))
        grad_x, grad_y = -to_x, -to_y
    else:
        to_x = (grad_x * by_f[0] + grad_y * by_f[1]) * (w - 1)
        to_y = (grad_x * by_g[0] + grad_y * by_g[1]) * (h - 1)
    return to_x, to_y, products(of_tile, value, f, g, p, q, has_homography, grad_x, grad_y)


@parallel
def points_backward(grad, mesh, points, mapped, tiles, inverse, homography, grad_points, part, parts):
    """Gradient to the points, summed over the images that share them."""
    total = len(grad_points) * grad_points.shape[1]
    lost = np.empty(len(mesh), np.bool_)
    for m in range(len(mesh)):
        lost[m] = is_lost(mesh[m])
    for k in range(part * total // parts, (part + 1) * total // parts):
        shared, n = k // grad_points.shape[1], k % grad_points.shape[1]
        by_x, by_y = 0.0, 0.0
        for b in range(shared, len(tiles), len(grad_points)):
            if lost[b if len(mesh) > 1 else 0]:
                by_x, by_y = math.nan, math.nan
            elif tiles[b, n] >= 0:
                zoomed = mapped[b, n] if inverse else points[shared, n]
                g = np.float64(grad[b, n, 0]), np.float64(grad[b, n, 1])
                one = mesh[b if len(mesh) > 1 else 0]
                x, y, _ = _pull(one, tiles[b, n], zoomed, g[0], g[1], inverse, homography)
                by_x, by_y = by_x + x, by_y + y
        grad_points[shared, n, 0], grad_points[shared, n, 1] = by_x, by_y


@parallel
def mesh_backward(grad, mesh, points, mapped, tiles, inverse, homography, grad_mesh, part, parts):
    """Gradient to the mesh: every point adds to the sums of its tile, in the order of the points."""
    h, w = mesh.shape[1], mesh.shape[2]
    sums = np.empty(((h - 1) * (w - 1), 8))
    by_tile = np.empty((h - 1, w - 1, 4, 2))
    for m in range(part, len(mesh), parts):
        if is_lost(mesh[m]):
            grad_mesh[m] = math.nan
            continue
        sums[:] = 0
        for b in range(m, len(tiles), len(mesh)):
            for n in range(tiles.shape[1]):
                tile = tiles[b, n]
                if tile >= 0:
                    zoomed = mapped[b, n] if inverse else points[b if len(points) > 1 else 0, n]
                    g = np.float64(grad[b, n, 0]), np.float64(grad[b, n, 1])
                    _, _, terms = _pull(mesh[m], tile, zoomed, g[0], g[1], inverse, homography)
                    store(sums, tile, add(load(sums, tile), terms))
        for i in range(h - 1):
            for j in range(w - 1):
                corners = quad(mesh[m], i, j)
                p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
                to_corners(load(sums, i * (w - 1) + j), corners, p, q, has_homography, by_tile[i, j])
        to_vertices(by_tile, grad_mesh[m])
