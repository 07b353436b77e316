"""Both kinds of warps, alike: documentation, the choice of a backend, checks of values, frames."""

from __future__ import annotations

import inspect
import os
import sys
from collections import Counter

import pytest
import torch
from helpers import run_python, tensors

import fastwarp
from fastwarp import FastwarpError, MeshWarp, SeparableWarp, errors, nn
from fastwarp import functional as F

KINDS = [SeparableWarp, MeshWarp]
FUNCTIONS = [n for n in F.__all__ if "downsize" not in n and n != "relative_distance"]  # see test_downsize_functional

K = torch.linspace(0, 1, 5)[None]
WARP = SeparableWarp(K, K)
IMAGE = torch.rand(2, 3, 8, 9)
FRAME = torch.zeros(6, 7, 3, dtype=torch.uint8)

# --- documentation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_documentation_of_functions(name):
    function = getattr(F, name)
    text = inspect.getdoc(function)
    assert text
    if inspect.isclass(function):
        arguments = text.partition("Attributes:")[2]
    else:
        sections = [line for line in text.splitlines() if line.endswith(":") and line[:1].isalpha()]
        assert {"Args:", "Returns:"} <= set(sections)
        arguments = text.partition("Args:")[2].partition("Returns:")[0]
    for argument in inspect.signature(function).parameters:
        assert f"{argument}:" in arguments, f"{name} does not document {argument}"


@pytest.mark.parametrize("cls", [*KINDS, nn.Zoom, nn.Unzoom], ids=lambda cls: cls.__name__)
def test_documentation_of_classes(cls):
    for argument in inspect.signature(cls).parameters:
        assert f"{argument}:" in inspect.getdoc(cls), f"{cls.__name__} does not document {argument}"
    if cls in KINDS:
        for name, method in inspect.getmembers(cls, callable):
            assert name[0] == "_" or inspect.getdoc(method), f"{cls.__name__}.{name} has no docstring"


def test_both_warps_have_the_same_methods_and_arguments():
    """Code written for one runs with the other."""
    for name, method in inspect.getmembers(SeparableWarp, callable):
        if name.startswith("_") or name in ("from_marginals", "from_cdf", "limited"):
            continue
        other = inspect.signature(getattr(MeshWarp, name)).parameters
        assert [n for n in other if n != "tile"] == list(inspect.signature(method).parameters), name


# --- backends ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [(SeparableWarp, {}), (MeshWarp, {"tile": "bilinear"}), (MeshWarp, {"tile": "homography"})],
    ids=["separable", "bilinear", "homography"],
)
def test_backends_agree(kind, options):
    warp = kind.from_saliency(torch.rand(2, 5, 6, dtype=torch.float64), 4.0, False, **options)
    image, points = IMAGE.double(), torch.rand(2, 9, 2, dtype=torch.float64) * 9
    boxes = torch.cat([points, points + 3], 2)

    def everything():
        maps = warp.unzoom([image, image[:, :, ::2]], padding_mode="border"), warp.unzoom(image, (4, 5), antialias=True)
        frame = warp.zoom_frame(FRAME.expand(2, -1, -1, -1), (4, 5), dtype=torch.float64)
        geometry = warp.inverse_grid((5, 6)), warp.magnification((5, 6)), warp.inside((20, 30)).double()
        return *maps[0], maps[1], warp.zoom(image, (5, 5)), frame, *geometry, warp.zoom_boxes(boxes, (8, 9), (5, 5))

    got = everything()
    with fastwarp.backend("reference"):
        expected = everything()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_triton_serves_cpu_tensors_only_in_its_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with fastwarp.backend("triton"), pytest.raises(FastwarpError, match="interpreter: set TRITON_INTERPRET=1"):
        WARP.zoom(IMAGE, (2, 2))
    assert WARP.zoom(IMAGE, (2, 2)).shape == (2, 3, 2, 2)


def test_backend_is_put_back_whatever_happens():
    active = fastwarp._backend._active
    seen = []

    def fail() -> None:
        seen.append(fastwarp._backend._active)
        raise RuntimeError("mine")

    with fastwarp.backend("numba"):
        with pytest.raises(RuntimeError, match="mine"), fastwarp.backend("reference"):
            fail()
        seen.append(fastwarp._backend._active)
        with pytest.raises(FastwarpError), fastwarp.backend("unknown"):
            pass
        seen.append(fastwarp._backend._active)
    assert seen == ["reference", "numba", "numba"]
    assert fastwarp._backend._active == active


def test_backend_decides_who_computes(monkeypatch):
    from fastwarp.kernels.cpu import separable as fast
    from fastwarp.ops._reference import separable as slow

    called = []
    for name, module in (("numba", fast), ("reference", slow)):
        original = module.resample
        monkeypatch.setattr(module, "resample", lambda *a, n=name, f=original: called.append(n) or f(*a))
    expected = WARP.zoom(IMAGE, (4, 4))
    with fastwarp.backend("reference"):
        got = WARP.zoom(IMAGE, (4, 4))
    with fastwarp.backend("numba"):
        WARP.zoom(IMAGE, (4, 4))
    assert called == ["numba", "reference", "numba"]
    torch.testing.assert_close(got, expected)


def test_backend_of_the_environment():
    script = "import fastwarp; print(fastwarp._backend._active)"
    assert run_python(script, FASTWARP_BACKEND="reference") == "reference\n"
    script = """
import fastwarp, torch
try:
    fastwarp.SeparableWarp.identity().zoom(torch.ones(1, 1, 2, 2), (2, 2))
except fastwarp.FastwarpError as error:
    print(error)
"""
    assert "expected one of auto, triton, numba, reference" in run_python(script, FASTWARP_BACKEND="fast")


# --- FASTWARP_CHECKS --------------------------------------------------------------------------------------------------


CHECKS = {
    # separable
    "fastwarp.SeparableWarp(knots, knots.flip(1))": (
        "SeparableWarp: knots_x[0, 0:2] is [1.0, 0.75], expected knots that never decrease"
    ),
    "fastwarp.SeparableWarp(knots, knots * nan)": "SeparableWarp: knots_x[0, 0] is nan, expected finite values",
    "F.separable_zoom(image, knots / 0, knots, (2, 2))": (
        "separable_zoom: knots_y[0, 0] is nan, expected finite values"
    ),
    "F.lz_knots(saliency - 2)": "lz_knots: saliency is NaN or negative somewhere, expected values >= 0",
    "F.lz_knots(saliency * nan)": "lz_knots: saliency is NaN or negative somewhere, expected values >= 0",
    "F.lz_knots_from_marginals(knots, -knots)": (
        "lz_knots_from_marginals: marginal_x is NaN or negative somewhere, expected values >= 0"
    ),
    "F.cdf_knots(-knots)": "cdf_knots: density is NaN or negative somewhere, expected values >= 0",
    "fastwarp.SeparableWarp.from_saliency(saliency).zoom(image, (2, 2))": "accepted",
    # mesh
    "fastwarp.MeshWarp(bad)": "MeshWarp: mesh[0, 2, 3] is [0.75, inf], expected finite values",
    "F.mesh_zoom(image, bad, (2, 2))": "mesh_zoom: mesh[0, 2, 3] is [0.75, inf], expected finite values",
    "F.mesh_unzoom([image], bad)": "mesh_unzoom: mesh[0, 2, 3] is [0.75, inf], expected finite values",
    "F.mesh_map(bad * nan, torch.rand(1, 3, 2))": "mesh_map: mesh[0, 0, 0] is [nan, nan], expected finite values",
    "F.lz_mesh(saliency - 2)": "lz_mesh: saliency is NaN or negative somewhere, expected values >= 0",
    "F.lz_mesh(saliency * nan)": "lz_mesh: saliency is NaN or negative somewhere, expected values >= 0",
    "fastwarp.MeshWarp.from_saliency(saliency).unzoom(image)": "accepted",
    "fastwarp.MeshWarp(mesh.flip(2)).unzoom(image)": "accepted",  # a mirrored mesh has an inverse
}
"""What calls say when values are checked."""

SCRIPT = f"""
import torch, fastwarp
from fastwarp import functional as F
nan = float("nan")
knots, saliency, image = torch.linspace(0, 1, 5)[None], torch.rand(1, 4, 5), torch.rand(1, 1, 4, 4)
mesh = fastwarp.MeshWarp.identity(1, (4, 5)).mesh
bad = mesh.clone()
bad[0, 2, 3, 1] = float("inf")
for call in {list(CHECKS)}:
    try:
        eval(call)
        print("accepted")
    except fastwarp.FastwarpError as error:
        print(error)
"""


def test_values_are_checked_on_request():
    assert run_python(SCRIPT, FASTWARP_CHECKS="1").splitlines() == list(CHECKS.values())


def test_values_are_not_checked_otherwise():
    assert os.environ.get("FASTWARP_CHECKS", "0") == "0"
    SeparableWarp(K, K * float("nan"))
    MeshWarp(MeshWarp.identity().mesh * float("nan"))
    for function in (F.lz_knots, F.lz_mesh):
        function(torch.rand(1, 3, 4) - 2)


# --- each argument is checked once ------------------------------------------------------------------------------------


ONCE = {
    "zoom": lambda w: w.zoom(IMAGE, (4, 5), valid=VALID, source_valid=VALID.clone()),
    "unzoom": lambda w: w.unzoom([IMAGE, IMAGE[:, :, ::2]], [(4, 5), (5, 6)], valid=[VALID, VALID.clone()]),
    "unzoom registered": lambda w: w.unzoom([IMAGE, IMAGE[:, :, ::2, ::2]], image_size=(16, 18)),
    "zoom_frame": lambda w: w.zoom_frame(FRAME, (4, 5), valid=VALID),
    "grid": lambda w: w.grid((4, 5)),
    "inside": lambda w: w.inside((4, 5)),
    "magnification": lambda w: w.magnification((4, 5)),
    "zoom_points": lambda w: w.zoom_points(IMAGE[0, :, :, :2], VALID, VALID.clone()),
    "unzoom_corners": lambda w: w.unzoom_corners(IMAGE[0, :, :, :4], (4, 5), (6, 7)),
}
VALID = torch.tensor([[3, 4]])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ONCE)
def test_arguments_are_checked_once(name, kind):
    """And the backend is looked up once for each op."""
    warp, seen = kind.from_saliency(torch.rand(1, 3, 4)), Counter()
    functions = {
        f.__code__: f.__name__ for f in (errors.check_tensor, errors.check_size, fastwarp._backend.backend_for)
    }

    def count(frame, event, _):
        if event == "call" and frame.f_code in functions:
            seen[functions[frame.f_code], id(frame.f_locals.get("value"))] += 1

    sys.setprofile(count)
    try:
        ONCE[name](warp)
    finally:
        sys.setprofile(None)
    lookups = seen.pop(("backend_for", id(None)))
    assert lookups == (1 if name[-4:] == "zoom" else lookups)
    checked = {"zoom": 1, "unzoom": 2, "unzoom registered": 2}.get(name, 0) + len(tensors(warp))
    assert len(seen) >= checked
    assert set(seen.values()) == {1}, seen


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_zoom_frame_needs_no_statistics(channels, kind):
    frame = torch.randint(0, 256, (5, 7, channels), dtype=torch.uint8)
    warp = kind.identity()
    plain = warp.zoom_frame(frame, (3, 4))
    assert torch.equal(plain, warp.zoom_frame(frame, (3, 4), mean=[0.0] * channels, std=[1.0] * channels))
    torch.testing.assert_close(plain, warp.zoom(frame.permute(2, 0, 1)[None].float(), (3, 4)), atol=1e-4, rtol=0)
