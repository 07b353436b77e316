"""Saliency from semantic labels: where classes meet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastwarp._checks import check_count, check_memory, check_number
from fastwarp.errors import check_size, check_tensor, fail

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def boundary_density(
    labels: Tensor,
    shape: tuple[int, int] = (45, 45),
    edge: float = 200.0,
    background: float = 1.0,
    ignore_index: int | None = None,
) -> Tensor:
    """Saliency of segmented images: dense where classes meet.

    A pixel whose label differs from that of any of its 8 neighbours is a boundary. Boundaries weigh `edge`, all other
    pixels `background`, and the saliency of a cell is the mean over its pixels. LZU ("Learning to Zoom and Unzoom",
    CVPR 2023, appendix A.6) averages this over the training set, from labels of 256x256 pixels, for its fixed saliency
    of segmentation; `FixedSaliency` then holds it.

    Args:
        labels: `[B, H, W]`, or `[H, W]` for one image; integers. Not modified.
        shape: (h, w) of the map in cells. Cells cover the image evenly as in `adaptive_avg_pool2d`: where H is no
            multiple of h they share rows of pixels.
        edge: weight of boundaries; not negative.
        background: weight of other pixels; not negative.
        ignore_index: a label that says nothing: its pixels are no boundaries, and nor are others for being beside it.

    Returns:
        `[B, h, w]`, float32, between `background` and `edge`.

    Raises:
        FastwarpError: another rank, an image or a shape without pixels, negative or infinite weights.
        TypeError: labels that are no integers, weights that are no numbers.

    Examples:
        >>> import torch
        >>> from fastwarp.saliency import boundary_density
        >>> labels = torch.zeros(4, 8, dtype=torch.uint8)
        >>> labels[:, 5:] = 1
        >>> boundary_density(labels, (1, 4))
        tensor([[[  1.,   1., 200.,   1.]]])
    """
    if isinstance(labels, Tensor) and labels.dim() == 2:
        labels = labels.unsqueeze(0)
    check_tensor("boundary_density", "labels", labels, "[B, H, W]", dtypes=_INTEGERS)
    if 0 in labels.shape[1:]:
        raise fail("boundary_density", "labels", f"of shape {list(labels.shape)}", "a height and width of at least 1")
    h, w = check_size("boundary_density", "shape", shape)
    check_memory("boundary_density", "shape", (h, w), 8 * len(labels) * h * w, labels.device)
    edge = check_number("boundary_density", "edge", edge, 0.0)
    background = check_number("boundary_density", "background", background, 0.0)
    if ignore_index is not None:
        ignore_index = check_count("boundary_density", "ignore_index", ignore_index, -(2**63), 2**63 - 1)
    share = F.adaptive_avg_pool2d(_boundaries(labels, ignore_index).float().unsqueeze(1), (h, w)).squeeze(1)
    return background + (edge - background) * share


def _boundaries(labels: Tensor, ignore_index: int | None) -> Tensor:
    """Whether pixels `[B, H, W]` differ from any of their 8 neighbours."""
    result = torch.zeros(labels.shape, dtype=torch.bool, device=labels.device)
    known = None if ignore_index is None else labels != ignore_index
    height, width = labels.shape[1:]
    # Each pair of neighbours once: to the right, below, and on the two diagonals.
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        rows = slice(0, height - down), slice(down, height)
        columns = slice(max(-right, 0), width - max(right, 0)), slice(max(right, 0), width - max(-right, 0))
        first, second = ((slice(None), rows[i], columns[i]) for i in range(2))
        differ = labels[first] != labels[second]
        if known is not None:
            differ &= known[first] & known[second]
        result[first] |= differ
        result[second] |= differ
    return result
