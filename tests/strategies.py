"""hypothesis strategies for what the kernels are given: sizes, memory layouts, warps, saliency maps, valid extents."""

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from fastwarp.reference.mesh import lz_mesh

SIDES = (1, 2, 3, 5, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 61)
"""1, primes, powers of two and their neighbours."""

LAYOUTS = ("contiguous", "channels_last", "sliced", "expanded", "transposed")

WARPS = ("identity", "monotone", "steep", "equal", "clamped", "cropping", "near_ends", "constant")

MESHES = (
    *("identity", "separable", "lz", "lz_smooth", "cropping", "steep", "sheared", "rotated", "mirrored", "transposed"),
    *("trapezoid", "perspective", "parallelogram", "jittered", "outside"),
)
"""Meshes that do not fold; neighbouring vertices of cropping ones can be equal."""

DEGENERATE = ("near_degenerate", "zero_area", "point", "folded", "nonconvex", "nan", "infinite")

SALIENCY = ("dense", "sparse", "one_hot", "constant", "zero", "zero_rows", "huge", "tiny", "negative")

seeds = st.integers(0, 2**31 - 1)
sides = st.sampled_from(SIDES)
shapes = st.tuples(sides, sides)
layouts = st.sampled_from(LAYOUTS)
knot_counts = st.sampled_from((2, 3, 5, 8, 17, 31))
fwhms = st.one_of(st.sampled_from((0.5, 1.0, 13.0, 100.0)), st.floats(0.5, 100.0))


def uniform(seed: int, *shape: int, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """float64 numbers in [low, high)."""
    return np.random.default_rng(seed).uniform(low, high, shape)


def values(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A contiguous tensor of numbers around 0, or any bytes for uint8."""
    if dtype == torch.uint8:
        return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """`[B, C, H, W]` in another memory layout. `expanded` repeats the first image, `sliced` has gaps everywhere."""
    if layout == "channels_last":
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        wide = torch.zeros([2 * n + 1 for n in tensor.shape], dtype=tensor.dtype)
        view = wide[tuple(slice(1, None, 2) for _ in tensor.shape)]
        return view.copy_(tensor)
    if layout == "expanded":
        return tensor[:1].expand_as(tensor)
    if layout == "transposed":
        return tensor.mT.contiguous().mT
    return tensor


def knots(kind: str, seed: int, batch: int, n: int) -> np.ndarray:
    """Knots `[batch, n]` of warps of one kind, float64, never decreasing."""
    steps = uniform(seed, batch, n - 1)
    ends = {"cropping": (0.13, 0.81), "near_ends": (6e-7, 0.9999994)}.get(kind, (0.0, 1.0))
    if kind == "identity":
        steps[:] = 1
    elif kind == "constant":
        return np.full((batch, n), 0.4)
    elif kind == "steep":
        steps = steps**8 + 1e-5
    elif kind == "equal":
        steps *= uniform(seed + 1, batch, n - 1) < 0.5
        steps[steps.sum(1) == 0] = 1
    else:
        steps += 0.2
    result = np.concatenate([np.zeros((batch, 1)), np.cumsum(steps, 1)], 1)
    result = ends[0] + (ends[1] - ends[0]) * result / result[:, -1:]
    if kind == "clamped":  # what the cropping variant does: positions past the ends become equal knots there
        result = np.clip(-0.3 + 1.7 * result, 0, 1)
    return np.maximum.accumulate(result, 1)


@st.composite
def warps(draw: Any, batch: int, dtype: torch.dtype, kinds: tuple[str, ...] = WARPS) -> tuple[Tensor, Tensor]:
    """`(knots_y, knots_x)` of any kinds and numbers of knots, `[1 or batch, n]`."""
    shared = draw(st.booleans())
    return tuple(  # type: ignore[return-value]
        torch.from_numpy(
            knots(draw(st.sampled_from(kinds)), draw(seeds), 1 if shared else batch, draw(knot_counts))
        ).to(dtype)
        for _ in range(2)
    )


def saliency_map(kind: str, seed: int, batch: int, h: int, w: int) -> np.ndarray:
    """Maps `[batch, h, w]` of one kind, float64; all but the negative kind are fit for float32."""
    result = uniform(seed, batch, h, w)
    if kind == "sparse":
        result *= uniform(seed + 1, batch, h, w) < 0.1
    elif kind == "one_hot":
        hot = np.zeros((batch, h * w))
        hot[np.arange(batch), np.random.default_rng(seed).integers(0, h * w, batch)] = 3.0
        result = hot.reshape(batch, h, w)
    elif kind == "constant":
        result[:] = 0.37
    elif kind == "zero":
        result[:] = 0
    elif kind == "zero_rows":
        result[:, : h // 2] = 0
        result[:, :, w // 2 :] = 0
    elif kind == "huge":
        result *= 1e30
    elif kind == "tiny":
        result *= 1e-30
    elif kind == "negative":
        result -= 0.5
    return result


@st.composite
def saliency(draw: Any, dtype: torch.dtype, kinds: tuple[str, ...] = SALIENCY) -> Tensor:
    """Maps `[B, h, w]` with h, w >= 2."""
    side = st.sampled_from((2, 3, 5, 8, 17, 31))
    kind, seed, batch = draw(st.sampled_from(kinds)), draw(seeds), draw(st.integers(1, 3))
    return torch.from_numpy(saliency_map(kind, seed, batch, draw(side), draw(side))).to(dtype)


@st.composite
def extents(draw: Any, batch: int, sizes: list[tuple[int, int]], smallest: int = 1) -> Tensor | None:
    """Valid extents int64 `[1 or batch, levels, 2]`, often 1 or the whole side, or None."""
    if draw(st.booleans()):
        return None

    def extent(whole: int) -> int:
        return draw(st.one_of(st.sampled_from((smallest, whole)), st.integers(smallest, whole)))

    rows = draw(st.sampled_from((1, batch)))
    return torch.tensor([[[extent(side) for side in size] for size in sizes] for _ in range(rows)])


def turned(mesh: np.ndarray, matrix: Any) -> np.ndarray:
    """A mesh after a linear map about the middle of the unit square."""
    return (mesh - 0.5) @ np.asarray(matrix, np.float64).T + 0.5


def mesh(kind: str, seed: int, batch: int, h: int, w: int) -> np.ndarray:
    """Meshes `[batch, h, w, 2]` of one kind, float64."""
    random = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, w), np.linspace(0, 1, h))
    plain = np.repeat(np.stack([x, y], -1)[None], batch, 0)
    cells = np.array([w - 1, h - 1])
    jittered = plain + random.uniform(-0.3, 0.3, plain.shape) / cells
    if kind in ("lz", "lz_smooth", "cropping"):
        saliency = random.uniform(size=(batch, h, w)) ** random.choice([1, 4])
        if kind != "lz":
            centre = random.uniform(size=(batch, 2, 1, 1))
            distance = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2
            saliency = np.exp(-distance / random.uniform(0.02, 0.3)) + 0.01 * saliency
        # A cropping warp of a wide kernel has vertices outside [0, 1], which the clamp puts onto each other.
        fwhm = random.uniform(2, 22) if kind != "cropping" else random.uniform(1, 3) * max(h, w)
        result = lz_mesh(saliency, fwhm, kind != "cropping")
        return np.clip(turned(result, 1.8 * np.eye(2)), 0, 1) if kind == "cropping" and seed % 2 else result
    if kind in ("separable", "steep"):
        name = "steep" if kind == "steep" else "monotone"
        axes = [knots(name, seed + i, batch, n) for i, n in enumerate((w, h))]
        return np.stack(np.broadcast_arrays(axes[0][:, None, :], axes[1][:, :, None]), -1)
    if kind == "sheared":
        return turned(jittered, [[1, random.uniform(-1, 1)], [0, 1]])
    if kind == "rotated":
        angle, size = random.uniform(0, 2 * np.pi), random.uniform(0.5, 1.2)
        return turned(jittered, size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))
    if kind == "mirrored":
        return turned(jittered, np.diag(random.permutation([-1, random.choice([-1, 1])])))
    if kind == "transposed":
        return jittered[..., ::-1].copy()
    if kind == "trapezoid":
        narrow = random.uniform(-0.9, 0.9)
        return np.stack([0.5 + (plain[..., 0] - 0.5) * (1 + narrow * (plain[..., 1] - 0.5)), plain[..., 1]], -1)
    if kind == "perspective":
        depth = 1 + plain @ random.uniform(-0.4, 0.4, 2)
        return turned(plain / depth[..., None], np.eye(2) + random.uniform(-0.2, 0.2, (2, 2)))
    if kind == "parallelogram":
        return turned(plain, random.uniform(-1, 1, (2, 2)) + 0.1 * np.eye(2))
    if kind in ("jittered", "outside"):
        return jittered if kind == "jittered" else turned(jittered, np.diag(random.uniform(0.3, 1.7, 2)))
    if kind == "near_degenerate":  # vertices drawn to lines, columns, or points, by all but some millionths
        thin = 10.0 ** random.uniform(-9, -3)
        rounded = np.floor(jittered * cells / 2) / cells * 2
        return rounded + thin * (jittered - rounded)
    if kind == "zero_area":
        i, j = np.maximum(np.arange(h) // 2 * 2, 0), np.maximum(np.arange(w) // 2 * 2, 0)
        return jittered[:, i][:, :, j]
    if kind == "point":
        return np.full(plain.shape, 0.4)
    if kind == "folded":
        return plain + random.uniform(-1.5, 1.5, plain.shape) / cells
    if kind == "nonconvex":
        return plain + random.uniform(-0.6, 0.6, plain.shape) / cells
    if kind in ("nan", "infinite"):
        value = [np.nan] if kind == "nan" else [np.inf, -np.inf]
        hit = random.uniform(size=plain.shape) < 0.08
        hit[:, [0, 0, -1, -1], [0, -1, 0, -1]] &= seed % 3 == 0  # a corner spoils the centre and so the whole mesh
        return np.where(hit, random.choice(value, plain.shape), jittered)
    return plain


mesh_sides = st.sampled_from((2, 3, 5, 8, 17))


@st.composite
def meshes(draw: Any, batch: int, dtype: torch.dtype, kinds: tuple[str, ...] = MESHES) -> Tensor:
    """A mesh `[1 or batch, h, w, 2]` of any kind."""
    rows = draw(st.sampled_from((1, batch)))
    array = mesh(draw(st.sampled_from(kinds)), draw(seeds), rows, draw(mesh_sides), draw(mesh_sides))
    return torch.from_numpy(array).to(dtype)
