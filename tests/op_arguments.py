"""Arguments for every op of the library, taken from its schema, so that no op and no argument is forgotten."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import test_downsize_ops
import torch
from helpers import random_knots, random_mesh
from torch import Tensor

OPS = torch.ops.fastwarp
BATCH = 2
SIZES, SOURCES = [4, 5, 3, 2], [5, 4, 2, 6]  # two levels
VALID = torch.tensor([[[3, 5], [3, 1]], [[4, 2], [2, 2]]])
SOURCE_VALID = torch.tensor([[[5, 3], [1, 6]], [[4, 4], [2, 3]]])
CROPPING = (0.073, 0.931)  # inside (0, 1): at 0 and 1 a clamp has a kink

Sharing = Mapping[str, int | None]
"""Batch of some arguments by their names: 1, or None where the argument is None. All others have one of `BATCH`."""

SHARED = (
    "knots",
    "knots_y",
    "knots_x",
    "mesh",
    "points",
    "windows",
    "centres",
    "amplitude",
    "bandwidth",
    "valid",
    "source_valid",
)
"""Arguments of which a batch of 1 is shared by all images."""


def argument_names(name: str) -> list[str]:
    return [argument.name for argument in getattr(OPS, name).default._schema.arguments]


def sharings(name: str, most: int = 99) -> Iterator[dict[str, int | None]]:
    """All combinations of shared, own and no arguments of an op, with at most so many that each image has of its own,
    or all."""
    batches: dict[str, tuple[int | None, ...]] = {}
    for argument in getattr(OPS, name).default._schema.arguments:
        own = argument.name == "windows" and name == "mesh_positions_backward"  # what the op itself returned
        optional = isinstance(argument.type, torch.OptionalType)
        if (argument.name in SHARED and not own) or optional:
            shared = (1,) if argument.name in SHARED else ()
            batches[argument.name] = (*((None,) if optional else ()), *shared, BATCH)
    for combination in itertools.product(*batches.values()):
        if combination.count(BATCH) in (*range(most + 1), len(combination)):
            yield dict(zip(batches, combination, strict=True))


def op_arguments(name: str, sharing: Sharing | None = None, **options: Any) -> list[Any]:
    """Arguments of one op, every tensor with a gradient that can have one.

    Args:
        name: of the op.
        sharing: batch of some arguments; see `Sharing`.
        options: of `_values`; those of downsize are in `test_downsize_ops`.
    """
    if name.startswith("downsize"):
        dtype, last = options.get("dtype", torch.float64), options.get("last", False)
        arguments = test_downsize_ops.arguments((5, 4), (3, 2), 1, dtype=dtype, last=last, width=2, batch=BATCH)
        if name == "downsize":
            return arguments
        return [torch.rand_like(OPS.downsize(*arguments)).requires_grad_(), *arguments, True, True, True]
    values = _values(name, sharing or {}, **options)
    return [values[argument] for argument in argument_names(name)]


def _values(
    name: str,
    sharing: Sharing,
    dtype: torch.dtype = torch.float64,
    last: bool = False,
    antialias: bool = True,
    inverse: bool = False,
    homography: bool = False,
    border: bool = False,
) -> dict[str, Any]:
    """Every argument by its name."""

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=dtype)

    def share(argument: str, value: Tensor) -> Any:
        batch = sharing.get(argument, BATCH)
        return None if batch is None else value[:batch].clone().requires_grad_(value.is_floating_point())

    def maps(sizes: list[int]) -> list[Tensor]:
        layout = torch.channels_last if last else torch.contiguous_format
        shapes = [(BATCH, 3, *sizes[i : i + 2]) for i in (0, 2)]
        return [rand(*shape).contiguous(memory_format=layout).requires_grad_() for shape in shapes]

    knots_y, knots_x = (random_knots(BATCH, n, dtype, (0.03, 0.97)) for n in (4, 3))
    mesh = random_mesh(BATCH, (4, 3), dtype, CROPPING)
    kind = {"inverse": inverse, "homography": homography, "antialias": antialias, "border": border}
    centre, extent = rand(BATCH, 3, 2) * torch.tensor([90, 70], dtype=dtype), rand(BATCH, 3, 2) * 30 + 5
    values: dict[str, Any] = {
        **kind,
        "sizes": SIZES,
        "source_sizes": SOURCES,
        "size": SIZES[:2],
        "separable": not inverse,
        "fill": 0,
        "fwhm": 2.5,
        "anti_crop": not inverse,
        "scale": [2.0, 1.0, 0.5],
        "bias": [0.1, 0.2, 0.3],
        "dtype": dtype,
        "a": 1.25,
        "b": 20.0,
        "height": 70,
        "width": 90,
        "h": 4,
        "w": 6,
        "frame": torch.randint(0, 256, (BATCH, *SOURCES[:2], 3), dtype=torch.uint8),
        "images": maps(SOURCES),
        "grads": maps(SIZES),
        "labels": [(3 * m.detach()).to(torch.int64) for m in maps(SOURCES)],
        "saliency": rand(BATCH, 5, 4).requires_grad_(),
        "saliency_y": rand(BATCH, 6, 5).requires_grad_(),
        "saliency_x": rand(BATCH, 5, 6).requires_grad_(),
        "positions": (rand(BATCH, 9) * 1.4 - 0.2).requires_grad_(),
        "points": share("points", rand(BATCH, 9, 2)),
        "knots": share("knots", knots_x),
        "knots_y": share("knots_y", knots_y),
        "knots_x": share("knots_x", knots_x),
        "mesh": share("mesh", mesh),
        "boxes": torch.cat([centre - extent / 2, centre + extent / 2], 2).requires_grad_(),
        "counts": share("counts", torch.tensor([3, 2])),
        "amplitude": share("amplitude", rand(BATCH) + 1),
        "bandwidth": share("bandwidth", rand(BATCH) + 20),
        "valid": share("valid", VALID),
        "source_valid": share("source_valid", SOURCE_VALID),
    }
    if name.endswith("_camera"):
        first = slice(sum(SIZES[:2])) if name.startswith("separable") else slice(SIZES[0] * SIZES[1])
        if values["source_valid"] is not None:
            values["source_valid"] = values["source_valid"][:, :1].clone()
    else:
        first = slice(None)
    if name.startswith("separable") or (name.startswith("label") and values["separable"]):
        windows = OPS.axis_windows(knots_y, knots_x, SIZES, SOURCES, inverse, antialias, border, VALID, SOURCE_VALID)
        values["windows"] = share("windows", windows[:, :, first])
    elif name.startswith(("grid", "label")):
        positions = OPS.mesh_positions(mesh, SIZES, SOURCES, inverse, homography, border, VALID, SOURCE_VALID)[0]
        wide = antialias if name.startswith("grid") else name == "label_majority"
        widths = [rand(*positions.shape) + 1] if wide else []
        values["windows"] = share("windows", torch.cat([positions, *widths], 1)[:, :, first])
        values["centres"] = share("centres", positions)
    if name.endswith("_backward"):
        forward = name.removesuffix("_backward")
        results = getattr(OPS, forward)(*(values[argument] for argument in argument_names(forward)))
        results = [r.detach() for r in ([results] if isinstance(results, Tensor) else results)]
        if forward == "mesh_positions":  # images that share all geometry can still have gradients of their own
            results = [r.expand(BATCH, *r.shape[1:]).clone() for r in results]
            values["windows"], values["tiles"] = results
        if forward == "mesh_map":
            values["mapped"], values["tiles"] = results
        grads = [torch.rand_like(r).requires_grad_() for r in results if r.is_floating_point()]
        values.update(zip(("grad",) if len(grads) == 1 else ("grad_y", "grad_x"), grads, strict=True))
    return values
