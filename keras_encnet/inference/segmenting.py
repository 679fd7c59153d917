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

`inference.geometry` says what that means for an axis, and `inference.deciding` how label maps and
probabilities follow from the head's coarse logits.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import keras
import numpy as np
from PIL import Image

from keras_encnet.data.conventions import MIN_SIZE, check_image_size, check_integer, class_names
from keras_encnet.data.images import read_image
from keras_encnet.data.resizing import resize_image
from keras_encnet.inference.deciding import ScoreMap, confident_maps_of, label_map_of
from keras_encnet.inference.geometry import Axis, axes_of, check_ratios, evaluation_rule
from keras_encnet.inference.segmentation import Segmentation

VIDEO_ENDINGS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")


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
    confidence: bool = False,
) -> Segmentation | list[Segmentation]:
    """Finds the class of every pixel of an image of any size.

    The image is resized and cut as `model.evaluation` says; the arguments override that. The argmax
    is taken at the original size, and ties go to the first class. Beyond the network's own memory
    this needs the head's coarse logits of all views and about 100 MB, and with `confidence` eight
    bytes per pixel more.

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
        confidence: whether the result has `confidence`, the probability of each pixel's class, and
            `entropy`, both `float32` `(height, width)`. The probability is the softmax of the logits;
            with several ratios or a flip the mean of the views' softmax; and by PyTorch-Encoding's
            protocol the class's share of the summed exponentials, which a flip makes more extreme.

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
    >>> segment(model, np.zeros((48, 70, 3), "uint8"), confidence=True).confidence.shape
    (48, 70)
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
    for name, value in (("flip", flip), ("confidence", confidence)):
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"`{name}` must be True or False. Received: {value!r}")
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
                decided = score_maps, size, model.num_classes
                maps = confident_maps_of(*decided) if confidence else (label_map_of(*decided),)
                results[i] = Segmentation(
                    images[i], maps[0], labels, model.palette, presence, *maps[1:]
                )
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
    if is_path and is_video(image):
        raise ValueError(
            f"An image must be a photograph. Received: {os.fspath(image)!r}{place}, a video. Call "
            "keras_encnet.inference.video.segment_video, or `keras-encnet segment`."
        )
    try:
        read = read_image(image)
    except ValueError as error:
        if is_path or not place:
            raise
        raise ValueError(f"Number {index} of the list: {error}") from error
    name = repr(os.fspath(image)) if is_path else "The image"
    check_image_size(*read.shape[:2], f"{name}{place}")
    return read


def is_video(path: str | os.PathLike) -> bool:
    """Whether the ending of a path is that of a video.

    >>> is_video("clip.MP4"), is_video("photo.jpg")
    (True, False)
    """
    return os.fspath(path).lower().endswith(VIDEO_ENDINGS)


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
