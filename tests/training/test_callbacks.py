"""Keras's own callbacks in their plainest form."""

import csv
import itertools

import keras
import numpy as np
import pytest

from keras_encnet.data import batches
from keras_encnet.training import SGD
from training.tiny import tiny

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype="uint8")
MASKS = np.random.default_rng(1).integers(0, 3, (4, 32, 48), dtype="uint8")
VALIDATION = (IMAGES[:2], MASKS[:2])


@pytest.fixture(scope="module")
def model():
    model = tiny()
    model.compile(SGD(0.1, weight_decay=0.0))
    return model


def fit(model, callbacks, epochs=4):
    return model.fit(
        IMAGES,
        MASKS,
        batch_size=2,
        epochs=epochs,
        validation_data=VALIDATION,
        callbacks=callbacks,
        verbose=0,
    ).history


class Figures(keras.callbacks.Callback):
    """Gives a figure certain values, and keeps the weights of each epoch."""

    def __init__(self, name, values):
        super().__init__()
        self.name, self.values, self.weights = name, values, []

    def on_epoch_end(self, epoch, logs=None):
        assert self.name in logs
        logs[self.name] = self.values[epoch]
        self.weights.append(self.model.get_weights())


def assert_same(weights, expected):
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_early_stopping_stops_after_the_best_miou(model):
    figures = Figures("val_miou", [0.3, 0.5, 0.4, 0.6])
    stop = keras.callbacks.EarlyStopping("val_miou", restore_best_weights=True)
    history = fit(model, [figures, stop])
    assert len(history["loss"]) == 3 and stop.best_epoch == 1
    assert_same(model.get_weights(), figures.weights[1])


def test_model_checkpoint_keeps_the_best_miou(model, tmp_path):
    figures = Figures("val_miou", [0.3, 0.5, 0.4, 0.2])
    options = {"monitor": "val_miou", "save_best_only": True}
    file, weights = tmp_path / "best.keras", tmp_path / "best.weights.h5"
    before = int(model.optimizer.iterations)
    fit(
        model,
        [
            figures,
            keras.callbacks.ModelCheckpoint(file, **options),
            keras.callbacks.ModelCheckpoint(weights, save_weights_only=True, **options),
        ],
    )
    best = keras.saving.load_model(file)
    assert_same(best.get_weights(), figures.weights[1])
    assert int(best.optimizer.iterations) - before == 4  # two epochs of two steps
    bare = tiny()
    bare.load_weights(weights)
    assert_same(bare.get_weights(), figures.weights[1])


def test_reduce_lr_on_plateau_lowers_the_rate_when_the_loss_stays(model):
    model.optimizer.learning_rate = 0.5
    figures = Figures("val_loss", [1.0, 0.9, 0.95, 0.8])
    plateau = keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=1)
    history = fit(model, [figures, plateau])
    # Logged before a change.
    assert history["learning_rate"] == [0.5, 0.5, 0.5, 0.25]


def test_learning_rate_scheduler_sets_the_rate_of_an_epoch(model):
    figures = Figures("val_loss", [0, 0, 0])
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: [0.25, 0.0, 0.125][epoch])
    history = fit(model, [schedule, figures], epochs=3)
    assert history["learning_rate"] == [0.25, 0.0, 0.125]
    kernel = [weight.path for weight in model.weights].index(model.get_layer("bottleneck").kernel.path)
    kernels = [weights[kernel] for weights in figures.weights]
    assert (kernels[0] == kernels[1]).all() and (kernels[1] != kernels[2]).any()


def test_csv_logger_writes_the_history(model, tmp_path):
    history = fit(model, [keras.callbacks.CSVLogger(tmp_path / "log.csv")], epochs=2)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row.pop("epoch") for row in rows] == ["0", "1"]
    assert {"loss", "miou", "val_loss", "val_miou"} < set(rows[0]) == set(history)
    for epoch, row in enumerate(rows):
        expected = {name: values[epoch] for name, values in history.items()}
        assert {name: float(value) for name, value in row.items()} == pytest.approx(expected)


def test_tensorboard_gets_the_history(model, tmp_path):
    pytest.importorskip("tensorflow")
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    util = pytest.importorskip("tensorboard.util.tensor_util")
    history = fit(model, [keras.callbacks.TensorBoard(tmp_path)], epochs=2)
    for run, prefix in (("train", ""), ("validation", "val_")):
        found = accumulators.EventAccumulator(str(tmp_path / run), size_guidance={"tensors": 0})
        found.Reload()
        for name in ("loss", "miou"):
            events = found.Tensors(f"epoch_{name}")
            values = [float(util.make_ndarray(event.tensor_proto)) for event in events]
            assert values == pytest.approx(history[prefix + name]), (run, name)


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise Killed


def test_backup_and_restore_gives_the_uninterrupted_run(tmp_path):
    def run(*callbacks):
        model = tiny()
        model.compile(SGD(0.1))
        data = batches(
            list(zip(IMAGES, MASKS, strict=True)), size=(32, 48), batch_size=2, augment=True, seed=0
        )
        model.fit(data, epochs=3, callbacks=list(callbacks), verbose=0)
        assert data.step == 6
        return model.get_weights()

    expected = run()
    with pytest.raises(Killed):
        run(keras.callbacks.BackupAndRestore(tmp_path / "backup"), Kill())
    assert_same(run(keras.callbacks.BackupAndRestore(tmp_path / "backup")), expected)


def test_swap_ema_weights_evaluates_the_averages():
    model = tiny()
    model.compile(SGD(0.1, use_ema=True, ema_momentum=0.75))
    kernel = model.get_layer("bottleneck").kernel
    trained, evaluated = [], []

    class Listen(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert self.model  # on JAX, this brings the weights up to date
            trained.append(keras.ops.convert_to_numpy(kernel).copy())

        def on_test_batch_begin(self, batch, logs=None):
            evaluated.append(keras.ops.convert_to_numpy(kernel).copy())

    fit(model, [keras.callbacks.SwapEMAWeights(), Listen()], epochs=2)
    # The first average is the first value.
    averages = list(itertools.accumulate(trained, lambda mean, value: 0.75 * mean + 0.25 * value))
    assert len(trained) == 4 and len(evaluated) == 2
    for found, expected in zip(evaluated, averages[1::2], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(kernel), averages[-1], rtol=1e-4, atol=1e-6)
    assert np.abs(averages[-1] - trained[-1]).max() > 1e-4
