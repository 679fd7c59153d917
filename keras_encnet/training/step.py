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
        number = keras.ops.shape(labels)[0]
        if sample_weight is not None:
            weight = options["sample_weight"] = losses.per_pixel(sample_weight, valid)
            number = _number_of_images(valid, weight)
        values = {
            name: term.loss(labels, valid, outputs[term.output], **options)
            for name, term in losses.TERMS.items()
            if term.output in outputs and (training or name == "pixel")
        }
        # `self.losses` are those of regularizers and `add_loss`.
        total = sum(getattr(compiled, f"{name}_weight") * value for name, value in values.items())
        total = sum([total, *self.losses])
        if not training:
            # Keras counts padding too. In evaluation this tracker is that of the loss.
            values["pixel"] = total
        for tracker in self._term_trackers:
            if (name := tracker.name.removesuffix("_loss")) in values:
                # As `loss` is logged: the mean over images, in the last, smaller batch too.
                tracker.update_state(values[name], sample_weight=number)
        # Every replica has computed the loss of the global batch. As `keras.Model.compute_loss` does
        # with each loss: divided by the number of replicas, whose gradients are added up.
        return self._aggregate_additional_loss(total)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logits = y_pred["logits"] if isinstance(y_pred, dict) else y_pred
        labels, valid = self._labels(y, logits)
        if sample_weight is not None:
            valid = valid * losses.per_pixel(sample_weight, valid)
        results = super().compute_metrics(x, labels, logits, valid)
        if _in_several_processes(getattr(self, "_distribute_strategy", None)):
            # Keras takes the mean of the replicas' figures along an axis that a number lacks.
            results = {name: value[None] for name, value in results.items()}
        return results

    def _labels(self, masks, logits):
        losses.check_mask(masks, logits)
        return losses.split_mask(masks, self.num_classes)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        # TensorFlow's, with one replica's batch. Keras takes the mean of all: it makes floats of masks,
        # and fails for several processes (keras-team/keras#20585) and for parts of different lengths.
        strategy = self._distribute_strategy
        if strategy is None:
            return
        if iterator is not None:
            for _, _, steps in iterator:
                data_batch = keras.tree.map_structure(
                    lambda part: strategy.experimental_local_results(part)[0], next(steps)
                )
                break
        with strategy.scope():
            self._symbolic_build(data_batch=data_batch)

    def get_metrics_result(self):
        results = super().get_metrics_result()
        if self._evaluating:
            results["loss"] = results["pixel_loss"]
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


def _number_of_images(valid, sample_weight):
    """How many images of a batch are not padding: ignored everywhere, and without weight."""
    counts = keras.ops.logical_or(valid > 0, sample_weight > 0)
    # One axis at a time: on PyTorch, Keras 3.13 cannot take two.
    images = keras.ops.any(keras.ops.any(counts, axis=2), axis=1)
    return keras.ops.sum(keras.ops.cast(images, "float32"))


def _in_several_processes(strategy):
    return strategy and strategy.num_replicas_in_sync > len(strategy.extended.worker_devices)
