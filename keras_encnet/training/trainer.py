"""How an EncNet is compiled, fitted and evaluated: `keras.Model`'s methods, for masks."""

import types
import warnings

import keras
import numpy as np

from keras_encnet.data.batching import Batches
from keras_encnet.data.checks import check_arrays, check_masks
from keras_encnet.training import losses
from keras_encnet.training.devices import for_devices
from keras_encnet.training.inputs import (
    StartAgain,
    images_of,
    is_foreign,
    refuse_class_weight,
    weights_of_classes,
)
from keras_encnet.training.metrics import metrics_of_logits
from keras_encnet.training.optimizers import SGD
from keras_encnet.training.progress import ProgressBar, in_order, without_retracing_warnings
from keras_encnet.training.statistics import Watch
from keras_encnet.training.step import SegmentationStep


class SegmentationTrainer(SegmentationStep):
    """Mixed into `EncNet`: what `compile`, `fit`, `evaluate` and `predict` do there.

    Expects `num_classes`, `ignore_index`, `labels`, `backbone` and `backbone_name`, and a `call` that
    returns logits, or, in training, a dict of the outputs that the terms in `losses.TERMS` take.
    """

    def compile(
        self,
        optimizer=None,
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        *,
        class_weight=None,
        average: str = "all",
        **kwargs,
    ) -> None:
        """Configures training; without arguments it is mmsegmentation's, at a constant learning rate.

        mmsegmentation's complete recipe is a backbone with ImageNet weights and
        `optimizer=training.SGD(training.PolynomialDecay(steps=...))`.

        Args:
            optimizer: default: `training.SGD(0.01, momentum=0.9, weight_decay=5e-4)`.
            loss: the pixel loss: `"cross_entropy"` (the default), `"label_smoothing"`, `"ohem"`,
                `"focal"`, `"dice"` or `"lovasz"`; an object with options, such as
                `training.FocalLoss(gamma=3.0)`; a dict of these and their weights,
                `{"cross_entropy": 1.0, "dice": 0.5}`, for the sum; a function of labels `(batch,
                height, width)` and logits `(batch, height, width, num_classes)` that returns a value
                for each pixel, or a Keras loss that does. Ignored pixels have label 0 and weight 0.
                The auxiliary head has the same loss.
            loss_weights: must be `None`; see `aux_weight` and `se_weight`.
            metrics: list of names, functions of labels and logits, and Keras metrics of these,
                computed with weight 0 on ignored pixels. Default: mean IoU, as `miou`.
            weighted_metrics: must be `None`; `metrics` are weighted.
            class_weight: weights of the classes in the pixel losses, a list, or a dict by index
                (classes that it leaves out have weight 1).
            average: `"all"` divides by the number of pixels, as mmsegmentation does, `"counted"` by
                the number of pixels that are not ignored, as PyTorch-Encoding does.
            **kwargs: `aux_weight` (0.4), the weight of the auxiliary head's pixel loss; `se_weight`
                (0.2), the weight of the SE head's loss; and as for `keras.Model.compile`.

        Raises:
            ValueError: if an argument is none of the above.

        Warns:
            UserWarning: without `optimizer`, if the backbone is a ResNet with random weights.
        """
        if loss_weights is not None:
            raise ValueError(
                f"`loss_weights` must be None. Received: {loss_weights!r}. Pass aux_weight= and "
                "se_weight=, the weights of the other heads' losses."
            )
        if weighted_metrics is not None:
            raise ValueError(
                f"`weighted_metrics` must be None. Received: {weighted_metrics!r}. Pass them as "
                "`metrics`, which are weighted."
            )
        if average not in losses.AVERAGES:
            raise ValueError(f"`average` must be one of {losses.AVERAGES}. Received: {average!r}")
        loss = losses.pixel_loss_function(loss, self.num_classes)
        metrics = metrics_of_logits(metrics, self.num_classes)
        class_weight = weights_of_classes(class_weight, self.num_classes)
        weights = self._term_weights(kwargs)
        if optimizer is None:
            self._warn_of_random_backbone()
        optimizer = keras.optimizers.get(SGD() if optimizer is None else optimizer)
        super().compile(optimizer=optimizer, weighted_metrics=metrics, **kwargs)
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

    def _term_weights(self, kwargs):
        """{"NAME_weight": weight} of the model's loss terms, taken out of `kwargs`."""
        mine = {tracker.name.removesuffix("_loss") for tracker in self._term_trackers}
        weights = {}
        for name, term in losses.TERMS.items():
            weight = kwargs.pop(f"{name}_weight", term.weight if name in mine else 0)
            if not isinstance(weight, (int, float, np.number)) or not 0 <= weight < np.inf:
                raise ValueError(f"`{name}_weight` must be a number from 0 up. Received: {weight!r}")
            if name in mine:
                weights[f"{name}_weight"] = weight
            elif weight:
                raise ValueError(
                    f"`{name}_weight` must be 0 for a model without that head. Received: {weight!r}. "
                    "Leave it out."
                )
        return weights

    def _warn_of_random_backbone(self):
        # A new batch norm has means of 0. What a backbone of one's own holds is one's own business.
        means = [v for v in self.backbone.non_trainable_variables if v.name == "moving_mean"]
        if self.backbone_name is None or any(keras.ops.any(mean != 0) for mean in means):
            return
        warnings.warn(
            "`compile()` without `optimizer` is SGD with a learning rate of 0.01, which the recipe "
            f"uses on a backbone with ImageNet weights. Received: {self.backbone_name!r} with random "
            'weights. Pass backbone_weights="imagenet" to EncNet and '
            "optimizer=training.SGD(training.PolynomialDecay(steps=...)) to `compile`; or, to train "
            "from random weights, an optimizer such as keras.optimizers.AdamW(1e-3).",
            stacklevel=3,
        )

    def get_compile_config(self):
        if not self.compiled:
            return {}
        config = keras.saving.serialize_keras_object(vars(self._compile_arguments))
        known = self._positions(_known_to(self.optimizer))
        if known and known != self._positions(self.trainable_variables):
            config["optimizer_variables"] = known
        return config

    def compile_from_config(self, config):
        config = keras.saving.deserialize_keras_object(config)
        # Layers that were frozen after some training have a state in the optimizer all the same.
        known = config.pop("optimizer_variables", None)
        # Earlier versions kept the weights of terms that the model lacks.
        mine = {tracker.name.removesuffix("_loss") for tracker in self._term_trackers}
        lacking = {f"{name}_weight" for name in losses.TERMS if name not in mine}
        self.compile(**{name: value for name, value in config.items() if name not in lacking})
        # On JAX, Keras trains either all variables that an optimizer knows or none.
        if known is None or keras.backend.backend() == "jax":
            self.optimizer.build(self.trainable_variables)
        else:
            variables = self.variables
            self.optimizer.build([variables[i] for i in known])

    def _positions(self, variables):
        """Where variables are among those of the model."""
        positions = {id(variable): i for i, variable in enumerate(self.variables)}
        return [positions[id(variable)] for variable in variables]

    @property
    def metrics_names(self):
        """Names of what `evaluate` returns, in its order."""
        hidden = [*self._term_trackers, self._statistics]
        names = []
        for metric in self.metrics:
            if metric is self._compile_metrics:
                names += [compiled.name for compiled in self._compile_arguments.metrics]
            elif not any(metric is other for other in hidden):
                names.append(metric.name)
        return names

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
        **kwargs,
    ):
        """As `keras.Model.evaluate`; `loss` is the pixel loss, and what regularizers of the backbone
        add."""
        if not isinstance(callbacks, keras.callbacks.CallbackList):  # that of `fit`
            self._check_data(x, y)
            foreign = "evaluation" if is_foreign(x) else None
            callbacks = self._with_defaults(callbacks, verbose, evaluation=foreign)
        x, y, sample_weight = for_devices(self, x, y, sample_weight, batch_size)
        with self._evaluation(), without_retracing_warnings():
            results = super().evaluate(
                x=x,
                y=y,
                batch_size=batch_size,
                verbose=verbose,
                sample_weight=sample_weight,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **kwargs,
            )
        return in_order(results, self.metrics_names) if return_dict else results

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """As `keras.Model.fit`, on images and integer masks.

        Args:
            x: images `(batch, height, width, 3)`, RGB in [0, 255]; or `data.batches(...)`, or any
                other dataset of such images and masks that Keras takes.
            y: masks `(batch, height, width)` or `(batch, height, width, 1)`; pixels that are
                `ignore_index` are ignored.
            batch_size: images per batch, if `x` is an array; 32 by default.
            epochs: how often all of the data is seen.
            callbacks: Keras callbacks.
            shuffle: has no effect on `data.batches(...)`, which has an order of its own.
            class_weight: must be `None`; see `compile`.
            sample_weight: one per image or one per pixel; multiplies the pixel losses and the
                metrics.

        For the other arguments see `keras.Model.fit`.

        Raises:
            ValueError: if images or masks are not as described, or with `class_weight`. Of the
                values in a dataset that is not from `data.batches`, warnings say what is wrong.
        """
        refuse_class_weight(class_weight, "fit")
        self._check_data(x, y, training=True)
        foreign_validation = False
        if validation_data is not None:
            images, masks, _ = keras.utils.unpack_x_y_sample_weight(validation_data)
            self._check_data(images, masks)
            foreign_validation = is_foreign(images)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = self._with_defaults(
                callbacks,
                verbose,
                training=is_foreign(x),
                evaluation="validation" if foreign_validation else None,
                complete=steps_per_epoch is None,
            )
        if isinstance(x, Batches):
            if steps_per_epoch is not None:
                raise ValueError(
                    "`steps_per_epoch` would restart `data.batches(...)` in each epoch. "
                    f"Received: {steps_per_epoch}. Leave it out, or give fewer pairs, pairs[:n]."
                )
            # The batches are shuffled already, and reproducible in their own order alone.
            shuffle = False
            callbacks.append(StartAgain(x, initial_epoch))
        if validation_data is not None:
            validation_data = for_devices(
                self,
                *keras.utils.unpack_x_y_sample_weight(validation_data),
                validation_batch_size or batch_size,
            )
            if validation_data[1] is None:  # a dataset stands alone
                validation_data = validation_data[0]
        if isinstance(x, Batches):
            x = for_devices(self, x)[0]
        return super().fit(
            x=x,
            y=y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
        )

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """As `keras.Model.train_on_batch`, without `class_weight`; see `compile`.

        Arrays are checked as by `fit`, but a batch may lack classes."""
        refuse_class_weight(class_weight, "train_on_batch")
        self._check_data(x, y, complete=False)
        return super().train_on_batch(x, y, sample_weight=sample_weight, return_dict=return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """As `keras.Model.test_on_batch`; arrays are checked as by `train_on_batch`."""
        self._check_data(x, y, complete=False)
        return super().test_on_batch(x, y, sample_weight=sample_weight, return_dict=return_dict)

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """As `keras.Model.predict`: float32 logits `(batch, height, width, num_classes)`."""
        images = images_of(x)
        if isinstance(images, np.ndarray):
            check_arrays(images)
        with without_retracing_warnings():
            return super().predict(
                x, batch_size=batch_size, verbose=verbose, steps=steps, callbacks=callbacks
            )

    def _check_data(self, images, masks=None, *, training=False, complete=True):
        classes = (self.num_classes, self.ignore_index, self.labels)
        images = images_of(images)
        if isinstance(images, np.ndarray):
            check_arrays(images, masks, *classes, training=training, complete=complete)
        if isinstance(images, Batches):
            images.use_ignore_index(self.ignore_index)
            # Reading every mask takes time: once for each data set and what it is checked for.
            checked = self._checked_pairs.setdefault(images.pairs, set())
            if training not in checked:
                check_masks(images.pairs, *classes, training=training)
                checked |= {training, False}  # what is good for training is good for evaluation

    def _with_defaults(self, callbacks, verbose, **watched):
        """A list of the user's callbacks and ours; `watched` is for `Watch`."""
        if callbacks is None:
            callbacks = []
        callbacks = list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]
        parts = [tracker.name for tracker in self._term_trackers]
        for callback in callbacks:
            # Keras finds the direction of the metrics of `compile` only.
            monitored = getattr(callback, "monitor", None)
            if getattr(callback, "mode", None) == "auto" and monitored in parts:
                callback.mode = "min"
        if watched.get("training") or watched.get("evaluation"):
            callbacks.append(Watch(**watched))
        if verbose != 0 and not any(isinstance(c, keras.callbacks.ProgbarLogger) for c in callbacks):
            callbacks.append(ProgressBar(self.metrics_names, parts))
        return callbacks


def _known_to(optimizer):
    """The model's variables for which an optimizer has a state; none before the first step."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of float16's loss scaling
    return getattr(optimizer, "_trainable_variables", [])
