"""Saliency -> mesh, LZU eq. 1 and 2: sums over a Gaussian, which is a product of its factors in y and x.

So each sum over cells is one over rows, by `_rows_kernel`, then one over columns, by `_columns_kernel`; the gradient is
two of the same with the factors transposed. All arithmetic is float64, rounded once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastwarp.kernels.gpu._launch import cdiv, device_of

_FLOOR = 1e-6  # uniform saliency added to every map, relative to its mean
_TINY = 2.0**-962  # uniform saliency of an all-zero map
_RATE: tl.constexpr = tl.constexpr(2.772588722239781)  # 4 ln 2
_ROWS = {"ROWS": 16, "COLUMNS": 32}
_COLUMNS = {"ROWS": 16, "COLUMNS": 32}


@triton.jit
def _kernel(d, radius, fwhm):
    """exp(-4 ln2 d^2 / fwhm^2), 0 beyond the radius."""
    q = d.to(tl.float64) / fwhm
    return tl.where(tl.abs(d) <= radius, tl.exp(q * q * -_RATE), 0.0)


@triton.jit
def _attraction(i, j, n, radius, fwhm, ANTI_CROP: tl.constexpr):
    """What cell j of n gives to cell i over all its copies in the padding: weight, and weight times distance.

    i and j are integers or tensors of shapes that broadcast.
    """
    weight = _kernel(j - i, radius, fwhm)
    pull = weight * (j - i)
    if ANTI_CROP:
        before = tl.where(j > 0, _kernel(-j - i, radius, fwhm), 0.0)
        after = tl.where(j < n - 1, _kernel(2 * (n - 1) - j - i, radius, fwhm), 0.0)
        weight += before + after
        pull += before * (-j - i) + after * (2 * (n - 1) - j - i)
    else:
        for d in range(1, radius + 1):  # the copies of the first and the last cell
            before = tl.where(j == 0, _kernel(-d - i, radius, fwhm), 0.0)
            after = tl.where(j == n - 1, _kernel(n - 1 + d - i, radius, fwhm), 0.0)
            weight += before + after
            pull += before * (-d - i) + after * (n - 1 + d - i)
    return weight, pull


@triton.jit(do_not_specialize=["h", "w", "radius"])
def _rows_kernel(
    out_ptr,
    a_ptr,
    b_ptr,
    c_ptr,
    stride_b,
    h,
    w,
    radius,
    fwhm: tl.float64,
    ANTI_CROP: tl.constexpr,
    BACKWARD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (row i, block of columns, image): sums over rows j, to `out` `[2, B, h, w]`.

    Forward: weight and pull of saliency a. Backward, transposed: weight of a; weight of b and pull of c.
    """
    i, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    x = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first, second = tl.zeros([COLUMNS], tl.float64), tl.zeros([COLUMNS], tl.float64)
    for j0 in range(0, h, ROWS):
        j = j0 + tl.arange(0, ROWS)
        mask = (j < h)[:, None] & (x < w)[None, :]
        at = b * stride_b + j[:, None] * w + x[None, :]
        a = tl.load(a_ptr + at, mask=mask, other=0).to(tl.float64)
        if BACKWARD:
            weight, pull = _attraction(j, i, h, radius, fwhm, ANTI_CROP)
            second += tl.sum(tl.load(b_ptr + at, mask=mask, other=0) * weight[:, None], 0)
            second += tl.sum(tl.load(c_ptr + at, mask=mask, other=0) * pull[:, None], 0)
        else:
            weight, pull = _attraction(i, j, h, radius, fwhm, ANTI_CROP)
            a = tl.where(a < 0, 0.0, a)  # NaN stays
            second += tl.sum(a * pull[:, None], 0)
        first += tl.sum(a * weight[:, None], 0)
    size = tl.num_programs(2).to(tl.int64) * h * w
    at = b * h * w + i * w + x
    tl.store(out_ptr + at, first, mask=x < w)
    tl.store(out_ptr + size + at, second, mask=x < w)


@triton.jit
def _sum_of_row(i, n, radius, fwhm, ANTI_CROP: tl.constexpr, BLOCK: tl.constexpr):
    """Weight and pull of a map of ones."""
    total, pulled = tl.zeros([BLOCK], tl.float64), tl.zeros([BLOCK], tl.float64)
    for j0 in range(0, n, BLOCK):
        j = j0 + tl.arange(0, BLOCK)
        weight, pull = _attraction(i, j, n, radius, fwhm, ANTI_CROP)
        total += tl.where(j < n, weight, 0.0)
        pulled += tl.where(j < n, pull, 0.0)
    return tl.sum(total, 0), tl.sum(pulled, 0)


@triton.jit(do_not_specialize=["h", "w", "radius"])
def _columns_kernel(
    out_ptr,
    rows_ptr,
    floor_ptr,
    grad_ptr,
    h,
    w,
    radius,
    fwhm: tl.float64,
    ANTI_CROP: tl.constexpr,
    BACKWARD: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (row i, block of columns k, image): sums over columns j of what `_rows_kernel` left.

    Forward: the mesh `[B, h, w, 2]`; BACKWARD: what its gradient gives to pull x, pull y and weight, `[3, B, h, w]`.
    """
    i, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    size = tl.num_programs(2).to(tl.int64) * h * w
    k = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    row = b * h * w + i * w
    floor = tl.load(floor_ptr + b)
    whole, pulled = _sum_of_row(i, h, radius, fwhm, ANTI_CROP, COLUMNS)
    total, pull_x, pull_y = tl.zeros([ROWS], tl.float64), tl.zeros([ROWS], tl.float64), tl.zeros([ROWS], tl.float64)
    for j0 in range(0, w, COLUMNS):
        j = j0 + tl.arange(0, COLUMNS)
        weight, pull = _attraction(k[:, None], j[None, :], w, radius, fwhm, ANTI_CROP)
        mass = tl.load(rows_ptr + row + j, mask=j < w, other=0)
        mass_y = tl.load(rows_ptr + size + row + j, mask=j < w, other=0)
        mass, mass_y = tl.where(j < w, mass + floor * whole, 0.0), tl.where(j < w, mass_y + floor * pulled, 0.0)
        total += tl.sum(weight * mass[None, :], 1)
        pull_x += tl.sum(pull * mass[None, :], 1)
        pull_y += tl.sum(weight * mass_y[None, :], 1)
    total = tl.where(k < w, total, 1.0)
    pull_x, pull_y = pull_x / total, pull_y / total
    u, v = (k + pull_x) / (w - 1), (i + pull_y) / (h - 1)
    if ANTI_CROP:  # the outline stays exactly where it is
        u = tl.where((u == u) & ((k == 0) | (k == w - 1)), k / (w - 1), u)
        v = tl.where((v == v) & ((i == 0) | (i == h - 1)), i / (h - 1), v)
    at = row + k
    if BACKWARD:
        by_x = tl.load(grad_ptr + 2 * at, mask=k < w, other=0).to(tl.float64) / ((w - 1) * total)
        by_y = tl.load(grad_ptr + 2 * at + 1, mask=k < w, other=0).to(tl.float64) / ((h - 1) * total)
        by_x, by_y = tl.where((u < 0) | (u > 1), 0.0, by_x), tl.where((v < 0) | (v > 1), 0.0, by_y)
        tl.store(out_ptr + at, by_x, mask=k < w)
        tl.store(out_ptr + size + at, by_y, mask=k < w)
        tl.store(out_ptr + 2 * size + at, -by_x * pull_x - by_y * pull_y, mask=k < w)
    else:
        tl.store(out_ptr + 2 * at, tl.where(u < 0, 0.0, tl.where(u > 1, 1.0, u)), mask=k < w)
        tl.store(out_ptr + 2 * at + 1, tl.where(v < 0, 0.0, tl.where(v > 1, 1.0, v)), mask=k < w)


@triton.jit(do_not_specialize=["h", "w", "radius"])
def _cells_kernel(
    out_ptr,
    rows_ptr,
    h,
    w,
    radius,
    fwhm: tl.float64,
    ANTI_CROP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Program (row i, block of cells j, image): the gradient to the cells, `[B, h, w]`."""
    i, b = tl.program_id(0), tl.program_id(2).to(tl.int64)
    size = tl.num_programs(2).to(tl.int64) * h * w
    j = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    row = b * h * w + i * w
    by_cell = tl.zeros([ROWS], tl.float64)
    for k0 in range(0, w, COLUMNS):
        k = k0 + tl.arange(0, COLUMNS)
        weight, pull = _attraction(k[None, :], j[:, None], w, radius, fwhm, ANTI_CROP)
        pulled = tl.load(rows_ptr + row + k, mask=k < w, other=0)
        weighed = tl.load(rows_ptr + size + row + k, mask=k < w, other=0)
        by_cell += tl.sum(tl.where((k < w)[None, :], pull * pulled[None, :] + weight * weighed[None, :], 0.0), 1)
    tl.store(out_ptr + row + j, by_cell, mask=j < w)


def _floors(saliency: Tensor) -> Tensor:
    """Uniform saliency `[B]` of each map; NaN stays."""
    floor = saliency.double().clamp(min=0).mean((1, 2)) * _FLOOR
    return torch.where(floor <= _TINY, _TINY, floor)


def _rows(saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    batch, h, w = saliency.shape
    rows = torch.empty((2, batch, h, w), dtype=torch.float64, device=saliency.device)
    grid = (h, cdiv(w, _ROWS["COLUMNS"]), batch)
    args = (rows, saliency, saliency, saliency, h * w, h, w, min(h, w) - 1, fwhm)
    _rows_kernel[grid](*args, ANTI_CROP=anti_crop, BACKWARD=False, **_ROWS)
    return rows


def lz_mesh(saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    """Saliency `[B, h, w]` -> mesh `[B, h, w, 2]`."""
    saliency = saliency.contiguous()
    batch, h, w = saliency.shape
    mesh = torch.empty((*saliency.shape, 2), dtype=saliency.dtype, device=saliency.device)
    if batch == 0:
        return mesh
    with device_of(saliency):
        rows = _rows(saliency, fwhm, anti_crop)
        args = (mesh, rows, _floors(saliency), mesh, h, w, min(h, w) - 1, fwhm)
        grid = (h, cdiv(w, _COLUMNS["ROWS"]), batch)
        _columns_kernel[grid](*args, ANTI_CROP=anti_crop, BACKWARD=False, **_COLUMNS)
    return mesh


def lz_mesh_backward(grad: Tensor, saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    """Gradient to the saliency `[B, h, w]`."""
    grad, saliency = grad.contiguous(), saliency.contiguous()
    batch, h, w = saliency.shape
    if batch == 0:
        return torch.empty_like(saliency)
    radius = min(h, w) - 1
    floors = _floors(saliency)
    with device_of(saliency):
        rows = _rows(saliency, fwhm, anti_crop)
        by = torch.empty((3, batch, h, w), dtype=torch.float64, device=saliency.device)
        grid = (h, cdiv(w, _COLUMNS["ROWS"]), batch)
        args = (by, rows, floors, grad, h, w, radius, fwhm)
        _columns_kernel[grid](*args, ANTI_CROP=anti_crop, BACKWARD=True, **_COLUMNS)
        row_grid = (h, cdiv(w, _ROWS["COLUMNS"]), batch)
        _rows_kernel[row_grid](
            *(rows, by[0], by[2], by[1], h * w, h, w, radius, fwhm), ANTI_CROP=anti_crop, BACKWARD=True, **_ROWS
        )
        by_mass = torch.empty((batch, h, w), dtype=torch.float64, device=saliency.device)
        _cells_kernel[grid](by_mass, rows, h, w, radius, fwhm, ANTI_CROP=anti_crop, **_COLUMNS)
    by_mass += _FLOOR * by_mass.mean((1, 2), keepdim=True)
    seen = (floors != _TINY)[:, None, None] & ~(saliency < 0)  # an all-zero map has no derivative
    return torch.where(seen, by_mass, 0.0).to(saliency.dtype)
