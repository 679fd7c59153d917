import os
import pathlib
import re
import signal
import threading
import time

import keras

from keras_encnet.files import remove_leftovers, replacing


class Checkpoint(keras.callbacks.Callback):
    """Keeps the newest complete state of a training run in a directory.

    The file name holds the number of completed steps. The file appears by a single rename, so the
    newest one is complete even if the process is killed. Until `close` is called, Ctrl-C saves at the
    end of the current step and then raises `KeyboardInterrupt`; a second Ctrl-C raises immediately.
    A resumed run equals an uninterrupted one except for dropout: Keras does not save its random state.

    Args:
        directory: where to keep the file.
        every: seconds between saves; the end of an epoch saves too.
        start: number of steps completed before this run.
    """

    def __init__(self, directory: str | os.PathLike, *, every: float = 60, start: int = 0):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.every = every
        self.step = self.saved = start
        self._interrupted = False
        self._previous_handler = None

    @staticmethod
    def newest(directory: str | os.PathLike) -> tuple[pathlib.Path | None, int]:
        """`(path, steps)` of the newest checkpoint in `directory`, or `(None, 0)`."""
        found = {
            int(match[1]): path
            for path in pathlib.Path(directory).glob("step-*.keras")
            if (match := re.fullmatch(r"step-(\d+)\.keras", path.name))
        }
        step = max(found, default=0)
        return found.get(step), step

    def on_train_begin(self, logs=None):
        self._time = time.monotonic()
        remove_leftovers(self._file("*"))
        # Only the main thread may handle signals.
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._interrupt)

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self._interrupted or time.monotonic() - self._time > self.every:
            self.save()
        if self._interrupted:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):
        self.save()

    def save(self) -> None:
        """Writes the current state and removes the previous one."""
        if self.step == self.saved:
            return
        old, _ = self.newest(self.directory)
        with replacing(self._file(f"{self.step:08d}")) as unfinished:
            self.model.save(unfinished)
        if old is not None:
            old.unlink(missing_ok=True)
        self._time, self.saved = time.monotonic(), self.step

    def _file(self, step):
        return self.directory / f"step-{step}.keras"

    def _interrupt(self, *_):
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True

    def close(self) -> None:
        """Restores the previous effect of Ctrl-C."""
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
