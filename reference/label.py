"""Labels under a warp: the nearest source pixel of each target, and the class that most of its source pixels have.

Nothing is averaged, so results are exact: those of every backend are equal to these, bit by bit. Arrays are NumPy.

* The nearest pixel of a centre c is `floor(c + 1/2)`: from half way on it is the pixel to the right, or below.
* A target's *cell* on an axis is as wide as the triangle filter of `antialias` is at half its height. The half-width s
  of the filter is the spacing of the targets, at least a pixel, and the cell is `(c - s/2, c + s/2]`. Cells of
  neighbours meet without overlapping where the warp is uniform; where it does not reduce, a cell holds the nearest
  pixel alone.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Axis = tuple[NDArray, NDArray]
"""Centre and half-width of every target `[h, w]` along an axis, float64."""


def _targets(
    shapes: list[tuple[int, ...]], windows: NDArray, separable: bool, sizes: list[int], source_valid: NDArray | None
) -> Iterator[tuple[int, int, tuple[int, int], NDArray, NDArray, Axis, Axis]]:
    """Yields (level, image, extents of the source, targets that read something, those that are lost, y, x)."""
    first, batch = 0, _batch(shapes, windows)
    for level, shape in enumerate(shapes):
        h, w = sizes[2 * level : 2 * level + 2]
        count = h + w if separable else h * w
        for b in range(batch):
            extent = shape[2:] if source_valid is None else np.clip(source_valid[b % len(source_valid), level], 0, None)
            height, width = (min(int(e), side) for e, side in zip(extent, shape[2:], strict=True))
            rows = windows[b % len(windows), :, first : first + count].astype(np.float64)
            if separable:
                y = tuple(np.broadcast_to(row[:h, None], (h, w)) for row in rows)
                x = tuple(np.broadcast_to(row[None, h:], (h, w)) for row in rows)
                reads = (y[1] > 0) & (x[1] > 0)
            else:
                planes = rows.reshape(len(rows), h, w)
                one = np.ones((h, w))
                x, y = (
                    (planes[0], planes[2] if len(rows) == 4 else one),
                    (planes[1], planes[3] if len(rows) == 4 else one),
                )
                reads = ~(planes[0] < 0)
            reads = reads & (height > 0) & (width > 0)
            lost = reads & np.isnan(np.stack([*y, *x])).any(0)
            yield level, b, (height, width), reads, lost, y, x  # type: ignore[misc]
        first += count


def _batch(shapes: list[tuple[int, ...]], windows: NDArray) -> int:
    return len(windows) if shapes[0][0] == 1 else shapes[0][0]


def _nearest(centre: Any, extent: int) -> int:
    return int(np.floor(np.clip(centre, 0, extent - 1) + 0.5))


def _cell(centre: Any, half_width: Any, extent: int) -> slice:
    centre, half = np.clip(centre, 0, extent - 1), max(half_width, 1.0) / 2
    return slice(int(np.clip(np.floor(centre - half) + 1, 0, None)), int(min(np.floor(centre + half), extent - 1)) + 1)


def nearest(
    images: list[NDArray], windows: NDArray, separable: bool, sizes: list[int], source_valid: NDArray | None, fill: int
) -> list[NDArray]:
    """The nearest pixel of every target, in the images' dtypes.

    Args:
        images: levels `[1 or B, C, H, W]`.
        windows: separable: `[1 or B, 2, sum(sizes)]` as `axis.axis_windows` returns, a half-width of 0 reads nothing.
            Otherwise `[1 or B, 2, P]` as `mesh.positions` returns, x < 0 reads nothing. Centres beyond the extent count
            as on its border.
        separable: which of the two.
        sizes: target sizes `[H1, W1, H2, W2, ...]`.
        source_valid: extents of the sources `[1 or B, levels, 2]`, or None.
        fill: what targets that read nothing get, and integers where a window is NaN; other numbers are NaN there.
    """
    shapes, results = [i.shape for i in images], _empty(images, windows, sizes)
    for level, b, (height, width), reads, lost, y, x in _targets(shapes, windows, separable, sizes, source_valid):
        image, result = images[level][b % len(images[level])], results[level][b]
        for i, j in np.ndindex(reads.shape):
            if lost[i, j] and result.dtype.kind == "f":
                result[:, i, j] = np.nan
            elif lost[i, j] or not reads[i, j]:
                result[:, i, j] = fill
            else:
                result[:, i, j] = image[:, _nearest(y[0][i, j], height), _nearest(x[0][i, j], width)]
    return results


def majority(
    labels: list[NDArray], windows: NDArray, separable: bool, sizes: list[int], source_valid: NDArray | None, fill: int
) -> list[NDArray]:
    """The class that most pixels of each target's cell have, each pixel with one vote.

    Of several with as many pixels it is that of the nearest pixel, or else the smallest.

    Args:
        labels: levels of integers `[1 or B, C, H, W]`.
        windows: as of `nearest`, with half-widths: `[1 or B, 2, sum(sizes)]`, or `[1 or B, 4, P]` as `grid.widen` makes
            them. Half-widths below 1 count as 1.
        separable: as of `nearest`.
        sizes: likewise.
        source_valid: likewise; padding has no vote.
        fill: what targets that read nothing get, and those of windows that are NaN.
    """
    shapes, results = [i.shape for i in labels], _empty(labels, windows, sizes)
    for level, b, (height, width), reads, lost, y, x in _targets(shapes, windows, separable, sizes, source_valid):
        for i, j in np.ndindex(reads.shape):
            if lost[i, j] or not reads[i, j]:
                results[level][b, :, i, j] = fill
                continue
            rows, columns = _cell(y[0][i, j], y[1][i, j], height), _cell(x[0][i, j], x[1][i, j], width)
            row, column = _nearest(y[0][i, j], height), _nearest(x[0][i, j], width)
            for c, plane in enumerate(labels[level][b % len(labels[level])]):
                classes, votes = np.unique(plane[rows, columns], return_counts=True)
                most = classes[votes == votes.max()]
                results[level][b, c, i, j] = plane[row, column] if plane[row, column] in most else most[0]
    return results


def _empty(images: list[NDArray], windows: NDArray, sizes: list[int]) -> list[NDArray]:
    batch = _batch([i.shape for i in images], windows)
    return [np.empty((batch, i.shape[1], *sizes[2 * n : 2 * n + 2]), i.dtype) for n, i in enumerate(images)]
