"""`torch.jit.trace` of every public function and module: the values are those of the call, the sizes are fixed."""

from __future__ import annotations

import io

import pytest
import torch
from helpers import assert_bitwise

from fastwarp import MeshWarp, SeparableWarp, saliency
from fastwarp import functional as F
from fastwarp.nn import DownsizeNet, Unzoom, Zoom

# torch says of each size that it becomes a constant.
pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated"),
]

RANDOM = torch.Generator().manual_seed(4)
Y, X = torch.tensor([[0.0, 0.2, 1.0]]), torch.tensor([[0.0, 0.4, 0.7, 1.0]])
WARP = SeparableWarp(Y, X)
MESH = MeshWarp.from_separable(WARP).mesh
IMAGE = torch.rand(1, 3, 8, 10, generator=RANDOM)
MAP = torch.rand(1, 5, 7, generator=RANDOM) + 0.1
POINTS = torch.rand(1, 6, 2, generator=RANDOM)
FRAME = (255 * IMAGE[0].permute(1, 2, 0)).byte()
BOXES = torch.tensor([[1.0, 2.0, 5.0, 7.0]])
VALID = torch.tensor([[3, 4]])
AT = (4, 5)

CALLS = {
    "lz_knots": (lambda m: F.lz_knots(m, 3.0), MAP),
    "lz_knots_from_marginals": (lambda m: F.lz_knots_from_marginals(m[:, 0], m[:, :, 0]), MAP),
    "lz_mesh": (F.lz_mesh, MAP),
    "cdf_knots": (lambda m: F.cdf_knots(m[:, 0]), MAP),
    "limited_knots": (lambda k: F.limited_knots(k, 0.5, 2.0), Y),
    "axis_map": (lambda k: F.axis_map(k, X, inverse=True), Y),
    "separable_zoom": (lambda x, k: F.separable_zoom(x, k, X, AT), IMAGE, Y),
    "a size from a size": (lambda x: F.separable_zoom(x, Y, X, (x.shape[2] // 2, x.shape[3] // 2)), IMAGE),
    "valid": (lambda x, v: F.separable_zoom(x, Y, X, AT, valid=v, source_valid=v, antialias=True), IMAGE, VALID),
    "separable_unzoom": (lambda x, k: F.separable_unzoom(x, k, X), IMAGE, Y),
    "levels": (lambda x: F.separable_unzoom({"a": x, "b": x}, Y, X, {"a": (x.shape[2], 5), "b": AT})["a"], IMAGE),
    "registered": (lambda x: F.separable_unzoom(x, Y, X, image_size=(16, 20)), IMAGE),
    "registered, valid": (lambda x, v: F.separable_unzoom(x, Y, X, image_size=(16, 20), valid=v), IMAGE, VALID),
    "mesh_zoom": (lambda x, m: F.mesh_zoom(x, m, AT), IMAGE, MESH),
    "mesh_zoom, antialias": (lambda x: F.mesh_zoom(x, MESH, AT, antialias=True), IMAGE),
    "mesh_unzoom": (lambda x, m: F.mesh_unzoom([x], m), IMAGE, MESH),
    "registered mesh": (lambda x: F.mesh_unzoom(x, MESH, image_size=(16, 20)), IMAGE),
    "separable_zoom_frame": (lambda f: F.separable_zoom_frame(f, Y, X, AT), FRAME),
    "mesh_zoom_frame": (lambda f: F.mesh_zoom_frame(f, MESH, AT), FRAME),
    "mesh_zoom_frame, antialias": (lambda f: F.mesh_zoom_frame(f, MESH, AT, antialias=True), FRAME),
    "separable_grid": (lambda k: F.separable_grid(k, X, AT), Y),
    "inverse grid": (lambda k: F.separable_grid(k, X, AT, inverse=True), Y),
    "separable_inside": (lambda k: F.separable_inside(k, X, AT), Y),
    "separable_magnification": (lambda k: F.separable_magnification(k, X, AT), Y),
    "separable_map_points": (lambda p, x: F.separable_map_points(p, Y, X, x.shape[2:], AT), POINTS, IMAGE),
    "mesh_grid": (lambda m: F.mesh_grid(m, AT), MESH),
    "inverse mesh_grid": (lambda m: F.mesh_grid(m, AT, inverse=True), MESH),
    "mesh_inside": (lambda m: F.mesh_inside(m, AT), MESH),
    "mesh_magnification": (lambda m: F.mesh_magnification(m, AT), MESH),
    "mesh_map_points": (lambda p: F.mesh_map_points(p, MESH, (8, 10), AT), POINTS),
    "offset_mesh": (lambda o: F.offset_mesh(o, (8, 10)), MESH / 9),
    "control_point_mesh": (lambda a: F.control_point_mesh(a, a * a, AT), POINTS),
    "relative_distance": (lambda x: x[0, 0, 0, 0] * F.relative_distance(AT, x.shape[2:]), IMAGE),
    "zoom_boxes": (lambda b, x: WARP.zoom_boxes(b, x.shape[2:], AT), BOXES, IMAGE),
    "zoom_boxes of a mesh": (lambda b: MeshWarp(MESH).zoom_boxes(b, (8, 10), AT), BOXES),
    "box_density": (lambda b: saliency.box_density(b, (8, 10), AT), BOXES),
    "box_knots": (lambda b: saliency.box_knots(b, (8, 10), AT), BOXES),
    "boundary_density": (lambda x: saliency.boundary_density(x, AT), torch.eye(8).long()),
}
MODULES = {
    "learned": lambda: saliency.LearnedSaliency(AT, width=2),
    "Zoom": lambda: Zoom(AT, saliency=MAP),
    "Zoom by a warp": lambda: Zoom(AT, WARP),
    "Zoom by a mesh": lambda: Zoom(AT, saliency=torch.nn.Parameter(MAP), kind="mesh"),
    "Zoom by images": lambda: Zoom(AT, saliency=saliency.LearnedSaliency(AT, width=2)),
    "Unzoom": lambda: Unzoom(saliency=MAP),
    "Unzoom by a mesh": lambda: Unzoom(saliency=MAP, kind="mesh", antialias=True),
    "DownsizeNet": lambda: DownsizeNet(scale_factor=0.5),
    "DownsizeNet, area": lambda: DownsizeNet(scale_factor=0.5, taps="area", mean=[0.5] * 3),
}


def parts(result) -> list[torch.Tensor]:
    return [part.detach() for part in (result if isinstance(result, (list, tuple)) else [result])]


@pytest.mark.parametrize("name", CALLS)
def test_functions(name):
    function, *example = CALLS[name]
    traced = torch.jit.trace(function, tuple(example), check_trace=False)
    other = [torch.rand_like(t) if t.dtype == torch.float32 and t is IMAGE else t for t in example]
    assert_bitwise(parts(traced(*other)), parts(function(*other)))


@pytest.mark.parametrize("name", MODULES)
def test_modules(name):
    module = MODULES[name]()
    traced = torch.jit.trace(module, IMAGE)
    assert traced.state_dict().keys() == module.state_dict().keys()
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    image = torch.rand_like(IMAGE)
    for again in (traced, torch.jit.load(file)):
        assert_bitwise(parts(again(image)), parts(module(image)))
    if "saliency" in module.state_dict():  # the map is a part of the trace, its warp is not
        with torch.no_grad():
            for owner in (module, traced):
                owner.saliency.copy_(MAP.flip(1))
        assert_bitwise(parts(traced(image)), parts(module(image)))
