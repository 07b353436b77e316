"""numba kernels of the `density` family: boxes -> saliency, and boxes -> marginals -> knots without the map.

A box's kernel is a product of a factor in y and a factor in x. The factors of eight boxes are made at a time, as
`[cell][8]`: every loop over boxes then is a vector operation that adds nothing up across its lanes, so that vectors of
any width give the same sums. All arithmetic is float64 and is rounded once.
"""

import numpy as np
import torch
from torch import Tensor

from fastwarp.errors import FastwarpError
from fastwarp.kernels.cpu._parallel import inline, jit, run
from fastwarp.kernels.cpu.axis import _lz_knots, _lz_knots_backward

_LANES = 8
_SMALLEST = 1e-3  # pixels; thinner boxes count as this thin

_ALL = np.zeros(0, np.int64)  # counts where none are given

_WRONG = (
    "boxes of image {} are NaN or infinite in places, expected finite coordinates",
    "boxes of image {} are inverted in places, expected x1 <= x2 and y1 <= y2",
    "amplitude is negative or NaN in places, expected numbers that are not negative",
    "bandwidth is not positive in places, expected positive numbers of pixels",
)


# --- the factors of eight boxes ---------------------------------------------------------------------------------------

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
def _factor(boxes, b, first, count, axis, bandwidth, size, factor, total, centre, extent):
    """`factor[c, l] = exp(-(cell c - centre)^2 / (2 b extent))` of the boxes first .. first + 8, and their sums.

    axis is 0 for x and 1 for y, the place of the box's lower side among its coordinates.
    """
    cells = len(factor)
    rate = np.empty(_LANES)
    for l in range(_LANES):
        centre[l], extent[l] = 0.0, 1.0
        if first + l < count:
            low, high = np.float64(boxes[b, first + l, axis]), np.float64(boxes[b, first + l, axis + 2])
            centre[l] = 0.5 * (low + high)
            extent[l] = _SMALLEST if high - low < _SMALLEST else high - low
        rate[l] = -0.5 / (bandwidth * extent[l])
        total[l] = 0.0
    for c in range(cells):
        cell = size * c / (cells - 1)
        for l in range(_LANES):
            away = cell - centre[l]
            factor[c, l] = away * away * rate[l]
    flat = factor.reshape(cells * _LANES)  # in place and one loop: LLVM makes vectors of it
    for k in range(len(flat)):
        flat[k] = _exp(flat[k])
    for c in range(cells):
        for l in range(_LANES):
            total[l] += factor[c, l]


@inline
def _weights(first, count, amplitude, total_y, total_x, weight):
    """`a / (1e-5 + sum of the kernel)`, 0 for what is no box."""
    for l in range(_LANES):
        weight[l] = amplitude / (1e-5 + total_y[l] * total_x[l]) if first + l < count else 0.0


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
                if not abs(boxes[b, i, k]) < np.inf:
                    return 4 * b
            if boxes[b, i, 2] < boxes[b, i, 0] or boxes[b, i, 3] < boxes[b, i, 1]:
                return 4 * b + 1
        if not _of(amplitude, b) >= 0:
            return 4 * b + 2
        if not _of(bandwidth, b) > 0:
            return 4 * b + 3
    return -1


# --- boxes -> saliency ------------------------------------------------------------------------------------------------


@inline
def _add_boxes(boxes, b, count, amplitude, bandwidth, height, width, density):
    """The map of image b, not yet divided by its sum; returns the sum."""
    h, w = density.shape
    y, x, rows = np.empty((h, _LANES)), np.empty((w, _LANES)), np.empty((_LANES, w))
    total_y, total_x, weight = np.empty(_LANES), np.empty(_LANES), np.empty(_LANES)
    centre, extent = np.empty(_LANES), np.empty(_LANES)
    density[:] = _uniform(count, h, w)
    for first in range(0, count, _LANES):
        _factor(boxes, b, first, count, 1, bandwidth, height, y, total_y, centre, extent)
        _factor(boxes, b, first, count, 0, bandwidth, width, x, total_x, centre, extent)
        _weights(first, count, amplitude, total_y, total_x, weight)
        for c in range(w):
            for l in range(_LANES):
                rows[l, c] = x[c, l] * weight[l]
        for r in range(h):
            for c in range(w):
                value = density[r, c]
                for l in range(_LANES):
                    value += y[r, l] * rows[l, c]
                density[r, c] = value
    return density.sum()


@jit
def _map(boxes, counts, amplitude, bandwidth, height, width, result, part, parts):
    h, w = result.shape[1:]
    density = np.empty((h, w))
    for b in range(part, len(boxes), parts):
        count = _count(counts, b, boxes)
        total = _add_boxes(boxes, b, count, _of(amplitude, b), _of(bandwidth, b), height, width, density)
        for r in range(h):
            for c in range(w):
                result[b, r, c] = 1.0 / (h * w) if count == 0 else density[r, c] / total


@jit
def _marginals(boxes, counts, amplitude, bandwidth, height, width, marginal_y, marginal_x, part, parts):
    """The sums of the map's rows `[B, h, 1]` and columns `[B, w, 1]`, not divided by its sum: knots do not need it."""
    h, w = marginal_y.shape[1], marginal_x.shape[1]
    y, x, sum_y, sum_x = (np.empty((h, _LANES)), np.empty((w, _LANES)), np.empty((h, _LANES)), np.empty((w, _LANES)))
    total_y, total_x, weight = np.empty(_LANES), np.empty(_LANES), np.empty(_LANES)
    centre, extent = np.empty(_LANES), np.empty(_LANES)
    for b in range(part, len(boxes), parts):
        count, a, width_b = _count(counts, b, boxes), _of(amplitude, b), _of(bandwidth, b)
        sum_y[:] = 0.0
        sum_x[:] = 0.0
        for first in range(0, count, _LANES):
            _factor(boxes, b, first, count, 1, width_b, height, y, total_y, centre, extent)
            _factor(boxes, b, first, count, 0, width_b, width, x, total_x, centre, extent)
            _weights(first, count, a, total_y, total_x, weight)
            for r in range(h):
                for l in range(_LANES):
                    sum_y[r, l] += y[r, l] * (weight[l] * total_x[l])
            for c in range(w):
                for l in range(_LANES):
                    sum_x[c, l] += x[c, l] * (weight[l] * total_y[l])
        for r in range(h):
            marginal_y[b, r, 0] = sum_y[r].sum() + _uniform(count, h, w) * w
        for c in range(w):
            marginal_x[b, c, 0] = sum_x[c].sum() + _uniform(count, h, w) * h


@jit
def _knots(boxes, counts, amplitude, bandwidth, height, width, fwhm, anti_crop, knots_y, knots_x):
    (batch, h), w = knots_y.shape, knots_x.shape[1]
    marginal_y, marginal_x = np.empty((batch, h, 1)), np.empty((batch, w, 1))
    _marginals(boxes, counts, amplitude, bandwidth, height, width, marginal_y, marginal_x, 0, 1)
    _lz_knots(marginal_y, min(h, w) - 1, fwhm, anti_crop, knots_y)
    _lz_knots(marginal_x, min(h, w) - 1, fwhm, anti_crop, knots_x)


# --- gradients --------------------------------------------------------------------------------------------------------


@inline
def _moments(factor, size, centre, by_factor, scale, response, other_total):
    """Sums over the cells of the factor's gradient times the factor and the distance to the centre, once and twice.

    The gradient to `factor[c, l]` is `scale (by_factor[c, l] - response other_total)`: the kernel's sum moves, too.
    """
    first, second = np.zeros(_LANES), np.zeros(_LANES)
    for c in range(len(factor)):
        cell = size * c / (len(factor) - 1)
        for l in range(_LANES):
            away = cell - centre[l]
            g = scale[l] * (by_factor[c, l] - response[l] * other_total[l]) * factor[c, l] * away
            first[l] += g
            second[l] += g * away
    return first, second


@inline
def _add_axis(grad, b, first, count, axis, boxes, bandwidth, centre, extent, moments):
    """Gradients to the two sides of the boxes; returns the gradient to the bandwidth."""
    by_bandwidth = 0.0
    for l in range(min(_LANES, count - first)):
        i = first + l
        variance = bandwidth * extent[l]
        by_centre = moments[0][l] / variance
        by_variance = 0.5 * moments[1][l] / (variance * variance)
        by_bandwidth += by_variance * extent[l]
        thin = np.float64(boxes[b, i, axis + 2]) - np.float64(boxes[b, i, axis]) < _SMALLEST
        by_extent = 0.0 if thin else by_variance * bandwidth
        grad[b, i, axis] = 0.5 * by_centre - by_extent
        grad[b, i, axis + 2] = 0.5 * by_centre + by_extent
    return by_bandwidth


@inline
def _image_backward(by_density, by_y, by_x, boxes, b, count, a, bandwidth, height, width, grad):
    """Gradients of image b from that to its map before the division, `by_density[r, c] + by_y[r] + by_x[c]`.

    `by_density` has no rows where the map was never made. Writes the gradient to the boxes, returns those to a and b.
    """
    h, w = len(by_y), len(by_x)
    y, x, to_y, to_x = np.empty((h, _LANES)), np.empty((w, _LANES)), np.empty((h, _LANES)), np.empty((w, _LANES))
    total_y, total_x, norm = np.empty(_LANES), np.empty(_LANES), np.empty(_LANES)
    centre_y, extent_y, centre_x, extent_x = np.empty(_LANES), np.empty(_LANES), np.empty(_LANES), np.empty(_LANES)
    of_y, of_x, response = np.empty(_LANES), np.empty(_LANES), np.empty(_LANES)
    by_a, by_b = 0.0, 0.0
    grad[b, count:] = 0.0
    for first in range(0, count, _LANES):
        _factor(boxes, b, first, count, 1, bandwidth, height, y, total_y, centre_y, extent_y)
        _factor(boxes, b, first, count, 0, bandwidth, width, x, total_x, centre_x, extent_x)
        _weights(first, count, 1.0, total_y, total_x, norm)
        of_y[:] = 0.0
        of_x[:] = 0.0
        for r in range(h):
            for l in range(_LANES):
                of_y[l] += y[r, l] * by_y[r]
        for c in range(w):
            for l in range(_LANES):
                of_x[l] += x[c, l] * by_x[c]
        for r in range(h):
            for l in range(_LANES):
                to_y[r, l] = by_y[r] * total_x[l] + of_x[l]
        for c in range(w):
            for l in range(_LANES):
                to_x[c, l] = by_x[c] * total_y[l] + of_y[l]
        for r in range(len(by_density)):
            for c in range(w):
                for l in range(_LANES):
                    to_y[r, l] += by_density[r, c] * x[c, l]
                    to_x[c, l] += by_density[r, c] * y[r, l]
        response[:] = 0.0
        for r in range(h):
            for l in range(_LANES):
                response[l] += to_y[r, l] * y[r, l]
        for l in range(_LANES):
            response[l] *= norm[l]
            by_a += response[l]
            norm[l] *= a
        moments = _moments(y, height, centre_y, to_y, norm, response, total_x)
        by_b += _add_axis(grad, b, first, count, 1, boxes, bandwidth, centre_y, extent_y, moments)
        moments = _moments(x, width, centre_x, to_x, norm, response, total_y)
        by_b += _add_axis(grad, b, first, count, 0, boxes, bandwidth, centre_x, extent_x, moments)
    return by_a, by_b


@jit
def _map_backward(grad, boxes, counts, amplitude, bandwidth, height, width, by_boxes, by_a, by_b, part, parts):
    h, w = grad.shape[1:]
    density, to_y, to_x = np.empty((h, w)), np.zeros(h), np.zeros(w)
    for b in range(part, len(boxes), parts):
        count, a, width_b = _count(counts, b, boxes), _of(amplitude, b), _of(bandwidth, b)
        total = _add_boxes(boxes, b, count, a, width_b, height, width, density)
        mean = 0.0
        for r in range(h):
            for c in range(w):
                mean += np.float64(grad[b, r, c]) * (density[r, c] / total if count else 0.0)
        for r in range(h):
            for c in range(w):
                density[r, c] = (np.float64(grad[b, r, c]) - mean) / total if count else 0.0
        by_a[b], by_b[b] = _image_backward(density, to_y, to_x, boxes, b, count, a, width_b, height, width, by_boxes)


@jit
def _knots_backward(
    grad_y, grad_x, boxes, counts, amplitude, bandwidth, height, width, fwhm, anti_crop, by_boxes, by_a, by_b
):
    (batch, h), w = grad_y.shape, grad_x.shape[1]
    marginal_y, marginal_x = np.empty((batch, h, 1)), np.empty((batch, w, 1))
    to_y, to_x, none = np.empty((batch, h)), np.empty((batch, w)), np.empty((0, w))
    _marginals(boxes, counts, amplitude, bandwidth, height, width, marginal_y, marginal_x, 0, 1)
    _lz_knots_backward(grad_y, marginal_y, min(h, w) - 1, fwhm, anti_crop, to_y)
    _lz_knots_backward(grad_x, marginal_x, min(h, w) - 1, fwhm, anti_crop, to_x)
    for b in range(batch):
        count, a, width_b = _count(counts, b, boxes), _of(amplitude, b), _of(bandwidth, b)
        by_a[b], by_b[b] = _image_backward(none, to_y[b], to_x[b], boxes, b, count, a, width_b, height, width, by_boxes)


# --- launchers --------------------------------------------------------------------------------------------------------


def _array(tensor: Tensor) -> np.ndarray:
    """Contiguous: numba would compile once more for strided arrays."""
    return tensor.detach().contiguous().numpy()


def _number(tensor: Tensor | None, value: float) -> np.ndarray:
    return np.array([value]) if tensor is None else _array(tensor.double())


def _arguments(
    boxes: Tensor, counts: Tensor | None, amplitude: Tensor | None, bandwidth: Tensor | None, a: float, b: float
) -> tuple[np.ndarray, ...]:
    array = _array(boxes)
    number = _ALL if counts is None else _array(counts.long())
    arguments = (array, number, _number(amplitude, a), _number(bandwidth, b))
    wrong = _first_wrong(*arguments)
    if wrong >= 0:
        raise FastwarpError(_WRONG[wrong % 4].format(wrong // 4))
    return arguments


def _work(boxes: Tensor, shape: list[int]) -> int:
    return boxes.shape[0] * boxes.shape[1] * shape[0] * shape[1]


def density_map(
    boxes: Tensor,
    counts: Tensor | None,
    amplitude: Tensor | None,
    bandwidth: Tensor | None,
    a: float,
    b: float,
    image_size: list[int],
    shape: list[int],
) -> Tensor:
    """Saliency `[B, h, w]` of boxes `[B, N, 4]`, each map of sum 1.

    Args:
        boxes: (x1, y1, x2, y2) in pixels, float32 or float64.
        counts: `[B]` integers, how many of the N are boxes and not padding; None: all.
        amplitude: `[1 or B]`; None: `a`.
        bandwidth: `[1 or B]`; None: `b`.
        a: amplitude of all images where no tensor is given.
        b: bandwidth, likewise.
        image_size: H, W in pixels.
        shape: h, w in cells.
    """
    result = boxes.new_empty(boxes.shape[0], *shape)
    arguments = (*_arguments(boxes, counts, amplitude, bandwidth, a, b), *image_size, _array(result))
    run(_map, arguments, _work(boxes, shape))
    return result


def density_map_backward(
    grad: Tensor,
    boxes: Tensor,
    counts: Tensor | None,
    amplitude: Tensor | None,
    bandwidth: Tensor | None,
    a: float,
    b: float,
    image_size: list[int],
    shape: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to the boxes, and to every image's amplitude and bandwidth `[B]`."""
    results = _gradients(boxes)
    arguments = _arguments(boxes, counts, amplitude, bandwidth, a, b)
    run(_map_backward, (_array(grad), *arguments, *image_size, *map(_array, results)), 3 * _work(boxes, shape))
    return results


def density_knots(
    boxes: Tensor,
    counts: Tensor | None,
    amplitude: Tensor | None,
    bandwidth: Tensor | None,
    a: float,
    b: float,
    image_size: list[int],
    shape: list[int],
    fwhm: float,
    anti_crop: bool,
) -> tuple[Tensor, Tensor]:
    """Knots `[B, h]`, `[B, w]` of the separable LZ warp of `density_map`, without the map."""
    y, x = (boxes.new_empty(boxes.shape[0], n) for n in shape)
    _knots(*_arguments(boxes, counts, amplitude, bandwidth, a, b), *image_size, fwhm, anti_crop, y.numpy(), x.numpy())
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
    image_size: list[int],
    shape: list[int],
    fwhm: float,
    anti_crop: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to the boxes, and to every image's amplitude and bandwidth `[B]`."""
    results = _gradients(boxes)
    arguments = _arguments(boxes, counts, amplitude, bandwidth, a, b)
    grads = (_array(grad_y), _array(grad_x))
    _knots_backward(*grads, *arguments, *image_size, fwhm, anti_crop, *map(_array, results))
    return results


def _gradients(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    shape = boxes.shape
    return torch.empty(shape, dtype=boxes.dtype), *(torch.empty(shape[0], dtype=boxes.dtype) for _ in range(2))  # type: ignore[return-value]
