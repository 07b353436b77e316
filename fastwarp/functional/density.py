"""Boxes to saliency, and to the knots of its warp: the kernel density estimate of FOVEA and LZU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import fastwarp.ops.density  # noqa: F401  (registers torch.ops.fastwarp)
from fastwarp._checks import LEAST, as_geometry, check_fwhm, check_memory, check_number, check_sides
from fastwarp._constants import constant
from fastwarp.errors import call, check_devices, check_tensor, fail

Boxes = Tensor | Sequence[Tensor]

_ops = torch.ops.fastwarp


def box_density(
    boxes: Boxes,
    image_size: tuple[int, int],
    shape: tuple[int, int] = (31, 51),
    amplitude: float | Tensor = 1.0,
    bandwidth: float | Tensor = 64.0,
    *,
    counts: Tensor | None = None,
) -> Tensor:
    """Saliency of images whose objects are known, e.g. from the detections of the previous frame.

    Box i with centre (cx, cy) and size (w, h) adds a Gaussian, whose *variance* grows with its size, and a uniform
    share. On the cells X = linspace(0, W, shape[1]), Y = linspace(0, H, shape[0]) and with p = min(shape) - 1:

        K_i = exp(-1/2 [(X - cx)^2 / (b w) + (Y - cy)^2 / (b h)])
        S   = sum_i [a K_i / (1e-5 + sum of K_i over the cells) + 1 / (2p + 1)^2]

    and S is divided by its sum. This is the estimate of FOVEA (Thavamani et al., ICCV 2021), which LZU ("Learning to
    Zoom and Unzoom", CVPR 2023, appendix A.6) takes over with a = 1, b = 64 and 31x51 cells. An image without boxes
    gets the uniform map, whose warp is the identity. A box that reaches past the image is neither cut off nor an error.
    Boxes thinner than 0.001 pixels count as that thin. Computed in float64, the same for any order of boxes but for
    rounding.

    Args:
        boxes: `[N, 4]` corners (x1, y1, x2, y2) of one image in continuous pixels (pixel i covers [i, i+1]), a list
            of such tensors, one per image, each with its own N, or padded boxes `[B, N, 4]`. Any real dtype. Not
            modified. On a GPU a list of different N copies the N there; padded boxes with `counts` need no copy.
        image_size: (H, W) of the images in pixels, each at least 2.
        shape: (h, w) of the map in cells, each at least 2.
        amplitude: a, weight of the Gaussians against the uniform share; not negative. A number, or a floating-point
            tensor, 0-dimensional or `[B]`.
        bandwidth: b, in pixels; positive. Likewise.
        counts: `[B]`, int32 or int64: of padded boxes, how many of each image's are boxes. The others are not looked
            at. None: all are.

    Returns:
        `[B, h, w]`, non-negative, each map sums to 1. Float32 (float64 for float64 boxes), on the boxes' device,
        twice differentiable with respect to boxes, amplitude and bandwidth.

    Raises:
        FastwarpError: boxes that are not `[N, 4]`, are inverted (x2 < x1), NaN or infinite; an empty list; sizes under
            2; a bad amplitude or bandwidth. Values of tensors are looked at on the CPU only, as looking would wait for
            a GPU: there NaN gives NaN.
        TypeError: boxes that are not real tensors, sizes that are not pairs of integers.

    Examples:
        >>> import torch
        >>> from fastwarp.saliency import box_density
        >>> box_density(torch.tensor([[40.0, 40.0, 60.0, 60.0]]), image_size=(100, 100), shape=(3, 3))
        tensor([[[0.0633, 0.1195, 0.0633],
                 [0.1195, 0.2686, 0.1195],
                 [0.0633, 0.1195, 0.0633]]])
    """
    arguments = _arguments("box_density", boxes, counts, amplitude, bandwidth, image_size, shape)
    padded = arguments[0]
    check_memory("box_density", "shape", tuple(shape), 8 * len(padded) * shape[0] * shape[1], padded.device)
    return call("box_density", _ops.density_map, *arguments)


def box_knots(
    boxes: Boxes,
    image_size: tuple[int, int],
    shape: tuple[int, int] = (31, 51),
    amplitude: float | Tensor = 1.0,
    bandwidth: float | Tensor = 64.0,
    fwhm: float = 13.0,
    anti_crop: bool = True,
    *,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Knots of the separable LZ warp of `box_density`, without making the map.

    The Gaussian of a box is a product, so that the map's marginals, all that a separable warp needs (LZU eq. 3 and 4),
    are sums over boxes of one factor times the sum of the other. One launch on a GPU. Equal to
    `functional.lz_knots(box_density(...), fwhm, anti_crop)` but for the rounding of the map.

    Args:
        boxes: see `box_density`, as are image_size, shape, amplitude, bandwidth and counts.
        image_size: (H, W) of the images in pixels.
        shape: (h, w), the numbers of cells and of knots.
        amplitude: a.
        bandwidth: b, in pixels.
        fwhm: full width at half maximum of the attraction kernel, in cells; see `fastwarp.functional.lz_knots`.
        anti_crop: reflect the marginals at their ends, so that nothing is cropped.
        counts: of padded boxes, how many are boxes.

    Returns:
        `knots_y [B, h]` and `knots_x [B, w]`, for `fastwarp.SeparableWarp`. Float32 (float64 for float64 boxes), twice
        differentiable with respect to boxes, amplitude and bandwidth.

    Raises:
        FastwarpError: see `box_density`; fwhm not positive.
        TypeError: see `box_density`.

    Examples:
        >>> import torch, fastwarp
        >>> from fastwarp.saliency import box_knots
        >>> boxes = torch.tensor([[300.0, 200.0, 340.0, 240.0]])
        >>> warp = fastwarp.SeparableWarp(*box_knots(boxes, image_size=(480, 640), bandwidth=16.0))
        >>> warp.zoom(torch.rand(1, 3, 480, 640), (240, 320)).shape
        torch.Size([1, 3, 240, 320])
    """
    arguments = _arguments("box_knots", boxes, counts, amplitude, bandwidth, image_size, shape)
    return call("box_knots", _ops.density_knots, *arguments, check_fwhm("box_knots", fwhm), bool(anti_crop))


def _arguments(
    function: str, boxes: Any, counts: Any, amplitude: Any, bandwidth: Any, image_size: Any, shape: Any
) -> tuple[Any, ...]:
    """What both ops take: padded boxes and counts, numbers as tensors or floats, sizes."""
    image_size, shape = check_sides(function, "image_size", image_size), check_sides(function, "shape", shape)
    if isinstance(boxes, Tensor) and boxes.dim() == 3:
        check_boxes(function, "boxes", boxes, "[B, N, 4]")
        padded = as_geometry(boxes)
        _check_counts(function, counts, padded)
    elif counts is not None:
        raise fail(function, "counts", "given", "none but with padded boxes [B, N, 4]")
    else:
        padded, counts = _padded(function, boxes)
    of_a, a = _number(function, "amplitude", amplitude, padded, 0.0, "")
    of_b, b = _number(function, "bandwidth", bandwidth, padded, LEAST, " of pixels")
    return padded, counts, of_a, of_b, a, b, *image_size, *shape


def _padded(function: str, boxes: Any) -> tuple[Tensor, Tensor | None]:
    """`[B, N, 4]` and, where images differ in N, the N as `[B]`, from one image's boxes or a list of several."""
    if isinstance(boxes, Tensor):
        check_boxes(function, "boxes", boxes, "[N, 4]")
        return as_geometry(boxes).unsqueeze(0), None
    if not isinstance(boxes, Sequence):
        raise TypeError(f"{function}: boxes is {type(boxes).__name__}, expected a tensor [N, 4] or a list of them")
    if not boxes:
        raise fail(function, "boxes", "an empty list", "one tensor [N, 4] per image")
    for i, one in enumerate(boxes):
        check_boxes(function, f"boxes[{i}]", one, "[N, 4]")
    check_devices(function, **{f"boxes[{i}]": one for i, one in enumerate(boxes)})
    dtype = torch.float64 if any(one.dtype == torch.float64 for one in boxes) else torch.float32
    rows, numbers = [one.to(dtype) for one in boxes], [one.shape[0] for one in boxes]
    if len(set(numbers)) == 1:
        return torch.stack(rows), None
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), constant(numbers, rows[0], torch.int64)


def check_boxes(function: str, name: str, boxes: Any, shape: str) -> None:
    """Raises unless `boxes` is a real tensor of this shape, whose last dimension is 4."""
    check_tensor(function, name, boxes, shape)
    if boxes.dtype == torch.bool or boxes.is_complex():
        raise TypeError(f"{function}: {name} has dtype {boxes.dtype}, expected real numbers")
    if boxes.shape[-1] != 4:
        raise fail(function, name, f"of shape {list(boxes.shape)}", shape)


def _check_counts(function: str, counts: Any, boxes: Tensor) -> None:
    if counts is None:
        return
    check_tensor(function, "counts", counts, "[B]", dtypes=(torch.int32, torch.int64))
    if counts.shape[0] != boxes.shape[0]:
        raise fail(function, "counts", f"of shape {list(counts.shape)}", f"[{boxes.shape[0]}], one per image")
    check_devices(function, counts=counts, boxes=boxes)


def _number(function: str, name: str, value: Any, boxes: Tensor, low: float, unit: str) -> tuple[Tensor | None, float]:
    """A tensor as `[1 or B]`, or None and a number of at least `low`."""
    if not isinstance(value, Tensor):
        return None, check_number(function, name, value, low, unit=unit)
    if not value.dtype.is_floating_point:
        raise TypeError(f"{function}: {name} is {value.dtype}, expected a number or a floating-point tensor")
    if value.dim() > 1 or (value.dim() == 1 and value.shape[0] != 1 and value.shape[0] != boxes.shape[0]):
        raise fail(function, name, f"of shape {list(value.shape)}", f"numbers{unit}, one or [{boxes.shape[0]}]")
    check_devices(function, boxes=boxes, **{name: value})
    return as_geometry(value.reshape(-1)), 0.0
