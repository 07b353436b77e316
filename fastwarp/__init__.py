"""Fast, exact and differentiable zoom and unzoom operators for perception networks on small images.

`SeparableWarp` is where to start, `MeshWarp` its sibling for warps that are not separable; `fastwarp.functional` has
the same without state, `fastwarp.nn` as modules; `fastwarp.transforms` moves what lies on images in data pipelines.
`attach` puts zoom and unzoom into a network that one has already.
"""

from fastwarp import export, functional, nn, saliency, transforms
from fastwarp._backend import backend
from fastwarp._warmup import warmup
from fastwarp.attaching import Facts, Host, attach, detach
from fastwarp.errors import FastwarpError
from fastwarp.warp import MeshWarp, SeparableWarp

__version__ = "0.1.0"

__all__ = [
    "Facts",
    "FastwarpError",
    "Host",
    "MeshWarp",
    "SeparableWarp",
    "attach",
    "backend",
    "detach",
    "export",
    "functional",
    "nn",
    "saliency",
    "transforms",
    "warmup",
]
