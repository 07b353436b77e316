"""What the launchers of the resampling families, `separable` and `grid`, share."""

import functools

import numpy as np
import torch
from torch import Tensor

_STORAGE = {torch.float16: np.uint16, torch.bfloat16: np.int16}


@functools.cache
def like(dtype: torch.dtype) -> np.ndarray:
    """An empty array of the type that kernels take stored values for, see `_vector`."""
    return np.empty(0, _STORAGE.get(dtype) or torch.empty(0, dtype=dtype, device="cpu").numpy().dtype)


@functools.cache
def real(dtype: torch.dtype) -> np.ndarray:
    """0 and 1 of the type that accumulates: literals of the kernels would be float64."""
    return np.array([0, 1], np.float64 if dtype == torch.float64 else np.float32)


def dense(tensors: list[Tensor], formats: list[torch.memory_format]) -> list[Tensor]:
    """Tensors without gaps, in their memory formats."""
    return [
        t if t.is_contiguous(memory_format=f) else t.detach().contiguous(memory_format=f)
        for t, f in zip(tensors, formats, strict=True)
    ]


def shares_windows(windows: Tensor, source_valid: Tensor | None) -> bool:
    """Whether all images have the same windows, so that their planes are one long list."""
    return windows.shape[0] == 1 and (source_valid is None or source_valid.shape[0] == 1)


def values(tensors: list[Tensor]) -> int:
    """How many numbers there are in all."""
    return sum(map(Tensor.numel, tensors))
