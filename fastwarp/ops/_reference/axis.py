"""Reference launchers of the `axis` family; see `fastwarp.kernels.cpu.axis` for the arguments."""

from typing import Any

from torch import Tensor

from fastwarp.errors import FastwarpError
from fastwarp.ops._reference import call, to_tensor
from fastwarp.reference import axis


def _pair(arrays: Any, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    return to_tensor(arrays[0], first), to_tensor(arrays[1], second)


def _require_order(*knots: Tensor) -> None:
    if any((k[:, 1:] < k[:, :-1]).any() for k in knots):
        raise FastwarpError("knots decrease somewhere, expected knots that never do; SeparableWarp.check() tells where")


def lz_knots(saliency_y: Tensor, saliency_x: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """Saliency -> knots."""
    return _pair(call(axis.lz_knots, saliency_y, saliency_x, *options), saliency_y, saliency_x)


def lz_knots_backward(grad_y: Tensor, grad_x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """Gradients to the marginals."""
    return _pair(call(axis.lz_knots_backward, grad_y, grad_x, *args), grad_y, grad_x)


def axis_map(knots: Tensor, positions: Tensor, inverse: bool) -> Tensor:
    """T~ or its inverse."""
    _require_order(knots)
    return to_tensor(call(axis.axis_map, knots, positions, inverse), knots)


def axis_map_backward(grad: Tensor, knots: Tensor, positions: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """Gradients to knots and positions."""
    _require_order(knots)
    return _pair(call(axis.axis_map_backward, grad, knots, positions, inverse), knots, positions)


def axis_windows(knots_y: Tensor, knots_x: Tensor, *args: Any) -> Tensor:
    """Knots -> windows."""
    _require_order(knots_y, knots_x)
    return to_tensor(call(axis.axis_windows, knots_y, knots_x, *args), knots_y)


def axis_windows_backward(grad: Tensor, knots_y: Tensor, knots_x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    """Gradients to the knots."""
    return _pair(call(axis.axis_windows_backward, grad, knots_y, knots_x, *args), knots_y, knots_x)


windows_to_resample = axis_windows  # kernels of CPUs hand arrays on
