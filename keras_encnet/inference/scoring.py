"""How good label maps are: the figures of segmentation papers, over a whole set."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_encnet.data.conventions import IGNORE_INDEX, check_integer, class_names
from keras_encnet.data.pairs import Pairs


class Scores(NamedTuple):
    """IoU and accuracy of each class, `float64` `(num_classes,)`, and of all pixels; prints as a table.

    A class that occurs neither in the truth nor in the predictions has no IoU (`nan`), and one that
    does not occur in the truth has no accuracy; the means leave them out.
    """

    labels: tuple
    iou: np.ndarray
    accuracy: np.ndarray
    pixel_accuracy: float

    @property
    def miou(self):
        """The mean of `iou`."""
        return float(np.nanmean(self.iou))

    def __str__(self):
        wide = max(map(len, (*self.labels, "all classes")))
        lines = [f"{'class':{wide}}    IoU    Acc"]
        for label, iou, accuracy in zip(self.labels, self.iou, self.accuracy, strict=True):
            lines.append(f"{label:{wide}}  {iou:5.3f}  {accuracy:5.3f}")
        lines.append(f"{'all classes':{wide}}  {self.miou:5.3f}  {np.nanmean(self.accuracy):5.3f}")
        return "\n".join(lines) + f"\npixel accuracy {self.pixel_accuracy:.3f}"


def score(
    predictions: Iterable,
    truths: Iterable,
    num_classes: int,
    *,
    labels: Sequence[str] | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Scores:
    """Scores label maps over a whole set: intersections and unions are summed before the division.

    Args:
        predictions: label maps, integers `(height, width)`.
        truths: masks of the same sizes; pixels that are `ignore_index` are ignored.
        num_classes: number of classes.
        labels: their names.
        ignore_index: see `truths`.

    Raises:
        ValueError: if a label map and its mask differ in shape or have values that are no classes, if
            there are not as many of one as of the other, or if no pixel counts.

    >>> result = score([np.array([[0, 1, 1]])], [np.array([[0, 0, 255]])], num_classes=2)
    >>> result.iou.tolist(), result.pixel_accuracy
    ([0.5, 0.0], 0.5)
    """
    pairs = zip(predictions, truths, strict=True)
    return _scores(pairs, num_classes, labels, ignore_index)


def evaluate(model: keras.Model, pairs: Iterable, **options) -> Scores:
    """Scores `model.segment(image, **options)` on pairs of image and mask.

    Args:
        model: an `EncNet`. Mask values that are its `ignore_index` are ignored.
        pairs: `keras_encnet.data.Pairs`, or another iterable of (image, mask). Masks are integers
            `(height, width)`, of the size of their image.
        **options: those of `segment`.

    Raises:
        ValueError: if a mask does not fit its image or the classes; the pair is named. If there are no
            pairs, or an image or an option is invalid.
    """

    def predicted():
        for i, (image, mask) in enumerate(pairs):
            result = model.segment(image, **options)
            where = pairs.where(i) if isinstance(pairs, Pairs) else f"pair {i}"
            yield result.label_map, mask, where

    return _scores(predicted(), model.num_classes, model.labels, model.ignore_index)


def _scores(pairs, num_classes, labels, ignore_index):
    """`Scores` of predictions and truths, with or without the place where they come from."""
    check_integer("num_classes", num_classes)
    confusion = np.zeros((num_classes, num_classes), "int64")
    for i, (prediction, truth, *where) in enumerate(pairs):
        try:
            confusion += confusion_matrix(prediction, truth, num_classes, ignore_index)
        except ValueError as error:
            raise ValueError(f"{error} In {where[0] if where else f'number {i}'}.") from error
    hits, truth = confusion.diagonal(), confusion.sum(1)
    if not truth.sum():
        raise ValueError(
            f"Masks must have pixels that are not ignored (not {ignore_index}). Received: none"
        )
    with np.errstate(invalid="ignore"):
        return Scores(
            class_names(num_classes, labels),
            iou_of(confusion),
            hits / truth,
            float(hits.sum() / truth.sum()),
        )


def confusion_matrix(prediction, truth, num_classes, ignore_index=IGNORE_INDEX) -> np.ndarray:
    """How many pixels of each true class (rows) were given each class (columns).

    Raises:
        ValueError: if shapes differ, or values are neither integers nor booleans, or no classes.

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 255]), num_classes=2).tolist()
    [[1, 1], [0, 0]]
    """
    prediction, truth = np.asarray(prediction), np.asarray(truth)
    if prediction.shape != truth.shape or {prediction.dtype.kind, truth.dtype.kind} - set("iub"):
        raise ValueError(
            "Predictions and masks must be integers of the same shape. Received: "
            f"{prediction.dtype} of shape {prediction.shape}, and a mask, {truth.dtype} of shape "
            f"{truth.shape}."
        )
    valid = truth != ignore_index
    truth, prediction = truth[valid].astype("int64"), prediction[valid].astype("int64")
    for name, values in (("Mask values", truth), ("Predictions", prediction)):
        outside = np.unique(values[(values < 0) | (values >= num_classes)])
        if len(outside):
            raise ValueError(
                f"{name} must be one of the {num_classes} classes (0 to {num_classes - 1}), where the "
                f"mask is not {ignore_index} (ignored). "
                f"Received: {', '.join(map(str, outside[:5]))}{', …' if len(outside) > 5 else ''}."
            )
    cells = truth * num_classes + prediction
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou_of(confusion) -> np.ndarray:
    """Intersection over union of each class; NaN for one that neither occurs nor is predicted.

    >>> iou_of(np.array([[1, 1, 0], [0, 2, 0], [0, 0, 0]])).round(2).tolist()
    [0.5, 0.67, nan]
    """
    hits = confusion.diagonal()
    with np.errstate(invalid="ignore"):
        return hits / (confusion.sum(0) + confusion.sum(1) - hits)
