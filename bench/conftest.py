"""Sets up the benchmarks: two threads, an allocator that keeps its memory, GPU cases skipped without a GPU, versions in
the JSON and no raw samples."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

# cases, peers and paired are modules beside the benchmarks; pytest's importlib mode leaves this folder off sys.path.
sys.path.insert(0, str(Path(__file__).parent))

THREADS = 2
KEPT = {-1: 1 << 30, -3: 32 << 20}  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD (its highest value) of glibc's malloc.h
PACKAGES = ("fastwarp", "torch", "triton", "numba", "numpy", "opencv-python-headless", "scipy", "pytest-benchmark")
STATS = ("min", "max", "mean", "stddev", "median", "iqr", "q1", "q3", "rounds")


def pytest_configure() -> None:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    if sys.platform == "linux":
        # Else luck decides which contender finds its memory gone and pays for page faults, up to thrice its time.
        for threshold, size in KEPT.items():
            ctypes.CDLL(None).mallopt(threshold, size)
    try:
        import cv2
    except ModuleNotFoundError:  # machines with a GPU need no CPU peer
        return
    cv2.setNumThreads(THREADS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="torch sees no GPU"))


def pytest_make_parametrize_id(val: Any) -> str | None:
    """`float32` and `75x120` in the names of cases."""
    if isinstance(val, torch.dtype):
        return str(val).removeprefix("torch.")
    return "x".join(map(str, val)) if isinstance(val, tuple) else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    versions = {package: _version(package) for package in PACKAGES}
    gpu = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = {"name": properties.name, "memory": properties.total_memory, "l2": properties.L2_cache_size}
    machine_info.pop("node", None)
    machine_info["cpu"] = {"brand_raw": machine_info["cpu"].get("brand_raw")}
    machine_info.update(
        versions=versions | {"torch": torch.__version__, "cuda": torch.version.cuda},
        threads=THREADS,
        cores=os.cpu_count(),
        gpu=gpu,
    )


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Keeps what a report needs: `extra_info` and pytest-benchmark's own summary, not the samples."""
    output_json["commit_info"].pop("project", None)
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"] = {key: benchmark["stats"][key] for key in STATS}
        for key in ("group", "options", "param", "params"):
            del benchmark[key]
