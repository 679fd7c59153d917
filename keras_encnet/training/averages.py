"""Moving averages of the weights, which Keras's optimizers keep with `use_ema`."""

import contextlib
from collections.abc import Iterator

import keras


def has_averages(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether an optimizer keeps averages; that of float16 has another one inside."""
    return getattr(getattr(optimizer, "inner_optimizer", optimizer), "use_ema", False)


@contextlib.contextmanager
def training_weights(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Keeps the weights that training resumes from: Keras puts the averages in their place at the end
    of each call of `fit`."""
    optimizer.finalize_variable_values = lambda variables: None
    try:
        yield
    finally:
        del optimizer.finalize_variable_values


def averaged(callbacks: list[keras.callbacks.Callback]) -> list[keras.callbacks.Callback]:
    """Lets validation and callbacks see the averages instead of the weights at the end of an epoch."""
    swap = keras.callbacks.SwapEMAWeights()
    before = _AtEpochEnd(swap.on_test_begin)
    after = _AtEpochEnd(swap.on_test_end)
    return [swap, before, *callbacks, after]


class _AtEpochEnd(keras.callbacks.Callback):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def on_epoch_end(self, epoch, logs=None):
        self.function()
