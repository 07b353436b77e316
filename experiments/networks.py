"""Small networks for segmentation and detection, whose maps are unzoomed level by level."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (4, 8, 16)


def block(before: int, after: int, stride: int = 1) -> nn.Sequential:
    """An odd convolution with padding: cell i of its result is at pixel `stride * i`."""
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU())


def widths(width: int) -> tuple[int, int, int, int]:
    """Channels of the stem and of the stages."""
    return width // 2, width, width * 3 // 2, width * 2


def backbone(width: int) -> tuple[nn.Module, nn.ModuleList]:
    """The stem, and stages of strides 4, 8 and 16."""
    a, b, c, d = widths(width)
    stem = block(3, a, 2)
    pairs = ((a, b), (b, c), (c, d))
    stages = (nn.Sequential(block(before, after, 2), block(after, after)) for before, after in pairs)
    return stem, nn.ModuleList(stages)


def features(image: Tensor, stem: nn.Module, stages: nn.ModuleList) -> list[Tensor]:
    """The stages' maps of images `[B, 3, h, w]`."""
    maps, x = [], stem(image)
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return maps


def plain(channels: int) -> nn.Module:
    """Two more convolutions at the last stride."""
    return nn.Sequential(block(channels, channels), block(channels, channels))


class Atrous(nn.Module):
    """Convolutions of several rates and the image's mean side by side (DeepLabv3, "Rethinking atrous convolution")."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=rate, dilation=rate), nn.ReLU())
            for rate in (1, 2, 4)
        )
        self.mean = nn.Conv2d(channels, channels, 1)
        self.fuse = nn.Sequential(nn.Conv2d(4 * channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        mean = self.mean(x.mean((2, 3), keepdim=True)).relu().expand_as(x)
        return self.fuse(torch.cat([*(branch(x) for branch in self.branches), mean], 1))


class Strips(nn.Module):
    """A map times a gate of the means of its rows and columns ("Strip Pooling", CVPR 2020, section 3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rows = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.columns = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.gate = nn.Conv2d(channels, channels, 1)
        self.block = block(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same shape."""
        strips = self.rows(x.mean(3, keepdim=True)) + self.columns(x.mean(2, keepdim=True))
        return self.block(x * self.gate(strips.relu()).sigmoid())


class Pyramid(nn.Module):
    """A feature pyramid of strides 4, 8 and 16, unzoomed level by level (LZU section 5.2), and a head at stride 4."""

    def __init__(self, width: int, channels: int, context: Callable[[int], nn.Module] = plain) -> None:
        super().__init__()
        self.stem, self.stages = backbone(width)
        b, c, d = widths(width)[1:]
        self.context = context(d)
        self.lateral = nn.ModuleList(nn.Conv2d(before, width, 1) for before in (b, c, d))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in STRIDES)
        self.head = nn.Sequential(block(width, width), nn.Conv2d(width, channels, 1))

    def forward(self, image: Tensor, unzoom: Callable[[list[Tensor]], list[Tensor]]) -> Tensor:
        """Maps `[B, channels, h / 4, w / 4]` in the source's geometry, of images `[B, 3, h, w]`."""
        maps = features(image, self.stem, self.stages)
        maps[-1] = self.context(maps[-1])
        levels = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in (1, 0):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], levels[i].shape[2:])
        levels = unzoom([smooth(x) for smooth, x in zip(self.smooth, levels, strict=True)])
        return self.head(summed(levels).relu())


class FullyConvolutional(nn.Module):
    """Scores of each level, unzoomed and added, in the manner of FCN-8s ("Fully convolutional networks", CVPR 2015)."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.stem, self.stages = backbone(width)
        *before, last = widths(width)[1:]
        self.context = plain(last)
        self.scores = nn.ModuleList(nn.Conv2d(n, channels, 1) for n in (*before, last))

    def forward(self, image: Tensor, unzoom: Callable[[list[Tensor]], list[Tensor]]) -> Tensor:
        """As of `Pyramid`."""
        maps = features(image, self.stem, self.stages)
        maps[-1] = self.context(maps[-1])
        return summed(unzoom([score(x) for score, x in zip(self.scores, maps, strict=True)]))


def summed(levels: list[Tensor]) -> Tensor:
    """Maps of all strides, enlarged to the first's size and added."""
    fine, total = levels[0].shape[2:], levels[0]
    for stride, level in zip(STRIDES[1:], levels[1:], strict=True):
        total = total + placed(level, *(torch.arange(n)[None] * STRIDES[0] / stride for n in fine))
    return total


def placed(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Maps `[B, C, h, w]` at rows y `[1 or B, m]` and columns x `[1 or B, n]` between cells: `[B, C, m, n]`. Past the
    ends, the end's."""
    matrices = []
    for position, n in ((y, maps.shape[2]), (x, maps.shape[3])):
        position = position.to(maps).clamp(0, n - 1)[:, None, :, None]
        matrices.append((1 - (position - torch.arange(n).to(maps)).abs()).clamp(min=0))
    return matrices[0] @ (maps @ matrices[1].mT)


CONTEXTS = {"pyramid": plain, "atrous": Atrous, "strips": Strips}


def network(host: str, width: int, channels: int) -> nn.Module:
    """A network of `channels` maps: "fcn", or a pyramid with one of `CONTEXTS`."""
    return FullyConvolutional(width, channels) if host == "fcn" else Pyramid(width, channels, CONTEXTS[host])
