"""What every public function keeps: any number of threads, any strides and autocast change no bit, inputs stay as they
are, and every element of a result is written."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from helpers import (
    assert_bitwise,
    assert_near,
    forward_backward,
    poison,
    random_knots,
    random_mesh,
    run_python,
    strange_strides,
)

from fastwarp import functional as F


def points_of(image: torch.Tensor) -> torch.Tensor:
    return image[:, 0, :, :2] * 50


CALLS = {
    "lz_knots": (lambda s: F.lz_knots(s, 5.0), "saliency"),
    "lz_knots cropping": (lambda s: F.lz_knots(s, 5.0, False), "saliency"),
    "lz_knots_from_marginals": (lambda y, x: F.lz_knots_from_marginals(y, x, 5.0), "knots_y knots_x"),
    "cdf_knots": (lambda y: F.cdf_knots(y, 9), "knots_y"),
    "axis_map": (F.axis_map, "knots_y positions"),
    "axis_map inverse": (lambda k, p: F.axis_map(k, p, inverse=True), "knots_y positions"),
    "separable_windows": (
        lambda y, x: F.separable_windows(y, x, [(130, 131)], [(90, 80)], antialias=True),
        "knots_y knots_x",
    ),
    "separable_zoom": (lambda i, y, x: F.separable_zoom(i, y, x, (70, 140)), "image knots_y knots_x"),
    "separable_zoom antialias": (
        lambda i, y, x: F.separable_zoom(i, y, x, (40, 61), antialias=True),
        "image knots_y knots_x",
    ),
    "separable_zoom shared": (lambda i, y, x: F.separable_zoom(i, y[:1], x[:1], (70, 140)), "image knots_y knots_x"),
    "separable_unzoom": (
        lambda i, y, x: F.separable_unzoom([i, i[:, :3, ::2, ::2]], y, x),
        "image knots_y knots_x",
    ),
    "separable_unzoom antialias": (
        lambda i, y, x: F.separable_unzoom(i, y, x, (61, 40), antialias=True, padding_mode="border"),
        "image knots_y knots_x",
    ),
    "separable_unzoom valid": (
        lambda i, y, x, v: F.separable_unzoom({"p3": i}, y, x, valid={"p3": v}, source_valid={"p3": v.flip(0)}),
        "image knots_y knots_x valid",
    ),
    "separable_zoom_frame": (
        lambda f, y, x: F.separable_zoom_frame(f, y, x, (60, 64), mean=(1, 2, 3), std=(4, 5, 6)),
        "frame knots_y knots_x",
    ),
    "separable_zoom_frame antialias": (
        lambda f, y, x: F.separable_zoom_frame(f, y, x, (30, 32), std=(4, 5, 6), antialias=True),
        "frame knots_y knots_x",
    ),
    "separable_grid": (lambda y, x: F.separable_grid(y, x, (9, 11)), "knots_y knots_x"),
    "separable_grid inverse": (lambda y, x: F.separable_grid(y, x, (9, 11), inverse=True), "knots_y knots_x"),
    "separable_inside": (lambda y, x: F.separable_inside(y, x, (9, 11)), "knots_y knots_x"),
    "separable_magnification": (lambda y, x: F.separable_magnification(y, x, (9, 11)), "knots_y knots_x"),
    "separable_map_points": (
        lambda i, y, x: F.separable_map_points(points_of(i), y, x, (90, 80), (50, 60), inverse=True),
        "image knots_y knots_x",
    ),
    "separable_zoom_labels": (lambda c, y, x: F.separable_zoom_labels(c, y, x, (70, 140)), "labels knots_y knots_x"),
    "separable_zoom_labels majority": (
        lambda c, y, x: F.separable_zoom_labels(c, y, x, (30, 31), reduce="majority"),
        "labels knots_y knots_x",
    ),
    "separable_unzoom_labels": (lambda c, y, x: F.separable_unzoom_labels(c, y, x, (70, 90)), "labels knots_y knots_x"),
    "separable_zoom_soft_labels": (
        lambda i, y, x: F.separable_zoom_soft_labels(i, y, x, (40, 61)),
        "image knots_y knots_x",
    ),
    "separable_unzoom_labels registered": (
        lambda c, y, x, v: F.separable_unzoom_labels(c, y, x, image_size=(262, 254), valid=v),
        "labels knots_y knots_x valid",
    ),
    "separable_unzoom_soft_labels": (
        lambda i, y, x, v: F.separable_unzoom_soft_labels(i, y, x, (61, 40), source_valid=v),
        "image knots_y knots_x valid",
    ),
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
    "mesh_zoom_labels": (lambda c, m: F.mesh_zoom_labels(c, m, (30, 31), reduce="majority"), "labels mesh"),
    "mesh_unzoom_labels": (lambda c, m: F.mesh_unzoom_labels(c, m, (70, 90)), "labels mesh"),
    "mesh_zoom_soft_labels": (lambda i, m: F.mesh_zoom_soft_labels(i, m, (40, 61)), "image mesh"),
    "mesh_unzoom_soft_labels": (
        lambda i, m, v: F.mesh_unzoom_soft_labels(i, m, image_size=(262, 254), valid=v),
        "image mesh valid",
    ),
    "box_density": (lambda b: F.box_density(b, (131, 127)), "boxes"),
    "box_knots": (lambda b: torch.cat(F.box_knots(b, (131, 127)), 1), "boxes"),
    "mesh_grid": (lambda m: F.mesh_grid(m, (9, 11)), "mesh"),
    "mesh_grid inverse": (lambda m: F.mesh_grid(m, (90, 110), inverse=True), "mesh"),
    "mesh_inside": (lambda m: F.mesh_inside(m, (9, 11)), "mesh"),
    "mesh_magnification": (lambda m: F.mesh_magnification(m, (9, 11)), "mesh"),
    "mesh_map": (lambda m, p: F.mesh_map(m, p, tile="homography"), "mesh places"),
    "mesh_map inverse": (lambda m, p: F.mesh_map(m, p, inverse=True), "mesh places"),
    "mesh_map_points": (
        lambda i, m: F.mesh_map_points(points_of(i), m, (90, 80), (50, 60), inverse=True),
        "image mesh",
    ),
}

NOT_DIFFERENTIABLE = ("separable_inside", "separable_magnification", "mesh_inside")
NOT_DIFFERENTIABLE += tuple(name for name in CALLS if "labels" in name and "soft" not in name)

calls = pytest.mark.parametrize("name", CALLS)


def call_inputs(names: str, dtype=torch.float32) -> list[torch.Tensor]:
    """Inputs of a call, large enough for four threads."""
    made = {
        "saliency": torch.rand(2, 6, 8, dtype=dtype) + 0.1,
        "knots_y": random_knots(2, 6, dtype, (0.02, 0.95)),
        "knots_x": random_knots(2, 8, dtype, (0.04, 0.98)),
        "mesh": random_mesh(2, (6, 8), dtype, (0.073, 0.931)),
        "positions": torch.rand(2, 9, dtype=dtype) * 1.2 - 0.1,
        "places": torch.rand(2, 9, 2, dtype=dtype) * 1.2 - 0.1,
        "image": torch.rand(2, 8, 131, 127, dtype=dtype),
        "frame": torch.randint(0, 256, (2, 210, 220, 3), dtype=torch.uint8),
        "boxes": (torch.rand(2, 5, 4, dtype=dtype) * 30).cumsum(-1),
        "labels": torch.randint(0, 9, (2, 131, 127), dtype=torch.uint8),
        "valid": torch.tensor([[100, 127], [131, 80]]),
    }
    return [made[name].requires_grad_(made[name].is_floating_point()) for name in names.split()]


def test_every_public_function_is_in_the_table():
    elsewhere = {"MeshReport", "mesh_report", "downsize", "downsize_boxes", "relative_distance"}
    elsewhere |= {"limited_knots", "offset_mesh", "function_mesh", "control_point_mesh"}  # torch's own operators
    assert set(F.__all__) - elsewhere == {name.split()[0] for name in CALLS}


@calls
def test_repeatable_with_any_number_of_threads(name):
    function, names = CALLS[name]
    inputs = call_inputs(names)
    torch.set_num_threads(1)
    expected = forward_backward(function, inputs)
    assert all(torch.isfinite(t).all() for t in expected)
    if name not in NOT_DIFFERENTIABLE:  # else the gradients compared below would be none at all
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
    empty, new_empty, empty_like, array = torch.empty, torch.Tensor.new_empty, torch.empty_like, np.empty
    poisoned = []

    def count(tensor):
        poisoned.append(tensor.numel())
        return poison(tensor)

    monkeypatch.setattr(torch, "empty", lambda *a, **k: count(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: count(empty_like(*a, **k)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: count(new_empty(*a, **k)))
    monkeypatch.setattr(np, "empty", lambda *a, **k: count(torch.from_numpy(array(*a, **k))).numpy())
    assert_bitwise(forward_backward(function, inputs), expected)
    assert sum(poisoned) > 0


PERTURBED = """
import sys, torch
import test_function_contracts
from helpers import forward_backward
torch.manual_seed(0)
results = {}
for name, (function, names) in test_function_contracts.CALLS.items():
    results[name] = forward_backward(function, test_function_contracts.call_inputs(names))
torch.save(results, sys.argv[1])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tells glibc to fill what it allocates")
def test_scratch_memory_is_written_before_it_is_read(tmp_path):
    # Scratch arrays inside the kernels cannot be replaced from here, but malloc can be told to fill them: with 0xFE,
    # which makes floats of -1.7e38.
    results = []
    for i, environment in enumerate(({}, {"MALLOC_PERTURB_": "1", "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"})):
        path = tmp_path / f"{i}.pt"
        run_python(PERTURBED.replace("sys.argv[1]", repr(str(path))), **environment)
        results.append(torch.load(path))
    for name, expected in results[0].items():
        assert_bitwise(results[1][name], expected, name)


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
