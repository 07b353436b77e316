"""Windows that read the nearest pixel alone, as torch compositions: for gradients and exporters."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastwarp.ops._dense_mesh import level_extent


def rounded(
    windows: Tensor, separable: bool, sizes: Sequence[int], source_sizes: Sequence[int], source_valid: Tensor | None
) -> Tensor:
    """Windows of the nearest pixels' centres: linear interpolation there reads these pixels alone.

    Args:
        windows: `[1 or B, 2, P]`, as `label_nearest` takes them.
        separable: of rows and columns, or of pixels.
        sizes: of the targets `[h1, w1, ...]`.
        source_sizes: likewise of the images.
        source_valid: int64 `[1 or B, levels, 2]` or None.
    """
    windows = windows.detach()
    last = _extents(separable, sizes, source_sizes, source_valid, windows) - 1
    centre = windows[:, :1] if separable else windows
    nearest = torch.minimum((centre.double() + 0.5).floor(), last).clamp(min=0).to(windows.dtype)
    if not separable:
        return torch.where(windows[:, :1] < 0, -1, nearest)
    width = (windows[:, 1:] > 0).to(windows.dtype)
    return torch.cat([nearest, width.expand(len(nearest), -1, -1)], 1)


def _extents(
    separable: bool, sizes: Sequence[int], source_sizes: Sequence[int], source_valid: Tensor | None, like: Tensor
) -> Tensor:
    """Pixels that each target may read along the axis of its row of windows, `[1 or B, 1 or 2, P]`, float64."""
    parts = []
    for level in range(len(sizes) // 2):
        h, w = sizes[2 * level : 2 * level + 2]
        extent = level_extent(source_valid, level, source_sizes, like).double()
        if separable:
            parts.append(torch.cat([extent[:, None, :1].expand(-1, -1, h), extent[:, None, 1:].expand(-1, -1, w)], 2))
        else:
            parts.append(extent.flip(1)[:, :, None].expand(-1, -1, h * w))
    return torch.cat(parts, 2)
