"""Pairs of image and mask files that are read on demand, and the renaming of mask values."""

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from keras_encnet.data.checks import check_sizes
from keras_encnet.data.conventions import check_palette, is_integer
from keras_encnet.data.image_files import image_size
from keras_encnet.data.images import read_image, read_mask
from keras_encnet.data.pairs import Pairs

MAX_VALUE = np.iinfo("int32").max  # of a mask
FEW_COLOURS, MANY_COLOURS = 64, 1000  # at most of a mask, at least of a photograph


class FilePairs(Pairs):
    """Pairs of image and mask files, read on demand.

    Args:
        images: paths of the images.
        masks: paths of their masks, or `None` for images whose masks are not published.
        names: their names, as `name` returns them.
        labels, palette: names and colours of the classes.
        label_map: dict that maps mask values to labels, as in `folder`.
        colours: RGB colours by which masks are read. `None` reads label values, which palette files
            contain too.

    Raises:
        ValueError: if `label_map` is not one.

    >>> pairs = FilePairs(["test/1.jpg"], None, ["1"], labels=["sky", "road"])
    >>> pairs.has_masks, pairs.name(0), pairs.where(0)
    (False, '1', 'test/1.jpg')
    """

    def __init__(
        self,
        images: Sequence[str],
        masks: Sequence[str] | None,
        names: Sequence[str],
        *,
        labels: Sequence[str] | None = None,
        label_map: Mapping[int | tuple[int, int, int], int] | None = None,
        palette: ArrayLike | None = None,
        colours: ArrayLike | None = None,
    ):
        super().__init__(images, labels=labels, palette=palette)
        self.has_masks = masks is not None
        self._images, self._masks, self._names = images, masks, names
        self._colours, label_map = _with_mapped_colours(colours, label_map)
        self._map_labels = LabelMapping(label_map)

    def read(self, i):
        image, mask = self.image(i), self.mask(i)
        if self.has_masks:
            check_sizes(image.shape[:2], mask.shape, self.where(i), self.files(i))
        return image, mask

    def image(self, i):
        return read_image(self._images[i])

    def mask(self, i):
        if not self.has_masks:
            return None
        try:
            mask = read_mask(self._masks[i], palette=self._colours)
        except ValueError as error:
            if _are_swapped(self._images[i], self._masks[i]):
                raise ValueError(
                    "Masks must have a value or a colour for each class. Received: the mask "
                    f"{self._masks[i]!r}, with as many colours as a photograph, and the image "
                    f"{self._images[i]!r}, with as few as a mask. Swap `images` and `masks`."
                ) from error
            raise
        return self._map_labels(mask)

    def image_size(self, i):
        return image_size(self._images[i])

    def name(self, i):
        return self._names[i]

    def where(self, i):
        image = self._images[i]
        return f"{self._masks[i]} (mask of {image})" if self.has_masks else image

    def files(self, i):
        return self._images[i], self._masks[i] if self.has_masks else None


class LabelMapping:
    """Renames the values of masks, all at once.

    Args:
        label_map: dict that maps mask values to labels, or `None`. Other values stay as they are.

    Calling it with a mask of integers returns `uint8` if the mask is `uint8` and all labels are at most
    255, otherwise `int32`; without a `label_map`, the mask itself.

    Raises:
        ValueError: if `label_map` does not map integers to integers from 0 up.

    >>> LabelMapping({0: 255, 1: 0})(np.array([[0, 1, 2]], "uint8")).tolist()
    [[255, 0, 2]]
    """

    def __init__(self, label_map: Mapping[int, int] | None = None):
        self._olds = None
        if not label_map:
            return
        olds, news = zip(*label_map.items(), strict=True)
        integers = all(map(is_integer, olds + news))
        if not integers or min(news) < 0 or max(map(abs, olds + news)) > MAX_VALUE:
            raise ValueError(
                "`label_map` must map integers to integers from 0 up, {255: 1} for instance. "
                f"Received: {label_map!r}"
            )
        order = np.argsort(olds)
        self._olds, self._news = np.array(olds)[order], np.array(news)[order]
        table = self._search(np.arange(256))
        self._table = table.astype("uint8" if table.max() <= 255 else "int32")

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        if self._olds is None:
            return mask
        # A table is many times faster, and nearly all masks are uint8.
        return self._table.take(mask) if mask.dtype == "uint8" else self._search(mask).astype("int32")

    def _search(self, mask):
        at = np.searchsorted(self._olds, mask).clip(max=len(self._olds) - 1)
        return np.where(self._olds[at] == mask, self._news[at], mask)


def _are_swapped(image, mask):
    """Whether an image looks like a mask, and its mask like a photograph."""
    with contextlib.suppress(ValueError, OSError):
        return _num_colours(image) <= FEW_COLOURS and _num_colours(mask) >= MANY_COLOURS
    return False


def _num_colours(path):
    colours = read_image(path).astype("int32")
    return len(np.unique(colours @ [1 << 16, 1 << 8, 1]))


def _with_mapped_colours(colours, label_map):
    """The colours to read masks by, and a `label_map` of integers.

    Colours among the keys of `label_map` are read as labels after the last class, which it then maps.
    """
    label_map = dict(label_map or {})
    mapped = [key for key in label_map if isinstance(key, tuple)]
    if colours is not None:
        colours = check_palette(colours)
    elif mapped:
        raise ValueError(
            "`label_map` must map integers if there is no `palette`. Received: the colours "
            f"{mapped}. Give `palette`, the (num_classes, 3) RGB colours in label order."
        )
    if mapped:
        first = len(colours)
        for i, colour in enumerate(mapped):
            label_map[first + i] = label_map.pop(colour)
        colours = np.concatenate([colours, check_palette(mapped)])
    return colours, label_map
