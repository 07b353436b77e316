"""Ops of the `label` family: what has no values in between, by either kind of warp.

Windows are those of the family that a warp resamples with: `separable` ones of rows and columns, or those of pixels as
in `grid`. `label_nearest` is linear in the images, and reads what linear interpolation at whole pixels reads, whose
adjoint is its gradient; it has none to the windows. Integers and bool have none at all: nor have their own ops.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from fastwarp._backend import backend_for, kernels, launchers
from fastwarp.errors import FastwarpError
from fastwarp.ops._contract import (
    FLOAT,
    REAL,
    Known,
    Rule,
    extents,
    fake,
    implement,
    levels,
    pixels,
    rows_and_columns,
    sizes,
    tensor,
)
from fastwarp.ops._dense_label import rounded
from fastwarp.ops._levels import resized, sides
from fastwarp.ops._vmap import map_levels
from fastwarp.ops.grid import _extents

torch.library.define(
    "fastwarp::label_nearest",
    "(Tensor[] images, Tensor windows, bool separable, SymInt[] sizes, Tensor? source_valid, int fill) -> Tensor[]",
)
torch.library.define(
    "fastwarp::label_majority",
    "(Tensor[] labels, Tensor windows, bool separable, SymInt[] sizes, Tensor? source_valid, int fill) -> Tensor[]",
)
torch.library.define(
    "fastwarp::label_sample",
    "(Tensor[] labels, Tensor knots_y, Tensor knots_x, SymInt[] sizes, bool inverse, bool border, Tensor? valid, "
    "Tensor? source_valid, int fill) -> Tensor[]",
)

CLASSES = frozenset({torch.uint8, torch.int16, torch.int32, torch.int64})
BOOL = frozenset({torch.bool})
ANY = FLOAT | CLASSES | BOOL

_any_windows = tensor(REAL, "b k P")


def _separable(pixel_rows: int) -> Rule:
    """Which kind the windows are; those of pixels have so many rows."""

    def rule(value: Any, known: Known) -> None:
        known["separable"] = value
        expected = 2 if value else pixel_rows
        if known["k"] != expected:
            raise FastwarpError(f"is {value} and windows has {known['k']} rows, expected {expected}")

    return rule


def _sizes(value: Any, known: Known) -> None:
    sizes(rows_and_columns if known["separable"] else pixels)(value, known)


def _fill(dtypes: frozenset[torch.dtype]) -> Rule:
    """A number of the images' dtype, 0 where it is a floating-point one: there the op is linear."""

    def rule(value: Any, known: Known) -> None:
        low, high = bounds(known[dtypes])
        if not low <= value <= high:
            raise FastwarpError(f"is {value}, expected {low} to {high} for {known[dtypes]}")

    return rule


@functools.cache
def bounds(dtype: torch.dtype) -> tuple[int, int]:
    """Least and largest number that targets which read nothing may get."""
    if dtype.is_floating_point:
        return 0, 0
    return (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)


# --- nearest ----------------------------------------------------------------------------------------------------------


@implement(
    "label_nearest",
    images=levels(ANY, "b"),
    windows=_any_windows,
    separable=_separable(2),
    sizes=_sizes,
    source_valid=_extents,
    fill=_fill(ANY),
)
def _nearest(images: list[Tensor], windows: Tensor, *args: Any) -> list[Tensor]:
    return kernels("label", windows.device).nearest(images, windows, *args)


@fake("label_nearest")
def _(images: list[Tensor], windows: Tensor, separable: bool, sizes: list[int], *args: Any) -> Any:
    return resized(images, sizes, windows)


def _save_nearest(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    images, windows, ctx.separable, ctx.sizes, source_valid, _ = inputs
    ctx.source_sizes = sides(images)
    ctx.save_for_backward(windows, source_valid)


def _nearest_grad(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    windows, source_valid = ctx.saved_tensors
    by_images: Any = [None] * len(grads)
    if any(ctx.needs_input_grad[0]):
        # Every target's goes to the pixel that it read.
        whole = rounded(windows, ctx.separable, ctx.sizes, ctx.source_sizes, source_valid)
        ops, args = torch.ops.fastwarp, (grads, whole, ctx.source_sizes, source_valid)
        by_images = ops.separable_resample_adjoint(*args, False) if ctx.separable else ops.grid_resample_adjoint(*args)
    return by_images, *(None,) * 5


torch.library.register_autograd("fastwarp::label_nearest", _nearest_grad, setup_context=_save_nearest)


map_levels("label_nearest")


# --- majority ---------------------------------------------------------------------------------------------------------


@implement(
    "label_majority",
    labels=levels(CLASSES, "b"),
    windows=_any_windows,
    separable=_separable(4),
    sizes=_sizes,
    source_valid=_extents,
    fill=_fill(CLASSES),
)
def _majority(labels: list[Tensor], windows: Tensor, *args: Any) -> list[Tensor]:
    return kernels("label", windows.device).majority(labels, windows, *args)


@fake("label_majority")
def _(labels: list[Tensor], windows: Tensor, separable: bool, sizes: list[int], *args: Any) -> Any:
    return resized(labels, sizes, windows)


map_levels("label_majority")


# --- sample: windows of a separable warp and the nearest labels in one call: half of a small one is spared ------------


@implement(
    "label_sample",
    labels=levels(CLASSES | BOOL, "B"),
    knots_y=tensor(REAL, "b h:2"),
    knots_x=tensor(REAL, "b w:2"),
    sizes=sizes(),
    valid=extents,
    source_valid=extents,
    fill=_fill(CLASSES | BOOL),
)
def _sample(
    labels: list[Tensor],
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: list[int],
    inverse: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
    fill: int,
) -> list[Tensor]:
    backend = backend_for(knots_y.device)
    options = (inverse, False, border, valid, source_valid)
    windows = launchers(backend, "axis").windows_to_resample(knots_y, knots_x, sizes, sides(labels), *options)
    return launchers(backend, "label").nearest(labels, windows, True, sizes, source_valid, fill)


@fake("label_sample")
def _(labels: list[Tensor], knots_y: Tensor, knots_x: Tensor, sizes: list[int], *args: Any) -> Any:
    return resized(labels, sizes)


map_levels("label_sample")
