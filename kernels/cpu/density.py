"""numba kernels of the `density` family: boxes -> saliency, and boxes -> marginals -> knots without the map.

A box's kernel is a product of a factor in y and a factor in x, which are made in vectors: their length is a multiple
of eight, with cells at infinity behind the real ones. All arithmetic is float64, rounded once, box after box.
"""

import numpy as np
from torch import Tensor

from fastwarp.errors import FastwarpError
from fastwarp.kernels.cpu._memory import array
from fastwarp.kernels.cpu._parallel import inline, jit, parallel, run
from fastwarp.kernels.cpu.axis import _lz_knots, _lz_knots_backward

_SMALLEST = 1e-3  # pixels; thinner boxes count as this thin

_ALL = np.zeros(0, np.int64)  # counts where none are given

_LEAST, _MOST = 1e-30, 1e30  # beyond these sizes of numbers there are overflows, and NaN

_WRONG = (
    "boxes of image {} are NaN or infinite in places, expected finite coordinates of at most 1e30",
    "boxes of image {} are inverted in places, expected x1 <= x2 and y1 <= y2",
    "amplitude is negative, infinite or NaN in places, expected numbers from 0 to 1e30",
    "bandwidth is not positive and finite in places, expected numbers of pixels from 1e-30 to 1e30",
)


# --- the factors of a box ---------------------------------------------------------------------------------------------

_LOG2_E, _LN2_HIGH, _LN2_LOW = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ROUND = 1.5 * 2.0**52  # numbers of this size have no fraction: adding one rounds


@inline
def _exp(x):
    """e**x of x <= 0, to a unit in the last place; at least 3e-308. libm's takes one number at a time: 6 times slower.

    e**x = 2**k e**r with |r| <= ln 2 / 2, and e**r by its Taylor polynomial.
    """
    x = -708.0 if x < -708.0 else x
    shifted = x * _LOG2_E + _ROUND
    k = shifted - _ROUND
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    p = 1.0 / 6227020800.0
    p = p * r + 1.0 / 479001600.0
    p = p * r + 1.0 / 39916800.0
    p = p * r + 1.0 / 3628800.0
    p = p * r + 1.0 / 362880.0
    p = p * r + 1.0 / 40320.0
    p = p * r + 1.0 / 5040.0
    p = p * r + 1.0 / 720.0
    p = p * r + 1.0 / 120.0
    p = p * r + 1.0 / 24.0
    p = p * r + 1.0 / 6.0
    p = p * r + 0.5
    p = p * r * r + r + 1.0
    power = (np.float64(shifted).view(np.int64) + 1023) << 52  # the low bits of `shifted` are k
    return p * np.int64(power).view(np.float64)


@inline
def _cells(size, n):
    """Positions of the cells in pixels, infinity behind them."""
    cells = np.full(-(-n // 8) * 8, np.inf)
    for c in range(n):
        cells[c] = size * c / (n - 1)
    return cells


@inline
def _factor(low, high, bandwidth, cells, factor):
    """`factor = exp(-(cells - centre)^2 / (2 b extent))`. Returns its sum, the centre and the extent."""
    low, high = np.float64(low), np.float64(high)
    centre = 0.5 * (low + high)
    extent = _SMALLEST if high - low < _SMALLEST else high - low
    rate = -0.5 / (bandwidth * extent)
    for c in range(len(cells)):
        away = cells[c] - centre
        factor[c] = _exp(away * away * rate)
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0  # one sum would wait for itself in every addition
    for i in range(0, len(cells), 4):
        s0 += factor[i]
        s1 += factor[i + 1]
        s2 += factor[i + 2]
        s3 += factor[i + 3]
    return (s0 + s1) + (s2 + s3), centre, extent


@inline
def _count(counts, b, boxes):
    n = boxes.shape[1]
    return n if len(counts) == 0 else min(max(counts[b], 0), n)


@inline
def _of(values, b):
    """The number of image b, where a single one is shared."""
    return values[b if len(values) > 1 else 0]


@inline
def _uniform(count, h, w):
    return count / np.float64((2 * min(h, w) - 1) ** 2)


@jit
def _first_wrong(boxes, counts, amplitude, bandwidth):
    """4 * image + index into _WRONG, or -1."""
    for b in range(len(boxes)):
        for i in range(_count(counts, b, boxes)):
            for k in range(4):
                if not abs(boxes[b, i, k]) <= _MOST:
                    return 4 * b
            if boxes[b, i, 2] < boxes[b, i, 0] or boxes[b, i, 3] < boxes[b, i, 1]:
                return 4 * b + 1
        if not 0 <= _of(amplitude, b) <= _MOST:
            return 4 * b + 2
        if not _LEAST <= _of(bandwidth, b) <= _MOST:
            return 4 * b + 3
    return -1


# --- boxes -> saliency ------------------------------------------------------------------------------------------------


@inline
def _add_boxes(boxes, count, amplitude, bandwidth, cells_y, cells_x, density):
    """The map of the first boxes `[N, 4]`, not yet divided by its sum; returns the sum."""
    h, w = density.shape
    y, x = np.empty(len(cells_y)), np.empty(len(cells_x))
    density[:] = _uniform(count, h, w)
    for i in range(count):
        total_y, _, _ = _factor(boxes[i, 1], boxes[i, 3], bandwidth, cells_y, y)
        total_x, _, _ = _factor(boxes[i, 0], boxes[i, 2], bandwidth, cells_x, x)
        weight = amplitude / (1e-5 + total_y * total_x)
        for r in range(h):
            row, scale = density[r], weight * y[r]
            for c in range(w):
                row[c] += scale * x[c]
    total = 0.0
    for r in range(h):  # row by row: a sum of sums rounds less
        total += density[r].sum()
    return total


@parallel
def _map(boxes, counts, amplitude, bandwidth, height, width, result, part, parts):
    h, w = result.shape[1:]
    density, cells_y, cells_x = np.empty((h, w)), _cells(height, h), _cells(width, w)
    for b in range(part, len(boxes), parts):
        count = _count(counts, b, boxes)
        total = _add_boxes(boxes[b], count, _of(amplitude, b), _of(bandwidth, b), cells_y, cells_x, density)
        for r in range(h):
            for c in range(w):
                result[b, r, c] = 1.0 / (h * w) if count == 0 else density[r, c] / total


@inline
def _add_marginals(boxes, count, amplitude, bandwidth, cells_y, cells_x, marginal_y, marginal_x):
    """The sums of the rows and columns of the same map, without it."""
    y, x = np.empty(len(cells_y)), np.empty(len(cells_x))
    h, w = len(marginal_y), len(marginal_x)
    marginal_y[:] = _uniform(count, h, w) * w
    marginal_x[:] = _uniform(count, h, w) * h
    for i in range(count):
        total_y, _, _ = _factor(boxes[i, 1], boxes[i, 3], bandwidth, cells_y, y)
        total_x, _, _ = _factor(boxes[i, 0], boxes[i, 2], bandwidth, cells_x, x)
        weight = amplitude / (1e-5 + total_y * total_x)
        for r in range(h):
            marginal_y[r] += weight * total_x * y[r]
        for c in range(w):
            marginal_x[c] += weight * total_y * x[c]


@inline
def _marginals(boxes, counts, amplitude, bandwidth, height, width, h, w):
    """As maps `[B, h, 1]` and `[B, w, 1]`, not divided by their sum: knots do not depend on it."""
    y, x = np.empty((len(boxes), h, 1)), np.empty((len(boxes), w, 1))
    cells_y, cells_x = _cells(height, h), _cells(width, w)
    for b in range(len(boxes)):
        count, a, of_b = _count(counts, b, boxes), _of(amplitude, b), _of(bandwidth, b)
        _add_marginals(boxes[b], count, a, of_b, cells_y, cells_x, y[b, :, 0], x[b, :, 0])
    return y, x


@jit
def _knots(boxes, counts, amplitude, bandwidth, height, width, fwhm, anti_crop, knots_y, knots_x):
    h, w = knots_y.shape[1], knots_x.shape[1]
    marginal_y, marginal_x = _marginals(boxes, counts, amplitude, bandwidth, height, width, h, w)
    _lz_knots(marginal_y, min(h, w) - 1, fwhm, anti_crop, knots_y)
    _lz_knots(marginal_x, min(h, w) - 1, fwhm, anti_crop, knots_x)


# --- gradients --------------------------------------------------------------------------------------------------------


@inline
def _moments(factor, cells, centre, to_factor):
    """Sums of a gradient to a factor times the factor and the distance to the centre, once and twice."""
    first, second = 0.0, 0.0
    for c in range(len(to_factor)):
        away = cells[c] - centre
        g = to_factor[c] * factor[c] * away
        first += g
        second += g * away
    return first, second


@inline
def _pull_back(box, axis, bandwidth, centre, extent, moments, grad):
    """Gradients to the two sides of a box, 0 for x and 1 for y; returns that to the bandwidth."""
    variance = bandwidth * extent
    by_centre = moments[0] / variance
    by_variance = 0.5 * moments[1] / (variance * variance)
    thin = np.float64(box[axis + 2]) - np.float64(box[axis]) < _SMALLEST
    by_extent = 0.0 if thin else by_variance * bandwidth
    grad[axis] = 0.5 * by_centre - by_extent
    grad[axis + 2] = 0.5 * by_centre + by_extent
    return by_variance * extent


@inline
def _image_backward(by_density, by_y, by_x, boxes, count, a, bandwidth, cells_y, cells_x, grad):
    """Gradients of one image from that to its map before the division, `by_density[r, c] + by_y[r] + by_x[c]`.

    `by_density` has no rows where the map was never made. Writes the gradient to the boxes, returns those to a and b.
    """
    h, w = len(by_y), len(by_x)
    y, x, to_y, to_x = np.empty(len(cells_y)), np.empty(len(cells_x)), np.empty(h), np.empty(w)
    turned = by_density.T.copy()
    by_a, by_b = 0.0, 0.0
    grad[count:] = 0.0
    for i in range(count):
        total_y, centre_y, extent_y = _factor(boxes[i, 1], boxes[i, 3], bandwidth, cells_y, y)
        total_x, centre_x, extent_x = _factor(boxes[i, 0], boxes[i, 2], bandwidth, cells_x, x)
        of_y, of_x = 0.0, 0.0
        for r in range(h):
            of_y += y[r] * by_y[r]
        for c in range(w):
            of_x += x[c] * by_x[c]
        for r in range(h):
            to_y[r] = by_y[r] * total_x + of_x
        for c in range(w):
            to_x[c] = by_x[c] * total_y + of_y
        for r in range(len(by_density)):
            row, scale = by_density[r], y[r]
            for c in range(w):
                to_x[c] += row[c] * scale
        for c in range(w if len(by_density) else 0):
            column, scale = turned[c], x[c]
            for r in range(h):
                to_y[r] += column[r] * scale
        norm, response = 1.0 / (1e-5 + total_y * total_x), 0.0
        for r in range(h):
            response += to_y[r] * y[r]
        response *= norm
        by_a += response
        for r in range(h):  # the kernel's sum moves with it, too
            to_y[r] = a * norm * (to_y[r] - response * total_x)
        for c in range(w):
            to_x[c] = a * norm * (to_x[c] - response * total_y)
        moments = _moments(y, cells_y, centre_y, to_y)
        by_b += _pull_back(boxes[i], 1, bandwidth, centre_y, extent_y, moments, grad[i])
        moments = _moments(x, cells_x, centre_x, to_x)
        by_b += _pull_back(boxes[i], 0, bandwidth, centre_x, extent_x, moments, grad[i])
    return by_a, by_b


@parallel
def _map_backward(grad, boxes, counts, amplitude, bandwidth, height, width, by_boxes, by_a, by_b, part, parts):
    h, w = grad.shape[1:]
    density, to_y, to_x = np.empty((h, w)), np.zeros(h), np.zeros(w)
    cells_y, cells_x = _cells(height, h), _cells(width, w)
    for b in range(part, len(boxes), parts):
        count, a, of_b = _count(counts, b, boxes), _of(amplitude, b), _of(bandwidth, b)
        total = _add_boxes(boxes[b], count, a, of_b, cells_y, cells_x, density)
        mean = 0.0
        if count > 0:
            for r in range(h):
                for c in range(w):
                    mean += np.float64(grad[b, r, c]) * (density[r, c] / total)
            for r in range(h):
                for c in range(w):
                    density[r, c] = (np.float64(grad[b, r, c]) - mean) / total
        by_a[b], by_b[b] = _image_backward(density, to_y, to_x, boxes[b], count, a, of_b, cells_y, cells_x, by_boxes[b])


@jit
def _knots_backward(
    grad_y, grad_x, boxes, counts, amplitude, bandwidth, height, width, fwhm, anti_crop, by_boxes, by_a, by_b
):
    h, w = grad_y.shape[1], grad_x.shape[1]
    to_y, to_x, none = np.empty(grad_y.shape), np.empty(grad_x.shape), np.empty((0, w))
    cells_y, cells_x = _cells(height, h), _cells(width, w)
    marginal_y, marginal_x = _marginals(boxes, counts, amplitude, bandwidth, height, width, h, w)
    _lz_knots_backward(grad_y, marginal_y, min(h, w) - 1, fwhm, anti_crop, to_y)
    _lz_knots_backward(grad_x, marginal_x, min(h, w) - 1, fwhm, anti_crop, to_x)
    for b in range(len(boxes)):
        count, a, of_b = _count(counts, b, boxes), _of(amplitude, b), _of(bandwidth, b)
        by_a[b], by_b[b] = _image_backward(
            none, to_y[b], to_x[b], boxes[b], count, a, of_b, cells_y, cells_x, by_boxes[b]
        )


# --- launchers --------------------------------------------------------------------------------------------------------


def _number(tensor: Tensor | None, value: float) -> np.ndarray:
    return np.array([value]) if tensor is None else array(tensor.double())


def _arguments(
    boxes: Tensor, counts: Tensor | None, amplitude: Tensor | None, bandwidth: Tensor | None, a: float, b: float
) -> tuple[np.ndarray, ...]:
    number = _ALL if counts is None else array(counts.long())
    arguments = (array(boxes), number, _number(amplitude, a), _number(bandwidth, b))
    wrong = _first_wrong(*arguments)
    if wrong >= 0:
        raise FastwarpError(_WRONG[wrong % 4].format(wrong // 4))
    return arguments


def density_map(
    boxes: Tensor,
    counts: Tensor | None,
    amplitude: Tensor | None,
    bandwidth: Tensor | None,
    a: float,
    b: float,
    height: int,
    width: int,
    h: int,
    w: int,
) -> Tensor:
    """Saliency `[B, h, w]` of boxes `[B, N, 4]`, each map of sum 1.

    Args:
        boxes: (x1, y1, x2, y2) in pixels, float32 or float64.
        counts: `[B]` integers, how many of the N are boxes and not padding; None: all.
        amplitude: `[1 or B]`; None: `a`.
        bandwidth: `[1 or B]`; None: `b`.
        a: amplitude of all images where no tensor is given.
        b: bandwidth, likewise.
        height: H, of the images in pixels.
        width: W, likewise.
        h: rows of the map.
        w: columns of the map.
    """
    result = boxes.new_empty(boxes.shape[0], h, w)
    arguments = _arguments(boxes, counts, amplitude, bandwidth, a, b)
    run(_map, (*arguments, height, width, array(result)), boxes.shape[0] * boxes.shape[1] * h * w)
    return result


def density_map_backward(
    grad: Tensor,
    boxes: Tensor,
    counts: Tensor | None,
    amplitude: Tensor | None,
    bandwidth: Tensor | None,
    a: float,
    b: float,
    height: int,
    width: int,
    h: int,
    w: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to the boxes, and to every image's amplitude and bandwidth `[B]`."""
    results = _gradients(boxes)
    arguments = _arguments(boxes, counts, amplitude, bandwidth, a, b)
    work = 3 * boxes.shape[0] * boxes.shape[1] * h * w
    run(_map_backward, (array(grad), *arguments, height, width, *map(array, results)), work)
    return results


def density_knots(
    boxes: Tensor,
    counts: Tensor | None,
    amplitude: Tensor | None,
    bandwidth: Tensor | None,
    a: float,
    b: float,
    height: int,
    width: int,
    h: int,
    w: int,
    fwhm: float,
    anti_crop: bool,
) -> tuple[Tensor, Tensor]:
    """Knots `[B, h]`, `[B, w]` of the separable LZ warp of `density_map`, without the map."""
    y, x = boxes.new_empty(boxes.shape[0], h), boxes.new_empty(boxes.shape[0], w)
    arguments = _arguments(boxes, counts, amplitude, bandwidth, a, b)
    _knots(*arguments, height, width, fwhm, anti_crop, array(y), array(x))
    return y, x


def density_knots_backward(
    grad_y: Tensor,
    grad_x: Tensor,
    boxes: Tensor,
    counts: Tensor | None,
    amplitude: Tensor | None,
    bandwidth: Tensor | None,
    a: float,
    b: float,
    height: int,
    width: int,
    h: int,
    w: int,
    fwhm: float,
    anti_crop: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to the boxes, and to every image's amplitude and bandwidth `[B]`."""
    results = _gradients(boxes)
    arguments = _arguments(boxes, counts, amplitude, bandwidth, a, b)
    grads = (array(grad_y), array(grad_x))
    _knots_backward(*grads, *arguments, height, width, fwhm, anti_crop, *map(array, results))
    return results


def _gradients(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = boxes.shape
    return boxes.new_empty(shape), *(boxes.new_empty(shape[0]) for _ in range(2))  # type: ignore[return-value]
