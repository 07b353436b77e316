"""The public API on CUDA tensors: autograd, torch.compile, vmap, autocast, warmup, streams, graphs, several GPUs.

Without a GPU most of it runs on CPU tensors in Triton's interpreter, with stand-ins for what only CUDA has: a graph is
then its call, made again.
"""

import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gpu_helpers import DEVICE, interpreter
from helpers import assert_bitwise
from test_gpu_script import BENCH
from torch import Tensor

import fastwarp
from fastwarp import MeshWarp, SeparableWarp, doctor
from fastwarp import functional as F

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []
on_gpus = pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")


@pytest.fixture(autouse=True)
def _triton(monkeypatch) -> Iterator[None]:
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    with interpreter(), fastwarp.backend("triton"):
        yield


def saliency() -> Tensor:
    return torch.rand(1, 4, 5, device=DEVICE) + 0.1


def expected_of(call: Callable[..., Any], *inputs: Tensor) -> Any:
    """What the reference gives on the CPU."""
    with fastwarp.backend("reference"):
        return call(*(x.detach().cpu().requires_grad_(x.requires_grad) for x in inputs))


def close(ours: Any, right: Any, tolerance: float = 1e-5) -> None:
    for value, wanted in zip(ours, right, strict=True):
        assert value.device.type == DEVICE
        torch.testing.assert_close(value.detach().cpu(), wanted.detach(), rtol=tolerance, atol=tolerance)


def there_and_back(source: Tensor, image: Tensor) -> list[Tensor]:
    """Zoomed, unzoomed, and the gradients to saliency and image."""
    warp = SeparableWarp.from_saliency(source, fwhm=3.0)
    zoomed = warp.zoom(image, (4, 5))
    (back,) = warp.unzoom([zoomed])
    return [zoomed, back, *torch.autograd.grad((back**2).sum(), [source, image])]


# --- what torch does with operators -----------------------------------------------------------------------------------


def test_autograd():
    source, image = saliency().requires_grad_(), torch.rand(1, 2, 6, 7, device=DEVICE).requires_grad_()
    close(there_and_back(source, image), expected_of(there_and_back, source, image), 1e-4)


@on_gpus
@pytest.mark.parametrize("kind", [SeparableWarp, MeshWarp])
def test_second_derivatives(kind):
    image = torch.rand(1, 1, 6, 7, device=DEVICE, dtype=torch.float64).requires_grad_()
    source = saliency().double().requires_grad_()

    def call(source, image):
        return kind.from_saliency(source, fwhm=3.0).zoom(image, (3, 4))

    assert torch.autograd.gradcheck(call, (source, image))
    assert torch.autograd.gradgradcheck(call, (source, image))


def test_compile():
    warp, image = SeparableWarp.from_saliency(saliency(), fwhm=3.0), torch.rand(1, 2, 6, 7, device=DEVICE)

    def call(image):
        return warp.unzoom([warp.zoom(image, (4, 5)) * 2])[0]

    compiled = torch.compile(call, fullgraph=True, backend="inductor" if DEVICE == "cuda" else "aot_eager")
    torch.testing.assert_close(compiled(image), call(image))


def test_vmap():
    knots, images = F.lz_knots(saliency(), 3.0), torch.rand(3, 1, 2, 6, 7, device=DEVICE)
    zoomed = torch.vmap(lambda image: F.separable_zoom(image, *knots, (4, 5)))(images)
    assert_bitwise([zoomed], [torch.stack([F.separable_zoom(image, *knots, (4, 5)) for image in images])])


def test_autocast():
    """Knots stay float32, and images have the dtype that they came in."""
    source, image = saliency(), torch.rand(1, 2, 6, 7, device=DEVICE)
    expected = SeparableWarp.from_saliency(source, fwhm=3.0)
    with torch.autocast(DEVICE, torch.bfloat16):
        warp = SeparableWarp.from_saliency(source, fwhm=3.0)
        zoomed = [warp.zoom(x, (4, 5)) for x in (image, image.bfloat16())]
    assert_bitwise([warp.knots_y, warp.knots_x], [expected.knots_y, expected.knots_x])
    assert [z.dtype for z in zoomed] == [torch.float32, torch.bfloat16]


@on_gpus
def test_warmup_compiles_what_first_calls_need():
    fastwarp.warmup("cuda")
    kernel = importlib.import_module("fastwarp.kernels.gpu.separable")._resample_kernel
    before = len(kernel.device_caches[torch.cuda.current_device()][0])
    warp = SeparableWarp.from_saliency(saliency())
    warp.zoom(torch.rand(2, 2, 20, 24, device=DEVICE), (12, 12))
    assert len(kernel.device_caches[torch.cuda.current_device()][0]) == before


@on_gpus
def test_doctor():
    report = doctor._examine_device(torch.device("cuda", 0))
    assert (report["backend"], report["check"], report["message"]) == ("triton", "OK", "")


# --- graphs and streams -----------------------------------------------------------------------------------------------


def replayed(call: Callable[[], list[Tensor]]) -> Callable[[], list[Tensor]]:
    """Replays the graph of a call, and gives its results."""
    if DEVICE == "cpu":
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()

    def replay() -> list[Tensor]:
        graph.replay()
        return results

    return replay


def _trained(source: Tensor, image: Tensor) -> list[Tensor]:
    return there_and_back(source.requires_grad_(), image.requires_grad_())


def _mesh(source: Tensor, image: Tensor) -> list[Tensor]:
    warp = MeshWarp.from_saliency(source, fwhm=3.0)
    return [warp.zoom(image, (3, 4)), *warp.unzoom([image])]


def _points(source: Tensor, image: Tensor) -> list[Tensor]:
    warp = SeparableWarp.from_saliency(source, fwhm=3.0)
    return [warp.zoom_boxes(image[:, 0, :2, :4].sort(-1).values * 5, (6, 7), (4, 5))]


def _density(source: Tensor, image: Tensor) -> list[Tensor]:
    boxes = (image[:, 0, :2, :4] * 3).cumsum(-1)
    return list(fastwarp.saliency.box_knots(boxes, (12, 12), (4, 5), fwhm=3.0))


def _downsized(source: Tensor, image: Tensor) -> list[Tensor]:
    weight, bias = image[0, :, :3, :3].expand(4, 2, 3, 3).contiguous(), image[0, 0, 0, :4].contiguous()
    fuse = source[0].reshape(4, 5).repeat(1, 2)[:, :8].contiguous()
    return [F.downsize(image, [weight], [bias], fuse, None, (3, 4))]


CAPTURED = {"separable": _trained, "mesh": _mesh, "axis": _points, "density": _density, "downsize": _downsized}


@pytest.mark.parametrize("name", CAPTURED)
def test_graphs(name):
    """A captured call synchronises nothing, copies nothing from the host, and replays for other values."""
    source, image = saliency(), torch.rand(1, 2, 6, 7, device=DEVICE)
    replay = replayed(lambda: CAPTURED[name](source, image))
    with torch.no_grad():
        source.copy_(saliency())
        image.copy_(torch.rand_like(image))
    assert_bitwise(replay(), CAPTURED[name](source, image))


@on_gpus
def test_graphs_outlive_the_tables_that_are_kept():
    source, image = saliency(), torch.rand(1, 2, 6, 7, device=DEVICE)
    (expected,) = _downsized(source, image)
    replay = replayed(lambda: _downsized(source, image))
    for width in range(2, 90):  # more than are kept
        F.downsize(image, [], [], torch.eye(4, device=DEVICE), None, (3, width))
    torch.cuda.empty_cache()
    assert_bitwise(replay(), [expected])


@on_gpus
def test_streams_do_not_share_tables():
    source, image = saliency(), torch.rand(1, 2, 6, 7, device=DEVICE)
    (expected,) = _downsized(source, image)
    torch.cuda.synchronize()
    for stream in (torch.cuda.Stream() for _ in range(4)):
        with torch.cuda.stream(stream):
            results = _downsized(source, image)
        stream.synchronize()
        assert_bitwise(results, [expected])


# --- several GPUs -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_launches_go_to_the_gpu_of_the_tensors():
    source, image = saliency(), torch.rand(1, 2, 6, 7, device=DEVICE)
    for call in CAPTURED.values():
        there = [result.to("cuda:0") for result in call(source.to("cuda:1"), image.to("cuda:1"))]
        assert_bitwise(there, call(source, image))


def test_every_launcher_takes_the_gpu_of_its_tensors():
    """Triton launches on the current GPU, whatever the tensors are on."""
    for family in ("axis", "separable", "mesh", "grid", "density", "downsize", "label"):
        with interpreter():
            module = importlib.import_module(f"fastwarp.kernels.gpu.{family}")
        functions = {n: f for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__}
        for name in getattr(module, "__all__", [n for n in functions if not n.startswith("_")]):
            launcher = getattr(module, name)
            source = inspect.getsource(launcher)
            beside = vars(inspect.getmodule(launcher)).items()
            source += "".join(inspect.getsource(f) for n, f in beside if f"{n}(" in source and inspect.isfunction(f))
            assert "device_of(" in source, launcher


# --- the GPU half of bench/paired.py ----------------------------------------------------------------------------------


class _Event:
    """Stands in for one of CUDA: a clock that ticks by itself."""

    ticks = 0

    def __init__(self, enable_timing: bool) -> None:
        self.at = 0

    def record(self) -> None:
        _Event.ticks += 1
        self.at = _Event.ticks

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "_Event") -> int:
        return end.at - self.at


def _stand_ins() -> dict[str, Any]:
    stream = SimpleNamespace(wait_stream=lambda other: None)
    return {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda stream: contextlib.nullcontext(),
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
        "graph": lambda graph: contextlib.nullcontext(),
        "Event": _Event,
        "synchronize": lambda: None,
    }


def test_pairs_are_timed_by_graphs(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    paired = importlib.import_module("paired")
    if DEVICE == "cpu":
        for name, value in _stand_ins().items():
            monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setitem(paired.SECONDS, "cuda", 1e-3)
    image = torch.rand(64, 64, device=DEVICE)
    calls = {name: [lambda: [image + 1]] * 3 for name in ("fastwarp", "other", "copy")}
    benchmark = SimpleNamespace(pedantic=lambda call, setup, rounds: [(setup(), call()) for _ in range(rounds)])
    times = paired._gpu(benchmark, calls)
    assert {name: len(taken) >= paired.ROUNDS[0] for name, taken in times.items()} == dict.fromkeys(calls, True)
    assert all(t > 0 for taken in times.values() for t in taken)
    summary = paired._summary(times["other"], times["fastwarp"])
    assert summary["ratio"] > 0
    if DEVICE == "cuda":
        assert paired._extra(calls["other"][0], image.device)["launches"] == 1
