"""What a survey keeps of each pair: every file is read once, and its pixels are forgotten."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from keras_encnet.data.checks import (
    are_turned_differently,
    check_mask,
    check_sizes,
    is_jpeg_mask,
    value_counts,
)
from keras_encnet.data.image_files import file_format, orientation
from keras_encnet.data.images import read_image
from keras_encnet.data.pairs import Pairs

MOST_THREADS = 8  # each holds an image and a mask


class Fault(NamedTuple):
    """Why a pair cannot be used.

    - `kind`: "unreadable", "turned", "sizes" or "small".
    - `source`: the file, or the pair. Of two files that do not match it is the image.
    - `reason`: a message for people.
    """

    kind: str
    source: str
    reason: str


class Record(NamedTuple):
    """What is known of one pair.

    - `image`, `mask`: their paths, or the pair's description where there is none.
    - `size`: `(height, width)` of the image; `digest`: a hash of its pixels. `None` if unreadable.
    - `values`, `pixels`: the mask values that occur, ascending, and how many pixels have each. Empty if
      there is no mask or it is unreadable.
    - `is_jpeg`: whether the mask is a JPEG file.
    - `may_be_turned`: whether EXIF turns the image and not the mask, and the sizes fit either way.
    """

    image: str
    mask: str
    size: tuple[int, int] | None
    digest: bytes | None
    values: np.ndarray
    pixels: np.ndarray
    is_jpeg: bool
    may_be_turned: bool
    faults: tuple[Fault, ...]


class Split:
    """The pairs of one split, and what is known of them.

    Attributes:
        name: its name, "" if there is only one.
        pairs: the pairs.
        records: one `Record` for each pair.
        sizes: {(height, width): images}.
        pixels: {mask value: pixels} of all masks.
        images: {mask value: masks that have it}.
    """

    def __init__(self, name: str, pairs: Pairs, records: list[Record]):
        self.name, self.pairs, self.records = name, pairs, records
        self.sizes = Counter(record.size for record in records if record.size)
        self.pixels, self.images = Counter(), Counter()
        for record in records:
            self.pixels.update(counts(record))
            self.images.update(record.values.tolist())


def counts(record: Record) -> dict[int, int]:
    """{mask value: pixels} of one mask."""
    return dict(zip(record.values.tolist(), record.pixels.tolist(), strict=True))


def percent(part: int, all_pixels: int) -> str:
    """A share of the pixels for people.

    >>> percent(0, 9000000), percent(1, 9000000), percent(1, 3)
    ('none', '<0.01%', '33.33%')
    """
    share = part / all_pixels
    return f"{share:.2%}" if share >= 0.0001 else "<0.01%" if part else "none"


def read_records(pairs: Pairs, progress: Callable[[], None] | None = None) -> list[Record]:
    """Reads all pairs, in threads. What cannot be read is noted as a fault.

    Args:
        pairs: the pairs.
        progress: called after each pair.
    """
    records = []
    with ThreadPoolExecutor(min(MOST_THREADS, (os.cpu_count() or 1) + 1)) as pool:
        for record in pool.map(lambda i: _record(pairs, i), range(len(pairs))):
            records.append(record)
            if progress:
                progress()
    return records


def _record(pairs, i):
    source, files = pairs.where(i), pairs.files(i)
    image, mask, faults = _read(pairs, i)
    size = digest = None
    none = np.zeros(0, "int64")
    values, pixels = none, none
    if image is not None:
        size, digest = image.shape[:2], _digest(image)
    if mask is not None:
        values, pixels = value_counts(mask)
    image_file, mask_file = files or (None, None)
    return Record(
        image_file or source,
        mask_file or source,
        size,
        digest,
        values.astype("int64"),
        pixels,
        mask is not None and is_jpeg_mask(files),
        not faults and mask is not None and _may_be_turned(size, files),
        faults,
    )


def _read(pairs, i):
    """The image and mask of a pair, `None` for what cannot be used, and the faults."""
    source, files = pairs.where(i), pairs.files(i)
    faults = []

    def attempt(read, argument, file):
        try:
            return read(argument)
        except Exception as error:  # a survey continues whatever is wrong with one file
            reason = str(error) or type(error).__name__
            faults.append(Fault("unreadable", file or source, reason))

    image_file, mask_file = files or (None, None)
    unread = None
    try:
        image, mask = pairs[i]
    except Exception as error:
        unread = error
        image = attempt(pairs.image, i, image_file)
        mask = attempt(pairs.mask, i, mask_file) if pairs.has_masks else None
    if image is not None:
        image = attempt(read_image, image, image_file)
    if mask is not None or (pairs.has_masks and not faults):
        mask = attempt(lambda mask: check_mask(mask, source), mask, mask_file)
    if image is not None and mask is not None:
        faults += _fault_of_size(image.shape[:2], mask.shape, source, files)
    if unread and not faults:
        faults.append(Fault("unreadable", source, str(unread) or type(unread).__name__))
    # A source that reads both at once gives the same reason twice.
    return image, mask, tuple(dict.fromkeys(faults))


def _fault_of_size(size, mask_size, source, files):
    try:
        check_sizes(size, mask_size, source, files)
    except ValueError as error:
        kind = "small" if size == mask_size else "sizes"
        if are_turned_differently(size, mask_size, files):
            kind = "turned"
        return [Fault(kind, files[0] if files else source, str(error))]
    return []


def _digest(image):
    """A hash of the pixels: files that differ in other things, such as a date, have the same one."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image))
    return digest.digest()


def _may_be_turned(size, files):
    # The orientation of a PNG file may come last, so that it would have to be decoded again.
    if not files or not files[1] or file_format(files[0]) == "PNG":
        return False
    turned = orientation(files[0])
    keeps_size = turned in (2, 3, 4) or (turned >= 5 and size[0] == size[1])
    return keeps_size and orientation(files[1]) != turned
