"""Warps that act on rows and columns separately."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data._utils.collate import default_collate_fn_map

from fastwarp import functional as F
from fastwarp._checks import check_knot_values, check_knots
from fastwarp.errors import as_integer, check_devices, check_size, fail
from fastwarp.functional.geometry import map_points
from fastwarp.functional.label import Reduce
from fastwarp.functional.separable import Levels, Mode, Size, windows_of
from fastwarp.warp._points import Points


class SeparableWarp(Points):
    """A batch of warps that act on rows and columns separately, LZU eq. 3-5: T~(x, y) = (T~x(x), T~y(y)).

    T~ maps positions of the zoomed image to positions of the source, in [0, 1] with align_corners=True. It is linear
    between its knots, T sampled on uniform grids, so that its inverse is exact: unzoom undoes zoom. Frozen; a pytree
    (torch.compile, vmap, DDP's inputs); a batch of 1 is shared by all images.

    Args:
        knots_y: `[B, h]`, float32 or float64, h >= 2, non-decreasing; positions in the source. A NaN in the knots of
            either axis makes the whole image NaN.
        knots_x: `[B, w]`, likewise.

    Raises:
        FastwarpError: wrong rank, fewer than 2 knots, different batch sizes or devices. Decreasing knots raise where
            they are used, on CPUs; on GPUs looking would wait for the device: use `check()` or `FASTWARP_CHECKS=1`.
        TypeError: not tensors of one of the two dtypes.

    Examples:
        >>> import torch
        >>> saliency = torch.zeros(1, 31, 51)
        >>> saliency[:, 12:18, 20:30] = 1  # look here
        >>> warp = SeparableWarp.from_saliency(saliency)
        >>> image = torch.rand(1, 3, 240, 320)
        >>> small = warp.zoom(image, (120, 160))
        >>> pyramid = [torch.rand(1, 8, 15, 20), torch.rand(1, 8, 8, 10)]  # a network's, of `small`
        >>> [tuple(level.shape) for level in warp.unzoom(pyramid)]
        [(1, 8, 15, 20), (1, 8, 8, 10)]
    """

    def __init__(self, knots_y: Tensor, knots_x: Tensor) -> None:
        check_knots("SeparableWarp", knots_y, knots_x)
        self._knots = knots_y, knots_x

    @property
    def knots_y(self) -> Tensor:
        """`[B, h]`."""
        return self._knots[0]

    @property
    def knots_x(self) -> Tensor:
        """`[B, w]`."""
        return self._knots[1]

    @classmethod
    def _unchecked(cls, knots: Any) -> SeparableWarp:
        """Of knots that are checked where they are used, and of what trees are rebuilt around: stacked knots, and
        things that are no tensors."""
        warp = object.__new__(cls)
        warp._knots = tuple(knots)
        return warp

    # --- constructors -------------------------------------------------------------------------------------------------

    @classmethod
    def from_saliency(cls, saliency: Tensor, fwhm: float = 13.0, anti_crop: bool = True) -> SeparableWarp:
        """The LZ warp of a saliency map `[B, h, w]`, LZU eq. 3 and 4; see `fastwarp.functional.lz_knots`."""
        return cls._unchecked(F.lz_knots(saliency, fwhm, anti_crop))

    @classmethod
    def from_marginals(
        cls, marginal_y: Tensor, marginal_x: Tensor, fwhm: float = 13.0, anti_crop: bool = True
    ) -> SeparableWarp:
        """The LZ warp of the marginals `[B, h]`, `[B, w]` of a map; see
        `fastwarp.functional.lz_knots_from_marginals`."""
        return cls(*F.lz_knots_from_marginals(marginal_y, marginal_x, fwhm, anti_crop))

    @classmethod
    def from_cdf(
        cls, marginal_y: Tensor, marginal_x: Tensor, knots: tuple[int | None, int | None] = (None, None)
    ) -> SeparableWarp:
        """The warp that samples rows and columns in proportion to densities `[B, h]`, `[B, w]`, as TASN and AttWarp do.

        Args:
            marginal_y: density of the rows, see `fastwarp.functional.cdf_knots`.
            marginal_x: density of the columns.
            knots: numbers of knots in y and x; None: one more than cells.
        """
        if not isinstance(knots, Sequence):
            raise TypeError(f"SeparableWarp.from_cdf: knots is {knots!r}, expected two numbers or None")
        if len(knots) != 2:
            raise fail("SeparableWarp.from_cdf", "knots", knots, "two numbers or None")
        return cls(F.cdf_knots(marginal_y, knots[0]), F.cdf_knots(marginal_x, knots[1]))

    @classmethod
    def identity(
        cls,
        batch: int = 1,
        shape: Size = (2, 2),
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> SeparableWarp:
        """The warp that does nothing, with `shape` (h, w) knots."""
        count = as_integer(batch)
        if count is None:
            raise TypeError(f"SeparableWarp.identity: batch is {batch!r}, expected an integer")
        if count < 0:
            raise fail("SeparableWarp.identity", "batch", count, "0 or more")
        rows = [
            torch.linspace(0, 1, n, dtype=dtype, device=device).repeat(count, 1)
            for n in check_size("SeparableWarp.identity", "shape", shape)
        ]
        return cls(*rows)

    @staticmethod
    def cat(warps: Sequence[SeparableWarp]) -> SeparableWarp:
        """One batch of several warps with equal numbers of knots."""
        if not warps:
            raise fail("SeparableWarp.cat", "warps", "empty", "at least one warp")
        for warp in warps:
            if not isinstance(warp, SeparableWarp):
                raise TypeError(f"SeparableWarp.cat: warps has {type(warp).__name__}, expected SeparableWarp")
            check_devices("SeparableWarp.cat", first=warps[0].knots_y, other=warp.knots_y)
        shapes = {(w.knots_y.shape[1], w.knots_x.shape[1]) for w in warps}
        if len(shapes) > 1:
            raise fail("SeparableWarp.cat", "warps", f"of {sorted(shapes)} knots", "equal numbers of knots")
        return SeparableWarp(torch.cat([w.knots_y for w in warps]), torch.cat([w.knots_x for w in warps]))

    # --- as a batch ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return max(self.knots_y.shape[0], self.knots_x.shape[0])

    def __getitem__(self, index: Any) -> SeparableWarp:
        """Some warps of the batch; an integer keeps a batch of 1."""
        batch = len(self)
        number = as_integer(index)
        if number is not None:
            if not -batch <= number < batch:
                raise IndexError(f"SeparableWarp: index {number} is out of range for a batch of {batch}")
            index = slice(number % batch, number % batch + 1)
        return SeparableWarp(*(k.expand(batch, -1)[index] for k in (self.knots_y, self.knots_x)))

    def __repr__(self) -> str:
        shape = (self.knots_y.shape[1], self.knots_x.shape[1])
        return f"SeparableWarp(batch={len(self)}, knots={shape}, {self.knots_y.dtype}, device='{self.knots_y.device}')"

    def to(self, *args: Any, **kwargs: Any) -> SeparableWarp:
        """On another device, or in float32 or float64: takes what `torch.Tensor.to` does."""
        return SeparableWarp(*(k.to(*args, **kwargs) for k in self._knots))

    def pin_memory(self) -> SeparableWarp:
        """In page-locked memory, as `DataLoader(pin_memory=True)` asks for."""
        return SeparableWarp(*(k.pin_memory() for k in self._knots))

    def detach(self) -> SeparableWarp:
        """Without gradients to the knots."""
        return SeparableWarp(self.knots_y.detach(), self.knots_x.detach())

    def limited(self, min_magnification: float | None = None, max_magnification: float | None = None) -> SeparableWarp:
        """The warp whose magnification along each axis stays within limits, relative to uniform resizing; see
        `fastwarp.functional.limited_knots`."""
        limits = (min_magnification, max_magnification)
        return SeparableWarp(F.limited_knots(self.knots_y, *limits), F.limited_knots(self.knots_x, *limits))

    def check(self) -> SeparableWarp:
        """Raises FastwarpError if knots are not finite or decrease, naming the first; returns the warp. Waits for a
        GPU."""
        check_knot_values("SeparableWarp.check", knots_y=self.knots_y, knots_x=self.knots_x)
        return self

    # --- images -------------------------------------------------------------------------------------------------------

    def zoom(
        self,
        image: Tensor,
        size: Size,
        *,
        mode: Mode = "bilinear",
        antialias: bool = False,
        valid: Tensor | None = None,
        source_valid: Tensor | None = None,
    ) -> Tensor:
        """Zooms `[B, C, H, W]` to `[B, C, *size]`; see `fastwarp.functional.separable_zoom`."""
        y, x = self._knots
        return F.separable_zoom(
            image,
            y,
            x,
            size,
            mode=mode,
            antialias=antialias,
            valid=valid,
            source_valid=source_valid,
        )

    def unzoom(
        self,
        features: Levels,
        size: Any = None,
        *,
        mode: Mode = "bilinear",
        antialias: bool = False,
        padding_mode: Literal["zeros", "border"] = "zeros",
        valid: Any = None,
        source_valid: Any = None,
        image_size: Any = None,
        strides: Any = None,
        phase: Any = 0.0,
        outside: Literal["keep", "fill"] = "keep",
    ) -> Levels:
        """Brings zoomed maps back to the source's geometry; see `fastwarp.functional.separable_unzoom`.

        `features` is a tensor, or a list, tuple or dict of levels, in one launch; each keeps its size unless `size`
        says otherwise. Give `image_size`, that of the network's input, for maps of a strided network: they are then
        registered exactly.
        """
        y, x = self._knots
        return F.separable_unzoom(
            features,
            y,
            x,
            size,
            mode=mode,
            antialias=antialias,
            padding_mode=padding_mode,
            valid=valid,
            source_valid=source_valid,
            image_size=image_size,
            strides=strides,
            phase=phase,
            outside=outside,
        )

    def zoom_labels(
        self,
        labels: Tensor,
        size: Size,
        ignore_index: int = 255,
        reduce: Reduce = "nearest",
        *,
        valid: Tensor | None = None,
        source_valid: Tensor | None = None,
    ) -> Tensor:
        """Zooms class ids `[B, H, W]`, `[H, W]` or `[B, C, H, W]`: the nearest pixel's, or that of most pixels; see
        `fastwarp.functional.separable_zoom_labels`."""
        extents = {"valid": valid, "source_valid": source_valid}
        return F.separable_zoom_labels(labels, self.knots_y, self.knots_x, size, ignore_index, reduce, **extents)

    def unzoom_labels(
        self,
        labels: Tensor,
        size: Size | None = None,
        ignore_index: int = 255,
        reduce: Reduce = "nearest",
        *,
        valid: Tensor | None = None,
        source_valid: Tensor | None = None,
        image_size: Any = None,
        strides: Any = None,
        phase: Any = 0.0,
    ) -> Tensor:
        """Brings class ids back to the source's geometry; what the warp has lost is `ignore_index`. See
        `fastwarp.functional.separable_unzoom_labels`.

        Give `image_size`, that of the network's input, for what a strided network predicts: it is then registered
        exactly.
        """
        options: dict[str, Any] = {
            "valid": valid,
            "source_valid": source_valid,
            "image_size": image_size,
            "strides": strides,
            "phase": phase,
        }
        return F.separable_unzoom_labels(labels, self.knots_y, self.knots_x, size, ignore_index, reduce, **options)

    def zoom_soft_labels(
        self, labels: Tensor, size: Size, *, valid: Tensor | None = None, source_valid: Tensor | None = None
    ) -> Tensor:
        """Zooms probabilities of classes `[B, K, H, W]`, averaged, so that they still sum to one; see
        `fastwarp.functional.separable_zoom_soft_labels`."""
        extents = {"valid": valid, "source_valid": source_valid}
        return F.separable_zoom_soft_labels(labels, self.knots_y, self.knots_x, size, **extents)

    def unzoom_soft_labels(
        self,
        labels: Tensor,
        size: Size | None = None,
        *,
        valid: Tensor | None = None,
        source_valid: Tensor | None = None,
        image_size: Any = None,
        strides: Any = None,
        phase: Any = 0.0,
    ) -> Tensor:
        """Brings probabilities of classes `[B, K, h, w]` back to the source's geometry, averaged; what the warp
        has lost is 1 / K. See `fastwarp.functional.separable_unzoom_soft_labels`."""
        options: dict[str, Any] = {
            "valid": valid,
            "source_valid": source_valid,
            "image_size": image_size,
            "strides": strides,
            "phase": phase,
        }
        return F.separable_unzoom_soft_labels(labels, self.knots_y, self.knots_x, size, **options)

    def zoom_frame(self, frame: Tensor, size: Size, **options: Any) -> Tensor:
        """Zooms and normalises uint8 `[H, W, C]` or `[B, H, W, C]` in one pass; see
        `fastwarp.functional.separable_zoom_frame`."""
        return F.separable_zoom_frame(frame, *self._knots, size, **options)

    # --- geometry -----------------------------------------------------------------------------------------------------

    def grid(self, size: Size) -> Tensor:
        """Grid of the zoom `[B, *size, 2]` for `F.grid_sample(..., align_corners=True)`."""
        return F.separable_grid(*self._knots, size)

    def inverse_grid(self, size: Size) -> Tensor:
        """Grid of the unzoom `[B, *size, 2]` for `F.grid_sample(..., align_corners=True)`; -3 outside the range of
        T~."""
        return F.separable_grid(*self._knots, size, inverse=True)

    def inside(self, size: Size) -> Tensor:
        """Bool `[B, *size]`: where an unzoom has something to read."""
        return F.separable_inside(*self._knots, size)

    def magnification(self, size: Size) -> Tensor:
        """Area magnification `[B, *size]` over the source, relative to uniform resizing."""
        return F.separable_magnification(*self._knots, size)

    def _tiles(self) -> tuple[int, int]:
        return self.knots_y.shape[1] - 1, self.knots_x.shape[1] - 1

    def _windows(self) -> tuple[Any, bool, torch.device]:
        knots = self.knots_y.detach(), self.knots_x.detach()
        return functools.partial(windows_of, knots), True, knots[0].device

    def _map(self, name: str, points: Tensor, source_size: Any, size: Any, inverse: bool) -> Tensor:
        return map_points(name, points, self.knots_y, self.knots_x, source_size, size, inverse)


pytree.register_pytree_node(
    SeparableWarp,
    lambda warp: (list(warp._knots), None),
    lambda knots, _: SeparableWarp._unchecked(knots),
    serialized_type_name="fastwarp.SeparableWarp",
)

# As torch documents it: batches of a DataLoader's samples. Nothing changes for other types.
default_collate_fn_map[SeparableWarp] = lambda warps, *, collate_fn_map=None: SeparableWarp.cat(warps)
