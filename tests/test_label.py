"""Labels under warps: `mode="nearest"`, on CPUs. Nothing is averaged, so everything is compared exactly."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_bitwise, random_mesh, random_warp, tensors
from label_cases import CLASSES, FLOATS, assert_same, calls, images_of

import fastwarp
from fastwarp import FastwarpError, MeshWarp, SeparableWarp
from fastwarp.nn import Unzoom, Zoom

OPS = torch.ops.fastwarp
DOUBLE = torch.float64
FORMS = (torch.contiguous_format, torch.channels_last)
IDENTITIES = (SeparableWarp.identity(dtype=DOUBLE), MeshWarp.identity(dtype=DOUBLE))


def warps(batch=2, ends=(0.0, 1.0)):
    return random_warp(batch, (5, 7), DOUBLE, ends), MeshWarp(random_mesh(batch, (5, 7), DOUBLE, ends))


both_warps = pytest.mark.parametrize("kind", [0, 1], ids=["separable", "mesh"])


# --- the ops against the reference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*CLASSES, torch.bool, *FLOATS], ids=str)
def test_nearest_is_the_references(dtype):
    for form in FORMS:
        images = images_of(dtype, form)
        for args in calls(dtype, False):
            results = OPS.label_nearest(images, *args)
            with fastwarp.backend("reference"):
                assert_same(results, OPS.label_nearest(images, *args), f"{form} {args[1:]}")
            assert [r.is_contiguous(memory_format=form) for r in results] == [True, True]


@pytest.mark.parametrize("dtype", CLASSES, ids=str)
def test_majority_is_the_references(dtype):
    for form in FORMS:
        labels = images_of(dtype, form)
        for args in calls(dtype, True):
            results = OPS.label_majority(labels, *args)
            with fastwarp.backend("reference"):
                assert_same(results, OPS.label_majority(labels, *args), f"{form} {args[1:]}")


@pytest.mark.parametrize("dtype", CLASSES, ids=str)
def test_majority_of_long_rows_is_the_references(dtype):
    """Rows that are compared in vectors, and what is left of them; cells of one column, and of more than 32."""
    for width in (33, 65, 100):
        labels = torch.randint(0, 3, (1, 3, 12, width)).repeat_interleave(9, 3)[..., :width].to(dtype)
        labels[0, 1, torch.arange(12), torch.randint(0, width, (12,))] = 7  # alone in a row of others
        labels[0, 2] = (torch.arange(width) < width // 3 + 1).int()  # one turn in a row
        warp = random_warp(1, (5, 7), DOUBLE)
        for size in ((3, 1), (4, 2), (5, width // 3), (12, width), (12, 2 * width)):
            result = warp.zoom_labels(labels, size, reduce="majority")
            with fastwarp.backend("reference"):
                assert_same([result], [warp.zoom_labels(labels, size, reduce="majority")], f"{width} {size}")


def test_one_image_for_several_windows():
    for args in calls(torch.int32, False):
        one = [i[:1] for i in images_of(torch.int32, FORMS[0])]
        batch = max(len(args[0]), 1)
        expected = OPS.label_nearest([i.expand(batch, -1, -1, -1).clone() for i in one], *args[:3], None, 5)
        assert_bitwise(OPS.label_nearest(one, *args[:3], None, 5), expected)


def test_raw_calls_refuse_what_is_no_number_of_the_dtype():
    windows = torch.ones(1, 2, 4)
    for image, fill in ((torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 256), (torch.zeros(1, 1, 4, 4), 1)):
        with pytest.raises(FastwarpError, match=f"fill is {fill}, expected"):
            OPS.label_nearest([image], windows, True, [2, 2], None, fill)
    with pytest.raises(FastwarpError, match="separable is False and windows has 2 rows, expected 4"):
        OPS.label_majority([torch.zeros(1, 1, 4, 4, dtype=torch.uint8)], windows, False, [2, 2], None, 0)


# --- mode="nearest" ---------------------------------------------------------------------------------------------------


@both_warps
def test_half_way_is_the_pixel_to_the_right_or_below(kind):
    warp = IDENTITIES[kind]
    image = torch.arange(3).expand(1, 1, 3, 3)
    assert warp.zoom(image, (3, 5), mode="nearest")[0, 0, 0].tolist() == [0, 1, 1, 2, 2]  # at 0, 0.5, 1, 1.5, 2
    assert warp.zoom(image.mT, (5, 3), mode="nearest")[0, 0, :, 0].tolist() == [0, 1, 1, 2, 2]
    assert warp.unzoom(image, (1, 1), mode="nearest").item() == 1


@both_warps
@pytest.mark.parametrize("form", FORMS, ids=["contiguous", "channels_last"])
def test_every_dtype_reads_the_same_pixels(kind, form):
    """The pixels are those that an image of their numbers says, which bilinear interpolation is nearest to."""
    warp, size = warps()[kind], (8, 9)
    y, x = torch.meshgrid(torch.arange(13), torch.arange(11), indexing="ij")
    image = torch.rand(2, 3, 13, 11).mul(5).contiguous(memory_format=form)
    where = warp.zoom((y * 11 + x).expand(2, 1, -1, -1), size, mode="nearest")
    for coordinate, picked in ((y, where // 11), (x, where % 11)):
        exact = warp.zoom(coordinate.to(DOUBLE).expand(2, 1, -1, -1), size)
        assert torch.equal(picked.double(), (exact + 0.5).floor())
    for dtype in (*CLASSES, torch.bool, *FLOATS):
        typed = image.to(dtype)
        result = warp.zoom(typed, size, mode="nearest")
        expected = typed.flatten(2).gather(2, where.flatten(2).expand(-1, 3, -1)).view(2, 3, *size)
        assert torch.equal(result, expected), dtype
        assert result.dtype == dtype
        assert result.is_contiguous(memory_format=form)


@both_warps
def test_levels_there_and_back(kind):
    """Coarse labels survive zoom and unzoom; what a cropping warp loses becomes 0, or what the border has."""
    warp = warps(ends=(0.1, 0.9))[kind]
    labels = torch.randint(1, 9, (2, 1, 4, 5)).repeat_interleave(25, 2).repeat_interleave(25, 3)
    levels = {"fine": labels, "coarse": labels[:, :, ::5, ::5].short()}
    with pytest.raises(TypeError, match="one dtype"):
        warp.unzoom(levels, mode="nearest")
    levels["coarse"] = levels["coarse"].long()
    small = {name: warp.zoom(level, level.shape[2:], mode="nearest") for name, level in levels.items()}
    back = warp.unzoom(small, mode="nearest")
    filled = warp.unzoom(small, mode="nearest", padding_mode="border")
    for name, level in levels.items():
        inside = warp.inside(level.shape[2:])[:, None]
        assert (back[name] == torch.where(inside, level, 0)).float().mean() > (0.97 if name == "fine" else 0.8)
        assert (back[name][~inside] == 0).all()
        assert (filled[name] > 0).all()


@both_warps
def test_padding_is_never_read(kind):
    warp, valid = warps()[kind], torch.tensor([[6, 7], [8, 5]])
    image = torch.full((2, 1, 11, 12), 7, dtype=torch.uint8)
    source_valid = torch.tensor([[9, 12], [11, 4]])
    for one, (h, w) in zip(image, source_valid.tolist(), strict=True):
        one[:, h:], one[:, :, w:] = 200, 200
    result = warp.zoom(image, (8, 8), mode="nearest", valid=valid, source_valid=source_valid)
    for one, (h, w) in zip(result, valid.tolist(), strict=True):
        assert (one[:, :h, :w] == 7).all()
        assert one.sum() == 7 * h * w


@both_warps
def test_registered_labels(kind):
    """The identity keeps every cell; other warps pick the nearest cells of the registered interpolation."""
    fine, coarse = torch.randint(0, 99, (2, 1, 12, 14)), torch.randint(0, 99, (2, 1, 3, 4))
    image = {"image_size": (23, 27), "valid": torch.tensor([[23, 27], [20, 11]])}
    assert_bitwise(IDENTITIES[kind].unzoom([fine, coarse], mode="nearest", **image), [fine, coarse])
    warp = warps()[kind]
    column = torch.arange(14.0, dtype=DOUBLE).expand(2, 1, 12, 14)
    exact, picked = (warp.unzoom(column, mode=mode, **image) for mode in ("bilinear", "nearest"))
    assert torch.equal(picked, (exact + 0.5).floor())


@both_warps
def test_gradients_go_to_the_pixels_that_were_read(kind):
    warp, size = warps(ends=(0.1, 0.9))[kind], (12, 9)
    for tensor in tensors(warp):
        tensor.requires_grad_()
    image = torch.rand(2, 3, 7, 8, dtype=DOUBLE).contiguous(memory_format=torch.channels_last).requires_grad_()
    numbers = torch.arange(1, 57).view(1, 1, 7, 8).expand(2, 1, 7, 8)
    for method in (warp.zoom, warp.unzoom):
        where = method(numbers, size, mode="nearest").flatten(2).expand(-1, 3, -1)  # 0: nothing
        flat = torch.cat([torch.zeros(2, 3, 1, dtype=DOUBLE), image.flatten(2)], 2)
        expected = flat.gather(2, where).unflatten(2, size)
        result = method(image, size, mode="nearest")
        weight = torch.rand_like(result)
        (grad,) = torch.autograd.grad(result, image, weight, create_graph=True)
        (right,) = torch.autograd.grad(expected, image, weight)
        torch.testing.assert_close(grad, right)
        again = torch.autograd.grad(method(image, size, mode="nearest"), image, weight)
        assert_bitwise([grad.detach()], again)
        assert all(g is None for g in torch.autograd.grad(result.sum(), tensors(warp), allow_unused=True))
        assert torch.autograd.gradgradcheck(lambda i, method=method: method(i, size, mode="nearest"), image)
    assert not warp.zoom(numbers, size, mode="nearest").requires_grad


@both_warps
def test_nan_anywhere_is_nan_or_nothing(kind):
    warp = warps()[kind]
    tensors(warp)[0].view(2, -1)[1, 3] = float("nan")
    for method in (warp.zoom, warp.unzoom):
        floats = method(torch.rand(2, 2, 5, 6), (4, 4), mode="nearest")
        assert floats[1].isnan().all()
        assert not floats[0].isnan().any()
        assert (method(torch.full((2, 2, 5, 6), 3), (4, 4), mode="nearest")[1] == 0).all()


@both_warps
def test_modules_and_graphs(kind):
    warp, labels = warps()[kind], torch.randint(0, 9, (2, 1, 9, 8))
    zoom, unzoom = Zoom((6, 7), warp, mode="nearest"), Unzoom(warp, mode="nearest")
    small = zoom(labels)
    assert_bitwise([small], [warp.zoom(labels, (6, 7), mode="nearest")])
    assert_bitwise([unzoom([small])[0]], [warp.unzoom(small, mode="nearest")])
    compiled = torch.compile(lambda x: warp.unzoom(warp.zoom(x, (6, 7), mode="nearest")), backend="aot_eager")
    image = torch.rand(2, 3, 9, 8, requires_grad=True)
    results = [function(image) for function in (compiled, compiled)]
    grads = [torch.autograd.grad(r.sum(), image)[0] for r in results]
    assert_bitwise(grads[:1], grads[1:])
    assert "mode='nearest'" in repr(zoom)
    assert "mode='nearest'" in repr(unzoom)


@both_warps
def test_wrong_modes(kind):
    warp, labels = IDENTITIES[kind], torch.zeros(1, 1, 4, 4, dtype=torch.int64)
    for method in (warp.zoom, warp.unzoom):
        with pytest.raises(FastwarpError, match="mode is 'bicubic', expected 'bilinear' or 'nearest'"):
            method(labels, (2, 2), mode="bicubic")
        with pytest.raises(FastwarpError, match="antialias is True, expected False with mode 'nearest'"):
            method(labels, (2, 2), mode="nearest", antialias=True)
        with pytest.raises(TypeError, match="int64, expected uint8, float16"):
            method(labels, (2, 2))
        with pytest.raises(TypeError, match=r"complex64, expected uint8, float16.*bool"):
            method(labels.to(torch.complex64), (2, 2), mode="nearest")
    for module in (lambda **o: Zoom((2, 2), warp, **o), lambda **o: Unzoom(warp, **o)):
        with pytest.raises(FastwarpError, match="antialias is True, expected False with mode 'nearest'"):
            module(mode="nearest", antialias=True)
