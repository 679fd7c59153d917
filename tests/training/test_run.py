"""Training runs that are interrupted and resumed."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from keras_encnet import EncNet
from keras_encnet.data import Pairs, batches
from keras_encnet.files import locked
from keras_encnet.training import SGD, Checkpoint, PolynomialDecay, ValidationScores, sparing, train
from training.tiny import tiny

RNG = np.random.default_rng(0)
PAIRS = Pairs(
    [
        (
            RNG.integers(0, 256, (40, 52, 3), dtype="uint8"),
            RNG.integers(0, 3, (40, 52), dtype="uint8"),
        )
        for _ in range(6)
    ]
)
STEPS = 3  # per epoch


def make_model(epochs=2, frozen=False, **options):
    model = tiny(dropout=0.5)
    model.backbone.trainable = not frozen
    # Compiling takes longer than these few steps.
    options = {"run_eagerly": True, **options}
    model.compile(SGD(PolynomialDecay(0.05, steps=epochs * STEPS)), **options)
    return model


@pytest.fixture(autouse=True)
def unsparing(monkeypatch):
    """Each step can be saved, although a save takes longer than one."""
    monkeypatch.setattr(sparing, "WAIT", 0)


def run(directory, make=make_model, epochs=2, pairs=PAIRS, shard=(0, 1), **options):
    data = batches(pairs, size=(32, 48), batch_size=2, augment=True, seed=0, shard=shard)
    options = {"verbose": 0, "settings": {"size": (32, 48)}, "epochs": epochs, **options}
    return train(make, data, directory=directory, **options)


def history_of(directory):
    with (directory / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def same_weights(model, weights, **tolerance):
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, **{"rtol": 1e-4, "atol": 1e-5, **tolerance})


def stop_after(step):
    """A callback that interrupts training in its `step`th step, before that step is saved."""
    done = 0

    def count(batch, logs):
        nonlocal done
        done += 1
        if done == step:
            raise KeyboardInterrupt

    return keras.callbacks.LambdaCallback(on_train_batch_end=count)


def no_model():
    raise AssertionError("started over instead of resuming")


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    def make():
        return make_model(run_eagerly=False)

    expected = run(tmp_path / "uninterrupted", make).get_weights()

    # First in the middle of epoch 1; then, after the rest of it, in the first step of epoch 2.
    stopped = tmp_path / "stopped"
    for start, stop, saved in ((make, 3, 2), (no_model, 2, 3)):
        with pytest.raises(KeyboardInterrupt):
            run(stopped, start, every=0, callbacks=[stop_after(stop)])
        assert Checkpoint.newest(stopped)[1] == saved
        assert len(list(stopped.glob("*.keras"))) == 2
    model = run(stopped, no_model)
    assert Checkpoint.newest(stopped)[1] == int(model.optimizer.iterations) == 2 * STEPS
    same_weights(model, expected)
    rows = history_of(stopped)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) > 0 and set(rows[0]) >= {"miou", "se_loss"}
    # The row of an epoch that was interrupted is about all of its steps.
    for row, other in zip(rows, history_of(tmp_path / "uninterrupted"), strict=True):
        np.testing.assert_allclose(*[list(map(float, r.values())) for r in (row, other)], rtol=1e-4)
    # "poly" with power 0.9, from 0.05 down to 1e-4, at the first step of the second epoch.
    rate = (0.05 - 1e-4) * (1 - 3 / 5) ** 0.9 + 1e-4
    assert float(rows[0]["learning_rate"]) == pytest.approx(rate)

    # A finished run is only loaded.
    again = run(stopped, no_model, callbacks=[stop_after(1)])
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The directory of a complete run with the checkpoints of all its steps, and its weights."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras_encnet.training.checkpoint.KEPT", 2 * STEPS)
        patch.setattr(sparing, "WAIT", 0)
        model = run(directory, every=0)
    return directory, model.get_weights()


@pytest.fixture
def stopped_at(uninterrupted, tmp_path):
    """A function that makes a run's directory as it is after a certain step."""

    def make(step):
        directory = tmp_path / f"run{step}"
        directory.mkdir()
        for name in ("settings.json", f"step-{step - 1:08d}.keras", f"step-{step:08d}.keras"):
            shutil.copy(uninterrupted[0] / name, directory)
        return directory

    return make


def test_a_frozen_backbone_stays_frozen_when_training_resumes(tmp_path):
    def make():
        return make_model(frozen=True)

    backbone = make().backbone.get_weights()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, make, every=0, callbacks=[stop_after(3)])
    model = keras.saving.load_model(Checkpoint.newest(tmp_path)[0])
    # The step, and a velocity for each weight of the heads, none of them lost.
    velocities = model.optimizer.variables[1:]
    assert len(velocities) == len(model.trainable_weights) < len(model.weights)
    assert sum(np.any(keras.ops.convert_to_numpy(v)) for v in velocities) > len(velocities) / 2
    model = run(tmp_path, no_model)
    assert not model.backbone.trainable
    for before, after in zip(backbone, model.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="PyTorch runs single steps only")
def test_several_steps_in_one_call_are_counted(tmp_path):
    def make():
        return make_model(steps_per_execution=2)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, make, every=0, callbacks=[stop_after(2)])
    path, step = Checkpoint.newest(tmp_path)
    assert step == int(keras.saving.load_model(path).optimizer.iterations) == 2
    model = run(tmp_path, no_model)
    assert Checkpoint.newest(tmp_path)[1] == int(model.optimizer.iterations) == 2 * STEPS


def test_progress_counts_all_epochs_after_resuming(stopped_at, capsys):
    run(stopped_at(2), no_model, verbose=2)
    output = capsys.readouterr().out
    assert "Epoch 1/2" in output and "Epoch 2/2" in output and "Epoch 1/1" not in output


def test_a_callback_can_end_training(stopped_at, tmp_path):
    class End(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    for directory in (tmp_path, stopped_at(2)):
        run(directory, callbacks=[End()])
        assert Checkpoint.newest(directory)[1] == STEPS


# === More epochs, other settings, other data ===


@pytest.mark.parametrize("step", [4, 6])
def test_a_run_can_be_given_more_epochs(stopped_at, step):
    directory = stopped_at(step)
    path, _ = Checkpoint.newest(directory)
    saved = keras.saving.load_model(path)
    rates = []

    def note_rate(batch, logs):
        rates.append(float(note.model.optimizer.learning_rate))

    note = keras.callbacks.LambdaCallback(on_train_batch_begin=note_rate)
    with pytest.warns(UserWarning, match="started for 2 epochs and now has 3"):
        with pytest.raises(KeyboardInterrupt):
            run(directory, lambda: make_model(3), epochs=3, callbacks=[note, stop_after(1)])
    # "poly" with power 0.9, from 0.05 down to 1e-4 in the last step.
    poly = [(0.05 - 1e-4) * (1 - i / (3 * STEPS - 1)) ** 0.9 + 1e-4 for i in range(3 * STEPS)]
    np.testing.assert_allclose(rates, poly[step : step + 1], rtol=1e-5)
    # The state did not change, and the schedule was saved before the first step.
    again = keras.saving.load_model(path)
    same_weights(again, saved.get_weights(), rtol=0, atol=0)
    for a, b in zip(saved.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (a, b)))

    rates.clear()
    run(directory, no_model, epochs=3, callbacks=[note])
    np.testing.assert_allclose(rates, poly[step:], rtol=1e-5)
    assert Checkpoint.newest(directory)[1] == 3 * STEPS


@pytest.mark.parametrize("step", [4, 6])
def test_fewer_epochs_than_were_done_are_refused(stopped_at, step):
    directory = stopped_at(step)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    with pytest.raises(
        ValueError, match=f"`epochs` must be at least 2, which {directory} has.*: 1. Gi"
    ):
        run(directory, no_model, epochs=1)
    after = {path.name: path.read_bytes() for path in directory.iterdir() if path.name != ".lock"}
    assert after == before


def test_a_run_can_be_given_fewer_epochs_that_it_has_not_passed(stopped_at):
    directory = stopped_at(3)
    with pytest.warns(UserWarning, match="2 epochs and now has 1. From now on its .* of a run of 1 e"):
        run(directory, lambda: make_model(1), epochs=1)
    assert Checkpoint.newest(directory)[1] == STEPS


def test_other_data_is_refused(stopped_at):
    directory = stopped_at(6)
    with pytest.raises(ValueError, match="number of pairs: 6 then, 5 now"):
        run(directory, no_model, pairs=PAIRS[:5])
    images, masks = zip(*PAIRS, strict=True)
    masks = [mask.copy() for mask in masks]
    # The same masks in other objects, as after the files have moved.
    run(directory, no_model, pairs=Pairs(list(zip(images, masks, strict=True))))
    masks[5][0, 0] = (masks[5][0, 0] + 1) % 3
    for pairs in (list(zip(images, masks, strict=True)), [PAIRS[i] for i in (1, 0, 2, 3, 4, 5)]):
        with pytest.raises(ValueError, match="checksum of masks"):
            run(directory, no_model, pairs=Pairs(pairs))


def test_another_backend_or_version_is_warned_of(stopped_at):
    directory = stopped_at(6)
    file = directory / "settings.json"
    settings = json.loads(file.read_text())
    now = settings["backend"]
    file.write_text(json.dumps({**settings, "backend": "numpy", "version of Keras": "3.0.0"}))
    with pytest.warns(UserWarning, match=f"backend: 'numpy' then, '{now}' now; version of Keras"):
        run(directory, no_model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(directory, no_model)


def test_settings_of_a_run_without_a_checkpoint_do_not_bind(tmp_path):
    def out_of_memory(batch, logs):
        raise MemoryError

    fails = keras.callbacks.LambdaCallback(on_train_batch_end=out_of_memory)
    with pytest.raises(MemoryError):
        run(tmp_path, callbacks=[fails])
    # Any other settings may follow.
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_directory_that_vanishes_does_not_hide_the_error(tmp_path):
    def lose_the_directory(batch, logs):
        (tmp_path / "settings.json").unlink()
        raise MemoryError

    fails = keras.callbacks.LambdaCallback(on_train_batch_end=lose_the_directory)
    with pytest.raises(MemoryError):
        run(tmp_path, callbacks=[fails])


def test_data_that_cannot_be_trained_on_leaves_no_run(tmp_path):
    invalid = Pairs([(image, mask + 7) for image, mask in PAIRS])
    with pytest.raises(ValueError, match="Mask values must be one of"):
        run(tmp_path, pairs=invalid)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "options,message",
    [
        ({"data": batches(PAIRS, size=(32, 48), batch_size=2)}, "without augment=True"),
        ({"data": PAIRS}, "`data` must be .*batches"),
        ({"epochs": 0}, "`epochs` must be a positive integer. Received: 0"),
        ({"epochs": None}, "`epochs` must be a positive integer. Received: None"),
        ({"epochs": 1.5}, "`epochs` must be a positive integer. Received: 1.5"),
        ({"steps": 5}, "Either `epochs` or `steps` must be given. Received: epochs=1 and steps=5"),
        ({"epochs": None, "steps": 0}, "`steps` must be a positive integer. Received: 0"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be a positive integer. Received: 0"),
        ({"patience": 3}, "`patience` needs the `val_miou` .* patience=3 without one. Pass `vali"),
        ({"callbacks": [keras.callbacks.SwapEMAWeights()]}, "must have no `SwapEMAWeights`.*itself"),
        ({"every": None}, "`every` must be 0 seconds or more. Received: None"),
        ({"every": -1}, "`every` must be 0 seconds or more. Received: -1"),
        (
            {"validation_data": batches(PAIRS, size=(32, 48), batch_size=2, augment=True)},
            "`validation_data` must not be augmented",
        ),
    ],
)
def test_arguments_that_mean_nothing_are_refused(tmp_path, options, message):
    data = batches(PAIRS, size=(32, 48), batch_size=2, augment=True)
    usual = {"data": data, "directory": tmp_path, "epochs": 1, "settings": {}}
    with pytest.raises(ValueError, match=message):
        train(make_model, **{**usual, **options})


def test_one_run_at_a_time_uses_a_directory(stopped_at):
    directory = stopped_at(6)
    with locked(directory, "training run"):
        with pytest.raises(OSError, match=f"{directory} is in use by another training run"):
            run(directory, no_model)
    run(directory, no_model)


def test_other_settings_are_refused(tmp_path):
    (tmp_path / "settings.json").write_text('{"epochs": 2, "size": [32, 64]}')
    with pytest.raises(ValueError, match=r"size: \[32, 64\] then, \[32, 48\] now"):
        run(tmp_path, no_model)
    (tmp_path / "settings.json").write_text('{"epochs": 2}')
    with pytest.raises(ValueError, match="other settings.*size.*another directory"):
        run(tmp_path, no_model)


def test_newest_ignores_unfinished_files(tmp_path):
    assert Checkpoint.newest(tmp_path) == (None, 0)
    assert Checkpoint.newest(tmp_path / "absent") == (None, 0)
    for name in ("step-00000009.keras", "step-00000012.keras", "unfinished.keras", "step-x.keras"):
        (tmp_path / name).touch()
    (tmp_path / "step-00000099.keras.tmp").touch()
    assert Checkpoint.newest(tmp_path) == (tmp_path / "step-00000012.keras", 12)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path):
    """Changes a byte in the weights, about whose place Keras alone would not complain."""
    with zipfile.ZipFile(path) as archive:
        weights = archive.getinfo("model.weights.h5")
    data = bytearray(path.read_bytes())
    data[weights.header_offset + weights.compress_size // 2] ^= 255
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip])
def test_a_damaged_checkpoint_has_an_older_one_before_it(stopped_at, damage):
    directory = stopped_at(3)
    older, newest = sorted(directory.glob("*.keras"))
    damage(newest)
    message = f"{newest} is damaged .* and was removed.*step-00000002.keras"
    with pytest.warns(UserWarning, match=message):
        assert Checkpoint.newest_complete(directory) == (older, 2)
    assert not newest.exists()
    damage(older)
    with pytest.raises(ValueError, match=f"Received: {older}, which is damaged .*start anew"):
        run(directory, no_model)
    assert older.exists()


def test_a_run_with_a_damaged_checkpoint_ends_as_usual(stopped_at, uninterrupted):
    directory = stopped_at(3)
    truncate(directory / "step-00000003.keras")
    with pytest.warns(UserWarning, match="step-00000003.keras is damaged"):
        model = run(directory, no_model)
    same_weights(model, uninterrupted[1])


def test_leftovers_of_kills_are_removed(stopped_at):
    directory = stopped_at(6)
    for name in ("step-00000007.keras", "history.csv", "settings.json"):
        leftover = directory / f".{name}-unfinished-abcd1234"
        leftover.mkdir()
        (leftover / ".owner").touch()
        (leftover / name).touch()
    run(directory, no_model)
    assert not list(directory.glob(".*unfinished*"))


def test_a_failed_save_keeps_the_previous_checkpoint(tmp_path):
    checkpoint = Checkpoint(tmp_path)

    def save(path, fails=False):
        pathlib.Path(path).write_text("partial" if fails else "complete")
        if fails:
            raise OSError("disk full")

    class Model:
        pass

    model = Model()
    checkpoint.set_model(model)
    model.save = save
    checkpoint.step = 3
    checkpoint.save()
    model.save = lambda path: save(path, fails=True)
    checkpoint.step = 5
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save()
    path, step = Checkpoint.newest(tmp_path)
    assert step == 3 and path.read_text() == "complete"


# === Steps, the best, the end ===


def test_a_run_can_be_counted_in_steps(tmp_path):
    """Of 3 steps each are the data's epochs, of 4 the run's, and of 2 its last one."""

    def make():
        return make_model(frozen=True)

    options = {"epochs": None, "steps": 10, "steps_per_epoch": 4, "every": 0}
    expected = run(tmp_path / "uninterrupted", make, **options).get_weights()
    stopped = tmp_path / "stopped"
    for start, stop in ((make, 3), (no_model, 3), (no_model, 5)):
        with pytest.raises(KeyboardInterrupt):
            run(stopped, start, callbacks=[stop_after(stop)], **options)
    assert Checkpoint.newest(stopped)[1] == 2 + 2 + 4
    model = run(stopped, no_model, **options)
    assert Checkpoint.newest(stopped)[1] == int(model.optimizer.iterations) == 10
    same_weights(model, expected)
    rows, others = history_of(stopped), history_of(tmp_path / "uninterrupted")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [float(row["loss"]) for row in rows] == pytest.approx([float(r["loss"]) for r in others])
    with pytest.raises(ValueError, match="`steps` must be at least 10, which .* Received: 9. Give mo"):
        run(stopped, no_model, **{**options, "steps": 9})
    with pytest.raises(ValueError, match="steps of a run's epoch: 4 then, 5 now"):
        run(stopped, no_model, **{**options, "steps_per_epoch": 5})
    with pytest.warns(UserWarning, match="started for 10 steps and now has 11. From now on its"):
        run(stopped, make, **{**options, "steps": 11})


@pytest.fixture
def scores(monkeypatch):
    """A function that gives the next validations these values of mIoU."""

    def give(*values):
        left = iter(values)
        monkeypatch.setattr(
            "keras_encnet.training.validation.evaluate",
            lambda *args, **how: types.SimpleNamespace(
                miou=next(left), mean_accuracy=0.0, pixel_accuracy=0.0
            ),
        )

    return give


class Weights(keras.callbacks.Callback):
    """Notes the weights after each epoch."""

    def __init__(self):
        super().__init__()
        self.after = {}

    def on_epoch_end(self, epoch, logs=None):
        self.after[epoch + 1] = self.model.get_weights()


def test_the_best_is_kept_over_interruptions(tmp_path, scores):
    def make():
        return make_model(epochs=4)

    noted = Weights()
    callbacks = [ValidationScores(PAIRS[:1]), noted]
    scores(0.5, 0.7)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, make, epochs=4, callbacks=[*callbacks, stop_after(2 * STEPS + 2)])
    # It was saved with the checkpoint; the one of the fourth epoch is not better.
    scores(float("nan"), 0.7)
    run(tmp_path, no_model, epochs=4, callbacks=callbacks)
    best = keras.saving.load_model(tmp_path / "best.keras")
    same_weights(best, noted.after[2], rtol=0, atol=0)
    assert not best.compiled
    # A longer run finds a better one.
    scores(0.9)
    with pytest.warns(UserWarning, match="4 epochs and now has 5"):
        run(tmp_path, lambda: make_model(epochs=5), epochs=5, callbacks=callbacks)
    best = keras.saving.load_model(tmp_path / "best.keras")
    same_weights(best, noted.after[5], rtol=0, atol=0)


def test_patience_is_kept_over_interruptions(tmp_path, scores):
    def make():
        return make_model(epochs=9)

    callbacks = [ValidationScores(PAIRS[:1])]
    scores(0.6, 0.5)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, make, epochs=9, patience=2, callbacks=[*callbacks, stop_after(2 * STEPS + 1)])
    scores(0.4)
    model = run(tmp_path, no_model, epochs=9, patience=2, callbacks=callbacks)
    assert len(history_of(tmp_path)) == 3 and Checkpoint.newest(tmp_path)[1] == 3 * STEPS
    # The run has ended: it is only loaded.
    scores()
    again = run(tmp_path, no_model, epochs=9, patience=2, callbacks=callbacks)
    same_weights(again, model.get_weights(), rtol=0, atol=0)


def test_averages_are_validated_kept_and_returned(tmp_path, scores):
    def make():
        model = make_model()
        model.compile(SGD(0.05, use_ema=True, ema_momentum=0.5), run_eagerly=True)
        return model

    noted = Weights()
    options = {"callbacks": [ValidationScores(PAIRS[:1]), noted], "validation_data": validation()}
    scores(0.5, 0.6)
    expected = run(tmp_path / "uninterrupted", make, **options).get_weights()
    saved = keras.saving.load_model(Checkpoint.newest(tmp_path / "uninterrupted")[0])
    averages = saved.optimizer._model_variables_moving_average
    trained = [np.array(keras.ops.convert_to_numpy(each)) for each in saved.trainable_variables]
    saved.optimizer.finalize_variable_values(saved.trainable_variables)
    same_weights(saved, expected, rtol=0, atol=0)
    averages = [keras.ops.convert_to_numpy(each) for each in averages]
    assert any(np.any(a != b) for a, b in zip(trained, averages, strict=True))
    same_weights(saved, noted.after[2], rtol=0, atol=0)
    best = keras.saving.load_model(tmp_path / "uninterrupted" / "best.keras")
    same_weights(best, expected, rtol=0, atol=0)

    # Training resumes from the weights, also after the rest of an epoch.
    scores(0.5, 0.6)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", make, every=0, callbacks=[stop_after(3)])
    model = run(tmp_path / "stopped", no_model, **options)
    same_weights(model, expected)
    again = run(tmp_path / "stopped", no_model, **options)
    same_weights(again, model.get_weights(), rtol=0, atol=0)


def validation():
    return batches(PAIRS[:2], size=(32, 48), batch_size=2)


def test_a_frozen_layer_stays_frozen_when_training_resumes(tmp_path):
    def make():
        model = tiny()
        model.backbone.get_layer("conv2").trainable = False
        model.compile(SGD(0.05), run_eagerly=True)
        return model

    before = make().backbone.get_layer("conv2").get_weights()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, make, every=0, callbacks=[stop_after(3)])
    model = run(tmp_path, no_model)
    layer = model.backbone.get_layer("conv2")
    assert not layer.trainable and model.backbone.get_layer("conv1").trainable
    for one, other in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_ctrl_c_saves_after_the_step(tmp_path):
    def interrupt(batch, logs):
        if batch == 1:
            signal.raise_signal(signal.SIGINT)

    keys = keras.callbacks.LambdaCallback(on_train_batch_begin=interrupt)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[keys])
    assert Checkpoint.newest(tmp_path)[1] == 2
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_the_last_step_of_an_epoch_saves_after_the_validation(tmp_path):
    def interrupt(batch, logs):
        if batch == STEPS - 1:
            signal.raise_signal(signal.SIGINT)

    keys = keras.callbacks.LambdaCallback(on_train_batch_begin=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, callbacks=[keys], validation_data=validation())
    assert Checkpoint.newest(tmp_path)[1] == STEPS
    assert float(history_of(tmp_path)[0]["val_miou"]) >= 0


def test_a_run_says_what_it_is(stopped_at):
    texts = []
    callbacks = [ValidationScores(PAIRS[:2])]
    run(stopped_at(4), no_model, announce=texts.append, callbacks=callbacks)
    (text,) = texts
    for part in (
        "6 images in crops of 32 × 48, 2 in a step; 2 images for validation",
        "3: class 0, class 1, class 2",
        "SGD, learning rate 0.01182 now",
        "float32",
        f"{keras.backend.backend()}, Keras {keras.version()}",
        "6 steps: 2 epochs of 3; resumes after step 4",
        "run4: checkpoints, best.keras, history.csv and curves.png",
    ):
        assert part in text, text


def test_the_first_of_several_processes_writes(tmp_path, stopped_at):
    run(tmp_path / "second", shard=(1, 2), epochs=1)
    assert not (tmp_path / "second").exists()
    # It reads what the first one has written.
    directory = stopped_at(3)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    model = run(directory, no_model, shard=(1, 2))
    assert int(model.optimizer.iterations) == 2 * STEPS
    assert before == {path.name: path.read_bytes() for path in directory.iterdir()}


# === The command, killed and interrupted ===


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    here = tmp_path_factory.mktemp("set")
    for i, (image, mask) in enumerate(PAIRS):
        Image.fromarray(image).save(here / f"{i}.jpg")
        Image.fromarray(mask).save(here / f"{i}.png")
    return here


def command(photographs, out, epochs):
    arguments = (
        f"train --images {photographs}/*.jpg --masks {photographs}/*.png --labels a,b,c --out {out} "
        f"--backbone resnet18 --width 0.125 --head-channels 8 --size 32 48 --batch-size 2 "
        f"--epochs {epochs}"
    ).split()
    return subprocess.Popen(
        [sys.executable, "-m", "keras_encnet.cli", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(process, directory, step):
    end = time.monotonic() + 300
    while Checkpoint.newest(directory)[1] < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "no checkpoint in five minutes"
        time.sleep(0.02)


@pytest.mark.slow
def test_the_command_killed_and_run_again_finishes(photographs, tmp_path):
    training = tmp_path / "training"
    process = command(photographs, tmp_path, epochs=8)
    try:
        wait_for_step(process, training, STEPS)
    finally:
        process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "model").exists()

    process = command(photographs, tmp_path, epochs=8)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert Checkpoint.newest(training)[1] == 8 * STEPS
    assert EncNet.from_preset(tmp_path / "model").labels == ("a", "b", "c")
    with (training / "history.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == [str(i + 1) for i in range(8)]
    # The second run resumed where the first was killed.
    assert "Epoch 1/8" not in output and "Epoch 8/8" in output


@pytest.mark.slow
def test_ctrl_c_saves_and_exits_with_130(photographs, tmp_path):
    process = command(photographs, tmp_path, epochs=100_000)
    try:
        wait_for_step(process, tmp_path / "training", STEPS)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert "Run the same command again to resume" in output
    path, step = Checkpoint.newest(tmp_path / "training")
    assert step >= STEPS
    assert int(keras.saving.load_model(path).optimizer.iterations) == step
