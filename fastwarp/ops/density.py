"""Ops of the `density` family: boxes -> saliency, and boxes -> knots without the map."""

from typing import Any

import torch
from torch import Tensor

from fastwarp._backend import kernels
from fastwarp.ops import _dense
from fastwarp.ops._contract import INTEGER, REAL, fake, implement, integer, tensor
from fastwarp.ops._vmap import batch_of, fold, unfold, vmap_rule

# Numbers are passed as floats: as tensors they would each cost a GPU a launch. A tensor [1 or B] has precedence.
_DENSITY = (
    "Tensor boxes, Tensor? counts, Tensor? amplitude, Tensor? bandwidth, float a, float b, "
    "SymInt height, SymInt width, SymInt h, SymInt w"
)
_KNOTS = f"{_DENSITY}, float fwhm, bool anti_crop"
_GRADIENTS = "(Tensor, Tensor, Tensor)"

torch.library.define("fastwarp::density_map", f"({_DENSITY}) -> Tensor")
torch.library.define("fastwarp::density_map_backward", f"(Tensor grad, {_DENSITY}) -> {_GRADIENTS}")
torch.library.define("fastwarp::density_knots", f"({_KNOTS}) -> (Tensor, Tensor)")
torch.library.define("fastwarp::density_knots_backward", f"(Tensor grad_y, Tensor grad_x, {_KNOTS}) -> {_GRADIENTS}")


_RULES: dict[str, Any] = {
    "boxes": tensor(REAL, "B N 4"),
    "counts": tensor(INTEGER, "B", optional=True),
    "amplitude": tensor(REAL, "b", free=True, optional=True),
    "bandwidth": tensor(REAL, "b", free=True, optional=True),
    "height": integer("H", 2),
    "width": integer("W", 2),
    "h": integer("h", 2),
    "w": integer("w", 2),
}


# --- what both have in common -----------------------------------------------------------------------------------------


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Of both ops and, with the gradients in front, of their backward ops."""
    first = next(i for i, value in enumerate(inputs) if not isinstance(value, (Tensor, type(None))))
    ctx.save_for_backward(*inputs[:first])
    ctx.options = inputs[first:]


def _gradients(ctx: Any, grads: tuple[Tensor, Tensor, Tensor]) -> tuple[Any, ...]:
    """Gradients to all arguments; those to amplitude and bandwidth come for every image."""
    by_numbers = (
        None if value is None else _sum_to(grad, value)
        for grad, value in zip(grads[1:], ctx.saved_tensors[2:4], strict=True)
    )
    return (grads[0], None, *by_numbers, *(None for _ in ctx.options))


def _sum_to(grad: Tensor, value: Tensor) -> Tensor:
    grad = grad if grad.shape[0] == value.shape[0] else grad.sum(0, keepdim=True)
    return grad.to(value.dtype)


def _fake_gradients(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    batch = boxes.shape[0]
    return boxes.new_empty(boxes.shape), boxes.new_empty(batch), boxes.new_empty(batch)


def dense_map(
    boxes: Tensor, counts: Tensor | None, amplitude: Tensor, bandwidth: Tensor, height: Any, width: Any, h: Any, w: Any
) -> Tensor:
    """The map as a dense, differentiable expression of boxes `[B, N, 4]` and numbers `[B]`, all float64."""
    n = boxes.shape[1]
    valid = torch.arange(n, device=boxes.device) < (n if counts is None else counts[:, None])
    valid = valid.expand(boxes.shape[:2])
    unit = (torch.arange(4, device=boxes.device) > 1).to(boxes)  # (0, 0, 1, 1)
    boxes = torch.where(valid[:, :, None], boxes, unit)
    y, x = _dense_factor(boxes, 1, bandwidth, height, h), _dense_factor(boxes, 0, bandwidth, width, w)
    weight = torch.where(valid, amplitude[:, None] / (1e-5 + y.sum(2) * x.sum(2)), 0.0)
    count = valid.sum(1)[:, None, None]
    density = (y * weight[:, :, None]).mT @ x + count / (2 * min(h, w) - 1) ** 2
    total = density.sum((1, 2), keepdim=True)
    return torch.where(count > 0, density / torch.where(count > 0, total, 1.0), 1 / (h * w))


def _dense_factor(boxes: Tensor, axis: int, bandwidth: Tensor, size: int, cells: int) -> Tensor:
    low, high = boxes[:, :, axis, None], boxes[:, :, axis + 2, None]
    cell = size * torch.arange(cells, device=boxes.device, dtype=boxes.dtype) / (cells - 1)
    away = cell - (low + high) / 2
    return torch.exp(-0.5 * away**2 / (bandwidth[:, None, None] * (high - low).clamp(min=1e-3)))


def _double(ctx: Any, gradients: int, cotangents: tuple[Tensor, ...]) -> tuple[Any, ...]:
    """Gradients of a backward op, whose first arguments are that many gradients."""
    grads, (boxes, counts, *numbers) = ctx.saved_tensors[:gradients], ctx.saved_tensors[gradients:]
    a, b, *sizes = ctx.options[:6]
    knots = ctx.options[6:]
    given = [number for number in numbers if number is not None]

    def function(boxes: Tensor, *leaves: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        rest = iter(leaves)
        variables = [
            (boxes.new_full((1,), value).requires_grad_() if number is None else next(rest)).expand(boxes.shape[0])
            for number, value in zip(numbers, (a, b), strict=True)
        ]
        saliency = dense_map(boxes, counts, variables[0], variables[1], *sizes)
        outputs = _dense.lz_knots(saliency.sum(2), saliency.sum(1), *knots) if knots else (saliency,)
        return outputs, (boxes, *variables)

    found = iter(_dense.second_backward(function, grads, [boxes, *given], cotangents))
    to_grads, to_boxes = [next(found) for _ in grads], next(found)
    to_numbers = [None if number is None else next(found) for number in numbers]
    return (*to_grads, to_boxes, None, *to_numbers, *(None for _ in ctx.options))


def _vmapped(info: Any, in_dims: Any, args: tuple[Any, ...], boxes: int) -> list[Any]:
    """The arguments of one call for all examples. The boxes, argument number `boxes`, tell the batch size."""
    return fold(info.batch_size, batch_of(args[boxes : boxes + 1], in_dims[boxes : boxes + 1]), args, in_dims)


# --- density_map ------------------------------------------------------------------------------------------------------


@implement("density_map", **_RULES)
def _density_map(boxes: Tensor, *args: Any) -> Tensor:
    return kernels("density", boxes.device).density_map(boxes, *args)


@fake("density_map")
def _(boxes: Tensor, *args: Any) -> Tensor:
    return boxes.new_empty(boxes.shape[0], *args[-2:])


def _density_map_grad(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return _gradients(ctx, torch.ops.fastwarp.density_map_backward(grad, *ctx.saved_tensors, *ctx.options))


torch.library.register_autograd("fastwarp::density_map", _density_map_grad, setup_context=_save)


@implement("density_map_backward", grad=tensor(REAL, "B h w"), **_RULES)
def _density_map_backward(grad: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return kernels("density", grad.device).density_map_backward(grad, *args)


@fake("density_map_backward")
def _(grad: Tensor, boxes: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_gradients(boxes)


def _density_map_double(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    return _double(ctx, 1, cotangents)


torch.library.register_autograd("fastwarp::density_map_backward", _density_map_double, setup_context=_save)


@vmap_rule("density_map")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    return unfold(info.batch_size, torch.ops.fastwarp.density_map(*_vmapped(info, in_dims, args, 0))), 0


@vmap_rule("density_map_backward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    grads = torch.ops.fastwarp.density_map_backward(*_vmapped(info, in_dims, args, 1))
    return tuple(unfold(info.batch_size, g) for g in grads), (0, 0, 0)


# --- density_knots ----------------------------------------------------------------------------------------------------


@implement("density_knots", **_RULES)
def _density_knots(boxes: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return kernels("density", boxes.device).density_knots(boxes, *args)


@fake("density_knots")
def _(boxes: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    h, w = args[7:9]
    return boxes.new_empty(boxes.shape[0], h), boxes.new_empty(boxes.shape[0], w)


def _density_knots_grad(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    return _gradients(ctx, torch.ops.fastwarp.density_knots_backward(*grads, *ctx.saved_tensors, *ctx.options))


torch.library.register_autograd("fastwarp::density_knots", _density_knots_grad, setup_context=_save)


@implement("density_knots_backward", grad_y=tensor(REAL, "B h"), grad_x=tensor(REAL, "B w"), **_RULES)
def _density_knots_backward(grad_y: Tensor, grad_x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return kernels("density", grad_y.device).density_knots_backward(grad_y, grad_x, *args)


@fake("density_knots_backward")
def _(grad_y: Tensor, grad_x: Tensor, boxes: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _fake_gradients(boxes)


def _density_knots_double(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    return _double(ctx, 2, cotangents)


torch.library.register_autograd("fastwarp::density_knots_backward", _density_knots_double, setup_context=_save)


@vmap_rule("density_knots")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    knots = torch.ops.fastwarp.density_knots(*_vmapped(info, in_dims, args, 0))
    return tuple(unfold(info.batch_size, k) for k in knots), (0, 0)


@vmap_rule("density_knots_backward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    grads = torch.ops.fastwarp.density_knots_backward(*_vmapped(info, in_dims, args, 2))
    return tuple(unfold(info.batch_size, g) for g in grads), (0, 0, 0)
