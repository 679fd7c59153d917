"""A run that is interrupted and resumed has the dropout masks of an uninterrupted one."""

import keras
import numpy as np
import pytest

from keras_encnet.data import Pairs, batches
from keras_encnet.training import SGD, train
from training.tiny import tiny

RNG = np.random.default_rng(0)
PAIRS = Pairs(
    [
        (RNG.integers(0, 256, (40, 52, 3), "uint8"), RNG.integers(0, 3, (40, 52), "uint8"))
        for _ in range(6)
    ]
)


def make_model(dropout=0.5):
    model = tiny(dropout=dropout)
    model.compile(SGD(0.05))
    return model


def run(directory, make=make_model, **options):
    data = batches(PAIRS, size=(32, 48), batch_size=2, augment=True, seed=0)
    return train(make, data, directory=directory, epochs=2, settings={}, verbose=0, **options)


class Interrupt(keras.callbacks.Callback):
    def __init__(self, after):
        super().__init__()
        self.after = after

    def on_train_batch_end(self, batch, logs=None):
        self.after -= 1
        if not self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [2, 4])  # of three steps in an epoch
def test_a_resumed_run_drops_the_same_channels(tmp_path, after):
    uninterrupted = run(tmp_path / "uninterrupted").get_weights()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", callbacks=[Interrupt(after)])
    for a, b in zip(uninterrupted, run(tmp_path / "resumed").get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_step_drops_other_channels(tmp_path):
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(
                [np.array(v).tolist() for v in self.model.variables if v.name == "seed_generator_state"]
            )

    run(tmp_path, callbacks=[Watch()])
    assert len(seen[0]) == 2  # the pixel classifier's and the auxiliary one's
    assert [[state[1] for state in step] for step in seen] == [[k, k] for k in range(1, 7)]
    assert seen[0][0][0] != seen[0][1][0]
