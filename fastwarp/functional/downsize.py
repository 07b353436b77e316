"""Downsizing with interpolation weights that a small network infers ("DownsizeNet": Ma et al., "Task Generalizable
Spatial and Texture Aware Image Downsizing Network", BMVC 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import fastwarp.ops  # noqa: F401  (registers torch.ops.fastwarp)
from fastwarp._checks import IMAGE_DTYPES, check_memory, check_option
from fastwarp.errors import call, check_size, check_tensor, fail
from fastwarp.functional._downsize_checks import check_fuse, check_parameters, statistics
from fastwarp.functional._downsize_tables import (
    NORMALISE,
    Encoding,
    Footprint,
    Normalise,
    Taps,
    axes,
    can_keep,
    encoded_distances,
    geometry,
    products,
    shape,
)
from fastwarp.functional.separable import Size

_ops = torch.ops.fastwarp


def downsize(
    image: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    fuse_weight: Tensor,
    fuse_bias: Tensor | None,
    size: Size,
    *,
    taps: Taps = "bilinear",
    footprint: Footprint = None,
    encoding: Encoding = "exact",
    normalise: Normalise = "sigmoid",
    align_corners: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    texture_gradient: bool = True,
) -> Tensor:
    """Resizes images, each target by a weighted mean of the pixels around it, with weights from distance and texture.

    A target Q of the result projects between pixels. P is the first of them, (floor(y), floor(x)) within the image.
    The features f of the image at P (L convolutions 3x3, each followed by a ReLU) and the relative distances v of Q
    go through a 1x1 convolution, z = fuse_weight [f(P); encoded v(Q)] + fuse_bias, and

        result(Q) = sum_k a_k(Q) q_k(Q),  a_k = sigmoid(z_k) / sum_j sigmoid(z_j)     (DownsizeNet eq. 1, section 3.1)

    over the K taps q_k of the image as it came, with the same weights for all channels. So the result is an image.
    One fused pass; nothing is saved for the backward pass but the arguments.

    Args:
        image: `[B, C, H, W]`, fp16, bf16, fp32 or fp64, contiguous or channels_last (kept) or any strides.
        weights: of the L = 0 .. 5 convolutions, `[F_1, C, 3, 3]`, `[F_2, F_1, 3, 3]`, ...; stride 1, zero padding. With
            none, distance alone decides.
        biases: `[F_1]`, `[F_2]`, ...
        fuse_weight: `[K, F_L + K']`, or with `[1, 1]` at its end, as of a Conv2d: columns of the features, then of the
            encoded distances (K' = K, unless `encoding` says otherwise).
        fuse_bias: `[K]`, or None.
        size: (height, width) of the result; may be larger than the image.
        taps: the pixels q_k and the distances v, which are the weights of the interpolation of that name:
            "bilinear" (2 x 2), "bicubic" (4 x 4, negative weights are possible with normalise="signed" alone) or
            "area" (all pixels that the target covers, v their shares). See `relative_distance` for their order.
        footprint: taps of an area, a number or (rows, columns); None: as many as the two sizes need. More than needed
            have distance 0. K is their product.
        encoding: "exact": v through the inverse of the activation that follows (logit, or log for softmax, v itself
            for signed), kept 1e-6 from where that is infinite. With an identity over the distances and zeros elsewhere
            the result is the interpolation itself. "raw": v, as the paper has it. None: no distances, texture alone
            (K' = 0; DownsizeNet table 5). Or a function of dx `[1, w]` and dy `[h, 1]`, the distances past P in
            pixels, to `[K', h, w]`.
        normalise: "sigmoid" as above, "softmax", or "signed": a_k = z_k + (1 - sum z) / K, which may be negative and
            is the paper's special case of bilinear interpolation (its sigmoid removed).
        align_corners: as of `F.interpolate`; False: pixels are areas. Not with areas.
        mean: of each channel, subtracted from what the convolutions see (not from the taps).
        std: of each channel, which that is divided by.
        texture_gradient: False: to the convolutions the image is a constant in the backward pass, which saves their
            gradient to it. The gradient through the taps, and all gradients of parameters, stay.

    Returns:
        `[B, C, *size]` in the image's dtype and memory format. Weights are computed in float32 (float64 for float64
        images) from parameters of any floating dtype, also under autocast. Differentiable twice in image and
        parameters.

    Raises:
        FastwarpError: wrong ranks, sizes, channels, devices; a K that is not the number of taps; a footprint that is
            too small; a result that the machine cannot hold; unknown options.
        TypeError: wrong types or dtypes, parameters of several dtypes.

    Examples:
        >>> import torch
        >>> image = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> downsize(image, [], [], torch.eye(4), torch.zeros(4), (2, 2)).round()
        tensor([[[[ 2.,  4.],
                  [10., 12.]]]])
    """
    name = "downsize"
    check_tensor(name, "image", image, "[B, C, H, W]", dtypes=IMAGE_DTYPES[1:])
    if 0 in image.shape[1:]:
        raise fail(name, "image", f"of shape {list(image.shape)}", "channels, a height and a width of at least 1")
    target = check_size(name, "size", size)
    batch, channels, height, width = image.shape
    check_option(name, "normalise", normalise, NORMALISE)
    at = geometry(name, (height, width), target, taps, footprint, align_corners)
    fuse_weight = check_parameters(name, image, channels, weights, biases, fuse_weight, fuse_bias)
    mean, scale = statistics(name, channels, mean, std)
    features = weights[-1].shape[0] if len(weights) else 0
    kernel_rows, kernel_columns = shape(at)
    K = kernel_rows * kernel_columns
    numbers = batch * channels * image.itemsize + 20 * K  # the result, and per tap a distance, its rounding, a logit
    check_memory(name, "size", tuple(target), numbers * target[0] * target[1], image.device)

    real = torch.float64 if image.dtype == torch.float64 else torch.float32
    keep = can_keep(image)
    rows, columns = axes(at, image.device, keep)
    encoded = encoded_distances(name, at, rows, columns, encoding, normalise, real, keep)
    check_fuse(name, fuse_weight, (kernel_rows, kernel_columns), features, encoded.shape[0])
    return call(
        name,
        _ops.downsize,
        image,
        [weight.to(real) for weight in weights],
        [bias.to(real) for bias in biases],
        fuse_weight.to(real),
        (fuse_weight.new_zeros(K) if fuse_bias is None else fuse_bias).to(real),
        encoded,
        rows.taps,
        columns.taps,
        rows.anchor,
        columns.anchor,
        mean,
        scale,
        normalise,
        bool(texture_gradient),
    )


def relative_distance(
    size: Size,
    source_size: Size,
    *,
    taps: Taps = "bilinear",
    footprint: Footprint = None,
    align_corners: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """The relative distance map of DownsizeNet section 3.1: the weights of a plain interpolation, tap by tap.

    For bilinear taps `v = [(1 - dx)(1 - dy), dx (1 - dy), (1 - dx) dy, dx dy]`, where a target projects to (dx, dy)
    past the pixel P, its top left neighbour.

    Args:
        size: (height, width) of the result.
        source_size: (height, width) of the image.
        taps: "bilinear", "bicubic" (a = -0.75, as of `F.interpolate`) or "area" (shares of the pixels that a target
            covers).
        footprint: taps of an area, a number or (rows, columns); None: as many as the two sizes need.
        align_corners: as of `F.interpolate`; not with areas.
        dtype: of the result, a floating dtype.
        device: of the result.

    Returns:
        `[K, *size]`, K = KY KX, tap ky KX + kx being row ky and column kx of the taps, both increasing. The sum over K
        is 1. Where an image ends several taps may be the same pixel; past the last one an area's have distance 0.

    Raises:
        FastwarpError: sizes under 1, unknown taps, a footprint that is too small.
        TypeError: wrong types.

    Examples:
        >>> relative_distance((1, 2), (1, 3))[:, 0]
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500],
                [0.0000, 0.0000],
                [0.0000, 0.0000]])
    """
    name = "relative_distance"
    target, source = check_size(name, "size", size), check_size(name, "source_size", source_size)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"{name}: dtype is {dtype}, expected a floating-point dtype")
    at = geometry(name, source, target, taps, footprint, align_corners)
    place = torch.empty(0, device=device).device
    kernel_rows, kernel_columns = shape(at)
    check_memory(name, "size", tuple(target), 8 * kernel_rows * kernel_columns * target[0] * target[1], place)
    rows, columns = axes(at, place, False)
    return products(rows.weights, columns.weights).to(dtype)
