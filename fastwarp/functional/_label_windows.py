"""What the targets of labels read, by either kind of warp, registered through a strided network or not."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastwarp._checks import check_knots, check_mesh, check_option, extents
from fastwarp.errors import call, check_size
from fastwarp.functional import mesh as _mesh
from fastwarp.functional import separable as _separable
from fastwarp.functional._registration import Places, check_unregistered, places, registration

_ops = torch.ops.fastwarp


class Cells(NamedTuple):
    """Where labels lie that a strided network predicts, as the arguments of an unzoom say; see `separable_unzoom`."""

    image_size: Any = None  # None: at `j / (n - 1)` of the image
    strides: Any = None
    phase: Any = 0.0


AS_GRID = Cells()


class Windows(NamedTuple):
    """Windows as ops of the `label` family take them, with the arguments that follow."""

    windows: Tensor
    separable: bool
    sizes: list[int]
    source_valid: Tensor | None

    def reads(self) -> Tensor:
        """Bool, `[B, 1, H, W]` or what expands to it: targets that read something, also where that is NaN."""
        windows = self.windows.detach()
        if self.separable:
            y, x = (windows[:, 1] > 0).split(self.sizes, 1)
            reads = y[:, None, :, None] & x[:, None, None, :]
        else:
            reads = ~(windows[:, :1] < 0).unflatten(2, self.sizes)
        return reads if self.source_valid is None else reads & (self.source_valid > 0).all(2)[:, :, None, None]


def of_separable(
    function: str,
    labels: Tensor,
    knots: tuple[Tensor, Tensor],
    size: Any,
    inverse: bool,
    wide: bool,
    valid: Any,
    source_valid: Any,
    cells: Cells = AS_GRID,
) -> Windows:
    """Windows of labels `[B, C, H, W]`, as wide as their targets are apart if `wide`; checks the arguments."""
    check_knots(function, *knots, labels.shape[0], labels=labels)
    if cells.image_size is not None:
        axes, source = _places(function, labels, knots[0], cells, size, valid, source_valid), list(labels.shape[2:])
        windows = _separable._registered_windows(axes, source, *knots, wide, False)
        return Windows(windows, True, source, axes.extents)
    sides, ends = _unregistered(function, labels, knots[0], cells, size, inverse, valid, source_valid)
    windows = call(function, _ops.axis_windows, *knots, *sides, inverse, wide, not inverse, *ends)
    return Windows(windows, True, sides[0], ends[1])


def of_mesh(
    function: str,
    labels: Tensor,
    mesh: Tensor,
    tile: Any,
    size: Any,
    inverse: bool,
    wide: bool,
    valid: Any,
    source_valid: Any,
    cells: Cells = AS_GRID,
) -> Windows:
    """As `of_separable`."""
    check_mesh(function, mesh, labels.shape[0], labels=labels)
    check_option(function, "tile", tile, _mesh.TILES)
    homography = tile == "homography"
    if cells.image_size is not None:
        axes, source = _places(function, labels, mesh, cells, size, valid, source_valid), list(labels.shape[2:])
        windows = _mesh._registered_windows(axes, source, mesh, homography, False)
        sides, ends = (source, source), (axes.extents, axes.extents)
    else:
        sides, ends = _unregistered(function, labels, mesh, cells, size, inverse, valid, source_valid)
        windows, _ = call(function, _ops.mesh_positions, mesh, *sides, inverse, homography, not inverse, *ends)
    if wide:
        windows = call(function, _ops.grid_widen, windows, *sides, *ends)
    return Windows(windows, False, sides[0], ends[1])


def _places(
    function: str, labels: Tensor, like: Tensor, cells: Cells, size: Any, valid: Any, source_valid: Any
) -> Places:
    options = {**cells._asdict(), "valid": valid, "outside": "fill"}
    about = registration(function, "labels", labels, [labels], like, options, size=size, source_valid=source_valid)
    return places(about, list(labels.shape[2:]), like)


def _unregistered(
    function: str,
    labels: Tensor,
    like: Tensor,
    cells: Cells,
    size: Any,
    inverse: bool,
    valid: Any,
    source_valid: Any,
) -> tuple[tuple[list[int], list[int]], tuple[Tensor | None, Tensor | None]]:
    """Sizes of targets and source, and their extents."""
    check_unregistered(function, cells.strides)
    source = list(labels.shape[2:])
    target = source if size is None and inverse else list(check_size(function, "size", size))
    about = (labels, 1, labels.shape[0], like)
    return (target, source), (
        extents(function, "valid", valid, *about),
        extents(function, "source_valid", source_valid, *about),
    )
