"""What `downsize` and `downsize_boxes` check of a network's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastwarp._checks import check_option, check_statistics
from fastwarp.errors import FastwarpError, check_devices, check_tensor, fail

LAYERS = 5
"""Most convolutions that the kernels are written for; DownsizeNet table 4 ends there, too."""


def check_parameters(
    function: str,
    image: Tensor,
    channels: int,
    weights: Any,
    biases: Any,
    fuse_weight: Any,
    fuse_bias: Any,
) -> Tensor:
    """`fuse_weight` as a matrix, if the parameters belong together and to images of so many channels."""
    for argument, values in (("weights", weights), ("biases", biases)):
        if not isinstance(values, Sequence) and not isinstance(values, torch.nn.ParameterList):
            raise TypeError(f"{function}: {argument} is {type(values).__name__}, expected a list of tensors")
    if len(weights) != len(biases):
        raise fail(function, "biases", f"{len(biases)} long", f"one for each of {len(weights)} weights")
    if len(weights) > LAYERS:
        raise fail(function, "weights", f"{len(weights)} long", f"at most {LAYERS} convolutions")
    named: dict[str, Tensor] = {}
    for l, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        check_tensor(function, f"weights[{l}]", weight, "[F, C, 3, 3]", floating=True)
        if weight.shape[1:] != (channels, 3, 3) or weight.shape[0] == 0:
            raise fail(function, f"weights[{l}]", f"of shape {list(weight.shape)}", f"[F, {channels}, 3, 3]")
        channels = weight.shape[0]
        check_tensor(function, f"biases[{l}]", bias, "[F]", floating=True)
        if bias.shape[0] != channels:
            raise fail(function, f"biases[{l}]", f"of shape {list(bias.shape)}", f"[{channels}]")
        named[f"weights[{l}]"], named[f"biases[{l}]"] = weight, bias
    if isinstance(fuse_weight, Tensor) and fuse_weight.dim() == 4 and fuse_weight.shape[2:] == (1, 1):
        fuse_weight = fuse_weight.flatten(1)
    check_tensor(function, "fuse_weight", fuse_weight, "[K, F + K']", floating=True)
    named["fuse_weight"] = fuse_weight
    if fuse_bias is not None:
        check_tensor(function, "fuse_bias", fuse_bias, "[K]", floating=True)
        if fuse_bias.shape[0] != fuse_weight.shape[0]:
            raise fail(function, "fuse_bias", f"of shape {list(fuse_bias.shape)}", f"[{fuse_weight.shape[0]}]")
        named["fuse_bias"] = fuse_bias
    for argument, tensor in named.items():
        if tensor.dtype != fuse_weight.dtype:
            got = f"{argument} is {tensor.dtype}, fuse_weight is {fuse_weight.dtype}"
            raise TypeError(f"{function}: {got}, expected one dtype")
    check_devices(function, image=image, **named)
    return fuse_weight


def check_fuse(function: str, fuse_weight: Tensor, taps: tuple[int, int], features: int, columns: int) -> None:
    """Raises unless the 1x1 convolution goes from the features and distances to the taps."""
    if features + columns == 0:
        raise FastwarpError(f"{function}: got no convolutions and no distances, expected at least one of them")
    expected = [taps[0] * taps[1], features + columns]
    if list(fuse_weight.shape) != expected:
        why = f"{taps[0]} x {taps[1]} taps from {features} features and {columns} distances"
        raise fail(function, "fuse_weight", f"of shape {list(fuse_weight.shape)}", f"{expected}: {why}")


def statistics(function: str, channels: int, mean: Any, std: Any) -> tuple[list[float], list[float]]:
    """Mean of each channel, and what its difference is multiplied by."""
    mean = (0.0,) * channels if mean is None else mean
    std = (1.0,) * channels if std is None else std
    check_statistics(function, channels, mean, std)
    return [float(value) for value in mean], [1.0 / float(value) for value in std]


def check_encoding(function: str, encoding: Any) -> None:
    """Raises unless the encoding is one that `downsize` knows, or the user's own."""
    if encoding is not None and not callable(encoding):
        check_option(function, "encoding", encoding, ("exact", "raw"))


def check_encoded(function: str, value: Any, dims: tuple[int, ...]) -> Tensor:
    """What the user's own encoding returned, if it is a map of distances `[K', *dims]`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{function}: encoding returned {type(value).__name__}, expected a torch.Tensor [K', h, w]")
    if value.shape[1:] != dims or value.dim() != 3:
        expected = f"[K', {', '.join(str(d) for d in dims)}]"
        raise fail(function, "encoding", f"a function to shape {list(value.shape)}", f"one to {expected}")
    return value
