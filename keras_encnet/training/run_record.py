"""What a training run depends on: kept with it, and compared when it resumes."""

import json
import os
import pathlib
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from keras_encnet.data.batching import Batches
from keras_encnet.data.pairs import Pairs
from keras_encnet.version import versions

COMPARED = 200  # pairs whose masks and sizes are compared: reading all of a large set takes minutes
LENGTHS = "epochs", "steps"  # a run may become longer or shorter


def make_record(settings: dict, data: Batches, length: dict[str, int], steps_per_epoch: int) -> dict:
    """All that a run depends on, as JSON has it; the settings come first.

    Args:
        settings: what the user says.
        data: the batches.
        length: `{"epochs": number}` or `{"steps": number}`.
        steps_per_epoch: the run's, which may differ from that of the data.
    """
    own = {} if steps_per_epoch == data.steps_per_epoch else {"steps of a run's epoch": steps_per_epoch}
    record = {
        **{name: value for name, value in settings.items() if name not in LENGTHS},
        **length,
        "number of pairs": len(data.pairs),
        "checksum of masks and image sizes": _checksum(data.pairs),
        "steps per epoch": data.steps_per_epoch,
        **own,
        **versions(),
    }
    return json.loads(json.dumps(record))


def read_record(file: pathlib.Path) -> dict:
    """The record of a run, or an empty one."""
    return json.loads(file.read_text("utf-8")) if file.exists() else {}


def total_steps(record: dict) -> int:
    """The number of steps that a run was started for."""
    return record.get("steps") or record.get("epochs", 0) * record.get("steps per epoch", 0)


def length_in_words(record: dict) -> str:
    """The length of a run in its own unit, such as "40 epochs"."""
    name = next(name for name in reversed(LENGTHS) if name in record)
    return f"{record[name]} {name if record[name] != 1 else name[:-1]}"


def compare_records(before: dict, now: dict, directory: pathlib.Path) -> None:
    """Compares a run with the one in `directory`; without one, `before` is empty.

    The length may differ.

    Raises:
        ValueError: if settings or data differ.

    Warns:
        UserWarning: if the backend or a version differs.
    """
    if not before:
        return
    changed = [
        name for name in {**before, **now} if name not in LENGTHS and before.get(name) != now.get(name)
    ]
    listed = {name: f"{name}: {before.get(name)!r} then, {now.get(name)!r} now" for name in changed}
    refused = [listed[name] for name in changed if name not in versions()]
    if refused:
        raise ValueError(
            f"{directory} holds a training run with other settings ({'; '.join(refused)}). Give the "
            "same settings to resume it, or another directory to start anew."
        )
    if changed:
        warnings.warn(
            f"The training run in {directory} resumes with another backend or other versions "
            f"({'; '.join(listed.values())}). Its results may differ slightly from those of an "
            "uninterrupted run.",
            stacklevel=4,
        )


def _checksum(pairs: Pairs):
    """A number that differs if masks, sizes of images or their order do, wherever the files are."""

    def one(i):
        mask = np.ascontiguousarray(pairs.mask(i), "int32")
        sizes = np.array([*pairs.image_size(i), *mask.shape], "int32")
        return zlib.crc32(mask, zlib.crc32(sizes))

    indices = np.linspace(0, len(pairs) - 1, min(len(pairs), COMPARED)).astype(int).tolist()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return zlib.crc32(np.array(list(pool.map(one, indices)), "uint32"))
