"""Polygons whose edges a warp bends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastwarp._checks import as_geometry
from fastwarp.errors import check_devices, check_tensor, fail
from fastwarp.functional.geometry import from_pixels

HALVINGS = 14
"""An edge is divided into no more than 2^14 pieces, however a mesh may jump."""


def check_polygons(function: str, polygons: Any) -> None:
    """Raises unless `polygons` is a list of finite `[V, 2]`."""
    if not isinstance(polygons, (list, tuple)):
        raise TypeError(f"{function}: polygons is {type(polygons).__name__}, expected a list of tensors [V, 2]")
    for i, polygon in enumerate(polygons):
        check_tensor(function, f"polygons[{i}]", polygon, "[V, 2]", floating=True)
        if polygon.shape[1] != 2:
            raise fail(function, f"polygons[{i}]", f"of shape {list(polygon.shape)}", "[V, 2], (x, y)")
        if not polygon.isfinite().all():
            raise fail(function, f"polygons[{i}]", "NaN or infinite in places", "finite coordinates in pixels")
    check_devices(function, **{f"polygons[{i}]": polygon for i, polygon in enumerate(polygons)})


def bent(
    function: str,
    polygons: list[Tensor],
    mapped: Callable[[Tensor], Tensor],
    size: Any,
    tiles: tuple[int, int],
    inverse: bool,
    tolerance: float,
) -> list[Tensor]:
    """The images of checked polygons, with the vertices that their bent edges need.

    Edges are halved until each piece is short enough to meet one line between tiles at most in each direction, and its
    middle and quarters lie within half the tolerance of the straight line; then vertices that nothing needs are left
    out, within the other half (Douglas and Peucker's algorithm).

    Args:
        function: public name of the caller.
        polygons: `[V, 2]` each, in pixels.
        mapped: maps points `[N, 2]`.
        size: (height, width) of the zoomed image, in which tiles are of one size.
        tiles: (rows, columns) of it on which the warp is smooth.
        inverse: `mapped` makes zoomed pixels of source pixels, not the other way round.
        tolerance: in pixels of the result.
    """
    counts = [len(polygon) for polygon in polygons]
    if sum(counts) == 0:
        return [mapped(polygon) for polygon in polygons]
    start = torch.cat([as_geometry(polygon) for polygon in polygons])
    end = torch.cat([as_geometry(polygon).roll(-1, 0) for polygon in polygons])
    with torch.no_grad():
        edge, at = _pieces(function, start, end, mapped, size, tiles, inverse, tolerance / 2)
        images = mapped(start[edge] + at[:, None] * (end - start)[edge])
        kept = _needed(images, (at == 0) | (at == 1), tolerance / 2) & (at < 1)
        edge, at = edge[kept], at[kept]
    result = mapped(start[edge] + at[:, None] * (end - start)[edge])
    polygon = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(edge.device)
    return list(result.split(torch.bincount(polygon[edge], minlength=len(counts)).tolist()))


def _pieces(
    function: str,
    start: Tensor,
    end: Tensor,
    mapped: Callable[[Tensor], Tensor],
    size: Any,
    tiles: tuple[int, int],
    inverse: bool,
    tolerance: float,
) -> tuple[Tensor, Tensor]:
    """Where edges are divided: the edge, and the share of it from 0 to 1, both included; in order."""
    edge = torch.arange(len(start), device=start.device)
    low, done = torch.zeros_like(start[:, 0]), [(edge, torch.ones_like(start[:, 0]))]
    parts = torch.linspace(0, 1, 5, dtype=start.dtype, device=start.device)
    tile = 0.5 / torch.tensor([tiles[1], tiles[0]], dtype=start.dtype, device=start.device)
    for halving in range(HALVINGS + 1):
        share = (low[:, None] + parts / 2**halving)[..., None]
        points = start[edge, None] + share * (end - start)[edge, None]
        images = mapped(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        if not images.isfinite().all():
            raise fail(function, "polygons", "mapped to NaN or infinity", "points and a warp whose images are finite")
        straight = images[:, :1] + parts[:, None] * (images[:, -1:] - images[:, :1])
        # With one bend in each coordinate, a distance at the quarters is at least 3/4 of the largest.
        far = (images - straight).abs().amax(1).norm(dim=1) > 0.75 * tolerance
        zoomed = from_pixels((images if inverse else points).flatten(0, 1)[None], size)[0].view_as(images)
        long = ((zoomed.amax(1) - zoomed.amin(1)) > tile).any(1) & (_length(images) > tolerance)
        split = (far | long) & (halving < HALVINGS)
        done.append((edge[~split], low[~split]))
        edge = edge[split].repeat_interleave(2)
        low = low[split].repeat_interleave(2)
        low[1::2] += 0.5 ** (halving + 1)
    edges, lows = (torch.cat(each) for each in zip(*done, strict=True))
    order = torch.argsort(edges.double() + lows.double() / 2)
    return edges[order], lows[order]


def _length(images: Tensor) -> Tensor:
    """Of lines through points `[N, points, 2]`."""
    return images.diff(dim=1).norm(dim=2).sum(1)


def _needed(points: Tensor, kept: Tensor, tolerance: float) -> Tensor:
    """Which points of a line `[N, 2]`, beside those that are `kept`, keep it within the tolerance of all points."""
    while True:
        ends = kept.nonzero()[:, 0]
        part = kept.long().cumsum(0) - 1
        first, last = points[ends[part]], points[ends[(part + 1).clamp(max=len(ends) - 1)]]
        along, offset = last - first, points - first
        share = (offset * along).sum(1) / along.square().sum(1).clamp(min=1e-30)
        distance = (offset - share.clamp(0, 1)[:, None] * along).norm(dim=1).masked_fill(kept, 0)
        farthest = distance.new_zeros(len(ends)).scatter_reduce(0, part, distance, "amax")
        missed = (distance > tolerance) & (distance == farthest[part])
        if not missed.any():
            return kept
        kept = kept | missed
