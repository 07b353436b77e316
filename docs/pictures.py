"""Draws the pictures of these pages into docs/images: `python docs/pictures.py`, with fastwarp[demo] installed."""

from pathlib import Path

import torch

from fastwarp import MeshWarp, demo, demo_downsize, viz
from fastwarp.demo import FWHM, PHOTO_BOXES, load_photo
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


if __name__ == "__main__":
    mesh()
    demo.run(out=IMAGES)
    demo_downsize.run(out=IMAGES)
