"""`torch.ops.fastwarp.*`: schemas, shapes for tracing, gradients and vmap, one file per family."""

from fastwarp.ops import axis, density, downsize, grid, label, mesh, separable

__all__ = ["axis", "density", "downsize", "grid", "label", "mesh", "separable"]
