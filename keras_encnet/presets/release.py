"""The original releases, as presets in the cache."""

import contextlib
import hashlib
import pathlib
from collections.abc import Callable

import keras

from keras_encnet.convert.reading.checkpoint import Checkpoint, read_checkpoint
from keras_encnet.files import replacing
from keras_encnet.layers.policies import default_policy
from keras_encnet.presets.cache import cache_directory, cached
from keras_encnet.presets.directory import write_preset
from keras_encnet.presets.download import download_release, largest_size, release_path
from keras_encnet.presets.hub import HUB, check_sha256, download_file, remove_from_cache
from keras_encnet.zoo.table import Backbone, Preset


def converted(
    kind: str, record: Preset | Backbone, convert: Callable[[Checkpoint], keras.Model]
) -> pathlib.Path:
    """The directory of a released checkpoint's preset; downloaded and converted the first time.

    Of most releases only the first digits of the SHA-256 are published. The first conversion writes all
    of it into a file next to the preset, and a later download must be the same file.

    Args:
        kind: `"models"` or `"backbones"`, the part of the cache.
        record: the record of the release.
        convert: function that turns its `Checkpoint` into the model.

    Raises:
        ValueError: if the file is not the published one, or not that of the first conversion.
        OSError: if it cannot be downloaded, or the cache cannot be written.
    """
    place = _place(kind, record)
    pin = (cache_directory() / place).with_name(f".{place.rpartition('/')[2]}.sha256")

    def make(directory):
        checkpoint = download_release(record.release, size_mb=record.size_mb)
        found = _sha256(checkpoint)
        _check_pin(pin, found, record.release["url"], checkpoint.unlink)
        # The cache is shared, so its content must not depend on the first caller's policy.
        with default_policy("float32"):
            write_preset(convert(read_checkpoint(checkpoint)), directory)
        with replacing(pin) as unfinished:
            unfinished.write_text(found, "utf-8")

    directory = cached(place, make)
    # Only after the conversion: a kill during it must not cost a second download. The cache may be
    # read-only.
    with contextlib.suppress(OSError):
        release_path(record.release).unlink(missing_ok=True)
    return directory


def backbone_file(record: Backbone) -> pathlib.Path:
    """The checkpoint of a backbone that is on the Hugging Face Hub, in the Hub's cache.

    Where its SHA-256 is not known, the first download writes it into the cache of this package, and a
    later one must be the same file.

    Raises:
        ValueError: if the file is not the published one, not that of the first download, or too large.
        OSError: if it cannot be downloaded.
    """
    place = record.hub
    largest = largest_size(record.size_mb)
    path = download_file(place["repo"], place["file"], place.get("revision"), largest=largest)
    handle = HUB + place["repo"]
    if "sha256" in place:
        check_sha256(path, place["sha256"], handle)
        return path
    pin, found = cache_directory() / "backbones" / f".{record.name}.sha256", _sha256(path)
    _check_pin(pin, found, handle, lambda: remove_from_cache(path))
    # The cache may be read-only.
    with contextlib.suppress(OSError), replacing(pin) as unfinished:
        unfinished.write_text(found, "utf-8")
    return path


def is_converted(kind: str, record: Preset | Backbone) -> bool:
    """Whether the directory of `converted` exists already."""
    return (cache_directory() / _place(kind, record)).is_dir()


def _place(kind, record):
    # The checksum keeps a changed release from meeting an old conversion.
    checksum = record.release.get("sha256") or record.release["sha1"]
    return f"{kind}/{record.name}-{checksum[:8]}"


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_pin(pin, found, url, remove):
    expected = pin.read_text("utf-8").strip() if pin.is_file() else found
    if found != expected:
        remove()
        raise ValueError(
            f"{url} must have the SHA-256 {expected}, as when it was first used. Received: "
            f"{found}. It is another file now, and was deleted. If you trust it, delete {pin} and try "
            "again."
        )
