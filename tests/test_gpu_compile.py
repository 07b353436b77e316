"""Triton kernels compiled for GPUs that need not be there: no spills, and no more instructions than they had.

`FASTWARP_COMPILE_ALL=1` compiles every variant for every target, which takes half an hour on two cores.
"""

import importlib
import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from gpu_helpers import interpreter

with interpreter():
    from fastwarp.kernels import gpu

# Instructions and registers of kernels that are run most, on sm_90: as compiled by Triton 3.7.1, and a tenth more.
# Older ones take more: up to 743 and 72 of `_grid_resample_kernel`, so that they are not held to it.
BOUNDS = {
    ("main: zoom torch.float32", "_resample_kernel"): (388, 56),
    ("main: zoom torch.bfloat16", "_resample_kernel"): (407, 56),
    ("main: adjoint of a zoom", "_adjoint_kernel"): (484, 96),
    ("main: unzoom torch.contiguous_format", "_resample_kernel"): (517, 48),
    ("main: unzoom torch.channels_last", "_resample_kernel"): (461, 40),
    ("main: mesh unzoom", "_unzoom_kernel"): (2845, 162),
    ("main: mesh unzoom", "_grid_resample_kernel"): (539, 55),
    ("main: downsize", "_layer_kernel"): (925, 92),
    ("main: downsize", "_downsize_kernel"): (1173, 62),
}


def kernel_names() -> set[str]:
    """Every kernel of the library."""
    with interpreter():
        files = [file for file in Path(gpu.__file__).parent.glob("*.py") if file.stem != "__init__"]
        modules = [importlib.import_module(f"fastwarp.kernels.gpu.{file.stem}") for file in files]
    return {name for module in modules for name in vars(module) if re.search(r"\w_kernel$", name)}


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux")
@pytest.mark.timeout(7200)
def test_kernels_compile():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    everything = os.environ.get("FASTWARP_COMPILE_ALL") == "1"
    command = [sys.executable, Path(__file__).with_name("gpu_compile.py"), *([] if everything else ["--few"])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {r["kernel"] for r in rows} == kernel_names()
    assert {r["sm"] for r in rows} == {80, 90, 100, "gfx942"}
    assert [r for r in rows if r["STACK"] or r["LOCAL"]] == []
    nvidia = [r for r in rows if r["sm"] != "gfx942"]

    wide = [
        r for r in nvidia if r["kernel"] in ("_resample_kernel", "_adjoint_kernel") and "channels_last" in r["case"]
    ]
    assert wide
    assert all(r["VECTORS"] for r in wide), "channels_last moves 16 bytes at a time"
    layers = [r for r in nvidia if r["kernel"] == "_layer_kernel"]
    assert layers
    assert all(r["VECTORS"] for r in layers), "16 features move 16 bytes at a time"

    # Sums of products are two operations in what decides whose a target is: the same crossings on every backend.
    deciding = [
        r for r in nvidia if r["kernel"] in ("_outline_kernel", "_unzoom_kernel", "_zoom_kernel", "_map_kernel")
    ]
    assert len({r["kernel"] for r in deciding}) == 4
    assert [r for r in deciding if r["FUSIBLE"]] == []

    # What a program knows of its level comes by branches that most pass by: to select it takes 49, 42 and 53.
    pyramids = [r for r in nvidia if "unzoom" in r["case"] and r["kernel"].endswith("_resample_kernel")]
    assert {r["case"] for r in pyramids} >= {"main: unzoom torch.channels_last", "main: mesh unzoom"}
    assert max(r["SELECTS"] for r in pyramids) <= 25

    current = tuple(map(int, version("triton").split(".")[:2])) >= (3, 7)
    for (case, kernel), (instructions, registers) in BOUNDS.items() if current else ():
        found = [r for r in nvidia if (r["case"], r["kernel"], r["sm"]) == (case, kernel, 90)]
        assert found
        assert max(r["INSTRUCTIONS"] for r in found) <= 1.1 * instructions, found
        assert max(r["REG"] for r in found) <= 1.1 * registers, found
