import contextlib
import math
import os
import pathlib

import keras

from keras_encnet.files import replacing


class Best(keras.callbacks.Callback):
    """Keeps the model with the best `val_miou` of a training run in a file, without its optimizer.

    The weights stay in memory until `write` is called, as writing them after each of many short epochs
    would take longer than training.

    Args:
        path: path of the `.keras` file.
        value: the best `val_miou` before this run; only a higher one counts.
    """

    def __init__(self, path: str | os.PathLike, value: float = -math.inf):
        super().__init__()
        self.path = pathlib.Path(path)
        self.value = value
        self._weights = None

    def on_epoch_end(self, epoch, logs=None):
        value = (logs or {}).get("val_miou", -math.inf)
        if value > self.value:
            self.value, self._weights = value, self.model.get_weights()

    def write(self) -> None:
        """Writes the best model, if it is not in the file yet."""
        if self._weights is None:
            return
        with _local():
            model = type(self.model).from_config(self.model.get_config())
            model.set_weights(self._weights)
            with replacing(self.path) as unfinished:
                model.save(unfinished)
        self._weights = None


@contextlib.contextmanager
def _local():
    """Lets a model be made in main memory, by one of several processes alone."""
    distribution = keras.distribution.distribution()
    try:
        if distribution is not None:
            keras.distribution.set_distribution(None)
        with keras.device("cpu"):
            yield
    finally:
        if distribution is not None:
            keras.distribution.set_distribution(distribution)
