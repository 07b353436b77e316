"""A magnifying glass: a warp that is no product of rows and columns, as a mesh, and its exact inverse.

    python examples/mesh_lens.py                                         # the photo of the demo
    python examples/mesh_lens.py --image photo.jpg --at 0.7 0.4 --times 3

`MeshWarp.from_function` takes any function from positions of the zoomed image to positions of the source. Here it is a
lens: around its centre things are shown `times` larger, towards its rim less and less so, and beyond it as they are.
Writes the image, what the lens shows, and that unzoomed again, side by side.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

import fastwarp


def lens(at: Tensor, radius: float, times: float, aspect: float) -> fastwarp.MeshWarp:
    """A round lens.

    Args:
        at: its centre (x, y), relative to the image, 0 to 1.
        radius: of its rim, relative to the height.
        times: the magnification in the middle, 1 or more.
        aspect: width of the image by its height.
    """
    stretch = torch.tensor([aspect, 1.0])  # so that the lens is round on the image

    def read(zoomed: Tensor) -> Tensor:
        share = (((zoomed - at) * stretch).norm(dim=-1, keepdim=True) / radius).clamp(max=1)
        # Distances from the centre shrink to 1 / times of what they are in the middle, and not at all at the rim, where
        # the slope is continuous. They grow from the middle to the rim in the source, too, so the mesh does not fold.
        return zoomed - (zoomed - at) * (1 - 1 / times) * (1 - share**2) ** 2

    return fastwarp.MeshWarp.from_function(read, (65, 97))


def load(path: Path | None) -> Tensor:
    """An image `[1, 3, H, W]` in [0, 1]."""
    if path is None:
        from skimage.data import rocket

        pixels = rocket()
    else:
        pixels = np.array(PIL.Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255


def main() -> None:
    """Zooms, unzooms, and writes both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a picture; none: a photo that comes with scikit-image")
    parser.add_argument("--at", type=float, nargs=2, default=(0.49, 0.5), help="x and y of the centre, 0 to 1")
    parser.add_argument("--radius", type=float, default=0.35, help="relative to the height")
    parser.add_argument("--times", type=float, default=2.5)
    parser.add_argument("--out", type=Path, default=Path("runs/lens.png"))
    options = parser.parse_args()
    if options.times < 1 or options.radius <= 0:
        parser.error("--times is at least 1 and --radius more than 0")

    image = load(options.image)
    size = image.shape[2], image.shape[3]
    warp = lens(torch.tensor(options.at), options.radius, options.times, size[1] / size[0]).check()
    zoomed = warp.zoom(image, size)
    unzoomed = warp.unzoom(zoomed)

    y, x = (torch.linspace(0, side, 65) for side in size)
    points = torch.cartesian_prod(x, y)
    back = warp.unzoom_points(warp.zoom_points(points, size, size), size, size)
    largest = warp.magnification(size).max().sqrt()  # it is of areas
    print(f"magnified by up to {largest:.2f} in each direction; {warp.report()}")
    print(f"points come back to {(back - points).abs().max():.1e} pixels")
    print(f"the image comes back to {(unzoomed - image).abs().mean():.4f} of its brightest value, on average")

    row = torch.cat([image, zoomed, unzoomed], 3)[0].permute(1, 2, 0)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray((255 * row).round().clamp(0, 255).to(torch.uint8).numpy()).save(options.out)
    print(f"picture: {options.out}")


if __name__ == "__main__":
    main()
