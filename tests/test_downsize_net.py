"""nn.DownsizeNet: how it starts, what it learns, what it keeps in files, and how it fits into training code."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as TF
from downsize_net_cases import IMAGE, Encoding, trained
from helpers import assert_bitwise, forward_backward, run_python

from fastwarp import FastwarpError
from fastwarp import functional as F
from fastwarp.nn import DownsizeNet


def parameters(net: DownsizeNet) -> tuple:
    return [c.weight for c in net.convs], [c.bias for c in net.convs], net.fuse.weight, net.fuse.bias


# --- the start --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layers", [0, 1, 3, 5])
@pytest.mark.parametrize("normalise", ["sigmoid", "softmax", "signed"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_starts_as_bilinear(dtype, layers, normalise, align_corners):
    image = torch.rand(2, 3, 13, 11).to(dtype)
    net = DownsizeNet((6, 7), layers=layers, normalise=normalise, align_corners=align_corners)
    expected = TF.interpolate(image.double(), (6, 7), mode="bilinear", align_corners=align_corners)
    got = net(image)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=torch.finfo(dtype).eps / 2, atol=5e-6)


def test_starts_as_bicubic_and_as_area():
    image = torch.rand(2, 3, 24, 30)
    cubic = DownsizeNet((9, 11), taps="bicubic", normalise="signed")(image)
    torch.testing.assert_close(cubic, TF.interpolate(image, (9, 11), mode="bicubic"), rtol=0, atol=2e-6)
    expected = TF.adaptive_avg_pool2d(image, (8, 10))
    for options in ({"scale_factor": 1 / 3}, {"size": (8, 10), "footprint": 3}, {"size": (8, 10), "footprint": (3, 4)}):
        net = DownsizeNet(taps="area", **options)
        torch.testing.assert_close(net(image), expected, rtol=0, atol=3e-5)


def test_other_starts():
    image = torch.rand(1, 3, 8, 8)
    texture = DownsizeNet((4, 4), encoding=None)
    torch.testing.assert_close(texture(image), TF.avg_pool2d(image, 2))
    assert texture.fuse.weight.shape == (4, 16, 1, 1)
    torch.manual_seed(1)
    raw = DownsizeNet((4, 4), encoding="raw")
    torch.manual_seed(1)
    convs = [torch.nn.Conv2d(i, 16, 3, padding=1) for i in (3, 16, 16)]
    fuse = torch.nn.Conv2d(20, 4, 1)
    assert_bitwise(list(raw.parameters()), [*(p for conv in convs for p in conv.parameters()), *fuse.parameters()])
    own = DownsizeNet((4, 4), encoding=lambda dx, dy: torch.stack([dx + dy, dx * dy, dx - dy]))
    assert own.fuse.weight.shape == (4, 19, 1, 1)
    assert own.fuse.weight.any()
    assert own(image).shape == (1, 3, 4, 4)


# --- settings ---------------------------------------------------------------------------------------------------------


def test_is_the_function():
    image = torch.rand(2, 5, 14, 15)
    settings = {"taps": "area", "normalise": "softmax", "mean": [0.1] * 5, "std": [0.2] * 5, "encoding": "raw"}
    net = trained(DownsizeNet((6, 7), in_channels=5, channels=8, layers=2, footprint=4, **settings))
    expected = F.downsize(image, *parameters(net), (6, 7), footprint=4, **settings)
    assert_bitwise([net(image).detach()], [expected.detach()])
    still = trained(DownsizeNet((6, 7), texture_gradient=False))
    image = torch.rand(1, 3, 8, 9, requires_grad=True)
    expected = F.downsize(image, *parameters(still), (6, 7), texture_gradient=False)
    got = torch.autograd.grad(still(image).square().sum(), image)
    assert_bitwise(got, torch.autograd.grad(expected.square().sum(), image))


def test_sizes():
    image = torch.rand(1, 3, 15, 21)
    for factor in (0.5, 0.35, 1, 1.7, (0.5, 0.3)):
        expected = TF.interpolate(image, scale_factor=factor, mode="nearest").shape
        assert DownsizeNet(scale_factor=factor)(image).shape == expected
    for net in (DownsizeNet(), DownsizeNet((4, 4)), DownsizeNet(scale_factor=0.5)):
        assert net(image, (5, 6)).shape == (1, 3, 5, 6)
    for size in range(8, 60):  # areas of a scale factor have taps enough whatever the image
        for factor in (0.5, 1 / 3, 0.4, 0.3, 0.9, 1.5):
            at = (int(size * factor), 4)
            net = DownsizeNet(scale_factor=factor, taps="area", layers=0)
            assert net.footprint is not None
            F.relative_distance(at, (size, 4), taps="area", footprint=(net.footprint[0], 8))


BAD = [
    ("DownsizeNet((4, 4), scale_factor=0.5)", FastwarpError, "DownsizeNet: got a size and a scale_factor, expected at"),
    ("DownsizeNet((0, 4))", FastwarpError, "DownsizeNet: size is (0, 4), expected a height and a width of at least 1"),
    ("DownsizeNet(4)", TypeError, "DownsizeNet: size is 4, expected two integers (height, width)"),
    ("DownsizeNet(scale_factor=0)", FastwarpError, "DownsizeNet: scale_factor is 0, expected positive, finite numbers"),
    ("DownsizeNet(scale_factor='a')", TypeError, "DownsizeNet: scale_factor is 'a', expected a number or one for each"),
    ("DownsizeNet(layers=6)", FastwarpError, "DownsizeNet: layers is 6, expected an integer from 0 to 5"),
    ("DownsizeNet(layers=2.0)", TypeError, "DownsizeNet: layers is 2.0, expected an integer"),
    ("DownsizeNet(channels=0)", FastwarpError, "DownsizeNet: channels is 0, expected an integer of at least 1"),
    ("DownsizeNet(in_channels=0)", FastwarpError, "DownsizeNet: in_channels is 0, expected an integer of at least 1"),
    ("DownsizeNet(layers=0, encoding=None)", FastwarpError, "DownsizeNet: got layers=0 and encoding=None, expected"),
    ("DownsizeNet(encoding='log')", FastwarpError, "DownsizeNet: encoding is 'log', expected 'exact' or 'raw'"),
    ("DownsizeNet(encoding=lambda x, y: x)", FastwarpError, "DownsizeNet: encoding is a function to shape [1, 1]"),
    ("DownsizeNet(normalise='sum')", FastwarpError, "DownsizeNet: normalise is 'sum', expected 'sigmoid' or"),
    ("DownsizeNet(taps='nearest')", FastwarpError, "DownsizeNet: taps is 'nearest', expected 'bilinear' or 'bicubic'"),
    ("DownsizeNet(footprint=3)", FastwarpError, "DownsizeNet: footprint is 3, expected None with taps='bilinear'"),
    ("DownsizeNet((4, 4), taps='area')", FastwarpError, "DownsizeNet: footprint is None, expected a number of taps"),
    ("DownsizeNet(taps='area', align_corners=True)", FastwarpError, "DownsizeNet: align_corners is True, expected"),
    ("DownsizeNet(mean=(0.5,))", FastwarpError, "DownsizeNet: mean is 1 long, expected one value for each of 3"),
    ("DownsizeNet(std=(1, 1, 0))", FastwarpError, "DownsizeNet: std is [1, 1, 0], expected values other than 0"),
    ("DownsizeNet()(IMAGE)", FastwarpError, "DownsizeNet: made without a size or scale_factor, expected a size with"),
    ("DownsizeNet((4, 4))(3)", TypeError, "DownsizeNet: image is int, expected a torch.Tensor [B, C, H, W]"),
    (
        "DownsizeNet((4, 4))(IMAGE[:, :2])",
        FastwarpError,
        "DownsizeNet: image is of shape [1, 2, 8, 8], expected 3 chan",
    ),
    ("DownsizeNet((4, 4))(IMAGE.byte())", TypeError, "downsize: image has dtype uint8"),
    ("DownsizeNet((4, 4))(IMAGE, (0, 1))", FastwarpError, "downsize: size is (0, 1)"),
    (
        "DownsizeNet(scale_factor=0.1)(IMAGE)",
        FastwarpError,
        "DownsizeNet: scale_factor is (0.1, 0.1), expected at least",
    ),
    ("DownsizeNet((2, 2), taps='area', footprint=3)(IMAGE)", FastwarpError, "downsize: footprint is (3, 3), expected"),
    ("DownsizeNet((4, 4)).to('meta')(IMAGE)", FastwarpError, "downsize: got image on cpu, weights[0] on meta"),
    (
        "DownsizeNet(taps='bicubic').pool_boxes(IMAGE, [], (2, 2))",
        FastwarpError,
        "taps is 'bicubic', expected 'bilinea",
    ),
    (
        "DownsizeNet().pool_boxes(IMAGE[:, :1], [], (2, 2))",
        FastwarpError,
        "features is of shape [1, 1, 8, 8], expected",
    ),
    (
        "DownsizeNet().pool_boxes(IMAGE, [], (2, 2))",
        FastwarpError,
        "downsize_boxes: boxes is 0 long, expected one [N, 4]",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=lambda value: value if isinstance(value, str) else "")
def test_bad_input(call, error, message):
    with pytest.raises(error) as caught:
        eval(call)
    assert message in str(caught.value)
    assert type(caught.value) in (FastwarpError, TypeError)


def test_repr_and_documentation():
    text = repr(DownsizeNet((4, 5), taps="area", footprint=2, mean=(0, 0, 0)))
    assert "size=(4, 5), taps='area', footprint=(2, 2), normalise='sigmoid', mean=[0.0, 0.0, 0.0], encoding=" in text
    assert "align_corners" not in text
    for argument in inspect.signature(DownsizeNet).parameters:
        assert f"{argument}:" in inspect.getdoc(DownsizeNet)


# --- learning ---------------------------------------------------------------------------------------------------------


def test_learns_what_no_fixed_interpolation_does():
    """The brightest of four pixels: where it is depends on the texture."""
    image = torch.rand(8, 1, 16, 16)
    target = TF.max_pool2d(image, 2)
    bilinear = (TF.interpolate(image, scale_factor=0.5, mode="bilinear") - target).square().mean().item()
    net = DownsizeNet(scale_factor=0.5, in_channels=1, channels=8, layers=1, mean=[0.5], std=[0.3])
    optimiser = torch.optim.Adam(net.param_groups(0.3), lr=1.0)
    losses = []
    for _ in range(60):
        loss = (net(image) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(bilinear, rel=1e-3)
    assert losses[-1] < 0.3 * bilinear
    assert all(parameter.grad.any() for parameter in net.parameters())


def test_param_groups():
    net, task = DownsizeNet((4, 4)), torch.nn.Conv2d(3, 2, 1)
    optimiser = torch.optim.AdamW([{"params": task.parameters()}, *net.param_groups(1e-3)], lr=1e-3, weight_decay=0.05)
    group = optimiser.param_groups[1]
    assert group["lr"] == pytest.approx(1e-4)
    assert group["weight_decay"] == 0
    assert {id(p) for p in group["params"]} == {id(p) for p in net.parameters()}
    (group,) = net.param_groups(1e-3, scale=0.5, weight_decay=0.01)
    assert (group["lr"], group["weight_decay"]) == (5e-4, 0.01)
    net.convs.requires_grad_(False)
    assert [id(p) for p in net.param_groups(1e-3)[0]["params"]] == [id(p) for p in net.fuse.parameters()]
    module = DownsizeNet((4, 4), encoding=Encoding())
    assert len(module.param_groups(1e-3)[0]["params"]) == 10


def test_frozen():
    net, image = trained(DownsizeNet((4, 5))), torch.rand(1, 3, 8, 8, requires_grad=True)
    expected = torch.autograd.grad(net(image).square().sum(), image)
    assert net.freeze() is net
    assert not net.training
    loss = net(image).square().sum()
    loss.backward()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert_bitwise([image.grad], expected)
    assert not net(image.detach()).requires_grad
    net.requires_grad_().train()
    net(image).sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_an_encoding_may_be_a_module():
    net = DownsizeNet((4, 5), encoding=Encoding(), layers=1)
    assert "encoding.layer.weight" in net.state_dict()
    net(torch.rand(1, 3, 8, 9)).square().sum().backward()
    assert net.encoding.layer.weight.grad.any()
    again = pickle.loads(pickle.dumps(net))
    assert_bitwise([again(IMAGE).detach()], [net(IMAGE).detach()])


# --- precision, layouts, copies, compilation --------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["half", "bfloat16", "double"])
def test_precision(change):
    net = DownsizeNet((5, 6), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    image = torch.rand(1, 3, 11, 12)
    expected = TF.interpolate(image, (5, 6), mode="bilinear")
    getattr(net, change)()
    assert net.mean == [0.485, 0.456, 0.406]
    # The start in float32 is exact whatever the dtype of the parameters.
    torch.testing.assert_close(net(image), expected, rtol=0, atol=5e-6)
    dtype = net.fuse.weight.dtype
    assert net(image.to(dtype)).dtype == dtype


def test_autocast_and_layouts():
    net, image = trained(DownsizeNet((5, 6))), torch.rand(2, 3, 11, 12)
    with torch.autocast("cpu", torch.bfloat16):
        inside = net(image)
    assert_bitwise([inside.detach()], [net(image).detach()])
    last = net(image.to(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, net(image))
    torch.testing.assert_close(net.to(memory_format=torch.channels_last)(image), inside)


def test_copies():
    net = trained(DownsizeNet((5, 6), mean=(0.5,) * 3))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    assert list(state) == [
        *(f"convs.{i}.{n}" for i in range(3) for n in ("weight", "bias")),
        "fuse.weight",
        "fuse.bias",
    ]
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_bitwise([again(IMAGE).detach()], [net(IMAGE).detach()])
        trained(again)
        assert not torch.equal(again(IMAGE), net(IMAGE))
    fresh = DownsizeNet((5, 6), mean=(0.5,) * 3)
    fresh.load_state_dict(state, strict=True)
    assert_bitwise([fresh(IMAGE).detach()], [net(IMAGE).detach()])
    # Nothing is made on the first call: DDP and compiled graphs see all there is from the start.
    assert_bitwise(list(net.state_dict().values()), list(state.values()))
    assert not list(net.buffers())


def test_compile():
    torch._dynamo.reset()
    net = trained(DownsizeNet(scale_factor=0.5))
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    leaves = list(net.parameters())
    for shape in ((2, 3, 17, 16), (1, 3, 21, 18)):
        image = torch.rand(shape, requires_grad=True)
        got, expected = (forward_backward(lambda x, *_, n=n: n(x), (image, *leaves)) for n in (compiled, net))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_export():
    net, image = trained(DownsizeNet((5, 6))), torch.rand(1, 3, 11, 12)
    program = torch.export.export(net, (image,))
    torch.testing.assert_close(program.module()(image), net(image))


@pytest.mark.parametrize("factor", [0.5, 1 / 3])
@pytest.mark.parametrize("dims", ["automatic", "named"])
def test_areas_of_any_image_are_exported(factor, dims):
    net, image = trained(DownsizeNet(scale_factor=factor, taps="area", layers=1)), torch.rand(1, 3, 16, 20)
    if dims == "automatic":
        sides, options = (torch.export.Dim.AUTO, torch.export.Dim.AUTO), {}
    else:
        sides = (torch.export.Dim("h", min=8, max=512), torch.export.Dim("w", min=8, max=512))
        options = {"prefer_deferred_runtime_asserts_over_guards": True}
        if not options.keys() <= inspect.signature(torch.export.export).parameters.keys():
            pytest.skip("this torch has no such option")
    shapes = ({2: sides[0], 3: sides[1]},)
    program = torch.export.export(net, (image,), dynamic_shapes=shapes, strict=False, **options).module()
    for size in ((16, 20), (33, 47), (9, 64)):
        other = torch.rand(1, 3, *size)
        torch.testing.assert_close(program(other), net(other))


@pytest.mark.skipif(torch.__version__ < (2, 7), reason="programs of torch 2.6 do not look at their guards")
def test_an_exported_area_refuses_what_its_footprint_does_not_hold():
    net = DownsizeNet(scale_factor=0.1, taps="area", layers=0)
    shapes = ({2: torch.export.Dim.AUTO},)
    program = torch.export.export(net, (torch.rand(1, 3, 100, 30),), dynamic_shapes=shapes, strict=False).module()
    other = torch.rand(1, 3, 90, 30)
    torch.testing.assert_close(program(other), net(other))
    small = torch.rand(1, 3, 19, 30)
    with pytest.raises(FastwarpError, match=r"footprint is \(12, 12\), expected at least \(19, "):
        net(small)
    with pytest.raises((AssertionError, RuntimeError), match=r"Guard failed|footprint"):
        program(small)


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_pool_boxes():
    features = torch.rand(2, 6, 9, 12)
    boxes = [torch.tensor([[1.0, 2.0, 9.0, 8.0], [0.0, 0.0, 12.0, 9.0]]), torch.zeros(0, 4)]
    net = trained(DownsizeNet((4, 4), in_channels=6, layers=2, mean=[0.5] * 6))
    got = net.pool_boxes(features, boxes, (3, 4))
    expected = F.downsize_boxes(features, boxes, *parameters(net), (3, 4), mean=[0.5] * 6)
    assert_bitwise([got.detach()], [expected.detach()])
    torch.testing.assert_close(got[1:], net(features[:1], (3, 4)), rtol=1e-5, atol=1e-5)
    scaled = net.pool_boxes(features, [4 * part for part in boxes], (3, 4), spatial_scale=0.25)
    torch.testing.assert_close(scaled, got)
    got.square().sum().backward()
    assert all(parameter.grad.any() for parameter in net.parameters())


def test_warmup_compiles_what_is_used_later():
    script = """
import numba, torch, fastwarp
fastwarp.warmup()
compiled = []
original = numba.core.dispatcher.Dispatcher.compile
def compile(self, signature):
    if signature not in self.overloads:
        compiled.append((self.py_func.__name__, signature))
    return original(self, signature)
numba.core.dispatcher.Dispatcher.compile = compile
for channels_last in (False, True):
    image = torch.rand(2, 3, 40, 50)
    image = image.to(memory_format=torch.channels_last) if channels_last else image
    fastwarp.nn.DownsizeNet((20, 19))(image.requires_grad_()).sum().backward()
print(compiled)
"""
    assert run_python(script).strip() == "[]"
