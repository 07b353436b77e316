"""`fastwarp.attach` on small networks of our own; tests/integrations does the same on the frameworks' networks."""

from __future__ import annotations

import copy
import io
import re

import pytest
import torch
import torch.nn.functional as TF
from attach_cases import HOST, SIZE, Net, facts, images, net, same, warp
from helpers import random_mesh_warp, random_warp
from torch import nn
from torch.utils.checkpoint import checkpoint

import fastwarp
from fastwarp import FastwarpError, Host, MeshWarp, SeparableWarp
from fastwarp.nn import DownsizeNet
from fastwarp.saliency import AdaptiveSaliency, FixedSaliency, LearnedSaliency


def seen(model: nn.Module, name: str = "backbone") -> list[torch.Tensor]:
    """What a submodule is called with from now on, after the zoom."""
    calls: list[torch.Tensor] = []
    model.get_submodule(name).register_forward_pre_hook(lambda module, args: calls.append(args[0]))
    return calls


# --- it leaves the network alone --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [None, [(48, 64), (37, 51)]])
def test_the_identity_is_bitwise_the_plain_network(sizes):
    model, image = net(), images()
    if sizes is not None:
        image[1, :, 37:] = 0
        image[1, :, :, 51:] = 0
    plain = model(image)
    fastwarp.attach(model, SeparableWarp.identity(), HOST)
    assert same(model(image, sizes=sizes), plain)


def test_plain_checkpoints_load_and_the_keys_stay():
    plain, model = net().state_dict(), net()
    adapter = fastwarp.attach(model, LearnedSaliency((5, 6)), HOST)
    keys = list(model.state_dict())
    assert keys[: len(plain)] == list(plain)
    assert all(key.startswith("fastwarp.saliency.") for key in keys[len(plain) :])
    nn.init.ones_(adapter.saliency.layers[0].weight)
    model.load_state_dict(plain, strict=True)
    assert (adapter.saliency.layers[0].weight == 1).all()
    assert set(plain) == set(net().state_dict())  # nothing was added to it
    other = net()
    fastwarp.attach(other, LearnedSaliency((5, 6)), HOST)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other.fastwarp.saliency.layers[0].weight, adapter.saliency.layers[0].weight)


def test_a_checkpoint_brings_its_fixed_warp():
    first, second = net(), net()
    fastwarp.attach(first, warp(), HOST)
    fastwarp.attach(second, SeparableWarp.identity(1, (5, 7)), HOST)
    second.load_state_dict(first.state_dict(), strict=True)
    assert same(first(images()), second(images()))


def test_detach_restores_the_network_and_a_copy_of_it():
    model, image = net(), images()
    keys, plain = list(model.state_dict()), model(image)
    fastwarp.attach(model, warp(), HOST)
    assert not same(model(image), plain)
    for one in (copy.deepcopy(model), model):
        assert fastwarp.detach(one) is one
        assert list(one.state_dict()) == keys
        assert same(one(image), plain)
        for module in one.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
            assert not module._forward_hooks_with_kwargs
            assert not module._forward_pre_hooks_with_kwargs
    fastwarp.attach(model, warp(), HOST)
    with pytest.raises(FastwarpError, match="nothing is attached to this Linear"):
        fastwarp.detach(nn.Linear(1, 1))


def test_copies_and_files_are_independent_and_know_nothing_of_a_batch():
    model, image = net(), images()
    adapter = fastwarp.attach(model, LearnedSaliency((5, 6)), HOST)
    nn.init.normal_(adapter.saliency.layers[-1].weight)
    result = model(image)
    sum(level.sum() for level in result).backward()
    adapter.next(flipped=True)
    average = torch.optim.swa_utils.AveragedModel(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), average.module, torch.load(file, weights_only=False)):
        assert other.fastwarp is not adapter
        assert other.fastwarp.warp is None
        assert not other.fastwarp._next
        assert same(other(image), result)
        nn.init.zeros_(other.fastwarp.saliency.layers[-1].weight)
    adapter.next()
    assert same(model(image), result)


# --- what it computes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["separable", "mesh"])
def test_zooms_the_image_and_unzooms_the_maps(kind):
    model, image = net(), images()
    saliency = torch.rand(5, 6)
    expected = {"separable": SeparableWarp, "mesh": MeshWarp}[kind].from_saliency(saliency[None], 3.0)
    for given in (saliency, FixedSaliency(saliency), expected):
        one = copy.deepcopy(model)
        zoomed, heads = seen(one), []
        adapter = fastwarp.attach(one, given, HOST, kind=kind, fwhm=3.0)
        one.head.register_forward_pre_hook(lambda module, args, heads=heads: heads.append(args[0]))
        one(image)
        # The hook that looks was registered before the zoom's, so it is the conv inside that tells.
        small = expected.zoom(image, SIZE)
        inside = seen(one, "backbone.stem")
        one(image)
        torch.testing.assert_close(inside[0], small, rtol=0, atol=1e-6)
        assert torch.equal(zoomed[0], image)
        assert type(adapter.warp) is type(expected)
        assert len(heads) == 4
        assert heads[0].shape == (2, 6, 12, 16)
        assert heads[1].shape == (2, 6, 6, 8)


class Identity(nn.Module):
    """A strided network whose cell i is exactly pixel s i of its image."""

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return image[..., ::2, ::2], image[..., ::4, ::4]


class Registered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Identity()

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.backbone(image)


@pytest.mark.parametrize("bent", [random_warp(1), random_mesh_warp(1)], ids=["separable", "mesh"])
def test_cells_come_back_to_the_pixels_that_they_lie_at(bent):
    # A linear ramp survives interpolation, so that the value of each cell tells where it was read.
    ramp = torch.stack(torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij"))[None]
    model = Registered()
    fastwarp.attach(model, bent, Host("backbone", "backbone"))
    for stride, level in zip((2, 4), model(ramp), strict=True):
        error = (level - ramp[..., ::stride, ::stride]).abs()[..., 1:-1, 1:-1]
        assert error.mean() < 0.05 * stride  # a bend of the warp between two cells is all that is lost


def test_padding_does_not_matter():
    bent, image = warp(), images(1)[..., :37, :51]
    padded = TF.pad(image, (0, 13, 0, 11))
    model = net()
    fastwarp.attach(model, bent, HOST)
    inside = seen(model, "backbone.stem")
    model(padded, sizes=[(37, 51)])
    torch.testing.assert_close(inside[0][..., :37, :51], bent.zoom(image, (37, 51)))
    assert not inside[0][..., 37:, :].any()


def test_flipped_images_get_the_mirrored_warp():
    image = images()
    for given, kind in ((warp(), "separable"), (torch.rand(5, 6), "mesh"), (nn.Parameter(torch.rand(5, 6)), "mesh")):
        model = net()
        adapter = fastwarp.attach(model, given, HOST, kind=kind, fwhm=3.0)
        inside = seen(model, "backbone.stem")
        model(image)
        adapter.next(flipped=True)
        model(image.flip(3))
        adapter.next(flipped=[False, True])
        model(torch.stack([image[0], image[1].flip(2)]))
        for zoomed in (inside[1].flip(3), torch.stack([inside[2][0], inside[2][1].flip(2)])):
            torch.testing.assert_close(zoomed, inside[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("saliency", [LearnedSaliency((5, 6)), nn.Parameter(torch.rand(5, 6))], ids=["net", "map"])
@pytest.mark.parametrize("kind", ["separable", "mesh"])
def test_a_learned_saliency_gets_gradients_and_learns(saliency, kind):
    model, image = net(), images()
    adapter = fastwarp.attach(model, copy.deepcopy(saliency), HOST, kind=kind, fwhm=3.0)
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        loss = sum(level.square().mean() for level in model(image, sizes=[(48, 64), (37, 51)]))
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    last = adapter.saliency if isinstance(saliency, nn.Parameter) else adapter.saliency.layers[-1].weight
    assert last.grad is not None
    assert last.grad.any()


def test_a_learned_saliency_does_not_see_the_padding():
    model, image = net(), images(1)[..., :36, :52]
    adapter = fastwarp.attach(model, LearnedSaliency((5, 6)), HOST)
    nn.init.normal_(adapter.saliency.layers[-1].weight, std=5)
    model(TF.pad(image, (0, 12, 0, 12)), sizes=[(36, 52)])
    padded = adapter.warp
    model(image, sizes=[(36, 52)])
    torch.testing.assert_close(padded.knots_x, adapter.warp.knots_x, rtol=0, atol=1e-5)
    assert (padded.knots_x - torch.linspace(0, 1, 6)).abs().max() > 1e-3


def test_full_takes_pixels_from_the_originals():
    bent, image = warp(), images()
    originals = [torch.rand(3, 96, 128), torch.rand(3, 80, 100)]
    model = net()
    adapter = fastwarp.attach(model, bent, HOST, full=True)
    inside = seen(model, "backbone.stem")
    with pytest.raises(FastwarpError, match=re.escape("no source images are known, full=True takes them from")):
        model(image)
    adapter.next(source=originals)
    model(image)
    model(image, zoom_source=originals)
    adapter.next(source=lambda: originals)
    model(image)
    for k in range(3):
        for zoomed, original in zip(inside[k], originals, strict=True):
            torch.testing.assert_close(zoomed[None], bent.zoom(original[None], SIZE))
    with pytest.raises(FastwarpError, match="no source images are known"):
        model(image)  # they were for one batch
    with pytest.raises(FastwarpError, match=re.escape("source images are of shapes [(3, 96, 128)], expected 2 images")):
        model(image, zoom_source=originals[:1])


def test_scale_runs_a_network_with_relative_labels_smaller():
    model, image = net(), images()
    host = Host("backbone", "backbone", divisor=4, relative=True, facts=facts)
    fastwarp.attach(model, warp(), host, scale=0.5)
    inside = seen(model, "backbone.stem")
    fine, coarse = model(image, sizes=[(48, 64), (36, 52)])
    assert inside[0].shape[2:] == (24, 32)
    assert not inside[0][1, :, 18:].any()
    assert inside[0][1, :, 17, 25].all()
    assert fine.shape[2:] == (6, 8)
    assert coarse.shape[2:] == (3, 4)


def test_a_scale_that_the_network_cannot_run_at_is_refused():
    with pytest.raises(FastwarpError, match=r"scale is 0.5, expected 1 for a network whose anchors"):
        fastwarp.attach(net(), warp(), HOST, scale=0.5)
    model = net()
    fastwarp.attach(model, warp(), Host("backbone", "backbone", divisor=16, relative=True), scale=0.5)
    with pytest.raises(
        FastwarpError, match=r"scale is 0.5, which makes 24 x 32 of 48 x 64, expected .* multiples of 16"
    ):
        model(images())
    with pytest.raises(FastwarpError, match="scale is 0, expected a positive number"):
        fastwarp.attach(net(), warp(), HOST, scale=0)


def test_downsize_net_resizes_the_originals_and_unzooms_nothing():
    model, image = net(), images()
    originals = [torch.rand(3, 96, 128), torch.rand(3, 80, 100)]
    fastwarp.attach(model, DownsizeNet(), HOST, full=True)
    inside = seen(model, "backbone.stem")
    result = model(image, sizes=[(48, 64), (40, 50)], zoom_source=originals)
    for zoomed, original, (h, w) in zip(inside[0], originals, [(48, 64), (40, 50)], strict=True):
        bilinear = TF.interpolate(original[None], (h, w), mode="bilinear")
        torch.testing.assert_close(zoomed[None, :, :h, :w], bilinear, rtol=0, atol=1e-5)
    assert not inside[0][1, :, 40:].any()
    assert same(result, [model.head(level.relu()) for level in fastwarp.detach(model).backbone(inside[0]).values()])


def test_without_an_unzoom_the_network_stays_in_zoomed_space():
    model, bent = net(), warp()
    adapter = fastwarp.attach(model, bent, Host("backbone", None))
    result = model(images())
    plain = fastwarp.detach(model)(bent.zoom(images(), SIZE))
    assert same(result, plain)
    assert torch.equal(adapter.warp.knots_x, bent.knots_x)


# --- adaptive saliency ------------------------------------------------------------------------------------------------


def adaptive() -> AdaptiveSaliency:
    return AdaptiveSaliency((480, 640), (5, 6), bandwidth=16.0, threshold=0.5)


def test_training_follows_the_targets_and_needs_them():
    model, image = net().train(), images()
    adapter = fastwarp.attach(model, adaptive(), HOST, fwhm=3.0, jitter=(0.0, 0.0))
    boxes = [torch.tensor([[0.7, 0.4, 0.9, 0.8]]), torch.zeros(0, 4)]
    model(image, boxes=boxes)
    expected = adaptive()
    expected.update([boxes[0] * torch.tensor([640, 480, 640, 480])])
    torch.testing.assert_close(adapter.warp.knots_x[:1], expected.knots(fwhm=3.0)[1])
    torch.testing.assert_close(adapter.warp.knots_x[1], torch.linspace(0, 1, 6))
    adapter.next(boxes=boxes[::-1])  # say, of a cascade: the network's own detections
    model(image, boxes=boxes)
    torch.testing.assert_close(adapter.warp.knots_x[0], torch.linspace(0, 1, 6))
    with pytest.raises(FastwarpError, match=re.escape("needs boxes in training: Adapter.next(boxes=...)")):
        model(image)
    fastwarp.detach(model)
    adapter = fastwarp.attach(model, adaptive(), HOST, fwhm=3.0)
    model(image, boxes=boxes)
    first = adapter.warp.knots_x
    model(image, boxes=boxes)
    assert not torch.equal(first[0], adapter.warp.knots_x[0])  # moved at random


@pytest.mark.parametrize("kind", ["separable", "mesh"])
def test_evaluation_follows_the_detections_of_each_stream(kind):
    model, image = net().eval(), images()
    adapter = fastwarp.attach(model, adaptive(), HOST, fwhm=3.0, kind=kind)

    def knots() -> torch.Tensor:
        return adapter.warp.knots_x if kind == "separable" else adapter.warp.mesh[:, 0, :, 0]

    uniform, moved = torch.linspace(0, 1, 6), 1e-3
    adapter.next(streams=["left", "right"])
    model(image)
    torch.testing.assert_close(knots(), uniform.expand(2, -1))
    assert adapter.detections[0][0].shape == (2, 4)
    adapter.next(streams=["right", "new"])
    model(image)
    assert (knots()[0] - uniform).abs().max() > moved
    torch.testing.assert_close(knots()[1], uniform)
    adapter.feedback = False
    adapter.saliency.reset()
    for _ in range(2):
        model(image)
        torch.testing.assert_close(knots(), uniform.expand(2, -1))
    adapter.update([torch.tensor([[0.7, 0.4, 0.9, 0.8]])], streams=[1])
    model(image)
    torch.testing.assert_close(knots()[0], uniform)
    assert (knots()[1] - uniform).abs().max() > moved
    with pytest.raises(FastwarpError, match="the saliency is a fixed warp, expected an AdaptiveSaliency"):
        fastwarp.attach(net(), warp(), HOST).update([])


def test_next_is_for_one_batch():
    model, image = net(), images()
    adapter = fastwarp.attach(model, SeparableWarp.identity(), HOST)
    plain = model(image)
    bent = random_warp(2)
    adapter.next(warp=bent)
    assert not same(model(image), plain)
    assert torch.equal(adapter.warp.knots_x, bent.knots_x)
    assert same(model(image), plain)
    with pytest.raises(TypeError, match=re.escape("Adapter.next: got stream=, expected some of valid, boxes, streams")):
        adapter.next(stream=[0])


# --- inside other machinery -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fixed", "learned", "adaptive"])
def test_compiles_to_one_graph(kind):
    model, image = net(), images()
    saliency = {"fixed": warp(), "learned": LearnedSaliency((5, 6)), "adaptive": adaptive()}[kind]
    fastwarp.attach(model, saliency, HOST, fwhm=3.0, jitter=(0.0, 0.0))
    boxes = [torch.tensor([[0.7, 0.4, 0.9, 0.8]]), torch.zeros(0, 4)]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = {}
    for name, run in (("eager", model), ("compiled", compiled)):
        model.zero_grad()
        levels = run(image, sizes=torch.tensor([[48, 64], [37, 51]]), boxes=boxes)
        sum(level.square().mean() for level in levels).backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results[name] = [level.detach() for level in levels] + gradients
    assert len(results["eager"]) >= 8
    for eager, after in zip(results["eager"], results["compiled"], strict=True):
        torch.testing.assert_close(after, eager, rtol=1e-4, atol=1e-6)


def test_autocast_and_half_precision():
    model, image = net(), images()
    adapter = fastwarp.attach(model, LearnedSaliency((5, 6)), HOST)
    with torch.autocast("cpu", torch.bfloat16):
        levels = model(image, sizes=[(48, 64), (37, 51)])
        loss = sum(level.float().square().mean() for level in levels)
    loss.backward()
    assert adapter.saliency.layers[-1].weight.grad.any()
    assert adapter.warp.knots_x.dtype == torch.float32
    for saliency in (LearnedSaliency((5, 6)), warp(), DownsizeNet()):
        model = net()
        adapter = fastwarp.attach(model, saliency, HOST)
        model.to(torch.bfloat16)
        assert model(image.bfloat16())[0].dtype == torch.bfloat16
        assert all(tensor.dtype == torch.float32 for tensor in adapter.state_dict().values())


def test_maps_of_several_dtypes():
    model = Registered()
    model.backbone.forward = lambda image: (image[..., ::2, ::2].bfloat16(), image[..., ::4, ::4])
    fastwarp.attach(model, warp(), Host("backbone", "backbone"))
    fine, coarse = model(images())
    assert (fine.dtype, coarse.dtype) == (torch.bfloat16, torch.float32)


def test_checkpointed_blocks_are_exact_and_a_checkpointed_whole_is_refused():
    image, gradients = images(), []
    for checkpointed in (False, True):
        model = net()
        fastwarp.attach(model, LearnedSaliency((5, 6)), HOST)
        model.backbone.checkpointed = checkpointed
        sum(level.square().mean() for level in model(image)).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert same(*gradients)

    class Whole(Net):
        def forward(self, image):
            levels = checkpoint(self.backbone, image, use_reentrant=False)
            return sum(self.head(level).square().mean() for level in levels.values())

    model = Whole()
    fastwarp.attach(model, warp(), HOST)
    loss = model(image)
    with pytest.raises(FastwarpError, match="backbone is recomputed in a backward pass"):
        loss.backward()


def test_distributed_data_parallel_synchronises_what_is_learned(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        model = net()
        fastwarp.attach(model, LearnedSaliency((5, 6)), HOST)
        parallel = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            sum(level.square().mean() for level in parallel(images())).backward()
        assert model.fastwarp.saliency.layers[-1].weight.grad.any()
        with pytest.raises(FastwarpError, match="a DistributedDataParallel, expected the network itself"):
            fastwarp.attach(parallel, warp(), HOST)
    finally:
        torch.distributed.destroy_process_group()
