"""These tests run in an environment of their own, `make test-integrations`; `make test` leaves them out."""

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("mmdet") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # mmengine's checkpoints hold its own classes
    warnings.filterwarnings("ignore")
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import shims  # noqa: F401  (before the frameworks)
    import transformers

    transformers.logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def _one_thread(_same_start_for_every_test):
    torch.set_num_threads(1)  # the networks are small, and `make` runs two processes


@pytest.fixture(scope="session", autouse=True)
def _one_process_of_distributed_training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
