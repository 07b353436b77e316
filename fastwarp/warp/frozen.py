"""A warp whose maps are computed once, for fixed sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastwarp._checks import check_images, check_option, level_arguments, rebuild
from fastwarp._precision import keeping_precision
from fastwarp.errors import FastwarpError, call, check_size, check_together
from fastwarp.functional._registration import check_unregistered, keep_padding, places, registration
from fastwarp.functional.separable import Levels, Size

_ops = torch.ops.fastwarp


class FrozenWarp(nn.Module):
    """What each target of a fixed warp reads, as buffers: made by `SeparableWarp.freeze` and `MeshWarp.freeze`.

    `zoom` and `unzoom` do what the warp's do, bit by bit, for the sizes that it was made for. Nothing is computed of
    the warp any more, so that a mesh is exported, too. Buffers stay in float32 under `.half()`; they have no gradient.

    Attributes:
        source_size: (height, width) of the images.
        size: of the zoomed ones.
        feature_sizes: of the maps that are unzoomed.
    """

    zoom_windows: Tensor
    unzoom_windows: Tensor
    cells: Tensor | None

    def __init__(
        self,
        windows: Callable[..., Tensor],
        separable: bool,
        source_size: Size,
        size: Size,
        feature_sizes: Sequence[Size],
        antialias: bool,
        padding_mode: str,
        registered: dict[str, Any],
        device: torch.device,
    ) -> None:
        super().__init__()
        check_option("freeze", "padding_mode", padding_mode, ("zeros", "border"))
        if not isinstance(feature_sizes, Sequence):
            raise TypeError(f"freeze: feature_sizes is {feature_sizes!r}, expected a list of (height, width)")
        self.source_size, self.size = (
            check_size("freeze", "source_size", source_size),
            check_size("freeze", "size", size),
        )
        self.feature_sizes = [check_size("freeze", "feature_sizes", one) for one in feature_sizes]
        self.antialias, self._separable = bool(antialias), separable
        source, target = list(self.source_size), list(self.size)
        flat = [side for pair in self.feature_sizes for side in pair]
        axes = None
        if registered["image_size"] is None:
            check_unregistered("freeze", registered["strides"])
        elif flat:
            maps = [torch.empty(1, 1, *pair, device="meta") for pair in self.feature_sizes]
            like = torch.empty(0, device=device)
            options = registered | {"valid": None, "outside": "keep"}
            about = registration("freeze", "features", maps, maps, like, options, size=None, source_valid=None)
            axes = places(about, flat, like)
        with torch.no_grad():
            zoom = windows(target, source, False, self.antialias, True, None)
            unzoom = zoom.new_empty(len(zoom), 2, 0)
            if flat:
                unzoom = windows(flat, flat, True, self.antialias, padding_mode == "border", axes)
        self.register_buffer("zoom_windows", zoom)
        self.register_buffer("unzoom_windows", unzoom)
        self.register_buffer("cells", None if axes is None else axes.extents)

    def forward(self, image: Tensor) -> Tensor:
        """As `zoom`."""
        return self.zoom(image)

    def zoom(self, image: Tensor) -> Tensor:
        """Zooms `[B, C, *source_size]` to `[B, C, *size]`.

        Raises:
            FastwarpError: images of another size; another batch size than that of several warps.
            TypeError: wrong types.
        """
        check_images("FrozenWarp.zoom", "image", [image])
        self._check("zoom", [image], [self.source_size])
        check_together("FrozenWarp.zoom", batch=len(image), warps=self.zoom_windows)
        return self._call("zoom", [image], self.zoom_windows, list(self.size), None)[0]

    def unzoom(self, features: Levels) -> Levels:
        """Unzooms maps of `feature_sizes`: a tensor, or a list, tuple or dict of levels.

        Raises:
            FastwarpError: other sizes or numbers of maps; another batch size than that of several warps.
            TypeError: wrong types.
        """
        maps, _ = level_arguments("FrozenWarp.unzoom", features, None)
        self._check("unzoom", maps, self.feature_sizes)
        check_together("FrozenWarp.unzoom", batch=len(maps[0]), warps=self.unzoom_windows)
        sizes = [side for pair in self.feature_sizes for side in pair]
        results = self._call("unzoom", maps, self.unzoom_windows, sizes, self.cells)
        return rebuild(features, keep_padding(self.cells, maps, results))

    def _call(
        self, name: str, images: list[Tensor], windows: Tensor, sizes: list[int], cells: Tensor | None
    ) -> list[Tensor]:
        if self._separable:
            return call(f"FrozenWarp.{name}", _ops.separable_resample, images, windows, sizes, cells, self.antialias)
        return call(f"FrozenWarp.{name}", _ops.grid_resample, images, windows, sizes, cells)

    def _check(self, name: str, images: list[Tensor], expected: list[tuple[int, int]]) -> None:
        found = [tuple(image.shape[2:]) for image in images]
        if found != expected:
            raise FastwarpError(f"FrozenWarp.{name}: got maps of {found}, frozen for {expected}")

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        return super()._apply(keeping_precision(fn), recurse)

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"source_size={self.source_size}, size={self.size}, feature_sizes={self.feature_sizes}"
