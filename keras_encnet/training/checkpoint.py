import os
import pathlib
import re
import signal
import threading
import time
import warnings
import zipfile
import zlib
from numbers import Real

import keras

from keras_encnet.data.conventions import check_integer
from keras_encnet.files import replacing

KEPT = 2  # checkpoints: if the newest one is damaged, training resumes from the one before it


class Checkpoint(keras.callbacks.Callback):
    """Keeps the two newest complete states of a training run in a directory.

    The file name holds the number of completed steps. The file appears by a single rename, so the
    newest one is complete even if the process is killed. Until `close` is called, Ctrl-C saves at the
    end of the current step and then raises `KeyboardInterrupt`; a second Ctrl-C raises immediately.

    Args:
        directory: where to keep the files. One process at a time may write there.
        every: seconds between saves, 0 or more; the end of an epoch saves too.
        start: number of steps completed before this run.

    Raises:
        ValueError: if `every` or `start` is negative.
    """

    def __init__(self, directory: str | os.PathLike, *, every: float = 60, start: int = 0):
        super().__init__()
        if not isinstance(every, Real) or not every >= 0:
            raise ValueError(f"`every` must be 0 seconds or more. Received: {every!r}")
        check_integer("start", start, 0)
        self.directory = pathlib.Path(directory)
        self.every = every
        self.step = self.saved = self._epoch_start = start
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
        self._time = time.monotonic()
        # Only the main thread may handle signals.
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._interrupt)

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self.step

    def on_train_batch_end(self, batch, logs=None):
        # With `steps_per_execution`, `batch` is the last of several, or would be in a longer epoch.
        done = min(batch + 1, self.params.get("steps") or batch + 1)
        self.step = self._epoch_start + done
        if self._interrupted or time.monotonic() - self._time > self.every:
            self.save()
        if self._interrupted:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        self.save()

    def save(self) -> None:
        """Writes the current state and removes all but the two newest ones."""
        if self.step == self.saved:
            return
        with replacing(self._file(self.step)) as unfinished:
            self.model.save(unfinished)
        for path, _ in _found(self.directory)[KEPT:]:
            path.unlink(missing_ok=True)
        self._time, self.saved = time.monotonic(), self.step

    def _file(self, step):
        return self.directory / f"step-{step:08d}.keras"

    def _interrupt(self, *_):
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True

    def close(self) -> None:
        """Restores the previous effect of Ctrl-C."""
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)


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
