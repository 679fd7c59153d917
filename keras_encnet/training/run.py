"""A training run that can be stopped at any time and resumes when it is started again."""

import csv
import json
import os
import pathlib
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from keras_encnet.data.batching import Batches
from keras_encnet.data.conventions import check_integer
from keras_encnet.files import locked, remove_leftovers, replacing
from keras_encnet.training.checkpoint import Checkpoint
from keras_encnet.version import __version__

COMPARED = 200  # pairs whose masks and sizes are compared: reading all of a large set takes minutes


def train(
    make_model: Callable[[], keras.Model],
    data: Batches,
    *,
    directory: str | os.PathLike,
    epochs: int,
    settings: dict,
    every: float = 60,
    validation_data=None,
    validation_freq: int = 1,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> keras.Model:
    """Fits a model for `epochs` in all, and resumes the run that `directory` holds, if it holds one.

    A resumed run gives what an uninterrupted one would, dropout included: its random numbers follow
    from the seed of `data` and the step. A run can be given more epochs than it was started with, or
    fewer, but not fewer than it has reached. Its weights and the optimizer's state are then kept, and
    the learning rate becomes that of `make_model()` at the step that was reached: a schedule that had
    fallen to its end rises again and falls until the new end.

    Args:
        make_model: function that returns the compiled model to start from.
        data: `keras_encnet.data.batches(..., augment=True)`.
        directory: where two checkpoints, `history.csv` and `settings.json` are kept. One run at a time
            may use it.
        epochs: total number of epochs.
        settings: what the training depends on, a dict that fits into JSON. The data is compared as
            well, by the number of pairs and by masks and image sizes (of 200 pairs at most), so that
            its files may move.
        every: seconds between two checkpoints.
        validation_data: as for `model.fit`; not augmented.
        validation_freq: as for `model.fit`.
        callbacks: Keras callbacks. Their own state is not kept from run to run.
        verbose: as for `model.fit`.

    Returns:
        The trained model.

    Raises:
        ValueError: if `directory` holds a training run with other settings or data, or one that has
            reached more epochs, or all its checkpoints are damaged; or if an argument is not as
            described.
        OSError: if another run uses `directory`, or it cannot be written.
        KeyboardInterrupt: on Ctrl-C, after saving the state.

    Warns:
        UserWarning: if a run resumes on another backend or version, with another number of epochs, or
            from the last checkpoint but one.
    """
    _check_arguments(data, epochs, validation_data)
    directory = pathlib.Path(directory)
    file = directory / "settings.json"
    with locked(directory, "training run"):
        remove_leftovers(directory / "*")
        before, now = _read(file), _record(settings, data, epochs)
        _compare(before, now, directory)
        path, step = Checkpoint.newest_complete(directory)
        done = -(-step // data.steps_per_epoch)
        if epochs < done:
            raise ValueError(
                f"`epochs` must be at least {done}, which {directory} has reached. Received: {epochs}. "
                "Give more, or another directory."
            )
        if path is None:
            model = make_model()
        elif before.get("epochs", epochs) == epochs:
            model = keras.saving.load_model(path)
        else:
            model = _for_other_epochs(make_model, path, before["epochs"], epochs)
        with replacing(file) as unfinished:
            unfinished.write_text(json.dumps(now, indent=1), "utf-8")
        data.start_at(step)
        _seed_dropout(model, data.seed, step)
        try:
            _fit(
                model,
                data,
                directory,
                epochs,
                every,
                callbacks,
                validation_data=validation_data,
                validation_freq=validation_freq,
                verbose=verbose,
            )
        finally:
            # Without a checkpoint there is nothing to resume: other settings are as good.
            if Checkpoint.newest(directory)[0] is None:
                file.unlink(missing_ok=True)
    return model


def _fit(model, data, directory, epochs, every, callbacks, **options):
    while (epoch := data.step // data.steps_per_epoch) < epochs:
        # Keras fixes the length of an epoch when `fit` begins: the rest of one gets its own call.
        rest = _RestOfEpoch()
        partial = data.step % data.steps_per_epoch > 0
        checkpoint = Checkpoint(directory, every=every, start=data.step)
        history = History(directory / "history.csv")
        try:
            model.fit(
                data,
                initial_epoch=epoch,
                epochs=epochs,
                callbacks=[*callbacks, history, checkpoint, *([rest] if partial else [])],
                **options,
            )
        finally:
            checkpoint.close()
        if model.stop_training and not rest.ended:
            return


class _RestOfEpoch(keras.callbacks.Callback):
    """Ends `fit` after one epoch, unless another callback does."""

    ended = False

    def on_epoch_end(self, epoch, logs=None):
        self.ended = not self.model.stop_training
        self.model.stop_training = True


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


def _check_arguments(data, epochs, validation_data):
    if not isinstance(data, Batches) or not data.augment:
        raise ValueError(
            "`data` must be `keras_encnet.data.batches(..., augment=True)`: only they can start at any "
            f"step. Received: {data!r}"
            f"{' without augment=True' if isinstance(data, Batches) else ''}. For other data call "
            "`model.fit`."
        )
    if isinstance(validation_data, Batches) and validation_data.augment:
        raise ValueError(
            "`validation_data` must not be augmented. Received: batches with augment=True. Leave "
            "`augment` out."
        )
    check_integer("epochs", epochs)


# === What a run depends on ===


def _record(settings, data, epochs):
    """All that a run depends on, as JSON has it; the settings come first."""
    record = {
        **settings,
        "epochs": int(epochs),
        "number of pairs": len(data.pairs),
        "checksum of masks and image sizes": _checksum(data.pairs),
        "steps per epoch": data.steps_per_epoch,
        **_versions(),
    }
    return json.loads(json.dumps(record))


def _versions():
    return {
        "backend": keras.backend.backend(),
        "version of Keras": keras.version(),
        "version of keras-encnet": __version__,
    }


def _read(file):
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def _compare(before, now, directory):
    """Compares a run with the one in `directory`; without one, `before` is empty.

    The number of epochs may differ, and of backend and versions a warning is given."""
    if not before:
        return
    changed = [
        name for name in {**before, **now} if name != "epochs" and before.get(name) != now.get(name)
    ]
    listed = {name: f"{name}: {before.get(name)!r} then, {now.get(name)!r} now" for name in changed}
    refused = [listed[name] for name in changed if name not in _versions()]
    if refused:
        raise ValueError(
            f"{directory} holds a training run with other settings ({'; '.join(refused)}). Give the "
            "same settings to resume it, or another directory to start anew."
        )
    if changed:
        warnings.warn(
            f"The training run in {directory} resumes with another backend or other versions "
            f"({'; '.join(listed.values())}). Its results may differ slightly from those of an "
            "uninterrupted run.",
            stacklevel=4,
        )


def _checksum(pairs):
    """A number that differs if masks, sizes of images or their order do, wherever the files are."""

    def one(i):
        mask = np.ascontiguousarray(pairs.mask(i), "int32")
        sizes = np.array([*pairs.image_size(i), *mask.shape], "int32")
        return zlib.crc32(mask, zlib.crc32(sizes))

    indices = np.linspace(0, len(pairs) - 1, min(len(pairs), COMPARED)).astype(int).tolist()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return zlib.crc32(np.array(list(pool.map(one, indices)), "uint32"))


def _for_other_epochs(make_model, path, before, epochs):
    """A new model, whose schedule is for another number of epochs, in the state of a checkpoint."""
    model = make_model()
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    # If this run is killed before its first checkpoint, the next one finds its schedule there.
    with replacing(path) as unfinished:
        model.save(unfinished)
    warnings.warn(
        f"The run in {path.parent} was started for {before} epochs and now has {epochs}. From now on "
        f"its learning rate is that of a run of {epochs} epochs.",
        stacklevel=3,
    )
    return model


def _seed_dropout(model, seed, step):
    """Makes dropout a matter of the seed and the step: Keras does not save its random state."""
    states = [each for each in model.variables if each.name == "seed_generator_state"]
    for i, state in enumerate(states):
        # Each step takes one random number of each layer.
        state.assign([int(np.random.SeedSequence([seed, i]).generate_state(1)[0] >> 1), step])
