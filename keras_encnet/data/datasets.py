"""Data sets of the papers: what `datasets.json` says of them, and how they are opened."""

import functools
import json
import os
import pathlib
from typing import NamedTuple

import numpy as np

from keras_encnet.data.folders import folder
from keras_encnet.data.pairs import Pairs


class Dataset(NamedTuple):
    """A row of `datasets.json`.

    - `labels`, a tuple of class names; `palette`, `uint8` `(num_classes, 3)`.
    - `terms`: the terms of use, as Markdown.
    - `label_map`: which values in the masks mean which labels, as `data.folder` takes it; void is 255.
    - `splits`: names of the splits; `images` and `masks`: their folders below the root, with
      `{split}` for the split.
    """

    name: str
    labels: tuple
    palette: np.ndarray
    terms: str | None = None
    label_map: dict | None = None
    splits: tuple = ()
    images: str | None = None
    masks: str | None = None


@functools.cache
def list_datasets() -> dict[str, Dataset]:
    """All rows, by name.

    >>> len(list_datasets()["ADE20K"].labels)
    150
    """
    rows = json.loads(pathlib.Path(__file__).with_name("datasets.json").read_text("utf-8"))
    return {name: _dataset(name, **row) for name, row in rows.items()}


def camvid(directory: str | os.PathLike, split: str = "train") -> Pairs:
    """CamVid in SegNet's layout: `train/` and `trainannot/`, `val/` and `valannot/`, and so on.

    There are eleven classes; the twelfth label, void, becomes 255 and is ignored.

    Args:
        directory: the folder that holds those.
        split: `"train"`, `"val"` or `"test"`.

    Returns:
        `Pairs` with CamVid's labels and palette.

    Raises:
        ValueError: for another split, and for what `folder` raises it.
        FileNotFoundError: if a folder of the layout is missing.

    Source: Brostow, Fauqueur, Cipolla (2009), as prepared by Badrinarayanan, Kendall, Cipolla.

    >>> camvid("CamVid", "training")
    Traceback (most recent call last):
    ...
    ValueError: `split` must be one of 'train', 'val', 'test' for CamVid. Received: 'training'
    """
    return _open("CamVid", directory, split)


def _open(name, root, split):
    """The images and masks of one split of a data set whose folders the table names."""
    dataset = list_datasets()[name]
    if split not in dataset.splits:
        raise ValueError(
            f"`split` must be one of {', '.join(map(repr, dataset.splits))} for {name}. "
            f"Received: {split!r}"
        )
    return folder(
        os.path.join(root, dataset.images.format(split=split)),
        os.path.join(root, dataset.masks.format(split=split)),
        labels=dataset.labels,
        label_map=dataset.label_map,
        palette=dataset.palette,
    )


def _dataset(name, *, labels, palette, label_map=None, splits=(), **others):
    return Dataset(
        name,
        tuple(labels),
        np.array(palette, "uint8"),
        # JSON has no numbers as keys.
        label_map=label_map and {int(value): label for value, label in label_map.items()},
        splits=tuple(splits),
        **others,
    )
