"""`fastwarp demo`: a photo through saliency, warp, zoom, a feature pyramid, unzoom and back, beside plain torch."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from fastwarp import viz
from fastwarp._backend import backend_for
from fastwarp._files import shown
from fastwarp.demo.common import (
    PHOTO_BOXES,
    Box,
    as_tensor,
    busy_note,
    check_boxes,
    check_size,
    hardware,
    limited_threads,
    load_photo,
    pick_device,
    picture_path,
    progress_of,
    write,
)
from fastwarp.demo.timing import Steps, Timing
from fastwarp.doctor import usual_defaults, versions
from fastwarp.saliency import box_density
from fastwarp.warp import MeshWarp, SeparableWarp

FWHM = 10.0
"""Of the adaptive warp in LZU A.6; its other settings are the defaults of `box_density`."""

LARGEST_SIDE = 8192

LATTICE = 256
"""Cells on a side of the lattice whose points go there and back."""

WARPS: dict[str, type[SeparableWarp] | type[MeshWarp]] = {"separable": SeparableWarp, "mesh": MeshWarp}


class Pyramid(nn.Module):
    """A small convolutional backbone with a feature pyramid: 256 channels at strides 8, 16, 32, 64 and 128.

    Every stride is a 3x3 convolution of stride 2, which rounds sizes up: the levels have the sizes detectors give them.
    """

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        widths = (3, 32, 64, 128, 128, 128)
        self.stages = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in itertools.pairwise(widths))
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths[3:])
        self.coarse = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(2))

    def forward(self, image: Tensor) -> list[Tensor]:
        """`[B, 3, H, W]` -> five levels `[B, channels, ceil(H / stride), ceil(W / stride)]`, finest first."""
        stages = []
        for stage in self.stages:
            image = torch.relu(stage(image))
            stages.append(image)
        levels = [lateral(stage) for lateral, stage in zip(self.lateral, stages[2:], strict=True)]
        for i in (1, 0):
            levels[i] = levels[i] + F.interpolate(levels[i + 1], levels[i].shape[2:])
        for coarse in self.coarse:
            levels.append(coarse(levels[-1]))
        return levels


class Journey(NamedTuple):
    """What became of the photo, all for batch 1."""

    photo: Tensor
    boxes: Tensor
    saliency: Tensor
    warp: SeparableWarp | MeshWarp
    zoomed: Tensor
    levels: list[Tensor]
    unzoomed_levels: list[Tensor]
    restored: Tensor
    restored_uniform: Tensor

    @property
    def source_size(self) -> tuple[int, int]:
        """(H, W) of the photo."""
        return self.photo.shape[2], self.photo.shape[3]

    @property
    def size(self) -> tuple[int, int]:
        """(H', W') of the zoomed photo."""
        return self.zoomed.shape[2], self.zoomed.shape[3]


@usual_defaults()
def run(
    image: Path | None = None,
    boxes: Sequence[Box] | None = None,
    size: tuple[int, int] | None = None,
    out: Path = Path("demo"),
    warp: str = "separable",
    device: str = "auto",
    repeats: int = 20,
    threads: int = 2,
) -> Path:
    """Runs the demo, prints its report and returns the path of its picture.

    Args:
        image: a photo; None takes the one of scikit-image that shows a rocket (in the public domain).
        boxes: (x1, y1, x2, y2) in pixels of the photo; None: some of the default photo, or the middle of another one.
        size: (H', W') of the zoomed photo; None: half the photo, rounded up.
        out: folder of the picture, made if missing.
        warp: "separable" or "mesh".
        device: "auto", "cpu" or "cuda".
        repeats: how often a time is taken.
        threads: CPU threads for torch and fastwarp alike.

    Raises:
        FastwarpError: a file that cannot be read or written, boxes outside the photo, a bad size, no such device.
    """
    console = Console()
    photo = load_photo(image)
    height, width = photo.shape[:2]
    if boxes is None:
        boxes = PHOTO_BOXES if image is None else [(0.4 * width, 0.4 * height, 0.6 * width, 0.6 * height)]
    check_boxes(boxes, width, height)
    size = check_size(size or (-(-height // 2), -(-width // 2)), LARGEST_SIDE)
    picture = picture_path(out, "demo.png")
    place = pick_device(device)
    busy = busy_note(threads)

    with limited_threads(threads), progress_of(console) as (progress, task):
        journey = travel(photo, boxes, size, place, warp)
        draw(journey, picture)  # before the times, whose kernels take longer to compile
        console.print(f"picture: {shown(str(picture))}", soft_wrap=True, highlight=False, markup=False)
        steps = Steps(journey.saliency, journey.photo, journey.levels, size, FWHM, WARPS[warp])
        steps.check()
        timings = []
        for timing in steps.time(repeats):
            timings.append(timing)
            progress.update(task, description=f"timed: {timing.step}, {timing.direction}")

    name = shown(image.name) if image else "rocket (scikit-image)"
    report(console, journey, timings, name, f"median of {repeats}, {hardware(place, threads)}")
    for note in busy:
        console.print(note, soft_wrap=True, highlight=False)
    return picture


def travel(
    photo: np.ndarray, boxes: Sequence[Box], size: tuple[int, int], device: torch.device, kind: str = "separable"
) -> Journey:
    """Photo -> saliency -> warp -> zoom -> pyramid -> unzoom, and a uniformly resized photo for comparison."""
    image = as_tensor(photo, device)
    source_size = photo.shape[0], photo.shape[1]
    corners = torch.tensor(boxes, dtype=torch.float32, device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Pyramid().to(device)
    with torch.no_grad():
        saliency = box_density(corners, source_size)
        warp = WARPS[kind].from_saliency(saliency, FWHM)
        zoomed = warp.zoom(image, size)
        levels = backbone(zoomed)
        uniform = SeparableWarp.identity(device=device)
        return Journey(
            photo=image,
            boxes=corners,
            saliency=saliency,
            warp=warp,
            zoomed=zoomed,
            levels=levels,
            unzoomed_levels=warp.unzoom(levels),
            restored=warp.unzoom(zoomed, source_size),
            restored_uniform=uniform.unzoom(uniform.zoom(image, size), source_size),
        )


def draw(journey: Journey, path: Path) -> None:
    """Writes the picture: six panels that follow the photo through the warp."""
    photo, inside = journey.photo[0].permute(1, 2, 0), boxes_mask(journey)
    error, uniform = (
        restoration_error(journey, x)[inside].mean() for x in (journey.restored, journey.restored_uniform)
    )
    note = f", in the boxes {error:.3f} (uniform {uniform:.3f})"
    figure = viz.show_before_after(photo, journey.warp, journey.size, journey.boxes, journey.saliency[0], note=note)
    write(figure, path)


def boxes_mask(journey: Journey) -> Tensor:
    """Which pixels of the photo have their centre in a box, `[H, W]`."""
    y, x = (torch.arange(side, device=journey.boxes.device) + 0.5 for side in journey.source_size)
    x1, y1, x2, y2 = (corner[:, None, None] for corner in journey.boxes.T)
    return ((x1 <= x) & (x < x2) & (y1 <= y[:, None]) & (y[:, None] < y2)).any(0)


def restoration_error(journey: Journey, restored: Tensor) -> Tensor:
    """Absolute difference from the photo `[H, W]`, mean over the channels, in units of the brightest value."""
    return (restored - journey.photo).abs().mean((0, 1))


def round_trip_errors(journey: Journey) -> tuple[float, float]:
    """Largest error in pixels of the boxes' corners there and back, and of T~(T~^-1(x)) = x on a lattice of points."""
    warp, source, size = journey.warp, journey.source_size, journey.size
    x1, y1, x2, y2 = journey.boxes.T
    corners = torch.stack([x1, y1, x2, y1, x2, y2, x1, y2], 1).reshape(-1, 2)
    y, x = (torch.linspace(0, side, min(side, LATTICE) + 1, device=corners.device) for side in source)
    lattice = torch.cartesian_prod(x, y)
    errors = []
    for points in (corners, lattice):
        back = warp.unzoom_points(warp.zoom_points(points, source, size), source, size)
        errors.append((back - points).abs().max().item())
    return errors[0], errors[1]


def report(console: Console, journey: Journey, timings: Sequence[Timing], photo: str, conditions: str) -> None:
    """Prints what was done, the table of times and the errors."""
    device = journey.photo.device
    inside = boxes_mask(journey)
    restored, uniform = (
        restoration_error(journey, x)[inside].mean().item() for x in (journey.restored, journey.restored_uniform)
    )
    boxes, identity = round_trip_errors(journey)
    levels = ", ".join(f"{level.shape[2]}x{level.shape[3]}" for level in journey.levels)
    magnification = journey.warp.magnification(journey.source_size)[0][inside].mean().item()
    (height, width), (small_height, small_width) = journey.source_size, journey.size
    lines = [
        f"photo {photo}: {height} x {width}, {len(journey.boxes)} boxes, zoomed to {small_height} x {small_width}",
        f"pyramid of {journey.levels[0].shape[1]} channels: {levels}",
        f"backend {backend_for(device)} on {device.type}",
        ", ".join(f"{name} {version}" for name, version in versions().items() if version),
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)

    table = Table(title=f"milliseconds, float32, batch 1, {conditions}", title_justify="left")
    for heading in ("step", "direction", "fastwarp", "plain torch", "ratio"):
        table.add_column(heading, justify="left" if heading in ("step", "direction") else "right")
    for step, direction, ours, plain in timings:
        table.add_row(step, direction, f"{ours:.3f}", f"{plain:.3f}", f"{plain / ours:.1f}x")
        if direction == "backward":
            table.add_section()
    console.print(table)

    lines = [
        f"boxes there and back: at most {boxes:.1e} px; T~(T~^-1(x)) - x: at most {identity:.1e} px",
        f"area of the boxes: x{magnification:.2f} against uniform resizing to the same size",
        f"error of the unzoomed photo in the boxes: {restored:.4f}, by uniform resizing {uniform:.4f}",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
