"""Reference launchers of the `grid` family; see `fastwarp.kernels.cpu.grid` for the arguments."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastwarp.kernels.layout import memory_format
from fastwarp.ops._reference import call, to_tensor
from fastwarp.reference import grid


def resample(images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None) -> list[Tensor]:
    """Resamples every level."""
    results = call(grid.resample, images, windows, sizes, source_valid)
    return [_formatted(r, i) for r, i in zip(results, images, strict=True)]


def resample_adjoint(
    grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Tensor | None
) -> list[Tensor]:
    """Gradients to the images."""
    results = call(grid.resample_adjoint, grads, windows, source_sizes, source_valid)
    return [_formatted(r, g) for r, g in zip(results, grads, strict=True)]


def windows_gradient(grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Tensor | None) -> Tensor:
    """Gradient to the windows."""
    return to_tensor(call(grid.windows_gradient, grads, images, windows, source_valid), windows)


def widen(centres: Tensor, *args: Any) -> Tensor:
    """Windows of triangle filters from centres."""
    return to_tensor(call(grid.widen, centres, *args), centres)


def widen_backward(grad: Tensor, centres: Tensor, *args: Any) -> Tensor:
    """Gradient to the centres."""
    return to_tensor(call(grid.widen_backward, grad, centres, *args), centres)


def camera(
    frame: Tensor,
    windows: Tensor,
    size: list[int],
    scale: list[float],
    bias: list[float],
    dtype: torch.dtype,
    source_valid: Tensor | None,
) -> Tensor:
    """Resamples and normalises frames."""
    like = torch.empty(0, dtype=dtype, device=frame.device)
    return to_tensor(call(grid.camera, frame, windows, tuple(size), scale, bias, source_valid), like)


def _formatted(array: np.ndarray, like: Tensor) -> Tensor:
    return to_tensor(array, like).contiguous(memory_format=memory_format(like))
