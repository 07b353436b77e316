"""Triton kernel of the `density` family: from the gradient to a map to boxes, amplitude and bandwidth."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._boxes import count_of, distances, gaussian, gaussian_sum, number_of, sides

_CELLS = 64


@triton.jit
def _axis_sums(
    by_density_ptr,
    by_own_ptr,
    stride,
    other_stride,
    centre,
    extent,
    other_centre,
    other_extent,
    other_total,
    of_other,
    bandwidth,
    n,
    size,
    other_n,
    other_size,
    CELLS: tl.constexpr,
):
    """Of a box's factor k with distances d and the gradient g to it: sums of k g, k d g, k d^2 g, k d and k d^2."""
    sum_g = tl.sum(tl.zeros([1], tl.float64), 0)
    sum_dg, sum_ddg, sum_d, sum_dd = sum_g, sum_g, sum_g, sum_g
    for c0 in range(0, n, CELLS):
        c = c0 + tl.arange(0, CELLS)
        away = distances(centre, c, n, size)
        factor = tl.sum(gaussian(away, extent, bandwidth, c, n), 0)
        away = tl.sum(away, 0)
        if by_density_ptr is None:
            g = tl.load(by_own_ptr + c, mask=c < n, other=0) * other_total + of_other
        else:
            g = tl.zeros([CELLS], tl.float64)
            for o0 in range(0, other_n, 16):
                o = o0 + tl.arange(0, 16)
                other = tl.sum(
                    gaussian(distances(other_centre, o, other_n, other_size), other_extent, bandwidth, o, other_n), 0
                )
                offset = c[:, None].to(tl.int64) * stride + o[None, :].to(tl.int64) * other_stride
                tile = tl.load(by_density_ptr + offset, mask=(c < n)[:, None] & (o < other_n)[None, :], other=0)
                g += tl.sum(tile * other[None, :], 1)
        sum_g += tl.sum(factor * g, 0)
        sum_dg += tl.sum(factor * away * g, 0)
        sum_ddg += tl.sum(factor * away * away * g, 0)
        sum_d += tl.sum(factor * away, 0)
        sum_dd += tl.sum(factor * away * away, 0)
    return sum_g, sum_dg, sum_ddg, sum_d, sum_dd


@triton.jit
def _response(by_ptr, centre, extent, bandwidth, n, size, CELLS: tl.constexpr):
    """Sum of a factor times the gradient to its marginal."""
    total = tl.sum(tl.zeros([1], tl.float64), 0)
    for c0 in range(0, n, CELLS):
        c = c0 + tl.arange(0, CELLS)
        factor = tl.sum(gaussian(distances(centre, c, n, size), extent, bandwidth, c, n), 0)
        total += tl.sum(factor * tl.load(by_ptr + c, mask=c < n, other=0), 0)
    return total


@triton.jit
def _store_sides(out_ptr, first, second, variance, bandwidth, extent, thin, valid):
    """Gradients to the two sides of a box; returns that to the bandwidth."""
    by_centre = first / variance
    by_variance = 0.5 * second / (variance * variance)
    by_extent = tl.where(thin, 0.0, by_variance * bandwidth)
    tl.store(out_ptr, tl.where(valid, 0.5 * by_centre - by_extent, 0.0))
    tl.store(out_ptr + 2, tl.where(valid, 0.5 * by_centre + by_extent, 0.0))
    return by_variance * extent


@triton.jit(do_not_specialize=["boxes", "height", "width", "h", "w", "stride_a", "stride_b"])
def _density_backward_kernel(
    by_boxes_ptr,
    by_a_ptr,
    by_b_ptr,
    by_density_ptr,
    by_y_ptr,
    by_x_ptr,
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
    CELLS: tl.constexpr,
):
    """Program (box, image), from the gradient to the map before its division: `by_density[r, c]`, or where there is no
    map, `by_y[r] + by_x[c]`. Gradients to the numbers are written for each box."""
    i, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    valid = i < count_of(counts_ptr, image, boxes)
    bandwidth = number_of(bandwidth_ptr, b, image, stride_b)
    boxes_ptr += image * boxes * 4
    one = i + tl.zeros([1], tl.int32)
    centre_y, extent_y, thin_y = sides(boxes_ptr, one, valid, 1)
    centre_x, extent_x, thin_x = sides(boxes_ptr, one, valid, 0)
    total_y = tl.sum(gaussian_sum(centre_y, extent_y, bandwidth, h, height, CELLS), 0)
    total_x = tl.sum(gaussian_sum(centre_x, extent_x, bandwidth, w, width, CELLS), 0)
    of_y, of_x = total_y, total_x  # replaced, or not read
    if by_density_ptr is None:
        by_y_ptr += image * h
        by_x_ptr += image * w
        of_y = _response(by_y_ptr, centre_y, extent_y, bandwidth, h, height, CELLS)
        of_x = _response(by_x_ptr, centre_x, extent_x, bandwidth, w, width, CELLS)
    else:
        by_density_ptr += image * h * w
    y, y_dg, y_ddg, y_d, y_dd = _axis_sums(
        *(by_density_ptr, by_y_ptr, w, 1, centre_y, extent_y, centre_x, extent_x, total_x, of_x),
        *(bandwidth, h, height, w, width, CELLS),
    )
    _, x_dg, x_ddg, x_d, x_dd = _axis_sums(
        *(by_density_ptr, by_x_ptr, 1, w, centre_x, extent_x, centre_y, extent_y, total_y, of_y),
        *(bandwidth, w, width, h, height, CELLS),
    )
    norm = 1.0 / (1e-5 + total_y * total_x)
    response = y * norm
    scale = number_of(amplitude_ptr, a, image, stride_a) * norm
    by_boxes_ptr += (image * boxes + i) * 4
    extent_y, extent_x = tl.sum(extent_y, 0), tl.sum(extent_x, 0)
    thin_y, thin_x = tl.sum(thin_y.to(tl.int32), 0) > 0, tl.sum(thin_x.to(tl.int32), 0) > 0
    first, second = scale * (y_dg - response * total_x * y_d), scale * (y_ddg - response * total_x * y_dd)
    by_b = _store_sides(by_boxes_ptr + 1, first, second, bandwidth * extent_y, bandwidth, extent_y, thin_y, valid)
    first, second = scale * (x_dg - response * total_y * x_d), scale * (x_ddg - response * total_y * x_dd)
    by_b += _store_sides(by_boxes_ptr, first, second, bandwidth * extent_x, bandwidth, extent_x, thin_x, valid)
    tl.store(by_a_ptr + image * boxes + i, tl.where(valid, response, 0.0))
    tl.store(by_b_ptr + image * boxes + i, tl.where(valid, by_b, 0.0))


def density_gradient(
    by_density: Tensor | None, by_y: Tensor | None, by_x: Tensor | None, arguments: tuple[Any, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients to boxes `[B, N, 4]`, amplitude and bandwidth `[B]`.

    Args:
        by_density: gradient to the map before its division `[B, h, w]`, float64, or None.
        by_y: or those to its marginals, `[B, h]`.
        by_x: `[B, w]`.
        arguments: of the kernel, from `boxes_ptr` on.
    """
    boxes = arguments[0]
    by_boxes = torch.empty_like(boxes)
    by_a, by_b = (boxes.new_empty(boxes.shape[:2], dtype=torch.float64) for _ in range(2))
    if by_a.numel():
        _density_backward_kernel[(boxes.shape[1], boxes.shape[0])](
            *(by_boxes, by_a, by_b, by_density, by_y, by_x, *arguments),
            CELLS=_CELLS,
            num_warps=1 if by_density is None else 4,
        )
    return by_boxes, by_a.sum(1).to(boxes.dtype), by_b.sum(1).to(boxes.dtype)
