"""Contracts that the ops and functions of meshes and grids keep: torch's rules for ops, transforms, determinism,
gradients."""

from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as TF
from helpers import (
    assert_bitwise,
    assert_near,
    forward_backward,
    op_names,
    poison,
    random_mesh,
    strange_strides,
    tensors,
)
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from fastwarp import MeshWarp
from fastwarp import functional as F
from fastwarp.nn import Unzoom, Zoom

OPS = torch.ops.fastwarp
SIZES, SOURCES = [5, 7, 3, 4], [6, 5, 4, 6]  # two levels
CROPPING = (0.073, 0.931)


# --- every op ---------------------------------------------------------------------------------------------------------


def op_arguments(
    name: str,
    dtype=torch.float32,
    last=False,
    valid=False,
    antialias=False,
    shared=False,
    inverse=False,
    homography=False,
):
    """Arguments of one op, every tensor with a gradient that can have one."""
    mesh = random_mesh(1 if shared else 2, (5, 4), dtype, CROPPING).requires_grad_()
    extents = torch.tensor([[[4, 6], [3, 3]], [[5, 2], [2, 4]]]) if valid else None
    source_extents = torch.tensor([[[5, 4], [4, 6]], [[6, 5], [2, 3]]]) if valid else None
    options = (SIZES, SOURCES, inverse, homography)
    positions, tiles = (t.detach() for t in OPS.mesh_positions(mesh, *options, not shared, extents, source_extents))
    points = torch.rand(2, 9, 2, dtype=dtype).requires_grad_()
    mapped, at = (t.detach() for t in OPS.mesh_map(mesh, points, inverse, homography))
    widths = [torch.rand_like(positions) + 1] if antialias else []
    windows = torch.cat([positions, *widths], 1).requires_grad_()

    def maps(sizes: list[int]) -> list[torch.Tensor]:
        shapes = [(2, 3, *sizes[i : i + 2]) for i in (0, 2)]
        layout = torch.channels_last if last else torch.contiguous_format
        return [torch.rand(s, dtype=dtype).contiguous(memory_format=layout).requires_grad_() for s in shapes]

    saliency = torch.rand(2, 5, 4, dtype=dtype).requires_grad_()
    frame = torch.randint(0, 256, (2, *SOURCES[:2], 3), dtype=torch.uint8)
    first = windows.detach()[:, :, : SIZES[0] * SIZES[1]].clone().requires_grad_()
    centres, widening = positions.clone().requires_grad_(), (SIZES, SOURCES, extents, source_extents)
    widened = OPS.grid_widen(positions, *widening)
    frame_valid = None if source_extents is None else source_extents[:, :1].contiguous()
    geometry = (mesh, positions, tiles)
    return {
        "lz_mesh": (saliency, 2.5, not inverse),
        "lz_mesh_backward": (torch.rand(2, 5, 4, 2, dtype=dtype).requires_grad_(), saliency, 2.5, not inverse),
        "mesh_positions": (mesh, *options, True, extents, source_extents),
        "mesh_positions_backward": (
            *(torch.rand_like(positions).requires_grad_(), *geometry, *options, extents, source_extents),
        ),
        "mesh_map": (mesh, points, inverse, homography),
        "mesh_map_backward": (
            *(torch.rand_like(mapped).requires_grad_(), mesh, points, mapped, at, inverse, homography),
        ),
        "mesh_sample": (maps(SOURCES), mesh, SIZES, inverse, homography, True, extents, source_extents),
        "grid_resample": (maps(SOURCES), windows, SIZES, source_extents),
        "grid_resample_adjoint": (maps(SIZES), windows, SOURCES, source_extents),
        "grid_windows_gradient": (maps(SIZES), maps(SOURCES), windows, source_extents),
        "grid_widen": (centres, *widening),
        "grid_widen_backward": (torch.rand_like(widened).requires_grad_(), centres, *widening),
        "grid_camera": (frame, first, SIZES[:2], [2.0, 1.0, 0.5], [0.1, 0.2, 0.3], dtype, frame_valid),
    }[name]


OP_NAMES = op_names("lz_mesh", "mesh_", "grid_")
OP_CASES = {
    "plain": {"inverse": True},
    "double": {"dtype": torch.float64, "last": True, "valid": True, "antialias": True, "homography": True},
    "shared": {"shared": True, "antialias": True, "inverse": True, "homography": True},
    "shared valid": {"shared": True, "valid": True, "last": True},
}

op_cases = pytest.mark.parametrize("case", OP_CASES)
ops = pytest.mark.parametrize("name", OP_NAMES)


@op_cases
@ops
def test_opcheck(name, case):
    torch.library.opcheck(getattr(OPS, name).default, op_arguments(name, **OP_CASES[case]))


def as_a_list(results) -> list[torch.Tensor]:
    return [results] if isinstance(results, torch.Tensor) else list(results)


@pytest.mark.parametrize("strange", [None, "steps", "transposed"])
@op_cases
@ops
def test_fakes_have_the_strides_of_the_real_results(name, case, strange):
    def laid_out(arg):
        plain = not isinstance(arg, torch.Tensor) or strange is None
        return arg if plain else strange_strides(arg)[strange]

    arguments = [
        [laid_out(a) for a in arg] if isinstance(arg, list) else laid_out(arg)
        for arg in op_arguments(name, **OP_CASES[case])
    ]
    op = getattr(OPS, name)
    with torch.no_grad():
        real = as_a_list(op(*arguments))
        with FakeTensorMode() as mode:
            fake = as_a_list(op(*pytree.tree_map_only(torch.Tensor, mode.from_tensor, arguments)))
    assert [(r.shape, r.dtype, r.stride()) for r in real] == [(f.shape, f.dtype, f.stride()) for f in fake]


@op_cases
@ops
def test_results_are_no_views(name, case):
    arguments = op_arguments(name, **OP_CASES[case])
    results = as_a_list(getattr(OPS, name)(*arguments))
    storages = [t.untyped_storage().data_ptr() for t in (*results, *tensors(arguments)) if t.numel()]
    assert len({*storages}) == len(storages)


@op_cases
@ops
def test_vmap_of_an_op_equals_a_loop(name, case):
    """The first argument mapped alone, and everything mapped, each along a dimension that is not always the first."""
    count = 3
    examples = [op_arguments(name, **OP_CASES[case]) for _ in range(count)]
    op = getattr(OPS, name)
    flat = [pytree.tree_flatten(example) for example in examples]
    spec, leaves = flat[0][1], list(zip(*(f[0] for f in flat), strict=True))
    dims = [1 if i % 2 and isinstance(leaf[0], torch.Tensor) else 0 for i, leaf in enumerate(leaves)]
    dims = [d if isinstance(leaf[0], torch.Tensor) else None for d, leaf in zip(dims, leaves, strict=True)]
    single = [d if i == 0 else None for i, d in enumerate(dims)]
    for mapped in (single, dims):
        stacked = [
            leaf[0] if d is None else torch.stack([v.detach() for v in leaf], d)
            for leaf, d in zip(leaves, mapped, strict=True)
        ]
        in_dims = pytree.tree_unflatten(mapped, spec)
        got = torch.vmap(op, in_dims=tuple(in_dims))(*pytree.tree_unflatten(stacked, spec))
        rows = []
        for k in range(count):
            row = [leaf[0] if d is None else leaf[k] for leaf, d in zip(leaves, mapped, strict=True)]
            rows.append(as_a_list(op(*pytree.tree_unflatten(row, spec))))
        expected = [torch.stack(column).detach() for column in zip(*rows, strict=True)]
        assert_near([g.detach() for g in as_a_list(got)], expected, f"in_dims={in_dims}")


# --- every function of the library, as one table ----------------------------------------------------------------------


def points_of(image: torch.Tensor) -> torch.Tensor:
    return image[:, 0, :, :2] * 50


CALLS = {
    "lz_mesh": (lambda s: F.lz_mesh(s, 5.0), "saliency"),
    "lz_mesh cropping": (lambda s: F.lz_mesh(s, 5.0, False), "saliency"),
    "mesh_zoom": (lambda i, m: F.mesh_zoom(i, m, (70, 140)), "image mesh"),
    "mesh_zoom antialias": (lambda i, m: F.mesh_zoom(i, m, (40, 61), antialias=True), "image mesh"),
    "mesh_zoom shared": (lambda i, m: F.mesh_zoom(i, m[:1], (70, 140), tile="homography"), "image mesh"),
    "mesh_unzoom": (lambda i, m: F.mesh_unzoom([i, i[:, :3, ::2, ::2]], m), "image mesh"),
    "mesh_unzoom homography": (
        lambda i, m: F.mesh_unzoom(i, m, (70, 90), tile="homography", padding_mode="border"),
        "image mesh",
    ),
    "mesh_unzoom antialias": (
        lambda i, m: F.mesh_unzoom(i, m, (61, 40), antialias=True, padding_mode="border"),
        "image mesh",
    ),
    "mesh_unzoom valid": (
        lambda i, m, v: F.mesh_unzoom({"p3": i}, m, valid={"p3": v}, source_valid={"p3": v.flip(0)}),
        "image mesh valid",
    ),
    "mesh_zoom_frame": (
        lambda f, m: F.mesh_zoom_frame(f, m, (60, 64), mean=(1, 2, 3), std=(4, 5, 6)),
        "frame mesh",
    ),
    "mesh_zoom_frame antialias": (
        lambda f, m: F.mesh_zoom_frame(f, m, (30, 32), std=(4, 5, 6), antialias=True),
        "frame mesh",
    ),
    "mesh_grid": (lambda m: F.mesh_grid(m, (9, 11)), "mesh"),
    "mesh_grid inverse": (lambda m: F.mesh_grid(m, (90, 110), inverse=True), "mesh"),
    "mesh_inside": (lambda m: F.mesh_inside(m, (9, 11)), "mesh"),
    "mesh_magnification": (lambda m: F.mesh_magnification(m, (9, 11)), "mesh"),
    "mesh_map": (lambda m, p: F.mesh_map(m, p, tile="homography"), "mesh positions"),
    "mesh_map inverse": (lambda m, p: F.mesh_map(m, p, inverse=True), "mesh positions"),
    "mesh_map_points": (
        lambda i, m: F.mesh_map_points(points_of(i), m, (90, 80), (50, 60), inverse=True),
        "image mesh",
    ),
}

calls = pytest.mark.parametrize("name", CALLS)


def call_inputs(names: str, dtype=torch.float32) -> list[torch.Tensor]:
    """Inputs of a call, large enough for four threads."""
    made = {
        "saliency": torch.rand(2, 6, 8, dtype=dtype) + 0.1,
        "mesh": random_mesh(2, (6, 8), dtype, CROPPING),
        "positions": torch.rand(2, 9, 2, dtype=dtype) * 1.2 - 0.1,
        "image": torch.rand(2, 8, 131, 127, dtype=dtype),
        "frame": torch.randint(0, 256, (2, 210, 220, 3), dtype=torch.uint8),
        "valid": torch.tensor([[100, 127], [131, 80]]),
    }
    return [made[name].requires_grad_(made[name].is_floating_point()) for name in names.split()]


def test_every_public_function_is_in_the_table():
    about_meshes = {name for name in F.__all__ if "mesh" in name.lower()} - {"MeshReport", "mesh_report"}
    assert about_meshes == {name.split()[0] for name in CALLS}


@calls
def test_repeatable_with_any_number_of_threads(name):
    function, names = CALLS[name]
    inputs = call_inputs(names)
    torch.set_num_threads(1)
    expected = forward_backward(function, inputs)
    assert all(torch.isfinite(t).all() for t in expected)
    if name != "mesh_inside":  # else the gradients compared below would be none at all
        assert len(expected) > sum(i.requires_grad for i in inputs)
        assert all(g.any() for g in expected[-sum(i.requires_grad for i in inputs) :])
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        assert_bitwise(forward_backward(function, inputs), expected, f"{threads} threads,")
    torch.use_deterministic_algorithms(True)
    try:
        assert_bitwise(forward_backward(function, inputs), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@calls
def test_inputs_are_not_modified_and_autocast_changes_nothing(name):
    function, names = CALLS[name]
    inputs = call_inputs(names)
    copies, versions = [i.detach().clone() for i in inputs], [i._version for i in inputs]
    expected = forward_backward(function, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_bitwise(forward_backward(function, inputs), expected)
    assert_bitwise([i.detach() for i in inputs], copies)
    assert [i._version for i in inputs] == versions


@calls
def test_results_allocated_full_of_nan_are_overwritten(name, monkeypatch):
    function, names = CALLS[name]
    inputs = call_inputs(names)
    expected = forward_backward(function, inputs)
    empty, new_empty, empty_like = torch.empty, torch.Tensor.new_empty, torch.empty_like
    poisoned = []

    def count(tensor):
        poisoned.append(tensor.numel())
        return poison(tensor)

    monkeypatch.setattr(torch, "empty", lambda *a, **k: count(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: count(empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: count(new_empty(*a, **k)))
    assert_bitwise(forward_backward(function, inputs), expected)
    assert sum(poisoned) > 0


@pytest.mark.parametrize("layout", ["slice", "steps", "transposed", "batch last", "channels_last"])
@calls
def test_any_strides(name, layout):
    function, names = CALLS[name]
    inputs = call_inputs(names, torch.float64)  # the order of summation may differ
    expected = forward_backward(function, inputs)
    strange = []
    for i in inputs:
        layouts = strange_strides(i)
        strange.append(layouts.get(layout, layouts["slice"]).requires_grad_(i.requires_grad))
    assert_near(forward_backward(function, strange), expected)


@pytest.mark.parametrize("antialias", [False, True])
def test_memory_format_is_kept(antialias):
    warp = MeshWarp(random_mesh())
    image = torch.rand(2, 5, 9, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    plain = image.detach().contiguous().requires_grad_()
    out, expected = warp.zoom(image, (7, 6), antialias=antialias), warp.zoom(plain, (7, 6), antialias=antialias)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert expected.is_contiguous()
    torch.testing.assert_close(out, expected)
    (grad,) = torch.autograd.grad(out.square().sum(), image)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), plain)
    assert grad.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(grad, expected_grad)
    for level in warp.unzoom([image, image[:, :, ::2]], antialias=antialias):
        assert level.is_contiguous(memory_format=torch.channels_last)


# --- sizes at their limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 3, 6, 5), (2, 0, 6, 5), (0, 0, 6, 5)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_nothing_to_do(shape, shared, antialias):
    mesh = random_mesh(1 if shared else shape[0]).requires_grad_()
    warp, image = MeshWarp(mesh), torch.rand(shape).requires_grad_()
    small = warp.zoom(image, (3, 4), antialias=antialias)
    back = warp.unzoom([small, small.clone()], [(6, 5), (2, 2)], antialias=antialias)
    assert small.shape == (*shape[:2], 3, 4)
    assert [b.shape for b in back] == [(*shape[:2], 6, 5), (*shape[:2], 2, 2)]
    grads = torch.autograd.grad([b.sum() for b in back], [image, mesh])
    assert [g.shape for g in grads] == [image.shape, mesh.shape]
    assert not any(g.any() for g in grads)


def test_empty_batch_of_everything_else():
    warp = MeshWarp.from_saliency(torch.rand(0, 4, 5))
    assert warp.mesh.shape == (0, 4, 5, 2)
    assert MeshWarp(random_mesh(1)).zoom_boxes(torch.rand(0, 4), (5, 5), (3, 3)).shape == (0, 4)
    assert MeshWarp(random_mesh(1)).zoom_corners(torch.rand(0, 4), (5, 5), (3, 3)).shape == (0, 4, 2)
    assert warp.grid((3, 4)).shape == (0, 3, 4, 2)
    assert warp.inside((3, 4)).shape == (0, 3, 4)
    assert warp.magnification((3, 4)).shape == (0, 3, 4)
    assert warp.zoom_frame(torch.zeros(0, 6, 6, 3, dtype=torch.uint8), (2, 2)).shape == (0, 3, 2, 2)
    assert warp.zoom_points(torch.rand(0, 3, 2), (5, 5), (3, 3)).shape == (0, 3, 2)
    assert warp.report().ok


# --- gradients --------------------------------------------------------------------------------------------------------


def leaf(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64).requires_grad_()


def inner_mesh(batch: int = 2) -> torch.Tensor:
    """Inside (0, 1): at 0 and 1 a clamp has a kink."""
    return random_mesh(batch, (3, 4), torch.float64, CROPPING).requires_grad_()


VALID, SOURCE_VALID = torch.tensor([[4, 3], [3, 4]]), torch.tensor([[5, 6], [4, 3]])

DIFFERENTIABLE = {
    "zoom": (lambda i, m, t: F.mesh_zoom(i, m, (4, 5), tile=t), 2),
    "zoom shared antialias": (lambda i, m, t: F.mesh_zoom(i, m, (3, 4), tile=t, antialias=True), 1),
    "zoom valid": (
        lambda i, m, t: F.mesh_zoom(i, m, (4, 5), tile=t, valid=VALID, source_valid=SOURCE_VALID),
        2,
    ),
    "unzoom": (lambda i, m, t: F.mesh_unzoom([i, i[:, :, :4]], m, [(5, 4), (3, 3)], tile=t), 2),
    "unzoom shared": (lambda i, m, t: F.mesh_unzoom(i, m, (5, 4), tile=t), 1),
    "unzoom antialias": (lambda i, m, t: F.mesh_unzoom(i, m, (3, 4), tile=t, antialias=True), 2),
    "unzoom antialias valid": (
        lambda i, m, t: F.mesh_unzoom(*(i, m, (4, 5)), tile=t, antialias=True, valid=VALID, source_valid=SOURCE_VALID),
        1,
    ),
}

tiles = pytest.mark.parametrize("tile", ["bilinear", "homography"])


@tiles
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_of_resampling(name, tile):
    function, batch = DIFFERENTIABLE[name]
    inputs = (leaf(2, 1, 5, 6), inner_mesh(batch))
    assert torch.autograd.gradcheck(lambda i, m: function(i, m, tile), inputs)
    assert torch.autograd.gradgradcheck(lambda i, m: function(i, m, tile), inputs, fast_mode=True)


@tiles
@pytest.mark.parametrize("size", [(1, 5), (6, 1), (1, 1)])
@pytest.mark.parametrize("extents", [None, [[1, 5], [6, 1]]])
def test_gradients_of_sources_with_one_row_or_column(size, tile, extents):
    """Their windows are 0 on that axis, which does not tell where in its tile a target is."""
    source_valid = None if extents is None else torch.tensor(extents)
    inputs = (inner_mesh(1), leaf(2, 2, *size))

    def unzoom(mesh, image):
        return F.mesh_unzoom(image, mesh, (5, 7), tile=tile, source_valid=source_valid)

    assert torch.autograd.gradcheck(unzoom, inputs)
    assert torch.autograd.gradgradcheck(unzoom, inputs, fast_mode=True)


@tiles
def test_gradients_of_filled_targets(tile):
    """What is outside has a gradient to the features that it reads, and none to the mesh."""
    image, mesh = leaf(2, 2, 5, 6), inner_mesh()

    def unzoom(image, mesh, padding_mode="border"):
        return F.mesh_unzoom(image, mesh, (7, 6), tile=tile, padding_mode=padding_mode)

    assert not F.mesh_inside(mesh, (7, 6)).all()
    assert torch.autograd.gradcheck(unzoom, (image, mesh.detach()))
    weight = torch.rand(2, 2, 7, 6, dtype=torch.float64)
    (grad,), (expected,) = (
        torch.autograd.grad((unzoom(image, mesh, padding_mode) * weight).sum(), mesh)
        for padding_mode in ("border", "zeros")
    )
    assert_bitwise([grad], [expected])


@tiles
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_of_points(inverse, batch, tile):
    points = (torch.rand(2, 7, 2, dtype=torch.float64) * 1.4 - 0.2).requires_grad_()  # past the outline, too
    mesh = inner_mesh(batch)
    function = lambda m, p: F.mesh_map(m, p, inverse=inverse, tile=tile)  # noqa: E731
    assert torch.isfinite(function(mesh, points)).all()
    assert torch.autograd.gradcheck(function, (mesh, points))
    assert torch.autograd.gradgradcheck(function, (mesh, points))
    pixels = (torch.rand(2, 5, 2, dtype=torch.float64) * 9).requires_grad_()
    function = lambda p, m: F.mesh_map_points(p, m, (9, 8), (5, 4), inverse=inverse, tile=tile)  # noqa: E731
    assert torch.autograd.gradcheck(function, (pixels, mesh))


@tiles
def test_gradients_of_grid_magnification_and_camera(tile):
    mesh = inner_mesh()
    frame = torch.randint(0, 256, (2, 6, 7, 3), dtype=torch.uint8)
    options = {"mean": (1, 2, 3), "std": (40, 50, 60), "dtype": torch.float64, "tile": tile}
    for function in (
        lambda m: F.mesh_grid(m, (4, 3), tile=tile),
        lambda m: F.mesh_grid(m, (4, 5), inverse=True, tile=tile),
        lambda m: F.mesh_magnification(m, (4, 5), tile=tile),
        lambda m: F.mesh_zoom_frame(frame, m, (3, 4), **options),
        lambda m: F.mesh_zoom_frame(frame, m, (3, 4), antialias=True, **options),
    ):
        assert torch.autograd.gradcheck(function, mesh)
        assert torch.autograd.gradgradcheck(function, mesh, fast_mode=True)


@pytest.mark.parametrize("anti_crop", [False, True])
def test_gradients_of_the_lz_mesh(anti_crop):
    saliency = (torch.rand(2, 4, 6, dtype=torch.float64) + 0.3).requires_grad_()

    def mesh(s):
        return F.lz_mesh(s, 2.5, anti_crop)[:, 1:-1, 1:-1]  # of an anti-crop warp's outline some is constant

    assert torch.autograd.gradcheck(mesh, saliency)
    assert torch.autograd.gradgradcheck(mesh, saliency)
    if not anti_crop:
        assert torch.autograd.gradcheck(lambda s: F.lz_mesh(s, 2.5, False), saliency)


@tiles
def test_gradients_from_saliency_to_loss(tile):
    """The whole chain: saliency -> mesh -> zoom -> network -> unzoom, at an anti-crop warp's exact outline, too."""
    saliency = (torch.rand(1, 4, 5, dtype=torch.float64) + 0.3).requires_grad_()
    weight = torch.randn(2, 2, 3, 3, dtype=torch.float64)

    def network(s, image):
        warp = MeshWarp.from_saliency(s, 3.0, tile=tile)
        features = TF.conv2d(warp.zoom(image, (4, 5)), weight, padding=1)
        return warp.unzoom({"a": features, "b": features[:, :, ::2, ::2]}, {"a": (5, 6), "b": (3, 4)})["b"]

    inputs = (saliency, leaf(2, 2, 5, 6))
    assert torch.autograd.gradcheck(network, inputs)
    assert torch.autograd.gradgradcheck(network, inputs, fast_mode=True)


@tiles
@pytest.mark.parametrize("anti_crop", [False, True])
@pytest.mark.parametrize("antialias", [False, True])
def test_gradients_are_finite_at_every_level_size(anti_crop, antialias, tile):
    saliency = (torch.rand(2, 31, 51) ** 8).requires_grad_()
    warp = MeshWarp.from_saliency(saliency, 13.0, anti_crop, tile=tile)
    image = torch.rand(2, 2, 40, 64).requires_grad_()
    sizes = [(10, 16), (5, 8), (3, 4), (1, 2), (1, 1)]
    small = warp.zoom(image, (20, 32), antialias=antialias)
    levels = [TF.adaptive_avg_pool2d(small, size) for size in sizes]
    for grow in (None, [(1, 1)] * 5, [(2 * h, 3 * w) for h, w in sizes]):
        out = warp.unzoom(levels, grow, antialias=antialias)
        loss = sum(level.square().sum() for level in out)
        grads = torch.autograd.grad(loss, [saliency, image], retain_graph=True)
        assert all(torch.isfinite(t).all() for t in (*out, *grads))
        assert all(g.any() for g in grads)
    for size in sizes:  # and from each alone
        feature = torch.rand(2, 2, *size).requires_grad_()
        out = warp.unzoom(feature, (5, 8), padding_mode="border", antialias=antialias)
        grads = torch.autograd.grad(out.square().sum(), [saliency, feature], retain_graph=True)
        assert all(torch.isfinite(g).all() for g in grads)
        assert grads[1].any()
        assert grads[0].any() == (size != (1, 1))


def test_no_gradient_is_computed_for_what_needs_none():
    image, mesh = torch.rand(1, 1, 6, 6), random_mesh(1)
    F.mesh_zoom(image, mesh.requires_grad_(), (3, 3)).sum().backward()
    assert image.grad is None
    assert mesh.grad is not None
    feature = image.clone().requires_grad_()
    F.mesh_unzoom(feature, mesh.detach()).sum().backward()
    assert feature.grad.any()
    with torch.no_grad():
        assert not F.mesh_zoom(image, mesh, (3, 3)).requires_grad
    assert not F.mesh_zoom(image.byte(), mesh, (3, 3)).requires_grad


@tiles
def test_a_loss_through_unzoom_trains_a_saliency(tile):
    """The saliency finds the warp that another one makes, from the unzoomed maps alone."""
    target = torch.full((1, 6, 7), 0.1)
    target[0, 1:3, 4:6] = 1
    y, x = torch.linspace(0, 1, 12)[:, None], torch.linspace(0, 1, 14)[None, :]
    levels = [torch.stack([y.expand(12, 14), x.expand(12, 14), y * x])[None]]
    levels.append(TF.avg_pool2d(levels[0], 2))
    expected = MeshWarp.from_saliency(target, 3.0, tile=tile).unzoom(levels)
    saliency = torch.full((1, 6, 7), 0.5, requires_grad=True)
    optimiser = torch.optim.Adam([saliency], lr=0.05)
    losses = []
    for _ in range(40):
        got = MeshWarp.from_saliency(saliency, 3.0, tile=tile).unzoom(levels)
        loss = sum((a - b).square().mean() for a, b in zip(got, expected, strict=True))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[20] < losses[10] < losses[0]
    assert losses[-1] < 0.3 * losses[0]


# --- transforms -------------------------------------------------------------------------------------------------------


def adaptive_pyramid(saliency, image):
    warp = MeshWarp.from_saliency(saliency, 5.0)
    small = warp.zoom(image, (image.shape[2] // 2, image.shape[3] // 2))
    maps = warp.unzoom([small, TF.avg_pool2d(small, 2)], antialias=True)
    points = warp.zoom_points(image[:, 0, :4, :2] * 9, (16, 20), (8, 10))
    boxes = warp.unzoom_boxes(image[:, 0, :3, :4].cumsum(2), (16, 20), (8, 10))
    return warp, points, boxes, warp.magnification((4, 5)), *maps, warp.unzoom(small)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_path_equals_eager(dynamic):
    torch.compiler.reset()
    compiled = torch.compile(adaptive_pyramid, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for height, width in ((24, 32), (40, 28)) if dynamic else ((24, 32),):
        inputs = [torch.rand(2, 5, 7).requires_grad_(), torch.rand(2, 3, height, width).requires_grad_()]
        assert isinstance(compiled(*inputs)[0], MeshWarp)
        assert_near(forward_backward(compiled, inputs), forward_backward(adaptive_pyramid, inputs))


class Perception(torch.nn.Module):
    def __init__(self):
        super().__init__()
        options = {"saliency": torch.rand(1, 5, 7), "kind": "mesh"}
        self.zoom, self.unzoom = Zoom((12, 16), **options), Unzoom(antialias=True, **options)
        self.net = torch.nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, image):
        features = self.net(self.zoom(image))
        return self.unzoom({"p3": features, "p4": features[:, :, ::2, ::2]})


def test_export_saves_and_loads():
    network = Perception().eval()
    program = torch.export.export(network, (torch.rand(2, 3, 24, 32),))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    image = torch.rand(2, 3, 24, 32)
    assert_bitwise(tensors(loaded(image)), tensors(network(image)))


def test_autocast_network_keeps_geometry_in_fp32():
    network, image = torch.nn.Conv2d(3, 1, 3, padding=1), torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        saliency = network(image)[:, 0, ::4, ::4].exp()
        assert saliency.dtype == torch.bfloat16
        warp = MeshWarp.from_saliency(saliency)
        features = network(warp.zoom(image, (8, 8)))
        back = warp.unzoom(features)
    assert warp.mesh.dtype == torch.float32
    assert features.dtype == back.dtype == torch.bfloat16
    assert_bitwise([warp.mesh], [MeshWarp.from_saliency(saliency.float()).mesh])
    assert_bitwise([back], [warp.unzoom(features)])
    back.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in network.parameters())


def test_vmap_of_functions_equals_a_loop():
    saliency, image = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 1, 8, 9)
    points, frame = torch.rand(3, 2, 6, 2) * 8, torch.randint(0, 256, (3, 2, 8, 9, 3), dtype=torch.uint8)

    def adaptive(s, i, p, f):
        warp = MeshWarp.from_saliency(s, 3.0)
        small = warp.zoom(i, (4, 5), antialias=True)
        there = warp.zoom_points(p, (8, 9), (4, 5)), warp.zoom_boxes(p.flatten(1).unflatten(1, (3, 4)), (8, 9), (4, 5))
        frames = warp.zoom_frame(f, (3, 3)), warp.zoom_frame(f, (3, 3), antialias=True)
        maps = warp.unzoom([small, small[:, :, ::2]], antialias=True), warp.unzoom(small, padding_mode="border")
        return *there, *frames, *maps, warp.inverse_grid((5, 4)), warp.magnification((5, 4))

    inputs = (saliency, image, points, frame)
    for dims in ((0, 0, 0, 0), (0, None, None, 0), (None, 0, 0, None)):
        given = [i if d == 0 else i[0] for i, d in zip(inputs, dims, strict=True)]
        got = tensors(torch.vmap(adaptive, in_dims=dims)(*given))
        picked = [[i[k] if d == 0 else i[0] for i, d in zip(inputs, dims, strict=True)] for k in range(3)]
        rows = [tensors(adaptive(*row)) for row in picked]
        assert_near(got, [torch.stack(column) for column in zip(*rows, strict=True)], f"in_dims={dims}")


def test_vmap_maps_warps():
    saliency, image = torch.rand(3, 2, 4, 5), torch.rand(3, 2, 1, 8, 9)
    warps = MeshWarp.from_saliency(saliency.flatten(0, 1), tile="homography")
    stacked = pytree.tree_map(lambda m: m.unflatten(0, (3, 2)), warps)
    got = torch.vmap(lambda w, i: w.zoom(i, (4, 5)))(stacked, image)
    assert_near([got.flatten(0, 1)], [warps.zoom(image.flatten(0, 1), (4, 5))])
    got = torch.vmap(MeshWarp.from_saliency)(saliency)
    assert_near([got.mesh.flatten(0, 1)], [warps.mesh])


def test_batched_cotangents_equal_a_loop():
    """The vector-Jacobian products of several vectors at once, torch.vmap over torch.autograd.grad."""
    image, mesh = torch.rand(2, 2, 6, 7), random_mesh(2, ends=CROPPING)
    frame = torch.randint(0, 256, (2, 6, 7, 3), dtype=torch.uint8)
    for function, inputs in (
        (lambda *a: F.mesh_zoom(*a, (5, 6)), [image, mesh]),
        (lambda *a: F.mesh_unzoom(*a, tile="homography", valid=VALID), [image, mesh]),
        (lambda m: F.mesh_unzoom(image, m, (5, 6), antialias=True), [mesh[:1]]),
        (lambda m: F.mesh_zoom_frame(frame, m, (3, 4)), [mesh]),
        (lambda m, p: F.mesh_map(m, p, inverse=True), [mesh, torch.rand(1, 9, 2)]),
        (lambda s: F.lz_mesh(s), [torch.rand(2, 4, 5) + 0.1]),
    ):
        leaves = [i.clone().requires_grad_() for i in inputs]
        out = function(*leaves)
        cotangents = torch.rand(4, *out.shape)

        def product(cotangent, out=out, leaves=leaves):
            return torch.autograd.grad(out, leaves, cotangent, retain_graph=True)

        rows = [product(c) for c in cotangents]
        assert_near(torch.vmap(product)(cotangents), [torch.stack(column) for column in zip(*rows, strict=True)])
