"""The inverse of a density's cumulative distribution: long densities, against NumPy, in little memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastwarp import functional as F
from fastwarp.functional import axis


def oracle(density: np.ndarray, knots: int) -> np.ndarray:
    mass = density.astype(np.float64) + 1e-6 * density.mean(1, keepdims=True)
    cumulative = np.pad(np.cumsum(mass, 1), ((0, 0), (1, 0)))
    cells, targets = np.linspace(0, 1, density.shape[1] + 1), np.linspace(0, 1, knots)
    return np.stack([np.interp(targets, row / row[-1], cells) for row in cumulative])


@pytest.mark.parametrize("n", [1, 2, 255, 256, 257, 511, 512, 513, 16_000])
def test_knots(n):
    density = torch.rand(2, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    density[0, n // 3 : n // 2] = 0
    knots = F.cdf_knots(density)
    np.testing.assert_allclose(knots.numpy(), oracle(density.numpy(), n + 1), rtol=0, atol=1e-9)
    assert (knots[:, 1:] > knots[:, :-1]).all()
    assert torch.equal(F.cdf_knots(density), knots)
    few = F.cdf_knots(density.float(), 9)
    np.testing.assert_allclose(few.numpy(), oracle(density.numpy(), 9), rtol=0, atol=1e-6)


def test_a_missing_value_spoils_its_own_image_only():
    density = torch.rand(3, 700)
    density[1, 300] = float("nan")
    knots = F.cdf_knots(density, 11)
    assert knots[1].isnan().all()
    assert torch.equal(knots[[0, 2]], F.cdf_knots(density[[0, 2]], 11))


def test_both_derivatives_across_blocks(monkeypatch):
    monkeypatch.setattr(axis, "_BLOCK", 3)
    density = (torch.rand(2, 11, dtype=torch.float64) + 0.1).requires_grad_()
    np.testing.assert_allclose(
        F.cdf_knots(density, 8).detach().numpy(), oracle(density.detach().numpy(), 8), rtol=0, atol=1e-12
    )
    assert torch.autograd.gradcheck(lambda d: F.cdf_knots(d, 8)[:, 1:-1], density)
    assert torch.autograd.gradgradcheck(lambda d: F.cdf_knots(d, 8)[:, 1:-1], density)


def test_memory_grows_as_the_density_does():
    """Of everything that is allocated, a triangle for 200,000 cells would take 320 GB."""
    density = torch.rand(1, 200_000, requires_grad=True)
    knots = F.cdf_knots(density, 5)
    knots.sum().backward()
    assert density.grad.isfinite().all()
