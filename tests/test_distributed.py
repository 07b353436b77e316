"""Two processes, with DistributedDataParallel or with parameters sharded, compute what one does on the joined batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as TF
from helpers import TESTS, python_environment
from torch import nn

from fastwarp.nn import DownsizeNet, Unzoom, Zoom


class Detector(nn.Module):
    """A learned saliency that zooms for a small network and unzooms its pyramid."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        options = {"saliency": nn.Parameter(torch.rand(1, 5, 6) + 0.2), "fwhm": 3.0, "kind": kind}
        self.zoom, self.unzoom = Zoom((10, 12), **options), Unzoom(**options)
        self.net = nn.Conv2d(3, 4, 3, padding=1)
        # Buffers that DDP broadcasts.
        self.fixed = Zoom((5, 6), saliency=torch.rand(1, 4, 4), antialias=True, kind=kind)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = TF.relu(self.net(self.zoom(image)))
        levels = self.unzoom({"p3": features, "p4": TF.avg_pool2d(features, 2)})
        return sum(level.square().mean((1, 2, 3)) for level in levels.values()) + self.fixed(image).mean((1, 2, 3))


def gradients(model: nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    model(image).mean().backward()
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}


def images() -> torch.Tensor:
    return torch.rand(4, 3, 20, 22, generator=torch.Generator().manual_seed(5))


def work(rank: int, folder: str, kind: str) -> None:
    """One of the two processes. Its seed is its own: DDP hands out the parameters of the first."""
    torch.manual_seed(rank)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(Detector(kind))
    torch.save(gradients(model, images()[2 * rank : 2 * rank + 2]), f"{folder}/{rank}.pt")
    torch.distributed.barrier()  # nobody leaves while the other still talks
    torch.distributed.destroy_process_group()
    os._exit(0)  # on a busy machine gloo's threads abort a process that ends in the usual way


def run_two(function: str, folder: Path, kind: str) -> None:
    """Runs `function(rank, folder, kind)` of this module in two processes."""
    command = f"import sys, test_distributed; test_distributed.{function}(int(sys.argv[1]), *sys.argv[2:])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", command, str(rank), str(folder), kind],
            cwd=TESTS,
            env=python_environment(),
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


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.parametrize("kind", ["separable", "mesh"])
def test_two_processes_compute_the_gradients_of_one(tmp_path, kind):
    torch.manual_seed(0)
    expected = gradients(Detector(kind), images())
    assert set(expected) == {"zoom.saliency", "net.weight", "net.bias"}
    run_two("work", tmp_path, kind)
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt")
        for name, gradient in expected.items():
            assert gradient.any()
            torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


# --- fully_shard ------------------------------------------------------------------------------------------------------


class Sharded(nn.Module):
    """A learned zoom, a learned downsizing and a convolution, each with parameters to shard."""

    def __init__(self) -> None:
        super().__init__()
        self.zoom = Zoom((12, 14), saliency=nn.Parameter(torch.rand(1, 5, 6) + 0.2), fwhm=3.0)
        self.small = DownsizeNet(scale_factor=0.5, channels=4, layers=2)
        self.net = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.net(self.small(self.zoom(image))).square().mean((1, 2, 3))


def train(model: nn.Module, image: torch.Tensor) -> None:
    """Two steps: in the second one, parameters have been freed and gathered again."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(image).mean().backward()
        optimizer.step()


def work_sharded(rank: int, folder: str, _: str) -> None:
    """One of the two processes, with half of the batch and half of every parameter."""
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    model = Sharded()
    for module in (model.zoom, model.small, model):
        fully_shard(module, mesh=mesh)
    train(model, images()[2 * rank : 2 * rank + 2])
    torch.save({name: p.full_tensor() for name, p in model.state_dict().items()}, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    os._exit(0)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
@pytest.mark.skipif(torch.__version__ < (2, 7), reason="torch 2.6 gathers no shards on CPUs")
def test_sharded_parameters_learn_as_whole_ones(tmp_path):
    torch.manual_seed(0)
    model = Sharded()
    start = {name: p.clone() for name, p in model.state_dict().items()}
    train(model, images())
    run_two("work_sharded", tmp_path, "separable")
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt")
        assert set(got) == set(start)
        for name, expected in model.state_dict().items():
            assert name.startswith("small.convs") or not torch.equal(expected, start[name])  # whose start is flat
            torch.testing.assert_close(got[name], expected, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
