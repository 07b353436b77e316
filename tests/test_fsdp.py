"""FSDP's mixed precision rounds the inputs of a module and its parameters, but neither warps nor their knots."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from helpers import TESTS, python_environment
from torch import nn

from fastwarp import MeshWarp, SeparableWarp
from fastwarp.nn import DownsizeNet, Unzoom, Zoom


class Model(nn.Module):
    """A network that is given a warp with each batch, beside a warp and a DownsizeNet of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.zoom, self.unzoom = Zoom((6, 8)), Unzoom()
        self.fixed = Zoom((6, 8), SeparableWarp.identity(1, (3, 3)))
        self.small = DownsizeNet((6, 8), channels=4)
        self.net = nn.Conv2d(3, 4, 3, padding=1)
        self.seen: Any = None

    def forward(self, image: torch.Tensor, warp: Any, more: dict[str, Any]) -> torch.Tensor:
        zoomed = self.zoom(image, warp)
        self.seen = image.dtype, warp, more["warp"], zoomed, self.fixed.knots_y.dtype
        return self.unzoom(self.net(zoomed + self.small(image) + self.fixed(image)), warp)


def wrapped(kind: str) -> tuple[nn.Module, Model]:
    model = Model()
    if kind == "fully_shard":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
        fully_shard(model, mesh=init_device_mesh("cpu", (2,)), mp_policy=policy)
        return model, model
    from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision

    precision = MixedPrecision(param_dtype=torch.bfloat16, cast_forward_inputs=True)
    outer = FullyShardedDataParallel(
        model, device_id=torch.device("cpu"), mixed_precision=precision, use_orig_params=True
    )
    return outer, model


def work(rank: int, folder: str, kind: str) -> None:
    """One of the two processes."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    image, separable = torch.rand(2, 3, 12, 14), SeparableWarp.from_saliency(torch.rand(1, 5, 6))
    outer, model = wrapped(kind)
    for warp in (separable, MeshWarp.from_separable(separable)):
        result = outer(image, warp, more={"warp": warp})
        result.float().square().mean().backward()
        dtype, seen, nested, zoomed, fixed = model.seen
        assert dtype == torch.bfloat16  # of the image: the policy is at work
        assert seen is warp
        assert nested is warp
        assert fixed == torch.float32
        assert torch.equal(zoomed, warp.zoom(image.bfloat16(), (6, 8)))
        assert result.dtype == torch.bfloat16
    torch.distributed.barrier()  # nobody leaves while the other still talks
    torch.distributed.destroy_process_group()
    os._exit(0)  # on a busy machine gloo's threads abort a process that ends in the usual way


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("kind", ["fully_shard", "FullyShardedDataParallel"])
def test_warps_keep_their_precision(tmp_path, kind):
    if kind == "fully_shard" and torch.__version__ < (2, 7):
        pytest.skip("torch 2.6 gathers no shards on CPUs")
    command = "import sys, test_fsdp; test_fsdp.work(int(sys.argv[1]), *sys.argv[2:])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", command, str(rank), str(tmp_path), kind],
            cwd=TESTS,
            env={**python_environment(), "FASTWARP_BACKEND": "reference"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
