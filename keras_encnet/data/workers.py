"""Worker processes that prepare samples.

Python's threads share one interpreter, which keeps more than one or two cores busy only while NumPy or
Pillow work on large arrays. Processes share nothing, and use all cores.
"""

import mmap
import multiprocessing
import os
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait

import numpy as np

from keras_encnet.data.opencv import import_opencv


class Workers:
    """Processes that prepare images and masks of one size, and leave them in shared memory.

    They are forked, so that they have the pairs, and a function of the user's own from wherever it was
    defined, without copying them. They use NumPy and Pillow only, never the backend, whose threads do
    not exist in them.

    Args:
        prepare: function of the arguments in `places`, see `submit`, that returns an image `uint8`
            `(height, width, 3)` and a mask of integers `(height, width)`.
        count: number of processes.
        size: `(height, width)` of all images and masks.
        batch_size: number of samples of a step.
        ahead: number of steps that are prepared at the same time.

    Raises:
        ValueError: if this system cannot fork processes.

    >>> def prepare(i):
    ...     return np.full((32, 48, 3), i, "uint8"), np.full((32, 48), 2 * i, "uint8")
    >>> workers = Workers(prepare, 2, (32, 48), batch_size=1, ahead=1)
    >>> image, mask = workers.submit(0, [(7,)])[0].result()
    >>> int(image.max()), int(mask.max())
    (7, 14)
    """

    def __init__(
        self,
        prepare: Callable,
        count: int,
        size: tuple[int, int],
        *,
        batch_size: int,
        ahead: int,
    ):
        if "fork" not in multiprocessing.get_all_start_methods():
            raise ValueError(
                f"`workers` must be 0 on this system, which cannot fork processes. Received: {count}. "
                "Threads are used without it."
            )
        import_opencv()  # not in the processes: another thread may just be importing it
        slots = _Slots(size, ahead * batch_size)
        self._slots, self._batch_size, self._ahead = slots, batch_size, ahead
        self._running = {}  # place in the ring of steps: the futures of its samples
        self._pool = ProcessPoolExecutor(
            count,
            multiprocessing.get_context("fork"),
            initializer=_begin,
            initargs=(prepare, slots, os.getpid()),
        )
        # Also before Python ends: the pool would complain about it.
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
        with warnings.catch_warnings():
            # JAX and Python warn that threads do not survive forking. These processes use none.
            warnings.filterwarnings("ignore", message=".*fork")
            wait([self._pool.submit(os.getpid) for _ in range(count)])

    def submit(self, step: int, places: Sequence[tuple]) -> list["Sample"]:
        """Starts preparing the samples of a step, of which `ahead` follow one another at a time."""
        ring = step % self._ahead
        # After a jump to another step, some may still be written for the one before.
        for future in self._running.get(ring, ()):
            future.cancel()
        wait(self._running.get(ring, ()))
        first = ring * self._batch_size
        samples = [
            Sample(self._pool.submit(_work, slot, place), self._slots, slot)
            for slot, place in enumerate(places, first)
        ]
        self._running[ring] = [sample.future for sample in samples]
        return samples


class Sample:
    """An image and its mask, which a process prepares."""

    def __init__(self, future: Future, slots: "_Slots", slot: int):
        self.future, self._slots, self._slot = future, slots, slot

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Waits for the image and the mask: views that hold until the step is submitted again."""
        return self._slots.views(self._slot, self.future.result())


class _Slots:
    """Shared memory for a number of images and masks."""

    def __init__(self, size, count):
        self._size, self._pixels = size, size[0] * size[1]
        # A mask has 8 or 32 bits.
        memory = np.frombuffer(mmap.mmap(-1, count * self._pixels * 7), "uint8")
        self._memory = memory.reshape(count, -1)

    def views(self, slot, mask_dtype):
        image, mask = np.split(self._memory[slot], [3 * self._pixels])
        mask = mask[: self._pixels * np.dtype(mask_dtype).itemsize].view(mask_dtype)
        return image.reshape(*self._size, 3), mask.reshape(self._size)


# === In a process ===

_job = None  # `prepare` and the slots, which a process is forked with


def _begin(prepare, slots, parent):
    global _job
    _job = prepare, slots
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal
    if (cv2 := import_opencv()) is not None:
        # Its threads are not forked, and a lock that one of them held would never be released.
        cv2.setNumThreads(0)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent):
    """Ends this process after its parent was killed, which nothing else tells it."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


def _work(slot, place):
    prepare, slots = _job
    image, mask = prepare(*place)
    mask_dtype = "uint8" if mask.dtype == "uint8" else "int32"
    image_slot, mask_slot = slots.views(slot, mask_dtype)
    image_slot[:], mask_slot[:] = image, mask
    return mask_dtype
