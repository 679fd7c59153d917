"""Validation by the protocol of the published figures."""

from collections.abc import Sequence

import keras

from keras_encnet.data.conventions import check_integer
from keras_encnet.data.pairs import Pairs
from keras_encnet.inference.evaluation import check_evaluation, evaluate
from keras_encnet.inference.scoring import Scores

FILES = "report", "save_predictions", "prediction_format"  # what `evaluate` writes


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
        **how: arguments of `evaluate`, such as `limit`, and options of `segment`. Nothing is written.

    Attributes:
        scores: the latest `Scores`, or `None` before the first validation.

    Raises:
        ValueError: if `validation_freq` is not a positive integer, `pairs` is not as above, is empty or
            has no masks, or files are to be written. When training begins: if the other arguments are
            invalid, or the classes are not the model's.

    >>> callback = ValidationScores([(np.zeros((48, 70, 3), "uint8"), np.zeros((48, 70), "uint8"))])
    >>> # model.fit(batches, epochs=40, callbacks=[callback, keras.callbacks.EarlyStopping("val_miou")])
    """

    scores: Scores | None = None

    def __init__(self, pairs: Pairs | Sequence, *, validation_freq: int = 1, **how):
        super().__init__()
        check_integer("validation_freq", validation_freq)
        _check_pairs(pairs)
        if files := [name for name in FILES if name in how]:
            raise ValueError(
                f"`ValidationScores` writes no files, so it takes no `{files[0]}`. Received: "
                f"{files[0]}={how[files[0]]!r}. Call `keras_encnet.evaluate` after training."
            )
        self.pairs = pairs
        self.validation_freq = validation_freq
        self.how = {"verbose": 0, **how}

    def on_train_begin(self, logs=None):
        check_evaluation(self.model, self.pairs, **self.how)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.validation_freq:
            return
        self.scores = evaluate(self.model, self.pairs, **self.how)
        if logs is not None:
            logs["val_miou"] = self.scores.miou
            logs["val_mean_accuracy"] = self.scores.mean_accuracy
            logs["val_pixel_accuracy"] = self.scores.pixel_accuracy


def _check_pairs(pairs):
    if not isinstance(pairs, (Pairs, Sequence)):
        raise ValueError(
            "`pairs` must be `Pairs`, or another sequence of (image, mask), to be read in each epoch. "
            f"Received: {type(pairs).__name__}. Pass list(pairs)."
        )
    if not len(pairs):
        raise ValueError("`pairs` must have one pair or more. Received: none")
    if not getattr(pairs, "has_masks", True):
        raise ValueError(
            f"`pairs` must have masks to be scored. Received: {pairs!r}. Pass a split that has masks."
        )
