"""Segments videos, through PyAV or OpenCV, whichever is installed."""

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple

import keras
import numpy as np

from keras_encnet.files import replacing
from keras_encnet.inference.segmenting import is_video, segment

__all__ = ["is_video", "segment_video"]


def segment_video(
    model: keras.Model,
    source: str | os.PathLike,
    target: str | os.PathLike,
    *,
    progress: Callable[[int, int | None], None] | None = None,
    **how,
) -> dict[str, float]:
    """Segments each frame of a video, and writes a video of the overlays, without sound or legend.

    Args:
        model: an `EncNet`.
        source: the video.
        target: path of the video that is written, ending in .mp4.
        progress: called after each frame, with the number of frames so far and, if it is known, of all.
        **how: options of `segment` other than `confidence`.

    Returns:
        `{label: fraction}`, the fraction of all frames that each class covers, largest first.

    Raises:
        ImportError: if neither PyAV nor OpenCV is installed.
        ValueError: if the file is not a video that can be read; if `confidence` is given; or as for
            `segment`.
        OSError: if the file does not exist, or `target` cannot be written.

    Warns:
        UserWarning: if OpenCV reads fewer frames than the file should have.
    """
    if how.get("confidence"):
        raise ValueError(
            "`confidence` must be False for a video. Received: True. Call `segment` with its frames."
        )
    source, target = os.fspath(source), os.fspath(target)
    if not os.path.isfile(source):
        raise FileNotFoundError(f"There is no video file {source!r}.")
    library = _library()
    areas = {}
    with contextlib.ExitStack() as stack:
        video = stack.enter_context(library.read(source))
        write = None
        for number, frame in enumerate(video.frames, 1):
            if write is None:  # a file without frames leaves nothing behind
                unfinished = stack.enter_context(replacing(target))
                size = _even(frame).shape[:2]
                write = stack.enter_context(library.write(os.fspath(unfinished), size, video.rate))
            result = segment(model, frame, **how)
            for label, area in result.areas().items():
                areas[label] = areas.get(label, 0) + area
            write(_even(np.asarray(result.overlay(legend=False))))
            if progress:
                progress(number, video.count)
        if write is None:
            raise _unreadable(source, "it has no frames")
    return {label: areas[label] / number for label in sorted(areas, key=areas.get, reverse=True)}


class _Video(NamedTuple):
    """`rate` is in frames per second; `count`, the number of frames, may be unknown."""

    frames: Iterator[np.ndarray]
    rate: Fraction
    count: int | None


class _Library(NamedTuple):
    """`read(path)` is a context with a `_Video`, `write(path, size, rate)` one with a function of a
    frame."""

    read: Callable
    write: Callable


def _library():
    for package, library in LIBRARIES.items():
        if importlib.util.find_spec(package):
            return library
    raise ImportError(
        "Videos need PyAV or OpenCV. Received: neither is installed. Run: pip install "
        "'keras-encnet[video]'"
    )


@contextlib.contextmanager
def _read_by_pyav(path):
    import av

    try:
        container = av.open(path)
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error
    with container:
        if not container.streams.video:
            raise _unreadable(path, "it has no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"

        def frames():
            try:
                for frame in container.decode(stream):
                    # Phones turn the picture by a note in the file.
                    turns = round(getattr(frame, "rotation", 0) / 90)
                    yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
            except av.FFmpegError as error:
                raise _unreadable(path, error) from error

        yield _Video(frames(), stream.average_rate or Fraction(25), stream.frames or None)


@contextlib.contextmanager
def _write_by_pyav(path, size, rate):
    import av

    try:
        with av.open(path, "w", format="mp4") as container:
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            stream = container.add_stream(codec, rate=rate)
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"  # what every player shows

            def write(frame):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))

            yield write
            container.mux(stream.encode())
    except av.FFmpegError as error:  # many kinds of it are no OSError
        raise OSError(f"Cannot write the video {os.path.basename(path)!r}: {error}") from error


@contextlib.contextmanager
def _read_by_opencv(path):
    import cv2

    capture = cv2.VideoCapture(path)
    try:
        if not capture.isOpened():
            raise _unreadable(path, "OpenCV cannot open it")

        rate = Fraction(capture.get(cv2.CAP_PROP_FPS) or 25).limit_denominator(1001)
        count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))

        def frames():
            number = 0
            while True:
                found, frame = capture.read()
                if not found:
                    break
                number += 1
                yield np.ascontiguousarray(frame[:, :, ::-1])
            # OpenCV tells the end of a truncated file from the end of a video no other way.
            if 0 < number < count:
                warnings.warn(
                    f"The video {path!r} ends after {number} of {count} frames. It may be truncated.",
                    stacklevel=2,
                )

        yield _Video(frames(), rate, count if count > 0 else None)
    finally:
        capture.release()


@contextlib.contextmanager
def _write_by_opencv(path, size, rate):
    import cv2

    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), float(rate), size[::-1])
    if not writer.isOpened():
        raise OSError(f"OpenCV cannot write {path!r}. Install PyAV: pip install av")
    try:
        yield lambda frame: writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    finally:
        writer.release()


LIBRARIES = {
    "av": _Library(_read_by_pyav, _write_by_pyav),
    "cv2": _Library(_read_by_opencv, _write_by_opencv),
}


def _even(frame):
    """The frame without a last odd row and column, which most codecs cannot store."""
    height, width = frame.shape[:2]
    return frame[: height - height % 2, : width - width % 2]


def _unreadable(path, why):
    return ValueError(f"Cannot read the video {path!r}: {why}. Replace it or leave it out.")
