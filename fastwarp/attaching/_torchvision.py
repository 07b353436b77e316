"""Hosts of torchvision: detectors tell sizes and targets behind their transform, segmenters tell nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from fastwarp.attaching.host import Facts, Host


def relative(boxes: Tensor, size: Any) -> Tensor:
    """Boxes in the pixels of an image of `size`, (height, width) first, as shares of it."""
    return boxes / boxes.new_tensor([size[1], size[0], size[1], size[0]])


def detector_facts(module: Any, args: tuple, kwargs: dict, output: Any) -> Facts:
    """What a detector's transform made of its images and targets."""
    images, targets = output
    originals = args[0] if args else kwargs["images"]
    boxes = None
    if targets is not None:
        boxes = [relative(t["boxes"], size) for t, size in zip(targets, images.image_sizes, strict=True)]
    return Facts(images.image_sizes, boxes, source=lambda: [module.normalize(image) for image in originals])


def detector_found(output: Any, args: tuple, kwargs: dict) -> Any:
    """Detections are in the pixels of the images that the detector was called with."""
    images = args[0] if args else kwargs["images"]
    boxes = [relative(one["boxes"], image.shape[-2:]) for one, image in zip(output, images, strict=True)]
    return boxes, [one["scores"] for one in output]


def detector(model: nn.Module, **options: Any) -> Host:
    """RetinaNet, FCOS, Faster and Mask R-CNN: odd convolutions throughout, anchors and points in pixels."""
    facts: dict[str, Any] = {"facts": detector_facts, "facts_at": "transform", "after": True, "found": detector_found}
    return Host("backbone", "backbone", **facts, **options)


def ssd_geometry(convolutions: Iterable[Any]) -> dict[str, Any]:
    """Strides and phases of an SSD: the poolings of its VGG halve by even windows, and some of its last convolutions
    have no padding.

    Args:
        convolutions: those that make a level each of the one before, from the third level on.
    """
    strides, offsets = [8, 16], [3.5, 7.5]
    for convolution in convolutions:
        kernel, stride, padding = convolution.kernel_size[0], convolution.stride[0], convolution.padding[0]
        offsets.append(offsets[-1] + strides[-1] * ((kernel - 1) / 2 - padding))
        strides.append(strides[-1] * stride)
    phases = (offset / (stride - 1) for offset, stride in zip(offsets, strides, strict=True))
    return {"strides": tuple(strides), "phase": tuple(phases)}


def ssd(model: Any) -> Host:
    """SSD, with a VGG or with MobileNet's odd convolutions."""
    if type(model.backbone).__name__ != "SSDFeatureExtractorVGG":
        return detector(model)
    return detector(model, **ssd_geometry(block[2] for block in model.backbone.extra[1:]))


def segmenter(model: nn.Module) -> Host:
    """FCN, DeepLabV3 and LR-ASPP resize their scores to the image."""
    return Host("backbone", "backbone", relative=True)


HOSTS: dict[str, Callable[[nn.Module], Host]] = {
    "torchvision.models.detection.retinanet.RetinaNet": detector,
    "torchvision.models.detection.fcos.FCOS": detector,
    "torchvision.models.detection.generalized_rcnn.GeneralizedRCNN": detector,
    "torchvision.models.detection.ssd.SSD": ssd,
    "torchvision.models.segmentation.deeplabv3.DeepLabV3": segmenter,
    "torchvision.models.segmentation.fcn.FCN": segmenter,
    "torchvision.models.segmentation.lraspp.LRASPP": segmenter,
}
