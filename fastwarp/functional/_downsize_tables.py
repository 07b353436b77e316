"""Where the targets of `downsize` lie between the pixels: taps, anchors, distances, and how those are encoded.

Positions are exact: integers as multiples of 1 / (2 d) of a pixel, so that every backend and machine has the same taps.
Everything is made on the device, as nothing may be copied there while a CUDA graph is captured.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from fastwarp._checks import check_option
from fastwarp.errors import as_integer, check_devices, fail
from fastwarp.functional._downsize_checks import check_encoded, check_encoding

Taps = Literal["bilinear", "bicubic", "area"]
Normalise = Literal["sigmoid", "softmax", "signed"]
Encoding = Literal["exact", "raw"] | Callable[[Tensor, Tensor], Tensor] | None
Footprint = int | tuple[int, int] | None

TAPS = ("bilinear", "bicubic", "area")
NORMALISE = ("sigmoid", "softmax", "signed")
SMALLEST = 1e-6
"""Distances are kept this far from 0 and 1, where their logit is infinite."""

_KEPT = 2**24
"""Values of the largest distance map that is kept for the next call: 64 MB of float32."""


class Axis(NamedTuple):
    """One axis of a target of d rows or columns: taps `[d, n]` and anchors `[d]`, int32; the distance past the anchor
    `[d]` and the interpolation weights `[d, n]`, float64."""

    taps: Tensor
    anchor: Tensor
    offset: Tensor
    weights: Tensor


class Geometry(NamedTuple):
    """What the tables depend on, beside the device. Footprints are None unless the taps are an area's."""

    source: tuple[int, int]
    size: tuple[int, int]
    taps: str
    footprint: tuple[int, int] | tuple[None, None]
    align_corners: bool


def check_options(function: str, taps: Any, footprint: Any, align_corners: bool) -> tuple[Any, Any]:
    """The footprint as a pair, if the options belong together."""
    check_option(function, "taps", taps, TAPS)
    if taps != "area":
        if footprint is not None:
            raise fail(function, "footprint", footprint, f"None with taps={taps!r}")
        return None, None
    if align_corners:
        raise fail(function, "align_corners", True, "False with taps='area', whose footprints are pixels")
    given = footprint if isinstance(footprint, (tuple, list)) else (footprint, footprint)
    pair = [None if n is None else as_integer(n) for n in given]
    if len(pair) != 2 or any(n is not None and found is None for n, found in zip(given, pair, strict=True)):
        raise TypeError(f"{function}: footprint is {footprint!r}, expected a number of taps or one for each axis")
    if any(n is not None and n < 1 for n in pair):
        raise fail(function, "footprint", footprint, "at least 1 tap")
    return pair[0], pair[1]


def geometry(
    function: str, source: tuple[int, int], size: tuple[int, int], taps: str, footprint: Any, align_corners: bool
) -> Geometry:
    """All that the tables depend on, if the footprints hold all the pixels of their targets."""
    pair = check_options(function, taps, footprint, align_corners)
    if taps == "area" and not _enough(source, size, pair):
        # The most pixels that a target meets: it begins up to (d - gcd) / d past the start of a pixel.
        needed = tuple((D + d - _gcd(D, d) + d - 1) // d for D, d in zip(source, size, strict=True))
        pair = (pair[0] or needed[0], pair[1] or needed[1])
        if pair[0] < needed[0] or pair[1] < needed[1]:
            raise fail(function, "footprint", pair, f"at least {needed} taps (rows, columns) from {source} to {size}")
    return Geometry(source, size, taps, pair, bool(align_corners))


def _enough(source: tuple[int, int], size: tuple[int, int], footprint: tuple[Any, Any]) -> bool:
    """Whether footprints hold the pixels of their targets whatever the greatest common divisor of the sizes, which is
    no condition that an exported program could have for its sizes."""
    if None in footprint:
        return False
    enough = [(n - 1) * d >= D - 1 for n, d, D in zip(footprint, size, source, strict=True)]
    for condition in enough:
        if isinstance(condition, torch.SymBool):
            torch._check(condition, lambda: "the footprint of an area is too small for this size")
    return all(enough)


def _gcd(a: int, b: int) -> int:
    """`math.gcd`, which torch.compile cannot trace with sizes that vary."""
    while b:
        a, b = b, a % b
    return a


def shape(at: Geometry) -> tuple[int, int]:
    """Taps of a target: rows and columns."""
    if at.taps == "area":
        return at.footprint  # type: ignore[return-value]
    return (4, 4) if at.taps == "bicubic" else (2, 2)


def axes(at: Geometry, device: torch.device, keep: bool) -> list[Axis]:
    """Tables of the rows and of the columns; those of an earlier call where it may `keep` them."""
    keys = [
        (D, d, at.taps, n, at.align_corners, device) for D, d, n in zip(at.source, at.size, at.footprint, strict=True)
    ]
    return [(_kept_axis if keep else _axis)(*key) for key in keys]


def _kept_or_made(
    at: Geometry, encoding: str, normalise: str, dtype: torch.dtype, device: torch.device, keep: bool
) -> Tensor:
    """Encoded relative distances `[K, h, w]`; those of an earlier call where it may `keep` them."""
    ky, kx = shape(at)
    key = (at, encoding, normalise, dtype, device)
    if keep and ky * kx * at.size[0] * at.size[1] <= _KEPT:
        return _kept_distances(*key)
    return _distances(*key)


def encoded_distances(
    function: str,
    at: Geometry,
    rows: Axis,
    columns: Axis,
    encoding: Encoding,
    normalise: str,
    real: torch.dtype,
    keep: bool,
) -> Tensor:
    """What goes into the 1x1 convolution for the distances, `[K', h, w]`, K' = 0 for none."""
    check_encoding(function, encoding)
    if encoding is None:
        return rows.weights.new_empty(0, *at.size, dtype=real)
    if isinstance(encoding, str):
        return _kept_or_made(at, encoding, normalise, real, rows.taps.device, keep)
    value = encoding(columns.offset.to(real)[None, :], rows.offset.to(real)[:, None])
    check_devices(function, image=rows.taps, encoding=value if isinstance(value, Tensor) else None)
    return check_encoded(function, value, at.size).to(real)


def can_keep(tensor: Tensor) -> bool:
    """Whether tables made for `tensor` are ordinary tensors that outlive the call: not so while something is traced,
    nor in fake tensors' modes."""
    return not torch.compiler.is_compiling() and type(tensor) in (Tensor, torch.nn.Parameter)


def _capturing(device: torch.device) -> bool:
    """Whether work for the device goes into a CUDA graph, whose private memory would not outlive it."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _stream(device: torch.device) -> int:
    """Kept tables belong to the stream that fills them: another one would not wait for it."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def _axis(D: int, d: int, taps: str, n: int | None, align_corners: bool, device: torch.device) -> Axis:
    """The tables of D source pixels and d targets."""
    q = torch.arange(d, device=device)
    # The position is numerator / unit, in pixels.
    if align_corners:
        numerator, unit = q * (D - 1), max(d - 1, 1)
    else:
        numerator, unit = (2 * q + 1) * D - d, 2 * d
    last = max(D - 2, 0)
    if taps == "bicubic":
        floor = numerator // unit
        offset = (numerator - floor * unit).double() / unit
        first, weights, anchor = floor - 1, _cubic(offset), floor.clamp(0, last)
    else:
        numerator = numerator.clamp(0, (D - 1) * unit)
        first = anchor = (numerator // unit).clamp(max=last)
        offset = (numerator - anchor * unit).double() / unit
        weights = torch.stack([1 - offset, offset], 1)
    if taps == "area":
        first = q * D // d
        # In units of 1 / d pixels: the target is [q D, (q + 1) D], tap t is [t d, (t + 1) d].
        tap = (first[:, None] + torch.arange(n or 0, device=device)) * d
        low, high = (q * D)[:, None], ((q + 1) * D)[:, None]
        weights = (torch.minimum(high, tap + d) - torch.maximum(low, tap)).clamp(min=0).double() / D
    tap = first[:, None] + torch.arange(weights.shape[1], device=device)
    return Axis(tap.clamp(0, D - 1).int(), anchor.int(), offset, weights)


def _cubic(t: Tensor, a: float = -0.75) -> Tensor:
    """Weights `[d, 4]` of the pixels at -1, 0, 1, 2 for positions t in [0, 1): the kernel of `F.interpolate`."""

    def near(x: Tensor) -> Tensor:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: Tensor) -> Tensor:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return torch.stack([far(t + 1), near(t), near(1 - t), far(2 - t)], 1)


def _distances(at: Geometry, encoding: str, normalise: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    rows, columns = axes(at, device, False)
    # Rounded at the end: next to 1 a logit of float32 is off by hundredths.
    return encode(products(rows.weights, columns.weights), encoding, normalise).to(dtype)


class _Kept:
    """What `make` returned for the latest keys, whose last entry is the device, on each stream.

    A CUDA graph that is captured reads what a call before it has made, on any stream, and that is kept for ever: a
    graph reads the same addresses as often as it is replayed, and does not say when it goes. Without such a call the
    graph makes it anew at every replay.
    """

    def __init__(self, entries: int, make: Callable[..., Any]) -> None:
        self.entries, self.make = entries, make
        self.latest: OrderedDict[Any, Any] = OrderedDict()
        self.of_graphs: dict[Any, Any] = {}

    def __call__(self, *key: Any) -> Any:
        if _capturing(key[-1]):
            return self._for_graph(key)
        entry = (_stream(key[-1]), key)
        value = self.latest.pop(entry, None)
        if value is None:
            # Not tensors of inference mode, which no later backward pass could save.
            with torch.inference_mode(False):
                value = self.make(*key)
        self.latest[entry] = value
        if len(self.latest) > self.entries:
            self.latest.popitem(last=False)
        return value

    def _for_graph(self, key: Any) -> Any:
        if key not in self.of_graphs:
            made = [value for (_, known), value in self.latest.items() if known == key]
            if not made:
                return self.make(*key)
            self.of_graphs[key] = made[-1]
        return self.of_graphs[key]


_kept_axis, _kept_distances = _Kept(64, _axis), _Kept(4, _distances)


def products(rows: Tensor, columns: Tensor) -> Tensor:
    """The relative distances `[..., KY KX, h, w]` of weights `[..., h, KY]` and `[..., w, KX]`, tap by tap."""
    return (rows.mT[..., :, None, :, None] * columns.mT[..., None, :, None, :]).flatten(-4, -3)


def encode(v: Tensor, encoding: str, normalise: str) -> Tensor:
    """What goes into the 1x1 convolution: "exact" undoes the activation that comes after it."""
    if encoding == "raw" or normalise == "signed":
        return v
    if normalise == "softmax":
        return v.clamp(SMALLEST, 1).log()
    return v.logit(SMALLEST)
