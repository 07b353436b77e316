"""Bad input to every public function and method: what is raised names function, argument, what was got and expected."""

from __future__ import annotations

import inspect
import os

import pytest
import torch
from helpers import run_python

import fastwarp
from fastwarp import FastwarpError, SeparableWarp, nn
from fastwarp import functional as F

nan = float("nan")
# The names that the calls below are made of.
K = torch.linspace(0, 1, 5)[None]
IMAGE = torch.rand(2, 3, 8, 9)
FRAME = torch.zeros(6, 7, 3, dtype=torch.uint8)
SALIENCY = torch.rand(1, 3, 4)
VALID = torch.tensor([[8, 9]])
POINTS = torch.rand(1, 4, 2)
BOXES = torch.rand(3, 4)
WARP = SeparableWarp(K, K)
META = K.to("meta")

FUNCTIONS = [n for n in F.__all__ if not any(word in n.lower() for word in ("mesh", "downsize", "relative"))]
# The others are in test_mesh_functional and test_downsize_functional.

Value, Type = FastwarpError, TypeError


BAD = [
    # --- lz_knots
    ("F.lz_knots(3)", Type, "lz_knots: saliency is int, expected a torch.Tensor [B, h, w]"),
    ("F.lz_knots(SALIENCY[0])", Value, "lz_knots: saliency is of shape [3, 4], expected 3 dimensions [B, h, w]"),
    ("F.lz_knots(SALIENCY[:, :1])", Value, "lz_knots: saliency is of shape [1, 1, 4], expected at least 2 x 2 cells"),
    ("F.lz_knots(SALIENCY[:, :0])", Value, "lz_knots: saliency is of shape [1, 0, 4], expected at least 2 x 2 cells"),
    ("F.lz_knots(SALIENCY.int())", Type, "lz_knots: saliency has dtype int32, expected a floating-point dtype"),
    ("F.lz_knots(SALIENCY + 1j)", Type, "lz_knots: saliency has dtype complex64, expected a floating-point dtype"),
    ("F.lz_knots(SALIENCY, 0)", Value, "lz_knots: fwhm is 0, expected a positive, finite number"),
    ("F.lz_knots(SALIENCY, -1.5)", Value, "lz_knots: fwhm is -1.5, expected a positive, finite number"),
    ("F.lz_knots(SALIENCY, nan)", Value, "lz_knots: fwhm is nan, expected a positive, finite number"),
    ("F.lz_knots(SALIENCY, float('inf'))", Value, "lz_knots: fwhm is inf, expected a positive, finite number"),
    ("F.lz_knots(SALIENCY, '13')", Type, "lz_knots: fwhm is str, expected a number"),
    ("F.lz_knots(SALIENCY, True)", Type, "lz_knots: fwhm is bool, expected a number"),
    # --- lz_knots_from_marginals
    (
        "F.lz_knots_from_marginals(K, [1.0])",
        Type,
        "lz_knots_from_marginals: marginal_x is list, expected a torch.Tensor",
    ),
    (
        "F.lz_knots_from_marginals(K[0], K)",
        Value,
        "lz_knots_from_marginals: marginal_y is of shape [5], expected 2 dim",
    ),
    (
        "F.lz_knots_from_marginals(K, K[:, :1])",
        Value,
        "lz_knots_from_marginals: marginal_x is of shape [1, 1], expected",
    ),
    ("F.lz_knots_from_marginals(K.long(), K)", Type, "lz_knots_from_marginals: marginal_y has dtype int64, expected"),
    (
        "F.lz_knots_from_marginals(K, K.double())",
        Value,
        "lz_knots_from_marginals: marginals are [1, 5] torch.float32 and",
    ),
    (
        "F.lz_knots_from_marginals(K, K.repeat(2, 1))",
        Value,
        "and [2, 5] torch.float32, expected one batch size and one",
    ),
    (
        "F.lz_knots_from_marginals(K, META)",
        Value,
        "got marginal_y on cpu, marginal_x on meta, expected all on one device",
    ),
    ("F.lz_knots_from_marginals(K, K, nan)", Value, "lz_knots_from_marginals: fwhm is nan, expected a positive"),
    # --- cdf_knots
    ("F.cdf_knots(None)", Type, "cdf_knots: density is NoneType, expected a torch.Tensor [B, n]"),
    ("F.cdf_knots(K[0])", Value, "cdf_knots: density is of shape [5], expected 2 dimensions [B, n]"),
    ("F.cdf_knots(K[:, :0])", Value, "cdf_knots: density, knots is 0 cells"),
    ("F.cdf_knots(K.byte())", Type, "cdf_knots: density has dtype uint8, expected a floating-point dtype"),
    ("F.cdf_knots(K, 1)", Value, "cdf_knots: density, knots is 5 cells, 1 knots, expected at least 1 cell and 2 knots"),
    ("F.cdf_knots(K, -4)", Value, "cdf_knots: density, knots is 5 cells, -4 knots, expected"),
    ("F.cdf_knots(K, '3')", Type, "cdf_knots: knots is "),
    ("F.cdf_knots(K, 2.5)", Type, "cdf_knots: knots is "),
    # --- axis_map
    ("F.axis_map(3, K)", Type, "is int, expected a torch.Tensor [B, n]"),
    ("F.axis_map(K, 3)", Type, "axis_map: positions is int, expected a torch.Tensor [B, m]"),
    ("F.axis_map(K[0], K)", Value, "axis_map: knots_y is of shape [5], expected 2 dimensions [B, n]"),
    ("F.axis_map(K, K[0])", Value, "axis_map: positions is of shape [5], expected 2 dimensions [B, m]"),
    ("F.axis_map(K.half(), K)", Type, "has dtype float16, expected float32, float64"),
    ("F.axis_map(K, K.long())", Type, "axis_map: positions has dtype int64, expected float32, float64"),
    ("F.axis_map(K[:, :1], K)", Value, "is of shape [1, 1], expected at least 2 knots"),
    ("F.axis_map(K, META)", Value, "axis_map: got knots on cpu, positions on meta, expected all on one device"),
    ("F.axis_map(K.repeat(2, 1), K.repeat(3, 1))", Value, "positions is a batch of 3, expected a batch of 1 or 2"),
    ("F.axis_map(K.flip(1), K)", Value, "knots decrease somewhere, expected knots that never do"),
    ("F.axis_map(K.flip(1), K)", Value, "axis_map: knots"),
    # --- separable_windows
    (
        "F.separable_windows('k', K, [(3, 3)], [(3, 3)])",
        Type,
        "separable_windows: knots_y is str, expected a torch.Tensor",
    ),
    (
        "F.separable_windows(K, K, [(0, 3)], [(3, 3)])",
        Value,
        "separable_windows: sizes is (0, 3), expected a height and",
    ),
    ("F.separable_windows(K, K, [(3, 3)], [(3, -3)])", Value, "separable_windows: source_sizes is (3, -3), expected"),
    ("F.separable_windows(K, K, (3, 3), [(3, 3)])", Type, "separable_windows: sizes is 3, expected two integers"),
    ("F.separable_windows(K, K, [], [])", Value, "separable_windows: sizes is 0 and 0 levels, expected"),
    (
        "F.separable_windows(K, K, [(3, 3)], [(3, 3)] * 2)",
        Value,
        "separable_windows: sizes is 1 and 2 levels, expected",
    ),
    (
        "F.separable_windows(K, K, [(3, 3)], [(3, 3)], padding_mode='x')",
        Value,
        "separable_windows: padding_mode is 'x', expected 'zeros'",
    ),
    (
        "F.separable_windows(K, K.double(), [(3, 3)], [(3, 3)])",
        Type,
        "knots_y is torch.float32, knots_x is torch.float64",
    ),
    (
        "F.separable_windows(K, META, [(3, 3)], [(3, 3)])",
        Value,
        "separable_windows: got knots_y on cpu, knots_x on meta",
    ),
    ("F.separable_windows(K.flip(1), K, [(3, 3)], [(3, 3)])", Value, "knots decrease somewhere"),
    ("F.separable_windows(K, K, 3, 3)", Type, "separable_windows: sizes is 3"),
    ("F.separable_windows(K, K, [(3, 3)], [(3, 3)], valid='x')", Type, "separable_windows: valid is str"),
    (
        "F.separable_windows(K, K, [(3, 3)], [(3, 3)], valid=VALID)",
        Value,
        "separable_windows: valid is of shape [1, 2]",
    ),
    ("F.separable_windows(K, K, [(3, 3)], [(3, 3)], valid=VALID[None].float())", Type, "valid has dtype float32"),
    (
        "F.separable_windows(K, K, [(3, 3)], [(3, 3)], valid=VALID.repeat(1, 2, 1))",
        Value,
        "separable_windows: valid is",
    ),
    ("F.separable_windows(K, K, [(3, 3)], [(3, 3)], valid=VALID[None].to('meta'))", Value, "valid on meta"),
    # --- separable_zoom
    ("F.separable_zoom('i', K, K, (2, 2))", Type, "separable_zoom: image is str, expected a torch.Tensor [B, C, H, W]"),
    ("F.separable_zoom(IMAGE[0], K, K, (2, 2))", Value, "separable_zoom: image is of shape [3, 8, 9], expected 4 dim"),
    (
        "F.separable_zoom(IMAGE.int(), K, K, (2, 2))",
        Type,
        "separable_zoom: image has dtype int32, expected uint8, float16",
    ),
    (
        "F.separable_zoom(IMAGE > 0, K, K, (2, 2))",
        Type,
        "separable_zoom: image has dtype bool, expected uint8, float16",
    ),
    (
        "F.separable_zoom(IMAGE[:, :, :0], K, K, (2, 2))",
        Value,
        "separable_zoom: image is of shape [2, 3, 0, 9], expected",
    ),
    ("F.separable_zoom(IMAGE, K, K, 2)", Type, "separable_zoom: size is 2, expected two integers (height, width)"),
    ("F.separable_zoom(IMAGE, K, K, (2,))", Type, "separable_zoom: size is (2,), expected two integers"),
    ("F.separable_zoom(IMAGE, K, K, (2, 2.0))", Type, "separable_zoom: size is (2, 2.0), expected two integers"),
    ("F.separable_zoom(IMAGE, K, K, (True, 2))", Type, "separable_zoom: size is (True, 2), expected two integers"),
    ("F.separable_zoom(IMAGE, K, K, '22')", Type, "separable_zoom: size is '22', expected two integers"),
    (
        "F.separable_zoom(IMAGE, K, K, (0, 2))",
        Value,
        "separable_zoom: size is (0, 2), expected a height and a width of",
    ),
    (
        "F.separable_zoom(IMAGE, K, K, (2, -2))",
        Value,
        "separable_zoom: size is (2, -2), expected a height and a width of",
    ),
    ("F.separable_zoom(IMAGE, 3, K, (2, 2))", Type, "separable_zoom: knots_y is int, expected a torch.Tensor [B, n]"),
    (
        "F.separable_zoom(IMAGE, K, K.half(), (2, 2))",
        Type,
        "separable_zoom: knots_x has dtype float16, expected float32",
    ),
    (
        "F.separable_zoom(IMAGE, K, K[:, :1], (2, 2))",
        Value,
        "separable_zoom: knots_x is of shape [1, 1], expected at least",
    ),
    (
        "F.separable_zoom(IMAGE, META, META, (2, 2))",
        Value,
        "separable_zoom: got image on cpu, knots_y on meta, expected",
    ),
    (
        "F.separable_zoom(IMAGE, K.repeat(3, 1), K, (2, 2))",
        Value,
        "knots_y is a batch of 3, expected a batch of 1 or 2",
    ),
    ("F.separable_zoom(IMAGE, K.flip(1), K, (2, 2))", Value, "knots decrease somewhere"),
    (
        "F.separable_zoom(IMAGE, K, K, (2, 2), valid=(8, 9))",
        Type,
        "separable_zoom: valid is tuple, expected a torch.Tensor",
    ),
    (
        "F.separable_zoom(IMAGE, K, K, (2, 2), valid=VALID[0])",
        Value,
        "separable_zoom: valid is of shape [2], expected 2 dim",
    ),
    (
        "F.separable_zoom(IMAGE, K, K, (2, 2), valid=VALID[:, :1])",
        Value,
        "separable_zoom: valid is of shape [1, 1], expected",
    ),
    (
        "F.separable_zoom(IMAGE, K, K, (2, 2), valid=VALID / 2)",
        Type,
        "separable_zoom: valid has dtype float32, expected int32",
    ),
    (
        "F.separable_zoom(IMAGE, K, K, (2, 2), source_valid=VALID.repeat(3, 1))",
        Value,
        "separable_zoom: source_valid is a batch of 3, expected a batch of 1 or 2",
    ),
    (
        "F.separable_zoom(IMAGE, K, K, (2, 2), source_valid=VALID.to('meta'))",
        Value,
        "separable_zoom: got source_valid on m",
    ),
    ("F.separable_zoom(IMAGE, K, K.repeat(3, 1), (2, 2))", Value, "separable_zoom: knots"),
    ("F.separable_zoom(IMAGE[:1], K, K.repeat(3, 1), (2, 2))", Value, "separable_zoom: knots"),
    ("F.separable_zoom(IMAGE[:1], K, K, (2, 2), valid=VALID.repeat(3, 1))", Value, "separable_zoom: "),
    ("F.separable_zoom(IMAGE[:1], K, K, (2, 2), source_valid=VALID.repeat(3, 1))", Value, "separable_zoom: "),
    # --- separable_unzoom
    ("F.separable_unzoom(3, K, K)", Type, "separable_unzoom: features is int, expected a torch.Tensor [B, C, H, W]"),
    (
        "F.separable_unzoom([IMAGE, None], K, K)",
        Type,
        "separable_unzoom: features is NoneType, expected a torch.Tensor",
    ),
    ("F.separable_unzoom([], K, K)", Value, "separable_unzoom: features is empty, expected at least one level"),
    ("F.separable_unzoom({}, K, K)", Value, "separable_unzoom: features is empty, expected at least one level"),
    (
        "F.separable_unzoom(IMAGE[None], K, K)",
        Value,
        "separable_unzoom: features is of shape [1, 2, 3, 8, 9], expected 4",
    ),
    (
        "F.separable_unzoom([IMAGE, IMAGE[:1]], K, K)",
        Value,
        "separable_unzoom: levels is of batch 2 and 1, expected one",
    ),
    (
        "F.separable_unzoom([IMAGE, IMAGE.half()], K, K)",
        Type,
        "levels are torch.float32 and torch.float16, expected one",
    ),
    ("F.separable_unzoom([IMAGE] * 2, K, K, (2, 2))", Type, "separable_unzoom: size is 2, expected two integers"),
    (
        "F.separable_unzoom([IMAGE] * 2, K, K, [(2, 2)])",
        Value,
        "separable_unzoom: size is 1 long, expected a list or tuple",
    ),
    ("F.separable_unzoom({'a': IMAGE}, K, K, [(2, 2)])", Value, "size is list, expected a dict with the keys ['a']"),
    (
        "F.separable_unzoom({'a': IMAGE}, K, K, {'b': (2, 2)})",
        Value,
        "size is ['b'], expected a dict with the keys ['a']",
    ),
    (
        "F.separable_unzoom(IMAGE, K, K, {'b': (2, 2)})",
        Type,
        "separable_unzoom: size is {'b': (2, 2)}, expected two int",
    ),
    ("F.separable_unzoom([IMAGE], K, K, [(0, 2)])", Value, "separable_unzoom: size is (0, 2), expected a height and"),
    (
        "F.separable_unzoom(IMAGE, K, K, padding_mode='mirror')",
        Value,
        "separable_unzoom: padding_mode is 'mirror', expected 'zeros' or",
    ),
    (
        "F.separable_unzoom(IMAGE, K, K, padding_mode=0)",
        Value,
        "separable_unzoom: padding_mode is 0, expected 'zeros' or 'border'",
    ),
    (
        "F.separable_unzoom([IMAGE] * 2, K, K, valid=VALID)",
        Value,
        "separable_unzoom: valid is Tensor, expected a list or",
    ),
    (
        "F.separable_unzoom([IMAGE] * 2, K, K, valid=[VALID])",
        Value,
        "separable_unzoom: valid is 1 long, expected a list or",
    ),
    (
        "F.separable_unzoom([IMAGE] * 2, K, K, valid=[VALID, 3])",
        Type,
        "separable_unzoom: valid is int, expected a torch.",
    ),
    (
        "F.separable_unzoom(IMAGE, K, META)",
        Value,
        "separable_unzoom: got knots_y on cpu, knots_x on meta, expected all",
    ),
    ("F.separable_unzoom(IMAGE, K, K.flip(1))", Value, "knots decrease somewhere"),
    ("F.separable_unzoom(IMAGE, K, K.flip(1))", Value, "separable_unzoom: knots"),
    ("F.separable_unzoom([IMAGE] * 2, K, K, valid=[VALID, VALID.to('meta')])", Value, "separable_unzoom: "),
    # --- zoom_frame
    (
        "F.separable_zoom_frame(3, K, K, (2, 2))",
        Type,
        "separable_zoom_frame: frame is int, expected a torch.Tensor [B, H, W, C]",
    ),
    (
        "F.separable_zoom_frame(FRAME[0], K, K, (2, 2))",
        Value,
        "separable_zoom_frame: frame is of shape [7, 3], expected 4 dimensions",
    ),
    (
        "F.separable_zoom_frame(FRAME.float(), K, K, (2, 2))",
        Type,
        "separable_zoom_frame: frame has dtype float32, expected uint8",
    ),
    (
        "F.separable_zoom_frame(FRAME[:0], K, K, (2, 2))",
        Value,
        "separable_zoom_frame: frame is of shape [1, 0, 7, 3], expected no empty dim",
    ),
    (
        "F.separable_zoom_frame(FRAME, K, K, (2,))",
        Type,
        "separable_zoom_frame: size is (2,), expected two integers (height, width)",
    ),
    (
        "F.separable_zoom_frame(FRAME, K, K, (2, 0))",
        Value,
        "separable_zoom_frame: size is (2, 0), expected a height and a width of at least",
    ),
    (
        "F.separable_zoom_frame(FRAME, K, K, (2, 2), mean=(1, 2))",
        Value,
        "separable_zoom_frame: mean is 2 long, expected one value for each",
    ),
    (
        "F.separable_zoom_frame(FRAME, K, K, (2, 2), std=(1, 0, 1))",
        Value,
        "separable_zoom_frame: std is [1, 0, 1], expected values other than 0",
    ),
    (
        "F.separable_zoom_frame(FRAME, K, K, (2, 2), dtype=torch.int8)",
        Type,
        "separable_zoom_frame: dtype is torch.int8, expected float16",
    ),
    (
        "F.separable_zoom_frame(FRAME, K, K, (2, 2), dtype='half')",
        Type,
        "separable_zoom_frame: dtype is half, expected float16, bfloat16",
    ),
    (
        "F.separable_zoom_frame(FRAME, K.half(), K, (2, 2))",
        Type,
        "separable_zoom_frame: knots_y has dtype float16, expected float32, float64",
    ),
    (
        "F.separable_zoom_frame(FRAME, META, META, (2, 2))",
        Value,
        "separable_zoom_frame: got frame on cpu, knots_y on meta, expected all on",
    ),
    (
        "F.separable_zoom_frame(FRAME, K.repeat(2, 1), K, (2, 2))",
        Value,
        "separable_zoom_frame: knots_y is a batch of 2, expected a batch of 1",
    ),
    (
        "F.separable_zoom_frame(FRAME, K, K, (2, 2), valid=VALID.float())",
        Type,
        "separable_zoom_frame: valid has dtype float32, expected int32",
    ),
    ("F.separable_zoom_frame(FRAME, K, K, (2, 2), mean=5)", Type, "separable_zoom_frame: mean is "),
    ("F.separable_zoom_frame(FRAME, K, K, (2, 2), mean='abc')", Type, "separable_zoom_frame: mean is "),
    ("F.separable_zoom_frame(FRAME, K, K, (2, 2), std=(nan, 1, 1))", Value, "separable_zoom_frame: std is "),
    ("F.separable_zoom_frame(FRAME, K, K, (2, 2), dtype=torch.float8_e4m3fn)", Type, "separable_zoom_frame: dtype is "),
    (
        "F.separable_zoom_frame(FRAME, K, K.repeat(2, 1), (2, 2))",
        Value,
        "separable_zoom_frame: knots_x is a batch of 2",
    ),
    ("F.separable_zoom_frame(FRAME, K, K, (2, 2), valid=VALID.repeat(2, 1))", Value, "separable_zoom_frame: "),
    # --- grids, magnification, points
    ("F.separable_grid(K, K, 3)", Type, "separable_grid: size is 3, expected two integers (height, width)"),
    (
        "F.separable_grid(K, K, (0, 1))",
        Value,
        "separable_grid: size is (0, 1), expected a height and a width of at least",
    ),
    ("F.separable_grid(K[0], K, (1, 1))", Value, "knots_y is of shape [5], expected 2 dimensions [B, n]"),
    ("F.separable_grid(K, META, (1, 1))", Value, "got knots_y on cpu, knots_x on meta, expected all on one device"),
    ("F.separable_grid(K[0], K, (1, 1))", Value, "separable_grid: knots_y is of shape [5]"),
    ("F.separable_inside(K, K, (0, 1))", Value, "size is (0, 1), expected a height and a width of at least 1"),
    ("F.separable_inside(K, 3, (2, 1))", Type, "knots_x is int, expected a torch.Tensor [B, n]"),
    ("F.separable_inside(K, K, (0, 1))", Value, "separable_inside: size is (0, 1)"),
    (
        "F.separable_magnification(K, K, (0, 1))",
        Value,
        "separable_magnification: size is (0, 1), expected a height and",
    ),
    (
        "F.separable_magnification(K, K[0], (2, 1))",
        Value,
        "separable_magnification: knots_x is of shape [5], expected 2",
    ),
    ("F.separable_magnification(K.flip(1), K, (2, 1))", Value, "knots decrease somewhere"),
    (
        "F.separable_map_points('p', K, K, (3, 3), (4, 4))",
        Type,
        "separable_map_points: points is str, expected a torch.Tensor [B, N, 2]",
    ),
    (
        "F.separable_map_points(POINTS[0], K, K, (3, 3), (4, 4))",
        Value,
        "separable_map_points: points is of shape [4, 2], expected 3 dim",
    ),
    (
        "F.separable_map_points(POINTS[..., :1], K, K, (3, 3), (4, 4))",
        Value,
        "separable_map_points: points is of shape [1, 4, 1], expected",
    ),
    (
        "F.separable_map_points(POINTS.long(), K, K, (3, 3), (4, 4))",
        Type,
        "separable_map_points: points has dtype int64, expected a floating-",
    ),
    (
        "F.separable_map_points(POINTS, K, K, 3, (4, 4))",
        Type,
        "separable_map_points: source_size is 3, expected two integers",
    ),
    (
        "F.separable_map_points(POINTS, K, K, (3, 3), (4, 0))",
        Value,
        "separable_map_points: size is (4, 0), expected a height and a width of",
    ),
    (
        "F.separable_map_points(POINTS, K, K, VALID.float(), (4, 4))",
        Type,
        "separable_map_points: source_size has dtype float32, expected int32",
    ),
    (
        "F.separable_map_points(POINTS, K, K, VALID[0], (4, 4))",
        Value,
        "separable_map_points: source_size is of shape [2], expected 2 dimen",
    ),
    (
        "F.separable_map_points(POINTS, META, META, (3, 3), (4, 4))",
        Value,
        "separable_map_points: got points on cpu, knots_y on meta, expected",
    ),
    (
        "F.separable_map_points(POINTS.repeat(2, 1, 1), K.repeat(3, 1), K, (3, 3), (4, 4))",
        Value,
        "separable_map_points: knots_y is a batch of 3, expected a batch of 1 or 2",
    ),
    (
        "F.separable_map_points(POINTS.repeat(2, 1, 1), K, K, VALID.repeat(3, 1), (4, 4))",
        Value,
        "separable_map_points: ",
    ),
    (
        "F.separable_map_points(POINTS, K, K, VALID[:, :1], (4, 4))",
        Value,
        "separable_map_points: source_size is of shape [1, 1]",
    ),
    ("F.separable_map_points(POINTS, K, K, (3, 3), VALID.to('meta'))", Value, "separable_map_points: "),
    # --- SeparableWarp
    ("SeparableWarp(K, 3)", Type, "SeparableWarp: knots_x is int, expected a torch.Tensor [B, n]"),
    ("SeparableWarp(K[0], K)", Value, "SeparableWarp: knots_y is of shape [5], expected 2 dimensions [B, n]"),
    ("SeparableWarp(K[:, :1], K)", Value, "SeparableWarp: knots_y is of shape [1, 1], expected at least 2 knots"),
    ("SeparableWarp(K, K.half())", Type, "SeparableWarp: knots_x has dtype float16, expected float32, float64"),
    ("SeparableWarp(K, K.double())", Type, "knots_y is torch.float32, knots_x is torch.float64, expected one dtype"),
    ("SeparableWarp(K, META)", Value, "SeparableWarp: got knots_y on cpu, knots_x on meta, expected all on one device"),
    (
        "SeparableWarp(K.repeat(2, 1), K.repeat(3, 1))",
        Value,
        "SeparableWarp: knots_x is a batch of 3, expected a batch of 1 or 2",
    ),
    ("SeparableWarp(3, K)", Type, "SeparableWarp: knots_y is int, expected a torch.Tensor [B, n]"),
    ("SeparableWarp(K.flip(1), K).check()", Value, "check: knots_y[0, 0:2] is [1.0, 0.75], expected knots that never"),
    ("SeparableWarp(K, K * nan).check()", Value, "SeparableWarp.check: knots_x[0, 0] is nan, expected finite values"),
    ("SeparableWarp.from_saliency(3)", Type, "saliency is int, expected a torch.Tensor [B, h, w]"),
    ("SeparableWarp.from_marginals(K, 3)", Type, "marginal_x is int, expected a torch.Tensor [B, n]"),
    ("SeparableWarp.from_cdf(3, K)", Type, "density is int, expected a torch.Tensor [B, n]"),
    ("SeparableWarp.from_cdf(K, K, (1, 4))", Value, "1 knots, expected at least 1 cell and 2 knots"),
    ("SeparableWarp.from_cdf(K, K.double())", Type, "knots_y is torch.float32, knots_x is torch.float64"),
    ("SeparableWarp.from_cdf(K, K, 3)", Type, "knots is 3"),
    ("SeparableWarp.from_cdf(K, K, (3,))", Value, "knots is (3,)"),
    ("SeparableWarp.identity(1, (1, 3))", Value, "knots_y is of shape [1, 1], expected at least 2 knots"),
    ("SeparableWarp.identity(1, dtype=torch.half)", Type, "knots_y has dtype float16, expected float32, float64"),
    ("SeparableWarp.identity(-1)", Value, "identity: batch is -1"),
    ("SeparableWarp.identity('a')", Type, "identity: batch is 'a'"),
    ("SeparableWarp.identity(1, 3)", Type, "identity: shape is 3"),
    ("SeparableWarp.identity(1, (3,))", Type, "identity: shape is (3,)"),
    ("SeparableWarp.cat([])", Value, "SeparableWarp.cat: warps is empty, expected at least one warp"),
    (
        "SeparableWarp.cat([WARP, SeparableWarp(K, K[:, :3])])",
        Value,
        "SeparableWarp.cat: warps is of [(5, 3), (5, 5)] knots",
    ),
    ("SeparableWarp.cat([3])", Type, "SeparableWarp.cat: warps"),
    ("SeparableWarp.cat([WARP, WARP.to('meta')])", Value, "SeparableWarp.cat: "),
    ("WARP.to(dtype=torch.half)", Type, "knots_y has dtype float16, expected float32, float64"),
    ("WARP.zoom(IMAGE, 3)", Type, "zoom: size is 3, expected two integers (height, width)"),
    ("WARP.unzoom([IMAGE, 3])", Type, "unzoom: features is int, expected a torch.Tensor [B, C, H, W]"),
    ("WARP.zoom_frame(IMAGE, (2, 2))", Type, "separable_zoom_frame: frame has dtype float32, expected uint8"),
    ("WARP.zoom_frame(FRAME, (2, 2), means=3)", Type, "zoom_frame() got an unexpected keyword argument 'means'"),
    ("WARP.grid((2, 0))", Value, "grid: size is (2, 0), expected a height and a width of at least 1"),
    ("WARP.inverse_grid(2)", Type, "grid: size is 2, expected two integers (height, width)"),
    ("WARP.inside((2,))", Type, "size is (2,), expected two integers (height, width)"),
    ("WARP.magnification((2, 2.5))", Type, "magnification: size is (2, 2.5), expected two integers (height, width)"),
    ("WARP.zoom_points(3, (3, 3), (3, 3))", Type, "zoom_points: points is int, expected a torch.Tensor [B, N, 2]"),
    (
        "WARP.zoom_points(BOXES, (3, 3), (3, 3))",
        Value,
        "zoom_points: points is of shape [1, 3, 4], expected [B, N, 2]",
    ),
    ("WARP.unzoom_points(BOXES[0], (3, 3), (3, 3))", Value, "unzoom_points: points is of shape [4], expected 3"),
    (
        "WARP.zoom_boxes(BOXES.long(), (3, 3), (3, 3))",
        Type,
        "zoom_boxes: boxes has dtype int64, expected a floating",
    ),
    ("WARP.zoom_corners(3, (3, 3), (3, 3))", Type, "zoom_corners: boxes is int, expected a torch.Tensor [B, N, 4]"),
    ("WARP.zoom_corners(POINTS, (3, 3), (3, 3))", Value, "zoom_corners: boxes is of shape [1, 4, 2], expected [B, N,"),
    ("WARP.unzoom_corners(BOXES.long(), (3, 3), (3, 3))", Type, "unzoom_corners: boxes has dtype int64, expected a"),
    ("WARP.unzoom_corners(BOXES, (3, 0), (3, 3))", Value, "size is (3, 0), expected a height and a width of at least"),
    (
        "WARP[[0, 0]].unzoom_corners(BOXES, (3, 3), (3, 3))",
        Value,
        "unzoom_corners: boxes is of shape [3, 4], expected [2, N, 4]",
    ),
    (
        "WARP.unzoom_boxes(BOXES[:, :2], (3, 3), (3, 3))",
        Value,
        "unzoom_boxes: boxes is of shape [1, 3, 2], expected",
    ),
    ("WARP.unzoom_boxes(BOXES, (3, 3), None)", Type, "size is None, expected two integers (height, width)"),
    (
        "WARP[[0, 0]].zoom_boxes(BOXES, (3, 3), (3, 3))",
        Value,
        "zoom_boxes: boxes is of shape [3, 4], expected [2, N, 4]",
    ),
    # --- modules, backends
    (
        "nn.Zoom((2, 2), WARP, saliency=SALIENCY)",
        Value,
        "Zoom: got a warp and a saliency, expected at most one of them",
    ),
    ("nn.Zoom((2, 2), saliency=SALIENCY[0])", Value, "saliency is of shape [3, 4], expected 3 dimensions [B, h, w]"),
    ("nn.Zoom((2, 2), saliency=SALIENCY, fwhm=nan)", Value, "fwhm is nan, expected a positive, finite number"),
    ("nn.Zoom((2, 2))(IMAGE)", Value, "Zoom: made without a warp, expected one with each call"),
    ("nn.Zoom((2, 2), WARP)(3)", Type, "image is int, expected a torch.Tensor [B, C, H, W]"),
    ("nn.Unzoom(WARP)([IMAGE, 3])", Type, "features is int, expected a torch.Tensor [B, C, H, W]"),
    ("nn.Unzoom()(IMAGE)", Value, "Unzoom: made without a warp, expected one with each call"),
    ("nn.Zoom(3)", Type, "Zoom: size is 3, expected two integers"),
    ("nn.Zoom((0, 3))", Value, "Zoom: size is (0, 3), expected a height and a width"),
    ("nn.Zoom((2, 3), 3)", Type, "Zoom: warp is int, expected"),
    ("nn.Zoom((2, 3), kind='quad')", Value, "Zoom: kind is 'quad', expected 'separable' or 'mesh'"),
    ("nn.Unzoom(saliency=SALIENCY, kind=None)", Value, "Unzoom: kind is None, expected 'separable' or 'mesh'"),
    ("nn.Zoom((2, 3), saliency=3)", Type, "saliency is int, expected a torch.Tensor"),
    ("nn.Zoom((2, 3), WARP)(IMAGE, 3)", Type, "Zoom: warp is int, expected"),
    ("nn.Unzoom(3)", Type, "Unzoom: warp is int, expected"),
    ("nn.Unzoom(padding_mode='mirror')", Value, "Unzoom: padding_mode is 'mirror', expected 'zeros' or 'border'"),
    (
        "fastwarp.backend('cuda').__enter__()",
        Value,
        "backend: name is 'cuda', expected one of auto, triton, numba, refer",
    ),
    (
        "fastwarp.backend(None).__enter__()",
        Value,
        "backend: name is None, expected one of auto, triton, numba, reference",
    ),
    ("fastwarp.warmup(dtypes=[torch.int32])", Type, "image has dtype int32, expected uint8, float16"),
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
            assert torch.equal(globals()[name], before), f"{name} was modified"
    # And the library still works.
    assert torch.allclose(WARP.zoom(torch.ones(1, 1, 3, 3), (2, 2)), torch.ones(1, 1, 2, 2))


def test_every_public_name_has_bad_calls():
    calls = " ".join(row.values[0] if hasattr(row, "values") else row[0] for row in BAD)
    methods = {name for name, _ in inspect.getmembers(SeparableWarp, callable) if name[0] != "_"} - {"detach"}
    for name in [*(f"F.{n}" for n in FUNCTIONS), *(f".{n}" for n in methods)]:
        assert f"{name}(" in calls, f"no bad call of {name}"


def test_errors_are_value_errors_and_say_so():
    assert issubclass(FastwarpError, ValueError)
    with pytest.raises(IndexError, match="index 1 is out of range for a batch of 1"):
        WARP[1]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_documentation_of_functions(name):
    function = getattr(F, name)
    text = inspect.getdoc(function)
    assert text
    sections = [line for line in text.splitlines() if line.endswith(":") and line[:1].isalpha()]
    assert {"Args:", "Returns:"} <= set(sections)
    arguments = text.partition("Args:")[2].partition("Returns:")[0]
    for argument in inspect.signature(function).parameters:
        assert f"{argument}:" in arguments, f"{name} does not document {argument}"


def test_documentation_of_methods():
    for name, method in inspect.getmembers(SeparableWarp, callable):
        if name[0] != "_":
            assert inspect.getdoc(method), f"SeparableWarp.{name} has no docstring"
    for kind in (nn.Zoom, nn.Unzoom):
        for argument in list(inspect.signature(kind).parameters):
            assert f"{argument}:" in inspect.getdoc(kind), f"{kind.__name__} does not document {argument}"


# --- backends ---------------------------------------------------------------------------------------------------------


def test_triton_serves_cpu_tensors_only_in_its_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with fastwarp.backend("triton"), pytest.raises(FastwarpError, match="interpreter: set TRITON_INTERPRET=1"):
        WARP.zoom(IMAGE, (2, 2))
    assert WARP.zoom(IMAGE, (2, 2)).shape == (2, 3, 2, 2)


def test_backend_is_put_back_whatever_happens():
    active = fastwarp._backend._active
    seen = []

    def fail() -> None:
        seen.append(fastwarp._backend._active)
        raise RuntimeError("mine")

    with fastwarp.backend("numba"):
        with pytest.raises(RuntimeError, match="mine"), fastwarp.backend("reference"):
            fail()
        seen.append(fastwarp._backend._active)
        with pytest.raises(FastwarpError), fastwarp.backend("unknown"):
            pass
        seen.append(fastwarp._backend._active)
    assert seen == ["reference", "numba", "numba"]
    assert fastwarp._backend._active == active


def test_backend_decides_who_computes(monkeypatch):
    from fastwarp.kernels.cpu import separable as fast
    from fastwarp.ops._reference import separable as slow

    called = []
    for name, module in (("numba", fast), ("reference", slow)):
        original = module.resample
        monkeypatch.setattr(module, "resample", lambda *a, n=name, f=original: called.append(n) or f(*a))
    expected = WARP.zoom(IMAGE, (4, 4))
    with fastwarp.backend("reference"):
        got = WARP.zoom(IMAGE, (4, 4))
    with fastwarp.backend("numba"):
        WARP.zoom(IMAGE, (4, 4))
    assert called == ["numba", "reference", "numba"]
    torch.testing.assert_close(got, expected)


def test_backend_of_the_environment():
    assert (
        run_python("import fastwarp; print(fastwarp._backend._active)", FASTWARP_BACKEND="reference") == "reference\n"
    )
    script = """
import fastwarp, torch
try:
    fastwarp.SeparableWarp.identity().zoom(torch.ones(1, 1, 2, 2), (2, 2))
except fastwarp.FastwarpError as error:
    print(error)
"""
    assert "expected one of auto, triton, numba, reference" in run_python(script, FASTWARP_BACKEND="fast")


# --- FASTWARP_CHECKS --------------------------------------------------------------------------------------------------


CHECKS = """
import torch, fastwarp
from fastwarp import functional as F
knots, saliency = torch.linspace(0, 1, 5)[None], torch.rand(1, 4, 5)
def attempt(call):
    try:
        call()
        print("accepted")
    except fastwarp.FastwarpError as error:
        print(error)
attempt(lambda: fastwarp.SeparableWarp(knots, knots.flip(1)))
attempt(lambda: fastwarp.SeparableWarp(knots, knots * float("nan")))
attempt(lambda: F.separable_zoom(torch.rand(1, 1, 4, 4), knots / 0, knots, (2, 2)))
attempt(lambda: F.lz_knots(saliency - 2))
attempt(lambda: F.lz_knots(saliency * float("nan")))
attempt(lambda: F.lz_knots_from_marginals(knots, -knots))
attempt(lambda: F.cdf_knots(-knots))
attempt(lambda: fastwarp.SeparableWarp.from_saliency(saliency).zoom(torch.rand(1, 1, 4, 4), (2, 2)))
"""


def test_values_are_checked_on_request():
    lines = run_python(CHECKS, FASTWARP_CHECKS="1").splitlines()
    expected = [
        "SeparableWarp: knots_x[0, 0:2] is [1.0, 0.75], expected knots that never decrease",
        "SeparableWarp: knots_x[0, 0] is nan, expected finite values",
        "separable_zoom: knots_y[0, 0] is nan, expected finite values",
        "lz_knots: saliency is NaN or negative somewhere, expected values >= 0",
        "lz_knots: saliency is NaN or negative somewhere, expected values >= 0",
        "lz_knots_from_marginals: marginal_x is NaN or negative somewhere, expected values >= 0",
        "cdf_knots: density is NaN or negative somewhere, expected values >= 0",
        "accepted",
    ]
    assert lines == expected


def test_values_are_not_checked_otherwise(monkeypatch):
    assert os.environ.get("FASTWARP_CHECKS", "0") == "0"
    SeparableWarp(K, K * nan)
    F.lz_knots(SALIENCY - 2)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
@pytest.mark.parametrize("warp", [WARP, fastwarp.MeshWarp.from_separable(WARP)], ids=["separable", "mesh"])
def test_zoom_frame_needs_no_statistics(channels, warp):
    frame = torch.randint(0, 256, (5, 7, channels), dtype=torch.uint8)
    plain = warp.zoom_frame(frame, (3, 4))
    assert torch.equal(plain, warp.zoom_frame(frame, (3, 4), mean=[0.0] * channels, std=[1.0] * channels))
    torch.testing.assert_close(plain, warp.zoom(frame.permute(2, 0, 1)[None].float(), (3, 4)), atol=1e-4, rtol=0)
