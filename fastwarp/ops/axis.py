"""Ops of the `axis` family: saliency -> knots, T~ and its inverse at positions, windows."""

from typing import Any

import torch
from torch import Tensor

from fastwarp._backend import kernels
from fastwarp.ops import _dense
from fastwarp.ops._contract import REAL, extents, fake, implement, rows_and_columns, sizes, tensor
from fastwarp.ops._vmap import batch_of, fold, unfold, unfold_like, vmap_rule

_WINDOWS = (
    "Tensor knots_y, Tensor knots_x, SymInt[] sizes, SymInt[] source_sizes, bool inverse, bool antialias, bool border, "
    "Tensor? valid, Tensor? source_valid"
)
_LZ = "Tensor saliency_y, Tensor saliency_x, float fwhm, bool anti_crop"

torch.library.define("fastwarp::lz_knots", f"({_LZ}) -> (Tensor, Tensor)")
torch.library.define("fastwarp::lz_knots_backward", f"(Tensor grad_y, Tensor grad_x, {_LZ}) -> (Tensor, Tensor)")
torch.library.define("fastwarp::axis_map", "(Tensor knots, Tensor positions, bool inverse) -> Tensor")
torch.library.define(
    "fastwarp::axis_map_backward", "(Tensor grad, Tensor knots, Tensor positions, bool inverse) -> (Tensor, Tensor)"
)
torch.library.define("fastwarp::axis_windows", f"({_WINDOWS}) -> Tensor")
torch.library.define("fastwarp::axis_windows_backward", f"(Tensor grad, {_WINDOWS}) -> (Tensor, Tensor)")


_WINDOWS_RULES: dict[str, Any] = {
    "knots_y": tensor(REAL, "b h:2"),
    "knots_x": tensor(REAL, "b w:2"),
    "sizes": sizes(rows_and_columns),
    "source_sizes": sizes(),
    "valid": extents,
    "source_valid": extents,
}


# --- lz_knots ---------------------------------------------------------------------------------------------------------


@implement("lz_knots", saliency_y=tensor(REAL, "B h:2 r"), saliency_x=tensor(REAL, "B w:2 s"))
def _lz_knots(saliency_y: Tensor, saliency_x: Tensor, fwhm: float, anti_crop: bool) -> tuple[Tensor, Tensor]:
    return kernels("axis", saliency_y.device).lz_knots(saliency_y, saliency_x, fwhm, anti_crop)


@fake("lz_knots")
def _(saliency_y: Tensor, saliency_x: Tensor, fwhm: float, anti_crop: bool) -> tuple[Tensor, Tensor]:
    return saliency_y.new_empty(saliency_y.shape[:2]), saliency_x.new_empty(saliency_x.shape[:2])


def _save_lz(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.fwhm, ctx.anti_crop = inputs
    ctx.save_for_backward(*tensors)


def _lz_knots_grad(ctx: Any, grad_y: Tensor, grad_x: Tensor) -> tuple[Any, ...]:
    saliency_y, saliency_x = ctx.saved_tensors
    marginals = torch.ops.fastwarp.lz_knots_backward(grad_y, grad_x, saliency_y, saliency_x, ctx.fwhm, ctx.anti_crop)
    grads = (
        torch.where(saliency < 0, 0, marginal.unsqueeze(-1))
        for saliency, marginal in zip((saliency_y, saliency_x), marginals, strict=True)
    )
    return (*grads, None, None)


torch.library.register_autograd("fastwarp::lz_knots", _lz_knots_grad, setup_context=_save_lz)


@implement(
    "lz_knots_backward",
    grad_y=tensor(REAL, "B h"),
    grad_x=tensor(REAL, "B w"),
    saliency_y=tensor(REAL, "B h:2 r"),
    saliency_x=tensor(REAL, "B w:2 s"),
)
def _lz_knots_backward(
    grad_y: Tensor, grad_x: Tensor, saliency_y: Tensor, saliency_x: Tensor, fwhm: float, anti_crop: bool
) -> tuple[Tensor, Tensor]:
    implementation = kernels("axis", grad_y.device)
    return implementation.lz_knots_backward(grad_y, grad_x, saliency_y, saliency_x, fwhm, anti_crop)


@fake("lz_knots_backward")
def _(
    grad_y: Tensor, grad_x: Tensor, saliency_y: Tensor, saliency_x: Tensor, fwhm: float, anti_crop: bool
) -> tuple[Tensor, Tensor]:
    return saliency_y.new_empty(saliency_y.shape[:2]), saliency_x.new_empty(saliency_x.shape[:2])


def _lz_knots_double(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    def knots(*saliency: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        marginals = tuple(s.clamp(min=0).sum(-1) for s in saliency)
        return _dense.lz_knots(marginals[0], marginals[1], ctx.fwhm, ctx.anti_crop), marginals

    grads, saliency = ctx.saved_tensors[:2], ctx.saved_tensors[2:]
    return (*_dense.second_backward(knots, grads, saliency, cotangents), None, None)


torch.library.register_autograd("fastwarp::lz_knots_backward", _lz_knots_double, setup_context=_save_lz)


@vmap_rule("lz_knots")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    knots = torch.ops.fastwarp.lz_knots(*fold(info.batch_size, batch_of(args, in_dims), args, in_dims))
    return tuple(unfold(info.batch_size, k) for k in knots), (0, 0)


@vmap_rule("lz_knots_backward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    grads = torch.ops.fastwarp.lz_knots_backward(*fold(info.batch_size, batch_of(args, in_dims), args, in_dims))
    return tuple(unfold(info.batch_size, g) for g in grads), (0, 0)


# --- axis_map ---------------------------------------------------------------------------------------------------------


@implement("axis_map", knots=tensor(REAL, "b n:2"), positions=tensor(REAL, "B m", free=True))
def _axis_map(knots: Tensor, positions: Tensor, inverse: bool) -> Tensor:
    return kernels("axis", knots.device).axis_map(knots, positions, inverse)


@fake("axis_map")
def _(knots: Tensor, positions: Tensor, inverse: bool) -> Tensor:
    return knots.new_empty(positions.shape)


def _save_map(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.inverse = inputs
    ctx.save_for_backward(*tensors)


def _axis_map_grad(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return (*torch.ops.fastwarp.axis_map_backward(grad, *ctx.saved_tensors, ctx.inverse), None)


torch.library.register_autograd("fastwarp::axis_map", _axis_map_grad, setup_context=_save_map)


@implement(
    "axis_map_backward", grad=tensor(REAL, "B m"), knots=tensor(REAL, "b n:2"), positions=tensor(REAL, "B m", free=True)
)
def _axis_map_backward(grad: Tensor, knots: Tensor, positions: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    return kernels("axis", knots.device).axis_map_backward(grad, knots, positions, inverse)


@fake("axis_map_backward")
def _(grad: Tensor, knots: Tensor, positions: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    return knots.new_empty(knots.shape), positions.new_empty(positions.shape)


def _axis_map_double(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    def values(*inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return (_dense.axis_map(inputs[0], inputs[1], ctx.inverse),), inputs

    grad, *inputs = ctx.saved_tensors
    return (*_dense.second_backward(values, [grad], inputs, cotangents), None)


torch.library.register_autograd("fastwarp::axis_map_backward", _axis_map_double, setup_context=_save_map)


@vmap_rule("axis_map")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    values = torch.ops.fastwarp.axis_map(*fold(info.batch_size, batch_of(args, in_dims), args, in_dims))
    return unfold(info.batch_size, values), 0


@vmap_rule("axis_map_backward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    grads = torch.ops.fastwarp.axis_map_backward(*fold(info.batch_size, batch_of(args, in_dims), args, in_dims))
    grad_knots = unfold_like(info.batch_size, grads[0], args[1], in_dims[1])
    return (grad_knots, unfold(info.batch_size, grads[1])), (0, 0)


# --- axis_windows -----------------------------------------------------------------------------------------------------


@implement("axis_windows", **_WINDOWS_RULES)
def _axis_windows(knots_y: Tensor, knots_x: Tensor, *args: Any) -> Tensor:
    return kernels("axis", knots_y.device).axis_windows(knots_y, knots_x, *args)


@fake("axis_windows")
def _(knots_y: Tensor, knots_x: Tensor, sizes: list[int], *args: Any) -> Tensor:
    batch = next((t.shape[0] for t in (knots_y, knots_x, *args[-2:]) if t is not None and t.shape[0] != 1), 1)
    return knots_y.new_empty(batch, 2, sum(sizes))


def _save_windows(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.sizes, ctx.source_sizes, ctx.inverse, ctx.antialias, ctx.border, valid, source_valid = inputs
    ctx.save_for_backward(*tensors, valid, source_valid)


def _window_options(ctx: Any) -> tuple[Any, ...]:
    options = (ctx.sizes, ctx.source_sizes, ctx.inverse, ctx.antialias, ctx.border)
    return (*options, *ctx.saved_tensors[-2:])


def _axis_windows_grad(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    knots = ctx.saved_tensors[:2]
    grads = torch.ops.fastwarp.axis_windows_backward(grad, *knots, *_window_options(ctx))
    return (*grads, *(None,) * 7)


torch.library.register_autograd("fastwarp::axis_windows", _axis_windows_grad, setup_context=_save_windows)


@implement("axis_windows_backward", grad=tensor(REAL, "B 2 P"), **_WINDOWS_RULES)
def _axis_windows_backward(grad: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return kernels("axis", grad.device).axis_windows_backward(grad, *args)


@fake("axis_windows_backward")
def _(grad: Tensor, knots_y: Tensor, knots_x: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return knots_y.new_empty(knots_y.shape), knots_x.new_empty(knots_x.shape)


def _axis_windows_double(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    def windows(*knots: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return (_dense.axis_windows(knots[0], knots[1], *_window_options(ctx)),), knots

    grad, *knots = ctx.saved_tensors[:3]
    return (*_dense.second_backward(windows, [grad], knots, cotangents), *(None,) * 7)


torch.library.register_autograd("fastwarp::axis_windows_backward", _axis_windows_double, setup_context=_save_windows)


@vmap_rule("axis_windows")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    windows = torch.ops.fastwarp.axis_windows(*fold(info.batch_size, batch_of(args, in_dims), args, in_dims))
    return unfold(info.batch_size, windows), 0


@vmap_rule("axis_windows_backward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    grads = torch.ops.fastwarp.axis_windows_backward(*fold(info.batch_size, batch_of(args, in_dims), args, in_dims))
    return tuple(unfold_like(info.batch_size, g, args[i], in_dims[i]) for g, i in zip(grads, (1, 2), strict=True)), (
        0,
        0,
    )
