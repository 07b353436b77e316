"""One tile of a quad mesh: its corners, its map T~ and the inverse, in float64.

Tile (i, j) has the corners A, B (right), C (below), D and E = B - A, F = C - A, G = (A - B) + (D - C).
Bilinear: T~ = A + fE + gF + fgG. Homography: T~ = (A + f(E + pB) + g(F + qC)) / (1 + pf + qg).
"""

import math

import numpy as np

from fastwarp.kernels.cpu._parallel import exact, inline

RIM = 1.0 / 64  # a preimage may lie this far out of its tile, in tiles


@inline
def units(extent):
    """Origin and length of an axis in units of its `extent` targets: position x is target (x - origin) * length."""
    return (0.0, extent - 1.0) if extent > 1 else (0.5, 1.0)


@inline
def corners(mesh, i, j, x_unit, y_unit):
    """A, E, F, G of a tile in target units."""
    x_start, x_length = x_unit
    y_start, y_length = y_unit
    a, b = mesh[i, j], mesh[i, j + 1]
    c, d = mesh[i + 1, j], mesh[i + 1, j + 1]
    ax, ay = np.float64(a[0]), np.float64(a[1])
    bx, by = np.float64(b[0]), np.float64(b[1])
    cx, cy = np.float64(c[0]), np.float64(c[1])
    dx, dy = np.float64(d[0]), np.float64(d[1])
    e = (bx - ax) * x_length, (by - ay) * y_length
    f = (cx - ax) * x_length, (cy - ay) * y_length
    g = ((ax - bx) + (dx - cx)) * x_length, ((ay - by) + (dy - cy)) * y_length
    return ((ax - x_start) * x_length, (ay - y_start) * y_length), e, f, g


@exact
def cross(a, b):
    """The product a x b."""
    return a[0] * b[1] - a[1] * b[0]


@exact
def perspective(mesh, i, j):
    """p, q of a tile's homography; 0, 0 and False where it has none and is treated as bilinear."""
    a, b = mesh[i, j], mesh[i, j + 1]
    c, d = mesh[i + 1, j], mesh[i + 1, j + 1]
    ax, ay = np.float64(a[0]), np.float64(a[1])
    bx, by = np.float64(b[0]), np.float64(b[1])
    cx, cy = np.float64(c[0]), np.float64(c[1])
    dx, dy = np.float64(d[0]), np.float64(d[1])
    g = ((ax - bx) + (dx - cx), (ay - by) + (dy - cy))
    d1, d2 = (bx - dx, by - dy), (cx - dx, cy - dy)
    area = cross(d1, d2)
    p, q = cross(g, d2) / area, cross(d1, g) / area
    if area == 0 or not abs(area) < math.inf or not (1.0 + p > 0 and 1.0 + q > 0 and 1.0 + p + q > 0):
        return 0.0, 0.0, False
    return p, q, True


@inline
def _clamp(f):
    return min(max(f, -RIM), 1.0 + RIM)


@inline
def solve(x, y, tile, p, q, has_homography, turn, clamped):
    """Local position f, g in a tile of the point (x, y), and whether it has one: of two, that where det J has the sign
    of `turn`. Never 0/0.

    Where the tile is collapsed to a line or a point, or has no preimage, some finite position; `clamped` to the tile and
    its rim.
    """
    a, e, f, g = tile
    d = (x - a[0], y - a[1])
    area = cross(e, f)
    if has_homography:
        across, along = (1.0 + q) * cross(d, f), (1.0 + p) * cross(e, d)
        depth = (1.0 + p) * (1.0 + q) * area - q * along - p * across
        u, v = across / depth, along / depth
        real = depth != 0
    else:
        quadratic, linear, constant = cross(g, f), cross(d, g) + area, cross(d, e)
        disc = linear * linear - 4.0 * quadratic * constant
        real = disc >= 0
        root = math.copysign(math.sqrt(max(disc, 0.0)), turn)
        if linear + root == 0:
            length = f[0] * f[0] + f[1] * f[1]
            v = (d[0] * f[0] + d[1] * f[1]) / length if length > 0 else 0.0
        elif linear * root >= 0:
            v = -2.0 * constant / (linear + root)
        else:
            v = (root - linear) / (2.0 * quadratic)
        if clamped:
            v = _clamp(v)
        along_x, along_y = e[0] + v * g[0], e[1] + v * g[1]
        length = along_x * along_x + along_y * along_y
        u = ((d[0] - v * f[0]) * along_x + (d[1] - v * f[1]) * along_y) / length if length > 0 else 0.0
    if clamped:
        u, v = _clamp(u), _clamp(v)
        u, v = u if u == u else 0.0, v if v == v else 0.0
    return u, v, real


# --- ownership: which targets a tile encloses -------------------------------------------------------------------------


@exact
def vertices(mesh, x_unit, y_unit, x, y):
    """Fills `x`, `y` `[h, w]` with the vertices in target units, the mesh a millionth larger about its centre: targets
    on its outline are then inside. Where one coordinate is NaN, both are."""
    h, w = x.shape
    last_i, last_j = h - 1, w - 1
    for axis in range(2):
        start, length = x_unit if axis == 0 else y_unit
        result = x if axis == 0 else y
        top = np.float64(mesh[0, 0, axis]) + np.float64(mesh[0, last_j, axis])
        centre = 0.25 * ((top + np.float64(mesh[last_i, 0, axis])) + np.float64(mesh[last_i, last_j, axis]))
        for i in range(h):
            for j in range(w):
                m = np.float64(mesh[i, j, axis])
                result[i, j] = ((m + (m - centre) * 2.0**-19) - start) * length
    for i in range(h):
        for j in range(w):
            if x[i, j] != x[i, j]:
                y[i, j] = x[i, j]


@exact
def _first_right(xa, ya, slope, row, extent):
    """First target of a row that is right of an edge; `extent` where none is."""
    k = np.ceil(xa + (row - ya) * slope)
    return max(k, 0.0) if k < extent else extent


@exact
def _edge(xa, ya, xb, yb, first, low, high, extent, left, right):
    """Takes an edge's crossings with the rows low .. high into their least and greatest, kept from row `first` on."""
    begin = int(min(max(np.ceil(min(ya, yb)), low), high))
    end = int(min(max(np.ceil(max(ya, yb)), low), high))
    slope = (xb - xa) / (yb - ya)
    for row in range(begin, end):
        k = _first_right(xa, ya, slope, np.float64(row), extent)
        left[row - first] = min(left[row - first], k)
        right[row - first] = max(right[row - first], k)
    return end - begin


@exact
def _crossing(xa, ya, xb, yb, sign, row, extent, at, signs, count):
    """Inserts an edge's crossing with a row into the sorted list `at`."""
    if not min(ya, yb) <= row < max(ya, yb):
        return count
    k = _first_right(xa, ya, (xb - xa) / (yb - ya), row, extent)
    where = count
    while where > 0 and at[where - 1] > k:
        at[where], signs[where] = at[where - 1], signs[where - 1]
        where -= 1
    at[where], signs[where] = k, sign if yb > ya else -sign
    return count + 1


@exact
def _winding_runs(x, y, i, j, first, last, extent, left, right, turn):
    """Runs of targets with a winding number that is not 0, for any tile. A row has up to two."""
    at, signs = np.empty(4), np.empty(4, np.int64)
    corner = ((i, j), (i, j + 1), (i + 1, j), (i + 1, j + 1))
    for row in range(first, last):
        count = 0
        # A -> B, B -> D, D -> C, C -> A, each from its lower vertex index: the sign says which way the tile goes.
        for a, b, sign in ((0, 1, 1), (1, 3, 1), (2, 3, -1), (0, 2, -1)):
            xa, ya, xb, yb = x[corner[a]], y[corner[a]], x[corner[b]], y[corner[b]]
            count = _crossing(xa, ya, xb, yb, sign, np.float64(row), extent, at, signs, count)
        for run in range(2):
            left[run, row - first], right[run, row - first] = extent, 0.0
        winding, run = 0, 0
        for n in range(count):
            before = winding
            winding += signs[n]
            if before == 0 and winding != 0:
                left[run, row - first], turn[run, row - first] = at[n], -winding  # y points down
            elif before != 0 and winding == 0:
                right[run, row - first] = at[n]
                run += 1


@exact
def _orientation(x, y, i, j):
    """Sign of det J where a tile's corners agree about it, the tile being convex, otherwise 0."""
    xa, xb, xc, xd = x[i, j], x[i, j + 1], x[i + 1, j], x[i + 1, j + 1]
    ya, yb, yc, yd = y[i, j], y[i, j + 1], y[i + 1, j], y[i + 1, j + 1]
    ab, ac, cd, bd = (xb - xa, yb - ya), (xc - xa, yc - ya), (xd - xc, yd - yc), (xd - xb, yd - yb)
    a, b, c, d = cross(ab, ac), cross(ab, bd), cross(cd, ac), cross(cd, bd)
    if a > 0 and b > 0 and c > 0 and d > 0:
        return 1.0
    return -1.0 if a < 0 and b < 0 and c < 0 and d < 0 else 0.0


@exact
def tile_runs(x, y, i, j, low, high, extent, left, right, turn):
    """The targets that a tile encloses: `left[n, row - first] <= k < right[n, row - first]`.

    Args:
        x: vertices as `vertices` makes them.
        y: likewise.
        i: row of the tile.
        j: column of the tile.
        low: first row of interest.
        high: the row after the last.
        extent: targets in a row.
        left: `[2, at least high - low]`, float64, whole numbers.
        right: likewise.
        turn: likewise: the sign of det J where T~ is one to one there.

    Returns:
        First row, the row after the last, and how many runs a row can have: 0, 1 (a convex tile), or 2.
    """
    ya, yb, yc, yd = y[i, j], y[i, j + 1], y[i + 1, j], y[i + 1, j + 1]
    top, bottom = min(min(ya, yb), min(yc, yd)), max(max(ya, yb), max(yc, yd))
    if ya != ya or yb != yb or yc != yc or yd != yd:
        return low, low, 0
    first = int(min(max(np.ceil(top), low), high))
    last = int(min(max(np.ceil(bottom), low), high))
    if first == last:
        return low, low, 0
    xa, xb, xc, xd = x[i, j], x[i, j + 1], x[i + 1, j], x[i + 1, j + 1]
    begin, end = min(min(xa, xb), min(xc, xd)), max(max(xa, xb), max(xc, xd))
    rounding = (abs(begin) + abs(end)) * 2.0**-40  # a crossing may round to slightly outside of its edge
    if np.ceil(begin - rounding) > np.floor(end + rounding) or end + rounding < 0 or begin - rounding > extent - 1:
        return low, low, 0
    orientation = _orientation(x, y, i, j)
    for row in range(last - first):
        left[0, row], right[0, row], turn[0, row] = extent, 0.0, orientation
    count = _edge(xa, ya, xb, yb, first, first, last, extent, left[0], right[0])
    count += _edge(xa, ya, xc, yc, first, first, last, extent, left[0], right[0])
    count += _edge(xb, yb, xd, yd, first, first, last, extent, left[0], right[0])
    count += _edge(xc, yc, xd, yd, first, first, last, extent, left[0], right[0])
    if orientation != 0 and count == 2 * (last - first):  # otherwise a row may cross all four edges
        return first, last, 1
    _winding_runs(x, y, i, j, first, last, extent, left, right, turn)
    return first, last, 2
