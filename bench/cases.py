"""Shapes, inputs and byte counts of the benchmarks.

`zoom` is LZU's Argoverse-HD set-up (1200 x 1920 to a half, features of 256 channels at strides 8 to 128 of it); the
others are nuScenes with a 27 x 48 saliency and DownsizeNet's Cityscapes with a 45 x 45 one.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastwarp import SeparableWarp

Size = tuple[int, int]

FWHM = 13.0
CHANNELS = 256
PYRAMID: tuple[Size, ...] = ((75, 120), (38, 60), (19, 30), (10, 15), (5, 8))
BEST = 1.0
"""The least a peer may take of fastwarp's time: "no shape slower than its best peer"."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
TOLERANCES = {torch.uint8: 0.5 / 255, torch.bfloat16: 1.6e-2, torch.float32: 2e-3}
"""Largest difference between ours and a peer, relative to the largest value. Peers compute coordinates in float32."""


@dataclasses.dataclass(frozen=True)
class Shape:
    """A zoom: sizes of the source, of the result and of the saliency."""

    source: Size
    size: Size
    saliency: Size


SHAPES = {
    "zoom": Shape((1200, 1920), (600, 960), (31, 51)),
    "nuscenes": Shape((900, 1600), (450, 800), (27, 48)),
    "cityscapes": Shape((1024, 2048), (256, 256), (45, 45)),
}


def saliency(shape: Size, batch: int = 1, device: str = "cpu") -> Tensor:
    """`[batch, h, w]`: a few blobs over a floor, in different places for each image."""
    generator = torch.Generator().manual_seed(0)
    y, x = (torch.linspace(0, 1, n) for n in shape)
    result = torch.full((batch, *shape), 0.05)
    for image in result:
        for centre_y, centre_x in torch.rand(4, 2, generator=generator).tolist():
            image += torch.exp(-60 * ((y[:, None] - centre_y) ** 2 + (x - centre_x) ** 2))
    return result.to(device)


def warp(shape: Size, batch: int = 1, device: str = "cpu") -> SeparableWarp:
    """The LZ warp of `saliency`."""
    return SeparableWarp.from_saliency(saliency(shape, batch, device), FWHM)


def uniform_warp(source: Size, size: Size, device: str = "cpu") -> SeparableWarp:
    """The warp whose samples are those of `F.interpolate(align_corners=False)`: two knots on each axis."""
    knots = []
    for n, m in zip(source, size, strict=True):
        first = (n / m - 1) / 2
        knots.append(torch.tensor([[first, n - 1 - first]], dtype=torch.float64, device=device) / (n - 1))
    return SeparableWarp(*knots)


def image(
    shape: Sequence[int], dtype: torch.dtype = torch.float32, layout: str = "contiguous", device: str = "cpu"
) -> Tensor:
    """Noise `[B, C, H, W]`, the hardest content for coordinates that are off."""
    if dtype == torch.uint8:
        result = torch.randint(0, 256, tuple(shape), dtype=dtype, device=device)
    else:
        result = torch.rand(tuple(shape), device=device).to(dtype)
    return result.contiguous(memory_format=LAYOUTS[layout])


def smooth_image(shape: Sequence[int], layout: str = "contiguous", device: str = "cpu") -> Tensor:
    """Noise of about four pixels: gradients to coordinates jump where a coordinate crosses a pixel, and peers cross
    it elsewhere, by their rounding. On noise of one pixel that would hide real errors."""
    coarse = torch.rand(*shape[:2], *(side // 4 + 2 for side in shape[2:]), device=device)
    result = F.interpolate(coarse, tuple(shape[2:]), mode="bicubic", align_corners=True)
    return result.contiguous(memory_format=LAYOUTS[layout])


def pyramid(
    batch: int, dtype: torch.dtype = torch.float32, layout: str = "contiguous", device: str = "cpu"
) -> list[Tensor]:
    """The five feature levels of the zoomed image."""
    return [image((batch, CHANNELS, *size), dtype, layout, device) for size in PYRAMID]


def smooth_pyramid(layout: str = "contiguous", device: str = "cpu") -> list[Tensor]:
    """The same of `smooth_image`s, batch 1."""
    return [smooth_image((1, CHANNELS, *size), layout, device) for size in PYRAMID]


def downsize_parameters(layers: int, channels: int = 16, device: str = "cpu") -> list[Tensor]:
    """Parameters of a DownsizeNet of 2x2 taps that uses its texture: the weights of the convolutions, their biases, the
    1x1 convolution's weight and bias. Not the start, where the features count for nothing."""
    generator = torch.Generator().manual_seed(0)
    widths = [3] + [channels] * layers
    weights = [
        torch.randn(wide, before, 3, 3, generator=generator) * (2 / (9 * before)) ** 0.5
        for before, wide in itertools.pairwise(widths)
    ]
    biases = [0.1 * torch.randn(wide, generator=generator) for wide in widths[1:]]
    texture = 0.3 * torch.randn(4, channels if layers else 0, generator=generator)
    fuse = torch.cat([texture, torch.eye(4)], 1)[:, :, None, None]
    return [p.to(device) for p in (*weights, *biases, fuse, torch.zeros(4))]


def size_in_bytes(tensors: Sequence[Tensor]) -> int:
    """What moving every element of all tensors once moves."""
    return sum(t.numel() * t.element_size() for t in tensors)


def read_by_zoom(source: Tensor, zoomed_by: SeparableWarp, size: Size) -> int:
    """Bytes of `source` `[B, C, H, W]` that a bilinear zoom must read: whole rows, but only those that are sampled."""
    height = source.shape[2]
    centres = (zoomed_by.grid(size)[:, :, 0, 1].double().cpu() + 1) / 2 * (height - 1)
    taps = torch.cat([centres.floor(), centres.ceil()], 1)
    rows = sum(len(row.unique()) for row in taps) / len(taps)
    return math.ceil(size_in_bytes([source]) * rows / height)
