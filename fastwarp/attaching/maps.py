"""Images and maps among what the submodules of a network take and return."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastwarp.errors import FastwarpError


def is_map(value: Any) -> bool:
    """Whether it is an image or a feature map `[B, C, H, W]`."""
    return isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point()


def maps_in(value: Any, keys: tuple[str, ...] | None) -> list[Tensor]:
    """The maps in nested dicts, lists and tuples, each once; of the outermost dicts only the entries `keys`."""
    found: list[Tensor] = []
    _collect(value, keys, found)
    return found


def _collect(value: Any, keys: tuple[str, ...] | None, found: list[Tensor]) -> None:
    if is_map(value):
        if not any(value is other for other in found):
            found.append(value)
    elif isinstance(value, dict):
        for key, entry in value.items():
            if keys is None or key in keys:
                _collect(entry, None, found)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, keys, found)


def replaced(value: Any, old: Sequence[Tensor], new: Sequence[Tensor]) -> Any:
    """The same structure with `new` tensors in the place of `old` ones."""
    if isinstance(value, Tensor):
        return [*(after for before, after in zip(old, new, strict=True) if value is before), value][0]
    if isinstance(value, dict):
        entries = {key: replaced(entry, old, new) for key, entry in value.items()}
        if type(value) is OrderedDict:  # torch 2.14 compiles no hasattr of it
            return OrderedDict(entries)
        # The outputs of transformers are dicts that take their entries as keyword arguments.
        return type(value)(**entries) if hasattr(value, "to_tuple") else type(value)(entries)
    if isinstance(value, (list, tuple)):
        items = [replaced(item, old, new) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def stacked(images: Any, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Images of any sizes as a batch padded with zeros, and their sizes `[B, 2]`; a batch stays what it is.

    Args:
        images: `[B, C, H, W]`, or a list of `[C, H, W]`.
        like: `[B, C, h, w]`, the network's own images.

    Raises:
        FastwarpError: another number of images or channels.
    """
    shapes = [tuple(image.shape) for image in images]
    if len(shapes) != len(like) or any(len(s) != 3 or s[0] != like.shape[1] for s in shapes):
        expected = f"{len(like)} images [{like.shape[1]}, H, W], as many as the network takes"
        raise FastwarpError(f"attach: the source images are of shapes {shapes}, expected {expected}")
    if isinstance(images, Tensor):
        return images.to(like), None
    height, width = (max(shape[axis] for shape in shapes) for axis in (1, 2))
    batch = like.new_zeros(len(shapes), like.shape[1], height, width)
    for target, image in zip(batch, images, strict=True):
        target[:, : image.shape[1], : image.shape[2]] = image
    return batch, torch.tensor([shape[1:] for shape in shapes], device=like.device)
