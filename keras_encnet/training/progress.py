"""What is shown during `fit` and `evaluate`: Keras's progress bar in an order of ours, and no noise."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence

import keras


class ProgressBar(keras.callbacks.ProgbarLogger):
    """Keras's, with the figures in an order of ours instead of the alphabet's.

    Args:
        names: what is shown during an epoch. More would not fit into 80 columns.
        parts: what is shown after `names` at the end of an epoch.
    """

    async_safe = True  # like Keras's own

    def __init__(self, names: Sequence[str], parts: Sequence[str] = ()):
        super().__init__()
        self.shown = set(names)
        self.names = [*names, *parts, *(f"val_{name}" for name in names)]

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, self._during_an_epoch(logs))

    def on_test_batch_end(self, batch, logs=None):
        super().on_test_batch_end(batch, self._during_an_epoch(logs))

    def _during_an_epoch(self, logs):
        ordered = in_order(logs, self.names)
        return {name: value for name, value in ordered.items() if name in self.shown}

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, in_order(logs, self.names))

    def on_test_end(self, logs=None):
        super().on_test_end(in_order(logs, self.names))


def in_order(logs: Mapping | None, names: Sequence[str]) -> dict:
    """Those entries of `logs` first that `names` has, in its order.

    >>> in_order({"a": 1, "miou": 2, "loss": 3}, ["loss", "miou"])
    {'loss': 3, 'miou': 2, 'a': 1}
    """
    logs = logs or {}
    return {name: logs[name] for name in [*(n for n in names if n in logs), *logs]}


@contextlib.contextmanager
def without_retracing_warnings() -> Iterator[None]:
    """TensorFlow warns of each new image size, but relaxes shapes by itself after two of them."""

    def keep(record):
        return "tf.function retracing" not in record.getMessage()

    logger = logging.getLogger("tensorflow")
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
