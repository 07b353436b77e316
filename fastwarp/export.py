"""The operators as standard torch operations, for exporters that know no others: ONNX, OpenVINO, Core ML, ExecuTorch.

```python
program = torch.export.export(model, (image,))
program = program.run_decompositions(fastwarp.export.decompositions())
torch.onnx.export(program, dynamo=True).save("model.onnx")
```

Separable warps become matrix products, which runtimes have had tuned for decades, where `GridSample` is slow in most
and rounds its coordinates; a zoom that all images share becomes gathers of rows and columns. Warps that are made from
saliency or boxes are exported with the network. The inverse of a mesh is a search, which no standard operation does:
bake a fixed one with `MeshWarp.freeze`. docs/export.md has more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastwarp.ops  # noqa: F401  (registers torch.ops.fastwarp)
from fastwarp.errors import without_derivative
from fastwarp.ops import _dense, _dense_downsize, _dense_label, _dense_mesh
from fastwarp.ops._levels import sides
from fastwarp.ops.density import dense_map

__all__ = ["decompositions"]

_FEW = 4
"""Channels of what counts as an image: it is gathered. Maps of more channels are smaller: they are multiplied."""


def decompositions() -> dict[Any, Callable[..., Any]]:
    """A table for `torch.export.ExportedProgram.run_decompositions`: each operator of a forward pass of fastwarp in
    operations that every exporter knows.

    The results agree with the operators' to float32's rounding. Geometry is computed in float64 and rounded once, as
    the operators do.

    Returns:
        From `torch.ops.fastwarp.*` to functions of their arguments.

    Raises:
        NotImplementedError: from the functions: what standard operations cannot do, and what to do instead.

    Examples:
        >>> import torch, fastwarp
        >>> zoom = fastwarp.nn.Zoom((6, 8), fastwarp.SeparableWarp.identity(1, (5, 5)))
        >>> program = torch.export.export(zoom, (torch.rand(1, 3, 12, 16),))
        >>> standard = program.run_decompositions(fastwarp.export.decompositions())
        >>> any("fastwarp" in str(node.target) for node in standard.graph.nodes)
        False
    """
    ops = torch.ops.fastwarp
    table: dict[Any, Any] = {
        ops.lz_knots: _lz_knots,
        ops.axis_map: _axis_map,
        ops.axis_windows: _axis_windows,
        ops.separable_sample: _separable_sample,
        ops.separable_resample: _separable_resample,
        ops.density_map: _density_map,
        ops.density_knots: _density_knots,
        ops.lz_mesh: _lz_mesh,
        ops.mesh_positions: _mesh_positions,
        ops.mesh_sample: _mesh_sample,
        ops.grid_resample: _grid_resample,
        ops.label_sample: _label_sample,
        ops.label_nearest: _label_nearest,
        ops.label_majority: _label_majority,
        ops.downsize: _downsize,
    }
    has_both = {without_derivative[op].op: function for op, function in table.items() if op in without_derivative}
    return {op.default: function for op, function in table.items()} | has_both


# --- axis -------------------------------------------------------------------------------------------------------------


def _lz_knots(saliency_y: Tensor, saliency_x: Tensor, fwhm: float, anti_crop: bool) -> tuple[Tensor, Tensor]:
    y, x = _knots([s.double().clamp(min=0).sum(-1) for s in (saliency_y, saliency_x)], fwhm, anti_crop)
    return y.to(saliency_y.dtype), x.to(saliency_x.dtype)


def _knots(marginals: Sequence[Tensor], fwhm: float, anti_crop: bool) -> list[Tensor]:
    """Without cropping the ends are exactly 0 and 1: an unzoom fills what is in between."""
    knots = _dense.lz_knots(marginals[0], marginals[1], fwhm, anti_crop)
    if not anti_crop:
        return list(knots)
    return [torch.cat([torch.zeros_like(k[:, :1]), k[:, 1:-1], torch.ones_like(k[:, :1])], 1) for k in knots]


def _axis_map(knots: Tensor, positions: Tensor, inverse: bool) -> Tensor:
    batch = max(knots.shape[0], positions.shape[0])
    return _dense.axis_map(knots.double(), positions.double().expand(batch, -1), inverse).to(knots.dtype)


def _axis_windows(knots_y: Tensor, knots_x: Tensor, *options: Any) -> Tensor:
    return _dense.axis_windows(knots_y.double(), knots_x.double(), *options).to(knots_y.dtype)


# --- separable --------------------------------------------------------------------------------------------------------


def _separable_sample(
    images: list[Tensor],
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: list[int],
    inverse: bool,
    antialias: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> list[Tensor]:
    options = (inverse, antialias, border, valid, source_valid)
    windows = _axis_windows(knots_y, knots_x, sizes, sides(images), *options)
    return _separable_resample(images, windows, sizes, source_valid, antialias)


def _separable_resample(
    images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    wide = [_wide(image) for image in images]
    few = max(image.shape[1] for image in images) <= _FEW
    if few and not antialias and windows.shape[0] == 1 and source_valid is None:
        results = _gathered(wide, windows, sizes)
    else:
        results = list(_dense.resample(wide, windows.to(wide[0].dtype), sizes, source_valid))
    return [_narrow(result, image) for result, image in zip(results, images, strict=True)]


def _gathered(images: list[Tensor], windows: Tensor, sizes: list[int]) -> list[Tensor]:
    """Two rows and two columns for each target, the same for all images: a large image is read once, where a matrix
    product would multiply all of it by zeros."""
    results, first = [], 0
    for level, image in enumerate(images):
        result = image
        for axis in (2, 3):
            size, source = sizes[2 * level + axis - 2], image.shape[axis]
            centre, width = windows[0, :, first : first + size]
            first += size
            before = centre.floor().clamp(0, max(source - 2, 0))
            near = before.long()
            far = (near + 1).clamp(max=source - 1)
            share, reads = (t.view((-1, 1) if axis == 2 else (-1,)) for t in (centre - before, width > 0))
            low, high = result.index_select(axis, near), result.index_select(axis, far)
            # Not torch.lerp, which becomes two formulas and a choice.
            result = torch.where(reads, low + share.to(result.dtype) * (high - low), 0)
        results.append(result)
    return results


def _wide(image: Tensor) -> Tensor:
    """The type that sums are taken in."""
    return image if image.dtype == torch.float64 else image.float()


def _narrow(result: Tensor, image: Tensor) -> Tensor:
    return (result.round().clamp(0, 255) if image.dtype == torch.uint8 else result).to(image.dtype)


# --- density ----------------------------------------------------------------------------------------------------------


def _density_map(
    boxes: Tensor,
    counts: Tensor | None,
    amplitude: Tensor | None,
    bandwidth: Tensor | None,
    a: float,
    b: float,
    height: int,
    width: int,
    h: int,
    w: int,
) -> Tensor:
    wide, batch = boxes.double(), boxes.shape[0]
    first, second = (
        (wide.new_full((1,), default) if number is None else number.double()).expand(batch)
        for number, default in ((amplitude, a), (bandwidth, b))
    )
    return dense_map(wide, counts, first, second, height, width, h, w).to(boxes.dtype)


def _density_knots(boxes: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    *about, fwhm, anti_crop = options
    saliency = _density_map(boxes.double(), *about)
    y, x = _knots([saliency.sum(2), saliency.sum(1)], fwhm, anti_crop)
    return y.to(boxes.dtype), x.to(boxes.dtype)


# --- meshes -----------------------------------------------------------------------------------------------------------


def _lz_mesh(saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    return _dense_mesh.lz_mesh(saliency.double().clamp(min=0), fwhm, anti_crop).to(saliency.dtype)


def _mesh_positions(
    mesh: Tensor,
    sizes: list[int],
    source_sizes: list[int],
    inverse: bool,
    homography: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if inverse:
        raise NotImplementedError("the inverse of a mesh is a search: bake a fixed one with MeshWarp.freeze")
    if homography or valid is not None or source_valid is not None or 1 in sizes:
        raise NotImplementedError("zooms by meshes are exported with bilinear tiles, sides over 1 and no valid sizes")
    parts = []
    for level in range(len(sizes) // 2):
        size, (height, width) = sizes[2 * level : 2 * level + 2], source_sizes[2 * level : 2 * level + 2]
        planes = F.interpolate(mesh.double().permute(0, 3, 1, 2), size, mode="bilinear", align_corners=True)
        ends = torch.stack([planes.new_full((), width - 1), planes.new_full((), height - 1)])
        parts.append((planes.clamp(0, 1).flatten(2) * ends[:, None]).to(mesh.dtype))
    windows = torch.cat(parts, 2)
    return windows, torch.zeros(windows.shape[0], windows.shape[2], dtype=torch.int32, device=mesh.device)


def _mesh_sample(images: list[Tensor], mesh: Tensor, sizes: list[int], *options: Any) -> list[Tensor]:
    windows, _ = _mesh_positions(mesh, sizes, sides(images), *options)
    return _grid_resample(images, windows, sizes, options[-1])


def _grid_resample(
    images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None
) -> list[Tensor]:
    if windows.shape[1] != 2 or source_valid is not None:
        raise NotImplementedError("resampling by meshes is exported without antialias and valid sizes")
    results, first = [], 0
    for level, image in enumerate(images):
        height, width = sizes[2 * level : 2 * level + 2]
        part, wide = windows[:, :, first : first + height * width], _wide(image)
        first += height * width
        last = torch.stack([part.new_full((), max(side - 1, 1)) for side in (image.shape[3], image.shape[2])])
        grid = (2 * part / last[:, None] - 1).mT.unflatten(1, (height, width)).to(wide.dtype)
        result = F.grid_sample(wide, grid.expand(len(image), -1, -1, -1), padding_mode="border", align_corners=True)
        reads = (part[:, :1] >= 0).unflatten(2, (height, width))
        results.append(_narrow(torch.where(reads, result, 0.0), image))
    return results


# --- labels -----------------------------------------------------------------------------------------------------------


def _label_sample(
    labels: list[Tensor],
    knots_y: Tensor,
    knots_x: Tensor,
    sizes: list[int],
    inverse: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
    fill: int,
) -> list[Tensor]:
    options = (inverse, False, border, valid, source_valid)
    windows = _axis_windows(knots_y, knots_x, sizes, sides(labels), *options)
    return _label_nearest(labels, windows, True, sizes, source_valid, fill)


def _label_nearest(
    images: list[Tensor], windows: Tensor, separable: bool, sizes: list[int], source_valid: Tensor | None, fill: int
) -> list[Tensor]:
    """One gather for each level, by the numbers of pixels."""
    places = _dense_label.rounded(windows, separable, sizes, sides(images), source_valid)
    results, first = [], 0
    for level, image in enumerate(images):
        height, width = sizes[2 * level : 2 * level + 2]
        count = height + width if separable else height * width
        part = places[:, :, first : first + count]
        first += count
        if separable:
            y, x = part[:, 0, :height, None], part[:, 0, None, height:]
            reads = (part[:, 1, :height, None] > 0) & (part[:, 1, None, height:] > 0)
        else:
            x, y = part.unflatten(2, (height, width)).unbind(1)
            reads = ~(x < 0)
        if source_valid is not None:
            reads = reads & (source_valid[:, level] > 0).all(1)[:, None, None]
        lost = (y + x).isnan()
        number = torch.where(reads & ~lost, y.double() * image.shape[3] + x.double(), 0).long().flatten(1)
        batch = max(len(image), len(number))
        pixels = image.flatten(2).expand(batch, -1, -1)
        picked = pixels.gather(2, number[:, None].expand(batch, image.shape[1], -1)).unflatten(2, (height, width))
        result = torch.where((reads & ~lost)[:, None], picked, fill)
        if image.is_floating_point():
            result = torch.where((reads & lost)[:, None], torch.nan, result)
        results.append(result.to(image.dtype))
    return results


def _label_majority(*args: Any) -> list[Tensor]:
    raise NotImplementedError("votes of labels are exported by no standard operation: use reduce='nearest'")


# --- downsize ---------------------------------------------------------------------------------------------------------


def _downsize(image: Tensor, *options: Any) -> Tensor:
    dtype = _wide(image).dtype

    def wide(value: Any) -> Any:
        if isinstance(value, Sequence) and value and isinstance(value[0], Tensor):
            return [wide(one) for one in value]
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    return _narrow(_dense_downsize.downsize(_wide(image), *(wide(option) for option in options)), image)
