"""How good label maps are: the figures of segmentation papers, over a whole set."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import keras
import numpy as np

from keras_encnet.data.conventions import IGNORE_INDEX, class_names


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

    >>> result = score([np.array([[0, 1, 1]])], [np.array([[0, 0, 255]])], num_classes=2)
    >>> result.iou.tolist(), result.pixel_accuracy
    ([0.5, 0.0], 0.5)
    """
    confusion = np.zeros((num_classes, num_classes), "int64")
    for prediction, truth in zip(predictions, truths, strict=True):
        confusion += confusion_matrix(prediction, truth, num_classes, ignore_index)
    hits, truth = confusion.diagonal(), confusion.sum(1)
    with np.errstate(invalid="ignore"):
        return Scores(
            class_names(num_classes, labels),
            iou_of(confusion),
            hits / truth,
            float(hits.sum() / truth.sum()),
        )


def evaluate(model: keras.Model, pairs: Iterable, **options) -> Scores:
    """Scores `model.segment(image, **options)` on pairs of image and mask."""
    predictions = (model.segment(image, **options).label_map for image, _ in pairs)
    return score(
        predictions,
        (mask for _, mask in pairs),
        model.num_classes,
        labels=model.labels,
        ignore_index=model.ignore_index,
    )


def confusion_matrix(prediction, truth, num_classes, ignore_index=IGNORE_INDEX) -> np.ndarray:
    """How many pixels of each true class (rows) were given each class (columns).

    >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 0, 255]), num_classes=2).tolist()
    [[1, 1], [0, 0]]
    """
    valid = np.asarray(truth) != ignore_index
    cells = np.asarray(truth)[valid].astype("int64") * num_classes
    cells += np.asarray(prediction)[valid]
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou_of(confusion) -> np.ndarray:
    """Intersection over union of each class; NaN for one that neither occurs nor is predicted.

    >>> iou_of(np.array([[1, 1, 0], [0, 2, 0], [0, 0, 0]])).round(2).tolist()
    [0.5, 0.67, nan]
    """
    hits = confusion.diagonal()
    with np.errstate(invalid="ignore"):
        return hits / (confusion.sum(0) + confusion.sum(1) - hits)
