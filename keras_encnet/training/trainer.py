"""How an EncNet is compiled, fitted and evaluated: `keras.Model`'s methods, for masks."""

import contextlib
import warnings

import keras
import numpy as np

from keras_encnet.training import losses
from keras_encnet.training.metrics import MeanIoU
from keras_encnet.training.optimizers import SGD


class SegmentationTrainer:
    """Mixed into `EncNet`: what `compile`, `fit`, `evaluate` and `predict` do there.

    Expects `num_classes`, `ignore_index` and `labels`, and a `call` that gives logits, or, in
    training, a dict of `"logits"`, `"aux"` and `"se"`.
    """

    def _add_loss_trackers(self):
        self._part_trackers = [
            keras.metrics.Mean(name=name)
            for name in ("pixel_loss", "aux_loss", "se_loss")
            if name != "aux_loss" or self.aux_head
            if name != "se_loss" or self.se_head
        ]
        # Labels outside the classes, in data that cannot be looked at before.
        self._stray_labels = keras.metrics.Sum(name="stray_labels")
        self._evaluating = False
        object.__setattr__(self, "_checked", [])

    def compile(
        self,
        optimizer=None,
        loss=None,
        metrics=None,
        *,
        aux_weight=0.4,
        se_weight=0.2,
        class_weight=None,
        average="all",
        **kwargs,
    ):
        """Configures training; without arguments as mmsegmentation trains.

        Args:
            optimizer: default: `training.SGD(0.01, momentum=0.9, weight_decay=5e-4)`.
            loss: the pixel loss: a Keras loss, its name, or a function of labels `(batch, height,
                width)` and logits `(batch, height, width, num_classes)` that gives a value for each
                pixel. Ignored pixels have label 0 and weight 0. Default: cross-entropy.
            metrics: computed with weight 0 on ignored pixels. Default: mean IoU, as `miou`.
            aux_weight: weight of the auxiliary head's pixel loss.
            se_weight: weight of the SE head's loss.
            class_weight: weights of the classes in the pixel losses, a list, or a dict by index
                (what it leaves out has weight 1).
            average: `"all"` divides by the number of pixels, as mmsegmentation does, `"counted"` by
                that of pixels which are not ignored, as PyTorch-Encoding does.
            **kwargs: as for `keras.Model.compile`.

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
        arguments = {
            "optimizer": optimizer,
            "loss": loss,
            "metrics": metrics,
            "aux_weight": aux_weight,
            "se_weight": se_weight,
            "class_weight": class_weight,
            "average": average,
            **kwargs,
        }
        # Past Keras's tracking, which would take the metrics in it for further ones of the model.
        object.__setattr__(self, "_compile_arguments", arguments)
        self._pixel_options = {
            "loss": loss,
            "class_weight": class_weight,
            "average": average,
        }
        self._part_weights = {"pixel": 1.0, "aux": aux_weight, "se": se_weight}
        super().compile(optimizer=optimizer, weighted_metrics=metrics, **kwargs)

    def get_compile_config(self):
        return keras.saving.serialize_keras_object(self._compile_arguments) if self.compiled else {}

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        heads = y_pred if isinstance(y_pred, dict) else {"logits": y_pred}
        labels, counted, stray = losses.split_mask(y, self.num_classes, self.ignore_index)
        self._stray_labels.update_state(stray)
        options = dict(self._pixel_options)
        if sample_weight is not None:
            options["sample_weight"] = losses.per_pixel(sample_weight, counted)

        parts = {"pixel": losses.pixel_loss(labels, counted, heads["logits"], **options)}
        if "aux" in heads:
            parts["aux"] = losses.pixel_loss(labels, counted, heads["aux"], **options)
        if "se" in heads:
            parts["se"] = losses.se_loss(labels, counted, heads["se"])
        if training:
            for tracker in self._part_trackers:
                tracker.update_state(parts[tracker.name.removesuffix("_loss")])
        return sum(self._part_weights[name] * loss for name, loss in parts.items())

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logits = y_pred["logits"] if isinstance(y_pred, dict) else y_pred
        labels, counted, _ = losses.split_mask(y, self.num_classes, self.ignore_index)
        if sample_weight is not None:
            counted = counted * losses.per_pixel(sample_weight, counted)
        return super().compute_metrics(x, labels, logits, counted)

    def get_metrics_result(self):
        results = super().get_metrics_result()
        hidden = [self._stray_labels, *(self._part_trackers if self._evaluating else [])]
        for metric in hidden:
            results.pop(metric.name, None)
        return results

    # The three losses are parts of training; what evaluation logs is decided where it is traced.

    def test_step(self, *args, **kwargs):
        with self._evaluation():
            return super().test_step(*args, **kwargs)

    def evaluate(self, x=None, y=None, batch_size=None, **kwargs):
        """As `keras.Model.evaluate`; `loss` is the pixel loss alone."""
        self._check_data(x, y)
        # What `fit` has counted until now, before the count begins anew.
        self._warn_of_stray_labels()
        with self._evaluation():
            results = super().evaluate(x, y, batch_size, **kwargs)
        self._warn_of_stray_labels()
        return results

    def fit(self, x=None, y=None, batch_size=None, epochs=1, *, callbacks=None, **kwargs):
        """As `keras.Model.fit`, on images and integer masks.

        Args:
            x: images `(batch, height, width, 3)`, RGB in [0, 255]; or `data.batches(...)`, or any
                other dataset of such images and masks that Keras takes.
            y: masks `(batch, height, width)` or `(batch, height, width, 1)`, `ignore_index` where a
                pixel counts for nothing.
            batch_size: images in a batch, of arrays; 32 by default.
            epochs: how often all of the data is seen.
            callbacks: Keras callbacks.
            **kwargs: as for `keras.Model.fit`. `sample_weight`, one an image or one a pixel,
                multiplies the pixel losses and the metrics.

        Raises:
            ValueError: if images or masks are not what they should be, or with `class_weight`.
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
                on_epoch_end=lambda epoch, logs: self._warn_of_stray_labels()
            )
            callbacks = [*_as_list(callbacks), warn]
        if hasattr(x, "start_at"):
            callbacks.append(_begin_at(x, kwargs))
        return super().fit(x, y, batch_size, epochs, callbacks=callbacks, **kwargs)

    def predict(self, x, batch_size=None, **kwargs):
        """As `keras.Model.predict`: float32 logits `(batch, height, width, num_classes)`."""
        if isinstance(x, np.ndarray):
            self._check_data(x)
        return super().predict(x, batch_size, **kwargs)

    def _check_data(self, images, masks=None, *, training=False):
        from keras_encnet.data.checks import check_arrays, check_masks

        classes = (self.num_classes, self.ignore_index, self.labels)
        if isinstance(images, np.ndarray):
            check_arrays(images, masks, *classes, training=training)
        pairs = getattr(images, "pairs", None)
        # The same batches come again in the next `fit`, and reading every mask costs time.
        if pairs is not None and not any(pairs is known for known in self._checked):
            check_masks(pairs, *classes, training=training)
            self._checked.append(pairs)

    def _warn_of_stray_labels(self):
        count = int(self._stray_labels.result())
        if count and not getattr(self, "_warned_of_stray_labels", False):
            self._warned_of_stray_labels = True
            warnings.warn(
                f"{count} pixels have labels that are neither among the {self.num_classes} classes "
                f"(0 to {self.num_classes - 1}) nor `ignore_index` ({self.ignore_index}). They count "
                "as ignored. If the classes start at 1 in your masks, subtract 1.",
                stacklevel=3,
            )

    @contextlib.contextmanager
    def _evaluation(self):
        before, self._evaluating = self._evaluating, True
        try:
            yield
        finally:
            self._evaluating = before


def _begin_at(batches, fit_options):
    """Keeps `data.batches(...)` in its order, and where it stands.

    Two backends look at the first batches, for their shapes, before training begins."""
    if fit_options.get("steps_per_epoch") is not None:
        raise ValueError(
            "`steps_per_epoch` would begin each epoch of `data.batches(...)` anew: leave it out, or "
            "give fewer pairs, pairs[:n]."
        )
    fit_options["shuffle"] = False
    step = batches.step
    return keras.callbacks.LambdaCallback(on_train_begin=lambda logs: batches.start_at(step))


def _class_weight(weights, num_classes):
    if weights is None:
        return None
    if isinstance(weights, dict):
        unknown = sorted(set(weights) - set(range(num_classes)))
        if unknown:
            raise ValueError(
                f"`class_weight` has keys {unknown}, which are none of the classes "
                f"0 to {num_classes - 1}."
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
