"""Checks of images and masks before training, evaluation and prediction."""

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_encnet.data.advice import (
    MaskError,
    MaskWarning,
    absent_warning,
    jpeg_warning,
    listed_values,
    outside_error,
    outside_values,
    too_few_classes,
)
from keras_encnet.data.conventions import check_image_size, check_integer, ignore_index_for
from keras_encnet.data.image_files import file_format, orientation
from keras_encnet.data.images import check_range
from keras_encnet.data.pairs import Pairs

COUNTED = 1 << 22  # pixels counted at a time
TURN_MASKS = (
    "with Image.open(image_path) as image, Image.open(mask_path) as mask: "
    "mask.getexif()[274] = image.getexif().get(274, 1); "
    "ImageOps.exif_transpose(mask).save(mask_path)"
)


def check_masks(
    pairs: Pairs,
    num_classes: int,
    ignore_index: int | None = None,
    labels: Sequence[str] | None = None,
    *,
    training: bool = True,
) -> None:
    """Reads every mask of a data set once, and raises an error or warns if training would fail.

    Masks are read in threads. Of images only the size is checked.

    Args:
        pairs: the data set.
        num_classes: number of classes. Labels are 0 to `num_classes - 1`.
        ignore_index: mask value of ignored pixels. Default: 255, or 65535 if 255 is a class.
        labels: class names for messages. Default: those of `pairs`.
        training: `False` for an evaluation set, which may lack classes.

    Raises:
        ValueError: if the data set is empty, has no masks or another number of class names; an image
            is smaller than 32 pixels on a side or differs from its mask in size; or a mask is not
            `(height, width)` integers.
        MaskError: a `ValueError`, if mask values are outside the classes (the message has the values,
            pixel counts and files); all pixels are ignored; or all masks together have one class and
            ignored pixels (for an evaluation set, a warning).

    Warns:
        MaskWarning: if no mask contains a certain class, or masks are JPEG files.

    >>> from keras_encnet.data import Pairs
    >>> image, mask = np.zeros((32, 32, 3), "uint8"), np.full((32, 32), 255, "uint8")
    >>> mask[:16] = 0
    >>> check_masks(Pairs([(image, mask)]), num_classes=2)
    Traceback (most recent call last):
    ...
    keras_encnet.data.advice.MaskError: Masks with ignored pixels must have two classes... Received:
    only 0 and 255... If 255 is the foreground: pass label_map={255: 1} to keras_encnet.data.folder...
    """
    check_integer("num_classes", num_classes)
    if not len(pairs):
        raise ValueError("The data set must not be empty. Received: no pairs of image and mask")
    check_has_masks(pairs)
    if pairs.labels is not None and len(pairs.labels) != num_classes:
        raise ValueError(
            "The data set and the model must have the same number of classes. Received: "
            f"{len(pairs.labels)} class names in the data set, {num_classes} classes in the model. "
            "Give the model num_classes=len(pairs.labels), labels=pairs.labels."
        )
    if ignore_index is None:
        ignore_index = ignore_index_for(num_classes)
    totals, invalid, jpegs = Counter(), [], []
    for i, (counts, is_jpeg) in enumerate(_read_counts(pairs)):
        totals.update(counts)
        if is_jpeg:
            jpegs.append(pairs.files(i)[1])
        outside = outside_values(counts, num_classes, ignore_index)
        if outside:
            invalid.append(f"{listed_values(outside)} in {pairs.where(i)}")
    if invalid:
        more = f"; and {len(invalid) - 3} more masks" if len(invalid) > 3 else ""
        files = f": {'; '.join(invalid[:3])}{more}"
        raise outside_error(totals, num_classes, ignore_index, files, len(jpegs) / len(pairs))
    if jpegs:
        warnings.warn(jpeg_warning(jpegs, len(pairs)), stacklevel=2)
    _check_classes(totals, num_classes, ignore_index, labels or pairs.labels, training)


def check_arrays(
    images: np.ndarray,
    masks: np.ndarray | None = None,
    num_classes: int | None = None,
    ignore_index: int | None = None,
    labels: Sequence[str] | None = None,
    *,
    training: bool = False,
    complete: bool = True,
) -> None:
    """Checks arrays of images, and of masks if there are any, before they are passed to a model.

    Args:
        images: `(batch, height, width, 3)`, `uint8` or float in [0, 255].
        masks: integers `(batch, height, width)` or `(batch, height, width, 1)`, or `None`.
        num_classes: number of classes, required with `masks`.
        ignore_index: mask value of ignored pixels. Default: 255, or 65535 if 255 is a class.
        labels: class names for messages.
        training: whether the masks are for training, see `check_masks`.
        complete: `False` for one batch of a data set, which may have one class or none.

    Raises:
        ValueError: if rank, number of channels, size or dtype is wrong, values are NaN or infinite,
            or masks do not fit the images. `MaskError`, a `ValueError`, if mask values do not fit the
            classes.

    Warns:
        UserWarning: if float images have no value above 1, or values are outside [0, 255].
        MaskWarning: if training masks lack a class.

    >>> check_arrays(np.zeros((1, 64, 64, 4), "uint8"))
    Traceback (most recent call last):
    ...
    ValueError: Images must have 3 channels (RGB)... Received: 4 channels...
    """
    images = np.asarray(images)
    _check_image_shape(images)
    _check_image_values(images)
    if masks is None:
        return
    masks = np.asarray(masks)
    check_integer("num_classes", num_classes)
    _check_mask_array(masks, images.shape)
    totals = _counts(masks)
    if ignore_index is None:
        ignore_index = ignore_index_for(num_classes)
    outside = outside_values(totals, num_classes, ignore_index)
    if outside:
        in_mask = np.isin(masks, list(outside)).reshape(len(masks), -1).any(axis=1)
        first = f", first in mask {in_mask.argmax()}"
        raise outside_error(totals, num_classes, ignore_index, first)
    if masks.size and complete:
        _check_classes(totals, num_classes, ignore_index, labels, training)


def check_has_masks(pairs: Pairs) -> None:
    """Raises a `ValueError` if pairs are images without masks, such as those of some test splits."""
    if not pairs.has_masks:
        raise _no_mask(f"{pairs!r}, {pairs.where(0)} first" if len(pairs) else repr(pairs))


def check_mask(mask: np.ndarray | None, where: str) -> np.ndarray:
    """The mask of one image, if it is an array `(height, width)` of integers.

    Args:
        mask: the mask.
        where: its source, for the message.

    Raises:
        ValueError: if there is none, or it has another rank or dtype.
    """
    if mask is None:
        raise _no_mask(f"no mask in {where}")
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype.kind not in "iu":
        remedy = (
            " They look one-hot: pass np.argmax(mask, axis=-1)."
            if mask.ndim == 3 and mask.shape[2] > 1
            else " Pass mask[..., 0]."
            if mask.ndim == 3
            else " Pass mask.astype('uint8') if the values are labels."
        )
        raise ValueError(
            "A mask must have shape (height, width) and an integer dtype. Received: shape "
            f"{mask.shape}, dtype {mask.dtype} in {where}.{remedy}"
        )
    return mask


def check_sizes(
    size: tuple[int, int],
    mask_size: tuple[int, int],
    where: str,
    files: tuple[str, str | None] | None = None,
) -> None:
    """Raises an error unless an image and its mask have the same size, at least 32×32 pixels.

    Args:
        size, mask_size: `(height, width)` of the image and of the mask.
        where: the source of the pair, for the message.
        files: the paths of the image and its mask, if there are any.

    Raises:
        ValueError: if the sizes differ, or a side is smaller than 32 pixels.
    """
    size, mask_size = tuple(size), tuple(mask_size)
    if are_turned_differently(size, mask_size, files):
        turned, mask_turned = _orientations(files)
        why = (
            f"The EXIF orientation {turned} turns the image, and the mask is that of the image before "
            "it is turned."
            if turned >= 5
            else f"The EXIF orientation {mask_turned} turns the mask, and none the image."
        )
        raise ValueError(
            f"An image and its mask must be turned alike. Received: {size} and {mask_size} (height, "
            f"width) in {where}. {why} Do not resize it: turn the masks of all images, each once, with "
            f"Pillow's Image and ImageOps: `{TURN_MASKS}`. (Orientations 2 to 4 keep the size, so that "
            "such masks cannot be recognized.)"
        )
    if size != mask_size:
        raise ValueError(
            f"An image and its mask must have the same size. Received: {size} and {mask_size} (height, "
            f"width) in {where}. Resize the mask (nearest neighbour) or the image."
        )
    check_image_size(*size, f"The image of {where}", "Leave it out or enlarge it.")


def are_turned_differently(
    size: tuple[int, int], mask_size: tuple[int, int], files: tuple[str, str | None] | None
) -> bool:
    """Whether two sizes are swapped because EXIF turns only one; arguments as for `check_sizes`."""
    if not files or size == mask_size or size != mask_size[::-1]:
        return False
    turned, mask_turned = _orientations(files)
    return (turned >= 5) != (mask_turned >= 5)


def is_jpeg_mask(files: tuple[str, str | None] | None) -> bool:
    """Whether a mask is a JPEG file, whatever its name; `files` are as from `Pairs.files`."""
    return bool(files and files[1]) and file_format(files[1]) == "JPEG"


def value_counts(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of a mask, ascending, and how many pixels have each.

    >>> value_counts(np.array([[3, 255], [3, 3]], "uint8"))
    (array([  3, 255]), array([3, 1]))
    """
    if mask.dtype != "uint8":
        return np.unique(mask, return_counts=True)
    # In parts, since `bincount` makes 64-bit integers of its input.
    parts = np.array_split(mask.ravel(), 1 + mask.size // COUNTED)
    counts = np.sum([np.bincount(part, minlength=256) for part in parts], axis=0)
    values = np.flatnonzero(counts)
    return values, counts[values]


def _orientations(files):
    image, mask = files
    return orientation(image), orientation(mask) if mask else 1


def _no_mask(received):
    return ValueError(
        f"Pairs must have masks. Received: {received}. Take a split whose masks are published, or "
        "segment its images, pairs.image(i), with `model.segment`."
    )


def _check_image_shape(images):
    if images.ndim != 4:
        single = " For a single image pass images[None]." if images.ndim == 3 else ""
        raise ValueError(
            f"Images must have shape (batch, height, width, 3). Received: shape {images.shape}.{single}"
        )
    if images.shape[-1] != 3:
        channels_first = (
            " They look channels-first: pass np.moveaxis(images, 1, -1)."
            if images.shape[1] == 3
            else ""
        )
        raise ValueError(
            "Images must have 3 channels (RGB), shape (batch, height, width, 3). Received: "
            f"{images.shape[-1]} channels, shape {images.shape}.{channels_first} For grey images "
            "pass np.repeat(images, 3, axis=-1), for RGBA images[..., :3]."
        )
    check_image_size(*images.shape[1:3], "Images", "Resize them.")


def _check_image_values(images):
    if images.dtype.kind not in "uif" and images.dtype.name != "bfloat16":
        raise ValueError(f"Images must be uint8 or float in [0, 255]. Received: dtype {images.dtype}")
    check_range(images, "Images")


def _check_mask_array(masks, image_shape):
    if masks.dtype.kind not in "iu":
        raise ValueError(
            f"Masks must have an integer dtype. Received: dtype {masks.dtype}. Pass "
            "masks.astype('uint8') if the values are labels, np.argmax(masks, axis=-1) if they are "
            "one-hot."
        )
    expected = image_shape[:3]
    if masks.shape not in (expected, (*expected, 1)):
        one_hot = (
            " They look one-hot: pass np.argmax(masks, axis=-1)."
            if masks.ndim == 4 and masks.shape[:3] == expected
            else ""
        )
        raise ValueError(
            f"Masks of images of shape {image_shape} must have shape {expected} or "
            f"{(*expected, 1)}, one label per pixel. Received: shape {masks.shape}.{one_hot}"
        )


def _check_classes(totals, num_classes, ignore_index, labels, training):
    """Checks which classes all masks together have; `totals` is {mask value: pixels}."""
    problem = too_few_classes(totals, num_classes, ignore_index)
    if problem:
        kind, *message = problem
        if training or kind == "ignored":
            raise MaskError(*message)
        warnings.warn(MaskWarning(*message), stacklevel=3)
    absent = [value for value in range(num_classes) if value not in totals]
    if training and absent:
        named = labels if labels and len(labels) == num_classes else None
        warnings.warn(absent_warning(absent, named), stacklevel=3)


def _read_counts(pairs):
    """For each mask {mask value: pixels}, and whether it is a JPEG file; also checks the sizes."""

    def read(i):
        where, files = pairs.where(i), pairs.files(i)
        size, mask = pairs.image_size(i), check_mask(pairs.mask(i), where)
        check_sizes(size, mask.shape, where, files)
        return _counts(mask), is_jpeg_mask(files)

    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 2)) as pool:
        return list(pool.map(read, range(len(pairs))))


def _counts(mask):
    """{mask value: pixels} of a mask."""
    values, counts = value_counts(mask)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
