"""Learned RoI pooling: `downsize` of the part of a feature map that is in a box, for many boxes at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastwarp._checks import IMAGE_DTYPES, check_indices, check_memory, check_option
from fastwarp._constants import constant
from fastwarp.errors import as_real, check_devices, check_size, check_tensor, fail
from fastwarp.functional._downsize_checks import check_encoded, check_encoding, check_fuse, check_parameters, statistics
from fastwarp.functional._downsize_tables import NORMALISE, Encoding, Normalise, encode, products
from fastwarp.functional.separable import Size
from fastwarp.kernels.layout import memory_format
from fastwarp.ops._dense_downsize import coefficients


def downsize_boxes(
    features: Tensor,
    boxes: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    fuse_weight: Tensor,
    fuse_bias: Tensor | None,
    size: Size,
    *,
    spatial_scale: float = 1.0,
    encoding: Encoding = "exact",
    normalise: Normalise = "sigmoid",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    texture_gradient: bool = True,
) -> Tensor:
    """Pools the features in boxes with interpolation weights that a small network infers: DownsizeNet for regions of
    interest, as the paper's discussion proposes.

    Each box is divided into h x w cells. The centre of a cell projects between the pixels of the map, and `downsize`
    says what happens there, with bilinear taps. The convolutions run once over the whole map, however many boxes there
    are. At the start that `downsize` calls exact this is `torchvision.ops.roi_align(..., sampling_ratio=1,
    aligned=True)`, except that centres outside the map read its border.

    Args:
        features: `[B, C, H, W]`, fp16, bf16, fp32 or fp64.
        boxes: (x1, y1, x2, y2), continuous pixel coordinates, pixel i covering [i, i + 1]: a list of `[N_i, 4]`, one
            for each image, or `[N, 5]` with the number of the image in front. A box with x2 < x1 is read mirrored.
        weights: of the convolutions, see `downsize`.
        biases: theirs.
        fuse_weight: `[4, F_L + K']` of the 1x1 convolution of features and distances.
        fuse_bias: `[4]`, or None.
        size: (height, width) of each result, h and w.
        spatial_scale: pixels of the map per pixel that the boxes count in.
        encoding: see `downsize`.
        normalise: see `downsize`.
        mean: of each channel, subtracted from what the convolutions see.
        std: of each channel, which that is divided by.
        texture_gradient: False: to the convolutions the features are constants in the backward pass.

    Returns:
        `[N, C, *size]` in the dtype and memory format of the features, in the order of the boxes. A torch composition:
        differentiable, any number of times, in features and parameters, and in the boxes as far as the distances to
        pixels go (P is a constant). NaN in a box gives NaN for this box.

    Raises:
        FastwarpError: wrong ranks, sizes, channels, devices; a number of boxes' lists other than B; an image number
            outside 0 .. B - 1 (on GPUs with `FASTWARP_CHECKS=1`); parameters for other than 4 taps.
        TypeError: wrong types or dtypes.

    Examples:
        >>> import torch
        >>> features = torch.arange(36.0).reshape(1, 1, 6, 6)
        >>> boxes = [torch.tensor([[0.5, 0.5, 4.5, 2.5]])]
        >>> downsize_boxes(features, boxes, [], [], torch.eye(4), None, (1, 2)).round()
        tensor([[[[7., 9.]]]])
    """
    name = "downsize_boxes"
    check_tensor(name, "features", features, "[B, C, H, W]", dtypes=IMAGE_DTYPES[1:])
    if 0 in features.shape[1:]:
        raise fail(name, "features", f"of shape {list(features.shape)}", "channels, a height and a width of at least 1")
    target = check_size(name, "size", size)
    check_option(name, "normalise", normalise, NORMALISE)
    check_encoding(name, encoding)
    factor = as_real(spatial_scale)
    if factor is None:
        raise TypeError(f"{name}: spatial_scale is {spatial_scale!r}, expected a number")
    if not 0 < factor < float("inf"):
        raise fail(name, "spatial_scale", spatial_scale, "a positive, finite number")
    index, corners = _boxes(name, features, boxes)
    channels = features.shape[1]
    fuse_weight = check_parameters(name, features, channels, weights, biases, fuse_weight, fuse_bias)
    mean, scale = statistics(name, channels, mean, std)
    needed = 4 * (channels + 4) * features.itemsize * corners.shape[0] * target[0] * target[1]
    check_memory(name, "size", tuple(target), needed, features.device)

    real = torch.float64 if features.dtype == torch.float64 else torch.float32
    left, top, right, bottom = (corners.double() * factor).unbind(1)
    rows, dy = _positions(top, bottom, target[0], features.shape[2])
    columns, dx = _positions(left, right, target[1], features.shape[3])
    encoded = _encoded(name, dx, dy, encoding, normalise, real)
    depth = weights[-1].shape[0] if len(weights) else 0
    check_fuse(name, fuse_weight, (2, 2), depth, 0 if encoded is None else encoded.shape[1])
    z = _logits(fuse_weight[:, depth:], fuse_bias, encoded, (corners.shape[0], *target)).to(real)
    places = [(index, rows[i], columns[j]) for i in range(2) for j in range(2)]
    if len(weights):
        # A network in float32, also under autocast, as the kernels of `downsize` have it.
        with torch.autocast(features.device.type, enabled=False):
            a = (features if texture_gradient else features.detach()).to(real)
            a = (a - constant(mean, a)[:, None, None]) * constant(scale, a)[:, None, None]
            for weight, bias in zip(weights, biases, strict=True):
                a = F.relu(F.conv2d(a, weight.to(real), bias.to(real), padding=1))
            # The 1x1 convolution comes before the selection: there are fewer taps than features to select.
            texture = F.conv2d(a, fuse_weight[:, :depth, None, None].to(real))
        z = z + _select(texture, *places[0]).permute(0, 3, 1, 2)
    shares = coefficients(z, normalise).unsqueeze(-1)
    terms = (_select(features, *place) * shares[:, k] for k, place in enumerate(places))
    result = sum(terms, start=shares.new_zeros(())).permute(0, 3, 1, 2).to(features.dtype)
    return result.contiguous(memory_format=memory_format(features))


def _boxes(function: str, features: Tensor, boxes: Any) -> tuple[Tensor, Tensor]:
    """Number of the image `[N]` and corners `[N, 4]` of each box."""
    if isinstance(boxes, Tensor):
        check_tensor(function, "boxes", boxes, "[N, 5]", floating=True)
        if boxes.shape[1] != 5:
            raise fail(function, "boxes", f"of shape {list(boxes.shape)}", "[N, 5], the number of the image in front")
        check_devices(function, features=features, boxes=boxes)
        index = boxes[:, 0].detach().long()
        check_indices(function, "boxes[:, 0]", index, features.shape[0])
        return index, boxes[:, 1:]
    if not isinstance(boxes, (list, tuple)):
        raise TypeError(f"{function}: boxes is {type(boxes).__name__}, expected a list of tensors [N, 4] or one [N, 5]")
    if len(boxes) != features.shape[0]:
        raise fail(function, "boxes", f"{len(boxes)} long", f"one [N, 4] for each of {features.shape[0]} images")
    for i, part in enumerate(boxes):
        check_tensor(function, f"boxes[{i}]", part, "[N, 4]", floating=True)
        if part.shape[1] != 4:
            raise fail(function, f"boxes[{i}]", f"of shape {list(part.shape)}", "[N, 4]")
        check_devices(function, features=features, **{f"boxes[{i}]": part})
    none = features.new_zeros(0, 4, dtype=torch.float32)  # for a batch without images
    counts = [part.shape[0] for part in boxes]
    index = torch.cat([none[:, 0].long(), *(none.new_full((n,), i, dtype=torch.long) for i, n in enumerate(counts))])
    return index, torch.cat([none, *boxes])


def _positions(low: Tensor, high: Tensor, cells: int, size: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Of the cells of boxes from `low` to `high` `[N]`: the pixels before and after the centres `[N, cells]`, and how
    far in [0, 1] the centres lie past the first."""
    centre = torch.arange(cells, device=low.device, dtype=low.dtype) + 0.5
    position = low[:, None] + centre * ((high - low) / cells)[:, None] - 0.5
    position = position.clamp(0, size - 1)
    # Clamped as integers once more: NaN becomes any integer.
    first = position.detach().long().clamp(0, max(size - 2, 0))
    return (first, (first + 1).clamp(max=size - 1)), position - first


def _encoded(
    function: str, dx: Tensor, dy: Tensor, encoding: Encoding, normalise: str, real: torch.dtype
) -> Tensor | None:
    """Encoded distances `[N, K', h, w]`, float64; None for none."""
    if encoding is None:
        return None
    if isinstance(encoding, str):
        return encode(products(*(torch.stack([1 - d, d], -1) for d in (dy, dx))), encoding, normalise)
    dims = (dy.shape[1], dx.shape[1])

    def one(dx: Tensor, dy: Tensor) -> Tensor:
        return check_encoded(function, encoding(dx, dy), dims)

    return torch.vmap(one)(dx.to(real)[:, None, :], dy.to(real)[:, :, None]).double()


def _logits(weight: Tensor, bias: Tensor | None, encoded: Tensor | None, dims: tuple[int, int, int]) -> Tensor:
    """The distances' part of the 1x1 convolution, `[N, K, h, w]`, float64 for the reason given in `downsize`."""
    boxes, *size = dims
    constant = weight.new_zeros(weight.shape[0]) if bias is None else bias
    constant = constant.double()[:, None, None]
    if encoded is None:
        return constant.expand(boxes, -1, *size)
    return (weight.double() @ encoded.flatten(2)).unflatten(2, size) + constant


def _select(maps: Tensor, index: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """`[N, h, w, C]`: for each of N boxes the pixels at `rows` `[N, h]` and `columns` `[N, w]` of its image."""
    return maps.permute(0, 2, 3, 1)[index[:, None, None], rows[:, :, None], columns[:, None, :]]
