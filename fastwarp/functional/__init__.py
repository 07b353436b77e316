"""Stateless functions behind `fastwarp.SeparableWarp` and `fastwarp.MeshWarp`: they check their arguments and call
`torch.ops.fastwarp.*`.

Conventions. Images are `[B, C, H, W]`. A warp T~ maps positions of the *zoomed* image to positions of the *source*, in
`[0, 1]` with `align_corners=True`: pixel d of D is at `d/(D-1)`, the only pixel of D = 1 at 0.5. It is given by its
knots, T~ sampled on a uniform grid and linear in between: `knots_y [B, h]`, `knots_x [B, w]`; or, where it is not
separable, by a mesh `[B, h, w, 2]`. A batch of 1 is shared by all images.

Mind the order: sizes and pairs of knots go (y, x), as (height, width) does; the last axis of meshes, points, boxes and
grids goes (x, y), as that of `F.grid_sample` does.

"LZU" is "Learning to Zoom and Unzoom" (CVPR 2023). `downsize` knows no warp: it resizes with learned weights
("DownsizeNet", BMVC 2022).
"""

from fastwarp.functional._downsize_boxes import downsize_boxes
from fastwarp.functional.axis import axis_map, cdf_knots, limited_knots, lz_knots, lz_knots_from_marginals
from fastwarp.functional.density import box_density, box_knots
from fastwarp.functional.downsize import downsize, relative_distance
from fastwarp.functional.geometry import (
    separable_grid,
    separable_inside,
    separable_magnification,
    separable_map_points,
)
from fastwarp.functional.label import (
    mesh_unzoom_labels,
    mesh_unzoom_soft_labels,
    mesh_zoom_labels,
    mesh_zoom_soft_labels,
    separable_unzoom_labels,
    separable_unzoom_soft_labels,
    separable_zoom_labels,
    separable_zoom_soft_labels,
)
from fastwarp.functional.mesh import lz_mesh, mesh_unzoom, mesh_zoom, mesh_zoom_frame
from fastwarp.functional.mesh_constructors import control_point_mesh, function_mesh, offset_mesh
from fastwarp.functional.mesh_geometry import (
    MeshReport,
    mesh_grid,
    mesh_inside,
    mesh_magnification,
    mesh_map,
    mesh_map_points,
    mesh_report,
)
from fastwarp.functional.separable import separable_unzoom, separable_windows, separable_zoom, separable_zoom_frame

__all__ = [
    "MeshReport",
    "axis_map",
    "box_density",
    "box_knots",
    "cdf_knots",
    "control_point_mesh",
    "downsize",
    "downsize_boxes",
    "function_mesh",
    "limited_knots",
    "lz_knots",
    "lz_knots_from_marginals",
    "lz_mesh",
    "mesh_grid",
    "mesh_inside",
    "mesh_magnification",
    "mesh_map",
    "mesh_map_points",
    "mesh_report",
    "mesh_unzoom",
    "mesh_unzoom_labels",
    "mesh_unzoom_soft_labels",
    "mesh_zoom",
    "mesh_zoom_frame",
    "mesh_zoom_labels",
    "mesh_zoom_soft_labels",
    "offset_mesh",
    "relative_distance",
    "separable_grid",
    "separable_inside",
    "separable_magnification",
    "separable_map_points",
    "separable_unzoom",
    "separable_unzoom_labels",
    "separable_unzoom_soft_labels",
    "separable_windows",
    "separable_zoom",
    "separable_zoom_frame",
    "separable_zoom_labels",
    "separable_zoom_soft_labels",
]
