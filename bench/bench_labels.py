"""Segmentation labels: the nearest pixel's class, and that of most pixels, 1x1024x2048 -> 256x512 (Cityscapes)."""

from __future__ import annotations

from typing import Any

import peers_labels
import pytest
import torch
import torch.nn.functional as F
from cases import BEST, DEVICES, FWHM, saliency, size_in_bytes
from paired import paired
from torch import Tensor

from fastwarp import MeshWarp, SeparableWarp

SOURCE, SIZE, CELLS = (1024, 2048), (256, 512), (45, 45)
APART = 0.002
"""Share of the targets that a peer may give another pixel: it rounds positions in float32, and half way to even."""


def _labels(kind: str, dtype: torch.dtype, device: str) -> Tensor:
    """19 classes: regions of about 43 pixels (4 % of the pixels are beside another class), or noise."""
    generator = torch.Generator().manual_seed(0)
    shape = (24, 48) if kind == "regions" else SOURCE
    coarse = torch.randint(0, 19, (1, 1, *shape), generator=generator).float()
    return F.interpolate(coarse, SOURCE).to(dtype).to(device)


def _agree(ours: Tensor, theirs: Tensor, name: str) -> None:
    apart = (ours.flatten().long() != theirs.flatten().long()).float().mean().item()
    assert apart <= APART, f"{name} differs at {apart:.1%} of the targets"


def _alone(warp: Any, labels: Tensor, nearest: Tensor | None, device: str) -> dict[str, Any]:
    """The peers, all of which take the nearest pixel; compared with `nearest` where it is given."""
    image, grid = labels.float(), warp.grid(SIZE)
    found: dict[str, Any] = {
        "grid_sample": lambda _: peers_labels.grid_sample(image, grid),
        "grid_sample, converted": lambda x: peers_labels.converted(x, grid),
    }
    if device == "cpu":
        picture, maps = labels[0, 0].to(torch.uint8).numpy(), peers_labels.maps(grid, SOURCE)
        found["cv2.remap, uint8"] = lambda _: peers_labels.remap(picture, *maps)
        fixed = peers_labels.fixed_point(maps)
        found["cv2.remap, uint8, int16 maps"] = lambda _: peers_labels.remap(picture, fixed, None)
    if nearest is not None:
        for name, peer in found.items():
            _agree(nearest, peer(labels)[0], name)
    return found


@DEVICES
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=["uint8", "int64"])
@pytest.mark.parametrize("kind", ["separable", "mesh"])
def test_nearest_labels(benchmark: Any, kind: str, dtype: torch.dtype, device: str) -> None:
    """`zoom_labels`; the peers keep their grids. `grid_sample` has its labels as floats beforehand, or makes floats of
    class ids and class ids of floats."""
    warp = (SeparableWarp if kind == "separable" else MeshWarp).from_saliency(saliency(CELLS, 1, device), FWHM)
    labels = _labels("regions", dtype, device)
    targets = {"grid_sample": 3.0, "grid_sample, converted": 3.0, "cv2.remap, uint8": BEST}
    paired(
        benchmark,
        {"fastwarp": lambda x: [warp.zoom_labels(x, SIZE)]},
        lambda: [labels.clone()],
        moved=size_in_bytes([labels]) // 4 + labels.element_size() * SIZE[0] * SIZE[1],  # a quarter of the rows
        tolerance=0,
        targets=targets if kind == "separable" else {},
        alone=_alone(warp, labels, warp.zoom_labels(labels, SIZE), device),
    )


@DEVICES
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=["uint8", "int64"])
@pytest.mark.parametrize(("kind", "content"), [("separable", "regions"), ("mesh", "regions"), ("separable", "noise")])
def test_majority_labels(benchmark: Any, kind: str, content: str, dtype: torch.dtype, device: str) -> None:
    """`zoom_labels(reduce="majority")`, beside peers that take the nearest pixel: they read one of sixteen."""
    warp = (SeparableWarp if kind == "separable" else MeshWarp).from_saliency(saliency(CELLS, 1, device), FWHM)
    labels = _labels(content, dtype, device)
    one_hot = F.one_hot(labels[:, 0].long(), 19).permute(0, 3, 1, 2).float()
    targets = {"grid_sample": 3.0, "grid_sample, converted": 3.0}
    voted = {"argmax of antialiased one-hot": lambda _: [warp.zoom(one_hot, SIZE, antialias=True).argmax(1)]}
    paired(
        benchmark,
        {"fastwarp": lambda x: [warp.zoom_labels(x, SIZE, reduce="majority")]},
        lambda: [labels.clone()],
        moved=size_in_bytes([labels]) + labels.element_size() * SIZE[0] * SIZE[1],
        tolerance=0,
        targets=targets if kind == "separable" and content == "regions" else {},
        alone=_alone(warp, labels, None, device) | (voted if device == "cpu" and kind == "separable" else {}),
    )
