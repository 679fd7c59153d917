"""Processes in which Pillow decodes images: one that takes too much time or memory is replaced.

Run as a program, this file is such a process: it reads images from its standard input and writes pixels
to its standard output, until the input ends.
"""

import contextlib
import importlib
import io
import queue
import signal
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

# The format, width, height and orientation of an image, and the length of the data that follow.
REQUEST = struct.Struct("<8sIIIQ")
# Whether it was decoded, the width and height, and the length of the pixels or the reason that follow.
ANSWER = struct.Struct("<?IIQ")
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A progressive JPEG's coefficients, and Pillow's four bytes for the image as stored, turned and as RGB.
BYTES_PER_PIXEL = 32
OTHER_BYTES = 512 << 20


class DecodingFailed(Exception):
    """The image cannot be decoded; the text says why."""


class OverLimit(DecodingFailed):
    """The image takes too much time or memory."""


class Decoders:
    """Decodes images in `count` processes.

    Args:
        count: number of processes, and so of images that are decoded at the same time.
        seconds: after which a process is killed and its image refused.
        max_pixels: of an image; a process may take the memory for so many.

    Attributes:
        threads: where `decode` should be called, because it blocks.
    """

    def __init__(self, count, seconds, max_pixels):
        self.seconds, self.max_pixels = seconds, max_pixels
        self.threads = ThreadPoolExecutor(count, "decoder")
        self.idle = queue.SimpleQueue()
        self.processes = set()
        for _ in range(count):
            self.idle.put(self._start())

    def decode(self, picture):
        """The `uint8` RGB pixels `(height, width, 3)` of an `images.Picture`, as a viewer shows it: its
        orientation is applied, an alpha channel is dropped, and 16 bits become 8.

        Raises:
            DecodingFailed: if the file is broken.
            OverLimit: if it takes too much time or memory.
        """
        process = self.idle.get()
        try:
            if process.poll() is not None:  # the last image, or the system, ended it
                self._forget(process)
                process = self._start()
            with time_limit(process, self.seconds) as expired:
                return ask(process, picture)
        except (EOFError, BrokenPipeError):
            what = f"more than {self.seconds:g} s" if expired.is_set() else "too much memory"
            raise OverLimit(f"takes {what}") from None
        finally:
            self.idle.put(process)

    def close(self):
        """Ends the processes, and refuses the images that they decode."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        for process in list(self.processes):
            process.kill()
        self.threads.shutdown()
        for process in list(self.processes):
            self._forget(process)

    def _start(self):
        process = subprocess.Popen(
            [sys.executable, __file__, str(self.max_pixels), str(2 * self.seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.processes.add(process)
        return process

    def _forget(self, process):
        self.processes.discard(process)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        process.wait()


@contextlib.contextmanager
def time_limit(process, seconds):
    """Kills the process after so many seconds; yields the event that then happens."""
    expired = threading.Event()

    def expire():
        expired.set()
        process.kill()
        process.wait()

    timer = threading.Timer(seconds, expire)
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()
        timer.join()


def ask(process, picture):
    """Sends an image to a process and returns its pixels."""
    import numpy as np  # not needed by the processes, which start faster without

    head = (picture.format.encode(), picture.width, picture.height, picture.orientation)
    complete = False
    try:
        process.stdin.write(REQUEST.pack(*head, len(picture.data)))
        process.stdin.write(picture.data)
        process.stdin.flush()
        answer = process.stdout.read(ANSWER.size)
        if len(answer) < ANSWER.size:
            raise EOFError
        good, width, height, length = ANSWER.unpack(answer)
        content = np.empty(length, "uint8")
        if process.stdout.readinto(content) < length:
            raise EOFError
        complete = True
    finally:
        if not complete:  # what it sends next would not belong to the next image
            process.kill()
            process.wait()
    if not good:
        raise DecodingFailed(content.tobytes().decode())
    return content.reshape(height, width, 3)


def rgb(format, width, height, orientation, data):
    """The RGB picture in the data of an `images.Picture`."""
    image = Image.open(io.BytesIO(data), formats=[format])
    if image.size != (width, height):
        raise ValueError("the file states two sizes")
    image.load()
    if orientation in TURNS:
        image = image.transpose(TURNS[orientation])
    if image.mode[0] == "I":
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return image.convert("RGB")


def limit_memory(size):
    """Limits the address space of this process, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (size, size))


@contextlib.contextmanager
def last_limit(seconds):
    """Ends this process after so many seconds, where the system can: the server may have been killed
    and can no longer do so."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def main():
    max_pixels, seconds = int(sys.argv[1]), float(sys.argv[2])
    # The server ends this process when it has no more images.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(ImportError):
        # Otherwise Pillow loads all its formats for the first WebP.
        importlib.import_module("PIL.WebPImagePlugin")
    Image.MAX_IMAGE_PIXELS = None  # the server has checked the size
    limit_memory(OTHER_BYTES + BYTES_PER_PIXEL * max_pixels)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while head := requests.read(REQUEST.size):
        format, width, height, orientation, length = REQUEST.unpack(head)
        data = requests.read(length)
        try:
            with last_limit(seconds):
                image = rgb(format.rstrip(b"\0").decode(), width, height, orientation, data)
            good, (width, height), content = True, image.size, image.tobytes()
        except MemoryError:
            return  # the server starts another process
        except Exception as error:  # Pillow raises a dozen kinds
            good, content = False, str(error)[:200].encode(errors="replace")
        answers.write(ANSWER.pack(good, width, height, len(content)) + content)
        answers.flush()
        image = data = content = None  # not kept while the process waits


if __name__ == "__main__":
    main()
