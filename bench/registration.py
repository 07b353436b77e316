"""How far from its place the content of a cell comes back: `python bench/registration.py`.

A picture of its own coordinates, 600 x 960, is zoomed by the warp of the demo's boxes, sent through convolutions of
stride 2 (or patches of 2 x 2), and unzoomed. What then is in a cell is the source position that it shows, and the
cell's own position is known: the distance of the two is the error, in source pixels.

It is measured for unzooms by each map's own grid, as in the paper and without `image_size=`, and for registered ones.
"through the network" has all cells. "of the place read" leaves out what interpolation between cells loses of a curved
warp, and cells whose place is beyond the outermost cells of the zoomed map, where there is nothing to read.

Writes bench/results/registration.json. Nothing is timed.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastwarp
from fastwarp import SeparableWarp
from fastwarp.demo.common import PHOTO_BOXES
from fastwarp.demo.zoom import FWHM
from fastwarp.functional import axis_map
from fastwarp.saliency import box_density

SIZE = (600, 960)
STRIDES = (8, 16, 32, 64, 128)
DEMO_SIZE = (480, 640)
RESULTS = Path(__file__).parent / "results" / "registration.json"


def coordinates(size: tuple[int, int]) -> Tensor:
    """`[1, 2, H, W]`: each pixel has its own x and y."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in size), indexing="ij")
    return torch.stack([x, y])[None]


def network(image: Tensor, phase: float) -> list[Tensor]:
    """Maps at strides 8 to 128 by seven blurs of stride 2. Cell j is the mean of a surrounding of pixel `s j` for phase
    0, of `s j + (s - 1) / 2` for phase 0.5. Padding continues linearly, so that borders do not move centres."""
    kernel, before = (torch.tensor([1.0, 2.0, 1.0]) / 4, 1) if phase == 0 else (torch.ones(2) / 2, 0)
    weight = (kernel[:, None] * kernel)[None, None].double()
    image, levels = image.transpose(0, 1), []
    for _ in range(7):
        for _ in range(2):  # rows, then columns
            first, last = 2 * image[:, :, :1] - image[:, :, 1:2], 2 * image[:, :, -1:] - image[:, :, -2:-1]
            image = torch.cat([first, image, last][1 - before :], 2).mT
        image = torch.nn.functional.conv2d(image, weight, stride=2)
        levels.append(image.transpose(0, 1))
    return levels[2:]


def errors(found: Tensor, stride: int, phase: float) -> Tensor:
    """Distance `[h, w]` in pixels between what cells have and where they are."""
    return (found - (coordinates(found.shape[2:]) * stride + phase * (stride - 1))).norm(dim=1)[0]


def measure(phase: float) -> list[dict[str, Any]]:
    """A row for each stride."""
    scale = torch.tensor([SIZE[1] / DEMO_SIZE[1], SIZE[0] / DEMO_SIZE[0]] * 2)
    warp = SeparableWarp.from_saliency(box_density(torch.tensor(PHOTO_BOXES) * scale, SIZE), FWHM)
    warp = warp.to(dtype=torch.float64)
    through = network(warp.zoom(coordinates(SIZE), SIZE), phase)
    places = network(coordinates(SIZE), phase)  # zoomed positions of the cells
    rows = []
    for stride, level, place in zip(STRIDES, through, places, strict=True):
        row: dict[str, Any] = {"stride": stride, "size": list(level.shape[2:]), "phase": phase}
        first, last = place.amin((2, 3), keepdim=True), place.amax((2, 3), keepdim=True)
        for name, options in (("own grid", {}), ("registered", {"image_size": SIZE, "phase": phase})):
            seen = errors(warp.unzoom(level, **options), stride, phase)
            read = warp.unzoom(place, **options)  # a map of places is linear between cells: nothing is lost
            between = ((read > first) & (read < last)).all(1)[0]
            axes = zip((warp.knots_x, warp.knots_y), read[0], SIZE[::-1], strict=True)
            source = [axis_map(k, r.reshape(1, -1) / (n - 1)).view(r.shape) * (n - 1) for k, r, n in axes]
            exact = errors(torch.stack(source)[None], stride, phase)[between]
            row[name] = {
                "through the network": {"mean": seen.mean().item(), "max": seen.max().item()},
                "of the place read": {"mean": exact.mean().item(), "max": exact.max().item()},
            }
        rows.append(row)
    return rows


def main() -> None:
    versions = {"fastwarp": fastwarp.__version__, "torch": torch.__version__, "python": platform.python_version()}
    rows = [row for phase in (0.0, 0.5) for row in measure(phase)]
    result = {"unit": "source pixels", "image": list(SIZE), "versions": versions, "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        numbers = [f"{v:9.2g}" for n in ("own grid", "registered") for k in row[n].values() for v in k.values()]
        print(f"phase {row['phase']} stride {row['stride']:4}", *numbers)


if __name__ == "__main__":
    main()
