"""Zoom, camera frames, pyramid unzoom, antialiasing; forward and backward."""

from __future__ import annotations

import functools
from typing import Any

import peers
import pytest
import torch
from cases import (
    BEST,
    DEVICES,
    MEAN,
    PYRAMID,
    SHAPES,
    STD,
    TOLERANCES,
    Shape,
    image,
    pyramid,
    read_by_zoom,
    size_in_bytes,
    smooth_image,
    smooth_pyramid,
    uniform_warp,
    warp,
)
from paired import paired, trained
from torch import Tensor

from fastwarp import SeparableWarp, functional

FLOAT, BF16 = torch.float32, torch.bfloat16
COPY_ON_GPU = {"copy": 0.75}  # of copy bandwidth, for maps over 64 MiB
LARGE = 64 << 20


# --- zoom -------------------------------------------------------------------------------------------------------------


def _zoom(warp: SeparableWarp, size: tuple[int, int], image: Tensor) -> list[Tensor]:
    return [warp.zoom(image, size)]


@DEVICES
@pytest.mark.parametrize(
    ("name", "batch", "layout", "dtype"),
    [
        ("zoom", 1, "contiguous", FLOAT),
        ("zoom", 1, "channels_last", FLOAT),
        ("zoom", 1, "contiguous", BF16),
        ("zoom", 8, "contiguous", FLOAT),
        ("nuscenes", 1, "contiguous", FLOAT),
        ("nuscenes", 1, "channels_last", FLOAT),
        ("nuscenes", 8, "contiguous", FLOAT),
        ("cityscapes", 1, "contiguous", FLOAT),
        ("cityscapes", 1, "channels_last", FLOAT),
        ("cityscapes", 8, "contiguous", FLOAT),
    ],
)
def test_zoom(benchmark: Any, name: str, batch: int, layout: str, dtype: torch.dtype, device: str) -> None:
    """A fixed warp; peers keep their grid, or for OpenCV its maps. OpenCV always has its own layout, `[H, W, C]`."""
    shape = SHAPES[name]
    made = warp(shape.saliency, 1, device)
    source = image((batch, 3, *shape.source), dtype, layout, device)
    grids = peers.cached([made.grid(shape.size)], [source])

    def grid_sample(x: Tensor) -> list[Tensor]:
        return peers.grid_sample([x], grids)

    contenders: dict[str, Any] = {
        "fastwarp": functools.partial(_zoom, made, shape.size),
        "grid_sample": grid_sample,
    }
    targets = {"grid_sample": 4.0} if dtype == FLOAT else {"grid_sample": BEST}
    if name == "zoom" and layout == "contiguous" and dtype == FLOAT and batch == 1:
        contenders["torch.compile"] = peers.compiled(grid_sample)
        targets["torch.compile"] = BEST
    if device == "cpu" and batch == 1 and dtype == FLOAT:
        maps = peers.remap_maps(made, shape.size, shape.source)
        frame = source[0].permute(1, 2, 0).contiguous().numpy()
        contenders["cv2.remap"] = lambda _: [peers.remap(frame, maps)]
        targets["cv2.remap"] = 1.4
    if device == "cpu" and name == "zoom" and layout == "contiguous" and batch == 1 and dtype == FLOAT:
        planes, (x, y) = source[0].numpy(), (m.astype("float64") for m in maps)
        contenders["scipy"] = lambda _: peers.map_coordinates(planes, [y, x])
        contenders |= peers.of_libraries(source, grids[0], maps)
        targets["scipy"] = BEST
    moved = read_by_zoom(source, made, shape.size) + batch * 3 * shape.size[0] * shape.size[1] * source.itemsize
    paired(
        benchmark,
        contenders,
        lambda: [source.clone()],
        moved=moved,
        tolerance=TOLERANCES[dtype],
        targets=targets if device == "cpu" else COPY_ON_GPU if moved > LARGE else None,
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", SHAPES)
def test_zoom_uint8(benchmark: Any, name: str, layout: str) -> None:
    """A fixed warp on bytes against OpenCV, which has them interleaved in both cases."""
    shape = SHAPES[name]
    made = warp(shape.saliency)
    source = image((1, 3, *shape.source), torch.uint8, layout)
    maps = peers.remap_maps(made, shape.size, shape.source)
    frame = source[0].permute(1, 2, 0).contiguous().numpy()
    paired(
        benchmark,
        {
            "fastwarp": functools.partial(_zoom, made, shape.size),
            "cv2.remap": lambda _: [peers.remap(frame, maps)],
        },
        lambda: [source],
        moved=read_by_zoom(source, made, shape.size) + 3 * shape.size[0] * shape.size[1],
        tolerance=TOLERANCES[torch.uint8],
        targets={"cv2.remap": 1.4},
    )


@DEVICES
def test_zoom_backward(benchmark: Any, device: str) -> None:
    """Forward and backward of a fixed zoom, gradient to the image."""
    shape = SHAPES["zoom"]
    made = warp(shape.saliency, 1, device)
    grid = made.grid(shape.size)
    forward = functools.partial(_zoom, made, shape.size)
    source = image((1, 3, *shape.source), device=device)
    paired(
        benchmark,
        {
            "fastwarp": trained(forward, [0]),
            "grid_sample": trained(lambda x: peers.grid_sample([x], [grid]), [0]),
        },
        lambda: [source.clone()],
        moved=2 * (size_in_bytes([source]) + 12 * shape.size[0] * shape.size[1]),
        tolerance=TOLERANCES[FLOAT],
        targets={"grid_sample": BEST} if device == "cpu" else {"forward alone": 1 / 3},
        alone={"forward alone": forward},
    )


@DEVICES
def test_zoom_backward_knots(benchmark: Any, device: str) -> None:
    """Forward and backward of a zoom, gradients to the image and to the knots."""
    shape = SHAPES["zoom"]
    made = warp(shape.saliency, 1, device)
    source = smooth_image((1, 3, *shape.source), device=device)

    def forward(knots_y: Tensor, knots_x: Tensor, x: Tensor) -> list[Tensor]:
        return [SeparableWarp(knots_y, knots_x).zoom(x, shape.size)]

    paired(
        benchmark,
        {
            "fastwarp": trained(forward, [0, 1, 2]),
            "plain torch": trained(functools.partial(peers.zoom, size=shape.size), [0, 1, 2]),
        },
        lambda: [made.knots_y, made.knots_x, source.clone()],
        moved=3 * size_in_bytes([source]) + 24 * shape.size[0] * shape.size[1],
        tolerance=1e-2,
        targets={"plain torch": BEST} if device == "cpu" else {"forward alone": 1 / 3},
        alone={"forward alone": forward},
    )


# --- camera frames ----------------------------------------------------------------------------------------------------


@DEVICES
@pytest.mark.parametrize(
    ("name", "dtype"), [("zoom", FLOAT), ("zoom", BF16), ("nuscenes", FLOAT), ("cityscapes", FLOAT)]
)
def test_camera(benchmark: Any, name: str, dtype: torch.dtype, device: str) -> None:
    """uint8 `[1, H, W, 3]` to the zoomed, normalised `[1, 3, H', W']`."""
    shape = SHAPES[name]
    made = warp(shape.saliency, 1, device)
    frame = image((1, 3, *shape.source), torch.uint8, "channels_last", device).permute(0, 2, 3, 1)
    grid = made.grid(shape.size)
    contenders: dict[str, Any] = {
        "fastwarp": lambda f: [made.zoom_frame(f, shape.size, mean=MEAN, std=STD, dtype=dtype)],
        "grid_sample + normalise": lambda f: peers.grid_sample_frame(f, grid, dtype),
    }
    if device == "cpu":
        maps, array = peers.remap_maps(made, shape.size, shape.source), frame[0].numpy()
        contenders["cv2.remap + torch"] = lambda _: peers.remap_then_torch(array, maps, dtype)
        if dtype == FLOAT:
            contenders["cv2.remap + numpy"] = lambda _: peers.remap_then_numpy(array, maps)
    source = frame.permute(0, 3, 1, 2)
    paired(
        benchmark,
        contenders,
        lambda: [frame.clone()],
        moved=read_by_zoom(source, made, shape.size) + 3 * shape.size[0] * shape.size[1] * dtype.itemsize,
        tolerance=1.6e-2,  # OpenCV rounds to whole grey levels before it normalises
        targets={name: 2.0 for name in contenders if name != "fastwarp"} if device == "cpu" else None,
    )


# --- feature pyramids -------------------------------------------------------------------------------------------------


def _unzoom(warp: SeparableWarp, *levels: Tensor) -> list[Tensor]:
    return warp.unzoom(list(levels))


PYRAMIDS = pytest.mark.parametrize(
    ("batch", "layout", "dtype"),
    [
        (1, "contiguous", FLOAT),
        (1, "channels_last", FLOAT),
        (1, "contiguous", BF16),
        (1, "channels_last", BF16),
        (8, "contiguous", FLOAT),
        (8, "channels_last", FLOAT),
    ],
)


@DEVICES
@PYRAMIDS
def test_unzoom(benchmark: Any, batch: int, layout: str, dtype: torch.dtype, device: str) -> None:
    """Five levels of 256 channels by a fixed warp; peers keep a grid for each level."""
    made = warp(SHAPES["zoom"].saliency, 1, device)
    levels = pyramid(batch, dtype, layout, device)
    grids = peers.cached([made.inverse_grid(size) for size in PYRAMID], levels)

    def grid_sample(*levels: Tensor) -> list[Tensor]:
        return peers.grid_sample(levels, grids)

    contenders: dict[str, Any] = {"fastwarp": functools.partial(_unzoom, made), "grid_sample": grid_sample}
    targets = {"grid_sample": 5.0 if dtype == FLOAT else BEST}
    if batch == 1 and layout == "contiguous" and dtype == FLOAT:
        contenders["torch.compile"] = peers.compiled(grid_sample)
        targets["torch.compile"] = BEST
    moved = 2 * size_in_bytes(levels)
    paired(
        benchmark,
        contenders,
        lambda: [level.clone() for level in levels],
        moved=moved,
        tolerance=TOLERANCES[dtype],
        targets=targets if device == "cpu" else COPY_ON_GPU if moved > LARGE else None,
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("size", PYRAMID)
def test_unzoom_level(benchmark: Any, size: tuple[int, int], layout: str) -> None:
    """One level of 256 channels at a time."""
    made = warp(SHAPES["zoom"].saliency)
    level = image((1, 256, *size), layout=layout)
    grid = made.inverse_grid(size)
    paired(
        benchmark,
        {"fastwarp": functools.partial(_unzoom, made), "grid_sample": lambda x: peers.grid_sample([x], [grid])},
        lambda: [level],
        moved=2 * size_in_bytes([level]),
        tolerance=TOLERANCES[FLOAT],
        targets={"grid_sample": BEST},
    )


@DEVICES
@PYRAMIDS
def test_unzoom_backward(benchmark: Any, batch: int, layout: str, dtype: torch.dtype, device: str) -> None:
    """Forward and backward of the pyramid by a fixed warp, gradients to the features."""
    made = warp(SHAPES["zoom"].saliency, 1, device)
    levels = pyramid(batch, dtype, layout, device)
    grids = peers.cached([made.inverse_grid(size) for size in PYRAMID], levels)
    wanted = range(len(levels))
    forward = functools.partial(_unzoom, made)
    paired(
        benchmark,
        {
            "fastwarp": trained(forward, wanted),
            "grid_sample": trained(lambda *levels: peers.grid_sample(levels, grids), wanted),
        },
        lambda: [level.clone() for level in levels],
        moved=4 * size_in_bytes(levels),
        tolerance=TOLERANCES[dtype],
        targets={"grid_sample": 8.0 if dtype == FLOAT else BEST} if device == "cpu" else {"forward alone": 1 / 3},
        alone={"forward alone": forward},
    )


@DEVICES
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_unzoom_backward_knots(benchmark: Any, layout: str, device: str) -> None:
    """The same with gradients to features and knots; plain torch makes its grids in each call then."""
    made = warp(SHAPES["zoom"].saliency, 1, device)
    levels = smooth_pyramid(layout, device)
    wanted = range(2 + len(levels))

    def forward(knots_y: Tensor, knots_x: Tensor, *levels: Tensor) -> list[Tensor]:
        return SeparableWarp(knots_y, knots_x).unzoom(list(levels))

    paired(
        benchmark,
        {"fastwarp": trained(forward, wanted), "plain torch": trained(peers.unzoom, wanted)},
        lambda: [made.knots_y, made.knots_x, *(level.clone() for level in levels)],
        moved=5 * size_in_bytes(levels),
        tolerance=1e-2,
        targets={"plain torch": BEST} if device == "cpu" else {"forward alone": 1 / 3},
        alone={"forward alone": forward},
    )


# --- antialiasing -----------------------------------------------------------------------------------------------------


def _antialiased(warp: SeparableWarp, size: tuple[int, int], image: Tensor) -> list[Tensor]:
    return [warp.zoom(image, size, antialias=True)]


@DEVICES
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["zoom", "cityscapes"])
def test_antialias(benchmark: Any, name: str, layout: str, device: str) -> None:
    """An antialiased zoom against products with dense matrices, which are cached."""
    shape = SHAPES[name]
    made = warp(shape.saliency, 1, device)
    source = image((1, 3, *shape.source), layout=layout, device=device)
    weights = _dense(made, shape)
    paired(
        benchmark,
        {
            "fastwarp": functools.partial(_antialiased, made, shape.size),
            "dense matmul": lambda x: peers.matmul(x, *weights),
        },
        lambda: [source.clone()],
        moved=size_in_bytes([source]) + 12 * shape.size[0] * shape.size[1],
        tolerance=TOLERANCES[FLOAT],
        targets={"dense matmul": BEST} if device == "cpu" else None,
    )


def _dense(made: SeparableWarp, shape: Shape) -> list[Tensor]:
    windows = functional.separable_windows(made.knots_y, made.knots_x, [shape.size], [shape.source], antialias=True)
    return peers.dense(windows, shape.size, shape.source)


@DEVICES
@pytest.mark.parametrize("dtype", [torch.uint8, FLOAT])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_antialias_uniform(benchmark: Any, layout: str, dtype: torch.dtype, device: str) -> None:
    """The warp that does what `F.interpolate(antialias=True)` does, which torch has kernels for."""
    if device == "cuda" and dtype == torch.uint8:
        pytest.skip("F.interpolate(antialias=True) takes no uint8 on a GPU")
    shape = SHAPES["zoom"]
    made = uniform_warp(shape.source, shape.size, device)
    source = image((1, 3, *shape.source), dtype, layout, device)
    contenders: dict[str, Any] = {
        "fastwarp": functools.partial(_antialiased, made, shape.size),
        "F.interpolate": lambda x: peers.interpolate(x, shape.size),
    }
    if resizing := peers.installed("torchvision.transforms.v2.functional"):
        contenders["torchvision resize"] = lambda x: [resizing.resize(x, list(shape.size), antialias=True)]
    paired(
        benchmark,
        contenders,
        lambda: [source.clone()],
        moved=size_in_bytes([source]) + 3 * shape.size[0] * shape.size[1] * source.itemsize,
        tolerance=TOLERANCES[dtype],
        targets={"F.interpolate": BEST} if device == "cpu" else None,
    )


@DEVICES
def test_antialias_backward(benchmark: Any, device: str) -> None:
    """Forward and backward of an antialiased zoom, gradient to the image."""
    shape = SHAPES["zoom"]
    made = warp(shape.saliency, 1, device)
    source = image((1, 3, *shape.source), device=device)
    weights = _dense(made, shape)
    forward = functools.partial(_antialiased, made, shape.size)
    paired(
        benchmark,
        {
            "fastwarp": trained(forward, [0]),
            "dense matmul": trained(lambda x: peers.matmul(x, *weights), [0]),
        },
        lambda: [source.clone()],
        moved=2 * (size_in_bytes([source]) + 12 * shape.size[0] * shape.size[1]),
        tolerance=TOLERANCES[FLOAT],
        targets={"dense matmul": BEST} if device == "cpu" else {"forward alone": 1 / 3},
        alone={"forward alone": forward},
    )
