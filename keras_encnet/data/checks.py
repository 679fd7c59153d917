"""What can be wrong with images and masks, said before training rather than after it."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np

MIN_SIZE = 32


def check_masks(pairs, num_classes, ignore_index=255, labels=None, *, training=True):
    """Reads every mask of a set once and raises, or warns, about what would spoil training on it.

    Masks are read in threads; of images only the size is looked at.

    Args:
        pairs: `keras_encnet.data.Pairs`.
        num_classes: number of classes; labels are 0 to `num_classes - 1`.
        ignore_index: the label that counts for nothing.
        labels: names of the classes, for messages; those of `pairs` by default.
        training: `False` for a set to evaluate on: classes that it lacks are then no news.

    Raises:
        ValueError: the set is empty or names another number of classes; an image is under 32 pixels
            or not of its mask's size; labels are outside the classes (which, how many pixels, in
            which files); no pixel counts; the whole set holds one class and 255 (for a set to
            evaluate on, a warning).

    Warns:
        UserWarning: no mask holds some class.

    >>> from keras_encnet.data import Pairs
    >>> image, mask = np.zeros((32, 32, 3), "uint8"), np.full((32, 32), 255, "uint8")
    >>> mask[:16] = 0
    >>> check_masks(Pairs([(image, mask)]), num_classes=2)
    Traceback (most recent call last):
    ...
    ValueError: Every mask holds only 0 and 255... label_map={255: 1} ...
    """
    if not len(pairs):
        raise ValueError("The data set is empty: it holds no pair of image and mask.")
    if pairs.labels is not None and len(pairs.labels) != num_classes:
        raise ValueError(
            f"The data set names {len(pairs.labels)} classes and the model has {num_classes}; "
            "they must agree: give the model num_classes=len(pairs.labels), labels=pairs.labels."
        )

    def look(i):
        size = tuple(pairs.image_size(i))
        mask = pairs.mask(i)
        return size, mask.shape, _counts(mask)

    totals, strange = {}, []
    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 2)) as pool:
        looks = [pool.submit(look, i) for i in range(len(pairs))]
        try:
            for i, future in enumerate(looks):
                size, mask_size, counts = future.result()
                check_sizes(size, mask_size, pairs.where(i))
                for value, count in counts.items():
                    totals[value] = totals.get(value, 0) + count
                outside = _outside(counts, num_classes, ignore_index)
                if outside:
                    strange.append((pairs.where(i), outside))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if strange:
        files = "; ".join(f"{_listed(outside)} in {where}" for where, outside in strange[:3])
        more = f"; and {len(strange) - 3} more masks" if len(strange) > 3 else ""
        raise ValueError(_outside_message(totals, num_classes, ignore_index, f": {files}{more}"))
    _check_whole_set(totals, num_classes, ignore_index, labels or pairs.labels, training)


def check_arrays(
    images, masks=None, num_classes=None, ignore_index=255, labels=None, *, training=False
):
    """Checks NumPy images, and masks if there are any, before a model sees them.

    Args:
        images: `(batch, height, width, 3)`, `uint8` or float in [0, 255].
        masks: integers `(batch, height, width)` or `(batch, height, width, 1)`, or `None`.
        num_classes: number of classes, needed with `masks`.
        ignore_index: the label that counts for nothing.
        labels: names of the classes, for messages.
        training: whether the masks are to be trained on; see `check_masks`.

    Raises:
        ValueError: wrong rank, channel count, size, dtype; NaN or infinity; masks that do not fit
            the images or the classes. The message says what was given, expected, and what to do.

    Warns:
        UserWarning: float images whose largest value is at most 1, or that leave [0, 255].

    >>> check_arrays(np.zeros((1, 64, 64, 4), "uint8"))
    Traceback (most recent call last):
    ...
    ValueError: Images have 4 channels, expected 3 (RGB): ...
    """
    images = np.asarray(images)
    _check_images(images)
    if masks is None:
        return
    masks = np.asarray(masks)
    if masks.dtype.kind not in "iu":
        raise ValueError(
            f"Masks have dtype {masks.dtype}, expected integer labels: masks.astype('uint8') if "
            "the values are labels, np.argmax(masks, axis=-1) if they are one-hot."
        )
    expected = images.shape[:3]
    if masks.shape not in (expected, (*expected, 1)):
        one_hot = " They look one-hot: pass np.argmax(masks, axis=-1)." * (
            masks.ndim == 4 and masks.shape[:3] == expected
        )
        raise ValueError(
            f"Masks have shape {masks.shape} and images {images.shape}; expected masks of shape "
            f"{expected} or {(*expected, 1)}: one label for each pixel.{one_hot}"
        )
    totals = _counts(masks)
    outside = _outside(totals, num_classes, ignore_index)
    if outside:
        first = int(np.flatnonzero(np.isin(masks, list(outside)).reshape(len(masks), -1).any(1))[0])
        raise ValueError(
            _outside_message(totals, num_classes, ignore_index, f", first in mask {first}")
        )
    if masks.size:
        _check_whole_set(totals, num_classes, ignore_index, labels, training)


def _check_images(images):
    if images.ndim != 4:
        single = " For one image: images[None]." if images.ndim == 3 else ""
        raise ValueError(
            f"Images have shape {images.shape}, expected (batch, height, width, 3).{single}"
        )
    if images.shape[-1] != 3:
        first = " They look channels-first: np.moveaxis(images, 1, -1)." * (images.shape[1] == 3)
        raise ValueError(
            f"Images have {images.shape[-1]} channels, expected 3 (RGB): shape (batch, height, "
            f"width, 3), got {images.shape}.{first} Grey: np.repeat(images, 3, axis=-1); RGBA: "
            "images[..., :3]."
        )
    if min(images.shape[1:3]) < MIN_SIZE:
        raise ValueError(
            f"Images are {images.shape[1]}×{images.shape[2]} pixels (height×width); both sides "
            f"must be {MIN_SIZE} or more. Resize them."
        )
    if images.dtype.kind not in "uif" and images.dtype.name != "bfloat16":
        raise ValueError(f"Images have dtype {images.dtype}; expected uint8 or float in [0, 255].")
    if images.dtype == "uint8" or not images.size:
        return
    low, high = images.min(), images.max()
    if not np.isfinite([float(low), float(high)]).all():
        bad = int((~np.isfinite(images.astype("float32"))).any(axis=(1, 2, 3)).argmax())
        raise ValueError(
            f"Images hold NaN or infinity, first in image {bad}; expected numbers in [0, 255]."
        )
    if images.dtype.kind not in "ui" and 0 <= low and 0 < high <= 1:
        warnings.warn(
            f"Images are floats up to {float(high):g}: they look scaled to [0, 1], but [0, 255] "
            "is expected, as normalization is inside the model. Pass the uint8 images, or images "
            "* 255.",
            stacklevel=3,
        )
    elif low < 0 or high > 255:
        warnings.warn(
            f"Images run from {float(low):g} to {float(high):g}, but [0, 255] is expected, as "
            "normalization is inside the model. Pass the images as they are in the files.",
            stacklevel=3,
        )


def check_sizes(size, mask_size, where):
    """Raises unless an image and its mask are of one `(height, width)`, 32 pixels or more."""
    if size != tuple(mask_size):
        raise ValueError(
            f"Image and mask have different sizes (height, width), {size} and {tuple(mask_size)}: "
            f"{where}. Resize the mask (nearest neighbour) or the image so that they agree."
        )
    if min(size) < MIN_SIZE:
        raise ValueError(
            f"An image is {size[0]}×{size[1]} pixels (height×width); both sides must be "
            f"{MIN_SIZE} or more: {where}. Leave it out or enlarge it."
        )


def _check_whole_set(totals, num_classes, ignore_index, labels, training):
    present = sorted(value for value in totals if 0 <= value < num_classes)
    if not present:
        raise ValueError(
            f"Every pixel of every mask is {ignore_index}, which means 'ignore': nothing to "
            "learn from. If it is a class, rename it: label_map="
            f"{{{ignore_index}: 0}} in keras_encnet.data.folder, or masks[masks == "
            f"{ignore_index}] = 0."
        )
    if len(present) == 1 and ignore_index in totals:
        message = (
            f"Every mask holds only {present[0]} and {ignore_index}, and {ignore_index} means "
            f"'ignore': a model that always says {present[0]} would be perfect. If "
            f"{ignore_index} is the foreground of 0/255 masks, rename it: label_map="
            f"{{{ignore_index}: 1}} in keras_encnet.data.folder, or masks[masks == "
            f"{ignore_index}] = 1 in arrays."
        )
        if training:
            raise ValueError(message)
        warnings.warn(message, stacklevel=3)
    if labels and len(labels) != num_classes:
        labels = None
    absent = [value for value in range(num_classes) if value not in totals]
    if training and absent:
        names = [f"{labels[value]!r} ({value})" if labels else str(value) for value in absent[:10]]
        more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
        warnings.warn(
            f"No mask holds {'these classes' if absent[1:] else 'this class'}: {', '.join(names)}"
            f"{more}. The model cannot learn what it never sees; check num_classes and the "
            "labels' order.",
            stacklevel=3,
        )


def _counts(mask):
    """{label: pixels} of a mask."""
    if mask.dtype == "uint8":
        counts = np.bincount(mask.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
    values, counts = np.unique(mask, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _outside(counts, num_classes, ignore_index):
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
    outside = _outside(totals, num_classes, ignore_index)
    message = (
        f"Masks hold labels outside the {num_classes} classes (0 to {num_classes - 1}, "
        f"{ignore_index} to ignore): {_listed(outside)}{where}."
    )
    if set(totals) <= {0, 255} and ignore_index != 255:
        return f"{message} For 0/255 masks pass label_map={{255: 1}} to keras_encnet.data.folder."
    if set(outside) == {num_classes}:
        return (
            f"{message} They may be shifted by one, as ADE20K's are (1 to {num_classes}, 0 for "
            "none): pass label_map={0: 255, **{i: i - 1 for i in range(1, "
            f"{num_classes + 1})}}}} to keras_encnet.data.folder. Otherwise the model needs "
            f"num_classes={num_classes + 1}."
        )
    largest = max(outside)
    return (
        f"{message} Labels that are shifted by one, other values, or values that are to be "
        "ignored are renamed with keras_encnet.data.folder's label_map="
        f"{{{largest}: {ignore_index}}}; with {largest + 1} classes the model needs "
        f"num_classes={largest + 1}."
        + (" JPEG masks invent labels: save masks as PNG." if len(outside) > 5 else "")
    )
