"""T~ on a grid of targets: along a row of targets it is linear in each tile, or a quotient of linear functions."""

import numpy as np

from fastwarp.kernels.cpu._extents import extent
from fastwarp.kernels.cpu._mesh_geometry import is_lost, perspective, quad
from fastwarp.kernels.cpu._parallel import exact, inline, parallel


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
def _row(mesh, r, homography, extents, sources, fraction, first, at, x, y, tiles):
    """Targets at .. at + extent of row r; `fraction` has f of every column, `first` the first column of every tile."""
    h, w = mesh.shape[0], mesh.shape[1]
    span_y, span_x = sources[0] - 1.0, sources[1] - 1.0
    i, g = local(r, extents[0], h)
    for j in range(w - 1):
        begin, end = first[j], first[j + 1]
        if begin == end:
            continue
        corners = quad(mesh, i, j)
        p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
        start, stop = line(corners, g, p, q)
        for k in range(begin, end):
            tx, ty = blend(start, stop, fraction[k], has_homography)
            x[at + k], y[at + k] = _window(tx, span_x), _window(ty, span_y)
            tiles[at + k] = i * (w - 1) + j


@inline
def columns(targets, w, fraction, first):
    """Fills `fraction` with f of every target of a row and `first` `[w]` with the first target of each tile."""
    tiles = 0
    for k in range(targets):
        j, fraction[k] = local(k, targets, w)
        first[tiles : j + 1] = k
        tiles = j + 1
    first[tiles:] = targets


@parallel
def forward(mesh, sizes, source_sizes, homography, valid, source_valid, windows, tiles, part, parts):
    w = mesh.shape[2]
    begin, end = part * tiles.size // parts, (part + 1) * tiles.size // parts
    fraction, first_of_tile = np.empty(max(sizes[1::2].max(), 1)), np.empty(w, np.int64)
    for b in range(len(windows)):
        at = b * tiles.shape[1]
        if at >= end or at + tiles.shape[1] <= begin:
            continue
        x, y, number = windows[b, 0], windows[b, 1], tiles[b]
        one = mesh[b if len(mesh) > 1 else 0]
        lost = is_lost(one)
        for level in range(len(sizes) // 2):
            height, width = sizes[2 * level], sizes[2 * level + 1]
            extents = (extent(valid, b, level, 0, height), extent(valid, b, level, 1, width))
            sources = (
                extent(source_valid, b, level, 0, source_sizes[2 * level]),
                extent(source_valid, b, level, 1, source_sizes[2 * level + 1]),
            )
            reads = extents[1] if min(sources) > 0 else 0
            columns(reads, w, fraction, first_of_tile)
            for r in range(height):
                # A row belongs to the part that has its first target.
                if begin <= at < end:
                    where = at - b * tiles.shape[1]
                    filled = reads if r < extents[0] else 0
                    if lost:
                        for k in range(where, where + filled):
                            x[k], y[k], number[k] = np.nan, np.nan, -1
                    elif filled > 0:
                        _row(one, r, homography, extents, sources, fraction, first_of_tile, where, x, y, number)
                    for k in range(where + filled, where + width):
                        x[k], y[k], number[k] = -1.0, -1.0, -1
                at += width
