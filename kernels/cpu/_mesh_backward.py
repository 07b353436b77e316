"""Gradient of positions on grids to the mesh: each tile gathers over the targets that it owns. No atomics."""

import numpy as np

from fastwarp.kernels.cpu._extents import extent
from fastwarp.kernels.cpu._mesh_forward import blend, columns, line, local
from fastwarp.kernels.cpu._mesh_geometry import edges, is_lost, perspective, quad
from fastwarp.kernels.cpu._mesh_gradient import (
    add,
    load,
    products,
    pull_inverse,
    store,
    to_corners,
    to_vertices,
    value_and_slopes,
)
from fastwarp.kernels.cpu._mesh_owners import convex_runs, units, vertices, winding_runs
from fastwarp.kernels.cpu._mesh_rows import LANES, Patch, sum_rows
from fastwarp.kernels.cpu._parallel import inline, jit, parallel
from fastwarp.kernels.cpu._vector import elements

_UNIT = (0.0, 1.0)  # normalised positions


@inline
def _first_row(i, targets, h):
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
def _zoom_run(grad_x, grad_y, at, begin, end, fraction, ends, tile, g, p, q, has_homography, span, sums):
    """Adds the targets begin .. end of a row of a zoom."""
    for k in range(begin, end):
        f = fraction[k]
        x, y = blend(ends[0], ends[1], f, has_homography)
        by_x = 0.0 if x < 0 or x > 1 else np.float64(grad_x[at + k]) * span[0]
        by_y = 0.0 if y < 0 or y > 1 else np.float64(grad_y[at + k]) * span[1]
        value = (x - tile[0][0], y - tile[0][1])
        sums = add(sums, products(tile, value, f, g, p, q, has_homography, by_x, by_y))
    return sums


@inline
def _unzoom_run(grad_x, grad_y, x, y, tiles, number, begin, end, tile, place, factor, pull, p, q, has_homography, sums):
    """Adds the targets begin .. end of an unzoom, where the tile is their owner."""
    for k in range(begin, end):
        if tiles[k] == number:
            f, g = np.float64(x[k]) * factor[0] - place[0], np.float64(y[k]) * factor[1] - place[1]
            value, by_f, by_g = value_and_slopes(tile, f, g, p, q, has_homography)
            grad_f, grad_g = np.float64(grad_x[k]) * pull[0], np.float64(grad_y[k]) * pull[1]
            to_x, to_y = pull_inverse(by_f, by_g, grad_f, grad_g)
            sums = add(sums, products(tile, value, f, g, p, q, has_homography, -to_x, -to_y))
    return sums


@inline
def _zoom(grad_x, grad_y, mesh, i, homography, extents, span, width, at, scratch, sums):
    """Adds one level of one image to the sums of a row of tiles."""
    h, w = mesh.shape[0], mesh.shape[1]
    fraction, first_of_tile = scratch
    columns(extents[1], w, fraction, first_of_tile)
    for j in range(w - 1):
        begin, end = first_of_tile[j], first_of_tile[j + 1]
        corners = quad(mesh, i, j)
        tile = edges(corners, _UNIT, _UNIT)
        p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
        total = load(sums, j)
        for r in range(_first_row(i, extents[0], h), _first_row(i + 1, extents[0], h)):
            _, g = local(r, extents[0], h)
            ends = line(corners, g, p, q)
            of_row = (at + r * width, begin, end, fraction, ends)
            total = _zoom_run(grad_x, grad_y, *of_row, tile, g, p, q, has_homography, span, total)
        store(sums, j, total)


@inline
def _unzoom(grad_x, grad_y, x, y, tiles, mesh, i, homography, extents, span, width, at, scratch, sums):
    """Adds one level of one image to the sums of a row of tiles."""
    h, w = mesh.shape[0], mesh.shape[1]
    widened, spans, left, right = scratch
    x_unit, y_unit = units(extents[1]), units(extents[0])
    centre = vertices(mesh, x_unit, y_unit, i, i + 2, widened)
    convex_runs(widened, centre, i, 0, extents[0], float(extents[1]), spans, left, right)
    runs = np.empty((2, 3))
    # A source of one pixel has no gradient.
    factor = ((w - 1) / span[0] if span[0] > 0 else 0.0, (h - 1) / span[1] if span[1] > 0 else 0.0)
    pull = (span[0] / (w - 1), span[1] / (h - 1))
    edges_of_runs = (elements(left), elements(right))
    values = ((elements(grad_x), elements(grad_y)), (elements(x), elements(y)), elements(tiles))
    for j in range(w - 1):
        first, last, run = spans[j, 0], spans[j, 1], spans[j, 2]
        if first == last:
            continue
        corners = quad(mesh, i, j)
        p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
        tile, place = edges(corners, _UNIT, _UNIT), (float(j), float(i))
        number = i * (w - 1) + j
        total = load(sums, j)
        if run >= 0 and width >= LANES:
            patch = Patch(tile, place, factor, pull, p, q)
            of_tile = (edges_of_runs, run, first, last, width, at, number, *values)
            total = sum_rows(patch, has_homography, *of_tile, total)
        else:
            for r in range(first, last):
                row = at + r * width
                for n in range(winding_runs(quad(widened, i, j), float(r), centre, float(extents[1]), runs)):
                    of_run = (number, row + int(runs[n, 0]), row + int(runs[n, 1]), tile, place, factor, pull)
                    total = _unzoom_run(grad_x, grad_y, x, y, tiles, *of_run, p, q, has_homography, total)
        store(sums, j, total)


@parallel
def backward(
    grad, mesh, windows, tiles, sizes, source_sizes, inverse, homography, valid, source_valid, by_tile, part, parts
):
    """Fills `by_tile` `[meshes, h - 1, w - 1, 4, 2]` with the gradients of every tile's corners."""
    h, w = mesh.shape[1], mesh.shape[2]
    rows, longest = max(sizes[::2].max(), 1), max(sizes[1::2].max(), 1)
    runs = (np.empty((w - 1, 3), np.int64), np.empty((w - 1) * rows), np.empty((w - 1) * rows))
    unzoom = (np.empty((h, w, 2)), *runs)
    zoom = (np.empty(longest), np.empty(w, np.int64))
    sums = np.empty((w - 1, 8))
    # Rows of tiles in turn: their heights differ ten times, and near ones are alike.
    for unit in range(part, len(mesh) * (h - 1), parts):
        m, i = unit // (h - 1), unit % (h - 1)
        if is_lost(mesh[m]):
            by_tile[m, i] = np.nan
            continue
        sums[:] = 0
        for b in range(m, len(tiles), len(mesh)):
            at = 0
            for level in range(len(sizes) // 2):
                height, width = sizes[2 * level], sizes[2 * level + 1]
                extents = (extent(valid, b, level, 0, height), extent(valid, b, level, 1, width))
                sources = (
                    extent(source_valid, b, level, 0, source_sizes[2 * level]),
                    extent(source_valid, b, level, 1, source_sizes[2 * level + 1]),
                )
                if min(extents) > 0 and min(sources) > 0:
                    span = (sources[1] - 1.0, sources[0] - 1.0)
                    of_level = (mesh[m], i, homography, extents, span, width, at)
                    by_x, by_y = grad[b, 0], grad[b, 1]
                    if inverse:
                        _unzoom(by_x, by_y, windows[b, 0], windows[b, 1], tiles[b], *of_level, unzoom, sums)
                    else:
                        _zoom(by_x, by_y, *of_level, zoom, sums)
                at += height * width
        for j in range(w - 1):
            corners = quad(mesh[m], i, j)
            p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
            to_corners(load(sums, j), corners, p, q, has_homography, by_tile[m, i, j])


@jit
def sum_vertices(by_tile, result):
    for m in range(len(result)):
        to_vertices(by_tile[m], result[m])
