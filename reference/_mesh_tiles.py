"""What one quad does, in float64: T~ within a tile, its preimages and derivatives, and which tile owns a target.

Ownership is a definition, and so is written operation for operation as every backend has it. What follows from it
shares nothing with the kernels: preimages come from Newton's method, derivatives from complex steps.

A tile has the corners A = mesh[i, j], B = mesh[i, j+1], C = mesh[i+1, j], D = mesh[i+1, j+1], the number
`i * (w-1) + j`, and local coordinates (f, g) in [0, 1]^2 along x and y.
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tiles = NDArray[np.int32]

WIDER = 2.0**-10
"""How far, in tiles, the outline reaches out when targets look for their tile: it owns what rounding puts outside."""

FLATTEST = 2.0**-10
"""A tile whose homography has a smaller weight at a corner, relative to the largest, is all but a triangle."""

STEP = 1e-40


# --- one tile ---------------------------------------------------------------------------------------------------------


def cross(a: NDArray, b: NDArray) -> NDArray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def corners_of(mesh: Array, tiles: NDArray) -> Array:
    """Corners A, B, C, D of tiles of one mesh `[h, w, 2]`: `[*tiles.shape, 4, 2]`."""
    i, j = np.divmod(tiles, mesh.shape[1] - 1)
    return np.stack([mesh[i, j], mesh[i, j + 1], mesh[i + 1, j], mesh[i + 1, j + 1]], -2)


def edges_of(corners: NDArray) -> tuple[NDArray, ...]:
    """A, E = B - A, F = C - A, G = A - B - C + D."""
    A, B, C, D = np.moveaxis(corners, -2, 0)
    return A, B - A, C - A, (A - B) + (D - C)


@np.errstate(all="ignore")
def projective(corners: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Coefficients p and q of the homography's denominator 1 + p f + q g, and whether the tile has one: it is convex
    with four proper corners. One that is not counts as bilinear."""
    A, B, C, D = np.moveaxis(corners, -2, 0)
    with np.errstate(all="ignore"):
        G, d1, d2 = (A - B) + (D - C), B - D, C - D
        scale = cross(d1, d2)
        p, q = cross(G, d2) / scale, cross(d1, G) / scale
        weights = np.stack([np.ones_like(p.real), 1 + p.real, 1 + q.real, 1 + p.real + q.real])
        proper = weights.min(0) > FLATTEST * weights.max(0)
    return p, q, proper & np.isfinite(scale.real) & (scale.real != 0)


@np.errstate(all="ignore")  # whatever a mesh holds
def patch(corners: NDArray, f: NDArray, g: NDArray, homography: bool) -> NDArray:
    """T~ at local coordinates of tiles: `[..., 2]`. Real or complex."""
    A, E, F, G = edges_of(corners)
    f, g = f[..., None], g[..., None]
    bilinear = A + f * E + g * F + f * g * G
    if not homography:
        return bilinear
    p, q, has_one = (v[..., None] for v in projective(corners))
    B, C = corners[..., 1, :], corners[..., 2, :]
    with np.errstate(all="ignore"):
        return np.where(has_one, (A + f * (E + p * B) + g * (F + q * C)) / (1 + p * f + q * g), bilinear)


@np.errstate(all="ignore")
def derivatives(corners: Array, f: Array, g: Array, homography: bool) -> tuple[Array, Array]:
    """Derivatives of `patch` by (f, g) `[..., 2, 2]` and by the corners `[..., 2, 4, 2]`; T~'s components come first.

    `Im T(z + i h) / h` is the derivative without a difference, exact to rounding for an h whose square vanishes.
    """
    step = 1j * STEP
    with np.errstate(all="ignore"):
        by_local = [patch(corners, f + step, g, homography).imag, patch(corners, f, g + step, homography).imag]
        by_corners = np.zeros((*f.shape, 2, 4, 2))
        for corner in range(4):
            for axis in range(2):
                moved = corners.astype(np.complex128)
                moved[..., corner, axis] += step
                by_corners[..., corner, axis] = patch(moved, f, g, homography).imag / STEP
    return np.stack(by_local, -1) / STEP, by_corners


def _newton_step(f: Array, g: Array, d: Array, edges: tuple[Array, ...]) -> tuple[Array, Array]:
    """The step towards f E + g F + f g G = d; along the gradient where J is singular."""
    E, F, G = edges
    along_f, along_g = E + g[:, None] * G, F + f[:, None] * G
    rest = d - f[:, None] * E - g[:, None] * along_g
    det, size = cross(along_f, along_g), (along_f**2).sum(1) + (along_g**2).sum(1)
    singular = ~(np.abs(det) > 1e-14 * size)
    det, size = np.where(singular, 1, det), np.where(size > 0, size, 1)
    df = np.where(singular, (rest * along_f).sum(1) / size, cross(rest, along_g) / det)
    return df, np.where(singular, (rest * along_g).sum(1) / size, cross(along_f, rest) / det)


def _preimage_bilinear(corners: Array, point: Array, sign: NDArray) -> tuple[Array, Array]:
    """(f, g) with T~(f, g) = point by Newton's method `[N]`, of two solutions that where det J has the given sign.

    One step reaches the line on which both lie. On it det J is linear and 0 between them, and Newton's method stays on
    its side. A tile without area is given a point that is as near as its line or point allows.
    """
    A, *edges = edges_of(corners)
    E, F, G = edges
    d = point - A
    with np.errstate(all="ignore"):
        f, g = (0.5 + step for step in _newton_step(np.full(len(d), 0.5), np.full(len(d), 0.5), d, (E, F, G)))
        by_f, by_g = cross(E, G), cross(G, F)
        det, slope = cross(E, F) + f * by_f + g * by_g, 2 * by_f * by_g  # along (by_g, by_f), the line
        mirrored = np.where((sign * det < 0) & (slope != 0), -2 * det / slope, 0.0)
        f, g = f + mirrored * by_g, g + mirrored * by_f
        active = np.arange(len(f))
        for _ in range(100):
            df, dg = _newton_step(f[active], g[active], d[active], (E[active], F[active], G[active]))
            f[active] += df
            g[active] += dg
            active = active[np.abs(df) + np.abs(dg) > 4e-16 * (1 + np.abs(f[active]) + np.abs(g[active]))]
            if not len(active):
                break
    return f, g


@np.errstate(all="ignore")
def preimage(corners: Array, point: Array, sign: NDArray, homography: bool) -> tuple[Array, Array]:
    """(f, g) with T~(f, g) = point `[N]`; a homography has it from the inverse matrix, its origin at the point."""
    f, g = _preimage_bilinear(corners, point, sign)
    if homography:
        p, q, has_one = projective(corners)
        A, B, C, _ = np.moveaxis(corners - point[:, None], -2, 0)
        with np.errstate(all="ignore"):
            first = np.concatenate([(1 + p)[:, None] * B - A, p[:, None]], 1)
            second = np.concatenate([(1 + q)[:, None] * C - A, q[:, None]], 1)
            third = np.concatenate([A, np.ones((len(A), 1))], 1)
            x, y, z = (np.cross(a, b)[:, 2] for a, b in ((second, third), (third, first), (first, second)))
            f, g = np.where(has_one, x / z, f), np.where(has_one, y / z, g)
    return f, g


# --- ownership: the definition ----------------------------------------------------------------------------------------


def widened(mesh: Array) -> Array:
    """One mesh `[h, w, 2]` with its outline moved outwards, along the edges that lead to it, by a part of those."""
    with np.errstate(invalid="ignore"):
        down, right = np.zeros(mesh.shape), np.zeros(mesh.shape)
        down[0], down[-1] = mesh[0] - mesh[1], mesh[-1] - mesh[-2]
        right[:, 0], right[:, -1] = mesh[:, 0] - mesh[:, 1], mesh[:, -1] - mesh[:, -2]
        return mesh + (down + right) * WIDER


def _crossings(a: Array, b: Array, r: Array, centre: float) -> tuple[NDArray, Array]:
    """Where edges a -> b `[..., 2]` meet the rows r `[R]`: +1 upwards, -1 downwards, 0 not at all, and x there.

    A vertex in a row is above it if it is above the centre too, else below.
    """
    (xa, ya), (xb, yb) = (np.moveaxis(v[..., None, :], -1, 0) for v in (a, b))
    with np.errstate(all="ignore"):
        over_a, over_b = ((y < r) | ((y == r) & (y <= centre)) for y in (ya, yb))
        x = xa + (r - ya) * ((xb - xa) / (yb - ya))
    return over_a.astype(np.int8) - over_b, x


@np.errstate(all="ignore")
def owners(
    mesh: Array, r: Array, k: Array, shift: NDArray | float = 0.0, scale: NDArray | float = 1.0
) -> tuple[Tiles, NDArray]:
    """The first tile in row-major order whose winding number about a target is not 0, or -1, and minus that number: y
    points down, so this is the sign of det J at the one preimage within the tile.

    A horizontal ray from the target to smaller x is crossed by the edges that it is right of. An edge crosses a row at
    one number, whichever of its two tiles asks, and a target on a crossing goes to the side of the mesh's centre, so
    that no target is lost or owned twice on an edge. A tile with an infinite vertex owns nothing, and no tile does
    where a vertex is NaN.

    Args:
        mesh: `[h, w, 2]`.
        r: y of the targets `[R]`.
        k: x of the targets, `[1, K]` (every one with every r) or `[R, 1]` (each with its own).
        shift: the position where targets count 0, `[2]`.
        scale: targets in a unit of the mesh, `[2]`.
    """
    with np.errstate(all="ignore"):
        vertices = (widened(mesh) - shift) * scale
        centre = (0.25 * (((mesh[0, 0] + mesh[0, -1]) + mesh[-1, 0]) + mesh[-1, -1]) - shift) * scale
    h, w, _ = vertices.shape
    owner = np.full((len(r), k.shape[1]), -1, np.int32)
    turn = np.zeros(owner.shape, np.int8)
    rows_of = _crossings(vertices[:, :-1], vertices[:, 1:], r, centre[1])
    columns_of = _crossings(vertices[:-1], vertices[1:], r, centre[1])
    whole = np.asarray(np.isfinite(corners_of(vertices, np.arange((h - 1) * (w - 1)))).all((1, 2)))
    whole &= not np.isnan(mesh).any()
    for tile in reversed(range((h - 1) * (w - 1))):
        i, j = divmod(tile, w - 1)
        # A -> B, B -> D, D -> C, C -> A; the edges C -> D and A -> C are stored the other way round.
        sides = (rows_of, (i, j), 1), (columns_of, (i, j + 1), 1), (rows_of, (i + 1, j), -1), (columns_of, (i, j), -1)
        met = np.flatnonzero(np.any([edges[0][at] != 0 for edges, at, _ in sides], 0))
        if not whole[tile] or not len(met):
            continue
        at_k = k if len(k) == 1 else k[met]
        number = np.zeros((len(met), k.shape[1]), np.int8)
        for (turns, x), at, direction in sides:
            crossing = x[at][met, None]
            right = (at_k > crossing) | ((at_k == crossing) & (crossing <= centre[0]))
            number += direction * turns[at][met, None] * right
        owner[met] = np.where(number != 0, tile, owner[met])
        turn[met] = np.where(number != 0, -number, turn[met])
    return owner, turn
