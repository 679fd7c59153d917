"""Kaggle's tables of run-length codes."""

import csv as csv_files
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence

from keras_encnet.data.annotations.json_files import no_file
from keras_encnet.data.annotations.painted import PaintedPairs, largest_first, number_classes
from keras_encnet.data.annotations.rle import kaggle_runs
from keras_encnet.data.folders import (
    IMAGE_ENDINGS,
    first_few,
    image_paths,
    natural_order,
    result_name,
)
from keras_encnet.data.nearby import images_elsewhere
from keras_encnet.data.pairs import Pairs

# Names of columns in competitions, without case and underscores. Others whose codes run along the rows
# ("segmentation", "annotation") are left out on purpose.
IMAGE_COLUMNS = ("imageid", "image", "img", "imgid", "id", "filename")
BOTH_COLUMNS = ("imageidclassid", "imagelabel")
CODE_COLUMNS = ("encodedpixels", "rlemask", "rle", "encoding")
CLASS_COLUMNS = ("classid", "class", "categoryid", "category", "label")
MOST_NAMES = 10  # classes in a message
EMPTY = ("", "-1", "nan")  # codes of images without the class

_csv_limit = threading.Lock()


def rle_csv(
    csv: str | os.PathLike,
    images: str | os.PathLike,
    *,
    labels: Sequence[str] | Mapping[str | int, str] | None = None,
    background: str | None = "background",
) -> Pairs:
    """Images with a CSV of Kaggle's run-length codes, as masks of classes.

    The columns are found by their names, whatever their case: the image (`ImageId`, `image`, `img`,
    `id`), the code (`EncodedPixels`, `rle_mask`, `rle`, `encoding`), and perhaps the class (`ClassId`,
    `class`, `category`, `label`). Columns `ImageId_ClassId` and `Image_Label` hold an image and,
    behind the last underscore, a class. Codes are start and length, counted from 1, column by column.

    An image may have several rows. Where they overlap, the smaller one is on top, and among equal ones
    the later one. An empty code, or -1, covers nothing, and its row may lack a class. Images that the
    CSV does not list are left out.

    Args:
        csv: the CSV file.
        images: the directory of the images. Names in the CSV may lack their ending, and have
            directories below this one.
        labels: class names in label order, as they are in the CSV; or a dict from the classes in the
            CSV to their names, `{1: "scratch", 2: "dent"}`. Default: the classes that occur, in natural
            order. Give them if a CSV may lack a class, so that all agree. Without a column of classes,
            the name of the only one: default `("foreground",)`.
        background: the name of class 0, which nothing covers; it need not be in `labels`. `None` if
            there is no such class: pixels that are uncovered are ignored.

    Returns:
        `Pairs` with labels and the default palette, in the order of the CSV.

    Raises:
        FileNotFoundError: if the CSV file or the images do not exist.
        ValueError: if a column is missing, or an image, or a class is not in `labels`. When a pair is
            read: if a code is invalid or lies outside the image. The message names the file and line.

    >>> import tempfile
    >>> from PIL import Image
    >>> here = tempfile.mkdtemp()
    >>> Image.new("RGB", (48, 32)).save(f"{here}/a.jpg")
    >>> with open(f"{here}/train.csv", "w") as file:
    ...     _ = file.write("ImageId,EncodedPixels\\na.jpg,34 2 65 1\\n")
    >>> pairs = rle_csv(f"{here}/train.csv", here, labels=["ship"])
    >>> image, mask = pairs[0]
    >>> pairs.labels, mask[:4, :3].tolist()
    (('background', 'ship'), [[0, 0, 1], [0, 1, 0], [0, 1, 0], [0, 0, 0]])
    """
    csv, directory = os.fspath(csv), os.fspath(images)
    rows = _rows(csv)
    names = _class_names(rows, labels, csv)
    classes = number_classes(list(dict.fromkeys(names.values())), background, repr(csv))
    files = _find_images(dict.fromkeys(image for _, image, _, _ in rows), directory, csv)
    by_file = defaultdict(list)
    for line, image, name, code in rows:
        codes = by_file[files[image]]
        if code:  # otherwise the class may be empty too
            codes.append((line, classes.value(names[name]), code))
    return _RleTable(csv, directory, by_file, classes)


class _RleTable(PaintedPairs):
    def __init__(self, csv, directory, by_file, classes):
        super().__init__(list(by_file), directory, classes)
        self._csv, self._rows = csv, list(by_file.values())

    def areas(self, i, height, width):
        areas = []
        for line, value, code in self._rows[i]:
            try:
                areas.append((value, kaggle_runs(code, height, width)))
            except ValueError as error:
                raise ValueError(f"Cannot read line {line} of {self.where(i)}: {error}") from error
        return largest_first(areas)

    def where(self, i):
        return f"{self._csv} (codes of {self._images[i]})"


def _rows(path):
    """(line, image, class, code) of each row; the class is `None` if there is no such column."""
    try:
        # The limit of 131,072 characters in a cell holds for the process.
        with _csv_limit, open(path, encoding="utf-8-sig", newline="") as file:
            limit = csv_files.field_size_limit(min(sys.maxsize, 2**31 - 1))
            try:
                reader = csv_files.reader(file)
                header = next(reader, [])
                lines = [(reader.line_num, row) for row in reader if row]
            finally:
                csv_files.field_size_limit(limit)
    except (FileNotFoundError, IsADirectoryError):
        raise no_file(path, ".csv") from None
    except (ValueError, csv_files.Error) as error:
        raise ValueError(f"Cannot read {path!r}: it must be a CSV file ({error}).") from error
    image, name, code, both = _columns(header, path)
    rows = []
    for line, row in lines:
        if len(row) != len(header):
            raise ValueError(
                f"Every line of {path!r} must have {len(header)} cells. Received: {len(row)} in line "
                f"{line}"
            )
        cell = row[image].strip()
        kind = None if name is None else row[name].strip()
        if both:
            cell, _, kind = cell.rpartition("_")
        text = row[code].strip()
        rows.append((line, cell, kind, "" if text.lower() in EMPTY else text))
    if not rows:
        raise ValueError(f"A CSV file must have a line or more below its header. Received: {path!r}")
    return rows


def _columns(header, path):
    """The places of image, class and code, and whether image and class are in one column."""
    plain = [name.strip().lower().replace("_", "") for name in header]

    def place(names):
        return next((plain.index(name) for name in names if name in plain), None)

    both = place(BOTH_COLUMNS)
    image = place(IMAGE_COLUMNS) if both is None else both
    code = place(CODE_COLUMNS)
    if image is None or code is None:
        raise ValueError(
            f"{path!r} must have a column of images, 'ImageId' for instance, and one of codes, "
            f"'EncodedPixels'. Received: the columns {header}. Rename them."
        )
    return image, None if both is not None else place(CLASS_COLUMNS), code, both is not None


def _class_names(rows, labels, path):
    """{class in the table: its name}, in label order."""
    # The row of an image without objects has no class.
    found = dict.fromkeys(name for _, _, name, code in rows if name != "" or code)
    if None in found:
        names = ["foreground"] if labels is None else list(labels)
        if isinstance(labels, Mapping) or len(names) != 1:
            raise ValueError(
                f"`labels` must have the name of one class, since {path!r} has no column of classes. "
                f"Received: {labels!r}"
            )
        return {None: names[0]}
    if labels is None:
        return {name: name for name in sorted(found, key=natural_order)}
    if isinstance(labels, Mapping):
        names = {str(key): name for key, name in labels.items()}
    else:
        names = {name: name for name in labels}
    unknown = sorted((name for name in found if name not in names), key=natural_order)
    if unknown:
        listed = ", ".join(map(repr, unknown[:MOST_NAMES])) + ", …" * (len(unknown) > MOST_NAMES)
        raise ValueError(
            f"Classes in {path!r} must be in `labels`, {list(names)}. Received: {listed}. "
            f"{_remedy(names, sorted(found, key=natural_order))}"
        )
    return names


def _remedy(names, found):
    """How to name the classes that were found."""
    given = list(names.values())
    if any(name in names for name in found):
        return "Add them."
    if len(given) != len(found):
        given = [f"name of {name}" for name in found]
    named = dict(zip((int(n) if n.isdecimal() else n for n in found), given, strict=True))
    return f"Name each class of the file: `labels={named}`."


def _find_images(names, directory, path):
    """{name: path} of the images, whose names may lack the ending."""
    if not os.path.isdir(directory):
        raise FileNotFoundError(
            f"`images` must be the directory of the images of {path!r}. Received: {directory!r}, which "
            f"is no directory.{_elsewhere(names, os.path.dirname(path))}"
        )
    files = defaultdict(list)
    for file in _files_below(directory):
        name = os.path.relpath(file, directory)
        for key in {result_name(f"{name}."), result_name(name)}:
            files[key].append(file)
    missing = [name for name in names if name not in files]
    if missing:
        remedy = _elsewhere(missing, directory)
        raise ValueError(
            f"Every image of {path!r} must exist in {directory!r}. Received: {len(missing)} of "
            f"{len(names)} missing, {first_few(missing)}."
            f"{remedy or ' Give `images`, the directory of the images that the CSV lists.'}"
        )
    several = [name for name in names if len(files[name]) > 1]
    if several:
        raise ValueError(
            f"Every image of {path!r} must have one file. Received: "
            f"{' and '.join(files[several[0]])} for {several[0]!r}. Move one away."
        )
    return {name: files[name][0] for name in names}


def _files_below(directory):
    try:
        return [os.fspath(path) for path in image_paths(os.path.join(directory, "**", "*"))]
    except FileNotFoundError:
        return []


def _elsewhere(names, directory):
    """Where images of these names are, if they are near a directory."""
    name = next(iter(names))
    files = [name, *(f"{name}{ending}" for ending in IMAGE_ENDINGS)]
    return images_elsewhere(
        directory, lambda place: any(os.path.isfile(os.path.join(place, file)) for file in files)
    )
