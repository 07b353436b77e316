"""Saliency from bounding boxes: the kernel density estimate of FOVEA and LZU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastwarp.errors import check_devices, check_size, check_tensor, fail

SMALLEST = 1e-3
"""Boxes thinner than this, in pixels, count as this thin: a zero-size box has no 0/0 at a cell it hits exactly."""


def box_density(
    boxes: Tensor | Sequence[Tensor],
    image_size: tuple[int, int],
    shape: tuple[int, int] = (31, 51),
    amplitude: float = 1.0,
    bandwidth: float = 64.0,
) -> Tensor:
    """Saliency of images whose objects are known, e.g. from the detections of the previous frame.

    Box i with centre (cx, cy) and size (w, h) adds a Gaussian, whose *variance* grows with its size, and a uniform
    share. On the cells X = linspace(0, W, shape[1]), Y = linspace(0, H, shape[0]) and with p = min(shape) - 1:

        K_i = exp(-1/2 [(X - cx)^2 / (b w) + (Y - cy)^2 / (b h)])
        S   = sum_i [a K_i / (1e-5 + sum of K_i over the cells) + 1 / (2p + 1)^2]

    and S is divided by its sum. This is the estimate of FOVEA (Thavamani et al., ICCV 2021), which LZU ("Learning to
    Zoom and Unzoom", CVPR 2023, appendix A.6) takes over with a = 1, b = 64 and 31x51 cells. An image without boxes
    gets the uniform map, whose warp is the identity. A box that reaches past the image is neither cut off nor an error.

    Args:
        boxes: `[N, 4]` corners (x1, y1, x2, y2) of one image in continuous pixels (pixel i covers [i, i+1]), or a list
            of such tensors, one per image, each with its own N. Any real dtype. Not modified.
        image_size: (H, W) of the images in pixels, each at least 2.
        shape: (h, w) of the map in cells, each at least 2.
        amplitude: a, weight of the Gaussians against the uniform share; not negative.
        bandwidth: b, in pixels; positive.

    Returns:
        `[B, h, w]`, non-negative, each map sums to 1. Float32 (float64 for float64 boxes), on the boxes' device,
        differentiable with respect to the boxes.

    Raises:
        FastwarpError: boxes that are not `[N, 4]`, are inverted (x2 < x1), NaN or infinite (the values are looked at on
            the CPU only, as looking would wait for a GPU); an empty list; sizes under 2; a bad amplitude or bandwidth.
        TypeError: boxes that are not real tensors, sizes that are not pairs of integers.

    Example:
        >>> import torch
        >>> from fastwarp.saliency import box_density
        >>> box_density(torch.tensor([[40.0, 40.0, 60.0, 60.0]]), image_size=(100, 100), shape=(3, 3))
        tensor([[[0.0633, 0.1195, 0.0633],
                 [0.1195, 0.2686, 0.1195],
                 [0.0633, 0.1195, 0.0633]]])
    """
    for name, pair in (("image_size", image_size), ("shape", shape)):
        if min(check_size("box_density", name, pair)) < 2:
            raise fail("box_density", name, tuple(pair), "a height and a width of at least 2")
    if not amplitude >= 0:
        raise fail("box_density", "amplitude", amplitude, "a number that is not negative")
    if not bandwidth > 0:
        raise fail("box_density", "bandwidth", bandwidth, "a positive number of pixels")
    if isinstance(boxes, Tensor):
        images = {"boxes": boxes}
    elif isinstance(boxes, Sequence):
        images = {f"boxes[{i}]": one for i, one in enumerate(boxes)}
    else:
        raise TypeError(f"box_density: boxes is {type(boxes).__name__}, expected a tensor [N, 4] or a list of them")
    if not images:
        raise fail("box_density", "boxes", "an empty list", "one tensor [N, 4] per image")
    for name, one in images.items():
        _check_boxes(name, one)
    check_devices("box_density", **images)
    return torch.stack([_density(one, image_size, shape, amplitude, bandwidth) for one in images.values()])


def _density(
    boxes: Tensor, image_size: tuple[int, int], shape: tuple[int, int], amplitude: float, bandwidth: float
) -> Tensor:
    boxes = boxes.to(torch.float64 if boxes.dtype == torch.float64 else torch.float32)
    if len(boxes) == 0:
        return boxes.new_full(shape, 1 / (shape[0] * shape[1]))
    # K_i is a product of a factor in x and a factor in y, and so is its sum over the cells.
    factors = []
    for axis, cells in ((1, shape[0]), (0, shape[1])):
        low, high = boxes[:, axis], boxes[:, axis + 2]
        centre, extent = (low + high) / 2, (high - low).clamp(min=SMALLEST)
        cell = torch.linspace(0, image_size[1 - axis], cells, dtype=boxes.dtype, device=boxes.device)
        factors.append(torch.exp(-0.5 * (cell - centre[:, None]) ** 2 / (bandwidth * extent)[:, None]))
    y, x = factors
    weight = amplitude / (1e-5 + y.sum(1) * x.sum(1))
    background = len(boxes) / (2 * min(shape) - 1) ** 2
    density = (y * weight[:, None]).T @ x + background
    return density / density.sum()


def _check_boxes(name: str, boxes: Tensor) -> None:
    check_tensor("box_density", name, boxes, "[N, 4]")
    if boxes.dtype == torch.bool or boxes.is_complex():
        raise TypeError(f"box_density: {name} has dtype {boxes.dtype}, expected real numbers")
    if boxes.shape[1] != 4:
        raise fail("box_density", name, f"of shape {list(boxes.shape)}", "[N, 4]")
    if boxes.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if not boxes.isfinite().all():
        raise fail("box_density", name, "NaN or infinite in places", "finite coordinates")
    if (boxes[:, 2:] < boxes[:, :2]).any():
        raise fail("box_density", name, "inverted in places", "(x1, y1, x2, y2) with x1 <= x2 and y1 <= y2")
