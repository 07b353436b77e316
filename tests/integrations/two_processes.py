"""One process of the training in `test_ddp.py`: `python two_processes.py RANK FOLDER`."""

import sys
from pathlib import Path

import shims  # noqa: F401  (before the frameworks)
import torch
from hosts import CASES
from torch import nn

import fastwarp
from fastwarp.saliency import LearnedSaliency


def gradients(model: nn.Module, network: nn.Module, case, ranks: list[int]) -> dict[str, torch.Tensor]:
    """Of the mean of the losses of the batches of these ranks, which differ in their pixels."""
    model.train().zero_grad()
    for rank in ranks:
        batch = case.batch(False)
        batch["pixel_values"] = batch["pixel_values"] * (1 - 0.5 * rank)
        (case.losses(network, batch)["loss"] / len(ranks)).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    case = next(case for case in CASES if "DeformableDetr" in case.name)
    torch.manual_seed(0)
    model = case.build()
    saliency = LearnedSaliency((9, 11))
    nn.init.normal_(saliency.layers[-1].weight)
    fastwarp.attach(model, saliency, fwhm=3.0)
    expected = gradients(model, model, case, [0, 1])
    parallel = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    found = gradients(model, parallel, case, [rank])
    assert "fastwarp.saliency.layers.0.weight" in found
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda m, name=name: f"{name}: {m}")
    torch.distributed.destroy_process_group()
