"""`downsize` by convolutions that are called, where they do more than their weights say: hooks, pruning, adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastwarp._checks import IMAGE_DTYPES, check_memory
from fastwarp._constants import constant
from fastwarp.errors import check_size, check_tensor, fail
from fastwarp.functional._downsize_checks import statistics
from fastwarp.functional._downsize_tables import axes, can_keep, encoded_distances, geometry, shape
from fastwarp.kernels.layout import memory_format
from fastwarp.ops._dense_downsize import coefficients, mean_of_taps


def is_plain(conv: nn.Module, padding: int) -> bool:
    """Whether a call of `conv` is nothing but a convolution with its `weight` and `bias`, stride 1 and this padding."""
    hooks = (conv._forward_pre_hooks, conv._forward_hooks, conv._backward_pre_hooks, conv._backward_hooks)
    if not isinstance(conv, nn.Conv2d) or any(len(h) for h in hooks):
        return False
    # Not its type: parametrized convolutions are a class of their own, whose weight is right when it is read.
    own = type(conv).forward is nn.Conv2d.forward and type(conv)._conv_forward is nn.Conv2d._conv_forward
    settings = (conv.stride, conv.padding, conv.dilation, conv.padding_mode)
    return own and "forward" not in conv.__dict__ and settings == ((1, 1), (padding, padding), (1, 1), "zeros")


def downsize_called(
    image: Tensor,
    convs: Sequence[nn.Module],
    fuse: nn.Module,
    size: Any,
    *,
    taps: Any,
    footprint: Any,
    encoding: Any,
    normalise: Any,
    align_corners: bool,
    mean: Any,
    std: Any,
    texture_gradient: bool,
) -> Tensor:
    """What `functional.downsize` computes, by modules in place of weights, as one torch operation after the other.

    Modules run in the dtype of their own parameters; the rest, as there, in float32 at least.

    Args:
        image: `[B, C, H, W]`.
        convs: from the normalised image to features of its size, each followed by a ReLU.
        fuse: from `[B, F + K', h, w]`, features and encoded distances, to `[B, K, h, w]`.
        size: (height, width) of the result.
        taps: see `functional.downsize`, as are all others.
        footprint: of an area.
        encoding: of the distances.
        normalise: the activation.
        align_corners: as of `F.interpolate`.
        mean: of each channel.
        std: of each channel.
        texture_gradient: whether the image gets a gradient through `convs`.
    """
    name = "downsize"
    check_tensor(name, "image", image, "[B, C, H, W]", dtypes=IMAGE_DTYPES[1:])
    if 0 in image.shape[1:]:
        raise fail(name, "image", f"of shape {list(image.shape)}", "channels, a height and a width of at least 1")
    target = check_size(name, "size", size)
    batch, channels, height, width = image.shape
    at = geometry(name, (height, width), target, taps, footprint, align_corners)
    mean, scale = statistics(name, channels, mean, std)
    kernel_rows, kernel_columns = shape(at)
    K = kernel_rows * kernel_columns
    needed = (batch * K * (channels + 2) + 5 * K) * 4 * target[0] * target[1]
    check_memory(name, "size", tuple(target), needed, image.device)
    real = torch.float64 if image.dtype == torch.float64 else torch.float32
    keep = can_keep(image)
    rows, columns = axes(at, image.device, keep)
    encoded = encoded_distances(name, at, rows, columns, encoding, normalise, real, keep)
    seen = [encoded.expand(batch, *encoded.shape)]
    if convs:
        a = (image if texture_gradient else image.detach()).to(real)
        a = (a - constant(mean, a)[:, None, None]) * constant(scale, a)[:, None, None]
        for l, conv in enumerate(convs):
            a = F.relu(_called(f"convs.{l}", conv, a))
            if a.shape[2:] != image.shape[2:]:
                raise fail(name, f"convs.{l}", f"a module to {list(a.shape[2:])}", f"one that keeps {[height, width]}")
        seen.insert(0, a.to(real).index_select(2, rows.anchor).index_select(3, columns.anchor))
    z = _called("fuse", fuse, torch.cat(seen, 1))
    if z.shape != (batch, K, *target):
        raise fail(name, "fuse", f"a module to {list(z.shape)}", f"one to {[batch, K, *target]}")
    result = mean_of_taps(image.to(real), rows.taps, columns.taps, coefficients(z.to(real), normalise))
    return result.to(image.dtype).contiguous(memory_format=memory_format(image))


def _called(name: str, module: nn.Module, value: Tensor) -> Tensor:
    if callable(getattr(module, "weight", None)):  # torch's converted modules
        kind = f"{type(module).__module__}.{type(module).__name__}"
        raise fail(
            "DownsizeNet", name, f"{kind}, for quantized tensors", "a module for floating-point ones: its qconfig None"
        )
    parameters = list(module.parameters())
    result = module(value.to(parameters[0].dtype) if parameters else value)
    if not isinstance(result, Tensor) or result.dim() != 4:
        raise fail("downsize", name, "a module to something else", "one to a tensor [B, C, H, W]")
    return result
