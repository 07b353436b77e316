"""Small networks to attach to."""

from __future__ import annotations

import torch
from helpers import random_warp
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastwarp import Facts, Host, SeparableWarp

SIZE = (48, 64)


class Backbone(nn.Module):
    """Maps at strides 4 and 8 in a dict, as backbones of frameworks return them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 4, 1)
        self.down = nn.Conv2d(6, 6, 3, 2, 1)
        self.checkpointed = False

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = self.stem(image)
        coarse = checkpoint(self.down, fine, use_reentrant=False) if self.checkpointed else self.down(fine)
        return {"fine": fine, "coarse": coarse}


class Net(nn.Module):
    """A detector that returns dense scores, and in evaluation the same boxes for each image."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Backbone(), nn.Conv2d(6, 2, 1)

    def forward(self, image: torch.Tensor, sizes=None, boxes=None) -> list[torch.Tensor]:
        return [self.head(level.relu()) for level in self.backbone(image).values()]


def facts(module, args, kwargs, output) -> Facts:
    return Facts(valid=kwargs.get("sizes"), boxes=kwargs.get("boxes"))


def found(output, args, kwargs):
    boxes = torch.tensor([[0.7, 0.4, 0.9, 0.8], [0.1, 0.1, 0.2, 0.2]])
    return [boxes] * len(output[0]), [torch.tensor([0.9, 0.1])] * len(output[0])


HOST = Host("backbone", "backbone", facts=facts, found=found)


def net() -> Net:
    torch.manual_seed(1)
    return Net()


def images(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, *SIZE, generator=torch.Generator().manual_seed(2))


def warp() -> SeparableWarp:
    return random_warp(1)


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))
