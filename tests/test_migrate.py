"""What the pages in docs/migrate claim: ports of published rules give what these give, where the pages say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import griddata

import fastwarp
from fastwarp import MeshWarp, SeparableWarp


def smooth(*shape, cells=8):
    coarse = torch.rand(*shape[:-2], cells, cells, dtype=torch.float64)
    return F.interpolate(coarse, size=shape[-2:], mode="bicubic", align_corners=True)


def bent(shape=(13, 17), batch=1):
    """Meshes of smooth warps that keep the outline of the image."""
    saliency = smooth(batch, 1, *shape, cells=4)[:, 0].clamp(min=0) ** 3 + 0.01
    return MeshWarp.from_saliency(saliency, fwhm=7.0)


# --- grid_sample.md ---------------------------------------------------------------------------------------------------


def test_a_grid_is_a_mesh_of_a_vertex_a_pixel():
    grid = bent((33, 41), 2).mesh * 2 - 1
    image = torch.rand(2, 3, 50, 60, dtype=torch.float64)
    expected = F.grid_sample(image, grid, padding_mode="border", align_corners=True)
    torch.testing.assert_close(MeshWarp((grid + 1) / 2).zoom(image, (33, 41)), expected)
    coarse = MeshWarp((grid[:, ::8, ::8] + 1) / 2)
    assert coarse.mesh.shape[1:3] == (5, 6)
    assert torch.equal(coarse.grid((33, 41))[:, ::8, ::8], grid[:, ::8, ::8])


@pytest.mark.parametrize("kind", [SeparableWarp, MeshWarp])
def test_grids_go_to_grid_sample(kind):
    warp, image = kind.from_saliency(torch.rand(2, 9, 11, dtype=torch.float64)), torch.rand(2, 3, 21, 31).double()
    expected = F.grid_sample(image, warp.grid((12, 13)), align_corners=True)
    torch.testing.assert_close(warp.zoom(image, (12, 13)), expected)
    expected = F.grid_sample(image, warp.inverse_grid((21, 31)), align_corners=True)
    torch.testing.assert_close(warp.unzoom(image), expected)


# --- lzu.md -----------------------------------------------------------------------------------------------------------


def published_grid(saliency, fwhm):
    """The rule of the release: padded marginals, convolutions, a clamp; then bilinear to the size of the image."""
    axes = []
    for axis in (1, 2):  # x from sums over rows, y from sums over columns
        marginal, n = saliency.sum(axis), saliency.shape[3 - axis]
        pad = min(saliency.shape[1:]) - 1
        padded = F.pad(marginal[:, None], (pad, pad), mode="reflect")
        place = (torch.arange(n + 2 * pad, dtype=saliency.dtype) - pad) / (n - 1)
        kernel = torch.exp(-4 * np.log(2) * (torch.arange(2 * pad + 1, dtype=saliency.dtype) - pad) ** 2 / fwhm**2)
        sums = [F.conv1d(values, kernel[None, None]) for values in (padded * place, padded)]
        axes.append((sums[0] / sums[1]).clamp(0, 1)[:, 0])
    x, y = axes
    return torch.stack([x[:, None].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])], -1)


def test_knots_are_those_of_the_release():
    saliency = torch.rand(2, 31, 51, dtype=torch.float64) ** 3 + 1e-3
    grid = published_grid(saliency, 13.0)
    warp = MeshWarp.from_separable(SeparableWarp.from_saliency(saliency, fwhm=13.0))
    torch.testing.assert_close(warp.mesh, grid, atol=1e-5, rtol=0)  # the floor of 1e-6 of the mean
    image = torch.rand(2, 3, 60, 96, dtype=torch.float64)
    upsampled = F.interpolate(grid.permute(0, 3, 1, 2) * 2 - 1, size=(30, 48), mode="bilinear", align_corners=True)
    expected = F.grid_sample(image, upsampled.permute(0, 2, 3, 1), align_corners=True)
    torch.testing.assert_close(warp.zoom(image, (30, 48)), expected, atol=1e-3, rtol=0)


# --- fovea.md ---------------------------------------------------------------------------------------------------------


def test_unzoomed_boxes_are_where_the_pixels_come_from():
    source, size = (120, 192), (60, 96)
    warp = SeparableWarp.from_saliency(torch.rand(1, 31, 51, dtype=torch.float64) ** 4)
    # The image of source coordinates, zoomed: at pixel i stands where it was read.
    x = torch.arange(source[1], dtype=torch.float64).expand(1, 1, *source)
    read = warp.zoom(x, size)[0, 0, 0]
    boxes = torch.tensor([[[10.5, 20.5, 30.5, 40.5]]], dtype=torch.float64)
    back = warp.unzoom_boxes(boxes, source, size)[0, 0]
    torch.testing.assert_close(back[[0, 2]], read[[10, 30]] + 0.5)


# --- zoomdet.md -------------------------------------------------------------------------------------------------------


def test_offset_boxes_are_exact_where_the_nearest_pixel_is_not():
    size, source = (40, 40), (80, 80)
    offsets = (smooth(1, 2, *size) - 0.5).permute(0, 2, 3, 1)
    warp = MeshWarp.from_offsets(offsets, source)
    points = torch.rand(1, 200, 2, dtype=torch.float64) * 50 + 15
    zoomed = warp.zoom_points(points, source, size)
    torch.testing.assert_close(warp.unzoom_points(zoomed, source, size), points)
    reads = warp.mesh[0].flatten(0, 1) * 79 + 0.5
    nearest = torch.cdist(points[0], reads).argmin(1)
    error = torch.stack([nearest % 40, nearest // 40], -1) + 0.5 - zoomed[0]
    assert 0.2 < error.abs().mean() < 0.35
    assert error.abs().max() > 0.4


# --- attwarp.md -------------------------------------------------------------------------------------------------------


def attwarp_knots(density, n):
    w = density.shape[1]
    total = F.pad(density.cumsum(1) / density.sum(1, keepdim=True), (1, 0))
    at = torch.arange(n, dtype=density.dtype, device=density.device)[None] / n
    return (fastwarp.functional.axis_map(total, at, inverse=True) * w / (w - 1)).clamp(0, 1)


def test_attwarp_rule_through_knots():
    cv2 = pytest.importorskip("cv2")
    attention = smooth(1, 1, 48, 64).clamp(min=0)[0]
    root = attention.sqrt() + 1e-9
    image = smooth(1, 3, 48, 64, cells=20)
    maps = []
    for side, n in ((root.sum(1)[0].numpy(), 33), (root.sum(2)[0].numpy(), 29)):
        total = np.concatenate([[0], np.cumsum(side) / side.sum()])
        maps.append(np.interp(np.arange(n), total * n, np.arange(len(side) + 1)))
    x, y = (m.astype(np.float32) for m in np.meshgrid(*maps))
    planes = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy().astype(np.float32))
    expected = cv2.remap(planes, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    warp = SeparableWarp(attwarp_knots(root.sum(2), 29), attwarp_knots(root.sum(1), 33))
    got = warp.zoom(image, (29, 33))[0].permute(1, 2, 0).numpy()
    # OpenCV before 5 rounds positions to 1/32 of a pixel.
    np.testing.assert_allclose(got, expected, atol=2e-5 if int(cv2.__version__.split(".")[0]) >= 5 else 1e-2)


# --- es.md ------------------------------------------------------------------------------------------------------------


def test_unzoom_replaces_griddata():
    warp, size = bent(), (40, 50)
    grid = MeshWarp.identity(1, size, dtype=torch.float64).mesh[0]
    places, targets = warp.mesh[0].flatten(0, 1), grid.flatten(0, 1).numpy()
    linear = 0.3 * places[:, 0] - 0.7 * places[:, 1] + 0.1
    wavy = torch.sin(3 * places[:, 0]) * torch.cos(2 * places[:, 1])
    for values, tolerance in ((linear, 1e-9), (wavy, 0.02)):
        expected = griddata(places.numpy(), values.numpy(), targets, method="linear").reshape(size)
        got = warp.unzoom(values.reshape(1, 1, 13, 17), size)[0, 0].numpy()
        inner = np.isfinite(expected)
        assert inner.mean() > 0.9
        np.testing.assert_allclose(got[inner], expected[inner], atol=tolerance)
