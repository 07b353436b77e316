"""Compiling the kernels before they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastwarp import _compiling
from fastwarp import saliency as saliency_sources
from fastwarp.functional import downsize
from fastwarp.warp import MeshWarp, SeparableWarp


class Step(NamedTuple):
    """Calls whose kernels are compiled together."""

    name: str
    """For people."""
    seconds: float
    """Of a CPU to compile its kernels, forward and backward, in float32, after the steps before it: measured once, on
    an AMD EPYC virtual machine. Says how long, roughly, a wait will be."""
    run: Callable[[], None]


def warmup(
    device: torch.device | str = "cpu",
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    *,
    backward: bool = True,
    progress: Callable[[str, int, int], object] | None = None,
) -> None:
    """Compiles (or loads from the disk cache) every kernel that the given dtypes use, so that no first call waits for
    it. GPUs compile `downsize` for each number of channels and taps: here for those of `nn.DownsizeNet()`.
    `fastwarp warmup` is the same as a command.

    Args:
        device: whose kernels.
        dtypes: of the images; knots are float32, with float64 images float64.
        backward: also the kernels of the backward pass.
        progress: called before each step with its name, the number of steps done, and that of all; at the end once
            more, with an empty name.

    Examples:
        >>> import fastwarp
        >>> fastwarp.warmup(backward=False)
    """
    steps = [step for dtype in dtypes for step in steps_of(torch.device(device), dtype, backward)]
    for done, step in enumerate(steps):
        if progress is not None:
            progress(step.name, done, len(steps))
        step.run()
    if progress is not None:
        progress("", len(steps), len(steps))


class _WouldCompileError(Exception):
    """Ends a call that needs a kernel which is neither loaded nor on disk."""


def missing(dtype: torch.dtype = torch.float32) -> list[Step]:
    """The steps of a warm-up for CPUs whose kernels are not all on disk. Compiles nothing."""

    def refuse(kernel: str, seconds: float | None) -> None:
        if seconds is None:
            raise _WouldCompileError(kernel)

    found = []
    for step in steps_of(torch.device("cpu"), dtype, True):
        try:
            with _compiling.observed(refuse):
                step.run()
        except _WouldCompileError:
            found.append(step)
    return found


def steps_of(device: torch.device, dtype: torch.dtype, backward: bool) -> list[Step]:
    """What there is to compile for images of `dtype`."""
    knots = torch.float64 if dtype == torch.float64 else torch.float32
    trainable = backward and dtype.is_floating_point

    def tensor(*shape: int, dtype: torch.dtype = knots) -> Tensor:
        return torch.ones(shape, device=device).to(dtype).requires_grad_(trainable)

    def boxes() -> Iterator[Tensor]:
        yield saliency_sources.box_density(tensor(2, 1, 4), (16, 16), (3, 3))
        yield torch.cat(saliency_sources.box_knots(tensor(2, 1, 4), (16, 16), (3, 3)))

    def resampling(
        kind: type[SeparableWarp] | type[MeshWarp],
        channels: int = 2,
        form: torch.memory_format = torch.contiguous_format,
    ) -> Iterator[Tensor]:
        for antialias in (False, True):
            warp = kind.from_saliency(tensor(2, 3, 3))
            image = tensor(2, channels, 16, 16, dtype=dtype).contiguous(memory_format=form)
            small = warp.zoom(image, (12, 12), antialias=antialias)
            yield warp.unzoom([small], antialias=antialias)[0]

    def pixels() -> Iterator[Tensor]:
        for channels in (3, 32):  # images and feature maps have kernels of their own
            yield from resampling(SeparableWarp, channels, torch.channels_last)

    def others(kind: type[SeparableWarp] | type[MeshWarp]) -> Iterator[Tensor]:
        warp = kind.from_saliency(tensor(2, 3, 3))
        nearest = warp.zoom(tensor(2, 2, 16, 16, dtype=dtype), (12, 12), mode="nearest")
        yield warp.unzoom(nearest, mode="nearest")
        yield warp.detach().unzoom_points(tensor(2, 1, 2), (16, 16), (12, 12))
        if not trainable:
            warp.zoom_frame(torch.zeros(2, 16, 16, 3, dtype=torch.uint8, device=device), (12, 12))

    def downsized() -> Iterator[Tensor]:
        # By what `nn.DownsizeNet()` has, without drawing random numbers for it.
        shapes = [(16, 3, 3, 3), (16, 16, 3, 3), (16, 16, 3, 3), (16,), (16,), (16,), (4, 20), (4,)]
        parameters = [torch.zeros(shape, device=device, requires_grad=trainable) for shape in shapes]
        image = tensor(2, 3, 16, 16, dtype=dtype)
        yield downsize(image, parameters[:3], parameters[3:6], parameters[6], parameters[7], (8, 8))

    def step(name: str, seconds: float, results: Callable[[], Iterator[Tensor]]) -> Step:
        def run() -> None:
            for result in results():
                if trainable:
                    result.float().sum().backward()

        return Step(f"{name}, {str(dtype).removeprefix('torch.')}", seconds, run)

    steps = [
        step("boxes", 4, boxes),
        step("separable warp", 9, lambda: resampling(SeparableWarp)),
        step("separable warp, channels_last", 2, pixels),
        step("separable warp: nearest, points", 2, lambda: others(SeparableWarp)),
        step("mesh warp", 17, lambda: resampling(MeshWarp)),
        step("mesh warp: nearest, points", 3, lambda: others(MeshWarp)),
    ]
    return [*steps, step("DownsizeNet", 10, downsized)] if dtype.is_floating_point else steps
