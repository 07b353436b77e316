"""Zoom and Unzoom as modules: what they save, what they load, their precision, learning."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from helpers import assert_bitwise, random_mesh_warp, random_warp

from fastwarp import FastwarpError, MeshWarp, SeparableWarp
from fastwarp.nn import Unzoom, Zoom


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
    """Knots or mesh; none for a learned saliency, whose warp is made in each call."""
    buffers = {name: getattr(module, name) for name in ("knots_y", "knots_x", "mesh")}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def knots_of(module) -> list[torch.Tensor]:
    return list(geometry_of(module).values())


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
    assert list(fixed.state_dict()) == ["saliency"]  # the knots made from it are a cache
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


def test_loading_makes_the_knots_anew(make):
    old, new = make(saliency=torch.rand(1, 5, 7)), make(saliency=torch.rand(1, 5, 7))
    (knots, *_), image = knots_of(new), torch.rand(1, 2, 9, 9)
    assert not torch.equal(knots_of(old)[0], knots)
    file = io.BytesIO()
    torch.save(old.state_dict(), file)
    file.seek(0)
    new.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert_bitwise([*knots_of(new), new(image)], [*knots_of(old), old(image)])
    assert knots_of(new)[0] is knots  # in place: graphs and exports hold this tensor
    nested = torch.nn.Sequential(make(saliency=torch.rand(1, 5, 7)))
    nested.load_state_dict({f"0.{name}": value for name, value in old.state_dict().items()})
    assert_bitwise(knots_of(nested[0]), knots_of(old))


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
    before = [t.detach().clone() for t in (*module.state_dict().values(), *knots_of(module))]
    network = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), module)
    if change == "to":
        network.to(torch.bfloat16)
    else:
        getattr(network, change)()
    after = [t.detach() for t in (*module.state_dict().values(), *knots_of(module))]
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
    assert knots_of(module)
    assert not any(k.requires_grad for k in knots_of(module))


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


def test_repr():
    assert "size=(6, 8), antialias=False" in repr(Zoom((6, 8)))
    assert "antialias=True, padding_mode='border'" in repr(Unzoom(antialias=True, padding_mode="border"))
