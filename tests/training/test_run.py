"""Training runs that are interrupted and resumed."""

import csv
import os
import pathlib
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from PIL import Image

from keras_encnet import EncNet
from keras_encnet.data import Pairs, batches
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


def make_model():
    model = tiny()
    model.compile(SGD(PolynomialDecay(0.05, steps=2 * STEPS)))
    return model


def run(directory, make=make_model, epochs=2, **options):
    data = batches(PAIRS, size=(32, 48), batch_size=2, augment=True, seed=0)
    assert data.steps_per_epoch == STEPS
    settings = {"epochs": epochs, "size": (32, 48)}
    return train(
        make, data, directory=directory, epochs=epochs, settings=settings, verbose=0, **options
    )


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
    expected = run(tmp_path / "uninterrupted").get_weights()

    # First in the middle of epoch 1; then, after the rest of it, in the first step of epoch 2.
    stopped = tmp_path / "stopped"
    for make, stop, saved in ((make_model, 3, 2), (no_model, 2, 3)):
        with pytest.raises(KeyboardInterrupt):
            run(stopped, make, every=0, callbacks=[stop_after(stop)])
        assert Checkpoint.newest(stopped)[1] == saved
        assert len(list(stopped.glob("*.keras"))) == 1
    model = run(stopped, no_model)
    assert Checkpoint.newest(stopped)[1] == int(model.optimizer.iterations) == 2 * STEPS
    for a, b in zip(expected, model.get_weights(), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
    with (stopped / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) > 0 and set(rows[0]) >= {"miou", "se_loss"}

    # A finished run is only loaded.
    again = run(stopped, no_model, callbacks=[stop_after(1)])
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


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
