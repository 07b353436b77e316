"""Meshes: what T~ is inside a tile and across tiles, and the flaws a mesh can have."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from helpers import KINDS, assert_bitwise, random_mesh

from fastwarp import FastwarpError, MeshWarp
from fastwarp import functional as F

tiles = pytest.mark.parametrize("tile", KINDS[1:])

SOURCE, ZOOMED = (37, 61), (13, 24)


# --- tiles ------------------------------------------------------------------------------------------------------------


@tiles
def test_affine_meshes_are_exact(tile):
    matrix, shift = torch.tensor([[0.7, -0.3], [0.2, 0.6]], dtype=torch.float64), torch.tensor([0.25, 0.08]).double()
    plain = MeshWarp.identity(1, (4, 6), dtype=torch.float64).mesh
    mesh = plain @ matrix.mT + shift
    points = torch.rand(1, 1000, 2, dtype=torch.float64) * 1.6 - 0.3
    torch.testing.assert_close(F.mesh_map(mesh, points, tile=tile), points @ matrix.mT + shift, rtol=0, atol=1e-14)
    back = (points - shift) @ torch.linalg.inv(matrix).mT
    torch.testing.assert_close(F.mesh_map(mesh, points, inverse=True, tile=tile), back, rtol=0, atol=1e-12)
    warp = MeshWarp(mesh, tile).check()
    inside = warp.inside((19, 23))
    area = torch.full((1, 19, 23), 1 / torch.linalg.det(matrix).item(), dtype=torch.float64)
    torch.testing.assert_close(warp.magnification((19, 23)), torch.where(inside, area, 0), rtol=1e-9, atol=0)


def homography(points: torch.Tensor) -> torch.Tensor:
    """A perspective view of the unit square, one to one."""
    matrix = torch.tensor([[0.9, 0.15, 0.03], [0.1, 0.7, 0.08], [0.25, 0.5, 1.0]], dtype=torch.float64)
    x, y, w = (points @ matrix[:, :2].mT + matrix[:, 2]).unbind(-1)
    return torch.stack([x, y], -1) / w[..., None]


@pytest.mark.parametrize("shape", [(2, 2), (5, 7)])
def test_a_perspective_mesh_has_its_homography(shape):
    """Sampled at the vertices, a homography is what its tiles' homographies are everywhere, past the outline too."""
    mesh = homography(MeshWarp.identity(1, shape, dtype=torch.float64).mesh)
    points = torch.rand(1, 2000, 2, dtype=torch.float64) * 1.2 - 0.1
    torch.testing.assert_close(F.mesh_map(mesh, points, tile="homography"), homography(points), rtol=0, atol=1e-12)
    back = F.mesh_map(mesh, homography(points), inverse=True, tile="homography")
    torch.testing.assert_close(back, points, rtol=0, atol=1e-11)
    assert (F.mesh_map(mesh, points) - homography(points)).abs().max() > 1e-4  # a bilinear tile's is another map
    warp = MeshWarp(mesh, "homography")
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n, dtype=torch.float64) for n in (13, 17)), indexing="ij")
    expected = homography(torch.stack([x, y], -1)[None]) * 2 - 1
    torch.testing.assert_close(warp.grid((13, 17)), expected, rtol=0, atol=1e-12)
    grid = warp.inverse_grid((40, 50))
    inside, grid = (grid.abs() < 1).all(-1), (grid + 1) / 2  # off the outline, which reaches a little further
    y, x = torch.meshgrid(*(torch.linspace(0, 1, n, dtype=torch.float64) for n in (40, 50)), indexing="ij")
    torch.testing.assert_close(homography(grid)[inside], torch.stack([x, y], -1)[None][inside], rtol=0, atol=1e-12)
    assert inside.double().mean() > 0.2


def jump(mesh: torch.Tensor, tile: str, axis: int) -> float:
    """By how much T~ jumps across the inner edges along x (axis 1: horizontal ones) or y (0: vertical ones)."""
    cells = mesh.shape[2 - axis] - 1
    across = torch.arange(1, cells, dtype=torch.float64) / cells
    along = torch.rand(50, dtype=torch.float64)
    ends = []
    for side in (-1e-12, 1e-12):
        pair = [a.flatten() for a in torch.meshgrid(across + side, along, indexing="ij")]
        ends.append(F.mesh_map(mesh, torch.stack(pair if axis == 0 else pair[::-1], -1)[None], tile=tile))
    return (ends[1] - ends[0]).abs().max().item()


def test_continuity_across_tiles():
    """What MeshWarp's docstring says: bilinear tiles meet; homographies divide a common edge differently unless it is
    parallel to the opposite edges."""
    mesh = random_mesh(1, (5, 6), torch.float64)
    assert max(jump(mesh, "bilinear", axis) for axis in (0, 1)) < 1e-9
    assert min(jump(mesh, "homography", axis) for axis in (0, 1)) > 1e-3
    rows = mesh.clone()
    rows[..., 1] = mesh[:, :, :1, 1]  # all rows horizontal: trapezoids
    assert jump(rows, "homography", 1) < 1e-9
    assert jump(rows, "homography", 0) > 1e-3


def test_a_homography_keeps_lines_straight():
    mesh = torch.tensor([[[[0.0, 0.1], [0.9, 0.0]], [[0.2, 0.8], [0.7, 1.0]]]], dtype=torch.float64)
    line = torch.linspace(0, 1, 20, dtype=torch.float64)[:, None] * torch.tensor([0.8, 0.9]) + torch.tensor([0.1, 0.05])
    bends = {}
    for tile in ("bilinear", "homography"):
        mapped = F.mesh_map(mesh, line[None], tile=tile)[0]
        along = mapped[-1] - mapped[0]
        away = mapped - mapped[0]
        bends[tile] = ((away[:, 0] * along[1] - away[:, 1] * along[0]) / along.norm()).abs().max().item()
    assert bends["homography"] < 1e-12
    assert bends["bilinear"] > 1e-2


def test_a_quad_that_is_not_convex_has_no_homography():
    mesh = torch.tensor([[[[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.2, 0.3]]]], dtype=torch.float64)
    points = torch.rand(1, 50, 2, dtype=torch.float64)
    assert_bitwise([F.mesh_map(mesh, points, tile="homography")], [F.mesh_map(mesh, points)])


# --- flaws ------------------------------------------------------------------------------------------------------------


def flawed() -> MeshWarp:
    """One image for each kind: none, a fold, mirrored, collapsed columns, a NaN, outside."""
    mesh = MeshWarp.identity(6, (4, 5)).mesh
    mesh[1, 1, 2, 0] = 0.9  # to the right of its right neighbour
    mesh[2, ..., 0] = 1 - mesh[2, ..., 0]
    mesh[3, :, 1] = mesh[3, :, 2]
    mesh[4, 2, 3, 1] = math.nan
    mesh[5] = mesh[5] * 1.5 - 0.25
    return MeshWarp(mesh)


def test_report_finds_flaws():
    warp = flawed()
    reports = [w.report() for w in warp]
    assert [r.ok for r in reports] == [True, False, False, True, False, True]
    assert str(reports[0]) == "no flaws"
    counts = [tuple(len(getattr(r, f.name)) for f in dataclasses.fields(r)[:4]) for r in reports]
    assert counts[0] == (0, 0, 0, 0)
    assert set(map(tuple, reports[1].folded.tolist())) >= {(0, 0, 2), (0, 1, 2)}
    assert counts[1][0] == counts[1][2] == counts[1][3] == 0
    assert counts[2] == (0, 12, 0, 0)
    assert counts[3] == (0, 0, 3, 0)
    assert reports[3].zero_area.tolist() == [[0, i, 1] for i in range(3)]
    assert reports[4].not_finite.tolist() == [[0, 2, 3]]
    assert counts[4] == (1, 0, 0, 0)
    assert counts[5] == (0, 0, 0, 14)
    whole = warp.report()
    assert whole.not_finite.tolist() == [[4, 2, 3]]
    assert whole.zero_area.tolist() == [[3, i, 1] for i in range(3)]
    assert not whole.ok
    text = str(whole)
    assert "1 vertices that are not finite (image 4: [2, 3])" in text
    assert "3 tiles without area (image 3: [0, 1]; image 3: [1, 1]; image 3: [2, 1])" in text
    assert f"{len(whole.folded)} folded tiles (image 1: [" in text
    assert "; ...)" in text
    assert "14 vertices outside [0, 1] (image 5: [0, 0];" in text


def test_a_triangle_counts_as_folded():
    """Two equal corners: the Jacobian is 0 there, and the tile has an area."""
    mesh = MeshWarp.identity(1, (2, 2)).mesh
    mesh[0, 1, 1] = mesh[0, 0, 1]
    report = MeshWarp(mesh).report()
    assert report.folded.tolist() == [[0, 0, 0]]
    assert report.ok  # but covers no place twice
    assert not len(report.zero_area)


def test_check_raises_for_what_has_no_inverse():
    warp = flawed()
    for good in (0, 3, 5):
        assert warp[good].check().mesh.shape == (1, 4, 5, 2)
    with pytest.raises(FastwarpError, match=r"MeshWarp.check: mesh is a mesh with 12 folded tiles \(image 0: \[0, 0\]"):
        warp[2].check()
    with pytest.raises(FastwarpError, match=r"MeshWarp.check: mesh is a mesh with .* folded tiles .* expected finite"):
        warp[1].check()
    with pytest.raises(FastwarpError, match=r"1 vertices that are not finite \(image 0: \[2, 3\]\), expected finite"):
        warp[4].check()


@tiles
def test_flawed_meshes_never_crash(tile):
    warp = MeshWarp(flawed().mesh, tile)
    image, corners = torch.rand(6, 2, 9, 11), torch.rand(1, 5, 2) * 60 - 5
    boxes = torch.cat([corners, corners + 9], 2)
    # Mirrored is inside out but inverts, folded is covered at least once; the NaN of a vertex fills its image.
    assert warp.inside((30, 40)).all()
    for padding_mode in ("zeros", "border"):
        back = warp.unzoom(image, (30, 40), padding_mode=padding_mode)
        assert torch.isfinite(back[[0, 1, 2, 3, 5]]).all()
        assert torch.isnan(back[4]).all()
    mirrored = warp[2].unzoom(image[2:3])
    torch.testing.assert_close(mirrored, image[2:3].flip(3), rtol=0, atol=1e-5)
    for function in (
        lambda w: w.zoom(image, (7, 8)),
        lambda w: w.zoom(image, (3, 4), antialias=True),
        lambda w: w.magnification((9, 11)),
        lambda w: w.zoom_points(torch.rand(6, 40, 2) * 60 - 10, SOURCE, ZOOMED),
        lambda w: w.unzoom_boxes(boxes.expand(6, -1, -1), SOURCE, ZOOMED),
    ):
        finite = torch.isfinite(function(warp)).flatten(1).all(1)
        assert finite[[0, 1, 2, 3, 5]].all()
    mesh = warp.mesh[[0, 1, 2, 3, 5]].requires_grad_()
    sound = MeshWarp(mesh, tile)
    out = sound.unzoom(sound.zoom(image[:5], (8, 9), antialias=True), (20, 21), antialias=True)
    (grad,) = torch.autograd.grad(out.square().sum(), mesh)
    assert torch.isfinite(grad).all()
    point = MeshWarp(torch.full((1, 3, 4, 2), 0.4), tile)
    assert torch.isfinite(point.unzoom(image[:1], padding_mode="border")).all()
    assert len(point.report().zero_area) == 6


def test_where_a_mesh_folds_the_first_tile_counts():
    """Three columns of the identity, the last one laid back over the others."""
    mesh = MeshWarp.identity(1, (2, 4), dtype=torch.float64).mesh
    mesh[..., 0] = torch.tensor([0.0, 0.5, 1.0, 0.25])
    warp = MeshWarp(mesh)
    zoomed = (warp.inverse_grid((3, 33))[0, 1, :, 0] + 1) / 2
    expected = torch.linspace(0, 1, 33, dtype=torch.float64) * 2 / 3  # of the first two tiles
    torch.testing.assert_close(zoomed, expected, rtol=0, atol=1e-12)
