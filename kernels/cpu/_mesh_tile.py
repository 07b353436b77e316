"""One tile of a quad mesh: its corners, its map T~, the inverse, and their gradients to the corners, in float64.

Tile (i, j) has the corners A, B (right), C (below), D and E = B - A, F = C - A, G = (A - B) + (D - C).
Bilinear: T~ = A + fE + gF + fgG. Homography: T~ = (A + f(E + pB) + g(F + qC)) / (1 + pf + qg).

A tile sums eight products of its targets, from which the gradients of its corners follow. With lambda the gradient to
T~ (for the inverse -J^-T times the gradient to the zoomed position) they are, for x and y, lambda times 1, f, g, fg. In
a homography they are lambda / (1 + pf + qg) times 1, f, g, and the two sums by which p and q move.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastwarp.kernels.cpu._levels import level_count
from fastwarp.kernels.cpu._parallel import exact, inline
from fastwarp.kernels.cpu._vector import elements, tail

RIM = 1.0 / 64
"""A preimage may lie this far out of its tile, in tiles."""

SINGULAR = 1e-12
"""A Jacobian whose determinant is smaller than this, relative to its columns, has no inverse and no gradient."""

UNIT = (0.0, 1.0)
"""Origin and length of an axis in normalised positions."""

_FLATTEST = 2.0**-10  # a homography with a smaller weight at a corner, relative to the largest, is all but a triangle


class Mesh(NamedTuple):
    """Vertices `[h, w, 2]` as a pointer."""

    vertices: Any
    h: Any
    w: Any


class Tile(NamedTuple):
    """A, E, F, G in some units, and the homography of a tile: p, q and whether it has one."""

    a: Any
    e: Any
    f: Any
    g: Any
    p: Any
    q: Any
    has_homography: Any


class MeshWindows(NamedTuple):
    """What the targets of an image read, x and y, and their tiles, as pointers."""

    x: Any
    y: Any
    tiles: Any


@inline
def mesh_of(meshes, b):
    """The `Mesh` of entry b of a batch `[1 or B, h, w, 2]`."""
    h, w = meshes.shape[1], meshes.shape[2]
    return Mesh(tail(meshes, 2 * h * w * (b if len(meshes) > 1 else 0)), h, w)


@inline
def mesh_windows_of(windows, tiles, b):
    """The `MeshWindows` of entry b of a batch: `[B, 2, P]` and `[B, P]`."""
    count = tiles.shape[1]
    return MeshWindows(tail(windows, 2 * b * count), tail(windows, (2 * b + 1) * count), tail(tiles, b * count))


@inline
def longest(shapes, axis):
    """The most rows (axis 0) or columns of targets of all levels, 1 at least."""
    most, sizes = 1, elements(shapes[0])
    for n in range(level_count(shapes)):
        most = max(most, sizes[2 * n + axis])
    return most


@inline
def quad(mesh, i, j):
    """Corners A, B, C, D of a tile."""
    at, line = 2 * (i * mesh.w + j), 2 * mesh.w
    return _vertex(mesh, at), _vertex(mesh, at + 2), _vertex(mesh, at + line), _vertex(mesh, at + line + 2)


@inline
def _vertex(mesh, at):
    return np.float64(mesh.vertices[at]), np.float64(mesh.vertices[at + 1])


@inline
def is_lost(mesh):
    """Whether a vertex of a mesh is NaN: then everything of its image is."""
    lost = False
    for n in range(2 * mesh.h * mesh.w):
        lost = lost or math.isnan(mesh.vertices[n])
    return lost


@exact
def cross(a, b):
    """The product a x b."""
    return a[0] * b[1] - a[1] * b[0]


@inline
def tile_of(corners, x_unit, y_unit, homography):
    """The `Tile` of some corners, in target units."""
    a, b, c, d = corners
    x, y = x_unit[1], y_unit[1]
    e = (b[0] - a[0]) * x, (b[1] - a[1]) * y
    f = (c[0] - a[0]) * x, (c[1] - a[1]) * y
    g = ((a[0] - b[0]) + (d[0] - c[0])) * x, ((a[1] - b[1]) + (d[1] - c[1])) * y
    p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
    return Tile(((a[0] - x_unit[0]) * x, (a[1] - y_unit[0]) * y), e, f, g, p, q, has_homography)


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
def solve(x, y, tile, turn, clamped):
    """Local position f, g in a tile of the point (x, y), and whether it has one: of two, that where det J has the sign
    of `turn`, 1 or -1. Never 0/0.

    Where the tile is collapsed to a line or a point, or has no preimage, some finite position; `clamped` to the tile
    and its rim.
    """
    a, e, f, g, p, q, has_homography = tile
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


# --- gradients ------------------------------------------------------------------------------------------------------


@inline
def value_and_slopes(tile, f, g):
    """T~ relative to corner A, dT~/df, dT~/dg."""
    _, e, t, c, p, q, has_homography = tile
    if has_homography:
        scale = 1.0 / (1.0 + p * f + q * g)
        ex, ey, tx, ty = (1.0 + p) * e[0], (1.0 + p) * e[1], (1.0 + q) * t[0], (1.0 + q) * t[1]
        x, y = (f * ex + g * tx) * scale, (f * ey + g * ty) * scale
        return (x, y), ((ex - p * x) * scale, (ey - p * y) * scale), ((tx - q * x) * scale, (ty - q * y) * scale)
    by_f, by_g = (e[0] + g * c[0], e[1] + g * c[1]), (t[0] + f * c[0], t[1] + f * c[1])
    return (f * e[0] + g * by_g[0], f * e[1] + g * by_g[1]), by_f, by_g


@inline
def is_singular(by_f, by_g):
    """Whether a Jacobian with these columns has no inverse to speak of; also where it is NaN."""
    det = cross(by_f, by_g)
    size = (by_f[0] * by_f[0] + by_f[1] * by_f[1]) * (by_g[0] * by_g[0] + by_g[1] * by_g[1])
    return not det * det > SINGULAR * SINGULAR * size


@inline
def pull_inverse(by_f, by_g, grad_f, grad_g):
    """J^-T (grad_f, grad_g): the gradient to x of T~^-1(x); 0 where J is singular."""
    if is_singular(by_f, by_g):
        return 0.0, 0.0
    det = cross(by_f, by_g)
    return (grad_f * by_g[1] - grad_g * by_f[1]) / det, (grad_g * by_f[0] - grad_f * by_g[0]) / det


@inline
def products(tile, value, f, g, x, y):
    """What a target adds to the eight sums of its tile; (x, y) is its lambda."""
    if tile.has_homography:
        scale = 1.0 / (1.0 + tile.p * f + tile.q * g)
        x, y = x * scale, y * scale
        e, t = tile.e, tile.f
        by_p = f * (x * (e[0] - value[0]) + y * (e[1] - value[1]))
        by_q = g * (x * (t[0] - value[0]) + y * (t[1] - value[1]))
        return x, f * x, g * x, by_p, y, f * y, g * y, by_q
    return x, f * x, g * x, f * g * x, y, f * y, g * y, f * g * y


@inline
def add(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5], a[6] + b[6], a[7] + b[7]


@inline
def load_sums(sums, j):
    """The eight sums of tile j of `[tiles, 8]`."""
    a, b, c, d = sums[8 * j], sums[8 * j + 1], sums[8 * j + 2], sums[8 * j + 3]
    return a, b, c, d, sums[8 * j + 4], sums[8 * j + 5], sums[8 * j + 6], sums[8 * j + 7]


@inline
def store_sums(sums, j, values):
    """Writes the eight sums of tile j."""
    for n in range(8):
        sums[8 * j + n] = values[n]


@inline
def _turned(v, scale):
    """Gradient of a x v to a; to b of v x b it is the negative."""
    return v[1] * scale, -v[0] * scale


@inline
def to_corners(sums, corners, homography, result):
    """Writes the gradients of the corners A, B, C, D to `result` `[4, 2]`."""
    if sums == (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0):  # also where a corner is infinite
        for n in range(8):
            result[n] = 0
        return
    p, q, has_homography = perspective(corners) if homography else (0.0, 0.0, False)
    if not has_homography:
        for axis in range(2):
            one, f, g, fg = sums[4 * axis], sums[4 * axis + 1], sums[4 * axis + 2], sums[4 * axis + 3]
            result[axis], result[2 + axis] = one - f - g + fg, f - fg
            result[4 + axis], result[6 + axis] = g - fg, fg
        return
    a, b, c, d = corners
    g = (a[0] - b[0]) + (d[0] - c[0]), (a[1] - b[1]) + (d[1] - c[1])
    d1, d2 = (b[0] - d[0], b[1] - d[1]), (c[0] - d[0], c[1] - d[1])
    area = cross(d1, d2)
    by_p, by_q = sums[3] / area, sums[7] / area
    by_area = -(p * by_p + q * by_q)
    # p = (G x d2) / (d1 x d2), q = (d1 x G) / (d1 x d2)
    p_to_g, q_to_g = _turned(d2, by_p), _turned(d1, -by_q)
    p_to_2, q_to_1 = _turned(g, -by_p), _turned(g, by_q)
    area_to_1, area_to_2 = _turned(d2, by_area), _turned(d1, -by_area)
    for axis in range(2):
        one, f, g_sum = sums[4 * axis], sums[4 * axis + 1], sums[4 * axis + 2]
        to_g = p_to_g[axis] + q_to_g[axis]
        to_1, to_2 = q_to_1[axis] + area_to_1[axis], p_to_2[axis] + area_to_2[axis]
        result[axis] = one - f - g_sum + to_g
        result[2 + axis] = (1.0 + p) * f - to_g + to_1
        result[4 + axis] = (1.0 + q) * g_sum - to_g + to_2
        result[6 + axis] = to_g - to_1 - to_2


@inline
def to_vertices(by_tile, result, h, w):
    """Sums the corners of tiles `[h - 1, w - 1, 4, 2]` at the vertices `[h, w, 2]`, always in the same order."""
    line = 8 * (w - 1)
    for i in range(h):
        for j in range(w):
            at = i * line + 8 * j
            for axis in range(2):
                total = 0.0
                if i < h - 1 and j < w - 1:
                    total += by_tile[at + axis]
                if i < h - 1 and j > 0:
                    total += by_tile[at - 8 + 2 + axis]
                if i > 0 and j < w - 1:
                    total += by_tile[at - line + 4 + axis]
                if i > 0 and j > 0:
                    total += by_tile[at - line - 8 + 6 + axis]
                result[2 * (i * w + j) + axis] = total
