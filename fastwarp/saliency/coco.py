"""A data set's prior from annotations in COCO's JSON format, as Argoverse-HD, BDD100K and many more export it."""

from __future__ import annotations

import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastwarp.errors import FastwarpError
from fastwarp.saliency._mean import SLACK, check_density, mean_density
from fastwarp.saliency._records import Meter, Progress, Row, read, size_of
from fastwarp.saliency.files import Prior

SHOWN = 12
"""How many categories a message lists."""


class _Images(NamedTuple):
    """The images of a file: their place in the arrays by their id, and their sizes (height, width)."""

    places: dict[Any, int]
    sizes: np.ndarray


def coco_prior(
    path: str | Path,
    shape: tuple[int, int] = (31, 51),
    amplitude: float = 1.0,
    bandwidth: float = 64.0,
    *,
    categories: Iterable[str] = (),
    image_size: tuple[int, int] | None = None,
    clip: bool = False,
    progress: Progress | None = None,
) -> Prior:
    """The mean over images of `box_density` of each image's boxes, which sums to 1: LZU's fixed saliency.

    Images without a box (of the categories asked for) say nothing of where objects are and are left out of the mean;
    so are boxes marked `iscrowd` or `ignore`. The file is read piece by piece, and never held as a whole.

    Args:
        path: a file with `images` (`id`, `height`, `width`), `annotations` (`image_id`, `bbox` as [x, y, width,
            height] in pixels, `category_id`) and `categories` (`id`, `name`); further keys are passed over.
        shape: (h, w) of the map in cells.
        amplitude: a of `box_density`.
        bandwidth: b of `box_density`, in pixels.
        categories: names; only boxes of these count. Empty: all boxes do.
        image_size: (H, W) in pixels to which images are thought to be resized, with their boxes. None: their own
            size, which must be one. Images whose size the file does not tell have this one.
        clip: cut boxes at the border of their image, and leave out those beyond, instead of raising an error.
        progress: is called with the bytes done and their total.

    Returns:
        A prior of kind "coco".

    Raises:
        FastwarpError: a file that cannot be read or is not JSON; a missing or unfit key (names record and key); a
            category that is not in the file; images of several sizes; an inverted box, or one that reaches more than a
            pixel past its image; no boxes at all.

    Example:
        >>> prior = coco_prior("train.json", categories=["car"])  # doctest: +SKIP
        >>> warp = fastwarp.SeparableWarp.from_saliency(prior.saliency[None], fwhm=22.0)  # doctest: +SKIP
    """
    check_density(image_size, shape, amplitude, bandwidth)
    path, wanted = Path(path), list(dict.fromkeys(categories))
    meter = Meter(progress, 2 * size_of(path))
    images, ids = _images_and_categories(path, image_size, bool(wanted), meter)
    meter.reach(meter.total // 2)  # the first pass ends where it has what it needs
    chosen = _chosen(path, ids, wanted) if wanted else None
    size = image_size or (int(images.sizes[0, 0]), int(images.sizes[0, 1]))
    boxes, places = _boxes(path, images, chosen, clip, meter)
    if not len(boxes):
        raise FastwarpError(f"{path} has no boxes" + (f" of {', '.join(wanted)}" if wanted else ""))
    scale = np.array([size[1], size[0]]) / images.sizes[:, ::-1]
    boxes *= np.tile(scale, 2)[places]
    saliency, used = mean_density(boxes, places, size, shape, amplitude, bandwidth)
    settings = {
        "kind": "coco",
        "source": path.name,
        "image_size": list(size),
        "amplitude": amplitude,
        "bandwidth": bandwidth,
        "categories": wanted,
        "clip": clip,
        "images": used,
        "images_without_boxes": len(images.places) - used,
        "boxes": len(boxes),
    }
    return Prior(saliency, settings)


def _images_and_categories(
    path: Path, image_size: tuple[int, int] | None, named: bool, meter: Meter
) -> tuple[_Images, dict[str, list[Any]]]:
    """The images, and the ids of the categories by their names if these are asked for."""
    places: dict[Any, int] = {}
    sizes = array.array("q")
    ids: dict[str, list[Any]] = {}
    wanted = ("images", "categories") if named else ("images",)
    for section, start, records in read(path, wanted, meter, stop=True):
        for position, record in enumerate(records, start):
            row = Row(path, section, position, record)
            key = row.get("id", "an id")
            if section == "categories":
                ids.setdefault(row.get("name", "a text"), []).append(key)
                continue
            if key in places:
                raise row.unfit("has the id of an image before it")
            places[key] = len(places)
            if image_size is not None and "height" not in record and "width" not in record:
                sizes.extend(image_size)
                continue
            for side in ("height", "width"):
                sizes.append(row.get(side, "an integer of at least 2"))
            if image_size is None and sizes[-2:] != sizes[:2]:
                raise row.unfit(
                    f"has {sizes[-2]} x {sizes[-1]} pixels, those before it {sizes[0]} x {sizes[1]}: give the image "
                    "size (height, width) that all are resized to"
                )
    if not places:
        raise FastwarpError(f"{path} has no images: key 'images' is missing or empty")
    return _Images(places, np.array(sizes).reshape(-1, 2)), ids


def _chosen(path: Path, ids: dict[str, list[Any]], wanted: list[str]) -> set[Any]:
    for title in wanted:
        if title not in ids:
            listed = ", ".join(sorted(ids)[:SHOWN]) + (", ..." if len(ids) > SHOWN else "")
            raise FastwarpError(f"{path} has no category '{title}', it has {listed or 'none'}")
    return {key for title in wanted for key in ids[title]}


def _boxes(
    path: Path, images: _Images, chosen: set[Any] | None, clip: bool, meter: Meter
) -> tuple[np.ndarray, np.ndarray]:
    """Corners `[N, 4]` in pixels of their own images, and the places of those."""
    parts = [(np.empty((0, 4)), np.empty(0, np.int64))]
    for _, start, records in read(path, ("annotations",), meter):
        try:
            kept = [record for record in records if not _skipped(record, chosen)]
            places = [images.places[record["image_id"]] for record in kept]
            lists = [record["bbox"] for record in kept]
            boxes = np.array(lists)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _explain(path, images, chosen, start, records) from None
        if not kept:
            continue
        if boxes.dtype.kind not in "if" or boxes.shape != (len(lists), 4) or not np.isfinite(boxes).all():
            raise _explain(path, images, chosen, start, records)
        part = _corners(boxes.astype(np.float64), images.sizes[places], clip)
        if part.bad is not None:
            place = next(place for place, record in enumerate(records) if record is kept[part.bad])
            row = Row(path, "annotations", start + place, kept[part.bad])
            raise row.unfit(f"has bbox {lists[part.bad]}, {part.problem}")
        parts.append((part.boxes, np.array(places)[part.keep]))
    return np.concatenate([boxes for boxes, _ in parts]), np.concatenate([places for _, places in parts])


class _Part(NamedTuple):
    boxes: np.ndarray
    keep: np.ndarray
    bad: int | None = None
    problem: str = ""


def _corners(boxes: np.ndarray, sizes: np.ndarray, clip: bool) -> _Part:
    """[x, y, width, height] -> corners `[N, 4]`, and the first that is unfit."""
    boxes[:, 2:] += boxes[:, :2]
    limits = sizes[:, ::-1].astype(np.float64)
    inverted = (boxes[:, 2:] < boxes[:, :2]).any(1)
    keep: Any = np.ones(len(boxes), bool)
    if inverted.any():
        return _Part(boxes, keep, int(inverted.argmax()), "expected a width and a height that are not negative")
    if clip:
        keep = ((boxes[:, 2:] > 0) & (boxes[:, :2] < limits)).all(1)
        return _Part(np.clip(boxes, 0, np.tile(limits, 2))[keep], keep)
    outside = ((boxes[:, :2] < -SLACK) | (boxes[:, 2:] > limits + SLACK)).any(1)
    if outside.any():
        bad = int(outside.argmax())
        height, width = sizes[bad]
        problem = f"outside the picture, which is {width} pixels wide and {height} high (clip cuts such boxes)"
        return _Part(boxes, keep, bad, problem)
    return _Part(boxes, keep)


def _skipped(record: dict[str, Any], chosen: set[Any] | None) -> bool:
    if record.get("iscrowd") or record.get("ignore"):
        return True
    return chosen is not None and record["category_id"] not in chosen


def _explain(path: Path, images: _Images, chosen: set[Any] | None, start: int, records: list[Any]) -> FastwarpError:
    """The error for the first record that is unfit."""
    for position, record in enumerate(records, start):
        row = Row(path, "annotations", position, record)
        try:
            if chosen is not None:
                row.get("category_id", "an id")
            if isinstance(record, dict) and _skipped(record, chosen):
                continue
            image = row.get("image_id", "an id")
            row.get("bbox", "four numbers [x, y, width, height]")
        except FastwarpError as error:
            return error
        if image not in images.places:
            return row.unfit(f"has image_id {image!r}, which no image has")
    raise AssertionError("a record was unfit, but none is")
