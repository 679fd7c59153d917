"""How good label maps are: the figures of segmentation papers, over a whole set."""

from typing import NamedTuple

import numpy as np


class Scores(NamedTuple):
    """IoU and accuracy of each class, `float64` `(num_classes,)`, and of all pixels; prints as a table.

    A class that occurs neither in the truth nor in the predictions has no IoU (`nan`), one that
    does not occur in the truth no accuracy; means leave them out.
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


def scores(predictions, truths, num_classes, *, labels=None, ignore_index=255):
    """Intersections over unions, summed over the set before the division.

    Args:
        predictions: label maps, integers `(height, width)`.
        truths: masks of the same sizes; `ignore_index` where a pixel counts for nothing.
        num_classes: number of classes.
        labels: their names.
        ignore_index: see `truths`.

    Returns:
        `Scores`.

    >>> result = scores([np.array([[0, 1, 1]])], [np.array([[0, 0, 255]])], num_classes=2)
    >>> result.iou.tolist(), result.pixel_accuracy
    ([0.5, 0.0], 0.5)
    """
    confusion = np.zeros((num_classes, num_classes), "int64")
    for prediction, truth in zip(predictions, truths, strict=True):
        counted = np.asarray(truth) != ignore_index
        pair = np.asarray(truth)[counted].astype("int64") * num_classes
        pair += np.asarray(prediction)[counted]
        confusion += np.bincount(pair, minlength=num_classes**2).reshape(confusion.shape)
    hit, truth, found = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        return Scores(
            tuple(labels or (f"class {i}" for i in range(num_classes))),
            hit / (truth + found - hit),
            hit / truth,
            float(hit.sum() / truth.sum()),
        )


def evaluate(model, pairs, **options):
    """`scores` of `model.segment(image, **options)` on pairs of image and mask."""
    predictions = (model.segment(image, **options).label_map for image, _ in pairs)
    return scores(
        predictions,
        (mask for _, mask in pairs),
        model.num_classes,
        labels=model.labels,
        ignore_index=model.ignore_index,
    )
