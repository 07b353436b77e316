"""Networks and boxes that the tests of functional.downsize share."""

from __future__ import annotations

import itertools

import torch


def network(layers=2, taps=4, distances=4, channels=3, width=5, dtype=torch.float32):
    """Random weights, biases, fuse_weight and fuse_bias."""
    widths = [channels, *[width] * layers]
    weights = [torch.randn(o, i, 3, 3, dtype=dtype) / 3 for i, o in itertools.pairwise(widths)]
    biases = [torch.randn(width, dtype=dtype) / 3 for _ in range(layers)]
    columns = distances + (width if layers else 0)
    return weights, biases, torch.randn(taps, columns, dtype=dtype) / 2, torch.randn(taps, dtype=dtype)


def named(value) -> str:
    """The same in every process, as a function's address is not."""
    return (
        str([named(v) for v in value.values()]) if isinstance(value, dict) else getattr(value, "__name__", str(value))
    )


def waves(dx, dy):
    return torch.stack([torch.sin(3 * dx) * dy, dx + dy, dx * dy.square() + 0.5])


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def start_error(image, got, expected) -> float:
    """Largest error beyond the rounding of the result, relative to the image's range."""
    assert got.dtype == image.dtype
    error = (got.double() - expected).abs() - torch.finfo(image.dtype).eps / 2 * expected.abs()
    return (error.max() / (image.max() - image.min()).double()).item()
