"""DownsizeNet, forward and backward, at many ratios; the memory that its backward pass wants."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import peers_downsize
import pytest
import torch
from cases import BEST, DEVICES, Size, downsize_parameters, image, size_in_bytes
from paired import paired, trained
from torch import Tensor

from fastwarp import functional

FLOAT, BF16 = torch.float32, torch.bfloat16
TOLERANCES = {FLOAT: 1e-4, BF16: 3e-2}
"""Largest difference from the peer relative to the largest value. In bf16 the peer rounds every feature map."""

GRADIENTS = 5e-2
"""The same of gradients, in float32. Of millions of ReLUs a few have an argument of a rounding: they are on for one and
off for the other, and the gradient of the pixels around differs by what came through that one feature (seen: 2e-2)."""

SMALL: Size = (512, 768)
RATIOS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5)


def _scaled(source: Size, ratio: float) -> Size:
    return round(source[0] * ratio), round(source[1] * ratio)


def _fastwarp(layers: int, size: Size) -> Callable[..., list[Tensor]]:
    """The public function on the inputs of the peers: the image, then `downsize_parameters`."""

    def run(picture: Tensor, *parameters: Tensor) -> list[Tensor]:
        *convolutions, fuse_weight, fuse_bias = parameters
        weights, biases = convolutions[:layers], convolutions[layers:]
        return [functional.downsize(picture, weights, biases, fuse_weight, fuse_bias, size)]

    return run


def _compare(
    benchmark: Any,
    shape: Sequence[int],
    size: Size,
    device: str,
    *,
    layers: int = 3,
    channels: int = 16,
    dtype: torch.dtype = FLOAT,
    layout: str = "contiguous",
    backward: bool = False,
    resizes: bool = False,
    target: float = BEST,
    alone: dict[str, Any] | None = None,
    targets: dict[str, float] | None = None,
) -> None:
    """Times one case; of a backward pass also what is kept for it. Gradients in bf16 are not compared: the peer's
    rounding turns many ReLUs on or off."""
    source = image(shape, dtype, layout, device)
    parameters = downsize_parameters(layers, channels, device)
    contenders = {
        "fastwarp": _fastwarp(layers, size),
        "plain torch": peers_downsize.naive((shape[2], shape[3]), size, source),
    }
    alone = (peers_downsize.resizes(size) if resizes else {}) | (alone or {})
    moved = size_in_bytes([source]) + shape[0] * shape[1] * size[0] * size[1] * source.itemsize
    tolerance = TOLERANCES[dtype]
    kept = {}
    if backward:
        kept = {name: _kept(f, [source, *parameters]) for name, f in contenders.items()}
        alone["forward alone"] = contenders["fastwarp"]
        contenders = {name: trained(f, range(1 + len(parameters))) for name, f in contenders.items()}
        if dtype == BF16:
            alone["plain torch"] = contenders.pop("plain torch")
        moved, tolerance = 2 * moved, GRADIENTS
    if "plain torch" in contenders and device == "cuda" and dtype == FLOAT:
        alone["plain torch, TF32"] = peers_downsize.precision(contenders["plain torch"], True)
        contenders["plain torch"] = peers_downsize.precision(contenders["plain torch"], False)
    paired(
        benchmark,
        contenders,
        lambda: [source.clone(), *(p.clone() for p in parameters)],
        moved=moved,
        tolerance=tolerance,
        targets={"plain torch": target} | (targets or {}),
        alone=alone,
    )
    if kept and not benchmark.disabled:
        benchmark.extra_info["kept"] = kept


def _kept(function: Callable[..., list[Tensor]], inputs: Sequence[Tensor]) -> int:
    """Bytes that the forward pass leaves behind for its backward pass, other than its inputs."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    own = {x.untyped_storage().data_ptr() for x in leaves}
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    # The results hold the graph, and so every tensor in it, until all are counted: no address is used twice.
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        results = function(*leaves)
    del results
    return sum(held.values())


# --- forward ----------------------------------------------------------------------------------------------------------


@DEVICES
@pytest.mark.parametrize(
    ("shape", "size", "target"),
    [
        ((16, 3, 300, 300), (160, 160), 6.0),
        ((1, 3, 1200, 1920), (600, 960), 6.0),
        ((1, 3, 1024, 2048), (358, 717), 4.0),
        ((1, 3, 1024, 2048), (256, 512), 8.0),
    ],
)
def test_downsize(benchmark: Any, shape: tuple[int, ...], size: Size, target: float, device: str) -> None:
    """The sizes of the paper's Table 1 and 2, and a half of Argoverse-HD; 3 layers of 16 channels."""
    _compare(benchmark, shape, size, device, resizes=True, target=target)


@DEVICES
@pytest.mark.parametrize("ratio", RATIOS)
def test_downsize_ratio(benchmark: Any, ratio: float, device: str) -> None:
    """One image, from a tenth of its sides to half as much again."""
    _compare(benchmark, (1, 3, *SMALL), _scaled(SMALL, ratio), device)


@DEVICES
@pytest.mark.parametrize("layers", [1, 2, 4])
def test_downsize_layers(benchmark: Any, layers: int, device: str) -> None:
    """Other depths, to a half."""
    _compare(benchmark, (1, 3, *SMALL), _scaled(SMALL, 0.5), device, layers=layers)


@DEVICES
@pytest.mark.parametrize(("layout", "dtype"), [("contiguous", BF16), ("channels_last", FLOAT), ("channels_last", BF16)])
def test_downsize_format(benchmark: Any, layout: str, dtype: torch.dtype, device: str) -> None:
    """Other dtypes and layouts, to a half."""
    _compare(benchmark, (1, 3, *SMALL), _scaled(SMALL, 0.5), device, layout=layout, dtype=dtype)


# --- forward and backward ---------------------------------------------------------------------------------------------


@DEVICES
@pytest.mark.parametrize(
    ("shape", "size"),
    [((16, 3, 300, 300), (160, 160)), ((1, 3, 1200, 1920), (600, 960)), ((1, 3, *SMALL), _scaled(SMALL, 0.35))],
)
def test_downsize_backward(benchmark: Any, shape: tuple[int, ...], size: Size, device: str) -> None:
    """Gradients to the image, both ways, and to every parameter."""
    _compare(benchmark, shape, size, device, backward=True, target=2.5)


@DEVICES
@pytest.mark.parametrize("ratio", [0.1, 1.0, 1.5])
def test_downsize_backward_ratio(benchmark: Any, ratio: float, device: str) -> None:
    """The same at the ends."""
    _compare(benchmark, (1, 3, *SMALL), _scaled(SMALL, ratio), device, backward=True)


# --- GPUs -------------------------------------------------------------------------------------------------------------


def _operations(shape: Sequence[int], size: Size, layers: int, channels: int) -> float:
    """Of the convolutions at the least: a layer is evaluated on the whole image or where the next ones read it."""
    widths = [shape[1], *[channels] * layers]
    total = 0.0
    for layer, (before, wide) in enumerate(itertools.pairwise(widths)):
        around = 2 * (layers - 1 - layer) + 1
        places = min(shape[2] * shape[3], size[0] * size[1] * around**2)
        total += 2.0 * 9 * before * wide * places
    return shape[0] * total


@pytest.mark.gpu
@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize(("shape", "size"), [((16, 3, 300, 300), (160, 160)), ((1, 3, 1200, 1920), (600, 960))])
def test_downsize_floor(benchmark: Any, shape: tuple[int, ...], size: Size, layers: int) -> None:
    """bf16 on tensor cores, against a matrix product of as many operations and, for a batch of small images, against
    the network it feeds: a tenth of that is what it may add to bilinear resizing."""
    alone = {"matmul": peers_downsize.matmul(_operations(shape, size, layers, 16), BF16, "cuda")}
    targets = {"matmul": 0.5, "copy": 0.5}
    if shape[0] > 1:
        alone["ResNet-50"] = peers_downsize.resnet50(shape[0], size, BF16, "cuda")
        targets["ResNet-50"] = 10.0
    _compare(
        benchmark,
        shape,
        size,
        "cuda",
        layers=layers,
        dtype=BF16,
        resizes=True,
        alone=alone,
        targets=targets,
        target=BEST,
    )


@pytest.mark.gpu
def test_downsize_backward_floor(benchmark: Any) -> None:
    """bf16 forward and backward, against the forward pass alone."""
    targets = {"forward alone": 1 / 3}
    _compare(benchmark, (16, 3, 300, 300), (160, 160), "cuda", dtype=BF16, backward=True, targets=targets)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [FLOAT, BF16])
@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.35, 0.5, 0.7])
def test_downsize_cost_model(benchmark: Any, ratio: float, dtype: torch.dtype) -> None:
    """What the cost model of the kernels chooses for the layer before the last, beside both choices made for it."""
    from fastwarp.kernels.gpu import _downsize_cost

    size = _scaled((1024, 2048), ratio)
    source = image((1, 3, 1024, 2048), dtype, device="cuda")
    parameters = downsize_parameters(3, device="cuda")
    chosen = _fastwarp(3, size)

    def forced(selects: bool, *inputs: Tensor) -> list[Tensor]:
        with patch.object(_downsize_cost, "selects", lambda sizes: selects):
            return chosen(*inputs)

    paired(
        benchmark,
        {
            "fastwarp": chosen,
            "a map of every layer": functools.partial(forced, False),
            "evaluated per target": functools.partial(forced, True),
        },
        lambda: [source.clone(), *(p.clone() for p in parameters)],
        moved=size_in_bytes([source]) + 3 * size[0] * size[1] * source.itemsize,
        tolerance=TOLERANCES[dtype],
        targets={"a map of every layer": 0.95, "evaluated per target": 0.95},
    )
