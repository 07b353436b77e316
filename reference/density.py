"""Saliency from boxes in float64: the kernel density estimate of FOVEA and LZU, and the knots of its warp.

Written to be read beside the formula: every box's kernel is a whole map, the knots come from the map of all boxes, and
vector-Jacobian products apply the chain rule to those maps. The kernels work with products of vectors instead.
"""

import numpy as np
from numpy.typing import NDArray

from fastwarp.reference import axis

Array = NDArray[np.float64]

SMALLEST = 1e-3
"""Boxes thinner than this, in pixels, count as this thin: a zero-size box has no 0/0 at a cell it hits exactly."""


class _Image:
    """One image's boxes `[n, 4]` and everything that is made from them."""

    def __init__(self, boxes: NDArray, a: float, b: float, height: int, width: int, h: int, w: int) -> None:
        boxes = boxes.astype(np.float64)
        self.a, self.b = a, b
        self.uniform = len(boxes) / (2 * min(h, w) - 1) ** 2
        # Of y and x, for each box [n, 1, 1]: whether it has an extent, the extent, and the cells away from its centre.
        low, high = boxes[:, [1, 0]].T[:, :, None, None], boxes[:, [3, 2]].T[:, :, None, None]
        self.moving = high - low >= SMALLEST
        self.extent = np.where(self.moving, high - low, SMALLEST)
        cells = [size * np.arange(n) / (n - 1) for size, n in ((height, h), (width, w))]
        away_y, away_x = cells[0][:, None] - (low[0] + high[0]) / 2, cells[1] - (low[1] + high[1]) / 2
        self.away = (away_y, away_x)
        spread = [away**2 / (b * extent) for away, extent in zip(self.away, self.extent, strict=True)]
        self.kernel = np.exp(-0.5 * (spread[0] + spread[1]))
        self.norm = 1e-5 + self.kernel.sum((1, 2), keepdims=True)
        self.density = (a * self.kernel / self.norm).sum(0) + self.uniform
        self.total = self.density.sum()
        # Without boxes there is nothing to divide by: the uniform map.
        self.map = self.density / self.total if len(boxes) else np.full((h, w), 1 / (h * w))

    def backward(self, grad: NDArray) -> tuple[Array, float, float]:
        """Gradients to the boxes `[n, 4]`, a and b of a gradient to the map."""
        n = len(self.kernel)
        if n == 0:
            return np.zeros((0, 4)), 0.0, 0.0
        by_density = (grad - (grad * self.map).sum()) / self.total
        response = (by_density * self.kernel).sum((1, 2), keepdims=True) / self.norm
        by_kernel = self.a * (by_density - response) / self.norm * self.kernel  # times the kernel, for what follows
        result, by_b = np.zeros((n, 4)), 0.0
        for i, (away, extent, moving) in enumerate(zip(self.away, self.extent, self.moving, strict=True)):
            by_centre = (by_kernel * away / (self.b * extent)).sum((1, 2))
            by_variance = (by_kernel * 0.5 * away**2 / (self.b * extent) ** 2).sum((1, 2))
            by_extent = np.where(moving[:, 0, 0], self.b * by_variance, 0.0)
            by_b += (by_variance * extent[:, 0, 0]).sum()
            result[:, 1 - i] = 0.5 * by_centre - by_extent
            result[:, 3 - i] = 0.5 * by_centre + by_extent
        return result, response.sum(), by_b


def _images(
    boxes: NDArray, counts: NDArray | None, amplitude: NDArray, bandwidth: NDArray, *sizes: int
) -> list[_Image]:
    result = []
    for b, all_boxes in enumerate(boxes):
        count = len(all_boxes) if counts is None else int(np.clip(counts[b], 0, len(all_boxes)))
        a, of_b = (float(values[b % len(values)]) for values in (amplitude, bandwidth))
        result.append(_Image(all_boxes[:count], a, of_b, *sizes))
    return result


def density_map(
    boxes: NDArray,
    counts: NDArray | None,
    amplitude: NDArray,
    bandwidth: NDArray,
    height: int,
    width: int,
    h: int,
    w: int,
) -> Array:
    """Saliency `[B, h, w]`, each map of sum 1 (Thavamani et al., ICCV 2021; LZU appendix A.6).

    With X = linspace(0, W, w), Y = linspace(0, H, h), p = min(h, w) - 1:

        K_i = exp(-1/2 [(X - cx)^2 / (b w_i) + (Y - cy)^2 / (b h_i)])
        S   = sum_i [a K_i / (1e-5 + sum of K_i over the cells) + 1 / (2p + 1)^2], divided by its sum

    Args:
        boxes: `[B, N, 4]` (x1, y1, x2, y2) in pixels.
        counts: `[B]`, how many of the N are boxes and not padding; None: all.
        amplitude: a, `[1 or B]`.
        bandwidth: b, `[1 or B]`.
        height: H, of the images in pixels.
        width: W, likewise.
        h: rows of the map.
        w: columns of the map.
    """
    maps = [image.map for image in _images(boxes, counts, amplitude, bandwidth, height, width, h, w)]
    return np.stack(maps) if maps else np.zeros((0, h, w))


def density_map_backward(grad: NDArray, boxes: NDArray, *args: NDArray | int | None) -> tuple[Array, Array, Array]:
    """Gradients to the boxes `[B, N, 4]`, and to every image's a and b, `[B]`."""
    by_boxes, by_a, by_b = np.zeros(boxes.shape), np.zeros(len(boxes)), np.zeros(len(boxes))
    for i, (image, g) in enumerate(zip(_images(boxes, *args), grad.astype(np.float64), strict=True)):  # type: ignore[arg-type]
        by_boxes[i, : len(image.kernel)], by_a[i], by_b[i] = image.backward(g)
    return by_boxes, by_a, by_b


def density_knots(boxes: NDArray, *args: NDArray | float | None) -> tuple[Array, Array]:
    """Knots `[B, h]`, `[B, w]` of the separable LZ warp of `density_map`; see `fastwarp.reference.axis.lz_knots`.

    Args:
        boxes: `[B, N, 4]`.
        args: the other arguments of `density_map`, then fwhm and anti_crop.
    """
    *rest, fwhm, anti_crop = args
    saliency = density_map(boxes, *rest)  # type: ignore[arg-type]
    return axis.lz_knots(saliency, saliency.transpose(0, 2, 1), fwhm, bool(anti_crop))  # type: ignore[arg-type]


def density_knots_backward(
    grad_y: NDArray, grad_x: NDArray, boxes: NDArray, *args: NDArray | float | None
) -> tuple[Array, Array, Array]:
    """Gradients to the boxes, and to every image's a and b."""
    *rest, fwhm, anti_crop = args
    saliency = density_map(boxes, *rest)  # type: ignore[arg-type]
    by_y, by_x = axis.lz_knots_backward(grad_y, grad_x, saliency, saliency.transpose(0, 2, 1), fwhm, bool(anti_crop))  # type: ignore[arg-type]
    return density_map_backward(by_y[:, :, None] + by_x[:, None, :], boxes, *rest)  # type: ignore[arg-type]
