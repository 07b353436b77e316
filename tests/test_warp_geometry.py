"""Geometry of both kinds of warps: points, boxes, grids, magnification and images against NumPy and `F.grid_sample`."""

from __future__ import annotations

import numpy as np
import pytest
import strategies as own
import torch
import torch.nn.functional as TF
from helpers import (
    KINDS,
    assert_bitwise,
    assert_near,
    evaluate,
    grid,
    invert,
    random_mesh,
    random_warp,
    sample,
    warp_of,
)

from fastwarp import MeshWarp, SeparableWarp
from fastwarp import functional as F

kinds = pytest.mark.parametrize("kind", KINDS)
tiles = pytest.mark.parametrize("tile", KINDS[1:])

CROPPING = (0.083, 0.927)
SOURCE, ZOOMED = (37, 61), (13, 24)


def identity(kind: str) -> SeparableWarp | MeshWarp:
    return SeparableWarp.identity() if kind == "separable" else MeshWarp.identity(tile=kind)


# --- points and boxes -------------------------------------------------------------------------------------------------


@kinds
def test_boxes_of_the_identity(kind):
    warp = identity(kind)
    boxes = torch.tensor([[0.5, 0.5, 61.0, 37.0], [10.25, 3.0, 20.0, 4.5]])
    assert_near([warp.zoom_boxes(boxes, SOURCE, SOURCE)], [boxes])
    # Pixel centres go to pixel centres: (p - 0.5) / (D - 1).
    doubled = warp.zoom_boxes(boxes, SOURCE, (73, 121))
    assert_near([doubled], [(boxes - 0.5) * 2 + 0.5])


@kinds
def test_points_of_padded_batches(kind):
    warp = warp_of(kind, 2)
    points = torch.rand(2, 9, 2) * 20
    source, zoomed = torch.tensor([[30, 40], [25, 1]]), torch.tensor([[15, 20], [7, 9]])
    got = warp.zoom_points(points, source, zoomed)
    for b in range(2):
        alone = warp[b].zoom_points(points[b : b + 1], tuple(source[b].tolist()), tuple(zoomed[b].tolist()))
        assert_near([got[b : b + 1]], [alone])


@kinds
def test_points_keep_precision_and_take_half(kind):
    warp = warp_of(kind, 1)
    points = torch.rand(1, 4, 2) * 30
    assert warp.zoom_points(points.half(), SOURCE, (9, 9)).dtype == torch.float32
    assert warp.zoom_points(points.double(), SOURCE, (9, 9)).dtype == torch.float64
    # Taken up before edges are divided.
    boxes = torch.tensor([[1000.0, 1002.0, 1003.0, 1005.0]])
    for name in ("zoom_boxes", "unzoom_corners"):
        got = getattr(warp, name)(boxes.half(), (1100, 1100), (1100, 1100))
        assert_bitwise([got], [getattr(warp, name)(boxes, (1100, 1100), (1100, 1100))])


def pixels(normalised: np.ndarray, size: int) -> np.ndarray:
    return (normalised - (0.5 if size == 1 else 0)) * max(size - 1, 1) + 0.5


def positions(pixel: np.ndarray, size: int) -> np.ndarray:
    return (pixel - 0.5) / max(size - 1, 1) + (0.5 if size == 1 else 0)


def extrapolated(x: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """np.interp that continues the first and the last piece."""
    i = np.clip(np.searchsorted(xs, x, side="right") - 1, 0, len(xs) - 2)
    return ys[i] + (x - xs[i]) / (xs[i + 1] - xs[i]) * (ys[i + 1] - ys[i])


@pytest.mark.parametrize("zoomed", [(13, 24), (13, 1), (1, 1)])
def test_points_against_numpy(zoomed):
    warp = random_warp(2, (5, 7), torch.float64, (0.1, 0.9))
    points = torch.rand(2, 200, 2, dtype=torch.float64) * 80 - 10  # beyond the image, too
    there = warp.zoom_points(points, SOURCE, zoomed)
    back = warp.unzoom_points(points, SOURCE, zoomed)
    for b in range(2):
        for axis, knots in ((0, warp.knots_y[b].numpy()), (1, warp.knots_x[b].numpy())):
            p = points[b, :, 1 - axis].numpy()
            u = extrapolated(positions(p, SOURCE[axis]), knots, grid(len(knots)))
            np.testing.assert_allclose(there[b, :, 1 - axis].numpy(), pixels(u, zoomed[axis]), rtol=1e-12, atol=1e-9)
            x = extrapolated(positions(p, zoomed[axis]), grid(len(knots)), knots)
            np.testing.assert_allclose(back[b, :, 1 - axis].numpy(), pixels(x, SOURCE[axis]), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("zoomed", [(13, 24), (1, 1), (74, 122)])
def test_points_and_boxes_of_a_separable_warp_go_there_and_back(zoomed):
    warp = random_warp(2, (5, 7), torch.float32)
    points = torch.rand(2, 100, 2) * 80 - 10
    again = warp.unzoom_points(warp.zoom_points(points, SOURCE, zoomed), SOURCE, zoomed)
    torch.testing.assert_close(again, points, rtol=0, atol=1e-3)
    corners = torch.rand(2, 50, 2) * 50
    boxes = torch.cat([corners, corners + torch.rand(2, 50, 2) * 20], 2)
    mapped = warp.zoom_boxes(boxes, SOURCE, zoomed)
    assert (mapped[..., 2:] >= mapped[..., :2]).all()
    assert_bitwise([mapped[..., :2]], [warp.zoom_points(boxes[..., :2].contiguous(), SOURCE, zoomed)])
    assert_bitwise([mapped[..., 2:]], [warp.zoom_points(boxes[..., 2:].contiguous(), SOURCE, zoomed)])
    torch.testing.assert_close(warp.unzoom_boxes(mapped, SOURCE, zoomed), boxes, rtol=0, atol=1e-3)
    assert_bitwise([warp[1].zoom_boxes(boxes[1], SOURCE, zoomed)], [mapped[1]])
    for name in ("zoom", "unzoom"):
        mapped = getattr(warp, f"{name}_boxes")(boxes, SOURCE, zoomed)
        four = getattr(warp, f"{name}_corners")(boxes, SOURCE, zoomed)
        x1, y1, x2, y2 = mapped.unbind(-1)
        clockwise = [torch.stack(corner, -1) for corner in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
        assert_bitwise([four], [torch.stack(clockwise, 2)])
        assert_bitwise([getattr(warp[1], f"{name}_corners")(boxes[1], SOURCE, zoomed)], [four[1]])


@tiles
@pytest.mark.parametrize("direction", ["zoom", "unzoom"])
def test_hull_of_a_warped_box_contains_its_points(direction, tile):
    """But for what a curved edge does between two of its points."""
    saliency = TF.avg_pool2d(torch.rand(2, 1, 15, 21) ** 8, 5, 1, 2)[:, 0] + 0.01
    warp = MeshWarp.from_saliency(saliency, 6.0, tile=tile)
    corners = torch.rand(2, 30, 2) * 150
    boxes = torch.cat([corners, corners + 5 + torch.rand(2, 30, 2) * 60], 2)
    share = torch.rand(2, 30, 200, 2)
    share[:, :, :50, 0] = torch.rand(2, 30, 50).round()  # some on the edges
    points = boxes[:, :, None, :2] + share * (boxes[:, :, None, 2:] - boxes[:, :, None, :2])
    sizes = (240, 320), (240, 320)
    hulls = getattr(warp, f"{direction}_boxes")(boxes, *sizes)
    mapped = getattr(warp, f"{direction}_points")(points.flatten(1, 2), *sizes).unflatten(1, (30, 200))
    assert ((mapped - hulls[:, :, None, :2]).amin() > -1.0) & ((hulls[:, :, None, 2:] - mapped).amin() > -1.0)
    for found, edge in ((mapped.amin(2), hulls[..., :2]), (mapped.amax(2), hulls[..., 2:])):
        assert (found - edge).abs().max() < 12  # and is no larger than it must be
    four = getattr(warp, f"{direction}_corners")(boxes, *sizes)
    x1, y1, x2, y2 = boxes.unbind(-1)
    places = torch.stack([torch.stack(p, -1) for p in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))], 2)
    alone = getattr(warp, f"{direction}_points")(places.flatten(1, 2), *sizes)
    assert_bitwise([four], [alone.unflatten(1, (30, 4))])
    assert (four.amin(2) >= hulls[..., :2]).all()
    assert (four.amax(2) <= hulls[..., 2:]).all()


def test_boxes_of_a_rotation():
    """A quarter turn takes boxes to boxes, their corners to others."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n) for n in (3, 4)), indexing="ij")
    warp = MeshWarp(torch.stack([1 - y, x], -1)[None]).check()  # zoomed (x, y) shows source (1 - y, x)
    box = torch.tensor([[2.5, 3.5, 8.5, 5.5]])
    assert_near([warp.unzoom_boxes(box, (21, 21), (21, 21))], [torch.tensor([[15.5, 2.5, 17.5, 8.5]])])
    expected = torch.tensor([[[17.5, 2.5], [17.5, 8.5], [15.5, 8.5], [15.5, 2.5]]])
    assert_near([warp.unzoom_corners(box, (21, 21), (21, 21))], [expected])
    assert_near([warp.zoom_boxes(warp.unzoom_boxes(box, (21, 21), (21, 21)), (21, 21), (21, 21))], [box])


# --- T~ and its inverse -----------------------------------------------------------------------------------------------


@tiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse_of_t_is_t_inverse(dtype, tile):
    mesh = random_mesh(3, (6, 9), dtype)
    points = torch.rand(3, 4000, 2, dtype=dtype)
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-12}[dtype]
    back = F.mesh_map(mesh, points, inverse=True, tile=tile)
    assert 0 <= back.min() < back.max() <= 1
    torch.testing.assert_close(F.mesh_map(mesh, back, tile=tile), points, rtol=0, atol=tolerance)
    if tile == "bilinear":  # whose T~ is one to one
        there = F.mesh_map(mesh, points)
        torch.testing.assert_close(F.mesh_map(mesh, there, inverse=True), points, rtol=0, atol=5 * tolerance)


@tiles
@pytest.mark.parametrize("turn", ["none", "rotated", "mirrored"])
def test_points_past_the_outline_go_there_and_back(turn, tile):
    """All of those inside; of those outside most: patches of random tiles, continued, leave gaps and overlap."""
    matrix = {"none": [[1, 0], [0, 1]], "rotated": [[0.6, -0.8], [0.8, 0.6]], "mirrored": [[-1, 0], [0, 1]]}[turn]
    mesh = torch.from_numpy(own.turned(random_mesh(2, dtype=torch.float64, ends=CROPPING).numpy(), matrix))
    warp = MeshWarp(mesh, tile)
    points = torch.rand(2, 500, 2, dtype=torch.float64) * 1.2 - 0.1
    zoomed = F.mesh_map(mesh, points, inverse=True, tile=tile)
    assert torch.isfinite(zoomed).all()
    inside = ((zoomed >= 0) & (zoomed <= 1)).all(-1)
    assert 0.3 < inside.double().mean() < 0.9
    right = (F.mesh_map(mesh, zoomed, tile=tile) - points).abs().amax(-1) < 1e-9
    assert right[inside].all()
    assert right.double().mean() > 0.95
    pixels = points * 60 + 0.5
    again = warp.unzoom_points(warp.zoom_points(pixels, (61, 61), ZOOMED), (61, 61), ZOOMED)
    torch.testing.assert_close(again[inside], pixels[inside], rtol=0, atol=1e-7)


# --- images, grids, magnification -------------------------------------------------------------------------------------


def image_of() -> torch.Tensor:
    return torch.rand(2, 3, 19, 21, dtype=torch.float64)


@pytest.mark.parametrize("ends", [(0.0, 1.0), CROPPING])
def test_zoom_and_unzoom_against_numpy(ends):
    warp, image = random_warp(2, (5, 7), torch.float64, ends), image_of()
    small, back = warp.zoom(image, (11, 12)), warp.unzoom(image, (17, 31))
    border, inside = warp.unzoom(image, (17, 31), padding_mode="border"), warp.inside((17, 31))
    for b in range(2):
        y, x = evaluate(warp.knots_y[b], grid(11)), evaluate(warp.knots_x[b], grid(12))
        np.testing.assert_allclose(small[b].numpy(), sample(image[b], y, x), atol=1e-12)
        y, x = invert(warp.knots_y[b], grid(17)), invert(warp.knots_x[b], grid(31))
        np.testing.assert_allclose(border[b].numpy(), sample(image[b], y, x), atol=1e-12)
        rows, columns = ((g >= ends[0]) & (g <= ends[1]) for g in (grid(17), grid(31)))
        mask = rows[:, None] & columns[None, :]
        np.testing.assert_array_equal(inside[b].numpy(), mask)
        np.testing.assert_allclose(back[b].numpy(), np.where(mask, sample(image[b], y, x), 0), atol=1e-12)


@kinds
@pytest.mark.parametrize("ends", [(0.0, 1.0), CROPPING])
def test_grids_with_grid_sample_are_zoom_and_unzoom(ends, kind):
    warp, image = warp_of(kind, 2, (5, 7), torch.float64, ends), image_of()
    got = TF.grid_sample(image, warp.grid((11, 12)), align_corners=True)
    torch.testing.assert_close(got, warp.zoom(image, (11, 12)), rtol=0, atol=1e-12)
    got = TF.grid_sample(image, warp.inverse_grid((17, 31)), align_corners=True)
    torch.testing.assert_close(got, warp.unzoom(image, (17, 31)), rtol=0, atol=1e-12)
    outside = ~warp.inside((17, 31))
    assert outside.any() == (ends == CROPPING)
    nowhere = warp.inverse_grid((17, 31))[outside] == -3
    assert (nowhere.any(-1) if kind == "separable" else nowhere).all()
    assert not warp.unzoom(image, (17, 31)).permute(0, 2, 3, 1)[outside].any()


def test_fill_border_is_the_nearest_point_of_the_outline():
    mesh = own.turned(np.stack(np.meshgrid(np.linspace(0, 1, 4), np.linspace(0, 1, 3)), -1)[None], 0.5 * np.eye(2))
    warp, image = MeshWarp(torch.from_numpy(mesh)), image_of()  # the middle half of the source
    got = warp.unzoom(image, (41, 41), padding_mode="border")
    clamped = (torch.linspace(0, 1, 41, dtype=torch.float64).clamp(0.25, 0.75) - 0.25) * 2
    places = torch.stack(torch.meshgrid(clamped, clamped, indexing="xy"), -1) * 2 - 1
    expected = TF.grid_sample(image, places.expand(2, -1, -1, -1), align_corners=True)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@kinds
def test_the_only_cell_of_a_magnification_is_the_middle(kind):
    warp = warp_of(kind, 2, (4, 5), torch.float64)
    assert torch.equal(warp.magnification((1, 1)), warp.magnification((3, 3))[:, 1:2, 1:2])
    assert torch.equal(warp.magnification((1, 3)), warp.magnification((3, 3))[:, 1:2])


@kinds
def test_magnification_is_the_jacobian_of_the_inverse(kind):
    warp, size, step = warp_of(kind, 2, (4, 5), torch.float64, CROPPING), (15, 17), 1e-4
    got = warp.magnification(size)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) + 0.5 for n in size), indexing="ij")
    points = torch.stack([x, y], -1).flatten(0, 1).expand(2, -1, -1)
    columns = []
    for axis in ([step, 0], [0, step]):
        ends = [warp.zoom_points(points + s * torch.tensor(axis), size, size) for s in (1, -1)]
        columns.append((ends[0] - ends[1]) / (2 * step))
    expected = (columns[0][..., 0] * columns[1][..., 1] - columns[0][..., 1] * columns[1][..., 0]).abs().view_as(got)
    if kind == "separable":  # whose last pieces continue
        shown = torch.ones_like(got, dtype=torch.bool)
    else:
        assert not got[~warp.inside(size)].any()
        shown = (warp.inverse_grid(size).abs() < 1).all(-1)  # and not on the outline, which reaches a little further
        assert shown.any()
    torch.testing.assert_close(got[shown], expected[shown], rtol=1e-5, atol=0)


@kinds
def test_magnification_integrates_to_the_area_of_the_zoomed_image(kind):
    # The mean over the source of d(zoomed area)/d(source area), by the midpoint rule over many pixels.
    mean = warp_of(kind, 2, (5, 7), torch.float64).magnification((1000, 1201)).mean((1, 2))
    torch.testing.assert_close(mean, torch.ones_like(mean), rtol=0, atol=5e-3)


def test_magnification_of_equal_knots_is_finite():
    equal = SeparableWarp(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 1.0]]))
    assert torch.isfinite(equal.magnification((5, 5))).all()
