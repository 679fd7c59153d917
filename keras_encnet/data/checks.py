"""Checks of images and masks before training, evaluation and prediction."""

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_encnet.data.conventions import IGNORE_INDEX, check_image_size
from keras_encnet.data.pairs import Pairs

WHITE = 255  # the foreground of masks that are black and white


def check_masks(
    pairs: Pairs,
    num_classes: int,
    ignore_index: int = IGNORE_INDEX,
    labels: Sequence[str] | None = None,
    *,
    training: bool = True,
) -> None:
    """Reads every mask of a data set once, and raises an error or warns if training would fail.

    Masks are read in threads. Of images only the size is checked.

    Args:
        pairs: the data set.
        num_classes: number of classes. Labels are 0 to `num_classes - 1`.
        ignore_index: mask value of ignored pixels.
        labels: class names for messages. Default: those of `pairs`.
        training: `False` for an evaluation set, which may lack classes.

    Raises:
        ValueError: if the data set is empty or has another number of class names; an image is
            smaller than 32 pixels on a side or differs from its mask in size; mask values are
            outside the classes (the message has the values, pixel counts and files); all pixels are
            ignored; or all masks together have one class and ignored pixels (for an evaluation set,
            a warning).

    Warns:
        UserWarning: if no mask contains a certain class.

    >>> from keras_encnet.data import Pairs
    >>> image, mask = np.zeros((32, 32, 3), "uint8"), np.full((32, 32), 255, "uint8")
    >>> mask[:16] = 0
    >>> check_masks(Pairs([(image, mask)]), num_classes=2)
    Traceback (most recent call last):
    ...
    ValueError: Masks with ignored pixels must have two classes... label_map={255: 1} ...
    """
    if not len(pairs):
        raise ValueError("The data set must not be empty. Received: no pairs of image and mask")
    if pairs.labels is not None and len(pairs.labels) != num_classes:
        raise ValueError(
            "The data set and the model must have the same number of classes. Received: "
            f"{len(pairs.labels)} class names in the data set, {num_classes} classes in the model. "
            "Give the model num_classes=len(pairs.labels), labels=pairs.labels."
        )
    totals, invalid = Counter(), []
    for i, counts in enumerate(_read_counts(pairs)):
        totals.update(counts)
        outside = _outside(counts, num_classes, ignore_index)
        if outside:
            invalid.append(f"{_listed(outside)} in {pairs.where(i)}")
    if invalid:
        more = f"; and {len(invalid) - 3} more masks" if len(invalid) > 3 else ""
        files = f": {'; '.join(invalid[:3])}{more}"
        raise ValueError(_outside_message(totals, num_classes, ignore_index, files))
    _check_classes(totals, num_classes, ignore_index, labels or pairs.labels, training)


def check_arrays(
    images: np.ndarray,
    masks: np.ndarray | None = None,
    num_classes: int | None = None,
    ignore_index: int = IGNORE_INDEX,
    labels: Sequence[str] | None = None,
    *,
    training: bool = False,
) -> None:
    """Checks arrays of images, and of masks if there are any, before they are passed to a model.

    Args:
        images: `(batch, height, width, 3)`, `uint8` or float in [0, 255].
        masks: integers `(batch, height, width)` or `(batch, height, width, 1)`, or `None`.
        num_classes: number of classes, required with `masks`.
        ignore_index: mask value of ignored pixels.
        labels: class names for messages.
        training: whether the masks are for training, see `check_masks`.

    Raises:
        ValueError: if rank, number of channels, size or dtype is wrong, values are NaN or infinite,
            or masks do not fit the images or the classes.

    Warns:
        UserWarning: if float images have no value above 1, or values are outside [0, 255].

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
    _check_mask_array(masks, images.shape)
    totals = _counts(masks)
    outside = _outside(totals, num_classes, ignore_index)
    if outside:
        in_mask = np.isin(masks, list(outside)).reshape(len(masks), -1).any(axis=1)
        first = f", first in mask {in_mask.argmax()}"
        raise ValueError(_outside_message(totals, num_classes, ignore_index, first))
    if masks.size:
        _check_classes(totals, num_classes, ignore_index, labels, training)


def check_sizes(size: tuple[int, int], mask_size: tuple[int, int], where: str) -> None:
    """Raises an error unless an image and its mask have the same size, at least 32×32 pixels.

    Args:
        size, mask_size: `(height, width)` of the image and of the mask.
        where: the source of the pair, for the message.

    Raises:
        ValueError: if the sizes differ, or a side is smaller than 32 pixels.
    """
    if tuple(size) != tuple(mask_size):
        raise ValueError(
            f"An image and its mask must have the same size. Received: {tuple(size)} and "
            f"{tuple(mask_size)} (height, width) in {where}. Resize the mask (nearest neighbour) or "
            "the image."
        )
    check_image_size(*size, f"The image of {where}", "Leave it out or enlarge it.")


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
    if images.dtype == "uint8" or not images.size:
        return
    low, high = images.min(), images.max()
    if not np.isfinite([float(low), float(high)]).all():
        invalid = ~np.isfinite(images.astype("float32")).all(axis=(1, 2, 3))
        raise ValueError(
            "Images must have finite values in [0, 255]. Received: NaN or infinity, first in image "
            f"{invalid.argmax()}"
        )
    expected = "Images must be in [0, 255], because the model normalizes them itself."
    if images.dtype.kind not in "ui" and 0 <= low and 0 < high <= 1:
        warnings.warn(
            f"{expected} Received: floats up to {float(high):g}, which look scaled to [0, 1]. Pass "
            "the uint8 images, or images * 255.",
            stacklevel=3,
        )
    elif low < 0 or high > 255:
        warnings.warn(
            f"{expected} Received: values from {float(low):g} to {float(high):g}. Pass the original "
            "values of the files.",
            stacklevel=3,
        )


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
    present = sorted(value for value in totals if 0 <= value < num_classes)
    if not present:
        raise ValueError(
            f"Masks must have pixels that are not ignored. Received: only {ignore_index}, the "
            f"`ignore_index`. If it is a class, map it to a label: label_map={{{ignore_index}: 0}} in "
            f"keras_encnet.data.folder, or masks[masks == {ignore_index}] = 0."
        )
    if len(present) == 1 and ignore_index in totals:
        message = (
            f"Masks with ignored pixels must have two classes or more. Received: only {present[0]} "
            f"and {ignore_index}, the `ignore_index`, so that a model that always predicts "
            f"{present[0]} would be perfect. If {ignore_index} is the foreground of 0/255 masks, map "
            f"it to a label: label_map={{{ignore_index}: 1}} in keras_encnet.data.folder, or "
            f"masks[masks == {ignore_index}] = 1 in arrays."
        )
        if training:
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)
    absent = [value for value in range(num_classes) if value not in totals]
    if training and absent:
        named = labels and len(labels) == num_classes
        names = [f"{labels[value]!r} ({value})" if named else str(value) for value in absent[:10]]
        more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
        warnings.warn(
            f"No mask has {'these classes' if absent[1:] else 'this class'}: {', '.join(names)}"
            f"{more}. The model cannot learn a class without examples. Check num_classes and the "
            "order of the labels.",
            stacklevel=3,
        )


def _read_counts(pairs):
    """{mask value: pixels} of each mask; also checks the sizes of images and masks."""

    def read(i):
        size, mask = pairs.image_size(i), pairs.mask(i)
        check_sizes(size, mask.shape, pairs.where(i))
        return _counts(mask)

    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 2)) as pool:
        return list(pool.map(read, range(len(pairs))))


def _counts(mask):
    """{mask value: pixels} of a mask."""
    if mask.dtype == "uint8":
        counts = np.bincount(mask.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(mask, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _outside(counts, num_classes, ignore_index):
    """The part of `counts` with values that are neither a class nor ignored."""
    return {
        value: count
        for value, count in counts.items()
        if value != ignore_index and not 0 <= value < num_classes
    }


def _listed(counts, most=5):
    largest = sorted(counts, key=counts.get, reverse=True)[:most]
    listed = ", ".join(f"{value} ({counts[value]} pixels)" for value in largest)
    return listed + (f" and {len(counts) - most} more values" if len(counts) > most else "")


def _outside_message(totals, num_classes, ignore_index, where):
    """The error about mask values outside the classes, with the likely remedy."""
    outside = _outside(totals, num_classes, ignore_index)
    message = (
        f"Mask values must be one of the {num_classes} classes (0 to {num_classes - 1}) or "
        f"{ignore_index} (ignored). Received: {_listed(outside)}{where}."
    )
    if set(totals) <= {0, WHITE} and ignore_index != WHITE:
        return f"{message} For 0/255 masks pass label_map={{255: 1}} to keras_encnet.data.folder."
    if set(outside) == {num_classes}:
        return (
            f"{message} They may be shifted by one, like ADE20K's (1 to {num_classes}, and 0 for no "
            f"class): pass label_map={{0: {ignore_index}, **{{i: i - 1 for i in range(1, "
            f"{num_classes + 1})}}}} to keras_encnet.data.folder. Otherwise the model needs "
            f"num_classes={num_classes + 1}."
        )
    largest = max(outside)
    jpeg = " JPEG masks invent values: save masks as PNG." if len(outside) > 5 else ""
    return (
        f"{message} Map values that are shifted by one, or that are to be ignored, with "
        f"label_map={{{largest}: {ignore_index}}} in keras_encnet.data.folder; for {largest + 1} "
        f"classes the model needs num_classes={largest + 1}.{jpeg}"
    )
