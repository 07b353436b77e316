"""DownsizeNet as a torch composition over whole maps: what its second derivatives are taken of."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def downsize(
    image: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    fuse_weight: Tensor,
    fuse_bias: Tensor,
    distances: Tensor,
    rows: Tensor,
    columns: Tensor,
    anchor_rows: Tensor,
    anchor_columns: Tensor,
    mean: Sequence[float],
    scale: Sequence[float],
    normalise: str,
    texture_gradient: bool,
) -> Tensor:
    """The op `downsize`, one torch operation after the other."""
    features = fuse_weight.shape[1] - distances.shape[0]
    z = torch.einsum("kj,jhw->khw", fuse_weight[:, features:], distances)[None] + fuse_bias[:, None, None]
    if weights:
        seen = image if texture_gradient else image.detach()
        means, scales = (torch.stack([seen.new_full((1, 1), value) for value in values]) for values in (mean, scale))
        a = (seen - means) * scales
        for weight, bias in zip(weights, biases, strict=True):
            a = F.relu(F.conv2d(a, weight, bias, padding=1))
        selected = a.index_select(2, anchor_rows).index_select(3, anchor_columns)
        z = z + F.conv2d(selected, fuse_weight[:, :features, None, None])
    return mean_of_taps(image, rows, columns, coefficients(z, normalise))


def mean_of_taps(image: Tensor, rows: Tensor, columns: Tensor, weights: Tensor) -> Tensor:
    """`[B, C, h, w]`: means of the pixels at `rows` `[h, ky]` and `columns` `[w, kx]` by `weights` `[B, K, h, w]`."""
    # One gather by rows, then one by columns: [B, C, h ky, w kx] -> [B, C, ky kx, h, w].
    (height, ky), (width, kx) = rows.shape, columns.shape
    taps = image.index_select(2, rows.flatten()).index_select(3, columns.flatten())
    taps = taps.unflatten(3, (width, kx)).unflatten(2, (height, ky)).permute(0, 1, 3, 5, 2, 4).flatten(2, 3)
    return (taps * weights[:, None]).sum(2)


def coefficients(z: Tensor, normalise: str) -> Tensor:
    """Interpolation coefficients from `[B, K, h, w]` that sum to one over K (DownsizeNet eq. 1).

    Args:
        z: what the 1x1 convolution gives.
        normalise: "sigmoid": divided by their sum; "softmax"; "signed": a constant added.
    """
    if normalise == "signed":
        return z + (1 - z.sum(1, keepdim=True)) / z.shape[1]
    if normalise == "sigmoid":
        z = F.logsigmoid(z)  # softmax of the logarithms: divided by the sum, and never 0/0
    return torch.softmax(z, 1)
