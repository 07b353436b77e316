"""What holds for every test: a fresh random state and few threads."""

from __future__ import annotations

import importlib.util
import os
from unittest.mock import patch

import hypothesis
import pytest
import torch

# Triton's own functions become interpreted, or not, when they are imported: here, before torch's compiler does it.
if importlib.util.find_spec("triton") and not torch.cuda.is_available():
    with patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):
        import fast_interpreter

        fast_interpreter.install()

# The same examples in every run; `make test ARGS=--hypothesis-profile=explore` looks for new ones.
hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _same_start_for_every_test():
    torch.manual_seed(0)
    torch.set_num_threads(2)


@pytest.fixture
def poisoned_results():
    """New tensors hold NaN (the largest number for integers), so that what a kernel does not write is found."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
