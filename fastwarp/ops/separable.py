"""Ops of the `separable` family: resampling by knots or windows, its adjoint, its gradient to the windows, the camera.

`separable_resample` is linear in the images and `separable_resample_adjoint` is its transpose, so the two are each
other's derivative, and `separable_windows_gradient` is the other derivative of both: only its own derivative needs
more.
"""

from typing import Any

import torch
from torch import Tensor

from fastwarp._backend import backend_for, kernels, launchers
from fastwarp._constants import constant
from fastwarp.ops import _dense
from fastwarp.ops._contract import (
    BYTE,
    FLOAT,
    IMAGE,
    REAL,
    extents,
    fake,
    image,
    implement,
    levels,
    numbers,
    one_of,
    rows_and_columns,
    sizes,
    tensor,
)
from fastwarp.ops._levels import resized, sides
from fastwarp.ops._vmap import batch_of, fold, map_levels, unfold, unfold_like, vmap_rule

torch.library.define(
    "fastwarp::separable_sample",
    "(Tensor[] images, Tensor knots_y, Tensor knots_x, SymInt[] sizes, bool inverse, bool antialias, bool border, "
    "Tensor? valid, Tensor? source_valid) -> Tensor[]",
)
torch.library.define(
    "fastwarp::separable_resample",
    "(Tensor[] images, Tensor windows, SymInt[] sizes, Tensor? source_valid, bool antialias) -> Tensor[]",
)
torch.library.define(
    "fastwarp::separable_resample_adjoint",
    "(Tensor[] grads, Tensor windows, SymInt[] source_sizes, Tensor? source_valid, bool antialias) -> Tensor[]",
)
torch.library.define(
    "fastwarp::separable_windows_gradient",
    "(Tensor[] grads, Tensor[] images, Tensor windows, Tensor? source_valid, bool antialias) -> Tensor",
)
torch.library.define(
    "fastwarp::separable_camera",
    "(Tensor frame, Tensor windows, SymInt[] size, float[] scale, float[] bias, ScalarType dtype, "
    "Tensor? source_valid, bool antialias) -> Tensor",
)


_windows = tensor(REAL, "b 2 P")


# --- sample: windows and resample in one call, which is half of the time of a small one -------------------------------


@implement(
    "separable_sample",
    images=levels(IMAGE, "B"),
    knots_y=tensor(REAL, "b h:2"),
    knots_x=tensor(REAL, "b w:2"),
    sizes=sizes(),
    valid=extents,
    source_valid=extents,
)
def _sample(
    images: list[Tensor],
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: list[int],
    inverse: bool,
    antialias: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> list[Tensor]:
    options = (inverse, antialias, border, valid, source_valid)
    backend = backend_for(knots_y.device)
    windows = launchers(backend, "axis").windows_to_resample(knots_y, knots_x, sizes, sides(images), *options)
    return launchers(backend, "separable").resample(images, windows, sizes, source_valid, antialias)


@fake("separable_sample")
def _(images: list[Tensor], knots_y: Tensor, knots_x: Tensor, sizes: list[int], *args: Any) -> Any:
    return resized(images, sizes)


def _save_sample(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    images, knots_y, knots_x, ctx.sizes, ctx.inverse, ctx.antialias, ctx.border, valid, source_valid = inputs
    ctx.source_sizes = sides(images)
    moving = knots_y.requires_grad or knots_x.requires_grad
    ctx.save_for_backward(knots_y, knots_x, valid, source_valid, *(images if moving else ()))


def _sample_grad(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    knots_y, knots_x, valid, source_valid, *images = ctx.saved_tensors
    options = (ctx.sizes, ctx.source_sizes, ctx.inverse, ctx.antialias, ctx.border, valid, source_valid)
    windows = torch.ops.fastwarp.axis_windows(knots_y, knots_x, *options)
    grad_images: Any = [None] * len(grads)
    if any(ctx.needs_input_grad[0]):
        grad_images = torch.ops.fastwarp.separable_resample_adjoint(
            grads, windows, ctx.source_sizes, source_valid, ctx.antialias
        )
    grad_knots = (None, None)
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        grad_windows = torch.ops.fastwarp.separable_windows_gradient(
            grads, images, windows, source_valid, ctx.antialias
        )
        grad_knots = torch.ops.fastwarp.axis_windows_backward(grad_windows, knots_y, knots_x, *options)
    return (grad_images, *grad_knots, *(None,) * 6)


torch.library.register_autograd("fastwarp::separable_sample", _sample_grad, setup_context=_save_sample)


map_levels("separable_sample")


# --- resample ---------------------------------------------------------------------------------------------------------


@implement(
    "separable_resample",
    images=levels(IMAGE, "B"),
    windows=_windows,
    sizes=sizes(rows_and_columns),
    source_valid=extents,
)
def _resample(
    images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    return kernels("separable", windows.device).resample(images, windows, sizes, source_valid, antialias)


@fake("separable_resample")
def _(images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None, antialias: bool) -> Any:
    return resized(images, sizes)


def _save_resample(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    images, windows, sizes, source_valid, ctx.antialias = inputs
    ctx.sizes, ctx.source_sizes = sizes, sides(images)
    ctx.save_for_backward(windows, source_valid, *(images if windows.requires_grad else ()))


def _resample_grad(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    windows, source_valid, *images = ctx.saved_tensors
    grad_images: Any = [None] * len(grads)
    if any(ctx.needs_input_grad[0]):
        grad_images = torch.ops.fastwarp.separable_resample_adjoint(
            grads, windows, ctx.source_sizes, source_valid, ctx.antialias
        )
    grad_windows = None
    if ctx.needs_input_grad[1]:
        grad_windows = torch.ops.fastwarp.separable_windows_gradient(
            grads, images, windows, source_valid, ctx.antialias
        )
    return grad_images, grad_windows, None, None, None


torch.library.register_autograd("fastwarp::separable_resample", _resample_grad, setup_context=_save_resample)


map_levels("separable_resample")


# --- resample_adjoint -------------------------------------------------------------------------------------------------


@implement(
    "separable_resample_adjoint",
    grads=levels(FLOAT, "B", rows_and_columns),
    windows=_windows,
    source_sizes=sizes(),
    source_valid=extents,
)
def _adjoint(
    grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    implementation = kernels("separable", windows.device)
    return implementation.resample_adjoint(grads, windows, source_sizes, source_valid, antialias)


@fake("separable_resample_adjoint")
def _(grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Any, antialias: bool) -> Any:
    return resized(grads, source_sizes)


def _save_adjoint(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grads, windows, _, source_valid, ctx.antialias = inputs
    ctx.sizes = sides(grads)
    ctx.save_for_backward(windows, source_valid, *(grads if windows.requires_grad else ()))


def _adjoint_grad(ctx: Any, cotangents: list[Tensor]) -> tuple[Any, ...]:
    windows, source_valid, *grads = ctx.saved_tensors
    by_grads: Any = [None] * len(cotangents)
    if any(ctx.needs_input_grad[0]):
        by_grads = torch.ops.fastwarp.separable_resample(cotangents, windows, ctx.sizes, source_valid, ctx.antialias)
    by_windows = None
    if ctx.needs_input_grad[1]:
        by_windows = torch.ops.fastwarp.separable_windows_gradient(
            grads, cotangents, windows, source_valid, ctx.antialias
        )
    return by_grads, by_windows, None, None, None


torch.library.register_autograd("fastwarp::separable_resample_adjoint", _adjoint_grad, setup_context=_save_adjoint)


map_levels("separable_resample_adjoint")


# --- windows_gradient -------------------------------------------------------------------------------------------------


@implement(
    "separable_windows_gradient",
    grads=levels(FLOAT, "B", rows_and_columns),
    images=levels(FLOAT, "B"),
    windows=_windows,
    source_valid=extents,
)
def _windows_gradient(
    grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Tensor | None, antialias: bool
) -> Tensor:
    implementation = kernels("separable", windows.device)
    return implementation.windows_gradient(grads, images, windows, source_valid, antialias)


@fake("separable_windows_gradient")
def _(grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Any, antialias: bool) -> Tensor:
    return windows.new_empty(windows.shape)


def _save_windows_gradient(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grads, images, windows, source_valid, _ = inputs
    ctx.save_for_backward(windows, source_valid, *grads, *images)


def _windows_gradient_grad(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
    windows, source_valid, *levels = ctx.saved_tensors
    count = len(levels) // 2
    grads, images = levels[:count], levels[count:]

    def results(windows: Tensor, *images: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return _dense.resample(images, windows, sides(grads), source_valid), (windows,)

    by = _dense.second_backward(results, grads, [windows, *images], [cotangent])
    return list(by[:count]), list(by[count + 1 :]), by[count], None, None


torch.library.register_autograd(
    "fastwarp::separable_windows_gradient", _windows_gradient_grad, setup_context=_save_windows_gradient
)


@vmap_rule("separable_windows_gradient")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    folded = fold(info.batch_size, batch_of(args, in_dims), args, in_dims)
    result = torch.ops.fastwarp.separable_windows_gradient(*folded)
    return unfold_like(info.batch_size, result, args[2], in_dims[2]), 0


# --- camera -----------------------------------------------------------------------------------------------------------


@implement(
    "separable_camera",
    frame=image(BYTE, "B H:1 W:1 C:1"),
    windows=_windows,
    size=sizes(rows_and_columns),
    scale=numbers("C"),
    bias=numbers("C"),
    dtype=one_of(FLOAT),
    source_valid=extents,
)
def _camera(frame: Tensor, *args: Any) -> Tensor:
    return kernels("separable", frame.device).camera(frame, *args)


@fake("separable_camera")
def _(
    frame: Tensor,
    windows: Tensor,
    size: list[int],
    scale: list[float],
    bias: list[float],
    dtype: torch.dtype,
    source_valid: Tensor | None,
    antialias: bool,
) -> Tensor:
    return frame.new_empty((frame.shape[0], frame.shape[3], *size), dtype=dtype)


def _save_camera(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    frame, windows, _, ctx.scale, _, _, source_valid, ctx.antialias = inputs
    ctx.save_for_backward(frame, windows, source_valid)


def _camera_grad(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    frame, windows, source_valid = ctx.saved_tensors
    scale = constant(ctx.scale, grad)
    image = frame.permute(0, 3, 1, 2).to(grad.dtype)  # weights sum to one: the bias has no gradient
    by_windows = torch.ops.fastwarp.separable_windows_gradient(
        [grad * scale[:, None, None]], [image], windows, source_valid, ctx.antialias
    )
    return (None, by_windows, *(None,) * 6)


torch.library.register_autograd("fastwarp::separable_camera", _camera_grad, setup_context=_save_camera)


@vmap_rule("separable_camera")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    folded = fold(info.batch_size, batch_of(args, in_dims), args, in_dims)
    return unfold(info.batch_size, torch.ops.fastwarp.separable_camera(*folded)), 0
