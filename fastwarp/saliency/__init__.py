"""Where saliency comes from: maps `[B, h, w]` that say how densely each place of an image should be sampled."""

from fastwarp.functional.density import box_density, box_knots
from fastwarp.saliency.boxes_3d import project_boxes_3d
from fastwarp.saliency.files import Prior, load_prior, save_prior
from fastwarp.saliency.labels import boundary_density
from fastwarp.saliency.learned import LearnedSaliency
from fastwarp.saliency.perspective import PerspectivePrior, perspective_density, perspective_mesh
from fastwarp.saliency.temporal import AdaptiveSaliency, CascadeSchedule, FixedSaliency, jitter_boxes

__all__ = [
    "AdaptiveSaliency",
    "CascadeSchedule",
    "FixedSaliency",
    "LearnedSaliency",
    "PerspectivePrior",
    "Prior",
    "boundary_density",
    "box_density",
    "box_knots",
    "jitter_boxes",
    "load_prior",
    "perspective_density",
    "perspective_mesh",
    "project_boxes_3d",
    "save_prior",
]
