"""The table of a run's figures, and their picture."""

import csv
import math

import numpy as np
import pytest

from keras_encnet.training import sparing
from keras_encnet.training.curves import TOTAL, TRAINING, VALIDATION, draw_curves
from keras_encnet.training.history import History


def read(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_history_has_one_row_per_epoch(tmp_path):
    history = History(tmp_path / "history.csv")
    history.on_epoch_end(0, {"loss": 3.0})
    history.on_epoch_end(1, {"loss": 2.0, "val_miou": 0.5})
    # Epoch 2 is repeated after a kill.
    History(tmp_path / "history.csv").on_epoch_end(1, {"loss": 2.5, "val_miou": 0.25})
    History(tmp_path / "history.csv").on_epoch_end(2, {"loss": 1.0})
    assert read(tmp_path / "history.csv") == [
        ["epoch", "loss", "val_miou"],
        ["1", "3.0", ""],
        ["2", "2.5", "0.25"],
        ["3", "1.0", ""],
    ]


def test_rows_of_an_attempt_that_was_killed_are_removed(tmp_path):
    file = tmp_path / "history.csv"
    history = History(file)
    for epoch, value in enumerate((0.2, 0.6, math.nan, 0.9)):
        history.on_epoch_end(epoch, {"loss": 1.0, "val_miou": value})
    assert history.best() == 0.9 and history.validations_since_best() == 0
    history = History(file, epochs=3)
    assert [row[0] for row in read(file)] == ["epoch", "1", "2", "3"]
    assert history.best() == 0.6 and history.validations_since_best() == 1
    history = History(file, epochs=0)
    assert history.best() == -math.inf and history.validations_since_best() == 0
    assert not list(tmp_path.iterdir())


def test_drawing_takes_a_twentieth_of_the_time_at_most(tmp_path, monkeypatch):
    now, drawn = 0.0, 0

    def draw(rows):
        nonlocal now, drawn
        now, drawn = now + 0.2, drawn + 1
        return draw_curves(rows[-1:])

    monkeypatch.setattr(sparing, "time", type("Clock", (), {"monotonic": lambda: now}))
    monkeypatch.setattr("keras_encnet.training.history.draw_curves", draw)
    history = History(tmp_path / "history.csv")
    for epoch in range(100):
        now += 1
        history.on_epoch_end(epoch, {"loss": 1.0})
    assert 15 <= drawn and 0.2 * drawn < 0.05 * now
    assert len(read(tmp_path / "history.csv")) == 101
    before = drawn
    history.on_train_end()
    assert drawn == before + 1 and (tmp_path / "curves.png").exists()


def has(picture, colour, box):
    """Whether a part of a picture has pixels of a colour."""
    pixels = np.array(picture.crop(box)).astype(int)
    return (abs(pixels - colour).max(-1) < 6).any()


def test_curves_lie_where_their_values_are():
    rows = [
        {"epoch": i, "loss": 3.0, "pixel_loss": 2.0, "val_loss": 1.0, "miou": 0.1 * i, "val_miou": 0.2}
        for i in range(1, 11)
    ]
    picture = draw_curves(rows)
    # The loss has ticks from 0 at y = 320 to 3 at y = 40.
    for colour, y in ((TOTAL, 40), (TRAINING, 133), (VALIDATION, 227)):
        others = {TOTAL, TRAINING, VALIDATION} - {colour}
        box = (200, y - 8, 900, y + 8)
        assert has(picture, colour, box) and not any(has(picture, other, box) for other in others)
    # The training's mIoU rises from 0.1 at the left to 1 at the right end.
    bottom, top = picture.crop((70, 600, 170, 666)), picture.crop((850, 386, 936, 440))
    assert has(bottom, TRAINING, (0, 0, 100, 66)) and has(top, TRAINING, (0, 0, 86, 54))


@pytest.mark.parametrize(
    "rows",
    [
        [{"epoch": 1, "loss": 2.0}],
        [{"epoch": 4, "loss": math.nan, "miou": 0.0}, {"epoch": 5, "loss": math.inf, "miou": 0.0}],
        [{"epoch": 1}],
        [{"epoch": i, "loss": 1e-9 * i, "learning_rate": 1e-7} for i in range(1, 4000)],
    ],
)
def test_any_figures_can_be_drawn(rows):
    assert draw_curves(rows).width == 960
