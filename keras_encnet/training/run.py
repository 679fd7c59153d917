"""A training that can be stopped at any time, and goes on when it is started again."""

import csv
import json
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
    """Appends each epoch's figures to a CSV file."""

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}}
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if new:
                writer.writeheader()
            writer.writerow(row)


def _check_settings(directory, settings):
    path = directory / "settings.json"
    if not path.exists():
        path.write_text(json.dumps(settings, indent=1))
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
