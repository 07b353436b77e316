"""Triton kernels of the `mesh` family: against the reference (on a GPU, else in Triton's interpreter)."""

import numpy as np
import pytest
import strategies as own
import torch
from gpu_helpers import (
    DEVICE,
    array,
    assert_right,
    interpreter,
    on_device,
    poisoned_memory,  # noqa: F401
    run,
)
from helpers import assert_bitwise
from tolerances import assert_close_to
from torch import Tensor

from fastwarp.reference import mesh as reference

with interpreter():
    from fastwarp.kernels.gpu import _mesh_outline, _mesh_positions, mesh

# Infinite vertices give NaN, in the reference as in the kernels.
pytestmark = [pytest.mark.filterwarnings("ignore::RuntimeWarning"), *([pytest.mark.gpu] if DEVICE == "cuda" else [])]

KINDS = tuple(kind for kind in (*own.MESHES, *own.DEGENERATE) if kind != "near_degenerate")  # it has tests of its own
F32, F64 = torch.float32, torch.float64

dtypes = pytest.mark.parametrize("dtype", [F32, F64], ids=["fp32", "fp64"])
both_tiles = pytest.mark.parametrize("homography", [False, True], ids=["bilinear", "homography"])
both_ways = pytest.mark.parametrize("inverse", [False, True], ids=["zoom", "unzoom"])


def made(kind: str, seed: int, shape: tuple[int, int], dtype: torch.dtype, batch: int = 1) -> Tensor:
    return torch.from_numpy(own.mesh(kind, seed, batch, *shape)).to(dtype)


def arrays(*values):
    return [array(value) for value in values]


# --- meshes of saliency -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("anti_crop", "dtype"), [(True, F64), (False, F32)])
def test_lz_mesh(anti_crop, dtype):
    saliency = torch.rand(1, 3, 18, dtype=dtype) ** 4
    saliency[0, 1, 2] = -1
    args = (saliency, 4.0, anti_crop)
    mesh_of = run(mesh.lz_mesh, *args)
    assert_right(mesh_of, reference.lz_mesh(*arrays(*args)), "knots")
    grad = torch.randn(mesh_of.shape, dtype=dtype)
    by_saliency = run(mesh.lz_mesh_backward, grad, *args)
    assert_right(by_saliency, reference.lz_mesh_backward(*arrays(grad, *args)), "mesh_grad")


# --- positions --------------------------------------------------------------------------------------------------------


def check_positions(
    vertices, sizes, sources, inverse, homography, border=False, valid=None, source_valid=None, thin=None
):
    """Tiles are the reference's, and windows are what it reads or, of an inverse, where T~ maps to the same target,
    within `thin` targets if that is given."""
    args = (vertices, sizes, sources, inverse, homography, border, valid, source_valid)
    windows, tiles = (t.cpu() for t in run(mesh.positions, *args))
    right, owners = reference.positions(*arrays(*args))
    assert windows.dtype == vertices.dtype
    assert tiles.dtype == torch.int32
    np.testing.assert_array_equal(tiles.numpy(), owners)
    found = array(windows)
    np.testing.assert_array_equal(found == -1, right == -1)
    if not inverse:
        assert_close_to(right, windows, vertices.dtype, "mesh_positions")
        return windows, tiles
    levels = reference._each_level(len(right), sizes, sources, *arrays(valid, source_valid))
    for b, at, (_, _, eh, ew, sh, sw) in levels:
        lost = (owners[b, at] < 0) & (right[b, 0, at] >= 0)
        assert_close_to(right[b, :, at][:, lost], found[b, :, at][:, lost], vertices.dtype, "mesh_positions")
        owned = np.flatnonzero(owners[b, at] >= 0)
        if min(sh, sw) < 2 or not len(owned):  # windows tell nothing of the position there
            continue
        assert (found[b, :, at] <= np.array([[sw - 1], [sh - 1]])).all()
        corners = reference.corners_of(array(vertices)[b % len(vertices)], owners[b, at][owned])
        cells = np.array(vertices.shape[2:0:-1]) - 1
        place = np.stack(np.divmod(owners[b, at][owned], cells[0])[::-1], -1)
        local = [w[b, :, at][:, owned].T / (sw - 1, sh - 1) * cells - place for w in (found, right)]
        ours, expected = (reference.patch(corners, *l.T, homography) * (max(ew - 1, 1), max(eh - 1, 1)) for l in local)
        if thin:
            assert np.abs(ours - expected).max() <= thin
        else:
            assert_close_to(expected, ours, vertices.dtype, "mesh_targets")
    return windows, tiles


@pytest.mark.skipif(DEVICE == "cuda", reason="Triton compiles constants in")
def test_tiles_of_few_targets_look_for_them(monkeypatch):
    """A program would ask hundreds of tiles about a coarse level one after the other. The targets are the same."""
    vertices, args = made("jittered", 5, (9, 13), F32, 2), ([7, 9, 4, 5], [20, 31] * 2, True, False)
    expected = reference.positions(*arrays(vertices, *args, False, None, None))[1]
    asked = []
    for few in (0, 16):
        calls = []
        monkeypatch.setattr(_mesh_outline, "_FEW", _mesh_outline.tl.constexpr(few))
        winding = _mesh_positions.winding

        def counted(*args, calls=calls, winding=winding):
            calls.append(1)
            return winding(*args)

        with monkeypatch.context() as patched:
            for module in (_mesh_outline, _mesh_positions):
                patched.setattr(module, "winding", counted)
            _, tiles = mesh.positions(*(on_device(a) for a in (vertices, *args, False, None, None)))
        np.testing.assert_array_equal(tiles.cpu().numpy(), expected)
        asked.append(len(calls))
    # Each of 16 blocks had asked its 30 tiles; now each of 36 rows of vertices looks at the widest box of its tiles.
    assert asked[1] < asked[0] / 2


@both_tiles
@pytest.mark.parametrize("kind", KINDS)
def test_positions(kind, homography):
    vertices = made(kind, 5, (3, 5), F32)
    check_positions(vertices, [9, 14], [20, 31], False, homography)
    check_positions(vertices, [9, 14], [20, 31], True, homography)
    if not homography:  # a homography is in float64 always
        check_positions(made(kind, 6, (3, 4), F64), [9, 14], [20, 31], True, homography)


VALID = torch.tensor([[[9, 13], [5, 1], [0, 7]], [[2, 2], [3, 9], [1, 5]]])
SOURCE_VALID = torch.tensor([[[15, 9], [0, 3], [6, 1]]])


@both_ways
@pytest.mark.parametrize(("border", "dtype"), [(False, F64), (True, F32)])
@pytest.mark.parametrize(("batch", "valid", "source_valid"), [(2, None, None), (1, VALID, SOURCE_VALID)])
def test_levels_and_extents(batch, valid, source_valid, border, dtype, inverse):
    vertices = made("outside", 3, (5, 4), dtype, batch) * 0.8 + 0.1
    sizes, sources = [11, 17, 6, 9, 1, 8], [20, 31, 3, 4, 6, 7]
    check_positions(vertices, sizes, sources, inverse, False, border, valid, source_valid)


@pytest.mark.parametrize("kind", ["rotated", "folded"])
def test_many_blocks_and_tiles(kind, monkeypatch):
    """Several blocks of targets, and chunks of rows of tiles and of tiles."""
    monkeypatch.setattr(_mesh_positions, "_CHUNK", 16)
    monkeypatch.setattr(_mesh_positions, "_ROWS", 8)
    monkeypatch.setattr(_mesh_positions, "_COLUMNS", 8)
    check_positions(made(kind, 1, (20, 9), F32), [13, 20, 1, 9], [13, 20, 1, 9], True, False)
    check_positions(made(kind, 1, (20, 9), F32), [13, 20, 1, 9], [13, 20, 1, 9], False, False)


@dtypes
def test_targets_on_edges_and_vertices(dtype):
    """Vertices are put onto targets: no target is lost between tiles, none has two."""
    for seed in range(2):
        vertices = own.mesh("jittered", seed, 1, 6, 5)
        vertices = np.rint(vertices * (16, 12)) / (16, 12)
        vertices[:, 0, :, 1], vertices[:, -1, :, 1], vertices[:, :, 0, 0], vertices[:, :, -1, 0] = 0, 1, 0, 1
        _, tiles = check_positions(torch.from_numpy(vertices).to(dtype), [13, 17], [13, 17], True, False)
        assert (tiles >= 0).all()


@both_tiles
@pytest.mark.parametrize("narrow", [0.3, 0.9999, 1.0, 1.3])
def test_trapezoids(narrow, homography):
    """Tiles that narrow to nothing and beyond: float32 alone would miss the targets where they are thin."""
    vertices = made("identity", 0, (2, 3), F32)
    vertices[:, 1, :, 0] = 0.5 + (vertices[:, 1, :, 0] - 0.5) * (1 - narrow)
    for turned in (vertices, vertices.flip(1)):
        windows, tiles = check_positions(turned, [20, 301], [20, 301], True, homography)
        assert (windows[:, :, tiles[0] >= 0] >= 0).all()


@pytest.mark.parametrize(("dtype", "homography", "thin"), [(F32, False, 1e-3), (F64, False, 1e-8), (F64, True, 1e-8)])
def test_thin_tiles(dtype, homography, thin):
    """Rounding is relative to a tile's length: less is known of a tile of a millionth of that width."""
    for seed in (5, 6):
        vertices = made("near_degenerate", seed, (3, 5), dtype)
        check_positions(vertices, [9, 14], [20, 31], True, homography, thin=thin)


def test_an_outline_that_rounds_inwards_keeps_its_targets():
    vertices = made("identity", 0, (4, 5), F32)
    vertices[:, :, -1, 0] = vertices[:, -1, :, 1] = 0.9999994
    _, tiles = check_positions(vertices, [30, 48], [30, 48], True, False)
    assert (tiles >= 0).all()


def test_the_identity_is_exact():
    for dtype in (F32, F64):
        for inverse in (False, True):
            windows, _ = mesh.positions(
                *(on_device(made("identity", 0, (5, 9), dtype)), [17, 33], [17, 33], inverse, False, False, None, None)
            )
            y, x = torch.meshgrid(torch.arange(17), torch.arange(33), indexing="ij")
            assert torch.equal(windows.cpu(), torch.stack([x, y]).reshape(1, 2, -1).to(dtype))


def test_vertices_far_away_and_huge():
    """What rounding leaves of a crossing is as large as the vertices: boxes allow for it."""
    vertices = made("jittered", 2, (4, 6), F64)
    vertices[0, 1, 2], vertices[0, 2, 4, 0], vertices[0, 2, 1, 1] = 1e17, -1e12, 1e300
    for those in (vertices, vertices.clamp(-1e30, 1e30).float()):
        args = (those, [12, 17], [12, 17], True, False, False, None, None)
        windows, tiles = run(mesh.positions, *args)
        np.testing.assert_array_equal(array(tiles), reference.positions(*arrays(*args))[1])
        assert torch.isfinite(windows).all()


# --- gradients --------------------------------------------------------------------------------------------------------


def regular(grad, windows, tiles, vertices, sources, inverse, homography):
    """`grad` without the targets where it hangs on rounding: in tiles that have nearly no area, and at the clamp of a
    zoom. One level."""
    cells, last, grad = np.array(vertices.shape[2:0:-1]) - 1, (sources[1] - 1, sources[0] - 1), grad.clone()
    for b in range(len(grad)):
        if not inverse:
            pixels = array(windows[b]).T
            keep = ((pixels > 1e-6) & (pixels < np.array(last) - 1e-6)).T
            grad[b] *= torch.from_numpy(keep)
            continue
        owner = np.maximum(array(tiles[b]), 0)
        corners = reference.corners_of(array(vertices)[b % len(vertices)], owner)
        local = array(windows[b]).T / last * cells - np.stack(np.divmod(owner, cells[0])[::-1], -1)
        jacobian, _ = reference.derivatives(corners, *local.T, homography)
        with np.errstate(all="ignore"):
            size = np.sqrt((jacobian**2).sum(-2).prod(-1))
            keep = np.abs(reference.cross(jacobian[..., 0], jacobian[..., 1])) > 1e-5 * size
        grad[b] *= torch.from_numpy(keep)
    return grad


def check_backward(grad, vertices, sizes, sources, inverse, homography, valid=None, source_valid=None):
    args = (sizes, sources, inverse, homography)
    windows, tiles = (
        t.cpu() for t in mesh.positions(*(on_device(a) for a in (vertices, *args, False, valid, source_valid)))
    )
    grad = torch.randn(windows.shape, dtype=vertices.dtype) if grad is None else grad(windows, tiles)
    args = (grad, vertices, windows, tiles, *args, valid, source_valid)
    result = run(mesh.positions_backward, *args)
    assert result.shape == vertices.shape
    assert_right(result, reference.positions_backward(*arrays(*args)), "mesh_grad")


@both_tiles
@both_ways
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("lz", F64), ("rotated", F32), ("mirrored", F64), ("cropping", F32), ("nonconvex", F64), ("zero_area", F32)],
)
def test_gradient_to_the_mesh(kind, dtype, inverse, homography):
    vertices, sources = made(kind, 5, (3, 4), dtype), [20, 31]

    def grad(windows, tiles):
        return regular(torch.randn(windows.shape, dtype=dtype), windows, tiles, vertices, sources, inverse, homography)

    check_backward(grad, vertices, [9, 14], sources, inverse, homography)


@both_ways
def test_gradient_of_levels_and_extents(inverse):
    """A mesh that the images share has the sum of their gradients."""
    sizes, sources = [9, 12, 6, 9, 1, 8], [20, 31, 3, 4, 6, 7]
    check_backward(None, made("jittered", 3, (3, 4), F32), sizes, sources, inverse, False, VALID, SOURCE_VALID)
    check_backward(None, made("jittered", 3, (3, 3), F64, 2), sizes, sources, inverse, True)


@both_tiles
@both_ways
def test_gradients_are_finite(inverse, homography):
    for kind in ("point", "zero_area", "near_degenerate", "folded"):
        vertices = made(kind, 4, (3, 3), F32)
        for sources in ([7, 9], [1, 1], [7, 1]):
            args = ([5, 8, 1, 1], 2 * sources, inverse, homography)
            windows, tiles = mesh.positions(on_device(vertices), *args, True, None, None)
            assert torch.isfinite(windows).all()
            ones = torch.ones_like(windows)
            by_mesh = mesh.positions_backward(ones, on_device(vertices), windows, tiles, *args, None, None)
            assert torch.isfinite(by_mesh).all()


def test_targets_without_a_tile_have_no_gradient():
    vertices = made("identity", 0, (3, 4), F32) * 0.5 + 0.25
    args = ([9, 9], [9, 9], True, False)
    windows, tiles = mesh.positions(on_device(vertices), *args, True, None, None)
    assert (tiles < 0).any()
    grad = torch.where(tiles[:, None] < 0, float("nan"), 0.0).expand_as(windows)
    by_mesh = mesh.positions_backward(grad, on_device(vertices), windows, tiles, *args, None, None)
    assert (by_mesh == 0).all()


# --- points -----------------------------------------------------------------------------------------------------------


def points_like(vertices: Tensor, batch: int, n: int, inverse: bool, low: float, high: float) -> Tensor:
    """Positions `[batch, n, 2]`: anywhere, the first of them on vertices, where up to four tiles meet."""
    points = torch.from_numpy(own.uniform(1, batch, n, 2, low=low, high=high)).to(vertices.dtype)
    on = vertices[0] if inverse else made("identity", 0, vertices.shape[1:3], vertices.dtype)[0]
    on = on.reshape(-1, 2)[: n // 3]
    points[:, : len(on)] = torch.where(torch.isfinite(on), on, 0.3)
    return points


@both_tiles
@pytest.mark.parametrize(("kind", "dtype"), list(zip(KINDS, [F32, F64] * len(KINDS), strict=False)))
def test_map(kind, dtype, homography):
    vertices = made(kind, 5, (4, 6), dtype)
    points = points_like(vertices, 2, 60, False, *((0, 1) if homography else (-0.5, 1.5)))
    points[1, 59, 0] = float("nan")
    mapped, tiles = run(mesh.map, vertices, points, False, homography)
    right, owners = reference.map(*arrays(vertices, points), False, homography)
    np.testing.assert_array_equal(tiles.cpu().numpy(), owners)
    assert_right(mapped, right, "mesh_map")


@both_tiles
@pytest.mark.parametrize("kind", KINDS)
def test_inverse_map(kind, homography):
    """Within the mesh: the owner, and where T~ is the point."""
    dtype = F64 if kind in own.DEGENERATE else F32
    vertices = made(kind, 5, (4, 6), dtype)
    points = points_like(vertices, 2, 60, True, 0, 1)
    points[0, 59, 1] = points[1, 58, 0] = float("nan")
    mapped, tiles = run(mesh.map, vertices, points, True, homography)
    right, _ = reference.map(*arrays(vertices, points), True, homography)
    corners, cells = array(vertices)[0], np.array([5, 3])
    for b in range(2):
        at = array(points)[b]
        owner = reference.owners(corners, at[:, 1], at[:, :1])[0][:, 0]
        owned = np.flatnonzero(owner >= 0)
        np.testing.assert_array_equal(array(tiles[b])[owned], owner[owned])
        place = np.stack(np.divmod(owner[owned], cells[0])[::-1], -1)
        local, expected = (v[b][owned] * cells - place for v in (array(mapped), right))
        simple = np.abs(expected - 0.5).max(1, initial=0) <= 0.51  # not anywhere along a tile without area
        quads = reference.corners_of(corners, owner[owned])
        images = [reference.patch(quads, *v.T, homography)[simple] for v in (expected, local)]
        assert_close_to(images[0], images[1], dtype, "mesh_map")
        lost = np.isnan(at).any(1)
        assert np.isnan(array(mapped)[b][lost]).all()
        assert (array(tiles)[b][lost] == -1).all()


@dtypes
@pytest.mark.parametrize(
    ("kind", "shape"), [("lz", (4, 6)), ("rotated", (2, 2)), ("trapezoid", (2, 5)), ("lz", (5, 2)), ("rotated", (3, 3))]
)
def test_points_outside_continue_the_outline(kind, shape, dtype):
    vertices = made(kind, 7, shape, dtype)
    points = points_like(vertices, 1, 90, True, -0.2, 1.2)
    mapped, tiles = run(mesh.map, vertices, points, True, False)
    right, owners = reference.map(*arrays(vertices, points), True, False)
    same = array(tiles) == owners
    assert same.mean() > 0.9  # but for ties on the continued edges
    assert np.array_equal(np.isfinite(array(mapped)), np.isfinite(right))
    slope = np.nanmax(np.abs(right[same]))
    assert np.nanmax(np.abs(array(mapped) - right)[same]) <= slope**2 * (1e-6 if dtype == F32 else 1e-12)


@both_tiles
@both_ways
@pytest.mark.parametrize(
    ("batches", "kind", "dtype"),
    [((1, 1), "nonconvex", F64), ((2, 1), "lz", F32), ((1, 2), "rotated", F32), ((1, 1), "lz", F64)],
)
def test_gradients_of_points(batches, kind, dtype, inverse, homography):
    vertices = made(kind, 5, (4, 6), dtype, batches[0])
    points = points_like(vertices, batches[1], 40, inverse, 0.05, 0.95)
    points[0, 39] = float("nan")
    mapped, tiles = (t.cpu() for t in mesh.map(on_device(vertices), on_device(points), inverse, homography))
    args = (torch.randn(mapped.shape, dtype=dtype), vertices, points, mapped, tiles, inverse, homography)
    results = run(mesh.map_backward, *args)
    assert [r.shape for r in results] == [vertices.shape, points.shape]
    assert_right(list(results), list(reference.map_backward(*arrays(*args))), "mesh_grad")


# --- what must hold whatever the reference says -----------------------------------------------------------------------


def test_any_strides():
    vertices = made("lz", 3, (3, 4), F32, 2)
    strided = vertices.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    for inverse in (False, True):
        args = ([12, 17], [20, 31], inverse, False)
        windows, tiles = run(mesh.positions, vertices, *args, False, None, None)
        assert_bitwise(run(mesh.positions, strided, *args, False, None, None), [windows, tiles])
        grad = torch.randn(1, 1, 204).expand(2, 2, 204)
        results = [
            run(mesh.positions_backward, g, v, windows, tiles, *args, None, None)
            for g, v in ((grad, strided), (grad.clone(), vertices))
        ]
        assert_bitwise(results[:1], results[1:])


@both_ways
def test_empty_batches_levels_and_points(inverse):
    empty, vertices = torch.zeros(0, 4, 5, 2), made("lz", 3, (4, 5), F32)
    for some, sizes in ((empty, [3, 4]), (vertices, [0, 4]), (vertices, [0, 4, 3, 2])):
        args = (sizes, [5, 6] * (len(sizes) // 2), inverse, False)
        count = sum(h * w for h, w in zip(sizes[::2], sizes[1::2], strict=True))
        windows, tiles = run(mesh.positions, some, *args, False, None, None)
        assert windows.shape == (len(some), 2, count)
        assert tiles.shape == (len(some), count)
        by_mesh = run(mesh.positions_backward, windows, some, windows, tiles, *args, None, None)
        assert by_mesh.shape == some.shape
        assert torch.isfinite(by_mesh).all()
    for some, n in ((empty, 7), (vertices, 0)):
        points = torch.zeros(len(some), n, 2)
        mapped, tiles = run(mesh.map, some, points, inverse, False)
        assert mapped.shape == points.shape
        by_mesh, by_points = run(mesh.map_backward, mapped, some, points, mapped, tiles, inverse, False)
        assert by_mesh.shape == some.shape
        assert by_points.shape == points.shape
        assert (by_mesh == 0).all()


@both_ways
def test_levels_and_images_take_one_launch(inverse, monkeypatch):
    """An inverse has a second one, for what its targets share."""
    launches = []

    class Counted:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            launches.append(grid)
            return self.kernel[grid]

    for name in ("_zoom_kernel", "_outline_kernel", "_unzoom_kernel"):
        module = _mesh_outline if name == "_outline_kernel" else _mesh_positions
        monkeypatch.setattr(module, name, Counted(getattr(module, name)))
    sizes = [6, 8, 3, 4, 2, 2]
    mesh.positions(on_device(made("lz", 1, (3, 4), F32, 2)), sizes, sizes, inverse, False, True, None, None)
    assert len(launches) == (2 if inverse else 1)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
@both_ways
def test_graphs(inverse):
    """A captured call synchronises nothing, and replays for another mesh of the same shape."""
    vertices, points = (on_device(t) for t in (made("lz", 1, (9, 13), F32, 2), torch.rand(2, 50, 2)))
    args = ([60, 96, 30, 48], [60, 96, 30, 48], inverse, False)

    def everything():
        windows, tiles = mesh.positions(vertices, *args, True, None, None)
        mapped, owners = mesh.map(vertices, points, inverse, False)
        return [
            *(windows, tiles, mapped, owners),
            mesh.positions_backward(windows, vertices, windows, tiles, *args, None, None),
            *mesh.map_backward(mapped, vertices, points, mapped, owners, inverse, False),
        ]

    everything()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = everything()
    vertices.copy_(made("rotated", 2, (9, 13), F32, 2))
    graph.replay()
    assert_bitwise(results, everything())
