"""What fastwarp is compared with: plain torch as published, OpenCV, SciPy; other libraries where they are installed.

Every function returns tensors `[B, C, H, W]`, without copying, so that results can be compared as they are. Grids, maps
and weights that a peer can keep between calls are made outside the timed region.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cases import FWHM, MEAN, STD, Size
from torch import Tensor

from fastwarp import SeparableWarp
from fastwarp.demo import plain_torch

# --- plain torch ------------------------------------------------------------------------------------------------------


def grid_sample(images: Sequence[Tensor], grids: Sequence[Tensor]) -> list[Tensor]:
    """One F.grid_sample per image with a cached grid, in float32: bf16 coordinates would be off by pixels."""
    return [
        F.grid_sample(image.to(grid.dtype), grid, padding_mode="border", align_corners=True).to(image.dtype)
        for image, grid in zip(images, grids, strict=True)
    ]


def cached(grids: Sequence[Tensor], images: Sequence[Tensor]) -> list[Tensor]:
    """Grids in the batch size of the images: grid_sample broadcasts none."""
    return [grid.expand(len(image), -1, -1, -1).contiguous() for grid, image in zip(grids, images, strict=True)]


def zoom(knots_y: Tensor, knots_x: Tensor, image: Tensor, size: Size) -> list[Tensor]:
    """The grid anew for each call."""
    return [plain_torch.zoom((knots_y, knots_x), image, size)]


def unzoom(knots_y: Tensor, knots_x: Tensor, *levels: Tensor) -> list[Tensor]:
    """An exact inverse grid for each level and each call."""
    return plain_torch.unzoom((knots_y, knots_x), levels)


def knots(saliency: Tensor) -> list[Tensor]:
    """Knots of the LZ warp."""
    return list(plain_torch.from_saliency(saliency, FWHM))


def box_density(boxes: Tensor, image_size: Size, shape: Size) -> Tensor:
    """FOVEA's estimate of `[B, N, 4]` with its parameters, in two products of matrices."""
    factors = []
    for axis, (size, cells) in enumerate(zip(image_size, shape, strict=True)):
        low, high = boxes[:, :, 1 - axis, None], boxes[:, :, 3 - axis, None]
        cell = torch.linspace(0, size, cells, device=boxes.device)
        factors.append(torch.exp((cell - (low + high) / 2) ** 2 / (-128 * (high - low))))
    y, x = factors
    weight = 1 / (1e-5 + y.sum(2, keepdim=True) * x.sum(2, keepdim=True))
    density = (y * weight).mT @ x + boxes.shape[1] / (2 * min(shape) - 1) ** 2
    return density / density.sum((1, 2), keepdim=True)


def box_knots(boxes: Tensor, image_size: Size, shape: Size) -> list[Tensor]:
    """The knots of its LZ warp."""
    return knots(box_density(boxes, image_size, shape))


def centres(knots_y: Tensor, knots_x: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """Centres `[B, sum(sizes)]`, in pixels, of the rows and columns of every unzoomed level."""
    axes = [
        plain_torch._inverse(axis, side) * (side - 1)
        for size in sizes
        for axis, side in zip((knots_y, knots_x), size, strict=True)
    ]
    return [torch.cat(axes, 1)]


def adaptive(saliency: Tensor, image: Tensor, *levels: Tensor, size: Size) -> list[Tensor]:
    """Saliency to knots, zoom, inverse, unzoom of every level."""
    warp = plain_torch.from_saliency(saliency, FWHM)
    return [plain_torch.zoom(warp, image, size), *plain_torch.unzoom(warp, levels)]


@functools.cache
def _affine(device: torch.device) -> tuple[Tensor, Tensor]:
    scale = 1 / torch.tensor(STD)[:, None, None]
    return scale.to(device), (-torch.tensor(MEAN)[:, None, None] * scale).to(device)


def normalise(image: Tensor, dtype: torch.dtype) -> Tensor:
    """`(image - mean) / std` of planar or interleaved `[B, 3, H, W]`, with as few passes as plain torch needs."""
    scale, bias = _affine(image.device)
    planar = image.to(torch.float32, memory_format=torch.contiguous_format)
    return torch.addcmul(bias, planar, scale).to(dtype)


def grid_sample_frame(frame: Tensor, grid: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """A camera's frame `[B, H, W, 3]`: to planar float, sample, normalise."""
    planar = frame.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    return [normalise(grid_sample([planar], [grid])[0], dtype)]


def dense(windows: Tensor, sides: Sequence[int], source: Size) -> list[Tensor]:
    """Matrices `[B, target, source]` of triangle filters for both axes, from windows `[B, 2, sum(sides)]`."""
    weights = []
    for axis, extent in zip(windows.double().split(list(sides), 2), source, strict=True):
        pixel = torch.arange(extent, device=windows.device)
        triangle = (1 - (pixel - axis[:, 0, :, None]).abs() / axis[:, 1, :, None]).clamp(min=0)
        weights.append((triangle / triangle.sum(2, keepdim=True)).float())
    return weights


def matmul(image: Tensor, weights_y: Tensor, weights_x: Tensor) -> list[Tensor]:
    """Resampling by dense matrices: what plain torch offers for an antialiased warp."""
    return [weights_y[:, None] @ (image @ weights_x.mT[:, None])]


def interpolate(image: Tensor, size: Size) -> list[Tensor]:
    """The antialiased resize of torch; uniform warps only."""
    return [F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` under torch.compile."""
    return torch.compile(function, fullgraph=True, dynamic=False)


# --- OpenCV -----------------------------------------------------------------------------------------------------------


def remap_maps(warp: SeparableWarp, size: Size, source: Size) -> list[np.ndarray]:
    """float32 maps of a zoom in pixels, x and y."""
    grid = ((warp.grid(size)[0].double() + 1) / 2).numpy()
    return [np.ascontiguousarray(grid[..., a] * (source[1 - a] - 1), dtype=np.float32) for a in (0, 1)]


def remap(frame: np.ndarray, maps: Sequence[np.ndarray]) -> Tensor:
    """cv2.remap of an interleaved `[H, W, 3]`, as a view `[1, 3, H, W]`."""
    import cv2

    zoomed = cv2.remap(frame, maps[0], maps[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return torch.from_numpy(zoomed).permute(2, 0, 1)[None]


def remap_then_torch(frame: np.ndarray, maps: Sequence[np.ndarray], dtype: torch.dtype) -> list[Tensor]:
    """cv2.remap on uint8, then normalise and transpose in torch, on two threads."""
    return [normalise(remap(frame, maps), dtype)]


def remap_then_numpy(frame: np.ndarray, maps: Sequence[np.ndarray]) -> list[Tensor]:
    """cv2.remap on uint8, then normalise and transpose in NumPy, as data loaders do."""
    zoomed = remap(frame, maps)[0].permute(1, 2, 0).numpy()
    scaled = (zoomed.astype(np.float32) - np.float32(MEAN)) * np.float32(1 / np.array(STD))
    return [torch.from_numpy(np.ascontiguousarray(scaled.transpose(2, 0, 1)))[None]]


# --- SciPy ------------------------------------------------------------------------------------------------------------


def map_coordinates(image: np.ndarray, coordinates: np.ndarray) -> list[Tensor]:
    """scipy.ndimage.map_coordinates, channel by channel, of `[C, H, W]` at `[2, h, w]` (y, x in pixels)."""
    from scipy import ndimage

    channels = [ndimage.map_coordinates(channel, coordinates, order=1, mode="nearest") for channel in image]
    return [torch.from_numpy(np.stack(channels))[None]]


# --- libraries that are compared where they are installed -------------------------------------------------------------


def installed(name: str) -> Any:
    """The module, or None where it is not installed or does not go with this torch."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError):
        return None


def of_libraries(image: Tensor, grid: Tensor, maps: Sequence[np.ndarray]) -> dict[str, Callable[..., list[Tensor]]]:
    """Sampling of a contiguous float32 image at a grid, or at its maps in pixels, by each library that is there."""
    found: dict[str, Callable[..., list[Tensor]]] = {}
    if kornia := installed("kornia"):
        x, y = (torch.from_numpy(m)[None] for m in maps)
        options = {"padding_mode": "border", "align_corners": True}
        found["kornia remap"] = lambda i: [kornia.geometry.transform.remap(i, x, y, **options)]
    onnx, runtime, openvino = installed("onnx"), installed("onnxruntime"), installed("openvino")
    model = _grid_sample_model(onnx) if onnx and (runtime or openvino) else b""
    inputs = {"image": image.numpy(), "grid": grid.numpy()}
    if onnx and runtime:
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        session = runtime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        found["ONNX Runtime GridSample"] = lambda _: [torch.from_numpy(session.run(None, inputs)[0])]
    if onnx and openvino:
        core = openvino.Core()
        hints = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        network = core.compile_model(core.read_model(model), "CPU", hints)
        found["OpenVINO GridSample"] = lambda _: [torch.from_numpy(network(inputs)[0].copy())]
    return found


def _grid_sample_model(onnx: Any) -> bytes:
    """A graph of one GridSample, which does what `grid_sample` does here."""
    number = onnx.TensorProto.FLOAT
    shapes = {"image": ["B", "C", "H", "W"], "grid": ["B", "h", "w", 2], "result": ["B", "C", "h", "w"]}
    values = [onnx.helper.make_tensor_value_info(name, number, shape) for name, shape in shapes.items()]
    options = {"mode": "linear", "padding_mode": "border", "align_corners": 1}
    node = onnx.helper.make_node("GridSample", ["image", "grid"], ["result"], **options)
    graph = onnx.helper.make_graph([node], "grid_sample", values[:2], values[2:])
    version = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(graph, opset_imports=version, ir_version=9).SerializeToString()
