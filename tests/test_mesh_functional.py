"""Bad input to every public function and method of meshes: what is raised names function, argument, what was got and
expected; nothing is written to, and everything still works afterwards."""

from __future__ import annotations

import inspect
import os

import pytest
import torch
from helpers import run_python

import fastwarp
from fastwarp import FastwarpError, MeshWarp, SeparableWarp, nn
from fastwarp import functional as F

nan = float("nan")
# The names that the calls below are made of.
K = torch.linspace(0, 1, 5)[None]
MESH = MeshWarp.identity(1, (4, 5)).mesh
MESHES = MESH.repeat(3, 1, 1, 1)
NAN = MESH.clone()
NAN[0, 1, 2] = nan
MIRRORED = MESH.flip(2)
IMAGE = torch.rand(2, 3, 8, 9)
FRAME = torch.zeros(6, 7, 3, dtype=torch.uint8)
SALIENCY = torch.rand(1, 3, 4)
VALID = torch.tensor([[8, 9]])
POINTS = torch.rand(1, 4, 2)
BOXES = torch.rand(3, 4)
WARP = MeshWarp(MESH)
META = MESH.to("meta")

FUNCTIONS = [name for name in F.__all__ if "mesh" in name.lower()]

Value, Type = FastwarpError, TypeError


def mesh_rows(function: str, call: str) -> list[tuple[str, type, str]]:
    """What every function says of a bad mesh; `call` has {} in its place."""
    return [
        (call.format("3"), Type, f"{function}: mesh is int, expected a torch.Tensor [B, h, w, 2]"),
        (call.format("MESH[0]"), Value, f"{function}: mesh is of shape [4, 5, 2], expected 4 dimensions [B, h, w, 2]"),
        (call.format("MESH.half()"), Type, f"{function}: mesh has dtype float16, expected float32, float64"),
        (call.format("MESH.long()"), Type, f"{function}: mesh has dtype int64, expected float32, float64"),
        (
            call.format("MESH[:, :1]"),
            Value,
            f"{function}: mesh is of shape [1, 1, 5, 2], expected [B, h, w, 2], (x, y)",
        ),
        (call.format("MESH[:, :, :1]"), Value, f"{function}: mesh is of shape [1, 4, 1, 2], expected [B, h, w, 2]"),
        (call.format("MESH[..., :1]"), Value, f"{function}: mesh is of shape [1, 4, 5, 1], expected [B, h, w, 2]"),
    ]


def tile_rows(function: str, call: str) -> list[tuple[str, type, str]]:
    """What every function says of an unknown kind of tile; `call` has {} in its place."""
    return [
        (call.format("'quad'"), Value, f"{function}: tile is 'quad', expected 'bilinear' or 'homography'"),
        (call.format("None"), Value, f"{function}: tile is None, expected 'bilinear' or 'homography'"),
    ]


BAD = [
    # --- lz_mesh
    ("F.lz_mesh(3)", Type, "lz_mesh: saliency is int, expected a torch.Tensor [B, h, w]"),
    ("F.lz_mesh(SALIENCY[0])", Value, "lz_mesh: saliency is of shape [3, 4], expected 3 dimensions [B, h, w]"),
    ("F.lz_mesh(SALIENCY[:, :1])", Value, "lz_mesh: saliency is of shape [1, 1, 4], expected at least 2 x 2 cells"),
    ("F.lz_mesh(SALIENCY[:, :, :0])", Value, "lz_mesh: saliency is of shape [1, 3, 0], expected at least 2 x 2 cells"),
    ("F.lz_mesh(SALIENCY.int())", Type, "lz_mesh: saliency has dtype int32, expected a floating-point dtype"),
    ("F.lz_mesh(SALIENCY + 1j)", Type, "lz_mesh: saliency has dtype complex64, expected a floating-point dtype"),
    ("F.lz_mesh(SALIENCY, 0)", Value, "lz_mesh: fwhm is 0, expected a positive, finite number"),
    ("F.lz_mesh(SALIENCY, nan)", Value, "lz_mesh: fwhm is nan, expected a positive, finite number"),
    ("F.lz_mesh(SALIENCY, float('inf'))", Value, "lz_mesh: fwhm is inf, expected a positive, finite number"),
    ("F.lz_mesh(SALIENCY, '13')", Type, "lz_mesh: fwhm is str, expected a number"),
    ("F.lz_mesh(SALIENCY, True)", Type, "lz_mesh: fwhm is bool, expected a number"),
    # --- mesh_zoom
    *mesh_rows("mesh_zoom", "F.mesh_zoom(IMAGE, {}, (2, 2))"),
    *tile_rows("mesh_zoom", "F.mesh_zoom(IMAGE, MESH, (2, 2), tile={})"),
    ("F.mesh_zoom('i', MESH, (2, 2))", Type, "mesh_zoom: image is str, expected a torch.Tensor [B, C, H, W]"),
    ("F.mesh_zoom(IMAGE[0], MESH, (2, 2))", Value, "mesh_zoom: image is of shape [3, 8, 9], expected 4 dim"),
    ("F.mesh_zoom(IMAGE.int(), MESH, (2, 2))", Type, "mesh_zoom: image has dtype int32, expected uint8, float16"),
    ("F.mesh_zoom(IMAGE[:, :, :0], MESH, (2, 2))", Value, "mesh_zoom: image is of shape [2, 3, 0, 9], expected"),
    ("F.mesh_zoom(IMAGE, MESH, 2)", Type, "mesh_zoom: size is 2, expected two integers (height, width)"),
    ("F.mesh_zoom(IMAGE, MESH, (2, 2.0))", Type, "mesh_zoom: size is (2, 2.0), expected two integers"),
    ("F.mesh_zoom(IMAGE, MESH, (True, 2))", Type, "mesh_zoom: size is (True, 2), expected two integers"),
    ("F.mesh_zoom(IMAGE, MESH, (0, 2))", Value, "mesh_zoom: size is (0, 2), expected a height and a width of at least"),
    ("F.mesh_zoom(IMAGE, META, (2, 2))", Value, "mesh_zoom: got image on cpu, mesh on meta, expected all on one"),
    ("F.mesh_zoom(IMAGE, MESHES, (2, 2))", Value, "mesh_zoom: mesh is a batch of 3, expected a batch of 1 or 2"),
    ("F.mesh_zoom(IMAGE[:1], MESHES, (2, 2))", Value, "mesh_zoom: mesh is a batch of 3, expected a batch of 1"),
    ("F.mesh_zoom(IMAGE, MESH, (2, 2), valid=(8, 9))", Type, "mesh_zoom: valid is tuple, expected a torch.Tensor"),
    ("F.mesh_zoom(IMAGE, MESH, (2, 2), valid=VALID[0])", Value, "mesh_zoom: valid is of shape [2], expected 2 dim"),
    ("F.mesh_zoom(IMAGE, MESH, (2, 2), valid=VALID[:, :1])", Value, "mesh_zoom: valid is of shape [1, 1], expected"),
    ("F.mesh_zoom(IMAGE, MESH, (2, 2), valid=VALID / 2)", Type, "mesh_zoom: valid has dtype float32, expected int32"),
    (
        "F.mesh_zoom(IMAGE, MESH, (2, 2), antialias=True, source_valid=VALID.repeat(3, 1))",
        Value,
        "mesh_zoom: source_valid is a batch of 3, expected a batch of 1 or 2",
    ),
    ("F.mesh_zoom(IMAGE, MESH, (2, 2), source_valid=VALID.to('meta'))", Value, "mesh_zoom: got source_valid on m"),
    ("F.mesh_zoom(IMAGE, K, (2, 2))", Value, "mesh_zoom: mesh is of shape [1, 5], expected 4 dimensions"),
    # --- mesh_unzoom
    *mesh_rows("mesh_unzoom", "F.mesh_unzoom(IMAGE, {})"),
    *tile_rows("mesh_unzoom", "F.mesh_unzoom(IMAGE, MESH, tile={})"),
    ("F.mesh_unzoom(3, MESH)", Type, "mesh_unzoom: features is int, expected a torch.Tensor [B, C, H, W]"),
    ("F.mesh_unzoom([IMAGE, None], MESH)", Type, "mesh_unzoom: features is NoneType, expected a torch.Tensor"),
    ("F.mesh_unzoom([], MESH)", Value, "mesh_unzoom: features is empty, expected at least one level"),
    ("F.mesh_unzoom({}, MESH)", Value, "mesh_unzoom: features is empty, expected at least one level"),
    ("F.mesh_unzoom([IMAGE, IMAGE[:1]], MESH)", Value, "mesh_unzoom: levels is of batch 2 and 1, expected one"),
    ("F.mesh_unzoom([IMAGE, IMAGE.half()], MESH)", Type, "levels are torch.float32 and torch.float16, expected one"),
    ("F.mesh_unzoom([IMAGE] * 2, MESH, (2, 2))", Type, "mesh_unzoom: size is 2, expected two integers"),
    ("F.mesh_unzoom([IMAGE] * 2, MESH, [(2, 2)])", Value, "mesh_unzoom: size is 1 long, expected a list or tuple"),
    ("F.mesh_unzoom({'a': IMAGE}, MESH, {'b': (2, 2)})", Value, "size is ['b'], expected a dict with the keys ['a']"),
    ("F.mesh_unzoom([IMAGE], MESH, [(0, 2)])", Value, "mesh_unzoom: size is (0, 2), expected a height and"),
    (
        "F.mesh_unzoom(IMAGE, MESH, padding_mode='mirror')",
        Value,
        "mesh_unzoom: padding_mode is 'mirror', expected 'zeros' or 'border'",
    ),
    (
        "F.mesh_unzoom(IMAGE, MESH, padding_mode=0)",
        Value,
        "mesh_unzoom: padding_mode is 0, expected 'zeros' or 'border'",
    ),
    ("F.mesh_unzoom([IMAGE] * 2, MESH, valid=VALID)", Value, "mesh_unzoom: valid is Tensor, expected a list or"),
    ("F.mesh_unzoom([IMAGE] * 2, MESH, valid=[VALID, 3])", Type, "mesh_unzoom: valid is int, expected a torch."),
    ("F.mesh_unzoom(IMAGE, META)", Value, "mesh_unzoom: got image on cpu, mesh on meta, expected all on one device"),
    ("F.mesh_unzoom(IMAGE, MESHES)", Value, "mesh_unzoom: mesh is a batch of 3, expected a batch of 1 or 2"),
    # --- mesh_zoom_frame
    *mesh_rows("mesh_zoom_frame", "F.mesh_zoom_frame(FRAME, {}, (2, 2))"),
    *tile_rows("mesh_zoom_frame", "F.mesh_zoom_frame(FRAME, MESH, (2, 2), tile={})"),
    ("F.mesh_zoom_frame(3, MESH, (2, 2))", Type, "mesh_zoom_frame: frame is int, expected a torch.Tensor [B, H, W, C]"),
    ("F.mesh_zoom_frame(FRAME[0], MESH, (2, 2))", Value, "mesh_zoom_frame: frame is of shape [7, 3], expected 4"),
    (
        "F.mesh_zoom_frame(FRAME.float(), MESH, (2, 2))",
        Type,
        "mesh_zoom_frame: frame has dtype float32, expected uint8",
    ),
    (
        "F.mesh_zoom_frame(FRAME[:0], MESH, (2, 2))",
        Value,
        "mesh_zoom_frame: frame is of shape [1, 0, 7, 3], expected no",
    ),
    ("F.mesh_zoom_frame(FRAME, MESH, (2,))", Type, "mesh_zoom_frame: size is (2,), expected two integers"),
    ("F.mesh_zoom_frame(FRAME, MESH, (2, 2), mean=(1, 2))", Value, "mesh_zoom_frame: mean is 2 long, expected one"),
    ("F.mesh_zoom_frame(FRAME, MESH, (2, 2), std=(1, 0, 1))", Value, "mesh_zoom_frame: std is [1, 0, 1], expected"),
    ("F.mesh_zoom_frame(FRAME, MESH, (2, 2), dtype=torch.int8)", Type, "mesh_zoom_frame: dtype is torch.int8"),
    (
        "F.mesh_zoom_frame(FRAME, META, (2, 2))",
        Value,
        "mesh_zoom_frame: got frame on cpu, mesh on meta, expected all on",
    ),
    ("F.mesh_zoom_frame(FRAME, MESHES, (2, 2))", Value, "mesh_zoom_frame: mesh is a batch of 3, expected a batch of 1"),
    ("F.mesh_zoom_frame(FRAME, MESH, (2, 2), valid=VALID.float())", Type, "mesh_zoom_frame: valid has dtype float32"),
    # --- grids, magnification, points
    *mesh_rows("mesh_grid", "F.mesh_grid({}, (2, 2))"),
    *tile_rows("mesh_grid", "F.mesh_grid(MESH, (2, 2), tile={})"),
    ("F.mesh_grid(MESH, 3)", Type, "mesh_grid: size is 3, expected two integers (height, width)"),
    ("F.mesh_grid(MESH, (0, 1))", Value, "mesh_grid: size is (0, 1), expected a height and a width of at least"),
    *mesh_rows("mesh_inside", "F.mesh_inside({}, (2, 2))"),
    ("F.mesh_inside(MESH, (0, 1))", Value, "mesh_inside: size is (0, 1), expected a height and a width of at least 1"),
    ("F.mesh_inside(MESH, None)", Type, "mesh_inside: size is None, expected two integers (height, width)"),
    *mesh_rows("mesh_magnification", "F.mesh_magnification({}, (2, 2))"),
    *tile_rows("mesh_magnification", "F.mesh_magnification(MESH, (2, 2), tile={})"),
    ("F.mesh_magnification(MESH, (2, -1))", Value, "mesh_magnification: size is (2, -1), expected a height and"),
    *mesh_rows("mesh_map", "F.mesh_map({}, POINTS)"),
    *tile_rows("mesh_map", "F.mesh_map(MESH, POINTS, tile={})"),
    ("F.mesh_map(MESH, 3)", Type, "mesh_map: positions is int, expected a torch.Tensor [B, N, 2]"),
    ("F.mesh_map(MESH, POINTS[0])", Value, "mesh_map: positions is of shape [4, 2], expected 3 dimensions [B, N, 2]"),
    (
        "F.mesh_map(MESH, POINTS[..., :1])",
        Value,
        "mesh_map: positions is of shape [1, 4, 1], expected [B, N, 2], (x, y)",
    ),
    ("F.mesh_map(MESH, POINTS.double())", Type, "mesh_map: positions has dtype float64, expected float32"),
    ("F.mesh_map(MESH, POINTS.to('meta'))", Value, "mesh_map: got mesh on cpu, positions on meta, expected all on one"),
    ("F.mesh_map(MESHES, POINTS.repeat(2, 1, 1))", Value, "positions is a batch of 2, expected a batch of 1 or 3"),
    *mesh_rows("mesh_map_points", "F.mesh_map_points(POINTS, {}, (3, 3), (4, 4))"),
    *tile_rows("mesh_map_points", "F.mesh_map_points(POINTS, MESH, (3, 3), (4, 4), tile={})"),
    ("F.mesh_map_points('p', MESH, (3, 3), (4, 4))", Type, "mesh_map_points: points is str, expected a torch.Tensor"),
    (
        "F.mesh_map_points(POINTS[0], MESH, (3, 3), (4, 4))",
        Value,
        "mesh_map_points: points is of shape [4, 2], expected",
    ),
    ("F.mesh_map_points(POINTS.long(), MESH, (3, 3), (4, 4))", Type, "mesh_map_points: points has dtype int64"),
    ("F.mesh_map_points(POINTS, MESH, 3, (4, 4))", Type, "mesh_map_points: source_size is 3, expected two integers"),
    (
        "F.mesh_map_points(POINTS, MESH, (3, 3), (4, 0))",
        Value,
        "mesh_map_points: size is (4, 0), expected a height and",
    ),
    ("F.mesh_map_points(POINTS, MESH, VALID.float(), (4, 4))", Type, "mesh_map_points: source_size has dtype float32"),
    (
        "F.mesh_map_points(POINTS, MESH, VALID[0], (4, 4))",
        Value,
        "mesh_map_points: source_size is of shape [2], expected",
    ),
    ("F.mesh_map_points(POINTS, MESH, VALID[:, :1], (4, 4))", Value, "mesh_map_points: source_size is of shape [1, 1]"),
    ("F.mesh_map_points(POINTS, META, (3, 3), (4, 4))", Value, "mesh_map_points: got points on cpu, mesh on meta"),
    ("F.mesh_map_points(POINTS, MESH, (3, 3), VALID.to('meta'))", Value, "mesh_map_points: got points on cpu"),
    (
        "F.mesh_map_points(POINTS.repeat(2, 1, 1), MESHES, (3, 3), (4, 4))",
        Value,
        "mesh_map_points: mesh is a batch of 3, expected a batch of 1 or 2",
    ),
    ("F.mesh_map_points(POINTS, MESHES, VALID.repeat(2, 1), (4, 4))", Value, "mesh_map_points: source_size is a batch"),
    *mesh_rows("mesh_report", "F.mesh_report({})"),
    # --- MeshWarp
    *mesh_rows("MeshWarp", "MeshWarp({})"),
    *tile_rows("MeshWarp", "MeshWarp(MESH, {})"),
    (
        "MeshWarp(MIRRORED).check()",
        Value,
        "MeshWarp.check: mesh is a mesh with 12 folded tiles (image 0: [0, 0]; image",
    ),
    (
        "MeshWarp(NAN).check()",
        Value,
        "MeshWarp.check: mesh is a mesh with 1 vertices that are not finite (image 0: [1, 2",
    ),
    ("MeshWarp.from_saliency(3)", Type, "saliency is int, expected a torch.Tensor [B, h, w]"),
    ("MeshWarp.from_saliency(SALIENCY, -1)", Value, "fwhm is -1, expected a positive, finite number"),
    *tile_rows("MeshWarp", "MeshWarp.from_saliency(SALIENCY, tile={})"),
    ("MeshWarp.from_separable(3)", Type, "MeshWarp.from_separable: warp is int, expected a SeparableWarp"),
    ("MeshWarp.from_separable(WARP)", Type, "MeshWarp.from_separable: warp is MeshWarp, expected a SeparableWarp"),
    ("MeshWarp.identity(1, (1, 3))", Value, "mesh is of shape [1, 1, 3, 2], expected [B, h, w, 2]"),
    ("MeshWarp.identity(1, dtype=torch.half)", Type, "mesh has dtype float16, expected float32, float64"),
    ("MeshWarp.identity(-1)", Value, "MeshWarp.identity: batch is -1, expected 0 or more"),
    ("MeshWarp.identity('a')", Type, "MeshWarp.identity: batch is 'a', expected an integer"),
    ("MeshWarp.identity(True)", Type, "MeshWarp.identity: batch is True, expected an integer"),
    ("MeshWarp.identity(1, 3)", Type, "MeshWarp.identity: shape is 3, expected two integers"),
    *tile_rows("MeshWarp", "MeshWarp.identity(tile={})"),
    ("MeshWarp.cat([])", Value, "MeshWarp.cat: warps is empty, expected at least one warp"),
    ("MeshWarp.cat([WARP, SeparableWarp(K, K)])", Type, "MeshWarp.cat: warps has SeparableWarp, expected MeshWarp"),
    ("MeshWarp.cat([WARP, MeshWarp(MESH[:, :3])])", Value, "MeshWarp.cat: warps is of [((3, 5), 'bilinear'), ((4, 5)"),
    ("MeshWarp.cat([WARP, MeshWarp(MESH, 'homography')])", Value, "expected equal numbers of vertices and one kind of"),
    ("MeshWarp.cat([WARP, WARP.to('meta')])", Value, "MeshWarp.cat: got first on cpu, other on meta"),
    ("WARP.to(dtype=torch.half)", Type, "MeshWarp: mesh has dtype float16, expected float32, float64"),
    ("WARP.report(3)", Type, "report() takes 1 positional argument but 2 were given"),
    ("WARP.zoom(IMAGE, 3)", Type, "zoom: size is 3, expected two integers (height, width)"),
    (
        "WARP.zoom(IMAGE, (3, 3), padding_mode='border')",
        Type,
        "zoom() got an unexpected keyword argument 'padding_mode'",
    ),
    ("WARP.unzoom([IMAGE, 3])", Type, "unzoom: features is int, expected a torch.Tensor [B, C, H, W]"),
    ("WARP.zoom_frame(IMAGE, (2, 2))", Type, "mesh_zoom_frame: frame has dtype float32, expected uint8"),
    ("WARP.zoom_frame(FRAME, (2, 2), means=3)", Type, "zoom_frame() got an unexpected keyword argument 'means'"),
    ("WARP.grid((2, 0))", Value, "grid: size is (2, 0), expected a height and a width of at least 1"),
    ("WARP.inverse_grid(2)", Type, "grid: size is 2, expected two integers (height, width)"),
    ("WARP.inside((2,))", Type, "size is (2,), expected two integers (height, width)"),
    ("WARP.magnification((2, 2.5))", Type, "magnification: size is (2, 2.5), expected two integers (height, width)"),
    ("WARP.zoom_points(3, (3, 3), (3, 3))", Type, "zoom_points: points is int, expected a torch.Tensor [B, N, 2]"),
    ("WARP.zoom_points(BOXES, (3, 3), (3, 3))", Value, "zoom_points: points is of shape [1, 3, 4], expected [B, N, 2]"),
    ("WARP.unzoom_points(BOXES[0], (3, 3), (3, 3))", Value, "unzoom_points: points is of shape [4], expected 3"),
    ("WARP.zoom_boxes(BOXES.long(), (3, 3), (3, 3))", Type, "zoom_boxes: boxes has dtype int64, expected a floating"),
    ("WARP.unzoom_boxes(BOXES[:, :2], (3, 3), (3, 3))", Value, "unzoom_boxes: boxes is of shape [1, 3, 2], expected"),
    ("WARP.unzoom_boxes(BOXES, (3, 3), None)", Type, "size is None, expected two integers (height, width)"),
    (
        "WARP[[0, 0]].zoom_boxes(BOXES, (3, 3), (3, 3))",
        Value,
        "zoom_boxes: boxes is of shape [3, 4], expected [2, N, 4]",
    ),
    (
        "WARP.zoom_corners(POINTS, (3, 3), (3, 3))",
        Value,
        "zoom_corners: boxes is of shape [1, 4, 2], expected [B, N, 4]",
    ),
    (
        "WARP.unzoom_corners('b', (3, 3), (3, 3))",
        Type,
        "unzoom_corners: boxes is str, expected a torch.Tensor [B, N, 4]",
    ),
    # --- modules
    (
        "nn.Zoom((2, 2), WARP, saliency=SALIENCY)",
        Value,
        "Zoom: got a warp and a saliency, expected at most one of them",
    ),
    ("nn.Zoom((2, 2), saliency=SALIENCY[0], kind='mesh')", Value, "saliency is of shape [3, 4], expected 3 dimensions"),
    ("nn.Unzoom(saliency=SALIENCY, kind='mesh', fwhm=nan)", Value, "fwhm is nan, expected a positive, finite number"),
    ("nn.Zoom((2, 2), WARP)(3)", Type, "image is int, expected a torch.Tensor [B, C, H, W]"),
    ("nn.Zoom((2, 2), MESH)", Type, "Zoom: warp is Tensor, expected a SeparableWarp, a MeshWarp or None"),
    ("nn.Unzoom(WARP)([IMAGE, 3])", Type, "features is int, expected a torch.Tensor [B, C, H, W]"),
    ("nn.Unzoom(kind='mesh')(IMAGE)", Value, "Unzoom: made without a warp, expected one with each call"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input(call, error, message):
    """A call is written as text: pytest shows it, and every row reads like the code of a user."""
    copies = {name: value.clone() for name, value in globals().items() if isinstance(value, torch.Tensor)}
    with pytest.raises(error) as caught:
        eval(call)
    assert message in str(caught.value)
    # The type is the promised one: no IndexError, RuntimeError or plain ValueError.
    assert type(caught.value) in (FastwarpError, TypeError)
    for name, before in copies.items():
        if before.device.type != "meta":
            torch.testing.assert_close(globals()[name], before, rtol=0, atol=0, equal_nan=True, msg=name)


def test_a_failed_call_leaves_warps_and_modules_usable():
    ones = torch.ones(1, 1, 3, 3)
    for thing in (WARP, nn.Unzoom(WARP), nn.Unzoom(saliency=SALIENCY, kind="mesh")):
        unzoom = thing.unzoom if isinstance(thing, MeshWarp) else thing
        for bad in (3, ones[0], [ones, ones.half()], ones.to("meta")):
            with pytest.raises((FastwarpError, TypeError)):
                unzoom(bad)
        torch.testing.assert_close(unzoom(ones), ones)
    module = nn.Unzoom(saliency=SALIENCY, kind="mesh")
    with pytest.raises(RuntimeError):
        module.load_state_dict({"saliency": SALIENCY[:, :2]})
    torch.testing.assert_close(module(ones), ones)


def test_every_public_name_has_bad_calls():
    calls = " ".join(row[0] for row in BAD)
    methods = {name for name, _ in inspect.getmembers(MeshWarp, callable) if name[0] != "_"} - {"detach"}
    functions = set(FUNCTIONS) - {"MeshReport"}
    for name in [*(f"F.{n}" for n in functions), *(f".{n}" for n in methods)]:
        assert f"{name}(" in calls, f"no bad call of {name}"


def test_both_warps_have_the_same_methods_and_arguments():
    """Code written for one runs with the other."""
    for name, method in inspect.getmembers(SeparableWarp, callable):
        if name.startswith("_") or name in ("from_marginals", "from_cdf"):
            continue
        other = inspect.signature(getattr(MeshWarp, name)).parameters
        assert [n for n in other if n != "tile"] == list(inspect.signature(method).parameters), name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_documentation_of_functions(name):
    function = getattr(F, name)
    text = inspect.getdoc(function)
    assert text
    if inspect.isclass(function):
        arguments = text.partition("Attributes:")[2]
    else:
        sections = [line for line in text.splitlines() if line.endswith(":") and line[:1].isalpha()]
        assert {"Args:", "Returns:"} <= set(sections)
        arguments = text.partition("Args:")[2].partition("Returns:")[0]
    for argument in inspect.signature(function).parameters:
        assert f"{argument}:" in arguments, f"{name} does not document {argument}"


def test_documentation_of_methods():
    for name, method in inspect.getmembers(MeshWarp, callable):
        if name[0] != "_":
            assert inspect.getdoc(method), f"MeshWarp.{name} has no docstring"
    for argument in inspect.signature(MeshWarp).parameters:
        assert f"{argument}:" in inspect.getdoc(MeshWarp), f"MeshWarp does not document {argument}"


# --- backends ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", ["bilinear", "homography"])
def test_backends_agree(tile):
    warp = MeshWarp.from_saliency(torch.rand(2, 5, 6, dtype=torch.float64), 4.0, False, tile=tile)
    image, points = IMAGE.double(), torch.rand(2, 9, 2, dtype=torch.float64) * 9
    boxes = torch.cat([points, points + 3], 2)

    def everything():
        maps = warp.unzoom([image, image[:, :, ::2]], padding_mode="border"), warp.unzoom(image, (4, 5), antialias=True)
        frame = warp.zoom_frame(FRAME.expand(2, -1, -1, -1), (4, 5), dtype=torch.float64)
        geometry = warp.inverse_grid((5, 6)), warp.magnification((5, 6)), warp.inside((20, 30)).double()
        return *maps[0], maps[1], warp.zoom(image, (5, 5)), frame, *geometry, warp.zoom_boxes(boxes, (8, 9), (5, 5))

    got = everything()
    with fastwarp.backend("reference"):
        expected = everything()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# --- FASTWARP_CHECKS --------------------------------------------------------------------------------------------------


CHECKS = """
import torch, fastwarp
from fastwarp import functional as F
mesh, saliency = fastwarp.MeshWarp.identity(1, (4, 5)).mesh, torch.rand(1, 4, 5)
image, bad = torch.rand(1, 1, 4, 4), mesh.clone()
bad[0, 2, 3, 1] = float("inf")
def attempt(call):
    try:
        call()
        print("accepted")
    except fastwarp.FastwarpError as error:
        print(error)
attempt(lambda: fastwarp.MeshWarp(bad))
attempt(lambda: F.mesh_zoom(image, bad, (2, 2)))
attempt(lambda: F.mesh_unzoom([image], bad))
attempt(lambda: F.mesh_map(bad * float("nan"), torch.rand(1, 3, 2)))
attempt(lambda: F.lz_mesh(saliency - 2))
attempt(lambda: F.lz_mesh(saliency * float("nan")))
attempt(lambda: fastwarp.MeshWarp.from_saliency(saliency).unzoom(image))
attempt(lambda: fastwarp.MeshWarp(mesh.flip(2)).unzoom(image))
"""


def test_values_are_checked_on_request():
    lines = run_python(CHECKS, FASTWARP_CHECKS="1").splitlines()
    at = "mesh[0, 2, 3] is [0.75, inf], expected finite values"
    expected = [
        f"MeshWarp: {at}",
        f"mesh_zoom: {at}",
        f"mesh_unzoom: {at}",
        "mesh_map: mesh[0, 0, 0] is [nan, nan], expected finite values",
        "lz_mesh: saliency is NaN or negative somewhere, expected values >= 0",
        "lz_mesh: saliency is NaN or negative somewhere, expected values >= 0",
        "accepted",
        "accepted",  # a mirrored mesh has an inverse
    ]
    assert lines == expected


def test_values_are_not_checked_otherwise():
    assert os.environ.get("FASTWARP_CHECKS", "0") == "0"
    MeshWarp(NAN)
    F.lz_mesh(SALIENCY - 2)
