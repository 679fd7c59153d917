"""A sequence of images and their masks, read one pair at a time."""

import bisect
import functools
import itertools
import math
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike

from keras_encnet.data.conventions import (
    check_integer,
    check_palette,
    is_integer,
    labels_difference,
)


class Pairs(Sequence):
    """A sequence of (image, mask), with the names and colours of the classes.

    `pairs[i]` is an image `uint8` `(height, width, 3)`, RGB, and its mask `(height, width)` of
    integer labels. A slice is a `Pairs` too, and `a + b` joins two. A source that reads or draws its
    pairs on demand is a subclass with `__len__` and `read`, and also with `image`, `mask` and
    `image_size` if these can avoid reading the rest. Where masks are not published, `has_masks` is
    `False` and the masks are `None`.

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
    has_masks = True

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

    def read(self, i: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Pair `i`, from 0 to `len(pairs) - 1`."""
        image, mask = self._items[i]
        return image, mask

    def image(self, i: int) -> np.ndarray:
        """The image of pair `i`, `uint8` `(height, width, 3)`. For files, the mask is not read."""
        return self[i][0]

    def mask(self, i: int) -> np.ndarray | None:
        """The mask of pair `i`, integers `(height, width)`, or `None` if there are no masks."""
        return self[i][1]

    def image_size(self, i: int) -> tuple[int, int]:
        """The `(height, width)` of image `i`. For files, only the header is read."""
        return np.shape(self[i][0])[:2]

    def where(self, i: int) -> str:
        """The source of pair `i`, for messages."""
        return f"pair {i}"

    def files(self, i: int) -> tuple[str, str | None] | None:
        """The paths of image `i` and its mask, or `None` if they are not from files.

        The second is `None` if the mask has no file of its own.
        """
        return None

    def name(self, i: int) -> str:
        """The name of pair `i` for results: a relative path without ending, unique within the pairs.

        Directories end in "/" on every system.
        """
        return f"{range(len(self))[i]:06d}"

    def load(self) -> "Pairs":
        """The same pairs, read once and kept in memory."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return _Loaded(self, list(pool.map(self.__getitem__, range(len(self)))))

    def subset(self, indices: Iterable[int]) -> "Pairs":
        """The pairs with these indices, in this order.

        Args:
            indices: different integers. Negative ones count from the end.

        Raises:
            IndexError: if there is no such pair.
            ValueError: if an index is no integer, or occurs twice.

        >>> pairs = Pairs([(np.zeros((32, 48, 3), "uint8"), np.ones((32, 48), "uint8"))] * 10)
        >>> few = pairs.subset([7, 0, -1])
        >>> [few.name(i) for i in range(len(few))]
        ['000007', '000000', '000009']
        """
        chosen = []
        for i in indices:
            if not is_integer(i):
                flags = " For a mask of booleans pass np.flatnonzero(mask)."
                remedy = flags if isinstance(i, (bool, np.bool_)) else ""
                raise ValueError(f"`indices` must be integers. Received: {i!r}.{remedy}")
            if not -len(self) <= i < len(self):
                raise IndexError(
                    f"`indices` must be from 0 to {len(self) - 1}, or negative to count from the end. "
                    f"Received: {i}"
                )
            chosen.append(int(i) % len(self))
        if len(set(chosen)) < len(chosen):
            twice = next(i for i in chosen if chosen.count(i) > 1)
            raise ValueError(
                f"`indices` must be different. Received: {twice} twice. To repeat pairs join them: "
                "pairs + pairs."
            )
        return _Part(self, chosen)

    def __add__(self, other: "Pairs") -> "Pairs":
        """These pairs, then those of `other`.

        Names that both have are made unique: "1/…" for those from here, "2/…" for the others.

        Raises:
            ValueError: if both have labels, or a palette, and these differ; or one has no masks.

        >>> image, mask = np.zeros((32, 48, 3), "uint8"), np.ones((32, 48), "uint8")
        >>> joined = Pairs([(image, mask)] * 2) + Pairs([(image, mask)], labels=["sky", "road"])
        >>> len(joined), joined.labels, joined.name(2)
        (3, ('sky', 'road'), '2/000000')
        """
        return _Joined(self, other) if isinstance(other, Pairs) else NotImplemented

    def __repr__(self):
        classes = "" if self.labels is None else f", {len(self.labels)} classes"
        return f"<{len(self)} images {'with' if self.has_masks else 'without'} masks{classes}>"


def random_split(
    pairs: Pairs | Sequence,
    shares: float | int | Sequence[float] | Sequence[int],
    *,
    seed: int = 0,
) -> list[Pairs]:
    """Divides pairs at random. The same seed gives the same parts.

    Each part keeps the order of `pairs`. Images that resemble each other, such as the frames of one
    film, can end up in different parts: divide such data by `Pairs.subset`.

    Args:
        pairs: `Pairs`, or any sequence of (image, mask).
        shares: for each part its share, and together 1; or its number of pairs, and together all. One
            number is that of a second part, as scikit-learn's `test_size`: 0.2 is `(0.8, 0.2)`.
        seed: integer from 0 up.

    Returns:
        As many `Pairs` as there are shares, none of them empty.

    Raises:
        ValueError: if `shares` or `seed` is something else, or a part would be empty.

    >>> pairs = Pairs([(np.zeros((32, 48, 3), "uint8"), np.ones((32, 48), "uint8"))] * 10)
    >>> [len(part) for part in random_split(pairs, (0.8, 0.2))]
    [8, 2]
    >>> [len(part) for part in random_split(pairs, (5, 3, 2), seed=1)]
    [5, 3, 2]
    """
    pairs = pairs if isinstance(pairs, Pairs) else Pairs(pairs)
    check_integer("seed", seed, 0)
    ends = [0, *_ends(shares, len(pairs))]
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [pairs.subset(sorted(order[start:end])) for start, end in itertools.pairwise(ends)]


def _ends(shares, count):
    """Where each part ends among `count` pairs."""
    if isinstance(shares, (int, float, np.number)):
        shares = (count - shares if is_integer(shares) else 1 - shares, shares)
    shares = list(shares)
    counts = bool(shares) and all(map(is_integer, shares))
    numbers = counts or all(isinstance(share, (float, np.floating)) for share in shares)
    if not shares or not numbers or not all(share > 0 for share in shares):
        raise ValueError(
            "`shares` must be positive: fractions such as (0.8, 0.2), or numbers of pairs such as "
            f"(160, 40). Received: {tuple(shares)}"
        )
    total = sum(shares)
    if counts and total != count:
        raise ValueError(
            f"`shares` must be {count} pairs together. Received: {tuple(shares)}, together {total}. "
            "Add a part for the rest, or pass pairs[:n]."
        )
    if not counts and abs(total - 1) > 1e-6:
        raise ValueError(
            f"`shares` must be 1 together. Received: {tuple(shares)}, together {total:g}. Add a part "
            "for the rest, or pass integers for numbers of pairs."
        )
    ends = np.rint(np.cumsum(shares) / total * count).astype(int).tolist()
    if 0 in np.diff([0, *ends]):
        enough = math.ceil(1000 / count) / 1000
        fewer = len(shares) > count
        raise ValueError(
            f"Every part must have one pair or more. Received: shares {tuple(shares)} of {count} "
            f"pairs. {'Make fewer parts' if fewer else f'Give each part {enough:g} or more'}."
        )
    return ends


class _View(Pairs):
    """Pairs that are those of others; `_at(i)` returns these others and the index there."""

    def read(self, i):
        pairs, at = self._at(i)
        return pairs[at]

    def image(self, i):
        pairs, at = self._at(i)
        return pairs.image(at)

    def mask(self, i):
        pairs, at = self._at(i)
        return pairs.mask(at)

    def image_size(self, i):
        pairs, at = self._at(i)
        return pairs.image_size(at)

    def where(self, i):
        pairs, at = self._at(i)
        return pairs.where(at)

    def files(self, i):
        pairs, at = self._at(i)
        return pairs.files(at)

    def name(self, i):
        pairs, at = self._at(i)
        return pairs.name(at)


class _Part(_View):
    def __init__(self, pairs, indices):
        self._pairs, self._indices = pairs, indices
        self.labels, self.palette, self.has_masks = pairs.labels, pairs.palette, pairs.has_masks

    def __len__(self):
        return len(self._indices)

    def _at(self, i):
        return self._pairs, self._indices[i]


class _Joined(_View):
    def __init__(self, first, second):
        # Flat, so that the parts of a + b + c are 1, 2 and 3.
        self._parts = [
            part
            for pairs in (first, second)
            for part in (pairs._parts if isinstance(pairs, _Joined) else [pairs])
        ]
        self._ends = list(itertools.accumulate(map(len, self._parts)))
        _check_alike(first, second)
        self.labels = second.labels if first.labels is None else first.labels
        self.palette = second.palette if first.palette is None else first.palette
        self.has_masks = first.has_masks

    def __len__(self):
        return self._ends[-1]

    def _place(self, i):
        """The number of a part, and the index in it."""
        i = range(len(self))[i]
        part = bisect.bisect_right(self._ends, i)
        return part, i - (self._ends[part] - len(self._parts[part]))

    def _at(self, i):
        part, at = self._place(i)
        return self._parts[part], at

    def where(self, i):
        part, at = self._place(i)
        where = self._parts[part].where(at)
        return where if self._parts[part].files(at) else f"{where} of part {part + 1}"

    def name(self, i):
        part, at = self._place(i)
        name = self._parts[part].name(at)
        return f"{part + 1}/{name}" if self._names_occur_twice else name

    @functools.cached_property
    def _names_occur_twice(self):
        names = {part.name(i) for part in self._parts for i in range(len(part))}
        return len(names) < len(self)


def _check_alike(first, second):
    """Checks that pairs can be joined."""
    if None not in (first.labels, second.labels) and first.labels != second.labels:
        raise ValueError(
            "Pairs that are joined must have the same labels. Received: "
            f"{labels_difference(first.labels, second.labels)}. "
            "Read both with the same `labels`, and rename mask values by `label_map`."
        )
    palettes = first.palette is not None and second.palette is not None
    if palettes and not np.array_equal(first.palette, second.palette):
        raise ValueError(
            "Pairs that are joined must have the same palette. Received: different colours. Set the "
            "`palette` of one of them to None: masks that are read by colour are still read by theirs."
        )
    if first.has_masks != second.has_masks:
        raise ValueError(
            f"Pairs that are joined must all have masks, or none. Received: {first!r} and {second!r}"
        )


class _Loaded(Pairs):
    def __init__(self, pairs, items):
        super().__init__(items, labels=pairs.labels, palette=pairs.palette)
        self._source, self.has_masks = pairs, pairs.has_masks

    def where(self, i):
        return self._source.where(i)

    def files(self, i):
        return self._source.files(i)

    def name(self, i):
        return self._source.name(i)
