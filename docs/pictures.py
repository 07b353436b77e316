"""Draws the pictures of these pages into docs/images: `python docs/pictures.py`, with fastwarp[demo] installed."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from fastwarp import MeshWarp, SeparableWarp, viz
from fastwarp.demo import downsize, zoom
from fastwarp.demo.common import PHOTO_BOXES, load_photo
from fastwarp.demo.zoom import FWHM
from fastwarp.functional import axis_map
from fastwarp.saliency import box_density

IMAGES = Path(__file__).parent / "images"


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
    registration()
    zoom.run(out=IMAGES)
    downsize.run(out=IMAGES)
