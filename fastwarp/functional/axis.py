"""Saliency -> knots, and T~ of one axis."""

import torch
import torch.nn.functional as F
from torch import Tensor

import fastwarp.ops  # noqa: F401  (registers torch.ops.fastwarp)
from fastwarp._checks import as_geometry, check_axis, check_fwhm, check_saliency, check_saliency_values
from fastwarp.errors import FastwarpError, as_integer, as_real, call, check_devices, check_tensor, check_together, fail

_ops = torch.ops.fastwarp

_BLOCK = 256
"""Values that are summed at a time."""


def lz_knots(saliency: Tensor, fwhm: float = 13.0, anti_crop: bool = True) -> tuple[Tensor, Tensor]:
    """Knots of the separable LZ warp of a saliency map, LZU eq. 3 and 4.

    Each position is drawn to the saliency around it, by a Gaussian kernel truncated at `min(h, w) - 1` cells:
    `T(x) = sum S(x') k(x, x') x' / sum S(x') k(x, x')` with the marginals S of the map. A uniform saliency of 1e-6 of
    the map's mean is added, so that T is the identity where the map is zero. Differentiable twice; computed in float64.

    Args:
        saliency: `[B, h, w]`, h, w >= 2, non-negative, floating point; half precision is taken up to float32.
            Negative cells count as zero. NaN gives NaN knots for its image (with `FASTWARP_CHECKS=1` both raise).
        fwhm: full width at half maximum of the kernel, in cells.
        anti_crop: pad the marginals by reflection, so that T(0) = 0 and T(1) = 1 exactly and nothing is cropped; else
            by replication, clamped to [0, 1].

    Returns:
        `knots_y [B, h]` and `knots_x [B, w]`, non-decreasing, in [0, 1].

    Raises:
        FastwarpError: wrong rank, fewer than 2 cells, fwhm not positive.
        TypeError: not a floating-point tensor.

    Examples:
        >>> import torch
        >>> knots_y, knots_x = lz_knots(torch.ones(1, 3, 5))
        >>> knots_x
        tensor([[0.0000, 0.2500, 0.5000, 0.7500, 1.0000]])
    """
    check_saliency("lz_knots", "saliency", saliency)
    saliency = as_geometry(saliency)
    return call("lz_knots", _ops.lz_knots, saliency, saliency.mT, check_fwhm("lz_knots", fwhm), bool(anti_crop))


def lz_knots_from_marginals(
    marginal_y: Tensor, marginal_x: Tensor, fwhm: float = 13.0, anti_crop: bool = True
) -> tuple[Tensor, Tensor]:
    """Knots of the separable LZ warp of two marginals, LZU eq. 3 and 4; see `lz_knots`.

    Args:
        marginal_y: `[B, h]`, non-negative.
        marginal_x: `[B, w]`, non-negative.
        fwhm: full width at half maximum of the kernel, in cells.
        anti_crop: reflect the marginals at their ends instead of replicating them.

    Returns:
        `knots_y [B, h]` and `knots_x [B, w]`.

    Raises:
        FastwarpError: wrong rank, fewer than 2 cells, different batch sizes or devices, fwhm not positive.
        TypeError: not floating-point tensors of one dtype.
    """
    name = "lz_knots_from_marginals"
    for argument, marginal in (("marginal_y", marginal_y), ("marginal_x", marginal_x)):
        check_tensor(name, argument, marginal, "[B, n]", floating=True)
        if marginal.shape[1] < 2:
            raise fail(name, argument, f"of shape {list(marginal.shape)}", "at least 2 cells")
    check_devices(name, marginal_y=marginal_y, marginal_x=marginal_x)
    if marginal_y.shape[0] != marginal_x.shape[0] or marginal_y.dtype != marginal_x.dtype:
        got = f"{list(marginal_y.shape)} {marginal_y.dtype} and {list(marginal_x.shape)} {marginal_x.dtype}"
        raise FastwarpError(f"{name}: marginals are {got}, expected one batch size and one dtype")
    y, x = as_geometry(marginal_y), as_geometry(marginal_x)
    check_saliency_values(name, "marginal_y", y)
    check_saliency_values(name, "marginal_x", x)
    return call(name, _ops.lz_knots, y.unsqueeze(-1), x.unsqueeze(-1), check_fwhm(name, fwhm), bool(anti_crop))


def cdf_knots(density: Tensor, knots: int | None = None) -> Tensor:
    """Knots of the warp that samples in proportion to a density: the inverse of its cumulative distribution.

    As TASN (CVPR 2019) and AttWarp use it. The density is constant in each of its cells; a uniform density of 1e-6 of
    the mean is added. Differentiable twice; computed in float64.

    Args:
        density: `[B, n]`, non-negative, n >= 1; the cells divide [0, 1] evenly. Negative cells count as zero.
        knots: number of knots to return, >= 2; n + 1 if None.

    Returns:
        Strictly increasing knots `[B, knots]` from 0 to 1.

    Raises:
        FastwarpError: wrong rank or sizes.
        TypeError: not a floating-point tensor.

    Examples:
        >>> import torch
        >>> cdf_knots(torch.tensor([[3.0, 1.0]]), 5)
        tensor([[0.0000, 0.1667, 0.3333, 0.5000, 1.0000]])
    """
    check_tensor("cdf_knots", "density", density, "[B, n]", floating=True)
    n = density.shape[1]
    count = n + 1 if knots is None else as_integer(knots)
    if count is None:
        raise TypeError(f"cdf_knots: knots is {knots!r}, expected an integer or None")
    if n < 1 or count < 2:
        raise fail("cdf_knots", "density, knots", f"{n} cells, {count} knots", "at least 1 cell and 2 knots")
    check_saliency_values("cdf_knots", "density", density)
    with torch.autocast(density.device.type, enabled=False):
        mass = density.double().clamp(min=0)
        mass = mass + (1e-6 * mass.mean(1, keepdim=True)).clamp(min=2.0**-962)
        total = _running_sums(mass)
        cumulative = total / total[:, -1:]
        grid = torch.arange(count, dtype=mass.dtype, device=mass.device) / (count - 1)
        result = call("cdf_knots", _ops.axis_map, cumulative, grid.expand(density.shape[0], count), True)
    return result.to(as_geometry(density).dtype)


def _running_sums(values: Tensor) -> Tensor:
    """Sums of the values `[B, n]` before each place, and of all of them: `[B, n + 1]`.

    On GPUs block by block, each by a product with a triangle of ones: torch's cumsum is not deterministic there, and
    one triangle for all n takes n^2 memory. On CPUs a product would wake threads that then spin for a while.
    """
    if values.device.type == "cpu":
        return F.pad(values.cumsum(1), (1, 0))
    n = values.shape[1]
    if n <= _BLOCK:
        return values @ values.new_ones(n, n + 1).triu(1)
    blocks = F.pad(values, (0, _BLOCK - n % _BLOCK)).unflatten(1, (-1, _BLOCK))  # one value more at least
    before = _running_sums(blocks.sum(2))[:, :-1]
    within = blocks @ values.new_ones(_BLOCK, _BLOCK).triu(1)
    return (before.unsqueeze(2) + within).flatten(1)[:, : n + 1]


def axis_map(knots: Tensor, positions: Tensor, *, inverse: bool = False) -> Tensor:
    """T~ of one axis (LZU eq. 5), or its inverse (eq. 7), at any positions.

    Args:
        knots: `[B, n]`, float32 or float64, non-decreasing; a batch of 1 is shared. With a NaN among them all results
            are NaN.
        positions: `[B, m]`, in [0, 1]; further out T~ continues linearly.
        inverse: evaluate T~^-1. Where knots are equal it is the end of the plateau towards the inside.

    Returns:
        `[B, m]` in the dtype of the knots. Differentiable twice in both arguments.

    Raises:
        FastwarpError: wrong rank, batch sizes or devices.
        TypeError: wrong dtype.

    Examples:
        >>> import torch
        >>> axis_map(torch.tensor([[0.0, 0.2, 1.0]]), torch.tensor([[0.25, 0.75]]))
        tensor([[0.1000, 0.6000]])
    """
    check_tensor("axis_map", "positions", positions, "[B, m]", dtypes=(torch.float32, torch.float64))
    check_axis("axis_map", "knots", knots)
    check_together("axis_map", knots=knots, positions=positions)
    return mapped("axis_map", knots, positions, inverse)


def mapped(function: str, knots: Tensor, positions: Tensor, inverse: bool) -> Tensor:
    """`axis_map` of arguments that `function` has checked."""
    if positions.shape[0] == 1:
        positions = positions.expand(knots.shape[0], -1)
    return call(function, _ops.axis_map, knots, positions, bool(inverse))


def limited_knots(knots: Tensor, minimum: float | None = None, maximum: float | None = None) -> Tensor:
    """Knots whose magnification stays within limits: the same ends, and between them slopes in the same proportions
    wherever these allow it.

    A piece of slope s magnifies by 1/s along its axis. The slopes become `clamp(c s, 1/maximum, 1/minimum)` with the
    one c for which they reach the last knot again. What ruins warps in practice is that somewhere the picture all but
    vanishes; `minimum` ends that.

    Args:
        knots: `[B, n]`, float32 or float64, non-decreasing.
        minimum: least magnification along the axis, relative to uniform resizing; at most 1. None: no limit.
        maximum: largest magnification, at least 1. None: no limit.

    Returns:
        `[B, n]`, in the dtype of the knots. Differentiable. Limits that the average slope of a cropping warp does not
        satisfy are widened to it.

    Raises:
        FastwarpError: wrong rank, limits out of range.
        TypeError: wrong types or dtypes.

    Examples:
        >>> import torch
        >>> limited_knots(torch.tensor([[0.0, 0.05, 0.5, 1.0]]), maximum=2.0)
        tensor([[0.0000, 0.1667, 0.5614, 1.0000]])
    """
    check_axis("limited_knots", "knots", knots)
    limits = [None if limit is None else as_real(limit) for limit in (minimum, maximum)]
    for argument, limit, number in zip(("minimum", "maximum"), (minimum, maximum), limits, strict=True):
        if limit is not None and number is None:
            raise TypeError(f"limited_knots: {argument} is {limit!r}, expected a number or None")
    minimum, maximum = limits
    if minimum is not None and not 0 < minimum <= 1:
        raise fail("limited_knots", "minimum", minimum, "a magnification in (0, 1]")
    if maximum is not None and not 1 <= maximum < float("inf"):
        raise fail("limited_knots", "maximum", maximum, "a finite magnification of at least 1")
    first, last, pieces = knots[:, :1].double(), knots[:, -1:].double(), knots.shape[1] - 1
    average = last - first
    low = average.clamp(max=0.0 if maximum is None else 1 / maximum)
    high = average.clamp(min=float("inf") if minimum is None else 1 / minimum)
    slopes = (knots.double().diff(dim=1) * pieces).clamp(min=1e-9 * average)  # so that equal knots part, too
    below, above = _limited(slopes.detach(), low.detach(), high.detach(), average.detach() * pieces)
    free = ~(below | above)
    rest = average * pieces - (low * below).sum(1, keepdim=True) - torch.where(above, high, 0.0).sum(1, keepdim=True)
    share = slopes * rest / torch.where(free, slopes, 0.0).sum(1, keepdim=True).clamp(min=1e-300)
    slopes = torch.where(below, low, torch.where(above, high, share)) / pieces
    nan = 0 * slopes.sum(1, keepdim=True)  # a NaN among the knots is one in all of them
    inner = first + _running_sums(slopes[:, :-1])[:, 1:] + nan
    return torch.cat([first, inner, last], 1).to(knots.dtype)


def _limited(slopes: Tensor, low: Tensor, high: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """Which of `clamp(c slopes, low, high)` are at each limit for the c at which they sum to `total`.

    The sum grows with c, linearly between the 2 n values where a slope reaches a limit: bisection among these.
    """
    ends = torch.cat([low / slopes, high / slopes], 1).sort(1).values
    count = int(ends.shape[1])
    reached = torch.zeros_like(total, dtype=torch.long)  # so many of them do not exceed the total
    for bit in reversed(range(count.bit_length())):
        tried = reached + 2**bit
        factor = ends.gather(1, tried.clamp(max=count) - 1)
        fits = (factor * slopes).clamp(low, high).sum(1, keepdim=True) <= total
        reached = torch.where((tried <= count) & fits, tried, reached)
    lower = torch.where(reached > 0, ends.gather(1, (reached - 1).clamp(min=0)), 0.0)
    upper = torch.where(reached < count, ends.gather(1, reached.clamp(max=count - 1)), float("inf"))
    factor = torch.where(torch.isfinite(upper), (lower + upper) / 2, 2 * lower + 1)
    return factor * slopes < low, factor * slopes > high
