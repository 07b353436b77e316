"""Images of Pillow, NumPy and torch as `[B, C, H, W]`, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastwarp.errors import fail
from fastwarp.warp import MeshWarp, SeparableWarp

MODES = ("L", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "F")
"""Of Pillow: those whose values can be averaged. Others, such as palettes, must be converted first."""

PREMULTIPLIED = {"LA": "La", "RGBA": "RGBa"}
"""Modes in which transparent pixels count for nothing, as for Pillow's `resize`."""


def check_warp(function: str, warp: Any) -> Any:
    """`warp`, if it is one warp of any kind."""
    if not isinstance(warp, (SeparableWarp, MeshWarp)):
        raise TypeError(f"{function}: warp is {type(warp).__name__}, expected SeparableWarp or MeshWarp")
    if len(warp) != 1:
        raise fail(function, "warp", f"a batch of {len(warp)}", "one warp, that of the image")
    return warp


def is_pillow(image: Any) -> bool:
    """Whether it is an image of Pillow, which is not imported for the question."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def unpacked(function: str, argument: str, image: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """An image, or a batch, as `[B, C, H, W]` in the layout that it has in memory; and the way back.

    Args:
        function: public name of the caller.
        argument: name of the argument.
        image: of Pillow; array `[H, W]`, `[H, W, C]` or `[B, H, W, C]`; tensor `[C, H, W]` or `[B, C, H, W]`.

    Returns:
        The tensor, and what makes the kind of image that was given of another such tensor.
    """
    if is_pillow(image):
        return _of_pillow(function, argument, image)
    if isinstance(image, np.ndarray):
        return _of_array(function, argument, image)
    if not isinstance(image, Tensor):
        got = type(image).__name__
        raise TypeError(f"{function}: {argument} is {got}, expected an image of Pillow, an array or a tensor")
    if image.dim() not in (3, 4):
        raise fail(function, argument, f"of shape {list(image.shape)}", "[C, H, W] or [B, C, H, W]")
    return (image, lambda t: t) if image.dim() == 4 else (image[None], lambda t: t[0])


def _of_pillow(function: str, argument: str, image: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    mode = image.mode
    if mode not in MODES:
        raise TypeError(f"{function}: {argument} has mode {mode!r}, expected one of {', '.join(MODES)}")
    pillow = sys.modules["PIL.Image"]
    inner = PREMULTIPLIED.get(mode, mode)
    array = np.array(image.convert(inner) if inner != mode else image)
    tensor, packed = _of_array(function, argument, array)

    def back(result: Tensor) -> Any:
        array = packed(result)
        size = (array.shape[1], array.shape[0])
        made = pillow.frombytes(inner, size, np.ascontiguousarray(array).tobytes())
        return made.convert(mode) if inner != mode else made

    return tensor, back


def _of_array(function: str, argument: str, image: np.ndarray) -> tuple[Tensor, Callable[[Tensor], Any]]:
    if image.ndim not in (2, 3, 4):
        raise fail(function, argument, f"of shape {list(image.shape)}", "[H, W], [H, W, C] or [B, H, W, C]")
    if image.dtype.kind not in "uif" or image.dtype.byteorder == ">":
        raise TypeError(f"{function}: {argument} has dtype {image.dtype}, expected numbers in the machine's order")
    if not image.flags.writeable or any(stride < 0 for stride in image.strides):
        image = image.copy()  # torch takes neither
    tensor = torch.from_numpy(image)
    if image.ndim == 2:
        return tensor[None, None], lambda t: t[0, 0].numpy()
    batched = image.ndim == 4
    tensor = (tensor if batched else tensor[None]).permute(0, 3, 1, 2)

    def back(result: Tensor) -> np.ndarray:
        array = result.permute(0, 2, 3, 1).contiguous().numpy()
        return array if batched else array[0]

    return tensor, back
