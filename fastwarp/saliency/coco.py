"""A data set's prior from annotations in COCO's JSON format, as Argoverse-HD, BDD100K and many more export it."""

from __future__ import annotations

import array
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastwarp._checks import MOST
from fastwarp._files import size_of
from fastwarp.errors import FastwarpError
from fastwarp.saliency._mean import SLACK, check_density, mean_density
from fastwarp.saliency._records import Meter, Progress, Row, read, shorten
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
    so are boxes marked `iscrowd` or `ignore`, which are 0, 1, false, true or null. The file is read piece by piece,
    and never held as a whole.

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
            category that is not in the file; an annotation of an image or, where categories are asked for, of a
            category that is not there; images of several sizes; an inverted box, or one that reaches more than a pixel
            past its image; no boxes at all.

    Examples:
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
    boxes, places = _boxes(path, _Choice(images.places, chosen), images.sizes, clip, meter)
    if not len(boxes):
        raise FastwarpError(f"{path} has no boxes" + (f" of {', '.join(wanted)}" if wanted else ""))
    scale = np.array([size[1], size[0]]) / images.sizes[:, ::-1]
    boxes *= np.tile(scale, 2)[places]
    saliency, used = mean_density(boxes, places, size, shape, amplitude, bandwidth)
    settings = {
        "kind": "coco",
        "source": path.name,
        "image_size": [int(side) for side in size],
        "amplitude": float(amplitude),
        "bandwidth": float(bandwidth),
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
    categories: set[Any] = set()
    wanted = ("images", "categories") if named else ("images",)
    for section, start, records in read(path, wanted, meter, stop=True):
        for position, record in enumerate(records, start):
            row = Row(path, section, position, record)
            key = row.get("id", "an id")
            if section == "categories":
                if key in categories:
                    raise row.unfit("has the id of a category before it")
                categories.add(key)
                ids.setdefault(row.get("name", "a text"), []).append(key)
                continue
            if key in places:
                raise row.unfit("has the id of an image before it")
            places[key] = len(places)
            if image_size is not None and "height" not in record and "width" not in record:
                sizes.extend(image_size)
                continue
            for side in ("height", "width"):
                sizes.append(row.get(side, "an integer from 2 to 1000000"))
            if image_size is None and sizes[-2:] != sizes[:2]:
                raise row.unfit(
                    f"has {sizes[-2]} x {sizes[-1]} pixels, those before it {sizes[0]} x {sizes[1]}: give the image "
                    "size (height, width) that all are resized to"
                )
    if not places:
        raise FastwarpError(f"{path} has no images: key 'images' is missing or empty")
    return _Images(places, np.array(sizes).reshape(-1, 2)), ids


def _chosen(path: Path, ids: dict[str, list[Any]], wanted: list[str]) -> dict[Any, bool]:
    """Whether a category is asked for, by its id."""
    for title in wanted:
        if title not in ids:
            listed = ", ".join(shorten(name).strip("'") for name in sorted(ids)[:SHOWN])
            listed += ", ..." if len(ids) > SHOWN else ""
            raise FastwarpError(f"{path} has no category '{title}', it has {listed or 'none'}")
    return {key: title in wanted for title, keys in ids.items() for key in keys}


class _Choice(NamedTuple):
    """What annotations may refer to: images by their ids, and whether a category is asked for; None: all are."""

    places: dict[Any, int]
    chosen: dict[Any, bool] | None


def _boxes(path: Path, choice: _Choice, sizes: np.ndarray, clip: bool, meter: Meter) -> tuple[np.ndarray, np.ndarray]:
    """Corners `[N, 4]` in pixels of their own images, and the places of those."""
    parts = [(np.empty((0, 4)), np.empty(0, np.int64))]
    for _, start, records in read(path, ("annotations",), meter):
        found = _fit(choice, records)
        if found is None:
            found = _one_by_one(path, choice, start, records)
        positions, places, boxes = found
        if not positions:
            continue
        part = _corners(boxes, sizes[places], clip)
        if part.bad is not None:
            row = Row(path, "annotations", start + positions[part.bad], records[positions[part.bad]])
            raise row.unfit(f"has bbox {row.record['bbox']}, {part.problem}")
        parts.append((part.boxes, np.array(places)[part.keep]))
    return np.concatenate([boxes for boxes, _ in parts]), np.concatenate([places for _, places in parts])


_FLAGS = {*itertools.product((0, 1, None), repeat=2)}
"""Of `iscrowd` and `ignore`; True is 1, and False 0."""

_Found = tuple[list[int], list[int], np.ndarray]
"""Of the boxes that count: positions among the records, places of their images, and [x, y, width, height]."""


def _fit(choice: _Choice, records: list[Any]) -> _Found | None:
    """The boxes, if nothing is unusual about any record. Quickly: files have millions."""
    try:
        flags = [(record.get("iscrowd"), record.get("ignore")) for record in records]
        kept = [position for position, pair in enumerate(flags) if not (pair[0] or pair[1])]
        ids = []
        if choice.chosen is not None:
            ids = [records[position]["category_id"] for position in kept]
            kept = [position for position, key in zip(kept, ids, strict=True) if choice.chosen[key]]
        keys = [records[position]["image_id"] for position in kept]
        lists = [records[position]["bbox"] for position in kept]
        boxes = np.array(lists, np.float64) if kept else np.empty((0, 4))
        # Types, as true is 1 in a dictionary, and among numbers.
        usual = {*flags} <= _FLAGS and {*map(type, keys + ids)} <= {int, str} and boxes.shape == (len(kept), 4)
        if not usual or not {*map(type, itertools.chain(*lists))} <= {int, float} or not (abs(boxes) <= MOST).all():
            return None
        return kept, [choice.places[key] for key in keys], boxes
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None


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


def _one_by_one(path: Path, choice: _Choice, start: int, records: list[Any]) -> _Found:
    """The boxes, or FastwarpError for the first record that is unfit."""
    positions: list[int] = []
    places: list[int] = []
    boxes: list[list[float]] = []
    for position, record in enumerate(records):
        row = Row(path, "annotations", start + position, record)
        if not isinstance(record, dict):
            raise row.unfit(f"is {shorten(record)}, expected an object")
        flags = [row.get(flag, "0, 1, false, true or null") for flag in ("iscrowd", "ignore") if flag in record]
        if any(flags):
            continue
        if choice.chosen is not None:
            category = row.get("category_id", "an id")
            if category not in choice.chosen:
                raise row.unfit(f"has category_id {shorten(category)}, which no category has")
            if not choice.chosen[category]:
                continue
        image, box = row.get("image_id", "an id"), row.get("bbox", "four numbers [x, y, width, height]")
        if image not in choice.places:
            raise row.unfit(f"has image_id {shorten(image)}, which no image has")
        positions.append(position)
        places.append(choice.places[image])
        boxes.append(box)
    return positions, places, np.array(boxes, np.float64).reshape(-1, 4)
