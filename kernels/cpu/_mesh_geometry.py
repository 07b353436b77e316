"""One tile of a quad mesh: its corners, its map T~ and the inverse, in float64.

Tile (i, j) has the corners A, B (right), C (below), D and E = B - A, F = C - A, G = (A - B) + (D - C).
Bilinear: T~ = A + fE + gF + fgG. Homography: T~ = (A + f(E + pB) + g(F + qC)) / (1 + pf + qg).
"""

import math

import numpy as np

from fastwarp.kernels.cpu._parallel import exact, inline

RIM = 1.0 / 64
"""A preimage may lie this far out of its tile, in tiles."""

_FLATTEST = 2.0**-10  # a homography with a smaller weight at a corner, relative to the largest, is all but a triangle


@inline
def quad(mesh, i, j):
    """Corners A, B, C, D of a tile."""
    a = (np.float64(mesh[i, j, 0]), np.float64(mesh[i, j, 1]))
    b = (np.float64(mesh[i, j + 1, 0]), np.float64(mesh[i, j + 1, 1]))
    c = (np.float64(mesh[i + 1, j, 0]), np.float64(mesh[i + 1, j, 1]))
    d = (np.float64(mesh[i + 1, j + 1, 0]), np.float64(mesh[i + 1, j + 1, 1]))
    return a, b, c, d


@inline
def is_lost(mesh):
    """Whether a vertex of a mesh `[h, w, 2]` is NaN: then everything of its image is."""
    for i in range(mesh.shape[0]):
        for j in range(mesh.shape[1]):
            if math.isnan(mesh[i, j, 0]) or math.isnan(mesh[i, j, 1]):
                return True
    return False


@exact
def cross(a, b):
    """The product a x b."""
    return a[0] * b[1] - a[1] * b[0]


@inline
def edges(corners, x_unit, y_unit):
    """A, E, F, G in target units."""
    a, b, c, d = corners
    x, y = x_unit[1], y_unit[1]
    e = (b[0] - a[0]) * x, (b[1] - a[1]) * y
    f = (c[0] - a[0]) * x, (c[1] - a[1]) * y
    g = ((a[0] - b[0]) + (d[0] - c[0])) * x, ((a[1] - b[1]) + (d[1] - c[1])) * y
    return ((a[0] - x_unit[0]) * x, (a[1] - y_unit[0]) * y), e, f, g


@exact
def perspective(corners):
    """p, q of a tile's homography; 0, 0 and False where it has none and is treated as bilinear."""
    a, b, c, d = corners
    g = ((a[0] - b[0]) + (d[0] - c[0]), (a[1] - b[1]) + (d[1] - c[1]))
    d1, d2 = (b[0] - d[0], b[1] - d[1]), (c[0] - d[0], c[1] - d[1])
    area = cross(d1, d2)
    p, q = cross(g, d2) / area, cross(d1, g) / area
    least = min(min(1.0, 1.0 + p), min(1.0 + q, 1.0 + p + q))
    most = max(max(1.0, 1.0 + p), max(1.0 + q, 1.0 + p + q))
    if area == 0 or not abs(area) < math.inf or p + q != p + q or not least > _FLATTEST * most:
        return 0.0, 0.0, False
    return p, q, True


@inline
def _clamp(f):
    return min(max(f, -RIM), 1.0 + RIM)


@inline
def solve(x, y, tile, p, q, has_homography, turn, clamped):
    """Local position f, g in a tile of the point (x, y), and whether it has one: of two, that where det J has the sign
    of `turn`, 1 or -1. Never 0/0.

    Where the tile is collapsed to a line or a point, or has no preimage, some finite position; `clamped` to the tile
    and its rim.
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
        if linear * turn < 0:
            v = (root - linear) / (2.0 * quadratic)
        elif linear + root != 0:
            v = -2.0 * constant / (linear + root)
        else:
            length = f[0] * f[0] + f[1] * f[1]
            v = (d[0] * f[0] + d[1] * f[1]) / length if length > 0 else 0.0
        if clamped:
            v = _clamp(v)
        along_x, along_y = e[0] + v * g[0], e[1] + v * g[1]
        length = along_x * along_x + along_y * along_y
        u = ((d[0] - v * f[0]) * along_x + (d[1] - v * f[1]) * along_y) / length if length > 0 else 0.0
    if clamped:
        u, v = _clamp(u), _clamp(v)
        u, v = u if u == u else 0.0, v if v == v else 0.0
    return u, v, real
