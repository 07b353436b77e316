"""Ops of the `mesh` family: saliency -> mesh, T~ of quad meshes and its inverse, on grids of targets and at points, and
the sampling of images there.

`tiles` are int32 numbers `i * (w - 1) + j` of the tile that a target or a point is in, -1 for none: what the backward
passes need beside the positions.
"""

from typing import Any

import torch
from torch import Tensor

from fastwarp._backend import backend_for, kernels, launchers
from fastwarp.errors import FastwarpError
from fastwarp.ops import _dense, _dense_mesh
from fastwarp.ops._contract import IMAGE, REAL, Known, extents, fake, implement, indices, levels, pixels, sizes, tensor
from fastwarp.ops._dense_mesh import level_extent
from fastwarp.ops._levels import resized, sides
from fastwarp.ops._vmap import batch_of, fold, map_levels, unfold, unfold_like, vmap_rule

torch.library.define("fastwarp::lz_mesh", "(Tensor saliency, float fwhm, bool anti_crop) -> Tensor")
torch.library.define(
    "fastwarp::lz_mesh_backward", "(Tensor grad, Tensor saliency, float fwhm, bool anti_crop) -> Tensor"
)
torch.library.define(
    "fastwarp::mesh_positions",
    "(Tensor mesh, SymInt[] sizes, SymInt[] source_sizes, bool inverse, bool homography, bool border, "
    "Tensor? valid, Tensor? source_valid) -> (Tensor, Tensor)",
)
torch.library.define(
    "fastwarp::mesh_positions_backward",
    "(Tensor grad, Tensor mesh, Tensor windows, Tensor tiles, SymInt[] sizes, SymInt[] source_sizes, bool inverse, "
    "bool homography, Tensor? valid, Tensor? source_valid) -> Tensor",
)
torch.library.define(
    "fastwarp::mesh_map", "(Tensor mesh, Tensor points, bool inverse, bool homography) -> (Tensor, Tensor)"
)
torch.library.define(
    "fastwarp::mesh_map_backward",
    "(Tensor grad, Tensor mesh, Tensor points, Tensor mapped, Tensor tiles, bool inverse, bool homography) "
    "-> (Tensor, Tensor)",
)
torch.library.define(
    "fastwarp::mesh_sample",
    "(Tensor[] images, Tensor mesh, SymInt[] sizes, bool inverse, bool homography, bool border, "
    "Tensor? valid, Tensor? source_valid) -> Tensor[]",
)


_any_mesh = tensor(REAL, "b h:2 w:2 2")


def _mesh(value: Any, known: Known) -> None:
    _any_mesh(value, known)
    if known["h"] * known["w"] >= 2**31:
        raise FastwarpError(f"is of shape {list(value.shape)}, expected less than 2**31 vertices")


def _tiles(known: Known) -> int:
    """Tiles of the mesh."""
    tiles: int = (known["h"] - 1) * (known["w"] - 1)
    return tiles


def _broadcast(*tensors: Tensor | None) -> int:
    return next((t.shape[0] for t in tensors if t is not None and t.shape[0] != 1), 1)


# --- lz_mesh ----------------------------------------------------------------------------------------------------------


@implement("lz_mesh", saliency=tensor(REAL, "B h:2 w:2"))
def _lz_mesh(saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    return kernels("mesh", saliency.device).lz_mesh(saliency, fwhm, anti_crop)


@fake("lz_mesh")
def _(saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    return saliency.new_empty((*saliency.shape, 2))


def _save_lz(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.fwhm, ctx.anti_crop = inputs
    ctx.save_for_backward(*tensors)


def _lz_mesh_grad(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    by_saliency = torch.ops.fastwarp.lz_mesh_backward(grad, *ctx.saved_tensors, ctx.fwhm, ctx.anti_crop)
    return by_saliency, None, None


torch.library.register_autograd("fastwarp::lz_mesh", _lz_mesh_grad, setup_context=_save_lz)


@implement("lz_mesh_backward", grad=tensor(REAL, "B h w 2"), saliency=tensor(REAL, "B h:2 w:2"))
def _lz_mesh_backward(grad: Tensor, saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    return kernels("mesh", saliency.device).lz_mesh_backward(grad, saliency, fwhm, anti_crop)


@fake("lz_mesh_backward")
def _(grad: Tensor, saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    return saliency.new_empty(saliency.shape)


def _lz_mesh_double(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
    def mesh(saliency: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return (_dense_mesh.lz_mesh(saliency, ctx.fwhm, ctx.anti_crop),), (saliency,)

    grad, saliency = ctx.saved_tensors
    return (*_dense.second_backward(mesh, [grad], [saliency], [cotangent]), None, None)


torch.library.register_autograd("fastwarp::lz_mesh_backward", _lz_mesh_double, setup_context=_save_lz)


@vmap_rule("lz_mesh")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    mesh = torch.ops.fastwarp.lz_mesh(*fold(info.batch_size, batch_of(args, in_dims), args, in_dims))
    return unfold(info.batch_size, mesh), 0


@vmap_rule("lz_mesh_backward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    by_saliency = torch.ops.fastwarp.lz_mesh_backward(*fold(info.batch_size, batch_of(args, in_dims), args, in_dims))
    return unfold(info.batch_size, by_saliency), 0


# --- positions --------------------------------------------------------------------------------------------------------


@implement("mesh_positions", mesh=_mesh, sizes=sizes(pixels), source_sizes=sizes(), valid=extents, source_valid=extents)
def _positions(mesh: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return kernels("mesh", mesh.device).positions(mesh, *args)


@fake("mesh_positions")
def _(mesh: Tensor, sizes: list[int], *args: Any) -> tuple[Tensor, Tensor]:
    batch = _broadcast(mesh, *args[-2:])
    count = sum(height * width for height, width in zip(sizes[::2], sizes[1::2], strict=True))
    return mesh.new_empty(batch, 2, count), mesh.new_empty(batch, count, dtype=torch.int32)


def _save_positions(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    mesh, ctx.sizes, ctx.source_sizes, ctx.inverse, ctx.homography, ctx.border, valid, source_valid = inputs
    ctx.save_for_backward(mesh, *output, valid, source_valid)


def _positions_grad(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    mesh, windows, tiles, *extents = ctx.saved_tensors
    return (_to_mesh(ctx, grad, mesh, windows.detach(), tiles, *extents), *(None,) * 7)


def _to_mesh(
    ctx: Any,
    grad: Tensor,
    mesh: Tensor,
    windows: Tensor,
    tiles: Tensor,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> Tensor:
    """Gradient to the mesh from that of the windows."""
    source_sizes = ctx.source_sizes
    if ctx.inverse and (1 in source_sizes or source_valid is not None):
        # Where a source has one row or column, windows do not tell where in its tile a target is: normalised ones do.
        scale = torch.cat(
            [
                (level_extent(source_valid, level, source_sizes, grad).flip(-1) - 1)
                .clamp(min=0)[:, :, None]
                .expand(-1, -1, ctx.sizes[2 * level] * ctx.sizes[2 * level + 1])
                for level in range(len(source_sizes) // 2)
            ],
            2,
        )
        grad, source_sizes, source_valid = grad * scale, [2] * len(source_sizes), None
        found = torch.ops.fastwarp.mesh_positions(
            mesh.detach(), ctx.sizes, source_sizes, ctx.inverse, ctx.homography, ctx.border, valid, None
        )
        windows, tiles = (t.expand(len(grad), *t.shape[1:]).contiguous() for t in found)
    options = (ctx.sizes, source_sizes, ctx.inverse, ctx.homography)
    return torch.ops.fastwarp.mesh_positions_backward(grad, mesh, windows, tiles, *options, valid, source_valid)


torch.library.register_autograd("fastwarp::mesh_positions", _positions_grad, setup_context=_save_positions)


@implement(
    "mesh_positions_backward",
    grad=tensor(REAL, "B 2 P"),
    mesh=_mesh,
    windows=tensor(REAL, "B 2 P"),
    tiles=indices("B P", _tiles, least=-1),
    sizes=sizes(pixels),
    source_sizes=sizes(),
    valid=extents,
    source_valid=extents,
)
def _positions_backward(grad: Tensor, mesh: Tensor, *args: Any) -> Tensor:
    return kernels("mesh", mesh.device).positions_backward(grad, mesh, *args)


@fake("mesh_positions_backward")
def _(grad: Tensor, mesh: Tensor, *args: Any) -> Tensor:
    return mesh.new_empty(mesh.shape)


def _save_positions_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.sizes, ctx.source_sizes, ctx.inverse, ctx.homography, valid, source_valid = inputs
    ctx.save_for_backward(*tensors, valid, source_valid)


def _positions_double(ctx: Any, cotangent: Tensor) -> tuple[Any, ...]:
    grad, mesh, windows, tiles, *extents = ctx.saved_tensors
    options = (ctx.sizes, ctx.source_sizes, ctx.inverse, ctx.homography, *extents)

    def positions(mesh: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return (_dense_mesh.mesh_positions(mesh, windows.double(), tiles, *options),), (mesh,)

    return (*_dense.second_backward(positions, [grad], [mesh], [cotangent]), *(None,) * 8)


torch.library.register_autograd(
    "fastwarp::mesh_positions_backward", _positions_double, setup_context=_save_positions_backward
)


@vmap_rule("mesh_positions")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    results = torch.ops.fastwarp.mesh_positions(*fold(info.batch_size, batch_of(args, in_dims), args, in_dims))
    return tuple(unfold(info.batch_size, r) for r in results), (0, 0)


@vmap_rule("mesh_positions_backward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    folded = fold(info.batch_size, batch_of(args, in_dims), args, in_dims)
    by_mesh = torch.ops.fastwarp.mesh_positions_backward(*folded)
    return unfold_like(info.batch_size, by_mesh, args[1], in_dims[1]), 0


# --- map --------------------------------------------------------------------------------------------------------------


@implement("mesh_map", mesh=_mesh, points=tensor(REAL, "b N 2", free=True))
def _map(mesh: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return kernels("mesh", mesh.device).map(mesh, *args)


@fake("mesh_map")
def _(mesh: Tensor, points: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    batch, count = _broadcast(mesh, points), points.shape[1]
    return mesh.new_empty(batch, count, 2), mesh.new_empty(batch, count, dtype=torch.int32)


def _save_map(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    mesh, points, ctx.inverse, ctx.homography = inputs
    ctx.save_for_backward(mesh, points, *output)


def _map_grad(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    mesh, points, mapped, tiles = ctx.saved_tensors
    options = (ctx.inverse, ctx.homography)
    return (*torch.ops.fastwarp.mesh_map_backward(grad, mesh, points, mapped.detach(), tiles, *options), None, None)


torch.library.register_autograd("fastwarp::mesh_map", _map_grad, setup_context=_save_map)


@implement(
    "mesh_map_backward",
    grad=tensor(REAL, "B N 2"),
    mesh=_mesh,
    points=tensor(REAL, "b N 2", free=True),
    mapped=tensor(REAL, "B N 2"),
    tiles=indices("B N", _tiles, least=-1),
)
def _map_backward(grad: Tensor, mesh: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return kernels("mesh", mesh.device).map_backward(grad, mesh, *args)


@fake("mesh_map_backward")
def _(grad: Tensor, mesh: Tensor, points: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return mesh.new_empty(mesh.shape), points.new_empty(points.shape)


def _save_map_backward(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.inverse, ctx.homography = inputs
    ctx.save_for_backward(*tensors)


def _map_double(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
    grad, mesh, points, mapped, tiles = ctx.saved_tensors

    def values(*inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        near = (mapped.double(), tiles, ctx.inverse, ctx.homography)
        return (_dense_mesh.mesh_map(inputs[0], inputs[1], *near),), inputs

    return (*_dense.second_backward(values, [grad], [mesh, points], cotangents), *(None,) * 4)


torch.library.register_autograd("fastwarp::mesh_map_backward", _map_double, setup_context=_save_map_backward)


@vmap_rule("mesh_map")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    results = torch.ops.fastwarp.mesh_map(*fold(info.batch_size, batch_of(args, in_dims), args, in_dims))
    return tuple(unfold(info.batch_size, r) for r in results), (0, 0)


@vmap_rule("mesh_map_backward")
def _(info: Any, in_dims: Any, *args: Any) -> Any:
    grads = torch.ops.fastwarp.mesh_map_backward(*fold(info.batch_size, batch_of(args, in_dims), args, in_dims))
    return tuple(unfold_like(info.batch_size, g, args[i], in_dims[i]) for g, i in zip(grads, (1, 2), strict=True)), (
        0,
        0,
    )


# --- sample: positions and resample in one call -----------------------------------------------------------------------


@implement(
    "mesh_sample", images=levels(IMAGE, "B"), mesh=_mesh, sizes=sizes(pixels), valid=extents, source_valid=extents
)
def _sample(
    images: list[Tensor],
    mesh: Tensor,
    sizes: list[int],
    inverse: bool,
    homography: bool,
    border: bool,
    valid: Tensor | None,
    source_valid: Tensor | None,
) -> list[Tensor]:
    options = (inverse, homography, border, valid, source_valid)
    backend = backend_for(mesh.device)
    windows, _ = launchers(backend, "mesh").positions(mesh, sizes, sides(images), *options)
    return launchers(backend, "grid").resample(images, windows, sizes, source_valid)


@fake("mesh_sample")
def _(images: list[Tensor], mesh: Tensor, sizes: list[int], *args: Any) -> Any:
    return resized(images, sizes)


def _save_sample(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    images, mesh, ctx.sizes, ctx.inverse, ctx.homography, ctx.border, valid, source_valid = inputs
    ctx.source_sizes = sides(images)
    ctx.save_for_backward(mesh, valid, source_valid, *(images if mesh.requires_grad else ()))


def _sample_grad(ctx: Any, grads: list[Tensor]) -> tuple[Any, ...]:
    mesh, valid, source_valid, *images = ctx.saved_tensors
    options = (ctx.sizes, ctx.source_sizes, ctx.inverse, ctx.homography)
    windows, tiles = torch.ops.fastwarp.mesh_positions(mesh, *options, ctx.border, valid, source_valid)
    by_images: Any = [None] * len(grads)
    if any(ctx.needs_input_grad[0]):
        by_images = torch.ops.fastwarp.grid_resample_adjoint(grads, windows, ctx.source_sizes, source_valid)
    by_mesh = None
    if ctx.needs_input_grad[1]:
        by_windows = torch.ops.fastwarp.grid_windows_gradient(grads, images, windows, source_valid)
        by_mesh = _to_mesh(ctx, by_windows, mesh, windows.detach(), tiles, valid, source_valid)
    return (by_images, by_mesh, *(None,) * 6)


torch.library.register_autograd("fastwarp::mesh_sample", _sample_grad, setup_context=_save_sample)


map_levels("mesh_sample")
