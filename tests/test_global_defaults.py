"""Whatever torch's global defaults are, results are the same bit by bit: nothing takes dtype or device from them."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils import _pytree as pytree

from fastwarp import MeshWarp, SeparableWarp, doctor, nn, viz
from fastwarp import functional as F
from fastwarp import saliency as S
from fastwarp.saliency.cityscapes import cityscapes_prior
from fastwarp.saliency.coco import coco_prior

SIZE, SMALL, SHAPE = (24, 30), (12, 15), (5, 6)
SOURCE = torch.Generator().manual_seed(0)
IMAGE, FRAME = torch.rand(2, 3, *SIZE, generator=SOURCE), torch.arange(24 * 30 * 3, dtype=torch.uint8).view(24, 30, 3)
MAP = torch.rand(2, *SHAPE, generator=SOURCE) + 0.1
BOXES = torch.tensor([[4.0, 5.0, 9.0, 11.0], [15.0, 3.0, 21.0, 8.0]])
POINTS = torch.tensor([[[3.0, 4.0], [20.5, 11.25]]])
VALID = torch.tensor([[20, 25], [24, 30]])
CAR = torch.tensor([[10.0, 0, 0, 2, 4, 1.5, 1, 0, 0, 0]])
CAMERA = torch.tensor([[800.0, 0, 800], [0, 800, 450], [0, 0, 1]])
FORWARD = torch.tensor([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
LABELS = torch.eye(12).long()
SEPARABLE, MESH = SeparableWarp.from_saliency(MAP, 4.0), MeshWarp.from_saliency(MAP, 4.0)
LEARNED, PERSPECTIVE = S.LearnedSaliency(SHAPE, width=2), S.PerspectivePrior((12.0, 9.0), SIZE, SHAPE)
ADAPTIVE = S.AdaptiveSaliency(SIZE, SHAPE)
NET = nn.DownsizeNet(SMALL, channels=4, layers=1)


def with_gradients(function: Callable[..., Any], *inputs: torch.Tensor) -> list[torch.Tensor]:
    """What a function returns and, where gradients are on, those of its inputs."""
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        return leaves(function(*inputs))
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    outputs = leaves(function(*inputs))
    learned = [y for y in outputs if y.requires_grad]
    return outputs + list(torch.autograd.grad(learned, inputs, [y.detach().cos() for y in learned]))


def leaves(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def warp_methods(warp: Any) -> list[Any]:
    zoomed = warp.zoom(IMAGE, SMALL, antialias=True, valid=VALID // 2, source_valid=VALID)
    return [
        zoomed,
        warp.unzoom({"a": zoomed, "b": zoomed[:, :, :6, :7]}, padding_mode="border"),
        warp[0].zoom_frame(FRAME, SMALL),
        warp.grid(SMALL),
        warp.inverse_grid(SMALL),
        warp.inside(SMALL),
        warp.magnification(SMALL),
        warp.zoom_points(POINTS, SIZE, SMALL),
        warp.unzoom_points(POINTS, SIZE, SMALL),
        warp.zoom_boxes(BOXES[None], SIZE, SMALL),
        warp.unzoom_boxes(BOXES[None], SMALL, SIZE),
        warp.zoom_corners(BOXES[None], SIZE, SMALL),
        warp.check(),
        type(warp).cat([warp, warp]),
    ]


def adaptive() -> list[torch.Tensor]:
    saliency = S.AdaptiveSaliency(SIZE, SHAPE, prior=MAP[0], alpha=0.5)
    saliency.update([BOXES, BOXES[:1]], [torch.ones_like(BOXES[:, 0]), BOXES[:1, 0]], ["a", "b"])
    ADAPTIVE.update([BOXES])
    return [saliency(["a", "b", "c"]), *saliency.knots(["c", "a"]), ADAPTIVE(), *ADAPTIVE.knots()]


def fixed() -> list[torch.Tensor]:
    saliency = S.FixedSaliency(MAP[0])
    zoom, unzoom = nn.Zoom(SMALL, saliency=MAP), nn.Unzoom(MESH)
    return [saliency(), saliency(VALID[:, 0] > 22), zoom(IMAGE), unzoom(IMAGE)]


def files(folder: Path) -> list[torch.Tensor]:
    results = []
    for name in ("p.npz", "p.safetensors"):
        S.save_prior(S.Prior(MAP[0], {}), folder / name)
        results.append(S.load_prior(folder / name).saliency)
    NET.save(folder / "net.safetensors")
    net = nn.DownsizeNet.load(folder / "net.safetensors")
    return [*results, net(IMAGE), coco_prior(folder / "a.json", SHAPE).saliency, cityscapes_prior(folder).saliency]


def pictures() -> list[torch.Tensor]:
    figure = viz.show_before_after(IMAGE[0], SEPARABLE[0], SMALL, BOXES, MAP[0])
    drawn = [ax.images[-1].get_array().filled(0) for ax in figure.axes]
    return [torch.from_numpy(np.ascontiguousarray(values)) for values in drawn]


CALLS: dict[str, Callable[[Path], Any]] = {
    "box_density": lambda _: with_gradients(lambda b: S.box_density(b, SIZE, SHAPE, 2.0, 8.0), BOXES),
    "box_density of lists": lambda _: S.box_density([BOXES, BOXES[:1].int()], SIZE, SHAPE),
    "box_knots": lambda _: with_gradients(lambda b: S.box_knots(b, SIZE, SHAPE, bandwidth=8.0), BOXES),
    "boundary_density": lambda _: S.boundary_density(LABELS, (4, 4), ignore_index=0),
    "perspective_density": lambda _: with_gradients(
        lambda p: S.perspective_density(p, SIZE, SHAPE, lateral=2.0), POINTS[0, 0]
    ),
    "perspective of numbers": lambda _: [
        S.perspective_density((12.0, 9.0), SIZE, SHAPE), S.perspective_mesh((12.0, 9.0), SIZE, SHAPE)
    ],
    "perspective_mesh": lambda _: with_gradients(lambda p: S.perspective_mesh(p, SIZE, SHAPE), POINTS[0, 0]),
    "PerspectivePrior": lambda _: [PERSPECTIVE(), PERSPECTIVE.mesh(), PERSPECTIVE(VALID[:, 0] > 22)],
    "LearnedSaliency": lambda _: LEARNED(IMAGE),
    "AdaptiveSaliency": lambda _: adaptive(),
    "FixedSaliency, Zoom, Unzoom": lambda _: fixed(),
    "project_boxes_3d": lambda _: S.project_boxes_3d(CAR, CAMERA, FORWARD, (900, 1600)),
    "jitter_boxes": lambda _: S.jitter_boxes(BOXES, generator=torch.Generator("cpu").manual_seed(3)),
    "files": files,
    "pictures": lambda _: pictures(),
    "lz_knots": lambda _: with_gradients(lambda s: F.lz_knots(s, 4.0), MAP),
    "lz_knots_from_marginals": lambda _: with_gradients(F.lz_knots_from_marginals, MAP.sum(2), MAP.sum(1)),
    "cdf_knots": lambda _: with_gradients(lambda d: F.cdf_knots(d, 9), MAP.flatten(1)),
    "axis_map": lambda _: with_gradients(F.axis_map, SEPARABLE.knots_y, MAP[:, 0].clamp(0.1, 0.9)),
    "separable_zoom": lambda _: with_gradients(
        lambda i, y, x: F.separable_zoom(i, y, x, SMALL), IMAGE, SEPARABLE.knots_y, SEPARABLE.knots_x
    ),
    "separable_windows": lambda _: F.separable_windows(SEPARABLE.knots_y, SEPARABLE.knots_x, [SMALL], [SIZE]),
    "SeparableWarp": lambda _: warp_methods(SEPARABLE),
    "lz_mesh": lambda _: with_gradients(lambda s: F.lz_mesh(s, 4.0), MAP),
    "mesh_unzoom": lambda _: with_gradients(lambda i, m: F.mesh_unzoom(i, m), IMAGE, MESH.mesh),
    "MeshWarp": lambda _: [warp_methods(MESH), MeshWarp.from_separable(SEPARABLE), MESH.report().folded],
    "downsize": lambda _: with_gradients(NET, IMAGE),
    "relative_distance": lambda _: F.relative_distance(SIZE, SMALL, device="cpu"),
}  # fmt: skip


@contextlib.contextmanager
def reset(setter: Callable[[Any], Any], value: Any, before: Any) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(before)


def strict(on: bool) -> None:
    torch.use_deterministic_algorithms(on)


DEFAULTS: dict[str, Callable[[], Any]] = {
    "float64": lambda: reset(torch.set_default_dtype, torch.float64, torch.float32),
    "float16": lambda: reset(torch.set_default_dtype, torch.float16, torch.float32),
    "bfloat16": lambda: reset(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "DoubleTensor": lambda: reset(torch.set_default_tensor_type, torch.DoubleTensor, torch.FloatTensor),
    "meta device": lambda: reset(torch.set_default_device, "meta", None),
    "meta device, in a block": lambda: torch.device("meta"),
    "deterministic": lambda: reset(strict, True, False),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "anomaly detection": torch.autograd.detect_anomaly,
    "printoptions": lambda: reset(
        lambda profile: torch.set_printoptions(profile=profile, sci_mode=None), "short", "default"
    ),
    "warn always": lambda: reset(torch.set_warn_always, True, False),
    "no denormals": lambda: reset(torch.set_flush_denormal, True, False),
    "one thread of autograd": lambda: torch.autograd.set_multithreading_enabled(False),
    "fewer bits in products": lambda: reset(torch.set_float32_matmul_precision, "medium", "highest"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("defaults")
    data = {"images": [{"id": 1, "height": 24, "width": 30}], "annotations": [{"image_id": 1, "bbox": [4, 5, 5, 6]}]}
    (root / "a.json").write_text(json.dumps(data))
    city = root / "gtFine" / "train" / "ulm"
    city.mkdir(parents=True)
    Image.fromarray(np.kron([[7, 8], [26, 7]], np.ones((6, 8))).astype(np.uint8)).save(city / "a_gtFine_labelIds.png")
    return root


@pytest.mark.parametrize("name", CALLS)
def test_results_do_not_depend_on_global_defaults(folder, name):
    expected, wrong = leaves(CALLS[name](folder)), []
    state = torch.get_rng_state()
    for default, setting in DEFAULTS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of the settings themselves
                with setting():
                    found = leaves(CALLS[name](folder))
        except Exception as error:
            wrong.append(f"{default}: {type(error).__name__}: {error}")
            continue
        if default not in ("inference_mode", "no_grad"):  # where there are no gradients to compare
            assert len(found) == len(expected) > 0
        for i, (ours, theirs) in enumerate(zip(found, expected, strict=False)):
            if ours.dtype != theirs.dtype or ours.device != theirs.device or not torch.equal(ours, theirs):
                wrong.append(f"{default}[{i}]: {ours.dtype} on {ours.device}, expected {theirs.dtype}, or other values")
    assert not wrong, "\n".join(wrong)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_doctor_brings_its_own_defaults():
    with DEFAULTS["float16"](), torch.device("meta"), torch.inference_mode():
        report = doctor.examine()
    assert report["ok"], report
