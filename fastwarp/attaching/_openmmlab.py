"""Hosts of MMDetection, MMSegmentation and MMDetection3D: everything is in `data_samples`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from fastwarp.attaching._torchvision import relative, ssd_geometry
from fastwarp.attaching.host import Facts, Host


def sample_facts(module: Any, args: tuple, kwargs: dict, output: Any) -> Facts:
    """Sizes, boxes and flips. Cuts that a segmenter takes from its image by itself are none of them."""
    samples = kwargs.get("data_samples", args[1] if len(args) > 1 else None)
    slides = not module.training and (getattr(module, "test_cfg", None) or {}).get("mode") == "slide"
    if not samples or slides:
        return Facts()
    boxes = None
    if all("bboxes" in getattr(sample, "gt_instances", ()) for sample in samples):
        found = [(sample.gt_instances.bboxes, sample.img_shape) for sample in samples]
        boxes = [relative(getattr(one, "tensor", one), size) for one, size in found]
    flipped = [bool(s.get("flip")) and s.get("flip_direction", "horizontal") != "vertical" for s in samples]
    return Facts([sample.img_shape[:2] for sample in samples], boxes, flipped=flipped if any(flipped) else False)


def sample_found(output: Any, args: tuple, kwargs: dict) -> Any:
    """Detections in the pixels of the original images. Boxes in space would have to be projected."""
    if not isinstance(output, list) or not all("bboxes" in getattr(one, "pred_instances", ()) for one in output):
        return None
    boxes = [relative(one.pred_instances.bboxes, one.ori_shape) for one in output]
    return boxes, [one.pred_instances.scores for one in output]


def transposed_geometry(convolutions: Iterable[nn.ConvTranspose2d]) -> dict[str, Any]:
    """Stride and phase of the map that CenterNet's transposed convolutions make of ResNet's last; registration.md has
    the formula."""
    stride, offset = 32, 0.0
    for convolution in convolutions:
        stride //= convolution.stride[0]
        offset += stride * (convolution.padding[0] - (convolution.kernel_size[0] - 1) / 2)  # type: ignore[operator]
    return {"strides": (stride,), "phase": offset / (stride - 1)}


def _host(model: Any, **options: Any) -> Host:
    return Host("backbone", "neck" if model.with_neck else "backbone", facts=sample_facts, **options)


def detector(model: Any) -> Host:
    """Detectors have anchors and points in pixels; FCOS3D's cameras stay as they are."""
    geometry, neck = {}, type(getattr(model, "neck", None)).__name__
    if type(model.backbone).__name__ == "SSDVGG" and neck == "SSDNeck":
        geometry = ssd_geometry(layer[-1].conv for layer in model.neck.extra_layers)
    elif neck == "CTResNetNeck":
        geometry = transposed_geometry(m for m in model.neck.modules() if isinstance(m, nn.ConvTranspose2d))
    return _host(model, found=sample_found, **geometry)


def segmenter(model: nn.Module) -> Host:
    """Segmenters resize their scores to the image."""
    return _host(model, relative=True)


HOSTS: dict[str, Callable[[nn.Module], Host]] = {
    "mmdet.models.detectors.base.BaseDetector": detector,
    "mmseg.models.segmentors.base.BaseSegmentor": segmenter,
}
