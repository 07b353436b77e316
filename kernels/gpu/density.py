"""Triton kernels of the `density` family: boxes -> saliency, and boxes -> marginals, which the `axis` family takes.

All arithmetic is float64, rounded once at the end. For the saliency, what several programs need of the same boxes each
computes by itself: a hundred boxes cost it some microseconds, less than another launch.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._boxes import count_of, distances, gaussian, gaussian_sum, number_of, sides
from fastwarp.kernels.gpu._density_gradient import density_gradient
from fastwarp.kernels.gpu._launch import INTERPRETED, cdiv, device_of
from fastwarp.kernels.gpu._lz import lz_knots, lz_knots_backward

# Boxes in rows, cells in columns: a usual axis (51 cells) is one tile.
_BLOCKS = {"BOXES": 16, "CELLS": 64}
_MARGINALS = {"BOXES": 32 if INTERPRETED else 8, "CELLS": 64}


@triton.jit
def _uniform(count, h, w):
    padded = (2 * tl.minimum(h, w) - 1).to(tl.float64)
    return count / (padded * padded)


# --- boxes -> marginals -----------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["boxes", "height", "width", "h", "w", "stride_a", "stride_b"])
def _marginals_kernel(
    out_ptr,
    boxes_ptr,
    counts_ptr,
    amplitude_ptr,
    bandwidth_ptr,
    a: tl.float64,
    b: tl.float64,
    stride_a,
    stride_b,
    boxes,
    height,
    width,
    h,
    w,
    BOXES: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Program (block of boxes, axis y or x, image): their share of the marginal of that axis.

    `out_ptr` is [image, block, h + w]. Marginals are not divided by the sum of the map: knots do not depend on it.
    """
    image = tl.program_id(2).to(tl.int64)
    boxes_ptr += image * boxes * 4
    count = count_of(counts_ptr, image, boxes)
    amplitude = number_of(amplitude_ptr, a, image, stride_a)
    bandwidth = number_of(bandwidth_ptr, b, image, stride_b)
    out_ptr += (image * tl.num_programs(0) + tl.program_id(0)) * (h + w)
    axis, n, size, other_n, other_size = 1, h, height, w, width
    if tl.program_id(1) == 1:
        axis, n, size, other_n, other_size = 0, w, width, h, height
        out_ptr += h
    i = tl.program_id(0) * BOXES + tl.arange(0, BOXES)
    centre, extent, _ = sides(boxes_ptr, i, i < count, axis)
    other_centre, other_extent, _ = sides(boxes_ptr, i, i < count, 1 - axis)
    other = gaussian_sum(other_centre, other_extent, bandwidth, other_n, other_size, CELLS)
    norm = 1e-5 + gaussian_sum(centre, extent, bandwidth, n, size, CELLS) * other
    weight = tl.where(i < count, amplitude * other / norm, 0.0)
    uniform = tl.where(tl.program_id(0) == 0, _uniform(count, h, w) * other_n, 0.0)
    for c0 in range(0, n, CELLS):
        c = c0 + tl.arange(0, CELLS)
        factor = gaussian(distances(centre, c, n, size), extent, bandwidth, c, n)
        tl.store(out_ptr + c, uniform + tl.sum(weight[:, None] * factor, 0), mask=c < n)


# --- boxes -> saliency ------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["boxes", "height", "width", "h", "w", "stride_a", "stride_b"])
def _density_map_kernel(
    out_ptr,
    total_ptr,
    boxes_ptr,
    counts_ptr,
    amplitude_ptr,
    bandwidth_ptr,
    a: tl.float64,
    b: tl.float64,
    stride_a,
    stride_b,
    boxes,
    height,
    width,
    h,
    w,
    BOXES: tl.constexpr,
    CELLS: tl.constexpr,
):
    """Program (row, image). Each finds the sum of the whole map, which the first writes where `total_ptr` is given."""
    r, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    boxes_ptr += image * boxes * 4
    count = count_of(counts_ptr, image, boxes)
    amplitude = number_of(amplitude_ptr, a, image, stride_a)
    bandwidth = number_of(bandwidth_ptr, b, image, stride_b)
    uniform = _uniform(count, h, w)
    row = r + tl.zeros([1], tl.int32)
    for c0 in range(0, w, CELLS):
        c = c0 + tl.arange(0, CELLS)
        density = tl.zeros([CELLS], tl.float64) + uniform
        mass = tl.zeros([BOXES], tl.float64)
        for i0 in range(0, count, BOXES):
            i = i0 + tl.arange(0, BOXES)
            centre_y, extent_y, _ = sides(boxes_ptr, i, i < count, 1)
            centre_x, extent_x, _ = sides(boxes_ptr, i, i < count, 0)
            total = gaussian_sum(centre_y, extent_y, bandwidth, h, height, CELLS)
            total *= gaussian_sum(centre_x, extent_x, bandwidth, w, width, CELLS)
            weight = tl.where(i < count, amplitude / (1e-5 + total), 0.0)
            mass += weight * total
            weight *= tl.sum(gaussian(distances(centre_y, row, h, height), extent_y, bandwidth, row, h), 1)
            density += tl.sum(
                weight[:, None] * gaussian(distances(centre_x, c, w, width), extent_x, bandwidth, c, w), 0
            )
        sum_of_map = tl.sum(mass, 0) + uniform * h * w
        value = tl.where(count == 0, 1.0 / (h * w).to(tl.float64), density / tl.where(count == 0, 1.0, sum_of_map))
        tl.store(out_ptr + (image * h + r) * w + c, value, mask=c < w)
        if total_ptr is not None:
            tl.store(total_ptr + image, sum_of_map, mask=(r == 0) & (c0 == 0))


# --- launchers --------------------------------------------------------------------------------------------------------


def _arguments(
    boxes: Tensor, counts: Tensor | None, amplitude: Tensor | None, bandwidth: Tensor | None, a: float, b: float
) -> tuple[Any, ...]:
    strides = (0 if t is None or t.shape[0] == 1 else t.stride(0) for t in (amplitude, bandwidth))
    counts = None if counts is None else counts.contiguous()
    return (boxes.contiguous(), counts, amplitude, bandwidth, a, b, *strides, boxes.shape[1])


def density_map(
    boxes: Tensor,
    counts: Tensor | None,
    amplitude: Tensor | None,
    bandwidth: Tensor | None,
    a: float,
    b: float,
    height: int,
    width: int,
    h: int,
    w: int,
) -> Tensor:
    """Saliency `[B, h, w]` of boxes `[B, N, 4]`; see `fastwarp.kernels.cpu.density` for the arguments. Values are not
    looked at: NaN gives NaN."""
    result = boxes.new_empty(boxes.shape[0], h, w)
    arguments = (*_arguments(boxes, counts, amplitude, bandwidth, a, b), height, width, h, w)
    with device_of(boxes):
        _launch_map(result, None, arguments)
    return result


def _launch_map(result: Tensor, total: Tensor | None, arguments: tuple[Any, ...]) -> None:
    if result.shape[0]:
        _density_map_kernel[(result.shape[1], result.shape[0])](result, total, *arguments, **_BLOCKS, num_warps=4)


def density_knots(
    boxes: Tensor,
    counts: Tensor | None,
    amplitude: Tensor | None,
    bandwidth: Tensor | None,
    a: float,
    b: float,
    height: int,
    width: int,
    h: int,
    w: int,
    fwhm: float,
    anti_crop: bool,
) -> tuple[Tensor, Tensor]:
    """Knots `[B, h]`, `[B, w]` of the separable LZ warp of `density_map`, without the map."""
    arguments = (*_arguments(boxes, counts, amplitude, bandwidth, a, b), height, width, h, w)
    with device_of(boxes):
        return lz_knots(*_marginals(arguments), fwhm, anti_crop, boxes.dtype)


def _marginals(arguments: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    """Marginals `[B, h, shares]`, `[B, w, shares]`, to be summed over the shares."""
    boxes, h, w = arguments[0], *arguments[-2:]
    shares = max(cdiv(boxes.shape[1], _MARGINALS["BOXES"]), 1)
    out = boxes.new_empty(len(boxes), shares, h + w, dtype=torch.float64)
    if len(boxes):
        _marginals_kernel[(shares, 2, len(boxes))](out, *arguments, **_MARGINALS)
    return out[:, :, :h].mT, out[:, :, h:].mT


def density_map_backward(
    grad: Tensor,
    boxes: Tensor,
    counts: Tensor | None,
    amplitude: Tensor | None,
    bandwidth: Tensor | None,
    a: float,
    b: float,
    height: int,
    width: int,
    h: int,
    w: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to the boxes, and to every image's amplitude and bandwidth `[B]`."""
    arguments = (*_arguments(boxes, counts, amplitude, bandwidth, a, b), height, width, h, w)
    saliency, total = grad.new_empty(grad.shape, dtype=torch.float64), grad.new_empty(len(grad), dtype=torch.float64)
    with device_of(boxes):
        _launch_map(saliency, total, arguments)
        grad = grad.double()
        mean = (grad * saliency).sum((1, 2), keepdim=True)
        # An image without boxes has the sum 0 and no gradients, whatever this is for it.
        return density_gradient(((grad - mean) / total[:, None, None]).contiguous(), None, None, arguments)


def density_knots_backward(
    grad_y: Tensor,
    grad_x: Tensor,
    boxes: Tensor,
    counts: Tensor | None,
    amplitude: Tensor | None,
    bandwidth: Tensor | None,
    a: float,
    b: float,
    height: int,
    width: int,
    h: int,
    w: int,
    fwhm: float,
    anti_crop: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to the boxes, and to every image's amplitude and bandwidth `[B]`."""
    arguments = (*_arguments(boxes, counts, amplitude, bandwidth, a, b), height, width, h, w)
    with device_of(boxes):
        by_y, by_x = lz_knots_backward(grad_y, grad_x, *_marginals(arguments), fwhm, anti_crop)
        return density_gradient(None, by_y, by_x, arguments)
