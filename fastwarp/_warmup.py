"""Compiling the kernels before they are needed."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fastwarp import _compiling
from fastwarp import saliency as saliency_sources
from fastwarp._checks import check_count
from fastwarp.functional import downsize
from fastwarp.warp import MeshWarp, SeparableWarp


class Step(NamedTuple):
    """Calls whose kernels are compiled together."""

    name: str
    """For people."""
    family: str
    """Steps of a family share kernels."""
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
    processes: int = 1,
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
        processes: how many compile for CPUs at a time: this one and others, which it starts by `sys.executable`. Only
            this one where kernels cannot be kept on disk.

    Raises:
        FastwarpError: fewer than one process.
        TypeError: dtypes that images cannot have; a number of processes that is no integer.

    Examples:
        >>> import fastwarp
        >>> fastwarp.warmup(backward=False)
    """
    check_count("warmup", "processes", processes, 1)
    device = torch.device(device)
    steps = [step for dtype in dtypes for step in steps_of(device, dtype, backward)]
    own, *others = [list(range(len(steps)))]
    if processes > 1 and device.type == "cpu":
        own, *others = _shares(steps, missing(steps), processes if _keeps_kernels() else 1)
    done = 0
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(_compiling_elsewhere(dtypes, backward, share)) for share in others]
        for share, wait in zip([own, *others], [lambda: None, *started], strict=True):
            for number in share:
                if progress is not None:
                    progress(steps[number].name, done, len(steps))
                wait()  # then the kernels are on disk
                steps[number].run()
                done += 1
    if progress is not None:
        progress("", len(steps), len(steps))


def _keeps_kernels() -> bool:
    """Whether a process finds what another has compiled."""
    from fastwarp.kernels.cpu import _cache

    return any(map(_cache.usable, _cache.directories()))


def _shares(steps: list[Step], to_compile: list[Step], processes: int) -> list[list[int]]:
    """The numbers of the steps for each process: the longest families first, each to the process that has the least to
    do. What is on disk is for the first one."""
    seconds = {step.family: 0.0 for step in to_compile}
    for step in to_compile:
        seconds[step.family] += step.seconds
    families: list[list[str]] = [[] for _ in range(max(min(processes, len(seconds)), 1))]
    for family in sorted(seconds, key=lambda family: -seconds[family]):
        min(families, key=lambda some: sum(map(seconds.__getitem__, some))).append(family)
    of = {family: process for process, some in enumerate(families) for family in some}
    return [
        [n for n, step in enumerate(steps) if of.get(step.family, 0) == process] for process in range(len(families))
    ]


_COMPILED = "fastwarp compiled "
_ELSEWHERE = """
import json, sys
sys.path[:], *call = json.loads(sys.argv[1])
from fastwarp import _warmup
_warmup.run_steps(*call)
"""


@contextlib.contextmanager
def _compiling_elsewhere(
    dtypes: Sequence[torch.dtype], backward: bool, numbers: list[int]
) -> Iterator[Callable[[], None]]:
    """Another process that runs these steps of a warm-up; gives a function that waits for it. Whatever goes wrong there
    is left to compile here."""
    names = [str(dtype).removeprefix("torch.") for dtype in dtypes]
    command = [sys.executable, "-c", _ELSEWHERE, json.dumps([[*map(str, sys.path)], names, backward, numbers])]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:  # no interpreter, no memory
        yield lambda: None
        return

    def wait() -> None:
        for line in process.stdout or ():
            if line.startswith(_COMPILED):  # other libraries may print, too
                kernel, seconds = line.removeprefix(_COMPILED).split()
                _compiling.tell(kernel, float(seconds))

    with process:
        try:
            yield wait
        finally:
            process.kill()


def run_steps(dtypes: list[str], backward: bool, numbers: list[int]) -> None:
    """Runs steps of a warm-up for CPUs, by their numbers, and prints the kernels that it compiles, with the seconds."""

    def show(kernel: str, seconds: float | None) -> None:
        if seconds is not None:
            sys.stdout.write(f"{_COMPILED}{kernel} {seconds}\n")
            sys.stdout.flush()

    steps = [s for name in dtypes for s in steps_of(torch.device("cpu"), getattr(torch, name), backward)]
    with _compiling.observed(show):
        for number in numbers:
            steps[number].run()


class _WouldCompileError(Exception):
    """Ends a call that needs a kernel which is neither loaded nor on disk."""


def missing(steps: list[Step]) -> list[Step]:
    """The steps, of a warm-up for CPUs, whose kernels are not all on disk. Compiles nothing."""

    def refuse(kernel: str, seconds: float | None) -> None:
        if seconds is None:
            raise _WouldCompileError(kernel)

    found = []
    for step in steps:
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

    def step(name: str, seconds: float, results: Callable[[], Iterator[Tensor]], more: str = "") -> Step:
        def run() -> None:
            for result in results():
                if trainable:
                    result.float().sum().backward()

        kind = str(dtype).removeprefix("torch.")
        return Step(f"{name}{more}, {kind}", f"{name}, {kind}", seconds, run)

    steps = [
        step("boxes", 4, boxes),
        step("separable warp", 9, lambda: resampling(SeparableWarp)),
        step("separable warp", 2, pixels, ", channels_last"),
        step("separable warp", 2, lambda: others(SeparableWarp), ": nearest, points"),
        step("mesh warp", 17, lambda: resampling(MeshWarp)),
        step("mesh warp", 3, lambda: others(MeshWarp), ": nearest, points"),
    ]
    return [*steps, step("DownsizeNet", 10, downsized)] if dtype.is_floating_point else steps
