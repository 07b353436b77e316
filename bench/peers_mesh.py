"""What the inverse of a mesh is compared with: plain torch (LZU algorithm 1), and SciPy's griddata as ES uses it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from cases import FWHM, Size
from torch import Tensor

from fastwarp.demo import plain_torch_mesh


def mesh(saliency: Tensor) -> list[Tensor]:
    """Mesh of the LZ warp."""
    return list(plain_torch_mesh.from_saliency(saliency, FWHM))


def inverse(mesh: Tensor, size: Size) -> list[Tensor]:
    """The sampling grid of the unzoom."""
    return [plain_torch_mesh.inverse(mesh, size)]


def adaptive(saliency: Tensor, image: Tensor, *levels: Tensor, size: Size) -> list[Tensor]:
    """Saliency to mesh, zoom, inverse, unzoom of every level."""
    warp = plain_torch_mesh.from_saliency(saliency, FWHM)
    return [plain_torch_mesh.zoom(warp, image, size), *plain_torch_mesh.unzoom(warp, levels)]


def griddata(mesh: np.ndarray, size: Size) -> np.ndarray:
    """Linear interpolation of the grid over a triangulation of the vertices `[h, w, 2]`, as ES inverts its samplers;
    not the inverse of T~, but of another continuous map through the same vertices."""
    from scipy.interpolate import griddata

    height, width = mesh.shape[:2]
    values = np.stack(np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height)), -1)
    targets = np.meshgrid(np.linspace(0, 1, size[1]), np.linspace(0, 1, size[0]))
    return griddata(mesh.reshape(-1, 2), values.reshape(-1, 2), tuple(targets), method="linear")


def grid_samples(grids: Sequence[Tensor], *levels: Tensor) -> list[Tensor]:
    """One grid_sample for each level with its cached grid."""
    return [F.grid_sample(x, grid, align_corners=True) for x, grid in zip(levels, grids, strict=True)]


def sparse(windows: Tensor, source: Size) -> Tensor:
    """Matrix `[targets, pixels]` of the triangle filters of windows `[1, 4, targets]`: x, y, half-widths in x and y."""
    pixels, weights = [], []
    for axis, extent in ((1, source[0]), (0, source[1])):
        centre, width = windows[0, axis, :, None].double(), windows[0, 2 + axis, :, None].double()
        reach = int(width.max().ceil())
        pixel = centre.floor() + torch.arange(-reach, reach + 2)
        triangle = (1 - (pixel - centre).abs() / width).clamp(min=0) * ((pixel >= 0) & (pixel < extent))
        pixels.append(pixel.long())
        weights.append(triangle / triangle.sum(1, keepdim=True))
    weight = weights[0][:, :, None] * weights[1][:, None]
    kept = weight > 0
    ends = F.pad(kept.sum((1, 2)).cumsum(0), (1, 0))
    columns = (pixels[0][:, :, None] * source[1] + pixels[1][:, None])[kept]
    return torch.sparse_csr_tensor(ends, columns, weight[kept].float(), (len(kept), source[0] * source[1]))


def sparse_matmul(image: Tensor, matrix: Tensor, size: Size) -> list[Tensor]:
    """Resampling of one image by a sparse matrix: what plain torch offers for an antialiased warp by a mesh."""
    return [(matrix @ image[0].flatten(1).T).T.unflatten(1, size)[None]]
