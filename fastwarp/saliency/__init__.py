"""Where saliency comes from: maps `[B, h, w]` that say how densely each place of an image should be sampled."""

from fastwarp.saliency.boxes import box_density, box_knots
from fastwarp.saliency.boxes_3d import project_boxes_3d
from fastwarp.saliency.labels import boundary_density

__all__ = ["boundary_density", "box_density", "box_knots", "project_boxes_3d"]
