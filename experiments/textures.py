"""Generated images whose classes are finer than a plain resize keeps: thin structures and stripes on 1/f textures.

Natural images have amplitudes that fall as 1/f, and so have these. On them are cracks (dark random curves), wires
(bright straight lines), both one or two pixels wide, and patches of stripes with a period of three to five pixels,
upright or lying. The labels of curves and lines are seven pixels wide, so that a network of stride 4 can say where they
are. The generator knows nothing of resizing.
"""

from __future__ import annotations

import numpy as np
import torch
from camvid import Split
from scipy import ndimage

CLASSES = ("ground", "crack", "wire", "upright stripes", "lying stripes")
_SPLITS = ("train", "val", "test")


def generate(split: str, count: int, size: tuple[int, int]) -> Split:
    """Images `[count, 3, *size]` and labels `[count, *size]`, both uint8, the same ones each time."""
    random = np.random.default_rng(_SPLITS.index(split))
    images, labels = zip(*(scene(random, size) for _ in range(count)), strict=True)
    return Split(torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels)))


def scene(random: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image `[3, H, W]` and its labels `[H, W]`."""
    height, width = size
    image = np.stack([noise(random, size) for _ in range(3)])
    image = 0.5 + 0.1 * (image + 2 * image.mean(0))
    labels = np.zeros(size, np.uint8)
    y, x = np.mgrid[:height, :width]
    for _ in range(random.integers(2, 5)):
        kind = random.integers(3, 5)
        rows, columns = (slice(a, a + random.integers(24, 64)) for a in (random.integers(0, n - 24) for n in size))
        period, phase = random.uniform(3, 5), random.uniform(0, 5)
        wave = np.sin(2 * np.pi * ((x if kind == 3 else y) + phase) / period)
        image[:, rows, columns] += 0.15 * wave[rows, columns]
        labels[rows, columns] = kind
    for kind in random.permutation([1, 1, 2, 2]):
        line = curve(random, size, bends=kind == 1)
        image[:, line] += -0.3 if kind == 1 else 0.3
        labels[ndimage.binary_dilation(line, np.ones((3, 3), bool), 2)] = kind
    return (255 * image.clip(0, 1)).round().astype(np.uint8), labels


def noise(random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Noise with amplitudes of 1/f, of mean 0 and standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1]))
    frequency[0, 0] = np.inf
    values = np.fft.irfft2(np.fft.rfft2(random.normal(size=size)) / frequency, size)
    return values / values.std()


def curve(random: np.random.Generator, size: tuple[int, int], bends: bool) -> np.ndarray:
    """Which pixels are on a line of one or two pixels, which bends at random or not."""
    steps = int(1.5 * max(size))
    turns = np.cumsum(random.normal(0, 0.08, steps)) if bends else 0
    angle = random.uniform(0, np.pi) + turns * np.ones(steps)
    start = [random.uniform(0.2, 0.8) * n for n in size]
    path = np.stack([np.cumsum(np.sin(angle)), np.cumsum(np.cos(angle))])
    path = path - path[:, steps // 2, None] + np.array(start)[:, None]
    line = np.zeros(size, bool)
    at = path.round().astype(int)
    inside = ((at >= 0) & (at < np.array(size)[:, None])).all(0)
    line[tuple(at[:, inside])] = True
    return ndimage.binary_dilation(line, np.ones((2, 2), bool)) if random.random() < 0.5 else line
