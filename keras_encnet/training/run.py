"""A training run that can be stopped at any time and goes on when it is started again."""

import csv
import json
import os
import pathlib
from collections.abc import Callable

import keras

from keras_encnet.data.batching import Batches
from keras_encnet.files import replacing
from keras_encnet.training.checkpoint import Checkpoint


def train(
    make_model: Callable[[], keras.Model],
    data: Batches,
    *,
    directory: str | os.PathLike,
    epochs: int,
    settings: dict,
    every: float = 60,
    **fit_options,
) -> keras.Model:
    """Fits a model for `epochs` in all, going on from what `directory` holds.

    Args:
        make_model: function that returns the compiled model to start from.
        data: `keras_encnet.data.batches(..., augment=True)`.
        directory: where checkpoints, `history.csv` and `settings.json` are kept.
        epochs: total number of epochs.
        settings: what the training depends on, a dict that fits into JSON. Going on with other
            settings is an error.
        every: seconds between two checkpoints.
        **fit_options: as for `model.fit`.

    Returns:
        The trained model.

    Raises:
        ValueError: if `directory` holds a training run with other settings.
        KeyboardInterrupt: on Ctrl-C, after saving the state.
    """
    directory = pathlib.Path(directory)
    _check_settings(directory / "settings.json", settings)
    path, step = Checkpoint.newest(directory)
    model = keras.saving.load_model(path) if path else make_model()
    data.start_at(step)
    callbacks = fit_options.pop("callbacks", [])
    while (epoch := data.step // data.steps_per_epoch) < epochs:
        # Keras fixes the length of an epoch when `fit` begins: the rest of one gets its own call.
        partial = data.step % data.steps_per_epoch > 0
        checkpoint = Checkpoint(directory, every=every, start=data.step)
        try:
            model.fit(
                data,
                initial_epoch=epoch,
                epochs=epoch + 1 if partial else epochs,
                callbacks=[*callbacks, History(directory / "history.csv"), checkpoint],
                **fit_options,
            )
        finally:
            checkpoint.close()
    return model


class History(keras.callbacks.Callback):
    """Keeps each epoch's figures in a CSV file, one row per epoch."""

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)

    def on_epoch_end(self, epoch, logs=None):
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        # After a kill an epoch may be repeated; and not every epoch is validated.
        rows = [row for row in rows if int(row["epoch"]) <= epoch]
        rows.append({"epoch": epoch + 1, **{k: float(v) for k, v in (logs or {}).items()}})
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with replacing(self.path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def _check_settings(path, settings):
    """Writes the settings of a new training run, or compares them with those of the old one."""
    if not path.exists():
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(settings, indent=1))
        return
    before = json.loads(path.read_text())
    now = json.loads(json.dumps(settings))
    changed = [
        f"{name}: {before.get(name)!r} then, {now.get(name)!r} now"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise ValueError(
            f"{path.parent} holds a training run with other settings ({'; '.join(changed)}). Give the "
            "same settings to go on with it, or another directory to start anew."
        )
