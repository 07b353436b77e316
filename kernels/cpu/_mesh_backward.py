"""Gradient of positions on grids to the mesh: each tile gathers over the targets that it owns. No atomics."""

from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._levels import level_count, shape_of
from fastwarp.kernels.cpu._memory import doubles, integers
from fastwarp.kernels.cpu._mesh_forward import Columns, blend, find_columns, line, local
from fastwarp.kernels.cpu._mesh_owners import ROOM, TileRuns, convex_runs, units, vertices, winding_runs
from fastwarp.kernels.cpu._mesh_rows import Patch, Rows, sum_tile_rows
from fastwarp.kernels.cpu._mesh_tile import (
    UNIT,
    Mesh,
    add,
    is_lost,
    load_sums,
    longest,
    mesh_of,
    mesh_windows_of,
    products,
    pull_inverse,
    quad,
    store_sums,
    tile_of,
    to_corners,
    to_vertices,
    value_and_slopes,
)
from fastwarp.kernels.cpu._parallel import inline, jit, parallel
from fastwarp.kernels.cpu._rows import LANES
from fastwarp.kernels.cpu._vector import elements, hold, tail


class GradientRoom(NamedTuple):
    """Working memory: what a zoom knows of the columns; vertices in target units, what `convex_runs` fills and what
    `winding_runs` needs; the sums of a row of tiles."""

    columns: Any
    widened: Any
    runs: Any
    winding: Any
    sums: Any


class Grads(NamedTuple):
    """Gradients to x and y of the targets of an image, as pointers."""

    x: Any
    y: Any


@inline
def _first_target_row(i, targets, h):
    """First row of targets of a row of tiles of a zoom."""
    low, high = 0, targets
    while low < high:
        middle = (low + high) // 2
        if local(middle, targets, h)[0] < i:
            low = middle + 1
        else:
            high = middle
    return low


@inline
def _zoom_run(grads, at, begin, end, columns, ends, tile, g, span, sums):
    """Adds the targets begin .. end of a row of a zoom."""
    for k in range(begin, end):
        f = columns.fraction[k]
        x, y = blend(ends[0], ends[1], f, tile.has_homography)
        by_x = 0.0 if x < 0 or x > 1 else np.float64(grads.x[at + k]) * span[0]
        by_y = 0.0 if y < 0 or y > 1 else np.float64(grads.y[at + k]) * span[1]
        sums = add(sums, products(tile, (x - tile.a[0], y - tile.a[1]), f, g, by_x, by_y))
    return sums


@inline
def _unzoom_run(grads, windows, number, begin, end, patch, sums):
    """Adds the targets begin .. end of an unzoom, where the tile is their owner."""
    tile, place, factor, pull = patch
    for k in range(begin, end):
        if windows.tiles[k] == number:
            f = np.float64(windows.x[k]) * factor[0] - place[0]
            g = np.float64(windows.y[k]) * factor[1] - place[1]
            value, by_f, by_g = value_and_slopes(tile, f, g)
            grad_f, grad_g = np.float64(grads.x[k]) * pull[0], np.float64(grads.y[k]) * pull[1]
            to_x, to_y = pull_inverse(by_f, by_g, grad_f, grad_g)
            sums = add(sums, products(tile, value, f, g, -to_x, -to_y))
    return sums


@inline
def _pull_zoom(grads, mesh, i, homography, level, at, room):
    """Adds one level of one image to the sums of a row of tiles."""
    h, w, columns = mesh.h, mesh.w, room.columns
    span = (level.source_x - 1.0, level.source_y - 1.0)
    find_columns(level.extent_x, w, columns)
    first, last = _first_target_row(i, level.extent_y, h), _first_target_row(i + 1, level.extent_y, h)
    for j in range(w - 1):
        begin, end = columns.first[j], columns.first[j + 1]
        corners = quad(mesh, i, j)
        tile = tile_of(corners, UNIT, UNIT, homography)
        total = load_sums(room.sums, j)
        for r in range(first, last):
            _, g = local(r, level.extent_y, h)
            ends = line(corners, g, tile.p, tile.q)
            total = _zoom_run(grads, at + r * level.width, begin, end, columns, ends, tile, g, span, total)
        store_sums(room.sums, j, total)


@inline
def _pull_unzoom(grads, windows, mesh, i, homography, level, at, room):
    """Adds one level of one image to the sums of a row of tiles."""
    h, w, width, extent = mesh.h, mesh.w, level.width, float(level.extent_x)
    widened, (spans, left, right), runs = room.widened, room.runs, room.winding
    x_unit, y_unit = units(level.extent_x), units(level.extent_y)
    centre = vertices(mesh, x_unit, y_unit, i, i + 2, widened.vertices)
    convex_runs(widened, centre, i, 0, level.extent_y, extent, room.runs)
    span = (level.source_x - 1.0, level.source_y - 1.0)
    # A source of one pixel has no gradient.
    factor = ((w - 1) / span[0] if span[0] > 0 else 0.0, (h - 1) / span[1] if span[1] > 0 else 0.0)
    pull = (span[0] / (w - 1), span[1] / (h - 1))
    for j in range(w - 1):
        first, last, run = spans[3 * j], spans[3 * j + 1], spans[3 * j + 2]
        if first == last:
            continue
        patch = Patch(tile_of(quad(mesh, i, j), UNIT, UNIT, homography), (float(j), float(i)), factor, pull)
        number = i * (w - 1) + j
        total = load_sums(room.sums, j)
        if run >= 0 and width >= LANES:
            rows = Rows(tail(left, run), tail(right, run), first, last, width, at, number)
            total = sum_tile_rows(patch, rows, grads.x, grads.y, windows, total)
        else:
            for r in range(first, last):
                row = at + r * width
                for n in range(winding_runs(quad(widened, i, j), float(r), centre, extent, runs)):
                    some = (row + int(runs[3 * n]), row + int(runs[3 * n + 1]))
                    total = _unzoom_run(grads, windows, number, *some, patch, total)
        store_sums(room.sums, j, total)


@inline
def _sum_tiles(grad, meshes, windows, tiles, shapes, options, m, i, room):
    """Adds all levels of all images of a mesh to the sums of a row of tiles."""
    mesh, count, (inverse, homography) = mesh_of(meshes, m), tiles.shape[1], options
    for b in range(m, len(tiles), len(meshes)):
        at = 0
        grads = Grads(tail(grad, 2 * b * count), tail(grad, (2 * b + 1) * count))
        for n in range(level_count(shapes)):
            level = shape_of(b, n, shapes)
            if min(level.extent_y, level.extent_x) > 0 and min(level.source_y, level.source_x) > 0:
                if inverse:
                    _pull_unzoom(grads, mesh_windows_of(windows, tiles, b), mesh, i, homography, level, at, room)
                else:
                    _pull_zoom(grads, mesh, i, homography, level, at, room)
            at += level.height * level.width


@inline
def _sum_meshes(grad, meshes, windows, tiles, shapes, options, room, by_tile, part, parts):
    """What a part does: rows of tiles in turn, because their heights differ ten times, and near ones are alike."""
    h, w = meshes.shape[1], meshes.shape[2]
    for unit in range(part, len(meshes) * (h - 1), parts):
        m, i = unit // (h - 1), unit % (h - 1)
        mesh, result = mesh_of(meshes, m), tail(by_tile, 8 * unit * (w - 1))
        if is_lost(mesh):
            for n in range(8 * (w - 1)):
                result[n] = np.nan
            continue
        for n in range(8 * (w - 1)):
            room.sums[n] = 0
        _sum_tiles(grad, meshes, windows, tiles, shapes, options, m, i, room)
        for j in range(w - 1):
            to_corners(load_sums(room.sums, j), quad(mesh, i, j), options[1], tail(result, 8 * j))


@parallel
def backward(grad, meshes, windows, tiles, shapes, inverse, homography, by_tile, part, parts):
    """Fills `by_tile` `[meshes, h - 1, w - 1, 4, 2]` with the gradients of every tile's corners."""
    h, w = meshes.shape[1], meshes.shape[2]
    longest_row, count = longest(shapes, 1), (w - 1) * longest(shapes, 0)
    memory, counts = doubles(longest_row + 2 * h * w + 2 * count + ROOM + 8 * (w - 1)), integers(w + 3 * (w - 1))
    fraction, first = elements(memory), elements(counts)
    widened = tail(fraction, longest_row)
    left = tail(widened, 2 * h * w)
    winding = tail(left, 2 * count)
    runs = TileRuns(tail(first, w), left, tail(left, count))
    room = GradientRoom(Columns(fraction, first), Mesh(widened, h, w), runs, winding, tail(winding, ROOM))
    options = inverse, homography
    _sum_meshes(grad, meshes, windows, tiles, shapes, options, room, elements(by_tile), part, parts)
    hold(memory)
    hold(counts)


@jit
def sum_vertices(by_tile, result):
    """Gradients of meshes `[meshes, h, w, 2]` from those of their tiles' corners."""
    h, w = result.shape[1], result.shape[2]
    for m in range(len(result)):
        to_vertices(tail(by_tile, 8 * m * (h - 1) * (w - 1)), tail(result, 2 * m * h * w), h, w)
