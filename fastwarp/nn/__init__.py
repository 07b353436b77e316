"""Modules around the operators: `Zoom` and `Unzoom` by a warp, `DownsizeNet` by learned weights. No mathematics of
their own."""

from fastwarp.nn.downsize import DownsizeNet
from fastwarp.nn.warped import Unzoom, Zoom

__all__ = ["DownsizeNet", "Unzoom", "Zoom"]
