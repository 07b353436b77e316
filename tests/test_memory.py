"""Tensors of the caller can be resized after every op. Images that are too large for kernels are refused."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fuzz_raw_ops import Right
from helpers import op_names
from torch import Tensor
from torch.utils._pytree import tree_map_only

import fastwarp
from fastwarp import FastwarpError, MeshWarp, SeparableWarp
from fastwarp import functional as F
from fastwarp.kernels.cpu._memory import array


def numbered_tensors(values: Any, name: str = "argument") -> Iterator[tuple[str, Tensor]]:
    if isinstance(values, Tensor):
        yield name, values
    elif isinstance(values, (list, tuple)):
        for i, value in enumerate(values):
            yield from numbered_tensors(value, f"{name} {i}")


# --- storage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("op", op_names())
def test_arguments_can_be_resized_after_an_op(op, backend):
    # As FSDP frees and fills parameters, and `out=` of torch's own functions makes room.
    for seed in range(3):
        args = tree_map_only(Tensor, Tensor.clone, Right(random.Random(seed)).of(op))
        with fastwarp.backend(backend):
            getattr(torch.ops.fastwarp, op)(*args)
        for name, tensor in numbered_tensors(args):
            assert tensor.untyped_storage().resizable(), name
            tensor.untyped_storage().resize_(0)


@pytest.mark.parametrize("kind", [SeparableWarp, MeshWarp])
def test_everything_of_a_training_step_can_be_resized(kind):
    saliency, image = torch.rand(2, 5, 6).requires_grad_(), torch.rand(2, 3, 20, 22).requires_grad_()
    warp = kind.from_saliency(saliency, 3.0)
    small = warp.zoom(image, (10, 12), antialias=True)
    back = warp.unzoom(small, (20, 22))
    back.sum().backward()
    for name, tensor in numbered_tensors([saliency, image, small, back, saliency.grad, image.grad]):
        assert tensor.untyped_storage().resizable(), name


@pytest.mark.filterwarnings("ignore:An output with one or more elements")
def test_resized_result_of_cat_is_read_anew():
    out, part = torch.empty(1, 1, 2, 2), torch.rand(1, 1, 4, 5)
    warp = SeparableWarp.identity(1, (3, 3))
    warp.zoom(out, (2, 2))
    torch.cat([part, part], out=out)
    assert out.shape == (2, 1, 4, 5)
    torch.testing.assert_close(warp.zoom(out, (4, 5)), out)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64])
def test_array_is_the_memory_of_its_tensor(dtype):
    tensor = torch.arange(12).to(dtype).view(3, 4)[1:]
    found = array(tensor)
    assert found.tolist() == tensor.tolist()
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert found.flags.aligned
    found[0, 0] = 77
    assert tensor[0, 0] == 77
    assert array(tensor.mT).tolist() == tensor.mT.tolist()
    assert array(tensor[:0]).shape == (0, 4)


def test_array_keeps_its_tensor_alive():
    found = array(torch.full((1000, 1000), 3.0))
    others = [torch.zeros(1000, 1000) for _ in range(3)]
    assert (found == 3).all()
    assert len(others) == 3


# --- size -------------------------------------------------------------------------------------------------------------

WIDE = 2**31 + 1000


def wide(*shape: int, dtype: torch.dtype = torch.uint8) -> Tensor:
    """Takes the memory of one value."""
    return torch.zeros(1, dtype=dtype).expand(shape)


def too_wide() -> dict[str, Any]:
    row, column, real = wide(1, 1, 2, WIDE), wide(1, 1, WIDE, 2), wide(1, 1, 2, WIDE, dtype=torch.float32)
    warps = {"separable": SeparableWarp.identity(1, (3, 3)), "mesh": MeshWarp.identity(1, (3, 3))}
    small, boxes = torch.zeros(1, 1, 2, 2), torch.zeros(1, 4)
    weights = [torch.zeros(2, 1, 3, 3)], [torch.zeros(2)], torch.zeros(4, 6), torch.zeros(4)
    calls: dict[str, Any] = {}
    for name, warp in warps.items():
        calls |= {
            f"{name} zoom": lambda warp=warp: warp.zoom(row, (2, 64)),
            f"{name} zoom of columns": lambda warp=warp: warp.zoom(column, (2, 64)),
            f"{name} zoom antialias": lambda warp=warp: warp.zoom(row, (2, 64), antialias=True),
            f"{name} unzoom": lambda warp=warp: warp.unzoom([row], [(2, 64)]),
            f"{name} unzoom antialias": lambda warp=warp: warp.unzoom([row], [(2, 64)], antialias=True),
            f"{name} zoom to": lambda warp=warp: warp.zoom(small, (2, WIDE)),
            f"{name} unzoom to": lambda warp=warp: warp.unzoom(small, (WIDE, 2)),
            f"{name} frame": lambda warp=warp: warp.zoom_frame(wide(1, 2, WIDE, 3), (2, 64)),
        }
    calls |= {
        "windows": lambda: F.separable_windows(*(torch.rand(1, 3).sort()[0],) * 2, [(2, WIDE)], [(2, 2)]),
        "windows from": lambda: F.separable_windows(*(torch.rand(1, 3).sort()[0],) * 2, [(2, 2)], [(2, WIDE)]),
        "lz_knots": lambda: F.lz_knots(wide(1, 2, WIDE, dtype=torch.float32)),
        "lz_mesh": lambda: F.lz_mesh(wide(1, 2, WIDE, dtype=torch.float32)),
        "axis_map": lambda: F.axis_map(torch.tensor([[0.0, 1.0]]), wide(1, WIDE, dtype=torch.float32)),
        "mesh_map": lambda: F.mesh_map(warps["mesh"].mesh, wide(1, WIDE, 2, dtype=torch.float32)),
        "density": lambda: fastwarp.saliency.box_density(boxes, (10, 10), (2, WIDE)),
        "density of boxes": lambda: fastwarp.saliency.box_density(
            wide(1, WIDE, 4, dtype=torch.float32), (10, 10), (2, 2)
        ),
        "box_knots": lambda: fastwarp.saliency.box_knots(boxes, (10, 10), (2, WIDE)),
        "downsize": lambda: F.downsize(real, *weights, (2, 64)),
        "downsize to": lambda: F.downsize(small, *weights, (1, WIDE)),
    }
    return calls


@pytest.mark.parametrize("name", too_wide())
def test_sides_beyond_what_kernels_count_are_refused(name):
    with pytest.raises(FastwarpError, match=str(WIDE) + "|GiB"):
        too_wide()[name]()


def test_the_largest_side_that_is_allowed_is_read():
    # 1 GiB of addresses, of which the pages that are read alone exist.
    image = torch.empty(1, 1, 1, 2**30, dtype=torch.uint8)
    image[..., :2], image[..., -2:] = 50, 200
    knots_y, knots_x = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    ends = F.separable_zoom(image, knots_y, knots_x, (1, 4))
    assert ends.flatten().tolist() == [50, 50, 200, 200]
    ends = F.mesh_zoom(image, MeshWarp.from_separable(SeparableWarp(knots_y, knots_x)).mesh, (1, 4))
    assert ends.flatten().tolist() == [50, 50, 200, 200]
