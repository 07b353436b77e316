"""What holds for every test: a fresh random state, few threads, and compiled kernels that are never stale."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# numba's cache looks at the file of a kernel, not at the helpers that it imports: a directory for each state of all of
# them. Set before numba is first imported; subprocesses and xdist's workers inherit it.
_sources = b"".join(path.read_bytes() for path in sorted((ROOT / "kernels" / "cpu").glob("*.py")))
os.environ.setdefault("NUMBA_CACHE_DIR", str(ROOT / "build" / "numba" / hashlib.sha256(_sources).hexdigest()[:16]))

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

# The same examples in every run; `make test ARGS=--hypothesis-profile=explore` looks for new ones.
hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False)
hypothesis.settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _same_start_for_every_test():
    torch.manual_seed(0)
    torch.set_num_threads(2)
