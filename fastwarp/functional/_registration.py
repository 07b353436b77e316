"""Where the cells of a strided network's maps lie in the image that went into it; `docs/registration.md` derives it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
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

    @property
    def offsets(self) -> list[float]:
        """The pixel of cell 0 of each axis, `phase (s - 1)`."""
        return [self.phases[i // 2] * (s - 1) for i, s in enumerate(self.strides)]

    def pixels(self, device: torch.device) -> list[Tensor]:
        """Height and width of the part of each image that is no padding, `[1 or B]` each."""
        if self.valid is None:
            return [torch.full((1,), side, device=device) for side in self.image]
        return [self.valid[:, axis].clamp(0, side) for axis, side in enumerate(self.image)]

    def cells(self, sizes: list[int], device: torch.device) -> Tensor | None:
        """Int64 `[1 or B, levels, 2]`: the part of each map that is no padding: cells that begin inside the image, and
        where offsets are negative those whose pixel is. None: all of all maps."""
        before = [s - 1 + math.ceil(max(-offset, 0)) for s, offset in zip(self.strides, self.offsets, strict=True)]
        if self.valid is None:
            about = zip(sizes, self.strides, before, strict=True)
            if all((self.image[i % 2] + more) // s >= n for i, (n, s, more) in enumerate(about)):
                return None
        pixels = self.pixels(device)
        cells = [
            torch.where(pixels[i % 2] > 0, (pixels[i % 2] + more) // s, 0).clamp(max=n)
            for i, (n, s, more) in enumerate(zip(sizes, self.strides, before, strict=True))
        ]
        return torch.stack(cells, 1).unflatten(1, (-1, 2))


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
    """The cells of some axes one after the other, `[1 or B, n]` each, float64."""

    cell: Tensor  # its number in its axis
    at: Tensor  # normalised positions in the image; those past its ends are held at them
    last: Tensor  # the last cell of its axis that is not padding
    length: Tensor  # (V - 1) / s

    @property
    def inside(self) -> Tensor:
        """Bool: not padding."""
        return self.cell <= self.last

    def split(self, sizes: list[int]) -> list[Places]:
        """Axis by axis."""
        parts = (getattr(self, field.name).split(sizes, 1) for field in dataclasses.fields(self))
        return [Places(*axis) for axis in zip(*parts, strict=True)]

    def centre(self, mapped: Tensor) -> Tensor:
        """The cell that is at the positions `mapped`, `[B, n]` or `[B, m, n]`. Relative to the cell itself, so that
        the identity is exact."""
        tensors = (self.cell, self.at, self.last, self.length)
        cell, at, last, length = (t[:, None] if mapped.dim() == 3 else t for t in tensors)
        centre = cell + (mapped - at) * length
        held = torch.minimum(centre.detach().clamp(min=0), last)
        # Rounding may bring a place on the outline of the image just past it, which shall not stop its gradient.
        moves = (centre.detach() - held).abs() <= 1e-9
        return held + torch.where(moves, centre - centre.detach(), 0)

    def spacing(self, centre: Tensor) -> Tensor:
        """Mean distance of the centres `[B, n]` of the two neighbours that are not padding, of one at the ends."""
        first, last = self.cell == 0, self.cell >= self.last
        after = torch.where(last, centre, torch.cat([centre[:, 1:], centre[:, -1:]], 1))
        before = torch.where(first, centre, torch.cat([centre[:, :1], centre[:, :-1]], 1))
        return (after - before) / torch.where(first | last, 1, 2)


def places(about: Registration, sizes: list[int], device: torch.device) -> Places:
    """All axes of all levels, rows before columns, with `sizes` cells each."""

    def spread(values: Sequence[Any]) -> Tensor:
        """A number, or `[1 or B]`, of each axis for each of its cells."""
        return torch.cat(
            [
                v.double()[:, None].expand(-1, n)
                if isinstance(v, Tensor) and v.dim() > 0  # sizes are tensors, too, while torch.jit.trace runs
                else torch.full((1, n), v, dtype=torch.float64, device=device)
                for v, n in zip(values, sizes, strict=True)
            ],
            1,
        )

    cells = about.cells(sizes, device)
    cell = torch.cat([torch.arange(n, dtype=torch.float64, device=device) for n in sizes])[None]
    last = spread(sizes if cells is None else cells.flatten(1).unbind(1)) - 1
    stride, pixel = spread(about.strides), spread(about.pixels(device) * len(about.phases))
    span = (pixel - 1).clamp(min=1)
    at = torch.where(pixel > 1, (stride * cell + spread(about.offsets)) / span, 0.5).clamp(0, 1)
    return Places(cell, at, last, span / stride)


def keep_padding(cells: Tensor | None, maps: list[Tensor], results: list[Tensor]) -> list[Tensor]:
    """The results with the maps' own cells of padding: beyond `cells`, if not None."""
    if cells is None:
        return results
    kept = []
    for level, (before, after) in enumerate(zip(maps, results, strict=True)):
        y, x = (torch.arange(n, device=after.device) < cells[:, level, i, None] for i, n in enumerate(after.shape[2:]))
        kept.append(torch.where(y[:, None, :, None] & x[:, None, None, :], after, before))
    return kept
