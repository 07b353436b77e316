"""Saliency -> mesh, LZU eq. 1 and 2: sums over a Gaussian, which is a product of its factors in y and x."""

import numpy as np
from torch import Tensor

from fastwarp.kernels.cpu._memory import array
from fastwarp.kernels.cpu._parallel import inline, parallel, run

_FLOOR = 1e-6  # uniform saliency added to a map, relative to its mean
_TINY = 2.0**-962  # the same of an all-zero map


@inline
def _attraction(n, radius, fwhm, anti_crop):
    """What cell j gives to cell i over all its copies in the padding, `[n, n]`: weight, and weight times distance."""
    kernel = np.empty(radius + 1)
    for d in range(radius + 1):
        kernel[d] = 2.0 ** (-4 * (d / fwhm) ** 2)
    weight, pull = np.zeros((n, n)), np.zeros((n, n))
    for i in range(n):
        for d in range(-radius, radius + 1):
            j = i + d
            if anti_crop:
                j = abs(j)
                j = 2 * (n - 1) - j if j > n - 1 else j
            else:
                j = min(max(j, 0), n - 1)
            weight[i, j] += kernel[abs(d)]
            pull[i, j] += d * kernel[abs(d)]
    return weight, pull


@inline
def _add_product(a, b, scratch):
    """`scratch += a @ b`, in an order whose inner loop is a vector's."""
    for i in range(a.shape[0]):
        for k in range(a.shape[1]):
            factor = a[i, k]
            for j in range(b.shape[1]):
                scratch[i, j] += factor * b[k, j]


@inline
def _product(a, b):
    result = np.zeros((a.shape[0], b.shape[1]))
    _add_product(a, b, result)
    return result


@inline
def _attracted(saliency, weight_y, pull_y, weight_x, pull_x):
    """Sum of the weights around each cell, and by how many cells it is pulled along x and y; whether the map has a
    derivative."""
    h, w = saliency.shape
    mass, total = np.empty((h, w)), 0.0
    for i in range(h):
        for j in range(w):
            mass[i, j] = max(np.float64(saliency[i, j]), 0.0) if saliency[i, j] == saliency[i, j] else saliency[i, j]
            total += mass[i, j]
    floor = _FLOOR * total / (h * w)
    above = not floor <= _TINY
    mass += floor if above else _TINY
    rows = _product(mass, np.ascontiguousarray(weight_x.T))
    weights = _product(weight_y, rows)
    x = _product(weight_y, _product(mass, np.ascontiguousarray(pull_x.T))) / weights
    y = _product(pull_y, rows) / weights
    return weights, x, y, above


@parallel
def _lz_mesh(saliency, fwhm, anti_crop, mesh, part, parts):
    """Mesh `[B, h, w, 2]`, images shared out."""
    batch, h, w = saliency.shape
    radius = min(h, w) - 1
    weight_y, pull_y = _attraction(h, radius, fwhm, anti_crop)
    weight_x, pull_x = _attraction(w, radius, fwhm, anti_crop)
    for b in range(part * batch // parts, (part + 1) * batch // parts):
        _, x, y, _ = _attracted(saliency[b], weight_y, pull_y, weight_x, pull_x)
        for i in range(h):
            for j in range(w):
                u, v = (j + x[i, j]) / (w - 1), (i + y[i, j]) / (h - 1)
                if anti_crop:  # the outline stays exactly where it is
                    u = j / (w - 1) if (j == 0 or j == w - 1) and u == u else u
                    v = i / (h - 1) if (i == 0 or i == h - 1) and v == v else v
                mesh[b, i, j, 0] = min(max(u, 0.0), 1.0) if u == u else u
                mesh[b, i, j, 1] = min(max(v, 0.0), 1.0) if v == v else v


@parallel
def _lz_mesh_backward(grad, saliency, fwhm, anti_crop, result, part, parts):
    """Gradient to the saliency, images shared out."""
    batch, h, w = saliency.shape
    radius = min(h, w) - 1
    weight_y, pull_y = _attraction(h, radius, fwhm, anti_crop)
    weight_x, pull_x = _attraction(w, radius, fwhm, anti_crop)
    from_y, from_pull_y = np.ascontiguousarray(weight_y.T), np.ascontiguousarray(pull_y.T)
    for b in range(part * batch // parts, (part + 1) * batch // parts):
        weights, x, y, above = _attracted(saliency[b], weight_y, pull_y, weight_x, pull_x)
        by_x, by_y, by_weight = np.empty((h, w)), np.empty((h, w)), np.empty((h, w))
        for i in range(h):
            for j in range(w):
                u, v = (j + x[i, j]) / (w - 1), (i + y[i, j]) / (h - 1)
                by_x[i, j] = 0.0 if u < 0 or u > 1 else grad[b, i, j, 0] / ((w - 1) * weights[i, j])
                by_y[i, j] = 0.0 if v < 0 or v > 1 else grad[b, i, j, 1] / ((h - 1) * weights[i, j])
                by_weight[i, j] = -by_x[i, j] * x[i, j] - by_y[i, j] * y[i, j]
        by_mass = _product(_product(from_y, by_x), pull_x)
        rows = _product(from_y, by_weight)
        _add_product(from_pull_y, by_y, rows)
        _add_product(rows, weight_x, by_mass)
        share = _FLOOR * by_mass.sum() / (h * w)
        for i in range(h):
            for j in range(w):
                seen = above and not saliency[b, i, j] < 0
                result[b, i, j] = by_mass[i, j] + share if seen else 0.0


def _work(saliency: Tensor) -> int:
    """Of all images, in values: what each cell gives to its row and its column, three times."""
    return 3 * saliency.numel() * (saliency.shape[1] + saliency.shape[2])


def lz_mesh(saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    """Saliency `[B, h, w]` -> mesh `[B, h, w, 2]`; computed in float64, rounded once."""
    mesh = saliency.new_empty((*saliency.shape, 2))
    run(_lz_mesh, (array(saliency), fwhm, anti_crop, array(mesh)), _work(saliency))
    return mesh


def lz_mesh_backward(grad: Tensor, saliency: Tensor, fwhm: float, anti_crop: bool) -> Tensor:
    """Gradient to the saliency `[B, h, w]`."""
    result = saliency.new_empty(saliency.shape)
    run(_lz_mesh_backward, (array(grad), array(saliency), fwhm, anti_crop, array(result)), 2 * _work(saliency))
    return result
