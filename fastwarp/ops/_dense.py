"""The same maps as dense, differentiable torch expressions: what second derivatives of the geometry are taken of.

Slow and memory-hungry next to the kernels, exact and deterministic (matrix products, no scatter). Everything float64.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Maps = Callable[..., tuple[Sequence[Tensor], Sequence[Tensor]]]


def second_backward(
    function: Maps, grads: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Gradient of a vector-Jacobian product.

    Args:
        function: maps the inputs to (outputs, variables); the product is the gradient of outputs by variables.
        grads: the vector: gradients of the outputs.
        inputs: arguments of `function`.
        cotangents: gradients of the product.

    Returns:
        Gradients to grads and inputs, in their dtypes.
    """
    device = inputs[0].device.type
    higher = torch.is_grad_enabled()  # the result is differentiated again
    with torch.enable_grad(), torch.autocast(device, enabled=False):
        vector, leaves = [_variable(g) for g in grads], [_variable(i) for i in inputs]
        outputs, variables = function(*(leaf.double() for leaf in leaves))
        product = torch.autograd.grad(
            outputs, variables, [v.double() for v in vector], create_graph=True, materialize_grads=True
        )
        moving = [(p, c.double()) for p, c in zip(product, cotangents, strict=True) if p.requires_grad]
        return torch.autograd.grad(
            [p for p, _ in moving], [*vector, *leaves], [c for _, c in moving], allow_unused=True, create_graph=higher
        )


def backward(product: Callable[..., Tensor], inputs: Sequence[Tensor], cotangent: Tensor) -> tuple[Tensor | None, ...]:
    """Gradient of a differentiable expression, computed in float64.

    Args:
        product: maps the inputs to one tensor.
        inputs: arguments of `product`.
        cotangent: gradient of the tensor.

    Returns:
        Gradients to the inputs, in their dtypes.
    """
    higher = torch.is_grad_enabled()
    with torch.enable_grad(), torch.autocast(inputs[0].device.type, enabled=False):
        leaves = [_variable(i) for i in inputs]
        result = product(*(leaf.double() for leaf in leaves))
        return torch.autograd.grad(result, leaves, cotangent.double(), allow_unused=True, create_graph=higher)


def _variable(tensor: Tensor) -> Tensor:
    """A variable of its own with the value of `tensor`, still connected to what `tensor` was made from."""
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()


def lz_knots(marginal_y: Tensor, marginal_x: Tensor, fwhm: float, anti_crop: bool) -> tuple[Tensor, Tensor]:
    """LZU eq. 3 and 4 from marginals `[B, h]`, `[B, w]`."""
    radius = min(marginal_y.shape[1], marginal_x.shape[1]) - 1
    y, x = (_lz_axis(m, radius, fwhm, anti_crop) for m in (marginal_y, marginal_x))
    return y, x


def _lz_axis(marginal: Tensor, radius: int, fwhm: float, anti_crop: bool) -> Tensor:
    n = marginal.shape[1]
    cells = torch.arange(-radius, n + radius, device=marginal.device)
    inside = cells.abs() if anti_crop else cells.clamp(0, n - 1)
    inside = torch.where(inside > n - 1, 2 * (n - 1) - inside, inside)
    fold = torch.nn.functional.one_hot(inside, n).to(marginal)
    shift = (cells[None, :] - torch.arange(n, device=marginal.device)[:, None]).to(marginal)
    kernel = torch.where(shift.abs() <= radius, torch.exp2(-4 * (shift / fwhm) ** 2), 0.0)
    mean = marginal.mean(1, keepdim=True)
    marginal = torch.where(1e-6 * mean <= 2.0**-962, marginal.detach(), marginal)  # an all-zero map has no derivative
    floor = (1e-6 * marginal.mean(1, keepdim=True)).clamp(min=2.0**-962)
    padded = marginal @ fold.mT + floor
    pull = padded @ (kernel * shift).mT / (padded @ kernel.mT)
    cell = torch.arange(n, device=marginal.device)
    return ((cell + pull) / (n - 1)).clamp(0, 1)


def _pick(knots: Tensor, piece: Tensor) -> Tensor:
    """`knots[b, piece[b, k]]` as a product with a one-hot matrix, whose derivative is deterministic."""
    one_hot = torch.nn.functional.one_hot(piece, knots.shape[1]).to(knots)
    return (one_hot @ knots.unsqueeze(-1)).squeeze(-1)


def axis_map(knots: Tensor, positions: Tensor, inverse: bool) -> Tensor:
    """T~ or its inverse at positions `[B, m]` for knots `[1 or B, n]`."""
    n = knots.shape[1]
    knots = knots.expand(positions.shape[0], n)
    if not inverse:
        piece = (positions * (n - 1)).floor().clamp(0, n - 2).nan_to_num().long()
        f = positions * (n - 1) - piece
        return (1 - f) * _pick(knots, piece) + f * _pick(knots, piece + 1)
    inner, first, last = knots[:, 1:-1, None], knots[:, :1], knots[:, -1:]
    x = positions[:, None, :]
    below = (inner <= torch.maximum(x, first[:, :, None])).sum(1)
    piece = torch.where(positions >= last, (inner < last[:, :, None]).sum(1).expand_as(below), below)
    start = _pick(knots, piece)
    delta = _pick(knots, piece + 1) - start
    flat = delta == 0
    f = torch.where(flat, 0.0, (positions - start) / torch.where(flat, 1.0, delta))
    return (piece + f) / (n - 1)


def axis_windows(
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    antialias: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> Tensor:
    """Centres and half-widths `[B, 2, sum(sizes)]`; see `fastwarp.functional.separable_windows`."""
    batch = max(t.shape[0] for t in (knots_y, knots_x, valid, source_valid) if t is not None)
    parts = []
    for i, (size, source_size) in enumerate(zip(sizes, source_sizes, strict=True)):
        knots = (knots_y, knots_x)[i % 2].expand(batch, -1)
        extent, source = (
            (torch.full((1,), whole, device=knots.device) if given is None else given[:, i // 2, i % 2].clamp(0, whole))
            .expand(batch)[:, None]
            .to(knots)
            for given, whole in ((valid, size), (source_valid, source_size))
        )
        parts.append(_axis_windows(knots, size, extent, source, inverse, antialias, border))
    return torch.cat(parts, 2)


def _axis_windows(
    knots: Tensor, size: int, extent: Tensor, source: Tensor, inverse: bool, antialias: bool, border: bool
) -> Tensor:
    k = torch.arange(size, device=knots.device).to(knots)[None, :]
    x = torch.where(extent > 1, k / (extent - 1).clamp(min=1), 0.5)
    reads = (k < extent) & (source > 0)
    if inverse:
        first, last = knots[:, :1].detach(), knots[:, -1:].detach()
        inside = (x >= first) & (x <= last)
        t = axis_map(knots, torch.minimum(torch.maximum(x, first), last), inverse)
        t = torch.where(inside, t, t.detach())
        reads = reads & (inside | border)
    else:
        t = axis_map(knots, x, inverse)
    centre = t.clamp(0, 1) * (source - 1)
    width = torch.ones_like(centre)
    if antialias:
        last_target = (extent - 1).clamp(min=0)
        right, left = torch.minimum(k + 1, last_target), (k - 1).clamp(min=0)
        rise = _pick(centre, right.long().expand_as(centre)) - _pick(centre, left.long().expand_as(centre))
        spacing = torch.where(extent > 1, rise / (right - left).clamp(min=1), source - 1)
        width = spacing.abs().clamp(min=1)
    return torch.stack([torch.where(reads, centre, 0.0), torch.where(reads, width, 0.0)], 1)


def resample(
    images: Sequence[Tensor], windows: Tensor, sizes: Sequence[int], source_valid: Tensor | None
) -> tuple[Tensor, ...]:
    """`Wy @ image @ Wx^T` for every level."""
    results, first = [], 0
    for level, image in enumerate(images):
        matrices = []
        for axis in range(2):
            size, source = sizes[2 * level + axis], image.shape[2 + axis]
            extent: Any = source if source_valid is None else source_valid[:, level, axis][:, None, None]
            matrices.append(triangle_weights(windows[:, :, first : first + size], extent, source))
            first += size
        results.append(matrices[0][:, None] @ image @ matrices[1][:, None].mT)
    return tuple(results)


def triangle_weights(windows: Tensor, extent: Any, size: int) -> Tensor:
    """Weights `[B, targets, size]` of the filters `[B, 2, targets]` (centre, half-width; 0 reads nothing)."""
    centre, width = windows[:, 0, :, None], windows[:, 1, :, None]
    j = torch.arange(size, device=windows.device).to(windows)
    away = j - centre
    with torch.no_grad():
        support = (j > centre - width) & (j <= centre + width) & (j < extent) & (width > 0)
    triangle = torch.where(support, 1 - torch.where(j <= centre, -away, away) / torch.where(width > 0, width, 1.0), 0.0)
    total = triangle.sum(-1, keepdim=True)
    return triangle / torch.where(total > 0, total, 1.0)
