"""Pictures of warps with matplotlib: saliency, warped boxes and grid lines, magnification, errors, all of them at once.

Every function draws into the axes it is given, or into a figure of its own, and returns the figure, which
`figure.savefig` writes. Coordinates are continuous pixels (pixel i covers [i, i+1]); images are arrays or tensors
`[H, W, 3]`, or `[3, H, W]`, or grey `[H, W]`, `[H, W, 1]` or `[1, H, W]`; floats of any width in [0, 1], or uint8. A
warp is a `SeparableWarp` or a `MeshWarp`, of batch 1.

Examples:
    >>> import torch
    >>> from fastwarp import SeparableWarp, saliency, viz
    >>> image, boxes = torch.rand(60, 80, 3), torch.tensor([[50.0, 20.0, 60.0, 30.0]])
    >>> density = saliency.box_density(boxes, (60, 80))
    >>> warp = SeparableWarp.from_saliency(density)
    >>> viz.show_saliency(image, density[0], boxes).savefig("saliency.png")  # doctest: +SKIP
    >>> viz.show_before_after(image, warp, (30, 40), boxes, density[0])
    <Figure size 1380x... with 6 Axes>
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize, TwoSlopeNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("fastwarp.viz needs matplotlib: pip install 'fastwarp[demo]'", name=error.name) from error

from fastwarp.errors import check_size, fail

__all__ = [
    "montage",
    "show_before_after",
    "show_error",
    "show_grid",
    "show_image",
    "show_magnification",
    "show_saliency",
    "show_warp",
    "show_weights",
]

Image = np.ndarray | Tensor
Panel = Callable[[Axes], Any]

_FINE = 129
"""Points along a drawn line."""


class Warp(Protocol):
    """What the pictures ask of a warp: `SeparableWarp` and `MeshWarp` have it."""

    def __len__(self) -> int: ...

    def zoom(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """`[B, C, H, W]` -> `[B, C, *size]`."""

    def unzoom(self, features: Any, size: Any = None) -> Any:
        """And back."""

    def grid(self, size: tuple[int, int]) -> Tensor:
        """Of the zoom, `[B, *size, 2]` in [-1, 1]."""

    def inverse_grid(self, size: tuple[int, int]) -> Tensor:
        """Of the unzoom, -3 where there is nothing to read."""

    def magnification(self, size: tuple[int, int]) -> Tensor:
        """Of area, over the source, `[B, *size]`."""

    def zoom_boxes(self, boxes: Tensor, source_size: Any, size: Any) -> Tensor:
        """Boxes `[N, 4]` of the source in the zoomed image."""


def show_image(image: Image, boxes: Tensor | None = None, *, title: str = "", ax: Axes | None = None) -> Figure:
    """An image, with boxes `[N, 4]` (x1, y1, x2, y2) in colours that follow their order."""
    ax = _axes(ax)
    _imshow(ax, _picture("show_image", "image", image))
    _draw_boxes(ax, boxes)
    return _finish(ax, title)


def show_saliency(
    image: Image | tuple[int, int],
    saliency: Tensor,
    boxes: Tensor | None = None,
    *,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """A saliency map `[h, w]` over the image it belongs to, in multiples of its mean.

    Cells are samples on Grid(h, w), as the warp reads them: the outer ones lie in the centres of the outer pixels.

    Args:
        image: an image, or only its size (H, W).
        saliency: `[h, w]`, both at least 2.
        boxes: `[N, 4]`, in pixels of the image.
        title: of the axes.
        ax: where to draw.

    Raises:
        FastwarpError: a saliency that is not `[h, w]`; what is no image.
    """
    ax = _axes(ax)
    values = _array(saliency).astype(np.float64)
    if values.ndim != 2 or min(values.shape) < 2:
        raise fail("show_saliency", "saliency", f"of shape {list(values.shape)}", "[h, w], both at least 2")
    if isinstance(image, tuple):
        (height, width), alpha = check_size("show_saliency", "image", image), 1.0
        ax.set_aspect("equal")
    else:
        picture, alpha = _picture("show_saliency", "image", image), 0.6
        height, width = picture.shape[:2]
        _imshow(ax, picture @ [0.299, 0.587, 0.114], cmap="gray")
    half = 0.5 * np.array([(width - 1) / (values.shape[1] - 1), (height - 1) / (values.shape[0] - 1)])
    extent = (0.5 - half[0], width - 0.5 + half[0], height - 0.5 + half[1], 0.5 - half[1])
    options: dict[str, Any] = {"cmap": "inferno", "alpha": alpha, "interpolation": "bilinear"}
    shown = ax.imshow(values / (values.mean() or 1.0), extent=extent, **options)
    ax.set(xlim=(0, width), ylim=(height, 0))
    _draw_boxes(ax, boxes)
    _colour_bar(ax, shown, "× mean")
    return _finish(ax, title)


def show_grid(
    image: Image, warp: Warp, *, lines: tuple[int, int] = (25, 33), title: str = "", ax: Axes | None = None
) -> Figure:
    """Where a warp reads a source image: equally spaced rows and columns of the zoomed image, drawn over the source.

    Dense where the warp magnifies.

    Args:
        image: the source.
        warp: of batch 1.
        lines: how many rows and columns.
        title: of the axes.
        ax: where to draw.

    Raises:
        FastwarpError: a warp of another batch.
    """
    ax = _axes(ax)
    picture = _picture("show_grid", "image", image)
    _imshow(ax, picture)
    _draw_lines(ax, _one("show_grid", warp).grid, lines, (picture.shape[0], picture.shape[1]))
    return _finish(ax, title)


def show_warp(
    zoomed: Image,
    warp: Warp,
    source_size: tuple[int, int],
    boxes: Tensor | None = None,
    *,
    lines: tuple[int, int] = (13, 19),
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """A zoomed image with the boxes of the source and lines that are equally spaced in the source, both warped along.

    Args:
        zoomed: the zoomed image.
        warp: of batch 1.
        source_size: (H, W) of the source in pixels.
        boxes: `[N, 4]`, in source pixels.
        lines: how many rows and columns of the source, the first and the last included.
        title: of the axes.
        ax: where to draw.

    Raises:
        FastwarpError: a warp of another batch.
    """
    ax = _axes(ax)
    picture = _picture("show_warp", "zoomed", zoomed)
    size = picture.shape[0], picture.shape[1]
    _imshow(ax, picture)
    _draw_lines(ax, _one("show_warp", warp).inverse_grid, lines, size)
    if boxes is not None:
        _draw_boxes(ax, warp.zoom_boxes(boxes.to(warp.grid((1, 1))), source_size, size))
    return _finish(ax, title)


def show_magnification(
    warp: Warp, size: tuple[int, int], boxes: Tensor | None = None, *, title: str = "", ax: Axes | None = None
) -> Figure:
    """How much a warp magnifies each place (area, against uniform resizing), with contours at the powers of two.

    Args:
        warp: of batch 1.
        size: (H, W) of the source in pixels.
        boxes: `[N, 4]`, in source pixels.
        title: of the axes.
        ax: where to draw.

    Raises:
        FastwarpError: a warp of another batch.
    """
    ax = _axes(ax)
    octaves = np.log2(np.maximum(_array(_one("show_magnification", warp).magnification(size)[0]), 2.0**-10))
    low, high = min(-1.0, float(octaves.min())), max(1.0, float(octaves.max()))
    shown = _imshow(ax, octaves, cmap="RdBu_r", norm=TwoSlopeNorm(0, low, high))
    ticks = np.arange(int(low), int(high) + 1)
    bar = _colour_bar(ax, shown, "area, × uniform")
    bar.set_ticks(ticks, labels=[f"×{2.0**t:g}" for t in ticks])
    present = [t for t in ticks if octaves.min() < t < octaves.max()]
    if present and min(octaves.shape) > 1:
        x, y = (np.arange(side) + 0.5 for side in octaves.shape[::-1])
        ax.contour(x, y, octaves, levels=present, colors="black", linewidths=0.6, linestyles="solid")
    _draw_boxes(ax, boxes)
    return _finish(ax, title)


def show_error(
    error: Tensor, boxes: Tensor | None = None, *, limit: float | None = None, title: str = "", ax: Axes | None = None
) -> Figure:
    """An absolute error `[H, W]`, colours saturating at `limit` (its 99.5th percentile if None)."""
    ax = _axes(ax)
    values = _array(error).astype(np.float64)
    limit = limit or float(np.quantile(values, 0.995)) or 1.0
    shown = _imshow(ax, values, cmap="magma", norm=Normalize(0, limit))
    _draw_boxes(ax, boxes)
    _colour_bar(ax, shown, "absolute error", extend="max")
    return _finish(ax, title)


def show_weights(weights: Tensor, taps: tuple[int, int], *, title: str = "", ax: Axes | None = None) -> Figure:
    """What each target of a downsizing takes from its taps: one map for each tap, laid out as the taps are.

    Args:
        weights: `[K, h, w]`, tap ky KX + kx being row ky and column kx. Where some are negative, as differences of
            weights are, colours diverge from 0.
        taps: (KY, KX), K = KY KX.
        title: of the axes.
        ax: where to draw.

    Raises:
        FastwarpError: weights that are not one map for each tap.
    """
    ax = _axes(ax)
    values = _array(weights).astype(np.float64)
    rows, columns = check_size("show_weights", "taps", taps)
    if values.ndim != 3 or len(values) != rows * columns:
        expected = f"[{rows * columns}, h, w], a map for each tap"
        raise fail("show_weights", "weights", f"of shape {list(values.shape)}", expected)
    height, width = values.shape[1:]
    tiled = values.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)
    limit = float(np.abs(tiled).max()) or 1.0
    signed = tiled.min() < 0
    norm = TwoSlopeNorm(0, -limit, limit) if signed else Normalize(0, limit)
    shown = _imshow(ax, tiled, cmap="RdBu_r" if signed else "viridis", norm=norm)
    for row in range(1, rows):
        ax.axhline(row * height, color="white", linewidth=1.5)
    for column in range(1, columns):
        ax.axvline(column * width, color="white", linewidth=1.5)
    _colour_bar(ax, shown, "weight")
    return _finish(ax, title)


def show_before_after(
    image: Image,
    warp: Warp,
    size: tuple[int, int],
    boxes: Tensor | None = None,
    saliency: Tensor | None = None,
    *,
    note: str = "",
) -> Figure:
    """An image before and after a warp: image, saliency, zoomed, magnification, unzoomed, and what the unzoomed lost.

    Args:
        image: the source.
        warp: of batch 1.
        size: (H', W') of the zoomed image.
        boxes: `[N, 4]`, in pixels of the image; drawn in all panels.
        saliency: `[h, w]` that the warp comes from; without it the second panel shows where the warp reads.
        note: ends the title of the last panel, say with an error that was measured.

    Raises:
        FastwarpError: a warp of another batch, a bad size or saliency.
    """
    picture = torch.from_numpy(_picture("show_before_after", "image", image))
    source = picture.shape[0], picture.shape[1]
    tensor = picture.permute(2, 0, 1)[None].to(_one("show_before_after", warp).grid((1, 1)))
    zoomed = warp.zoom(tensor.contiguous(), size)
    unzoomed = warp.unzoom(zoomed, source)
    after, restored = (x[0].permute(1, 2, 0) for x in (zoomed, unzoomed))
    error = (unzoomed - tensor).abs().mean((0, 1))

    def second(ax: Axes) -> Figure:
        if saliency is None:
            return show_grid(picture, warp, title="where the zoomed image is read", ax=ax)
        return show_saliency(picture, saliency, title=f"saliency, {_times(saliency.shape)} cells", ax=ax)

    return montage(
        [
            lambda ax: show_image(picture, boxes, title=f"image, {_times(source)}", ax=ax),
            second,
            lambda ax: show_warp(
                after, warp, source, boxes, title=f"zoomed to {_times(size)}, with a regular grid", ax=ax
            ),
            lambda ax: show_magnification(warp, source, boxes, title="magnification of area", ax=ax),
            lambda ax: show_image(restored, boxes, title="unzoomed", ax=ax),
            lambda ax: show_error(error, boxes, title=f"error{note}", ax=ax),
        ],
        columns=3,
        panel_size=(4.6, 4.1 * min(2.0, max(0.4, source[0] / source[1])) + 0.3),
    )


def formats() -> list[str]:
    """The endings of files that figures can be written to."""
    return sorted(_figure().canvas.get_supported_filetypes())


def montage(panels: Sequence[Panel], columns: int, *, panel_size: tuple[float, float] = (5.0, 3.6)) -> Figure:
    """Several drawings in one figure, row by row.

    Args:
        panels: each is called with the axes it draws into.
        columns: panels in a row.
        panel_size: width and height of a panel in inches.
    """
    rows = -(-len(panels) // columns)
    figure = _figure((columns * panel_size[0], rows * panel_size[1]))
    for i, panel in enumerate(panels):
        panel(figure.add_subplot(rows, columns, i + 1))
    return figure


def _figure(size: tuple[float, float] = (6.4, 4.8)) -> Figure:
    # Not pyplot: it keeps every figure alive and picks a backend that may want a display.
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _one(function: str, warp: Warp) -> Warp:
    if len(warp) != 1:
        raise fail(function, "warp", f"a batch of {len(warp)}", "a batch of 1: warp[i]")
    return warp


def _times(size: Sequence[int]) -> str:
    return " × ".join(str(side) for side in size)


def _draw_lines(
    ax: Axes, grid: Callable[[tuple[int, int]], Tensor], lines: tuple[int, int], size: tuple[int, int]
) -> None:
    """The lines that a grid makes of equally spaced rows and columns, over a picture of `size`."""
    # Each way is sampled finely along its lines: those of a mesh warp are curved.
    rows, columns = grid((lines[0], _FINE))[0], grid((_FINE, lines[1]))[0].transpose(0, 1)
    paths = torch.cat([rows, columns]).detach().double().cpu().numpy()
    pixels = (paths + 1) / 2 * (np.array(size[::-1]) - 1) + 0.5
    pixels[(np.abs(paths) > 1.0 + 1e-6).any(-1)] = np.nan  # an inverse grid is -3 where there is nothing to read
    ax.add_collection(LineCollection(list(pixels), colors="white", linewidths=0.6, alpha=0.6))
    ax.set(xlim=(0, size[1]), ylim=(size[0], 0))


def _axes(ax: Axes | None) -> Axes:
    return _figure().add_subplot() if ax is None else ax


def _array(values: Image) -> np.ndarray:
    """In float64, or as it is where it holds integers."""
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", copy=True)  # NumPy forbids that its memory is resized
        values = (values.double() if values.is_floating_point() else values).numpy()  # NumPy has no bfloat16
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def _picture(function: str, argument: str, image: Any) -> np.ndarray:
    """An image as `[H, W, 3]` float64 in [0, 1]. Where first and last dimension could be channels, it is the last."""
    if not isinstance(image, (np.ndarray, Tensor)):
        raise TypeError(f"{function}: {argument} is {type(image).__name__}, expected an array or a tensor")
    values = _array(image)
    if values.dtype == np.uint8:
        values = values / 255.0
    elif values.dtype != np.float64:
        raise TypeError(f"{function}: {argument} has dtype {image.dtype}, expected uint8 or floats in [0, 1]")
    if values.ndim == 2:
        values = values[:, :, None]
    elif values.ndim == 3 and values.shape[2] not in (1, 3) and values.shape[0] in (1, 3):
        values = values.transpose(1, 2, 0)
    if values.ndim != 3 or values.shape[2] not in (1, 3) or 0 in values.shape:
        expected = "one image [H, W, 3] or [3, H, W], or a grey one [H, W]"
        raise fail(function, argument, f"of shape {list(image.shape)}", expected)
    return np.broadcast_to(values, (*values.shape[:2], 3)).copy()


def _imshow(ax: Axes, values: np.ndarray, **options: Any) -> Any:
    values = np.clip(values, 0, 1) if values.ndim == 3 else values
    return ax.imshow(values, extent=(0, values.shape[1], values.shape[0], 0), interpolation="nearest", **options)


def _draw_boxes(ax: Axes, boxes: Tensor | None) -> None:
    palette = colormaps["Set2"].colors  # type: ignore[attr-defined]
    for i, (x1, y1, x2, y2) in enumerate([] if boxes is None else boxes.detach().cpu().tolist()):
        for width, colour in ((2.6, "black"), (1.4, palette[i % len(palette)])):
            ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linewidth=width, edgecolor=colour))


def _colour_bar(ax: Axes, shown: Any, label: str, **options: Any) -> Any:
    # An inset is as high as the picture, whose aspect is fixed; space taken from the axes would not be.
    bar = ax.figure.colorbar(shown, cax=ax.inset_axes((1.02, 0, 0.03, 1)), **options)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return bar


def _finish(ax: Axes, title: str) -> Figure:
    ax.set_title(title, loc="left", fontsize=10)
    ax.set(xticks=[], yticks=[])
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    return figure
