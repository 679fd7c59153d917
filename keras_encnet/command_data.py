"""From the command line's arguments about data to pairs."""

import argparse
import contextlib
import os
import re
import warnings

from keras_encnet import data
from keras_encnet.cli_types import TFDS
from keras_encnet.data.annotations import voc_splits
from keras_encnet.data.annotations.json_files import no_file
from keras_encnet.data.conventions import labels_difference
from keras_encnet.data.datasets import DATASETS, open_dataset, splits_with_masks

# Names of splits that people train on, validate on and test on, and of those that combine others.
TRAINING_SPLITS = ("train", "training")
VALIDATION_SPLITS = ("val", "valid", "validation")
TEST_SPLITS = ("test",)
COMBINED_SPLITS = ("trainval", "trainaug")


def training_pairs(arguments: argparse.Namespace) -> tuple[data.Pairs, data.Pairs | None]:
    """The pairs to train on, and those to validate on, or `None`.

    Raises:
        ValueError: if their class names differ; also as for the functions of `keras_encnet.data`.
        OSError: as for these.
    """
    if arguments.dataset:
        available = _splits(arguments)
        training = arguments.split or _first_of(TRAINING_SPLITS, available)
        pairs = _open(arguments, training)
        held_out = _held_out(arguments, training and _first_of(VALIDATION_SPLITS, available))
    else:
        pairs, held_out = _folder(arguments), _validation_folder(arguments)
    if arguments.val_share:
        pairs, held_out = data.random_split(pairs, arguments.val_share)
    if held_out is not None and held_out.labels != pairs.labels:
        received = labels_difference(
            pairs.labels, held_out.labels, ("in the training data", "in the validation data")
        )
        raise ValueError(
            "The class names of the validation data must be those of the training data, in the same "
            f"order. Received: {received}. {_remedy(arguments)}"
        )
    return pairs, held_out


def _remedy(arguments):
    if not arguments.annotations:
        return "Give both the same classes."
    if _is_table(arguments.annotations):
        return "Name the classes of both by --labels, with those that only one of them has."
    return (
        "Give both JSON files the same 'categories', with the same ids, also those that one does not "
        "use: export both from one project. Or leave --val-annotations out and give --val-share 0.2."
    )


def _held_out(arguments, default):
    if arguments.val_share:
        return None
    if arguments.val_split:
        return _open(arguments, arguments.val_split)
    try:
        return default and _open(arguments, default)
    except FileNotFoundError as error:
        warnings.warn(f"Training without validation. {error}", stacklevel=2)
        return None


def evaluation_pairs(arguments: argparse.Namespace) -> data.Pairs:
    """The pairs to evaluate on."""
    if not arguments.dataset:
        return _folder(arguments)
    return _open(
        arguments, arguments.split or _first_of(VALIDATION_SPLITS + TEST_SPLITS, _splits(arguments))
    )


def all_pairs(arguments: argparse.Namespace) -> dict[str, data.Pairs]:
    """All pairs, by the name of their split."""
    if not arguments.dataset:
        named = {"train": _folder(arguments), "val": _validation_folder(arguments)}
        return {name: pairs for name, pairs in named.items() if pairs is not None}
    # Images that are in two splits are a problem, but not those of "train" in "trainval".
    each = [split for split in _splits(arguments) if split not in COMBINED_SPLITS]
    splits = [arguments.split] if arguments.split else each or [None]
    found, lacking = {}, {}
    for split in splits:
        try:
            found[split or "all"] = _open(arguments, split)
        except FileNotFoundError as error:
            # A copy of a data set may lack a split.
            lacking[split] = error
    if not found:
        raise next(iter(lacking.values()))
    for split, error in lacking.items():
        warnings.warn(f"The split {split!r} is left out. {error}", stacklevel=2)
    return found


def _splits(arguments):
    """Names of splits that may be there; none of them for an export that is not divided."""
    if arguments.dataset in DATASETS:
        return splits_with_masks(arguments.dataset)
    if arguments.dataset == "voc":
        return voc_splits(arguments.root)
    if arguments.dataset == "labelme":
        # People keep a folder for each split.
        below = TRAINING_SPLITS + VALIDATION_SPLITS + TEST_SPLITS
        return [split for split in below if os.path.isdir(os.path.join(arguments.root, split))]
    return ["train"] if arguments.dataset.startswith(TFDS) else []


def _first_of(splits, available):
    return next((split for split in splits if split in available), None)


def _open(arguments, split):
    name, root = arguments.dataset, arguments.root
    if name in DATASETS:
        return open_dataset(name, root, split)
    if name == "voc":
        return data.voc(root, split)
    if name == "labelme":
        folder = root if split is None else os.path.join(root, split)
        with _renamed({"folder": "root"}):
            return data.labelme(folder, labels=arguments.labels)
    if split is None:
        raise ValueError("--split is required with a data set of TensorFlow Datasets. Received: none.")
    with _renamed({"data_dir": "root", "image": "image_feature", "mask": "mask_feature"}):
        return data.tfds(
            name.removeprefix(TFDS),
            split,
            data_dir=root,
            image=arguments.image_feature,
            mask=arguments.mask_feature,
            labels=arguments.labels,
            label_map=dict(arguments.label_map) or None,
        )


def _folder(arguments, prefix=""):
    images, masks, annotations = (
        getattr(arguments, f"{prefix}{name}") for name in ("images", "masks", "annotations")
    )
    if annotations is None:
        return data.folder(
            images,
            masks,
            labels=arguments.labels,
            label_map=dict(arguments.label_map) or None,
            palette=arguments.palette or None,
        )
    if os.path.isdir(annotations):
        raise no_file(annotations, ".json", ".csv")
    if _is_table(annotations):
        return data.rle_csv(annotations, images, labels=arguments.labels)
    if arguments.labels:
        raise ValueError("--labels must be left out: the JSON file names the classes.")
    return data.coco(annotations, images)


def _is_table(annotations):
    return os.path.splitext(annotations)[1].lower() == ".csv"


def _validation_folder(arguments):
    if not arguments.val_images:
        return None
    named = {name: f"val_{name}" for name in ("images", "masks", "annotations")}
    with _renamed(named):
        return _folder(arguments, "val_")


@contextlib.contextmanager
def _renamed(names):
    """Names arguments in errors as the command line does."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = str(error)
        for old, new in names.items():
            text = re.sub(rf"`{old}(?=[`=])", f"`{new}", text)
        if text == str(error):
            raise
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(text) from error
