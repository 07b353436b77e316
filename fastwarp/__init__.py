"""Fast, exact and differentiable zoom and unzoom operators for perception networks on small images.

`SeparableWarp` is where to start; `fastwarp.functional` has the same without state, `fastwarp.nn` as modules.
"""

from fastwarp import functional, nn, saliency
from fastwarp._backend import backend
from fastwarp._warmup import warmup
from fastwarp.errors import FastwarpError
from fastwarp.warp import SeparableWarp

__version__ = "0.1.0"

__all__ = ["FastwarpError", "SeparableWarp", "backend", "functional", "nn", "saliency", "warmup"]
