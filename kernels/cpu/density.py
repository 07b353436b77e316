"""numba kernels of the `density` family: boxes -> saliency, and boxes -> marginals -> knots without the map.

A box's kernel is a product of a factor in y and a factor in x, which are made in vectors: their length is a multiple
of eight, with cells at infinity behind the real ones. All arithmetic is float64, rounded once, box after box.
"""

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fastwarp.errors import FastwarpError
from fastwarp.kernels.cpu._lz import attraction, knots_of, pull_knots
from fastwarp.kernels.cpu._memory import array, clear, doubles
from fastwarp.kernels.cpu._parallel import inline, jit, parallel, run
from fastwarp.kernels.cpu._rows import LANES
from fastwarp.kernels.cpu._vector import elements, exponential, full, hold, load, store, tail
from fastwarp.kernels.cpu._vector import total as sum_of_lanes

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


class Side(NamedTuple):
    """An axis of a map of n cells: their positions in pixels, infinity behind them to a `length` that is a multiple of
    eight; room for as many factors."""

    cells: Any
    factor: Any
    n: Any
    length: Any


@inline
def _length(n):
    return -(-n // LANES) * LANES


@inline
def _side(size, n, room):
    """The `Side` of an axis of `size` pixels; `room` is for two numbers a cell."""
    length = _length(n)
    for c in range(length):
        room[c] = size * c / (n - 1) if c < n else np.inf
    return Side(room, tail(room, length), n, length)


@inline
def _fill_factor(low, high, bandwidth, side):
    """`factor = exp(-(cells - centre)^2 / (2 b extent))`. Returns its sum, the centre and the extent."""
    low, high = np.float64(low), np.float64(high)
    cells, factor = side.cells, side.factor
    centre = 0.5 * (low + high)
    extent = _SMALLEST if high - low < _SMALLEST else high - low
    rate, total = -0.5 / (bandwidth * extent), full(0.0, LANES)
    for c in range(0, side.length, LANES):
        away = load(cells, c, LANES) - centre
        value = exponential(away * away * rate, False)
        store(value, factor, c)
        total = total + value
    return sum_of_lanes(total), centre, extent


class Boxes(NamedTuple):
    """The boxes `[count, 4]` of an image that has room for `most`, amplitude and bandwidth."""

    sides: Any
    count: Any
    most: Any
    amplitude: Any
    bandwidth: Any


@inline
def _boxes_of(boxes, counts, amplitude, bandwidth, b):
    """The `Boxes` of image b."""
    most, a, of_b = boxes.shape[1], b if len(amplitude) > 1 else 0, b if len(bandwidth) > 1 else 0
    count = min(max(counts[b], 0), most) if len(counts) > 0 else most
    return Boxes(tail(boxes, 4 * most * b), count, most, amplitude[a], bandwidth[of_b])


@inline
def _fill_factors(boxes, i, y, x):
    """The factors of box i; returns for y and x what `_fill_factor` does."""
    at, sides = 4 * i, boxes.sides
    of_y = _fill_factor(sides[at + 1], sides[at + 3], boxes.bandwidth, y)
    return of_y, _fill_factor(sides[at], sides[at + 2], boxes.bandwidth, x)


@inline
def _uniform(count, h, w):
    side = 2 * min(h, w) - 1
    return count / np.float64(side * side)


@jit
def _first_wrong(boxes, counts, amplitude, bandwidth):
    """4 * image + index into _WRONG, or -1."""
    for b in range(len(boxes)):
        of_image = _boxes_of(boxes, counts, amplitude, bandwidth, b)
        for i in range(of_image.count):
            box = tail(of_image.sides, 4 * i)
            for k in range(4):
                if not abs(box[k]) <= _MOST:
                    return 4 * b
            if box[2] < box[0] or box[3] < box[1]:
                return 4 * b + 1
        if not 0 <= of_image.amplitude <= _MOST:
            return 4 * b + 2
        if not _LEAST <= of_image.bandwidth <= _MOST:
            return 4 * b + 3
    return -1


# --- boxes -> saliency ------------------------------------------------------------------------------------------------


@inline
def _fill_map(boxes, y, x, density):
    """The map of an image, not yet divided by its sum; returns the sum."""
    h, w = y.n, x.n
    uniform = _uniform(boxes.count, h, w)
    for n in range(h * w):
        density[n] = uniform
    for i in range(boxes.count):
        (total_y, _, _), (total_x, _, _) = _fill_factors(boxes, i, y, x)
        weight = boxes.amplitude / (1e-5 + total_y * total_x)
        for r in range(h):
            row, factor, scale = tail(density, r * w), x.factor, weight * y.factor[r]
            for c in range(w):
                row[c] += scale * factor[c]
    total = 0.0
    for r in range(h):  # row by row: a sum of sums rounds less
        row, of_row = tail(density, r * w), 0.0
        for c in range(w):
            of_row += row[c]
        total += of_row
    return total


@parallel
def _map(boxes, counts, amplitude, bandwidth, height, width, result, part, parts):
    _, h, w = result.shape
    of_y, of_x = 2 * _length(h), 2 * _length(w)
    memory = doubles(of_y + of_x + h * w)
    y, x, density = _side(height, h, elements(memory)), _side(width, w, tail(memory, of_y)), tail(memory, of_y + of_x)
    for b in range(part, len(boxes), parts):
        of_image, target = _boxes_of(boxes, counts, amplitude, bandwidth, b), tail(result, b * h * w)
        total = _fill_map(of_image, y, x, density)
        for n in range(h * w):
            target[n] = 1.0 / (h * w) if of_image.count == 0 else density[n] / total
    hold(memory)


@inline
def _fill_marginals(boxes, y, x, marginal_y, marginal_x):
    """The sums of the rows and columns of the same map, without it."""
    uniform = _uniform(boxes.count, y.n, x.n)
    for r in range(y.n):
        marginal_y[r] = uniform * x.n
    for c in range(x.n):
        marginal_x[c] = uniform * y.n
    for i in range(boxes.count):
        (total_y, _, _), (total_x, _, _) = _fill_factors(boxes, i, y, x)
        weight = boxes.amplitude / (1e-5 + total_y * total_x)
        for r in range(y.n):
            marginal_y[r] += weight * total_x * y.factor[r]
        for c in range(x.n):
            marginal_x[c] += weight * total_y * x.factor[c]


class Marginals(NamedTuple):
    """Of an image and its boxes: both axes of the map, how their cells attract each other, room for the marginals and
    for gradients to them."""

    y: Any
    x: Any
    attraction_y: Any
    attraction_x: Any
    of_y: Any
    of_x: Any
    to_y: Any
    to_x: Any


@inline
def _room_of_marginals(h, w):
    return 2 * (_length(h) + _length(w) + min(h, w) + h + w)


@inline
def _marginals(height, width, h, w, fwhm, anti_crop, room):
    """The `Marginals`, not divided by the sum of the map: knots do not depend on it."""
    radius = min(h, w) - 1
    at_x = tail(room, 2 * _length(h))
    weight = tail(at_x, 2 * _length(w))
    of_y = tail(weight, 2 * radius + 2)
    of_x = tail(of_y, h)
    attraction_y = attraction(h, radius, fwhm, anti_crop, weight)
    attraction_x = attraction(w, radius, fwhm, anti_crop, tail(weight, radius + 1))
    sides = (_side(height, h, room), _side(width, w, at_x), attraction_y, attraction_x)
    return Marginals(*sides, of_y, of_x, tail(of_x, w), tail(of_x, w + h))


@jit
def _knots(boxes, counts, amplitude, bandwidth, height, width, fwhm, anti_crop, knots_y, knots_x):
    h, w = knots_y.shape[1], knots_x.shape[1]
    memory = doubles(_room_of_marginals(h, w))
    of = _marginals(height, width, h, w, fwhm, anti_crop, elements(memory))
    for b in range(len(boxes)):
        _fill_marginals(_boxes_of(boxes, counts, amplitude, bandwidth, b), of.y, of.x, of.of_y, of.of_x)
        knots_of(of.of_y, of.attraction_y, tail(knots_y, b * h))
        knots_of(of.of_x, of.attraction_x, tail(knots_x, b * w))
    hold(memory)


# --- gradients --------------------------------------------------------------------------------------------------------


@inline
def _dot(a, b, count):
    total = 0.0
    for i in range(count):
        total += a[i] * b[i]
    return total


@inline
def _pull_box(sides, axis, bandwidth, centre, extent, side, to_factor, grad):
    """From the gradient to the factor of a box, those to its two sides, 0 for x and 1 for y; returns that to the
    bandwidth."""
    first, second = 0.0, 0.0  # sums over the distance to the centre, once and twice
    for c in range(side.n):
        away = side.cells[c] - centre
        g = to_factor[c] * side.factor[c] * away
        first += g
        second += g * away
    variance = bandwidth * extent
    by_centre, by_variance = first / variance, 0.5 * second / (variance * variance)
    thin = np.float64(sides[axis + 2]) - np.float64(sides[axis]) < _SMALLEST
    by_extent = 0.0 if thin else by_variance * bandwidth
    grad[axis] = 0.5 * by_centre - by_extent
    grad[axis + 2] = 0.5 * by_centre + by_extent
    return by_variance * extent


@inline
def _pull_image(by_density, by_y, by_x, boxes, y, x, room, grad):
    """Gradients of one image from that to its map before the division, `by_density[r, c] + by_y[r] + by_x[c]`.

    `by_density`: two maps, the second transposed, and whether there are any: none where the map was never made. `room`
    is for `h + w` numbers. Writes the gradient to the boxes, returns those to amplitude and bandwidth.
    """
    rows, columns, is_there = by_density
    h, w, a, to_y, to_x = y.n, x.n, boxes.amplitude, room, tail(room, y.n)
    by_a, by_b = 0.0, 0.0
    for i in range(4 * boxes.count, 4 * boxes.most):
        grad[i] = 0
    for i in range(boxes.count):
        (total_y, centre_y, extent_y), (total_x, centre_x, extent_x) = _fill_factors(boxes, i, y, x)
        of_y, of_x = _dot(y.factor, by_y, h), _dot(x.factor, by_x, w)
        for r in range(h):
            to_y[r] = by_y[r] * total_x + of_x
        for c in range(w):
            to_x[c] = by_x[c] * total_y + of_y
        for r in range(h if is_there else 0):
            row, scale = tail(rows, r * w), y.factor[r]
            for c in range(w):
                to_x[c] += row[c] * scale
        for c in range(w if is_there else 0):
            column, scale = tail(columns, c * h), x.factor[c]
            for r in range(h):
                to_y[r] += column[r] * scale
        norm = 1.0 / (1e-5 + total_y * total_x)
        response = _dot(to_y, y.factor, h) * norm
        by_a += response
        for r in range(h):  # the kernel's sum moves with it, too
            to_y[r] = a * norm * (to_y[r] - response * total_x)
        for c in range(w):
            to_x[c] = a * norm * (to_x[c] - response * total_y)
        sides, to_sides = tail(boxes.sides, 4 * i), tail(grad, 4 * i)
        by_b += _pull_box(sides, 1, boxes.bandwidth, centre_y, extent_y, y, to_y, to_sides)
        by_b += _pull_box(sides, 0, boxes.bandwidth, centre_x, extent_x, x, to_x, to_sides)
    return by_a, by_b


@parallel
def _map_backward(grad, boxes, counts, amplitude, bandwidth, height, width, by_boxes, by_a, by_b, part, parts):
    _, h, w = grad.shape
    of_y, of_x, size = 2 * _length(h), 2 * _length(w), h * w
    memory = doubles(of_y + of_x + 2 * size + 2 * (h + w))
    y, x, density = _side(height, h, elements(memory)), _side(width, w, tail(memory, of_y)), tail(memory, of_y + of_x)
    turned, nothing = tail(density, size), tail(density, 2 * size)
    clear(nothing, h + w)
    for b in range(part, len(boxes), parts):
        of_image, of_result = _boxes_of(boxes, counts, amplitude, bandwidth, b), tail(grad, b * size)
        total, mean = _fill_map(of_image, y, x, density), 0.0
        for n in range(size):
            mean += np.float64(of_result[n]) * (density[n] / total)
        for r in range(h):
            for c in range(w):
                value = (np.float64(of_result[r * w + c]) - mean) / total
                density[r * w + c], turned[c * h + r] = value, value
        maps, to_boxes = (density, turned, True), tail(by_boxes, 4 * of_image.most * b)
        room = tail(nothing, h + w)
        by_a[b], by_b[b] = _pull_image(maps, nothing, tail(nothing, h), of_image, y, x, room, to_boxes)
    hold(memory)


@jit
def _knots_backward(
    grad_y, grad_x, boxes, counts, amplitude, bandwidth, height, width, fwhm, anti_crop, by_boxes, by_a, by_b
):
    h, w = grad_y.shape[1], grad_x.shape[1]
    memory = doubles(_room_of_marginals(h, w))
    of = _marginals(height, width, h, w, fwhm, anti_crop, elements(memory))
    for b in range(len(boxes)):
        of_image = _boxes_of(boxes, counts, amplitude, bandwidth, b)
        _fill_marginals(of_image, of.y, of.x, of.of_y, of.of_x)
        pull_knots(tail(grad_y, b * h), of.of_y, of.attraction_y, of.to_y)
        pull_knots(tail(grad_x, b * w), of.of_x, of.attraction_x, of.to_x)
        to_boxes, none = tail(by_boxes, 4 * of_image.most * b), (of.of_y, of.of_y, False)
        by_a[b], by_b[b] = _pull_image(none, of.to_y, of.to_x, of_image, of.y, of.x, of.of_y, to_boxes)
    hold(memory)


# --- launchers --------------------------------------------------------------------------------------------------------


def _as_numbers(tensor: Tensor | None, value: float) -> np.ndarray:
    return np.array([value]) if tensor is None else array(tensor.double())


def _arguments(
    boxes: Tensor, counts: Tensor | None, amplitude: Tensor | None, bandwidth: Tensor | None, a: float, b: float
) -> tuple[np.ndarray, ...]:
    number = _ALL if counts is None else array(counts.long())
    arguments = (array(boxes), number, _as_numbers(amplitude, a), _as_numbers(bandwidth, b))
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
