"""Where saliency comes from: maps `[B, h, w]` that say how densely each place of an image should be sampled."""

from fastwarp.saliency.boxes import box_density

__all__ = ["box_density"]
