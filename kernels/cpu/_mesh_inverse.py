"""T~^-1 on a grid of targets: each tile writes the targets that it owns, a run in each row.

Tiles come in reverse row-major order and overwrite each other: the first tile that encloses a target has the last word.
"""

import math

import numpy as np

from fastwarp.kernels.cpu._extents import extent
from fastwarp.kernels.cpu._mesh_border import nearest, outline
from fastwarp.kernels.cpu._mesh_geometry import cross, edges, is_lost, perspective, quad, solve
from fastwarp.kernels.cpu._mesh_owners import convex_runs, units, vertices, winding_runs
from fastwarp.kernels.cpu._mesh_rows import LANES, fill_rows, inverse_of
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._vector import elements

_ERROR = 2.0**-11  # targets: a tile whose inverse could be further off goes to a wider type
_SMALL = 2.0**-40  # square targets: their squares have to stay far from the least fp32 number
_FAR = 2.0**24  # targets that fp32 counts


@inline
def _length(v):
    return abs(v[0]) + abs(v[1])


@inline
def _precision(tile, p, q, has_homography):
    """Significant bits that a type needs for the inverse of a tile, as 2 to that power; infinity where none will do."""
    _, e, f, g = tile
    area, by_f, by_g = cross(e, f), cross(e, g), cross(g, f)
    size = max(_length(e), _length(f)) + _length(g)
    if has_homography:
        # Terms of the denominator and of the numerators, relative to the least denominator.
        tilt = 1.0 + max(max(p, q), 0.0)
        depth = (1.0 + p) * (1.0 + q) * abs(area)
        least = depth / (1.0 + max(p, 0.0) + max(q, 0.0))
        terms = depth + (abs(p) + abs(q)) * tilt * (abs(area) + abs(by_f) + abs(by_g))
        error = (terms + tilt * size * size) / least
    else:
        # Terms of the discriminant and of the numerators, relative to the least determinant.
        if area < 0:
            area, by_f, by_g = -area, -by_f, -by_g
        least = min(min(area, area + by_f), min(area + by_g, area + by_f + by_g))
        terms = area + abs(by_f) + abs(by_g)
        error = (terms * terms + size * size * least) / (least * least)
    return size * error / _ERROR if least > _SMALL else math.inf


@inline
def _fill_any(tile, p, q, has_homography, place, factor, span, corners, first, last, extent, width, at, x, y, tiles):
    """As `_mesh_rows` for any tile, target by target in float64."""
    runs = np.empty((2, 3))
    i, j, number = place
    for row in range(first, last):
        for run in range(winding_runs(corners[0], float(row), corners[1], extent, runs)):
            for k in range(int(runs[run, 0]), int(runs[run, 1])):
                f, g, _ = solve(float(k), float(row), tile, p, q, has_homography, runs[run, 2], True)
                target = at + row * width + k
                x[target] = min(max((j + f) * factor[0], 0.0), span[0])
                y[target] = min(max((i + g) * factor[1], 0.0), span[1])
                tiles[target] = number


@inline
def _fill_row_of_tiles(mesh, i, homography, x_unit, y_unit, span, extent, width, at, widened, runs, real, x, y, tiles):
    """Writes the targets of a row of tiles, its last tile first."""
    h, w = mesh.shape[0], mesh.shape[1]
    spans, left, right = runs
    factor = (span[0] / (w - 1), span[1] / (h - 1))
    edges_of_runs, results = (elements(left), elements(right)), (elements(x), elements(y), elements(tiles))
    for j in range(w - 2, -1, -1):
        first, last, run = spans[j, 0], spans[j, 1], spans[j, 2]
        if first == last:
            continue
        number = i * (w - 1) + j
        corners = quad(mesh, i, j)
        tile = edges(corners, x_unit, y_unit)
        p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
        place = (float(j), float(i))
        precision = _precision(tile, p, q, has_homography)
        a = tile[0]
        if run < 0 or width < LANES or not (precision < 2.0**52 and max(abs(a[0]), abs(a[1])) < _FAR):
            outline = (quad(widened[0], i, j), widened[1])
            about = (outline, first, last, extent, width, at)
            _fill_any(tile, p, q, has_homography, (i, j, number), factor, span, *about, x, y, tiles)
            continue
        rows = (edges_of_runs, run, first, last, width, at, number, *results)
        if precision < (2.0**52 if real.itemsize == 8 else 2.0**23):
            fill_rows(inverse_of(tile, p, q, has_homography, place, factor, span, real[0]), *rows)
        else:
            fill_rows(inverse_of(tile, p, q, has_homography, place, factor, span, 0.0), *rows)


@inline
def _fill_border(mesh, x_unit, y_unit, span, low, high, targets, width, at, x, y, tiles):
    h, w = mesh.shape[0], mesh.shape[1]
    segments, boxes = outline(mesh, x_unit, y_unit)
    last = 0
    for r in range(low, high):
        for k in range(targets):
            target = at + r * width + k
            if tiles[target] < 0:
                found, t = nearest(segments, boxes, float(k), float(r), last)
                if found >= 0:
                    last = found
                    segment = segments[found]
                    x[target] = (segment[5] + t * segment[7]) * (span[0] / (w - 1))
                    y[target] = (segment[6] + t * segment[8]) * (span[1] / (h - 1))


@inline
def _clear(low, high, width, at, x, y, tiles):
    begin, end = at + low * width, at + high * width
    x[begin:end] = -1
    y[begin:end] = -1
    tiles[begin:end] = -1


@inline
def _rows(mesh, lost, homography, border, low, high, extents, sources, width, at, scratch, x, y, tiles):
    """The rows low .. high of a level of one image."""
    h, w = mesh.shape[0], mesh.shape[1]
    extent_y, extent_x = extents
    end = min(high, extent_y)
    if sources[0] == 0 or sources[1] == 0 or extent_x == 0 or low >= end:
        _clear(low, high, width, at, x, y, tiles)
        return
    if lost:
        _clear(low, high, width, at, x, y, tiles)
        for r in range(low, end):
            begin = at + r * width
            x[begin : begin + extent_x] = math.nan
            y[begin : begin + extent_x] = math.nan
        return
    x_unit, y_unit = units(extent_x), units(extent_y)
    span = (sources[1] - 1.0, sources[0] - 1.0)
    widened, runs, real = scratch
    centre = vertices(mesh, x_unit, y_unit, 0, h, widened)
    cleared = high
    for i in range(h - 2, -1, -1):
        top, bottom = math.inf, -math.inf
        for j in range(w):
            top = min(top, min(widened[i, j, 1], widened[i + 1, j, 1]))
            bottom = max(bottom, max(widened[i, j, 1], widened[i + 1, j, 1]))
        if bottom < low or top > end:
            continue
        # Rows are cleared when the first tile comes to them: they are still in the cache when they are written.
        needed = int(max(np.floor(top), low)) if top == top else low
        if needed < cleared:
            _clear(needed, cleared, width, at, x, y, tiles)
            cleared = needed
        convex_runs(widened, centre, i, low, end, float(extent_x), *runs)
        of_level = (x_unit, y_unit, span, float(extent_x), width, at)
        _fill_row_of_tiles(mesh, i, homography, *of_level, (widened, centre), runs, real, x, y, tiles)
    if cleared > low:
        _clear(low, cleared, width, at, x, y, tiles)
    if border:
        _fill_border(mesh, x_unit, y_unit, span, low, end, extent_x, width, at, x, y, tiles)


@inline
def _first_row(cost, of_level, height):
    """First row of a level that begins at a cost or after it."""
    return min(max(-(-cost * height // of_level), 0), height)


@parallel
def inverse(
    mesh, sizes, source_sizes, costs, homography, border, valid, source_valid, real, windows, tiles, part, parts
):
    """Rows of levels are shared out by `costs`, those of whole levels."""
    h, w = mesh.shape[1], mesh.shape[2]
    total = len(windows) * costs.sum()
    begin, end = part * total // parts, (part + 1) * total // parts
    room = (w - 1) * max(sizes[::2].max(), 1)
    runs = (np.empty((w - 1, 3), np.int64), np.empty(room), np.empty(room))
    scratch = (np.empty((h, w, 2)), runs, real)
    cost = 0
    of_image, lost = -1, False
    for b in range(len(windows)):
        at = 0
        for level in range(len(sizes) // 2):
            height, width = sizes[2 * level], sizes[2 * level + 1]
            low, high = _first_row(begin - cost, costs[level], height), _first_row(end - cost, costs[level], height)
            cost += costs[level]
            if low < high:
                extents = (extent(valid, b, level, 0, height), extent(valid, b, level, 1, width))
                sources = (
                    extent(source_valid, b, level, 0, source_sizes[2 * level]),
                    extent(source_valid, b, level, 1, source_sizes[2 * level + 1]),
                )
                one = mesh[b if len(mesh) > 1 else 0]
                if of_image != b:
                    of_image, lost = b, is_lost(one)
                place = (low, high, extents, sources, width, at)
                _rows(one, lost, homography, border, *place, scratch, windows[b, 0], windows[b, 1], tiles[b])
            at += height * width
