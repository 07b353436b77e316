"""Draws the pictures of these pages into docs/images: `python docs/pictures.py`, with fastwarp[test] installed."""

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from matplotlib.figure import Figure

from fastwarp import MeshWarp, SeparableWarp, viz
from fastwarp.demo import downsize, zoom
from fastwarp.demo.common import PHOTO_BOXES, load_photo
from fastwarp.demo.zoom import FWHM
from fastwarp.functional import axis_map
from fastwarp.saliency import box_density

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"


def mesh() -> None:
    """Of docs/mesh.md: where a mesh reads the photo, the zoomed photo with the lines of the source, magnification."""
    photo, boxes = torch.from_numpy(load_photo(None)), torch.tensor(PHOTO_BOXES)
    size = (photo.shape[0], photo.shape[1])
    warp = MeshWarp.from_saliency(box_density(boxes, size), FWHM)
    small = (size[0] // 2, size[1] // 2)
    zoomed = warp.zoom(photo.permute(2, 0, 1)[None], small)[0].permute(1, 2, 0)
    panels = [
        lambda ax: viz.show_grid(photo, warp, title="where the mesh reads", ax=ax),
        lambda ax: viz.show_warp(zoomed, warp, size, boxes, title="zoomed, with the inverse's lines", ax=ax),
        lambda ax: viz.show_magnification(warp, size, boxes, title="magnification", ax=ax),
    ]
    viz.montage(panels, 3).savefig(IMAGES / "mesh.png", dpi=90)


def concepts() -> None:
    """Of docs/concepts.md: one photo through saliency, knots, T~, zoom and unzoom."""
    photo, boxes = torch.from_numpy(load_photo(None)), torch.tensor(PHOTO_BOXES, dtype=torch.float32)
    size = (photo.shape[0], photo.shape[1])
    saliency = box_density(boxes, size)
    warp = SeparableWarp.from_saliency(saliency, FWHM)
    small = (size[0] // 2, size[1] // 2)
    zoomed = warp.zoom(photo.permute(2, 0, 1)[None], small)
    back = warp.unzoom(zoomed, size)[0].permute(1, 2, 0)
    zoomed = zoomed[0].permute(1, 2, 0)
    pictures = {
        "saliency": viz.show_saliency(photo, saliency[0], boxes),
        "knots": viz.show_grid(photo, warp),
        "zoom": viz.show_image(zoomed, warp.zoom_boxes(boxes[None], size, small)[0]),
        "unzoom": viz.show_image(back, boxes),
        "warp": _curve(warp, size[1]),
    }
    (IMAGES / "concepts").mkdir(exist_ok=True)
    for name, figure in pictures.items():
        figure.savefig(IMAGES / "concepts" / f"{name}.webp", dpi=80, bbox_inches="tight", pil_kwargs={"quality": 80})


def _curve(warp: SeparableWarp, width: int) -> Figure:
    """T~ of the columns with its knots, and its inverse."""
    knots = warp.knots_x[0]
    at = torch.linspace(0, 1, len(knots))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for ax, x, y, title in ((left, at, knots, "T~: zoom reads"), (right, knots, at, "its inverse: unzoom reads")):
        ax.plot(x, y, ".-", markersize=4)
        ax.plot([0, 1], [0, 1], ":", color="grey")
        ax.set(title=title, aspect="equal")
    left.set(xlabel="column of the zoomed image", ylabel="column of the source")
    right.set(xlabel="column of the source", ylabel="column of the zoomed image")
    return figure


def video() -> None:
    """Of README.md: what examples/video.py makes of a clip in which two small things move through a photo."""
    photo = load_photo(None)[60:420]
    with tempfile.TemporaryDirectory() as folder:
        frames = [_moving(photo, t) for t in range(36)]
        for t, frame in enumerate(frames):
            PIL.Image.fromarray(frame).save(Path(folder, f"{t:03}.png"))
        command = [sys.executable, ROOT / "examples" / "video.py", "--clip", folder, "--out", folder]
        subprocess.run(command, check=True)
        clips = [_read(Path(folder, name)) for name in ("zoomed.mp4", "unzoomed.mp4")]
    shown = []
    for source, zoomed, unzoomed in zip(frames, *clips, strict=True):
        parts = [PIL.Image.fromarray(part).resize((320, 180)) for part in (source, zoomed, unzoomed)]
        shown.append(PIL.Image.new("RGB", (976, 180), "white"))
        for i, part in enumerate(parts):
            shown[-1].paste(part, (328 * i, 0))
    options = {"save_all": True, "append_images": shown[7:], "duration": 80, "loop": 0, "quality": 55, "method": 6}
    shown[6].save(IMAGES / "video.webp", **options)  # the mean that motion is seen against needs some frames


def _moving(photo: np.ndarray, t: int) -> np.ndarray:
    frame = (photo * 255).astype(np.uint8) if photo.dtype != np.uint8 else photo.copy()
    y, x = np.mgrid[: frame.shape[0], : frame.shape[1]]
    for start, speed, row, colour in ((60, 7, 300, (250, 60, 40)), (560, -5, 60, (60, 200, 250))):
        distance = np.hypot(x - start - speed * t, y - row)
        frame[distance < 9] = colour
        frame[distance < 4] = 255
    return frame


def _read(clip: Path) -> list[np.ndarray]:
    reader, frames = cv2.VideoCapture(str(clip)), []
    while (grabbed := reader.read())[0]:
        frames.append(grabbed[1][:, :, ::-1].copy())
    return frames


def registration() -> None:
    """Of docs/registration.md: the error of each cell of stride 32, by the map's own grid and registered."""
    size, stride = (600, 960), 32
    boxes = torch.tensor(PHOTO_BOXES) * torch.tensor([1.5, 1.25] * 2)  # from the demo's 640 x 480
    warp = SeparableWarp.from_saliency(box_density(boxes, size), FWHM).to(dtype=torch.float64)
    y, x = torch.meshgrid(*(torch.arange(0, n, stride, dtype=torch.float64) for n in size), indexing="ij")
    seen = torch.stack([x, y])[None]  # of each cell of the zoomed map: its place in the zoomed image
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    for ax, title, options in zip(
        axes, ("by the map's own grid", "registered"), ({}, {"image_size": size}), strict=True
    ):
        read = warp.unzoom(seen, **options)[0]
        knots = zip(read, (warp.knots_x, warp.knots_y), size[::-1], strict=True)
        found = [axis_map(k, r.reshape(1, -1) / (n - 1)).view(r.shape) * (n - 1) for r, k, n in knots]
        away = (torch.stack(found) - seen[0]).norm(dim=0)
        shown = ax.pcolormesh(x, y, away, vmin=0, vmax=16, cmap="magma_r")
        ax.set(title=f"{title}: mean {away.mean():.1f} px, largest {away.max():.1f} px", aspect="equal")
        ax.invert_yaxis()
    figure.colorbar(shown, ax=axes, label="error in source pixels")
    figure.suptitle("How far from its own place each cell of stride 32 reads the source, 600 x 960")
    figure.savefig(IMAGES / "registration.png", dpi=90)


if __name__ == "__main__":
    mesh()
    concepts()
    video()
    registration()
    zoom.run(out=IMAGES)
    downsize.run(out=IMAGES)
