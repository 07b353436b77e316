"""Detects in a clip with a zoom inside torchvision's RetinaNet: each frame is zoomed to the detections of the last.

    python examples/detect_torchvision.py                        # a generated clip, random weights
    python examples/detect_torchvision.py --weights DEFAULT --clip frames/

The two lines that matter are `fastwarp.attach(...)` and the call of the model, which is as without a zoom: boxes are in
pixels of the frames. `full=True` takes the pixels of the zoom from the frame itself, before torchvision makes it small.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from data import Scenes
from torch import Tensor
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.utils import draw_bounding_boxes

import fastwarp


def frames(clip: Path | None, source: tuple[int, int], length: int) -> Iterator[Tensor]:
    """Frames `[3, H, W]` in [0, 1]: pictures of a folder, or a generated street that moves to the left."""
    if clip is not None:
        for file in sorted(p for p in clip.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg")):
            picture = PIL.Image.open(file).convert("RGB").resize(source[::-1])
            yield torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255
    else:
        street, _ = Scenes(1, source)[0]
        for t in range(length):
            yield street.roll(-4 * t, 2)


def main() -> None:
    """Detects, and writes each frame with its boxes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="DEFAULT downloads COCO's; none: random ones, whose boxes mean nothing")
    parser.add_argument("--clip", type=Path, help="a folder of pictures; none: a generated clip")
    parser.add_argument("--source", type=int, nargs=2, default=(1200, 1920), help="height and width of the frames")
    parser.add_argument("--size", type=int, nargs=2, default=(600, 960), help="height and width the network runs at")
    parser.add_argument("--length", type=int, default=4, help="of a generated clip")
    parser.add_argument("--threshold", type=float, default=0.3, help="least score of what is drawn and zoomed to")
    parser.add_argument("--out", type=Path, default=Path("runs/detect"))
    options = parser.parse_args()
    source, size = tuple(options.source), tuple(options.size)

    torch.manual_seed(0)
    sizes = {"min_size": min(size), "max_size": max(size), "score_thresh": 0.0 if options.weights is None else 0.05}
    model = retinanet_resnet50_fpn(weights=options.weights, weights_backbone=None, **sizes).eval()
    saliency = fastwarp.saliency.AdaptiveSaliency(source, threshold=options.threshold)
    fastwarp.attach(model, saliency, full=True, fwhm=10.0)

    options.out.mkdir(parents=True, exist_ok=True)
    for t, frame in enumerate(frames(options.clip, source, options.length)):
        with torch.no_grad():
            (found,) = model([frame])
        times = model.fastwarp.warp.magnification(source)[0]  # of this frame's zoom, by the last one's detections
        boxes = found["boxes"][found["scores"] >= options.threshold]
        largest = f"zoomed by up to {times.max():.2f}, at least {times.min():.2f}"
        print(f"frame {t}: {len(boxes)} boxes of {len(found['boxes'])}; {largest} times against a plain resize")
        drawn = draw_bounding_boxes((255 * frame).to(torch.uint8), boxes, width=2, colors="red")
        PIL.Image.fromarray(drawn.permute(1, 2, 0).numpy()).save(options.out / f"{t:05}.png")
    print(f"pictures: {options.out}")


if __name__ == "__main__":
    main()
