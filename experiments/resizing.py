"""Ways to make images small without a warp."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastwarp import SeparableWarp
from fastwarp.nn import DownsizeNet

LEARNED = ("downsize", "texture")


class Resizer(nn.Module):
    """Resizes images `[B, C, H, W]`, of 0 to 1, to `[B, C, *size]`.

    Args:
        size: (height, width) of the result.
        method: "bilinear", "bicubic" or "area", as of `F.interpolate`; "antialiased", a triangle filter as wide as the
            ratio; "downsize", DownsizeNet; "texture", DownsizeNet that sees no distances.
        layers: convolutions of DownsizeNet.
        taps: of DownsizeNet, "bilinear" (2 x 2 pixels) or "bicubic" (4 x 4).
        channels: of the images.
        align_corners: whether the first and last pixels stay at their places, as in a zoom, and not the outer edges.
    """

    def __init__(
        self,
        size: tuple[int, int],
        method: str,
        layers: int = 3,
        taps: str = "bilinear",
        channels: int = 3,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.method, self.align_corners = size, method, align_corners or method == "antialiased"
        self.net = None
        if method in LEARNED:
            options: dict[str, Any] = {"encoding": None} if method == "texture" else {}
            if taps == "bicubic":
                options["normalise"] = "signed"  # bicubic weights are negative in places
            self.net = DownsizeNet(
                size,
                in_channels=channels,
                layers=layers,
                taps=taps,  # type: ignore[arg-type]
                align_corners=align_corners,
                mean=[0.5] * channels,
                std=[0.25] * channels,
                **options,
            )

    def forward(self, images: Tensor) -> Tensor:
        """The small images."""
        if self.net is not None:
            return self.net(images)
        if self.method == "area":
            return F.adaptive_avg_pool2d(images, self.size)
        if self.method == "antialiased":
            return SeparableWarp.identity(device=images.device).zoom(images, self.size, antialias=True)
        return F.interpolate(images, self.size, mode=self.method, align_corners=self.align_corners)

    def take(self, other: Resizer) -> None:
        """The weights of another DownsizeNet, which learn no more."""
        self.load_state_dict(other.state_dict())
        self.requires_grad_(False)
