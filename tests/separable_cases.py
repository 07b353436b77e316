"""Knots and checks that the tests of the separable kernels share."""

from __future__ import annotations

import pytest
import strategies as own
import torch
from torch import Tensor

ops = torch.ops.fastwarp
NAMES = {torch.float64: "fp64", torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.uint8: "u8"}

two_floats = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=NAMES.get)


def geometry(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def knots(kind: str, seed: int, batch: int, n: int, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(own.knots(kind, seed, batch, n)).to(geometry(dtype))
