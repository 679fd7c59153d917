"""Exports of annotation tools with one mask file for each image: LabelMe's, CVAT's and Roboflow's."""

import csv
import os

import numpy as np

from keras_encnet.data.annotations.painted import IGNORED
from keras_encnet.data.conventions import IGNORE_INDEX, class_palette
from keras_encnet.data.file_pairs import FilePairs
from keras_encnet.data.folders import first_few, image_paths, result_name
from keras_encnet.data.image_files import open_image
from keras_encnet.data.nearby import found_nearby
from keras_encnet.data.pairs import Pairs

MASK_DIRECTORIES = ("SegmentationClassPNG", "SegmentationClass")  # the first holds masks if it exists
IMAGE_DIRECTORY = "JPEGImages"
LISTS = os.path.join("ImageSets", "Segmentation")
NAMES = "class_names.txt"
COLOURS = "labelmap.txt"
ROBOFLOW = "_classes.csv"
ROBOFLOW_SPLITS = ("train", "valid", "test")
ROBOFLOW_HEADER = ["pixel value", "class"]


def voc(root: str | os.PathLike, split: str | None = None) -> Pairs:
    """An export in the layout of PASCAL VOC, or Roboflow's masks, with their names and colours.

    Which one it is follows from the file that names the classes:

    - `class_names.txt` of labelme2voc, a name a line: palette files in `SegmentationClassPNG/` or
      `SegmentationClass/`, images in `JPEGImages/`. The line `__ignore__` is no class, and 255 is
      ignored. The colours are those of the mask files.
    - `labelmap.txt` of CVAT's "Segmentation mask 1.1", `name:red,green,blue::` a line: colour files in
      `SegmentationClass/`, images in `JPEGImages/` (export them with "Save images").
    - `_classes.csv` of Roboflow's "Semantic Segmentation Masks", headed `Pixel Value, Class`: files
      `x.jpg` and `x_mask.png` in `train/`, `valid/` and `test/`. The colours are the default ones.

    Args:
        root: the directory with `class_names.txt` or `labelmap.txt`, or with `train/` and the others.
            For Roboflow also one of these.
        split: the name of a list in `ImageSets/Segmentation/`, or of a directory of Roboflow.
            Default: all images that have masks.

    Returns:
        `Pairs` with labels and palette.

    Raises:
        FileNotFoundError: if `root` or a part of it is missing. The message names it.
        ValueError: if there is no such split, a mask has no image or an image of the list no mask, or a
            file of names is invalid. When a pair is read: as for `folder`.

    >>> import tempfile
    >>> from PIL import Image
    >>> here = tempfile.mkdtemp()
    >>> for directory, colour in (("JPEGImages", "white"), ("SegmentationClass", "red")):
    ...     os.mkdir(f"{here}/{directory}")
    ...     Image.new("RGB", (48, 32), colour).save(f"{here}/{directory}/a.png")
    >>> with open(f"{here}/labelmap.txt", "w") as file:
    ...     _ = file.write("# label:color_rgb:parts:actions\\nbackground:0,0,0::\\ncat:255,0,0::\\n")
    >>> pairs = voc(here)
    >>> pairs.labels, pairs.palette.tolist(), pairs[0][1][0, :3].tolist()
    (('background', 'cat'), [[0, 0, 0], [255, 0, 0]], [1, 1, 1])
    """
    root = os.fspath(root)
    if not os.path.isdir(root):
        raise FileNotFoundError(f"`root` must be a directory. Received: {root!r}, which is none")
    directories = _roboflow_directories(root)
    if directories:
        return _roboflow(root, directories, split)
    return _voc(root, split)


def voc_splits(root: str | os.PathLike) -> list[str]:
    """The names that `voc(root, split)` takes: lists, or directories of Roboflow.

    An export that is not divided has none.

    >>> import tempfile
    >>> here = tempfile.mkdtemp()
    >>> os.makedirs(f"{here}/ImageSets/Segmentation")
    >>> for name in ("val.txt", "train.txt", "._val.txt"):
    ...     open(f"{here}/ImageSets/Segmentation/{name}", "w").close()
    >>> voc_splits(here)
    ['train', 'val']
    """
    root = os.fspath(root)
    directories = _roboflow_directories(root)
    if directories:
        return [split for split in directories if split]
    lists = os.path.join(root, LISTS)
    files = sorted(os.listdir(lists)) if os.path.isdir(lists) else []
    return [file[:-4] for file in files if file.endswith(".txt") and not file.startswith(".")]


def _voc(root, split):
    """An export with directories of images, masks and lists."""
    listed = [file for file in (NAMES, COLOURS) if os.path.isfile(os.path.join(root, file))]
    if not listed:
        found = found_nearby(root, _is_root)
        remedy = (
            f"Give {found}, which has one."
            if found
            else (
                "For PASCAL VOC 2012 itself take `voc2012`; otherwise write "
                f"{NAMES!r}, the name of each class in a line, in label order."
            )
        )
        raise FileNotFoundError(
            f"`root` must have {NAMES!r}, {COLOURS!r} or {ROBOFLOW!r}, which names the classes. "
            f"Received: {root!r}, which has none of them. {remedy}"
        )
    masks = next((found for each in MASK_DIRECTORIES if (found := _files(root, each))), None)
    images = _files(root, IMAGE_DIRECTORY)
    for found, what in ((masks, " or ".join(MASK_DIRECTORIES)), (images, IMAGE_DIRECTORY)):
        if not found:
            raise FileNotFoundError(
                f"`root` must have image files in {what}. Received: {root!r}, which has none there. In "
                "CVAT export with 'Save images', or put the images there."
            )
    names = list(masks) if split is None else _split_names(root, split)
    lacking = [name for name in names if name not in masks]
    kind, having = ("a mask", masks) if lacking else ("an image", images)
    lacking = lacking or [name for name in names if name not in images]
    if lacking:
        directory = os.path.dirname(next(iter(having.values())))
        raise ValueError(
            f"Every name of {root!r}{'' if split is None else f', {split!r},'} must have {kind} in "
            f"{directory!r}. Received: {len(lacking)} of {len(names)} without, {first_few(lacking)}. "
            "Add the files, or leave out these names."
        )
    images, masks = [images[name] for name in names], [masks[name] for name in names]
    if listed[0] == COLOURS:
        return FilePairs(images, masks, names, **_colours(os.path.join(root, COLOURS)))
    labels = _class_names(os.path.join(root, NAMES))
    palette = class_palette(len(labels), _own_palette(masks[0], len(labels)))
    return FilePairs(images, masks, names, labels=labels, palette=palette)


def _is_root(directory):
    named = any(os.path.isfile(os.path.join(directory, file)) for file in (NAMES, COLOURS))
    return named or bool(_roboflow_directories(directory))


def _files(root, directory):
    """{name: path} of the image files below a directory, in natural order."""
    directory = os.path.join(root, directory)
    try:
        return _by_name(directory, os.path.join("**", "*"))
    except FileNotFoundError:
        return {}


def _by_name(directory, pattern):
    """{name: path} of the image files of a directory that match."""
    files = {}
    for path in map(os.fspath, image_paths(os.path.join(directory, pattern))):
        name = result_name(os.path.relpath(path, directory))
        if name in files:
            raise ValueError(
                f"File names must be unique without their endings. Received: {files[name]!r} and "
                f"{path!r}. Move one away."
            )
        files[name] = path
    return files


def _split_names(root, split):
    directory = os.path.join(root, LISTS)
    splits = voc_splits(root)
    if split not in splits:
        raise ValueError(
            f"`split` must be the name of a list in {directory!r}: "
            f"{', '.join(map(repr, splits)) or 'there is none'}. Received: {split!r}"
        )
    lines = _lines(os.path.join(directory, f"{split}.txt"))
    # CVAT puts names with spaces in quotes.
    names = list(dict.fromkeys(result_name(f"{line.strip(chr(34))}.") for line in lines))
    if not names:
        raise ValueError(f"The list of a split must have names. Received: {split!r} of {directory!r}")
    return names


def _class_names(path):
    names = [name for name in _lines(path) if name not in IGNORED]
    if not names:
        raise ValueError(f"{path!r} must have the name of a class in each line. Received: no names")
    return names


def _colours(path):
    """Labels and colours of CVAT's labelmap, as arguments of `FilePairs`."""
    labels, palette, ignored = [], [], {}
    for line in _lines(path):
        if line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        parts = rest.partition(":")[0].split(",")
        colour = tuple(int(part) for part in parts if part.strip().isdecimal())
        if len(colour) != 3 or max(colour) > 255:
            raise ValueError(
                f"Lines of {path!r} must be 'name:red,green,blue::', with numbers from 0 to 255. "
                f"Received: {line!r}"
            )
        if name in IGNORED:
            ignored[colour] = IGNORE_INDEX
        else:
            labels.append(name)
            palette.append(colour)
    if not labels:
        raise ValueError(f"{path!r} must have a class in each line. Received: no classes")
    return {"labels": labels, "palette": palette, "colours": palette, "label_map": ignored}


def _own_palette(mask, num_classes):
    """The first colours of a palette file, or `None` if they are not all different."""
    with open_image(mask) as image:
        if image.mode != "P":
            return None
        colours = np.array(image.getpalette("RGB"), "uint8").reshape(-1, 3)[:num_classes]
    return colours if len(np.unique(colours, axis=0)) == num_classes else None


def _roboflow_directories(root):
    """{split: directory} of Roboflow's export; {None: root} if `root` is one of its directories."""
    if os.path.isfile(os.path.join(root, ROBOFLOW)):
        return {None: root}
    directories = {split: os.path.join(root, split) for split in ROBOFLOW_SPLITS}
    return {
        split: directory
        for split, directory in directories.items()
        if os.path.isfile(os.path.join(directory, ROBOFLOW))
    }


def _roboflow(root, directories, split):
    if split is not None:
        wanted = "valid" if split == "val" else split
        if wanted not in directories:
            splits = ", ".join(repr(each) for each in directories if each) or "there is none"
            raise ValueError(
                f"`split` must be a directory of {root!r} with {ROBOFLOW!r}: {splits}. "
                f"Received: {split!r}"
            )
        directories = {wanted: directories[wanted]}
    all_labels = {each: _roboflow_labels(os.path.join(each, ROBOFLOW)) for each in directories.values()}
    (first, labels), *others = all_labels.items()
    for other, other_labels in others:
        if other_labels != labels:
            raise ValueError(
                f"{ROBOFLOW!r} must be the same in all directories. Received: {labels} in {first!r}, "
                f"{other_labels} in {other!r}. Read them one by one, by `split`."
            )
    images, masks = [], []
    for directory in directories.values():
        for image, mask in _roboflow_files(directory):
            images.append(image)
            masks.append(mask)
    names = [result_name(os.path.relpath(image, root)) for image in images]
    return FilePairs(images, masks, names, labels=labels, palette=class_palette(len(labels)))


def _roboflow_labels(path):
    header, *rows = [[cell.strip() for cell in row] for row in csv.reader(_lines(path))] or [[]]
    if [cell.lower() for cell in header] != ROBOFLOW_HEADER:
        raise ValueError(
            f"{path!r} must be headed 'Pixel Value, Class'. Received: {header}. In Roboflow export as "
            "'Semantic Segmentation Masks'."
        )
    values = [row[0] for row in rows]
    if values != [str(i) for i in range(len(rows))] or not rows or any(len(row) != 2 for row in rows):
        raise ValueError(
            f"{path!r} must have a pixel value and a class in each line, with values from 0 without "
            f"gaps. Received: the values {values}. Read other masks by `folder`, with a `label_map`."
        )
    return [row[1] for row in rows]


def _roboflow_files(directory):
    """(image, mask) of all images."""
    files = _by_name(directory, "*")
    images = {stem: path for stem, path in files.items() if not stem.endswith("_mask")}
    lacking = [path for stem, path in images.items() if f"{stem}_mask" not in files]
    lacking += [path for stem, path in files.items() if stem.removesuffix("_mask") not in images]
    if lacking:
        raise ValueError(
            f"Every image in {directory!r} must have a mask, 'x.jpg' and 'x_mask.png', and every mask "
            f"an image. Received: {len(lacking)} without, {first_few(lacking)}. Add the files or move "
            "these away."
        )
    return [(path, files[f"{stem}_mask"]) for stem, path in images.items()]


def _lines(path):
    """The lines of a text that are not empty."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line.strip() for line in file if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"Cannot read {path!r}: it must be a text in UTF-8 ({error}).") from error
