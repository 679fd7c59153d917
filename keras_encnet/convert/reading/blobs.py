"""Ranges of bytes in files, read on access."""

import dataclasses
import io
import os
import threading
import weakref
from typing import BinaryIO

import numpy as np

from keras_encnet.convert.reading.budget import Budget
from keras_encnet.convert.reading.errors import damaged


class File:
    """An open, unbuffered binary file that is closed when nothing refers to it any more.

    Args:
        opened: the file.
        name: what it is called in errors.
        budget: the memory that its content may take; default: as much as a file of its size may.
    """

    def __init__(self, opened: BinaryIO, name: str, budget: Budget | None = None):
        self.name = name
        self.size = opened.seek(0, os.SEEK_END)
        self.budget = budget or Budget(self.size)
        self._opened, self._lock = opened, threading.Lock()
        weakref.finalize(self, opened.close)

    def read_into(self, buffer: memoryview, position: int) -> None:
        """Fills `buffer` with the bytes from `position` on."""
        with self._lock:
            self._opened.seek(position)
            while len(buffer):
                count = self._opened.readinto(buffer)
                if not count:
                    raise ValueError(f"{self.name} became shorter after it was opened. Read it again.")
                buffer = buffer[count:]


@dataclasses.dataclass(frozen=True)
class Blob:
    """`size` bytes of a `File`, beginning at `start`."""

    file: File
    start: int
    size: int

    @property
    def budget(self) -> Budget:
        """The memory that the file's content may take."""
        return self.file.budget

    def part(self, start: int, size: int) -> "Blob":
        """`size` of these bytes, beginning at `start`.

        Raises:
            Refused: if they are not all there.
        """
        if start < 0 or size < 0 or start + size > self.size:
            raise damaged(f"bytes {start} to {start + size} are needed, {self.size} are there")
        return Blob(self.file, self.start + start, size)

    def read(self) -> np.ndarray:
        """The bytes, as a new `uint8` array `(size,)`."""
        array = np.empty(self.size, np.uint8)
        self.file.read_into(memoryview(array), self.start)
        return array

    def open(self) -> io.BufferedReader:
        """The bytes, as a file."""
        return io.BufferedReader(_Raw(self))


class _Raw(io.RawIOBase):
    def __init__(self, blob):
        self._blob, self._position = blob, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=os.SEEK_SET):
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._blob.size}[whence]
        if origin + offset < 0:
            raise ValueError(f"A position must not be negative. Received: {origin + offset}")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer):
        count = max(0, min(len(buffer), self._blob.size - self._position))
        self._blob.file.read_into(memoryview(buffer)[:count], self._blob.start + self._position)
        self._position += count
        return count
