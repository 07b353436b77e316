"""Modules around the operators: `Zoom` and `Unzoom` by a warp. No mathematics of their own."""

from fastwarp.nn.warped import Unzoom, Zoom

__all__ = ["Unzoom", "Zoom"]
