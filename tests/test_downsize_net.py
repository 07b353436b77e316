"""nn.DownsizeNet: how it starts, what it learns, what it keeps in files, and how it fits into training code."""

from __future__ import annotations

import copy
import inspect
import json
import pickle

import pytest
import torch
import torch.nn.functional as TF
from helpers import assert_bitwise, forward_backward, run_python
from safetensors.torch import load_file, save_file
from torch.nn.utils import prune

from fastwarp import FastwarpError
from fastwarp import functional as F
from fastwarp.nn import DownsizeNet


def trained(net: DownsizeNet) -> DownsizeNet:
    """With weights that are not those of the start."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += torch.randn_like(parameter) / 4
    return net


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
IMAGE = torch.rand(1, 3, 8, 8)


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


class Encoding(torch.nn.Module):
    """Distances that are learned themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 6)

    def forward(self, dx, dy):
        return self.layer(torch.stack(torch.broadcast_tensors(dx, dy), -1)).permute(2, 0, 1)


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


# --- convolutions that do more than their weights say -----------------------------------------------------------------


def effective(net: DownsizeNet, **changed) -> torch.Tensor:
    """What the fused pass gives with the weights `changed`, by names such as "0.weight"; biases as they are."""
    weights = [changed.get(f"{l}.weight", getattr(c, "weight", None)) for l, c in enumerate(net.convs)]
    fuse = changed.get("fuse.weight", net.fuse.weight)
    return F.downsize(IMAGE, weights, [c.bias for c in net.convs], fuse, net.fuse.bias, (4, 5))


def assert_results(net: DownsizeNet, expected: torch.Tensor) -> None:
    torch.testing.assert_close(net(IMAGE).detach(), expected.detach(), rtol=1e-5, atol=1e-5)


def plain() -> DownsizeNet:
    return trained(DownsizeNet((4, 5), channels=4, layers=2))


def test_pruned_weights_count():
    net = plain()
    prune.l1_unstructured(net.convs[0], "weight", 0.5)
    prune.random_unstructured(net.fuse, "weight", 0.3)
    before = net(IMAGE)
    for _ in range(2):  # the weights are made anew in each call: there is no graph left over
        with torch.no_grad():
            net.convs[0].weight_orig.mul_(1.5)
        weights = {n: c.weight_orig * c.weight_mask for n, c in (("0.weight", net.convs[0]), ("fuse.weight", net.fuse))}
        assert_results(net, effective(net, **weights))
        assert not torch.allclose(net(IMAGE), before)
        net(IMAGE).square().sum().backward()
    gradient = net.convs[0].weight_orig.grad
    assert gradient.any()
    assert not gradient[net.convs[0].weight_mask == 0].any()
    with torch.no_grad():  # torch copies no weights with a graph behind them
        net(IMAGE)
    assert_results(copy.deepcopy(net), effective(net, **weights))
    for conv in (net.convs[0], net.fuse):
        prune.remove(conv, "weight")
    assert_results(net, effective(net))


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
def test_weight_and_spectral_norm_count():
    net = plain()
    torch.nn.utils.weight_norm(net.convs[0])
    torch.nn.utils.parametrizations.weight_norm(net.convs[1])
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    for _ in range(2):
        net(IMAGE).square().sum().backward()
        optimiser.step()
        g, v = net.convs[0].weight_g, net.convs[0].weight_v
        first = g * v / v.flatten(1).norm(dim=1)[:, None, None, None]
        assert_results(net, effective(net, **{"0.weight": first}))
    net = plain()
    torch.nn.utils.spectral_norm(net.convs[0])
    torch.nn.utils.parametrizations.spectral_norm(net.convs[1])
    net(IMAGE)  # a step of the power iteration
    net.eval()
    conv = net.convs[0]
    matrix = conv.weight_orig.flatten(1)
    assert_results(net, effective(net, **{"0.weight": conv.weight_orig / (conv.weight_u @ matrix @ conv.weight_v)}))


def test_parametrized_weights_are_read():
    net = plain()
    torch.nn.utils.parametrize.register_parametrization(net.convs[1], "weight", torch.nn.Softplus())
    assert net._unusual() is None
    expected = TF.softplus(net.convs[1].parametrizations.weight.original)
    assert_results(net, effective(net, **{"1.weight": expected}))


def test_hooks_are_called():
    net, seen = plain(), []
    expected = net(IMAGE).detach()
    handles = [net.convs[1].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))]
    assert_results(net, expected)
    assert seen == [(1, 4, 8, 8)]
    handles.append(net.convs[0].register_full_backward_hook(lambda module, given, got: seen.append("backward")))
    net(IMAGE).sum().backward()
    assert seen[1:] == [(1, 4, 8, 8), "backward"]
    handles.append(net.convs[0].register_forward_hook(lambda module, inputs, output: 2 * output))
    handles.append(net.fuse.register_forward_pre_hook(lambda module, inputs: (inputs[0] * 0.5,)))
    doubled = {"0.weight": 2 * net.convs[0].weight, "fuse.weight": net.fuse.weight / 2}
    biases = [2 * net.convs[0].bias, net.convs[1].bias]
    weights = [doubled["0.weight"], net.convs[1].weight]
    changed = F.downsize(IMAGE, weights, biases, doubled["fuse.weight"], net.fuse.bias, (4, 5))
    assert not torch.allclose(changed, expected)
    assert_results(net, changed)
    for handle in handles:
        handle.remove()
    assert_bitwise([net(IMAGE).detach()], [expected])


@pytest.mark.parametrize(
    "settings",
    [
        {"taps": "area", "footprint": 3, "encoding": "raw", "normalise": "softmax"},
        {"taps": "bicubic", "normalise": "signed", "mean": (0.1, 0.2, 0.3), "std": (0.5, 2.0, 1.0)},
        {"encoding": None, "texture_gradient": False},
        {"layers": 0, "align_corners": True},
        {"encoding": lambda dx, dy: torch.stack([dx + dy, dx * dy])},
    ],
    ids=["area", "bicubic", "texture", "distances", "function"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_called_convolutions_compute_the_same(settings, dtype):
    net = trained(DownsizeNet((4, 5), **settings))
    image = torch.rand(2, 3, 9, 8).to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    leaves = (image, *net.parameters())
    expected = forward_backward(lambda x, *_: net(x), leaves)
    net.fuse.register_forward_hook(lambda *_: None)
    got = forward_backward(lambda x, *_: net(x), leaves)
    assert got[0].dtype == dtype
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    tolerance = {torch.bfloat16: 2e-2}.get(dtype, 2e-5)
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance * 10)
    # In half precision modules run in their own dtype.
    net.bfloat16()
    torch.testing.assert_close(net(image).double(), expected[0].double(), rtol=0.02, atol=0.03)


class Adapter(torch.nn.Module):
    """A low-rank change beside a convolution, as adapters for fine-tuning put it."""

    def __init__(self, base: torch.nn.Conv2d) -> None:
        super().__init__()
        self.base = base
        self.down = torch.nn.Conv2d(base.in_channels, 1, 3, padding=1, bias=False)
        self.up = torch.nn.Conv2d(1, base.out_channels, 1, bias=False)

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_modules_in_the_place_of_convolutions_are_called():
    net = plain()
    net.convs[1] = adapter = Adapter(net.convs[1])
    merged = adapter.weight + torch.einsum("oa,aikl->oikl", adapter.up.weight[:, :, 0, 0], adapter.down.weight)
    assert_results(net, effective(net, **{"1.weight": merged}))
    net.freeze()
    adapter.requires_grad_()
    net(IMAGE).sum().backward()
    assert adapter.up.weight.grad.any()
    # Convolutions with other settings.
    for options in ({"padding_mode": "reflect"}, {"dilation": 2, "padding": 2}, {"padding": "same"}):
        net = plain()
        net.convs[0] = torch.nn.Conv2d(3, 4, 3, **{"padding": 1, **options})
        seen = []
        net.convs[1].register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(inputs[0]))
        assert net(IMAGE).shape == (1, 3, 4, 5)
        torch.testing.assert_close(seen[0], TF.relu(net.convs[0](IMAGE)))
    net.convs[0] = torch.nn.Conv2d(3, 4, 3, padding=1, bias=False)
    assert net(IMAGE).shape == (1, 3, 4, 5)
    net = plain()
    net.convs[0] = torch.nn.Conv2d(3, 4, 3, stride=2, padding=1)
    with pytest.raises(
        FastwarpError, match=r"downsize: convs.0 is a module to \[4, 4\], expected one that keeps \[8, 8\]"
    ):
        net(IMAGE)
    net = plain()
    net.fuse = torch.nn.Conv2d(8, 3, 1, stride=1, padding=1)
    with pytest.raises(
        FastwarpError, match=r"downsize: fuse is a module to \[1, 3, 6, 7\], expected one to \[1, 4, 4, 5\]"
    ):
        net(IMAGE)
    net = plain()
    prune.l1_unstructured(net.fuse, "weight", 0.5)
    with pytest.raises(
        FastwarpError, match=r"DownsizeNet.pool_boxes: fuse is a module that does more than its weights"
    ):
        net.pool_boxes(IMAGE, [torch.tensor([[1.0, 2.0, 5.0, 6.0]])], (2, 2))


@pytest.mark.filterwarnings("ignore")
def test_quantization():
    quantization = pytest.importorskip("torch.ao.quantization")
    net = plain()
    net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    quantization.prepare_qat(net.train(), inplace=True)
    assert type(net.convs[0]) is not torch.nn.Conv2d
    net(IMAGE).sum().backward()  # observers see what passes
    observers = [module.activation_post_process.activation_post_process for module in (*net.convs, net.fuse)]
    assert all(observer.min_val.isfinite().all() for observer in observers)
    net.eval()
    net.apply(quantization.disable_observer)
    seen = []
    net.convs[1].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    net(IMAGE)
    assert_bitwise([seen[0].detach()], [TF.relu(net.convs[0](IMAGE)).detach()])  # fake quantization included
    quantization.convert(net, inplace=True)
    with pytest.raises(
        FastwarpError, match=r"DownsizeNet: convs.0 is torch.*quantized.*, expected a module for floating"
    ):
        net(IMAGE)


def test_called_convolutions_compile():
    torch._dynamo.reset()
    net = plain()
    prune.l1_unstructured(net.convs[0], "weight", 0.5)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IMAGE), net(IMAGE))


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


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"size": (4, 5)},
        {"scale_factor": (0.5, 0.25), "layers": 0},
        {"scale_factor": 0.5, "taps": "area", "encoding": "raw", "in_channels": 2, "channels": 7},
        {"size": (4, 4), "taps": "bicubic", "normalise": "signed", "layers": 1, "align_corners": True},
        {"encoding": None, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "texture_gradient": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_files(tmp_path, settings, dtype):
    net = trained(DownsizeNet(**settings)).to(dtype)
    path = tmp_path / "net.safetensors"
    net.save(path)
    random = torch.get_rng_state()
    again = DownsizeNet.load(str(path))
    assert torch.equal(torch.get_rng_state(), random)
    assert repr(again) == repr(net)
    assert_bitwise(list(again.state_dict().values()), list(net.state_dict().values()))
    image = torch.rand(1, net.in_channels, 9, 8)
    size = None if net.size or net.scale_factor else (3, 3)
    assert_bitwise([again(image, size).detach()], [net(image, size).detach()])
    assert all(parameter.requires_grad for parameter in again.parameters())
    again.fuse.weight.data.zero_()
    assert DownsizeNet.load(path).fuse.weight.any()
    assert set(load_file(path)) == set(net.state_dict())


def test_a_file_serves_another_size(tmp_path):
    path, image = tmp_path / "net.safetensors", torch.rand(1, 3, 20, 20)
    trained(DownsizeNet(scale_factor=0.5)).save(path)
    net = DownsizeNet.load(path, size=(6, 7))
    assert (net.size, net.scale_factor) == ((6, 7), None)
    assert net(image).shape == (1, 3, 6, 7)
    assert DownsizeNet.load(path, scale_factor=0.3)(image).shape == (1, 3, 6, 6)
    with pytest.raises(FastwarpError, match=r"DownsizeNet\.load: got a size and a scale_factor"):
        DownsizeNet.load(path, size=(6, 7), scale_factor=0.5)


def test_broken_files(tmp_path):
    path, net = tmp_path / "net.safetensors", DownsizeNet((4, 4), layers=1)
    net.save(path)
    tensors, good = load_file(path), path.read_bytes()
    settings = json.loads(json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")])["__metadata__"]["fastwarp"])

    def written(tensors, settings):
        save_file(tensors, path, {} if settings is None else {"fastwarp": json.dumps(settings)})

    short = {name: value for name, value in tensors.items() if name != "fuse.bias"}
    for case in (
        (tensors, None),
        (tensors, {**settings, "kind": "Prior"}),
        (tensors, {name: value for name, value in settings.items() if name != "kind"}),
        (tensors, [settings]),
        (tensors, {**settings, "channels": 17}),
        (tensors, {**settings, "channels": 10**9}),
        (tensors, {**settings, "unknown": 1}),
        (tensors, {**settings, "taps": "nearest"}),
        (short, settings),
        ({**tensors, "other": torch.ones(1)}, settings),
        ({**tensors, "fuse.bias": torch.ones(4, dtype=torch.int64)}, settings),
    ):
        written(*case)
        with pytest.raises(FastwarpError, match=r"net\.safetensors is not a DownsizeNet: "):
            DownsizeNet.load(path)
    for content in (b"", b"no", good[:50], good[:-3], b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(FastwarpError, match=r"net\.safetensors is not a DownsizeNet: "):
            DownsizeNet.load(path)
    path.write_bytes(good)
    DownsizeNet.load(path)
    with pytest.raises(FastwarpError, match="cannot read"):
        DownsizeNet.load(tmp_path / "none.safetensors")
    with pytest.raises(FastwarpError, match="cannot write"):
        net.save(tmp_path / "none" / "net.safetensors")
    for call in (net.save, DownsizeNet.load):
        with pytest.raises(FastwarpError, match=r"net\.pt does not end in \.safetensors"):
            call(tmp_path / "net.pt")
    with pytest.raises(FastwarpError, match=r"DownsizeNet\.save: encoding is a function, which no file holds"):
        DownsizeNet((4, 4), encoding=Encoding()).save(path)


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
