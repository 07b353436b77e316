"""Where the cells of a strided network's maps lie in the image that went into it; `docs/registration.md` derives it."""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from fastwarp._checks import as_list, check_option, extents
from fastwarp.errors import FastwarpError, as_integer, as_real, check_size, fail

OUTSIDE = ("keep", "fill")


@dataclasses.dataclass(frozen=True)
class Registration:
    """Cell j of an axis of a map with stride s is at pixel `s j + phase (s - 1)` of the image."""

    image: tuple[int, int]  # (height, width) in pixels
    strides: list[int]  # (sy, sx) of each level, one after the other
    phases: list[float]  # of each level
    valid: Tensor | None  # int64 [1 or B, 2]: the part of each image that is no padding, in pixels
    keep: bool  # cells of padding stay as they are, else they become 0

    def cells(self, sizes: list[int]) -> Tensor | None:
        """Int64 `[1 or B, levels, 2]`: the part of each map that is no padding, ceil(valid / s)."""
        if self.valid is None:
            return None
        pixels = torch.stack([self.valid[:, axis].clamp(0, self.image[axis]) for axis in range(2)], 1)
        levels = [
            [(pixels[:, axis] + s - 1) // s for axis, s in enumerate(self.strides[first : first + 2])]
            for first in range(0, len(sizes), 2)
        ]
        cells = torch.stack([torch.stack(level, 1) for level in levels], 1)
        whole = torch.stack([torch.full_like(cells[:, 0, 0], n) for n in sizes], 1).view(-1, len(levels), 2)
        return torch.minimum(cells, whole)


def registration(
    function: str,
    features: Any,
    maps: list[Tensor],
    like: Tensor,
    options: dict[str, Any],
    *,
    size: Any,
    source_valid: Any,
) -> Registration:
    """The registration that the arguments of an unzoom ask for.

    Args:
        function: public name of the caller.
        features: the levels.
        maps: the same as a list.
        like: a tensor on the device of the warp.
        options: `image_size`, `strides`, `phase`, `valid` and `outside` of the call.
        size: target sizes, which registered maps cannot have.
        source_valid: likewise.
    """
    image_size, strides, phase = options["image_size"], options["strides"], options["phase"]
    check_option(function, "outside", options["outside"], OUTSIDE)
    for argument, value in (("size", size), ("source_valid", source_valid)):
        if value is not None:
            raise FastwarpError(f"{function}: got {argument} and image_size, expected at most one of them")
    image = check_size(function, "image_size", image_size)
    if strides is None:
        pairs = [_stride(function, image, m.shape[2:]) for m in maps]
    else:
        pairs = [_pair(function, s) for s in as_list(function, "strides", strides, features)]
    one = as_real(phase)
    phases = [as_real(p) for p in as_list(function, "phase", phase, features)] if one is None else [one] * len(maps)
    for p in phases:
        if p is None:
            raise TypeError(f"{function}: phase is {phase!r}, expected a number, or one for each level")
        if not math.isfinite(p):
            raise fail(function, "phase", p, "a finite number")
    valid = extents(function, "valid", options["valid"], None, 1, maps[0].shape[0], like)
    flat = [s for pair in pairs for s in pair]
    keep = options["outside"] == "keep"
    return Registration(image, flat, phases, None if valid is None else valid[:, 0], keep)


def check_unregistered(function: str, strides: Any) -> None:
    """Raises if an unzoom without an `image_size` was given strides."""
    if strides is not None:
        raise fail(function, "image_size", None, "(height, width) of the network's input, where strides are given")


def _pair(function: str, stride: Any) -> tuple[int, int]:
    one = as_integer(stride)
    pair = (stride, stride) if one is not None else stride
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise TypeError(f"{function}: strides has {stride!r}, expected an integer or a pair (sy, sx) for each level")
    numbers = [as_integer(s) for s in pair]
    if None in numbers:
        raise TypeError(f"{function}: strides has {stride!r}, expected integers")
    if min(numbers) < 1:
        raise fail(function, "strides", stride, "strides of at least 1")
    return numbers[0], numbers[1]


def _stride(function: str, image: tuple[int, int], size: Any) -> tuple[int, int]:
    """The stride s for which the map has ceil(H / s) rows and ceil(W / s) columns: the least power of two that does,
    or else the least integer."""

    def explains(s: int) -> bool:
        return all((side + s - 1) // s == n for side, n in zip(image, size, strict=True))

    power = 1
    while power < 2 * max(image):
        if explains(power):
            return power, power
        power *= 2
    least = int(max((side + n - 1) // n for side, n in zip(image, size, strict=True)))
    if explains(least):
        return least, least
    got = f"a map of {size[0]} x {size[1]}, which no stride makes of an image of {image[0]} x {image[1]}"
    raise fail(function, "features", got, "ceil(H / s) rows and ceil(W / s) columns, or strides=")


@dataclasses.dataclass(frozen=True)
class Places:
    """The cells of one axis of one level: `[1 or B, n]`, float64."""

    at: Tensor  # normalised positions in the image; those past its ends are held at them
    inside: Tensor  # bool: not padding
    length: Tensor  # (V - 1) / s, `[1 or B, 1]`
    last: Tensor  # the last cell that is not padding, `[1 or B, 1]`

    def centre(self, mapped: Tensor) -> Tensor:
        """The cell that is at the positions `mapped`, `[B, n]` or `[B, m, n]`. Relative to the cell itself, so that
        the identity is exact."""
        at, length, last = (t[:, None] if mapped.dim() == 3 else t for t in (self.at, self.length, self.last))
        cell = torch.arange(at.shape[-1], device=mapped.device)
        centre = cell + (mapped - at) * length
        held = torch.minimum(centre.detach().clamp(min=0), last)
        # Rounding may bring a place on the outline of the image just past it, which shall not stop its gradient.
        moves = (centre.detach() - held).abs() <= 1e-9
        return held + torch.where(moves, centre - centre.detach(), 0)

    def spacing(self, centre: Tensor) -> Tensor:
        """Mean distance of the centres `[B, n]` of the two neighbours that are not padding, of one at the ends."""
        cell = torch.arange(centre.shape[1], device=centre.device)
        after = torch.where(cell < self.last, torch.cat([centre[:, 1:], centre[:, -1:]], 1), centre)
        before = torch.cat([centre[:, :1], centre[:, :-1]], 1)
        return (after - before) / torch.where((cell > 0) & (cell < self.last), 2, 1)


def places(about: Registration, level: int, axis: int, size: int, device: torch.device) -> Places:
    """Of one axis of one level with `size` cells."""
    s, phase = about.strides[2 * level + axis], about.phases[level]
    pixels = torch.full((1,), about.image[axis], device=device) if about.valid is None else about.valid[:, axis]
    pixels = pixels.clamp(0, about.image[axis])[:, None]
    cells = ((pixels + s - 1) // s).clamp(max=size)
    cell = torch.arange(size, device=device)
    span = (pixels - 1).double()
    at = torch.where(span > 0, (s * cell + phase * (s - 1)) / span.clamp(min=1), 0.5).clamp(0, 1)
    return Places(at, cell < cells, span.clamp(min=1) / s, cells - 1)


def keep_padding(about: Registration, maps: list[Tensor], results: list[Tensor]) -> list[Tensor]:
    """The results, where asked for with the maps' own cells of padding."""
    cells = about.cells([side for m in maps for side in m.shape[2:]])
    if cells is None or not about.keep:
        return results
    kept = []
    for level, (before, after) in enumerate(zip(maps, results, strict=True)):
        y, x = (torch.arange(n, device=after.device) < cells[:, level, i, None] for i, n in enumerate(after.shape[2:]))
        kept.append(torch.where(y[:, None, :, None] & x[:, None, None, :], after, before))
    return kept
