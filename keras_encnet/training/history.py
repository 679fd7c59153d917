import csv
import math
import os
import pathlib

import keras
import numpy as np

from keras_encnet.files import replacing
from keras_encnet.training.curves import draw_curves
from keras_encnet.training.sparing import Sparing


class History(keras.callbacks.Callback):
    """Keeps each epoch's figures in a CSV file, one row per epoch, and draws them in `curves.png`.

    The figures are those of Keras's logs, and the learning rate at the end of the epoch. Drawing takes
    5 % of the time at most: in a run of very short epochs the picture may be some rows behind.

    Args:
        path: path of the CSV file. The picture is in the same directory.
        epochs: number of epochs that the run has completed; later rows are of an attempt that was
            killed, and are removed. `None` keeps all.
        writes: whether to write files: one of several processes does.

    Attributes:
        rows: a dict of numbers for each epoch, with its number as `"epoch"`.
    """

    def __init__(self, path: str | os.PathLike, epochs: int | None = None, *, writes: bool = True):
        super().__init__()
        self.path = pathlib.Path(path)
        self.writes = writes
        self._sparing = Sparing()
        found = _read(self.path)
        self.rows = [row for row in found if epochs is None or row["epoch"] <= epochs]
        if len(self.rows) < len(found):
            self._write()

    def on_epoch_end(self, epoch, logs=None):
        # After a kill an epoch may be repeated; and not every epoch is validated.
        self.rows = [row for row in self.rows if row["epoch"] <= epoch]
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}}
        if self.model is not None:
            rate = self.model.optimizer.learning_rate
            row.setdefault("learning_rate", float(keras.ops.convert_to_numpy(rate)))
        self.rows.append(row)
        self._write()
        if self._sparing.is_due():
            self._draw()

    def on_train_end(self, logs=None):
        self._draw()

    def best(self) -> float:
        """The best `val_miou` so far; `-inf` before the first validation."""
        return max(self._validations(), default=-math.inf)

    def validations_since_best(self) -> int:
        """How many validations there were after the one with the best `val_miou`."""
        values = self._validations()
        return len(values) - 1 - int(np.argmax(values)) if values else 0

    def _validations(self):
        values = [row["val_miou"] for row in self.rows if "val_miou" in row]
        return [-math.inf if math.isnan(value) else value for value in values]

    def _write(self):
        if not self.writes:
            return
        if not self.rows:
            self.path.unlink(missing_ok=True)
            self._picture().unlink(missing_ok=True)
            return
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with replacing(self.path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def _draw(self):
        if self.writes and self.rows:
            with self._sparing.measured(), replacing(self._picture()) as unfinished:
                draw_curves(self.rows).save(unfinished)

    def _picture(self):
        return self.path.with_name("curves.png")


def _read(path):
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    # An empty cell is a figure that the epoch does not have.
    rows = [{name: float(cell) for name, cell in row.items() if cell} for row in rows]
    return [{**row, "epoch": int(row["epoch"])} for row in rows]
