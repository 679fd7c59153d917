"""What checkpoints cost, by a clock of the test's own."""

import pathlib
import types

import pytest

from keras_encnet.training import Checkpoint, sparing


class Run:
    """Steps and epochs that take a certain time, with a model that takes `cost` seconds to save."""

    def __init__(self, directory, monkeypatch, *, cost, steps, **options):
        self.now, self.spent, self.saved = 0.0, 0.0, []
        monkeypatch.setattr(sparing, "time", types.SimpleNamespace(monotonic=lambda: self.now))
        self.cost, self.steps = cost, steps
        self.checkpoint = Checkpoint(directory, **options)
        self.checkpoint.set_model(types.SimpleNamespace(save=self.save, metrics_variables=[]))
        self.checkpoint.set_params({"steps": steps})

    def save(self, path):
        pathlib.Path(path).write_bytes(b"PK\5\6" + bytes(18))  # an empty zip archive
        self.now += self.cost
        self.spent += self.cost
        self.saved.append(self.checkpoint.step)

    def epoch(self, number, seconds):
        self.checkpoint.on_epoch_begin(number)
        for batch in range(self.steps):
            self.now += seconds
            self.checkpoint.on_train_batch_end(batch)
        self.checkpoint.on_epoch_end(number)


@pytest.mark.parametrize("cost", [0.1, 2.0, 30.0])
def test_short_epochs_spend_a_twentieth_of_the_time_on_saving(tmp_path, monkeypatch, cost):
    run = Run(tmp_path, monkeypatch, cost=cost, steps=10)
    for number in range(3000):
        run.epoch(number, seconds=0.1)
    # The first save is due before its cost is known.
    assert run.spent - cost <= 0.05 * run.now
    # A kill loses little, too: twenty times what a save takes, and an epoch.
    assert run.spent >= 0.03 * run.now
    run.checkpoint.save()
    assert run.saved[-1] == 30_000


def test_long_epochs_are_saved_within(tmp_path, monkeypatch):
    run = Run(tmp_path, monkeypatch, cost=0.5, steps=95, every=60)
    for number in range(2):
        run.epoch(number, seconds=7)
    # After more than 60 seconds, which is 9 steps; the end of an epoch after 20 times the cost.
    assert run.saved == [*range(9, 91, 9), 95, *range(104, 186, 9), 190]


def test_the_last_step_of_an_epoch_is_saved_with_what_follows_it(tmp_path, monkeypatch):
    run = Run(tmp_path, monkeypatch, cost=0.1, steps=3, every=0)
    run.checkpoint.on_epoch_begin(0)
    for batch in range(3):
        run.now += 5
        run.checkpoint.on_train_batch_end(batch)
    assert run.saved == [1, 2]
    run.checkpoint.on_epoch_end(0)
    assert run.saved == [1, 2, 3]
