"""Ranges of bytes in files, read when they are asked for."""

import dataclasses
import io
import os
import threading
import weakref

import numpy as np


class Refused(ValueError):
    """Why a file is not read, as a sentence whose subject, the file, the catcher puts before it."""


def damaged(detail):
    return Refused(f"is cut short or damaged ({detail}). Download it or copy it again.")


class File:
    """An open, unbuffered binary file that is closed with the last of its users."""

    def __init__(self, opened, name):
        self.name = name
        self.size = opened.seek(0, os.SEEK_END)
        self._opened, self._lock = opened, threading.Lock()
        weakref.finalize(self, opened.close)

    def read_into(self, buffer, position):
        with self._lock:
            self._opened.seek(position)
            while len(buffer):
                count = self._opened.readinto(buffer)
                if not count:
                    raise ValueError(f"{self.name} became shorter meanwhile. Read it again.")
                buffer = buffer[count:]


@dataclasses.dataclass(frozen=True)
class Blob:
    """`size` bytes of a `File` from `start` on."""

    file: File
    start: int
    size: int

    def part(self, start, size):
        if start < 0 or size < 0 or start + size > self.size:
            raise damaged(f"it should go on for {start + size - self.size} bytes more")
        return Blob(self.file, self.start + start, size)

    def read(self):
        """The bytes, as a new `uint8` array `(size,)`."""
        array = np.empty(self.size, np.uint8)
        self.file.read_into(memoryview(array), self.start)
        return array

    def open(self):
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
            raise ValueError(f"cannot seek to {origin + offset}")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer):
        count = max(0, min(len(buffer), self._blob.size - self._position))
        self._blob.file.read_into(memoryview(buffer)[:count], self._blob.start + self._position)
        self._position += count
        return count
