"""What `fastwarp.attach` has to know of a network, and of each of its batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from torch import Tensor

from fastwarp.errors import fail
from fastwarp.warp import MeshWarp, SeparableWarp


@dataclasses.dataclass
class Facts:
    """What only the framework, or its user, knows of a batch. All of it may stay unknown.

    Args:
        valid: (height, width) of the part of each of the network's images that is not padding, a list of pairs or an
            integer tensor `[B, 2]`. None: there is no padding.
        boxes: of each image, `[N, 4]` (x1, y1, x2, y2) relative to the image without its padding, 0 to 1.
        streams: the video that each image is the next frame of. None: 0 .. B - 1.
        flipped: whether the images were flipped horizontally: a bool for all, or one for each.
        warp: instead of what the saliency says.
        source: the larger images that pixels are taken from, normalised as the network's: a batch, a list of
            `[C, H, W]`, or a function that makes one of them when it is needed.
    """

    valid: Sequence[Sequence[int]] | Tensor | None = None
    boxes: Sequence[Tensor] | None = None
    streams: Sequence[Hashable] | None = None
    flipped: bool | Sequence[bool] | Tensor = False
    warp: SeparableWarp | MeshWarp | None = None
    source: Tensor | Sequence[Tensor] | Callable[[], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Host:
    """Where a network is zoomed and unzoomed, and how its batches are read.

    Functions have to be defined at the top of a module, so that the network can be pickled.

    Args:
        zoom: name of the submodule whose image is zoomed: the first 4-D floating-point tensor that it is called with.
        unzoom: name of the submodule whose maps are unzoomed. None: nothing is, as in FOVEA and LDS.
        into: unzoom what goes into that submodule, not what comes out of it.
        keys: the entries of its dict-like output (with `into`, its keyword arguments) that are maps. None: every 4-D
            floating-point tensor, in lists, tuples and dicts too.
        phase: cell i of a map of stride s is at pixel `s i + phase (s - 1)`: 0 for convolutions of odd size with
            padding (ResNet), 0.5 for patches (ViT, Swin, ConvNeXt). One number for all maps, or one for each.
        strides: of the maps. None: those that explain their sizes.
        divisor: the network takes images whose sides are multiples of it.
        relative: its labels and results are relative to the image, so that it may run at another `scale`. Networks
            that count pixels, by anchors or points, may not.
        facts: `(module, args, kwargs, output) -> Facts` reads a batch.
        facts_at: the submodule whose call that function sees; "" is the network itself.
        after: it sees the output, too; else that is None.
        found: `(output, args, kwargs)` of the network `-> (boxes, scores)`, lists over the images, boxes as in `Facts`,
            or None: what an adaptive saliency remembers for the next frame.

    Raises:
        FastwarpError: a divisor below 1.
        TypeError: names that are no text.

    Examples:
        >>> Host(zoom="backbone", unzoom="neck").phase
        0.0
    """

    zoom: str
    unzoom: str | None
    into: bool = False
    keys: tuple[str, ...] | None = None
    phase: float | tuple[float, ...] = 0.0
    strides: tuple[int, ...] | None = None
    divisor: int = 1
    relative: bool = False
    facts: Callable[..., Facts] | None = None
    facts_at: str = ""
    after: bool = False
    found: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        for name in ("zoom", "unzoom", "facts_at"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (name == "unzoom" and value is None):
                raise TypeError(f"Host: {name} is {value!r}, expected the name of a submodule")
        if self.divisor < 1:
            raise fail("Host", "divisor", self.divisor, "at least 1")
