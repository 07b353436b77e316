"""Transforms for data pipelines: what lies on an image moves with it.

`Warp`, `RandomZoom` and `ZoomToBoxes` are transforms of `torchvision.transforms.v2`; `AlbumentationsWarp` and
`KorniaWarp` are the first of these for the other two libraries. Each library is imported when its transform is first
asked for. The rest needs none: `AttentionZoom` for the images of multimodal models, videos, COCO's annotations.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastwarp.transforms.attention import AttentionZoom
from fastwarp.transforms.coco import zoom_annotations
from fastwarp.transforms.video import WarpFilter, unzoom_video, warp_jitter, zoom_video

if TYPE_CHECKING:
    from fastwarp.transforms._albumentations import AlbumentationsWarp
    from fastwarp.transforms._kornia import KorniaWarp
    from fastwarp.transforms._torchvision import RandomZoom, Warp, ZoomToBoxes

__all__ = [
    "AlbumentationsWarp",
    "AttentionZoom",
    "KorniaWarp",
    "RandomZoom",
    "Warp",
    "WarpFilter",
    "ZoomToBoxes",
    "unzoom_video",
    "warp_jitter",
    "zoom_annotations",
    "zoom_video",
]

_LIBRARIES = {
    "AlbumentationsWarp": "albumentations",
    "KorniaWarp": "kornia",
    "RandomZoom": "torchvision",
    "Warp": "torchvision",
    "ZoomToBoxes": "torchvision",
}


def __getattr__(name: str) -> Any:
    library = _LIBRARIES.get(name)
    if library is None:
        raise AttributeError(f"module 'fastwarp.transforms' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"fastwarp.transforms._{library}"), name)
    except ModuleNotFoundError as error:
        message = f"fastwarp.transforms.{name} needs {library}: pip install 'fastwarp[{library}]'"
        raise ModuleNotFoundError(f"{message} ({error})", name=error.name) from error
