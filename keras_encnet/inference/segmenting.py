"""Segments an image of any size, as the model was evaluated.

What `model.evaluation` may hold (a plain dictionary, every key optional; `None` is the image as it
is):

- `"resize"`: `[long, short]`, the sides that the image is made to fit, aspect kept; an integer
  bounds the long side alone.
- `"window"`: `[height, width]` or an integer, the sliding window; without it the whole image.
- `"stride"`: `[height, width]` or an integer, the window's step; two thirds of it by default.
- `"protocol"`: whose way the rest is done:

  - `"mmsegmentation"` (the default; release 1.2.2): the last window is shifted back inside, logits
    are averaged where windows overlap, and several ratios or a flip give the mean of the softmax.
    `ratios` other than 1 are of the image itself, `"resize"` then counts for nothing.
  - `"mmsegmentation-0.x"`: the same, but `ratios` multiply `"resize"`, as in 2020, when the
    published multi-scale figures were made.
  - `"pytorch-encoding"`: `ratios` multiply `"resize"`; the last window is cut at the border and
    filled with black, and every window counts as `exp(logits + logits of its mirror image)`.

Both code bases resize the logits twice, from the head to the window and from the resized image to
the original, and every step is linear and separable. So each axis of a view is one sparse matrix
(`Taps`) from the head's coarse logits straight to the original size, windows included, and label
maps are made tile by tile: full-size logits never exist.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
from PIL import Image

from keras_encnet.data.checks import MIN_SIZE, check_arrays
from keras_encnet.data.images import read_image, resize_image
from keras_encnet.inference.segmentation import Segmentation

PROTOCOLS = ("mmsegmentation", "mmsegmentation-0.x", "pytorch-encoding")
TILE = 64  # pixels a side: 20 to 150 classes of it fit the processor's cache


def segment(
    model,
    image,
    *,
    resize=None,
    window=None,
    stride=None,
    ratios=(1.0,),
    flip=False,
    batch_size=1,
    protocol=None,
):
    """Finds the class of every pixel of an image of any size.

    The image is resized and cut as `model.evaluation` says, arguments override. The argmax is
    taken at the original size, the first class on ties. Beyond the network's own memory this needs
    the head's coarse logits of all views and 100 MB or so.

    Args:
        model: an `EncNet`.
        image: RGB image of 32 pixels a side or more: a path, a PIL image or an array
            `(height, width, 3)`, `uint8` or float in [0, 255]; or a list of them, of any sizes.
        resize: `(long, short)` to fit the image into, or `False` for the image as it is.
        window: the sliding window's side or `(height, width)`, or `False` for the whole image.
        stride: the window's step, an integer or `(rows, columns)`.
        ratios: scales at which to look at the image; the mean of the softmax decides.
        flip: whether to look at the mirror image of each, too.
        batch_size: how many images or windows of one size the network sees at a time.
        protocol: `"mmsegmentation"`, `"mmsegmentation-0.x"` or `"pytorch-encoding"`.

    Returns:
        A `Segmentation` at the image's original size, or a list of them for a list.

    Raises:
        ValueError: an image cannot be read or is under 32 pixels, before or after resizing; an
            argument is out of range; or the network's logits are not finite.

    Source: mmsegmentation 1.2.2, `EncoderDecoder.inference`, `BaseSegmentor.postprocess_result` and
    `SegTTAModel`; PyTorch-Encoding, `MultiEvalModule`.

    >>> import keras
    >>> from keras_encnet import EncNet
    >>> pixels = keras.Input((None, None, 3))
    >>> features = keras.layers.Conv2D(8, 8, strides=8, padding="same")(pixels)
    >>> backbone = keras.Model(pixels, [features, features])
    >>> labels = ["sky", "road", "car"]
    >>> model = EncNet(backbone, num_classes=3, labels=labels, head_channels=8, num_codes=4)
    >>> result = segment(model, np.zeros((48, 70, 3), "uint8"))
    >>> result.label_map.shape, result.label_map.dtype, result.labels
    ((48, 70), dtype('uint8'), ('sky', 'road', 'car'))
    """
    ratios = _ratios(ratios)
    rule = evaluation_rule(model.evaluation, resize, window, stride, ratios, protocol)
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"`batch_size` is {batch_size!r}, expected an integer of 1 or more.")
    labels = model.labels or [f"class {i}" for i in range(model.num_classes)]
    many = isinstance(image, (list, tuple))
    images = [_read(one, i if many else None) for i, one in enumerate(image if many else [image])]

    same_size = {}
    for i, one in enumerate(images):
        same_size.setdefault(one.shape[:2], []).append(i)
    views = {size: _views(size, rule, ratios) for size in same_size}
    results = [None] * len(images)
    for size, indices in same_size.items():
        for start in range(0, len(indices), batch_size):
            chunk = indices[start : start + batch_size]
            seen = _look(
                model, [images[i] for i in chunk], views[size], rule.protocol, flip, batch_size
            )
            for i, (looks, presence) in zip(chunk, seen, strict=True):
                label_map = _label_map(looks, size, model.num_classes)
                results[i] = Segmentation(images[i], label_map, labels, model.palette, presence)
    return results if many else results[0]


# === What to look at ===


class Rule(NamedTuple):
    """How an image is resized and cut: `evaluation` and the arguments, checked and put together."""

    resize: tuple | None
    window: tuple | None
    stride: tuple | None
    protocol: str


def evaluation_rule(evaluation, resize=None, window=None, stride=None, ratios=(1.0,), protocol=None):
    """The `Rule` of a model's `evaluation`, overridden by arguments of `segment`."""
    evaluation = dict(evaluation or {})
    unknown = set(evaluation) - {"resize", "window", "stride", "protocol"}
    if unknown:
        raise ValueError(
            f"`evaluation` has the keys {sorted(unknown)}; expected only 'resize', 'window', "
            "'stride' and 'protocol'."
        )
    chosen = evaluation.get("protocol", PROTOCOLS[0]) if protocol is None else protocol
    if chosen not in PROTOCOLS:
        raise ValueError(f"`protocol` is {chosen!r}, expected one of {', '.join(PROTOCOLS)}.")
    if resize and chosen == "mmsegmentation" and ratios != (1.0,):
        raise ValueError(
            f"`resize={resize}` has no effect with `ratios`, which are of the original image in "
            "mmsegmentation 1.2.2; for ratios of the resized one pass "
            "protocol='mmsegmentation-0.x'."
        )
    if window is None:
        window = evaluation.get("window")
        stride = evaluation.get("stride") if stride is None else stride
    window = _pair("window", window, MIN_SIZE)
    if stride and not window:
        raise ValueError(f"`stride` is {stride} but there is no window; pass `window=` too.")
    if window:
        # Two thirds, rounded up: 513 for 769, 320 for 480 and 384 for 576, as both code bases have.
        stride = _pair("stride", stride) or tuple(-(-2 * side // 3) for side in window)
        if any(step > side for step, side in zip(stride, window, strict=True)):
            raise ValueError(
                f"`stride` {stride} is larger than `window` {window}: pixels between would be "
                "seen by no window. Make it smaller."
            )
    resize = _pair("resize", evaluation.get("resize") if resize is None else resize)
    return Rule(resize, window, stride, chosen)


def _pair(name, value, least=1):
    if value is None or value is False:
        return None
    pair = tuple(value) if isinstance(value, (list, tuple, np.ndarray)) else (value, value)
    whole = len(pair) == 2 and all(
        isinstance(side, (int, np.integer)) and not isinstance(side, bool) for side in pair
    )
    if not whole or min(pair) < least:
        raise ValueError(
            f"`{name}` is {value!r}, expected an integer of {least} or more, a pair of them, or False."
        )
    return int(pair[0]), int(pair[1])


def _ratios(ratios):
    ratios = tuple(float(r) for r in (ratios if np.iterable(ratios) else [ratios]))
    if not ratios or not all(0 < ratio < math.inf for ratio in ratios):
        raise ValueError(f"`ratios` is {ratios}, expected one or more positive numbers.")
    return ratios


def _read(image, index):
    if isinstance(image, (str, os.PathLike, Image.Image)):
        name = repr(os.fspath(image)) if isinstance(image, (str, os.PathLike)) else "The image"
    else:
        name, image = "The image", np.asarray(image)
        if image.dtype.kind == "f" and image.ndim == 3 and image.shape[-1] == 3:
            check_arrays(image[None])
    image = read_image(image)
    if min(image.shape[:2]) < MIN_SIZE:
        place = "" if index is None else f" (number {index} of the list)"
        raise ValueError(
            f"{name}{place} is {image.shape[0]}×{image.shape[1]} pixels (height×width), expected "
            f"{MIN_SIZE} or more on both sides; enlarge it first."
        )
    return image


class View(NamedTuple):
    """One size at which images are looked at, and where its windows start and how large they are.

    Sizes are (height, width)."""

    size: tuple
    tops: list
    lefts: list
    window: tuple


def _views(size, rule, ratios):
    """The views of an image of `size`, one for each ratio."""
    views = []
    bound = rule.resize or size
    window, stride = rule.window or (None, None), rule.stride or (None, None)
    for ratio in ratios:
        if rule.protocol == "pytorch-encoding":
            bound_now = [math.ceil(side * ratio) for side in bound]
            view = _fit(size, bound_now, multiply_first=True)
        elif ratios == (1.0,):
            view = _fit(size, bound)
        elif rule.protocol == "mmsegmentation":
            view = _fit(size, [int(side * ratio + 0.5) for side in size])
        else:
            view = _fit(size, [int(side * ratio) for side in bound])
        shift_back = rule.protocol != "pytorch-encoding"
        tops, height = _windows(view[0], window[0], stride[0], shift_back)
        lefts, width = _windows(view[1], window[1], stride[1], shift_back)
        if min(height, width) < MIN_SIZE:
            raise ValueError(
                f"An image of {size[0]}×{size[1]} pixels (height×width) becomes {height}×{width} "
                f"by resize={rule.resize} and ratio {ratio:g}, expected {MIN_SIZE} or more on both "
                "sides; pass `resize=False` or larger `ratios`."
            )
        views.append(View(view, tops, lefts, (height, width)))
    return views


def _fit(size, bound, multiply_first=False):
    # The code bases differ in the order, and so in the rounding.
    sides = (max(bound), max(size)), (min(bound), min(size))
    to, of = min(sides, key=lambda pair: pair[0] / pair[1])
    if multiply_first:
        return tuple(int(side * to / of + 0.5) for side in size)
    return tuple(int(side * (to / of) + 0.5) for side in size)


def _windows(size, window, stride, shift_back):
    """Where windows start along an axis of `size` pixels, and how long they are."""
    if window is None:
        return [0], size
    count = max(math.ceil((size - window) / stride), 0) + 1
    if shift_back:
        window = min(window, size)
        return [min(i * stride, size - window) for i in range(count)], window
    return [i * stride for i in range(count)], window


# === One axis as a sparse matrix ===


class Taps(NamedTuple):
    """A linear map along an axis: output `i` is the sum over `t` of `weight[i, t] x[index[i, t]]`.

    Both arrays are `(outputs, taps)`."""

    index: np.ndarray
    weight: np.ndarray


def bilinear(old, new, align_corners):
    """The taps of PyTorch's bilinear `F.interpolate` from `old` to `new` samples of an axis.

    >>> bilinear(2, 4, False).weight[:, 1].tolist()
    [0.0, 0.25, 0.75, 0.0]
    >>> bilinear(2, 3, True).weight[:, 1].tolist()
    [0.0, 0.5, 0.0]
    """
    # In float32, coordinates too, because PyTorch's are.
    at = np.arange(new, dtype="float32")
    if align_corners:
        at *= np.float32((old - 1) / (new - 1) if new > 1 else 0)
    else:
        half = np.float32(0.5)
        at = np.maximum((at + half) * np.float32(old / new) - half, 0)
    low = np.minimum(at.astype("int32"), old - 1)
    high = np.minimum(low + 1, old - 1)
    weight = np.where(high > low, np.clip(at - low, 0, 1), 0).astype("float32")
    return Taps(np.stack([low, high], 1), np.stack([1 - weight, weight], 1))


def _reverse(taps):
    return Taps(taps.index[::-1], taps.weight[::-1])


def _repeat(taps, count, old):
    """`taps` for `count` windows that lie one behind the other, each of `old` samples."""
    index = np.concatenate([taps.index + i * old for i in range(count)])
    return Taps(index, np.tile(taps.weight, (count, 1)))


def _average(size, starts, window):
    """From windows that lie one behind the other to the axis they were cut from."""
    at = np.arange(size)[:, None] - np.array(starts)
    inside = (at >= 0) & (at < window)
    count = inside.sum(1, keepdims=True)
    index = np.where(inside, at + np.arange(len(starts)) * window, 0)
    first = np.argsort(~inside, axis=1, kind="stable")[:, : count.max()]
    weight = np.take_along_axis(inside / count, first, 1).astype("float32")
    return Taps(np.take_along_axis(index, first, 1).astype("int32"), weight)


def _compose(outer, inner):
    """First `inner`, then `outer`."""
    index = inner.index[outer.index]
    weight = outer.weight[:, :, None] * inner.weight[outer.index]
    return Taps(index.reshape(len(index), -1), weight.reshape(len(index), -1))


def _block(taps, outputs):
    """The rows `outputs` of the matrix, dense over the inputs that they need, and those inputs."""
    index, weight = taps.index[outputs], taps.weight[outputs]
    inputs = np.unique(index[weight != 0])
    place = np.searchsorted(inputs, index).clip(max=len(inputs) - 1)
    matrix = np.zeros((len(index), len(inputs)), "float32")
    np.add.at(matrix, (np.arange(len(index))[:, None], place), weight)
    if inputs[-1] - inputs[0] == len(inputs) - 1:
        inputs = slice(inputs[0], inputs[-1] + 1)
    return inputs, matrix


# === Looking ===


def _look(model, images, views, protocol, flip, batch_size):
    """Shows the network all views of images of one size.

    Returns for each image its `Look`s and its mean presence, or `None` without SE head."""
    size = images[0].shape[:2]
    looks, presences = [[] for _ in images], [[] for _ in images]
    for view in views:
        resized = [_resized(image, view.size, protocol) for image in images]
        cuts = [
            (n, mirror, i, j)
            for n in range(len(images))
            for mirror in (False, True)[: 1 + bool(flip)]
            for i in range(len(view.tops))
            for j in range(len(view.lefts))
        ]
        inputs = (_cut(resized[n], mirror, view, i, j, protocol) for n, mirror, i, j in cuts)
        mosaics = {}
        for (n, mirror, i, j), (logits, presence) in zip(
            cuts, _outputs(model, inputs, batch_size), strict=True
        ):
            h, w, classes = logits.shape
            if (n, mirror) not in mosaics:
                shape = (len(view.tops) * h, len(view.lefts) * w, classes)
                mosaics[n, mirror] = np.empty(shape, "float32")
            mosaics[n, mirror][i * h : (i + 1) * h, j * w : (j + 1) * w] = logits
            presences[n].append(presence)
        make = _encoding_looks if protocol == "pytorch-encoding" else _mmseg_looks
        for n in range(len(images)):
            pair = mosaics[n, False], mosaics.get((n, True))
            looks[n] += make(*pair, view, size, model.align_corners)
    means = [None if each[0] is None else np.mean(each, axis=0) for each in presences]
    return list(zip(looks, means, strict=True))


def _resized(image, size, protocol):
    if protocol != "pytorch-encoding":
        return resize_image(image, *size)
    for axis in (0, 1):
        index, weight = bilinear(image.shape[axis], size[axis], align_corners=True)
        low, high = (image.take(index[:, t], axis) for t in (0, 1))
        weight = weight[:, 1].reshape((-1, 1, 1) if axis == 0 else (-1, 1))
        image = low + weight * (high.astype("float32") - low)
    return image


def _cut(image, mirror, view, i, j, protocol):
    """One window of a resized image, as the network is shown it."""
    top, left = view.tops[i], view.lefts[j]
    if mirror and protocol != "pytorch-encoding":
        image = image[:, ::-1]
    cut = image[top : top + view.window[0], left : left + view.window[1]]
    short = [(0, whole - part) for whole, part in zip(view.window, cut.shape, strict=False)]
    # PyTorch-Encoding fills with -mean / std after normalization: black.
    cut = np.pad(cut, (*short, (0, 0)))
    return cut[:, ::-1] if mirror and protocol == "pytorch-encoding" else cut


def _outputs(model, inputs, batch_size):
    inputs = iter(inputs)
    while batch := list(islice(inputs, batch_size)):
        logits, presence = model.coarse_logits(np.stack(batch))
        if not np.isfinite(logits).all():
            raise ValueError(
                "The network's logits hold NaN or infinity: its weights are damaged, its training "
                "diverged, or they overflow in the dtype policy; try dtype='float32'."
            )
        yield from zip(logits, [None] * len(batch) if presence is None else presence, strict=True)


class Look(NamedTuple):
    """Coarse logits, and how they become scores at the original size.

    `fields` are `(logits, rows, columns)`: the logits `(h, w, classes)` of all windows side by side
    and the taps of both axes. Where there is an `outer` pair of taps, the fields lead to the pixels
    of the windows, are added and exponentiated there, and `outer` leads to the original size."""

    fields: list
    outer: tuple | None = None

    def blocks(self, axis, outputs):
        """What a tile that spans `outputs` takes of an axis, 0 for rows and 1 for columns."""
        matrix = None
        if self.outer:
            outputs, matrix = _block(self.outer[axis], outputs)
        return matrix, [_block(field[1 + axis], outputs) for field in self.fields]

    def scores(self, rows, columns):
        """A tile's scores `(classes, height, width)` from the blocks of its axes."""
        (outer_y, ys), (outer_x, xs) = rows, columns
        total = sum(
            _product(y, logits[in_y][:, in_x], x)
            for (logits, _, _), (in_y, y), (in_x, x) in zip(self.fields, ys, xs, strict=True)
        )
        if self.outer:
            # float32 overflows at 88, and the ratios' scores must still add up.
            np.exp(np.minimum(total, 80, out=total), out=total)
            total = outer_y @ (total @ outer_x.T)
        return total


def _product(rows, values, columns):
    # One small matrix product a class: a large one would start threads inside these threads.
    values = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    return rows @ (values @ columns.T)


def _mmseg_looks(plain, mirrored, view, size, corners):
    axes = []
    for axis, starts in enumerate((view.tops, view.lefts)):
        window, coarse = view.window[axis], plain.shape[axis] // len(starts)
        windows = _repeat(bilinear(coarse, window, corners), len(starts), coarse)
        seen = _compose(_average(view.size[axis], starts, window), windows)
        back = bilinear(view.size[axis], size[axis], corners)
        axes.append((_compose(back, seen), _compose(back, _reverse(seen))))
    (rows, _), (columns, reversed_columns) = axes
    looks = [Look([(plain, rows, columns)])]
    if mirrored is not None:
        looks.append(Look([(mirrored, rows, reversed_columns)]))
    return looks


def _encoding_looks(plain, mirrored, view, size, corners):
    inner, outer = [], []
    for axis, starts in enumerate((view.tops, view.lefts)):
        window, coarse = view.window[axis], plain.shape[axis] // len(starts)
        up = bilinear(coarse, window, corners)
        inner.append([_repeat(taps, len(starts), coarse) for taps in (up, _reverse(up))])
        back = bilinear(view.size[axis], size[axis], corners)
        outer.append(_compose(back, _average(view.size[axis], starts, window)))
    (rows, _), (columns, reversed_columns) = inner
    fields = [(plain, rows, columns)]
    if mirrored is not None:
        fields.append((mirrored, rows, reversed_columns))
    return [Look(fields, tuple(outer))]


# === Deciding ===


def _label_map(looks, size, num_classes):
    """`(height, width)` labels, `uint8` up to 255 classes and `uint16` beyond."""
    labels = np.empty(size, "uint8" if num_classes <= 255 else "uint16")
    steps = [_tile_side(looks, axis, size[axis]) for axis in (0, 1)]
    strips, spans = (
        [slice(i, min(i + step, side)) for i in range(0, side, step)]
        for step, side in zip(steps, size, strict=True)
    )
    columns = [[look.blocks(1, xs) for look in looks] for xs in spans]

    def fill(ys):
        rows = [look.blocks(0, ys) for look in looks]
        for xs, blocks in zip(spans, columns, strict=True):
            labels[ys, xs] = _winners(looks, rows, blocks, labels.dtype)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, strips))
    return labels


def _tile_side(looks, axis, side):
    # Scores before an `outer` resize may be many to a pixel of the original: fewer pixels then.
    zoom = max(len(look.fields[0][1 + axis].index) / side for look in looks)
    return max(4, int(TILE / max(zoom, 1)))


def _winners(looks, rows, columns, dtype):
    if len(looks) == 1 and not looks[0].outer:
        # A tile's scores lie between the extremes of the logits they come from, so a class whose
        # best is under another's worst cannot win; where much is enlarged, most classes go.
        (in_y, y), (in_x, x) = rows[0][1][0], columns[0][1][0]
        logits = looks[0].fields[0][0][in_y][:, in_x]
        best, worst = logits.max((0, 1)), logits.min((0, 1))
        classes = np.flatnonzero(best >= worst.max())
        if len(classes) == 1:
            return classes[0]
        if len(classes) <= len(best) // 2:
            return classes.astype(dtype)[_argmax(_product(y, logits[..., classes], x), dtype)]
        return _argmax(_product(y, logits, x), dtype)
    total = 0
    for look, ys, xs in zip(looks, rows, columns, strict=True):
        scores = look.scores(ys, xs)
        if not look.outer:
            scores -= scores.max(0)
            np.exp(scores, out=scores)
            scores /= scores.sum(0)
        total = total + scores
    return _argmax(total, dtype)


def _argmax(scores, dtype):
    """The first largest of axis 0; several times faster than `np.argmax` there."""
    codes = (scores != scores.max(0)).astype(dtype)
    np.negative(codes, out=codes)
    codes |= np.arange(len(scores), dtype=dtype)[:, None, None]
    return codes.min(0)
