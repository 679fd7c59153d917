"""What the originals released, as presets in the cache."""

import contextlib

from keras_encnet.convert.reading.checkpoint import read_checkpoint
from keras_encnet.layers.policies import default_policy
from keras_encnet.presets.cache import cache_directory, cached
from keras_encnet.presets.directory import write_preset
from keras_encnet.presets.download import download_release, release_path


def converted(kind, record, convert):
    """The directory of a released checkpoint's preset; downloaded and converted the first time.

    Args:
        kind: `"models"` or `"backbones"`, the part of the cache.
        record: a `Preset` or a `Backbone`.
        convert: a function of its `Checkpoint` that returns the model.
    """

    def make(directory):
        # The cache is shared, so the policy of the first caller must not matter.
        with default_policy("float32"):
            write_preset(convert(read_checkpoint(download_release(record.release))), directory)

    directory = cached(_place(kind, record), make)
    # Only now, so that a kill before costs no second download. A cache may be for reading alone.
    with contextlib.suppress(OSError):
        release_path(record.release).unlink(missing_ok=True)
    return directory


def is_converted(kind, record):
    """Whether that directory is there already."""
    return (cache_directory() / _place(kind, record)).is_dir()


def _place(kind, record):
    # With a part of its checksum: another release must not meet an old conversion.
    checksum = record.release.get("sha256") or record.release["sha1"]
    return f"{kind}/{record.name}-{checksum[:8]}"
