"""What `fastwarp.attach` promises, for each network of the frameworks."""

from __future__ import annotations

import copy
import functools
import io
import re

import pytest
import torch
from hosts import BOXES, CASES, SIZES, Case
from torch import Tensor, nn

import fastwarp
from fastwarp import FastwarpError, SeparableWarp
from fastwarp.attaching.maps import maps_in
from fastwarp.attaching.presets import preset
from fastwarp.nn import DownsizeNet
from fastwarp.saliency import AdaptiveSaliency, LearnedSaliency

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
detectors = pytest.mark.parametrize(
    "case", [case for case in CASES if case.boxes], ids=lambda case: case.name.replace(" ", "-")
)


@functools.lru_cache(maxsize=1)
def built(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return case.build()


def fresh(case: Case) -> nn.Module:
    return copy.deepcopy(built(case))


def bent(batch: int = 1) -> SeparableWarp:
    """More pixels for the middle, left and right of it by turns."""
    grid = torch.linspace(0, 1, 9)
    knots = [grid + (-1) ** b * 0.1 * torch.sin(2 * torch.pi * grid) / 2 for b in range(batch)]
    return SeparableWarp(torch.stack(knots), torch.stack(knots[::-1]))


def losses(case: Case, model: nn.Module, equal: bool = False) -> dict[str, Tensor]:
    torch.manual_seed(3)  # of samplers
    return case.losses(model.train(), case.batch(equal))


def raw(case: Case, model: nn.Module, equal: bool = False) -> list[Tensor]:
    with torch.no_grad():
        return case.raw(model.eval(), case.batch(equal))


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) > 0 and all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


def total(case: Case, model: nn.Module) -> Tensor:
    """The loss that is trained: OpenMMLab lists its sum first, and measures beside."""
    named = losses(case, model)
    return named["loss"] if "loss" in named else sum(named.values())


@cases
def test_the_identity_changes_nothing_and_detaching_neither(case):
    """Bitwise: losses and the raw outputs of heads, also of padded batches."""
    model = fresh(case)
    state, plain = list(model.state_dict()), {}
    batches = (True, False) if case.padded else (False,)
    for equal in batches:
        plain[equal] = (raw(case, model, equal), losses(case, fresh(case), equal))
    attached = fresh(case)
    fastwarp.attach(attached, SeparableWarp.identity())
    assert [key for key in attached.state_dict() if not key.startswith("fastwarp.")] == state
    attached.load_state_dict(model.state_dict(), strict=True)
    for equal in batches:
        assert same(raw(case, attached, equal), plain[equal][0])
        result = losses(case, copy.deepcopy(attached), equal)
        assert set(result) == set(plain[equal][1])
        for name, value in result.items():
            assert torch.equal(value, plain[equal][1][name]), f"{name}: {value} is not {plain[equal][1][name]}"
    fastwarp.detach(attached)
    assert list(attached.state_dict()) == state
    assert same(raw(case, attached), plain[False][0])


@cases
def test_a_bent_warp_trains_with_ddp_and_amp(case):
    """Warps that differ within a batch; the second step under autocast."""
    model = fresh(case)
    adapter = fastwarp.attach(model, SeparableWarp.identity())
    parallel = nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    optimiser = torch.optim.SGD(model.parameters(), 1e-4)
    for dtype in (None, torch.bfloat16) if case.amp else (None,):
        adapter.next(warp=bent(2))
        optimiser.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = total(case, parallel)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.equal(adapter.warp.knots_x, bent(2).knots_x)
        backbone = [p for p in model.get_submodule(adapter.host.zoom).parameters() if p.requires_grad]
        trained = backbone or [p for p in model.parameters() if p.requires_grad]  # transformers may freeze all of it
        assert any(p.grad is not None and p.grad.any() for p in trained)
        optimiser.step()


@cases
def test_a_learned_saliency_gets_a_gradient(case):
    model = fresh(case)
    adapter = fastwarp.attach(model, LearnedSaliency((9, 11)), fwhm=3.0)
    total(case, model).backward()
    gradient = adapter.saliency.layers[-1].weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.any()
    copy.deepcopy(model)  # an EMA may be taken after any batch


@pytest.mark.parametrize("case", [c for c in CASES if c.places], ids=lambda case: case.name.replace(" ", "-"))
def test_maps_come_back_to_their_pixels(case):
    """A blob in the image moves the cells over it, attached or not, whatever the warp."""
    places = []
    for warp in (SeparableWarp.identity(), bent()):
        model = fresh(case).eval()
        _silence_coarse_levels(model)
        adapter = fastwarp.attach(model, warp)
        caught, sizes = _unzoomed(model, adapter.host), []
        for strength in (0.0, 3.0):
            handle = _before(model.get_submodule(adapter.host.zoom), strength, sizes)
            raw(case, model, True)
            handle.remove()
        change = (caught[1] - caught[0])[0].square().sum(0)
        cells = torch.stack(torch.meshgrid(*(torch.arange(n) for n in change.shape), indexing="ij"), -1).float()
        place = (cells * change[..., None]).sum((0, 1)) / change.sum()
        places.append(place * sizes[0][0] / change.shape[0])  # in pixels
    moved = (places[1] - places[0]).abs()
    # Without the unzoom it moves by 4 to 15 pixels.
    assert (moved < 3).all(), f"{places[0]} moved to {places[1]} pixels by a map of {tuple(change.shape)} cells"


def test_cells_of_centernet_are_where_its_preset_says():
    """Transposed convolutions shift its map by 14 pixels. As means of their windows, its layers keep the centre of a
    bright square."""
    (case,) = (case for case in CASES if "CenterNet" in case.name)
    model = fresh(case).double().eval()
    host = preset(model)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    for first in (250, 256, 263):
        image = torch.zeros(1, 3, 512, 512, dtype=torch.float64)
        image[..., first : first + 33, first + 10 : first + 43] = 1
        with torch.no_grad():
            seen = model.neck(model.backbone(image))[0][0].sum(0)
        pixels = host.strides[0] * torch.arange(len(seen)) + host.phase * (host.strides[0] - 1)
        for axis, centre in ((1, first + 16), (0, first + 26)):
            assert abs((seen.sum(axis) * pixels).sum() / seen.sum() - centre) < 1  # a maximum is no mean


def _silence_coarse_levels(model: nn.Module) -> None:
    """A pyramid adds its coarse levels to finer ones by doubling cells, which puts them up to half a coarse cell beside
    their place: of the network, not of its zoom."""
    for name, module in model.named_modules():
        if re.search(r"(inner_blocks|lateral_convs)\.[1-9]", name) and isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)


def _unzoomed(model: nn.Module, host: fastwarp.Host) -> list[Tensor]:
    """The first unzoomed map of each forward pass from now on."""
    module, caught = model.get_submodule(host.unzoom), []
    if host.into:
        hook = lambda module, args, kwargs: caught.append(maps_in((args, kwargs), None)[0])  # noqa: E731
        module.register_forward_pre_hook(hook, with_kwargs=True)
    else:
        module.register_forward_hook(lambda module, args, output: caught.append(maps_in(output, host.keys)[0]))
    return caught


def _before(module: nn.Module, strength: float, sizes: list[torch.Size]):
    """Adds a blob to the image that a submodule is called with, before any other hook, and notes the size."""

    def add(module, args, kwargs):
        image = maps_in((args, kwargs), None)[0]
        height, width = image.shape[2:]
        sizes.append(image.shape[2:])
        blob = torch.zeros_like(image)
        blob[:, :, height // 4 : height // 4 + 12, width // 4 : width // 4 + 12] = strength
        changed = image + blob
        swap = lambda value: changed if value is image else value  # noqa: E731
        return tuple(swap(v) for v in args), {k: swap(v) for k, v in kwargs.items()}

    return module.register_forward_pre_hook(add, with_kwargs=True, prepend=True)


@cases
def test_copies_and_files_predict_the_same(case):
    model = fresh(case)
    fastwarp.attach(model, bent())
    expected = raw(case, model)
    average = torch.optim.swa_utils.AveragedModel(model)
    assert same(raw(case, average.module), expected)
    if case.pickles:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        assert same(raw(case, torch.load(file, weights_only=False)), expected)
    fastwarp.detach(average.module)
    assert same(raw(case, average.module), raw(case, fastwarp.detach(model)))


@pytest.mark.parametrize("case", [c for c in CASES if c.compiles], ids=lambda case: case.name.replace(" ", "-"))
def test_compiles_to_one_graph(case):
    model = fresh(case).eval()
    fastwarp.attach(model, bent())
    expected = raw(case, model, True)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for got, right in zip(raw(case, compiled, True), expected, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-5)


@detectors
def test_targets_sizes_and_detections_are_read(case):
    """An adaptive saliency follows targets in training and detections in evaluation, all relative to the image."""
    model, known = fresh(case), []
    adapter = fastwarp.attach(model, AdaptiveSaliency((128, 160), threshold=-1.0), jitter=(0.0, 0.0))
    model.get_submodule(adapter.host.zoom).register_forward_pre_hook(
        lambda module, args: known.append(adapter._known()), prepend=True
    )
    total(case, model).backward()
    facts = known[0]
    batch, valid = case.batch(False), torch.as_tensor(facts.valid)
    if case.name.startswith("transformers"):
        assert valid.tolist() == [list(size) for size in SIZES[False]]
        torch.testing.assert_close(facts.boxes[0], torch.tensor([[0.2, 0.2, 0.4, 0.4], [0.45, 0.5, 0.75, 0.7]]))
    else:
        images = batch[0] if isinstance(batch, tuple) else batch["inputs"]
        images = images["img"] if isinstance(images, dict) else images
        for image, boxes in zip(images, facts.boxes, strict=True):
            height, width = image.shape[1:]
            torch.testing.assert_close(boxes, BOXES / torch.tensor([width, height, width, height]), rtol=0, atol=1e-3)
    if case.outputs is None:
        return
    with torch.no_grad():
        case.outputs(model.eval(), case.batch(True))
    if "FCOS3D" in case.name:
        assert adapter.detections is None
        return
    boxes, scores = adapter.detections
    assert len(boxes) == len(scores) == 2
    for one, score in zip(boxes, scores, strict=True):
        assert one.shape == (*score.shape, 4)
        assert (one > -1).all()
        assert (one < 2).all()


@cases
def test_scale_and_downsize(case):
    """Networks with relative labels run at another size, others refuse; DownsizeNet starts as the plain network."""
    model = fresh(case)
    if case.relative:
        scale = 2.0 if preset(model).divisor == 32 else 0.5  # the batch is 160 wide
        fastwarp.attach(model, bent(), scale=scale)
        seen = []
        zoomed = model.get_submodule(model.fastwarp.host.zoom)
        zoomed.register_forward_pre_hook(
            lambda m, args, kwargs: seen.append(maps_in((args, kwargs), None)[0].shape[2:]), with_kwargs=True
        )
        assert torch.isfinite(total(case, model))
        assert seen[0][0] in (32, 64, 256)
        fastwarp.detach(model)
    else:
        with pytest.raises(FastwarpError, match=re.escape("scale is 0.5, expected 1 for a network whose anchors")):
            fastwarp.attach(model, bent(), scale=0.5)
    plain = raw(case, model)
    fastwarp.attach(model, DownsizeNet())
    for got, right in zip(raw(case, model), plain, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-2, atol=1e-2)
