"""What the numba kernels of the separable family must not read: padding, and pixels that no target needs."""

from __future__ import annotations

import pytest
import strategies as own
import torch
from separable_cases import knots, ops, two_floats
from torch import Tensor

from fastwarp.functional import separable_windows, separable_zoom

pytestmark = pytest.mark.usefixtures("poisoned_results")

BAD = pytest.mark.parametrize("bad", [float("nan"), float("inf")])
LAYOUT = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
WIDE = pytest.mark.parametrize("source", [(20, 37), (11, 310), (9, 6)])


@BAD
@LAYOUT
@WIDE
@pytest.mark.parametrize("antialias", [False, True])
@two_floats
def test_padding_is_never_read(dtype, bad, layout, source, antialias):
    h, w = source
    size, source_valid = (13, 41), torch.tensor([[[h - 3, w - 5]], [[h, 1]], [[1, w - 1]]])
    warp = knots("monotone", 2, 3, 5, dtype), knots("monotone", 3, 3, 6, dtype)
    windows = separable_windows(*warp, [size], [source], antialias=antialias, source_valid=source_valid)
    image = own.values(1, (3, 3, *source), dtype)
    padding = torch.zeros(3, 1, h, w, dtype=torch.bool)
    for b, (height, width) in enumerate(source_valid[:, 0].tolist()):
        padding[b, :, height:], padding[b, :, :, width:] = True, True
    clean = own.laid_out(image.masked_fill(padding, 0), layout)
    dirty = own.laid_out(image.masked_fill(padding, bad), layout)
    (expected,) = ops.separable_resample([clean], windows, list(size), source_valid, antialias)
    (result,) = ops.separable_resample([dirty], windows, list(size), source_valid, antialias)
    assert torch.isfinite(result).all()
    assert torch.equal(result, expected)
    (by_image,) = ops.separable_resample_adjoint([result], windows, list(source), source_valid, antialias)
    assert (by_image[padding.expand_as(by_image)] == 0).all()


@pytest.mark.parametrize("valid", [(5, 0), (0, 5), (0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("antialias", [False, True])
def test_images_that_are_all_padding_along_an_axis(antialias, layout, valid):
    """Rows that are read, of which no column is: there is nothing to sum, and its gradient is 0."""
    for channels in (1, 2, 3, 4, 20):
        image = torch.full((1, channels, 12, 17), torch.nan).contiguous(memory_format=layout)
        image[:, :, : valid[0], : valid[1]] = 1
        leaves = [image, torch.linspace(0, 1, 5)[None], torch.linspace(0, 1, 7)[None]]
        for leaf in leaves:
            leaf.requires_grad_()
        zoomed = separable_zoom(*leaves, (9, 11), antialias=antialias, source_valid=torch.tensor([valid]))
        grads = torch.autograd.grad(zoomed.sum(), leaves)
        expected = float(min(valid) > 0)
        assert zoomed.min() == zoomed.max() == expected
        assert all(grad.isfinite().all() for grad in grads)
        assert grads[0].sum().item() == pytest.approx(expected * zoomed.numel())
        assert grads[0][:, :, valid[0] :].abs().sum() == grads[0][:, :, :, valid[1] :].abs().sum() == 0


@BAD
@LAYOUT
@pytest.mark.parametrize(("width", "antialias"), [(37, False), (37, True), (5, False)])
@two_floats
def test_padding_has_no_part_in_the_gradient_of_the_windows(dtype, bad, layout, width, antialias):
    size, channels = (13, 41), 3 if width > 8 else 1
    source_valid = torch.tensor([[[17, width - 3]], [[20, 1]]])
    warp = knots("monotone", 2, 2, 5, dtype), knots("monotone", 3, 2, 6, dtype)
    windows = separable_windows(*warp, [size], [(20, width)], antialias=antialias, source_valid=source_valid)
    clean = own.values(1, (2, channels, 20, width), dtype)
    dirty = clean.clone()
    dirty[0, :, 17:], dirty[0, :, :, width - 3 :], dirty[1, :, :, 1:] = bad, bad, bad
    grad = own.values(2, (2, channels, *size), dtype)
    images = [own.laid_out(i, layout) for i in (clean, dirty)]
    expected, result = (ops.separable_windows_gradient([grad], [i], windows, source_valid, antialias) for i in images)
    assert torch.equal(result, expected)


@BAD
@LAYOUT
@pytest.mark.parametrize("antialias", [False, True])
@two_floats
def test_cropped_pixels_are_never_read(dtype, bad, layout, antialias):
    """Pixels farther from every centre than the half-width, as outside a cropping warp's range."""
    source, size = (40, 300), (21, 50)
    warp = knots("cropping", 2, 1, 5, dtype), knots("cropping", 3, 1, 6, dtype)
    windows = separable_windows(*warp, [size], [source], antialias=antialias)
    image = own.values(1, (2, 3, *source), dtype)
    near = []
    for first, side, extent in ((0, size[0], source[0]), (size[0], size[1], source[1])):
        centre, width = windows[0, :, first : first + side, None].double()
        near.append(((torch.arange(extent) - centre).abs() <= width).any(0))
    unread = ~(near[0][:, None] & near[1])
    assert 0.2 < unread.double().mean() < 0.95
    clean, dirty = (own.laid_out(image.masked_fill(unread, value), layout) for value in (0.0, bad))
    (expected,) = ops.separable_resample([clean], windows, list(size), None, antialias)
    (result,) = ops.separable_resample([dirty], windows, list(size), None, antialias)
    assert torch.equal(result, expected)


@BAD
@LAYOUT
@pytest.mark.parametrize("antialias", [False, True])
@two_floats
def test_fill_is_zero_whatever_the_image_holds(dtype, bad, layout, antialias):
    source, size, valid = (20, 37), (23, 300), torch.tensor([[[23, 280]], [[11, 300]]])
    warp = knots("cropping", 2, 1, 5, dtype), knots("cropping", 3, 1, 6, dtype)
    windows = separable_windows(*warp, [size], [source], inverse=True, antialias=antialias, valid=valid)
    reads = ((windows[:, 1, : size[0], None] > 0) & (windows[:, 1, None, size[0] :] > 0))[:, None]
    image = own.laid_out(torch.full((2, 3, *source), bad, dtype=dtype), layout)
    (result,) = ops.separable_resample([image], windows, list(size), None, antialias)
    assert 0.2 < reads.double().mean() < 0.8
    assert torch.equal(torch.isfinite(result), ~reads.expand_as(result))
    assert (result[~reads.expand_as(result)] == 0).all()


@BAD
@LAYOUT
@two_floats
def test_gradients_of_fill_are_never_read(dtype, bad, layout):
    """Whatever a loss does with the padding of the result."""
    source, size, valid = (20, 37), (23, 300), torch.tensor([[[23, 280]], [[11, 300]]])
    warp = knots("cropping", 2, 1, 5, dtype), knots("cropping", 3, 1, 6, dtype)
    windows = separable_windows(*warp, [size], [source], inverse=True, valid=valid)
    fill = ~((windows[:, 1, : size[0], None] > 0) & (windows[:, 1, None, size[0] :] > 0))[:, None]
    assert 0.2 < fill.double().mean() < 0.8
    image, grad = own.values(1, (2, 3, *source), dtype), own.values(2, (2, 3, *size), dtype)
    clean, dirty = (own.laid_out(grad.masked_fill(fill, value), layout) for value in (0.0, bad))
    expected = ops.separable_resample_adjoint([clean], windows, list(source), None, False)[0]
    assert torch.equal(ops.separable_resample_adjoint([dirty], windows, list(source), None, False)[0], expected)
    expected = ops.separable_windows_gradient([clean], [image], windows, None, False)
    assert torch.equal(ops.separable_windows_gradient([dirty], [image], windows, None, False), expected)


@BAD
@LAYOUT
@pytest.mark.parametrize("channels", [1, 3, 9])
@pytest.mark.parametrize("adjoint", [False, True])
@two_floats
def test_a_bad_pixel_goes_as_far_as_it_is_read(dtype, bad, layout, channels, adjoint):
    """And no farther: targets without so many taps as their neighbours read nothing in place of them."""
    source, size = (23, 90), (31, 61)
    warp = knots("monotone", 2, 1, 5, dtype), knots("monotone", 3, 1, 6, dtype)
    windows = separable_windows(*warp, [size], [source], antialias=True)

    def through(image: Tensor) -> Tensor:
        if adjoint:
            (result,) = ops.separable_resample_adjoint([image], windows, list(source), None, True)
        else:
            (result,) = ops.separable_resample([image], windows, list(size), None, True)
        return result

    shape = (1, channels, *(size if adjoint else source))
    for row, column in ((11, column) for column in range(2, shape[3] - 2)):
        image = own.laid_out(own.values(1, shape, dtype).abs(), layout)
        reads = own.laid_out(torch.zeros(shape, dtype=dtype), layout)
        image[..., row, column], reads[..., row, column] = bad, 1
        assert torch.equal(~torch.isfinite(through(image)), through(reads) != 0)


@LAYOUT
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("channels", [3, 16])
@two_floats
def test_nan_knots_make_a_nan_image(dtype, layout, antialias, channels):
    image = own.laid_out(own.values(1, (3, channels, 20, 37), dtype), layout).requires_grad_()
    warp = [knots("monotone", 2, 3, 5, dtype).requires_grad_(), knots("monotone", 3, 3, 6, dtype).requires_grad_()]
    clean = separable_zoom(image, *warp, (11, 270), antialias=antialias)
    (clean_gradient,) = torch.autograd.grad(clean.float().square().sum(), image)
    with torch.no_grad():
        warp[1][1] = float("nan")
    result = separable_zoom(image, *warp, (11, 270), antialias=antialias)
    assert torch.isnan(result[1]).all()
    gradients = torch.autograd.grad(result.float().square().sum(), [image, *warp])
    for b in (0, 2):  # the other images of the batch
        assert torch.equal(result[b], clean[b])
        assert torch.equal(gradients[0][b], clean_gradient[b])
        assert all(torch.isfinite(g[b]).all() for g in gradients)


@pytest.mark.parametrize("antialias", [False, True])
def test_nan_knots_make_a_nan_picture(antialias):
    frame = own.values(1, (2, 20, 37, 3), torch.uint8)
    warp = [knots("monotone", s, 2, 5, torch.float32) for s in (2, 3)]
    warp[0][1] = float("nan")
    windows = separable_windows(*warp, [(11, 30)], [(20, 37)], antialias=antialias)
    result = ops.separable_camera(frame, windows, [11, 30], [1.0] * 3, [0.0] * 3, torch.float32, None, antialias)
    assert torch.isnan(result[1]).all()
    assert torch.isfinite(result[0]).all()
