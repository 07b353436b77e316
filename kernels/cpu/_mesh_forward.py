"""T~ on a grid of targets: along a row of targets it is linear in each tile, or a quotient of linear functions."""

from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._levels import level_count, shape_of
from fastwarp.kernels.cpu._memory import doubles, integers
from fastwarp.kernels.cpu._mesh_tile import is_lost, longest, mesh_of, mesh_windows_of, perspective, quad
from fastwarp.kernels.cpu._parallel import exact, inline, parallel
from fastwarp.kernels.cpu._vector import elements, hold


class Columns(NamedTuple):
    """Of a row of targets: the local coordinate f of each, and the first target of each tile `[w]`."""

    fraction: Any
    first: Any


@inline
def local(k, targets, n):
    """Tile and local coordinate of target k of an axis of n vertices, in integers: the last tile is closed."""
    position, steps = (2 * k * (n - 1), 2 * (targets - 1)) if targets > 1 else (n - 1, 2)
    tile = min(position // steps, n - 2)
    return tile, (position - tile * steps) / steps


@exact
def line(corners, g, p, q):
    """Numerators of T~ (x and y) and its denominator at both ends of a line through a tile, f = 0 and f = 1.

    A homography is the mean of the corners with the weights of the bilinear tile times (1, 1 + p, 1 + q, 1 + p + q).
    A mean does not leave [0, 1] by rounding, which would stop a gradient.
    """
    a, b, c, d = corners
    of_a, of_b, of_c, of_d = 1.0 - g, (1.0 - g) * (1.0 + p), g * (1.0 + q), g * (1.0 + p + q)
    start = (of_a * a[0] + of_c * c[0], of_a * a[1] + of_c * c[1], of_a + of_c)
    return start, (of_b * b[0] + of_d * d[0], of_b * b[1] + of_d * d[1], of_b + of_d)


@exact
def blend(start, end, f, has_homography):
    """T~ at f of a line."""
    x, y = (1.0 - f) * start[0] + f * end[0], (1.0 - f) * start[1] + f * end[1]
    if has_homography:
        depth = (1.0 - f) * start[2] + f * end[2]
        x, y = x / depth, y / depth
    return x, y


@inline
def _window(t, span):
    return min(max(t, 0.0), 1.0) * span


@inline
def find_columns(targets, w, columns):
    """Fills `Columns` for a row of so many targets."""
    tiles = 0
    for k in range(targets):
        j, columns.fraction[k] = local(k, targets, w)
        for n in range(tiles, j + 1):
            columns.first[n] = k
        tiles = j + 1
    for n in range(tiles, w):
        columns.first[n] = targets


@inline
def _fill_row(mesh, r, homography, level, columns, at, windows):
    """Row r of a level, whose targets begin at `at`."""
    x, y, tiles = windows
    span_y, span_x = level.source_y - 1.0, level.source_x - 1.0
    i, g = local(r, level.extent_y, mesh.h)
    for j in range(mesh.w - 1):
        begin, end = columns.first[j], columns.first[j + 1]
        if begin == end:
            continue
        corners = quad(mesh, i, j)
        p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
        start, stop = line(corners, g, p, q)
        for k in range(begin, end):
            tx, ty = blend(start, stop, columns.fraction[k], has_homography)
            x[at + k], y[at + k] = _window(tx, span_x), _window(ty, span_y)
            tiles[at + k] = i * (mesh.w - 1) + j


@inline
def fill_value(windows, begin, end, value):
    """Gives the targets begin .. end a value and no tile."""
    for k in range(begin, end):
        windows.x[k], windows.y[k], windows.tiles[k] = value, value, -1


@inline
def _fill_zoom_level(mesh, lost, homography, level, columns, first, begin, end, windows):
    """The rows of a level whose first target is in begin .. end; the level's is `first`."""
    reads = level.extent_x if min(level.source_y, level.source_x) > 0 else 0
    find_columns(reads, mesh.w, columns)
    for r in range(level.height):
        at = first + r * level.width
        if not begin <= at < end:
            continue
        filled = reads if r < level.extent_y else 0
        if lost:
            fill_value(windows, at, at + filled, np.nan)
        elif filled > 0:
            _fill_row(mesh, r, homography, level, columns, at, windows)
        fill_value(windows, at + filled, at + level.width, -1.0)


@parallel
def zoom_positions(meshes, shapes, homography, windows, tiles, part, parts):
    """Fills windows `[B, 2, P]` and tiles `[B, P]`. A row belongs to the part that has its first target."""
    count, w = tiles.shape[1], meshes.shape[2]
    begin, end = part * tiles.size // parts, (part + 1) * tiles.size // parts
    fraction, first_of_tile = doubles(longest(shapes, 1)), integers(w)
    columns = Columns(elements(fraction), elements(first_of_tile))
    for b in range(len(tiles)):
        start = b * count
        if start >= end or start + count <= begin:
            continue
        mesh = mesh_of(meshes, b)
        lost, at = is_lost(mesh), 0
        for n in range(level_count(shapes)):
            level = shape_of(b, n, shapes)
            some = (begin - start, end - start)
            _fill_zoom_level(mesh, lost, homography, level, columns, at, *some, mesh_windows_of(windows, tiles, b))
            at += level.height * level.width
    hold(fraction)
    hold(first_of_tile)
