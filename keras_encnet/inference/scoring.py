"""How good label maps are: the figures of segmentation papers, over a complete set."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from keras_encnet.data.conventions import IGNORE_INDEX, check_integer, class_names


class Scores(NamedTuple):
    """How well a set of images was segmented; prints as a table.

    A class that occurs neither in the truth nor in the predictions has no IoU and no F1 (`nan`), and
    one that does not occur in the truth has no accuracy; the means leave them out.

    Attributes:
        labels: names of the classes, a tuple.
        confusion: `int64` `(num_classes, num_classes)`: how many pixels of each true class (rows) were
            given each class (columns). Ignored pixels are left out.
        num_images: number of images.

    >>> scores = Scores(("sky", "road", "car"), np.array([[6, 2, 0], [0, 8, 0], [0, 0, 0]]), 1)
    >>> scores.iou.tolist(), scores.accuracy.tolist(), scores.pixel_accuracy
    ([0.75, 0.8, nan], [0.75, 1.0, nan], 0.875)
    >>> print(scores)
    class          IoU    Acc     F1
    sky          0.750  0.750  0.857
    road         0.800  1.000  0.889
    car            nan    nan    nan
    all classes  0.775  0.875  0.873
    pixel accuracy 0.875
    """

    labels: tuple
    confusion: np.ndarray
    num_images: int

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each class, `float64` `(num_classes,)`."""
        return iou_of(self.confusion)

    @property
    def accuracy(self) -> np.ndarray:
        """The fraction of each class's pixels that were given it, `float64` `(num_classes,)`."""
        return _quotient(self.confusion.diagonal(), self.confusion.sum(1))

    @property
    def f1(self) -> np.ndarray:
        """The harmonic mean of precision and recall, also called Dice, `float64` `(num_classes,)`."""
        confusion = self.confusion
        return _quotient(2 * confusion.diagonal(), confusion.sum(0) + confusion.sum(1))

    @property
    def miou(self) -> float:
        """The mean of `iou`, called mIoU."""
        return _mean(self.iou)

    @property
    def mean_accuracy(self) -> float:
        """The mean of `accuracy`, called mAcc."""
        return _mean(self.accuracy)

    @property
    def mean_f1(self) -> float:
        """The mean of `f1`."""
        return _mean(self.f1)

    @property
    def pixel_accuracy(self) -> float:
        """The fraction of all pixels with the right class, called aAcc; `nan` without pixels."""
        return float(_quotient(self.confusion.trace(), self.confusion.sum()))

    def to_json(self) -> dict:
        """The figures, those of each class by name, as JSON has them; `None` for `nan`."""
        columns = {"iou": self.iou, "accuracy": self.accuracy, "f1": self.f1}
        return {
            "num_images": self.num_images,
            "miou": _or_none(self.miou),
            "mean_accuracy": _or_none(self.mean_accuracy),
            "mean_f1": _or_none(self.mean_f1),
            "pixel_accuracy": _or_none(self.pixel_accuracy),
            "classes": [
                {"label": label, **{name: _or_none(values[i]) for name, values in columns.items()}}
                for i, label in enumerate(self.labels)
            ],
            "confusion": self.confusion.tolist(),
        }

    def __str__(self):
        wide = max(map(len, (*self.labels, "all classes")))
        lines = [f"{'class':{wide}}    IoU    Acc     F1"]
        rows = [*zip(self.labels, self.iou, self.accuracy, self.f1, strict=True)]
        rows.append(("all classes", self.miou, self.mean_accuracy, self.mean_f1))
        for label, *figures in rows:
            lines.append(f"{label:{wide}}" + "".join(f"  {figure:5.3f}" for figure in figures))
        return "\n".join(lines) + f"\npixel accuracy {self.pixel_accuracy:.3f}"


def score(
    predictions: Iterable,
    truths: Iterable,
    num_classes: int,
    *,
    labels: Sequence[str] | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Scores:
    """Scores label maps over a complete set: intersections and unions are summed before the division.

    Args:
        predictions: label maps, integers `(height, width)`.
        truths: masks of the same sizes; pixels that are `ignore_index` are ignored.
        num_classes: number of classes.
        labels: their names.
        ignore_index: see `truths`.

    Raises:
        ValueError: if a label map and its mask differ in shape or have values that are no classes, if
            there are not as many of one as of the other, or if all pixels are ignored.

    >>> result = score([np.array([[0, 1, 1]])], [np.array([[0, 0, 255]])], num_classes=2)
    >>> result.iou.tolist(), result.pixel_accuracy
    ([0.5, 0.0], 0.5)
    """
    check_integer("num_classes", num_classes)
    confusion, number = np.zeros((num_classes, num_classes), "int64"), 0
    for prediction, truth in zip(predictions, truths, strict=True):
        try:
            confusion += confusion_matrix(prediction, truth, num_classes, ignore_index)
        except ValueError as error:
            raise ValueError(f"{error} In number {number}.") from error
        number += 1
    check_counted(confusion, ignore_index)
    return Scores(class_names(num_classes, labels), confusion, number)


def check_counted(confusion: np.ndarray, ignore_index: int) -> None:
    """Raises an error if all pixels of a set are ignored, so that it has no score.

    Raises:
        ValueError: if the confusion matrix is 0.
    """
    if not confusion.any():
        raise ValueError(
            f"Masks must have pixels that are not ignored (not {ignore_index}). Received: none"
        )


def confusion_matrix(prediction, truth, num_classes, ignore_index=IGNORE_INDEX) -> np.ndarray:
    """How many pixels of each true class (rows) were given each class (columns), `int64`.

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
    truth, prediction = truth[valid], prediction[valid]
    for name, values in (("Mask values", truth), ("Predictions", prediction)):
        if values.size and (values.min() < 0 or values.max() >= num_classes):
            outside = np.unique(values[(values < 0) | (values >= num_classes)])
            raise ValueError(
                f"{name} must be one of the {num_classes} classes (0 to {num_classes - 1}), where the "
                f"mask is not {ignore_index} (ignored). "
                f"Received: {', '.join(map(str, outside[:5]))}{', …' if len(outside) > 5 else ''}."
            )
    cells = truth.astype("int64") * num_classes + prediction
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou_of(confusion) -> np.ndarray:
    """Intersection over union of each class; NaN for one that neither occurs nor is predicted.

    >>> iou_of(np.array([[1, 1, 0], [0, 2, 0], [0, 0, 0]])).round(2).tolist()
    [0.5, 0.67, nan]
    """
    hits = confusion.diagonal()
    return _quotient(hits, confusion.sum(0) + confusion.sum(1) - hits)


def _quotient(part, total):
    with np.errstate(invalid="ignore"):
        return np.divide(part, total)


def _mean(values):
    """The mean of the values that are not NaN, or NaN if all are."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def _or_none(value):
    return None if np.isnan(value) else float(value)
