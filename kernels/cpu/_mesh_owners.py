"""Which targets a tile encloses: watertight, the same on every backend, defined by `fastwarp.reference._mesh_tiles`.

An edge crosses a row of targets at one number, whichever of its two tiles asks, and a target is right of the edge or
not. All functions are exact: a fused multiply-add would move the crossings.
"""

from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._mesh_tile import cross, quad
from fastwarp.kernels.cpu._parallel import exact
from fastwarp.kernels.cpu._vector import tail


@exact
def units(extent):
    """Origin and length of an axis in units of its `extent` targets: position x is target (x - origin) * length."""
    return (0.0, extent - 1.0) if extent > 1 else (0.5, 1.0)


@exact
def _moved(m, above, beside):
    """A vertex of the outline, moved outwards by a part of the edges that lead to it."""
    return m + ((m - above) + (m - beside)) * 2.0**-10


@exact
def vertices(mesh, x_unit, y_unit, low, high, result):
    """Fills rows low .. high of `result` `[h, w, 2]` with the vertices in target units, and returns the mesh's centre.

    The outline reaches out by a thousandth of a tile: it owns what rounding puts outside. The y of a vertex that is not
    finite becomes NaN.
    """
    vertices, h, w = mesh
    for axis in range(2):
        start, length = x_unit if axis == 0 else y_unit
        for i in range(low, high):
            inner = 1 if i == 0 else (h - 2 if i == h - 1 else i)
            for j in range(w):
                beside = 1 if j == 0 else (w - 2 if j == w - 1 else j)
                at = 2 * (i * w + j) + axis
                m, above = np.float64(vertices[at]), np.float64(vertices[2 * (inner * w + j) + axis])
                result[at] = (_moved(m, above, np.float64(vertices[2 * (i * w + beside) + axis])) - start) * length
    for n in range(2 * low * w, 2 * high * w, 2):
        if not (abs(result[n]) < np.inf and abs(result[n + 1]) < np.inf):
            result[n + 1] = np.nan
    return _centre(vertices, h, w, 0, x_unit), _centre(vertices, h, w, 1, y_unit)


@exact
def _centre(vertices, h, w, axis, unit):
    """The mean of a mesh's four corners along an axis, in target units."""
    right, below = 2 * (w - 1), 2 * w * (h - 1)
    total = np.float64(vertices[axis]) + np.float64(vertices[right + axis])
    total = (total + np.float64(vertices[below + axis])) + np.float64(vertices[below + right + axis])
    return (0.25 * total - unit[0]) * unit[1]


# Ties go to the side of the centre, as if the mesh were infinitesimally larger about it.


@exact
def _after(x, centre):
    """The first whole number on the far side of x: of a row below a vertex, of a target right of a crossing."""
    return np.ceil(x) if x <= centre else np.floor(x) + 1.0


@exact
def _is_after(k, x, centre):
    return k > x or (k == x and x <= centre)


@exact
def _row_below(y, centre, low, high):
    """The first row below y, within low .. high."""
    return int(min(max(_after(y, centre), low), high))


@exact
def _first_right(xa, ya, slope, row, centre, extent):
    """First target of a row that is right of an edge; `extent` where none is."""
    k = _after(xa + (row - ya) * slope, centre)
    return max(k, 0.0) if k < extent else extent


@exact
def _crossing(a, b, sign, row, centre, extent, at, signs, count):
    """Inserts the crossing of edge a -> b with a row into the sorted list `at`."""
    from_above = _is_after(row, a[1], centre[1])
    if from_above == _is_after(row, b[1], centre[1]):
        return count
    k = _first_right(a[0], a[1], (b[0] - a[0]) / (b[1] - a[1]), row, centre[0], extent)
    where = count
    while where > 0 and at[where - 1] > k:
        at[where], signs[where] = at[where - 1], signs[where - 1]
        where -= 1
    at[where], signs[where] = k, sign if from_above else -sign
    return count + 1


ROOM = 14
"""Numbers that `winding_runs` works with."""


@exact
def winding_runs(corners, row, centre, extent, runs):
    """Runs of a row's targets with a winding number that is not 0, for any tile.

    Returns how many there are, up to two. `runs`, room for `ROOM` numbers, begins with three for each: the first
    target, the one after the last, and the sign of det J for a point that a tile turns around that way.
    """
    at, signs = tail(runs, 6), tail(runs, 10)
    a, b, c, d = corners
    # A -> B, B -> D, D -> C, C -> A, each from its lower vertex index: the sign says which way the tile goes.
    count = _crossing(a, b, 1.0, row, centre, extent, at, signs, 0)
    count = _crossing(b, d, 1.0, row, centre, extent, at, signs, count)
    count = _crossing(c, d, -1.0, row, centre, extent, at, signs, count)
    count = _crossing(a, c, -1.0, row, centre, extent, at, signs, count)
    winding, found = 0.0, 0
    for n in range(count):
        before = winding
        winding += signs[n]
        if before == 0 and winding != 0:
            runs[3 * found], runs[3 * found + 2] = at[n], -1.0 if winding > 0 else 1.0  # y points down
        elif before != 0 and winding == 0:
            runs[3 * found + 1] = at[n]
            found += 1
    return found


@exact
def _turn(a, b, sign, x, y, centre):
    """What an edge adds to the winding number about a point."""
    from_above = _is_after(y, a[1], centre[1])
    if from_above == _is_after(y, b[1], centre[1]):
        return 0.0
    if not _is_after(x, a[0] + (y - a[1]) * ((b[0] - a[0]) / (b[1] - a[1])), centre[0]):
        return 0.0
    return sign if from_above else -sign


@exact
def winding(corners, x, y, centre):
    """Winding number of a tile about a point."""
    a, b, c, d = corners
    turns = _turn(a, b, 1.0, x, y, centre) + _turn(b, d, 1.0, x, y, centre)
    return turns + _turn(c, d, -1.0, x, y, centre) + _turn(a, c, -1.0, x, y, centre)


@exact
def _is_convex(a, b, c, d):
    """The corners of a tile turn the same way."""
    ab, ac = (b[0] - a[0], b[1] - a[1]), (c[0] - a[0], c[1] - a[1])
    cd, bd = (d[0] - c[0], d[1] - c[1]), (d[0] - b[0], d[1] - b[1])
    turns = cross(ab, ac), cross(ab, bd), cross(cd, ac), cross(cd, bd)
    return min(turns) > 0 or max(turns) < 0


class TileRuns(NamedTuple):
    """The targets that the convex tiles of a row of tiles enclose, as `convex_runs` finds them."""

    spans: Any
    left: Any
    right: Any


@exact
def convex_runs(widened, centre, i, low, high, extent, runs):
    """The targets that the convex tiles of a row of tiles enclose.

    Row r of targets has `left[at + r - first] <= k < right[at + r - first]`.

    Args:
        widened: vertices as `vertices` makes them.
        centre: likewise.
        i: the row of tiles.
        low: first row of interest.
        high: the row after the last.
        extent: targets in a row.
        runs: `spans`, int64 `[w - 1, 3]`, gets the first row, the row after the last and `at` of each tile. Tiles that
            enclose nothing have no rows; for tiles that are not convex `at` is -1, and `winding_runs` finds the
            targets. `left` and `right` are float64, `(w - 1) * (high - low)` whole numbers.
    """
    spans, left, right = runs
    at = 0
    for j in range(widened.w - 1):
        a, b, c, d = quad(widened, i, j)
        spans[3 * j], spans[3 * j + 1], spans[3 * j + 2] = low, low, at
        # A vertex that is not finite: its tiles own nothing.
        if not (a[1] == a[1] and b[1] == b[1] and c[1] == c[1] and d[1] == d[1]):
            continue
        ya, yb = _row_below(a[1], centre[1], low, high), _row_below(b[1], centre[1], low, high)
        yc, yd = _row_below(c[1], centre[1], low, high), _row_below(d[1], centre[1], low, high)
        first, last = min(min(ya, yb), min(yc, yd)), max(max(ya, yb), max(yc, yd))
        if first == last:
            continue
        begin, end = min(min(a[0], b[0]), min(c[0], d[0])), max(max(a[0], b[0]), max(c[0], d[0]))
        rounding = (abs(begin) + abs(end)) * 2.0**-40  # a crossing may round to slightly outside of its edge
        begin, end = np.ceil(begin - rounding), np.floor(end + rounding)
        if begin > end or end < 0 or begin > extent - 1:
            continue
        count = 0
        for row in range(last - first):
            left[at + row], right[at + row] = extent, 0.0
        for p, q, row_p, row_q in ((a, b, ya, yb), (a, c, ya, yc), (b, d, yb, yd), (c, d, yc, yd)):
            slope = (q[0] - p[0]) / (q[1] - p[1])
            above, below = min(row_p, row_q), max(row_p, row_q)
            count += below - above
            for row in range(above, below):
                k = _first_right(p[0], p[1], slope, np.float64(row), centre[0], extent)
                left[at + row - first] = min(left[at + row - first], k)
                right[at + row - first] = max(right[at + row - first], k)
        # A row crosses two edges of a convex tile, and cannot cross more where they are only almost parallel.
        convex = _is_convex(a, b, c, d) and count == 2 * (last - first)
        spans[3 * j], spans[3 * j + 1], spans[3 * j + 2] = first, last, at if convex else -1
        at += last - first
