"""Times fastwarp beside plain torch on one adaptive warp, forward and backward, after asserting that both agree."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from fastwarp.demo import plain_torch, plain_torch_mesh
from fastwarp.warp import MeshWarp, SeparableWarp

Function = Callable[..., list[Tensor]]

TOLERANCE = 1e-2
"""Of results, relative to the largest value; both sides work in float32, plain torch with its coordinates too."""


WHOLE = "all three"
"""Name of the step that is the three others in a row."""


class Timing(NamedTuple):
    """Median times of one step in one direction, in milliseconds."""

    step: str
    direction: str
    fastwarp: float
    plain: float


class Steps:
    """The steps of an adaptive warp by both implementations, with inputs to call them with.

    Args:
        saliency: `[B, h, w]`.
        image: `[B, C, H, W]`.
        levels: feature maps of the zoomed image.
        size: (H', W') of the zoomed image.
        fwhm: of the attraction kernel, in cells.
        kind: of warp.
    """

    def __init__(
        self,
        saliency: Tensor,
        image: Tensor,
        levels: list[Tensor],
        size: tuple[int, int],
        fwhm: float,
        kind: type[SeparableWarp] | type[MeshWarp] = SeparableWarp,
    ) -> None:
        ours, plain = _Fastwarp(kind), PLAIN[kind]
        geometry = ours.from_saliency(saliency, fwhm)
        self.count = len(geometry)  # of the tensors that make a warp
        self.inputs = {
            "saliency → warp": [saliency],
            "zoom": [*geometry, image],
            "unzoom the pyramid": [*geometry, *levels],
            WHOLE: [saliency, image, *levels],
        }
        self.fastwarp, self.plain = (
            dict(zip(self.inputs, _functions(side, size, fwhm, self.count), strict=True)) for side in (ours, plain)
        )

    def check(self) -> None:
        """Asserts that results and gradients agree; also compiles every kernel that is timed."""
        for step in self.inputs:
            ours, theirs = (self._results(functions[step], step) for functions in (self.fastwarp, self.plain))
            for mine, other in zip(ours, theirs, strict=True):
                error, bound = (mine - other).abs().max().item(), TOLERANCE * other.abs().max().item()
                assert error <= bound, f"{step}: fastwarp and plain torch differ by {error:.2g}, more than {bound:.2g}"

    def time(self, repeats: int) -> Iterator[Timing]:
        """Times every step in both directions, implementations taking turns."""
        for step, inputs in self.inputs.items():
            functions = self.fastwarp[step], self.plain[step]
            for direction, prepare in (("forward", forward), ("backward", backward)):
                prepared = [functools.partial(prepare, function, inputs) for function in functions]
                yield Timing(step, direction, *medians(prepared, repeats, inputs[0].device))

    def _results(self, function: Function, step: str) -> list[Tensor]:
        inputs = self.inputs[step]
        gradients = list(backward(function, inputs)())
        if step == WHOLE:
            # The slope of an image jumps at every pixel: knots that differ by a rounding put some samples on the other
            # side, and for a detailed image the gradient to the saliency by percents. The steps check it part by part.
            gradients = gradients[1:]
        # The end knots, and the outline of a mesh, put samples exactly on the border of the image, a kink where
        # grid_sample takes the gradient 0.
        count = self.count if len(inputs) > self.count and step != WHOLE else 0
        geometry = [g[:, 1:-1] if g.ndim == 2 else g[:, 1:-1, 1:-1] for g in gradients[:count]]
        inner = geometry + gradients[count:]
        return forward(function, inputs)() + inner


class _Fastwarp:
    """This library in the form of `plain_torch`: functions of the tensors that make a warp."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def from_saliency(self, saliency: Tensor, fwhm: float) -> list[Tensor]:
        return pytree.tree_leaves(self.kind.from_saliency(saliency, fwhm))

    def zoom(self, geometry: Sequence[Tensor], image: Tensor, size: tuple[int, int]) -> Tensor:
        return self.kind(*geometry).zoom(image, size)

    def unzoom(self, geometry: Sequence[Tensor], levels: Sequence[Tensor]) -> list[Tensor]:
        return self.kind(*geometry).unzoom(list(levels))


PLAIN: dict[Any, Any] = {SeparableWarp: plain_torch, MeshWarp: plain_torch_mesh}


def _functions(side: Any, size: tuple[int, int], fwhm: float, count: int) -> tuple[Function, ...]:
    """The steps; the first `count` arguments of the middle two make the warp."""

    def warp(saliency: Tensor) -> list[Tensor]:
        return list(side.from_saliency(saliency, fwhm))

    def zoom(*tensors: Tensor) -> list[Tensor]:
        return [side.zoom(tensors[:count], tensors[count], size)]

    def unzoom(*tensors: Tensor) -> list[Tensor]:
        return side.unzoom(tensors[:count], tensors[count:])

    def everything(saliency: Tensor, image: Tensor, *levels: Tensor) -> list[Tensor]:
        geometry = side.from_saliency(saliency, fwhm)
        return [side.zoom(geometry, image, size), *side.unzoom(geometry, levels)]

    return warp, zoom, unzoom, everything


def forward(function: Function, inputs: list[Tensor]) -> Callable[[], list[Tensor]]:
    """A function that runs the forward pass as inference does."""

    @torch.no_grad()
    def run() -> list[Tensor]:
        return function(*inputs)

    return run


def backward(function: Function, inputs: list[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """Runs the forward pass; returns a function that runs the backward pass once."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    outputs = function(*leaves)
    # The same incoming gradients for every implementation, of mixed sign.
    gradients = [torch.linspace(-1, 1, y.numel(), device=y.device).cos().view_as(y) for y in outputs]
    return lambda: torch.autograd.grad(outputs, leaves, gradients)


def medians(prepare: Sequence[Callable[[], Callable[[], object]]], repeats: int, device: torch.device) -> list[float]:
    """Median milliseconds of what each `prepare` returns; preparing is not timed, and they take turns."""
    times: list[list[float]] = [[] for _ in prepare]
    for repeat in range(repeats + 1):
        for prepared, taken in zip(prepare, times, strict=True):
            run = prepared()
            _synchronize(device)
            start = time.perf_counter()
            run()
            _synchronize(device)
            if repeat > 0:  # the first is a warm-up
                taken.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(taken) for taken in times]


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
