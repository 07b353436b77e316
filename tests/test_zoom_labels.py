"""Segmentation labels under warps: `zoom_labels`, `zoom_soft_labels` and their inverses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import assert_bitwise, random_warp

import fastwarp
from fastwarp import FastwarpError, MeshWarp, SeparableWarp

DOUBLE = torch.float64
both_warps = pytest.mark.parametrize("mesh", [False, True], ids=["separable", "mesh"])
both_ways = pytest.mark.parametrize("reduce", ["nearest", "majority"])


def warp_of(mesh, batch=2, ends=(0.0, 1.0)):
    warp = random_warp(batch, (5, 7), DOUBLE, ends)
    return MeshWarp.from_separable(warp) if mesh else warp


def identity(mesh):
    return (MeshWarp if mesh else SeparableWarp).identity(dtype=DOUBLE)


def blobs(batch, height, width, classes=5):
    """Regions of about seven pixels, with some pixels that belong to none."""
    coarse = torch.randint(0, classes, (batch, height // 7 + 1, width // 7 + 1))
    fine = coarse.repeat_interleave(7, 1).repeat_interleave(7, 2)[:, :height, :width]
    return torch.where(torch.rand(fine.shape) < 0.1, 255, fine)


@both_ways
@both_warps
def test_backends_agree(mesh, reduce):
    warp, labels = warp_of(mesh), blobs(2, 31, 40)
    extents = {"valid": torch.tensor([[9, 12], [5, 13]]), "source_valid": torch.tensor([[31, 22], [17, 40]])}
    for options in ({}, extents):
        results = [warp.zoom_labels(labels, (9, 13), 77, reduce, **options) for _ in range(2)]
        back = warp.unzoom_labels(results[0], (30, 33), 77, reduce)
        with fastwarp.backend("reference"):
            assert_bitwise(results, [warp.zoom_labels(labels, (9, 13), 77, reduce, **options)] * 2)
            assert_bitwise([back], [warp.unzoom_labels(results[0], (30, 33), 77, reduce)])


def test_meshes_of_separable_warps_do_the_same():
    labels = blobs(2, 31, 40).int()
    for reduce in ("nearest", "majority"):
        one, other = (warp_of(False), None)
        other = MeshWarp.from_separable(one)
        assert_bitwise(
            [one.zoom_labels(labels, (9, 13), 255, reduce)], [other.zoom_labels(labels, (9, 13), 255, reduce)]
        )


@both_warps
def test_a_target_takes_the_class_of_most_of_its_pixels(mesh):
    """9 pixels to 3 targets at 0, 4 and 8: cells of pixels 0..2, 3..6 and 7..8."""

    def zoomed(*row):
        return identity(mesh).zoom_labels(torch.tensor([row]), (1, 3), 255, "majority").flatten().tolist()

    assert zoomed(5, 1, 1, 7, 9, 7, 7, 2, 2) == [1, 7, 2]
    assert zoomed(5, 1, 3, 7, 9, 9, 7, 4, 2) == [5, 9, 2]  # as many: the class of the nearest pixel, 0, 4 and 8
    assert zoomed(0, 0, 0, 7, 9, 3, 3, 0, 0)[1] == 3
    assert zoomed(0, 0, 0, 7, 9, 7, 9, 0, 0)[1] == 9
    assert zoomed(0, 0, 0, 7, 7, 3, 3, 0, 0)[1] == 7
    assert zoomed(0, 0, 0, 7, 255, 255, 255, 0, 0)[1] == 255  # what is not labelled votes like others
    (column,) = identity(mesh).zoom_labels(torch.tensor([[3], [3], [1], [9], [6], [9], [9], [9], [4]]), (3, 1)).mT
    assert column.tolist() == [3, 6, 4]


@both_warps
def test_the_smallest_class_where_the_nearest_has_fewer(mesh):
    for row in ([8, 8, 4, 1, 3, 3], [3, 3, 1, 4, 8, 8], [8, 3, 4, 1, 8, 3]):  # two each, and one of the nearest pixel
        labels = torch.tensor([[0, 0, 0, 0, *row, 0, 0, 0]]) - 5  # 13 pixels: the second of three covers 4..9
        assert identity(mesh).zoom_labels(labels, (1, 3), 255, "majority")[0, 1] == -2


@both_warps
def test_luck_does_not_decide(mesh):
    """At four pixels a target stripes of five always stay and single pixels always go, wherever they are."""
    warp, size = identity(mesh), (13, 16)
    for offset in range(3, 40):
        labels = torch.zeros(49, 61, dtype=torch.uint8)
        labels[offset : offset + 5] = 1
        labels[:, offset : offset + 5] = 1
        stripes = warp.zoom_labels(labels, size, 255, "majority") == 1
        assert stripes.all(0).any()
        assert stripes.all(1).any()
        labels = torch.zeros(49, 61, dtype=torch.uint8)
        labels[offset::5, offset::5] = 1
        assert not warp.zoom_labels(labels, size, 255, "majority").any()


@both_warps
def test_both_ways_are_the_same_where_nothing_is_reduced(mesh):
    warp, labels = identity(mesh), torch.randint(0, 9, (2, 9, 10))
    for size in ((9, 10), (17, 19), (23, 31)):
        results = [warp.zoom_labels(labels, size, 255, reduce) for reduce in ("nearest", "majority")]
        assert_bitwise(results[:1], results[1:])
    assert_bitwise(results[:1], [warp.zoom(labels[:, None], (23, 31), mode="nearest")[:, 0]])


def test_classes_may_be_any_numbers():
    """Those from 0 to 255 are counted in a table; cells with others beside them leave nothing there."""
    warp, classes = warp_of(False), torch.tensor([0, 1, 44, 255, 256, 300, -1, -256])  # alike in their lowest bits
    noise = torch.randint(0, 8, (2, 31, 40))
    labels = classes[torch.where(torch.arange(40) % 20 < 10, noise % 4, noise)]
    result = warp.zoom_labels(labels, (7, 9), 77, "majority")
    with fastwarp.backend("reference"):
        assert_bitwise([result], [warp.zoom_labels(labels, (7, 9), 77, "majority")])


@both_warps
@both_ways
def test_what_reads_nothing_is_ignored(mesh, reduce):
    warp, labels = warp_of(mesh, ends=(0.2, 0.8)), torch.full((2, 20, 30), 3, dtype=torch.uint8)
    back = warp.unzoom_labels(labels, (25, 35), reduce=reduce)
    assert torch.equal(back, torch.where(warp.inside((25, 35)), 3, 255).to(torch.uint8))
    small = warp.zoom_labels(labels.short(), (8, 9), -1, reduce, valid=torch.tensor([[5, 9], [8, 2]]))
    assert (small != -1).sum((1, 2)).tolist() == [45, 16]
    nothing = warp.zoom_labels(labels, (8, 9), 254, reduce, source_valid=torch.tensor([[0, 30], [20, 30]]))
    assert [one.unique().tolist() for one in nothing] == [[254], [3]]
    lost = type(warp)._unchecked(
        *(([k * torch.nan for k in warp._knots],) if not mesh else (warp.mesh * torch.nan, "bilinear"))
    )
    assert (lost.zoom_labels(labels, (4, 4), 200, reduce) == 200).all()


@both_warps
@both_ways
def test_shapes(mesh, reduce):
    warp, labels = warp_of(mesh, 1), torch.randint(0, 5, (3, 2, 20, 30), dtype=torch.int16)
    whole = warp.zoom_labels(labels, (7, 8), 255, reduce)
    last = labels.contiguous(memory_format=torch.channels_last)
    assert_bitwise([warp.zoom_labels(last, (7, 8), 255, reduce)], [whole])
    assert_bitwise([warp.zoom_labels(labels[:, 1], (7, 8), 255, reduce)], [whole[:, 1]])
    assert_bitwise([warp.zoom_labels(labels[2, 1], (7, 8), 255, reduce)], [whole[2, 1]])
    assert warp.zoom_labels(labels[:0], (7, 8), 255, reduce).shape == (0, 2, 7, 8)
    for part in (labels, labels[:, 0], labels[0, 0]):
        assert warp.unzoom_labels(part, reduce=reduce).shape == part.shape
    huge = torch.tensor([[2**62 + 1, 2**62 + 1, -(2**63)]])
    assert identity(mesh).zoom_labels(huge, (1, 1), 0, reduce).item() == 2**62 + 1


@both_warps
def test_probabilities_sum_to_one(mesh):
    warp, probabilities = warp_of(mesh), torch.rand(2, 6, 31, 40).softmax(1).requires_grad_()
    extents = {"valid": torch.tensor([[9, 12], [5, 13]]), "source_valid": torch.tensor([[31, 22], [0, 40]])}
    for options in ({}, {"valid": extents["valid"]}, extents):
        result = warp.zoom_soft_labels(probabilities, (9, 13), **options)
        torch.testing.assert_close(result.sum(1), torch.ones(2, 9, 13))
        assert (result >= 0).all()
    assert (result[1] == 1 / 6).all()
    expected = warp.zoom(probabilities, (9, 13), antialias=True)
    assert_bitwise([warp.zoom_soft_labels(probabilities, (9, 13)).detach()], [expected.detach()])
    assert torch.autograd.grad(result.sum(), probabilities)[0].any()


@both_warps
def test_probabilities_come_back(mesh):
    """They are those of an antialiased unzoom, and what reads nothing has the same for every class: rows always sum to
    one."""
    warp, probabilities = warp_of(mesh, ends=(0.2, 0.8)), torch.rand(2, 6, 15, 20, dtype=DOUBLE).softmax(1)
    extents = {"valid": torch.tensor([[19, 12], [5, 23]]), "source_valid": torch.tensor([[15, 12], [0, 20]])}
    for options in ({}, {"valid": extents["valid"]}, extents):
        result = warp.unzoom_soft_labels(probabilities, (21, 25), **options)
        torch.testing.assert_close(result.sum(1), torch.ones(2, 21, 25, dtype=DOUBLE))
        reads = warp.unzoom(torch.ones(2, 1, 15, 20, dtype=DOUBLE), (21, 25), antialias=True, **options) > 0.5
        assert 0 < reads.sum() < reads.numel()
        expected = warp.unzoom(probabilities, (21, 25), antialias=True, **options)
        assert_bitwise([result], [torch.where(reads, expected, 1 / 6)])
    last = probabilities.contiguous(memory_format=torch.channels_last)
    again = warp.unzoom_soft_labels(last, (21, 25), **extents)
    torch.testing.assert_close(again, result)
    assert again.is_contiguous(memory_format=torch.channels_last)
    assert warp.unzoom_soft_labels(probabilities.half()).shape == probabilities.shape
    lost = MeshWarp(warp.mesh * torch.nan) if mesh else SeparableWarp(warp.knots_y * torch.nan, warp.knots_x)
    assert lost.unzoom_soft_labels(probabilities).isnan().all()


@both_warps
def test_gradients_of_probabilities_that_come_back(mesh):
    warp, probabilities = warp_of(mesh, 1, (0.1, 0.9)), torch.rand(1, 2, 5, 6, dtype=DOUBLE, requires_grad=True)
    knots = [k.clone().requires_grad_() for k in ((warp.mesh,) if mesh else (warp.knots_y, warp.knots_x))]

    def back(labels, *knots):
        return type(warp)(*knots).unzoom_soft_labels(labels, image_size=(9, 12))

    assert torch.autograd.gradcheck(back, (probabilities, *knots))


IMAGE, CELLS = (90, 117), (12, 15)  # stride 8


@both_warps
@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_registered_labels_are_those_of_the_cells_that_are_read(mesh, phase):
    """The nearest cell, and the class of most of the cells between half way to the targets before and after, by
    NumPy: where a target reads is what a registered unzoom of the numbers of rows and columns gives."""
    warp, labels = warp_of(mesh, ends=(0.05, 0.9)), torch.randint(0, 3, (2, *CELLS))
    options = {"image_size": IMAGE, "phase": phase, "valid": torch.tensor([[90, 117], [70, 81]])}
    assert_bitwise([identity(mesh).unzoom_labels(labels, image_size=IMAGE, phase=phase)], [labels])
    found = {reduce: warp.unzoom_labels(labels, None, 9, reduce, **options) for reduce in ("nearest", "majority")}
    soft = warp.unzoom_soft_labels(torch.nn.functional.one_hot(labels, 3).movedim(3, 1).double(), **options)
    torch.testing.assert_close(soft.sum(1), torch.ones(2, *CELLS, dtype=DOUBLE))
    numbers = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=DOUBLE) for n in CELLS), indexing="ij"))
    ones = torch.ones(2, 1, *CELLS, dtype=DOUBLE)
    places = warp.unzoom(torch.cat([numbers.expand(2, -1, -1, -1), ones], 1), outside="fill", **options)
    for b, cells in enumerate(((12, 15), (9, 11))):
        reads = places[b, 2] > 0.5
        assert 0 < reads.sum() < reads.numel()
        for result in found.values():
            assert torch.equal(result[b] == 9, ~reads)
        assert (soft[b][:, ~reads] == 1 / 3).all()
        rows, columns = places[b, 0].max(1)[0].numpy(), places[b, 1].max(0)[0].numpy()
        for i, j in reads.nonzero().tolist():
            near = labels[b, int(rows[i] + 0.5), int(columns[j] + 0.5)]
            assert found["nearest"][b, i, j] == near
            cell = [slice(*between(at, k, n)) for at, k, n in zip((rows, columns), (i, j), cells, strict=True)]
            if None in (cell[0].start, cell[1].start):
                continue
            votes = torch.bincount(labels[b][tuple(cell)].flatten(), minlength=3)
            assert found["majority"][b, i, j] == (near if votes[near] == votes.max() else votes.argmax())


def between(at, k, cells):
    """Cells (c - s/2, c + s/2] of target k, as `slice` takes them, s the mean distance to its neighbours; None where it
    has none that reads."""
    if not (0 < k < cells - 1 and at[k - 1] > 0 and at[k + 1] > 0):
        return None, None
    half = max((at[k + 1] - at[k - 1]) / 2, 1) / 2
    return max(int(np.floor(at[k] - half)) + 1, 0), min(int(np.floor(at[k] + half)), cells - 1) + 1


@both_warps
def test_errors(mesh):
    warp, labels = identity(mesh), torch.zeros(1, 4, 4, dtype=torch.uint8)
    kind = "mesh" if mesh else "separable"
    for method, name in ((warp.zoom_labels, "zoom_labels"), (warp.unzoom_labels, "unzoom_labels")):
        for wrong in (-1, 256):
            with pytest.raises(
                FastwarpError, match=f"{kind}_{name}: ignore_index is {wrong}, expected .* from 0 to 255"
            ):
                method(labels, (2, 2), wrong)
        with pytest.raises(FastwarpError, match="reduce is 'mode', expected 'nearest' or 'majority'"):
            method(labels, (2, 2), reduce="mode")
        with pytest.raises(FastwarpError, match=r"labels is of shape \[4\], expected \[H, W\], \[B, H, W\]"):
            method(labels[0, 0], (2, 2))
        with pytest.raises(TypeError, match="float32, expected uint8, int16, int32, int64"):
            method(labels.float(), (2, 2))
        with pytest.raises(TypeError, match="labels is list"):
            method([labels], (2, 2))
        with pytest.raises(FastwarpError, match="a batch of 3, expected a batch of 1"):
            method(labels, (2, 2), valid=torch.ones(3, 2, dtype=torch.int64))
    with pytest.raises(TypeError, match="int64, expected a floating-point dtype"):
        warp.zoom_soft_labels(torch.zeros(1, 3, 4, 4, dtype=torch.int64), (2, 2))
