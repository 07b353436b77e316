"""Networks that the tests of DownsizeNet share."""

from __future__ import annotations

import torch

from fastwarp.nn import DownsizeNet


def trained(net: DownsizeNet) -> DownsizeNet:
    """With weights that are not those of the start."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += torch.randn_like(parameter) / 4
    return net


IMAGE = torch.rand(1, 3, 8, 8)


class Encoding(torch.nn.Module):
    """Distances that are learned themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 6)

    def forward(self, dx, dy):
        return self.layer(torch.stack(torch.broadcast_tensors(dx, dy), -1)).permute(2, 0, 1)
