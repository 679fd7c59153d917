"""Validation by the protocol of the published figures."""

from collections.abc import Iterable

import keras

from keras_encnet.data.conventions import check_integer
from keras_encnet.inference.evaluation import evaluate
from keras_encnet.inference.scoring import Scores


class ValidationScores(keras.callbacks.Callback):
    """Validates as `keras_encnet.evaluate` does: `val_miou` is the number that it prints.

    At the end of an epoch the callback evaluates the model on images of their own sizes, resized and
    cut as `model.evaluation` says, and adds `val_miou`, `val_mean_accuracy` and `val_pixel_accuracy` to
    the figures of the epoch. The history, the progress bar and the callbacks after this one see them:
    pass it before `EarlyStopping` and `ModelCheckpoint`. It replaces the `val_miou` of
    `validation_data`, which is that of batches of one size; both together give `val_loss` as well.

    Args:
        pairs: `keras_encnet.data.Pairs`, or another sequence of (image, mask), as for `evaluate`.
        validation_freq: number of epochs from one validation to the next.
        **how: arguments of `evaluate`, such as `limit`, and options of `segment`.

    Attributes:
        scores: the latest `Scores`, or `None` before the first validation.

    Raises:
        ValueError: if `validation_freq` is not a positive integer; and in training as `evaluate` does.

    >>> callback = ValidationScores([(np.zeros((48, 70, 3), "uint8"), np.zeros((48, 70), "uint8"))])
    >>> # model.fit(batches, epochs=40, callbacks=[callback, keras.callbacks.EarlyStopping("val_miou")])
    """

    scores: Scores | None = None

    def __init__(self, pairs: Iterable, *, validation_freq: int = 1, **how):
        super().__init__()
        check_integer("validation_freq", validation_freq)
        self.pairs = pairs
        self.validation_freq = validation_freq
        self.how = {"verbose": 0, **how}

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.validation_freq:
            return
        self.scores = evaluate(self.model, self.pairs, **self.how)
        if logs is not None:
            logs["val_miou"] = self.scores.miou
            logs["val_mean_accuracy"] = self.scores.mean_accuracy
            logs["val_pixel_accuracy"] = self.scores.pixel_accuracy
