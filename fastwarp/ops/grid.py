"""Ops of the `grid` family: resampling at windows, one per target, its adjoint, its gradient to them, the camera.

As in the `separable` family, `grid_resample` is linear in the images, `grid_resample_adjoint` is its transpose, and
`grid_windows_gradient` is the other derivative of both. Windows are `[B, 2, P]` (centres x, y in source pixels:
bilinear) or `[B, 4, P]` (and half-widths of triangle filters, which `grid_widen` finds); a target at x < 0 reads
nothing.
"""

from typing import Any

import torch
from torch import Tensor

from fastwarp._backend import kernels
from fastwarp._constants import constant
from fastwarp.errors import FastwarpError
from fastwarp.kernels.layout import common_batch
from fastwarp.ops import _dense, _dense_mesh
from fastwarp.ops._contract import (
    BYTE,
    FLOAT,
    IMAGE,
    REAL,
    Known,
    extents,
    fake,
    image,
    implement,
    levels,
    numbers,
    one_of,
    pixels,
    sizes,
    tensor,
)
from fastwarp.ops._levels import resized, sides
from fastwarp.ops._vmap import batch_of, fold, map_levels, unfold, unfold_like, vmap_rule

torch.library.define(
    "fastwarp::grid_resample", "(Tensor[] images, Tensor windows, SymInt[] sizes, Tensor? source_valid) -> Tensor[]"
)
torch.library.define(
    "fastwarp::grid_resample_adjoint",
    "(Tensor[] grads, Tensor windows, SymInt[] source_sizes, Tensor? source_valid) -> Tensor[]",
)
torch.library.define(
    "fastwarp::grid_windows_gradient",
    "(Tensor[] grads, Tensor[] images, Tensor windows, Tensor? source_valid) -> Tensor",
)
torch.library.define(
    "fastwarp::grid_widen",
    "(Tensor centres, SymInt[] sizes, SymInt[] source_sizes, Tensor? valid, Tensor? source_valid) -> Tensor",
)
torch.library.define(
    "fastwarp::grid_widen_backward",
    "(Tensor grad, Tensor centres, SymInt[] sizes, SymInt[] source_sizes, Tensor? valid, Tensor? source_valid) "
    "-> Tensor",
)
torch.library.define(
    "fastwarp::grid_camera",
    "(Tensor frame, Tensor windows, SymInt[] size, float[] scale, float[] bias, ScalarType dtype, "
    "Tensor? source_valid) -> Tensor",
)


_any_windows = tensor(REAL, "b k P")


def _windows(value: Any, known: Known) -> None:
    _any_windows(value, known)
    if value.shape[1] not in (2, 4):
        raise FastwarpError(f"is of shape {list(value.shape)}, expected 2 or 4 rows")


def _extents(value: Any, known: Known) -> None:
    known.setdefault("B", 1)  # images and windows alone say how many there are
    extents(value, known)


# --- resample ---------------------------------------------------------------------------------------------------------


@implement("grid_resample", images=levels(IMAGE, "b"), windows=_windows, sizes=sizes(pixels), source_valid=_extents)
def _resample(images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None) -> list[Tensor]:
    return kernels("grid", windows.device).resample(images, windows, sizes, source_valid)


@fake("grid_resample")
def _(images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None) -> Any:
    return resized(images, sizes, windows)


def _save_resample(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    images, windows, ctx.sizes, source_valid = inputs
    ctx.source_sizes = sides(images)
    ctx.save_for_backward(windows, source_valid, *(images if windows.requires_grad else ()))


def _resample_grad(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    windows, source_valid, *images = ctx.saved_tensors
    by_images: Any = [None] * len(grads)
    if any(ctx.needs_input_grad[0]):
        by_images = torch.ops.fastwarp.grid_resample_adjoint(grads, windows, ctx.source_sizes, source_valid)
    by_windows = None
    if ctx.needs_input_grad[1]:
        by_windows = torch.ops.fastwarp.grid_windows_gradient(grads, images, windows, source_valid)
    return by_images, by_windows, None, None


torch.library.register_autograd("fastwarp::grid_resample", _resample_grad, setup_context=_save_resample)


map_levels("grid_resample")


# --- resample_adjoint -------------------------------------------------------------------------------------------------


@implement(
    "grid_resample_adjoint",
    grads=levels(FLOAT, "b", pixels),
    windows=_windows,
    source_sizes=sizes(),
    source_valid=_extents,
)
def _adjoint(grads: list[Tensor], windows: Tensor, source_sizes: list[int], valid: Tensor | None) -> list[Tensor]:
    return kernels("grid", windows.device).resample_adjoint(grads, windows, source_sizes, valid)


@fake("grid_resample_adjoint")
def _(grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Any) -> Any:
    return resized(grads, source_sizes, windows)


def _save_adjoint(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grads, windows, _, source_valid = inputs
    ctx.sizes = sides(grads)
    ctx.save_for_backward(windows, source_valid, *(grads if windows.requires_grad else ()))


def _adjoint_grad(ctx: Any, cotangents: list[Tensor]) -> tuple[Any, ...]:
    windows, source_valid, *grads = ctx.saved_tensors
    by_grads: Any = [None] * len(cotangents)
    if any(ctx.needs_input_grad[0]):
        by_grads = torch.ops.fastwarp.grid_resample(cotangents, windows, ctx.sizes, source_valid)
    by_windows = None
    if ctx.needs_input_grad[1]:
        by_windows = torch.ops.fastwarp.grid_windows_gradient(grads, cotangents, windows, source_valid)
    return by_grads, by_windows, None, None


torch.library.register_autograd("fastwarp::grid_resample_adjoint", _adjoint_grad, setup_context=_save_adjoint)


map_levels("grid_resample_adjoint")


# --- windows_gradient -------------------------------------------------------------------------------------------------


@implement(
    "grid_windows_gradient",
    grads=levels(FLOAT, "b", pixels),
    images=levels(FLOAT, "b"),
    windows=_windows,
    source_valid=_extents,
)
def _windows_gradient(
    grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Tensor | None
) -> Tensor:
    return kernels("grid", windows.device).windows_gradient(grads, images, windows, source_valid)


@fake("grid_windows_gradient")
def _(grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Any) -> Tensor:
    return windows.new_empty(windows.shape)


def _save_windows_gradient(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grads, images, windows, source_valid = inputs
    ctx.save_for_backward(windows, source_valid, *grads, *images)


def _windows_gradient_grad(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
    windows, source_valid, *levels = ctx.saved_tensors
    count = len(levels) // 2
    grads, images = levels[:count], levels[count:]
    if windows.shape[1] == 2:

        def product(windows: Tensor, *levels: Tensor) -> Tensor:
            return _dense_mesh.bilinear_windows_gradient(levels[:count], levels[count:], windows, source_valid)

        by = _dense.backward(product, [windows, *grads, *images], cotangent)
        return list(by[1 : count + 1]), list(by[count + 1 :]), by[0], None

    def results(windows: Tensor, *images: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return _dense_mesh.grid_resample(images, windows, sides(grads), source_valid), (windows,)

    by = _dense.second_backward(results, grads, [windows, *images], [cotangent])
    return list(by[:count]), list(by[count + 1 :]), by[count], None


torch.library.register_autograd(
    "fastwarp::grid_windows_gradient", _windows_gradient_grad, setup_context=_save_windows_gradient
)


@vmap_rule("grid_windows_gradient")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    folded = fold(info.batch_size, batch_of(args, in_dims), args, in_dims)
    result = torch.ops.fastwarp.grid_windows_gradient(*folded)
    return unfold_like(info.batch_size, result, args[2], in_dims[2]), 0


# --- widen ------------------------------------------------------------------------------------------------------------


_WIDEN: dict[str, Any] = {
    "centres": tensor(REAL, "b 2 P"),
    "sizes": sizes(pixels),
    "source_sizes": sizes(),
    "valid": extents,
    "source_valid": extents,
}


@implement("grid_widen", **_WIDEN)
def _widen(centres: Tensor, *args: Any) -> Tensor:
    return kernels("grid", centres.device).widen(centres, *args)


@fake("grid_widen")
def _(centres: Tensor, sizes: list[int], source_sizes: list[int], *extents: Tensor | None) -> Tensor:
    batch = next((t.shape[0] for t in (centres, *extents) if t is not None and t.shape[0] != 1), 1)
    return centres.new_empty(batch, 4, centres.shape[2])


def _save_widen(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    centres, ctx.sizes, ctx.source_sizes, *extents = inputs
    ctx.save_for_backward(centres, *extents)


def _widen_grad(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    centres, *extents = ctx.saved_tensors
    by_centres = torch.ops.fastwarp.grid_widen_backward(grad, centres, ctx.sizes, ctx.source_sizes, *extents)
    return by_centres, *(None,) * 4


torch.library.register_autograd("fastwarp::grid_widen", _widen_grad, setup_context=_save_widen)


@implement("grid_widen_backward", grad=tensor(REAL, "B 4 P"), **_WIDEN)
def _widen_backward(grad: Tensor, centres: Tensor, *args: Any) -> Tensor:
    return kernels("grid", centres.device).widen_backward(grad, centres, *args)


@fake("grid_widen_backward")
def _(grad: Tensor, centres: Tensor, *args: Any) -> Tensor:
    return centres.new_empty(centres.shape)


def _save_widen_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    grad, centres, ctx.sizes, ctx.source_sizes, *extents = inputs
    ctx.save_for_backward(grad, centres, *extents)


def _widen_double(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
    grad, centres, *extents = ctx.saved_tensors

    def windows(centres: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return (_dense_mesh.grid_widen(centres, ctx.sizes, ctx.source_sizes, *extents),), (centres,)

    return (*_dense.second_backward(windows, [grad], [centres], [cotangent]), *(None,) * 4)


torch.library.register_autograd("fastwarp::grid_widen_backward", _widen_double, setup_context=_save_widen_backward)


@vmap_rule("grid_widen")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    folded = fold(info.batch_size, batch_of(args, in_dims), args, in_dims)
    return unfold(info.batch_size, torch.ops.fastwarp.grid_widen(*folded)), 0


@vmap_rule("grid_widen_backward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    folded = fold(info.batch_size, batch_of(args, in_dims), args, in_dims)
    result = torch.ops.fastwarp.grid_widen_backward(*folded)
    return unfold_like(info.batch_size, result, args[1], in_dims[1]), 0


# --- camera -----------------------------------------------------------------------------------------------------------


@implement(
    "grid_camera",
    frame=image(BYTE, "b H:1 W:1 C:1"),
    windows=_windows,
    size=sizes(pixels),
    scale=numbers("C"),
    bias=numbers("C"),
    dtype=one_of(FLOAT),
    source_valid=_extents,
)
def _camera(frame: Tensor, *args: Any) -> Tensor:
    return kernels("grid", frame.device).camera(frame, *args)


@fake("grid_camera")
def _(
    frame: Tensor,
    windows: Tensor,
    size: list[int],
    scale: list[float],
    bias: list[float],
    dtype: torch.dtype,
    source_valid: Tensor | None,
) -> Tensor:
    return frame.new_empty((common_batch(frame, windows), frame.shape[3], *size), dtype=dtype)


def _save_camera(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    frame, windows, _, ctx.scale, _, _, source_valid = inputs
    ctx.save_for_backward(frame, windows, source_valid)


def _camera_grad(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    frame, windows, source_valid = ctx.saved_tensors
    scale = constant(ctx.scale, grad)
    image = frame.permute(0, 3, 1, 2).to(grad.dtype)  # weights sum to one: the bias has no gradient
    by_windows = torch.ops.fastwarp.grid_windows_gradient([grad * scale[:, None, None]], [image], windows, source_valid)
    return (None, by_windows, *(None,) * 5)


torch.library.register_autograd("fastwarp::grid_camera", _camera_grad, setup_context=_save_camera)


@vmap_rule("grid_camera")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    folded = fold(info.batch_size, batch_of(args, in_dims), args, in_dims)
    return unfold(info.batch_size, torch.ops.fastwarp.grid_camera(*folded)), 0
