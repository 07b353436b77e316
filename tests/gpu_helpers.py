"""What the tests of Triton kernels share: a GPU, or Triton's interpreter where there is none, and the comparison with
the reference."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any
from unittest.mock import patch

import pytest
import torch
from helpers import assert_bitwise, tensors
from tolerances import EPSB, assert_close_to, errors
from torch import Tensor

if importlib.util.find_spec("triton") is None or tuple(map(int, version("triton").split(".")[:2])) < (3, 6):
    pytest.skip("needs Triton 3.6", allow_module_level=True)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def interpreter() -> contextlib.AbstractContextManager:
    """Triton's interpreter where there is no GPU. A kernel becomes an interpreted one when it is defined: import the
    kernels in here."""
    return patch.dict(os.environ, {"TRITON_INTERPRET": "1"}) if DEVICE == "cpu" else contextlib.nullcontext()


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """For every test of a module that imports it: every new tensor holds NaN, so that an element that no kernel writes
    shows, and kernels are interpreted."""
    torch.use_deterministic_algorithms(True)
    with interpreter():
        yield
    torch.use_deterministic_algorithms(False)


def array(value: Any) -> Any:
    """Tensors (in lists too) as float64 or integer arrays."""
    if not isinstance(value, Tensor):
        return [array(v) for v in value] if isinstance(value, list) else value
    return value.detach().cpu().to(torch.float64 if value.is_floating_point() else value.dtype).numpy()


def on_device(value: Any) -> Any:
    if isinstance(value, list):
        return [on_device(v) for v in value]
    return value.to(DEVICE) if isinstance(value, Tensor) else value


def assert_right(
    results: Any, expected: Any, quantity: str, dtype: torch.dtype | None = None, terms: float = 0.0
) -> None:
    """Every result is on the device and as near to its reference as the table of tolerances says (row `dtype`)."""
    if isinstance(results, Tensor):
        results, expected = [results], [expected]
    for result, wanted in zip(results, expected, strict=True):
        assert result.device.type == DEVICE
        if result.dtype == torch.bfloat16 and DEVICE == "cpu":  # the interpreter truncates where a GPU rounds
            assert errors(wanted, result, result.dtype, quantity, terms)[1] <= 2.02 * EPSB
        else:
            assert_close_to(wanted, result, dtype or result.dtype, quantity, terms)


def run(function: Any, *args: Any) -> Any:
    """Calls a launcher: the results. A GPU is asked twice and gives the same to the bit; the interpreter runs one
    program after the other, so it always does."""
    args = tuple(on_device(a) for a in args)
    results = function(*args)
    if DEVICE == "cuda":
        assert_bitwise(tensors(results), tensors(function(*args)))
    return results


def format_of(t: Tensor) -> torch.memory_format:
    return torch.contiguous_format if t.is_contiguous() else torch.channels_last
