"""Where saliency comes from: maps `[B, h, w]` that say how densely each place of an image should be sampled."""

from fastwarp.saliency.boxes import box_density, box_knots

__all__ = ["box_density", "box_knots"]
