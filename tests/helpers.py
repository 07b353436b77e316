"""Small things that several test files share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastwarp import MeshWarp, SeparableWarp

TESTS = Path(__file__).resolve().parent


def random_knots(batch: int, n: int, dtype=torch.float64, ends: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Increasing knots `[batch, n]` between `ends` (a cropping warp's lie inside (0, 1)), steepness up to 6 : 1."""
    steps = torch.rand(batch, n - 1, dtype=torch.float64) + 0.2
    rise = torch.cat([torch.zeros(batch, 1, dtype=torch.float64), steps.cumsum(1)], 1)
    knots = ends[0] + (ends[1] - ends[0]) * (rise / rise[:, -1:])
    knots[:, -1] = ends[1]
    return knots.to(dtype)


def random_warp(batch: int = 2, shape=(5, 7), dtype=torch.float32, ends=(0.0, 1.0)) -> SeparableWarp:
    return SeparableWarp(*(random_knots(batch, n, dtype, ends) for n in shape))


def random_mesh(batch: int = 2, shape=(5, 7), dtype=torch.float32, ends=(0.0, 1.0)) -> Tensor:
    """A mesh `[batch, *shape, 2]` without folds: random knots, each vertex moved by up to a fifth of the gaps
    beside it. The outline of the unit square is kept, any other becomes wavy."""
    warp = random_warp(batch, shape, torch.float64, ends)
    mesh = MeshWarp.from_separable(warp).mesh
    for axis, knots in enumerate((warp.knots_x[:, None, :], warp.knots_y[:, :, None])):
        along = 2 - axis
        gap = knots.diff(dim=along)
        first, last = gap.narrow(along, 0, 1), gap.narrow(along, -1, 1)
        room = torch.minimum(torch.cat([first, gap], along), torch.cat([gap, last], along))
        move = (torch.rand(mesh.shape[:3], dtype=torch.float64) - 0.5) * 0.4 * room
        if ends == (0.0, 1.0):
            move = torch.where((knots == 0) | (knots == 1), 0.0, move)
        mesh[..., axis] += move
    return mesh.to(dtype)


def random_mesh_warp(*args: Any, tile: str = "bilinear", **options: Any) -> MeshWarp:
    return MeshWarp(random_mesh(*args, **options), tile)


KINDS = ("separable", "bilinear", "homography")
"""What a warp is made of: knots, or a mesh with the tiles of that name."""


def warp_of(kind: str, *args: Any, **options: Any) -> SeparableWarp | MeshWarp:
    """A random warp of one of the kinds."""
    return random_warp(*args, **options) if kind == "separable" else random_mesh_warp(*args, tile=kind, **options)


def with_geometry(warp: Any, leaves: Sequence[Tensor]) -> Any:
    """`warp` with other knots, or another mesh."""
    return SeparableWarp(*leaves) if isinstance(warp, SeparableWarp) else MeshWarp(*leaves, warp.tile)


def grid(n: int) -> np.ndarray:
    """Grid(n), the normalised positions of n pixels."""
    return np.arange(n) / (n - 1) if n > 1 else np.array([0.5])


def evaluate(knots: Tensor, positions: np.ndarray) -> np.ndarray:
    """T~ of one row of knots within [0, 1], by NumPy."""
    return np.interp(positions, grid(len(knots)), knots.detach().double().numpy())


def invert(knots: Tensor, positions: np.ndarray) -> np.ndarray:
    """T~^-1 of one row of strictly increasing knots within their range, by NumPy."""
    return np.interp(positions, knots.detach().double().numpy(), grid(len(knots)))


def sample(image: Tensor, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear samples of `[C, H, W]` at the products of normalised positions, `[C, len(y), len(x)]`, float64."""
    weights = []
    for positions, size in ((y, image.shape[1]), (x, image.shape[2])):
        pixel = np.clip(positions, 0, 1) * (size - 1)
        low = np.minimum(np.floor(pixel).astype(int), max(size - 2, 0))
        high = np.minimum(low + 1, size - 1)
        matrix = np.zeros((len(positions), size))
        rows = np.arange(len(positions))
        np.add.at(matrix, (rows, low), 1 - (pixel - low))
        np.add.at(matrix, (rows, high), pixel - low)
        weights.append(matrix)
    return np.einsum("ip,cpq,jq->cij", weights[0], image.detach().double().numpy(), weights[1])


def tensors(result: Any) -> list[Tensor]:
    """The tensors in a result of any structure."""
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def op_names(*families: str) -> list[str]:
    """Names of the ops that begin so; of all without arguments."""
    schemas = [s.name for s in torch._C._jit_get_all_schemas() if s.name.startswith("fastwarp::")]
    schemas = [name for name in schemas if not name.endswith("_no_grad")]  # have the same implementation
    return sorted(name for s in schemas if (name := s.partition("::")[2]).startswith(families or ""))


def forward_backward(function: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Results of `function(*inputs)`, then the gradients to those inputs that require one, for fixed cotangents."""
    results = tensors(function(*inputs))
    leaves = [i for i in inputs if i.requires_grad]
    moving = [r for r in results if r.requires_grad]
    if not moving:
        return [r.detach() for r in results]
    noise = torch.Generator().manual_seed(1)
    cotangents = [torch.rand(r.shape, generator=noise, dtype=torch.float64).to(r.dtype) - 0.5 for r in moving]
    grads = torch.autograd.grad(moving, leaves, cotangents, materialize_grads=True)
    return [r.detach() for r in results] + list(grads)


def assert_bitwise(got: Sequence[Tensor], expected: Sequence[Tensor], message: str = "") -> None:
    """Every bit is the same, NaN included."""
    assert len(got) == len(expected)
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.dtype == b.dtype, f"{message} tensor {i}: {a.dtype}, expected {b.dtype}"
        assert a.shape == b.shape, f"{message} tensor {i}: {a.shape}, expected {b.shape}"
        a, b = a.contiguous(), b.contiguous()
        if a.numel():
            assert torch.equal(a.view(torch.uint8), b.view(torch.uint8)), f"{message} tensor {i} differs"


def poison(tensor: Tensor) -> Tensor:
    """Fills what was allocated, so that it shows where it is not overwritten."""
    if tensor.device.type == "meta":
        return tensor
    return tensor.fill_(float("nan") if tensor.is_floating_point() else 77)


def strange_strides(tensor: Tensor) -> dict[str, Tensor]:
    """The same values in memory that is laid out otherwise."""
    tensor = tensor.detach()
    wide = torch.full([s + 3 for s in tensor.shape], 7, dtype=tensor.dtype)
    slices = tuple(slice(2, 2 + s) for s in tensor.shape)
    wide[slices] = tensor
    steps = torch.full([2 * s for s in tensor.shape], 7, dtype=tensor.dtype)
    every_second = tuple(slice(1, None, 2) for _ in tensor.shape)
    steps[every_second] = tensor
    transposed = tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    first_last = tensor.movedim(0, -1).contiguous().movedim(-1, 0)
    layouts = {"slice": wide[slices], "steps": steps[every_second], "transposed": transposed, "batch last": first_last}
    if tensor.dim() == 4:
        layouts["channels_last"] = tensor.contiguous(memory_format=torch.channels_last)
    return layouts


def assert_near(got: Sequence[Tensor], expected: Sequence[Tensor], message: str = "") -> None:
    """Equal but for the rounding of another order of summation, which is relative to the largest value."""
    assert len(got) == len(expected)
    for i, (a, b) in enumerate(zip(got, expected, strict=True)):
        largest = b.abs().max().item() if b.numel() and b.is_floating_point() else 0
        tolerance = {torch.float64: 1e-12, torch.float32: 2e-6}.get(b.dtype, 0) * largest
        torch.testing.assert_close(
            a, b, rtol=0, atol=tolerance, equal_nan=True, msg=lambda text, i=i: f"{message} tensor {i}: {text}"
        )


class WarpedImages(torch.utils.data.Dataset):
    """Images zoomed and unzoomed by warps of their own, large enough for several threads. Here, where a spawned
    worker can import it."""

    def __init__(
        self, channels_last: bool = False, kind: type[SeparableWarp | MeshWarp] = SeparableWarp, channels: int = 3
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.warp = kind.from_saliency(torch.rand(8, 6, 8, generator=generator), 5.0)
        self.image = torch.rand(1, channels, 300, 340, generator=generator)
        if channels_last:
            self.image = self.image.contiguous(memory_format=torch.channels_last)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        warp = self.warp[index]
        return warp.unzoom(warp.zoom(self.image, (250, 280), antialias=True), (310, 320))

    def forward_backward(self, index: int) -> list[Tensor]:
        def there_and_back(image: Tensor, *geometry: Tensor) -> Tensor:
            warp = type(self.warp)(*geometry)
            return warp.unzoom(warp.zoom(image, (250, 280), antialias=True), (310, 320))

        leaves = (self.image, *tensors(self.warp[index]))
        return forward_backward(there_and_back, [leaf.clone().requires_grad_() for leaf in leaves])


def use_two_threads(worker: int) -> None:
    """Gives a DataLoader's worker, which has one thread by itself, a second one."""
    torch.set_num_threads(2)


def python_environment(**changes: str) -> dict[str, str]:
    """The environment of a Python process that finds the modules beside this one."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **changes}


def run_python(script: str, **environment: str) -> str:
    """Runs a script in a process of its own and returns what it prints; it finds this module."""
    command, env = [sys.executable, "-c", script], python_environment(**environment)
    done = subprocess.run(command, cwd=TESTS, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout
