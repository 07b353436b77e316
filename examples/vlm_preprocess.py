"""Puts AttentionZoom before the image processor of a multimodal model of transformers.

    python examples/vlm_preprocess.py    # a generated scene
    python examples/vlm_preprocess.py --image photo.jpg --boxes 900 500 960 540 --out zoomed.png

Nothing is downloaded: `CLIPImageProcessor()` has CLIP's numbers, and one that you have loaded goes in its place. It
gets an image that already has its size, so that nothing is left to do but scale and normalise.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from transformers import BaseImageProcessor, CLIPImageProcessor

from fastwarp.transforms import AttentionZoom


class ZoomingProcessor:
    """An image processor behind an AttentionZoom, with the processor's size.

    Args:
        processor: of transformers; `crop_size` or `size` says what it makes of an image.
        options: of `AttentionZoom`.
    """

    def __init__(self, processor: BaseImageProcessor, **options: Any) -> None:
        size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
        self.processor, self.zoom = processor, AttentionZoom((size["height"], size["width"]), **options)

    def __call__(self, images: Any, attention: Any = None, *, boxes: Any = None, **kwargs: Any) -> Any:
        """What the processor returns of the zoomed images; takes what `AttentionZoom` takes, and what the processor
        does besides."""
        zoomed = self.zoom(images, attention, boxes=boxes)
        return self.processor(zoomed, do_resize=False, do_center_crop=False, **kwargs)

    def to_source(self, found: torch.Tensor, source_size: tuple[int, int], **what: Any) -> torch.Tensor:
        """A model's boxes `[N, 4]` in pixels of its input, in pixels of the image; `what` is the `attention` or the
        `boxes` that was zoomed to."""
        return self.zoom.warp_of(**what, image_size=source_size).unzoom_boxes(found, source_size, self.zoom.size)


def scene(height: int = 1200, width: int = 1920) -> PIL.Image.Image:
    """A large image with one small thing in it."""
    noise = np.random.default_rng(0).integers(90, 130, (height, width, 3), dtype=np.uint8)
    noise[500:540:4, 900:960] = 255
    return PIL.Image.fromarray(noise)


def main() -> None:
    """Zooms one image and reports what the processor got."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a picture; none: a generated scene")
    parser.add_argument(
        "--boxes", type=float, nargs="+", default=[900.0, 500.0, 960.0, 540.0], help="x1 y1 x2 y2 of each"
    )
    parser.add_argument("--out", type=Path, help="where the zoomed picture goes")
    options = parser.parse_args()
    if len(options.boxes) % 4:
        parser.error("--boxes takes four numbers for each box")
    image = PIL.Image.open(options.image).convert("RGB") if options.image else scene()
    boxes = torch.tensor(options.boxes).view(-1, 4)
    processor = ZoomingProcessor(CLIPImageProcessor(), min_magnification=0.3)
    pixels = processor(image, boxes=boxes, return_tensors="pt")["pixel_values"]
    source = (image.height, image.width)
    zoomed = processor.zoom.warp_of(boxes=boxes, image_size=source).zoom_boxes(boxes, source, processor.zoom.size)
    for before, after in zip(boxes.tolist(), zoomed.tolist(), strict=True):
        uniform = (before[2] - before[0]) * processor.zoom.size[1] / source[1]
        print(f"{before}: {after[2] - after[0]:.1f} pixels wide, uniformly resized {uniform:.1f}")
    back = processor.to_source(zoomed, source, boxes=boxes)
    print(f"pixel_values {tuple(pixels.shape)}; boxes come back to {(back - boxes).abs().max():.3f} pixels")
    if options.out:
        processor.zoom(image, boxes=boxes).save(options.out)


if __name__ == "__main__":
    main()
