"""Where the cells of a strided network's maps lie in the image that went into it; `docs/registration.md` derives it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from fastwarp._checks import as_list, check_option, extents, is_plain
from fastwarp._constants import constant
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


def registration(
    function: str,
    argument: str,
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
        argument: public name of the levels.
        features: the levels.
        maps: the same as a list.
        like: a tensor on the device of the warp.
        options: `image_size`, `strides`, `phase`, `valid` and `outside` of the call.
        size: target sizes, which registered maps cannot have.
        source_valid: likewise.
    """
    image_size, strides, phase = options["image_size"], options["strides"], options["phase"]
    check_option(function, "outside", options["outside"], OUTSIDE)
    for other, value in (("size", size), ("source_valid", source_valid)):
        if value is not None:
            raise FastwarpError(f"{function}: got {other} and image_size, expected at most one of them")
    image = check_size(function, "image_size", image_size)
    if strides is None:
        pairs = [_stride(function, argument, image, m.shape[2:]) for m in maps]
    else:
        pairs = [_pair(function, s) for s in as_list(function, "strides", strides, features)]
    one = as_real(phase)
    phases = [as_real(p) for p in as_list(function, "phase", phase, features)] if one is None else [one] * len(maps)
    for p in phases:
        if p is None:
            raise TypeError(f"{function}: phase is {phase!r}, expected a number, or one for each level")
        if not abs(p) < math.inf:  # math.isfinite takes no symbolic number
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


def _stride(function: str, argument: str, image: tuple[int, int], size: Any) -> tuple[int, int]:
    """The stride s for which the map has ceil(H / s) rows and ceil(W / s) columns: the least power of two that does,
    or else the least integer."""

    def explains(s: int) -> bool:
        return all((side + s - 1) // s == n for side, n in zip(image, size, strict=True))

    least = max((side + n - 1) // n for side, n in zip(image, size, strict=True))
    power = 1
    while power < least:
        power *= 2
    for s in (power, int(least)):
        if explains(s):
            return s, s
    got = f"a map of {size[0]} x {size[1]}, which no stride makes of an image of {image[0]} x {image[1]}"
    raise fail(function, argument, got, "ceil(H / s) rows and ceil(W / s) columns, or strides=")


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the cells of all levels are, float64: of both axes, rows first, at equal length, so that short axes have
    cells at their end that there are not."""

    cell: Tensor  # [n]: their numbers
    at: Tensor  # [1 or B, 2, levels, n]: normalised positions in the image; those past its ends are held at them
    cells: Tensor  # [1 or B, 2, levels, 1]: how many of an axis are no padding
    length: Tensor  # [1 or B, 2, levels, 1]: (V - 1) / s
    whole: bool  # nothing is padding

    @property
    def inside(self) -> Tensor:
        """Bool: not padding."""
        return self.cell < self.cells

    @property
    def extents(self) -> Tensor | None:
        """Int64 `[1 or B, levels, 2]`: the part of each map that is no padding. None: all of all maps."""
        return None if self.whole else self.cells.squeeze(3).mT.long().contiguous()

    def level(self, number: int, height: int, width: int) -> tuple[Places, Places]:
        """Rows, `[1 or B, height, 1]`, and columns, `[1 or B, 1, width]`, of one level."""
        (y, x), (rows, columns), (down, across) = (
            t[:, :, number].unbind(1) for t in (self.at, self.cells, self.length)
        )
        return (
            Places(self.cell[:height, None], y[:, :height, None], rows[..., None], down[..., None], self.whole),
            Places(self.cell[:width], x[:, None, :width], columns[..., None], across[..., None], self.whole),
        )

    def centre(self, mapped: Tensor) -> Tensor:
        """The cell that is at the positions `mapped`. Relative to the cell itself, so that the identity is exact."""
        centre = self.cell + (mapped - self.at) * self.length
        held = torch.minimum(centre.detach().clamp(min=0), self.cells - 1)
        # Rounding may bring a place on the outline of the image just past it, which shall not stop its gradient.
        moves = (centre.detach() - held).abs() <= 1e-9
        return held + torch.where(moves, centre - centre.detach(), 0)

    def spacing(self, centre: Tensor) -> Tensor:
        """Mean distance of the centres of the two neighbours that are not padding, of one at the ends."""
        first, last = self.cell == 0, self.cell >= self.cells - 1
        after = torch.where(last, centre, torch.cat([centre[..., 1:], centre[..., -1:]], -1))
        before = torch.where(first, centre, torch.cat([centre[..., :1], centre[..., :-1]], -1))
        return (after - before) / torch.where(first | last, 1, 2)


def places(about: Registration, sizes: list[int], like: Tensor) -> Places:
    """Of maps of the sizes `[h1, w1, ...]`, on the device of `like`."""
    offsets = [about.phases[i // 2] * (s - 1) for i, s in enumerate(about.strides)]  # the pixel of cell 0
    # Cells that begin inside the image are none of padding, and where offsets are negative those whose pixel is.
    before = [s - 1 + math.ceil(max(-offset, 0)) for s, offset in zip(about.strides, offsets, strict=True)]
    images = [*about.image] * len(about.phases)
    about_axes = zip(sizes, images, before, about.strides, strict=True)
    whole = about.valid is None and all((side + more) // s >= n for n, side, more, s in about_axes)
    table = constant([*about.strides, *offsets, *before, *sizes, *images], like, torch.float64)
    stride, offset, more, size, pixel = table.view(5, 1, -1, 2, 1).transpose(2, 3)
    if about.valid is not None:
        pixel = torch.minimum(about.valid.clamp(min=0)[:, :, None, None], pixel)
    cells = torch.where(pixel > 0, ((pixel + more) / stride).floor(), 0).minimum(size)
    cell = torch.arange(max(sizes), dtype=torch.float64, device=like.device)
    span = (pixel - 1).clamp(min=1)
    at = torch.where(pixel > 1, (stride * cell + offset) / span, 0.5).clamp(0, 1)
    return Places(cell, at, cells, span / stride, whole)


def keep_padding(extents: Tensor | None, maps: list[Tensor], results: list[Tensor]) -> list[Tensor]:
    """The results with the maps' own cells of padding: beyond `extents`, if not None."""
    if extents is None:
        return results
    if is_plain([extents, *results]):
        # The results are nobody else's yet, and padding is a small part of them.
        for before, after, sizes in zip(maps, results, extents.unbind(1), strict=True):
            batches: Any = [slice(None)] if len(sizes) == 1 else range(len(sizes))
            for images, (height, width) in zip(batches, sizes.tolist(), strict=True):
                if height < after.shape[2]:
                    after[images, :, height:] = before[images, :, height:]
                if width < after.shape[3]:
                    after[images, :, :height, width:] = before[images, :, :height, width:]
        return results
    kept = []
    for level, (before, after) in enumerate(zip(maps, results, strict=True)):
        y, x = (
            torch.arange(n, device=after.device) < extents[:, level, i, None] for i, n in enumerate(after.shape[2:])
        )
        kept.append(torch.where(y[:, None, :, None] & x[:, None, None, :], after, before))
    return kept
