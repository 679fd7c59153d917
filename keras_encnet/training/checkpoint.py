import os
import pathlib
import re
import time

import keras


class Checkpoint(keras.callbacks.Callback):
    """Keeps the newest whole state of a training in a directory.

    The file's name holds the number of steps done, and it appears in one rename: whatever kills the
    process, the newest file is whole, and training goes on from there.

    Args:
        directory: where the file is kept.
        every: seconds between two saves; one more follows each epoch and Ctrl-C.
        start: steps done before.
    """

    def __init__(self, directory, *, every=60, start=0):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.every = every
        self.step = self.saved = start

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

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if time.monotonic() - self._time > self.every:
            self.save()

    def on_epoch_end(self, epoch, logs=None):
        self.save()

    def save(self):
        """Writes the state as it is now, and removes the one before."""
        if self.step == self.saved:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        beside = self.directory / "unfinished.keras"
        self.model.save(beside)
        old, _ = self.newest(self.directory)
        os.replace(beside, self.directory / f"step-{self.step:08d}.keras")
        if old is not None:
            old.unlink(missing_ok=True)
        self._time, self.saved = time.monotonic(), self.step
