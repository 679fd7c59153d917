"""Types of the command line's arguments: functions that parse a text. They import nothing heavy."""

import argparse
import json
import math
import os
import pathlib
import re

# Without the import, `data.conventions.MIN_SIZE`, the names in `data.datasets.DATASETS`, and exports
# of annotation tools that are one directory.
MIN_SIDE = 32
DATASETS = ("ade20k", "cityscapes", "voc2012", "pascal_context", "pascal_context_60", "camvid")
EXPORTS = ("voc", "labelme")
OTHERWISE = {
    "folder": "--images DIR --masks DIR",
    "coco": "--images DIR --annotations FILE.json",
    "rle_csv": "--images DIR --annotations FILE.csv",
}
LOSSES = ("cross_entropy", "label_smoothing", "ohem", "focal", "dice", "lovasz")  # training.LOSSES
STAGES = ("stage1", "stage2", "stage3")  # of the backbone; the fourth is "backbone"
TFDS = "tfds/"  # before the name of a data set of TensorFlow Datasets


def integer(least, most=math.inf):
    """A function that parses an integer from `least` to `most`.

    >>> integer(1)("8")
    8
    """

    def parse(text):
        value = int(text) if re.fullmatch(r"[+-]?\d+", text) else None
        if value is None or not least <= value <= most:
            upper = f" to {most}" if most < math.inf else " up"
            raise argparse.ArgumentTypeError(
                f"must be an integer from {least}{upper}. Received: {text!r}"
            )
        return value

    return parse


def positive(text):
    """Parses a number above 0.

    >>> positive("1e-3")
    0.001
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0. Received: {text!r}")
    return value


def value_pair(text):
    """Parses `FROM:TO`, where `FROM` may be a colour.

    >>> value_pair("255:1"), value_pair("0,0,0:255")
    ((255, 1), ((0, 0, 0), 255))
    """
    match = re.fullmatch(r"(-?\d+|\d+,\d+,\d+):(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(
            "must be FROM:TO, two integers such as 255:1, or a colour and an integer, 0,0,0:255, TO "
            f"from 0 up. Received: {text!r}"
        )
    old, new = match.groups()
    return colour(old) if "," in old else int(old), int(new)


def colour(text):
    """Parses `RED,GREEN,BLUE` or `#RRGGBB`.

    >>> colour("128,64,128"), colour("#ff0000")
    ((128, 64, 128), (255, 0, 0))
    """
    if re.fullmatch("#[0-9a-fA-F]{6}", text):
        return tuple(bytes.fromhex(text[1:]))
    parts = text.split(",")
    levels = tuple(int(part) for part in parts if part.isdecimal())
    if len(levels) != 3 or len(parts) != 3 or max(levels) > 255:
        raise argparse.ArgumentTypeError(
            f"must be a colour, 128,64,128 or #804080 for instance. Received: {text!r}"
        )
    return levels


def class_names(text):
    """Parses names that are separated by commas.

    >>> class_names("sky, road")
    ['sky', 'road']
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(
            f"must be names separated by commas, such as sky,road,car. Received: {text!r}"
        )
    return names


def named_classes(text):
    """Parses names as `class_names` does, or pairs of a class and its name as a dict.

    >>> named_classes("sky,road"), named_classes("1:scratch,3:dent")
    (['sky', 'road'], {'1': 'scratch', '3': 'dent'})
    """
    pairs = [re.fullmatch(r"(\d+):(.+)", name) for name in class_names(text)]
    if not all(pairs):
        return class_names(text)
    named = {pair[1]: pair[2] for pair in pairs}
    if len(named) < len(pairs):
        raise argparse.ArgumentTypeError(f"must name each class once. Received: {text!r}")
    return named


def weighted_loss(text):
    """Parses `NAME` or `NAME:WEIGHT`.

    >>> weighted_loss("dice"), weighted_loss("dice:0.5")
    (('dice', 1.0), ('dice', 0.5))
    """
    name, colon, weight = text.partition(":")
    if name not in LOSSES:
        raise argparse.ArgumentTypeError(
            f"must be NAME or NAME:WEIGHT, with one of {', '.join(LOSSES)}. Received: {text!r}"
        )
    return name, positive(weight) if colon else 1.0


def setting(text):
    """Parses `NAME=VALUE`, where lists and numbers are as in JSON.

    >>> setting("momentum=0.8"), setting("scale=[1,2]"), setting("backbone=resnet18")
    (('momentum', 0.8), ('scale', (1, 2)), ('backbone', 'resnet18'))
    """
    name, equals, value = text.partition("=")
    if not (name.isidentifier() and equals):
        raise argparse.ArgumentTypeError(
            f"must be NAME=VALUE, momentum=0.8 for instance. Received: {text!r}"
        )
    try:
        value = json.loads(value)
    except ValueError:
        return name, value
    return name, tuple(value) if isinstance(value, list) else value


def probability(text):
    """Parses a number from 0 to 1.

    >>> probability("0")
    0.0
    """
    return 0.0 if re.fullmatch(r"0(\.0*)?", text) else 1.0 if text == "1" else share(text)


def share(text):
    """Parses a number between 0 and 1.

    >>> share("0.2")
    0.2
    """
    value = positive(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(
            f"must be between 0 and 1, 0.2 for instance. Received: {text!r}"
        )
    return value


def dataset(text):
    """The name of a data set."""
    text = text if text.startswith(TFDS) else text.lower()
    if text in OTHERWISE:
        raise argparse.ArgumentTypeError(f"is not for {text}. Use {OTHERWISE[text]}.")
    if text not in DATASETS + EXPORTS and not (text.startswith(TFDS) and len(text) > len(TFDS)):
        known = ", ".join(DATASETS + EXPORTS)
        raise argparse.ArgumentTypeError(
            f"must be one of {known}, or {TFDS}NAME for one of TensorFlow Datasets. Received: {text!r}"
        )
    return text


def directory(text):
    """A directory that exists, or can be made."""
    return _writable(text, pathlib.Path(text))


def file(text):
    """A file in a directory that exists, or can be made."""
    return _writable(text, pathlib.Path(text).parent)


def _writable(text, place):
    place = place.absolute()
    above = next(each for each in (place, *place.parents) if os.path.lexists(each))
    if not above.is_dir():
        raise argparse.ArgumentTypeError(
            f"must be in a directory. Received: {text!r}, where {above} is a file"
            if above != place
            else f"must be a directory. Received: {text!r}, a file"
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(
            f"must be in a directory that you can write to. Received: {text!r}, where {above} is not"
        )
    return text
