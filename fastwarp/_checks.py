"""What the public functions check of their arguments, and how levels and their options are taken apart."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastwarp.errors import check_batches, check_devices, check_tensor, fail

IMAGE_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)

_CHECKS = os.environ.get("FASTWARP_CHECKS", "0") == "1"


def as_geometry(tensor: Tensor) -> Tensor:
    """Geometry is at least float32, whatever the dtype it comes in."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def check_knots(function: str, knots_y: Tensor, knots_x: Tensor) -> None:
    """Raises unless the knots of the two axes are fit for the kernels; their values only with `FASTWARP_CHECKS=1`."""
    for name, knots in (("knots_y", knots_y), ("knots_x", knots_x)):
        check_tensor(function, name, knots, "[B, n]", dtypes=(torch.float32, torch.float64))
        if knots.shape[1] < 2:
            raise fail(function, name, f"of shape {list(knots.shape)}", "at least 2 knots")
    if knots_y.dtype != knots_x.dtype:
        raise TypeError(f"{function}: knots_y is {knots_y.dtype}, knots_x is {knots_x.dtype}, expected one dtype")
    check_devices(function, knots_y=knots_y, knots_x=knots_x)
    check_batches(function, knots_y=knots_y, knots_x=knots_x)
    if _CHECKS:
        check_knot_values(function, knots_y, knots_x)


def check_knot_values(function: str, knots_y: Tensor, knots_x: Tensor) -> None:
    """Raises FastwarpError unless the knots are finite and never decrease. Waits for a GPU; see `SeparableWarp.check`.

    Args:
        function: the name that the message begins with.
        knots_y: `[B, h]`.
        knots_x: `[B, w]`.
    """
    for name, knots in (("knots_y", knots_y), ("knots_x", knots_x)):
        bad = ~torch.isfinite(knots)
        if bad.any():
            image, knot = bad.nonzero()[0].tolist()
            raise fail(function, f"{name}[{image}, {knot}]", knots[image, knot].item(), "finite values")
        falls = knots[:, 1:] < knots[:, :-1]
        if falls.any():
            image, knot = falls.nonzero()[0].tolist()
            pair = knots[image, knot : knot + 2].tolist()
            raise fail(function, f"{name}[{image}, {knot}:{knot + 2}]", pair, "knots that never decrease")


def check_option(function: str, argument: str, value: Any, options: Sequence[str]) -> None:
    """Raises FastwarpError unless `value` is one of `options`."""
    if value not in options:
        raise fail(function, argument, repr(value), " or ".join(repr(o) for o in options))


def check_saliency_values(function: str, argument: str, values: Tensor) -> None:
    """With `FASTWARP_CHECKS=1`, raises FastwarpError for NaN or negative saliency."""
    if _CHECKS and (torch.isnan(values).any() or (values < 0).any()):
        raise fail(function, argument, "NaN or negative somewhere", "values >= 0")


def extents(
    function: str, argument: str, value: Any, structure: Any, levels: int, batch: int, like: Tensor
) -> Tensor | None:
    """`valid=` of one tensor or one per level -> int64 `[1 or batch, levels, 2]`; None for an empty batch."""
    if value is None:
        return None
    parts = as_list(function, argument, value, structure)
    for part in parts:
        check_tensor(function, argument, part, "[B, 2]", dtypes=(torch.int32, torch.int64))
        if part.shape[1] != 2:
            raise fail(function, argument, f"of shape {list(part.shape)}", "[B, 2], (height, width) of each image")
        check_devices(function, **{argument: part, "images": like})
        check_batches(function, batch=batch, **{argument: part})
    if batch == 0:
        return None
    widest = max(part.shape[0] for part in parts)
    return torch.stack([part.long().expand(widest, 2) for part in parts], 1)


def as_list(function: str, argument: str, value: Any, structure: Any) -> list[Any]:
    """Values that follow the structure of the levels: dicts by their keys, sequences in order, or a single one."""
    if isinstance(structure, dict):
        if not isinstance(value, dict) or set(value) != set(structure):
            got = list(value) if isinstance(value, dict) else type(value).__name__
            raise fail(function, argument, got, f"a dict with the keys {list(structure)}")
        return [value[key] for key in structure]
    if isinstance(structure, (list, tuple)):
        if not isinstance(value, (list, tuple)) or len(value) != len(structure):
            got = f"{len(value)} long" if isinstance(value, (list, tuple)) else type(value).__name__
            raise fail(function, argument, got, f"a list or tuple of {len(structure)}, one for each level")
        return list(value)
    return [value]


def rebuild(structure: Any, values: list[Tensor]) -> Any:
    """`values` in the structure of the levels that `as_list` took apart."""
    if isinstance(structure, dict):
        return dict(zip(structure, values, strict=True))
    if isinstance(structure, (list, tuple)):
        if hasattr(structure, "_fields"):
            return type(structure)(*values)
        return type(structure)(values)
    return values[0]


def check_fwhm(function: str, fwhm: float) -> float:
    """`fwhm` as a float, if it is a positive number."""
    if isinstance(fwhm, bool) or not isinstance(fwhm, (int, float)):
        raise TypeError(f"{function}: fwhm is {type(fwhm).__name__}, expected a number of saliency cells")
    if not 0 < fwhm < float("inf"):
        raise fail(function, "fwhm", fwhm, "a positive, finite number of saliency cells")
    return float(fwhm)


def check_images(function: str, images: list[Any], knots_y: Tensor, knots_x: Tensor) -> None:
    """Raises unless the levels are images that belong together and to the knots."""
    if not images:
        raise fail(function, "features", "empty", "at least one level")
    for image in images:
        check_tensor(function, "image", image, "[B, C, H, W]", dtypes=IMAGE_DTYPES)
        if 0 in image.shape[2:]:
            raise fail(function, "image", f"of shape {list(image.shape)}", "a height and a width of at least 1")
        if image.dtype != images[0].dtype:
            raise TypeError(f"{function}: levels are {images[0].dtype} and {image.dtype}, expected one dtype")
        if image.shape[0] != images[0].shape[0]:
            raise fail(function, "levels", f"of batch {images[0].shape[0]} and {image.shape[0]}", "one batch size")
        check_devices(function, image=image, knots_y=knots_y)
    check_batches(function, batch=images[0].shape[0], knots_y=knots_y, knots_x=knots_x)
