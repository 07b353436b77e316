"""Saliency that a small network learns through the warp."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastwarp.ops.separable  # noqa: F401  (registers torch.ops.fastwarp)
from fastwarp._checks import LEAST, as_geometry, check_count, check_number, check_option, check_sides, extents
from fastwarp.errors import check_tensor


class LearnedSaliency(nn.Module):
    """A small convolutional network from a thumbnail of the image to its saliency, trained by the task's own loss.

    Every step from the map to the loss (knots, zoom, unzoom) is differentiable, so the network learns where to look
    from what the detector or segmenter gets wrong ("Learning to Zoom", Recasens et al., ECCV 2018). It begins with the
    uniform map, whose warp is the identity. A share of the map always stays uniform, so that no place is lost for good.

    Args:
        shape: (h, w) of the map in cells; the thumbnail has 4h x 4w pixels.
        in_channels: of the images.
        width: channels of the network's layers.
        activation: "softplus", each cell by itself, or "softmax", which makes peaks easier. Both are divided by their
            sum.
        floor: share of the map that is uniform, in (0, 1].

    Raises:
        FastwarpError: sizes under 2, numbers under 1, another activation, a floor outside (0, 1].
        TypeError: a shape that is no pair of integers.

    Examples:
        >>> import torch, fastwarp
        >>> from fastwarp.saliency import LearnedSaliency
        >>> saliency = LearnedSaliency(shape=(15, 25))
        >>> image = torch.rand(2, 3, 120, 200)
        >>> warp = fastwarp.SeparableWarp.from_saliency(saliency(image))
        >>> loss = warp.zoom(image, (60, 100)).square().mean()  # a task's
        >>> loss.backward()
    """

    def __init__(
        self,
        shape: tuple[int, int] = (31, 51),
        in_channels: int = 3,
        width: int = 16,
        *,
        activation: Literal["softplus", "softmax"] = "softplus",
        floor: float = 0.1,
    ) -> None:
        super().__init__()
        self.shape = check_sides("LearnedSaliency", "shape", shape)
        in_channels = check_count("LearnedSaliency", "in_channels", in_channels, 1)
        width = check_count("LearnedSaliency", "width", width, 1)
        check_option("LearnedSaliency", "activation", activation, ("softplus", "softmax"))
        self.activation, self.floor = activation, check_number("LearnedSaliency", "floor", floor, LEAST, 1.0)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=4, dilation=4),  # sees beyond an object's own cells
            nn.ReLU(),
            nn.Conv2d(width, 1, 1),
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor, valid: Tensor | None = None) -> Tensor:
        """Saliency of images.

        Args:
            image: `[B, C, H, W]`, floating point of any width, normalised as the task's network takes it.
            valid: integer `[B, 2]`, (height, width) of the part of each image that is not padding, which the map then
                covers; None: all of it.

        Returns:
            `[B, h, w]`, positive, each map of sum 1; at least float32.
        """
        check_tensor("LearnedSaliency", "image", image, "[B, C, H, W]", floating=True)
        h, w = self.shape
        extent = extents("LearnedSaliency", "valid", valid, None, 1, len(image), image)
        thumbnail = _thumbnail(as_geometry(image), (4 * h, 4 * w), extent)
        logits = as_geometry(self.layers(thumbnail.to(next(self.layers.parameters()).dtype))[:, 0]).flatten(1)
        if self.activation == "softplus":
            # In logarithms, as all cells may be so small that they are 0; far below 0 that of softplus is x itself.
            logits = torch.where(logits < -15, logits, F.softplus(logits.clamp(min=-15)).log())
        density = logits.softmax(1).unflatten(1, (h, w))
        return (1 - self.floor) * density + self.floor / (h * w)


def _thumbnail(image: Tensor, size: tuple[int, int], extent: Tensor | None) -> Tensor:
    """What `F.interpolate(..., antialias=True)` makes of the part of each image that is no padding, extents
    `[1 or B, 1, 2]`; several times as fast, and exported right."""
    parts = []
    for axis, (n, side) in enumerate(zip(size, image.shape[2:], strict=True)):
        pixels = torch.full((1,), side, device=image.device) if extent is None else extent[:, 0, axis].clamp(0, side)
        step = pixels[:, None].double() / n
        centre = (torch.arange(n, device=image.device) + 0.5) * step - 0.5
        width = torch.where(step > 0, step.clamp(min=1), 0)
        parts.append(torch.stack([centre, width.expand_as(centre)], 1))
    windows = torch.cat(parts, 2).to(image.dtype)
    return torch.ops.fastwarp.separable_resample([image], windows, list(size), extent, True)[0]
