"""Reference launchers of the `separable` family; see `fastwarp.kernels.cpu.separable` for the arguments."""

import torch
from torch import Tensor

from fastwarp.kernels.layout import memory_format
from fastwarp.ops._reference import call, to_tensor
from fastwarp.reference import separable


def resample(
    images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    """Resamples every level."""
    results = call(separable.resample, images, windows, sizes, source_valid)
    return [_formatted(r, i) for r, i in zip(results, images, strict=True)]


def resample_adjoint(
    grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    """Gradients to the images."""
    results = call(separable.resample_adjoint, grads, windows, source_sizes, source_valid)
    return [_formatted(r, g) for r, g in zip(results, grads, strict=True)]


def windows_gradient(
    grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Tensor | None, antialias: bool
) -> Tensor:
    """Gradient to the windows."""
    return to_tensor(call(separable.windows_gradient, grads, images, windows, source_valid), windows)


def camera(
    frame: Tensor,
    windows: Tensor,
    size: list[int],
    scale: list[float],
    bias: list[float],
    dtype: torch.dtype,
    source_valid: Tensor | None,
    antialias: bool,
) -> Tensor:
    """Resamples and normalises frames."""
    like = torch.empty(0, dtype=dtype, device=frame.device)
    return to_tensor(call(separable.camera, frame, windows, tuple(size), scale, bias, source_valid), like)


def _formatted(array, like: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
    return to_tensor(array, like).contiguous(memory_format=memory_format(like))
