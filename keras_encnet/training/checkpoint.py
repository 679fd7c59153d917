import pathlib
import re
import signal
import threading
import time

import keras

from keras_encnet.files import remove_leftovers, replacing


class Checkpoint(keras.callbacks.Callback):
    """Keeps the newest complete state of a training run in a directory.

    The file's name holds the number of steps done, and it appears by a single rename: whatever kills
    the process, the newest file is complete and training goes on from there. Ctrl-C saves once more
    at the end of the step and then raises `KeyboardInterrupt`, until `close` is called. A resumed run
    equals an uninterrupted one except for dropout's masks, whose state Keras does not save.

    Args:
        directory: where the file is kept.
        every: seconds between two saves; each epoch ends with one more.
        start: steps done before.
    """

    def __init__(self, directory, *, every=60, start=0):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.every = every
        self.step = self.saved = start
        self._interrupted = self._main = False

    @staticmethod
    def newest(directory):
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
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGINT, self._interrupt)

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
        if self._interrupted:  # Ctrl-C again: at once
            raise KeyboardInterrupt
        self._interrupted = True

    def close(self) -> None:
        """Restores the usual effect of Ctrl-C."""
        if self._main:
            signal.signal(signal.SIGINT, self._before)
