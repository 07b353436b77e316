"""Warps: knots or meshes, and what can be done with them."""

from fastwarp.warp.frozen import FrozenWarp
from fastwarp.warp.mesh import MeshWarp
from fastwarp.warp.separable import SeparableWarp

__all__ = ["FrozenWarp", "MeshWarp", "SeparableWarp"]
