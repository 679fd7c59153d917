"""A sequence of images and their masks, read one pair at a time."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike

from keras_encnet.data.conventions import check_palette


class Pairs(Sequence):
    """A sequence of (image, mask), with the names and colours of the classes.

    `pairs[i]` is an image `uint8` `(height, width, 3)`, RGB, and its mask `(height, width)` of
    integer labels. A slice is a `Pairs` too. A source that reads or draws its pairs on demand is a
    subclass with `__len__` and `read`, and also with `mask` and `image_size` if these can avoid
    reading the image.

    Args:
        items: any sequence of (image, mask).
        labels: class names in label order, or `None`.
        palette: RGB colours of the classes, `(num_classes, 3)`, or `None`.

    >>> image, mask = np.zeros((32, 48, 3), "uint8"), np.ones((32, 48), "uint8")
    >>> pairs = Pairs([(image, mask)] * 10, labels=["sky", "road"])
    >>> len(pairs), len(pairs[:8]), pairs[8:].where(0), pairs.labels
    (10, 8, 'pair 8', ('sky', 'road'))
    """

    labels = None
    palette = None

    def __init__(
        self,
        items: Sequence,
        *,
        labels: Sequence[str] | None = None,
        palette: ArrayLike | None = None,
    ):
        self._items = items
        self.labels = None if labels is None else tuple(labels)
        self.palette = None if palette is None else check_palette(palette)

    def __len__(self):
        return len(self._items)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return _Part(self, range(len(self))[i])
        return self.read(range(len(self))[i])

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Pair `i`, from 0 to `len(pairs) - 1`."""
        image, mask = self._items[i]
        return image, mask

    def mask(self, i: int) -> np.ndarray:
        """The mask of pair `i`, integers `(height, width)`."""
        return self[i][1]

    def image_size(self, i: int) -> tuple[int, int]:
        """The `(height, width)` of image `i`. For files, only the header is read."""
        return np.shape(self[i][0])[:2]

    def where(self, i: int) -> str:
        """The source of pair `i`, for messages."""
        return f"pair {i}"

    def files(self, i: int) -> tuple[str, str] | None:
        """The paths of image `i` and its mask, or `None` if they are not from files."""
        return None

    def load(self) -> "Pairs":
        """The same pairs, read once and kept in memory."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return _Loaded(self, list(pool.map(self.__getitem__, range(len(self)))))

    def __repr__(self):
        classes = "" if self.labels is None else f", {len(self.labels)} classes"
        return f"<{len(self)} images with masks{classes}>"


class _Part(Pairs):
    def __init__(self, pairs, indices):
        self._pairs, self._indices = pairs, indices
        self.labels, self.palette = pairs.labels, pairs.palette

    def __len__(self):
        return len(self._indices)

    def read(self, i):
        return self._pairs[self._indices[i]]

    def mask(self, i):
        return self._pairs.mask(self._indices[i])

    def image_size(self, i):
        return self._pairs.image_size(self._indices[i])

    def where(self, i):
        return self._pairs.where(self._indices[i])

    def files(self, i):
        return self._pairs.files(self._indices[i])


class _Loaded(Pairs):
    def __init__(self, pairs, items):
        super().__init__(items, labels=pairs.labels, palette=pairs.palette)
        self._source = pairs

    def where(self, i):
        return self._source.where(i)

    def files(self, i):
        return self._source.files(i)
