"""Modules around `fastwarp.SeparableWarp` and `fastwarp.MeshWarp`: no mathematics of their own."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from fastwarp._checks import check_fwhm, check_option
from fastwarp._precision import keeping_precision
from fastwarp.errors import FastwarpError, check_size
from fastwarp.functional.separable import Levels, Size
from fastwarp.warp import MeshWarp, SeparableWarp

Warp = SeparableWarp | MeshWarp
Kind = Literal["separable", "mesh"]
KINDS: dict[str, Any] = {"separable": SeparableWarp, "mesh": MeshWarp}


class _Warped(nn.Module):
    """Holds a fixed warp, or the saliency that one is made from, and keeps both in float32 whatever the network's
    dtype."""

    saliency: Tensor | None
    knots_y: Tensor | None
    knots_x: Tensor | None
    mesh: Tensor | None

    def __init__(self, warp: Warp | None, saliency: Tensor | None, kind: str, fwhm: float, anti_crop: bool) -> None:
        super().__init__()
        function = type(self).__name__
        _check_warp(function, warp)
        check_option(function, "kind", kind, tuple(KINDS))
        if warp is not None and saliency is not None:
            raise FastwarpError(f"{function}: got a warp and a saliency, expected at most one of them")
        self.kind, self.fwhm, self.anti_crop = kind, check_fwhm(function, fwhm), anti_crop
        if isinstance(saliency, nn.Parameter):
            self.saliency = saliency
        else:
            if saliency is not None:
                warp = self._from_saliency(saliency)
            self.register_buffer("saliency", saliency)
        self._tile: Any = warp.tile if isinstance(warp, MeshWarp) else "bilinear"
        # A saliency defines its knots: these are a cache then, and no part of the state.
        for name in ("knots_y", "knots_x", "mesh"):
            tensor = getattr(warp, name, None)
            self.register_buffer(name, None if tensor is None else tensor.detach().clone(), persistent=saliency is None)
        self.register_load_state_dict_post_hook(_refresh)

    def _from_saliency(self, saliency: Tensor) -> Warp:
        warp: Warp = KINDS[self.kind].from_saliency(saliency, self.fwhm, self.anti_crop)
        return warp

    def _warp(self, warp: Warp | None) -> Warp:
        if warp is not None:
            _check_warp(type(self).__name__, warp)
            return warp
        if isinstance(self.saliency, nn.Parameter):
            return self._from_saliency(self.saliency)
        if self.mesh is not None:
            return MeshWarp(self.mesh, self._tile)
        if self.knots_y is None or self.knots_x is None:
            raise FastwarpError(f"{type(self).__name__}: made without a warp, expected one with each call")
        return SeparableWarp(self.knots_y, self.knots_x)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        return super()._apply(keeping_precision(fn), recurse)


def _check_warp(function: str, warp: Any) -> None:
    if warp is not None and not isinstance(warp, (SeparableWarp, MeshWarp)):
        raise TypeError(f"{function}: warp is {type(warp).__name__}, expected a SeparableWarp, a MeshWarp or None")


def _refresh(module: Any, _: Any) -> None:
    """After load_state_dict: the knots, or the mesh, of the loaded saliency."""
    if module.saliency is not None and not isinstance(module.saliency, nn.Parameter):
        warp = module._from_saliency(module.saliency)
        for name in ("knots_y", "knots_x", "mesh"):
            if getattr(module, name) is not None:
                getattr(module, name).copy_(getattr(warp, name))


class Zoom(_Warped):
    """Zooms images to a fixed size, `SeparableWarp.zoom` or `MeshWarp.zoom` as a module.

    Args:
        size: (height, width) of the result.
        warp: a fixed warp; its knots or its mesh are buffers of the state_dict.
        saliency: or a fixed map `[1 or B, h, w]` that the LZ warp is made from, a buffer of the state_dict; an
            `nn.Parameter` is learned: the warp is then made anew in every call.
        kind: of warp to make from the saliency: `"separable"` or `"mesh"`.
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
        warp: Warp | None = None,
        *,
        saliency: Tensor | None = None,
        kind: Kind = "separable",
        fwhm: float = 13.0,
        anti_crop: bool = True,
        antialias: bool = False,
    ) -> None:
        super().__init__(warp, saliency, kind, fwhm, anti_crop)
        self.size, self.antialias = check_size("Zoom", "size", size), antialias

    def forward(
        self,
        image: Tensor,
        warp: Warp | None = None,
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
    """Brings zoomed maps back to the source's geometry, `SeparableWarp.unzoom` or `MeshWarp.unzoom`
    as a module.

    Args:
        warp: a fixed warp; its knots or its mesh are buffers of the state_dict.
        saliency: or a fixed or learned map, as for `Zoom`.
        kind: of warp to make from the saliency: `"separable"` or `"mesh"`.
        fwhm: full width at half maximum of the attraction kernel, in cells.
        anti_crop: reflect the marginals at their ends, so that nothing is cropped.
        antialias: see `fastwarp.functional.separable_zoom`.
        padding_mode: what targets outside a cropping warp's range get.

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
        warp: Warp | None = None,
        *,
        saliency: Tensor | None = None,
        kind: Kind = "separable",
        fwhm: float = 13.0,
        anti_crop: bool = True,
        antialias: bool = False,
        padding_mode: Literal["zeros", "border"] = "zeros",
    ) -> None:
        super().__init__(warp, saliency, kind, fwhm, anti_crop)
        check_option("Unzoom", "padding_mode", padding_mode, ("zeros", "border"))
        self.antialias, self.padding_mode = antialias, padding_mode

    def forward(
        self,
        features: Levels,
        warp: Warp | None = None,
        size: Any = None,
        *,
        valid: Any = None,
        source_valid: Any = None,
    ) -> Levels:
        """Unzooms a map or a pyramid (list, tuple, dict), by `warp` where one is given."""
        options: dict[str, Any] = {
            "antialias": self.antialias,
            "padding_mode": self.padding_mode,
            "valid": valid,
            "source_valid": source_valid,
        }
        return self._warp(warp).unzoom(features, size, **options)

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"antialias={self.antialias}, padding_mode={self.padding_mode!r}"
