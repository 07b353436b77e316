"""What the demos share: the photo, checks of their arguments, their progress line, and writing the picture."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from torch import Tensor

from fastwarp import _compiling
from fastwarp._files import size_of, unreadable, write_whole
from fastwarp.errors import FastwarpError

LARGEST_PHOTO = 1 << 26
"""Pixels of a photo: a small file may claim any number."""

Box = tuple[float, float, float, float]

PHOTO_BOXES: list[Box] = [(138, 364, 164, 390), (180, 382, 208, 410), (350, 384, 378, 412), (420, 382, 446, 408)]
"""In the default photo: four lamps near the horizon."""


@contextlib.contextmanager
def progress_of(console: Console) -> Iterator[tuple[Progress, TaskID]]:
    """A line that says what is being done, and which kernel is being compiled; on terminals only."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading the photo …", total=None)

        def compiling(kernel: str, seconds: float | None) -> None:
            progress.update(task, description=f"compiling {kernel} (once in an installation) …")

        with _compiling.observed(compiling):
            yield progress, task


def hardware(device: torch.device, threads: int) -> str:
    """What times are taken on."""
    return f"{threads} CPU threads" if device.type == "cpu" else torch.cuda.get_device_name(device)


def busy_note(threads: int) -> list[str]:
    """A line that warns of the times if other programs leave fewer than `threads` cores.

    It is torch that would be wronged: its OpenMP threads wait for each other, so that each parallel operator takes a
    time slice (10 ms and more) once a thread has lost its core.
    """
    load, cores = (os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0), os.cpu_count() or 1
    if load + threads <= cores:
        return []
    return [f"note: other programs are busy (load {load:.1f} on {cores} cores): CPU times, torch's above all, are off"]


@contextlib.contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Lets torch and fastwarp use `threads` CPU threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def load_photo(path: Path | None) -> np.ndarray:
    """The photo at `path`, or the default one, as `[H, W, 3]` uint8.

    Raises:
        FastwarpError: there is no image that Pillow can read, or it is thinner than two pixels.
    """
    if path is None:
        from skimage.data import rocket

        return rocket().copy()  # torch warns of arrays that cannot be written to
    size_of(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                if file.width * file.height > LARGEST_PHOTO:
                    raise FastwarpError(
                        f"{path} has {file.width} x {file.height} pixels, expected at most {LARGEST_PHOTO} in all"
                    )
                if file.mode.startswith(("I", "F")):  # Pillow would cut them off at 255
                    raise FastwarpError(f"{path} has pixels of mode {file.mode}, expected channels of 8 bits")
                photo = np.array(ImageOps.exif_transpose(file).convert("RGB"))
    except FastwarpError:
        raise
    except UnidentifiedImageError:
        raise FastwarpError(f"{path} is not an image that Pillow can read") from None
    except Exception as error:  # Pillow has many for broken files
        raise unreadable(path, error) from None
    if min(photo.shape[:2]) < 2:
        raise FastwarpError(f"{path} has {photo.shape[1]} x {photo.shape[0]} pixels, at least 2 x 2 are needed")
    return photo


def check_boxes(boxes: Sequence[Box], width: int, height: int) -> None:
    """Raises FastwarpError unless every box lies inside the photo and has an area."""
    for box in boxes:
        x1, y1, x2, y2 = box
        text = ",".join(f"{value:g}" for value in box)
        if not (x1 < x2 and y1 < y2):
            raise FastwarpError(f"box {text} has no area: x1,y1,x2,y2 with x1 < x2 and y1 < y2 is expected")
        if x1 < 0 or y1 < 0 or x2 > width or y2 > height:
            raise FastwarpError(f"box {text} lies outside the picture, which is {width} pixels wide and {height} high")


def check_size(size: tuple[int, int], largest: int) -> tuple[int, int]:
    """`size`, or FastwarpError if a side is not in 1 .. largest."""
    if min(size) < 1 or max(size) > largest:
        raise FastwarpError(f"size is {size[0]} {size[1]}, expected a height and a width from 1 to {largest}")
    return size


def picture_path(out: Path, name: str) -> Path:
    """Where the picture `name` goes, in a folder that exists and can be written to when this returns."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FastwarpError(f"cannot make the folder {out}: {error.strerror or error}") from None
    if not os.access(out, os.W_OK | os.X_OK):
        raise FastwarpError(f"cannot write to the folder {out}: permission denied")
    return out / name


def pick_device(device: str) -> torch.device:
    """The device for "auto", "cpu" or "cuda"."""
    if device == "cuda" and not torch.cuda.is_available():
        raise FastwarpError("device cuda: torch sees no GPU")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def as_tensor(photo: np.ndarray, device: torch.device) -> Tensor:
    """`[H, W, 3]` uint8 -> `[1, 3, H, W]` in [0, 1]."""
    return torch.from_numpy(photo).to(device).permute(2, 0, 1)[None].float().contiguous() / 255


def write(figure: Any, path: Path) -> None:
    """Writes a picture.

    Raises:
        FastwarpError: it cannot be written.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_whole({path: buffer.getvalue()})
