"""What has an outline: polygons, rotated boxes, keypoints of people; and what of it a cropping warp still shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import KINDS, assert_bitwise, warp_of

from fastwarp import FastwarpError, MeshWarp, SeparableWarp

SOURCE, ZOOMED = (240, 320), (120, 200)
kinds = pytest.mark.parametrize("kind", KINDS)
STAR = torch.tensor([[20.0, 30.0], [150.0, 60.0], [300.0, 40.0], [200.0, 120.0], [280.0, 230.0], [60.0, 200.0]])
TRIANGLE = torch.tensor([[100.0, 100.0], [101.0, 100.0], [100.5, 101.0]])


def smooth(kind: str) -> SeparableWarp | MeshWarp:
    """A warp like those in use."""
    saliency = torch.full((1, 15, 21), 0.05)
    saliency[:, 4:6, 12:15] = saliency[:, 10:12, 3:5] = 1.0
    if kind == "separable":
        return SeparableWarp.from_saliency(saliency, 6.0)
    return MeshWarp.from_saliency(saliency, 6.0, tile=kind)


def dense(corners: torch.Tensor, count: int) -> torch.Tensor:
    share = torch.arange(count)[:, None] / count
    return (corners[:, None] + share * (corners.roll(-1, 0) - corners)[:, None]).flatten(0, 1)


def distance(points: torch.Tensor, polygon: torch.Tensor) -> torch.Tensor:
    """Of each point to the outline of the polygon, by NumPy."""
    p, a = points.double().numpy()[:, None], polygon.double().numpy()
    d = np.roll(a, -1, 0) - a
    share = np.clip(((p - a) * d).sum(-1) / np.maximum((d * d).sum(-1), 1e-30), 0, 1)
    return torch.from_numpy(np.linalg.norm(p - a - share[..., None] * d, axis=-1).min(1))


# --- polygons ---------------------------------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("direction", ["zoom", "unzoom"])
def test_polygons_follow_bent_edges(direction, kind):
    """As near as asked for, with about as many vertices as that takes, the given ones among them."""
    warp, sizes = smooth(kind), (SOURCE, ZOOMED)
    polygon = STAR if direction == "zoom" else STAR * torch.tensor([ZOOMED[1] / SOURCE[1], ZOOMED[0] / SOURCE[0]])
    mapped = getattr(warp, f"{direction}_points")(dense(polygon, 800), *sizes)
    corners = getattr(warp, f"{direction}_points")(polygon, *sizes)
    assert distance(mapped, corners).max() > 2  # else nothing is bent
    counts = []
    for tolerance in (0.2, 2.0):
        results = getattr(warp, f"{direction}_polygons")([polygon, TRIANGLE], *sizes, tolerance=tolerance)
        assert distance(mapped, results[0]).max() < tolerance + 1e-3
        assert len(results[1]) == 3
        torch.testing.assert_close(
            torch.cdist(corners.double(), results[0].double()).amin(1), torch.zeros(6).double(), rtol=0, atol=1e-3
        )
        assert distance(results[0], mapped).max() < 0.1  # vertices are on the warped outline
        counts.append(len(results[0]))
    assert 6 < counts[1] < counts[0] < 80


def test_polygons_of_a_warp_that_does_not_bend_keep_their_vertices():
    for warp in (SeparableWarp.identity(1, (31, 51)), MeshWarp.identity(1, (31, 51))):
        (got,) = warp.zoom_polygons([STAR], SOURCE, ZOOMED)
        assert_bitwise([got], [warp.zoom_points(STAR, SOURCE, ZOOMED)])
        assert warp.zoom_polygons([], SOURCE, ZOOMED) == []
        empty = warp.zoom_polygons([STAR[:0], STAR[:1]], SOURCE, ZOOMED)
        assert [len(one) for one in empty] == [0, 1]


def test_polygons_have_the_gradients_of_points():
    warp, polygon = smooth("bilinear"), STAR.double().requires_grad_()
    (got,) = warp.zoom_polygons([polygon], SOURCE, ZOOMED)
    with torch.no_grad():
        points = warp.zoom_points(polygon, SOURCE, ZOOMED)
        first = torch.cdist(points, got).argmin(1)
    (gradient,) = torch.autograd.grad(got[first].sum(), polygon)
    again = warp.zoom_points(polygon, SOURCE, ZOOMED)
    torch.testing.assert_close(gradient, torch.autograd.grad(again.sum(), polygon)[0])


def test_polygons_of_a_broken_warp_raise():
    warp = SeparableWarp(torch.tensor([[0.0, float("nan"), 1.0]]), torch.tensor([[0.0, 1.0]]))
    with pytest.raises(FastwarpError, match="zoom_polygons: polygons is mapped to NaN or infinity"):
        warp.zoom_polygons([STAR], SOURCE, ZOOMED)


# --- rotated boxes and keypoints --------------------------------------------------------------------------------------


def rotated(angle: float, mirrored: bool = False) -> torch.Tensor:
    """Corners of boxes of 60 x 24 pixels `[2, 4, 2]`."""
    a = np.deg2rad(angle)
    turn = torch.tensor([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]], dtype=torch.float32)
    corners = torch.tensor([[-30.0, -12.0], [30.0, -12.0], [30.0, 12.0], [-30.0, 12.0]])
    if mirrored:
        corners = corners * torch.tensor([1.0, -1.0])
    return torch.stack([corners @ turn + torch.tensor(centre) for centre in ([100.0, 90.0], [220.0, 150.0])])


@kinds
@pytest.mark.parametrize("direction", ["zoom", "unzoom"])
def test_rotated_boxes_are_rectangles_around_the_warped_outline(direction, kind):
    warp, boxes = smooth(kind), rotated(25.0)
    if direction == "unzoom":
        boxes = boxes / 2
    got = getattr(warp, f"{direction}_rotated_boxes")(boxes, SOURCE, ZOOMED)
    edges = got.roll(-1, 1) - got
    torch.testing.assert_close(edges[:, 0], -edges[:, 2], rtol=0, atol=1e-3)
    assert (edges[:, 0] * edges[:, 1]).sum(-1).abs().max() < 1e-2  # right angles
    outline = torch.stack([dense(box, 300) for box in boxes])
    mapped = getattr(warp, f"{direction}_points")(outline.flatten(0, 1), SOURCE, ZOOMED).unflatten(0, (2, -1))
    axes = torch.stack([edges[:, 0], edges[:, 1]], -1)
    axes = axes / axes.norm(dim=1, keepdim=True)
    low, high = (
        ((mapped @ axes) - (got @ axes).amin(1, keepdim=True)),
        (got @ axes).amax(1, keepdim=True) - mapped @ axes,
    )
    for margin in (low, high):
        assert margin.min() > -0.3  # what the outline does between its points
        assert margin.amin(1).max() < 0.3  # and no larger than it must be
    angle = torch.atan2(edges[:, 0, 1], edges[:, 0, 0]).rad2deg()
    assert ((angle > 5) & (angle < 60)).all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_rotated_boxes_keep_the_order_of_their_corners(mirrored):
    for angle in (0.0, 25.0, 100.0, -170.0):
        boxes = rotated(angle, mirrored)
        got = SeparableWarp.identity().zoom_rotated_boxes([boxes, boxes[:0]], SOURCE, SOURCE)
        torch.testing.assert_close(got[0], boxes, rtol=0, atol=1e-3)
        assert got[1].shape == (0, 4, 2)
    flat = boxes[:, [0, 0, 3, 3]].requires_grad_()  # boxes without width
    flat_result = smooth("separable").zoom_rotated_boxes(flat, SOURCE, ZOOMED)
    assert torch.isfinite(flat_result).all()
    assert torch.isfinite(torch.autograd.grad(flat_result.sum(), flat)[0]).all()


@kinds
def test_keypoints_of_any_rank(kind):
    warp, points = warp_of(kind, 2), torch.rand(2, 3, 5, 2) * 200
    flat = warp.zoom_points(points.flatten(1, 2), SOURCE, ZOOMED)
    assert_bitwise([warp.zoom_points(points, SOURCE, ZOOMED)], [flat.unflatten(1, (3, 5))])
    assert_bitwise(warp.unzoom_points(list(points), SOURCE, ZOOMED), warp.unzoom_points(points, SOURCE, ZOOMED))
    assert warp.zoom_points(points[:, :0], SOURCE, ZOOMED).shape == (2, 0, 5, 2)
    assert_bitwise([warp[0].zoom_points(points[0], SOURCE, ZOOMED)], [flat[0].unflatten(0, (3, 5))])


# --- what a cropping warp loses ---------------------------------------------------------------------------------------


def test_visibility_under_a_cropping_warp():
    """Known by hand: the middle half of the source."""
    half = torch.tensor([[0.25, 0.75]])
    separable = SeparableWarp(half, half)
    points = torch.tensor([[30.0, 30.0], [20.0, 50.0], [50.0, 80.0], [70.0, 70.0], [float("nan"), 50.0]])
    boxes = torch.tensor(
        [[30.0, 30.0, 40.0, 40.0], [0.5, 25.5, 50.5, 50.5], [80.0, 80.0, 99.0, 99.0], [50, 50, 50, 50]]
    )
    for warp in (separable, MeshWarp.from_separable(separable)):
        assert warp.visible_points(points, (101, 101), (50, 60)).tolist() == [True, False, False, True, False]
        assert warp.visible_area(boxes, (101, 101), (50, 60)).tolist() == [1.0, 0.5, 0.0, 1.0]
        sizes = torch.tensor([[101, 101], [1010, 1010]]), torch.tensor([[50, 60], [500, 600]])
        padded = warp.visible_points(torch.stack([points, 10 * points]), *sizes)
        assert padded[0].tolist() == padded[1].tolist() == [True, False, False, True, False]
        ragged = warp.visible_area([boxes, 10 * boxes[:2]], [(101, 101), (1010, 1010)], [(50, 60), (500, 600)])
        assert [one.tolist() for one in ragged] == [[1.0, 0.5, 0.0, 1.0], [1.0, 0.5]]


@kinds
def test_an_anti_crop_warp_shows_the_whole_source(kind):
    y, x = torch.meshgrid(torch.linspace(0, 240, 41), torch.linspace(0, 320, 41), indexing="ij")
    points = torch.stack([x, y], -1)
    for size in (ZOOMED, (480, 800), (1, 1)):
        shown = smooth(kind).visible_points(points, SOURCE, size)
        assert shown.shape == (41, 41)
        assert shown.all()
    outside = torch.tensor([[-0.1, 5.0], [5.0, 240.1]])
    assert not smooth(kind).visible_points(outside, SOURCE, ZOOMED).any()
