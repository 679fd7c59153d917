"""Public data sets: the table `datasets.json`, and functions that open them.

A data set with one image and one mask file per pair takes a row with `splits`, `images` and `masks`,
and a function such as `camvid`.
"""

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

    - `labels`: class names; `palette`: their colours, `uint8` `(num_classes, 3)`, RGB.
    - `terms`: the terms of use, as Markdown.
    - `label_map`: maps mask values to labels, as in `data.folder`. Values without a class map to 255.
    - `splits`: names of the splits; `images` and `masks`: their directories or globs below the root,
      with `{split}` for the name of the split.
    """

    name: str
    labels: tuple[str, ...]
    palette: np.ndarray
    terms: str | None = None
    label_map: dict[int, int] | None = None
    splits: tuple[str, ...] = ()
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
    """CamVid in SegNet's layout: images in `train/`, masks in `trainannot/`, and so on.

    It has eleven classes. The twelfth mask value, void, becomes 255 and is ignored.

    Args:
        directory: the directory that contains `train/` and the others.
        split: `"train"`, `"val"` or `"test"`.

    Returns:
        `Pairs` with CamVid's labels and palette.

    Raises:
        ValueError: if there is no such split; also as for `folder`.
        FileNotFoundError: if a directory of the split is missing or has no images.

    Source: Brostow, Fauqueur, Cipolla (2009), as prepared by Badrinarayanan, Kendall, Cipolla.

    >>> camvid("CamVid", "training")
    Traceback (most recent call last):
    ...
    ValueError: `split` must be one of 'train', 'val', 'test' for CamVid. Received: 'training'
    """
    return _open("CamVid", directory, split)


def _open(name, directory, split):
    dataset = list_datasets()[name]
    if split not in dataset.splits:
        raise ValueError(
            f"`split` must be one of {', '.join(map(repr, dataset.splits))} for {name}. "
            f"Received: {split!r}"
        )
    return folder(
        os.path.join(directory, dataset.images.format(split=split)),
        os.path.join(directory, dataset.masks.format(split=split)),
        labels=dataset.labels,
        label_map=dataset.label_map,
        palette=dataset.palette,
    )


def _dataset(name, *, labels, palette, label_map=None, splits=(), **others):
    return Dataset(
        name,
        tuple(labels),
        np.array(palette, "uint8"),
        # The keys of a JSON object are strings.
        label_map=label_map and {int(value): label for value, label in label_map.items()},
        splits=tuple(splits),
        **others,
    )
