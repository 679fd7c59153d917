"""Kills a training run at random moments, and compares what it leaves with an uninterrupted run.

    python tests/training/kills.py --kills 30 --seed 0

The run has dropout, gradient accumulation, averaged weights, validation and checkpoints within its
epochs. It is killed by SIGKILL and started again until it ends; if it ends before so many kills,
another one begins. Every run must leave the same, bit for bit: weights, optimizer, `history.csv`, and
the best model.
"""

import argparse
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

import keras
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from tiny import tiny

from keras_encnet.data import Pairs, batches
from keras_encnet.training import SGD, PolynomialDecay, sparing
from keras_encnet.training.run import train
from keras_encnet.training.validation import ValidationScores

STEPS, EPOCH = 90, 7  # the data has epochs of 4 steps, and the last epoch of the run is shorter


def pairs(count, seed):
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 3, (count, 3, 4)).repeat(16, 1).repeat(16, 2).astype("uint8")
    colours = np.array([[20, 20, 20], [220, 40, 40], [230, 230, 230]])
    images = colours[masks] + rng.normal(0, 20, (*masks.shape, 3))
    return Pairs(list(zip(np.clip(images, 0, 255).astype("uint8"), masks, strict=True)))


def make_model():
    model = tiny(dropout=0.5)
    optimizer = SGD(
        PolynomialDecay(0.05, steps=STEPS),
        use_ema=True,
        ema_momentum=0.9,
        gradient_accumulation_steps=2,
    )
    model.compile(optimizer, run_eagerly=True)  # compiling would take longer than these few steps
    return model


def run(directory):
    sparing.WAIT = 1  # more checkpoints than a user would have, and more moments to be killed in
    train(
        make_model,
        batches(pairs(8, 0), size=(32, 48), batch_size=2, augment=True, seed=0),
        directory=directory,
        steps=STEPS,
        steps_per_epoch=EPOCH,
        settings={},
        every=0,
        patience=100,
        callbacks=[ValidationScores(pairs(2, 1))],
        verbose=0,
    )


def start(directory):
    """Runs in a child, which has all imports already; returns its process id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(directory)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def ended_within(child, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, "the run failed"
            return True
        time.sleep(0.01)
    return False


def left_in(directory):
    """All that a run leaves, as {name: arrays or bytes}."""
    files = sorted(path.name for path in directory.iterdir())
    assert not [name for name in files if "unfinished" in name], files
    (last,) = [directory / f"step-{STEPS:08d}.keras"]
    model, best = keras.saving.load_model(last), keras.saving.load_model(directory / "best.keras")
    return {
        "weights": model.get_weights(),
        "optimizer": [keras.ops.convert_to_numpy(each) for each in model.optimizer.variables],
        "best": best.get_weights(),
        "history.csv": (directory / "history.csv").read_bytes(),
        "settings.json": (directory / "settings.json").read_bytes(),
        "files": [name for name in files if not name.startswith("step-")],
    }


def differences(one, other):
    """The names of what is not the same."""

    def same(a, b):
        if isinstance(a[0], np.ndarray):
            return all(
                x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True)
            )
        return a == b

    return [name for name in one if not same(one[name], other[name])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    here = pathlib.Path(tempfile.mkdtemp())

    begin = time.monotonic()
    assert ended_within(start(here / "uninterrupted"), 1000)
    lasts = time.monotonic() - begin
    print(f"{keras.backend.backend()}: uninterrupted, {STEPS} steps in {lasts:.0f} s", flush=True)

    killed, runs, steps = 0, [], []
    while killed < options.kills:
        runs.append(here / f"killed-{len(runs)}")
        while not ended_within(child := start(runs[-1]), moments.uniform(0, lasts / 3)):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
            found = sorted(runs[-1].glob("step-*.keras"))
            steps.append(int(found[-1].stem[5:]) if found else 0)
    print(f"killed {killed} times in {len(runs)} runs, with a checkpoint at steps {steps}", flush=True)

    # Only now: a process that has computed should not be forked.
    expected = left_in(here / "uninterrupted")
    failed = False
    for path in runs:
        found = differences(expected, left_in(path))
        failed |= bool(found)
        print(f"{path.name}: {', '.join(found) + ' differ' if found else 'the same, bit for bit'}")
    print((here / "uninterrupted" / "history.csv").read_text())
    shutil.rmtree(here)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
