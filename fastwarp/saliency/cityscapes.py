"""A data set's prior from the label images of Cityscapes, or of others that are laid out like it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastwarp._files import size_of, unreadable
from fastwarp.errors import FastwarpError
from fastwarp.saliency._records import Meter, Progress
from fastwarp.saliency.files import Prior
from fastwarp.saliency.labels import boundary_density

EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label ids of the 19 classes that Cityscapes evaluates."""

VOID = 255

LARGEST = 1 << 26
"""Pixels of an image: a broken or hostile one may claim any number."""

_SUFFIX = "_gtfine_labelids.png"


def cityscapes_prior(
    folder: str | Path,
    shape: tuple[int, int] = (45, 45),
    edge: float = 200.0,
    background: float = 1.0,
    *,
    split: str = "train",
    progress: Progress | None = None,
) -> Prior:
    """The mean over images of `boundary_density` of their labels: LZU's fixed saliency for segmentation.

    Labels are those that networks are trained with: ids of classes that are not evaluated count as one, void, which
    has no boundaries. Images with nothing but void, as those of the test split are published, say nothing of where
    classes meet and are left out of the mean. Images are read one after the other.

    Args:
        folder: that holds gtFine/<split>/<city>/*_gtFine_labelIds.png; gtFine itself and its split will do. Files and
            folders that begin with a dot, which file managers leave behind, are passed over.
        shape: (h, w) of the map in cells.
        edge: weight of pixels at boundaries, see `boundary_density`.
        background: weight of the others.
        split: "train", "val" or "test", or whatever the folder is called.
        progress: is called with the images done and their total.

    Returns:
        A prior of kind "cityscapes".

    Raises:
        FastwarpError: no such folder or images; an image that cannot be read, is no PNG of one grey channel of 8 or 16
            bits (others hold colours, or scaled or lossy ids), or has another size than those before it; nothing but
            void in all of them; unfit arguments.

    Examples:
        >>> prior = cityscapes_prior("cityscapes")  # doctest: +SKIP
        >>> warp = fastwarp.SeparableWarp.from_saliency(prior.saliency[None], fwhm=15.0)  # doctest: +SKIP
    """
    folder = Path(folder)
    boundary_density(torch.from_numpy(np.zeros((1, 1), np.uint8)), shape, edge, background)  # before files are read
    paths = _label_images(folder, split)
    meter = Meter(progress, len(paths))
    total, used, first = np.zeros(shape), 0, _labels(paths[0])
    for path in paths:
        labels = _labels(path)
        if labels.shape != first.shape:
            (height, width), (before_height, before_width) = labels.shape, first.shape
            raise FastwarpError(
                f"{path} has {height} x {width} pixels, those before it {before_height} x {before_width}"
            )
        if (labels != VOID).any():
            total += boundary_density(labels, shape, edge, background, VOID)[0].numpy()
            used += 1
        meter.add(1)
    if not used:
        raise FastwarpError(f"{folder} has no labels of evaluated classes in '{split}': its images are all void")
    settings = {
        "kind": "cityscapes",
        "source": folder.resolve().name,
        "split": split,
        "image_size": list(first.shape),
        "edge": float(edge),
        "background": float(background),
        "images": used,
        "images_without_labels": len(paths) - used,
    }
    return Prior(torch.from_numpy(total / used).float(), settings)


def _label_images(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise FastwarpError(f"cannot read {folder}: there is no such folder")
    for base in (folder / "gtFine" / split, folder / split, folder):
        if not base.is_dir():
            continue
        cities = [city for city in _entries(base) if city.is_dir()]
        # Whatever the case: Windows makes it all one, and what is left out would not be missed.
        paths = [path for city in cities for path in _entries(city) if path.name.lower().endswith(_SUFFIX)]
        if paths:
            return paths
    raise FastwarpError(f"{folder} has no gtFine/{split}/<city>/*_gtFine_labelIds.png")


def _entries(folder: Path) -> list[Path]:
    """What is in a folder, in order. Path.glob passes over folders that must not be read."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from None


def _labels(path: Path) -> Tensor:
    """`[H, W]`, uint8, void where Cityscapes does not evaluate."""
    from PIL import Image  # an extra

    size_of(path)
    try:
        with path.open("rb") as file:
            _check_header(path, file.read(26))
            file.seek(0)
            with Image.open(file, formats=("PNG",)) as image:
                frames = getattr(image, "n_frames", 1)
                ids = np.asarray(image)
    except FastwarpError:
        raise
    except Exception as error:  # Pillow has many for broken files
        raise unreadable(path, error) from None
    if frames > 1:
        raise FastwarpError(f"{path} is an animation of {frames} images, expected one")
    if ids.max() > 255:
        raise FastwarpError(f"{path} has label ids up to {ids.max()}, expected at most 255")
    table = np.full(256, VOID, np.uint8)
    table[list(EVALUATED)] = EVALUATED
    return torch.from_numpy(table[ids])


def _check_header(path: Path, header: bytes) -> None:
    """Raises unless the first bytes of a file are those of a PNG whose pixels are label ids, as its tools write them.

    Pillow scales ids of 1, 2 and 4 bits, and does not tell.
    """
    if len(header) < 26 or header[:8] != b"\x89PNG\r\n\x1a\n" or header[12:16] != b"IHDR":
        raise FastwarpError(f"{path} is not a PNG image")
    width, height = (int.from_bytes(header[start : start + 4], "big") for start in (16, 20))
    bits, colour = header[24:26]
    if colour != 0 or bits not in (8, 16):
        kinds = {0: "grey", 2: "red, green and blue", 3: "a palette", 4: "grey and alpha", 6: "colours and alpha"}
        kind = f"{kinds.get(colour, 'an unknown kind')} in {bits} bits"
        raise FastwarpError(f"{path} has pixels of {kind}, expected label ids in one grey channel of 8 or 16 bits")
    if width * height > LARGEST:
        raise FastwarpError(f"{path} has {height} x {width} pixels, expected at most {LARGEST} in all")
