"""Pairs whose images and masks are the contents of files, in the records of another library."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from keras_encnet.data.checks import check_sizes
from keras_encnet.data.conventions import IGNORE_INDEX
from keras_encnet.data.file_pairs import LabelMapping
from keras_encnet.data.folders import result_name
from keras_encnet.data.image_files import open_bytes, open_image, upright_size
from keras_encnet.data.images import read_image, read_mask
from keras_encnet.data.pairs import Pairs


class EncodedPairs(Pairs):
    """Pairs of a sequence of records, decoded when they are read.

    Args:
        records: dicts. The values of an image are the bytes of a file, or a dict of `bytes` and `path`,
            one of which may be `None`. A mask may also be an array of mask values `(height, width)`.
        image, mask: keys of the image and the mask.
        what: what a record is called in messages, before its number.
        name: key of the file name, if records have one.
        labels, label_map, palette: as for `folder`, but the palette is not used to read masks.

    Raises:
        ValueError: if `label_map` is not one.

    >>> import io
    >>> from PIL import Image
    >>> file = io.BytesIO()
    >>> Image.new("L", (48, 32), 255).save(file, "PNG")
    >>> record = {"photo": file.getvalue(), "mask": file.getvalue()}
    >>> pairs = EncodedPairs([record], "photo", "mask", "record", label_map={255: 1})
    >>> pairs.image(0).shape, int(pairs.mask(0).max()), pairs.where(0)
    ((32, 48, 3), 1, 'record 0')
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        image: str,
        mask: str,
        what: str,
        *,
        name: str | None = None,
        labels: Sequence[str] | None = None,
        label_map: Mapping[int, int] | None = None,
        palette: ArrayLike | None = None,
    ):
        super().__init__(records, labels=labels, palette=palette)
        self._image, self._mask, self._what, self._name = image, mask, what, name
        self._map_labels = LabelMapping(label_map)
        self._names = {}  # a record is read completely for its name

    def read(self, i):
        record = self._items[i]
        image, mask = self._decoded_image(record, i), self._decoded_mask(record, i)
        check_sizes(image.shape[:2], mask.shape, self.where(i))
        return image, mask

    def image(self, i):
        return self._decoded_image(self._items[i], i)

    def mask(self, i):
        return self._decoded_mask(self._items[i], i)

    def image_size(self, i):
        with self._opened(self._items[i], self._image, i) as image:
            return upright_size(image, self._image)

    def name(self, i):
        if self._name is None:
            return super().name(i)
        if i not in self._names:
            name = self._items[i][self._name]
            self._names[i] = result_name(name.decode() if isinstance(name, bytes) else name)
        return self._names[i]

    def where(self, i):
        return f"{self._what} {i}"

    def _decoded_image(self, record, i):
        with self._opened(record, self._image, i) as image:
            return read_image(image)

    def _decoded_mask(self, record, i):
        value = record[self._mask]
        if isinstance(value, (list, np.ndarray)):
            return self._map_labels(_array(value, self._mask, self.where(i)))
        with self._opened(record, self._mask, i) as mask:
            return self._map_labels(read_mask(mask))

    @contextlib.contextmanager
    def _opened(self, record, key, i):
        """The opened image of a record. Errors name the record."""
        value = record[key]
        file = value if isinstance(value, dict) else {"bytes": value, "path": None}
        if file["bytes"] is None and file["path"] is None:
            raise ValueError(f"{self.where(i)} must have an image as {key!r}. Received: None.")
        try:
            has_bytes = file["bytes"] is not None
            with open_bytes(file["bytes"], key) if has_bytes else open_image(file["path"]) as image:
                yield image
        except ValueError as error:
            raise ValueError(f"{self.where(i)}: {error}") from error


class PanopticPairs(EncodedPairs):
    """Pairs whose masks have a colour for each segment, as COCO's: its id is red + 256 · green +
    65536 · blue.

    Args:
        segments: key of the segments of a record, `{"id": integers, "label": integers}`. Pixels outside
            of them get 255.
        arguments: those of `EncodedPairs`.
    """

    def __init__(self, *arguments, segments: str, **options):
        super().__init__(*arguments, **options)
        self._segments = segments

    def _decoded_mask(self, record, i):
        with self._opened(record, self._mask, i) as mask:
            colours = read_image(mask).astype("int32")
        ids = colours[:, :, 0] | colours[:, :, 1] << 8 | colours[:, :, 2] << 16
        segments = record[self._segments]
        labels = np.full(ids.shape, IGNORE_INDEX, "uint8")
        for segment, label in zip(segments["id"], segments["label"], strict=True):
            labels[ids == segment] = label
        return self._map_labels(labels)


def _array(value, key, where):
    mask = np.asarray(value)
    if mask.ndim != 2 or mask.dtype.kind not in "iu":
        raise ValueError(
            f"{where} must have a mask of integers (height, width) as {key!r}. Received: shape "
            f"{mask.shape} and dtype {mask.dtype}"
        )
    return mask if mask.dtype == "uint8" else mask.astype("int32")
