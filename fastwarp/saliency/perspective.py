"""Saliency and meshes from a camera's perspective: two planes that meet at the horizon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastwarp._checks import LEAST, check_memory, check_number, check_sides
from fastwarp.errors import fail
from fastwarp.functional import cdf_knots
from fastwarp.saliency.temporal import flip_maps

Number = float | Tensor

_CELLS = 4  # of the density, per knot of a mesh


def perspective_density(
    vanishing_point: tuple[float, float] | Tensor,
    image_size: tuple[int, int],
    shape: tuple[int, int] = (31, 51),
    *,
    ground: Number = 2.0,
    sky: Number = 2.0,
    lateral: Number = 0.0,
    far: float = 0.05,
    horizon: Number = 0.0,
) -> Tensor:
    """Saliency of a camera on the road: far places, which are small in the image, are sampled more densely.

    The idea is that of the two-plane prior of Ghosh et al. ("Learned Two-Plane Perspective Prior based Image Resampling
    for Efficient Object Detection", CVPR 2023): what matters lies near two planes that meet at the horizon, the ground
    and one above the traffic, and saliency grows exponentially with depth on either. On such a plane, depth is
    inversely proportional to the distance d from the horizon in the image. With the vanishing point (vx, vy), the
    horizon's angle t, and d in image heights:

        d = ((Y - vy) cos t - (X - vx) sin t) / H
        r = far / (far + |d|)                                       depth relative to the farthest, 1 at the horizon
        S = exp(s (r - 1) - (lateral r (X - vx) / W)^2 / 2)         s = ground where d > 0, else sky

    divided by its sum. In pixels times depth, `r (X - vx)` is a distance in space: with `lateral`, what is far aside of
    the road counts less.

    Args:
        vanishing_point: (x, y) in pixels where the road's sides meet; may lie outside of the image. A tensor `[2]` or
            `[B, 2]` may be learned.
        image_size: (H, W) in pixels.
        shape: (h, w) of the map in cells.
        ground: strength below the horizon; 0 is uniform. A number, or a tensor, 0-dimensional or `[B]`, that may be
            learned.
        sky: strength above the horizon; likewise.
        lateral: strength of the decrease to the sides; likewise.
        far: distance from the horizon, in image heights, at which depth is half of the farthest; positive.
        horizon: angle in radians; positive where the horizon falls to the right.

    Returns:
        `[B, h, w]`, positive, each map of sum 1. Float32, or float64 if a tensor is. Differentiable with respect to all
        tensors.

    Raises:
        FastwarpError: sizes under 2, a far that is not positive, tensors of other shapes.
        TypeError: what is no number and no floating-point tensor.

    Examples:
        >>> import torch, fastwarp
        >>> from fastwarp.saliency import perspective_density
        >>> ground = torch.tensor(3.0, requires_grad=True)
        >>> density = perspective_density((960.0, 500.0), (1200, 1920), ground=ground)
        >>> warp = fastwarp.SeparableWarp.from_saliency(density)
    """
    name = "perspective_density"
    prior = _Prior(name, vanishing_point, image_size, shape, ground, sky, lateral, far, horizon)
    x, y = (torch.linspace(0, size, n, dtype=torch.float64, device=prior.device) for size, n in prior.axes)
    return prior.densities(x, y[:, None]).to(prior.dtype)


def perspective_mesh(
    vanishing_point: tuple[float, float] | Tensor,
    image_size: tuple[int, int],
    shape: tuple[int, int] = (31, 51),
    *,
    ground: Number = 2.0,
    sky: Number = 2.0,
    lateral: Number = 0.0,
    far: float = 0.05,
    horizon: Number = 0.0,
) -> Tensor:
    """The mesh warp whose samples are distributed as `perspective_density` exactly, for `fastwarp.MeshWarp`.

    Rows are placed by the inverse of the cumulative distribution of the density's marginal, and the vertices of each
    row by that of the density along it (the Knothe-Rosenblatt transport). No tile folds over, whatever the strengths,
    and the image's corners stay where they are.

    Args:
        vanishing_point: see `perspective_density`, as are all others.
        image_size: (H, W) in pixels.
        shape: (h, w), numbers of vertices.
        ground: strength below the horizon.
        sky: strength above it.
        lateral: strength of the decrease to the sides.
        far: distance from the horizon at which depth is half of the farthest.
        horizon: angle in radians.

    Returns:
        `[B, h, w, 2]`, (x, y) in [0, 1]. Differentiable with respect to all tensors.

    Raises:
        FastwarpError: see `perspective_density`.
        TypeError: see `perspective_density`.

    Examples:
        >>> from fastwarp.saliency import perspective_mesh
        >>> mesh = perspective_mesh((960.0, 500.0), (1200, 1920), lateral=2.0)
        >>> mesh.shape
        torch.Size([1, 31, 51, 2])
    """
    prior = _Prior("perspective_mesh", vanishing_point, image_size, shape, ground, sky, lateral, far, horizon)
    # Midpoints of the cells that the distributions are constant in.
    x, y = (
        size * (torch.arange(_CELLS * n, dtype=torch.float64, device=prior.device) + 0.5) / (_CELLS * n)
        for size, n in prior.axes
    )
    (_, w), (height, h) = prior.axes
    rows = cdf_knots(prior.densities(x, y[:, None]).sum(2), h)
    along = prior.exponents(x, height * rows[:, :, None]).softmax(2)
    columns = cdf_knots(along.flatten(0, 1), w).unflatten(0, rows.shape)
    return torch.stack([columns, rows[:, :, None].expand_as(columns)], 3).to(prior.dtype)


class PerspectivePrior(nn.Module):
    """`perspective_density` and `perspective_mesh` with strengths that are learned.

    Args:
        vanishing_point: (x, y) in pixels.
        image_size: (H, W) in pixels.
        shape: (h, w) of the map, or of the mesh.
        ground: the first strength below the horizon.
        sky: above it.
        lateral: of the decrease to the sides.
        far: distance from the horizon at which depth is half of the farthest, in image heights.
        horizon: angle in radians.

    Raises:
        FastwarpError: see `perspective_density`.
        TypeError: see `perspective_density`.

    Examples:
        >>> from fastwarp.saliency import PerspectivePrior
        >>> prior = PerspectivePrior((960.0, 500.0), (1200, 1920))
        >>> sorted(name for name, _ in prior.named_parameters())
        ['ground', 'lateral', 'sky']
        >>> prior().shape, prior.mesh().shape
        (torch.Size([1, 31, 51]), torch.Size([1, 31, 51, 2]))
    """

    def __init__(
        self,
        vanishing_point: tuple[float, float],
        image_size: tuple[int, int],
        shape: tuple[int, int] = (31, 51),
        *,
        ground: float = 2.0,
        sky: float = 2.0,
        lateral: float = 1.0,
        far: float = 0.05,
        horizon: float = 0.0,
    ) -> None:
        super().__init__()
        self.view = (vanishing_point, image_size, shape)
        self.far, self.horizon = far, horizon
        _Prior("PerspectivePrior", *self.view, ground, sky, lateral, far, horizon)
        self.ground, self.sky, self.lateral = (nn.Parameter(torch.tensor(float(s))) for s in (ground, sky, lateral))

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("ground", "sky", "lateral", "far", "horizon")}

    def forward(self, flipped: bool | Tensor = False) -> Tensor:
        """The map `[1, h, w]`; `[B, h, w]` where `flipped` `[B]` says which images were flipped horizontally."""
        density = perspective_density(*self.view, **self._options())
        return flip_maps("PerspectivePrior", density, flipped)

    def mesh(self) -> Tensor:
        """The mesh `[1, h, w, 2]`, for `fastwarp.MeshWarp`."""
        return perspective_mesh(*self.view, **self._options())


class _Prior:
    """The arguments of both functions, checked and in one shape."""

    def __init__(
        self,
        name: str,
        vanishing_point: Any,
        image_size: tuple[int, int],
        shape: tuple[int, int],
        ground: Number,
        sky: Number,
        lateral: Number,
        far: float,
        horizon: Number,
    ) -> None:
        image_size, shape = check_sides(name, "image_size", image_size), check_sides(name, "shape", shape)
        self.axes = ((image_size[1], shape[1]), (image_size[0], shape[0]))  # of x and y
        numbers = {"ground": ground, "sky": sky, "lateral": lateral, "horizon": horizon}
        tensors = [t for t in (vanishing_point, *numbers.values()) if isinstance(t, Tensor)]
        self.dtype = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
        self.device = tensors[0].device if tensors else torch.device("cpu")
        check_memory(name, "shape", shape, 8 * shape[0] * shape[1], self.device)
        self.far = check_number(name, "far", far, LEAST, unit=" of image heights")
        self.ground, self.sky, self.lateral, self.horizon = (
            self._number(name, argument, value) for argument, value in numbers.items()
        )
        if not isinstance(vanishing_point, Tensor):
            if not isinstance(vanishing_point, Sequence) or len(vanishing_point) != 2:
                raise TypeError(f"{name}: vanishing_point is {vanishing_point!r}, expected two numbers (x, y)")
            x, y = (check_number(name, "vanishing_point", side, unit=" of pixels") for side in vanishing_point)
            vanishing_point = torch.tensor([x, y], dtype=torch.float64, device=self.device)
        if vanishing_point.dim() not in (1, 2) or vanishing_point.shape[-1] != 2:
            raise fail(name, "vanishing_point", f"of shape {list(vanishing_point.shape)}", "[2] or [B, 2]")
        self.point = vanishing_point.double().reshape(-1, 2, 1, 1)

    def _number(self, name: str, argument: str, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            value = torch.full((1,), check_number(name, argument, value), dtype=torch.float64, device=self.device)
        if not value.dtype.is_floating_point:
            raise TypeError(f"{name}: {argument} is {value.dtype}, expected a number or a floating-point tensor")
        if value.dim() > 1:
            raise fail(name, argument, f"of shape {list(value.shape)}", "one number or [B]")
        return value.double().reshape(-1, 1, 1)

    def densities(self, x: Tensor, y: Tensor) -> Tensor:
        """S at x `[w]` and y `[h, 1]` or `[B, h, 1]`, in pixels, divided by its sum."""
        return self.exponents(x, y).flatten(1).softmax(1).unflatten(1, (y.shape[-2], len(x)))

    def exponents(self, x: Tensor, y: Tensor) -> Tensor:
        """The logarithm of S: where strengths are large, S itself is 0 everywhere. In float64."""
        (width, _), (height, _) = self.axes
        right, down = x - self.point[:, 0], y - self.point[:, 1]
        below = (down * self.horizon.cos() - right * self.horizon.sin()) / height
        depth = self.far / (self.far + below.abs())
        strength = torch.where(below > 0, self.ground, self.sky)
        return strength * (depth - 1) - 0.5 * (self.lateral * depth * right / width) ** 2
