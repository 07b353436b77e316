"""Compiling the kernels before they are needed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastwarp import saliency as saliency_sources
from fastwarp.functional import downsize
from fastwarp.warp import MeshWarp, SeparableWarp


def warmup(
    device: torch.device | str = "cpu",
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    *,
    backward: bool = True,
) -> None:
    """Compiles (or loads from the disk cache) every kernel that the given dtypes use, so that no first call waits for
    it. GPUs compile `downsize` for each number of channels and taps: here for those of `nn.DownsizeNet()`.

    Args:
        device: whose kernels.
        dtypes: of the images; knots are float32, with float64 images float64.
        backward: also the kernels of the backward pass.

    Examples:
        >>> import fastwarp
        >>> fastwarp.warmup(backward=False)
    """
    for dtype in dtypes:
        knots = torch.float64 if dtype == torch.float64 else torch.float32
        trainable = backward and dtype.is_floating_point
        saliency = torch.ones(2, 3, 3, dtype=knots, device=device, requires_grad=trainable)
        image = torch.ones(2, 2, 16, 16, device=device).to(dtype).requires_grad_(trainable)
        points = torch.ones(2, 1, 2, dtype=knots, device=device, requires_grad=trainable)
        boxes = torch.ones(2, 1, 4, dtype=knots, device=device, requires_grad=trainable)
        _finish(saliency_sources.box_density(boxes, (16, 16), (3, 3)), trainable)
        _finish(torch.cat(saliency_sources.box_knots(boxes, (16, 16), (3, 3))), trainable)
        for kind in (SeparableWarp, MeshWarp):
            for antialias in (False, True):
                warp = kind.from_saliency(saliency)
                small = warp.zoom(image, (12, 12), antialias=antialias)
                (back,) = warp.unzoom([small], antialias=antialias)
                _finish(back, trainable)
            nearest = warp.zoom(image, (12, 12), mode="nearest")
            _finish(warp.unzoom(nearest, mode="nearest"), trainable)
            _finish(warp.detach().unzoom_points(points, (16, 16), (12, 12)), trainable)
            if not trainable:
                frame = torch.zeros(2, 16, 16, 3, dtype=torch.uint8, device=device)
                warp.zoom_frame(frame, (12, 12))
        if dtype.is_floating_point:
            _finish(_downsized(image, trainable), trainable)


def _downsized(image: Tensor, trainable: bool) -> Tensor:
    """By what `nn.DownsizeNet()` has, without drawing random numbers for it."""
    colour = image.detach()[:, :1].expand(-1, 3, -1, -1).contiguous().requires_grad_(trainable)
    shapes = [(16, 3, 3, 3), (16, 16, 3, 3), (16, 16, 3, 3), (16,), (16,), (16,), (4, 20), (4,)]
    parameters = [torch.zeros(shape, device=image.device, requires_grad=trainable) for shape in shapes]
    return downsize(colour, parameters[:3], parameters[3:6], parameters[6], parameters[7], (8, 8))


def _finish(result: Tensor, trainable: bool) -> None:
    if trainable:
        result.float().sum().backward()
