"""Hosts of Hugging Face's transformers: masks tell the padding, labels are relative already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastwarp.attaching.host import Facts, Host

PATCHES = ("swin", "swinv2", "convnext", "convnextv2", "vit", "dinov2", "beit")
"""Backbones whose cells are in the middle of patches of even size."""


def corners(boxes: Tensor) -> Tensor:
    """(centre x, centre y, width, height) as (x1, y1, x2, y2)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def mask_facts(module: Any, args: tuple, kwargs: dict, output: Any) -> Facts:
    """The padding by `pixel_mask`, and the boxes of `labels` where they have any."""
    mask, labels, valid, boxes = kwargs.get("pixel_mask"), kwargs.get("labels"), None, None
    if mask is not None:
        valid = torch.stack([mask.bool().any(2).sum(1), mask.bool().any(1).sum(1)], 1)
    if isinstance(labels, (list, tuple)) and all("boxes" in one for one in labels):
        boxes = [corners(one["boxes"]) for one in labels]
    return Facts(valid, boxes)


def softmax_found(output: Any, args: tuple, kwargs: dict) -> Any:
    """Detections of DETR, whose last class is `no object`."""
    return list(corners(output.pred_boxes)), list(output.logits.softmax(-1)[..., :-1].amax(-1))


def sigmoid_found(output: Any, args: tuple, kwargs: dict) -> Any:
    """Detections of its descendants."""
    return list(corners(output.pred_boxes)), list(output.logits.sigmoid().amax(-1))


def phase(model: Any) -> float:
    """Where the cells of the backbone are; see `Host`."""
    config = getattr(model.config, "backbone_config", None)
    return 0.5 if getattr(config, "model_type", None) in PATCHES else 0.0


def _detr(model: nn.Module, found: Callable[..., Any], divisor: int = 1) -> Host:
    where: dict[str, Any] = {"zoom": "model.backbone", "unzoom": "model.backbone", "phase": phase(model)}
    return Host(**where, divisor=divisor, relative=True, facts=mask_facts, found=found)


def detr(model: nn.Module) -> Host:
    """DETR."""
    return _detr(model, softmax_found)


def sigmoid_detr(model: nn.Module) -> Host:
    """Conditional and Deformable DETR."""
    return _detr(model, sigmoid_found)


def real_time_detr(model: nn.Module) -> Host:
    """RT-DETR and D-FINE join their levels by doubling them: all have to be halves of each other."""
    return _detr(model, sigmoid_found, divisor=32)


def segformer(model: nn.Module) -> Host:
    """Its patches overlap and are of odd size; attentions are 4-D as well, but are not what its head takes."""
    return Host("segformer", "decode_head", into=True, relative=True)


def upernet(model: nn.Module) -> Host:
    """Any backbone."""
    return Host("backbone", "backbone", keys=("feature_maps",), phase=phase(model), relative=True)


def mask2former(model: nn.Module) -> Host:
    """Any backbone."""
    encoder = "model.pixel_level_module.encoder"
    where: dict[str, Any] = {"keys": ("feature_maps",), "phase": phase(model)}
    return Host(encoder, encoder, **where, relative=True, facts=mask_facts)


def dpt(model: Any) -> Host:
    """Tokens are no maps before the neck."""
    return Host("dpt", "neck", phase=0.5, divisor=model.config.patch_size, relative=True)


_HOSTS = {
    "detr.modeling_detr.DetrForObjectDetection": detr,
    "conditional_detr.modeling_conditional_detr.ConditionalDetrForObjectDetection": sigmoid_detr,
    "deformable_detr.modeling_deformable_detr.DeformableDetrForObjectDetection": sigmoid_detr,
    "rt_detr.modeling_rt_detr.RTDetrForObjectDetection": real_time_detr,
    "rt_detr_v2.modeling_rt_detr_v2.RTDetrV2ForObjectDetection": real_time_detr,
    "d_fine.modeling_d_fine.DFineForObjectDetection": real_time_detr,
    "segformer.modeling_segformer.SegformerForSemanticSegmentation": segformer,
    "upernet.modeling_upernet.UperNetForSemanticSegmentation": upernet,
    "mask2former.modeling_mask2former.Mask2FormerForUniversalSegmentation": mask2former,
    "dpt.modeling_dpt.DPTForSemanticSegmentation": dpt,
}
HOSTS: dict[str, Callable[[nn.Module], Host]] = {f"transformers.models.{name}": host for name, host in _HOSTS.items()}
