"""One axis of an image in a TensorFlow graph: its sizes, its windows, and what its pixels depend on.

Sizes are Python integers where they are known, so that what follows from those alone becomes a
constant, and else scalar tensors.
"""

from typing import Any, NamedTuple

from keras import ops

from keras_encnet.layers.resize import hat, interpolation_source

# === Sizes ===


def known(*sizes):
    return all(isinstance(side, int) for side in sizes)


def least(a, b):
    return min(a, b) if known(a, b) else ops.minimum(a, b)


def most(a, b):
    return max(a, b) if known(a, b) else ops.maximum(a, b)


def fitted(size, bound):
    """`size` times the ratio by which it fits into `bound`, rounded; in integers, so exactly."""
    long, short = most(*size), least(*size)
    by_long = max(bound) * short <= min(bound) * long
    if known(long, short):
        to, of = (max(bound), long) if by_long else (min(bound), short)
    else:
        to = ops.where(by_long, max(bound), min(bound))
        of = ops.where(by_long, long, short)
    return tuple((2 * side * to + of) // (2 * of) for side in size)


# === An axis ===


class Axis(NamedTuple):
    """An axis of `size` pixels that is resized to `view` pixels, of which windows are cut.

    There are `count` windows of `length` pixels, each `stride` behind the one before; `shifted`
    tells whether the last one is shifted back inside. A pixel of the image depends on windows of
    which `overlap` lie between the first and the last at most."""

    size: Any
    view: Any
    count: Any
    length: Any
    stride: Any
    shifted: bool
    overlap: int

    def start(self, number):
        """The first pixel of a window."""
        start = number * self.stride
        return ops.minimum(start, self.view - self.length) if self.shifted else start

    @property
    def resized(self):
        same = self.size is self.view or (known(self.size, self.view) and self.size == self.view)
        return not same


def axes_of(size, view, rule):
    """The axes of images of `size` that are resized to `view` and cut by a `Rule`."""
    shifted = rule.protocol != "pytorch-encoding"
    if not rule.window:
        return [axis_of(*sides, None, None, shifted) for sides in zip(size, view, strict=True)]
    sides = zip(size, view, rule.window, rule.stride, strict=True)
    return [axis_of(*each, shifted) for each in sides]


def axis_of(size, view, length, stride, shifted):
    """The `Axis` for windows of `length`, `None` for one that is everything."""
    if length is None:
        return Axis(size, view, 1, view, view, True, 0)
    # With one for the window that is shifted back, and for the pixel that resizing looks at as well.
    overlap = -(-length // stride)
    count = (most(view - length, 0) + stride - 1) // stride + 1
    length = least(length, view) if shifted else length
    return Axis(size, view, count, length, stride, shifted, overlap)


# === What pixels depend on ===


def settled(axis, number, align_corners):
    """How many pixels of the image depend on no window behind this one."""
    following = axis.start(number + 1)
    if axis.resized:
        source = interpolation_source(ops.arange(axis.size), axis.view, axis.size, align_corners)
        following = ops.sum(ops.cast(ops.cast(source, "int32") + 1 < following, "int32"))
    return ops.where(number + 1 < axis.count, following, axis.size)


def pixels_of_view(axis, pixels, align_corners):
    """From which pixels of the view those of the image come.

    `pixels` is `(tiles, n)`, ascending. Returns `(tiles, v)` pixels, the last of which may be beyond
    the border, and their weights `(tiles, n, v)`, or `None` where nothing is resized."""
    if not axis.resized:
        return pixels, None
    source = interpolation_source(pixels, axis.view, axis.size, align_corners)
    span = span_of_view(axis, ops.shape(pixels)[1])
    seen = ops.cast(source[:, :1], "int32") + ops.arange(span)
    return seen, hat(source, seen)


def span_of_view(axis, pixels):
    """How many pixels of the view a number of pixels of the image on end depend on, at most."""
    return pixels * axis.view // axis.size + 3 if axis.resized else pixels


def span_of_samples(axis, pixels, coarse):
    """How many samples of a window a number of pixels of the view on end depend on, at most."""
    return least(coarse, pixels * coarse // axis.length + 3)


def windows_at(axis, pixels):
    """The numbers `(tiles, k)` of all windows that hold any of `pixels` `(tiles, v)`."""
    span, first = ops.shape(pixels)[1], pixels[:, :1]
    if known(axis.count) and axis.count == 1:
        return ops.zeros_like(first)
    count = least(axis.count, (span + axis.length) // axis.stride + 2)
    first = ops.maximum(first - axis.length + axis.stride, 0) // axis.stride
    return ops.minimum(first, axis.count - count) + ops.arange(count)


def samples_of_windows(axis, pixels, numbers, coarse, align_corners):
    """From which of their `coarse` samples windows know pixels.

    For `pixels` `(tiles, v)`, ascending, and `numbers` `(tiles, k)`, negative where there is no such
    window, returns samples `(tiles, k, m)`, their weights `(tiles, k, v, m)`, and each window's share
    `(tiles, k, v)` in the mean over those that hold a pixel."""
    offsets = ops.expand_dims(pixels, 1) - ops.expand_dims(axis.start(numbers), 2)
    inside = (offsets >= 0) & (offsets < axis.length) & ops.expand_dims(numbers >= 0, 2)
    inside = ops.cast(inside, "float32")
    shares = inside / ops.maximum(ops.sum(inside, axis=1, keepdims=True), 1)
    source = interpolation_source(offsets, coarse, axis.length, align_corners)
    count = span_of_samples(axis, ops.shape(pixels)[1], coarse)
    first = ops.minimum(ops.cast(source[:, :, :1], "int32"), coarse - count)
    samples = first + ops.arange(count)
    return samples, hat(source, samples), shares


def first_sample(axis, number, following, coarse, align_corners):
    """The first sample of windows of these numbers that pixels depend on which are not final before
    the window `following`."""
    offset = axis.start(following) - 1 - axis.start(number)
    return ops.cast(interpolation_source(offset, coarse, axis.length, align_corners), "int32")
