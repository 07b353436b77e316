"""What a batch of 1 means: it is shared by all images, in every argument that may be, of every op, on every backend.

One call is compared with calls of the float64 reference for each image, where nothing is shared: results, gradients,
and the gradients of those. Gradients are ops, too: Triton's interpreter, which is slow, has each op by itself.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from typing import Any

import pytest
import torch
from helpers import op_names, tensors
from op_arguments import BATCH, OPS, argument_names, op_arguments, sharings
from torch import Tensor
from torch.utils import _pytree as pytree

import fastwarp

GRADIENTS_OF = {
    "axis_map_backward": ("knots", "positions"),
    "axis_windows_backward": ("knots_y", "knots_x"),
    "separable_windows_gradient": ("windows",),
    "mesh_positions_backward": ("mesh",),
    "mesh_map_backward": ("mesh", "points"),
    "grid_windows_gradient": ("windows",),
    "grid_widen_backward": ("centres",),
    "downsize_backward": ("image", "weights", "biases", "fuse_weight", "fuse_bias", "distances"),
}
"""Arguments to which an op returns the gradients: summed over the images that share them."""

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BACKENDS = ["numba", "reference", pytest.param("triton", marks=[pytest.mark.gpu] if DEVICE == "cuda" else [])]


def of_each_image(name: str, argument: str, value: Any) -> bool:
    """Whether an argument of an op has something of its own for each image."""
    if name.startswith("downsize") and argument not in ("grad", "image"):
        return False
    return any(t.shape[0] == BATCH for t in tensors(value))


def image_by_image(name: str, arguments: list[Any]) -> list[Tensor]:
    """Results of a call for each image, put together."""
    names = argument_names(name)
    own = {n: of_each_image(name, n, value) for n, value in zip(names, arguments, strict=True)}
    calls = []
    for b in range(BATCH if any(own.values()) else 1):
        one = [
            pytree.tree_map_only(Tensor, lambda t, b=b: t[b : b + 1], value) if own[n] else value
            for n, value in zip(names, arguments, strict=True)
        ]
        calls.append(tensors(getattr(OPS, name)(*one)))
    gradients_of = GRADIENTS_OF.get(name)
    return [
        sum(parts) if gradients_of and not own[gradients_of[i]] else torch.cat(parts)
        for i, parts in enumerate(zip(*calls, strict=True))
    ]


def with_derivatives(results: list[Tensor], arguments: list[Any], order: int) -> list[Tensor]:
    """Results, gradients to the arguments, and gradients of a product with those, up to some order."""
    leaves = [t for t in tensors(arguments) if t.requires_grad]
    found, values = list(results), list(results)
    for _ in range(order):
        moving = [v for v in values if v.requires_grad]
        if not moving or not leaves:
            break
        weights = [torch.linspace(0.5, 1.5, v.numel(), dtype=v.dtype).view(v.shape).to(v.device) for v in moving]
        values = torch.autograd.grad(moving, leaves, weights, create_graph=True, materialize_grads=True)
        found += values
    return [t.detach().cpu() for t in found]


@functools.cache  # of every backend the same
def expectation(name: str, inverse: bool, sharing: tuple, order: int) -> tuple[list[Any], list[Tensor]]:
    """Arguments of an op, and what it and its derivatives are for them."""
    torch.manual_seed(0)
    options = {"inverse": inverse, "homography": inverse, "border": not inverse}
    arguments = op_arguments(name, dict(sharing), **options)
    with fastwarp.backend("reference"):
        return arguments, with_derivatives(image_by_image(name, arguments), arguments, order)


@contextlib.contextmanager
def running_on(backend: str):
    from gpu_helpers import interpreter  # skips where Triton is not

    with interpreter() if backend == "triton" else contextlib.nullcontext(), fastwarp.backend(backend):
        yield


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", op_names())
def test_shared_arguments(name, backend):
    interpreted = backend == "triton" and DEVICE == "cpu"
    combinations = list(sharings(name, 1 if interpreted else 99))
    directions = (False, True) if {"inverse", "separable"} & {*argument_names(name)} else (False,)
    for number, (sharing, inverse) in enumerate(itertools.product(combinations, directions)):
        if len(combinations) > (8 if interpreted else 20) and number % 4 in (0, 3):  # each with one direction
            continue
        order = 0 if interpreted else 2
        given, expected = expectation(name, inverse, tuple(sharing.items()), order)
        device = DEVICE if backend == "triton" else "cpu"
        moved = pytree.tree_map_only(
            Tensor, lambda t, device=device: t.detach().to(device).requires_grad_(t.requires_grad), given
        )
        with running_on(backend):
            got = with_derivatives(tensors(getattr(OPS, name)(*moved)), moved, order)
        assert len(got) == len(expected)
        for i, (a, b) in enumerate(zip(got, expected, strict=True)):
            message = f"{name} inverse={inverse} {sharing}: tensor {i}"
            assert a.shape == b.shape, f"{message}: {a.shape}, expected {b.shape}"
            worst = (1e-5 if name.endswith("camera") else 1e-9) * max(b.abs().max().item(), 1)
            assert (a - b).abs().max() <= worst, f"{message}: {a}, expected {b}"
