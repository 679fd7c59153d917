"""Types of the command line's arguments: functions that parse a text. They import nothing heavy."""

import argparse
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
    """Parses `FROM:TO`.

    >>> value_pair("255:1")
    (255, 1)
    """
    match = re.fullmatch(r"(-?\d+):(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"must be FROM:TO, two integers such as 255:1, TO from 0 up. Received: {text!r}"
        )
    return int(match[1]), int(match[2])


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
