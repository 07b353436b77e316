"""What holds for every test: a fresh random state and few threads."""

from __future__ import annotations

import hypothesis
import pytest
import torch

# The same examples in every run; `make test ARGS=--hypothesis-profile=explore` looks for new ones.
hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _same_start_for_every_test():
    torch.manual_seed(0)
    torch.set_num_threads(2)
