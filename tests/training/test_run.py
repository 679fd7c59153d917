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
import warnings
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image

from keras_encnet import EncNet
from keras_encnet.data import Pairs, batches
from keras_encnet.files import locked
from keras_encnet.training import SGD, Checkpoint, PolynomialDecay, train
from keras_encnet.training.run import History
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


def run(directory, make=make_model, epochs=2, pairs=PAIRS, **options):
    data = batches(pairs, size=(32, 48), batch_size=2, augment=True, seed=0)
    settings = {"epochs": epochs, "size": (32, 48)}
    options = {"verbose": 0, **options}
    return train(make, data, directory=directory, epochs=epochs, settings=settings, **options)


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
    with (stopped / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) > 0 and set(rows[0]) >= {"miou", "se_loss"}

    # A finished run is only loaded.
    again = run(stopped, no_model, callbacks=[stop_after(1)])
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The directory of a complete run with the checkpoints of all its steps, and its weights."""
    directory = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("keras_encnet.training.checkpoint.KEPT", 2 * STEPS)
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
    # "poly" with power 0.9, from 0.05 down to 1e-4.
    poly = [(0.05 - 1e-4) * (1 - i / (3 * STEPS)) ** 0.9 + 1e-4 for i in range(3 * STEPS)]
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


def test_history_has_one_row_per_epoch(tmp_path):
    history = History(tmp_path / "history.csv")
    history.on_epoch_end(0, {"loss": 3.0})
    history.on_epoch_end(1, {"loss": 2.0, "val_miou": 0.5})
    # Epoch 2 is repeated after a kill.
    History(tmp_path / "history.csv").on_epoch_end(1, {"loss": 2.5, "val_miou": 0.25})
    History(tmp_path / "history.csv").on_epoch_end(2, {"loss": 1.0})
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["epoch", "loss", "val_miou"],
        ["1", "3.0", ""],
        ["2", "2.5", "0.25"],
        ["3", "1.0", ""],
    ]


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
        wait_for_step(process, training, 2 * STEPS)
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
