"""A data set's prior from the label images of Cityscapes, or of others that are laid out like it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastwarp.errors import FastwarpError
from fastwarp.saliency._records import Meter, Progress, unreadable
from fastwarp.saliency.files import Prior
from fastwarp.saliency.labels import boundary_density

EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The label ids of the 19 classes that Cityscapes evaluates."""

VOID = 255


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
    has no boundaries. Images are read one after the other.

    Args:
        folder: that holds gtFine/<split>/<city>/*_gtFine_labelIds.png; gtFine itself and its split will do.
        shape: (h, w) of the map in cells.
        edge: weight of pixels at boundaries, see `boundary_density`.
        background: weight of the others.
        split: "train", "val" or "test", or whatever the folder is called.
        progress: is called with the images done and their total.

    Returns:
        A prior of kind "cityscapes".

    Raises:
        FastwarpError: no such folder or images; an image that cannot be read, is not of one channel of 8 bits, or has
            another size than those before it; unfit arguments.

    Example:
        >>> prior = cityscapes_prior("cityscapes")  # doctest: +SKIP
        >>> warp = fastwarp.SeparableWarp.from_saliency(prior.saliency[None], fwhm=15.0)  # doctest: +SKIP
    """
    folder = Path(folder)
    paths = _label_images(folder, split)
    meter = Meter(progress, len(paths))
    total, first = torch.zeros(shape, dtype=torch.float64), _labels(paths[0])
    for path in paths:
        labels = _labels(path)
        if labels.shape != first.shape:
            (height, width), (before_height, before_width) = labels.shape, first.shape
            raise FastwarpError(
                f"{path} has {height} x {width} pixels, those before it {before_height} x {before_width}"
            )
        total += boundary_density(labels, shape, edge, background, VOID)[0].double()
        meter.add(1)
    settings = {
        "kind": "cityscapes",
        "source": folder.resolve().name,
        "split": split,
        "image_size": list(first.shape),
        "edge": edge,
        "background": background,
        "images": len(paths),
    }
    return Prior((total / len(paths)).float(), settings)


def _label_images(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise FastwarpError(f"cannot read {folder}: there is no such folder")
    for base in (folder / "gtFine" / split, folder / split, folder):
        paths = sorted(base.glob("*/*_gtFine_labelIds.png"))
        if paths:
            return paths
    raise FastwarpError(f"{folder} has no gtFine/{split}/<city>/*_gtFine_labelIds.png")


def _labels(path: Path) -> Tensor:
    """`[H, W]`, uint8, void where Cityscapes does not evaluate."""
    from PIL import Image, UnidentifiedImageError  # an extra

    try:
        with Image.open(path) as file:
            if file.mode != "L":
                raise FastwarpError(
                    f"{path} has pixels of mode {file.mode}, expected label ids in one channel of 8 bits"
                )
            ids = np.asarray(file)
    except UnidentifiedImageError:
        raise FastwarpError(f"{path} is not an image that Pillow can read") from None
    except OSError as error:
        raise unreadable(path, error) from None
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, FastwarpError):
            raise
        raise FastwarpError(f"cannot read {path}: {error}") from None
    table = np.full(256, VOID, np.uint8)
    table[list(EVALUATED)] = EVALUATED
    return torch.from_numpy(table[ids])
