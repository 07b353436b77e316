"""What the losses of LZU's predecessors need, on the same warps: FOVEA and LDS, whose maps stay in zoomed space.

Attach such a network with `fastwarp.Host(zoom=..., unzoom=None)`; `model.fastwarp.warp` is the warp of the last batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastwarp.errors import check_size, check_tensor, fail
from fastwarp.functional.separable import Size
from fastwarp.saliency import boundary_density
from fastwarp.warp import MeshWarp, SeparableWarp

__all__ = ["fovea_boxes", "lds_edge_loss", "lds_labels"]


def fovea_boxes(warp: SeparableWarp | MeshWarp, boxes: Sequence[Tensor], source_size: Size, size: Size) -> list[Tensor]:
    """Predicted boxes of a network that ran on zoomed images, back in the source: FOVEA ("FOVEA: Foveated Image
    Magnification for Autonomous Navigation", ICCV 2021) takes losses and suppresses duplicates there.

    Args:
        warp: of the batch; a batch of 1 is shared.
        boxes: of each image, `[N, 4]` (x1, y1, x2, y2) in pixels of the zoomed image.
        source_size: (height, width) of the source.
        size: (height, width) of the zoomed image.

    Returns:
        Of each image `[N, 4]`, in pixels of the source. Differentiable in boxes and warp.

    Raises:
        FastwarpError: another number of images than warps; see `fastwarp.SeparableWarp.zoom_boxes`.

    Examples:
        >>> import torch, fastwarp
        >>> warp = fastwarp.SeparableWarp.identity(2)
        >>> found = [torch.tensor([[2.0, 2.0, 5.0, 7.0]]), torch.zeros(0, 4)]
        >>> [tuple(one.shape) for one in fovea_boxes(warp, found, (20, 30), (10, 15))]
        [(1, 4), (0, 4)]
    """
    return warp.unzoom_boxes(list(boxes), source_size, size)


def lds_labels(warp: SeparableWarp | MeshWarp, labels: Tensor, size: Size) -> Tensor:
    """Labels as the zoomed image shows them: LDS ("Learning to Downsample for Segmentation of Ultra-High Resolution
    Images", ICLR 2022) trains a segmenter on these.

    Args:
        warp: of the batch; a batch of 1 is shared.
        labels: `[B, H, W]`, integers up to 2^24.
        size: (height, width) of the zoomed image.

    Returns:
        `[B, *size]`: the label of the nearest pixel, the dtype of `labels`.

    Raises:
        FastwarpError: wrong shapes.
        TypeError: labels that are no integers.

    Examples:
        >>> import torch, fastwarp
        >>> lds_labels(fastwarp.SeparableWarp.identity(), torch.tensor([[[1, 2], [3, 4]]]), (1, 4))
        tensor([[[1, 1, 2, 2]]])
    """
    check_tensor("lds_labels", "labels", labels, "[B, H, W]")
    if labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise TypeError(f"lds_labels: labels are {labels.dtype}, expected integers")
    check_size("lds_labels", "size", size)
    grid = warp.grid(size).detach().expand(len(labels), -1, -1, -1)
    # float32 holds every integer up to 2^24.
    values = labels[:, None].to(torch.float64 if grid.dtype == torch.float64 else torch.float32)
    zoomed = F.grid_sample(values, grid, mode="nearest", padding_mode="border", align_corners=True)
    return zoomed[:, 0].to(labels.dtype)


def lds_edge_loss(saliency: Tensor, labels: Tensor, edge: float = 200.0, ignore_index: int | None = None) -> Tensor:
    """How far a learned saliency is from the boundaries of labels: the edge loss of LDS, which keeps its sampling from
    collapsing. Both maps are divided by their sums, and compared by the mean of squared differences.

    Args:
        saliency: `[B, h, w]`, not negative.
        labels: `[B, H, W]`, integers.
        edge: weight of boundaries; see `fastwarp.saliency.boundary_density`.
        ignore_index: likewise.

    Returns:
        A scalar; 0 where a saliency is the density of boundaries. Differentiable in `saliency`.

    Raises:
        FastwarpError: wrong shapes.
        TypeError: wrong dtypes.

    Examples:
        >>> import torch
        >>> labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
        >>> lds_edge_loss(torch.ones(1, 4, 4), labels)
        tensor(0.)
    """
    check_tensor("lds_edge_loss", "saliency", saliency, "[B, h, w]", floating=True)
    target = boundary_density(labels, (saliency.shape[1], saliency.shape[2]), edge, ignore_index=ignore_index)
    if len(target) != len(saliency):
        raise fail("lds_edge_loss", "labels", f"a batch of {len(target)}", f"{len(saliency)}, as saliency")
    share, wanted = (one.float() / one.float().sum((1, 2), keepdim=True) for one in (saliency, target))
    return F.mse_loss(share, wanted)
