"""Whether the layer before the last of the `downsize` family is a map, or evaluated where the last one reads it.

A map costs its values once each, written and read; the nine pixels around every anchor, kept in registers, cost up to
nine times the products. So few targets for many pixels, and few channels below, are what evaluating per target is for.
A kernel takes the longer of what its products and its bytes take.
"""

import dataclasses
import functools

import torch

BYTES = 1.5e12
"""Bytes that move per second; as the rates below, of an A100. Only their ratios matter."""

PRODUCTS = {torch.float16: 1e14, torch.bfloat16: 1e14, torch.float32: 1e13, torch.float64: 1e13}
"""Multiplications and additions per second, about a third of the peak: the products are narrow."""

LAUNCH = 3e-6
"""Seconds that one more kernel takes."""

WIDEST = 32
"""Most channels and features that are evaluated per target: more spill."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The last two layers.

    Attributes:
        batch: images.
        channels: what the first of them reads.
        inner: what the last one reads.
        features: what it makes.
        pixels: of an image.
        targets: of an image.
        dtype: of an image.
    """

    batch: int
    channels: int
    inner: int
    features: int
    pixels: int
    targets: int
    dtype: torch.dtype

    def _layer(self, channels: int, features: int) -> int:
        """Operations of a layer at one pixel; sides of a product are multiples of 16."""
        return 2 * (-(-9 * channels // 16) * 16) * (-(-features // 16) * 16)

    def _seconds(self, operations: int, values: int) -> float:
        return self.batch * max(operations / PRODUCTS[self.dtype], values * self.dtype.itemsize / BYTES)

    def dense(self) -> float:
        """Seconds with a map between the layers."""
        moved = self.pixels * (self.channels + self.inner)
        first = self._seconds(self.pixels * self._layer(self.channels, self.inner), moved)
        read = min(9 * self.targets, self.pixels) * self.inner
        return first + self._seconds(self.targets * self._layer(self.inner, self.features), read) + LAUNCH

    def selected(self) -> float:
        """Seconds with the first layer evaluated at nine pixels per target."""
        operations = 9 * self._layer(self.channels, self.inner) + self._layer(self.inner, self.features)
        return self._seconds(self.targets * operations, min(25 * self.targets, self.pixels) * self.channels)


@functools.lru_cache(256)
def selects(sizes: Sizes) -> bool:
    """Whether the layer before the last is evaluated per target."""
    return max(sizes.channels, sizes.inner, sizes.features) <= WIDEST and sizes.selected() < sizes.dense()
