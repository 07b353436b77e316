"""Pictures of warps with matplotlib: saliency, warped boxes and grid lines, magnification, errors.

Every function draws into the axes it is given, or into a figure of its own, and returns the figure. Coordinates are
continuous pixels (pixel i covers [i, i+1]); images are arrays or tensors `[H, W, 3]`, floats in [0, 1] or uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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

from fastwarp.warp import SeparableWarp

Image = np.ndarray | Tensor
Panel = Callable[[Axes], Any]


def show_image(image: Image, boxes: Tensor | None = None, *, title: str = "", ax: Axes | None = None) -> Figure:
    """An image, with boxes `[N, 4]` (x1, y1, x2, y2) in colours that follow their order."""
    ax = _axes(ax)
    _imshow(ax, _array(image))
    _draw_boxes(ax, boxes)
    return _finish(ax, title)


def show_saliency(
    image: Image, saliency: Tensor, boxes: Tensor | None = None, *, title: str = "", ax: Axes | None = None
) -> Figure:
    """A saliency map `[h, w]` over the image it belongs to, in multiples of its mean.

    Cells are samples on Grid(h, w), as the warp reads them: the outer ones lie in the centres of the outer pixels.
    """
    ax = _axes(ax)
    picture, map_ = _array(image), _array(saliency)
    height, width = picture.shape[:2]
    _imshow(ax, picture @ [0.299, 0.587, 0.114], cmap="gray")
    half = 0.5 * np.array([(width - 1) / (map_.shape[1] - 1), (height - 1) / (map_.shape[0] - 1)])
    extent = (0.5 - half[0], width - 0.5 + half[0], height - 0.5 + half[1], 0.5 - half[1])
    shown = ax.imshow(map_ / map_.mean(), extent=extent, cmap="inferno", alpha=0.6, interpolation="bilinear")
    ax.set(xlim=(0, width), ylim=(height, 0))
    _draw_boxes(ax, boxes)
    _colour_bar(ax, shown, "× mean")
    return _finish(ax, title)


def show_warp(
    zoomed: Image,
    warp: SeparableWarp,
    source_size: tuple[int, int],
    boxes: Tensor | None = None,
    *,
    lines: tuple[int, int] = (13, 19),
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """A zoomed image with the boxes of the source and lines that are equally spaced in the source, both warped along.

    Args:
        zoomed: `[H', W', 3]`.
        warp: of batch 1.
        source_size: (H, W) of the source in pixels.
        boxes: `[N, 4]`, in source pixels.
        lines: how many lines in y and in x.
        title: of the axes.
        ax: where to draw.
    """
    ax = _axes(ax)
    picture = _array(zoomed)
    size = picture.shape[0], picture.shape[1]
    _imshow(ax, picture)
    across = [torch.linspace(0, side, n) for side, n in zip(source_size, lines, strict=True)]
    along = [torch.linspace(0, side, 65) for side in source_size]
    paths = [torch.stack(torch.broadcast_tensors(along[1], y), -1) for y in across[0]]
    paths += [torch.stack(torch.broadcast_tensors(x, along[0]), -1) for x in across[1]]
    points = warp.zoom_points(torch.cat(paths).to(warp.knots_x), source_size, size).cpu()
    ax.add_collection(
        LineCollection(list(points.reshape(-1, 65, 2).numpy()), colors="white", linewidths=0.6, alpha=0.6)
    )
    ax.set(xlim=(0, size[1]), ylim=(size[0], 0))
    if boxes is not None:
        _draw_boxes(ax, warp.zoom_boxes(boxes.to(warp.knots_x), source_size, size))
    return _finish(ax, title)


def show_magnification(
    magnification: Tensor, boxes: Tensor | None = None, *, title: str = "", ax: Axes | None = None
) -> Figure:
    """A magnification map `[H, W]` (area, against uniform resizing), with contours at its powers of two."""
    ax = _axes(ax)
    octaves = np.log2(np.maximum(_array(magnification), 2.0**-10))
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
    values = _array(error)
    limit = limit or float(np.quantile(values, 0.995)) or 1.0
    shown = _imshow(ax, values, cmap="magma", norm=Normalize(0, limit))
    _draw_boxes(ax, boxes)
    _colour_bar(ax, shown, "absolute error", extend="max")
    return _finish(ax, title)


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


def _axes(ax: Axes | None) -> Axes:
    return _figure().add_subplot() if ax is None else ax


def _array(image: Image) -> np.ndarray:
    values = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    return values / 255.0 if values.dtype == np.uint8 else values.astype(np.float64)


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
