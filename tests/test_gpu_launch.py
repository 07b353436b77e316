"""What holds for all launches of Triton kernels, also without a GPU: types, copies from the host, limits."""

import importlib
import inspect
import re
import types
from pathlib import Path

import pytest
import torch
from gpu_helpers import interpreter
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastwarp
from fastwarp import FastwarpError, MeshWarp, SeparableWarp, _constants
from fastwarp import functional as F

with interpreter():
    import triton
    import triton.language as tl

    from fastwarp.kernels import gpu
    from fastwarp.kernels.gpu import (
        _downsize_conv,
        _grid_windows_gradient,
        _launch,
        _levels,
        _mesh_positions,
        _windows_gradient,
        downsize,
        grid,
        label,
        mesh,
    )

FILES = [file for file in Path(gpu.__file__).parent.glob("*.py") if file.stem != "__init__"]


def test_host_code_does_not_ask_triton_for_integers():
    """`triton.cdiv` and `triton.next_power_of_2` take 1.5 us each, and a launch asks often."""
    found = [file.name for file in FILES if re.search(r"\btriton\.(cdiv|next_power_of_2)\(", file.read_text())]
    assert found == []
    for n in (1, 2, 3, 16, 17, 255, 256, 10**9):
        assert _launch.next_power_of_2(n) == triton.next_power_of_2(n)
        assert [_launch.cdiv(n, m) for m in (1, 7, 64)] == [triton.cdiv(n, m) for m in (1, 7, 64)]


def test_layouts_that_come_again_are_not_planned_anew(monkeypatch):
    """It takes longer than all else that a launch does on the host."""
    images, outs = [torch.empty(1, 2, 5, 6)], [torch.empty(1, 2, 3, 4)]
    first = _levels.launches(images, outs, [0], [0])
    monkeypatch.setattr(_levels, "plan_launches", lambda *args: pytest.fail("plans again"))
    assert _levels.launches([images[0] + 1], outs, [0], [0]) is first
    monkeypatch.undo()
    # A layout is shape, strides and dtype; windows that begin elsewhere, or other tiles, are other launches too.
    others = [
        _levels.launches([images[0].mT], outs, [0], [0]),
        _levels.launches([images[0].half()], [outs[0].half()], [0], [0]),
        _levels.launches(images, outs, [7], [0]),
    ]
    monkeypatch.setattr(_levels, "VALUES", 512)
    assert all(other is not first for other in (*others, _levels.launches(images, outs, [0], [0])))


def test_gradients_of_windows_are_not_planned_anew(monkeypatch):
    images, grads = [torch.ones(1, 2, 5, 6)], [torch.ones(1, 2, 3, 4)]
    calls = [
        (_windows_gradient, torch.ones(1, 2, 7), (None, False)),
        (_grid_windows_gradient, torch.ones(1, 2, 12), (None,)),
    ]
    with interpreter():
        for module, windows, others in calls:
            module.windows_gradient(grads, images, windows, *others)
            monkeypatch.setattr(module, "gradient_launch", lambda *args: pytest.fail("plans again"))
            module.windows_gradient([grads[0] + 1], images, windows, *others)
            with pytest.raises(pytest.fail.Exception):
                module.windows_gradient(grads, [torch.ones(1, 2, 6, 5).mT], windows, *others)


def test_other_launches_are_not_planned_anew(monkeypatch):
    images, windows, sizes = [torch.ones(1, 2, 5, 6)], torch.ones(1, 2, 12), [3, 4]
    taps, bilinear = torch.zeros(2, 3, 3), torch.zeros(3, 1, dtype=torch.int32)
    layer = [torch.ones(2, 2, 3, 3)], [torch.ones(2)]
    calls = [
        (_levels, "plan_launches", lambda: label.nearest(images, windows, False, sizes, None, 0)),
        (_levels, "plan_launches", lambda: grid.resample_adjoint(images, torch.ones(1, 2, 30), sizes, None)),
        (
            *(_mesh_positions, "cdiv"),
            lambda: mesh.positions(torch.rand(1, 3, 3, 2), [3, 4], [5, 6], True, False, False, None, None),
        ),
        (
            *(_downsize_conv, "cdiv"),
            lambda: downsize.downsize(
                *(images[0], *(2 * part for part in layer), torch.ones(1, 2), taps[:1], bilinear, bilinear),
                *(bilinear[:, 0], bilinear[:, 0], [0.5, 0.5], [1.0, 1.0], "sigmoid"),
            ),
        ),
    ]
    with interpreter():
        for module, name, call in calls:
            call()
            monkeypatch.setattr(module, name, lambda *args, **kwargs: pytest.fail("plans again"))
            call()
            monkeypatch.undo()


def test_widths_of_gaussians_are_float64():
    """Triton makes a float argument a float32: knots in float64 would be off by 1e-9."""
    with interpreter():
        modules = [importlib.import_module(f"fastwarp.kernels.gpu.{file.stem}") for file in FILES]
    kernels = {value for m in modules for name, value in vars(m).items() if re.search(r"\w_kernel$", name)}
    parameters = [inspect.signature(kernel.fn).parameters.get("fwhm") for kernel in kernels if hasattr(kernel, "fn")]
    assert sum(p is not None for p in parameters) >= 5
    assert all(p.annotation in (tl.float64, "tl.float64") for p in parameters if p is not None)


# --- TF32 -------------------------------------------------------------------------------------------------------------


def test_factors_are_rounded_to_tf32():
    """Tensor cores would cut off the last 13 bits."""
    with interpreter():

        @triton.jit
        def kernel(out_ptr, x_ptr, N: tl.constexpr):
            i = tl.arange(0, N)
            tl.store(out_ptr + i, _downsize_conv._to_tf32(tl.load(x_ptr + i)))

        x = torch.randn(64) * 10.0 ** torch.randint(-30, 30, (64,))
        x[:6] = torch.tensor([1 + 2**-11, 1 + 2**-11 - 2**-23, -1 - 2**-11, float("inf"), -float("inf"), 0.0])
        x[6:8] = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)  # NaN of both signs
        out = torch.empty_like(x)
        kernel[(1,)](out, x, 64)
    assert out[:6].tolist() == [1 + 2**-10, 1.0, -1 - 2**-10, float("inf"), -float("inf"), 0.0]
    assert out[6:8].isnan().all()
    mantissa, exponent = torch.frexp(x[8:].double())
    nearest = torch.ldexp((mantissa * 2**11).abs().add(0.5).floor().copysign(mantissa) / 2**11, exponent)
    assert torch.equal(out[8:].double(), nearest)


# --- copies from the host ---------------------------------------------------------------------------------------------


def _points(warp):
    boxes = torch.tensor([[[1.0, 2.0, 9.0, 7.0]]])
    return lambda: [
        warp.zoom_points(boxes.view(1, 2, 2), (20, 30), (10, 15)),
        warp.zoom_boxes([boxes[0]], [(20, 30)], [(10, 15)]),
        warp.unzoom_corners(boxes, (20, 30), (10, 15)),
    ]


def _camera(warp, function):
    frame = torch.randint(0, 256, (1, 12, 14, 3), dtype=torch.uint8)
    geometry = [t.requires_grad_() for t in warp]

    def run():
        out = function(frame, *geometry, (5, 6), mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
        torch.autograd.grad(out.sum(), geometry)

    return run


def _second_order(antialias):
    mesh = MeshWarp.from_saliency(torch.rand(1, 4, 5) + 0.1).mesh.double().requires_grad_()
    image = torch.rand(1, 2, 7, 8, dtype=torch.float64, requires_grad=True)

    def run():
        out = F.mesh_zoom(image, mesh, (4, 5), antialias=antialias)
        first = torch.autograd.grad((out**2).sum(), [image, mesh], create_graph=True)
        torch.autograd.grad(sum((g**2).sum() for g in first), [image, mesh])

    return run


def _density():
    boxes = torch.tensor([[[2.0, 3.0, 9.0, 11.0]]], requires_grad=True)

    def run():
        saliency = fastwarp.saliency.box_density([boxes[0]], (20, 30), (4, 5))
        (first,) = torch.autograd.grad((saliency**2).sum(), boxes, create_graph=True)
        torch.autograd.grad((first**2).sum(), boxes)

    return run


CALLS = {
    "points": lambda: _points(SeparableWarp.from_saliency(torch.rand(1, 4, 5) + 0.1)),
    "points of a mesh": lambda: _points(MeshWarp.from_saliency(torch.rand(1, 4, 5) + 0.1)),
    "camera": lambda: _camera(F.lz_knots(torch.rand(1, 4, 5) + 0.1), F.separable_zoom_frame),
    "camera of a mesh": lambda: _camera([F.lz_mesh(torch.rand(1, 4, 5) + 0.1)], F.mesh_zoom_frame),
    "second order": lambda: _second_order(False),
    "second order, antialiased": lambda: _second_order(True),
    "density": _density,
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_copied_from_the_host(name, monkeypatch):
    """Such a copy waits for the GPU, and ends the capture of a graph."""
    call = CALLS[name]()

    def copies(*args, **kwargs):
        raise AssertionError("makes a tensor of values of the host")

    # `constant` alone knows where it is: on CPUs it makes a tensor of values, on GPUs it fills one.
    monkeypatch.setattr(_constants, "torch", types.SimpleNamespace(**vars(torch)))
    for owner, function in ((torch, "tensor"), (torch, "as_tensor"), (torch.Tensor, "new_tensor")):
        monkeypatch.setattr(owner, function, copies)
    call()


def test_constants_are_filled_on_a_gpu():
    class Called(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            called.add(str(func).split(".")[1])
            return func(*args, **kwargs or {})

    called: set[str] = set()
    with FakeTensorMode():
        like = torch.empty(2, device="cuda")
        with Called():
            made = _constants.constant([1.0, 2.5, 3], like, torch.float64)
    assert (made.shape, made.dtype, made.device.type) == ((3,), torch.float64, "cuda")
    assert called == {"full", "cat"}


# --- limits -----------------------------------------------------------------------------------------------------------


def test_gpus_refuse_what_their_kernels_cannot_count():
    ops = torch.ops.fastwarp
    with FakeTensorMode():
        knots, side = torch.empty(1, 5, device="cuda"), 50_000
        small, image = (torch.empty(1, 1, n, n, device="cuda", dtype=torch.uint8) for n in (4, side))
        windows, few = (torch.empty(1, 2, n, device="cuda") for n in (2 * side, 6))
        with pytest.raises(FastwarpError, match=r"50000 x 50000 pixels, expected fewer than 2\*\*31 on a GPU"):
            ops.separable_resample([small], windows, [side, side], None, False)
        with pytest.raises(FastwarpError, match="50000 x 50000 pixels"):
            ops.separable_resample([image], few, [2, 4], None, False)
        with pytest.raises(FastwarpError, match="50000 x 50000 pixels"):
            ops.grid_resample([image], torch.empty(1, 2, 8, device="cuda"), [2, 4], None)
        with pytest.raises(FastwarpError, match="got 65536 images, expected at most 65535 in one call on a GPU"):
            ops.axis_map(knots, torch.empty(65536, 3, device="cuda"), True)
        assert ops.axis_map(knots, torch.empty(65535, 3, device="cuda"), True).shape == (65535, 3)
        frame = torch.empty(65536, 4, 4, 3, device="cuda", dtype=torch.uint8)
        with pytest.raises(FastwarpError, match="65536 images"):
            ops.separable_camera(frame, few, [2, 4], [1.0] * 3, [0.0] * 3, torch.float16, None, False)
