"""Quad meshes in float64: saliency -> mesh, T~ through bilinear or projective tiles, its inverse, and their gradients.

Written to be read beside LZU, eq. 1-2 and appendix A; `_mesh_tiles` has what happens within a tile. Arrays are NumPy;
everything is computed and returned in float64.
"""

from collections.abc import Iterator

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from fastwarp.reference._mesh_tiles import (
    Array,
    Tiles,
    corners_of,
    cross,
    derivatives,
    edges_of,
    owners,
    patch,
    preimage,
)
from fastwarp.reference.axis import FLOOR, TINY

RIM = 1 / 64
"""How far beyond its tile the preimage of an owned target may lie, in tiles."""

SINGULAR = 1e-12
"""A Jacobian whose determinant is smaller than this, relative to its columns, has no inverse and no gradient."""


# --- saliency -> mesh -------------------------------------------------------------------------------------------------


def _attraction(h: int, w: int, fwhm: float) -> tuple[Array, tuple[Array, Array]]:
    """The kernel k(x, x') of eq. 2 over a square of cells, and the positions y and x of the padded rows and columns."""
    radius = min(h, w) - 1
    offset = np.arange(-radius, radius + 1)
    kernel = np.exp(-4 * np.log(2) * (offset[:, None] ** 2 + offset**2) / fwhm**2)
    return kernel, tuple(np.arange(-radius, n + radius) / (n - 1) for n in (h, w))  # type: ignore[return-value]


def _padded(cells: NDArray, anti_crop: bool) -> NDArray:
    radius = min(cells.shape[1:]) - 1
    sides = ((0, 0), (radius, radius), (radius, radius))
    return np.pad(cells, sides, mode="reflect" if anti_crop else "edge")


def _unclamped(saliency: NDArray, fwhm: float, anti_crop: bool) -> tuple[Array, Array]:
    """T of eq. 1 before it is clamped `[B, h, w, 2]`, and its denominator `[B, h, w]`."""
    kernel, (y, x) = _attraction(saliency.shape[1], saliency.shape[2], fwhm)
    cells = np.maximum(saliency.astype(np.float64), 0.0)
    mean = cells.mean((1, 2), keepdims=True)
    padded = _padded(cells + np.where(FLOOR * mean <= TINY, TINY, FLOOR * mean), anti_crop)

    def attracted(values: Array) -> Array:
        windows = np.lib.stride_tricks.sliding_window_view(values, kernel.shape, axis=(1, 2))
        return np.einsum("bijpq,pq->bij", windows, kernel)

    total = attracted(padded)
    mesh = np.stack([attracted(padded * x), attracted(padded * y[:, None])], -1) / total[..., None]
    if anti_crop:  # by symmetry; rounding would leave 1e-19
        for values in (mesh[..., 0].swapaxes(1, 2), mesh[..., 1]):
            values[:, [0, -1]] = np.where(np.isnan(values[:, [0, -1]]), np.nan, [[0.0], [1.0]])
    return mesh, total


def lz_mesh(saliency: NDArray, fwhm: float, anti_crop: bool) -> Array:
    """Mesh of the nonseparable LZ warp, LZU eq. 1 and 2, on the saliency's own grid: `[B, h, w, 2]`, (x, y).

    Args:
        saliency: `[B, h, w]`, h, w >= 2. Negative cells count as zero; a map with a NaN gives NaN.
        fwhm: full width at half maximum of the isotropic attraction kernel, in cells.
        anti_crop: pad the map by reflection (nothing is cropped) instead of replication.
    """
    return np.clip(_unclamped(saliency, fwhm, anti_crop)[0], 0, 1)


def lz_mesh_backward(grad: NDArray, saliency: NDArray, fwhm: float, anti_crop: bool) -> Array:
    """Gradient to the saliency; none reaches negative cells, nor maps of zeros, nor what is clamped."""
    batch, h, w = saliency.shape
    kernel, (y, x) = _attraction(h, w, fwhm)
    mesh, total = _unclamped(saliency, fwhm, anti_crop)
    by_mesh = np.where((mesh < 0) | (mesh > 1), 0.0, grad) / total[..., None]
    source = _padded(np.arange(h * w).reshape(1, h, w), anti_crop).ravel()
    result = np.zeros((batch, h * w))
    for b in range(batch):
        by_x, by_y = np.moveaxis(by_mesh[b], -1, 0)
        by_total = -(by_mesh[b] * mesh[b]).sum(-1)
        x_, y_, total_ = (scipy.signal.convolve2d(v, kernel) for v in (by_x, by_y, by_total))
        np.add.at(result[b], source, (x_ * x + y_ * y[:, None] + total_).ravel())
    mean = np.maximum(saliency.astype(np.float64), 0.0).mean((1, 2), keepdims=True)
    result = result.reshape(saliency.shape) + FLOOR / (h * w) * result.sum(1)[:, None, None]
    return np.where((saliency < 0) | (FLOOR * mean <= TINY), 0.0, result)


# --- T~ and its inverse on grids --------------------------------------------------------------------------------------


def _common(*arrays: NDArray | None) -> int:
    """The common batch, to which 1 broadcasts."""
    return next((len(a) for a in arrays if a is not None and len(a) != 1), 1)


def _sum_to(grad: Array, batch: int) -> Array:
    return grad if len(grad) == batch else grad.sum(0, keepdims=True)


def _each_level(
    batch: int, sizes: list[int], source_sizes: list[int], valid: NDArray | None, source_valid: NDArray | None
) -> Iterator[tuple[int, slice, tuple[int, ...]]]:
    """Yields (image, its targets, (h, w, extent y, extent x, source extent y, source extent x)) for every level."""
    for b in range(batch):
        first = 0
        for level in range(len(sizes) // 2):
            pair = slice(2 * level, 2 * level + 2)
            size, source = np.array(sizes[pair]), np.array(source_sizes[pair])
            extents = [
                whole if given is None else np.clip(given[b % len(given), level], 0, whole)
                for given, whole in ((valid, size), (source_valid, source))
            ]
            count = int(size.prod())
            yield b, slice(first, first + count), tuple(int(n) for n in (*size, *extents[0], *extents[1]))
            first += count


def _zoomed_targets(extent: int, n: int) -> tuple[NDArray, Array]:
    """Tile and local coordinate of Grid(extent) on an axis of n vertices, in integers: the last tile is closed."""
    k, steps = (2 * np.arange(extent), 2 * (extent - 1)) if extent > 1 else (np.array([1]), 2)
    tile = np.minimum(k * (n - 1) // steps, n - 2)
    return tile, (k * (n - 1) - tile * steps) / steps


def _nearest_on_outline(vertices: Array, points: Array) -> Array:
    """Zoomed position (u, v) `[N, 2]` of the outline's point that is nearest to each of some points; -1 if none is."""
    h, w, _ = vertices.shape
    u, v = np.meshgrid(np.arange(w) / (w - 1), np.arange(h) / (h - 1))
    zoomed = np.stack([u, v], -1)
    result, best = np.full(points.shape, -1.0), np.full(len(points), np.inf)
    for line, position in ((m, z) for at in (0, -1) for m, z in ((vertices[at], zoomed[at]),)):
        _nearest_on_line(line, position, points, result, best)
    for at in (0, -1):
        _nearest_on_line(vertices[:, at], zoomed[:, at], points, result, best)
    return result


def _nearest_on_line(line: Array, position: Array, points: Array, result: Array, best: Array) -> None:
    for a, b, start, end in zip(line[:-1], line[1:], position[:-1], position[1:], strict=True):
        along = b - a
        length = along @ along
        with np.errstate(all="ignore"):
            t = np.clip((points - a) @ along / length, 0, 1) if length > 0 else np.zeros(len(points))
            distance = ((a + t[:, None] * along - points) ** 2).sum(1)
            nearer = distance < best
        best[nearer] = distance[nearer]
        result[nearer] = (start + t[:, None] * (end - start))[nearer]


def _inverse_targets(mesh: Array, extents: tuple[int, int], homography: bool, border: bool) -> tuple[Array, NDArray]:
    """T~^-1(Grid) `[eh, ew, 2]`, -1 where there is none, and the owners `[eh, ew]`."""
    h, w, _ = mesh.shape
    scale = np.array([max(n - 1, 1) for n in extents[::-1]], np.float64)
    shift = np.array([0.5 if n == 1 else 0.0 for n in extents[::-1]])
    r, k = (np.arange(n, dtype=np.float64) for n in extents)
    tiles, turns = owners(mesh, r, k[None], shift, scale)
    targets = np.stack(np.meshgrid(k, r), -1)
    zoomed = np.full((*extents, 2), -1.0)
    owned = tiles >= 0
    points = targets[owned] / scale + shift
    f, g = preimage(corners_of(mesh, tiles[owned]), points, turns[owned], homography)
    i, j = np.divmod(tiles[owned], w - 1)
    zoomed[owned] = np.clip(
        np.stack([(j + np.clip(f, -RIM, 1 + RIM)) / (w - 1), (i + np.clip(g, -RIM, 1 + RIM)) / (h - 1)], -1), 0, 1
    )
    if border:
        zoomed[~owned] = _nearest_on_outline((mesh - shift) * scale, targets[~owned])
    return zoomed, tiles


@np.errstate(all="ignore")  # whatever a mesh holds
def positions(
    mesh: NDArray,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    homography: bool,
    border: bool,
    valid: NDArray | None,
    source_valid: NDArray | None,
) -> tuple[Array, Tiles]:
    """What each target reads: x and y in source pixels `[B, 2, P]` (-1: nothing), and its tile `[B, P]` (-1: none).

    Args:
        mesh: `[1 or B, h, w, 2]`. Everything of an image is NaN if any of its vertices is; tiles are -1 then.
        sizes: target sizes `[H1, W1, H2, W2, ...]` of the levels; P = H1 W1 + H2 W2 + ...
        source_sizes: source sizes, likewise.
        inverse: False: T~(Grid), a zoom. True: T~^-1(Grid), an unzoom (appendix A).
        homography: tiles are projective rather than bilinear.
        border: targets of an unzoom that no tile owns read the nearest point of the mesh's outline, otherwise nothing.
        valid: extents of the targets `[1 or B, levels, 2]` (height, width), or None.
        source_valid: extents of the sources, likewise.
    """
    count = sum(a * b for a, b in zip(sizes[::2], sizes[1::2], strict=True))
    batch = _common(mesh, valid, source_valid)
    windows, tiles = np.full((batch, 2, count), -1.0), np.full((batch, count), -1, np.int32)
    for b, at, (th, tw, eh, ew, sh, sw) in _each_level(batch, sizes, source_sizes, valid, source_valid):
        if not eh * ew * sh * sw:
            continue
        own = mesh[b % len(mesh)].astype(np.float64)
        if np.isnan(own).any():
            zoomed, owner = np.full((eh, ew, 2), np.nan), np.full((eh, ew), -1, np.int32)
        elif inverse:
            zoomed, owner = _inverse_targets(own, (eh, ew), homography, border)
        else:
            (i, g), (j, f) = (_zoomed_targets(e, n) for e, n in zip((eh, ew), own.shape[:2], strict=True))
            owner = (i[:, None] * (own.shape[1] - 1) + j).astype(np.int32)
            across, down = (np.broadcast_to(v, owner.shape) for v in (f, g[:, None]))
            zoomed = np.clip(patch(corners_of(own, owner), across, down, homography), 0, 1)
        pixels = np.where(zoomed < 0, -1.0, zoomed * np.array([sw - 1, sh - 1]))
        windows[b, :, at].reshape(2, th, tw)[:, :eh, :ew] = np.moveaxis(pixels, -1, 0)
        tiles[b, at].reshape(th, tw)[:eh, :ew] = owner
    return windows, tiles


def _inverse_gradient(jacobian: Array, grad: Array) -> Array:
    """`J^-T grad`, the gradient to x of T~^-1(x); 0 where J is singular."""
    with np.errstate(all="ignore"):
        size = np.sqrt((jacobian**2).sum(-2).prod(-1))
        regular = np.abs(cross(jacobian[..., 0], jacobian[..., 1])) > SINGULAR * size
    safe = np.where(regular[..., None, None], jacobian, np.eye(2))
    return np.where(regular[..., None], np.linalg.solve(safe.swapaxes(-1, -2), grad[..., None])[..., 0], 0.0)


def _add_to_mesh(grad_mesh: Array, tiles: NDArray, grad_T: Array, by_corners: Array) -> None:
    """Adds gradients to values of T~ in given tiles to one mesh."""
    i, j = np.divmod(tiles, grad_mesh.shape[1] - 1)
    by = np.einsum("nt,ntca->nca", grad_T, by_corners)
    for corner in range(4):
        np.add.at(grad_mesh, (i + corner // 2, j + corner % 2), by[:, corner])


@np.errstate(all="ignore")  # whatever a mesh holds
def positions_backward(
    grad: NDArray,
    mesh: NDArray,
    windows: NDArray,
    tiles: NDArray,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    homography: bool,
    valid: NDArray | None,
    source_valid: NDArray | None,
) -> Array:
    """Gradient to the mesh, from that of the windows. Targets without a tile have none.

    The batch is that of the gradient: images that share the mesh and all extents have gradients of their own.
    """
    h, w = mesh.shape[1:3]
    result = np.zeros((len(grad), h, w, 2))
    for b, at, (th, tw, eh, ew, sh, sw) in _each_level(len(grad), sizes, source_sizes, valid, source_valid):
        own, span = mesh[b % len(mesh)].astype(np.float64), np.array([sw - 1.0, sh - 1.0])
        if np.isnan(own).any():
            result[b] = np.nan
            continue
        spanned = np.zeros((th, tw), bool)
        spanned[:eh, :ew] = True
        target = np.flatnonzero((tiles[b, at] >= 0) & spanned.ravel())
        tile = tiles[b, at][target]
        by_windows, window = (v[b, :, at].T[target].astype(np.float64) for v in (grad, windows))
        corners, place = corners_of(own, tile), np.stack(np.divmod(tile, w - 1)[::-1], -1)
        if inverse:
            f, g = (np.divide(window, span, where=span > 0, out=np.zeros(window.shape)) * (w - 1, h - 1) - place).T
            jacobian, by_corners = derivatives(corners, f, g, homography)
            by_local = np.where(span > 0, by_windows * span, 0) / (w - 1, h - 1)
            grad_T = -_inverse_gradient(jacobian, by_local)
        else:
            row, column = np.divmod(target, tw)
            f, g = _zoomed_targets(ew, w)[1][column], _zoomed_targets(eh, h)[1][row]
            value = patch(corners, f, g, homography)
            _, by_corners = derivatives(corners, f, g, homography)
            grad_T = np.where((value < 0) | (value > 1), 0.0, by_windows * span)
        _add_to_mesh(result[b], tile, grad_T, by_corners)
    return _sum_to(result, len(mesh))


# --- T~ and its inverse at points -------------------------------------------------------------------------------------


def _map_forward(mesh: Array, points: Array, homography: bool) -> tuple[Array, NDArray]:
    """T~ at zoomed positions `[N, 2]`; outside [0, 1] the end tiles continue. The tiles too, -1 for NaN."""
    cells = np.array(mesh.shape[1::-1]) - 1
    place = np.clip(np.floor(np.nan_to_num(points * cells)), 0, cells - 1).astype(int)
    tiles = np.where(np.isnan(points).any(1), -1, place[:, 1] * cells[0] + place[:, 0])
    f, g = (points * cells - place).T
    return np.where(tiles[:, None] >= 0, patch(corners_of(mesh, tiles), f, g, homography), np.nan), tiles


def _map_inverse(mesh: Array, points: Array, homography: bool) -> tuple[Array, NDArray]:
    """T~^-1 at source positions `[N, 2]`, and the tiles; NaN and -1 where nothing solves T~ = point."""
    h, w, _ = mesh.shape
    tiles, turns = (v[:, 0] for v in owners(mesh, points[:, 1], points[:, :1]))
    local = np.full(points.shape, np.nan)
    owned = tiles >= 0
    corners = corners_of(mesh, tiles[owned])
    local[owned] = np.stack(preimage(corners, points[owned], turns[owned], homography), 1)
    lost, best = np.flatnonzero(~owned & np.isfinite(points).all(1)), np.full(len(points), np.inf)
    for tile in range((h - 1) * (w - 1)):
        i, j = divmod(tile, w - 1)
        corners = corners_of(mesh, np.full(len(lost), tile))
        if not (i in (0, h - 2) or j in (0, w - 2)) or np.isnan(corners).any():
            continue
        _, along_x, along_y, twist = edges_of(corners)
        turn = np.sign(cross(along_x, along_y) + 0.5 * (cross(along_x, twist) + cross(twist, along_y)))
        f, g = preimage(corners, points[lost], turn, homography)
        violation = np.zeros(len(lost))
        for x, first, last in ((f, j == 0, j == w - 2), (g, i == 0, i == h - 2)):
            violation += np.maximum(0 if first else -x, 0) + np.maximum(0 if last else x - 1, 0)
        with np.errstate(all="ignore"):
            miss = np.abs(patch(corners, f, g, homography) - points[lost]).max(1)
            solved = miss <= 1e-9 * (1 + np.abs(f) + np.abs(g)) * np.abs(corners - corners[:, :1]).max((1, 2))
        nearer = solved & (violation < best[lost])
        best[lost[nearer]], tiles[lost[nearer]] = violation[nearer], tile
        local[lost[nearer]] = np.stack([f, g], 1)[nearer]
    i, j = np.divmod(tiles, w - 1)
    return (local + np.stack([j, i], 1)) / (w - 1, h - 1), tiles


@np.errstate(all="ignore")  # whatever a mesh holds
def map(mesh: NDArray, points: NDArray, inverse: bool, homography: bool) -> tuple[Array, Tiles]:
    """T~ or T~^-1 at arbitrary normalised positions `[B, N, 2]`, continued past the outline, and the tiles `[B, N]`.

    A point that no tile owns is mapped by the tile on the outline whose patch, continued outwards, solves T~ = point
    with the least violation of the tile's other bounds.

    Args:
        mesh: `[1 or B, h, w, 2]`. All of an image's points are NaN if any of its vertices is; tiles are -1 then.
        points: `[1 or B, N, 2]`.
        inverse: evaluate T~^-1.
        homography: tiles are projective rather than bilinear.
    """
    batch = _common(mesh, points)
    mapped, tiles = np.zeros((batch, *points.shape[1:])), np.zeros((batch, points.shape[1]), np.int32)
    for b in range(batch):
        own, at = mesh[b % len(mesh)].astype(np.float64), points[b % len(points)].astype(np.float64)
        if np.isnan(own).any():
            mapped[b], tiles[b] = np.nan, -1
            continue
        mapped[b], tiles[b] = (_map_inverse if inverse else _map_forward)(own, at, homography)
    return mapped, tiles


@np.errstate(all="ignore")  # whatever a mesh holds
def map_backward(
    grad: NDArray, mesh: NDArray, points: NDArray, mapped: NDArray, tiles: NDArray, inverse: bool, homography: bool
) -> tuple[Array, Array]:
    """Gradients to mesh and points. Points without a tile, or where J is singular (inverse), have none."""
    h, w = mesh.shape[1:3]
    cells = np.array([w - 1, h - 1])
    batch = _common(mesh, points)
    grad_mesh, grad_points = np.zeros((batch, h, w, 2)), np.zeros((batch, *points.shape[1:]))
    for b in range(batch):
        if np.isnan(mesh[b % len(mesh)]).any():
            grad_mesh[b], grad_points[b] = np.nan, np.nan
            continue
        has_tile = np.flatnonzero(tiles[b] >= 0)
        tile, by = tiles[b][has_tile], grad[b][has_tile].astype(np.float64)
        zoomed = (mapped[b] if inverse else points[b % len(points)])[has_tile].astype(np.float64)
        f, g = (zoomed * cells - np.stack(np.divmod(tile, w - 1)[::-1], -1)).T
        jacobian, by_corners = derivatives(corners_of(mesh[b % len(mesh)].astype(np.float64), tile), f, g, homography)
        if inverse:
            by_point = _inverse_gradient(jacobian, by / cells)
            grad_points[b, has_tile] = by_point
            _add_to_mesh(grad_mesh[b], tile, -by_point, by_corners)
        else:
            grad_points[b, has_tile] = np.einsum("nt,ntl->nl", by, jacobian) * cells
            _add_to_mesh(grad_mesh[b], tile, by, by_corners)
    return _sum_to(grad_mesh, len(mesh)), _sum_to(grad_points, len(points))
