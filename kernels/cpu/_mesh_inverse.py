"""T~^-1 on a grid of targets: each tile writes the targets that it owns, a run in each row.

Tiles come in reverse row-major order and overwrite each other: the first tile that encloses a target has the last word.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._levels import shape_of
from fastwarp.kernels.cpu._memory import doubles, integers
from fastwarp.kernels.cpu._mesh_forward import fill_value
from fastwarp.kernels.cpu._mesh_owners import ROOM, TileRuns, convex_runs, units, vertices, winding_runs
from fastwarp.kernels.cpu._mesh_rows import Rows, fill_rows, inverse_of
from fastwarp.kernels.cpu._mesh_tile import (
    Mesh,
    cross,
    is_lost,
    longest,
    mesh_of,
    mesh_windows_of,
    quad,
    solve,
    tile_of,
)
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._rows import LANES
from fastwarp.kernels.cpu._vector import elements, hold, tail

_ERROR = 2.0**-11  # targets: a tile whose inverse could be further off goes to a wider type
_SMALL = 2.0**-40  # square targets: their squares have to stay far from the least fp32 number
_FAR = 2.0**24  # targets that fp32 counts
_GROUP = 8  # segments of the outline that share a bounding box


@inline
def _norm(v):
    return abs(v[0]) + abs(v[1])


@inline
def _precision(tile):
    """Significant bits that a type needs for the inverse of a tile, as 2 to that power; infinity where none will do."""
    _, e, f, g, p, q, has_homography = tile
    area, by_f, by_g = cross(e, f), cross(e, g), cross(g, f)
    size = max(_norm(e), _norm(f)) + _norm(g)
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


class Place(NamedTuple):
    """Of a level: targets in units of its x and y, the last pixels of its source, pixels of a tile, where it begins
    among the targets of an image."""

    x_unit: Any
    y_unit: Any
    span: Any
    factor: Any
    at: Any


class InverseRoom(NamedTuple):
    """Working memory: vertices in target units, what `convex_runs` fills, and what `winding_runs` needs."""

    widened: Any
    runs: Any
    winding: Any


@inline
def _fill_any(tile, i, j, corners, centre, first, last, level, place, room, windows):
    """As `fill_rows` for any tile, target by target in float64."""
    w_tiles, runs = room.widened.w - 1, room.winding
    for row in range(first, last):
        for run in range(winding_runs(corners, float(row), centre, float(level.extent_x), runs)):
            for k in range(int(runs[3 * run]), int(runs[3 * run + 1])):
                f, g, _ = solve(float(k), float(row), tile, runs[3 * run + 2], True)
                target = place.at + row * level.width + k
                windows.x[target] = min(max((j + f) * place.factor[0], 0.0), place.span[0])
                windows.y[target] = min(max((i + g) * place.factor[1], 0.0), place.span[1])
                windows.tiles[target] = i * w_tiles + j


@inline
def _fill_row_of_tiles(mesh, i, homography, centre, level, place, room, real, windows):
    """Writes the targets of a row of tiles, its last tile first."""
    spans, left, right = room.runs
    width = level.width
    for j in range(mesh.w - 2, -1, -1):
        first, last, run = spans[3 * j], spans[3 * j + 1], spans[3 * j + 2]
        if first == last:
            continue
        tile = tile_of(quad(mesh, i, j), place.x_unit, place.y_unit, homography)
        precision, a = _precision(tile), tile.a
        if run < 0 or width < LANES or not (precision < 2.0**52 and max(abs(a[0]), abs(a[1])) < _FAR):
            corners = quad(room.widened, i, j)
            _fill_any(tile, i, j, corners, centre, first, last, level, place, room, windows)
            continue
        rows = Rows(tail(left, run), tail(right, run), first, last, width, place.at, i * (mesh.w - 1) + j)
        about = (tile, (float(j), float(i)), place.factor, place.span)
        if precision < (2.0**52 if real.itemsize == 8 else 2.0**23):
            fill_rows(inverse_of(*about, real[0]), rows, windows)
        else:
            fill_rows(inverse_of(*about, 0.0), rows, windows)


# --- targets that no tile owns read the nearest point of the outline --------------------------------------------------


@inline
def _add_segment(mesh, i, j, di, dj, place, n, segment, box):
    """Segment n of the outline, from a vertex to the next, and its box."""
    at, end = 2 * (i * mesh.w + j), 2 * ((i + di) * mesh.w + j + dj)
    x_unit, y_unit = place.x_unit, place.y_unit
    x = (np.float64(mesh.vertices[at]) - x_unit[0]) * x_unit[1]
    y = (np.float64(mesh.vertices[at + 1]) - y_unit[0]) * y_unit[1]
    end_x = (np.float64(mesh.vertices[end]) - x_unit[0]) * x_unit[1]
    end_y = (np.float64(mesh.vertices[end + 1]) - y_unit[0]) * y_unit[1]
    dx, dy = end_x - x, end_y - y
    length = dx * dx + dy * dy
    segment[0], segment[1], segment[2], segment[3] = x, y, dx, dy
    segment[4] = 1.0 / length if length > 0 else 0.0
    segment[5], segment[6], segment[7], segment[8] = j, i, dj, di
    if n % _GROUP == 0:
        box[0], box[1], box[2], box[3] = math.inf, math.inf, -math.inf, -math.inf
    box[0], box[1] = min(min(box[0], x), end_x), min(min(box[1], y), end_y)
    box[2], box[3] = max(max(box[2], x), end_x), max(max(box[3], y), end_y)


@inline
def _fill_outline(mesh, place, segments, boxes):
    """Segments of the outline in target units, and the boxes of every eight; returns the number of segments.

    A segment is x, y, dx, dy, 1 / length^2 (0 for a point), u, v, du, dv: where it begins and goes, and its zoomed
    position in tiles. Top row, bottom row, left column, right column.
    """
    h, w, n = mesh.h, mesh.w, 0
    for side in range(4):
        for k in range((w if side < 2 else h) - 1):
            i, j = (side * (h - 1), k) if side < 2 else (k, (side - 2) * (w - 1))
            di, dj = (0, 1) if side < 2 else (1, 0)
            _add_segment(mesh, i, j, di, dj, place, n, tail(segments, 9 * n), tail(boxes, n // _GROUP * 4))
            n += 1
    return n


@inline
def _nearest_on_segment(segment, x, y):
    """Fraction of a segment's point that is nearest to (x, y), and its squared distance."""
    away_x, away_y = x - segment[0], y - segment[1]
    t = min(max((away_x * segment[2] + away_y * segment[3]) * segment[4], 0.0), 1.0)
    away_x, away_y = away_x - t * segment[2], away_y - t * segment[3]
    return t, away_x * away_x + away_y * away_y


@inline
def _nearest(segments, boxes, count, x, y, guess):
    """The first segment that comes nearest to (x, y), and the fraction of its point; -1 if none is finite.

    `guess` is a segment, the better the faster: only boxes that are as near as it are looked into.
    """
    _, bound = _nearest_on_segment(tail(segments, 9 * guess), x, y)
    bound = bound * (1.0 + 1e-9) if bound == bound else math.inf
    best, found, fraction = math.inf, -1, 0.0
    for group in range((count + _GROUP - 1) // _GROUP):
        box = tail(boxes, 4 * group)
        away_x = max(max(box[0] - x, x - box[2]), 0.0)
        away_y = max(max(box[1] - y, y - box[3]), 0.0)
        if away_x * away_x + away_y * away_y <= bound:
            for n in range(group * _GROUP, min((group + 1) * _GROUP, count)):
                t, distance = _nearest_on_segment(tail(segments, 9 * n), x, y)
                if distance < best:
                    best, found, fraction = distance, n, t
            bound = min(bound, best * (1.0 + 1e-9))
    return found, fraction


@inline
def _fill_targets(segments, boxes, count, low, high, level, place, windows):
    last = 0
    for r in range(low, high):
        for k in range(level.extent_x):
            target = place.at + r * level.width + k
            if windows.tiles[target] < 0:
                found, t = _nearest(segments, boxes, count, float(k), float(r), last)
                if found >= 0:
                    last, segment = found, tail(segments, 9 * found)
                    windows.x[target] = (segment[5] + t * segment[7]) * place.factor[0]
                    windows.y[target] = (segment[6] + t * segment[8]) * place.factor[1]


@inline
def _fill_border(mesh, low, high, level, place, windows):
    most = 2 * (mesh.w - 1) + 2 * (mesh.h - 1)
    memory = doubles(13 * most + 4)
    segments, boxes = elements(memory), tail(memory, 9 * most)
    count = _fill_outline(mesh, place, segments, boxes)
    _fill_targets(segments, boxes, count, low, high, level, place, windows)
    hold(memory)


# --- all --------------------------------------------------------------------------------------------------------------


@inline
def _clear_rows(low, high, width, at, windows):
    fill_value(windows, at + low * width, at + high * width, -1.0)


@inline
def _fill_tiles(mesh, homography, low, high, end, level, place, room, real, windows):
    """The rows low .. high of a level by the tiles that own targets of low .. end."""
    widened, width = room.widened, level.width
    centre = vertices(mesh, place.x_unit, place.y_unit, 0, mesh.h, widened.vertices)
    cleared = high
    for i in range(mesh.h - 2, -1, -1):
        top, bottom = math.inf, -math.inf
        for j in range(mesh.w):
            at = 2 * (i * mesh.w + j) + 1
            upper, lower = widened.vertices[at], widened.vertices[at + 2 * mesh.w]
            top, bottom = min(top, min(upper, lower)), max(bottom, max(upper, lower))
        if bottom < low or top > end:
            continue
        # Rows are cleared when the first tile comes to them: they are still in the cache when they are written.
        needed = int(max(np.floor(top), low)) if top == top else low
        if needed < cleared:
            _clear_rows(needed, cleared, width, place.at, windows)
            cleared = needed
        convex_runs(widened, centre, i, low, end, float(level.extent_x), room.runs)
        _fill_row_of_tiles(mesh, i, homography, centre, level, place, room, real, windows)
    if cleared > low:
        _clear_rows(low, cleared, width, place.at, windows)


@inline
def _fill_unzoom_level(mesh, lost, homography, border, low, high, level, at, room, real, windows):
    """The rows low .. high of a level of one image."""
    end = min(high, level.extent_y)
    if level.source_y == 0 or level.source_x == 0 or level.extent_x == 0 or low >= end:
        _clear_rows(low, high, level.width, at, windows)
        return
    if lost:
        _clear_rows(low, high, level.width, at, windows)
        for r in range(low, end):
            begin = at + r * level.width
            fill_value(windows, begin, begin + level.extent_x, math.nan)
        return
    span = (level.source_x - 1.0, level.source_y - 1.0)
    factor = (span[0] / (mesh.w - 1), span[1] / (mesh.h - 1))
    place = Place(units(level.extent_x), units(level.extent_y), span, factor, at)
    _fill_tiles(mesh, homography, low, high, end, level, place, room, real, windows)
    if border:
        _fill_border(mesh, low, end, level, place, windows)


@inline
def _first_row_from(cost, of_level, height):
    """First row of a level that begins at a cost or after it."""
    return min(max(-(-cost * height // of_level), 0), height)


@inline
def _fill_images(meshes, shapes, costs, options, room, real, windows, tiles, part, parts):
    """What a part does: rows of levels, shared out by `costs`, those of whole levels."""
    homography, border = options
    total = 0
    for n in range(len(costs)):
        total += len(tiles) * costs[n]
    begin, end = part * total // parts, (part + 1) * total // parts
    cost, of_image, lost = 0, -1, False
    for b in range(len(tiles)):
        at, mesh = 0, mesh_of(meshes, b)
        for n in range(len(costs)):
            level = shape_of(b, n, shapes)
            low = _first_row_from(begin - cost, costs[n], level.height)
            high = _first_row_from(end - cost, costs[n], level.height)
            cost += costs[n]
            if low < high:
                if of_image != b:
                    of_image, lost = b, is_lost(mesh)
                some = (low, high, level, at, room, real, mesh_windows_of(windows, tiles, b))
                _fill_unzoom_level(mesh, lost, homography, border, *some)
            at += level.height * level.width


@parallel
def inverse(meshes, shapes, costs, homography, border, real, windows, tiles, part, parts):
    """Fills windows `[B, 2, P]` and tiles `[B, P]`. `real` has the type of the mesh."""
    h, w = meshes.shape[1], meshes.shape[2]
    count = (w - 1) * longest(shapes, 0)
    numbers, spans = doubles(2 * h * w + 2 * count + ROOM), integers(3 * (w - 1))
    vertices_at, left = elements(numbers), tail(numbers, 2 * h * w)
    runs = TileRuns(elements(spans), left, tail(left, count))
    room = InverseRoom(Mesh(vertices_at, h, w), runs, tail(left, 2 * count))
    _fill_images(meshes, shapes, costs, (homography, border), room, real, windows, tiles, part, parts)
    hold(numbers)
    hold(spans)
