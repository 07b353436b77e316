"""Gradients of T~ and T~^-1 to the corners of a tile, in float64.

A tile sums eight products of its targets, from which those of its corners follow. With lambda the gradient to T~ (for
the inverse -J^-T times the gradient to the zoomed position) they are, for x and y, lambda times 1, f, g, fg. In a
homography they are lambda / (1 + pf + qg) times 1, f, g, and the two sums by which p and q move.
"""

from fastwarp.kernels.cpu._mesh_geometry import cross
from fastwarp.kernels.cpu._parallel import inline

SINGULAR = 1e-12
"""A Jacobian whose determinant is smaller than this, relative to its columns, has no inverse and no gradient."""


@inline
def value_and_slopes(tile, f, g, p, q, has_homography):
    """T~ relative to corner A, dT~/df, dT~/dg."""
    _, e, t, c = tile
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
def products(tile, value, f, g, p, q, has_homography, x, y):
    """What a target adds to the eight sums of its tile; (x, y) is its lambda."""
    if has_homography:
        scale = 1.0 / (1.0 + p * f + q * g)
        x, y = x * scale, y * scale
        _, e, t, _ = tile
        by_p = f * (x * (e[0] - value[0]) + y * (e[1] - value[1]))
        by_q = g * (x * (t[0] - value[0]) + y * (t[1] - value[1]))
        return x, f * x, g * x, by_p, y, f * y, g * y, by_q
    return x, f * x, g * x, f * g * x, y, f * y, g * y, f * g * y


@inline
def add(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5], a[6] + b[6], a[7] + b[7]


@inline
def load(sums, j):
    return sums[j, 0], sums[j, 1], sums[j, 2], sums[j, 3], sums[j, 4], sums[j, 5], sums[j, 6], sums[j, 7]


@inline
def store(sums, j, values):
    for n in range(8):
        sums[j, n] = values[n]


@inline
def _turned(v, scale):
    """Gradient of a x v to a; to b of v x b it is the negative."""
    return v[1] * scale, -v[0] * scale


@inline
def to_corners(sums, corners, p, q, has_homography, result):
    """Writes the gradients of the corners A, B, C, D to `result` `[4, 2]`."""
    if sums == (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0):  # also where a corner is infinite
        result[:] = 0
        return
    if not has_homography:
        for axis in range(2):
            one, f, g, fg = sums[4 * axis], sums[4 * axis + 1], sums[4 * axis + 2], sums[4 * axis + 3]
            result[0, axis], result[1, axis] = one - f - g + fg, f - fg
            result[2, axis], result[3, axis] = g - fg, fg
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
        result[0, axis] = one - f - g_sum + to_g
        result[1, axis] = (1.0 + p) * f - to_g + to_1
        result[2, axis] = (1.0 + q) * g_sum - to_g + to_2
        result[3, axis] = to_g - to_1 - to_2


@inline
def to_vertices(by_tile, result):
    """Sums the corners of tiles `[h - 1, w - 1, 4, 2]` at the vertices `[h, w, 2]`, always in the same order."""
    h, w = result.shape[0], result.shape[1]
    for i in range(h):
        for j in range(w):
            for axis in range(2):
                total = 0.0
                if i < h - 1 and j < w - 1:
                    total += by_tile[i, j, 0, axis]
                if i < h - 1 and j > 0:
                    total += by_tile[i, j - 1, 1, axis]
                if i > 0 and j < w - 1:
                    total += by_tile[i - 1, j, 2, axis]
                if i > 0 and j > 0:
                    total += by_tile[i - 1, j - 1, 3, axis]
                result[i, j, axis] = total
