"""Zooms a video to what moves in it, and unzooms it again.

    python examples/video.py                                   # a generated clip, to runs/video/
    python examples/video.py --clip clip.mp4 --out zoomed      # a file, by OpenCV
    python examples/video.py --clip frames/ --out zoomed       # a folder of pictures, by Pillow

Boxes are the cells of a grid in which a frame differs from a running mean of those before it. The saliency is their
density; the warp follows it through a filter that keeps it from trembling. Writes the zoomed and the unzoomed clip, as
.mp4 where OpenCV is installed, else as folders of pictures, and prints how far warps move from frame to frame, with and
without the filter.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastwarp import SeparableWarp
from fastwarp.saliency import box_knots
from fastwarp.transforms import WarpFilter, warp_jitter

CELL = 32  # pixels


def generated(length: int = 60, height: int = 360, width: int = 640) -> Iterator[np.ndarray]:
    """Two small squares that move over a textured street, with the noise of a camera."""
    noise = np.random.default_rng(0)
    street = np.kron(noise.integers(60, 120, (height // 8, width // 8, 3)), np.ones((8, 8, 1)))
    for t in range(length):
        frame = street + noise.normal(0, 2, street.shape)
        for speed, row, colour in ((7, 180, (230, 40, 40)), (-4, 250, (40, 40, 230))):
            x = (100 * abs(speed) + speed * t) % (width - 24)
            frame[row : row + 16, x : x + 24] = colour
        yield frame.clip(0, 255).astype(np.uint8)


def read(clip: Path | None) -> Iterator[np.ndarray]:
    """Frames `[H, W, 3]`, RGB, uint8."""
    if clip is None:
        yield from generated()
    elif clip.is_dir():
        import PIL.Image

        for file in sorted(p for p in clip.iterdir() if p.suffix.lower() in (".png", ".jpg", ".jpeg")):
            yield np.array(PIL.Image.open(file).convert("RGB"))
    elif clip.is_file():
        import cv2

        video = cv2.VideoCapture(str(clip))
        while (grabbed := video.read())[0]:
            yield grabbed[1][:, :, ::-1].copy()


def moving_boxes(frames: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Each frame with the boxes `[N, 4]` of the cells that differ from the mean of the frames before it."""
    mean = None
    for frame in frames:
        grey = torch.from_numpy(frame).float().mean(2)
        mean = grey if mean is None else mean
        changed = torch.nn.functional.avg_pool2d((grey - mean).abs()[None], CELL, ceil_mode=True)[0]
        mean = mean + 0.1 * (grey - mean)
        y, x = (CELL * index for index in (changed > 2 * changed.median() + 2).nonzero().unbind(1))
        yield frame, torch.stack([x, y, x + CELL, y + CELL], 1).float()


def write(frames: list[Tensor], out: Path) -> Path:
    """Frames `[1, 3, H, W]`, uint8."""
    images = [frame[0].permute(1, 2, 0).numpy() for frame in frames]
    try:
        import cv2
    except ModuleNotFoundError:
        import PIL.Image

        out.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            PIL.Image.fromarray(image).save(out / f"{i:05}.png")
        return out
    out = out.with_suffix(".mp4")
    height, width = images[0].shape[:2]
    video = cv2.VideoWriter(str(out), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, (width, height))
    for image in images:
        video.write(np.ascontiguousarray(image[:, :, ::-1]))
    video.release()
    return out


def main() -> None:
    """Reads, zooms, unzooms, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, help="a video file or a folder of pictures; none: a generated clip")
    parser.add_argument("--out", type=Path, default=Path("runs/video"))
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="of the zoomed clip; a half")
    options = parser.parse_args()
    warps: list[SeparableWarp] = []
    smooth, zoomed, unzoomed, follow = [], [], [], None
    for frame, boxes in moving_boxes(read(options.clip)):
        source = frame.shape[:2]
        size = tuple(options.size or (source[0] // 2, source[1] // 2))
        follow = follow or WarpFilter(source, alpha=0.2, start=source[1] / 60, stop=source[1] / 300)
        warps.append(SeparableWarp(*box_knots(boxes, source, bandwidth=64 * source[0] / 1200, fwhm=10.0)))
        smooth.append(follow(warps[-1]))
        zoomed.append(smooth[-1].zoom(torch.from_numpy(frame).permute(2, 0, 1)[None], size, antialias=True))
        unzoomed.append(smooth[-1].unzoom(zoomed[-1], source))
    if not zoomed:
        parser.error(f"no frames in {options.clip}")
    options.out.mkdir(parents=True, exist_ok=True)
    print(write(zoomed, options.out / "zoomed"), write(unzoomed, options.out / "unzoomed"))
    for name, some in (("unfiltered", warps), ("filtered", smooth)):
        print(f"{name}: {warp_jitter(SeparableWarp.cat(some), source, size).mean():.2f} px a frame")


if __name__ == "__main__":
    main()
