"""The point of a mesh's outline that is nearest to a target which no tile owns."""

import math

import numpy as np

from fastwarp.kernels.cpu._parallel import inline

_GROUP = 8  # segments that share a bounding box


@inline
def outline(mesh, x_unit, y_unit):
    """Segments of the outline in target units, and the boxes of every eight.

    A segment is x, y, dx, dy, 1 / length^2 (0 for a point), u, v, du, dv: where it begins and goes, and its zoomed
    position in tiles. Top row, bottom row, left column, right column.
    """
    h, w = mesh.shape[0], mesh.shape[1]
    segments = np.empty((2 * (w - 1) + 2 * (h - 1), 9))
    boxes = np.empty(((len(segments) + _GROUP - 1) // _GROUP, 4))
    boxes[:, :2], boxes[:, 2:] = math.inf, -math.inf
    n = 0
    for side in range(4):
        for k in range((w if side < 2 else h) - 1):
            i, j = (side * (h - 1), k) if side < 2 else (k, (side - 2) * (w - 1))
            di, dj = (0, 1) if side < 2 else (1, 0)
            x = (np.float64(mesh[i, j, 0]) - x_unit[0]) * x_unit[1]
            y = (np.float64(mesh[i, j, 1]) - y_unit[0]) * y_unit[1]
            end_x = (np.float64(mesh[i + di, j + dj, 0]) - x_unit[0]) * x_unit[1]
            end_y = (np.float64(mesh[i + di, j + dj, 1]) - y_unit[0]) * y_unit[1]
            dx, dy = end_x - x, end_y - y
            length = dx * dx + dy * dy
            segments[n, 0], segments[n, 1], segments[n, 2], segments[n, 3] = x, y, dx, dy
            segments[n, 4] = 1.0 / length if length > 0 else 0.0
            segments[n, 5], segments[n, 6], segments[n, 7], segments[n, 8] = j, i, dj, di
            box = boxes[n // _GROUP]
            box[0], box[1] = min(min(box[0], x), end_x), min(min(box[1], y), end_y)
            box[2], box[3] = max(max(box[2], x), end_x), max(max(box[3], y), end_y)
            n += 1
    return segments, boxes


@inline
def _nearest_on_segment(segment, x, y):
    """Fraction of a segment's point that is nearest to (x, y), and its squared distance."""
    away_x, away_y = x - segment[0], y - segment[1]
    t = min(max((away_x * segment[2] + away_y * segment[3]) * segment[4], 0.0), 1.0)
    away_x, away_y = away_x - t * segment[2], away_y - t * segment[3]
    return t, away_x * away_x + away_y * away_y


@inline
def nearest(segments, boxes, x, y, guess):
    """The first segment that comes nearest to (x, y), and the fraction of its point; -1 if none is finite.

    `guess` is a segment, the better the faster: only boxes that are as near as it are looked into.
    """
    _, bound = _nearest_on_segment(segments[guess], x, y)
    bound = bound * (1.0 + 1e-9) if bound == bound else math.inf
    best, found, fraction = math.inf, -1, 0.0
    for group in range(len(boxes)):
        box = boxes[group]
        away_x = max(max(box[0] - x, x - box[2]), 0.0)
        away_y = max(max(box[1] - y, y - box[3]), 0.0)
        if away_x * away_x + away_y * away_y <= bound:
            for n in range(group * _GROUP, min((group + 1) * _GROUP, len(segments))):
                t, distance = _nearest_on_segment(segments[n], x, y)
                if distance < best:
                    best, found, fraction = distance, n, t
            bound = min(bound, best * (1.0 + 1e-9))
    return found, fraction
