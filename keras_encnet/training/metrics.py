import keras
import numpy as np
from keras import ops

from keras_encnet.data.conventions import check_integer

BLOCK = 2**14  # pixels: a sum of these stays exact in float32 for 2²⁴ / 2¹⁴ = 1024 images of a batch


@keras.saving.register_keras_serializable("keras_encnet")
class MeanIoU(keras.metrics.Metric):
    """Mean over classes of intersection over union, for all pixels since the last reset.

    Classes that neither occur nor are predicted are left out. Unlike `keras.metrics.MeanIoU` it takes
    fractional weights, and has no Python loop over pixels on any backend. Without fractional weights it
    counts exactly up to 2³⁸ pixels of a class, of images of up to 2²⁴ pixels.

    Args:
        num_classes: number of classes.
        name: the metric's name.

    Raises:
        ValueError: if `num_classes` is not a positive integer.

    >>> metric = keras_encnet.training.MeanIoU(num_classes=2)
    >>> metric.update_state(np.array([[0, 0, 1]]), np.array([[[9, 0], [0, 9], [0, 9]]]))
    >>> float(metric.result())
    0.5
    """

    def __init__(self, num_classes: int, name: str = "miou", **kwargs):
        check_integer("num_classes", num_classes)
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        # Where Keras's callbacks look with mode="auto".
        self._direction = "up"
        # float32 has integers up to 2²⁴ only: a cell's number of pixels is `pixels + BLOCK * blocks`.
        shape = (num_classes, num_classes)
        self._pixels = self.add_variable(shape, "zeros", dtype="float32", name="confusion")
        self._blocks = self.add_variable(shape, "zeros", dtype="float32", name="confusion_blocks")

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Adds a batch.

        Args:
            y_true: class indices, integers `(batch, ...)` or `(batch, ..., 1)`. Pixels with other
                values are left out.
            y_pred: logits `(batch, ..., num_classes)`.
            sample_weight: weight of each pixel, `(batch, ...)`.

        Raises:
            ValueError: if the shapes are not as described.
        """
        truth = ops.cast(y_true, "int32")
        if len(truth.shape) == len(y_pred.shape) and truth.shape[-1] == 1:
            truth = ops.squeeze(truth, axis=-1)
        if len(truth.shape) != len(y_pred.shape) - 1 or y_pred.shape[-1] != self.num_classes:
            raise ValueError(
                f"`MeanIoU` needs labels (batch, ...) and logits (batch, ..., {self.num_classes}). "
                f"Received: shapes {tuple(truth.shape)} and {tuple(y_pred.shape)}"
            )
        predicted = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        weight = ops.ones_like(truth) if sample_weight is None else sample_weight
        inside = ops.logical_and(truth >= 0, truth < self.num_classes)
        weight = ops.cast(weight, "float32") * ops.cast(inside, "float32")
        truth = ops.where(inside, truth, 0)
        # Per image, because adding ones in float32 stops at 2²⁴.
        batch, cells = ops.shape(truth)[0], self.num_classes**2
        first = cells * ops.arange(batch, dtype="int32")
        first = ops.reshape(first, (-1, *[1] * (len(truth.shape) - 1)))
        cell = first + truth * self.num_classes + predicted
        counts = ops.segment_sum(
            ops.reshape(weight, (-1,)),
            ops.reshape(cell, (-1,)),
            num_segments=batch * cells,
        )
        counts = ops.reshape(counts, (batch, *self._pixels.shape))
        blocks = ops.floor(counts / BLOCK)
        pixels = ops.sum(counts - blocks * BLOCK, axis=0)
        carried = ops.floor((self._pixels + pixels) / BLOCK)
        # Each replica counts its own images; what all have counted is added up when it is read.
        self._pixels.assign_add(pixels - carried * BLOCK)
        self._blocks.assign_add(ops.sum(blocks, axis=0) + carried)

    @property
    def confusion(self) -> np.ndarray:
        """How many pixels of each true class (rows) were given each class (columns), by weight:
        `float64` `(num_classes, num_classes)`."""
        pixels, blocks = (
            ops.convert_to_numpy(part).astype("float64") for part in (self._pixels, self._blocks)
        )
        return pixels + BLOCK * blocks

    def result(self):
        confusion = self._blocks * BLOCK + self._pixels
        hits = ops.diagonal(confusion)
        union = ops.sum(confusion, 0) + ops.sum(confusion, 1) - hits
        seen = ops.cast(union > 0, "float32")
        iou = hits / ops.where(union > 0, union, 1)
        return ops.sum(iou) / ops.maximum(ops.sum(seen), 1)

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}


def metrics_of_logits(metrics, num_classes: int) -> list[keras.metrics.Metric]:
    """The argument `metrics` of `compile`, as Keras metrics of labels and logits.

    Keras's metrics read probabilities and, except for the sparse ones, one-hot labels, unless told
    otherwise. A name can be told; an object that reads them means something else.

    Raises:
        ValueError: if a Keras metric cannot read labels and logits, or two have the same name.

    >>> [metric.name for metric in metrics_of_logits(["accuracy", MeanIoU(3)], 3)]
    ['accuracy', 'miou']
    """
    if metrics is None:
        return [MeanIoU(num_classes)]
    if not isinstance(metrics, (list, tuple)):
        raise ValueError(f"`metrics` must be a list. Received: {metrics!r}. Pass [{metrics!r}].")
    found = [_metric_of_logits(metric) for metric in metrics]
    names = ["loss", *(metric.name for metric in found)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"`metrics` must have different names, and none may be called 'loss'. Received: {twice}. "
            "Pass name= to them."
        )
    for metric in found:
        if getattr(metric, "num_classes", num_classes) != num_classes:
            raise ValueError(
                f"`metrics` must have the model's number of classes, {num_classes}. Received: "
                f"{metric.name!r} with num_classes={metric.num_classes}"
            )
    return found


# Names for which Keras looks at shapes, and those whose metric must be told of logits.
BY_NAME = {
    "accuracy": lambda: keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
    "acc": lambda: keras.metrics.SparseCategoricalAccuracy(name="acc"),
    "crossentropy": lambda: _crossentropy("crossentropy"),
    "ce": lambda: _crossentropy("ce"),
    "sparse_categorical_crossentropy": lambda: _crossentropy("sparse_categorical_crossentropy"),
    "SparseCategoricalCrossentropy": lambda: _crossentropy("sparse_categorical_crossentropy"),
}


def _crossentropy(name):
    return keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name=name)


def _metric_of_logits(metric):
    if isinstance(metric, str) and metric in BY_NAME:
        return BY_NAME[metric]()
    metric = keras.metrics.get(metric)
    if metric is None:
        raise ValueError("`metrics` must hold names, functions and Keras metrics. Received: None")
    if not isinstance(metric, keras.metrics.Metric):
        return keras.metrics.MeanMetricWrapper(metric, name=getattr(metric, "__name__", None))
    if not _reads_logits(metric):
        raise ValueError(
            "`metrics` must take labels (batch, height, width) and logits (batch, height, width, "
            f"num_classes). Received: {type(metric).__name__} ({metric.name!r}), which takes one-hot "
            "labels, probabilities or predicted classes. Pass from_logits=True or sparse_y_pred=False "
            "to it if it has that argument; otherwise a function of labels and logits, or a metric of "
            "your own."
        )
    return metric


def _reads_logits(metric):
    """Whether a metric reads labels and logits. Those that are not Keras's own are trusted."""
    kind = type(metric)
    if kind is keras.metrics.SparseCategoricalCrossentropy:
        return metric.from_logits
    if kind in (keras.metrics.IoU, keras.metrics.MeanIoU):
        return metric.sparse_y_true and not metric.sparse_y_pred
    known = (
        keras.metrics.SparseCategoricalAccuracy,
        keras.metrics.SparseTopKCategoricalAccuracy,
        keras.metrics.MeanMetricWrapper,
    )
    return kind in known or getattr(keras.metrics, kind.__name__, None) is not kind
