"""Segments an image of any size, as the model was evaluated.

`model.evaluation` is a dictionary, or `None` for the image at its own size. Every key is optional:

- `"resize"`: `[long, short]`, the sides that the image is made to fit, keeping its aspect; an integer
  bounds the long side alone.
- `"window"`: `[height, width]` or an integer, the sliding window; without it the whole image is seen.
- `"stride"`: `[height, width]` or an integer, the window's step; by default two thirds of the window.
- `"protocol"`: the code base whose way the rest is done:

  - `"mmsegmentation"` (the default; release 1.2.2): the last window is shifted back inside, logits
    are averaged where windows overlap, and several ratios or a flip give the mean of the softmax.
    `ratios` other than 1 are of the image itself, and `"resize"` is ignored.
  - `"mmsegmentation-0.x"`: the same, but `ratios` multiply `"resize"`, as in 2020, when the
    published multi-scale figures were made.
  - `"pytorch-encoding"`: `ratios` multiply `"resize"`; the last window is padded with black at the
    border, and the score of every window is `exp(logits + logits of its mirror image)`.

`inference.geometry` says what that means for an axis. Label maps are made tile by tile, straight from
the head's coarse logits: full-size logits never exist.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import keras
import numpy as np
from PIL import Image

from keras_encnet.data.conventions import (
    MIN_SIZE,
    check_image_size,
    check_integer,
    class_names,
    label_dtype,
)
from keras_encnet.data.images import read_image, resize_image
from keras_encnet.inference.geometry import Axis, axes_of, block_of, check_ratios, evaluation_rule
from keras_encnet.inference.segmentation import Segmentation

TILE = 64  # pixels per side: 20 to 150 classes of it fit into the processor's cache


def segment(
    model: keras.Model,
    image: str | os.PathLike | Image.Image | np.ndarray | Iterable,
    *,
    resize: Sequence[int] | int | bool | None = None,
    window: Sequence[int] | int | bool | None = None,
    stride: Sequence[int] | int | None = None,
    ratios: Sequence[float] | float = (1.0,),
    flip: bool = False,
    batch_size: int = 1,
    protocol: str | None = None,
) -> Segmentation | list[Segmentation]:
    """Finds the class of every pixel of an image of any size.

    The image is resized and cut as `model.evaluation` says; the arguments override that. The argmax
    is taken at the original size, and ties go to the first class. Beyond the network's own memory
    this needs the head's coarse logits of all views and about 100 MB.

    Args:
        model: an `EncNet`.
        image: RGB image of 32 pixels or more per side, as `data.images.read_image` reads it: a path,
            a PIL image or an array `(height, width, 3)`, `uint8` or float in [0, 255]; or a list or
            another iterable of images of any sizes.
        resize: `(long, short)` to fit the image into, or `False` for the image at its own size.
        window: the sliding window's side or `(height, width)`, or `False` for the whole image. Where
            it is larger than the image, the whole image is seen at once.
        stride: the window's step, an integer or `(rows, columns)`; default: two thirds of `window`.
        ratios: scales at which to look at the image; the mean of the softmax decides.
        flip: whether to look at the mirror image of each as well.
        batch_size: how many images or windows of one size the network sees at once.
        protocol: `"mmsegmentation"`, `"mmsegmentation-0.x"` or `"pytorch-encoding"`.

    Returns:
        A `Segmentation` at the image's original size, or a list of them for several images.

    Raises:
        ValueError: if an image cannot be read or is under 32 pixels, before or after resizing; if an
            argument is out of range; or if the network's logits are not finite.

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
    ratios = check_ratios(ratios)
    rule = evaluation_rule(
        model.evaluation,
        resize=resize,
        window=window,
        stride=stride,
        ratios=ratios,
        protocol=protocol,
    )
    if not isinstance(flip, (bool, np.bool_)):
        raise ValueError(f"`flip` must be True or False. Received: {flip!r}")
    check_integer("batch_size", batch_size)
    labels = class_names(model.num_classes, model.labels)
    many = _is_several(image)
    images = [_read(one, i if many else None) for i, one in enumerate(image if many else [image])]

    same_size = {}
    for i, one in enumerate(images):
        same_size.setdefault(one.shape[:2], []).append(i)
    views = {size: views_of(size, rule, ratios) for size in same_size}
    results = [None] * len(images)
    for size, indices in same_size.items():
        for start in range(0, len(indices), batch_size):
            chunk = indices[start : start + batch_size]
            seen = run_views(
                model, [images[i] for i in chunk], views[size], rule.protocol, flip, batch_size
            )
            for i, (score_maps, presence) in zip(chunk, seen, strict=True):
                label_map = label_map_of(score_maps, size, model.num_classes)
                results[i] = Segmentation(images[i], label_map, labels, model.palette, presence)
    return results if many else results[0]


def _is_several(given):
    """Whether this is several images, such as a list or a generator, and not an array or a tensor."""
    single = isinstance(given, (str, os.PathLike, Image.Image, Mapping)) or hasattr(given, "__array__")
    return not single and isinstance(given, Iterable)


def _read(image, index):
    place = "" if index is None else f" (number {index} of the list)"
    if isinstance(image, (list, tuple, Mapping)):
        raise ValueError(
            "An image must be a path, a PIL image or an array. "
            f"Received: a {type(image).__name__}{place}. Of pairs of image and mask pass "
            "[image for image, _ in pairs]."
        )
    is_path = isinstance(image, (str, os.PathLike))
    try:
        read = read_image(image)
    except ValueError as error:
        if is_path or not place:
            raise
        raise ValueError(f"Number {index} of the list: {error}") from error
    name = repr(os.fspath(image)) if is_path else "The image"
    check_image_size(*read.shape[:2], f"{name}{place}")
    return read


def views_of(size: tuple, rule, ratios: Sequence[float]) -> list[tuple[Axis, Axis]]:
    """The axes of every view of an image of `size`: one view for each ratio."""
    views = []
    for ratio in ratios:
        rows, columns = axes_of(size, rule, None if len(ratios) == 1 and ratio == 1 else ratio)
        if min(rows.length, columns.length) < MIN_SIZE:
            check_image_size(
                rows.length,
                columns.length,
                f"An image of {size[0]}×{size[1]} pixels (height×width), after resize={rule.resize} "
                f"and ratio {ratio:g},",
                "Pass `resize=False` or larger `ratios`.",
            )
        views.append((rows, columns))
    return views


# === Running the network ===


class ScoreMap(NamedTuple):
    """The coarse logits of one view, from which scores follow at any pixel.

    `logits` `(rows · h, columns · w, classes)` are those of all windows, one next to the other.
    `mirrored` tells whether they are the mirror image's."""

    logits: np.ndarray
    rows: Axis
    columns: Axis
    align_corners: bool
    exponential: bool
    mirrored: bool

    def block(self, axis: int, pixels: slice):
        """The `Block` that leads to `pixels` of an axis, 0 for rows and 1 for columns, without the
        dimension of runs: the coarse samples that are needed, and the matrices."""
        index = np.arange(pixels.start, pixels.stop)
        line = self[1 + axis]
        flipped = self.mirrored and axis == 1
        if flipped:
            index = line.size - 1 - index[::-1]
        coarse = self.logits.shape[axis] // line.count
        block = block_of(line, index[None], coarse, self.align_corners, self.exponential)
        samples, inner, shares, outer = (x if x is None else x[0] for x in block)
        if flipped:
            inner = inner[::-1]
        if self.exponential:
            windows = shares.any(1)
            inner = inner.reshape(*shares.shape, -1)[windows].reshape(-1, len(samples))
            shares = shares[windows]
        used = np.flatnonzero(inner.any(0))
        samples, inner = samples[used], np.ascontiguousarray(inner[:, used])
        if samples[-1] - samples[0] == len(samples) - 1:
            samples = slice(samples[0], samples[-1] + 1)
        return samples, inner, shares, outer

    def scores(self, row_block, column_block):
        """A tile's scores `(classes, height, width)`, from the blocks of its two axes."""
        in_y, y, shares_y, outer_y = row_block
        in_x, x, shares_x, outer_x = column_block
        scores = _product(y, self.logits[in_y][:, in_x], x)
        if not self.exponential:
            return scores
        # float32 overflows at 88, and the ratios' scores are still to be added up.
        np.exp(np.minimum(scores, 80, out=scores), out=scores)
        scores = scores.reshape(*scores.shape[:2], *shares_x.shape)
        scores = (scores * shares_x).sum(2)
        scores = scores.reshape(len(scores), *shares_y.shape, -1)
        scores = (scores * shares_y[:, :, None]).sum(1)
        if outer_y is not None:
            scores = outer_y @ scores
        return scores if outer_x is None else scores @ outer_x.T


def run_views(model, images, views, protocol, flip, batch_size):
    """Runs the network on all views of images of one size.

    Returns for each image its `ScoreMap`s and its mean presence, or `None` without an SE head."""
    score_maps, presences = [[] for _ in images], [[] for _ in images]
    for rows, columns in views:
        resized = [_resized(image, (rows.view, columns.view), protocol) for image in images]
        cuts = [
            (n, mirror, i, j)
            for n in range(len(images))
            for mirror in (False, True)[: 1 + bool(flip)]
            for i in range(rows.count)
            for j in range(columns.count)
        ]
        inputs = (_cut(resized[n], mirror, rows, i, columns, j, protocol) for n, mirror, i, j in cuts)
        mosaics = {}
        for (n, mirror, i, j), (logits, presence) in zip(
            cuts, _outputs(model, inputs, batch_size), strict=True
        ):
            h, w, classes = logits.shape
            if mirror and protocol.exponential:
                logits, mirror = logits[:, ::-1], False
            if (n, mirror) not in mosaics:
                mosaics[n, mirror] = np.zeros((rows.count * h, columns.count * w, classes), "float32")
            mosaics[n, mirror][i * h : (i + 1) * h, j * w : (j + 1) * w] += logits
            presences[n].append(presence)
        for (n, mirror), logits in mosaics.items():
            score_maps[n].append(
                ScoreMap(logits, rows, columns, model.align_corners, protocol.exponential, mirror)
            )
    means = [None if each[0] is None else np.mean(each, axis=0) for each in presences]
    return list(zip(score_maps, means, strict=True))


def _resized(image, size, protocol):
    if size == image.shape[:2]:
        return image
    if not protocol.aligned_resize:
        return resize_image(image, *size)
    for axis in (0, 1):
        new, old = size[axis], image.shape[axis]
        at = np.arange(new, dtype="float32") * np.float32((old - 1) / max(new - 1, 1))
        low = np.minimum(at.astype("int32"), old - 1)
        weight = np.clip(at - low, 0, 1).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
        below, above = image.take(low, axis), image.take(np.minimum(low + 1, old - 1), axis)
        image = below + weight * (above.astype("float32") - below)
    return image


def _cut(image, mirror, rows, i, columns, j, protocol):
    """One window of a resized image, as the network is shown it."""
    top, left = rows.start(i), columns.start(j)
    if mirror and not protocol.exponential:
        image = image[:, ::-1]
    cut = image[top : top + rows.length, left : left + columns.length]
    # PyTorch-Encoding pads with -mean / std after normalization: black.
    missing = rows.length - cut.shape[0], columns.length - cut.shape[1]
    cut = np.pad(cut, ((0, missing[0]), (0, missing[1]), (0, 0)))
    return cut[:, ::-1] if mirror and protocol.exponential else cut


def _outputs(model, inputs, batch_size) -> Iterator:
    inputs = iter(inputs)
    while batch := list(islice(inputs, batch_size)):
        logits, presence = model.coarse_logits(np.stack(batch))
        if not np.isfinite(logits).all():
            raise ValueError(
                "The network's logits contain NaN or infinity: its weights are damaged, its training "
                "diverged, or they overflow in the dtype policy. Try dtype='float32'."
            )
        yield from zip(logits, [None] * len(batch) if presence is None else presence, strict=True)


def _product(rows, values, columns):
    # One small matrix product per class: a large one would start threads inside these threads.
    values = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    return rows @ (values @ columns.T)


# === Deciding ===


def label_map_of(score_maps: list[ScoreMap], size: tuple, num_classes: int) -> np.ndarray:
    """The best class of each pixel, `(height, width)`, `uint8` up to 255 classes, else `uint16`."""
    label_map = np.empty(size, label_dtype(num_classes))
    steps = [_tile_side(score_maps, axis, size[axis]) for axis in (0, 1)]
    strips, spans = (
        [slice(i, min(i + step, side)) for i in range(0, side, step)]
        for step, side in zip(steps, size, strict=True)
    )
    columns = [[each.block(1, xs) for each in score_maps] for xs in spans]

    def fill(ys):
        rows = [each.block(0, ys) for each in score_maps]
        for xs, blocks in zip(spans, columns, strict=True):
            label_map[ys, xs] = _winners(score_maps, rows, blocks, label_map.dtype)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, strips))
    return label_map


def _tile_side(score_maps, axis, side):
    # Where windows are kept apart, a pixel may need many of the resized image's: fewer pixels then.
    lines = [each[1 + axis] for each in score_maps if each.exponential]
    zoom = max((line.count * line.length / side for line in lines), default=1)
    return max(4, int(TILE / max(zoom, 1)))


def _winners(score_maps, rows, columns, dtype):
    if len(score_maps) == 1 and not score_maps[0].exponential:
        # A tile's scores lie between the extremes of the logits they come from, so a class whose
        # maximum is below another's minimum cannot win. Under strong enlargement most classes drop out.
        (in_y, y, *_), (in_x, x, *_) = rows[0], columns[0]
        logits = score_maps[0].logits[in_y][:, in_x]
        best, worst = logits.max((0, 1)), logits.min((0, 1))
        classes = np.flatnonzero(best >= worst.max())
        if len(classes) == 1:
            return classes[0]
        if len(classes) <= len(best) // 2:
            return classes.astype(dtype)[_argmax(_product(y, logits[..., classes], x), dtype)]
        return _argmax(_product(y, logits, x), dtype)
    total = 0
    for score_map, row_block, column_block in zip(score_maps, rows, columns, strict=True):
        scores = score_map.scores(row_block, column_block)
        if not score_map.exponential:
            scores -= scores.max(0)
            np.exp(scores, out=scores)
            scores /= scores.sum(0)
        total = total + scores
    return _argmax(total, dtype)


def _argmax(scores, dtype):
    """The first maximum along axis 0; several times faster than `np.argmax` there."""
    codes = (scores != scores.max(0)).astype(dtype)
    np.negative(codes, out=codes)
    codes |= np.arange(len(scores), dtype=dtype)[:, None, None]
    return codes.min(0)
