"""What the originals released, as presets in the cache."""

from keras_encnet.presets.cache import cached
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
    # With a part of its checksum: another release must not meet an old conversion.
    checksum = release.get("sha256") or release["sha1"]

    def make(directory):
        write_preset(convert(download_release(release)), directory)

    directory = cached(f"{kind}/{name}-{checksum[:8]}", make)
    # Only now, so that a kill before costs no second download.
    release_path(release).unlink(missing_ok=True)
    return directory
