"""Reference launchers of the `density` family; see `fastwarp.kernels.cpu.density` for the arguments."""

from typing import Any

import numpy as np
from torch import Tensor

from fastwarp._checks import LEAST, MOST
from fastwarp.errors import FastwarpError
from fastwarp.ops._reference import call, to_numpy, to_tensor
from fastwarp.reference import density


def _numbers(amplitude: Tensor | None, bandwidth: Tensor | None, a: float, b: float) -> list[np.ndarray]:
    return [np.array([f]) if t is None else to_numpy(t) for t, f in ((amplitude, a), (bandwidth, b))]


def _require_values(boxes: np.ndarray, counts: np.ndarray | None, amplitude: np.ndarray, bandwidth: np.ndarray) -> None:
    for b, all_boxes in enumerate(boxes):
        some = all_boxes if counts is None else all_boxes[: max(counts[b], 0)]
        if not (abs(some) <= MOST).all():
            raise FastwarpError(
                f"boxes of image {b} are NaN or infinite in places, expected finite coordinates of at most 1e30"
            )
        if (some[:, 2:] < some[:, :2]).any():
            raise FastwarpError(f"boxes of image {b} are inverted in places, expected x1 <= x2 and y1 <= y2")
    if not ((amplitude >= 0) & (amplitude <= MOST)).all():
        raise FastwarpError("amplitude is negative, infinite or NaN in places, expected numbers from 0 to 1e30")
    if not ((bandwidth >= LEAST) & (bandwidth <= MOST)).all():
        raise FastwarpError(
            "bandwidth is not positive and finite in places, expected numbers of pixels from 1e-30 to 1e30"
        )


def _arrays(
    boxes: Tensor, counts: Tensor | None, amplitude: Tensor | None, bandwidth: Tensor | None, *rest: Any
) -> tuple[Any, ...]:
    arrays = (to_numpy(boxes), to_numpy(counts), *_numbers(amplitude, bandwidth, *rest[:2]))
    _require_values(*arrays)
    return (*arrays, *rest[2:])


def density_map(boxes: Tensor, *args: Any) -> Tensor:
    """Boxes -> saliency."""
    return to_tensor(call(density.density_map, *_arrays(boxes, *args)), boxes)


def density_map_backward(grad: Tensor, boxes: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """Gradients to boxes, amplitude and bandwidth."""
    grads = call(density.density_map_backward, grad, *_arrays(boxes, *args))
    return tuple(to_tensor(g, boxes) for g in grads)


def density_knots(boxes: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """Boxes -> knots."""
    return tuple(to_tensor(k, boxes) for k in call(density.density_knots, *_arrays(boxes, *args)))


def density_knots_backward(grad_y: Tensor, grad_x: Tensor, boxes: Tensor, *args: Any) -> tuple[Tensor, ...]:
    """Gradients to boxes, amplitude and bandwidth."""
    grads = call(density.density_knots_backward, grad_y, grad_x, *_arrays(boxes, *args))
    return tuple(to_tensor(g, boxes) for g in grads)
