"""Images, labels and windows for the kernels of the `label` family, on CPUs and GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SIZES, SOURCES = [4, 5, 6, 3], [9, 11, 7, 8]  # two levels
VALID = torch.tensor([[[9, 11], [3, 4]], [[5, 0], [7, 2]]])
CLASSES = (torch.uint8, torch.int16, torch.int32, torch.int64)
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def label_windows(separable: bool, batch: int, majority: bool, dtype: torch.dtype = torch.float64) -> Tensor:
    """Windows in no order: on pixel centres, half way between them, past the borders; some that read nothing, one that
    is lost."""
    levels = []
    for level in range(2):
        (h, w), (height, width) = SIZES[2 * level : 2 * level + 2], SOURCES[2 * level : 2 * level + 2]
        last = torch.cat([torch.full((h,), height), torch.full((w,), width)])[None] if separable else None
        shape = (batch, 1, h + w) if separable else (batch, 2, h * w)
        last = torch.tensor([width, height])[:, None] if last is None else last
        centre = torch.rand(shape, dtype=torch.float64) * (last + 1) - 1
        centre = torch.where(torch.rand(shape) < 0.4, (2 * centre).round() / 2, centre)
        width_ = (1 + 3 * torch.rand(shape, dtype=torch.float64)).mul(2).round() / 2
        if separable:
            nothing = torch.rand(shape) < 0.1
            levels.append(torch.cat([centre, torch.where(nothing, 0, width_)], 1))
        else:
            centre[:, :1] = torch.where(torch.rand(batch, 1, h * w) < 0.1, -1, centre[:, :1].abs())
            levels.append(torch.cat([centre, width_] if majority else [centre], 1))
    windows = torch.cat(levels, 2).to(dtype)
    windows[-1, :2, 2] = torch.tensor([float("nan"), 1.0])
    return windows


def images_of(dtype: torch.dtype, form: torch.memory_format, batch: int = 2, channels: int = 3) -> list[Tensor]:
    """Few values, so that cells have ties."""
    made = []
    for level in range(2):
        values = torch.randint(0, 4, (batch, channels, *SOURCES[2 * level : 2 * level + 2]))
        if dtype in (torch.int32, torch.int64):
            values = (values - 2) * torch.iinfo(dtype).max  # any bits, the extremes among them
        made.append(values.to(dtype).contiguous(memory_format=form))
    return made


def calls(dtype: torch.dtype, majority: bool) -> list[tuple[Any, ...]]:
    """Arguments after the images."""
    fill = 0 if dtype.is_floating_point else 1 if dtype == torch.bool else 99
    return [
        (label_windows(separable, batch, majority), separable, SIZES, valid, fill)
        for separable in (True, False)
        for batch, valid in ((1, None), (2, VALID), (1, VALID))
    ]


def assert_same(got: list[Tensor], expected: list[Tensor], message: str = "") -> None:
    """Equal, where both are NaN too: NaN has several bit patterns."""
    for a, b in zip(got, expected, strict=True):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride()), message
        assert torch.equal(a.nan_to_num(77), b.nan_to_num(77)), message
