"""What one step computes of a batch: the losses, the metrics, and what the data holds."""

import contextlib
import weakref

import keras

from keras_encnet.training import losses
from keras_encnet.training.statistics import DataStatistics


class SegmentationStep:
    """The part of `SegmentationTrainer` that runs in each step, and within graphs.

    Expects `num_classes`, `ignore_index`, `labels`, and the arguments of `compile` in
    `_compile_arguments`.
    """

    def _add_loss_trackers(self, outputs):
        self._term_trackers = [
            keras.metrics.Mean(name=f"{name}_loss")
            for name, term in losses.TERMS.items()
            if term.output in outputs
        ]
        self._statistics = DataStatistics(self.num_classes, self.ignore_index, self.labels)
        self._evaluating = False
        # {pairs: what they were checked for, `training` of `check_masks`}
        self._checked_pairs = weakref.WeakKeyDictionary()

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        outputs = y_pred if isinstance(y_pred, dict) else {"logits": y_pred}
        labels, valid = self._labels(y, outputs["logits"])
        images = next((part for part in keras.tree.flatten(x) if part is not None), None)
        # Of data that was checked before too: one graph serves every kind of data, and counting takes
        # little time beside the network.
        self._statistics.update_state(images, y)
        compiled = self._compile_arguments
        options = {
            "loss": compiled.loss,
            "class_weight": compiled.class_weight,
            "average": compiled.average,
        }
        if sample_weight is not None:
            options["sample_weight"] = losses.per_pixel(sample_weight, valid)
        values = {
            name: term.loss(labels, valid, outputs[term.output], **options)
            for name, term in losses.TERMS.items()
            if term.output in outputs and (training or name == "pixel")
        }
        if training:
            for tracker in self._term_trackers:
                value = values[tracker.name.removesuffix("_loss")]
                # As `loss` is logged: the mean over images, in the last, smaller batch too.
                tracker.update_state(value, sample_weight=keras.ops.shape(labels)[0])
        total = sum(getattr(compiled, f"{name}_weight") * value for name, value in values.items())
        # As `keras.Model.compute_loss` does with each loss: divided by the number of replicas, whose
        # gradients are added up. `self.losses` are those of regularizers and `add_loss`.
        return sum(self._aggregate_additional_loss(loss) for loss in [total, *self.losses])

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logits = y_pred["logits"] if isinstance(y_pred, dict) else y_pred
        # Keras builds a model for several replicas with the mean of their masks, which is a float.
        is_mean = getattr(self, "_distribute_strategy", None) is not None
        labels, valid = self._labels(y, logits, any_dtype=is_mean)
        if sample_weight is not None:
            valid = valid * losses.per_pixel(sample_weight, valid)
        return super().compute_metrics(x, labels, logits, valid)

    def _labels(self, masks, logits, *, any_dtype=False):
        losses.check_mask(masks, logits, any_dtype=any_dtype)
        return losses.split_mask(masks, self.num_classes)

    def get_metrics_result(self):
        results = super().get_metrics_result()
        if self._evaluating:
            for tracker in self._term_trackers:
                results.pop(tracker.name, None)
        return results

    # Evaluation logs the pixel loss only; the flag is read while the step is traced.

    def test_step(self, *args, **kwargs):
        with self._evaluation():
            return super().test_step(*args, **kwargs)

    @contextlib.contextmanager
    def _evaluation(self):
        before, self._evaluating = self._evaluating, True
        try:
            yield
        finally:
            self._evaluating = before
