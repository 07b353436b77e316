"""numba kernels of the `separable` family: resampling by windows, its adjoint, its gradient to the windows.

An image is seen as `[images, planes, H, W, K]`: contiguous has K = 1, channels_last has one plane of K = C. Units of
eight rows (of any planes of one image) are resampled together, interleaved as `[column][8]`, see `_simd`.
"""

import numpy as np
import torch
from fastwarp.kernels.cpu._bands import band, chain_to_windows, transposed
from fastwarp.kernels.cpu._memory import empty as empty_image
from fastwarp.kernels.cpu._parallel import inline, jit, run
from fastwarp.kernels.cpu._simd import (
    LANES,
    blend_columns,
    blend_rows,
    blend_values,
    flat,
    interleave_rows,
    load,
    store,
    store_rows,
    sum_columns,
)
from fastwarp.kernels.layout import memory_format
from torch import Tensor

_TILE = 1024  # values of a target row that are made at a time: sources and results of 8 rows stay in L2
_AHEAD = 64  # values between what is read and what is prefetched
_DIRECT_CHANNELS = 16  # from here on the channels of a pixel fill vectors by themselves
_DIRECT_RATIO = 4  # minification from which most of an interleaved source row would be made for nothing
_CHUNKS = 16  # partial sums of the windows' gradient: fixed, so that the result does not depend on the threads

_STORAGE = {torch.float16: np.uint16, torch.bfloat16: np.int16}
_NO_EXTENTS = np.zeros((0, 0, 0), np.int64)


# --- one unit of eight rows -------------------------------------------------------------------------------------------


@inline
def _extent(extents, b, level, axis, whole):
    if extents.shape[0] == 0:
        return whole
    return min(max(extents[b if extents.shape[0] > 1 else 0, level, axis], 0), whole)


@inline
def _next_row(plane, i, planes, h):
    """The row after row i of a plane. The last row of all follows itself: the lanes of a short unit repeat it."""
    if i + 1 < h:
        return plane, i + 1
    if plane + 1 < planes:
        return plane + 1, 0
    return plane, i


@inline
def _store_tile(tile, width, column, count, stride, empty, target, offsets, skip, real, scale, bias, planes):
    """Writes `count` columns of eight interleaved rows; columns in `empty` and rows in `skip` become 0.

    The tile is `planes` runs of `width` columns; a run goes to `offsets[k] + plane*stride + column`.
    """
    for plane in range(planes):
        source, where = plane * width * LANES, plane * stride + column
        a = scale[plane] if planes > 1 else real[1]
        b = bias[plane] if planes > 1 else real[0]
        if count >= LANES:
            store_rows(tile, source, count, a, b, target, offsets, where, offsets[LANES - 1] - offsets[0])
        for k in range(LANES):
            if skip[k]:
                for i in range(count):
                    store(real[0], target, offsets[k] + where + i)
            else:
                if count < LANES:
                    for i in range(count):
                        store(tile[source + i * LANES + k] * a + b, target, offsets[k] + where + i)
                for i in empty:
                    store(real[0], target, offsets[k] + where + i)


@inline
def _tiles(first, last, channels, columns, room):
    """For each tile of targets: the source values `[begin, end)` of a row that it reads, at least 8 and within the row.

    `first`, `last` are the first and last source pixel of each target, first < 0 where it reads none.
    """
    count = (len(first) + columns - 1) // columns
    begin, end = np.empty(count, np.int64), np.empty(count, np.int64)
    for tile in range(count):
        low, high = room, -1
        for j in range(tile * columns, min((tile + 1) * columns, len(first))):
            if first[j] >= 0:
                low, high = min(low, first[j]), max(high, last[j])
        low = 0 if high < 0 else low
        begin[tile] = max(min(low * channels, room * channels - LANES), 0)
        end[tile] = min(max((high + 1) * channels, begin[tile] + LANES), room * channels)
    return begin, end


@inline
def _columns(tap, begin, channels, columns):
    """Where each value of a target row finds its tap among the interleaved source values of its tile."""
    result = np.empty(len(tap) * channels, np.int64)
    for j in range(len(tap)):
        for c in range(channels):
            result[j * channels + c] = max(tap[j] * channels + c - begin[j // columns], 0) * LANES
    return result


@inline
def _places(size, channels, columns, planar):
    """Where each value of a target row goes in its interleaved tile: pixel by pixel, or channel by channel."""
    result = np.empty(size * channels, np.int64)
    for j in range(size):
        for c in range(channels):
            i = j % columns
            result[j * channels + c] = (c * columns + i if planar else i * channels + c) * LANES
    return result


@inline
def _empty_columns(first, channels, columns):
    """The columns of each tile that read nothing: a list `values[offset[tile]:offset[tile + 1]]`."""
    count = (len(first) + columns - 1) // columns
    offset = np.zeros(count + 1, np.int64)
    values = np.empty((first < 0).sum() * channels, np.int64)
    found = 0
    for j in range(len(first)):
        if first[j] < 0:
            for c in range(channels):
                values[found] = j % columns * channels + c
                found += 1
        offset[j // columns + 1] = found
    return offset, values


# --- two taps per axis: bilinear --------------------------------------------------------------------------------------


@inline
def _two_taps(windows, extent, real):
    """First and second tap (-1 where a window reads nothing) and their weights. Never reaches past `extent`."""
    m = windows.shape[1]
    first, second = np.empty(m, np.int64), np.empty(m, np.int64)
    weight_first, weight_second = np.empty(m, real.dtype), np.empty(m, real.dtype)
    for i in range(m):
        c = np.float64(windows[0, i])
        if not windows[1, i] > 0 or extent == 0:
            first[i], second[i], weight_first[i], weight_second[i] = -1, -1, 0, 0
            continue
        inside = min(max(c, 0.0), extent - 1.0) if c == c else 0.0
        first[i] = max(min(int(inside), extent - 2), 0)
        second[i] = min(first[i] + 1, extent - 1)
        f = inside - first[i] if c == c else c
        weight_first[i], weight_second[i] = 1.0 - f, f
    return first, second, weight_first, weight_second


@inline
def _bilinear_direct(source, target, real, rows, height, width, size, channels, image, planes, y, x, affine, planar):
    """Four taps straight from the image, for the rows `rows` of its planes."""
    y0, y1, wy0, wy1 = y
    x0, x1, wx0, wx1 = x
    scale, bias = affine
    h, w = size
    across, between = (1, h * w) if planar else (channels, 1)
    left, right = np.maximum(x0, 0) * channels, np.maximum(x1, 0) * channels
    holes = np.flatnonzero(x0 < 0)
    for r in range(rows[0], rows[1]):
        plane, i = r // h, r % h
        a = (image * planes + plane) * height * width * channels
        b = a + y1[i] * width * channels
        a += y0[i] * width * channels
        out = (image * planes + plane) * h * w * channels + i * w * (1 if planar else channels)
        top, bottom = wy0[i], wy1[i]
        if y0[i] < 0:
            for c in range(channels):
                for j in range(w):
                    store(real[0], target, out + j * across + c * between)
            continue
        if channels >= _DIRECT_CHANNELS:
            for j in range(w):
                at, p, q = out + j * channels, left[j], right[j]
                wa, wb, wc, wd = top * wx0[j], top * wx1[j], bottom * wx0[j], bottom * wx1[j]
                for c in range(channels):
                    upper = wa * load(source, a + p + c, real[0]) + wb * load(source, a + q + c, real[0])
                    lower = wc * load(source, b + p + c, real[0]) + wd * load(source, b + q + c, real[0])
                    store(upper + lower, target, at + c)
        else:
            for c in range(channels):
                gain, shift = (scale[c], bias[c]) if planar else (real[1], real[0])
                at = out + c * between
                taps = (left, right, wx0, wx1)
                blend_values(source, a + c, b + c, top, bottom, *taps, gain, shift, target, at, across)
        for j in holes:
            for c in range(channels):
                store(real[0], target, out + j * across + c * between)


@inline
def _bilinear_interleaved(
    source, target, real, units, height, width, size, channels, image, planes, y, x, affine, planar
):
    """Eight rows at a time: vertical step into `[column][8]`, horizontal step there, and back."""
    y0, y1, wy0, wy1 = y
    x0, x1, wx0, wx1 = x
    h, w = size
    columns = max(_TILE // channels, LANES)
    begin, end = _tiles(x0, x1, channels, columns, width)
    left, right = _columns(x0, begin, channels, columns), _columns(x1, begin, channels, columns)
    place = _places(w, channels, columns, planar)
    w_left, w_right = np.repeat(wx0, channels), np.repeat(wx1, channels)
    band_rows = np.empty((end - begin).max() * LANES, real.dtype)
    tile = np.empty(columns * channels * LANES, real.dtype)
    inner = 1 if planar else channels
    empty_offset, empty = _empty_columns(x0, inner, columns)
    upper, lower, out = np.empty(LANES, np.int64), np.empty(LANES, np.int64), np.empty(LANES, np.int64)
    w_upper, w_lower = np.empty(LANES, real.dtype), np.empty(LANES, real.dtype)
    skip = np.empty(LANES, np.bool_)
    runs = channels if planar else 1
    for unit in range(units[0], units[1]):
        plane, i = unit * LANES // h, unit * LANES % h
        for k in range(LANES):
            base = (image * planes + plane) * height
            skip[k] = y0[i] < 0
            upper[k] = (base + max(y0[i], 0)) * width * channels
            lower[k] = (base + max(y1[i], 0)) * width * channels
            w_upper[k], w_lower[k] = wy0[i], wy1[i]
            out[k] = (image * planes + plane) * h * w * channels + i * w * (1 if planar else channels)
            plane, i = _next_row(plane, i, planes, h)
        # Long rows: a few cache lines on; short ones: eight rows on, where the next unit reads.
        ahead = _AHEAD if width * channels > 8 * _AHEAD else (upper[LANES - 1] - upper[0]) * LANES // (LANES - 1)
        for t in range(len(begin)):
            lo, hi = t * columns, min((t + 1) * columns, w)
            read = (begin[t], end[t] - begin[t])
            blend_rows(source, upper, lower, w_upper, w_lower, *read, band_rows, ahead)
            blend_columns(band_rows, left, right, w_left, w_right, place, lo * channels, hi * channels, tile)
            holes = empty[empty_offset[t] : empty_offset[t + 1]]
            _store_tile(
                tile, columns, lo * inner, (hi - lo) * inner, h * w, holes, target, out, skip, real, *affine, runs
            )


@jit
def _bilinear(table, windows, extents, like, like_out, real, scale, bias, planar, part, parts):
    for level in range(len(table)):
        source_at, target_at, images, planes, height, width, channels, h, w, at = table[level]
        source = flat(source_at, images * planes * height * width * channels, like)
        target = flat(target_at, images * planes * h * w * channels, like_out)
        units = (planes * h + LANES - 1) // LANES
        all_units = images * units
        for image in range(images):
            lo = min(max(part * all_units // parts - image * units, 0), units)
            hi = min(max((part + 1) * all_units // parts - image * units, 0), units)
            if lo == hi:
                continue
            row = windows[image if len(windows) > 1 else 0]
            y = _two_taps(row[:, at : at + h], _extent(extents, image, level, 0, height), real)
            x = _two_taps(row[:, at + h : at + h + w], _extent(extents, image, level, 1, width), real)
            shape = (height, width, (h, w), channels, image, planes, y, x, (scale, bias), planar)
            many = channels >= _DIRECT_CHANNELS and not planar
            if many or width > _DIRECT_RATIO * w or width * channels < LANES:
                rows = (lo * LANES, min(hi * LANES, planes * h))
                _bilinear_direct(source, target, real, rows, *shape)
            else:
                _bilinear_interleaved(source, target, real, (lo, hi), *shape)


# --- any number of taps: antialiased resampling, and every adjoint ----------------------------------------------------


@inline
def _banded_rows(source, target, real, units, height, width, size, channels, image, planes, y, x, affine, planar):
    y_start, y_offset, y_weight = y
    x_start, x_offset, x_weight = x
    h, w = size
    first_tap = np.where(x_offset[1:] > x_offset[:-1], x_start, -1)
    last_tap = x_start + x_offset[1:] - x_offset[:-1] - 1
    columns = max(_TILE // channels, LANES)
    begin, end = _tiles(first_tap, last_tap, channels, columns, width)
    start, place = _columns(first_tap, begin, channels, columns), _places(w, channels, columns, planar)
    tap, taps = np.repeat(x_offset[:-1], channels), np.repeat(x_offset[1:] - x_offset[:-1], channels)
    stride = channels * LANES
    length = max((end - begin).max(), LANES)
    rows = np.zeros(length * LANES, real.dtype)
    band_rows = np.empty(length * LANES, real.dtype)
    tile = np.empty(columns * channels * LANES, real.dtype)
    inner = 1 if planar else channels
    empty_offset, empty = _empty_columns(first_tap, inner, columns)
    out, skip = np.empty(LANES, np.int64), np.empty(LANES, np.bool_)
    runs = channels if planar else 1
    for unit in range(units[0], units[1]):
        for t in range(len(begin)):
            lo, hi = t * columns, min((t + 1) * columns, w)
            first, count = begin[t], end[t] - begin[t]
            plane, i = unit * LANES // h, unit * LANES % h
            for k in range(LANES):
                out[k] = (image * planes + plane) * h * w * channels + i * w * (1 if planar else channels)
                rows_read = y_offset[i + 1] - y_offset[i]
                skip[k] = rows_read == 0
                line = rows[k * length : k * length + count]
                at = ((image * planes + plane) * height + y_start[i]) * width * channels + first
                for row in range(rows_read):
                    weight = y_weight[y_offset[i] + row]
                    if row == 0:
                        for q in range(count):
                            line[q] = weight * load(source, at + q, real[0])
                    else:
                        for q in range(count):
                            line[q] += weight * load(source, at + q, real[0])
                    at += width * channels
                plane, i = _next_row(plane, i, planes, h)
            interleave_rows(rows, length, max(count, LANES), band_rows)
            lo_value, hi_value = lo * channels, hi * channels
            sum_columns(band_rows, start, stride, tap, taps, x_weight, place, lo_value, hi_value, tile)
            holes = empty[empty_offset[t] : empty_offset[t + 1]]
            _store_tile(
                tile, columns, lo * inner, (hi - lo) * inner, h * w, holes, target, out, skip, real, *affine, runs
            )


@jit
def _banded(table, windows, extents, like, like_out, real, scale, bias, planar, adjoint, part, parts):
    for level in range(len(table)):
        source_at, target_at, images, planes, height, width, channels, h, w, at = table[level]
        source_size, size = ((h, w), (height, width)) if adjoint else ((height, width), (h, w))
        source = flat(source_at, images * planes * source_size[0] * source_size[1] * channels, like)
        target = flat(target_at, images * planes * size[0] * size[1] * channels, like_out)
        units = (planes * size[0] + LANES - 1) // LANES
        all_units = images * units
        for image in range(images):
            lo = min(max(part * all_units // parts - image * units, 0), units)
            hi = min(max((part + 1) * all_units // parts - image * units, 0), units)
            if lo == hi:
                continue
            row = windows[image if len(windows) > 1 else 0]
            y = band(row[:, at : at + h], _extent(extents, image, level, 0, height), real)
            x = band(row[:, at + h : at + h + w], _extent(extents, image, level, 1, width), real)
            if adjoint:
                y, x = transposed(*y, height), transposed(*x, width)
            shape = (source_size[0], source_size[1], size, channels, image, planes, y, x, (scale, bias), planar)
            _banded_rows(source, target, real, (lo, hi), *shape)


# --- gradient to the windows ------------------------------------------------------------------------------------------


@inline
def _rows_by_weight(source, grad, real, rows, height, width, size, channels, image, planes, y, x, by_y, by_x):
    """Adds the gradient of the weights of both bands over some rows of the planes of one image."""
    y_start, y_offset, y_weight = y
    x_start, x_offset, x_weight = x
    h, w = size
    line, spread = np.empty(width * channels, real.dtype), np.empty(width * channels, real.dtype)
    for r in range(rows[0], rows[1]):
        plane, i = r // h, r % h
        if y_offset[i + 1] == y_offset[i]:
            continue
        at = ((image * planes + plane) * height + y_start[i]) * width * channels
        g = ((image * planes + plane) * h + i) * w * channels
        line[:] = 0
        spread[:] = 0
        for tap in range(y_offset[i], y_offset[i + 1]):
            row = at + (tap - y_offset[i]) * width * channels
            for q in range(width * channels):
                line[q] += y_weight[tap] * load(source, row + q, real[0])
        for j in range(w):
            for tap in range(x_offset[j], x_offset[j + 1]):
                q = (x_start[j] + tap - x_offset[j]) * channels
                total = real[0]
                for c in range(channels):
                    value = load(grad, g + j * channels + c, real[0])
                    total += value * line[q + c]
                    spread[q + c] += x_weight[tap] * value
                by_x[tap] += total
        for tap in range(y_offset[i], y_offset[i + 1]):
            row = at + (tap - y_offset[i]) * width * channels
            total = real[0]
            for q in range(width * channels):
                total += spread[q] * load(source, row + q, real[0])
            by_y[tap] += total


@jit
def _windows_grad(table, windows, extents, like, real, partial, part, parts):
    for level in range(len(table)):
        source_at, grad_at, images, planes, height, width, channels, h, w, at = table[level]
        source = flat(source_at, images * planes * height * width * channels, like)
        grad = flat(grad_at, images * planes * h * w * channels, like)
        for image in range(images):
            row = windows[image if len(windows) > 1 else 0]
            y = band(row[:, at : at + h], _extent(extents, image, level, 0, height), real)
            x = band(row[:, at + h : at + h + w], _extent(extents, image, level, 1, width), real)
            shape = (height, width, (h, w), channels, image, planes, y, x)
            for chunk in range(part * _CHUNKS // parts, (part + 1) * _CHUNKS // parts):
                by_y, by_x = np.zeros(len(y[2])), np.zeros(len(x[2]))
                rows = (chunk * planes * h // _CHUNKS, (chunk + 1) * planes * h // _CHUNKS)
                _rows_by_weight(source, grad, real, rows, *shape, by_y, by_x)
                result = partial[chunk, image]
                chain_to_windows(row[:, at : at + h], *y, by_y, result[:, at : at + h])
                chain_to_windows(row[:, at + h : at + h + w], *x, by_x, result[:, at + h : at + h + w])


@jit
def _reduce(partial, result):
    for i in range(2):
        for k in range(partial.shape[3]):
            for b in range(len(result)):
                result[b, i, k] = 0
            total = 0.0
            for b in range(partial.shape[1]):
                for chunk in range(partial.shape[0]):
                    total += partial[chunk, b, i, k]
                if len(result) == partial.shape[1]:
                    result[b, i, k] = total
                    total = 0.0
            if len(result) != partial.shape[1]:
                result[0, i, k] = total


# --- launchers --------------------------------------------------------------------------------------------------------


def _like(dtype: torch.dtype) -> np.ndarray:
    return np.empty(0, _STORAGE.get(dtype) or torch.empty(0, dtype=dtype).numpy().dtype)


def _real(dtype: torch.dtype) -> np.ndarray:
    """0 and 1 of the type that accumulates: literals of the kernels would be float64."""
    return np.array([0, 1], np.float64 if dtype == torch.float64 else np.float32)


def _table(
    sources: list[Tensor], results: list[Tensor], shapes: list[torch.Size], sizes: list[int], format_: list, alike: bool
) -> np.ndarray:
    """A row of addresses and sizes for each level.

    Args:
        sources: what is read, dense in its memory format.
        results: what is written, or compared with (the gradient of the result), likewise.
        shapes: shapes `[B, C, H, W]` of the images.
        sizes: target sizes `[h1, w1, ...]`.
        format_: memory format of each level.
        alike: all images have the same windows, so that their planes are one long list.
    """
    rows, first = [], 0
    for level, (batch, channels, height, width) in enumerate(shapes):
        h, w = sizes[2 * level : 2 * level + 2]
        inner = channels if format_[level] == torch.channels_last else 1
        planes = channels // inner if channels else 0
        groups = (1, batch * planes) if alike else (batch, planes)
        addresses = (sources[level].data_ptr(), results[level].data_ptr())
        rows.append((*addresses, *groups, height, width, inner, h, w, first))
        first += h + w
    return np.array(rows, np.int64)


def _dense(tensors: list[Tensor], formats: list[torch.memory_format]) -> list[Tensor]:
    return [t.detach().contiguous(memory_format=f) for t, f in zip(tensors, formats, strict=True)]


def _alike(windows: Tensor, source_valid: Tensor | None) -> bool:
    return len(windows) == 1 and (source_valid is None or len(source_valid) == 1)


def _extents(source_valid: Tensor | None) -> np.ndarray:
    return _NO_EXTENTS if source_valid is None else source_valid.numpy()


def _values(tensors: list[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def resample(
    images: list[Tensor], windows: Tensor, sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    """Resamples levels `[B, C, H, W]` by windows `[1 or B, 2, sum(sizes)]`; one parallel region for all of them.

    Args:
        images: any strides, one dtype: uint8, fp16, bf16, fp32, fp64.
        windows: as `axis.axis_windows` returns.
        sizes: target sizes `[h1, w1, ...]`.
        source_valid: int64 `[1 or B, levels, 2]` or None; pixels from there on are never read.
        antialias: half-widths can be above 1.
    """
    formats = [memory_format(i) for i in images]
    images = _dense(images, formats)
    results = [
        empty_image((*image.shape[:2], *sizes[2 * i : 2 * i + 2]), image.dtype, format_)
        for i, (image, format_) in enumerate(zip(images, formats, strict=True))
    ]
    _launch(images, results, [i.shape for i in images], windows, sizes, source_valid, formats, antialias, False)
    return results


def _launch(sources, results, shapes, windows, sizes, source_valid, formats, antialias, adjoint):
    if not _values(results):
        return
    real = _real(sources[0].dtype)
    table = _table(sources, results, shapes, sizes, formats, _alike(windows, source_valid))
    like = _like(sources[0].dtype)
    args = (table, windows.detach().numpy(), _extents(source_valid), like, like, real, real, real, False)
    work = max(_values(sources), _values(results))
    if antialias or adjoint:
        run(_banded, (*args, adjoint), work)
    else:
        run(_bilinear, args, work)


def resample_adjoint(
    grads: list[Tensor], windows: Tensor, source_sizes: list[int], source_valid: Tensor | None, antialias: bool
) -> list[Tensor]:
    """Gradients `[B, C, H, W]` to the images of `resample`, from those of the results, in their memory formats."""
    formats = [memory_format(g) for g in grads]
    grads = _dense(grads, formats)
    results = [
        empty_image((*g.shape[:2], *source_sizes[2 * i : 2 * i + 2]), g.dtype, format_)
        for i, (g, format_) in enumerate(zip(grads, formats, strict=True))
    ]
    sizes = [side for g in grads for side in g.shape[2:]]
    _launch(grads, results, [r.shape for r in results], windows, sizes, source_valid, formats, antialias, True)
    return results


def windows_gradient(
    grads: list[Tensor], images: list[Tensor], windows: Tensor, source_valid: Tensor | None, antialias: bool
) -> Tensor:
    """Gradient to the windows of `resample`; summed over the images where they share their windows."""
    formats = [memory_format(i) for i in images]
    grads, images = _dense(grads, formats), _dense(images, formats)
    sizes = [side for g in grads for side in g.shape[2:]]
    alike = _alike(windows, source_valid)
    table = _table(images, grads, [i.shape for i in images], sizes, formats, alike)
    partial = np.zeros((_CHUNKS, 1 if alike else max(len(i) for i in images), *windows.shape[1:]))
    real = _real(images[0].dtype)
    arrays = (windows.detach().numpy(), _extents(source_valid), _like(images[0].dtype), real, partial)
    if _values(grads):
        run(_windows_grad, (table, *arrays), 4 * _values(grads))
    result = torch.empty(windows.shape, dtype=windows.dtype)
    _reduce(partial, result.numpy())
    return result


def camera(
    frame: Tensor,
    windows: Tensor,
    size: list[int],
    scale: list[float],
    bias: list[float],
    dtype: torch.dtype,
    source_valid: Tensor | None,
    antialias: bool,
) -> Tensor:
    """uint8 frames `[B, H, W, C]` -> resampled, `value * scale + bias`, `[B, C, *size]`, in one pass."""
    image = frame.contiguous().permute(0, 3, 1, 2)
    batch, channels = image.shape[:2]
    result = empty_image((batch, channels, *size), dtype, torch.contiguous_format)
    if not result.numel():
        return result
    table = _table([image], [result], [image.shape], size, [torch.channels_last], _alike(windows, source_valid))
    real = _real(dtype)
    affine = (np.array(scale, real.dtype), np.array(bias, real.dtype))
    arrays = (windows.detach().numpy(), _extents(source_valid), _like(frame.dtype), _like(dtype), real)
    args = (table, *arrays, *affine, True)
    if antialias:
        run(_banded, (*args, False), frame.numel())
    else:
        run(_bilinear, args, frame.numel())
    return result
