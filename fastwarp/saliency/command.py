"""`fastwarp saliency`: data sets to priors, and what a prior holds."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fastwarp import viz
from fastwarp._files import shown, unwritable, write_whole
from fastwarp.errors import FastwarpError
from fastwarp.saliency._records import Progress as Report
from fastwarp.saliency.files import Prior, load_prior, prior_bytes, prior_path

SHADES = " .:-=+*#%@"
WIDEST = 64
"""Characters in a line of a map."""


def make(arguments: argparse.Namespace) -> int:
    """`fastwarp saliency coco`, `cityscapes` and `nuscenes`: writes a prior and its picture, both or neither."""
    out = _target(prior_path(arguments.out))
    plot = _picture(arguments.plot)
    with _bar(f"reading {arguments.kind}") as progress:
        prior = {"coco": _coco, "cityscapes": _cityscapes, "nuscenes": _nuscenes}[arguments.kind](arguments, progress)
    pictures = {} if plot is None else {plot: _drawn(prior, plot)}
    write_whole({out: prior_bytes(prior, out)} | pictures)
    _print([f"{out}: {_summary(prior)}"])
    return 0


def show(arguments: argparse.Namespace) -> int:
    """`fastwarp saliency show`: prints the settings and the map, and draws a picture if asked to."""
    plot = _picture(arguments.plot)
    prior = load_prior(arguments.file)
    if plot is not None:
        write_whole({plot: _drawn(prior, plot)})
    lines = [f"{arguments.file}: {_summary(prior)}"]
    lines += [
        f"{key}: {value if isinstance(value, str) else json.dumps(value)}" for key, value in prior.settings.items()
    ]
    lines += ["", *_shaded(prior)]
    _print(lines)
    return 0


def _coco(arguments: argparse.Namespace, progress: Report) -> Prior:
    from fastwarp.saliency.coco import coco_prior

    return coco_prior(
        arguments.file,
        tuple(arguments.shape),
        arguments.amplitude,
        arguments.bandwidth,
        categories=arguments.category,
        image_size=tuple(arguments.image_size) if arguments.image_size else None,
        clip=arguments.clip,
        progress=progress,
    )


def _cityscapes(arguments: argparse.Namespace, progress: Report) -> Prior:
    from fastwarp.saliency.cityscapes import cityscapes_prior

    return cityscapes_prior(
        arguments.folder,
        tuple(arguments.shape),
        arguments.edge,
        arguments.background,
        split=arguments.split,
        progress=progress,
    )


def _nuscenes(arguments: argparse.Namespace, progress: Report) -> Prior:
    from fastwarp.saliency.nuscenes import nuscenes_prior

    return nuscenes_prior(
        arguments.folder,
        arguments.version,
        tuple(arguments.shape),
        arguments.amplitude,
        arguments.bandwidth,
        cameras=arguments.camera,
        categories=arguments.category,
        progress=progress,
    )


@contextlib.contextmanager
def _bar(title: str) -> Iterator[Report]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(lines: list[str]) -> None:
    sys.stdout.write("\n".join([*map(shown, lines), ""]))


def _target(path: Path) -> Path:
    # Before hours of reading, not after.
    try:
        if not path.parent.is_dir():
            raise FastwarpError(f"cannot write {path}: there is no folder {path.parent}")
        if path.is_dir():
            raise FastwarpError(f"cannot write {path}: it is a folder")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise FastwarpError(f"cannot write {path}: {path.parent} must not be written to")
    except OSError as error:  # a name that is too long
        raise unwritable(path, error) from None
    return path


def _picture(path: Path | None) -> Path | None:
    if path is None:
        return None
    formats = viz.formats()
    if path.suffix[1:].lower() not in formats:
        raise FastwarpError(f"{path} does not end in a format of pictures: {', '.join(formats)}")
    return _target(path)


def _drawn(prior: Prior, path: Path) -> bytes:
    """The picture of a prior, in the format that the ending says."""
    figure = viz.show_saliency(_image_size(prior), prior.saliency, title=_summary(prior))
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix[1:].lower(), dpi=150)
    return buffer.getvalue()


def _image_size(prior: Prior) -> tuple[int, int]:
    """Of the data set's images; of the map, if its settings are not a reader's."""
    size = prior.settings.get("image_size")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        return prior.saliency.shape[0], prior.saliency.shape[1]
    if 2 <= min(size) <= max(size) <= min(100 * min(size), 1_000_000):
        return size[0], size[1]
    return prior.saliency.shape[0], prior.saliency.shape[1]


def _summary(prior: Prior) -> str:
    text = f"{prior.saliency.shape[0]} x {prior.saliency.shape[1]} cells"
    images, boxes = (prior.settings.get(key) for key in ("images", "boxes"))
    if isinstance(images, int):
        text += f", mean of {images} images" + (f" with {boxes} boxes" if isinstance(boxes, int) else "")
    return text


def _shaded(prior: Prior) -> list[str]:
    """The map in characters, which are about twice as high as they are wide."""
    values = prior.saliency.double()
    height, width = _image_size(prior)
    columns = min(WIDEST, 2 * values.shape[1])
    rows = min(max(2, round(columns * height / width / 2)), 4 * WIDEST)
    small = F.interpolate(values[None, None], (rows, columns), mode="bilinear", align_corners=True)[0, 0]
    levels = (small / (small.max() or 1.0) * (len(SHADES) - 1)).round().int()
    return ["|" + "".join(SHADES[level] for level in row) + "|" for row in levels.tolist()]
