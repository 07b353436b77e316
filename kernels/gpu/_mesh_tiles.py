"""One tile of a quad mesh in Triton: its patch of T~, the derivatives, the inverse, and the gradients of its corners.

A patch is the tuple (A, E, F, G, p, q, projective), vectors as two values, of
`T~ = A + f E + g F + f g G`, or where it is projective of `T~ = A + (f (1+p) E + g (1+q) F) / (1 + p f + q g)`.
"""

import triton
import triton.language as tl

_SINGULAR: tl.constexpr = tl.constexpr(1e-12)  # a smaller det J, relative to its columns, has no inverse
# Least weight of a corner, relative to the largest: below it a tile is all but a triangle.
_FLATTEST: tl.constexpr = tl.constexpr(2.0**-10)
_WIDER: tl.constexpr = tl.constexpr(2.0**-10)  # how far the outline reaches out for targets, in tiles

UNFUSED = {"enable_fp_fusion": False}
"""Launch options under which no product is fused with a sum, so that every float64 operation rounds as IEEE 754 says.

Not so float32, whose quotients and roots remain those of `div.full` and `sqrt.approx`: what decides must be float64.
"""


@triton.jit
def cross(ax, ay, bx, by):
    return ax * by - ay * bx


@triton.jit
def load_patch(a_ptr, w, REAL: tl.constexpr, HOMOGRAPHY: tl.constexpr):
    """Patches of the tiles whose corner A is there."""
    c_ptr = a_ptr + 2 * w
    ax, ay, bx, by = _load(a_ptr, 0, REAL), _load(a_ptr, 1, REAL), _load(a_ptr, 2, REAL), _load(a_ptr, 3, REAL)
    cx, cy, dx, dy = _load(c_ptr, 0, REAL), _load(c_ptr, 1, REAL), _load(c_ptr, 2, REAL), _load(c_ptr, 3, REAL)
    gx, gy = (ax - bx) + (dx - cx), (ay - by) + (dy - cy)
    p, q, projective = 0.0, 0.0, False
    if HOMOGRAPHY:
        det = cross(bx - dx, by - dy, cx - dx, cy - dy)
        safe = tl.where(det == 0, 1.0, det)
        p = cross(gx, gy, cx - dx, cy - dy) / safe
        q = cross(bx - dx, by - dy, gx, gy) / safe
        projective = (det != 0) & (tl.abs(det) < float("inf"))
        least = tl.minimum(tl.minimum(1.0 + p, 1.0 + q), 1.0 + p + q)
        most = tl.maximum(tl.maximum(1.0 + p, 1.0 + q), 1.0 + p + q)
        projective &= (least > most * _FLATTEST) & (least > _FLATTEST) & (most * _FLATTEST < 1.0)
        projective &= p + q == p + q
        p, q = tl.where(projective, p, 0.0), tl.where(projective, q, 0.0)
    return ax, ay, bx - ax, by - ay, cx - ax, cy - ay, gx, gy, p, q, projective


@triton.jit
def _load(ptr, OFFSET: tl.constexpr, REAL: tl.constexpr):
    return tl.load(ptr + OFFSET).to(REAL)


@triton.jit
def scaled(patch, unit_x, unit_y):
    """Patches in other units: coordinates multiplied by these."""
    ax, ay, ex, ey, fx, fy, gx, gy, p, q, projective = patch
    ax, ex, fx, gx = ax * unit_x, ex * unit_x, fx * unit_x, gx * unit_x
    ay, ey, fy, gy = ay * unit_y, ey * unit_y, fy * unit_y, gy * unit_y
    return ax, ay, ex, ey, fx, fy, gx, gy, p, q, projective


@triton.jit
def evaluate(patch, f, g, HOMOGRAPHY: tl.constexpr):
    """T~ - A at local coordinates."""
    _, _, ex, ey, fx, fy, gx, gy, p, q, projective = patch
    x, y = f * ex + g * fx + f * g * gx, f * ey + g * fy + f * g * gy
    if HOMOGRAPHY:
        weight = 1.0 + p * f + q * g
        x = tl.where(projective, (f * (1.0 + p) * ex + g * (1.0 + q) * fx) / weight, x)
        y = tl.where(projective, (f * (1.0 + p) * ey + g * (1.0 + q) * fy) / weight, y)
    return x, y


@triton.jit
def jacobian(patch, f, g, HOMOGRAPHY: tl.constexpr):
    """dT~/df (x, y) and dT~/dg (x, y)."""
    _, _, ex, ey, fx, fy, gx, gy, p, q, projective = patch
    x_f, y_f, x_g, y_g = ex + g * gx, ey + g * gy, fx + f * gx, fy + f * gy
    if HOMOGRAPHY:
        weight = 1.0 + p * f + q * g
        x, y = evaluate(patch, f, g, True)
        x_f = tl.where(projective, ((1.0 + p) * ex - p * x) / weight, x_f)
        y_f = tl.where(projective, ((1.0 + p) * ey - p * y) / weight, y_f)
        x_g = tl.where(projective, ((1.0 + q) * fx - q * x) / weight, x_g)
        y_g = tl.where(projective, ((1.0 + q) * fy - q * y) / weight, y_g)
    return x_f, y_f, x_g, y_g


@triton.jit
def solve(patch, dx, dy, mirrored, HOMOGRAPHY: tl.constexpr):
    """Local coordinates (f, g) where the patch is A + d, of the root where det J is negative if `mirrored`, else
    positive.

    Without such a root, as in a tile collapsed to a line or a point, they are those of a point nearby. They are finite
    where the patch is.
    """
    _, _, ex, ey, fx, fy, gx, gy, p, q, projective = patch
    # d = f E + g F + f g G without f: a g^2 + b g + c = 0, whose derivative 2 a g + b is det J.
    a = cross(gx, gy, fx, fy)
    b = cross(dx, dy, gx, gy) + cross(ex, ey, fx, fy)
    c = cross(dx, dy, ex, ey)
    root = tl.sqrt(tl.maximum(b * b - 4.0 * a * c, 0.0))
    root = tl.where(mirrored, -root, root)
    stable = tl.where(mirrored, b <= 0, b >= 0)  # neither root - b nor b + root may cancel
    above = tl.where(stable, -2.0 * c, root - b)
    below = tl.where(stable, b + root, 2.0 * a)
    line = stable & (below == 0)  # the quadratic vanishes
    above = tl.where(line, dx * fx + dy * fy, above)
    below = tl.where(line, fx * fx + fy * fy, below)
    g = tl.where(below == 0, 0.0, above / tl.where(below == 0, 1.0, below))
    hx, hy = ex + g * gx, ey + g * gy
    below = hx * hx + hy * hy
    f = tl.where(below == 0, 0.0, ((dx - g * fx) * hx + (dy - g * fy) * hy) / tl.where(below == 0, 1.0, below))
    if HOMOGRAPHY:
        ex, ey = (1.0 + p) * ex - p * dx, (1.0 + p) * ey - p * dy
        fx, fy = (1.0 + q) * fx - q * dx, (1.0 + q) * fy - q * dy
        det = cross(ex, ey, fx, fy)
        det = tl.where(det == 0, 1.0, det)
        f = tl.where(projective, cross(dx, dy, fx, fy) / det, f)
        g = tl.where(projective, cross(ex, ey, dx, dy) / det, g)
    return f, g


@triton.jit
def through_inverse(patch, f, g, grad_f, grad_g, HOMOGRAPHY: tl.constexpr):
    """Gradient to a position from that to its local coordinates, J^-T grad; 0 where J has no inverse."""
    x_f, y_f, x_g, y_g = jacobian(patch, f, g, HOMOGRAPHY)
    det = cross(x_f, y_f, x_g, y_g)
    size = tl.sqrt((x_f * x_f + y_f * y_f) * (x_g * x_g + y_g * y_g))
    regular = tl.abs(det) > size * _SINGULAR
    det = tl.where(regular, det, 1.0)
    x = tl.where(regular, (y_g * grad_f - y_f * grad_g) / det, 0.0)
    y = tl.where(regular, (x_f * grad_g - x_g * grad_f) / det, 0.0)
    return x, y


@triton.jit
def moments(patch, f, g, x, y, HOMOGRAPHY: tl.constexpr):
    """8 numbers, linear in the gradient (x, y) of T~ at local coordinates, whose sums `to_corners` takes.

    The weights of A, B, C and D times the gradient. In a homography, whose D is in p and q alone, the gradients of
    these stand for the last two: `T~ = ((1-f-g) A + f (1+p) B + g (1+q) C) / weight`.
    """
    _, _, ex, ey, fx, fy, _, _, p, q, projective = patch
    a, b, c, d = (1.0 - f) * (1.0 - g), f * (1.0 - g), (1.0 - f) * g, f * g
    d_x, d_y = d * x, d * y
    if HOMOGRAPHY:
        weight = 1.0 + p * f + q * g
        tx, ty = evaluate(patch, f, g, True)
        a = tl.where(projective, (1.0 - f - g) / weight, a)
        b, c = tl.where(projective, f / weight, b), tl.where(projective, g / weight, c)
        d_x = tl.where(projective, b * ((ex - tx) * x + (ey - ty) * y), d_x)
        d_y = tl.where(projective, c * ((fx - tx) * x + (fy - ty) * y), d_y)
    return a * x, a * y, b * x, b * y, c * x, c * y, d_x, d_y


@triton.jit
def to_corners(patch, a_x, a_y, b_x, b_y, c_x, c_y, d_x, d_y, HOMOGRAPHY: tl.constexpr):
    """Gradients of the corners A, B, C, D (x and y of each), from `moments`."""
    _, _, ex, ey, fx, fy, gx, gy, p, q, projective = patch
    if HOMOGRAPHY:
        # dp (B-D) + dq (C-D) = dA - (1+p) dB - (1+q) dC + (1+p+q) dD.
        ux, uy, vx, vy = -(fx + gx), -(fy + gy), -(ex + gx), -(ey + gy)  # B - D, C - D
        det = cross(ux, uy, vx, vy)
        det = tl.where(projective & (det != 0), det, 1.0)
        x, y = (vy * d_x - uy * d_y) / det, (ux * d_y - vx * d_x) / det
        a_x, a_y = tl.where(projective, a_x + x, a_x), tl.where(projective, a_y + y, a_y)
        b_x, b_y = tl.where(projective, (1.0 + p) * (b_x - x), b_x), tl.where(projective, (1.0 + p) * (b_y - y), b_y)
        c_x, c_y = tl.where(projective, (1.0 + q) * (c_x - x), c_x), tl.where(projective, (1.0 + q) * (c_y - y), c_y)
        d_x, d_y = tl.where(projective, (1.0 + p + q) * x, d_x), tl.where(projective, (1.0 + p + q) * y, d_y)
    return a_x, a_y, b_x, b_y, c_x, c_y, d_x, d_y


@triton.jit
def winding(ax, ay, bx, by, cx, cy, dx, dy, ab, bd, cd, ac, x, y, row):
    """Winding number of the outline A, B, D, C of a tile about (x, y): negative where its det J is positive.

    ab, bd, cd and ac are the `slope`s of the edges, each from the vertex of lower number, so that both tiles of an edge
    compute the same crossing. x and row have been `tied`, the latter from y.
    """
    a, b, c, d = (ay <= row).to(tl.int32), (by <= row).to(tl.int32), (cy <= row).to(tl.int32), (dy <= row).to(tl.int32)
    # A row meets the edges whose ends differ.
    number = tl.where(x >= ax + (y - ay) * ab, a - b, 0)
    number += tl.where(x >= bx + (y - by) * bd, b - d, 0)
    number += tl.where(x >= cx + (y - cy) * cd, d - c, 0)
    number += tl.where(x >= ax + (y - ay) * ac, c - a, 0)
    return number


@triton.jit
def tied(x, centre):
    """Coordinates of targets for `winding`: a target on an edge or at a vertex goes to the side of the mesh's centre.

    Where x == v, `v <= tied(x)` says whether v <= centre: past the centre it is the next number below x.
    """
    bits = x.to(tl.int64, bitcast=True)
    below = tl.where(x > 0, bits - 1, tl.where(x < 0, bits + 1, -0x7FFFFFFFFFFFFFFF)).to(tl.float64, bitcast=True)
    return tl.where((x <= centre) | (x != x), x, below)


@triton.jit
def slope(ax, ay, bx, by):
    """dx/dy of an edge; anything where no row meets it."""
    return (bx - ax) / tl.where(by == ay, 1.0, by - ay)


@triton.jit
def widened(mesh_ptr, i, j, h, w, mask):
    """Vertices of the mesh, those of the outline moved outwards along the edges that lead to them."""
    inner_i = tl.where(i == 0, 1, tl.where(i == h - 1, h - 2, i))
    inner_j = tl.where(j == 0, 1, tl.where(j == w - 1, w - 2, j))
    ptr, down_ptr, right_ptr = (
        mesh_ptr + 2 * (i * w + j),
        mesh_ptr + 2 * (inner_i * w + j),
        mesh_ptr + 2 * (i * w + inner_j),
    )
    x, y = _coordinates(ptr, mask)
    down_x, down_y = _coordinates(down_ptr, mask)
    right_x, right_y = _coordinates(right_ptr, mask)
    return x + ((x - down_x) + (x - right_x)) * _WIDER, y + ((y - down_y) + (y - right_y)) * _WIDER


@triton.jit
def _coordinates(ptr, mask):
    return tl.load(ptr, mask=mask, other=0).to(tl.float64), tl.load(ptr + 1, mask=mask, other=0).to(tl.float64)


@triton.jit
def is_finite(a, b, c, d):
    """Whether four numbers all are."""
    infinity = float("inf")
    return (tl.abs(a) < infinity) & (tl.abs(b) < infinity) & (tl.abs(c) < infinity) & (tl.abs(d) < infinity)


@triton.jit
def centre_of(mesh_ptr, h, w):
    """Mean of the four corner vertices."""
    below_ptr = mesh_ptr + 2 * w * (h - 1)
    x, y = _coordinates(mesh_ptr, True)
    right_x, right_y = _coordinates(mesh_ptr + 2 * (w - 1), True)
    below_x, below_y = _coordinates(below_ptr, True)
    last_x, last_y = _coordinates(below_ptr + 2 * (w - 1), True)
    return 0.25 * (((x + right_x) + below_x) + last_x), 0.25 * (((y + right_y) + below_y) + last_y)
