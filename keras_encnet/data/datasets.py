"""Public data sets on disk.

The table `datasets.json` says where their files are, and `_open` opens them. A data set with one mask
file for each image needs a row there, a function such as `camvid`, and an entry in `DATASETS` and in
`ROWS`.
"""

import functools
import glob
import os
import pathlib
from collections.abc import Callable

import numpy as np

from keras_encnet.data.dataset_table import list_datasets
from keras_encnet.data.file_pairs import FilePairs
from keras_encnet.data.folders import first_few, matching_files, result_name
from keras_encnet.data.pairs import Pairs

SAME_SPLITS = (("train", "training"), ("val", "validation"), ("test", "testing"))


def ade20k(root: str | os.PathLike, split: str = "train") -> Pairs:
    """ADE20K's scene parsing benchmark of 150 classes.

    Masks hold 1 to 150, which become 0 to 149. 0, "other", becomes 255 and is ignored.

    Args:
        root: `ADEChallengeData2016`, with `images/training/`, `annotations/training/` and so on.
        split: `"training"` (20,210 images) or `"validation"` (2,000), also `"train"` and `"val"`.

    Returns:
        `Pairs` with the names and colours of the classes.

    Raises:
        ValueError: if there is no such split; also as for `folder`.
        FileNotFoundError: if a part of the data set is missing. The message names it, and says where it
            is if it is found next to `root`.

    Source: Zhou et al. (2017), http://sceneparsing.csail.mit.edu

    >>> ade20k("ADEChallengeData2016", "test")
    Traceback (most recent call last):
    ...
    ValueError: `split` must be one of 'training', 'validation' for ADE20K. Received: 'test'
    """
    return _open(list_datasets()["ADE20K"], root, split)


def cityscapes(root: str | os.PathLike, split: str = "train") -> Pairs:
    """Cityscapes with the 19 classes of its benchmark; all other label ids become 255.

    Masks are `*_gtFine_labelIds.png`, or `*_gtFine_labelTrainIds.png` where only these exist. The masks
    of the test split are not published: it has images alone (`pairs.has_masks` is `False`).

    Args:
        root: the directory of `leftImg8bit/` and `gtFine/`.
        split: `"train"` (2,975 images), `"val"` (500) or `"test"` (1,525).

    Returns:
        `Pairs` with the names and colours of the classes. `pairs.name(i)` contains the city:
        `"bochum/bochum_000000_000313_leftImg8bit"`.

    Raises:
        As for `ade20k`.

    Source: Cordts et al. (2016), https://www.cityscapes-dataset.com

    >>> cityscapes("cityscapes", "trainval")
    Traceback (most recent call last):
    ...
    ValueError: `split` must be one of 'train', 'val', 'test' for Cityscapes. Received: 'trainval'
    """
    return _open(list_datasets()["Cityscapes"], root, split)


def voc2012(root: str | os.PathLike, split: str = "train") -> Pairs:
    """PASCAL VOC 2012: 20 classes and background. The borders of objects, 255, are ignored.

    The split `"trainaug"` is the augmented set of 10,582 images, by which results are usually trained.
    It needs two additions to the release: `ImageSets/Segmentation/trainaug.txt`, and
    `SegmentationClassAug/` with masks for the images that have none in `SegmentationClass/`.

    Args:
        root: `VOCdevkit/VOC2012`, with `JPEGImages/`, `SegmentationClass/` and `ImageSets/`.
        split: `"train"` (1,464 images), `"val"` (1,449), `"trainval"`, `"trainaug"`, or `"test"`, whose
            masks are not published (`pairs.has_masks` is `False`).

    Returns:
        `Pairs` with the names and colours of the classes. Palette files are read as label values.

    Raises:
        As for `ade20k`; also ValueError if an image of the split's list is missing, or its mask.

    Source: Everingham et al. (2012); Hariharan et al. (2011) for the augmented set.

    >>> voc2012("VOCdevkit/VOC2012", "aug")
    Traceback (most recent call last):
    ...
    ValueError: `split` must be one of 'train', 'val', 'trainval', 'trainaug', 'test' for PASCAL VOC...
    """
    return _open(list_datasets()["PASCAL VOC 2012"], root, split)


def pascal_context(root: str | os.PathLike, split: str = "train", *, background: bool = False) -> Pairs:
    """PASCAL-Context: 59 classes, or 60 with background.

    Masks hold 0 for background and 1 to 59 for the classes, which are in alphabetical order.

    Args:
        root: `VOCdevkit/VOC2010`, with `JPEGImages/`, `SegmentationClassContext/` and
            `ImageSets/SegmentationContext/`, which mmsegmentation's `pascal_context.py` writes.
        split: `"train"` or `"val"`.
        background: `False` ignores background and gives 0 to 58 to the classes; `True` makes it
            class 0.

    Returns:
        `Pairs` with the names and colours of the classes.

    Raises:
        As for `voc2012`.

    Source: Mottaghi et al. (2014), https://cs.stanford.edu/~roozbeh/pascal-context/

    >>> pascal_context("VOCdevkit/VOC2010", "test", background=True)
    Traceback (most recent call last):
    ...
    ValueError: `split` must be one of 'train', 'val' for PASCAL-Context. Received: 'test'
    """
    dataset = list_datasets()["PASCAL-Context"]
    return _open(_with_background(dataset) if background else dataset, root, split)


def camvid(root: str | os.PathLike, split: str = "train") -> Pairs:
    """CamVid in SegNet's layout: images in `train/`, masks in `trainannot/`, and so on.

    It has eleven classes. The twelfth mask value, void, becomes 255 and is ignored.

    Args:
        root: the directory that contains `train/` and the others.
        split: `"train"` (367 images), `"val"` (101) or `"test"` (233).

    Returns:
        `Pairs` with CamVid's labels and palette.

    Raises:
        As for `ade20k`.

    Source: Brostow, Fauqueur, Cipolla (2009), as prepared by Badrinarayanan, Kendall, Cipolla.

    >>> camvid("CamVid", "trainval")
    Traceback (most recent call last):
    ...
    ValueError: `split` must be one of 'train', 'val', 'test' for CamVid. Received: 'trainval'
    """
    return _open(list_datasets()["CamVid"], root, split)


DATASETS: dict[str, Callable[..., Pairs]] = {
    "ade20k": ade20k,
    "cityscapes": cityscapes,
    "voc2012": voc2012,
    "pascal_context": pascal_context,
    "pascal_context_60": functools.partial(pascal_context, background=True),
    "camvid": camvid,
}


ROWS = {  # of `list_datasets()`
    "ade20k": "ADE20K",
    "cityscapes": "Cityscapes",
    "voc2012": "PASCAL VOC 2012",
    "pascal_context": "PASCAL-Context",
    "pascal_context_60": "PASCAL-Context",
    "camvid": "CamVid",
}


def splits_with_masks(name: str) -> list[str]:
    """The splits of a data set in `DATASETS` whose masks are published.

    >>> splits_with_masks("cityscapes"), splits_with_masks("camvid")
    (['train', 'val'], ['train', 'val', 'test'])
    """
    dataset = list_datasets()[ROWS[name]]
    return [split for split in dataset.splits if split not in dataset.without_masks]


def open_dataset(name: str, root: str | os.PathLike, split: str = "train") -> Pairs:
    """Opens a data set by its name in `DATASETS`, for the command line.

    Raises:
        ValueError: if there is no such data set; also as for its function.
        FileNotFoundError: as for its function.

    >>> open_dataset("ade", "ADEChallengeData2016")
    Traceback (most recent call last):
    ...
    ValueError: `name` must be one of 'ade20k', 'cityscapes', 'voc2012', ... Received: 'ade'
    """
    if name not in DATASETS:
        raise ValueError(f"`name` must be one of {_listed(DATASETS)}. Received: {name!r}")
    return DATASETS[name](root, split)


def _open(dataset, root, split):
    root = os.fspath(root)
    dataset = _of_split(dataset, split)
    _check_root(dataset, root)
    if dataset.label_masks and not _has_files(root, dataset.masks):
        dataset = dataset._replace(masks=(dataset.label_masks,), label_map={})
    if dataset.names:
        names, images, masks = _listed_files(dataset, root)
    else:
        paths = [os.path.join(root, pattern) for pattern in (dataset.images, *dataset.masks)]
        names, images, masks = matching_files(*paths)
    return FilePairs(
        images,
        masks,
        names,
        labels=dataset.labels,
        label_map=dataset.label_map,
        palette=dataset.palette,
    )


def _of_split(dataset, split):
    """The row with the name of the split in its paths, and without masks if there are none."""
    wanted = next((names for names in SAME_SPLITS if split in names), (split,))
    split_name = next((each for each in dataset.splits if each in wanted), None)
    if split_name is None:
        raise ValueError(
            f"`split` must be one of {_listed(dataset.splits)} for {dataset.name}. Received: {split!r}"
        )
    without_masks = split_name in dataset.without_masks
    masks = () if without_masks else dataset.masks
    label_masks = None if without_masks else dataset.label_masks
    return dataset._replace(
        images=dataset.images.format(split=split_name),
        masks=tuple(mask.format(split=split_name) for mask in masks),
        label_masks=label_masks and label_masks.format(split=split_name),
        names=dataset.names and dataset.names.format(split=split_name),
    )


def _check_root(dataset, root):
    """Raises an error that names the part which `root` lacks, and says where the data set may be."""
    parts = [[dataset.names]] if dataset.names else []
    parts += [[_directory(dataset.images)]]
    parts += [[_directory(mask) for mask in dataset.masks]] if dataset.masks else []
    lacking = next((part for part in parts if not _has(root, part)), None)
    if lacking is None:
        return
    if not os.path.isdir(root):
        received = "which is not a directory"
    else:
        received = f"which does not have {'it' if len(lacking) == 1 else 'them'}"
    others = [other for other in _nearby(root) if all(_has(other, part) for part in parts)]
    files = filter(None, (dataset.names, dataset.images, " or ".join(dataset.masks)))
    remedy = (
        f"Pass {others[0]!r}, which is the root."
        if others
        else f"The layout expected, that of {dataset.release}, is: {', '.join(files)}."
    )
    raise FileNotFoundError(
        f"`root` must be the directory of {dataset.name} with {_listed(lacking, ' or ')} in it. "
        f"Received: {root!r}, {received}. {remedy}"
    )


def _has(root, part):
    return any(os.path.exists(os.path.join(root, path)) for path in part)


def _nearby(root):
    """Directories that people take for the root: up to two levels above, and below."""
    path = pathlib.Path(os.path.abspath(root))
    below = glob.glob("*/", root_dir=path) + glob.glob("*/*/", root_dir=path)
    return [*map(str, path.parents[:2]), *(str(path / directory) for directory in below)]


def _directory(pattern):
    """The path before the first component with a wildcard."""
    return pattern.partition("*")[0].rpartition("/")[0]


def _has_files(root, patterns):
    return any(glob.glob(pattern, root_dir=root) for pattern in patterns)


def _listed_files(dataset, root):
    """Names, images and masks of a data set whose splits are lists of names."""
    path = os.path.join(root, dataset.names)
    with open(path, encoding="utf-8") as lines:
        # Some lists of the augmented set have "/JPEGImages/1.jpg /SegmentationClassAug/1.png".
        words = [line.split()[0] for line in lines if line.strip()]
    names = [result_name(os.path.basename(word)) for word in words]
    images = _files_of(names, root, [dataset.images], f"an image for each name in {path!r}")
    masks = dataset.masks and _files_of(names, root, dataset.masks, f"a mask for each name in {path!r}")
    return names, images, masks or None


def _files_of(names, root, patterns, what):
    """The path of each name, in the first of the directories that has it."""
    found = {}
    for pattern in patterns:
        directory, file = os.path.split(os.path.join(root, pattern))
        files = set(os.listdir(directory)) if os.path.isdir(directory) else ()
        for name in names:
            if file.replace("*", name) in files:
                found.setdefault(name, os.path.join(directory, file.replace("*", name)))
    lacking = [name for name in names if name not in found]
    if lacking:
        raise ValueError(
            f"{' or '.join(patterns)} must have {what}. Received: {len(lacking)} of {len(names)} names "
            f"without a file, {first_few(lacking)}. Add the files to {root!r}, or remove the names "
            "from the list."
        )
    return [found[name] for name in names]


def _with_background(dataset):
    return dataset._replace(
        labels=("background", *dataset.labels),
        palette=np.array([dataset.background, *dataset.palette], "uint8"),
        values=(0, *dataset.values),
        label_map={},
    )


def _listed(names, separator=", "):
    return separator.join(map(repr, names))
