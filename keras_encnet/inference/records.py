"""What is kept of each image of an evaluation, in memory and in a directory."""

import contextlib
import inspect
import json
import os
import pathlib
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import keras
import numpy as np

from keras_encnet.data.pairs import Pairs
from keras_encnet.files import locked, replacing
from keras_encnet.inference.segmenting import segment

FOLDER = ".evaluation"  # in the directory of a report or of predictions; hidden from servers' globs
# Names change nothing in what a network computes, and Keras numbers layers without names as they come.
NAMES = {"name", "labels", "palette", "keras_history", "input_layers", "output_layers"}


class ImageRecord(NamedTuple):
    """How one image of a set was segmented.

    Attributes:
        index: its number among the pairs.
        name: its name for results, unique within the pairs, such as `"lindau/lindau_000000_000019"`.
        source: where it comes from, for people, such as the paths of its files.
        size: its `(height, width)` in pixels.
        num_classes: number of classes.
        cells: `int64` `(n, 3)`: true class, predicted class, number of pixels; only cells with pixels,
            ordered by class.
        presence: `float32` `(num_classes,)`, the SE head's probability that each class is in the image,
            or `None`.
        stamp: changes with the image and the mask; empty if it is not known.

    >>> record = ImageRecord(0, "a", "a.jpg", (1, 4), 3, np.array([[0, 0, 2], [0, 1, 2]]), None)
    >>> record.pixel_accuracy, record.miou, record.intersections.tolist(), record.unions.tolist()
    (0.5, 0.25, [2, 0, 0], [4, 2, 0])
    """

    index: int
    name: str
    source: str
    size: tuple[int, int]
    num_classes: int
    cells: np.ndarray
    presence: np.ndarray | None
    stamp: str = ""

    @property
    def confusion(self) -> np.ndarray:
        """Number of pixels of each true class (rows) that were given each class (columns), `int64`."""
        confusion = np.zeros((self.num_classes, self.num_classes), "int64")
        true, predicted, pixels = self.cells.T
        confusion[true, predicted] = pixels
        return confusion

    @property
    def truth(self) -> np.ndarray:
        """Number of pixels of each true class, `int64` `(num_classes,)`; ignored ones are left out."""
        return self._pixels(self.cells[:, 0])

    @property
    def intersections(self) -> np.ndarray:
        """Number of pixels of each class that were given it, `int64` `(num_classes,)`."""
        return self._pixels(self.cells[:, 0], self.cells[:, 0] == self.cells[:, 1])

    @property
    def unions(self) -> np.ndarray:
        """Number of pixels that are of a class or were given it, `int64` `(num_classes,)`."""
        return self.truth + self._pixels(self.cells[:, 1]) - self.intersections

    def _pixels(self, classes, which=slice(None)):
        """The number of pixels of each class, where cell `i` is one of class `classes[i]`."""
        found = np.zeros(self.num_classes, "int64")
        np.add.at(found, classes[which], self.cells[which, 2])
        return found

    @property
    def pixel_accuracy(self) -> float:
        """The fraction of pixels with the right class; `nan` if all are ignored."""
        counted = self.cells[:, 2].sum()
        return float(self.intersections.sum() / counted) if counted else float("nan")

    @property
    def miou(self) -> float:
        """The mean IoU over the classes that occur in the truth or the prediction; `nan` if all pixels
        are ignored."""
        unions = self.unions
        found = unions > 0
        return (
            float(np.mean(self.intersections[found] / unions[found])) if found.any() else float("nan")
        )

    def to_json(self) -> dict:
        """The record as JSON has it; `from_json` reads it."""
        presence = None if self.presence is None else self.presence.tolist()
        return {**self._asdict(), "cells": self.cells.tolist(), "presence": presence}

    @classmethod
    def from_json(cls, record: dict) -> "ImageRecord":
        """The record that `to_json` wrote.

        Raises:
            KeyError, TypeError or ValueError: if it is none.
        """
        presence = record["presence"]
        return cls(
            **{
                **record,
                "size": tuple(record["size"]),
                "cells": np.array(record["cells"], "int64").reshape(-1, 3),
                "presence": None if presence is None else np.array(presence, "float32"),
            }
        )


def record_of(confusion: np.ndarray, **values) -> ImageRecord:
    """The `ImageRecord` of a confusion matrix; `values` are its other attributes.

    >>> record = record_of(np.array([[2, 0], [1, 0]]), index=0, name="a", source="a.jpg", size=(1, 3),
    ...     presence=None)
    >>> record.cells.tolist()
    [[0, 0, 2], [1, 0, 1]]
    """
    true, predicted = np.nonzero(confusion)
    cells = np.stack([true, predicted, confusion[true, predicted]], -1).astype("int64")
    return ImageRecord(cells=cells, num_classes=len(confusion), **values)


class Journal:
    """The records of the images that are done, in a directory; see `open_journal`.

    Attributes:
        records: `{index: ImageRecord}` of those that an earlier process left.
    """

    def __init__(self, records, stream):
        self.records = records
        self._stream = stream
        self._lock = threading.Lock()

    def add(self, record: ImageRecord) -> None:
        """Keeps a record; any thread may call this."""
        line = json.dumps(record.to_json()) + "\n"
        with self._lock:
            self._stream.write(line)
            # What the system has, a kill of this process leaves.
            self._stream.flush()


@contextlib.contextmanager
def open_journal(directory: str | os.PathLike, settings: dict, versions: dict) -> Iterator[Journal]:
    """Opens the journal of a directory, or begins one. One process at a time may have it open.

    Args:
        directory: the directory of a report or of predictions; created if needed.
        settings: what the results depend on, a dict as JSON has it.
        versions: what they should not depend on, of which a change is only worth a warning.

    Raises:
        ValueError: if the directory has records of an evaluation with other settings. A setting that
            only one of both has is no difference, and is kept.
        OSError: if another process has it open, or it cannot be written.

    Warns:
        UserWarning: if a version has changed.
    """
    folder = pathlib.Path(directory) / FOLDER
    with locked(folder, "evaluation"):
        records, before = _read_records(folder / "records.jsonl"), {}
        if records:
            before = json.loads((folder / "settings.json").read_text("utf-8"))
            _compare(before, settings, versions, directory)
        with replacing(folder / "settings.json") as unfinished:
            unfinished.write_text(json.dumps({**before, **settings, **versions}, indent=1), "utf-8")
        # Written anew, without the end of a line that a kill has cut, or what others have left.
        with replacing(folder / "records.jsonl") as unfinished:
            lines = [json.dumps(record.to_json()) + "\n" for record in records.values()]
            unfinished.write_text("".join(lines), "utf-8")
        with open(folder / "records.jsonl", "a", encoding="utf-8") as stream:
            yield Journal(records, stream)


def _read_records(file):
    """The complete records of a journal; the last one of each image counts."""
    records = {}
    if file.exists():
        for line in file.read_text("utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                record = ImageRecord.from_json(json.loads(line))
                records[record.index] = record
    return records


def _compare(before, settings, versions, directory):
    changed = {
        name: f"{name}: {before[name]!r} then, {now!r} now"
        for name, now in {**settings, **versions}.items()
        if before.get(name, now) != now
    }
    refused = [listed for name, listed in changed.items() if name in settings]
    if refused:
        raise ValueError(
            f"{directory} holds an evaluation with other settings ({'; '.join(refused)}). Give the "
            f"same settings to resume it, or another directory, or delete {FOLDER} in it to begin anew."
        )
    if changed:
        warnings.warn(
            f"The evaluation in {directory} resumes with another backend or other versions "
            f"({'; '.join(changed.values())}). Its results may differ slightly from those of an "
            "uninterrupted one.",
            stacklevel=5,
        )


# === What an evaluation depends on ===


def settings_of(model: keras.Model, pairs: Pairs, how: dict) -> dict:
    """What the results of `segment(model, image, **how)` depend on, as JSON has it.

    The pairs are represented by their names alone, because each record has the stamp of its pair.
    """
    options = inspect.signature(segment).parameters.values()
    defaults = {each.name: each.default for each in options if each.kind is each.KEYWORD_ONLY}
    settings = {
        "dtype policy": model.dtype_policy.name,
        "checksum of the weights": checksum(map(keras.ops.convert_to_numpy, model.weights)),
        "checksum of the network": zlib.crc32(
            json.dumps(_nameless(model.get_config()), default=str).encode()
        ),
        "align_corners": model.align_corners,
        "ignore_index": model.ignore_index,
        "evaluation": model.evaluation,
        **{f"option {name}": value for name, value in {**defaults, **how}.items()},
        "number of pairs": len(pairs),
        "checksum of names": zlib.crc32(
            "\n".join(pairs.name(i) for i in range(len(pairs))).encode("utf-8", "surrogatepass")
        ),
    }
    return json.loads(json.dumps(settings, default=lambda array: array.tolist()))


def _nameless(config):
    if isinstance(config, dict):
        return {key: _nameless(value) for key, value in config.items() if key not in NAMES}
    return [_nameless(one) for one in config] if isinstance(config, (list, tuple)) else config


def checksum(arrays: Iterable[np.ndarray]) -> int:
    """A number that differs if shapes or values do.

    >>> checksum([np.zeros((2, 3))]) == checksum([np.zeros((3, 2))])
    False
    """
    found = 0
    for array in arrays:
        found = zlib.crc32(str(array.shape).encode() + array.tobytes(), found)
    return found
