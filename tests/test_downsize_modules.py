"""Networks for downsizing whose convolutions do more than their weights say: pruned, normalised, hooked, replaced."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as TF
from downsize_net_cases import IMAGE, trained
from helpers import assert_bitwise, forward_backward
from torch.nn.utils import prune

from fastwarp import FastwarpError
from fastwarp import functional as F
from fastwarp.nn import DownsizeNet


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
