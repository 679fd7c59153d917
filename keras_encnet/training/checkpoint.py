import io
import os
import pathlib
import re
import signal
import threading
import warnings
import zipfile
import zlib
from numbers import Real

import keras
import numpy as np

from keras_encnet.data.conventions import check_integer
from keras_encnet.files import replacing
from keras_encnet.training.best import Best
from keras_encnet.training.sparing import Sparing

KEPT = 2  # checkpoints: if the newest one is damaged, training resumes from the one before it
METRICS = "metrics.npz"  # in a checkpoint within an epoch: the sums that the epoch's figures come from


class Checkpoint(keras.callbacks.Callback):
    """Keeps the two newest complete states of a training run in a directory.

    The file name holds the number of completed steps. The file appears by a single rename, so the
    newest one is complete even if the process is killed. A state is saved at the end of an epoch, and
    within long ones; but after a save that took a second there is none for 20 seconds, so that a run
    spends at most 5 % of its time on saving, however short its epochs are. Call `save` at its end.

    Until `close` is called, Ctrl-C saves at the end of the current step, or of the epoch if it was the
    last step, and then raises `KeyboardInterrupt`; a second Ctrl-C raises immediately.

    Args:
        directory: where to keep the files. One process at a time may write there.
        every: least number of seconds between two saves within an epoch, 0 or more.
        start: number of steps completed before this run.
        metrics: `metrics_of` the checkpoint that the run resumes from.
        best: `Best`, which is written before each checkpoint, or `None`.
        writes: whether to write files: one of several processes does.

    Raises:
        ValueError: if `every` or `start` is negative.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        every: float = 60,
        start: int = 0,
        metrics: list[np.ndarray] | None = None,
        best: Best | None = None,
        writes: bool = True,
    ):
        super().__init__()
        if not isinstance(every, Real) or not every >= 0:
            raise ValueError(f"`every` must be 0 seconds or more. Received: {every!r}")
        check_integer("start", start, 0)
        self.directory = pathlib.Path(directory)
        self.every = every
        self.best = best
        self.writes = writes
        self.step = self.saved = self._epoch_start = start
        self._metrics = metrics
        self._sparing = Sparing()
        self._interrupted = False
        self._previous_handler = None

    @staticmethod
    def newest(directory: str | os.PathLike) -> tuple[pathlib.Path | None, int]:
        """`(path, steps)` of the newest checkpoint in `directory`, or `(None, 0)`."""
        return next(iter(_found(directory)), (None, 0))

    @staticmethod
    def newest_complete(directory: str | os.PathLike) -> tuple[pathlib.Path | None, int]:
        """`newest`, but a damaged file is removed if an older one is complete.

        Raises:
            ValueError: if all files are damaged; they stay.

        Warns:
            UserWarning: if a file is damaged.
        """
        damaged = []
        for path, step in _found(directory):
            damage = _damage(path)
            if damage is None:
                for bad, why in damaged:
                    bad.unlink(missing_ok=True)
                    warnings.warn(
                        f"{bad} is damaged ({why}) and was removed. Training resumes from the "
                        f"checkpoint before it, {path.name}.",
                        stacklevel=3,
                    )
                return path, step
            damaged.append((path, damage))
        if damaged:
            path, why = damaged[0]
            raise ValueError(
                f"A checkpoint must be a complete .keras file. Received: {path}, which is damaged "
                f"({why}), and there is no complete one before it. Copy it again from its origin, or "
                f"remove {directory} to start anew."
            )
        return None, 0

    def on_train_begin(self, logs=None):
        # Only the main thread may handle signals. A run may consist of several calls of `fit`.
        if self._previous_handler is None and threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._interrupt)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self.step
        if self._metrics is not None:
            # Keras has just reset the metrics, but the epoch was begun by an earlier process.
            _restore_metrics(self.model, self._metrics)
            self._metrics = None

    def on_train_batch_end(self, batch, logs=None):
        # With `steps_per_execution`, `batch` is the last of several, or would be in a longer epoch.
        total = self.params.get("steps")
        done = min(batch + 1, total or batch + 1)
        self.step = self._epoch_start + done
        # The last step belongs to what follows it: validation, the row in the history, callbacks.
        if done != total and (self._interrupted or self._sparing.is_due(self.every)):
            self.save(_metrics(self.model))
            self._raise_if_interrupted()

    def on_epoch_end(self, epoch, logs=None):
        if self._interrupted or self._sparing.is_due():
            self.save()
        self._raise_if_interrupted()

    def save(self, metrics: list[np.ndarray] | None = None) -> None:
        """Writes the current state, and removes all but the two newest ones.

        Args:
            metrics: as for `write_checkpoint`.
        """
        if self.step == self.saved:
            return
        with self._sparing.measured():
            if self.writes:
                self._write(metrics)
        self.saved = self.step

    def _write(self, metrics):
        if self.best:
            self.best.write()
        write_checkpoint(self.model, self._file(self.step), metrics)
        for path, _ in _found(self.directory)[KEPT:]:
            path.unlink(missing_ok=True)

    def _file(self, step):
        return self.directory / f"step-{step:08d}.keras"

    def _interrupt(self, *_):
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True

    def _raise_if_interrupted(self):
        if self._interrupted:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Restores the previous effect of Ctrl-C."""
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)


def write_checkpoint(
    model: keras.Model, path: pathlib.Path, metrics: list[np.ndarray] | None = None
) -> None:
    """Writes a compiled model with its optimizer, and the metrics of an epoch that has begun.

    Args:
        model: the model.
        path: path of the `.keras` file.
        metrics: as from `metrics_of`, or `None` at the end of an epoch.
    """
    with replacing(path) as unfinished:
        model.save(unfinished)
        if metrics is not None:
            values = io.BytesIO()
            np.savez(values, *metrics)
            with zipfile.ZipFile(unfinished, "a") as archive:
                archive.writestr(METRICS, values.getvalue())


def metrics_of(path: str | os.PathLike) -> list[np.ndarray] | None:
    """The values of the metrics' variables in a checkpoint, or `None` if its epoch was complete."""
    with zipfile.ZipFile(path) as archive:
        if METRICS not in archive.namelist():
            return None
        with np.load(io.BytesIO(archive.read(METRICS))) as values:
            return [values[name] for name in values.files]


def _metrics(model):
    return [keras.ops.convert_to_numpy(variable) for variable in model.metrics_variables]


def _restore_metrics(model, values):
    if len(model.metrics_variables) != len(values):
        # The metrics of a new model get their variables with the first batch.
        pixel = keras.ops.zeros((1, 1, 1), "int32")
        model.compute_metrics(None, pixel, keras.ops.zeros((1, 1, 1, model.num_classes)))
    for variable, value in zip(model.metrics_variables, values, strict=True):
        variable.assign(value)


def _found(directory):
    """`(path, steps)` of all checkpoints, the newest first."""
    found = [
        (path, int(match[1]))
        for path in pathlib.Path(directory).glob("step-*.keras")
        if (match := re.fullmatch(r"step-(\d+)\.keras", path.name))
    ]
    return sorted(found, key=lambda each: each[1], reverse=True)


def _damage(path):
    """What is wrong with a .keras file, which is a zip archive with checksums, or `None`."""
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        return str(error)
    return member and f"the checksum of {member} is wrong"
