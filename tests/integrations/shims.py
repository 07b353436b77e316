"""Lets the frameworks' wheels run beside a torch for CPUs: torchvision without its compiled operators, mmcv-lite with
`nms`.

For these tests alone. Import it before the frameworks.
"""

from __future__ import annotations

import importlib.machinery
import sys
import types

import torch
from torch import Tensor


def suppress(boxes: Tensor, scores: Tensor, threshold: float, offset: float = 0.0) -> Tensor:
    """Non-maximum suppression: indices of the boxes that stay, by falling scores."""
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order].float()
    area = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    low = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = (high - low + offset).clamp(min=0).prod(2)
    overlaps = common / (area[:, None] + area[None] - common) > threshold
    dead = torch.zeros(len(boxes), dtype=torch.bool)
    kept = []
    for k in range(len(boxes)):
        if not dead[k]:
            kept.append(k)
            dead |= overlaps[k]
    return order[torch.tensor(kept, dtype=torch.long)]


def pooled(
    features: Tensor, rois: Tensor, scale: float, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """RoIAlign with 2 x 2 samples in each bin, `[N, C, height, width]`, of `rois [N, 5]`."""
    shift, size = 0.5 if aligned else 0.0, features.new_tensor([features.shape[3], features.shape[2]])
    results = []
    for image, *box in rois.tolist():
        x1, y1, x2, y2 = (side * scale - shift for side in box)
        x = x1 + (x2 - x1) * (torch.arange(2 * width) + 0.5) / (2 * width)
        y = y1 + (y2 - y1) * (torch.arange(2 * height) + 0.5) / (2 * height)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).to(features)
        one = features[int(image), None]
        grid = 2 * grid / (size - 1).clamp(min=1) - 1
        bins = torch.nn.functional.grid_sample(one, grid[None], padding_mode="border", align_corners=True)
        results.append(torch.nn.functional.avg_pool2d(bins, 2))
    return torch.cat(results) if results else features.new_zeros(0, features.shape[1], height, width)


def _torchvision() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.impl("nms", suppress, "CPU")
    import torchvision.extension

    torchvision.extension._has_ops = lambda: True
    import torchvision.ops.roi_align

    # The function of that name hides the module. Its own fallback in Python takes minutes.
    module = sys.modules["torchvision.ops.roi_align"]
    module._has_ops, module._roi_align = lambda: False, pooled
    return library


def _missing(name: str):
    if name.startswith("__"):
        raise AttributeError(name)

    def operator(*args, **kwargs):
        raise NotImplementedError(f"mmcv operator {name}")

    return operator


def _mmcv() -> None:
    extension = types.ModuleType("mmcv._ext")
    extension.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
    extension.__getattr__ = _missing
    extension.nms = lambda boxes, scores, iou_threshold, offset: suppress(boxes, scores, iou_threshold, offset)
    sys.modules["mmcv._ext"] = extension
    import mmcv

    mmcv._ext = extension


LIBRARY = _torchvision()
_mmcv()
