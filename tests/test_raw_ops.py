"""Raw calls `torch.ops.fastwarp.*` with wrong arguments raise: they never leave their arguments' memory."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from helpers import TESTS, python_environment
from torch import Tensor
from torch.utils._pytree import tree_map_only

import fastwarp
from fastwarp import FastwarpError

R = torch.rand
ops = torch.ops.fastwarp


def knots(*shape: int) -> Tensor:
    return torch.linspace(0, 1, shape[-1]).expand(shape)


def ints(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def downsize(rows: Tensor, columns: Tensor, anchors: Tensor) -> Any:
    table = (rows, columns, anchors, anchors, [0.0], [1.0], "softmax", True)
    return ops.downsize(R(1, 1, 4, 4), [], [], R(1, 1), R(1), R(1, 2, 2), *table)


# Each of these crashed, read or wrote out of bounds, or returned what was in memory.
WRONG = {
    "grad and positions of more images than knots": (
        lambda: ops.axis_map_backward(R(20000, 11), knots(2, 5), R(20000, 11), True),
        r"axis_map_backward: knots is of shape \[2, 5\], expected \[1 or 20000, n >= 2\]",
    ),
    "positions of more images than knots": (
        lambda: ops.axis_map(knots(3, 5), R(4000, 11), True),
        r"axis_map: positions is of shape \[4000, 11\], expected \[3, m\]",
    ),
    "more images than meshes": (
        lambda: ops.mesh_sample([R(60, 3, 64, 64)], R(2, 5, 6, 2), [300, 300], True, False, True, None, None),
        r"mesh_sample: mesh is of shape \[2, 5, 6, 2\], expected \[1 or 60, h >= 2, w >= 2, 2\]",
    ),
    "more sizes than images": (
        lambda: ops.separable_sample([R(1, 1, 4, 4)], *(knots(1, 3),) * 2, [2, 2, 2, 2], *(False,) * 3, None, None),
        r"separable_sample: sizes is \[2, 2, 2, 2\], expected 2 numbers, two for each level",
    ),
    "windows for fewer targets": (
        lambda: ops.separable_resample([R(1, 1, 4, 4)], R(1, 2, 7), [30, 30], None, False),
        r"sizes is \[30, 30\], which makes 60 targets, expected 7",
    ),
    "levels of several batches": (
        lambda: ops.grid_resample([R(1, 1, 4, 4), R(9, 1, 4, 4)], R(1, 2, 8), [2, 2, 2, 2], None),
        "images has batches of",
    ),
    "levels of several dtypes": (
        lambda: ops.grid_resample([R(1, 1, 4, 4), R(1, 1, 4, 4).double()], R(1, 2, 8), [2, 2, 2, 2], None),
        "images level 1 has dtype float64, expected float32",
    ),
    "grads of other channels": (
        lambda: ops.separable_windows_gradient([R(1, 9, 2, 2)], [R(1, 1, 4, 4)], R(1, 2, 4), None, False),
        r"images has \[1\] channels, expected \[9\]",
    ),
    "extents of fewer levels": (
        lambda: ops.grid_resample(
            [R(1, 1, 4, 4)] * 2, R(1, 2, 8), [2, 2, 2, 2], torch.zeros(1, 1, 2, dtype=torch.int64)
        ),
        r"source_valid is of shape \[1, 1, 2\], expected \[1 or B, 2, 2\]|source_valid is of shape \[1, 1, 2\]",
    ),
    "one scale for three channels": (
        lambda: ops.separable_camera(
            torch.zeros(1, 4, 4, 3, dtype=torch.uint8), R(1, 2, 4), [2, 2], [1.0], [0.0] * 3, torch.float32, None, False
        ),
        "scale has 1 numbers, expected 3",
    ),
    "taps far outside": (
        lambda: downsize(ints([0], [10**8]), ints([0], [1]), ints(0, 1)),
        "rows has values from 0 to 100000000, expected 0 to 3",
    ),
    "taps before the first": (
        lambda: downsize(ints([0], [1]), ints([-1], [1]), ints(0, 1)),
        "columns has values from -1 to 1, expected 0 to 3",
    ),
    "anchors that fall": (
        lambda: downsize(ints([0], [1]), ints([0], [1]), ints(1, 0)),
        "anchor_rows decreases somewhere",
    ),
    "tiles far outside": (
        lambda: ops.mesh_map_backward(
            *(R(1, 3, 2), R(1, 4, 4, 2), R(1, 3, 2), R(1, 3, 2), ints([0, 1, 2**31 - 1]), True, False)
        ),
        "tiles has values from 0 to 2147483647, expected -1 to 8",
    ),
    "one knot": (lambda: ops.axis_map(R(1, 1), R(1, 4), True), r"expected \[1 or B, n >= 2\]"),
    "no levels": (lambda: ops.separable_resample([], R(1, 2, 0), [], None, False), "images has 0 levels"),
    "an integer saliency": (
        lambda: ops.lz_mesh(torch.ones(1, 4, 4, dtype=torch.int64), 5.0, True),
        "saliency has dtype int64, expected float32, float64",
    ),
    "a position on another device": (
        lambda: ops.axis_map(knots(1, 5), R(1, 4).to("meta"), True),
        "positions is on meta, expected cpu",
    ),
}


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_raise_in_words(name, backend):
    call, message = WRONG[name]
    with fastwarp.backend(backend), pytest.raises((FastwarpError, TypeError), match=message):
        call()


EMPTY = {
    "axis_windows": (lambda: (R(0, 5), R(0, 5), [2, 3], [4, 5], False, False, False, None, None)),
    "grid_windows_gradient": (lambda: ([R(1, 2, 3, 4)], [R(1, 2, 5, 6)], R(0, 2, 12), None)),
}


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("name", EMPTY)
def test_no_images_have_the_strides_that_compilers_expect(name, backend):
    op, args = getattr(ops, name), EMPTY[name]()
    with fastwarp.backend(backend):
        result = op(*args)
    expected = op(*tree_map_only(Tensor, lambda t: t.to("meta"), args))
    assert (result.shape, result.stride()) == (expected.shape, expected.stride())


SECONDS = float(os.environ.get("FASTWARP_FUZZ_SECONDS", "30"))


@pytest.mark.timeout(1200 + SECONDS)  # where nothing is compiled yet
def test_wrong_arguments_in_guarded_memory():
    command = [sys.executable, str(TESTS / "fuzz_raw_ops.py"), os.environ.get("FASTWARP_FUZZ_SEED", "0"), str(SECONDS)]
    done = subprocess.run(
        [*command, "1000000"], cwd=TESTS, env=python_environment(), capture_output=True, text=True, check=False
    )
    last = done.stdout.splitlines()[-1:]
    assert done.returncode == 0, f"exit code {done.returncode} in {last}\n{done.stderr[-4000:]}"
    assert "accepted" in last[0], last
    assert "refused" in last[0], last
