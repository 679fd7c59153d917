"""The original releases, as presets in the cache."""

import contextlib
import pathlib
from collections.abc import Callable

import keras

from keras_encnet.convert.reading.checkpoint import Checkpoint, read_checkpoint
from keras_encnet.layers.policies import default_policy
from keras_encnet.presets.cache import cache_directory, cached
from keras_encnet.presets.directory import write_preset
from keras_encnet.presets.download import download_release, release_path
from keras_encnet.presets.table import Backbone, Preset


def converted(
    kind: str, record: Preset | Backbone, convert: Callable[[Checkpoint], keras.Model]
) -> pathlib.Path:
    """The directory of a released checkpoint's preset; downloaded and converted the first time.

    Args:
        kind: `"models"` or `"backbones"`, the part of the cache.
        record: the record of the release.
        convert: function that turns its `Checkpoint` into the model.
    """

    def make(directory):
        # The cache is shared, so its content must not depend on the first caller's policy.
        with default_policy("float32"):
            write_preset(convert(read_checkpoint(download_release(record.release))), directory)

    directory = cached(_place(kind, record), make)
    # Only after the conversion: a kill during it must not cost a second download. The cache may be
    # read-only.
    with contextlib.suppress(OSError):
        release_path(record.release).unlink(missing_ok=True)
    return directory


def is_converted(kind: str, record: Preset | Backbone) -> bool:
    """Whether the directory of `converted` exists already."""
    return (cache_directory() / _place(kind, record)).is_dir()


def _place(kind, record):
    # The checksum keeps a changed release from meeting an old conversion.
    checksum = record.release.get("sha256") or record.release["sha1"]
    return f"{kind}/{record.name}-{checksum[:8]}"
