"""Pictures: what is drawn where, read back from matplotlib's artists, against independent float64 computations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fastwarp import viz
from fastwarp.errors import FastwarpError
from fastwarp.saliency import box_density
from fastwarp.warp import SeparableWarp

SOURCE, SIZE = (80, 104), (40, 52)
BOXES = torch.tensor([[20.0, 50.0, 34.0, 60.0], [70.0, 12.0, 90.0, 40.0]])


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def saliency() -> torch.Tensor:
    return box_density(BOXES, SOURCE)[0]


@pytest.fixture(scope="module")
def warp(saliency) -> SeparableWarp:
    return SeparableWarp.from_saliency(saliency[None], 10.0)


def through(knots: torch.Tensor, positions: np.ndarray, *, inverse: bool) -> np.ndarray:
    """Positions in [0, 1] through T~ or its inverse along one axis, by NumPy's float64 interpolation."""
    values = knots[0].double().numpy()
    uniform = np.linspace(0, 1, len(values))
    return np.interp(positions, values, uniform) if inverse else np.interp(positions, uniform, values)


def test_warped_lines_and_boxes_are_where_the_warp_puts_them(warp):
    figure = viz.show_warp(noise(*SIZE), warp, SOURCE, BOXES, lines=(5, 7))
    ax = figure.axes[0]
    segments = ax.collections[0].get_segments()
    assert len(segments) == 5 + 7
    for part, knots, side, n, along in ((segments[:5], warp.knots_y, 40, 5, 0), (segments[5:], warp.knots_x, 52, 7, 1)):
        expected = through(knots, np.linspace(0, 1, n), inverse=True) * (side - 1) + 0.5
        for segment, position in zip(part, expected, strict=True):
            np.testing.assert_allclose(segment[:, 1 - along], position, atol=1e-4)
            assert (np.diff(segment[:, along]) > 0).all()
    box = ax.patches[-1]
    normalised = (np.array([70.0, 90.0]) - 0.5) / 103
    x1, x2 = through(warp.knots_x, normalised, inverse=True) * 51 + 0.5
    assert (box.get_x(), box.get_width()) == pytest.approx((x1, x2 - x1), abs=1e-4)
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 52), (40, 0))


def test_grid_shows_where_the_source_is_read(warp):
    ax = viz.show_grid(noise(*SOURCE), warp, lines=(4, 6)).axes[0]
    segments = ax.collections[0].get_segments()
    assert len(segments) == 4 + 6
    rows = through(warp.knots_y, np.linspace(0, 1, 4), inverse=False) * 79 + 0.5
    columns = through(warp.knots_x, np.linspace(0, 1, 6), inverse=False) * 103 + 0.5
    np.testing.assert_allclose([s[:, 1].mean() for s in segments[:4]], rows, atol=1e-4)
    np.testing.assert_allclose([s[:, 0].mean() for s in segments[4:]], columns, atol=1e-4)
    assert (ax.get_xlim(), ax.get_ylim()) == ((0, 104), (80, 0))


def test_lines_end_where_a_cropping_warp_has_nothing_to_read():
    # Reads the middle half of the source in x: its outer lines are nowhere in the zoomed image.
    half = SeparableWarp(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.25, 0.75]]))
    segments = viz.show_warp(noise(*SIZE), half, SOURCE, lines=(2, 5)).axes[0].collections[0].get_segments()
    columns = [s[:, 0].mean() if len(s) else None for s in segments[2:]]  # matplotlib leaves out NaN
    assert columns == [None, pytest.approx(0.5), pytest.approx(26), pytest.approx(51.5), None]


def test_curved_lines_of_a_mesh_are_drawn_curved(warp):
    class Bent:
        """Stands for a mesh warp: the rows of its grid are parabolas."""

        def __len__(self) -> int:
            return 1

        def grid(self, size):
            y, x = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in size), indexing="ij")
            return torch.stack([x, 0.5 * y + 0.5 * x**2 - 0.25], -1)[None]

    segments = viz.show_grid(noise(*SOURCE), Bent(), lines=(3, 3)).axes[0].collections[0].get_segments()
    middle = segments[1]
    x = (middle[:, 0] - 0.5) / 103 * 2 - 1
    np.testing.assert_allclose((middle[:, 1] - 0.5) / 79 * 2 - 1, 0.5 * x**2 - 0.25, atol=1e-6)
    assert len(middle) > 100


def test_magnification_is_shown_in_octaves(warp):
    ax = viz.show_magnification(warp, SOURCE).axes[0]
    octaves = np.log2(warp.magnification(SOURCE)[0].double().numpy())
    np.testing.assert_allclose(ax.images[0].get_array(), octaves, atol=1e-6)
    (contours,) = ax.collections
    assert list(contours.levels) == [t for t in range(-9, 10) if octaves.min() < t < octaves.max()]
    # Where the slope of T is a quarter, a half or five halves, one pixel of the source gets 4, 2 or 0.4.
    knots = torch.tensor([[0.0, 0.125, 0.25, 0.375, 1.0]]), torch.tensor([[0.0, 1.0]])
    ax = viz.show_magnification(SeparableWarp(*knots), (101, 3)).axes[0]
    shown = ax.images[0].get_array()
    np.testing.assert_allclose(shown[[5, 90], 1], np.log2([2.0, 0.4]), atol=1e-6)
    labels = {label.get_text(): label.get_position()[1] for label in ax.child_axes[0].get_yticklabels()}
    assert labels == {"×0.5": -1, "×1": 0, "×2": 1}


def test_saliency_cells_lie_on_the_grid_of_the_warp(saliency):
    for image in (noise(*SOURCE), SOURCE):
        ax = viz.show_saliency(image, saliency).axes[0]
        shown = ax.images[-1]
        left, right, bottom, top = shown.get_extent()
        cell = (right - left) / 51, (bottom - top) / 31
        # The first and the last cell are centred in the first and the last pixel.
        assert (left + cell[0] / 2, right - cell[0] / 2) == pytest.approx((0.5, 103.5))
        assert (top + cell[1] / 2, bottom - cell[1] / 2) == pytest.approx((0.5, 79.5))
        assert (ax.get_xlim(), ax.get_ylim(), ax.get_aspect()) == ((0, 104), (80, 0), 1)
        np.testing.assert_allclose(shown.get_array(), saliency.double() / saliency.double().mean(), atol=1e-12)
        assert shown.get_alpha() == (1 if image is SOURCE else 0.6)


def test_image_and_error_are_drawn_as_given():
    pixels = noise(6, 9)
    np.testing.assert_array_equal(viz.show_image(pixels).axes[0].images[0].get_array(), pixels / 255)
    error = torch.linspace(0, 1, 54).view(6, 9)
    shown = viz.show_error(error, limit=0.5).axes[0].images[0]
    np.testing.assert_array_equal(shown.get_array(), error.double().numpy())
    assert shown.get_clim() == (0, 0.5)
    assert viz.show_error(torch.zeros(6, 9)).axes[0].images[0].get_clim() == (0, 1)


@pytest.mark.parametrize("kind", ["uint8", "float32 tensor"])
def test_before_and_after(warp, saliency, kind):
    pixels = noise(*SOURCE)
    image = pixels if kind == "uint8" else torch.from_numpy(pixels).float() / 255
    figure = viz.show_before_after(image, warp, SIZE, BOXES, saliency, note=" of ours")
    titles = [ax.get_title("left") for ax in figure.axes]
    assert titles == [
        "image, 80 × 104",
        "saliency, 31 × 51 cells",
        "zoomed to 40 × 52, with a regular grid",
        "magnification of area",
        "unzoomed",
        "error of ours",
    ]
    source = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    zoomed = warp.zoom(source, SIZE)
    restored = warp.unzoom(zoomed, SOURCE)
    shown = [ax.images[-1].get_array() for ax in figure.axes]
    np.testing.assert_allclose(shown[0], pixels / 255, atol=1e-12)
    np.testing.assert_allclose(shown[2], zoomed[0].permute(1, 2, 0), atol=1e-6)
    np.testing.assert_allclose(shown[4], restored[0].permute(1, 2, 0), atol=1e-6)
    np.testing.assert_allclose(shown[5], (restored - source).abs().mean((0, 1)), atol=1e-6)
    assert all(
        len(ax.patches) == (0 if "saliency" in title else 4) for ax, title in zip(figure.axes, titles, strict=True)
    )


def test_before_and_after_without_saliency_shows_where_it_reads(warp):
    ax = viz.show_before_after(noise(*SOURCE), warp, SIZE).axes[1]
    assert ax.get_title("left") == "where the zoomed image is read"
    assert len(ax.collections[0].get_segments()) == 25 + 33


def test_weights_lie_as_their_taps_do():
    weights = torch.rand(6, 4, 5)
    ax = viz.show_weights(weights, (2, 3), title="taps").axes[0]
    (shown,) = ax.images
    values = shown.get_array()
    assert values.shape == (8, 15)
    for k in range(6):
        y, x = 4 * (k // 3), 5 * (k % 3)
        np.testing.assert_array_equal(values[y : y + 4, x : x + 5], weights[k].double())
    assert shown.get_clim() == (0, weights.double().max())
    assert [sorted(set(line.get_xdata())) for line in ax.lines] == [[0, 1], [5], [10]]
    assert ax.lines[0].get_ydata() == [4, 4]
    weights[2, 1, 1] = -2
    assert viz.show_weights(weights, (2, 3)).axes[0].images[0].get_clim() == (-2, 2)
    assert viz.show_weights(torch.zeros(1, 2, 2), (1, 1)).axes[0].images[0].get_clim() == (0, 1)


def test_montage_calls_every_panel_once_and_keeps_no_figure():
    axes = []
    figure = viz.montage([axes.append] * 5, columns=3, panel_size=(2, 1))
    assert [ax.get_subplotspec().get_geometry()[:3] for ax in axes] == [(2, 3, i) for i in range(5)]
    assert figure.axes == axes
    assert figure.get_size_inches().tolist() == [6, 2]


def test_bad_input():
    pair = SeparableWarp.identity(2)
    for call in (
        lambda: viz.show_warp(noise(4, 5), pair, SOURCE),
        lambda: viz.show_grid(noise(4, 5), pair),
        lambda: viz.show_magnification(pair, SOURCE),
        lambda: viz.show_before_after(noise(4, 5), pair, SIZE),
    ):
        with pytest.raises(FastwarpError, match=r"show_\w+: warp is a batch of 2, expected a batch of 1"):
            call()
    with pytest.raises(FastwarpError, match=r"show_saliency: saliency is of shape \[1, 3, 4\], expected \[h, w\]"):
        viz.show_saliency(SOURCE, torch.ones(1, 3, 4))
    with pytest.raises(FastwarpError, match=r"show_weights: weights is of shape \[3, 4, 5\], expected \[4, h, w\]"):
        viz.show_weights(torch.ones(3, 4, 5), (2, 2))
    with pytest.raises(FastwarpError, match=r"show_saliency: image is \(0, 4\)"):
        viz.show_saliency((0, 4), torch.ones(3, 4))


def forms(pixels: np.ndarray) -> dict[str, object]:
    """One grey image in every form that images come in; `[H, W, 3]` uint8 is the first."""
    tensor = torch.from_numpy(pixels)
    floats = tensor.float() / 255
    return {
        "uint8": pixels,
        "tensor": tensor,
        "channels first": tensor.permute(2, 0, 1),
        "channels first, array": pixels.transpose(2, 0, 1),
        "grey": pixels[:, :, 0],
        "grey with a channel": tensor[:, :, :1],
        "grey, channel first": floats[:, :, 0][None],
        "float64": pixels / 255,
        "float32": floats,
        "float16": floats.half(),
        "bfloat16": floats.bfloat16(),
        "learned": floats.clone().requires_grad_(),
    }


def test_images_of_every_form_look_the_same(warp, saliency):
    pixels = np.repeat(noise(*SOURCE)[:, :, :1], 3, 2)
    for form, image in forms(pixels).items():
        tolerance = {"bfloat16": 4e-3, "float16": 5e-4}.get(form, 1e-6)
        figures = [
            viz.show_image(image),
            viz.show_grid(image, warp),
            viz.show_warp(image, warp, SOURCE),
            viz.show_before_after(image, warp, SIZE, BOXES, saliency.bfloat16()),
        ]
        for figure in figures:
            shown = figure.axes[0].images[0].get_array()
            np.testing.assert_allclose(shown, pixels / 255, rtol=0, atol=tolerance, err_msg=form)
        under = viz.show_saliency(image, saliency).axes[0].images[0].get_array()
        np.testing.assert_allclose(under, pixels[:, :, 0] / 255, rtol=0, atol=tolerance, err_msg=form)
    wide = np.zeros((3, 5, 3), np.uint8)
    wide[0, 4, 2] = 255
    np.testing.assert_array_equal(viz.show_image(wide).axes[0].images[0].get_array(), wide / 255)


def test_maps_in_half_precision(warp):
    error = torch.linspace(0, 1, 54).view(6, 9)
    shown = viz.show_error(error.bfloat16()).axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, error, atol=4e-3)
    weights = torch.rand(4, 2, 3).bfloat16()
    assert viz.show_weights(weights, (2, 2)).axes[0].images[0].get_array().shape == (4, 6)
    map_ = torch.rand(5, 7).half()
    shown = viz.show_saliency(SOURCE, map_).axes[0].images[0].get_array()
    np.testing.assert_allclose(shown, map_.double() / map_.double().mean(), atol=1e-12)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((1, 3, 4, 5)), FastwarpError, r"image is of shape \[1, 3, 4, 5\], expected one image \[H, W, 3\]"),
        (np.zeros((6, 5, 4)), FastwarpError, r"image is of shape \[6, 5, 4\], expected one image"),
        (np.zeros((0, 5, 3)), FastwarpError, r"image is of shape \[0, 5, 3\], expected one image"),
        (np.zeros(5), FastwarpError, r"image is of shape \[5\], expected one image"),
        (torch.zeros(4, 5, 3).long(), TypeError, "image has dtype torch.int64, expected uint8 or floats"),
        (np.zeros((4, 5, 3), np.uint16), TypeError, "image has dtype uint16, expected uint8 or floats"),
        (np.zeros((4, 5), bool), TypeError, "image has dtype bool, expected uint8 or floats"),
        ([[0.0]], TypeError, "image is list, expected an array or a tensor"),
    ],
)
def test_what_is_no_image(warp, image, error, message):
    for function, draw in (
        ("show_image", lambda: viz.show_image(image)),
        ("show_saliency", lambda: viz.show_saliency(image, torch.ones(3, 4))),
        ("show_grid", lambda: viz.show_grid(image, warp)),
        ("show_before_after", lambda: viz.show_before_after(image, warp, SIZE)),
    ):
        with pytest.raises(error, match=f"^{function}: {message}"):
            draw()
