"""Resampling at windows of two rows: four taps a target."""

import numpy as np

from fastwarp.kernels.cpu._grid_simd import blend_frame, blend_pixels, blend_plane
from fastwarp.kernels.cpu._grid_taps import extents_of, holes, steps, taps
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._simd import LANES, flat, load, store

_RUN = 4096  # values of targets whose taps are found at a time: those stay in L2


@inline
def _values(source, base, step, offset, fraction_y, fraction_x, which, channels, scale, bias, planar, target, out):
    """Targets one by one: many channels, or what is left over by vectors. `out` is where the run starts, and how far
    its pixels and its channels are apart."""
    down, right = step
    one = scale.dtype.type(1)
    for i in range(which[0], which[1]):
        a = base + offset[i]
        b, c, d = a + right, a + down, a + down + right
        fy, fx = fraction_y[i], fraction_x[i]
        wa, wb, wc, wd = (one - fy) * (one - fx), (one - fy) * fx, fy * (one - fx), fy * fx
        at = out[0] + i * out[1]
        if planar:
            for k in range(channels):
                upper = wa * load(source, a + k, one) + wb * load(source, b + k, one)
                lower = wc * load(source, c + k, one) + wd * load(source, d + k, one)
                store((upper + lower) * scale[k] + bias[k], target, at + k * out[2])
        else:
            for k in range(channels):
                upper = wa * load(source, a + k, one) + wb * load(source, b + k, one)
                lower = wc * load(source, c + k, one) + wd * load(source, d + k, one)
                store(upper + lower, target, at + k)


@inline
def _run(source, base, step, offset, fraction_y, fraction_x, channels, scale, bias, planar, target, out):
    count = len(offset)
    down, right = step
    done = 0
    if count >= LANES and not planar and channels == 1 and right == 1:
        blend_plane(source, base, offset, down, fraction_y, fraction_x, count, target, out[0])
        done = count
    elif 2 <= channels <= 4 and base + offset.max() + down + right + 4 <= len(source):
        taps_of = (source, base, offset, down, right, fraction_y, fraction_x)
        if planar and count >= LANES:
            blend_frame(*taps_of, count, channels, scale, bias, target, out[0], out[2])
            done = count
        elif not planar and count >= LANES + 1:
            done = count - (channels < 4)
            blend_pixels(*taps_of, done, channels, target, out[0], out[1])
    which = (done, count)
    _values(source, base, step, offset, fraction_y, fraction_x, which, channels, scale, bias, planar, target, out)


@parallel
def bilinear(table, windows, extents, like, like_out, real, scale, bias, planar, part, parts):
    for level in range(len(table)):
        source_at, target_at, images, planes, sources, height, width, channels, count, at = table[level]
        source = flat(source_at, sources * planes * height * width * channels, like)
        target = flat(target_at, images * planes * count * channels, like_out)
        runs = max(count * channels // _RUN, 1)
        units, made = images * runs * planes, -1
        offset, fraction_y, fraction_x = np.empty(0, np.int64), real[:0], real[:0]
        empty = offset
        for unit in range(part * units // parts, (part + 1) * units // parts):
            image, run, plane = unit // planes // runs, unit // planes % runs, unit % planes
            lo, hi = run * count // runs, (run + 1) * count // runs
            size = extents_of(extents, image, level, height, width)
            reads = min(size) > 0
            if unit // planes != made:
                row = windows[image if len(windows) > 1 else 0]
                empty = holes(row, at + lo, at + hi) if reads else np.arange(hi - lo)
                if reads:
                    offset, fraction_y, fraction_x = taps(row, at + lo, at + hi, size, width, channels, real)
                made = unit // planes
            out = (image * planes + plane) * count * channels
            out, apart, between = (out + lo, 1, count) if planar else (out + lo * channels, channels, 1)
            if reads:
                base = ((image if sources > 1 else 0) * planes + plane) * height * width * channels
                step = steps(size, width, channels)
                place = (out, apart, between)
                _run(source, base, step, offset, fraction_y, fraction_x, channels, scale, bias, planar, target, place)
            for i in empty:
                for c in range(channels):
                    store(real[0], target, out + i * apart + c * between)
