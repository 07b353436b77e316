"""Images for multimodal models: a camera's frame and an attention map to the image that a model takes, from bytes to
bytes, the warp included."""

from __future__ import annotations

from typing import Any

import numpy as np
import peers
import torch
from cases import Size
from paired import paired
from torch import Tensor

from fastwarp.transforms import AttentionZoom

FRAME, SIZE, CELLS = (1200, 1920), (448, 448), (24, 24)


def _published(frame: np.ndarray, attention: np.ndarray, size: Size) -> list[Tensor]:
    """AttWarp's way: cumulative sums of the marginals, `np.interp`, `cv2.remap`, which samples single places."""
    root = np.sqrt(np.maximum(attention, 0)) + 1e-9
    maps = []
    for axis in (1, 0):
        marginal, side = root.sum(1 - axis), frame.shape[axis]
        total = np.concatenate([[0.0], np.cumsum(marginal)]) / marginal.sum()
        at = np.interp(np.arange(size[axis]) / size[axis], total, np.linspace(0, side, len(total)))
        maps.append(at.astype(np.float32))
    return [peers.remap(frame, [np.ascontiguousarray(m) for m in np.meshgrid(*maps)])]


def _interpolated(frame: np.ndarray, size: Size) -> list[Tensor]:
    """The antialiased resize of torch, of the same bytes, which knows no attention."""
    return peers.interpolate(torch.from_numpy(frame).permute(2, 0, 1)[None], size)


def test_attention_zoom(benchmark: Any) -> None:
    noise = np.random.default_rng(0)
    frame, attention = noise.integers(0, 256, (*FRAME, 3), dtype=np.uint8), noise.random(CELLS)
    zoom = AttentionZoom(SIZE)
    uniform = AttentionZoom(SIZE, power=0)(frame, attention)
    resized = _interpolated(frame, SIZE)[0][0].permute(1, 2, 0).numpy()
    assert np.abs(uniform.astype(int) - resized).mean() < 20  # the same but for half a sample at the borders

    def ours(frame: Tensor) -> list[Tensor]:
        return [torch.from_numpy(zoom(frame.numpy(), attention)).permute(2, 0, 1)[None]]

    paired(
        benchmark,
        {"fastwarp": ours},
        lambda: [torch.from_numpy(frame)],
        moved=frame.size + 3 * SIZE[0] * SIZE[1],
        tolerance=0.0,
        targets={"cumsum, interp, cv2.remap": 1.0, "F.interpolate, antialiased": 2.0},
        alone={  # filters and places are others
            "cumsum, interp, cv2.remap": lambda frame: _published(frame.numpy(), attention, SIZE),
            "F.interpolate, antialiased": lambda frame: _interpolated(frame.numpy(), SIZE),
        },
    )
