"""Run-length codes of masks: Kaggle's, and both kinds of COCO.

Runs are `int64` arrays `(n, 2)` of positions `[start, stop)`. Positions are counted column by column,
`x * height + y`.
"""

import reprlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from keras_encnet.data.annotations.json_files import numbers

LONGEST = 7  # characters of one number in COCO's compressed counts: 35 bits


def kaggle_rle(mask: ArrayLike) -> str:
    """A mask as Kaggle's run-length code: "start length start length …".

    Positions are counted from 1, column by column.

    Args:
        mask: `(height, width)`, booleans or integers. Pixels that are not 0 are in the mask.

    Returns:
        The code; `""` for an empty mask.

    Raises:
        ValueError: if the mask has another shape.

    >>> mask = np.zeros((4, 3), bool)
    >>> mask[1:3, 0] = mask[0, 1] = True
    >>> kaggle_rle(mask)
    '2 2 5 1'
    """
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise ValueError(f"`mask` must have shape (height, width). Received: shape {mask.shape}")
    inside = np.zeros(mask.size + 2, "int8")
    inside[1:-1] = mask.T.ravel() != 0
    changes = np.flatnonzero(np.diff(inside))
    starts, stops = changes[0::2], changes[1::2]
    return " ".join(map(str, np.stack([starts + 1, stops - starts], axis=1).ravel().tolist()))


def from_kaggle_rle(text: str, height: int, width: int) -> np.ndarray:
    """The mask of Kaggle's run-length code.

    Args:
        text: the code, as `kaggle_rle` writes it. Runs may overlap, and have any order.
        height, width: size of the image in pixels.

    Returns:
        `bool` array `(height, width)`.

    Raises:
        ValueError: if the code has something else than pairs of numbers, or runs outside the image.

    >>> from_kaggle_rle("2 2 5 1", 4, 3).astype(int).tolist()
    [[0, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]
    """
    columns = np.zeros(height * width, bool)
    paint(columns, kaggle_runs(text, height, width), True)
    return from_columns(columns, height, width)


def kaggle_runs(text: str, height: int, width: int) -> np.ndarray:
    """The runs of Kaggle's run-length code; arguments and errors as for `from_kaggle_rle`.

    >>> kaggle_runs("2 2 5 1", 4, 3).tolist()
    [[1, 3], [4, 5]]
    """
    try:
        numbers = np.array(text.split(), "int64")
    except (ValueError, OverflowError):
        raise ValueError(
            f"A run-length code must have integers only. Received: {reprlib.repr(text)}"
        ) from None
    if len(numbers) % 2:
        raise ValueError(
            "A run-length code must have pairs of start and length. "
            f"Received: {len(numbers)} numbers, {reprlib.repr(text)}"
        )
    starts, lengths = numbers.reshape(-1, 2).T
    size = height * width
    outside = (starts < 1) | (starts > size) | (lengths < 0) | (lengths > size + 1 - starts)
    if outside.any():
        start, length = numbers.reshape(-1, 2)[outside][0]
        raise ValueError(
            f"Runs must lie within the {size} pixels of an image of {height}×{width} (height×width), "
            f"counted from 1. Received: start {start}, length {length}. Give the images that were "
            "annotated, not resized ones."
        )
    return np.stack([starts - 1, starts - 1 + lengths], axis=1)


def coco_runs(rle: Mapping, height: int, width: int) -> np.ndarray:
    """The runs of a mask in COCO's run-length code.

    Args:
        rle: `size`, `[height, width]`, and `counts`: the lengths of runs outside and inside the mask
            in turn, column by column, as a list, or compressed as a string.
        height, width: size of the image in pixels.

    Raises:
        ValueError: if `size` is another, or `counts` are invalid or do not fill the image.

    >>> coco_runs({"size": [4, 3], "counts": [1, 2, 1, 1, 7]}, 4, 3).tolist()
    [[1, 3], [4, 5]]
    >>> coco_runs({"size": [4, 3], "counts": "121O6"}, 4, 3).tolist()
    [[1, 3], [4, 5]]
    """
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width]:
        raise ValueError(
            f"The `size` of a run-length code must be that of the image, [{height}, {width}]. "
            f"Received: {reprlib.repr(size)}"
        )
    if isinstance(counts, str):
        counts = coco_counts(counts)
    elif isinstance(counts, list):
        counts = numbers(counts, "`counts`", "int64")
    else:
        raise ValueError(f"`counts` must be a list or a string. Received: {reprlib.repr(counts)}")
    pixels = height * width
    if (counts < 0).any() or (counts > pixels).any() or counts.sum() != pixels:
        raise ValueError(
            f"`counts` must be from 0 up, with a sum of {pixels}, the pixels of an image of "
            f"{height}×{width} (height×width). Received: {reprlib.repr(counts.tolist())}, a sum of "
            f"{sum(counts.tolist())}"
        )
    ends = np.cumsum(counts)
    return ends[: len(ends) // 2 * 2].reshape(-1, 2)


def coco_counts(text: str) -> np.ndarray:
    """The counts in COCO's compressed string: `int64` `(n,)`.

    Each number has characters of five bits, the lowest first, and from the fourth number on it is the
    difference from the number two before it.

    Raises:
        ValueError: if the string has other characters, or breaks off within a number.

    >>> coco_counts("121O6").tolist()
    [1, 2, 1, 1, 7]
    """
    codes = np.frombuffer(text.encode("utf-8", "replace"), "uint8").astype("int64") - 48
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1]).astype("int64")
    lengths = last - first + 1
    valid = (codes >= 0) & (codes < 64)
    complete = len(codes) == 0 or (len(last) > 0 and last[-1] == len(codes) - 1)
    if not valid.all() or not complete or (lengths > LONGEST).any():
        raise ValueError(
            "Compressed `counts` must be a string that pycocotools wrote. "
            f"Received: {reprlib.repr(text)}, {len(text)} characters"
        )
    if not len(codes):
        return codes
    place = np.arange(len(codes)) - np.repeat(first, lengths)
    counts = np.add.reduceat((codes & 31) << 5 * place, first)
    negative = codes[last] & 16 != 0
    counts[negative] -= 1 << 5 * lengths[negative]
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def paint(columns: np.ndarray, runs: np.ndarray, value: int) -> None:
    """Writes `value` into runs of `columns`, a mask `(width * height,)` column by column."""
    for start, stop in runs.tolist():
        columns[start:stop] = value


def from_columns(columns: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask `(height, width)` whose columns lie one after another in `columns`."""
    return np.ascontiguousarray(columns.reshape(width, height).T)
