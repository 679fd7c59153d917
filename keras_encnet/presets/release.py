"""What the originals released, as presets in the cache."""

import contextlib

from keras_encnet.models.encnet import default_policy
from keras_encnet.presets.cache import cache_directory, cached
from keras_encnet.presets.directory import write_preset
from keras_encnet.presets.download import download_release, release_path


def converted(kind, name, release, convert):
    """The directory of a released checkpoint's preset; downloaded and converted the first time.

    Args:
        kind: `"models"` or `"backbones"`, the part of the cache.
        name: the preset's name.
        release: the `release` of a `Preset` or a `Backbone`.
        convert: a function of the checkpoint's path that returns the model.
    """

    def make(directory):
        # Whatever the policy of who asks first: the cache is everyone's.
        with default_policy("float32"):
            write_preset(convert(download_release(release)), directory)

    directory = cached(_place(kind, name, release), make)
    # Only now, so that a kill before costs no second download. A cache may be for reading alone.
    with contextlib.suppress(OSError):
        release_path(release).unlink(missing_ok=True)
    return directory


def is_converted(kind, name, release):
    """Whether that directory is there already."""
    return (cache_directory() / _place(kind, name, release)).is_dir()


def _place(kind, name, release):
    # With a part of its checksum: another release must not meet an old conversion.
    checksum = release.get("sha256") or release["sha1"]
    return f"{kind}/{name}-{checksum[:8]}"
