"""Pairs whose masks are painted when they are read, and the numbers of their classes."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from keras_encnet.data.annotations.rle import from_columns, paint
from keras_encnet.data.conventions import (
    check_image_size,
    class_palette,
    ignore_index_for,
    label_dtype,
)
from keras_encnet.data.folders import result_name
from keras_encnet.data.image_files import image_size
from keras_encnet.data.images import read_image
from keras_encnet.data.pairs import Pairs

MAX_CLASSES = 65535  # of masks of 16 bits, which have one value for ignored pixels
IGNORED = ("__ignore__", "ignored")  # names that LabelMe and Datumaro give to pixels without a class


class Classes(NamedTuple):
    """The classes of annotations, made by `number_classes`.

    - `labels`: class names in label order.
    - `uncovered`: the mask value of pixels that no annotation covers: 0, the background, or `ignored`.
    - `ignored`: the mask value of ignored pixels.
    """

    labels: tuple[str, ...]
    uncovered: int
    ignored: int

    def value(self, name: str) -> int | None:
        """The mask value of a class in the annotations, or `None` if there is no such class."""
        if name in self.labels:
            return self.labels.index(name)
        if name.casefold() in IGNORED:
            return self.ignored
        is_background = self.uncovered == 0 and _plain(name) == _plain(self.labels[0])
        return 0 if is_background else None


def number_classes(names: Sequence[str], background: str | None, where: str) -> Classes:
    """Numbers the classes: the background is 0, and the others follow in their order.

    Args:
        names: class names of the annotations. One that equals `background`, whatever its case and
            underscores around it, is class 0. "__ignore__" and "ignored" are no classes.
        background: the name of class 0, which pixels have that nothing covers. With `None` there is no
            such class: these pixels are ignored.
        where: the source of the names, for messages.

    Raises:
        ValueError: if a name comes twice, or there is no class, or there are more than 65,535.

    >>> classes = number_classes(["cat", "__ignore__", "_background_", "dog"], "background", "a")
    >>> classes.labels, [classes.value(name) for name in ("background", "dog", "__ignore__", "cow")]
    (('_background_', 'cat', 'dog'), [0, 2, 255, None])
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"Class names must be unique in {where}. Received: {twice[0]!r} twice")
    labels = [name for name in names if name.casefold() not in IGNORED]
    if background is not None:
        first = next((name for name in labels if _plain(name) == _plain(background)), background)
        labels = [first, *(name for name in labels if name != first)]
    if not 0 < len(labels) <= MAX_CLASSES:
        raise ValueError(
            f"There must be a class or more in {where}, and at most {MAX_CLASSES}. "
            f"Received: {len(labels)}"
        )
    ignored = ignore_index_for(len(labels))
    return Classes(tuple(labels), ignored if background is None else 0, ignored)


def largest_first(areas: Iterable[tuple[int, np.ndarray]]) -> list[tuple[int, np.ndarray]]:
    """Areas, (mask value, runs), in the order of painting: by their pixels, the largest first.

    Among equal ones the order stays, so that the last one is on top.

    >>> small, large = np.array([[5, 9]]), np.array([[0, 2], [4, 8]])
    >>> [value for value, runs in largest_first([(1, small), (2, large)])]
    [2, 1]
    """
    return sorted(areas, key=lambda area: (area[1][:, 1] - area[1][:, 0]).sum(), reverse=True)


class PaintedPairs(Pairs):
    """Images with annotated areas, which become masks when they are read.

    A subclass has `areas`. Memory depends on the image file, not on what annotations claim.

    Args:
        images: paths of the image files.
        root: the directory that names are relative to.
        classes: see `number_classes`.
        palette: RGB colours of `classes.labels`. Default: the default colours.
    """

    def __init__(
        self,
        images: Sequence[str],
        root: str,
        classes: Classes,
        palette: ArrayLike | None = None,
    ):
        self.labels = classes.labels
        self.palette = class_palette(len(classes.labels), palette)
        self._images, self._classes = images, classes
        self._names = _unique_names(images, root)

    def __len__(self):
        return len(self._images)

    def areas(self, i: int, height: int, width: int) -> Iterable[tuple[int, np.ndarray]]:
        """Areas of image `i`, (mask value, runs), in the order of painting: later ones are on top."""
        raise NotImplementedError

    def read(self, i):
        image = self.image(i)
        check_image_size(
            *image.shape[:2], f"The image of {self.where(i)}", "Leave it out or enlarge it."
        )
        return image, self._paint(i, *image.shape[:2])

    def image(self, i):
        return read_image(self._images[i])

    def mask(self, i):
        return self._paint(i, *self.image_size(i))

    def image_size(self, i):
        return image_size(self._images[i])

    def name(self, i):
        return self._names[i]

    def files(self, i):
        return self._images[i], None

    def _paint(self, i, height, width):
        dtype = label_dtype(len(self.labels))
        columns = np.full(height * width, self._classes.uncovered, dtype)
        for value, runs in self.areas(i, height, width):
            paint(columns, runs, value)
        return from_columns(columns, height, width)


def _unique_names(paths, root):
    """Names relative to `root`, which keep their endings if two differ only there."""
    relative = [os.path.relpath(path, root or os.curdir) for path in paths]
    names = [result_name(path) for path in relative]
    if len(set(names)) < len(names):
        names = [result_name(f"{path}.") for path in relative]
    return names


def _plain(name):
    return name.strip("_").casefold()
