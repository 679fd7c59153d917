"""How an EncNet is compiled, fitted and evaluated: `keras.Model`'s methods, for masks."""

import contextlib
import types
import warnings
import weakref

import keras
import numpy as np

from keras_encnet.data.batching import Batches
from keras_encnet.data.checks import check_arrays, check_masks
from keras_encnet.training import losses
from keras_encnet.training.metrics import MeanIoU
from keras_encnet.training.optimizers import SGD


class SegmentationTrainer:
    """Mixed into `EncNet`: what `compile`, `fit`, `evaluate` and `predict` do there.

    Expects `num_classes`, `ignore_index` and `labels`, and a `call` that returns logits, or, in
    training, a dict of the outputs that the terms in `losses.TERMS` take.
    """

    def _add_loss_trackers(self, outputs):
        self._term_trackers = [
            keras.metrics.Mean(name=f"{name}_loss")
            for name, term in losses.TERMS.items()
            if term.output in outputs
        ]
        # Labels outside the classes, in data whose values cannot be checked beforehand.
        self._invalid_labels = keras.metrics.Sum(name="invalid_labels")
        self._warned_of_invalid_labels = False
        self._evaluating = False
        self._checked_pairs = weakref.WeakSet()

    def compile(
        self,
        optimizer=None,
        loss=None,
        metrics=None,
        *,
        class_weight=None,
        average: str = "all",
        **kwargs,
    ) -> None:
        """Configures training; without arguments it is mmsegmentation's.

        Args:
            optimizer: default: `training.SGD(0.01, momentum=0.9, weight_decay=5e-4)`.
            loss: the pixel loss: a Keras loss, its name, or a function of labels `(batch, height,
                width)` and logits `(batch, height, width, num_classes)` that returns a value for
                each pixel. Ignored pixels have label 0 and weight 0. Default: cross-entropy.
            metrics: computed with weight 0 on ignored pixels. Default: mean IoU, as `miou`.
            class_weight: weights of the classes in the pixel losses, a list, or a dict by index
                (classes that it leaves out have weight 1).
            average: `"all"` divides by the number of pixels, as mmsegmentation does, `"counted"` by
                the number of pixels that are not ignored, as PyTorch-Encoding does.
            **kwargs: `aux_weight` (0.4), the weight of the auxiliary head's pixel loss; `se_weight`
                (0.2), the weight of the SE head's loss; and as for `keras.Model.compile`.

        Raises:
            ValueError: if an argument is none of the above.
        """
        if average not in losses.AVERAGES:
            raise ValueError(f"`average` must be one of {losses.AVERAGES}. Received: {average!r}")
        optimizer = keras.optimizers.get(optimizer or SGD())
        loss = keras.losses.get(loss)
        if metrics is None:
            metrics = [MeanIoU(self.num_classes)]
        class_weight = _class_weight(class_weight, self.num_classes)
        weights = {
            f"{name}_weight": kwargs.pop(f"{name}_weight", term.weight)
            for name, term in losses.TERMS.items()
        }
        # Not a dict, in which Keras would find the metrics and track them twice.
        self._compile_arguments = types.SimpleNamespace(
            optimizer=optimizer,
            loss=loss,
            metrics=metrics,
            class_weight=class_weight,
            average=average,
            **weights,
            **kwargs,
        )
        super().compile(optimizer=optimizer, weighted_metrics=metrics, **kwargs)

    def get_compile_config(self):
        if not self.compiled:
            return {}
        return keras.saving.serialize_keras_object(vars(self._compile_arguments))

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        outputs = y_pred if isinstance(y_pred, dict) else {"logits": y_pred}
        labels, valid, invalid_count = losses.split_mask(y, self.num_classes, self.ignore_index)
        self._invalid_labels.update_state(invalid_count)
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
                tracker.update_state(values[tracker.name.removesuffix("_loss")])
        return sum(getattr(compiled, f"{name}_weight") * value for name, value in values.items())

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logits = y_pred["logits"] if isinstance(y_pred, dict) else y_pred
        labels, valid, _ = losses.split_mask(y, self.num_classes, self.ignore_index)
        if sample_weight is not None:
            valid = valid * losses.per_pixel(sample_weight, valid)
        return super().compute_metrics(x, labels, logits, valid)

    def get_metrics_result(self):
        results = super().get_metrics_result()
        hidden = [self._invalid_labels, *(self._term_trackers if self._evaluating else [])]
        for metric in hidden:
            results.pop(metric.name, None)
        return results

    # Evaluation logs the pixel loss only; the flag is read while the step is traced.

    def test_step(self, *args, **kwargs):
        with self._evaluation():
            return super().test_step(*args, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, **kwargs):
        """As `keras.Model.evaluate`; `loss` is the pixel loss alone."""
        self._check_data(x, y)
        # What `fit` has counted so far, before the count is reset.
        self._warn_of_invalid_labels()
        with self._evaluation():
            results = super().evaluate(x, y, batch_size, **kwargs)
        self._warn_of_invalid_labels()
        return results

    def fit(self, x=None, y=None, batch_size=None, epochs=1, *, callbacks=None, **kwargs):
        """As `keras.Model.fit`, on images and integer masks.

        Args:
            x: images `(batch, height, width, 3)`, RGB in [0, 255]; or `data.batches(...)`, or any
                other dataset of such images and masks that Keras takes.
            y: masks `(batch, height, width)` or `(batch, height, width, 1)`; pixels that are
                `ignore_index` are ignored.
            batch_size: images per batch, if `x` is an array; 32 by default.
            epochs: how often all of the data is seen.
            callbacks: Keras callbacks.
            **kwargs: as for `keras.Model.fit`. `sample_weight`, one per image or one per pixel,
                multiplies the pixel losses and the metrics.

        Raises:
            ValueError: if images or masks are not as described, or with `class_weight`.
        """
        if kwargs.pop("class_weight", None) is not None:
            raise ValueError(
                "`fit(class_weight=...)` cannot weigh the pixels of a mask. "
                "Pass it to the model: `model.compile(class_weight=...)`."
            )
        self._check_data(x, y, training=True)
        validation = kwargs.get("validation_data")
        if validation is not None:
            self._check_data(*(validation if isinstance(validation, tuple) else (validation,))[:2])
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            warn = keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: self._warn_of_invalid_labels()
            )
            callbacks = [*_as_list(callbacks), warn]
        if isinstance(x, Batches):
            if kwargs.get("steps_per_epoch") is not None:
                raise ValueError(
                    "`steps_per_epoch` would restart `data.batches(...)` in each epoch. "
                    f"Received: {kwargs['steps_per_epoch']}. Leave it out, or give fewer pairs, "
                    "pairs[:n]."
                )
            # The batches are shuffled already, and reproducible in their own order alone.
            kwargs["shuffle"] = False
            callbacks.append(_start_again_at(x, x.step))
        return super().fit(x, y, batch_size, epochs, callbacks=callbacks, **kwargs)

    def predict(self, x, batch_size=None, **kwargs):
        """As `keras.Model.predict`: float32 logits `(batch, height, width, num_classes)`."""
        if isinstance(x, np.ndarray):
            self._check_data(x)
        return super().predict(x, batch_size, **kwargs)

    def _check_data(self, images, masks=None, *, training=False):
        classes = (self.num_classes, self.ignore_index, self.labels)
        if isinstance(images, np.ndarray):
            check_arrays(images, masks, *classes, training=training)
        # Reading every mask takes time: once for each data set.
        if isinstance(images, Batches) and images.pairs not in self._checked_pairs:
            check_masks(images.pairs, *classes, training=training)
            self._checked_pairs.add(images.pairs)

    def _warn_of_invalid_labels(self):
        count = int(self._invalid_labels.result())
        if count and not self._warned_of_invalid_labels:
            self._warned_of_invalid_labels = True
            warnings.warn(
                f"{count} pixels have labels that are neither among the {self.num_classes} classes "
                f"(0 to {self.num_classes - 1}) nor `ignore_index` ({self.ignore_index}). They are "
                "ignored. If the classes start at 1 in your masks, subtract 1.",
                stacklevel=3,
            )

    @contextlib.contextmanager
    def _evaluation(self):
        before, self._evaluating = self._evaluating, True
        try:
            yield
        finally:
            self._evaluating = before


def _start_again_at(batches, step):
    """A callback that moves `data.batches(...)` back to where it was when `fit` was called.

    On two backends Keras takes the first batches, for their shapes, before training begins."""
    return keras.callbacks.LambdaCallback(on_train_begin=lambda logs: batches.start_at(step))


def _class_weight(weights, num_classes):
    if weights is None:
        return None
    if isinstance(weights, dict):
        unknown = sorted(set(weights) - set(range(num_classes)))
        if unknown:
            raise ValueError(
                f"The keys of `class_weight` must be classes, 0 to {num_classes - 1}. "
                f"Received: {unknown}"
            )
        weights = [weights.get(i, 1.0) for i in range(num_classes)]
    if np.shape(weights) != (num_classes,):
        raise ValueError(
            f"`class_weight` must hold {num_classes} numbers, one for each class. Received: {weights!r}"
        )
    return np.asarray(weights, "float32")


def _as_list(callbacks):
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
