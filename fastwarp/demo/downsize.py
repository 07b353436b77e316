"""`fastwarp demo --downsize`: a photo made small by interpolation and by DownsizeNet, beside plain torch."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

from fastwarp import viz
from fastwarp._backend import backend_for
from fastwarp._files import shown
from fastwarp.demo import plain_torch_downsize as plain
from fastwarp.demo.common import (
    as_tensor,
    busy_note,
    check_size,
    hardware,
    limited_threads,
    load_photo,
    pick_device,
    picture_path,
    progress_of,
    write,
)
from fastwarp.demo.timing import TOLERANCE, backward, forward, medians
from fastwarp.doctor import usual_defaults, versions
from fastwarp.functional import downsize
from fastwarp.nn import DownsizeNet

LARGEST_SIDE = 2048
"""Of the photo, which is shrunk to it, and of the result: plain torch keeps 500 bytes per pixel for its gradients."""

RATIO = 0.35
"""The smallest of DownsizeNet's table 6; at a half, bilinear interpolation is the mean of four pixels already."""

CROP = 640
"""Largest side of the middle of the photo that is trained on, which is all of the default photo."""

STEPS, RATE = 100, 1e-2
"""Of the training: a few seconds."""

OURS = "DownsizeNet, fastwarp"
PLAIN = "DownsizeNet, plain torch"

Function = Callable[..., list[Tensor]]


class Outcome(NamedTuple):
    """The photo `[1, 3, H, W]`, small ones `[1, 3, h, w]`, and the weights `[1, 4, h, w]` of the last."""

    photo: Tensor
    bilinear: Tensor
    area: Tensor
    start: Tensor
    learned: Tensor
    weights: Tensor


class Timing(NamedTuple):
    """Median times of one way to resize, in milliseconds."""

    name: str
    forward: float
    backward: float


@usual_defaults()
def run(
    image: Path | None = None,
    size: tuple[int, int] | None = None,
    out: Path = Path("demo"),
    device: str = "auto",
    repeats: int = 20,
    threads: int = 2,
) -> Path:
    """Runs the demo, prints its report and returns the path of its picture.

    Args:
        image: a photo; None takes the one of scikit-image that shows a rocket (in the public domain).
        size: (h, w) of the small photo; None: 0.35 of the photo, rounded.
        out: folder of the picture, made if missing.
        device: "auto", "cpu" or "cuda".
        repeats: how often a time is taken.
        threads: CPU threads for torch and fastwarp alike.

    Raises:
        FastwarpError: a file that cannot be read or written, a bad size, no such device.
    """
    console = Console()
    found = load_photo(image)
    photo = shrunk(found)
    size = check_size(size or _scaled((photo.shape[0], photo.shape[1])), LARGEST_SIDE)
    picture = picture_path(out, "downsize.png")
    place = pick_device(device)
    busy = busy_note(threads)

    with limited_threads(threads), progress_of(console) as (progress, task):
        source = as_tensor(photo, place)
        net, start = network(source), network(source)
        train(net, source, size, lambda step: progress.update(task, description=f"training: step {step} of {STEPS}"))
        outcome = compare(net, start, source, size)
        draw(outcome, picture)
        console.print(f"picture: {shown(str(picture))}", soft_wrap=True, highlight=False, markup=False)
        progress.update(task, description="comparing with plain torch …")
        apart = check(net, source, size)
        progress.update(task, description="taking times …")
        timings = time(net, source, size, repeats)

    name = shown(image.name) if image else "rocket (scikit-image)"
    if photo.shape != found.shape:
        name += f" of {found.shape[0]} x {found.shape[1]}, shrunk"
    report(console, outcome, timings, apart, name, f"median of {repeats}, {hardware(place, threads)}")
    for note in busy:
        console.print(note, soft_wrap=True, highlight=False)
    return picture


def shrunk(photo: np.ndarray) -> np.ndarray:
    """The photo with sides of at most LARGEST_SIDE."""
    if max(photo.shape[:2]) <= LARGEST_SIDE:
        return photo
    small = Image.fromarray(photo)
    small.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return np.array(small)


def _scaled(source: tuple[int, int]) -> tuple[int, int]:
    return max(round(RATIO * source[0]), 1), max(round(RATIO * source[1]), 1)


# --- the network ------------------------------------------------------------------------------------------------------


def network(photo: Tensor) -> DownsizeNet:
    """The same every time. Its convolutions see the photo normalised by its own mean and deviation."""
    deviation = photo.std((0, 2, 3)).clamp(min=1e-3)  # a photo of one colour has none
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = DownsizeNet(mean=photo.mean((0, 2, 3)).tolist(), std=deviation.tolist())
    return net.to(photo.device)


def train(net: DownsizeNet, photo: Tensor, size: tuple[int, int], tell: Callable[[int], object]) -> None:
    """Teaches the network to keep what the photo can be restored from: the loss is the squared error of the small photo
    enlarged again (bilinear), in the middle of this very photo."""
    source = photo.shape[2], photo.shape[3]
    window = min(source[0], CROP), min(source[1], CROP)
    top, left = ((side - part) // 2 for side, part in zip(source, window, strict=True))
    crop = photo[:, :, top : top + window[0], left : left + window[1]].contiguous()
    small = tuple(max(round(part * t / side), 1) for part, t, side in zip(window, size, source, strict=True))
    optimiser = torch.optim.Adam(net.parameters(), RATE)
    for step in range(STEPS):
        tell(step)
        optimiser.zero_grad()
        _loss(net(crop, small), crop).backward()
        optimiser.step()


def _loss(small: Tensor, photo: Tensor) -> Tensor:
    return F.mse_loss(F.interpolate(small, photo.shape[2:], mode="bilinear"), photo)


@torch.no_grad()
def compare(net: DownsizeNet, start: DownsizeNet, photo: Tensor, size: tuple[int, int]) -> Outcome:
    """The photo made small by everything that is compared."""
    return Outcome(
        photo=photo,
        bilinear=F.interpolate(photo, size, mode="bilinear"),
        area=F.interpolate(photo, size, mode="area"),
        start=start(photo, size),
        learned=net(photo, size),
        weights=_weights(net, photo, size),
    )


def _weights(net: DownsizeNet, photo: Tensor, size: tuple[int, int]) -> Tensor:
    at = plain.tables((photo.shape[2], photo.shape[3]), size, photo)
    return plain.coefficients(photo, *_arguments(_parameters(net)), at, *_statistics(net, photo))


def restoration_error(small: Tensor, photo: Tensor) -> float:
    """Root of the mean square of what is lost, in units of the brightest value."""
    return _loss(small, photo).sqrt().item()


# --- the same in plain torch, and times -------------------------------------------------------------------------------


def _parameters(net: DownsizeNet) -> list[Tensor]:
    """Weights of the convolutions, their biases, and those of the 1x1 convolution."""
    named = {name: parameter.detach() for name, parameter in net.named_parameters()}
    convolutions = [f"convs.{layer}.{kind}" for kind in ("weight", "bias") for layer in range(net.layers)]
    return [named[name] for name in (*convolutions, "fuse.weight", "fuse.bias")]


def _arguments(parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    """Weights, biases, and those of the 1x1 convolution."""
    *convolutions, fuse_weight, fuse_bias = parameters
    layers = len(convolutions) // 2
    return convolutions[:layers], convolutions[layers:], fuse_weight, fuse_bias


def _statistics(net: DownsizeNet, photo: Tensor) -> list[Tensor]:
    return [torch.tensor(values, device=photo.device)[:, None, None] for values in (net.mean, net.std)]


def _contenders(net: DownsizeNet, photo: Tensor, size: tuple[int, int]) -> dict[str, tuple[Function, list[Tensor]]]:
    """By name, functions of tensors and these tensors."""
    at = plain.tables((photo.shape[2], photo.shape[3]), size, photo)
    statistics = _statistics(net, photo)

    def ours(image: Tensor, *parameters: Tensor) -> list[Tensor]:
        return [downsize(image, *_arguments(parameters), size, mean=net.mean, std=net.std)]

    def theirs(image: Tensor, *parameters: Tensor) -> list[Tensor]:
        found = plain.coefficients(image, *_arguments(parameters), at, *statistics)
        return [plain.interpolate(image, found, at)]

    def resize(image: Tensor, mode: str, antialias: bool = False) -> list[Tensor]:
        return [F.interpolate(image, size, mode=mode, antialias=antialias)]

    inputs = [photo, *_parameters(net)]
    resizes = {
        "F.interpolate, bilinear": functools.partial(resize, mode="bilinear"),
        "F.interpolate, bicubic": functools.partial(resize, mode="bicubic"),
        "F.interpolate, bilinear, antialiased": functools.partial(resize, mode="bilinear", antialias=True),
        "F.interpolate, area": functools.partial(resize, mode="area"),
    }
    both = {OURS: (ours, inputs), PLAIN: (theirs, inputs)}
    return both | {name: (function, [photo]) for name, function in resizes.items()}


def check(net: DownsizeNet, photo: Tensor, size: tuple[int, int]) -> float:
    """Asserts that fastwarp and plain torch agree, in gradients too; compiles every kernel that is timed.

    Returns:
        The largest difference of the small photos.
    """
    contenders = _contenders(net, photo, size)
    (mine, inputs), (other, _) = contenders[OURS], contenders[PLAIN]
    results = [[*forward(f, inputs)(), *backward(f, inputs)()] for f in (mine, other)]
    for index, (a, b) in enumerate(zip(*results, strict=True)):
        error, bound = (a - b).abs().max().item(), TOLERANCE * b.abs().max().item()
        what = "the small photo" if index == 0 else f"gradient {index}"
        assert error <= bound, f"{what}: fastwarp and plain torch differ by {error:.2g}, more than {bound:.2g}"
    return (results[0][0] - results[1][0]).abs().max().item()


def time(net: DownsizeNet, photo: Tensor, size: tuple[int, int], repeats: int) -> list[Timing]:
    """Times every contender in both directions, taking turns; gradients to the photo and to all parameters."""
    contenders = _contenders(net, photo, size)
    forwards, backwards = (
        medians([functools.partial(way, *both) for both in contenders.values()], repeats, photo.device)
        for way in (forward, backward)
    )
    return [Timing(*row) for row in zip(contenders, forwards, backwards, strict=True)]


# --- what is shown ----------------------------------------------------------------------------------------------------


def draw(outcome: Outcome, path: Path) -> None:
    """Writes the picture: the photo, three small ones, and the weights that DownsizeNet made one of them with."""
    height, width = outcome.photo.shape[2:]
    small_height, small_width = outcome.learned.shape[2:]

    def panel(image: Tensor, name: str) -> viz.Panel:
        title = f"{name}: error {restoration_error(image, outcome.photo):.4f}"
        return lambda ax: viz.show_image(image[0].permute(1, 2, 0), title=title, ax=ax)

    apart = (outcome.learned - outcome.bilinear).abs().mean((0, 1))
    panels = [
        lambda ax: viz.show_image(outcome.photo[0].permute(1, 2, 0), title=f"photo, {height} × {width}", ax=ax),
        panel(outcome.bilinear, f"bilinear, {small_height} × {small_width}"),
        panel(outcome.area, "area"),
        panel(outcome.learned, "DownsizeNet, trained on this photo"),
        lambda ax: viz.show_weights(outcome.weights[0], (2, 2), title="its weights of the 2 × 2 taps", ax=ax),
        lambda ax: viz.show_error(apart, title="how far it is from bilinear", ax=ax),
    ]
    aspect = min(2.0, max(0.4, height / width))
    write(viz.montage(panels, columns=3, panel_size=(4.9, 4.2 * aspect + 0.3)), path)


def report(
    console: Console, outcome: Outcome, timings: Sequence[Timing], apart: float, photo: str, conditions: str
) -> None:
    """Prints what was done, the table of times and the errors."""
    device = outcome.photo.device
    (height, width), (small_height, small_width) = outcome.photo.shape[2:], outcome.learned.shape[2:]
    lines = [
        f"photo {photo}: {height} x {width}, downsized to {small_height} x {small_width}",
        f"DownsizeNet of 3 layers and 16 channels, trained for {STEPS} steps on this very photo to be enlarged again",
        f"backend {backend_for(device)} on {device.type}",
        ", ".join(f"{name} {version}" for name, version in versions().items() if version),
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)

    table = Table(title=f"milliseconds, float32, batch 1, {conditions}", title_justify="left")
    for heading in ("downsized by", "forward", "ratio", "backward", "ratio"):
        table.add_column(heading, justify="left" if heading == "downsized by" else "right")
    ours = timings[0]
    for name, there, back in timings:
        ratios = there / ours.forward, back / ours.backward
        table.add_row(name, f"{there:.3f}", f"{ratios[0]:.2f}x", f"{back:.3f}", f"{ratios[1]:.2f}x")
    console.print(table)

    # In float64: F.interpolate's positions in float32 are off by more than what is measured.
    exact = F.interpolate(outcome.photo.double(), outcome.start.shape[2:], mode="bilinear")
    start = (outcome.start - exact).abs().max().item()
    errors = (restoration_error(small, outcome.photo) for small in (outcome.bilinear, outcome.area, outcome.learned))
    bilinear, area, learned = errors
    lines = [
        f"fastwarp less plain torch: at most {apart:.1e}; untrained less F.interpolate: at most {start:.1e}",
        f"error of the photo enlarged again: bilinear {bilinear:.4f}, area {area:.4f}, DownsizeNet {learned:.4f}",
        "(a photo's own network shows what can be learned, not what carries over to others)",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
