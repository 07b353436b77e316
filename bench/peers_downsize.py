"""What DownsizeNet is compared with: plain torch as the paper describes it, torch's own resizing, a network to feed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from cases import Size
from torch import Tensor, nn

from fastwarp.demo import plain_torch_downsize


def naive(source: Size, size: Size, like: Tensor) -> Callable[..., list[Tensor]]:
    """Every convolution on the whole image; the tables of the two sizes are made beforehand."""
    at = plain_torch_downsize.tables(source, size, like)

    def run(image: Tensor, *parameters: Tensor) -> list[Tensor]:
        *convolutions, fuse_weight, fuse_bias = (p.to(image.dtype) for p in parameters)
        layers = len(convolutions) // 2
        weights, biases = convolutions[:layers], convolutions[layers:]
        found = plain_torch_downsize.coefficients(image, weights, biases, fuse_weight, fuse_bias, at)
        return [plain_torch_downsize.interpolate(image, found, at)]

    return run


def precision(function: Callable[..., list[Tensor]], tf32: bool) -> Callable[..., list[Tensor]]:
    """`function` with cuDNN's convolutions of float32 multiplied as TF32 (torch's default, and 4e-4 apart), or not."""

    def run(*inputs: Tensor) -> list[Tensor]:
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = tf32
        try:
            return function(*inputs)
        finally:
            torch.backends.cudnn.allow_tf32 = before

    return run


def resizes(size: Size) -> dict[str, Callable[..., list[Tensor]]]:
    """What `F.interpolate` offers for the same two sizes; other results, so that only times compare."""

    def resize(image: Tensor, mode: str, antialias: bool = False) -> list[Tensor]:
        return [F.interpolate(image, size, mode=mode, antialias=antialias)]

    return {
        "bilinear": lambda image, *_: resize(image, "bilinear"),
        "bicubic": lambda image, *_: resize(image, "bicubic"),
        "bilinear, antialiased": lambda image, *_: resize(image, "bilinear", True),
        "area": lambda image, *_: resize(image, "area"),
    }


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and the way around them."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        after = 4 * width
        self.reduce = _convolution(before, width, 1)
        self.middle = _convolution(width, width, 3, stride)
        self.expand = _convolution(width, after, 1)
        self.around = _convolution(before, after, 1, stride) if stride > 1 or before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.middle(self.reduce(x).relu_()).relu_()
        return (self.expand(inner) + self.around(x)).relu_()


class ResNet50(nn.Sequential):
    """The layers of ResNet-50 (He et al. 2016; stride in the 3x3, as torchvision has it), for its time only.

    Its weights are random, and its batch norms left out: in inference they are folded into the convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.append(_convolution(3, 64, 7, 2)).append(nn.ReLU(True)).append(nn.MaxPool2d(3, 2, 1))
        before = 64
        for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
            for block in range(depth):
                self.append(_Bottleneck(before, width, stride if block == 0 else 1))
                before = 4 * width
        self.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(before, 1000))


def _convolution(before: int, after: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, side, stride, side // 2)


def resnet50(batch: int, size: Size, dtype: torch.dtype, device: str) -> Callable[..., list[Tensor]]:
    """The forward pass for a batch of small images, channels_last as tensor cores like it."""
    network = ResNet50().eval().to(device, dtype, memory_format=torch.channels_last)
    small = torch.rand(batch, 3, *size, device=device).to(dtype, memory_format=torch.channels_last)

    @torch.no_grad()
    def run(*_: Tensor) -> list[Tensor]:
        return [network(small)]

    return run


def matmul(operations: float, dtype: torch.dtype, device: str) -> Callable[..., list[Tensor]]:
    """A product of matrices of about as many floating-point operations (a multiplication and an addition are two)."""
    side = 1024
    right = torch.rand(side, side, device=device).to(dtype)
    left = torch.rand(max(round(operations / (2 * side * side)), 16), side, device=device).to(dtype)
    return lambda *_: [left @ right]
