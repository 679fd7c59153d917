import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_encnet")
class MeanIoU(keras.metrics.Metric):
    """Mean over classes of intersection over union, for all pixels since the last reset.

    Classes that neither occur nor are predicted are left out. Unlike `keras.metrics.MeanIoU` it takes
    fractional weights, counts in float32, which never wraps around, and has no Python loop over pixels
    on any backend.

    Args:
        num_classes: number of classes.
        name: the metric's name.

    >>> metric = keras_encnet.training.MeanIoU(num_classes=2)
    >>> metric.update_state(np.array([[0, 0, 1]]), np.array([[[9, 0], [0, 9], [0, 9]]]))
    >>> float(metric.result())
    0.5
    """

    def __init__(self, num_classes: int, name: str = "miou", **kwargs):
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        self.confusion = self.add_variable(
            (num_classes, num_classes), initializer="zeros", dtype="float32", name="confusion"
        )

    def update_state(self, y_true, y_pred, sample_weight=None) -> None:
        """Adds a batch.

        Args:
            y_true: class indices, integers `(batch, ...)`.
            y_pred: logits `(batch, ..., num_classes)`.
            sample_weight: weight of each pixel, `(batch, ...)`.
        """
        truth = ops.cast(y_true, "int32")
        predicted = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        weight = ops.ones_like(truth) if sample_weight is None else sample_weight
        # Per image, because adding ones in float32 stops at 2²⁴.
        batch, cells = ops.shape(truth)[0], self.num_classes**2
        cell = ops.reshape(truth * self.num_classes + predicted, (batch, -1))
        cell = cell + cells * ops.arange(batch, dtype="int32")[:, None]
        counts = ops.segment_sum(
            ops.cast(ops.reshape(weight, (-1,)), "float32"),
            ops.reshape(cell, (-1,)),
            num_segments=batch * cells,
        )
        counts = ops.sum(ops.reshape(counts, (batch, *self.confusion.shape)), axis=0)
        self.confusion.assign_add(counts)

    def result(self):
        hits = ops.diagonal(self.confusion)
        union = ops.sum(self.confusion, 0) + ops.sum(self.confusion, 1) - hits
        seen = ops.cast(union > 0, "float32")
        iou = hits / ops.where(union > 0, union, 1)
        return ops.sum(iou) / ops.maximum(ops.sum(seen), 1)

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}
