"""`fastwarp demo --model NAME`: a photo through a real network with a zoom inside, and what the zoom costs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from fastwarp import viz
from fastwarp._files import shown
from fastwarp.attaching import attach, detach
from fastwarp.attaching.maps import is_map, maps_in
from fastwarp.attaching.measure import made, measure, runner, table
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
from fastwarp.demo.zoom import FWHM, LARGEST_SIDE
from fastwarp.doctor import usual_defaults
from fastwarp.saliency import box_density
from fastwarp.warp import SeparableWarp


@usual_defaults()
def run(
    model: str,
    image: Path | None = None,
    boxes: Sequence[Box] | None = None,
    size: tuple[int, int] | None = None,
    out: Path = Path("demo"),
    device: str = "auto",
    repeats: int = 5,
    threads: int = 2,
) -> Path:
    """Attaches a zoom to a network, runs it on the photo, prints the overhead and returns the path of its picture.

    Args:
        model: dotted name of what makes the network, see `fastwarp bench`; its weights are random.
        image: a photo; None takes the one of scikit-image that shows a rocket.
        boxes: (x1, y1, x2, y2) in pixels of the photo, to zoom into; None: some of the default photo, or the middle.
        size: (H', W') that the network runs at; None: half the photo, rounded up to multiples of 32.
        out: folder of the picture, made if missing.
        device: "auto", "cpu" or "cuda".
        repeats: how often a time is taken.
        threads: CPU threads for torch and fastwarp alike.

    Raises:
        FastwarpError: no such network, a framework that is not installed, a network that `attach` does not know or that
            does not take the size; a file that cannot be read or written, boxes outside the photo, no such device.
    """
    console = Console()
    photo = load_photo(image)
    height, width = photo.shape[:2]
    if boxes is None:
        boxes = PHOTO_BOXES if image is None else [(0.4 * width, 0.4 * height, 0.6 * width, 0.6 * height)]
    check_boxes(boxes, width, height)
    size = check_size(size or (_half(height), _half(width)), LARGEST_SIDE)
    picture = picture_path(out, "model.png")
    place = pick_device(device)
    busy = busy_note(threads)

    with limited_threads(threads), progress_of(console) as (progress, task), torch.no_grad():
        progress.update(task, description=f"making {shown(model)} …")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = made(model).to(place)
        source = as_tensor(photo, place)
        saliency = box_density(torch.tensor(boxes, dtype=torch.float32, device=place), (height, width))
        warp = SeparableWarp.from_saliency(saliency, FWHM)
        small = SeparableWarp.identity(device=place).zoom(source, size, antialias=True)
        call = runner(network, small)
        zoomed, sizes = _seen(network, warp, call)
        corners, pixels = torch.tensor(boxes, dtype=torch.float32), source[0].permute(1, 2, 0)
        panels: list[viz.Panel] = [
            lambda ax: viz.show_image(pixels, corners, title=f"photo, {height} × {width}", ax=ax),
            lambda ax: viz.show_saliency(pixels, saliency[0], title="saliency", ax=ax),
            lambda ax: viz.show_image(zoomed, title="what the network gets", ax=ax),
            lambda ax: viz.show_magnification(warp, (height, width), corners, title="magnification of area", ax=ax),
        ]
        write(viz.montage(panels, columns=2), picture)
        console.print(f"picture: {shown(str(picture))}", soft_wrap=True, highlight=False, markup=False)
        progress.update(task, description="taking times …")
        medians = measure(network, call, {"zoom": warp}, repeats)

    name = type(network).__name__
    lines = [
        f"{name} with random weights, on an image of {size[0]} x {size[1]}",
        f"{zoomed.shape[0]} x {zoomed.shape[1]} pixels are zoomed on the way in, maps of {sizes} unzoomed behind it",
        table(f"forward pass, median of {repeats}, {hardware(place, threads)}", medians),
        *busy,
    ]
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)
    return picture


def _half(side: int) -> int:
    """Of a side, rounded up to a multiple of 32: the strides of many networks must divide it."""
    return 32 * -(-side // 64)


def _seen(network: nn.Module, warp: SeparableWarp, call: Callable[[], Any]) -> tuple[Tensor, str]:
    """The zoomed image that the network gets, `[H, W, 3]` from 0 to 1, and the sizes of the maps that are unzoomed."""
    adapter = attach(network, warp)
    images: list[Tensor] = []
    maps: list[Tensor] = []

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        images.extend(value for value in (*args, *kwargs.values()) if is_map(value))

    def after(module: nn.Module, args: tuple, kwargs: dict, output: Any = None) -> None:
        maps.extend(maps_in((args, kwargs) if adapter.host.into else output, adapter.host.keys))

    zoom = network.get_submodule(adapter.host.zoom)
    unzoom = network.get_submodule(adapter.host.unzoom or adapter.host.zoom)
    handles = [zoom.register_forward_pre_hook(before, with_kwargs=True)]
    handles.append(unzoom.register_forward_hook(after, with_kwargs=True))
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
        detach(network)
    image = images[0][0].permute(1, 2, 0).float().cpu()
    shown_image = (image - image.amin()) / (image.amax() - image.amin()).clamp(min=1e-6)  # networks get it normalised
    return shown_image, ", ".join(f"{one.shape[2]}x{one.shape[3]}" for one in maps)
