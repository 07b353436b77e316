"""Unzooms that are registered exactly through a strided network: `unzoom(..., image_size=)`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import assert_bitwise, random_warp

from fastwarp import FastwarpError, MeshWarp, SeparableWarp

IMAGE = (96, 150)
KINDS = [SeparableWarp, MeshWarp]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["separable", "mesh"])
phases = pytest.mark.parametrize("phase", [0.0, 0.5])


def ceil_sizes(image, strides):
    return [tuple(-(-side // s) for side in image) for s in strides]


def warp_of(kind, batch=1, dtype=torch.float64, ends=(0.0, 1.0)):
    """A warp of the kind, and its separable knots: the same T~ for both kinds, which NumPy can invert."""
    warp = random_warp(batch, (5, 7), dtype, ends)
    return (warp if kind is SeparableWarp else MeshWarp.from_separable(warp)), warp


def expected_centres(knots, n, stride, phase, pixels):
    """Where each cell of an axis reads, in cells: `docs/registration.md`, by NumPy."""
    offset, cells = phase * (stride - 1), min(-(-pixels // stride), n)
    p = stride * np.arange(cells) + offset
    last = max(pixels - 1, 1)
    held = np.clip(p / last, 0, 1)
    t = np.interp(held, knots.double().numpy(), np.linspace(0, 1, len(knots)))
    centres = ((t - held) * last + p - offset) / stride
    return np.clip(centres, 0, cells - 1)


def interpolated(rows, centres):
    """Linear interpolation of `[n, ...]` at cells."""
    low = np.minimum(np.floor(centres).astype(int), len(rows) - 1)
    f = (centres - low).reshape(-1, *[1] * (rows.ndim - 1))
    return (1 - f) * rows[low] + f * rows[np.minimum(low + 1, len(rows) - 1)]


def expected_unzoom(features, warp, b, stride, phase, valid, outside):
    """One image `[C, h, w]` of a registered unzoom by a separable warp, by NumPy."""
    rows = [np.asarray(k[b % len(k)].detach()) for k in (warp.knots_y, warp.knots_x)]
    y, x = (
        expected_centres(torch.from_numpy(k), n, s, phase, v)
        for k, n, s, v in zip(rows, features.shape[1:], stride, valid, strict=True)
    )
    result = features.copy() if outside == "keep" else np.zeros_like(features)
    by_rows = interpolated(features.transpose(1, 2, 0), y)
    result[:, : len(y), : len(x)] = interpolated(by_rows.transpose(1, 0, 2), x).transpose(2, 1, 0)
    return result


@kinds
@phases
@pytest.mark.parametrize("outside", ["keep", "fill"])
def test_against_the_formula(kind, phase, outside):
    warp, knots = warp_of(kind, 2)
    valid = torch.tensor([[96, 101], [49, 150]])
    strides = [8, 16, 64]
    levels = [torch.rand(2, 3, *size, dtype=torch.float64) for size in ceil_sizes(IMAGE, strides)]
    for known in (None, valid):
        results = warp.unzoom(levels, image_size=IMAGE, phase=phase, valid=known, outside=outside)
        for stride, level, result in zip(strides, levels, results, strict=True):
            for b in range(2):
                pixels = IMAGE if known is None else valid[b].tolist()
                right = expected_unzoom(level[b].numpy(), knots, b, (stride, stride), phase, pixels, outside)
                np.testing.assert_allclose(result[b].numpy(), right, rtol=0, atol=1e-9)


@kinds
@phases
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_identity_is_bitwise_the_identity(kind, phase, last, dtype):
    warp = kind.identity(dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    valid = torch.tensor([[96, 101], [49, 150], [1, 0]])
    form = torch.channels_last if last else torch.contiguous_format
    strides = [1, 4, 7, 16, 128]
    levels = [
        (torch.rand(3, 5, *size) * 200).to(dtype).contiguous(memory_format=form) for size in ceil_sizes(IMAGE, strides)
    ]
    for known in (None, valid):
        results = warp.unzoom(levels, image_size=IMAGE, strides=strides, phase=phase, valid=known)
        assert_bitwise(results, levels)
        assert all(r.is_contiguous(memory_format=form) for r in results)


@kinds
@phases
def test_padding_is_never_read(kind, phase):
    warp, _ = warp_of(kind, 2)
    valid = torch.tensor([[70, 101], [49, 140]])
    (size,) = ceil_sizes(IMAGE, [8])
    features = torch.rand(2, 3, *size, dtype=torch.float64)
    clean = warp.unzoom(features, image_size=IMAGE, phase=phase, valid=valid, outside="fill")
    cells = (valid + 7) // 8
    for b, (h, w) in enumerate(cells.tolist()):
        features[b, :, h:], features[b, :, :, w:] = float("nan"), float("nan")
    kept = warp.unzoom(features, image_size=IMAGE, phase=phase, valid=valid)
    filled = warp.unzoom(features, image_size=IMAGE, phase=phase, valid=valid, outside="fill")
    assert_bitwise([filled], [clean])
    for b, (h, w) in enumerate(cells.tolist()):
        assert torch.equal(kept[b, :, :h, :w], clean[b, :, :h, :w])
        assert torch.isnan(kept[b, :, h:]).all()
        assert torch.isnan(kept[b, :, :, w:]).all()


@kinds
def test_strides_by_the_sizes(kind):
    warp = kind.identity(dtype=torch.float64)
    knots = warp_of(kind)[0]
    for image, size, stride in (
        ((600, 960), (19, 30), 32),
        ((600, 960), (5, 8), 128),
        ((518, 518), (37, 37), 14),  # no power of two
        ((300, 300), (1, 1), 512),
        ((7, 9), (7, 9), 1),
    ):
        features = torch.rand(1, 1, *size, dtype=torch.float64)
        found = knots.unzoom(features, image_size=image)
        assert_bitwise([found], [knots.unzoom(features, image_size=image, strides=stride)])
    with pytest.raises(
        FastwarpError, match=r"features is a map of 38 x 61, which no stride makes of an image of 600 x"
    ):
        warp.unzoom(torch.rand(1, 1, 38, 61), image_size=(600, 960))


@kinds
def test_levels_with_strides_and_phases_of_their_own(kind):
    """A pyramid in one call is what its levels are one by one, whatever its structure."""
    warp, _ = warp_of(kind, 2)
    levels = {"a": torch.rand(2, 2, 24, 19, dtype=torch.float64), "b": torch.rand(2, 2, 6, 19, dtype=torch.float64)}
    strides, phase = {"a": (4, 8), "b": [16, 8]}, {"a": 0.5, "b": 0.25}
    results = warp.unzoom(levels, image_size=IMAGE, strides=strides, phase=phase)
    for name, level in levels.items():
        alone = warp.unzoom(level, image_size=IMAGE, strides=strides[name], phase=phase[name])
        assert_bitwise([results[name]], [alone])


@kinds
def test_cropping_warps_fill_or_repeat_what_they_do_not_show(kind):
    warp, knots = warp_of(kind, 1, ends=(0.2, 0.8))
    (size,) = ceil_sizes(IMAGE, [8])
    features = torch.rand(1, 2, *size, dtype=torch.float64) + 1
    places = [8 * np.arange(n) / (side - 1) for n, side in zip(size, IMAGE, strict=True)]
    inside = [(p >= 0.2) & (p <= 0.8) for p in places]
    shown = torch.from_numpy(inside[0][:, None] & inside[1])
    for mode in ("zeros", "border"):
        result = warp.unzoom(features, image_size=IMAGE, padding_mode=mode)
        right = expected_unzoom(features[0].numpy(), knots, 0, (8, 8), 0.0, IMAGE, "keep")
        np.testing.assert_allclose(result[0][:, shown].numpy(), right[:, shown.numpy()], rtol=0, atol=1e-9)
        assert (result[0][:, ~shown] == 0).all() if mode == "zeros" else (result > 0).all()
