"""Modules around `fastwarp.SeparableWarp`: no mathematics of their own."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastwarp._checks import check_fwhm, check_option
from fastwarp.errors import FastwarpError, check_size
from fastwarp.functional.separable import Levels, Size
from fastwarp.warp import SeparableWarp


class _Warped(nn.Module):
    """Holds a fixed warp, or the saliency that one is made from, and keeps both in float32 whatever the network's
    dtype."""

    saliency: Tensor | None
    knots_y: Tensor | None
    knots_x: Tensor | None

    def __init__(self, warp: SeparableWarp | None, saliency: Tensor | None, fwhm: float, anti_crop: bool) -> None:
        super().__init__()
        _check_warp(type(self).__name__, warp)
        if warp is not None and saliency is not None:
            raise FastwarpError(f"{type(self).__name__}: got a warp and a saliency, expected at most one of them")
        self.fwhm, self.anti_crop = check_fwhm(type(self).__name__, fwhm), anti_crop
        if isinstance(saliency, nn.Parameter):
            self.saliency = saliency
        else:
            if saliency is not None:
                warp = SeparableWarp.from_saliency(saliency, fwhm, anti_crop)
            self.register_buffer("saliency", saliency)
        # A saliency defines its knots: these are a cache then, and no part of the state.
        for name in ("knots_y", "knots_x"):
            knots = None if warp is None else getattr(warp, name).detach().clone()
            self.register_buffer(name, knots, persistent=saliency is None)
        self.register_load_state_dict_post_hook(_refresh)

    def _warp(self, warp: SeparableWarp | None) -> SeparableWarp:
        if warp is not None:
            _check_warp(type(self).__name__, warp)
            return warp
        if isinstance(self.saliency, nn.Parameter):
            return SeparableWarp.from_saliency(self.saliency, self.fwhm, self.anti_crop)
        if self.knots_y is None or self.knots_x is None:
            raise FastwarpError(f"{type(self).__name__}: made without a warp, expected one with each call")
        return SeparableWarp(self.knots_y, self.knots_x)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        """`.to`, `.half`, ...: geometry follows to devices, not to half precision (bf16 knots are off by 2e-3)."""

        def keep_precision(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            wide = moved.dtype in (torch.float32, torch.float64) or not moved.dtype.is_floating_point
            return moved if wide else tensor.to(moved.device)

        return super()._apply(keep_precision, recurse)


def _check_warp(function: str, warp: Any) -> None:
    if warp is not None and not isinstance(warp, SeparableWarp):
        raise TypeError(f"{function}: warp is {type(warp).__name__}, expected a SeparableWarp or None")


def _refresh(module: Any, _: Any) -> None:
    """After load_state_dict: the knots of the loaded saliency."""
    if module.saliency is not None and module.knots_y is not None:
        warp = SeparableWarp.from_saliency(module.saliency.detach(), module.fwhm, module.anti_crop)
        module.knots_y.copy_(warp.knots_y)
        module.knots_x.copy_(warp.knots_x)


class Zoom(_Warped):
    """Zooms images to a fixed size, `SeparableWarp.zoom` as a module.

    Args:
        size: (height, width) of the result.
        warp: a fixed warp; its knots are buffers of the state_dict.
        saliency: or a fixed map `[1 or B, h, w]` that the LZ warp is made from, a buffer of the state_dict; an
            `nn.Parameter` is
            learned: the warp is then made anew in every call.
        fwhm: full width at half maximum of the attraction kernel, in cells.
        anti_crop: reflect the marginals at their ends, so that nothing is cropped.
        antialias: see `fastwarp.functional.separable_zoom`.

    Geometry stays in float32 under `.half()`, `.to(torch.bfloat16)` and autocast.

    Raises:
        FastwarpError: both a warp and a saliency; on a call, neither there nor here.

    Example:
        >>> import torch
        >>> zoom = Zoom((6, 8), saliency=torch.rand(1, 5, 5))
        >>> zoom(torch.rand(2, 3, 12, 16)).shape
        torch.Size([2, 3, 6, 8])
    """

    def __init__(
        self,
        size: Size,
        warp: SeparableWarp | None = None,
        *,
        saliency: Tensor | None = None,
        fwhm: float = 13.0,
        anti_crop: bool = True,
        antialias: bool = False,
    ) -> None:
        super().__init__(warp, saliency, fwhm, anti_crop)
        self.size, self.antialias = check_size("Zoom", "size", size), antialias

    def forward(
        self,
        image: Tensor,
        warp: SeparableWarp | None = None,
        *,
        valid: Tensor | None = None,
        source_valid: Tensor | None = None,
    ) -> Tensor:
        """Zooms `[B, C, H, W]` to `[B, C, *size]`, by `warp` where one is given (an adaptive one, say)."""
        options: dict[str, Any] = {"antialias": self.antialias, "valid": valid, "source_valid": source_valid}
        return self._warp(warp).zoom(image, self.size, **options)

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"size={self.size}, antialias={self.antialias}"


class Unzoom(_Warped):
    """Brings zoomed maps back to the source's geometry, `SeparableWarp.unzoom` as a module.

    Args:
        warp: a fixed warp; its knots are buffers of the state_dict.
        saliency: or a fixed or learned map, as for `Zoom`.
        fwhm: full width at half maximum of the attraction kernel, in cells.
        anti_crop: reflect the marginals at their ends, so that nothing is cropped.
        antialias: see `fastwarp.functional.separable_zoom`.
        fill: what targets outside a cropping warp's range get.

    Raises:
        FastwarpError: both a warp and a saliency; on a call, neither there nor here.

    Example:
        >>> import torch
        >>> unzoom = Unzoom(SeparableWarp.identity(1, (5, 5)))
        >>> {name: level.shape for name, level in unzoom({"p3": torch.rand(1, 8, 6, 8)}).items()}
        {'p3': torch.Size([1, 8, 6, 8])}
    """

    def __init__(
        self,
        warp: SeparableWarp | None = None,
        *,
        saliency: Tensor | None = None,
        fwhm: float = 13.0,
        anti_crop: bool = True,
        antialias: bool = False,
        fill: Literal["zeros", "border"] = "zeros",
    ) -> None:
        super().__init__(warp, saliency, fwhm, anti_crop)
        check_option("Unzoom", "fill", fill, ("zeros", "border"))
        self.antialias, self.fill = antialias, fill

    def forward(
        self,
        features: Levels,
        warp: SeparableWarp | None = None,
        size: Any = None,
        *,
        valid: Any = None,
        source_valid: Any = None,
    ) -> Levels:
        """Unzooms a map or a pyramid (list, tuple, dict), by `warp` where one is given."""
        options: dict[str, Any] = {
            "antialias": self.antialias,
            "fill": self.fill,
            "valid": valid,
            "source_valid": source_valid,
        }
        return self._warp(warp).unzoom(features, size, **options)

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"antialias={self.antialias}, fill={self.fill!r}"
