"""A training that can be stopped at any time, and goes on when it is started again."""

import csv
import json
import os
import pathlib

import keras

from keras_encnet.training.checkpoint import Checkpoint


def train(make_model, data, *, directory, epochs, settings, every=60, **fit_options):
    """Fits a model to `epochs`; whatever was done in `directory` before is not done again.

    Args:
        make_model: function that returns the compiled model to start from.
        data: `keras_encnet.data.batches(..., augment=True)`.
        directory: where checkpoints, `history.csv` and `settings.json` are kept.
        epochs: how many in all.
        settings: what the training depends on, a JSON-able dict; going on with other ones is an
            error.
        every: seconds between two checkpoints.
        **fit_options: as for `model.fit`.

    Returns:
        The trained model.

    Raises:
        ValueError: if `directory` holds a training with other settings.
        KeyboardInterrupt: on Ctrl-C, the state having been saved.
    """
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _check_settings(directory, settings)
    path, step = Checkpoint.newest(directory)
    model = keras.saving.load_model(path) if path else make_model()
    data.start_at(step)
    callbacks = fit_options.pop("callbacks", [])
    while (epoch := data.step // data.steps_per_epoch) < epochs:
        # Keras fixes the length of an epoch when `fit` begins: what is left of one comes alone.
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
    """Keeps each epoch's figures in a CSV file, one row an epoch."""

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)

    def on_epoch_end(self, epoch, logs=None):
        rows = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = list(csv.DictReader(file))
        # After a kill an epoch may come twice; and not every epoch is validated.
        rows = [row for row in rows if int(row["epoch"]) <= epoch]
        rows.append({"epoch": epoch + 1, **{k: float(v) for k, v in (logs or {}).items()}})
        columns = list(dict.fromkeys(name for row in rows for name in row))
        beside = self.path.with_suffix(".unfinished")
        with beside.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(beside, self.path)


def _check_settings(directory, settings):
    path = directory / "settings.json"
    if not path.exists():
        beside = path.with_suffix(".unfinished")
        beside.write_text(json.dumps(settings, indent=1))
        os.replace(beside, path)
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
            f"{directory} holds a training with other settings ({'; '.join(changed)}). Give the "
            "same ones to go on with it, or another directory to start anew."
        )
