"""The one table of tolerances: how far a kernel may be from the float64 reference.

A bound is a pair (RMS, maximum) of errors. Errors of geometry (positions in [0, 1], pixels) are relative to the value,
to 1 where it is smaller; all others are relative to the largest value of the tensor. Loosening an entry needs its
reason, with the measurement, in the commit message.
"""

from typing import Any, NamedTuple

import numpy as np
import torch


class Bound(NamedTuple):
    rms: float
    max: float


EPS16, EPSB, EPS32, EPS64 = 2.0**-11, 2.0**-8, 2.0**-24, 2.0**-53
"""Half a unit in the last place, relative: what rounding once costs at most (its RMS is about 0.4 of it)."""

GEOMETRY = ("knots", "positions", "windows", "mesh_positions", "mesh_targets", "mesh_map")

F16, BF16, F32, F64, U8 = torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8

TABLE: dict[str, dict[torch.dtype, Bound]] = {
    # Computed in float64 and rounded once, so fp32 has nothing but that rounding. In float64, sums over at most 2*p + 1
    # cells in another order than the reference's matrix product.
    "knots": {F32: Bound(0.6 * EPS32, 1.01 * EPS32), F64: Bound(4 * EPS64, 30 * EPS64)},
    # Closed expressions of two knots, a few roundings; the slope of a steep piece multiplies them.
    "positions": {F32: Bound(0.6 * EPS32, 1.01 * EPS32), F64: Bound(4 * EPS64, 20 * EPS64)},
    # As positions, times the extent of the source in pixels; half-widths are differences of such centres.
    "windows": {F32: Bound(0.6 * EPS32, 1.01 * EPS32), F64: Bound(8 * EPS64, 30 * EPS64)},
    # As geometry_grad below, but where a kernel sees nothing except the floor of 1e-6 the terms are as much larger,
    # and the reference, which takes differences of positions, loses more of them than the kernels do.
    "saliency_grad": {F32: Bound(0.8 * EPS32, 1.01 * EPS32), F64: Bound(6e4 * EPS64, 4e5 * EPS64)},
    # Sums in float64 over the targets; rounded once in fp32.
    "geometry_grad": {F32: Bound(0.8 * EPS32, 1.01 * EPS32), F64: Bound(30 * EPS64, 200 * EPS64)},
    # Sums over boxes in float64, rounded once in fp32 (a uniform map has all cells alike, so the RMS is no smaller). A
    # cell of a narrow Gaussian loses as many units in the last place as its exponent is large.
    "density": {F32: Bound(1.01 * EPS32, 1.01 * EPS32), F64: Bound(100 * EPS64, 1000 * EPS64)},
    "density_grad": {F32: Bound(1.01 * EPS32, 1.01 * EPS32), F64: Bound(100 * EPS64, 1000 * EPS64)},
    # T~ at a grid, in source pixels: four vertices, whose sizes are the terms also where little is left of them.
    "mesh_positions": {F32: Bound(0.6 * EPS32, 1.01 * EPS32), F64: Bound(20 * EPS64, 400 * EPS64)},
    # How far a target is from where T~ maps its preimage, in targets. fp32 counts to 2**-11; the promise is 2e-3.
    "mesh_targets": {F32: Bound(1e-4, 2e-3), F64: Bound(1e-12, 1e-10)},
    # T~ and where it maps what T~^-1 found, in [0, 1].
    "mesh_map": {F32: Bound(1 * EPS32, 4 * EPS32), F64: Bound(20 * EPS64, 200 * EPS64)},
    # Sums in float64 over the targets; what the inverse of a narrow tile's Jacobian multiplies is larger than the sum.
    "mesh_grad": {F32: Bound(0.8 * EPS32, 1.01 * EPS32), F64: Bound(6e3 * EPS64, 1e5 * EPS64)},
    # Weights rounded to the type that accumulates (fp32 for half precision), sums over the taps of two axes, and
    # one rounding to the result's type. uint8 is measured in its units: half of one, and what fp32 leaves at ties.
    "image": {
        F16: Bound(0.6 * EPS16, 1.01 * EPS16),
        BF16: Bound(0.6 * EPSB, 1.01 * EPSB),
        F32: Bound(2 * EPS32, 20 * EPS32),
        F64: Bound(2 * EPS64, 20 * EPS64),
        U8: Bound(0.5, 0.5 + 5e-4),
    },
    # Weighted sums as those of images, by coefficients of z: that is up to 14 (the logit of 1e-6), so rounding it once
    # moves a coefficient by 14 times as much, and it sums hundreds of products, a layer after another.
    "downsized": {
        F16: Bound(0.6 * EPS16, 1.01 * EPS16),
        BF16: Bound(0.6 * EPSB, 1.01 * EPSB),
        F32: Bound(6 * EPS32, 40 * EPS32),
        F64: Bound(6 * EPS64, 40 * EPS64),
    },
    # Its gradients: sums over all targets and channels of products that are a few roundings off; in float64 the
    # reference is as far off. Those to the image are rounded once to its type.
    "downsize_grad": {
        F16: Bound(0.6 * EPS16, 1.01 * EPS16),
        BF16: Bound(0.6 * EPSB, 1.01 * EPSB),
        F32: Bound(10 * EPS32, 50 * EPS32),
        F64: Bound(30 * EPS64, 100 * EPS64),
    },
    # On tensor cores, both ways: half precision rounds weights, maps and features too, some twenty values that meet in
    # a coefficient.
    "downsize_products": {
        F16: Bound(1.5 * EPS16, 6 * EPS16),
        BF16: Bound(1.5 * EPSB, 6 * EPSB),
        F32: Bound(20 * EPS32, 100 * EPS32),
        F64: Bound(20 * EPS64, 100 * EPS64),
    },
    # Factors of gradients are rounded to TF32 besides, a float16 there, two per layer on the way back; of an image of
    # two pixels the two terms of a sum nearly cancel.
    "downsize_gradients": {
        F16: Bound(4 * EPS16, 10 * EPS16),
        BF16: Bound(1.5 * EPSB, 6 * EPSB),
        F32: Bound(20 * EPS32, 100 * EPS32),
        F64: Bound(20 * EPS64, 100 * EPS64),
    },
    # The same sums transposed: as many terms as targets touch a pixel, all of them where a warp stands still. Relative
    # to the sum of the terms' absolute values.
    "image_grad": {
        F16: Bound(0.6 * EPS16, 1.01 * EPS16),
        BF16: Bound(0.6 * EPSB, 1.01 * EPSB),
        F32: Bound(2 * EPS32, 10 * EPS32),
        F64: Bound(2 * EPS64, 10 * EPS64),
    },
    # Differences of neighbouring pixels, summed over rows, columns and channels in the type that accumulates, whatever
    # the image's. Relative to what the sum would be if all terms had one sign.
    "windows_grad": {
        F16: Bound(3 * EPS32, 15 * EPS32),
        BF16: Bound(3 * EPS32, 15 * EPS32),
        F32: Bound(3 * EPS32, 15 * EPS32),
        F64: Bound(3 * EPS64, 15 * EPS64),
    },
}


def _array(value: Any) -> np.ndarray:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().double().numpy()
    return np.asarray(value, np.float64)


def errors(reference: Any, value: Any, dtype: torch.dtype, quantity: str, terms: float = 0.0) -> tuple[float, float]:
    """RMS and maximum of the errors of the finite entries, as the table measures them; NaN and infinities must agree.

    Args:
        reference: what is right, float64.
        value: what is judged, of the same shape.
        dtype: column of the table.
        quantity: row of the table.
        terms: size of the terms that were summed, where they can be larger than every sum.
    """
    reference, value = _array(reference), _array(value)
    assert reference.shape == value.shape
    finite = np.isfinite(reference)
    np.testing.assert_array_equal(value[~finite], reference[~finite])
    assert np.isfinite(value[finite]).all(), f"{quantity}: not finite where the reference is"
    if not finite.any():
        return 0.0, 0.0
    magnitude = np.abs(reference[finite])
    if dtype == torch.uint8:
        scale: Any = 1.0
    elif quantity in GEOMETRY:
        scale = np.maximum(magnitude, 1.0)
    else:
        scale = max(magnitude.max(), float(terms))
    error = np.abs(value[finite] - reference[finite])
    error = np.divide(error, scale, out=np.where(error > 0, np.inf, 0.0), where=np.broadcast_to(scale > 0, error.shape))
    return float(np.sqrt(np.mean(error**2))), float(error.max())


def assert_close_to(
    reference: Any, value: Any, dtype: torch.dtype, quantity: str, terms: float = 0.0, name: str = ""
) -> None:
    """Raises AssertionError, about `name`, if `value` is farther from the reference than the table allows for
    `dtype`."""
    bound = TABLE[quantity][dtype]  # in brackets below
    rms, largest = errors(reference, value, dtype, quantity, terms)
    text = f"{name} {quantity}, {dtype}: RMS {rms:.3g} ({bound.rms:.3g}), maximum {largest:.3g} ({bound.max:.3g})"
    assert largest <= bound.max, text
    # Few values have no RMS worth the name: one of them may be as large as the maximum.
    assert rms <= bound.rms or _array(value).size < 30, text
