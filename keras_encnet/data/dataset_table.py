"""The table of public data sets, `datasets.json`: classes, colours, mask values and paths."""

import functools
import json
import pathlib
from typing import NamedTuple

import numpy as np

from keras_encnet.data.conventions import IGNORE_INDEX


class Dataset(NamedTuple):
    """A row of `datasets.json`.

    - `labels`: class names; `palette`: their colours, `uint8` `(num_classes, 3)`, RGB.
    - `values`: the mask value of each class, in label order. In the table, `first_value` stands for
      consecutive values, and 0 is the default of `first_value`.
    - `label_map`: maps mask values to labels, as in `data.folder`. The values that the table calls
      `ignored` map to 255.
    - `background`: colour of the mask value 0 where a task counts it as a class of its own.
    - `terms`: the terms of use, as Markdown.
    - `release`: what the authors call the files; for messages.
    - `splits`: names of the splits, and `without_masks` those whose masks are not published.
    - `images`: a directory or glob below the root, with `{split}` for the name of the split.
    - `masks`: the same; several where there are `names`. The mask of an image is the first that exists.
    - `label_masks`: the same for masks that hold labels already, used where there are no `masks`.
    - `names`: a text file below the root with the name of an image on each line, which is what `*`
      stands for in `images` and `masks`.
    """

    name: str
    labels: tuple[str, ...]
    palette: np.ndarray
    values: tuple[int, ...]
    label_map: dict[int, int]
    background: tuple[int, int, int] | None = None
    terms: str | None = None
    release: str | None = None
    splits: tuple[str, ...] = ()
    without_masks: tuple[str, ...] = ()
    images: str | None = None
    masks: tuple[str, ...] = ()
    label_masks: str | None = None
    names: str | None = None


@functools.cache
def list_datasets() -> dict[str, Dataset]:
    """All rows, by name.

    >>> len(list_datasets()["ADE20K"].labels)
    150
    >>> list_datasets()["Cityscapes"].values[:3]  # label ids of road, sidewalk, building
    (7, 8, 11)
    """
    rows = json.loads(pathlib.Path(__file__).with_name("datasets.json").read_text("utf-8"))
    return {name: _dataset(name, **row) for name, row in rows.items()}


def _dataset(
    name, *, labels, palette, values=None, first_value=0, ignored=(), splits=(), masks=(), **others
):
    values = tuple(values or range(first_value, first_value + len(labels)))
    without_masks = tuple(others.pop("without_masks", ()))
    return Dataset(
        name,
        tuple(labels),
        np.array(palette, "uint8"),
        values,
        {value: label for label, value in enumerate(values) if value != label}
        | dict.fromkeys(ignored, IGNORE_INDEX),
        splits=tuple(splits),
        without_masks=without_masks,
        masks=tuple(masks),
        **others,
    )
