"""Modules around `fastwarp.SeparableWarp` and `fastwarp.MeshWarp`: no mathematics of their own."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor, nn

from fastwarp._checks import as_geometry, check_fwhm, check_mode, check_option, check_saliency
from fastwarp._precision import keeping_precision
from fastwarp.errors import FastwarpError, check_size
from fastwarp.functional.separable import Levels, Mode, Size
from fastwarp.saliency import AdaptiveSaliency, FixedSaliency, LearnedSaliency, PerspectivePrior
from fastwarp.warp import MeshWarp, SeparableWarp

Warp = SeparableWarp | MeshWarp
Kind = Literal["separable", "mesh"]
KINDS: dict[str, Any] = {"separable": SeparableWarp, "mesh": MeshWarp}
WITHOUT_IMAGE = (FixedSaliency, PerspectivePrior)
"""Modules whose map is the same for all images; any other is called with the images."""
TWO = "got a warp and a saliency, expected at most one of them"


class _Warped(nn.Module):
    """Holds a fixed warp, or the saliency that one is made from, and keeps both in float32 whatever the network's
    dtype.

    Whatever sets the buffers and parameters sets the warp: nothing that is made from them outlives a call.
    """

    saliency: Tensor | nn.Module | None
    knots_y: Tensor | None
    knots_x: Tensor | None
    mesh: Tensor | None

    def __init__(
        self, warp: Warp | None, saliency: Tensor | nn.Module | None, kind: str, fwhm: float, anti_crop: bool
    ) -> None:
        super().__init__()
        function = type(self).__name__
        _check_warp(function, warp)
        check_option(function, "kind", kind, tuple(KINDS))
        if warp is not None and saliency is not None:
            raise FastwarpError(f"{function}: {TWO}")
        self.kind, self.fwhm, self.anti_crop = kind, check_fwhm(function, fwhm), anti_crop
        if isinstance(saliency, AdaptiveSaliency):
            expected = "a map, or a module from images to maps; pass the warps of its knots() with each call"
            raise TypeError(f"{function}: saliency is AdaptiveSaliency, expected {expected}")
        if saliency is not None and not isinstance(saliency, nn.Module):
            check_saliency(function, "saliency", saliency)
        self._tile: Any = warp.tile if isinstance(warp, MeshWarp) else "bilinear"
        buffers = {name: getattr(warp, name, None) for name in ("knots_y", "knots_x", "mesh")}
        if isinstance(saliency, (nn.Parameter, nn.Module)):
            self.saliency = saliency
        else:
            buffers["saliency"] = None if saliency is None else as_geometry(saliency)
        # Those that are None come last: torch.export (2.13) counts them as inputs of the graph if others follow.
        for name, tensor in sorted(buffers.items(), key=lambda item: item[1] is None):
            self.register_buffer(name, None if tensor is None else _own(tensor))

    def warp_of(self, image: Tensor | None = None, valid: Tensor | None = None) -> Warp:
        """The warp that a call without a `warp` uses: to map boxes, or to hand on from a `Zoom` to an `Unzoom`.

        Args:
            image: `[B, C, H, W]`, what a saliency module looks at; others need none.
            valid: integer `[B, 2]`, (height, width) of the part of each image that is not padding, for a
                `LearnedSaliency`.

        Raises:
            FastwarpError: made without a warp; both a warp and a saliency are set; a saliency module without an image.
        """
        function = type(self).__name__
        saliency = self.saliency
        if isinstance(saliency, nn.Module):
            if isinstance(saliency, WITHOUT_IMAGE):
                saliency = saliency()
            elif image is None:
                raise FastwarpError(f"{function}: {type(saliency).__name__} looks at images, expected one, or a warp")
            elif isinstance(saliency, LearnedSaliency):
                saliency = saliency(image, valid)
            else:
                saliency = saliency(image)
        if saliency is None and self.mesh is not None:
            return MeshWarp._unchecked(self.mesh, self._tile)
        if saliency is None and self.knots_y is not None and self.knots_x is not None:
            return SeparableWarp._unchecked((self.knots_y, self.knots_x))
        if saliency is None:
            raise FastwarpError(f"{function}: made without a warp, expected one with each call")
        if any(tensor is not None for tensor in (self.mesh, self.knots_y, self.knots_x)):
            raise FastwarpError(f"{function}: {TWO}")
        made: Warp = KINDS[self.kind].from_saliency(saliency, self.fwhm, self.anti_crop)
        return made

    def _warp(self, warp: Warp | None, image: Tensor | None = None, valid: Tensor | None = None) -> Warp:
        _check_warp(type(self).__name__, warp)
        return self.warp_of(image, valid) if warp is None else warp

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        keeping = keeping_precision(fn)
        for name, module in self.named_children() if recurse else ():
            module._apply(fn if name == "saliency" else keeping)  # a network, or what torch parametrizes a map by
        return super()._apply(keeping, recurse=False)


def _own(tensor: Tensor) -> Tensor:
    """A copy: loading a state_dict writes into buffers, and must not write into what the caller passed."""
    return tensor.detach().clone()


def _check_warp(function: str, warp: Any) -> None:
    if warp is not None and not isinstance(warp, (SeparableWarp, MeshWarp)):
        raise TypeError(f"{function}: warp is {type(warp).__name__}, expected a SeparableWarp, a MeshWarp or None")


class Zoom(_Warped):
    """Zooms images to a fixed size, `SeparableWarp.zoom` or `MeshWarp.zoom` as a module.

    Args:
        size: (height, width) of the result; None: each call says it.
        warp: a fixed warp; its knots or its mesh are buffers of the state_dict. Copied.
        saliency: or what the LZ warp is made from in every call: a fixed map `[1 or B, h, w]`, copied to a buffer of
            the state_dict; an `nn.Parameter`, which is learned and may be shared with other modules; or a module, e.g.
            a `fastwarp.saliency.FixedSaliency`, or a `LearnedSaliency`, which is called with the images and with
            `source_valid`, the part of each that is no padding.
        kind: of warp to make from the saliency: `"separable"` or `"mesh"`.
        fwhm: full width at half maximum of the attraction kernel, in cells.
        anti_crop: reflect the marginals at their ends, so that nothing is cropped.
        mode: see `fastwarp.functional.separable_zoom`.
        antialias: likewise.

    The warp is always that of the current `saliency`, `knots_y`, `knots_x` or `mesh`, however they were set: loaded,
    assigned (which makes no copy, as in any module), changed in place. Making it from a map takes a few microseconds
    of each call; a `warp` takes none. Geometry stays in float32 under `.half()`, `.to(torch.bfloat16)` and autocast.

    Raises:
        FastwarpError: both a warp and a saliency; on a call, neither there nor here, or no size.
        TypeError: another type; an `AdaptiveSaliency`, whose maps are not made of images.

    Examples:
        >>> import torch
        >>> zoom = Zoom((6, 8), saliency=torch.rand(1, 5, 5))
        >>> zoom(torch.rand(2, 3, 12, 16)).shape
        torch.Size([2, 3, 6, 8])
    """

    def __init__(
        self,
        size: Size | None = None,
        warp: Warp | None = None,
        *,
        saliency: Tensor | nn.Module | None = None,
        kind: Kind = "separable",
        fwhm: float = 13.0,
        anti_crop: bool = True,
        mode: Mode = "bilinear",
        antialias: bool = False,
    ) -> None:
        super().__init__(warp, saliency, kind, fwhm, anti_crop)
        check_mode("Zoom", mode, antialias)
        self.size = None if size is None else check_size("Zoom", "size", size)
        self.mode, self.antialias = mode, antialias

    def forward(
        self,
        image: Tensor,
        warp: Warp | None = None,
        size: Size | None = None,
        *,
        valid: Tensor | None = None,
        source_valid: Tensor | None = None,
    ) -> Tensor:
        """Zooms `[B, C, H, W]` to `[B, C, *size]`, by `warp` (an adaptive one, say) and to `size` where they are
        given."""
        size = self.size if size is None else size
        if size is None:
            raise FastwarpError("Zoom: made without a size, expected one with each call")
        options: dict[str, Any] = {
            "mode": self.mode,
            "antialias": self.antialias,
            "valid": valid,
            "source_valid": source_valid,
        }
        return self._warp(warp, image, source_valid).zoom(image, size, **options)

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"size={self.size}, antialias={self.antialias}, mode={self.mode!r}"


class Unzoom(_Warped):
    """Brings zoomed maps back to the source's geometry, `SeparableWarp.unzoom` or `MeshWarp.unzoom`
    as a module.

    Args:
        warp: a fixed warp; its knots or its mesh are buffers of the state_dict. Copied.
        saliency: or a fixed or learned map, or a module, as for `Zoom`; where it looks at images, each call needs the
            warp, which `Zoom.warp_of` gives.
        kind: of warp to make from the saliency: `"separable"` or `"mesh"`.
        fwhm: full width at half maximum of the attraction kernel, in cells.
        anti_crop: reflect the marginals at their ends, so that nothing is cropped.
        mode: see `fastwarp.functional.separable_zoom`.
        antialias: likewise.
        padding_mode: what targets outside a cropping warp's range get.
        strides: of the network's levels, see `fastwarp.functional.separable_unzoom`; for calls with an `image_size`,
            as the following.
        phase: likewise.
        outside: likewise.

    Raises:
        FastwarpError: both a warp and a saliency; on a call, neither there nor here.
        TypeError: see `Zoom`.

    Examples:
        >>> import torch
        >>> unzoom = Unzoom(SeparableWarp.identity(1, (5, 5)))
        >>> {name: level.shape for name, level in unzoom({"p3": torch.rand(1, 8, 6, 8)}).items()}
        {'p3': torch.Size([1, 8, 6, 8])}
    """

    def __init__(
        self,
        warp: Warp | None = None,
        *,
        saliency: Tensor | nn.Module | None = None,
        kind: Kind = "separable",
        fwhm: float = 13.0,
        anti_crop: bool = True,
        mode: Mode = "bilinear",
        antialias: bool = False,
        padding_mode: Literal["zeros", "border"] = "zeros",
        strides: Any = None,
        phase: Any = 0.0,
        outside: Literal["keep", "fill"] = "keep",
    ) -> None:
        super().__init__(warp, saliency, kind, fwhm, anti_crop)
        check_option("Unzoom", "padding_mode", padding_mode, ("zeros", "border"))
        check_option("Unzoom", "outside", outside, ("keep", "fill"))
        check_mode("Unzoom", mode, antialias)
        self.mode, self.antialias, self.padding_mode = mode, antialias, padding_mode
        self.strides, self.phase, self.outside = strides, phase, outside

    def forward(
        self,
        features: Levels,
        warp: Warp | None = None,
        size: Any = None,
        *,
        valid: Any = None,
        source_valid: Any = None,
        image_size: Any = None,
    ) -> Levels:
        """Unzooms a map or a pyramid (list, tuple, dict), by `warp` where one is given; registered exactly where the
        `image_size` of the network's input is."""
        options: dict[str, Any] = {
            "mode": self.mode,
            "antialias": self.antialias,
            "padding_mode": self.padding_mode,
            "valid": valid,
            "source_valid": source_valid,
        }
        if image_size is not None:
            options.update(image_size=image_size, strides=self.strides, phase=self.phase, outside=self.outside)
        return self._warp(warp).unzoom(features, size, **options)

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"antialias={self.antialias}, padding_mode={self.padding_mode!r}, mode={self.mode!r}"
