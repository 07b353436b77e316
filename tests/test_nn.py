"""Zoom and Unzoom as modules: what they save, what they load, their precision, learning."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from helpers import assert_bitwise, random_mesh_warp, random_warp

from fastwarp import FastwarpError, MeshWarp, SeparableWarp, functional
from fastwarp.nn import Unzoom, Zoom
from fastwarp.saliency import AdaptiveSaliency, FixedSaliency, LearnedSaliency, PerspectivePrior
from fastwarp.warp import mesh as warp_mesh
from fastwarp.warp import separable as warp_separable


class Make:
    """Makes modules of one class with warps of one kind."""

    def __init__(self, module: str, kind: str) -> None:
        self.zooms, self.kind = module == "zoom", kind
        self.warps = {"separable": SeparableWarp, "mesh": MeshWarp}[kind]
        self.random_warp = {"separable": random_warp, "mesh": random_mesh_warp}[kind]

    def __call__(self, **options):
        options = {"kind": self.kind, **options}
        return Zoom((6, 8), **options) if self.zooms else Unzoom(**options)


def geometry_of(module) -> dict[str, torch.Tensor]:
    """Knots or mesh of a fixed warp; none for a saliency, whose warp is made in each call."""
    buffers = {name: getattr(module, name) for name in ("knots_y", "knots_x", "mesh")}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


@pytest.fixture(params=["zoom", "unzoom", "zoom mesh", "unzoom mesh"])
def make(request):
    module, _, kind = request.param.partition(" ")
    return Make(module, kind or "separable")


def test_state_is_what_defines_the_warp(make):
    warp, saliency = make.random_warp(1), torch.rand(1, 5, 7)
    names = {"separable": ["knots_y", "knots_x"], "mesh": ["mesh"]}[make.kind]
    assert_bitwise(list(make(warp=warp).state_dict().values()), [getattr(warp, name) for name in names])
    assert list(make(warp=warp).state_dict()) == names
    fixed = make(saliency=saliency)
    assert list(fixed.state_dict()) == ["saliency"]
    assert [name for name, _ in fixed.named_buffers()] == ["saliency"]  # the knots made from it are nowhere
    assert not list(fixed.parameters())
    learned = make(saliency=torch.nn.Parameter(saliency))
    assert list(learned.state_dict()) == ["saliency"]
    assert list(dict(learned.named_parameters())) == ["saliency"]
    assert list(make().state_dict()) == []


def test_result_is_that_of_the_warp(make):
    saliency, warp, image = torch.rand(2, 5, 7), make.random_warp(2), torch.rand(2, 3, 9, 11)
    made = make.warps.from_saliency(saliency, 4.0, False)

    def expected(warp):
        return warp.zoom(image, (6, 8)) if make.zooms else warp.unzoom(image)

    assert_bitwise([make(warp=warp)(image)], [expected(warp)])
    assert_bitwise([make(saliency=saliency, fwhm=4.0, anti_crop=False)(image)], [expected(made)])
    learned = make(saliency=torch.nn.Parameter(saliency), fwhm=4.0, anti_crop=False)
    assert_bitwise([learned(image).detach()], [expected(made)])
    assert_bitwise([make()(image, warp)], [expected(warp)])
    other = random_warp(2) if make.kind == "mesh" else random_mesh_warp(2, tile="homography")
    for given in (warp, other):  # what is given goes first, of either kind
        assert_bitwise([make(saliency=saliency)(image, given)], [expected(given)])


def test_a_fixed_mesh_keeps_its_kind_of_tile():
    warp, image = random_mesh_warp(1, tile="homography"), torch.rand(1, 2, 9, 11)
    assert not torch.equal(warp.unzoom(image), MeshWarp(warp.mesh).unzoom(image))
    for again in (Unzoom(warp), copy.deepcopy(Unzoom(warp)), pickle.loads(pickle.dumps(Unzoom(warp)))):
        assert_bitwise([again(image)], [warp.unzoom(image)])


def test_options_are_passed_on():
    warp, image = random_warp(2, ends=(0.1, 0.9)), torch.rand(2, 3, 9, 11)
    valid = torch.tensor([[3, 4], [6, 8]])
    got = Zoom((6, 8), warp, antialias=True)(image, valid=valid, source_valid=valid)
    assert_bitwise([got], [warp.zoom(image, (6, 8), antialias=True, valid=valid, source_valid=valid)])
    got = Unzoom(warp, antialias=True, padding_mode="border")({"a": image}, size={"a": (4, 4)}, valid={"a": valid})["a"]
    expected = warp.unzoom(image, (4, 4), antialias=True, padding_mode="border", valid=valid)
    assert_bitwise([got], [expected])


def maps_of(module, saliency, image):
    """What the module gives, and what the warp of `saliency` gives; both without a gradient."""
    warp = {"separable": SeparableWarp, "mesh": MeshWarp}[module.kind].from_saliency(saliency, module.fwhm)
    expected = warp.zoom(image, (6, 8)) if isinstance(module, Zoom) else warp.unzoom(image)
    return module(image).detach(), expected.detach()


def assigned(module, new):
    module.saliency = new


def copied(module, new):
    with torch.no_grad():
        module.saliency.copy_(new)


def data_replaced(module, new):
    module.saliency.data = new


def data_copied(module, new):  # which torch's version counter does not see
    module.saliency.data.copy_(new)


def numpy_written(module, new):
    module.saliency.numpy()[:] = new.numpy()


def loaded(module, new):
    file = io.BytesIO()
    torch.save({"saliency": new}, file)
    file.seek(0)
    before = module.saliency
    module.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert module.saliency is before  # in place: graphs and exports hold this tensor


def loaded_by_assignment(module, new):
    module.load_state_dict({"saliency": new}, assign=True)


def loaded_beside_other_keys(module, new):
    module.load_state_dict({"saliency": new, "other": torch.ones(1)}, strict=False)


def loaded_inside(module, new):
    torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), module).load_state_dict({"1.saliency": new}, strict=False)


def made_on_meta(module, new):
    module.to("meta").to_empty(device="cpu")
    module.load_state_dict({"saliency": new})


def assigned_on_meta(module, new):
    module.to("meta").load_state_dict({"saliency": new}, assign=True)


def swapped(module, new):
    with torch.no_grad():  # else both are held by a graph
        torch.utils.swap_tensors(module.saliency, new.clone())


def registered(module, new):
    module.register_buffer("saliency", new)


def learned_instead(module, new):
    del module.saliency
    module.saliency = torch.nn.Parameter(new)


def half_and_back(module, new):
    module.saliency = new.double()
    module.half().float()


SETTERS = [
    *(assigned, copied, data_replaced, data_copied, numpy_written, loaded, loaded_by_assignment, swapped, registered),
    *(loaded_beside_other_keys, loaded_inside, made_on_meta, assigned_on_meta, learned_instead, half_and_back),
]


@pytest.mark.parametrize("set_saliency", SETTERS, ids=lambda f: f.__name__)
def test_the_map_is_the_warp_however_it_is_set(make, set_saliency):
    module, image, new = make(saliency=torch.rand(1, 5, 7)), torch.rand(1, 2, 9, 9), torch.rand(1, 5, 7)
    before = module(image)
    set_saliency(module, new)
    got, expected = maps_of(module, new, image)
    assert not torch.equal(got, before)
    assert_bitwise([got], [expected])
    # Saved and loaded, copied and pickled it stays what it is.
    again = make(saliency=torch.rand(1, 5, 7))
    again.load_state_dict(module.state_dict())
    for other in (again, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert_bitwise([other(image).detach()], [expected])


@pytest.mark.parametrize("set_data", ["assigned", "copied", "loaded", "functional"])
def test_the_knots_are_the_warp_however_they_are_set(make, set_data):
    module, image, warp = make(warp=make.random_warp(1)), torch.rand(1, 2, 9, 9), make.random_warp(1)
    new = {name: getattr(warp, name) for name in geometry_of(module)}
    expected = warp.zoom(image, (6, 8)) if make.zooms else warp.unzoom(image)
    assert not torch.equal(module(image), expected)
    if set_data == "functional":
        assert_bitwise([torch.func.functional_call(module, new, image)], [expected])
        return
    if set_data == "loaded":
        module.load_state_dict(new)
    for name, tensor in new.items():
        if set_data == "assigned":
            setattr(module, name, tensor)
        elif set_data == "copied":
            getattr(module, name).copy_(tensor)
    assert_bitwise([module(image)], [expected])


def test_functional_calls_and_parametrizations(make):
    image, old, new = torch.rand(1, 2, 9, 9), torch.rand(1, 5, 7), torch.rand(1, 5, 7, requires_grad=True)
    for saliency in (old, torch.nn.Parameter(old)):
        module = make(saliency=saliency)
        before = module(image).detach()
        got = torch.func.functional_call(module, {"saliency": new}, image)
        assert_bitwise([got.detach()], [maps_of(make(saliency=new), new, image)[1]])
        assert torch.autograd.grad(got.square().sum(), new)[0].any()
        assert_bitwise([module(image).detach()], [before])
        # A map that torch makes of another one: here of its logarithm.
        torch.nn.utils.parametrize.register_parametrization(module, "saliency", Exponential())
        assert_bitwise([module(image).detach()], [maps_of(module, module.saliency, image)[1]])
        torch.testing.assert_close(module(image).detach(), before)
        module.saliency = new.detach()
        torch.testing.assert_close(module(image).detach(), got.detach())
        module.half()
        torch.testing.assert_close(module(image).detach(), got.detach())


class Exponential(torch.nn.Module):
    def forward(self, logarithm):
        return logarithm.exp()

    def right_inverse(self, positive):
        return positive.log()


def test_nothing_of_the_callers_is_changed(make):
    saliency, warp, image = torch.rand(1, 5, 7), make.random_warp(1), torch.rand(1, 2, 9, 9)
    for options in ({"saliency": saliency}, {"warp": warp}):
        module = make(**options)
        theirs = [saliency] if "saliency" in options else [getattr(warp, name) for name in geometry_of(module)]
        before = [tensor.clone() for tensor in theirs]
        result = module(image)
        module.load_state_dict({name: torch.rand_like(value) for name, value in module.state_dict().items()})
        assert_bitwise(theirs, before)
        # Nor does the module change when the caller changes what was passed.
        module = make(**options)
        for tensor in theirs:
            tensor.mul_(0.5).add_(0.1 if "saliency" in options else 0.0)
        assert_bitwise([module(image)], [result])
        for tensor, value in zip(theirs, before, strict=True):
            tensor.copy_(value)
    # A parameter is the caller's: shared, as in any module.
    shared = torch.nn.Parameter(saliency)
    assert make(saliency=shared).saliency is shared
    # A map with a graph behind it is a constant here.
    graph = torch.rand(1, 5, 7, requires_grad=True).exp()
    fixed = make(saliency=graph)
    assert not fixed(image).requires_grad
    copy.deepcopy(fixed)


def test_zoom_and_unzoom_share_a_saliency_that_is_a_module():
    image, new = torch.rand(1, 2, 9, 9), torch.rand(1, 5, 7)
    for saliency in (FixedSaliency(torch.rand(5, 7)), PerspectivePrior((5.0, 3.0), (9, 9), (5, 7))):
        for kind in ("separable", "mesh"):
            zoom, unzoom = Zoom((6, 8), saliency=saliency, kind=kind, fwhm=3.0), Unzoom(saliency=saliency, kind=kind)
            unzoom.fwhm = 3.0
            warp = {"separable": SeparableWarp, "mesh": MeshWarp}[kind].from_saliency(saliency(), 3.0)
            assert_bitwise([zoom(image).detach()], [warp.zoom(image, (6, 8)).detach()])
            assert_bitwise([unzoom(image).detach()], [warp.unzoom(image).detach()])
    both = torch.nn.ModuleList([Zoom((6, 8), saliency=(fixed := FixedSaliency(new))), Unzoom(saliency=fixed)])
    assert len(list(both.buffers())) == 1
    both.load_state_dict(dict.fromkeys(both.state_dict(), new + 1))
    both = copy.deepcopy(both)
    both[0].saliency.saliency.copy_(new * new)
    assert_bitwise([both[1](image)], [SeparableWarp.from_saliency(new * new).unzoom(image)])


def test_a_saliency_that_looks_at_images():
    image, learned = torch.rand(2, 3, 24, 28), LearnedSaliency((5, 7), width=4)
    torch.nn.init.normal_(learned.layers[-1].weight)
    zoom, unzoom = Zoom((6, 8), saliency=learned, fwhm=3.0), Unzoom(saliency=learned)
    warp = zoom.warp_of(image)
    expected = SeparableWarp.from_saliency(learned(image), 3.0)
    assert_bitwise([warp.knots_y.detach()], [expected.knots_y.detach()])
    assert_bitwise([zoom(image).detach()], [expected.zoom(image, (6, 8)).detach()])
    valid = torch.tensor([[24, 20], [17, 28]])
    of_parts = SeparableWarp.from_saliency(learned(image, valid), 3.0)
    assert not torch.equal(of_parts.knots_y, expected.knots_y)
    right = of_parts.zoom(image, (6, 8), source_valid=valid)
    assert_bitwise([zoom(image, source_valid=valid).detach()], [right.detach()])
    unzoom(zoom(image, warp), warp).square().mean().backward()
    assert all(parameter.grad is not None for parameter in learned.parameters())
    with pytest.raises(FastwarpError, match=r"Unzoom: LearnedSaliency looks at images, expected one, or a warp"):
        unzoom(image)
    with pytest.raises(TypeError, match=r"Zoom: saliency is AdaptiveSaliency, expected a map, or a module"):
        Zoom((6, 8), saliency=AdaptiveSaliency((24, 28)))
    # The network follows to half precision; a map of its own stays.
    zoom = torch.nn.ModuleList([Zoom((6, 8), saliency=learned), Zoom((6, 8), saliency=FixedSaliency(image[0, 0]))])
    zoom.to(torch.bfloat16)
    assert learned.layers[0].weight.dtype == torch.bfloat16
    assert zoom[1].saliency.saliency.dtype == torch.float32


def test_a_size_with_each_call():
    warp, image = random_warp(1), torch.rand(1, 2, 9, 11)
    assert_bitwise([Zoom(warp=warp)(image, size=(4, 5))], [warp.zoom(image, (4, 5))])
    assert_bitwise([Zoom((6, 8), warp)(image, size=(4, 5))], [warp.zoom(image, (4, 5))])
    assert_bitwise([Zoom((6, 8))(image, warp, (4, 5))], [warp.zoom(image, (4, 5))])
    with pytest.raises(FastwarpError, match="Zoom: made without a size, expected one with each call"):
        Zoom(warp=warp)(image)
    with pytest.raises(FastwarpError, match="size is "):
        Zoom((6, 8), warp)(image, size=(0, 5))


def test_the_geometry_is_checked_once_in_a_call(make, monkeypatch):
    image, seen = torch.rand(1, 2, 9, 9), []

    def counted(check):
        return lambda function, *args, **options: (seen.append(function), check(function, *args, **options))[1]

    for module in (functional.separable, functional.mesh, warp_separable, warp_mesh):
        for name in ("check_knots", "check_mesh"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, counted(getattr(module, name)))
    for options in ({"warp": make.random_warp(1)}, {"saliency": torch.rand(1, 5, 7)}):
        module = make(**options)
        seen.clear()
        module(image)
        assert len(seen) == 1
    # And it is checked.
    module = make(warp=make.random_warp(1))
    for name, tensor in geometry_of(module).items():
        setattr(module, name, tensor.bfloat16())
    with pytest.raises(TypeError, match="has dtype bfloat16, expected float32"):
        module(image)


def test_compile(make):
    torch._dynamo.reset()
    module, image = make(saliency=torch.rand(1, 5, 7)), torch.rand(1, 2, 9, 9)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    for new in (module.saliency, torch.rand(1, 5, 7), torch.rand(1, 5, 7)):
        module.saliency = new
        assert_bitwise([compiled(image)], [maps_of(module, new, image)[1]])
        module.saliency.mul_(module.saliency)
        assert_bitwise([compiled(image)], [maps_of(module, module.saliency, image)[1]])


def test_loading_is_strict(make):
    module = make(saliency=torch.rand(1, 5, 7))
    for state in (
        {},
        {"saliency": torch.rand(1, 5, 7), "knots_y": torch.rand(1, 5)},
        {"saliency": torch.rand(1, 5, 7), "mesh": torch.rand(1, 5, 7, 2)},
        {"saliency": torch.rand(1, 4, 7)},
    ):
        with pytest.raises(RuntimeError, match=r"knots_y|mesh|saliency"):
            module.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"knots_y|mesh"):
        make(warp=make.random_warp(1)).load_state_dict({"saliency": torch.rand(1, 5, 7)})
    with pytest.raises(RuntimeError, match=r"Missing key.*\n.*Unexpected key"):
        make(warp=make.random_warp(1)).load_state_dict(
            {"separable": {"mesh": torch.rand(1, 5, 7, 2)}, "mesh": {"knots_y": torch.rand(1, 5)}}[make.kind]
        )


@pytest.mark.parametrize("kind", ["warp", "saliency", "learned"])
@pytest.mark.parametrize("change", ["half", "bfloat16", "to", "double", "float"])
def test_geometry_keeps_its_precision(make, kind, change):
    saliency = torch.rand(1, 5, 7)
    options = {
        "warp": {"warp": make.random_warp(1)},
        "saliency": {"saliency": saliency},
        "learned": {"saliency": torch.nn.Parameter(saliency)},
    }[kind]
    module = make(**options)
    original = copy.deepcopy(module)
    before = [t.detach().clone() for t in module.state_dict().values()]
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), module)
    if change == "to":
        network.to(torch.bfloat16)
    else:
        getattr(network, change)()
    after = [t.detach() for t in module.state_dict().values()]
    assert all(t.dtype in (torch.float32, torch.float64) for t in after)
    assert_bitwise([t.float() for t in after], before)
    dtype = network[0].weight.dtype
    assert dtype == {"half": torch.half, "double": torch.double, "float": torch.float}.get(change, torch.bfloat16)
    image = torch.rand(1, 2, 9, 9, dtype=dtype)
    assert network(image).dtype == dtype
    if change == "double":
        torch.testing.assert_close(module(image), original(image), rtol=0, atol=1e-6)
    else:
        assert_bitwise([module(image).detach()], [original(image).detach()])


def test_a_learned_saliency_learns(make):
    """The saliency finds the warp that another one makes."""
    target = torch.full((1, 6, 7), 0.1)
    target[0, 1:3, 4:6] = 1
    y, x = torch.linspace(0, 1, 24)[:, None], torch.linspace(0, 1, 28)[None, :]
    image = torch.stack([y.expand(24, 28), x.expand(24, 28), y * x])[None]
    expected = make(saliency=target, fwhm=3.0)(image)
    module = make(saliency=torch.nn.Parameter(torch.full((1, 6, 7), 0.5)), fwhm=3.0)
    optimiser = torch.optim.Adam(module.parameters(), lr=0.05)
    losses = []
    for _ in range(40):
        loss = (module(image) - expected).square().mean()
        optimiser.zero_grad()
        loss.backward()
        assert module.saliency.grad.any()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_a_fixed_saliency_does_not(make):
    module = make(saliency=torch.rand(1, 5, 7))
    image = torch.rand(1, 2, 9, 9).requires_grad_()
    module(image).sum().backward()
    assert image.grad.any()
    assert not module.saliency.requires_grad


def test_copies(make):
    image = torch.rand(1, 2, 9, 9)
    for saliency in (torch.rand(1, 5, 7), torch.nn.Parameter(torch.rand(1, 5, 7))):
        module = make(saliency=saliency)
        for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert_bitwise([again(image).detach()], [module(image).detach()])
            assert again.saliency.data_ptr() != module.saliency.data_ptr()
            again.load_state_dict(make(saliency=torch.rand(1, 5, 7)).state_dict())
            assert not torch.equal(again(image), module(image))


def test_a_warp_is_needed_and_one_is_enough(make):
    name = make().__class__.__name__
    with pytest.raises(FastwarpError, match=f"{name}: made without a warp, expected one with each call"):
        make()(torch.rand(1, 1, 4, 4))
    with pytest.raises(FastwarpError, match=f"{name}: got a warp and a saliency, expected at most one of them"):
        make(warp=make.random_warp(1), saliency=torch.rand(1, 5, 7))
    module = make(warp=make.random_warp(1))
    module.saliency = torch.rand(1, 5, 7)
    with pytest.raises(FastwarpError, match=f"{name}: got a warp and a saliency, expected at most one of them"):
        module(torch.rand(1, 1, 4, 4))
    module = make()
    module.saliency = torch.rand(1, 5, 7)
    image = torch.rand(1, 1, 4, 4)
    assert_bitwise([module(image)], [maps_of(module, module.saliency, image)[1]])
    for saliency, error in (
        (torch.rand(5, 7), FastwarpError),
        (torch.rand(1, 1, 7), FastwarpError),
        ([1.0], TypeError),
    ):
        for given in (saliency, torch.nn.Parameter(saliency) if isinstance(saliency, torch.Tensor) else saliency):
            with pytest.raises(error, match=f"{name}: saliency is "):
                make(saliency=given)


def test_repr():
    assert "size=(6, 8), antialias=False" in repr(Zoom((6, 8)))
    assert "antialias=True, padding_mode='border'" in repr(Unzoom(antialias=True, padding_mode="border"))
