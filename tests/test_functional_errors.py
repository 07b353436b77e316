"""Bad calls of every public function and method, for both kinds of warps: what is raised names function, argument, what
was got and expected; nothing is written to, and everything still works afterwards."""

from __future__ import annotations

import inspect
import re

import pytest
import torch

import fastwarp
from fastwarp import MeshWarp, SeparableWarp, nn
from fastwarp import functional as F

nan = float("nan")
# The names that the calls below are made of.
K = torch.linspace(0, 1, 5)[None]
K_META = K.to("meta")
MESH = MeshWarp.identity(1, (4, 5)).mesh
MESHES = MESH.repeat(3, 1, 1, 1)
MESH_META = MESH.to("meta")
MESH_NAN = MESH.clone()
MESH_NAN[0, 1, 2] = nan
MIRRORED = MESH.flip(2)
IMAGE = torch.rand(2, 3, 8, 9)
FRAME = torch.zeros(6, 7, 3, dtype=torch.uint8)
LABELS = torch.zeros(2, 8, 9, dtype=torch.uint8)
SALIENCY = torch.rand(1, 3, 4)
VALID = torch.tensor([[8, 9]])
POINTS = torch.rand(1, 4, 2)
BOXES = torch.rand(3, 4)
ROWS_AND_COLUMNS = SeparableWarp(K, K)
QUADS = MeshWarp(MESH)

Value, Type = fastwarp.FastwarpError, TypeError
Row = tuple[str, type[Exception], str]

KINDS = {
    "KIND": ("separable", "mesh"),
    "CLASS": ("SeparableWarp", "MeshWarp"),
    "LZ": ("lz_knots", "lz_mesh"),
    "WARP": ("ROWS_AND_COLUMNS", "QUADS"),
    "OTHER": ("QUADS", "ROWS_AND_COLUMNS"),
    "GEOMETRY": ("K, K", "MESH"),
    "THREE": ("K.repeat(3, 1), K", "MESHES"),
    "META": ("K_META, K_META", "MESH_META"),
    "FIRST": ("knots_y", "mesh"),
}
"""What the words in capitals in the rows for both kinds stand for."""


def for_kind(kind: int, rows: list[Row]) -> list[Row]:
    """The rows with the words for separable warps (0) or meshes (1)."""

    def filled(text: str) -> str:
        return re.sub(rf"(?<![A-Z_])({'|'.join(KINDS)})(?![A-Z])", lambda found: KINDS[found[0]][kind], text)

    return [(filled(call), error, filled(message)) for call, error, message in rows]


# What every function says of bad knots or a bad mesh, in the place of {}.
CALLS = {
    "KIND_zoom": "F.KIND_zoom(IMAGE, {}, (2, 2))",
    "KIND_unzoom": "F.KIND_unzoom(IMAGE, {})",
    "KIND_zoom_frame": "F.KIND_zoom_frame(FRAME, {}, (2, 2))",
    "KIND_grid": "F.KIND_grid({}, (2, 2))",
    "KIND_inside": "F.KIND_inside({}, (2, 2))",
    "KIND_magnification": "F.KIND_magnification({}, (2, 2))",
    "KIND_map_points": "F.KIND_map_points(POINTS, {}, (3, 3), (4, 4))",
    "CLASS": "CLASS({})",
}
BAD_KNOTS = [
    ("3, K", Type, "knots_y is int, expected a torch.Tensor [B, n]"),
    ("K, 'k'", Type, "knots_x is str, expected a torch.Tensor [B, n]"),
    ("K[0], K", Value, "knots_y is of shape [5], expected 2 dimensions [B, n]"),
    ("K, K[0]", Value, "knots_x is of shape [5], expected 2 dimensions [B, n]"),
    ("K[:, :1], K", Value, "knots_y is of shape [1, 1], expected at least 2 knots"),
    ("K, K[:, :1]", Value, "knots_x is of shape [1, 1], expected at least 2 knots"),
    ("K.half(), K", Type, "knots_y has dtype float16, expected float32, float64"),
    ("K, K.long()", Type, "knots_x has dtype int64, expected float32, float64"),
    ("K, K.double()", Type, "knots_y is torch.float32, knots_x is torch.float64, expected one dtype"),
    ("K, K_META", Value, "got "),  # the devices of all that is beside the knots
    ("K.repeat(2, 1), K.repeat(3, 1)", Value, "knots_"),  # one of them does not fit the other, or the images
]
BAD_MESHES = [
    ("3", Type, "mesh is int, expected a torch.Tensor [B, h, w, 2]"),
    ("K", Value, "mesh is of shape [1, 5], expected 4 dimensions [B, h, w, 2]"),
    ("MESH[0]", Value, "mesh is of shape [4, 5, 2], expected 4 dimensions [B, h, w, 2]"),
    ("MESH.half()", Type, "mesh has dtype float16, expected float32, float64"),
    ("MESH.long()", Type, "mesh has dtype int64, expected float32, float64"),
    ("MESH[:, :1]", Value, "mesh is of shape [1, 1, 5, 2], expected [B, h, w, 2], (x, y)"),
    ("MESH[:, :, :1]", Value, "mesh is of shape [1, 4, 1, 2], expected [B, h, w, 2], (x, y)"),
    ("MESH[..., :1]", Value, "mesh is of shape [1, 4, 5, 1], expected [B, h, w, 2], (x, y)"),
]
WINDOWS = {"separable_windows": "F.separable_windows({}, [(3, 3)], [(3, 3)])"}
ALL_MESHES = {**CALLS, "mesh_map": "F.mesh_map({}, POINTS)", "mesh_report": "F.mesh_report({})"}


def geometry_rows(calls: dict[str, str], rows: list[Row]) -> list[Row]:
    return [(calls[f].format(bad), error, f"{f}: {text}") for f in calls for bad, error, text in rows]


def tile_rows(function: str, call: str) -> list[Row]:
    """What every function says of an unknown kind of tile; `call` has {} in its place."""
    return [
        (call.format("'quad'"), Value, f"{function}: tile is 'quad', expected 'bilinear' or 'homography'"),
        (call.format("None"), Value, f"{function}: tile is None, expected 'bilinear' or 'homography'"),
    ]


BOTH: list[Row] = [
    # --- saliency
    ("F.LZ(3)", Type, "LZ: saliency is int, expected a torch.Tensor [B, h, w]"),
    ("F.LZ(SALIENCY[0])", Value, "LZ: saliency is of shape [3, 4], expected 3 dimensions [B, h, w]"),
    ("F.LZ(SALIENCY[:, :1])", Value, "LZ: saliency is of shape [1, 1, 4], expected at least 2 x 2 cells"),
    ("F.LZ(SALIENCY[:, :0])", Value, "LZ: saliency is of shape [1, 0, 4], expected at least 2 x 2 cells"),
    ("F.LZ(SALIENCY[:, :, :0])", Value, "LZ: saliency is of shape [1, 3, 0], expected at least 2 x 2 cells"),
    ("F.LZ(SALIENCY.int())", Type, "LZ: saliency has dtype int32, expected a floating-point dtype"),
    ("F.LZ(SALIENCY + 1j)", Type, "LZ: saliency has dtype complex64, expected a floating-point dtype"),
    ("F.LZ(SALIENCY, 0)", Value, "LZ: fwhm is 0, expected"),
    ("F.LZ(SALIENCY, -1.5)", Value, "LZ: fwhm is -1.5, expected"),
    ("F.LZ(SALIENCY, nan)", Value, "LZ: fwhm is nan, expected"),
    ("F.LZ(SALIENCY, float('inf'))", Value, "LZ: fwhm is inf, expected"),
    ("F.LZ(SALIENCY, '13')", Type, "LZ: fwhm is str, expected a number"),
    ("F.LZ(SALIENCY, True)", Type, "LZ: fwhm is bool, expected a number"),
    # --- zoom
    ("F.KIND_zoom('i', GEOMETRY, (2, 2))", Type, "KIND_zoom: image is str, expected a torch.Tensor [B, C, H, W]"),
    ("F.KIND_zoom(IMAGE[0], GEOMETRY, (2, 2))", Value, "KIND_zoom: image is of shape [3, 8, 9], expected 4 dim"),
    ("F.KIND_zoom(IMAGE.int(), GEOMETRY, (2, 2))", Type, "KIND_zoom: image has dtype int32, expected uint8, float16"),
    ("F.KIND_zoom(IMAGE > 0, GEOMETRY, (2, 2))", Type, "KIND_zoom: image has dtype bool, expected uint8, float16"),
    ("F.KIND_zoom(IMAGE[:, :, :0], GEOMETRY, (2, 2))", Value, "KIND_zoom: image is of shape [2, 3, 0, 9], expected a"),
    ("F.KIND_zoom(IMAGE, GEOMETRY, 2)", Type, "KIND_zoom: size is 2, expected two integers (height, width)"),
    ("F.KIND_zoom(IMAGE, GEOMETRY, (2,))", Type, "KIND_zoom: size is (2,), expected two integers"),
    ("F.KIND_zoom(IMAGE, GEOMETRY, (2, 2.0))", Type, "KIND_zoom: size is (2, 2.0), expected two integers"),
    ("F.KIND_zoom(IMAGE, GEOMETRY, (True, 2))", Type, "KIND_zoom: size is (True, 2), expected two integers"),
    ("F.KIND_zoom(IMAGE, GEOMETRY, '22')", Type, "KIND_zoom: size is '22', expected two integers"),
    ("F.KIND_zoom(IMAGE, GEOMETRY, (0, 2))", Value, "KIND_zoom: size is (0, 2), expected a height and a width of"),
    ("F.KIND_zoom(IMAGE, GEOMETRY, (2, -2))", Value, "KIND_zoom: size is (2, -2), expected a height and a width of"),
    ("F.KIND_zoom(IMAGE, META, (2, 2))", Value, "KIND_zoom: got image on cpu, FIRST on meta, expected all on one"),
    ("F.KIND_zoom(IMAGE, THREE, (2, 2))", Value, "KIND_zoom: FIRST is a batch of 3, expected a batch of 1 or 2"),
    ("F.KIND_zoom(IMAGE[:1], THREE, (2, 2))", Value, "KIND_zoom: FIRST is a batch of 3, expected a batch of 1"),
    ("F.KIND_zoom(IMAGE, GEOMETRY, (2, 2), valid=(8, 9))", Type, "KIND_zoom: valid is tuple, expected a torch.Tensor"),
    ("F.KIND_zoom(IMAGE, GEOMETRY, (2, 2), valid=VALID[0])", Value, "KIND_zoom: valid is of shape [2], expected 2 dim"),
    ("F.KIND_zoom(IMAGE, GEOMETRY, (2, 2), valid=VALID[:, :1])", Value, "KIND_zoom: valid is of shape [1, 1], exp"),
    ("F.KIND_zoom(IMAGE, GEOMETRY, (2, 2), valid=VALID / 2)", Type, "KIND_zoom: valid has dtype float32, expected"),
    *(
        (f"F.KIND_zoom({image}, GEOMETRY, (2, 2), antialias=True, {extent}={value})", Value, f"KIND_zoom: {message}")
        for extent in ("valid", "source_valid")
        for image, value, message in (
            ("IMAGE", "VALID.repeat(3, 1)", f"{extent} is a batch of 3, expected a batch of 1 or 2"),
            ("IMAGE[:1]", "VALID.repeat(3, 1)", f"{extent} is a batch of 3, expected a batch of 1"),
            ("IMAGE", "VALID.to('meta')", f"got {extent} on meta, images on cpu, expected all on one device"),
        )
    ),
    # --- unzoom
    ("F.KIND_unzoom(3, GEOMETRY)", Type, "KIND_unzoom: features is int, expected a torch.Tensor [B, C, H, W]"),
    ("F.KIND_unzoom([IMAGE, None], GEOMETRY)", Type, "KIND_unzoom: features is NoneType, expected a torch.Tensor"),
    ("F.KIND_unzoom([], GEOMETRY)", Value, "KIND_unzoom: features is empty, expected at least one level"),
    ("F.KIND_unzoom({}, GEOMETRY)", Value, "KIND_unzoom: features is empty, expected at least one level"),
    ("F.KIND_unzoom(IMAGE[None], GEOMETRY)", Value, "KIND_unzoom: features is of shape [1, 2, 3, 8, 9], expected 4"),
    ("F.KIND_unzoom(IMAGE.int(), GEOMETRY)", Type, "KIND_unzoom: features has dtype int32, expected uint8, float16"),
    ("F.KIND_unzoom([IMAGE, IMAGE[:1]], GEOMETRY)", Value, "KIND_unzoom: levels is of batch 2 and 1, expected one"),
    ("F.KIND_unzoom([IMAGE, IMAGE.half()], GEOMETRY)", Type, "KIND_unzoom: levels are torch.float32 and torch.float16"),
    ("F.KIND_unzoom([IMAGE, IMAGE.to('meta')], GEOMETRY)", Value, "KIND_unzoom: levels is on cpu and meta"),
    ("F.KIND_unzoom([IMAGE[..., :0]], GEOMETRY, [(2, 2)])", Value, "KIND_unzoom: features is of shape [2, 3, 8, 0]"),
    ("F.KIND_unzoom([IMAGE] * 2, GEOMETRY, (2, 2))", Type, "KIND_unzoom: size is 2, expected two integers"),
    ("F.KIND_unzoom([IMAGE] * 2, GEOMETRY, [(2, 2)])", Value, "KIND_unzoom: size is 1 long, expected a list or tuple"),
    ("F.KIND_unzoom({'a': IMAGE}, GEOMETRY, [(2, 2)])", Value, "KIND_unzoom: size is list, expected a dict with the"),
    ("F.KIND_unzoom({'a': IMAGE}, GEOMETRY, {'b': (2, 2)})", Value, "size is ['b'], expected a dict with the keys"),
    ("F.KIND_unzoom(IMAGE, GEOMETRY, {'b': (2, 2)})", Type, "KIND_unzoom: size is {'b': (2, 2)}, expected two int"),
    ("F.KIND_unzoom([IMAGE], GEOMETRY, [(0, 2)])", Value, "KIND_unzoom: size is (0, 2), expected a height and"),
    *(
        (
            f"F.KIND_unzoom(IMAGE, GEOMETRY, padding_mode={mode})",
            Value,
            f"KIND_unzoom: padding_mode is {mode}, expected 'zeros' or 'border'",
        )
        for mode in ("'mirror'", "0")
    ),
    ("F.KIND_unzoom([IMAGE] * 2, GEOMETRY, valid=VALID)", Value, "KIND_unzoom: valid is Tensor, expected a list or"),
    ("F.KIND_unzoom([IMAGE] * 2, GEOMETRY, valid=[VALID])", Value, "KIND_unzoom: valid is 1 long, expected a list or"),
    ("F.KIND_unzoom([IMAGE] * 2, GEOMETRY, valid=[VALID, 3])", Type, "KIND_unzoom: valid is int, expected a torch."),
    ("F.KIND_unzoom([IMAGE] * 2, GEOMETRY, valid=[VALID, VALID.to('meta')])", Value, "KIND_unzoom: got valid on meta"),
    ("F.KIND_unzoom(IMAGE, META)", Value, "KIND_unzoom: got features on cpu, FIRST on meta, expected all on one"),
    ("F.KIND_unzoom(IMAGE, THREE)", Value, "KIND_unzoom: FIRST is a batch of 3, expected a batch of 1 or 2"),
    # --- zoom_frame
    ("F.KIND_zoom_frame(3, GEOMETRY, (2, 2))", Type, "KIND_zoom_frame: frame is int, expected a torch.Tensor [B, H, W"),
    ("F.KIND_zoom_frame(FRAME[0], GEOMETRY, (2, 2))", Value, "KIND_zoom_frame: frame is of shape [7, 3], exp"),
    ("F.KIND_zoom_frame(FRAME.float(), GEOMETRY, (2, 2))", Type, "KIND_zoom_frame: frame has dtype float32, "),
    ("F.KIND_zoom_frame(FRAME[:0], GEOMETRY, (2, 2))", Value, "KIND_zoom_frame: frame is of shape [1, 0, 7, 3]"),
    ("F.KIND_zoom_frame(FRAME, GEOMETRY, (2,))", Type, "KIND_zoom_frame: size is (2,), expected two integers"),
    ("F.KIND_zoom_frame(FRAME, GEOMETRY, (2, 0))", Value, "KIND_zoom_frame: size is (2, 0), expected a height and a"),
    *(
        (f"F.KIND_zoom_frame(FRAME, GEOMETRY, (2, 2), {option})", error, f"KIND_zoom_frame: {message}")
        for option, error, message in (
            ("mean=(1, 2)", Value, "mean is 2 long, expected one value for each of 3 channels"),
            ("mean=5", Type, "mean is 5, expected one number for each channel"),
            ("mean='abc'", Type, "mean is 'abc', expected one number for each channel"),
            ("std=(1, 0, 1)", Value, "std is [1, 0, 1], expected values other than 0"),
            ("std=(nan, 1, 1)", Value, "std is [nan, 1, 1], expected"),
            ("dtype=torch.int8", Type, "dtype is torch.int8, expected float16, bfloat16, float32 or float64"),
            ("dtype='half'", Type, "dtype is half, expected float16, bfloat16"),
            ("dtype=torch.float8_e4m3fn", Type, "dtype is torch.float8_e4m3fn, expected float16, bfloat16"),
            ("valid=VALID.float()", Type, "valid has dtype float32, expected int32"),
            ("valid=VALID.repeat(2, 1)", Value, "valid is a batch of 2, expected a batch of 1"),
        )
    ),
    ("F.KIND_zoom_frame(FRAME, META, (2, 2))", Value, "KIND_zoom_frame: got frame on cpu, FIRST on meta, expected all"),
    ("F.KIND_zoom_frame(FRAME, THREE, (2, 2))", Value, "KIND_zoom_frame: FIRST is a batch of 3, expected a batch of 1"),
    # --- grids, magnification, points
    *(
        (f"F.KIND_{name}(GEOMETRY, {size})", error, f"KIND_{name}: size is {size}, expected {expected}")
        for name in ("grid", "inside", "magnification")
        for size, error, expected in (
            ("3", Type, "two integers (height, width)"),
            ("None", Type, "two integers (height, width)"),
            ("(0, 1)", Value, "a height and a width of at least 1"),
            ("(2, -1)", Value, "a height and a width of at least 1"),
        )
    ),
    *(
        (f"F.KIND_map_points({points}, {geometry}, {sizes})", error, f"KIND_map_points: {message}")
        for points, geometry, sizes, error, message in (
            ("'p'", "GEOMETRY", "(3, 3), (4, 4)", Type, "points is str, expected a torch.Tensor [B, N, 2]"),
            ("POINTS[0]", "GEOMETRY", "(3, 3), (4, 4)", Value, "points is of shape [4, 2], expected 3 dim"),
            ("POINTS[..., :1]", "GEOMETRY", "(3, 3), (4, 4)", Value, "points is of shape [1, 4, 1], expected"),
            ("POINTS.long()", "GEOMETRY", "(3, 3), (4, 4)", Type, "points has dtype int64, expected a floating-"),
            ("POINTS", "GEOMETRY", "3, (4, 4)", Type, "source_size is 3, expected two integers"),
            ("POINTS", "GEOMETRY", "(3, 3), (4, 0)", Value, "size is (4, 0), expected a height and a width of"),
            ("POINTS", "GEOMETRY", "VALID.float(), (4, 4)", Type, "source_size has dtype float32, expected int32"),
            ("POINTS", "GEOMETRY", "VALID[0, 0], (4, 4)", Value, "source_size is of shape [], expected 2 dimensions"),
            ("POINTS", "GEOMETRY", "VALID[0], (4, 4)", Value, "source_size is of shape [2], expected 2 dimensions"),
            ("POINTS", "GEOMETRY", "VALID[:, :1], (4, 4)", Value, "source_size is of shape [1, 1], expected [B, 2]"),
            ("POINTS", "GEOMETRY", "(3, 3), VALID.to('meta')", Value, "got points on cpu, size on meta"),
            ("POINTS", "META", "(3, 3), (4, 4)", Value, "got points on cpu, FIRST on meta, expected all on one"),
            (
                "POINTS.repeat(2, 1, 1)",
                "THREE",
                "(3, 3), (4, 4)",
                Value,
                "FIRST is a batch of 3, expected a batch of 1 or",
            ),
            ("POINTS.repeat(2, 1, 1)", "GEOMETRY", "VALID.repeat(3, 1), (4, 4)", Value, "source_size is a batch of 3"),
            (
                "POINTS",
                "THREE",
                "VALID.repeat(2, 1), (4, 4)",
                Value,
                "FIRST is a batch of 3, expected a batch of 1 or 2",
            ),
        )
    ),
    # --- warps
    ("CLASS.from_saliency(3)", Type, "LZ: saliency is int, expected a torch.Tensor [B, h, w]"),
    ("CLASS.from_saliency(SALIENCY, -1)", Value, "LZ: fwhm is -1, expected"),
    ("CLASS.identity(1, (1, 3))", Value, "CLASS: FIRST is of shape [1, 1"),
    ("CLASS.identity(1, dtype=torch.half)", Type, "CLASS: FIRST has dtype float16, expected float32, float64"),
    ("CLASS.identity(-1)", Value, "CLASS.identity: batch is -1, expected 0 or more"),
    ("CLASS.identity('a')", Type, "CLASS.identity: batch is 'a', expected an integer"),
    ("CLASS.identity(True)", Type, "CLASS.identity: batch is True, expected an integer"),
    ("CLASS.identity(1, 3)", Type, "CLASS.identity: shape is 3, expected two integers"),
    ("CLASS.identity(1, (3,))", Type, "CLASS.identity: shape is (3,), expected two integers"),
    ("CLASS.cat([])", Value, "CLASS.cat: warps is empty, expected at least one warp"),
    ("CLASS.cat([3])", Type, "CLASS.cat: warps has int, expected CLASS"),
    ("CLASS.cat([WARP, OTHER])", Type, "expected CLASS"),
    ("CLASS.cat([WARP, WARP.to('meta')])", Value, "CLASS.cat: got first on cpu, other on meta"),
    ("WARP.to(dtype=torch.half)", Type, "CLASS: FIRST has dtype float16, expected float32, float64"),
    ("WARP.zoom(IMAGE, 3)", Type, "KIND_zoom: size is 3, expected two integers (height, width)"),
    ("WARP.zoom(IMAGE, (3, 3), padding_mode='border')", Type, "unexpected keyword argument 'padding_mode'"),
    ("WARP.unzoom([IMAGE, 3])", Type, "KIND_unzoom: features is int, expected a torch.Tensor [B, C, H, W]"),
    ("WARP.zoom_frame(IMAGE, (2, 2))", Type, "KIND_zoom_frame: frame has dtype float32, expected uint8"),
    ("WARP.zoom_frame(FRAME, (2, 2), means=3)", Type, "zoom_frame() got an unexpected keyword argument 'means'"),
    ("WARP.grid((2, 0))", Value, "KIND_grid: size is (2, 0), expected a height and a width of at least 1"),
    ("WARP.inverse_grid(2)", Type, "KIND_grid: size is 2, expected two integers (height, width)"),
    ("WARP.inside((2,))", Type, "KIND_inside: size is (2,), expected two integers (height, width)"),
    ("WARP.magnification((2, 2.5))", Type, "KIND_magnification: size is (2, 2.5), expected two integers"),
    *(
        (f"WARP.{name}({value}, (3, 3), (3, 3))", error, f"{name}: {argument} is {got}")
        for argument, width, names in (
            ("points", 2, ("zoom_points", "unzoom_points", "visible_points")),
            ("boxes", 4, ("zoom_boxes", "unzoom_boxes", "zoom_corners", "unzoom_corners", "visible_area")),
        )
        for name in names
        for value, error, got in (
            ("3", Type, f"int, expected a torch.Tensor [B, N, {width}]"),
            ("BOXES[:, :3]", Value, f"of shape [1, 3, 3], expected [B, N, {width}]"),
            ("BOXES[0]", Value, "of shape [4], expected 3 dimensions"),
        )
    ),
    *(
        (f"WARP.{name}({value}, (3, 3), (3, 3){more})", error, f"{name}: {message}")
        for name in ("zoom_polygons", "unzoom_polygons")
        for value, more, error, message in (
            ("POINTS[0]", "", Type, "polygons is Tensor, expected a list of tensors [V, 2]"),
            ("[POINTS[0], POINTS]", "", Value, "polygons[1] is of shape [1, 4, 2], expected 2 dimensions [V, 2]"),
            ("[POINTS[0].long()]", "", Type, "polygons[0] has dtype int64, expected a floating-point"),
            ("[BOXES]", "", Value, "polygons[0] is of shape [3, 4], expected [V, 2], (x, y)"),
            ("[POINTS[0] * nan]", "", Value, "polygons[0] is NaN or infinite in places, expected finite coordinates"),
            ("[POINTS[0]]", ", tolerance=0", Value, "tolerance is 0, expected a number of pixels from 0.001"),
        )
    ),
    *(
        (f"WARP.{name}({value}, (3, 3), (3, 3))", Value, f"{name}: corners is of shape {got}")
        for name in ("zoom_rotated_boxes", "unzoom_rotated_boxes")
        for value, got in (
            ("POINTS[None, :, :3]", "[1, 1, 3, 2], expected [B, N, 4, 2]"),
            ("POINTS[0]", "[4, 2], expected 4"),
        )
    ),
    ("WARP[[0, 0]].zoom_polygons([POINTS[0]], (3, 3), (3, 3))", Value, "the warp is a batch of 2, expected one warp"),
    ("WARP.zoom_boxes(BOXES.long(), (3, 3), (3, 3))", Type, "zoom_boxes: boxes has dtype int64, expected a floating"),
    ("WARP.unzoom_corners(BOXES.long(), (3, 3), (3, 3))", Type, "unzoom_corners: boxes has dtype int64, expected a"),
    ("WARP[[0, 0]].zoom_boxes(BOXES, (3, 3), (3, 3))", Value, "boxes is of shape [3, 4], expected [2, N, 4]"),
    ("WARP[[0, 0]].unzoom_corners(BOXES, (3, 3), (3, 3))", Value, "boxes is of shape [3, 4], expected [2, N, 4]"),
    ("WARP.unzoom_boxes(BOXES, (3, 3), None)", Type, "unzoom_boxes: size is None, expected two integers"),
    ("WARP.unzoom_corners(BOXES, (3, 0), (3, 3))", Value, "unzoom_corners: source_size is (3, 0), expected a height"),
    # --- modules
    ("nn.Zoom((2, 2), WARP, saliency=SALIENCY)", Value, "Zoom: got a warp and a saliency, expected at most"),
    ("nn.Zoom((2, 2), saliency=SALIENCY[0], kind='KIND')", Value, "saliency is of shape [3, 4], expected 3 dimensions"),
    ("nn.Unzoom(saliency=SALIENCY, kind='KIND', fwhm=nan)", Value, "fwhm is nan, expected"),
    ("nn.Zoom((2, 2), WARP)(3)", Type, "image is int, expected a torch.Tensor [B, C, H, W]"),
    ("nn.Unzoom(WARP)([IMAGE, 3])", Type, "features is int, expected a torch.Tensor [B, C, H, W]"),
    ("nn.Unzoom(kind='KIND')(IMAGE)", Value, "Unzoom: made without a warp, expected one with each call"),
    ("nn.Zoom((2, 3), WARP)(IMAGE, 3)", Type, "Zoom: warp is int, expected"),
]

SEPARABLE: list[Row] = [
    *geometry_rows({**CALLS, **WINDOWS}, BAD_KNOTS),
    # Found by the kernels: the name of the function comes with it all the same.
    *geometry_rows(
        {f: c for f, c in {**CALLS, **WINDOWS}.items() if f != "CLASS"}, [("K.flip(1), K", Value, "knots decrease")]
    ),
    ("F.separable_zoom(IMAGE, K, K.repeat(3, 1), (2, 2))", Value, "separable_zoom: knots_x is a batch of 3"),
    ("F.separable_zoom_frame(FRAME, K, K.repeat(2, 1), (2, 2))", Value, "zoom_frame: knots_x is a batch of 2"),
    # --- lz_knots_from_marginals
    *(
        (f"F.lz_knots_from_marginals({marginals})", error, f"lz_knots_from_marginals: {message}")
        for marginals, error, message in (
            ("K, [1.0]", Type, "marginal_x is list, expected a torch.Tensor [B, n]"),
            ("K[0], K", Value, "marginal_y is of shape [5], expected 2 dimensions [B, n]"),
            ("K, K[:, :1]", Value, "marginal_x is of shape [1, 1], expected at least 2 cells"),
            ("K.long(), K", Type, "marginal_y has dtype int64, expected a floating-point dtype"),
            ("K, K.double()", Value, "marginals are [1, 5] torch.float32 and [1, 5] torch.float64, expected one batch"),
            ("K, K.repeat(2, 1)", Value, "marginals are [1, 5] torch.float32 and [2, 5] torch.float32, expected one"),
            ("K, K_META", Value, "got marginal_y on cpu, marginal_x on meta, expected all on one device"),
            ("K, K, nan", Value, "fwhm is nan, expected"),
        )
    ),
    # --- cdf_knots
    ("F.cdf_knots(None)", Type, "cdf_knots: density is NoneType, expected a torch.Tensor [B, n]"),
    ("F.cdf_knots(K[0])", Value, "cdf_knots: density is of shape [5], expected 2 dimensions [B, n]"),
    ("F.cdf_knots(K[:, :0])", Value, "cdf_knots: density, knots is 0 cells"),
    ("F.cdf_knots(K.byte())", Type, "cdf_knots: density has dtype uint8, expected a floating-point dtype"),
    ("F.cdf_knots(K, 1)", Value, "cdf_knots: density, knots is 5 cells, 1 knots, expected at least 1 cell and 2 knots"),
    ("F.cdf_knots(K, -4)", Value, "cdf_knots: density, knots is 5 cells, -4 knots, expected"),
    ("F.cdf_knots(K, '3')", Type, "cdf_knots: knots is '3', expected an integer or None"),
    ("F.cdf_knots(K, 2.5)", Type, "cdf_knots: knots is 2.5, expected an integer or None"),
    # --- axis_map
    ("F.axis_map(3, K)", Type, "axis_map: knots is int, expected a torch.Tensor [B, n]"),
    ("F.axis_map(K, 3)", Type, "axis_map: positions is int, expected a torch.Tensor [B, m]"),
    ("F.axis_map(K[0], K)", Value, "axis_map: knots is of shape [5], expected 2 dimensions [B, n]"),
    ("F.axis_map(K, K[0])", Value, "axis_map: positions is of shape [5], expected 2 dimensions [B, m]"),
    ("F.axis_map(K.half(), K)", Type, "axis_map: knots has dtype float16, expected float32, float64"),
    ("F.axis_map(K, K.long())", Type, "axis_map: positions has dtype int64, expected float32, float64"),
    ("F.axis_map(K[:, :1], K)", Value, "axis_map: knots is of shape [1, 1], expected at least 2 knots"),
    ("F.axis_map(K, K_META)", Value, "axis_map: got knots on cpu, positions on meta, expected all on one device"),
    ("F.axis_map(K.repeat(2, 1), K.repeat(3, 1))", Value, "positions is a batch of 3, expected a batch of 1 or 2"),
    ("F.axis_map(K.flip(1), K)", Value, "axis_map: knots decrease somewhere, expected knots that never do"),
    # --- separable_windows
    *(
        (f"F.separable_windows(K, K, {arguments})", error, f"separable_windows: {message}")
        for arguments, error, message in (
            ("[(0, 3)], [(3, 3)]", Value, "sizes is (0, 3), expected a height and"),
            ("[(3, 3)], [(3, -3)]", Value, "source_sizes is (3, -3), expected"),
            ("(3, 3), [(3, 3)]", Type, "sizes is 3, expected two integers"),
            ("3, 3", Type, "sizes is 3, expected a list of (height, width)"),
            ("[], []", Value, "sizes is 0 and 0 levels, expected"),
            ("[(3, 3)], [(3, 3)] * 2", Value, "sizes is 1 and 2 levels, expected"),
            ("[(3, 3)], [(3, 3)], padding_mode='x'", Value, "padding_mode is 'x', expected 'zeros'"),
            ("[(3, 3)], [(3, 3)], valid='x'", Type, "valid is str, expected a torch.Tensor [B, levels, 2]"),
            ("[(3, 3)], [(3, 3)], valid=VALID", Value, "valid is of shape [1, 2], expected 3 dimensions"),
            ("[(3, 3)], [(3, 3)], valid=VALID[None].float()", Type, "valid has dtype float32"),
            (
                "[(3, 3)], [(3, 3)], valid=VALID.repeat(1, 2, 1)",
                Value,
                "valid is of shape [1, 2, 2], expected [B, 1, 2]",
            ),
            ("[(3, 3)], [(3, 3)], valid=VALID[None].to('meta')", Value, "got valid on meta, knots_y on cpu"),
        )
    ),
    # --- SeparableWarp
    ("SeparableWarp(K.flip(1), K).check()", Value, "check: knots_y[0, 0:2] is [1.0, 0.75], expected knots that never"),
    ("SeparableWarp(K, K * nan).check()", Value, "SeparableWarp.check: knots_x[0, 0] is nan, expected finite values"),
    ("SeparableWarp.from_marginals(K, 3)", Type, "marginal_x is int, expected a torch.Tensor [B, n]"),
    ("SeparableWarp.from_cdf(3, K)", Type, "density is int, expected a torch.Tensor [B, n]"),
    ("SeparableWarp.from_cdf(K, K, (1, 4))", Value, "1 knots, expected at least 1 cell and 2 knots"),
    ("SeparableWarp.from_cdf(K, K.double())", Type, "knots_y is torch.float32, knots_x is torch.float64"),
    ("SeparableWarp.from_cdf(K, K, 3)", Type, "SeparableWarp.from_cdf: knots is 3, expected two numbers or None"),
    ("SeparableWarp.from_cdf(K, K, (3,))", Value, "SeparableWarp.from_cdf: knots is (3,), expected two numbers or"),
    ("WARP.limited(2)", Value, "limited_knots: minimum is 2"),
    ("SeparableWarp.cat([WARP, SeparableWarp(K, K[:, :3])])", Value, "cat: warps is of [(5, 3), (5, 5)] knots"),
]

MESHES_ONLY: list[Row] = [
    *geometry_rows(ALL_MESHES, BAD_MESHES),
    *tile_rows("mesh_zoom", "F.mesh_zoom(IMAGE, MESH, (2, 2), tile={})"),
    *tile_rows("mesh_unzoom", "F.mesh_unzoom(IMAGE, MESH, tile={})"),
    *tile_rows("mesh_zoom_frame", "F.mesh_zoom_frame(FRAME, MESH, (2, 2), tile={})"),
    *tile_rows("mesh_grid", "F.mesh_grid(MESH, (2, 2), tile={})"),
    *tile_rows("mesh_magnification", "F.mesh_magnification(MESH, (2, 2), tile={})"),
    *tile_rows("mesh_map", "F.mesh_map(MESH, POINTS, tile={})"),
    *tile_rows("mesh_map_points", "F.mesh_map_points(POINTS, MESH, (3, 3), (4, 4), tile={})"),
    *tile_rows("MeshWarp", "MeshWarp(MESH, {})"),
    *tile_rows("MeshWarp", "MeshWarp.from_saliency(SALIENCY, tile={})"),
    *tile_rows("MeshWarp", "MeshWarp.identity(tile={})"),
    # --- mesh_map
    ("F.mesh_map(MESH, 3)", Type, "mesh_map: positions is int, expected a torch.Tensor [B, N, 2]"),
    ("F.mesh_map(MESH, POINTS[0])", Value, "mesh_map: positions is of shape [4, 2], expected 3 dimensions [B, N, 2]"),
    ("F.mesh_map(MESH, POINTS[..., :1])", Value, "positions is of shape [1, 4, 1], expected [B, N, 2], (x, y)"),
    ("F.mesh_map(MESH, POINTS.double())", Type, "mesh_map: positions has dtype float64, expected float32"),
    ("F.mesh_map(MESH, POINTS.to('meta'))", Value, "mesh_map: got mesh on cpu, positions on meta, expected all on one"),
    ("F.mesh_map(MESHES, POINTS.repeat(2, 1, 1))", Value, "positions is a batch of 2, expected a batch of 1 or 3"),
    # --- MeshWarp
    ("MeshWarp(MIRRORED).check()", Value, "MeshWarp.check: mesh is a mesh with 12 folded tiles (image 0: [0, "),
    ("MeshWarp(MESH_NAN).check()", Value, "check: mesh is a mesh with 1 vertices that are not finite (image 0: [1, 2"),
    ("MeshWarp.from_separable(3)", Type, "MeshWarp.from_separable: warp is int, expected a SeparableWarp"),
    ("MeshWarp.from_separable(WARP)", Type, "MeshWarp.from_separable: warp is MeshWarp, expected a SeparableWarp"),
    ("MeshWarp.from_offsets(3)", Type, "offset_mesh: offsets is int, expected a torch.Tensor [B, h, w, 2]"),
    ("MeshWarp.from_function(3)", Type, "function is int, expected a callable"),
    ("MeshWarp.from_control_points(POINTS, 3)", Type, "source is int, expected a torch.Tensor [B, N, 2]"),
    ("MeshWarp.cat([WARP, MeshWarp(MESH[:, :3])])", Value, "MeshWarp.cat: warps is of [((3, 5), 'bilinear'), ((4, 5)"),
    ("MeshWarp.cat([WARP, MeshWarp(MESH, 'homography')])", Value, "expected equal numbers of vertices and one kind of"),
    ("WARP.report(3)", Type, "report() takes 1 positional argument but 2 were given"),
]

REST: list[Row] = [
    # --- modules, backends
    ("nn.Zoom((2, 2))(IMAGE)", Value, "Zoom: made without a warp, expected one with each call"),
    ("nn.Zoom(3)", Type, "Zoom: size is 3, expected two integers"),
    ("nn.Zoom((0, 3))", Value, "Zoom: size is (0, 3), expected a height and a width"),
    ("nn.Zoom((2, 3), 3)", Type, "Zoom: warp is int, expected"),
    ("nn.Zoom((2, 2), MESH)", Type, "Zoom: warp is Tensor, expected a SeparableWarp, a MeshWarp or None"),
    ("nn.Zoom((2, 3), kind='quad')", Value, "Zoom: kind is 'quad', expected 'separable' or 'mesh'"),
    ("nn.Unzoom(saliency=SALIENCY, kind=None)", Value, "Unzoom: kind is None, expected 'separable' or 'mesh'"),
    ("nn.Zoom((2, 3), saliency=3)", Type, "saliency is int, expected a torch.Tensor"),
    ("nn.Unzoom(3)", Type, "Unzoom: warp is int, expected"),
    ("nn.Unzoom(padding_mode='mirror')", Value, "Unzoom: padding_mode is 'mirror', expected 'zeros' or 'border'"),
    ("fastwarp.backend('cuda').__enter__()", Value, "backend: name is 'cuda', expected one of auto, triton"),
    ("fastwarp.backend(None).__enter__()", Value, "backend: name is None, expected one of auto, triton"),
    ("fastwarp.warmup(processes=0)", Value, "warmup: processes is 0, expected an integer of at least 1"),
    ("fastwarp.warmup(processes='2')", Type, "warmup: processes is '2', expected an integer of at least 1"),
    ("fastwarp.warmup(dtypes=[torch.int32])", Type, "image has dtype int32, expected uint8, float16"),
]

LABEL_ROWS: list[Row] = [
    ("WARP.freeze((8, 0), (2, 2), [])", Value, "freeze: source_size is (8, 0)"),
    ("F.KIND_zoom_labels(3, GEOMETRY, (2, 2))", Type, "KIND_zoom_labels: labels is int, expected a torch.Tensor"),
    ("F.KIND_zoom_labels(IMAGE, GEOMETRY, (2, 2))", Type, "KIND_zoom_labels: labels has dtype float32"),
    ("F.KIND_zoom_labels(LABELS, GEOMETRY, (2, 0))", Value, "KIND_zoom_labels: size is (2, 0)"),
    ("F.KIND_zoom_labels(LABELS, GEOMETRY, (2, 2), 256)", Value, "KIND_zoom_labels: ignore_index is 256"),
    ("F.KIND_zoom_labels(LABELS, GEOMETRY, (2, 2), reduce='mean')", Value, "KIND_zoom_labels: reduce is 'mean'"),
    ("F.KIND_zoom_labels(LABELS, THREE, (2, 2))", Value, "KIND_zoom_labels: FIRST is a batch of 3"),
    ("F.KIND_unzoom_labels(LABELS[0, 0], GEOMETRY)", Value, "KIND_unzoom_labels: labels is of shape [9]"),
    ("F.KIND_unzoom_labels(LABELS, GEOMETRY, valid=VALID.float())", Type, "KIND_unzoom_labels: valid has dtype"),
    ("F.KIND_zoom_soft_labels(LABELS[None], GEOMETRY, (2, 2))", Type, "KIND_zoom_soft_labels: labels has dtype uint8"),
    ("F.KIND_unzoom_labels(LABELS, GEOMETRY, strides=2)", Value, "KIND_unzoom_labels: image_size is None, expected"),
    ("F.KIND_unzoom_labels(LABELS, GEOMETRY, image_size=5)", Type, "KIND_unzoom_labels: image_size is 5, expected"),
    (
        "F.KIND_unzoom_labels(LABELS, GEOMETRY, (2, 2), image_size=(8, 9))",
        Value,
        "got size and image_size, expected at",
    ),
    (
        "F.KIND_unzoom_labels(LABELS, GEOMETRY, image_size=(80, 9))",
        Value,
        "labels is a map of 8 x 9, which no stride",
    ),
    ("F.KIND_unzoom_labels(LABELS, THREE, image_size=(8, 9))", Value, "KIND_unzoom_labels: FIRST is a batch of 3"),
    ("F.KIND_unzoom_soft_labels(LABELS[None], GEOMETRY)", Type, "KIND_unzoom_soft_labels: labels has dtype uint8"),
    ("F.KIND_unzoom_soft_labels(IMAGE, GEOMETRY, strides=2)", Value, "KIND_unzoom_soft_labels: image_size is None"),
    ("F.KIND_unzoom_soft_labels(IMAGE, GEOMETRY, (2, 0))", Value, "KIND_unzoom_soft_labels: size is (2, 0)"),
    ("F.KIND_unzoom_soft_labels(IMAGE, THREE)", Value, "KIND_unzoom_soft_labels: FIRST is a batch of 3"),
    (
        "F.KIND_unzoom_soft_labels(IMAGE, GEOMETRY, source_valid=3)",
        Type,
        "KIND_unzoom_soft_labels: source_valid is int",
    ),
    (
        "WARP.unzoom_soft_labels(IMAGE, image_size=(8, 9), phase='x')",
        Type,
        "unzoom_soft_labels: phase is 'x', expected",
    ),
    ("WARP.zoom_labels(LABELS, 'a')", Type, "zoom_labels: size is 'a'"),
    ("WARP.unzoom_labels(LABELS, 3.5)", Type, "unzoom_labels: size is 3.5"),
    ("WARP.zoom_soft_labels(IMAGE[0], (2, 2))", Value, "zoom_soft_labels: labels is of shape [3, 8, 9]"),
]
BAD = [*for_kind(0, [*BOTH, *LABEL_ROWS, *SEPARABLE]), *for_kind(1, [*BOTH, *LABEL_ROWS, *MESHES_ONLY]), *REST]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input(call, error, message):
    """A call is written as text: pytest shows it, and every row reads like the code of a user."""
    tensors = {name: v for name, v in globals().items() if isinstance(v, torch.Tensor) and v.device.type != "meta"}
    before = {name: value.clone() for name, value in tensors.items()}
    with pytest.raises(error) as caught:
        eval(call)
    assert message in str(caught.value)
    # The type is the promised one: no IndexError, RuntimeError or plain ValueError.
    assert type(caught.value) in (Value, Type)
    for name, value in before.items():
        torch.testing.assert_close(tensors[name], value, rtol=0, atol=0, equal_nan=True, msg=f"{name} was modified")
    # And the library still works.
    for warp in (ROWS_AND_COLUMNS, QUADS):
        assert torch.allclose(warp.zoom(torch.ones(1, 1, 3, 3), (2, 2)), torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("kind", ["separable", "mesh"])
def test_a_failed_call_leaves_warps_and_modules_usable(kind):
    ones = torch.ones(1, 1, 3, 3)
    warp = {"separable": ROWS_AND_COLUMNS, "mesh": QUADS}[kind]
    module = nn.Unzoom(saliency=SALIENCY, kind=kind)
    for unzoom in (warp.unzoom, nn.Unzoom(warp), module):
        for bad in (3, ones[0], [ones, ones.half()], ones.to("meta")):
            with pytest.raises((Value, Type)):
                unzoom(bad)
        torch.testing.assert_close(unzoom(ones), ones)
    with pytest.raises(RuntimeError):
        module.load_state_dict({"saliency": SALIENCY[:, :2]})
    torch.testing.assert_close(module(ones), ones)


def test_every_public_name_has_bad_calls():
    calls = {call for call, _, _ in BAD}
    others = {"MeshReport", "downsize", "downsize_boxes", "relative_distance"}  # see test_downsize_errors
    others |= {"control_point_mesh", "function_mesh", "limited_knots", "offset_mesh"}  # see test_constructors
    others |= {"box_density", "box_knots"}  # see test_saliency and test_density
    for name in set(F.__all__) - others:
        assert any(f"F.{name}(" in call for call in calls), f"no bad call of F.{name}"
    for cls, warp in ((SeparableWarp, "ROWS_AND_COLUMNS"), (MeshWarp, "QUADS")):
        for name, _ in inspect.getmembers(cls, callable):
            if name[0] != "_" and name not in ("detach", "pin_memory"):
                bad = re.compile(rf"({warp}|{cls.__name__}).*\.{name}\(")
                assert any(map(bad.search, calls)), f"no bad call of {name}"


def test_errors_are_value_errors_and_say_so():
    assert issubclass(Value, ValueError)
    for warp in (ROWS_AND_COLUMNS, QUADS):
        with pytest.raises(IndexError, match="index 1 is out of range for a batch of 1"):
            warp[1]
