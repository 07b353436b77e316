"""Warps that are not separable: saliency to mesh, the inverse, zoom, pyramid unzoom, the whole adaptive path."""

from __future__ import annotations

import functools
from typing import Any

import peers
import peers_mesh
import pytest
import torch
from cases import (
    BEST,
    CHANNELS,
    DEVICES,
    FWHM,
    PYRAMID,
    SHAPES,
    TOLERANCES,
    image,
    pyramid,
    saliency,
    size_in_bytes,
    smooth_image,
    smooth_pyramid,
)
from paired import paired, trained
from torch import Tensor

from fastwarp import MeshWarp, SeparableWarp, functional
from fastwarp.functional.mesh import windows_of

FLOAT = torch.float32
SIZE = SHAPES["zoom"].size
CELLS = SHAPES["zoom"].saliency


def _saliency(kind: str, batch: int, device: str) -> Tensor:
    """A few blobs, or noise, whose tiles differ ten times in area."""
    if kind == "smooth":
        return saliency(CELLS, batch, device)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, *CELLS, generator=generator).pow(8).to(device)


def _mesh(kind: str, batch: int, device: str) -> Tensor:
    """`noise` with a narrow kernel: neighbouring tiles differ."""
    return functional.lz_mesh(_saliency(kind, batch, device), FWHM if kind == "smooth" else 4.0)


@DEVICES
def test_lz_mesh(benchmark: Any, device: str) -> None:
    """Saliency to mesh, batch 8."""
    cells = saliency(CELLS, 8, device)
    paired(
        benchmark,
        {
            "fastwarp": lambda s: [functional.lz_mesh(s, FWHM)],
            "plain torch": peers_mesh.mesh,
        },
        lambda: [cells.clone()],
        moved=3 * size_in_bytes([cells]),
        tolerance=1e-5,
        targets={"plain torch": BEST},
    )


@DEVICES
@pytest.mark.parametrize("tile", ["bilinear", "homography"])
@pytest.mark.parametrize(("kind", "batch"), [("smooth", 1), ("noise", 1), ("smooth", 8)])
def test_mesh_inverse(benchmark: Any, kind: str, batch: int, tile: str, device: str) -> None:
    """(31, 51) -> (600, 960): the sampling grid of the unzoom. The paper: 12.6 ms on an RTX 2080 Ti."""
    mesh = _mesh(kind, batch, device)
    picture = image((1, 3, *SIZE), device=device)
    grid = functional.mesh_grid(mesh[:1], SIZE)
    contenders: dict[str, Any] = {"fastwarp": lambda m: [functional.mesh_grid(m, SIZE, inverse=True, tile=tile)]}
    alone: dict[str, Any] = {"grid_sample of one image": lambda _: peers.grid_sample([picture], [grid])}
    targets = {}
    if tile == "bilinear" and device == "cpu":
        contenders["plain torch"] = lambda m: peers_mesh.inverse(m, SIZE)
        targets["plain torch"] = 40.0
    if batch == 1 and device == "cpu":
        targets["grid_sample of one image"] = 2.0
    if kind == "smooth" and batch == 1 and tile == "bilinear" and device == "cpu":
        vertices = mesh[0].numpy()
        alone["griddata"] = lambda _: [peers_mesh.griddata(vertices, SIZE)]
        alone["fastwarp, noise"] = functools.partial(
            lambda other, _: functional.mesh_grid(other, SIZE, inverse=True), _mesh("noise", 1, device)
        )
        alone["fastwarp, a quarter of the targets"] = lambda m: functional.mesh_grid(
            m, (SIZE[0] // 2, SIZE[1] // 2), inverse=True
        )
        alone["fastwarp, batch 8"] = functools.partial(
            lambda other, _: functional.mesh_grid(other, SIZE, inverse=True), _mesh("smooth", 8, device)
        )
    paired(
        benchmark,
        contenders,
        lambda: [mesh.clone()],
        moved=size_in_bytes([mesh]) + batch * 8 * SIZE[0] * SIZE[1],
        tolerance=TOLERANCES[FLOAT],
        targets=targets,
        alone=alone,
    )


@DEVICES
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_mesh_zoom(benchmark: Any, layout: str, device: str) -> None:
    """A fixed mesh, 3x1200x1920 -> 600x960; the peer keeps its grid."""
    shape = SHAPES["zoom"]
    warp = MeshWarp(_mesh("smooth", 1, device))
    source = image((1, 3, *shape.source), layout=layout, device=device)
    grids = [warp.grid(shape.size)]
    paired(
        benchmark,
        {
            "fastwarp": lambda x: [warp.zoom(x, shape.size)],
            "grid_sample": lambda x: peers.grid_sample([x], grids),
        },
        lambda: [source.clone()],
        moved=size_in_bytes([source]) + 12 * shape.size[0] * shape.size[1],
        tolerance=TOLERANCES[FLOAT],
        targets={"grid_sample": BEST},
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_mesh_antialias(benchmark: Any, layout: str) -> None:
    """An antialiased zoom, 3x600x960 -> 300x480, against a sparse matrix that is made beforehand."""
    source, size = (600, 960), (300, 480)
    mesh = _mesh("smooth", 1, "cpu")
    warp, picture = MeshWarp(mesh), image((1, 3, *source), layout=layout, device="cpu")
    windows = windows_of(mesh, False, [*size], [*source], inverse=False, antialias=True, border=True, registered=None)
    matrix = peers_mesh.sparse(windows, source)
    paired(
        benchmark,
        {
            "fastwarp": lambda x: [warp.zoom(x, size, antialias=True)],
            "sparse matmul": lambda x: peers_mesh.sparse_matmul(x, matrix, size),
        },
        lambda: [picture.clone()],
        moved=size_in_bytes([picture]) + 12 * size[0] * size[1],
        tolerance=TOLERANCES[FLOAT],
        targets={"sparse matmul": BEST},
    )


@DEVICES
@pytest.mark.parametrize(
    ("batch", "layout"), [(1, "contiguous"), (1, "channels_last"), (8, "contiguous"), (8, "channels_last")]
)
def test_mesh_unzoom(benchmark: Any, batch: int, layout: str, device: str) -> None:
    """Five levels of 256 channels, the inverse included; the peer keeps its grids."""
    mesh = _mesh("smooth", 1, device)
    warp = MeshWarp(mesh)
    separable = SeparableWarp.from_saliency(saliency(CELLS, 1, device), FWHM)
    levels = pyramid(batch, FLOAT, layout, device)
    grids = peers.cached([warp.inverse_grid(size) for size in PYRAMID], levels)
    paired(
        benchmark,
        {
            "fastwarp": lambda *x: warp.unzoom(list(x)),
            "grid_sample": functools.partial(peers_mesh.grid_samples, grids),
        },
        lambda: [x.clone() for x in levels],
        moved=2 * size_in_bytes(levels),
        tolerance=TOLERANCES[FLOAT],
        targets={"grid_sample": 1.5, "fastwarp, separable": 1 / 2.5} if device == "cpu" else {"copy": 0.6},
        alone={"fastwarp, separable": lambda *x: separable.unzoom(list(x))},
    )


@DEVICES
@pytest.mark.parametrize("level", PYRAMID)
def test_mesh_unzoom_level(benchmark: Any, level: tuple[int, int], device: str) -> None:
    """One level of 256 channels, the inverse included."""
    warp = MeshWarp(_mesh("smooth", 1, device))
    features = image((1, CHANNELS, *level), device=device)
    grids = [warp.inverse_grid(level)]
    paired(
        benchmark,
        {
            "fastwarp": lambda x: [warp.unzoom(x)],
            "grid_sample": functools.partial(peers_mesh.grid_samples, grids),
        },
        lambda: [features.clone()],
        moved=2 * size_in_bytes([features]),
        tolerance=TOLERANCES[FLOAT],
        targets={"grid_sample": BEST},
    )


@DEVICES
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_mesh_unzoom_backward(benchmark: Any, layout: str, device: str) -> None:
    """Forward and backward to the features."""
    warp = MeshWarp(_mesh("smooth", 1, device))
    levels = smooth_pyramid(layout, device)
    grids = [warp.inverse_grid(size) for size in PYRAMID]
    wanted = list(range(len(levels)))
    paired(
        benchmark,
        {
            "fastwarp": trained(lambda *x: warp.unzoom(list(x)), wanted),
            "grid_sample": trained(functools.partial(peers_mesh.grid_samples, grids), wanted),
        },
        lambda: [x.clone() for x in levels],
        moved=4 * size_in_bytes(levels),
        tolerance=TOLERANCES[FLOAT],
        targets={"grid_sample": BEST},
        alone={"forward alone": lambda *x: warp.unzoom(list(x))},
    )


@DEVICES
def test_mesh_adaptive(benchmark: Any, device: str) -> None:
    """Saliency -> mesh -> zoom -> inverse -> unzoom of five levels."""
    shape = SHAPES["zoom"]
    cells = saliency(CELLS, 1, device)
    source = smooth_image((1, 3, *shape.source), device=device)
    levels = smooth_pyramid(device=device)

    def ours(cells: Tensor, source: Tensor, *levels: Tensor) -> list[Tensor]:
        warp = MeshWarp.from_saliency(cells, FWHM)
        return [warp.zoom(source, shape.size), *warp.unzoom(list(levels))]

    paired(
        benchmark,
        {"fastwarp": ours, "plain torch": functools.partial(peers_mesh.adaptive, size=shape.size)},
        lambda: [x.clone() for x in (cells, source, *levels)],
        moved=size_in_bytes([source]) + 12 * shape.size[0] * shape.size[1] + 2 * size_in_bytes(levels),
        tolerance=TOLERANCES[FLOAT],
        targets={"plain torch": BEST},
    )
