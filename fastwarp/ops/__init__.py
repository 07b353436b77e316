"""`torch.ops.fastwarp.*`: schemas, shapes for tracing, gradients and vmap, one file per family."""

from fastwarp.ops import axis, density, downsize, grid, label, mesh, separable
from fastwarp.ops._no_grad import define_without_derivative

__all__ = ["axis", "density", "downsize", "grid", "label", "mesh", "separable"]

for _name in (
    "axis_map",
    "axis_windows",
    "density_knots",
    "density_map",
    "downsize",
    "grid_camera",
    "grid_resample",
    "grid_widen",
    "label_nearest",
    "lz_knots",
    "lz_mesh",
    "mesh_map",
    "mesh_positions",
    "mesh_sample",
    "separable_camera",
    "separable_resample",
    "separable_sample",
):
    define_without_derivative(_name)
