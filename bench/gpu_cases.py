"""The operators that `gpu.py` times, one after the other: inputs, bytes that must move, and peers.

Sizes are those of `cases.SHAPES["zoom"]`; a dry run takes tiny ones.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import cases
import peers
import peers_downsize
import torch
from torch import Tensor

import fastwarp
from fastwarp import MeshWarp, SeparableWarp
from fastwarp import functional as F

BF16 = torch.bfloat16
Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """What `gpu.py` times.

    Attributes:
        call: makes a set of inputs and gives the call on them.
        moved: bytes that have to move.
        peers: likewise, what others do for the same result.
        tolerance: largest difference from the peers, relative to their largest value.
    """

    call: Callable[[], Call]
    moved: int
    peers: dict[str, Callable[[], Call]] = dataclasses.field(default_factory=dict)
    tolerance: float = 2e-3


@dataclasses.dataclass(frozen=True)
class Scene:
    """Sizes and device of all cases."""

    device: str
    source: cases.Size = (1200, 1920)
    size: cases.Size = (600, 960)
    saliency: cases.Size = (31, 51)
    channels: int = cases.CHANNELS
    pyramid: tuple[cases.Size, ...] = cases.PYRAMID
    small: tuple[int, cases.Size, cases.Size] = (16, (300, 300), (160, 160))

    def warp(self, batch: int = 1) -> SeparableWarp:
        """The LZ warp of a saliency with blobs."""
        return cases.warp(self.saliency, batch, self.device)

    def mesh(self) -> MeshWarp:
        """The same, not separable."""
        return MeshWarp.from_saliency(cases.saliency(self.saliency, 1, self.device))

    def image(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> Tensor:
        """Noise."""
        return cases.image(shape, dtype, layout, self.device)

    def levels(self, dtype: torch.dtype = torch.float32, layout: str = "contiguous") -> list[Tensor]:
        """The levels of a pyramid, batch 1."""
        return [self.image((1, self.channels, *size), dtype, layout) for size in self.pyramid]


DRY = Scene("cpu", (8, 12), (5, 6), (4, 5), 3, ((4, 5), (2, 3)), (1, (6, 7), (3, 4)))
"""Tiny, for Triton's interpreter."""


def _zoom(at: Scene, batch: int, dtype: torch.dtype, layout: str, antialias: bool = False) -> Case:
    warp, shape = at.warp(batch), (batch, 3, *at.source)
    image = at.image(shape, dtype, layout)
    moved = cases.read_by_zoom(image, warp, at.size) + batch * 3 * at.size[0] * at.size[1] * dtype.itemsize

    def call() -> Call:
        image = at.image(shape, dtype, layout)
        return lambda: [warp.zoom(image, at.size, antialias=antialias)]

    def grid_sample() -> Call:
        image, grid = at.image(shape, dtype, layout), warp.grid(at.size)
        return lambda: peers.grid_sample([image], [grid])

    def fused() -> Call:
        image, grid = at.image(shape, dtype, layout), warp.grid(at.size)
        sample = peers.compiled(lambda image, grid: peers.grid_sample([image], [grid]))
        return lambda: sample(image, grid)

    others = {"grid_sample": grid_sample}
    if dtype == torch.float32 and layout == "contiguous" and batch == 1 and at.device == "cuda":
        others |= {"grid_sample by Inductor": fused} | _flag_gems(at, warp, shape)
    return Case(call, moved, {} if antialias else others, cases.TOLERANCES[dtype])


def _flag_gems(at: Scene, warp: SeparableWarp, shape: Sequence[int]) -> dict[str, Callable[[], Call]]:
    """FlagGems' grid_sample in Triton, where it is installed."""
    try:
        import flag_gems
    except ImportError:
        return {}

    def call() -> Call:
        image, grid = at.image(shape), warp.grid(at.size)

        def sample() -> list[Tensor]:
            with flag_gems.use_gems():
                return peers.grid_sample([image], [grid])

        return sample

    return {"grid_sample of FlagGems": call}


def _unzoom(at: Scene, dtype: torch.dtype, layout: str) -> Case:
    warp = at.warp()
    grids = [warp.inverse_grid(size) for size in at.pyramid]

    def call() -> Call:
        levels = at.levels(dtype, layout)
        return lambda: warp.unzoom(levels)

    def grid_sample() -> Call:
        levels = at.levels(dtype, layout)
        return lambda: peers.grid_sample(levels, grids)

    moved = 2 * cases.size_in_bytes(at.levels(dtype, layout))
    return Case(call, moved, {"grid_sample": grid_sample}, cases.TOLERANCES[dtype])


def _resampling(at: Scene, kind: str, step: str, layout: str) -> Case:
    """A step of the unzoom of a pyramid, or of its backward pass, by itself."""
    ops = torch.ops.fastwarp
    sizes = [side for size in at.pyramid for side in size]
    if kind == "separable":
        windows = ops.axis_windows(at.warp().knots_y, at.warp().knots_x, sizes, sizes, True, False, False, None, None)
        resample = functools.partial(ops.separable_resample, source_valid=None, antialias=False)
        adjoint = functools.partial(ops.separable_resample_adjoint, source_valid=None, antialias=False)
        gradient = functools.partial(ops.separable_windows_gradient, source_valid=None, antialias=False)
    else:
        windows, _ = ops.mesh_positions(at.mesh().mesh, sizes, sizes, True, False, False, None, None)
        resample = functools.partial(ops.grid_resample, source_valid=None)
        adjoint = functools.partial(ops.grid_resample_adjoint, source_valid=None)
        gradient = functools.partial(ops.grid_windows_gradient, source_valid=None)

    def call() -> Call:
        levels, grads = at.levels(layout=layout), at.levels(layout=layout)
        return {
            "resample": lambda: resample(levels, windows, sizes),
            "adjoint": lambda: adjoint(grads, windows, sizes),
            "windows gradient": lambda: [gradient(grads, levels, windows)],
        }[step]

    return Case(call, 2 * cases.size_in_bytes(at.levels()))


def _geometry(at: Scene) -> dict[str, Case]:
    saliency = cases.saliency(at.saliency, 1, at.device)
    boxes = torch.rand(1, 20, 4, device=at.device).sort(-1).values[..., [0, 1, 2, 3]] * min(at.source)
    sizes = [side for size in at.pyramid for side in size]
    warp, mesh = at.warp(), at.mesh()
    targets = 12 * at.size[0] * at.size[1]
    ops = torch.ops.fastwarp
    windows = (warp.knots_y, warp.knots_x, sizes, sizes, True, False, False, None, None)

    def positions(sides: list[int], sources: list[int], inverse: bool) -> Call:
        return lambda: ops.mesh_positions(mesh.mesh, sides, sources, inverse, False, False, None, None)

    few = 4 * saliency.numel()
    return {
        "lz_knots": Case(lambda: lambda: F.lz_knots(saliency, cases.FWHM), few),
        "axis_windows": Case(lambda: lambda: [ops.axis_windows(*windows)], 8 * sum(sizes)),
        "lz_mesh": Case(lambda: lambda: [F.lz_mesh(saliency, cases.FWHM)], 3 * few),
        "box_knots": Case(lambda: lambda: fastwarp.saliency.box_knots(boxes, at.source, at.saliency), few),
        "mesh positions, zoom": Case(lambda: positions(list(at.size), list(at.source), False), targets),
        "mesh positions, unzoom": Case(lambda: positions(list(at.size), list(at.size), True), targets),
        "mesh positions, pyramid": Case(lambda: positions(sizes, sizes, True), 12 * sum(h * w for h, w in at.pyramid)),
    }


def _adaptive(at: Scene) -> Case:
    """From saliency to the unzoomed pyramid."""
    saliency = cases.saliency(at.saliency, 1, at.device)

    def call() -> Call:
        image, levels = at.image((1, 3, *at.source)), at.levels()

        def run() -> list[Tensor]:
            warp = SeparableWarp.from_saliency(saliency, cases.FWHM)
            return [warp.zoom(image, at.size), *warp.unzoom(levels)]

        return run

    moved = 2 * cases.size_in_bytes(at.levels()) + 2 * 12 * at.size[0] * at.size[1]
    return Case(call, moved)


def _camera(at: Scene) -> Case:
    warp = at.warp()

    def call() -> Call:
        frame = at.image((1, *at.source, 3), torch.uint8)
        return lambda: [warp.zoom_frame(frame, at.size, mean=cases.MEAN, std=cases.STD, dtype=torch.float16)]

    return Case(call, 3 * (at.source[0] * at.source[1] + 2 * at.size[0] * at.size[1]))


def _downsize(at: Scene, batch: int, source: cases.Size, size: cases.Size, dtype: torch.dtype, backward: bool) -> Case:
    parameters = cases.downsize_parameters(3, device=at.device)

    def ours(image: Tensor) -> Tensor:
        return F.downsize(image, parameters[:3], parameters[3:6], parameters[6], parameters[7], size)

    def call() -> Call:
        image = at.image((batch, 3, *source), dtype).requires_grad_(backward)
        if not backward:
            return lambda: [ours(image)]
        grad = torch.ones((batch, 3, *size), dtype=dtype, device=at.device)
        return lambda: torch.autograd.grad(ours(image), image, grad)

    def plain(tf32: bool) -> Call:
        image = at.image((batch, 3, *source), dtype)
        naive = peers_downsize.precision(peers_downsize.naive(source, size, image), tf32)
        return lambda: naive(image, *parameters)

    moved = batch * 3 * dtype.itemsize * (source[0] * source[1] + size[0] * size[1]) * (2 if backward else 1)
    if backward:
        return Case(call, moved)
    others = {"plain torch, IEEE": lambda: plain(False), "plain torch, TF32": lambda: plain(True)}
    return Case(call, moved, others, 3e-2 if dtype == BF16 else 5e-3)


def makers(at: Scene) -> dict[str, Callable[[], Case]]:
    """All cases by name."""
    batch, source, size = at.small
    float32, contiguous, last = torch.float32, "contiguous", "channels_last"
    found: dict[str, Callable[[], Case]] = {
        "zoom fp32": lambda: _zoom(at, 1, float32, contiguous),
        "zoom fp32, batch 8": lambda: _zoom(at, 8, float32, contiguous),
        "zoom bf16": lambda: _zoom(at, 1, BF16, contiguous),
        "zoom fp32, channels_last": lambda: _zoom(at, 1, float32, last),
        "zoom fp32, antialiased": lambda: _zoom(at, 1, float32, contiguous, True),
        "camera": lambda: _camera(at),
        "adaptive path": lambda: _adaptive(at),
        "downsize bf16": lambda: _downsize(at, batch, source, size, BF16, False),
        "downsize bf16, backward": lambda: _downsize(at, batch, source, size, BF16, True),
        "downsize fp32": lambda: _downsize(at, 1, at.source, at.size, float32, False),
    }
    for layout in (contiguous, last):
        for dtype, name in ((float32, "fp32"), (BF16, "bf16")):
            found[f"unzoom {name}, {layout}"] = functools.partial(_unzoom, at, dtype, layout)
        for kind in ("separable", "grid"):
            for step in ("resample", "adjoint", "windows gradient"):
                found[f"{kind} {step}, {layout}"] = functools.partial(_resampling, at, kind, step, layout)
    for name in GEOMETRY:
        found[name] = lambda name=name: _geometry(at)[name]
    return found


GEOMETRY = (
    *("lz_knots", "axis_windows", "lz_mesh", "box_knots", "mesh positions, zoom", "mesh positions, unzoom"),
    "mesh positions, pyramid",
)
