"""How an image is looked at: resized, cut into windows, and put together again from coarse logits.

This is the one definition, for NumPy (`segmenting`) and for exported graphs (`export`). A size is an
integer where it is known and a scalar tensor where it is not, and an index is an array or a tensor:
what follows from known sizes alone is a constant of the graph.

Both code bases resize logits twice, from the head to the window and from the resized image to the
original. Each step is linear and separable, so each axis of an image is one matrix (`Block`), from the
coarse samples of the windows straight to the pixels of the image.
"""

import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_encnet.data.conventions import MIN_SIZE, is_integer
from keras_encnet.layers.resize import interpolation_source, triangle_weights

# === Rules ===


class Protocol(NamedTuple):
    """What differs between the ways in which the code bases look at an image.

    - `shift_back`: the last window is shifted back inside. Otherwise it reaches over the border,
      where it is black.
    - `aligned_resize`: images are resized with aligned corners and not rounded. Otherwise as OpenCV
      does it.
    - `exponential`: a window's score is exp(logits + logits of its mirror image), and scores are
      averaged. Otherwise logits are averaged where windows overlap, and the softmax over several
      views; for a mirror image the whole image is mirrored.
    - `ratios_of_image`: several ratios are of the image itself. Otherwise they multiply the sides
      that `resize` names, rounded by `round_side`.
    - `scale_first`: an image's sides are multiplied by a rounded quotient.
    """

    shift_back: bool = True
    aligned_resize: bool = False
    exponential: bool = False
    ratios_of_image: bool = False
    round_side: Callable[[float], int] = int
    scale_first: bool = True


PROTOCOLS = {
    "mmsegmentation": Protocol(ratios_of_image=True),
    "mmsegmentation-0.x": Protocol(),
    "pytorch-encoding": Protocol(
        shift_back=False,
        aligned_resize=True,
        exponential=True,
        round_side=math.ceil,
        scale_first=False,
    ),
}


class Rule(NamedTuple):
    """A model's `evaluation` and the arguments of `segment`, checked and put together."""

    resize: tuple | None
    window: tuple | None
    stride: tuple | None
    protocol: Protocol


def evaluation_rule(
    evaluation: dict | None, *, resize=None, window=None, stride=None, ratios=(1.0,), protocol=None
) -> Rule:
    """The `Rule` of a model's `evaluation`, overridden by arguments of `segment`.

    Raises:
        ValueError: if a key is unknown or a value out of range.
    """
    if evaluation is not None and not isinstance(evaluation, Mapping):
        raise ValueError(f"`evaluation` must be a dict, or None. Received: {evaluation!r}")
    evaluation = dict(evaluation or {})
    unknown = set(evaluation) - {"resize", "window", "stride", "protocol"}
    if unknown:
        raise ValueError(
            "`evaluation` may have the keys 'resize', 'window', 'stride' and 'protocol'. "
            f"Received: {sorted(unknown)}"
        )
    name = evaluation.get("protocol", "mmsegmentation") if protocol is None else protocol
    if name not in tuple(PROTOCOLS):
        raise ValueError(f"`protocol` must be one of {', '.join(PROTOCOLS)}. Received: {name!r}")
    own_resize = _pair("resize", resize)
    if own_resize and PROTOCOLS[name].ratios_of_image and ratios != (1.0,):
        raise ValueError(
            "`resize` has no effect on `ratios`, which are of the original image in mmsegmentation "
            f"1.2.2. Received: resize={own_resize}, ratios={ratios}. For ratios of the resized image "
            "pass protocol='mmsegmentation-0.x'."
        )
    if window is None:
        window = evaluation.get("window")
        stride = evaluation.get("stride") if stride is None else stride
    window = _pair("window", window, MIN_SIZE)
    if stride is not None and not window:
        raise ValueError(f"`stride` needs a `window`. Received: stride={stride} and no window")
    if stride is False:
        raise ValueError("`stride` must be an integer of 1 or more, or a pair of them. Received: False")
    if window:
        # Two thirds, rounded up: 513 for 769, 320 for 480 and 384 for 576, as in both code bases.
        stride = _pair("stride", stride) or tuple(-(-2 * side // 3) for side in window)
        if any(step > side for step, side in zip(stride, window, strict=True)):
            raise ValueError(
                "`stride` must not be larger than `window`, or no window would see the pixels in "
                f"between. Received: stride={stride}, window={window}"
            )
    resize = _pair("resize", evaluation.get("resize")) if resize is None else own_resize
    return Rule(resize, window, stride, PROTOCOLS[name])


def check_ratios(ratios) -> tuple[float, ...]:
    """`ratios`, one number or several, as a tuple of positive floats."""
    several = list(ratios) if np.iterable(ratios) and not isinstance(ratios, str) else [ratios]
    numbers = all(isinstance(ratio, Real) and not isinstance(ratio, bool) for ratio in several)
    if not several or not numbers or not all(0 < ratio < math.inf for ratio in several):
        raise ValueError(f"`ratios` must be one or more positive numbers. Received: {ratios!r}")
    return tuple(map(float, several))


def _pair(name, value, least=1):
    if value is None or value is False:
        return None
    pair = tuple(value) if isinstance(value, (list, tuple, np.ndarray)) else (value, value)
    if len(pair) != 2 or not all(map(is_integer, pair)) or min(pair) < least:
        raise ValueError(
            f"`{name}` must be an integer of {least} or more, a pair of them, or False. "
            f"Received: {value!r}"
        )
    return int(pair[0]), int(pair[1])


# === Views and windows ===


class Axis(NamedTuple):
    """An axis of `size` pixels that is resized to `view` pixels, from which windows are cut.

    There are `count` windows of `length` pixels, each `stride` after the one before. The last one is
    shifted back inside if `shift_back`."""

    size: Any
    view: Any
    count: Any
    length: Any
    stride: Any
    shift_back: bool

    def start(self, number):
        """The first pixel of a window."""
        start = number * self.stride
        if not self.shift_back:
            return start
        return _namespace(start, self.view, self.length).minimum(start, self.view - self.length)

    @property
    def resized(self):
        return self.view is not self.size and not (_known(*self[:2]) and self.view == self.size)


def axes_of(size, rule: Rule, ratio: float | None = None) -> tuple[Axis, Axis]:
    """The two axes of an image of `size`, `(height, width)`, looked at as `rule` says.

    `ratio` is one of several; `None` is the single view without ratios."""
    view = _view_size(size, rule, ratio)
    windows = rule.window or (None, None), rule.stride or (None, None)
    return tuple(
        _axis(*sides, rule.protocol.shift_back) for sides in zip(size, view, *windows, strict=True)
    )


def _view_size(size, rule, ratio):
    protocol, bound = rule.protocol, rule.resize
    if ratio is not None and protocol.ratios_of_image:
        bound = [int(side * ratio + 0.5) for side in size]
    elif ratio is not None:
        bound = [protocol.round_side(side * ratio) for side in bound or size]
    return _fitted(size, bound, protocol.scale_first) if bound else size


def _fitted(size, bound, scale_first):
    """`size` times the smaller of the two ratios by which its sides fit into `bound`, rounded."""
    long, short = _larger(*size), _smaller(*size)
    if _known(*size):
        sides = (max(bound), long), (min(bound), short)
        to, of = min(sides, key=lambda pair: pair[0] / pair[1])
        if scale_first:
            return tuple(int(side * (to / of) + 0.5) for side in size)
        return tuple(int(side * to / of + 0.5) for side in size)
    # In integers, and so exact. The rounded quotient above makes one pixel of difference for a few of
    # a million sizes.
    by_long = max(bound) * short <= min(bound) * long
    to = ops.where(by_long, max(bound), min(bound))
    of = ops.where(by_long, long, short)
    return tuple((2 * side * to + of) // (2 * of) for side in size)


def _axis(size, view, length, stride, shift_back):
    if length is None:
        return Axis(size, view, 1, view, view, True)
    count = (_larger(view - length, 0) + stride - 1) // stride + 1
    return Axis(size, view, count, _smaller(length, view) if shift_back else length, stride, shift_back)


# === From coarse samples to pixels ===


class Block(NamedTuple):
    """How runs of pixels of an axis follow from coarse samples.

    `samples` `(runs, m)` are indices of samples, those of all windows one after the other, and
    `inner` `(runs, p, m)` is the matrix that leads from them to pixels. Where windows are kept apart
    these are not yet the image's pixels: p is k · v, for v pixels of the resized image in each of k
    windows. `shares` `(runs, k, v)` are then the weights of the windows, and `outer` `(runs, n, v)`
    leads to the image's pixels, `None` where the image is not resized."""

    samples: Any
    inner: Any
    shares: Any
    outer: Any


def block_of(axis: Axis, pixels, coarse, align_corners: bool, keep_windows_apart: bool) -> Block:
    """The `Block` of runs of pixels.

    Args:
        axis: the axis.
        pixels: `(runs, n)`, each run ascending without gaps; pixels beyond the border are allowed.
        coarse: number of samples in a window.
        align_corners: corner rule of the logits' resizing.
        keep_windows_apart: whether windows are to be averaged later.
    """
    pixels, outer = _pixels_of_view(axis, pixels, align_corners)
    numbers = _windows_at(axis, pixels)
    xp = _namespace(pixels, numbers, coarse, axis.length)
    offsets = xp.expand_dims(pixels, 1) - xp.expand_dims(axis.start(numbers), 2)
    inside = _float32((offsets >= 0) & (offsets < axis.length))
    shares = inside / xp.maximum(xp.sum(inside, axis=1, keepdims=True), 1)
    source = interpolation_source(offsets, coarse, axis.length, align_corners)
    count = _smaller(coarse, _length(pixels) * coarse // axis.length + 3)
    first = xp.minimum(_int32(source[:, :, :1]), coarse - count)
    samples = first + xp.arange(count)
    weights = triangle_weights(source, samples)
    samples = samples + xp.expand_dims(numbers * coarse, 2)

    runs, k, v, m = _shape(weights)
    if keep_windows_apart:
        # Not `eye`, which OpenVINO cannot convert.
        windows = xp.arange(k)
        own = _float32(xp.reshape(windows, (k, 1, 1, 1)) == xp.reshape(windows, (1, 1, k, 1)))
        weights = xp.expand_dims(weights, 3) * own
        inner = xp.reshape(weights, (runs, k * v, k * m))
    else:
        weights = weights * xp.expand_dims(shares, 3)
        inner = xp.reshape(xp.transpose(weights, (0, 2, 1, 3)), (runs, v, k * m))
        if outer is not None:
            inner = _namespace(outer, inner).matmul(outer, inner)
    return Block(xp.reshape(samples, (runs, k * m)), inner, shares, outer)


def _pixels_of_view(axis, pixels, align_corners):
    """The pixels `(runs, v)` of the resized image that pixels `(runs, n)` of the image depend on, and
    their weights `(runs, n, v)`, or `None` if nothing is resized."""
    if not axis.resized:
        return pixels, None
    source = interpolation_source(pixels, axis.view, axis.size, align_corners)
    span = _length(pixels) * axis.view // axis.size + 3
    seen = _int32(source[:, :1]) + _namespace(source, span).arange(span)
    return seen, triangle_weights(source, seen)


def _windows_at(axis, pixels):
    """The numbers `(runs, k)` of the windows that see any of `pixels` `(runs, v)`, and of further ones
    where k is more than needed."""
    if _known(axis.count) and axis.count == 1:
        return pixels[:, :1] * 0
    # The window that is shifted back overlaps with one more.
    most = (_length(pixels) + axis.length - 2) // axis.stride + 1 + int(axis.shift_back)
    count = _smaller(axis.count, most)
    xp = _namespace(pixels, count, axis.length)
    first = xp.maximum(pixels[:, :1] - axis.length + axis.stride, 0) // axis.stride
    return xp.minimum(first, axis.count - count) + xp.arange(count)


def final_pixels(axis: Axis, number, align_corners: bool):
    """How many pixels of the image, from the first one on, depend on no window after `number`."""
    following = axis.start(number + 1)
    if axis.resized:
        source = interpolation_source(ops.arange(axis.size), axis.view, axis.size, align_corners)
        following = ops.sum(ops.cast(ops.cast(source, "int32") + 1 < following, "int32"))
    return ops.where(number + 1 < axis.count, following, axis.size)


def first_line(axis: Axis, pixel, coarse, align_corners: bool):
    """The first of the samples of all windows, one after the other, that a pixel and those after it
    depend on."""
    pixels = ops.reshape(ops.minimum(pixel, axis.size - 1), (1, 1))
    seen, _ = _pixels_of_view(axis, pixels, align_corners)
    offsets = seen[0, 0] - axis.start(ops.arange(axis.count))
    # The windows before the first one that contains the pixel end before it.
    number = ops.sum(ops.cast(offsets >= axis.length, "int32"))
    offset = ops.maximum(seen[0, 0] - axis.start(number), 0)
    source = interpolation_source(offset, coarse, axis.length, align_corners)
    return number * coarse + ops.cast(source, "int32")


# === Integers and arrays, or tensors ===


def _known(*values):
    return all(isinstance(value, (int, np.integer, np.ndarray)) for value in values)


def _namespace(*values):
    return np if _known(*values) else ops


def _smaller(a, b):
    return min(a, b) if _known(a, b) else ops.minimum(a, b)


def _larger(a, b):
    return max(a, b) if _known(a, b) else ops.maximum(a, b)


def _shape(x):
    return x.shape if _known(x) else ops.shape(x)


def _length(runs):
    return _shape(runs)[1]


def _float32(x):
    return x.astype("float32") if _known(x) else ops.cast(x, "float32")


def _int32(x):
    return x.astype("int32") if _known(x) else ops.cast(x, "int32")
