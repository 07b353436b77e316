"""Resampling of images at the windows of dense grids."""

from fastwarp.kernels.cpu._grid_taps import (
    arrays_of_taps,
    box_of,
    field_of,
    footprints_from,
    lefts,
    offsets_of,
    pairs_at,
    rights,
    taps_of,
    twice,
)
from fastwarp.kernels.cpu._levels import size_of, source_plane
from fastwarp.kernels.cpu._parallel import inline, parallel
from fastwarp.kernels.cpu._rows import LANES, PIXEL
from fastwarp.kernels.cpu._separable_taps import runs
from fastwarp.kernels.cpu._vector import (
    full,
    hold,
    join,
    lane,
    load,
    load_as,
    pointer,
    prefetch,
    shuffle,
    store,
    tuple_setitem,
)

_RUN = 4096  # values of targets whose taps are found at a time: those stay in L2
_FOOTPRINTS = 1024  # targets whose footprints are found at a time, likewise
_AHEAD = 256  # targets between what is read and what is prefetched: the hardware does not follow slanted rows
_MANY = 4 * LANES  # channels that share a weight


@inline
def _prefetch_taps(source, base, taps, i):
    later = base + load(taps.offset, min(i + _AHEAD, taps.count - 1), 1)
    prefetch(source, later)
    prefetch(source, later + taps.down)


@inline
def _blend_targets(source, base, taps, first, channels, affine, target, place, one):
    """The targets from `first` on, one by one.

    `place` is where the run begins in `target`, and how far its pixels and their channels are apart.
    """
    down, right = taps.down, taps.right
    for i in range(first, taps.count):
        a = base + load(taps.offset, i, 1)
        b, c, d = a + right, a + down, a + down + right
        fy, fx = load(taps.fraction_y, i, 1), load(taps.fraction_x, i, 1)
        wa, wb, wc, wd = (one - fy) * (one - fx), (one - fy) * fx, fy * (one - fx), fy * fx
        out = place[0] + i * place[1]
        for k in range(channels):
            upper = wa * load_as(source, a + k, one) + wb * load_as(source, b + k, one)
            lower = wc * load_as(source, c + k, one) + wd * load_as(source, d + k, one)
            if affine is None:  # then the channels are neighbours
                store(upper + lower, target, out + k)
            else:
                value = (upper + lower) * load(affine[0], k, 1) + load(affine[1], k, 1)
                store(value, target, out + k * place[2])


@inline
def _fill_holes(taps, channels, zero, target, place):
    """Targets that read nothing are 0."""
    for n in range(taps.empty):
        i = load(taps.holes, n, 1)
        for c in range(channels):
            store(zero, target, place[0] + i * place[1] + c * place[2])


@inline
def _segment(level, segments, run):
    """The image of a run, its first target and the one after its last."""
    image, run = run // segments, run % segments
    return image, run * level.targets // segments, (run + 1) * level.targets // segments


# --- planes -----------------------------------------------------------------------------------------------------------


@inline
def _blend_plane(source, base, taps, target, out, one):
    """At least eight targets of one plane."""
    upper, lower = base, base + taps.down
    for block in range((taps.count + LANES - 1) // LANES):
        i = min(block * LANES, taps.count - LANES)  # the last block may overlap the one before
        _prefetch_taps(source, base, taps, i)
        fx, fy = load(taps.fraction_x, i, LANES), load(taps.fraction_y, i, LANES)
        x, of_upper, of_lower = offsets_of(taps, i), twice(1 - fy), twice(fy)
        a, c = pairs_at(source, upper, x, one), pairs_at(source, lower, x, one)
        first, second = a[0] * of_upper[0] + c[0] * of_lower[0], a[1] * of_upper[1] + c[1] * of_lower[1]
        store(lefts(first, second) * (1 - fx) + rights(first, second) * fx, target, out + i)


@inline
def _blend_planes(level, windows, extents, source, target, share, segments, arrays, real):
    planes, run, one = level.planes, -1, real[1]
    for unit in range(share[0], share[1]):
        image, lo, hi = _segment(level, segments, unit // planes)
        if unit // planes != run:
            taps = taps_of(level, field_of(windows, image), size_of(level, extents, image), lo, hi, arrays)
            run = unit // planes
        base = source_plane(level, image, unit % planes) * level.height * level.width
        out = (image * planes + unit % planes) * level.targets + lo
        if taps.empty < taps.count:
            if taps.count >= LANES and taps.right > 0:
                _blend_plane(source, base, taps, target, out, one)
            else:
                _blend_targets(source, base, taps, 0, 1, None, target, (out, 1, 1), one)
        _fill_holes(taps, 1, real[0], target, (out, 1, 1))


@parallel
def resample_planes(table, windows, extents, like, real, part, parts):
    """Two by two taps in images of one channel."""
    for number in range(len(table)):
        level = table[number]
        source, target = pointer(level.source, like), pointer(level.target, like)
        segments = max(level.targets // _RUN, 1)
        units = level.images * segments * level.planes
        arrays = arrays_of_taps((level.targets + segments - 1) // segments, real)
        share = part * units // parts, (part + 1) * units // parts
        _blend_planes(level, windows, extents, source, target, share, segments, arrays, real)


# --- pixels -----------------------------------------------------------------------------------------------------------


@inline
def _blend_pixel(source, at, taps, weights, k, one):
    """Four channels of target k of eight, whose first tap is at `at`, given the weights of rows and columns."""
    like = full(one, PIXEL)
    upper, lower, left, right = weights
    a, b = load_as(source, at, like), load_as(source, at + taps.right, like)
    c, d = load_as(source, at + taps.down, like), load_as(source, at + taps.down + taps.right, like)
    upper, lower = lane(upper, k), lane(lower, k)
    return (a * upper + c * lower) * lane(left, k) + (b * upper + d * lower) * lane(right, k)


@inline
def _weights_at(taps, i):
    """Weights of the upper, lower, left and right taps of eight targets."""
    fy, fx = load(taps.fraction_y, i, LANES), load(taps.fraction_x, i, LANES)
    return 1 - fy, fy, 1 - fx, fx


@inline
def _blend_pixels(source, base, taps, count, target, out, channels, one):
    """The first `count` >= 8 targets of a run of pixels of up to 4 channels.

    Reads and writes 4 channels: targets are made in their order, and the last of a run otherwise.
    """
    zero = full(one - one, PIXEL)
    pixels = (zero, zero, zero, zero, zero, zero, zero, zero)
    for block in range((count + LANES - 1) // LANES):
        i = min(block * LANES, count - LANES)
        _prefetch_taps(source, base, taps, i)
        weights = _weights_at(taps, i)
        # All eight before the first is stored: for all that LLVM knows, it might be read again.
        for k in range(LANES):
            at = base + load(taps.offset, i + k, 1)
            pixels = tuple_setitem(pixels, k, _blend_pixel(source, at, taps, weights, k, one))
        for k in range(LANES):
            store(pixels[k], target, out + (i + k) * channels)


_first_channel = shuffle(0, 4, 8, 12, 16, 20, 24, 28)
_second_channel = shuffle(1, 5, 9, 13, 17, 21, 25, 29)
_third_channel = shuffle(2, 6, 10, 14, 18, 22, 26, 30)
_fourth_channel = shuffle(3, 7, 11, 15, 19, 23, 27, 31)


@inline
def _blend_frame(source, base, taps, channels, affine, target, place, one):
    """A run of at least eight targets of 2, 3 or 4 channels, which come apart, scaled and shifted."""
    at, step, last = place[0], place[2], channels - 1
    scale = load(affine[0], 0, 1), load(affine[0], 1, 1), load(affine[0], min(2, last), 1), load(affine[0], last, 1)
    bias = load(affine[1], 0, 1), load(affine[1], 1, 1), load(affine[1], min(2, last), 1), load(affine[1], last, 1)
    for block in range((taps.count + LANES - 1) // LANES):
        i = min(block * LANES, taps.count - LANES)
        _prefetch_taps(source, base, taps, i)
        x, weights = offsets_of(taps, i), _weights_at(taps, i)
        a = join(
            _blend_pixel(source, base + x[0], taps, weights, 0, one),
            _blend_pixel(source, base + x[1], taps, weights, 1, one),
        )
        b = join(
            _blend_pixel(source, base + x[2], taps, weights, 2, one),
            _blend_pixel(source, base + x[3], taps, weights, 3, one),
        )
        c = join(
            _blend_pixel(source, base + x[4], taps, weights, 4, one),
            _blend_pixel(source, base + x[5], taps, weights, 5, one),
        )
        d = join(
            _blend_pixel(source, base + x[6], taps, weights, 6, one),
            _blend_pixel(source, base + x[7], taps, weights, 7, one),
        )
        low, high = join(a, b), join(c, d)
        store(_first_channel(low, high) * scale[0] + bias[0], target, at + i)
        store(_second_channel(low, high) * scale[1] + bias[1], target, at + step + i)
        if channels > 2:
            store(_third_channel(low, high) * scale[2] + bias[2], target, at + 2 * step + i)
        if channels > 3:
            store(_fourth_channel(low, high) * scale[3] + bias[3], target, at + 3 * step + i)


@inline
def _last_offset(taps):
    last = 0
    for i in range(taps.count):
        last = max(last, load(taps.offset, i, 1))
    return last


@inline
def _blend_run(source, base, length, taps, channels, affine, target, place, one):
    """A run of targets; the source has `length` values."""
    done = 0
    if (
        taps.count > LANES
        and 2 <= channels <= PIXEL
        and base + _last_offset(taps) + taps.down + taps.right + PIXEL <= length
    ):
        if affine is None:
            done = taps.count - (channels < PIXEL)
            _blend_pixels(source, base, taps, done, target, place[0], channels, one)
        else:
            done = taps.count
            _blend_frame(source, base, taps, channels, affine, target, place, one)
    _blend_targets(source, base, taps, done, channels, affine, target, place, one)


@inline
def _blend_planes_of_pixels(level, windows, extents, source, target, share, segments, arrays, affine, real):
    planes, channels, run = level.planes, level.channels, -1
    plane_size = level.height * level.width * channels
    for unit in range(share[0], share[1]):
        image, lo, hi = _segment(level, segments, unit // planes)
        if unit // planes != run:
            taps = taps_of(level, field_of(windows, image), size_of(level, extents, image), lo, hi, arrays)
            run = unit // planes
        out = (image * planes + unit % planes) * level.targets * channels
        if affine is None:
            place = out + lo * channels, channels, 1
        else:
            place = out + lo, 1, level.targets
        if taps.empty < taps.count:
            base = source_plane(level, image, unit % planes) * plane_size
            length = level.sources * planes * plane_size
            _blend_run(source, base, length, taps, channels, affine, target, place, real[1])
        _fill_holes(taps, channels, real[0], target, place)


@parallel
def resample_pixels(table, windows, extents, like, like_out, real, affine, part, parts):
    """Two by two taps in images of several channels. `affine` are scales and biases of the channels, which then come
    apart, or None."""
    for number in range(len(table)):
        level = table[number]
        source, target = pointer(level.source, like), pointer(level.target, like_out)
        segments = max(level.targets * level.channels // _RUN, 1)
        units = level.images * segments * level.planes
        arrays = arrays_of_taps((level.targets + segments - 1) // segments, real)
        share = part * units // parts, (part + 1) * units // parts
        _blend_planes_of_pixels(level, windows, extents, source, target, share, segments, arrays, affine, real)


# --- footprints -------------------------------------------------------------------------------------------------------


@inline
def _sum_box(source, at, box, y, x, stride, channels, zero):
    """The sum over a footprint that begins at `at`, of as many channels as `zero` has lanes."""
    total = zero
    for a in range(box.rows):
        of_row, row = load(y.weight, box.row_weights + a, 1), at + a * stride
        for b in range(box.columns):
            weight = of_row * load(x.weight, box.column_weights + b, 1)
            total = total + load_as(source, row + b * channels, zero) * weight
    return total


@inline
def _sum_boxes(level, source, base, y, x, count, affine, target, place, zero):
    """Some targets of a plane; `place` as of `_blend_targets`."""
    channels, stride = level.channels, level.width * level.channels
    for k in range(count):
        box, out, done = box_of(y, x, k), place[0] + k * place[1], 0
        at = base + box.row * stride + box.column * channels
        if affine is None:
            for c in range(0, channels - _MANY + 1, _MANY):
                store(_sum_box(source, at + c, box, y, x, stride, channels, full(zero, _MANY)), target, out + c)
                done = c + _MANY
            for c in range(done, channels - LANES + 1, LANES):
                store(_sum_box(source, at + c, box, y, x, stride, channels, full(zero, LANES)), target, out + c)
                done = c + LANES
        for c in range(done, channels):
            value = _sum_box(source, at + c, box, y, x, stride, channels, zero)
            if affine is not None and box.rows > 0 and box.columns > 0:
                value = value * load(affine[0], c, 1) + load(affine[1], c, 1)
            store(value, target, out + c * place[2])


@inline
def _sum_planes(level, image, source, target, lo, hi, taps, affine, zero):
    """The targets `lo .. hi` of all planes of an image."""
    y, x = taps
    channels, planes = level.channels, level.planes
    for plane in range(planes):
        base = source_plane(level, image, plane) * level.height * level.width * channels
        out = (image * planes + plane) * level.targets * channels
        place = (out + lo * channels, channels, 1) if affine is None else (out + lo, 1, level.targets)
        _sum_boxes(level, source, base, y, x, hi - lo, affine, target, place, zero)


@parallel
def resample_footprints(table, windows, extents, like, like_out, real, affine, part, parts):
    """Any footprints. `affine` as of `resample_pixels`."""
    for number in range(len(table)):
        level = table[number]
        source, target = pointer(level.source, like), pointer(level.target, like_out)
        segments = (level.targets + _FOOTPRINTS - 1) // _FOOTPRINTS
        units = level.images * segments
        for unit in range(part * units // parts, (part + 1) * units // parts):
            image, lo, hi = _segment(level, segments, unit)
            of = footprints_from(field_of(windows, image), level.first + lo, hi - lo, size_of(level, extents, image))
            taps = runs(of.y, real), runs(of.x, real)
            hold(of)
            _sum_planes(level, image, source, target, lo, hi, taps, affine, real[0])
