"""The state of one attachment: the hooks of a network, and what is known of the batch under way."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastwarp._checks import as_geometry, check_fwhm, check_option
from fastwarp._precision import keeping_precision
from fastwarp.attaching.host import Facts, Host
from fastwarp.attaching.maps import is_map, maps_in, replaced, stacked
from fastwarp.errors import FastwarpError, fail
from fastwarp.nn import DownsizeNet
from fastwarp.saliency import AdaptiveSaliency, FixedSaliency, LearnedSaliency, jitter_boxes
from fastwarp.saliency.temporal import flip_maps
from fastwarp.warp import FrozenWarp, MeshWarp, SeparableWarp

Warp = SeparableWarp | MeshWarp
KINDS: dict[str, Any] = {"separable": SeparableWarp, "mesh": MeshWarp}


@dataclasses.dataclass(frozen=True)
class _Zoomed:
    """The zoom whose maps have not been unzoomed yet."""

    warp: Warp
    size: tuple[int, int]
    valid: Tensor | None


class Adapter(nn.Module):
    """What `fastwarp.attach` puts into a network, as its submodule `fastwarp`.

    Its bound methods are the hooks, so that copies and pickles of the network carry them along. The facts of a batch
    live from the beginning of the network's forward pass to its end; no tensor of the graph outlives that.

    Attributes:
        saliency: the module or parameter that warps are made from; None for a fixed warp, whose knots or mesh are
            buffers.
        warp: of the last batch, detached.
        detections: what `Host.found` made of the last batch in evaluation: relative boxes and scores of each image.
        feedback: whether an adaptive saliency remembers these detections for the next frame. In a network compiled with
            fullgraph=True it cannot: set this to False, and call `update` after each frame.
    """

    knots_y: Tensor | None
    knots_x: Tensor | None
    mesh: Tensor | None

    def __init__(
        self,
        saliency: Any,
        host: Host,
        *,
        scale: float,
        full: bool,
        kind: str,
        fwhm: float,
        antialias: bool,
        jitter: tuple[float, float],
    ) -> None:
        super().__init__()
        check_option("attach", "kind", kind, tuple(KINDS))
        self.kind, self.fwhm = kind, check_fwhm("attach", fwhm)
        self.host, self.scale, self.full = host, _check_scale(scale, host), bool(full)
        self.antialias, self.jitter = bool(antialias), jitter
        warp = self._fixed_warp(saliency)
        self.saliency: Any = saliency if warp is None else None
        self._tile: Any = warp.tile if isinstance(warp, MeshWarp) else "bilinear"
        for name in ("knots_y", "knots_x", "mesh"):
            tensor = getattr(warp, name, None)
            self.register_buffer(name, None if tensor is None else tensor.detach().clone())
        self.feedback = True
        self.warp: Warp | None = None
        self.detections: tuple[list[Tensor], list[Tensor]] | None = None
        self._next: dict[str, Any] = {}  # of the next batch
        self._more: dict[str, Any] = {}  # of this one
        self._facts: Facts | None = None
        self._zoomed: _Zoomed | None = None
        self.register_load_state_dict_pre_hook(_keep_what_is_missing)

    def _fixed_warp(self, saliency: Any) -> Warp | None:
        """The warp that is the same in all batches, if it is."""
        if isinstance(saliency, (SeparableWarp, MeshWarp)):
            if len(saliency) != 1:
                raise fail("attach", "saliency", f"a batch of {len(saliency)} warps", "one; see Adapter.next for more")
            return saliency
        if isinstance(saliency, FrozenWarp):
            raise fail("attach", "saliency", "a FrozenWarp", "the warp itself; frozen ones are for one size, unpadded")
        if isinstance(saliency, FixedSaliency):
            return self._warp_from(saliency())
        if isinstance(saliency, nn.Parameter):
            self._warp_from(FixedSaliency(saliency)())  # raises unless it is one map
        elif isinstance(saliency, Tensor):
            return self._warp_from(FixedSaliency(saliency)())
        elif not isinstance(saliency, nn.Module):
            kinds = "a warp, a map, a module of fastwarp.saliency or a DownsizeNet"
            raise TypeError(f"attach: saliency is {type(saliency).__name__}, expected {kinds}")
        return None

    def _warp_from(self, saliency: Tensor) -> Warp:
        warp: Warp = KINDS[self.kind].from_saliency(saliency, self.fwhm)
        return warp

    # --- what users call ----------------------------------------------------------------------------------------------

    def next(self, **facts: Any) -> None:
        """Says what the framework does not know of the next batch; it counts before what the framework says.

        Args:
            facts: see `fastwarp.Facts`: `streams=`, `flipped=`, `boxes=` (also of a cascade: the network's own
                detections), `source=`, `warp=`, `valid=`.

        Raises:
            TypeError: other names.
        """
        names = [field.name for field in dataclasses.fields(Facts)]
        for name in facts:
            if name not in names:
                raise TypeError(f"Adapter.next: got {name}=, expected some of {', '.join(names)}")
        self._next = facts

    def update(
        self, boxes: Sequence[Tensor], scores: Sequence[Tensor] | None = None, streams: Sequence[Any] | None = None
    ) -> None:
        """Remembers the detections in the current frames for an adaptive saliency, as evaluation does by itself.

        Args:
            boxes: of each image, `[N, 4]`, relative to the image, 0 to 1.
            scores: `[N]` of each image.
            streams: the video of each image; None: 0 .. B - 1.

        Raises:
            FastwarpError: the saliency is not adaptive.
        """
        if not isinstance(self.saliency, AdaptiveSaliency):
            raise FastwarpError(f"Adapter.update: the saliency is {self._name()}, expected an AdaptiveSaliency")
        streams = list(range(len(boxes)) if streams is None else streams)
        self.saliency.update(self._pixels(boxes), None if scores is None else list(scores), streams)

    # --- hooks --------------------------------------------------------------------------------------------------------

    def begin(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Before the network: what is known of this batch."""
        self._more, self._next = self._next, {}
        if "zoom_source" in kwargs:
            self._more = {**self._more, "source": kwargs["zoom_source"]}
            kwargs = {name: value for name, value in kwargs.items() if name != "zoom_source"}
        self._zoomed, self._facts = None, Facts()
        if self.host.facts is not None and not self.host.facts_at:
            self._facts = self.host.facts(module, args, kwargs, None)
        return args, kwargs

    def inform(self, module: nn.Module, args: tuple, kwargs: dict, output: Any = None) -> None:
        """At the submodule that knows of the batch."""
        assert self.host.facts is not None
        self._facts = self.host.facts(module, args, kwargs, output)

    def zoom(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Before the submodule that is zoomed."""
        where = self.host.zoom
        if self._zoomed is not None:
            raise FastwarpError(f"attach: {where} was called again before {self.host.unzoom} was")
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            advice = "its zoom cannot be repeated; checkpoint the blocks inside it, each by itself"
            raise FastwarpError(
                f"attach: {where} is recomputed in a backward pass (activation checkpointing): {advice}"
            )
        images = [value for value in (*args, *kwargs.values()) if is_map(value)]
        if not images:
            raise FastwarpError(f"attach: {where} was called without an image [B, C, H, W] of a floating-point dtype")
        zoomed = self._zoom(images[0], self._known())
        args, kwargs = replaced((args, kwargs), images[:1], [zoomed])
        return args, kwargs

    def unzoom(self, module: nn.Module, args: tuple, kwargs: dict, *output: Any) -> Any:
        """After the submodule that is unzoomed, or before it."""
        value = output[0] if output else (args, kwargs)
        if isinstance(self.saliency, DownsizeNet):
            return value
        if self._zoomed is None:
            raise FastwarpError(f"attach: {self.host.unzoom} was called without {self.host.zoom} before it")
        zoomed, self._zoomed = self._zoomed, None
        maps = maps_in(value, self.host.keys)
        if not maps:
            what = "4-D floating-point tensors" if self.host.keys is None else f"maps under {list(self.host.keys)}"
            raise FastwarpError(f"attach: {self.host.unzoom} has no {what}")
        options: dict[str, Any] = {"image_size": zoomed.size, "valid": zoomed.valid}
        options.update(strides=self.host.strides, phase=self.host.phase)
        # Under autocast a network's maps may be of several dtypes, as SSD's are.
        wide = functools.reduce(torch.promote_types, [one.dtype for one in maps])
        results = zoomed.warp.unzoom([one.to(wide) for one in maps], **options)
        return replaced(value, maps, [new.to(old.dtype) for new, old in zip(results, maps, strict=True)])

    def end(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """After the network: detections are remembered, all the rest is forgotten."""
        zoomed, facts, self._zoomed, self._facts, self._more = self._zoomed, self._known(), None, None, {}
        if zoomed is not None and self.host.unzoom is not None:
            raise FastwarpError(f"attach: {self.host.unzoom} was not called after {self.host.zoom}")
        adaptive = isinstance(self.saliency, AdaptiveSaliency) and not self.training
        if adaptive and self.feedback and self.host.found is not None:
            from fastwarp.attaching.feedback import remember

            remember(self, self.host.found(output, args, kwargs), facts.streams)

    # --- zoom ---------------------------------------------------------------------------------------------------------

    def _known(self) -> Facts:
        """What is known of the batch; nothing if a submodule is called by itself."""
        return Facts() if self._facts is None else dataclasses.replace(self._facts, **self._more)

    def _zoom(self, image: Tensor, facts: Facts) -> Tensor:
        source, valid, source_valid = image, None, None
        if facts.valid is not None:
            valid = source_valid = torch.as_tensor(facts.valid, device=image.device).long()
        if self.full or "source" in self._more:
            images = facts.source() if callable(facts.source) else facts.source
            if images is None:
                expected = "full=True takes them from Adapter.next(source=...), or zoom_source= of the network's call"
                raise FastwarpError(f"attach: no source images are known, {expected}")
            source, source_valid = stacked(images, image)
        size = (image.shape[2], image.shape[3])
        if self.scale != 1:
            before, size = size, self._scaled(size)
            if valid is not None:
                share = valid * valid.new_tensor(size) / valid.new_tensor(before)
                valid = share.round().long().clamp(min=1)
        if isinstance(self.saliency, DownsizeNet):
            return self._downsized(source, source_valid, size, valid)
        warp = self._warp_of(source, source_valid, facts)
        self.warp, self._zoomed = warp.detach(), None if self.host.unzoom is None else _Zoomed(warp, size, valid)
        return warp.zoom(source, size, antialias=self.antialias, valid=valid, source_valid=source_valid)

    def _scaled(self, size: tuple[int, int]) -> tuple[int, int]:
        divisor = self.host.divisor
        height, width = (round(side * self.scale) for side in size)
        if height % divisor or width % divisor or min(height, width) < 1:
            got = f"{self.scale}, which makes {height} x {width} of {size[0]} x {size[1]}"
            raise fail("attach", "scale", got, f"sides that are multiples of {divisor}")
        return height, width

    def _downsized(self, source: Tensor, source_valid: Any, size: tuple[int, int], valid: Any) -> Tensor:
        """Resized by a DownsizeNet, each image without its padding."""
        if valid is None and source_valid is None:
            return self.saliency(source, size)
        froms, tos = (
            [size_of] * len(source) if extent is None else extent.tolist()
            for extent, size_of in ((source_valid, source.shape[2:]), (valid, size))
        )
        small = [
            self.saliency(image[None, :, :height, :width], to)
            for image, (height, width), to in zip(source, froms, tos, strict=True)
        ]
        pad = nn.functional.pad
        return torch.cat([pad(one, (0, size[1] - one.shape[3], 0, size[0] - one.shape[2])) for one in small])

    def _warp_of(self, image: Tensor, valid: Tensor | None, facts: Facts) -> Warp:
        saliency, flipped = self.saliency, facts.flipped
        if not isinstance(flipped, bool):
            flipped = torch.as_tensor(flipped, dtype=torch.bool, device=image.device)
        if facts.warp is not None:
            return facts.warp
        if saliency is None:
            return _mirrored(self._fixed(), flipped)
        if isinstance(saliency, AdaptiveSaliency):
            return self._adaptive(facts, flipped, len(image))
        if isinstance(saliency, nn.Parameter):
            maps = saliency if saliency.dim() == 3 else saliency[None]
            return self._warp_from(flip_maps("attach", maps, flipped))
        if isinstance(saliency, LearnedSaliency):
            return self._warp_from(saliency(as_geometry(image), valid))
        return self._warp_from(saliency(as_geometry(image)))

    def _fixed(self) -> Warp:
        if self.mesh is not None:
            return MeshWarp(self.mesh, self._tile)
        assert self.knots_y is not None
        assert self.knots_x is not None
        return SeparableWarp(self.knots_y, self.knots_x)

    def _adaptive(self, facts: Facts, flipped: bool | Tensor, batch: int) -> Warp:
        """From the targets, moved at random, in training; from what was detected in the previous frame else."""
        saliency, separable = self.saliency, self.kind == "separable"
        if not self.training:
            streams = list(range(batch) if facts.streams is None else facts.streams)
            if separable:
                return SeparableWarp(*saliency.knots(streams, self.fwhm, flipped=flipped))
            return self._warp_from(saliency(streams, flipped))
        if facts.boxes is None:
            raise FastwarpError("attach: an adaptive saliency needs boxes in training: Adapter.next(boxes=...)")
        boxes = jitter_boxes(self._pixels(facts.boxes), *self.jitter)
        if separable:
            return SeparableWarp(*saliency.knots_of(boxes, fwhm=self.fwhm, flipped=flipped))
        return self._warp_from(saliency.maps_of(boxes, flipped=flipped))

    # --- detections ---------------------------------------------------------------------------------------------------

    def _pixels(self, boxes: Sequence[Tensor]) -> list[Tensor]:
        """Relative boxes in the pixels that the adaptive saliency counts in."""
        height, width = self.saliency.image_size
        return [one.float() * one.new_tensor([width, height, width, height], dtype=torch.float32) for one in boxes]

    # --- as a module --------------------------------------------------------------------------------------------------

    def _name(self) -> str:
        return "a fixed warp" if self.saliency is None else type(self.saliency).__name__

    def extra_repr(self) -> str:
        """What print() shows."""
        return f"saliency={self._name()}, zoom={self.host.zoom!r}, unzoom={self.host.unzoom!r}, scale={self.scale}"

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles know nothing of a batch."""
        nothing: dict[str, Any] = {"warp": None, "detections": None, "_facts": None, "_zoomed": None}
        return {**self.__dict__, **nothing, "_next": {}, "_more": {}}

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        """Geometry and saliency stay at least float32, also in a network of half precision."""
        return super()._apply(keeping_precision(fn), recurse)

    def _replicate_for_data_parallel(self) -> Any:
        """Replicas of nn.DataParallel share the hooks of the original."""
        raise FastwarpError("attach: got an nn.DataParallel, expected nn.parallel.DistributedDataParallel")


def _check_scale(scale: float, host: Host) -> float:
    if isinstance(scale, bool) or not isinstance(scale, (int, float)):
        raise TypeError(f"attach: scale is {scale!r}, expected a number")
    if not 0 < scale < float("inf"):
        raise fail("attach", "scale", scale, "a positive number")
    if scale != 1 and not host.relative:
        expected = "1 for a network whose anchors, points or labels count in pixels (Host.relative is False)"
        raise fail("attach", "scale", scale, expected)
    return float(scale)


def _mirrored(warp: Warp, flipped: bool | Tensor) -> Warp:
    """The warp as images see it that were flipped horizontally, or not."""
    if flipped is False:
        return warp
    if isinstance(warp, MeshWarp):
        mesh, sign = warp.mesh, warp.mesh.new_tensor([-1.0, 1.0])
        mirrored = mesh.flip(2) * sign + (1 - sign) / 2
        return MeshWarp(
            mirrored if flipped is True else torch.where(flipped[:, None, None, None], mirrored, mesh), warp.tile
        )
    mirrored = 1 - warp.knots_x.flip(1)
    return SeparableWarp(
        warp.knots_y, mirrored if flipped is True else torch.where(flipped[:, None], mirrored, warp.knots_x)
    )


def _keep_what_is_missing(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A checkpoint of the plain network says nothing of the adapter, which stays what it is."""
    if not any(key.startswith(prefix) for key in state):
        state.update({prefix + key: value for key, value in module.state_dict().items()})
